/* bench: what this machine can do at most, and how much of it ops and models reach. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/paths.h"
#include "base/trace.h"
#include "tools/bench_shapes.h"
#include "tools/command.h"
#include "tools/predict.h"

typedef struct bench {
    const options *o;
    const kernels *k;
    threads *pool;
    bool say;
    double memory[BOUNDS]; /* GB/s, from BOUND_READ on */
    json_object *j;
    status *st;
} bench;

static void add_text(json_object *o, const char *key, const char *text) { json_object_object_add(o, key, json_object_new_string(text)); }

static void add_number(json_object *o, const char *key, double n)
{
    char text[32];
    snprintf(text, sizeof text, "%.6g", n);
    json_object_object_add(o, key, json_object_new_double_s(n, text));
}

/* "T5-XXL linear q4": what words are looked for in. */
static const char *row_text(const op_shape *s, char out[96])
{
    snprintf(out, 96, "%s %s %s", s->system, op_name(s->op), type_of(s->type)->name);
    return out;
}

/* Is it among the words that the command was given? Without any, everything is. */
static bool wanted(const options *o, const char *text)
{
    bool any = o->argument.count == 0;
    for (int i = 0; i < o->argument.count; i++)
        any = any || strstr(text, o->argument.item[i]);
    return any;
}

static bool words_known(const options *o, status *st)
{
    char text[96];
    for (int w = 0; w < o->argument.count; w++) {
        const char *word = o->argument.item[w];
        bool found = strstr("encode", word) || strstr("picture", word);
        for (int i = 0; i < bench_shape_count && !found; i++)
            found = strstr(row_text(&bench_shapes[i], text), word) != NULL;
        if (!found)
            return status_set(st, STATUS_USAGE, "bench: no row has %s in it: try linear, conv, attention, norm, q4, T5-XXL, encode, picture", word);
    }
    return true;
}

/* ---- the machine ---- */

static void bench_peaks(bench *b)
{
    const kernels *sets[16];
    int n = kernels_all(sets, 16);
    json_object *all = json_object_new_array();
    for (int i = n; i-- > 0;)
        for (int kind = 0; kind < PEAK_KINDS && status_ok(b->st); kind++) {
            const peak *p = peak_find(sets[i]->name, (peak_kind)kind);
            if (!p)
                continue;
            double rate = rate_peak(p, b->pool, b->o->seconds / 4, b->st);
            json_object *row = json_object_new_object();
            add_text(row, "set", p->set);
            add_text(row, "kind", bound_names[kind]);
            add_text(row, "instruction", p->instruction);
            add_number(row, "gop_per_second", rate);
            json_object_array_add(all, row);
            if (b->say)
                printf("  %-11s %-6s %-32s %8.1f Gop/s\n", p->set, bound_names[kind], p->instruction, rate);
        }
    json_object_object_add(b->j, "peaks", all);
}

static void bench_memory(bench *b)
{
    static const char *const about[BOUNDS] = {[BOUND_READ] = "read", [BOUND_COPY] = "copied: read here, written there", [BOUND_UPDATE] = "changed in place"};
    json_object *memory = json_object_new_object();
    for (bound i = BOUND_READ; i < BOUNDS && status_ok(b->st); i++) {
        b->memory[i] = rate_memory(i, b->pool, b->o->seconds, b->st);
        add_number(memory, bound_names[i], b->memory[i]);
        if (b->say)
            printf("  %-11s %-6s %-32s %8.1f GB/s\n", i == BOUND_READ ? "memory" : "", bound_names[i], about[i], b->memory[i]);
    }
    json_object_object_add(b->j, "memory_gb_per_second", memory);
}

/* The files of a model, as long as it takes; the fastest is the disk's rate. */
static double bench_disk(const bench *b, const source *src)
{
    double best = 0;
    for (int i = 0; i < src->files && status_ok(b->st); i++) {
        double rate = rate_disk(src->file[i], 4 << 20, 4, true, 10 * b->o->seconds, b->st);
        best = rate > best ? rate : best;
    }
    return best;
}

