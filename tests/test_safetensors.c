/* test_safetensors.c: safetensors files, sound ones and every other kind. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "import/safetensors.h"
#include "tests/support.h"

/* Eight bytes of length, the header, `data` bytes; returns the whole size. */
static size_t build(uint8_t out[8192], const char *header, size_t header_bytes, size_t data)
{
    uint64_t n = header_bytes;
    cr_assert_leq(8 + header_bytes + data, 8192);
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(n >> 8 * i);
    memcpy(out + 8, header, header_bytes);
    for (size_t i = 0; i < data; i++)
        out[8 + header_bytes + i] = (uint8_t)(i * 7 + 1);
    return 8 + header_bytes + data;
}

/* ---- files in memory ---- */

static safetensors *read_block(const uint8_t *bytes, size_t count, status *st)
{
    file_bytes b = {(char *)(uintptr_t)bytes, count};
    io *f = io_of_bytes(&b, count, "file.safetensors");
    safetensors *t = safetensors_read(f, st);
    io_close(f);
    return t;
}

static safetensors *read_header(const char *header, size_t data, status *st)
{
    uint8_t bytes[8192];
    return read_block(bytes, build(bytes, header, strlen(header), data), st);
}

#define TENSOR(type, shape, offsets) "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(type, shape, offsets) "{\"w\":" TENSOR(type, shape, offsets) "}"

