/* tok_spm.h: the two halves of the T5 tokenizer: the vocabulary and the cutting of a word into its pieces. Private to tok_spm*.c. */
#ifndef PENSTOCK_TOK_SPM_H
#define PENSTOCK_TOK_SPM_H

#include "text/tokenizer_impl.h"

typedef struct unigram {
    int32_t count;        /* ids, those of pieces that are there twice included */
    char *text;           /* all pieces, each with a 0 behind it */
    int32_t sorted;       /* different pieces: entries of these three, in byte order */
    uint32_t *start;      /* in text */
    int32_t *id;
    float *score;
    double unknown_score;
    int32_t unknown;      /* its id */
} unigram;

/* The model's pieces and <extra_id_N-1> ... <extra_id_0> behind them. */
bool unigram_read(unigram *u, const void *model, size_t bytes, int extra_ids, const char *name, status *st);
void unigram_free(unigram *u);
int32_t unigram_find(const unigram *u, const char *text, size_t bytes); /* its id, or -1 */

/* The likeliest pieces of a word, in the memory of `scratch`. */
bool unigram_cut(const unigram *u, const char *word, size_t bytes, text_buffer *scratch, id_list *out, status *st);

#endif
