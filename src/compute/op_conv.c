/* A convolution reads its input through a table of rows (implicit product: no im2col). When a normalization stands before it, the
 * normalized input is prepared in bands of rows, so that no second whole map exists; the weights then stay for all bands. */
#include <stdio.h>

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

/* Asked for every row and tap of a product: few divisions, and narrow ones. */
static int64_t conv_tap(const void *ctx, int64_t t, int s)
{
    const conv_geometry *g = ctx;
    int64_t per_item = (int64_t)g->out_rows * g->out_width, item = t < per_item ? 0 : t / per_item;
    unsigned at = (unsigned)(t - item * per_item), row = at / (unsigned)g->out_width, column = at - row * (unsigned)g->out_width;
    int down = (int)((unsigned)s / (unsigned)g->kernel), right = s - down * g->kernel;
    int iy = ((int)row + g->first_out_row) * g->stride - g->padding + down, ix = (int)column * g->stride - g->padding + right;
    if (iy < 0 || ix < 0 || iy >= g->in_height || ix >= g->in_width)
        return -1;
    return (item * g->in_rows + (iy >> g->doubled) - g->first_in_row) * g->row_width + (ix >> g->doubled);
}

typedef struct band_job {
    const run *r;
    tensor x;
    norm n;
    int item, first_row;
    const float *in;
    float *out;
} band_job;

static void band_task(void *ctx, int64_t task, int worker)
{
    const band_job *j = ctx;
    int64_t at = task * j->x.width * j->x.channels;
    (void)worker;
    normalize_row(j->r, j->x, j->n, j->item, j->first_row + (int)task, j->in + at, j->out + at);
}

typedef struct conv_state {
    run *r;
    tensor x, y;
    conv_options o;
    int use, bias;
    matrix_shape m;
    int band;                 /* result rows at once, of one item; 0: everything at once */
    int64_t scratch, prepared, result_band;
} conv_state;

static bool normalized(const conv_options *o) { return o->before.scale_shift.place >= 0; }

/* Bands, so that the prepared input (or what is read from and written to the scratch file) stays below the lever. */
static int band_rows(const run *r, tensor x, tensor y, const conv_options *o)
{
    if (!normalized(o) && !in_scratch(x) && !in_scratch(y) && tensor_count(x) * 4 <= r->lever.band_bytes)
        return 0;
    int up = o->upsample ? 2 : 1;
    int64_t rows = (r->lever.band_bytes / ((int64_t)x.width * x.channels * 4) - o->kernel) * up / o->stride;
    int64_t result_rows = in_scratch(y) ? r->lever.band_bytes / ((int64_t)y.width * y.channels * 4) : y.height;
    rows = rows < result_rows ? rows : result_rows;
    return rows < 1 ? 1 : rows >= y.height ? y.height : (int)rows;
}

/* Rows of x that result rows first .. first + rows read. */
static void input_rows(const conv_state *c, int first, int rows, int *begin, int *count)
{
    int up = c->o.upsample ? 2 : 1, low = (first * c->o.stride - c->o.padding) / up;
    int high = ((first + rows - 1) * c->o.stride - c->o.padding + c->o.kernel - 1) / up + 1;
    *begin = low < 0 ? 0 : low;
    *count = (high > c->x.height ? c->x.height : high) - *begin;
}

static const float *band_input(const conv_state *c, int item, int begin, int count)
{
    run *r = c->r;
    tensor x = c->x;
    float *prepared = run_at(r, c->prepared);
    const float *in = prepared;
    if (in_scratch(x))
        map_read(r, x, item, begin, count, prepared);
    else
        in = tensor_data(r, x) + ((int64_t)item * x.height + begin) * x.width * x.channels;
    if (!normalized(&c->o) || !run_ok(r))
        return in;
    band_job j = {r, x, c->o.before, item, begin, in, prepared};
    threads_run(r->pool, count, band_task, &j);
    return prepared;
}

typedef struct act_job {
    const run *r;
    activation act;
    float divisor, *x;
    int64_t rows;
    int channels;
} act_job;

enum { ACT_ROWS = 64 };

static void act_task(void *ctx, int64_t task, int worker)
{
    const act_job *j = ctx;
    int64_t first = task * ACT_ROWS, rows = j->rows - first < ACT_ROWS ? j->rows - first : ACT_ROWS;
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
        threads_run(r->pool, (rows + ACT_ROWS - 1) / ACT_ROWS, act_task, &j);
}

