/* torch.save since 1.6: a zip archive with one folder, in it data.pkl (the pickled dict) and data/KEY, the bytes of storage KEY. A tensor is a call
 * of torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, ...), counted in elements. */
#include "import/torch.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistr.h>
#include <xxhash.h>

#include "base/mem.h"
#include "import/pickle.h"
#include "import/zip.h"

enum { MOST_NAME = 200, MOST_NESTED = 8 };

typedef struct reader {
    io *f;
    const char *file;
    status *st;
    zip *zip;
    char folder[MOST_NAME];  /* "archive/" */
    uint8_t *bytes;          /* of data.pkl */
    pickle p;
    const char *name;        /* the tensor at hand */
    int room;
    size_t text_used;
    tensor_table *out;
} reader;

bool torch_begins(const uint8_t first[2])
{
    return (first[0] == 'P' && first[1] == 'K') || (first[0] == 0x80 && first[1] >= 1 && first[1] <= 5);
}

static bool bad(reader *r, const char *why) { return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: %s", r->file, r->name, why); }

/* ---- one tensor ---- */

typedef struct storage {
    int64_t type, count;     /* weight_type, -1 untyped */
    const zip_entry *data;
} storage;

static bool text_of(reader *r, int32_t v, char *out, size_t room)
{
    if (!pickle_is(&r->p, v, PICKLE_TEXT) || r->p.value[v].as.text.length >= room)
        return false;
    memcpy(out, r->bytes + r->p.value[v].as.text.at, r->p.value[v].as.text.length);
    out[r->p.value[v].as.text.length] = 0;
    return true;
}

static bool number_of(const reader *r, int32_t v, int64_t *n)
{
    if (!pickle_is(&r->p, v, PICKLE_INT) || r->p.value[v].as.number < 0)
        return false;
    *n = r->p.value[v].as.number;
    return true;
}

/* ("storage", class, key, device, count) */
static bool read_storage(reader *r, int32_t v, storage *s)
{
    char key[64], name[MOST_NAME + 80];
    if (!pickle_is(&r->p, v, PICKLE_STORAGE))
        return bad(r, "has no storage");
    int32_t id = r->p.value[v].first, type = pickle_item(&r->p, id, 1);
    if (!pickle_is(&r->p, type, PICKLE_NAME) || r->p.value[type].name != NAME_STORAGE || !text_of(r, pickle_item(&r->p, id, 2), key, sizeof key) ||
        !number_of(r, pickle_item(&r->p, id, 4), &s->count))
        return bad(r, "its storage is described in a way that torch does not write");
    s->type = r->p.value[type].as.number;
    snprintf(name, sizeof name, "%sdata/%s", r->folder, key);
    s->data = zip_find(r->zip, name);
    return s->data ? true : status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: its storage %s is missing", r->file, r->name, name);
}

static bool read_shape(reader *r, int32_t shape, file_tensor *t)
{
    t->dims = pickle_length(&r->p, shape);
    if (!pickle_is(&r->p, shape, PICKLE_TUPLE))
        return bad(r, "its shape is no tuple");
    if (t->dims > WEIGHT_DIMS)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: has more than %d dimensions", r->file, r->name, WEIGHT_DIMS);
    for (int i = 0; i < t->dims; i++)
        if (!number_of(r, pickle_item(&r->p, shape, i), &t->shape[i]))
            return bad(r, "its shape holds something other than a size");
    return true;
}

/* In C order, or the transposed view of a matrix; dimensions of 1 have any stride. */
static bool read_strides(reader *r, int32_t strides, file_tensor *t, uint64_t elements)
{
    int64_t stride[WEIGHT_DIMS], due = 1;
    bool plain = true;
    if (!pickle_is(&r->p, strides, PICKLE_TUPLE) || pickle_length(&r->p, strides) != t->dims)
        return bad(r, "has other strides than dimensions");
    for (int i = 0; i < t->dims; i++)
        if (!number_of(r, pickle_item(&r->p, strides, i), &stride[i]))
            return bad(r, "its strides hold something other than a step");
    for (int i = t->dims - 1; i >= 0; i--) {
        plain = plain && (t->shape[i] == 1 || stride[i] == due);
        due *= t->shape[i]; /* elements were counted without overflow */
    }
    if (plain || elements < 2)
        return true;
    t->transposed = t->dims == 2 && stride[0] == 1 && stride[1] == t->shape[0];
    if (t->transposed)
        return true;
    return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: is stored in pieces or another order (last stride %" PRId64 "), save it contiguous", r->file,
                      r->name, t->dims ? stride[t->dims - 1] : 0);
}

