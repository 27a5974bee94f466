/* A product walks the stream's slices of its matrix; each slice is cut into groups of rows, each group is decoded once by a worker and
 * multiplied with blocks of tokens that fit the cache. Who does what never changes a sum: every result element is one
 * dot product over k in an order that the kernel fixes. */
#include "compute/op_matrix.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { TOKEN_BLOCK = 64, TOKEN_BLOCK_F32 = 256, GROUP_FLOATS = 96 * 1024, GROUP_BYTES = 256 * 1024 }; /* of floats, of int8: what the second cache holds beside the tokens */

typedef struct layout {      /* of a product's scratch */
    int64_t quantized, scales, sums, zero, worker, worker_bytes, total;
} layout;

typedef struct division {    /* of a slice into tasks: groups of rows, and where these are too few for the threads blocks of tokens as well */
    int64_t groups, blocks, block_rows;
    int group_rows, token_block;
} division;

typedef struct slice_job {
    const product *p;
    const weight *w;
    const weight_slice *slice;
    layout at;
    bool integer;
    division by;
} slice_job;

/* The tokens that a group's weights are multiplied with at once, at most: gemm_f32 transposes them each time. */
static int64_t most_tokens(bool integer) { return integer ? TOKEN_BLOCK : TOKEN_BLOCK_F32; }

static bool uses_integers(const run *r, const weight *w)
{
    return type_of(w->type)->integer && !r->f32;
}

int product_group_rows(const matrix_shape *m, bool integer)
{
    int64_t k = (int64_t)m->taps * depth_padded(m->depth), g = (integer ? GROUP_BYTES : GROUP_FLOATS) / k / PANEL_ROWS * PANEL_ROWS;
    return g < PANEL_ROWS ? PANEL_ROWS : g > 128 ? 128 : (int)g;
}

/* A group's weights as the kernels want them: int8 panels with their scales, or rows of floats. */
static int64_t decoded_bytes(const matrix_shape *m, bool integer)
{
    int64_t rows = product_group_rows(m, integer);
    return integer ? rows / PANEL_ROWS * (int64_t)type_panel_tmp_bytes(m) : rows * m->taps * m->depth * 4;
}

static layout layout_of(const run *r, const weight *w, const matrix_shape *m, int64_t x_rows)
{
    layout at = {0};
    int64_t padded = depth_padded(m->depth), k = m->taps * padded, next = 0;
    bool integer = uses_integers(r, w), rotated = type_of(w->type)->integer && r->f32;
    if (integer) {
        at.quantized = next, next += (int64_t)round_up((size_t)(x_rows * padded), 64);
        at.scales = next, next += (int64_t)round_up((size_t)x_rows * 4, 64);
        at.sums = next, next += (int64_t)round_up((size_t)x_rows * 4, 64);
    } else if (rotated) {
        at.quantized = next, next += (int64_t)round_up((size_t)(x_rows * m->depth) * 4, 64);
    }
    at.zero = next, next += padded * 4;
    at.worker = next;
    int64_t pointers = most_tokens(integer) * m->taps * (int64_t)(sizeof(void *) + 8);
    int64_t decoded = decoded_bytes(m, integer);
    int64_t raw = PANEL_ROWS * k + 128, tile = most_tokens(integer) * 128 * 4, row = padded * 4;
    at.worker_bytes = (int64_t)round_up((size_t)pointers, 64) + (int64_t)round_up((size_t)decoded, 64) + (int64_t)round_up((size_t)raw, 64) + tile +
                      (int64_t)round_up((size_t)row, 64);
    at.total = next + at.worker_bytes * threads_count(r->pool);
    return at;
}

int64_t product_scratch(const run *r, int use, const matrix_shape *m, int64_t x_rows)
{
    return use < 0 ? 0 : layout_of(r, r->plan->use[use].weight, m, x_rows).total;
}

/* ---- the left operand: quantized, or rotated in f32, once for all slices ---- */

