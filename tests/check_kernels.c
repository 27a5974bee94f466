/* check_kernels: every kernel of every instruction set this processor runs, against the scalar set.
 *
 *   check_kernels [--seed N] [--set NAME]     odd shapes, unaligned pointers, extreme values; arrays end (or begin) at a
 *                                             page that must not be touched, inputs are read-only, gaps hold NaN
 *                 [--margin BYTES]          arrays end that much before the page, for emulators that read what a mask hides
 *   check_kernels --bench [KERNEL]            times, rates, and the share of what the core can do, measured beside them
 *
 * The list is kernels.def: a kernel added there without a test_... and a bench_... here does not compile. */
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "simd/kernels.h"
#include "simd/peaks.h"
#ifdef HAVE_AVX512
extern const kernels kernels_avxvnni_evex; /* kernels_avxvnni.c in the encoding that AVX-512 has, for machines without AVX-VNNI */
#endif

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

/* ---- the run: what is being tested, and how it goes ---- */

static struct {
    const kernels *set, *scalar;
    const char *kernel;
    char shape[160]; /* of the case at hand, for messages */
    long passed, failed;
    int said; /* failures of this kernel and set told so far */
    uint64_t random;
    size_t page, margin;
} run;

#define begin_case(...) snprintf(run.shape, sizeof run.shape, __VA_ARGS__)

__attribute__((format(printf, 2, 3))) static void verdict(bool good, const char *format, ...)
{
    if (good) {
        run.passed++;
        return;
    }
    run.failed++;
    if (++run.said > 10)
        return;
    va_list args;
    va_start(args, format);
    printf("FAIL %s %s (%s): ", run.kernel, run.set->name, run.shape);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

static void on_signal(int number)
{
    /* printf is not for signal handlers, but we are ending, and the page that was touched is no stream's. */
    printf("FAIL %s %s (%s): signal %d: touched memory that is not its own\n", run.kernel, run.set->name, run.shape, number);
    printf("%ld passed, %ld failed\n", run.passed, run.failed + 1);
    fflush(stdout);
    _exit(1);
}

/* ---- random numbers (splitmix64) ---- */

static uint64_t random_bits(void)
{
    uint64_t z = run.random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int random_int(int low, int high) { return low + (int)(random_bits() % (uint64_t)(high - low + 1)); }
static float random_unit(void) { return (float)((double)(random_bits() >> 11) * 0x1p-52 - 1); } /* -1 ... 1 */
static float random_normal(void) { return random_unit() + random_unit() + random_unit(); }      /* near enough */

#define PICK(array) ((array)[random_bits() % (sizeof(array) / sizeof *(array))])

typedef enum values { NORMAL, ZEROS, TINY, HUGE_VALUES, MIXED, VALUES } values;
static const char *const value_names[] = {"normal", "zeros", "denormal", "huge", "mixed"};

static void fill(float *x, size_t n, values kind)
{
    for (size_t i = 0; i < n; i++)
        switch (kind) {
        case ZEROS: x[i] = random_bits() & 1 ? 0.0f : -0.0f; break;
        case TINY: x[i] = random_unit() * 1e-39f; break;
        case HUGE_VALUES: x[i] = random_unit() * 1e17f; break;
        case MIXED: x[i] = random_normal() * ldexpf(1, random_int(-30, 12)); break;
        default: x[i] = random_normal(); break;
        }
}

/* ---- memory between two pages that must not be touched ---- */

enum { MAPS = 64 };
static struct { char *base; size_t bytes; } maps[MAPS];
static int map_count;

/* `bytes` that end just before a guard page, or (at_start) begin just behind one. */
static void *guarded(size_t bytes, bool at_start)
{
    bytes += run.margin;
    size_t inner = (bytes + run.page - 1) / run.page * run.page, whole = inner + 2 * run.page;
    char *base = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || map_count == MAPS || mprotect(base + run.page, inner, PROT_READ | PROT_WRITE))
        abort();
    maps[map_count].base = base;
    maps[map_count++].bytes = whole;
    memset(base + run.page, 0xff, inner); /* NaN, as a float */
    return base + run.page + (at_start ? 0 : inner - bytes);
}

#define ARRAY(type, n) ((type *)guarded((size_t)(n) * sizeof(type), random_int(0, 3) == 0))

/* The array becomes read-only. */
static void seal(const void *array)
{
    for (int i = 0; i < map_count; i++)
        if ((const char *)array >= maps[i].base && (const char *)array < maps[i].base + maps[i].bytes)
            mprotect(maps[i].base + run.page, maps[i].bytes - 2 * run.page, PROT_READ);
}

static void end_case(void)
{
    for (; map_count > 0; map_count--)
        munmap(maps[map_count - 1].base, maps[map_count - 1].bytes);
}

/* ---- comparisons ---- */

static bool same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void same_bytes(const char *what, const void *got, const void *want, size_t n)
{
    const unsigned char *g = got, *w = want;
    size_t i = 0;
    while (i < n && g[i] == w[i])
        i++;
    verdict(i == n, "%s: byte %zu is %d, not %d", what, i, i < n ? (int)g[i] : 0, i < n ? (int)w[i] : 0);
}

static bool near_float(float got, float want, double bound)
{
    if (same_float(got, want) || isnan(got) || isnan(want) || isinf(got) || isinf(want))
        return same_float(got, want);
    return fabs((double)got - (double)want) <= bound;
}

enum { SAME = -1 }; /* as a bound: bit for bit, but for what a NaN holds */

/* Within bound * (1 + |want|). */
static void near_floats(const char *what, const float *got, const float *want, size_t n, double bound)
{
    size_t i = 0;
    while (i < n && near_float(got[i], want[i], bound * (1 + fabs((double)want[i]))))
        i++;
    verdict(i == n, "%s[%zu]: %a, not %a", what, i, i < n ? (double)got[i] : 0, i < n ? (double)want[i] : 0);
}

#define same_floats(what, got, want, n) near_floats(what, got, want, n, SAME)

/* Row by row; bounds: of each element, or NULL and one for all. */
static void near_matrix(const float *got, const float *want, int lines, int width, size_t stride, const double *bounds,
                        double bound)
{
    double worst = 0;
    bool good = true;
    for (size_t t = 0; t < (size_t)lines; t++)
        for (size_t n = 0; n < (size_t)width; n++) {
            double limit = bounds ? bounds[t * (size_t)width + n] : bound;
            if (near_float(got[t * stride + n], want[t * stride + n], limit))
                continue;
            good = false;
            worst = fmax(worst, fabs((double)got[t * stride + n] - (double)want[t * stride + n]) / limit);
        }
    verdict(good, "off by %.2f of the bound", worst);
}

/* Every element of out outside the tokens x rows that were asked for still holds the 0xff it was filled with. */
static bool gaps_untouched(const float *out, int tokens, int rows, size_t stride)
{
    const unsigned char *bytes = (const unsigned char *)out;
    for (int t = 0; t + 1 < tokens; t++)
        for (size_t i = ((size_t)t * stride + (size_t)rows) * 4; i < (size_t)(t + 1) * stride * 4; i++)
            if (bytes[i] != 0xff)
                return false;
    return true;
}

/* Elements of a strided matrix without the last gap. */
static size_t span(int lines, size_t stride, int width) { return (size_t)(lines - 1) * stride + (size_t)width; }

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

static void test_gemm_f32(void)
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
    const void *soon = random_bits() & 1 ? maps[0].base : NULL; /* asked for, but never touched: the page before an array */
    run.set->gemm_i8(lines_of_a, scale, sum, tokens, segments, depth, w, row_scale, rows, out, out_stride, soon, 4096);
    run.scalar->gemm_i8(lines_of_a, scale, sum, tokens, segments, depth, w, row_scale, rows, want, out_stride, NULL, 0);
    same_floats("out", out, want, n); /* the gaps, NaN in both, too */
    verdict(gaps_untouched(out, tokens, rows, out_stride), "wrote between the rows of out");
    end_case();
}

