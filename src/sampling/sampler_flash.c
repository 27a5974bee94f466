/* sampler_flash.c: Kandinsky 3.1 Flash, distilled by a discriminator to four calls: each predicts the picture itself, which then gets new noise of the next
 * call's level.
 *
 * Reference: ai-forever/Kandinsky-3, model/diffusion.py (p_sample_loop with gan), t2i_pipeline.py: times range(979, 0, -250).
 * Pitfalls: no guidance belongs to it (--cfg-scale 1); predictions are neither clipped nor thresholded; the last call draws no noise. */
#include <math.h>

#include "sampling/sampler_impl.h"

enum { FIRST = 979, OF = 1000 }; /* thousandths of the training chain */

static bool plan(sampler *s, status *st)
{
    int n = s->config.num_train_timesteps, first = (int)((int64_t)n * FIRST / OF), step = n / s->steps;
    int last = first - (s->steps - 1) * step;
    if (s->steps > n || last < 0)
        return status_set(st, STATUS_USAGE, "--steps %d: flash has at most %d", s->steps, first / (n - first ? n - first : 1));
    s->init_noise_sigma = 1;
    if (!schedule_alphas(s, false, st) || !schedule_room(s, s->steps, st))
        return false;
    for (int i = 0; i < s->steps; i++)
        s->timesteps[i] = first - i * step;
    return true;
}

static bool draws(const sampler *s, int call) { return call != s->calls - 1; }
static int slots(const sampler *s) { return (void)s, 1; }

static void step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    discrete_x0(s, schedule_alpha(s, (int)s->timesteps[call]), model_output, x, s->slot[0]);
    float a = call + 1 < s->calls ? schedule_alpha(s, (int)s->timesteps[call + 1]) : 1;
    for (size_t i = 0; i < s->n; i++)
        x[i] = s->slot[0][i];
    if (noise)
        combine(x, sqrtf(a), s->slot[0], sqrtf(1 - a), noise, s->n);
}

const sampler_ops sampler_ops_flash = {
    .class_bit = CLASS_FLASH,
    .plan = plan,
    .step = step,
    .slots = slots,
    .draws = draws,
    .level = LEVEL_ALPHAS,
    .calls_per_step = 1,
};
