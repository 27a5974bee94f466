#include "import/scan.h"

#include <string.h>

enum { DEPTH = 32 };

static bool fail(scan *s, const char *why)
{
    if (!s->why)
        s->why = why;
    return false;
}

static void blanks(scan *s)
{
    while (s->at < s->length && memchr(" \t\r\n", s->text[s->at], 4))
        s->at++;
}

bool scan_next_is(scan *s, char c)
{
    blanks(s);
    if (s->why || s->at >= s->length || s->text[s->at] != c)
        return false;
    s->at++;
    return true;
}

bool scan_skip(scan *s, char c)
{
    static const char *const wanted[] = {"{", "'{' expected", "}", "'}' expected", "[", "'[' expected", "]", "']' expected",
                                         ":", "':' expected", ",", "',' expected"};
    if (scan_next_is(s, c))
        return true;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i += 2)
        if (wanted[i][0] == c)
            return fail(s, wanted[i + 1]);
    return fail(s, "another character expected");
}

bool scan_end(scan *s)
{
    blanks(s);
    return s->why ? false : s->at == s->length ? true : fail(s, "more text behind the end");
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool four_hex(scan *s, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        int digit = s->at < s->length ? hex(s->text[s->at]) : -1;
        if (digit < 0)
            return fail(s, "four hexadecimal digits expected");
        *out = *out << 4 | (uint32_t)digit;
    }
    return true;
}

static char *put_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        *to++ = (char)c;
        return to;
    }
    if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
    } else {
        if (c < 0x10000) {
            *to++ = (char)(0xe0 | c >> 12);
        } else {
            *to++ = (char)(0xf0 | c >> 18);
            *to++ = (char)(0x80 | (c >> 12 & 0x3f));
        }
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    }
    *to++ = (char)(0x80 | (c & 0x3f));
    return to;
}

/* Behind a \u; a code point above 0xffff is two of them. */
static bool unicode_escape(scan *s, char **to)
{
    uint32_t c, low;
    if (!four_hex(s, &c))
        return false;
    if (c >= 0xd800 && c < 0xdc00) {
        if (s->length - s->at < 2 || s->text[s->at] != '\\' || s->text[s->at + 1] != 'u')
            return fail(s, "half a surrogate pair");
        s->at += 2;
        if (!four_hex(s, &low))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return fail(s, "half a surrogate pair");
        c = 0x10000 + ((c - 0xd800) << 10 | (low - 0xdc00));
    } else if (c >= 0xdc00 && c < 0xe000) {
        return fail(s, "half a surrogate pair");
    }
    if (c == 0)
        return fail(s, "a string holds a zero byte");
    *to = put_utf8(*to, c); /* at most 4 bytes in place of 6 or 12 */
    return true;
}

static bool escape(scan *s, char **to)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    if (s->at >= s->length)
        return fail(s, "a string does not end");
    char c = s->text[s->at++];
    if (c == 'u')
        return unicode_escape(s, to);
    const char *p = c ? strchr(from, c) : NULL;
    if (!p)
        return fail(s, "no such escape");
    *(*to)++ = into[p - from];
    return true;
}

char *scan_string(scan *s)
{
    if (!scan_next_is(s, '"')) {
        fail(s, "a string expected");
        return NULL;
    }
    char *start = s->text + s->at, *to = start;
    while (s->at < s->length) {
        char c = s->text[s->at++];
        if (c == '"') {
            *to = 0; /* at most where the closing quote stood */
            return start;
        }
        if ((unsigned char)c < 0x20) {
            fail(s, "a control character in a string");
            return NULL;
        }
        if (c != '\\')
            *to++ = c;
        else if (!escape(s, &to))
            return NULL;
    }
    fail(s, "a string does not end");
    return NULL;
}

static bool digits(scan *s)
{
    size_t start = s->at;
    while (s->at < s->length && s->text[s->at] >= '0' && s->text[s->at] <= '9')
        s->at++;
    return s->at > start;
}

bool scan_uint(scan *s, uint64_t *n)
{
    blanks(s);
    size_t start = s->at;
    *n = 0;
    if (s->why)
        return false;
    if (s->at < s->length && s->text[s->at] == '-')
        return fail(s, "a negative number");
    if (!digits(s))
        return fail(s, "a number expected");
    if (s->text[start] == '0' && s->at > start + 1)
        return fail(s, "a number with a leading zero");
    if (s->at < s->length && memchr(".eE", s->text[s->at], 3))
        return fail(s, "an integer expected");
    for (size_t i = start; i < s->at; i++)
        if (__builtin_mul_overflow(*n, (uint64_t)10, n) || __builtin_add_overflow(*n, (uint64_t)(s->text[i] - '0'), n))
            return fail(s, "a number too large");
    return true;
}

static bool number(scan *s)
{
    if (s->text[s->at] == '-')
        s->at++;
    size_t start = s->at;
    if (!digits(s) || (s->text[start] == '0' && s->at > start + 1))
        return fail(s, "a value expected");
    if (s->at < s->length && s->text[s->at] == '.') {
        s->at++;
        if (!digits(s))
            return fail(s, "digits expected");
    }
    if (s->at < s->length && (s->text[s->at] | 0x20) == 'e') {
        s->at++;
        if (s->at < s->length && memchr("+-", s->text[s->at], 2))
            s->at++;
        if (!digits(s))
            return fail(s, "digits expected");
    }
    return true;
}

static bool word(scan *s, const char *text)
{
    size_t n = strlen(text);
    if (s->length - s->at < n || memcmp(s->text + s->at, text, n) != 0)
        return false;
    s->at += n;
    return true;
}

static bool value(scan *s, int depth);

static bool members(scan *s, char close, int depth)
{
    if (scan_next_is(s, close))
        return true;
    do {
        if (close == '}' && (!scan_string(s) || !scan_skip(s, ':')))
            return false;
        if (!value(s, depth + 1))
            return false;
    } while (scan_next_is(s, ','));
    return scan_skip(s, close);
}

static bool value(scan *s, int depth)
{
    if (depth > DEPTH)
        return fail(s, "nested too deeply");
    blanks(s);
    if (s->why || s->at >= s->length)
        return fail(s, "a value expected");
    switch (s->text[s->at]) {
    case '{': s->at++; return members(s, '}', depth);
    case '[': s->at++; return members(s, ']', depth);
    case '"': return scan_string(s) != NULL;
    case 't': return word(s, "true") || fail(s, "a value expected");
    case 'f': return word(s, "false") || fail(s, "a value expected");
    case 'n': return word(s, "null") || fail(s, "a value expected");
    default: return number(s);
    }
}

bool scan_value(scan *s) { return value(s, 0); }
