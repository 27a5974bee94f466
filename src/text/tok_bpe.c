/* CLIP's tokenizer (Radford et al., arXiv:2103.00020), as transformers 5 runs it (models/clip/tokenization_clip.py on the tokenizers library).
 * OpenAI's own cleaning (ftfy, HTML entities) is not part of it. In this order:
 *   1. Added tokens written in the text are cut out (tokenizer.c). Where the pad token is "!", every "!" is one.
 *   2. What lies between is composed (NFC), its white space becomes single spaces, and every character becomes lower-case by itself: no final sigma.
 *   3. Words: <|startoftext|> and <|endoftext|>, 's 't 're 've 'm 'll 'd, runs of letters, single numerals, runs of what is neither nor white space.
 *   4. Their bytes are merged (bpe.c); bytes that the vocabulary lacks become the unknown token. */
#include <string.h>
#include <unistr.h>

#include "base/mem.h"
#include "text/bpe.h"
#include "text/unicode.h"

typedef struct bpe_tokenizer {
    tokenizer base;
    bpe model;
    int32_t unknown;
} bpe_tokenizer;

static const bpe_tokenizer *bpe_of(const tokenizer *t) { return (const bpe_tokenizer *)(const void *)t; }

static int32_t kind_find(const tokenizer *t, const char *text, size_t bytes) { return token_find(&bpe_of(t)->model.words, text, bytes); }

static void kind_close(tokenizer *t) { bpe_free(&((bpe_tokenizer *)(void *)t)->model); }

/* ---- normalization ---- */

static bool single_spaces(const char *text, size_t bytes, text_buffer *out, status *st)
{
    bool space = false;
    for (size_t at = 0, n; at < bytes; at += n) {
        ucs4_t c;
        n = (size_t)u8_mbtouc(&c, (const uint8_t *)text + at, bytes - at);
        bool before = space;
        space = unicode_space(c);
        if (!(space && before) && !text_append(out, space ? " " : text + at, space ? 1 : n, st))
            return false;
    }
    return true;
}

static bool kind_normalize(const tokenizer *t, const char *text, size_t bytes, text_buffer *out, status *st)
{
    text_buffer composed = {0}, spaced = {0};
    (void)t;
    bool ok = unicode_compose(text, bytes, &composed, st) && single_spaces(composed.text, composed.used, &spaced, st) &&
              unicode_append_lower(spaced.text, spaced.used, out, st);
    mem_free(composed.text);
    mem_free(spaced.text);
    return ok;
}

/* ---- words ---- */

typedef enum letter_class { A_LETTER, A_NUMBER, A_SPACE, ANOTHER } letter_class;

static letter_class class_at(const char *text, size_t bytes, size_t *length)
{
    ucs4_t c;
    *length = (size_t)u8_mbtouc(&c, (const uint8_t *)text, bytes);
    return unicode_letter(c) ? A_LETTER : unicode_number(c) ? A_NUMBER : unicode_space(c) ? A_SPACE : ANOTHER;
}

static bool starts(const char *text, size_t bytes, const char *with) { return strlen(with) <= bytes && memcmp(text, with, strlen(with)) == 0; }

/* The word at the beginning of the text, which is no white space. */
static size_t word_length(const char *text, size_t bytes)
{
    static const char *const suffixes[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (starts(text, bytes, suffixes[i]))
            return strlen(suffixes[i]);
    size_t length, n;
    letter_class class = class_at(text, bytes, &length);
    while (class != A_NUMBER && length < bytes && class_at(text + length, bytes - length, &n) == class)
        length += n;
    return length;
}

static bool put_word(token_job *j, const char *word, size_t bytes)
{
    return bpe_word(&bpe_of(j->t)->model, word, bytes, bpe_of(j->t)->unknown, &j->word, &j->ids, j->st);
}

/* A mark that was not cut out as an added token (written in capitals, say) is one word; then ByteLevel cuts it into <| name |>. */
static size_t mark_length(const char *text, size_t bytes)
{
    return starts(text, bytes, "<|startoftext|>") ? 15 : starts(text, bytes, "<|endoftext|>") ? 13 : 0;
}

static bool kind_words(token_job *j, const char *text, size_t bytes)
{
    bool ok = true;
    for (size_t at = 0, n; ok && at < bytes; at += n) {
        const char *word = text + at;
        if (class_at(word, bytes - at, &n) == A_SPACE)
            continue;
        if ((n = mark_length(word, bytes - at))) {
            ok = put_word(j, word, 2) && put_word(j, word + 2, n - 4) && put_word(j, word + n - 2, 2);
            continue;
        }
        n = word_length(word, bytes - at);
        ok = put_word(j, word, n);
    }
    return ok;
}

static const tokenizer_kind kind = {kind_find, kind_normalize, kind_words, kind_close};

/* ---- opening ---- */

static bool bytes_are_covered(const bpe_tokenizer *t, const char *unknown, const tokenizer_files *f, status *st)
{
    for (int i = 0; i < 256 && t->unknown < 0; i++)
        if (t->model.letter[i] < 0 || t->model.last[i] < 0)
            return status_set(st, STATUS_BAD_FILE, "%svocab.json: has neither byte 0x%02x%s nor the unknown token %s", f->folder, (unsigned)i,
                              t->model.letter[i] < 0 ? "" : " at a word's end", unknown);
    return true;
}

tokenizer *tokenizer_open_bpe(const tokenizer_files *f, status *st)
{
    static const char end[] = "<|endoftext|>";
    static const special_class class = {{[SPECIAL_BOS] = "<|startoftext|>", [SPECIAL_EOS] = end, [SPECIAL_UNK] = end, [SPECIAL_PAD] = end}, SPECIAL_BOS, SPECIAL_EOS};
    bpe_tokenizer *t = mem_alloc(1, sizeof *t, "tokenizer", st);
    if (!t)
        return NULL;
    t->base.kind = &kind;
    json *added_tokens = NULL;
    bool ok = bpe_read(&t->model, f, &added_tokens, st);
    t->base.vocabulary = t->model.words.count;
    t->base.largest = t->model.words.largest;
    special_tokens special = {0};
    ok = ok && special_read(&special, &t->base, &class, f, added_tokens, st);
    if (ok) {
        t->unknown = token_find(&t->model.words, special.unknown, strlen(special.unknown));
        ok = bytes_are_covered(t, special.unknown, f, st);
    }
    special_free(&special);
    json_free(added_tokens);
    tokens_free(&t->model.words);
    if (ok)
        return &t->base;
    tokenizer_close(&t->base);
    return NULL;
}
