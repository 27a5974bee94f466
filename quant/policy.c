/* Vectors (biases, gains) are a thousandth of the bytes and stay f32; tables that are gathered by row have int8 rows. What
 * remains are matrices. A matrix gets what was asked for unless plain f16 rows would be smaller: a convolution over 4 channels, padded
 * to 32, or one with 4 rows in a panel of 16.
 *
 * Under an average (q4, q5, q8) upgrades are granted in the order of enum step, the cheapest first within each, as long as the
 * average holds. What cannot be told from a role is told by name: the layers behind a feed-forward's gate, whose inputs are the
 * widest spread (T5's wo); protecting them is worth most of what there is left to spend. */
#include "quant/policy.h"

#include <assert.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "quant/encode.h"

/* The promises less what the container adds: heads repeated in parts, padding between extents. */
static const double Q4_BITS = 4.48, Q5_BITS = 5.48, Q8_BITS = 8.48;

enum { SMALL_EDGE = 64 * 1024, SHALLOW = 32, SMALL_COMPONENT = 16 /* one part in */ };

enum step {
    POOR,         /* a tensor that would lose more than others do, as its sampled error says: one type finer */
    SHALLOW_F16,  /* depths below 32, which the rotation does not reach */
    EDGE_FINER,   /* first and last layers, time and modulation: one type finer */
    PART_FINER,   /* components that are a small part of the whole: next to a large text encoder a decoder costs one percent, and its
                     errors are seen as they are */
    EDGE_Q8,
    EDGE_F16,     /* small ones */
    PART_Q8,
    SENSITIVE     /* by name: one type finer */
};

static const char *const sensitive[] = {"*.DenseReluDense.wo.weight", "*.ff.net.2.weight", "*.ff_context.net.2.weight"};

/* Relative errors beyond which a tensor is poor, a little below what is promised: a sample is not the whole. */
static const double POOR_Q4 = 0.082, POOR_Q5 = 0.045, TOO_POOR_FOR_Q5 = 0.14; /* which has little more than half of q4's error */

static bool is_coded(weight_type type) { return type == TYPE_Q4 || type == TYPE_Q5; }

static weight_type finer(weight_type type) { return type == TYPE_Q4 ? TYPE_Q5 : TYPE_Q8; }

static double promised_bits(weight_type type) { return type == TYPE_Q4 ? Q4_BITS : type == TYPE_Q5 ? Q5_BITS : Q8_BITS; }

static bool is_sensitive(const char *name)
{
    for (size_t i = 0; i < sizeof sensitive / sizeof *sensitive; i++)
        if (fnmatch(sensitive[i], name, 0) == 0)
            return true;
    return false;
}

bool policy_type(const char *text, weight_type *out, status *st)
{
    const type_traits *t = type_by_name(text);
    if (!t || !type_writable(t->type) || t->type == TYPE_Q8_ROWS)
        return status_set(st, STATUS_USAGE, "%s: no such type; there are q4, q5, q8, f16, bf16, f32", text);
    *out = t->type;
    return true;
}

bool policy_rule(const char *text, type_rule *out, status *st)
{
    const char *equals = strrchr(text, '=');
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof out->glob)
        return status_set(st, STATUS_USAGE, "--tensor-type %s: must be GLOB=TYPE, as in 'vae/*=f16'", text);
    memcpy(out->glob, text, (size_t)(equals - text));
    out->glob[equals - text] = 0;
    return policy_type(equals + 1, &out->type, st);
}

static bool is_matrix(const policy_tensor *t) { return t->role != ROLE_VECTOR && t->role != ROLE_EMBEDDING; }

static double numbers(const policy_tensor *t) { return (double)t->matrix.rows * t->matrix.taps * t->matrix.depth; }

static double bytes_as(const policy_tensor *t, weight_type type)
{
    uint64_t bytes;
    return type_matrix_bytes(type, &t->matrix, &bytes) ? (double)bytes : 1e300; /* too deep for int32 sums: never the smaller one */
}

/* What a tensor becomes when `wanted` is asked for. */
static weight_type suitable(const policy_tensor *t, weight_type wanted)
{
    bool panels = type_of(wanted)->panels;
    if (t->role == ROLE_VECTOR)
        return panels || wanted == TYPE_Q8_ROWS ? TYPE_F32 : wanted;
    if (t->role == ROLE_EMBEDDING)
        return panels ? TYPE_Q8_ROWS : wanted;
    return panels && bytes_as(t, wanted) >= bytes_as(t, TYPE_F16) ? TYPE_F16 : wanted;
}

/* ---- rules ---- */

static bool matches(const type_rule *r, const policy_tensor *t)
{
    char name[512];
    size_t n = strlen(t->component), m = strlen(t->name);
    if (n + m + 2 > sizeof name)
        return false;
    memcpy(name, t->component, n);
    name[n] = '/';
    memcpy(name + n + 1, t->name, m + 1);
    return fnmatch(r->glob, *t->component ? name : name + 1, 0) == 0;
}

