/* The denoising loop of a cascade's stage. The network may see more channels than the latents (smaller pictures, noised), and make more (a learned variance
 * behind the noise, of which the text's half counts). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/cascade.h"

/* ---- planning ---- */

static size_t area_of(const cascade_stage *s) { return (size_t)s->latent_height * (size_t)s->latent_width; }

static bool plan_passes(cascade_stage *s)
{
    engine *e = &s->e;
    size_t n = cascade_latent_floats(s), images = (size_t)s->images;
    char name[48];
    snprintf(name, sizeof name, "%sunet", s->prefix);
    s->batch = s->images * (s->guided ? 2 : 1);
    e->held_bytes += 4 * (n * images * 3 + area_of(s) * (size_t)s->batch * (size_t)(s->unet.in_channels + s->unet.out_channels)) +
                     sampler_state_bytes(s->sampler, images, n);
    status before = *e->st;
    int stages = e->report->stages, calls = sampler_calls(s->sampler) - s->begin;
    uint64_t peak = e->report->predicted_peak;
    for (s->rows = s->batch;;) {
        if (stage_plan(&s->denoise, e, "unet", name, unet_aliases, s->forward, s, calls * (s->batch / s->rows)) || e->st->code != STATUS_BUDGET || s->rows == 1)
            return status_ok(e->st);
        do
            s->rows--;
        while (s->batch % s->rows);
        stage_close(&s->denoise);
        *e->st = before;
        e->report->stages = stages;
        e->report->predicted_peak = peak;
    }
}

bool cascade_plan_loop(cascade_stage *s)
{
    s->preview = (preview){.e = &s->e, .component = s->decoder ? "vae" : NULL, .decoder = s->decoder, .images = s->images, .channels = s->channels,
                           .height = s->latent_height, .width = s->latent_width, .passes = sampler_calls(s->sampler) - s->begin};
    snprintf(s->preview_name, sizeof s->preview_name, "%.*s", (int)strcspn(s->prefix, "."), s->prefix);
    s->preview.stage = s->preview_name;
    if (!preview_plan(&s->preview))
        return false;
    bool ok = plan_passes(s);
    preview_planned(&s->preview);
    return ok;
}

/* ---- running ---- */

bool cascade_allocate(cascade_stage *s)
{
    size_t n = cascade_latent_floats(s) * (size_t)s->images, per_channel = area_of(s) * (size_t)s->batch;
    status *st = s->e.st;
    s->latents = mem_alloc(n, 4, "latents", st);
    s->input = mem_alloc(per_channel * (size_t)s->unet.in_channels, 4, "latents", st);
    s->predicted = mem_alloc(per_channel * (size_t)s->unet.out_channels, 4, "latents", st);
    s->guided_noise = mem_alloc(2 * n, 4, "latents", st);
    s->timesteps = mem_alloc((size_t)s->batch, 4, "latents", st);
    s->noise->per_image = cascade_latent_floats(s);
    return status_ok(st);
}

bool cascade_draw_latents(cascade_stage *s, const float *original)
{
    size_t n = cascade_latent_floats(s);
    float sigma = sampler_init_noise_sigma(s->sampler);
    s->noise->per_image = n;
    noise_draw(s->noise, s->latents, 0);
    for (int i = 0; i < s->images; i++) {
        float *x = s->latents + (size_t)i * n;
        if (original)
            sampler_add_noise(s->sampler, s->begin, original, x, x, n);
        for (size_t k = 0; !original && k < n; k++)
            x[k] *= sigma;
    }
    return true;
}

int cascade_text_of(const cascade_stage *s, int item)
{
    return s->guided && item < s->images ? s->prompts->negative[item] : s->prompts->positive[item - (s->guided ? s->images : 0)];
}

void cascade_place(const cascade_stage *s, const float *by_text, size_t each, float *by_item)
{
    for (int i = 0; i < s->batch; i++)
        memcpy(by_item + (size_t)i * each, by_text + (size_t)cascade_text_of(s, i) * each, each * 4);
}

void cascade_pixels(const pixmap *p, float *out)
{
    size_t area = (size_t)p->width * (size_t)p->height;
    for (size_t i = 0; i < area * 3; i++)
        out[i % 3 * area + i / 3] = (float)p->rgb[i] / 127.5f - 1;
}

