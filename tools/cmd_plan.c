/* plan: what a run would need, several models side by side. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/footprint.h"
#include "base/paths.h"
#include "base/mem.h"
#include "models/networks.h"
#include "quant/policy.h"
#include "tools/command.h"
#include "tools/predict.h"
#include "tools/progress.h"
#include "tools/sizes.h"

enum { MOST_BUDGETS = 12 };

typedef struct planned {
    const char *model;
    result r;
    double seconds;           /* predicted */
    uint64_t role[ROLE_COUNT]; /* parameters */
    uint64_t parameters;
    status st;                /* a budget that is too small is told beside the others */
    struct budget_row {
        uint64_t budget, peak, read, scratch;
        double seconds;
    } row[MOST_BUDGETS];      /* from the least on, as far as more memory changes anything */
    int rows;
} planned;

static bool rates(const options *o, machine_rates *m, status *st)
{
    threads *pool = threads_open(o->threads, st);
    bool known = true, f32 = strcmp(o->precision, "f32") == 0;
    const kernels *k = o->kernels ? kernels_by_name(o->kernels, &known) : kernels_best();
    if (pool && !k)
        status_set(st, STATUS_USAGE, known ? "--cpu %s: this processor does not have it" : "--cpu %s: no such kernel set", o->kernels);
    bool good = pool && k && rates_of_computing(k, pool, f32, o->no_cache, m, st);
    threads_close(pool);
    return good;
}

/* m: the request's rates; the scratch file's are measured when the first plan wants one. Its planning takes as long as a run's; and the program itself may
 * have to be read. */
static bool plan_timed(const source *src, const request *q, machine_rates *m, result *r, double *seconds, status *st)
{
    double began = seconds_now();
    bool ok = pipeline_plan(src, q, r, st);
    if (ok && r->scratch_bytes && m->scratch_byte == 0 && rates_of_scratch(q->scratch, m, st) && m->scratch_byte > 0) {
        result_free(r);
        *r = (result){0};
        return plan_timed(src, q, m, r, seconds, st);
    }
    *seconds = seconds_now() - began + (double)footprint_of_code().usual * m->read_byte_small;
    for (int i = 0; ok && i < r->stages; i++)
        *seconds += r->stage[i].seconds;
    return ok;
}

static uint64_t read_bytes(const result *r)
{
    uint64_t all = 0;
    for (int i = 0; i < r->stages; i++)
        all += r->stage[i].stream_bytes;
    return all;
}

/* What the same would take under other budgets. */
static void plan_budgets(const source *src, request q, machine_rates *m, planned *p)
{
    status st = STATUS_INIT;
    result r = {0};
    q.budget_bytes = 1;
    bool fits = pipeline_plan(src, &q, &r, &st);
    uint64_t budget = st.code == STATUS_BUDGET ? st.least_bytes : 0;
    result_free(&r);
    for (; !fits && budget && p->rows < MOST_BUDGETS; budget += budget / 2) {
        st = (status)STATUS_INIT;
        r = (result){0};
        q.budget_bytes = budget;
        double seconds;
        if (plan_timed(src, &q, m, &r, &seconds, &st))
            p->row[p->rows++] = (struct budget_row){budget, r.predicted_peak, read_bytes(&r), r.scratch_bytes, seconds};
        result_free(&r);
        if (p->rows > 1 && p->row[p->rows - 1].peak == p->row[p->rows - 2].peak) {
            p->rows--;
            break;
        }
    }
}

static void count_parameters(planned *p)
{
    for (int i = 0; i < p->r.stages; i++) {
        p->role[p->r.stage[i].role] += p->r.stage[i].parameters;
        p->parameters += p->r.stage[i].parameters;
    }
}

