/* rng.c: mt19937 and torch's two ways to a normal number.
 *
 * Mersenne Twister: Matsumoto and Nishimura 1998, "Mersenne Twister: a 623-dimensionally equidistributed uniform
 * pseudo-random number generator". Normals: Box and Muller 1958. What to do with which bits is torch's choice
 * (ATen/core/DistributionsHelper.h, ATen/native/cpu/DistributionTemplates.h).
 *
 * For 16 numbers or more torch evaluates log, sin and cos with the Cephes single-precision polynomials (S. Moshier), not
 * with libm, and its compiler contracts most of their multiply-adds. Each of those contractions is written out below as
 * fmaf(), which rounds once on every machine, so that the same bits come out everywhere; what stays a separate multiply
 * and add was not contracted there. Do not tidy these expressions: tests/test_rng.c compares bits. */
#include "base/rng.h"

#include <math.h>
#include <string.h>

enum { WORDS = 624, SHIFT = 397, BLOCK = 16 };

void rng_seed(rng *g, uint64_t seed)
{
    g->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < WORDS; i++) {
        uint32_t before = g->state[i - 1];
        g->state[i] = 1812433253u * (before ^ (before >> 30)) + i;
    }
    g->next = WORDS;
    g->has_spare = false;
    g->spare = 0;
}

static uint32_t twist(uint32_t high, uint32_t low)
{
    uint32_t mixed = (high & 0x80000000u) | (low & 0x7fffffffu);
    return (mixed >> 1) ^ (low & 1 ? 0x9908b0dfu : 0);
}

static void refill(rng *g)
{
    uint32_t *s = g->state;
    for (int i = 0; i < WORDS; i++)
        s[i] = s[(i + SHIFT) % WORDS] ^ twist(s[i], s[(i + 1) % WORDS]);
    g->next = 0;
}

uint32_t rng_word(rng *g)
{
    if (g->next >= WORDS)
        refill(g);
    uint32_t y = g->state[g->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static float uniform_float(rng *g) { return (float)(rng_word(g) & 0xffffff) * 0x1p-24f; }

/* 53 bits, the first word on top. */
static double uniform_double(rng *g)
{
    uint64_t high = rng_word(g);
    uint64_t low = rng_word(g);
    return (double)((high << 32 | low) & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

void rng_uniform(rng *g, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = uniform_float(g);
}

static float exponential_of(double u) { return (float)-log1p(-u); }

void rng_exponential(rng *g, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = exponential_of(uniform_double(g));
}

/* An exponential number is never below the uniform one that it is made of, so that most need no logarithm: they would lose with that one already. */
size_t rng_race(rng *g, const float *weight, float sum, size_t n)
{
    size_t best = 0;
    float highest = -1;
    for (size_t i = 0; i < n; i++) {
        double u = uniform_double(g);
        if ((double)weight[i] < 0.99999 * (double)highest * (double)sum * u)
            continue;
        float p = weight[i] / sum / exponential_of(u);
        if (p > highest) {
            highest = p;
            best = i;
        }
    }
    return best;
}

/* ln(x) for 0 < x <= 1, Cephes' logf. */
static float log_cephes(float x)
{
    int exponent;
    x = frexpf(x, &exponent); /* x in [1/2, 1) */
    float e = (float)exponent;
    if (x < 0.707106781186547524f) {
        e -= 1;
        x = x - 1 + x;
    } else {
        x -= 1;
    }
    static const float p[9] = {7.0376836292E-2f,  -1.1514610310E-1f, 1.1676998740E-1f, -1.2420140846E-1f, 1.4249322787E-1f,
                               -1.6668057665E-1f, 2.0000714765E-1f,  -2.4999993993E-1f, 3.3333331174E-1f};
    float y = p[0];
    for (int i = 1; i < 9; i++)
        y = fmaf(y, x, p[i]);
    float z = x * x;
    y *= x;
    y = fmaf(y, z, e * -2.12194440e-4f);
    y = fmaf(z, -0.5f, y);
    return fmaf(e, 0.693359375f, x + y);
}

/* sin(x) and cos(x) for 0 <= x < 8192, Cephes' sinf and cosf. */
static void sincos_cephes(float x, float *sine, float *cosine)
{
    uint32_t octant = ((uint32_t)(x * 1.27323954473516f) + 1) & ~UINT32_C(1);
    float y = (float)octant;
    x = fmaf(y, -0.78515625f, x); /* pi / 4 in three parts */
    x = fmaf(y, -2.4187564849853515625e-4f, x);
    x = fmaf(y, -3.77489497744594108e-8f, x);
    float z = x * x;

    float c = fmaf(fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f);
    c = fmaf(c * z, z, -(z * 0.5f)) + 1;
    float s = fmaf(fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f);
    s = fmaf(s * z, x, x);

    bool swap = octant & 2;
    *sine = swap ? c : s;
    *cosine = swap ? s : c;
    if (octant & 4)
        *sine = -*sine;
    if (!((octant - 2) & 4))
        *cosine = -*cosine;
}

/* [16] uniforms to [16] normals in place: pair j is (j, j + 8). */
static void normal_block(float *u)
{
    for (int j = 0; j < BLOCK / 2; j++) {
        float radius = sqrtf(-2 * log_cephes(1 - u[j]));
        float sine, cosine;
        sincos_cephes(6.283185307179586f * u[j + 8], &sine, &cosine);
        u[j] = radius * cosine;
        u[j + 8] = radius * sine;
    }
}

/* Fewer than 16: pairs in double precision; the second of a pair waits in the generator, across calls. */
static float normal_single(rng *g)
{
    if (g->has_spare) {
        g->has_spare = false;
        return (float)g->spare;
    }
    const double pi = 3.141592653589793;
    double u1 = uniform_double(g);
    double u2 = uniform_double(g);
    double r = sqrt(-2 * log1p(-u2));
    double theta = 2 * pi * u1;
    g->spare = r * sin(theta);
    g->has_spare = true;
    return (float)(r * cos(theta));
}

void rng_normal(rng *g, float *out, size_t n)
{
    if (n < BLOCK) {
        for (size_t i = 0; i < n; i++)
            out[i] = normal_single(g);
        return;
    }
    rng_uniform(g, out, n);
    for (size_t i = 0; i + BLOCK <= n; i += BLOCK)
        normal_block(out + i);
    if (n % BLOCK) { /* the last 16 are drawn afresh, over what the last whole block wrote */
        rng_uniform(g, out + n - BLOCK, BLOCK);
        normal_block(out + n - BLOCK);
    }
}
