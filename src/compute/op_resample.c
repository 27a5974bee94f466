/* Maps of half and of double the size. Both work on rows of the result, in bands where a map lies in the scratch file. */
#include <string.h>

#include "compute/op_group_norm.h"

typedef struct resample_job {
    run *r;
    tensor x, y;
    norm n;                 /* NO_NORM: none */
    int item, begin;        /* begin: the first input row of the band */
    bool half;
    const float *in;        /* the band's first input row */
    float *out, *normed;    /* normed: two rows of x for each result row of the band */
} resample_job;

/* The mean of each two by two pixels, added as torch's avg_pool2d adds them. */
static void half_row(const resample_job *j, const float *upper, const float *lower, float *out)
{
    int c = j->x.channels;
    for (int x = 0; x < j->y.width; x++, upper += 2 * c, lower += 2 * c, out += c)
        for (int i = 0; i < c; i++)
            out[i] = (upper[i] + upper[c + i] + lower[i] + lower[c + i]) / 4;
}

static void twice_row(const resample_job *j, const float *in, float *out)
{
    size_t c = (size_t)j->x.channels;
    for (int x = 0; x < j->y.width; x++)
        memcpy(out + (size_t)x * c, in + (size_t)(x / 2) * c, c * sizeof *in);
}

static void resample_task(void *ctx, int64_t row, int worker)
{
    const resample_job *j = ctx;
    int64_t stride = (int64_t)j->x.width * j->x.channels;
    float *out = j->out + row * j->y.width * j->y.channels;
    (void)worker;
    if (!j->half) {
        twice_row(j, j->in + row / 2 * stride, out);
        return;
    }
    const float *pair = j->in + 2 * row * stride;
    if (j->n.scale_shift.place >= 0) {
        float *normed = j->normed + 2 * row * stride;
        for (int i = 0; i < 2; i++)
            normalize_row(j->r, j->x, j->n, j->item, j->begin + 2 * (int)row + i, pair + i * stride, normed + i * stride);
        pair = normed;
    }
    half_row(j, pair, pair + stride, out);
}

static void resample_band(resample_job *j, int first, int rows, float *in_band, float *out_band)
{
    run *r = j->r;
    int begin = j->half ? 2 * first : first / 2, count = j->half ? 2 * rows : (first + rows + 1) / 2 - begin;
    j->begin = begin;
    j->in = in_band;
    if (in_scratch(j->x))
        map_read(r, j->x, j->item, begin, count, in_band);
    else
        j->in = tensor_data(r, j->x) + ((int64_t)j->item * j->x.height + begin) * j->x.width * j->x.channels;
    j->out = in_scratch(j->y) ? out_band : tensor_data(r, j->y) + ((int64_t)j->item * j->y.height + first) * j->y.width * j->y.channels;
    if (run_ok(r))
        threads_run(r->pool, rows, resample_task, j);
    if (in_scratch(j->y))
        map_write(r, j->y, j->item, first, rows, j->out);
}

static tensor resample(run *r, tensor x, norm n, bool half)
{
    if (!run_ok(r))
        return NO_TENSOR;
    int height = half ? x.height / 2 : 2 * x.height, width = half ? x.width / 2 : 2 * x.width;
    resample_job j = {.r = r, .x = x, .y = map_new(r, x.batch, height, width, x.channels), .n = n, .half = half};
    int64_t row_bytes = (half ? 2 : 1) * (int64_t)x.width * x.channels * 4, rows = r->lever.band_bytes / row_bytes;
    int band = (int)(rows < 2 ? 2 : rows > height ? height : rows / 2 * 2);
    int64_t in = in_scratch(x) ? scratch_new(r, band * row_bytes + row_bytes) : -1, out = in_scratch(j.y) ? scratch_new(r, (int64_t)band * width * x.channels * 4) : -1;
    int64_t normed = n.scale_shift.place >= 0 ? scratch_new(r, band * row_bytes) : -1;
    j.normed = run_at(r, normed);
    map_moves(r, x, x.batch * (height / band + 1));
    map_moves(r, j.y, x.batch * (height / band + 1));
    for (j.item = 0; r->live && j.item < x.batch; j.item++)
        for (int y = 0; y < height && run_ok(r); y += band)
            resample_band(&j, y, height - y < band ? height - y : band, run_at(r, in), run_at(r, out));
    scratch_drop(r, normed);
    scratch_drop(r, out);
    scratch_drop(r, in);
    return j.y;
}

tensor halve(run *r, tensor x, norm n) { return resample(r, x, n, true); }
tensor twice(run *r, tensor x) { return resample(r, x, NO_NORM, false); }
