/* pipe_amused.h: what the files of the masked token pipelines share: aMUSEd and what it came from, openMUSE. pipe_amused.c makes the plan and the picture,
 * pipe_amused_text.c the conditions, pipe_amused_picture.c begins with a picture. */
#ifndef PENSTOCK_PIPE_AMUSED_H
#define PENSTOCK_PIPE_AMUSED_H

#include "models/net_maskgit.h"
#include "models/net_uvit.h"
#include "models/pipe_common.h"
#include "models/pipe_picture.h"
#include "models/pipe_request.h"
#include "models/pipelines.h"
#include "models/preview.h"
#include "models/resume.h"
#include "models/text_clip.h"
#include "sampling/masked.h"

typedef struct amused {
    engine e;
    bool muse;                  /* openMUSE: `git` is the network, the text has no pooled output, sizes are no condition */
    uvit_config net;
    maskgit_config git;
    const char *vae;            /* the decoder's component */
    int codes, vocabulary, side, text_dim, pooled_dim; /* of the network at hand; side: tokens of a row in its own size */
    masked_schedule schedule;
    double guidance, strength;
    bool guided, painting;
    int width, height, columns, rows, images; /* columns, rows: of tokens */
    int together;               /* images in one pass: less than all where memory is short */
    int first;                  /* step */
    float start_ratio;          /* share of tokens that are masked in the beginning */
    bool t5;
    clip_text clip_text;
    t5_text t5_text;
    const text_stage *text;     /* of the one or the other */
    int text_tokens;
    const char *tokenizer;      /* folder */
    prompt_set prompts;
    noise_source noise;
    trajectory path;
    stage denoise, encode;
    vae_stage decode;
    preview preview;
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

/* ---- pipe_amused_text.c ---- */
bool amused_text_plan(amused *p);
bool amused_text_fits(amused *p);               /* do its widths suit the network? */
bool amused_text_run(amused *p);
bool amused_text_trace(const amused *p);
uint64_t amused_text_hash(const amused *p);
void amused_text_close(amused *p);

/* ---- pipe_amused_picture.c ---- */
bool amused_picture_size(amused *p);            /* the size when a picture is given and no size */
bool amused_picture_plan(amused *p);
bool amused_picture_begin(amused *p);           /* its tokens, some of them masked */

#endif
