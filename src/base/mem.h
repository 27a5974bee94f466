/* mem.h: the only place that allocates. Everything is counted, so that the plan's figures can be held against it. */
#ifndef PENSTOCK_MEM_H
#define PENSTOCK_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Zeroed, 64-byte aligned memory; NULL with st set to "WHAT: out of memory (N bytes)". count * size is checked. */
void *mem_alloc(size_t count, size_t size, const char *what, status *st);
/* Grow or shrink; the old block stays valid on failure. New bytes are not zeroed. p may be NULL. */
void *mem_resize(void *p, size_t count, size_t size, const char *what, status *st);
void mem_free(void *p); /* NULL is fine */
char *mem_string(const char *text, status *st);                     /* a copy */
char *mem_format(status *st, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whole pages straight from the kernel, for arenas and rings (returned to it at once by mem_unmap). Zeroed. */
void *mem_map(size_t bytes, const char *what, status *st);
void mem_unmap(void *p, size_t bytes);
enum { HUGE_PAGE = 2 << 20 };
/* As mem_map, from a huge page's beginning on, in huge pages where the system has them (direct reads into them are three times as fast). To be handed to mem_touch, by one thread at
 * a time and page by page, before several use it. */
void *mem_map_huge(size_t bytes, const char *what, status *st);
void mem_touch(void *p, size_t bytes);

void mem_trim(void);     /* what malloc keeps of what was freed goes back to the system, as far as it can */
size_t mem_in_use(void); /* bytes, both kinds */
size_t mem_peak(void);

/* Tests: the n-th allocation from now on fails (n = 1: the next one); 0 turns it off. */
void mem_fail_at(long n);
long mem_fail_left(void); /* how far away that still is, 0 once it has failed */

/* Checked size arithmetic: false on overflow. */
static inline bool size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

#endif
