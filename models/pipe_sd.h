/* pipe_sd.h: what the files of the Stable Diffusion pipelines share. pipe_sd.c makes the plan and the picture, pipe_sd_text.c the conditions,
 * pipe_sd_picture.c pictures to begin with and their masks, pipe_sd_denoise.c the loop. */
#ifndef PENSTOCK_PIPE_SD_H
#define PENSTOCK_PIPE_SD_H

#include "models/net_unet.h"
#include "models/pipe_common.h"
#include "models/pipe_picture.h"
#include "models/pipe_request.h"
#include "models/pipelines.h"
#include "models/preview.h"
#include "models/resume.h"
#include "models/text_clip.h"

typedef struct sd_kind {        /* a pipeline class of diffusers: its defaults */
    const char *name;
    bool xl;                    /* pooled text and sizes are conditions too */
    bool lcm;                   /* guidance is an input of the network, there is no negative prompt */
    bool ldm;                   /* the first of them: LDMBert, a decoder called vqvae, latents of an eighth of the size asked for */
    int steps;
    double guidance, mask_guidance, strength, mask_strength; /* strength: with a picture; mask_: with a picture and a mask */
    const char *forced, *mask_forced; /* on the scheduler's config */
} sd_kind;

typedef struct sd_encoder {     /* a text encoder of the pipeline */
    bool here;
    bool apart;                 /* negative texts have a stage of their own, as another layer is taken for them */
    clip_text text, negative;
} sd_encoder;

typedef struct sd {
    engine e;
    const sd_kind *kind;
    const char *prefix;         /* of names in the trace: "" or "refiner." */
    unet_config unet;
    vae_config vae;
    bool zeros_for_empty, aesthetics;
    double guidance, strength;
    bool guided, painting;      /* painting: there is a mask; the network may get it as input, or what is not to change is put back */
    bool mask_input, planning;
    int width, height, latent_width, latent_height, images, batch; /* batch: 2 * images when guided */
    int rows;                   /* of the batch in one pass: less than all where memory is short */
    sampler *sampler;
    int first, end;             /* calls of the sampler */
    trajectory path;
    stage_start start;          /* of a refiner, for checkpoints */
    bool fresh;                 /* it begins at its beginning, whatever checkpoint is there */
    noise_source noise;
    sd_encoder encoder[2];
    prompt_set prompts;
    int tokens, text_dim, pooled_dim, sizes_count;
    stage denoise, encode;
    vae_stage decode;
    tiny_decoder tiny;
    preview preview;
    /* during denoising */
    float *latents, *input, *predicted, *guided_noise;
    float *text, *pooled, *sizes, *timesteps, *guidance_embedding; /* by batch item */
    float *mask, *masked_latents, *picture_latents, *picture_noise;
    float *picture, *moments;   /* while a picture is encoded */
    int at;                     /* first row of the pass */
} sd;

static inline size_t sd_latent_floats(const sd *p) { return (size_t)p->vae.latent_channels * (size_t)p->latent_height * (size_t)p->latent_width; }

static inline const char *sd_vae(const sd *p) { return p->kind->ldm ? "vqvae" : "vae"; }

/* ---- pipe_sd_text.c ---- */
bool sd_text_read(sd *p);                       /* which encoders there are */
bool sd_text_plan(sd *p);
bool sd_text_run(sd *p);
bool sd_text_trace(sd *p, trace *to, bool by_batch); /* every item of the batch, or every text, with its mask */
bool sd_text_place(sd *p);                      /* conditions of every batch item */
uint64_t sd_text_hash(const sd *p);
void sd_text_close(sd *p);

/* ---- pipe_sd_picture.c ---- */
bool sd_picture_size(sd *p);                    /* the size when a picture is given and no size */
bool sd_picture_plan(sd *p);
bool sd_picture_begin(sd *p);                   /* latents.0 of a picture, the mask, and what the network gets of them */
void sd_picture_restore(void *p, int next_call); /* what the mask keeps, at the noise of that call */

/* ---- pipe_sd_denoise.c ---- */
bool sd_denoise_plan(sd *p);
bool sd_denoise_allocate(sd *p);
bool sd_denoise(sd *p, int first);              /* from that call on */

#endif
