#include "quant/encode.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "quant/round.h"

enum { LANES = 16 }; /* sums run in that many parts, in a fixed order, so that a compiler may vectorize them */

bool type_writable(weight_type type)
{
    return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16 || type == TYPE_Q8 || type == TYPE_Q4 || type == TYPE_Q8_ROWS;
}

encoding encoding_of(weight_type type, matrix_shape m, const char *component, const char *name)
{
    return (encoding){type, m, type_of(type)->panels ? rotation_block(m.depth) : 0, component, name};
}

/* ---- scratch: one row, padded and rotated; q4: its tables, its codes, the search ---- */

static size_t row_numbers(const encoding *e) { return (size_t)e->matrix.taps * (size_t)e->matrix.depth; }

static size_t padded_numbers(const encoding *e) { return (size_t)e->matrix.taps * (size_t)depth_padded(e->matrix.depth); }

static size_t up64(size_t n) { return (n + 63) / 64 * 64; }

typedef struct scratch {
    float *row;
    uint8_t *table, *code;
    void *search;
} scratch;

static scratch scratch_of(const encoding *e, void *memory)
{
    char *p = memory;
    size_t n = padded_numbers(e);
    scratch s = {.row = memory};
    s.table = (uint8_t *)(p += up64(n * sizeof(float)));
    s.code = (uint8_t *)(p += up64(n / 16));
    s.search = p + up64(n);
    return s;
}

size_t encode_scratch_bytes(const encoding *e)
{
    size_t n = padded_numbers(e);
    return up64(n * sizeof(float)) + (e->type == TYPE_Q4 ? up64(n / 16) + up64(n) + up64(q4_search_bytes()) : 0);
}

/* ---- what a checkpoint may hold ---- */

static bool finite_row(const float *x, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++)
        bad |= (float_bits(x[i]) & 0x7f800000) == 0x7f800000;
    return !bad;
}

static bool not_finite(const encoding *e, int64_t row, status *st)
{
    return status_set(st, STATUS_BAD_FILE, "tensor %s%s%s: row %" PRId64 " holds a number that is not finite", e->component,
                      e->component[0] ? "/" : "", e->name, row);
}

static bool too_large(const encoding *e, int64_t row, status *st)
{
    return status_set(st, STATUS_BAD_FILE, "tensor %s%s%s: row %" PRId64 " holds a number too large for %s (choose bf16 or f32 for it)",
                      e->component, e->component[0] ? "/" : "", e->name, row, type_of(e->type)->name);
}

/* A row as the panel formats see it: each tap padded and rotated. */
static bool prepare(const encoding *e, const kernels *k, const float *in, float *out)
{
    size_t depth = (size_t)e->matrix.depth, padded = (size_t)depth_padded(e->matrix.depth);
    if (!finite_row(in, row_numbers(e)))
        return false;
    for (int tap = 0; tap < e->matrix.taps; tap++, in += depth, out += padded) {
        k->rotate_row(in, (int)depth, e->rotation, out);
        memset(out + depth, 0, (padded - depth) * sizeof *out);
    }
    return finite_row(out - padded_numbers(e), padded_numbers(e)); /* sums of numbers near the greatest may have overflowed */
}

