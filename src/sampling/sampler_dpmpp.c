/* sampler_dpmpp.c: DPM-Solver and DPM-Solver++, deterministic and stochastic, multistep and single step.
 *
 * Papers: Lu et al. 2022, "DPM-Solver" (2206.00927) and "DPM-Solver++" (2211.01095).
 * Reference: diffusers/schedulers/scheduling_dpmsolver_multistep.py and scheduling_dpmsolver_singlestep.py.
 * Pitfalls: the order drops at the end only below 15 steps or where the last sigma is 0 (ln 0); karras timesteps are
 * rounded, exponential and beta ones truncated; sde draws at every step, the last included, where it is multiplied by 0. */
#include <math.h>

#include "base/mem.h"
#include "sampling/sampler_impl.h"

/* x_t = a x + c0 D0 + c1 D1 + c2 D2 + noise z, D the model's finite differences. */
typedef struct weights {
    float a, c0, c1_midpoint, c1_heun, c2, noise;
} weights;

static weights solve(int algorithm, vp from, vp to)
{
    float h = to.lambda - from.lambda;
    float sa = to.alpha, ss = to.sigma;
    weights w = {0};
    switch (algorithm) {
    case ALGORITHM_DPM: {
        float e = exp_float(h) - 1;
        w.a = to.alpha / from.alpha;
        w.c0 = -(ss * e);
        w.c1_midpoint = -(0.5f * (ss * e));
        w.c1_heun = -(ss * (e / h - 1));
        w.c2 = -(ss * ((e - h) / (h * h) - 0.5f));
        break;
    }
    case ALGORITHM_SDE_DPM: {
        float e = exp_float(h) - 1;
        w.a = to.alpha / from.alpha;
        w.c0 = -(2 * (ss * e));
        w.c1_midpoint = -(ss * e);
        w.c1_heun = -(2 * (ss * (e / h - 1)));
        w.noise = ss * sqrtf(exp_float(2 * h) - 1);
        break;
    }
    case ALGORITHM_SDE_DPMPP: {
        float e = 1 - exp_float(-2 * h);
        w.a = to.sigma / from.sigma * exp_float(-h);
        w.c0 = sa * e;
        w.c1_midpoint = 0.5f * (sa * e);
        w.c1_heun = sa * (e / (-2 * h) + 1);
        w.c2 = sa * ((e - 2 * h) / (2 * h * (2 * h)) - 0.5f);
        w.noise = ss * sqrtf(e);
        break;
    }
    default: {
        float e = exp_float(-h) - 1;
        w.a = to.sigma / from.sigma;
        w.c0 = -(sa * e);
        w.c1_midpoint = -(0.5f * (sa * e));
        w.c1_heun = sa * (e / h + 1);
        w.c2 = -(sa * ((e + h) / (h * h) - 0.5f));
    }
    }
    return w;
}

static void convert(sampler *s, int call, const float *model_output, const float *x, float *out)
{
    if (s->config.algorithm_type == ALGORITHM_DPMPP || s->config.algorithm_type == ALGORITHM_SDE_DPMPP)
        solver_x0(s, call, model_output, x, out);
    else
        solver_epsilon(s, call, model_output, x, out);
}

static void add_scaled(float *x, float scale, const float *z, size_t n)
{
    for (size_t i = 0; z && i < n; i++)
        x[i] = x[i] + scale * z[i];
}

static void first_order(sampler *s, int call, float *x, const float *noise)
{
    weights w = solve(s->config.algorithm_type, vp_at(s->sigmas[call]), vp_at(s->sigmas[call + 1]));
    combine(x, w.a, x, w.c0, s->slot[0], s->n);
    add_scaled(x, w.noise, noise, s->n);
}

/* Multistep -------------------------------------------------------------------------------------------------------- */

