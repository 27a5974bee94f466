/* scratch.h: an unlinked file for maps that do not fit the budget. It vanishes with the process, whatever ends it. */
#ifndef PENSTOCK_SCRATCH_H
#define PENSTOCK_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct scratch_file scratch_file;

/* folder: NULL for the user's cache (XDG_CACHE_HOME, ~/.cache). A tmpfs is refused: its pages are memory. */
scratch_file *scratch_open(const char *folder, uint64_t bytes, status *st);
void scratch_close(scratch_file *s);
/* The pages are dropped from the page cache behind each call, so that they do not count as ours. */
bool scratch_write(scratch_file *s, uint64_t offset, const void *data, size_t bytes, status *st);
bool scratch_read(scratch_file *s, uint64_t offset, void *out, size_t bytes, status *st);

#endif