static void bench_machine(bench *b, const source *src)
{
    if (b->say)
        printf("%s, %d thread%s\n\npeaks, all threads\n", b->k->name, threads_count(b->pool), threads_count(b->pool) == 1 ? "" : "s");
    bench_peaks(b);
    bench_memory(b);
    double disk = b->o->model ? bench_disk(b, src) : 0;
    if (b->o->model)
        add_number(b->j, "disk_gb_per_second", disk);
    if (b->say && b->o->model)
        printf("  %-11s %-6s %-32s %8.2f GB/s\n", "disk", "", "read, past the page cache", disk);
    else if (b->say)
        printf("  %-11s %-6s %s\n", "disk", "", "not measured: name a model with -m");
}

/* ---- ops ---- */

/* Gop/s or GB/s; a core's peaks are measured anew before and after each row, as clocks change; the higher counts. 0: the set has none. */
static double rate_of(const bench *b, bound by)
{
    return by >= BOUND_READ ? b->memory[by] : rate_of_set(b->k, (peak_kind)by, b->pool, b->o->seconds / 10, b->st);
}

/* rate and shares: of the processor time, and by the clock. */
static void add_rates(const bench *b, json_object *row, double work, lap took, double most, const char *label)
{
    double rate = took.cpu > 0 ? work / took.cpu * threads_count(b->pool) / 1e9 : 0, clock = took.wall > 0 ? work / took.wall / 1e9 : 0;
    add_number(row, "seconds", took.wall);
    add_number(row, "processor_seconds", took.cpu);
    add_number(row, "rate", rate);
    if (most > 0) {
        add_number(row, "peak", most);
        add_number(row, "share", rate / most);
        add_number(row, "clock_share", clock / most);
    }
    if (b->say && most > 0)
        printf("%s %9.1f %9.1f %6.0f%% %6.0f%%\n", label, rate, most, 100 * rate / most, 100 * clock / most);
    else if (b->say)
        printf("%s %9.1f %9s %7s %7s\n", label, rate, "-", "-", "-");
    if (b->say)
        fflush(stdout);
}

static void bench_op(const bench *b, const op_shape *s, json_object *all)
{
    op_rate r;
    bound by = op_bound(s, b->k);
    double before = rate_of(b, by);
    if (!op_measure(s, b->k, b->pool, b->o->seconds, before, &r, b->st))
        return;
    double after = rate_of(b, by), most = before > after ? before : after;
    json_object *row = json_object_new_object();
    char label[128];
    add_text(row, "system", s->system);
    add_text(row, "op", op_name(s->op));
    add_text(row, "type", type_of(s->type)->name);
    add_text(row, "shape", r.shape);
    add_text(row, "bound", bound_names[by]);
    add_text(row, "unit", by < BOUND_READ ? "Gop/s" : "GB/s");
    add_number(row, "work", r.work);
    snprintf(label, sizeof label, "%-7s %-16s %-5s %-28s %-6s", s->system, op_name(s->op), type_of(s->type)->name, r.shape, bound_names[by]);
    add_rates(b, row, r.work, r.took, most, label);
    json_object_array_add(all, row);
}

static void bench_ops(const bench *b)
{
    json_object *all = json_object_new_array();
    char text[96];
    if (b->say)
        printf("\nshares of the peak: of the processor time that the threads got, and by the clock; rates in Gop/s, of memory in GB/s\n"
               "%-7s %-16s %-5s %-28s %-6s %9s %9s %7s %7s\n", "system", "op", "type", "shape", "bound", "rate", "peak", "share", "clock");
    for (int i = 0; i < bench_shape_count && status_ok(b->st); i++) {
        const op_shape *s = &bench_shapes[i];
        if (wanted(b->o, row_text(s, text)))
            bench_op(b, s, all);
    }
    json_object_object_add(b->j, "ops", all);
}

/* ---- stages of a model ---- */

static void bench_stage(const bench *b, const stage_report *g, int tokens, json_object *all)
{
    bound by = 2 * g->integer_operations > g->operations ? BOUND_I8 : BOUND_F32;
    json_object *row = json_object_new_object();
    char label[128], shape[48];
    double work = (double)g->operations / g->passes, first = rate_of(b, by), second = rate_of(b, by), most = first > second ? first : second;
    snprintf(shape, sizeof shape, "%d tokens, %.1f Gop", tokens, work / 1e9);
    snprintf(label, sizeof label, "%-30s %-28s %-6s", g->name, shape, bound_names[by]);
    add_text(row, "stage", g->name);
    json_object_object_add(row, "tokens", json_object_new_int(tokens));
    add_text(row, "bound", bound_names[by]);
    add_text(row, "unit", "Gop/s");
    add_number(row, "work", work);
    add_rates(b, row, work, (lap){g->pass_seconds, g->pass_processor_seconds}, most, label);
    json_object_array_add(all, row);
}

