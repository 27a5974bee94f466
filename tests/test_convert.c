/* Which type a tensor gets, random weights, and the way from a source to a container. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "quant/convert.h"
#include "quant/encode.h"
#include "quant/policy.h"
#include "quant/random.h"
#include "quant/round.h"
#include "weights/pack.h"

/* ---- numbers to quantize ---- */

static uint64_t state = 1;

static double uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(state >> 11) + 0.5) / 9007199254740992.0;
}

static float gaussian(void) { return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform())); }

static size_t numbers(matrix_shape m) { return (size_t)m.rows * (size_t)m.taps * (size_t)m.depth; }

static double relative(const float *a, const float *b, size_t n)
{
    double error = 0, energy = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        energy += (double)a[i] * a[i];
    }
    return sqrt(error / energy);
}

/* ---- the policy ---- */

static policy_tensor tensor(const char *name, weight_role role, int64_t rows, int taps, int depth)
{
    return (policy_tensor){.component = "unet", .name = name, .role = role, .matrix = {rows, taps, depth}};
}

static bool choose(weight_type wanted, const type_rule *rule, int rules, policy_tensor *t, int count, status *st)
{
    for (int i = 0; i < count; i++)
        t[i].by_rule = false;
    return policy_assign(wanted, rule, rules, t, count, st) && policy_protect(wanted, t, count, st);
}

/* A transformer of narrow layers with a convolution in front: 5 million numbers. */
static int small_model(policy_tensor *t, int width)
{
    static char names[400][24];
    int n = 0;
    t[n++] = tensor("proj_in.weight", ROLE_EDGE, width, 4, 8);
    t[n++] = tensor("time.weight", ROLE_EDGE, width, 1, 256);
    t[n++] = tensor("adaln.weight", ROLE_EDGE, 6 * width, 1, width);
    t[n++] = tensor("token.weight", ROLE_EMBEDDING, 1024, 1, width);
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 10; k++) {
            snprintf(names[n], sizeof names[n], "block.%d.%d.%s", i, k, k < 8 ? "weight" : "bias");
            int wide = k == 6 || k == 7 ? 4 : 1;
            t[n] = k < 8 ? tensor(names[n], ROLE_LINEAR, k == 6 ? width * wide : width, 1, k == 7 ? width * wide : width)
                         : tensor(names[n], ROLE_VECTOR, 1, 1, width);
            n++;
        }
    t[n++] = tensor("vae.conv.weight", ROLE_CONV, 64, 9, 64);
    t[n++] = tensor("vae.narrow.weight", ROLE_CONV, 16, 9, 16);
    t[n++] = tensor("vae.out.weight", ROLE_EDGE, 3, 9, 16);
    t[n++] = tensor("proj_out.weight", ROLE_EDGE, 32, 1, width);
    return n;
}

static const policy_tensor *find(const policy_tensor *t, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(t[i].name, name) == 0)
            return &t[i];
    return NULL;
}

Test(policy, averages_hold_for_narrow_models)
{
    for (int width = 192; width <= 384; width += 32) {
        policy_tensor t[400];
        status st = STATUS_INIT;
        int n = small_model(t, width);
        cr_assert(choose(TYPE_Q4, NULL, 0, t, n, &st));
        cr_assert_leq(policy_bits(t, n), 4.5, "width %d: %g", width, policy_bits(t, n));
        cr_assert_eq(find(t, n, "token.weight")->type, TYPE_Q8_ROWS);
        cr_assert_eq(find(t, n, "block.3.9.bias")->type, TYPE_F32);
        cr_assert_eq(find(t, n, "block.3.1.weight")->type, TYPE_Q4);
        cr_assert_eq(find(t, n, "proj_in.weight")->type, TYPE_F16); /* padded from 8 to 32 it would be larger */
        cr_assert_eq(find(t, n, "vae.out.weight")->type, TYPE_F16);
        cr_assert_eq(find(t, n, "vae.narrow.weight")->type, TYPE_F16);
        cr_assert(find(t, n, "proj_out.weight")->type != TYPE_Q4);
        cr_assert(choose(TYPE_Q5, NULL, 0, t, n, &st));
        cr_assert_leq(policy_bits(t, n), 5.5);
        cr_assert_eq(find(t, n, "block.3.1.weight")->type, TYPE_Q5);
        cr_assert(choose(TYPE_Q8, NULL, 0, t, n, &st));
        cr_assert_leq(policy_bits(t, n), 8.5);
        cr_assert_eq(find(t, n, "block.3.1.weight")->type, TYPE_Q8);
    }
}

