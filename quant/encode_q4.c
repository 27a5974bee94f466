/* encode_q4.c: which scale for a row, which table for a group of 16, which code for a number.
 *
 * All tables have the same 16 levels, nearly those that suit a gaussian group best, at 16 sizes spread evenly in the
 * logarithm from 63 down to a least one: gaussian groups want a narrow spread, convolutions whose taps differ a wide one,
 * so that a tensor takes one of a few families by error. (Tables of free shape, trained on either kind of weights, are
 * less than one hundredth better, measured.) Levels are symmetric about 0, so the search sees magnitudes alone.
 *
 * The search runs on 16-bit integers, 256 to a level's unit, and sums in integers: its result does not depend on the order
 * or width in which a compiler or processor takes it. GNU vectors make it quick without intrinsics. */
#include "quant/encode.h"

#include <math.h>
#include <string.h>

#include "quant/round.h"

typedef int16_t lanes __attribute__((vector_size(16), may_alias)); /* every instruction set has these; larger ones are taken apart badly */
typedef struct group { lanes half[2]; } group;

enum {
    GROUP = 16,
    TABLES = 16,
    HALF = 8,             /* levels of one sign */
    TOP = 63,             /* the greatest level: AVX2's maddubs must not saturate */
    ONE = 256,            /* a level's unit in the search */
    MOST = 127 * ONE,     /* larger numbers are cut: 63 is the nearest level all the same */
    WINDOW = 7,           /* tables tried for a group */
    GROUPS_LOOKED_AT = 64 /* of a row, at least, to judge a scale */
};

typedef struct search {
    lanes bound[TABLES][HALF - 1]; /* between two levels */
    lanes step[TABLES][HALF - 1];  /* from one level to the next */
    lanes least[TABLES];
    int16_t level[TABLES][HALF];
    uint8_t first[128];            /* by a group's largest number / ONE: the first table worth trying */
} search;

static const double levels[HALF] = {1.45 / 31, 4.45 / 31, 7.65 / 31, 11.15 / 31, 15.05 / 31, 19.1 / 31, 24.35 / 31, 1};
static const double least_top[Q4_RANGES] = {28, 24, 20, 16, 12};

void q4_tables(int range, uint8_t head[Q4_HEAD_BYTES])
{
    for (int t = 0; t < TABLES; t++) {
        double top = TOP * pow(least_top[range] / TOP, t / (TABLES - 1.0));
        for (int j = 0; j < HALF; j++) {
            int level = (int)(top * levels[j] + 0.5);
            head[t * 16 + HALF + j] = (uint8_t)level;
            head[t * 16 + HALF - 1 - j] = (uint8_t)-level;
        }
    }
}

size_t q4_search_bytes(void) { return sizeof(search); }

static void set_all(lanes *v, int x)
{
    lanes zero = {0};
    *v = zero + (int16_t)x;
}

void q4_search_init(void *to, const uint8_t head[Q4_HEAD_BYTES])
{
    search *s = to;
    for (int t = 0; t < TABLES; t++) {
        const uint8_t *level = head + t * 16 + HALF;
        for (int j = 0; j < HALF; j++)
            s->level[t][j] = level[j];
        set_all(&s->least[t], level[0] * ONE);
        for (int j = 0; j + 1 < HALF; j++) {
            set_all(&s->bound[t][j], (level[j] + level[j + 1]) * ONE / 2);
            set_all(&s->step[t][j], (level[j + 1] - level[j]) * ONE);
        }
    }
    /* The best table's greatest level lies between 0.72 and 1.17 times the group's largest number, hardly ever outside. */
    for (int a = 0; a < 128; a++) {
        int t = 0;
        while (t < TABLES - WINDOW && s->level[t][HALF - 1] * 10 > a * 12)
            t++;
        s->first[a] = (uint8_t)t;
    }
}

/* A group's magnitudes in units of the search; returns the largest. */
static int magnitudes(const float *x, float inverse, group *out)
{
    int16_t *a = (int16_t *)out;
    int top = 0;
    for (int i = 0; i < GROUP; i++) {
        float v = fabsf(x[i]) * inverse + 0.5f;
        v = v < (float)MOST ? v : (float)MOST;
        a[i] = (int16_t)v;
    }
    for (int i = 0; i < GROUP; i++)
        top = a[i] > top ? a[i] : top;
    return top;
}

static inline int32_t group_error(const search *s, int t, const group *x)
{
    lanes low = s->least[t], high = low;
#define STEP(j)                                                                                                                  \
    low += (x->half[0] > s->bound[t][j]) & s->step[t][j];                                                                        \
    high += (x->half[1] > s->bound[t][j]) & s->step[t][j];
    STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6)
