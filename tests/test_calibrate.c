/* Error feedback: moments of inputs, their factors, what codes cost with and without, and containers made with them. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/threads.h"
#include "quant/convert.h"
#include "quant/encode_feedback.h"
#include "tests/support.h"
#include "weights/moments.h"
#include "weights/pack.h"

/* Inputs that depend on each other: each row is a mixture of a few directions, and some noise. */
static float *inputs(int rows, int depth)
{
    enum { DIRECTIONS = 24 };
    float *x = room((size_t)rows * (size_t)depth, sizeof *x), *to = room((size_t)DIRECTIONS * (size_t)depth, sizeof *to);
    for (int i = 0; i < DIRECTIONS * depth; i++)
        to[i] = gaussian();
    for (int r = 0; r < rows; r++)
        for (int d = 0; d < DIRECTIONS; d++) {
            float by = gaussian() / (1 + (float)d / 4);
            for (int i = 0; i < depth; i++)
                x[r * depth + i] += by * to[d * depth + i] + (d == 0 ? 0.3f * gaussian() : 0);
        }
    mem_free(to);
    return x;
}

/* ---- a model of one layer ---- */

typedef struct one_layer {
    weight w;
    weight_part part;
    plan_use use;
    plan plan;
    const plan *plans[1];
    source s;
    const char *component[1];
    io *file[1];
    float *numbers;
} one_layer;

static int64_t read_numbers(void *ctx, uint64_t offset, void *out, size_t bytes)
{
    const one_layer *l = ctx;
    memcpy(out, (const char *)l->numbers + offset, bytes);
    return (int64_t)bytes;
}

static void open_layer(one_layer *l, int rows, int taps, int depth)
{
    static const io_vtable reading = {read_numbers, NULL};
    status st = STATUS_INIT;
    size_t n = (size_t)rows * (size_t)taps * (size_t)depth;
    *l = (one_layer){.component = {"unet"}};
    l->numbers = room(n, sizeof(float));
    for (size_t i = 0; i < n; i++)
        l->numbers[i] = gaussian();
    l->part = (weight_part){0, n * sizeof(float), 0, rows, -1};
    l->w = (weight){.component = "unet", .name = "a.weight", .type = TYPE_F32, .dims = 2, .shape = {rows, (int64_t)taps * depth}, .matrix = {rows, taps, depth},
                    .error = NAN, .parts = 1, .part = &l->part};
    l->use = (plan_use){.weight = &l->w, .role = taps > 1 ? ROLE_CONV : ROLE_LINEAR, .matrix = l->w.matrix};
    l->plan = (plan){.stage = "unet", .uses = 1, .use = &l->use};
    l->plans[0] = &l->plan;
    l->s = (source){.path = (char *)(uintptr_t) "fake", .files = 1, .file = l->file, .components = 1, .component = l->component, .weights = 1, .weight = &l->w};
    l->file[0] = io_custom("fake", n * sizeof(float), &reading, l, &st);
    cr_assert(l->file[0], "%s", st.text);
}

static void close_layer(one_layer *l)
{
    io_close(l->file[0]);
    mem_free(l->numbers);
}

static input_moments *gathered(const one_layer *l, const float *x, int rows, int step, int workers, uint64_t limit)
{
    status st = STATUS_INIT;
    int depth = l->w.matrix.depth;
    threads *pool = threads_open(workers, &st);
    input_moments *m = moments_open(l->plans, 1, limit, limit ? "/var/tmp" : NULL, &st);
    cr_assert(pool && m, "%s", st.text);
    for (int r = 0; r < rows; r += step)
        cr_assert(moments_add(m, &l->w, x + r * depth, r + step < rows ? step : rows - r, depth, kernels_best(), pool, &st), "%s", st.text);
    threads_close(pool);
    return m;
}

/* ---- moments ---- */

