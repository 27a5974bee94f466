/* tokenizer_impl.h: what all tokenizers share: tokens added to the vocabulary, and the walk from text to ids around them. Private to src/text. */
#ifndef PENSTOCK_TOKENIZER_IMPL_H
#define PENSTOCK_TOKENIZER_IMPL_H

#include "import/json.h"
#include "text/charsmap.h"
#include "text/tokenizer.h"

enum { MOST_ADDED = 4096 };

typedef struct added {    /* a token that is cut out of the text before anything else is done to it */
    char *text;           /* in its normalized form if `normalized` */
    char *content;        /* as it was given */
    size_t bytes;         /* of text */
    int32_t id;
    bool left, right;     /* takes the white space at that side with it */
    bool single;          /* not inside a word */
    bool normalized;      /* looked for in the normalized text */
} added;

typedef struct id_list {  /* the first `most` of all that were put in */
    int32_t *id;
    int most, count;
} id_list;

static inline void id_put(id_list *l, int32_t id)
{
    if (l->count < l->most)
        l->id[l->count] = id;
    l->count++;
}

typedef struct token_job { /* one text on its way */
    const tokenizer *t;
    id_list ids;
    text_buffer word, path; /* scratch of the kinds */
    status *st;
} token_job;

typedef struct tokenizer_kind {
    int32_t (*find)(const tokenizer *t, const char *text, size_t bytes);  /* an id of the vocabulary, -1: not there; asked while opening only */
    bool (*normalize)(const tokenizer *t, const char *text, size_t bytes, text_buffer *out, status *st);
    bool (*words)(token_job *j, const char *text, size_t bytes);          /* normalized text without added tokens to ids */
    void (*close)(tokenizer *t);                                          /* what the kind owns */
} tokenizer_kind;

struct tokenizer {        /* the kinds' structures begin with it */
    const tokenizer_kind *kind;
    added *added;
    int added_count, added_room;
    int32_t vocabulary;   /* added tokens included: the next new one's id */
    int32_t largest;      /* id of the vocabulary, without added tokens */
    tokenizer_marks marks;
};

/* A token that is in the vocabulary keeps its id; a new one takes the next. One that was added before keeps its flags, or takes the new ones. */
bool added_put(tokenizer *t, const char *content, const added *flags, bool anew, status *st);
const added *added_find(const tokenizer *t, const char *content);

/* ---- reading tokenizer_config.json and its kind ---- */

/* A token is "text" or {"content": "text", ...}; NULL: neither. */
const char *token_text(const json *token);
/* The flags of a described token; those of a bare text are all false. special: what counts where it says nothing. */
bool token_flags(const json *token, bool special, added *out, const char *name, status *st);
bool added_put_described(tokenizer *t, const json *token, const char *name, status *st);
/* {"32000": {"content": "<extra_id_99>", ...}, ...}, put in the order of the numbers. */
bool added_put_numbered(tokenizer *t, const json *numbered, const char *name, status *st);

/* ---- the special tokens of a tokenizer that transformers builds from a vocabulary and the configs beside it (special.c) ---- */

typedef enum special_key { SPECIAL_BOS, SPECIAL_EOS, SPECIAL_UNK, SPECIAL_SEP, SPECIAL_PAD, SPECIAL_CLS, SPECIAL_MASK, SPECIAL_KEYS } special_key;
typedef struct special_class {
    const char *otherwise[SPECIAL_KEYS]; /* the class's own tokens; NULL: it has none */
    special_key begin, end;              /* what it puts around a text */
} special_class;
typedef struct special_tokens {
    char *unknown;
} special_tokens;

/* Puts all special and added tokens, sets t->marks. listed: the added_tokens of a tokenizer.json, or NULL. */
bool special_read(special_tokens *s, tokenizer *t, const special_class *class, const tokenizer_files *f, const json *listed, status *st);
void special_free(special_tokens *s);

#endif
