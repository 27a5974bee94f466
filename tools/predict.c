#define _GNU_SOURCE /* st_mtim */
#include "tools/predict.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/mem.h"
#include "base/paths.h"
#include "tools/op_rate.h"
#include "tools/progress.h"
#include "weights/state_file.h"

/* Seconds of one call on all threads, by the processor time that they got. */
static double seconds_of(const op_shape *shape, const kernels *k, threads *pool, double *work, status *st)
{
    op_rate r = {.work = 1}; /* a product or attention: no bound of memory */
    op_measure(shape, k, pool, 0.1, rate_of_set(k, (peak_kind)op_bound(shape, k), pool, 0.005, st), &r, st);
    *work = r.work;
    return r.took.cpu / threads_count(pool);
}

typedef struct nothing { _Atomic int runs; } nothing;

static void do_nothing(void *ctx, int64_t task, int worker)
{
    (void)task, (void)worker;
    ((nothing *)ctx)->runs++;
}

static double seconds_of_a_call(threads *pool)
{
    enum { CALLS = 2000 };
    nothing n = {0};
    double began = seconds_now();
    for (int i = 0; i < CALLS; i++)
        threads_run(pool, 4 * threads_count(pool), do_nothing, &n);
    return (seconds_now() - began) / CALLS;
}

enum { DEPTH = 4096, ROWS = 10240, MANY = 256, FEW = 16 }; /* more weights than most caches hold, as in a network */

static bool measure(const kernels *k, threads *pool, bool f32, sustained *out, status *st)
{
    const op_shape shapes[] = {
        {"", OP_LINEAR, TYPE_Q4, MANY, DEPTH, ROWS, 0}, {"", OP_LINEAR, TYPE_Q4, FEW, DEPTH, ROWS, 0},
        {"", OP_CONV, TYPE_Q8, 64, 320, 320, 0},        {"", OP_LINEAR, TYPE_F32, MANY, 2048, 2048, 0},
        {"", OP_ATTENTION, f32 ? TYPE_F32 : TYPE_Q8, 1024, 1024, 64, 8}, {"", OP_LAYER_NORM, TYPE_F32, MANY, DEPTH, DEPTH, 0},
    };
    enum { SHAPES = sizeof shapes / sizeof *shapes };
    double t[SHAPES], work[SHAPES];
    for (int i = 0; i < SHAPES; i++)
        t[i] = seconds_of(&shapes[i], k, pool, &work[i], st);
    if (!status_ok(st))
        return false;
    /* two lengths tell the multiplying, which grows with the tokens, from the decoding, which does not */
    out->integer = work[0] > work[1] && t[0] > t[1] ? (t[0] - t[1]) / (work[0] - work[1]) : t[0] / work[0];
    out->decode = (t[1] - out->integer * work[1]) / ((double)DEPTH * ROWS);
    out->decode = out->decode > 0 ? out->decode : 0;
    out->convolution = t[2] / work[2];
    out->single = t[3] / work[3];
    out->attention = t[4] / work[4];
    out->traffic = t[5] / ((double)MANY * DEPTH * 4);
    out->call = seconds_of_a_call(pool);
    return true;
}

/* ---- measured once ---- */

#define MAGIC "PENRATE1"
enum { WEEK = 7 * 24 * 3600 };

typedef struct kept_rates {
    int64_t program[2], when, threads;
    sustained rates;
} kept_rates;

static kept_rates rates_of_now(int count)
{
    kept_rates k = {.when = (int64_t)time(NULL), .threads = count};
    struct stat f;
    if (stat("/proc/self/exe", &f) == 0) {
        k.program[0] = (int64_t)f.st_size;
        k.program[1] = (int64_t)f.st_mtime;
    }
    return k;
}

/* The caller frees; NULL where there is no cache. */
static char *path_of_rates(const kernels *k, int count, bool f32)
{
    status ignored = STATUS_INIT;
    char *folder = paths_cache("rates", &ignored);
    char *path = folder ? mem_format(&ignored, "%s/%s-%d%s.rates", folder, k->name, count, f32 ? "-f32" : "") : NULL;
    mem_free(folder);
    return path;
}

static bool find_rates(const char *path, kept_rates *now)
{
    status why = STATUS_INIT;
    kept_rates k;
    state_file *f = path ? state_open(path, MAGIC, &why) : NULL;
    bool good = f && state_get(f, &k, sizeof k);
    good = f && state_close(f) && good;
    if (!good || memcmp(k.program, now->program, sizeof k.program) != 0 || k.threads != now->threads || now->when - k.when > WEEK || k.when > now->when)
        return false;
    *now = k;
    return true;
}

static void keep_rates(const char *path, kept_rates *k)
{
    status why = STATUS_INIT;
    state_file *f = path ? state_create(path, MAGIC, &why) : NULL;
    if (f) {
        state_put(f, k, sizeof *k);
        state_commit(f);
    }
}

bool sustained_rates(const kernels *k, threads *pool, bool f32, bool anew, sustained *out, status *st)
{
    char *path = path_of_rates(k, threads_count(pool), f32);
    kept_rates r = rates_of_now(threads_count(pool));
    if (anew || !find_rates(path, &r)) {
        if (measure(k, pool, f32, &r.rates, st))
            keep_rates(path, &r);
    }
    *out = r.rates;
    mem_free(path);
    return status_ok(st);
}

/* ---- a stage ---- */

/* Memory, threads, the small tensors: before a stage's first pass, and after its last (SPEED.md). */
static const double STAGE_SECONDS = 0.012;

static double pass_seconds(const sustained *s, const stage_report *g)
{
    uint64_t linear = g->integer_operations - g->convolution_operations, single = g->operations - g->integer_operations - g->attention_operations;
    double all = (double)g->integer_weights * s->decode + (double)linear * s->integer + (double)g->convolution_operations * s->convolution +
                 (double)single * s->single + (double)g->attention_operations * s->attention + (double)g->activation_bytes * s->traffic +
                 (double)g->calls * s->call;
    return g->passes ? all / g->passes : 0;
}

/* Threads that wait for each other where an op ends, and what no rate here knows: seven systems at their real sizes took 1.09 to 1.23 times what the rates said (SPEED.md). */
static const double WAITING = 1.12;
/* A ring of this size halves the disk's rate: its units are small then, and few are on their way. */
static const double HALF_RATE_RING = 1.0 * (1 << 20);

static double rate_into(double disk, uint64_t ring_bytes) { return ring_bytes ? disk * (double)ring_bytes / ((double)ring_bytes + HALF_RATE_RING) : disk; }

double predict_stage(const sustained *s, const stage_report *g, double disk)
{
    double compute = WAITING * pass_seconds(s, g), perhaps = disk > 0 ? 1 / rate_into(disk, g->ring_bytes) : 0;
    double first = (double)g->first_bytes * perhaps, rest = (double)(g->stream_bytes - g->first_bytes) * perhaps;
    double later = g->passes > 1 ? rest / (g->passes - 1) : 0, scratch = disk > 0 ? 2 * (double)g->map_bytes / disk : 0;
    if (g->stream_bytes == 0)
        return 0;      /* all prompts are in the cache */
    return STAGE_SECONDS + scratch + (compute > first ? compute : first) + (compute > later ? compute : later) * (g->passes - 1);
}

