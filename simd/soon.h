/* soon.h: a product asks for the memory that its caller reads next, a little at each step, so that it comes without anybody waiting.
 * All at once would not do: a core has a few dozen requests under way at most, and stands still for the next. */
#ifndef PENSTOCK_SOON_H
#define PENSTOCK_SOON_H

#include <stddef.h>

typedef struct asking {
    const char *at;
    size_t passed, step; /* sixteenths of bytes */
} asking;

/* Parts first .. first + count - 1 of `parts`, to be asked for in `steps` steps. */
static inline asking asking_part(const void *soon, size_t bytes, size_t first, size_t count, size_t parts, size_t steps)
{
    return (asking){(const char *)soon + bytes * first / parts, 0, bytes * count * 16 / parts / steps};
}

static inline __attribute__((always_inline)) void asking_step(asking *a)
{
    __builtin_prefetch(a->at + (a->passed >> 4), 0, 2);
    a->passed += a->step;
}

/* The same where a step is longer than a line. */
static inline __attribute__((always_inline)) void asking_lines(asking *a)
{
    const size_t end = a->passed + a->step;
    for (size_t line = a->passed; line < end; line += 64 * 16)
        __builtin_prefetch(a->at + (line >> 4), 0, 2);
    a->passed = end;
}

#endif
