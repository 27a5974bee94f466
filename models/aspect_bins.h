#ifndef PENSTOCK_ASPECT_BINS_H
#define PENSTOCK_ASPECT_BINS_H

#include <stdbool.h>
#include <stddef.h>

/* Rounds a size to the trained one of its aspect ratio; false (and nothing changed) where no table exists for that sample_size. */
bool aspect_bin_for(int sample_size, int largest_sample, int *height, int *width);

#endif
