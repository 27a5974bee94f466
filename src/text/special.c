/* Special tokens as transformers 5 collects them (tokenization_utils_base.py, tokenization_utils_tokenizers.py): first those of added_tokens_decoder
 * (where it is missing: of added_tokens.json or tokenizer.json) by their numbers, then the named ones that are not among them, then further ones.
 * special_tokens_map.json counts only without added_tokens_decoder. Of two of the same text the later one's flags count. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer_impl.h"

static const char *const keys[SPECIAL_KEYS] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

typedef struct reading {
    tokenizer *t;
    const json *config, *map;  /* map: NULL where it does not count */
    char *config_name, *map_name, *added_name;
    int numbered;              /* tokens put by their numbers: the first of t->added */
    status *st;
} reading;

static json *parse_object(const tokenizer_file *f, const char *name, status *st)
{
    json *j = f->text ? json_parse(f->text, f->bytes, name, st) : NULL;
    if (!j || json_object_is_type(j, json_type_object))
        return j;
    status_set(st, STATUS_BAD_FILE, "%s: is not a JSON object", name);
    json_free(j);
    return NULL;
}

static bool is_numbered(const reading *r, const char *text)
{
    for (int i = 0; i < r->numbered; i++)
        if (strcmp(r->t->added[i].content, text) == 0)
            return true;
    return false;
}

static bool put(const reading *r, const json *token, bool from_map)
{
    const char *text = token_text(token);
    added flags;
    if (!text || is_numbered(r, text))
        return true;
    return token_flags(token, from_map, &flags, from_map ? r->map_name : r->config_name, r->st) && added_put(r->t, text, &flags, true, r->st);
}

/* The token of a key: the map's, the config's, or the class's own. */
static const json *named(const reading *r, const char *key, bool *from_map)
{
    const json *token = r->map ? json_member(r->map, key) : NULL;
    *from_map = token != NULL;
    return token ? token : json_member(r->config, key);
}

static bool is_named(const reading *r, const char *text)
{
    bool from_map, found = false;
    for (int i = 0; i < SPECIAL_KEYS && !found; i++) {
        const json *token = named(r, keys[i], &from_map);
        const char *name = token ? token_text(token) : NULL;
        found = name && strcmp(name, text) == 0;
    }
    return found;
}

/* {"<token>": id, ...}: looked for in the normalized text, but for those that are named. */
static bool put_legacy(reading *r, const json *object)
{
    if (json_object_object_length(object) > MOST_ADDED)
        return status_set(r->st, STATUS_BAD_FILE, "%s: more than %d tokens", r->added_name, MOST_ADDED);
    json *numbered = json_object_new_object();
    bool ok = numbered != NULL;
    json_object_object_foreach((json *)(uintptr_t)object, text, id) {
        char number[32];
        json *token = json_object_new_object();
        snprintf(number, sizeof number, "%lld", (long long)json_object_get_int64(id));
        ok = ok && token && json_object_object_add(token, "content", json_object_new_string(text)) == 0 &&
             json_object_object_add(token, "special", json_object_new_boolean(is_named(r, text))) == 0 && json_object_object_add(numbered, number, token) == 0;
    }
    ok = ok ? added_put_numbered(r->t, numbered, r->added_name, r->st) : status_set(r->st, STATUS_FAILED, "added tokens: out of memory");
    json_free(numbered);
    return ok;
}

static bool put_listed(reading *r, const json *listed)
{
    size_t n = listed && json_object_is_type(listed, json_type_array) ? json_object_array_length(listed) : 0;
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++)
        ok = put(r, json_object_array_get_idx(listed, i), false);
    return ok;
}

/* *text: the token of a key, NULL: there is none. */
static bool put_named(const reading *r, const char *key, const char *otherwise, const char **text)
{
    bool from_map;
    const json *token = named(r, key, &from_map);
    *text = token ? token_text(token) : NULL;
    if (*text && **text)
        return put(r, token, from_map);
    *text = otherwise;
    return !otherwise || is_numbered(r, otherwise) || added_put(r->t, otherwise, &(added){0}, true, r->st);
}

static int32_t id_of(const tokenizer *t, const char *text)
{
    const added *a = text ? added_find(t, text) : NULL;
    return a ? a->id : -1;
}

static bool put_all_named(special_tokens *s, reading *r, const special_class *class)
{
    const char *text[SPECIAL_KEYS];
    for (int i = 0; i < SPECIAL_KEYS; i++)
        if (!put_named(r, keys[i], class->otherwise[i], &text[i]))
            return false;
    r->t->marks.begin = id_of(r->t, text[class->begin]);
    r->t->marks.end = id_of(r->t, text[class->end]);
    r->t->marks.pad = id_of(r->t, text[SPECIAL_PAD]);
    s->unknown = mem_string(text[SPECIAL_UNK], r->st);
    return s->unknown != NULL;
}

/* "extra_token": "<x>" and its like, which only some class knows the meaning of. */
static bool put_other_keys(const reading *r)
{
    if (!r->config)
        return true;
    json_object_object_foreach((json *)(uintptr_t)r->config, key, token) {
        size_t n = strlen(key);
        bool known = n <= 6 || strcmp(key + n - 6, "_token") != 0;
        for (int i = 0; i < SPECIAL_KEYS && !known; i++)
            known = strcmp(key, keys[i]) == 0;
        if (!known && !put(r, token, false))
            return false;
    }
    return true;
}

static bool put_further(reading *r)
{
    static const char *const lists[] = {"extra_special_tokens", "additional_special_tokens"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        bool from_map;
        const json *list = named(r, lists[i], &from_map);
        size_t n = list && json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
        for (size_t k = 0; k < n; k++)
            if (!put(r, json_object_array_get_idx(list, k), from_map))
                return false;
    }
    return true;
}

static bool read_all(special_tokens *s, reading *r, const special_class *class, const json *legacy, const json *listed)
{
    const json *decoder = json_member(r->config, "added_tokens_decoder");
    bool ok = decoder ? added_put_numbered(r->t, decoder, r->config_name, r->st) : (!legacy || put_legacy(r, legacy)) && put_listed(r, listed);
    r->numbered = r->t->added_count;
    if (decoder)
        r->map = NULL;
    double longest = r->config ? json_double(r->config, "model_max_length", 0, 1e300, 0, r->config_name, r->st) : 0;
    r->t->marks.longest = longest < 1 << 20 ? (int32_t)longest : 0;
    return ok && status_ok(r->st) && put_all_named(s, r, class) && put_other_keys(r) && put_further(r);
}

bool special_read(special_tokens *s, tokenizer *t, const special_class *class, const tokenizer_files *f, const json *listed, status *st)
{
    reading r = {.t = t, .st = st, .config_name = mem_format(st, "%stokenizer_config.json", f->folder), .map_name = mem_format(st, "%sspecial_tokens_map.json", f->folder),
                 .added_name = mem_format(st, "%sadded_tokens.json", f->folder)};
    json *config = status_ok(st) ? parse_object(&f->config, r.config_name, st) : NULL;
    json *map = status_ok(st) ? parse_object(&f->special, r.map_name, st) : NULL;
    json *legacy = status_ok(st) ? parse_object(&f->added, r.added_name, st) : NULL;
    r.config = config;
    r.map = map;
    bool ok = status_ok(st) && read_all(s, &r, class, legacy, listed);
    json_free(config);
    json_free(map);
    json_free(legacy);
    mem_free(r.config_name);
    mem_free(r.map_name);
    mem_free(r.added_name);
    return ok;
}

void special_free(special_tokens *s)
{
    mem_free(s->unknown);
    s->unknown = NULL;
}