Test(policy, edges_are_protected_while_the_average_holds)
{
    status st = STATUS_INIT;
    policy_tensor t[64];
    for (int i = 0; i < 64; i++) /* a third of the numbers are modulation: not all of it can be finer */
        t[i] = tensor("w", i % 3 ? ROLE_LINEAR : ROLE_EDGE, 1024, 1, 1024);
    cr_assert(choose(TYPE_Q4, NULL, 0, t, 64, &st));
    int finer = 0;
    for (int i = 0; i < 64; i++)
        finer += t[i].type == TYPE_Q5;
    cr_assert(finer > 10 && finer < 15, "%d", finer);
    cr_assert_eq(t[0].type, TYPE_Q5); /* the first in use come first */
    cr_assert(policy_bits(t, 64) <= 4.5 && policy_bits(t, 64) > 4.39);
}

Test(policy, what_would_suffer_comes_first)
{
    status st = STATUS_INIT;
    policy_tensor t[64];
    for (int i = 0; i < 64; i++)
        t[i] = tensor("w", i % 3 ? ROLE_LINEAR : ROLE_EDGE, 1024, 1, 1024);
    t[40].error = 0.09f;
    t[41].error = 0.2f;
    t[43].error = 0.07f;
    cr_assert(choose(TYPE_Q4, NULL, 0, t, 64, &st));
    cr_assert(t[40].type == TYPE_Q5 && t[41].type == TYPE_Q8 && t[43].type == TYPE_Q4);
    cr_assert_leq(policy_bits(t, 64), 4.5);
}

/* T5-XXL's encoder: all of wo a type finer, and no more bytes than promised. */
Test(policy, layers_behind_the_gate_are_finer)
{
    static char names[24 * 7][64];
    static policy_tensor t[24 * 7 + 1];
    const char *const kinds[] = {"0.SelfAttention.q", "0.SelfAttention.k", "0.SelfAttention.v", "0.SelfAttention.o",
                                 "1.DenseReluDense.wi_0", "1.DenseReluDense.wi_1", "1.DenseReluDense.wo"};
    status st = STATUS_INIT;
    int n = 0;
    for (int i = 0; i < 24; i++)
        for (int k = 0; k < 7; k++, n++) {
            snprintf(names[n], sizeof names[n], "encoder.block.%d.layer.%s.weight", i, kinds[k]);
            t[n] = tensor(names[n], ROLE_LINEAR, k == 4 || k == 5 ? 10240 : 4096, 1, k == 6 ? 10240 : 4096);
        }
    t[n++] = tensor("shared.weight", ROLE_EMBEDDING, 32128, 1, 4096);
    cr_assert(choose(TYPE_Q4, NULL, 0, t, n, &st));
    uint64_t bytes = 0, one;
    for (int i = 0; i < n; i++) {
        if (i < n - 1)
            cr_assert_eq(t[i].type, i % 7 == 6 ? TYPE_Q5 : TYPE_Q4, "%s", t[i].name);
        cr_assert(type_matrix_bytes(t[i].type, &t[i].matrix, &one));
        bytes += one;
    }
    cr_assert(policy_bits(t, n) <= 4.5 && bytes <= 2750000000, "%g bits, %zu bytes", policy_bits(t, n), (size_t)bytes);
}

Test(policy, small_components_are_finer_while_the_average_holds)
{
    status st = STATUS_INIT;
    policy_tensor t[101];
    for (int i = 0; i < 101; i++) {
        t[i] = tensor("w", ROLE_LINEAR, 4096, 1, 4096);
        t[i].component = i < 97 ? "text_encoder" : "vae";
    }
    cr_assert(choose(TYPE_Q4, NULL, 0, t, 101, &st));
    for (int i = 0; i < 101; i++)
        cr_assert_eq(t[i].type, i < 97 ? TYPE_Q4 : TYPE_Q8);
    cr_assert_leq(policy_bits(t, 101), 4.5);
}

