/* Stable Diffusion's x4 upscaler (diffusers, pipelines/stable_diffusion/pipeline_stable_diffusion_upscale.py): a latent diffusion model whose UNet sees the
 * small picture, noised, beside latents of the same height and width; the decoder makes each of them four pixels wide.
 * Pitfalls: the class overrules the decoder's scaling factor; the small picture's noise is drawn before the latents', one for all pictures where it is one
 * picture; the level of that noise is a class; the sampler scales the latents, not the picture beside them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/cascade.h"
#include "models/text_clip.h"

enum { NOISE_LEVEL = 20, STEPS = 75 };

typedef struct upscaler {
    vae_config vae;
    sampler *noising;
    clip_text text;
    vae_stage decode;
    float *item_text, *levels;
    int32_t *classes;
} upscaler;

/* ---- setting up ---- */

static bool read_vae(cascade_stage *s, upscaler *u)
{
    bool ok = vae_read(&u->vae, s->e.source, "vae", false, s->e.st);
    u->vae.scaling_factor = 0.08333f;
    vae_scale_only(&u->vae);
    u->decode.config = u->vae;
    return ok;
}

static bool read_unet(cascade_stage *s, const upscaler *u)
{
    char name[FILE_NAME_BYTES];
    status *st = s->e.st;
    json *j = read_config(s->e.source, "unet", "config.json", name, st);
    bool ok = j && unet_config_read(&s->unet, j, name, st);
    json_free(j);
    const unet_config *c = &s->unet;
    if (ok && (c->in_channels != u->vae.latent_channels + 3 || c->out_channels != u->vae.latent_channels))
        return status_set(st, STATUS_BAD_FILE, "%s: the UNet takes %d channels and makes %d; the decoder has %d latent channels, the picture 3", name, c->in_channels,
                          c->out_channels, u->vae.latent_channels);
    if (ok && (c->simple || c->text_time || c->guidance_dim))
        return status_set(st, STATUS_BAD_FILE, "%s: such a UNet belongs to another pipeline", name);
    if (ok && c->classes == UNET_CLASS_TABLE && c->class_count <= NOISE_LEVEL)
        return status_set(st, STATUS_BAD_FILE, "%s: num_class_embeds %d: the noise level is %d", name, c->class_count, NOISE_LEVEL);
    return ok;
}

static bool upscale_read(cascade_stage *s)
{
    status *st = s->e.st;
    const request *q = &s->asked;
    upscaler *u = s->own = mem_alloc(1, sizeof *u, "pipeline", st);
    if (!u || !read_vae(s, u) || !read_unet(s, u))
        return false;
    size_t bytes = 0;
    char *config = source_read_blob(s->e.source, "low_res_scheduler/scheduler_config.json", 1 << 20, false, &bytes, st);
    u->noising = config ? sampler_open(config, bytes, NULL, NULL, 1, st) : NULL;
    mem_free(config);
    s->enlarges = true;
    s->guidance = isnan(q->guidance_scale) ? 9 : q->guidance_scale;
    s->guided = s->guidance > 1;
    s->factor = s->unit = vae_factor(&u->vae);
    s->sampler = u->noising ? open_sampler(s->e.source, q, STEPS, NULL, false, st) : NULL;
    return s->sampler != NULL;
}

/* ---- planning ---- */

static void denoise_forward(run *r, const void *ctx)
{
    const cascade_stage *s = ctx;
    const upscaler *u = s->own;
    size_t at = (size_t)s->at, area = (size_t)s->latent_height * (size_t)s->latent_width;
    unet_inputs in = {.batch = s->rows, .height = s->latent_height, .width = s->latent_width, .tokens = s->tokens};
    int32_t none[2 * 64] = {0};
    in.classes = none;
    if (s->input) { /* in PLAN there is only the shape */
        in.latents = s->input + at * area * (size_t)s->unet.in_channels;
        in.noise = s->predicted + at * area * (size_t)s->unet.out_channels;
        in.text = u->item_text + at * (size_t)s->tokens * (size_t)s->unet.cross_dim;
        in.timesteps = s->timesteps + at;
        in.classes = u->classes + at;
        in.class_steps = u->levels + at;
    }
    unet_denoise(r, &s->unet, &in);
}

static bool plan_text(cascade_stage *s, upscaler *u)
{
    clip_use use = {.skip = s->first && s->asked.clip_skip ? s->asked.clip_skip - 1 : 0, .norm = true};
    bool fits = clip_text_plan(&u->text, &s->e, "text_encoder", "tokenizer", s->prompts->text, s->prompts->texts, use);
    if (!fits && s->e.st->code != STATUS_BUDGET)
        return false;
    const token_list *l = &u->text.text.tokens;
    u->text.text.prefix = s->prefix;
    if (u->text.text.stage.row)
        snprintf(u->text.text.stage.row->name, sizeof u->text.text.stage.row->name, "%.12stext_encoder", s->prefix);
    s->tokens = l->start[1] - l->start[0];
    if (s->first)
        text_stage_report_cut(&u->text.text, &s->asked, s->prompts);
    if (u->text.config.width != s->unet.cross_dim)
        return status_set(s->e.st, STATUS_BAD_FILE, "%s: the text is %d wide, the UNet wants %d", s->e.source->path, u->text.config.width, s->unet.cross_dim);
    return fits;
}

