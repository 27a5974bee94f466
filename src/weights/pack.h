/* pack.h: the .penstock container, written and read. quant/FORMAT.md says what lies where.
 *
 *     pack_writer *w = pack_create("model.penstock", st);
 *     pack_file(w, "model_index.json", text, bytes, st);
 *     pack_begin(w, &tensor, head, st);                 // tensors in the order of their use
 *     pack_rows(w, units, rows, st); ...                // whole units, in order
 *     pack_end(w, error, st);
 *     return pack_commit(w, st);                        // frees w, whatever happens
 *
 * What is written stands under OUT.part-PID until it is whole (base/output.h, whose list a signal handler goes through); a
 * writer holds a few megabytes and none of the page cache. Reading: source_open_pack (source.h). */
#ifndef PENSTOCK_PACK_H
#define PENSTOCK_PACK_H

#include "weights/plan.h"
#include "weights/source.h"

enum {
    PACK_VERSION = 1,            /* of what is written; also the newest that is read */
    PACK_PREAMBLE_BYTES = 64,
    PACK_ALIGN = 64 * 1024,      /* of extents */
    PACK_INNER_ALIGN = 64,       /* of tensors inside an extent */
    PACK_SMALL = 1 << 20,        /* tensors below that share extents */
    PACK_PART_BYTES = 4 << 20,   /* an extent of a larger one, at most (a single unit may be larger) */
    PACK_HEADER_LIMIT = 64 << 20
};

typedef struct pack_writer pack_writer;

typedef struct pack_tensor {
    const char *component, *name; /* copied */
    weight_type type;
    int dims;
    int64_t shape[WEIGHT_DIMS];
    matrix_shape matrix;          /* rows lie [taps][depth] */
    int rotation;                 /* panels: the Hadamard block, 0 none */
    weight_role role;
} pack_tensor;

pack_writer *pack_create(const char *path, status *st);
bool pack_file(pack_writer *w, const char *name, const void *data, size_t bytes, status *st);
bool pack_begin(pack_writer *w, const pack_tensor *t, const uint8_t *head, status *st);
/* The units of the next `rows` rows; only the last call may end inside a unit. */
bool pack_rows(pack_writer *w, const uint8_t *units, int64_t rows, status *st);
/* Of the tensor that is open, where it was calibrated: the relative error of its outputs, and what it would have been without. */
void pack_output_error(pack_writer *w, float error, float plain);
/* The container was calibrated with so many prompts. */
void pack_calibrated(pack_writer *w, int prompts);
/* error: relative RMS, NaN if unknown. */
bool pack_end(pack_writer *w, float error, status *st);
/* Write the header, sync, take the final name. With st at an error already: nothing is left behind, and false. The writer is gone either way. */
bool pack_commit(pack_writer *w, status *st);
/* What a writer of files and tensors of that many bytes in all holds at most, but for some 250 bytes a tensor. */
size_t pack_writer_bytes(uint64_t all);

typedef void (*pack_progress)(void *ctx, uint64_t bytes, uint64_t all);
/* Recompute every checksum and look at what lies between. The sentence names what an altered extent holds. progress may be NULL. */
bool pack_verify(const source *s, pack_progress progress, void *ctx, status *st);

#endif
