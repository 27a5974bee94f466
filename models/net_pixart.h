#ifndef PENSTOCK_NET_PIXART_H
#define PENSTOCK_NET_PIXART_H

#include "compute/ops.h"
#include "import/json.h"

typedef struct pixart_config {
    int heads, head_dim, in_channels, out_channels, layers, cross_dim, sample_size, patch, caption_channels;
    float eps, interpolation_scale;
    bool attention_bias, additional_conditions;
    activation act;
} pixart_config;

bool pixart_config_read(pixart_config *c, const json *j, const char *name, status *st);
extern const name_alias pixart_aliases[];

typedef struct pixart_inputs {
    const float *latents;       /* [batch, in_channels, height, width] */
    int batch, height, width;   /* of the latents */
    const float *text;          /* [1, tokens of all, caption_channels] */
    segments segments;          /* of the text, one a batch item */
    const float *timesteps;     /* [batch] */
    const float *resolution;    /* [batch * 2]: height, width of the picture */
    const float *aspect_ratio;  /* [batch] */
    float *noise;               /* result: [batch, out_channels, height, width] */
} pixart_inputs;

void pixart_denoise(run *r, const pixart_config *c, const pixart_inputs *in);
void pixart_record(run *r, const void *config); /* for networks.c */

#endif
