/* What works row by row with something of the batch item's, or with the row's own other half. */
#include <string.h>

#include "compute/ops.h"

enum { ROWS_PER_TASK = 64 };

typedef struct rows_job {
    const run *r;
    tensor x, y;
    activation act;
    const float *row;  /* by batch item */
    size_t row_stride;
} rows_job;

static void each_block(run *r, rows_job j, task_fn fn)
{
    if (r->live && run_ok(r))
        threads_run(r->pool, (tensor_rows(j.x) + ROWS_PER_TASK - 1) / ROWS_PER_TASK, fn, &j);
}

static int64_t block_end(const rows_job *j, int64_t task)
{
    int64_t rows = tensor_rows(j->x);
    return (task + 1) * ROWS_PER_TASK < rows ? (task + 1) * ROWS_PER_TASK : rows;
}

static void gate_block(void *ctx, int64_t task, int worker)
{
    const rows_job *j = ctx;
    int64_t n = j->y.channels;
    (void)worker;
    for (int64_t i = task * ROWS_PER_TASK; i < block_end(j, task); i++) {
        const float *x = tensor_data(j->r, j->x) + i * 2 * n;
        j->r->k->act_mul(j->act, x + n, x, tensor_data(j->r, j->y) + i * n, (size_t)n);
    }
}

tensor gated_halves(run *r, activation act, tensor x)
{
    tensor y = tensor_like(r, x, x.channels / 2);
    each_block(r, (rows_job){.r = r, .x = x, .y = y, .act = act}, gate_block);
    return y;
}

norm norm_modulated(run *r, norm n, table_row scale, table_row shift)
{
    if (!r->live || !run_ok(r))
        return n;
    int c = n.scale_shift.channels;
    size_t scale_stride = (size_t)(tensor_tokens(scale.of) * scale.of.channels), shift_stride = (size_t)(tensor_tokens(shift.of) * shift.of.channels);
    for (int b = 0; b < n.scale_shift.batch; b++) {
        float *by = tensor_data(r, n.scale_shift) + (int64_t)b * 2 * c;
        const float *s = tensor_data(r, scale.of) + (size_t)b * scale_stride + (size_t)scale.index * (size_t)c;
        const float *t = tensor_data(r, shift.of) + (size_t)b * shift_stride + (size_t)shift.index * (size_t)c;
        for (int i = 0; i < c; i++) {
            by[i] *= 1 + s[i];
            by[c + i] = by[c + i] * (1 + s[i]) + t[i];
        }
    }
    return n;
}

tensor mean_rows(run *r, tensor x, const int32_t *count)
{
    tensor y = tensor_new(r, x.batch, 1, 1, x.channels);
    int64_t tokens = tensor_tokens(x), n = x.channels;
    for (int64_t b = 0; r->live && run_ok(r) && b < x.batch; b++) {
        float *out = tensor_data(r, y) + b * n;
        const float *in = tensor_data(r, x) + b * tokens * n;
        memcpy(out, in, (size_t)n * 4);
        for (int64_t t = 1; t < count[b]; t++)
            r->k->add_gated(out, in + t * n, NULL, (size_t)n);
        for (int64_t i = 0; i < n; i++)
            out[i] /= (float)count[b];
    }
    return y;
}

tensor hide_rows(run *r, tensor x, const int32_t *seen, const char *name)
{
    int use = use_vector(r, name, x.channels, 0);
    int64_t tokens = tensor_tokens(x), n = x.channels;
    for (int64_t b = 0; r->live && run_ok(r) && b < x.batch; b++) {
        float *row = tensor_data(r, x) + b * tokens * n;
        memset(row + seen[b] * n, 0, (size_t)((tokens - seen[b]) * n) * 4);
        if (!seen[b])
            memcpy(row, stream_vector(r->stream, use), (size_t)n * 4);
    }
    return x;
}
