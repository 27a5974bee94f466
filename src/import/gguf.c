/* ggml's docs/gguf.md. A header of keys and values, a table of tensors, then their bytes at aligned offsets. Two kinds of keys matter
 * here: general.alignment, and ComfyUI-GGUF's comfy.gguf.orig_shape.NAME, the shape of a tensor that was reshaped to rows of 256. */
#include "import/gguf.h"

#include <inttypes.h>
#include <string.h>
#include <unistr.h>
#include <xxhash.h>

#include "base/mem.h"
#include "import/gguf_blocks.h"

enum { WINDOW = 64 << 10, MOST_NAME = 200, GGUF_DIMS = 4 };

enum { KEY_U8, KEY_I8, KEY_U16, KEY_I16, KEY_U32, KEY_I32, KEY_F32, KEY_BOOL, KEY_TEXT, KEY_ARRAY, KEY_U64, KEY_I64, KEY_F64, KEY_KINDS };

static const uint8_t kind_bytes[KEY_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct shape_note { /* comfy.gguf.orig_shape */
    size_t name;            /* in text */
    int dims;
    int64_t shape[WEIGHT_DIMS];
} shape_note;

typedef struct reader {
    io *f;
    const char *file;
    status *st;
    uint8_t *window;        /* WINDOW bytes of the header */
    uint64_t at, begin, end; /* the place in the file, and what the window holds */
    uint64_t alignment, tensors, keys;
    char name[MOST_NAME + 1];
    char *text;             /* names, each with its 0 */
    size_t text_used, text_room;
    size_t *name_at;        /* of each tensor, in text */
    int name_room;
    shape_note *note;
    int notes, note_room, room;
    tensor_table *out;
} reader;

/* ---- the header's bytes ---- */

static bool bad(reader *r, const char *why)
{
    return status_set(r->st, STATUS_BAD_FILE, "%s: the GGUF header is malformed at byte %" PRIu64 ": %s", r->file, r->at, why);
}

static bool left(reader *r, uint64_t bytes)
{
    return bytes <= io_size(r->f) - r->at || bad(r, "the file ends before (truncated?)");
}

/* The next bytes (at most WINDOW), valid until the next call. */
static bool take(reader *r, size_t bytes, const uint8_t **p)
{
    if (!left(r, bytes))
        return false;
    if (r->at < r->begin || r->at + bytes > r->end) {
        uint64_t size = io_size(r->f);
        r->begin = r->at;
        r->end = size - r->at < WINDOW ? size : r->at + WINDOW;
        if (!io_read(r->f, r->begin, r->window, (size_t)(r->end - r->begin), r->st))
            return false;
    }
    *p = r->window + (r->at - r->begin);
    r->at += bytes;
    return true;
}

static bool skip(reader *r, uint64_t bytes)
{
    if (!left(r, bytes))
        return false;
    r->at += bytes;
    return true;
}

static bool number(reader *r, int bytes, uint64_t *n)
{
    const uint8_t *p;
    *n = 0;
    if (!take(r, (size_t)bytes, &p))
        return false;
    for (int i = bytes - 1; i >= 0; i--)
        *n = *n << 8 | p[i];
    return true;
}

/* A name into r->name; one that is too long is passed over and left empty. */
static bool short_text(reader *r)
{
    uint64_t n;
    const uint8_t *p;
    r->name[0] = 0;
    if (!number(r, 8, &n))
        return false;
    if (n > MOST_NAME)
        return skip(r, n);
    if (!take(r, (size_t)n, &p))
        return false;
    memcpy(r->name, p, (size_t)n);
    r->name[n] = 0;
    return (strlen(r->name) == n && !u8_check(p, (size_t)n)) || bad(r, "a name is no UTF-8 text");
}

static bool keep_text(reader *r, const char *text, size_t *at)
{
    size_t n = strlen(text) + 1;
    if (n > r->text_room - r->text_used) {
        size_t room = (r->text_used + n) * 2;
        char *p = mem_resize(r->text, room, 1, "names of tensors", r->st);
        if (!p)
            return false;
        r->text = p;
        r->text_room = room;
    }
    memcpy(r->text + r->text_used, text, n);
    *at = r->text_used;
    r->text_used += n;
    return true;
}

/* ---- keys and values ---- */

static bool skip_value(reader *r, uint64_t kind)
{
    uint64_t n;
    if (kind == KEY_TEXT)
        return number(r, 8, &n) && skip(r, n);
    return kind < KEY_KINDS && kind_bytes[kind] ? skip(r, kind_bytes[kind]) : bad(r, "a value of an unknown kind");
}

static bool skip_array(reader *r, uint64_t kind, uint64_t count)
{
    uint64_t bytes;
    if (kind < KEY_KINDS && kind_bytes[kind])
        return !__builtin_mul_overflow(count, (uint64_t)kind_bytes[kind], &bytes) ? skip(r, bytes) : bad(r, "an array is too long");
    if (kind != KEY_TEXT)
        return bad(r, "an array of an unknown kind");
    for (uint64_t i = 0; i < count; i++) /* each takes at least 8 bytes of the file */
        if (!skip_value(r, kind))
            return false;
    return true;
}

static bool read_note(reader *r, uint64_t kind, uint64_t count)
{
    static const char prefix[] = "comfy.gguf.orig_shape.";
    if (count > WEIGHT_DIMS || (kind != KEY_I32 && kind != KEY_U32))
        return bad(r, "an original shape of another kind");
    if (r->notes == r->note_room) {
        int more = r->note_room ? r->note_room * 2 : 64;
        shape_note *p = mem_resize(r->note, (size_t)more, sizeof *p, "shapes", r->st);
        if (!p)
            return false;
        r->note = p;
        r->note_room = more;
    }
    shape_note *n = &r->note[r->notes++];
    *n = (shape_note){.dims = (int)count};
    if (!keep_text(r, r->name + sizeof prefix - 1, &n->name))
        return false;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t value;
        if (!number(r, 4, &value))
            return false;
        if (value > INT32_MAX)
            return bad(r, "an original shape with a negative size");
        n->shape[i] = (int64_t)value;
    }
    return true;
}

