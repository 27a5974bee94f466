/* aMUSEd (Patil et al. 2024), the open replica of Muse: CLIP, a U-ViT that guesses masked tokens, a VQGAN. Reference: diffusers,
 * pipelines/deprecated/amused/pipeline_amused.py and its img2img and inpaint. And what it came from, openMUSE's MaskGitTransformer with T5 or CLIP (open-muse,
 * muse/pipeline_muse.py and generate2 of muse/modeling_transformer.py).
 * Pitfalls: the negative prompt is always encoded; conditions are (width, height, 0, 0, 6), the width first; aMUSEd guides above 1, openMUSE above 0; openMUSE's
 * temperature is multiplied, step by step, with what is left to do. */
#include "models/pipe_amused.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { MOST_IMAGES = 64, SIZES = 5, STEPS = 12, MUSE_STEPS = 16 };
static const double GUIDANCE = 10, TEMPERATURE = 2, MUSE_TEMPERATURE = 1, STRENGTH = 0.5, MASK_STRENGTH = 1;
static const float AESTHETIC_SCORE = 6;

/* ---- setting up ---- */

static bool read_transformer(amused *p, const json *j, const char *name)
{
    status *st = p->e.st;
    if (!p->muse) {
        bool ok = uvit_config_read(&p->net, j, name, st);
        p->codes = p->net.codes;
        p->vocabulary = p->net.vocabulary;
        p->side = p->net.sample_size;
        p->text_dim = p->net.text_dim;
        p->pooled_dim = p->net.pooled_dim;
        if (ok && p->net.sizes != SIZES)
            return status_set(st, STATUS_BAD_FILE, "%s: the transformer takes %d micro-conditions, this pipeline has %d", name, p->net.sizes, SIZES);
        return ok;
    }
    if (!maskgit_config_read(&p->git, j, name, st))
        return false;
    p->codes = p->git.codes;
    p->vocabulary = p->git.vocabulary;
    p->side = (int)lround(sqrt(p->git.tokens));
    p->text_dim = p->git.text_dim;
    return p->side * p->side == p->git.tokens || status_set(st, STATUS_BAD_FILE, "%s: num_vq_tokens %d is no square", name, p->git.tokens);
}

static bool read_networks(amused *p)
{
    char name[FILE_NAME_BYTES];
    const source *src = p->e.source;
    status *st = p->e.st;
    p->vae = source_has_component(src, "vqvae") ? "vqvae" : "vae";
    json *j = read_config(src, "transformer", "config.json", name, st);
    bool ok = j && read_transformer(p, j, name);
    json_free(j);
    j = ok ? read_config(src, p->vae, "config.json", name, st) : NULL;
    ok = j && vae_config_read(&p->decode.config, j, name, st);
    json_free(j);
    p->decode.from_tokens = true;
    const vae_config *vae = &p->decode.config;
    if (ok && (vae->out_channels != 3 || vae->in_channels != 3))
        return status_set(st, STATUS_BAD_FILE, "%s: %d channels go in and %d come out, a picture has 3", name, vae->in_channels, vae->out_channels);
    if (ok && vae->codes < p->codes)
        return status_set(st, STATUS_BAD_FILE, "%s: the codebook has %d entries, the transformer makes tokens of %d", name, vae->codes, p->codes);
    return ok;
}

static bool choose_size(amused *p)
{
    const request *q = p->e.request;
    int factor = vae_factor(&p->decode.config), unit = p->net.resamples ? 2 * factor : factor, own = p->side * factor;
    p->width = q->width ? q->width : own;
    p->height = q->height ? q->height : own;
    if (!amused_picture_size(p))
        return false;
    if (p->width < 1 || p->height < 1 || p->width > 16384 || p->height > 16384)
        return status_set(p->e.st, STATUS_USAGE, "size %dx%d: width and height are 1 to 16384", p->width, p->height);
    if (p->width % unit || p->height % unit) {
        int w = (p->width + unit / 2) / unit * unit, h = (p->height + unit / 2) / unit * unit;
        return status_set(p->e.st, STATUS_USAGE, "size %dx%d: width and height must be multiples of %d, the nearest is %dx%d", p->width, p->height, unit,
                          w ? w : unit, h ? h : unit);
    }
    p->columns = p->width / factor;
    p->rows = p->height / factor;
    return !p->muse || amused_count(p) <= p->git.positions ||
           status_set(p->e.st, STATUS_USAGE, "size %dx%d: the model has positions for %d tokens, this takes %d; its own size is %dx%d", p->width, p->height, p->git.positions,
                      amused_count(p), own, own);
}

