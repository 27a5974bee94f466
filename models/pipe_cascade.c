/* Cascades (Ho et al. 2021, arXiv 2106.15282): DeepFloyd IF's stages one behind the other, and Stable Diffusion's x4 upscaler, in one model ("stage2/..." beside
 * the first stage's components) or in several (--cascade). A stage that enlarges also runs alone, on a picture that is given.
 * The T5 of the first IF stage that has one serves all of them, and runs once. The sizes asked for are the last picture's: what the stages before
 * make follows from the sides they were trained at, 64 to 256 say. One stage's memory is given back before the next one's is taken. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/cascade.h"
#include "models/pipelines.h"

enum { MOST_STAGES = 9, TEXT_TOKENS = 77 };

typedef struct cascade {
    engine e, text_engine;
    cascade_stage stage[MOST_STAGES];
    int stages;
    source *part[MOST_STAGES];
    int parts;
    prompt_set prompts;
    noise_source noise;
    t5_text text;
    bool text_planned;
} cascade;

/* ---- setting up ---- */

static const cascade_kind *kind_of(const source *src, status *st)
{
    char name[FILE_NAME_BYTES];
    json *j = read_config(src, "", "model_index.json", name, st);
    const char *class = j ? json_text(j, "_class_name", "", name, st) : "";
    const cascade_kind *kind = strncmp(class, "IF", 2) == 0 ? &cascade_if : strcmp(class, "StableDiffusionUpscalePipeline") == 0 ? &cascade_upscale : NULL;
    if (j && !kind)
        status_set(st, STATUS_BAD_FILE, "%s: \"%s\" is no stage of a cascade", name, class);
    json_free(j);
    return kind;
}

/* What a further stage is asked for: the same pictures, as its own pipeline makes them by default. */
static request further(const request *q)
{
    request r = *q;
    r.width = r.height = r.steps = r.clip_skip = 0;
    r.guidance_scale = r.strength = (double)NAN;
    r.sampling_method = r.scheduler = r.load_latents = r.embeddings = NULL;
    return r;
}

static bool add_stage(cascade *c, const source *src, const request *q, bool last)
{
    cascade_stage *s = &c->stage[c->stages];
    status *st = c->e.st;
    if (c->stages == MOST_STAGES)
        return status_set(st, STATUS_USAGE, "--cascade: more than %d stages", MOST_STAGES);
    *s = (cascade_stage){.e = c->e, .first = c->stages == 0, .last = last, .asked = c->stages ? further(q) : *q};
    s->e.source = src;
    s->e.request = &s->asked;
    s->asked.last_latents = last ? q->last_latents : NULL;
    if (c->stages++)
        snprintf(s->prefix, sizeof s->prefix, "stage%d.", c->stages);
    s->kind = kind_of(src, st);
    if (!s->kind || !s->kind->read(s))
        return false;
    return s->first || s->enlarges || status_set(st, STATUS_USAGE, "--cascade: %s does not enlarge pictures", src->path);
}

static bool add_stages(cascade *c, const source *src, const request *q)
{
    status *st = c->e.st;
    for (int i = 2; i <= MOST_STAGES && status_ok(st); i++) {
        char folder[16];
        snprintf(folder, sizeof folder, "stage%d", i);
        source *part = source_part(src, folder, st);
        if (!part)
            break;
        c->part[c->parts++] = part;
    }
    bool ok = status_ok(st) && add_stage(c, src, q, !c->parts && !q->cascades);
    for (int i = 0; ok && i < c->parts; i++)
        ok = add_stage(c, c->part[i], q, i == c->parts - 1 && !q->cascades);
    for (int i = 0; ok && i < q->cascades; i++)
        ok = add_stage(c, q->cascade[i], q, i == q->cascades - 1);
    return ok;
}

