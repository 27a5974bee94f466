/* inspect: what is inside a model. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/networks.h"
#include "tools/command.h"
#include "tools/sizes.h"

enum { MOST_STORED = 16 };

typedef struct tally {
    uint64_t tensors, parameters, bytes;
    uint64_t of_type[TYPE_COUNT];   /* parameters */
    struct { const char *name; uint64_t parameters; } of_stored[MOST_STORED]; /* of formats that only their reader knows, in order of appearance */
    double error, error_weight;     /* sum of error^2 x parameters where known, and those parameters */
    double errors;                  /* of what is quantized, where known: their sum, their number, the worst */
    uint64_t quantized;
    double output, output_plain;    /* of what is calibrated: the errors of outputs, summed, with and without */
    uint64_t calibrated;
    const weight *worst;
} tally;

static uint64_t parameters_of(const weight *w)
{
    uint64_t n = 1;
    for (int d = 0; d < w->dims; d++)
        n *= (uint64_t)w->shape[d];
    return n;
}

static uint64_t bytes_of(const weight *w)
{
    uint64_t n = 0;
    for (int i = 0; i < w->parts; i++)
        n += w->part[i].bytes;
    return w->stored ? w->stored_bytes : n;
}

static const char *type_name(const weight *w) { return w->stored ? w->stored : type_of(w->type)->name; }

static void count_type(tally *t, const weight *w, uint64_t n)
{
    if (!w->stored) {
        t->of_type[w->type] += n;
        return;
    }
    int i = 0;
    while (i < MOST_STORED - 1 && t->of_stored[i].name && strcmp(t->of_stored[i].name, w->stored) != 0)
        i++;
    t->of_stored[i].name = w->stored;
    t->of_stored[i].parameters += n;
}

static void count(tally *t, const weight *w)
{
    uint64_t n = parameters_of(w);
    t->tensors++;
    t->parameters += n;
    t->bytes += bytes_of(w);
    count_type(t, w, n);
    if (!isnan(w->error)) {
        t->error += (double)w->error * w->error * (double)n;
        t->error_weight += (double)n;
    }
    if (!isnan(w->error) && !type_of(w->type)->safetensors) {
        t->errors += (double)w->error;
        t->quantized++;
        if (w->output_plain > 0) {
            t->output += (double)w->output_error;
            t->output_plain += (double)w->output_plain;
            t->calibrated++;
        }
        t->worst = !t->worst || w->error > t->worst->error ? w : t->worst;
    }
}

static double bits(const tally *t) { return t->parameters ? 8.0 * (double)t->bytes / (double)t->parameters : 0; }
static bool error_known(const tally *t) { return t->parameters && t->error_weight == (double)t->parameters; }
static double mean_error(const tally *t) { return sqrt(t->error / t->error_weight); }

/* Of the quantized tensors, each of which counts once; absent where nothing is known. */
static void add_errors(json_object *j, const tally *t)
{
    if (!t->quantized)
        return;
    json_object_object_add(j, "error_mean", json_object_new_double(t->errors / (double)t->quantized));
    json_object_object_add(j, "error_worst", json_object_new_double(t->worst->error));
    if (t->calibrated) {
        json_object_object_add(j, "calibrated", json_object_new_uint64(t->calibrated));
        json_object_object_add(j, "output_error_mean", json_object_new_double(t->output / (double)t->calibrated));
        json_object_object_add(j, "output_error_plain_mean", json_object_new_double(t->output_plain / (double)t->calibrated));
    }
    json_object_object_add(j, "worst_component", json_object_new_string(t->worst->component));
    json_object_object_add(j, "worst_tensor", json_object_new_string(t->worst->name));
}

static void add_tally(json_object *j, const tally *t)
{
    json_object *types = json_object_new_object();
    json_object_object_add(j, "tensors", json_object_new_uint64(t->tensors));
    json_object_object_add(j, "parameters", json_object_new_uint64(t->parameters));
    json_object_object_add(j, "bytes", json_object_new_uint64(t->bytes));
    json_object_object_add(j, "bits_per_weight", json_object_new_double(bits(t)));
    for (int i = 0; i < TYPE_COUNT; i++)
        if (t->of_type[i])
            json_object_object_add(types, type_of((weight_type)i)->name, json_object_new_uint64(t->of_type[i]));
    for (int i = 0; i < MOST_STORED && t->of_stored[i].name; i++)
        json_object_object_add(types, t->of_stored[i].name, json_object_new_uint64(t->of_stored[i].parameters));
    json_object_object_add(j, "parameters_by_type", types);
    json_object_object_add(j, "quantization_error", error_known(t) ? json_object_new_double(mean_error(t)) : NULL);
    add_errors(j, t);
}

