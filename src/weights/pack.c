/* The reader. Nothing in the file is believed: every number is checked against the file's size and against the others before a
 * `source` is made of it, so that the rest of the program may use offsets and shapes as they are. */
#define XXH_STATIC_LINKING_ONLY
#include "weights/pack.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "import/json.h"
#include "weights/pack_format.h"

const char *const pack_role_names[ROLE_VECTOR + 1] = {
    [ROLE_LINEAR] = "linear", [ROLE_CONV] = "conv", [ROLE_EDGE] = "edge", [ROLE_EMBEDDING] = "embedding", [ROLE_VECTOR] = "vector"};

/* ---- the preamble ---- */

static bool check_version(const uint8_t *b, const char *path, status *st)
{
    uint32_t version = (uint32_t)get_le(b + AT_VERSION, 4), least = (uint32_t)get_le(b + AT_LEAST_READER, 4);
    if (least > PACK_VERSION)
        return status_set(st, STATUS_BAD_FILE,
                          "%s: container of format version %" PRIu32 ", which needs a penstock that reads version %" PRIu32
                          " (this one reads up to %d)",
                          path, version, least, PACK_VERSION);
    if (version == 0 || least == 0 || least > version)
        return status_set(st, STATUS_BAD_FILE, "%s: damaged: format version %" PRIu32 " for readers of %" PRIu32, path, version, least);
    return true;
}

static bool read_preamble(io *f, const char *path, preamble *p, status *st)
{
    uint8_t b[PACK_PREAMBLE_BYTES];
    uint64_t size = io_size(f);
    size_t have = size < sizeof b ? (size_t)size : sizeof b;
    if (!io_read(f, 0, b, have, st))
        return false;
    if (memcmp(b, PACK_MAGIC, have < 8 ? have : 8) != 0 || have == 0)
        return status_set(st, STATUS_BAD_FILE, "%s: is no penstock container (it does not begin with %s)", path, PACK_MAGIC);
    if (have < sizeof b)
        return status_set(st, STATUS_BAD_FILE, "%s: truncated: has %" PRIu64 " bytes, the container needs more than %d", path, size,
                          PACK_PREAMBLE_BYTES);
    if (!check_version(b, path, st))
        return false;
    if (get_le(b + AT_PREAMBLE_XXH3, 8) != XXH3_64bits(b, AT_PREAMBLE_XXH3))
        return status_set(st, STATUS_BAD_FILE, "%s: damaged: its first %d bytes fail their checksum", path, PACK_PREAMBLE_BYTES);
    *p = (preamble){(uint32_t)get_le(b + AT_VERSION, 4), (uint32_t)get_le(b + AT_LEAST_READER, 4), get_le(b + AT_HEADER_OFFSET, 8),
                    get_le(b + AT_HEADER_BYTES, 8), get_le(b + AT_HEADER_XXH3, 8), get_le(b + AT_FILE_BYTES, 8)};
    if (size < p->file_bytes)
        return status_set(st, STATUS_BAD_FILE, "%s: truncated: has %" PRIu64 " bytes, the container needs %" PRIu64, path, size,
                          p->file_bytes);
    if (size > p->file_bytes)
        return status_set(st, STATUS_BAD_FILE, "%s: has %" PRIu64 " bytes, the container ends at %" PRIu64, path, size, p->file_bytes);
    if (p->header_bytes > PACK_HEADER_LIMIT)
        return status_set(st, STATUS_BAD_FILE, "%s: its header has %" PRIu64 " bytes, more than %d are not read", path, p->header_bytes,
                          PACK_HEADER_LIMIT);
    if (p->header_offset < PACK_PREAMBLE_BYTES || p->header_bytes > p->file_bytes ||
        p->header_offset != p->file_bytes - p->header_bytes)
        return status_set(st, STATUS_BAD_FILE, "%s: damaged: the header does not lie at the end", path);
    return true;
}

/* ---- the header's text, and what it may say ---- */

typedef struct reader {
    source *s;
    const char *path;
    preamble p;
    const json *files, *components, *tensors, *extents;
    char *next;              /* the rest of s->memory */
    status *st;
} reader;

static bool bad(const reader *r, const char *what, int i, const char *why)
{
    return status_set(r->st, STATUS_BAD_FILE, "%s: header: %s %d %s", r->path, what, i, why);
}

