/* PixArtAlphaPipeline and PixArtSigmaPipeline of diffusers (pipelines/pixart_alpha): T5, a DiT, a KL decoder.
 * Pitfalls: prompts are lower-cased and stripped; 120 tokens for alpha, 300 for Sigma; sizes are rounded to trained ones by aspect ratio and the
 * picture scaled back; alpha at 1024 also gets the size and the ratio; the first half of 8 output channels is the noise. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "models/aspect_bins.h"
#include "models/net_pixart.h"
#include "models/pipe_common.h"
#include "models/pipe_picture.h"
#include "models/pipe_request.h"
#include "models/pipelines.h"
#include "models/preview.h"
#include "models/resume.h"

typedef struct pixart {
    engine e;
    bool sigma;
    pixart_config denoiser;
    double guidance;
    bool guided;
    int width, height;          /* asked for */
    int run_width, run_height;  /* made */
    int latent_width, latent_height, images, batch; /* batch: 2 * images when guided */
    sampler *sampler;
    noise_source noise;
    prompt_set prompts;
    t5_text text;
    trajectory path;
    stage denoise;
    vae_stage decode;
    tiny_decoder tiny;
    preview preview;
    /* during denoising */
    float *latents, *scaled, *predicted, *guided_noise, *text_copies;
    float timesteps[2 * MOST_IMAGES], resolution[4 * MOST_IMAGES], ratio[2 * MOST_IMAGES];
    int32_t starts[2 * MOST_IMAGES + 1];
} pixart;

enum { OWN_STEPS = 20, ALPHA_TOKENS = 120, SIGMA_TOKENS = 300 };
static const double OWN_GUIDANCE = 4.5;

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
    const vae_config *vae = &p->decode.config;
    json *j = read_config(src, "transformer", "config.json", name, st);
    bool ok = j && pixart_config_read(&p->denoiser, j, name, st);
    json_free(j);
    ok = ok && vae_read(&p->decode.config, src, "vae", false, st);
    vae_scale_only(&p->decode.config);
    if (ok && vae->latent_channels != p->denoiser.in_channels)
        return status_set(st, STATUS_BAD_FILE, "%s: the decoder has %d latent channels, the transformer %d", src->path, vae->latent_channels, p->denoiser.in_channels);
    int out = p->denoiser.out_channels, in = p->denoiser.in_channels;
    if (ok && out != in && out != 2 * in)
        return status_set(st, STATUS_BAD_FILE, "%s: the transformer has %d output channels for %d latent channels", src->path, out, in);
    return ok;
}

static bool choose_size(pixart *p)
{
    const request *q = p->e.request;
    int factor = vae_factor(&p->decode.config), unit = factor * p->denoiser.patch, own = p->denoiser.sample_size * factor;
    p->width = q->width ? q->width : own;
    p->height = q->height ? q->height : own;
    if (!size_in_range(p->width, p->height, p->e.st))
        return false;
    p->run_width = p->width;
    p->run_height = p->height;
    if (!aspect_bin_for(p->denoiser.sample_size, p->sigma ? 256 : 128, &p->run_height, &p->run_width) && !size_divides(p->width, p->height, unit, p->e.st))
        return false;
    p->latent_width = p->run_width / factor;
    p->latent_height = p->run_height / factor;
    if (p->latent_width % p->denoiser.patch || p->latent_height % p->denoiser.patch)
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: a size of %dx%d does not divide into patches of %d", p->e.source->path, p->run_width, p->run_height, unit);
    return true;
}

static bool setup(pixart *p)
{
    const request *q = p->e.request;
    status *st = p->e.st;
    if (!read_configs(p) || !tiny_decoder_read(&p->tiny, &p->e, &p->decode.config) || !choose_size(p) || !(p->sampler = open_sampler(p->e.source, q, OWN_STEPS, NULL, false, st)))
        return false;
    p->guidance = isnan(q->guidance_scale) ? OWN_GUIDANCE : q->guidance_scale;
    p->guided = p->guidance > 1;
    if (!open_prompts(&p->prompts, q, p->guided ? GUIDE_ALL : GUIDE_NONE, st))
        return false;
    p->images = p->prompts.images;
    p->batch = p->images * (p->guided ? 2 : 1);
    size_t n = latent_floats(p), image = (size_t)p->run_width * (size_t)p->run_height * 3;
    p->e.held_bytes = 4 * n * (size_t)(p->images * 3 + p->batch * 2) + sampler_state_bytes(p->sampler, (size_t)p->images, n) +
                      (image * 4 + (size_t)p->width * (size_t)p->height * 15) * (size_t)p->images;
    return true;
}

