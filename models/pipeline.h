/* pipeline.h: from a request to pictures. A pipeline is a row of pipelines.c (class name in model_index.json -> functions). */
#ifndef PENSTOCK_PIPELINE_H
#define PENSTOCK_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "image/pixmap.h"
#include "compute/plan_time.h"
#include "weights/source.h"

typedef enum precision { PRECISION_AUTO, PRECISION_F32 } precision;

typedef struct embedding_store embedding_store; /* models/embeddings.h */
typedef struct input_moments input_moments; /* weights/moments.h */
typedef struct trace trace; /* src/base/trace.h: a safetensors file being collected, NULL: none */

/* Progress, called from the thread that runs the pipeline: stage "load", "encode", "denoise", "decode"; done of total (total 0: unknown). */
typedef void (*progress_fn)(void *ctx, const char *stage, int done, int total);

typedef struct request_item {      /* one of several prompts that are made together and share everything else */
    const char *prompt, *negative_prompt;
    uint64_t seed;
    int batch_count;
} request_item;

/* A small picture of how far an image is after `step` steps of a stage (of several: "stage2", "refiner"; else ""); rgb lives as long as the call. False with
 * st set ends the run. */
typedef bool (*preview_fn)(void *ctx, const char *stage, int image, int step, const uint8_t *rgb, int width, int height, status *st);

typedef struct request {
    const request_item *item;      /* in place of prompt, negative_prompt, seed and batch_count; their pictures follow each other in the result */
    int items;                     /* 0: none. More than one only where pipeline_takes_many */
    const char *prompt;
    const char *negative_prompt;   /* NULL: none was given; "": an empty one */
    int width, height;             /* 0: the model's own */
    int steps;                     /* 0: the pipeline's default */
    double guidance_scale;         /* NaN: the pipeline's default */
    const char *sampling_method;   /* NULL: the model's scheduler */
    const char *scheduler;         /* "karras"; NULL: as the model's scheduler says */
    uint64_t seed;
    int batch_count;               /* >= 1 */
    int max_sequence_length;       /* 0: the pipeline's default */
    int tokens;                    /* > 0: that many arbitrary token ids instead of the prompt (encode, plan) */
    int clip_skip;                 /* 0: the pipeline's own; 1: CLIP's last layer, 2: the last but one */
    bool null_embedding;           /* Kandinsky 3: guide away from the checkpoint's learned null embedding, as the original does */
    double guidance_rescale;       /* 0: none (Lin et al. 2023) */
    const pixmap *init, *mask;    /* a picture to begin with; what to paint anew in it (white); NULL: none */
    bool temperature_given;        /* else it is the pipeline's default */
    double temperature;            /* of models that draw tokens; 0: always the likeliest */
    double strength;               /* how much of the schedule the picture goes through; NaN: the pipeline's default */
    const source *refiner;         /* a second model for the last part of the denoising; NULL: none */
    double refiner_start;          /* where it takes over, 0..1 */
    const source *const *cascade;  /* further stages that enlarge the picture, behind those that the model has itself */
    int cascades;
    const source *tiny;            /* an AutoencoderTiny that decodes in place of the model's decoder; NULL: none */
    bool tiny_previews_only;       /* it makes the previews alone */
    int preview_every;             /* steps; 0: no previews */
    preview_fn preview;
    void *preview_ctx;
    precision precision;
    const char *kernels;           /* --cpu, NULL: the best */
    int threads;                   /* 0: all */
    uint64_t budget_bytes;         /* 0: no budget, files are mapped */
    const char *scratch;
    trace *trace;
    trace *last_latents;           /* gets `latents`, as they are decoded, and `step`; NULL: not wanted */
    const char *embeddings;        /* a file of `encode -o` that stands in for the text encoders, NULL: none */
    bool cache;                    /* prompts' embeddings may come from the user's cache, and go there */
    embedding_store *store;        /* and from here, NULL: nowhere */
    const char *load_latents;      /* a file of latents to go on from, NULL: noise */
    const char *checkpoint;        /* a file that holds the state after each step; where it is there the run goes on from it */
    input_moments *moments;              /* gets what passes through the matrices, for `quantize --calibrate`; NULL: not wanted */
    int rehearsals;                /* bench: how often each pass is run before the one that counts */
    bool imagine;                  /* plan: as if the model had no weights, only configs */
    weight_type imagined_as;       /* what weights that are not there would be */
    const machine_rates *rates;    /* plan: to predict how long the stages take; NULL: nobody wants to know */
    progress_fn progress;
    void *progress_ctx;
} request;

