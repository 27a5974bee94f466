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

enum { MOST_EXTRA_IDS = 1000, MOST_ADDED = 4096 };

typedef struct added {
    char *text;           /* in its normalized form if `normalized` */
    size_t bytes;
    int32_t id;
    bool left, right;     /* takes the white space at that side with it */
    bool normalized;      /* looked for in the normalized text */
} added;

struct tokenizer {
    unigram pieces;
    charsmap map;
    added *added;
    int added_count, added_room;
    int32_t vocabulary;
    int32_t end;          /* </s> */
};

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */
enum { MARK_BYTES = 3 };

/* ---- added tokens ---- */

static const added *find_added(const tokenizer *t, const char *text)
{
    for (int i = 0; i < t->added_count; i++)
        if (strcmp(t->added[i].text, text) == 0)
            return &t->added[i];
    return NULL;
}

static char *normalized_copy(const tokenizer *t, const char *text, status *st)
{
    text_buffer b = {0};
    char *out = NULL;
    if (charsmap_apply(&t->map, text, strlen(text), &b, st) && text_append(&b, "", 1, st))
        out = mem_string(b.text, st);
    mem_free(b.text);
    return out;
}

/* A token that is a piece already keeps its id; a new one takes the next. The first to be added sets the flags. */
static bool add(tokenizer *t, const char *text, const added *flags, status *st)
{
    if (!*text || find_added(t, text))
        return true;
    if (t->added_count == MOST_ADDED)
        return status_set(st, STATUS_BAD_FILE, "tokenizer: more than %d added tokens", MOST_ADDED);
    if (t->added_count == t->added_room) {
        int room = t->added_room ? 2 * t->added_room : 128;
        added *p = mem_resize(t->added, (size_t)room, sizeof *p, "added tokens", st);
        if (!p)
            return false;
        t->added = p;
        t->added_room = room;
    }
    added a = *flags;
    a.id = unigram_find(&t->pieces, text, strlen(text));
    if (a.id < 0)
        a.id = t->vocabulary++;
    a.text = a.normalized ? normalized_copy(t, text, st) : mem_string(text, st);
    if (!a.text)
        return false;
    a.bytes = strlen(a.text);
    t->added[t->added_count++] = a;
    return true;
}

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
    return add(c->t, text, &(added){0}, c->st);
}

/* ---- tokenizer_config.json ---- */

/* A token is "text" or {"content": "text", ...}. */
static const char *token_text(const json *token)
{
    const json *text = json_object_is_type(token, json_type_object) ? json_member(token, "content") : token;
    return text && json_object_is_type(text, json_type_string) ? json_object_get_string((json *)(uintptr_t)text) : NULL;
}

static bool add_described(tokenizer *t, const json *token, const char *name, status *st)
{
    const char *text = token_text(token);
    if (!text)
        return status_set(st, STATUS_BAD_FILE, "%s: an added token has no content", name);
    bool special = json_flag(token, "special", false, name, st);
    added a = {.left = json_flag(token, "lstrip", false, name, st), .right = json_flag(token, "rstrip", false, name, st),
               .normalized = json_flag(token, "normalized", !special, name, st)};
    if (!json_object_is_type(token, json_type_object))
        a.normalized = false;
    return status_ok(st) && add(t, text, &a, st);
}

typedef struct numbered {
    int64_t id;
    const json *token;
} numbered;

static int by_id(const void *a, const void *b)
{
    int64_t x = ((const numbered *)a)->id, y = ((const numbered *)b)->id;
    return x < y ? -1 : x > y;
}

/* {"32000": {"content": "<extra_id_99>", ...}, ...}, in the order of the numbers. */
static bool add_decoder(tokenizer *t, const json *decoder, const char *name, status *st)
{
    if (!decoder)
        return true;
    if (!json_object_is_type(decoder, json_type_object) || json_object_object_length(decoder) > MOST_ADDED)
        return status_set(st, STATUS_BAD_FILE, "%s: added_tokens_decoder is no object of at most %d tokens", name, MOST_ADDED);
    size_t count = 0;
    numbered *list = mem_alloc((size_t)json_object_object_length(decoder) + 1, sizeof *list, "added tokens", st);
    if (!list)
        return false;
    json_object_object_foreach(decoder, id, token)
        list[count++] = (numbered){strtoll(id, NULL, 10), token};
    qsort(list, count, sizeof *list, by_id);
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++)
        ok = add_described(t, list[i].token, name, st);
    mem_free(list);
    return ok;
}

