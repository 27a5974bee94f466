#include "weights/stream_impl.h"

#include <string.h>

#include "base/mem.h"

/* ---- sizes, for the plan ---- */

uint64_t stream_least_ring(const plan *p, uint64_t unit_bytes, status *st)
{
    unit_list l;
    if (!units_build(&l, p, unit_bytes, st))
        return 0;
    uint64_t largest = 0, region = 0, most_region = 0;
    for (int i = 0, now = 0; i < l.count; i++) {
        uint64_t slot = unit_slot_bytes(&l.unit[i]);
        int id = p->use[l.unit[i].use].region;
        region = id && id == now ? region + slot : id ? slot : 0;
        now = id;
        largest = slot > largest ? slot : largest;
        most_region = region > most_region ? region : most_region;
    }
    units_free(&l);
    return most_region + 2 * largest + IO_ALIGN;
}

uint64_t stream_fixed_bytes(const plan *p, uint64_t unit_bytes)
{
    uint64_t units = unit_bytes ? p->stream_bytes / unit_bytes + (uint64_t)p->uses * 2 : 0;
    return p->vector_bytes + (uint64_t)p->uses * (HEAD_BYTES + sizeof(size_t) + 64) + units * 2 * sizeof(unit) + ENTRIES * sizeof(entry) + CHECK_PIECE;
}

/* ---- the consumer ---- */

/* The next entry is the consumer's, or nothing more will come; with the lock held. */
static bool wait_for_next(stream *s)
{
    uint64_t number = s->oldest + (uint64_t)s->taken;
    while (number >= s->to_check && status_ok(&s->error) && s->reading > 0)
        pthread_cond_wait(&s->news, &s->lock);
    return number < s->to_check;
}

static void keep_head(stream *s, const unit *u, uint8_t **data)
{
    if (!u->head_bytes)
        return;
    memcpy(s->heads + (size_t)u->use * HEAD_BYTES, *data, u->head_bytes);
    *data += u->head_bytes;
}

static bool take_unit(stream *s, int i, weight_slice *out, status *st)
{
    unit *u = &s->units.unit[i];
    uint8_t *data = NULL;
    if (u->pinned && s->pass > 0) {
        data = u->pin + u->offset % IO_ALIGN;
    } else {
        pthread_mutex_lock(&s->lock);
        if (!s->in_region)
            stream_release_taken(s);
        if (wait_for_next(s))
            data = stream_entry(s, s->oldest + (uint64_t)s->taken++)->data;
        else if (!status_ok(&s->error))
            status_set(st, s->error.code, "%s", s->error.text);
        pthread_mutex_unlock(&s->lock);
    }
    if (!data)
        return status_set(st, STATUS_FAILED, "stream: ended before unit %d", i);
    keep_head(s, u, &data);
    *out = (weight_slice){type_head_bytes(s->plan->use[u->use].weight->type) ? s->heads + (size_t)u->use * HEAD_BYTES : NULL, data, u->first_row, u->rows};
    return true;
}

/* In the first pass the readers have been there before: what they have looked at stays where it is, and needs no entry any more. */
static bool wait_for_mapped(stream *s, status *st)
{
    pthread_mutex_lock(&s->lock);
    bool ready = wait_for_next(s);
    s->taken += ready;
    stream_release_taken(s);
    if (!ready)
        status_set(st, status_ok(&s->error) ? STATUS_FAILED : s->error.code, "%s", status_ok(&s->error) ? "stream: ended too early" : s->error.text);
    pthread_mutex_unlock(&s->lock);
    return ready;
}

static bool take_mapped(stream *s, const unit *u, weight_slice *out, status *st)
{
    const weight *w = s->plan->use[u->use].weight;
    io *f = s->source->file[w->file];
    if (s->pass == 0 && !wait_for_mapped(s, st))
        return false;
    const uint8_t *map = io_map(f, st);
    if (!map || !io_map_intact(f, st))
        return false;
    const uint8_t *data = map + u->offset;
    *out = (weight_slice){u->head_bytes ? data : NULL, data + u->head_bytes, u->first_row, u->rows};
    if (!u->head_bytes && type_head_bytes(w->type))
        out->head = map + w->part[u->part].offset;
    return true;
}

static bool replay_held(stream *s, int use, weight_slice *out)
{
    if (s->held_next < s->held_count && s->held[s->held_next].use == use) {
        *out = s->held[s->held_next++].slice;
        return true;
    }
    return false;
}

