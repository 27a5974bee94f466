#include <math.h>

#include "compute/ops.h"

tensor embed(run *r, const char *name, const int32_t *ids, int count, int vocabulary, int width)
{
    int use = use_embedding(r, name, vocabulary, width, count);
    tensor t = tensor_new(r, 1, 1, count, width);
    if (!r->live || !run_ok(r))
        return t;
    for (int i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocabulary) {
            status_set(r->st, STATUS_BAD_FILE, "%s: token id %d, but the vocabulary has %d: the tokenizer does not belong to this model", r->component, ids[i], vocabulary);
            return t;
        }
    stream_gather(r->stream, use, ids, count, tensor_data(r, t), r->st);
    return t;
}

tensor add_positions(run *r, tensor x, const char *name, int rows)
{
    int use = use_vector(r, name, rows, x.channels);
    if (run_ok(r) && tensor_tokens(x) > rows)
        status_set(r->st, STATUS_FAILED, "%s: %lld tokens, but the model has %d positions", r->component, (long long)tensor_tokens(x), rows);
    if (!r->live || !run_ok(r))
        return x;
    const float *table = stream_vector(r->stream, use);
    size_t floats = (size_t)tensor_tokens(x) * (size_t)x.channels;
    for (int64_t b = 0; b < x.batch; b++)
        r->k->add_gated(tensor_data(r, x) + b * (int64_t)floats, table, NULL, floats);
    return x;
}

tensor sinusoids(run *r, const float *values, int batch, int dim, bool cos_first, float shift)
{
    tensor t = tensor_new(r, batch, 1, 1, dim);
    if (!r->live || !run_ok(r))
        return t;
    int half = dim / 2;
    for (int b = 0; b < batch; b++) {
        float *out = tensor_data(r, t) + (int64_t)b * dim;
        for (int i = 0; i < half; i++) {
            /* every step rounded to float, as torch does: the highest frequencies turn rounding into phase */
            float exponent = (float)-log(10000.0) * (float)i / ((float)half - shift), angle = values[b] * expf(exponent);
            out[cos_first ? i + half : i] = sinf(angle);
            out[cos_first ? i : i + half] = cosf(angle);
        }
        if (dim % 2)
            out[dim - 1] = 0;
    }
    return t;
}

/* get_1d_sincos_pos_embed_from_grid: positions in double, [sin | cos], frequencies 10000^(-i / (n / 2)). */
static void sincos_1d(double position, int n, float *out)
{
    for (int i = 0; i < n / 2; i++) {
        double omega = 1 / pow(10000.0, (double)i / (n / 2.0)), angle = position * omega;
        out[i] = (float)sin(angle);
        out[i + n / 2] = (float)cos(angle);
    }
}

typedef struct sincos_job {
    const run *r;
    tensor x;
    float x_divisor, y_divisor, interpolation_scale; /* position = i / divisor / interpolation_scale, each in float as torch has it */
    char *scratch;
} sincos_job;

static void sincos_row(void *ctx, int64_t task, int worker)
{
    const sincos_job *j = ctx;
    int c = j->x.channels, half = c / 2;
    float *table = (float *)(void *)(j->scratch + (int64_t)worker * c * 4);
    /* the first half of the channels holds the column, the second the row (diffusers: "here w goes first") */
    sincos_1d((double)((float)task / j->y_divisor / j->interpolation_scale), half, table + half);
    for (int w = 0; w < j->x.width; w++) {
        sincos_1d((double)((float)w / j->x_divisor / j->interpolation_scale), half, table);
        for (int b = 0; b < j->x.batch; b++)
            j->r->k->add_gated(tensor_data(j->r, j->x) + (((int64_t)b * j->x.height + task) * j->x.width + w) * c, table, NULL, (size_t)c);
    }
}

tensor add_sincos_2d(run *r, tensor x, int base_size, float interpolation_scale)
{
    int64_t scratch = scratch_new(r, (int64_t)x.channels * 4 * threads_count(r->pool));
    if (run_ok(r) && x.channels % 4)
        status_set(r->st, STATUS_BAD_FILE, "%s: %d channels: a 2-d sine table needs a multiple of 4", r->component, x.channels);
    if (r->live && run_ok(r)) {
        sincos_job j = {r, x, (float)((double)x.width / base_size), (float)((double)x.height / base_size), interpolation_scale, run_at(r, scratch)};
        threads_run(r->pool, x.height, sincos_row, &j);
    }
    scratch_drop(r, scratch);
    return x;
}
