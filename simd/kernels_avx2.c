/* kernels_avx2.c: AVX2, FMA and F16C. */
#include "simd/sets.h"

#ifdef HAVE_AVX2
#include <string.h>

#include "simd/soon.h"
#include "simd/vec_avx2.h"

#define KERNEL /* the AVX-VNNI set borrows these */
#include "simd/float_kernels.inc"

/* maddubs multiplies unsigned by signed bytes and adds two products with saturation at 16 bits, so the unsigned factor
 * must fit 7 bits. Three ways, all exact:
 *  NARROW  where a panel's weights all lie in -64..63, as those of the 4-bit formats do: w + 64 times a, less 64 times
 *          the sum of the activations at the end;
 *  FLIP    |w| times (a xor m), m = -1 where w < 0: that is -a - 1 there, and what lacks is the sum of |w| over the
 *          negative weights of the row, the same for every token (127 * 128 * 2 = 32512 fits);
 *  SIGN    |w| times a with the sign of w, which needs no sum beforehand, for few tokens; vpsignb shares the
 *          multipliers' ports on some processors.
 * NARROW and SIGN take tiles of 4 tokens (5 at the end) x 4 rows: two registers of 2 rows x 16 k. FLIP has four operations for each
 * product, as many as there are vector units, and on Zen 4 every load into a register costs as much as one more: its tiles are 8
 * tokens x 2 rows, and the tokens are doubled in memory first, so that they are operands of the xor. */
enum { I8_TOKENS = 5, FLIP_TOKENS = 8, FLIP_BLOCK = 512, ROW_PAIRS = PANEL_ROWS / 2, I8_SEGMENTS = 64, PREFETCH_AHEAD = 4096 };
typedef enum i8_way { SIGN, FLIP, NARROW } i8_way;

/* Sums are kept as what they are, not as __m256i: converting back and forth in a loop makes gcc 12 keep each of them
 * twice, and spill. */
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
    i8_way way;
    const int32_t *negative; /* FLIP: [segments][16 rows] */
} i8_job;

/* ---- SIGN and NARROW ---- */

/* Two registers of [2 rows][4 partial sums] -> the 4 sums. */
ALWAYS __m128i sum_rows(__m256i a, __m256i b)
{
    __m256i x = _mm256_hadd_epi32(a, b); /* 0 0 2 2 | 1 1 3 3 */
    x = _mm256_hadd_epi32(x, x);         /* 0 2 0 2 | 1 3 1 3 */
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}

ALWAYS void i8_segment(int T, i8_way way, const int8_t *const a[], const int8_t *w, size_t depth, v8si c[][2], asking *ask)
{
    const __m256i one = _mm256_set1_epi16(1), offset = _mm256_set1_epi8(64);
    for (size_t k = 0; k < depth; k += 16, w += 256) {
        __m256i b[2], u[2];
        asking_step(ask);
        UNROLL for (int r = 0; r < 2; r++) {
            b[r] = _mm256_loadu_si256((const __m256i *)(const void *)(w + r * 32));
            u[r] = way == NARROW ? _mm256_add_epi8(b[r], offset) : _mm256_abs_epi8(b[r]);
        }
        UNROLL for (int i = 0; i < T; i++) {
            __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(a[i] + k)));
            UNROLL for (int r = 0; r < 2; r++) {
                __m256i y = way == NARROW ? x : _mm256_sign_epi8(x, b[r]);
                c[i][r] += (v8si)_mm256_madd_epi16(_mm256_maddubs_epi16(u[r], y), one);
            }
        }
    }
}

