/* check_products.c: products, and what makes their operands: activations to int8, conversions of weights. */
#include "tests/check.h"

/* ---- gemm_f32 ---- */

typedef struct gemm_case {
    int tokens, segments, depth, rows;
    const float **a;
    float *w;
    size_t w_stride, out_stride;
} gemm_case;

static gemm_case make_gemm(int tokens, int segments, int depth, int rows, values kind)
{
    gemm_case c = {.tokens = tokens, .segments = segments, .depth = depth, .rows = rows};
    size_t lines = (size_t)tokens * (size_t)segments, a_stride = (size_t)(depth + random_int(0, 5));
    float *a = ARRAY(float, span((int)lines, a_stride, depth));
    c.w_stride = (size_t)(segments * depth + random_int(0, 5));
    c.out_stride = (size_t)(rows + random_int(0, 5));
    c.w = ARRAY(float, span(rows, c.w_stride, segments * depth));
    c.a = ARRAY(const float *, lines);
    for (size_t i = 0; i < lines; i++) {
        size_t at = lines - 1 - i; /* not in the order of memory: pointers are free */
        c.a[i] = a + at * a_stride;
        fill(a + at * a_stride, (size_t)depth, kind);
    }
    for (int n = 0; n < rows; n++)
        fill(c.w + (size_t)n * c.w_stride, (size_t)(segments * depth), kind == HUGE_VALUES || kind == TINY ? MIXED : kind);
    if (kind == MIXED && random_int(0, 2) == 0) /* an infinity spoils its own token only */
        a[(size_t)random_int(0, (int)lines - 1) * a_stride + (size_t)random_int(0, depth - 1)] = INFINITY;
    seal(a), seal(c.w), seal(c.a);
    return c;
}

static double gemm_magnitude(const gemm_case *c, int t, int n)
{
    double sum = 0;
    for (int s = 0; s < c->segments; s++)
        for (int k = 0; k < c->depth; k++)
            sum += fabs((double)c->a[s * c->tokens + t][k] * (double)c->w[(size_t)n * c->w_stride + (size_t)(s * c->depth + k)]);
    return sum;
}

/* A block of tokens and rows by itself gives the bits it has in the whole. */
static void gemm_block(const gemm_case *c, const float *whole, int t0, int tokens, int n0, int rows)
{
    const float **a = ARRAY(const float *, tokens * c->segments);
    float *out = ARRAY(float, tokens * rows);
    for (int s = 0; s < c->segments; s++)
        for (int t = 0; t < tokens; t++)
            a[s * tokens + t] = c->a[s * c->tokens + t0 + t];
    run.set->gemm_f32(a, tokens, c->segments, c->depth, c->w + (size_t)n0 * c->w_stride, c->w_stride, rows, out, (size_t)rows);
    bool same = true;
    for (int t = 0; t < tokens; t++)
        for (int n = 0; n < rows; n++)
            same = same && same_float(out[t * rows + n], whole[(size_t)(t0 + t) * c->out_stride + (size_t)(n0 + n)]);
    verdict(same, "tokens %d+%d, rows %d+%d alone differ from the whole", t0, tokens, n0, rows);
}

static void one_gemm(int tokens, int segments, int depth, int rows, values kind)
{
    begin_case("%d tokens, %d x %d, %d rows, %s", tokens, segments, depth, rows, value_names[kind]);
    gemm_case c = make_gemm(tokens, segments, depth, rows, kind);
    size_t n = span(tokens, c.out_stride, rows);
    float *out = ARRAY(float, n), *want = ARRAY(float, n);
    double *bounds = ARRAY(double, tokens * rows);
    run.set->gemm_f32(c.a, tokens, segments, depth, c.w, c.w_stride, rows, out, c.out_stride);
    run.scalar->gemm_f32(c.a, tokens, segments, depth, c.w, c.w_stride, rows, want, c.out_stride);
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < rows; r++)
            bounds[t * rows + r] = 1e-6 * sqrt((double)segments * depth) * gemm_magnitude(&c, t, r) + 1e-43 * depth;
    near_matrix(out, want, tokens, rows, c.out_stride, bounds, 0);
    verdict(gaps_untouched(out, tokens, rows, c.out_stride), "wrote between the rows of out");
    for (int i = 0; i < 4; i++) {
        int t0 = random_int(0, tokens - 1), n0 = random_int(0, rows - 1);
        gemm_block(&c, out, t0, i ? random_int(1, tokens - t0) : 1, n0, i > 1 ? random_int(1, rows - n0) : 1);
    }
    end_case();
}