static json_object *tensor_row(const weight *w)
{
    json_object *j = json_object_new_object(), *shape = json_object_new_array();
    for (int d = 0; d < w->dims; d++)
        json_object_array_add(shape, json_object_new_int64(w->shape[d]));
    json_object_object_add(j, "component", json_object_new_string(w->component));
    json_object_object_add(j, "name", json_object_new_string(w->name));
    json_object_object_add(j, "shape", shape);
    json_object_object_add(j, "type", json_object_new_string(type_name(w)));
    json_object_object_add(j, "bytes", json_object_new_uint64(bytes_of(w)));
    json_object_object_add(j, "rotation", json_object_new_int(w->rotation_log2 ? 1 << w->rotation_log2 : 0));
    json_object_object_add(j, "error", isnan(w->error) ? NULL : json_object_new_double(w->error));
    if (w->output_plain > 0) {
        json_object_object_add(j, "output_error", json_object_new_double(w->output_error));
        json_object_object_add(j, "output_error_plain", json_object_new_double(w->output_plain));
    }
    return j;
}

static void print_tensor(const weight *w)
{
    char shape[128] = "";
    for (int d = 0, n = 0; d < w->dims && n < 100; d++)
        n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%" PRId64, d ? "x" : "", w->shape[d]);
    printf("%-16s %-72s %-18s %-8s %12" PRIu64, w->component, w->name, shape, type_name(w), bytes_of(w));
    printf(isnan(w->error) ? "" : "  %.4f", w->error);
    printf(w->output_plain > 0 ? "  outputs %.4f, uncalibrated %.4f\n" : "\n", w->output_error, w->output_plain);
}

static void print_tally(const char *name, const tally *t)
{
    char size[SIZE_TEXT];
    printf("%-20s %8" PRIu64 " %15" PRIu64 " %9s %7.3f", name, t->tensors, t->parameters, size_text(t->bytes, size), bits(t));
    if (error_known(t))
        printf("  %7.4f ", mean_error(t));
    else
        printf("  %7s ", "-");
    for (int i = 0; i < TYPE_COUNT; i++)
        if (t->of_type[i])
            printf(" %s %.1f%%", type_of((weight_type)i)->name, 100.0 * (double)t->of_type[i] / (double)t->parameters);
    for (int i = 0; i < MOST_STORED && t->of_stored[i].name; i++)
        printf(" %s %.1f%%", t->of_stored[i].name, 100.0 * (double)t->of_stored[i].parameters / (double)t->parameters);
    printf("\n");
}

/* What quantizing cost, by type: the mean over its tensors, and the worst of them. */
static void print_types(const tally *type)
{
    char size[SIZE_TEXT];
    printf("\n%-20s %8s %15s %9s %7s  %7s %7s  %s\n", "type", "tensors", "parameters", "size", "bits", "mean", "worst", "worst tensor");
    for (int i = 0; i < TYPE_COUNT; i++) {
        const tally *t = &type[i];
        if (!t->tensors)
            continue;
        printf("%-20s %8" PRIu64 " %15" PRIu64 " %9s %7.3f", type_of((weight_type)i)->name, t->tensors, t->parameters, size_text(t->bytes, size),
               bits(t));
        if (t->quantized)
            printf("  %7.4f %7.4f  %s%s%s", t->errors / (double)t->quantized, t->worst->error, t->worst->component,
                   *t->worst->component ? "/" : "", t->worst->name);
        printf("\n");
    }
}

typedef struct budget {
    uint64_t parameters[ROLE_COUNT], bytes[ROLE_COUNT];
} budget;

static budget budget_of(const source *s, const tally *part, status *st)
{
    budget b = {{0}, {0}};
    for (int c = 0; c < s->components; c++) {
        network_role role = component_role(s, s->component[c], st);
        b.parameters[role] += part[c].parameters;
        b.bytes[role] += part[c].bytes;
    }
    return b;
}

/* As the field quotes a model: parameters of encoder, denoiser and decoder, and their shares. */
static void print_budget(const budget *b, const tally *all)
{
    char size[SIZE_TEXT];
    if (!all->parameters)
        return;
    printf("\n%-20s %15s %7s %9s\n", "role", "parameters", "share", "size");
    for (int i = 0; i < ROLE_COUNT; i++)
        if (b->parameters[i])
            printf("%-20s %13.3f B %5.1f %% %9s\n", role_name((network_role)i), (double)b->parameters[i] / 1e9,
                   100 * (double)b->parameters[i] / (double)all->parameters, size_text(b->bytes[i], size));
}

static json_object *budget_rows(const budget *b, const tally *all)
{
    json_object *rows = json_object_new_object();
    for (int i = 0; i < ROLE_COUNT; i++) {
        if (!b->parameters[i])
            continue;
        json_object *row = json_object_new_object();
        json_object_object_add(row, "parameters", json_object_new_uint64(b->parameters[i]));
        json_object_object_add(row, "share", json_object_new_double((double)b->parameters[i] / (double)all->parameters));
        json_object_object_add(row, "bytes", json_object_new_uint64(b->bytes[i]));
        json_object_object_add(rows, role_name((network_role)i), row);
    }
    return rows;
}

