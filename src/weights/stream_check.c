#include "base/mem.h"
#include "weights/stream_impl.h"

static bool bad_checksum(const stream *s, const char *component, const char *name, status *st)
{
    return status_set(st, STATUS_BAD_FILE, "%s: tensor %s%s%s: its bytes do not match their checksum, the file is damaged", s->source->path,
                      component, component[0] ? "/" : "", name);
}

bool stream_check_extent(stream *s, const weight *w, int extent_index, status *st)
{
    if (extent_index < 0 || s->checked[extent_index])
        return true;
    const extent *e = &s->source->extent[extent_index];
    io *f = s->source->file[e->file];
    XXH3_state_t *h = XXH3_createState();
    uint8_t *block = mem_map(CHECK_PIECE, "checksum", st);
    if (!h || !block) {
        XXH3_freeState(h);
        mem_unmap(block, CHECK_PIECE);
        return status_set(st, STATUS_FAILED, "checksum: out of memory");
    }
    XXH3_64bits_reset(h);
    for (uint64_t at = 0; at < e->bytes && status_ok(st); at += CHECK_PIECE) {
        size_t left = (size_t)(e->bytes - at), n = left < CHECK_PIECE ? left : CHECK_PIECE, got = 0;
        if (io_read_direct(f, e->offset + at, block, round_up(n, IO_ALIGN), &got, st) &&
            (got >= n || status_set(st, STATUS_BAD_FILE, "%s: ends in the middle of tensor %s", io_name(f), w->name)))
            XXH3_64bits_update(h, block, n);
    }
    bool same = XXH3_64bits_digest(h) == e->xxh3;
    XXH3_freeState(h);
    mem_unmap(block, CHECK_PIECE);
    if (!status_ok(st))
        return false;
    if (!same)
        return bad_checksum(s, w->component, w->name, st);
    s->checked[extent_index] = true;
    return true;
}

/* A tensor's extents are its own, or it shares one with others, which lie in the order of use with less than 64 bytes of zeros between them. */
static bool is_whole_extent(const stream *s, const weight_part *p)
{
    const extent *e = &s->source->extent[p->extent];
    return e->bytes == p->bytes && e->offset == p->offset;
}

enum { MOST_GAP = 64 };

/* Does the unit go on where the walk is, or begin its extent? Then the walk is behind it, and *gap bytes were left out in between. */
static bool walk_on(extent_walk *k, const extent *e, int index, const unit *u, size_t *gap)
{
    if (u->offset == e->offset)
        *k = (extent_walk){k->hash, index, u->offset};
    if (k->extent != index || u->offset < k->next || u->offset - k->next >= MOST_GAP)
        return false;
    *gap = (size_t)(u->offset - k->next);
    k->next = u->offset + u->bytes;
    return true;
}

bool stream_plan_checks(stream *s, status *st)
{
    extent_walk walk[2] = {{NULL, -1, 0}, {NULL, -1, 0}};
    s->in_flight = mem_alloc((size_t)s->source->extents + 1, sizeof *s->in_flight, "stream", st);
    for (int i = 0; i < s->units.count && s->in_flight; i++) {
        const unit *u = &s->units.unit[i];
        const weight_part *p = &s->plan->use[u->use].weight->part[u->part];
        if (p->extent < 0 || s->in_flight[p->extent])
            continue;
        const extent *e = &s->source->extent[p->extent];
        extent_walk *k = &walk[!is_whole_extent(s, p)];
        size_t gap;
        s->in_flight[p->extent] = walk_on(k, e, p->extent, u, &gap) && k->next == e->offset + e->bytes;
    }
    return s->in_flight != NULL;
}

static bool hash_unit(stream *s, const unit *u, const uint8_t *data, status *st)
{
    static const uint8_t zeros[MOST_GAP];
    const weight *w = s->plan->use[u->use].weight;
    const weight_part *p = &w->part[u->part];
    if (p->extent < 0 || !s->in_flight[p->extent] || s->checked[p->extent])
        return true;
    const extent *e = &s->source->extent[p->extent];
    extent_walk *k = &s->walk[!is_whole_extent(s, p)];
    size_t gap = 0;
    if (u->offset == e->offset)
        XXH3_64bits_reset(k->hash);
    if (!walk_on(k, e, p->extent, u, &gap))
        return stream_check_extent(s, w, p->extent, st);
    XXH3_64bits_update(k->hash, zeros, gap);
    XXH3_64bits_update(k->hash, data, u->bytes);
    if (k->next < e->offset + e->bytes)
        return true;
    if (XXH3_64bits_digest(k->hash) == e->xxh3)
        return s->checked[p->extent] = true;
    return is_whole_extent(s, p) ? bad_checksum(s, w->component, w->name, st) : stream_check_extent(s, w, p->extent, st); /* gaps need not be zeros */
}

/* A checksum says what was written; a scale that is no number was written by something else than us, and would spoil all that follows. */
bool stream_check_scales(const stream *s, const weight *w, const matrix_shape *m, const uint8_t *data, int64_t first_row, int64_t rows, status *st)
{
    int step = type_unit_rows(w->type);
    int64_t bad = type_bad_unit(w->type, m, data, (rows + step - 1) / step);
    return bad < 0 || status_set(st, STATUS_BAD_FILE, "%s: tensor %s%s%s: a row from %lld on has a scale that is no finite number", s->source->path,
                                 w->component, w->component[0] ? "/" : "", w->name, (long long)(first_row + bad * step));
}

bool stream_check_unit(stream *s, const unit *u, const uint8_t *data, status *st)
{
    const plan_use *use = &s->plan->use[u->use];
    return hash_unit(s, u, data, st) && stream_check_scales(s, use->weight, &use->matrix, data + u->head_bytes, u->first_row, u->rows, st);
}

