/* support.h: what suites share: fixtures, files that lie in memory, sentences, random numbers. A missing fixture ends the test. */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "weights/io.h"

/* ---- fixtures: $PENSTOCK_FIXTURES/FOLDER/NAME ---- */
const char *fixture_path(const char *folder, const char *name); /* stays until eight more were asked for */

typedef struct file_bytes {
    char *data;     /* with a 0 behind it; the caller's to free */
    size_t bytes;
} file_bytes;

bool fixture_exists(const char *folder, const char *name);
file_bytes fixture_read(const char *folder, const char *name);
FILE *fixture_open(const char *folder, const char *name);
void take(FILE *f, void *out, size_t bytes); /* the next bytes of it */
void unescape(char *text);                   /* \xNN, as the fixtures' scripts write it, back to bytes, in place */

/* ---- files in memory ---- */
/* `bytes` stay the caller's, and may be fewer than `size`, as of a file that has shrunk. Ends the test rather than return NULL. */
io *io_of_bytes(const file_bytes *b, uint64_t size, const char *name);

/* ---- sentences ---- */
void check_sentence(const status *st, const char *word); /* a bad file's, which holds the word */

/* ---- numbers, the same in every run ---- */
extern uint64_t seed_state; /* 1 when a test begins */
double uniform(void);       /* 0 to 1, neither included */
float gaussian(void);
void *room(size_t n, size_t size);  /* zeroed; mem_free */
double relative_error(const float *got, const float *want, size_t n); /* |got - want| / |want| */

#endif
