/* sizes.h: amounts of memory as people write them. */
#ifndef PENSTOCK_SIZES_H
#define PENSTOCK_SIZES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* "256M", "1.5G", "123456"; "60%" and "=-1G" of what this process could still take (the system's MemAvailable, or what its control group leaves, whichever is
 * less). option: for the sentence. */
bool parse_size(const char *option, const char *text, uint64_t *bytes, status *st);

/* Most memory that the process has held so far (VmHWM). */
uint64_t peak_memory(void);

/* "41M", "1.5G": never less than the bytes, so that it can be handed back as a budget. Returns out. */
enum { SIZE_TEXT = 24 };
char *size_text(uint64_t bytes, char out[SIZE_TEXT]);

#endif
