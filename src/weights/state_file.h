/* state_file.h: files of our own making between two runs (checkpoints, cached embeddings): numbers one behind the other with a checksum at the end,
 * written whole or not at all, read only when every byte is as it was written. For the machine that wrote them; nobody else's format. */
#ifndef PENSTOCK_STATE_FILE_H
#define PENSTOCK_STATE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { STATE_MAGIC = 8 };
typedef struct state_file state_file;

/* st must outlive the file; the first error in it sticks. magic: STATE_MAGIC characters, kind and version. NULL with st set. */
state_file *state_create(const char *path, const char *magic, status *st);
/* file is a state_file; the arguments' types are those of a callback. */
bool state_put(void *file, void *data, size_t bytes);
bool state_commit(state_file *f); /* frees f; on an earlier error nothing appears, and false */

/* Malformed, damaged or of another magic: NULL with st STATUS_BAD_FILE. */
state_file *state_open(const char *path, const char *magic, status *st);
bool state_get(void *file, void *data, size_t bytes); /* in the order they were put; more than there is: STATUS_BAD_FILE */
void state_drop(state_file *f);   /* frees f, whatever is unread */
bool state_close(state_file *f);  /* frees f; STATUS_BAD_FILE where something was left unread */

#endif
