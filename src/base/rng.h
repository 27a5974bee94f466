/* rng.h: the noise of torch.Generator("cpu"), number for number.
 *
 * rng_seed(&g, seed) is manual_seed(seed); rng_normal is torch.randn(n, generator=g, dtype=torch.float32) and
 * rng_uniform is torch.rand(n, generator=g, dtype=torch.float32). Consecutive calls continue the same stream, as they do
 * in torch, so the ORDER and the SIZES of the draws matter: two draws of 8 are not one draw of 16.
 *
 *     rng g;
 *     rng_seed(&g, seed + k);                       // image k of a batch
 *     rng_normal(&g, latents, channels * h * w);    // in torch's order: channel by channel, row by row
 *
 * An rng is a plain value without pointers: copy it to fork the stream. It is not for cryptography. */
#ifndef PENSTOCK_RNG_H
#define PENSTOCK_RNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rng {
    uint32_t state[624]; /* mt19937 */
    int next;            /* next word of state to hand out; 624: refill first */
    bool has_spare;      /* torch keeps the second normal of a pair drawn by the scalar path (n < 16) */
    double spare;
} rng;

/* torch uses the low 32 bits of the seed only. */
void rng_seed(rng *g, uint64_t seed);

/* n standard normal floats: exactly torch's on x86-64 with AVX2 or better; torch's other paths (old x86, Arm)
 * differ from these by an ulp or two. */
void rng_normal(rng *g, float *out, size_t n);

/* n floats in [0, 1), multiples of 2^-24. */
void rng_uniform(rng *g, float *out, size_t n);

/* n exponentially distributed floats (rate 1), as Tensor.exponential_ draws them. */
void rng_exponential(rng *g, float *out, size_t n);

/* The i with the greatest weight[i] / sum / q[i] in floats, the first of equals, where q are n numbers of rng_exponential: what torch.multinomial draws. */
size_t rng_race(rng *g, const float *weight, float sum, size_t n);

/* One word of the generator, for tests and for seeding. */
uint32_t rng_word(rng *g);

#endif