Test(policy, plain_types)
{
    status st = STATUS_INIT;
    policy_tensor t[400];
    int n = small_model(t, 256);
    cr_assert(choose(TYPE_BF16, NULL, 0, t, n, &st));
    for (int i = 0; i < n; i++)
        cr_assert_eq(t[i].type, t[i].role == ROLE_VECTOR ? TYPE_F32 : TYPE_BF16);
    cr_assert_eq(policy_bits(t, n), 16);
}

Test(policy, rules)
{
    status st = STATUS_INIT;
    policy_tensor t[400];
    int n = small_model(t, 256);
    type_rule rule[2];
    cr_assert(policy_rule("unet/block.*=q8", &rule[0], &st) && policy_rule("*/block.7.*=f16", &rule[1], &st));
    cr_assert(choose(TYPE_Q4, rule, 2, t, n, &st), "%s", st.text);
    cr_assert_eq(find(t, n, "block.3.1.weight")->type, TYPE_Q8);
    cr_assert_eq(find(t, n, "block.3.9.bias")->type, TYPE_F32); /* among others: no error */
    cr_assert_eq(find(t, n, "block.7.1.weight")->type, TYPE_F16);
    cr_assert_eq(find(t, n, "vae.conv.weight")->type, TYPE_Q4);
    const char *wrong[] = {"", "=q4", "unet/*", "unet/*=q6", "unet/*=q8_rows", "unet/*=i8"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        st = (status)STATUS_INIT;
        cr_assert_not(policy_rule(wrong[i], &rule[0], &st));
        cr_assert_eq(st.code, STATUS_USAGE);
    }
    const char *useless[] = {"nothing*=q4", "*bias=q4", "unet/proj_in.weight=q8"};
    const char *says[] = {"no tensor has such a name", "no matrix", "larger than f16"};
    for (int i = 0; i < 3; i++) {
        st = (status)STATUS_INIT;
        cr_assert(policy_rule(useless[i], &rule[0], &st));
        cr_assert_not(choose(TYPE_Q4, rule, 1, t, n, &st));
        cr_assert(st.code == STATUS_USAGE && strstr(st.text, says[i]), "%s", st.text);
    }
    st = (status)STATUS_INIT;
    cr_assert(policy_rule("*token*=q4", &rule[0], &st) && choose(TYPE_F16, rule, 1, t, n, &st));
    cr_assert_eq(find(t, n, "token.weight")->type, TYPE_Q8_ROWS);
}

/* ---- random weights ---- */

Test(random, numbers_depend_on_their_place_alone)
{
    matrix_shape m = {100, 1, 4096};
    random_tensor t = random_of(7, "unet", "w", ROLE_LINEAR, &m), other = random_of(8, "unet", "w", ROLE_LINEAR, &m);
    float all[1001], part[1001], more[1001];
    random_fill(&t, 0, 1001, all);
    for (size_t first = 0; first < 1001; first += 77)
        random_fill(&t, first, 1001 - first < 77 ? 1001 - first : 77, part + first);
    cr_assert_arr_eq(all, part, sizeof all);
    random_fill(&other, 0, 1001, more);
    cr_assert(memcmp(all, more, sizeof all) != 0);
    random_tensor gain = random_of(7, "unet", "norm.weight", ROLE_VECTOR, &(matrix_shape){1, 1, 64});
    cr_assert_eq(gain.mean, 1);
}