static json *read_header(reader *r, io *f)
{
    json *j = NULL;
    char *text = mem_alloc((size_t)r->p.header_bytes + 1, 1, "header", r->st);
    if (text && io_read(f, r->p.header_offset, text, (size_t)r->p.header_bytes, r->st)) {
        if (XXH3_64bits(text, (size_t)r->p.header_bytes) != r->p.header_xxh3)
            status_set(r->st, STATUS_BAD_FILE, "%s: damaged: the header fails its checksum", r->path);
        else
            j = json_parse(text, (size_t)r->p.header_bytes, r->path, r->st);
    }
    mem_free(text);
    return j;
}

static const json *array_member(const reader *r, const json *j, const char *key)
{
    const json *a = json_member(j, key);
    if (!a || !json_object_is_type(a, json_type_array)) {
        status_set(r->st, STATUS_BAD_FILE, "%s: header: %s must be a list", r->path, key);
        return NULL;
    }
    return a;
}

static int length(const json *array) { return (int)json_object_array_length(array); }

static const json *item(const json *array, int i) { return json_object_array_get_idx(array, (size_t)i); }

/* A whole number in low .. high. */
static bool whole(const json *j, int64_t low, int64_t high, int64_t *out)
{
    if (!j || !json_object_is_type(j, json_type_int))
        return false;
    *out = json_object_get_int64(j);
    return *out >= low && *out <= high;
}

static bool whole_member(const json *o, const char *key, int64_t low, int64_t high, int64_t *out)
{
    return whole(json_member(o, key), low, high, out);
}

/* Without zeros inside, and not empty unless `empty`. */
static const char *text_of(const json *j, bool empty)
{
    if (!j || !json_object_is_type(j, json_type_string))
        return NULL;
    const char *s = json_object_get_string((json *)(uintptr_t)j);
    size_t n = (size_t)json_object_get_string_len(j);
    return strlen(s) == n && (n > 0 || empty) ? s : NULL;
}

/* ---- memory: one block, counted first ---- */

static void *take(reader *r, size_t bytes)
{
    void *p = r->next;
    r->next += round_up(bytes, 8);
    return p;
}

static const char *take_text(reader *r, const char *text)
{
    size_t n = strlen(text) + 1;
    return memcpy(take(r, n), text, n);
}

/* How many extents a tensor is spread over, or -1: from its rows and the rows of a part. */
static int64_t parts_of(const json *t)
{
    const json *matrix = json_member(t, "matrix");
    int64_t rows, part_rows;
    if (!matrix || !json_object_is_type(matrix, json_type_array) || length(matrix) != 3 || !whole(item(matrix, 0), 1, INT64_MAX / 2, &rows) ||
        !whole_member(t, "part_rows", 1, INT64_MAX / 2, &part_rows))
        return -1;
    return (rows - 1) / part_rows + 1;
}

static bool count_texts(const reader *r, const json *list, const char *what, size_t *bytes)
{
    for (int i = 0; i < length(list); i++) {
        const char *name = text_of(json_member(item(list, i), "name"), false);
        if (!name)
            return bad(r, what, i, "has no name");
        *bytes += round_up(strlen(name) + 1, 8);
    }
    return true;
}

/* No sum can overflow: the header is at most 64 MiB long and a tensor has at most as many parts as there are extents. */
static bool make_room(reader *r)
{
    source *s = r->s;
    s->components = length(r->components);
    s->weights = length(r->tensors);
    s->blobs = length(r->files);
    s->extents = length(r->extents);
    size_t bytes = (size_t)s->components * sizeof *s->component + (size_t)s->weights * sizeof *s->weight +
                   (size_t)s->blobs * sizeof *s->blob + (size_t)s->extents * sizeof *s->extent + sizeof *s->file + 64;
    uint64_t parts = 0;
    for (int i = 0; i < s->weights; i++) {
        int64_t n = parts_of(item(r->tensors, i));
        if (n < 1 || n > s->extents)
            return bad(r, "tensor", i, "has a wrong number of parts");
        parts += (uint64_t)n;
        if (parts > (uint64_t)s->extents + (uint64_t)s->weights)
            return bad(r, "tensor", i, "has parts that another one has");
    }
    bytes += (size_t)parts * sizeof(weight_part);
    for (int i = 0; i < s->components; i++) {
        const char *name = text_of(item(r->components, i), true);
        if (!name)
            return bad(r, "component", i, "has no name");
        bytes += round_up(strlen(name) + 1, 8);
    }
    if (!count_texts(r, r->tensors, "tensor", &bytes) || !count_texts(r, r->files, "file", &bytes))
        return false;
    s->memory = r->next = mem_alloc(1, bytes, "header", r->st);
    return s->memory != NULL;
}

