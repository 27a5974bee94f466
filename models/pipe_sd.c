/* The Stable Diffusion pipelines of diffusers (pipelines/stable_diffusion, stable_diffusion_xl, latent_consistency_models): CLIP, a UNet, a KL decoder; from
 * text, from a picture, into a picture; SDXL with two text encoders and a refiner that takes over the last part. And where they come from, the first latent
 * diffusion model (pipelines/latent_diffusion), with a text encoder of its own; its diffusers class knows no negative prompt and guides at any scale but 1.
 * Pitfalls: the SD classes overrule two values of the scheduler's file; a model distilled with guidance as an input (LCM) has no unconditional half;
 * SDXL without a negative prompt has zeros for it, an empty one is encoded; which numbers are drawn first, see pipe_sd_picture.c. */
#include <math.h>

#include "base/mem.h"
#include "models/pipe_sd.h"

/* The classes differ in this. */
#define SD_FORCED "{\"steps_offset\": 1, \"clip_sample\": false}", "{\"steps_offset\": 1, \"skip_prk_steps\": true}"

/* xl, lcm, ldm; steps; guidance, with a mask; strength, with a mask; what the class forces on its scheduler */
static const sd_kind sd_classic = {"sd", false, false, false, 50, 7.5, 7.5, 0.8, 1, SD_FORCED};
static const sd_kind sd_lcm = {"lcm", false, true, false, 4, 8.5, 8.5, 0.8, 1, NULL, NULL};
static const sd_kind sd_xl = {"sdxl", true, false, false, 50, 5, 7.5, 0.3, 0.9999, NULL, NULL};
static const sd_kind sd_ldm = {"ldm", false, false, true, 50, 1, 1, 0.8, 1, NULL, NULL};

/* ---- setting up ---- */

static bool read_index(sd *p)
{
    char name[FILE_NAME_BYTES];
    status *st = p->e.st;
    json *j = read_config(p->e.source, "", "model_index.json", name, st);
    if (!j)
        return false;
    p->zeros_for_empty = p->kind->xl && json_flag(j, "force_zeros_for_empty_prompt", true, name, st);
    p->aesthetics = json_flag(j, "requires_aesthetics_score", false, name, st);
    json_free(j);
    return status_ok(st);
}

static bool read_networks(sd *p)
{
    char name[FILE_NAME_BYTES];
    const source *src = p->e.source;
    status *st = p->e.st;
    json *j = read_config(src, "unet", "config.json", name, st);
    bool ok = j && unet_config_read(&p->unet, j, name, st);
    json_free(j);
    ok = ok && vae_read(&p->vae, src, sd_vae(p), true, st);
    if (!p->kind->xl)
        vae_scale_only(&p->vae);
    p->vae.shift_factor = 0;
    p->decode.config = p->vae;
    int latent = p->vae.latent_channels, in = p->unet.in_channels;
    if (ok && ((in != latent && in != 2 * latent + 1) || p->unet.out_channels != latent))
        return status_set(st, STATUS_BAD_FILE, "%s: the UNet takes %d channels and makes %d; the decoder has %d latent channels", src->path, in, p->unet.out_channels, latent);
    if (ok && p->unet.classes != UNET_CLASS_NONE)
        return status_set(st, STATUS_BAD_FILE, "%s: a UNet with classes belongs to another pipeline", src->path);
    p->mask_input = in != latent;
    return ok;
}

static bool choose_size(sd *p)
{
    const request *q = p->e.request;
    int factor = vae_factor(&p->vae), unit = p->kind->ldm ? 8 : factor, own = p->unet.sample_size * factor;
    p->width = q->width ? q->width : own;
    p->height = q->height ? q->height : own;
    if (!sd_picture_size(p) || !size_in_range(p->width, p->height, p->e.st) || !size_divides(p->width, p->height, unit, p->e.st))
        return false;
    p->latent_width = p->width / unit;
    p->latent_height = p->height / unit;
    p->width = p->latent_width * factor;
    p->height = p->latent_height * factor;
    return true;
}

