/* rates.h: what this machine can do, measured in a fraction of a second each: for `bench`, and for the times that `plan` predicts.
 * Rates of all threads of a pool together, by the processor time that they got: other programs on the machine hardly change them. */
#ifndef PENSTOCK_RATES_H
#define PENSTOCK_RATES_H

#include "base/status.h"
#include "base/threads.h"
#include "simd/kernels.h"
#include "simd/peaks.h"
#include "weights/io.h"

/* What an op can be bound by: a core's peaks, then ways to go through memory. */
typedef enum bound {
    BOUND_I8 = PEAK_I8, BOUND_F32 = PEAK_F32, BOUND_BF16 = PEAK_BF16,
    BOUND_READ = PEAK_KINDS, BOUND_COPY /* one is read, another written */, BOUND_UPDATE /* changed in place */, BOUNDS
} bound;
extern const char *const bound_names[BOUNDS]; /* "int8", "copy" */

typedef struct lap {   /* seconds since some moment */
    double wall, cpu;  /* cpu: of the pool's threads together */
} lap;
lap lap_now(const threads *pool); /* the processor time of its threads */

/* Of many measurements of one thing, sorting them: what a quarter of them stay under. Others on the machine only make things slower; but
 * not the least, for processor time is booked late where a hypervisor takes a core away, and some come out far too short. */
double lower_quartile(double *seconds, int count);

/* Gop/s of a loop of the peak's instruction; 0 with st set: out of memory. */
double rate_peak(const peak *p, threads *pool, double seconds, status *st);
/* The same of a set's peak; 0 where it has none. */
double rate_of_set(const kernels *k, peak_kind kind, threads *pool, double seconds, status *st);
/* Memory that is in no cache, GB/s, bytes read and written both counted. */
double rate_memory(bound kind, threads *pool, double seconds, status *st);
/* Reading a file past the page cache in pieces of so many bytes, by so many threads, GB/s, by the clock. */
double rate_disk(io *file, size_t piece, int readers, bool huge_pages, double seconds, status *st);
/* Writing a scratch file and reading it in pieces of so many bytes (of at most 2 MiB), GB/s of both together. folder: as scratch_open. */
double rate_scratch(const char *folder, size_t piece, double seconds, status *st);
/* Seconds from one thread's news to another's that slept until it. */
double seconds_to_wake(status *st);

#endif
