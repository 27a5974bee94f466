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

enum { SIZES = 5, STEPS = 12, MUSE_STEPS = 16 };
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
    const vae_config *vae = &p->decode.config;
    p->vae = source_has_component(src, "vqvae") ? "vqvae" : "vae";
    p->decode.from_tokens = true;
    json *j = read_config(src, "transformer", "config.json", name, st);
    bool ok = j && read_transformer(p, j, name);
    json_free(j);
    ok = ok && vae_read(&p->decode.config, src, p->vae, true, st);
    return ok && (vae->codes >= p->codes || status_set(st, STATUS_BAD_FILE, "%s: the codebook of %s has %d entries, the transformer makes tokens of %d", src->path, p->vae,
                                                       vae->codes, p->codes));
}

static bool choose_size(amused *p)
{
    const request *q = p->e.request;
    int factor = vae_factor(&p->decode.config), unit = p->net.resamples ? 2 * factor : factor, own = p->side * factor;
    p->width = q->width ? q->width : own;
    p->height = q->height ? q->height : own;
    if (!amused_picture_size(p) || !size_in_range(p->width, p->height, p->e.st) || !size_divides(p->width, p->height, unit, p->e.st))
        return false;
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
    p->painting = p->e.request->mask != NULL;
    return begins_once(p->e.request, p->e.st);
}

static bool choose_prompts(amused *p)
{
    const request *q = p->e.request;
    p->guidance = isnan(q->guidance_scale) ? GUIDANCE : q->guidance_scale;
    p->guided = p->muse ? p->guidance > 0 : p->guidance > 1;
    bool ok = open_prompts(&p->prompts, q, p->guided ? GUIDE_ALL : GUIDE_NONE, p->e.st);
    p->images = p->prompts.images;
    return ok;
}

/* ---- one pass: `together` images from number `at` on, with both their halves ---- */

static void take_logits(void *ctx, int64_t number, float *logits, int n)
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

static bool setup(amused *p)
{
    const request *q = p->e.request;
    p->start_ratio = 1;
    if (!read_networks(p) || !check_pictures(p) || !choose_size(p) || !open_schedule(p) || !choose_steps(p) || !choose_prompts(p))
        return false;
    p->e.held_bytes = (size_t)p->width * (size_t)p->height * 15 * (size_t)p->images + given_bytes(q);
    return true;
}

static void plan_denoise(amused *p)
{
    int steps = p->schedule.steps - p->first;
    p->preview = (preview){.e = &p->e, .component = p->vae, .decoder = &p->decode.config, .tokens = true, .images = p->images, .channels = 1, .height = p->rows,
                           .width = p->columns, .passes = steps};
    if (preview_plan(&p->preview))
        stage_plan_parts(&p->denoise, &p->e, "transformer", p->muse ? maskgit_aliases : uvit_aliases, predict_forward, p, steps, p->images, &p->together);
    preview_planned(&p->preview);
}

static bool amused_plan(void *self, const void *kind, bool planning)
{
    amused *p = self;
    status *st = p->e.st;
    (void)planning;
    p->muse = *(const bool *)kind;
    if (!setup(p) || (!amused_text_plan(p) && !planning_goes_on(st)) || !amused_text_fits(p))
        return false;
    p->e.held_bytes += pass_bytes(p);
    amused_picture_plan(p);
    if (planning_goes_on(st))
        plan_denoise(p);
    if (planning_goes_on(st))
        vae_stage_plan(&p->decode, &p->e, p->vae, p->rows, p->columns, p->images);
    return status_ok(st);
}

static int amused_describe(const void *self)
{
    const amused *p = self;
    result *out = p->e.report;
    out->guidance_scale = p->guidance;
    out->steps = p->schedule.steps;
    out->width = p->width;
    out->height = p->height;
    snprintf(out->sampler, sizeof out->sampler, "masked %s", p->schedule.linear ? "linear" : "cosine");
    return p->schedule.steps - p->first;
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

/* For onlookers: the tokens that stand, and for those that are masked what was just picked, most of which is taken back. */
static void guess_tokens(amused *p, int done)
{
    size_t count = (size_t)amused_count(p), at = (size_t)p->at * count;
    float *guess = preview_guess(&p->preview, done);
    for (size_t i = 0; guess && i < count * (size_t)p->together; i++)
        guess[at + i] = (int)p->tokens[at + i] == p->schedule.mask_id ? (float)p->picks[i].token : p->tokens[at + i];
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
        guess_tokens(p, number + 1 - p->first);
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
    bool ok = first >= p->schedule.steps || (preview_open(&p->preview) && stage_open(&p->denoise));
    for (int i = first; ok && i < p->schedule.steps; i++) {
        report_progress(q, "denoise", i - p->first, steps);
        ok = step(p, i) && trajectory_after(&p->path, &p->e, i) && preview_show(&p->preview, p->tokens, i + 1 - p->first, i + 1 == p->schedule.steps);
        p->e.report->evaluations++;
    }
    if (ok)
        report_progress(q, "denoise", steps, steps);
    stage_close(&p->denoise);
    preview_close(&p->preview);
    p->denoise.row->seconds = now_seconds() - start;
    return ok;
}

/* One number for all that the network is told besides tokens. */
static uint64_t conditions_hash(const amused *p)
{
    const request *q = p->e.request;
    double numbers[2] = {p->strength, q->clip_skip};
    return given_hash(hash_more(amused_text_hash(p), numbers, sizeof numbers), q);
}

static bool amused_run(void *self)
{
    amused *p = self;
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

static bool amused_finish(void *self)
{
    amused *p = self;
    return vae_stage_finish(&p->decode, p->tokens, p->images);
}

/* ---- parts alone ---- */

static bool amused_plan_text(void *self, const void *kind)
{
    amused *p = self;
    p->muse = *(const bool *)kind;
    return open_prompts_alone(&p->prompts, p->e.request, p->e.st) && amused_text_plan(p);
}

static bool amused_encode(void *self, trace *to, bool wanted)
{
    amused *p = self;
    return !wanted || (amused_text_run(p) && text_stage_trace(p->text, to, NULL, p->prompts.texts, true, p->e.st));
}

/* Tokens, or latents, which go to their nearest entries. */
static bool amused_decode(void *self, const void *kind, const float *latents, const int64_t shape[4])
{
    amused *p = self;
    p->muse = *(const bool *)kind;
    return read_networks(p) && vae_decode_latents(&p->decode, &p->e, p->vae, latents, shape);
}

static void amused_close(void *self)
{
    amused *p = self;
    amused_text_close(p);
    prompt_set_close(&p->prompts);
    stage_close(&p->denoise);
    stage_close(&p->encode);
    stage_close(&p->decode.stage);
    preview_close(&p->preview);
    noise_close(&p->noise);
    void *all[] = {p->tokens, p->picks, p->ids, p->hidden, p->pooled, p->sizes, p->picture, p->numbers};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mem_free(all[i]);
}

#define VARIANT(variant, is_muse)                                                                                                               \
    const pipeline_row pipeline_##variant = {.name = #variant, .takes = TAKES_PICTURES | TAKES_TEMPERATURE | TAKES_CLIP_SKIP | TAKES_LENGTHS, .many = true,                       \
                                             .kind = &(const bool){is_muse}, .bytes = sizeof(amused), .plan = amused_plan,                      \
                                             .describe = amused_describe, .denoise = amused_run, .finish = amused_finish,                       \
                                             .plan_text = amused_plan_text, .encode = amused_encode, .decode = amused_decode,                   \
                                             .close = amused_close};

VARIANT(amused, false)
VARIANT(muse, true)