static void plan_one(const options *o, const char *model, machine_rates m, bool budgets, planned *p, status *st)
{
    request q = {0};
    p->model = model;
    source *src = make_request(o, NULL, &q, st) && cascade_open(&q, o, st) ? open_named(model, st) : NULL;
    q.imagine = o->type != NULL;
    if (src && o->type)
        policy_type(o->type, &q.imagined_as, st);
    q.rates = &m;
    if (src && src->files > 0)
        rates_of_reading(src->file[0], &m, st);
    if (src && plan_timed(src, &q, &m, &p->r, &p->seconds, &p->st)) {
        count_parameters(p);
        if (budgets)
            plan_budgets(src, q, &m, p);
    }
    if (src)
        source_close(src);
    cascade_close(&q);
    if (!status_ok(&p->st) && p->st.code != STATUS_BUDGET)
        status_set(st, p->st.code, "%s", p->st.text);
}

static json_object *report_of_budgets(const planned *p)
{
    json_object *all = json_object_new_array();
    for (int i = 0; i < p->rows; i++) {
        json_object *row = json_object_new_object();
        json_object_object_add(row, "budget_bytes", json_object_new_uint64(p->row[i].budget));
        json_object_object_add(row, "predicted_peak_bytes", json_object_new_uint64(p->row[i].peak));
        json_object_object_add(row, "read_bytes", json_object_new_uint64(p->row[i].read));
        json_object_object_add(row, "scratch_bytes", json_object_new_uint64(p->row[i].scratch));
        json_object_object_add(row, "predicted_seconds", json_object_new_double(p->row[i].seconds));
        json_object_array_add(all, row);
    }
    return all;
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
    for (int i = 0; i < ROLE_COUNT; i++) {
        char key[40];
        snprintf(key, sizeof key, "%s_parameters", role_name((network_role)i));
        if (p->role[i])
            json_object_object_add(j, key, json_object_new_uint64(p->role[i]));
    }
    if (p->rows)
        json_object_object_add(j, "budgets", report_of_budgets(p));
    if (p->st.code == STATUS_BUDGET)
        json_object_object_add(j, "least_bytes", json_object_new_uint64(p->st.least_bytes));
    return j;
}

/* Time grows where weights are read again, and where maps go to the disk. */
static void print_budgets(const planned *p)
{
    char t[4][SIZE_TEXT];
    if (p->rows)
        printf("\n  %-10s %10s %10s %10s %9s\n", "budget", "peak", "read", "scratch", "seconds");
    for (int i = 0; i < p->rows; i++) {
        const struct budget_row *b = &p->row[i];
        printf("  %-10s %10s %10s %10s %9.1f\n", size_text(b->budget, t[0]), size_text(b->peak, t[1]), size_text(b->read, t[2]), size_text(b->scratch, t[3]), b->seconds);
    }
}

static const char *parameters_text(uint64_t n, char out[32])
{
    double x = (double)n;
    snprintf(out, 32, x >= 1e9 ? "%.2f B" : x >= 1e7 ? "%.0f M" : "%.1f M", x / (x >= 1e9 ? 1e9 : 1e6));
    return out;
}

static void print_parameters(const planned *p)
{
    char n[32];
    printf("  parameters:");
    for (int i = 0, k = 0; i < ROLE_COUNT; i++)
        if (p->role[i])
            printf("%s %s %s (%.1f%%)", k++ ? "," : "", role_name((network_role)i), parameters_text(p->role[i], n), 100.0 * (double)p->role[i] / (double)p->parameters);
    printf("\n");
}

