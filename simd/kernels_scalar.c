/* kernels_scalar.c: what every kernel computes, in plain C.
 *
 * This is the specification: written to be read, and to be more exact than the others where they may differ (sums
 * and functions in double). The kernels that every set must reproduce bit for bit (gemm_i8, decode_q4, decode_q5, search_codes, quantize_row,
 * rotate_row, the conversions, add_gated, channel_sums) spell out each rounding. */
#include "simd/sets.h"

#include <float.h>
#include <math.h>
#include <string.h>

static void gemm_f32_scalar(const float *const *a, int tokens, int segments, int depth, const float *w, size_t w_stride,
                            int rows, float *out, size_t out_stride)
{
    for (int t = 0; t < tokens; t++)
        for (int n = 0; n < rows; n++) {
            const float *row = w + (size_t)n * w_stride;
            double sum = 0;
            for (int s = 0; s < segments; s++, row += depth)
                for (int k = 0; k < depth; k++)
                    sum += (double)a[(size_t)s * (size_t)tokens + (size_t)t][k] * (double)row[k];
            out[(size_t)t * out_stride + (size_t)n] = (float)sum;
        }
}

static int32_t dot_i8(const int8_t *a, const int8_t *panel, int row, int depth)
{
    int32_t sum = 0;
    for (int k = 0; k < depth; k++)
        sum += a[k] * panel[(k / 16 * 16 + row) * 16 + k % 16];
    return sum;
}

static void gemm_i8_scalar(const int8_t *const *a, const float *a_scale, const int32_t *a_sum, int tokens, int segments,
                           int depth, const int8_t *w, const float *row_scale, int rows, float *out, size_t out_stride,
                           const void *soon, size_t soon_bytes)
{
    (void)a_sum, (void)soon, (void)soon_bytes; /* the sum: for the sets whose products want unsigned weights */
    for (int t = 0; t < tokens; t++)
        for (int row = 0; row < rows; row++) {
            float sum = 0;
            for (int s = 0; s < segments; s++) {
                size_t i = (size_t)s * (size_t)tokens + (size_t)t;
                float term = (float)dot_i8(a[i], w + (size_t)s * (size_t)depth * PANEL_ROWS, row, depth) * a_scale[i];
                sum = sum + term;
            }
            out[(size_t)t * out_stride + (size_t)row] = sum * row_scale[row];
        }
}

static void decode_q4_scalar(const uint8_t *sel, const uint8_t *codes, int depth, const int8_t *table, int8_t *out)
{
    for (int b = 0; b < depth / 32; b++, sel += 16, codes += 256, out += 512)
        for (int row = 0; row < PANEL_ROWS; row++)
            for (int t = 0; t < 16; t++) {
                int code = codes[row * 16 + t];
                out[row * 16 + t] = table[(sel[row] & 15) * 16 + (code & 15)];
                out[256 + row * 16 + t] = table[(sel[row] >> 4) * 16 + (code >> 4)];
            }
}

static void decode_q5_scalar(const uint8_t *sel, const uint8_t *codes, const uint8_t *signs, int depth, const int8_t *table,
                             int8_t *out)
{
    decode_q4_scalar(sel, codes, depth, table, out);
    for (int i = 0; i < depth * PANEL_ROWS; i++) /* one bit a number, in the order of out */
        if (signs[i / 8] >> i % 8 & 1)
            out[i] = (int8_t)-out[i];
}

/* The squares of one group under one table; number and level of each magnitude. */
static int32_t table_error(const int32_t a[16], const uint8_t *levels, int count, uint8_t code[16], int32_t level[16])
{
    int32_t sum = 0;
    for (int i = 0; i < 16; i++)
        code[i] = 0;
    for (int j = 0; j + 1 < count; j++)
        for (int i = 0; i < 16; i++)
            code[i] = (uint8_t)(code[i] + (a[i] > (levels[j] + levels[j + 1]) * 128));
    for (int i = 0; i < 16; i++) {
        level[i] = levels[code[i]];
        int32_t off = (a[i] - 256 * level[i]) >> 2;
        sum += off * off;
    }
    return sum;
}