/* ---- extents ---- */

static bool read_hash(const json *j, uint64_t *out)
{
    const char *s = text_of(j, false);
    if (!s || strlen(s) != 16 || strspn(s, "0123456789abcdef") != 16)
        return false;
    *out = strtoull(s, NULL, 16);
    return true;
}

static bool read_extents(reader *r)
{
    source *s = r->s;
    s->extent = take(r, (size_t)s->extents * sizeof *s->extent);
    uint64_t end = PACK_PREAMBLE_BYTES;
    for (int i = 0; i < s->extents; i++) {
        const json *j = item(r->extents, i);
        int64_t offset, bytes;
        extent *e = &s->extent[i];
        if (!j || !json_object_is_type(j, json_type_array) || length(j) < 3 || !whole(item(j, 0), 0, INT64_MAX, &offset) ||
            !whole(item(j, 1), 1, INT64_MAX, &bytes) || !read_hash(item(j, 2), &e->xxh3))
            return bad(r, "extent", i, "is not [offset, bytes, checksum]");
        e->offset = (uint64_t)offset;
        e->bytes = (uint64_t)bytes;
        if (e->offset % PACK_ALIGN != 0)
            return bad(r, "extent", i, "is not aligned");
        if (e->offset < end)
            return bad(r, "extent", i, "overlaps what comes before it");
        if (e->offset > r->p.header_offset || e->bytes > r->p.header_offset - e->offset)
            return bad(r, "extent", i, "reaches over the end of the data");
        end = e->offset + e->bytes;
    }
    return true;
}

/* `bytes` at `offset` in extent number e, all of it inside. */
static bool inside(const reader *r, int64_t e, int64_t offset, uint64_t bytes)
{
    const extent *x = &r->s->extent[e];
    return (uint64_t)offset <= x->bytes && bytes <= x->bytes - (uint64_t)offset;
}

/* ---- tensors ---- */

static bool read_shape(const reader *r, const json *j, int i, weight *w)
{
    const json *shape = json_member(j, "shape"), *matrix = json_member(j, "matrix");
    int64_t product = 1, taps, depth;
    if (!shape || !json_object_is_type(shape, json_type_array) || length(shape) > WEIGHT_DIMS)
        return bad(r, "tensor", i, "has no shape that can be read");
    w->dims = length(shape);
    for (int d = 0; d < w->dims; d++)
        if (!whole(item(shape, d), 1, INT64_MAX, &w->shape[d]) || __builtin_mul_overflow(product, w->shape[d], &product))
            return bad(r, "tensor", i, "has no shape that can be read");
    if (!whole(item(matrix, 0), 1, INT64_MAX / 2, &w->matrix.rows) || !whole(item(matrix, 1), 1, MOST_TAPS, &taps) ||
        !whole(item(matrix, 2), 1, MOST_DEPTH, &depth))
        return bad(r, "tensor", i, "has no matrix that can be read");
    w->matrix.taps = (int32_t)taps;
    w->matrix.depth = (int32_t)depth;
    int64_t numbers;
    if (!matrix_valid(w->type, &w->matrix) || __builtin_mul_overflow(w->matrix.rows, taps * depth, &numbers) || numbers != product)
        return bad(r, "tensor", i, "has a matrix that does not fit its shape");
    return true;
}

static bool read_rotation(const reader *r, const json *j, int i, weight *w)
{
    int64_t block = 0;
    if (!json_member(j, "rotation"))
        return true;
    if (!whole_member(j, "rotation", 16, 1024, &block) || (block & (block - 1)) != 0 || w->matrix.depth % block != 0 ||
        !type_of(w->type)->panels)
        return bad(r, "tensor", i, "has a rotation that does not fit");
    w->rotation_log2 = (uint8_t)__builtin_ctzll((unsigned long long)block);
    return true;
}

