/* Pictures to begin with. Image-to-image (diffusers' StableDiffusionImg2ImgPipeline): a sample of the encoder's distribution, noised to where the
 * schedule begins. Painting into a picture (StableDiffusionInpaintPipeline): either the network gets the mask and the rest of the picture as
 * channels, or after each step what is to stay is put back at that step's noise.
 * The order of draws decides the picture. Image-to-image: for each image its own sample, then its noise. Painting: one sample of the picture with the
 * first image's numbers (where it is needed), the noise of each image, one sample of the masked picture with the first image's. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "models/pipe_sd.h"

bool sd_picture_size(sd *p)
{
    const request *q = p->e.request;
    int factor = vae_factor(&p->vae);
    if (!q->init || q->mask)
        return true;
    if (!q->width)
        p->width = q->init->width - q->init->width % factor;
    if (!q->height)
        p->height = q->init->height - q->init->height % factor;
    if (p->width < factor || p->height < factor)
        return status_set(p->e.st, STATUS_USAGE, "--init-img: a picture of %dx%d is too small, at least %dx%d", q->init->width, q->init->height, factor, factor);
    return true;
}

static void encode_forward(run *r, const void *ctx)
{
    const sd *p = ctx;
    vae_encode(r, &p->vae, p->picture, 1, p->height, p->width, p->moments);
}

bool sd_picture_plan(sd *p)
{
    if (!p->e.request->init)
        return true;
    p->e.held_bytes += (size_t)p->width * (size_t)p->height * 3 * 5 + sd_latent_floats(p) * 4 * (size_t)(4 + 2 * p->images);
    return stage_plan(&p->encode, &p->e, sd_vae(p), "vae_encoder", vae_aliases, encode_forward, p, 2);
}

/* ---- pixels ---- */

static bool fitted(const sd *p, const pixmap *in, pixmap *out)
{
    return pixmap_resize(in, p->width, p->height, out, p->e.st);
}

/* -1..1, channels first; what `mask` paints anew becomes 0 (NULL: nothing) */
static void normalized(const sd *p, const pixmap *in, const pixmap *mask, float *out)
{
    size_t area = (size_t)p->width * (size_t)p->height;
    for (size_t i = 0; i < area; i++) {
        bool painted = mask && (float)pixmap_gray(mask->rgb + 3 * i) / 255.0f >= 0.5f;
        for (size_t c = 0; c < 3; c++)
            out[c * area + i] = painted ? 0 : 2 * ((float)in->rgb[3 * i + c] / 255.0f) - 1;
    }
}

/* The mask at the latents' size: 1 where to paint. The nearest pixel, as torch's interpolate takes it. */
static void shrink_mask(const sd *p, const pixmap *mask, float *out)
{
    int factor = vae_factor(&p->vae);
    for (int y = 0; y < p->latent_height; y++)
        for (int x = 0; x < p->latent_width; x++) {
            size_t at = (size_t)(y * factor) * (size_t)p->width + (size_t)(x * factor);
            out[y * p->latent_width + x] = (float)pixmap_gray(mask->rgb + 3 * at) / 255.0f >= 0.5f;
        }
}

/* ---- latents ---- */

/* One sample of the distribution in moments, with the numbers of g, scaled as the denoiser wants it. */
static void draw_latents(const sd *p, rng *g, float *out)
{
    size_t n = sd_latent_floats(p);
    size_t area = (size_t)p->latent_height * (size_t)p->latent_width;
    bool certain = p->vae.tiny || p->vae.codes > 0, normed = p->vae.normed && !p->painting; /* the painting class knows of them only in the decoder */
    for (size_t i = 0; certain && i < n; i++)
        out[i] = p->vae.scaling_factor * p->moments[i];
    if (certain) /* its encoder makes latents, there is nothing to draw */
        return;
    rng_normal(g, out, n);
    for (size_t i = 0; i < n; i++) {
        float log_variance = p->moments[n + i];
        log_variance = log_variance < -30 ? -30 : log_variance > 20 ? 20 : log_variance;
        float drawn = p->moments[i] + expf(0.5f * log_variance) * out[i];
        size_t c = i / area;
        out[i] = normed ? (drawn - p->vae.mean[c]) * p->vae.scaling_factor / p->vae.deviation[c] : p->vae.scaling_factor * drawn;
    }
}

