#include "quant/types.h"

#include <assert.h>
#include <string.h>

static const type_traits traits[TYPE_COUNT] = {
    [TYPE_F32] = {"f32", "F32", TYPE_F32, false, false, 4},
    [TYPE_F16] = {"f16", "F16", TYPE_F16, false, false, 2},
    [TYPE_BF16] = {"bf16", "BF16", TYPE_BF16, false, false, 2},
    [TYPE_F8_E4M3] = {"f8_e4m3", "F8_E4M3", TYPE_F8_E4M3, false, false, 1},
    [TYPE_F64] = {"f64", "F64", TYPE_F64, false, false, 8},
    [TYPE_I64] = {"i64", "I64", TYPE_I64, false, false, 8},
    [TYPE_I32] = {"i32", "I32", TYPE_I32, false, false, 4},
    [TYPE_I16] = {"i16", "I16", TYPE_I16, false, false, 2},
    [TYPE_I8] = {"i8", "I8", TYPE_I8, false, false, 1},
    [TYPE_U8] = {"u8", "U8", TYPE_U8, false, false, 1},
    [TYPE_BOOL] = {"bool", "BOOL", TYPE_BOOL, false, false, 1},
    [TYPE_Q8] = {"q8", NULL, TYPE_Q8, true, true, 0},
    [TYPE_Q5] = {"q5", NULL, TYPE_Q5, true, true, 0},
    [TYPE_Q4] = {"q4", NULL, TYPE_Q4, true, true, 0},
    [TYPE_Q8_ROWS] = {"q8_rows", NULL, TYPE_Q8_ROWS, false, false, 1},
};

const type_traits *type_of(weight_type type)
{
    assert((unsigned)type < TYPE_COUNT);
    return &traits[type];
}

const type_traits *type_by_name(const char *name)
{
    for (int i = 0; i < TYPE_COUNT; i++)
        if (strcmp(traits[i].name, name) == 0)
            return &traits[i];
    return NULL;
}

const type_traits *type_by_safetensors(const char *name)
{
    for (int i = 0; i < TYPE_COUNT; i++)
        if (traits[i].safetensors && strcmp(traits[i].safetensors, name) == 0)
            return &traits[i];
    return NULL;
}

/* A lone large channel sets the scale of its whole row: the wider the row, the more columns it is spread over. */
enum { WIDE = 4096, WIDEST = 8192 };

int rotation_block(int32_t depth)
{
    for (int block = depth >= WIDEST ? 1024 : depth >= WIDE ? 512 : 256; block >= 32; block /= 2)
        if (depth > 0 && depth % block == 0)
            return block;
    return 0;
}

/* ---- sizes ---- */

static size_t up64(size_t n) { return (n + 63) / 64 * 64; }

/* One panel row in numbers, padding included. */
static size_t padded_row(const matrix_shape *m) { return (size_t)m->taps * (size_t)depth_padded(m->depth); }

code_places type_code_places(weight_type type, const matrix_shape *m)
{
    code_places p = {.table = CODE_SCALE_BYTES, .code = up64(CODE_SCALE_BYTES + padded_row(m) / 32 * PANEL_ROWS)};
    p.sign = type == TYPE_Q5 ? p.code + padded_row(m) * PANEL_ROWS / 2 : 0;
    return p;
}

size_t type_head_bytes(weight_type type) { return type == TYPE_Q4 || type == TYPE_Q5 ? CODE_HEAD_BYTES : 0; }

size_t type_unit_bytes(weight_type type, const matrix_shape *m)
{
    size_t row = (size_t)m->taps * (size_t)m->depth;
    switch (type) {
    case TYPE_Q8: return PANEL_ROWS * sizeof(float) + padded_row(m) * PANEL_ROWS;
    case TYPE_Q5: return type_code_places(type, m).sign + padded_row(m) * PANEL_ROWS / 8;
    case TYPE_Q4: return type_code_places(type, m).code + padded_row(m) * PANEL_ROWS / 2;
    case TYPE_Q8_ROWS: return sizeof(float) + (row + 3) / 4 * 4;
    default: return row * (size_t)traits[type].element_bytes;
    }
}