/* Where on the schedule the picture begins and this model stops. refining: latents are handed over. */
static bool choose_calls(sd *p, bool refining)
{
    const request *q = p->e.request;
    const sd_kind *k = p->kind;
    p->sampler = open_sampler(p->e.source, q, k->steps, p->painting ? k->mask_forced : k->forced, false, p->e.st);
    if (!p->sampler)
        return false;
    p->end = sampler_calls(p->sampler);
    p->strength = isnan(q->strength) ? p->painting ? k->mask_strength : k->strength : q->strength;
    if (q->init && !refining && !(k->lcm && sampler_begin_distilled(p->sampler, p->strength)))
        p->first = sampler_begin_at(p->sampler, p->strength);
    if (refining)
        p->first = sampler_begin_from(p->sampler, q->refiner_start);
    else if (q->refiner)
        p->end = sampler_end_at(p->sampler, q->refiner_start);
    if (p->first >= p->end && refining)
        return status_set(p->e.st, STATUS_USAGE, "--refiner-start %g: nothing is left for the refiner at %d steps", q->refiner_start, sampler_steps(p->sampler));
    bool less_than_one = p->painting && p->strength * sampler_steps(p->sampler) < 1; /* PNDM has a call more than steps: diffusers paints with it from one step on */
    if (q->init && !refining && (p->first >= p->end || less_than_one))
        return status_set(p->e.st, STATUS_USAGE, "--strength %g: of %d steps none is left to do", p->strength, sampler_steps(p->sampler));
    if (p->first >= p->end)
        return status_set(p->e.st, STATUS_USAGE, "--refiner-start %g: nothing is left before the refiner at %d steps", q->refiner_start, sampler_steps(p->sampler));
    return true;
}

static bool check_pictures(sd *p, bool refining)
{
    const request *q = p->e.request;
    if (!begins_once(q, p->e.st))
        return false;
    p->painting = q->mask && !refining;
    if (p->mask_input && !p->painting && !p->planning)
        return status_set(p->e.st, STATUS_USAGE, "%s: paints into pictures, it needs --init-img and --mask", p->e.source->path);
    return true;
}

static bool choose_guidance(sd *p)
{
    const request *q = p->e.request;
    p->guidance = isnan(q->guidance_scale) ? p->painting ? p->kind->mask_guidance : p->kind->guidance : q->guidance_scale;
    p->guided = (p->kind->ldm ? p->guidance != 1 : p->guidance > 1) && !p->unet.guidance_dim && !p->kind->lcm;
    bool zeros = p->zeros_for_empty && !(p->guided && negative_given(q, "text.text_encoder_2", p->e.st));
    if (!status_ok(p->e.st) || !open_prompts(&p->prompts, q, !p->guided ? GUIDE_NONE : zeros ? GUIDE_NAMED : GUIDE_ALL, p->e.st))
        return false;
    p->images = p->prompts.images;
    p->batch = p->images * (p->guided ? 2 : 1);
    return true;
}

/* In an engine that is open. refining: as the refiner. */
static bool setup(sd *p, const sd_kind *kind, bool refining, bool planning)
{
    p->kind = kind;
    p->prefix = refining ? "refiner." : "";
    p->planning = planning;
    if (!read_index(p) || !sd_text_read(p) || !read_networks(p) || !tiny_decoder_read(&p->tiny, &p->e, &p->vae) || !check_pictures(p, refining) || !choose_size(p) || !choose_guidance(p) ||
        !choose_calls(p, refining))
        return false;
    p->sizes_count = p->unet.text_time ? p->aesthetics ? 5 : 6 : 0;
    if (p->kind->xl != p->unet.text_time)
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: addition_embed_type of the UNet does not fit this pipeline", p->e.source->path);
    size_t n = sd_latent_floats(p), area = n / (size_t)p->vae.latent_channels, image = (size_t)p->width * (size_t)p->height;
    p->e.held_bytes = 4 * (n * (size_t)(p->images * 3) + area * (size_t)(p->unet.in_channels + p->unet.out_channels) * (size_t)p->batch) +
                      sampler_state_bytes(p->sampler, (size_t)p->images, n) + image * 15 * (size_t)p->images + given_bytes(p->e.request);
    return true;
}

static bool check_conditions(const sd *p)
{
    if (p->text_dim != p->unet.cross_dim)
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: the text is %d wide, the UNet wants %d", p->e.source->path, p->text_dim, p->unet.cross_dim);
    int extra = p->pooled_dim + p->sizes_count * p->unet.size_dim;
    if (p->unet.text_time && extra != p->unet.text_time_dim)
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: pooled text and %d sizes are %d wide, the UNet wants %d", p->e.source->path, p->sizes_count, extra,
                          p->unet.text_time_dim);
    return true;
}

