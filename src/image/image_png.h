/* image_png.h: pictures to PNG files. */
#ifndef PENSTOCK_IMAGE_PNG_H
#define PENSTOCK_IMAGE_PNG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* rgb: [height, width, 3]. parameters: the text chunk of that name (picture_parameters), NULL: none. The file appears whole
 * or not at all. */
bool image_write_png(const char *path, const uint8_t *rgb, int width, int height, const char *parameters, status *st);

#endif