static bool encode_picture(sd *p, const pixmap *in, const pixmap *mask)
{
    normalized(p, in, mask, p->picture);
    return stage_pass(&p->encode, p);
}

static void draw_noise(sd *p)
{
    noise_draw(&p->noise, p->picture_noise, 0);
}

/* The noised pictures, or noise alone where the picture goes through the whole schedule. */
static void begin_noised(sd *p, bool noise_alone)
{
    size_t n = sd_latent_floats(p);
    float by = sampler_init_noise_sigma(p->sampler);
    for (int i = 0; i < p->images; i++) {
        size_t at = (size_t)i * n;
        if (noise_alone)
            for (size_t k = 0; k < n; k++)
                p->latents[at + k] = p->picture_noise[at + k] * by;
        else
            sampler_add_noise(p->sampler, p->first, p->picture_latents + (p->painting ? 0 : at), p->picture_noise + at, p->latents + at, n);
    }
}

static bool begin_image(sd *p, const pixmap *init)
{
    size_t n = sd_latent_floats(p);
    if (!encode_picture(p, init, NULL))
        return false;
    for (int i = 0; i < p->images; i++)
        draw_latents(p, &p->noise.image[i], p->picture_latents + (size_t)i * n);
    draw_noise(p);
    begin_noised(p, false);
    return true;
}

static bool begin_painting(sd *p, const pixmap *init, const pixmap *mask)
{
    bool noise_alone = p->strength >= 1;
    if (!p->mask_input || !noise_alone) {
        if (!encode_picture(p, init, NULL))
            return false;
        draw_latents(p, &p->noise.image[0], p->picture_latents);
    }
    draw_noise(p);
    begin_noised(p, noise_alone);
    shrink_mask(p, mask, p->mask);
    if (!encode_picture(p, init, mask)) /* its numbers are drawn even where nobody looks at the result */
        return false;
    draw_latents(p, &p->noise.image[0], p->masked_latents);
    return true;
}

static bool allocate(sd *p)
{
    size_t n = sd_latent_floats(p);
    status *st = p->e.st;
    p->picture = mem_alloc((size_t)p->width * (size_t)p->height * 3, 4, "picture", st);
    p->moments = mem_alloc(2 * n, 4, "latents", st);
    p->picture_latents = mem_alloc(n * (size_t)(p->painting ? 1 : p->images), 4, "latents", st);
    p->picture_noise = mem_alloc(n * (size_t)p->images, 4, "latents", st);
    p->masked_latents = mem_alloc(n, 4, "latents", st);
    p->mask = mem_alloc(n, 4, "latents", st);
    return status_ok(st);
}

bool sd_picture_begin(sd *p)
{
    double begin = now_seconds();
    pixmap init = {0}, mask = {0};
    const request *q = p->e.request;
    report_progress(q, "encode", 0, 0);
    bool ok = allocate(p) && fitted(p, q->init, &init) && (!q->mask || fitted(p, q->mask, &mask)) && stage_open(&p->encode);
    ok = ok && (p->painting ? begin_painting(p, &init, &mask) : begin_image(p, &init));
    stage_close(&p->encode);
    pixmap_free(&init);
    pixmap_free(&mask);
    mem_free(p->picture);
    mem_free(p->moments);
    p->picture = p->moments = NULL;
    p->encode.row->seconds = now_seconds() - begin;
    return ok;
}

void sd_picture_restore(void *ctx, int next_call)
{
    sd *p = ctx;
    size_t n = sd_latent_floats(p), area = (size_t)p->latent_height * (size_t)p->latent_width;
    for (int i = 0; i < p->images; i++) {
        float *x = p->latents + (size_t)i * n, *kept = p->guided_noise;
        if (next_call < p->end)
            sampler_add_noise(p->sampler, next_call, p->picture_latents, p->picture_noise + (size_t)i * n, kept, n);
        else
            memcpy(kept, p->picture_latents, n * 4);
        for (size_t k = 0; k < n; k++)
            x[k] = (1 - p->mask[k % area]) * kept[k] + p->mask[k % area] * x[k];
    }
}
