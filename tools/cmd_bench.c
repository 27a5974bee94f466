/* bench: kernels, memory and disk of this machine. */
#include <stdio.h>
#include <string.h>

#include "tools/command.h"
#include "tools/rates.h"

static void add_rate(json_object *o, const char *key, double rate)
{
    char text[32];
    snprintf(text, sizeof text, "%.3f", rate);
    json_object_object_add(o, key, json_object_new_double_s(rate, text));
}

/* One set of kernels, a row of the output. */
static void bench_set(const options *o, const kernels *k, threads *pool, json_object *out, status *st)
{
    json_object *row = json_object_new_object();
    if (!o->json)
        printf("%-8s", k->name);
    for (int i = 0; i < RATES && status_ok(st); i++) {
        double rate = rate_kernel(i, k, pool, 0.15, st);
        add_rate(row, rate_table[i].name, rate);
        if (!o->json) {
            printf(" %12.4g", rate);
            fflush(stdout);
        }
    }
    if (!o->json)
        printf("\n");
    json_object_object_add(out, k->name, row);
}

static void bench_kernels(const options *o, threads *pool, json_object *out, status *st)
{
    const kernels *sets[16];
    int n = kernels_all(sets, 16);
    bool known;
    if (o->kernels) {
        sets[0] = kernels_by_name(o->kernels, &known);
        n = 1;
    }
    if (!o->json) {
        printf("%d thread%s\n%-8s", threads_count(pool), threads_count(pool) == 1 ? "" : "s", "");
        for (int i = 0; i < RATES; i++)
            printf(" %12s", rate_table[i].name);
        printf("\n%-8s", "");
        for (int i = 0; i < RATES; i++)
            printf(" %12s", rate_table[i].unit);
        printf("\n");
    }
    for (int i = n; i-- > 0 && status_ok(st); )   /* the best first */
        bench_set(o, sets[i], pool, out, st);
}

/* The files of a model, as long as it takes. */
static double bench_disk(const source *src, status *st)
{
    double best = 0;
    for (int i = 0; i < src->files && status_ok(st); i++) {
        double rate = rate_disk(src->file[i], 3, st);
        best = rate > best ? rate : best;
    }
    return best;
}

/* One step of a model, each stage beside what the matrix kernels could do in its time. */
static void bench_stages(const options *o, const source *src, const request *q, threads *pool, json_object *out, status *st)
{
    const kernels *k = kernels_best();
    bool known;
    peaks m;
    result r = {0};
    request one = *q;
    one.steps = 1;
    one.tokens = 32;
    if (!rate_peaks(o->kernels ? kernels_by_name(o->kernels, &known) : k, pool, &m, st) ||
        !pipeline_generate(src, &one, &r, st)) {
        result_free(&r);
        return;
    }
    json_object *stages = json_object_new_array();
    if (!o->json)
        printf("\n%dx%d, one step, 32 tokens\n%-20s %9s %12s %9s %10s\n", r.width, r.height, "stage", "seconds", "Gop", "Gop/s", "of peak");
    for (int i = 0; i < r.stages; i++) {
        const stage_report *g = &r.stage[i];
        double rate = g->seconds > 0 ? (double)g->operations / g->seconds / 1e9 : 0, share = rate / peak_of(&m, src, g->name, false);
        json_object *row = json_object_new_object();
        json_object_object_add(row, "name", json_object_new_string(g->name));
        json_object_object_add(row, "seconds", json_object_new_double(g->seconds));
        json_object_object_add(row, "operations", json_object_new_uint64(g->operations));
        json_object_object_add(row, "share_of_peak", json_object_new_double(share));
        json_object_array_add(stages, row);
        if (!o->json)
            printf("%-20s %9.2f %12.1f %9.1f %9.0f%%\n", g->name, g->seconds, (double)g->operations / 1e9, rate, 100 * share);
    }
    json_object_object_add(out, "stages", stages);
    result_free(&r);
}

static void bench_machine(const options *o, const source *src, threads *pool, json_object *j, status *st)
{
    double memory = rate_memory(pool, 0.5, st), disk = src ? bench_disk(src, st) : 0;
    json_object_object_add(j, "threads", json_object_new_int(threads_count(pool)));
    json_object_object_add(j, "best", json_object_new_string(kernels_best()->name));
    add_rate(j, "memory_gb_per_second", memory);
    if (src)
        add_rate(j, "disk_gb_per_second", disk);
    if (o->json || !status_ok(st))
        return;
    printf("\nmemory  %.1f GB/s read\n", memory);
    if (src)
        printf("disk    %.2f GB/s read, past the page cache\n", disk);
    else
        printf("disk    not measured: name a model with -m\n");
}

bool cmd_bench(const options *o, status *st)
{
    request q;
    if (!make_request(o, NULL, &q, st))
        return false;
    source *src = o->model ? open_model(o, st) : NULL;
    threads *pool = status_ok(st) ? threads_open(o->threads, st) : NULL;
    json_object *j = json_object_new_object(), *sets = json_object_new_object();
    json_object_object_add(j, "kernels", sets);
    if (pool) {
        bench_kernels(o, pool, sets, st);
        bench_machine(o, src, pool, j, st);
        if (src && status_ok(st))
            bench_stages(o, src, &q, pool, j, st);
    }
    if (o->json && status_ok(st))
        print_json(json_object_get(j));
    json_object_put(j);
    threads_close(pool);
    if (src)
        source_close(src);
    return status_ok(st);
}
