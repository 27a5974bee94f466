/* moments.h: what the inputs of a model's layers are like: for each matrix the products of its inputs with each other, summed over all the
 * tokens or pixels that passed through it. The quantizer's error feedback (quant/encode_feedback.h) is made of them.
 *
 * Inputs are taken as the quantized layers see them, rotated, and by windows of columns: whole rotation blocks, or half a very wide one.
 * A convolution's taps see the same pixels, but for the border, so that it has the moments of its input once, for all of its taps.
 * Sums run in the order of the rows, whatever slabs and threads they come by. */
#ifndef PENSTOCK_MOMENTS_H
#define PENSTOCK_MOMENTS_H

#include "base/status.h"
#include "simd/kernels.h"
#include "weights/plan.h"

typedef struct input_moments input_moments;
struct threads;

/* Columns of a window for inputs of that depth; 0: not rotated, there are no moments of it. */
int moments_window(int32_t depth);

/* For all matrices of those plans. Where that is more than `limit` bytes (0: no limit) they lie in a file in `folder` (see scratch_open), but for one. */
input_moments *moments_open(const plan *const *plans, int count, uint64_t limit, const char *folder, status *st);
void moments_close(input_moments *m);                /* NULL is fine */
uint64_t moments_bytes(const input_moments *m);      /* held in memory; NULL: 0 */

/* Rows of a matrix' inputs [rows][depth], not rotated yet. A weight that was not in the plans is passed over. */
bool moments_add(input_moments *m, const weight *w, const float *x, int64_t rows, int32_t depth, const kernels *k, struct threads *pool, status *st);

/* How many rows a weight's inputs had; 0: none, or it was not in the plans. */
int64_t moments_rows(const input_moments *m, const weight *w);
/* [depth / window][window][window], the upper triangles alone, divided by the number of rows. */
bool moments_get(input_moments *m, const weight *w, float *out, status *st);

#endif
