/* sampler.h: the samplers (diffusers: "schedulers"). A sampler turns the model's outputs, call by call, into the next
 * sample, and is to do it number for number as the diffusers class of the same row of the table does.
 *
 *     sampler *s = sampler_open(json, length, method, schedule, steps, st);
 *     rng_normal(...x...); scale x by sampler_init_noise_sigma(s);
 *     for (int call = 0; call < sampler_calls(s); call++) {
 *         sampler_scale_input(s, call, x, in, n);
 *         model(in, sampler_timestep(s, call)) -> out;                (guidance, then the first half of learned variance)
 *         sampler_step(s, call, out, x, images, per_image, noise, ctx, st);
 *     }
 *     sampler_close(s);
 *
 * Samples are [images, per_image] floats; the order inside an image does not matter (channels first or last), as long as
 * it is the same in x, model_output and noise. All arithmetic is in float with torch's roundings. */
#ifndef PENSTOCK_SAMPLER_H
#define PENSTOCK_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct sampler sampler;

/* One row per --sampling-method. Several methods may share a class; a class named in a file opens as its first row. */
typedef struct sampler_row {
    const char *method;     /* "dpm++2m" */
    const char *class_name; /* "DPMSolverMultistepScheduler" */
    const char *about;      /* one line for --help */
    const struct sampler_ops *ops;
} sampler_row;

extern const sampler_row sampler_table[]; /* ends with a row whose method is NULL */

/* config_json: the text of scheduler_config.json, length bytes, not kept; NULL: the class's defaults.
 * method: a --sampling-method, or NULL for the class that the config names (dpm++2m if it names none).
 *     Another class than the file's takes the file's values that it knows, as OtherScheduler.from_config does.
 * schedule: a --scheduler, or NULL for what the config says:
 *     karras, exponential, beta, lu: spacing of the sigmas (use_karras_sigmas = true, ...);
 *     linspace, leading, trailing: timestep_spacing; simple, sgm_uniform: trailing (diffusers' own translation);
 *     discrete, normal: none of karras, exponential, beta, lu;
 *     of DDPM also a list of timesteps, by name (smart50, ...: timestep_lists.c) or typed (999,500,0): then steps is its length.
 * steps: diffusers' num_inference_steps, at least 1.
 * NULL with st set: STATUS_USAGE for method, schedule and steps, STATUS_BAD_FILE for the config. */
sampler *sampler_open(const char *config_json, size_t length, const char *method, const char *schedule, int steps,
                      status *st);

/* The same with values that a pipeline forces upon its scheduler whatever the file says: a JSON object, or NULL. The
 * StableDiffusion pipelines force {"steps_offset": 1, "clip_sample": false}. As in diffusers, a class other than the
 * file's sees a forced value only if the file has that key. */
sampler *sampler_open_forced(const char *config_json, size_t length, const char *method, const char *schedule, int steps,
                             const char *forced, status *st);
void sampler_close(sampler *s); /* NULL is fine */

const sampler_row *sampler_about(const sampler *s);
int sampler_steps(const sampler *s);                    /* as asked for */
int sampler_calls(const sampler *s);                    /* how often the model is evaluated (PNDM steps + 1, Heun 2 steps - 1) */
double sampler_timestep(const sampler *s, int call);    /* what the model is given; may be fractional */
float sampler_init_noise_sigma(const sampler *s);       /* the first noise is multiplied with it */
bool sampler_wants_variance(const sampler *s);          /* see sampler_step */
bool sampler_draws_noise(const sampler *s, int call);   /* does this call draw? */

/* eta of DDIM and TCD (0 unless set, as the pipelines do; 0 draws no noise). Set it before the first step. */
void sampler_set_eta(sampler *s, double eta);

/* out = x as the model wants it at this call; n floats, out may be x. */
void sampler_scale_input(const sampler *s, int call, const float *x, float *out, size_t n);

/* Draws n standard normals for the whole batch, image by image. */
typedef void (*sampler_noise)(void *ctx, float *out, size_t n);

/* One call: x [images, per_image] is the sample going in and the previous (less noisy) sample coming out.
 * model_output is [images, per_image]; where sampler_wants_variance (DDPM with a learned variance) it is
 * [2, images, per_image], the prediction of the whole batch first, then the variance of the whole batch.
 * Calls go up one by one from 0 or from what sampler_begin_at returned; starting there again starts a new trajectory.
 * Memory for earlier outputs is allocated at the first step and again only for a larger batch; that, or a call out of
 * order, is the only failure. noise may be NULL where no call draws. */
bool sampler_step(sampler *s, int call, const float *model_output, float *x, size_t images, size_t per_image,
                  sampler_noise noise, void *ctx, status *st);

/* What the model takes the picture behind x to be at this call, for onlookers: neither clipped nor thresholded. n floats. */
void sampler_x0(const sampler *s, int call, const float *model_output, const float *x, float *out, size_t n);

/* img2img. strength 0..1: the call to begin with, as the pipelines' get_timesteps: sampler_calls if nothing is left to
 * do (strength * steps < 1). Resets the trajectory. */
int sampler_begin_at(sampler *s, double strength);

/* The same for LCM's own image-to-image: all steps, over that share of the distilled timesteps. False: another method, or more steps than that share has. */
bool sampler_begin_distilled(sampler *s, double strength);

/* One model hands over to another after a share of the trained timesteps (diffusers' denoising_end and denoising_start): the call that the
 * second begins with (resets the trajectory), and the call before which the first stops. */
int sampler_begin_from(sampler *s, double share);
int sampler_end_at(const sampler *s, double share);

/* out = the picture with the noise of this call put on it (add_noise); call == sampler_calls gives the end of the
 * schedule (for inpainting). n floats; out may be either input. */
void sampler_add_noise(const sampler *s, int call, const float *original, const float *noise, float *out, size_t n);

/* The same for a trained timestep, whether or not the schedule touches it; false when there is none of that number. */
bool sampler_add_noise_at(const sampler *s, int timestep, const float *original, const float *noise, float *out, size_t n);

/* Calls will go up from this one, without the memory of earlier ones; false where a step's calls belong together (Heun) and it
 * lies between them. */
bool sampler_begin_call(sampler *s, int call);

/* A trajectory that is put aside and taken up again, number for number: everything that the next call depends on besides x and the
 * source of noise goes through `visit`, in a fixed order, stretch by stretch. Restoring needs a sampler opened the same way
 * (sampler_identity is equal) and sets the next call to `call`; false with st set when visit fails or what it gave cannot be. */
typedef bool (*sampler_visit)(void *ctx, void *data, size_t bytes);
bool sampler_save(const sampler *s, sampler_visit visit, void *ctx);
bool sampler_restore(sampler *s, int call, size_t images, size_t per_image, sampler_visit visit, void *ctx, status *st);
/* Differs where method, schedule or steps do. */
uint64_t sampler_identity(const sampler *s);

/* Bytes that sampler_step will allocate for a batch of n floats in all: for the plan. */
size_t sampler_state_bytes(const sampler *s, size_t images, size_t per_image);

#endif
