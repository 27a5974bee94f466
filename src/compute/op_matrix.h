/* op_matrix.h: what linear layers and convolutions share: rows of input found by pointers, times streamed weights. */
#ifndef PENSTOCK_OP_MATRIX_H
#define PENSTOCK_OP_MATRIX_H

#include "compute/ops.h"

/* Where the rows of the left operand are: for result rows t .. t + n - 1, tap s, the input rows' numbers. -1: zeros (padding). */
typedef void (*tap_rows)(const void *ctx, int64_t t, int n, int s, int64_t *row);
/* Input row `row`, m.depth floats; `out` has room for them. Asked for once a row, as it is quantized: no whole input need exist as the
 * product sees it. */
typedef const float *(*source_row)(const void *ctx, int64_t row, float *out);

typedef struct product {
    run *r;
    int use;                 /* of the matrix */
    matrix_shape m;
    int64_t rows;            /* of the result */
    tap_rows tap;            /* NULL: one tap, row t itself */
    const void *tap_ctx;
    const float *x;          /* input rows, m.depth floats each; or, where the matrix is of an integer type, by `source`: */
    source_row source;
    const void *source_ctx;
    /* the result: out[(row) * out_stride + n]; value = act(product + bias + plus), then * gate, then added when `adding` */
    float *out;
    size_t out_stride;
    const float *bias;
    activation act;
    const float *plus;       /* by batch item: plus + item * plus_stride; NULL none */
    size_t plus_stride;
    bool adding;
    const float *add;        /* adding: what to, if not to what stands in out; its rows lie as those of out */
    const float *gate;       /* by batch item: gate + item * gate_stride; NULL none */
    size_t gate_stride;
    int64_t rows_per_item;
    int first_item;
    int64_t x_rows;          /* input rows at x, for quantization */
    int64_t x_seen;          /* of these the first ones that an earlier product of this pass had as well */
    char *scratch;           /* product_scratch bytes */
} product;

/* Scratch bytes for a product; the same in PLAN and LIVE. */
int64_t product_scratch(const run *r, int use, const matrix_shape *m, int64_t x_rows);
void product_run(const product *p);
/* How much longer a slice of so many rows takes because its tasks are no multiple of the threads: 1 and above. */
double product_waste(const matrix_shape *m, bool integer, int64_t slice_rows, int64_t tokens, int workers);
/* The rows of a matrix that a worker decodes at once. */
int product_group_rows(const matrix_shape *m, bool integer);

#endif
