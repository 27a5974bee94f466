/* sampler_lcm.c: samplers of models distilled to a few steps, LCM and TCD.
 *
 * Papers: Luo et al. 2023, "Latent Consistency Models" (2310.04378); Zheng et al. 2024, "Trajectory Consistency
 * Distillation" (2402.19159). Reference: diffusers/schedulers/scheduling_lcm.py, scheduling_tcd.py.
 * Pitfalls: timesteps are a subset of the original_inference_steps (50) of the distillation, whatever timestep_spacing
 * says; noise at every step but the last; TCD draws none while eta is 0, the pipelines' default. */
#include <math.h>

#include "sampling/sampler_impl.h"

static bool draws_but_last(const sampler *s, int call) { return call != s->steps - 1; }
static int slots(const sampler *s) { return (void)s, 2; }

static bool plan(sampler *s, status *st)
{
    s->init_noise_sigma = 1;
    return schedule_alphas(s, false, st) && schedule_distilled(s, st);
}

static void lcm_step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    int t = (int)s->timesteps[call], before = call + 1 < s->calls ? (int)s->timesteps[call + 1] : t;
    float a_before = schedule_alpha(s, before);
    float *x0 = s->slot[0];
    discrete_x0(s, schedule_alpha(s, t), model_output, x, x0);

    const float sigma_data = 0.5f;
    float scaled = (float)t * (float)s->config.timestep_scaling;
    float below = scaled * scaled + sigma_data * sigma_data;
    float skip = sigma_data * sigma_data / below, out = scaled / sqrtf(below);
    combine(x, out, x0, skip, x, s->n);
    if (noise)
        combine(x, sqrtf(a_before), x, sqrtf(1 - a_before), noise, s->n);
}

static bool tcd_draws(const sampler *s, int call) { return s->eta > 0 && draws_but_last(s, call); }

static void tcd_step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    int t = (int)s->timesteps[call], before = call + 1 < s->calls ? (int)s->timesteps[call + 1] : 0;
    int between = (int)floorf((float)(1 - s->eta) * (float)before);
    float a = schedule_alpha(s, t), a_before = schedule_alpha(s, before), a_between = schedule_alpha(s, between);
    float *x0 = s->slot[0], *epsilon = s->slot[1];
    discrete_x0(s, a, model_output, x, x0);
    discrete_epsilon(s, a, model_output, x, epsilon);
    combine(x, sqrtf(a_between), x0, sqrtf(1 - a_between), epsilon, s->n);
    if (noise)
        combine(x, sqrtf(a_before / a_between), x, sqrtf(1 - a_before / a_between), noise, s->n);
}

const sampler_ops sampler_ops_lcm = {
    .class_bit = CLASS_LCM,
    .plan = plan,
    .step = lcm_step,
    .slots = slots,
    .draws = draws_but_last,
    .level = LEVEL_ALPHAS,
    .calls_per_step = 1,
};

const sampler_ops sampler_ops_tcd = {
    .class_bit = CLASS_TCD,
    .plan = plan,
    .step = tcd_step,
    .slots = slots,
    .draws = tcd_draws,
    .level = LEVEL_ALPHAS,
    .calls_per_step = 1,
};
