/* quantize: a model's folder to a container, its tensors in the order of their use. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/output.h"
#include "base/threads.h"
#include "models/networks.h"
#include "quant/convert.h"
#include "tools/calibrate.h"
#include "tools/command.h"
#include "tools/sizes.h"

enum { MOST_PLANS = 16, MOST_PARTS = 8 };

typedef struct recorded {           /* a source and its order of use */
    source *src;
    plan plan[MOST_PLANS];
    int plans;
} recorded;

typedef struct job {
    recorded base;
    recorded part[MOST_PARTS];      /* --component NAME=FILE */
    int parts;
    convert_component component[MOST_PLANS + MOST_PARTS];
    int components;
    type_rule *rule;
    input_moments *moments;               /* --calibrate */
    int prompts;
} job;

static bool record(recorded *r, source *src, status *st)
{
    r->src = src;
    r->plans = r->src ? pipeline_record(r->src, r->plan, MOST_PLANS, st) : 0;
    return status_ok(st);
}

static void release(recorded *r)
{
    for (int i = 0; i < r->plans; i++)
        plan_free(&r->plan[i]);
    if (r->src)
        source_close(r->src);
}

static convert_component *component_named(job *j, const char *name, size_t length)
{
    for (int i = 0; i < j->components; i++)
        if (strlen(j->component[i].name) == length && strncmp(j->component[i].name, name, length) == 0)
            return &j->component[i];
    return NULL;
}

/* What decodes cannot stand in for what encodes. */
static bool fits(const source *base, const char *name, const source *part, const char *within, status *st)
{
    network_role wanted = component_role(base, name, st), is = component_role(part, within, st);
    return wanted == is || status_set(st, STATUS_USAGE, "--component: %s is the %s here, %s the %s of its kind", name, role_name(wanted), part->path, role_name(is));
}

/* NAME=FILE: FILE is that component by itself, or a model that has one of that name. */
static bool take_part(job *j, const char *text, status *st)
{
    const char *equals = strchr(text, '=');
    size_t length = (size_t)(equals - text);
    convert_component *c = component_named(j, text, length);
    if (!c)
        return status_set(st, STATUS_USAGE, "--component: %s has no component %.*s", j->base.src->path, (int)length, text);
    if (j->parts == MOST_PARTS)
        return status_set(st, STATUS_USAGE, "--component: more than %d", MOST_PARTS);
    recorded *r = &j->part[j->parts++];
    if (!record(r, source_open(equals + 1, st), st))
        return false;
    for (int i = 0; i < r->plans; i++)
        if (!*r->plan[i].stage || strcmp(r->plan[i].stage, c->name) == 0) {
            if (!fits(j->base.src, c->name, r->src, r->plan[i].stage, st))
                return false;
            c->from = r->src;
            c->plan = &r->plan[i];
            return true;
        }
    return status_set(st, STATUS_BAD_FILE, "%s: has no component %s", equals + 1, c->name);
}

static bool prepare(const options *o, job *j, status *st)
{
    if (!record(&j->base, open_named(o->argument.item[0], st), st))
        return false;
    for (int i = 0; i < j->base.plans; i++)
        j->component[j->components++] = (convert_component){.name = j->base.plan[i].stage, .plan = &j->base.plan[i]};
    for (int i = 0; i < o->component.count; i++)
        if (!take_part(j, o->component.item[i], st))
            return false;
    j->rule = mem_alloc((size_t)o->tensor_type.count + 1, sizeof *j->rule, "rules", st);
    for (int i = 0; j->rule && i < o->tensor_type.count; i++)
        policy_rule(o->tensor_type.item[i], &j->rule[i], st);
    return status_ok(st);
}

static int cores(status *st)
{
    threads *pool = threads_open(0, st);
    int n = pool ? threads_count(pool) : 1;
    threads_close(pool);
    return n;
}

static void show(void *ctx, uint64_t numbers, uint64_t all)
{
    progress_show(ctx, "quantize", (int)(numbers >> 20), (int)(all >> 20));   /* millions of weights */
}

/* The converter counts what it allocates; the budget is for the whole process. */
static void name_whole_budget(uint64_t budget, uint64_t base, status *st)
{
    char given[SIZE_TEXT], least[SIZE_TEXT];
    uint64_t bytes = st->least_bytes + base;
    *st = (status)STATUS_INIT;
    status_set(st, STATUS_BUDGET, "memory budget: %s is too small, at least %s is needed", size_text(budget, given),
               size_text(bytes, least));
    st->least_bytes = bytes;
}

