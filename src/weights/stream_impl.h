/* stream_impl.h: what the stream's files share. Private to stream*.c. */
#ifndef PENSTOCK_STREAM_IMPL_H
#define PENSTOCK_STREAM_IMPL_H

#include "weights/stream.h"

#include <pthread.h>
#include <xxhash.h>

#include "weights/stream_units.h"

enum { ENTRIES = 4096, HEAD_BYTES = 256, CHECK_PIECE = 256 << 10 };

typedef enum entry_state { BEING_READ, READ, CHECKED } entry_state;

typedef struct entry {        /* a unit that is on its way, in the ring or in its pin */
    int unit;
    entry_state state;
    uint8_t *data;            /* the unit's first byte */
    size_t start, bytes;      /* its slot in the ring; bytes 0: pinned */
} entry;

typedef struct held_slice {
    int use;
    weight_slice slice;
} held_slice;

typedef struct extent_walk {  /* units of one extent that follow each other */
    XXH3_state_t *hash;
    int extent;               /* -1: none */
    uint64_t next;            /* the file offset that comes next, so that a seek is noticed */
} extent_walk;

struct stream {
    const plan *plan;
    const source *source;
    const kernels *k;
    residency how;
    unit_list units;
    float *vectors;
    size_t *vector_at;        /* [uses], floats */
    uint8_t *heads;           /* [uses][HEAD_BYTES] */
    bool *checked;            /* [extents]: its checksum was right */

    int use, unit;            /* the consumer's place: next unit of that use */
    int pass;
    bool in_region, replay;
    int region_first;
    held_slice *held;
    int held_count, held_room, held_next;

    uint8_t *ring, *pins;
    ring_space space;         /* of the ring */
    size_t pin_bytes;
    size_t ring_touched, pins_touched; /* so far their pages are there */
    entry *fifo;              /* [ENTRIES], in the plan's order: number n stands at n % ENTRIES; oldest .. oldest + filled */
    uint64_t oldest, to_check;/* the next one whose checksum is due: before it all are CHECKED */
    int filled, taken;        /* the first `taken` are in use by the consumer */
    int next_unit, next_pass, passes;  /* the readers' place: the next unit that nobody reads yet */
    bool quit, checking;      /* checking: one reader is at the checksums */
    status error;
    pthread_t reader[MOST_READERS];
    int readers, reading;     /* started; not yet at the end */
    pthread_mutex_t lock;
    pthread_cond_t room, news;

    extent_walk walk[2];      /* checksums of extents of one part, and of extents that parts share, which take turns */
    bool *in_flight;          /* [extents]: all of it goes by in the plan's order, and is hashed meanwhile */
};

/* stream_check.c: checksums, and scales that are no numbers. */
bool stream_check_extent(stream *s, const weight *w, int extent_index, status *st);  /* reads it by itself */
bool stream_plan_checks(stream *s, status *st);   /* once the units are known: which extents need no reading by themselves */
bool stream_check_unit(stream *s, const unit *u, const uint8_t *data, status *st);   /* units in order */
bool stream_check_scales(const stream *s, const weight *w, const matrix_shape *m, const uint8_t *data, int64_t first_row, int64_t rows, status *st);

/* stream_vectors.c */
bool stream_load_vectors(stream *s, status *st);

/* stream_read.c: the readers, and the ring that they fill. */
bool stream_start_readers(stream *s, status *st);
void stream_stop_readers(stream *s);
entry *stream_entry(const stream *s, uint64_t number);
void stream_release_taken(stream *s);   /* the slots that were taken so far go back to the readers; with the lock held */

#endif