static void print_one(const planned *p)
{
    char t[6][SIZE_TEXT];
    printf("%s\n", p->model);
    if (p->st.code == STATUS_BUDGET) {
        printf("  %s\n", p->st.text);
        return;
    }
    printf("  %-16s %8s %6s %6s %7s %6s %6s %8s %7s\n", "stage", "resident", "flight", "arena", "scratch", "read", "passes", "Gop", "seconds");
    for (int i = 0; i < p->r.stages; i++) {
        const stage_report *g = &p->r.stage[i];
        printf("  %-16s %8s %6s %6s %7s %6s %6d %8.1f %7.1f\n", g->name, size_text(g->resident_bytes, t[0]),
               size_text(g->ring_bytes, t[1]), size_text(g->arena_bytes, t[2]), size_text(g->scratch_bytes, t[3]), size_text(g->stream_bytes, t[4]), g->passes,
               (double)g->operations / 1e9, g->seconds);
    }
    printf("  ");
    if (p->r.evaluations)
        printf("%dx%d, %d steps, %d evaluations: ", p->r.width, p->r.height, p->r.steps, p->r.evaluations);
    printf("peak %s, scratch %s, about %.1f s\n", size_text(p->r.predicted_peak, t[0]), size_text(p->r.scratch_bytes, t[1]), p->seconds);
    print_parameters(p);
    print_budgets(p);
}

/* Several models: a column each. */
typedef enum side_row { SIDE_PARAMETERS, SIDE_ENCODER, SIDE_PEAK, SIDE_SCRATCH, SIDE_READ, SIDE_GOP, SIDE_SECONDS, SIDE_LEAST, SIDE_ROWS } side_row;

static void side_cell(const planned *p, side_row row, char cell[SIZE_TEXT])
{
    const result *r = &p->r;
    uint64_t operations = 0;
    for (int s = 0; s < r->stages; s++)
        operations += r->stage[s].operations;
    bool fits = p->st.code == STATUS_OK;
    snprintf(cell, SIZE_TEXT, "-");
    if (row == SIDE_LEAST && !fits)
        size_text(p->st.least_bytes, cell);
    if (!fits)
        return;
    switch (row) {
    case SIDE_PARAMETERS:
        snprintf(cell, SIZE_TEXT, "%.3f B", (double)p->parameters / 1e9);
        break;
    case SIDE_ENCODER:
        snprintf(cell, SIZE_TEXT, "%.1f %%", p->parameters ? 100.0 * (double)p->role[ROLE_ENCODER] / (double)p->parameters : 0.0);
        break;
    case SIDE_GOP:
        snprintf(cell, SIZE_TEXT, "%.1f", (double)operations / 1e9);
        break;
    case SIDE_SECONDS:
        snprintf(cell, SIZE_TEXT, "%.1f", p->seconds);
        break;
    case SIDE_PEAK: case SIDE_SCRATCH: case SIDE_READ:
        size_text(row == SIDE_PEAK ? r->predicted_peak : row == SIDE_SCRATCH ? r->scratch_bytes : read_bytes(r), cell);
        break;
    default:
        break;
    }
}

static void print_side_by_side(const planned *p, int n)
{
    static const char *const title[SIDE_ROWS] = {"parameters", "encoder", "peak memory", "scratch", "read", "Gop", "seconds", "least budget"};
    printf("%-14s", "");
    for (int i = 0; i < n; i++) {
        const char *slash = strrchr(p[i].model, '/');
        printf(" %20.20s", slash && slash[1] ? slash + 1 : p[i].model);
    }
    for (int row = 0; row < SIDE_ROWS; row++) {
        printf("\n%-14s", title[row]);
        for (int i = 0; i < n; i++) {
            char cell[SIZE_TEXT];
            side_cell(&p[i], (side_row)row, cell);
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
    machine_rates m = {0};
    char *found = NULL;
    const char *first = o->model;
    if (!o->model && !o->argument.count)
        first = found = paths_model(st);
    int n = o->argument.count + (first ? 1 : 0);
    planned *p = status_ok(st) && make_request(o, NULL, &q, st) ? mem_alloc((size_t)n, sizeof *p, "plan", st) : NULL;
    if (p && rates(o, &m, st)) {
        for (int i = 0; i < n && status_ok(st); i++)
            plan_one(o, first && i == 0 ? first : o->argument.item[i - (first ? 1 : 0)], m, n == 1 && !o->budget_bytes, &p[i], st);
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
