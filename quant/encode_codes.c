/* encode_codes.c: q4 and q5: which scale for a row, which table for a group of 16, which code for a number.
 *
 * All tables have the same levels, nearly those that suit a gaussian group best, at 16 sizes spread evenly in the
 * logarithm from 63 down to a least one: gaussian groups want a narrow spread, convolutions whose taps differ a wide one,
 * so that a tensor takes one of a few families by error. (Tables of free shape, trained on either kind of weights, are
 * less than one hundredth better, measured; levels up to 127 would make q5 three hundredths better, and the products of
 * AVX2 slower.) Levels are symmetric about 0, so the search sees magnitudes alone.
 *
 * The search itself is the kernel search_codes, on integers: its result depends on no instruction set. */
#include "quant/encode.h"

#include <math.h>
#include <string.h>

#include "quant/encode_feedback.h"
#include "quant/round.h"

enum {
    GROUP = 16,
    TABLES = 16,
    TOP = 63,             /* the greatest level: AVX2's maddubs must not saturate */
    ONE = 256,            /* a level's unit in the search */
    WINDOW = 7,           /* tables that the search tries for a group */
    GROUPS_LOOKED_AT = 64 /* of a row, at least, to judge a scale */
};

typedef struct search {
    int count;                   /* magnitudes of a table: 8 or 16 */
    uint8_t levels[TABLES * 16]; /* [table][count] */
    uint8_t first[128];          /* by a group's largest number / ONE: the first table worth trying */
} search;

/* Trained on gaussian groups: a level is the mean of what is coded as it. */
static const double levels_q4[8] = {1.45 / 31, 4.45 / 31, 7.65 / 31, 11.15 / 31, 15.05 / 31, 19.1 / 31, 24.35 / 31, 1};
static const double levels_q5[16] = {0.904 / 31,  2.707 / 31,  4.575 / 31,  6.521 / 31,  8.443 / 31,  10.336 / 31, 12.238 / 31, 14.103 / 31,
                                     16.033 / 31, 17.952 / 31, 19.839 / 31, 21.807 / 31, 23.816 / 31, 25.961 / 31, 28.226 / 31, 1};
static const double least_top[CODE_RANGES] = {28, 24, 20, 16, 12};

void code_tables(weight_type type, int range, uint8_t head[CODE_HEAD_BYTES])
{
    for (int t = 0; t < TABLES; t++, head += 16) {
        double top = TOP * pow(least_top[range] / TOP, t / (TABLES - 1.0));
        for (int j = 0; j < 16 && type == TYPE_Q5; j++)
            head[j] = (uint8_t)(int)(top * levels_q5[j] + 0.5);
        for (int j = 0; j < 8 && type == TYPE_Q4; j++) {
            int level = (int)(top * levels_q4[j] + 0.5);
            head[8 + j] = (uint8_t)level;
            head[7 - j] = (uint8_t)-level;
        }
    }
}

size_t code_search_bytes(void) { return sizeof(search); }

void code_search_init(void *to, weight_type type, const uint8_t head[CODE_HEAD_BYTES])
{
    search *s = to;
    s->count = type == TYPE_Q5 ? 16 : 8;
    for (int t = 0; t < TABLES; t++)
        memcpy(s->levels + t * s->count, head + t * 16 + 16 - s->count, (size_t)s->count);
    /* The best table's greatest level lies between 0.72 and 1.17 times the group's largest number, hardly ever outside. */
    for (int a = 0; a < 128; a++) {
        int t = 0;
        while (t < TABLES - WINDOW && s->levels[t * s->count + s->count - 1] * 10 > a * 12)
            t++;
        s->first[a] = (uint8_t)t;
    }
}

/* The error of a row under a scale, of each step-th group. */
static double scale_error(const search *s, const kernels *k, const float *row, int n, int step, float scale)
{
    int64_t sums[4] = {0};
    k->search_codes(row, n / GROUP, step, ONE / scale, s->levels, s->count, s->first, NULL, NULL, sums);
    return (double)sums[0] * scale * scale;
}

static float largest(const float *row, int n)
{
    float part[GROUP] = {0}, top = 0;
    for (int i = 0; i < n; i += GROUP)
        for (int j = 0; j < GROUP; j++)
            part[j] = fabsf(row[i + j]) > part[j] ? fabsf(row[i + j]) : part[j];
    for (int j = 0; j < GROUP; j++)
        top = part[j] > top ? part[j] : top;
    return top;
}

/* A scale must have an inverse; rows below that are rows of zeros. */
static bool usable(float scale) { return scale > 0x1p-100f && scale < 0x1p120f; }

