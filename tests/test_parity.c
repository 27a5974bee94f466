/* test_parity.c: runs `penstock generate` on the tiny models of fixtures/pixart, sd and compares its trace with diffusers', tensor by tensor.
 *
 *     test_parity [-k WORD]... [-v] [--strict] [--keep] [BINARY] FIXTURES [-- MORE OPTIONS FOR generate]
 *
 * BINARY: default $PENSTOCK. -k WORD: only cases whose name or model contains it (any of several). -v: every tensor's figure.
 * --strict: a tenth of the allowed deviation (an eighth for pictures); correct programs stay far below, and GELU's two forms,
 * say, differ by no more in places. --keep: leave the working folder. What follows `--` is added to every command (`-- --memory-budget 8M -t 2`).
 * The fixtures' form is described in fixtures/make_pixart.py. Exit status 1 when a case failed. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "safetensors_lite.h"

enum { MOST_ARGUMENTS = 96, SECONDS = 300, FILES_GIVEN = 4 };

static double text_limit = 1e-4, latents_limit = 2e-4, image_limit = 2.0 / 255;

typedef struct options {
    const char *binary, *fixtures;
    char **words, **more; /* -k; after -- */
    int word_count, more_count;
    bool verbose, keep;
    char folder[256];     /* where the child works */
} options;

typedef struct worst {
    double text, latents, image;
    int latents_at, failures;
} worst;

typedef struct test_case {
    char *name, *model, *arguments[MOST_ARGUMENTS];
    int count;
} test_case;

/* Comparing --------------------------------------------------------------------------------------------------------- */

static double relative(double difference2, double expected2)
{
    return expected2 > 0 ? sqrt(difference2 / expected2) : sqrt(difference2);
}

static void describe(char *out, size_t size, const lite_tensor *t)
{
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < t->rank && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%lld", i ? "x" : "", (long long)t->shape[i]);
}

