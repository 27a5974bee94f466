/* The number formats and the encoder: sizes, round trips, error figures. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "quant/encode.h"
#include "quant/round.h"
#include "tests/support.h"

/* ---- numbers to quantize ---- */

static float *gaussians(size_t n)
{
    status st = STATUS_INIT;
    float *x = mem_alloc(n, sizeof *x, "test", &st);
    for (size_t i = 0; i < n; i++)
        x[i] = gaussian();
    return x;
}

static size_t numbers(matrix_shape m) { return (size_t)m.rows * (size_t)m.taps * (size_t)m.depth; }

/* ---- a tensor encoded, and decoded again ---- */

typedef struct coded {
    encoding e;
    uint8_t head[CODE_HEAD_BYTES];
    uint8_t *units;
    uint64_t bytes;
    encode_sum sum;
    status st;
} coded;

static coded code(weight_type type, matrix_shape m, const float *w)
{
    coded c = {.e = encoding_of(type, m, "unet", "w"), .st = STATUS_INIT};
    cr_assert(type_matrix_bytes(type, &m, &c.bytes));
    c.units = mem_alloc(c.bytes, 1, "test", &c.st);
    void *scratch = mem_alloc(encode_scratch_bytes(&c.e), 1, "test", &c.st);
    encode_trial trial = {{0}};
    encode_try(&c.e, kernels_best(), w, m.rows < 32 ? m.rows : 32, scratch, &trial);
    encode_head(&c.e, &trial, c.head);
    encode_rows(&c.e, kernels_best(), c.head, w, 0, m.rows, scratch, c.units, &c.sum, &c.st);
    mem_free(scratch);
    return c;
}

/* Decoded and turned back. */
static float *decode(const coded *c)
{
    status st = STATUS_INIT;
    const matrix_shape *m = &c->e.matrix;
    size_t row = (size_t)m->taps * (size_t)m->depth, unit = type_unit_bytes(c->e.type, m);
    int step = type_unit_rows(c->e.type);
    float *out = mem_alloc(numbers(*m), sizeof *out, "test", &st);
    void *tmp = mem_alloc(type_panel_tmp_bytes(m), 1, "test", &st);
    const kernels *k = kernels_best();
    for (int64_t r = 0; r < m->rows; r += step) {
        int n = m->rows - r < step ? (int)(m->rows - r) : step;
        type_to_f32(k, c->e.type, m, false, c->head, c->units + (size_t)(r / step) * unit, n, tmp, out + (size_t)r * row);
    }
    for (float *x = out; x < out + numbers(*m); x += m->depth) /* the rotation is its own inverse */
        k->rotate_row(x, m->depth, c->e.rotation, x);
    mem_free(tmp);
    return out;
}

/* The error of a round trip, which must be the one that was reported. */
static double round_trip(weight_type type, matrix_shape m, const float *w)
{
    coded c = code(type, m, w);
    cr_assert(status_ok(&c.st), "%s", c.st.text);
    float *back = decode(&c);
    double error = relative_error(back, w, numbers(m));
    if (type != TYPE_F32)
        cr_assert_float_eq(error, encode_relative(&c.sum), 1e-3 * error + 1e-6, "%s: %g, reported %g", type_of(type)->name, error,
                           encode_relative(&c.sum));
    mem_free(back);
    mem_free(c.units);
    return error;
}

