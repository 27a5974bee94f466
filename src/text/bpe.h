/* bpe.h: byte-pair merges: read from a tokenizer's files, and applied to a word. Private to src/text. */
#ifndef PENSTOCK_BPE_H
#define PENSTOCK_BPE_H

#include "text/token_table.h"
#include "text/tokenizer_impl.h"

typedef struct bpe_merge {
    int32_t left, right;   /* two neighbours ... */
    int32_t rank, id;      /* ... become one; the lowest rank goes first */
} bpe_merge;

typedef struct bpe {
    bpe_merge *merge;      /* sorted by (left, right) */
    int32_t merges;
    int32_t letter[256], last[256]; /* what a byte begins as: inside a word, and at its end (</w>); -1: not in the vocabulary */
    token_table words;     /* while a tokenizer is being opened */
} bpe;

/* vocab.json and merges.txt, or tokenizer.json where they are not there, whose added_tokens the caller gets, to be freed with json_free. */
bool bpe_read(bpe *b, const tokenizer_files *f, json **added_tokens, status *st);
void bpe_free(bpe *b);

/* Ids of a word's bytes after merging, with </w> at its end; `unknown` for bytes that the vocabulary lacks (-1: they go). */
bool bpe_word(const bpe *b, const char *word, size_t bytes, int32_t unknown, text_buffer *scratch, id_list *out, status *st);

#endif
