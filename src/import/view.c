#include "import/view.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "import/gguf_blocks.h"

enum { RAW_BYTES = 16 << 10, SEGMENT_BYTES = 2 << 10 };

typedef struct view {
    io *under;
    int items;
    view_item *item;
} view;

bool view_add(view_plan *v, file_tensor *t, status *st)
{
    uint64_t n = 1;
    if (v->items == v->room) {
        int more = v->room ? v->room * 2 : 64;
        view_item *p = mem_resize(v->item, (size_t)more, sizeof *p, "view of tensors", st);
        if (!p)
            return false;
        v->item = p;
        v->room = more;
    }
    table_elements(t, &n);
    int size = type_of(t->type)->element_bytes;
    view_item *i = &v->item[v->items++];
    *i = (view_item){.at = v->size, .bytes = n * (uint64_t)size, .offset = t->offset, .blocks = t->blocks, .first = t->first, .element_bytes = size};
    if (t->transposed) {
        i->rows = t->shape[0];
        i->columns = t->shape[1];
    }
    uint64_t room;
    if (__builtin_add_overflow(i->bytes, (uint64_t)IO_ALIGN - 1, &room) || __builtin_add_overflow(v->size, room / IO_ALIGN * IO_ALIGN, &v->size))
        return status_set(st, STATUS_BAD_FILE, "tensor %s: makes more bytes than can be counted", t->name);
    t->offset = i->at; /* on a page of its own: who reads it directly reads nothing of its neighbours */
    t->bytes = i->bytes;
    t->blocks = NULL;
    t->transposed = false;
    return true;
}

static int64_t failed(const status *st)
{
    errno = st->code == STATUS_BAD_FILE ? EIO : ENOMEM;
    return -1;
}

/* Whole blocks around [from, from + bytes) of the unpacked tensor, as many as fit the buffer. */
static int64_t read_blocks(const view *v, const view_item *i, uint64_t from, uint8_t *out, size_t bytes)
{
    uint8_t raw[RAW_BYTES];
    float block[BLOCK_MOST_NUMBERS];
    status st = STATUS_INIT;
    const block_format *b = i->blocks;
    uint64_t size = (uint64_t)b->numbers * sizeof(float), begin = (uint64_t)i->first * sizeof(float) + from, end = begin + bytes;
    uint64_t block_first = begin / size, blocks = (end + size - 1) / size - block_first;
    if (blocks > RAW_BYTES / (size_t)b->bytes)
        blocks = RAW_BYTES / (size_t)b->bytes;
    if (!io_read(v->under, i->offset + block_first * (uint64_t)b->bytes, raw, (size_t)blocks * (size_t)b->bytes, &st))
        return failed(&st);
    size_t done = 0;
    for (uint64_t k = 0; k < blocks; k++) {
        uint64_t at = (block_first + k) * size, skip = begin + done - at, n = size - skip;
        b->unpack(raw + k * (uint64_t)b->bytes, block);
        if (n > bytes - done)
            n = bytes - done;
        memcpy(out + done, (const uint8_t *)block + skip, (size_t)n);
        done += (size_t)n;
    }
    return (int64_t)done;
}

/* One element's part of [from, from + bytes). */
static int64_t read_element(const view *v, const view_item *i, uint64_t from, uint8_t *out, size_t bytes)
{
    uint8_t element[8];
    status st = STATUS_INIT;
    uint64_t size = (uint64_t)i->element_bytes, e = from / size, skip = from % size, n = size - skip < bytes ? size - skip : bytes;
    uint64_t row = e / (uint64_t)i->columns, column = e % (uint64_t)i->columns;
    if (!io_read(v->under, i->offset + (column * (uint64_t)i->rows + row) * size, element, (size_t)size, &st))
        return failed(&st);
    memcpy(out, element + skip, (size_t)n);
    return (int64_t)n;
}

/* A few rows at a time: of every stored line the stretch that belongs to them. */
static int64_t read_turned(const view *v, const view_item *i, uint64_t from, uint8_t *out, size_t bytes)
{
    uint8_t line[SEGMENT_BYTES];
    status st = STATUS_INIT;
    uint64_t size = (uint64_t)i->element_bytes, columns = (uint64_t)i->columns, first = from / size, end = (from + bytes) / size;
    if (from % size || end == first)
        return read_element(v, i, from, out, bytes);
    uint64_t row = first / columns, rows = (end + columns - 1) / columns - row;
    if (rows > SEGMENT_BYTES / size)
        rows = SEGMENT_BYTES / size;
    if (end > (row + rows) * columns)
        end = (row + rows) * columns;
    for (uint64_t c = 0; c < columns; c++) {
        if (!io_read(v->under, i->offset + (c * (uint64_t)i->rows + row) * size, line, (size_t)(rows * size), &st))
            return failed(&st);
        for (uint64_t r = 0; r < rows; r++) {
            uint64_t e = (row + r) * columns + c;
            if (e >= first && e < end)
                memcpy(out + (e - first) * size, line + r * size, (size_t)size);
        }
    }
    return (int64_t)((end - first) * size);
}

static int64_t read_view(void *ctx, uint64_t offset, void *out, size_t bytes)
{
    const view *v = ctx;
    int low = 0, high = v->items; /* the last item that begins at or before the offset: the first one begins at 0 */
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (v->item[middle].at <= offset)
            low = middle;
        else
            high = middle;
    }
    const view_item *i = &v->item[low];
    uint64_t from = offset - i->at;
    if (from >= i->bytes) { /* the gap behind it */
        uint64_t gap = low + 1 < v->items ? v->item[low + 1].at - offset : bytes;
        size_t n = gap < bytes ? (size_t)gap : bytes;
        memset(out, 0, n);
        return (int64_t)n;
    }
    if (bytes > i->bytes - from)
        bytes = (size_t)(i->bytes - from);
    return i->blocks ? read_blocks(v, i, from, out, bytes) : read_turned(v, i, from, out, bytes);
}

static void close_view(void *ctx)
{
    view *v = ctx;
    mem_free(v->item);
    mem_free(v);
}

io *view_open(io *under, view_plan *plan, status *st)
{
    view *v = mem_alloc(1, sizeof *v, "view of tensors", st);
    io *f = v ? io_custom(io_name(under), plan->size, &(io_vtable){read_view, close_view}, v, st) : NULL;
    if (!f) {
        mem_free(v);
        return NULL;
    }
    *v = (view){under, plan->items, plan->item};
    *plan = (view_plan){0};
    return f;
}
