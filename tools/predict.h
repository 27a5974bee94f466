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
} sustained;

/* Measures for about a second. f32: as --precision f32. */
bool sustained_measure(const kernels *k, threads *pool, bool f32, sustained *out, status *st);
/* Seconds of all passes of a planned stage, weights at hand. */
double predict_compute(const sustained *s, const stage_report *stage);

#endif
