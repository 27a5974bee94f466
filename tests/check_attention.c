/* check_attention.c: attention, in floats and over packed keys. */
#include "tests/check.h"

typedef struct attention_case {
    int nq, nk, qk, vd;
    size_t q_stride, k_stride, v_stride, bias_stride, out_stride;
    float *q, *k, *v, *bias, scale, *scratch;
} attention_case;

static void attend(const kernels *set, const attention_case *c, int first, int nq, float *out)
{
    set->attention(c->q + (size_t)first * c->q_stride, c->q_stride, nq, c->k, c->k_stride, c->v, c->v_stride, c->nk, c->qk, c->vd,
                   c->scale, c->bias ? c->bias + (size_t)first * c->bias_stride : NULL, c->bias_stride,
                   out + (size_t)first * c->out_stride, c->out_stride, c->scratch);
}

typedef enum masks { NO_BIAS, BIAS, FIRST_TILE_MASKED, CAUSAL, ALL_MASKED, BIG_LOGITS, MASKS } masks;
static const char *const mask_names[] = {"no bias", "bias", "first keys masked", "causal", "one query masked", "big logits"};

static float mask_bias(masks mask, int q, int k, int nk)
{
    bool masked = (mask == FIRST_TILE_MASKED && k + 1 < nk && k < 70) || (mask == CAUSAL && k > q) || (mask == ALL_MASKED && q == 0);
    return masked ? -INFINITY : random_normal();
}

/* Whole numbers: logits are exact whatever the order of their sum. */
static void fill_rows(float *x, int lines, size_t stride, int width, bool whole)
{
    for (int i = 0; i < lines; i++)
        for (int d = 0; d < width; d++)
            x[(size_t)i * stride + (size_t)d] = whole ? (float)random_int(-8, 8) : random_normal();
}

static attention_case make_attention(int nq, int nk, int qk, int vd, masks mask)
{
    attention_case c = {.nq = nq, .nk = nk, .qk = qk, .vd = vd, .scale = 1 / sqrtf((float)qk)};
    c.q_stride = (size_t)(qk + random_int(0, 5)), c.k_stride = (size_t)(qk + random_int(0, 5));
    c.v_stride = (size_t)(vd + random_int(0, 5)), c.out_stride = (size_t)(vd + random_int(0, 5));
    c.bias_stride = (size_t)(nk + random_int(0, 5));
    c.q = ARRAY(float, span(nq, c.q_stride, qk)), c.k = ARRAY(float, span(nk, c.k_stride, qk));
    c.v = ARRAY(float, span(nk, c.v_stride, vd));
    c.scratch = guarded(attention_scratch_floats(vd) * sizeof(float), false);
    fill_rows(c.q, nq, c.q_stride, qk, mask == BIG_LOGITS);
    fill_rows(c.k, nk, c.k_stride, qk, mask == BIG_LOGITS);
    fill_rows(c.v, nk, c.v_stride, vd, false);
    if (mask == BIG_LOGITS)
        c.scale = 0.25f;
    else if (mask != NO_BIAS) {
        c.bias = ARRAY(float, span(nq, c.bias_stride, nk));
        for (int i = 0; i < nq; i++)
            for (int j = 0; j < nk; j++)
                c.bias[(size_t)i * c.bias_stride + (size_t)j] = mask_bias(mask, i, j, nk);
        seal(c.bias);
    }
    seal(c.q), seal(c.k), seal(c.v);
    return c;
}