static void fill_input(cascade_stage *s, int call)
{
    size_t n = cascade_latent_floats(s), all = area_of(s) * (size_t)s->unet.in_channels, extra = all - n;
    for (int b = 0; b < s->batch; b++) {
        int image = b % s->images;
        float *in = s->input + (size_t)b * all;
        sampler_scale_input(s->sampler, call, s->latents + (size_t)image * n, in, n);
        if (extra && s->scales_all)
            sampler_scale_input(s->sampler, call, s->beside + (size_t)image * extra, in + n, extra);
        else if (extra)
            memcpy(in + n, s->beside + (size_t)image * extra, extra * 4);
        s->timesteps[b] = (float)sampler_timestep(s->sampler, call);
    }
}

/* The prediction of the whole batch, then, where the sampler wants it, the variance of the whole batch. */
static void guide(cascade_stage *s)
{
    size_t n = cascade_latent_floats(s), made = area_of(s) * (size_t)s->unet.out_channels, images = (size_t)s->images;
    float g = (float)s->guidance;
    for (size_t i = 0; i < images; i++) {
        const float *a = s->predicted + i * made, *b = s->guided ? a + images * made : a;
        float *out = s->guided_noise + i * n;
        for (size_t k = 0; k < n; k++)
            out[k] = s->guided ? a[k] + g * (b[k] - a[k]) : a[k];
        if (sampler_wants_variance(s->sampler))
            memcpy(out + images * n, b + n, n * 4);
    }
}

static bool step(cascade_stage *s, int call)
{
    fill_input(s, call);
    for (s->at = 0; s->at < s->batch; s->at += s->rows)
        if (!stage_pass(&s->denoise, s))
            return false;
    s->at = 0;
    guide(s);
    preview_predict(&s->preview, s->sampler, call, s->guided_noise, s->latents, call + 1 - s->begin);
    return sampler_step(s->sampler, call, s->guided_noise, s->latents, (size_t)s->images, cascade_latent_floats(s), noise_draw, s->noise, s->e.st);
}

trajectory cascade_path(cascade_stage *s, uint64_t prompt)
{
    return (trajectory){.sampler = s->sampler, .noise = s->noise, .latents = s->latents, .images = s->images, .channels = s->channels,
                        .height = s->latent_height, .width = s->latent_width, .prompt = prompt, .guidance = s->guidance, .first = s->begin,
                        .prefix = s->prefix, .settle = s->settle, .ctx = s, .start = s->first ? NULL : &s->start, .fresh = s->fresh};
}

bool cascade_denoise(cascade_stage *s, bool begun, uint64_t prompt)
{
    engine *e = &s->e;
    double start = now_seconds();
    int end = sampler_calls(s->sampler);
    char what[48];
    snprintf(what, sizeof what, "%sdenoise", s->prefix);
    s->path = cascade_path(s, prompt);
    s->path.begun = begun;
    int first = trajectory_begin(&s->path, e);
    bool ok = first >= 0 && (first >= end || (preview_open(&s->preview) && stage_open(&s->denoise)));
    for (int i = first; ok && i < end; i++) {
        report_progress(e->request, what, i - s->begin, end - s->begin);
        ok = step(s, i) && trajectory_after(&s->path, e, i) && preview_show(&s->preview, s->latents, i + 1 - s->begin, i + 1 == end);
        e->report->evaluations++;
    }
    if (ok)
        report_progress(e->request, what, end - s->begin, end - s->begin);
    stage_close(&s->denoise);
    preview_close(&s->preview);
    s->denoise.row->seconds = now_seconds() - start;
    return ok;
}

void cascade_close_loop(cascade_stage *s)
{
    stage_close(&s->denoise);
    preview_close(&s->preview);
    sampler_close(s->sampler);
    mem_free(s->latents);
    mem_free(s->input);
    mem_free(s->predicted);
    mem_free(s->guided_noise);
    mem_free(s->timesteps);
    mem_free(s->beside);
    mem_free(s->generators);
    s->generators = NULL;
    s->sampler = NULL;
    s->latents = s->input = s->predicted = s->guided_noise = s->timesteps = s->beside = NULL;
}