static float bf16_near(float x) { return bf16_value(bf16_of(x)); }

/* The row's largest number meets the greatest level, or some of its groups are cut to serve the others better. */
static float fit_scale(const search *s, const kernels *k, const float *row, int n, double *error)
{
    static const float factors[] = {1.0f, 0.92f, 0.84f, 0.76f, 0.68f};
    float top = largest(row, n), best = 0;
    int step = n / GROUP / GROUPS_LOOKED_AT > 0 ? n / GROUP / GROUPS_LOOKED_AT : 1;
    *error = 0;
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        float scale = bf16_near(top * factors[i] / TOP);
        if (!usable(scale))
            break;
        double e = scale_error(s, k, row, n, step, scale);
        if (best == 0 || e < *error) {
            *error = e;
            best = scale;
        }
    }
    return best;
}

double code_row_error(const void *with, const kernels *k, const float *row, int n)
{
    double error;
    fit_scale(with, k, row, n, &error);
    return error;
}

/* The squares of the levels that stand in the columns from depth to padded of each tap, where they do no harm. */
static int64_t padding_squares(const search *s, const matrix_shape *m, const uint8_t *table, const uint8_t *code)
{
    int padded = depth_padded(m->depth);
    int64_t sum = 0;
    for (int tap = 0; tap < m->taps; tap++)
        for (int i = tap * padded + m->depth; i < (tap + 1) * padded; i++) {
            int level = s->levels[table[i / GROUP] * s->count + (code[i] & 15)];
            sum += level * level;
        }
    return sum;
}

uint16_t code_row(const void *with, const kernels *k, const matrix_shape *m, const float *row, uint8_t *table, uint8_t *code,
                  double *error)
{
    const search *s = with;
    int n = m->taps * depth_padded(m->depth);
    float scale = fit_scale(s, k, row, n, error);
    if (scale == 0) {
        memset(table, 0, (size_t)(n / GROUP));
        memset(code, 0, (size_t)n);
        *error = 0;
        for (int i = 0; i < n; i++)
            *error += (double)row[i] * row[i];
        return 0;
    }
    int64_t sums[4] = {0};
    k->search_codes(row, n / GROUP, 1, ONE / scale, s->levels, s->count, s->first, table, code, sums);
    double unit = (double)scale / ONE, square = (double)(sums[3] - padding_squares(s, m, table, code));
    /* The error of these codes is a parabola in the scale with its least at `best`. */
    float best = square > 0 ? (float)((double)sums[2] * unit / square) : scale, rounded = bf16_near(best);
    if (usable(rounded) && fabsf(rounded - best) < fabsf(scale - best))
        scale = rounded;
    *error = (double)sums[1] * unit * unit - 2 * scale * unit * (double)sums[2] + square * scale * scale;
    return bf16_of(scale);
}

/* ---- with error feedback ---- */

static float level_of(const search *s, uint8_t table, uint8_t code)
{
    float level = s->levels[table * s->count + (code & 15)];
    return code & 128 ? -level : level;
}

void code_values(const void *with, uint16_t scale, const uint8_t *table, const uint8_t *code, int n, float *out)
{
    float by = bf16_value(scale);
    for (int i = 0; i < n; i++)
        out[i] = level_of(with, table[i / GROUP], code[i]) * by;
}

typedef struct fed_row {
    const search *s;
    const kernels *k;
    float scale, inverse;
    uint8_t *table, *code;
} fed_row;

static void choose_table(void *ctx, const float *target, int column)
{
    const fed_row *f = ctx;
    int64_t sums[4] = {0};
    f->k->search_codes(target, 1, 1, ONE * f->inverse, f->s->levels, f->s->count, f->s->first, f->table + column / GROUP, f->code + column, sums);
}

static float code_number(void *ctx, float target, int column)
{
    const fed_row *f = ctx;
    const uint8_t *levels = f->s->levels + f->table[column / GROUP] * f->s->count;
    float x = fabsf(target) * f->inverse * 2;
    int n = 0;
    while (n < f->s->count - 1 && x > (float)(levels[n] + levels[n + 1]))
        n++;
    f->code[column] = (uint8_t)(n | (signbit(target) ? 128 : 0));
    return level_of(f->s, f->table[column / GROUP], f->code[column]) * f->scale;
}

double code_row_fed(const void *with, const kernels *k, const encoding *e, const float *row, uint16_t scale, float *target, uint8_t *table, uint8_t *code,
                    double *error)
{
    fed_row f = {with, k, bf16_value(scale), 1 / bf16_value(scale), table, code};
    feedback_code by = {&f, choose_table, code_number};
    return feedback_row(e, row, target, &by, error);
}
