/* draft.h: a source while its parts are being found; draft_finish packs what was found into one block.
 *
 * The first error sticks in st, and every call after it does nothing, so that a reader need not ask after each. */
#ifndef PENSTOCK_DRAFT_H
#define PENSTOCK_DRAFT_H

#include "import/safetensors.h"
#include "weights/source.h"

typedef struct draft_weight {
    safetensor t;       /* its name is not valid: see `name` */
    size_t name;        /* in draft.text */
    int component, file;
} draft_weight;

typedef struct draft_blob {
    size_t name;
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
    draft_blob *blob;
    int blobs, blob_room;
    uint64_t hash;
} draft;

void draft_component(draft *d, const char *name);           /* further weights belong to it */
/* Takes f over, also on an error (then it is closed, and false). label: the file's name inside the folder, for the hash. */
bool draft_file(draft *d, io *f, const char *label);
void draft_hash(draft *d, const void *bytes, size_t count); /* the order counts */
void draft_weight_add(draft *d, const safetensor *t);       /* of the last component, in the last file */
void draft_blob_add(draft *d, const char *name, uint64_t bytes);

/* The source, or NULL with st set. Frees the draft's own memory either way. */
source *draft_finish(draft *d);

#endif
