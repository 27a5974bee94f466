/* text_clip.h: CLIP as a text encoder of a pipeline: a text_stage whose prompts are all padded to the same length. */
#ifndef PENSTOCK_TEXT_CLIP_H
#define PENSTOCK_TEXT_CLIP_H

#include "models/net_clip.h"
#include "models/pipe_common.h"
#include "models/text_stage.h"

typedef struct clip_use {   /* what a pipeline wants of it */
    int skip;               /* hidden: of layer `layers - skip` */
    bool norm;              /* the final norm on hidden */
    bool pooled;
} clip_use;

typedef struct clip_text {
    clip_config config;
    clip_use use;
    text_stage text;
    int32_t *pooled_at;     /* [texts of a pass] */
} clip_text;

/* Tokenize and plan; then text_stage_run, _trace; clip_text_close. texts: `count` of them, unconditional first; tokenizer_folder: "tokenizer". Made-up ids where the request
 * says so, or where there is nothing to read (plans of dimensions). */
bool clip_text_plan(clip_text *t, engine *e, const char *component, const char *tokenizer_folder, const char *const *texts, int count, clip_use use);
void clip_text_close(clip_text *t);

#endif
