/* kernels_avxvnni.c: AVX2 with VNNI in its VEX form (Intel's 12th generation and later, Zen 5): gemm_i8; the rest is AVX2's.
 * With PENSTOCK_EVEX the same source is compiled in AVX-512VL's encoding, under another name, so that the tests
 * reach it on machines that have no AVX-VNNI. */
#include "simd/sets.h"

#if defined(HAVE_AVXVNNI) || defined(PENSTOCK_EVEX)
#include <immintrin.h>
#include <string.h>

#include "simd/soon.h"

#ifdef PENSTOCK_EVEX
#define SET(name) name##_avxvnni_evex
#define SET_NAME "avxvnni_evex"
#define DPBUSD _mm256_dpbusd_epi32
extern const kernels kernels_avxvnni_evex;
#else
#define SET(name) name##_avxvnni
#define SET_NAME "avxvnni"
#define DPBUSD _mm256_dpbusd_avx_epi32
#endif

#define ALWAYS static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")
#define IN_ORDER __asm__ volatile("") /* nothing is scheduled across: gcc would load all tokens first and run out of registers */

/* dpbusd multiplies unsigned by signed bytes: the weights enter as w + 128 and 128 times the sum of the activations is taken off again.
 * A tile is 6 tokens x 4 rows, two registers of 2 rows x 16 k: with 12 sums, 2 of weights, one of activations and the
 * constant all 16 registers are in use, and 12 sums hide dpbusd's latency. */
enum { I8_TOKENS = 6, I8_BLOCK = 1024 };

/* Sums are kept as what they are, not as __m256i: converting back and forth in a loop makes gcc 12 keep each twice. */
typedef int32_t v8si __attribute__((vector_size(32)));

typedef struct i8_job {
    const int8_t *const *a;
    const float *a_scale;
    const int32_t *a_sum;
    int tokens, segments, depth;
    const int8_t *w;
    const float *row_scale;
    int rows;
    float *out;
    size_t out_stride;
    const void *soon;
    size_t soon_bytes;
} i8_job;

/* Two registers of [2 rows][4 partial sums] -> the 4 sums. */
ALWAYS __m128i sum_rows(__m256i a, __m256i b)
{
    __m256i x = _mm256_hadd_epi32(a, b); /* 0 0 2 2 | 1 1 3 3 */
    x = _mm256_hadd_epi32(x, x);         /* 0 2 0 2 | 1 3 1 3 */
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}

ALWAYS void i8_segment(int T, const int8_t *const a[], const int8_t *w, size_t depth, v8si c[][2])
{
    const __m256i flip = _mm256_set1_epi8((char)0x80);
    for (size_t k = 0; k < depth; k += 16, w += 256) {
        __m256i b[2];
        UNROLL for (int r = 0; r < 2; r++)
            b[r] = _mm256_xor_si256(flip, _mm256_loadu_si256((const __m256i *)(const void *)(w + r * 32)));
        UNROLL for (int i = 0; i < T; i++) {
            __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(a[i] + k)));
            UNROLL for (int r = 0; r < 2; r++)
                c[i][r] = (v8si)DPBUSD((__m256i)c[i][r], b[r], x);
            IN_ORDER;
        }
    }
}

/* The sums of a segment, from what I8_BLOCK numbers at a time leave of them: a block of the panel and of the tokens' rows stays in the
 * first cache while the quarters pass over it. */
ALWAYS void i8_quarters(int T, const i8_job *g, const int8_t *const row[], const int8_t *w, v8si c[][I8_TOKENS][2], asking *ask)
{
    const int8_t *a[I8_TOKENS];
    int quarters = (g->rows + 3) / 4;
    memset(c, 0, sizeof(v8si[4][I8_TOKENS][2]));
    for (int k = 0; k < g->depth; k += I8_BLOCK) {
        UNROLL for (int i = 0; i < T; i++)
            a[i] = row[i] + k;
        size_t n = (size_t)(g->depth - k < I8_BLOCK ? g->depth - k : I8_BLOCK);
        for (int quarter = 0; quarter < quarters; quarter++) {
            asking_lines(ask); /* not in the loop, which has no register to spare */
            i8_segment(T, a, w + (size_t)k * PANEL_ROWS + quarter * 64, n, c[quarter]);
        }
    }
}