/* Tokens from t, rows from 4 * quarter. */
ALWAYS void i8_tile(int T, i8_way way, const i8_job *g, int t, int quarter)
{
    __m128 total[I8_TOKENS];
    UNROLL for (int i = 0; i < T; i++)
        total[i] = _mm_setzero_ps();
    asking ask = asking_part(g->soon, g->soon_bytes, (size_t)(4 * t + quarter * T), (size_t)T, 4 * (size_t)g->tokens,
                             (size_t)g->segments * (size_t)g->depth / 16);
    for (int s = 0; s < g->segments; s++) {
        const size_t at = (size_t)s * (size_t)g->tokens + (size_t)t, depth = (size_t)g->depth;
        const int8_t *a[I8_TOKENS];
        v8si c[I8_TOKENS][2];
        UNROLL for (int i = 0; i < T; i++) {
            a[i] = g->a[at + (size_t)i];
            c[i][0] = c[i][1] = (v8si){0};
        }
        i8_segment(T, way, a, g->w + (size_t)s * depth * PANEL_ROWS + quarter * 64, depth, c, &ask);
        UNROLL for (int i = 0; i < T; i++) {
            __m128i sum = sum_rows((__m256i)c[i][0], (__m256i)c[i][1]);
            if (way == NARROW)
                sum = _mm_sub_epi32(sum, _mm_set1_epi32(64 * g->a_sum[at + (size_t)i]));
            __m128 term = _mm_mul_ps(_mm_cvtepi32_ps(sum), _mm_set1_ps(g->a_scale[at + (size_t)i]));
            total[i] = _mm_add_ps(total[i], term);
        }
    }
    int rows = g->rows - 4 * quarter;
    __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32(rows), _mm_setr_epi32(0, 1, 2, 3));
    __m128 scale = _mm_maskload_ps(g->row_scale + 4 * quarter, mask);
    float *out = g->out + (size_t)t * g->out_stride + 4 * quarter;
    UNROLL for (int i = 0; i < T; i++, out += g->out_stride)
        if (rows >= 4)
            _mm_storeu_ps(out, _mm_mul_ps(total[i], scale));
        else
            _mm_maskstore_ps(out, mask, _mm_mul_ps(total[i], scale));
}

#define TILE(T)                                                    \
    static __attribute__((noinline)) void i8_tile_##T(const i8_job *g, int t, int quarter) \
    {                                                              \
        if (g->way == SIGN)                                        \
            i8_tile(T, SIGN, g, t, quarter);                       \
        else                                                       \
            i8_tile(T, NARROW, g, t, quarter);                     \
    }
TILE(5)
TILE(4)
TILE(3)
TILE(2)
TILE(1)
#undef TILE

/* ---- FLIP ---- */

/* c[token] += 2 rows x `depth` k, of each row 4 partial sums. doubled: [16 k][token][16 k twice], written by the first of the passes
 * over a block (a given) and read by the others. */
ALWAYS void flip_pass(int T, const int8_t *const *a, int8_t *doubled, const int8_t *w, size_t depth, v8si c[], asking *ask)
{
    const __m256i one = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
    enum { STEPS = 2 };
    asking_lines(ask);
    for (size_t k = 0; k < depth; k += 16 * STEPS, w += 256 * STEPS, doubled += 32 * STEPS * T) {
        __m256i u[STEPS], m[STEPS];
        UNROLL for (int s = 0; s < STEPS; s++) {
            __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(w + s * 256));
            u[s] = _mm256_abs_epi8(b);
            m[s] = _mm256_cmpgt_epi8(zero, b);
        }
        UNROLL for (int i = 0; i < T; i++) {
            __m256i y[STEPS];
            UNROLL for (int s = 0; s < STEPS; s++) {
                __m256i *twice = (__m256i *)(void *)(doubled + (s * T + i) * 32), x;
                if (a)
                    _mm256_store_si256(twice, x = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(a[i] + k + s * 16))));
                else
                    x = _mm256_load_si256(twice);
                y[s] = _mm256_maddubs_epi16(u[s], _mm256_xor_si256(x, m[s]));
            }
            c[i] += (v8si)_mm256_madd_epi16(y[0], one);
            c[i] += (v8si)_mm256_madd_epi16(y[1], one);
        }
    }
}

/* c[pair of rows][token] += their sums over `depth` <= FLIP_BLOCK. */
ALWAYS void flip_block(int T, const int8_t *const a[], const int8_t *w, size_t depth, int pairs, v8si c[][FLIP_TOKENS], asking *ask)
{
    _Alignas(64) int8_t doubled[FLIP_BLOCK * 2 * T];
    for (int pair = 0; pair < pairs; pair++, w += 32) {
        v8si sum[FLIP_TOKENS];
        UNROLL for (int i = 0; i < T; i++)
            sum[i] = c[pair][i];
        if (pair == 0)
            flip_pass(T, a, doubled, w, depth, sum, ask);
        else
            flip_pass(T, NULL, doubled, w, depth, sum, ask);
        UNROLL for (int i = 0; i < T; i++)
            c[pair][i] = sum[i];
    }
}