static bool plan_all(sd *p, bool pictures, bool decodes)
{
    status *st = p->e.st;
    bool ok = sd_text_plan(p);
    if (!planning_goes_on(st) || (ok && !check_conditions(p)))
        return false;
    p->e.held_bytes += (size_t)p->batch * 4 * ((size_t)p->tokens * (size_t)p->text_dim + (size_t)(p->pooled_dim + p->sizes_count + p->unet.guidance_dim + 1));
    if (pictures)
        sd_picture_plan(p);
    if (planning_goes_on(st))
        sd_denoise_plan(p);
    if (planning_goes_on(st) && decodes)
        decoder_plan(&p->decode, &p->e, &p->tiny, &p->vae, sd_vae(p), p->latent_height, p->latent_width, p->images);
    return status_ok(st);
}

/* ---- running ---- */

/* One number for all that the network is told besides latents and timesteps. */
static uint64_t conditions_hash(const sd *p)
{
    const request *q = p->e.request;
    double numbers[4] = {p->strength, q->guidance_rescale, q->clip_skip, q->refiner ? q->refiner_start : 2};
    return given_hash(hash_more(sd_text_hash(p), numbers, sizeof numbers), q);
}

static trajectory path_of(sd *p)
{
    return (trajectory){.sampler = p->sampler, .noise = &p->noise, .latents = p->latents, .images = p->images, .channels = p->vae.latent_channels,
                        .height = p->latent_height, .width = p->latent_width, .prompt = conditions_hash(p), .guidance = p->guidance, .first = p->first,
                        .end = p->end, .prefix = p->prefix, .ctx = p, .settle = p->painting && !p->mask_input ? sd_picture_restore : NULL,
                        .start = *p->prefix ? &p->start : NULL, .fresh = p->fresh};
}

/* Where to begin, conditions, then the loop; seconds are added up over the models of a run. */
static bool encode_and_denoise(sd *p, bool begun)
{
    result *out = p->e.report;
    const request *q = p->e.request;
    double t0 = now_seconds();
    bool drawn = q->init && !begun, ok = sd_denoise_allocate(p) && (!drawn || sd_picture_begin(p));
    p->path = path_of(p);
    p->path.begun = drawn || begun;
    int first = ok ? trajectory_begin(&p->path, &p->e) : -1;
    if (first >= 0 && first < p->end) /* else only the picture is left to make */
        ok = sd_text_run(p) && sd_text_trace(p, q->trace, true) && sd_text_place(p);
    sd_text_close(p);
    double t1 = now_seconds();
    ok = ok && first >= 0 && sd_denoise(p, first);
    out->seconds_encode += t1 - t0;
    out->seconds_denoise += now_seconds() - t1;
    return ok;
}

/* The refiner gets the base's latents, and goes on with its noise. */
static bool hand_over(sd *base, sd *refiner)
{
    if (sd_latent_floats(base) != sd_latent_floats(refiner))
        return status_set(base->e.st, STATUS_BAD_FILE, "%s: its latents have another shape than the base model's", refiner->e.source->path);
    refiner->latents = base->latents;
    refiner->noise = base->noise;
    base->latents = NULL;
    base->noise = (noise_source){0};
    return true;
}

/* ---- the row: a model, and its refiner where there is one ---- */

typedef struct both {
    sd base, refiner;
    request first, second; /* what each is asked for */
} both;

static bool plan_refiner(both *m, const request *q, bool planning)
{
    sd *p = &m->refiner;
    status *st = m->base.e.st, before = refusal_aside(st);
    m->second = *q; /* the same size, whatever its own is */
    m->second.width = m->base.width;
    m->second.height = m->base.height;
    m->second.init = m->second.mask = NULL;
    m->second.load_latents = NULL;
    if (engine_open(&p->e, q->refiner, &m->second, m->base.e.report, st) && setup(p, &sd_xl, true, planning))
        plan_all(p, false, true);
    return refusal_back(st, &before);
}

