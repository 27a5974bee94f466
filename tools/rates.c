#define _GNU_SOURCE
#include "tools/rates.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "tools/progress.h"

const char *const bound_names[BOUNDS] = {"int8", "f32", "bf16", "read", "copy", "update"};

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

lap lap_now(void) { return (lap){seconds_now(), seconds_of(CLOCK_PROCESS_CPUTIME_ID)}; }

/* A cache line, in whatever registers the compiler has for it. */
typedef uint64_t vector __attribute__((vector_size(64)));

/* ---- on all threads at once ---- */

enum { ROUNDS = 64 };

typedef struct everywhere everywhere;
struct everywhere {
    double seconds;              /* of processor time, a thread */
    double (*once)(const everywhere *e, int64_t task); /* units of work */
    const peak *peak;
    vector *memory;              /* a piece a task */
    size_t vectors;
    struct worker_rate { _Alignas(64) double round[ROUNDS]; int rounds; } *done; /* by task, no two in one cache line */
};

static void task_run(void *ctx, int64_t task, int worker)
{
    const everywhere *e = ctx;
    struct worker_rate *d = &e->done[task];
    (void)worker;
    for (double took = 0; d->rounds < ROUNDS && (took < e->seconds || d->rounds == 0);) {
        double began = seconds_of(CLOCK_THREAD_CPUTIME_ID), n = e->once(e, task), t = seconds_of(CLOCK_THREAD_CPUTIME_ID) - began;
        took += t;
        d->round[d->rounds++] = t > 0 ? n / t : 0;
    }
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Billions of units a second. Where in the sorted rounds: 0.5 is the median, 1 the best. */
static double run_everywhere(everywhere *e, threads *pool, double where, status *st)
{
    int n = threads_count(pool);
    double rate = 0;
    e->done = mem_alloc((size_t)n, sizeof *e->done, "bench", st);
    if (!e->done)
        return 0;
    threads_run(pool, n, task_run, e);
    for (int i = 0; i < n; i++) {
        struct worker_rate *d = &e->done[i];
        qsort(d->round, (size_t)d->rounds, sizeof d->round[0], by_size);
        rate += d->round[(int)(where * (d->rounds - 1))];
    }
    mem_free(e->done);
    return rate / 1e9;
}

static double peak_once(const everywhere *e, int64_t task)
{
    enum { TURNS = 100000 };   /* some tenths of a millisecond */
    (void)task;
    e->peak->turns(TURNS);
    return TURNS * e->peak->operations;
}

double rate_peak(const peak *p, threads *pool, double seconds, status *st)
{
    everywhere e = {.seconds = seconds, .once = peak_once, .peak = p};
    return run_everywhere(&e, pool, 0.5, st); /* nothing disturbs it but the clock's own jumps, which go both ways */
}

double rate_of_set(const kernels *k, peak_kind kind, threads *pool, double seconds, status *st)
{
    const peak *p = peak_find(k->name, kind);
    return p ? rate_peak(p, pool, seconds, st) : 0;
}

/* ---- memory ---- */

static double read_once(const everywhere *e, int64_t task)
{
    const vector *p = e->memory + (size_t)task * e->vectors;
    vector sum = {0};
    for (size_t i = 0; i < e->vectors; i++)
        sum += p[i];
    static _Atomic uint64_t sink;   /* so that the sum is wanted */
    atomic_fetch_add(&sink, sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7]);
    return (double)e->vectors * sizeof *p;
}

/* From the first half of the piece to the second; no memcpy, which writes past the caches as no op does. */
static double copy_once(const everywhere *e, int64_t task)
{
    const vector *from = e->memory + (size_t)task * e->vectors;
    vector *to = e->memory + (size_t)task * e->vectors + e->vectors / 2;
    for (size_t i = 0; i < e->vectors / 2; i++)
        to[i] = from[i] + 1;
    return (double)e->vectors * sizeof *to;
}

static double update_once(const everywhere *e, int64_t task)
{
    vector *p = e->memory + (size_t)task * e->vectors;
    for (size_t i = 0; i < e->vectors; i++)
        p[i] += 1;
    return 2.0 * (double)e->vectors * sizeof *p;
}

double rate_memory(bound kind, threads *pool, double seconds, status *st)
{
    size_t vectors = (256u << 20) / sizeof(vector) / (size_t)threads_count(pool) / 2 * 2, bytes = vectors * sizeof(vector) * (size_t)threads_count(pool);
    everywhere e = {.seconds = seconds, .once = kind == BOUND_COPY ? copy_once : kind == BOUND_UPDATE ? update_once : read_once, .vectors = vectors};
    e.memory = mem_map(bytes, "bench", st);
    if (!e.memory)
        return 0;
    memset(e.memory, 1, bytes);   /* untouched pages are all the same one */
    double rate = run_everywhere(&e, pool, 1, st);
    mem_unmap(e.memory, bytes);
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