static void search_codes_scalar(const float *x, int groups, int step, float inverse, const uint8_t *levels, int count,
                                const uint8_t *first, uint8_t *table, uint8_t *code, int64_t sums[4])
{
    for (int g = 0; g < groups; g += step) {
        int32_t a[16], level[16], most = 0, least = INT32_MAX;
        uint8_t now[16];
        for (int i = 0; i < 16; i++) {
            float v = fabsf(x[g * 16 + i]) * inverse;
            v = v + 0.5f;
            a[i] = (int32_t)(v < 32512.0f ? v : 32512.0f);
            most = a[i] > most ? a[i] : most;
        }
        int from = first[most / 256], best = from;
        for (int t = from; t < from + 7; t++) {
            int32_t error = table_error(a, levels + t * count, count, now, level);
            best = error < least ? t : best;
            least = error < least ? error : least;
        }
        sums[0] += least;
        if (!table)
            continue;
        table[g] = (uint8_t)best;
        table_error(a, levels + best * count, count, code + g * 16, level);
        for (int i = 0; i < 16; i++) {
            code[g * 16 + i] = (uint8_t)(code[g * 16 + i] | (signbit(x[g * 16 + i]) ? 128 : 0));
            sums[1] += (int64_t)a[i] * a[i];
            sums[2] += a[i] * level[i];
            sums[3] += level[i] * level[i];
        }
    }
}

static void rotate_row_scalar(const float *x, int depth, int block, float *out)
{
    memmove(out, x, (size_t)depth * sizeof *x);
    if (block == 0)
        return;
    float norm = 1.0f / sqrtf((float)block);
    for (int start = 0; start < depth; start += block) {
        float *y = out + start;
        for (int stride = 1; stride < block; stride *= 2)
            for (int i = 0; i < block; i++)
                if (!(i & stride)) {
                    float a = y[i], b = y[i + stride];
                    y[i] = a + b;
                    y[i + stride] = a - b;
                }
        for (int i = 0; i < block; i++)
            y[i] *= norm;
    }
}

/* To the nearest integer, ties to even, for |x| < 2^22: the sum leaves no bits behind the point. */
static float round_even(float x)
{
    const float big = 12582912.0f; /* 1.5 * 2^23 */
    float sum = x + big;
    return sum - big;
}

static void quantize_row_scalar(const float *x, int depth, int padded, int block, float *tmp, int8_t *q, float *scale,
                                int32_t *sum)
{
    rotate_row_scalar(x, depth, block, tmp);
    float most = 0;
    bool finite = true;
    for (int k = 0; k < depth; k++) {
        if (!(fabsf(tmp[k]) <= FLT_MAX)) {
            finite = false;
            tmp[k] = 0;
        }
        most = fabsf(tmp[k]) > most ? fabsf(tmp[k]) : most;
    }
    /* A row so small that 127 / most overflows is a row of zeros. */
    float inverse = most > 0 ? 127.0f / most : 0;
    if (inverse > FLT_MAX)
        most = inverse = 0;
    *sum = 0;
    for (int k = 0; k < depth; k++) {
        float r = round_even(tmp[k] * inverse);
        q[k] = (int8_t)(r > 127 ? 127 : r < -127 ? -127 : r);
        *sum += q[k];
    }
    memset(q + depth, 0, (size_t)(padded - depth));
    *scale = finite ? most / 127.0f : NAN;
}

static float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void f16_to_f32_scalar(const uint16_t *x, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(x[i] >> 15) << 31, exponent = (x[i] >> 10) & 31, mantissa = x[i] & 1023;
        if (exponent == 31) /* infinity, or a NaN made quiet as the instructions do */
            out[i] = float_of_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000u : 0));
        else if (exponent == 0)
            out[i] = float_of_bits(sign | 0x3f800000) * ((float)mantissa * 0x1p-24f);
        else
            out[i] = float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    }
}

