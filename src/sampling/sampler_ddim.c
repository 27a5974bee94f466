/* sampler_ddim.c: DDIM.
 *
 * Paper: Song et al. 2020, "Denoising Diffusion Implicit Models" (2010.02502), formulas 12 and 16.
 * Reference: diffusers/schedulers/scheduling_ddim.py.
 * Pitfalls: the step goes from t to t - N / steps (whole-numbered), which with linspace or trailing spacing is not the
 * next timestep of the list; clipping x0 does not change the predicted noise. */
#include <math.h>

#include "sampling/sampler_impl.h"

static void step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    const sampler_config *c = &s->config;
    int t = (int)s->timesteps[call], before = t - c->num_train_timesteps / s->steps;
    float a = schedule_alpha(s, t);
    float final = c->set_alpha_to_one ? 1 : s->alphas_cumprod[0];
    float a_before = before >= 0 ? schedule_alpha(s, before) : final;
    float *x0 = s->slot[0], *epsilon = s->slot[1];
    discrete_x0(s, a, model_output, x, x0);
    discrete_epsilon(s, a, model_output, x, epsilon);

    float variance = (1 - a_before) / (1 - a) * (1 - a / a_before);
    float deviation = (float)s->eta * sqrtf(variance);
    float direction = sqrtf(1 - a_before - deviation * deviation);
    combine(x, sqrtf(a_before), x0, direction, epsilon, s->n);
    for (size_t i = 0; noise && i < s->n; i++)
        x[i] = x[i] + deviation * noise[i];
}

static bool plan(sampler *s, status *st)
{
    if (!schedule_alphas(s, false, st) || !schedule_timesteps(s, st))
        return false;
    s->init_noise_sigma = 1;
    return true;
}

static int slots(const sampler *s) { return (void)s, 2; }
static bool draws(const sampler *s, int call) { return (void)call, s->eta > 0; }

const sampler_ops sampler_ops_ddim = {
    .class_bit = CLASS_DDIM,
    .plan = plan,
    .step = step,
    .slots = slots,
    .draws = draws,
    .level = LEVEL_ALPHAS,
    .calls_per_step = 1,
};