/* Not every model has text encoders, or makes pictures by itself: then there are no rows. Any other failure is one. */
static bool ran(const bench *b, bool good, const status *st)
{
    if (!good && st->code != STATUS_USAGE)
        status_set(b->st, st->code, "%s", st->text);
    return good;
}

/* The text encoders, with weights that stay: each length is run twice, and the second counts. */
static void bench_encode(const bench *b, const source *src, request q)
{
    static const int tokens[] = {20, 77, 256};
    json_object *all = json_object_new_array();
    json_object_object_add(b->j, "encode", all);
    q.rehearsals = 1;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens && status_ok(b->st); i++) {
        status st = STATUS_INIT;
        result r = {0};
        trace *t = trace_open(b->st);
        q.tokens = tokens[i];
        if (t && ran(b, pipeline_encode(src, &q, t, &r, &st), &st))
            for (int s = 0; s < r.stages; s++)
                bench_stage(b, &r.stage[s], q.tokens, all);
        trace_close(t);
        result_free(&r);
    }
}

static double predicted(const bench *b, const source *src, request q)
{
    status st = STATUS_INIT;
    machine_rates m;
    result r = {0};
    double seconds = 0;
    q.rates = &m;
    if (rates_of_computing(b->k, b->pool, false, true, &m, b->st) && ran(b, pipeline_plan(src, &q, &r, &st), &st))
        for (int i = 0; i < r.stages; i++)
            seconds += r.stage[i].seconds;
    result_free(&r);
    return seconds;
}

/* One step of a picture at the model's own size, where that takes no minutes. */
static void bench_picture(const bench *b, const source *src, request q)
{
    enum { MOST = 50 };
    json_object *all = json_object_new_array();
    json_object_object_add(b->j, "stages", all);
    q.steps = 1;
    q.tokens = 32;
    q.rehearsals = 1;
    double seconds = 2 * predicted(b, src, q);
    status st = STATUS_INIT;
    result r = {0};
    if (status_ok(b->st) && seconds > MOST * b->o->seconds) {
        if (b->say)
            printf("one step of a picture would take about %.0f s here: not run (--seconds %.1f would)\n", seconds, seconds / MOST + 0.1);
    } else if (status_ok(b->st) && ran(b, pipeline_generate(src, &q, &r, &st), &st)) {
        for (int i = 0; i < r.stages; i++)
            bench_stage(b, &r.stage[i], q.tokens, all);
    }
    result_free(&r);
}

/* ---- the command ---- */

static void bench_all(bench *b, const source *src, const request *q)
{
    add_text(b->j, "kernels", b->k->name);
    json_object_object_add(b->j, "threads", json_object_new_int(threads_count(b->pool)));
    bench_machine(b, src);
    if (status_ok(b->st))
        bench_ops(b);
    if (status_ok(b->st) && src && wanted(b->o, "encode"))
        bench_encode(b, src, *q);
    if (status_ok(b->st) && src && wanted(b->o, "picture"))
        bench_picture(b, src, *q);
}

bool cmd_bench(const options *o, status *st)
{
    request q;
    bool known;
    if (!words_known(o, st) || !make_request(o, NULL, &q, st))
        return false;
    bench b = {.o = o, .k = o->kernels ? kernels_by_name(o->kernels, &known) : kernels_best(), .say = !o->json && !o->quiet, .st = st};
    status none = STATUS_INIT; /* without a model there is less to measure */
    char *small = o->model ? NULL : paths_model(&none);
    source *src = o->model || small ? source_open(o->model ? o->model : small, st) : NULL;
    b.pool = status_ok(st) ? threads_open(o->threads, st) : NULL;
    b.j = json_object_new_object();
    if (b.pool)
        bench_all(&b, src, &q);
    if (o->json && status_ok(st))
        print_json(json_object_get(b.j));
    json_object_put(b.j);
    threads_close(b.pool);
    source_close(src);
    mem_free(small);
    return status_ok(st);
}
