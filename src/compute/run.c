#include "compute/run.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* ---- scopes and the arena ---- */

scope enter(run *r, const char *format, ...)
{
    scope s = {r->arena.serial, r->maps.serial, (int)strlen(r->prefix)};
    char part[NAME_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(part, sizeof part, format, args);
    va_end(args);
    if (n > 0 && s.prefix_length + n + 2 < NAME_BYTES) {
        memcpy(r->prefix + s.prefix_length, part, (size_t)n);
        r->prefix[s.prefix_length + n] = '.';
        r->prefix[s.prefix_length + n + 1] = 0;
    } else if (n > 0) {
        status_set(r->st, STATUS_BAD_FILE, "%s: names of tensors are longer than %d", r->component, NAME_BYTES);
    }
    return s;
}

tensor leave(run *r, scope s, tensor keep)
{
    r->prefix[s.prefix_length] = 0;
    arena_free_since(&r->arena, s.mark, keep.owner, keep.sums);
    arena_free_since(&r->maps, s.map_mark, keep.owner - MAP_PLACE, -1);
    return keep;
}

int64_t scratch_new(run *r, int64_t bytes)
{
    if (!run_ok(r))
        return -1;
    int64_t place = arena_alloc(&r->arena, bytes);
    if (place < 0)
        status_set(r->st, STATUS_BAD_FILE, "%s%s: an activation of %" PRId64 " bytes does not fit the arena", r->component, r->prefix, bytes);
    if (r->plan && !r->live && (uint64_t)r->arena.peak > r->plan->arena_bytes)
        r->plan->arena_bytes = (uint64_t)r->arena.peak;
    return place;
}

void scratch_drop(run *r, int64_t place)
{
    if (place >= 0 && run_ok(r))
        arena_free(&r->arena, place);
}

static void count_tensor(run *r, double bytes)
{
    if (r->live)
        return;
    r->plan->after.activation_bytes += (uint64_t)(bytes * r->region_repeats);
    r->plan->after.calls += (uint64_t)(r->region_repeats + 0.5);
}

tensor tensor_new(run *r, int batch, int height, int width, int channels)
{
    tensor t = {batch, height, width, channels, 0, -1, -1, -1};
    if (batch <= 0 || height <= 0 || width <= 0 || channels <= 0) {
        status_set(r->st, STATUS_BAD_FILE, "%s %s: an activation of [%d, %d x %d, %d]", r->component, r->prefix, batch, height, width, channels);
        return t;
    }
    double bytes = 4.0 * batch * height * width * channels;
    if (bytes > 1e13) {
        status_set(r->st, STATUS_BAD_FILE, "%s %s: an activation of %.0f bytes", r->component, r->prefix, bytes);
        return t;
    }
    t.place = t.owner = scratch_new(r, (int64_t)bytes);
    count_tensor(r, bytes);
    return t;
}

tensor tensor_like(run *r, tensor x, int channels)
{
    tensor t = tensor_new(r, x.batch, x.height, x.width, channels);
    t.first_batch = x.first_batch;
    return t;
}

void drop(run *r, tensor t)
{
    if (in_scratch(t) && run_ok(r))
        arena_free(&r->maps, t.owner - MAP_PLACE);
    else if (t.place >= 0 && t.place == t.owner)
        scratch_drop(r, t.place);
    if (t.place == t.owner)
        scratch_drop(r, t.sums);
}

tensor changed(run *r, tensor t)
{
    scratch_drop(r, t.sums);
    t.sums = -1;
    return t;
}

/* ---- maps in the scratch file ---- */

tensor map_new(run *r, int batch, int height, int width, int channels)
{
    int64_t bytes = (int64_t)batch * height * width * channels * 4;
    if (!r->lever.scratch_bytes || bytes < r->lever.scratch_bytes || height < 2)
        return tensor_new(r, batch, height, width, channels);
    tensor t = {batch, height, width, channels, 0, -1, -1, -1};
    if (run_ok(r))
        t.place = t.owner = arena_alloc(&r->maps, bytes) + MAP_PLACE;
    count_tensor(r, (double)bytes);
    if (!r->live && (uint64_t)r->maps.peak > r->plan->scratch_bytes)
        r->plan->scratch_bytes = (uint64_t)r->maps.peak;
    return t;
}

void map_moves(run *r, tensor t, int64_t bands)
{
    if (r->live || !in_scratch(t))
        return;
    r->plan->after.map_bytes += (uint64_t)(4 * tensor_count(t));
    r->plan->after.map_requests += (uint64_t)bands;
    r->plan->after.calls += (uint64_t)bands;
}

static uint64_t map_offset(tensor t, int item, int row)
{
    return (uint64_t)(t.place - MAP_PLACE) + ((uint64_t)item * (uint64_t)t.height + (uint64_t)row) * (uint64_t)t.width * (uint64_t)t.channels * 4;
}

static size_t map_bytes(tensor t, int rows) { return (size_t)rows * (size_t)t.width * (size_t)t.channels * 4; }

uint64_t map_fetch(run *r, tensor t, int item, int row, int rows, float *out)
{
    return run_ok(r) ? scratch_read(r->scratch, map_offset(t, item, row), out, map_bytes(t, rows)) : 0;
}

uint64_t map_store(run *r, tensor t, int item, int row, int rows, const float *data)
{
    return run_ok(r) ? scratch_write(r->scratch, map_offset(t, item, row), data, map_bytes(t, rows)) : 0;
}

bool map_wait(run *r, uint64_t number)
{
    return number == 0 || scratch_wait(r->scratch, number, r->st);
}

bool map_read(run *r, tensor t, int item, int row, int rows, float *out)
{
    return map_wait(r, map_fetch(r, t, item, row, rows, out)) && run_ok(r);
}

bool map_write(run *r, tensor t, int item, int row, int rows, const float *data)
{
    return map_wait(r, map_store(r, t, item, row, rows, data)) && run_ok(r);
}

tensor map_copy(run *r, tensor x)
{
    if (in_scratch(x) || !run_ok(r))
        return x;
    tensor y = map_new(r, x.batch, x.height, x.width, x.channels);
    if (!in_scratch(y)) {
        drop(r, y);
        return x;
    }
    map_moves(r, y, 1);
    if (x.sums >= 0) {
        int64_t bytes = (int64_t)x.batch * x.height * 2 * x.channels * 4;
        y.sums = scratch_new(r, bytes);
        if (r->live && run_ok(r))
            memcpy(run_at(r, y.sums), run_at(r, x.sums), (size_t)bytes);
    }
    if (r->live && run_ok(r))
        map_write(r, y, 0, 0, x.batch * x.height, tensor_data(r, x));
    return y;
}

void run_operations(run *r, double operations)
{
    if (r->live)
        return;
    r->plan->operations += (uint64_t)(operations * r->region_repeats);
    r->plan->after.attention_operations += (uint64_t)(operations * r->region_repeats);
}

/* ---- regions ---- */

region region_rows(run *r, tensor x)
{
    int64_t tokens = tensor_tokens(x);
    int64_t step = (int64_t)round_up((size_t)r->lever.slab_rows, KEY_TILE); /* keys may be packed slab by slab */
    bool whole = step == 0 || step >= tokens;
    return (region){.x = x, .rows = whole ? 1 : tokens * x.batch, .step = whole ? 1 : step, .repeated = !whole,
                    .mark = r->arena.serial, .first_use = r->use};
}

static void region_enter(run *r, region *g)
{
    g->begun = true;
    g->mark = r->arena.serial;
    g->first_use = r->use;
    if (!g->repeated)
        return;
    assert(r->region == 0); /* regions do not nest */
    r->region = ++r->regions;
    if (r->live)
        stream_region_begin(r->stream, g->first_use);
    else
        r->region_repeats = (double)tensor_rows(g->x) / (double)g->step;
}

static void region_leave(run *r, region *g)
{
    if (!g->repeated)
        return;
    r->region = 0;
    r->region_repeats = 1;
    if (r->live && run_ok(r))
        stream_region_end(r->stream);
}

static tensor slab_of(const region *g)
{
    tensor t = g->x;
    t.sums = -1;
    if (!g->repeated)
        return t;
    int64_t tokens = tensor_tokens(t), in_item = g->row % tokens;
    int64_t n = tokens - in_item < g->step ? tokens - in_item : g->step;
    t.first_batch = t.first_batch + (int32_t)(g->row / tokens);
    t.batch = 1;
    t.height = 1;
    t.width = (int32_t)n;
    t.place += g->row * t.channels * 4;
    return t;
}

bool region_next(run *r, region *g, tensor *slab)
{
    if (!g->begun) {
        region_enter(r, g);
    } else {
        arena_free_since(&r->arena, g->mark, -1, -1);
        int64_t tokens = run_ok(r) ? tensor_tokens(g->x) : 1, in_item = g->row % tokens; /* after an error x has no shape */
        g->row += g->repeated ? (tokens - in_item < g->step ? tokens - in_item : g->step) : 1;
        g->uses = r->use - g->first_use;
        if (g->row >= g->rows || !r->live || !run_ok(r)) {
            region_leave(r, g);
            return false;
        }
        r->use = g->first_use;
        stream_region_again(r->stream);
    }
    *slab = slab_of(g);
    return true;
}

/* ---- weights ---- */

static bool full_name(run *r, const char *name, char out[NAME_BYTES])
{
    int n = snprintf(out, NAME_BYTES, "%s%s", r->prefix, name);
    return n > 0 && n < NAME_BYTES ? true : status_set(r->st, STATUS_BAD_FILE, "%s: a tensor's name is too long", r->component);
}

/* The name with one part spelled another way; false when the part is not in it. */
static bool respell(const char *name, const name_alias *a, char out[NAME_BYTES])
{
    const char *at = strstr(name, a->ours);
    if (!at)
        return false;
    int n = snprintf(out, NAME_BYTES, "%.*s%s%s", (int)(at - name), name, a->theirs, at + strlen(a->ours));
    return n > 0 && n < NAME_BYTES;
}

static const weight *look_up(run *r, const char *name)
{
    const weight *w = source_find(r->source, r->component, name);
    char other[NAME_BYTES];
    for (const name_alias *a = r->alias; !w && a && a->ours; a++)
        if (respell(name, a, other))
            w = source_find(r->source, r->component, other);
    return w;
}

bool weight_exists(run *r, const char *name)
{
    char full[NAME_BYTES];
    return run_ok(r) && full_name(r, name, full) && (r->imagine || look_up(r, full));
}

bool weight_is_integer(run *r, const char *name)
{
    char full[NAME_BYTES];
    const weight *w = run_ok(r) && !r->imagine && full_name(r, name, full) ? look_up(r, full) : NULL;
    return w && type_of(w->type)->integer;
}

/* What the quantizer would make of it, but for the few that it protects. */
static weight_type imagined_type(const run *r, weight_role role, const matrix_shape *m)
{
    uint64_t bytes = 0, plain = 0;
    bool panels = type_of(r->imagined_as)->panels;
    if (role == ROLE_VECTOR)
        return TYPE_F32;
    if (role == ROLE_EMBEDDING)
        return panels ? TYPE_Q8_ROWS : r->imagined_as;
    type_matrix_bytes(TYPE_F16, m, &plain);
    return panels && (!type_matrix_bytes(r->imagined_as, m, &bytes) || bytes >= plain) ? TYPE_F16 : r->imagined_as;
}

static const weight *imagine(run *r, const char *name, weight_role role, int dims, const int64_t *shape, matrix_shape m)
{
    plan *p = r->plan;
    for (int i = 0; i < p->imagined_count; i++)
        if (strcmp(p->imagined[i]->name, name) == 0)
            return p->imagined[i];
    weight **list = mem_resize(p->imagined, (size_t)p->imagined_count + 1, sizeof *list, "plan", r->st);
    if (!list)
        return NULL;
    p->imagined = list;
    weight *w = mem_alloc(1, sizeof *w, "plan", r->st);
    char *copy = w ? mem_string(name, r->st) : NULL;
    weight_part *part = copy ? mem_alloc(1, sizeof *part, "plan", r->st) : NULL;
    if (!part) {
        mem_free(copy);
        mem_free(w);
        return NULL;
    }
    *part = (weight_part){.rows = m.rows, .extent = -1};
    *w = (weight){.component = r->component, .name = copy, .type = imagined_type(r, role, &m), .dims = dims, .matrix = m, .oihw = m.taps > 1, .file = -1,
                  .parts = 1, .part = part};
    memcpy(w->shape, shape, (size_t)dims * sizeof *shape);
    type_matrix_bytes(w->type, &m, &part->bytes);
    p->imagined[p->imagined_count++] = w;
    return w;
}

static void shape_text(char *out, size_t room, int dims, const int64_t *shape)
{
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < dims && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, "%s%" PRId64, i ? "x" : "", shape[i]);
}

