/* tokenizer.h: text to token ids. */
#ifndef PENSTOCK_TOKENIZER_H
#define PENSTOCK_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct tokenizer tokenizer;

/* T5's: a sentencepiece unigram model (the bytes of spiece.model, not needed afterwards) with </s> appended and <extra_id_N> understood,
 * as transformers' T5Tokenizer makes it of the two files. tokenizer_config: NULL if there is none. name: spiece.model's, for the
 * sentence when it is malformed. */
tokenizer *tokenizer_open_spm(const void *model, size_t bytes, const char *tokenizer_config, size_t config_bytes, const char *name, status *st);
/* The same out of a tokenizer.json, which is all that transformers 5 saves. */
tokenizer *tokenizer_open_spm_json(const char *text, size_t bytes, const char *tokenizer_config, size_t config_bytes, const char *name, status *st);
void tokenizer_close(tokenizer *t);
int32_t tokenizer_vocabulary(const tokenizer *t); /* pieces plus added tokens */

/* Ids of a NUL-terminated UTF-8 text, </s> at the end, cut to `most` (>= 1; the </s> is kept) as transformers does with truncation=True.
 * Writes at most `most` ids and returns their number; *whole gets the number before cutting. -1 with st set (invalid model, out of memory).
 * Invalid UTF-8 is replaced by U+FFFD, as Python's errors="replace" does. */
int tokenizer_encode(const tokenizer *t, const char *text, int32_t *ids, int most, int *whole, status *st);

/* Python's str.lower().strip(); the caller frees with mem_free. */
char *text_lower_strip(const char *text, status *st);
/* A copy with each malformed sequence replaced by U+FFFD, as Python's bytes.decode(errors="replace") does; mem_free. */
char *text_repair(const char *text, status *st);

#endif
