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
 *  SIGN    |w| times a with the sign of w, for few tokens: nothing is known or done beforehand, but vpsignb shares the
 *          multipliers' ports on some processors.
 * On Zen 4 whatever stands beside a product, a load into a register too, costs as much as a third of one, since all four vector units
 * are busy. So NARROW and FLIP work on a copy of the weights, made anew in each call, as the loop wants them: a register is 4 k of 8
 * rows, NARROW already w + 64, FLIP |w| and m. Lanes are rows then, and nothing is added up across them. */
enum { SIGN_TOKENS = 5, I8_TOKENS = 5, HALVES = PANEL_ROWS / 8, COPY_BYTES = 64 * 1024, COPY_SEGMENTS = 64, ROUND_TOKENS = 256, PREFETCH_AHEAD = 4096 };
typedef enum i8_way { FLIP, NARROW } i8_way;
static inline int way_bytes(i8_way way) { return way == FLIP ? 2 : 1; } /* of a weight's copy */

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
} i8_job;

/* ---- SIGN: 1 to 5 tokens x 4 rows, two registers of 2 rows x 16 k ---- */

/* Two registers of [2 rows][4 partial sums] -> the 4 sums. */
ALWAYS __m128i sum_rows(__m256i a, __m256i b)
{
    __m256i x = _mm256_hadd_epi32(a, b); /* 0 0 2 2 | 1 1 3 3 */
    x = _mm256_hadd_epi32(x, x);         /* 0 2 0 2 | 1 3 1 3 */
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}

ALWAYS void sign_segment(int T, const int8_t *const a[], const int8_t *w, size_t depth, v8si c[][2], asking *ask)
{
    const __m256i one = _mm256_set1_epi16(1);
    for (size_t k = 0; k < depth; k += 16, w += 256) {
        __m256i b[2], u[2];
        asking_step(ask);
        UNROLL for (int r = 0; r < 2; r++) {
            b[r] = _mm256_loadu_si256((const __m256i *)(const void *)(w + r * 32));
            u[r] = _mm256_abs_epi8(b[r]);
        }
        UNROLL for (int i = 0; i < T; i++) {
            __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(a[i] + k)));
            UNROLL for (int r = 0; r < 2; r++)
                c[i][r] += (v8si)_mm256_madd_epi16(_mm256_maddubs_epi16(u[r], _mm256_sign_epi8(x, b[r])), one);
        }
    }
}

/* All tokens, rows from 4 * quarter. */
ALWAYS void sign_tile(int T, const i8_job *g, int quarter)
{
    __m128 total[SIGN_TOKENS];
    UNROLL for (int i = 0; i < T; i++)
        total[i] = _mm_setzero_ps();
    const size_t depth = (size_t)g->depth;
    asking ask = asking_part(g->soon, g->soon_bytes, (size_t)quarter, 1, 4, (size_t)g->segments * depth / 16);
    for (int s = 0; s < g->segments; s++) {
        const size_t at = (size_t)s * (size_t)T;
        v8si c[SIGN_TOKENS][2];
        UNROLL for (int i = 0; i < T; i++)
            c[i][0] = c[i][1] = (v8si){0};
        sign_segment(T, g->a + at, g->w + (size_t)s * depth * PANEL_ROWS + quarter * 64, depth, c, &ask);
        UNROLL for (int i = 0; i < T; i++) {
            __m128 sum = _mm_cvtepi32_ps(sum_rows((__m256i)c[i][0], (__m256i)c[i][1]));
            total[i] = _mm_add_ps(total[i], _mm_mul_ps(sum, _mm_set1_ps(g->a_scale[at + (size_t)i])));
        }
    }
    int rows = g->rows - 4 * quarter;
    __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32(rows), _mm_setr_epi32(0, 1, 2, 3));
    __m128 scale = _mm_maskload_ps(g->row_scale + 4 * quarter, mask);
    float *out = g->out + 4 * quarter;
    UNROLL for (int i = 0; i < T; i++, out += g->out_stride)
        if (rows >= 4)
            _mm_storeu_ps(out, _mm_mul_ps(total[i], scale));
        else
            _mm_maskstore_ps(out, mask, _mm_mul_ps(total[i], scale));
}

