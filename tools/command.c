#include "tools/command.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/output.h"
#include "base/paths.h"
#include "image/image_png.h"
#include "image/parameters.h"
#include "models/networks.h"
#include "sampling/sampler.h"
#include "tools/sizes.h"

const command commands[] = {
    {"generate", GENERATE, "", 0, 0, "Make a picture from a text.", cmd_generate},
    {"quantize", QUANTIZE, "SRC", 1, 1, "Make a container from a model's folder, or from configs alone with --random.", cmd_quantize},
    {"encode", ENCODE, "", 0, 0, "Run the text encoders alone and store what the denoiser would get.", cmd_encode},
    {"decode", DECODE, "", 0, 0, "Turn latents or token ids into a picture.", cmd_decode},
    {"inspect", INSPECT, "[MODEL]", 0, 1, "Say what is inside a model: components, parameters, types, errors.", cmd_inspect},
    {"plan", PLAN, "[MODEL...]", 0, 64, "Say what a run would need: memory by stage, bytes read, operations, time.", cmd_plan},
    {"verify", VERIFY, "[MODEL]", 0, 1, "Recompute every checksum of a container.", cmd_verify},
    {"bench", BENCH, "[WORD...]", 0, 16, "Measure this machine, and what ops and models reach of it (rows with one of the words).", cmd_bench},
    {"completion", COMPLETION, "", 0, 0, "Print the bash completion: source <(penstock completion)", cmd_completion},
    {NULL, 0, NULL, 0, 0, NULL, NULL},
};

bool cmd_completion(const options *o, status *st)
{
    (void)o;
    options_completion();
    return status_ok(st);
}

source *open_model(const options *o, status *st)
{
    const char *named = o->model ? o->model : o->argument.count ? o->argument.item[0] : NULL;
    char *found = named ? NULL : paths_model(st);
    source *src = named || found ? source_open(named ? named : found, st) : NULL;
    mem_free(found);
    return src;
}

/* The names of shipped dimensions that are near to one that is not there. */
static bool no_system(const char *named, status *st)
{
    enum { MOST = 255 };
    char *folder = paths_data("configs", st);
    struct dirent **found = NULL;
    const char *names[MOST + 1] = {NULL};
    int n = folder ? scandir(folder, &found, NULL, alphasort) : 0;
    for (int i = 0, k = 0; i < n && k < MOST; i++)
        if (found[i]->d_name[0] != '.')
            names[k++] = found[i]->d_name;
    const char *near = nearest(named, names);
    if (near)
        status_set(st, STATUS_BAD_FILE, "%s: no such file or folder, and no system of that name; did you mean %s?", named, near);
    else if (folder)
        status_set(st, STATUS_BAD_FILE, "%s: no such file or folder, and no system of that name: these are in %s", named, folder);
    for (int i = 0; i < n; i++)
        free(found[i]);
    free(found);
    mem_free(folder);
    return status_ok(st);
}

source *open_named(const char *named, status *st)
{
    if (access(named, F_OK) == 0 || strchr(named, '/'))
        return source_open(named, st);
    char *name = mem_format(st, "configs/%s", named), *found = name ? paths_data(name, st) : NULL;
    if (!found && status_ok(st))
        no_system(named, st);
    source *src = status_ok(st) ? source_open(found ? found : named, st) : NULL;
    mem_free(found);
    mem_free(name);
    return src;
}

/* "--cpu: no kernels are named NAME; ...": the one that was meant, or all there are. */
static bool not_among(const char *what, const char *name, const char *const *all, status *st)
{
    char list[256];
    const char *near = nearest(name, all);
    if (near)
        return status_set(st, STATUS_USAGE, "%s %.60s; did you mean %s?", what, name, near);
    return status_set(st, STATUS_USAGE, "%s %.60s; there are %s", what, name, names_in_line(all, list, sizeof list));
}

