/* A convolution reads its input through a table of rows (implicit product: no im2col). What stands before it (a normalization, a second tensor
 * beside the first) is done pixel by pixel as they are quantized, so that no second whole map exists; large maps go through in bands of rows, and the weights
 * then stay for all bands. Of maps in the scratch file the next band is read and the last one written while one is computed. */
#include <stdio.h>
#include <string.h>

#include "compute/op_group_norm.h"
#include "compute/op_matrix.h"

/* Rows (or columns) of the input as the kernel sees it. */
static int seen(int n, const conv_options *o, bool odd) { return o->upsample ? 2 * n - odd : n; }

typedef struct conv_geometry {
    int kernel, stride, padding, in_height, in_width, out_width; /* in_height, in_width as the kernel sees them: */
    int doubled, row_width;                                            /* 1 for the doubled input; the stored rows have row_width */
    int first_out_row;                                                 /* of the band */
    int first_in_row, in_rows;                                         /* the band of input rows that lies at x */
    int out_rows;                                                      /* of one item within this product */
} conv_geometry;

/* Asked for every row and tap of a product: no division but at the beginning. */
static void conv_taps(const void *ctx, int64_t t, int n, int s, int64_t *to)
{
    const conv_geometry *g = ctx;
    int64_t per_item = (int64_t)g->out_rows * g->out_width, item = t / per_item;
    int row = (int)(t % per_item / g->out_width), column = (int)(t % g->out_width), down = s / g->kernel, right = s % g->kernel;
    for (int end; n > 0; n -= end, to += end, column = 0, row++) {
        if (row == g->out_rows)
            row = 0, item++;
        int iy = (row + g->first_out_row) * g->stride - g->padding + down, ix = column * g->stride - g->padding + right;
        bool inside = iy >= 0 && iy < g->in_height;
        int64_t first = (item * g->in_rows + (iy >> g->doubled) - g->first_in_row) * g->row_width;
        end = n < g->out_width - column ? n : g->out_width - column;
        for (int i = 0; i < end; i++, ix += g->stride)
            to[i] = inside && ix >= 0 && ix < g->in_width ? first + (ix >> g->doubled) : -1;
    }
}

typedef struct conv_state {
    run *r;
    tensor part[2], y;        /* the input: x and what lies beside it */
    int parts;
    tensor from;              /* the residual */
    conv_options o;
    int use, bias;
    matrix_shape m;
    bool prepares;            /* the product quantizes its rows one by one: they need not lie anywhere normalized and joined */
    int band;                 /* result rows at once, of one item; 0: everything at once */
    int64_t scratch, prepared, staged[2][2], result[2]; /* by part and turn, by turn: what comes and goes while another band is computed */
} conv_state;

typedef struct band {         /* result rows first .. first + rows of an item, or of all items, and the input rows that they read */
    int item, items, first, rows, in_first, in_rows;
    int known;                /* of the input rows: the band before, of the same item, has them as well */
    int turn;
    uint64_t ready;           /* what it reads from the scratch file is there */
} band;

static bool normalized(const conv_state *c) { return c->o.before.scale_shift.place >= 0; }
static bool joined(const conv_state *c) { return c->parts == 2; }
static bool staged(const conv_state *c) { return in_scratch(c->part[0]) || (joined(c) && in_scratch(c->part[1])); }
static bool gathers(const conv_state *c) { return normalized(c) || joined(c); }

/* ---- the input, row by row ---- */

typedef struct input_rows {
    const conv_state *c;
    const float *part[2];     /* the band's */
    int item;
    int64_t tokens;           /* of an item in the band */
} input_rows;

static const float *input_row(const void *ctx, int64_t row, float *out)
{
    const input_rows *in = ctx;
    const conv_state *c = in->c;
    if (!gathers(c))
        return in->part[0] + row * c->m.depth;
    const float *by = normalized(c) ? tensor_data(c->r, c->o.before.scale_shift) + (in->item + row / in->tokens) * 2 * c->m.depth : NULL;
    float *to = out;
    for (int i = 0; i < c->parts; i++) {
        size_t n = (size_t)c->part[i].channels;
        const float *from = in->part[i] + (size_t)row * n;
        if (by)
            c->r->k->scale_shift_act(from, by + (to - out), by + c->m.depth + (to - out), c->o.before.act, to, n);
        else
            memcpy(to, from, n * 4);
        to += n;
    }
    return out;
}

typedef struct gather_job {
    const input_rows *in;
    const band *of;
    float *out;
} gather_job;

