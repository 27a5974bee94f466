#define _GNU_SOURCE
#include "models/stage.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "import/json.h"
#include "models/networks.h"

/* Besides what the plan counts, a process holds its code and its libraries' (base/footprint.h), what was allocated before the pipeline began, and the rest:
 * the kernel's tables, stacks, what malloc keeps, libraries' data, some of the C library. The rest was measured from outside, on a quiet machine, as 1.1 to 2.3 MiB
 * with 1 and 2 threads, 1.7 in the middle (SPEED.md; the C library is in what may be spared, so that the sum is enough). All are the same in every run, so that the
 * least budget named is, too, and is enough. */
enum { REST_BYTES = 1536 << 10, USUAL_REST_BYTES = 1664 << 10, THREAD_BYTES = 128 << 10, USUAL_THREAD_BYTES = 96 << 10 };

static uint64_t process_base_bytes(const engine *e)
{
    return e->code.most + e->process_bytes + REST_BYTES + (uint64_t)threads_count(e->pool) * THREAD_BYTES;
}

/* What the base has to spare in a usual run. */
static uint64_t spare_base_bytes(const engine *e)
{
    return e->code.most - e->code.usual + REST_BYTES - USUAL_REST_BYTES + (uint64_t)threads_count(e->pool) * (THREAD_BYTES - USUAL_THREAD_BYTES);
}

status refusal_aside(status *st)
{
    status before = *st;
    if (before.code == STATUS_BUDGET)
        *st = (status)STATUS_INIT;
    return before;
}

bool refusal_back(status *st, const status *before)
{
    if (before->code == STATUS_BUDGET && (status_ok(st) || (st->code == STATUS_BUDGET && st->least_bytes < before->least_bytes)))
        *st = *before;
    return status_ok(st);
}

bool engine_open(engine *e, const source *src, const request *q, result *report, status *st)
{
    mem_trim();
    *e = (engine){.source = src, .request = q, .st = st, .report = report, .code = footprint_of_code(),
                  .process_bytes = mem_in_use()};
    bool known = true;
    e->k = q->kernels ? kernels_by_name(q->kernels, &known) : kernels_best();
    if (!e->k)
        return status_set(st, STATUS_USAGE, known ? "--cpu %s: this processor does not have it" : "--cpu %s: no such kernel set", q->kernels);
    e->pool = threads_open(q->threads, st);
    return e->pool != NULL;
}

void engine_close(engine *e)
{
    threads_close(e->pool);
    e->pool = NULL;
}

/* ---- planning ---- */

static const levers ladder[] = { /* from roomy to narrow: slabs of tokens, bands of maps, then maps in the scratch file */
    {0, 16 << 20, 0}, {0, 4 << 20, 0}, {4096, 4 << 20, 0}, {2048, 2 << 20, 0}, {1024, 2 << 20, 0}, {512, 1 << 20, 0},
    /* two bands of each are at hand then */
    {1024, 4 << 20, 64 << 20}, {512, 2 << 20, 32 << 20}, {512, 2 << 20, 16 << 20}, {256, 1 << 20, 8 << 20}, {128, 512 << 10, 4 << 20},
    {64, 256 << 10, 2 << 20}, {64, 128 << 10, 1 << 20}, {32, 64 << 10, 256 << 10},
};
static const uint64_t unit_ladder[] = {4 << 20, 2 << 20, 1 << 20, 512 << 10, 256 << 10, 64 << 10, 1};
enum { READERS = 4 }; /* with a ring of 32 MiB they were the fastest of 1 to 4 (SPEED.md): one is as fast alone, but not beside the products */
enum { LEVELS = sizeof ladder / sizeof ladder[0], UNIT_LEVELS = sizeof unit_ladder / sizeof unit_ladder[0], MOST_RING = 32 << 20,
       MOST_PINS = 1 << 30 /* without a budget, of weights that cannot be mapped */ };

static bool record(stage *s, const levers *lever, const void *ctx)
{
    const char *name = s->plan.stage;
    plan_free(&s->plan);
    s->plan.stage = name;
    s->run.live = false;
    s->run.lever = *lever;
    if (!run_begin(&s->run))
        return false;
    s->forward(&s->run, ctx);
    return run_ok(&s->run);
}

static uint64_t needs(const stage *s, uint64_t unit, uint64_t ring)
{
    return s->plan.arena_bytes + stream_fixed_bytes(&s->plan, unit) + ring;
}

/* Room that is left goes to weights in flight, then to maps of the scratch file, which are written and read at least once a pass, then to weights
 * that stay. */
