/* PixArtAlphaPipeline and PixArtSigmaPipeline of diffusers (pipelines/pixart_alpha): T5, a DiT, a KL decoder.
 * Pitfalls: prompts are lower-cased and stripped; 120 tokens for alpha, 300 for Sigma; sizes are rounded to trained ones by aspect ratio and the
 * picture scaled back; alpha at 1024 also gets the size and the ratio; the first half of 8 output channels is the noise. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/aspect_bins.h"
#include "models/net_pixart.h"
#include "models/pipe_common.h"
#include "models/pipelines.h"
#include "models/prompt_set.h"
#include "models/resume.h"
#include "sampling/sampler.h"

typedef struct pixart {
    engine e;
    bool sigma;
    pixart_config denoiser;
    vae_config vae;
    double guidance;
    bool guided;
    int width, height;          /* asked for */
    int run_width, run_height;  /* made */
    int latent_width, latent_height, images, batch; /* batch: 2 * images when guided */
    sampler *sampler;
    noise_source noise;
    prompt_set prompts;
    t5_text text;
    stage denoise;
    vae_stage decode;
    /* during denoising */
    float *latents, *scaled, *predicted, *guided_noise, *text_copies;
    float timesteps[2 * 64], resolution[4 * 64], ratio[2 * 64];
    int32_t starts[2 * 64 + 1];
} pixart;

enum { MOST_IMAGES = 64 };

static size_t latent_floats(const pixart *p)
{
    return (size_t)p->denoiser.in_channels * (size_t)p->latent_height * (size_t)p->latent_width;
}

/* ---- setting up ---- */

static bool read_configs(pixart *p)
{
    char name[FILE_NAME_BYTES];
    const source *src = p->e.source;
    status *st = p->e.st;
    json *j = read_config(src, "transformer", "config.json", name, st);
    bool ok = j && pixart_config_read(&p->denoiser, j, name, st);
    json_free(j);
    j = ok ? read_config(src, "vae", "config.json", name, st) : NULL;
    ok = j && vae_config_read(&p->vae, j, name, st);
    json_free(j);
    if (ok && p->vae.latent_channels != p->denoiser.in_channels)
        return status_set(st, STATUS_BAD_FILE, "%s: the decoder has %d latent channels, the transformer %d", src->path, p->vae.latent_channels, p->denoiser.in_channels);
    if (ok && p->vae.out_channels != 3)
        return status_set(st, STATUS_BAD_FILE, "%s: out_channels is %d, a picture has 3", name, p->vae.out_channels);
    int out = p->denoiser.out_channels, in = p->denoiser.in_channels;
    if (ok && out != in && out != 2 * in)
        return status_set(st, STATUS_BAD_FILE, "%s: the transformer has %d output channels for %d latent channels", src->path, out, in);
    p->decode.config = p->vae;
    return ok;
}

static bool choose_size(pixart *p)
{
    const request *q = p->e.request;
    int factor = vae_factor(&p->vae), unit = factor * p->denoiser.patch, own = p->denoiser.sample_size * factor;
    p->width = q->width ? q->width : own;
    p->height = q->height ? q->height : own;
    if (p->width < 1 || p->height < 1 || p->width > 16384 || p->height > 16384)
        return status_set(p->e.st, STATUS_USAGE, "size %dx%d: width and height are 1 to 16384", p->width, p->height);
    p->run_width = p->width;
    p->run_height = p->height;
    if (!aspect_bin_for(p->denoiser.sample_size, p->sigma ? 256 : 128, &p->run_height, &p->run_width) && (p->width % unit || p->height % unit)) {
        int w = (p->width + unit / 2) / unit * unit, h = (p->height + unit / 2) / unit * unit;
        return status_set(p->e.st, STATUS_USAGE, "size %dx%d: width and height must be multiples of %d, the nearest is %dx%d", p->width, p->height, unit,
                          w ? w : unit, h ? h : unit);
    }
    p->latent_width = p->run_width / factor;
    p->latent_height = p->run_height / factor;
    if (p->latent_width % p->denoiser.patch || p->latent_height % p->denoiser.patch)
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: a size of %dx%d does not divide into patches of %d", p->e.source->path, p->run_width, p->run_height, unit);
    return true;
}

