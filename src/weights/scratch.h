/* scratch.h: an unlinked file for maps that do not fit the budget. It vanishes with the process, whatever ends it. */
#ifndef PENSTOCK_SCRATCH_H
#define PENSTOCK_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct scratch_file scratch_file;

/* folder: NULL for the user's cache (XDG_CACHE_HOME, ~/.cache). A tmpfs is refused: its pages are memory. The first window_bytes of it are kept in
 * memory instead. */
scratch_file *scratch_open(const char *folder, uint64_t bytes, uint64_t window_bytes, status *st);
void scratch_close(scratch_file *s); /* after what was begun is done */

/* Both return at once with a number above 0; a thread does what was asked in that order. The memory must stay until it is done. */
uint64_t scratch_write(scratch_file *s, uint64_t offset, const void *data, size_t bytes);
uint64_t scratch_read(scratch_file *s, uint64_t offset, void *out, size_t bytes);
/* Until that one, and all before it, are done; false with the first that failed. */
bool scratch_wait(scratch_file *s, uint64_t number, status *st);

#endif