/* Offset, shape and storage against each other and against the archive. */
static bool place_tensor(reader *r, const storage *s, int64_t offset, file_tensor *t, uint64_t elements)
{
    uint64_t size = (uint64_t)type_of(t->type)->element_bytes, held = s->data->bytes / size;
    uint64_t counted = s->type >= 0 ? (uint64_t)s->count : (uint64_t)s->count / size; /* an untyped storage counts bytes */
    if (counted > held)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: its storage of %" PRIu64 " numbers has only %" PRIu64 " bytes", r->file, r->name, counted,
                          s->data->bytes);
    held = counted;
    if ((uint64_t)offset > held || elements > held - (uint64_t)offset)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: %" PRIu64 " numbers from number %" PRId64 " on, its storage has %" PRIu64, r->file, r->name,
                          elements, offset, held);
    t->offset = s->data->offset + (uint64_t)offset * size;
    t->bytes = elements * size;
    return true;
}

static bool fill_tensor(reader *r, int32_t arguments, pickle_name call, file_tensor *t)
{
    storage s = {0};
    int64_t offset;
    uint64_t elements;
    const pickle *p = &r->p;
    if (!read_storage(r, pickle_item(p, arguments, 0), &s))
        return false;
    if (call == NAME_TENSOR_V3) { /* (storage, offset, shape, strides, requires_grad, hooks, dtype) */
        int32_t type = pickle_item(p, arguments, 6);
        if (!pickle_is(p, type, PICKLE_NAME) || p->value[type].name != NAME_DTYPE)
            return bad(r, "has no type");
        t->type = (weight_type)p->value[type].as.number;
        if (p->value[type].as.number < 0)
            return bad(r, "is of a type that is not supported");
        s.type = -1;
    } else {
        if (s.type < 0)
            return bad(r, "has no type");
        t->type = (weight_type)s.type;
    }
    if (!number_of(r, pickle_item(p, arguments, 1), &offset))
        return bad(r, "has no offset");
    if (!read_shape(r, pickle_item(p, arguments, 2), t))
        return false;
    if (!table_elements(t, &elements) || elements > INT64_MAX / 8)
        return bad(r, "its shape makes more numbers than can be counted");
    return read_strides(r, pickle_item(p, arguments, 3), t, elements) && place_tensor(r, &s, offset, t, elements);
}

/* The call behind a Parameter; -1: it is no tensor. */
static int32_t tensor_call(const reader *r, int32_t v)
{
    for (int i = 0; i < MOST_NESTED && pickle_is(&r->p, v, PICKLE_CALL); i++) {
        if (r->p.value[v].name != NAME_PARAMETER)
            return v;
        v = pickle_item(&r->p, r->p.value[v].first, 0);
    }
    return -1;
}

/* ---- the dict ---- */

static int32_t weights_dict(const reader *r)
{
    int32_t dict = r->p.result;
    for (int i = 0; i < MOST_NESTED; i++) {
        int32_t inner = pickle_member(&r->p, dict, "state_dict");
        if (!pickle_is(&r->p, inner, PICKLE_DICT))
            break;
        dict = inner;
    }
    return dict;
}

/* The name, copied with a 0 behind it. The room was counted before. */
static bool keep_name(reader *r, const pickle_value *key)
{
    const uint8_t *from = r->bytes + key->as.text.at;
    size_t n = key->as.text.length;
    if (n == 0 || n > MOST_NAME || memchr(from, 0, n) || u8_check(from, n))
        return status_set(r->st, STATUS_BAD_FILE, "%s: a tensor's name of %zu bytes is empty, too long, or no UTF-8", r->file, n);
    char *to = r->out->text + r->text_used;
    memcpy(to, from, n);
    to[n] = 0;
    r->text_used += n + 1;
    r->name = to;
    return true;
}

