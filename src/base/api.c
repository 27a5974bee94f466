/* The public face. It lies in base by its header, but stands on top of everything: pipeline.h underneath. */
#include "base/penstock.h"

#include <math.h>
#include <string.h>

#include "base/environment.h"
#include "base/mem.h"
#include "base/output.h"
#include "base/paths.h"
#include "image/image_png.h"
#include "image/parameters.h"
#include "models/pipeline.h"

struct penstock_model {
    source *source;
};

/* The two structures say the same; penstock_error stays as it is when status changes. e may be NULL. */
static status begin(const penstock_error *e)
{
    status st = STATUS_INIT;
    if (e && e->code)
        status_set(&st, (status_code)e->code, "%s", e->text);
    return st;
}

static bool end(const status *st, penstock_error *e)
{
    if (e && !e->code && !status_ok(st)) {
        e->code = (int)st->code;
        e->least_bytes = st->least_bytes;
        memcpy(e->text, st->text, sizeof e->text);
        e->text[sizeof e->text - 1] = 0;
    }
    return status_ok(st);
}

penstock_model *penstock_open(const char *path, penstock_error *e)
{
    status st = begin(e);
    environment_check(&st);
    char *found = path || !status_ok(&st) ? NULL : paths_model(&st);
    penstock_model *m = status_ok(&st) ? mem_alloc(1, sizeof *m, "model", &st) : NULL;
    if (m)
        m->source = source_open(path ? path : found, &st);
    mem_free(found);
    if (!end(&st, e)) {
        penstock_close(m);
        return NULL;
    }
    return m;
}

void penstock_close(penstock_model *model)
{
    if (!model)
        return;
    if (model->source)
        source_close(model->source);
    mem_free(model);
}

penstock_options penstock_defaults(void)
{
    return (penstock_options){.size = sizeof(penstock_options), .guidance_scale = NAN, .batch_count = 1};
}

static bool request_of(const penstock_model *model, const penstock_options *given, request *q, status *st)
{
    if (!model)
        return status_set(st, STATUS_USAGE, "model: none was opened");
    penstock_options o = penstock_defaults();
    if (given->size < offsetof(penstock_options, progress))
        return status_set(st, STATUS_USAGE, "penstock_options: size is %zu: start from penstock_defaults()", given->size);
    memcpy(&o, given, given->size < sizeof o ? given->size : sizeof o);
    *q = (request){
        .prompt = o.prompt, .negative_prompt = o.negative_prompt, .width = o.width, .height = o.height, .steps = o.steps,
        .guidance_scale = o.guidance_scale, .sampling_method = o.sampling_method, .scheduler = o.scheduler, .seed = o.seed,
        .batch_count = o.batch_count < 1 ? 1 : o.batch_count, .max_sequence_length = o.max_sequence_length,
        .precision = o.full_precision ? PRECISION_F32 : PRECISION_AUTO, .threads = o.threads, .budget_bytes = o.budget_bytes,
        .scratch = o.scratch, .progress = o.progress, .progress_ctx = o.progress_ctx,
    };
    if (isinf(q->guidance_scale))
        return status_set(st, STATUS_USAGE, "guidance_scale: must be a number");
    return q->prompt || status_set(st, STATUS_USAGE, "prompt: none was given");
}

bool penstock_generate(penstock_model *model, const penstock_options *o, penstock_picture *out, penstock_error *e)
{
    status st = begin(e);
    request q;
    result r = {0};
    *out = (penstock_picture){0};
    if (status_ok(&st) && request_of(model, o, &q, &st) && pipeline_generate(model->source, &q, &r, &st)) {
        *out = (penstock_picture){r.images, r.width, r.height, r.rgb, r.seed, r.seconds_total};
        r.rgb = NULL;   /* the picture's now */
    }
    result_free(&r);
    return end(&st, e);
}

void penstock_picture_free(penstock_picture *picture)
{
    mem_free(picture->rgb);
    *picture = (penstock_picture){0};
}

static bool write_picture(const char *path, const source *src, const request *q, const result *r, status *st)
{
    const picture_settings s = {
        .prompt = q->prompt, .negative_prompt = q->negative_prompt, .sampler = r->sampler, .schedule = q->scheduler,
        .model = src->path, .steps = r->steps, .width = r->width, .height = r->height, .guidance_scale = r->guidance_scale,
        .seed = r->seed,
    };
    char *text = picture_parameters(&s, st);
    bool good = text && image_write_png(path, r->rgb, r->width, r->height, text, st);
    mem_free(text);
    return good;
}

bool penstock_generate_png(penstock_model *model, const penstock_options *o, const char *path, penstock_error *e)
{
    status st = begin(e);
    request q;
    result r = {0};
    if (!path)
        status_set(&st, STATUS_USAGE, "picture: no file was named");
    if (status_ok(&st) && output_check(path, &st) && request_of(model, o, &q, &st)) {
        q.batch_count = 1;
        if (pipeline_generate(model->source, &q, &r, &st))
            write_picture(path, model->source, &q, &r, &st);
    }
    result_free(&r);
    return end(&st, e);
}

bool penstock_plan(penstock_model *model, const penstock_options *o, penstock_needs *out, penstock_error *e)
{
    status st = begin(e);
    request q;
    result r = {0};
    *out = (penstock_needs){0};
    if (status_ok(&st) && request_of(model, o, &q, &st) && pipeline_plan(model->source, &q, &r, &st)) {
        *out = (penstock_needs){.peak_bytes = r.predicted_peak, .scratch_bytes = r.scratch_bytes, .width = r.width,
                                .height = r.height, .steps = r.steps};
        for (int i = 0; i < r.stages; i++) {
            out->stream_bytes += r.stage[i].stream_bytes;
            out->operations += r.stage[i].operations;
        }
    }
    result_free(&r);
    return end(&st, e);
}

const char *penstock_version(void) { return PACKAGE_VERSION; }