static bool open_sampler(pixart *p)
{
    const request *q = p->e.request;
    size_t bytes = 0;
    char *config = source_read_blob(p->e.source, "scheduler/scheduler_config.json", 1 << 20, true, &bytes, p->e.st);
    p->sampler = status_ok(p->e.st) ? sampler_open(config, bytes, q->sampling_method, q->scheduler, q->steps ? q->steps : 20, p->e.st) : NULL;
    mem_free(config);
    if (p->sampler && sampler_wants_variance(p->sampler))
        return status_set(p->e.st, STATUS_USAGE, "--sampling-method %s with a learned variance does not go with this model", sampler_about(p->sampler)->method);
    return p->sampler != NULL;
}

static bool setup(pixart *p, const source *src, const request *q, result *report, status *st, bool sigma)
{
    *p = (pixart){.sigma = sigma};
    if (!engine_open(&p->e, src, q, report, st) || !read_configs(p) || !choose_size(p) || !open_sampler(p))
        return false;
    p->guidance = isnan(q->guidance_scale) ? 4.5 : q->guidance_scale;
    p->guided = p->guidance > 1;
    if (!prompt_set_open(&p->prompts, q, p->guided ? GUIDE_ALL : GUIDE_NONE, st))
        return false;
    p->images = p->prompts.images;
    if (p->images > MOST_IMAGES)
        return status_set(st, STATUS_USAGE, "--batch-count %d: at most %d", p->images, MOST_IMAGES);
    p->batch = p->images * (p->guided ? 2 : 1);
    size_t n = latent_floats(p), image = (size_t)p->run_width * (size_t)p->run_height * 3;
    p->e.held_bytes = 4 * n * (size_t)(p->images * 3 + p->batch * 2) + sampler_state_bytes(p->sampler, (size_t)p->images, n) +
                      (image * 4 + (size_t)p->width * (size_t)p->height * 15) * (size_t)p->images;
    return true;
}

static bool plan_text(pixart *p)
{
    const request *q = p->e.request;
    int most = q->max_sequence_length ? q->max_sequence_length : p->sigma ? 300 : 120;
    if (most > 4096)
        return status_set(p->e.st, STATUS_USAGE, "--max-sequence-length %d: at most 4096", most);
    bool ok = t5_text_plan(&p->text, &p->e, "text_encoder", "tokenizer", p->prompts.text, p->prompts.texts, most, true);
    if (ok)
        text_stage_report_cut(&p->text.text, q, &p->prompts);
    if (ok && p->text.config.d_model != (p->denoiser.caption_channels ? p->denoiser.caption_channels : p->denoiser.cross_dim))
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: the text encoder's width is %d, the transformer wants %d", p->e.source->path, p->text.config.d_model,
                          p->denoiser.caption_channels);
    return ok;
}

/* The prompt of item i of the denoiser's batch. */
static int text_of(const pixart *p, int i)
{
    return p->guided && i < p->images ? p->prompts.negative[i] : p->prompts.positive[i - (p->guided ? p->images : 0)];
}

/* Every item of the batch has its prompt's tokens: the unconditional ones first. */
static void place_text(pixart *p)
{
    const int32_t *s = p->text.text.tokens.start;
    p->starts[0] = 0;
    for (int i = 0; i < p->batch; i++) {
        int which = text_of(p, i);
        p->starts[i + 1] = p->starts[i] + s[which + 1] - s[which];
    }
    p->e.held_bytes += (size_t)p->starts[p->batch] * (size_t)p->text.config.d_model * 4;
}

static void pixart_forward(run *r, const void *ctx)
{
    const pixart *p = ctx;
    pixart_inputs in = {.latents = p->scaled, .batch = p->batch, .height = p->latent_height, .width = p->latent_width, .text = p->text_copies,
                        .segments = {p->batch, p->starts}, .timesteps = p->timesteps, .resolution = p->resolution, .aspect_ratio = p->ratio,
                        .noise = p->predicted};
    pixart_denoise(r, &p->denoiser, &in);
}

