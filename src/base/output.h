/* output.h: files that appear whole or not at all.
 *
 *     output o;
 *     if (!output_open(&o, "out.png", st)) return false;
 *     output_write(&o, data, bytes, st); ...
 *     return output_commit(&o, st);          // on an earlier error: removes what was written and returns false
 *
 * What is written has no name until the end where Linux can do that (O_TMPFILE), so that not even SIGKILL leaves anything;
 * elsewhere it goes to PATH.part-PID. It takes PATH's name at the end. Something that is no regular file (a pipe,
 * /dev/stdout) is written as it stands. */
#ifndef PENSTOCK_OUTPUT_H
#define PENSTOCK_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct output {
    int fd;
    int slot;        /* in the list of what a signal has to remove, -1: nothing */
    bool failed;
    bool unnamed;    /* nothing has the name `part` yet */
    uint64_t bytes;  /* written so far */
    char *path;      /* the name at the end */
    char *part;      /* the name until then; NULL: written in place */
} output;

/* Could PATH be written? For a sentence before an hour of work rather than after it. Leaves nothing behind. */
bool output_check(const char *path, status *st);

bool output_open(output *o, const char *path, status *st);
bool output_write(output *o, const void *data, size_t bytes, status *st);
/* Close, leave the page cache, take the final name. Once a write has failed, or when st stands at an error: the same as output_abort,
 * and false. */
bool output_commit(output *o, status *st);
void output_abort(output *o);

/* Remove every unfinished file of this process: safe in a signal handler. */
void output_remove_unfinished(void);

#endif
