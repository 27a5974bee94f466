#include "tools/progress.h"

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
    duration(now - p->began, past, sizeof past);
    duration(p->done > 0 ? (now - p->began) / p->done * (p->total - p->done) : 0, left, sizeof left);
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

void progress_show(void *ctx, const char *stage, int done, int total)
{
    progress *p = ctx;
    double now = seconds_now();
    if (strcmp(stage, p->stage) != 0) {
        finish(p, now);
        snprintf(p->stage, sizeof p->stage, "%s", stage);
        p->began = p->shown = now;
        p->done = done;
        p->total = total;
        if (p->terminal && !p->quiet)
            bar(p, now);
        return;
    }
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

void progress_end(progress *p)
{
    finish(p, seconds_now());
    *p->stage = 0;
}
