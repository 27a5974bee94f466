/* arena.h: where activations lie. A deterministic first-fit allocator over offsets: PLAN runs it without memory and learns the
 * highest offset; LIVE repeats the same calls and gets the same places. */
#ifndef PENSTOCK_ARENA_H
#define PENSTOCK_ARENA_H

#include <stdbool.h>
#include <stdint.h>

enum { ARENA_BLOCKS = 512 };

typedef struct arena_block {
    int64_t place, bytes;
    uint64_t serial;  /* of its allocation: scopes free what is younger than their mark */
} arena_block;

typedef struct arena {
    int count;
    arena_block block[ARENA_BLOCKS]; /* live ones, by place */
    uint64_t serial;
    int64_t peak;
} arena;

void arena_reset(arena *a);
int64_t arena_alloc(arena *a, int64_t bytes);           /* -1: more than ARENA_BLOCKS are live */
void arena_free(arena *a, int64_t place);
void arena_free_since(arena *a, uint64_t mark, int64_t keep, int64_t keep_too); /* places that stay, or -1 */

#endif