static bool plan_rest(pixart *p)
{
    place_text(p);
    bool ok = stage_plan(&p->denoise, &p->e, "transformer", "transformer", pixart_aliases, pixart_forward, p, sampler_calls(p->sampler));
    return (ok || p->e.st->code == STATUS_BUDGET) & vae_stage_plan(&p->decode, &p->e, "vae", p->latent_height, p->latent_width, p->images) && ok;
}

static bool plan_all(pixart *p)
{
    bool ok = plan_text(p);
    if (!ok && p->e.st->code != STATUS_BUDGET)
        return false;
    return plan_rest(p) && ok; /* all stages are asked, so that the least budget named is the least for all of them */
}

/* ---- running ---- */

static bool allocate(pixart *p)
{
    size_t n = latent_floats(p), out = n / (size_t)p->denoiser.in_channels * (size_t)p->denoiser.out_channels;
    status *st = p->e.st;
    p->latents = mem_alloc(n * (size_t)p->images, 4, "latents", st);
    p->scaled = mem_alloc(n * (size_t)p->batch, 4, "latents", st);
    p->predicted = mem_alloc(out * (size_t)p->batch, 4, "latents", st);
    p->guided_noise = mem_alloc(n * (size_t)p->images, 4, "latents", st);
    p->text_copies = mem_alloc((size_t)p->starts[p->batch] * (size_t)p->text.config.d_model, 4, "text", st);
    return status_ok(st) && noise_open(&p->noise, p->prompts.seed, p->images, n, st);
}

static void copy_text(pixart *p)
{
    size_t width = (size_t)p->text.config.d_model;
    for (int i = 0; i < p->batch; i++) {
        int which = text_of(p, i);
        memcpy(p->text_copies + (size_t)p->starts[i] * width, p->text.text.output + (size_t)p->text.text.tokens.start[which] * width,
               (size_t)(p->starts[i + 1] - p->starts[i]) * width * 4);
    }
}

static trajectory trajectory_of(pixart *p)
{
    return (trajectory){.sampler = p->sampler, .noise = &p->noise, .latents = p->latents, .images = p->images, .channels = p->denoiser.in_channels,
                        .height = p->latent_height, .width = p->latent_width, .prompt = text_stage_hash(&p->text.text), .guidance = p->guidance};
}

static void fill_conditions(pixart *p, int call)
{
    for (int b = 0; b < p->batch; b++) {
        p->timesteps[b] = (float)sampler_timestep(p->sampler, call);
        p->resolution[2 * b] = (float)p->run_height;
        p->resolution[2 * b + 1] = (float)p->run_width;
        p->ratio[b] = (float)((double)p->run_height / p->run_width);
    }
}

/* unconditional + guidance * (conditional - unconditional), of the channels that are noise */
static void guide(pixart *p)
{
    size_t n = latent_floats(p), out = n / (size_t)p->denoiser.in_channels * (size_t)p->denoiser.out_channels;
    float g = (float)p->guidance;
    for (int i = 0; i < p->images; i++) {
        const float *a = p->predicted + (size_t)i * out, *b = p->guided ? p->predicted + (size_t)(i + p->images) * out : a;
        for (size_t k = 0; k < n; k++)
            p->guided_noise[(size_t)i * n + k] = p->guided ? a[k] + g * (b[k] - a[k]) : a[k];
    }
}

static bool step(pixart *p, int call)
{
    size_t n = latent_floats(p), all = n * (size_t)p->images;
    sampler_scale_input(p->sampler, call, p->latents, p->scaled, all);
    if (p->guided)
        memcpy(p->scaled + all, p->scaled, all * 4);
    fill_conditions(p, call);
    if (!stage_pass(&p->denoise, p))
        return false;
    guide(p);
    return sampler_step(p->sampler, call, p->guided_noise, p->latents, (size_t)p->images, n, noise_draw, &p->noise, p->e.st);
}

