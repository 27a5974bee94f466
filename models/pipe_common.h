/* pipe_common.h: what pipelines share besides networks: reading configs, T5, noise. What they ask of a request is in pipe_request.h, latents to pictures in
 * pipe_picture.h. */
#ifndef PENSTOCK_PIPE_COMMON_H
#define PENSTOCK_PIPE_COMMON_H

#include "base/rng.h"
#include "base/trace.h"
#include "import/json.h"
#include "models/net_t5.h"
#include "models/stage.h"
#include "models/text_stage.h"
#include "text/tokenizer.h"

double now_seconds(void);
void report_progress(const request *q, const char *what, int done, int total);

enum { FILE_NAME_BYTES = 768 };
/* COMPONENT/config.json (or config.json of a bare folder), parsed. name: room for the file's name, for sentences. */
json *read_config(const source *src, const char *component, const char *file, char name[FILE_NAME_BYTES], status *st);

/* ---- prompts ---- */
typedef struct t5_text {    /* T5 as a text encoder of a pipeline */
    t5_config config;
    bool padded;            /* to be set before planning: every prompt fills all tokens, and the padding goes through the denoiser */
    bool seen;              /* likewise, with `padded`: the encoder does not hide the padding from itself either */
    text_stage text;
} t5_text;

/* Tokenize (lower-cased and stripped when `clean`) and plan. texts: `count` of them, unconditional first (made-up tokens: one for
 * an empty text). Then text_stage_run, _trace, _close. */
bool t5_text_plan(t5_text *t, engine *e, const char *component, const char *tokenizer_folder, const char *const *texts, int count, int most, bool clean);

/* ---- noise: every image draws from a generator of its own ---- */
typedef struct noise_source {
    rng *image;        /* [images] */
    int images;
    size_t per_image;
} noise_source;
bool noise_open(noise_source *n, const uint64_t *seed, int images, size_t per_image, status *st);
void noise_close(noise_source *n);
void noise_draw(void *ctx, float *out, size_t count); /* a sampler_noise */

#endif