static bool check_request(const cascade *c, const request *q, bool planning)
{
    const cascade_stage *s = &c->stage[0];
    status *st = c->e.st;
    if (q->mask && s->enlarges)
        return status_set(st, STATUS_USAGE, "--mask: %s does not take it", s->e.source->path);
    if (!begins_once(q, st))
        return false;
    if (s->enlarges && !q->init && !planning)
        return status_set(st, STATUS_USAGE, "%s: enlarges a picture, it needs --init-img", s->e.source->path);
    for (int i = 1; i < c->stages && q->embeddings && !q->prompt && !q->items; i++)
        if (!c->stage[i].text_dim)
            return status_set(st, STATUS_USAGE, "--embeddings: %s has a text encoder of its own and needs the prompt", c->stage[i].e.source->path);
    return true;
}

static bool is_guided(const cascade *c)
{
    for (int i = 0; i < c->stages; i++)
        if (c->stage[i].guided)
            return true;
    return false;
}

/* What the stages share. */
static bool hand_out(cascade *c, const request *q)
{
    for (int i = 0; i < c->stages; i++) {
        cascade_stage *s = &c->stage[i];
        s->images = c->prompts.images;
        s->prompts = &c->prompts;
        s->noise = &c->noise;
        s->text = &c->text.text;
        s->from_picture = q->init && (i == 0 || !c->stage[0].enlarges);
    }
    return noise_open(&c->noise, c->prompts.seed, c->prompts.images, 0, c->e.st);
}

/* ---- sizes ---- */

/* The size of a picture that is to be redrawn at a side of `own`: its shorter side becomes that, the other a multiple of 8. */
static void size_of_picture(const pixmap *p, int own, int *width, int *height)
{
    double ratio = (double)p->width / p->height;
    *width = *height = own;
    if (ratio >= 1)
        *width = (int)(rint(own / 8.0 * ratio) * 8);
    else
        *height = (int)(rint(own / 8.0 / ratio) * 8);
}

/* What the stage must get to make its size: -1 where no whole number of pixels does. */
static int before(const cascade_stage *s, int side)
{
    const cascade_stage *from = s - 1;
    if (s->factor)
        return side % s->factor ? -1 : side / s->factor;
    int64_t scaled = (int64_t)side * from->own_size;
    return scaled % s->own_size ? -1 : (int)(scaled / s->own_size);
}

static void size_of_input(cascade_stage *s, const request *q)
{
    s->low_width = q->init ? q->init->width : s->own_size ? s->own_size / 4 : s->unet.sample_size;
    s->low_height = q->init ? q->init->height : s->low_width;
    if (!s->factor)
        return;
    s->low_width -= s->low_width % s->factor;   /* the class rounds down to a multiple */
    s->low_height -= s->low_height % s->factor;
}

/* From the last picture back, when its size is told; can all stages make it? */
static bool sizes_back(cascade *c, int width, int height)
{
    for (int i = c->stages - 1; i >= 0; i--) {
        cascade_stage *s = &c->stage[i];
        s->width = width;
        s->height = height;
        if (width < 1 || height < 1 || width % s->unit || height % s->unit)
            return false;
        if (i == 0 && !s->factor)
            return true;
        s->low_width = width = i == 0 ? width / s->factor : before(s, width);
        s->low_height = height = i == 0 ? height / s->factor : before(s, height);
    }
    return true;
}

/* From the first stage on, each at its own side. */
static void sizes_forth(cascade *c, const request *q)
{
    cascade_stage *s = &c->stage[0];
    if (s->enlarges)
        size_of_input(s, q);
    for (int i = 0; i < c->stages; i++, s++) {
        if (i) {
            s->low_width = s[-1].width;
            s->low_height = s[-1].height;
        }
        s->width = s->factor ? s->low_width * s->factor : s->own_size;
        s->height = s->factor ? s->low_height * s->factor : s->own_size;
        if (!s->factor && q->init && !c->stage[0].enlarges)
            size_of_picture(q->init, s->own_size, &s->width, &s->height);
    }
}

