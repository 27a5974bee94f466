/* test_rng.c: the generator against torch's own numbers (tests/fixtures/make_sampling.py), bit for bit. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tests/support.h"

static int32_t ordered(float x) /* neighbouring floats are neighbouring integers */
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits < 0 ? (int32_t)(INT32_MIN - (int64_t)bits) : bits;
}

Test(rng, equals_torch)
{
    enum { KINDS = 3, TAIL = 40 };
    FILE *f = fixture_open("sampling", "rng.bin");
    uint32_t cases;
    take(f, &cases, sizeof cases);
    rng g;
    rng_seed(&g, 0);
    long compared = 0, different = 0, worst = 0;
    for (uint32_t i = 0; i < cases; i++) {
        uint32_t kind, n;
        uint64_t seed;
        take(f, &kind, sizeof kind);
        take(f, &n, sizeof n);
        take(f, &seed, sizeof seed);
        cr_assert_lt(kind, KINDS);
        if (kind == 2) {
            rng_seed(&g, seed);
            continue;
        }
        float *got = malloc(n * sizeof *got), wanted[TAIL];
        (kind == 0 ? rng_normal : rng_uniform)(&g, got, n);
        uint32_t stored = n < TAIL ? n : TAIL;
        take(f, wanted, stored * sizeof *wanted);
        for (uint32_t k = 0; k < stored; k++, compared++) {
            long ulps = labs((long)ordered(got[n - stored + k]) - (long)ordered(wanted[k]));
            different += ulps != 0;
            worst = ulps > worst ? ulps : worst;
        }
        free(got);
    }
    fclose(f);
    cr_log_info("%ld values, %ld differ, at most by %ld ulp", compared, different, worst);
    cr_expect_eq(worst, 0, "%ld of %ld values differ, by up to %ld ulp", different, compared, worst);
}

/* The reference sequence of Matsumoto and Nishimura's generator seeded with 5489. */
Test(rng, is_mt19937)
{
    rng g;
    rng_seed(&g, 5489);
    cr_expect_eq(rng_word(&g), 3499211612u);
    for (int i = 2; i < 10000; i++)
        rng_word(&g);
    cr_expect_eq(rng_word(&g), 4123659995u, "the 10000th word, as the C++ standard has it");
}

Test(rng, seed_has_32_bits)
{
    rng a, b;
    rng_seed(&a, 1);
    rng_seed(&b, UINT64_C(0xabcdef0000000001));
    cr_expect_eq(rng_word(&a), rng_word(&b));
}

Test(rng, is_normal)
{
    enum { N = 100000 };
    float *x = malloc(N * sizeof *x);
    rng g;
    rng_seed(&g, 3);
    rng_normal(&g, x, N);
    double mean = 0, square = 0, fourth = 0;
    for (int i = 0; i < N; i++) {
        double v = (double)x[i];
        mean += v / N;
        square += v * v / N;
        fourth += v * v * v * v / N;
    }
    free(x);
    cr_expect_lt(fabs(mean), 0.01);
    cr_expect_lt(fabs(square - 1), 0.02);
    cr_expect_lt(fabs(fourth - 3), 0.15);
}

Test(rng, nothing_drawn_for_nothing)
{
    rng a, b;
    rng_seed(&a, 9);
    rng_seed(&b, 9);
    rng_normal(&a, NULL, 0);
    rng_uniform(&a, NULL, 0);
    cr_expect_eq(rng_word(&a), rng_word(&b));
}
