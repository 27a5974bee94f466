/* kernels_avx512.c: AVX-512 F, BW, VL, DQ and VNNI. */
#include "simd/sets.h"

#ifdef HAVE_AVX512
#include <string.h>

#include "simd/soon.h"
#include "simd/vec_avx512.h"

#define KERNEL /* the BF16 set borrows these */
#include "simd/float_kernels.inc"

/* dpbusd multiplies unsigned by signed bytes: the weights enter as w + 128 and 128 times the sum of the activations is
 * taken off again. A panel's chunk of 16 k is four registers of 4 rows x 16 k; 4 tokens (5 at the end) x 4 registers of sums stay in
 * registers (6 tokens spill with gcc 12, and run at half the rate). */
enum { I8_TOKENS = 5, PREFETCH_AHEAD = 4096 };

/* Sums are kept as what they are, not as __m512i: converting back and forth in a loop makes gcc 12 keep each twice. */
typedef int32_t v16si __attribute__((vector_size(64)));

/* Four registers of [4 rows][4 partial sums] -> 16 sums, in the order of the rows. */
ALWAYS __m512i sum_rows(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)); /* a0 b0 a1 b1 */
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i x = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd)); /* a b c d of a row */
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x);
}

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

ALWAYS void i8_tile(int T, const i8_job *g, int t)
{
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    __m512 total[I8_TOKENS];
    UNROLL for (int i = 0; i < T; i++)
        total[i] = _mm512_setzero_ps();
    const int8_t *w = g->w;
    asking ask = asking_part(g->soon, g->soon_bytes, (size_t)t, (size_t)T, (size_t)g->tokens, (size_t)g->segments * (size_t)g->depth / 16);
    for (int s = 0; s < g->segments; s++) {
        const size_t at = (size_t)s * (size_t)g->tokens + (size_t)t;
        const int8_t *a[I8_TOKENS];
        v16si c[I8_TOKENS][4];
        UNROLL for (int i = 0; i < T; i++) {
            a[i] = g->a[at + (size_t)i];
            UNROLL for (int r = 0; r < 4; r++)
                c[i][r] = (v16si){0};
        }
        for (size_t k = 0; k < (size_t)g->depth; k += 16, w += 256) {
            __m512i b[4];
            asking_step(&ask);
            UNROLL for (int r = 0; r < 4; r++)
                b[r] = _mm512_xor_si512(flip, _mm512_loadu_si512(w + r * 64));
            UNROLL for (int i = 0; i < T; i++) {
                __m512i x = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(a[i] + k)));
                UNROLL for (int r = 0; r < 4; r++)
                    c[i][r] = (v16si)_mm512_dpbusd_epi32((__m512i)c[i][r], b[r], x);
            }
        }
        UNROLL for (int i = 0; i < T; i++) {
            __m512i sum = sum_rows((__m512i)c[i][0], (__m512i)c[i][1], (__m512i)c[i][2], (__m512i)c[i][3]);
            sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(128 * g->a_sum[at + (size_t)i]));
            __m512 term = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(g->a_scale[at + (size_t)i]));
            total[i] = _mm512_add_ps(total[i], term);
        }
    }
    __mmask16 rows = (__mmask16)((1u << g->rows) - 1);
    __m512 scale = _mm512_maskz_loadu_ps(rows, g->row_scale);
    UNROLL for (int i = 0; i < T; i++)
        _mm512_mask_storeu_ps(g->out + (size_t)(t + i) * g->out_stride, rows, _mm512_mul_ps(total[i], scale));
}

static __attribute__((noinline)) void i8_tile_5(const i8_job *g, int t) { i8_tile(5, g, t); }
static __attribute__((noinline)) void i8_tile_4(const i8_job *g, int t) { i8_tile(4, g, t); }
static __attribute__((noinline)) void i8_tile_3(const i8_job *g, int t) { i8_tile(3, g, t); }
static __attribute__((noinline)) void i8_tile_2(const i8_job *g, int t) { i8_tile(2, g, t); }
static __attribute__((noinline)) void i8_tile_1(const i8_job *g, int t) { i8_tile(1, g, t); }