static bool apply_rule(const type_rule *r, policy_tensor *t, int count, status *st)
{
    const policy_tensor *matched = NULL, *served = NULL;
    for (int i = 0; i < count; i++) {
        if (!matches(r, &t[i]))
            continue;
        matched = &t[i];
        weight_type type = suitable(&t[i], r->type);
        if (type == r->type || type == TYPE_Q8_ROWS)
            served = &t[i];
        t[i].type = type;
        t[i].by_rule = true;
    }
    const char *type = type_of(r->type)->name;
    if (!matched)
        return status_set(st, STATUS_USAGE, "--tensor-type %s=%s: no tensor has such a name", r->glob, type);
    if (!served)
        return status_set(st, STATUS_USAGE, "--tensor-type %s=%s: %s cannot be %s: %s", r->glob, type, matched->name, type,
                          matched->role == ROLE_VECTOR ? "it is no matrix" : "padding would make it larger than f16");
    return true;
}

/* ---- upgrades ---- */

typedef struct upgrade {
    int tensor;
    enum step step;
    weight_type to;
    double cost; /* bytes */
} upgrade;

static int by_importance(const void *x, const void *y)
{
    const upgrade *a = x, *b = y;
    if (a->step != b->step)
        return (int)a->step - (int)b->step;
    if (a->cost != b->cost)
        return a->cost < b->cost ? -1 : 1;
    return a->tensor - b->tensor;
}

static void offer(upgrade *list, int *n, const policy_tensor *t, int i, enum step step, weight_type to)
{
    double cost = bytes_as(&t[i], to) - bytes_as(&t[i], t[i].type);
    if (to != t[i].type && cost > 0)
        list[(*n)++] = (upgrade){i, step, to, cost};
}

static void grant(const upgrade *list, int n, policy_tensor *t, double *room)
{
    for (int i = 0; i < n; i++) {
        policy_tensor *to = &t[list[i].tensor];
        double cost = bytes_as(to, list[i].to) - bytes_as(to, to->type); /* an earlier step may have paid a part */
        if (cost > 0 && cost <= *room) {
            *room -= cost;
            to->type = list[i].to;
        }
    }
}

/* Matrices' numbers in a component, or in all (NULL). */
static double numbers_in(const policy_tensor *t, int count, const char *component)
{
    double sum = 0;
    for (int i = 0; i < count; i++)
        if (is_matrix(&t[i]) && (!component || t[i].component == component || strcmp(t[i].component, component) == 0))
            sum += numbers(&t[i]);
    return sum;
}

enum { MOST_OFFERS = 8 }; /* for one tensor */

static void offer_all(upgrade *list, int *n, const policy_tensor *t, int i, bool small)
{
    const policy_tensor *x = &t[i];
    bool edge = x->role == ROLE_EDGE, coded = is_coded(x->type);
    weight_type one = suitable(x, finer(x->type)), q8 = suitable(x, TYPE_Q8);
    if (coded && x->error > (x->type == TYPE_Q4 ? POOR_Q4 : POOR_Q5))
        offer(list, n, t, i, POOR, x->error > TOO_POOR_FOR_Q5 ? q8 : one);
    if (x->matrix.depth < SHALLOW)
        offer(list, n, t, i, SHALLOW_F16, TYPE_F16);
    else if (edge && coded) {
        offer(list, n, t, i, EDGE_FINER, one);
        offer(list, n, t, i, EDGE_Q8, q8);
    }
    if (edge && numbers(x) <= SMALL_EDGE)
        offer(list, n, t, i, EDGE_F16, TYPE_F16);
    if (small && coded) {
        offer(list, n, t, i, PART_FINER, one);
        offer(list, n, t, i, PART_Q8, q8);
    }
    if (coded && is_sensitive(x->name))
        offer(list, n, t, i, SENSITIVE, one);
}

bool policy_protect(weight_type wanted, policy_tensor *t, int count, status *st)
{
    if (!type_of(wanted)->panels)
        return true;
    upgrade *list = mem_alloc((size_t)count * MOST_OFFERS + 1, sizeof *list, "policy", st);
    if (!list)
        return false;
    int n = 0;
    double room = 0, all = numbers_in(t, count, NULL);
    const char *component = NULL;
    bool small = false;
    for (int i = 0; i < count; i++) {
        if (!is_matrix(&t[i]) || t[i].by_rule)
            continue;
        if (component != t[i].component) {
            component = t[i].component;
            small = numbers_in(t, count, component) * SMALL_COMPONENT <= all;
        }
        room += numbers(&t[i]) * promised_bits(wanted) / 8 - bytes_as(&t[i], t[i].type);
        offer_all(list, &n, t, i, small);
    }
    qsort(list, (size_t)n, sizeof *list, by_importance);
    grant(list, n, t, &room);
    mem_free(list);
    return true;
}

bool policy_assign(weight_type wanted, const type_rule *rule, int rules, policy_tensor *t, int count, status *st)
{
    assert(type_writable(wanted));
    for (int i = 0; i < count; i++)
        if (!t[i].by_rule)
            t[i].type = t[i].role == ROLE_VECTOR ? TYPE_F32 : suitable(&t[i], wanted);
    for (int i = 0; i < rules; i++)
        if (!apply_rule(&rule[i], t, count, st))
            return false;
    return true;
}

double policy_bits(const policy_tensor *t, int count)
{
    double bytes = 0, all = 0;
    for (int i = 0; i < count; i++)
        if (is_matrix(&t[i])) {
            bytes += bytes_as(&t[i], t[i].type);
            all += numbers(&t[i]);
        }
    return all > 0 ? 8 * bytes / all : 0;
}