static bool open_schedule(amused *p)
{
    const request *q = p->e.request;
    status *st = p->e.st;
    size_t bytes = 0;
    if (q->sampling_method)
        return status_set(st, STATUS_USAGE, "--sampling-method: a token model has one of its own");
    char *config = source_read_blob(p->e.source, "scheduler/scheduler_config.json", 1 << 20, p->muse, &bytes, st);
    const char *own = p->painting && !p->muse ? "linear" : NULL;
    if (!config && status_ok(st)) /* openMUSE has no such file: the mask token is the last one */
        config = mem_format(st, "{\"mask_token_id\": %d}", p->vocabulary - 1);
    bool ok = config && masked_open(&p->schedule, config, bytes ? bytes : strlen(config), q->scheduler ? q->scheduler : own, q->steps ? q->steps : p->muse ? MUSE_STEPS : STEPS,
                                    q->temperature_given ? q->temperature : p->muse ? MUSE_TEMPERATURE : TEMPERATURE, st);
    p->schedule.annealed = p->muse;
    mem_free(config);
    if (ok && p->schedule.mask_id >= p->vocabulary)
        return status_set(st, STATUS_BAD_FILE, "%s: the mask token is %d, the transformer's vocabulary has %d", p->e.source->path, p->schedule.mask_id, p->vocabulary);
    return ok;
}

static bool choose_steps(amused *p)
{
    const request *q = p->e.request;
    int steps = p->schedule.steps;
    p->strength = isnan(q->strength) ? p->painting ? MASK_STRENGTH : STRENGTH : q->strength;
    p->first = q->init ? steps - (int)(steps * p->strength) : 0;
    return p->first < steps || status_set(p->e.st, STATUS_USAGE, "--strength %g: of %d steps none is left to do", p->strength, steps);
}

static bool check_pictures(amused *p)
{
    const request *q = p->e.request;
    p->painting = q->mask != NULL;
    if (q->refiner)
        return status_set(p->e.st, STATUS_USAGE, "--refiner: %s hands nothing over", p->e.source->path);
    if (q->mask && !q->init)
        return status_set(p->e.st, STATUS_USAGE, "--mask: belongs to a picture, --init-img is missing");
    return !(q->init && q->load_latents) || status_set(p->e.st, STATUS_USAGE, "--load-latents and --init-img: both say what to begin with");
}

static bool choose_prompts(amused *p)
{
    const request *q = p->e.request;
    p->guidance = isnan(q->guidance_scale) ? GUIDANCE : q->guidance_scale;
    p->guided = p->muse ? p->guidance > 0 : p->guidance > 1;
    if (!prompt_set_open(&p->prompts, q, p->guided ? GUIDE_ALL : GUIDE_NONE, p->e.st))
        return false;
    p->images = p->prompts.images;
    return p->images <= MOST_IMAGES || status_set(p->e.st, STATUS_USAGE, "--batch-count %d: at most %d", p->images, MOST_IMAGES);
}

/* ---- one pass: `together` images from number `at` on, with both their halves ---- */

static void take_logits(void *ctx, int64_t number, const float *logits, int n)
{
    amused *p = ctx;
    rng *g = p->schedule.temperature > 0 ? &p->noise.image[p->at + number / amused_count(p)] : NULL;
    masked_choose(logits, n < p->codes ? n : p->codes, g, &p->picks[number]);
}

static void predict_forward(run *r, const void *ctx)
{
    const amused *p = ctx;
    void *self = (void *)(uintptr_t)p;
    bool in_order = p->schedule.temperature > 0;
    uvit_inputs in = {.images = p->together, .height = p->rows, .width = p->columns, .guided = p->guided, .guidance = (float)p->guidance, .text_tokens = p->text_tokens,
                      .ids = p->ids, .text = p->hidden, .pooled = p->pooled, .sizes = p->sizes, .in_order = in_order, .each = take_logits, .ctx = self};
    maskgit_inputs git = {.images = p->together, .tokens = amused_count(p), .text_tokens = p->text_tokens, .guided = p->guided, .guidance = (float)p->guidance, .ids = p->ids,
                          .text = p->hidden, .in_order = in_order, .each = take_logits, .ctx = self};
    if (p->muse)
        maskgit_predict(r, &p->git, &git);
    else
        uvit_predict(r, &p->net, &in);
}

