/* BERT's tokenizer (Devlin et al., arXiv:1810.04805), as transformers 5 runs it (models/bert/tokenization_bert.py on the tokenizers library):
 *   1. Added tokens ([CLS], [MASK], ...) are cut out of the text as it stands (tokenizer.c).
 *   2. Control characters go, white space becomes a space, ideographs get spaces around them, accents go (after decomposition), letters become lower-case.
 *   3. Words end at white space; a punctuation mark is a word.
 *   4. A word is cut from its beginning into the longest pieces of the vocabulary, all but the first with ## in front; a word that cannot be cut, or of more
 *      than 100 characters, is [UNK] as a whole. */
#include <string.h>
#include <unistr.h>

#include "base/mem.h"
#include "text/token_table.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"
#include "text/unicode_bert.h"

enum { LONGEST_WORD = 100 };

typedef struct wordpiece_tokenizer {
    tokenizer base;
    token_table words;
    int32_t unknown;
    bool lower, chinese, accents; /* lower-cases; sets ideographs apart; takes accents away */
} wordpiece_tokenizer;

static const wordpiece_tokenizer *wordpiece_of(const tokenizer *t) { return (const wordpiece_tokenizer *)(const void *)t; }

static int32_t kind_find(const tokenizer *t, const char *text, size_t bytes) { return token_find(&wordpiece_of(t)->words, text, bytes); }

static void kind_close(tokenizer *t) { tokens_free(&((wordpiece_tokenizer *)(void *)t)->words); }

/* ---- normalization ---- */

static bool clean(const wordpiece_tokenizer *t, const char *text, size_t bytes, text_buffer *out, status *st)
{
    bool ok = true;
    for (size_t at = 0, n; ok && at < bytes; at += n) {
        ucs4_t c;
        n = (size_t)u8_mbtouc(&c, (const uint8_t *)text + at, bytes - at);
        if (bert_control(c))
            continue;
        bool apart = t->chinese && bert_chinese(c);
        if (unicode_space(c))
            ok = text_append(out, " ", 1, st);
        else
            ok = (!apart || text_append(out, " ", 1, st)) && text_append(out, text + at, n, st) && (!apart || text_append(out, " ", 1, st));
    }
    return ok;
}

static bool without_accents(const char *text, size_t bytes, text_buffer *out, status *st)
{
    text_buffer apart = {0};
    bool ok = unicode_decompose(text, bytes, &apart, st);
    for (size_t at = 0, n; ok && at < apart.used; at += n) {
        ucs4_t c;
        n = (size_t)u8_mbtouc(&c, (const uint8_t *)apart.text + at, apart.used - at);
        ok = bert_accent(c) || text_append(out, apart.text + at, n, st);
    }
    mem_free(apart.text);
    return ok;
}

static bool kind_normalize(const tokenizer *base, const char *text, size_t bytes, text_buffer *out, status *st)
{
    const wordpiece_tokenizer *t = wordpiece_of(base);
    text_buffer cleaned = {0}, plain = {0};
    bool ok = clean(t, text, bytes, &cleaned, st);
    if (ok)
        ok = t->accents ? without_accents(cleaned.text, cleaned.used, &plain, st) : text_append(&plain, cleaned.text, cleaned.used, st);
    if (ok)
        ok = t->lower ? unicode_append_lower(plain.text, plain.used, out, st) : text_append(out, plain.text, plain.used, st);
    mem_free(cleaned.text);
    mem_free(plain.text);
    return ok;
}

/* ---- words ---- */

static size_t character_before(const char *text, size_t from, size_t at)
{
    do
        at--;
    while (at > from && ((uint8_t)text[at] & 0xc0) == 0x80);
    return at;
}

/* The longest piece that word[from..bytes) begins with: where it ends, or `from`. Looked for in `with`, "##" and the rest of the word. */
static size_t longest_piece(const wordpiece_tokenizer *t, const char *word, size_t from, size_t bytes, const text_buffer *with, int32_t *id)
{
    const char *text = from ? with->text : word;
    size_t extra = from ? 2 : 0;
    for (size_t end = bytes; end > from; end = character_before(word, from, end))
        if ((*id = token_find(&t->words, text, extra + end - from)) >= 0)
            return end;
    return from;
}

static bool put_word(token_job *j, const char *word, size_t bytes)
{
    const wordpiece_tokenizer *t = wordpiece_of(j->t);
    int32_t piece[LONGEST_WORD];
    int pieces = 0;
    bool known = u8_mbsnlen((const uint8_t *)word, bytes) <= LONGEST_WORD;
    for (size_t from = 0, end; known && from < bytes; from = end) {
        j->word.used = 0;
        if (!text_append(&j->word, "##", 2, j->st) || !text_append(&j->word, word + from, bytes - from, j->st))
            return false;
        end = longest_piece(t, word, from, bytes, &j->word, &piece[pieces]);
        known = end > from;
        pieces += known;
    }
    for (int i = 0; known && i < pieces; i++)
        id_put(&j->ids, piece[i]);
    if (!known)
        id_put(&j->ids, t->unknown);
    return true;
}