static void test_gemm_i8(void)
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

#include "tests/check_codes.inc"

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

static void test_quantize_row(void)
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

static void test_rotate_row(void)
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
    static void test_##name(void)                                                                  \
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

/* ---- attention ---- */

#include "tests/check_attention.inc"

/* ---- norms ---- */

static void one_norm(bool rms, int n, int kind, bool gain, bool bias)
{
    static const char *const kinds[] = {"normal", "far from zero", "constant", "huge", "denormal", "one spike"};
    begin_case("n %d, %s%s%s", n, kinds[kind], gain ? ", gain" : "", bias ? ", bias" : "");
    float *x = ARRAY(float, n), *g = ARRAY(float, n), *b = ARRAY(float, n), *out = ARRAY(float, n), *want = ARRAY(float, n);
    float eps = random_bits() & 1 ? 1e-6f : 1e-5f;
    fill(x, (size_t)n, kind == 3 ? HUGE_VALUES : kind == 4 ? TINY : NORMAL);
    for (int i = 0; i < n; i++) {
        x[i] = kind == 1 ? x[i] + 3000 : kind == 2 ? 7.25f : x[i];
        g[i] = 1 + random_unit() / 2;
        b[i] = random_unit();
    }
    if (kind == 5)
        x[random_int(0, n - 1)] = 60000;
    seal(g), seal(b);
    float *gains = gain ? g : NULL, *biases = bias ? b : NULL;
    for (int in_place = 0; in_place < 2; in_place++) {
        float *to = in_place ? x : out;
        if (rms)
            run.scalar->rms_norm(x, n, eps, gains, want), run.set->rms_norm(x, n, eps, gains, to);
        else
            run.scalar->layer_norm(x, n, eps, gains, biases, want), run.set->layer_norm(x, n, eps, gains, biases, to);
        near_floats(in_place ? "in place" : "out", to, want, (size_t)n, 2e-6);
    }
    end_case();
}