#define TILES(X) X(1) X(2) X(3) X(4) X(5)
#define TILE(T) static __attribute__((noinline)) void sign_tile_##T(const i8_job *g, int quarter) { sign_tile(T, g, quarter); }
TILES(TILE)
#undef TILE
static void (*const sign_tiles[])(const i8_job *g, int quarter) = {
#define TILE(T) [T] = sign_tile_##T,
    TILES(TILE)
#undef TILE
};
#undef TILES

/* ---- NARROW and FLIP: the weights copied ---- */

/* Some whole segments of a panel, or a part of one: as much as the copy holds. */
typedef struct i8_block {
    int first, segments; /* of the job's */
    size_t k, depth;     /* of a segment: its first k and how many */
    bool begins, ends;   /* with k 0; with the segment's last */
    int number, of;      /* of the panel's blocks */
    const int8_t *w;     /* [segments][depth / 4][8 rows][way_bytes][8 rows][4] */
    __m256i (*negative)[HALVES]; /* by segment; FLIP: the sum of |w| over the negative weights */
    __m256 (*total)[HALVES];     /* by token: what earlier blocks have added up */
    __m256i (*sum)[HALVES];      /* likewise, of a segment that goes on */
} i8_block;

/* 16 k of 8 rows of the panel -> 4 registers of 4 k. */
ALWAYS void turn(const int8_t *w, __m256i x[4])
{
    UNROLL for (int i = 0; i < 4; i++) {
        const __m128i *row = (const __m128i *)(const void *)(w + i * 16);
        x[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(row)), _mm_loadu_si128(row + 4), 1);
    }
    __m256i a = _mm256_unpacklo_epi32(x[0], x[1]), b = _mm256_unpackhi_epi32(x[0], x[1]);
    __m256i c = _mm256_unpacklo_epi32(x[2], x[3]), d = _mm256_unpackhi_epi32(x[2], x[3]);
    x[0] = _mm256_unpacklo_epi64(a, c), x[1] = _mm256_unpackhi_epi64(a, c);
    x[2] = _mm256_unpacklo_epi64(b, d), x[3] = _mm256_unpackhi_epi64(b, d);
}

/* A segment's. False: not all of it is narrow. */
ALWAYS bool copy_segment(i8_way way, const int8_t *w, size_t depth, int8_t *to, __m256i negative[HALVES])
{
    const __m256i zero = _mm256_setzero_si256(), offset = _mm256_set1_epi8(64), one = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
    __m256i seen = zero, *at = (__m256i *)(void *)to;
    v8si sum[HALVES] = {{0}};
    for (size_t k = 0; k < depth; k += 16, w += 256, at += 8 * way_bytes(way))
        UNROLL for (int half = 0; half < HALVES; half++) {
            __m256i x[4], *put = at + half * way_bytes(way), low = zero;
            turn(w + half * 128, x);
            UNROLL for (int i = 0; i < 4; i++, put += HALVES * way_bytes(way))
                if (way == NARROW) {
                    _mm256_store_si256(put, x[i] = _mm256_add_epi8(x[i], offset));
                    seen = _mm256_or_si256(seen, x[i]);
                } else {
                    _mm256_store_si256(put, _mm256_abs_epi8(x[i]));
                    _mm256_store_si256(put + 1, _mm256_cmpgt_epi8(zero, x[i]));
                    low = _mm256_add_epi16(low, _mm256_maddubs_epi16(one, _mm256_min_epi8(x[i], zero)));
                }
            sum[half] -= (v8si)_mm256_madd_epi16(low, ones);
        }
    for (int half = 0; half < HALVES; half++)
        negative[half] = (__m256i)sum[half];
    return !_mm256_movemask_epi8(seen);
}

static bool copy_block(i8_way way, const i8_job *g, const i8_block *b, int8_t *to)
{
    for (int s = 0; s < b->segments; s++, to += b->depth * PANEL_ROWS * (size_t)way_bytes(way)) {
        const int8_t *w = g->w + ((size_t)(b->first + s) * (size_t)g->depth + b->k) * PANEL_ROWS;
        if (!(way == FLIP ? copy_segment(FLIP, w, b->depth, to, b->negative[s]) : copy_segment(NARROW, w, b->depth, to, b->negative[s])))
            return false;
    }
    return true;
}