static bool hold(stream *s, int use, const weight_slice *slice, status *st)
{
    if (s->held_count == s->held_room) {
        int room = s->held_room ? s->held_room * 2 : 64;
        held_slice *more = mem_resize(s->held, (size_t)room, sizeof *more, "stream", st);
        if (!more)
            return false;
        s->held = more;
        s->held_room = room;
    }
    s->held[s->held_count++] = (held_slice){use, *slice};
    return true;
}

bool stream_next(stream *s, int use, weight_slice *out, status *st)
{
    if (!status_ok(st))
        return false;
    if (s->replay)
        return replay_held(s, use, out);
    if (use != s->use) {
        s->use = use;
        s->unit = s->units.first[use];
    }
    if (s->unit >= s->units.first[use + 1])
        return false;
    int i = s->unit++;
    bool ok = s->how.mapped ? take_mapped(s, &s->units.unit[i], out, st) : take_unit(s, i, out, st);
    return ok && (!s->in_region || hold(s, use, out, st));
}

void stream_region_begin(stream *s, int first)
{
    pthread_mutex_lock(&s->lock);
    if (!s->how.mapped)
        stream_release_taken(s);
    pthread_mutex_unlock(&s->lock);
    s->in_region = true;
    s->replay = false;
    s->region_first = first;
    s->held_count = s->held_next = 0;
}

void stream_region_again(stream *s)
{
    if (!s->in_region)
        return;
    s->replay = true;
    s->held_next = 0;
}

void stream_region_end(stream *s)
{
    s->in_region = s->replay = false;
    s->held_count = 0;
}

/* ---- opening ---- */

stream *stream_open(const plan *p, const source *src, const residency *how, int passes, const kernels *k, status *st)
{
    stream *s = mem_alloc(1, sizeof *s, "stream", st);
    if (!s)
        return NULL;
    *s = (stream){.plan = p, .source = src, .k = k, .how = *how, .use = -1, .pass = -1, .passes = passes, .walk = {{XXH3_createState(), -1, 0}, {XXH3_createState(), -1, 0}}};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->room, NULL);
    pthread_cond_init(&s->news, NULL);
    if (!s->walk[0].hash || !s->walk[1].hash)
        status_set(st, STATUS_FAILED, "stream: out of memory");
    if (status_ok(st))
        s->vector_at = mem_alloc((size_t)p->uses + 1, sizeof *s->vector_at, "stream", st);
    if (status_ok(st))
        s->heads = mem_alloc((size_t)p->uses + 1, HEAD_BYTES, "stream", st);
    if (status_ok(st))
        s->checked = mem_alloc((size_t)src->extents + 1, sizeof *s->checked, "stream", st);
    if (status_ok(st))
        s->vectors = mem_alloc(p->vector_bytes / 4 + (size_t)p->uses * 16 + 16, 4, "vectors", st);
    /* the readers first: while the small things come one by one, the ring fills */
    if (!status_ok(st) || !units_build(&s->units, p, how->mapped ? MAPPED_UNIT : how->unit_bytes, st) || !stream_plan_checks(s, st) ||
        (s->units.count && !stream_start_readers(s, st)) || !stream_load_vectors(s, st)) {
        stream_close(s);
        return NULL;
    }
    return s;
}

void stream_close(stream *s)
{
    if (!s)
        return;
    stream_stop_readers(s);
    mem_unmap(s->ring, s->space.bytes);
    mem_unmap(s->pins, s->pin_bytes);
    units_free(&s->units);
    XXH3_freeState(s->walk[0].hash);
    XXH3_freeState(s->walk[1].hash);
    mem_free(s->in_flight);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->room);
    pthread_cond_destroy(&s->news);
    mem_free(s->vector_at);
    mem_free(s->heads);
    mem_free(s->checked);
    mem_free(s->vectors);
    mem_free(s->held);
    mem_free(s->fifo);
    mem_free(s);
}

bool stream_begin(stream *s, status *st)
{
    s->pass++;
    s->use = -1;
    s->in_region = s->replay = false;
    return status_ok(st);
}

bool stream_intact(const stream *s, status *st)
{
    bool ok = true;
    for (int i = 0; ok && s->how.mapped && i < s->source->files; i++)
        ok = io_map_intact(s->source->file[i], st);
    return ok;
}