static bool denoise(pixart *p, trajectory *t, int first)
{
    double begin = now_seconds();
    const request *q = p->e.request;
    int calls = sampler_calls(p->sampler);
    bool ok = first == calls;
    if (!ok) {
        copy_text(p);
        ok = stage_open(&p->denoise);
    }
    for (int i = first; ok && i < calls; i++) {
        report_progress(q, "denoise", i, calls);
        ok = step(p, i) && trajectory_after(t, &p->e, i);
        p->e.report->evaluations = i + 1 - first;
    }
    if (ok)
        report_progress(q, "denoise", calls, calls);
    stage_close(&p->denoise);
    p->denoise.row->seconds = now_seconds() - begin;
    return ok;
}

static bool trace_text(const pixart *p, trace *to)
{
    int which[2 * MOST_IMAGES];
    for (int i = 0; i < p->batch; i++)
        which[i] = text_of(p, i);
    return text_stage_trace(&p->text.text, to, which, p->batch, false, p->e.st);
}

static bool decode_pictures(pixart *p)
{
    status *st = p->e.st;
    size_t made = (size_t)p->run_width * (size_t)p->run_height * 3, asked = (size_t)p->width * (size_t)p->height * 3;
    float *image = mem_alloc(made * (size_t)p->images, 4, "picture", st), *final = image, *tmp = NULL;
    bool ok = image && vae_stage_run(&p->decode, &p->e, p->latents, p->images, image);
    if (ok && (p->run_width != p->width || p->run_height != p->height)) {
        final = mem_alloc(asked * (size_t)p->images, 4, "picture", st);
        tmp = final ? mem_alloc(resize_floats(p->run_height, p->run_width, p->height, p->width), 4, "picture", st) : NULL;
        for (int i = 0; tmp && i < p->images; i++)
            resize_and_crop(image + (size_t)i * made, p->run_height, p->run_width, final + (size_t)i * asked, p->height, p->width, tmp);
    }
    ok = ok && status_ok(st) && trace_add(p->e.request->trace, "image", final, 4, (int64_t[]){p->images, 3, p->height, p->width}, st) &&
         to_rgb(final, p->images, p->height, p->width, p->e.report, st);
    if (final != image)
        mem_free(final);
    mem_free(tmp);
    mem_free(image);
    return ok;
}

static void teardown(pixart *p)
{
    prompt_set_close(&p->prompts);
    text_stage_close(&p->text.text);
    stage_close(&p->denoise);
    stage_close(&p->decode.stage);
    sampler_close(p->sampler);
    noise_close(&p->noise);
    mem_free(p->latents);
    mem_free(p->scaled);
    mem_free(p->predicted);
    mem_free(p->guided_noise);
    mem_free(p->text_copies);
    engine_close(&p->e);
}

static void fill_report(pixart *p)
{
    result *out = p->e.report;
    out->guidance_scale = p->guidance;
    out->steps = sampler_steps(p->sampler);
    out->seed = p->e.request->seed;
    out->width = p->width;
    out->height = p->height;
    snprintf(out->sampler, sizeof out->sampler, "%s", sampler_about(p->sampler)->method);
}

static bool generate(const source *src, const request *q, result *out, status *st, bool sigma)
{
    pixart *p = mem_alloc(1, sizeof *p, "pipeline", st);
    double t0 = now_seconds();
    bool ok = p && setup(p, src, q, out, st, sigma) && plan_all(p) && allocate(p);
    trajectory t = ok ? trajectory_of(p) : (trajectory){0};
    int first = ok ? trajectory_begin(&t, &p->e) : -1;
    ok = first >= 0;
    double t1 = now_seconds();
    if (ok && first < sampler_calls(p->sampler)) /* else only the picture is left to make */
        ok = text_stage_run(&p->text.text) && trace_text(p, q->trace);
    double t2 = now_seconds();
    ok = ok && denoise(p, &t, first);
    double t3 = now_seconds();
    ok = ok && decode_pictures(p);
    double t4 = now_seconds();
    if (ok) {
        fill_report(p);
        out->seconds_load = t1 - t0;
        out->seconds_encode = t2 - t1;
        out->seconds_denoise = t3 - t2;
        out->seconds_decode = t4 - t3;
        out->seconds_total = t4 - t0;
    }
    if (p)
        teardown(p);
    mem_free(p);
    return ok;
}

