#define _GNU_SOURCE /* st_mtim */
#include "tools/predict.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <xxhash.h>

#include "base/mem.h"
#include "base/paths.h"
#include "compute/op_matrix.h"
#include "tools/op_rate.h"
#include "tools/progress.h"
#include "weights/state_file.h"

/* Seconds of one call on all threads, by the processor time that they got. */
static double seconds_of(const op_shape *shape, const kernels *k, threads *pool, double *work, status *st)
{
    op_rate r = {.work = 1}; /* a product or attention: no bound of memory */
    op_measure(shape, k, pool, 0.06, rate_of_set(k, (peak_kind)op_bound(shape, k), pool, 0.005, st), &r, st);
    *work = r.work;
    return r.took.cpu / threads_count(pool);
}

static double weights_of(const op_shape *s) { return (double)s->in * s->out * (s->op == OP_CONV ? 9 : 1); }

/* Two sizes tell the multiplying, which grows with the tokens, from the decoding, which does not: t = weights w + operations o. */
static product_rate product_of(const op_shape few, const op_shape many, const kernels *k, threads *pool, status *st)
{
    double work[2] = {1, 1}, t[2] = {seconds_of(&few, k, pool, &work[0], st), seconds_of(&many, k, pool, &work[1], st)}, w[2] = {weights_of(&few), weights_of(&many)};
    double d = w[0] * work[1] - w[1] * work[0], each = (t[0] * work[1] - t[1] * work[0]) / d, operation = (w[0] * t[1] - w[1] * t[0]) / d;
    if (each < 0 || operation <= 0)
        return (product_rate){0, t[1] / work[1]};
    return (product_rate){each, operation};
}

enum { DEPTH = 4096, ROWS = 10240, MANY = 256, FEW = 16 }; /* more weights than most caches hold, as in a network */

static op_shape linear_shape(weight_type type, int tokens, int shrink)
{
    return (op_shape){"", OP_LINEAR, type, tokens, DEPTH / shrink, ROWS / shrink, 0};
}

/* A byte of new memory. */
static double seconds_to_touch(status *st)
{
    enum { BYTES = 32 << 20 };
    void *p = mem_map_huge(BYTES, "bench", st);
    double began = seconds_now();
    if (p)
        mem_touch(p, BYTES);
    double took = seconds_now() - began;
    mem_unmap(p, BYTES);
    return took / BYTES;
}

/* A byte of a checksum. */
static double seconds_to_check(status *st)
{
    enum { BYTES = 8 << 20 };
    void *p = mem_map_huge(BYTES, "bench", st);
    if (p)
        memset(p, 1, BYTES);
    double began = seconds_now();
    volatile uint64_t sum = p ? XXH3_64bits(p, BYTES) : 0;
    (void)sum;
    double took = seconds_now() - began;
    mem_unmap(p, BYTES);
    return took / BYTES;
}

/* A wide one and a narrow one tell the multiplying from finding the rows of the input. */
static void fit_convolution(machine_rates *m, const kernels *k, threads *pool, status *st)
{
    enum { SIDE = 64 };
    static const int channels[2] = {320, 64};
    double t[2], operations[2], rows[2];
    for (int i = 0; i < 2; i++) {
        int c = channels[i];
        double pixels;
        t[i] = seconds_of(&(op_shape){"", OP_CONV, TYPE_Q8, SIDE, c, c, 0}, k, pool, &operations[i], st);
        pixels = operations[i] / (2.0 * 9 * c * c);
        t[i] -= pixels * 8 * c * m->traffic;
        rows[i] = pixels * 9 * c / product_group_rows(&(matrix_shape){c, 9, c}, true);
    }
    m->convolution = (t[0] * rows[1] - t[1] * rows[0]) / (operations[0] * rows[1] - operations[1] * rows[0]);
    m->tap = fmax(0, (t[1] - m->convolution * operations[1]) / rows[1]);
}

