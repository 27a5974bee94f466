/* resume.h: the sampler's loop as something that may end after any call and go on in another process, number for number.
 *
 *     trajectory t = {sampler, noise, latents, images, channels, height, width, prompt_hash, guidance};
 *     int first = trajectory_begin(&t, e);                 // noise, or --checkpoint, or --load-latents; -1 on error
 *     for (int call = first; call < sampler_calls(s); call++) {
 *         scale, denoise, guide, sampler_step;
 *         trajectory_after(&t, e, call);                   // --trace, --save-latents, --checkpoint
 *     }
 */
#ifndef PENSTOCK_RESUME_H
#define PENSTOCK_RESUME_H

#include "models/pipe_common.h"
#include "sampling/masked.h"
#include "sampling/sampler.h"

typedef struct stage_start {    /* of a further stage of a run, a cascade's second say: what it began from */
    int number;                 /* 2, 3, ... */
    uint64_t before;            /* of all that the stages before it are told: trajectory_hash, one into the next */
    const float *given;         /* [count] what they handed over, besides latents; with count 0 nothing */
    size_t count;
    const rng *generator;       /* [images] as they stood then; of count 0 none */
} stage_start;

typedef struct trajectory {     /* what the next call depends on, besides the weights */
    sampler *sampler;           /* NULL: of tokens, whose schedule is `masked` */
    noise_source *noise;        /* open, nothing drawn yet */
    float *latents;             /* [images, channels, height, width]; of tokens [images, height, width] */
    int images, channels, height, width;
    const masked_schedule *masked;
    int codes;                  /* logits of a token */
    uint64_t prompt;            /* of all that the denoiser is told and that is not named here: tokens, embeddings, further conditions */
    double guidance;
    /* zero for the whole way from noise: */
    bool begun;                 /* the latents stand already (a picture's, another model's), and their numbers are drawn */
    int first, end;             /* calls; end 0: all */
    const char *prefix;         /* of the traces' names; NULL: none */
    const stage_start *start;   /* NULL: the first, or only, stage */
    bool fresh;                 /* this stage has just been reached: the checkpoint that is there is of the one before */
    void (*settle)(void *ctx, int next); /* what a pipeline does to the latents behind a call: after the trace, before they are kept; or NULL */
    void *ctx;
} trajectory;

/* Fills the latents as they stand before call number n, and returns n; `end` when nothing is left but decoding; -1 with st set. Traces latents.<n>,
 * counted from `first`.
 * A checkpoint of another model, prompt, size, seed, sampler, guidance or precision is STATUS_BAD_FILE. */
int trajectory_begin(trajectory *t, engine *e);
/* Call number `call` has been made. The checkpoint appears whole or stays what it was. */
bool trajectory_after(trajectory *t, engine *e, int call);

/* The stage in which the request's checkpoint stands, of so many; 1 where there is none. 0 with st set. */
int checkpoint_stage(const engine *e, int stages);
/* What that stage, whose trajectory t is but for its prompt, began from. generator: room for its images. */
bool checkpoint_start(const trajectory *t, const engine *e, float *given, size_t count, rng *generator);
/* One number for all that a stage is told, and those before it (0: none are). */
uint64_t trajectory_hash(const trajectory *t, const engine *e, uint64_t before);

/* One number for a model's weights and files: of a container its header, with every checksum in it; of a folder the headers, sizes and times of its
 * files. 0 is a number like any other. */
uint64_t model_hash(const source *s);
/* Hashes go one into the next. */
uint64_t hash_more(uint64_t h, const void *data, size_t bytes);

#endif