/* A row of the image. */
static void gather_task(void *ctx, int64_t task, int worker)
{
    const gather_job *j = ctx;
    const conv_state *c = j->in->c;
    int width = c->part[0].width, item = (int)(task / j->of->in_rows), row = (int)(task % j->of->in_rows);
    int64_t first = task * width;
    (void)worker;
    if (c->o.before.spatial.there)
        normalize_row(c->r, c->part[0], c->o.before, j->of->item + item, j->of->in_first + row, j->in->part[0] + first * c->m.depth, j->out + first * c->m.depth);
    else
        for (int64_t i = first; i < first + width; i++)
            input_row(j->in, i, j->out + i * c->m.depth);
}

/* ---- bands ---- */

/* Memory that a pixel of the input takes while a band of it is at hand. */
static int64_t pixel_bytes(const conv_state *c)
{
    int64_t floats = c->m.depth * (int64_t)sizeof(float);
    return staged(c) || (!c->prepares && gathers(c)) ? floats : !c->prepares ? 0 : c->r->f32 ? floats : depth_padded(c->m.depth);
}

/* Bands, so that what is at hand of the input (and of a result that goes to the scratch file) stays below the lever. */
static int band_rows(const conv_state *c)
{
    tensor x = c->part[0], y = c->y;
    int64_t most = c->r->lever.band_bytes, row = x.width * pixel_bytes(c), rows = y.height;
    bool scratch = staged(c) || in_scratch(y) || in_scratch(c->from);
    if (!scratch && row * x.height * x.batch <= most)
        return 0;
    if (row)
        rows = (most / row - c->o.kernel) * (c->o.upsample ? 2 : 1) / c->o.stride;
    int64_t result_rows = in_scratch(y) ? most / ((int64_t)y.width * y.channels * 4) : y.height;
    rows = rows < result_rows ? rows : result_rows;
    return rows < 1 ? 1 : rows >= y.height ? y.height : (int)rows;
}

/* The most rows of input that a band reads. */
static int most_input_rows(const conv_state *c)
{
    int high = c->part[0].height, rows = (c->band - 1) * c->o.stride + c->o.kernel;
    rows = c->o.upsample ? rows / 2 + 2 : rows;
    return !c->band || rows > high ? high : rows;
}

static band band_number(const conv_state *c, int n)
{
    if (!c->band)
        return (band){.items = c->y.batch, .rows = c->y.height, .in_rows = c->part[0].height};
    int of_item = (c->y.height + c->band - 1) / c->band, first = n % of_item * c->band, up = c->o.upsample ? 2 : 1;
    band b = {.item = n / of_item, .items = 1, .first = first, .rows = c->y.height - first < c->band ? c->y.height - first : c->band, .turn = n % 2};
    int low = (first * c->o.stride - c->o.padding) / up, high = ((first + b.rows - 1) * c->o.stride - c->o.padding + c->o.kernel - 1) / up + 1;
    b.in_first = low < 0 ? 0 : low;
    b.in_rows = (high > c->part[0].height ? c->part[0].height : high) - b.in_first;
    int before = first ? ((first - 1) * c->o.stride - c->o.padding + c->o.kernel - 1) / up + 1 - b.in_first : 0;
    b.known = before < 0 ? 0 : before > b.in_rows ? b.in_rows : before;
    return b;
}

static const float *part_rows(const conv_state *c, int i, const band *b)
{
    tensor t = c->part[i];
    return in_scratch(t) ? run_at(c->r, c->staged[i][b->turn]) : tensor_data(c->r, t) + ((int64_t)b->item * t.height + b->in_first) * t.width * t.channels;
}

static float *result_rows(const conv_state *c, const band *b)
{
    tensor y = c->y;
    return in_scratch(y) ? run_at(c->r, c->result[b->turn]) : tensor_data(c->r, y) + ((int64_t)b->item * y.height + b->first) * y.width * y.channels;
}

/* Begins to read what b needs from the scratch file; rows that the band before (NULL: none) has already are copied. */
static void fetch(const conv_state *c, band *b, const band *before)
{
    run *r = c->r;
    for (int i = 0; i < c->parts; i++) {
        tensor t = c->part[i];
        if (!in_scratch(t))
            continue;
        float *to = run_at(r, c->staged[i][b->turn]);
        int64_t row = (int64_t)t.width * t.channels;
        int known = before && before->item == b->item ? before->in_first + before->in_rows - b->in_first : 0;
        known = known < 0 ? 0 : known > b->in_rows ? b->in_rows : known;
        if (known)
            memcpy(to, part_rows(c, i, before) + (b->in_first - before->in_first) * row, (size_t)(known * row) * 4);
        if (known < b->in_rows)
            b->ready = map_fetch(r, t, b->item, b->in_first + known, b->in_rows - known, to + known * row);
    }
    if (in_scratch(c->from))
        b->ready = map_fetch(r, c->from, b->item, b->first, b->rows, result_rows(c, b));
}

