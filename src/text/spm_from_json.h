/* spm_from_json.h: the sentencepiece model inside a tokenizer.json. */
#ifndef PENSTOCK_SPM_FROM_JSON_H
#define PENSTOCK_SPM_FROM_JSON_H

#include "import/json.h"

/* transformers 5 saves a T5 tokenizer as a tokenizer.json alone: its pieces (extra ids included), scores and normalizer, as the bytes of a
 * spiece.model. The caller frees with mem_free. NULL with st set: no Unigram model, or a malformed one. */
char *spm_from_json(const json *tokenizer, const char *name, size_t *bytes, status *st);

#endif
