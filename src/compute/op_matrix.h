/* op_matrix.h: what linear layers and convolutions share: rows of input found by pointers, times streamed weights. */
#ifndef PENSTOCK_OP_MATRIX_H
#define PENSTOCK_OP_MATRIX_H

#include "compute/ops.h"

/* Where the rows of the left operand are: result row t, tap s reads input row `index`. -1: zeros (padding). */
typedef int64_t (*tap_row)(const void *ctx, int64_t t, int s);

typedef struct product {
    run *r;
    int use;                 /* of the matrix */
    matrix_shape m;
    int64_t rows;            /* of the result */
    tap_row tap;             /* NULL: one tap, row t itself */
    const void *tap_ctx;
    const float *x;          /* input rows, m.depth floats each */
    /* the result: out[(row) * out_stride + n]; value = act(product + bias), then * gate, then added when `adding` */
    float *out;
    size_t out_stride;
    const float *bias;
    activation act;
    bool adding;
    const float *gate;       /* by batch item: gate + item * gate_stride; NULL none */
    size_t gate_stride;
    int64_t rows_per_item;
    int first_item;
    int64_t x_rows;          /* input rows at x, for quantization */
    char *scratch;           /* product_scratch bytes */
} product;

/* Scratch bytes for a product; the same in PLAN and LIVE. */
int64_t product_scratch(const run *r, int use, const matrix_shape *m, int64_t x_rows);
void product_run(const product *p);

#endif