typedef struct prepare_job {
    const product *p;
    layout at;
    int block;
    bool integer;
} prepare_job;

static void prepare_rows(void *ctx, int64_t task, int worker)
{
    const prepare_job *j = ctx;
    const product *p = j->p;
    int depth = p->m.depth, padded = depth_padded(depth);
    float *tmp = (float *)(p->scratch + j->at.worker + worker * j->at.worker_bytes); /* a worker's memory has room for many rows */
    for (int64_t row = task * 16; row < (task + 1) * 16 && row < p->x_rows; row++) {
        const float *x = p->source ? p->source(p->source_ctx, row, tmp + padded) : p->x + row * depth;
        if (j->integer)
            p->r->k->quantize_row(x, depth, padded, j->block, tmp, (int8_t *)p->scratch + j->at.quantized + row * padded,
                                  (float *)(p->scratch + j->at.scales) + row, (int32_t *)(p->scratch + j->at.sums) + row);
        else
            p->r->k->rotate_row(x, depth, j->block, (float *)(p->scratch + j->at.quantized) + row * depth);
    }
}

static void prepare(const product *p, const weight *w, layout at)
{
    memset(p->scratch + at.zero, 0, (size_t)depth_padded(p->m.depth) * 4);
    if (!type_of(w->type)->integer)
        return;
    prepare_job j = {p, at, w->rotation_log2 ? 1 << w->rotation_log2 : 0, uses_integers(p->r, w)};
    threads_run(p->r->pool, (p->x_rows + 15) / 16, prepare_rows, &j);
}

/* ---- one group of rows against one range of tokens ---- */

typedef struct worker_memory {
    const void **a;
    float *a_scale;
    int32_t *a_sum;
    char *decoded, *raw;
    float *tile;
    float *y; /* where a product goes first, rows y_stride apart: the tile, or its place in the result */
    size_t y_stride;
} worker_memory;

static worker_memory memory_of(const slice_job *j, int worker)
{
    const product *p = j->p;
    char *at = p->scratch + j->at.worker + worker * j->at.worker_bytes;
    int64_t n = most_tokens(j->integer) * p->m.taps, k = (int64_t)p->m.taps * depth_padded(p->m.depth);
    worker_memory w;
    w.a = (const void **)at;
    w.a_scale = (float *)(at + n * (int64_t)sizeof(void *));
    w.a_sum = (int32_t *)(w.a_scale + n);
    at += round_up((size_t)(n * (int64_t)(sizeof(void *) + 8)), 64);
    w.decoded = at;
    at += round_up((size_t)decoded_bytes(&p->m, j->integer), 64);
    w.raw = at;
    at += round_up((size_t)(PANEL_ROWS * k + 128), 64);
    w.tile = (float *)at;
    return w;
}

/* One tap's rows. */
static void point_i8(const slice_job *j, const worker_memory *w, const int64_t *row, int at, int n)
{
    const char *scratch = j->p->scratch;
    const float *scales = (const float *)(const void *)(scratch + j->at.scales);
    const int32_t *sums = (const int32_t *)(const void *)(scratch + j->at.sums);
    int padded = depth_padded(j->p->m.depth);
    for (int t = 0; t < n; t++, at++) {
        bool none = row[t] < 0;
        w->a[at] = scratch + (none ? j->at.zero : j->at.quantized + row[t] * padded);
        w->a_scale[at] = none ? 0 : scales[row[t]];
        w->a_sum[at] = none ? 0 : sums[row[t]];
    }
}

static void point_f32(const slice_job *j, const worker_memory *w, const int64_t *row, int at, int n)
{
    const product *p = j->p;
    const float *x = type_of(j->w->type)->integer ? (const float *)(const void *)(p->scratch + j->at.quantized) : p->x; /* rotated, or as it is */
    const float *zero = (const float *)(const void *)(p->scratch + j->at.zero);
    for (int t = 0; t < n; t++)
        w->a[at + t] = row[t] < 0 ? zero : x + row[t] * p->m.depth;
}

