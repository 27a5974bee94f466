#include <math.h>
#include <string.h>

#include "compute/ops.h"

enum { CHUNK = 1 << 14 };

typedef struct chunk_job {
    const run *r;
    float *x;
    const float *y;
    int64_t count;
    activation act;
    float by, plus;
} chunk_job;

static void each_chunk(run *r, chunk_job j, task_fn fn)
{
    if (r->live && run_ok(r))
        threads_run(r->pool, (j.count + CHUNK - 1) / CHUNK, fn, &j);
}

static size_t chunk_of(const chunk_job *j, int64_t task)
{
    return (size_t)(j->count - task * CHUNK < CHUNK ? j->count - task * CHUNK : CHUNK);
}

static void activate_chunk(void *ctx, int64_t task, int worker)
{
    const chunk_job *j = ctx;
    (void)worker;
    j->r->k->activate(j->act, j->x + task * CHUNK, j->x + task * CHUNK, chunk_of(j, task));
}

tensor activate(run *r, tensor x, activation act)
{
    if (act != ACT_NONE)
        each_chunk(r, (chunk_job){.r = r, .x = tensor_data(r, x), .count = tensor_count(x), .act = act}, activate_chunk);
    return x;
}

static void act_mul_chunk(void *ctx, int64_t task, int worker)
{
    const chunk_job *j = ctx;
    (void)worker;
    j->r->k->act_mul(j->act, j->x + task * CHUNK, j->y + task * CHUNK, j->x + task * CHUNK, chunk_of(j, task));
}

tensor act_mul(run *r, activation act, tensor x, tensor y)
{
    each_chunk(r, (chunk_job){.r = r, .x = tensor_data(r, x), .y = tensor_data(r, y), .count = tensor_count(x), .act = act}, act_mul_chunk);
    return x;
}

static void add_chunk(void *ctx, int64_t task, int worker)
{
    const chunk_job *j = ctx;
    (void)worker;
    j->r->k->add_gated(j->x + task * CHUNK, j->y + task * CHUNK, NULL, chunk_of(j, task));
}

tensor add(run *r, tensor x, tensor y)
{
    each_chunk(r, (chunk_job){.r = r, .x = tensor_data(r, x), .y = tensor_data(r, y), .count = tensor_count(x)}, add_chunk);
    return x;
}

static void scale_chunk(void *ctx, int64_t task, int worker)
{
    const chunk_job *j = ctx;
    (void)worker;
    float *x = j->x + task * CHUNK;
    for (size_t i = 0, n = chunk_of(j, task); i < n; i++)
        x[i] *= j->by;
}

tensor scale(run *r, tensor x, float by)
{
    each_chunk(r, (chunk_job){.r = r, .x = tensor_data(r, x), .count = tensor_count(x), .by = by}, scale_chunk);
    return x;
}

static void affine_chunk(void *ctx, int64_t task, int worker)
{
    const chunk_job *j = ctx;
    (void)worker;
    float *x = j->x + task * CHUNK;
    for (size_t i = 0, n = chunk_of(j, task); i < n; i++)
        x[i] = x[i] * j->by + j->plus;
}

tensor affine(run *r, tensor x, float by, float plus)
{
    each_chunk(r, (chunk_job){.r = r, .x = tensor_data(r, x), .count = tensor_count(x), .by = by, .plus = plus}, affine_chunk);
    return x;
}

static void soft_clamp_chunk(void *ctx, int64_t task, int worker)
{
    const chunk_job *j = ctx;
    (void)worker;
    float *x = j->x + task * CHUNK;
    for (size_t i = 0, n = chunk_of(j, task); i < n; i++)
        x[i] = tanhf(x[i] / j->by) * j->by;
}

tensor soft_clamp(run *r, tensor x, float limit)
{
    each_chunk(r, (chunk_job){.r = r, .x = tensor_data(r, x), .count = tensor_count(x), .by = limit}, soft_clamp_chunk);
    return x;
}

static void copy_chunk(void *ctx, int64_t task, int worker)
{
    const chunk_job *j = ctx;
    (void)worker;
    memcpy(j->x + task * CHUNK, j->y + task * CHUNK, chunk_of(j, task) * 4);
}

