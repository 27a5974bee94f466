/* sampler_heun.c: Heun's method and the linear multistep method, both over sigmas as Euler.
 *
 * Papers: Karras et al. 2022 (2206.00364), algorithm 1; LMS: K. Crowson's k-diffusion (Adams-Bashforth over sigma).
 * Reference: diffusers/schedulers/scheduling_heun_discrete.py, scheduling_lms_discrete.py.
 * Pitfalls: Heun evaluates twice a step, so the list of timesteps holds all but the first twice (2 N - 1 calls). LMS
 * integrates its weights numerically (scipy's quad) with a float integrand, and so do we. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "sampling/sampler_impl.h"

static float derivative(const sampler *s, float sigma, float model_output, float x)
{
    float x0 = sigma_x0(s, sigma, model_output, x);
    if (s->config.clip_sample)
        x0 = clamp_float(x0, -(float)s->config.clip_sample_range, (float)s->config.clip_sample_range);
    return (x - x0) / sigma;
}

static void heun_step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    (void)noise;
    float *first = s->slot[0], *start = s->slot[1];
    if (s->done % 2 == 0) { /* a whole step of Euler */
        float sigma = s->sigmas[call], dt = s->sigmas[call + 1] - sigma;
        for (size_t i = 0; i < s->n; i++) {
            start[i] = x[i];
            first[i] = derivative(s, sigma, model_output[i], x[i]);
            x[i] = x[i] + first[i] * dt;
        }
    } else { /* again from the start with the mean of the derivatives at both ends */
        float sigma = s->sigmas[call], dt = sigma - s->sigmas[call - 1];
        for (size_t i = 0; i < s->n; i++) {
            float mean = (first[i] + derivative(s, sigma, model_output[i], x[i])) / 2;
            x[i] = start[i] + mean * dt;
        }
    }
}

static bool heun_plan(sampler *s, status *st)
{
    if (!schedule_alphas(s, false, st) || !schedule_sigmas_euler(s, st))
        return false;
    int steps = s->calls;
    double *timesteps = s->timesteps;
    float *sigmas = s->sigmas;
    s->timesteps = NULL;
    s->sigmas = NULL;
    bool ok = schedule_room(s, 2 * steps - 1, st);
    for (int i = 0; ok && i < s->calls; i++) {
        s->timesteps[i] = timesteps[(i + 1) / 2];
        s->sigmas[i] = sigmas[(i + 1) / 2];
    }
    if (ok)
        s->sigmas[s->calls] = sigmas[steps];
    mem_free(timesteps);
    mem_free(sigmas);
    return ok;
}

static int heun_slots(const sampler *s) { return (void)s, 2; }

const sampler_ops sampler_ops_heun = {
    .class_bit = CLASS_HEUN,
    .plan = heun_plan,
    .step = heun_step,
    .slots = heun_slots,
    .level = LEVEL_SIGMAS_EDM,
    .calls_per_step = 2,
};

/* LMS -------------------------------------------------------------------------------------------------------------- */

enum { LMS_ORDER = 4 };

/* Lagrange polynomial of the output `current` calls ago over the last `order` sigmas, at tau. */
static double lagrange(const sampler *s, int call, int order, int current, double tau)
{
    float product = 1;
    for (int k = 0; k < order; k++)
        if (k != current)
            product *= ((float)tau - s->sigmas[call - k]) / (s->sigmas[call - current] - s->sigmas[call - k]);
    return (double)product;
}

/* Its integral over the step: Gauss-Kronrod with 21 points, QUADPACK's qk21. */
static float lms_weight(const sampler *s, int call, int order, int current)
{
    static const double node[11] = {0.995657163025808080735527280689003, 0.973906528517171720077964012084452,
                                    0.930157491355708226001207180059508, 0.865063366688984510732096688423493,
                                    0.780817726586416897063717578345042, 0.679409568299024406234327365114874,
                                    0.562757134668604683339000099272694, 0.433395394129247190799265943165784,
                                    0.294392862701460198131126603103866, 0.14887433898163121088482600112972, 0};
    static const double weight[11] = {0.011694638867371874278064396062192, 0.03255816230796472747881897245939,
                                      0.05475589657435199603138130024458, 0.07503967481091995276704314091619,
                                      0.093125454583697605535065465083366, 0.109387158802297641899210590325805,
                                      0.123491976262065851077958109585166, 0.134709217311473325928054001771707,
                                      0.142775938577060080797094273138717, 0.147739104901338491374841515972068,
                                      0.149445554002916905664936468389821};
    double from = (double)s->sigmas[call], to = (double)s->sigmas[call + 1];
    double centre = 0.5 * (from + to), half = 0.5 * (to - from);
    double sum = weight[10] * lagrange(s, call, order, current, centre);
    for (int parity = 1; parity >= 0; parity--)
        for (int j = parity; j < 10; j += 2) {
            double offset = half * node[j];
            sum += weight[j] * (lagrange(s, call, order, current, centre - offset) +
                                lagrange(s, call, order, current, centre + offset));
        }
    return (float)(sum * half);
}

static void lms_step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    (void)noise;
    float *newest = rotate_slots(s, LMS_ORDER);
    for (size_t i = 0; i < s->n; i++)
        newest[i] = derivative(s, s->sigmas[call], model_output[i], x[i]);
    s->held += s->held < LMS_ORDER;
    int order = call + 1 < LMS_ORDER ? call + 1 : LMS_ORDER; /* img2img: by the call, though fewer outputs are held */
    int terms = order < s->held ? order : s->held;
    float weights[LMS_ORDER];
    for (int k = 0; k < terms; k++)
        weights[k] = lms_weight(s, call, order, k);
    for (size_t i = 0; i < s->n; i++) {
        float sum = 0;
        for (int k = 0; k < terms; k++)
            sum = sum + weights[k] * s->slot[k][i];
        x[i] = x[i] + sum;
    }
}

static bool lms_plan(sampler *s, status *st) { return schedule_alphas(s, false, st) && schedule_sigmas_euler(s, st); }
static int lms_slots(const sampler *s) { return (void)s, LMS_ORDER; }

const sampler_ops sampler_ops_lms = {
    .class_bit = CLASS_LMS,
    .plan = lms_plan,
    .step = lms_step,
    .slots = lms_slots,
    .level = LEVEL_SIGMAS_EDM,
    .calls_per_step = 1,
};