static bool measure(const kernels *k, threads *pool, bool f32, machine_rates *out, status *st)
{
    static const weight_type type[PRODUCT_KINDS] = {TYPE_Q4, TYPE_Q8, TYPE_F16, TYPE_F32};
    *out = (machine_rates){.wake = seconds_to_wake(st), .threads = threads_count(pool)};
    for (int i = 0; i < PRODUCT_KINDS; i++)
        out->product[i] = product_of(linear_shape(type[i], FEW, i < PRODUCT_HALF ? 1 : 2), linear_shape(type[i], MANY, i < PRODUCT_HALF ? 1 : 2), k, pool, st);
    double work;
    const op_shape attention = {"", OP_ATTENTION, f32 ? TYPE_F32 : TYPE_Q8, 1024, 1024, 64, 8},
                   layer = {"", OP_LAYER_NORM, TYPE_F32, MANY, DEPTH, DEPTH, 0};
    out->attention = seconds_of(&attention, k, pool, &work, st) / work;
    out->traffic = seconds_of(&layer, k, pool, &work, st) / ((double)MANY * DEPTH * 4);
    fit_convolution(out, k, pool, st);
    op_rate small = {.work = 1};
    op_measure(&(op_shape){"", OP_LINEAR, TYPE_Q8, 4, 64, 64, 0}, k, pool, 0.02, 0, &small, st);
    out->call = small.took.wall;
    out->touch = seconds_to_touch(st);
    out->check = seconds_to_check(st) / threads_count(pool);
    return status_ok(st);
}

/* ---- measured once ---- */

#define MAGIC "PENRATE2"
enum { WEEK = 7 * 24 * 3600 };

typedef struct kept_rates {
    int64_t program[2], when, threads;
    machine_rates rates;
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

bool rates_of_computing(const kernels *k, threads *pool, bool f32, bool anew, machine_rates *out, status *st)
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

/* ---- the disk ---- */

/* Of one, as they come: asked for together, read one by one. */
static double seconds_of_small_reads(io *file, status *st)
{
    enum { BYTES = 3 << 10, READS = 64 };
    char memory[BYTES];
    uint64_t size = io_size(file), at = size / 3 / IO_ALIGN * IO_ALIGN;
    if (size < at + BYTES * READS)
        return 0;
    double began = seconds_now();
    io_ahead(file, at, BYTES * READS);
    for (int i = 0; i < READS && status_ok(st); i++)
        io_read(file, at + (uint64_t)i * BYTES, memory, BYTES, st);
    return (seconds_now() - began) / READS;
}

static double beyond(double seconds, double bytes, double byte) { return fmax(0, seconds - bytes * byte); }

/* A large request and a small one, seconds each: those of a byte, and what each request takes besides. */
static void fit_requests(double large, double large_bytes, double small, double small_bytes, double *request, double *byte)
{
    *byte = large > small ? (large - small) / (large_bytes - small_bytes) : large / large_bytes;
    *request = beyond(small, small_bytes, *byte);
}

bool rates_of_reading(io *file, machine_rates *out, status *st)
{
    enum { LARGE = 1 << 20, SMALL = 64 << 10 };
    static const double SECONDS = 0.1;
    double large = LARGE / (1e9 * rate_disk(file, LARGE, MOST_READERS, true, SECONDS, st)), small = SMALL / (1e9 * rate_disk(file, SMALL, MOST_READERS, true, SECONDS, st));
    double alone = SMALL / (1e9 * rate_disk(file, SMALL, 1, true, SECONDS, st)), pages = LARGE / (1e9 * rate_disk(file, LARGE, MOST_READERS, false, SECONDS, st));
    if (!status_ok(st) || !isfinite(large + small + alone + pages))
        return status_ok(st);
    fit_requests(large, LARGE, small, SMALL, &out->read_request, &out->read_byte);
    out->read_alone = beyond(alone, SMALL, out->read_byte);
    out->read_vector = seconds_of_small_reads(file, st);
    out->read_byte_small = pages > out->read_request ? (pages - out->read_request) / LARGE : out->read_byte;
    return true;
}

bool rates_of_scratch(const char *folder, machine_rates *out, status *st)
{
    enum { LARGE = 2 << 20, SMALL = 32 << 10 };
    static const double SECONDS = 0.15;
    double large = LARGE / (1e9 * rate_scratch(folder, LARGE, SECONDS, st)), small = SMALL / (1e9 * rate_scratch(folder, SMALL, SECONDS, st));
    if (!status_ok(st))
        return false;
    fit_requests(large, LARGE, small, SMALL, &out->scratch_request, &out->scratch_byte);
    return true;
}