ALWAYS void i8_store(float *out, int rows, __m128 x)
{
    if (rows >= 4)
        _mm_storeu_ps(out, x);
    else
        _mm_maskstore_ps(out, _mm_cmpgt_epi32(_mm_set1_epi32(rows), _mm_setr_epi32(0, 1, 2, 3)), x);
}

/* Tokens from t. */
ALWAYS void i8_tile(int T, const i8_job *g, int t)
{
    v8si c[4][I8_TOKENS][2];
    __m128 total[4][I8_TOKENS];
    asking ask = asking_part(g->soon, g->soon_bytes, (size_t)t, (size_t)T, (size_t)g->tokens,
                             4 * (size_t)g->segments * (((size_t)g->depth + I8_BLOCK - 1) / I8_BLOCK));
    memset(total, 0, sizeof total);
    for (int s = 0; s < g->segments; s++) {
        const size_t at = (size_t)s * (size_t)g->tokens + (size_t)t;
        i8_quarters(T, g, g->a + at, g->w + (size_t)s * (size_t)g->depth * PANEL_ROWS, c, &ask);
        for (int quarter = 0; 4 * quarter < g->rows; quarter++)
            UNROLL for (int i = 0; i < T; i++) {
                __m128i sum = sum_rows((__m256i)c[quarter][i][0], (__m256i)c[quarter][i][1]);
                sum = _mm_sub_epi32(sum, _mm_set1_epi32(128 * g->a_sum[at + (size_t)i]));
                __m128 term = _mm_mul_ps(_mm_cvtepi32_ps(sum), _mm_set1_ps(g->a_scale[at + (size_t)i]));
                total[quarter][i] = _mm_add_ps(total[quarter][i], term);
            }
    }
    for (int quarter = 0; 4 * quarter < g->rows; quarter++) {
        int rows = g->rows - 4 * quarter;
        __m128 scale = _mm_maskload_ps(g->row_scale + 4 * quarter, _mm_cmpgt_epi32(_mm_set1_epi32(rows), _mm_setr_epi32(0, 1, 2, 3)));
        UNROLL for (int i = 0; i < T; i++)
            i8_store(g->out + (size_t)(t + i) * g->out_stride + 4 * quarter, rows, _mm_mul_ps(total[quarter][i], scale));
    }
}

#define TILES(X) X(6) X(5) X(4) X(3) X(2) X(1)
#define TILE(T) static __attribute__((noinline)) void i8_tile_##T(const i8_job *g, int t) { i8_tile(T, g, t); }
TILES(TILE)
#undef TILE

static void SET(gemm_i8)(const int8_t *const *a, const float *a_scale, const int32_t *a_sum, int tokens, int segments, int depth,
                         const int8_t *w, const float *row_scale, int rows, float *out, size_t out_stride,
                         const void *soon, size_t soon_bytes)
{
    static void (*const tiles[])(const i8_job *g, int t) = {NULL, i8_tile_1, i8_tile_2, i8_tile_3, i8_tile_4, i8_tile_5, i8_tile_6};
    const i8_job g = {a, a_scale, a_sum, tokens, segments, depth, w, row_scale, rows, out, out_stride, soon ? soon : w, soon ? soon_bytes : 0};
    for (int t = 0, step; t < tokens; t += step) {
        int left = tokens - t;
        step = left >= 12 ? 6 : left > 6 ? (left + 1) / 2 : left; /* none is left to go alone */
        tiles[step](&g, t);
    }
}

#define gemm_i8_avx2 SET(gemm_i8)
const kernels SET(kernels) = {
    .name = SET_NAME,
    .attention_element = 4,
#define X(name, args) .name = name##_avx2,
#include "simd/kernels.def"
#undef X
};
#endif