static bool read_parts(reader *r, const json *j, int i, weight *w)
{
    int64_t first, offset, part_rows, step = type_unit_rows(w->type), rows = w->matrix.rows;
    if (!whole_member(j, "extent", 0, r->s->extents - 1, &first) || !whole_member(j, "offset", 0, INT64_MAX, &offset) ||
        !whole_member(j, "part_rows", 1, INT64_MAX / 2, &part_rows))
        return bad(r, "tensor", i, "has no place that can be read");
    w->parts = (int)parts_of(j);
    if (w->parts > r->s->extents - first || (w->parts > 1 && (part_rows % step != 0 || offset != 0)) || offset % PACK_INNER_ALIGN != 0)
        return bad(r, "tensor", i, "has parts that cannot be");
    w->part = take(r, (size_t)w->parts * sizeof *w->part);
    for (int k = 0; k < w->parts; k++) {
        weight_part *p = &w->part[k];
        *p = (weight_part){.first_row = k * part_rows, .extent = (int32_t)(first + k)};
        p->rows = rows - p->first_row < part_rows ? rows - p->first_row : part_rows;
        matrix_shape m = {p->rows, w->matrix.taps, w->matrix.depth};
        if (!type_matrix_bytes(w->type, &m, &p->bytes) || !inside(r, p->extent, offset, p->bytes) ||
            (w->parts > 1 && p->bytes != r->s->extent[p->extent].bytes))
            return bad(r, "tensor", i, "does not fit its extents");
        p->offset = r->s->extent[p->extent].offset + (uint64_t)offset;
    }
    return true;
}

static float real_member(const json *j, const char *name, float otherwise)
{
    const json *x = json_member(j, name);
    bool number = x && (json_object_is_type(x, json_type_double) || json_object_is_type(x, json_type_int));
    return number ? (float)json_object_get_double(x) : otherwise;
}

static bool read_tensor(reader *r, int i)
{
    const json *j = item(r->tensors, i);
    weight *w = &r->s->weight[i];
    int64_t component;
    const char *type = text_of(json_member(j, "type"), false);
    const type_traits *traits = type ? type_by_name(type) : NULL;
    w->name = take_text(r, text_of(json_member(j, "name"), false));
    if (!traits)
        return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s: type %s is not known", r->path, w->name, type ? type : "(none)");
    w->type = traits->type;
    if (!whole_member(j, "component", 0, r->s->components - 1, &component))
        return bad(r, "tensor", i, "has no component");
    w->component = r->s->component[component];
    w->error = real_member(j, "error", NAN);
    w->output_error = real_member(j, "output_error", 0);
    w->output_plain = real_member(j, "output_error_plain", 0);
    return read_shape(r, j, i, w) && read_rotation(r, j, i, w) && read_parts(r, j, i, w);
}

static int by_name(const void *x, const void *y)
{
    const weight *a = x, *b = y;
    int c = strcmp(a->component, b->component);
    return c ? c : strcmp(a->name, b->name);
}

static bool read_tensors(reader *r)
{
    source *s = r->s;
    s->weight = take(r, (size_t)s->weights * sizeof *s->weight);
    for (int i = 0; i < s->weights; i++)
        if (!read_tensor(r, i))
            return false;
    if (s->weights)
        qsort(s->weight, (size_t)s->weights, sizeof *s->weight, by_name);
    for (int i = 1; i < s->weights; i++)
        if (by_name(&s->weight[i - 1], &s->weight[i]) == 0)
            return status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s/%s is there twice", r->path, s->weight[i].component, s->weight[i].name);
    return true;
}

/* ---- components and files ---- */

static int by_text(const void *x, const void *y)
{
    const char *a, *b;
    memcpy(&a, x, sizeof a);
    memcpy(&b, y, sizeof b);
    return strcmp(a, b);
}

static bool read_components(reader *r)
{
    source *s = r->s;
    s->component = take(r, (size_t)s->components * sizeof *s->component);
    for (int i = 0; i < s->components; i++)
        s->component[i] = take_text(r, text_of(item(r->components, i), true));
    return true;
}

/* After the tensors, which number the components in the header's order. */
static bool sort_components(reader *r)
{
    source *s = r->s;
    if (s->components)
        qsort(s->component, (size_t)s->components, sizeof *s->component, by_text);
    for (int i = 1; i < s->components; i++)
        if (strcmp(s->component[i - 1], s->component[i]) == 0)
            return status_set(r->st, STATUS_BAD_FILE, "%s: component %s is there twice", r->path, s->component[i]);
    return true;
}

/* Names are relative and stay inside, should anybody ever write these files out. */
static bool safe_name(const char *name)
{
    if (name[0] == '/')
        return false;
    for (const char *p = name; p; p = strchr(p, '/'), p = p ? p + 1 : p)
        if (strncmp(p, "..", 2) == 0 && (p[2] == 0 || p[2] == '/'))
            return false;
    return true;
}