static const matrix_shape shapes[] = {{64, 1, 4096}, {256, 1, 256}, {192, 1, 192}, {64, 9, 64}, {33, 9, 320}, {17, 1, 48}, {5, 3, 40}, {1, 1, 32}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* ---- the traits ---- */

Test(types, names_lead_back)
{
    for (int i = 0; i < TYPE_COUNT; i++) {
        const type_traits *t = type_of((weight_type)i);
        cr_assert_eq((int)t->type, i);
        cr_assert_eq(type_by_name(t->name), t);
        if (t->safetensors)
            cr_assert_eq(type_by_safetensors(t->safetensors), t);
    }
    cr_assert_null(type_by_name("q6"));
    cr_assert_null(type_by_safetensors("Q4"));
}

Test(types, sizes)
{
    matrix_shape m = {4096, 1, 4096};
    uint64_t bytes;
    cr_assert_eq(type_unit_bytes(TYPE_Q4, &m), 34880);
    cr_assert_eq(type_unit_bytes(TYPE_Q5, &m), 34880 + 8192);
    cr_assert_eq(type_unit_bytes(TYPE_Q8, &m), 64 + 65536);
    cr_assert_eq(type_unit_bytes(TYPE_Q8_ROWS, &m), 4100);
    cr_assert(type_matrix_bytes(TYPE_Q4, &m, &bytes));
    cr_assert_eq(bytes, 256 + 256 * 34880);
    for (int i = 0; i < SHAPES; i++) {
        cr_assert_eq(type_unit_bytes(TYPE_Q4, &shapes[i]) % 64, 0);
        cr_assert_eq(type_unit_bytes(TYPE_Q5, &shapes[i]) % 64, 0);
        cr_assert_eq(type_unit_bytes(TYPE_Q8, &shapes[i]) % 64, 0);
    }
}

Test(types, sizes_do_not_overflow)
{
    uint64_t bytes;
    const matrix_shape wrong[] = {{-1, 1, 1}, {INT64_MAX, 1, 1}, {1, 0, 1}, {1, MOST_TAPS + 1, 1}, {1, 1, -1}, {1, 1, INT32_MAX},
                                  {INT64_MAX / 4, 1, 8}, {INT64_MAX / 100, 4096, 1 << 20}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_assert_not(type_matrix_bytes(TYPE_F32, &wrong[i], &bytes), "%zu", i);
    matrix_shape deep = {1, 1, MOST_INTEGER_DEPTH + 1};
    cr_assert(type_matrix_bytes(TYPE_F32, &deep, &bytes));
    cr_assert_not(type_matrix_bytes(TYPE_Q8, &deep, &bytes));
}

Test(types, rotation)
{
    cr_assert(rotation_block(4096) == 512 && rotation_block(10240) == 1024 && rotation_block(4352) == 256 && rotation_block(2560) == 256);
    cr_assert_eq(rotation_block(1152), 128);
    cr_assert_eq(rotation_block(320), 64);
    cr_assert_eq(rotation_block(32), 32);
    cr_assert_eq(rotation_block(48), 0);
    cr_assert_eq(rotation_block(4), 0);
}

Test(types, plain_numbers)
{
    matrix_shape m = {1, 1, 2};
    float out[2];
    double d[2] = {1.5, -2};
    int64_t l[2] = {7, -9};
    int16_t s[2] = {-300, 300};
    uint8_t u[2] = {0, 200};
    uint8_t odd[5] = {0, 0x00, 0x3c, 0x00, 0xc0}; /* f16 1 and -2, at an odd address */
    const kernels *k = kernels_best();
    type_to_f32(k, TYPE_F64, &m, false, NULL, (uint8_t *)d, 1, NULL, out);
    cr_assert(out[0] == 1.5f && out[1] == -2);
    type_to_f32(k, TYPE_I64, &m, false, NULL, (uint8_t *)l, 1, NULL, out);
    cr_assert(out[0] == 7 && out[1] == -9);
    type_to_f32(k, TYPE_I16, &m, false, NULL, (uint8_t *)s, 1, NULL, out);
    cr_assert(out[0] == -300 && out[1] == 300);
    type_to_f32(k, TYPE_BOOL, &m, false, NULL, u, 1, NULL, out);
    cr_assert(out[0] == 0 && out[1] == 1);
    type_to_f32(k, TYPE_F16, &m, false, NULL, odd + 1, 1, NULL, out);
    cr_assert(out[0] == 1 && out[1] == -2);
}

Test(types, convolutions_of_pytorch_are_turned)
{
    matrix_shape m = {1, 4, 3};
    float in[12], out[12], tmp[64];
    for (int i = 0; i < 12; i++)
        in[i] = (float)i; /* [depth 3][taps 4] */
    type_to_f32(kernels_best(), TYPE_F32, &m, true, NULL, (uint8_t *)in, 1, tmp, out);
    for (int tap = 0; tap < 4; tap++)
        for (int c = 0; c < 3; c++)
            cr_assert_eq(out[tap * 3 + c], (float)(c * 4 + tap));
}

/* ---- rounding ---- */

Test(round, halves_round_to_nearest_even)
{
    const kernels *k = kernels_best();
    for (uint32_t h = 0; h < 0x10000; h++) { /* every half, and the points half way to the next */
        uint16_t x = (uint16_t)h, next = (uint16_t)(h + 1);
        float f, g;
        k->f16_to_f32(&x, &f, 1);
        k->f16_to_f32(&next, &g, 1);
        if ((h & 0x7c00) != 0x7c00) {
            cr_assert_eq(f16_of(f), x, "%x", h);
            float middle = (f + g) / 2;
            if ((next & 0x7c00) != 0x7c00 && (h & 0x7fff) != 0x7fff) {
                cr_assert_eq(f16_of(middle), h & 1 ? next : x, "%x", h);
                cr_assert_eq(f16_of(nextafterf(middle, f)), x, "%x", h);
                cr_assert_eq(f16_of(nextafterf(middle, g)), next, "%x", h);
            }
        }
        k->bf16_to_f32(&x, &f, 1);
        k->bf16_to_f32(&next, &g, 1);
        if ((h & 0x7f80) != 0x7f80 && (next & 0x7f80) != 0x7f80 && (h & 0x7fff) != 0x7fff) {
            float middle = (float)(((double)f + g) / 2);
            cr_assert_eq(bf16_of(f), x);
            cr_assert_eq(bf16_of(middle), h & 1 ? next : x, "%x", h);
            cr_assert_eq(bf16_of(nextafterf(middle, f)), x);
            cr_assert_eq(bf16_of(nextafterf(middle, g)), next);
        }
    }
    cr_assert_eq(f16_of(65519.99f), 0x7bff);
    cr_assert_eq(f16_of(65520), 0x7c00);
    cr_assert(isnan(bf16_value(bf16_of(NAN))) && isinf(bf16_value(bf16_of(INFINITY))));
}

/* ---- the encoder ---- */

Test(encode, error_figures_of_gaussian_weights)
{
    for (int i = 0; i < SHAPES; i++) {
        float *w = gaussians(numbers(shapes[i]));
        cr_assert_eq(round_trip(TYPE_F32, shapes[i], w), 0);
        double f16 = round_trip(TYPE_F16, shapes[i], w), bf16 = round_trip(TYPE_BF16, shapes[i], w);
        double q8 = round_trip(TYPE_Q8, shapes[i], w), rows = round_trip(TYPE_Q8_ROWS, shapes[i], w), q4 = round_trip(TYPE_Q4, shapes[i], w);
        double q5 = round_trip(TYPE_Q5, shapes[i], w);
        cr_assert(q5 < (numbers(shapes[i]) < 1000 ? 0.047 : 0.039), "q5 %g of %dx%dx%d", q5, (int)shapes[i].rows, shapes[i].taps, shapes[i].depth);
        cr_assert(f16 < 3e-4 && bf16 < 2.5e-3);
        cr_assert(q8 < 0.01 && rows < 0.01, "q8 %g q8_rows %g", q8, rows);
        cr_assert(q4 < (numbers(shapes[i]) < 1000 ? 0.09 : 0.073), "q4 %g of %dx%dx%d", q4, (int)shapes[i].rows, shapes[i].taps, shapes[i].depth);
        mem_free(w);
    }
}

/* Heavy tails, columns of different size: the rotation makes all of them gaussian. */
Test(encode, error_does_not_depend_on_the_distribution)
{
    matrix_shape m = {64, 1, 1024};
    float *w = gaussians(numbers(m));
    for (size_t i = 0; i < numbers(m); i++)
        w[i] = w[i] * w[i] * w[i] * (i % 100 == 7 ? 5 : 1);
    double q4 = round_trip(TYPE_Q4, m, w), q8 = round_trip(TYPE_Q8, m, w);
    cr_assert(q4 < 0.075 && q8 < 0.012, "%g %g", q4, q8);
    mem_free(w);
}

/* A convolution's taps differ in size. */
Test(encode, taps_of_different_size)
{
    matrix_shape m = {64, 9, 64};
    float *w = gaussians(numbers(m));
    for (size_t i = 0; i < numbers(m); i++)
        w[i] *= i / 64 % 9 == 4 ? 3 : i / 64 % 2 ? 1 : 0.5f;
    double q4 = round_trip(TYPE_Q4, m, w), q5 = round_trip(TYPE_Q5, m, w);
    cr_assert(q4 < 0.08 && q5 < 0.043, "%g %g", q4, q5);
    mem_free(w);
}

Test(encode, levels_stay_within_63)
{
    for (int range = 0; range < 2 * CODE_RANGES; range++) {
        uint8_t head[CODE_HEAD_BYTES];
        bool q5 = range >= CODE_RANGES;
        code_tables(q5 ? TYPE_Q5 : TYPE_Q4, range % CODE_RANGES, head);
        for (int i = 0; i < CODE_HEAD_BYTES; i++) {
            cr_assert_leq(abs((int8_t)head[i]), 63);
            if (i % 16)
                cr_assert_geq((int8_t)head[i], (int8_t)head[i - 1] + !q5, "tables ascend"); /* of q5's smallest tables some levels coincide */
        }
    }
}

Test(encode, extreme_rows)
{
    matrix_shape m = {16, 1, 64};
    float *w = gaussians(numbers(m));
    const float factors[16] = {0, 1e-38f, 1e-30f, 1e-20f, 1e-10f, 1, 1e10f, 1e20f, 1e30f, 1e36f};
    for (size_t i = 0; i < numbers(m); i++)
        w[i] *= factors[i / 64];
    const weight_type types[] = {TYPE_Q4, TYPE_Q5, TYPE_Q8, TYPE_Q8_ROWS, TYPE_BF16};
    for (int t = 0; t < 5; t++) {
        coded c = code(types[t], m, w);
        cr_assert(status_ok(&c.st), "%s", c.st.text);
        float *back = decode(&c);
        for (int r = 0; r < 16; r++) {
            double error = factors[r] ? relative_error(back + r * 64, w + r * 64, 64) : 0;
            cr_assert(factors[r] < 1e-25f || error < 0.1, "type %d row %d: %g", t, r, error);
            for (int i = 0; i < 64; i++)
                cr_assert(isfinite(back[r * 64 + i]));
        }
        mem_free(back);
        mem_free(c.units);
    }
    mem_free(w);
}

Test(encode, what_is_not_finite_is_named)
{
    matrix_shape m = {40, 1, 64};
    const weight_type types[] = {TYPE_F32, TYPE_F16, TYPE_BF16, TYPE_Q8, TYPE_Q5, TYPE_Q4, TYPE_Q8_ROWS};
    const float values[] = {NAN, INFINITY, -INFINITY};
    float *w = gaussians(numbers(m));
    for (int t = 0; t < 7; t++)
        for (int v = 0; v < 3; v++) {
            float was = w[37 * 64 + 5];
            w[37 * 64 + 5] = values[v];
            coded c = code(types[t], m, w);
            cr_assert_eq(c.st.code, STATUS_BAD_FILE);
            cr_assert(strstr(c.st.text, "unet/w") && strstr(c.st.text, "row 37"), "%s", c.st.text);
            mem_free(c.units);
            w[37 * 64 + 5] = was;
        }
    w[3] = 70000;
    coded c = code(TYPE_F16, m, w);
    cr_assert(c.st.code == STATUS_BAD_FILE && strstr(c.st.text, "too large"), "%s", c.st.text);
    mem_free(c.units);
    w[3] = 3e38f, w[4] = 3e38f; /* finite, but its rotation is not */
    c = code(TYPE_Q4, m, w);
    cr_assert_eq(c.st.code, STATUS_BAD_FILE);
    mem_free(c.units);
    mem_free(w);
}

/* Any cut into calls gives the same bytes. */
Test(encode, units_are_independent)
{
    matrix_shape m = {75, 9, 64};
    float *w = gaussians(numbers(m));
    const weight_type types[] = {TYPE_F16, TYPE_Q8, TYPE_Q5, TYPE_Q4, TYPE_Q8_ROWS};
    for (int t = 0; t < 5; t++) {
        coded c = code(types[t], m, w);
        uint8_t *again = mem_alloc(c.bytes, 1, "test", &c.st), *scratch = mem_alloc(encode_scratch_bytes(&c.e), 1, "test", &c.st);
        size_t unit = type_unit_bytes(types[t], &m);
        int step = type_unit_rows(types[t]);
        encode_sum sum = {0};
        for (int64_t r = (m.rows - 1) / 16 * 16; r >= 0; r -= 16)
            cr_assert(encode_rows(&c.e, kernels_best(), c.head, w + (size_t)r * 576, r, m.rows - r < 16 ? m.rows - r : 16, scratch,
                                  again + (size_t)(r / step) * unit, &sum, &c.st));
        cr_assert_arr_eq(c.units, again, c.bytes - type_head_bytes(types[t]));
        mem_free(again);
        mem_free(scratch);
        mem_free(c.units);
    }
    mem_free(w);
}

/* Every instruction set gives the same bytes. */
Test(encode, kernel_sets_agree)
{
    const kernels *sets[16];
    int n = kernels_all(sets, 16);
    matrix_shape m = {32, 1, 1280};
    float *w = gaussians(numbers(m));
    for (int i = 0; i < 2 * n; i++) {
        weight_type type = i < n ? TYPE_Q4 : TYPE_Q5;
        coded c = code(type, m, w);
        void *scratch = mem_alloc(encode_scratch_bytes(&c.e), 1, "test", &c.st);
        uint8_t head[CODE_HEAD_BYTES], *units = mem_alloc(c.bytes, 1, "test", &c.st);
        encode_sum sum = {0};
        encode_trial trial = {{0}};
        encode_try(&c.e, sets[i % n], w, 32, scratch, &trial);
        encode_head(&c.e, &trial, head);
        encode_rows(&c.e, sets[i % n], head, w, 0, m.rows, scratch, units, &sum, &c.st);
        cr_assert_arr_eq(head, c.head, CODE_HEAD_BYTES);
        cr_assert_arr_eq(units, c.units, c.bytes - CODE_HEAD_BYTES, "%s", sets[i % n]->name);
        mem_free(units);
        mem_free(scratch);
        mem_free(c.units);
    }
    mem_free(w);
}