/* The networks halve their maps: their own sides, and those of a picture, must allow it. */
static bool check_sizes(const cascade *c, const request *q)
{
    for (int i = 0; i < c->stages; i++) {
        const cascade_stage *s = &c->stage[i];
        if (s->width < 1 || s->height < 1)
            return status_set(c->e.st, STATUS_USAGE, "--init-img: a picture of %dx%d is too small", q->init->width, q->init->height);
        if (s->width % s->unit || s->height % s->unit)
            return status_set(c->e.st, STATUS_USAGE, "%s: would make pictures of %dx%d, but can make multiples of %d; name a size", s->e.source->path, s->width, s->height, s->unit);
    }
    return true;
}

static bool choose_sizes(cascade *c, const request *q)
{
    const cascade_stage *last = &c->stage[c->stages - 1];
    sizes_forth(c, q);
    if (!q->width && !q->height)
        return check_sizes(c, q);
    int width = q->width ? q->width : last->width, height = q->height ? q->height : last->height, unit = 1;
    if (!size_in_range(width, height, c->e.st))
        return false;
    if (c->stage[0].enlarges)
        size_of_input(&c->stage[0], q);
    if (sizes_back(c, width, height))
        return true;
    while (unit < 16384 && !sizes_back(c, unit, unit))
        unit++;
    return size_divides(width, height, unit, c->e.st) &&
           status_set(c->e.st, STATUS_BAD_FILE, "%s: the stages behind it make pictures of no size, neither %dx%d", c->stage[0].e.source->path, width, height);
}

/* planning: a picture to enlarge may be missing. */
static bool setup(cascade *c, bool planning)
{
    const request *q = c->e.request;
    return add_stages(c, c->e.source, q) && check_request(c, q, planning) && open_prompts(&c->prompts, q, is_guided(c) ? GUIDE_ALL : GUIDE_NONE, c->e.st) &&
           hand_out(c, q) && choose_sizes(c, q);
}

/* ---- planning ---- */

/* The T5 of the first stage that has one. */
static bool plan_text(cascade *c, const request *q)
{
    const cascade_stage *has = NULL, *wants = NULL;
    status *st = c->e.st;
    for (int i = 0; i < c->stages; i++) {
        const cascade_stage *s = &c->stage[i];
        wants = !wants && s->text_dim ? s : wants;
        has = !has && s->text_dim && source_has_component(s->e.source, "text_encoder") ? s : has;
    }
    if (!wants)
        return true;
    if (!has)
        return status_set(st, STATUS_BAD_FILE, "%s: has no text_encoder", wants->e.source->path);
    int most = prompt_length(q, TEXT_TOKENS, st);
    if (!most)
        return false;
    c->text_engine = c->e;
    c->text_engine.source = has->e.source;
    c->text.padded = true;
    bool ok = t5_text_plan(&c->text, &c->text_engine, "text_encoder", "tokenizer", c->prompts.text, c->prompts.texts, most, true);
    if (!ok && !planning_goes_on(st))
        return false;
    c->text_planned = true;
    text_stage_report_cut(&c->text.text, q, &c->prompts);
    for (int i = 0; i < c->stages; i++)
        if (c->stage[i].text_dim && c->stage[i].text_dim != c->text.config.d_model)
            return status_set(st, STATUS_BAD_FILE, "%s: the text encoder's width is %d, the UNet wants %d", c->stage[i].e.source->path, c->text.config.d_model,
                              c->stage[i].text_dim);
    return ok;
}

/* A refusal of an earlier stage must not keep this one from its tokens; of two the one that needs more is told. */
static bool plan_stage(cascade_stage *s)
{
    status *st = s->e.st, before = refusal_aside(st);
    if (!s->kind->plan(s) && st->code != STATUS_BUDGET)
        return false;
    refusal_back(st, &before);
    return true;
}

/* All stages are asked, so that the least budget named is the least for all of them. */
static bool plan_all(cascade *c, const request *q)
{
    status *st = c->e.st;
    if (!plan_text(c, q) && st->code != STATUS_BUDGET)
        return false;
    uint64_t held = (c->text_planned ? c->text_engine : c->e).held_bytes;
    for (int i = 0; i < c->stages; i++) {
        cascade_stage *s = &c->stage[i];
        s->e.held_bytes = held + (s->enlarges ? (size_t)s->low_width * (size_t)s->low_height * 12 * (size_t)s->images : 0);
        if (q->init)
            s->e.held_bytes += (size_t)q->init->width * (size_t)q->init->height * 3;
        if (s->last)
            s->e.held_bytes += cascade_picture_floats(s) * (size_t)s->images; /* its pixels in the end */
        if (!plan_stage(s))
            return false;
    }
    return status_ok(st);
}

