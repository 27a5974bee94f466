/* The Stable Diffusion pipelines of diffusers (pipelines/stable_diffusion, stable_diffusion_xl, latent_consistency_models): CLIP, a UNet, a KL decoder; from
 * text, from a picture, into a picture; SDXL with two text encoders and a refiner that takes over the last part. And where they come from, the first latent
 * diffusion model (pipelines/latent_diffusion), with a text encoder of its own; its diffusers class knows no negative prompt and guides at any scale but 1.
 * Pitfalls: the SD classes overrule two values of the scheduler's file; a model distilled with guidance as an input (LCM) has no unconditional half;
 * SDXL without a negative prompt has zeros for it, an empty one is encoded; which numbers are drawn first, see pipe_sd_picture.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/pipe_sd.h"
#include "models/tensor_file.h"

enum { MOST_IMAGES = 64 };
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
    j = ok ? read_config(src, sd_vae(p), "config.json", name, st) : NULL;
    ok = j && vae_config_read(&p->vae, j, name, st);
    json_free(j);
    p->decode.config = p->vae;
    int latent = p->vae.latent_channels, in = p->unet.in_channels;
    if (ok && (p->vae.out_channels != 3 || p->vae.in_channels != 3))
        return status_set(st, STATUS_BAD_FILE, "%s: %d channels go in and %d come out, a picture has 3", name, p->vae.in_channels, p->vae.out_channels);
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
    if (!sd_picture_size(p))
        return false;
    if (p->width < 1 || p->height < 1 || p->width > 16384 || p->height > 16384)
        return status_set(p->e.st, STATUS_USAGE, "size %dx%d: width and height are 1 to 16384", p->width, p->height);
    if (p->width % unit || p->height % unit) {
        int w = (p->width + unit / 2) / unit * unit, h = (p->height + unit / 2) / unit * unit;
        return status_set(p->e.st, STATUS_USAGE, "size %dx%d: width and height must be multiples of %d, the nearest is %dx%d", p->width, p->height, unit,
                          w ? w : unit, h ? h : unit);
    }
    p->latent_width = p->width / unit;
    p->latent_height = p->height / unit;
    p->width = p->latent_width * factor;
    p->height = p->latent_height * factor;
    return true;
}

static bool open_sampler(sd *p)
{
    const request *q = p->e.request;
    size_t bytes = 0;
    char *config = source_read_blob(p->e.source, "scheduler/scheduler_config.json", 1 << 20, true, &bytes, p->e.st);
    p->sampler = status_ok(p->e.st) ? sampler_open_forced(config, bytes, q->sampling_method, q->scheduler, q->steps ? q->steps : p->kind->steps,
                                                            p->painting ? p->kind->mask_forced : p->kind->forced, p->e.st)
                                    : NULL;
    mem_free(config);
    if (p->sampler && sampler_wants_variance(p->sampler))
        return status_set(p->e.st, STATUS_USAGE, "--sampling-method %s with a learned variance does not go with this model", sampler_about(p->sampler)->method);
    return p->sampler != NULL;
}

/* Where on the schedule the picture begins and this model stops. refining: latents are handed over. */
static bool choose_calls(sd *p, bool refining)
{
    const request *q = p->e.request;
    p->end = sampler_calls(p->sampler);
    p->strength = isnan(q->strength) ? p->painting ? p->kind->mask_strength : p->kind->strength : q->strength;
    if (q->init && !refining && !(p->kind->lcm && sampler_begin_distilled(p->sampler, p->strength)))
        p->first = sampler_begin_at(p->sampler, p->strength);
    if (refining)
        p->first = sampler_begin_from(p->sampler, q->refiner_start);
    else if (q->refiner)
        p->end = sampler_end_at(p->sampler, q->refiner_start);
    if (p->first >= p->end && refining)
        return status_set(p->e.st, STATUS_USAGE, "--refiner-start %g: nothing is left for the refiner at %d steps", q->refiner_start, sampler_steps(p->sampler));
    if (p->first >= p->end && q->init)
        return status_set(p->e.st, STATUS_USAGE, "--strength %g: of %d steps none is left to do", p->strength, sampler_steps(p->sampler));
    if (p->first >= p->end)
        return status_set(p->e.st, STATUS_USAGE, "--refiner-start %g: nothing is left before the refiner at %d steps", q->refiner_start, sampler_steps(p->sampler));
    return true;
}

