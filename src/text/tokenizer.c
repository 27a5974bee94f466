/* From text to ids around added tokens, as the tokenizers library goes about it: tokens that are looked for in the text as it stands are cut out
 * first, the longest at the leftmost place; what lies between is normalized, then cut at those looked for in normalized text; the rest becomes words. */
#include <string.h>
#include <unictype.h>
#include <unistr.h>

#include "base/mem.h"
#include "text/tokenizer_impl.h"

void tokenizer_close(tokenizer *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->added_count; i++) {
        mem_free(t->added[i].text);
        mem_free(t->added[i].content);
    }
    mem_free(t->added);
    t->kind->close(t);
    mem_free(t);
}

int32_t tokenizer_vocabulary(const tokenizer *t) { return t->vocabulary; }

int32_t tokenizer_largest_id(const tokenizer *t) { return t->largest; }

const tokenizer_marks *tokenizer_marks_of(const tokenizer *t) { return &t->marks; }

/* Regular expressions' \w. */
static bool is_word(ucs4_t c)
{
    return uc_is_property_alphabetic(c) || uc_is_general_category_withtable(c, UC_CATEGORY_MASK_M | UC_CATEGORY_MASK_Nd | UC_CATEGORY_MASK_Pc) ||
           uc_is_property_join_control(c);
}

static bool stands_alone(const char *text, size_t from, size_t to, size_t bytes)
{
    ucs4_t c;
    if (from && u8_prev(&c, (const uint8_t *)text + from, (const uint8_t *)text) && is_word(c))
        return false;
    return to == bytes || u8_mbtouc(&c, (const uint8_t *)text + to, bytes - to) <= 0 || !is_word(c);
}

/* The longest added token that stands here. */
static const added *added_at(const tokenizer *t, const char *text, size_t bytes, bool normalized)
{
    const added *best = NULL;
    for (int i = 0; i < t->added_count; i++) {
        const added *a = &t->added[i];
        if (a->normalized == normalized && a->bytes && a->bytes <= bytes && *a->text == *text && memcmp(a->text, text, a->bytes) == 0 &&
            (!best || a->bytes > best->bytes))
            best = a;
    }
    return best;
}

static size_t space_before(const char *text, size_t from, size_t at)
{
    ucs4_t c;
    for (const uint8_t *p; at > from && (p = u8_prev(&c, (const uint8_t *)text + at, (const uint8_t *)text)) && uc_is_property_white_space(c);)
        at = (size_t)((const char *)p - text);
    return at < from ? from : at;
}

static size_t space_behind(const char *text, size_t at, size_t bytes)
{
    ucs4_t c;
    for (int n; at < bytes && (n = u8_mbtouc(&c, (const uint8_t *)text + at, bytes - at)) > 0 && uc_is_property_white_space(c);)
        at += (size_t)n;
    return at;
}

static bool encode_between(token_job *j, const char *text, size_t bytes, bool normalized);

/* Cuts the text at the added tokens that are looked for in this form of it. */
static bool encode_split(token_job *j, const char *text, size_t bytes, bool normalized)
{
    size_t done = 0;
    for (size_t at = 0; at < bytes;) {
        const added *a = added_at(j->t, text + at, bytes - at, normalized);
        if (!a || (a->single && !stands_alone(text, at, at + a->bytes, bytes))) {
            at += a ? a->bytes : 1;
            continue;
        }
        size_t start = a->left ? space_before(text, done, at) : at;
        at += a->bytes;
        if (start > done && !encode_between(j, text + done, start - done, normalized))
            return false;
        id_put(&j->ids, a->id);
        done = a->right ? space_behind(text, at, bytes) : at;
        at = done;
    }
    return done == bytes || encode_between(j, text + done, bytes - done, normalized);
}

static bool encode_between(token_job *j, const char *text, size_t bytes, bool normalized)
{
    if (normalized)
        return j->t->kind->words(j, text, bytes);
    text_buffer b = {0};
    bool ok = j->t->kind->normalize(j->t, text, bytes, &b, j->st) && encode_split(j, b.text, b.used, true);
    mem_free(b.text);
    return ok;
}

/* Returns the number of ids written; *whole gets how many there were. */
static int encode_text(const tokenizer *t, const char *text, int32_t *ids, int most, int *whole, status *st)
{
    token_job j = {.t = t, .ids = {.id = ids, .most = most}, .st = st};
    char *sound = text_repair(text, st);
    bool ok = sound && encode_split(&j, sound, strlen(sound), false);
    mem_free(sound);
    mem_free(j.word.text);
    mem_free(j.path.text);
    *whole = j.ids.count;
    return !ok ? -1 : j.ids.count < most ? j.ids.count : most;
}

int tokenizer_encode(const tokenizer *t, const char *text, int32_t *ids, int most, int *whole, status *st)
{
    int first = t->marks.begin >= 0, marks = first + (t->marks.end >= 0), all = 0;
    if (first && most > 0)
        ids[0] = t->marks.begin;
    int n = encode_text(t, text, ids + first, most > marks ? most - marks : 0, &all, st);
    if (n < 0)
        return -1;
    n += first;
    if (t->marks.end >= 0)
        ids[n++] = t->marks.end;
    if (whole)
        *whole = all + marks;
    return n;
}

int tokenizer_encode_part(const tokenizer *t, const char *text, int32_t *ids, int most, int *whole, status *st)
{
    int all = 0, n = encode_text(t, text, ids, most, &all, st);
    if (whole)
        *whole = all;
    return n;
}
