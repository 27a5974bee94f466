/* Normalization as transformers has it (tokenizers' Precompiled normalizer), which is not quite sentencepiece's own: it goes grapheme
 * cluster by grapheme cluster. A cluster below six bytes is looked up as a whole, and the SHORTEST entry that begins it replaces all
 * of it: a ligature with an accent loses the accent. Otherwise, and when there is no such entry, each of its characters is looked up by
 * itself. sentencepiece replaces the longest match at each position and leaves the rest. The ids wanted are transformers'. */
#include "text/charsmap.h"

#include <string.h>
#include <unigbrk.h>
#include <unistr.h>

#include "base/mem.h"

bool text_append(text_buffer *b, const char *text, size_t bytes, status *st)
{
    if (bytes > b->room - b->used) {
        size_t room = (b->used + bytes) * 2 + 64;
        char *p = mem_resize(b->text, room, 1, "text", st);
        if (!p)
            return false;
        b->text = p;
        b->room = room;
    }
    if (bytes)
        memcpy(b->text + b->used, text, bytes);
    b->used += bytes;
    return true;
}

static uint32_t little_endian(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Four bytes: the trie's size in bytes; the trie, 32-bit units; the replacements. */
bool charsmap_read(charsmap *m, const uint8_t *raw, size_t bytes, const char *name, status *st)
{
    *m = (charsmap){0};
    if (bytes == 0)
        return true;
    uint32_t trie = bytes < 4 ? 0 : little_endian(raw);
    if (trie < 4 || trie % 4 != 0 || trie > bytes - 4)
        return status_set(st, STATUS_BAD_FILE, "%s: its normalizer is damaged: a trie of %u bytes in %zu", name, trie, bytes);
    size_t text_bytes = bytes - 4 - trie;
    if (u8_check(raw + 4 + trie, text_bytes))
        return status_set(st, STATUS_BAD_FILE, "%s: its normalizer is damaged: the replacements are not UTF-8", name);
    m->units = trie / 4;
    m->bytes = text_bytes;
    m->unit = mem_alloc(m->units, sizeof *m->unit, "normalizer", st);
    m->text = m->unit ? mem_alloc(text_bytes + 1, 1, "normalizer", st) : NULL;
    if (!m->text) {
        charsmap_free(m);
        return false;
    }
    for (size_t i = 0; i < m->units; i++)
        m->unit[i] = little_endian(raw + 4 + 4 * i);
    memcpy(m->text, raw + 4 + trie, text_bytes);
    return true;
}

void charsmap_free(charsmap *m)
{
    mem_free(m->unit);
    mem_free(m->text);
    *m = (charsmap){0};
}

/* ---- the double array: a unit is label and flag of the edge that led to it, and the offset of its children ---- */

static size_t child_offset(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6); }
static uint32_t label(uint32_t unit) { return unit & (1u << 31 | 0xffu); }
static bool has_leaf(uint32_t unit) { return unit >> 8 & 1; }
static uint32_t leaf_value(uint32_t unit) { return unit & ~(1u << 31); }

/* The replacement of the shortest entry that `text` begins with, or NULL. A damaged trie leads nowhere, never outside. */
static const char *replacement(const charsmap *m, const char *text, size_t bytes)
{
    size_t at = m->units ? child_offset(m->unit[0]) : 0;
    for (size_t i = 0; i < bytes; i++) {
        uint8_t c = (uint8_t)text[i];
        at ^= c;
        if (at >= m->units || label(m->unit[at]) != c)
            return NULL;
        uint32_t unit = m->unit[at];
        at ^= child_offset(unit);
        if (has_leaf(unit)) {
            uint32_t value = at < m->units ? leaf_value(m->unit[at]) : UINT32_MAX;
            bool starts_character = value <= m->bytes && ((uint8_t)m->text[value] & 0xc0) != 0x80;
            return starts_character ? m->text + value : NULL;
        }
    }
    return NULL;
}

static bool append_cluster(const charsmap *m, const char *text, size_t bytes, text_buffer *out, status *st)
{
    enum { WHOLE = 6 };
    const char *other = bytes < WHOLE ? replacement(m, text, bytes) : NULL;
    if (other)
        return text_append(out, other, strlen(other), st);
    for (size_t i = 0; i < bytes;) {
        int n = u8_mblen((const uint8_t *)text + i, bytes - i);
        size_t length = n > 0 ? (size_t)n : 1;
        other = replacement(m, text + i, length);
        if (!text_append(out, other ? other : text + i, other ? strlen(other) : length, st))
            return false;
        i += length;
    }
    return true;
}

/* Marks that Unicode took in after version 14, which an older libunistring does not know yet. (Those above U+FFFF make no difference:
 * nothing of one byte is in a map.) */
static bool late_mark(ucs4_t c)
{
    return c == 0x897 || c == 0xcf3 || c == 0xece || (c >= 0x1acf && c <= 0x1add) || (c >= 0x1ae0 && c <= 0x1aeb);
}

static bool ends_alone(ucs4_t c)
{
    int property = uc_graphemeclusterbreak_property(c);
    return property == GBP_CR || property == GBP_LF || property == GBP_CONTROL;
}

static const uint8_t *cluster_end(const uint8_t *at, const uint8_t *end)
{
    ucs4_t first, c;
    const uint8_t *next = u8_grapheme_next(at, end);
    u8_mbtouc(&first, at, (size_t)(end - at));
    while (next && next < end && u8_mbtouc(&c, next, (size_t)(end - next)) == 3 && late_mark(c) && !ends_alone(first))
        next = u8_grapheme_next(next, end);
    return next && next > at ? next : end;
}

bool charsmap_apply(const charsmap *m, const char *text, size_t bytes, text_buffer *out, status *st)
{
    if (m->units == 0)
        return text_append(out, text, bytes, st);
    const uint8_t *at = (const uint8_t *)text, *end = at + bytes;
    while (at < end) {
        const uint8_t *next = cluster_end(at, end);
        if (!append_cluster(m, (const char *)at, (size_t)(next - at), out, st))
            return false;
        at = next;
    }
    return true;
}
