/* Kandinsky3Pipeline and Kandinsky3Img2ImgPipeline of diffusers (pipelines/kandinsky3): Flan-UL2's encoder, a UNet, a MoVQ decoder.
 * Pitfalls: prompts go to the tokenizer as they are, 128 tokens at most, and a mask hides the padding from encoder and UNet; but the UNet's mean of the text is
 * taken of as many rows as the prompt has tokens, and one row of zeros more; a negative text is cut to that length. Without one, not "" is encoded: the
 * unconditional half is zeros, all hidden. Guidance is (g + 1) * conditional - g * unconditional. Latents are an eighth of the size asked for, rounded up to
 * multiples of eight, whatever the decoder makes of them. The original (--null-embedding) has other unconditional rows: see net_kandinsky3.h. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "models/net_kandinsky3.h"
#include "models/pipe_common.h"
#include "models/pipe_picture.h"
#include "models/pipe_request.h"
#include "models/pipelines.h"
#include "models/preview.h"
#include "models/resume.h"

enum { MOST_TOKENS = 128, OWN_SIZE = 1024, OWN_STEPS = 25, UNIT = 8 };
static const double OWN_GUIDANCE = 3, OWN_STRENGTH = 0.3;

typedef struct kandinsky3 {
    engine e;
    kandinsky3_config unet;
    double guidance, strength;
    bool guided;
    int width, height, latent_width, latent_height, images, batch; /* batch: 2 * images when guided */
    int rows, at;               /* of the batch in one pass, and its first one */
    sampler *sampler;
    int first;                  /* call of the sampler */
    trajectory path;
    noise_source noise;
    prompt_set prompts;
    t5_text text_encoder;
    stage encode, denoise;      /* encode: of a picture */
    vae_stage decode;
    preview preview;
    int tokens;                 /* rows of text of each batch item */
    int32_t original[2 * MOST_IMAGES], lengths[2 * MOST_IMAGES], real[2 * MOST_IMAGES]; /* of an item: rows that its mean is taken of, and of these such as no mask hides (where it
                                                                hides all, all are the same zeros: one stands for them) */
    /* during denoising */
    float *latents, *input, *predicted, *guided_noise, *text, timesteps[2 * MOST_IMAGES];
    float *picture, *picture_latents;
} kandinsky3;

static size_t latent_floats(const kandinsky3 *p) { return (size_t)p->unet.in_channels * (size_t)p->latent_height * (size_t)p->latent_width; }

/* ---- setting up ---- */

static bool read_configs(kandinsky3 *p)
{
    char name[FILE_NAME_BYTES];
    const source *src = p->e.source;
    status *st = p->e.st;
    const vae_config *movq = &p->decode.config;
    json *j = read_config(src, "unet", "config.json", name, st);
    bool ok = j && kandinsky3_config_read(&p->unet, j, name, st);
    json_free(j);
    ok = ok && vae_read(&p->decode.config, src, "movq", true, st);
    if (ok && movq->latent_channels != p->unet.in_channels)
        return status_set(st, STATUS_BAD_FILE, "%s: the decoder has %d latent channels, the UNet %d", src->path, movq->latent_channels, p->unet.in_channels);
    return ok && (movq->spatial || status_set(st, STATUS_BAD_FILE, "%s: movq: norm_type is not spatial, as MoVQ's is", src->path));
}

static int round_up_to(int n, int unit) { return (n + unit - 1) / unit * unit; }

/* A given picture keeps its size as far as the UNet can halve its latents. */
static int from_picture(int asked, int own, int unit) { return asked ? round_up_to(asked, unit) : own - own % unit; }

static bool choose_size(kandinsky3 *p)
{
    const request *q = p->e.request;
    int factor = vae_factor(&p->decode.config), unit = factor * kandinsky3_unit(&p->unet);
    if (!size_in_range(q->width ? q->width : OWN_SIZE, q->height ? q->height : OWN_SIZE, p->e.st))
        return false;
    if (q->init) {
        p->latent_width = from_picture(q->width, q->init->width, unit) / factor;
        p->latent_height = from_picture(q->height, q->init->height, unit) / factor;
        if (!p->latent_width || !p->latent_height)
            return status_set(p->e.st, STATUS_USAGE, "--init-img: a picture of %dx%d is too small, at least %dx%d", q->init->width, q->init->height, unit, unit);
    } else {
        p->latent_width = round_up_to(q->width ? q->width : OWN_SIZE, UNIT * UNIT) / UNIT;
        p->latent_height = round_up_to(q->height ? q->height : OWN_SIZE, UNIT * UNIT) / UNIT;
    }
    p->width = p->latent_width * factor;
    p->height = p->latent_height * factor;
    return true;
}

