#ifndef PENSTOCK_NET_MASKGIT_H
#define PENSTOCK_NET_MASKGIT_H

#include "compute/ops.h"
#include "import/json.h"

typedef struct maskgit_config {
    int hidden, text_dim, vocabulary, codes, outputs, heads, layers, inner, positions, tokens; /* tokens: of a picture */
    float eps;
    bool bias, layer_norms;     /* layer_norms: else RMS norms, but before the feed-forward */
    bool normformer;            /* a norm behind each attention and inside the feed-forward */
    bool projected, last_norm, mlm, mlm_norm;
} maskgit_config;

bool maskgit_config_read(maskgit_config *c, const json *j, const char *name, status *st);
extern const name_alias maskgit_aliases[];

typedef struct maskgit_inputs {
    int images, tokens, text_tokens;
    bool guided;                /* the batch is 2 * images, the unconditional half first */
    float guidance;
    const int32_t *ids;         /* [batch, tokens] */
    const float *text;          /* [batch, text_tokens, text_dim] */
    bool in_order;
    row_fn each;                /* gets the guided logits of every token, counted over [images, tokens]; the first `codes` are a picture's */
    void *ctx;
} maskgit_inputs;

void maskgit_predict(run *r, const maskgit_config *c, const maskgit_inputs *in);
void maskgit_record(run *r, const void *config);

#endif
