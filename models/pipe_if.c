/* A stage of DeepFloyd IF (the open Imagen: Saharia et al. 2022, arXiv 2205.11487), as diffusers has it (pipelines/deepfloyd_if): IFPipeline and
 * IFImg2ImgPipeline for the first, IFSuperResolutionPipeline for those that enlarge, and where the cascade began from a picture IFImg2ImgSuperResolutionPipeline;
 * with a mask IFInpaintingPipeline and IFInpaintingSuperResolutionPipeline, which put back what is to stay as it was, without noise.
 * The pixels are denoised themselves, there is no decoder. T5 gets 77 tokens and does not look at the padding; the UNet does.
 * Pitfalls: the variance is the text half's; what is to be enlarged is resized with its corners aligned, and noised to level 250 (0 with a mask); the numbers are drawn for the
 * latents first, then for that noise; what comes out of a stage goes into the next as it is, neither clipped nor rounded. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/cascade.h"

enum { NOISE_LEVEL = 250, NOISE_LEVEL_PAINTING = 0 };

typedef struct pixels {
    sampler *noising;
    double strength;
    int level;                          /* of the noise on what is enlarged */
    bool painting;
    float *original, *mask;             /* the request's picture at this size; 1 where it is painted anew */
    stage condition;
    float *text, *added;                /* by text */
    float *item_text, *item_added, *levels; /* by item of the batch */
} pixels;

/* Its defaults; of the first stage with a picture to begin with, and a mask; of one that enlarges. */
typedef struct defaults {
    int steps;
    double guidance, strength;
} defaults;
static const defaults from_text = {100, 7, 1}, from_picture = {80, 10, 0.7}, painting = {50, 7, 1}, enlarging = {50, 4, 0.8}, enlarging_painting = {100, 4, 0.8};

/* ---- setting up ---- */

static bool open_noising(cascade_stage *s, pixels *p)
{
    size_t bytes = 0;
    char *config = source_read_blob(s->e.source, "image_noising_scheduler/scheduler_config.json", 1 << 20, false, &bytes, s->e.st);
    p->noising = config ? sampler_open(config, bytes, NULL, NULL, 1, s->e.st) : NULL;
    mem_free(config);
    return p->noising != NULL;
}

static bool check_unet(const cascade_stage *s, const char *name)
{
    const unet_config *c = &s->unet;
    int in = s->enlarges ? 6 : 3;
    if (!c->simple || c->text_time)
        return status_set(s->e.st, STATUS_BAD_FILE, "%s: its blocks are not those of DeepFloyd IF", name);
    if (c->classes == UNET_CLASS_TABLE)
        return status_set(s->e.st, STATUS_BAD_FILE, "%s: a UNet with a table of classes belongs to another pipeline", name);
    if (c->in_channels != in || c->out_channels != 6)
        return status_set(s->e.st, STATUS_BAD_FILE, "%s: the UNet takes %d channels and makes %d; %s takes %d and makes 6", name, c->in_channels, c->out_channels,
                          s->enlarges ? "a stage that enlarges" : "a first stage", in);
    return true;
}

static bool if_read(cascade_stage *s)
{
    char name[FILE_NAME_BYTES];
    status *st = s->e.st;
    const request *q = &s->asked;
    pixels *p = s->own = mem_alloc(1, sizeof *p, "pipeline", st);
    json *j = p ? read_config(s->e.source, "unet", "config.json", name, st) : NULL;
    bool ok = j && unet_config_read(&s->unet, j, name, st);
    json_free(j);
    s->enlarges = ok && s->unet.classes == UNET_CLASS_TIMESTEP;
    if (!ok || !check_unet(s, name))
        return false;
    p->painting = q->init && q->mask;
    p->level = p->painting ? NOISE_LEVEL_PAINTING : NOISE_LEVEL;
    const defaults *d = s->enlarges ? p->painting ? &enlarging_painting : &enlarging : p->painting ? &painting : q->init ? &from_picture : &from_text;
    s->guidance = isnan(q->guidance_scale) ? d->guidance : q->guidance_scale;
    s->guided = s->guidance > 1;
    p->strength = isnan(q->strength) ? d->strength : q->strength;
    s->own_size = s->unet.sample_size;
    s->unit = 1 << (s->unet.levels - 1);
    s->text_dim = s->unet.text_dim;
    s->sampler = open_sampler(s->e.source, q, d->steps, NULL, true, st);
    return s->sampler && (!s->enlarges || open_noising(s, p));
}

/* ---- planning ---- */

static void condition_forward(run *r, const void *ctx)
{
    const cascade_stage *s = ctx;
    const pixels *p = s->own;
    unet_condition_inputs in = {.raw = s->text->output, .batch = s->text->tokens.count, .tokens = s->tokens, .text = p->text, .added = p->added};
    unet_conditions(r, &s->unet, &in);
}

