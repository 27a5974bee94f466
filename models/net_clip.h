#ifndef PENSTOCK_NET_CLIP_H
#define PENSTOCK_NET_CLIP_H

#include "compute/ops.h"
#include "import/json.h"

typedef struct clip_config {
    int width, inner, layers, heads, positions, vocabulary;
    int projection;             /* width of the projected pooled output; 0: a model without text_projection */
    int eos;                    /* eos_token_id; 2 stands for "the largest id", see clip_pooled_at */
    float eps;
    activation act;
} clip_config;

/* projection is read for a CLIPTextModelWithProjection (by `architectures`) and a whole CLIPModel; a pipeline whose class differs from its encoder's file may set it to 0. */
bool clip_config_read(clip_config *c, const json *j, const char *name, status *st);
extern const name_alias clip_aliases[];

typedef struct clip_inputs {
    const int32_t *ids;         /* [batch, tokens]: padded, tokens <= positions */
    int batch, tokens;
    bool want_hidden, want_pooled;
    int skip;                   /* hidden: the output of layer `layers - skip`; 0 the last, 1 the last but one (A1111's clip skip 2) */
    bool norm;                  /* final_layer_norm on hidden */
    int poolings;               /* of want_pooled: one an item, or fewer where a prompt has several items */
    const int32_t *pooled_at;   /* [poolings]: item * tokens + clip_pooled_at of it */
    float *hidden;              /* result: [batch, tokens, width] */
    float *pooled;              /* result: [poolings, projection], or [poolings, width] where projection is 0; always after all layers and the final norm */
} clip_inputs;

void clip_encode(run *r, const clip_config *c, const clip_inputs *in);
void clip_record(run *r, const void *config);

/* Which token of a padded prompt the pooled output is taken from: the first eos, or the largest id in configs that say eos is 2. */
int32_t clip_pooled_at(const clip_config *c, const int32_t *ids, int tokens);

static inline int clip_pooled_width(const clip_config *c) { return c->projection ? c->projection : c->width; }

#endif