static size_t pass_bytes(const amused *p)
{
    size_t batch = (size_t)p->images * (p->guided ? 2 : 1);
    return batch * 4 * ((size_t)amused_count(p) + (size_t)p->text_tokens * (size_t)p->text_dim + (size_t)p->pooled_dim + SIZES) +
           (size_t)p->images * (size_t)amused_count(p) * (sizeof(masked_pick) + 4 + 8);
}

/* Plan with fewer and fewer images at once, until it fits or there is one. */
static bool plan_denoise(amused *p)
{
    status before = *p->e.st;
    int stages = p->e.report->stages;
    uint64_t peak = p->e.report->predicted_peak;
    for (p->together = p->images;; ) {
        int passes = (p->schedule.steps - p->first) * (p->images / p->together);
        if (stage_plan(&p->denoise, &p->e, "transformer", "transformer", p->muse ? maskgit_aliases : uvit_aliases, predict_forward, p, passes) || p->e.st->code != STATUS_BUDGET || p->together == 1)
            return status_ok(p->e.st);
        do
            p->together--;
        while (p->images % p->together);
        stage_close(&p->denoise);
        *p->e.st = before;
        p->e.report->stages = stages;
        p->e.report->predicted_peak = peak;
    }
}

static bool asked(const amused *p, bool ok) { return ok || p->e.st->code == STATUS_BUDGET; }

static bool setup(amused *p, const source *src, const request *q, result *report, status *st, bool muse)
{
    *p = (amused){.start_ratio = 1, .muse = muse};
    if (!engine_open(&p->e, src, q, report, st) || !read_networks(p) || !check_pictures(p) || !choose_size(p) || !open_schedule(p) || !choose_steps(p) || !choose_prompts(p))
        return false;
    size_t image = (size_t)p->width * (size_t)p->height;
    p->e.held_bytes = image * 15 * (size_t)p->images;
    if (q->init)
        p->e.held_bytes += (size_t)q->init->width * (size_t)q->init->height * 3;
    if (q->mask)
        p->e.held_bytes += (size_t)q->mask->width * (size_t)q->mask->height * 3;
    /* all stages are asked, so that the least budget named is the least for all of them */
    bool ok = amused_text_plan(p);
    if (!asked(p, ok) || !amused_text_fits(p))
        return false;
    p->e.held_bytes += pass_bytes(p);
    return asked(p, amused_picture_plan(p)) && asked(p, plan_denoise(p)) &&
           asked(p, vae_stage_plan(&p->decode, &p->e, p->vae, p->rows, p->columns, p->images)) && status_ok(st);
}

static void teardown(amused *p)
{
    amused_text_close(p);
    prompt_set_close(&p->prompts);
    stage_close(&p->denoise);
    stage_close(&p->encode);
    stage_close(&p->decode.stage);
    noise_close(&p->noise);
    void *all[] = {p->tokens, p->picks, p->ids, p->hidden, p->pooled, p->sizes, p->picture, p->numbers};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mem_free(all[i]);
    engine_close(&p->e);
}

/* ---- running ---- */

static bool allocate(amused *p)
{
    size_t count = (size_t)amused_count(p), batch = (size_t)p->together * (p->guided ? 2 : 1);
    status *st = p->e.st;
    p->tokens = mem_alloc(count * (size_t)p->images, 4, "tokens", st);
    p->picks = mem_alloc(count * (size_t)p->images, sizeof *p->picks, "tokens", st);
    p->ids = mem_alloc(count * batch, sizeof *p->ids, "tokens", st);
    p->hidden = mem_alloc((size_t)p->text_tokens * (size_t)p->text_dim * batch, 4, "text", st);
    p->pooled = p->pooled_dim ? mem_alloc((size_t)p->pooled_dim * batch, 4, "text", st) : NULL;
    p->sizes = mem_alloc(SIZES * batch, 4, "text", st);
    return status_ok(st);
}