/* Trailing ones do not count: a 1x1 convolution is a linear layer; nor do leading ones of a vector. */
static bool same_shape(const weight *w, int dims, const int64_t *shape)
{
    int have = w->dims, lead = 0;
    while (have > dims && w->shape[have - 1] == 1)
        have--;
    while (dims > have && shape[dims - 1] == 1)
        dims--;
    while (have - lead > dims && w->shape[lead] == 1)
        lead++;
    return have - lead == dims && memcmp(w->shape + lead, shape, (size_t)dims * sizeof *shape) == 0;
}

static const weight *find_shaped(run *r, const char *name, weight_role role, int dims, const int64_t *shape, matrix_shape m)
{
    char full[NAME_BYTES], want[96], has[96];
    if (!full_name(r, name, full))
        return NULL;
    if (r->imagine)
        return imagine(r, full, role, dims, shape, m);
    const weight *w = look_up(r, full);
    shape_text(want, sizeof want, dims, shape);
    if (!w) {
        status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s%s%s is missing (the network wants %s)", r->source->path, r->component,
                   r->component[0] ? "/" : "", full, want);
        return NULL;
    }
    if (!same_shape(w, dims, shape)) {
        shape_text(has, sizeof has, w->dims, w->shape);
        status_set(r->st, STATUS_BAD_FILE, "%s: tensor %s%s%s: file has %s, the network wants %s", r->source->path, r->component,
                   r->component[0] ? "/" : "", full, has, want);
        return NULL;
    }
    return w;
}

