#ifndef PENSTOCK_NET_T5_H
#define PENSTOCK_NET_T5_H

#include "compute/ops.h"
#include "import/json.h"

typedef struct t5_config {
    int d_model, d_kv, d_ff, layers, heads, buckets, max_distance, vocabulary;
    float eps;
    activation act;
    bool gated;
} t5_config;

bool t5_config_read(t5_config *c, const json *j, const char *name, status *st);
extern const name_alias t5_aliases[];

/* ids: the tokens of all prompts one behind the other, cut by `s`. -> [1, s->start[s->count], d_model] */
tensor t5_encode(run *r, const t5_config *c, const int32_t *ids, const segments *s);
void t5_record(run *r, const void *config); /* for networks.c */

#endif