static bool read_key(reader *r)
{
    uint64_t kind, of, count;
    if (!short_text(r) || !number(r, 4, &kind))
        return false;
    if (kind == KEY_ARRAY) {
        if (!number(r, 4, &of) || !number(r, 8, &count))
            return false;
        return strncmp(r->name, "comfy.gguf.orig_shape.", 22) == 0 ? read_note(r, of, count) : skip_array(r, of, count);
    }
    if (strcmp(r->name, "general.alignment") != 0)
        return skip_value(r, kind);
    if (kind != KEY_U32 || !number(r, 4, &r->alignment))
        return bad(r, "general.alignment is no u32");
    return (r->alignment > 0 && r->alignment <= 1 << 20 && (r->alignment & (r->alignment - 1)) == 0) || bad(r, "general.alignment is no power of two");
}

/* ---- tensors ---- */

static const struct { uint32_t gguf; weight_type type; } plain_types[] = {
    {0, TYPE_F32}, {1, TYPE_F16}, {30, TYPE_BF16}, {24, TYPE_I8}, {25, TYPE_I16}, {26, TYPE_I32}, {27, TYPE_I64}, {28, TYPE_F64},
};

static bool read_type(reader *r, uint64_t gguf, file_tensor *t)
{
    t->blocks = block_format_of((uint32_t)gguf);
    t->type = TYPE_F32;
    for (size_t i = 0; i < sizeof plain_types / sizeof *plain_types; i++)
        if (plain_types[i].gguf == gguf) {
            t->type = plain_types[i].type;
            return true;
        }
    return t->blocks || status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: is of GGUF's type %" PRIu64 ", which is not supported", r->file, r->name, gguf);
}

static bool too_large(reader *r)
{
    return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: its shape makes more bytes than can be counted", r->file, r->name);
}

static bool measure(reader *r, file_tensor *t)
{
    uint64_t n;
    if (!table_elements(t, &n) || n > INT64_MAX / 8)
        return too_large(r);
    if (!t->blocks) {
        t->bytes = n * (uint64_t)type_of(t->type)->element_bytes;
        return true;
    }
    if (t->dims == 0 || t->shape[t->dims - 1] % t->blocks->numbers)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: its rows of %" PRId64 " are no whole blocks of %s", r->file, r->name,
                          t->dims ? t->shape[t->dims - 1] : 1, t->blocks->name);
    return !__builtin_mul_overflow(n / (uint64_t)t->blocks->numbers, (uint64_t)t->blocks->bytes, &t->bytes) || too_large(r);
}

static bool keep_name(reader *r)
{
    int n = r->out->tensors;
    if (n > r->name_room) {
        int more = r->name_room ? r->name_room * 2 : 256;
        size_t *p = mem_resize(r->name_at, (size_t)more, sizeof *p, "names of tensors", r->st);
        if (!p)
            return false;
        r->name_at = p;
        r->name_room = more;
    }
    return keep_text(r, r->name, &r->name_at[n - 1]);
}

