/* A .safetensors file: 8 bytes length of the header, little endian; the header, JSON; then the tensors' bytes. The header maps
 * a name to {"dtype", "shape", "data_offsets": [begin, end]}, offsets counted from behind the header, and may hold one
 * "__metadata__" of strings. The format's own rules: at most 100 MB of header, it begins with '{', no name twice, the tensors
 * cover the data without overlap or hole. */
#include "import/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistr.h>
#include <xxhash.h>

#include "base/mem.h"
#include "import/scan.h"

enum { LENGTH_BYTES = 8, MOST_HEADER = 100 * 1000 * 1000 };

typedef struct reader {
    scan scan;
    const char *file;
    const char *name;      /* the tensor at hand, NULL between them */
    uint64_t data_offset;  /* where the data area begins, and its size */
    uint64_t data_bytes;
    bool metadata;
    int room;
    safetensors *out;
    status *st;
} reader;

typedef struct fields { /* a tensor's object: what was seen of it, and values not yet held against each other */
    bool dtype, shape, offsets;
    uint64_t begin, end;
} fields;

static bool bad_json(reader *r)
{
    const scan *s = &r->scan;
    return status_set(r->st, STATUS_BAD_FILE, "%s: %s%s%sthe header is malformed at byte %zu: %s", r->file, r->name ? "tensor " : "",
                      r->name ? r->name : "", r->name ? ": " : "", s->at, s->why ? s->why : "something else expected");
}

static bool read_metadata(reader *r)
{
    if (r->metadata)
        return status_set(r->st, STATUS_BAD_FILE, "%s: the header holds __metadata__ twice", r->file);
    r->metadata = true;
    if (!scan_skip(&r->scan, '{'))
        return bad_json(r);
    if (scan_next_is(&r->scan, '}'))
        return true;
    do {
        if (!scan_string(&r->scan) || !scan_skip(&r->scan, ':') || !scan_string(&r->scan))
            return bad_json(r);
    } while (scan_next_is(&r->scan, ','));
    return scan_skip(&r->scan, '}') || bad_json(r);
}

static bool read_dtype(reader *r, safetensor *t)
{
    const char *text = scan_string(&r->scan);
    if (!text)
        return bad_json(r);
    const type_traits *type = type_by_safetensors(text);
    if (!type)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: its type %s is not supported", r->file, r->name, text);
    t->type = type->type;
    return true;
}

static bool read_shape(reader *r, safetensor *t)
{
    if (!scan_skip(&r->scan, '['))
        return bad_json(r);
    if (scan_next_is(&r->scan, ']'))
        return true;
    do {
        uint64_t n;
        if (!scan_uint(&r->scan, &n))
            return bad_json(r);
        if (t->dims == WEIGHT_DIMS)
            return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: has more than %d dimensions", r->file, r->name, WEIGHT_DIMS);
        if (n > INT64_MAX)
            return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: dimension %d is too large: %" PRIu64, r->file, r->name, t->dims, n);
        t->shape[t->dims++] = (int64_t)n;
    } while (scan_next_is(&r->scan, ','));
    return scan_skip(&r->scan, ']') || bad_json(r);
}

static bool read_offsets(reader *r, fields *f)
{
    scan *s = &r->scan;
    return (scan_skip(s, '[') && scan_uint(s, &f->begin) && scan_skip(s, ',') && scan_uint(s, &f->end) && scan_skip(s, ']')) || bad_json(r);
}

static bool once(reader *r, bool *seen, const char *key)
{
    if (*seen)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: has %s twice", r->file, r->name, key);
    return *seen = true;
}

static bool read_field(reader *r, safetensor *t, fields *f)
{
    const char *key = scan_string(&r->scan);
    if (!key || !scan_skip(&r->scan, ':'))
        return bad_json(r);
    if (strcmp(key, "dtype") == 0)
        return once(r, &f->dtype, key) && read_dtype(r, t);
    if (strcmp(key, "shape") == 0)
        return once(r, &f->shape, key) && read_shape(r, t);
    if (strcmp(key, "data_offsets") == 0)
        return once(r, &f->offsets, key) && read_offsets(r, f);
    return scan_value(&r->scan) || bad_json(r); /* what a later version may add */
}

/* The three fields against each other and against the file. */
static bool check_tensor(reader *r, safetensor *t, const fields *f)
{
    if (!f->dtype || !f->shape || !f->offsets)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: has no %s", r->file, r->name,
                          !f->dtype ? "dtype" : !f->shape ? "shape" : "data_offsets");
    if (f->begin > f->end)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: begins at %" PRIu64 " and ends before, at %" PRIu64, r->file, r->name,
                          f->begin, f->end);
    if (f->end > r->data_bytes)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: ends at %" PRIu64 ", the file has %" PRIu64 " bytes of data (truncated?)",
                          r->file, r->name, f->end, r->data_bytes);
    uint64_t bytes = (uint64_t)type_of(t->type)->element_bytes;
    for (int i = 0; i < t->dims; i++)
        if (__builtin_mul_overflow(bytes, (uint64_t)t->shape[i], &bytes))
            return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: its shape makes more bytes than can be counted", r->file, r->name);
    if (bytes != f->end - f->begin)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: its shape makes %" PRIu64 " bytes, its offsets %" PRIu64, r->file, r->name,
                          bytes, f->end - f->begin);
    t->name = r->name;
    t->offset = r->data_offset + f->begin;
    t->bytes = bytes;
    return true;
}

