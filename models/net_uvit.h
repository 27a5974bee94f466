#ifndef PENSTOCK_NET_UVIT_H
#define PENSTOCK_NET_UVIT_H

#include "compute/ops.h"
#include "import/json.h"

typedef struct uvit_config {
    int hidden, text_dim, pooled_dim, size_dim, sizes;      /* sizes: how many micro-conditions; size_dim: the sinusoid of one */
    int vocabulary, codes, in_channels, channels, blocks, block_heads, layers, heads, inner, sample_size;
    float eps;
    bool bias, gains;           /* of all layers; of the norms */
    bool resamples;             /* the transformer works on half as many rows and columns of tokens */
} uvit_config;

bool uvit_config_read(uvit_config *c, const json *j, const char *name, status *st);
extern const name_alias uvit_aliases[];

typedef struct uvit_inputs {
    int images, height, width;  /* of the tokens */
    bool guided;                /* the batch is 2 * images, the unconditional half first */
    float guidance;
    int text_tokens;
    const int32_t *ids;         /* [batch, height, width] */
    const float *text;          /* [batch, text_tokens, text_dim] */
    const float *pooled;        /* [batch, pooled_dim] */
    const float *sizes;         /* [batch, sizes] */
    bool in_order;
    row_fn each;                /* gets the guided logits [codes] of every token, counted over [images, height, width] */
    void *ctx;
} uvit_inputs;

void uvit_predict(run *r, const uvit_config *c, const uvit_inputs *in);
void uvit_record(run *r, const void *config);

#endif