static bool plan_only(const source *src, const request *q, result *out, status *st, bool sigma)
{
    pixart *p = mem_alloc(1, sizeof *p, "pipeline", st);
    bool ok = p && setup(p, src, q, out, st, sigma) && plan_all(p);
    if (ok) {
        fill_report(p);
        out->evaluations = sampler_calls(p->sampler);
    }
    if (p)
        teardown(p);
    mem_free(p);
    return ok;
}

static bool decode_only(const source *src, const request *q, const float *latents, const int64_t shape[4], result *out, status *st, bool sigma)
{
    pixart *p = mem_alloc(1, sizeof *p, "pipeline", st);
    *out = (result){0};
    bool ok = p && setup(p, src, q, out, st, sigma);
    ok = ok && latents_fit(src, &p->vae, shape, st);
    if (ok) {
        p->decode.from_tokens = shape[1] == 0;
        p->images = (int)shape[0];
        p->latent_height = (int)shape[2];
        p->latent_width = (int)shape[3];
        p->height = p->run_height = p->latent_height * vae_factor(&p->vae);
        p->width = p->run_width = p->latent_width * vae_factor(&p->vae);
        p->latents = mem_alloc(latent_floats(p) * (size_t)p->images, 4, "latents", st);
        ok = p->latents && vae_stage_plan(&p->decode, &p->e, "vae", p->latent_height, p->latent_width, p->images);
    }
    if (ok) {
        memcpy(p->latents, latents, latent_floats(p) / (size_t)(p->decode.from_tokens ? p->vae.latent_channels : 1) * (size_t)p->images * 4);
        ok = decode_pictures(p);
    }
    if (p)
        teardown(p);
    mem_free(p);
    return ok;
}

static bool encode_only(const source *src, const request *q, trace *to, result *out, status *st, bool sigma)
{
    pixart *p = mem_alloc(1, sizeof *p, "pipeline", st);
    if (p)
        *p = (pixart){.sigma = sigma};
    bool plan_alone = !to && !q->store && !q->cache;
    double t0 = now_seconds();
    bool ok = p && engine_open(&p->e, src, q, out, st) && read_configs(p);
    ok = ok && prompt_set_open(&p->prompts, q, q->tokens ? GUIDE_NONE : GUIDE_NAMED, st) && plan_text(p);
    double t1 = now_seconds();
    ok = ok && (plan_alone || text_stage_run(&p->text.text)) && text_stage_trace(&p->text.text, to, NULL, p->text.text.tokens.count, true, st);
    out->seconds_load = t1 - t0;
    out->seconds_encode = now_seconds() - t1;
    out->seconds_total = now_seconds() - t0;
    if (p)
        teardown(p);
    mem_free(p);
    return ok;
}

#define VARIANT(name, is_sigma)                                                                                                                                            \
    static bool name##_generate(const source *s, const request *q, result *o, status *st) { return generate(s, q, o, st, is_sigma); }                                     \
    static bool name##_plan(const source *s, const request *q, result *o, status *st) { return plan_only(s, q, o, st, is_sigma); }                                        \
    static bool name##_encode(const source *s, const request *q, trace *t, result *o, status *st) { return encode_only(s, q, t, o, st, is_sigma); }                       \
    static bool name##_decode(const source *s, const request *q, const float *l, const int64_t d[4], result *o, status *st) { return decode_only(s, q, l, d, o, st, is_sigma); } \
    const pipeline_row pipeline_##name = {#name, name##_generate, name##_encode, name##_decode, name##_plan, true};

VARIANT(pixart_alpha, false)
VARIANT(pixart_sigma, true)
