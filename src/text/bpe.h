/* bpe.h: byte-pair merges: read from a tokenizer's files, and applied to a word. Private to src/text. */
#ifndef PENSTOCK_BPE_H
#define PENSTOCK_BPE_H

#include "text/tokenizer_impl.h"

typedef struct bpe_merge {
    int32_t left, right;   /* two neighbours ... */
    int32_t rank, id;      /* ... become one; the lowest rank goes first */
} bpe_merge;

typedef struct bpe_entry { /* of the vocabulary */
    uint32_t at, bytes;    /* in text */
    int32_t id;
} bpe_entry;

typedef struct bpe {
    bpe_merge *merge;      /* sorted by (left, right) */
    int32_t merges;
    int32_t letter[256], last[256]; /* what a byte begins as: inside a word, and at its end (</w>); -1: not in the vocabulary */
    int32_t count, largest;
    /* the vocabulary, while a tokenizer is being opened */
    text_buffer text;
    bpe_entry *entry;
    int32_t entry_room;
    int32_t *slot;         /* hash table of entries, -1: empty */
    size_t slots;
} bpe;

/* vocab.json and merges.txt, or tokenizer.json where they are not there, whose added_tokens the caller gets, to be freed with json_free. */
bool bpe_read(bpe *b, const tokenizer_files *f, json **added_tokens, status *st);
int32_t bpe_find(const bpe *b, const char *text, size_t bytes); /* -1: not there, or forgotten */
void bpe_forget_text(bpe *b);
void bpe_free(bpe *b);

/* Ids of a word's bytes after merging, with </w> at its end; `unknown` for bytes that the vocabulary lacks (-1: they go). */
bool bpe_word(const bpe *b, const char *word, size_t bytes, int32_t unknown, text_buffer *scratch, id_list *out, status *st);

/* ---- bpe_vocabulary.c ---- */
/* name: the file's, for the sentence when the token or its id is there twice. */
bool bpe_add(bpe *b, const char *text, size_t bytes, int64_t id, const char *name, status *st);
bool bpe_add_json(bpe *b, const tokenizer_file *f, const char *name, status *st); /* {"token": id, ...} */

#endif
