/* pickle.h: reads a Python pickle as data. Nothing is ever executed: there is no interpreter here, only a loop over the opcodes
 * that torch.save writes and a list of names that may stand in it. Any other name or opcode is an error that says which.
 *
 * The result is a set of values that point at each other by number; containers are chains of links. */
#ifndef PENSTOCK_PICKLE_H
#define PENSTOCK_PICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "quant/types.h"

typedef enum pickle_kind {
    PICKLE_NONE, PICKLE_BOOL, PICKLE_INT, PICKLE_FLOAT, PICKLE_TEXT,
    PICKLE_TUPLE, PICKLE_LIST, PICKLE_DICT,
    PICKLE_NAME,    /* a class or function of the list */
    PICKLE_STORAGE, /* a torch storage: the tuple ("storage", class, key, device, count) that it was named by */
    PICKLE_CALL,    /* one of the calls that make a tensor: `name` and the tuple of arguments */
    PICKLE_OPAQUE   /* what some other listed name would have made; of no interest */
} pickle_kind;

typedef enum pickle_name { /* what a listed name is to us */
    NAME_NONE, NAME_ORDERED_DICT, NAME_STORAGE, NAME_DTYPE, NAME_TENSOR_V2, NAME_TENSOR_V3, NAME_PARAMETER, NAME_INERT
} pickle_name;

typedef struct pickle_value {
    uint8_t kind, name;
    int32_t first, last;   /* containers: the chain of links, -1 none. CALL, STORAGE: first is the value number of the tuple */
    union {
        int64_t number;    /* INT, BOOL; of NAME_STORAGE and NAME_DTYPE the weight_type, -1: untyped or one we do not know */
        struct { uint32_t at, length; } text; /* in the pickle's bytes */
    } as;
} pickle_value;

typedef struct pickle_link {
    int32_t key, value, next; /* key: of dicts, otherwise -1 */
} pickle_link;

typedef struct pickle {
    const uint8_t *bytes;     /* the caller's; must stay */
    pickle_value *value;
    pickle_link *link;
    int32_t values, links, value_room, link_room;
    int32_t result;
} pickle;

enum { PICKLE_MOST_BYTES = 8 << 20, PICKLE_MOST_LENGTH = 64 };

/* file: for the sentence. False with st set (STATUS_BAD_FILE); pickle_free either way. */
bool pickle_read(pickle *p, const uint8_t *bytes, size_t count, const char *file, status *st);
void pickle_free(pickle *p);

/* The member of a dict with that text as its key, or the n-th of a tuple or list; -1 if absent. */
int32_t pickle_member(const pickle *p, int32_t dict, const char *key);
int32_t pickle_item(const pickle *p, int32_t tuple, int n);
int pickle_length(const pickle *p, int32_t tuple); /* PICKLE_MOST_LENGTH: that many or more */
bool pickle_is(const pickle *p, int32_t value, pickle_kind kind); /* false for -1 */

#endif