/* ---- running ---- */

static bool run_text(cascade *c, const request *q)
{
    const cascade_stage *s = &c->stage[0];
    status *st = c->e.st;
    if (!c->text_planned)
        return true;
    int *which = mem_alloc((size_t)s->batch + 1, sizeof *which, "trace", st);
    for (int i = 0; which && i < s->batch; i++)
        which[i] = cascade_text_of(s, i);
    bool ok = which && text_stage_run(&c->text.text) && text_stage_trace(&c->text.text, q->trace, which, s->batch, false, st);
    mem_free(which);
    return ok;
}

/* The picture that is given, for every image. */
static float *given_pictures(const cascade *c, const request *q)
{
    const cascade_stage *s = &c->stage[0];
    status *st = c->e.st;
    size_t n = (size_t)3 * (size_t)s->low_width * (size_t)s->low_height;
    float *out = mem_alloc(n * (size_t)s->images, 4, "picture", st);
    pixmap fitted = {0};
    if (out && pixmap_resize_bicubic(q->init, s->low_width, s->low_height, &fitted, st))
        cascade_pixels(&fitted, out);
    pixmap_free(&fitted);
    for (int i = 1; out && i < s->images; i++)
        memcpy(out + (size_t)i * n, out, n * 4);
    if (status_ok(st))
        return out;
    mem_free(out);
    return NULL;
}

/* ---- a cascade that was stopped goes on in the stage that it had reached ---- */

static size_t low_floats(const cascade_stage *s) { return (size_t)3 * (size_t)s->low_width * (size_t)s->low_height * (size_t)s->images; }

/* What each stage's checkpoint says of those before it: all that they are told, so that none is skipped that would have made something else. */
static void hash_stages(cascade *c, const request *q)
{
    uint64_t told = given_hash(c->text_planned ? text_stage_hash(&c->text.text) : 0, q), before = 0;
    for (int i = 0; i < c->prompts.texts; i++)
        told = hash_more(told, c->prompts.text[i], strlen(c->prompts.text[i]) + 1);
    for (int i = 0; i < c->stages; i++) {
        cascade_stage *s = &c->stage[i];
        s->start = (stage_start){.number = i + 1, .before = before, .count = i ? low_floats(s) : 0};
        trajectory t = cascade_path(s, told);
        before = trajectory_hash(&t, &s->e, before);
    }
}

/* The picture and the generators that the stage got when it began. */
static float *begun_from(cascade_stage *s)
{
    trajectory t = cascade_path(s, 0);
    float *low = mem_alloc(low_floats(s), 4, "picture", s->e.st);
    if (low && checkpoint_start(&t, &s->e, low, low_floats(s), s->noise->image))
        return low;
    mem_free(low);
    return NULL;
}

static bool note_start(cascade_stage *s, const float *low)
{
    s->start.given = low;
    if (s->first || !s->asked.checkpoint)
        return true;
    s->start.generator = s->generators = mem_alloc((size_t)s->images, sizeof(rng), "noise", s->e.st);
    if (s->generators)
        memcpy(s->generators, s->noise->image, (size_t)s->images * sizeof(rng));
    return s->generators != NULL;
}

/* at: the number of the stage to begin with. The last stage keeps its picture, those before hand theirs on. */
static bool run_stages(cascade *c, const request *q, int at)
{
    float *low = at > 1 ? begun_from(&c->stage[at - 1]) : c->stage[0].enlarges ? given_pictures(c, q) : NULL;
    bool ok = status_ok(c->e.st);
    for (int i = 0; ok && i < at - 1; i++) {
        c->e.report->first_call += sampler_calls(c->stage[i].sampler) - c->stage[i].begin;
        c->stage[i].kind->close(&c->stage[i]);
    }
    for (int i = at - 1; ok && i < c->stages; i++) {
        cascade_stage *s = &c->stage[i];
        s->low = low;
        s->fresh = i + 1 > at;
        ok = note_start(s, low) && s->kind->run(s);
        mem_free(low);
        s->low = low = NULL;
        if (s->last)
            break;
        low = s->picture;
        s->picture = NULL;
        if (ok)
            s->kind->close(s);
    }
    mem_free(low);
    return ok;
}

