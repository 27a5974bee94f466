/* pipe_amused.h: what the files of aMUSEd's pipeline share. pipe_amused.c makes the plan and the picture, pipe_amused_picture.c begins with one. */
#ifndef PENSTOCK_PIPE_AMUSED_H
#define PENSTOCK_PIPE_AMUSED_H

#include "models/net_uvit.h"
#include "models/pipe_common.h"
#include "models/pipelines.h"
#include "models/prompt_set.h"
#include "models/resume.h"
#include "models/text_clip.h"
#include "sampling/masked.h"

typedef struct amused {
    engine e;
    uvit_config net;
    masked_schedule schedule;
    double guidance, strength;
    bool guided, painting;
    int width, height, columns, rows, images; /* columns, rows: of tokens */
    int together;               /* images in one pass: less than all where memory is short */
    int first;                  /* step */
    float start_ratio;          /* share of tokens that are masked in the beginning */
    clip_text text;
    prompt_set prompts;
    noise_source noise;
    trajectory path;
    stage denoise, encode;
    vae_stage decode;
    /* during denoising */
    float *tokens;              /* ids [images, rows, columns] */
    masked_pick *picks;         /* of the pass */
    int at;                     /* its first image */
    int32_t *ids;               /* its inputs */
    float *hidden, *pooled, *sizes;
    /* while a picture is encoded */
    float *picture;
    int32_t *numbers;
} amused;

static inline int amused_count(const amused *p) { return p->rows * p->columns; }

/* ---- pipe_amused_picture.c ---- */
bool amused_picture_size(amused *p);            /* the size when a picture is given and no size */
bool amused_picture_plan(amused *p);
bool amused_picture_begin(amused *p);           /* its tokens, some of them masked */

#endif
