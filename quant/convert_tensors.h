/* convert_tensors.h: the converter's list, and the threads that work it off. Private to convert*.c. */
#ifndef PENSTOCK_CONVERT_TENSORS_H
#define PENSTOCK_CONVERT_TENSORS_H

#include "quant/convert.h"
#include "quant/encode.h"
#include "quant/random.h"
#include "weights/pack.h"

typedef struct out_tensor {
    const weight *w;
    const source *from;
    weight_role role;
    encoding e;             /* what it becomes */
    bool copy;              /* it is of that type already: its units go over as they are */
    bool draw;              /* from random */
    random_tensor random;
    int64_t chunk_rows;     /* done at once */
    bool probe;             /* convert_probe is to look at it */
    float sampled_error;    /* by convert_probe: relative RMS, of some rows; else 0 */
    int pending;            /* chunks taken and not encoded yet */
    bool ready;             /* its head, and with feedback its factors, are there */
    bool head_known;
    uint8_t head[CODE_HEAD_BYTES];
    encode_sum sum;         /* of the chunks written so far */
} out_tensor;

typedef struct out_list {
    int count;
    out_tensor *tensor;
    uint64_t numbers;
} out_list;

/* One thread's, for any tensor of the list. */
typedef struct worker_memory {
    uint8_t *raw, *units;
    float *rows;
    void *tmp, *scratch;
} worker_memory;

/* What one thread needs for any tensor of the list, with chunks of about `target` bytes of f32. Sets chunk_rows. */
size_t convert_worker_bytes(out_list *l, size_t target);
/* With error feedback: the factors of one tensor, whichever it is, and what making them takes. */
size_t convert_factor_bytes(const out_list *l);
/* Divide as much memory as the last call of the above said. */
worker_memory convert_divide(const out_list *l, char *p);
/* Whole units of the source's file; rows as f32. */
bool convert_read_units(const out_tensor *t, int64_t first, int64_t rows, uint8_t *out, status *st);
bool convert_load_rows(const kernels *k, const out_tensor *t, int64_t first, int64_t rows, const worker_memory *m, float *out, status *st);
/* The tables for a tensor, by some of its rows. Needs the memory of a chunk of PANEL_ROWS rows. */
bool convert_find_head(const kernels *k, out_tensor *t, const worker_memory *m, uint8_t *head, status *st);
/* Sample the tensors whose `probe` is set, in about `room` bytes (0: no limit; nothing is done when that is too little) of *needed. */
bool convert_probe(out_list *l, uint64_t room, uint64_t *needed, status *st);

/* Convert and write all tensors; `worker_bytes` from the last call of the above. */
bool convert_run(out_list *l, pack_writer *w, const convert_request *q, int threads, size_t worker_bytes, status *st);

#endif