static bool known_kernels(const char *name, status *st)
{
    bool known = true;
    if (!name || kernels_by_name(name, &known))
        return true;
    if (known)
        return status_set(st, STATUS_USAGE, "--cpu: this processor has no %s", name);
    const char *all[] = {"scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "neon", "dotprod", "i8mm", NULL};
    return not_among("--cpu: no kernels are named", name, all, st);
}

static bool known_sampler(const char *name, status *st)
{
    const char *all[64];
    int n = 0;
    for (const sampler_row *row = sampler_table; row->method && n < 63; row++) {
        if (!name || strcmp(row->method, name) == 0)
            return true;
        all[n++] = row->method;
    }
    all[n] = NULL;
    return not_among("--sampling-method: no method is named", name, all, st);
}

bool cascade_open(request *q, const options *o, status *st)
{
    const source **list = o->cascade.count ? mem_alloc((size_t)o->cascade.count, sizeof *list, "cascade", st) : NULL;
    q->cascade = list;
    for (int i = 0; list && i < o->cascade.count && status_ok(st); i++)
        if ((list[i] = source_open(o->cascade.item[i], st)))
            q->cascades++;
    return status_ok(st);
}

void cascade_close(request *q)
{
    for (int i = 0; i < q->cascades; i++)
        source_close((source *)(uintptr_t)q->cascade[i]);
    mem_free((void *)(uintptr_t)q->cascade);
    q->cascade = NULL;
    q->cascades = 0;
}

/* What says something of another option, which is not there, would be passed over in silence. */
static bool in_company(const options *o, status *st)
{
    const struct {
        bool given, needed;
        const char *option, *of;
    } pairs[] = {
        {!isnan(o->strength), o->init_img || o->mask, "--strength", "--init-img"},
        {!isnan(o->refiner_start), o->refiner, "--refiner-start", "--refiner"},
        {o->taesd_preview_only, o->taesd, "--taesd-preview-only", "--taesd"},
        {o->tokens > 0 && o->prompt, false, "--tokens", NULL},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (pairs[i].given && !pairs[i].needed)
            return pairs[i].of ? status_set(st, STATUS_USAGE, "%s: is of %s, which is not given", pairs[i].option, pairs[i].of)
                               : status_set(st, STATUS_USAGE, "%s: stands in place of a prompt, and there is one; give one of them", pairs[i].option);
    return true;
}

bool make_request(const options *o, progress *p, request *q, status *st)
{
    *q = (request){
        .prompt = o->prompt, .negative_prompt = o->negative_prompt, .width = o->width, .height = o->height, .steps = o->steps,
        .guidance_scale = o->guidance_scale, .guidance_rescale = o->guidance_rescale, .strength = o->strength, .temperature = o->temperature, .temperature_given = !isnan(o->temperature), .clip_skip = o->clip_skip,
        .refiner_start = isnan(o->refiner_start) ? 0.8 : o->refiner_start, .null_embedding = o->null_embedding, .sampling_method = o->sampling_method, .scheduler = o->scheduler, .seed = o->seed,
        .batch_count = o->batch_count, .max_sequence_length = o->max_sequence_length, .tokens = o->tokens,
        .precision = strcmp(o->precision, "f32") == 0 ? PRECISION_F32 : PRECISION_AUTO, .kernels = o->kernels,
        .threads = o->threads, .budget_bytes = o->budget_bytes, .scratch = o->scratch,
        .embeddings = o->embeddings, .cache = o->command->bit == GENERATE && !o->no_cache, .load_latents = o->load_latents, .checkpoint = o->checkpoint,
        .progress = p ? progress_show : NULL, .progress_ctx = p,
    };
    return known_kernels(o->kernels, st) && known_sampler(o->sampling_method, st) && in_company(o, st);
}

char *picture_name(const char *first, int k, status *st)
{
    if (k == 0)
        return mem_string(first, st);
    const char *slash = strrchr(first, '/'), *dot = strrchr(first, '.');
    if (!dot || (slash && dot < slash) || dot == (slash ? slash + 1 : first))
        dot = first + strlen(first);
    return mem_format(st, "%.*s_%d%s", (int)(dot - first), first, k + 1, dot);
}

bool write_pictures(const options *o, const request *q, const char *model, const result *r, status *st)
{
    size_t bytes = (size_t)r->width * (size_t)r->height * 3;
    for (int k = 0; k < r->images && status_ok(st); k++) {
        const picture_settings s = {
            .prompt = q->prompt, .negative_prompt = q->negative_prompt, .sampler = r->sampler, .schedule = q->scheduler,
            .model = model, .steps = r->steps, .width = r->width, .height = r->height, .guidance_scale = r->guidance_scale,
            .seed = r->seed + (uint64_t)k,
        };
        /* decode knows nothing of a prompt */
        char *text = q->prompt ? picture_parameters(&s, st) : NULL, *name = picture_name(o->output, k, st);
        if (status_ok(st))
            image_write_png(name, r->rgb + (size_t)k * bytes, r->width, r->height, text, st);
        mem_free(text);
        mem_free(name);
    }
    return status_ok(st);
}

/* A file that is read and one that is written, or two that are written, must not be the same; devices may be. */
static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    bool has_x = stat(a, &x) == 0, has_y = stat(b, &y) == 0;
    if (has_x && has_y)
        return S_ISREG(x.st_mode) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
    return !has_x && !has_y && strcmp(a, b) == 0;
}

static bool distinct_outputs(const options *o, status *st)
{
    const struct { const char *option, *file; } all[] = {
        {"output", o->output}, {"trace", o->trace}, {"save-latents", o->save_latents}, {"checkpoint", o->checkpoint},
    };
    const size_t n = sizeof all / sizeof *all;
    for (size_t i = 0; i < n && status_ok(st); i++) {
        if (all[i].file && o->model && same_file(all[i].file, o->model))
            return status_set(st, STATUS_USAGE, "--%s: %s is the model itself", all[i].option, all[i].file);
        for (size_t k = 0; k < i; k++)
            if (all[i].file && all[k].file && same_file(all[i].file, all[k].file))
                return status_set(st, STATUS_USAGE, "--%s: %s is the file of --%s as well", all[i].option, all[i].file, all[k].option);
    }
    return true;
}

/* A name that promises another kind of picture. */
static bool picture_is_png(const options *o, status *st)
{
    static const char *const others[] = {".jpg", ".jpeg", ".jxl", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", NULL};
    const char *dot = o->output ? strrchr(o->output, '.') : NULL;
    if (o->output && strcmp(o->output, "-") == 0)
        return status_set(st, STATUS_USAGE, "--output: -: standard output has a report; for the picture there say -q -o /dev/stdout");
    for (const char *const *end = others; dot && *end; end++)
        if (strcasecmp(dot, *end) == 0)
            return status_set(st, STATUS_USAGE, "--output: %s: pictures are written as PNG; name it %.*s.png", o->output, (int)(dot - o->output), o->output);
    return true;
}

bool check_outputs(const options *o, status *st)
{
    if (!distinct_outputs(o, st) || (o->command->bit & (GENERATE | DECODE) && !picture_is_png(o, st)))
        return false;
    for (int k = 0; k < (o->command->bit == GENERATE ? o->batch_count : 1) && status_ok(st); k++) {
        char *name = picture_name(o->output, k, st);
        if (name)
            output_check(name, st);
        mem_free(name);
    }
    return status_ok(st) && (!o->trace || output_check(o->trace, st)) && (!o->save_latents || output_check(o->save_latents, st)) &&
           (!o->checkpoint || output_check(o->checkpoint, st));
}

void tell_cut(bool quiet, const result *r)
{
    if (r->tokens_cut > 0 && !quiet)
        fprintf(stderr, "penstock: prompt: cut, its last %d token%s do not fit the model's length\n", r->tokens_cut,
                r->tokens_cut == 1 ? "" : "s");
}

static void add_number(json_object *o, const char *key, uint64_t n) { json_object_object_add(o, key, json_object_new_uint64(n)); }

static void add_seconds(json_object *o, const char *key, double s)
{
    char text[32];
    snprintf(text, sizeof text, "%.6f", s);
    json_object_object_add(o, key, json_object_new_double_s(s, text));
}

static json_object *seconds_of(const result *r)
{
    json_object *s = json_object_new_object();
    add_seconds(s, "load", r->seconds_load);
    add_seconds(s, "encode", r->seconds_encode);
    add_seconds(s, "denoise", r->seconds_denoise);
    add_seconds(s, "decode", r->seconds_decode);
    add_seconds(s, "total", r->seconds_total);
    return s;
}

static json_object *stages_of(const result *r)
{
    json_object *all = json_object_new_array();
    for (int i = 0; i < r->stages; i++) {
        const stage_report *g = &r->stage[i];
        json_object *s = json_object_new_object();
        json_object_object_add(s, "name", json_object_new_string(g->name));
        add_seconds(s, "seconds", g->seconds);
        add_number(s, "resident_bytes", g->resident_bytes);
        add_number(s, "ring_bytes", g->ring_bytes);
        add_number(s, "arena_bytes", g->arena_bytes);
        add_number(s, "scratch_bytes", g->scratch_bytes);
        add_number(s, "stream_bytes", g->stream_bytes);
        add_number(s, "operations", g->operations);
        add_number(s, "parameters", g->parameters);
        json_object_object_add(s, "role", json_object_new_string(role_name(g->role)));
        json_object_object_add(s, "passes", json_object_new_int(g->passes));
        json_object_object_add(s, "slab_rows", json_object_new_int(g->slab_rows));
        json_object_array_add(all, s);
    }
    return all;
}

json_object *run_report(const options *o, const request *q, const result *r)
{
    json_object *j = json_object_new_object();
    json_object_object_add(j, "output", json_object_new_string(o->output));
    if (r->images > 1) {
        json_object *names = json_object_new_array();
        for (int k = 0; k < r->images; k++) {
            status st = STATUS_INIT;
            char *name = picture_name(o->output, k, &st);
            json_object_array_add(names, json_object_new_string(name ? name : ""));
            mem_free(name);
        }
        json_object_object_add(j, "outputs", names);
    }
    add_number(j, "seed", q->seed);
    json_object_object_add(j, "seconds", seconds_of(r));
    json_object_object_add(j, "evaluations", json_object_new_int(r->evaluations));
    add_number(j, "peak_rss_bytes", peak_memory());
    add_number(j, "bytes_read", r->bytes_read);
    add_number(j, "scratch_bytes", r->scratch_bytes);
    add_number(j, "budget_bytes", q->budget_bytes);
    json_object_object_add(j, "prompts_found", json_object_new_int(r->prompts_found));
    json_object_object_add(j, "first_call", json_object_new_int(r->first_call));
    json_object_object_add(j, "steps", json_object_new_int(r->steps));
    json_object_object_add(j, "width", json_object_new_int(r->width));
    json_object_object_add(j, "height", json_object_new_int(r->height));
    json_object_object_add(j, "sampler", json_object_new_string(r->sampler));
    if (!isnan(r->guidance_scale))
        json_object_object_add(j, "cfg_scale", json_object_new_double(r->guidance_scale));
    add_number(j, "predicted_peak_bytes", r->predicted_peak);
    json_object_object_add(j, "tokens_cut", json_object_new_int(r->tokens_cut));
    json_object_object_add(j, "stages", stages_of(r));
    return j;
}

void print_json(json_object *report)
{
    printf("%s\n", json_object_to_json_string_ext(report, JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(report);
}

static void print_stages(const result *r)
{
    char a[SIZE_TEXT], b[SIZE_TEXT], c[SIZE_TEXT], d[SIZE_TEXT];
    printf("%-20s %9s %9s %9s %9s %9s\n", "stage", "seconds", "resident", "in flight", "arena", "read");
    for (int i = 0; i < r->stages; i++)
        printf("%-20s %9.2f %9s %9s %9s %9s\n", r->stage[i].name, r->stage[i].seconds, size_text(r->stage[i].resident_bytes, a),
               size_text(r->stage[i].ring_bytes, b), size_text(r->stage[i].arena_bytes, c), size_text(r->stage[i].stream_bytes, d));
}

/* "out.png: ", "out.png ... out_4.png: " */
static void print_outputs(const options *o, int images)
{
    status st = STATUS_INIT;
    char *last = images > 1 ? picture_name(o->output, images - 1, &st) : NULL;
    printf("%s%s%s: ", o->output, last ? images > 2 ? " ... " : " " : "", last ? last : "");
    mem_free(last);
}

void print_report(const options *o, const request *q, const result *r)
{
    char peak[SIZE_TEXT];
    if (o->json) {
        print_json(run_report(o, q, r));
        return;
    }
    if (o->quiet)
        return;
    print_outputs(o, r->images);
    if (r->images > 0)
        printf("%dx%d, ", r->width, r->height);
    if (r->images > 0 && o->command->bit == GENERATE)
        printf("seed %" PRIu64 ", ", q->seed);
    printf("%.1f s, peak memory %s\n", r->seconds_total, size_text(peak_memory(), peak));
    if (o->verbose)
        print_stages(r);
}
