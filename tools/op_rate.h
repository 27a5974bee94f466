/* op_rate.h: how fast one op is at one shape, executed as a run executes it: planned, its made-up weights streamed and kept, on all
 * threads of the pool. */
#ifndef PENSTOCK_OP_RATE_H
#define PENSTOCK_OP_RATE_H

#include "quant/types.h"
#include "simd/peaks.h"
#include "tools/rates.h"

typedef enum op_kind {
    OP_LINEAR, OP_CONV, OP_ATTENTION, OP_LAYER_NORM, OP_RMS_NORM, OP_GROUP_NORM, OP_GELU_TANH, OP_GELU_ERF, OP_SILU, OP_ACT_MUL, OP_ADD,
    OP_QUANTIZE, OP_KINDS
} op_kind;

typedef struct op_shape {
    const char *system;     /* that has it: "T5-XXL" */
    op_kind op;
    weight_type type;       /* of the weights; attention: of those before it */
    int rows;               /* tokens; the side of a square image (conv, group norm); queries */
    int in, out;            /* channels; attention: keys, width of a head */
    int heads;
} op_shape;

typedef struct op_rate {
    char shape[48];         /* "256 x 4096 -> 10240", as it was run */
    double work;            /* of one call: operations, or bytes where memory bounds it */
    lap took;               /* seconds of a call; cpu: of all threads together */
} op_rate;

const char *op_name(op_kind op); /* "linear" */
bound op_bound(const op_shape *shape, const kernels *k);
/* Calls it for about `seconds` (twice at least, behind one that does not count). Rows are left out where one call would take more
 * than twice that, going by `most`: Gop/s (or GB/s) of what bounds it, 0 if that is not known. */
bool op_measure(const op_shape *shape, const kernels *k, threads *pool, double seconds, double most, op_rate *out, status *st);

#endif
