/* test_gguf.c: GGUF files whose headers lie. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/import_bytes.h"

static size_t gguf_text(uint8_t *p, const char *text)
{
    little(p, strlen(text), 8);
    memcpy(p + 8, text, strlen(text));
    return 8 + strlen(text);
}

static size_t gguf_start(uint8_t *p, uint64_t version, uint64_t tensors, uint64_t keys)
{
    memcpy(p, "GGUF", 4);
    little(p + 4, version, 4);
    little(p + 8, tensors, 8);
    little(p + 16, keys, 8);
    return 24;
}

static size_t gguf_tensor(uint8_t *p, const char *name, uint64_t dims, const uint64_t *shape, uint64_t type, uint64_t offset)
{
    size_t n = gguf_text(p, name);
    n += little(p + n, dims, 4);
    for (uint64_t i = 0; i < dims && i < 8; i++)
        n += little(p + n, shape[i], 8);
    n += little(p + n, type, 4);
    return n + little(p + n, offset, 8);
}

static void refused_tensor(uint64_t dims, const uint64_t *shape, uint64_t type, uint64_t offset, const char *word)
{
    uint8_t out[1024] = {0};
    size_t n = gguf_start(out, 3, 1, 0);
    n += gguf_tensor(out + n, "w", dims, shape, type, offset);
    n = (n + 31) / 32 * 32 + 256;
    status st = STATUS_INIT;
    tensor_table *t = table_of_bytes(out, n, &st);
    cr_expect_eq(t == NULL, *word != 0, "%s: %s", word, st.text);
    cr_expect(!*word || (st.code == STATUS_BAD_FILE && strstr(st.text, word)), "'%s' lacks '%s'", st.text, word);
    table_free(t);
}

Test(gguf, tensors_that_lie)
{
    const uint64_t huge = UINT64_MAX, half = (uint64_t)1 << 33;
    refused_tensor(1, (uint64_t[]){64}, 0, 0, "");
    refused_tensor(0, (uint64_t[]){0}, 0, 0, "");
    refused_tensor(2, (uint64_t[]){32, 2}, 8, 0, "");
    refused_tensor(1, (uint64_t[]){65}, 0, 0, "truncated?");
    refused_tensor(1, (uint64_t[]){8}, 0, 256, "truncated?");
    refused_tensor(1, (uint64_t[]){8}, 0, huge - 31, "truncated?");
    refused_tensor(1, (uint64_t[]){8}, 0, 4, "no multiple of 32");
    refused_tensor(5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0, "more than 4 dimensions");
    refused_tensor(2, (uint64_t[]){half, half}, 0, 0, "more bytes than can be counted");
    refused_tensor(1, (uint64_t[]){huge}, 0, 0, "more bytes than can be counted");
    refused_tensor(2, (uint64_t[]){(uint64_t)1 << 62, 32}, 2, 0, "more bytes than can be counted");
    refused_tensor(2, (uint64_t[]){33, 2}, 8, 0, "no whole blocks of Q8_0");
    refused_tensor(2, (uint64_t[]){32, 2}, 12, 0, "no whole blocks of Q4_K");
    refused_tensor(1, (uint64_t[]){8}, 4, 0, "type 4");
    refused_tensor(1, (uint64_t[]){8}, 16, 0, "type 16");
    refused_tensor(1, (uint64_t[]){8}, 0xffffffff, 0, "type 4294967295");
}

Test(gguf, headers_that_lie)
{
    uint8_t b[1024] = {0};
    size_t n;
    table_refused(b, gguf_start(b, 1, 0, 0), "version 1");
    table_refused(b, gguf_start(b, 4, 0, 0), "version 4");
    table_refused(b, gguf_start(b, 0x03000000, 0, 0), "big-endian");
    table_refused(b, gguf_start(b, 3, UINT64_MAX, 0), "more entries than the file");
    table_refused(b, gguf_start(b, 3, 0, UINT64_MAX), "more entries than the file");
    n = gguf_start(b, 3, 0, 1);
    n += gguf_text(b + n, "general.alignment");
    n += little(b + n, 4, 4);
    n += little(b + n, 12, 4);
    table_refused(b, n, "no power of two");
    little(b + n - 4, 0, 4);
    table_refused(b, n, "no power of two");
    little(b + n - 8, 77, 4);
    table_refused(b, n, "general.alignment is no u32");
    n = gguf_start(b, 3, 0, 1);
    n += gguf_text(b + n, "k");
    n += little(b + n, 9, 4);
    size_t kind = n;
    n += little(b + n, 6, 4);
    n += little(b + n, UINT64_MAX / 2, 8);
    table_refused(b, n, "array is too long");
    little(b + kind + 4, 1000, 8);
    table_refused(b, n, "file ends before");
    little(b + kind, 8, 4);
    little(b + kind + 4, UINT64_MAX, 8);
    table_refused(b, n, "file ends before");
    little(b + kind, 9, 4);
    table_refused(b, n, "unknown kind");
    n = gguf_start(b, 3, 2, 0); /* two tensors on the same bytes, and two of the same name */
    n += gguf_tensor(b + n, "a", 1, (uint64_t[]){16}, 0, 0);
    size_t second = n;
    n += gguf_tensor(b + n, "b", 1, (uint64_t[]){8}, 0, 32);
    table_refused(b, (n + 31) / 32 * 32 + 64, "tensors a and b overlap");
    gguf_tensor(b + second, "a", 1, (uint64_t[]){8}, 0, 64);
    table_refused(b, (n + 31) / 32 * 32 + 96, "holds tensor a twice");
    n = gguf_start(b, 3, 1, 1); /* an original shape of another size */
    n += gguf_text(b + n, "comfy.gguf.orig_shape.w");
    n += little(b + n, 9, 4);
    n += little(b + n, 5, 4);
    n += little(b + n, 2, 8);
    n += little(b + n, 3, 4);
    n += little(b + n, 3, 4);
    n += gguf_tensor(b + n, "w", 1, (uint64_t[]){8}, 0, 0);
    table_refused(b, (n + 31) / 32 * 32 + 32, "another number of elements");
}
