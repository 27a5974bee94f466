/* gguf_blocks.h: the number formats of GGUF that keep blocks of 32 or 256 numbers with scales, one row each.
 *
 * Only the readers know them: a tensor of one of them is unpacked to f32 as it is read (import/view.c), the same numbers as the gguf
 * Python package makes, bit for bit. */
#ifndef PENSTOCK_GGUF_BLOCKS_H
#define PENSTOCK_GGUF_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

enum { BLOCK_MOST_NUMBERS = 256, BLOCK_MOST_BYTES = 210 };

typedef struct block_format {
    const char *name;   /* "Q4_K" */
    uint32_t gguf;      /* its number in the file */
    int numbers, bytes; /* of a block */
    void (*unpack)(const uint8_t *block, float *out);
} block_format;

const block_format *block_format_of(uint32_t gguf); /* NULL: none of these */

#endif
