#include "import/table.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "import/gguf.h"
#include "import/safetensors.h"
#include "import/torch.h"

tensor_table *table_read(io *f, status *st)
{
    uint8_t first[9] = {0};
    size_t bytes = io_size(f) < sizeof first ? (size_t)io_size(f) : sizeof first;
    if (!io_read(f, 0, first, bytes, st))
        return NULL;
    if (memcmp(first, "GGUF", 4) == 0)
        return gguf_read(f, st);
    if (torch_begins(first) && first[8] != '{') /* a safetensors header of 0x580 bytes begins like a pickle: 80 05, then zeros and its JSON */
        return torch_read(f, st);
    if (bytes == sizeof first && first[8] != '{') {
        status_set(st, STATUS_BAD_FILE, "%s: is neither a safetensors file nor a torch checkpoint nor a GGUF", io_name(f));
        return NULL;
    }
    return safetensors_read(f, st);
}

void table_free(tensor_table *t)
{
    if (!t)
        return;
    mem_free(t->tensor);
    mem_free(t->text);
    mem_free(t);
}

static int by_name(const void *a, const void *b) { return strcmp(((const file_tensor *)a)->name, ((const file_tensor *)b)->name); }

const file_tensor *table_find(const tensor_table *t, const char *name)
{
    file_tensor key = {.name = name};
    return t->tensors ? bsearch(&key, t->tensor, (size_t)t->tensors, sizeof key, by_name) : NULL;
}

file_tensor *table_add(tensor_table *t, int *room, status *st)
{
    if (t->tensors == *room) {
        int more = *room ? *room * 2 : 64;
        file_tensor *p = mem_resize(t->tensor, (size_t)more, sizeof *p, "table of tensors", st);
        if (!p)
            return NULL;
        t->tensor = p;
        *room = more;
    }
    t->tensor[t->tensors] = (file_tensor){0};
    return &t->tensor[t->tensors++];
}

bool table_sort(tensor_table *t, const char *file, status *st)
{
    if (t->tensors > 1)
        qsort(t->tensor, (size_t)t->tensors, sizeof *t->tensor, by_name);
    for (int i = 1; i < t->tensors; i++)
        if (strcmp(t->tensor[i - 1].name, t->tensor[i].name) == 0)
            return status_set(st, STATUS_BAD_FILE, "%s: holds tensor %s twice", file, t->tensor[i].name);
    return true;
}

static int by_offset(const void *a, const void *b)
{
    const file_tensor *x = *(file_tensor *const *)a, *y = *(file_tensor *const *)b;
    return x->offset != y->offset ? (x->offset < y->offset ? -1 : 1) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

bool table_check_overlap(tensor_table *t, const char *file, status *st)
{
    const file_tensor **order = mem_alloc((size_t)t->tensors + 1, sizeof *order, "table of tensors", st);
    for (int i = 0; order && i < t->tensors; i++)
        order[i] = &t->tensor[i];
    if (order && t->tensors > 1)
        qsort(order, (size_t)t->tensors, sizeof *order, by_offset);
    for (int i = 1; order && i < t->tensors; i++)
        if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset)
            status_set(st, STATUS_BAD_FILE, "%s: tensors %s and %s overlap", file, order[i - 1]->name, order[i]->name);
    mem_free(order);
    return status_ok(st);
}

bool table_elements(const file_tensor *t, uint64_t *n)
{
    *n = 1;
    for (int i = 0; i < t->dims; i++)
        if (t->shape[i] < 0 || __builtin_mul_overflow(*n, (uint64_t)t->shape[i], n))
            return false;
    return true;
}
