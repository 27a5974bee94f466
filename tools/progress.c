#include "tools/progress.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void progress_start(progress *p, bool quiet)
{
    const char *term = getenv("TERM");
    *p = (progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0};
}

static void duration(double seconds, char *out, size_t room)
{
    long s = (long)(seconds + 0.5);
    if (seconds < 10)
        snprintf(out, room, "%.1f s", seconds);
    else if (s < 120)
        snprintf(out, room, "%ld s", s);
    else if (s < 7200)
        snprintf(out, room, "%ld min %02ld s", s / 60, s % 60);
    else
        snprintf(out, room, "%ld h %02ld min", s / 3600, s / 60 % 60);
}

static int columns(void)
{
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 20 ? w.ws_col : 80;
}

/* "12 s, 30 s left": what is left is guessed from the steps done, the first (which waits for the disk) included. */
static void times(const progress *p, double now, char *out, size_t room)
{
    char past[32], left[32];
    double ahead = p->done > 0 ? (p->stepped - p->began) / p->done * (p->total - p->done) - (now - p->stepped) : 0;
    duration(now - p->began, past, sizeof past);
    duration(ahead > 0 ? ahead : 0, left, sizeof left);
    if (p->done > 0 && p->done < p->total)
        snprintf(out, room, "%s, %s left", past, left);
    else
        snprintf(out, room, "%s", past);
}

static void bar(progress *p, double now)
{
    char text[80], count[32] = "", cells[41] = "";
    times(p, now, text, sizeof text);
    if (p->total > 0)
        snprintf(count, sizeof count, "%d/%d", p->done, p->total);
    int stage = (int)strlen(p->stage), room = columns() - 40 - (stage > 8 ? stage : 8), width = room < 40 ? room : 40;
    if (p->total > 0 && width >= 5) {
        int full = (int)((double)width * p->done / p->total);
        for (int i = 0; i < width; i++)
            cells[i] = i < full ? '=' : i == full ? '>' : ' ';
        cells[width] = 0;
    }
    char line[200];
    snprintf(line, sizeof line, "%-8s %s%s%s %s %s", p->stage, *cells ? "[" : "", cells, *cells ? "]" : "", count, text);
    fprintf(stderr, "\r%.*s\033[K", columns() - 1, line);
    p->drawn = true;
}

static void plain(const progress *p, double now)
{
    char text[80];
    times(p, now, text, sizeof text);
    if (p->total > 1)
        fprintf(stderr, "%s %d/%d (%s)\n", p->stage, p->done, p->total, text);
    else
        fprintf(stderr, "%s (%s)\n", p->stage, text);
}

/* The last word on a stage, left standing. */
static void finish(progress *p, double now)
{
    if (!*p->stage || p->quiet)
        return;
    if (p->terminal) {
        bar(p, now);
        fputc('\n', stderr);
        p->drawn = false;
    } else
        plain(p, now);
}

/* ---- the clock: a step of a large model takes half a minute, and a bar that stands still looks like a program that hangs ---- */

static void *tick(void *ctx)
{
    progress *p = ctx;
    pthread_mutex_lock(&p->lock);
    while (p->ticking) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 1;
        pthread_cond_timedwait(&p->wake, &p->lock, &until);
        double now = seconds_now();
        if (p->ticking && *p->stage && now - p->shown > 0.9) {
            p->shown = now;
            bar(p, now);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Without it there is a bar all the same. Signals are the main thread's. */
static void start_clock(progress *p)
{
    pthread_attr_t a;
    sigset_t all, before;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 128 << 10);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    p->ticking = true;
    if (pthread_create(&p->clock, &a, tick, p) != 0)
        p->ticking = false;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&a);
}

static void stop_clock(progress *p)
{
    pthread_mutex_lock(&p->lock);
    p->ticking = false;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->clock, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
}

static void show(progress *p, const char *stage, int done, int total)
{
    double now = seconds_now();
    if (strcmp(stage, p->stage) != 0) {
        finish(p, now);
        snprintf(p->stage, sizeof p->stage, "%s", stage);
        p->began = p->stepped = p->shown = now;
        p->done = done;
        p->total = total;
        if (p->terminal && !p->quiet)
            bar(p, now);
        return;
    }
    if (done != p->done)
        p->stepped = now;
    p->done = done;
    p->total = total;
    double pause = p->terminal ? 0.1 : 5;   /* a log wants few lines, an eye wants many */
    if (p->quiet || now - p->shown < pause)
        return;
    p->shown = now;
    if (p->terminal)
        bar(p, now);
    else
        plain(p, now);
}

void progress_show(void *ctx, const char *stage, int done, int total)
{
    progress *p = ctx;
    if (p->terminal && !p->quiet && !p->ticking)
        start_clock(p);
    if (p->ticking)
        pthread_mutex_lock(&p->lock);
    show(p, stage, done, total);
    if (p->ticking)
        pthread_mutex_unlock(&p->lock);
}

void progress_end(progress *p)
{
    if (p->ticking)
        stop_clock(p);
    finish(p, seconds_now());
    *p->stage = 0;
}
