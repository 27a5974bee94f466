/* progress.h: how far a run has come, on stderr: a bar on a terminal, now and then a plain line elsewhere. */
#ifndef PENSTOCK_PROGRESS_H
#define PENSTOCK_PROGRESS_H

#include <pthread.h>
#include <stdbool.h>

typedef struct progress {
    bool quiet, terminal, drawn; /* drawn: a bar stands on the terminal's line */
    char stage[32];
    int done, total;
    double began;    /* the stage */
    double stepped;  /* when `done` last grew */
    double shown;    /* when something was last written */
    pthread_t clock; /* on a terminal: draws the bar while a step takes long */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool ticking;
} progress;

/* Every start that was followed by a progress_show needs its progress_end. */
void progress_start(progress *p, bool quiet);
/* A progress_fn (models/pipeline.h) with the progress as ctx. */
void progress_show(void *p, const char *stage, int done, int total);
void progress_end(progress *p);

double seconds_now(void); /* a clock that only goes forward */

#endif
