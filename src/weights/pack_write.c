/* The writer. Bytes only ever go forward, but for the preamble, which is written last: a file without it is no container.
 *
 * Large tensors are cut into extents of whole units, at a size that leaves little padding. Small tensors would waste 64 KiB each, so they
 * are collected and share extents; vectors have a collector of their own, because a run keeps them resident and reads them first. */
#define _GNU_SOURCE /* sync_file_range */
#define XXH_STATIC_LINKING_ONLY /* the state's size, so that it can come from mem.c */
#include "weights/pack.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/mem.h"
#include "base/output.h"
#include "weights/pack_format.h"

enum { FILES, MATRICES, VECTORS, COLLECTORS };
enum { DROP_BYTES = 8 << 20, NOT_YET = -1 };

typedef struct record {      /* a tensor, or a file (type TYPE_U8, no matrix) */
    pack_tensor t;
    bool file;
    int first_extent;        /* NOT_YET: still in its collector */
    uint64_t offset, bytes;  /* in its extent; of a file */
    int64_t part_rows;
    float error, output_error, output_plain; /* the latter two 0: not known */
} record;

typedef struct collector {
    uint8_t *data;
    size_t used, room;
    int waiting;             /* the first record that may be NOT_YET in it */
} collector;

struct pack_writer {
    XXH3_state_t hash;       /* of the extent being written; first, for its alignment */
    output out;
    uint64_t dropped, syncing; /* the page cache holds nothing before `dropped`; up to `syncing` it is on its way to disk */
    int extents, extent_room;
    extent *extent;
    int records, record_room;
    record *record;
    collector collect[COLLECTORS];
    collector *into;         /* of the tensor being written; NULL: a large one, or none */
    bool open;
    int prompts;             /* of the calibration; 0: none */
    int64_t rows_done, part_left; /* rows of the tensor written, rows until the next extent */
    uint8_t head[CODE_HEAD_BYTES];
};

size_t pack_writer_bytes(uint64_t all)
{
    uint64_t collected = all + PACK_ALIGN < PACK_SMALL ? all + PACK_ALIGN : PACK_SMALL, dirty = all < DROP_BYTES ? all : DROP_BYTES;
    return sizeof(pack_writer) + (size_t)(COLLECTORS * 4 * collected + dirty);
}

/* ---- bytes ---- */

