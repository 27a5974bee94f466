/* safetensors_lite.h: a small strict reader of safetensors files for tests. Shares nothing with the product's reader, on purpose. */
#ifndef SAFETENSORS_LITE_H
#define SAFETENSORS_LITE_H

#include <stddef.h>
#include <stdint.h>

enum { LITE_RANK = 8 };

typedef struct lite_tensor {
    char *name;
    int rank;
    int64_t shape[LITE_RANK];
    size_t count;     /* product of the shape */
    float *values;    /* F64, F32, F16, BF16, I64, I32 and U8 are converted */
} lite_tensor;

typedef struct lite_file {
    lite_tensor *tensors;
    size_t count;
    char error[256];
} lite_file;

/* 0, or -1 with error set. Anything that the format forbids is an error: gaps and overlaps in the data, sizes that do not
 * belong to the shape, names given twice, bytes after the end. lite_close is needed in both cases. */
int lite_open(lite_file *f, const char *path);
void lite_close(lite_file *f);
const lite_tensor *lite_find(const lite_file *f, const char *name); /* NULL: not there */

#endif