static void multi_second_order(sampler *s, int call, float *x, const float *noise)
{
    vp t = vp_at(s->sigmas[call + 1]), s0 = vp_at(s->sigmas[call]), s1 = vp_at(s->sigmas[call - 1]);
    weights w = solve(s->config.algorithm_type, s0, t);
    float c1 = s->config.solver_type == SOLVER_HEUN ? w.c1_heun : w.c1_midpoint;
    float r0 = (s0.lambda - s1.lambda) / (t.lambda - s0.lambda);
    float inverse = 1 / r0;
    const float *m0 = s->slot[0], *m1 = s->slot[1];
    for (size_t i = 0; i < s->n; i++)
        x[i] = w.a * x[i] + w.c0 * m0[i] + c1 * (inverse * (m0[i] - m1[i]));
    add_scaled(x, w.noise, noise, s->n);
}

static void multi_third_order(sampler *s, int call, float *x, const float *noise)
{
    vp t = vp_at(s->sigmas[call + 1]), s0 = vp_at(s->sigmas[call]);
    vp s1 = vp_at(s->sigmas[call - 1]), s2 = vp_at(s->sigmas[call - 2]);
    weights w = solve(s->config.algorithm_type, s0, t);
    float h = t.lambda - s0.lambda;
    float r0 = (s0.lambda - s1.lambda) / h, r1 = (s1.lambda - s2.lambda) / h;
    float inverse0 = 1 / r0, inverse1 = 1 / r1, blend = r0 / (r0 + r1), inverse = 1 / (r0 + r1);
    const float *m0 = s->slot[0], *m1 = s->slot[1], *m2 = s->slot[2];
    for (size_t i = 0; i < s->n; i++) {
        float d10 = inverse0 * (m0[i] - m1[i]), d11 = inverse1 * (m1[i] - m2[i]);
        float d1 = d10 + blend * (d10 - d11), d2 = inverse * (d10 - d11);
        x[i] = w.a * x[i] + w.c0 * m0[i] + w.c1_heun * d1 + w.c2 * d2;
    }
    add_scaled(x, w.noise, noise, s->n);
}

static void multi_step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    const sampler_config *c = &s->config;
    bool few = c->lower_order_final && s->calls < 15;
    bool last = call == s->calls - 1 && (c->euler_at_final || few || c->final_sigmas_type == FINAL_ZERO);
    bool last_but_one = call == s->calls - 2 && few;
    convert(s, call, model_output, x, rotate_slots(s, c->solver_order));
    if (c->solver_order == 1 || s->held < 1 || last)
        first_order(s, call, x, noise);
    else if (c->solver_order == 2 || s->held < 2 || last_but_one)
        multi_second_order(s, call, x, noise);
    else
        multi_third_order(s, call, x, noise);
    if (s->held < c->solver_order)
        s->held++;
}

static bool plan_multi(sampler *s, status *st) { return schedule_alphas(s, true, st) && schedule_sigmas_dpm(s, st); }
static int solver_slots(const sampler *s) { return s->config.solver_order; }

static bool solver_draws(const sampler *s, int call)
{
    (void)call;
    return s->config.algorithm_type == ALGORITHM_SDE_DPM || s->config.algorithm_type == ALGORITHM_SDE_DPMPP;
}

const sampler_ops sampler_ops_dpm_multi = {
    .class_bit = CLASS_DPM_MULTI,
    .plan = plan_multi,
    .step = multi_step,
    .slots = solver_slots,
    .draws = solver_draws,
    .level = LEVEL_SIGMAS_VP,
    .calls_per_step = 1,
};

/* Single step: orders 1, 2(, 3) in turn, all from the sample that the order 1 started from. ------------------------- */

