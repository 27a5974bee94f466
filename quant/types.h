/* types.h: the number formats of weights, one traits row each (types.c). FORMAT.md describes every bit.
 *
 * A matrix here is [rows][taps][depth]: a linear layer has 1 tap, a 3x3 convolution 9 (kernel row by kernel row) and depth
 * input channels. Row formats keep each row by itself; panel formats keep PANEL_ROWS rows together in the K16 layout that
 * the integer kernels read as it lies (simd/kernels.def), the last panel padded with zero rows. */
#ifndef PENSTOCK_TYPES_H
#define PENSTOCK_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "simd/kernels.h"

typedef enum weight_type {
    TYPE_F32, TYPE_F16, TYPE_BF16, TYPE_F8_E4M3, TYPE_F64, /* rows of plain numbers, as safetensors holds them */
    TYPE_I64, TYPE_I32, TYPE_I16, TYPE_I8, TYPE_U8, TYPE_BOOL,
    TYPE_Q8,      /* panels: int8 and one f32 scale a row; the numbers are rotated */
    TYPE_Q5,      /* panels: as q4 with a sign bit beside the 4-bit code */
    TYPE_Q4,      /* panels: 4-bit codes into one of 16 tables per 16 values, one bf16 scale a row; rotated */
    TYPE_Q8_ROWS, /* rows: f32 scale, then int8; for tables that are gathered by row (token embeddings) */
    TYPE_COUNT
} weight_type;

enum {
    CODE_HEAD_BYTES = 256,           /* q4, q5: 16 tables of 16 int8, of magnitude <= 63 */
    CODE_SCALE_BYTES = 2 * PANEL_ROWS, /* bf16, in front of the selectors: narrow layers stay under 4.5 bit a weight that way */
    MOST_TAPS = 4096,                /* limits within which no size overflows ... */
    MOST_DEPTH = 1 << 30,
    MOST_INTEGER_DEPTH = 1 << 17     /* ... and no int32 sum of 127 * 127 */
};

typedef struct matrix_shape {
    int64_t rows;
    int32_t taps;  /* 1, or kernel height x width */
    int32_t depth; /* inputs of one tap */
} matrix_shape;

typedef struct type_traits {
    const char *name;       /* "q4" */
    const char *safetensors; /* "F16", NULL for our own */
    weight_type type;
    bool panels;            /* K16 panels rather than rows */
    bool integer;           /* multiplied by gemm_i8 with quantized activations */
    int element_bytes;      /* of row formats; 0 for panels */
} type_traits;

const type_traits *type_of(weight_type type);
const type_traits *type_by_name(const char *name);               /* "q4"; NULL if unknown */
const type_traits *type_by_safetensors(const char *name);        /* "BF16"; NULL if unknown */

static inline int32_t depth_padded(int32_t depth) { return (depth + 31) / 32 * 32; } /* of one tap, in panels */
/* The Hadamard block: 256 (512 from a depth of 4096 on, 1024 from 8192 on) or the largest power of two from 32 up that divides depth; 0 when there is none. */
int rotation_block(int32_t depth);

/* Bytes in front of the first row or panel (q4, q5: the 256-byte tables), the same in every part of a tensor. */
size_t type_head_bytes(weight_type type);
/* Bytes of one row (row formats) or one panel (panel formats). */
size_t type_unit_bytes(weight_type type, const matrix_shape *m);
/* Rows that a unit holds: 1 or PANEL_ROWS. */
int type_unit_rows(weight_type type);
/* Within the limits above; the functions that take a matrix count on it. */
bool matrix_valid(weight_type type, const matrix_shape *m);
/* All of a matrix, head included; false on overflow or when it is not valid. */
bool type_matrix_bytes(weight_type type, const matrix_shape *m, uint64_t *bytes);

/* The first of `units` units (from behind the head) one of whose row scales is no finite number, as no writer makes them; -1: none. */
int64_t type_bad_unit(weight_type type, const matrix_shape *m, const uint8_t *data, int64_t units);

/* Turn `rows` (<= PANEL_ROWS) rows, which begin a unit of the file, to f32 rows of taps * depth floats, unrotated numbers as they are
 * kept (panel formats: still rotated, scale applied). unit: the first row's or the panel's bytes; head: the tensor's head or NULL.
 * oihw: row formats only, the row is stored [depth][taps] (PyTorch's convolution) and is turned to [taps][depth].
 * tmp: 16 * taps * depth_padded(depth) + 64 bytes of scratch. */
void type_to_f32(const kernels *k, weight_type type, const matrix_shape *m, bool oihw, const uint8_t *head, const uint8_t *unit,
                 int rows, void *tmp, float *out);
/* Where a unit of q4 or q5 keeps its tables' numbers, its codes, and (q5; else 0) its signs. */
typedef struct code_places { size_t table, code, sign; } code_places;
code_places type_code_places(weight_type type, const matrix_shape *m);

/* A panel of an integer format: where its row scales (f32 x 16) are, and its K16 int8 (both in tmp, or in place). unit is 64-byte aligned.
 * tmp: 64-byte aligned, type_panel_tmp_bytes. */
static inline size_t type_panel_tmp_bytes(const matrix_shape *m)
{
    return (size_t)PANEL_ROWS * (size_t)m->taps * (size_t)depth_padded(m->depth) + PANEL_ROWS * sizeof(float);
}
const int8_t *type_panel_i8(const kernels *k, weight_type type, const matrix_shape *m, const uint8_t *head, const uint8_t *unit,
                            int8_t *tmp, const float **row_scale);
/* One row of a gathered table to f32. */
void type_row_to_f32(const kernels *k, weight_type type, int64_t depth, const uint8_t *row, float *out);

#endif
