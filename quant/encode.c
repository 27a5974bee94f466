#include "quant/encode.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "quant/encode_feedback.h"
#include "quant/round.h"

enum { LANES = 16 }; /* sums run in that many parts, in a fixed order, so that a compiler may vectorize them */

static bool is_coded(weight_type type) { return type == TYPE_Q4 || type == TYPE_Q5; }

bool type_writable(weight_type type)
{
    return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16 || type == TYPE_Q8 || is_coded(type) || type == TYPE_Q8_ROWS;
}

encoding encoding_of(weight_type type, matrix_shape m, const char *component, const char *name)
{
    return (encoding){.type = type, .matrix = m, .rotation = type_of(type)->panels ? rotation_block(m.depth) : 0, .component = component, .name = name};
}

/* ---- scratch: one row, padded and rotated; what it is to become under feedback; q4, q5: its tables, its codes, the search ---- */

static size_t row_numbers(const encoding *e) { return (size_t)e->matrix.taps * (size_t)e->matrix.depth; }

static size_t padded_numbers(const encoding *e) { return (size_t)e->matrix.taps * (size_t)depth_padded(e->matrix.depth); }

static size_t up64(size_t n) { return (n + 63) / 64 * 64; }

typedef struct scratch {
    float *row;
    uint8_t *table, *code;
    void *search;
    float *target, *values; /* with error feedback */
} scratch;

static scratch scratch_of(const encoding *e, void *memory)
{
    char *p = memory;
    size_t n = padded_numbers(e);
    scratch s = {.row = memory};
    s.target = (float *)(void *)(p += up64(n * sizeof(float)));
    s.values = (float *)(void *)(p += e->window ? up64(n * sizeof(float)) : 0);
    s.table = (uint8_t *)(p += e->window ? up64(n * sizeof(float)) : 0);
    s.code = (uint8_t *)(p += up64(n / 16));
    s.search = p + up64(n);
    return s;
}

size_t encode_scratch_bytes(const encoding *e)
{
    size_t n = padded_numbers(e);
    return up64(n * sizeof(float)) * (e->window ? 3 : 1) + (is_coded(e->type) ? up64(n / 16) + up64(n) + up64(code_search_bytes()) : 0);
}

/* ---- what a checkpoint may hold ---- */

