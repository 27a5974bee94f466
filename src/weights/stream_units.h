/* stream_units.h: a plan's matrices cut into what is read and handed over at once. */
#ifndef PENSTOCK_STREAM_UNITS_H
#define PENSTOCK_STREAM_UNITS_H

#include "weights/plan.h"

typedef struct unit {
    int use, part;
    int64_t first_row, rows;
    uint64_t offset, bytes;  /* in the file; head included where head_bytes > 0 */
    uint32_t head_bytes;     /* the first unit of a part brings the type's head */
    bool pinned;
    uint8_t *pin;            /* its place when pinned */
} unit;

typedef struct unit_list {
    int count, room;
    unit *unit;
    int *first;              /* [uses + 1]: units of use i are first[i] .. first[i + 1] */
} unit_list;

bool units_build(unit_list *l, const plan *p, uint64_t unit_bytes, status *st);
void units_free(unit_list *l);
/* A ring of bytes that are taken in order and given back in order. */
typedef struct ring_space {
    size_t bytes, head, tail; /* head: where the oldest stretch begins that is taken; tail: where the newest ends */
    int taken;                /* stretches */
} ring_space;
/* A contiguous stretch, or false when there is none yet. It is not taken by that. */
bool ring_find(ring_space *r, size_t bytes, size_t *start);

/* Memory that a unit takes when read directly: whole IO_ALIGN blocks around it. */
uint64_t unit_slot_bytes(const unit *u);
/* Mark units as pinned, evenly spread (so that the reader always has compute to hide behind), up to pin_bytes; returns their slots' sum. */
uint64_t units_pin(unit_list *l, uint64_t pin_bytes);

#endif
