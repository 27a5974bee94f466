/* 50,000 tokens with their ids, hashed. vocab.json has a scanner of its own, as a JSON library would make 10 MB of objects of it. */
#include <inttypes.h>
#include <string.h>
#include <unistr.h>

#include "base/mem.h"
#include "text/token_table.h"

enum { LARGEST_ID = 1 << 24 };

static uint32_t hash_of(const char *text, size_t bytes) /* FNV-1a */
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ (uint8_t)text[i]) * 16777619u;
    return h;
}

/* The slot of the text, or the empty one where it would be. */
static size_t slot_of(const token_table *v, const char *text, size_t bytes)
{
    size_t at = hash_of(text, bytes) & (v->slots - 1);
    for (; v->slot[at] >= 0; at = (at + 1) & (v->slots - 1)) {
        const token_entry *e = &v->entry[v->slot[at]];
        if (e->bytes == bytes && memcmp(v->text.text + e->at, text, bytes) == 0)
            break;
    }
    return at;
}

int32_t token_find(const token_table *v, const char *text, size_t bytes)
{
    if (!v->slots)
        return -1;
    int32_t entry = v->slot[slot_of(v, text, bytes)];
    return entry < 0 ? -1 : v->entry[entry].id;
}

static bool grow(token_table *v, status *st)
{
    if (v->count < v->room)
        return true;
    int32_t room = v->room ? 2 * v->room : 1024;
    token_entry *e = mem_resize(v->entry, (size_t)room, sizeof *e, "vocabulary", st);
    if (!e)
        return false;
    v->entry = e;
    v->room = room;
    size_t slots = 4 * (size_t)room; /* at most half full, and a power of two */
    int32_t *slot = mem_alloc(slots, sizeof *slot, "vocabulary", st);
    if (!slot)
        return false;
    mem_free(v->slot);
    v->slot = slot;
    v->slots = slots;
    memset(slot, 0xff, slots * sizeof *slot);
    for (int32_t i = 0; i < v->count; i++)
        slot[slot_of(v, v->text.text + v->entry[i].at, v->entry[i].bytes)] = i;
    return true;
}

bool token_add(token_table *v, const char *text, size_t bytes, int64_t id, const char *name, status *st)
{
    if (id < 0 || id >= LARGEST_ID)
        return status_set(st, STATUS_BAD_FILE, "%s: token \"%.*s\" has the id %" PRId64, name, (int)(bytes < 40 ? bytes : 40), text, id);
    if (v->count == LARGEST_ID || v->text.used + bytes > UINT32_MAX)
        return status_set(st, STATUS_BAD_FILE, "%s: is too large a vocabulary", name);
    if (!grow(v, st))
        return false;
    size_t slot = slot_of(v, text, bytes);
    if (v->slot[slot] >= 0)
        return status_set(st, STATUS_BAD_FILE, "%s: token \"%.*s\" is there twice", name, (int)(bytes < 40 ? bytes : 40), text);
    v->slot[slot] = v->count;
    v->entry[v->count] = (token_entry){(uint32_t)v->text.used, (uint32_t)bytes, (int32_t)id};
    if (!text_append(&v->text, text, bytes, st)) {
        v->slot[slot] = -1;
        return false;
    }
    v->count++;
    v->largest = v->count == 1 || id > v->largest ? (int32_t)id : v->largest;
    return true;
}

void tokens_free(token_table *v)
{
    mem_free(v->text.text);
    mem_free(v->entry);
    mem_free(v->slot);
    *v = (token_table){.largest = -1};
}

/* ---- {"token": id, ...} ---- */

typedef struct scanner {
    const char *at, *end, *begin;
    const char *name;
    text_buffer token;
    status *st;
} scanner;

static bool wrong(const scanner *s, const char *what)
{
    return status_set(s->st, STATUS_BAD_FILE, "%s: byte %zu: %s expected: it should be {\"token\": id, ...}", s->name, (size_t)(s->at - s->begin), what);
}

static void skip_space(scanner *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

static bool expect(scanner *s, char c, const char *what)
{
    skip_space(s);
    if (s->at == s->end || *s->at != c)
        return wrong(s, what);
    s->at++;
    return true;
}

static bool hex4(scanner *s, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        char c = s->at < s->end ? *s->at : 0;
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0)
            return wrong(s, "four hexadecimal digits");
        *out = *out * 16 + (uint32_t)digit;
    }
    return true;
}

/* Behind \u */
static bool scan_unicode(scanner *s)
{
    uint32_t c, low;
    uint8_t utf8[6];
    if (!hex4(s, &c))
        return false;
    if (c >= 0xd800 && c < 0xdc00) {
        if (s->end - s->at < 6 || s->at[0] != '\\' || s->at[1] != 'u')
            return wrong(s, "the second half of a pair of surrogates");
        s->at += 2;
        if (!hex4(s, &low))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return wrong(s, "the second half of a pair of surrogates");
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    int n = u8_uctomb(utf8, c, sizeof utf8);
    return n > 0 ? text_append(&s->token, (const char *)utf8, (size_t)n, s->st) : wrong(s, "a character");
}

static bool scan_escape(scanner *s)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = s->at < s->end ? *s->at : 0;
    if (c == 'u') {
        s->at++;
        return scan_unicode(s);
    }
    const char *found = c ? strchr(from, c) : NULL;
    if (!found)
        return wrong(s, "an escape");
    s->at++;
    return text_append(&s->token, &to[found - from], 1, s->st);
}

static bool scan_token(scanner *s)
{
    s->token.used = 0;
    if (!expect(s, '"', "a token"))
        return false;
    for (;;) {
        const char *from = s->at;
        while (s->at < s->end && *s->at != '"' && *s->at != '\\' && (uint8_t)*s->at >= 0x20)
            s->at++;
        if (!text_append(&s->token, from, (size_t)(s->at - from), s->st))
            return false;
        if (s->at == s->end || (uint8_t)*s->at < 0x20)
            return wrong(s, "the end of a token");
        if (*s->at++ == '"')
            return true;
        if (!scan_escape(s))
            return false;
    }
}

static bool scan_id(scanner *s, int64_t *id)
{
    if (!expect(s, ':', "\":\""))
        return false;
    skip_space(s);
    const char *from = s->at;
    for (*id = 0; s->at < s->end && *s->at >= '0' && *s->at <= '9' && *id <= LARGEST_ID; s->at++)
        *id = *id * 10 + (*s->at - '0');
    return s->at > from || wrong(s, "an id");
}

static bool scan_all(token_table *v, scanner *s)
{
    if (!expect(s, '{', "\"{\""))
        return false;
    for (;;) {
        int64_t id;
        if (!scan_token(s) || !scan_id(s, &id) || !token_add(v, s->token.text, s->token.used, id, s->name, s->st))
            return false;
        skip_space(s);
        if (s->at < s->end && *s->at == ',') {
            s->at++;
            continue;
        }
        if (!expect(s, '}', "\",\" or \"}\""))
            return false;
        skip_space(s);
        return s->at == s->end || wrong(s, "nothing more");
    }
}

bool token_add_json(token_table *v, const tokenizer_file *f, const char *name, status *st)
{
    const uint8_t *bad = u8_check((const uint8_t *)f->text, f->bytes);
    if (bad)
        return status_set(st, STATUS_BAD_FILE, "%s: byte %zu is not UTF-8", name, (size_t)((const char *)bad - f->text));
    scanner s = {.at = f->text, .end = f->text + f->bytes, .begin = f->text, .name = name, .st = st};
    bool ok = text_append(&s.token, "", 1, st) && scan_all(v, &s);
    mem_free(s.token.text);
    return ok;
}