static int add_use(run *r, plan_use u)
{
    plan *p = r->plan;
    if (p->uses == p->room) {
        int room = p->room ? p->room * 2 : 64;
        plan_use *more = mem_resize(p->use, (size_t)room, sizeof *more, "plan", r->st);
        if (!more)
            return -1;
        p->use = more;
        p->room = room;
    }
    u.repeats = r->region_repeats;
    u.before = p->after;
    p->after = (plan_work){0};
    p->use[p->uses] = u;
    return p->uses++;
}

/* LIVE: the next use must be the one that PLAN recorded. */
static int take_use(run *r, const weight *w)
{
    assert(r->use < r->plan->uses && r->plan->use[r->use].weight == w);
    return r->use++;
}

static void count_matrix(plan *p, const plan_use *u)
{
    uint64_t bytes = 0;
    for (int i = 0; i < u->weight->parts; i++)
        bytes += u->weight->part[i].bytes;
    p->stream_bytes += bytes;
    p->operations += u->operations;
    uint64_t unit = type_unit_bytes(u->weight->type, &u->matrix) + type_head_bytes(u->weight->type);
    if (unit > p->largest_unit)
        p->largest_unit = unit;
    if (!u->region)
        return;
    uint64_t held = 0;
    for (int i = 0; i < p->uses; i++)
        if (p->use[i].region == u->region && p->use[i].role != ROLE_VECTOR)
            for (int j = 0; j < p->use[i].weight->parts; j++)
                held += p->use[i].weight->part[j].bytes;
    if (held > p->region_bytes)
        p->region_bytes = held;
}

