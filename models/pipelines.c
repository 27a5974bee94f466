#include "models/pipelines.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "import/json.h"
#include "models/networks.h"
#include "models/pipe_common.h"

/* What runs by itself: by the class of model_index.json, or of a lone component's config.json (its architecture, or model_type). */
static const struct { const char *class_name, *model_type; const pipeline_row *row; } classes[] = {
    {"AmusedImg2ImgPipeline", NULL, &pipeline_amused},
    {"AmusedInpaintPipeline", NULL, &pipeline_amused},
    {"AmusedPipeline", NULL, &pipeline_amused},
    {"AutoencoderKL", NULL, &pipeline_vae},
    {"AutoencoderTiny", NULL, &pipeline_vae},
    {"CLIPModel", "clip", &pipeline_clip},
    {"CLIPTextModel", "clip_text_model", &pipeline_clip},
    {"CLIPTextModelWithProjection", NULL, &pipeline_clip},
    {"IFImg2ImgPipeline", NULL, &pipeline_cascade},
    {"IFImg2ImgSuperResolutionPipeline", NULL, &pipeline_cascade},
    {"IFInpaintingPipeline", NULL, &pipeline_cascade},
    {"IFInpaintingSuperResolutionPipeline", NULL, &pipeline_cascade},
    {"IFPipeline", NULL, &pipeline_cascade},
    {"IFSuperResolutionPipeline", NULL, &pipeline_cascade},
    {"Kandinsky3Img2ImgPipeline", NULL, &pipeline_kandinsky3},
    {"Kandinsky3Pipeline", NULL, &pipeline_kandinsky3},
    {"LDMBertModel", "ldmbert", &pipeline_ldmbert},
    {"LDMTextToImagePipeline", NULL, &pipeline_sd_ldm},
    {"LatentConsistencyModelImg2ImgPipeline", NULL, &pipeline_sd_lcm},
    {"LatentConsistencyModelPipeline", NULL, &pipeline_sd_lcm},
    {"PipelineMuse", NULL, &pipeline_muse},
    {"PixArtAlphaPipeline", NULL, &pipeline_pixart_alpha},
    {"PixArtSigmaPipeline", NULL, &pipeline_pixart_sigma},
    {"StableDiffusionImg2ImgPipeline", NULL, &pipeline_sd},
    {"StableDiffusionInpaintPipeline", NULL, &pipeline_sd},
    {"StableDiffusionPipeline", NULL, &pipeline_sd},
    {"StableDiffusionUpscalePipeline", NULL, &pipeline_cascade},
    {"StableDiffusionXLImg2ImgPipeline", NULL, &pipeline_sd_xl},
    {"StableDiffusionXLInpaintPipeline", NULL, &pipeline_sd_xl},
    {"StableDiffusionXLPipeline", NULL, &pipeline_sd_xl},
    {"T5EncoderModel", "t5", &pipeline_t5},
    {"T5ForConditionalGeneration", NULL, &pipeline_t5},
    {"T5Model", NULL, &pipeline_t5},
    {"VQModel", NULL, &pipeline_vae},
    {"taming.models.vqgan.GumbelVQ", NULL, &pipeline_vae},
    {"taming.models.vqgan.VQModel", NULL, &pipeline_vae},
};
enum { CLASSES = sizeof classes / sizeof *classes };

/* A sentence has no room for them all: the shortest name of each pipeline's classes stands for the others. */
static bool names_its_pipeline(int at)
{
    for (int i = 0; i < CLASSES; i++) {
        size_t here = strlen(classes[at].class_name), there = strlen(classes[i].class_name);
        if (classes[i].row == classes[at].row && (there < here || (there == here && i < at)))
            return false;
    }
    return true;
}

static const pipeline_row *by_class(const char *class_name, const char *type, const char *name, status *st)
{
    for (int i = 0; i < CLASSES; i++)
        if (strcmp(classes[i].class_name, class_name) == 0)
            return classes[i].row;
    for (int i = 0; i < CLASSES; i++)
        if (!class_name[0] && classes[i].model_type && strcmp(classes[i].model_type, type) == 0)
            return classes[i].row;
    char known[320] = "";
    size_t n = 0;
    for (int i = 0; i < CLASSES && n < sizeof known; i++)
        if (names_its_pipeline(i))
            n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", classes[i].class_name);
    status_set(st, STATUS_BAD_FILE, "%s: \"%.60s\" is nothing that penstock runs by itself; it runs the kin of %s", name, class_name[0] ? class_name : type, known);
    return NULL;
}

static const char *class_of(const json *j, bool bare, const char *name, status *st)
{
    const json *list = bare ? json_member(j, "architectures") : NULL;
    if (list && json_object_is_type(list, json_type_array) && json_object_array_length(list))
        return json_object_get_string(json_object_array_get_idx(list, 0));
    return json_text(j, "_class_name", "", name, st);
}

static const pipeline_row *row_of(const source *src, status *st)
{
    char name[FILE_NAME_BYTES];
    bool bare = source_has_component(src, "");
    json *j = read_config(src, "", bare ? "config.json" : "model_index.json", name, st);
    if (!j)
        return NULL;
    const pipeline_row *row = by_class(class_of(j, bare, name, st), bare ? json_text(j, "model_type", "", name, st) : "", name, st);
    json_free(j);
    return row;
}

static uint64_t bytes_read(const source *src)
{
    uint64_t n = 0;
    for (int i = 0; i < src->files; i++)
        n += io_can_map(src->file[i]) ? io_bytes_read(src->file[i]) : 0; /* a view's bytes were read from another one */
    return n;
}

