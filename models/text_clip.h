/* text_clip.h: CLIP as a text encoder of a pipeline: a text_stage whose prompts are all of the same length, in chunks of 77 tokens, and may have weights
 * (text/prompt_weights.h). */
#ifndef PENSTOCK_TEXT_CLIP_H
#define PENSTOCK_TEXT_CLIP_H

#include "models/net_clip.h"
#include "models/net_ldmbert.h"
#include "models/pipe_common.h"
#include "models/text_stage.h"

typedef struct clip_use {   /* what a pipeline wants of it */
    int skip;               /* hidden: of layer `layers - skip` */
    bool norm;              /* the final norm on hidden */
    bool pooled;            /* of the first chunk */
    bool ldmbert;           /* it is not CLIP at all, but what came before it: an LDMBertModel, whose prompts have no weights */
    const char *const *beside; /* texts of another stage that go through the denoiser with these: all become as long as the longest */
    int beside_count;
} clip_use;

typedef struct clip_text {
    clip_config config;     /* of an LDMBertModel: width, layers, positions, vocabulary */
    ldmbert_config bert;
    clip_use use;
    text_stage text;
    int tokens;             /* of a chunk */
    int32_t *pooled_at;     /* [texts of a pass] */
    float *weight;          /* of every token; NULL: all are 1 */
} clip_text;

/* Tokenize and plan; then clip_text_run, text_stage_trace; clip_text_close. texts: `count` of them, unconditional first; tokenizer_folder: "tokenizer". Made-up ids where the request
 * says so, or where there is nothing to read (plans of dimensions). */
bool clip_text_plan(clip_text *t, engine *e, const char *component, const char *tokenizer_folder, const char *const *texts, int count, clip_use use);
bool clip_text_run(clip_text *t);   /* and weigh */
uint64_t clip_text_hash(const clip_text *t); /* text_stage_hash, and of the weights */
void clip_text_close(clip_text *t);

#endif