Test(random, moments)
{
    status st = STATUS_INIT;
    matrix_shape m = {1000, 1, 1024};
    random_tensor t = random_of(7, "unet", "w", ROLE_LINEAR, &m);
    float *x = mem_alloc(1024000, sizeof *x, "test", &st);
    random_fill(&t, 0, 1024000, x);
    double mean = 0, square = 0, fourth = 0, lag = 0;
    for (int i = 0; i < 1024000; i++) {
        double y = 32 * (double)x[i];
        mean += y / 1024000;
        square += y * y / 1024000;
        fourth += y * y * y * y / 1024000;
        lag += i ? y * 32 * x[i - 1] / 1024000 : 0;
    }
    cr_assert(fabs(mean) < 0.004 && fabs(square - 1) < 0.005 && fabs(fourth - 2.7) < 0.05 && fabs(lag) < 0.004, "%g %g %g %g", mean, square, fourth, lag);
    mem_free(x);
}

/* ---- the converter ---- */

enum { MOST_TENSORS = 12 };

typedef struct fake_model { /* a folder's source, in memory */
    source s;
    weight weight[MOST_TENSORS];
    weight_part part[MOST_TENSORS];
    plan plan;
    plan_use use[MOST_TENSORS + 2];
    const char *component[1];
    io *file[1];
    uint8_t *data;
    size_t bytes;
} fake_model;

static int64_t read_fake(void *ctx, uint64_t offset, void *out, size_t bytes)
{
    const fake_model *f = ctx;
    memcpy(out, f->data + offset, bytes);
    return (int64_t)bytes;
}

static void add(fake_model *f, const char *name, weight_type type, weight_role role, int64_t rows, int taps, int depth)
{
    status st = STATUS_INIT;
    int n = f->s.weights++;
    weight *w = &f->weight[n];
    size_t count = (size_t)rows * (size_t)taps * (size_t)depth, bytes = count * (size_t)type_of(type)->element_bytes;
    *w = (weight){.component = "unet", .name = name, .type = type, .dims = 2, .matrix = {rows, taps, depth}, .oihw = taps > 1, .error = NAN,
                  .parts = 1, .part = &f->part[n]};
    w->shape[0] = rows;
    w->shape[1] = depth * taps;
    f->part[n] = (weight_part){f->bytes, bytes, 0, rows, -1};
    f->data = mem_resize(f->data, f->bytes + bytes + 1, 1, "test", &st);
    for (size_t i = 0; i < count; i++) {
        float x = gaussian();
        uint16_t half = type == TYPE_F16 ? f16_of(x) : bf16_of(x);
        if (type == TYPE_F32)
            memcpy(f->data + f->bytes + 4 * i, &x, 4);
        else
            memcpy(f->data + f->bytes + 2 * i, &half, 2);
    }
    f->bytes += bytes;
    f->use[f->plan.uses++] = (plan_use){.weight = w, .role = role, .matrix = w->matrix};
}

static void fake(fake_model *f)
{
    status st = STATUS_INIT;
    static const io_vtable reading = {read_fake, NULL};
    *f = (fake_model){.component = {"unet"}};
    state = 5;
    add(f, "token.weight", TYPE_F16, ROLE_EMBEDDING, 300, 1, 64);
    add(f, "conv_in.weight", TYPE_F32, ROLE_EDGE, 64, 9, 4);
    add(f, "a.weight", TYPE_BF16, ROLE_LINEAR, 1100, 1, 1024);
    add(f, "a.bias", TYPE_F16, ROLE_VECTOR, 1, 1, 2501); /* an odd count: what follows is not aligned to 4 */
    add(f, "conv.weight", TYPE_F16, ROLE_CONV, 50, 9, 320);
    add(f, "b.weight", TYPE_F32, ROLE_LINEAR, 40, 1, 96);
    f->use[f->plan.uses++] = f->use[2]; /* used twice, written once */
    f->plan.use = f->use;
    f->plan.stage = "unet";
    add(f, "unused.weight", TYPE_F32, ROLE_LINEAR, 4, 1, 4);
    f->plan.uses--;
    f->s = (source){.path = (char *)(uintptr_t) "fake", .files = 1, .file = f->file, .components = 1, .component = f->component, .weights = f->s.weights, .weight = f->weight};
    f->file[0] = io_custom("fake", f->bytes, &reading, f, &st);
    cr_assert(f->file[0], "%s", st.text);
}

static void fake_free(fake_model *f)
{
    io_close(f->file[0]);
    mem_free(f->data);
}