static bool plan_text(pixart *p)
{
    int most = prompt_length(p->e.request, p->sigma ? SIGMA_TOKENS : ALPHA_TOKENS, p->e.st);
    bool ok = most && t5_text_plan(&p->text, &p->e, "text_encoder", "tokenizer", p->prompts.text, p->prompts.texts, most, true);
    if (ok)
        text_stage_report_cut(&p->text.text, p->e.request, &p->prompts);
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

static bool pixart_plan(void *self, const void *kind, bool planning)
{
    pixart *p = self;
    (void)planning;
    p->sigma = *(const bool *)kind;
    if (!setup(p) || (!plan_text(p) && !planning_goes_on(p->e.st)))
        return false;
    place_text(p);
    p->preview = (preview){.e = &p->e, .component = "vae", .decoder = &p->decode.config, .tiny = &p->tiny, .images = p->images, .channels = p->denoiser.in_channels,
                           .height = p->latent_height, .width = p->latent_width, .passes = sampler_calls(p->sampler)};
    if (preview_plan(&p->preview))
        stage_plan(&p->denoise, &p->e, "transformer", "transformer", pixart_aliases, pixart_forward, p, sampler_calls(p->sampler));
    preview_planned(&p->preview);
    if (planning_goes_on(p->e.st))
        decoder_plan(&p->decode, &p->e, &p->tiny, &p->decode.config, "vae", p->latent_height, p->latent_width, p->images);
    return status_ok(p->e.st);
}

static int pixart_describe(const void *self)
{
    const pixart *p = self;
    report_settings(p->e.report, p->sampler, p->guidance, p->width, p->height);
    return sampler_calls(p->sampler);
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
    preview_predict(&p->preview, p->sampler, call, p->guided_noise, p->latents, call + 1);
    return sampler_step(p->sampler, call, p->guided_noise, p->latents, (size_t)p->images, n, noise_draw, &p->noise, p->e.st);
}

static bool denoise(pixart *p, int first)
{
    double begin = now_seconds();
    const request *q = p->e.request;
    int calls = sampler_calls(p->sampler);
    bool ok = first == calls;
    if (!ok) {
        copy_text(p);
        ok = preview_open(&p->preview) && stage_open(&p->denoise);
    }
    for (int i = first; ok && i < calls; i++) {
        report_progress(q, "denoise", i, calls);
        ok = step(p, i) && trajectory_after(&p->path, &p->e, i) && preview_show(&p->preview, p->latents, i + 1, i + 1 == calls);
        p->e.report->evaluations = i + 1 - first;
    }
    if (ok)
        report_progress(q, "denoise", calls, calls);
    stage_close(&p->denoise);
    preview_close(&p->preview);
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

static bool pixart_run(void *self)
{
    pixart *p = self;
    result *out = p->e.report;
    double t0 = now_seconds();
    bool ok = allocate(p);
    p->path = (trajectory){.sampler = p->sampler, .noise = &p->noise, .latents = p->latents, .images = p->images, .channels = p->denoiser.in_channels,
                           .height = p->latent_height, .width = p->latent_width, .prompt = text_stage_hash(&p->text.text), .guidance = p->guidance};
    int first = ok ? trajectory_begin(&p->path, &p->e) : -1;
    if (first >= 0 && first < sampler_calls(p->sampler)) /* else only the picture is left to make */
        ok = text_stage_run(&p->text.text) && trace_text(p, p->e.request->trace);
    double t1 = now_seconds();
    ok = ok && first >= 0 && denoise(p, first);
    out->seconds_encode = t1 - t0;
    out->seconds_denoise = now_seconds() - t1;
    return ok;
}

/* Where the size asked for is none that the network knows, the picture is scaled to it. */
static bool pixart_finish(void *self)
{
    pixart *p = self;
    status *st = p->e.st;
    if (p->run_width == p->width && p->run_height == p->height)
        return vae_stage_finish(&p->decode, p->latents, p->images);
    size_t made = (size_t)p->run_width * (size_t)p->run_height * 3, asked = (size_t)p->width * (size_t)p->height * 3;
    float *image = mem_alloc(made * (size_t)p->images, 4, "picture", st), *final = NULL, *tmp = NULL;
    bool ok = image && vae_stage_run(&p->decode, p->latents, p->images, image);
    final = ok ? mem_alloc(asked * (size_t)p->images, 4, "picture", st) : NULL;
    tmp = final ? mem_alloc(resize_floats(p->run_height, p->run_width, p->height, p->width), 4, "picture", st) : NULL;
    for (int i = 0; tmp && i < p->images; i++)
        resize_and_crop(image + (size_t)i * made, p->run_height, p->run_width, final + (size_t)i * asked, p->height, p->width, tmp);
    ok = tmp && finish_pictures(&p->e, final, p->images, p->height, p->width);
    mem_free(final);
    mem_free(tmp);
    mem_free(image);
    return ok;
}

/* ---- parts alone ---- */

static bool pixart_plan_text(void *self, const void *kind)
{
    pixart *p = self;
    p->sigma = *(const bool *)kind;
    return read_configs(p) && open_prompts_alone(&p->prompts, p->e.request, p->e.st) && plan_text(p);
}

static bool pixart_encode(void *self, trace *to, bool wanted)
{
    return !wanted || text_stage_encode(&((pixart *)self)->text.text, to);
}

static bool pixart_decode(void *self, const void *kind, const float *latents, const int64_t shape[4])
{
    pixart *p = self;
    (void)kind;
    return read_configs(p) && vae_decode_latents(&p->decode, &p->e, "vae", latents, shape);
}

static void pixart_close(void *self)
{
    pixart *p = self;
    prompt_set_close(&p->prompts);
    text_stage_close(&p->text.text);
    stage_close(&p->denoise);
    stage_close(&p->decode.stage);
    preview_close(&p->preview);
    sampler_close(p->sampler);
    noise_close(&p->noise);
    float *all[] = {p->latents, p->scaled, p->predicted, p->guided_noise, p->text_copies};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mem_free(all[i]);
}

#define VARIANT(variant, is_sigma)                                                                                                              \
    const pipeline_row pipeline_##variant = {.name = #variant, .takes = TAKES_TINY | TAKES_LENGTHS, .many = true, .kind = &(const bool){is_sigma}, .bytes = sizeof(pixart),          \
                                             .plan = pixart_plan, .describe = pixart_describe, .denoise = pixart_run,                   \
                                             .finish = pixart_finish, .plan_text = pixart_plan_text, .encode = pixart_encode,                   \
                                             .decode = pixart_decode, .close = pixart_close};

VARIANT(pixart_alpha, false)
VARIANT(pixart_sigma, true)
