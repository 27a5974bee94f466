/* pixmap.h: pictures that are given: read from PNG, resized, made gray, with the roundings of Pillow, since those pixels go into a model. */
#ifndef PENSTOCK_PIXMAP_H
#define PENSTOCK_PIXMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct pixmap {
    int width, height;
    uint8_t *rgb;       /* [height, width, 3]; pixmap_free */
} pixmap;

/* Any PNG: palettes and gray become RGB, 16 bits become 8, transparency is dropped. STATUS_BAD_FILE with the file's name. */
bool image_read_png(const char *path, pixmap *p, status *st);
void pixmap_free(pixmap *p);

/* Image.resize(..., LANCZOS) of 8-bit pixels: out is [height, width, 3]; and with BICUBIC. */
bool pixmap_resize_bicubic(const pixmap *in, int width, int height, pixmap *out, status *st);
bool pixmap_resize(const pixmap *in, int width, int height, pixmap *out, status *st);
/* Image.convert("L") of one pixel. */
uint8_t pixmap_gray(const uint8_t *rgb);

#endif
