/* token_table.h: a vocabulary: texts and their ids. Private to src/text. */
#ifndef PENSTOCK_TOKEN_TABLE_H
#define PENSTOCK_TOKEN_TABLE_H

#include "text/charsmap.h"
#include "text/tokenizer.h"

typedef struct token_entry {
    uint32_t at, bytes;    /* in text */
    int32_t id;
} token_entry;

typedef struct token_table { /* begins as zeros */
    int32_t count, largest; /* tokens; the largest id, where there are any */
    text_buffer text;
    token_entry *entry;
    int32_t room;
    int32_t *slot;         /* hash table of entries, -1: empty */
    size_t slots;
} token_table;

/* name: the file's, for the sentence when the token is there twice or its id is out of range. */
bool token_add(token_table *v, const char *text, size_t bytes, int64_t id, const char *name, status *st);
bool token_add_json(token_table *v, const tokenizer_file *f, const char *name, status *st); /* {"token": id, ...} */
int32_t token_find(const token_table *v, const char *text, size_t bytes); /* -1: not there */
void tokens_free(token_table *v);

#endif