static void denoise_forward(run *r, const void *ctx)
{
    const cascade_stage *s = ctx;
    const pixels *p = s->own;
    size_t at = (size_t)s->at, area = (size_t)s->latent_height * (size_t)s->latent_width;
    unet_inputs in = {.batch = s->rows, .height = s->latent_height, .width = s->latent_width, .tokens = s->tokens};
    if (s->input) { /* in PLAN there is only the shape */
        in.latents = s->input + at * area * (size_t)s->unet.in_channels;
        in.noise = s->predicted + at * area * (size_t)s->unet.out_channels;
        in.text = p->item_text + at * (size_t)s->tokens * (size_t)s->unet.cross_dim;
        in.added = p->item_added + at * (size_t)s->unet.time_dim;
        in.timesteps = s->timesteps + at;
        in.class_steps = p->levels + at;
    }
    unet_denoise(r, &s->unet, &in);
}

/* Every text has the same number of tokens, padding included. */
static bool count_tokens(cascade_stage *s)
{
    const token_list *l = &s->text->tokens;
    s->tokens = l->start[1] - l->start[0];
    for (int i = 1; i < l->count; i++)
        if (l->start[i + 1] - l->start[i] != s->tokens)
            return status_set(s->e.st, STATUS_BAD_FILE, "%s: texts of %d and of %d tokens", s->e.source->path, s->tokens, l->start[i + 1] - l->start[i]);
    return true;
}

/* Does a picture stand where the noise would? The first stage's own, or of one that enlarges what the cascade began from. */
static bool begins_from_picture(const cascade_stage *s) { return s->from_picture && (s->first ? !s->enlarges : s->enlarges); }

static bool if_plan(cascade_stage *s)
{
    pixels *p = s->own;
    status *st = s->e.st;
    char name[48];
    snprintf(name, sizeof name, "%sunet_text", s->prefix);
    s->channels = 3;
    s->latent_width = s->width;
    s->latent_height = s->height;
    s->forward = denoise_forward;
    s->scales_all = true;
    if (!count_tokens(s))
        return false;
    if (begins_from_picture(s)) {
        s->begin = sampler_begin_at(s->sampler, p->strength);
        if (s->begin >= sampler_calls(s->sampler))
            return status_set(st, STATUS_USAGE, "--strength %g: of %d steps none is left to do", p->strength, sampler_steps(s->sampler));
    }
    size_t per_text = (size_t)s->tokens * (size_t)s->unet.cross_dim + (size_t)s->unet.time_dim, picture = cascade_picture_floats(s);
    size_t texts = (size_t)s->text->tokens.count, batch = (size_t)s->images * (s->guided ? 2 : 1);
    s->e.held_bytes += 4 * (per_text * (texts + batch) + picture * (size_t)(3 + (s->enlarges ? s->images : 0)));
    bool fits = stage_plan(&p->condition, &s->e, "unet", name, unet_aliases, condition_forward, s, 1);
    if (!fits && st->code != STATUS_BUDGET)
        return false;
    return cascade_plan_loop(s) && fits;
}

/* ---- running ---- */

static bool make_conditions(cascade_stage *s, pixels *p)
{
    double begin = now_seconds();
    status *st = s->e.st;
    size_t text = (size_t)s->tokens * (size_t)s->unet.cross_dim, added = (size_t)s->unet.time_dim, texts = (size_t)s->text->tokens.count, batch = (size_t)s->batch;
    p->text = mem_alloc(text * texts, 4, "text", st);
    p->added = mem_alloc(added * texts, 4, "text", st);
    p->item_text = mem_alloc(text * batch, 4, "text", st);
    p->item_added = mem_alloc(added * batch, 4, "text", st);
    p->levels = mem_alloc(batch, 4, "text", st);
    bool ok = status_ok(st) && stage_open(&p->condition) && stage_pass(&p->condition, s);
    stage_close(&p->condition);
    p->condition.row->seconds = now_seconds() - begin;
    if (!ok)
        return false;
    cascade_place(s, p->text, text, p->item_text);
    cascade_place(s, p->added, added, p->item_added);
    for (size_t i = 0; i < batch; i++)
        p->levels[i] = (float)p->level;
    return true;
}

/* torch's bilinear with align_corners=True. [3, h, w] -> [3, height, width] */
static void enlarge(const float *in, int h, int w, float *out, int height, int width)
{
    float down = height > 1 ? (float)(h - 1) / (float)(height - 1) : 0, right = width > 1 ? (float)(w - 1) / (float)(width - 1) : 0;
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < height; y++) {
            float fy = down * (float)y;
            int y0 = (int)fy, y1 = y0 + (y0 < h - 1);
            const float *a = in + ((size_t)c * (size_t)h + (size_t)y0) * (size_t)w, *b = in + ((size_t)c * (size_t)h + (size_t)y1) * (size_t)w;
            fy -= (float)y0;
            for (int x = 0; x < width; x++) {
                float fx = right * (float)x;
                int x0 = (int)fx, x1 = x0 + (x0 < w - 1);
                fx -= (float)x0;
                *out++ = (1 - fy) * ((1 - fx) * a[x0] + fx * a[x1]) + fy * ((1 - fx) * b[x0] + fx * b[x1]);
            }
        }
}

