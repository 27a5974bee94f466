#include <math.h>
#include <stdio.h>

#include "compute/ops.h"

enum { ROWS_PER_TASK = 16 };

typedef struct rows_job {
    const run *r;
    tensor x, y;
    float eps;
    const float *gain, *bias;
    const float *scale, *shift; /* by batch item */
    size_t table_stride;
    bool rms;
} rows_job;

/* y of row i, by batch item */
static void modulate_row(const rows_job *j, int64_t i, float *y)
{
    size_t item = (size_t)(j->x.first_batch + i / tensor_tokens(j->x)) * j->table_stride;
    for (int n = 0; n < j->x.channels; n++)
        y[n] = y[n] * (1 + j->scale[item + (size_t)n]) + j->shift[item + (size_t)n];
}

static void norm_rows(void *ctx, int64_t task, int worker)
{
    const rows_job *j = ctx;
    (void)worker;
    const kernels *k = j->r->k;
    int64_t rows = tensor_rows(j->x);
    int c = j->x.channels;
    for (int64_t i = task * ROWS_PER_TASK; i < (task + 1) * ROWS_PER_TASK && i < rows; i++) {
        const float *x = tensor_data(j->r, j->x) + i * c;
        float *y = tensor_data(j->r, j->y) + i * c;
        if (j->rms)
            k->rms_norm(x, c, j->eps, j->gain, y);
        else
            k->layer_norm(x, c, j->eps, j->gain, j->bias, y);
        if (j->scale)
            modulate_row(j, i, y);
    }
}

static tensor norm_run(run *r, rows_job j)
{
    j.y = tensor_like(r, j.x, j.x.channels);
    if (r->live && run_ok(r))
        threads_run(r->pool, (tensor_rows(j.x) + ROWS_PER_TASK - 1) / ROWS_PER_TASK, norm_rows, &j);
    return j.y;
}

static const float *optional_vector(run *r, const char *name, const char *part, int n)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s.%s", name, part);
    int use = use_vector(r, full, n, 0);
    return r->live && run_ok(r) ? stream_vector(r->stream, use) : NULL;
}

tensor layer_norm(run *r, tensor x, const char *name, float eps)
{
    rows_job j = {.r = r, .x = x, .eps = eps};
    if (name) {
        j.gain = optional_vector(r, name, "weight", x.channels);
        j.bias = optional_vector(r, name, "bias", x.channels);
    }
    return norm_run(r, j);
}

tensor layer_norm_gain(run *r, tensor x, const char *name, float eps)
{
    return norm_run(r, (rows_job){.r = r, .x = x, .eps = eps, .gain = optional_vector(r, name, "weight", x.channels)});
}

tensor rms_norm(run *r, tensor x, const char *name, float eps)
{
    rows_job j = {.r = r, .x = x, .eps = eps, .rms = true};
    if (name)
        j.gain = optional_vector(r, name, "weight", x.channels);
    return norm_run(r, j);
}

static void set_modulation(rows_job *j, table_row scale_row, table_row shift_row)
{
    j->scale = tensor_data(j->r, scale_row.of) + (size_t)scale_row.index * (size_t)j->x.channels;
    j->shift = tensor_data(j->r, shift_row.of) + (size_t)shift_row.index * (size_t)j->x.channels;
    j->table_stride = (size_t)(tensor_tokens(scale_row.of) * scale_row.of.channels);
}

tensor layer_norm_modulated(run *r, tensor x, float eps, table_row scale_row, table_row shift_row)
{
    rows_job j = {.r = r, .x = x, .eps = eps};
    if (r->live && run_ok(r))
        set_modulation(&j, scale_row, shift_row);
    return norm_run(r, j);
}

static void modulate_rows(void *ctx, int64_t task, int worker)
{
    const rows_job *j = ctx;
    int64_t rows = tensor_rows(j->x), first = task * ROWS_PER_TASK;
    (void)worker;
    for (int64_t i = first; i < first + ROWS_PER_TASK && i < rows; i++)
        modulate_row(j, i, tensor_data(j->r, j->x) + i * j->x.channels);
}

tensor modulate(run *r, tensor x, table_row scale_row, table_row shift_row)
{
    rows_job j = {.r = r, .x = x};
    if (r->live && run_ok(r)) {
        set_modulation(&j, scale_row, shift_row);
        threads_run(r->pool, (tensor_rows(x) + ROWS_PER_TASK - 1) / ROWS_PER_TASK, modulate_rows, &j);
    }
    return x;
}

/* One group of one item: `rows` tokens of `per` channels. */
static void norm_group(const float *in, int64_t rows, int stride, int per, float eps, const float *gain, const float *bias, float *out)
{
    double sum = 0, square = 0, n = (double)rows * per;
    for (int64_t t = 0; t < rows; t++)
        for (int i = 0; i < per; i++)
            sum += (double)in[t * stride + i];
    double mean = sum / n;
    for (int64_t t = 0; t < rows; t++)
        for (int i = 0; i < per; i++)
            square += ((double)in[t * stride + i] - mean) * ((double)in[t * stride + i] - mean);
    double by = 1 / sqrt(square / n + (double)eps);
    for (int64_t t = 0; t < rows; t++)
        for (int i = 0; i < per; i++)
            out[t * stride + i] = (float)(((double)in[t * stride + i] - mean) * by * (double)gain[i] + (double)bias[i]);
}

tensor group_norm_tokens(run *r, tensor x, const char *name, int groups, float eps)
{
    char full[NAME_BYTES];
    int c = x.channels, per = groups > 0 ? c / groups : 0;
    snprintf(full, sizeof full, "%s.weight", name);
    int gain = use_vector(r, full, c, 0);
    snprintf(full, sizeof full, "%s.bias", name);
    int bias = use_vector(r, full, c, 0);
    tensor y = tensor_like(r, x, c);
    if (run_ok(r) && (per <= 0 || c % groups))
        status_set(r->st, STATUS_BAD_FILE, "%s: %s%s: %d channels do not divide into %d groups", r->component, r->prefix, name, c, groups);
    for (int64_t b = 0; r->live && run_ok(r) && b < x.batch; b++)
        for (int g = 0; g < groups; g++) {
            int64_t at = b * tensor_tokens(x) * c + g * per;
            norm_group(tensor_data(r, x) + at, tensor_tokens(x), c, per, eps, stream_vector(r->stream, gain) + g * per, stream_vector(r->stream, bias) + g * per,
                       tensor_data(r, y) + at);
        }
    return y;
}
