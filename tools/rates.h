/* rates.h: what this machine can do, measured in a fraction of a second each: for `bench`, and for the times that `plan` predicts. */
#ifndef PENSTOCK_RATES_H
#define PENSTOCK_RATES_H

#include "base/status.h"
#include "base/threads.h"
#include "simd/kernels.h"
#include "weights/io.h"
#include "weights/source.h"

typedef struct rate_row {
    const char *name;   /* "gemm_i8" */
    const char *unit;   /* "Gop/s", "GB/s" */
    const char *about;
} rate_row;

enum { RATE_GEMM_I8, RATE_GEMM_I8_ONE, RATE_GEMM_F32, RATE_DECODE_Q4, RATE_QUANTIZE, RATE_ATTENTION, RATE_NORM, RATE_ACTIVATE, RATES };
extern const rate_row rate_table[RATES];

/* One kernel on all threads of the pool for about `seconds`; in units of its row. 0 with st set: out of memory. */
double rate_kernel(int which, const kernels *k, threads *pool, double seconds, status *st);
/* What bounds a model's stages: Gop/s of the two matrix kernels, all threads. */
typedef struct peaks {
    double integer, single;
} peaks;
bool rate_peaks(const kernels *k, threads *pool, peaks *out, status *st);
/* The peak that a component's weights are multiplied at: that of most of its parameters. */
double peak_of(const peaks *p, const source *s, const char *component, bool f32);

/* Reading memory that is in no cache, GB/s. */
double rate_memory(threads *pool, double seconds, status *st);
/* Reading a file past the page cache, GB/s. */
double rate_disk(io *file, double seconds, status *st);

#endif