/* ---- the row ---- */

static bool cascade_plan(void *self, const void *kind, bool planning)
{
    cascade *c = self;
    (void)kind;
    return setup(c, planning) && plan_all(c, c->e.request);
}

static int cascade_describe(const void *self)
{
    const cascade *c = self;
    const cascade_stage *s = &c->stage[0], *last = &c->stage[c->stages - 1];
    int evaluations = 0;
    report_settings(c->e.report, s->sampler, s->guidance, last->width, last->height);
    for (int i = 0; i < c->stages; i++)
        evaluations += sampler_calls(c->stage[i].sampler) - c->stage[i].begin;
    return evaluations;
}

/* Stages that encode or decode by themselves add it to the report. */
static bool cascade_run(void *self)
{
    cascade *c = self;
    result *out = c->e.report;
    double t0 = now_seconds();
    hash_stages(c, c->e.request);
    int at = checkpoint_stage(&c->e, c->stages);
    bool ok = at > 0 && run_text(c, c->e.request);
    out->seconds_encode += now_seconds() - t0;
    ok = ok && run_stages(c, c->e.request, at);
    out->seconds_denoise = now_seconds() - t0 - out->seconds_encode - out->seconds_decode;
    return ok;
}

static bool cascade_finish(void *self)
{
    cascade *c = self;
    const cascade_stage *s = &c->stage[c->stages - 1];
    return finish_pictures(&s->e, s->picture, s->images, s->height, s->width);
}

/* ---- parts alone ---- */

/* The shared text; of a cascade without any, that of its first stage. */
static bool cascade_plan_text(void *self, const void *kind)
{
    cascade *c = self;
    const request *q = c->e.request;
    (void)kind;
    if (!add_stages(c, c->e.source, q) || !open_prompts_alone(&c->prompts, q, c->e.st) || !hand_out(c, q) || !plan_text(c, q))
        return false;
    return c->text_planned || c->stage[0].kind->plan_text(&c->stage[0]);
}

static bool cascade_encode(void *self, trace *to, bool wanted)
{
    cascade *c = self;
    if (!wanted)
        return true;
    return c->text_planned ? text_stage_encode(&c->text.text, to) : c->stage[0].kind->encode(&c->stage[0], to);
}

/* Latents are the last stage's. */
static bool cascade_decode(void *self, const void *kind, const float *latents, const int64_t shape[4])
{
    cascade *c = self;
    (void)kind;
    if (!add_stages(c, c->e.source, c->e.request) || !latents_in_range(shape, c->e.st))
        return false;
    cascade_stage *s = &c->stage[c->stages - 1];
    s->images = (int)shape[0];
    return s->kind->decode(s, latents, shape) && cascade_finish(c);
}

static void cascade_close(void *self)
{
    cascade *c = self;
    for (int i = 0; i < c->stages; i++) {
        if (c->stage[i].kind)
            c->stage[i].kind->close(&c->stage[i]);
        mem_free(c->stage[i].picture);
    }
    text_stage_close(&c->text.text);
    noise_close(&c->noise);
    prompt_set_close(&c->prompts);
    for (int i = 0; i < c->parts; i++)
        source_close(c->part[i]);
}

const pipeline_row pipeline_cascade = {.name = "cascade", .takes = TAKES_PICTURES | TAKES_STAGES | TAKES_LENGTHS, .many = true, .bytes = sizeof(cascade),
                                       .plan = cascade_plan, .describe = cascade_describe, .denoise = cascade_run, .finish = cascade_finish,
                                       .plan_text = cascade_plan_text, .encode = cascade_encode, .decode = cascade_decode, .close = cascade_close};