/* A model's parameters as the field quotes them: what understands the text, what makes the picture, what turns latents or tokens into pixels. */
typedef enum network_role { ROLE_ENCODER, ROLE_DENOISER, ROLE_DECODER, ROLE_OTHER, ROLE_COUNT } network_role;

typedef struct stage_report {      /* one row of `plan`, and of a run's report */
    char name[32];                 /* "text_encoder", "transformer", "vae" */
    uint64_t resident_bytes;       /* weights held for the stage: pins, vectors */
    uint64_t ring_bytes;           /* weights in flight */
    uint64_t arena_bytes;          /* activations and kernels' scratch */
    uint64_t scratch_bytes;        /* the scratch file, for maps that the arena has no room for */
    uint64_t stream_bytes;         /* weights read, all passes together */
    uint64_t operations;           /* all passes together */
    uint64_t integer_operations;   /* of these: products of quantized activations and weights */
    int passes;
    int slab_rows;                 /* 0: whole */
    double seconds;                /* measured, or predicted by plan */
    double pass_seconds, pass_processor_seconds; /* of the last pass; processor: of the threads that compute */
    uint64_t parameters;
    network_role role;             /* of the component's network */
} stage_report;

typedef struct result {
    int images, width, height;
    uint8_t *rgb;                  /* [images, height, width, 3]; result_free releases it */
    uint64_t seed;
    double guidance_scale;
    char sampler[32];              /* name for the `parameters` text: "dpm++2m" */
    int steps, evaluations;        /* evaluations: of this process */
    int first_call;                /* > 0: the run went on from a checkpoint or from latents */
    double seconds_load, seconds_encode, seconds_denoise, seconds_decode, seconds_total;
    uint64_t bytes_read, scratch_bytes;
    uint64_t predicted_peak;       /* the plan's */
    uint64_t text_bytes;           /* of the prompts' embeddings */
    int prompts_found;             /* how many prompts' embeddings were not computed: cached, or given */
    int tokens_cut;                /* > 0: the prompt lost that many tokens */
    int item_cut[64];              /* the same of each of the request's items, as far as they go */
    stage_report stage[16];
    int stages;
} result;

/* All of these return false with st set. The source stays the caller's. */
bool pipeline_generate(const source *src, const request *q, result *out, status *st);
/* out NULL: the embeddings are wanted in the request's store and cache alone; without these as well it is a plan. */
bool pipeline_encode(const source *src, const request *q, trace *out, result *report, status *st);
/* Latents [batch, channels, h, w] (as a decoder gets them from `generate`: before division by the scaling factor) to pictures; or tokens
 * [batch, h, w], whose shape has 0 channels. */
bool pipeline_decode(const source *src, const request *q, const float *latents, const int64_t shape[4], result *out, status *st);
/* What a run would need; nothing is read but headers. stage[].seconds are predictions, where the request has rates. */
bool pipeline_plan(const source *src, const request *q, result *out, status *st);
/* For the quantizer: the order of use of every component's weights (at the model's own size). plans: room for 16; plan.stage is
 * the component's name. With a source without weights (configs only) every weight comes out of the configs alone: see
 * run.h, `imagined` weights. */
int pipeline_record(const source *src, plan *plans, int room, status *st);
/* Does the model's pipeline run several prompts at once? */
bool pipeline_takes_many(const source *src, status *st);
void result_free(result *r);

#endif