void gemm_i8_avx512(const int8_t *const *a, const float *a_scale, const int32_t *a_sum, int tokens, int segments,
                    int depth, const int8_t *w, const float *row_scale, int rows, float *out, size_t out_stride,
                    const void *soon, size_t soon_bytes)
{
    const i8_job g = {a, a_scale, a_sum, tokens, segments, depth, w, row_scale, rows, out, out_stride, soon ? soon : w, soon ? soon_bytes : 0};
    static void (*const tiles[])(const i8_job *g, int t) = {NULL, i8_tile_1, i8_tile_2, i8_tile_3, i8_tile_4, i8_tile_5};
    for (int t = 0, step; t < tokens; t += step) {
        step = tokens - t <= 5 ? tokens - t : 4; /* none is left to go alone, which takes as long as two */
        tiles[step](&g, t);
    }
}

/* The tables of 4 rows, one a lane; shift 0: for the first 16 k of the block, 4: for the second. */
ALWAYS __m512i row_tables(const uint8_t *sel, int shift, const int8_t *table)
{
#define TABLE(i) _mm_loadu_si128((const __m128i *)(const void *)(table + ((sel[i] >> shift) & 15) * 16))
    __m256i lo = _mm256_inserti128_si256(_mm256_castsi128_si256(TABLE(0)), TABLE(1), 1);
    __m256i hi = _mm256_inserti128_si256(_mm256_castsi128_si256(TABLE(2)), TABLE(3), 1);
#undef TABLE
    return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}

void decode_q4_avx512(const uint8_t *sel, const uint8_t *codes, int depth, const int8_t *table, int8_t *out)
{
    const __m512i low = _mm512_set1_epi8(15);
    for (int b = 0; b < depth / 32; b++, sel += 16, codes += 256, out += 512) {
        for (int line = 0; line < 256; line += 64) /* new to every cache as a rule */
            __builtin_prefetch(codes + PREFETCH_AHEAD + line);
        for (int row = 0; row < PANEL_ROWS; row += 4) {
            __m512i v = _mm512_loadu_si512(codes + row * 16);
            __m512i first = _mm512_and_si512(v, low), second = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
            _mm512_storeu_si512(out + row * 16, _mm512_shuffle_epi8(row_tables(sel + row, 0, table), first));
            _mm512_storeu_si512(out + 256 + row * 16, _mm512_shuffle_epi8(row_tables(sel + row, 4, table), second));
        }
    }
}

void decode_q5_avx512(const uint8_t *sel, const uint8_t *codes, const uint8_t *signs, int depth, const int8_t *table, int8_t *out)
{
    const __m512i low = _mm512_set1_epi8(15), zero = _mm512_setzero_si512();
    for (int b = 0; b < depth / 32; b++, sel += 16, codes += 256, signs += 64, out += 512)
        for (int row = 0; row < PANEL_ROWS; row += 4) {
            uint64_t bits[2]; /* the masks as they lie */
            memcpy(&bits[0], signs + row * 2, sizeof bits[0]);
            memcpy(&bits[1], signs + 32 + row * 2, sizeof bits[1]);
            __m512i v = _mm512_loadu_si512(codes + row * 16);
            __m512i first = _mm512_and_si512(v, low), second = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
            first = _mm512_shuffle_epi8(row_tables(sel + row, 0, table), first);
            second = _mm512_shuffle_epi8(row_tables(sel + row, 4, table), second);
            _mm512_storeu_si512(out + row * 16, _mm512_mask_sub_epi8(first, bits[0], zero, first));
            _mm512_storeu_si512(out + 256 + row * 16, _mm512_mask_sub_epi8(second, bits[1], zero, second));
        }
}

#define SEARCH(name) name##_avx512
#include "simd/search_x86.inc"

const kernels kernels_avx512 = {
    .name = "avx512",
    .attention_element = 4,
#define X(name, args) .name = name##_avx512,
#include "simd/kernels.def"
#undef X
};
#endif
