#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <unicase.h>
#include <uninorm.h>
#include <unictype.h>
#include <unistr.h>

#include "base/mem.h"

typedef struct range {
    uint32_t first, last;
} range;

/* Letters and numbers of Unicode 15 to 17 */
static const range new_letters[] = {
    {0x1c89, 0x1c8a}, {0xa7cb, 0xa7cd}, {0xa7da, 0xa7dc}, {0x105c0, 0x105f3}, {0x10d4a, 0x10d65}, {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4},
    {0x1123f, 0x11240}, {0x11380, 0x11389}, {0x1138b, 0x1138b}, {0x1138e, 0x1138e}, {0x11390, 0x113b5}, {0x113b7, 0x113b7}, {0x113d1, 0x113d1},
    {0x113d3, 0x113d3}, {0x11bc0, 0x11be0}, {0x11f02, 0x11f02}, {0x11f04, 0x11f10}, {0x11f12, 0x11f33}, {0x1342f, 0x1342f}, {0x13441, 0x13446},
    {0x13460, 0x143fa}, {0x16100, 0x1611d}, {0x16d40, 0x16d6c}, {0x18cff, 0x18cff}, {0x1b132, 0x1b132}, {0x1b155, 0x1b155}, {0x1df25, 0x1df2a},
    {0x1e030, 0x1e06d}, {0x1e4d0, 0x1e4eb}, {0x1e5d0, 0x1e5ed}, {0x1e5f0, 0x1e5f0}, {0x2b739, 0x2b739}, {0x2ebf0, 0x2ee5d}, {0x31350, 0x323af}};
static const range new_numbers[] = {
    {0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9}, {0x11f50, 0x11f59}, {0x16130, 0x16139}, {0x16d70, 0x16d79}, {0x1ccf0, 0x1ccf9},
    {0x1d2c0, 0x1d2d3}, {0x1e4f0, 0x1e4f9}, {0x1e5f1, 0x1e5fa}};
static const struct { range from; uint32_t to; } new_pairs[] = {
    {{0x1c89, 0x1c89}, 0x1c8a}, {{0xa7cb, 0xa7cb}, 0x264}, {{0xa7cc, 0xa7cc}, 0xa7cd}, {{0xa7ce, 0xa7ce}, 0xa7cf}, {{0xa7d2, 0xa7d2}, 0xa7d3},
    {{0xa7d4, 0xa7d4}, 0xa7d5}, {{0xa7da, 0xa7da}, 0xa7db}, {{0xa7dc, 0xa7dc}, 0x19b}, {{0x10d50, 0x10d65}, 0x10d70}, {{0x16ea0, 0x16eb8}, 0x16ebb}};

static bool within(const range *r, size_t n, uint32_t c)
{
    size_t low = 0;
    while (low < n) {
        size_t middle = (low + n) / 2;
        if (c > r[middle].last)
            low = middle + 1;
        else if (c < r[middle].first)
            n = middle;
        else
            return true;
    }
    return false;
}

bool unicode_letter(uint32_t c)
{
    return uc_is_general_category_withtable(c, UC_CATEGORY_MASK_L) || within(new_letters, sizeof new_letters / sizeof *new_letters, c);
}

bool unicode_number(uint32_t c)
{
    return uc_is_general_category_withtable(c, UC_CATEGORY_MASK_N) || within(new_numbers, sizeof new_numbers / sizeof *new_numbers, c);
}

bool unicode_space(uint32_t c) { return uc_is_property_white_space(c); }

/* U+0130 has two, of which this is the first. */
static uint32_t lower_of(uint32_t c)
{
    if (c == 0x130)
        return 'i';
    for (size_t i = 0; c >= new_pairs[0].from.first && i < sizeof new_pairs / sizeof *new_pairs; i++)
        if (c >= new_pairs[i].from.first && c <= new_pairs[i].from.last)
            return new_pairs[i].to + (c - new_pairs[i].from.first);
    return uc_tolower(c);
}

/* Combining marks of Unicode 10 to 14, and what composes there: the tokenizers library normalizes by the tables of Unicode 9, where these are like
 * letters that nothing combines with. */
static const range young_marks[] = {
    {0x7fd, 0x7fd}, {0x898, 0x89f}, {0x8ca, 0x8d3}, {0x9fe, 0x9fe}, {0xc3c, 0xc3c}, {0xd3b, 0xd3c}, {0xeba, 0xeba}, {0x1715, 0x1715},
    {0x1abf, 0x1ace}, {0x1df6, 0x1dfa}, {0xa82c, 0xa82c}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
    {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
    {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x16ff0, 0x16ff1}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}};

static bool normalize_stretch(uninorm_t form, const char *text, size_t bytes, text_buffer *out, status *st)
{
    bool plain = true;
    for (size_t i = 0; plain && i < bytes; i++)
        plain = (uint8_t)text[i] < 0x80;
    if (plain)
        return text_append(out, text, bytes, st);
    size_t room = 0;
    uint8_t *result = u8_normalize(form, (const uint8_t *)text, bytes, NULL, &room);
    if (!result)
        return status_set(st, STATUS_FAILED, "out of memory: %zu bytes for a text", bytes);
    bool ok = text_append(out, (const char *)result, room, st);
    free(result);
    return ok;
}

static bool normalize(uninorm_t form, const char *text, size_t bytes, text_buffer *out, status *st)
{
    size_t done = 0;
    for (size_t at = 0, n; at < bytes; at += n) {
        ucs4_t c;
        n = (size_t)u8_mbtouc(&c, (const uint8_t *)text + at, bytes - at);
        if (c < young_marks[0].first || !within(young_marks, sizeof young_marks / sizeof *young_marks, c))
            continue;
        if (!normalize_stretch(form, text + done, at - done, out, st) || !text_append(out, text + at, n, st))
            return false;
        done = at + n;
    }
    return normalize_stretch(form, text + done, bytes - done, out, st);
}

bool unicode_compose(const char *text, size_t bytes, text_buffer *out, status *st) { return normalize(UNINORM_NFC, text, bytes, out, st); }

bool unicode_decompose(const char *text, size_t bytes, text_buffer *out, status *st) { return normalize(UNINORM_NFD, text, bytes, out, st); }

bool unicode_append_lower(const char *text, size_t bytes, text_buffer *out, status *st)
{
    for (size_t at = 0; at < bytes;) {
        ucs4_t c;
        uint8_t buffer[8];
        at += (size_t)u8_mbtouc(&c, (const uint8_t *)text + at, bytes - at);
        int n = u8_uctomb(buffer, lower_of(c), sizeof buffer);
        if (c == 0x130) { /* and the dot above */
            memcpy(buffer + n, "\xcc\x87", 2);
            n += 2;
        }
        if (!text_append(out, (const char *)buffer, (size_t)n, st))
            return false;
    }
    return true;
}
