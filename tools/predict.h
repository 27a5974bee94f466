/* predict.h: what the ops, the threads and the disk reach on this machine, for the times that `plan` predicts. */
#ifndef PENSTOCK_PREDICT_H
#define PENSTOCK_PREDICT_H

#include "simd/kernels.h"
#include "tools/rates.h"
#include "compute/plan_time.h"

/* Of computing: from the user's cache, where they were measured in the last week by the same program, kernels and threads; else measured, which takes about a second.
 * f32: as --precision f32. anew: measure in any case. What the disk does is 0: no time. */
bool rates_of_computing(const kernels *k, threads *pool, bool f32, bool anew, machine_rates *out, status *st);
/* Of reading this file: measured each time, which takes half a second. Other programs may use the disk at another time. */
bool rates_of_reading(io *file, machine_rates *out, status *st);
/* Of the scratch file. */
bool rates_of_scratch(const char *folder, machine_rates *out, status *st);

#endif