static bool read_tensor(reader *r)
{
    uint64_t dims, size, type;
    if (!short_text(r))
        return false;
    if (!r->name[0])
        return bad(r, "a tensor's name is empty or longer than 200 bytes");
    file_tensor *t = table_add(r->out, &r->room, r->st);
    if (!t || !keep_name(r) || !number(r, 4, &dims))
        return false;
    if (dims > GGUF_DIMS)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: has more than %d dimensions", r->file, r->name, GGUF_DIMS);
    t->dims = (int)dims;
    for (int i = t->dims - 1; i >= 0; i--) { /* the innermost comes first in the file */
        if (!number(r, 8, &size))
            return false;
        if (size > INT64_MAX)
            return too_large(r);
        t->shape[i] = (int64_t)size;
    }
    if (!number(r, 4, &type) || !read_type(r, type, t) || !number(r, 8, &t->offset) || !measure(r, t))
        return false;
    uint64_t parts[] = {t->offset, t->bytes, type, dims, (uint64_t)t->shape[0], (uint64_t)t->shape[1], (uint64_t)t->shape[2], (uint64_t)t->shape[3]};
    r->out->hash = XXH3_64bits_withSeed(r->name, strlen(r->name), r->out->hash);
    r->out->hash = XXH3_64bits_withSeed(parts, sizeof parts, r->out->hash);
    return true;
}

/* Offsets count from the data, which begins at the next aligned place behind the table. */
static bool place_tensors(reader *r)
{
    uint64_t size = io_size(r->f), begin = (r->at + r->alignment - 1) / r->alignment * r->alignment;
    tensor_table *o = r->out;
    for (int i = 0; i < o->tensors; i++) {
        file_tensor *t = &o->tensor[i];
        t->name = r->text + r->name_at[i];
        if (t->offset % r->alignment)
            return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: begins at %" PRIu64 ", which is no multiple of %" PRIu64, r->file, t->name, t->offset,
                              r->alignment);
        if (begin > size || t->offset > size - begin || t->bytes > size - begin - t->offset)
            return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: %" PRIu64 " bytes at %" PRIu64 " of the data, the file has %" PRIu64 " bytes (truncated?)",
                              r->file, t->name, t->bytes, t->offset, size);
        t->offset += begin;
    }
    return table_sort(o, r->file, r->st);
}

static bool put_shapes_back(reader *r)
{
    for (int i = 0; i < r->notes; i++) {
        const shape_note *n = &r->note[i];
        file_tensor *t = (file_tensor *)(uintptr_t)table_find(r->out, r->text + n->name);
        file_tensor as = {.dims = n->dims};
        uint64_t have, wanted;
        if (!t)
            continue;
        memcpy(as.shape, n->shape, sizeof as.shape);
        if (!table_elements(t, &have) || !table_elements(&as, &wanted) || have != wanted)
            return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: its original shape has another number of elements", r->file, t->name);
        t->dims = n->dims;
        memcpy(t->shape, n->shape, sizeof t->shape);
    }
    return true;
}

static bool read_start(reader *r)
{
    uint64_t magic, version;
    if (!number(r, 4, &magic) || !number(r, 4, &version))
        return false;
    if (version != 2 && version != 3)
        return status_set(r->st, STATUS_BAD_FILE, version == 1 ? "%s: is a GGUF file of version %" PRIu64 ", 2 and 3 are read"
                          : "%s: is a GGUF file of version %" PRIu64 " (or of big-endian order), 2 and 3 are read", r->file, version);
    if (!number(r, 8, &r->tensors) || !number(r, 8, &r->keys))
        return false;
    return (r->tensors <= io_size(r->f) / 24 && r->tensors < INT32_MAX && r->keys <= io_size(r->f) / 12) || bad(r, "more entries than the file has room for");
}

static bool read_all(reader *r)
{
    if (!read_start(r))
        return false;
    for (uint64_t i = 0; i < r->keys; i++)
        if (!read_key(r))
            return false;
    for (uint64_t i = 0; i < r->tensors; i++)
        if (!read_tensor(r))
            return false;
    return place_tensors(r) && put_shapes_back(r) && table_check_overlap(r->out, r->file, r->st);
}

tensor_table *gguf_read(io *f, status *st)
{
    reader r = {.f = f, .file = io_name(f), .st = st, .alignment = 32};
    r.out = mem_alloc(1, sizeof *r.out, "GGUF file", st);
    r.window = r.out ? mem_alloc(WINDOW, 1, "GGUF header", st) : NULL;
    bool ok = r.window && read_all(&r);
    if (r.out)
        r.out->text = r.text;
    mem_free(r.window);
    mem_free(r.name_at);
    mem_free(r.note);
    if (ok)
        return r.out;
    table_free(r.out);
    return NULL;
}
