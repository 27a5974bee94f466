#include "tools/rates.h"

#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "tools/progress.h"

/* Sizes as the networks have them, small enough for a core's own cache: what is measured is the kernel and not the memory. */
enum { DEPTH = 1152, TOKENS = 64, KEYS = 256, HEAD = 72 };

typedef struct bench_data {
    const kernels *k;
    float *x, *y;                /* TOKENS x DEPTH */
    float *w, *out, *scratch;
    int8_t *q, *panel;           /* TOKENS x DEPTH, 16 x DEPTH */
    uint8_t *codes, *sel;
    int8_t table[256];
    float scale[TOKENS], row_scale[PANEL_ROWS];
    int32_t sum[TOKENS];
    const float *row[TOKENS];
    const int8_t *qrow[TOKENS];
} bench_data;

/* Each runs its kernel once and returns the units of work: operations or bytes. */
static double gemm_i8(bench_data *d, int tokens)
{
    d->k->gemm_i8(d->qrow, d->scale, d->sum, tokens, 1, DEPTH, d->panel, d->row_scale, PANEL_ROWS, d->out, PANEL_ROWS);
    return 2.0 * tokens * DEPTH * PANEL_ROWS;
}

static double run_gemm_i8(bench_data *d) { return gemm_i8(d, TOKENS); }
static double run_gemm_i8_one(bench_data *d) { return gemm_i8(d, 1); }

static double run_gemm_f32(bench_data *d)
{
    d->k->gemm_f32(d->row, TOKENS, 1, DEPTH, d->w, DEPTH, PANEL_ROWS, d->out, PANEL_ROWS);
    return 2.0 * TOKENS * DEPTH * PANEL_ROWS;
}

static double run_decode_q4(bench_data *d)
{
    d->k->decode_q4(d->sel, d->codes, DEPTH, d->table, d->panel);
    return DEPTH * PANEL_ROWS;
}

static double run_quantize(bench_data *d)
{
    for (int t = 0; t < TOKENS; t++)
        d->k->quantize_row(d->x + t * DEPTH, DEPTH, DEPTH, 128, d->y, d->q + t * DEPTH, &d->scale[t], &d->sum[t]);
    return 4.0 * TOKENS * DEPTH;
}

static double run_attention(bench_data *d)
{
    d->k->attention(d->x, DEPTH, QUERY_TILE, d->y, HEAD, d->w, HEAD, KEYS, HEAD, HEAD, 0.1f, NULL, 0, d->out, HEAD, d->scratch);
    return 4.0 * QUERY_TILE * KEYS * HEAD;
}

static double run_norm(bench_data *d)
{
    for (int t = 0; t < TOKENS; t++)
        d->k->layer_norm(d->x + t * DEPTH, DEPTH, 1e-6f, NULL, NULL, d->y + t * DEPTH);
    return 4.0 * TOKENS * DEPTH;
}

static double run_activate(bench_data *d)
{
    d->k->activate(ACT_GELU_TANH, d->x, d->y, TOKENS * DEPTH);
    return 4.0 * TOKENS * DEPTH;
}

const rate_row rate_table[RATES] = {
    [RATE_GEMM_I8] = {"gemm_i8", "Gop/s", "int8 weights, 64 tokens"},
    [RATE_GEMM_I8_ONE] = {"gemm_i8_1", "Gop/s", "int8 weights, 1 token"},
    [RATE_GEMM_F32] = {"gemm_f32", "Gop/s", "float weights, 64 tokens"},
    [RATE_DECODE_Q4] = {"decode_q4", "Gweight/s", "4-bit codes to int8"},
    [RATE_QUANTIZE] = {"quantize_row", "GB/s", "activations, rotated, to int8"},
    [RATE_ATTENTION] = {"attention", "Gop/s", "16 queries, 256 keys, heads of 72"},
    [RATE_NORM] = {"layer_norm", "GB/s", "rows of 1152"},
    [RATE_ACTIVATE] = {"gelu", "GB/s", "tanh form"},
};

static double (*const run_of[RATES])(bench_data *) = {
    run_gemm_i8, run_gemm_i8_one, run_gemm_f32, run_decode_q4, run_quantize, run_attention, run_norm, run_activate,
};

static void data_free(bench_data *d)
{
    void *all[] = {d->x, d->y, d->w, d->out, d->scratch, d->q, d->panel, d->codes, d->sel};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mem_free(all[i]);
}

static bool data_fill(bench_data *d, const kernels *k, status *st)
{
    size_t n = TOKENS * DEPTH, floats = n > KEYS * HEAD ? n : KEYS * HEAD;
    *d = (bench_data){.k = k};
    d->x = mem_alloc(floats, sizeof(float), "bench", st);
    d->y = mem_alloc(floats, sizeof(float), "bench", st);
    d->w = mem_alloc(floats, sizeof(float), "bench", st);
    d->out = mem_alloc(floats, sizeof(float), "bench", st);
    d->scratch = mem_alloc(attention_scratch_floats(HEAD), sizeof(float), "bench", st);
    d->q = mem_alloc(n, 1, "bench", st);
    d->panel = mem_alloc(PANEL_ROWS * DEPTH, 1, "bench", st);
    d->codes = mem_alloc(PANEL_ROWS * DEPTH / 2, 1, "bench", st);
    d->sel = mem_alloc(PANEL_ROWS * DEPTH / 32, 1, "bench", st);
    if (!status_ok(st))
        return false;
    uint32_t r = 1;
    for (size_t i = 0; i < floats; i++) {
        r = r * 1664525u + 1013904223u;
        d->x[i] = d->y[i] = d->w[i] = (float)(r >> 8) / 8388608.0f - 1.0f;
    }
    for (size_t i = 0; i < n; i++)
        d->q[i] = (int8_t)(127 * d->x[i]);
    for (int i = 0; i < PANEL_ROWS * DEPTH; i++)
        d->panel[i] = d->q[i];
    memcpy(d->codes, d->q, PANEL_ROWS * DEPTH / 2);
    for (int t = 0; t < TOKENS; t++) {
        d->row[t] = d->x + t * DEPTH;
        d->qrow[t] = d->q + t * DEPTH;
        d->scale[t] = 0.01f;
    }
    return true;
}

