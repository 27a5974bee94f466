/* predict.h: how long a stage will compute, from what its ops reach on this machine. */
#ifndef PENSTOCK_PREDICT_H
#define PENSTOCK_PREDICT_H

#include "models/pipeline.h"
#include "simd/kernels.h"
#include "tools/rates.h"

typedef struct sustained {   /* of all threads together, through the ops */
    double decode;           /* seconds to decode an integer format's weight, once */
    double integer;          /* seconds of an operation of the integer product */
    double convolution;      /* of the integer convolution */
    double single;           /* of the f32 product */
    double attention;        /* of attention */
    double traffic;          /* of a byte of a tensor that a norm or an activation goes through */
    double call;             /* to hand an op to the threads, and to wait for the last of them */
} sustained;

/* From the user's cache, where they were measured in the last week by the same program, kernels and threads; else measured, which takes about a second.
 * f32: as --precision f32. anew: measure in any case. */
bool sustained_rates(const kernels *k, threads *pool, bool f32, bool anew, sustained *out, status *st);
/* Seconds of all passes of a planned stage: it computes while it reads. disk: bytes a second, 0: reading takes no time. */
double predict_stage(const sustained *s, const stage_report *stage, double disk);

#endif