static void bf16_to_f32_scalar(const uint16_t *x, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = float_of_bits((uint32_t)x[i] << 16);
}

static void f8e4m3_to_f32_scalar(const uint8_t *x, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(x[i] >> 7) << 31, exponent = (x[i] >> 3) & 15, mantissa = x[i] & 7;
        if (exponent == 15 && mantissa == 7) /* the format has no infinity and this one NaN */
            out[i] = float_of_bits(sign | 0x7fc00000);
        else if (exponent == 0)
            out[i] = float_of_bits(sign | 0x3f800000) * ((float)mantissa * 0x1p-9f);
        else
            out[i] = float_of_bits(sign | (exponent + 120) << 23 | mantissa << 20);
    }
}

/* One query: out = acc / sum after all tiles, which are `..._step` apart. acc: v_dim floats, p: KEY_TILE floats. */
static void attend(const float *q, const float *k, size_t k_stride, size_t k_step, const float *v, size_t v_stride, size_t v_step, int nk,
                   int qk_dim, int v_dim, float scale, const float *bias, float *out, float *acc, float *p)
{
    float most = -INFINITY;
    double sum = 0;
    for (int j = 0; j < v_dim; j++)
        acc[j] = 0;
    for (int start = 0; start < nk; start += KEY_TILE, k += k_step, v += v_step) {
        int keys = nk - start < KEY_TILE ? nk - start : KEY_TILE;
        float before = most;
        for (int i = 0; i < keys; i++) {
            const float *key = k + (size_t)i * k_stride;
            double dot = 0;
            for (int d = 0; d < qk_dim; d++)
                dot += (double)q[d] * (double)key[d];
            p[i] = (float)dot * scale + (bias ? bias[start + i] : 0);
            most = p[i] > most ? p[i] : most;
        }
        float top = most == -INFINITY ? 0 : most; /* keys masked by -inf so far: nothing to subtract */
        float keep = expf(before - top);
        sum *= (double)keep;
        for (int j = 0; j < v_dim; j++)
            acc[j] *= keep;
        for (int i = 0; i < keys; i++) {
            float e = expf(p[i] - top);
            sum += (double)e;
            for (int j = 0; j < v_dim; j++)
                acc[j] += e * v[(size_t)i * v_stride + (size_t)j];
        }
    }
    for (int j = 0; j < v_dim; j++)
        out[j] = (float)((double)acc[j] / sum);
}

static void attention_scalar(const float *q, size_t q_stride, int nq, const float *k, size_t k_stride, const float *v,
                             size_t v_stride, int nk, int qk_dim, int v_dim, float scale, const float *bias,
                             size_t bias_stride, float *out, size_t out_stride, float *scratch)
{
    for (int i = 0; i < nq; i++)
        attend(q + (size_t)i * q_stride, k, k_stride, k_stride * KEY_TILE, v, v_stride, v_stride * KEY_TILE, nk, qk_dim, v_dim, scale,
               bias ? bias + (size_t)i * bias_stride : NULL, out + (size_t)i * out_stride, scratch + KEY_TILE, scratch);
}

static void attention_pack_scalar(const float *k, size_t k_stride, const float *v, size_t v_stride, int keys, int qk_dim, int v_dim,
                                  bool exact, void *packed)
{
    float *to = packed;
    (void)exact;
    for (int i = 0; i < keys; i++)
        for (int d = 0; d < qk_dim; d++)
            to[(size_t)i * (size_t)qk_dim + (size_t)d] = k[(size_t)i * k_stride + (size_t)d];
    to += (size_t)KEY_TILE * (size_t)qk_dim;
    for (int i = 0; i < keys; i++)
        for (int d = 0; d < v_dim; d++)
            to[(size_t)i * (size_t)v_dim + (size_t)d] = v[(size_t)i * v_stride + (size_t)d];
}

