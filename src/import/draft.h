/* draft.h: a source while its parts are being found; draft_finish packs what was found into one block.
 *
 * The first error sticks in st, and every call after it does nothing, so that a reader need not ask after each. */
#ifndef PENSTOCK_DRAFT_H
#define PENSTOCK_DRAFT_H

#include "import/table.h"
#include "import/view.h"

typedef struct draft_weight {
    file_tensor t;      /* its name is not valid: see `name` */
    size_t name;        /* in draft.text */
    int component, file;
    int view;           /* index into draft.view when its file is a view of that file, -1 */
    const char *stored;
    uint64_t stored_bytes;
} draft_weight;

typedef struct draft_view {
    view_plan plan;
    int file;           /* what it is a view of, and in the end its own place among the files */
} draft_view;

typedef struct draft_blob {
    size_t name, path;  /* path: SIZE_MAX where it is the name */
    uint64_t bytes;
} draft_blob;

typedef struct draft {
    status *st;
    const char *path;
    char *text;         /* all names, each with its 0 */
    size_t used, text_room;
    size_t *component;  /* in text; in ascending order of names */
    int components, component_room;
    draft_weight *weight;
    int weights, weight_room;
    io **file;
    int files, file_room;
    draft_view *view;
    int views, view_room;
    draft_blob *blob;
    int blobs, blob_room;
    uint64_t hash;
} draft;

void draft_component(draft *d, const char *name);           /* further weights belong to it */
/* Takes f over, also on an error (then it is closed, and false). label: the file's name inside the folder, for the hash. */
bool draft_file(draft *d, io *f, const char *label);
void draft_hash(draft *d, const void *bytes, size_t count); /* the order counts */
void draft_weight_add(draft *d, const file_tensor *t);      /* of the last component, in the last file */
void draft_weight_of(draft *d, int component, const char *name, const file_tensor *t); /* the same, of that component, under that name */
void draft_blob_add(draft *d, const char *name, uint64_t bytes);
void draft_blob_from(draft *d, const char *name, const char *path, uint64_t bytes); /* one that lies somewhere else */

/* Names of small files that a component may bring; ends with NULL. */
extern const char *const small_files[];

/* The source, or NULL with st set. Frees the draft's own memory either way. */
source *draft_finish(draft *d);

#endif
