/* vec_avx2.h: the vector of 8 floats that float_kernels.inc is written on; see vec_avx512.h for what is not said here. */
#ifndef PENSTOCK_VEC_AVX2_H
#define PENSTOCK_VEC_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define VEC(name) name##_avx2
enum { VL = 8, SQUARE = 8 };
/* For 16 registers. */
#define GEMM_TOKENS(X, V) X(6, V) X(5, V) X(4, V) X(3, V) X(2, V) X(1, V)
#define GEMM_WIDTHS(X) X(2) X(1)
enum { GEMM_MOST_TOKENS = 6, GEMM_MOST_WIDTH = 2, GEMM_ROWS = 64, GEMM_BLOCK = 256 };
#define ATTENTION_TILES(X) X(6) X(4) X(2) X(1)
#define EXP_LEAST (-88.0f)

#define IN_ORDER

typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;
typedef struct vd { __m256d lo, hi; } vd;

static inline __m256i vm_first(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vf vf_set1(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
static inline vf vf_load_n(const float *p, size_t n) { return _mm256_maskload_ps(p, vm_first(n)); }
static inline void vf_store_n(float *p, vf x, size_t n) { _mm256_maskstore_ps(p, vm_first(n), x); }

static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
static inline vf vf_fma1(vf a, const float *b, vf c) { return _mm256_fmadd_ps(a, _mm256_set1_ps(*b), c); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline vm vf_less(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vf vf_select(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
static inline vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf vf_scale2(vf p, vf n) /* 2^128 is infinity, 2^-127 is zero here: p is only off where it is as good */
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
}
static inline void vf_transpose4(const float *x, size_t x_stride, float *to, size_t to_stride)
{
    __m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + x_stride);
    __m128 c = _mm_loadu_ps(x + 2 * x_stride), d = _mm_loadu_ps(x + 3 * x_stride);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a), _mm_storeu_ps(to + to_stride, b);
    _mm_storeu_ps(to + 2 * to_stride, c), _mm_storeu_ps(to + 3 * to_stride, d);
}

static inline void vf_transpose(const float *x, size_t x_stride, float *to, size_t to_stride)
{
    for (int half = 0; half < 2; half++, x += 4, to += 4 * to_stride) {
        __m256 a[4]; /* rows i and i + 4 */
        for (int i = 0; i < 4; i++)
            a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x + (size_t)i * x_stride)), _mm_loadu_ps(x + (size_t)(i + 4) * x_stride), 1);
        __m256 low = _mm256_unpacklo_ps(a[0], a[1]), high = _mm256_unpackhi_ps(a[0], a[1]);
        __m256 low2 = _mm256_unpacklo_ps(a[2], a[3]), high2 = _mm256_unpackhi_ps(a[2], a[3]);
        _mm256_storeu_ps(to, _mm256_shuffle_ps(low, low2, 0x44)), _mm256_storeu_ps(to + to_stride, _mm256_shuffle_ps(low, low2, 0xee));
        _mm256_storeu_ps(to + 2 * to_stride, _mm256_shuffle_ps(high, high2, 0x44));
        _mm256_storeu_ps(to + 3 * to_stride, _mm256_shuffle_ps(high, high2, 0xee));
    }
}

static inline vd vd_zero(void) { return (vd){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
static inline __m256d vf_low_half(vf a) { return _mm256_cvtps_pd(_mm256_castps256_ps128(a)); }
static inline __m256d vf_high_half(vf a) { return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)); }
static inline vd vd_add(vd s, vf a)
{
    return (vd){_mm256_add_pd(s.lo, vf_low_half(a)), _mm256_add_pd(s.hi, vf_high_half(a))};
}
static inline vd vd_add_square(vd s, vf a)
{
    __m256d lo = vf_low_half(a), hi = vf_high_half(a);
    return (vd){_mm256_fmadd_pd(lo, lo, s.lo), _mm256_fmadd_pd(hi, hi, s.hi)};
}
static inline double vd_sum(vd s)
{
    __m256d x = _mm256_add_pd(s.lo, s.hi);
    __m128d y = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(y, _mm_unpackhi_pd(y, y)));
}

static inline vi vi_zero(void) { return _mm256_setzero_si256(); }
static inline vi vi_round(vf a) { return _mm256_cvtps_epi32(a); }
static inline vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
static inline int32_t vi_sum(vi a)
{
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
static inline vi vi_max(vi a, vi b) { return _mm256_max_epi32(a, b); }
static inline int32_t vi_largest(vi a)
{
    __m128i x = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
static inline vi vi_magnitude(vf a) { return _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffffff)); }
static inline void vi_store_i8(int8_t *p, vi a)
{
    __m128i x = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(x, x));
}

static inline void vi_store4_i8(int8_t *p, const vi v[4])
{
    __m256i x = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3])); /* groups of 4: 0 2 4 6 | 1 3 5 7 */
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

static inline vf vf_butterflies(vf x)
{
    x = _mm256_fmadd_ps(x, _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1), _mm256_permute_ps(x, 0xb1));
    x = _mm256_fmadd_ps(x, _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1), _mm256_permute_ps(x, 0x4e));
    return _mm256_fmadd_ps(x, _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1), _mm256_permute2f128_ps(x, x, 1));
}

static inline vf vf_from_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)); }
static inline vf vf_from_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}
static inline vf vf_from_f8e4m3(const uint8_t *p)
{
    __m128i b = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)p)), top = _mm_set1_epi16(0x7f);
    __m128i magnitude = _mm_and_si128(b, top), sign = _mm_slli_epi16(_mm_sub_epi16(b, magnitude), 8);
    __m128i h = _mm_blendv_epi8(_mm_slli_epi16(magnitude, 7), _mm_set1_epi16(0x7e00), _mm_cmpeq_epi16(magnitude, top));
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(sign, h)), _mm256_set1_ps(256));
}

#endif
