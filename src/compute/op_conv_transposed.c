/* A transposed convolution whose kernel is its stride: no result pixel gets more than one input pixel, so it is one product, [pixels, in] times
 * [in, out * 4], whose numbers are then put in their places. In bands of input rows, as convolutions are. */
#include <stdio.h>

#include "compute/op_group_norm.h"
#include "compute/op_matrix.h"

enum { TIMES = 2, PARTS = TIMES * TIMES };

typedef struct up_state {
    run *r;
    tensor x, y;
    norm n;
    int use, bias, band;
    matrix_shape m;
    int64_t prepared, product, scratch;
} up_state;

typedef struct up_job {  /* of a band */
    const up_state *u;
    int item, first;
} up_job;

static bool normalized(const up_state *u) { return u->n.scale_shift.place >= 0; }

static const float *input_row(const up_state *u, int item, int row)
{
    return tensor_data(u->r, u->x) + ((int64_t)item * u->x.height + row) * u->x.width * u->x.channels;
}

static void prepare_row(void *ctx, int64_t task, int worker)
{
    const up_job *j = ctx;
    const up_state *u = j->u;
    int row = j->first + (int)task;
    (void)worker;
    normalize_row(u->r, u->x, u->n, j->item, row, input_row(u, j->item, row), (float *)run_at(u->r, u->prepared) + task * u->x.width * u->x.channels);
}

/* [out, 2, 2] of each pixel of an input row to two result rows. */
static void place_row(void *ctx, int64_t task, int worker)
{
    const up_job *j = ctx;
    const up_state *u = j->u;
    int n = u->y.channels;
    const float *bias = u->bias < 0 ? NULL : stream_vector(u->r->stream, u->bias), *in = (float *)run_at(u->r, u->product) + task * u->x.width * n * PARTS;
    float *out = tensor_data(u->r, u->y) + ((int64_t)j->item * u->y.height + TIMES * (j->first + task)) * u->y.width * n;
    (void)worker;
    for (int64_t x = 0; x < u->x.width; x++)
        for (int part = 0; part < PARTS; part++) {
            float *to = out + ((int64_t)(part / TIMES) * u->y.width + TIMES * x + part % TIMES) * n;
            for (int i = 0; i < n; i++)
                to[i] = in[(x * n + i) * PARTS + part] + (bias ? bias[i] : 0);
        }
}

static void up_band(const up_state *u, int item, int first, int rows)
{
    run *r = u->r;
    up_job j = {.u = u, .item = item, .first = first};
    const float *x = input_row(u, item, first);
    if (normalized(u)) {
        threads_run(r->pool, rows, prepare_row, &j);
        x = run_at(r, u->prepared);
    }
    int64_t pixels = (int64_t)rows * u->x.width;
    product p = {.r = r, .use = u->use, .m = u->m, .rows = pixels, .x = x, .out = run_at(r, u->product), .out_stride = (size_t)u->m.rows, .x_rows = pixels,
                 .rows_per_item = pixels, .scratch = run_at(r, u->scratch)};
    product_run(&p);
    if (run_ok(r))
        threads_run(r->pool, rows, place_row, &j);
}

static void up_live(const up_state *u, bool repeated)
{
    run *r = u->r;
    bool again = false;
    if (repeated)
        stream_region_begin(r->stream, u->use);
    for (int item = 0; item < u->x.batch; item++)
        for (int y = 0; y < u->x.height && run_ok(r); y += u->band) {
            if (again && repeated)
                stream_region_again(r->stream);
            again = true;
            up_band(u, item, y, u->x.height - y < u->band ? u->x.height - y : u->band);
        }
    if (repeated)
        stream_region_end(r->stream);
}

tensor conv_transposed(run *r, tensor x, const char *name, int out, bool no_bias, norm before)
{
    if (!run_ok(r))
        return NO_TENSOR;
    char full[NAME_BYTES];
    up_state u = {.r = r, .x = x, .n = before, .m = {(int64_t)out * PARTS, 1, x.channels}, .prepared = -1};
    int64_t row_bytes = (int64_t)x.width * (x.channels + out * PARTS) * 4, rows = r->lever.band_bytes / row_bytes;
    u.band = rows < 1 ? 1 : rows > x.height ? x.height : (int)rows;
    bool repeated = x.batch > 1 || u.band < x.height;
    u.y = tensor_new(r, x.batch, TIMES * x.height, TIMES * x.width, out);
    if (repeated)
        r->region = ++r->regions; /* its weights stay for all bands */
    snprintf(full, sizeof full, "%s.weight", name);
    u.use = use_matrix(r, full, ROLE_CONV, u.m.rows, 1, x.channels, (double)tensor_rows(x));
    r->region = repeated ? 0 : r->region;
    snprintf(full, sizeof full, "%s.bias", name);
    u.bias = no_bias ? -1 : use_vector(r, full, out, 0);
    int64_t pixels = (int64_t)u.band * x.width;
    if (normalized(&u))
        u.prepared = scratch_new(r, pixels * x.channels * 4);
    u.product = scratch_new(r, pixels * u.m.rows * 4);
    u.scratch = scratch_new(r, product_scratch(r, u.use, &u.m, pixels));
    if (r->live && run_ok(r))
        up_live(&u, repeated);
    scratch_drop(r, u.scratch);
    scratch_drop(r, u.product);
    scratch_drop(r, u.prepared);
    return u.y;
}