static char *temporary(const char *name)
{
    status st = STATUS_INIT;
    return mem_format(&st, "/tmp/penstock-quant-%ld-%s", (long)getpid(), name);
}

static uint64_t report_hash; /* of the container converted last */

/* One container; its bytes. */
static uint8_t *converted(const fake_model *f, weight_type type, int threads, uint64_t memory, convert_report *report, size_t *bytes)
{
    status st = STATUS_INIT;
    char *out = temporary("m");
    convert_component c = {.name = "unet", .plan = &f->plan};
    convert_request q = {.from = &f->s, .out = out, .type = type, .components = 1, .component = &c, .threads = threads, .memory_bytes = memory};
    cr_assert(convert(&q, report, &st), "%s", st.text);
    source *s = source_open_pack(out, &st);
    cr_assert(s && pack_verify(s, NULL, NULL, &st), "%s", st.text);
    *bytes = (size_t)io_size(s->file[0]);
    report_hash = s->hash;
    cr_assert_eq(report->file_bytes, *bytes);
    uint8_t *data = mem_alloc(*bytes, 1, "test", &st);
    cr_assert(io_read(s->file[0], 0, data, *bytes, &st));
    source_close(s);
    unlink(out);
    mem_free(out);
    return data;
}

Test(convert, bytes_depend_on_neither_threads_nor_memory)
{
    const weight_type types[] = {TYPE_Q4, TYPE_Q5, TYPE_Q8, TYPE_F16, TYPE_F32};
    fake_model f;
    fake(&f);
    for (int t = 0; t < 5; t++) {
        size_t bytes, again;
        convert_report report;
        uint8_t *first = converted(&f, types[t], 1, 0, &report, &bytes);
        cr_assert(report.tensors == 6 && report.unused == 1 && strcmp(report.unused_weight[0]->name, "unused.weight") == 0);
        cr_assert(types[t] != TYPE_Q4 || (report.bits <= 4.5 && report.error < 0.075), "%g bits, error %g", report.bits, report.error);
        convert_report_free(&report);
        for (int threads = 2; threads <= 5; threads += 3) {
            uint8_t *second = converted(&f, types[t], threads, threads == 2 ? 24 << 20 : 0, &report, &again);
            convert_report_free(&report);
            cr_assert(again == bytes && memcmp(first, second, bytes) == 0, "%s with %d threads", type_of(types[t])->name, threads);
            mem_free(second);
        }
        mem_free(first);
    }
    fake_free(&f);
    cr_assert_eq(mem_in_use(), 0);
}

/* The numbers of a tensor of a container, turned back, as f32 [rows][taps][depth]. */
static float *numbers_in(const source *s, const char *name)
{
    status st = STATUS_INIT;
    const weight *w = source_find(s, "unet", name);
    const kernels *k = kernels_best();
    size_t row = (size_t)w->matrix.taps * (size_t)w->matrix.depth, unit = type_unit_bytes(w->type, &w->matrix);
    int step = type_unit_rows(w->type);
    float *out = mem_alloc(numbers(w->matrix), sizeof *out, "test", &st);
    void *tmp = mem_alloc(type_panel_tmp_bytes(&w->matrix), 1, "test", &st);
    for (int p = 0; p < w->parts; p++) {
        uint8_t *data = mem_alloc(w->part[p].bytes, 1, "test", &st);
        cr_assert(io_read(s->file[0], w->part[p].offset, data, w->part[p].bytes, &st));
        for (int64_t r = 0; r < w->part[p].rows; r += step)
            type_to_f32(k, w->type, &w->matrix, false, data, data + type_head_bytes(w->type) + (size_t)(r / step) * unit,
                        w->part[p].rows - r < step ? (int)(w->part[p].rows - r) : step, tmp, out + (size_t)(w->part[p].first_row + r) * row);
        mem_free(data);
    }
    for (float *x = out; w->rotation_log2 && x < out + numbers(w->matrix); x += w->matrix.depth)
        k->rotate_row(x, w->matrix.depth, 1 << w->rotation_log2, x);
    mem_free(tmp);
    return out;
}