static bool choose_calls(kandinsky3 *p)
{
    const request *q = p->e.request;
    p->sampler = open_sampler(p->e.source, q, OWN_STEPS, NULL, false, p->e.st);
    if (!p->sampler)
        return false;
    p->strength = isnan(q->strength) ? OWN_STRENGTH : q->strength;
    p->first = q->init ? sampler_begin_at(p->sampler, p->strength) : 0;
    return p->first < sampler_calls(p->sampler) ||
           status_set(p->e.st, STATUS_USAGE, "--strength %g: of %d steps none is left to do", p->strength, sampler_steps(p->sampler));
}

static bool check_request(const kandinsky3 *p)
{
    const request *q = p->e.request;
    if (q->mask)
        return status_set(p->e.st, STATUS_USAGE, "--mask: %s makes pictures from text and from pictures alone", p->e.source->path);
    if (q->null_embedding && !source_lacks_weights(p->e.source, "unet") && !source_find(p->e.source, "unet", kandinsky3_null))
        return status_set(p->e.st, STATUS_USAGE, "--null-embedding: %s holds no tensor unet/%s", p->e.source->path, kandinsky3_null);
    return begins_once(q, p->e.st);
}

static bool choose_guidance(kandinsky3 *p)
{
    const request *q = p->e.request;
    p->guidance = isnan(q->guidance_scale) ? OWN_GUIDANCE : q->guidance_scale;
    p->guided = p->guidance > 1;
    prompt_guidance g = !p->guided ? GUIDE_NONE : negative_given(q, "text.text_encoder", p->e.st) ? GUIDE_ALL : GUIDE_NAMED;
    if (!status_ok(p->e.st) || !open_prompts(&p->prompts, q, g, p->e.st))
        return false;
    p->images = p->prompts.images;
    p->batch = p->images * (p->guided ? 2 : 1);
    return true;
}

static bool setup(kandinsky3 *p)
{
    if (!read_configs(p) || !check_request(p) || !choose_size(p) || !choose_guidance(p) || !choose_calls(p))
        return false;
    size_t n = latent_floats(p), image = (size_t)p->width * (size_t)p->height;
    p->e.held_bytes += 4 * n * (size_t)(p->images * 2 + p->batch * 2) + sampler_state_bytes(p->sampler, (size_t)p->images, n) + image * 15 * (size_t)p->images +
                       given_bytes(p->e.request);
    return true;
}

/* ---- text ---- */

static bool plan_text(kandinsky3 *p)
{
    const request *q = p->e.request;
    int most = prompt_length(q, MOST_TOKENS, p->e.st);
    bool ok = most && t5_text_plan(&p->text_encoder, &p->e, "text_encoder", "tokenizer", p->prompts.text, p->prompts.texts, most, false);
    if (ok)
        text_stage_report_cut(&p->text_encoder.text, q, &p->prompts);
    if (ok && p->text_encoder.config.d_model != p->unet.text_dim)
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: the text encoder's width is %d, the UNet wants %d", p->e.source->path, p->text_encoder.config.d_model,
                          p->unet.text_dim);
    return ok;
}

/* The text of item i of the denoiser's batch; -1: none. */
static int text_of(const kandinsky3 *p, int i)
{
    return p->guided && i < p->images ? p->prompts.negative[i] : p->prompts.positive[i - (p->guided ? p->images : 0)];
}

static int length_of(const kandinsky3 *p, int text)
{
    const int32_t *s = p->text_encoder.text.tokens.start;
    return s[text + 1] - s[text];
}

