/* tensor_file.h: float tensors of a safetensors file that a user hands over: latents, embeddings. */
#ifndef PENSTOCK_TENSOR_FILE_H
#define PENSTOCK_TENSOR_FILE_H

#include <stdbool.h>

#include "import/safetensors.h"

typedef struct tensor_file {
    io *file;
    safetensors *table;
} tensor_file;

bool tensor_file_open(tensor_file *t, const char *path, status *st); /* close either way */
void tensor_file_close(tensor_file *t);
/* All of a tensor of f32, f16, bf16, i64 or i32 as f32; the caller frees with mem_free. Any other type is STATUS_BAD_FILE. */
float *tensor_file_floats(const tensor_file *t, const safetensor *s, status *st);

/* Latents and where in a run they stood. */
typedef struct latents_file {
    float *data;        /* mem_free */
    int64_t shape[4];   /* [batch, channels, height, width]; 0 channels: tokens [batch, height, width] */
    int done;           /* calls of the sampler that made them; -1: none, they are noise to begin with */
    int calls;          /* of the whole run; 0: not told */
} latents_file;

/* `latents` (generate --save-latents), the last `latents.<i>` of a trace, or the only tensor there is. */
bool latents_file_read(latents_file *l, const char *path, status *st);

#endif