enum { TASK_ROWS = 64 };

typedef struct act_job {
    const run *r;
    activation act;
    float divisor, *x;
    int64_t rows;
    int channels;
} act_job;

static void act_task(void *ctx, int64_t task, int worker)
{
    const act_job *j = ctx;
    int64_t first = task * TASK_ROWS, rows = j->rows - first < TASK_ROWS ? j->rows - first : TASK_ROWS;
    float *x = j->x + first * j->channels;
    (void)worker;
    for (int64_t i = 0; j->divisor != 0 && i < rows * j->channels; i++)
        x[i] /= j->divisor;
    if (j->act != ACT_NONE)
        j->r->k->activate(j->act, x, x, (size_t)rows * (size_t)j->channels);
}

static void activate_rows(run *r, activation act, float divisor, float *x, int64_t rows, int channels)
{
    act_job j = {r, act, divisor, x, rows, channels};
    if (run_ok(r))
        threads_run(r->pool, (rows + TASK_ROWS - 1) / TASK_ROWS, act_task, &j);
}

/* Where the product finds its input rows: by source, in place, or gathered. */
static void set_input(const conv_state *c, const band *b, const input_rows *in, product *p)
{
    if (c->prepares) {
        p->source = input_row;
        p->source_ctx = in;
    } else if (!gathers(c)) {
        p->x = in->part[0];
    } else if (run_ok(c->r)) {
        gather_job j = {in, b, run_at(c->r, c->prepared)};
        threads_run(c->r->pool, (int64_t)b->items * b->in_rows, gather_task, &j);
        p->x = j.out;
    }
}

static void set_row(const run *r, table_row row, const float **at, size_t *stride)
{
    if (row.of.batch <= 0)
        return;
    *at = tensor_data(r, row.of) + (size_t)row.index * (size_t)row.of.channels;
    *stride = (size_t)(tensor_tokens(row.of) * row.of.channels);
}

static void conv_band(const conv_state *c, const band *b)
{
    run *r = c->r;
    tensor x = c->part[0], y = c->y;
    conv_geometry g = {c->o.kernel, c->o.stride, c->o.padding, seen(x.height, &c->o, c->o.odd_rows), seen(x.width, &c->o, c->o.odd_columns), y.width,
                       c->o.upsample, x.width, b->first, b->in_first, b->in_rows, b->rows};
    input_rows in = {c, {part_rows(c, 0, b), joined(c) ? part_rows(c, 1, b) : NULL}, b->item, (int64_t)b->in_rows * x.width};
    bool adding = c->from.batch > 0, divided = c->o.divisor != 0 && c->o.divisor != 1, behind = adding || divided; /* behind: the activation is */
    float *out = result_rows(c, b);
    product p = {.r = r, .use = c->use, .m = c->m, .rows = (int64_t)b->items * b->rows * y.width, .tap = conv_taps, .tap_ctx = &g, .out = out,
                 .out_stride = (size_t)y.channels, .bias = c->o.no_bias ? NULL : stream_vector(r->stream, c->bias), .act = behind ? ACT_NONE : c->o.act,
                 .adding = adding, .x_rows = b->items * in.tokens, .x_seen = (int64_t)b->known * x.width,
                 .rows_per_item = tensor_tokens(y), .first_item = b->item, .scratch = run_at(r, c->scratch)};
    set_row(r, c->o.plus, &p.plus, &p.plus_stride);
    if (adding && !in_scratch(c->from) && c->from.place != y.place)
        p.add = tensor_data(r, c->from) + ((int64_t)b->item * y.height + b->first) * y.width * y.channels;
    set_input(c, b, &in, &p);
    product_run(&p);
    if (behind && (divided || c->o.act != ACT_NONE))
        activate_rows(r, c->o.act, divided ? c->o.divisor : 0, out, p.rows, y.channels);
    if (c->o.sums)
        sum_rows(r, y, (int64_t)b->item * y.height + b->first, (int64_t)b->items * b->rows, out);
}

static int bands_of(const conv_state *c) { return c->band ? c->y.batch * ((c->y.height + c->band - 1) / c->band) : 1; }