static void point(const slice_job *j, const worker_memory *w, int64_t t0, int n)
{
    const product *p = j->p;
    int64_t row[TOKEN_BLOCK_F32];
    for (int s = 0; s < p->m.taps; s++) {
        if (p->tap)
            p->tap(p->tap_ctx, t0, n, s, row);
        else
            for (int t = 0; t < n; t++)
                row[t] = t0 + t;
        if (j->integer)
            point_i8(j, w, row, s * n, n);
        else
            point_f32(j, w, row, s * n, n);
    }
}

/* What is left to do: bias, activation, gate, residual, and the tile to its place. */
static void finish(const slice_job *j, const worker_memory *w, int64_t t0, int n, int64_t row0, int rows)
{
    const product *p = j->p;
    const kernels *k = p->r->k;
    for (int t = 0; t < n; t++) {
        float *y = w->y + (size_t)t * w->y_stride, *out = p->out + (size_t)(t0 + t) * p->out_stride + row0;
        if (p->bias)
            k->add_gated(y, p->bias + row0, NULL, (size_t)rows);
        int64_t item = p->first_item + (p->plus || p->gate ? (t0 + t) / p->rows_per_item : 0);
        if (p->plus)
            k->add_gated(y, p->plus + (size_t)item * p->plus_stride + row0, NULL, (size_t)rows);
        if (p->act != ACT_NONE)
            k->activate(p->act, y, y, (size_t)rows);
        if (!p->adding) {
            if (y != out)
                memcpy(out, y, (size_t)rows * 4);
            continue;
        }
        if (p->add)
            memcpy(out, p->add + (size_t)(t0 + t) * p->out_stride + row0, (size_t)rows * 4);
        k->add_gated(out, y, p->gate ? p->gate + (size_t)item * p->gate_stride + row0 : NULL, (size_t)rows);
    }
}

static void multiply_f32(const slice_job *j, const worker_memory *w, const float *decoded, size_t w_stride, int rows, int n)
{
    const product *p = j->p;
    p->r->k->gemm_f32((const float *const *)w->a, n, p->m.taps, p->m.depth, decoded, w_stride, rows, w->y, w->y_stride);
}

/* A group's weights as they lie in the slice. */
typedef struct group_bytes {
    const uint8_t *at;
    int64_t bytes;
} group_bytes;

/* What this worker will most likely take next, so that it is asked for in time. */
static group_bytes group_after(const slice_job *j, int64_t task)
{
    int64_t next = (task + threads_count(j->p->r->pool)) / j->by.blocks, step = type_unit_rows(j->w->type);
    if (next == task / j->by.blocks || next >= j->by.groups)
        return (group_bytes){NULL, 0};
    int64_t first = next * j->by.group_rows, rows = j->slice->rows - first < j->by.group_rows ? j->slice->rows - first : j->by.group_rows;
    int64_t unit = (int64_t)type_unit_bytes(j->w->type, &j->p->m);
    return (group_bytes){j->slice->data + first / step * unit, (rows + step - 1) / step * unit};
}

static group_bytes part_of(group_bytes g, int64_t first, int64_t count, int64_t all)
{
    int64_t from = g.bytes * first / all, to = g.bytes * (first + count) / all;
    return (group_bytes){to > from ? g.at + from : NULL, to - from};
}

/* The group's panels by n tokens; meanwhile an even share of `soon` is asked for with each. */
static void multiply_i8(const slice_job *j, const worker_memory *w, const int8_t *const *panel, const float *const *scale, int rows, int n,
                        group_bytes soon)
{
    const product *p = j->p;
    int64_t panels = (rows + PANEL_ROWS - 1) / PANEL_ROWS;
    for (int i = 0; i < panels; i++) {
        group_bytes part = part_of(soon, i, 1, panels);
        p->r->k->gemm_i8((const int8_t *const *)w->a, w->a_scale, w->a_sum, n, p->m.taps, depth_padded(p->m.depth), panel[i], scale[i],
                         rows - i * PANEL_ROWS < PANEL_ROWS ? rows - i * PANEL_ROWS : PANEL_ROWS, w->y + i * PANEL_ROWS, w->y_stride,
                         part.at, (size_t)part.bytes);
    }
}

