#ifndef PENSTOCK_NET_LDMBERT_H
#define PENSTOCK_NET_LDMBERT_H

#include "compute/ops.h"
#include "import/json.h"

typedef struct ldmbert_config {
    int width, inner, layers, heads, head_dim, positions, vocabulary;
    activation act;
} ldmbert_config;

bool ldmbert_config_read(ldmbert_config *c, const json *j, const char *name, status *st);
extern const name_alias ldmbert_aliases[];

/* ids [batch, tokens], padded -> [batch, tokens, width] */
tensor ldmbert_encode(run *r, const ldmbert_config *c, const int32_t *ids, int batch, int tokens);
void ldmbert_record(run *r, const void *config);

#endif
