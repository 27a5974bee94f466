/* T5's tokenizer: Raffel et al., arXiv:1910.10683, as transformers 5 runs it (models/t5/tokenization_t5.py on the tokenizers library;
 * sentencepiece itself is not asked, and gives other ids for the cases marked *). In this order:
 *   1. Special tokens written in the text (</s>, <pad>, <unk>, <extra_id_0>, user-defined pieces) are cut out of the text as it stands,
 *      the longest at the leftmost place. *
 *   2. What lies between is normalized (charsmap.c *), then cut at white space, which goes.
 *   3. Every word gets a U+2581 in front, whatever stood there *, and is cut before every further U+2581.
 *   4. Each such part becomes pieces (tok_unigram.c *).
 *   5. What is too long is cut off at the end, </s> is put behind. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unictype.h>
#include <unistr.h>

#include "base/mem.h"
#include "import/json.h"
#include "text/spm_from_json.h"
#include "text/spm_model.h"
#include "text/tok_spm.h"

enum { MOST_EXTRA_IDS = 1000 };

typedef struct spm_tokenizer {
    tokenizer base;
    unigram pieces;
    charsmap map;
} spm_tokenizer;

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */
enum { MARK_BYTES = 3 };

/* ---- the kind ---- */

static const spm_tokenizer *spm_of(const tokenizer *t) { return (const spm_tokenizer *)(const void *)t; }

static int32_t spm_find(const tokenizer *t, const char *text, size_t bytes) { return unigram_find(&spm_of(t)->pieces, text, bytes); }

static bool spm_normalize(const tokenizer *t, const char *text, size_t bytes, text_buffer *out, status *st)
{
    return charsmap_apply(&spm_of(t)->map, text, bytes, out, st);
}

static void spm_close(tokenizer *t)
{
    spm_tokenizer *s = (spm_tokenizer *)(void *)t;
    unigram_free(&s->pieces);
    charsmap_free(&s->map);
}

/* A word, in front of which the mark is put unless it begins with one; then before every further mark a part begins. */
static bool spm_word(token_job *j, const char *text, size_t bytes)
{
    text_buffer *w = &j->word;
    w->used = 0;
    if ((bytes < MARK_BYTES || memcmp(text, space_mark, MARK_BYTES) != 0) && !text_append(w, space_mark, MARK_BYTES, j->st))
        return false;
    if (!text_append(w, text, bytes, j->st))
        return false;
    for (size_t from = 0, to; from < w->used; from = to) {
        to = from + 1;
        while (to < w->used && (w->used - to < MARK_BYTES || memcmp(w->text + to, space_mark, MARK_BYTES) != 0))
            to++;
        if (!unigram_cut(&spm_of(j->t)->pieces, w->text + from, to - from, &j->path, &j->ids, j->st))
            return false;
    }
    return true;
}

static bool spm_words(token_job *j, const char *text, size_t bytes)
{
    const uint8_t *at = (const uint8_t *)text, *end = at + bytes, *word = at;
    while (at < end) {
        ucs4_t c;
        int n = u8_mbtouc(&c, at, (size_t)(end - at));
        if (uc_is_property_white_space(c)) {
            if (at > word && !spm_word(j, (const char *)word, (size_t)(at - word)))
                return false;
            word = at + n;
        }
        at += n;
    }
    return word == end || spm_word(j, (const char *)word, (size_t)(end - word));
}

static const tokenizer_kind spm_kind_row = {spm_find, spm_normalize, spm_words, spm_close};

/* ---- what is added to the pieces ---- */

static bool add(tokenizer *t, const char *text, status *st) { return added_put(t, text, &(added){0}, false, st); }

typedef struct adding {
    tokenizer *t;
    status *st;
} adding;

static bool add_piece(void *ctx, const spm_piece *p)
{
    const adding *c = ctx;
    char text[256];
    if ((p->kind != SPM_CONTROL && p->kind != SPM_USER_DEFINED) || p->bytes >= sizeof text)
        return true;
    memcpy(text, p->text, p->bytes);
    text[p->bytes] = 0;
    return add(c->t, text, c->st);
}

/* ---- tokenizer_config.json ---- */

static bool add_list(tokenizer *t, const json *list, status *st)
{
    for (size_t i = 0; list && json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        const char *text = token_text(json_object_array_get_idx(list, i));
        if (text && !add(t, text, st)) /* who has flags stands in added_tokens_decoder */
            return false;
    }
    return true;
}

static const char *named_token(const json *config, const char *key, const char *otherwise)
{
    const char *text = config ? token_text(json_member(config, key)) : NULL;
    return text && *text ? text : otherwise;
}

static bool add_named(tokenizer *t, const json *config, status *st)
{
    static const char *const keys[][2] = {{"eos_token", "</s>"}, {"unk_token", "<unk>"}, {"pad_token", "<pad>"}};
    for (int i = 0; i < 3; i++)
        if (!add(t, named_token(config, keys[i][0], keys[i][1]), st))
            return false;
    t->marks.end = added_find(t, named_token(config, keys[0][0], keys[0][1]))->id;
    t->marks.pad = added_find(t, named_token(config, keys[2][0], keys[2][1]))->id;
    if (!config)
        return true;
    json_object_object_foreach((json *)(uintptr_t)config, key, value) { /* mask_token and its like */
        size_t n = strlen(key);
        const char *text = n > 6 && strcmp(key + n - 6, "_token") == 0 ? token_text(value) : NULL;
        if (text && !add(t, text, st))
            return false;
    }
    return true;
}

