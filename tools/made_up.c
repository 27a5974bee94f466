/* made_up.c: the file behind the source computes what is read from it, so that gigabytes of weights cost nothing to make: a unit of
 * rows is encoded once and handed out again and again. */
#include "tools/made_up.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "quant/encode.h"
#include "quant/random.h"

enum { PART_BYTES = 4 << 20 }; /* as a container's */

typedef struct tensor_bytes {  /* of one weight */
    uint64_t begin, part_stride;
    size_t head_bytes, unit_bytes;
    uint8_t *head_and_unit;
} tensor_bytes;

typedef struct made_up_model {
    source source;
    weight weight[MADE_UP_MOST];
    tensor_bytes bytes[MADE_UP_MOST];
    int count;
    io *file;
    const char *component;
    weight_part part[];
} made_up_model;

/* What stands at `at` of a part: the head, then unit after unit. */
static size_t copy_some(const tensor_bytes *t, uint64_t at, uint8_t *out, size_t room)
{
    uint64_t from = at < t->head_bytes ? at : t->head_bytes + (at - t->head_bytes) % t->unit_bytes;
    uint64_t end = at < t->head_bytes ? t->head_bytes : t->head_bytes + t->unit_bytes;
    size_t n = end - from < room ? (size_t)(end - from) : room;
    memcpy(out, t->head_and_unit + from, n);
    return n;
}

static int64_t read_made_up(void *ctx, uint64_t offset, void *out, size_t bytes)
{
    const made_up_model *m = ctx;
    int i = m->count - 1;
    while (i > 0 && offset < m->bytes[i].begin)
        i--;
    const tensor_bytes *t = &m->bytes[i];
    size_t done = 0;
    uint64_t end = i + 1 < m->count ? m->bytes[i + 1].begin : UINT64_MAX, at = (offset - t->begin) % t->part_stride;
    bytes = end - offset < bytes ? (size_t)(end - offset) : bytes;
    bytes = t->part_stride - at < bytes ? (size_t)(t->part_stride - at) : bytes;
    while (done < bytes)
        done += copy_some(t, at + done, (uint8_t *)out + done, bytes - done);
    return (int64_t)done;
}

static void close_made_up(void *ctx)
{
    made_up_model *m = ctx;
    for (int i = 0; i < m->count; i++)
        mem_free(m->bytes[i].head_and_unit);
}

static const io_vtable vtable = {read_made_up, close_made_up};

/* One unit of rows, encoded. */
static bool make_bytes(const made_up *w, const kernels *k, tensor_bytes *t, int *rotation, status *st)
{
    matrix_shape m = w->matrix;
    m.rows = type_unit_rows(w->type);
    size_t n = (size_t)m.rows * (size_t)m.taps * (size_t)m.depth;
    encoding e = encoding_of(w->type, m, "", w->name);
    random_tensor numbers = random_of(1, "", w->name, w->role, &w->matrix);
    encode_trial trial = {0};
    encode_sum sum = {0};
    *rotation = e.rotation;
    t->head_bytes = type_head_bytes(w->type);
    t->unit_bytes = type_unit_bytes(w->type, &m);
    float *rows = mem_alloc(n, sizeof *rows, "made-up weights", st);
    void *scratch = mem_alloc(1, encode_scratch_bytes(&e), "made-up weights", st);
    t->head_and_unit = mem_alloc(1, t->head_bytes + t->unit_bytes, "made-up weights", st);
    if (status_ok(st)) {
        random_fill(&numbers, 0, n, rows);
        encode_try(&e, k, rows, m.rows, scratch, &trial);
        if (t->head_bytes)
            encode_head(&e, &trial, t->head_and_unit);
        encode_rows(&e, k, t->head_and_unit, rows, 0, m.rows, scratch, t->head_and_unit + t->head_bytes, &sum, st);
    }
    mem_free(scratch);
    mem_free(rows);
    return status_ok(st);
}

static int64_t rows_of_part(const made_up *w)
{
    int64_t step = type_unit_rows(w->type), units = PART_BYTES / (int64_t)type_unit_bytes(w->type, &w->matrix);
    return (w->role == ROLE_VECTOR ? w->matrix.rows : units < 1 ? step : units * step);
}

static int parts_of(const made_up *w) { return (int)((w->matrix.rows + rows_of_part(w) - 1) / rows_of_part(w)); }

/* Place one tensor from *at on; returns how many parts it took. */
static int place(made_up_model *m, int i, const made_up *w, int rotation, weight_part *part, uint64_t *at)
{
    tensor_bytes *t = &m->bytes[i];
    weight *to = &m->weight[i];
    int side = (int)lround(sqrt(w->matrix.taps)), parts = 0;
    bool vector = w->role == ROLE_VECTOR;
    int64_t per = rows_of_part(w), step = type_unit_rows(w->type);
    *to = (weight){.component = "", .name = w->name, .type = w->type, .dims = vector ? 1 : side > 1 ? 4 : 2,
                   .shape = {vector ? w->matrix.depth : w->matrix.rows, w->matrix.depth, side, side}, .matrix = w->matrix, .error = NAN, .part = part};
    while (rotation >> to->rotation_log2 > 1)
        to->rotation_log2++;
    t->begin = *at;
    t->part_stride = round_up(t->head_bytes + (size_t)(per / step) * t->unit_bytes, IO_ALIGN);
    for (int64_t row = 0; row < w->matrix.rows; row += per, parts++, *at += t->part_stride) {
        int64_t rows = w->matrix.rows - row < per ? w->matrix.rows - row : per;
        part[parts] = (weight_part){*at, t->head_bytes + (uint64_t)((rows + step - 1) / step) * t->unit_bytes, row, rows, -1};
    }
    return to->parts = parts;
}

source *made_up_open(const made_up *list, int count, const kernels *k, status *st)
{
    size_t parts = 0;
    int rotation[MADE_UP_MOST] = {0};
    for (int i = 0; i < count; i++)
        parts += (size_t)parts_of(&list[i]);
    made_up_model *m = mem_alloc(1, sizeof *m + parts * sizeof m->part[0], "made-up weights", st);
    if (!m)
        return NULL;
    m->count = count;
    uint64_t at = 0;
    weight_part *next = m->part;
    for (int i = 0; i < count && status_ok(st); i++)
        if (make_bytes(&list[i], k, &m->bytes[i], &rotation[i], st))
            next += place(m, i, &list[i], rotation[i], next, &at);
    m->component = "";
    m->source = (source){.files = 1, .file = &m->file, .components = 1, .component = &m->component, .weights = count, .weight = m->weight};
    m->source.path = status_ok(st) ? mem_string("made-up weights", st) : NULL;
    m->file = m->source.path ? io_custom("made-up weights", at, &vtable, m, st) : NULL;
    if (m->file)
        return &m->source;
    close_made_up(m);
    mem_free(m->source.path);
    mem_free(m);
    return NULL;
}