Test(calibrate, moments_are_sums_over_rotated_rows)
{
    enum { ROWS = 150 };
    const int depths[] = {32, 192, 320, 768};
    for (size_t d = 0; d < sizeof depths / sizeof *depths; d++) {
        int depth = depths[d], window = moments_window(depth), block = rotation_block(depth);
        cr_assert(window >= block && window % block == 0 && depth % window == 0 && window <= 768);
        one_layer l;
        open_layer(&l, 3, 1, depth);
        status st = STATUS_INIT;
        float *x = inputs(ROWS, depth), *turned = room((size_t)(ROWS * depth), sizeof *turned), *have = room((size_t)(depth * window), sizeof *have);
        input_moments *m = gathered(&l, x, ROWS, 64, 2, 0);
        cr_assert_eq(moments_rows(m, &l.w), ROWS);
        cr_assert(moments_get(m, &l.w, have, &st));
        for (int r = 0; r < ROWS; r++)
            kernels_best()->rotate_row(x + r * depth, depth, block, turned + r * depth);
        for (int i = 0; i < depth; i++)
            for (int k = i; k < (i / window + 1) * window; k++) {
                double sum = 0;
                for (int r = 0; r < ROWS; r++)
                    sum += (double)turned[r * depth + i] * turned[r * depth + k];
                cr_assert_float_eq(have[i * window + k % window], sum / ROWS, 1e-5 * depth, "[%d][%d]", i, k);
            }
        moments_close(m);
        mem_free(x);
        mem_free(turned);
        mem_free(have);
        close_layer(&l);
    }
    cr_assert_eq(mem_in_use(), 0);
}

/* Slabs are a matter of the budget, and so is where the sums lie: neither may leave a trace. */
Test(calibrate, moments_depend_on_neither_slabs_nor_threads_nor_place)
{
    enum { ROWS = 333, DEPTH = 384 };
    one_layer l;
    open_layer(&l, 3, 1, DEPTH);
    status st = STATUS_INIT;
    float *x = inputs(ROWS, DEPTH);
    size_t n = (size_t)(DEPTH * moments_window(DEPTH));
    float *first = room(n, sizeof *first), *second = room(n, sizeof *second);
    input_moments *m = gathered(&l, x, ROWS, ROWS, 1, 0);
    cr_assert(moments_get(m, &l.w, first, &st));
    moments_close(m);
    const int steps[] = {1, 7, 64, 100};
    for (int i = 0; i < 8; i++) {
        m = gathered(&l, x, ROWS, steps[i % 4], 1 + i % 3, i < 4 ? 0 : 1);
        cr_assert(moments_get(m, &l.w, second, &st), "%s", st.text);
        cr_assert(memcmp(first, second, n * sizeof *first) == 0, "in steps of %d", steps[i % 4]);
        moments_close(m);
    }
    mem_free(x);
    mem_free(first);
    mem_free(second);
    close_layer(&l);
    cr_assert_eq(mem_in_use(), 0);
}

/* ---- codes ---- */

typedef struct coded {
    encode_sum sum;
    uint8_t *units;
    uint8_t head[CODE_HEAD_BYTES];
} coded;

static coded encode_all(const encoding *e, const float *w)
{
    status st = STATUS_INIT;
    uint64_t bytes;
    coded c = {.sum = {0}};
    cr_assert(type_matrix_bytes(e->type, &e->matrix, &bytes));
    c.units = room(bytes, 1);
    void *scratch = room(encode_scratch_bytes(e), 1);
    encode_trial trial = {{0}};
    encode_try(e, kernels_best(), w, 16, scratch, &trial);
    encode_head(e, &trial, c.head);
    cr_assert(encode_rows(e, kernels_best(), c.head, w, 0, e->matrix.rows, scratch, c.units, &c.sum, &st), "%s", st.text);
    mem_free(scratch);
    return c;
}

