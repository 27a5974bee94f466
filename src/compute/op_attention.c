/* Attention one head and one tile of queries at a time, keys in tiles with a running maximum: no score matrix. Keys and values of a
 * head are packed first and then serve all its queries: where they lie in rows of all heads, each touches a page for a few numbers. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "compute/ops.h"

enum { PACKED_MOST = 2 << 20 }; /* heads are packed together up to that, and one at least: threads wait for each other twice a group */

typedef struct attention_job {
    const run *r;
    tensor q, k, v, y;
    int heads;
    float scale;
    const segments *qs, *ks;
    tensor bias;
    bool causal;
    bool exact;                     /* f32 throughout */
    int64_t query_tiles, key_tiles; /* of the longest segment */
    int64_t first_pair, pairs;      /* the group at hand; pair = segment * heads + head */
    int64_t tile_bytes;             /* of packed keys and values; 0: they are used where they lie */
    char *packed, *scratch;
    int64_t scratch_bytes;
    bool stored;                    /* every pair's keys and values are packed already (packed_keys) */
} attention_job;

static int segment_count(tensor t, const segments *s) { return s ? s->count : t.batch; }

static void segment_rows(tensor t, const segments *s, int i, int64_t *first, int64_t *rows)
{
    *first = s ? s->start[i] : i * tensor_tokens(t);
    *rows = !s ? tensor_tokens(t) : s->length ? s->length[i] : s->start[i + 1] - s->start[i];
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

static int64_t tiles(int64_t rows, int size) { return (rows + size - 1) / size; }

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

/* The keys of a pair: its first row and how many. A slab of queries belongs to batch item first_batch of the keys. */
static void key_rows(const attention_job *j, int64_t pair, int64_t *first, int64_t *rows)
{
    segment_rows(j->k, j->ks, (int)(pair / j->heads) + j->q.first_batch, first, rows);
}

static const float *head_of(const attention_job *j, tensor t, int64_t row, int64_t pair)
{
    return tensor_data(j->r, t) + row * t.channels + pair % j->heads * (t.channels / j->heads);
}

static char *packed_of(const attention_job *j, int64_t pair)
{
    int64_t at = j->stored ? pair + (int64_t)j->q.first_batch * j->heads : pair - j->first_pair;
    return j->packed + at * j->key_tiles * j->tile_bytes;
}

/* One tile of keys and values. */
static void pack_task(void *ctx, int64_t task, int worker)
{
    const attention_job *j = ctx;
    int64_t pair = j->first_pair + task / j->key_tiles, tile = task % j->key_tiles, first, rows;
    (void)worker;
    key_rows(j, pair, &first, &rows);
    int64_t at = tile * KEY_TILE;
    if (at < rows)
        j->r->k->attention_pack(head_of(j, j->k, first + at, pair), (size_t)j->k.channels, head_of(j, j->v, first + at, pair),
                                (size_t)j->v.channels, rows - at < KEY_TILE ? (int)(rows - at) : KEY_TILE, j->k.channels / j->heads,
                                j->v.channels / j->heads, j->exact, packed_of(j, pair) + tile * j->tile_bytes);
}

/* One tile of queries. */
static void attention_task(void *ctx, int64_t task, int worker)
{
    const attention_job *j = ctx;
    const kernels *kernel = j->r->k;
    int64_t pair = j->first_pair + task / j->query_tiles, t0 = task % j->query_tiles * QUERY_TILE, q_first, q_rows, k_first, k_rows;
    segment_rows(j->q, j->qs, (int)(pair / j->heads), &q_first, &q_rows);
    key_rows(j, pair, &k_first, &k_rows);
    if (t0 >= q_rows)
        return;
    int nq = q_rows - t0 < QUERY_TILE ? (int)(q_rows - t0) : QUERY_TILE;
    if (j->causal)
        k_rows = t0 + nq;
    int qd = j->q.channels / j->heads, vd = j->v.channels / j->heads;
    float *scratch = (float *)(void *)(j->scratch + worker * j->scratch_bytes);
    const float *bias = bias_of_tile(j, (int)(pair % j->heads), t0, nq, k_rows, scratch + attention_scratch_floats(vd));
    const float *q = head_of(j, j->q, q_first + t0, pair);
    float *out = tensor_data(j->r, j->y) + (q_first + t0) * j->y.channels + pair % j->heads * vd;
    if (j->tile_bytes)
        kernel->attention_packed(q, (size_t)j->q.channels, nq, packed_of(j, pair), (int)k_rows, qd, vd, j->scale, bias, (size_t)k_rows,
                                 j->exact, out, (size_t)j->y.channels, scratch);
    else
        kernel->attention(q, (size_t)j->q.channels, nq, head_of(j, j->k, k_first, pair), (size_t)j->k.channels,
                          head_of(j, j->v, k_first, pair), (size_t)j->v.channels, (int)k_rows, qd, vd, j->scale, bias, (size_t)k_rows, out,
                          (size_t)j->y.channels, scratch);
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

/* Attention may round where the weights before it are rounded: where the last matrix used, which made what comes in, is of an integer
 * format and the run is not to be f32 throughout. */
static bool must_be_exact(const run *r)
{
    int use = r->use - 1;
    while (use >= 0 && r->plan->use[use].role == ROLE_VECTOR)
        use--;
    return r->f32 || r->k->attention_element == 4 || use < 0 || !type_of(r->plan->use[use].weight->type)->integer;
}

/* How much is packed at a time. What depends on the number of queries must not change a result: they may come in slabs. */
static int64_t plan_packing(attention_job *j)
{
    int64_t all = (int64_t)segment_count(j->q, j->qs) * j->heads;
    j->query_tiles = tiles(longest_segment(j->q, j->qs), QUERY_TILE);
    j->key_tiles = tiles(longest_segment(j->k, j->ks), KEY_TILE);
    j->exact = must_be_exact(j->r);
    j->pairs = all;
    if (j->exact && (j->heads == 1 || j->query_tiles == 1))
        return 0;
    j->tile_bytes = (int64_t)attention_tile_bytes(j->exact ? NULL : j->r->k, j->k.channels / j->heads, j->v.channels / j->heads);
    int64_t head_bytes = j->tile_bytes * j->key_tiles, together = PACKED_MOST / head_bytes;
    j->pairs = together < 1 ? 1 : together < all ? together : all;
    return j->pairs * head_bytes;
}

static void attention_live(attention_job *j)
{
    int64_t all = (int64_t)segment_count(j->q, j->qs) * j->heads;
    for (; j->first_pair < all; j->first_pair += j->pairs) {
        int64_t pairs = all - j->first_pair < j->pairs ? all - j->first_pair : j->pairs;
        if (j->tile_bytes && !j->stored)
            threads_run(j->r->pool, pairs * j->key_tiles, pack_task, j);
        threads_run(j->r->pool, pairs * j->query_tiles, attention_task, j);
    }
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
    int64_t packed_bytes = plan_packing(&j), packed = packed_bytes ? scratch_new(r, packed_bytes) : -1;
    int64_t scratch = scratch_new(r, j.scratch_bytes * threads_count(r->pool));
    run_operations(r, attention_operations(&j));
    if (r->live && run_ok(r)) {
        j.scratch = run_at(r, scratch);
        j.packed = run_at(r, packed);
        attention_live(&j);
    }
    scratch_drop(r, scratch);
    scratch_drop(r, packed);
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

/* ---- keys and values that are packed slab by slab as they are made, and never lie in rows as a whole ---- */

packed_keys keys_new(run *r, int batch, int64_t tokens, int channels, int heads)
{
    packed_keys p = {.batch = batch, .tokens = tokens, .channels = channels, .heads = heads, .exact = must_be_exact(r), .place = -1};
    if (!run_ok(r))
        return p;
    if (heads <= 0 || channels % heads) {
        status_set(r->st, STATUS_BAD_FILE, "%s: %s: %d heads do not divide %d channels", r->component, r->prefix, heads, channels);
        return p;
    }
    p.tile_bytes = (int64_t)attention_tile_bytes(p.exact ? NULL : r->k, channels / heads, channels / heads);
    p.tiles = tiles(tokens, KEY_TILE);
    p.place = scratch_new(r, batch * heads * p.tiles * p.tile_bytes);
    return p;
}

typedef struct packing_job {
    const run *r;
    const packed_keys *to;
    tensor k, v;                    /* a slab, or all */
    int64_t first_item, first_tile, tiles; /* tiles: of an item's rows in the slab */
} packing_job;

static void keys_pack_task(void *ctx, int64_t task, int worker)
{
    const packing_job *j = ctx;
    const packed_keys *p = j->to;
    (void)worker;
    int64_t tile = task % j->tiles, head = task / j->tiles % p->heads, item = task / j->tiles / p->heads;
    int64_t rows = tensor_tokens(j->k), at = tile * KEY_TILE, d = p->channels / p->heads;
    size_t from = (size_t)((item * rows + at) * p->channels + head * d);
    char *out = (char *)run_at(j->r, p->place) + (((j->first_item + item) * p->heads + head) * p->tiles + j->first_tile + tile) * p->tile_bytes;
    j->r->k->attention_pack(tensor_data(j->r, j->k) + from, (size_t)p->channels, tensor_data(j->r, j->v) + from, (size_t)p->channels,
                            rows - at < KEY_TILE ? (int)(rows - at) : KEY_TILE, (int)d, (int)d, p->exact, out);
}

void keys_pack(run *r, const packed_keys *p, const region *g, tensor k, tensor v)
{
    if (!r->live || !run_ok(r))
        return;
    packing_job j = {.r = r, .to = p, .k = k, .v = v, .tiles = tiles(tensor_tokens(k), KEY_TILE)};
    if (g->repeated) {
        j.first_item = g->row / p->tokens;
        j.first_tile = g->row % p->tokens / KEY_TILE;
    }
    threads_run(r->pool, k.batch * p->heads * j.tiles, keys_pack_task, &j);
}

tensor attention_keys(run *r, tensor q, const packed_keys *p, float by)
{
    if (!run_ok(r))
        return NO_TENSOR;
    tensor keys = {.batch = p->batch, .height = 1, .width = (int32_t)p->tokens, .channels = p->channels, .place = -1, .owner = -1};
    attention_job j = {.r = r, .q = q, .k = keys, .v = keys, .heads = p->heads, .scale = by, .bias = NO_TENSOR, .exact = p->exact, .stored = true,
                       .query_tiles = tiles(tensor_tokens(q), QUERY_TILE), .key_tiles = p->tiles, .tile_bytes = p->tile_bytes,
                       .pairs = (int64_t)q.batch * p->heads, .packed = run_at(r, p->place)};
    j.y = tensor_like(r, q, p->channels);
    j.scratch_bytes = (int64_t)attention_scratch_floats(p->channels / p->heads) * 4 + 64;
    int64_t scratch = scratch_new(r, j.scratch_bytes * threads_count(r->pool));
    run_operations(r, attention_operations(&j));
    if (r->live && run_ok(r)) {
        j.scratch = run_at(r, scratch);
        attention_live(&j);
    }
    scratch_drop(r, scratch);
    return j.y;
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
