/* A hash of the place gives two numbers, each the sum of four bytes: near enough to gaussian (never beyond 3.5 deviations),
 * the same whoever computes it in whatever order, at some hundred million numbers a second. */
#include "quant/random.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

#define BYTES_DEVIATION 147.8f /* of the sum of four bytes: sqrt(4 (256^2 - 1) / 12) */

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

random_tensor random_of(uint64_t seed, const char *component, const char *name, weight_role role, const matrix_shape *m)
{
    random_tensor t = {.key = XXH3_64bits_withSeed(component, strlen(component), seed)};
    t.key = XXH3_64bits_withSeed(name, strlen(name), t.key);
    if (role == ROLE_VECTOR) {
        t.mean = m->rows == 1 && ends_in(name, "weight") ? 1 : 0;
        t.deviation = 0.02f;
    } else if (role == ROLE_EMBEDDING) {
        t.deviation = 1;
    } else {
        t.deviation = (float)(1 / sqrt((double)m->taps * m->depth));
    }
    return t;
}

/* The finalizer of splitmix64: every bit of the place changes half of the bits. */
static inline uint64_t hash_of(uint64_t key, uint64_t place)
{
    uint64_t x = key + place * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static inline float one(const random_tensor *t, uint32_t sum, float scale) { return t->mean + ((float)sum - 510) * scale; }

/* Numbers 2 place and 2 place + 1 */
static inline void pair(const random_tensor *t, uint64_t place, float scale, float out[2])
{
    const uint64_t even = 0x00ff00ff00ff00ffu;
    uint64_t x = hash_of(t->key, place);
    x = (x & even) + (x >> 8 & even); /* four sums of two bytes */
    x += x >> 16;                     /* the lower half of each 32 bits: a sum of four */
    out[0] = one(t, x & 0x3ff, scale);
    out[1] = one(t, x >> 32 & 0x3ff, scale);
}

void random_fill(const random_tensor *t, uint64_t first, size_t n, float *out)
{
    float scale = t->deviation / BYTES_DEVIATION, two[2];
    size_t i = 0;
    if (first % 2 && n > 0) {
        pair(t, first / 2, scale, two);
        out[i++] = two[1];
    }
    for (; i + 2 <= n; i += 2)
        pair(t, (first + i) / 2, scale, out + i);
    if (i < n) {
        pair(t, (first + i) / 2, scale, two);
        out[i] = two[0];
    }
}
