/* vec_avx512.h: the vector of 16 floats that float_kernels.inc is written on (vec_avx2.h and vec_neon.h: its sisters). */
#ifndef PENSTOCK_VEC_AVX512_H
#define PENSTOCK_VEC_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define VEC(name) name##_avx512
enum { VL = 16, SQUARE = 16 };
/* Shapes of tiles for 32 registers: tokens x vectors of rows of gemm_f32 (most of them, and how many k are packed at a
 * time: 16 KiB, half of a small first cache), keys or channels x QUERY_TILE / VL of attention. Widest first. */
#define GEMM_TOKENS(X, V) X(12, V) X(4, V) X(2, V) X(1, V)
#define GEMM_WIDTHS(X) X(2) X(1)
enum { GEMM_MOST_TOKENS = 12, GEMM_MOST_WIDTH = 2, GEMM_ROWS = 64, GEMM_BLOCK = 256 };
#define ATTENTION_TILES(X) X(12) X(8) X(4) X(2) X(1)
/* Where vf_exp stops: e^x has become 0 by way of vf_scale2. */
#define EXP_LEAST (-110.0f)

#define IN_ORDER /* needed on NEON: see there */

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;
typedef struct vd { __m512d lo, hi; } vd; /* as many doubles as a vf has floats, in any order */

static inline __mmask16 vm_first(size_t n) { return (__mmask16)((1u << n) - 1); }

static inline vf vf_set1(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
/* The first n < VL, zeros behind them; nothing else is touched. */
static inline vf vf_load_n(const float *p, size_t n) { return _mm512_maskz_loadu_ps(vm_first(n), p); }
static inline void vf_store_n(float *p, vf x, size_t n) { _mm512_mask_storeu_ps(p, vm_first(n), x); }

static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a b + c */
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
static inline vf vf_fma1(vf a, const float *b, vf c) { return _mm512_fmadd_ps(a, _mm512_set1_ps(*b), c); }
/* b where either is a NaN */
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_abs(vf a) { return _mm512_abs_ps(a); }
static inline vm vf_less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vf vf_select(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
static inline vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* p * 2^n for whole n in -127..128; p near 1 */
static inline vf vf_scale2(vf p, vf n) { return _mm512_scalef_ps(p, n); }

/* to[j * stride + i] = x[i][j], i and j < 4 */
static inline void vf_transpose4(const float *x, size_t x_stride, float *to, size_t to_stride)
{
    __m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + x_stride);
    __m128 c = _mm_loadu_ps(x + 2 * x_stride), d = _mm_loadu_ps(x + 3 * x_stride);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a), _mm_storeu_ps(to + to_stride, b);
    _mm_storeu_ps(to + 2 * to_stride, c), _mm_storeu_ps(to + 3 * to_stride, d);
}

/* Likewise i and j < SQUARE. */
static inline void vf_transpose(const float *x, size_t x_stride, float *to, size_t to_stride)
{
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i++)
        a[i] = _mm512_loadu_ps(x + (size_t)i * x_stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) /* a[i + n]: column n of each lane, rows i .. i + 3 */
        for (int n = 0; n < 2; n++) {
            a[i + 2 * n] = _mm512_shuffle_ps(b[i + n], b[i + 2 + n], 0x44);
            a[i + 2 * n + 1] = _mm512_shuffle_ps(b[i + n], b[i + 2 + n], 0xee);
        }
    for (int n = 0; n < 4; n++) {
        __m512 low = _mm512_shuffle_f32x4(a[n], a[4 + n], 0x88), high = _mm512_shuffle_f32x4(a[n], a[4 + n], 0xdd); /* columns n, 8 + n; 4 + n, 12 + n */
        __m512 low2 = _mm512_shuffle_f32x4(a[8 + n], a[12 + n], 0x88), high2 = _mm512_shuffle_f32x4(a[8 + n], a[12 + n], 0xdd);
        float *out = to + (size_t)n * to_stride;
        _mm512_storeu_ps(out, _mm512_shuffle_f32x4(low, low2, 0x88));
        _mm512_storeu_ps(out + 4 * to_stride, _mm512_shuffle_f32x4(high, high2, 0x88));
        _mm512_storeu_ps(out + 8 * to_stride, _mm512_shuffle_f32x4(low, low2, 0xdd));
        _mm512_storeu_ps(out + 12 * to_stride, _mm512_shuffle_f32x4(high, high2, 0xdd));
    }
}

static inline vd vd_zero(void) { return (vd){_mm512_setzero_pd(), _mm512_setzero_pd()}; }
static inline __m512d vf_low_half(vf a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
static inline __m512d vf_high_half(vf a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }
static inline vd vd_add(vd s, vf a)
{
    return (vd){_mm512_add_pd(s.lo, vf_low_half(a)), _mm512_add_pd(s.hi, vf_high_half(a))};
}
static inline vd vd_add_square(vd s, vf a)
{
    __m512d lo = vf_low_half(a), hi = vf_high_half(a);
    return (vd){_mm512_fmadd_pd(lo, lo, s.lo), _mm512_fmadd_pd(hi, hi, s.hi)};
}
static inline double vd_sum(vd s) { return _mm512_reduce_add_pd(_mm512_add_pd(s.lo, s.hi)); }

/* Integers: the rounded vf, to even. */
static inline vi vi_zero(void) { return _mm512_setzero_si512(); }
static inline vi vi_round(vf a) { return _mm512_cvtps_epi32(a); }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline int32_t vi_sum(vi a) { return _mm512_reduce_add_epi32(a); }
static inline vi vi_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
static inline int32_t vi_largest(vi a) { return _mm512_reduce_max_epi32(a); }
static inline vi vi_magnitude(vf a) { return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)); } /* its bits */
static inline void vi_store_i8(int8_t *p, vi a) { _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a)); }
static inline void vi_store4_i8(int8_t *p, const vi v[4]) /* four neighbours */
{
    for (int i = 0; i < 4; i++)
        vi_store_i8(p + i * VL, v[i]);
}

/* Hadamard butterflies of one register at strides 1, 2, 4, 8: the sum with the partner where the stride's bit of the
 * lane is 0, the partner minus x where it is 1. A product with 1 or -1 is exact, so that the sum alone rounds. */
static inline vf vf_butterfly(vf x, vf swapped, vm upper)
{
    return _mm512_fmadd_ps(x, _mm512_mask_blend_ps(upper, _mm512_set1_ps(1), _mm512_set1_ps(-1)), swapped);
}
static inline vf vf_butterflies(vf x)
{
    x = vf_butterfly(x, _mm512_permute_ps(x, 0xb1), 0xaaaa);
    x = vf_butterfly(x, _mm512_permute_ps(x, 0x4e), 0xcccc);
    x = vf_butterfly(x, _mm512_shuffle_f32x4(x, x, 0xb1), 0xf0f0);
    return vf_butterfly(x, _mm512_shuffle_f32x4(x, x, 0x4e), 0xff00);
}

static inline vf vf_from_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
static inline vf vf_from_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)), 16));
}
/* The format's bits moved into an f16 are the value / 256, subnormals included; only the NaN needs a look. */
static inline vf vf_from_f8e4m3(const uint8_t *p)
{
    __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
    __m256i magnitude = _mm256_and_si256(b, _mm256_set1_epi16(0x7f)), sign = _mm256_slli_epi16(_mm256_sub_epi16(b, magnitude), 8);
    __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
    __m256i h = _mm256_mask_mov_epi16(_mm256_slli_epi16(magnitude, 7), nan, _mm256_set1_epi16(0x7e00));
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, h)), _mm512_set1_ps(256));
}

#endif