static bool add_list(tokenizer *t, const json *list, status *st)
{
    for (size_t i = 0; list && json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        const char *text = token_text(json_object_array_get_idx(list, i));
        if (text && !add(t, text, &(added){0}, st)) /* who has flags stands in added_tokens_decoder */
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
        if (!add(t, named_token(config, keys[i][0], keys[i][1]), &(added){0}, st))
            return false;
    t->end = find_added(t, named_token(config, keys[0][0], keys[0][1]))->id;
    if (!config)
        return true;
    json_object_object_foreach((json *)(uintptr_t)config, key, value) { /* mask_token and its like */
        size_t n = strlen(key);
        const char *text = n > 6 && strcmp(key + n - 6, "_token") == 0 ? token_text(value) : NULL;
        if (text && !add(t, text, &(added){0}, st))
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
        if (!add_described(t, json_object_array_get_idx(list, i), name, st))
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
        if (!add(t, text, &(added){0}, st))
            return false;
    }
    return true;
}

/* ---- opening ---- */

/* whole: the tokenizer.json that the model came from, whose pieces include the extra ids; or NULL */
static tokenizer *open_with(const void *model, size_t bytes, const json *whole, const json *config, const char *name, const char *config_name, status *st)
{
    tokenizer *t = mem_alloc(1, sizeof *t, "tokenizer", st);
    if (!t)
        return NULL;
    spm_facts facts;
    int extra_ids = config ? (int)json_int(config, "extra_ids", 0, MOST_EXTRA_IDS, 100, config_name, st) : 100;
    bool ok = status_ok(st) && spm_walk(model, bytes, name, NULL, NULL, &facts, st) &&
              charsmap_read(&t->map, facts.charsmap, facts.charsmap_bytes, name, st) &&
              unigram_read(&t->pieces, model, bytes, whole ? 0 : extra_ids, name, st);
    if (ok) {
        t->vocabulary = t->pieces.count;
        ok = (!config || add_decoder(t, json_member(config, "added_tokens_decoder"), config_name, st)) &&
             (!whole || add_array(t, json_member(whole, "added_tokens"), name, st)) && add_named(t, config, st) &&
             add_further(t, model, bytes, config, extra_ids, name, st);
    }
    if (!ok) {
        tokenizer_close(t);
        return NULL;
    }
    return t;
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

void tokenizer_close(tokenizer *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->added_count; i++)
        mem_free(t->added[i].text);
    mem_free(t->added);
    unigram_free(&t->pieces);
    charsmap_free(&t->map);
    mem_free(t);
}

int32_t tokenizer_vocabulary(const tokenizer *t) { return t->vocabulary; }

/* ---- encoding ---- */

typedef struct job {
    const tokenizer *t;
    id_list ids;
    text_buffer word, path;
    status *st;
} job;

/* A word, in front of which the mark is put unless it begins with one; then before every further mark a part begins. */
static bool encode_word(job *j, const char *text, size_t bytes)
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
        if (!unigram_cut(&j->t->pieces, w->text + from, to - from, &j->path, &j->ids, j->st))
            return false;
    }
    return true;
}

static bool encode_words(job *j, const char *text, size_t bytes)
{
    const uint8_t *at = (const uint8_t *)text, *end = at + bytes, *word = at;
    while (at < end) {
        ucs4_t c;
        int n = u8_mbtouc(&c, at, (size_t)(end - at));
        if (uc_is_property_white_space(c)) {
            if (at > word && !encode_word(j, (const char *)word, (size_t)(at - word)))
                return false;
            word = at + n;
        }
        at += n;
    }
    return word == end || encode_word(j, (const char *)word, (size_t)(end - word));
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

static bool encode_between(job *j, const char *text, size_t bytes, bool normalized);

/* Cuts the text at the added tokens that are looked for in this form of it. */
static bool encode_split(job *j, const char *text, size_t bytes, bool normalized)
{
    size_t done = 0;
    for (size_t at = 0; at < bytes;) {
        const added *a = added_at(j->t, text + at, bytes - at, normalized);
        if (!a) {
            at++;
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

static bool encode_between(job *j, const char *text, size_t bytes, bool normalized)
{
    if (normalized)
        return encode_words(j, text, bytes);
    text_buffer b = {0};
    bool ok = charsmap_apply(&j->t->map, text, bytes, &b, j->st) && encode_split(j, b.text, b.used, true);
    mem_free(b.text);
    return ok;
}

int tokenizer_encode(const tokenizer *t, const char *text, int32_t *ids, int most, int *whole, status *st)
{
    job j = {.t = t, .ids = {.id = ids, .most = most - 1}, .st = st};
    char *sound = text_repair(text, st);
    bool ok = sound && encode_split(&j, sound, strlen(sound), false);
    mem_free(sound);
    mem_free(j.word.text);
    mem_free(j.path.text);
    if (!ok)
        return -1;
    int n = j.ids.count < j.ids.most ? j.ids.count : j.ids.most;
    ids[n] = t->end;
    if (whole)
        *whole = j.ids.count + 1;
    return n + 1;
}
