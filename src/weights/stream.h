/* stream.h: hands a plan's weights to the ops, in order, ahead of time, in no more memory than it was given.
 *
 * Three ways, one face: mapped (no budget: slices of the mapped file), ring (reader threads fill a ring of units by
 * direct reads) and pinned units (read once, kept) mixed into the ring's order. */
#ifndef PENSTOCK_STREAM_H
#define PENSTOCK_STREAM_H

#include "simd/kernels.h"
#include "weights/plan.h"

typedef struct stream stream;

typedef struct residency {
    bool mapped;
    uint64_t ring_bytes;  /* weights in flight; at least residency_least_ring */
    uint64_t unit_bytes;  /* a unit is read and handed over at once: whole panels up to this size, at least one */
    uint64_t pin_bytes;   /* units that are kept from pass to pass */
    int readers;          /* threads that read, 1 to 4; 0 counts as 1 */
} residency;

/* How a stream goes about it, for whoever follows it in thought (compute/plan_time.c) */
enum {
    MOST_READERS = 4,
    MAPPED_UNIT = 4 << 20, MAPPED_AHEAD = 32, /* units of a mapping, and how many are looked at ahead of the ops */
    VECTORS_AHEAD = 256 << 10                 /* bytes of vectors that are asked for together */
};
int stream_readers(const residency *how);

typedef struct weight_slice { /* whole units of one tensor */
    const uint8_t *head;      /* the type's head, NULL if it has none */
    const uint8_t *data;
    int64_t first_row, rows;
} weight_slice;

/* The smallest ring for a plan with that unit size: two units, or a repeated region whole and one unit more. */
uint64_t stream_least_ring(const plan *p, uint64_t unit_bytes, status *st); /* out of memory: 0 with st set */
/* Memory a stream takes besides ring and pins: vectors and bookkeeping. */
uint64_t stream_fixed_bytes(const plan *p, uint64_t unit_bytes);

/* passes: how often the plan will be walked (the reader reads ahead over the end of all but the last). */
stream *stream_open(const plan *p, const source *src, const residency *how, int passes, const kernels *k, status *st);
void stream_close(stream *s);
bool stream_begin(stream *s, status *st); /* a pass begins */

/* Was all that was handed out so far what the files hold? (Mapped files may change under us.) */
bool stream_intact(const stream *s, status *st);

/* The next slice of use number `use`; false when there is no more of it, or on an error. A slice stays valid until the next call
 * (inside a region: until its end). */
bool stream_next(stream *s, int use, weight_slice *out, status *st);
const float *stream_vector(const stream *s, int use); /* ROLE_VECTOR: whole, as f32 */
/* ROLE_EMBEDDING: rows by number to out [count][depth]. */
bool stream_gather(stream *s, int use, const int32_t *rows, int count, float *out, status *st);
/* Weights from use `first` on are kept, and handed out again after each stream_region_again, until stream_region_end. */
void stream_region_begin(stream *s, int first);
void stream_region_again(stream *s);
void stream_region_end(stream *s);

#endif
