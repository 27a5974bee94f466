#include "compute/plan_time.h"

#include <math.h>

#include "base/mem.h"
#include "compute/op_matrix.h"
#include "quant/types.h"
#include "weights/stream_units.h"

typedef struct place {        /* of a unit that was read, or will have been at `ready` */
    size_t start, bytes;      /* in the ring; bytes 0: elsewhere */
    double ready;
} place;

typedef struct timeline {
    const plan *plan;
    const residency *how;
    const machine_rates *m;
    bool f32;
    int passes;
    double map_byte, map_request; /* seconds, of the scratch file's */
    unit_list units;
    /* the readers */
    int pass, next;           /* what is read next */
    int readers;
    double done[MOST_READERS]; /* when the last ones are */
    uint64_t reads;
    ring_space ring;
    place *queue;             /* [room], the oldest at first % room; the first `held` go back at the next unit, or at a region's end */
    int room, held, queued;
    uint64_t first;
    /* the one who computes */
    double now;
} timeline;

/* ---- the readers ---- */

static bool to_be_read(timeline *t)
{
    int passes = t->how->mapped ? 1 : t->passes;
    for (; t->pass < passes; t->pass++, t->next = 0)
        for (; t->next < t->units.count; t->next++)
            if (!t->units.unit[t->next].pinned || t->pass == 0)
                return true;
    return false;
}

/* Through rings of up to 8 MiB the same disk gave 1.4 to 2.4 GB/s, from one moment to the next, that gave 2.4 through wider ones (SPEED.md). */
enum { ROOMY_RING = 12 << 20 };
static const double NARROW = 1.3;

static double ring_byte(const timeline *t)
{
    return (t->how->ring_bytes < HUGE_PAGE ? t->m->read_byte_small : t->m->read_byte) * (t->how->ring_bytes < ROOMY_RING ? NARROW : 1);
}

static place *place_at(const timeline *t, int n) { return &t->queue[(t->first + (uint64_t)n) % (uint64_t)t->room]; }

/* What the ring has room for at the time `now` is on its way from then on, or as soon as one of the readers is free. */
static void read_ahead(timeline *t, double now)
{
    const machine_rates *m = t->m;
    while (to_be_read(t) && t->queued < t->room && (!t->how->mapped || t->queued - t->held < MAPPED_AHEAD)) {
        const unit *u = &t->units.unit[t->next];
        size_t slot = unit_slot_bytes(u), takes = t->how->mapped || u->pinned ? 0 : slot, start = 0;
        if (takes && !ring_find(&t->ring, takes, &start) && t->queued > t->held)
            return;
        uint64_t readers = (uint64_t)t->readers;
        double last = t->reads ? t->done[(t->reads - 1) % readers] : 0, begun = fmax(now, t->reads >= readers ? t->done[t->reads % readers] : 0);
        double ready = fmax(last + m->read_request, begun + m->read_alone) + (double)slot * (takes ? ring_byte(t) : m->read_byte);
        t->done[t->reads++ % readers] = ready;
        if (takes) {
            t->ring.taken++;
            t->ring.tail = start + takes;
        }
        *place_at(t, t->queued++) = (place){start, takes, ready};
        t->next++;
    }
}

/* ---- the one who computes ---- */

static void give_back(timeline *t)
{
    for (; t->held > 0; t->held--, t->queued--, t->first++)
        t->ring.taken -= place_at(t, 0)->bytes > 0;
    for (int i = 0; i < t->queued; i++)
        if (place_at(t, i)->bytes) {
            t->ring.head = place_at(t, i)->start;
            break;
        }
}

static void take(timeline *t, int pass, int i, bool in_region)
{
    if (!in_region)
        give_back(t);
    read_ahead(t, t->now);
    if ((pass > 0 && (t->units.unit[i].pinned || t->how->mapped)) || t->held == t->queued)
        return;
    double ready = place_at(t, t->held++)->ready;
    if (ready > t->now)
        t->now = ready + t->m->wake;
}

/* One unit's rows by the tokens of one turn. */
static double product_seconds(const timeline *t, const plan_use *u, double unit_rows)
{
    const machine_rates *m = t->m;
    const matrix_shape *s = &u->matrix;
    weight_type type = u->weight->type;
    bool integer = type_of(type)->integer && !t->f32;
    product_kind kind = type == TYPE_F32 ? PRODUCT_SINGLE : !integer ? PRODUCT_HALF : type == TYPE_Q8 ? PRODUCT_Q8 : PRODUCT_CODED;
    double per_row = (double)s->taps * s->depth, tokens = fmax(1, (double)u->operations / u->repeats / (2 * per_row * (double)s->rows));
    double operation = !integer ? m->product[PRODUCT_SINGLE].operation : s->taps > 1 ? m->convolution : m->product[kind].operation;
    double pointing = integer && s->taps > 1 ? tokens * s->taps * unit_rows / product_group_rows(s, integer) * m->tap : 0;
    double multiplying = unit_rows * per_row * (m->product[kind].weight + 2 * tokens * operation) + pointing;
    return m->call + multiplying * product_waste(s, integer, (int64_t)unit_rows, (int64_t)(tokens + 0.5), m->threads) +
           tokens * 4 * (unit_rows + s->depth * unit_rows / (double)s->rows) * m->traffic;
}