static void one_attention(int nq, int nk, int qk, int vd, masks mask)
{
    begin_case("%d queries, %d keys, %d and %d wide, %s", nq, nk, qk, vd, mask_names[mask]);
    attention_case c = make_attention(nq, nk, qk, vd, mask);
    size_t n = span(nq, c.out_stride, vd);
    float *out = ARRAY(float, n), *want = ARRAY(float, n), *alone = ARRAY(float, n);
    attend(run.set, &c, 0, nq, out);
    attend(run.scalar, &c, 0, nq, want);
    for (int i = 0, step; i < nq; i += step) {
        step = random_int(1, nq - i);
        attend(run.set, &c, i, step, alone);
    }
    bool same = true;
    for (int i = 0; i < nq; i++)
        for (int j = 0; j < vd; j++)
            same = same && same_float(out[(size_t)i * c.out_stride + (size_t)j], alone[(size_t)i * c.out_stride + (size_t)j]);
    near_matrix(out, want, nq, vd, c.out_stride, NULL, 2e-6 * 3 * fmax(1, sqrt(nk))); /* |v| < 3 */
    verdict(same, "a query alone differs from the same among others");
    verdict(gaps_untouched(out, nq, vd, c.out_stride), "wrote between the rows of out");
    end_case();
}

/* All tiles of keys of c, packed; sealed. */
static void *pack(const kernels *set, const attention_case *c, bool exact)
{
    size_t tile = attention_tile_bytes(exact ? NULL : set, c->qk, c->vd), tiles = (size_t)(c->nk + KEY_TILE - 1) / KEY_TILE;
    char *packed = guarded(tile * tiles, true); /* 64-byte aligned */
    for (int i = 0; i < c->nk; i += KEY_TILE)
        set->attention_pack(c->k + (size_t)i * c->k_stride, c->k_stride, c->v + (size_t)i * c->v_stride, c->v_stride,
                            c->nk - i < KEY_TILE ? c->nk - i : KEY_TILE, c->qk, c->vd, exact, packed + (size_t)(i / KEY_TILE) * tile);
    seal(packed);
    return packed;
}

static void attend_packed(const kernels *set, const attention_case *c, const void *packed, bool exact, int first, int nq, float *out)
{
    set->attention_packed(c->q + (size_t)first * c->q_stride, c->q_stride, nq, packed, c->nk, c->qk, c->vd, c->scale,
                          c->bias ? c->bias + (size_t)first * c->bias_stride : NULL, c->bias_stride, exact,
                          out + (size_t)first * c->out_stride, c->out_stride, c->scratch);
}

/* What kernels.def allows a set that rounds to bfloat16, for query i. */
static double reduced_bound(const attention_case *c, int i)
{
    double most = 0, largest = 0;
    for (int j = 0; j < c->nk; j++) {
        double sum = 0;
        for (int d = 0; d < c->qk; d++)
            sum += fabs((double)c->q[(size_t)i * c->q_stride + (size_t)d] * (double)c->k[(size_t)j * c->k_stride + (size_t)d]);
        most = fmax(most, sum);
        for (int d = 0; d < c->vd; d++)
            largest = fmax(largest, fabs((double)c->v[(size_t)j * c->v_stride + (size_t)d]));
    }
    return largest * (0x1p-7 * most * (double)c->scale + 0x1p-6);
}

static bool same_rows(const float *a, const float *b, int lines, int width, size_t stride)
{
    for (int i = 0; i < lines; i++)
        for (int j = 0; j < width; j++)
            if (!same_float(a[(size_t)i * stride + (size_t)j], b[(size_t)i * stride + (size_t)j]))
                return false;
    return true;
}

static void one_attention_packed(int nq, int nk, int qk, int vd, masks mask)
{
    begin_case("packed, %d queries, %d keys, %d and %d wide, %s", nq, nk, qk, vd, mask_names[mask]);
    attention_case c = make_attention(nq, nk, qk, vd, mask);
    size_t n = span(nq, c.out_stride, vd);
    float *out = ARRAY(float, n), *want = ARRAY(float, n), *alone = ARRAY(float, n);
    double *bounds = ARRAY(double, nq * vd);
    attend(run.set, &c, 0, nq, want);
    attend_packed(run.set, &c, pack(run.set, &c, true), true, 0, nq, out);
    verdict(same_rows(out, want, nq, vd, c.out_stride), "exact, but differs from the kernel that does not pack");
    void *packed = pack(run.set, &c, false);
    attend(run.scalar, &c, 0, nq, want);
    attend_packed(run.set, &c, packed, false, 0, nq, out);
    for (int i = 0, step; i < nq; i += step) {
        step = random_int(1, nq - i);
        attend_packed(run.set, &c, packed, false, i, step, alone);
    }
    for (int i = 0; i < nq * vd; i++)
        bounds[i] = i % vd ? bounds[i - 1] : reduced_bound(&c, i / vd);
    near_matrix(out, want, nq, vd, c.out_stride, bounds, 0);
    verdict(same_rows(out, alone, nq, vd, c.out_stride), "a query alone differs from the same among others");
    verdict(gaps_untouched(out, nq, vd, c.out_stride), "wrote between the rows of out");
    end_case();
}

