/* Integer products on activations as large models have them: a few channels 50 to 200 times larger than the others, a residual
 * stream beyond the range of 16-bit floats. Errors are against the same layers in double precision. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "quant/encode.h"
#include "tests/support.h"

enum { TOKENS = 24 };

/* ---- a linear layer, as it was and quantized ---- */

typedef struct layer {
    encoding e;
    float *w;       /* [rows][depth] */
    uint8_t head[CODE_HEAD_BYTES];
    uint8_t *units;
} layer;

static layer make_layer(weight_type type, int rows, int depth)
{
    status st = STATUS_INIT;
    matrix_shape m = {rows, 1, depth};
    layer l = {.e = encoding_of(type, m, "", "w"), .w = room((size_t)rows * (size_t)depth, sizeof(float))};
    uint64_t bytes;
    cr_assert(type_matrix_bytes(type, &m, &bytes));
    for (int i = 0; i < rows * depth; i++)
        l.w[i] = gaussian() / sqrtf((float)depth);
    l.units = room(bytes, 1);
    void *scratch = room(encode_scratch_bytes(&l.e), 1);
    encode_trial trial = {{0}};
    encode_sum sum = {0};
    encode_try(&l.e, kernels_best(), l.w, 16, scratch, &trial);
    encode_head(&l.e, &trial, l.head);
    cr_assert(encode_rows(&l.e, kernels_best(), l.head, l.w, 0, rows, scratch, l.units, &sum, &st), "%s", st.text);
    mem_free(scratch);
    return l;
}

static void free_layer(layer *l)
{
    mem_free(l->w);
    mem_free(l->units);
}

/* [TOKENS][depth] to [TOKENS][rows], with quantized activations. */
static void run_layer(const layer *l, const float *x, float *out)
{
    const kernels *k = kernels_best();
    int depth = l->e.matrix.depth, padded = depth_padded(depth), rows = (int)l->e.matrix.rows;
    int8_t *q = room((size_t)TOKENS * (size_t)padded, 1), *tmp = room(type_panel_tmp_bytes(&l->e.matrix), 1);
    float scale[TOKENS], *row = room((size_t)depth, sizeof *row);
    int32_t sum[TOKENS];
    const int8_t *lines[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        lines[t] = q + t * padded;
        k->quantize_row(x + t * depth, depth, padded, l->e.rotation, row, q + t * padded, &scale[t], &sum[t]);
    }
    for (int r = 0; r < rows; r += PANEL_ROWS) {
        const float *row_scale;
        const uint8_t *unit = l->units + (size_t)(r / PANEL_ROWS) * type_unit_bytes(l->e.type, &l->e.matrix);
        const int8_t *w = type_panel_i8(k, l->e.type, &l->e.matrix, l->head, unit, tmp, &row_scale);
        k->gemm_i8(lines, scale, sum, TOKENS, 1, padded, w, row_scale, rows - r < PANEL_ROWS ? rows - r : PANEL_ROWS, out + r, (size_t)rows, NULL, 0);
    }
    mem_free(q);
    mem_free(tmp);
    mem_free(row);
}

static void run_exact(const layer *l, const double *x, double *out)
{
    int depth = l->e.matrix.depth, rows = (int)l->e.matrix.rows;
    for (int t = 0; t < TOKENS; t++)
        for (int r = 0; r < rows; r++) {
            double sum = 0;
            for (int i = 0; i < depth; i++)
                sum += x[t * depth + i] * (double)l->w[r * depth + i];
            out[t * rows + r] = sum;
        }
}

/* Relative RMS over all tokens; every number must be finite. */
static double error_of(const double *want, const float *have, size_t n)
{
    double error = 0, energy = 0;
    for (size_t i = 0; i < n; i++) {
        cr_assert(isfinite(have[i]), "number %zu is %g", i, have[i]);
        error += (want[i] - have[i]) * (want[i] - have[i]);
        energy += want[i] * want[i];
    }
    return sqrt(error / energy);
}

static const struct {
    weight_type type;
    double bar;
} types[] = {{TYPE_Q8, 0.015}, {TYPE_Q5, 0.05}, {TYPE_Q4, 0.09}};
enum { TYPES = sizeof types / sizeof *types };

/* ---- outlier channels ---- */

static double outlier_error(weight_type type, int depth, double part, float factor)
{
    enum { ROWS = 80 };
    layer l = make_layer(type, ROWS, depth);
    float *x = room((size_t)TOKENS * (size_t)depth, sizeof *x), *out = room((size_t)TOKENS * ROWS, sizeof *out);
    double *exact_x = room((size_t)TOKENS * (size_t)depth, sizeof *exact_x), *exact = room((size_t)TOKENS * ROWS, sizeof *exact);
    int outliers = (int)ceil(part * depth), stride = depth / outliers;
    for (int i = 0; i < TOKENS * depth; i++) {
        int channel = i % depth;
        x[i] = gaussian() * (channel % stride == stride / 3 && channel / stride < outliers ? factor : 1);
        exact_x[i] = (double)x[i];
    }
    run_layer(&l, x, out);
    run_exact(&l, exact_x, exact);
    double error = error_of(exact, out, (size_t)TOKENS * ROWS);
    mem_free(x);
    mem_free(out);
    mem_free(exact_x);
    mem_free(exact);
    free_layer(&l);
    return error;
}