static double work_seconds(const timeline *t, const plan_work *w)
{
    return (double)w->attention_operations * t->m->attention + (double)w->activation_bytes * t->m->traffic + (double)w->calls * t->m->call;
}

static double map_seconds(const timeline *t, const plan_work *w) { return (double)w->map_bytes * t->map_byte + (double)w->map_requests * t->map_request; }

/* One use: its units come one after the other, each multiplied as it comes, while maps go to the scratch file and come from it. Returns what is left to do
 * with units that are held: a region's other turns. */
static double use_seconds(timeline *t, int pass, int use)
{
    const plan_use *u = &t->plan->use[use];
    double first = pass > 0 ? 0 : t->m->check + (t->how->mapped ? t->m->touch : 0), before = work_seconds(t, &u->before) / u->repeats, again = 0;
    double moved = t->now + map_seconds(t, &u->before);
    t->now += before;
    for (int i = t->units.first[use]; i < t->units.first[use + 1]; i++) {
        double once = product_seconds(t, u, (double)t->units.unit[i].rows);
        take(t, pass, i, u->region != 0);
        t->now += once + (double)t->units.unit[i].bytes * first;
        again += once;
    }
    t->now = fmax(t->now, moved);
    return (before + again) * (u->repeats - 1);
}

static void one_pass(timeline *t, int pass)
{
    const plan *p = t->plan;
    double again = 0;
    for (int i = 0; i < p->uses; i++) {
        again += use_seconds(t, pass, i);
        if (i + 1 < p->uses && p->use[i + 1].region == p->use[i].region)
            continue;
        t->now += again;
        again = 0;
        give_back(t);
    }
    t->now += fmax(work_seconds(t, &p->after), map_seconds(t, &p->after));
}

/* Before the first unit can be multiplied: memory, vectors, rows of embeddings. */
static double start_seconds(const timeline *t)
{
    const plan *p = t->plan;
    double gathered = 0, vectors = 0;
    for (int i = 0; i < p->uses; i++) {
        gathered += (double)p->use[i].rows_gathered;
        vectors += p->use[i].role == ROLE_VECTOR;
    }
    /* vectors are checked, then read, in pieces, each behind what the readers have begun */
    uint64_t units = (uint64_t)t->readers * t->how->unit_bytes, begun = t->how->mapped ? 0 : units < t->how->ring_bytes ? units : t->how->ring_bytes;
    double pieces = 2 * ((double)p->vector_bytes / VECTORS_AHEAD + 1), behind = t->m->read_alone + (double)begun / 2 * t->m->read_byte;
    enum { CALLS = 800 }; /* that threads, files and memory take as long as: 1.5 ms where a call takes 1.8 us */
    return CALLS * t->m->call + (double)p->arena_bytes * t->m->touch + vectors * t->m->read_vector + pieces * behind + gathered * t->m->read_alone +
           (double)p->vector_bytes * t->m->read_byte_small;
}

double plan_seconds(const plan *p, const residency *how, const machine_rates *m, int passes, bool f32, double window_share, status *st)
{
    enum { FOLLOWED = 3 }; /* passes: the others take as long as the last of these */
    timeline t = {.plan = p, .how = how, .m = m, .f32 = f32, .passes = passes, .readers = stream_readers(how), .map_byte = m->scratch_byte * (1 - window_share), .map_request = m->scratch_request * (1 - window_share)};
    if (!units_build(&t.units, p, how->mapped ? MAPPED_UNIT : how->unit_bytes, st))
        return 0;
    if (!how->mapped)
        units_pin(&t.units, how->pin_bytes);
    double last = 0;
    t.room = t.units.count + 1;
    t.queue = mem_alloc((size_t)t.room, sizeof *t.queue, "plan", st);
    t.ring.bytes = how->ring_bytes;
    if (t.queue) {
        read_ahead(&t, 0);
        t.now = start_seconds(&t);
        for (int i = 0; i < passes && i < FOLLOWED; i++) {
            double began = t.now;
            one_pass(&t, i);
            last = t.now - began;
        }
    }
    mem_free(t.queue);
    units_free(&t.units);
    return t.now + (passes > FOLLOWED ? (passes - FOLLOWED) * last : 0);
}
