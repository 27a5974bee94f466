#include <string.h>
#include <unicase.h>
#include <unictype.h>
#include <unistr.h>

#include "base/mem.h"
#include "text/tokenizer.h"

/* Length of the longest beginning of a well-formed sequence at p, which is not one itself: that much becomes one U+FFFD. */
static size_t broken_length(const uint8_t *p, const uint8_t *end)
{
    uint8_t c = *p;
    int more = c >= 0xc2 && c <= 0xdf ? 1 : c >= 0xe0 && c <= 0xef ? 2 : c >= 0xf0 && c <= 0xf4 ? 3 : 0;
    uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    uint8_t high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    size_t n = 1;
    for (; more > 0 && p + n < end && p[n] >= low && p[n] <= high; more--, n++)
        low = 0x80, high = 0xbf;
    return n;
}

char *text_repair(const char *text, status *st)
{
    size_t bytes = strlen(text), broken = 0;
    const uint8_t *p = (const uint8_t *)text, *end = p + bytes;
    for (const uint8_t *bad; (bad = u8_check(p, (size_t)(end - p))); broken++)
        p = bad + broken_length(bad, end);
    char *out = mem_alloc(bytes + 2 * broken + 1, 1, "text", st), *to = out;
    if (!out)
        return NULL;
    p = (const uint8_t *)text;
    for (;;) {
        const uint8_t *bad = u8_check(p, (size_t)(end - p));
        size_t good = (size_t)((bad ? bad : end) - p);
        memcpy(to, p, good);
        to += good;
        if (!bad)
            return out;
        memcpy(to, "\xef\xbf\xbd", 3); /* at least one byte became three */
        to += 3;
        p = bad + broken_length(bad, end);
    }
}

/* Python's str.isspace: Unicode's white space, and the four separators of ASCII. */
static bool is_space(ucs4_t c) { return (c >= 0x1c && c <= 0x1f) || uc_is_property_white_space(c); }

/* [*text, *end) without white space at its ends. */
static void strip(const uint8_t **text, const uint8_t **end)
{
    ucs4_t c;
    const uint8_t *start = *text;
    for (int n; *text < *end && (n = u8_mbtouc(&c, *text, (size_t)(*end - *text))) > 0 && is_space(c);)
        *text += n;
    for (const uint8_t *p; *end > *text && (p = u8_prev(&c, *end, start)) && is_space(c);)
        *end = p;
}

static bool ignorable(ucs4_t c) { return c == '\'' || uc_is_property_case_ignorable(c); } /* libunistring 1.0 lacks the apostrophe */

/* A sigma ends a word when a cased letter stands before it and none behind, case-ignorable ones (accents, apostrophes) not counted.
 * libunistring's own u8_tolower sees it otherwise for letters that are both cased and ignorable. */
static bool final_sigma(const uint8_t *text, const uint8_t *at, const uint8_t *behind, const uint8_t *end)
{
    ucs4_t c = 0;
    const uint8_t *p = at;
    do
        p = u8_prev(&c, p, text);
    while (p && ignorable(c));
    if (!p || !uc_is_property_cased(c))
        return false;
    while (behind < end) {
        behind += u8_mbtouc(&c, behind, (size_t)(end - behind));
        if (!ignorable(c))
            return !uc_is_property_cased(c);
    }
    return true;
}

/* Unicode's full mapping: character by character but for the final sigma and U+0130, which becomes two. No language: Python has none. */
static uint8_t *lower(const char *text, size_t *bytes, status *st)
{
    enum { SIGMA = 0x3a3, SMALL_SIGMA = 0x3c3, FINAL_SIGMA = 0x3c2, I_DOT = 0x130 };
    const uint8_t *p = (const uint8_t *)text, *end = p + strlen(text);
    size_t room = 2 * (size_t)(end - p) + 8; /* no character of one byte grows, none of two to more than three */
    uint8_t *out = mem_alloc(room, 1, "text", st), *to = out;
    if (!out)
        return NULL;
    while (p < end) {
        ucs4_t c;
        const uint8_t *at = p;
        p += u8_mbtouc(&c, p, (size_t)(end - p));
        if (c == I_DOT) {
            memcpy(to, "i\xcc\x87", 3);
            to += 3;
            continue;
        }
        c = c != SIGMA ? uc_tolower(c) : final_sigma((const uint8_t *)text, at, p, end) ? FINAL_SIGMA : SMALL_SIGMA;
        to += u8_uctomb(to, c, (ptrdiff_t)(room - (size_t)(to - out)));
    }
    *bytes = (size_t)(to - out);
    return out;
}

char *text_lower_strip(const char *text, status *st)
{
    size_t bytes = 0;
    char *repaired = text_repair(text, st);
    uint8_t *lowered = repaired ? lower(repaired, &bytes, st) : NULL;
    char *out = NULL;
    if (lowered) {
        const uint8_t *from = lowered, *end = lowered + bytes;
        strip(&from, &end);
        out = mem_alloc((size_t)(end - from) + 1, 1, "text", st);
        if (out)
            memcpy(out, from, (size_t)(end - from));
    }
    mem_free(lowered);
    mem_free(repaired);
    return out;
}