static void measure_text(kandinsky3 *p)
{
    const request *q = p->e.request;
    int most = q->max_sequence_length ? q->max_sequence_length : MOST_TOKENS;
    for (int i = 0; i < p->batch; i++) {
        int positive = length_of(p, p->prompts.positive[i % p->images]), which = text_of(p, i), room = positive < most ? positive + 1 : positive;
        p->real[i] = which < 0 ? 1 : length_of(p, which) < room ? length_of(p, which) : room;
        p->lengths[i] = which < 0 && !q->null_embedding ? 1 : room;
        p->original[i] = which < 0 ? 0 : p->real[i];
        p->tokens = room > p->tokens ? room : p->tokens;
    }
    p->e.held_bytes += (size_t)p->batch * (size_t)p->tokens * (size_t)p->unet.text_dim * 4;
}

/* Every item of the batch has its text, the unconditional ones first. */
static void place_text(kandinsky3 *p)
{
    size_t width = (size_t)p->unet.text_dim;
    const text_stage *t = &p->text_encoder.text;
    for (int i = 0; i < p->batch; i++) {
        int which = text_of(p, i);
        if (which >= 0)
            memcpy(p->text + (size_t)i * (size_t)p->tokens * width, t->output + (size_t)t->tokens.start[which] * width, (size_t)p->real[i] * width * 4);
    }
}

/* ---- planning ---- */

static void unet_forward(run *r, const void *ctx)
{
    const kandinsky3 *p = ctx;
    kandinsky3_inputs in = {.batch = p->rows, .height = p->latent_height, .width = p->latent_width, .tokens = p->tokens,
                            .null_embedding = p->e.request->null_embedding};
    int32_t start[2 * MOST_IMAGES + 1];
    for (int i = 0; i <= p->rows; i++)
        start[i] = i * p->tokens;
    in.seen = (segments){p->rows, start, NULL};
    if (p->input) { /* in PLAN there are only shapes */
        size_t at = (size_t)p->at, n = latent_floats(p);
        in.latents = p->input + at * n;
        in.noise = p->predicted + at * n;
        in.text = p->text + at * (size_t)p->tokens * (size_t)p->unet.text_dim;
        in.lengths = p->lengths + at;
        in.timesteps = p->timesteps + at;
        in.seen.length = p->real + at;
        in.original = p->original + at;
    }
    kandinsky3_denoise(r, &p->unet, &in);
}

static void encode_forward(run *r, const void *ctx)
{
    const kandinsky3 *p = ctx;
    vae_encode(r, &p->decode.config, p->picture, 1, p->height, p->width, p->picture_latents);
}

static bool plan_picture(kandinsky3 *p)
{
    if (!p->e.request->init)
        return true;
    p->e.held_bytes += (size_t)p->width * (size_t)p->height * 3 * 5 + latent_floats(p) * 4 * (size_t)(1 + p->images);
    return stage_plan(&p->encode, &p->e, "movq", "movq_encoder", vae_aliases, encode_forward, p, 1);
}

static void plan_denoise(kandinsky3 *p)
{
    int calls = sampler_calls(p->sampler) - p->first;
    p->preview = (preview){.e = &p->e, .component = "movq", .decoder = &p->decode.config, .images = p->images, .channels = p->unet.in_channels,
                           .height = p->latent_height, .width = p->latent_width, .passes = calls};
    if (preview_plan(&p->preview))
        stage_plan_parts(&p->denoise, &p->e, "unet", kandinsky3_aliases, unet_forward, p, calls, p->batch, &p->rows);
    preview_planned(&p->preview);
}

static bool kandinsky3_plan(void *self, const void *kind, bool planning)
{
    kandinsky3 *p = self;
    status *st = p->e.st;
    (void)kind, (void)planning;
    if (!setup(p) || (!plan_text(p) && !planning_goes_on(st)))
        return false;
    measure_text(p);
    plan_picture(p);
    if (planning_goes_on(st))
        plan_denoise(p);
    if (planning_goes_on(st))
        vae_stage_plan(&p->decode, &p->e, "movq", p->latent_height, p->latent_width, p->images);
    return status_ok(st);
}

static int kandinsky3_describe(const void *self)
{
    const kandinsky3 *p = self;
    report_settings(p->e.report, p->sampler, p->guidance, p->width, p->height);
    return sampler_calls(p->sampler) - p->first;
}

