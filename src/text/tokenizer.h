/* tokenizer.h: text to token ids. */
#ifndef PENSTOCK_TOKENIZER_H
#define PENSTOCK_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct tokenizer tokenizer;

/* Ids of the marks around a text; -1: the tokenizer has none. */
typedef struct tokenizer_marks {
    int32_t begin, end;    /* <|startoftext|>, <|endoftext|>; </s>; [CLS], [SEP] */
    int32_t pad;
    int32_t longest;       /* model_max_length: tokens of a text, marks included; 0: not told */
} tokenizer_marks;

/* The small files that a tokenizer is made of; text NULL: it is not there. Not needed once the tokenizer is open. */
typedef struct tokenizer_file {
    const char *text;      /* `bytes` of it and a 0 behind them */
    size_t bytes;
} tokenizer_file;
typedef struct tokenizer_files {
    const char *folder;    /* "tokenizer/" or "": stands before the files' names in sentences */
    tokenizer_file vocab;  /* vocab.json; of a wordpiece tokenizer vocab.txt */
    tokenizer_file merges; /* merges.txt */
    tokenizer_file whole;  /* tokenizer.json, read where the two above are not there */
    tokenizer_file config; /* tokenizer_config.json */
    tokenizer_file special; /* special_tokens_map.json */
    tokenizer_file added;  /* added_tokens.json */
} tokenizer_files;

/* T5's: a sentencepiece unigram model (the bytes of spiece.model, not needed afterwards) with </s> appended and <extra_id_N> understood,
 * as transformers' T5Tokenizer makes it of the two files. tokenizer_config: NULL if there is none. name: spiece.model's, for the
 * sentence when it is malformed. */
tokenizer *tokenizer_open_spm(const void *model, size_t bytes, const char *tokenizer_config, size_t config_bytes, const char *name, status *st);
/* The same out of a tokenizer.json, which is all that transformers 5 saves. */
tokenizer *tokenizer_open_spm_json(const char *text, size_t bytes, const char *tokenizer_config, size_t config_bytes, const char *name, status *st);
/* CLIP's: byte-level BPE on normalized, lower-cased words, <|startoftext|> and <|endoftext|> around them, as transformers' CLIPTokenizer. */
tokenizer *tokenizer_open_bpe(const tokenizer_files *f, status *st);
/* BERT's: the longest pieces of vocab.txt that a word begins with, [CLS] and [SEP] around the text, as transformers' BertTokenizer. */
tokenizer *tokenizer_open_wordpiece(const tokenizer_files *f, status *st);
void tokenizer_close(tokenizer *t);
int32_t tokenizer_vocabulary(const tokenizer *t); /* pieces plus added tokens */
int32_t tokenizer_largest_id(const tokenizer *t);  /* of the vocabulary without added tokens: a model's must be larger */
const tokenizer_marks *tokenizer_marks_of(const tokenizer *t);

/* Ids of a NUL-terminated UTF-8 text between its marks, cut to `most` (>= the number of marks, which are kept) as transformers does with truncation=True.
 * Writes at most `most` ids and returns their number; *whole gets the number before cutting. -1 with st set (invalid model, out of memory).
 * Invalid UTF-8 is replaced by U+FFFD, as Python's errors="replace" does. */
int tokenizer_encode(const tokenizer *t, const char *text, int32_t *ids, int most, int *whole, status *st);

/* The same without marks, most >= 0. */
int tokenizer_encode_part(const tokenizer *t, const char *text, int32_t *ids, int most, int *whole, status *st);

/* Python's str.lower().strip(); the caller frees with mem_free. */
char *text_lower_strip(const char *text, status *st);
/* A copy with each malformed sequence replaced by U+FFFD, as Python's bytes.decode(errors="replace") does; mem_free. */
char *text_repair(const char *text, status *st);

#endif