/* ---- on all threads at once ---- */

typedef struct worker_sum {
    _Alignas(64) double units;   /* no two workers in one cache line */
} worker_sum;

typedef struct everywhere {
    double seconds;
    int which;
    bench_data *data;            /* one a task */
    const uint64_t *memory;      /* rate_memory: a piece a task */
    size_t words;
    worker_sum *done;
} everywhere;

static void kernel_task(void *ctx, int64_t task, int worker)
{
    everywhere *e = ctx;
    (void)worker;
    double units = 0, end = seconds_now() + e->seconds;
    do
        for (int i = 0; i < 16; i++)
            units += run_of[e->which](&e->data[task]);
    while (seconds_now() < end);
    e->done[task].units = units;
}

static double run_everywhere(everywhere *e, threads *pool, task_fn fn, status *st)
{
    int n = threads_count(pool);
    double units = 0;
    e->done = mem_alloc((size_t)n, sizeof *e->done, "bench", st);
    if (!e->done)
        return 0;
    double began = seconds_now();
    threads_run(pool, n, fn, e);
    double took = seconds_now() - began;
    for (int i = 0; i < n; i++)
        units += e->done[i].units;
    mem_free(e->done);
    return units / took / 1e9;
}

double rate_kernel(int which, const kernels *k, threads *pool, double seconds, status *st)
{
    int n = threads_count(pool);
    everywhere e = {.seconds = seconds, .which = which};
    double rate = 0;
    e.data = mem_alloc((size_t)n, sizeof *e.data, "bench", st);
    for (int i = 0; e.data && i < n; i++)
        data_fill(&e.data[i], k, st);
    if (status_ok(st)) {
        run_of[which](&e.data[0]);   /* the first call pays for pages */
        rate = run_everywhere(&e, pool, kernel_task, st);
    }
    for (int i = 0; e.data && i < n; i++)
        data_free(&e.data[i]);
    mem_free(e.data);
    return rate;
}

bool rate_peaks(const kernels *k, threads *pool, peaks *out, status *st)
{
    out->integer = rate_kernel(RATE_GEMM_I8, k, pool, 0.1, st);
    out->single = rate_kernel(RATE_GEMM_F32, k, pool, 0.1, st);
    return status_ok(st);
}

double peak_of(const peaks *p, const source *s, const char *component, bool f32)
{
    double integer = 0, all = 0;
    for (int i = 0; i < s->weights; i++) {
        double n = 1;
        if (strcmp(s->weight[i].component, component) != 0)
            continue;
        for (int d = 0; d < s->weight[i].dims; d++)
            n *= (double)s->weight[i].shape[d];
        all += n;
        integer += type_of(s->weight[i].type)->integer ? n : 0;
    }
    return !f32 && 2 * integer > all ? p->integer : p->single;
}

static void memory_task(void *ctx, int64_t task, int worker)
{
    everywhere *e = ctx;
    (void)worker;
    const uint64_t *p = e->memory + (size_t)task * e->words;
    uint64_t sum[8] = {0};
    double bytes = 0, end = seconds_now() + e->seconds;
    do {
        for (size_t i = 0; i < e->words; i += 8)
            for (int j = 0; j < 8; j++)
                sum[j] += p[i + (size_t)j];
        bytes += (double)e->words * 8;
    } while (seconds_now() < end);
    static _Atomic uint64_t sink;   /* so that the sums are wanted */
    atomic_fetch_add(&sink, sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7]);
    e->done[task].units = bytes;
}

double rate_memory(threads *pool, double seconds, status *st)
{
    size_t words = (256u << 20) / 8 / (size_t)threads_count(pool) / 8 * 8;
    size_t bytes = words * 8 * (size_t)threads_count(pool);
    everywhere e = {.seconds = seconds, .words = words};
    uint64_t *memory = mem_map(bytes, "bench", st);
    if (!memory)
        return 0;
    memset(memory, 1, bytes);   /* untouched pages are all the same one */
    e.memory = memory;
    double rate = run_everywhere(&e, pool, memory_task, st);
    mem_unmap(memory, bytes);
    return rate;
}

double rate_disk(io *file, double seconds, status *st)
{
    enum { PIECE = 4 << 20 };
    void *piece = mem_map(PIECE, "bench", st);
    double bytes = 0, began = seconds_now(), took = 0;
    for (uint64_t at = 0; piece && at < io_size(file) && took < seconds; at += PIECE) {
        size_t got = 0;
        if (!io_read_direct(file, at, piece, PIECE, &got, st))
            break;
        bytes += (double)got;
        took = seconds_now() - began;
    }
    mem_unmap(piece, PIECE);
    return took > 0 ? bytes / took / 1e9 : 0;
}
