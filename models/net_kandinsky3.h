#ifndef PENSTOCK_NET_KANDINSKY3_H
#define PENSTOCK_NET_KANDINSKY3_H

#include "compute/ops.h"
#include "import/json.h"

enum { KANDINSKY3_LEVELS = 4 };

typedef struct kandinsky3_config {
    int in_channels, time_dim, groups, head_dim, layers, levels, cross_dim, text_dim;
    int channels[KANDINSKY3_LEVELS + 1]; /* what goes into the first level, then what comes out of each */
} kandinsky3_config;

bool kandinsky3_config_read(kandinsky3_config *c, const json *j, const char *name, status *st);
extern const name_alias kandinsky3_aliases[];
extern const char kandinsky3_null[]; /* the name of the learned null embedding [cross_dim], which few checkpoints hold */

typedef struct kandinsky3_inputs {
    const float *latents;       /* [batch, in_channels, height, width] */
    int batch, height, width;   /* of the latents: multiples of kandinsky3_unit */
    const float *text;          /* [batch, tokens, text_dim]: what a mask hides is zeros */
    int tokens;
    const int32_t *lengths;     /* [batch]: rows of each item, hidden ones included; the mean is taken of so many */
    segments seen;              /* of each item the rows that no mask hides */
    const int32_t *original;    /* [batch]: what is hidden is hidden as in the original: rows from here on are zeros once they are projected, and an item
                                   without any begins with the learned null embedding; NULL: as in diffusers */
    bool null_embedding;        /* whether `original` is there; in PLAN it may be NULL */
    const float *timesteps;     /* [batch] */
    float *noise;               /* result: [batch, in_channels, height, width] */
} kandinsky3_inputs;

void kandinsky3_denoise(run *r, const kandinsky3_config *c, const kandinsky3_inputs *in);
void kandinsky3_record(run *r, const void *config); /* for networks.c */

static inline int kandinsky3_unit(const kandinsky3_config *c) { return 1 << (c->levels - 1); }

#endif