/* What is to be enlarged, at the new size and noised. */
static bool begin_enlarging(cascade_stage *s, const pixels *p)
{
    size_t n = cascade_picture_floats(s), low = (size_t)3 * (size_t)s->low_width * (size_t)s->low_height;
    s->beside = mem_alloc(n * (size_t)s->images, 4, "picture", s->e.st);
    float *noise = s->beside ? mem_alloc(n, 4, "picture", s->e.st) : NULL;
    for (int i = 0; noise && i < s->images; i++) {
        float *x = s->beside + (size_t)i * n;
        enlarge(s->low + (size_t)i * low, s->low_height, s->low_width, x, s->height, s->width);
        rng_normal(&s->noise->image[i], noise, n);
        if (!sampler_add_noise_at(p->noising, p->level, x, noise, x, n))
            status_set(s->e.st, STATUS_BAD_FILE, "%s: image_noising_scheduler has no timestep %d", s->e.source->path, p->level);
    }
    mem_free(noise);
    return noise && status_ok(s->e.st);
}

/* What the mask leaves alone stays the picture's. */
static void put_back(void *ctx, int next)
{
    cascade_stage *s = ctx;
    const pixels *p = s->own;
    size_t n = cascade_picture_floats(s), area = n / 3;
    (void)next;
    for (size_t i = 0; i < n * (size_t)s->images; i++)
        s->latents[i] = (1 - p->mask[i % area]) * p->original[i % n] + p->mask[i % area] * s->latents[i];
}

static bool read_mask(cascade_stage *s, pixels *p)
{
    const pixmap *mask = s->asked.mask;
    pixmap gray = {mask->width, mask->height, mem_alloc((size_t)mask->width * (size_t)mask->height, 3, "picture", s->e.st)}, fitted = {0};
    p->mask = gray.rgb ? mem_alloc(cascade_picture_floats(s) / 3, 4, "picture", s->e.st) : NULL;
    for (size_t i = 0; p->mask && i < (size_t)mask->width * (size_t)mask->height * 3; i++)
        gray.rgb[i] = pixmap_gray(mask->rgb + i / 3 * 3);
    bool ok = p->mask && pixmap_resize_bicubic(&gray, s->width, s->height, &fitted, s->e.st);
    for (size_t i = 0; ok && i < cascade_picture_floats(s) / 3; i++)
        p->mask[i] = (float)fitted.rgb[3 * i] / 255.0f >= 0.5f;
    pixmap_free(&gray);
    pixmap_free(&fitted);
    return ok;
}

/* The request's picture at this stage's size, noised to where the schedule begins; with a mask, where that is white. */
static bool begin_from_picture(cascade_stage *s, pixels *p)
{
    pixmap fitted = {0};
    status *st = s->e.st;
    p->original = mem_alloc(cascade_picture_floats(s), 4, "picture", st);
    bool ok = p->original && pixmap_resize_bicubic(s->asked.init, s->width, s->height, &fitted, st);
    if (ok) {
        cascade_pixels(&fitted, p->original);
        ok = cascade_draw_latents(s, p->original);
    }
    if (ok && p->painting) {
        ok = read_mask(s, p);
        s->settle = put_back;
        if (ok)
            put_back(s, 0);
    }
    pixmap_free(&fitted);
    return ok;
}

static uint64_t conditions_hash(const cascade_stage *s, const pixels *p)
{
    return given_hash(hash_more(text_stage_hash(s->text), &p->strength, sizeof p->strength), &s->asked);
}

static bool if_run(cascade_stage *s)
{
    pixels *p = s->own;
    bool begun = begins_from_picture(s) || s->enlarges;
    bool ok = cascade_allocate(s) && make_conditions(s, p);
    if (ok && begins_from_picture(s))
        ok = begin_from_picture(s, p);
    else if (ok && begun)
        ok = cascade_draw_latents(s, NULL);
    ok = ok && (!s->enlarges || begin_enlarging(s, p)) && cascade_denoise(s, begun, conditions_hash(s, p));
    if (!ok)
        return false;
    s->picture = s->latents;
    s->latents = NULL;
    return true;
}

static bool if_decode(cascade_stage *s, const float *latents, const int64_t shape[4])
{
    if (shape[1] != 3)
        return status_set(s->e.st, STATUS_BAD_FILE, "%s: its latents are pictures of 3 channels, these have %lld", s->e.source->path, (long long)shape[1]);
    size_t n = (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2] * (size_t)shape[3];
    s->height = (int)shape[2];
    s->width = (int)shape[3];
    s->picture = mem_alloc(n, 4, "picture", s->e.st);
    if (s->picture)
        memcpy(s->picture, latents, n * 4);
    return s->picture != NULL;
}

static void if_close(cascade_stage *s)
{
    pixels *p = s->own;
    cascade_close_loop(s);
    if (!p)
        return;
    stage_close(&p->condition);
    sampler_close(p->noising);
    mem_free(p->text);
    mem_free(p->added);
    mem_free(p->item_text);
    mem_free(p->item_added);
    mem_free(p->levels);
    mem_free(p->original);
    mem_free(p->mask);
    mem_free(p);
    s->own = NULL;
}

const cascade_kind cascade_if = {if_read, if_plan, if_run, if_decode, NULL, NULL, if_close};