int use_matrix(run *r, const char *name, weight_role role, int64_t rows, int kernel, int64_t depth, double times)
{
    if (!run_ok(r))
        return -1;
    int64_t shape[4] = {rows, depth, kernel, kernel};
    matrix_shape m = {rows, kernel * kernel, (int32_t)depth};
    const weight *w = find_shaped(r, name, role, 4, shape, m);
    if (!w)
        return -1;
    if (r->live)
        return take_use(r, w);
    plan_use u = {.weight = w, .role = role, .matrix = m, .region = r->region,
                  .operations = (uint64_t)(2.0 * (double)rows * m.taps * (double)depth * times * r->region_repeats)};
    int n = add_use(r, u);
    if (n >= 0)
        count_matrix(r->plan, &u);
    return r->use = n + 1, n;
}

static int use_small(run *r, const char *name, int dims, const int64_t *shape, matrix_shape m)
{
    if (!run_ok(r))
        return -1;
    const weight *w = find_shaped(r, name, ROLE_VECTOR, dims, shape, m);
    if (!w)
        return -1;
    if (r->live)
        return take_use(r, w);
    int n = add_use(r, (plan_use){.weight = w, .role = ROLE_VECTOR, .matrix = m, .region = r->region});
    if (n >= 0)
        r->plan->vector_bytes += round_up((size_t)(m.rows * m.taps * m.depth) * 4, 64);
    return r->use = n + 1, n;
}

