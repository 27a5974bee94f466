/* plan.h: what one pass of a forward function will read, hold and compute, known before anything large is read. */
#ifndef PENSTOCK_PLAN_H
#define PENSTOCK_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "weights/source.h"

typedef enum weight_role {     /* what the policy of the quantizer goes by */
    ROLE_LINEAR,               /* an inner matrix */
    ROLE_CONV,
    ROLE_EDGE,                 /* first and last layers, patch embedding, time and modulation layers: stay finer */
    ROLE_EMBEDDING,            /* a table whose rows are gathered */
    ROLE_VECTOR                /* biases, gains, small tables: kept as they are, whole, in f32 when used */
} weight_role;

typedef struct plan_work {     /* what is done without weights */
    uint64_t attention_operations;
    uint64_t activation_bytes; /* of tensors made: what norms and activations go through */
    uint64_t map_bytes;        /* written to the scratch file and read from it */
    uint64_t map_requests;     /* in so many bands */
    uint64_t calls;            /* of ops, about: tensors made, and a region's as often as it runs */
} plan_work;

typedef struct plan_use {      /* one use of one weight, in order */
    const weight *weight;
    weight_role role;
    matrix_shape matrix;
    int32_t region;            /* > 0: inside that repeated region, held until its end; 0: none */
    int64_t rows_gathered;     /* ROLE_EMBEDDING */
    uint64_t operations;       /* multiply-adds count 2 */
    double repeats;            /* of its region, in each of which a share of the operations is done; 1 outside */
    plan_work before;          /* since the use before it */
} plan_use;

typedef struct plan {
    const char *stage;         /* "text_encoder" */
    int uses, room;
    plan_use *use;
    uint64_t arena_bytes;      /* peak of activations and scratch */
    uint64_t scratch_bytes;    /* maps in the scratch file */
    uint64_t operations;       /* all, attention and convolutions included */
    plan_work after;           /* since the last use */
    uint64_t stream_bytes;     /* matrices, once a pass */
    uint64_t gather_bytes;
    uint64_t vector_bytes;     /* ROLE_VECTOR as f32: resident for the stage */
    uint64_t region_bytes;     /* the most that a repeated region holds at once */
    uint64_t largest_unit;     /* the largest panel or row group that must be held at once */
    int imagined_count;        /* weights made up from the shapes asked for (a model of configs alone) */
    weight **imagined;
} plan;

void plan_free(plan *p);
/* Every weight lies in a real file as it is (none is unpacked as it is read). */
bool plan_mappable(const plan *p, const source *s);

#endif
