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

static void norm_rows(void *ctx, int64_t task, int worker)
{
    const rows_job *j = ctx;
    (void)worker;
    const kernels *k = j->r->k;
    int64_t rows = tensor_rows(j->x), per_item = tensor_tokens(j->x);
    int c = j->x.channels;
    for (int64_t i = task * ROWS_PER_TASK; i < (task + 1) * ROWS_PER_TASK && i < rows; i++) {
        const float *x = tensor_data(j->r, j->x) + i * c;
        float *y = tensor_data(j->r, j->y) + i * c;
        if (j->rms)
            k->rms_norm(x, c, j->eps, j->gain, y);
        else
            k->layer_norm(x, c, j->eps, j->gain, j->bias, y);
        if (!j->scale)
            continue;
        size_t item = (size_t)(j->x.first_batch + i / per_item) * j->table_stride;
        for (int n = 0; n < c; n++)
            y[n] = y[n] * (1 + j->scale[item + (size_t)n]) + j->shift[item + (size_t)n];
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

tensor rms_norm(run *r, tensor x, const char *name, float eps)
{
    rows_job j = {.r = r, .x = x, .eps = eps, .rms = true};
    if (name)
        j.gain = optional_vector(r, name, "weight", x.channels);
    return norm_run(r, j);
}

tensor layer_norm_modulated(run *r, tensor x, float eps, table_row scale_row, table_row shift_row)
{
    rows_job j = {.r = r, .x = x, .eps = eps};
    if (r->live && run_ok(r)) {
        j.scale = tensor_data(r, scale_row.of) + (size_t)scale_row.index * (size_t)x.channels;
        j.shift = tensor_data(r, shift_row.of) + (size_t)shift_row.index * (size_t)x.channels;
        j.table_stride = (size_t)(tensor_tokens(scale_row.of) * scale_row.of.channels);
    }
    return norm_run(r, j);
}
