/* kernels_avx512bf16.c: AVX-512 with BF16 (Zen 4, Cooper Lake, Sapphire Rapids and later): attention where it need not be
 * exact, at twice the multiplications of f32; the rest is AVX-512's.
 *
 * dpbf16 adds two products to each of 16 sums, so operands go in pairs: q and k as pairs of channels, probabilities and v as pairs of
 * keys. As in attention.inc the lanes are the queries. Logits and sums are f32; scores are in units of log2, so that
 * e^x is 2^x, to 8e-5, which is less than the probabilities lose by being rounded. */
#include "simd/sets.h"

#ifdef HAVE_AVX512BF16
#include <math.h>
#include <string.h>

#include "simd/vec_avx512.h"
#include "simd/lanes.inc"

enum {
    Q_CHUNK = 512,   /* channels of q transposed at a time; a longer head is summed in chunks of this */
    PACK_CHUNK = 64, /* channels of k, likewise */
    TILE_MOST = 16
};

/* 16 pairs of bfloat16, rounded to even: the lanes of a in the low halves, of b in the high ones. */
ALWAYS __m512i pair(vf a, vf b)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                                           18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

ALWAYS vf multiply(vf c, __m512i a, const uint32_t *b)
{
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)_mm512_set1_epi32((int)*b));
}

static size_t pairs_of(int n) { return ((size_t)n + 1) / 2; }

/* A tile: keys as [pairs of channels][KEY_TILE], then values as [KEY_TILE / 2 pairs of keys][v_dim]: what a product reads in turn lies
 * in a row, so that one pointer reaches it. */
static void pack_keys(const float *k, size_t k_stride, int keys, int qk_dim, uint32_t *to)
{
    _Alignas(64) float t[(PACK_CHUNK + 1) * KEY_TILE];
    for (int d = 0; d < qk_dim; d += PACK_CHUNK) {
        int n = qk_dim - d < PACK_CHUNK ? qk_dim - d : PACK_CHUNK;
        VEC(transpose)(k + d, k_stride, keys, n, t, KEY_TILE);
        if (n % 2)
            memset(t + n * KEY_TILE, 0, KEY_TILE * sizeof *t);
        for (int i = 0; i < n; i += 2, to += KEY_TILE)
            for (int j = 0; j < keys; j += VL) {
                const float *x = t + i * KEY_TILE + j;
                _mm512_storeu_si512(to + j, pair(vf_load(x), vf_load(x + KEY_TILE)));
            }
    }
}

static void pack_values(const float *v, size_t v_stride, int keys, int v_dim, uint32_t *to)
{
    for (int i = 0; i < keys; i += 2, v += 2 * v_stride, to += v_dim)
        for (size_t d = 0; d < (size_t)v_dim; d += VL) {
            size_t left = (size_t)v_dim - d;
            vf second = i + 1 < keys ? load_some(v + v_stride + d, left) : vf_set1(0);
            _mm512_mask_storeu_epi32(to + d, left >= VL ? 0xffff : vm_first(left), pair(load_some(v + d, left), second));
        }
}

static void attention_pack_avx512bf16(const float *k, size_t k_stride, const float *v, size_t v_stride, int keys, int qk_dim, int v_dim,
                                      bool exact, void *packed)
{
    if (exact) {
        attention_pack_avx512(k, k_stride, v, v_stride, keys, qk_dim, v_dim, exact, packed);
        return;
    }
    pack_keys(k, k_stride, keys, qk_dim, packed);
    pack_values(v, v_stride, keys, v_dim, (uint32_t *)packed + KEY_TILE * pairs_of(qk_dim));
}

/* c[j][q] = c[j][q] * keep[q] + sum over n pairs of a[pair][q] b[pair][j] for J keys or channels; the first time whatever c
 * held counts as 0. */
ALWAYS void tile(int J, const uint32_t *a, const uint32_t *b, size_t stride, size_t n, bool first, vf keep, float *sums)
{
    vf c[TILE_MOST];
    UNROLL for (int j = 0; j < J; j++)
        c[j] = first ? vf_set1(0) : vf_mul(vf_load(sums + j * QUERY_TILE), keep);
    for (size_t i = 0; i < n; i++, a += QUERY_TILE, b += stride) {
        __m512i x = _mm512_loadu_si512(a);
        UNROLL for (int j = 0; j < J; j++)
            c[j] = multiply(c[j], x, b + j);
    }
    UNROLL for (int j = 0; j < J; j++)
        vf_store(sums + j * QUERY_TILE, c[j]);
}

#define TILES(X) X(16) X(8) X(4) X(2) X(1)
#define TILE(J)                                                                                                                     \
    static void tile_##J(const uint32_t *a, const uint32_t *b, size_t stride, size_t n, bool first, vf keep, float *sums)           \
    {                                                                                                                               \
        tile(J, a, b, stride, n, first, keep, sums);                                                                                \
    }
TILES(TILE)
#undef TILE

/* The same for any number of keys or channels. */
static void multiply_all(int width, const uint32_t *a, const uint32_t *b, size_t stride, size_t n, bool first, vf keep, float *sums)
{
    static const struct {
        int width;
        void (*run)(const uint32_t *a, const uint32_t *b, size_t stride, size_t n, bool first, vf keep, float *sums);
    } tiles[] = {
#define TILE(J) {J, tile_##J},
        TILES(TILE)
#undef TILE
    };
    for (int j = 0, i = 0; j < width; j += tiles[i].width) {
        while (tiles[i].width > width - j)
            i++;
        tiles[i].run(a, b + j, stride, n, first, keep, sums + j * QUERY_TILE);
    }
}

