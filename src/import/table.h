/* table.h: what every reader of weight files makes of one: its tensors' names, types, shapes and places, all checked against the file. */
#ifndef PENSTOCK_TABLE_H
#define PENSTOCK_TABLE_H

#include <stdint.h>

#include "base/status.h"
#include "quant/types.h"
#include "weights/io.h"
#include "weights/source.h"

typedef struct block_format block_format; /* import/gguf_blocks.h */

typedef struct file_tensor {
    const char *name;
    weight_type type;           /* of a block format: F32, what it is unpacked to */
    int dims;
    int64_t shape[WEIGHT_DIMS]; /* as PyTorch has it */
    uint64_t offset;            /* in the file, of the whole stored tensor */
    uint64_t bytes;             /* stored; of a plain type = elements x the type's size */
    const block_format *blocks; /* GGUF's quantized numbers; NULL: plain ones */
    bool transposed;            /* a matrix whose columns lie one behind the other; `shape` is that of the matrix, not of what lies there */
    int64_t first;              /* with blocks: where the tensor begins in what is unpacked, in elements (a slice of rows) */
} file_tensor;

typedef struct tensor_table {
    int tensors;
    file_tensor *tensor;        /* sorted by name, none twice */
    uint64_t hash;              /* XXH3-64 of what describes the tensors */
    char *text;                 /* what the names point into */
} tensor_table;

/* The reader is chosen by the first bytes: GGUF, a zip archive (torch), otherwise safetensors. Malformed in any way: NULL, and st
 * STATUS_BAD_FILE with the file's and the tensor's name. */
tensor_table *table_read(io *f, status *st);
void table_free(tensor_table *t);
const file_tensor *table_find(const tensor_table *t, const char *name); /* NULL if absent */

/* For readers: one more (zeroed) tensor; names in order, none twice; elements, false on overflow. */
file_tensor *table_add(tensor_table *t, int *room, status *st);
bool table_sort(tensor_table *t, const char *file, status *st);
bool table_check_overlap(tensor_table *t, const char *file, status *st); /* no two tensors share a byte */
bool table_elements(const file_tensor *t, uint64_t *n);

#endif
