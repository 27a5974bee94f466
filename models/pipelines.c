/* The table of pipelines, and what is asked of one: pipelines.h says in which order. */
#include "models/pipelines.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "import/json.h"
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

/* ---- what is asked of it ---- */

static uint64_t bytes_read(const source *src)
{
    uint64_t n = 0;
    for (int i = 0; i < src->files; i++)
        n += io_can_map(src->file[i]) ? io_bytes_read(src->file[i]) : 0; /* a view's bytes were read from another one */
    return n;
}

/* Nothing that was asked for is passed over in silence. */
static bool takes_all(const pipeline_row *row, const source *src, const request *q, status *st)
{
    const struct {
        bool given;
        unsigned needs;
        const char *option, *why;
    } asked[] = {
        {q->init != NULL, TAKES_PICTURES, "--init-img", "makes pictures from text alone"},
        {q->mask != NULL, TAKES_PICTURES, "--mask", "makes pictures from text alone"},
        {q->temperature_given, TAKES_TEMPERATURE, "--temperature", "draws no tokens"},
        {q->cascades > 0, TAKES_STAGES, "--cascade", "is no first stage of one"},
        {q->null_embedding, TAKES_NULL_EMBEDDING, "--null-embedding", "knows none; Kandinsky 3 may"},
        {q->refiner != NULL, TAKES_REFINERS, "--refiner", "hands nothing over; Stable Diffusion XL does"},
        {q->guidance_rescale > 0, TAKES_RESCALING, "--guidance-rescale", "does not rescale its guidance; Stable Diffusion does"},
        {q->tiny != NULL, TAKES_TINY, "--taesd", "has a decoder that it cannot stand in for; it can in Stable Diffusion and PixArt"},
        {q->clip_skip > 0, TAKES_CLIP_SKIP, "--clip-skip", "has no CLIP text encoder whose layer could be chosen"},
        {q->max_sequence_length > 0, TAKES_LENGTHS, "--max-sequence-length", "has a text encoder of one length"},
    };
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        if (asked[i].given && !(row->takes & asked[i].needs))
            return status_set(st, STATUS_USAGE, "%s: %s %s", asked[i].option, src->path, asked[i].why);
    return true;
}

/* The pipeline's structure, which begins with its engine; NULL with st set. */
static engine *open_run(const pipeline_row *row, const source *src, const request *q, result *out, status *st)
{
    engine *e = row ? mem_alloc(1, row->bytes, "pipeline", st) : NULL;
    if (!e || engine_open(e, src, q, out, st))
        return e;
    engine_close(e);
    mem_free(e);
    return NULL;
}

static void close_run(const pipeline_row *row, engine *e)
{
    if (!e)
        return;
    row->close(e);
    engine_close(e);
    mem_free(e);
}

static bool offers(const pipeline_row *row, bool it, const source *src, status *st)
{
    return it || status_set(st, STATUS_USAGE, "%s: is %s", src->path, row->alone);
}

static bool plan_and_describe(const pipeline_row *row, engine *e, bool planning, int *evaluations)
{
    if (!e || !row->plan(e, row->kind, planning))
        return false;
    *evaluations = row->describe(e);
    e->report->seed = e->request->seed;
    return true;
}

bool pipeline_generate(const source *src, const request *q, result *out, status *st)
{
    *out = (result){0};
    uint64_t before = bytes_read(src);
    double t0 = now_seconds();
    int evaluations;
    const pipeline_row *row = row_of(src, st);
    bool ok = row && takes_all(row, src, q, st) && offers(row, row->denoise != NULL, src, st);
    engine *e = ok ? open_run(row, src, q, out, st) : NULL;
    ok = plan_and_describe(row, e, false, &evaluations);
    double t1 = now_seconds();
    ok = ok && row->denoise(e);
    double t2 = now_seconds();
    ok = ok && row->finish(e);
    out->seconds_load = t1 - t0;
    out->seconds_decode += now_seconds() - t2;
    out->seconds_total = now_seconds() - t0;
    close_run(row, e);
    out->bytes_read = bytes_read(src) - (q->items ? before : 0);
    return ok;
}

bool pipeline_plan(const source *src, const request *q, result *out, status *st)
{
    *out = (result){0};
    const pipeline_row *row = row_of(src, st);
    engine *e = row && takes_all(row, src, q, st) ? open_run(row, src, q, out, st) : NULL;
    bool ok = plan_and_describe(row, e, true, &out->evaluations);
    close_run(row, e);
    return ok;
}

bool pipeline_encode(const source *src, const request *q, trace *to, result *out, status *st)
{
    *out = (result){0};
    uint64_t before = bytes_read(src);
    double t0 = now_seconds();
    const pipeline_row *row = row_of(src, st);
    engine *e = row && takes_all(row, src, q, st) && offers(row, row->encode != NULL, src, st) ? open_run(row, src, q, out, st) : NULL;
    bool ok = e && row->plan_text(e, row->kind);
    double t1 = now_seconds();
    ok = ok && row->encode(e, to, to || q->store || q->cache);
    out->seconds_load = t1 - t0;
    out->seconds_encode = now_seconds() - t1;
    out->seconds_total = now_seconds() - t0;
    close_run(row, e);
    out->bytes_read = bytes_read(src) - (q->items ? before : 0);
    return ok;
}

bool pipeline_decode(const source *src, const request *q, const float *latents, const int64_t shape[4], result *out, status *st)
{
    *out = (result){0};
    double t0 = now_seconds();
    const pipeline_row *row = row_of(src, st);
    engine *e = row && offers(row, row->decode != NULL, src, st) ? open_run(row, src, q, out, st) : NULL;
    bool ok = e && row->decode(e, row->kind, latents, shape);
    out->seconds_total = now_seconds() - t0;
    out->seconds_decode = 0;
    for (int i = 0; i < out->stages; i++)
        out->seconds_decode += out->stage[i].seconds;
    out->seconds_load = out->seconds_total - out->seconds_decode;
    out->bytes_read = bytes_read(src);
    close_run(row, e);
    return ok;
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