/* What is read back is what the source holds. */
Test(convert, numbers_survive)
{
    fake_model f;
    fake(&f);
    char *out = temporary("n");
    const weight_type types[] = {TYPE_Q4, TYPE_Q5, TYPE_BF16};
    for (int t = 0; t < 3; t++) {
        status st = STATUS_INIT;
        convert_report report;
        convert_component c = {.name = "unet", .plan = &f.plan};
        convert_request q = {.from = &f.s, .out = out, .type = types[t], .components = 1, .component = &c, .threads = 2};
        cr_assert(convert(&q, &report, &st), "%s", st.text);
        convert_report_free(&report);
        source *s = source_open_pack(out, &st);
        for (int i = 0; i < 6; i++) {
            const weight *w = &f.weight[i];
            float *have = numbers_in(s, w->name), *want = mem_alloc(numbers(w->matrix), sizeof *want, "test", &st);
            float *tmp = mem_alloc(numbers(w->matrix), sizeof *tmp, "test", &st);
            size_t row = (size_t)w->matrix.taps * (size_t)w->matrix.depth;
            for (int64_t r = 0; r < w->matrix.rows; r++)
                type_to_f32(kernels_best(), w->type, &w->matrix, w->oihw, NULL, f.data + w->part->offset + (size_t)r * type_unit_bytes(w->type, &w->matrix), 1, tmp,
                            want + (size_t)r * row);
            double error = relative(want, have, numbers(w->matrix)), said = source_find(s, "unet", w->name)->error;
            cr_assert(error < 0.075, "%s: %g", w->name, error);
            cr_assert_float_eq(error, said, 1e-3 * error + 1e-5, "%s: %g, said %g", w->name, error, said);
            mem_free(have);
            mem_free(want);
            mem_free(tmp);
        }
        source_close(s);
    }
    unlink(out);
    mem_free(out);
    fake_free(&f);
    cr_assert_eq(mem_in_use(), 0);
}

/* A container is a source too: plain numbers are converted, quantized ones copied or refused. */
Test(convert, from_a_container)
{
    fake_model f;
    fake(&f);
    char *a = temporary("a"), *b = temporary("b");
    status st = STATUS_INIT;
    convert_report report;
    convert_component c = {.name = "unet", .plan = &f.plan};
    convert_request q = {.from = &f.s, .out = a, .type = TYPE_Q4, .components = 1, .component = &c, .threads = 2};
    cr_assert(convert(&q, &report, &st), "%s", st.text);
    convert_report_free(&report);
    source *s = source_open_pack(a, &st);
    plan_use use[7];
    for (int i = 0; i < 7; i++) {
        use[i] = f.use[i];
        use[i].weight = source_find(s, "unet", f.use[i].weight->name);
    }
    plan p = {.stage = "unet", .uses = 7, .use = use};
    c.plan = &p;
    q.from = s;
    q.out = b;
    cr_assert(convert(&q, &report, &st), "%s", st.text);
    convert_report_free(&report);
    source *again = source_open_pack(b, &st);
    cr_assert_eq(again->hash, s->hash, "a copy is the same file");
    source_close(again);
    q.type = TYPE_Q8;
    cr_assert_not(convert(&q, &report, &st));
    cr_assert(st.code == STATUS_BAD_FILE && strstr(st.text, "is q4 already"), "%s", st.text);
    convert_report_free(&report);
    source_close(s);
    unlink(a);
    unlink(b);
    mem_free(a);
    mem_free(b);
    fake_free(&f);
    cr_assert_eq(mem_in_use(), 0);
}