/* Four tokens' [2 rows][4 partial sums] -> the sums, [2 rows][4 tokens]. */
ALWAYS __m256i flip_sums(const v8si c[4])
{
    __m256i t0 = (__m256i)c[0], t1 = (__m256i)c[1], t2 = (__m256i)c[2], t3 = (__m256i)c[3];
    __m256i low = _mm256_add_epi32(_mm256_unpacklo_epi32(t0, t1), _mm256_unpackhi_epi32(t0, t1)); /* 0 1 0 1 */
    __m256i high = _mm256_add_epi32(_mm256_unpacklo_epi32(t2, t3), _mm256_unpackhi_epi32(t2, t3));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high));
}

/* The first n <= 4 of the tokens' scales, in both halves. */
ALWAYS __m256 flip_scales(const float *scale, int n)
{
    if (n >= 4)
        return _mm256_broadcast_ps((const __m128 *)(const void *)scale);
    __m128 some = _mm_maskload_ps(scale, _mm_cmpgt_epi32(_mm_set1_epi32(n), _mm_setr_epi32(0, 1, 2, 3)));
    return _mm256_insertf128_ps(_mm256_castps128_ps256(some), some, 1);
}

/* total[half][4 tokens of 2 rows] += a segment's sums, each times its token's scale. */
ALWAYS void flip_add_segment(int T, const i8_job *g, int s, int t, int pair, const v8si c[FLIP_TOKENS], __m256 total[2])
{
    const int32_t *negative = g->negative + s * PANEL_ROWS + 2 * pair;
    const float *scale = g->a_scale + (size_t)s * (size_t)g->tokens + (size_t)t;
    UNROLL for (int half = 0; 4 * half < T; half++) {
        __m256i sum = flip_sums(c + 4 * half);
        sum = _mm256_add_epi32(sum, _mm256_setr_m128i(_mm_set1_epi32(negative[0]), _mm_set1_epi32(negative[1])));
        total[half] = _mm256_add_ps(total[half], _mm256_mul_ps(_mm256_cvtepi32_ps(sum), flip_scales(scale + 4 * half, T - 4 * half)));
    }
}

/* Tokens t .. t + T - 1, [row pairs][half][2 rows][4 tokens], to rows of out. */
ALWAYS void flip_out(int T, const i8_job *g, int t, __m256 total[ROW_PAIRS][2])
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int row = 0; row < g->rows; row += 8) {
        __m256i mask = vm_first((size_t)(g->rows - row < 8 ? g->rows - row : 8));
        __m256 scale = _mm256_maskload_ps(g->row_scale + row, mask);
        UNROLL for (int half = 0; 4 * half < T; half++) {
            __m256 a = total[row / 2][half], b = total[row / 2 + 1][half], c = total[row / 2 + 2][half], d = total[row / 2 + 3][half];
            __m256 ab = _mm256_unpacklo_ps(a, b), ab2 = _mm256_unpackhi_ps(a, b), cd = _mm256_unpacklo_ps(c, d), cd2 = _mm256_unpackhi_ps(c, d);
            __m256 token[4] = {_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee), _mm256_shuffle_ps(ab2, cd2, 0x44),
                               _mm256_shuffle_ps(ab2, cd2, 0xee)}; /* rows 0 2 4 6 | 1 3 5 7 */
            UNROLL for (int i = 0; i < 4; i++)
                if (4 * half + i < T)
                    _mm256_maskstore_ps(g->out + (size_t)(t + 4 * half + i) * g->out_stride + row, mask,
                                        _mm256_mul_ps(_mm256_permutevar8x32_ps(token[i], order), scale));
        }
    }
}

/* A segment that one block holds: the sums stay in registers. */
ALWAYS void flip_short(int T, const i8_job *g, int s, int t, int pairs, __m256 total[][2], asking *ask)
{
    _Alignas(64) int8_t doubled[FLIP_BLOCK * 2 * T];
    const size_t depth = (size_t)g->depth;
    const int8_t *const *a = g->a + (size_t)s * (size_t)g->tokens + (size_t)t, *w = g->w + (size_t)s * depth * PANEL_ROWS;
    for (int pair = 0; pair < pairs; pair++, w += 32) {
        v8si c[FLIP_TOKENS] = {{0}};
        if (pair == 0)
            flip_pass(T, a, doubled, w, depth, c, ask);
        else
            flip_pass(T, NULL, doubled, w, depth, c, ask);
        flip_add_segment(T, g, s, t, pair, c, total[pair]);
    }
}

