/* plan_time.h: how long the passes of a plan will take, from what this machine was measured to do: the readers and the one who computes are followed
 * unit by unit, with the ring between them. */
#ifndef PENSTOCK_PLAN_TIME_H
#define PENSTOCK_PLAN_TIME_H

#include "weights/stream.h"

typedef enum product_kind { PRODUCT_CODED /* 4 to 6 bit */, PRODUCT_Q8, PRODUCT_HALF /* f16, bf16 */, PRODUCT_SINGLE, PRODUCT_KINDS } product_kind;

typedef struct product_rate {
    double weight;            /* seconds for each weight, to bring and decode it, however many tokens there are */
    double operation;         /* for each operation */
} product_rate;

typedef struct machine_rates { /* seconds; where threads compute, of all together */
    product_rate product[PRODUCT_KINDS];
    double convolution;       /* an operation of one of integers */
    double tap;               /* finding a row of its input, for one of its taps and a group of its rows */
    int threads;
    double attention;         /* an operation */
    double traffic;           /* a byte of a tensor that a norm or an activation goes through */
    double call;              /* an op, whatever its size */
    double wake;              /* from news to the thread that slept until it */
    double touch;             /* a byte of new memory */
    double check;             /* a byte of weights, the first time: its checksum, by a reader that takes a core from the ops */
    double read_request, read_byte; /* a direct read of n bytes into huge pages, when four are under way: read_request + n * read_byte. 0: reading takes no time */
    double read_alone;        /* in place of read_request: when no other is */
    double read_byte_small;   /* into small pages */
    double read_vector;       /* to find and read one of the small tensors */
    double scratch_request, scratch_byte; /* of the scratch file, written or read */
} machine_rates;

/* Seconds of all passes; f32: as --precision f32. window_share: of the scratch file, kept in memory, 0 .. 1. Out of memory: 0 with st set. */
double plan_seconds(const plan *p, const residency *how, const machine_rates *m, int passes, bool f32, double window_share, status *st);

#endif