static void norms(bool rms)
{
    static const int lengths[] = {64, 100, 1152, 1155, 4096};
    for (int n = 1; n <= 40; n++)
        one_norm(rms, n, random_int(0, 5), n & 1, n & 2);
    for (int i = 0; i < 24; i++)
        one_norm(rms, PICK(lengths), i % 6, random_bits() & 1, random_bits() & 1);
}

static void test_layer_norm(void) { norms(false); }
static void test_rms_norm(void) { norms(true); }

/* ---- pointwise ---- */

static const char *const act_names[] = {"none", "relu", "silu", "gelu_tanh", "gelu_erf", "quick_gelu"};
enum { ACTS = ACT_QUICK_GELU + 1 };

static float some_input(int i) /* mostly where the functions bend, then anything finite */
{
    static const float special[] = {0, -0.0f, 1e-40f, -1e-40f, 1e-30f, 88, -88, 89, -89, 104, -104, 1e4f, -1e4f, 1e18f, -1e18f};
    if (i % 5 == 0)
        return PICK(special);
    return i % 5 == 1 ? random_unit() * 100 : random_unit() * 12;
}

static double act_bound(activation act) { return act == ACT_NONE || act == ACT_RELU ? 0 : 1e-6; }

static void call_act(const kernels *set, bool plain, activation act, const float *x, const float *scale, const float *shift,
                     float *out, size_t n)
{
    if (plain)
        set->activate(act, x, out, n);
    else
        set->scale_shift_act(x, scale, shift, act, out, n);
}

static void one_act(bool plain, activation act, size_t n)
{
    float *x = ARRAY(float, n), *scale = ARRAY(float, n), *shift = ARRAY(float, n), *out = ARRAY(float, n), *want = ARRAY(float, n);
    const float *some_scale = random_bits() & 1 ? scale : NULL, *some_shift = random_bits() & 1 ? shift : NULL;
    begin_case("%s, n %zu%s%s", act_names[act], n, some_scale ? ", scale" : "", some_shift ? ", shift" : "");
    for (size_t i = 0; i < n; i++)
        x[i] = some_input((int)i), scale[i] = random_unit(), shift[i] = random_unit() * 100;
    if (n % 8 == 3)
        x[n / 2] = NAN;
    seal(scale), seal(shift);
    call_act(run.scalar, plain, act, x, some_scale, some_shift, want, n);
    call_act(run.set, plain, act, x, some_scale, some_shift, out, n);
    near_floats("out", out, want, n, act_bound(act));
    call_act(run.set, plain, act, x, some_scale, some_shift, x, n);
    same_floats("in place", x, out, n);
    end_case();
}

static void acts(bool plain)
{
    for (int act = 0; act < ACTS; act++)
        for (size_t n = 1; n <= 20001; n = n < 75 ? n + 1 : n * 22)
            one_act(plain, (activation)act, n);
}

static void test_activate(void) { acts(true); }
static void test_scale_shift_act(void) { acts(false); }

static void test_act_mul(void)
{
    for (int act = 0; act < ACTS; act++)
        for (size_t n = 1; n <= 75; n++) {
            begin_case("%s, n %zu", act_names[act], n);
            float *x = ARRAY(float, n), *y = ARRAY(float, n), *out = ARRAY(float, n), *want = ARRAY(float, n), *z = ARRAY(float, n);
            for (size_t i = 0; i < n; i++)
                x[i] = z[i] = some_input((int)i), y[i] = ldexpf(random_bits() & 1 ? 1 : -1, random_int(-3, 3)); /* exact */
            run.scalar->act_mul((activation)act, x, y, want, n);
            run.set->act_mul((activation)act, x, y, out, n);
            near_floats("out", out, want, n, act_bound((activation)act) * 8);
            run.set->act_mul((activation)act, z, y, z, n);
            same_floats("out is x", z, out, n);
            run.set->activate((activation)act, x, want, n);
            for (size_t i = 0; i < n; i++)
                want[i] *= y[i];
            run.set->act_mul((activation)act, x, y, y, n);
            same_floats("out is y", y, out, n);
            same_floats("activate, then times y", want, out, n);
            end_case();
        }
}