/* What item `item` of the pass is told. */
static void place_item(amused *p, int item)
{
    bool unconditional = p->guided && item < p->together;
    int image = p->at + item % p->together, which = unconditional ? p->prompts.negative[image] : p->prompts.positive[image];
    const text_stage *t = p->text;
    size_t count = (size_t)amused_count(p), floats = (size_t)p->text_tokens * (size_t)t->width, pooled = (size_t)t->pooled_width;
    memcpy(p->hidden + (size_t)item * floats, t->output + (size_t)which * floats, floats * 4);
    if (pooled)
        memcpy(p->pooled + (size_t)item * pooled, t->pooled + (size_t)which * pooled, pooled * 4);
    memcpy(p->sizes + item * SIZES, (float[SIZES]){(float)p->width, (float)p->height, 0, 0, AESTHETIC_SCORE}, SIZES * sizeof(float));
    for (size_t i = 0; i < count; i++)
        p->ids[(size_t)item * count + i] = (int32_t)p->tokens[(size_t)image * count + i];
}

static bool step(amused *p, int number)
{
    int count = amused_count(p);
    float *scratch = mem_alloc((size_t)count, 8, "tokens", p->e.st);
    bool ok = scratch != NULL;
    for (p->at = 0; ok && p->at < p->images; p->at += p->together) {
        for (int i = 0; i < p->together * (p->guided ? 2 : 1); i++)
            place_item(p, i);
        ok = stage_pass(&p->denoise, p);
        for (int i = 0; ok && i < p->together; i++)
            masked_step(&p->schedule, number, p->picks + i * count, p->tokens + (p->at + i) * count, count, p->start_ratio, &p->noise.image[p->at + i], scratch);
    }
    mem_free(scratch);
    return ok;
}

static bool denoise(amused *p, int first)
{
    const request *q = p->e.request;
    double start = now_seconds();
    int steps = p->schedule.steps - p->first;
    bool ok = first >= p->schedule.steps || stage_open(&p->denoise);
    for (int i = first; ok && i < p->schedule.steps; i++) {
        report_progress(q, "denoise", i - p->first, steps);
        ok = step(p, i) && trajectory_after(&p->path, &p->e, i);
        p->e.report->evaluations++;
    }
    if (ok)
        report_progress(q, "denoise", steps, steps);
    stage_close(&p->denoise);
    p->denoise.row->seconds = now_seconds() - start;
    return ok;
}

/* One number for all that the network is told besides tokens. */
static uint64_t conditions_hash(const amused *p)
{
    const request *q = p->e.request;
    double numbers[2] = {p->strength, q->clip_skip};
    uint64_t h = hash_more(amused_text_hash(p), numbers, sizeof numbers);
    const pixmap *given[2] = {q->init, q->mask};
    for (int i = 0; i < 2; i++)
        if (given[i])
            h = hash_more(h, given[i]->rgb, (size_t)given[i]->width * (size_t)given[i]->height * 3);
    return h;
}

static bool encode_and_denoise(amused *p)
{
    const request *q = p->e.request;
    double t0 = now_seconds();
    bool ok = noise_open(&p->noise, p->prompts.seed, p->images, (size_t)amused_count(p), p->e.st) && allocate(p) && (!q->init || amused_picture_begin(p));
    p->path = (trajectory){.noise = &p->noise, .latents = p->tokens, .images = p->images, .height = p->rows, .width = p->columns, .masked = &p->schedule,
                           .codes = p->codes, .prompt = conditions_hash(p), .guidance = p->guidance, .begun = q->init != NULL, .first = p->first};
    int first = ok ? trajectory_begin(&p->path, &p->e) : -1;
    if (first >= 0 && first < p->schedule.steps) /* else only the picture is left to make */
        ok = amused_text_run(p) && (!q->trace || amused_text_trace(p));
    double t1 = now_seconds();
    ok = ok && first >= 0 && denoise(p, first);
    p->e.report->seconds_encode = t1 - t0;
    p->e.report->seconds_denoise = now_seconds() - t1;
    amused_text_close(p);
    return ok;
}

static bool decode_pictures(amused *p)
{
    status *st = p->e.st;
    float *image = mem_alloc((size_t)p->width * (size_t)p->height * 3 * (size_t)p->images, 4, "picture", st);
    bool ok = image && vae_stage_run(&p->decode, &p->e, p->tokens, p->images, image) &&
              trace_add(p->e.request->trace, "image", image, 4, (int64_t[]){p->images, 3, p->height, p->width}, st) &&
              to_rgb(image, p->images, p->height, p->width, p->e.report, st);
    mem_free(image);
    return ok;
}

static void fill_report(amused *p)
{
    result *out = p->e.report;
    out->guidance_scale = p->guidance;
    out->steps = p->schedule.steps;
    out->seed = p->e.request->seed;
    out->width = p->width;
    out->height = p->height;
    snprintf(out->sampler, sizeof out->sampler, "masked %s", p->schedule.linear ? "linear" : "cosine");
}