/* Those that take a picture to begin with, a mask and a refiner. */
static const pipeline_row *const with_pictures[] = {&pipeline_amused, &pipeline_muse, &pipeline_cascade, &pipeline_kandinsky3, &pipeline_sd, &pipeline_sd_lcm, &pipeline_sd_ldm, &pipeline_sd_xl};

static bool takes_all(const pipeline_row *row, const source *src, const request *q, status *st)
{
    const char *given = q->init ? "--init-img" : q->mask ? "--mask" : q->refiner ? "--refiner" : NULL;
    for (size_t i = 0; given && i < sizeof with_pictures / sizeof *with_pictures; i++)
        if (with_pictures[i] == row)
            given = NULL;
    if (q->temperature_given && row != &pipeline_amused && row != &pipeline_muse)
        return status_set(st, STATUS_USAGE, "--temperature: %s draws no tokens", src->path);
    if (q->cascades && row != &pipeline_cascade)
        return status_set(st, STATUS_USAGE, "--cascade: %s is no first stage of one", src->path);
    if (q->null_embedding && row != &pipeline_kandinsky3)
        return status_set(st, STATUS_USAGE, "--null-embedding: %s knows none; Kandinsky 3 may", src->path);
    return !given || status_set(st, STATUS_USAGE, "%s: %s makes pictures from text alone", given, src->path);
}

bool pipeline_generate(const source *src, const request *q, result *out, status *st)
{
    *out = (result){0};
    uint64_t before = bytes_read(src);
    const pipeline_row *row = row_of(src, st);
    bool ok = row && takes_all(row, src, q, st) && row->generate(src, q, out, st);
    out->bytes_read = bytes_read(src) - (q->items ? before : 0);
    return ok;
}

bool pipeline_encode(const source *src, const request *q, trace *to, result *out, status *st)
{
    *out = (result){0};
    uint64_t before = bytes_read(src);
    const pipeline_row *row = row_of(src, st);
    bool ok = row && row->encode(src, q, to, out, st);
    out->bytes_read = bytes_read(src) - (q->items ? before : 0);
    return ok;
}

bool pipeline_decode(const source *src, const request *q, const float *latents, const int64_t shape[4], result *out, status *st)
{
    *out = (result){0};
    const pipeline_row *row = row_of(src, st);
    return row && row->decode(src, q, latents, shape, out, st);
}

bool pipeline_plan(const source *src, const request *q, result *out, status *st)
{
    *out = (result){0};
    const pipeline_row *row = row_of(src, st);
    return row && takes_all(row, src, q, st) && row->plan(src, q, out, st);
}

bool pipeline_takes_many(const source *src, status *st)
{
    const pipeline_row *row = row_of(src, st);
    return row && row->many;
}

void result_free(result *r)
{
    mem_free(r->rgb);
    r->rgb = NULL;
}

/* ---- the quantizer's view: each component's order of use, at any size ---- */

/* In the order of a picture's making, which is the order of the container. */
static const char *const order[] = {"", "text_encoder", "text_encoder_2", "text_encoder_3", "bert", "prior", "transformer", "unet", "vae", "vqvae", "movq"};

static bool record_component(const source *src, const char *component, const network_row *net, const void *config, plan *p, status *st)
{
    run *r = mem_alloc(1, sizeof *r, "plan", st);
    if (!r)
        return false;
    *p = (plan){.stage = component};
    *r = (run){.st = st, .plan = p, .k = kernels_best(), .pool = threads_open(1, st), .lever = {0, 1 << 24, 0}, .source = src, .component = component,
               .alias = net->alias, .imagine = source_lacks_weights(src, component)};
    bool ok = run_begin(r);
    if (ok)
        net->record(r, config);
    threads_close(r->pool);
    mem_free(r);
    return status_ok(st);
}

static bool record_one(const source *src, const char *component, plan *p, status *st)
{
    char name[FILE_NAME_BYTES];
    json *j = read_config(src, component, "config.json", name, st);
    const network_row *net = j ? network_of(j, name, st) : NULL;
    void *config = net ? mem_alloc(1, net->config_bytes, "config", st) : NULL;
    bool ok = config && net->config_read(config, j, name, st) && record_component(src, component, net, config, p, st);
    mem_free(config);
    json_free(j);
    return ok;
}

/* The components of the model itself (stage 1), or of a further stage, which has a folder of its own. */
static int record_stage(const source *src, int number, plan *plans, int n, int room, status *st)
{
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        char folder[24] = "", wanted[64];
        if (number > 1)
            snprintf(folder, sizeof folder, "stage%d/", number);
        snprintf(wanted, sizeof wanted, "%s%s", folder, order[i]);
        for (int k = 0; k < src->components && n < room && status_ok(st); k++)
            if (strcmp(src->component[k], wanted) == 0) {
                plans[n] = (plan){.stage = src->component[k]};
                n += record_one(src, src->component[k], &plans[n], st) || !status_ok(st); /* what a failure left is freed below */
            }
    }
    return n;
}

int pipeline_record(const source *src, plan *plans, int room, status *st)
{
    int n = 0;
    for (int number = 1; number <= 9; number++)
        n = record_stage(src, number, plans, n, room, st);
    if (status_ok(st) && n == 0)
        status_set(st, STATUS_BAD_FILE, "%s: has no component that penstock knows", src->path);
    if (status_ok(st))
        return n;
    for (int i = 0; i < n; i++)
        plan_free(&plans[i]);
    return -1;
}