static void add_energy(encode_sum *sum, const float *x, size_t n)
{
    float part[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            part[j] += x[i + (size_t)j] * x[i + (size_t)j];
    for (; i < n; i++)
        part[0] += x[i] * x[i];
    for (int j = 0; j < LANES; j++)
        sum->energy += (double)part[j];
}

/* ---- plain rows ---- */

static void add_difference(encode_sum *sum, const float *x, const float *y, size_t n)
{
    double error = 0;
    for (size_t i = 0; i < n; i++)
        error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    sum->error += error;
    add_energy(sum, x, n);
}

static bool halves(const encoding *e, const kernels *k, const float *x, int64_t row, float *back, uint8_t *out, encode_sum *sum,
                   status *st)
{
    size_t n = row_numbers(e);
    uint16_t some[256];
    for (size_t i = 0; i < n; i += 256) {
        size_t count = n - i < 256 ? n - i : 256;
        for (size_t j = 0; j < count; j++)
            some[j] = e->type == TYPE_F16 ? f16_of(x[i + j]) : bf16_of(x[i + j]);
        memcpy(out + i * sizeof *some, some, count * sizeof *some);
        (e->type == TYPE_F16 ? k->f16_to_f32 : k->bf16_to_f32)(some, back + i, count);
    }
    if (!finite_row(back, n))
        return too_large(e, row, st);
    add_difference(sum, x, back, n);
    return true;
}

/* ---- int8 ---- */

static float largest(const float *x, size_t n)
{
    float top = 0;
    for (size_t i = 0; i < n; i++)
        top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    return top;
}

/* To the nearest integer, ties to even: the sum leaves no bits behind the point. */
static inline float nearest(float x)
{
    const float big = 12582912.0f; /* 1.5 * 2^23 */
    float sum = x + big;
    return sum - big;
}

static inline float code_i8(float x, float inverse)
{
    float q = nearest(x * inverse);
    q = q > 127 ? 127 : q;
    return q < -127 ? -127 : q;
}

static double error_i8(const float *x, size_t n, float scale)
{
    float part[LANES] = {0}, inverse = 1 / scale;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float d = x[i + (size_t)j] * inverse - code_i8(x[i + (size_t)j], inverse);
            part[j] += d * d;
        }
    double sum = 0;
    for (; i < n; i++) {
        float d = x[i] * inverse - code_i8(x[i], inverse);
        sum += (double)d * d;
    }
    for (int j = 0; j < LANES; j++)
        sum += (double)part[j];
    return sum * scale * scale;
}

/* The greatest number meets 127, or a few are cut because the others gain more. 0: the row is as good as zero. */
static float fit_i8(const float *x, size_t n, double *error)
{
    static const float factors[] = {1.0f, 0.97f, 0.94f, 0.9f, 0.84f};
    float top = largest(x, n), best = 0;
    *error = 0;
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        float scale = top / 127 * factors[i];
        if (!(scale > 0x1p-100f)) /* must have an inverse */
            break;
        double e = error_i8(x, n, scale);
        if (best == 0 || e < *error) {
            *error = e;
            best = scale;
        }
    }
    return best;
}

static void code_row_i8(const float *x, size_t n, float scale, int8_t *out)
{
    float inverse = scale > 0 ? 1 / scale : 0;
    for (size_t i = 0; i < n; i++)
        out[i] = (int8_t)code_i8(x[i], inverse);
}

static void q8_row(const encoding *e, const float *x, uint8_t *out, encode_sum *sum)
{
    size_t n = row_numbers(e);
    double error;
    float scale = fit_i8(x, n, &error);
    memcpy(out, &scale, sizeof scale);
    code_row_i8(x, n, scale, (int8_t *)(out + sizeof scale));
    memset(out + sizeof scale + n, 0, (4 - n % 4) % 4);
    sum->error += scale > 0 ? error : 0;
    add_energy(sum, x, n);
}

/* ---- panels ---- */

static void q8_panel_row(const encoding *e, const scratch *s, int r, uint8_t *unit, encode_sum *sum)
{
    size_t n = padded_numbers(e);
    int8_t *out = (int8_t *)(unit + PANEL_ROWS * sizeof(float));
    double error;
    float scale = fit_i8(s->row, n, &error);
    memcpy(unit + (size_t)r * sizeof scale, &scale, sizeof scale);
    for (size_t i = 0; i < n; i += 16)
        code_row_i8(s->row + i, 16, scale, out + (i / 16 * PANEL_ROWS + (size_t)r) * 16);
    sum->error += scale > 0 ? error : 0;
}

/* Of the codes as they are written; padding does not count. */
static double error_q4(const encoding *e, const scratch *s, const int8_t *head, float scale)
{
    size_t depth = (size_t)e->matrix.depth, padded = (size_t)depth_padded(e->matrix.depth), n = padded_numbers(e);
    double sum = 0;
    for (size_t i = 0; i < n; i += 16) {
        const int8_t *table = head + 16 * s->table[i / 16];
        float part = 0;
        for (size_t j = i; j < i + 16; j++) {
            float d = s->row[j] - scale * (float)table[s->code[j]];
            part += j % padded < depth ? d * d : 0;
        }
        sum += (double)part;
    }
    return sum;
}