/* The error that rounding makes of ordinary numbers, far below the bound for the worst. */
static void typical_error(int nk, int width)
{
    begin_case("packed, 16 queries, %d keys, %d wide, root mean square", nk, width);
    attention_case c = make_attention(16, nk, width, width, NO_BIAS);
    size_t n = span(16, c.out_stride, width);
    float *out = ARRAY(float, n), *want = ARRAY(float, n);
    double error = 0, size = 0;
    attend_packed(run.set, &c, pack(run.set, &c, false), false, 0, 16, out);
    attend(run.scalar, &c, 0, 16, want);
    for (size_t i = 0; i < n; i++)
        if (i % c.out_stride < (size_t)width) {
            error += ((double)out[i] - (double)want[i]) * ((double)out[i] - (double)want[i]);
            size += (double)want[i] * (double)want[i];
        }
    verdict(error <= size * 5e-3 * 5e-3, "relative error %.5f, not below 0.005", sqrt(error / size));
    end_case();
}

void test_attention_packed(void)
{
    static const int widths[] = {1, 2, 3, 5, 8, 16, 31, 40, 64, 72, 77}, keys[] = {1, 2, 3, 13, 63, 64, 65, 77, 128, 130, 200};
    for (int nq = 1; nq <= QUERY_TILE; nq++)
        for (int i = 0; i < MASKS; i++)
            one_attention_packed(nq, PICK(keys), PICK(widths), PICK(widths), (masks)i);
    one_attention_packed(16, 300, 64, 64, CAUSAL);
    one_attention_packed(7, 70, 513, 129, NO_BIAS);
    one_attention_packed(2, 66, 1030, 3, BIAS);
    typical_error(4096, 40);
    typical_error(300, 72);
    typical_error(1024, 512);
}

/* With the test above: nothing outside of a tile is read or written, and what is there is used. */
void test_attention_pack(void)
{
    for (int keys = 1; keys <= KEY_TILE; keys += random_int(1, 5)) {
        begin_case("%d keys", keys);
        attention_case c = make_attention(1, keys, random_int(1, 90), random_int(1, 90), NO_BIAS);
        char *got = pack(run.set, &c, true), *want = pack(run.scalar, &c, true);
        same_bytes("keys", got, want, (size_t)keys * (size_t)c.qk * 4);
        size_t v = (size_t)KEY_TILE * (size_t)c.qk * 4;
        same_bytes("values", got + v, want + v, (size_t)keys * (size_t)c.vd * 4);
        pack(run.set, &c, false);
        verdict(true, "no page beside the tile was touched");
        end_case();
    }
}

void test_attention(void)
{
    static const int widths[] = {1, 2, 3, 5, 8, 16, 31, 40, 64, 72, 77}, keys[] = {1, 2, 3, 13, 63, 64, 65, 77, 128, 130, 200};
    for (int nq = 1; nq <= QUERY_TILE; nq++)
        for (int i = 0; i < MASKS; i++)
            one_attention(nq, PICK(keys), PICK(widths), PICK(widths), (masks)i);
    one_attention(16, 300, 64, 64, CAUSAL);
    one_attention(7, 70, 513, 129, NO_BIAS);
    one_attention(2, 66, 1030, 3, BIAS);
    one_attention(16, 4096, 40, 40, NO_BIAS);
}