int type_unit_rows(weight_type type) { return traits[type].panels ? PANEL_ROWS : 1; }

bool matrix_valid(weight_type type, const matrix_shape *m)
{
    if (m->rows < 0 || m->rows > INT64_MAX - PANEL_ROWS || m->taps < 1 || m->taps > MOST_TAPS || m->depth < 0 ||
        m->depth > MOST_DEPTH)
        return false;
    return !traits[type].integer || (m->depth > 0 && m->depth <= MOST_INTEGER_DEPTH);
}

bool type_matrix_bytes(weight_type type, const matrix_shape *m, uint64_t *bytes)
{
    if (!matrix_valid(type, m))
        return false;
    uint64_t units = ((uint64_t)m->rows + (uint64_t)type_unit_rows(type) - 1) / (uint64_t)type_unit_rows(type);
    return !__builtin_mul_overflow(units, (uint64_t)type_unit_bytes(type, m), bytes) &&
           !__builtin_add_overflow(*bytes, (uint64_t)type_head_bytes(type), bytes);
}

/* ---- scales ---- */

/* A float's, or a bfloat16's, exponent says that it is none. */
static bool is_finite_scale(const uint8_t *at, size_t bytes)
{
    return !((at[bytes - 1] & 0x7f) == 0x7f && (at[bytes - 2] & 0x80) != 0);
}

int64_t type_bad_unit(weight_type type, const matrix_shape *m, const uint8_t *data, int64_t units)
{
    size_t unit = type_unit_bytes(type, m), count = traits[type].panels ? PANEL_ROWS : 1;
    size_t bytes = type_head_bytes(type) ? sizeof(uint16_t) : sizeof(float);
    if (traits[type].safetensors)
        return -1; /* plain numbers have none */
    for (int64_t i = 0; i < units; i++, data += unit)
        for (size_t r = 0; r < count; r++)
            if (!is_finite_scale(data + r * bytes, bytes))
                return i;
    return -1;
}

/* ---- plain numbers to f32 ---- */

#define LOOP(T)                                                                                                                  \
    for (size_t i = 0; i < n; i++) {                                                                                             \
        T v;                                                                                                                     \
        memcpy(&v, in + i * sizeof v, sizeof v);                                                                                 \
        out[i] = (float)v;                                                                                                       \
    }                                                                                                                            \
    break

/* A file may hold 16-bit numbers at odd addresses, which the kernels must not be given. */
static void halves_to_f32(void (*convert)(const uint16_t *, float *, size_t), const uint8_t *in, size_t n, float *out)
{
    if ((uintptr_t)in % sizeof(uint16_t) == 0) {
        convert((const uint16_t *)(const void *)in, out, n);
        return;
    }
    uint16_t some[256];
    for (size_t i = 0; i < n; i += 256) {
        size_t count = n - i < 256 ? n - i : 256;
        memcpy(some, in + i * sizeof *some, count * sizeof *some);
        convert(some, out + i, count);
    }
}

static void plain_to_f32(const kernels *k, weight_type type, const uint8_t *in, size_t n, float *out)
{
    switch (type) {
    case TYPE_F32: memcpy(out, in, n * sizeof *out); break;
    case TYPE_F16: halves_to_f32(k->f16_to_f32, in, n, out); break;
    case TYPE_BF16: halves_to_f32(k->bf16_to_f32, in, n, out); break;
    case TYPE_F8_E4M3: k->f8e4m3_to_f32(in, out, n); break;
    case TYPE_F64: LOOP(double);
    case TYPE_I64: LOOP(int64_t);
    case TYPE_I32: LOOP(int32_t);
    case TYPE_I16: LOOP(int16_t);
    case TYPE_I8: LOOP(int8_t);
    case TYPE_U8: LOOP(uint8_t);
    case TYPE_BOOL: /* any byte but 0 is true */
        for (size_t i = 0; i < n; i++)
            out[i] = in[i] != 0;
        break;
    default: assert(!"a plain number"); /* our own formats do not come here */
    }
}

