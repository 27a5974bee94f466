/* A convolution reads its input through a table of rows (implicit product: no im2col). When a normalization stands before it, the
 * normalized input is prepared in bands of rows, so that no second whole map exists; the weights then stay for all bands. */
#include <stdio.h>
#include <string.h>

#include "compute/op_matrix.h"

typedef struct conv_geometry {
    int kernel, stride, padding, in_height, in_width, out_width, up; /* up: 1, or 2 for the doubled input */
    int first_out_row;                                                 /* of the band */
    int first_in_row, in_rows;                                         /* the band of input rows that lies at x */
    int out_rows;                                                      /* of one item within this product */
} conv_geometry;

static int64_t conv_tap(const void *ctx, int64_t t, int s)
{
    const conv_geometry *g = ctx;
    int64_t per_item = (int64_t)g->out_rows * g->out_width, item = t / per_item;
    int y = (int)(t % per_item / g->out_width) + g->first_out_row, x = (int)(t % g->out_width);
    int iy = y * g->stride - g->padding + s / g->kernel, ix = x * g->stride - g->padding + s % g->kernel;
    if (iy < 0 || ix < 0 || iy >= g->in_height * g->up || ix >= g->in_width * g->up)
        return -1;
    iy = iy / g->up - g->first_in_row;
    return (item * g->in_rows + iy) * g->in_width + ix / g->up;
}

typedef struct band_job {
    const run *r;
    tensor x;
    norm n;
    int item, first_in_row;
    float *out;
} band_job;

static void normalize_row(const run *r, tensor x, norm n, int item, int row, float *out)
{
    const float *in = tensor_data(r, x) + ((int64_t)item * x.height + row) * x.width * x.channels;
    const float *scale = tensor_data(r, n.scale_shift) + (int64_t)item * 2 * x.channels;
    for (int i = 0; i < x.width; i++)
        r->k->scale_shift_act(in + (int64_t)i * x.channels, scale, scale + x.channels, n.act, out + (int64_t)i * x.channels, (size_t)x.channels);
}

static void band_task(void *ctx, int64_t task, int worker)
{
    const band_job *j = ctx;
    (void)worker;
    normalize_row(j->r, j->x, j->n, j->item, j->first_in_row + (int)task, j->out + task * j->x.width * j->x.channels);
}

/* Bands: output rows of one item at a time, so that the prepared input stays below the lever. 0: no bands, all at once. */
static int band_rows(const run *r, tensor x, const conv_options *o, int out_height)
{
    if (o->before.scale_shift.place < 0 && tensor_count(x) * 4 <= r->lever.band_bytes)
        return 0;
    int64_t row_bytes = (int64_t)x.width * x.channels * 4, rows = r->lever.band_bytes / row_bytes - o->kernel;
    rows = rows * (o->upsample ? 2 : 1) / o->stride;
    if (rows < 1)
        rows = 1;
    return rows >= out_height ? out_height : (int)rows;
}

typedef struct conv_state {
    run *r;
    tensor x, y;
    conv_options o;
    int use, bias;
    matrix_shape m;
    int64_t scratch, prepared;
} conv_state;

static void conv_band(const conv_state *c, int item, int items, int first, int rows)
{
    run *r = c->r;
    tensor x = c->x, y = c->y;
    conv_geometry g = {c->o.kernel, c->o.stride, c->o.padding, x.height, x.width, y.width, c->o.upsample ? 2 : 1, first, 0, x.height, rows};
    const float *in = tensor_data(r, x) + (int64_t)item * tensor_tokens(x) * x.channels;
    if (rows < y.height || c->o.before.scale_shift.place >= 0) {
        int low = (first * g.stride - g.padding) / g.up, high = ((first + rows - 1) * g.stride - g.padding + g.kernel - 1) / g.up + 1;
        g.first_in_row = low < 0 ? 0 : low;
        g.in_rows = (high > x.height ? x.height : high) - g.first_in_row;
        in += (int64_t)g.first_in_row * x.width * x.channels;
    }
    if (c->o.before.scale_shift.place >= 0) {
        band_job j = {r, x, c->o.before, item, g.first_in_row, (float *)run_at(r, c->prepared)};
        threads_run(r->pool, g.in_rows, band_task, &j);
        in = j.out;
    }
    product p = {.r = r, .use = c->use, .m = c->m, .rows = (int64_t)items * rows * y.width, .tap = conv_tap, .tap_ctx = &g, .x = in,
                 .out = tensor_data(r, y) + ((int64_t)item * y.height + first) * y.width * y.channels, .out_stride = (size_t)y.channels,
                 .bias = stream_vector(r->stream, c->bias), .adding = c->o.add_to.place >= 0, .x_rows = (int64_t)items * g.in_rows * x.width,
                 .rows_per_item = tensor_tokens(y), .scratch = run_at(r, c->scratch)};
    product_run(&p);
}

static void conv_live(conv_state *c, int band)
{
    run *r = c->r;
    if (!band) {
        conv_band(c, 0, c->x.batch, 0, c->y.height);
        return;
    }
    bool again = false, repeated = c->x.batch > 1 || band < c->y.height;
    if (repeated && !r->region)
        stream_region_begin(r->stream, c->use);
    for (int item = 0; item < c->x.batch; item++)
        for (int y = 0; y < c->y.height && run_ok(r); y += band) {
            if (again && repeated && !r->region)
                stream_region_again(r->stream);
            again = true;
            conv_band(c, item, 1, y, c->y.height - y < band ? c->y.height - y : band);
        }
    if (repeated && !r->region)
        stream_region_end(r->stream);
}