static bool check_pictures(sd *p, bool refining)
{
    const request *q = p->e.request;
    if (q->init && q->load_latents)
        return status_set(p->e.st, STATUS_USAGE, "--load-latents and --init-img: both say what to begin with");
    p->painting = q->mask && !refining;
    if (q->mask && !q->init)
        return status_set(p->e.st, STATUS_USAGE, "--mask: belongs to a picture, --init-img is missing");
    if (p->mask_input && !p->painting && !p->planning)
        return status_set(p->e.st, STATUS_USAGE, "%s: paints into pictures, it needs --init-img and --mask", p->e.source->path);
    return true;
}

/* Does --embeddings bring an unconditional half? */
static bool negative_given(const sd *p)
{
    tensor_file f;
    if (!p->e.request->embeddings)
        return false;
    bool open = tensor_file_open(&f, p->e.request->embeddings, p->e.st);
    const safetensor *t = open ? safetensors_find(f.table, "text.text_encoder_2") : NULL;
    bool two = t && t->dims == 3 && t->shape[0] == 2;
    tensor_file_close(&f);
    return two;
}

static bool choose_guidance(sd *p)
{
    const request *q = p->e.request;
    p->guidance = isnan(q->guidance_scale) ? p->painting ? p->kind->mask_guidance : p->kind->guidance : q->guidance_scale;
    p->guided = (p->kind->ldm ? p->guidance != 1 : p->guidance > 1) && !p->unet.guidance_dim && !p->kind->lcm;
    bool zeros = p->zeros_for_empty && !(p->guided && negative_given(p));
    if (!status_ok(p->e.st) || !prompt_set_open(&p->prompts, q, !p->guided ? GUIDE_NONE : zeros ? GUIDE_NAMED : GUIDE_ALL, p->e.st))
        return false;
    p->images = p->prompts.images;
    if (p->images > MOST_IMAGES)
        return status_set(p->e.st, STATUS_USAGE, "--batch-count %d: at most %d", p->images, MOST_IMAGES);
    p->batch = p->images * (p->guided ? 2 : 1);
    return true;
}

