/* Group normalization (Wu and He 2018, arXiv 1803.08494): statistics by rows of the map, added in row order, so that neither bands nor
 * threads change a bit of them. Whoever reads the map applies them. */
#include <stdio.h>
#include <string.h>

#include "compute/op_group_norm.h"

/* Channels `first` .. `first + count` of the pixels of one row that look at the same pixel of the small map: out = act((in * scale + shift) * y + b),
 * with y and b linear in what that pixel holds. */
static void condition(const run *r, const spatial_norm *s, const float *pixel, const float *by, int all, int first, int count, float *scale, float *shift)
{
    int depth = s->map.channels;
    const float *wy = stream_vector(r->stream, s->y) + first * depth, *wb = stream_vector(r->stream, s->b) + first * depth;
    const float *py = stream_vector(r->stream, s->y_bias) + first, *pb = stream_vector(r->stream, s->b_bias) + first;
    for (int i = 0; i < count; i++) {
        float y = py[i], b = pb[i];
        for (int k = 0; k < depth; k++) {
            y += wy[i * depth + k] * pixel[k];
            b += wb[i * depth + k] * pixel[k];
        }
        scale[i] = by[first + i] * y;
        shift[i] = by[all + first + i] * y + b;
    }
}

enum { CONDITIONED = 512 }; /* channels at a time */

/* torch's nearest: pixel i of n looks at i * small / n. */
static int nearest(int i, int small, int n) { return (int)((int64_t)i * small / n); }

static void normalize_spatial(const run *r, tensor x, norm n, int item, int row, int first, int pixels, const float *in, float *out)
{
    const spatial_norm *s = &n.spatial;
    const float *by = tensor_data(r, n.scale_shift) + (int64_t)item * 2 * x.channels;
    const float *map = tensor_data(r, s->map) + ((int64_t)item * s->map.height + nearest(row, s->map.height, s->height)) * s->map.width * s->map.channels;
    float scale[CONDITIONED], shift[CONDITIONED];
    for (int i = 0, same; i < pixels; i += same) {
        int at = nearest(first + i, s->map.width, s->width);
        for (same = 1; i + same < pixels && nearest(first + i + same, s->map.width, s->width) == at; same++)
            ;
        for (int c = 0; c < x.channels; c += CONDITIONED) {
            int count = x.channels - c < CONDITIONED ? x.channels - c : CONDITIONED;
            condition(r, s, map + at * s->map.channels, by, x.channels, c, count, scale, shift);
            for (int64_t k = i; k < i + same; k++)
                r->k->scale_shift_act(in + k * x.channels + c, scale, shift, n.act, out + k * x.channels + c, (size_t)count);
        }
    }
}

void normalize_row(const run *r, tensor x, norm n, int item, int row, const float *in, float *out)
{
    const float *by = tensor_data(r, n.scale_shift) + (int64_t)item * 2 * x.channels;
    if (n.spatial.there) {
        normalize_spatial(r, x, n, item, row, 0, x.width, in, out);
        return;
    }
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

void sum_rows(const run *r, tensor x, int64_t first, int64_t rows, const float *at)
{
    sums_job j = {r, x, at, (float *)run_at(r, x.sums) + first * 2 * x.channels};
    if (run_ok(r))
        threads_run(r->pool, rows, sums_task, &j);
}

tensor sums_new(run *r, tensor x)
{
    x.sums = scratch_new(r, (int64_t)x.batch * x.height * 2 * x.channels * 4);
    return x;
}

static int rows_at_once(const run *r, tensor x)
{
    int64_t rows = r->lever.band_bytes / ((int64_t)x.width * x.channels * 4);
    return rows < 1 ? 1 : rows > x.height ? x.height : (int)rows;
}

static void sum_map(run *r, tensor x, float *band)
{
    int step = rows_at_once(r, x);
    for (int item = 0; item < x.batch; item++)
        for (int y = 0; y < x.height; y += step) {
            int rows = x.height - y < step ? x.height - y : step;
            if (!map_read(r, x, item, y, rows, band))
                return;
            sum_rows(r, x, (int64_t)item * x.height + y, rows, band);
        }
}

static int part_of(run *r, const char *name, const char *part, int64_t rows, int64_t columns)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%.*s.%s", NAME_BYTES / 2, name, part);
    return use_vector(r, full, rows, columns);
}