/* ---- the row ---- */

static bool generate(const source *src, const request *q, result *out, status *st, bool muse)
{
    amused *p = mem_alloc(1, sizeof *p, "pipeline", st);
    double t0 = now_seconds();
    bool ok = p && setup(p, src, q, out, st, muse);
    double t1 = now_seconds();
    ok = ok && encode_and_denoise(p);
    double t2 = now_seconds();
    ok = ok && decode_pictures(p);
    if (ok) {
        fill_report(p);
        out->seconds_load = t1 - t0;
        out->seconds_decode = now_seconds() - t2;
        out->seconds_total = now_seconds() - t0;
    }
    if (p)
        teardown(p);
    mem_free(p);
    return ok;
}

static bool plan_only(const source *src, const request *q, result *out, status *st, bool muse)
{
    amused *p = mem_alloc(1, sizeof *p, "pipeline", st);
    bool ok = p && setup(p, src, q, out, st, muse);
    if (ok) {
        fill_report(p);
        out->evaluations = p->schedule.steps - p->first;
    }
    if (p)
        teardown(p);
    mem_free(p);
    return ok;
}

static bool encode_only(const source *src, const request *q, trace *to, result *out, status *st, bool muse)
{
    amused *p = mem_alloc(1, sizeof *p, "pipeline", st);
    bool plan_alone = !to && !q->store && !q->cache;
    double t0 = now_seconds();
    if (p)
        *p = (amused){.muse = muse};
    bool ok = p && engine_open(&p->e, src, q, out, st) && prompt_set_open(&p->prompts, q, q->tokens ? GUIDE_NONE : GUIDE_NAMED, st) && amused_text_plan(p);
    double t1 = now_seconds();
    ok = ok && (plan_alone || (amused_text_run(p) && text_stage_trace(p->text, to, NULL, p->prompts.texts, true, st)));
    out->seconds_load = t1 - t0;
    out->seconds_encode = now_seconds() - t1;
    out->seconds_total = now_seconds() - t0;
    if (p)
        teardown(p);
    mem_free(p);
    return ok;
}

/* Tokens, or latents, which go to their nearest entries. */
static bool decode_only(const source *src, const request *q, const float *latents, const int64_t shape[4], result *out, status *st, bool muse)
{
    amused *p = mem_alloc(1, sizeof *p, "pipeline", st);
    if (p)
        *p = (amused){.muse = muse};
    bool ok = p && engine_open(&p->e, src, q, out, st) && read_networks(p);
    size_t count = ok ? (size_t)(shape[0] * shape[2] * shape[3]) * (size_t)(shape[1] ? shape[1] : 1) : 0;
    ok = ok && latents_fit(src, &p->decode.config, shape, st);
    if (ok) {
        p->images = (int)shape[0];
        p->rows = (int)shape[2];
        p->columns = (int)shape[3];
        p->decode.from_tokens = shape[1] == 0;
        p->height = p->rows * vae_factor(&p->decode.config);
        p->width = p->columns * vae_factor(&p->decode.config);
        p->e.held_bytes = count * 4 + (size_t)p->images * (size_t)p->width * (size_t)p->height * 15;
        p->tokens = mem_alloc(count, 4, "tokens", st);
        ok = p->tokens && vae_stage_plan(&p->decode, &p->e, p->vae, p->rows, p->columns, p->images);
    }
    if (ok) {
        memcpy(p->tokens, latents, count * 4);
        ok = decode_pictures(p);
    }
    if (p)
        teardown(p);
    mem_free(p);
    return ok;
}

#define VARIANT(name, muse)                                                                                                                                       \
    static bool name##_generate(const source *s, const request *q, result *o, status *st) { return generate(s, q, o, st, muse); }                                 \
    static bool name##_plan(const source *s, const request *q, result *o, status *st) { return plan_only(s, q, o, st, muse); }                                    \
    static bool name##_encode(const source *s, const request *q, trace *t, result *o, status *st) { return encode_only(s, q, t, o, st, muse); }                   \
    static bool name##_decode(const source *s, const request *q, const float *l, const int64_t d[4], result *o, status *st) { return decode_only(s, q, l, d, o, st, muse); } \
    const pipeline_row pipeline_##name = {#name, name##_generate, name##_encode, name##_decode, name##_plan, true};

VARIANT(amused, false)
VARIANT(muse, true)
