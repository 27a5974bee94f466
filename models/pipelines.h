/* pipelines.h: the table of pipelines, by the class that model_index.json names. */
#ifndef PENSTOCK_PIPELINES_H
#define PENSTOCK_PIPELINES_H

#include "models/pipeline.h"

typedef struct pipeline_row {
    const char *name;
    bool (*generate)(const source *, const request *, result *, status *);
    bool (*encode)(const source *, const request *, trace *, result *, status *);
    bool (*decode)(const source *, const request *, const float *, const int64_t[4], result *, status *);
    bool (*plan)(const source *, const request *, result *, status *);
    bool many;    /* takes requests with several items */
} pipeline_row;

extern const pipeline_row pipeline_pixart_alpha, pipeline_pixart_sigma, pipeline_t5, pipeline_clip, pipeline_ldmbert, pipeline_vae;
extern const pipeline_row pipeline_amused, pipeline_muse;
extern const pipeline_row pipeline_kandinsky3;
extern const pipeline_row pipeline_cascade;
extern const pipeline_row pipeline_sd, pipeline_sd_lcm, pipeline_sd_ldm, pipeline_sd_xl;

#endif