Test(safetensors, sound_ones)
{
    static const struct { const char *header; size_t data; int tensors; } cases[] = {
        {"{}", 0, 0},
        {"{}      ", 0, 0},
        {"{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        {ONE("F32", "[2,3]", "[0,24]"), 24, 1},
        {ONE("F32", "[]", "[0,4]"), 4, 1},
        {ONE("F64", "[1,1,1,1,1,1]", "[0,8]"), 8, 1},
        {ONE("I8", "[0,7]", "[0,0]"), 0, 1},
        {"{\"b\":" TENSOR("F16", "[3]", "[4,10]") ",\"a\":" TENSOR("U8", "[4]", "[0,4]") "}", 10, 2},
        {"{\"a\":" TENSOR("U8", "[0]", "[2,2]") ",\"b\":" TENSOR("BOOL", "[2]", "[0,2]") ",\"c\":" TENSOR("I16", "[1]", "[2,4]") "}", 4, 3},
        {"{\"w\":{\"data_offsets\":[0,1],\"later\":{\"x\":[1,\"}\"]},\"shape\":[1],\"dtype\":\"F8_E4M3\"}}", 1, 1},
        {"{ \"w\" : { \"dtype\" : \"BF16\" , \"shape\" : [ 1 , 2 ] , \"data_offsets\" : [ 0 , 4 ] } } ", 4, 1},
        {"{\"a\\u0062\\\"\":" TENSOR("I64", "[1]", "[0,8]") ",\"__metadata__\":{\"a\":\"b\",\"c\":\"\\n\"}}", 8, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        safetensors *t = read_header(cases[i].header, cases[i].data, &st);
        cr_expect(t, "%s: %s", cases[i].header, st.text);
        if (t)
            cr_expect_eq(t->tensors, cases[i].tensors);
        safetensors_free(t);
    }
    cr_expect_eq(mem_in_use(), 0);
}

Test(safetensors, what_a_table_says)
{
    status st = STATUS_INIT;
    static const char header[] = "{\"b\":" TENSOR("F16", "[3,2]", "[8,20]") ",\"a\\\"x\":" TENSOR("I64", "[]", "[0,8]") "}";
    safetensors *t = read_header(header, 20, &st);
    cr_assert(t, "%s", st.text);
    const safetensor *a = safetensors_find(t, "a\"x"), *b = safetensors_find(t, "b");
    cr_assert(a == t->tensor && b == t->tensor + 1 && !safetensors_find(t, "") && !safetensors_find(t, "c"));
    cr_expect(a->type == TYPE_I64 && a->dims == 0 && a->offset == 8 + sizeof header - 1 && a->bytes == 8);
    cr_expect(b->type == TYPE_F16 && b->dims == 2 && b->shape[0] == 3 && b->shape[1] == 2 && b->offset == a->offset + 8 && b->bytes == 12);
    cr_expect_neq(t->hash, 0);
    safetensors_free(t);
}

Test(safetensors, malformed_ones)
{
    static const struct { const char *header; size_t data; const char *word; } cases[] = {
        {" {}", 0, "does not begin with '{'"},
        {"[]", 0, "does not begin with '{'"},
        {"{}x", 0, "more text"},
        {"{} {}", 0, "more text"},
        {"{ ", 0, "malformed"},
        {"{\"w\"}", 0, "':' expected"},
        {"{\"w\":}", 0, "'{' expected"},
        {"{\"w\":1}", 0, "'{' expected"},
        {"{\"w\":null}", 0, "'{' expected"},
        {"{w:{}}", 0, "a string expected"},
        {"{\"w\":{},}", 0, "w: has no dtype"},
        {"{/* */}", 0, "a string expected"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "has no data_offsets"},
        {"{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "has no shape"},
        {"{\"w\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "has no dtype"},
        {"{\"w\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "has dtype twice"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "has shape twice"},
        {"{\"w\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "a string expected"},
        {ONE("F32", "1", "[0,4]"), 4, "'[' expected"},
        {ONE("F32", "[1 2]", "[0,4]"), 4, "']' expected"},
        {ONE("F32", "[1,]", "[0,4]"), 4, "a number expected"},
        {ONE("F32", "[-1]", "[0,4]"), 4, "w: the header is malformed at byte 29: a negative number"},
        {ONE("F32", "[1.0]", "[0,4]"), 4, "an integer expected"},
        {ONE("F32", "[1e0]", "[0,4]"), 4, "an integer expected"},
        {ONE("F32", "[01]", "[0,4]"), 4, "leading zero"},
        {ONE("F32", "[\"1\"]", "[0,4]"), 4, "a number expected"},
        {ONE("F32", "[18446744073709551616]", "[0,4]"), 4, "too large"},
        {ONE("F32", "[9223372036854775808]", "[0,4]"), 4, "dimension 0 is too large"},
        {ONE("F32", "[4611686018427387904]", "[0,0]"), 0, "more bytes than can be counted"},
        {ONE("I8", "[4294967296,4294967296]", "[0,0]"), 0, "more bytes than can be counted"},
        {ONE("I8", "[9223372036854775807]", "[0,9223372036854775807]"), 10, "the file has 10 bytes"},
        {ONE("F32", "[1,1,1,1,1,1,1]", "[0,4]"), 4, "w: has more than 6 dimensions"},
        {ONE("F32", "[1]", "[0]"), 4, "',' expected"},
        {ONE("F32", "[1]", "[0,4,8]"), 4, "']' expected"},
        {ONE("F32", "[1]", "[0,-4]"), 4, "a negative number"},
        {ONE("F32", "[1]", "[4,0]"), 4, "begins at 4 and ends before, at 0"},
        {ONE("F32", "[1]", "[0,5]"), 5, "its shape makes 4 bytes, its offsets 5"},
        {ONE("F32", "[1]", "[0,3]"), 4, "its shape makes 4 bytes, its offsets 3"},
        {ONE("F32", "[0]", "[0,4]"), 4, "its shape makes 0 bytes, its offsets 4"},
        {ONE("F32", "[1]", "[0,4]"), 3, "ends at 4, the file has 3 bytes"},
        {ONE("F32", "[1]", "[1,5]"), 5, "begins at 1 of the data, the one before it ends at 0"},
        {ONE("F32", "[1]", "[0,4]"), 5, "has 5 bytes of data, its tensors end at 4"},
        {"{}", 1, "has 1 bytes of data, its tensors end at 0"},
        {"{\"a\":" TENSOR("U8", "[4]", "[0,4]") ",\"b\":" TENSOR("U8", "[4]", "[3,7]") "}", 7, "tensor b: begins at 3 of the data, the one before it ends at 4"},
        {"{\"a\":" TENSOR("U8", "[4]", "[0,4]") ",\"b\":" TENSOR("U8", "[4]", "[5,9]") "}", 9, "tensor b: begins at 5"},
        {"{\"a\":" TENSOR("U8", "[4]", "[0,4]") ",\"b\":" TENSOR("U8", "[4]", "[0,4]") "}", 4, "begins at 0 of the data, the one before it ends at 4"},
        {"{\"a\":" TENSOR("U8", "[1]", "[0,1]") ",\"a\":" TENSOR("U8", "[1]", "[1,2]") "}", 2, "tensor a twice"},
        {"{\"a\":" TENSOR("U8", "[1]", "[0,1]") ",\"\\u0061\":" TENSOR("U8", "[1]", "[1,2]") "}", 2, "tensor a twice"},
        {ONE("F8_E5M2", "[1]", "[0,1]"), 1, "tensor w: its type F8_E5M2 is not supported"},
        {ONE("U64", "[1]", "[0,8]"), 8, "U64"},
        {ONE("q4", "[1]", "[0,8]"), 8, "q4"},
        {ONE("f32", "[1]", "[0,4]"), 4, "f32"},
        {ONE("", "[1]", "[0,4]"), 4, "w: its type  is not"},
        {"{\"__metadata__\":[]}", 0, "'{' expected"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "a string expected"},
        {"{\"__metadata__\":{\"a\"}}", 0, "':' expected"},
        {"{\"__metadata__\":{\"a\":\"b\"", 0, "'}' expected"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ twice"},
        {"{\"w\\u0000\":" TENSOR("U8", "[1]", "[0,1]") "}", 1, "zero byte"},
        {"{\"w\xff\":" TENSOR("U8", "[1]", "[0,1]") "}", 1, "not UTF-8 at byte 3"},
        {"{\"w\x01\":" TENSOR("U8", "[1]", "[0,1]") "}", 1, "control character"},
        {"{\"\\ud800\":" TENSOR("U8", "[1]", "[0,1]") "}", 1, "surrogate"},
        {"{\"w\":{\"x\":" "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]" "}}", 0, "nested too deeply"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        safetensors *t = read_header(cases[i].header, cases[i].data, &st);
        cr_expect_null(t, "%s", cases[i].header);
        safetensors_free(t);
        check_sentence(&st, cases[i].word);
        check_sentence(&st, "file.safetensors");
    }
    cr_expect_eq(mem_in_use(), 0);
}

Test(safetensors, lengths_of_headers)
{
    static const struct { uint8_t length[8]; size_t behind; const char *word; } cases[] = {
        {{0}, 0, "a header of 0 bytes"},
        {{1}, 10, "a header of 1 bytes"},
        {{2}, 0, "truncated: a header of 2 bytes, the file has 8"},
        {{2}, 1, "truncated"},
        {{100}, 50, "truncated: a header of 100 bytes, the file has 58"},
        {{0x01, 0xe1, 0xf5, 0x05}, 50, "a header of 100000001 bytes"},
        {{0x00, 0xe1, 0xf5, 0x05}, 50, "truncated: a header of 100000000 bytes"},
        {{255, 255, 255, 255, 255, 255, 255, 255}, 50, "a header of 18446744073709551615 bytes"},
        {{0, 0, 0, 0, 0, 0, 0, 128}, 50, "a header of 9223372036854775808 bytes"},
    };
    uint8_t bytes[128] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        memcpy(bytes, cases[i].length, 8);
        cr_expect_null(read_block(bytes, 8 + cases[i].behind, &st));
        check_sentence(&st, cases[i].word);
    }
    for (size_t n = 0; n < 8; n++) {
        status st = STATUS_INIT;
        cr_expect_null(read_block(bytes, n, &st));
        check_sentence(&st, "has only");
    }
}

/* A file with a bit of everything: cut off anywhere it is refused, a changed byte never does harm. */
static size_t rich_file(uint8_t bytes[8192])
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},\"a.weight\":" TENSOR("F32", "[4,3]", "[0,48]") ",\"a.bias\":" TENSOR("F16", "[4]", "[48,56]")
        ",\"conv.w\\u00e9ight\":" TENSOR("BF16", "[2,3,3,3]", "[56,164]") ",\"empty\":" TENSOR("I64", "[0]", "[56,56]") ",\"n\":" TENSOR("I64", "[]", "[164,172]") "}    ";
    return build(bytes, header, sizeof header - 1, 172);
}

Test(safetensors, cut_off_anywhere)
{
    uint8_t bytes[8192];
    size_t n = rich_file(bytes);
    status fine = STATUS_INIT;
    safetensors *t = read_block(bytes, n, &fine);
    cr_assert(t && t->tensors == 5, "%s", fine.text);
    safetensors_free(t);
    for (size_t cut = 0; cut < n; cut++) { /* finer than every 1/64 of it */
        status st = STATUS_INIT;
        cr_expect_null(read_block(bytes, cut, &st), "%zu of %zu bytes", cut, n);
        check_sentence(&st, "file.safetensors");
    }
    cr_expect_eq(mem_in_use(), 0);
}

Test(safetensors, any_byte_changed)
{
    uint8_t bytes[8192];
    size_t n = rich_file(bytes), taken = 0;
    for (size_t i = 0; i < n - 172; i++)
        for (int change = 0; change < 6; change++) {
            static const uint8_t others[] = {0, '"', '{', '9', '\\', 0xff};
            uint8_t was = bytes[i];
            status st = STATUS_INIT;
            bytes[i] = others[change];
            safetensors *t = read_block(bytes, n, &st);
            taken += t != NULL;
            if (!t)
                check_sentence(&st, "file.safetensors");
            safetensors_free(t);
            bytes[i] = was;
        }
    cr_expect_gt(taken, 0);
    cr_expect_eq(mem_in_use(), 0);
}

Test(safetensors, a_disk_that_fails_is_told)
{
    uint8_t bytes[8192];
    size_t n = rich_file(bytes);
    status st = STATUS_INIT;
    file_bytes b = {(char *)bytes, 100};
    io *f = io_of_bytes(&b, n, "file.safetensors"); /* shorter than it was when it was opened */
    cr_expect_null(safetensors_read(f, &st));
    check_sentence(&st, "ends at offset 100");
    io_close(f);
}

Test(safetensors, many_tensors)
{
    enum { COUNT = 20000 };
    char *header = malloc(COUNT * 100), *p = header;
    p += sprintf(p, "{");
    for (int i = COUNT - 1; i >= 0; i--)
        p += sprintf(p, "%s\"t%d\":" TENSOR("U8", "[2]", "[%d,%d]"), i == COUNT - 1 ? "" : ",", i, 2 * i, 2 * i + 2);
    p += sprintf(p, "}");
    size_t length = (size_t)(p - header);
    uint8_t *bytes = calloc(1, 8 + length + 2 * COUNT);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(length >> 8 * i);
    memcpy(bytes + 8, header, length);
    status st = STATUS_INIT;
    safetensors *t = read_block(bytes, 8 + length + 2 * COUNT, &st);
    cr_assert(t && t->tensors == COUNT, "%s", st.text);
    for (int i = 0; i < COUNT; i += 99) {
        char name[16];
        sprintf(name, "t%d", i);
        const safetensor *one = safetensors_find(t, name);
        cr_assert(one && one->offset == 8 + length + 2 * (size_t)i);
    }
    safetensors_free(t);
    free(bytes);
    free(header);
}