static void fill_residency(stage *s, uint64_t room, uint64_t unit, uint64_t ring)
{
    uint64_t left = room - needs(s, unit, ring), more = ring + 8 * unit > MOST_RING ? MOST_RING : ring + 8 * unit;
    uint64_t all = s->plan.stream_bytes + (uint64_t)s->plan.uses * 2 * IO_ALIGN; /* more than that would lie idle */
    more = more > all ? all : more;
    if (more > ring) {
        uint64_t add = more - ring < left / 2 ? more - ring : left / 2;
        ring += add;
        left -= add;
    }
    uint64_t to_whole = round_up(ring, HUGE_PAGE) - ring; /* its end would be in small pages, which take direct reads three times as long */
    if (ring < all && to_whole <= left) {
        ring += to_whole;
        left -= to_whole;
    }
    s->window_bytes = s->plan.scratch_bytes < left ? s->plan.scratch_bytes : left;
    left -= s->window_bytes;
    s->how = (residency){.ring_bytes = ring, .unit_bytes = unit, .pin_bytes = left > 1 << 20 && s->passes > 1 ? left - (1 << 18) : 0,
                          .readers = READERS};
}

/* Units small enough that some are multiplied while others are on their way. */
enum { UNITS_IN_FLIGHT = 8, SMALLEST_USUAL_UNIT = 4 /* of the ladder, 256K */ };

/* The largest unit of the ladder that fits at the recorded level, with room for `more` units beside the least ring. False where none does. */
static bool fit_units(stage *s, uint64_t base, int last_unit, uint64_t more, uint64_t *least)
{
    uint64_t budget = s->e->request->budget_bytes;
    for (int u = 0; u <= last_unit; u++) {
        uint64_t unit = unit_ladder[u], ring = stream_least_ring(&s->plan, unit, s->e->st), need = base + needs(s, unit, ring);
        if (!run_ok(&s->run))
            return false;
        *least = need < *least ? need : *least;
        uint64_t all = s->plan.stream_bytes, wish = more * unit < all ? more * unit : all;
        if (need + wish <= budget) {
            fill_residency(s, budget - base, unit, ring);
            return true;
        }
    }
    return false;
}

static bool refuse(engine *e, uint64_t least)
{
    uint64_t budget = e->request->budget_bytes, mib = (least + (1 << 20) - 1) >> 20;
    char given[32]; /* as one would type it */
    if (budget < 1 << 20)
        snprintf(given, sizeof given, budget < 1 << 10 ? "%.0f" : "%.4gK", budget < 1 << 10 ? (double)budget : (double)budget / (1 << 10));
    else
        snprintf(given, sizeof given, budget < 1000u << 20 ? "%.4gM" : "%.0fM", (double)budget / (1 << 20));
    status_set(e->st, STATUS_BUDGET, "memory budget: %s is too small, at least %lluM is needed", given, (unsigned long long)mib);
    e->st->least_bytes = mib << 20;
    return false;
}

static bool fit(stage *s, uint64_t base, const void *ctx)
{
    static const struct { int last_unit; uint64_t more; } wishes[] = {{SMALLEST_USUAL_UNIT, UNITS_IN_FLIGHT}, {UNIT_LEVELS - 1, 0}};
    engine *e = s->e;
    uint64_t least = UINT64_MAX;
    for (int wish = 0; wish < 2; wish++) /* a slab less costs little, tiny units and a ring of two much: these only where nothing else fits */
        for (int level = 0; level < LEVELS; level++) {
            if (!record(s, &ladder[level], ctx))
                return false;
            if (fit_units(s, base, wishes[wish].last_unit, wishes[wish].more, &least)) {
                s->lever = ladder[level];
                return true;
            }
            if (!run_ok(&s->run))
                return false;
        }
    return refuse(e, least);
}

static uint64_t parameters_of(const plan *p)
{
    uint64_t n = 0;
    for (int i = 0; i < p->uses; i++) {
        const matrix_shape *m = &p->use[i].matrix;
        n += (uint64_t)m->rows * (uint64_t)m->taps * (uint64_t)m->depth;
    }
    return n;
}

static void fill_operations(stage *s)
{
    uint64_t integer = 0;
    for (int i = 0; i < s->plan.uses; i++)
        integer += type_of(s->plan.use[i].weight->type)->integer && !s->run.f32 ? s->plan.use[i].operations : 0;
    s->row->operations = s->plan.operations * (uint64_t)s->passes;
    s->row->integer_operations = integer * (uint64_t)s->passes;
}

static void fill_row(stage *s, uint64_t base)
{
    stage_report *row = s->row;
    uint64_t pins = s->how.pin_bytes < s->plan.stream_bytes ? s->how.pin_bytes : s->plan.stream_bytes;
    row->arena_bytes = s->plan.arena_bytes + s->window_bytes;
    row->ring_bytes = s->how.mapped || pins == s->plan.stream_bytes ? 0 : s->how.ring_bytes;
    row->resident_bytes = s->how.mapped ? s->plan.stream_bytes + s->plan.vector_bytes : pins + stream_fixed_bytes(&s->plan, s->how.unit_bytes);
    row->stream_bytes = s->plan.gather_bytes + (s->how.mapped ? s->plan.stream_bytes : pins + (s->plan.stream_bytes - pins) * (uint64_t)s->passes);
    row->passes = s->passes;
    fill_operations(s);
    const plan *p = &s->plan;
    if (s->e->request->rates)
        row->seconds = plan_seconds(p, &s->how, s->e->request->rates, s->passes, s->run.f32, p->scratch_bytes ? (double)s->window_bytes / (double)p->scratch_bytes : 0, s->e->st);
    row->slab_rows = (int)s->lever.slab_rows;
    row->parameters = parameters_of(&s->plan);
    row->scratch_bytes = p->scratch_bytes;
    if (p->scratch_bytes > s->e->report->scratch_bytes)
        s->e->report->scratch_bytes = p->scratch_bytes;
    uint64_t peak = base - spare_base_bytes(s->e) + row->arena_bytes + row->ring_bytes + row->resident_bytes;
    if (peak > s->e->report->predicted_peak)
        s->e->report->predicted_peak = peak;
}

