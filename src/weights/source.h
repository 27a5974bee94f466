/* source.h: an opened model, wherever its bytes lie.
 *
 * A model is a set of components ("text_encoder", "transformer", ...), each with named tensors, and of small files
 * ("model_index.json", "transformer/config.json", "tokenizer/spiece.model"). A diffusers folder and a .penstock container fill the
 * same structure, and the rest of the program does not know which it was. */
#ifndef PENSTOCK_SOURCE_H
#define PENSTOCK_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "quant/types.h"
#include "weights/io.h"

enum { WEIGHT_DIMS = 6 };

/* A stretch of a tensor that lies contiguous in a file: the type's head (if it has one), then whole units. */
typedef struct weight_part {
    uint64_t offset;   /* in the file */
    uint64_t bytes;    /* head included */
    int64_t first_row;
    int64_t rows;
    int32_t extent;    /* index into source.extents, or -1 */
} weight_part;

typedef struct weight {
    const char *component;
    const char *name;         /* "encoder.block.0.layer.0.SelfAttention.q.weight" */
    weight_type type;
    int dims;
    int64_t shape[WEIGHT_DIMS]; /* as PyTorch has it: [out, in] or [out, in, kh, kw] */
    matrix_shape matrix;      /* of a container; of a folder: rows = shape[0], depth = shape[1] (or all the rest), taps = kh * kw */
    bool oihw;                /* rows lie [in][kh * kw] */
    uint8_t rotation_log2;    /* panels: the Hadamard block they were rotated with, 0 none */
    const char *stored;       /* the file's own format, unpacked to `type` as it is read ("Q4_K" of a GGUF); NULL: as `type` says */
    uint64_t stored_bytes;    /* with `stored`: what it takes in the file */
    float error;              /* relative RMS error of quantization, NaN where unknown */
    float output_error, output_plain; /* of a calibrated tensor: the relative error of its outputs, and without calibration; 0 where unknown */
    int file;                 /* index into source.files */
    int parts;
    weight_part *part;
} weight;

typedef struct extent {       /* a stretch of a container with a checksum of its own */
    int file;
    uint64_t offset, bytes, xxh3;
} extent;

typedef struct source_blob {  /* a small file */
    const char *name;         /* "tokenizer/spiece.model" */
    const char *path;         /* where it lies; NULL: in the folder, under its name */
    int file;                 /* of a container; -1: read from the folder */
    uint64_t offset, bytes;
    int32_t extent;
} source_blob;

typedef struct source {
    char *path;               /* as the user named it */
    bool container;
    bool single;              /* one file of another tool */
    int files;
    io **file;
    int components;
    const char **component;   /* sorted; "" is the only one of a bare component folder */
    int weights;
    weight *weight;           /* sorted by component, then name */
    int blobs;
    source_blob *blob;        /* sorted by name */
    int extents;
    extent *extent;
    bool part;                /* of another source, whose files these are */
    int calibration_prompts;  /* of a container: how many it was calibrated with, 0: none */
    uint64_t hash;            /* identifies the model's weights (container: of its header) */
    void *memory;             /* one mem_alloc block that all those pointers point into; source_close frees it */
} source;

/* MODEL of the command line: a container, a diffusers folder, a bare component folder, a single-file checkpoint. */
source *source_open(const char *path, status *st);
void source_close(source *s);
/* The model that lies in a folder of another ("stage2"), by the names that it would have by itself; NULL: there is none, or st. Close it before the other. */
source *source_part(const source *s, const char *folder, status *st);

const weight *source_find(const source *s, const char *component, const char *name); /* NULL if absent */
/* A folder of configs alone: the component is there, its weights are not (plan, quantize --random). */
bool source_lacks_weights(const source *s, const char *component);
bool source_has_component(const source *s, const char *component);
/* A small file's bytes with a 0 behind them; the caller frees with mem_free. Absent: NULL, and st set to STATUS_BAD_FILE
 * ("FOLDER/tokenizer/spiece.model: missing") unless `optional`. most: refuse larger ones. */
char *source_read_blob(const source *s, const char *name, size_t most, bool optional, size_t *bytes, status *st);

/* The readers behind source_open. Each returns a source made of mem_alloc blocks: itself, path, memory (NULL where not needed);
 * source_close closes the files and frees those three. */
source *source_open_folder(const char *path, status *st); /* import/folder.c */
source *source_open_single(const char *path, status *st); /* import/single.c */
source *source_open_pack(const char *path, status *st);   /* weights/pack.c */

#endif