static bool kind_words(token_job *j, const char *text, size_t bytes)
{
    size_t word = 0;
    bool ok = true;
    for (size_t at = 0, n; ok && at < bytes; at += n) {
        ucs4_t c;
        n = (size_t)u8_mbtouc(&c, (const uint8_t *)text + at, bytes - at);
        bool space = unicode_space(c), mark = !space && bert_punctuation(c);
        if (!space && !mark)
            continue;
        ok = (at == word || put_word(j, text + word, at - word)) && (!mark || put_word(j, text + at, n));
        word = at + n;
    }
    return ok && (word == bytes || put_word(j, text + word, bytes - word));
}

static const tokenizer_kind kind = {kind_find, kind_normalize, kind_words, kind_close};

/* ---- opening ---- */

/* vocab.txt: a token a line, the line's number is its id. */
static bool read_lines(token_table *v, const tokenizer_file *f, const char *name, status *st)
{
    const uint8_t *bad = u8_check((const uint8_t *)f->text, f->bytes);
    if (bad)
        return status_set(st, STATUS_BAD_FILE, "%s: byte %zu is not UTF-8", name, (size_t)((const char *)bad - f->text));
    int64_t id = 0;
    const char *end = f->text + f->bytes, *next;
    for (const char *line = f->text; line < end; line = next, id++) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        next = stop ? stop + 1 : end;
        stop = stop ? stop : end;
        ucs4_t c;
        for (const uint8_t *p; stop > line && (p = u8_prev(&c, (const uint8_t *)stop, (const uint8_t *)line)) && unicode_space(c);)
            stop = (const char *)p;
        if (!token_add(v, line, (size_t)(stop - line), id, name, st))
            return false;
    }
    return true;
}

static bool read_model(token_table *v, const json *model, const char *name, status *st)
{
    const json *vocab = json_member(model, "vocab");
    if (strcmp(json_text(model, "type", "WordPiece", name, st), "WordPiece") != 0 || !vocab || !json_object_is_type(vocab, json_type_object))
        return status_set(st, STATUS_BAD_FILE, "%s: holds no WordPiece model with a vocabulary", name);
    json_object_object_foreach((json *)(uintptr_t)vocab, token, id)
        if (!json_object_is_type(id, json_type_int))
            return status_set(st, STATUS_BAD_FILE, "%s: token \"%.40s\" has no id", name, token);
        else if (!token_add(v, token, strlen(token), json_object_get_int64(id), name, st))
            return false;
    return status_ok(st);
}

static bool read_vocabulary(token_table *v, const tokenizer_files *f, json **whole, status *st)
{
    char *lines = mem_format(st, "%svocab.txt", f->folder), *name = mem_format(st, "%stokenizer.json", f->folder);
    bool ok = lines && name;
    if (ok && f->vocab.text)
        ok = read_lines(v, &f->vocab, lines, st);
    else if (ok && f->whole.text)
        ok = (*whole = json_parse(f->whole.text, f->whole.bytes, name, st)) && read_model(v, json_member(*whole, "model"), name, st);
    else if (ok)
        ok = status_set(st, STATUS_BAD_FILE, "%s: is missing, and so is %s", lines, name);
    mem_free(lines);
    mem_free(name);
    return ok;
}

static bool read_flags(wordpiece_tokenizer *t, const tokenizer_files *f, status *st)
{
    char *name = mem_format(st, "%stokenizer_config.json", f->folder);
    json *config = name && f->config.text ? json_parse(f->config.text, f->config.bytes, name, st) : NULL;
    if (status_ok(st)) {
        t->lower = json_flag(config, "do_lower_case", true, name, st);
        t->chinese = json_flag(config, "tokenize_chinese_chars", true, name, st);
        t->accents = json_flag(config, "strip_accents", t->lower, name, st);
    }
    json_free(config);
    mem_free(name);
    return status_ok(st);
}

static bool open_words(wordpiece_tokenizer *t, const tokenizer_files *f, json **whole, status *st)
{
    static const special_class class = {{[SPECIAL_UNK] = "[UNK]", [SPECIAL_SEP] = "[SEP]", [SPECIAL_PAD] = "[PAD]", [SPECIAL_CLS] = "[CLS]", [SPECIAL_MASK] = "[MASK]"},
                                        SPECIAL_CLS, SPECIAL_SEP};
    special_tokens special = {0};
    if (!read_vocabulary(&t->words, f, whole, st) || !read_flags(t, f, st))
        return false;
    t->base.vocabulary = t->words.count;
    t->base.largest = t->words.largest;
    bool ok = special_read(&special, &t->base, &class, f, json_member(*whole, "added_tokens"), st);
    if (ok) {
        t->unknown = token_find(&t->words, special.unknown, strlen(special.unknown));
        ok = t->unknown >= 0 || status_set(st, STATUS_BAD_FILE, "%svocab.txt: lacks the unknown token %s", f->folder, special.unknown);
    }
    special_free(&special);
    return ok;
}

tokenizer *tokenizer_open_wordpiece(const tokenizer_files *f, status *st)
{
    wordpiece_tokenizer *t = mem_alloc(1, sizeof *t, "tokenizer", st);
    json *whole = NULL;
    if (!t)
        return NULL;
    t->base.kind = &kind;
    bool ok = open_words(t, f, &whole, st);
    json_free(whole);
    if (ok)
        return &t->base;
    tokenizer_close(&t->base);
    return NULL;
}
