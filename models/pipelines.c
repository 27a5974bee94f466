#include "models/pipelines.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "import/json.h"
#include "models/net_pixart.h"
#include "models/net_t5.h"
#include "models/net_vae.h"
#include "models/pipe_common.h"

static const struct { const char *class_name; const pipeline_row *row; } classes[] = {
    {"PixArtAlphaPipeline", &pipeline_pixart_alpha}, {"PixArtSigmaPipeline", &pipeline_pixart_sigma},
};
static const char *const encoders[] = {"T5EncoderModel", "T5ForConditionalGeneration", "T5Model", "UMT5EncoderModel"};

static const pipeline_row *by_class(const char *class_name, const char *name, status *st)
{
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
        if (strcmp(classes[i].class_name, class_name) == 0)
            return classes[i].row;
    status_set(st, STATUS_BAD_FILE, "%s: %s is not a pipeline that penstock runs yet (PixArtAlphaPipeline and PixArtSigmaPipeline are)", name, class_name);
    return NULL;
}

static const pipeline_row *by_architecture(const json *j, const char *name, status *st)
{
    const json *list = json_member(j, "architectures");
    const char *first = list && json_object_is_type(list, json_type_array) && json_object_array_length(list) ? json_object_get_string(json_object_array_get_idx(list, 0)) : NULL;
    const char *type = json_text(j, "model_type", "", name, st);
    for (size_t i = 0; i < sizeof encoders / sizeof encoders[0] - 1; i++)
        if ((first && strcmp(first, encoders[i]) == 0) || (!first && strcmp(type, "t5") == 0))
            return &pipeline_t5;
    status_set(st, STATUS_BAD_FILE, "%s: no known network (architectures \"%s\", model_type \"%s\")", name, first ? first : "", type);
    return NULL;
}

static const pipeline_row *row_of(const source *src, status *st)
{
    char name[FILE_NAME_BYTES];
    bool bare = source_has_component(src, "");
    json *j = read_config(src, "", bare ? "config.json" : "model_index.json", name, st);
    if (!j)
        return NULL;
    const pipeline_row *row = bare ? by_architecture(j, name, st) : by_class(json_text(j, "_class_name", "", name, st), name, st);
    json_free(j);
    return row;
}

static uint64_t bytes_read(const source *src)
{
    uint64_t n = 0;
    for (int i = 0; i < src->files; i++)
        n += io_bytes_read(src->file[i]);
    return n;
}

bool pipeline_generate(const source *src, const request *q, result *out, status *st)
{
    *out = (result){0};
    const pipeline_row *row = row_of(src, st);
    bool ok = row && row->generate(src, q, out, st);
    out->bytes_read = bytes_read(src);
    return ok;
}

bool pipeline_encode(const source *src, const request *q, trace *to, result *out, status *st)
{
    *out = (result){0};
    const pipeline_row *row = row_of(src, st);
    bool ok = row && row->encode(src, q, to, out, st);
    out->bytes_read = bytes_read(src);
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
    return row && row->plan(src, q, out, st);
}

void result_free(result *r)
{
    mem_free(r->rgb);
    r->rgb = NULL;
}

/* ---- the quantizer's view: each component's order of use, at any size ---- */

typedef struct recording {
    t5_config t5;
    pixart_config pixart;
    vae_config vae;
} recording;

static void record_t5(run *r, const void *ctx)
{
    int32_t ids[1] = {0}, start[2] = {0, 1};
    segments s = {1, start};
    output(r, t5_encode(r, &((const recording *)ctx)->t5, ids, &s), NULL);
}

static void record_pixart(run *r, const void *ctx)
{
    const pixart_config *c = &((const recording *)ctx)->pixart;
    int32_t start[2] = {0, 1};
    pixart_inputs in = {.batch = 1, .height = c->patch, .width = c->patch, .segments = {1, start}};
    pixart_denoise(r, c, &in);
}

static void record_vae(run *r, const void *ctx)
{
    vae_decode(r, &((const recording *)ctx)->vae, NULL, 1, 2, 2, NULL);
}

static bool record_component(const source *src, const char *component, const name_alias *alias, void (*forward)(run *, const void *), const recording *c, plan *p, status *st)
{
    run *r = mem_alloc(1, sizeof *r, "plan", st);
    if (!r)
        return false;
    *p = (plan){.stage = component};
    *r = (run){.st = st, .plan = p, .k = kernels_best(), .pool = threads_open(1, st), .lever = {0, 1 << 24}, .source = src, .component = component, .alias = alias,
               .imagine = source_lacks_weights(src, component)};
    bool ok = run_begin(r);
    if (ok)
        forward(r, c);
    threads_close(r->pool);
    mem_free(r);
    return status_ok(st);
}

static bool record_one(const source *src, const char *component, plan *p, recording *c, status *st)
{
    char name[FILE_NAME_BYTES];
    json *j = read_config(src, component, "config.json", name, st);
    if (!j)
        return false;
    const char *class_name = json_text(j, "_class_name", "", name, st), *type = json_text(j, "model_type", "", name, st);
    bool ok = false;
    if (strcmp(class_name, "PixArtTransformer2DModel") == 0 || strcmp(class_name, "Transformer2DModel") == 0)
        ok = pixart_config_read(&c->pixart, j, name, st) && record_component(src, component, pixart_aliases, record_pixart, c, p, st);
    else if (strcmp(class_name, "AutoencoderKL") == 0)
        ok = vae_config_read(&c->vae, j, name, st) && record_component(src, component, vae_aliases, record_vae, c, p, st);
    else if (strcmp(type, "t5") == 0)
        ok = t5_config_read(&c->t5, j, name, st) && record_component(src, component, t5_aliases, record_t5, c, p, st);
    else
        status_set(st, STATUS_BAD_FILE, "%s: no known network (_class_name \"%s\", model_type \"%s\")", name, class_name, type);
    json_free(j);
    return ok;
}

int pipeline_record(const source *src, plan *plans, int room, status *st)
{
    static const char *const order[] = {"", "text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "unet", "vae"};
    int n = 0;
    recording c;
    for (size_t i = 0; i < sizeof order / sizeof order[0] && n < room && status_ok(st); i++) {
        for (int k = 0; k < src->components; k++)
            if (strcmp(src->component[k], order[i]) == 0 && record_one(src, src->component[k], &plans[n], &c, st))
                n++;
    }
    if (status_ok(st) && n == 0)
        status_set(st, STATUS_BAD_FILE, "%s: has no component that penstock knows", src->path);
    if (status_ok(st))
        return n;
    for (int i = 0; i < n; i++)
        plan_free(&plans[i]);
    return -1;
}