static bool read_tensors(reader *r, int32_t dict)
{
    const pickle *p = &r->p;
    size_t room = 1;
    if (!pickle_is(p, dict, PICKLE_DICT))
        return status_set(r->st, STATUS_BAD_FILE, "%s: holds no dict of tensors", r->file);
    for (int32_t i = p->value[dict].first; i >= 0; i = p->link[i].next)
        if (pickle_is(p, p->link[i].key, PICKLE_TEXT) && tensor_call(r, p->link[i].value) >= 0)
            room += (size_t)p->value[p->link[i].key].as.text.length + 1;
    if (room > 1u << 26)
        return status_set(r->st, STATUS_BAD_FILE, "%s: its tensors' names have %zu bytes", r->file, room);
    r->out->text = mem_alloc(room, 1, "names of tensors", r->st);
    if (!r->out->text)
        return false;
    for (int32_t i = p->value[dict].first; i >= 0; i = p->link[i].next) {
        int32_t call = tensor_call(r, p->link[i].value);
        if (call < 0 || !pickle_is(p, p->link[i].key, PICKLE_TEXT))
            continue;
        if (!keep_name(r, &p->value[p->link[i].key]))
            return false;
        file_tensor *t = table_add(r->out, &r->room, r->st);
        if (!t || !fill_tensor(r, p->value[call].first, (pickle_name)p->value[call].name, t))
            return false;
        t->name = r->name;
    }
    if (r->out->tensors == 0)
        return status_set(r->st, STATUS_BAD_FILE, "%s: holds no dict of tensors", r->file);
    return table_sort(r->out, r->file, r->st);
}

/* ---- the archive ---- */

static const zip_entry *find_pickle(reader *r)
{
    static const char tail[] = "/data.pkl";
    const zip_entry *found = NULL;
    for (int i = 0; i < r->zip->entries; i++) {
        const zip_entry *e = &r->zip->entry[i];
        size_t n = strlen(e->name);
        if (n < sizeof tail || n - (sizeof tail - 2) >= sizeof r->folder || strcmp(e->name + n - (sizeof tail - 1), tail) != 0)
            continue;
        if (found) {
            status_set(r->st, STATUS_BAD_FILE, "%s: holds both %s and %s", r->file, found->name, e->name);
            return NULL;
        }
        found = e;
        memcpy(r->folder, e->name, n - (sizeof tail - 2));
        r->folder[n - (sizeof tail - 2)] = 0;
    }
    if (!found)
        status_set(r->st, STATUS_BAD_FILE, "%s: is a zip archive without data.pkl: no checkpoint of torch", r->file);
    return found;
}

static bool little_endian(reader *r)
{
    char name[MOST_NAME + 16], order[8] = "";
    snprintf(name, sizeof name, "%sbyteorder", r->folder);
    const zip_entry *e = zip_find(r->zip, name);
    if (!e)
        return true;
    if (!io_read(r->f, e->offset, order, e->bytes < sizeof order - 1 ? (size_t)e->bytes : sizeof order - 1, r->st))
        return false;
    return strcmp(order, "little") == 0 || status_set(r->st, STATUS_BAD_FILE, "%s: its byte order is \"%s\", only little is read", r->file, order);
}

static bool read_archive(reader *r)
{
    r->zip = zip_read(r->f, r->st);
    const zip_entry *e = r->zip ? find_pickle(r) : NULL;
    if (!e || !little_endian(r))
        return false;
    if (e->bytes > PICKLE_MOST_BYTES)
        return status_set(r->st, STATUS_BAD_FILE, "%s: its pickle has %" PRIu64 " bytes, at most %d are read", r->file, e->bytes, PICKLE_MOST_BYTES);
    r->bytes = mem_alloc((size_t)e->bytes + 1, 1, "pickle", r->st);
    if (!r->bytes || !io_read(r->f, e->offset, r->bytes, (size_t)e->bytes, r->st))
        return false;
    r->out->hash = XXH3_64bits(r->bytes, (size_t)e->bytes);
    return pickle_read(&r->p, r->bytes, (size_t)e->bytes, r->file, r->st) && read_tensors(r, weights_dict(r));
}

tensor_table *torch_read(io *f, status *st)
{
    reader r = {.f = f, .file = io_name(f), .st = st, .p = {.result = -1}};
    uint8_t first = 0;
    if (!io_read(f, 0, &first, io_size(f) > 0, st))
        return NULL;
    if (first == 0x80) {
        status_set(st, STATUS_BAD_FILE, "%s: is a bare pickle, torch's format before 1.6 or no checkpoint at all: load it with a newer torch and save it again", r.file);
        return NULL;
    }
    r.out = mem_alloc(1, sizeof *r.out, "torch checkpoint", st);
    bool ok = r.out && read_archive(&r);
    zip_free(r.zip);
    pickle_free(&r.p);
    mem_free(r.bytes);
    if (ok)
        return r.out;
    table_free(r.out);
    return NULL;
}
