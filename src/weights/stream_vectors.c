/* What is read by itself: vectors, which stay, and the rows of embeddings. */
#include "base/mem.h"
#include "weights/stream_impl.h"

static bool load_vector(stream *s, int use, size_t at, status *st)
{
    const plan_use *u = &s->plan->use[use];
    const weight *w = u->weight;
    size_t row = type_unit_bytes(w->type, &u->matrix), bytes = row * (size_t)u->matrix.rows;
    int64_t floats = (int64_t)u->matrix.taps * u->matrix.depth; /* several taps: kernels of one channel each, in the file's order */
    if (type_of(w->type)->panels || w->type == TYPE_Q8_ROWS || w->parts != 1 || w->part[0].bytes < bytes)
        return status_set(st, STATUS_BAD_FILE, "%s: tensor %s/%s: %s is no type for a vector", s->source->path, w->component, w->name, type_of(w->type)->name);
    if (s->source->container && !stream_check_extent(s, w, w->part[0].extent, st))
        return false;
    uint8_t *raw = mem_alloc(1, bytes, "vector", st);
    if (raw && io_read(s->source->file[w->file], w->part[0].offset, raw, bytes, st))
        for (int64_t r = 0; r < u->matrix.rows; r++)
            type_row_to_f32(s->k, w->type, floats, raw + (size_t)r * row, s->vectors + at + (size_t)(r * floats));
    mem_free(raw);
    return status_ok(st);
}

/* Vectors from use `first` on, together: one by one each would wait for the disk, behind the readers' large reads. The first use that was not asked for. */
static int ask_for_vectors(const stream *s, int first)
{
    uint64_t asked = 0;
    for (; first < s->plan->uses; first++) {
        const weight *w = s->plan->use[first].weight;
        if (s->plan->use[first].role != ROLE_VECTOR || w->parts != 1)
            continue;
        if (asked && asked + w->part[0].bytes > VECTORS_AHEAD)
            break;
        asked += w->part[0].bytes;
        if (w->part[0].bytes <= VECTORS_AHEAD)
            io_ahead(s->source->file[w->file], w->part[0].offset, w->part[0].bytes);
    }
    return first;
}

bool stream_load_vectors(stream *s, status *st)
{
    size_t at = 0;
    for (int i = 0, asked = 0; i < s->plan->uses && status_ok(st); i++) {
        if (i == asked && !s->how.mapped)
            asked = ask_for_vectors(s, i);
        const plan_use *u = &s->plan->use[i];
        if (u->role != ROLE_VECTOR) {
            for (int p = 0; s->source->container && p < u->weight->parts; p++)
                if (u->role != ROLE_EMBEDDING && u->weight->part[p].extent >= 0 && !s->in_flight[u->weight->part[p].extent])
                    stream_check_extent(s, u->weight, u->weight->part[p].extent, st);
            continue;
        }
        s->vector_at[i] = at;
        load_vector(s, i, at, st);
        at += round_up((size_t)(u->matrix.rows * u->matrix.taps * u->matrix.depth), 16);
    }
    return status_ok(st);
}

const float *stream_vector(const stream *s, int use) { return s->vectors + s->vector_at[use]; }

enum { ROWS_AHEAD = 32 };

static const weight_part *part_of_row(const weight *w, int32_t row)
{
    for (const weight_part *p = w->part; p < w->part + w->parts; p++)
        if (row >= p->first_row && row < p->first_row + p->rows)
            return p;
    return NULL;
}

static uint64_t row_offset(const weight_part *p, int32_t row, size_t head, size_t bytes)
{
    return p->offset + head + (uint64_t)(row - p->first_row) * bytes;
}

bool stream_gather(stream *s, int use, const int32_t *rows, int count, float *out, status *st)
{
    const plan_use *u = &s->plan->use[use];
    const weight *w = u->weight;
    io *f = s->source->file[w->file];
    size_t bytes = type_unit_bytes(w->type, &u->matrix), head = type_head_bytes(w->type);
    uint8_t *raw = mem_alloc(1, bytes, "embedding", st);
    for (int i = 0; i < count && raw && status_ok(st); i++) {
        for (int n = i; i % ROWS_AHEAD == 0 && n < count && n < i + ROWS_AHEAD; n++) { /* asked for together, the disk brings them at once */
            const weight_part *p = part_of_row(w, rows[n]);
            if (p)
                io_ahead(f, row_offset(p, rows[n], head, bytes), bytes);
        }
        const weight_part *p = part_of_row(w, rows[i]);
        if (!p) {
            status_set(st, STATUS_BAD_FILE, "%s: tensor %s/%s has no row %d", s->source->path, w->component, w->name, rows[i]);
            break;
        }
        if (io_read(f, row_offset(p, rows[i], head, bytes), raw, bytes, st) && stream_check_scales(s, w, &u->matrix, raw, rows[i], 1, st))
            type_row_to_f32(s->k, w->type, u->matrix.depth, raw, out + (size_t)i * (size_t)u->matrix.depth);
    }
    mem_free(raw);
    return status_ok(st);
}