static void print_calibration(const source *s, const tally *type)
{
    printf("\ncalibrated with %d prompts; mean relative error of the layers' outputs, and without it:\n", s->calibration_prompts);
    for (int i = 0; i < TYPE_COUNT; i++)
        if (type[i].calibrated)
            printf("%-20s %8" PRIu64 " %45.4f %7.4f\n", type_of((weight_type)i)->name, type[i].calibrated, type[i].output / (double)type[i].calibrated,
                   type[i].output_plain / (double)type[i].calibrated);
}

static void for_people(const source *s, const tally *part, const tally *all, const tally *type, const budget *b, bool tensors)
{
    printf("%s: %s, %d component%s\n\n", s->path, s->container ? "container" : s->single ? "single file" : "folder", s->components, s->components == 1 ? "" : "s");
    printf("%-20s %8s %15s %9s %7s  %7s  %s\n", "component", "tensors", "parameters", "size", "bits", "error", "types");
    for (int c = 0; c < s->components; c++)
        print_tally(*s->component[c] ? s->component[c] : ".", &part[c]);
    print_tally("all", all);
    if (all->tensors) {
        print_budget(b, all);
        print_types(type);
    } else
        printf("\nno weights, only configurations: quantize --random makes some, plan says what they would need\n");
    if (s->calibration_prompts)
        print_calibration(s, type);
    if (s->blobs)
        printf("\nfiles:");
    for (int i = 0; i < s->blobs; i++)
        printf(" %s", s->blob[i].name);
    printf(s->blobs ? "\n" : "");
    if (tensors)
        printf("\n");
    for (int i = 0; tensors && i < s->weights; i++)
        print_tensor(&s->weight[i]);
}

static json_object *type_rows(const tally *type)
{
    json_object *rows = json_object_new_object();
    for (int i = 0; i < TYPE_COUNT; i++) {
        const tally *t = &type[i];
        if (!t->tensors)
            continue;
        json_object *row = json_object_new_object();
        json_object_object_add(row, "tensors", json_object_new_uint64(t->tensors));
        json_object_object_add(row, "parameters", json_object_new_uint64(t->parameters));
        json_object_object_add(row, "bytes", json_object_new_uint64(t->bytes));
        json_object_object_add(row, "bits_per_weight", json_object_new_double(bits(t)));
        add_errors(row, t);
        json_object_object_add(rows, type_of((weight_type)i)->name, row);
    }
    return rows;
}

static void for_machines(const source *s, const tally *part, const tally *all, const tally *type, const budget *b, bool tensors)
{
    json_object *j = json_object_new_object(), *components = json_object_new_array(), *files = json_object_new_array();
    json_object_object_add(j, "model", json_object_new_string(s->path));
    json_object_object_add(j, "container", json_object_new_boolean(s->container));
    if (s->calibration_prompts)
        json_object_object_add(j, "calibration_prompts", json_object_new_int(s->calibration_prompts));
    add_tally(j, all);
    for (int c = 0; c < s->components; c++) {
        json_object *row = json_object_new_object();
        json_object_object_add(row, "name", json_object_new_string(s->component[c]));
        add_tally(row, &part[c]);
        json_object_array_add(components, row);
    }
    json_object_object_add(j, "components", components);
    json_object_object_add(j, "roles", budget_rows(b, all));
    json_object_object_add(j, "types", type_rows(type));
    for (int i = 0; i < s->blobs; i++)
        json_object_array_add(files, json_object_new_string(s->blob[i].name));
    json_object_object_add(j, "files", files);
    if (tensors) {
        json_object *rows = json_object_new_array();
        for (int i = 0; i < s->weights; i++)
            json_object_array_add(rows, tensor_row(&s->weight[i]));
        json_object_object_add(j, "tensor_list", rows);
    }
    print_json(j);
}

bool cmd_inspect(const options *o, status *st)
{
    enum { MOST = 64 };
    tally part[MOST] = {0}, all = {0}, type[TYPE_COUNT] = {0};
    source *s = o->argument.count || o->model ? open_named(o->model ? o->model : o->argument.item[0], st) : open_model(o, st);
    if (!s)
        return false;
    if (s->components > MOST)
        status_set(st, STATUS_BAD_FILE, "%s: %d components", s->path, s->components);
    for (int i = 0; status_ok(st) && i < s->weights; i++) {
        count(&all, &s->weight[i]);
        if (!s->weight[i].stored) /* what another tool's quantizing cost is not known */
            count(&type[s->weight[i].type], &s->weight[i]);
        for (int c = 0; c < s->components; c++)
            if (strcmp(s->component[c], s->weight[i].component) == 0)
                count(&part[c], &s->weight[i]);
    }
    budget b = status_ok(st) ? budget_of(s, part, st) : (budget){{0}, {0}};
    if (status_ok(st))
        (o->json ? for_machines : for_people)(s, part, &all, type, &b, o->list_tensors);
    source_close(s);
    return status_ok(st);
}