static void count_moves(const conv_state *c)
{
    for (int i = 0; i < c->parts; i++)
        map_moves(c->r, c->part[i], bands_of(c));
    map_moves(c->r, c->from, bands_of(c));
    map_moves(c->r, c->y, bands_of(c));
}

static void conv_live(conv_state *c, bool repeated)
{
    run *r = c->r;
    int bands = bands_of(c);
    uint64_t stored[2] = {0, 0};  /* by turn: the last band's memory is free again */
    band b = band_number(c, 0);
    fetch(c, &b, NULL);
    if (repeated)
        stream_region_begin(r->stream, c->use);
    for (int n = 0; n < bands && run_ok(r); n++) {
        band next = b;
        if (n && repeated)
            stream_region_again(r->stream);
        map_wait(r, b.ready);
        map_wait(r, stored[b.turn]);
        if (n + 1 < bands) {
            next = band_number(c, n + 1);
            fetch(c, &next, &b);
        }
        conv_band(c, &b);
        if (in_scratch(c->y))
            stored[b.turn] = map_store(r, c->y, b.item, b.first, b.rows, result_rows(c, &b));
        b = next;
    }
    map_wait(r, stored[0]);
    map_wait(r, stored[1]);
    if (repeated)
        stream_region_end(r->stream);
}

/* ---- the op ---- */

static void find_memory(conv_state *c)
{
    run *r = c->r;
    int64_t pixels = (int64_t)most_input_rows(c) * c->part[0].width, result = (int64_t)c->band * c->y.width * c->y.channels * 4;
    for (int i = 0; i < c->parts; i++)
        for (int turn = 0; turn < 2; turn++)
            c->staged[i][turn] = in_scratch(c->part[i]) ? scratch_new(r, pixels * c->part[i].channels * 4) : -1;
    for (int turn = 0; turn < 2; turn++)
        c->result[turn] = in_scratch(c->y) ? scratch_new(r, result) : -1;
    pixels *= c->band ? 1 : c->y.batch;
    c->prepared = gathers(c) && !c->prepares ? scratch_new(r, pixels * c->m.depth * 4) : -1;
    c->scratch = scratch_new(r, product_scratch(r, c->use, &c->m, pixels));
}

static void give_back_memory(const conv_state *c)
{
    scratch_drop(c->r, c->scratch);
    scratch_drop(c->r, c->prepared);
    for (int turn = 1; turn >= 0; turn--) {
        scratch_drop(c->r, c->result[turn]);
        for (int i = 0; i < c->parts; i++)
            scratch_drop(c->r, c->staged[i][turn]);
    }
}

static tensor result_of(conv_state *c, int height, int width, int out)
{
    run *r = c->r;
    c->from = c->o.add_to.place >= 0 ? c->o.add_to : c->o.add;
    tensor y = c->o.add_to.place >= 0 ? changed(r, c->o.add_to) : c->o.map ? map_new(r, c->part[0].batch, height, width, out)
                                                                           : tensor_new(r, c->part[0].batch, height, width, out);
    return c->o.sums ? sums_new(r, y) : y;
}

tensor conv(run *r, tensor x, const char *name, int out, conv_options o)
{
    if (!run_ok(r))
        return NO_TENSOR;
    char full[NAME_BYTES];
    int height = (seen(x.height, &o, o.odd_rows) + 2 * o.padding + o.end_padding - o.kernel) / o.stride + 1;
    int width = (seen(x.width, &o, o.odd_columns) + 2 * o.padding + o.end_padding - o.kernel) / o.stride + 1;
    conv_state c = {.r = r, .part = {x, o.beside}, .parts = o.beside.batch > 0 ? 2 : 1, .o = o, .m = {out, o.kernel * o.kernel, x.channels + o.beside.channels}};
    snprintf(full, sizeof full, "%s.weight", name);
    c.prepares = weight_is_integer(r, full) && !o.before.spatial.there;
    c.y = result_of(&c, height, width, out);
    c.band = band_rows(&c);
    count_moves(&c);
    bool repeated = c.band && (x.batch > 1 || c.band < height);
    if (repeated)
        r->region = ++r->regions; /* its weights stay for all bands */
    c.use = use_matrix(r, full, o.edge ? ROLE_EDGE : ROLE_CONV, out, o.kernel, c.m.depth, (double)x.batch * height * width);
    r->region = repeated ? 0 : r->region;
    snprintf(full, sizeof full, "%s.bias", name);
    c.bias = o.no_bias ? -1 : use_vector(r, full, out, 0);
    find_memory(&c);
    if (r->live && run_ok(r))
        conv_live(&c, repeated);
    give_back_memory(&c);
    return c.y;
}
