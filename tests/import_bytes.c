#include "tests/import_bytes.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support.h"

tensor_table *table_of_bytes(const void *bytes, size_t count, status *st)
{
    file_bytes b = {malloc(count + 1), count}; /* memory of its own, so that a sanitizer sees every byte too far */
    memcpy(b.data, bytes, count);
    io *f = io_of_bytes(&b, count, "file");
    tensor_table *t = table_read(f, st);
    for (int i = 0; t && i < t->tensors; i++)
        cr_assert(t->tensor[i].offset <= count && t->tensor[i].bytes <= count - t->tensor[i].offset, "%s", t->tensor[i].name);
    io_close(f);
    free(b.data);
    return t;
}

void table_refused(const void *bytes, size_t count, const char *word)
{
    status st = STATUS_INIT;
    tensor_table *t = table_of_bytes(bytes, count, &st);
    cr_expect_null(t, "%s", word);
    check_sentence(&st, word);
    table_free(t);
}

size_t little(uint8_t *p, uint64_t n, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(n >> 8 * i);
    return (size_t)bytes;
}