static void report(const options *o, const convert_report *r, double seconds)
{
    char size[SIZE_TEXT];
    if (o->json) {
        json_object *j = json_object_new_object(), *unused = json_object_new_array();
        json_object_object_add(j, "output", json_object_new_string(o->output));
        json_object_object_add(j, "tensors", json_object_new_int(r->tensors));
        json_object_object_add(j, "parameters", json_object_new_uint64(r->numbers));
        json_object_object_add(j, "bytes", json_object_new_uint64(r->file_bytes));
        json_object_object_add(j, "bits_per_weight", json_object_new_double(r->bits));
        json_object_object_add(j, "quantization_error", json_object_new_double(r->error));
        if (o->calibrate) {
            json_object_object_add(j, "calibrated", json_object_new_int(r->fed));
            json_object_object_add(j, "output_error", json_object_new_double(r->fed_error));
            json_object_object_add(j, "output_error_plain", json_object_new_double(r->plain_error));
        }
        json_object_object_add(j, "seconds", json_object_new_double(seconds));
        json_object_object_add(j, "peak_rss_bytes", json_object_new_uint64(peak_memory()));
        json_object_object_add(j, "budget_bytes", json_object_new_uint64(o->budget_bytes));
        for (int i = 0; i < r->unused; i++)
            json_object_array_add(unused, json_object_new_string(r->unused_weight[i]->name));
        json_object_object_add(j, "unused", unused);
        print_json(j);
        return;
    }
    if (o->quiet)
        return;
    printf("%s: %d tensors, %" PRIu64 " parameters, %s; matrices at %.3f bits, error %.4f; %.1f s, peak memory %s\n", o->output,
           r->tensors, r->numbers, size_text(r->file_bytes, size), r->bits, r->error, seconds, size_text(peak_memory(), (char[SIZE_TEXT]){0}));
    if (o->calibrate)
        printf("%d tensors calibrated: error of their outputs %.4f, without it %.4f\n", r->fed, r->fed_error, r->plain_error);
    if (r->unused && !o->verbose)
        printf("%d tensor%s no use in this pipeline and %s left out (-v says which)\n", r->unused, r->unused == 1 ? " has" : "s have", r->unused == 1 ? "was" : "were");
    for (int i = 0; o->verbose && i < r->unused; i++)
        printf("left out: %s%s%s\n", r->unused_weight[i]->component, *r->unused_weight[i]->component ? "/" : "", r->unused_weight[i]->name);
}

/* What cannot be run, or has nothing that a prompt passes through, is told here or by the pipeline. */
static bool run_calibration(const options *o, job *j, status *st)
{
    weight_type type;
    if (!policy_type(o->type, &type, st))
        return false;
    if (!type_of(type)->panels)
        return status_set(st, STATUS_USAGE, "--calibrate: %s has no codes to choose; it goes with q4, q5 and q8", o->type);
    if (o->random_weights)
        return status_set(st, STATUS_USAGE, "--calibrate: random weights (--random) have nothing to learn from prompts");
    if (o->component.count)
        return status_set(st, STATUS_USAGE, "--calibrate: does not go together with --component; make a container of type f16 with it first, and calibrate that");
    j->moments = calibrate(o, j->base.src, j->base.plan, j->base.plans, &j->prompts, st);
    return j->moments != NULL;
}

static bool write_container(const options *o, job *j, status *st)
{
    progress p;
    convert_report r = {0};
    convert_request q = {
        .from = j->base.src, .out = o->output, .rule = j->rule, .rules = o->tensor_type.count, .components = j->components,
        .component = j->component, .threads = o->threads ? o->threads : cores(st), .random = o->random_weights,
        .seed = o->random_seed, .progress = show, .progress_ctx = &p,
    };
    const uint64_t reserve = 2 << 20;   /* stacks, the libraries' own */
    uint64_t base = peak_memory() + reserve;    /* before the prompts' runs: what they take is given back */
    if (o->calibrate && !run_calibration(o, j, st))
        return false;
    q.moments = j->moments;
    q.prompts = j->prompts;
    if (o->budget_bytes)
        q.memory_bytes = o->budget_bytes > base ? o->budget_bytes - base : 1;
    double began = seconds_now();
    progress_start(&p, o->quiet);
    bool good = policy_type(o->type, &q.type, st) && convert(&q, &r, st);
    progress_end(&p);
    if (good && o->command->bit == QUANTIZE) /* generate --type has a report of its own */
        report(o, &r, seconds_now() - began);
    if (!good && st->code == STATUS_BUDGET)
        name_whole_budget(o->budget_bytes, base, st);
    convert_report_free(&r);
    return good;
}

/* Sizes, steps, scale and seed are of the calibration's runs. */
static bool calibrates_if_sized(const options *o, status *st)
{
    const char *given = o->width ? "width" : o->height ? "height" : o->steps ? "steps" : !isnan(o->guidance_scale) ? "cfg-scale" : o->seed_given ? "seed" : NULL;
    if (o->command->bit != QUANTIZE || o->calibrate || !given)
        return true;
    return status_set(st, STATUS_USAGE, "--%s: is of the runs of --calibrate, which is not given%s", given, o->seed_given ? " (--random takes its own seed)" : "");
}

bool cmd_quantize(const options *o, status *st)
{
    if (!o->output)
        return status_set(st, STATUS_USAGE, "quantize: an output is missing (-o FILE.penstock)");
    if (!output_check(o->output, st) || !calibrates_if_sized(o, st))
        return false;
    job *j = mem_alloc(1, sizeof *j, "quantize", st);
    if (j && prepare(o, j, st))
        write_container(o, j, st);
    if (j) {
        release(&j->base);
        for (int i = 0; i < j->parts; i++)
            release(&j->part[i]);
        moments_close(j->moments);
        mem_free(j->rule);
        mem_free(j);
    }
    return status_ok(st);
}