/* The list of a tokenizer.json, [{"id": 0, "content": "<pad>", ...}, ...]. */
static bool add_array(tokenizer *t, const json *list, const char *name, status *st)
{
    if (!list)
        return true;
    if (!json_object_is_type(list, json_type_array) || json_object_array_length(list) > MOST_ADDED)
        return status_set(st, STATUS_BAD_FILE, "%s: added_tokens is no list of at most %d tokens", name, MOST_ADDED);
    for (size_t i = 0; i < json_object_array_length(list); i++)
        if (!added_put_described(t, json_object_array_get_idx(list, i), name, st))
            return false;
    return true;
}

/* The list of a config takes the place of what the model itself would add: its control and user-defined pieces, and the extra ids. */
static bool add_further(tokenizer *t, const void *model, size_t bytes, const json *config, int extra_ids, const char *name, status *st)
{
    json *extra = NULL, *additional = NULL;
    bool listed = config && json_object_object_get_ex(config, "extra_special_tokens", &extra);
    if (config && json_object_object_get_ex(config, "additional_special_tokens", &additional))
        listed = true;
    if (listed)
        return add_list(t, extra && json_object_is_type(extra, json_type_array) && json_object_array_length(extra) ? extra : additional, st);
    spm_facts facts;
    adding c = {t, st};
    if (!spm_walk(model, bytes, name, add_piece, &c, &facts, st))
        return false;
    for (int i = 0; i < extra_ids; i++) {
        char text[32];
        snprintf(text, sizeof text, "<extra_id_%d>", i);
        if (!add(t, text, st))
            return false;
    }
    return true;
}

/* ---- opening ---- */

/* whole: the tokenizer.json that the model came from, whose pieces include the extra ids; or NULL */
static bool open_pieces(spm_tokenizer *s, const void *model, size_t bytes, const json *whole, const json *config, const char *name, const char *config_name, status *st)
{
    tokenizer *t = &s->base;
    spm_facts facts;
    int extra_ids = config ? (int)json_int(config, "extra_ids", 0, MOST_EXTRA_IDS, 100, config_name, st) : 100;
    if (!status_ok(st) || !spm_walk(model, bytes, name, NULL, NULL, &facts, st) || !charsmap_read(&s->map, facts.charsmap, facts.charsmap_bytes, name, st) ||
        !unigram_read(&s->pieces, model, bytes, whole ? 0 : extra_ids, name, st))
        return false;
    t->vocabulary = s->pieces.count;
    t->largest = s->pieces.count - 1;
    return (!config || added_put_numbered(t, json_member(config, "added_tokens_decoder"), config_name, st)) &&
           (!whole || add_array(t, json_member(whole, "added_tokens"), name, st)) && add_named(t, config, st) &&
           add_further(t, model, bytes, config, extra_ids, name, st);
}

static tokenizer *open_with(const void *model, size_t bytes, const json *whole, const json *config, const char *name, const char *config_name, status *st)
{
    spm_tokenizer *s = mem_alloc(1, sizeof *s, "tokenizer", st);
    if (!s)
        return NULL;
    s->base.kind = &spm_kind_row;
    s->base.marks.begin = -1;
    if (open_pieces(s, model, bytes, whole, config, name, config_name, st))
        return &s->base;
    tokenizer_close(&s->base);
    return NULL;
}

/* `json_file`: the bytes are a tokenizer.json */
static tokenizer *open_either(const void *text, size_t bytes, bool json_file, const char *tokenizer_config, size_t config_bytes, const char *name, status *st)
{
    const char *slash = strrchr(name, '/');
    char *config_name = mem_format(st, "%.*s%s", slash ? (int)(slash + 1 - name) : 0, name, "tokenizer_config.json"), *model = NULL;
    json *config = config_name && tokenizer_config ? json_parse(tokenizer_config, config_bytes, config_name, st) : NULL;
    json *whole = status_ok(st) && json_file ? json_parse(text, bytes, name, st) : NULL;
    tokenizer *t = NULL;
    if (config && !json_object_is_type(config, json_type_object))
        status_set(st, STATUS_BAD_FILE, "%s: is not a JSON object", config_name);
    else if (whole)
        model = spm_from_json(whole, name, &bytes, st);
    if (status_ok(st))
        t = open_with(model ? model : text, bytes, whole, config, name, config_name, st);
    mem_free(model);
    json_free(whole);
    json_free(config);
    mem_free(config_name);
    return t;
}

tokenizer *tokenizer_open_spm(const void *model, size_t bytes, const char *tokenizer_config, size_t config_bytes, const char *name, status *st)
{
    return open_either(model, bytes, false, tokenizer_config, config_bytes, name, st);
}

tokenizer *tokenizer_open_spm_json(const char *text, size_t bytes, const char *tokenizer_config, size_t config_bytes, const char *name, status *st)
{
    return open_either(text, bytes, true, tokenizer_config, config_bytes, name, st);
}
