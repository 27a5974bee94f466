/* cascade.h: pictures in several stages, each by a denoiser of its own: the first of text (or of a picture), the others by enlarging what the one before made.
 *
 * pipe_cascade.c lines them up, pipe_if.c is a stage of DeepFloyd IF (pixels; text by the T5 that all such stages share), pipe_upscale.c Stable Diffusion's
 * x4 upscaler (latents; CLIP), cascade_denoise.c the loop of either. One generator an image goes through all stages. */
#ifndef PENSTOCK_CASCADE_H
#define PENSTOCK_CASCADE_H

#include "models/net_unet.h"
#include "models/pipe_common.h"
#include "models/pipe_picture.h"
#include "models/pipe_request.h"
#include "models/preview.h"
#include "models/resume.h"

typedef struct cascade_stage cascade_stage;

typedef struct cascade_kind {
    bool (*read)(cascade_stage *s);    /* configs and the sampler: what is marked "read" below */
    bool (*plan)(cascade_stage *s);
    bool (*run)(cascade_stage *s);     /* s->low to s->picture */
    bool (*decode)(cascade_stage *s, const float *latents, const int64_t shape[4]); /* the last stage's latents to s->picture, and its size */
    bool (*plan_text)(cascade_stage *s); /* encode, where there is no shared text; NULL: the shared text is all */
    bool (*encode)(cascade_stage *s, trace *to);
    void (*close)(cascade_stage *s);
} cascade_kind;

extern const cascade_kind cascade_if, cascade_upscale;

struct cascade_stage {
    const cascade_kind *kind;
    engine e;                   /* of its own model; threads, status and report are those of all */
    request asked;              /* of the first stage what the user says, of the others their pipeline's defaults */
    bool first, last;
    char prefix[24];            /* of names in traces and reports: "", "stage2." */
    void *own;                  /* the kind's */
    /* read: */
    unet_config unet;
    sampler *sampler;
    bool enlarges;              /* it needs the pictures of the stage before */
    int own_size, factor, unit; /* its pictures' side where nobody says; or so many times what comes in; sides are multiples of unit */
    double guidance;
    bool guided;
    int text_dim;               /* of the shared text, 0: it has a text of its own */
    /* given by the cascade before planning: */
    int width, height, low_width, low_height, images;
    bool from_picture;          /* the first begins from the request's picture, or it is what the first is to enlarge */
    const prompt_set *prompts;
    noise_source *noise;
    const text_stage *text;     /* the shared one */
    stage_start start;          /* of a further stage, for checkpoints */
    rng *generators;            /* as they stood when it began */
    bool fresh;                 /* it begins at its beginning, whatever checkpoint is there */
    const float *low;           /* [images, 3, low_height, low_width] in -1..1, when run */
    float *picture;             /* [images, 3, height, width], result */
    /* the loop's (cascade_denoise.c); set by the kind before planning: */
    int channels, latent_width, latent_height, tokens;
    forward_fn forward;         /* of rows `at` to `at + rows` of the batch; its context is this */
    const vae_config *decoder;  /* of the latents, in "vae"; NULL: they are pixels */
    bool scales_all;            /* the sampler scales what stands beside the latents too */
    void (*settle)(void *stage, int next); /* what is done to the latents behind a call, once traced; NULL: nothing */
    float *beside;              /* [images, in_channels - channels, h, w]: what the network sees besides the latents; NULL: nothing */
    /* inside: */
    int batch, rows, at, begin;
    stage denoise;
    preview preview;
    char preview_name[24];
    float *latents, *input, *predicted, *guided_noise, *timesteps;
    trajectory path;
};

/* ---- cascade_denoise.c ---- */
bool cascade_plan_loop(cascade_stage *s);   /* counts the loop's memory as held, and plans the denoiser, in parts of the batch where memory is short */
bool cascade_allocate(cascade_stage *s);
/* Draws latents [images, channels, h, w], times the sampler's first sigma, or on top of an original (one for all). */
bool cascade_draw_latents(cascade_stage *s, const float *original);
/* begun: the latents stand; prompt: hash of all conditions. To the last latents. */
bool cascade_denoise(cascade_stage *s, bool begun, uint64_t prompt);
void cascade_close_loop(cascade_stage *s);
/* What its loop goes along; prompt: hash of all conditions. */
trajectory cascade_path(cascade_stage *s, uint64_t prompt);
/* The text of an item of the batch: the unconditional half comes first. */
int cascade_text_of(const cascade_stage *s, int item);
/* The rows of `per text` floats that belong to the batch's items. */
void cascade_place(const cascade_stage *s, const float *by_text, size_t each, float *by_item);

/* [3, h, w] in -1..1 of 8-bit pixels */
void cascade_pixels(const pixmap *p, float *out);

static inline size_t cascade_latent_floats(const cascade_stage *s) { return (size_t)s->channels * (size_t)s->latent_height * (size_t)s->latent_width; }
static inline size_t cascade_picture_floats(const cascade_stage *s) { return (size_t)3 * (size_t)s->height * (size_t)s->width; }

#endif