/* ---- a tile: up to 5 tokens x 16 rows ---- */

ALWAYS void i8_pass(int T, i8_way way, const int8_t *const a[], const int8_t *w, size_t depth, v8si c[][HALVES], asking *ask)
{
    const __m256i one = _mm256_set1_epi16(1), *from = (const __m256i *)(const void *)w;
    for (size_t k = 0; k < depth; k += 4, from += HALVES * way_bytes(way)) {
        __m256i u[HALVES];
        asking_step(ask);
        UNROLL for (int half = 0; half < HALVES; half++)
            u[half] = _mm256_load_si256(from + half * way_bytes(way));
        UNROLL for (int i = 0; i < T; i++) {
            __m256i x = _mm256_castps_si256(_mm256_broadcast_ss((const float *)(const void *)(a[i] + k))), y = x;
            UNROLL for (int half = 0; half < HALVES; half++) {
                if (way == FLIP) /* m in memory, or the compiler loads it beforehand and has no register left */
                    __asm__("vpxor %2, %1, %0" : "=x"(y) : "x"(x), "m"(from[half * 2 + 1]));
                c[i][half] += (v8si)_mm256_madd_epi16(_mm256_maddubs_epi16(u[half], y), one);
            }
        }
    }
}

/* Tokens from t, at `at` of this round: what the block adds to their results. */
ALWAYS void i8_tile(int T, i8_way way, const i8_job *g, const i8_block *b, int at, int t)
{
    const bool first = b->begins && b->first == 0, last = b->ends && b->first + b->segments == g->segments;
    __m256 total[I8_TOKENS][HALVES];
    asking ask = asking_part(g->soon, g->soon_bytes, (size_t)b->number * (size_t)g->tokens + (size_t)t, (size_t)T, (size_t)b->of * (size_t)g->tokens,
                             (size_t)b->segments * b->depth / 4);
    UNROLL for (int i = 0; i < T; i++)
        UNROLL for (int half = 0; half < HALVES; half++)
            total[i][half] = first ? _mm256_setzero_ps() : b->total[at + i][half];
    for (int s = 0; s < b->segments; s++) {
        const size_t row = (size_t)(b->first + s) * (size_t)g->tokens + (size_t)t;
        const int8_t *a[I8_TOKENS];
        v8si c[I8_TOKENS][HALVES];
        UNROLL for (int i = 0; i < T; i++) {
            a[i] = g->a[row + (size_t)i] + b->k;
            c[i][0] = c[i][1] = (v8si){0};
        }
        i8_pass(T, way, a, b->w + (size_t)s * b->depth * (size_t)(PANEL_ROWS * way_bytes(way)), b->depth, c, &ask);
        UNROLL for (int i = 0; i < T; i++)
            UNROLL for (int half = 0; half < HALVES; half++) {
                v8si sum = c[i][half] + (way == FLIP ? (v8si)b->negative[s][half] : (v8si){0});
                if (!b->begins)
                    sum += (v8si)b->sum[at + i][half];
                if (!b->ends) {
                    b->sum[at + i][half] = (__m256i)sum;
                    continue;
                }
                if (way == NARROW)
                    sum -= (v8si)_mm256_set1_epi32(64 * g->a_sum[row + (size_t)i]);
                total[i][half] = _mm256_add_ps(total[i][half], _mm256_mul_ps(_mm256_cvtepi32_ps((__m256i)sum), _mm256_set1_ps(g->a_scale[row + (size_t)i])));
            }
    }
    UNROLL for (int half = 0; half < HALVES; half++) {
        const int row = 8 * half;
        __m256i mask = vm_first((size_t)(g->rows <= row ? 0 : g->rows - row < 8 ? g->rows - row : 8));
        __m256 scale = _mm256_maskload_ps(g->row_scale + row, mask);
        UNROLL for (int i = 0; i < T; i++)
            if (last)
                _mm256_maskstore_ps(g->out + (size_t)(t + i) * g->out_stride + row, mask, _mm256_mul_ps(total[i][half], scale));
            else
                b->total[at + i][half] = total[i][half];
    }
}

