/* pack_format.h: what writer and reader of a container share: the preamble, the names of roles. Private to pack*.c. */
#ifndef PENSTOCK_PACK_FORMAT_H
#define PENSTOCK_PACK_FORMAT_H

#include "weights/pack.h"

#define PACK_MAGIC "PENSTOCK"

typedef struct preamble {
    uint32_t version, least_reader;
    uint64_t header_offset, header_bytes, header_xxh3, file_bytes;
} preamble;

enum { /* byte offsets in the preamble; numbers are little endian */
    AT_MAGIC = 0, AT_VERSION = 8, AT_LEAST_READER = 12, AT_HEADER_OFFSET = 16, AT_HEADER_BYTES = 24, AT_HEADER_XXH3 = 32,
    AT_FILE_BYTES = 40, AT_RESERVED = 48, AT_PREAMBLE_XXH3 = 56
};

static inline uint64_t get_le(const uint8_t *p, int bytes)
{
    uint64_t x = 0;
    for (int i = bytes; i-- > 0;)
        x = x << 8 | p[i];
    return x;
}

static inline void put_le(uint8_t *p, int bytes, uint64_t x)
{
    for (int i = 0; i < bytes; i++, x >>= 8)
        p[i] = (uint8_t)x;
}

extern const char *const pack_role_names[ROLE_VECTOR + 1];

#endif
