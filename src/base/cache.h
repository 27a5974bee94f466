/* cache.h: a folder of files that may go: bounded, those longest not used leave first. Nothing that goes wrong here is an error. */
#ifndef PENSTOCK_CACHE_H
#define PENSTOCK_CACHE_H

#include <stdbool.h>
#include <stdint.h>

/* Remove files of PATH's folder whose names end in `suffix`, until there is room for `bytes` more under `limit`; never PATH itself. What a killed
 * process left half-written goes after an hour. */
void cache_make_place(const char *path, const char *suffix, uint64_t bytes, uint64_t limit);
void cache_touch(const char *path); /* used now */

#endif