Test(robustness, outlier_channels)
{
    static const int depths[] = {4096, 1152, 1280, 2304, 320, 96, 10240};
    static const double parts[] = {0.001, 0.005}; /* at least one channel */
    static const float factors[] = {50, 100, 200};
    seed_state = 7;
    for (int t = 0; t < TYPES; t++) {
        double worst = 0;
        for (size_t d = 0; d < sizeof depths / sizeof *depths; d++)
            for (size_t p = 0; p < 2; p++)
                for (size_t f = 0; f < 3; f++) {
                    double error = outlier_error(types[t].type, depths[d], parts[p], factors[f]);
                    worst = error > worst ? error : worst;
                    cr_assert(error <= types[t].bar, "%s, depth %d, %g of the channels x%g: %g", type_of(types[t].type)->name, depths[d],
                              parts[p], factors[f], error);
                }
        if (getenv("PENSTOCK_REPORT"))
            printf("# outlier channels, %s: worst %.4f\n", type_of(types[t].type)->name, worst);
    }
}

/* The worst there is for one scale a token: two large channels in a very deep row, which carry as much as all the others. */
Test(robustness, a_lone_pair_in_a_deep_row)
{
    double q8 = 0, q4 = 0;
    for (seed_state = 17; seed_state < 22; seed_state++) {
        uint64_t kept = seed_state;
        double e8 = outlier_error(TYPE_Q8, 10240, 0.0001, 50), e4 = outlier_error(TYPE_Q4, 10240, 0.0001, 50);
        seed_state = kept;
        q8 = e8 > q8 ? e8 : q8;
        q4 = e4 > q4 ? e4 : q4;
    }
    cr_assert(q8 <= 0.015 && q4 <= 0.09, "%g %g", q8, q4);
    if (getenv("PENSTOCK_REPORT"))
        printf("# a lone pair of channels x50 among 10240: q8 %.4f, q4 %.4f\n", q8, q4);
}

/* ---- a residual stream that half precision could not hold ---- */

/* As T5 has it: a few channels carry the stream's size; it is normalized, goes through a wide layer and back, and what comes out is added to it. */
enum { WIDTH = 320, INNER = 1152, DEPTH = 4 }; /* errors of blocks add up: six of them would be at q8's bar */

static double stack_error(weight_type type, double *largest)
{
    static float x[TOKENS * WIDTH], h[TOKENS * WIDTH], inner[TOKENS * INNER];
    static double ex[TOKENS * WIDTH], eh[TOKENS * WIDTH], einner[TOKENS * INNER];
    for (int i = 0; i < TOKENS * WIDTH; i++)
        ex[i] = x[i] = gaussian() * (i % WIDTH % 107 == 5 ? 90000.0f : 450.0f);
    *largest = 0;
    for (int n = 0; n < DEPTH; n++) {
        layer in = make_layer(type, INNER, WIDTH), out = make_layer(type, WIDTH, INNER);
        for (int t = 0; t < TOKENS; t++) {
            double square = 0;
            kernels_best()->rms_norm(x + t * WIDTH, WIDTH, 1e-6f, NULL, h + t * WIDTH);
            for (int i = 0; i < WIDTH; i++)
                square += ex[t * WIDTH + i] * ex[t * WIDTH + i];
            for (int i = 0; i < WIDTH; i++)
                eh[t * WIDTH + i] = ex[t * WIDTH + i] / sqrt(square / WIDTH + 1e-6);
        }
        run_layer(&in, h, inner);
        run_exact(&in, eh, einner);
        for (int i = 0; i < TOKENS * INNER; i++) { /* each block adds about half of what the stream began with */
            inner[i] *= 4500;
            einner[i] *= 4500;
        }
        run_layer(&out, inner, h);
        run_exact(&out, einner, eh);
        for (int i = 0; i < TOKENS * WIDTH; i++) {
            x[i] += h[i];
            ex[i] += eh[i];
            *largest = fabs(ex[i]) > *largest ? fabs(ex[i]) : *largest;
        }
        free_layer(&in);
        free_layer(&out);
    }
    return error_of(ex, x, (size_t)TOKENS * WIDTH);
}

Test(robustness, residual_beyond_half_precision)
{
    seed_state = 11;
    for (int t = 0; t < TYPES; t++) {
        double largest, error = stack_error(types[t].type, &largest);
        if (getenv("PENSTOCK_REPORT"))
            printf("# a stream of up to %.0f, %s: %.4f\n", largest, type_of(types[t].type)->name, error);
        cr_assert(largest > 2 * 65504.0, "the stream reaches %g only", largest);
        cr_assert(error <= types[t].bar, "%s: %g", type_of(types[t].type)->name, error);
    }
}

/* The greatest activations there are: scales neither overflow nor vanish. */
Test(robustness, extreme_activations)
{
    static const float sizes[] = {1e-30f, 1e-20f, 1e10f, 1e20f, 1e30f};
    seed_state = 13;
    for (int t = 0; t < TYPES; t++) {
        layer l = make_layer(types[t].type, 48, 320);
        static float x[TOKENS * 320], out[TOKENS * 48];
        static double ex[TOKENS * 320], exact[TOKENS * 48];
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (int i = 0; i < TOKENS * 320; i++)
                ex[i] = x[i] = gaussian() * sizes[s];
            run_layer(&l, x, out);
            run_exact(&l, ex, exact);
            double error = error_of(exact, out, sizeof out / sizeof *out);
            cr_assert(error <= types[t].bar, "%s, activations of %g: %g", type_of(types[t].type)->name, sizes[s], error);
        }
        free_layer(&l);
    }
}