static int by_blob_name(const void *x, const void *y)
{
    const source_blob *a = x, *b = y;
    return strcmp(a->name, b->name);
}

static bool read_files(reader *r)
{
    source *s = r->s;
    s->blob = take(r, (size_t)s->blobs * sizeof *s->blob);
    for (int i = 0; i < s->blobs; i++) {
        const json *j = item(r->files, i);
        int64_t e, offset, bytes;
        source_blob *b = &s->blob[i];
        b->name = take_text(r, text_of(json_member(j, "name"), false));
        if (!safe_name(b->name) || !whole_member(j, "extent", 0, s->extents - 1, &e) ||
            !whole_member(j, "offset", 0, INT64_MAX, &offset) || !whole_member(j, "bytes", 0, INT64_MAX, &bytes) ||
            !inside(r, e, offset, (uint64_t)bytes))
            return bad(r, "file", i, "has no place that can be read");
        b->extent = (int32_t)e;
        b->offset = s->extent[e].offset + (uint64_t)offset;
        b->bytes = (uint64_t)bytes;
    }
    if (s->blobs)
        qsort(s->blob, (size_t)s->blobs, sizeof *s->blob, by_blob_name);
    for (int i = 1; i < s->blobs; i++)
        if (strcmp(s->blob[i - 1].name, s->blob[i].name) == 0)
            return status_set(r->st, STATUS_BAD_FILE, "%s: file %s is there twice", r->path, s->blob[i].name);
    return true;
}

/* ---- no byte belongs to two ---- */

typedef struct place { uint64_t offset, bytes; const char *name; } place;

static int by_offset(const void *x, const void *y)
{
    const place *a = x, *b = y;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static bool check_overlaps(const reader *r)
{
    const source *s = r->s;
    size_t n = (size_t)s->blobs, count = 0;
    for (int i = 0; i < s->weights; i++)
        n += (size_t)s->weight[i].parts;
    place *list = mem_alloc(n + 1, sizeof *list, "header", r->st);
    if (!list)
        return false;
    for (int i = 0; i < s->blobs; i++)
        if (s->blob[i].bytes)
            list[count++] = (place){s->blob[i].offset, s->blob[i].bytes, s->blob[i].name};
    for (int i = 0; i < s->weights; i++)
        for (int k = 0; k < s->weight[i].parts; k++)
            list[count++] = (place){s->weight[i].part[k].offset, s->weight[i].part[k].bytes, s->weight[i].name};
    qsort(list, count, sizeof *list, by_offset);
    for (size_t i = 1; i < count; i++)
        if (list[i].offset - list[i - 1].offset < list[i - 1].bytes) {
            status_set(r->st, STATUS_BAD_FILE, "%s: header: %s and %s overlap", r->path, list[i - 1].name, list[i].name);
            break;
        }
    mem_free(list);
    return status_ok(r->st);
}

static bool fill(reader *r, const json *j)
{
    r->files = array_member(r, j, "files");
    r->components = array_member(r, j, "components");
    r->tensors = array_member(r, j, "tensors");
    r->extents = array_member(r, j, "extents");
    return status_ok(r->st) && make_room(r) && read_extents(r) && read_components(r) && read_tensors(r) && sort_components(r) &&
           read_files(r) && check_overlaps(r);
}

source *source_open_pack(const char *path, status *st)
{
    io *f = io_open(path, st);
    if (!f)
        return NULL;
    reader r = {.path = path, .st = st};
    json *j = NULL;
    if (read_preamble(f, path, &r.p, st) && (r.s = mem_alloc(1, sizeof *r.s, "model", st)) && (r.s->path = mem_string(path, st)) &&
        (j = read_header(&r, f)) && fill(&r, j)) {
        r.s->container = true;
        r.s->files = 1;
        r.s->file = take(&r, sizeof *r.s->file);
        r.s->file[0] = f;
        r.s->hash = r.p.header_xxh3;
        int64_t prompts;
        r.s->calibration_prompts = whole_member(j, "calibration_prompts", 1, INT32_MAX, &prompts) ? (int)prompts : 0;
    } else {
        io_close(f);
        if (r.s) {
            mem_free(r.s->memory);
            mem_free(r.s->path);
            mem_free(r.s);
            r.s = NULL;
        }
    }
    json_free(j);
    return r.s;
}
