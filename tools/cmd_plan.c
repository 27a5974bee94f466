/* plan: what a run would need, several models side by side. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/paths.h"
#include "base/mem.h"
#include "tools/command.h"
#include "tools/predict.h"
#include "tools/sizes.h"

typedef struct planned {
    const char *model;
    result r;
    double seconds;           /* predicted */
    double disk;              /* GB/s */
    status st;                /* a budget that is too small is told beside the others */
} planned;

static bool rates(const options *o, sustained *m, status *st)
{
    threads *pool = threads_open(o->threads, st);
    bool known = true, f32 = strcmp(o->precision, "f32") == 0;
    const kernels *k = o->kernels ? kernels_by_name(o->kernels, &known) : kernels_best();
    if (pool && !k)
        status_set(st, STATUS_USAGE, known ? "--cpu %s: this processor does not have it" : "--cpu %s: no such kernel set", o->kernels);
    bool good = pool && k && sustained_rates(k, pool, f32, o->no_cache, m, st);
    threads_close(pool);
    return good;
}

static void predict(planned *p, const sustained *m)
{
    p->seconds = 0;
    for (int i = 0; i < p->r.stages; i++) {
        stage_report *g = &p->r.stage[i];
        g->seconds = predict_stage(m, g, p->disk * 1e9);
        p->seconds += g->seconds;
    }
}

static void plan_one(const options *o, const char *model, const sustained *m, planned *p, status *st)
{
    request q = {0};
    p->model = model;
    source *src = make_request(o, NULL, &q, st) && cascade_open(&q, o, st) ? source_open(model, st) : NULL;
    if (src && pipeline_plan(src, &q, &p->r, &p->st)) {
        if (src->files > 0)
            p->disk = rate_disk(src->file[0], 0.3, st);
        predict(p, m);
    }
    if (src)
        source_close(src);
    cascade_close(&q);
    if (!status_ok(&p->st) && p->st.code != STATUS_BUDGET)
        status_set(st, p->st.code, "%s", p->st.text);
}

static json_object *report_of(const planned *p, const request *q)
{
    options named = {.output = ""};
    json_object *j = run_report(&named, q, &p->r);
    const char *no_plan[] = {"output", "seed", "seconds", "peak_rss_bytes", "bytes_read", "tokens_cut"};
    for (size_t i = 0; i < sizeof no_plan / sizeof *no_plan; i++)
        json_object_object_del(j, no_plan[i]);
    json_object_object_add(j, "model", json_object_new_string(p->model));
    json_object_object_add(j, "predicted_seconds", json_object_new_double(p->seconds));
    if (p->st.code == STATUS_BUDGET)
        json_object_object_add(j, "least_bytes", json_object_new_uint64(p->st.least_bytes));
    return j;
}

static void print_one(const planned *p)
{
    char t[6][SIZE_TEXT];
    printf("%s\n", p->model);
    if (p->st.code == STATUS_BUDGET) {
        printf("  %s\n", p->st.text);
        return;
    }
    printf("  %-18s %10s %10s %10s %10s %7s %12s %9s\n", "stage", "resident", "in flight", "arena", "read", "passes", "Gop", "seconds");
    for (int i = 0; i < p->r.stages; i++) {
        const stage_report *g = &p->r.stage[i];
        printf("  %-18s %10s %10s %10s %10s %7d %12.1f %9.1f\n", g->name, size_text(g->resident_bytes, t[0]),
               size_text(g->ring_bytes, t[1]), size_text(g->arena_bytes, t[2]), size_text(g->stream_bytes, t[3]), g->passes,
               (double)g->operations / 1e9, g->seconds);
    }
    printf("  %dx%d, %d steps, %d evaluations: peak %s, scratch %s, about %.1f s on this machine\n", p->r.width, p->r.height,
           p->r.steps, p->r.evaluations, size_text(p->r.predicted_peak, t[4]), size_text(p->r.scratch_bytes, t[5]), p->seconds);
}

/* Several models: a column each. */
static void print_side_by_side(const planned *p, int n)
{
    char t[SIZE_TEXT];
    printf("%-14s", "");
    for (int i = 0; i < n; i++) {
        const char *slash = strrchr(p[i].model, '/');
        printf(" %20.20s", slash && slash[1] ? slash + 1 : p[i].model);
    }
    const char *rows[] = {"peak memory", "scratch", "read", "parameters", "Gop", "seconds", "least budget"};
    for (int row = 0; row < 7; row++) {
        printf("\n%-14s", rows[row]);
        for (int i = 0; i < n; i++) {
            uint64_t read = 0, operations = 0, parameters = 0;
            for (int s = 0; s < p[i].r.stages; s++) {
                read += p[i].r.stage[s].stream_bytes;
                operations += p[i].r.stage[s].operations;
                parameters += p[i].r.stage[s].parameters;
            }
            bool fits = p[i].st.code == STATUS_OK;
            char cell[32] = "-";
            if (row == 6 && !fits)
                snprintf(cell, sizeof cell, "%s", size_text(p[i].st.least_bytes, t));
            else if (fits && row < 3)
                snprintf(cell, sizeof cell, "%s", size_text(row == 0 ? p[i].r.predicted_peak : row == 1 ? p[i].r.scratch_bytes : read, t));
            else if (fits && row == 3)
                snprintf(cell, sizeof cell, "%.3f B", (double)parameters / 1e9);
            else if (fits && row < 6)
                snprintf(cell, sizeof cell, "%.1f", row == 4 ? (double)operations / 1e9 : p[i].seconds);
            printf(" %20s", cell);
        }
    }
    printf("\n");
}

static void print_all(const options *o, const planned *p, int n, const request *q)
{
    if (o->json && n == 1)
        print_json(report_of(p, q));
    else if (o->json) {
        json_object *all = json_object_new_array();
        for (int i = 0; i < n; i++)
            json_object_array_add(all, report_of(&p[i], q));
        print_json(all);
    } else {
        for (int i = 0; i < n && (n == 1 || o->verbose); i++)
            print_one(&p[i]);
        if (n > 1)
            print_side_by_side(p, n);
    }
}

bool cmd_plan(const options *o, status *st)
{
    request q;
    sustained m = {0};
    char *found = NULL;
    const char *first = o->model;
    if (!o->model && !o->argument.count)
        first = found = paths_model(st);
    int n = o->argument.count + (first ? 1 : 0);
    planned *p = status_ok(st) && make_request(o, NULL, &q, st) ? mem_alloc((size_t)n, sizeof *p, "plan", st) : NULL;
    if (p && rates(o, &m, st)) {
        for (int i = 0; i < n && status_ok(st); i++)
            plan_one(o, first && i == 0 ? first : o->argument.item[i - (first ? 1 : 0)], &m, &p[i], st);
        if (n == 1 && p[0].st.code == STATUS_BUDGET)
            *st = p[0].st;   /* one model that does not fit is a failure, among several it is an answer */
        else if (status_ok(st))
            print_all(o, p, n, &q);
    }
    for (int i = 0; p && i < n; i++)
        result_free(&p[i].r);
    mem_free(p);
    mem_free(found);
    return status_ok(st);
}