tensor take_sums(run *r, tensor x)
{
    if (x.sums >= 0 || !run_ok(r))
        return x;
    x = sums_new(r, x);
    int64_t band = in_scratch(x) ? scratch_new(r, (int64_t)rows_at_once(r, x) * x.width * x.channels * 4) : -1;
    map_moves(r, x, x.batch * (x.height / rows_at_once(r, x) + 1));
    if (r->live && in_scratch(x))
        sum_map(r, x, run_at(r, band));
    else if (r->live)
        sum_rows(r, x, 0, (int64_t)x.batch * x.height, tensor_data(r, x));
    scratch_drop(r, band);
    return x;
}

/* A map's row of sums for channel c of the two side by side. */
typedef struct sum_pair {
    const float *of[2];
    int channels[2];
} sum_pair;

static sum_pair sums_of(const run *r, const tensor part[2], int item)
{
    sum_pair s = {{NULL, NULL}, {part[0].channels, part[1].channels}};
    for (int i = 0; i < 2 && part[i].batch > 0; i++)
        s.of[i] = (const float *)run_at(r, part[i].sums) + (int64_t)item * part[i].height * 2 * part[i].channels;
    return s;
}

/* Sums of one group: row by row, and in a row channel by channel, in double. */
static void group_sums(const sum_pair *p, int height, int first, int count, double *sum, double *square)
{
    *sum = *square = 0;
    for (int y = 0; y < height; y++)
        for (int c = first; c < first + count; c++) {
            int i = c >= p->channels[0], n = p->channels[i];
            const float *s = p->of[i] + (int64_t)y * 2 * n + (i ? c - p->channels[0] : c);
            *sum += (double)s[0];
            *square += (double)s[n];
        }
}

static void scale_shift_of(tensor x, int channels, const sum_pair *sums, int groups, float eps, const float *gain, const float *bias, float *out)
{
    int per = channels / groups;
    for (int g = 0; g < groups; g++) {
        double sum, square, n = (double)tensor_tokens(x) * per;
        group_sums(sums, x.height, g * per, per, &sum, &square);
        double mean = sum / n, var = square / n - mean * mean, inv = 1 / __builtin_sqrt((var > 0 ? var : 0) + (double)eps);
        for (int i = g * per; i < (g + 1) * per; i++) {
            double by = gain ? (double)gain[i] : 1, plus = bias ? (double)bias[i] : 0;
            out[i] = (float)(inv * by);
            out[channels + i] = (float)(plus - mean * inv * by);
        }
    }
}

norm group_norm_beside(run *r, tensor x, tensor beside, const char *name, int groups, float eps, activation act)
{
    int channels = x.channels + beside.channels;
    int gain = name ? part_of(r, name, "weight", channels, 0) : -1, bias = name ? part_of(r, name, "bias", channels, 0) : -1;
    norm n = {.scale_shift = tensor_new(r, x.batch, 1, 2, channels), .act = act};
    tensor part[2] = {take_sums(r, x), beside.batch > 0 ? take_sums(r, beside) : beside};
    if (run_ok(r) && (groups <= 0 || channels % groups))
        status_set(r->st, STATUS_BAD_FILE, "%s: %s%s: %d channels do not divide into %d groups", r->component, r->prefix, name ? name : "norm", channels, groups);
    for (int b = 0; r->live && b < x.batch && run_ok(r); b++) {
        sum_pair sums = sums_of(r, part, b);
        scale_shift_of(x, channels, &sums, groups, eps, name ? stream_vector(r->stream, gain) : NULL, name ? stream_vector(r->stream, bias) : NULL,
                       tensor_data(r, n.scale_shift) + (int64_t)b * 2 * channels);
    }
    if (x.sums < 0)
        scratch_drop(r, part[0].sums);
    if (beside.batch > 0 && beside.sums < 0)
        scratch_drop(r, part[1].sums);
    return n;
}

norm group_norm(run *r, tensor x, const char *name, int groups, float eps, activation act)
{
    return group_norm_beside(r, x, (tensor){0}, name, groups, eps, act);
}

norm norm_spatial(run *r, tensor x, norm n, const char *name, tensor map)
{
    char full[NAME_BYTES / 2];
    n.spatial = (spatial_norm){.there = true, .map = map, .height = x.height, .width = x.width};
    int *const at[2][2] = {{&n.spatial.y, &n.spatial.y_bias}, {&n.spatial.b, &n.spatial.b_bias}};
    for (int i = 0; i < 2; i++) {
        snprintf(full, sizeof full, "%s.%s", name, i ? "conv_b" : "conv_y");
        *at[i][0] = part_of(r, full, "weight", x.channels, map.channels);
        *at[i][1] = part_of(r, full, "bias", x.channels, 0);
    }
    return n;
}

