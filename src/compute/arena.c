#include "compute/arena.h"

#include <assert.h>
#include <string.h>

enum { ALIGN = 64, LARGE = 1 << 14, PAGE = 4096 }; /* large blocks begin where direct reads and writes can */

void arena_reset(arena *a)
{
    a->count = 0;
    a->serial = 0;
    a->peak = 0;
}

int64_t arena_alloc(arena *a, int64_t bytes)
{
    if (a->count == ARENA_BLOCKS || bytes < 0 || bytes > INT64_MAX / 4)
        return -1;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes == 0)
        bytes = ALIGN;
    int at = 0;
    int64_t place = 0;
    for (; at < a->count && a->block[at].place - place < bytes; at++) {
        place = a->block[at].place + a->block[at].bytes;
        place = bytes >= LARGE ? (place + PAGE - 1) / PAGE * PAGE : place;
    }
    memmove(&a->block[at + 1], &a->block[at], (size_t)(a->count - at) * sizeof a->block[0]);
    a->block[at] = (arena_block){place, bytes, a->serial++};
    a->count++;
    if (place + bytes > a->peak)
        a->peak = place + bytes;
    return place;
}

static void remove_at(arena *a, int at)
{
    a->count--;
    memmove(&a->block[at], &a->block[at + 1], (size_t)(a->count - at) * sizeof a->block[0]);
}

void arena_free(arena *a, int64_t place)
{
    for (int i = 0; i < a->count; i++)
        if (a->block[i].place == place) {
            remove_at(a, i);
            return;
        }
    assert(!"arena_free: no such block");
}

void arena_free_since(arena *a, uint64_t mark, int64_t keep, int64_t keep_too)
{
    for (int i = a->count - 1; i >= 0; i--)
        if (a->block[i].serial >= mark && a->block[i].place != keep && a->block[i].place != keep_too)
            remove_at(a, i);
}