tensor copy(run *r, tensor x)
{
    tensor y = tensor_like(r, x, x.channels);
    each_chunk(r, (chunk_job){.r = r, .x = tensor_data(r, y), .y = tensor_data(r, x), .count = tensor_count(x)}, copy_chunk);
    return y;
}

static void guide_chunk(void *ctx, int64_t task, int worker)
{
    const chunk_job *j = ctx;
    (void)worker;
    float *out = j->x + task * CHUNK;
    const float *a = j->y + task * CHUNK, *b = a + j->count;
    for (size_t i = 0, n = chunk_of(j, task); i < n; i++)
        out[i] = a[i] + j->by * (b[i] - a[i]);
}

tensor guide_halves(run *r, tensor x, float by)
{
    tensor y = tensor_new(r, x.batch / 2, x.height, x.width, x.channels);
    each_chunk(r, (chunk_job){.r = r, .x = tensor_data(r, y), .y = tensor_data(r, x), .count = tensor_count(y), .by = by}, guide_chunk);
    return y;
}

enum { ROWS_PER_TASK = 64 };

typedef struct concat_job {
    const run *r;
    const tensor *x;
    int count;
    tensor y;
} concat_job;

static void concat_rows(void *ctx, int64_t task, int worker)
{
    const concat_job *j = ctx;
    int64_t rows = tensor_rows(j->y);
    (void)worker;
    for (int64_t t = task * ROWS_PER_TASK; t < (task + 1) * ROWS_PER_TASK && t < rows; t++) {
        float *out = tensor_data(j->r, j->y) + t * j->y.channels;
        for (int i = 0; i < j->count; i++) {
            memcpy(out, tensor_data(j->r, j->x[i]) + t * j->x[i].channels, (size_t)j->x[i].channels * 4);
            out += j->x[i].channels;
        }
    }
}

tensor concat_channels(run *r, const tensor *x, int count)
{
    int channels = 0;
    for (int i = 0; i < count; i++)
        channels += x[i].channels;
    concat_job j = {r, x, count, tensor_like(r, x[0], channels)};
    if (r->live && run_ok(r))
        threads_run(r->pool, (tensor_rows(j.y) + ROWS_PER_TASK - 1) / ROWS_PER_TASK, concat_rows, &j);
    return j.y;
}

tensor concat_tokens(run *r, tensor x, tensor y)
{
    size_t first = (size_t)(tensor_tokens(x) * x.channels), second = (size_t)(tensor_tokens(y) * y.channels);
    tensor both = tensor_new(r, x.batch, 1, (int)(tensor_tokens(x) + tensor_tokens(y)), x.channels);
    for (size_t b = 0; r->live && run_ok(r) && b < (size_t)x.batch; b++) {
        float *out = tensor_data(r, both) + b * (first + second);
        memcpy(out, tensor_data(r, x) + b * first, first * 4);
        memcpy(out + first, tensor_data(r, y) + b * second, second * 4);
    }
    return both;
}

tensor mean_tokens(run *r, tensor x)
{
    tensor y = tensor_new(r, x.batch, 1, 1, x.channels);
    int64_t tokens = tensor_tokens(x), c = x.channels;
    for (int64_t b = 0; r->live && run_ok(r) && b < x.batch; b++)
        for (int64_t i = 0; i < c; i++) {
            double sum = 0;
            for (int64_t t = 0; t < tokens; t++)
                sum += (double)tensor_data(r, x)[(b * tokens + t) * c + i];
            tensor_data(r, y)[b * c + i] = (float)(sum / (double)tokens);
        }
    return y;
}

tensor modulation(run *r, tensor x, const char *name, int rows, bool same)
{
    int c = same ? x.channels : x.channels / rows;
    int use = use_vector(r, name, rows, c);
    tensor y = tensor_new(r, x.batch, 1, rows, c);
    if (!r->live || !run_ok(r))
        return y;
    const float *table = stream_vector(r->stream, use);
    for (int64_t b = 0; b < x.batch; b++)
        for (int64_t i = 0; i < rows; i++) {
            const float *in = tensor_data(r, x) + b * x.channels + (same ? 0 : i * c);
            for (int n = 0; n < c; n++)
                tensor_data(r, y)[(b * rows + i) * c + n] = table[i * c + n] + in[n];
        }
    return y;
}

