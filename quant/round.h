/* round.h: f32 to the 16-bit floats and back, one number at a time, to nearest even. Private to this folder.
 * (The way back for whole rows is a kernel; these serve the encoder, whose numbers must not depend on the machine.) */
#ifndef PENSTOCK_ROUND_H
#define PENSTOCK_ROUND_H

#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float bits_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* NaN stays NaN; what rounds beyond the largest becomes infinite. */
static inline uint16_t bf16_of(float x)
{
    uint32_t u = float_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float bf16_value(uint16_t h) { return bits_float((uint32_t)h << 16); }

static inline uint16_t f16_of(float x)
{
    uint32_t u = float_bits(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a >= 0x7f800000) /* infinite or NaN */
        return (uint16_t)(sign | 0x7c00 | (a > 0x7f800000 ? 0x200 : 0));
    if (a >= 0x477ff000) /* rounds to 65536 */
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) {
        /* Below 2^-14 the result is a multiple of 2^-24, which is the last place of 0.5: the addition rounds. */
        uint32_t half = float_bits(bits_float(a) + 0.5f);
        return (uint16_t)(sign | (half - 0x3f000000));
    }
    a += 0xfff + (a >> 13 & 1);
    return (uint16_t)(sign | ((a - 0x38000000) >> 13));
}

#endif