static bool upscale_plan(cascade_stage *s)
{
    upscaler *u = s->own;
    s->channels = u->vae.latent_channels;
    s->latent_width = s->low_width;
    s->latent_height = s->low_height;
    s->forward = denoise_forward;
    s->decoder = &u->vae;
    if (!plan_text(s, u) && !planning_goes_on(s->e.st))
        return false;
    size_t batch = (size_t)s->images * (s->guided ? 2 : 1), picture = cascade_picture_floats(s) * (size_t)s->images;
    s->e.held_bytes += 4 * (batch * (size_t)s->tokens * (size_t)s->unet.cross_dim + (size_t)s->low_width * (size_t)s->low_height * 3 * (size_t)(s->images + 1));
    if (!cascade_plan_loop(s) && !planning_goes_on(s->e.st))
        return false;
    s->e.held_bytes += picture * 4;
    vae_stage_plan(&u->decode, &s->e, "vae", s->latent_height, s->latent_width, s->images);
    if (s->prefix[0] && planning_goes_on(s->e.st))
        snprintf(u->decode.stage.row->name, sizeof u->decode.stage.row->name, "%svae", s->prefix);
    return status_ok(s->e.st);
}

/* ---- running ---- */

/* The small pictures with noise; where all enlarge one picture it is noised once, with the first image's numbers. */
static bool begin_enlarging(cascade_stage *s, const upscaler *u)
{
    size_t n = (size_t)3 * (size_t)s->low_width * (size_t)s->low_height;
    s->beside = mem_alloc(n * (size_t)s->images, 4, "picture", s->e.st);
    float *noise = s->beside ? mem_alloc(n, 4, "picture", s->e.st) : NULL;
    for (int i = 0; noise && i < s->images; i++) {
        if (!s->from_picture || i == 0)
            rng_normal(&s->noise->image[i], noise, n);
        if (!sampler_add_noise_at(u->noising, NOISE_LEVEL, s->low + (size_t)i * n, noise, s->beside + (size_t)i * n, n))
            status_set(s->e.st, STATUS_BAD_FILE, "%s: low_res_scheduler has no timestep %d", s->e.source->path, NOISE_LEVEL);
    }
    mem_free(noise);
    return noise && status_ok(s->e.st);
}

static bool trace_text(const cascade_stage *s, const upscaler *u, trace *to)
{
    int *which = mem_alloc((size_t)s->batch, sizeof *which, "trace", s->e.st);
    for (int i = 0; which && i < s->batch; i++)
        which[i] = cascade_text_of(s, i);
    bool ok = which && text_stage_trace(&u->text.text, to, which, s->batch, false, s->e.st);
    mem_free(which);
    return ok;
}

static bool make_conditions(cascade_stage *s, upscaler *u)
{
    size_t each = (size_t)s->tokens * (size_t)s->unet.cross_dim, batch = (size_t)s->batch;
    double begin = now_seconds();
    if (!clip_text_run(&u->text) || !trace_text(s, u, s->asked.trace))
        return false;
    s->e.report->seconds_encode += now_seconds() - begin;
    u->item_text = mem_alloc(each * batch, 4, "text", s->e.st);
    u->levels = mem_alloc(batch, sizeof *u->levels, "text", s->e.st);
    u->classes = mem_alloc(batch, sizeof *u->classes, "text", s->e.st);
    if (!status_ok(s->e.st))
        return false;
    cascade_place(s, u->text.text.output, each, u->item_text);
    for (size_t i = 0; i < batch; i++) {
        u->classes[i] = NOISE_LEVEL;
        u->levels[i] = NOISE_LEVEL;
    }
    return true;
}

static uint64_t conditions_hash(const cascade_stage *s, const upscaler *u)
{
    uint64_t h = clip_text_hash(&u->text);
    return hash_more(h, s->low, (size_t)3 * (size_t)s->low_width * (size_t)s->low_height * (size_t)s->images * 4);
}

static bool decode(cascade_stage *s, upscaler *u, const float *latents)
{
    double begin = now_seconds();
    s->picture = mem_alloc(cascade_picture_floats(s) * (size_t)s->images, 4, "picture", s->e.st);
    bool ok = s->picture && vae_stage_run(&u->decode, latents, s->images, s->picture);
    s->e.report->seconds_decode += now_seconds() - begin;
    return ok;
}

static bool upscale_run(cascade_stage *s)
{
    upscaler *u = s->own;
    uint64_t hash = conditions_hash(s, u);
    bool ok = make_conditions(s, u) && begin_enlarging(s, u) && cascade_allocate(s) && cascade_draw_latents(s, NULL) && cascade_denoise(s, true, hash);
    return ok && decode(s, u, s->latents);
}

static bool upscale_decode(cascade_stage *s, const float *latents, const int64_t shape[4])
{
    upscaler *u = s->own;
    if (!vae_latents_take(&u->decode, &s->e, "vae", shape))
        return false;
    s->images = (int)shape[0];
    s->height = u->decode.height * s->factor;
    s->width = u->decode.width * s->factor;
    return decode(s, u, latents);
}

static bool upscale_plan_text(cascade_stage *s) { return plan_text(s, s->own); }

static bool upscale_encode(cascade_stage *s, trace *to)
{
    upscaler *u = s->own;
    return clip_text_run(&u->text) && text_stage_trace(&u->text.text, to, NULL, u->text.text.tokens.count, true, s->e.st);
}

static void upscale_close(cascade_stage *s)
{
    upscaler *u = s->own;
    cascade_close_loop(s);
    if (!u)
        return;
    clip_text_close(&u->text);
    stage_close(&u->decode.stage);
    sampler_close(u->noising);
    mem_free(u->item_text);
    mem_free(u->levels);
    mem_free(u->classes);
    mem_free(u);
    s->own = NULL;
}

const cascade_kind cascade_upscale = {upscale_read, upscale_plan, upscale_run, upscale_decode, upscale_plan_text, upscale_encode, upscale_close};
