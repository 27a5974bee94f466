/* charsmap.h: a sentencepiece model's own normalization (nmt_nfkc and its kind), precompiled into a trie. */
#ifndef PENSTOCK_CHARSMAP_H
#define PENSTOCK_CHARSMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct charsmap {
    uint32_t *unit;       /* a double array (darts-clone) from UTF-8 to positions in `text` */
    size_t units;
    char *text;           /* replacements, each with a 0 behind it */
    size_t bytes;
} charsmap;

typedef struct text_buffer { /* grows; `text` has no 0 behind it */
    char *text;
    size_t used, room;
} text_buffer;

bool text_append(text_buffer *b, const char *text, size_t bytes, status *st);

/* From a model's bytes; none at all is the identity. */
bool charsmap_read(charsmap *m, const uint8_t *raw, size_t bytes, const char *name, status *st);
void charsmap_free(charsmap *m);
/* Append the normalized form of `text` (well-formed UTF-8). */
bool charsmap_apply(const charsmap *m, const char *text, size_t bytes, text_buffer *out, status *st);

#endif
