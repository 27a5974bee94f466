/* An autoencoder on its own: decode and plan. */
#include "models/pipe_picture.h"
#include "models/pipelines.h"

typedef struct lone_vae {
    engine e;
    vae_stage vae;
} lone_vae;

enum { USUAL_SIDE = 512 };

static bool lone_plan(void *self, const void *kind, bool planning)
{
    lone_vae *p = self;
    const request *q = p->e.request;
    (void)kind, (void)planning;
    if (!vae_read(&p->vae.config, p->e.source, "", false, p->e.st))
        return false;
    const vae_config *c = &p->vae.config;
    int factor = vae_factor(c), width = (q->width ? q->width : USUAL_SIDE) / factor, height = (q->height ? q->height : USUAL_SIDE) / factor;
    if (width < 1 || height < 1)
        return status_set(p->e.st, STATUS_USAGE, "size %dx%d: the decoder's least is %dx%d", q->width, q->height, factor, factor);
    return vae_latents_take(&p->vae, &p->e, "", (int64_t[4]){q->batch_count > 0 ? q->batch_count : 1, c->codes ? 0 : c->latent_channels, height, width});
}

static int lone_describe(const void *self)
{
    const lone_vae *p = self;
    p->e.report->width = p->vae.width * vae_factor(&p->vae.config);
    p->e.report->height = p->vae.height * vae_factor(&p->vae.config);
    return 0;
}

static bool lone_decode(void *self, const void *kind, const float *latents, const int64_t shape[4])
{
    lone_vae *p = self;
    (void)kind;
    return vae_read(&p->vae.config, p->e.source, "", false, p->e.st) && vae_decode_latents(&p->vae, &p->e, "", latents, shape);
}

static void lone_close(void *self) { stage_close(&((lone_vae *)self)->vae.stage); }

const pipeline_row pipeline_vae = {.name = "vae", .alone = "an autoencoder alone; it can be used with decode, plan and quantize", .bytes = sizeof(lone_vae),
                                   .plan = lone_plan, .describe = lone_describe, .decode = lone_decode, .close = lone_close};
