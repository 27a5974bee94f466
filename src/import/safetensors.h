/* safetensors.h: one .safetensors file's table of tensors, every number in it checked against the file. */
#ifndef PENSTOCK_SAFETENSORS_H
#define PENSTOCK_SAFETENSORS_H

#include <stdint.h>

#include "base/status.h"
#include "quant/types.h"
#include "weights/io.h"
#include "weights/source.h"

typedef struct safetensor {
    const char *name;
    weight_type type;
    int dims;
    int64_t shape[WEIGHT_DIMS];
    uint64_t offset;     /* in the file */
    uint64_t bytes;      /* = elements x the type's size */
} safetensor;

typedef struct safetensors {
    int tensors;
    safetensor *tensor;  /* sorted by name */
    uint64_t hash;       /* XXH3-64 of the header's bytes */
    char *text;          /* what the names point into */
} safetensors;

/* Read and check the header. Malformed in any way: NULL, and st STATUS_BAD_FILE with the file's and the tensor's name. */
safetensors *safetensors_read(io *f, status *st);
void safetensors_free(safetensors *t);
const safetensor *safetensors_find(const safetensors *t, const char *name); /* NULL if absent */

#endif
