/* generate: text to pictures. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/trace.h"
#include "image/image_png.h"
#include "tools/command.h"
#include "tools/prompts.h"
#include "tools/quantized.h"

static bool write_all(const options *o, const request *q, const source *src, const result *r, status *st)
{
    bool good = write_pictures(o, q, src->path, r, st);
    if (good && o->save_latents)
        good = trace_write(q->last_latents, o->save_latents, st);
    if (good && o->trace)
        good = trace_write(q->trace, o->trace, st);
    return good;
}

/* ---- what is read besides the model ---- */

typedef struct inputs {
    pixmap init, mask;
    source *refiner, *tiny;
} inputs;

static bool inputs_open(inputs *in, const options *o, request *q, status *st)
{
    *in = (inputs){0};
    if (o->init_img && image_read_png(o->init_img, &in->init, st))
        q->init = &in->init;
    if (o->mask && status_ok(st) && image_read_png(o->mask, &in->mask, st))
        q->mask = &in->mask;
    if (o->refiner && status_ok(st))
        q->refiner = in->refiner = source_open(o->refiner, st);
    if (o->taesd && status_ok(st))
        q->tiny = in->tiny = source_open(o->taesd, st);
    q->tiny_previews_only = o->taesd_preview_only;
    return status_ok(st) && cascade_open(q, o, st);
}

static void inputs_close(inputs *in)
{
    pixmap_free(&in->init);
    pixmap_free(&in->mask);
    if (in->refiner)
        source_close(in->refiner);
    if (in->tiny)
        source_close(in->tiny);
}

/* ---- previews ---- */

static bool write_preview(void *ctx, const char *stage, int image, int step, const uint8_t *rgb, int width, int height, status *st)
{
    const options *o = ctx;
    char *name = picture_name(o->output, image, st), *slash = name ? strrchr(name, '/') : NULL, *dot = name ? strrchr(name, '.') : NULL;
    if (!name)
        return false;
    size_t stem = dot && (!slash || dot > slash + 1) && dot != name ? (size_t)(dot - name) : strlen(name);
    char *path = mem_format(st, "%.*s%s%s_step_%d.png", (int)stem, name, *stage ? "_" : "", stage, step);
    if (path)
        image_write_png(path, rgb, width, height, NULL, st);
    mem_free(path);
    mem_free(name);
    return status_ok(st);
}

/* One request on an opened model, from checks to files and the report. */
static bool run_one(const options *o, const source *src, embedding_store *store, status *st)
{
    request q;
    result r = {0};
    progress p;
    inputs in = {0};
    progress_start(&p, o->quiet);
    if (!make_request(o, &p, &q, st))
        return false;
    q.store = store;
    q.trace = o->trace ? trace_open(st) : NULL;
    q.last_latents = o->save_latents ? trace_open(st) : NULL;
    q.preview_every = o->preview;
    q.preview = write_preview;
    q.preview_ctx = (void *)(uintptr_t)o;
    if (inputs_open(&in, o, &q, st) && pipeline_generate(src, &q, &r, st)) {
        progress_end(&p);
        tell_cut(o->quiet, &r);
        if (write_all(o, &q, src, &r, st))
            print_report(o, &q, &r);
    }
    progress_end(&p);
    result_free(&r);
    trace_close(q.trace);
    trace_close(q.last_latents);
    inputs_close(&in);
    cascade_close(&q);
    return status_ok(st);
}

static bool run_file(const options *o, status *st)
{
    if (o->checkpoint || o->load_latents || o->embeddings)
        return status_set(st, STATUS_USAGE, "--%s: is of one run; name it in a line of the prompt file",
                          o->checkpoint ? "checkpoint" : o->load_latents ? "load-latents" : "embeddings");
    prompt_lines lines;
    source *src = prompts_read(&lines, o, st) ? open_quantized(o, open_model(o, st), st) : NULL;
    if (src)
        prompts_run(&lines, src, run_one, st);
    prompts_free(&lines);
    source_close(src);
    return status_ok(st);
}

bool cmd_generate(const options *given, status *st)
{
    request q;
    options o = *given;
    if (!o.prompt && !o.prompt_file && !o.tokens && !o.embeddings)   /* tokens: to time a model that has no tokenizer */
        return status_set(st, STATUS_USAGE, "generate: a prompt is missing (-p \"...\")");
    if (!o.output)
        o.output = "output.png";
    if (o.prompt_file)
        return run_file(&o, st);
    if (!make_request(&o, NULL, &q, st) || !check_outputs(&o, st))
        return false;
    source *src = open_quantized(&o, open_model(&o, st), st);
    if (src)
        run_one(&o, src, NULL, st);
    source_close(src);
    return status_ok(st);
}
