/* Attention one head and one tile of queries at a time, keys in tiles with a running maximum: no score matrix. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "compute/ops.h"

typedef struct attention_job {
    const run *r;
    tensor q, k, v, y;
    int heads;
    float scale;
    const segments *qs, *ks;
    tensor bias;
    bool causal;
    const int64_t *first_task; /* [segments + 1]: tiles of queries, by segment */
    char *scratch;
    int64_t scratch_bytes;
} attention_job;

static int segment_count(tensor t, const segments *s) { return s ? s->count : t.batch; }

static void segment_rows(tensor t, const segments *s, int i, int64_t *first, int64_t *rows)
{
    *first = s ? s->start[i] : i * tensor_tokens(t);
    *rows = s ? s->start[i + 1] - s->start[i] : tensor_tokens(t);
}

static int64_t longest_segment(tensor t, const segments *s)
{
    int64_t most = 0, first, rows;
    for (int i = 0; i < segment_count(t, s); i++) {
        segment_rows(t, s, i, &first, &rows);
        most = rows > most ? rows : most;
    }
    return most;
}

static int64_t tiles(int64_t rows) { return (rows + QUERY_TILE - 1) / QUERY_TILE; }

/* The bias of a tile, written out from the distances. */
static const float *tile_bias(const attention_job *j, int head, int64_t q0, int nq, int64_t nk, float *out)
{
    int64_t width = j->bias.channels, longest = (width + 1) / 2;
    const float *by_distance = tensor_data(j->r, j->bias) + head * width + longest - 1;
    for (int i = 0; i < nq; i++)
        memcpy(out + i * nk, by_distance - (q0 + i), (size_t)nk * 4);
    return out;
}

/* Query t0 + i sees the keys up to itself: of the tile's keys, those behind it are masked. */
static const float *causal_bias(int64_t t0, int nq, int64_t nk, float *out)
{
    for (int i = 0; i < nq; i++)
        for (int64_t key = 0; key < nk; key++)
            out[i * nk + key] = key > t0 + i ? -INFINITY : 0;
    return out;
}

static const float *bias_of_tile(const attention_job *j, int head, int64_t t0, int nq, int64_t nk, float *out)
{
    return j->causal ? causal_bias(t0, nq, nk, out) : j->bias.place >= 0 ? tile_bias(j, head, t0, nq, nk, out) : NULL;
}

static void attention_task(void *ctx, int64_t task, int worker)
{
    const attention_job *j = ctx;
    int64_t head = task % j->heads, tile = task / j->heads, q_first, q_rows, k_first, k_rows;
    int segment = 0;
    while (tile >= j->first_task[segment + 1])
        segment++;
    segment_rows(j->q, j->qs, segment, &q_first, &q_rows);
    /* a slab of queries belongs to batch item first_batch of the keys */
    segment_rows(j->k, j->ks, segment + j->q.first_batch, &k_first, &k_rows);
    int64_t t0 = (tile - j->first_task[segment]) * QUERY_TILE;
    int nq = q_rows - t0 < QUERY_TILE ? (int)(q_rows - t0) : QUERY_TILE;
    if (j->causal)
        k_rows = t0 + nq;
    int qd = j->q.channels / j->heads, vd = j->v.channels / j->heads;
    float *scratch = (float *)(void *)(j->scratch + worker * j->scratch_bytes);
    const float *bias = bias_of_tile(j, (int)head, t0, nq, k_rows, scratch + attention_scratch_floats(vd));
    j->r->k->attention(tensor_data(j->r, j->q) + (q_first + t0) * j->q.channels + head * qd, (size_t)j->q.channels, nq,
                       tensor_data(j->r, j->k) + k_first * j->k.channels + head * qd, (size_t)j->k.channels,
                       tensor_data(j->r, j->v) + k_first * j->v.channels + head * vd, (size_t)j->v.channels, (int)k_rows, qd, vd, j->scale, bias,
                       (size_t)k_rows, tensor_data(j->r, j->y) + (q_first + t0) * j->y.channels + head * vd, (size_t)j->y.channels, scratch);
}