bool stage_plan(stage *s, engine *e, const char *component, const char *name, const name_alias *alias, forward_fn forward, const void *ctx, int passes)
{
    *s = (stage){.e = e, .forward = forward, .passes = passes};
    result *report = e->report;
    s->row = &report->stage[report->stages < (int)(sizeof report->stage / sizeof *report->stage) - 1 ? report->stages++ : report->stages];
    snprintf(s->row->name, sizeof s->row->name, "%s", name);
    s->row->role = role_of_names(alias);
    s->plan.stage = s->row->name;
    s->run = (run){.st = e->st, .plan = &s->plan, .k = e->k, .pool = e->pool, .f32 = e->request->precision == PRECISION_F32, .moments = e->request->moments, .source = e->source,
                   .component = component, .alias = alias, .imagine = e->request->imagine || source_lacks_weights(e->source, component),
                   .imagined_as = e->request->imagined_as};
    uint64_t base = process_base_bytes(e) + e->held_bytes;
    bool ok;
    status before = refusal_aside(e->st);
    if (e->request->budget_bytes) {
        ok = fit(s, base, ctx);
    } else {
        s->lever = ladder[0];
        s->how = (residency){.mapped = true, .readers = READERS};
        ok = record(s, &s->lever, ctx);
        if (ok && !plan_mappable(&s->plan, e->source))
            s->how = (residency){.ring_bytes = stream_least_ring(&s->plan, unit_ladder[0], e->st) + MOST_RING, .unit_bytes = unit_ladder[0],
                                 .pin_bytes = passes > 1 ? MOST_PINS : 0, .readers = READERS};
        ok = run_ok(&s->run);
    }
    if (ok)
        fill_row(s, base);
    return refusal_back(e->st, &before);
}

bool stage_plan_parts(stage *s, engine *e, const char *component, const name_alias *alias, forward_fn forward, const void *ctx, int calls, int batch, int *rows)
{
    status before = *e->st;
    int stages = e->report->stages;
    uint64_t peak = e->report->predicted_peak;
    *rows = batch;
    while (!stage_plan(s, e, component, component, alias, forward, ctx, calls * (batch / *rows)) && e->st->code == STATUS_BUDGET && *rows > 1) {
        do
            --*rows;
        while (batch % *rows);
        stage_close(s);
        *e->st = before;
        e->report->stages = stages;
        e->report->predicted_peak = peak;
    }
    return status_ok(e->st);
}

/* ---- running ---- */

bool stage_open(stage *s)
{
    engine *e = s->e;
    if (s->plan.imagined_count)
        return status_set(e->st, STATUS_BAD_FILE, "%s: %s has a config but no weights", e->source->path, s->plan.stage);
    mem_trim(); /* of tokenizers, and of plans that did not fit */
    s->memory_bytes = round_up(s->plan.arena_bytes + 64, 1 << 16);
    s->memory = mem_map_huge(s->memory_bytes, s->plan.stage, e->st);
    if (s->memory)
        mem_touch(s->memory, s->memory_bytes);
    if (s->memory && s->plan.scratch_bytes)
        s->scratch = scratch_open(e->request->scratch, s->plan.scratch_bytes, s->window_bytes, e->st);
    if (s->memory && status_ok(e->st))
        s->stream = stream_open(&s->plan, e->source, &s->how, s->passes * (1 + e->request->rehearsals), e->k, e->st);
    s->run.base = s->memory;
    s->run.stream = s->stream;
    s->run.scratch = s->scratch;
    s->run.lever = s->lever;
    s->run.live = true;
    return s->stream != NULL;
}

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static bool one_pass(stage *s, const void *ctx)
{
    double began = seconds_of(CLOCK_MONOTONIC), processor = threads_seconds(s->e->pool);
    if (!run_begin(&s->run))
        return false;
    s->forward(&s->run, ctx);
    s->row->pass_seconds = seconds_of(CLOCK_MONOTONIC) - began;
    s->row->pass_processor_seconds = threads_seconds(s->e->pool) - processor;
    return run_end(&s->run) && stream_intact(s->stream, s->e->st);
}

bool stage_pass(stage *s, const void *ctx)
{
    for (int i = 0; i < s->e->request->rehearsals; i++)
        if (!one_pass(s, ctx))
            return false;
    return one_pass(s, ctx);
}

void stage_close(stage *s)
{
    stream_close(s->stream);
    scratch_close(s->scratch);
    mem_unmap(s->memory, s->memory_bytes);
    plan_free(&s->plan);
    s->stream = NULL;
    s->scratch = NULL;
    s->memory = NULL;
}