static bool sd_plan(void *self, const void *kind, bool planning)
{
    both *m = self;
    const request *q = m->base.e.request;
    m->first = *q;
    m->first.last_latents = q->refiner ? NULL : q->last_latents;
    m->base.e.request = &m->first;
    status *st = m->base.e.st;
    if (!setup(&m->base, kind, false, planning) || !plan_all(&m->base, true, !q->refiner))
        if (st->code != STATUS_BUDGET || !m->base.rows) /* rows: all stages were asked */
            return false;
    return q->refiner ? plan_refiner(m, q, planning) : status_ok(st);
}

static int sd_describe(const void *self)
{
    const both *m = self;
    const sd *p = &m->base;
    report_settings(p->e.report, p->sampler, p->guidance, p->width, p->height);
    return p->end - p->first + m->refiner.end - m->refiner.first;
}

/* The model that a checkpoint stands in: 1 the base, 2 the refiner, whose checkpoint says what the base was told; 0 with st set. */
static int stage_reached(both *m)
{
    sd *p = &m->base;
    trajectory t = path_of(p);
    m->refiner.start = (stage_start){.number = 2, .before = trajectory_hash(&t, &p->e, 0)};
    int reached = checkpoint_stage(&p->e, m->first.refiner ? 2 : 1);
    m->refiner.fresh = reached != 2;
    if (reached != 2)
        return reached;
    sd_text_close(p);
    p->e.report->first_call += p->end - p->first;
    return reached;
}

static bool sd_run(void *self)
{
    both *m = self;
    sd *p = &m->base;
    int reached = stage_reached(m);
    return reached && noise_open(&p->noise, p->prompts.seed, p->images, sd_latent_floats(p), p->e.st) && (reached == 2 || encode_and_denoise(p, false)) &&
           (!m->first.refiner || (hand_over(p, &m->refiner) && encode_and_denoise(&m->refiner, true)));
}

static bool sd_finish(void *self)
{
    both *m = self;
    sd *last = m->first.refiner ? &m->refiner : &m->base;
    return vae_stage_finish(&last->decode, last->latents, last->images);
}

/* ---- parts alone ---- */

static bool sd_plan_text(void *self, const void *kind)
{
    sd *p = &((both *)self)->base;
    p->kind = kind;
    p->prefix = "";
    return sd_text_read(p) && open_prompts_alone(&p->prompts, p->e.request, p->e.st) && sd_text_plan(p);
}

static bool sd_encode(void *self, trace *to, bool wanted)
{
    sd *p = &((both *)self)->base;
    return !wanted || (sd_text_run(p) && sd_text_trace(p, to, false));
}

static bool sd_decode(void *self, const void *kind, const float *latents, const int64_t shape[4])
{
    sd *p = &((both *)self)->base;
    p->kind = kind;
    return read_networks(p) && vae_decode_latents(&p->decode, &p->e, sd_vae(p), latents, shape);
}

static void close_one(sd *p)
{
    sd_text_close(p);
    prompt_set_close(&p->prompts);
    stage_close(&p->denoise);
    stage_close(&p->encode);
    stage_close(&p->decode.stage);
    preview_close(&p->preview);
    sampler_close(p->sampler);
    noise_close(&p->noise);
    float *all[] = {p->latents, p->input, p->predicted, p->guided_noise, p->text, p->pooled, p->sizes, p->timesteps, p->guidance_embedding,
                    p->mask, p->masked_latents, p->picture_latents, p->picture_noise, p->picture, p->moments};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mem_free(all[i]);
}

static void sd_close(void *self)
{
    both *m = self;
    close_one(&m->base);
    close_one(&m->refiner);
    engine_close(&m->refiner.e);
}

#define VARIANT(variant, sort, also)                                                                                                                  \
    const pipeline_row pipeline_##variant = {.name = #variant, .takes = TAKES_PICTURES | TAKES_TINY | (also), .many = true, .kind = &sort, .bytes = sizeof(both),     \
                                             .plan = sd_plan, .describe = sd_describe, .denoise = sd_run, .finish = sd_finish,                  \
                                             .plan_text = sd_plan_text, .encode = sd_encode, .decode = sd_decode, .close = sd_close};

VARIANT(sd, sd_classic, TAKES_CLIP_SKIP | TAKES_RESCALING)
VARIANT(sd_lcm, sd_lcm, TAKES_CLIP_SKIP)
VARIANT(sd_ldm, sd_ldm, 0)
VARIANT(sd_xl, sd_xl, TAKES_CLIP_SKIP | TAKES_RESCALING | TAKES_REFINERS)
