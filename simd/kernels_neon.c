/* kernels_neon.c: what every AArch64 processor has. */
#include "simd/sets.h"

#ifdef HAVE_NEON
#include <string.h>

#include "simd/vec_neon.h"

#define KERNEL /* the later sets borrow these */
#include "simd/float_kernels.inc"

#define I8(name) name##_neon
#define I8_KERNEL
#define I8_UNROLL UNROLL
#define I8_TILES(X) X(4) X(2) X(1)
enum { I8_TOKENS = 4 };

/* Two products of at most 127 * 127 fit 16 bits. */
ALWAYS int32x4_t multiply_neon(int32x4_t c, int8x16_t w, int8x16_t a)
{
    return vpadalq_s16(c, vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(a)), w, a));
}
#include "simd/gemm_i8_arm.inc"

void decode_q4_neon(const uint8_t *sel, const uint8_t *codes, int depth, const int8_t *table, int8_t *out)
{
    const uint8x16_t low = vdupq_n_u8(15);
    for (int b = 0; b < depth / 32; b++, sel += 16, codes += 256, out += 512)
        for (int row = 0; row < PANEL_ROWS; row++) {
            uint8x16_t v = vld1q_u8(codes + row * 16);
            int8x16_t first = vld1q_s8(table + (sel[row] & 15) * 16), second = vld1q_s8(table + (sel[row] >> 4) * 16);
            vst1q_s8(out + row * 16, vqtbl1q_s8(first, vandq_u8(v, low)));
            vst1q_s8(out + 256 + row * 16, vqtbl1q_s8(second, vshrq_n_u8(v, 4)));
        }
}

/* -x in the bytes whose bit is set */
ALWAYS int8x16_t negate_where(int8x16_t x, const uint8_t *bits)
{
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    int8x16_t mask = vreinterpretq_s8_u8(vtstq_u8(vcombine_u8(vdup_n_u8(bits[0]), vdup_n_u8(bits[1])), bit));
    return vsubq_s8(veorq_s8(x, mask), mask);
}

void decode_q5_neon(const uint8_t *sel, const uint8_t *codes, const uint8_t *signs, int depth, const int8_t *table, int8_t *out)
{
    const uint8x16_t low = vdupq_n_u8(15);
    for (int b = 0; b < depth / 32; b++, sel += 16, codes += 256, signs += 64, out += 512)
        for (int row = 0; row < PANEL_ROWS; row++) {
            uint8x16_t v = vld1q_u8(codes + row * 16);
            int8x16_t first = vld1q_s8(table + (sel[row] & 15) * 16), second = vld1q_s8(table + (sel[row] >> 4) * 16);
            first = vqtbl1q_s8(first, vandq_u8(v, low));
            second = vqtbl1q_s8(second, vshrq_n_u8(v, 4));
            vst1q_s8(out + row * 16, negate_where(first, signs + row * 2));
            vst1q_s8(out + 256 + row * 16, negate_where(second, signs + 32 + row * 2));
        }
}

#include "simd/search_neon.inc"

const kernels kernels_neon = {
    .name = "neon",
    .attention_element = 4,
#define X(name, args) .name = name##_neon,
#include "simd/kernels.def"
#undef X
};
#endif
