/* What T5Tokenizer takes from a tokenizer.json of the tokenizers library: model.vocab, [["piece", score], ...], and the normalizer's
 * precompiled_charsmap in base 64. The pre-tokenizer, the template and unk_id that stand there too are fixed by the class. It is written down
 * here as the protocol buffer that spm_model.c reads, so that there is one way from a model to ids. */
#include "text/spm_from_json.h"

#include <string.h>

#include "base/mem.h"
#include "text/charsmap.h"

static bool put_varint(text_buffer *b, uint64_t value, status *st)
{
    char out[10];
    size_t n = 0;
    for (; value > 0x7f; value >>= 7)
        out[n++] = (char)(value | 0x80);
    out[n++] = (char)value;
    return text_append(b, out, n, st);
}

/* A field that holds bytes: its number and their length; the bytes are to follow. */
static bool put_head(text_buffer *b, unsigned number, size_t bytes, status *st)
{
    return put_varint(b, number << 3 | 2, st) && put_varint(b, bytes, st);
}

static size_t varint_bytes(uint64_t value)
{
    size_t n = 1;
    for (; value > 0x7f; value >>= 7)
        n++;
    return n;
}

static bool put_piece(text_buffer *b, const json *piece, size_t at, const char *name, status *st)
{
    json *pair = (json *)(uintptr_t)piece;
    json *text = json_object_is_type(pair, json_type_array) && json_object_array_length(pair) == 2 ? json_object_array_get_idx(pair, 0) : NULL;
    json *score = text ? json_object_array_get_idx(pair, 1) : NULL;
    if (!text || !json_object_is_type(text, json_type_string) || !(json_object_is_type(score, json_type_double) || json_object_is_type(score, json_type_int)))
        return status_set(st, STATUS_BAD_FILE, "%s: entry %zu of model.vocab is not [piece, score]", name, at);
    size_t bytes = (size_t)json_object_get_string_len(text);
    float value = (float)json_object_get_double(score);
    char packed[5] = {2 << 3 | 5}; /* field 2, 32 bits */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    for (int i = 0; i < 4; i++)
        packed[1 + i] = (char)(bits >> 8 * i);
    return put_head(b, 1, 1 + varint_bytes(bytes) + bytes + sizeof packed, st) && put_head(b, 1, bytes, st) &&
           text_append(b, json_object_get_string(text), bytes, st) && text_append(b, packed, sizeof packed, st);
}

static int base64_value(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = c ? strchr(digits, c) : NULL;
    return p ? (int)(p - digits) : -1;
}

static bool put_base64(text_buffer *b, const char *text, size_t length, const char *name, status *st)
{
    while (length > 0 && text[length - 1] == '=')
        length--;
    size_t bytes = length / 4 * 3 + (length % 4 > 1 ? length % 4 - 1 : 0);
    if (!put_head(b, 3, bytes ? 1 + varint_bytes(bytes) + bytes : 0, st) || (bytes && !put_head(b, 2, bytes, st)))
        return false;
    uint32_t word = 0;
    for (size_t i = 0; i < length; i++) {
        int v = base64_value(text[i]);
        if (v < 0 || (length % 4 == 1))
            return status_set(st, STATUS_BAD_FILE, "%s: precompiled_charsmap is not base 64 (character %zu)", name, i);
        word = word << 6 | (uint32_t)v;
        if (i % 4 != 0) {
            char byte = (char)(word >> (6 - 2 * (i % 4)));
            if (!text_append(b, &byte, 1, st))
                return false;
        }
    }
    return true;
}

/* The normalizer is Precompiled, or none; a Sequence (older files) has one among its members. */
static bool put_normalizer(text_buffer *b, const json *normalizer, const char *name, status *st)
{
    const json *list = json_member(normalizer, "normalizers");
    for (size_t i = 0; list && json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        const json *one = json_object_array_get_idx(list, i);
        if (strcmp(json_text(one, "type", "", name, st), "Precompiled") == 0)
            normalizer = one;
    }
    const char *text = json_text(normalizer, "precompiled_charsmap", "", name, st);
    return status_ok(st) && put_base64(b, text, strlen(text), name, st);
}

char *spm_from_json(const json *tokenizer, const char *name, size_t *bytes, status *st)
{
    const json *model = json_member(tokenizer, "model"), *vocab = json_member(model, "vocab");
    const char *type = json_text(model, "type", "", name, st);
    if (!status_ok(st))
        return NULL;
    if (strcmp(type, "Unigram") != 0 || !vocab || !json_object_is_type(vocab, json_type_array)) {
        status_set(st, STATUS_BAD_FILE, "%s: model.type is \"%s\", T5's is Unigram, with a list as its vocab", name, type);
        return NULL;
    }
    text_buffer b = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < json_object_array_length(vocab); i++)
        ok = put_piece(&b, json_object_array_get_idx(vocab, i), i, name, st);
    if (!ok || !put_normalizer(&b, json_member(tokenizer, "normalizer"), name, st)) {
        mem_free(b.text);
        return NULL;
    }
    *bytes = b.used;
    return b.text;
}