void test_gemm_f32(void)
{
    static const int depths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 100, 129};
    for (int tokens = 1; tokens <= 14; tokens++)
        for (int rows = 1; rows <= 9; rows++)
            one_gemm(tokens, PICK(((int[]){1, 2, 3})), PICK(depths), rows, NORMAL);
    for (int i = 0; i < 60; i++)
        one_gemm(random_int(1, 13), PICK(((int[]){1, 1, 2, 9})), PICK(depths), random_int(1, 20), (values)(i % VALUES));
    one_gemm(300, 1, 40, 64, NORMAL);
    one_gemm(37, 1, 1152, 64, NORMAL);
    one_gemm(23, 9, 128, 17, MIXED);
    one_gemm(5, 1, 4099, 3, NORMAL);
    one_gemm(3, 3, 100, 150, NORMAL);
}

/* ---- gemm_i8, decode_q4 ---- */

typedef enum weights { ANY_WEIGHTS, NARROW, NARROW_EDGES, EDGES, WEIGHTS } weights;
static const char *const weight_names[] = {"any weights", "weights of 7 bits", "-64 and 63", "-127 and 127"};

static int8_t random_weight(weights kind)
{
    switch (kind) {
    case NARROW: return (int8_t)random_int(-64, 63);
    case NARROW_EDGES: return random_bits() & 1 ? 63 : -64;
    case EDGES: return random_bits() & 1 ? 127 : -127;
    default: return (int8_t)random_int(-127, 127);
    }
}

static void one_gemm_i8(int tokens, int segments, int depth, int rows, weights kind, int sign)
{
    begin_case("%d tokens, %d x %d, %d rows, %s%s", tokens, segments, depth, rows, weight_names[kind], sign ? ", all alike" : "");
    size_t lines = (size_t)tokens * (size_t)segments, panel = (size_t)segments * (size_t)depth * PANEL_ROWS;
    size_t a_stride = (size_t)(depth + random_int(0, 3)), out_stride = (size_t)(rows + random_int(0, 4));
    int8_t *a = ARRAY(int8_t, span((int)lines, a_stride, depth)), *w = ARRAY(int8_t, panel);
    const int8_t **lines_of_a = ARRAY(const int8_t *, lines);
    float *scale = ARRAY(float, lines), *row_scale = ARRAY(float, rows);
    int32_t *sum = ARRAY(int32_t, lines);
    for (size_t i = 0; i < panel; i++)
        w[i] = sign ? (int8_t)(kind == EDGES ? 127 * sign : sign > 0 ? 63 : -64) : random_weight(kind);
    for (size_t i = 0; i < lines; i++) {
        lines_of_a[i] = a + i * a_stride;
        sum[i] = 0;
        for (int k = 0; k < depth; k++)
            sum[i] += a[i * a_stride + (size_t)k] = sign ? (i & 1 ? -127 : 127) : random_weight(kind < NARROW_EDGES ? ANY_WEIGHTS : EDGES);
        scale[i] = random_int(0, 9) ? random_unit() : random_int(0, 3) ? 0 : NAN;
    }
    for (int r = 0; r < rows; r++)
        row_scale[r] = random_normal();
    seal(a), seal(w), seal(lines_of_a), seal(scale), seal(row_scale), seal(sum);
    size_t n = span(tokens, out_stride, rows);
    float *out = ARRAY(float, n), *want = ARRAY(float, n);
    const void *soon = random_bits() & 1 ? before_first() : NULL; /* asked for, but never touched: the page before an array */
    run.set->gemm_i8(lines_of_a, scale, sum, tokens, segments, depth, w, row_scale, rows, out, out_stride, soon, 4096);
    run.scalar->gemm_i8(lines_of_a, scale, sum, tokens, segments, depth, w, row_scale, rows, want, out_stride, NULL, 0);
    same_floats("out", out, want, n); /* the gaps, NaN in both, too */
    verdict(gaps_untouched(out, tokens, rows, out_stride), "wrote between the rows of out");
    end_case();
}

void test_gemm_i8(void)
{
    for (int tokens = 1; tokens <= 17; tokens++)
        for (int rows = 1; rows <= PANEL_ROWS; rows += random_int(1, 4))
            one_gemm_i8(tokens, PICK(((int[]){1, 2, 5})), 32 * random_int(1, 5), rows, (weights)random_int(0, WEIGHTS - 1), 0);
    for (int i = 0; i < 24; i++)
        one_gemm_i8(random_int(1, 20), PICK(((int[]){1, 9})), 32 * random_int(1, 12), random_int(1, 16), (weights)(i % WEIGHTS), 0);
    for (int sign = -1; sign <= 1; sign += 2) {
        one_gemm_i8(9, 1, 8192, 16, EDGES, sign);
        one_gemm_i8(9, 1, 8192, 16, NARROW, sign);
        one_gemm_i8(3, 2, 2048, 5, EDGES, sign);
    }
    one_gemm_i8(66, 9, 128, 16, ANY_WEIGHTS, 0);
    one_gemm_i8(9, 70, 32, 7, ANY_WEIGHTS, 0);
}

/* ---- activations to int8 ---- */

