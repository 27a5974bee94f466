/* calibrate.h: `quantize --calibrate FILE`: prompts go through the model's own pipeline, unquantized and in 32-bit float, and what its layers
 * are given to see is summed up (weights/moments.h). */
#ifndef PENSTOCK_CALIBRATE_H
#define PENSTOCK_CALIBRATE_H

#include "tools/command.h"
#include "weights/moments.h"

/* A line of the file is a prompt; empty lines and lines that begin with # are skipped. Returns the moments of the plans' weights (NULL: st is set), and
 * how many prompts they are of. Picture n has the seed's n-th successor; size, steps and guidance are the options', or the model's. */
input_moments *calibrate(const options *o, const source *src, const plan *plans, int count, int *prompts, status *st);

#endif
