/* prompt_weights.h: prompts in A1111's syntax: (a word) counts 1.1 times, ((twice)) 1.21, [less] 1/1.1, (a word:1.3) 1.3 times; \( \) \[ \] \\ are the
 * characters themselves; BREAK begins a new chunk of 75 tokens, and so does what is longer. A prompt without ( ) [ ] and without the word BREAK is
 * plain: it is taken as it stands and cut to one chunk, as diffusers does. */
#ifndef PENSTOCK_PROMPT_WEIGHTS_H
#define PENSTOCK_PROMPT_WEIGHTS_H

#include "text/tokenizer.h"

bool prompt_is_plain(const char *text);
/* Whether it may become several chunks of 75 tokens, as far as can be told without a tokenizer: false is certain. */
bool prompt_may_be_long(const char *text);

typedef struct prompt_chunks {
    int chunks, tokens;    /* each chunk is `tokens` long, marks and padding included */
    int32_t *ids;          /* [chunks, tokens] */
    float *weight;         /* [chunks, tokens]; 1 for marks and padding */
    int cut;               /* > 0: tokens that a plain prompt lost */
} prompt_chunks;

/* Ids and weights of a prompt, which is plain in any case where `plain` is set. tokens: of a chunk, two marks included (77). STATUS_USAGE: more than 64 chunks. Release with prompt_free. */
bool prompt_read(prompt_chunks *p, const tokenizer *t, const char *text, int tokens, bool plain, status *st);
/* Empty chunks behind, up to so many: a prompt and its negative one go through the network together. */
bool prompt_lengthen(prompt_chunks *p, const tokenizer *t, int chunks, status *st);
void prompt_free(prompt_chunks *p);

/* One chunk's hidden states [tokens, width] times its weights; then all are scaled so that their mean is what it was. Does nothing where every weight is 1. */
void prompt_weigh(float *hidden, const float *weight, int tokens, int width);

#endif