/* Only clean pages can be dropped: start writing a stretch out, drop the one before it. */
static void leave_page_cache(pack_writer *w)
{
#ifdef SYNC_FILE_RANGE_WRITE
    if (w->out.bytes - w->syncing < DROP_BYTES)
        return;
    if (w->syncing > w->dropped) {
        off_t from = (off_t)w->dropped, bytes = (off_t)(w->syncing - w->dropped);
        sync_file_range(w->out.fd, from, bytes, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
        posix_fadvise(w->out.fd, from, bytes, POSIX_FADV_DONTNEED);
        w->dropped = w->syncing;
    }
    sync_file_range(w->out.fd, (off_t)w->syncing, (off_t)(w->out.bytes - w->syncing), SYNC_FILE_RANGE_WRITE);
    w->syncing = w->out.bytes;
#else
    (void)w;
#endif
}

static bool put(pack_writer *w, const void *data, size_t bytes, status *st)
{
    if (!output_write(&w->out, data, bytes, st))
        return false;
    leave_page_cache(w);
    return true;
}

static bool pad_to(pack_writer *w, uint64_t align, status *st)
{
    static const uint8_t zeros[4096];
    uint64_t end = (w->out.bytes + align - 1) / align * align;
    while (w->out.bytes < end) {
        uint64_t n = end - w->out.bytes;
        if (!put(w, zeros, n < sizeof zeros ? (size_t)n : sizeof zeros, st))
            return false;
    }
    return true;
}

/* ---- extents ---- */

/* Room for one more in a growing array. */
static bool grow(void *array, int count, int *room, size_t size, status *st)
{
    if (count < *room)
        return true;
    int more = *room ? *room * 2 : 64;
    void *old, *new;
    memcpy(&old, array, sizeof old);
    if (!(new = mem_resize(old, (size_t)more, size, "container", st)))
        return false;
    memcpy(array, &new, sizeof new);
    *room = more;
    return true;
}

static bool extent_begin(pack_writer *w, status *st)
{
    if (!pad_to(w, PACK_ALIGN, st) || !grow(&w->extent, w->extents, &w->extent_room, sizeof *w->extent, st))
        return false;
    w->extent[w->extents++] = (extent){.offset = w->out.bytes};
    XXH3_64bits_reset(&w->hash);
    return true;
}

static bool extent_put(pack_writer *w, const void *data, size_t bytes, status *st)
{
    XXH3_64bits_update(&w->hash, data, bytes);
    return put(w, data, bytes, st);
}

static void extent_end(pack_writer *w)
{
    extent *e = &w->extent[w->extents - 1];
    e->bytes = w->out.bytes - e->offset;
    e->xxh3 = XXH3_64bits_digest(&w->hash);
}

/* ---- collectors ---- */

/* Large enough for an extent, and at a size that wastes little: another tensor or two may fill the last 64 KiB. */
static bool full(const collector *c)
{
    return c->used >= PACK_SMALL && (c->used >= 2 * PACK_SMALL || round_up(c->used, PACK_ALIGN) - c->used <= c->used / 128);
}

static bool flush(pack_writer *w, collector *c, status *st)
{
    if (c->used == 0)
        return true;
    if (!extent_begin(w, st) || !extent_put(w, c->data, c->used, st))
        return false;
    extent_end(w);
    for (int i = c->waiting; i < w->records; i++) {
        record *r = &w->record[i];
        collector *its = &w->collect[r->file ? FILES : r->t.role == ROLE_VECTOR ? VECTORS : MATRICES];
        if (its == c && r->first_extent == NOT_YET)
            r->first_extent = w->extents - 1;
    }
    c->waiting = w->records;
    c->used = 0;
    return true;
}

static bool flush_all(pack_writer *w, size_t least, status *st)
{
    for (int i = 0; i < COLLECTORS; i++)
        if (w->collect[i].used >= least && !flush(w, &w->collect[i], st))
            return false;
    return true;
}

static bool collect(collector *c, const void *data, size_t bytes, status *st)
{
    if (c->used + bytes > c->room) {
        size_t room = c->room ? c->room * 2 : 64 * 1024;
        while (room < c->used + bytes)
            room *= 2;
        uint8_t *more = mem_resize(c->data, room, 1, "container", st);
        if (!more)
            return false;
        c->data = more;
        c->room = room;
    }
    if (bytes)
        memcpy(c->data + c->used, data, bytes);
    c->used += bytes;
    return true;
}

/* The place of a new tensor or file in its collector. */
static bool collect_at(collector *c, uint64_t *offset, status *st)
{
    static const uint8_t zeros[PACK_INNER_ALIGN];
    size_t pad = round_up(c->used, PACK_INNER_ALIGN) - c->used;
    *offset = c->used + pad;
    return collect(c, zeros, pad, st);
}

/* ---- files ---- */

static record *record_new(pack_writer *w, const char *component, const char *name, status *st)
{
    if (!grow(&w->record, w->records, &w->record_room, sizeof *w->record, st))
        return NULL;
    record r = {.first_extent = NOT_YET, .error = NAN};
    if (!(r.t.component = mem_string(component, st)) || !(r.t.name = mem_string(name, st))) {
        mem_free((char *)(uintptr_t)r.t.component);
        return NULL;
    }
    w->record[w->records] = r;
    return &w->record[w->records++];
}

bool pack_file(pack_writer *w, const char *name, const void *data, size_t bytes, status *st)
{
    assert(!w->open);
    record *r = record_new(w, "", name, st);
    if (!r)
        return false;
    r->file = true;
    r->bytes = bytes;
    r->t.type = TYPE_U8;
    if (bytes >= PACK_SMALL) {
        r->first_extent = w->extents;
        if (!extent_begin(w, st) || !extent_put(w, data, bytes, st))
            return false;
        extent_end(w);
        return true;
    }
    collector *c = &w->collect[FILES];
    if (!collect_at(c, &r->offset, st) || !(bytes ? collect(c, data, bytes, st) : collect(c, "", 1, st))) /* no extent is empty */
        return false;
    return !full(c) || flush(w, c, st);
}

/* ---- tensors ---- */

/* Rows an extent holds: up to 4 MiB, and of the sizes over 2 MiB the one that leaves the least padding in all. */
static int64_t rows_per_part(const pack_tensor *t)
{
    uint64_t unit = type_unit_bytes(t->type, &t->matrix), head = type_head_bytes(t->type);
    int64_t step = type_unit_rows(t->type), units = (t->matrix.rows + step - 1) / step;
    int64_t most = (int64_t)((PACK_PART_BYTES - head) / unit), best = 1;
    if (most >= units)
        return t->matrix.rows;
    uint64_t least = UINT64_MAX;
    for (int64_t n = most > 0 ? most : 1, last = most / 2 > 0 ? most / 2 : 1; n >= last; n--) {
        uint64_t full = (uint64_t)(units / n), rest = (uint64_t)(units % n);
        uint64_t bytes = full * round_up(head + (uint64_t)n * unit, PACK_ALIGN) + (rest ? round_up(head + rest * unit, PACK_ALIGN) : 0);
        if (bytes < least) {
            least = bytes;
            best = n;
        }
    }
    return best * step;
}

static bool new_component(const pack_writer *w, const char *component)
{
    const record *last = w->records ? &w->record[w->records - 1] : NULL;
    return last && (last->file || strcmp(last->t.component, component) != 0);
}

bool pack_begin(pack_writer *w, const pack_tensor *t, const uint8_t *head, status *st)
{
    uint64_t bytes;
    assert(!w->open && t->dims <= WEIGHT_DIMS);
    if (!type_matrix_bytes(t->type, &t->matrix, &bytes) || t->matrix.rows < 1 || t->matrix.depth < 1)
        return status_set(st, STATUS_BAD_FILE, "tensor %s/%s: %" PRId64 " x %d x %d numbers are beyond what a container holds", t->component,
                          t->name, t->matrix.rows, t->matrix.taps, t->matrix.depth);
    if (new_component(w, t->component) && !flush_all(w, PACK_SMALL / 2, st)) /* small components share */
        return false;
    record *r = record_new(w, t->component, t->name, st);
    if (!r)
        return false;
    const char *component = r->t.component, *name = r->t.name;
    r->t = *t;
    r->t.component = component;
    r->t.name = name;
    w->open = true;
    w->rows_done = w->part_left = 0;
    if (type_head_bytes(t->type))
        memcpy(w->head, head, type_head_bytes(t->type));
    w->into = bytes < PACK_SMALL ? &w->collect[t->role == ROLE_VECTOR ? VECTORS : MATRICES] : NULL;
    if (!w->into) {
        r->part_rows = rows_per_part(t);
        r->first_extent = w->extents;
        return true;
    }
    r->part_rows = t->matrix.rows;
    return collect_at(w->into, &r->offset, st) && collect(w->into, w->head, type_head_bytes(t->type), st);
}

bool pack_rows(pack_writer *w, const uint8_t *units, int64_t rows, status *st)
{
    const record *r = &w->record[w->records - 1];
    int64_t step = type_unit_rows(r->t.type);
    size_t unit = type_unit_bytes(r->t.type, &r->t.matrix);
    assert(w->open && w->rows_done % step == 0 && rows <= r->t.matrix.rows - w->rows_done);
    while (rows > 0) {
        if (w->part_left == 0) {
            w->part_left = r->part_rows;
            if (!w->into && !(extent_begin(w, st) && extent_put(w, w->head, type_head_bytes(r->t.type), st)))
                return false;
        }
        int64_t now = rows < w->part_left ? rows : w->part_left;
        size_t bytes = (size_t)((now + step - 1) / step) * unit;
        if (!(w->into ? collect(w->into, units, bytes, st) : extent_put(w, units, bytes, st)))
            return false;
        units += bytes;
        rows -= now;
        w->rows_done += now;
        w->part_left -= now;
        if (!w->into && (w->part_left == 0 || w->rows_done == r->t.matrix.rows))
            extent_end(w);
    }
    return true;
}

void pack_output_error(pack_writer *w, float error, float plain)
{
    assert(w->open);
    w->record[w->records - 1].output_error = error;
    w->record[w->records - 1].output_plain = plain;
}

void pack_calibrated(pack_writer *w, int prompts) { w->prompts = prompts; }

bool pack_end(pack_writer *w, float error, status *st)
{
    record *r = &w->record[w->records - 1];
    assert(w->open && w->rows_done == r->t.matrix.rows);
    (void)st;
    r->error = error;
    w->open = false;
    return !w->into || !full(w->into) || flush(w, w->into, st);
}

/* ---- the header ---- */

/* json-c returns NULL or a number other than 0 when memory is out; `ok` remembers. */
static void add(json_object *to, const char *key, json_object *value, bool *ok)
{
    if (!to || !value || json_object_object_add(to, key, value) != 0)
        *ok = false;
}

static void append(json_object *to, json_object *value, bool *ok)
{
    if (!to || !value || json_object_array_add(to, value) != 0)
        *ok = false;
}

static json_object *real(double x)
{
    json_object *j = json_object_new_double(x);
    if (j)
        json_object_set_serializer(j, json_object_double_to_json_string, (void *)(uintptr_t) "%.5g", NULL);
    return j;
}

static json_object *file_json(const record *r, bool *ok)
{
    json_object *j = json_object_new_object();
    add(j, "name", json_object_new_string(r->t.name), ok);
    add(j, "bytes", json_object_new_uint64(r->bytes), ok);
    add(j, "extent", json_object_new_int(r->first_extent), ok);
    add(j, "offset", json_object_new_uint64(r->offset), ok);
    return j;
}

static json_object *tensor_json(const record *r, int component, bool *ok)
{
    json_object *j = json_object_new_object(), *shape = json_object_new_array(), *matrix = json_object_new_array();
    add(j, "component", json_object_new_int(component), ok);
    add(j, "name", json_object_new_string(r->t.name), ok);
    add(j, "type", json_object_new_string(type_of(r->t.type)->name), ok);
    for (int i = 0; i < r->t.dims; i++)
        append(shape, json_object_new_int64(r->t.shape[i]), ok);
    add(j, "shape", shape, ok);
    append(matrix, json_object_new_int64(r->t.matrix.rows), ok);
    append(matrix, json_object_new_int(r->t.matrix.taps), ok);
    append(matrix, json_object_new_int(r->t.matrix.depth), ok);
    add(j, "matrix", matrix, ok);
    if (r->t.rotation)
        add(j, "rotation", json_object_new_int(r->t.rotation), ok);
    add(j, "role", json_object_new_string(pack_role_names[r->t.role]), ok);
    if (isfinite(r->error))
        add(j, "error", real((double)r->error), ok);
    if (r->output_plain > 0) {
        add(j, "output_error", real((double)r->output_error), ok);
        add(j, "output_error_plain", real((double)r->output_plain), ok);
    }
    add(j, "extent", json_object_new_int(r->first_extent), ok);
    add(j, "offset", json_object_new_uint64(r->offset), ok);
    add(j, "part_rows", json_object_new_int64(r->part_rows), ok);
    return j;
}

static json_object *extent_json(const extent *e, bool *ok)
{
    json_object *j = json_object_new_array();
    char hash[17];
    snprintf(hash, sizeof hash, "%016" PRIx64, e->xxh3);
    append(j, json_object_new_uint64(e->offset), ok);
    append(j, json_object_new_uint64(e->bytes), ok);
    append(j, json_object_new_string(hash), ok);
    return j;
}

/* A component's place in the list, where it is put at its first tensor. */
static int component_index(json_object *list, const char *name, bool *ok)
{
    int n = list ? (int)json_object_array_length(list) : 0;
    for (int i = 0; i < n; i++)
        if (strcmp(json_object_get_string(json_object_array_get_idx(list, (size_t)i)), name) == 0)
            return i;
    append(list, json_object_new_string(name), ok);
    return n;
}

static json_object *header_json(const pack_writer *w, bool *ok)
{
    json_object *j = json_object_new_object(), *components = json_object_new_array(), *files = json_object_new_array();
    json_object *tensors = json_object_new_array(), *extents = json_object_new_array();
    for (int i = 0; i < w->records; i++) {
        const record *r = &w->record[i];
        if (r->file)
            append(files, file_json(r, ok), ok);
        else
            append(tensors, tensor_json(r, component_index(components, r->t.component, ok), ok), ok);
    }
    for (int i = 0; i < w->extents; i++)
        append(extents, extent_json(&w->extent[i], ok), ok);
    if (w->prompts)
        add(j, "calibration_prompts", json_object_new_int(w->prompts), ok);
    add(j, "files", files, ok);
    add(j, "components", components, ok);
    add(j, "tensors", tensors, ok);
    add(j, "extents", extents, ok);
    return j;
}

static bool put_header(pack_writer *w, preamble *p, status *st)
{
    bool ok = true;
    json_object *j = header_json(w, &ok);
    size_t bytes = 0;
    const char *text = ok ? json_object_to_json_string_length(j, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &bytes) : NULL;
    if (!text)
        status_set(st, STATUS_FAILED, "%s: out of memory (header)", w->out.path);
    else if (bytes > PACK_HEADER_LIMIT)
        status_set(st, STATUS_FAILED, "%s: a header of %zu bytes is too large", w->out.path, bytes);
    if (status_ok(st)) {
        *p = (preamble){PACK_VERSION, 1, w->out.bytes, bytes, XXH3_64bits(text, bytes), w->out.bytes + bytes};
        put(w, text, bytes, st);
    }
    json_object_put(j);
    return status_ok(st);
}

static bool put_preamble(pack_writer *w, const preamble *p, status *st)
{
    uint8_t b[PACK_PREAMBLE_BYTES] = {0};
    memcpy(b + AT_MAGIC, PACK_MAGIC, 8);
    put_le(b + AT_VERSION, 4, p->version);
    put_le(b + AT_LEAST_READER, 4, p->least_reader);
    put_le(b + AT_HEADER_OFFSET, 8, p->header_offset);
    put_le(b + AT_HEADER_BYTES, 8, p->header_bytes);
    put_le(b + AT_HEADER_XXH3, 8, p->header_xxh3);
    put_le(b + AT_FILE_BYTES, 8, p->file_bytes);
    put_le(b + AT_PREAMBLE_XXH3, 8, XXH3_64bits(b, AT_PREAMBLE_XXH3));
    ssize_t n;
    do
        n = pwrite(w->out.fd, b, sizeof b, 0);
    while (n < 0 && errno == EINTR);
    if (n != sizeof b || fsync(w->out.fd) != 0)
        return status_set(st, STATUS_FAILED, "%s: cannot be written: %s", w->out.path, strerror(n < 0 || n == sizeof b ? errno : ENOSPC));
    return true;
}

/* ---- from beginning to end ---- */

static void release(pack_writer *w)
{
    for (int i = 0; i < w->records; i++) {
        mem_free((char *)(uintptr_t)w->record[i].t.component);
        mem_free((char *)(uintptr_t)w->record[i].t.name);
    }
    for (int i = 0; i < COLLECTORS; i++)
        mem_free(w->collect[i].data);
    mem_free(w->record);
    mem_free(w->extent);
    mem_free(w);
}

pack_writer *pack_create(const char *path, status *st)
{
    pack_writer *w = mem_alloc(1, sizeof *w, "container", st);
    if (!w)
        return NULL;
    XXH3_INITSTATE(&w->hash);
    if (!output_open(&w->out, path, st)) {
        release(w);
        return NULL;
    }
    if (!w->out.part)
        status_set(st, STATUS_USAGE, "%s: a container can only be written to a file", path);
    static const uint8_t zeros[PACK_PREAMBLE_BYTES];
    if (!status_ok(st) || !put(w, zeros, sizeof zeros, st)) {
        output_abort(&w->out);
        release(w);
        return NULL;
    }
    return w;
}

bool pack_commit(pack_writer *w, status *st)
{
    preamble p = {0};
    assert(!status_ok(st) || !w->open);
    bool ok = status_ok(st) && flush_all(w, 1, st) && pad_to(w, PACK_INNER_ALIGN, st) && put_header(w, &p, st) && put_preamble(w, &p, st);
    if (ok)
        ok = output_commit(&w->out, st);
    else
        output_abort(&w->out);
    release(w);
    return ok;
}