static void test_add_gated(void)
{
    for (size_t n = 1; n <= 90; n++)
        for (int gated = 0; gated < 2; gated++) {
            values kind = (values)random_int(0, VALUES - 1);
            begin_case("n %zu, %s%s", n, value_names[kind], gated ? ", gate" : "");
            float *x = ARRAY(float, n), *y = ARRAY(float, n), *gate = ARRAY(float, n), *want = ARRAY(float, n);
            fill(x, n, kind), fill(y, n, kind), fill(gate, n, kind);
            memcpy(want, x, n * sizeof *x);
            seal(y), seal(gate);
            run.scalar->add_gated(want, y, gated ? gate : NULL, n);
            run.set->add_gated(x, y, gated ? gate : NULL, n);
            same_floats("x", x, want, n);
            end_case();
        }
}

static void test_channel_sums(void)
{
    for (int channels = 1; channels <= 150; channels++) {
        int pixels = random_int(1, 30);
        values kind = (values)random_int(0, VALUES - 1);
        begin_case("%d pixels, %d channels, %s", pixels, channels, value_names[kind]);
        size_t c = (size_t)channels, n = c * (size_t)pixels;
        float *x = ARRAY(float, n), *sum = ARRAY(float, c), *square = ARRAY(float, c), *sum2 = ARRAY(float, c), *square2 = ARRAY(float, c);
        fill(x, n, kind), fill(sum, c, kind), fill(square, c, kind);
        memcpy(sum2, sum, c * sizeof *sum), memcpy(square2, square, c * sizeof *sum);
        seal(x);
        run.set->channel_sums(x, (size_t)pixels, channels, sum, square);
        run.scalar->channel_sums(x, (size_t)pixels, channels, sum2, square2);
        same_floats("sum", sum, sum2, c);
        same_floats("square", square, square2, c);
        end_case();
    }
}

/* ---- benchmark ---- */

#include "tests/bench_kernels.inc"

/* ---- main ---- */

static const struct {
    const char *name;
    void (*test)(void), (*bench)(void);
} rows[] = {
#define X(name, args) {#name, test_##name, bench_##name},
#include "simd/kernels.def"
#undef X
};
enum { ROWS = sizeof rows / sizeof rows[0], SETS = 16 };

/* A test's numbers depend on the seed and its place in the list alone, so that a failure comes again with --set. */
static void run_row(size_t i, uint64_t seed, bool bench_it)
{
    run.kernel = rows[i].name;
    run.said = 0;
    run.random = seed * 1000003 + i;
    if (bench_it)
        rows[i].bench();
    else
        rows[i].test();
}

static int all_sets(const kernels *sets[])
{
    int count = kernels_all(sets, SETS - 1);
#ifdef HAVE_AVX512
    bool known;
    if (kernels_by_name("avx512", &known))
        sets[count++] = &kernels_avxvnni_evex;
#endif
    return count;
}

static bool has_set(const kernels *const sets[], int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(sets[i]->name, name) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    const kernels *sets[SETS];
    const char *only = NULL, *kernel = NULL;
    bool bench_it = false;
    uint64_t seed = (uint64_t)time(NULL) % 1000000;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--set") == 0 && i + 1 < argc)
            only = argv[++i];
        else if (strcmp(argv[i], "--margin") == 0 && i + 1 < argc)
            run.margin = strtoull(argv[++i], NULL, 10) / 64 * 64;
        else if (strcmp(argv[i], "--bench") == 0) {
            bench_it = true;
            kernel = i + 1 < argc && argv[i + 1][0] != '-' ? argv[++i] : NULL;
        } else {
            fprintf(stderr, "usage: check_kernels [--seed N] [--set NAME] [--margin BYTES] [--bench [KERNEL]]\n");
            return 2;
        }
    int count = all_sets(sets);
    if (only && !has_set(sets, count, only)) {
        fprintf(stderr, "check_kernels: no set %s that this processor runs\n", only);
        return 2;
    }
    run.page = (size_t)sysconf(_SC_PAGESIZE);
    run.scalar = sets[0];
    signal(SIGSEGV, on_signal), signal(SIGBUS, on_signal), signal(SIGILL, on_signal);
    if (bench_it)
        bench_memory();
    else
        printf("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; i < ROWS; i++)
        for (int s = 0; s < count; s++)
            if ((!only || strcmp(only, sets[s]->name) == 0) && (!kernel || strcmp(kernel, rows[i].name) == 0)) {
                run.set = sets[s];
                run_row(i, seed, bench_it);
                fflush(stdout);
            }
    if (bench_it)
        return 0;
    printf("%ld passed, %ld failed\n", run.passed, run.failed);
    return run.failed ? 1 : 0;
}
