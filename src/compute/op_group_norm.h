#ifndef PENSTOCK_OP_GROUP_NORM_H
#define PENSTOCK_OP_GROUP_NORM_H

#include "compute/ops.h"

/* Row `row` of item `item` of x: out = act(in * scale + shift). out may be in. */
void normalize_row(const run *r, tensor x, norm n, int item, int row, const float *in, float *out);

#endif