/* Relative error of outputs with the weights as they lie in the container, inputs rotated: all taps see the same rows. */
static double output_error(const encoding *e, const coded *c, const float *w, const float *x, int rows)
{
    matrix_shape m = e->matrix;
    int depth = m.depth, n = m.taps * depth;
    size_t unit = type_unit_bytes(e->type, &m);
    float *back = room((size_t)(PANEL_ROWS * n), sizeof *back), *turned = room((size_t)(rows * depth), sizeof *turned), *row = room((size_t)n, sizeof *row);
    void *tmp = room(type_panel_tmp_bytes(&m) + 64, 1);
    double error = 0, power = 0;
    for (int r = 0; r < rows; r++)
        kernels_best()->rotate_row(x + r * depth, depth, e->rotation, turned + r * depth);
    for (int i = 0; i < m.rows; i++) {
        if (i % PANEL_ROWS == 0)
            type_to_f32(kernels_best(), e->type, &m, false, c->head, c->units + (size_t)(i / PANEL_ROWS) * unit,
                        m.rows - i < PANEL_ROWS ? (int)(m.rows - i) : PANEL_ROWS, tmp, back);
        for (int tap = 0; tap < m.taps; tap++) {
            kernels_best()->rotate_row(w + i * n + tap * depth, depth, e->rotation, row);
            const float *have = back + i % PANEL_ROWS * n + tap * depth;
            for (int r = 0; r < rows; r++) {
                double want = 0, is = 0;
                for (int k = 0; k < depth; k++) {
                    want += (double)turned[r * depth + k] * row[k];
                    is += (double)turned[r * depth + k] * have[k];
                }
                error += (want - is) * (want - is);
                power += want * want;
            }
        }
    }
    mem_free(back);
    mem_free(turned);
    mem_free(row);
    mem_free(tmp);
    return sqrt(error / power);
}

/* The error of the outputs falls to a half at least, on inputs that the moments are not of as well; and what the encoder says of it is so. */
static void check_layer(weight_type type, int rows, int taps, int depth, double factor)
{
    enum { SEEN = 600, OTHERS = 100 };
    seed_state = 11;
    one_layer l;
    open_layer(&l, rows, taps, depth);
    status st = STATUS_INIT;
    float *x = inputs(SEEN + OTHERS, depth), *others = x + (size_t)SEEN * (size_t)depth;
    input_moments *m = gathered(&l, x, SEEN, SEEN, 1, 0);
    encoding e = encoding_of(type, l.w.matrix, "", "a");
    coded plain = encode_all(&e, l.numbers);
    e.window = moments_window(depth);
    float *factors = room((size_t)(depth * e.window), sizeof *factors);
    double *tmp = room((size_t)(e.window * (e.window + 1)), sizeof *tmp);
    cr_assert(moments_get(m, &l.w, factors, &st) && feedback_factor(factors, depth, e.window, tmp));
    e.factor = factors;
    coded fed = encode_all(&e, l.numbers);
    double before = output_error(&e, &plain, l.numbers, others, OTHERS), after = output_error(&e, &fed, l.numbers, others, OTHERS);
    double seen = output_error(&e, &fed, l.numbers, x, SEEN), said = sqrt(fed.sum.fed / fed.sum.power);
    if (getenv("PENSTOCK_REPORT"))
        printf("# %s %dx%dx%d: outputs %.4f, with feedback %.4f; weights %.4f, %.4f\n", type_of(type)->name, rows, taps, depth, before, after,
               (double)encode_relative(&plain.sum), (double)encode_relative(&fed.sum));
    cr_assert(after * factor < before, "%s %dx%dx%d: outputs %g, with feedback %g", type_of(type)->name, rows, taps, depth, before, after);
    cr_assert(said > seen * 0.7 && said < seen * 1.8, "said %g, is %g", said, seen); /* windows by themselves, a sample of rows, damped */
    cr_assert(encode_relative(&fed.sum) > encode_relative(&plain.sum), "the weights themselves cannot be nearer");
    moments_close(m);
    mem_free(factors);
    mem_free(tmp);
    mem_free(plain.units);
    mem_free(fed.units);
    mem_free(x);
    close_layer(&l);
}

Test(calibrate, outputs_are_nearer)
{
    const weight_type types[] = {TYPE_Q4, TYPE_Q5, TYPE_Q8};
    for (int t = 0; t < 3; t++) {
        check_layer(types[t], 80, 1, 192, 2);
        check_layer(types[t], 33, 1, 320, 2);
        check_layer(types[t], 48, 1, 512, 2);
        check_layer(types[t], 40, 1, 768, 1.8);
        check_layer(types[t], 20, 9, 64, 1.8);
    }
    cr_assert_eq(mem_in_use(), 0);
}

