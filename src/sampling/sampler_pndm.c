/* sampler_pndm.c: pseudo linear multistep (PLMS), with or without the Runge-Kutta start (PRK).
 *
 * Paper: Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds" (2202.09778).
 * Reference: diffusers/schedulers/scheduling_pndm.py.
 * Pitfalls: without PRK (skip_prk_steps, as Stable Diffusion has it) the second timestep comes twice: N steps are N + 1
 * calls. With PRK the four highest timesteps take 12 calls. Steps go to t - N / steps, not to the list's next. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "sampling/sampler_impl.h"

enum { PRK_CALLS = 12, ETS = 4, SLOT_SAMPLE = ETS, SLOT_SUM, SLOT_OUTPUT, SLOTS };

/* From the sample at timestep t to the one at before, formula 9 of the paper; epsilon is overwritten. */
static void transfer(const sampler *s, int t, int before, const float *sample, float *epsilon, float *x)
{
    float a = schedule_alpha(s, t);
    float final = s->config.set_alpha_to_one ? 1 : s->alphas_cumprod[0];
    float a_before = before >= 0 ? schedule_alpha(s, before) : final;
    float b = 1 - a, b_before = 1 - a_before;
    if (s->config.prediction_type == PREDICT_V)
        combine(epsilon, sqrtf(a), epsilon, sqrtf(b), sample, s->n);
    float keep = sqrtf(a_before / a), rise = a_before - a;
    float below = a * sqrtf(b_before) + sqrtf(a * b * a_before);
    for (size_t i = 0; i < s->n; i++)
        x[i] = keep * sample[i] - rise * epsilon[i] / below;
}

static void step_prk(sampler *s, int call, const float *model_output, float *x)
{
    const sampler_config *c = &s->config;
    float *sum = s->slot[SLOT_SUM], *output = s->slot[SLOT_OUTPUT], *sample = s->slot[SLOT_SAMPLE];
    int phase = s->done % 4;
    int before = (int)s->timesteps[call] - (s->done % 2 ? 0 : c->num_train_timesteps / s->steps / 2);
    int t = (int)s->timesteps[s->done / 4 * 4];
    size_t bytes = s->n * sizeof *x;
    const float share = phase == 1 || phase == 2 ? (float)(1.0 / 3) : (float)(1.0 / 6);
    if (phase == 0) {
        memcpy(rotate_slots(s, ETS), model_output, bytes);
        s->held += s->held < ETS;
        memcpy(sample, x, bytes);
        memset(sum, 0, bytes);
    }
    for (size_t i = 0; i < s->n; i++)
        sum[i] = sum[i] + share * model_output[i];
    memcpy(output, phase == 3 ? sum : model_output, bytes);
    transfer(s, t, before, sample, output, x);
}

/* Adams-Bashforth over the outputs at hand. */
static void blend(const sampler *s, const float *model_output, float *out)
{
    const float *e1 = s->slot[0], *e2 = s->slot[1], *e3 = s->slot[2], *e4 = s->slot[3];
    for (size_t i = 0; i < s->n; i++) {
        if (s->held == 1)
            out[i] = s->done == 1 ? (model_output[i] + e1[i]) / 2 : model_output[i];
        else if (s->held == 2)
            out[i] = (3 * e1[i] - e2[i]) / 2;
        else if (s->held == 3)
            out[i] = (23 * e1[i] - 16 * e2[i] + 5 * e3[i]) / 12;
        else
            out[i] = (float)(1.0 / 24) * (55 * e1[i] - 59 * e2[i] + 37 * e3[i] - 9 * e4[i]);
    }
}

static void step_plms(sampler *s, int call, const float *model_output, float *x)
{
    int stride = s->config.num_train_timesteps / s->steps;
    int t = (int)s->timesteps[call], before = t - stride;
    float *sample = s->slot[SLOT_SAMPLE];
    if (s->done != 1) {
        memcpy(rotate_slots(s, ETS), model_output, s->n * sizeof *x);
        s->held += s->held < ETS;
    } else { /* the first step once more, with the mean of its ends */
        before = t;
        t += stride;
    }
    if (s->done == 0)
        memcpy(sample, x, s->n * sizeof *x);
    blend(s, model_output, s->slot[SLOT_OUTPUT]);
    transfer(s, t, before, s->done == 1 ? sample : x, s->slot[SLOT_OUTPUT], x);
}

static void step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    (void)noise;
    if (!s->config.skip_prk_steps && s->done < PRK_CALLS)
        step_prk(s, call, model_output, x);
    else
        step_plms(s, call, model_output, x);
}

/* t holds the spacing, descending: [count]. The calls that PLMS alone makes of it. */
static int list_plms(const double *t, int count, double *out)
{
    int calls = 0;
    for (int i = 0; i < count; i++) {
        out[calls++] = t[i];
        if (i == 1)
            out[calls++] = t[i];
    }
    return calls;
}

/* The Runge-Kutta start over the four highest timesteps, then the rest. */
static int list_prk(const double *t, int count, int half, double *out)
{
    int calls = 0;
    out[calls++] = t[0];
    for (int i = 1; i < 4; i++) {
        out[calls++] = t[i] + half;
        out[calls++] = t[i] + half;
        out[calls++] = t[i];
        if (i < 3)
            out[calls++] = t[i];
    }
    for (int i = 3; i < count; i++)
        out[calls++] = t[i];
    return calls;
}

static bool plan(sampler *s, status *st)
{
    const sampler_config *c = &s->config;
    if (!schedule_alphas(s, false, st) || !schedule_timesteps(s, st))
        return false;
    s->init_noise_sigma = 1;
    int stride = c->num_train_timesteps / s->steps;
    if (!c->skip_prk_steps && s->calls < 4)
        return status_set(st, STATUS_USAGE, "--steps %d: PNDMScheduler with skip_prk_steps false needs at least 4", s->steps);
    double *expanded = mem_alloc((size_t)s->calls + PRK_CALLS, sizeof *expanded, "timesteps", st);
    if (!expanded)
        return false;
    s->calls = c->skip_prk_steps ? list_plms(s->timesteps, s->calls, expanded)
                                 : list_prk(s->timesteps, s->calls, stride / 2, expanded);
    mem_free(s->timesteps);
    s->timesteps = expanded;
    for (int i = 0; i < s->calls; i++)
        if (!schedule_check(s, (int)expanded[i], st))
            return false;
    return !c->skip_prk_steps || s->calls < 2 || schedule_check(s, (int)expanded[1] + stride, st);
}

static int slots(const sampler *s) { return (void)s, SLOTS; }

const sampler_ops sampler_ops_pndm = {
    .class_bit = CLASS_PNDM,
    .plan = plan,
    .step = step,
    .slots = slots,
    .level = LEVEL_ALPHAS,
    .calls_per_step = 1,
};