static void single_second_order(sampler *s, int call, const float *start, float *x, const float *noise)
{
    vp t = vp_at(s->sigmas[call + 1]), s0 = vp_at(s->sigmas[call]), s1 = vp_at(s->sigmas[call - 1]);
    weights w = solve(s->config.algorithm_type, s1, t);
    float c1 = s->config.solver_type == SOLVER_HEUN ? w.c1_heun : w.c1_midpoint;
    float r0 = (s0.lambda - s1.lambda) / (t.lambda - s1.lambda);
    float inverse = 1 / r0;
    const float *m0 = s->slot[0], *m1 = s->slot[1];
    for (size_t i = 0; i < s->n; i++)
        x[i] = w.a * start[i] + w.c0 * m1[i] + c1 * (inverse * (m0[i] - m1[i]));
    add_scaled(x, w.noise, noise, s->n);
}

static void single_third_order(sampler *s, int call, const float *start, float *x, const float *noise)
{
    vp t = vp_at(s->sigmas[call + 1]), s0 = vp_at(s->sigmas[call]);
    vp s1 = vp_at(s->sigmas[call - 1]), s2 = vp_at(s->sigmas[call - 2]);
    weights w = solve(s->config.algorithm_type, s2, t);
    float h = t.lambda - s2.lambda;
    float r0 = (s0.lambda - s2.lambda) / h, r1 = (s1.lambda - s2.lambda) / h;
    float inverse0 = 1 / r0, inverse1 = 1 / r1, gap = r0 - r1;
    const float *m0 = s->slot[0], *m1 = s->slot[1], *m2 = s->slot[2];
    for (size_t i = 0; i < s->n; i++) {
        float d10 = inverse1 * (m1[i] - m2[i]), d11 = inverse0 * (m0[i] - m2[i]);
        x[i] = w.a * start[i] + w.c0 * m2[i];
        if (s->config.solver_type == SOLVER_HEUN) {
            float d1 = (r0 * d10 - r1 * d11) / gap, d2 = 2 * (d11 - d10) / gap;
            x[i] = x[i] + w.c1_heun * d1 + w.c2 * d2;
        } else {
            x[i] = x[i] + w.c1_heun * d11;
        }
    }
    add_scaled(x, w.noise, noise, s->n);
}

static void single_step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    int most = s->config.solver_order;
    float *start = s->slot[most];
    convert(s, call, model_output, x, rotate_slots(s, most));
    s->held += s->held < most;
    int order = s->order_list[call];
    if (order > s->held) /* img2img may begin inside a group */
        order = s->held;
    if (order == 1) {
        for (size_t i = 0; i < s->n; i++)
            start[i] = x[i];
        first_order(s, call, x, noise);
    } else if (order == 2) {
        single_second_order(s, call, start, x, noise);
    } else {
        single_third_order(s, call, start, x, noise);
    }
}

/* 1, 2, 3, 1, 2, 3, ... with lower orders at the end so that the groups fill the steps and the last is of order 1. */
static void list_orders(int *orders, int steps, const sampler_config *c)
{
    int most = c->solver_order;
    bool lower = c->lower_order_final || steps % most != 0; /* diffusers switches it on then */
    for (int i = 0; i < steps; i++)
        orders[i] = i % most + 1;
    if (c->final_sigmas_type == FINAL_ZERO || (lower && steps % most == 0))
        orders[steps - 1] = 1;
}

static bool plan_single(sampler *s, status *st)
{
    if (!schedule_alphas(s, false, st) || !schedule_sigmas_dpm(s, st))
        return false;
    s->order_list = mem_alloc((size_t)s->calls, sizeof *s->order_list, "orders", st);
    if (!s->order_list)
        return false;
    list_orders(s->order_list, s->calls, &s->config);
    return true;
}

static int single_slots(const sampler *s) { return s->config.solver_order + 1; }

const sampler_ops sampler_ops_dpm_single = {
    .class_bit = CLASS_DPM_SINGLE,
    .plan = plan_single,
    .step = single_step,
    .slots = single_slots,
    .draws = solver_draws,
    .level = LEVEL_SIGMAS_VP,
    .calls_per_step = 1,
};