static void attention_packed_scalar(const float *q, size_t q_stride, int nq, const void *packed, int nk, int qk_dim, int v_dim,
                                    float scale, const float *bias, size_t bias_stride, bool exact, float *out, size_t out_stride,
                                    float *scratch)
{
    size_t tile = attention_tile_bytes(NULL, qk_dim, v_dim) / sizeof(float);
    const float *k = packed, *v = k + (size_t)KEY_TILE * (size_t)qk_dim;
    (void)exact;
    for (int i = 0; i < nq; i++)
        attend(q + (size_t)i * q_stride, k, (size_t)qk_dim, tile, v, (size_t)v_dim, tile, nk, qk_dim, v_dim, scale,
               bias ? bias + (size_t)i * bias_stride : NULL, out + (size_t)i * out_stride, scratch + KEY_TILE, scratch);
}

static void layer_norm_scalar(const float *x, int n, float eps, const float *gain, const float *bias, float *out)
{
    double mean = 0, var = 0;
    for (int i = 0; i < n; i++)
        mean += (double)x[i];
    mean /= n;
    for (int i = 0; i < n; i++)
        var += ((double)x[i] - mean) * ((double)x[i] - mean);
    double inverse = 1 / sqrt(var / n + (double)eps);
    for (int i = 0; i < n; i++)
        out[i] = (float)(((double)x[i] - mean) * inverse * (double)(gain ? gain[i] : 1) + (double)(bias ? bias[i] : 0));
}

static void rms_norm_scalar(const float *x, int n, float eps, const float *gain, float *out)
{
    double mean = 0;
    for (int i = 0; i < n; i++)
        mean += (double)x[i] * (double)x[i];
    double inverse = 1 / sqrt(mean / n + (double)eps);
    for (int i = 0; i < n; i++)
        out[i] = (float)((double)x[i] * inverse * (double)(gain ? gain[i] : 1));
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static float act_scalar(activation act, float x)
{
    double d = (double)x;
    switch (act) {
    case ACT_NONE: return x;
    case ACT_RELU: return x < 0 ? 0 : x; /* a NaN stays one */
    case ACT_SILU: return (float)(d * sigmoid(d));
    case ACT_GELU_TANH: return (float)(d * 0.5 * (1 + tanh(0.7978845608028654 * (d + 0.044715 * d * d * d))));
    case ACT_GELU_ERF: return (float)(d * 0.5 * erfc(-d * 0.7071067811865476));
    case ACT_QUICK_GELU: return (float)(d * sigmoid(1.702 * d));
    }
    return x;
}

static void activate_scalar(activation act, const float *x, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = act_scalar(act, x[i]);
}

static void scale_shift_act_scalar(const float *x, const float *scale, const float *shift, activation act, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float scaled = scale ? x[i] * scale[i] : x[i];
        out[i] = act_scalar(act, shift ? scaled + shift[i] : scaled);
    }
}

static void act_mul_scalar(activation act, const float *x, const float *y, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = act_scalar(act, x[i]) * y[i];
}

static void add_gated_scalar(float *x, const float *y, const float *gate, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float term = gate ? y[i] * gate[i] : y[i];
        x[i] = x[i] + term;
    }
}

static void channel_sums_scalar(const float *x, size_t pixels, int channels, float *sum, float *square)
{
    for (size_t p = 0; p < pixels; p++, x += channels)
        for (int c = 0; c < channels; c++) {
            float squared = x[c] * x[c];
            sum[c] = sum[c] + x[c];
            square[c] = square[c] + squared;
        }
}

const kernels kernels_scalar = {
    .name = "scalar",
    .attention_element = 4,
#define X(name, args) .name = name##_scalar,
#include "simd/kernels.def"
#undef X
};