#undef LOOP

void type_row_to_f32(const kernels *k, weight_type type, int64_t depth, const uint8_t *row, float *out)
{
    assert(!traits[type].panels);
    if (type != TYPE_Q8_ROWS) {
        plain_to_f32(k, type, row, (size_t)depth, out);
        return;
    }
    float scale;
    memcpy(&scale, row, sizeof scale);
    const int8_t *q = (const int8_t *)(row + sizeof scale);
    for (int64_t i = 0; i < depth; i++)
        out[i] = scale * (float)q[i];
}

/* ---- panels ---- */

const int8_t *type_panel_i8(const kernels *k, weight_type type, const matrix_shape *m, const uint8_t *head, const uint8_t *unit,
                            int8_t *tmp, const float **row_scale)
{
    assert(traits[type].integer && (uintptr_t)unit % 64 == 0);
    if (type == TYPE_Q8) {
        *row_scale = (const float *)(const void *)unit;
        return (const int8_t *)(unit + PANEL_ROWS * sizeof(float));
    }
    size_t n = padded_row(m);
    code_places at = type_code_places(type, m);
    if (type == TYPE_Q5)
        k->decode_q5(unit + at.table, unit + at.code, unit + at.sign, (int)n, (const int8_t *)head, tmp);
    else
        k->decode_q4(unit + at.table, unit + at.code, (int)n, (const int8_t *)head, tmp);
    float *scale = (float *)(void *)(tmp + n * PANEL_ROWS); /* n is a multiple of 32: aligned as tmp is */
    k->bf16_to_f32((const uint16_t *)(const void *)unit, scale, PANEL_ROWS);
    *row_scale = scale;
    return tmp;
}

static void panel_to_f32(const kernels *k, weight_type type, const matrix_shape *m, const uint8_t *head, const uint8_t *unit,
                         int rows, int8_t *tmp, float *out)
{
    const float *scale;
    const int8_t *w = type_panel_i8(k, type, m, head, unit, tmp, &scale);
    size_t padded = (size_t)depth_padded(m->depth);
    for (int r = 0; r < rows; r++)
        for (size_t tap = 0; tap < (size_t)m->taps; tap++)
            for (size_t i = 0; i < (size_t)m->depth; i++) {
                size_t at = tap * padded + i;
                *out++ = scale[r] * (float)w[(at / 16 * PANEL_ROWS + (size_t)r) * 16 + at % 16];
            }
}

/* [depth][taps] to [taps][depth] */
static void taps_first(const float *in, const matrix_shape *m, float *out)
{
    size_t taps = (size_t)m->taps, depth = (size_t)m->depth;
    for (size_t tap = 0; tap < taps; tap++)
        for (size_t i = 0; i < depth; i++)
            out[tap * depth + i] = in[i * taps + tap];
}

void type_to_f32(const kernels *k, weight_type type, const matrix_shape *m, bool oihw, const uint8_t *head, const uint8_t *unit,
                 int rows, void *tmp, float *out)
{
    if (traits[type].panels) {
        panel_to_f32(k, type, m, head, unit, rows, tmp, out);
        return;
    }
    size_t n = (size_t)m->taps * (size_t)m->depth, bytes = type_unit_bytes(type, m);
    bool turn = oihw && m->taps > 1 && m->depth > 1; /* otherwise both orders are the same */
    for (int r = 0; r < rows; r++, unit += bytes, out += n) {
        type_row_to_f32(k, type, (int64_t)n, unit, turn ? tmp : out);
        if (turn)
            taps_first(tmp, m, out);
    }
}
