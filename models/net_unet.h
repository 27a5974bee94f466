#ifndef PENSTOCK_NET_UNET_H
#define PENSTOCK_NET_UNET_H

#include "compute/ops.h"
#include "import/json.h"

enum { UNET_LEVELS = 8, UNET_LAYERS = 8 };

typedef enum unet_class { UNET_CLASS_NONE, UNET_CLASS_TABLE, UNET_CLASS_TIMESTEP } unet_class;

typedef enum unet_text_norm { UNET_TEXT_PLAIN, UNET_TEXT_GROUP_NORM, UNET_TEXT_LAYER_NORM } unet_text_norm;
enum { UNET_TEXT_GROUPS = 32 };

typedef struct unet_level {
    int channels, heads, layers; /* heads: with simple blocks the channels of a head */
    bool down_attention, up_attention, only_cross;
    int down_depth[UNET_LAYERS], up_depth[UNET_LAYERS + 1]; /* transformer blocks of each layer's attention; up: of the up block at this level */
} unet_level;

typedef struct unet_config {
    int in_channels, out_channels, sample_size, levels, groups, cross_dim, time_dim;
    unet_level level[UNET_LEVELS];
    float eps, freq_shift;
    bool cos_first, scale_shift, middle_attention, middle;
    activation act;
    unet_class classes;
    int class_count;                /* UNET_CLASS_TABLE */
    int guidance_dim;               /* time_cond_proj_dim: LCM's embedding of the guidance; 0 none */
    bool text_time;                 /* SDXL: pooled text and sizes are added to the time */
    int size_dim, text_time_dim;    /* channels of one size's sinusoid; of pooled text and all sizes together */
    bool simple;                    /* the blocks of net_unet_simple.c, and what follows: */
    int text_dim, pool_heads;       /* of the text as unet_conditions gets it; of the attention that pools it */
    bool text_projection, text_pool, skip_time_act, middle_only_cross;
    unet_text_norm text_norm;
    activation time_act;            /* of the sum of all that is added to the time */
    float block_scale, middle_scale; /* what a block's sum is divided by */
} unet_config;

bool unet_config_read(unet_config *c, const json *j, const char *name, status *st);
extern const name_alias unet_aliases[];

typedef struct unet_inputs {
    const float *latents;       /* [batch, in_channels, height, width] */
    int batch, height, width;   /* of the latents */
    const float *text;          /* [batch, tokens, cross_dim]; with simple blocks as unet_conditions made it */
    int tokens;
    const float *timesteps;     /* [batch] */
    const float *guidance;      /* guidance_dim: [batch, guidance_dim] */
    const int32_t *classes;     /* UNET_CLASS_TABLE: [batch] */
    const float *class_steps;   /* UNET_CLASS_TIMESTEP: [batch] */
    const float *pooled;        /* text_time: [batch, pooled_dim] */
    const float *sizes;         /* text_time: [batch, sizes_count] */
    const float *added;         /* text_pool: [batch, time_dim], of unet_conditions */
    int pooled_dim, sizes_count;
    float *noise;               /* result: [batch, out_channels, height, width] */
} unet_inputs;

/* With simple blocks, what they get of the text is the same at every step, and is made once. */
typedef struct unet_condition_inputs {
    const float *raw;           /* [batch, tokens, text_dim] */
    int batch, tokens;
    float *text, *added;        /* results, for unet_inputs */
} unet_condition_inputs;

void unet_conditions(run *r, const unet_config *c, const unet_condition_inputs *in);
void unet_denoise(run *r, const unet_config *c, const unet_inputs *in);
void unet_record(run *r, const void *config); /* for networks.c */

#endif
