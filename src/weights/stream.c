#include "weights/stream.h"

#include <pthread.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "weights/stream_units.h"

enum { ENTRIES = 4096, HEAD_BYTES = 256, MOST_READERS = 4 };

typedef enum entry_state { BEING_READ, READ, CHECKED } entry_state;

typedef struct entry {        /* a unit that is on its way, in the ring or in its pin */
    int unit;
    entry_state state;
    uint8_t *data;            /* the unit's first byte */
    size_t start, bytes;      /* its slot in the ring; bytes 0: pinned */
} entry;

typedef struct held_slice {
    int use;
    weight_slice slice;
} held_slice;

struct stream {
    const plan *plan;
    const source *source;
    const kernels *k;
    residency how;
    unit_list units;
    float *vectors;
    size_t *vector_at;        /* [uses], floats */
    uint8_t *heads;           /* [uses][HEAD_BYTES] */
    bool *checked;            /* [extents]: its checksum was right */

    int use, unit;            /* the consumer's place: next unit of that use */
    int pass;
    bool in_region, replay;
    int region_first;
    held_slice *held;
    int held_count, held_room, held_next;

    uint8_t *ring, *pins;
    size_t ring_bytes, pin_bytes, head, tail;
    entry *fifo;              /* [ENTRIES], in the plan's order: number n stands at n % ENTRIES; oldest .. oldest + filled */
    uint64_t oldest, to_check;/* the next one whose checksum is due: before it all are CHECKED */
    int filled, taken;        /* the first `taken` are in use by the consumer */
    int in_ring;              /* entries whose slots lie in the ring */
    int next_unit, next_pass, passes;  /* the readers' place: the next unit that nobody reads yet */
    bool quit, checking;      /* checking: one reader is at the checksums */
    status error;
    pthread_t reader[MOST_READERS];
    int readers, reading;     /* started; not yet at the end */
    pthread_mutex_t lock;
    pthread_cond_t room, news;

    XXH3_state_t *hash;       /* of the extent that the checksums are in */
    int hash_extent;
    uint64_t hash_next;       /* the file offset that it expects next, so that a seek is noticed */
};

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
    return p->vector_bytes + (uint64_t)p->uses * (HEAD_BYTES + sizeof(size_t) + 64) + units * 2 * sizeof(unit) + ENTRIES * sizeof(entry);
}

/* ---- checksums ---- */

static bool bad_checksum(const stream *s, const char *component, const char *name, status *st)
{
    return status_set(st, STATUS_BAD_FILE, "%s: tensor %s%s%s: its bytes do not match their checksum, the file is damaged", s->source->path,
                      component, component[0] ? "/" : "", name);
}

static bool check_extent(stream *s, const weight *w, int extent_index, status *st)
{
    if (extent_index < 0 || s->checked[extent_index])
        return true;
    const extent *e = &s->source->extent[extent_index];
    io *f = s->source->file[e->file];
    XXH3_state_t *h = XXH3_createState();
    uint8_t *block = mem_alloc(1, 1 << 18, "checksum", st);
    if (!h || !block) {
        XXH3_freeState(h);
        mem_free(block);
        return status_set(st, STATUS_FAILED, "checksum: out of memory");
    }
    XXH3_64bits_reset(h);
    for (uint64_t at = 0; at < e->bytes && status_ok(st); at += 1 << 18) {
        size_t n = e->bytes - at < (1 << 18) ? (size_t)(e->bytes - at) : (size_t)1 << 18;
        if (io_read(f, e->offset + at, block, n, st))
            XXH3_64bits_update(h, block, n);
    }
    bool same = XXH3_64bits_digest(h) == e->xxh3;
    XXH3_freeState(h);
    mem_free(block);
    if (!status_ok(st))
        return false;
    if (!same)
        return bad_checksum(s, w->component, w->name, st);
    s->checked[extent_index] = true;
    return true;
}

/* A part that is an extent by itself is hashed as it streams by; shared extents are small and are checked at the start. */
static bool hashed_in_flight(const stream *s, const weight_part *p)
{
    return p->extent >= 0 && s->source->extent[p->extent].bytes == p->bytes && s->source->extent[p->extent].offset == p->offset;
}

