/* pipe_request.h: what pipelines check in a request, or choose where it says nothing: the same rules, and the same sentences. What returns bool (or a pointer,
 * or a count) is false (NULL, 0) with st set. */
#ifndef PENSTOCK_PIPE_REQUEST_H
#define PENSTOCK_PIPE_REQUEST_H

#include "models/pipeline.h"
#include "models/prompt_set.h"
#include "sampling/sampler.h"

enum { MOST_IMAGES = 64 };  /* of a run */

/* ---- sizes ---- */
bool size_in_range(int width, int height, status *st);
/* Are both multiples of `unit`? The sentence names the nearest that are. */
bool size_divides(int width, int height, int unit, status *st);

/* ---- a picture to begin with ---- */
/* A mask belongs to a picture, and a picture stands where latents would. */
bool begins_once(const request *q, status *st);
size_t given_bytes(const request *q);                   /* of the picture and the mask */
uint64_t given_hash(uint64_t h, const request *q);      /* h, and their pixels */

/* ---- prompts ---- */
/* The prompts of at most MOST_IMAGES pictures. */
bool open_prompts(prompt_set *p, const request *q, prompt_guidance guidance, status *st);
/* What `encode` wants: the prompts, and the negative ones that were given. */
bool open_prompts_alone(prompt_set *p, const request *q, status *st);
int prompt_length(const request *q, int own, status *st);   /* tokens; own: the pipeline's default */
/* Does --embeddings bring an unconditional half of the tensor `name`? False as well, with st set, where the file cannot be read. */
bool negative_given(const request *q, const char *name, status *st);

/* ---- the schedule ---- */
/* Of the model's scheduler; own_steps: the pipeline's default; forced: what its class overrules in the config, NULL: nothing. learned: the network
 * makes variances for samplers that want them. */
sampler *open_sampler(const source *src, const request *q, int own_steps, const char *forced, bool learned, status *st);

/* ---- the report ---- */
void report_settings(result *out, const sampler *s, double guidance, int width, int height);

#endif
