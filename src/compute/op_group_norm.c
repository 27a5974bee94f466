/* Group normalization (Wu and He 2018, arXiv 1803.08494): statistics by rows of the map, added in row order, so that neither bands nor
 * threads change a bit of them. Whoever reads the map applies them. */
#include <stdio.h>
#include <string.h>

#include "compute/op_group_norm.h"

void normalize_row(const run *r, tensor x, norm n, int item, const float *in, float *out)
{
    const float *by = tensor_data(r, n.scale_shift) + (int64_t)item * 2 * x.channels;
    for (int i = 0; i < x.width; i++)
        r->k->scale_shift_act(in + (int64_t)i * x.channels, by, by + x.channels, n.act, out + (int64_t)i * x.channels, (size_t)x.channels);
}

typedef struct sums_job {
    const run *r;
    tensor x;
    const float *rows; /* the row that `sums` begins with, and the following */
    float *sums;       /* [rows][2][channels] */
} sums_job;

static void sums_task(void *ctx, int64_t task, int worker)
{
    const sums_job *j = ctx;
    (void)worker;
    float *s = j->sums + task * 2 * j->x.channels;
    memset(s, 0, sizeof *s * 2 * (size_t)j->x.channels);
    j->r->k->channel_sums(j->rows + task * j->x.width * j->x.channels, (size_t)j->x.width, j->x.channels, s, s + j->x.channels);
}

/* The partial sums of the rows of one item, added in row order in double. */
static void scale_shift_of(tensor x, const float *sums, int groups, float eps, const float *gain, const float *bias, float *out)
{
    int c = x.channels, per = c / groups;
    for (int g = 0; g < groups; g++) {
        double sum = 0, square = 0, n = (double)tensor_tokens(x) * per;
        for (int y = 0; y < x.height; y++) {
            const float *s = sums + (int64_t)y * 2 * c + g * per;
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

static int rows_at_once(const run *r, tensor x)
{
    int64_t rows = r->lever.band_bytes / ((int64_t)x.width * x.channels * 4);
    return rows < 1 ? 1 : rows > x.height ? x.height : (int)rows;
}

static void take_sums(run *r, tensor x, float *sums, float *band)
{
    sums_job j = {r, x, in_scratch(x) ? band : tensor_data(r, x), sums};
    if (!in_scratch(x)) {
        threads_run(r->pool, (int64_t)x.batch * x.height, sums_task, &j);
        return;
    }
    int step = rows_at_once(r, x);
    for (int item = 0; item < x.batch; item++)
        for (int y = 0; y < x.height; y += step) {
            int rows = x.height - y < step ? x.height - y : step;
            if (!map_read(r, x, item, y, rows, band))
                return;
            j.sums = sums + ((int64_t)item * x.height + y) * 2 * x.channels;
            threads_run(r->pool, rows, sums_task, &j);
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
    int64_t sums = scratch_new(r, (int64_t)x.batch * x.height * 2 * x.channels * 4);
    int64_t band = in_scratch(x) ? scratch_new(r, (int64_t)rows_at_once(r, x) * x.width * x.channels * 4) : -1;
    if (run_ok(r) && (groups <= 0 || x.channels % groups))
        status_set(r->st, STATUS_BAD_FILE, "%s: %s%s: %d channels do not divide into %d groups", r->component, r->prefix, name, x.channels, groups);
    if (r->live && run_ok(r)) {
        take_sums(r, x, run_at(r, sums), run_at(r, band));
        for (int b = 0; b < x.batch && run_ok(r); b++)
            scale_shift_of(x, (float *)run_at(r, sums) + (int64_t)b * x.height * 2 * x.channels, groups, eps, stream_vector(r->stream, gain),
                           stream_vector(r->stream, bias), tensor_data(r, n.scale_shift) + (int64_t)b * 2 * x.channels);
    }
    scratch_drop(r, band);
    scratch_drop(r, sums);
    return n;
}

typedef struct normalize_job {
    const run *r;
    tensor x, y;
    norm n;
} normalize_job;

enum { PIXELS_PER_TASK = 64 };

static void normalize_task(void *ctx, int64_t task, int worker)
{
    const normalize_job *j = ctx;
    (void)worker;
    int64_t first = task * PIXELS_PER_TASK, tokens = tensor_tokens(j->x), end = first + PIXELS_PER_TASK;
    const kernels *k = j->r->k;
    size_t n = (size_t)j->x.channels;
    for (int64_t i = first; i < end && i < tensor_rows(j->x); i++) {
        const float *by = tensor_data(j->r, j->n.scale_shift) + (size_t)(j->x.first_batch + i / tokens) * 2 * n;
        k->scale_shift_act(tensor_data(j->r, j->x) + (size_t)i * n, by, by + n, j->n.act, tensor_data(j->r, j->y) + (size_t)i * n, n);
    }
}

tensor normalize(run *r, tensor x, norm n)
{
    tensor y = tensor_like(r, x, x.channels);
    if (r->live && run_ok(r)) {
        normalize_job j = {r, x, y, n};
        threads_run(r->pool, (tensor_rows(x) + PIXELS_PER_TASK - 1) / PIXELS_PER_TASK, normalize_task, &j);
    }
    return y;
}