#undef STEP
    int16_t off[GROUP]; /* 16 squares of 7,360 fit into 32 bits */
    low = (x->half[0] - low) >> 2;
    high = (x->half[1] - high) >> 2;
    memcpy(off, &low, sizeof low);
    memcpy(off + GROUP / 2, &high, sizeof high);
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i++)
        sum += off[i] * off[i];
    return sum;
}

static inline int32_t best_table(const search *s, const group *x, int top, int *table)
{
    int first = s->first[top / ONE], best = first;
    int32_t least = INT32_MAX;
    for (int t = first; t < first + WINDOW; t++) {
        int32_t e = group_error(s, t, x);
        if (e < least) {
            least = e;
            best = t;
        }
    }
    *table = best;
    return least;
}

/* The error of a row under a scale, of each step-th group. */
static double scale_error(const search *s, const float *row, int n, int step, float scale)
{
    float inverse = ONE / scale;
    int64_t sum = 0;
    for (int g = 0; g < n / GROUP; g += step) {
        group x;
        int table, top = magnitudes(row + g * GROUP, inverse, &x);
        sum += best_table(s, &x, top, &table);
    }
    return (double)sum * scale * scale;
}

static float largest(const float *row, int n)
{
    float top = 0;
    for (int i = 0; i < n; i++)
        top = fabsf(row[i]) > top ? fabsf(row[i]) : top;
    return top;
}

/* A scale must have an inverse; rows below that are rows of zeros. */
static bool usable(float scale) { return scale > 0x1p-100f && scale < 0x1p120f; }

static float bf16_near(float x) { return bf16_value(bf16_of(x)); }

/* The row's largest number meets the greatest level, or some of its groups are cut to serve the others better. */
static float fit_scale(const search *s, const float *row, int n, double *error)
{
    static const float factors[] = {1.0f, 0.92f, 0.84f, 0.76f, 0.68f};
    float top = largest(row, n), best = 0;
    int step = n / GROUP / GROUPS_LOOKED_AT > 0 ? n / GROUP / GROUPS_LOOKED_AT : 1;
    *error = 0;
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        float scale = bf16_near(top * factors[i] / TOP);
        if (!usable(scale))
            break;
        double e = scale_error(s, row, n, step, scale);
        if (best == 0 || e < *error) {
            *error = e;
            best = scale;
        }
    }
    return best;
}

double q4_row_error(const void *with, const float *row, int n)
{
    double error;
    fit_scale(with, row, n, &error);
    return error;
}

static void code_group(const search *s, int t, const group *x, const float *row, int16_t level[GROUP], uint8_t *code)
{
    for (int h = 0; h < 2; h++, row += GROUP / 2, level += GROUP / 2, code += GROUP / 2) {
        lanes index = {0}, magnitude = s->least[t];
        for (int j = 0; j < HALF - 1; j++) {
            lanes above = x->half[h] > s->bound[t][j];
            index -= above;
            magnitude += above & s->step[t][j];
        }
        magnitude >>= 8; /* of ONE */
        memcpy(level, &magnitude, sizeof magnitude);
        for (int i = 0; i < GROUP / 2; i++)
            code[i] = (uint8_t)(row[i] < 0 ? HALF - 1 - index[i] : HALF + index[i]);
    }
}

/* Codes for a scale; returns the scale that suits these codes best. */
static float code_groups(const search *s, const float *row, int n, float scale, uint8_t *table, uint8_t *code)
{
    float inverse = ONE / scale;
    double dot = 0, square = 0;
    for (int g = 0; g < n / GROUP; g++, row += GROUP, code += GROUP) {
        group x;
        int t, top = magnitudes(row, inverse, &x);
        best_table(s, &x, top, &t);
        table[g] = (uint8_t)t;
        int16_t level[GROUP];
        code_group(s, t, &x, row, level, code);
        float d = 0;
        int32_t q = 0;
        for (int i = 0; i < GROUP; i++) {
            d += fabsf(row[i]) * (float)level[i];
            q += level[i] * level[i];
        }
        dot += d;
        square += q;
    }
    /* The error is a parabola in the scale with its least at dot / square. */
    float best = square > 0 ? (float)(dot / square) : scale, rounded = bf16_near(best);
    return usable(rounded) && fabsf(rounded - best) < fabsf(scale - best) ? rounded : scale;
}

uint16_t q4_code_row(const void *with, const float *row, int n, uint8_t *table, uint8_t *code)
{
    const search *s = with;
    double ignored;
    float scale = fit_scale(s, row, n, &ignored);
    if (scale == 0) {
        memset(table, 0, (size_t)(n / GROUP));
        memset(code, HALF, (size_t)n);
        return 0;
    }
    return bf16_of(code_groups(s, row, n, scale, table, code));
}