/* ---- a picture to begin with ---- */

static void normalized(const kandinsky3 *p, const pixmap *in, float *out)
{
    size_t area = (size_t)p->width * (size_t)p->height;
    for (size_t i = 0; i < area * 3; i++)
        out[i % 3 * area + i / 3] = 2 * ((float)in->rgb[i] / 255.0f) - 1;
}

/* Its latents, as the encoder makes them, with each image's noise of the first call. */
static bool begin_picture(kandinsky3 *p)
{
    double begin = now_seconds();
    size_t n = latent_floats(p);
    pixmap init = {0};
    const request *q = p->e.request;
    status *st = p->e.st;
    report_progress(q, "encode", 0, 0);
    p->picture = mem_alloc((size_t)p->width * (size_t)p->height * 3, 4, "picture", st);
    p->picture_latents = mem_alloc(n, 4, "latents", st);
    float *drawn = mem_alloc(n * (size_t)p->images, 4, "latents", st);
    bool ok = status_ok(st) && pixmap_resize_bicubic(q->init, p->width, p->height, &init, st) && stage_open(&p->encode);
    if (ok)
        normalized(p, &init, p->picture);
    ok = ok && stage_pass(&p->encode, p);
    if (ok) {
        noise_draw(&p->noise, drawn, 0);
        for (size_t i = 0; i < (size_t)p->images; i++)
            sampler_add_noise(p->sampler, p->first, p->picture_latents, drawn + i * n, p->latents + i * n, n);
    }
    stage_close(&p->encode);
    pixmap_free(&init);
    mem_free(drawn);
    mem_free(p->picture);
    mem_free(p->picture_latents);
    p->picture = p->picture_latents = NULL;
    p->encode.row->seconds = now_seconds() - begin;
    return ok;
}

/* ---- denoising ---- */

static bool allocate(kandinsky3 *p)
{
    size_t n = latent_floats(p), images = (size_t)p->images, batch = (size_t)p->batch;
    status *st = p->e.st;
    p->latents = mem_alloc(n * images, 4, "latents", st);
    p->input = mem_alloc(n * batch, 4, "latents", st);
    p->predicted = mem_alloc(n * batch, 4, "latents", st);
    p->guided_noise = mem_alloc(n * images, 4, "latents", st);
    p->text = mem_alloc(batch * (size_t)p->tokens * (size_t)p->unet.text_dim, 4, "text", st);
    return status_ok(st) && noise_open(&p->noise, p->prompts.seed, p->images, n, st);
}

static void guide(kandinsky3 *p)
{
    size_t n = latent_floats(p) * (size_t)p->images;
    float g = (float)p->guidance, more = (float)(p->guidance + 1);
    for (size_t k = 0; k < n; k++)
        p->guided_noise[k] = p->guided ? more * p->predicted[n + k] - g * p->predicted[k] : p->predicted[k];
}

static bool step(kandinsky3 *p, int call)
{
    size_t n = latent_floats(p), all = n * (size_t)p->images;
    sampler_scale_input(p->sampler, call, p->latents, p->input, all);
    if (p->guided)
        memcpy(p->input + all, p->input, all * 4);
    for (int b = 0; b < p->batch; b++)
        p->timesteps[b] = (float)sampler_timestep(p->sampler, call);
    for (p->at = 0; p->at < p->batch; p->at += p->rows)
        if (!stage_pass(&p->denoise, p))
            return false;
    guide(p);
    preview_predict(&p->preview, p->sampler, call, p->guided_noise, p->latents, call + 1 - p->first);
    return sampler_step(p->sampler, call, p->guided_noise, p->latents, (size_t)p->images, n, noise_draw, &p->noise, p->e.st);
}

static bool denoise(kandinsky3 *p, int first)
{
    double begin = now_seconds();
    const request *q = p->e.request;
    int calls = sampler_calls(p->sampler);
    bool ok = first == calls || (preview_open(&p->preview) && stage_open(&p->denoise));
    for (int i = first; ok && i < calls; i++) {
        report_progress(q, "denoise", i - p->first, calls - p->first);
        ok = step(p, i) && trajectory_after(&p->path, &p->e, i) && preview_show(&p->preview, p->latents, i + 1 - p->first, i + 1 == calls);
        p->e.report->evaluations = i + 1 - first;
    }
    if (ok)
        report_progress(q, "denoise", calls - p->first, calls - p->first);
    stage_close(&p->denoise);
    preview_close(&p->preview);
    p->denoise.row->seconds = now_seconds() - begin;
    return ok;
}