/* Channels d .. d + n - 1 of q times scale, in pairs. */
static void pair_queries(const float *q, size_t q_stride, int nq, int n, vf scale, uint32_t *qt)
{
    _Alignas(64) float t[(Q_CHUNK + 1) * QUERY_TILE];
    VEC(transpose_in)(q, q_stride, nq, n, t);
    memset(t + n * QUERY_TILE, 0, QUERY_TILE * sizeof *t);
    for (int d = 0; d < n; d += 2, qt += QUERY_TILE) {
        const float *x = t + d * QUERY_TILE;
        _mm512_storeu_si512(qt, pair(vf_mul(vf_load(x), scale), vf_mul(vf_load(x + QUERY_TILE), scale)));
    }
}

typedef struct softmax {
    vf most, sum, keep; /* running maximum and sum; what earlier tiles are to be multiplied by */
} softmax;

/* 2^x for x <= 0, to 8e-5: x less the nearest whole number, a cubic, and the exponent. */
ALWAYS vf power2(vf x)
{
    vf r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf p = vf_fma(vf_set1(0x1.c3f702p-5f), r, vf_set1(0x1.f0de00p-3f));
    p = vf_fma(p, r, vf_set1(0x1.62f31ap-1f));
    p = vf_fma(p, r, vf_set1(0x1.fff692p-1f));
    return _mm512_scalef_ps(p, vf_sub(x, r));
}

/* scores (+ bias) -> pairs of probabilities, in place. */
static void soften(float *scores, int keys, const float *bias, softmax *run)
{
    vf most = run->most, before = most;
    for (int i = 0; i < keys; i++) {
        vf s = vf_load(scores + i * QUERY_TILE);
        if (bias) {
            s = vf_fma(vf_load(bias + i * QUERY_TILE), vf_set1(1.44269504f), s);
            vf_store(scores + i * QUERY_TILE, s);
        }
        most = vf_max(most, s);
    }
    /* Keys masked by -inf so far: nothing to subtract. */
    vf top = vf_select(vf_less(most, vf_set1(-3.0e38f)), vf_set1(0), most);
    run->keep = power2(vf_sub(before, top));
    run->most = most;
    vf sum = vf_mul(run->sum, run->keep), sum2 = vf_set1(0);
    for (int i = 0; i < keys; i += 2) {
        vf a = power2(vf_sub(vf_load(scores + i * QUERY_TILE), top)), b = vf_set1(0);
        if (i + 1 < keys)
            b = power2(vf_sub(vf_load(scores + (i + 1) * QUERY_TILE), top));
        _mm512_storeu_si512(scores + i / 2 * QUERY_TILE, pair(a, b));
        sum = vf_add(sum, a);
        sum2 = vf_add(sum2, b);
    }
    run->sum = vf_add(sum, sum2);
}

/* scores[key][q] of one tile of keys. */
static void score_keys(const float *q, size_t q_stride, int nq, vf scale, const uint32_t *k, int keys, int qk_dim, bool paired, uint32_t *qt,
                       float *scores)
{
    for (int d = 0; d < qk_dim; d += Q_CHUNK) {
        int depth = qk_dim - d < Q_CHUNK ? qk_dim - d : Q_CHUNK;
        if (!paired || qk_dim > Q_CHUNK)
            pair_queries(q + d, q_stride, nq, depth, scale, qt);
        multiply_all(keys, qt, k + d / 2 * KEY_TILE, KEY_TILE, pairs_of(depth), d == 0, vf_set1(1), scores);
    }
}

static void attention_packed_avx512bf16(const float *q, size_t q_stride, int nq, const void *packed, int nk, int qk_dim, int v_dim,
                                        float scale, const float *bias, size_t bias_stride, bool exact, float *out, size_t out_stride,
                                        float *scratch)
{
    if (exact) {
        attention_packed_avx512(q, q_stride, nq, packed, nk, qk_dim, v_dim, scale, bias, bias_stride, exact, out, out_stride, scratch);
        return;
    }
    _Alignas(64) uint32_t qt[Q_CHUNK / 2 * QUERY_TILE];
    _Alignas(64) float tile_bias[KEY_TILE * QUERY_TILE], sum[QUERY_TILE];
    float *scores = scratch + (64 - (uintptr_t)scratch % 64) % 64 / sizeof(float); /* the scratch has room for it */
    float *acc = scores + KEY_TILE * QUERY_TILE;
    const uint32_t *k = packed, *v;
    softmax run = {vf_set1(-INFINITY), vf_set1(0), vf_set1(0)};
    for (int start = 0; start < nk; start += KEY_TILE, k = v + KEY_TILE / 2 * (size_t)v_dim) {
        int keys = nk - start < KEY_TILE ? nk - start : KEY_TILE;
        v = k + KEY_TILE * pairs_of(qk_dim);
        score_keys(q, q_stride, nq, vf_set1(scale * 1.44269504f), k, keys, qk_dim, start > 0, qt, scores);
        if (bias)
            VEC(transpose_in)(bias + start, bias_stride, nq, keys, tile_bias);
        soften(scores, keys, bias ? tile_bias : NULL, &run);
        multiply_all(v_dim, (const uint32_t *)(const void *)scores, v, (size_t)v_dim, pairs_of(keys), start == 0, run.keep, acc);
    }
    vf_store(sum, run.sum);
    VEC(attention_out)(acc, v_dim, sum, nq, out, out_stride);
}

#define attention_pack_avx512 attention_pack_avx512bf16
#define attention_packed_avx512 attention_packed_avx512bf16
const kernels kernels_avx512bf16 = {
    .name = "avx512bf16",
    .attention_element = 2,
#define X(name, args) .name = name##_avx512,
#include "simd/kernels.def"
#undef X
};
#endif