/* Norms of the channels over all pixels of one item, by their mean: the partial sums again, added in row order. */
static void response_of(tensor x, const float *sums, float eps, const float *gain, const float *bias, float *out)
{
    int c = x.channels;
    double mean = 0;
    for (int i = 0; i < c; i++) {
        double square = 0;
        for (int y = 0; y < x.height; y++)
            square += (double)sums[((int64_t)y * 2 + 1) * c + i];
        out[i] = (float)__builtin_sqrt(square);
        mean += (double)out[i] / c;
    }
    for (int i = 0; i < c; i++) {
        out[i] = 1 + gain[i] * (out[i] / ((float)mean + eps));
        out[c + i] = bias[i];
    }
}

norm response_norm(run *r, tensor x, const char *name, float eps)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s.gamma", name);
    int gain = use_vector(r, full, x.channels, 0);
    snprintf(full, sizeof full, "%s.beta", name);
    int bias = use_vector(r, full, x.channels, 0);
    norm n = {.scale_shift = tensor_new(r, x.batch, 1, 2, x.channels), .act = ACT_NONE};
    tensor summed = take_sums(r, x);
    for (int64_t b = 0; r->live && run_ok(r) && b < x.batch; b++)
        response_of(x, (const float *)run_at(r, summed.sums) + b * x.height * 2 * x.channels, eps, stream_vector(r->stream, gain), stream_vector(r->stream, bias),
                    tensor_data(r, n.scale_shift) + b * 2 * x.channels);
    if (x.sums < 0)
        scratch_drop(r, summed.sums);
    return n;
}

typedef struct normalize_job {
    const run *r;
    tensor x, y;
    norm n;
    int64_t first;  /* spatial: place of a slab's first pixel in its item */
} normalize_job;

enum { PIXELS_PER_TASK = 64 };

/* Rows first .. end of what may be a slab, row of the image by row. */
static void normalize_pixels(const normalize_job *j, int64_t first, int64_t end)
{
    int64_t tokens = tensor_tokens(j->x), wide = j->n.spatial.width, c = j->x.channels;
    while (first < end) {
        int64_t item = first / tokens, at = j->first + first % tokens, column = at % wide, n = wide - column;
        n = n < end - first ? n : end - first;
        n = n < tokens - first % tokens ? n : tokens - first % tokens;
        normalize_spatial(j->r, j->x, j->n, (int)(j->x.first_batch + item), (int)(at / wide), (int)column, (int)n, tensor_data(j->r, j->x) + first * c,
                          tensor_data(j->r, j->y) + first * c);
        first += n;
    }
}

static void normalize_task(void *ctx, int64_t task, int worker)
{
    const normalize_job *j = ctx;
    (void)worker;
    int64_t first = task * PIXELS_PER_TASK, tokens = tensor_tokens(j->x), end = first + PIXELS_PER_TASK;
    const kernels *k = j->r->k;
    size_t n = (size_t)j->x.channels;
    if (j->n.spatial.there) {
        normalize_pixels(j, first, end < tensor_rows(j->x) ? end : tensor_rows(j->x));
        return;
    }
    for (int64_t i = first; i < end && i < tensor_rows(j->x); i++) {
        const float *by = tensor_data(j->r, j->n.scale_shift) + (size_t)(j->x.first_batch + i / tokens) * 2 * n;
        k->scale_shift_act(tensor_data(j->r, j->x) + (size_t)i * n, by, by + n, j->n.act, tensor_data(j->r, j->y) + (size_t)i * n, n);
    }
}

/* Of a slab: how many pixels of its own item lie before it. */
static int64_t pixels_before(tensor x, norm n)
{
    int64_t all = (int64_t)n.spatial.height * n.spatial.width;
    return n.spatial.there && tensor_tokens(x) < all ? (x.place - x.owner) / ((int64_t)x.channels * 4) % all : 0;
}

tensor normalize(run *r, tensor x, norm n)
{
    tensor y = tensor_like(r, x, x.channels);
    if (r->live && run_ok(r)) {
        normalize_job j = {r, x, y, n, pixels_before(x, n)};
        threads_run(r->pool, (tensor_rows(x) + PIXELS_PER_TASK - 1) / PIXELS_PER_TASK, normalize_task, &j);
    }
    return y;
}
