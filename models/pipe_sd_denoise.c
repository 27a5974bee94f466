/* The denoising loop of the Stable Diffusion pipelines: guidance in one batch, or in parts of it where memory is short (then the weights are read
 * once a part, and the result is the same). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/pipe_sd.h"

static void unet_forward(run *r, const void *ctx)
{
    const sd *p = ctx;
    size_t at = (size_t)p->at, area = (size_t)p->latent_height * (size_t)p->latent_width;
    unet_inputs in = {.batch = p->rows, .height = p->latent_height, .width = p->latent_width, .tokens = p->tokens, .pooled_dim = p->pooled_dim,
                      .sizes_count = p->sizes_count};
    if (p->input) { /* in PLAN there is only the shape */
        in.latents = p->input + at * area * (size_t)p->unet.in_channels;
        in.noise = p->predicted + at * area * (size_t)p->unet.out_channels;
        in.text = p->text + at * (size_t)p->tokens * (size_t)p->text_dim;
        in.timesteps = p->timesteps + at;
        in.pooled = p->pooled ? p->pooled + at * (size_t)p->pooled_dim : NULL;
        in.sizes = p->sizes ? p->sizes + at * (size_t)p->sizes_count : NULL;
        in.guidance = p->guidance_embedding ? p->guidance_embedding + at * (size_t)p->unet.guidance_dim : NULL;
    }
    unet_denoise(r, &p->unet, &in);
}

bool sd_denoise_plan(sd *p)
{
    p->preview = (preview){.e = &p->e, .component = sd_vae(p), .decoder = &p->vae, .tiny = &p->tiny, .stage = *p->prefix ? "refiner" : "", .images = p->images,
                           .channels = p->vae.latent_channels, .height = p->latent_height, .width = p->latent_width, .passes = p->end - p->first};
    if (!preview_plan(&p->preview))
        return false;
    bool ok = stage_plan_parts(&p->denoise, &p->e, "unet", unet_aliases, unet_forward, p, p->end - p->first, p->batch, &p->rows);
    preview_planned(&p->preview);
    return ok;
}

bool sd_denoise_allocate(sd *p)
{
    size_t n = sd_latent_floats(p), area = (size_t)p->latent_height * (size_t)p->latent_width, batch = (size_t)p->batch;
    status *st = p->e.st;
    p->latents = p->latents ? p->latents : mem_alloc(n * (size_t)p->images, 4, "latents", st);
    p->input = mem_alloc(area * (size_t)p->unet.in_channels * batch, 4, "latents", st);
    p->predicted = mem_alloc(area * (size_t)p->unet.out_channels * batch, 4, "latents", st);
    p->guided_noise = mem_alloc(n * (size_t)p->images, 4, "latents", st);
    p->text = mem_alloc((size_t)p->tokens * (size_t)p->text_dim * batch, 4, "text", st);
    p->timesteps = mem_alloc(batch, 4, "text", st);
    p->pooled = p->pooled_dim ? mem_alloc((size_t)p->pooled_dim * batch, 4, "text", st) : NULL;
    p->sizes = p->sizes_count ? mem_alloc((size_t)p->sizes_count * batch, 4, "text", st) : NULL;
    p->guidance_embedding = p->unet.guidance_dim ? mem_alloc((size_t)p->unet.guidance_dim * batch, 4, "text", st) : NULL;
    return status_ok(st);
}

/* ---- one step ---- */

/* Every item's channels: the latents, then for a network that paints the mask and the masked picture. */
static void fill_input(sd *p, int call)
{
    size_t n = sd_latent_floats(p), area = (size_t)p->latent_height * (size_t)p->latent_width, channels = (size_t)p->unet.in_channels;
    for (int b = 0; b < p->batch; b++) {
        float *in = p->input + (size_t)b * channels * area;
        sampler_scale_input(p->sampler, call, p->latents + (size_t)(b % p->images) * n, in, n);
        if (p->mask_input) {
            memcpy(in + n, p->mask, area * 4);
            memcpy(in + n + area, p->masked_latents, n * 4);
        }
        p->timesteps[b] = (float)sampler_timestep(p->sampler, call);
    }
}

/* torch.std of one item, and its mean's */
static double deviation(const float *x, size_t n)
{
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i];
    for (size_t i = 0; i < n; i++)
        square += ((double)x[i] - sum / (double)n) * ((double)x[i] - sum / (double)n);
    return sqrt(square / (double)(n - 1));
}

/* Lin et al. 2023, section 3.4 */
static void rescale(const sd *p, float *guided, const float *conditional, size_t n)
{
    float by = (float)p->e.request->guidance_rescale, ratio = (float)deviation(conditional, n) / (float)deviation(guided, n);
    for (size_t k = 0; k < n; k++)
        guided[k] = by * (guided[k] * ratio) + (1 - by) * guided[k];
}

static void guide(sd *p)
{
    size_t n = sd_latent_floats(p);
    float g = (float)p->guidance;
    if (!p->guided) {
        memcpy(p->guided_noise, p->predicted, n * (size_t)p->images * 4);
        return;
    }
    for (int i = 0; i < p->images; i++) {
        const float *a = p->predicted + (size_t)i * n, *b = p->predicted + (size_t)(i + p->images) * n;
        float *out = p->guided_noise + (size_t)i * n;
        for (size_t k = 0; k < n; k++)
            out[k] = a[k] + g * (b[k] - a[k]);
        if (p->e.request->guidance_rescale > 0)
            rescale(p, out, b, n);
    }
}

static bool step(sd *p, int call)
{
    fill_input(p, call);
    for (p->at = 0; p->at < p->batch; p->at += p->rows)
        if (!stage_pass(&p->denoise, p))
            return false;
    p->at = 0;
    guide(p);
    preview_predict(&p->preview, p->sampler, call, p->guided_noise, p->latents, call + 1 - p->first);
    return sampler_step(p->sampler, call, p->guided_noise, p->latents, (size_t)p->images, sd_latent_floats(p), noise_draw, &p->noise, p->e.st);
}

/* ---- the loop ---- */

bool sd_denoise(sd *p, int first)
{
    const request *q = p->e.request;
    double start = now_seconds();
    int calls = p->end - p->first;
    bool ok = first >= p->end || (preview_open(&p->preview) && stage_open(&p->denoise));
    for (int i = first; ok && i < p->end; i++) {
        report_progress(q, "denoise", i - p->first, calls);
        ok = step(p, i);
        ok = ok && trajectory_after(&p->path, &p->e, i) && preview_show(&p->preview, p->latents, i + 1 - p->first, i + 1 == p->end);
        p->e.report->evaluations++;
    }
    if (ok)
        report_progress(q, "denoise", calls, calls);
    stage_close(&p->denoise);
    preview_close(&p->preview);
    p->denoise.row->seconds = now_seconds() - start;
    return ok;
}