/* One number for all that the UNet is told besides latents and timesteps. */
static uint64_t conditions_hash(const kandinsky3 *p)
{
    const request *q = p->e.request;
    uint64_t h = text_stage_hash(&p->text_encoder.text);
    if (q->null_embedding)
        h = hash_more(h, kandinsky3_null, sizeof "null_embedding");
    return q->init ? given_hash(hash_more(h, &p->strength, sizeof p->strength), q) : h;
}

/* Where to begin, the text, then the loop. */
static bool kandinsky3_run(void *self)
{
    kandinsky3 *p = self;
    result *out = p->e.report;
    const request *q = p->e.request;
    double t0 = now_seconds();
    bool ok = allocate(p) && (!q->init || begin_picture(p));
    p->path = (trajectory){.sampler = p->sampler, .noise = &p->noise, .latents = p->latents, .images = p->images, .channels = p->unet.in_channels,
                           .height = p->latent_height, .width = p->latent_width, .prompt = conditions_hash(p), .guidance = p->guidance, .begun = q->init != NULL,
                           .first = p->first};
    int first = ok ? trajectory_begin(&p->path, &p->e) : -1;
    if (first >= 0 && first < sampler_calls(p->sampler)) { /* else only the picture is left to make */
        ok = text_stage_run(&p->text_encoder.text);
        if (ok)
            place_text(p);
        ok = ok && trace_add(q->trace, "text.text_encoder", p->text, 3, (int64_t[]){p->batch, p->tokens, p->unet.text_dim}, p->e.st);
    }
    text_stage_close(&p->text_encoder.text);
    double t1 = now_seconds();
    ok = ok && first >= 0 && denoise(p, first);
    out->seconds_encode = t1 - t0;
    out->seconds_denoise = now_seconds() - t1;
    return ok;
}

static bool kandinsky3_finish(void *self)
{
    kandinsky3 *p = self;
    return vae_stage_finish(&p->decode, p->latents, p->images);
}

/* ---- parts alone ---- */

static bool kandinsky3_plan_text(void *self, const void *kind)
{
    kandinsky3 *p = self;
    (void)kind;
    return read_configs(p) && open_prompts_alone(&p->prompts, p->e.request, p->e.st) && plan_text(p);
}

static bool kandinsky3_encode(void *self, trace *to, bool wanted)
{
    return !wanted || text_stage_encode(&((kandinsky3 *)self)->text_encoder.text, to);
}

static bool kandinsky3_decode(void *self, const void *kind, const float *latents, const int64_t shape[4])
{
    kandinsky3 *p = self;
    (void)kind;
    return read_configs(p) && vae_decode_latents(&p->decode, &p->e, "movq", latents, shape);
}

static void kandinsky3_close(void *self)
{
    kandinsky3 *p = self;
    text_stage_close(&p->text_encoder.text);
    prompt_set_close(&p->prompts);
    stage_close(&p->encode);
    stage_close(&p->denoise);
    stage_close(&p->decode.stage);
    preview_close(&p->preview);
    sampler_close(p->sampler);
    noise_close(&p->noise);
    float *all[] = {p->latents, p->input, p->predicted, p->guided_noise, p->text};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mem_free(all[i]);
}

const pipeline_row pipeline_kandinsky3 = {.name = "kandinsky3", .takes = TAKES_PICTURES | TAKES_NULL_EMBEDDING | TAKES_LENGTHS, .many = true, .bytes = sizeof(kandinsky3),
                                          .plan = kandinsky3_plan, .describe = kandinsky3_describe, .denoise = kandinsky3_run, .finish = kandinsky3_finish,
                                          .plan_text = kandinsky3_plan_text, .encode = kandinsky3_encode, .decode = kandinsky3_decode, .close = kandinsky3_close};
