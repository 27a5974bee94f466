/* encode.h: rows of f32 to any type that a container may hold. Each result is a function of the numbers alone: neither
 * threads nor the instruction set change a bit.
 *
 *     size_t bytes = encode_scratch_bytes(&e);       // one scratch a thread
 *     encode_try(&e, k, sample, sample_rows, scratch, &trial); ... // once a tensor: some rows from all over it
 *     encode_head(&e, &trial, head);
 *     encode_rows(&e, k, head, rows, first_row, count, scratch, units, &sum, st);   // units in any order, on any thread
 *     error = encode_relative(&sum) */
#ifndef PENSTOCK_ENCODE_H
#define PENSTOCK_ENCODE_H

#include "base/status.h"
#include "quant/types.h"

typedef struct encoding {         /* how one tensor is written */
    weight_type type;
    matrix_shape matrix;
    int rotation;                 /* panel types: the Hadamard block, 0 none */
    const char *component, *name; /* for sentences */
    int window;                   /* panel types with error feedback: columns that know of each other, and ... */
    const float *factor;          /* ... what feedback_factor made of their moments. 0, NULL: without */
} encoding;

enum { CODE_RANGES = 5 };         /* families of tables to choose from */
typedef struct encode_trial { double error[CODE_RANGES]; } encode_trial;  /* begins as {0} */

typedef struct encode_sum {
    double error, energy;         /* squares: of the differences, of the numbers */
    double fed, plain, power;     /* with feedback, of a row in 16: of the output's differences, with and without it, and of the output */
} encode_sum;

/* f32, f16, bf16, q8, q5, q4, q8_rows */
bool type_writable(weight_type type);
/* The encoding of a tensor with the rotation that its depth allows. */
encoding encoding_of(weight_type type, matrix_shape m, const char *component, const char *name);

size_t encode_scratch_bytes(const encoding *e);
/* Add the errors that some rows [count][taps * depth] would have with each head there is. Nothing to do for types without one. */
void encode_try(const encoding *e, const kernels *k, const float *rows, int64_t count, void *scratch, encode_trial *trial);
/* The head with the least error. */
void encode_head(const encoding *e, const encode_trial *trial, uint8_t *head);
/* `count` rows [taps * depth], the first of which is row first_row and begins a unit, to whole units at out (64-byte aligned for panels);
 * count is a multiple of type_unit_rows or reaches the matrix' end. Adds to *sum. A number that is not finite, or too large for
 * f16, sets st to a sentence that names tensor and row. */
bool encode_rows(const encoding *e, const kernels *k, const uint8_t *head, const float *rows, int64_t first_row, int64_t count,
                 void *scratch, uint8_t *out, encode_sum *sum, status *st);
/* Relative RMS error; 0 for nothing. */
float encode_relative(const encode_sum *sum);

/* ---- the search behind q4 and q5, encode_codes.c ---- */
size_t code_search_bytes(void);
void code_tables(weight_type type, int range, uint8_t head[CODE_HEAD_BYTES]);
/* Make the search's tables (memory of code_search_bytes) from a head. */
void code_search_init(void *to, weight_type type, const uint8_t head[CODE_HEAD_BYTES]);
/* The error (sum of squares in some unit) that a row of n numbers, n a multiple of 16, would have; looks at part of a long row. */
double code_row_error(const void *with, const kernels *k, const float *row, int n);
/* Code a padded row: returns its scale as bf16; for each group of 16 numbers a table, for each number a code as search_codes makes them;
 * the sum of the squared differences, padding not counted. */
uint16_t code_row(const void *with, const kernels *k, const matrix_shape *m, const float *row, uint8_t *table, uint8_t *code, double *error);
/* What those codes stand for, [padded row]. */
void code_values(const void *with, uint16_t scale, const uint8_t *table, const uint8_t *code, int n, float *out);
/* Code it anew with that scale, errors fed back: returns the output's error. target: n floats of scratch. */
double code_row_fed(const void *with, const kernels *k, const encoding *e, const float *row, uint16_t scale, float *target, uint8_t *table, uint8_t *code,
                    double *error);

#endif
