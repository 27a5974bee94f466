/* The error of quantization on trained weights: the model that ships, and, where PENSTOCK_TRAINED names a folder, another one:
 * tests/trained_errors.sh does that for any checkpoint, and says which one the bars were first measured on. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "models/pipelines.h"
#include "quant/convert.h"
#include "weights/pack.h"

typedef struct errors {
    int tensors;
    double mean, worst, bits;
    char where[128]; /* the worst */
} errors;

/* Of what is quantized: the mean over tensors, and the worst one. */
static errors errors_of(const char *container)
{
    errors e = {0};
    status st = STATUS_INIT;
    source *s = source_open_pack(container, &st);
    cr_assert(s, "%s", st.text);
    for (int i = 0; i < s->weights; i++) {
        const weight *w = &s->weight[i];
        if (type_of(w->type)->safetensors)
            continue;
        e.tensors++;
        e.mean += (double)w->error;
        if ((double)w->error > e.worst) {
            e.worst = (double)w->error;
            snprintf(e.where, sizeof e.where, "%.127s", w->name);
        }
    }
    source_close(s);
    e.mean /= e.tensors;
    return e;
}

static errors quantized(const source *from, const convert_component *component, int components, weight_type type)
{
    status st = STATUS_INIT;
    convert_report report;
    const char *folder = getenv("TMPDIR");
    char *out = mem_format(&st, "%s/penstock-trained-%ld", folder ? folder : "/tmp", (long)getpid());
    convert_request q = {.from = from, .out = out, .type = type, .components = components, .component = component, .threads = 2};
    cr_assert(convert(&q, &report, &st), "%s", st.text);
    errors e = errors_of(out);
    e.bits = report.bits;
    convert_report_free(&report);
    unlink(out);
    mem_free(out);
    if (getenv("PENSTOCK_REPORT"))
        printf("# %s %s: %d tensors, %.3f bits, mean %.4f, worst %.4f (%s)\n", from->path, type_of(type)->name, e.tensors, e.bits, e.mean,
               e.worst, e.where);
    return e;
}

static void hold_the_bars(const source *s, const convert_component *component, int components)
{
    errors q4 = quantized(s, component, components, TYPE_Q4), q5 = quantized(s, component, components, TYPE_Q5);
    errors q8 = quantized(s, component, components, TYPE_Q8);
    cr_assert(q4.bits <= 4.5 && q4.mean <= 0.073 && q4.worst <= 0.085, "q4: %g bits, mean %g, worst %g (%s)", q4.bits, q4.mean, q4.worst, q4.where);
    cr_assert(q5.bits <= 5.5 && q5.mean <= 0.041 && q5.worst <= 0.05, "q5: %g bits, mean %g, worst %g (%s)", q5.bits, q5.mean, q5.worst, q5.where);
    cr_assert(q8.bits <= 8.5 && q8.mean <= 0.01, "q8: %g bits, mean %g, worst %g (%s)", q8.bits, q8.mean, q8.worst, q8.where);
}

Test(trained, the_model_that_ships)
{
    status st = STATUS_INIT;
    char *path = mem_format(&st, "%s/../../share/penstock-small.penstock", getenv("PENSTOCK_FIXTURES"));
    if (access(path, R_OK) != 0)
        cr_skip_test("built without the small model");
    plan plans[8];
    convert_component component[8];
    source *s = source_open(path, &st);
    int n = s ? pipeline_record(s, plans, 8, &st) : 0;
    cr_assert(status_ok(&st), "%s", st.text);
    for (int i = 0; i < n; i++)
        component[i] = (convert_component){.name = plans[i].stage, .plan = &plans[i]};
    hold_the_bars(s, component, n);
    for (int i = 0; i < n; i++)
        plan_free(&plans[i]);
    source_close(s);
    mem_free(path);
}

/* A folder without a pipeline: every matrix is an inner layer, but for the first and the last of the file. */
Test(trained, the_folder_that_the_environment_names)
{
    const char *folder = getenv("PENSTOCK_TRAINED");
    if (!folder)
        cr_skip_test("PENSTOCK_TRAINED names no folder");
    status st = STATUS_INIT;
    source *s = source_open(folder, &st);
    cr_assert(s, "%s", st.text);
    plan p = {.stage = "", .use = mem_alloc((size_t)s->weights, sizeof *p.use, "test", &st)};
    for (int i = 0; i < s->weights; i++) {
        const weight *w = &s->weight[i];
        weight_role role = w->dims < 2 ? ROLE_VECTOR : w->matrix.taps > 1 ? ROLE_CONV : ROLE_LINEAR;
        p.use[p.uses++] = (plan_use){.weight = w, .role = role, .matrix = w->matrix};
    }
    convert_component component = {.name = "", .plan = &p};
    hold_the_bars(s, &component, 1);
    mem_free(p.use);
    source_close(s);
}
