/* zip.h: the table of a zip archive whose files are stored as they are, as torch.save writes them. */
#ifndef PENSTOCK_ZIP_H
#define PENSTOCK_ZIP_H

#include <stdint.h>

#include "base/status.h"
#include "weights/io.h"

typedef struct zip_entry {
    const char *name;
    uint64_t offset, bytes;  /* of the data, in the archive */
} zip_entry;

typedef struct zip {
    int entries;
    zip_entry *entry;        /* sorted by name */
    char *text;              /* the directory, which the names point into */
} zip;

/* Malformed, compressed, encrypted, overlapping, outside of the file: NULL and STATUS_BAD_FILE. */
zip *zip_read(io *f, status *st);
void zip_free(zip *z);
const zip_entry *zip_find(const zip *z, const char *name); /* NULL if absent */

#endif
