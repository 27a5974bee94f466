/* status.h: one sentence about the first thing that went wrong.
 *
 * A failing function fills the status it was given and returns false (or NULL). The first error wins: a later
 * status_set on the same status changes nothing, so that a chain of consequences keeps its cause. */
#ifndef PENSTOCK_STATUS_H
#define PENSTOCK_STATUS_H

#include <stdbool.h>
#include <stdint.h>

/* The values are the exit statuses of the command line. */
typedef enum status_code {
    STATUS_OK = 0,
    STATUS_FAILED = 1,   /* the run failed: out of memory, output disk full, ... */
    STATUS_USAGE = 2,    /* bad options */
    STATUS_BAD_FILE = 3, /* a file that is missing, malformed, truncated, or fails its checksum */
    STATUS_BUDGET = 4    /* the memory budget is too small */
} status_code;

typedef struct status {
    status_code code;
    uint64_t least_bytes; /* with STATUS_BUDGET: the least budget that would do */
    char text[480];       /* "what: why", no newline, no "penstock: " in front */
} status;

#define STATUS_INIT {STATUS_OK, 0, {0}}

static inline bool status_ok(const status *st) { return st->code == STATUS_OK; }

/* Set code and sentence unless an error stands already. Always returns false, so that
 * `return status_set(st, ...)` reads well. Control characters in the result are replaced by '?'. */
bool status_set(status *st, status_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
