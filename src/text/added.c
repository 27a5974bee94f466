/* Added tokens, as the tokenizers library keeps them: transformers' special tokens and whatever a fine-tuned model brings. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer_impl.h"

const added *added_find(const tokenizer *t, const char *content)
{
    for (int i = 0; i < t->added_count; i++)
        if (strcmp(t->added[i].content, content) == 0)
            return &t->added[i];
    return NULL;
}

static char *normalized_copy(const tokenizer *t, const char *text, status *st)
{
    text_buffer b = {0};
    char *out = NULL;
    if (t->kind->normalize(t, text, strlen(text), &b, st) && text_append(&b, "", 1, st))
        out = mem_string(b.text, st);
    mem_free(b.text);
    return out;
}

static bool grow(tokenizer *t, status *st)
{
    if (t->added_count == MOST_ADDED)
        return status_set(st, STATUS_BAD_FILE, "tokenizer: more than %d added tokens", MOST_ADDED);
    if (t->added_count < t->added_room)
        return true;
    int room = t->added_room ? 2 * t->added_room : 8;
    added *p = mem_resize(t->added, (size_t)room, sizeof *p, "added tokens", st);
    if (!p)
        return false;
    t->added = p;
    t->added_room = room;
    return true;
}

bool added_put(tokenizer *t, const char *content, const added *flags, bool anew, status *st)
{
    const added *before = added_find(t, content);
    if (!*content || (before && !anew))
        return true;
    if (!before && !grow(t, st))
        return false;
    added a = *flags;
    a.text = a.normalized ? normalized_copy(t, content, st) : mem_string(content, st);
    a.content = a.text ? mem_string(content, st) : NULL;
    if (!a.content) {
        mem_free(a.text);
        return false;
    }
    a.bytes = strlen(a.text);
    a.id = before ? before->id : t->kind->find(t, content, strlen(content));
    if (a.id < 0)
        a.id = t->vocabulary++;
    added *to = before ? &t->added[before - t->added] : &t->added[t->added_count++];
    if (before) {
        mem_free(to->text);
        mem_free(to->content);
    }
    *to = a;
    return true;
}

const char *token_text(const json *token)
{
    const json *text = json_object_is_type(token, json_type_object) ? json_member(token, "content") : token;
    return text && json_object_is_type(text, json_type_string) ? json_object_get_string((json *)(uintptr_t)text) : NULL;
}

bool token_flags(const json *token, bool special, added *out, const char *name, status *st)
{
    *out = (added){0};
    if (!json_object_is_type(token, json_type_object))
        return true;
    special = json_flag(token, "special", special, name, st);
    *out = (added){.left = json_flag(token, "lstrip", false, name, st), .right = json_flag(token, "rstrip", false, name, st),
                   .single = json_flag(token, "single_word", false, name, st), .normalized = json_flag(token, "normalized", !special, name, st)};
    return status_ok(st);
}

typedef struct numbered_token {
    int64_t id;
    const json *token;
} numbered_token;

static int by_id(const void *a, const void *b)
{
    int64_t x = ((const numbered_token *)a)->id, y = ((const numbered_token *)b)->id;
    return x < y ? -1 : x > y;
}

bool added_put_described(tokenizer *t, const json *token, const char *name, status *st)
{
    const char *text = token_text(token);
    added flags;
    if (!text)
        return status_set(st, STATUS_BAD_FILE, "%s: an added token has no content", name);
    return token_flags(token, false, &flags, name, st) && added_put(t, text, &flags, false, st);
}

bool added_put_numbered(tokenizer *t, const json *numbered, const char *name, status *st)
{
    if (!numbered)
        return true;
    if (!json_object_is_type(numbered, json_type_object) || json_object_object_length(numbered) > MOST_ADDED)
        return status_set(st, STATUS_BAD_FILE, "%s: added_tokens_decoder is no object of at most %d tokens", name, MOST_ADDED);
    size_t count = 0;
    numbered_token *list = mem_alloc((size_t)json_object_object_length(numbered) + 1, sizeof *list, "added tokens", st);
    if (!list)
        return false;
    json_object_object_foreach((json *)(uintptr_t)numbered, id, token)
        list[count++] = (numbered_token){strtoll(id, NULL, 10), token};
    qsort(list, count, sizeof *list, by_id);
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++)
        ok = added_put_described(t, list[i].token, name, st);
    mem_free(list);
    return ok;
}