static bool setup(sd *p, const source *src, const request *q, result *report, status *st, const sd_kind *kind, bool refining, bool planning)
{
    *p = (sd){.kind = kind, .prefix = refining ? "refiner." : "", .planning = planning};
    if (!engine_open(&p->e, src, q, report, st) || !read_index(p) || !sd_text_read(p) || !read_networks(p) || !sd_tiny_read(p) || !check_pictures(p, refining) || !choose_size(p) ||
        !choose_guidance(p) || !open_sampler(p) || !choose_calls(p, refining))
        return false;
    p->sizes_count = p->unet.text_time ? p->aesthetics ? 5 : 6 : 0;
    if (p->kind->xl != p->unet.text_time)
        return status_set(st, STATUS_BAD_FILE, "%s: addition_embed_type of the UNet does not fit this pipeline", src->path);
    size_t n = sd_latent_floats(p), area = n / (size_t)p->vae.latent_channels, image = (size_t)p->width * (size_t)p->height;
    p->e.held_bytes = 4 * (n * (size_t)(p->images * 3) + area * (size_t)(p->unet.in_channels + p->unet.out_channels) * (size_t)p->batch) +
                      sampler_state_bytes(p->sampler, (size_t)p->images, n) + image * 15 * (size_t)p->images;
    if (q->init)
        p->e.held_bytes += (size_t)q->init->width * (size_t)q->init->height * 3;
    if (q->mask)
        p->e.held_bytes += (size_t)q->mask->width * (size_t)q->mask->height * 3;
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

static bool asked(const sd *p, bool ok) { return ok || p->e.st->code == STATUS_BUDGET; }

/* All stages are asked, so that the least budget named is the least for all of them. */
static bool plan_all(sd *p, bool pictures, bool decodes)
{
    bool ok = sd_text_plan(p);
    if (!asked(p, ok) || (ok && !check_conditions(p)))
        return false;
    p->e.held_bytes += (size_t)p->batch * 4 * ((size_t)p->tokens * (size_t)p->text_dim + (size_t)(p->pooled_dim + p->sizes_count + p->unet.guidance_dim + 1));
    bool begun = !pictures || sd_picture_plan(p);
    if (!asked(p, begun) || !asked(p, sd_denoise_plan(p)))
        return false;
    if (decodes && !asked(p, sd_decode_plan(p)))
        return false;
    return status_ok(p->e.st);
}

/* ---- running ---- */

static bool decode_pictures(sd *p)
{
    status *st = p->e.st;
    float *image = mem_alloc((size_t)p->width * (size_t)p->height * 3 * (size_t)p->images, 4, "picture", st);
    bool ok = image && vae_stage_run(&p->decode, p->decode.stage.e, p->latents, p->images, image) &&
              trace_add(p->e.request->trace, "image", image, 4, (int64_t[]){p->images, 3, p->height, p->width}, st) &&
              to_rgb(image, p->images, p->height, p->width, p->e.report, st);
    mem_free(image);
    return ok;
}

static void teardown(sd *p)
{
    sd_text_close(p);
    prompt_set_close(&p->prompts);
    stage_close(&p->denoise);
    stage_close(&p->encode);
    stage_close(&p->decode.stage);
    stage_close(&p->show.stage);
    sampler_close(p->sampler);
    noise_close(&p->noise);
    float *all[] = {p->latents, p->input, p->predicted, p->guided_noise, p->text, p->pooled, p->sizes, p->timesteps, p->guidance_embedding,
                    p->mask, p->masked_latents, p->picture_latents, p->picture_noise, p->picture, p->moments};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mem_free(all[i]);
    engine_close(&p->e);
}

static void fill_report(sd *p)
{
    result *out = p->e.report;
    out->guidance_scale = p->guidance;
    out->steps = sampler_steps(p->sampler);
    out->seed = p->e.request->seed;
    out->width = p->width;
    out->height = p->height;
    snprintf(out->sampler, sizeof out->sampler, "%s", sampler_about(p->sampler)->method);
}

/* One number for all that the network is told besides latents and timesteps. */
static uint64_t conditions_hash(const sd *p)
{
    const request *q = p->e.request;
    double numbers[4] = {p->strength, q->guidance_rescale, q->clip_skip, q->refiner ? q->refiner_start : 2};
    uint64_t h = hash_more(sd_text_hash(p), numbers, sizeof numbers);
    const pixmap *given[2] = {q->init, q->mask};
    for (int i = 0; i < 2; i++)
        if (given[i])
            h = hash_more(h, given[i]->rgb, (size_t)given[i]->width * (size_t)given[i]->height * 3);
    return h;
}

/* Where to begin, conditions, then the loop; seconds are added up over the models of a run. */
static bool encode_and_denoise(sd *p, bool begun)
{
    result *out = p->e.report;
    const request *q = p->e.request;
    double t0 = now_seconds();
    bool drawn = q->init && !begun, ok = sd_denoise_allocate(p) && (!drawn || sd_picture_begin(p));
    p->path = (trajectory){.sampler = p->sampler, .noise = &p->noise, .latents = p->latents, .images = p->images, .channels = p->vae.latent_channels,
                           .height = p->latent_height, .width = p->latent_width, .prompt = conditions_hash(p), .guidance = p->guidance, .begun = drawn || begun,
                           .first = p->first, .end = p->end, .prefix = p->prefix, .ctx = p, .settle = p->painting && !p->mask_input ? sd_picture_restore : NULL};
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

typedef struct both {
    sd base, refiner;
    request first, second; /* what each is asked for */
} both;

static bool set_up_all(both *m, const source *src, const request *q, result *out, status *st, const sd_kind *kind, bool planning)
{
    m->first = *q;
    m->first.last_latents = q->refiner ? NULL : q->last_latents;
    if (!setup(&m->base, src, &m->first, out, st, kind, false, planning) || !plan_all(&m->base, true, !q->refiner))
        if (st->code != STATUS_BUDGET || !m->base.rows) /* rows: all stages were asked */
            return false;
    if (!q->refiner)
        return status_ok(st);
    m->second = *q; /* the same size, whatever its own is */
    m->second.width = m->base.width;
    m->second.height = m->base.height;
    m->second.init = m->second.mask = NULL;
    m->second.checkpoint = m->second.load_latents = NULL;
    status before = refusal_aside(st);
    if (setup(&m->refiner, q->refiner, &m->second, out, st, &sd_xl, true, planning))
        plan_all(&m->refiner, false, true);
    return refusal_back(st, &before);
}

static bool generate(const source *src, const request *q, result *out, status *st, const sd_kind *kind)
{
    both *m = mem_alloc(1, sizeof *m, "pipeline", st);
    double t0 = now_seconds();
    bool ok = m && set_up_all(m, src, q, out, st, kind, false) && noise_open(&m->base.noise, m->base.prompts.seed, m->base.images, sd_latent_floats(&m->base), st);
    double t1 = now_seconds();
    sd *last = m && q->refiner ? &m->refiner : m ? &m->base : NULL;
    ok = ok && encode_and_denoise(&m->base, false);
    if (ok && q->refiner)
        ok = hand_over(&m->base, &m->refiner) && encode_and_denoise(&m->refiner, true);
    double t2 = now_seconds();
    ok = ok && decode_pictures(last);
    if (ok) {
        fill_report(&m->base);
        out->seconds_load = t1 - t0;
        out->seconds_decode = now_seconds() - t2;
        out->seconds_total = now_seconds() - t0;
    }
    if (m) {
        teardown(&m->base);
        teardown(&m->refiner);
    }
    mem_free(m);
    return ok;
}

static bool plan_only(const source *src, const request *q, result *out, status *st, const sd_kind *kind)
{
    both *m = mem_alloc(1, sizeof *m, "pipeline", st);
    bool ok = m && set_up_all(m, src, q, out, st, kind, true);
    if (ok) {
        fill_report(&m->base);
        out->evaluations = m->base.end - m->base.first + m->refiner.end - m->refiner.first;
    }
    if (m) {
        teardown(&m->base);
        teardown(&m->refiner);
    }
    mem_free(m);
    return ok;
}

static bool decode_only(const source *src, const request *q, const float *latents, const int64_t shape[4], result *out, status *st, const sd_kind *kind)
{
    sd *p = mem_alloc(1, sizeof *p, "pipeline", st);
    *out = (result){0};
    if (p)
        *p = (sd){.kind = kind, .prefix = ""};
    bool ok = p && engine_open(&p->e, src, q, out, st) && read_networks(p);
    ok = ok && latents_fit(src, &p->vae, shape, st);
    if (ok) {
        p->decode.from_tokens = shape[1] == 0;
        p->images = (int)shape[0];
        p->latent_height = (int)shape[2];
        p->latent_width = (int)shape[3];
        p->height = p->latent_height * vae_factor(&p->vae);
        p->width = p->latent_width * vae_factor(&p->vae);
        p->e.held_bytes = (size_t)p->images * (sd_latent_floats(p) * 4 + (size_t)p->width * (size_t)p->height * 15);
        p->latents = mem_alloc(sd_latent_floats(p) * (size_t)p->images, 4, "latents", st);
        ok = p->latents && vae_stage_plan(&p->decode, &p->e, sd_vae(p), p->latent_height, p->latent_width, p->images);
    }
    if (ok) {
        memcpy(p->latents, latents, sd_latent_floats(p) / (size_t)(p->decode.from_tokens ? p->vae.latent_channels : 1) * (size_t)p->images * 4);
        ok = decode_pictures(p);
    }
    if (p)
        teardown(p);
    mem_free(p);
    return ok;
}

static bool encode_only(const source *src, const request *q, trace *to, result *out, status *st, const sd_kind *kind)
{
    sd *p = mem_alloc(1, sizeof *p, "pipeline", st);
    if (p)
        *p = (sd){.kind = kind, .prefix = ""};
    bool plan_alone = !to && !q->store && !q->cache;
    double t0 = now_seconds();
    bool ok = p && engine_open(&p->e, src, q, out, st) && sd_text_read(p) && prompt_set_open(&p->prompts, q, q->tokens ? GUIDE_NONE : GUIDE_NAMED, st) &&
              sd_text_plan(p);
    double t1 = now_seconds();
    ok = ok && (plan_alone || sd_text_run(p)) && sd_text_trace(p, to, false);
    out->seconds_load = t1 - t0;
    out->seconds_encode = now_seconds() - t1;
    out->seconds_total = now_seconds() - t0;
    if (p)
        teardown(p);
    mem_free(p);
    return ok;
}

#define VARIANT(name, kind)                                                                                                                                       \
    static bool name##_generate(const source *s, const request *q, result *o, status *st) { return generate(s, q, o, st, &kind); }                                \
    static bool name##_plan(const source *s, const request *q, result *o, status *st) { return plan_only(s, q, o, st, &kind); }                                   \
    static bool name##_encode(const source *s, const request *q, trace *t, result *o, status *st) { return encode_only(s, q, t, o, st, &kind); }                  \
    static bool name##_decode(const source *s, const request *q, const float *l, const int64_t d[4], result *o, status *st) { return decode_only(s, q, l, d, o, st, &kind); } \
    const pipeline_row pipeline_##name = {#name, name##_generate, name##_encode, name##_decode, name##_plan, true};

VARIANT(sd, sd_classic)
VARIANT(sd_lcm, sd_lcm)
VARIANT(sd_ldm, sd_ldm)
VARIANT(sd_xl, sd_xl)