static double attention_operations(const attention_job *j)
{
    double n = 0;
    for (int i = 0; i < segment_count(j->q, j->qs); i++) {
        int64_t first, rows, k_rows;
        segment_rows(j->q, j->qs, i, &first, &rows);
        segment_rows(j->k, j->ks, i + j->q.first_batch, &first, &k_rows);
        n += 2.0 * (double)rows * (double)k_rows * (j->q.channels + j->v.channels);
    }
    return n;
}

static void attention_live(attention_job *j, int64_t *first_task)
{
    int count = segment_count(j->q, j->qs);
    first_task[0] = 0;
    for (int i = 0; i < count; i++) {
        int64_t first, rows;
        segment_rows(j->q, j->qs, i, &first, &rows);
        first_task[i + 1] = first_task[i] + tiles(rows);
    }
    j->first_task = first_task;
    threads_run(j->r->pool, first_task[count] * j->heads, attention_task, j);
}

static tensor attend(run *r, attention_job j)
{
    tensor q = j.q, k = j.k, v = j.v;
    int heads = j.heads;
    if (!run_ok(r))
        return NO_TENSOR;
    if (heads <= 0 || q.channels % heads || v.channels % heads || q.channels != k.channels) {
        status_set(r->st, STATUS_BAD_FILE, "%s: %s: %d heads do not divide %d channels", r->component, r->prefix, heads, q.channels);
        return NO_TENSOR;
    }
    j.y = tensor_like(r, q, v.channels);
    int64_t bias_floats = j.causal || j.bias.place >= 0 ? QUERY_TILE * longest_segment(k, j.ks) : 0;
    j.scratch_bytes = (int64_t)(attention_scratch_floats(v.channels / heads) + (size_t)bias_floats) * 4 + 64;
    int64_t tasks = scratch_new(r, (segment_count(q, j.qs) + 1) * 8), scratch = scratch_new(r, j.scratch_bytes * threads_count(r->pool));
    run_operations(r, attention_operations(&j));
    if (r->live && run_ok(r)) {
        j.scratch = run_at(r, scratch);
        attention_live(&j, run_at(r, tasks));
    }
    scratch_drop(r, scratch);
    scratch_drop(r, tasks);
    return j.y;
}

tensor attention(run *r, tensor q, tensor k, tensor v, int heads, float by, const segments *qs, const segments *ks, tensor bias)
{
    return attend(r, (attention_job){.r = r, .q = q, .k = k, .v = v, .heads = heads, .scale = by, .qs = qs, .ks = ks, .bias = bias});
}

tensor attention_causal(run *r, tensor q, tensor k, tensor v, int heads, float by, const segments *s)
{
    return attend(r, (attention_job){.r = r, .q = q, .k = k, .v = v, .heads = heads, .scale = by, .qs = s, .ks = s, .bias = NO_TENSOR, .causal = true});
}

/* transformers T5Attention._relative_position_bucket, bidirectional: half the buckets for each sign, half of those exact, the
 * rest logarithmic up to max_distance. float as torch computes it. */
static int t5_bucket(int64_t distance, int buckets, int max_distance)
{
    int half = buckets / 2, result = distance > 0 ? half : 0, exact = half / 2;
    int64_t n = distance < 0 ? -distance : distance;
    if (n < exact)
        return result + (int)n;
    float large = logf((float)n / (float)exact) / (float)log((double)max_distance / exact) * (float)(half - exact);
    int bucket = exact + (int)large;
    return result + (bucket < half - 1 ? bucket : half - 1);
}

tensor t5_distances(run *r, const char *name, int buckets, int max_distance, int heads, int longest)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s.weight", name);
    int use = use_vector(r, full, buckets, heads);
    tensor t = tensor_new(r, 1, 1, heads, 2 * longest - 1);
    if (!r->live || !run_ok(r))
        return t;
    const float *table = stream_vector(r->stream, use);
    for (int h = 0; h < heads; h++)
        for (int64_t d = 1 - longest; d < longest; d++)
            tensor_data(r, t)[(int64_t)h * t.channels + d + longest - 1] = table[t5_bucket(d, buckets, max_distance) * heads + h];
    return t;
}
