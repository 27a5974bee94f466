/* io.h: reading files. The one place that knows O_DIRECT, madvise and posix_fadvise.
 *
 * An `io` is an open file behind a small vtable, so that tests can put a memory block, a faulty or a slow file there. */
#ifndef PENSTOCK_IO_H
#define PENSTOCK_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct io io;

enum { IO_ALIGN = 4096 }; /* direct reads: offset, length and memory are multiples of this */

/* Open a regular file for reading. Missing or unreadable: STATUS_BAD_FILE. The name is copied. */
io *io_open(const char *path, status *st);
void io_close(io *f);
const char *io_name(const io *f);
uint64_t io_size(const io *f);
uint64_t io_modified(const io *f); /* nanoseconds since 1970; 0 for a file made of functions */

/* Read exactly `bytes` at `offset` through the page cache, which is dropped behind (nothing stays charged to us).
 * A short file or an I/O error is a sentence with the file's name. */
bool io_read(io *f, uint64_t offset, void *out, size_t bytes, status *st);
/* What will be io_read soon may come in already. A few pages, of a file that is not mapped: they count as ours until they are read. */
void io_ahead(io *f, uint64_t offset, size_t bytes);
/* As io_read, by direct I/O where the file system takes it (then offset, bytes and out must be multiples of IO_ALIGN; a read that
 * runs over the end of the file is cut there and *got says so); by io_read's way otherwise. Thread safe. */
bool io_read_direct(io *f, uint64_t offset, void *out, size_t bytes, size_t *got, status *st);
bool io_can_map(const io *f); /* it is a real file */
/* The whole file mapped read-only (once; shared by later calls; NULL with st set when that fails, or for a file that
 * is not a real one). Stays mapped until io_close. */
const uint8_t *io_map(io *f, status *st);
/* This stretch of the mapping will be read now: returns when its pages are there, or sooner. */
void io_map_ahead(io *f, uint64_t offset, uint64_t bytes);
/* Were all the bytes that were read out of the mapping the file's? Where it shrank or its disk failed meanwhile they were zeros: false, with st set. */
bool io_map_intact(const io *f, status *st);
/* Bytes read so far through this file (mapped bytes count when io_count_mapped is told of them). */
uint64_t io_bytes_read(const io *f);
void io_count_mapped(io *f, uint64_t bytes);

/* Tests: a file made of functions. read returns bytes read, 0 at the end, -1 with errno. */
typedef struct io_vtable {
    int64_t (*read)(void *ctx, uint64_t offset, void *out, size_t bytes);
    void (*close)(void *ctx);
} io_vtable;
io *io_custom(const char *name, uint64_t size, const io_vtable *v, void *ctx, status *st);
/* Tests: of all files together, the n-th read from now on fails with `error` (n = 1: the next one); 0 turns it off. io_fail_left: how far away it still
 * is, 0 once it has failed. */
void io_fail_at(long n, int error);
long io_fail_left(void);
/* Tests: a read brings at most so many bytes; 0: as many as it may. */
void io_short_reads(size_t most);

#endif
