/* kernels_dotprod.c: AArch64 with sdot (ARMv8.2): gemm_i8; the rest is NEON's. */
#include "simd/sets.h"

#ifdef HAVE_DOTPROD
#include <arm_neon.h>

#define I8(name) name##_dotprod
#define I8_KERNEL static
#define I8_UNROLL _Pragma("GCC unroll 32")
#define I8_TILES(X) X(6) X(4) X(2) X(1)
enum { I8_TOKENS = 6 };

static inline int32x4_t multiply_dotprod(int32x4_t c, int8x16_t w, int8x16_t a)
{
    return vdotq_s32(c, w, a);
}
#include "simd/gemm_i8_arm.inc"

#define gemm_i8_neon gemm_i8_dotprod
const kernels kernels_dotprod = {
    .name = "dotprod",
    .attention_element = 4,
#define X(name, args) .name = name##_neon,
#include "simd/kernels.def"
#undef X
};
#endif
