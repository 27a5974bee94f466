/* kernels_i8mm.c: AArch64 with smmla (ARMv8.6): gemm_i8; the rest is NEON's.
 *
 * smmla multiplies two rows of 8 k by two rows of 8 k into 2 x 2 sums. Two rows of a chunk of 16 k lie beside each
 * other in a panel, and two tokens are brought together the same way: the low halves in one register, the high halves
 * in another. A tile is 4 pairs of tokens x 4 pairs of rows. */
#include "simd/sets.h"

#ifdef HAVE_I8MM
#include <arm_neon.h>

#define ALWAYS static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")
#define IN_ORDER __asm__ volatile("") /* nothing scheduled across: see vec_neon.h */

enum { PAIRS = 4 };

typedef struct i8_job {
    const int8_t *const *a;
    const float *a_scale;
    int tokens, segments, depth;
    const int8_t *w;
    const float *row_scale;
    int rows;
    float *out;
    size_t out_stride;
} i8_job;

/* Bytes 0..7 of x and y (low), bytes 8..15 (high). */
ALWAYS int8x16_t low_halves(int8x16_t x, int8x16_t y)
{
    return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(x), vreinterpretq_s64_s8(y)));
}
ALWAYS int8x16_t high_halves(int8x16_t x, int8x16_t y)
{
    return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(x), vreinterpretq_s64_s8(y)));
}

/* c[p][r]: tokens 2p, 2p + 1 by rows 2r, 2r + 1. */
ALWAYS void i8_segment(int P, const int8_t *const a[], const int8_t *w, size_t depth, int32x4_t c[][PAIRS])
{
    for (size_t k = 0; k < depth; k += 16, w += 256) {
        int8x16_t low[PAIRS], high[PAIRS];
        UNROLL for (int r = 0; r < PAIRS; r++) {
            int8x16_t x = vld1q_s8(w + r * 32), y = vld1q_s8(w + r * 32 + 16);
            low[r] = low_halves(x, y);
            high[r] = high_halves(x, y);
            IN_ORDER;
        }
        UNROLL for (int p = 0; p < P; p++) {
            int8x16_t x = vld1q_s8(a[2 * p] + k), y = vld1q_s8(a[2 * p + 1] + k);
            int8x16_t al = low_halves(x, y), ah = high_halves(x, y);
            UNROLL for (int r = 0; r < PAIRS; r++)
                c[p][r] = vmmlaq_s32(c[p][r], al, low[r]);
            UNROLL for (int r = 0; r < PAIRS; r++)
                c[p][r] = vmmlaq_s32(c[p][r], ah, high[r]);
            IN_ORDER;
        }
    }
}

/* total += (float)sum * scale for the 8 rows of one token: half 0 the first token of a pair, 1 the second. */
ALWAYS void add_terms(const int32x4_t c[PAIRS], int half, float scale, float32x4_t total[2])
{
    UNROLL for (int i = 0; i < 2; i++) {
        int64x2_t x = vreinterpretq_s64_s32(c[2 * i]), y = vreinterpretq_s64_s32(c[2 * i + 1]);
        int32x4_t sum = vreinterpretq_s32_s64(half ? vzip2q_s64(x, y) : vzip1q_s64(x, y));
        float32x4_t term = vmulq_n_f32(vcvtq_f32_s32(sum), scale);
        total[i] = vaddq_f32(total[i], term);
    }
}

/* Tokens t ... t + count - 1 (2 P, or one less, whose place the last takes twice), rows from 8 * half. */
ALWAYS void i8_tile(int P, const i8_job *g, int t, int count, int half)
{
    float32x4_t total[2 * PAIRS][2];
    UNROLL for (int i = 0; i < 2 * P; i++)
        total[i][0] = total[i][1] = vdupq_n_f32(0);
    for (int s = 0; s < g->segments; s++) {
        const size_t at = (size_t)s * (size_t)g->tokens + (size_t)t, depth = (size_t)g->depth;
        const int8_t *a[2 * PAIRS];
        float scale[2 * PAIRS];
        int32x4_t c[PAIRS][PAIRS];
        UNROLL for (int i = 0; i < 2 * P; i++) {
            size_t j = at + (size_t)(i < count ? i : count - 1);
            a[i] = g->a[j];
            scale[i] = g->a_scale[j];
        }
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int r = 0; r < PAIRS; r++)
                c[p][r] = vdupq_n_s32(0);
        i8_segment(P, a, g->w + (size_t)s * depth * PANEL_ROWS + half * 128, depth, c);
        UNROLL for (int p = 0; p < P; p++) {
            add_terms(c[p], 0, scale[2 * p], total[2 * p]);
            add_terms(c[p], 1, scale[2 * p + 1], total[2 * p + 1]);
        }
    }
    int rows = g->rows - 8 * half < 8 ? g->rows - 8 * half : 8;
    for (int i = 0; i < count; i++) {
        float sums[8], *out = g->out + (size_t)(t + i) * g->out_stride + 8 * half;
        vst1q_f32(sums, total[i][0]);
        vst1q_f32(sums + 4, total[i][1]);
        for (int r = 0; r < rows; r++)
            out[r] = sums[r] * g->row_scale[8 * half + r];
    }
}

static __attribute__((noinline)) void i8_tile_8(const i8_job *g, int t, int count, int half) { i8_tile(4, g, t, count, half); }
static __attribute__((noinline)) void i8_tile_4(const i8_job *g, int t, int count, int half) { i8_tile(2, g, t, count, half); }
static __attribute__((noinline)) void i8_tile_2(const i8_job *g, int t, int count, int half) { i8_tile(1, g, t, count, half); }

static void gemm_i8_i8mm(const int8_t *const *a, const float *a_scale, const int32_t *a_sum, int tokens, int segments,
                         int depth, const int8_t *w, const float *row_scale, int rows, float *out, size_t out_stride,
                         const void *soon, size_t soon_bytes)
{
    const i8_job g = {a, a_scale, tokens, segments, depth, w, row_scale, rows, out, out_stride};
    (void)a_sum, (void)soon, (void)soon_bytes;
    for (int t = 0; t < tokens;) {
        int left = tokens - t, most = left > 4 ? 8 : left > 2 ? 4 : 2, count = left < most ? left : most;
        for (int half = 0; 8 * half < rows; half++)
            if (most == 8)
                i8_tile_8(&g, t, count, half);
            else if (most == 4)
                i8_tile_4(&g, t, count, half);
            else
                i8_tile_2(&g, t, count, half);
        t += count;
    }
}

#define gemm_i8_neon gemm_i8_i8mm
const kernels kernels_i8mm = {
    .name = "i8mm",
    .attention_element = 4,
#define X(name, args) .name = name##_neon,
#include "simd/kernels.def"
#undef X
};
#endif
