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

/* A part that is an extent by itself is hashed as it streams by; shared extents are small and are checked at the start. */
bool stream_hashed_in_flight(const stream *s, const weight_part *p)
{
    return p->extent >= 0 && s->source->extent[p->extent].bytes == p->bytes && s->source->extent[p->extent].offset == p->offset;
}

static bool hash_unit(stream *s, const unit *u, const uint8_t *data, status *st)
{
    const weight *w = s->plan->use[u->use].weight;
    const weight_part *p = &w->part[u->part];
    if (!stream_hashed_in_flight(s, p) || s->checked[p->extent])
        return true;
    if (u->offset == p->offset) {
        XXH3_64bits_reset(s->hash);
        s->hash_extent = p->extent;
    } else if (s->hash_extent != p->extent || s->hash_next != u->offset) {
        return true;
    }
    XXH3_64bits_update(s->hash, data, u->bytes);
    s->hash_next = u->offset + u->bytes;
    if (s->hash_next < p->offset + p->bytes)
        return true;
    if (XXH3_64bits_digest(s->hash) != s->source->extent[p->extent].xxh3)
        return bad_checksum(s, w->component, w->name, st);
    s->checked[p->extent] = true;
    return true;
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

