/* view.h: a file that does not exist: another file's tensors as plain numbers in C order.
 *
 * Blocks are unpacked and matrices turned as they are read, so nothing of the rest of the program knows that they lay otherwise, and no
 * more memory is taken than for what was asked for. Such a file cannot be mapped (io_can_map). */
#ifndef PENSTOCK_VIEW_H
#define PENSTOCK_VIEW_H

#include "import/table.h"

typedef struct view_item {
    uint64_t at, bytes;         /* in the view */
    uint64_t offset;            /* of the stored tensor, in the file */
    const block_format *blocks; /* NULL: a transposed matrix */
    int64_t first;              /* with blocks: elements before ours */
    int64_t rows, columns;      /* transposed: as the view has it; columns lie one behind the other in the file */
    int element_bytes;
} view_item;

typedef struct view_plan { /* a view while its parts are being found; free with mem_free(item) unless view_open took it */
    view_item *item;
    int items, room;
    uint64_t size;
} view_plan;

/* Gives t a place in the view: its offset and bytes there are returned in t, blocks and transposed are gone. Cannot overflow for a checked t. */
bool view_add(view_plan *v, file_tensor *t, status *st);
/* Takes the plan's items over. `under` must outlive the result. */
io *view_open(io *under, view_plan *v, status *st);

#endif
