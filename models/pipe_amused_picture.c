/* aMUSEd's pictures to begin with. AmusedImg2ImgPipeline: the picture's tokens, of which a share is masked at random as if the steps before had been made;
 * AmusedInpaintPipeline: the tokens under the mask, on a linear schedule, whatever the scheduler's file says.
 * Pitfalls: at strength 1 diffusers masks as many as after the last step, which is none; each image draws its own mask here, as it would alone. */
#include "base/mem.h"
#include "models/pipe_amused.h"

bool amused_picture_size(amused *p)
{
    const request *q = p->e.request;
    int factor = vae_factor(&p->decode.config);
    if (!q->init)
        return true;
    if (!q->width)
        p->width = q->init->width - q->init->width % factor;
    if (!q->height)
        p->height = q->init->height - q->init->height % factor;
    return (p->width >= factor && p->height >= factor) ||
           status_set(p->e.st, STATUS_USAGE, "--init-img: a picture of %dx%d is too small, at least %dx%d", q->init->width, q->init->height, factor, factor);
}

static void encode_forward(run *r, const void *ctx)
{
    const amused *p = ctx;
    vae_encode_tokens(r, &p->decode.config, p->picture, 1, p->height, p->width, p->numbers);
}

bool amused_picture_plan(amused *p)
{
    if (!p->e.request->init)
        return true;
    p->e.held_bytes += (size_t)p->width * (size_t)p->height * 3 * 5;
    return stage_plan(&p->encode, &p->e, p->vae, "vqvae_encoder", vae_aliases, encode_forward, p, 1);
}

/* As the network takes pictures, channels first */
static void place_picture(const amused *p, const pixmap *in)
{
    size_t area = (size_t)p->width * (size_t)p->height;
    bool unit = p->decode.config.unit_range;
    for (size_t i = 0; i < area * 3; i++) {
        float v = (float)in->rgb[i] / 255.0f;
        p->picture[i % 3 * area + i / 3] = unit ? v : 2 * v - 1;
    }
}

/* Which tokens are painted anew: the mask at their size, from one half on. */
static bool mask_tokens(amused *p)
{
    pixmap mask = {0};
    int masked = 0, count = amused_count(p);
    if (!pixmap_resize(p->e.request->mask, p->columns, p->rows, &mask, p->e.st))
        return false;
    for (int i = 0; i < count; i++) {
        if ((float)pixmap_gray(mask.rgb + 3 * i) / 255.0f < 0.5f)
            continue;
        masked++;
        p->tokens[i] = (float)p->schedule.mask_id;
    }
    p->start_ratio = (float)masked / (float)count;
    pixmap_free(&mask);
    return true;
}

static bool begin(amused *p, const pixmap *init)
{
    int count = amused_count(p), step = p->first ? p->first - 1 : p->schedule.steps - 1;
    place_picture(p, init);
    if (!stage_open(&p->encode) || !stage_pass(&p->encode, p))
        return false;
    for (int i = 0; i < count; i++)
        p->tokens[i] = (float)p->numbers[i];
    if (p->painting && !mask_tokens(p))
        return false;
    for (int i = 1; i < p->images; i++)
        for (int k = 0; k < count; k++)
            p->tokens[i * count + k] = p->tokens[k];
    for (int i = 0; i < p->images && !p->painting; i++)
        masked_noise(&p->schedule, step, p->tokens + i * count, count, &p->noise.image[i]);
    return true;
}

bool amused_picture_begin(amused *p)
{
    double start = now_seconds();
    pixmap init = {0};
    report_progress(p->e.request, "encode", 0, 0);
    p->picture = mem_alloc((size_t)p->width * (size_t)p->height * 3, 4, "picture", p->e.st);
    p->numbers = mem_alloc((size_t)amused_count(p), sizeof *p->numbers, "tokens", p->e.st);
    bool ok = status_ok(p->e.st) && pixmap_resize(p->e.request->init, p->width, p->height, &init, p->e.st) && begin(p, &init);
    stage_close(&p->encode);
    pixmap_free(&init);
    mem_free(p->picture);
    mem_free(p->numbers);
    p->picture = NULL;
    p->numbers = NULL;
    p->encode.row->seconds = now_seconds() - start;
    return ok;
}
