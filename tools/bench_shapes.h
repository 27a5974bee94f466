/* bench_shapes.h: what `bench` measures: ops at the shapes of known systems, one table. */
#ifndef PENSTOCK_BENCH_SHAPES_H
#define PENSTOCK_BENCH_SHAPES_H

#include "tools/op_rate.h"

extern const op_shape bench_shapes[];
extern const int bench_shape_count;

#endif