static void conv_band(const conv_state *c, int item, int items, int first, int rows)
{
    run *r = c->r;
    tensor x = c->x, y = c->y;
    conv_geometry g = {c->o.kernel, c->o.stride, c->o.padding, seen(x.height, &c->o, c->o.odd_rows), seen(x.width, &c->o, c->o.odd_columns), y.width,
                       c->o.upsample, x.width, first, 0, x.height, rows};
    if (c->band)
        input_rows(c, first, rows, &g.first_in_row, &g.in_rows);
    float *out = in_scratch(y) ? run_at(r, c->result_band) : tensor_data(r, y) + ((int64_t)item * y.height + first) * y.width * y.channels;
    bool adding = c->o.add_to.place >= 0, divided = c->o.divisor != 0 && c->o.divisor != 1, behind = adding || divided; /* behind: the activation is */
    if (adding && in_scratch(y))
        map_read(r, y, item, first, rows, out);
    product p = {.r = r, .use = c->use, .m = c->m, .rows = (int64_t)items * rows * y.width, .tap = conv_tap, .tap_ctx = &g,
                 .x = band_input(c, item, g.first_in_row, g.in_rows), .out = out, .out_stride = (size_t)y.channels,
                 .bias = c->o.no_bias ? NULL : stream_vector(r->stream, c->bias), .act = behind ? ACT_NONE : c->o.act, .adding = adding, .x_rows = (int64_t)items * g.in_rows * x.width,
                 .rows_per_item = tensor_tokens(y), .scratch = run_at(r, c->scratch)};
    product_run(&p);
    if (behind && (divided || c->o.act != ACT_NONE))
        activate_rows(r, c->o.act, divided ? c->o.divisor : 0, out, (int64_t)items * rows * y.width, y.channels);
    if (in_scratch(y))
        map_write(r, y, item, first, rows, out);
}

static void conv_live(conv_state *c, bool repeated)
{
    run *r = c->r;
    if (!c->band) {
        conv_band(c, 0, c->x.batch, 0, c->y.height);
        return;
    }
    bool again = false;
    if (repeated)
        stream_region_begin(r->stream, c->use);
    for (int item = 0; item < c->x.batch; item++)
        for (int y = 0; y < c->y.height && run_ok(r); y += c->band) {
            if (again && repeated)
                stream_region_again(r->stream);
            again = true;
            conv_band(c, item, 1, y, c->y.height - y < c->band ? c->y.height - y : c->band);
        }
    if (repeated)
        stream_region_end(r->stream);
}

tensor conv(run *r, tensor x, const char *name, int out, conv_options o)
{
    if (!run_ok(r))
        return NO_TENSOR;
    char full[NAME_BYTES];
    int up = o.upsample ? 2 : 1, height = (seen(x.height, &o, o.odd_rows) + 2 * o.padding + o.end_padding - o.kernel) / o.stride + 1;
    int width = (seen(x.width, &o, o.odd_columns) + 2 * o.padding + o.end_padding - o.kernel) / o.stride + 1;
    conv_state c = {.r = r, .x = x, .o = o, .m = {out, o.kernel * o.kernel, x.channels}};
    c.y = o.add_to.place >= 0 ? o.add_to : o.map ? map_new(r, x.batch, height, width, out) : tensor_new(r, x.batch, height, width, out);
    c.band = band_rows(r, x, c.y, &o);
    bool repeated = c.band && (x.batch > 1 || c.band < height);
    if (repeated)
        r->region = ++r->regions; /* its weights stay for all bands */
    snprintf(full, sizeof full, "%s.weight", name);
    c.use = use_matrix(r, full, o.edge ? ROLE_EDGE : ROLE_CONV, out, o.kernel, x.channels, (double)x.batch * height * width);
    r->region = repeated ? 0 : r->region;
    snprintf(full, sizeof full, "%s.bias", name);
    c.bias = o.no_bias ? -1 : use_vector(r, full, out, 0);
    int64_t in_rows = c.band ? ((int64_t)c.band * o.stride + o.kernel) / up + 2 : x.height;
    in_rows = in_rows > x.height ? x.height : in_rows;
    c.prepared = normalized(&o) || in_scratch(x) ? scratch_new(r, in_rows * x.width * x.channels * 4) : -1;
    c.result_band = in_scratch(c.y) ? scratch_new(r, (int64_t)c.band * width * out * 4) : -1;
    c.scratch = scratch_new(r, product_scratch(r, c.use, &c.m, (c.band ? 1 : x.batch) * in_rows * x.width));
    if (r->live && run_ok(r))
        conv_live(&c, repeated);
    scratch_drop(r, c.scratch);
    scratch_drop(r, c.result_band);
    scratch_drop(r, c.prepared);
    return c.y;
}