/* Inputs that are all alike, none at all, or of a rank far below the window's. */
Test(calibrate, poor_moments_do_no_harm)
{
    enum { DEPTH = 256, ROWS = 40 };
    for (int kind = 0; kind < 3; kind++) {
        one_layer l;
        seed_state = 3;
        open_layer(&l, 40, 1, DEPTH);
        status st = STATUS_INIT;
        float *x = room((size_t)(ROWS * DEPTH), sizeof *x), *factors = room((size_t)(DEPTH * DEPTH), sizeof *factors);
        double *tmp = room((size_t)(DEPTH * (DEPTH + 1)), sizeof *tmp);
        for (int i = 0; i < ROWS * DEPTH; i++)
            x[i] = kind == 0 ? 0 : kind == 1 ? (i < DEPTH ? 1000 * gaussian() : x[i - DEPTH]) : i % DEPTH == 7 ? gaussian() : 0;
        input_moments *m = gathered(&l, x, ROWS, 8, 2, 0);
        encoding e = encoding_of(TYPE_Q4, l.w.matrix, "", "a");
        e.window = moments_window(DEPTH);
        cr_assert(moments_get(m, &l.w, factors, &st) && feedback_factor(factors, DEPTH, e.window, tmp));
        e.factor = factors;
        coded fed = encode_all(&e, l.numbers);
        cr_assert(encode_relative(&fed.sum) < 0.16f, "kind %d: weights' error %g", kind, (double)encode_relative(&fed.sum));
        if (kind > 0)
            cr_assert(output_error(&e, &fed, l.numbers, x, ROWS) < 0.02, "kind %d: %g", kind, output_error(&e, &fed, l.numbers, x, ROWS));
        factors[3] = NAN;
        factors[3 * DEPTH + 3] = INFINITY;
        cr_assert(!feedback_factor(factors, DEPTH, e.window, tmp));
        moments_close(m);
        mem_free(fed.units);
        mem_free(factors);
        mem_free(tmp);
        mem_free(x);
        close_layer(&l);
    }
    cr_assert_eq(mem_in_use(), 0);
}

/* ---- containers ---- */

static uint8_t *converted(const one_layer *l, input_moments *m, int workers, uint64_t memory, size_t *bytes)
{
    status st = STATUS_INIT;
    convert_report report;
    char *out = mem_format(&st, "/tmp/penstock-calibrate-%ld", (long)getpid());
    convert_component c = {.name = "unet", .plan = &l->plan};
    convert_request q = {.from = &l->s, .out = out, .type = TYPE_Q4, .components = 1, .component = &c, .threads = workers, .memory_bytes = memory,
                         .moments = m, .prompts = 5};
    cr_assert(convert(&q, &report, &st), "%s", st.text);
    cr_assert(report.fed == 1 && report.fed_error * 2 < report.plain_error, "%d: %g, %g", report.fed, report.fed_error, report.plain_error);
    source *s = source_open_pack(out, &st);
    cr_assert(s && pack_verify(s, NULL, NULL, &st), "%s", st.text);
    cr_assert_eq(s->calibration_prompts, 5);
    cr_assert_float_eq(s->weight[0].output_error, report.fed_error, 1e-4);
    cr_assert_float_eq(s->weight[0].output_plain, report.plain_error, 1e-4);
    *bytes = (size_t)io_size(s->file[0]);
    uint8_t *data = room(*bytes, 1);
    cr_assert(io_read(s->file[0], 0, data, *bytes, &st));
    source_close(s);
    convert_report_free(&report);
    unlink(out);
    mem_free(out);
    return data;
}

Test(calibrate, bytes_depend_on_neither_threads_nor_memory)
{
    enum { ROWS = 300, DEPTH = 1024 };
    one_layer l;
    open_layer(&l, 2100, 1, DEPTH);
    float *x = inputs(ROWS, DEPTH);
    input_moments *m = gathered(&l, x, ROWS, ROWS, 2, 0);
    size_t bytes, again;
    uint8_t *first = converted(&l, m, 1, 0, &bytes);
    for (int workers = 2; workers <= 5; workers++) {
        uint8_t *second = converted(&l, m, workers, workers % 2 ? 0 : 32 << 20, &again);
        cr_assert(again == bytes && memcmp(first, second, bytes) == 0, "with %d threads", workers);
        mem_free(second);
    }
    mem_free(first);
    mem_free(x);
    moments_close(m);
    close_layer(&l);
    cr_assert_eq(mem_in_use(), 0);
}