static bool finite_row(const float *x, size_t n)
{
    float part[LANES] = {0}; /* 0 times what is not finite is no number */
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            part[j] += x[i + (size_t)j] * 0;
    for (; i < n; i++)
        part[0] += x[i] * 0;
    for (int j = 1; j < LANES; j++)
        part[0] += part[j];
    return part[0] == 0;
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

/* Of a panel's first row: what its output's error would have been with these values, and its power. */
static void add_plain(const encoding *e, const scratch *s, encode_sum *sum)
{
    for (size_t i = 0; i < padded_numbers(e); i++)
        s->values[i] = s->row[i] - s->values[i];
    sum->plain += feedback_output(e, s->values, s->target);
    sum->power += feedback_output(e, s->row, s->target);
}

typedef struct fed_i8 {
    float scale, inverse;
    int8_t *out; /* of the row, in its panel */
} fed_i8;

static void no_group(void *ctx, const float *target, int column) { (void)ctx, (void)target, (void)column; }

static float number_i8(void *ctx, float target, int column)
{
    const fed_i8 *f = ctx;
    float code = code_i8(target, f->inverse);
    f->out[column / 16 * PANEL_ROWS * 16 + column % 16] = (int8_t)code;
    return code * f->scale;
}

static double q8_row_fed(const encoding *e, const scratch *s, int r, float scale, int8_t *out, encode_sum *sum)
{
    fed_i8 f = {scale, 1 / scale, out};
    feedback_code by = {&f, no_group, number_i8};
    double error, fed = feedback_row(e, s->row, s->target, &by, &error);
    if (r == 0) {
        for (size_t i = 0; i < padded_numbers(e); i++)
            s->values[i] = code_i8(s->row[i], f.inverse) * scale;
        add_plain(e, s, sum);
        sum->fed += fed;
    }
    return error;
}

static void q8_panel_row(const encoding *e, const scratch *s, int r, uint8_t *unit, encode_sum *sum)
{
    size_t n = padded_numbers(e);
    int8_t *out = (int8_t *)(unit + PANEL_ROWS * sizeof(float)) + r * 16;
    double error;
    float scale = fit_i8(s->row, n, &error);
    memcpy(unit + (size_t)r * sizeof scale, &scale, sizeof scale);
    for (size_t i = 0; i < n && !(e->factor && scale > 0); i += 16)
        code_row_i8(s->row + i, 16, scale, out + i * PANEL_ROWS);
    if (e->factor && scale > 0)
        error = q8_row_fed(e, s, r, scale, out, sum);
    sum->error += scale > 0 ? error : 0;
}

/* A block of 32 columns: code[t] and code[16 + t] share a byte. Of q4 a negative number's code counts down from 7, the others' up from 8. */
static void pack_codes(weight_type type, const uint8_t code[32], uint8_t out[16])
{
    for (int t = 0; t < 16; t++) {
        uint8_t low = code[t], high = code[16 + t];
        if (type == TYPE_Q4) {
            low = (uint8_t)((8 | low) ^ (low >> 7) * 15);
            high = (uint8_t)((8 | high) ^ (high >> 7) * 15);
        }
        out[t] = (uint8_t)((low & 15) | high << 4);
    }
}

static uint16_t sign_bits(const uint8_t code[16])
{
    unsigned bits = 0;
    for (int t = 0; t < 16; t++)
        bits |= (unsigned)(code[t] >> 7) << t;
    return (uint16_t)bits;
}

static void code_fed(const encoding *e, const kernels *k, const scratch *s, int r, uint16_t scale, double *error, encode_sum *sum)
{
    if (r == 0) {
        code_values(s->search, scale, s->table, s->code, (int)padded_numbers(e), s->values);
        add_plain(e, s, sum);
    }
    double fed = code_row_fed(s->search, k, e, s->row, scale, s->target, s->table, s->code, error);
    sum->fed += r == 0 ? fed : 0;
}

static void code_panel_row(const encoding *e, const kernels *k, const scratch *s, int r, uint8_t *unit, encode_sum *sum)
{
    size_t n = padded_numbers(e), row = (size_t)r;
    code_places at = type_code_places(e->type, &e->matrix);
    double error;
    uint16_t scale = code_row(s->search, k, &e->matrix, s->row, s->table, s->code, &error);
    memcpy(unit + row * sizeof scale, &scale, sizeof scale);
    if (e->factor && scale)
        code_fed(e, k, s, r, scale, &error, sum);
    for (size_t b = 0; b < n / 32; b++) {
        const uint8_t *code = s->code + 32 * b;
        unit[at.table + b * PANEL_ROWS + row] = (uint8_t)(s->table[2 * b] | s->table[2 * b + 1] << 4);
        pack_codes(e->type, code, unit + at.code + (b * PANEL_ROWS + row) * 16);
        for (size_t half = 0; half < 2 && e->type == TYPE_Q5; half++) {
            uint16_t bits = sign_bits(code + 16 * half);
            memcpy(unit + at.sign + ((b * 2 + half) * PANEL_ROWS + row) * sizeof bits, &bits, sizeof bits);
        }
    }
    sum->error += error;
}

static bool panel(const encoding *e, const kernels *k, const scratch *s, const float *rows, int64_t first, int count,
                  uint8_t *unit, encode_sum *sum, status *st)
{
    memset(unit, 0, type_unit_bytes(e->type, &e->matrix));
    for (int r = 0; r < count; r++) {
        if (!prepare(e, k, rows + (size_t)r * row_numbers(e), s->row))
            return not_finite(e, first + r, st);
        add_energy(sum, s->row, padded_numbers(e));
        if (is_coded(e->type))
            code_panel_row(e, k, s, r, unit, sum);
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
    if (is_coded(e->type))
        code_search_init(s.search, e->type, head);
    int step = type_unit_rows(e->type);
    size_t bytes = type_unit_bytes(e->type, &e->matrix);
    for (int64_t r = 0; r < count; r += step, out += bytes) {
        const float *row = rows + (size_t)r * row_numbers(e);
        int now = count - r < step ? (int)(count - r) : step;
        if (!(step > 1 ? panel(e, k, &s, row, first_row + r, now, out, sum, st)
                       : plain_row(e, k, row, first_row + r, s.row, out, sum, st)))
            return false;
    }
    return true;
}

void encode_try(const encoding *e, const kernels *k, const float *rows, int64_t count, void *memory, encode_trial *trial)
{
    if (!is_coded(e->type))
        return;
    scratch s = scratch_of(e, memory);
    for (int range = 0; range < CODE_RANGES; range++) {
        uint8_t head[CODE_HEAD_BYTES];
        code_tables(e->type, range, head);
        code_search_init(s.search, e->type, head);
        for (int64_t r = 0; r < count; r++)
            if (prepare(e, k, rows + (size_t)r * row_numbers(e), s.row)) /* what is not finite is reported when it is coded */
                trial->error[range] += code_row_error(s.search, k, s.row, (int)padded_numbers(e));
    }
}

void encode_head(const encoding *e, const encode_trial *trial, uint8_t *head)
{
    int best = 0;
    for (int range = 1; range < CODE_RANGES; range++)
        if (trial->error[range] < trial->error[best])
            best = range;
    if (is_coded(e->type))
        code_tables(e->type, best, head);
}

float encode_relative(const encode_sum *sum) { return sum->energy > 0 ? (float)sqrt(sum->error / sum->energy) : 0; }
