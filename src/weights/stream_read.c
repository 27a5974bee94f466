/* The readers, and the ring that they fill.
 *
 * A disk gives its full rate only when more than one request is under way, so a few threads read: each takes the next unit of the plan and
 * its place under the lock, reads it without, and says so. Checksums go over an extent's bytes in order: whoever has read hashes all
 * that has become whole, one thread at a time, and only then is a unit the consumer's. */
#include "base/mem.h"
#include "weights/stream_impl.h"

entry *stream_entry(const stream *s, uint64_t number) { return &s->fifo[number % ENTRIES]; }

/* The units that a pass reads: pinned ones only in the first. False at the end. */
static bool next_to_read(stream *s)
{
    for (; s->next_pass < s->passes; s->next_pass++, s->next_unit = 0)
        for (; s->next_unit < s->units.count; s->next_unit++)
            if (!s->units.unit[s->next_unit].pinned || s->next_pass == 0)
                return true;
    return false;
}

/* A place's pages, before anyone reads into them; with the lock held, as mem_touch wants it. Places come in rising order the first time. */
static void touch(uint8_t *memory, size_t bytes, size_t *touched, size_t end)
{
    if (end <= *touched)
        return;
    end = round_up(end, HUGE_PAGE) < bytes ? round_up(end, HUGE_PAGE) : bytes;
    mem_touch(memory + *touched, end - *touched);
    *touched = end;
}

/* The next unit and its place, with the lock held; false at the end. */
static bool reserve(stream *s, uint64_t *number)
{
    for (; !s->quit && next_to_read(s); pthread_cond_wait(&s->room, &s->lock)) {
        const unit *u = &s->units.unit[s->next_unit];
        size_t bytes = unit_slot_bytes(u), start = 0;
        if (s->filled == (s->how.mapped ? (int)MAPPED_AHEAD : (int)ENTRIES) || (!s->how.mapped && !u->pinned && !ring_find(&s->space, bytes, &start)))
            continue;
        *number = s->oldest + (uint64_t)s->filled++;
        *stream_entry(s, *number) = (entry){s->next_unit++, BEING_READ, NULL, start, u->pinned || s->how.mapped ? 0 : bytes};
        if (s->how.mapped)
            return true;
        if (!u->pinned) {
            s->space.taken++;
            s->space.tail = start + bytes;
            touch(s->ring, s->space.bytes, &s->ring_touched, s->space.tail);
        } else {
            touch(s->pins, s->pin_bytes, &s->pins_touched, (size_t)(u->pin - s->pins) + bytes);
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
    while (!s->checking && s->to_check < s->oldest + (uint64_t)s->filled && stream_entry(s, s->to_check)->state == READ) {
        entry *e = stream_entry(s, s->to_check);
        s->checking = true;
        pthread_mutex_unlock(&s->lock);
        bool ok = stream_check_unit(s, &s->units.unit[e->unit], e->data, st);
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

/* Nothing is copied: the pages come into the cache, and are looked at. */
static bool look_at_mapped(const stream *s, const unit *u, uint8_t **data, status *st)
{
    io *f = s->source->file[s->plan->use[u->use].weight->file];
    const uint8_t *map = io_map(f, st);
    if (!map || !io_map_intact(f, st))
        return false;
    if (u->offset + u->bytes > io_size(f))
        return status_set(st, STATUS_BAD_FILE, "%s: ends in the middle of tensor %s", io_name(f), s->plan->use[u->use].weight->name);
    io_map_ahead(f, u->offset, u->bytes);
    io_count_mapped(f, u->bytes);
    *data = (uint8_t *)(uintptr_t)map + u->offset;
    return true;
}

static bool read_one(stream *s, uint64_t number, status *st)
{
    entry *e = stream_entry(s, number);   /* stays where it is until the consumer has had it */
    const unit *u = &s->units.unit[e->unit];
    uint8_t *slot = u->pinned ? u->pin : s->ring ? s->ring + e->start : NULL, *data = NULL;
    pthread_mutex_unlock(&s->lock);
    bool ok = s->how.mapped ? look_at_mapped(s, u, &data, st) : read_unit(s, u, slot, &data, st);
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

/* Give the slots of the entries taken so far back to the reader. Called with the lock held. */
void stream_release_taken(stream *s)
{
    if (s->taken == 0)
        return;
    for (; s->taken > 0; s->taken--) {
        s->space.taken -= stream_entry(s, s->oldest)->bytes > 0;
        s->oldest++;
        s->filled--;
    }
    for (uint64_t n = s->oldest; n < s->oldest + (uint64_t)s->filled; n++)
        if (stream_entry(s, n)->bytes) {
            s->space.head = stream_entry(s, n)->start;
            break;
        }
    pthread_cond_broadcast(&s->room);
}

static bool make_room(stream *s, status *st)
{
    uint64_t pinned = units_pin(&s->units, s->how.pin_bytes);
    bool all = true;
    for (int i = 0; i < s->units.count; i++)
        all = all && s->units.unit[i].pinned;
    s->pin_bytes = pinned;
    s->space.bytes = all ? 0 : s->how.ring_bytes / IO_ALIGN * IO_ALIGN;
    if (pinned)
        s->pins = mem_map_huge(pinned, "pinned weights", st);
    if (s->space.bytes && status_ok(st))
        s->ring = mem_map_huge(s->space.bytes, "weights in flight", st);
    if (!status_ok(st))
        return false;
    size_t at = 0;
    for (int i = 0; i < s->units.count; i++)
        if (s->units.unit[i].pinned) {
            s->units.unit[i].pin = s->pins + at;
            at += unit_slot_bytes(&s->units.unit[i]);
        }
    return true;
}

int stream_readers(const residency *how) { return how->readers < 1 ? 1 : how->readers > MOST_READERS ? MOST_READERS : how->readers; }

bool stream_start_readers(stream *s, status *st)
{
    if (s->how.mapped)
        s->passes = 1; /* then all has been looked at */
    else if (!make_room(s, st))
        return false;
    s->fifo = mem_alloc(ENTRIES, sizeof *s->fifo, "stream", st);
    if (!s->fifo)
        return false;
    int want = stream_readers(&s->how);
    pthread_mutex_lock(&s->lock);
    while (s->readers < want && pthread_create(&s->reader[s->readers], NULL, reader_main, s) == 0)
        s->readers++, s->reading++;
    pthread_mutex_unlock(&s->lock);
    return s->readers > 0 || status_set(st, STATUS_FAILED, "stream: cannot start its reader thread");
}

void stream_stop_readers(stream *s)
{
    if (s->readers) {
        pthread_mutex_lock(&s->lock);
        s->quit = true;
        pthread_cond_broadcast(&s->room);
        pthread_mutex_unlock(&s->lock);
    }
    for (int i = 0; i < s->readers; i++)
        pthread_join(s->reader[i], NULL);
    s->readers = 0;
}
