/* vec_neon.h: the vector of 4 floats that float_kernels.inc is written on; see vec_avx512.h for what is not said here. */
#ifndef PENSTOCK_VEC_NEON_H
#define PENSTOCK_VEC_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VEC(name) name##_neon
enum { VL = 4, SQUARE = 4 };
/* For 32 registers. */
#define GEMM_TOKENS(X, V) X(6, V) X(4, V) X(2, V) X(1, V)
#define GEMM_WIDTHS(X) X(4) X(2) X(1)
enum { GEMM_MOST_TOKENS = 6, GEMM_MOST_WIDTH = 4, GEMM_ROWS = 64, GEMM_BLOCK = 128 };
#define ATTENTION_TILES(X) X(6) X(4) X(2) X(1)
#define EXP_LEAST (-88.0f)

/* Nothing is scheduled across: gcc would load all of a tile's operands first, and run out of registers for its sums. */
#define IN_ORDER __asm__ volatile("")

typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32x4_t vm;
typedef struct vd { float64x2_t lo, hi; } vd;

static inline vf vf_set1(float x) { return vdupq_n_f32(x); }
static inline vf vf_load(const float *p) { return vld1q_f32(p); }
static inline void vf_store(float *p, vf x) { vst1q_f32(p, x); }
static inline vf vf_load_n(const float *p, size_t n)
{
    vf x = vld1q_lane_f32(p, vdupq_n_f32(0), 0);
    x = n > 1 ? vld1q_lane_f32(p + 1, x, 1) : x;
    return n > 2 ? vld1q_lane_f32(p + 2, x, 2) : x;
}
static inline void vf_store_n(float *p, vf x, size_t n)
{
    vst1q_lane_f32(p, x, 0);
    if (n > 1)
        vst1q_lane_f32(p + 1, x, 1);
    if (n > 2)
        vst1q_lane_f32(p + 2, x, 2);
}

static inline vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf vf_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); }
static inline vf vf_fma1(vf a, const float *b, vf c) { return vfmaq_n_f32(c, a, *b); }
static inline vf vf_max(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf vf_min(vf a, vf b) { return vminq_f32(a, b); }
static inline vf vf_abs(vf a) { return vabsq_f32(a); }
static inline vm vf_less(vf a, vf b) { return vcltq_f32(a, b); }
static inline vf vf_select(vm m, vf yes, vf no) { return vbslq_f32(m, yes, no); }
static inline vf vf_round(vf a) { return vrndnq_f32(a); }
static inline vf vf_scale2(vf p, vf n) /* as in vec_avx2.h */
{
    int32x4_t e = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(e, 23)));
}

static inline void vf_transpose4(const float *x, size_t x_stride, float *to, size_t to_stride)
{
    float32x4_t a = vld1q_f32(x), b = vld1q_f32(x + x_stride), c = vld1q_f32(x + 2 * x_stride), d = vld1q_f32(x + 3 * x_stride);
    float64x2_t ab0 = vreinterpretq_f64_f32(vzip1q_f32(a, b)), ab1 = vreinterpretq_f64_f32(vzip2q_f32(a, b));
    float64x2_t cd0 = vreinterpretq_f64_f32(vzip1q_f32(c, d)), cd1 = vreinterpretq_f64_f32(vzip2q_f32(c, d));
    vst1q_f32(to, vreinterpretq_f32_f64(vzip1q_f64(ab0, cd0)));
    vst1q_f32(to + to_stride, vreinterpretq_f32_f64(vzip2q_f64(ab0, cd0)));
    vst1q_f32(to + 2 * to_stride, vreinterpretq_f32_f64(vzip1q_f64(ab1, cd1)));
    vst1q_f32(to + 3 * to_stride, vreinterpretq_f32_f64(vzip2q_f64(ab1, cd1)));
}

static inline void vf_transpose(const float *x, size_t x_stride, float *to, size_t to_stride) { vf_transpose4(x, x_stride, to, to_stride); }

static inline vd vd_zero(void) { return (vd){vdupq_n_f64(0), vdupq_n_f64(0)}; }
static inline vd vd_add(vd s, vf a)
{
    return (vd){vaddq_f64(s.lo, vcvt_f64_f32(vget_low_f32(a))), vaddq_f64(s.hi, vcvt_high_f64_f32(a))};
}
static inline vd vd_add_square(vd s, vf a)
{
    float64x2_t lo = vcvt_f64_f32(vget_low_f32(a)), hi = vcvt_high_f64_f32(a);
    return (vd){vfmaq_f64(s.lo, lo, lo), vfmaq_f64(s.hi, hi, hi)};
}
static inline double vd_sum(vd s) { return vaddvq_f64(vaddq_f64(s.lo, s.hi)); }

static inline vi vi_zero(void) { return vdupq_n_s32(0); }
static inline vi vi_round(vf a) { return vcvtnq_s32_f32(a); }
static inline vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
static inline int32_t vi_sum(vi a) { return vaddvq_s32(a); }
static inline vi vi_max(vi a, vi b) { return vmaxq_s32(a, b); }
static inline int32_t vi_largest(vi a) { return vmaxvq_s32(a); }
static inline vi vi_magnitude(vf a) { return vandq_s32(vreinterpretq_s32_f32(a), vdupq_n_s32(0x7fffffff)); }
static inline void vi_store_i8(int8_t *p, vi a)
{
    int16x4_t h = vmovn_s32(a);
    int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(h, h))), 0);
    memcpy(p, &bytes, sizeof bytes);
}

static inline void vi_store4_i8(int8_t *p, const vi v[4])
{
    int16x8_t low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1])), high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

static inline vf vf_butterflies(vf x)
{
    const float32x4_t odd = {1, -1, 1, -1}, high = {1, 1, -1, -1};
    x = vfmaq_f32(vrev64q_f32(x), x, odd);
    return vfmaq_f32(vextq_f32(x, x, 2), x, high);
}

static inline vf vf_from_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline vf vf_from_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
static inline vf vf_from_f8e4m3(const uint8_t *p)
{
    uint32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    uint16x4_t b = vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)))), top = vdup_n_u16(0x7f);
    uint16x4_t magnitude = vand_u16(b, top), sign = vshl_n_u16(vsub_u16(b, magnitude), 8);
    uint16x4_t h = vbsl_u16(vceq_u16(magnitude, top), vdup_n_u16(0x7e00), vshl_n_u16(magnitude, 7));
    return vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(vorr_u16(sign, h))), 256);
}

#endif
