#define _GNU_SOURCE
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

enum { MOST_THREADS = 256, STACK_BYTES = 256 * 1024 };

struct threads {
    int count;
    pthread_t id[MOST_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    _Atomic uint64_t round;    /* a new value: there is work */
    _Atomic int busy;
    int patience;              /* turns to look again before a thread goes to sleep */
    bool quit;
    task_fn fn;
    void *ctx;
    int64_t tasks;
    _Atomic int64_t next;
};

typedef struct start {
    threads *pool;
    int worker;
} start;

static void work(threads *t, int worker)
{
    for (int64_t i; (i = atomic_fetch_add(&t->next, 1)) < t->tasks;)
        t->fn(t->ctx, i, worker);
}

/* Waking a thread takes some 50 us on a virtual machine, as long as a small op: so who waits looks again for some 20 to 80 us first. Not where threads share
 * cores: there it would keep the other from its work. */
enum { PATIENCE = 2000 };

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

static void await_work(const threads *t, uint64_t seen)
{
    for (int i = 0; i < t->patience && atomic_load_explicit(&t->round, memory_order_acquire) == seen; i++)
        pause_briefly();
}

static void await_workers(const threads *t)
{
    for (int i = 0; i < t->patience && atomic_load_explicit(&t->busy, memory_order_acquire) > 0; i++)
        pause_briefly();
}

static void *worker_main(void *arg)
{
    start s = *(start *)arg;
    mem_free(arg);
    threads *t = s.pool;
    uint64_t seen = 0;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (t->round == seen && !t->quit)
            pthread_cond_wait(&t->wake, &t->lock);
        if (t->quit)
            break;
        seen = t->round;
        pthread_mutex_unlock(&t->lock);
        work(t, s.worker);
        pthread_mutex_lock(&t->lock);
        if (--t->busy == 0)
            pthread_cond_signal(&t->done);
        if (t->patience) {
            pthread_mutex_unlock(&t->lock);
            await_work(t, seen);
            pthread_mutex_lock(&t->lock);
        }
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static int usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : (int)n;
}

threads *threads_open(int count, status *st)
{
    threads *t = mem_alloc(1, sizeof *t, "threads", st);
    if (!t)
        return NULL;
    if (count <= 0)
        count = usable_cores();
    if (count > MOST_THREADS)
        count = MOST_THREADS;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    pthread_cond_init(&t->done, NULL);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    t->count = 1;
    while (t->count < count) {
        start *s = mem_alloc(1, sizeof *s, "threads", st);
        if (!s)
            break;
        *s = (start){t, t->count};
        if (pthread_create(&t->id[t->count], &attr, worker_main, s) != 0) {
            mem_free(s);
            break;             /* fewer threads than asked for still give the same result */
        }
        t->count++;
    }
    pthread_attr_destroy(&attr);
    t->patience = t->count > 1 && t->count <= usable_cores() ? PATIENCE : 0;
    if (!status_ok(st)) {
        threads_close(t);
        return NULL;
    }
    return t;
}

void threads_close(threads *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->quit = true;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    for (int i = 1; i < t->count; i++)
        pthread_join(t->id[i], NULL);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->wake);
    pthread_cond_destroy(&t->done);
    mem_free(t);
}

static double seconds_of(clockid_t clock)
{
    struct timespec t = {0, 0};
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double threads_seconds(const threads *t)
{
    double all = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    clockid_t clock;
    for (int i = 1; i < t->count; i++)
        if (pthread_getcpuclockid(t->id[i], &clock) == 0)
            all += seconds_of(clock);
    return all;
}

int threads_count(const threads *t) { return t->count; }

void threads_run(threads *t, int64_t tasks, task_fn fn, void *ctx)
{
    if (tasks <= 0)
        return;
    t->fn = fn;
    t->ctx = ctx;
    t->tasks = tasks;
    atomic_store(&t->next, 0);
    if (t->count == 1 || tasks == 1) {
        work(t, 0);
        return;
    }
    pthread_mutex_lock(&t->lock);
    t->busy = t->count - 1;
    t->round++;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    work(t, 0);
    await_workers(t);
    pthread_mutex_lock(&t->lock);
    while (t->busy > 0)
        pthread_cond_wait(&t->done, &t->lock);
    pthread_mutex_unlock(&t->lock);
}
