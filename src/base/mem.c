#define _GNU_SOURCE
#include "base/mem.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static _Atomic size_t in_use, peak;
static _Atomic long fail_at;

/* The block's size stands in front of it, in a header as wide as the alignment. */
enum { HEADER = 64 };

static void charge(size_t bytes)
{
    size_t now = atomic_fetch_add(&in_use, bytes) + bytes;
    size_t top = atomic_load(&peak);
    while (now > top && !atomic_compare_exchange_weak(&peak, &top, now))
        ;
}

static bool told_to_fail(void)
{
    if (atomic_load(&fail_at) == 0)
        return false;
    return atomic_fetch_sub(&fail_at, 1) == 1;
}

void mem_fail_at(long n) { atomic_store(&fail_at, n); }
long mem_fail_left(void) { return atomic_load(&fail_at); }
void mem_trim(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

size_t mem_in_use(void) { return atomic_load(&in_use); }
size_t mem_peak(void) { return atomic_load(&peak); }

static bool no_memory(const char *what, size_t bytes, status *st)
{
    return status_set(st, STATUS_FAILED, "%s: out of memory (%zu bytes)", what, bytes);
}

void *mem_alloc(size_t count, size_t size, const char *what, status *st)
{
    size_t bytes, whole;
    if (!size_mul(count, size, &bytes) || !size_add(bytes, HEADER + 63, &whole)) {
        no_memory(what, SIZE_MAX, st);
        return NULL;
    }
    whole = whole / 64 * 64;
    char *p = told_to_fail() ? NULL : aligned_alloc(64, whole);
    if (!p) {
        no_memory(what, bytes, st);
        return NULL;
    }
    memset(p, 0, whole);
    memcpy(p, &bytes, sizeof bytes);
    charge(bytes);
    return p + HEADER;
}

static size_t size_of(const void *p)
{
    size_t bytes;
    memcpy(&bytes, (const char *)p - HEADER, sizeof bytes);
    return bytes;
}

void *mem_resize(void *p, size_t count, size_t size, const char *what, status *st)
{
    void *q = mem_alloc(count, size, what, st);
    if (q && p) {
        size_t old = size_of(p), new = count * size;
        memcpy(q, p, old < new ? old : new);
        mem_free(p);
    }
    return q;
}

void mem_free(void *p)
{
    if (!p)
        return;
    atomic_fetch_sub(&in_use, size_of(p));
    free((char *)p - HEADER);
}

char *mem_string(const char *text, status *st)
{
    size_t n = strlen(text) + 1;
    char *s = mem_alloc(n, 1, "string", st);
    if (s)
        memcpy(s, text, n);
    return s;
}

char *mem_format(status *st, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *s = n < 0 ? NULL : mem_alloc((size_t)n + 1, 1, "string", st);
    if (s) {
        va_start(args, format);
        vsnprintf(s, (size_t)n + 1, format, args);
        va_end(args);
    }
    return s;
}

/* Whole pages; begin at a multiple of `align`, 0: of a page. */
static char *map_pages(size_t bytes, size_t align)
{
    if (align)
        bytes = round_up(bytes, (size_t)sysconf(_SC_PAGESIZE)); /* what lies behind is given back, and must be whole pages */
    char *p = mmap(NULL, bytes + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || align == 0)
        return p;
    size_t before = (align - (uintptr_t)p % align) % align;
    if (before)
        munmap(p, before);
    if (align > before)
        munmap(p + before + bytes, align - before);
    return p + before;
}

static void *map_charged(size_t bytes, size_t align, const char *what, status *st)
{
    char *p = told_to_fail() ? MAP_FAILED : map_pages(bytes, align);
    if (p == MAP_FAILED) {
        no_memory(what, bytes, st);
        return NULL;
    }
    charge(bytes);
    return p;
}

void *mem_map(size_t bytes, const char *what, status *st) { return map_charged(bytes, 0, what, st); }

/* Two threads that meet the same missing huge page get one each, for a moment, and that moment's 2 MiB are nobody's plan: so only what mem_touch
 * has brought in is to be used by several, and a kernel that cannot bring it in gives no huge pages. */
void *mem_map_huge(size_t bytes, const char *what, status *st)
{
    void *p = map_charged(bytes, bytes >= HUGE_PAGE ? HUGE_PAGE : 0, what, st); /* one that begins inside a huge page would go without its first */
#if defined(MADV_HUGEPAGE) && defined(MADV_POPULATE_WRITE)
    if (p && madvise(p, bytes, MADV_HUGEPAGE) == 0 && madvise(p, 1, MADV_POPULATE_WRITE) != 0)
        madvise(p, bytes, MADV_NOHUGEPAGE);
#endif
    return p;
}

void mem_touch(void *p, size_t bytes)
{
#ifdef MADV_POPULATE_WRITE
    madvise(p, bytes, MADV_POPULATE_WRITE); /* where it fails, pages come as they are used */
#else
    (void)p, (void)bytes;
#endif
}

void mem_unmap(void *p, size_t bytes)
{
    if (!p)
        return;
    munmap(p, bytes);
    atomic_fetch_sub(&in_use, bytes);
}