/* Block by block, each for all rows, so that the first cache holds the tokens. */
ALWAYS void flip_long(int T, const i8_job *g, int s, int t, int pairs, __m256 total[][2], asking *ask)
{
    const size_t depth = (size_t)g->depth;
    const int8_t *a[FLIP_TOKENS], *w = g->w + (size_t)s * depth * PANEL_ROWS;
    v8si c[ROW_PAIRS][FLIP_TOKENS];
    memset(c, 0, sizeof c);
    for (size_t k = 0; k < depth; k += FLIP_BLOCK) {
        UNROLL for (int i = 0; i < T; i++)
            a[i] = g->a[(size_t)s * (size_t)g->tokens + (size_t)(t + i)] + k;
        flip_block(T, a, w + k * PANEL_ROWS, depth - k < FLIP_BLOCK ? depth - k : FLIP_BLOCK, pairs, c, ask);
    }
    for (int pair = 0; pair < pairs; pair++)
        flip_add_segment(T, g, s, t, pair, c[pair], total[pair]);
}

ALWAYS void flip_tile(int T, const i8_job *g, int t)
{
    __m256 total[ROW_PAIRS][2];
    const int pairs = (g->rows + 1) / 2;
    asking ask = asking_part(g->soon, g->soon_bytes, (size_t)t, (size_t)T, (size_t)g->tokens,
                             (size_t)pairs * (size_t)g->segments * (((size_t)g->depth + FLIP_BLOCK - 1) / FLIP_BLOCK));
    memset(total, 0, sizeof total);
    for (int s = 0; s < g->segments; s++)
        if (g->depth <= FLIP_BLOCK)
            flip_short(T, g, s, t, pairs, total, &ask);
        else
            flip_long(T, g, s, t, pairs, total, &ask);
    flip_out(T, g, t, total);
}

#define TILES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#define TILE(T) static __attribute__((noinline)) void flip_tile_##T(const i8_job *g, int t) { flip_tile(T, g, t); }
TILES(TILE)
#undef TILE
static void (*const flip_tiles[])(const i8_job *g, int t) = {
#define TILE(T) [T] = flip_tile_##T,
    TILES(TILE)
#undef TILE
};
#undef TILES

/* ---- the weights looked at, and a way chosen ---- */

/* Whether all n bytes lie in -64..63, that is, whether their two top bits agree. */
static bool is_narrow(const int8_t *w, size_t n)
{
    for (size_t end = 512; n; w += end, n -= end) { /* as a rule the first few tell */
        __m256i differ = _mm256_setzero_si256();
        end = n < end ? n : end;
        for (size_t i = 0; i < end; i += 32) {
            __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(w + i));
            differ = _mm256_or_si256(differ, _mm256_xor_si256(x, _mm256_add_epi8(x, x)));
        }
        if (_mm256_movemask_epi8(differ))
            return false;
    }
    return true;
}

/* sums[s * 16 + row] = the sum of |w| over the negative weights. */
static void sum_negative(const int8_t *w, int segments, int depth, int32_t *sums)
{
    const __m256i one = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
    for (int s = 0; s < segments; s++, w += (size_t)depth * PANEL_ROWS)
        for (int pair = 0; pair < 8; pair += 2) {
            v8si c[2] = {{0}, {0}};
            for (int k = 0; k < depth; k += 16)
                UNROLL for (int r = 0; r < 2; r++) {
                    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(w + k * 16 + (pair + r) * 32));
                    __m256i u = _mm256_and_si256(_mm256_abs_epi8(x), _mm256_cmpgt_epi8(zero, x));
                    c[r] += (v8si)_mm256_madd_epi16(_mm256_maddubs_epi16(u, _mm256_set1_epi8(1)), one);
                }
            _mm_storeu_si128((__m128i *)(void *)(sums + s * 16 + pair * 2), sum_rows((__m256i)c[0], (__m256i)c[1]));
        }
}