Test(convert, failures_leave_nothing)
{
    fake_model f;
    fake(&f);
    char *out = temporary("f");
    convert_report report;
    convert_component c = {.name = "unet", .plan = &f.plan};
    convert_request q = {.from = &f.s, .out = out, .type = TYPE_Q4, .components = 1, .component = &c, .threads = 3, .memory_bytes = 1 << 20};
    status st = STATUS_INIT;
    cr_assert_not(convert(&q, &report, &st));
    cr_assert(st.code == STATUS_BUDGET && st.least_bytes > 1 << 20, "%s", st.text);
    convert_report_free(&report);
    q.memory_bytes = st.least_bytes; /* what it says is enough, and is kept */
    st = (status)STATUS_INIT;
    size_t before = mem_in_use();
    cr_assert(convert(&q, &report, &st), "%s", st.text);
    cr_assert_leq(mem_peak() - before, q.memory_bytes);
    convert_report_free(&report);
    source *least = source_open_pack(out, &st);
    uint64_t hash = least->hash;
    source_close(least);
    unlink(out);
    size_t bytes;
    mem_free(converted(&f, TYPE_Q4, 1, 0, &report, &bytes));
    cr_assert_eq(report_hash, hash, "the least memory gives other bytes");
    convert_report_free(&report);
    q.memory_bytes = 0;
    const uint16_t nan = 0x7fc0;
    memcpy(f.data + f.weight[2].part->offset + 2 * (777 * 1024 + 3), &nan, 2);
    cr_assert_not(convert(&q, &report, &st));
    cr_assert(st.code == STATUS_BAD_FILE && strstr(st.text, "unet/a.weight: row 777"), "%s", st.text);
    convert_report_free(&report);
    cr_assert(access(out, F_OK) != 0);
    for (long n = 1; n < 30; n++) {
        st = (status)STATUS_INIT;
        mem_fail_at(n);
        bool ok = convert(&q, &report, &st);
        mem_fail_at(0);
        convert_report_free(&report);
        cr_assert(!ok && st.code != STATUS_OK);
        cr_assert(access(out, F_OK) != 0);
    }
    mem_free(out);
    fake_free(&f);
    cr_assert_eq(mem_in_use(), 0);
}

Test(convert, random_models)
{
    status st = STATUS_INIT;
    weight w[3] = {{.component = "dit", .name = "a.weight", .dims = 4, .shape = {300, 512, 1, 1}, .matrix = {300, 1, 512}, .file = -1, .parts = 1},
                   {.component = "dit", .name = "a.bias", .dims = 1, .shape = {300}, .matrix = {1, 1, 300}, .file = -1, .parts = 1},
                   {.component = "dit", .name = "conv.weight", .dims = 4, .shape = {64, 64, 3, 3}, .matrix = {64, 9, 64}, .file = -1, .parts = 1, .oihw = true}};
    plan_use use[3] = {{.weight = &w[0], .role = ROLE_LINEAR, .matrix = w[0].matrix}, {.weight = &w[1], .role = ROLE_VECTOR, .matrix = w[1].matrix},
                       {.weight = &w[2], .role = ROLE_CONV, .matrix = w[2].matrix}};
    plan p = {.stage = "dit", .uses = 3, .use = use};
    source from = {.path = (char *)(uintptr_t) "configs"};
    char *out = temporary("r");
    convert_component c = {.name = "dit", .plan = &p};
    convert_request q = {.from = &from, .out = out, .type = TYPE_Q4, .components = 1, .component = &c, .threads = 1, .random = true, .seed = 3};
    uint64_t hash[4];
    for (int i = 0; i < 4; i++) {
        convert_report report;
        q.threads = i == 1 ? 4 : 1;
        q.memory_bytes = i == 2 ? 22 << 20 : 0;
        q.seed = i == 3 ? 4 : 3;
        cr_assert(convert(&q, &report, &st), "%s", st.text);
        cr_assert(report.error > 0.05 && report.error < 0.075, "%g", report.error);
        convert_report_free(&report);
        source *s = source_open_pack(out, &st);
        cr_assert_eq(source_find(s, "dit", "a.weight")->dims, 2);
        hash[i] = s->hash;
        source_close(s);
    }
    cr_assert(hash[0] == hash[1] && hash[0] == hash[2] && hash[0] != hash[3]);
    q.random = false;
    convert_report report;
    cr_assert_not(convert(&q, &report, &st));
    cr_assert(strstr(st.text, "has no weights"), "%s", st.text);
    convert_report_free(&report);
    unlink(out);
    mem_free(out);
}
