/* Vectors (biases, gains) are a thousandth of the bytes and stay f32; tables that are gathered by row have int8 rows. What
 * remains are matrices. A matrix gets what was asked for unless plain f16 rows would be smaller: a convolution over 4 channels, padded
 * to 32, or one with 4 rows in a panel of 16.
 *
 * Under an average (q4, q5, q8) upgrades are granted in this order, the cheapest first within each step, as long as the average
 * holds: (1) depths below 32 to f16, which the rotation does not reach; (2) edges one type finer: first and last layers, time and
 * modulation; (3) small edges to f16; (4) q4 to q8 in components that are a small part of the whole: next to a large text encoder a
 * decoder costs one percent, and its errors are seen as they are. */
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
    int tensor, step;
    weight_type to;
    double cost; /* bytes */
} upgrade;

static int by_importance(const void *x, const void *y)
{
    const upgrade *a = x, *b = y;
    if (a->step != b->step)
        return a->step - b->step;
    if (a->cost != b->cost)
        return a->cost < b->cost ? -1 : 1;
    return a->tensor - b->tensor;
}

static void offer(upgrade *list, int *n, const policy_tensor *t, int i, int step, weight_type to)
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

static bool protect(weight_type wanted, policy_tensor *t, int count, status *st)
{
    upgrade *list = mem_alloc((size_t)count * 3 + 1, sizeof *list, "policy", st);
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
        room += numbers(&t[i]) * (wanted == TYPE_Q4 ? Q4_BITS : wanted == TYPE_Q5 ? Q5_BITS : Q8_BITS) / 8 - bytes_as(&t[i], t[i].type);
        if (t[i].matrix.depth < SHALLOW)
            offer(list, &n, t, i, 1, TYPE_F16);
        else if (t[i].role == ROLE_EDGE && wanted != TYPE_Q8)
            offer(list, &n, t, i, 2, suitable(&t[i], TYPE_Q8));
        if (t[i].role == ROLE_EDGE && numbers(&t[i]) <= SMALL_EDGE)
            offer(list, &n, t, i, 3, TYPE_F16);
        if (small && t[i].type != TYPE_Q8)
            offer(list, &n, t, i, 4, suitable(&t[i], TYPE_Q8));
    }
    qsort(list, (size_t)n, sizeof *list, by_importance);
    grant(list, n, t, &room);
    mem_free(list);
    return true;
}

bool policy_choose(weight_type wanted, const type_rule *rule, int rules, policy_tensor *t, int count, status *st)
{
    assert(type_writable(wanted));
    for (int i = 0; i < count; i++) {
        t[i].type = t[i].role == ROLE_VECTOR ? TYPE_F32 : suitable(&t[i], wanted);
        t[i].by_rule = false;
    }
    for (int i = 0; i < rules; i++)
        if (!apply_rule(&rule[i], t, count, st))
            return false;
    return !type_of(wanted)->panels || protect(wanted, t, count, st);
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
