/* trace.h: named float tensors on their way into a safetensors file (--trace, encode -o, --save-latents). */
#ifndef PENSTOCK_TRACE_H
#define PENSTOCK_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct trace trace;

trace *trace_open(status *st);
void trace_close(trace *t);
/* Copy a tensor in; data is count(shape) floats. t may be NULL (nothing happens). */
bool trace_add(trace *t, const char *name, const float *data, int dims, const int64_t *shape, status *st);
/* A tensor by name: its data until the trace changes; NULL if there is none. */
const float *trace_find(const trace *t, const char *name, int *dims, const int64_t **shape);
/* Write all as F32 safetensors: into PATH.part-PID, then renamed. */
bool trace_write(const trace *t, const char *path, status *st);

#endif