static void q4_panel_row(const encoding *e, const scratch *s, const uint8_t *head, int r, uint8_t *unit, encode_sum *sum)
{
    size_t n = padded_numbers(e), row = (size_t)r;
    uint16_t scale = q4_code_row(s->search, s->row, (int)n, s->table, s->code);
    memcpy(unit + row * sizeof scale, &scale, sizeof scale);
    uint8_t *table = unit + Q4_SCALE_BYTES, *code = unit + up64(Q4_SCALE_BYTES + n / 32 * PANEL_ROWS);
    for (size_t b = 0; b < n / 32; b++) {
        table[b * PANEL_ROWS + row] = (uint8_t)(s->table[2 * b] | s->table[2 * b + 1] << 4);
        uint8_t *out = code + (b * PANEL_ROWS + row) * 16;
        for (int t = 0; t < 16; t++)
            out[t] = (uint8_t)(s->code[32 * b + (size_t)t] | s->code[32 * b + 16 + (size_t)t] << 4);
    }
    sum->error += error_q4(e, s, (const int8_t *)head, bf16_value(scale));
}

static bool panel(const encoding *e, const kernels *k, const scratch *s, const uint8_t *head, const float *rows, int64_t first,
                  int count, uint8_t *unit, encode_sum *sum, status *st)
{
    memset(unit, 0, type_unit_bytes(e->type, &e->matrix));
    for (int r = 0; r < count; r++) {
        if (!prepare(e, k, rows + (size_t)r * row_numbers(e), s->row))
            return not_finite(e, first + r, st);
        add_energy(sum, s->row, padded_numbers(e));
        if (e->type == TYPE_Q4)
            q4_panel_row(e, s, head, r, unit, sum);
        else
            q8_panel_row(e, s, r, unit, sum);
    }
    return true;
}

/* ---- the face ---- */

static bool plain_row(const encoding *e, const kernels *k, const float *x, int64_t row, float *back, uint8_t *out, encode_sum *sum,
                      status *st)
{
    if (!finite_row(x, row_numbers(e)))
        return not_finite(e, row, st);
    switch (e->type) {
    case TYPE_F32: memcpy(out, x, row_numbers(e) * sizeof *x); return true;
    case TYPE_Q8_ROWS: q8_row(e, x, out, sum); return true;
    default: return halves(e, k, x, row, back, out, sum, st);
    }
}

bool encode_rows(const encoding *e, const kernels *k, const uint8_t *head, const float *rows, int64_t first_row, int64_t count,
                 void *memory, uint8_t *out, encode_sum *sum, status *st)
{
    assert(type_writable(e->type) && matrix_valid(e->type, &e->matrix));
    scratch s = scratch_of(e, memory);
    if (e->type == TYPE_Q4)
        q4_search_init(s.search, head);
    int step = type_unit_rows(e->type);
    size_t bytes = type_unit_bytes(e->type, &e->matrix);
    for (int64_t r = 0; r < count; r += step, out += bytes) {
        const float *row = rows + (size_t)r * row_numbers(e);
        int now = count - r < step ? (int)(count - r) : step;
        if (!(step > 1 ? panel(e, k, &s, head, row, first_row + r, now, out, sum, st)
                       : plain_row(e, k, row, first_row + r, s.row, out, sum, st)))
            return false;
    }
    return true;
}

void encode_try(const encoding *e, const kernels *k, const float *rows, int64_t count, void *memory, encode_trial *trial)
{
    if (e->type != TYPE_Q4)
        return;
    scratch s = scratch_of(e, memory);
    for (int range = 0; range < Q4_RANGES; range++) {
        uint8_t head[Q4_HEAD_BYTES];
        q4_tables(range, head);
        q4_search_init(s.search, head);
        for (int64_t r = 0; r < count; r++)
            if (prepare(e, k, rows + (size_t)r * row_numbers(e), s.row)) /* what is not finite is reported when it is coded */
                trial->error[range] += q4_row_error(s.search, s.row, (int)padded_numbers(e));
    }
}

void encode_head(const encoding *e, const encode_trial *trial, uint8_t *head)
{
    int best = 0;
    for (int range = 1; range < Q4_RANGES; range++)
        if (trial->error[range] < trial->error[best])
            best = range;
    if (e->type == TYPE_Q4)
        q4_tables(best, head);
}

float encode_relative(const encode_sum *sum) { return sum->energy > 0 ? (float)sqrt(sum->error / sum->energy) : 0; }
