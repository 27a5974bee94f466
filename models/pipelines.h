/* pipelines.h: the table of pipelines, by the class that model_index.json names.
 *
 * A pipeline is a row of functions on a structure of its own, of which it is asked one of four things (pipelines.c):
 *
 *     generate    plan, describe, denoise, finish
 *     plan        plan, describe
 *     encode      plan_text, encode
 *     decode      decode
 *
 * with `close` at the end of each, whatever became of it. Memory comes zeroed, with its engine open. What returns bool is false with st set. */
#ifndef PENSTOCK_PIPELINES_H
#define PENSTOCK_PIPELINES_H

#include "models/stage.h"

/* What a pipeline takes besides text: an option of a kind that it does not take is refused. */
enum {
    TAKES_PICTURES = 1 << 0,       /* and masks, or it says itself why not */
    TAKES_TEMPERATURE = 1 << 1,
    TAKES_STAGES = 1 << 2,
    TAKES_NULL_EMBEDDING = 1 << 3,
    TAKES_REFINERS = 1 << 4,
    TAKES_RESCALING = 1 << 5,      /* of guidance */
    TAKES_TINY = 1 << 6,           /* an AutoencoderTiny in place of its decoder */
    TAKES_CLIP_SKIP = 1 << 7,
    TAKES_LENGTHS = 1 << 8         /* of prompts */
};

typedef struct pipeline_row {
    const char *name;
    const char *alone;          /* of a component that makes no pictures by itself: what it is, and the commands that take it; NULL */
    unsigned takes;
    bool many;                  /* takes requests with several items */
    const void *kind;           /* which of its variants this row is: handed to those that come first */
    size_t bytes;               /* of its structure, whose first member is an engine */
    /* Configs, sizes, schedule, prompts; then every stage, also behind one that was refused for the budget, so that the least that is named is enough for all.
     * planning: nothing will be run, a picture that is needed may be missing. */
    bool (*plan)(void *p, const void *kind, bool planning);
    int (*describe)(const void *p);     /* fills in what the plan says of the run (report_settings); returns the denoiser's evaluations */
    bool (*denoise)(void *p);           /* text, and noise to latents; fills seconds_encode and seconds_denoise */
    bool (*finish)(void *p);            /* latents to result.rgb */
    bool (*plan_text)(void *p, const void *kind); /* the encoders alone */
    bool (*encode)(void *p, trace *to, bool run); /* runs them, unless they are only planned; `to` NULL: the store and the cache alone want them */
    bool (*decode)(void *p, const void *kind, const float *latents, const int64_t shape[4]); /* to result.rgb */
    void (*close)(void *p);
} pipeline_row;

extern const pipeline_row pipeline_pixart_alpha, pipeline_pixart_sigma, pipeline_t5, pipeline_clip, pipeline_ldmbert, pipeline_vae;
extern const pipeline_row pipeline_amused, pipeline_muse;
extern const pipeline_row pipeline_kandinsky3;
extern const pipeline_row pipeline_cascade;
extern const pipeline_row pipeline_sd, pipeline_sd_lcm, pipeline_sd_ldm, pipeline_sd_xl;

#endif
