/* sampler_ddpm.c: ancestral sampling of the training chain.
 *
 * Papers: Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (2006.11239), formula 7; learned variance: Nichol and
 * Dhariwal 2021 (2102.09672), formula 15. Reference: diffusers/schedulers/scheduling_ddpm.py.
 * Pitfalls: the chain goes to the next timestep of the list (DDIM does not); timestep 0 draws no noise. */
#include <math.h>

#include "sampling/sampler_impl.h"

/* What the noise is multiplied with where it is the same for every element. */
static float deviation(int kind, float beta, float variance)
{
    switch (kind) {
    case VARIANCE_FIXED_SMALL_LOG:
        return exp_float(0.5f * log_float(variance));
    case VARIANCE_FIXED_LARGE:
        return sqrtf(beta);
    case VARIANCE_FIXED_LARGE_LOG:
        return sqrtf(log_float(beta)); /* NaN, as in diffusers */
    default:
        return sqrtf(variance);
    }
}

static void add_noise(sampler *s, const float *predicted, float beta, float variance, float *x, const float *noise)
{
    int kind = s->config.variance_type;
    float least = log_float(variance), most = log_float(beta);
    float fixed = deviation(kind, beta, variance);
    for (size_t i = 0; i < s->n; i++) {
        float scale = fixed;
        if (kind == VARIANCE_LEARNED)
            scale = sqrtf(predicted[i]);
        if (kind == VARIANCE_LEARNED_RANGE) {
            float part = (predicted[i] + 1) / 2;
            scale = exp_float(0.5f * (part * most + (1 - part) * least));
        }
        x[i] = x[i] + scale * noise[i];
    }
}

static void step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    float a = schedule_alpha(s, (int)s->timesteps[call]), a_before = 1;
    if (call + 1 < s->calls && s->timesteps[call + 1] >= 0)
        a_before = schedule_alpha(s, (int)s->timesteps[call + 1]);
    float beta = 1 - a / a_before;
    float *x0 = s->slot[0];
    discrete_x0(s, a, model_output, x, x0);
    float from_x0 = sqrtf(a_before) * beta / (1 - a);
    float from_x = sqrtf(a / a_before) * (1 - a_before) / (1 - a);
    combine(x, from_x0, x0, from_x, x, s->n);
    if (!noise)
        return;
    float variance = (1 - a_before) / (1 - a) * beta;
    add_noise(s, model_output + s->n, beta, variance < 1e-20f ? 1e-20f : variance, x, noise);
}

static bool plan(sampler *s, status *st)
{
    const sampler_config *c = &s->config;
    if (c->timestep_list)
        s->steps = c->timestep_list_count;
    if (!schedule_alphas(s, false, st) || !(c->timestep_list ? schedule_room(s, s->steps, st) : schedule_timesteps(s, st)))
        return false;
    for (int i = 0; c->timestep_list && i < s->calls; i++)
        s->timesteps[i] = (double)c->timestep_list[i];
    s->init_noise_sigma = 1;
    return true;
}

static int slots(const sampler *s) { return (void)s, 1; }
static bool draws(const sampler *s, int call) { return s->timesteps[call] > 0; }

const sampler_ops sampler_ops_ddpm = {
    .class_bit = CLASS_DDPM,
    .plan = plan,
    .step = step,
    .slots = slots,
    .draws = draws,
    .level = LEVEL_ALPHAS,
    .calls_per_step = 1,
};
