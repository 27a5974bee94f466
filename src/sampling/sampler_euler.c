/* sampler_euler.c: Euler's method over sigmas, plain and ancestral.
 *
 * Paper: Karras et al. 2022 (2206.00364), algorithm 2 without churn; ancestral: k-diffusion's sample_euler_ancestral.
 * Reference: diffusers/schedulers/scheduling_euler_discrete.py, scheduling_euler_ancestral_discrete.py.
 * Pitfalls: the sample is x = x0 + sigma noise, scaled down for the model; timesteps are fractional (linspace, karras),
 * never rounded; the ancestral one draws at the last step too, where the noise is multiplied by 0. */
#include <math.h>

#include "sampling/sampler_impl.h"

static void euler_step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    (void)noise;
    float sigma = s->sigmas[call];
    float dt = s->sigmas[call + 1] - sigma;
    for (size_t i = 0; i < s->n; i++) {
        float x0 = sigma_x0(s, sigma, model_output[i], x[i]);
        float derivative = (x[i] - x0) / sigma;
        x[i] = x[i] + derivative * dt;
    }
}

static void ancestral_step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    float from = s->sigmas[call], to = s->sigmas[call + 1];
    float from2 = from * from, to2 = to * to;
    float up = sqrtf(to2 * (from2 - to2) / from2);
    float down = sqrtf(to2 - up * up);
    float dt = down - from;
    for (size_t i = 0; i < s->n; i++) {
        float x0 = sigma_x0(s, from, model_output[i], x[i]);
        float derivative = (x[i] - x0) / from;
        x[i] = x[i] + derivative * dt;
        x[i] = x[i] + noise[i] * up;
    }
}

static bool plan(sampler *s, status *st) { return schedule_alphas(s, true, st) && schedule_sigmas_euler(s, st); }
static int slots(const sampler *s) { return (void)s, 0; }
static bool always(const sampler *s, int call) { return (void)s, (void)call, true; }

const sampler_ops sampler_ops_euler = {
    .class_bit = CLASS_EULER,
    .plan = plan,
    .step = euler_step,
    .slots = slots,
    .level = LEVEL_SIGMAS_EDM,
    .calls_per_step = 1,
};

const sampler_ops sampler_ops_euler_a = {
    .class_bit = CLASS_EULER_A,
    .plan = plan,
    .step = ancestral_step,
    .slots = slots,
    .draws = always,
    .level = LEVEL_SIGMAS_EDM,
    .calls_per_step = 1,
};
