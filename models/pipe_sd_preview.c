/* Pictures of how far a run is: through an AutoencoderTiny where there is one (--taesd, or the model's own decoder), else through a linear map of four
 * latents. The tiny decoder lies beside the denoiser all the while, so it gets the least memory that it needs of a budget. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "models/pipe_sd.h"

/* Colours as a linear function of four latents: the regressions of decoded pictures on latents that web interfaces use. */
static const struct { float by[4][3], plus[3]; } colours[2] = {
    {{{0.298f, 0.207f, 0.208f}, {0.187f, 0.286f, 0.173f}, {-0.158f, 0.189f, 0.264f}, {-0.184f, -0.271f, -0.473f}}, {0, 0, 0}},
    {{{0.3920f, 0.4054f, 0.4549f}, {-0.2634f, -0.0196f, 0.0653f}, {0.0568f, 0.1687f, -0.0755f}, {-0.3112f, -0.2359f, -0.2076f}}, {0, 0, 0}}};

/* ---- --taesd ---- */

bool sd_tiny_read(sd *p)
{
    const request *q = p->e.request;
    char name[FILE_NAME_BYTES];
    if (!q->tiny)
        return true;
    p->tiny = p->e; /* its threads, and a source of its own */
    p->tiny.source = q->tiny;
    json *j = read_config(q->tiny, "", "config.json", name, p->e.st);
    bool ok = j && vae_config_read(&p->tiny_vae, j, name, p->e.st);
    json_free(j);
    if (!ok)
        return false;
    if (!p->tiny_vae.tiny)
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: is no AutoencoderTiny", q->tiny->path);
    if (p->tiny_vae.latent_channels != p->vae.latent_channels || vae_factor(&p->tiny_vae) != vae_factor(&p->vae) || p->tiny_vae.out_channels != 3)
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: decodes %d latent channels to pictures %d times as wide, the model has %d and %d", q->tiny->path,
                          p->tiny_vae.latent_channels, vae_factor(&p->tiny_vae), p->vae.latent_channels, vae_factor(&p->vae));
    return true;
}

bool sd_decode_plan(sd *p)
{
    bool tiny = p->e.request->tiny && !p->e.request->tiny_previews_only;
    p->tiny.held_bytes = p->e.held_bytes;
    p->decode.config = tiny ? p->tiny_vae : p->vae;
    return vae_stage_plan(&p->decode, tiny ? &p->tiny : &p->e, tiny ? "" : sd_vae(p), p->latent_height, p->latent_width, p->images);
}

/* ---- planning ---- */

static bool wanted(const sd *p) { return p->e.request->preview_every && p->e.request->preview; }

static bool plan_within(sd *p, uint64_t budget)
{
    p->show_request.budget_bytes = budget;
    p->show.config = p->e.request->tiny ? p->tiny_vae : p->vae;
    int previews = (p->end - p->first) / p->e.request->preview_every * p->images;
    return vae_stage_plan(&p->show, &p->show_engine, p->e.request->tiny ? "" : sd_vae(p), p->latent_height, p->latent_width, previews ? previews : 1);
}

bool sd_preview_plan(sd *p)
{
    const request *q = p->e.request;
    p->shows = wanted(p) && (q->tiny || p->vae.tiny);
    if (!p->shows)
        return true;
    status *st = p->e.st, before = *st; /* another stage's refusal comes back at the end */
    *st = (status)STATUS_INIT;
    p->show_request = *q;
    p->show_engine = q->tiny ? p->tiny : p->e;
    p->show_engine.request = &p->show_request;
    p->show_engine.held_bytes = 0; /* counted with the denoiser */
    int stages = p->e.report->stages;
    bool ok = plan_within(p, q->budget_bytes ? 1 : 0);
    if (!ok && st->code == STATUS_BUDGET) { /* so that is the least */
        uint64_t least = st->least_bytes;
        stage_close(&p->show.stage);
        *st = (status)STATUS_INIT;
        p->e.report->stages = stages;
        ok = plan_within(p, least);
    }
    const stage_report *row = p->show.stage.row;
    p->show_bytes = ok ? row->resident_bytes + row->ring_bytes + row->arena_bytes : 0;
    if (ok)
        *st = before;
    return ok;
}

/* ---- showing ---- */

bool sd_preview_open(sd *p)
{
    return !p->shows || stage_open(&p->show.stage);
}

void sd_preview_close(sd *p)
{
    stage_close(&p->show.stage);
}

static uint8_t byte_of(float v)
{
    v = v / 2 + 0.5f;
    return v > 0 ? (uint8_t)lrintf((v < 1 ? v : 1) * 255) : 0; /* NaN: black */
}

static bool show_decoded(sd *p, int image, int step, const float *latents)
{
    size_t area = (size_t)p->height * (size_t)p->width;
    float *picture = mem_alloc(area * 3, 4, "preview", p->e.st);
    uint8_t *rgb = picture ? mem_alloc(area, 3, "preview", p->e.st) : NULL;
    bool ok = rgb && vae_stage_picture(&p->show, latents, picture);
    for (size_t i = 0; ok && i < area * 3; i++)
        rgb[i] = byte_of(picture[i % 3 * area + i / 3]);
    ok = ok && p->e.request->preview(p->e.request->preview_ctx, image, step, rgb, p->width, p->height, p->e.st);
    mem_free(rgb);
    mem_free(picture);
    return ok;
}

static bool show_colours(sd *p, int image, int step, const float *latents)
{
    size_t area = (size_t)p->latent_height * (size_t)p->latent_width;
    uint8_t *rgb = mem_alloc(area, 3, "preview", p->e.st);
    for (size_t k = 0; rgb && k < area * 3; k++) {
        float v = colours[p->kind->xl].plus[k % 3];
        for (size_t c = 0; c < 4; c++)
            v += colours[p->kind->xl].by[c][k % 3] * latents[c * area + k / 3];
        rgb[k] = byte_of(v);
    }
    bool ok = rgb && p->e.request->preview(p->e.request->preview_ctx, image, step, rgb, p->latent_width, p->latent_height, p->e.st);
    mem_free(rgb);
    return ok;
}

bool sd_preview(sd *p, int done)
{
    size_t n = sd_latent_floats(p);
    if (!wanted(p) || (done - p->first) % p->e.request->preview_every || (!p->shows && p->vae.latent_channels != 4))
        return true;
    bool ok = true;
    for (int i = 0; ok && i < p->images; i++) {
        float *x = p->input; /* as the network would see them next: of its range, whatever the sampler's */
        if (done < p->end)
            sampler_scale_input(p->sampler, done, p->latents + (size_t)i * n, x, n);
        else
            memcpy(x, p->latents + (size_t)i * n, n * 4);
        ok = p->shows ? show_decoded(p, i, done - p->first, x) : show_colours(p, i, done - p->first, x);
    }
    return ok;
}