tensor conv(run *r, tensor x, const char *name, int out, conv_options o)
{
    char full[NAME_BYTES];
    int up = o.upsample ? 2 : 1, height = (x.height * up + 2 * o.padding - o.kernel) / o.stride + 1, width = (x.width * up + 2 * o.padding - o.kernel) / o.stride + 1;
    int band = run_ok(r) ? band_rows(r, x, &o, height) : 0;
    bool repeated = band && (x.batch > 1 || band < height);
    if (repeated)
        r->region = ++r->regions; /* its weights stay for all bands */
    snprintf(full, sizeof full, "%s.weight", name);
    conv_state c = {.r = r, .x = x, .o = o, .m = {out, o.kernel * o.kernel, x.channels}};
    c.use = use_matrix(r, full, o.edge ? ROLE_EDGE : ROLE_CONV, out, o.kernel, x.channels, (double)x.batch * height * width);
    r->region = repeated ? 0 : r->region;
    snprintf(full, sizeof full, "%s.bias", name);
    c.bias = use_vector(r, full, out, 0);
    if (!run_ok(r))
        return NO_TENSOR;
    c.y = o.add_to.place >= 0 ? o.add_to : tensor_new(r, x.batch, height, width, out);
    int64_t in_rows = band ? ((int64_t)band * o.stride + o.kernel) / up + 2 : x.height;
    in_rows = in_rows > x.height ? x.height : in_rows;
    c.prepared = o.before.scale_shift.place >= 0 ? scratch_new(r, in_rows * x.width * x.channels * 4) : -1;
    c.scratch = scratch_new(r, product_scratch(r, c.use, &c.m, (band ? 1 : x.batch) * in_rows * x.width));
    if (r->live && run_ok(r))
        conv_live(&c, band);
    scratch_drop(r, c.scratch);
    scratch_drop(r, c.prepared);
    return c.y;
}

/* ---- group normalization ---- */

typedef struct sums_job {
    const run *r;
    tensor x;
    float *sums; /* [rows of all items][2][channels] */
} sums_job;

static void sums_task(void *ctx, int64_t task, int worker)
{
    const sums_job *j = ctx;
    (void)worker;
    float *s = j->sums + task * 2 * j->x.channels;
    memset(s, 0, sizeof *s * 2 * (size_t)j->x.channels);
    j->r->k->channel_sums(tensor_data(j->r, j->x) + task * j->x.width * j->x.channels, (size_t)j->x.width, j->x.channels, s, s + j->x.channels);
}

/* The partial sums of the rows, added in row order in double: the same whatever the threads did. */
static void scale_shift_of(const sums_job *j, int item, int groups, float eps, const float *gain, const float *bias, float *out)
{
    int c = j->x.channels, per = c / groups;
    for (int g = 0; g < groups; g++) {
        double sum = 0, square = 0, n = (double)tensor_tokens(j->x) * per;
        for (int y = 0; y < j->x.height; y++) {
            const float *s = j->sums + ((int64_t)item * j->x.height + y) * 2 * c + g * per;
            for (int i = 0; i < per; i++) {
                sum += (double)s[i];
                square += (double)s[c + i];
            }
        }
        double mean = sum / n, var = square / n - mean * mean, inv = 1 / __builtin_sqrt((var > 0 ? var : 0) + (double)eps);
        for (int i = g * per; i < (g + 1) * per; i++) {
            out[i] = (float)(inv * (double)gain[i]);
            out[c + i] = (float)((double)bias[i] - mean * inv * (double)gain[i]);
        }
    }
}

norm group_norm(run *r, tensor x, const char *name, int groups, float eps, activation act)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s.weight", name);
    int gain = use_vector(r, full, x.channels, 0);
    snprintf(full, sizeof full, "%s.bias", name);
    int bias = use_vector(r, full, x.channels, 0);
    norm n = {tensor_new(r, x.batch, 1, 2, x.channels), act};
    int64_t scratch = scratch_new(r, (int64_t)x.batch * x.height * 2 * x.channels * 4);
    if (run_ok(r) && (groups <= 0 || x.channels % groups))
        status_set(r->st, STATUS_BAD_FILE, "%s: %s%s: %d channels do not divide into %d groups", r->component, r->prefix, name, x.channels, groups);
    if (r->live && run_ok(r)) {
        sums_job j = {r, x, run_at(r, scratch)};
        threads_run(r->pool, (int64_t)x.batch * x.height, sums_task, &j);
        for (int b = 0; b < x.batch; b++)
            scale_shift_of(&j, b, groups, eps, stream_vector(r->stream, gain), stream_vector(r->stream, bias),
                           tensor_data(r, n.scale_shift) + (int64_t)b * 2 * x.channels);
    }
    scratch_drop(r, scratch);
    return n;
}

static void normalize_task(void *ctx, int64_t task, int worker)
{
    const band_job *j = ctx;
    (void)worker;
    int item = (int)(task / j->x.height), y = (int)(task % j->x.height);
    normalize_row(j->r, j->x, j->n, item, y, j->out + task * j->x.width * j->x.channels);
}

tensor normalize(run *r, tensor x, norm n)
{
    tensor y = tensor_like(r, x, x.channels);
    if (r->live && run_ok(r)) {
        band_job j = {r, x, n, 0, 0, tensor_data(r, y)};
        threads_run(r->pool, (int64_t)x.batch * x.height, normalize_task, &j);
    }
    return y;
}