tensor image_of(tensor x, int height, int width)
{
    x.height = height;
    x.width = width;
    return x;
}

tensor sequence_of(tensor x)
{
    x.width = x.height * x.width;
    x.height = 1;
    return x;
}

tensor rows_of(tensor x, int rows)
{
    x.width = rows;
    x.channels /= rows;
    return x;
}

tensor batch_of(tensor x, int batch)
{
    x.width = x.batch * x.width / batch;
    x.batch = batch;
    return x;
}

tensor pick_rows(run *r, tensor x, const int32_t *at, int count)
{
    tensor y = tensor_new(r, count, 1, 1, x.channels);
    for (int64_t i = 0; r->live && run_ok(r) && i < count; i++)
        memcpy(tensor_data(r, y) + i * x.channels, tensor_data(r, x) + (int64_t)at[i] * x.channels, (size_t)x.channels * 4);
    return y;
}

tensor unpatchify(run *r, tensor x, int patch, int channels)
{
    tensor y = tensor_new(r, x.batch, x.height * patch, x.width * patch, channels);
    if (!r->live || !run_ok(r))
        return y;
    size_t run_floats = (size_t)patch * (size_t)channels; /* a patch row is contiguous in both */
    for (int64_t b = 0; b < x.batch; b++)
        for (int64_t h = 0; h < x.height; h++)
            for (int64_t w = 0; w < x.width; w++)
                for (int64_t p = 0; p < patch; p++)
                    memcpy(tensor_data(r, y) + ((b * y.height + h * patch + p) * y.width + w * patch) * channels,
                           tensor_data(r, x) + ((b * x.height + h) * x.width + w) * x.channels + p * (int64_t)run_floats, run_floats * 4);
    return y;
}

tensor input(run *r, const float *data, int batch, int height, int width, int channels)
{
    tensor t = tensor_new(r, batch, height, width, channels);
    if (r->live && run_ok(r))
        memcpy(tensor_data(r, t), data, (size_t)tensor_count(t) * 4);
    return t;
}

tensor input_nchw(run *r, const float *data, int batch, int channels, int height, int width)
{
    tensor t = tensor_new(r, batch, height, width, channels);
    if (!r->live || !run_ok(r))
        return t;
    int64_t area = (int64_t)height * width;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t i = 0; i < area; i++)
                tensor_data(r, t)[(b * area + i) * channels + c] = data[(b * channels + c) * area + i];
    return t;
}

void output(run *r, tensor x, float *out)
{
    if (r->live && run_ok(r))
        memcpy(out, tensor_data(r, x), (size_t)tensor_count(x) * 4);
}

typedef struct output_job {
    const run *r;
    tensor x;
    int64_t first;
    row_fn fn;
    void *ctx;
} output_job;

static void output_row(void *ctx, int64_t task, int worker)
{
    const output_job *j = ctx;
    (void)worker;
    j->fn(j->ctx, j->first + task, tensor_data(j->r, j->x) + task * j->x.channels, j->x.channels);
}

void output_rows(run *r, const region *g, tensor x, bool in_order, row_fn fn, void *ctx)
{
    output_job j = {r, x, g->repeated ? g->row : 0, fn, ctx};
    if (!r->live || !run_ok(r))
        return;
    if (!in_order)
        threads_run(r->pool, tensor_rows(x), output_row, &j);
    for (int64_t i = 0; in_order && i < tensor_rows(x); i++)
        output_row(&j, i, 0);
}

void output_nchw(run *r, tensor x, int channels, float *out)
{
    if (!r->live || !run_ok(r))
        return;
    int64_t area = tensor_tokens(x);
    for (int64_t b = 0; b < x.batch; b++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t i = 0; i < area; i++)
                out[(b * channels + c) * area + i] = tensor_data(r, x)[(b * area + i) * x.channels + c];
}
