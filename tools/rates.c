#define _GNU_SOURCE
#include "tools/rates.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "tools/progress.h"
#include "weights/scratch.h"

const char *const bound_names[BOUNDS] = {"int8", "f32", "bf16", "read", "copy", "update"};

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

lap lap_now(const threads *pool) { return (lap){seconds_now(), threads_seconds(pool)}; }

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
    struct worker_time { _Alignas(64) double round[ROUNDS]; int rounds; } *done; /* by task, no two in one cache line */
};

static void task_run(void *ctx, int64_t task, int worker)
{
    const everywhere *e = ctx;
    struct worker_time *d = &e->done[task];
    (void)worker;
    for (double took = 0; d->rounds < ROUNDS && (took < e->seconds || d->rounds == 0);) {
        double began = seconds_of(CLOCK_THREAD_CPUTIME_ID), n = e->once(e, task), t = seconds_of(CLOCK_THREAD_CPUTIME_ID) - began;
        took += t;
        d->round[d->rounds++] = t / n; /* of a unit */
    }
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double lower_quartile(double *seconds, int count)
{
    qsort(seconds, (size_t)count, sizeof *seconds, by_size);
    return seconds[count / 4];
}

/* The middle of the densest quarter: a loop on registers takes always the same time, when it is left alone. */
static double densest(double *seconds, int count)
{
    double quartile = lower_quartile(seconds, count);
    int window = count / 4, best = 0;
    for (int i = 1; i + window < count; i++)
        if (seconds[i + window] - seconds[i] < seconds[best + window] - seconds[best])
            best = i;
    return window < 2 ? quartile : seconds[best + window / 2];
}

/* Billions of units a second. */
static double run_everywhere(everywhere *e, threads *pool, double (*typical)(double *seconds, int count), status *st)
{
    int n = threads_count(pool);
    double rate = 0;
    e->done = mem_alloc((size_t)n, sizeof *e->done, "bench", st);
    if (!e->done)
        return 0;
    threads_run(pool, n, task_run, e);
    for (int i = 0; i < n; i++) {
        double unit = typical(e->done[i].round, e->done[i].rounds);
        rate += unit > 0 ? 1e-9 / unit : 0;
    }
    mem_free(e->done);
    return rate;
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
    return run_everywhere(&e, pool, densest, st);
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
    double rate = run_everywhere(&e, pool, lower_quartile, st);
    mem_unmap(e.memory, bytes);
    return rate;
}

/* ---- disk ---- */

enum { READ_MEMORY = 32 << 20 }; /* more than a cache holds, as a ring */

typedef struct disk_job {
    io *file;
    uint8_t *memory;
    size_t piece;
    double until;
    _Atomic uint64_t next, bytes;
} disk_job;

static void read_pieces(void *ctx, int64_t task, int worker)
{
    disk_job *j = ctx;
    uint64_t pieces = (io_size(j->file) + j->piece - 1) / j->piece, places = READ_MEMORY / j->piece;
    (void)task, (void)worker;
    while (seconds_now() < j->until) {
        uint64_t piece = atomic_fetch_add(&j->next, 1);
        status st = STATUS_INIT;
        size_t got = 0;
        if (!io_read_direct(j->file, piece % pieces * j->piece, j->memory + piece % places * j->piece, j->piece, &got, &st))
            break;
        atomic_fetch_add(&j->bytes, got);
    }
}

double rate_disk(io *file, size_t piece, int readers, bool huge_pages, double seconds, status *st)
{
    disk_job j = {.file = file, .piece = piece, .memory = huge_pages ? mem_map_huge(READ_MEMORY, "bench", st) : mem_map(READ_MEMORY, "bench", st)};
    threads *pool = j.memory ? threads_open(readers, st) : NULL;
    double began = seconds_now();
    if (pool && io_size(file) > 0) {
        mem_touch(j.memory, READ_MEMORY);
        began = seconds_now();
        j.until = began + seconds;
        threads_run(pool, readers, read_pieces, &j);
    }
    double took = seconds_now() - began;
    threads_close(pool);
    mem_unmap(j.memory, READ_MEMORY);
    return took > 0 ? (double)j.bytes / took / 1e9 : 0;
}

double rate_scratch(const char *folder, size_t piece, double seconds, status *st)
{
    enum { MOST = 2 << 20, PLACES = 16 };
    scratch_file *f = scratch_open(folder, (uint64_t)MOST * PLACES, 0, st);
    char *memory = f ? mem_map_huge(2 * MOST, "bench", st) : NULL;
    double began = seconds_now(), bytes = 0;
    if (memory)
        memset(memory, 1, 2 * MOST);
    uint64_t before = 0;
    for (uint64_t i = 0; memory && status_ok(st) && (i < PLACES || seconds_now() - began < seconds); i++) {
        uint64_t at = i * piece % ((uint64_t)MOST * PLACES);
        scratch_write(f, at, memory, piece);
        uint64_t asked = scratch_read(f, at, memory + MOST, piece); /* an op waits for one band while the next is on its way */
        if (before)
            scratch_wait(f, before, st);
        before = asked;
        bytes += 2 * (double)piece;
    }
    scratch_close(f);
    double took = seconds_now() - began;
    mem_unmap(memory, 2 * MOST);
    return took > 0 ? bytes / took / 1e9 : 0;
}

/* ---- sleep ---- */

typedef struct sleeper {
    pthread_mutex_t lock;
    pthread_cond_t news;
    int told, left;
    double when, late;        /* late: seconds, all together */
} sleeper;

static void *sleep_until_told(void *ctx)
{
    sleeper *s = ctx;
    pthread_mutex_lock(&s->lock);
    for (; s->left > 0; s->left--) {
        while (!s->told)
            pthread_cond_wait(&s->news, &s->lock);
        s->late += seconds_now() - s->when;
        s->told = 0;
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

double seconds_to_wake(status *st)
{
    enum { TIMES = 50 };
    sleeper s = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, TIMES, 0, 0};
    pthread_t other;
    if (pthread_create(&other, NULL, sleep_until_told, &s) != 0)
        return status_set(st, STATUS_FAILED, "cannot start a thread"), 0;
    for (int left = TIMES; left > 0;) {
        nanosleep(&(struct timespec){0, 300000}, NULL);
        pthread_mutex_lock(&s.lock);
        left = s.left;
        s.told = left > 0;
        s.when = seconds_now();
        pthread_cond_signal(&s.news);
        pthread_mutex_unlock(&s.lock);
    }
    pthread_join(other, NULL);
    return s.late / TIMES;
}
