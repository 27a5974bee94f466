#ifndef PENSTOCK_OP_GROUP_NORM_H
#define PENSTOCK_OP_GROUP_NORM_H

#include "compute/ops.h"

/* Row `row` of item `item` of x: out = act(in * scale + shift). out may be in. */
void normalize_row(const run *r, tensor x, norm n, int item, int row, const float *in, float *out);
tensor sums_new(run *r, tensor x);  /* x with room for its rows' sums */
/* Sums of rows first .. first + rows of x, counted over all its items, which stand at `at`. */
void sum_rows(const run *r, tensor x, int64_t first, int64_t rows, const float *at);

#endif