/* safetensors lets a tensor begin anywhere: such rows are copied to where their elements are aligned, one by one. */
static const float *decode_unaligned(const slice_job *j, const worker_memory *w, const uint8_t *at, int rows, bool oihw)
{
    const matrix_shape *m = &j->p->m;
    size_t unit = type_unit_bytes(j->w->type, m), row_floats = (size_t)m->taps * (size_t)m->depth, room = round_up(unit, 64);
    for (int i = 0; i < rows; i++) {
        memcpy(w->raw, at + (size_t)i * unit, unit);
        type_to_f32(j->p->r->k, j->w->type, m, oihw, NULL, (const uint8_t *)w->raw, 1, w->raw + room, (float *)(void *)w->decoded + (size_t)i * row_floats);
    }
    return (const float *)(void *)w->decoded;
}

/* Rows first .. first + rows of the slice, decoded into the worker's memory (or used in place). */
static const float *decode_f32(const slice_job *j, const worker_memory *w, int64_t first, int rows)
{
    const matrix_shape *m = &j->p->m;
    size_t unit = type_unit_bytes(j->w->type, m), row_floats = (size_t)m->taps * (size_t)m->depth;
    int step = type_unit_rows(j->w->type);
    const uint8_t *at = j->slice->data + (size_t)(first / step) * unit;
    bool oihw = j->w->oihw && m->taps > 1;
    if (j->w->type == TYPE_F32 && !oihw && (uintptr_t)at % 4 == 0)
        return (const float *)(const void *)at;
    int element = type_of(j->w->type)->element_bytes;
    if (element > 1 && (uintptr_t)at % (uintptr_t)element)
        return decode_unaligned(j, w, at, rows, oihw);
    for (int i = 0; i < rows; i += PANEL_ROWS) {
        int n = rows - i < PANEL_ROWS ? rows - i : PANEL_ROWS;
        type_to_f32(j->p->r->k, j->w->type, m, oihw, j->slice->head, at + (size_t)(i / step) * unit, n, w->raw, (float *)(void *)w->decoded + (size_t)i * row_floats);
    }
    return (const float *)(void *)w->decoded;
}

static void group_task(void *ctx, int64_t task, int worker)
{
    const slice_job *j = ctx;
    const product *p = j->p;
    worker_memory w = memory_of(j, worker);
    int64_t group = task / j->by.blocks, first = group * j->by.group_rows, t_begin = task % j->by.blocks * j->by.block_rows;
    int64_t t_end = t_begin + j->by.block_rows < p->rows ? t_begin + j->by.block_rows : p->rows;
    int rows = j->slice->rows - first < j->by.group_rows ? (int)(j->slice->rows - first) : j->by.group_rows;
    const float *decoded = NULL, *scale[8];
    const int8_t *panel[8];
    group_bytes soon = j->integer ? group_after(j, task) : (group_bytes){NULL, 0};
    size_t unit = type_unit_bytes(j->w->type, &p->m);
    if (j->integer)
        for (int i = 0; i * PANEL_ROWS < rows; i++)
            panel[i] = type_panel_i8(p->r->k, j->w->type, &p->m, j->slice->head, j->slice->data + (size_t)(first / PANEL_ROWS + i) * unit,
                                     (int8_t *)w.decoded + (size_t)i * type_panel_tmp_bytes(&p->m), &scale[i]);
    else
        decoded = decode_f32(j, &w, first, rows);
    for (int64_t t0 = t_begin; t0 < t_end; t0 += j->by.token_block) {
        int n = t_end - t0 < j->by.token_block ? (int)(t_end - t0) : j->by.token_block;
        bool in_place = j->integer && !p->adding; /* gemm_f32 adds block to block: rows far apart would meet in the same lines of the cache */
        w.y = in_place ? p->out + (size_t)t0 * p->out_stride + (size_t)(j->slice->first_row + first) : w.tile;
        w.y_stride = in_place ? p->out_stride : 128;
        point(j, &w, t0, n);
        if (j->integer)
            multiply_i8(j, &w, panel, scale, rows, n, part_of(soon, t0 - t_begin, n, t_end - t_begin));
        else
            multiply_f32(j, &w, decoded, (size_t)p->m.taps * (size_t)p->m.depth, rows, n);
        finish(j, &w, t0, n, j->slice->first_row + first, rows);
    }
}