void gemm_i8_avx2(const int8_t *const *a, const float *a_scale, const int32_t *a_sum, int tokens, int segments, int depth,
                  const int8_t *w, const float *row_scale, int rows, float *out, size_t out_stride, const void *soon, size_t soon_bytes)
{
    i8_job g = {a, a_scale, a_sum, tokens, segments, depth, w, row_scale, rows, out, out_stride, soon ? soon : w, soon ? soon_bytes : 0, SIGN, NULL};
    int32_t negative[I8_SEGMENTS * PANEL_ROWS];
    if (tokens >= 6) { /* looking at the weights costs about a token's time */
        if (is_narrow(w, (size_t)segments * (size_t)depth * PANEL_ROWS))
            g.way = NARROW;
        else if (segments <= I8_SEGMENTS) {
            sum_negative(w, segments, depth, negative);
            g.way = FLIP;
            g.negative = negative;
        }
    }
    if (g.way == FLIP) {
        int tiles = (tokens + FLIP_TOKENS - 1) / FLIP_TOKENS;
        for (int t = 0, step; t < tokens; t += step, tiles--) {
            step = (tokens - t + tiles - 1) / tiles; /* as even as can be */
            flip_tiles[step](&g, t);
        }
        return;
    }
    static void (*const tiles[])(const i8_job *g, int t, int quarter) = {NULL, i8_tile_1, i8_tile_2, i8_tile_3, i8_tile_4, i8_tile_5};
    for (int t = 0; t < tokens;) {
        int left = tokens - t, step = left <= 5 ? left : 4; /* none is left to go alone, which takes as long as three */
        for (int quarter = 0; 4 * quarter < rows; quarter++)
            tiles[step](&g, t, quarter);
        t += step;
    }
}

/* The tables of 2 rows, one a lane; shift 0: for the first 16 k of the block, 4: for the second. */
ALWAYS __m256i row_tables(const uint8_t *sel, int shift, const int8_t *table)
{
#define TABLE(i) _mm_loadu_si128((const __m128i *)(const void *)(table + ((sel[i] >> shift) & 15) * 16))
    return _mm256_inserti128_si256(_mm256_castsi128_si256(TABLE(0)), TABLE(1), 1);
#undef TABLE
}

void decode_q4_avx2(const uint8_t *sel, const uint8_t *codes, int depth, const int8_t *table, int8_t *out)
{
    const __m256i low = _mm256_set1_epi8(15);
    for (int b = 0; b < depth / 32; b++, sel += 16, codes += 256, out += 512) {
        for (int line = 0; line < 256; line += 64) /* new to every cache as a rule */
            __builtin_prefetch(codes + PREFETCH_AHEAD + line);
        for (int row = 0; row < PANEL_ROWS; row += 2) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(codes + row * 16));
            __m256i first = _mm256_and_si256(v, low), second = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
            __m256i *to = (__m256i *)(void *)(out + row * 16);
            _mm256_storeu_si256(to, _mm256_shuffle_epi8(row_tables(sel + row, 0, table), first));
            _mm256_storeu_si256(to + 8, _mm256_shuffle_epi8(row_tables(sel + row, 4, table), second));
        }
    }
}

/* Bits to masks: each byte of the 32 numbers sees the byte of `bits` that holds its bit. */
ALWAYS __m256i negate_where(__m256i x, uint32_t bits)
{
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i b = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), spread), bit);
    __m256i mask = _mm256_cmpeq_epi8(b, bit);
    return _mm256_sub_epi8(_mm256_xor_si256(x, mask), mask);
}

void decode_q5_avx2(const uint8_t *sel, const uint8_t *codes, const uint8_t *signs, int depth, const int8_t *table, int8_t *out)
{
    const __m256i low = _mm256_set1_epi8(15);
    for (int b = 0; b < depth / 32; b++, sel += 16, codes += 256, signs += 64, out += 512)
        for (int row = 0; row < PANEL_ROWS; row += 2) {
            uint32_t bits[2];
            memcpy(&bits[0], signs + row * 2, sizeof bits[0]);
            memcpy(&bits[1], signs + 32 + row * 2, sizeof bits[1]);
            __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(codes + row * 16));
            __m256i first = _mm256_and_si256(v, low), second = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
            __m256i *to = (__m256i *)(void *)(out + row * 16);
            _mm256_storeu_si256(to, negate_where(_mm256_shuffle_epi8(row_tables(sel + row, 0, table), first), bits[0]));
            _mm256_storeu_si256(to + 8, negate_where(_mm256_shuffle_epi8(row_tables(sel + row, 4, table), second), bits[1]));
        }
}

#define SEARCH(name) name##_avx2
#include "simd/search_x86.inc"

const kernels kernels_avx2 = {
    .name = "avx2",
    .attention_element = 4,
#define X(name, args) .name = name##_avx2,
#include "simd/kernels.def"
#undef X
};
#endif
