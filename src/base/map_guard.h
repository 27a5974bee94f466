/* map_guard.h: a mapped file that shrinks, or whose disk fails, while it is read. The kernel answers such a read with SIGBUS; here the rest of
 * the mapping becomes zeros instead, the thread goes on, and whoever works with the bytes asks afterwards whether they were the file's. */
#ifndef PENSTOCK_MAP_GUARD_H
#define PENSTOCK_MAP_GUARD_H

#include <stdbool.h>
#include <stddef.h>

/* Watch over a mapping until guard_end, which comes before it is unmapped. Returns a slot, or -1: too many are watched, a SIGBUS does what it
 * always does. What another handler had been installed for still reaches it. Thread safe. */
int guard_begin(const void *map, size_t bytes);
void guard_end(int slot);
bool guard_broken(int slot); /* has a read failed? Stays so. */

#endif