static const int rotations[] = {0, 16, 32, 64, 128, 256, 512, 1024};

static void one_quantize(int depth, int block, values kind, int spoil)
{
    begin_case("depth %d, block %d, %s%s", depth, block, value_names[kind], spoil ? ", not finite" : "");
    int padded = (depth + 31) / 32 * 32 + 32 * random_int(0, 1);
    float *x = ARRAY(float, depth), *tmp = ARRAY(float, depth), *scales = ARRAY(float, 2);
    int8_t *q = ARRAY(int8_t, padded), *want = ARRAY(int8_t, padded);
    int32_t sums[2] = {0, 1};
    fill(x, (size_t)depth, kind);
    for (int i = 0; i < spoil; i++)
        x[random_int(0, depth - 1)] = PICK(((float[]){NAN, INFINITY, -INFINITY}));
    if (kind == NORMAL && !spoil && block == 0) { /* ties: x * (127 / 127) = n + 1/2 */
        for (int k = 0; k < depth; k++)
            x[k] = (float)random_int(-126, 125) + 0.5f;
        x[random_int(0, depth - 1)] = random_bits() & 1 ? 127 : -127;
    }
    seal(x);
    run.set->quantize_row(x, depth, padded, block, tmp, q, &scales[0], &sums[0]);
    run.scalar->quantize_row(x, depth, padded, block, tmp, want, &scales[1], &sums[1]);
    same_bytes("q", q, want, (size_t)padded);
    verdict(same_float(scales[0], scales[1]), "scale %a, not %a", (double)scales[0], (double)scales[1]);
    verdict(sums[0] == sums[1], "sum %d, not %d", sums[0], sums[1]);
    end_case();
}

void test_quantize_row(void)
{
    for (int depth = 1; depth <= 70; depth++)
        one_quantize(depth, 0, (values)random_int(0, VALUES - 1), depth % 7 == 0);
    for (int i = 0; i < 120; i++) {
        int block = PICK(rotations), unit = block ? block : 33;
        one_quantize(unit * random_int(1, block > 100 ? 3 : 6), block, (values)(i % VALUES), random_int(0, 5) ? 0 : random_int(1, 4));
    }
    for (float most = 1e-44f; most < 1e-30f; most *= 3) { /* where 127 / max|x| overflows, and around */
        begin_case("max|x| = %a", (double)most);
        float x[3] = {most, -most / 2, 0}, tmp[3], scale, scale_want;
        int8_t q[32], want[32];
        int32_t sum, sum_want;
        run.set->quantize_row(x, 3, 32, 0, tmp, q, &scale, &sum);
        run.scalar->quantize_row(x, 3, 32, 0, tmp, want, &scale_want, &sum_want);
        verdict(memcmp(q, want, 32) == 0 && same_float(scale, scale_want) && sum == sum_want, "differs");
    }
}

void test_rotate_row(void)
{
    for (int i = 0; i < 90; i++) {
        int block = rotations[i % 8], depth = (block ? block : 1) * random_int(1, 5);
        values kind = (values)random_int(0, VALUES - 1);
        begin_case("depth %d, block %d, %s", depth, block, value_names[kind]);
        float *x = ARRAY(float, depth), *out = ARRAY(float, depth), *want = ARRAY(float, depth);
        fill(x, (size_t)depth, kind);
        if (random_int(0, 9) == 0)
            x[random_int(0, depth - 1)] = PICK(((float[]){NAN, INFINITY}));
        run.scalar->rotate_row(x, depth, block, want);
        run.set->rotate_row(x, depth, block, out);
        same_floats("out", out, want, (size_t)depth);
        run.set->rotate_row(x, depth, block, x);
        same_floats("in place", x, want, (size_t)depth);
        end_case();
    }
}

/* ---- conversions: all values, then every length ---- */

#define CONVERSION_TEST(name, type, count)                                                         \
    void test_##name(void)                                                                  \
    {                                                                                              \
        for (size_t n = count; n > 0; n = n > 40 ? 40 : n - 1) {                                   \
            begin_case("n %zu", n);                                                                \
            type *x = ARRAY(type, n);                                                              \
            float *out = ARRAY(float, n), *want = ARRAY(float, n);                                 \
            for (size_t i = 0; i < n; i++)                                                         \
                x[i] = (type)(n == count ? i : random_bits());                                     \
            seal(x);                                                                               \
            run.set->name(x, out, n);                                                              \
            run.scalar->name(x, want, n);                                                          \
            same_bytes("out", out, want, n * sizeof *out);                                         \
            end_case();                                                                            \
        }                                                                                          \
    }
CONVERSION_TEST(f16_to_f32, uint16_t, 65536)
CONVERSION_TEST(bf16_to_f32, uint16_t, 65536)
CONVERSION_TEST(f8e4m3_to_f32, uint8_t, 256)