static bool hash_unit(stream *s, const unit *u, const uint8_t *data, status *st)
{
    const weight *w = s->plan->use[u->use].weight;
    const weight_part *p = &w->part[u->part];
    if (!hashed_in_flight(s, p) || s->checked[p->extent])
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
static bool check_scales(const stream *s, const weight *w, const matrix_shape *m, const uint8_t *data, int64_t first_row, int64_t rows, status *st)
{
    int step = type_unit_rows(w->type);
    int64_t bad = type_bad_unit(w->type, m, data, (rows + step - 1) / step);
    return bad < 0 || status_set(st, STATUS_BAD_FILE, "%s: tensor %s%s%s: a row from %lld on has a scale that is no finite number", s->source->path,
                                 w->component, w->component[0] ? "/" : "", w->name, (long long)(first_row + bad * step));
}

static bool check_unit(stream *s, const unit *u, const uint8_t *data, status *st)
{
    const plan_use *use = &s->plan->use[u->use];
    return hash_unit(s, u, data, st) && check_scales(s, use->weight, &use->matrix, data + u->head_bytes, u->first_row, u->rows, st);
}

/* ---- vectors ---- */

static bool load_vector(stream *s, int use, size_t at, status *st)
{
    const plan_use *u = &s->plan->use[use];
    const weight *w = u->weight;
    size_t row = type_unit_bytes(w->type, &u->matrix), bytes = row * (size_t)u->matrix.rows;
    if (type_of(w->type)->panels || w->type == TYPE_Q8_ROWS || w->parts != 1 || w->part[0].bytes < bytes)
        return status_set(st, STATUS_BAD_FILE, "%s: tensor %s/%s: %s is no type for a vector", s->source->path, w->component, w->name, type_of(w->type)->name);
    if (s->source->container && !check_extent(s, w, w->part[0].extent, st))
        return false;
    uint8_t *raw = mem_alloc(1, bytes, "vector", st);
    if (raw && io_read(s->source->file[w->file], w->part[0].offset, raw, bytes, st))
        for (int64_t r = 0; r < u->matrix.rows; r++)
            type_row_to_f32(s->k, w->type, u->matrix.depth, raw + (size_t)r * row, s->vectors + at + (size_t)(r * u->matrix.depth));
    mem_free(raw);
    return status_ok(st);
}

static bool load_vectors(stream *s, status *st)
{
    size_t at = 0;
    for (int i = 0; i < s->plan->uses && status_ok(st); i++) {
        const plan_use *u = &s->plan->use[i];
        if (u->role != ROLE_VECTOR) {
            for (int p = 0; s->source->container && p < u->weight->parts; p++)
                if (!hashed_in_flight(s, &u->weight->part[p]) && u->role != ROLE_EMBEDDING)
                    check_extent(s, u->weight, u->weight->part[p].extent, st);
            continue;
        }
        s->vector_at[i] = at;
        load_vector(s, i, at, st);
        at += round_up((size_t)(u->matrix.rows * u->matrix.depth), 16);
    }
    return status_ok(st);
}

const float *stream_vector(const stream *s, int use) { return s->vectors + s->vector_at[use]; }

bool stream_gather(stream *s, int use, const int32_t *rows, int count, float *out, status *st)
{
    const plan_use *u = &s->plan->use[use];
    const weight *w = u->weight;
    size_t bytes = type_unit_bytes(w->type, &u->matrix), head = type_head_bytes(w->type);
    uint8_t *raw = mem_alloc(1, bytes, "embedding", st);
    for (int i = 0; i < count && raw && status_ok(st); i++) {
        const weight_part *p = w->part;
        while (p < w->part + w->parts && (rows[i] < p->first_row || rows[i] >= p->first_row + p->rows))
            p++;
        if (p == w->part + w->parts) {
            status_set(st, STATUS_BAD_FILE, "%s: tensor %s/%s has no row %d", s->source->path, w->component, w->name, rows[i]);
            break;
        }
        if (io_read(s->source->file[w->file], p->offset + head + (uint64_t)(rows[i] - p->first_row) * bytes, raw, bytes, st) &&
            check_scales(s, w, &u->matrix, raw, rows[i], 1, st))
            type_row_to_f32(s->k, w->type, u->matrix.depth, raw, out + (size_t)i * (size_t)u->matrix.depth);
    }
    mem_free(raw);
    return status_ok(st);
}

/* ---- the readers ----
 *
 * A disk gives its full rate only when more than one request is under way, so a few threads read: each takes the next unit of the plan and
 * its place under the lock, reads it without, and says so. Checksums go over an extent's bytes in order: whoever has read hashes all
 * that has become whole, one thread at a time, and only then is a unit the consumer's. */

/* A contiguous stretch of the ring, or false when there is none yet. */
static bool place_in_ring(stream *s, size_t bytes, size_t *start)
{
    if (s->in_ring == 0)
        s->head = s->tail = 0;
    if (s->in_ring == 0 || s->tail > s->head) {
        if (s->ring_bytes - s->tail >= bytes)
            *start = s->tail;
        else if (s->head > bytes)
            *start = 0;
        else
            return false;
    } else if (s->head > s->tail + bytes) {
        *start = s->tail;
    } else {
        return false;
    }
    return true;
}

static entry *entry_at(const stream *s, uint64_t number) { return &s->fifo[number % ENTRIES]; }

/* The units that a pass reads: pinned ones only in the first. False at the end. */
static bool next_to_read(stream *s)
{
    for (; s->next_pass < s->passes; s->next_pass++, s->next_unit = 0)
        for (; s->next_unit < s->units.count; s->next_unit++)
            if (!s->units.unit[s->next_unit].pinned || s->next_pass == 0)
                return true;
    return false;
}

/* The next unit and its place, with the lock held; false at the end. */
static bool reserve(stream *s, uint64_t *number)
{
    for (; !s->quit && next_to_read(s); pthread_cond_wait(&s->room, &s->lock)) {
        const unit *u = &s->units.unit[s->next_unit];
        size_t bytes = unit_slot_bytes(u), start = 0;
        if (s->filled == ENTRIES || (!u->pinned && !place_in_ring(s, bytes, &start)))
            continue;
        *number = s->oldest + (uint64_t)s->filled++;
        *entry_at(s, *number) = (entry){s->next_unit++, BEING_READ, NULL, start, u->pinned ? 0 : bytes};
        if (!u->pinned) {
            s->in_ring++;
            s->tail = start + bytes;
        }
        return true;
    }
    return false;
}

static bool read_unit(const stream *s, const unit *u, uint8_t *slot, uint8_t **data, status *st)
{
    io *f = s->source->file[s->plan->use[u->use].weight->file];
    uint64_t begin = u->offset / IO_ALIGN * IO_ALIGN, lead = u->offset - begin;
    size_t got = 0;
    if (!io_read_direct(f, begin, slot, unit_slot_bytes(u), &got, st))
        return false;
    if (got < lead + u->bytes)
        return status_set(st, STATUS_BAD_FILE, "%s: ends at %llu, in the middle of tensor %s", io_name(f), (unsigned long long)(begin + got),
                          s->plan->use[u->use].weight->name);
    *data = slot + lead;
    return true;
}

/* All that is whole and next in order; with the lock held, which is let go while hashing. */
static bool check_in_order(stream *s, status *st)
{
    while (!s->checking && s->to_check < s->oldest + (uint64_t)s->filled && entry_at(s, s->to_check)->state == READ) {
        entry *e = entry_at(s, s->to_check);
        s->checking = true;
        pthread_mutex_unlock(&s->lock);
        bool ok = check_unit(s, &s->units.unit[e->unit], e->data, st);
        pthread_mutex_lock(&s->lock);
        s->checking = false;
        if (!ok)
            return false;
        e->state = CHECKED;
        s->to_check++;
        pthread_cond_signal(&s->news);
    }
    return true;
}

static bool read_one(stream *s, uint64_t number, status *st)
{
    entry *e = entry_at(s, number);   /* stays where it is until the consumer has had it */
    const unit *u = &s->units.unit[e->unit];
    uint8_t *slot = u->pinned ? u->pin : s->ring + e->start, *data = NULL;
    pthread_mutex_unlock(&s->lock);
    bool ok = read_unit(s, u, slot, &data, st);
    pthread_mutex_lock(&s->lock);
    e->data = data;
    e->state = ok ? READ : BEING_READ;
    return ok && check_in_order(s, st);
}

static void *reader_main(void *arg)
{
    stream *s = arg;
    status st = STATUS_INIT;
    uint64_t number;
    pthread_mutex_lock(&s->lock);
    while (reserve(s, &number) && read_one(s, number, &st))
        continue;
    if (!status_ok(&st)) {
        if (status_ok(&s->error))
            s->error = st;
        s->quit = true;
    }
    s->reading--;
    pthread_cond_broadcast(&s->room);
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- the consumer ---- */

/* Give the slots of the entries taken so far back to the reader. Called with the lock held. */
static void release_taken(stream *s)
{
    if (s->taken == 0)
        return;
    for (; s->taken > 0; s->taken--) {
        s->in_ring -= entry_at(s, s->oldest)->bytes > 0;
        s->oldest++;
        s->filled--;
    }
    for (uint64_t n = s->oldest; n < s->oldest + (uint64_t)s->filled; n++)
        if (entry_at(s, n)->bytes) {
            s->head = entry_at(s, n)->start;
            break;
        }
    pthread_cond_broadcast(&s->room);
}

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
            release_taken(s);
        if (wait_for_next(s))
            data = entry_at(s, s->oldest + (uint64_t)s->taken++)->data;
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

static bool take_mapped(stream *s, const unit *u, weight_slice *out, status *st)
{
    const weight *w = s->plan->use[u->use].weight;
    io *f = s->source->file[w->file];
    const uint8_t *map = io_map(f, st);
    if (!map || !io_map_intact(f, st))
        return false;
    if (u->offset + u->bytes > io_size(f))
        return status_set(st, STATUS_BAD_FILE, "%s: ends in the middle of tensor %s", io_name(f), w->name);
    const uint8_t *data = map + u->offset;
    if (s->pass == 0) {
        io_count_mapped(f, u->bytes);
        if (s->source->container && !check_unit(s, u, data, st))
            return false;
    }
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
        release_taken(s);
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

static bool start_readers(stream *s, status *st)
{
    uint64_t pinned = units_pin(&s->units, s->how.pin_bytes);
    bool all = true;
    for (int i = 0; i < s->units.count; i++)
        all = all && s->units.unit[i].pinned;
    s->pin_bytes = pinned;
    s->ring_bytes = all ? 0 : s->how.ring_bytes / IO_ALIGN * IO_ALIGN;
    s->fifo = mem_alloc(ENTRIES, sizeof *s->fifo, "stream", st);
    if (pinned && status_ok(st))
        s->pins = mem_map(pinned, "pinned weights", st);
    if (s->ring_bytes && status_ok(st))
        s->ring = mem_map(s->ring_bytes, "weights in flight", st);
    if (!status_ok(st))
        return false;
    size_t at = 0;
    for (int i = 0; i < s->units.count; i++)
        if (s->units.unit[i].pinned) {
            s->units.unit[i].pin = s->pins + at;
            at += unit_slot_bytes(&s->units.unit[i]);
        }
    int want = s->how.readers < 1 ? 1 : s->how.readers > MOST_READERS ? MOST_READERS : s->how.readers;
    pthread_mutex_lock(&s->lock);
    while (s->readers < want && pthread_create(&s->reader[s->readers], NULL, reader_main, s) == 0)
        s->readers++, s->reading++;
    pthread_mutex_unlock(&s->lock);
    return s->readers > 0 || status_set(st, STATUS_FAILED, "stream: cannot start its reader thread");
}

stream *stream_open(const plan *p, const source *src, const residency *how, int passes, const kernels *k, status *st)
{
    stream *s = mem_alloc(1, sizeof *s, "stream", st);
    if (!s)
        return NULL;
    *s = (stream){.plan = p, .source = src, .k = k, .how = *how, .use = -1, .pass = -1, .passes = passes, .hash_extent = -1};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->room, NULL);
    pthread_cond_init(&s->news, NULL);
    s->hash = XXH3_createState();
    if (!s->hash)
        status_set(st, STATUS_FAILED, "stream: out of memory");
    if (status_ok(st))
        s->vector_at = mem_alloc((size_t)p->uses + 1, sizeof *s->vector_at, "stream", st);
    if (status_ok(st))
        s->heads = mem_alloc((size_t)p->uses + 1, HEAD_BYTES, "stream", st);
    if (status_ok(st))
        s->checked = mem_alloc((size_t)src->extents + 1, sizeof *s->checked, "stream", st);
    if (status_ok(st))
        s->vectors = mem_alloc(p->vector_bytes / 4 + (size_t)p->uses * 16 + 16, 4, "vectors", st);
    if (!status_ok(st) || !load_vectors(s, st) || !units_build(&s->units, p, how->mapped ? UINT64_MAX : how->unit_bytes, st) ||
        (!how->mapped && s->units.count && !start_readers(s, st))) {
        stream_close(s);
        return NULL;
    }
    return s;
}

void stream_close(stream *s)
{
    if (!s)
        return;
    if (s->readers) {
        pthread_mutex_lock(&s->lock);
        s->quit = true;
        pthread_cond_broadcast(&s->room);
        pthread_mutex_unlock(&s->lock);
    }
    for (int i = 0; i < s->readers; i++)
        pthread_join(s->reader[i], NULL);
    mem_unmap(s->ring, s->ring_bytes);
    mem_unmap(s->pins, s->pin_bytes);
    units_free(&s->units);
    XXH3_freeState(s->hash);
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