static bool same_shape(const lite_tensor *a, const lite_tensor *b)
{
    return a->rank == b->rank && memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

/* The worst place is named, so that a wrong channel or border can be seen. */
static double compare_image(const lite_tensor *got, const lite_tensor *want, size_t *place)
{
    double most = 0;
    for (size_t i = 0; i < want->count; i++) {
        double g = got->values[i], d = fabs((g < -1 ? -1 : g > 1 ? 1 : g) - (double)want->values[i]);
        if (!(d <= most)) {
            most = d;
            *place = i;
            if (isnan(d))
                break;
        }
    }
    return most;
}

static double compare_all(const lite_tensor *got, const lite_tensor *want)
{
    double difference2 = 0, expected2 = 0;
    for (size_t i = 0; i < want->count; i++) {
        double w = want->values[i], d = got->values[i] - w;
        difference2 += d * d;
        expected2 += w * w;
    }
    return relative(difference2, expected2);
}

static void note(double *greatest, double d)
{
    if (!isnan(*greatest) && !(d <= *greatest))
        *greatest = d;
}

/* Tokens that the mask hides may differ or lack; a batch may repeat each half. Returns -1 when the shapes do not fit. */
static double compare_text(const lite_tensor *got, const lite_tensor *want, const lite_tensor *mask)
{
    if (got->rank != 3 || want->rank != 3 || got->shape[2] != want->shape[2] || got->shape[0] % want->shape[0])
        return -1;
    int64_t repeats = got->shape[0] / want->shape[0], tokens = want->shape[1], dim = want->shape[2];
    double greatest = 0;
    for (int64_t row = 0; row < got->shape[0]; row++) {
        double difference2 = 0, expected2 = 0;
        for (int64_t token = 0; token < tokens; token++) {
            if (mask->values[row / repeats * tokens + token] == 0)
                continue;
            if (token >= got->shape[1])
                return -1;
            const float *g = got->values + (row * got->shape[1] + token) * dim;
            const float *w = want->values + (row / repeats * tokens + token) * dim;
            for (int64_t i = 0; i < dim; i++) {
                difference2 += ((double)g[i] - (double)w[i]) * ((double)g[i] - (double)w[i]);
                expected2 += (double)w[i] * (double)w[i];
            }
        }
        double d = relative(difference2, expected2);
        note(&greatest, d);
    }
    return greatest;
}

/* A row a prompt; a batch may repeat each half. */
static double compare_pooled(const lite_tensor *got, const lite_tensor *want)
{
    if (got->rank != 2 || want->rank != 2 || got->shape[1] != want->shape[1] || got->shape[0] % want->shape[0])
        return -1;
    int64_t repeats = got->shape[0] / want->shape[0], dim = want->shape[1];
    double difference2 = 0, expected2 = 0;
    for (int64_t i = 0; i < got->shape[0] * dim; i++) {
        double w = want->values[i / dim / repeats * dim + i % dim], d = got->values[i] - w;
        difference2 += d * d;
        expected2 += w * w;
    }
    return relative(difference2, expected2);
}

static void compare_one(const options *o, const char *name, const lite_tensor *got, const lite_tensor *want, const lite_file *expected, worst *w)
{
    char a[80], b[80], where[800] = "";
    double d, limit;
    describe(b, sizeof b, want);
    if (!got) {
        printf("  %s: %s is not in the trace (%s expected)\n", name, want->name, b);
        w->failures++;
        return;
    }
    describe(a, sizeof a, got);
    bool further = strncmp(want->name, "refiner.", 8) == 0 || strncmp(want->name, "stage", 5) == 0;
    const char *own = further ? strchr(want->name, '.') + 1 : want->name;
    bool is_text = strncmp(own, "text.", 5) == 0, is_image = strcmp(own, "image") == 0;
    if (is_text) {
        char mask[80];
        snprintf(mask, sizeof mask, "%.*smask.%.50s", (int)(own - want->name), want->name, own + 5);
        d = strstr(own, ".pooled") ? compare_pooled(got, want) : compare_text(got, want, lite_find(expected, mask));
        limit = text_limit;
    } else {
        size_t place = 0;
        d = !same_shape(got, want) ? -1 : is_image ? compare_image(got, want, &place) : compare_all(got, want);
        limit = is_image ? image_limit : latents_limit;
        if (is_image && d > limit) {
            size_t columns = (size_t)want->shape[3], rows = (size_t)want->shape[2];
            snprintf(where, sizeof where, ", worst in picture %zu channel %zu row %zu column %zu: %.5f, wanted %.5f", place / columns / rows / 3,
                     place / columns / rows % 3, place / columns % rows, place % columns, (double)got->values[place], (double)want->values[place]);
        }
    }
    if (d == -1) {
        printf("  %s: %s is %s, %s expected\n", name, want->name, a, b);
        w->failures++;
        return;
    }
    if (!(d <= limit)) {
        printf("  %s: %s [%s] differs by %.3g, at most %.3g allowed%s\n", name, want->name, b, d, limit, where);
        w->failures++;
    } else if (o->verbose) {
        printf("  %s: %s [%s] differs by %.3g\n", name, want->name, b, d);
    }
    if (!is_text && !is_image && !isnan(w->latents) && !(d <= w->latents))
        w->latents_at = atoi(strrchr(want->name, '.') + 1);
    note(is_text ? &w->text : is_image ? &w->image : &w->latents, d);
}

/* Running ----------------------------------------------------------------------------------------------------------- */

static void join(char *out, size_t size, const char *a, const char *b, const char *c, const char *d)
{
    if ((size_t)snprintf(out, size, "%s%s%s%s", a, b, c, d) >= size) {
        fprintf(stderr, "test_parity: a path is too long\n");
        exit(2);
    }
}

static const char *given(char path[1200], const char *folder, const char *name)
{
    join(path, 1200, folder, "/", name, "");
    return path;
}

/* Returns the exit status, or 128 and the signal. Output goes to files in the folder. */
static int run(const options *o, const test_case *c)
{
    char model[1200], trace[320], picture[320], errors[320], output[320], files[FILES_GIVEN][1200];
    const char *v[MOST_ARGUMENTS * 2];
    int n = 0, file = 0;
    join(model, sizeof model, o->fixtures, "/models/", c->model, "");
    join(trace, sizeof trace, o->folder, "/trace.safetensors", "", "");
    join(picture, sizeof picture, o->folder, "/out.png", "", "");
    join(errors, sizeof errors, o->folder, "/stderr", "", "");
    join(output, sizeof output, o->folder, "/stdout", "", "");
    const char *fixed[] = {o->binary, "generate", "-m", model, "--precision", "f32", "--trace", trace, "-o", picture, "-q", "--no-cache"};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        v[n++] = fixed[i];
    for (int i = 0; i < c->count; i++) {
        v[n++] = c->arguments[i];
        if (c->arguments[i][0] == '@') /* a file among the fixtures */
            v[n - 1] = given(files[file++ % FILES_GIVEN], o->fixtures, c->arguments[i] + 1);
    }
    for (int i = 0; i < o->more_count && n < MOST_ARGUMENTS * 2 - 1; i++)
        v[n++] = o->more[i];
    v[n] = NULL;
    fflush(stdout);
    pid_t child = fork();
    if (child < 0)
        return 255;
    if (child == 0) {
        int out = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600), err = open(errors, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (out < 0 || err < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
            _exit(126);
        alarm(SECONDS); /* stays across exec */
        execv(o->binary, (char *const *)v);
        fprintf(stderr, "%s: %s\n", o->binary, strerror(errno));
        _exit(127);
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return 255;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void empty_folder(const char *folder)
{
    DIR *d = opendir(folder);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        char path[1024];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        join(path, sizeof path, folder, "/", e->d_name, "");
        remove(path);
    }
    if (d)
        closedir(d);
}

static void print_errors(const options *o, const char *name, int status)
{
    char path[320], line[400] = "";
    join(path, sizeof path, o->folder, "/stderr", "", "");
    FILE *f = fopen(path, "r");
    if (!f || !fgets(line, sizeof line, f))
        snprintf(line, sizeof line, "(nothing on stderr)");
    line[strcspn(line, "\n")] = 0;
    if (f)
        fclose(f);
    if (status >= 128 && status != 255)
        printf("  %s: penstock died of signal %d (%s): %s\n", name, status - 128, strsignal(status - 128), line);
    else
        printf("  %s: penstock returned %d: %s\n", name, status, line);
}

static int pictures(const test_case *c)
{
    int n = 1;
    for (int i = 0; i + 1 < c->count; i++)
        if (strcmp(c->arguments[i], "-b") == 0)
            n = atoi(c->arguments[i + 1]);
    return n;
}

static void check_pictures(const options *o, const test_case *c, worst *w)
{
    for (int i = 1; i <= pictures(c); i++) {
        char number[16] = "", path[320];
        struct stat s;
        if (i > 1)
            snprintf(number, sizeof number, "_%d", i);
        join(path, sizeof path, o->folder, "/out", number, ".png");
        if (stat(path, &s) != 0 || s.st_size < 60) {
            printf("  %s: out%s.png was not written\n", c->name, number);
            w->failures++;
        }
    }
}

static bool run_case(const options *o, const test_case *c)
{
    worst w = {0};
    char path[1200], trace[320];
    lite_file expected = {0}, got = {0};
    empty_folder(o->folder);
    join(path, sizeof path, o->fixtures, "/expected/", c->name, ".safetensors");
    join(trace, sizeof trace, o->folder, "/trace.safetensors", "", "");
    int status = run(o, c);
    if (status) {
        print_errors(o, c->name, status);
        w.failures++;
    } else if (lite_open(&expected, path)) {
        printf("  %s: %s: %s\n", c->name, path, expected.error);
        w.failures++;
    } else if (lite_open(&got, trace)) {
        printf("  %s: trace: %s\n", c->name, got.error);
        w.failures++;
    } else {
        for (size_t i = 0; i < expected.count; i++)
            if (!strstr(expected.tensors[i].name, "mask."))
                compare_one(o, c->name, lite_find(&got, expected.tensors[i].name), &expected.tensors[i], &expected, &w);
        check_pictures(o, c, &w);
    }
    if (status)
        printf("%-20s %-12s %10s %10s %4s %10s  FAILED\n", c->name, c->model, "-", "-", "", "-");
    else
        printf("%-20s %-12s %10.2e %10.2e %4d %10.2e  %s\n", c->name, c->model, w.text, w.latents, w.latents_at, w.image,
               w.failures ? "FAILED" : "ok");
    fflush(stdout);
    lite_close(&expected);
    lite_close(&got);
    return w.failures == 0;
}

/* Cases ------------------------------------------------------------------------------------------------------------- */

static void unescape(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (*s == '\\' && s[1]) {
            s++;
            *to++ = *s == 'n' ? '\n' : *s == 't' ? '\t' : *s == 'r' ? '\r' : *s;
        } else {
            *to++ = *s;
        }
    }
    *to = 0;
}

static bool read_case(char *line, test_case *c)
{
    *c = (test_case){0};
    line[strcspn(line, "\n")] = 0;
    for (int i = 0; line; i++) {
        char *next = strchr(line, '\t');
        if (next)
            *next++ = 0;
        unescape(line);
        if (i == 0)
            c->name = line;
        else if (i == 1)
            c->model = line;
        else if (c->count < MOST_ARGUMENTS - 16)
            c->arguments[c->count++] = line;
        line = next;
    }
    return c->name && *c->name && c->model;
}

static bool wanted(const options *o, const test_case *c)
{
    for (int i = 0; i < o->word_count; i++)
        if (strstr(c->name, o->words[i]) || strstr(c->model, o->words[i]))
            return true;
    return o->word_count == 0;
}

static int run_cases(const options *o)
{
    char path[1200], *line = NULL;
    size_t room = 0;
    int passed = 0, failed = 0;
    join(path, sizeof path, o->fixtures, "/cases.tsv", "", "");
    FILE *f = fopen(path, "r");
    if (!f) {
        fprintf(stderr, "test_parity: %s: %s\n", path, strerror(errno));
        return 2;
    }
    printf("%-20s %-12s %10s %10s %4s %10s\n", "case", "model", "text", "latents", "at", "image");
    while (getline(&line, &room, f) > 0) {
        test_case c;
        if (!read_case(line, &c) || !wanted(o, &c))
            continue;
        if (run_case(o, &c))
            passed++;
        else
            failed++;
    }
    free(line);
    fclose(f);
    printf("%d passed, %d failed\n", passed, failed);
    return failed || passed == 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: test_parity [-k WORD]... [-v] [--strict] [--keep] [BINARY] FIXTURES [-- OPTIONS]\n");
    return 2;
}

int main(int argc, char **argv)
{
    const char *places[2];
    char *words[MOST_ARGUMENTS];
    int count = 0;
    options o = {.words = words};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            o.more = argv + i + 1;
            o.more_count = argc - i - 1;
            break;
        } else if (strcmp(argv[i], "-k") == 0 && i + 1 < argc && o.word_count < MOST_ARGUMENTS) {
            words[o.word_count++] = argv[++i];
        } else if (strcmp(argv[i], "-v") == 0) {
            o.verbose = true;
        } else if (strcmp(argv[i], "--keep") == 0) {
            o.keep = true;
        } else if (strcmp(argv[i], "--strict") == 0) {
            text_limit /= 10;
            latents_limit /= 10;
            image_limit /= 8;
        } else if (argv[i][0] == '-' || count == 2) {
            return usage();
        } else {
            places[count++] = argv[i];
        }
    }
    const char *from_environment = getenv("PENSTOCK");
    if (count == 0 || (count == 1 && !from_environment))
        return usage();
    o.binary = count == 2 ? places[0] : from_environment;
    o.fixtures = places[count - 1];
    const char *temporary = getenv("TMPDIR");
    join(o.folder, sizeof o.folder, temporary && *temporary && strlen(temporary) < 200 ? temporary : "/tmp", "/penstock-parity-XXXXXX", "", "");
    if (!mkdtemp(o.folder)) {
        fprintf(stderr, "test_parity: %s: %s\n", o.folder, strerror(errno));
        return 2;
    }
    int status = run_cases(&o);
    if (o.keep) {
        printf("the last case's files are in %s\n", o.folder);
    } else {
        empty_folder(o.folder);
        rmdir(o.folder);
    }
    return status;
}