typedef void tile_function(const i8_job *g, const i8_block *b, int at, int t);
#define TILES(X, way) X(1, way) X(2, way) X(3, way) X(4, way) X(5, way)
#define TILE(T, way)                                                                                                            \
    static __attribute__((noinline)) void i8_tile_##T##_##way(const i8_job *g, const i8_block *b, int at, int t) \
    {                                                                                                                           \
        i8_tile(T, way, g, b, at, t);                                                                                           \
    }
TILES(TILE, FLIP)
TILES(TILE, NARROW)
#undef TILE
#define TILE(T, way) [way][T] = i8_tile_##T##_##way,
static tile_function *const i8_tiles[2][I8_TOKENS + 1] = {TILES(TILE, FLIP) TILES(TILE, NARROW)};
#undef TILE
#undef TILES

/* ---- blocks, rounds ---- */

static void set_block(const i8_job *g, i8_way way, i8_block *b, int number)
{
    const size_t depth = (size_t)g->depth, most = (size_t)(COPY_BYTES / PANEL_ROWS / way_bytes(way));
    b->number = number;
    if (depth <= most) {
        int each = (int)(most / depth) < COPY_SEGMENTS ? (int)(most / depth) : COPY_SEGMENTS;
        b->of = (g->segments + each - 1) / each;
        b->first = number * each;
        b->segments = g->segments - b->first < each ? g->segments - b->first : each;
        b->k = 0;
        b->depth = depth;
    } else {
        size_t parts = (depth + most - 1) / most, each = ((depth / 32 + parts - 1) / parts) * 32;
        parts = (depth + each - 1) / each;
        b->of = g->segments * (int)parts;
        b->first = number / (int)parts;
        b->segments = 1;
        b->k = (size_t)number % parts * each;
        b->depth = depth - b->k < each ? depth - b->k : each;
    }
    b->begins = b->k == 0;
    b->ends = b->k + b->depth == depth;
}

/* A round of tokens against all blocks; the tiles as even as can be. False: a weight is not narrow. */
static __attribute__((noinline)) bool i8_round(const i8_job *g, i8_way way, int t, int tokens)
{
    _Alignas(64) int8_t copy[COPY_BYTES];
    __m256i negative[COPY_SEGMENTS][HALVES], sum[ROUND_TOKENS][HALVES];
    __m256 total[ROUND_TOKENS][HALVES];
    i8_block b = {.w = copy, .negative = negative, .total = total, .sum = sum, .of = 1};
    for (int number = 0; number < b.of; number++) {
        set_block(g, way, &b, number);
        if (!copy_block(way, g, &b, copy))
            return false;
        for (int at = 0, tiles = (tokens + I8_TOKENS - 1) / I8_TOKENS; at < tokens; tiles--) {
            int step = (tokens - at + tiles - 1) / tiles;
            i8_tiles[way][step](g, &b, at, t + at);
            at += step;
        }
    }
    return true;
}

/* Whether the first of a panel's bytes lie in -64..63, that is, whether their two top bits agree: as a rule they tell for all. */
static bool looks_narrow(const int8_t *w)
{
    __m256i differ = _mm256_setzero_si256();
    for (int i = 0; i < 512; i += 32) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(w + i));
        differ = _mm256_or_si256(differ, _mm256_xor_si256(x, _mm256_add_epi8(x, x)));
    }
    return !(_mm256_movemask_epi8(differ));
}

void gemm_i8_avx2(const int8_t *const *a, const float *a_scale, const int32_t *a_sum, int tokens, int segments, int depth,
                  const int8_t *w, const float *row_scale, int rows, float *out, size_t out_stride, const void *soon, size_t soon_bytes)
{
    const i8_job g = {a, a_scale, a_sum, tokens, segments, depth, w, row_scale, rows, out, out_stride, soon ? soon : w, soon ? soon_bytes : 0};
    if (tokens <= SIGN_TOKENS) { /* copying the weights costs more than a token */
        for (int quarter = 0; 4 * quarter < rows; quarter++)
            sign_tiles[tokens](&g, quarter);
        return;
    }
    bool narrow = looks_narrow(w);
    for (int t = 0; t < tokens; t += ROUND_TOKENS) {
        int n = tokens - t < ROUND_TOKENS ? tokens - t : ROUND_TOKENS;
        narrow = narrow && i8_round(&g, NARROW, t, n);
        if (!narrow)
            i8_round(&g, FLIP, t, n);
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
