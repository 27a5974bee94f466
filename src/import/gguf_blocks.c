/* Layouts: ggml's ggml-common.h; arithmetic: gguf-py's quants.py, whose order of operations is kept (this file is compiled without
 * contraction). Scales are f16; `numbers lie` by halves: the low four bits of a group's bytes first, then the high ones. */
#include "import/gguf_blocks.h"

#include <string.h>

/* f16 to f32, exactly. */
static float half(const uint8_t *p)
{
    uint32_t h = (uint32_t)(p[0] | p[1] << 8), sign = (h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff, bits;
    float f;
    if (exponent == 0) {
        f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Four bits of number i where groups of 2 * half numbers take half bytes. */
static int nibble(const uint8_t *q, int i, int half_group)
{
    return q[i / (2 * half_group) * half_group + i % half_group] >> (i / half_group % 2 ? 4 : 0) & 15;
}

/* Two bits of number i where 128 numbers take 32 bytes. */
static int pair(const uint8_t *q, int i) { return q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3; }

/* One bit of number i where 8 rows of 32 numbers take 32 bytes; of 32 numbers: bit i of 4 bytes. */
static int bit(const uint8_t *q, int i) { return q[i % 32] >> i / 32 & 1; }
static int bit32(const uint8_t *q, int i) { return q[i / 8] >> i % 8 & 1; }

static void q4_0(const uint8_t *b, float *out)
{
    float d = half(b);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(nibble(b + 2, i, 16) - 8);
}

static void q4_1(const uint8_t *b, float *out)
{
    float d = half(b), m = half(b + 2);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)nibble(b + 4, i, 16) + m;
}

static void q5_0(const uint8_t *b, float *out)
{
    float d = half(b);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)((nibble(b + 6, i, 16) | bit32(b + 2, i) << 4) - 16);
}

static void q5_1(const uint8_t *b, float *out)
{
    float d = half(b), m = half(b + 2);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(nibble(b + 8, i, 16) | bit32(b + 4, i) << 4) + m;
}

static void q8_0(const uint8_t *b, float *out)
{
    float d = half(b);
    for (int i = 0; i < 32; i++)
        out[i] = (float)(int8_t)b[2 + i] * d;
}

static void q2_k(const uint8_t *b, float *out)
{
    const uint8_t *scales = b, *q = b + 16;
    float d = half(b + 80), dmin = half(b + 82);
    for (int s = 0; s < 16; s++) {
        float dl = d * (float)(scales[s] & 15), ml = dmin * (float)(scales[s] >> 4);
        for (int i = s * 16; i < s * 16 + 16; i++)
            out[i] = dl * (float)pair(q, i) - ml;
    }
}

static void q3_k(const uint8_t *b, float *out)
{
    const uint8_t *mask = b, *q = b + 32, *scales = b + 96;
    float d = half(b + 108);
    for (int s = 0; s < 16; s++) {
        int low = scales[s % 8] >> (s / 8 * 4) & 15, high = scales[8 + s % 4] >> (s / 4 * 2) & 3;
        float dl = d * (float)((low | high << 4) - 32);
        for (int i = s * 16; i < s * 16 + 16; i++)
            out[i] = dl * (float)(pair(q, i) - (bit(mask, i) ? 0 : 4));
    }
}

/* Scale and minimum `s` of eight, six bits each, in 12 bytes. */
static void scale_min(const uint8_t *p, int s, int *scale, int *minimum)
{
    int k = s % 4;
    *scale = s < 4 ? p[k] & 63 : (p[8 + k] & 15) | (p[k] >> 2 & 0x30);
    *minimum = s < 4 ? p[4 + k] & 63 : p[8 + k] >> 4 | (p[4 + k] >> 2 & 0x30);
}

static void q4_k(const uint8_t *b, float *out)
{
    float d = half(b), dmin = half(b + 2);
    for (int s = 0; s < 8; s++) {
        int scale, minimum;
        scale_min(b + 4, s, &scale, &minimum);
        float dl = d * (float)scale, ml = dmin * (float)minimum;
        for (int i = s * 32; i < s * 32 + 32; i++)
            out[i] = dl * (float)nibble(b + 16, i, 32) - ml;
    }
}

static void q5_k(const uint8_t *b, float *out)
{
    float d = half(b), dmin = half(b + 2);
    for (int s = 0; s < 8; s++) {
        int scale, minimum;
        scale_min(b + 4, s, &scale, &minimum);
        float dl = d * (float)scale, ml = dmin * (float)minimum;
        for (int i = s * 32; i < s * 32 + 32; i++)
            out[i] = dl * (float)(nibble(b + 48, i, 32) | bit(b + 16, i) << 4) - ml;
    }
}

static void q6_k(const uint8_t *b, float *out)
{
    const int8_t *scales = (const int8_t *)(b + 192);
    float d = half(b + 208);
    for (int s = 0; s < 16; s++) {
        float dl = d * (float)scales[s];
        for (int i = s * 16; i < s * 16 + 16; i++)
            out[i] = dl * (float)((nibble(b, i, 64) | pair(b + 128, i) << 4) - 32);
    }
}

static const int8_t nonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void iq4_nl(const uint8_t *b, float *out)
{
    float d = half(b);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)nonlinear[nibble(b + 2, i, 16)];
}

static void iq4_xs(const uint8_t *b, float *out)
{
    float d = half(b);
    int highs = b[2] | b[3] << 8;
    for (int s = 0; s < 8; s++) {
        int low = b[4 + s / 2] >> (s % 2 * 4) & 15, high = highs >> 2 * s & 3;
        float dl = d * (float)((low | high << 4) - 32);
        for (int i = s * 32; i < s * 32 + 32; i++)
            out[i] = dl * (float)nonlinear[nibble(b + 8, i, 16)];
    }
}

static const block_format formats[] = {
    {"Q4_0", 2, 32, 18, q4_0},       {"Q4_1", 3, 32, 20, q4_1},       {"Q5_0", 6, 32, 22, q5_0},
    {"Q5_1", 7, 32, 24, q5_1},       {"Q8_0", 8, 32, 34, q8_0},       {"Q2_K", 10, 256, 84, q2_k},
    {"Q3_K", 11, 256, 110, q3_k},    {"Q4_K", 12, 256, 144, q4_k},    {"Q5_K", 13, 256, 176, q5_k},
    {"Q6_K", 14, 256, 210, q6_k},    {"IQ4_NL", 20, 32, 18, iq4_nl},  {"IQ4_XS", 23, 256, 136, iq4_xs},
};

const block_format *block_format_of(uint32_t gguf)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i].gguf == gguf)
            return &formats[i];
    return NULL;
}
