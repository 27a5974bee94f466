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
static double bench_disk(const options *o, bool *have, status *st)
{
    double best = 0;
    status none = STATUS_INIT;
    source *src = open_model(o, o->model ? st : &none);   /* without -m, no model is no failure */
    *have = src != NULL;
    for (int i = 0; src && i < src->files && status_ok(st); i++) {
        double rate = rate_disk(src->file[i], 3, st);
        best = rate > best ? rate : best;
    }
    if (src)
        source_close(src);
    return best;
}

bool cmd_bench(const options *o, status *st)
{
    request q;
    if (!make_request(o, NULL, &q, st))
        return false;
    threads *pool = threads_open(o->threads, st);
    json_object *j = json_object_new_object(), *sets = json_object_new_object();
    json_object_object_add(j, "kernels", sets);
    if (pool)
        bench_kernels(o, pool, sets, st);
    if (status_ok(st)) {
        bool have_file;
        double memory = rate_memory(pool, 0.5, st), disk = bench_disk(o, &have_file, st);
        json_object_object_add(j, "threads", json_object_new_int(threads_count(pool)));
        json_object_object_add(j, "best", json_object_new_string(kernels_best()->name));
        add_rate(j, "memory_gb_per_second", memory);
        if (have_file)
            add_rate(j, "disk_gb_per_second", disk);
        if (!o->json && status_ok(st)) {
            printf("\nmemory  %.1f GB/s read\n", memory);
            if (have_file)
                printf("disk    %.2f GB/s read, past the page cache\n", disk);
            else
                printf("disk    not measured: name a model with -m\n");
        }
    }
    if (o->json && status_ok(st))
        print_json(json_object_get(j));
    json_object_put(j);
    threads_close(pool);
    return status_ok(st);
}