static bool read_tensor(reader *r)
{
    safetensor *t = table_add(r->out, &r->room, r->st);
    fields f = {0};
    if (!t)
        return false;
    if (!scan_skip(&r->scan, '{'))
        return bad_json(r);
    if (!scan_next_is(&r->scan, '}')) {
        do {
            if (!read_field(r, t, &f))
                return false;
        } while (scan_next_is(&r->scan, ','));
        if (!scan_skip(&r->scan, '}'))
            return bad_json(r);
    }
    return check_tensor(r, t, &f);
}

static bool read_entries(reader *r)
{
    scan *s = &r->scan;
    if (s->text[0] != '{' || !scan_skip(s, '{'))
        return status_set(r->st, STATUS_BAD_FILE, "%s: not a safetensors file: its header does not begin with '{'", r->file);
    if (!scan_next_is(s, '}')) {
        do {
            r->name = NULL;
            char *name = scan_string(s);
            if (!name || !scan_skip(s, ':'))
                return bad_json(r);
            if (strcmp(name, "__metadata__") == 0) {
                if (!read_metadata(r))
                    return false;
                continue;
            }
            r->name = name;
            if (!read_tensor(r))
                return false;
        } while (scan_next_is(s, ','));
        r->name = NULL;
        if (!scan_skip(s, '}'))
            return bad_json(r);
    }
    return scan_end(s) || bad_json(r);
}

static int by_offset(const void *a, const void *b)
{
    const safetensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* an empty one stands before its neighbour */
}

static bool check_cover(reader *r)
{
    safetensors *o = r->out;
    uint64_t at = r->data_offset;
    if (o->tensors > 1)
        qsort(o->tensor, (size_t)o->tensors, sizeof *o->tensor, by_offset);
    for (int i = 0; i < o->tensors; i++) {
        const safetensor *t = &o->tensor[i];
        if (t->offset != at)
            return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: begins at %" PRIu64 " of the data, the one before it ends at %" PRIu64,
                              r->file, t->name, t->offset - r->data_offset, at - r->data_offset);
        at += t->bytes;
    }
    if (at - r->data_offset != r->data_bytes)
        return status_set(r->st, STATUS_BAD_FILE, "%s: has %" PRIu64 " bytes of data, its tensors end at %" PRIu64, r->file, r->data_bytes,
                          at - r->data_offset);
    return true;
}

static bool header_length(io *f, uint64_t *length, status *st)
{
    uint8_t raw[LENGTH_BYTES];
    uint64_t size = io_size(f);
    if (size < LENGTH_BYTES)
        return status_set(st, STATUS_BAD_FILE, "%s: not a safetensors file: has only %" PRIu64 " bytes", io_name(f), size);
    if (!io_read(f, 0, raw, sizeof raw, st))
        return false;
    *length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        *length = *length << 8 | raw[i];
    if (*length > MOST_HEADER || *length < 2)
        return status_set(st, STATUS_BAD_FILE, "%s: not a safetensors file: a header of %" PRIu64 " bytes (2 to %d are possible)", io_name(f),
                          *length, MOST_HEADER);
    if (*length > size - LENGTH_BYTES)
        return status_set(st, STATUS_BAD_FILE, "%s: truncated: a header of %" PRIu64 " bytes, the file has %" PRIu64, io_name(f), *length, size);
    return true;
}

static bool read_header(io *f, reader *r)
{
    uint64_t length = 0;
    if (!header_length(f, &length, r->st))
        return false;
    safetensors *o = r->out;
    o->text = mem_alloc((size_t)length, 1, "safetensors header", r->st);
    if (!o->text || !io_read(f, LENGTH_BYTES, o->text, (size_t)length, r->st))
        return false;
    o->hash = XXH3_64bits(o->text, (size_t)length);
    const uint8_t *bad = u8_check((const uint8_t *)o->text, (size_t)length);
    if (bad)
        return status_set(r->st, STATUS_BAD_FILE, "%s: the header is not UTF-8 at byte %td", io_name(f), bad - (const uint8_t *)o->text);
    r->scan = (scan){.text = o->text, .length = (size_t)length};
    r->data_offset = LENGTH_BYTES + length;
    r->data_bytes = io_size(f) - r->data_offset;
    return read_entries(r) && check_cover(r) && table_sort(r->out, r->file, r->st);
}

safetensors *safetensors_read(io *f, status *st)
{
    reader r = {.file = io_name(f), .st = st};
    r.out = mem_alloc(1, sizeof *r.out, "safetensors", st);
    if (!r.out)
        return NULL;
    if (read_header(f, &r))
        return r.out;
    safetensors_free(r.out);
    return NULL;
}