int use_vector(run *r, const char *name, int64_t rows, int64_t columns)
{
    return use_small(r, name, columns ? 2 : 1, (int64_t[2]){rows, columns ? columns : 1}, (matrix_shape){columns ? rows : 1, 1, (int32_t)(columns ? columns : rows)});
}

int use_kernels(run *r, const char *name, int64_t channels, int kernel)
{
    return use_small(r, name, 4, (int64_t[4]){channels, 1, kernel, kernel}, (matrix_shape){channels, kernel * kernel, 1});
}

int use_embedding(run *r, const char *name, int64_t rows, int64_t depth, int64_t gathered)
{
    if (!run_ok(r))
        return -1;
    int64_t shape[2] = {rows, depth};
    matrix_shape m = {rows, 1, (int32_t)depth};
    const weight *w = find_shaped(r, name, ROLE_EMBEDDING, 2, shape, m);
    if (!w)
        return -1;
    if (r->live)
        return take_use(r, w);
    int n = add_use(r, (plan_use){.weight = w, .role = ROLE_EMBEDDING, .matrix = m, .rows_gathered = gathered});
    if (n >= 0)
        r->plan->gather_bytes += (uint64_t)gathered * type_unit_bytes(w->type, &m);
    return r->use = n + 1, n;
}

bool run_begin(run *r)
{
    arena_reset(&r->arena);
    arena_reset(&r->maps);
    r->use = 0;
    r->regions = r->region = 0;
    r->region_repeats = 1;
    r->prefix[0] = 0;
    return r->live ? stream_begin(r->stream, r->st) : run_ok(r);
}

bool run_end(run *r)
{
    assert(!run_ok(r) || !r->live || r->use == r->plan->uses);
    return run_ok(r);
}
