/* made_up.h: a model of a few made-up weights that lies in no file: for timing an op the way a run executes it. */
#ifndef PENSTOCK_MADE_UP_H
#define PENSTOCK_MADE_UP_H

#include "weights/plan.h"
#include "weights/source.h"

enum { MADE_UP_MOST = 4 };

typedef struct made_up {
    const char *name;     /* "w.weight"; the list is sorted by name */
    weight_type type;     /* one that a container may hold */
    weight_role role;     /* ROLE_VECTOR: matrix is {1, 1, n} */
    matrix_shape matrix;
} made_up;

/* Its one component is "". The numbers are random of a sensible size, in the format's own encoding; a tensor repeats its first unit
 * of rows. Close with source_close. NULL with st set. */
source *made_up_open(const made_up *list, int count, const kernels *k, status *st);

#endif