/* Blocks of tokens for f32, whose weights each block transposes anew: as few as leave no thread idle for long while others work at the last. */
static int64_t blocks_f32(int64_t groups, int64_t rows, int workers)
{
    int64_t least = (rows + TOKEN_BLOCK_F32 - 1) / TOKEN_BLOCK_F32, most = (rows + TOKEN_BLOCK - 1) / TOKEN_BLOCK, blocks = least;
    while (blocks < most && (groups * blocks + workers - 1) / workers * workers * 8 > groups * blocks * 9)
        blocks++;
    return blocks;
}

static division divide(int64_t slice_rows, int group_rows, int64_t tokens, bool integer, int workers)
{
    division d = {.groups = (slice_rows + group_rows - 1) / group_rows, .group_rows = group_rows, .token_block = TOKEN_BLOCK};
    if (!integer) {
        d.group_rows = (int)((slice_rows + d.groups * PANEL_ROWS - 1) / (d.groups * PANEL_ROWS)) * PANEL_ROWS; /* as even as can be */
        d.groups = (slice_rows + d.group_rows - 1) / d.group_rows;
        int64_t blocks = blocks_f32(d.groups, tokens, workers);
        d.token_block = (int)((tokens + blocks - 1) / blocks);
        d.block_rows = d.token_block;
    } else {
        int64_t token_blocks = (tokens + TOKEN_BLOCK - 1) / TOKEN_BLOCK, want = 4 * workers / d.groups + 1, blocks = want < token_blocks ? want : token_blocks;
        d.block_rows = (token_blocks + blocks - 1) / blocks * TOKEN_BLOCK;
    }
    d.blocks = (tokens + d.block_rows - 1) / d.block_rows;
    return d;
}

double product_waste(const matrix_shape *m, bool integer, int64_t slice_rows, int64_t tokens, int workers)
{
    division d = divide(slice_rows, product_group_rows(m, integer), tokens, integer, workers);
    double tasks = (double)(d.groups * d.blocks), rounds = ceil(tasks / workers);
    return rounds * workers / tasks;
}

void product_run(const product *p)
{
    run *r = p->r;
    if (!run_ok(r))
        return;
    const weight *w = r->plan->use[p->use].weight;
    if (r->moments && p->x && !moments_add(r->moments, w, p->x + p->x_seen * p->m.depth, p->x_rows - p->x_seen, p->m.depth, r->k, r->pool, r->st))
        return;
    layout at = layout_of(r, w, &p->m, p->x_rows);
    weight_slice slice;
    bool prepared = false;
    while (stream_next(r->stream, p->use, &slice, r->st)) {
        if (!prepared)
            prepare(p, w, at);
        prepared = true;
        bool integer = uses_integers(r, w), as_it_lies = w->type == TYPE_F32 && !(w->oihw && p->m.taps > 1);
        int group_rows = as_it_lies ? 64 : product_group_rows(&p->m, integer); /* where nothing is decoded the group only shapes the tile */
        slice_job j = {.p = p, .w = w, .slice = &slice, .at = at, .integer = integer, .by = divide(slice.rows, group_rows, p->rows, integer, threads_count(r->pool))};
        threads_run(r->pool, j.by.groups * j.by.blocks, group_task, &j);
    }
}
