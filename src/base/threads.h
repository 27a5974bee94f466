/* threads.h: a pool that runs numbered tasks. Results never depend on which thread ran what. */
#ifndef PENSTOCK_THREADS_H
#define PENSTOCK_THREADS_H

#include <stdint.h>

#include "base/status.h"

typedef struct threads threads;

/* task: 0 .. tasks - 1; worker: 0 .. count - 1, for scratch of one's own. */
typedef void (*task_fn)(void *ctx, int64_t task, int worker);

threads *threads_open(int count, status *st); /* count <= 0: one a core that this process may use */
void threads_close(threads *t);
int threads_count(const threads *t);
/* Processor time that the pool's threads have had, the caller's included, in seconds. By thread: what CLOCK_PROCESS_CPUTIME_ID says of a thread that runs on another
 * core is as old as that core's last tick, 4 ms or more. */
double threads_seconds(const threads *t);
/* Runs all tasks and returns when they are done; the caller's thread works too (it is worker 0). */
void threads_run(threads *t, int64_t tasks, task_fn fn, void *ctx);

#endif
