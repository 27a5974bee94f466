/* schedule.c: betas, alphas_cumprod, timesteps and sigmas, with the roundings of torch and numpy.
 *
 * Papers: Ho et al. 2020 (linear betas), Rombach et al. 2022 (scaled_linear), Nichol and Dhariwal 2021 (cosine),
 * Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed" (spacings, zero terminal SNR).
 * Reference: __init__ and set_timesteps of the classes in diffusers/schedulers.
 *
 * torch keeps betas, alphas_cumprod and sigmas in float; torch.cumprod multiplies in double and rounds what it stores;
 * numpy's linspace, arange and interp are double. Where the spacing does not divide the range (trailing, 7 steps) the
 * rounding decides over whole timesteps, so the expressions below stay as they are. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "sampling/sampler_impl.h"

static const double pi = 3.141592653589793;

double numpy_linspace(double start, double stop, int n, int i)
{
    if (n > 1 && i == n - 1)
        return stop;
    double step = n > 1 ? (stop - start) / (n - 1) : stop - start;
    return i * step + start;
}

/* torch.linspace in float: from both ends towards the middle, multiplied and added with one rounding. */
static float torch_linspace(float start, float stop, int n, int i)
{
    if (n == 1)
        return start;
    float step = (stop - start) / (float)(n - 1);
    return i < n / 2 ? fmaf(step, (float)i, start) : fmaf(-step, (float)(n - i - 1), stop);
}

/* Betas ------------------------------------------------------------------------------------------------------------ */

static double alpha_bar(int kind, double t)
{
    if (kind == BETA_EXP)
        return exp(t * -12.0);
    if (kind == BETA_LAPLACE) {
        double lambda = -0.5 * copysign(1, 0.5 - t) * log(1 - 2 * fabs(0.5 - t) + 1e-6);
        double snr = exp(lambda);
        return sqrt(snr / (1 + snr));
    }
    return pow(cos((t + 0.008) / 1.008 * pi / 2), 2);
}

static float beta_at(const sampler_config *c, int i)
{
    int n = c->num_train_timesteps;
    if (c->trained_betas)
        return (float)c->trained_betas[i];
    switch (c->beta_schedule) {
    case BETA_LINEAR:
        return torch_linspace((float)c->beta_start, (float)c->beta_end, n, i);
    case BETA_SCALED_LINEAR: {
        float root = torch_linspace((float)pow(c->beta_start, 0.5), (float)pow(c->beta_end, 0.5), n, i);
        return root * root;
    }
    case BETA_SIGMOID: {
        float x = torch_linspace(-6, 6, n, i);
        float sigmoid = 1 / (1 + exp_float(-x));
        float scaled = sigmoid * (float)(c->beta_end - c->beta_start);
        return scaled + (float)c->beta_start;
    }
    default: {
        double beta = 1 - alpha_bar(c->beta_schedule, (double)(i + 1) / n) / alpha_bar(c->beta_schedule, (double)i / n);
        return (float)(beta < 0.999 ? beta : 0.999);
    }
    }
}

/* betas to cumulative products of 1 - beta, in place. */
static void cumulate(float *a, int n)
{
    double product = 1;
    for (int i = 0; i < n; i++) {
        product *= (double)(1.0f - a[i]);
        a[i] = (float)product;
    }
}

/* betas in place to betas whose last cumulative product is 0 (Lin et al., algorithm 1). */
static void rescale_zero_snr(float *a, int n)
{
    cumulate(a, n);
    for (int i = 0; i < n; i++)
        a[i] = sqrtf(a[i]);
    float first = a[0], last = a[n - 1];
    float stretch = first / (first - last);
    for (int i = 0; i < n; i++) {
        a[i] = (a[i] - last) * stretch;
        a[i] = a[i] * a[i];
    }
    for (int i = n - 1; i > 0; i--)
        a[i] = 1 - a[i] / a[i - 1];
    a[0] = 1 - a[0];
}

bool schedule_alphas(sampler *s, bool zero_snr_floor, status *st)
{
    int n = s->config.num_train_timesteps;
    float *a = s->alphas_cumprod = mem_alloc((size_t)n, sizeof *a, "noise schedule", st);
    if (!a)
        return false;
    for (int i = 0; i < n; i++)
        a[i] = beta_at(&s->config, i);
    if (s->config.rescale_betas_zero_snr)
        rescale_zero_snr(a, n);
    cumulate(a, n);
    if (s->config.rescale_betas_zero_snr && zero_snr_floor)
        a[n - 1] = 0x1p-24f; /* else the first sigma is infinite */
    for (int i = 0; i < n; i++)
        if (!(a[i] >= 0 && a[i] <= 1))
            return status_set(st, STATUS_BAD_FILE, "scheduler config: the betas give alphas_cumprod[%d] = %g", i, (double)a[i]);
    return true;
}

float schedule_alpha(const sampler *s, int t) { return s->alphas_cumprod[t < 0 ? t + s->config.num_train_timesteps : t]; }

bool schedule_check(const sampler *s, int t, status *st)
{
    int n = s->config.num_train_timesteps;
    if (t >= -n && t < n)
        return true;
    return status_set(st, STATUS_USAGE, "--steps %d: timestep %d (with steps_offset %d) is outside the %d trained ones",
                      s->steps, t, s->config.steps_offset, n);
}

/* Timesteps -------------------------------------------------------------------------------------------------------- */

bool schedule_room(sampler *s, int calls, status *st)
{
    s->calls = calls;
    s->timesteps = mem_alloc((size_t)calls, sizeof *s->timesteps, "timesteps", st);
    s->sigmas = mem_alloc((size_t)calls + 1, sizeof *s->sigmas, "sigmas", st);
    return s->timesteps && s->sigmas;
}

/* numpy.arange(top, 0, -step): its length and element i. */
static int arange_count(double top, double step) { return (int)ceil(top / step); }

static double arange_at(double top, double step, int i)
{
    double delta = (top - step) - top;
    return top + i * delta;
}

/* A double as int64 gets it, kept in a sane range. */
static double whole(double t) { return t > -1e9 && t < 1e9 ? trunc(t) : 0; }

/* The spacings over N trained timesteps: element i of a descending list. points: how many linspace and leading
 * distribute over the range, the last (smallest) ones of which may be left out. */
static double spaced(const sampler *s, int top, int points, int i)
{
    const sampler_config *c = &s->config;
    int up = points - 1 - i;
    switch (c->timestep_spacing) {
    case SPACING_LINSPACE:
        return numpy_linspace(0, top - 1, points, up);
    case SPACING_LEADING:
        return (double)up * (top / points) + c->steps_offset;
    default:
        return rint(arange_at(top, (double)c->num_train_timesteps / s->steps, i)) - 1;
    }
}

/* How many timesteps a spacing gives: steps, but sometimes steps + 1 (numpy's arange with a rounded step). */
static int count_timesteps(const sampler *s, int top)
{
    if (s->config.timestep_spacing != SPACING_TRAILING)
        return s->steps;
    return arange_count(top, (double)s->config.num_train_timesteps / s->steps);
}

bool schedule_timesteps(sampler *s, status *st)
{
    int n = s->config.num_train_timesteps;
    if (s->steps > n)
        return status_set(st, STATUS_USAGE, "--steps %d: %s was trained with only %d timesteps", s->steps, s->row->class_name, n);
    if (!schedule_room(s, count_timesteps(s, n), st))
        return false;
    for (int i = 0; i < s->calls; i++) {
        s->timesteps[i] = rint(spaced(s, n, s->steps, i));
        if (!schedule_check(s, (int)s->timesteps[i], st))
            return false;
    }
    return true;
}

bool schedule_distilled(sampler *s, status *st)
{
    int n = s->config.num_train_timesteps, original = s->config.original_inference_steps;
    if (original > n)
        return status_set(st, STATUS_BAD_FILE, "scheduler config: %d original_inference_steps of %d num_train_timesteps", original, n);
    if (s->steps > original)
        return status_set(st, STATUS_USAGE, "--steps %d: %s goes up to the %d original_inference_steps", s->steps,
                          s->row->class_name, original);
    if (!schedule_room(s, s->steps, st))
        return false;
    schedule_distilled_from(s, original);
    return true;
}

void schedule_distilled_from(sampler *s, int points)
{
    int step = s->config.num_train_timesteps / s->config.original_inference_steps;
    for (int i = 0; i < s->steps; i++) {
        int skipped = (int)floor(i * ((double)points / s->steps));
        s->timesteps[i] = (double)((points - skipped) * step - 1);
    }
}

/* Sigmas ----------------------------------------------------------------------------------------------------------- */

/* Noise level of a trained timestep: sqrt((1 - a) / a). */
static float train_sigma(const sampler *s, int t)
{
    float a = s->alphas_cumprod[t];
    return sqrtf((1 - a) / a);
}

/* numpy.interp(t, arange(N), train sigmas) */
static double interpolate(const sampler *s, double t)
{
    int n = s->config.num_train_timesteps;
    if (t <= 0 || t >= n - 1)
        return (double)train_sigma(s, t <= 0 ? 0 : n - 1);
    int low = (int)t;
    double a = (double)train_sigma(s, low), b = (double)train_sigma(s, low + 1);
    return (b - a) * (t - low) + a;
}

static float *train_log_sigmas(const sampler *s, status *st)
{
    int n = s->config.num_train_timesteps;
    float *logs = mem_alloc((size_t)n, sizeof *logs, "noise schedule", st);
    for (int i = 0; logs && i < n; i++)
        logs[i] = numpy_logf(train_sigma(s, i));
    return logs;
}

static bool check_sigmas(const sampler *s, status *st)
{
    for (int i = 0; i < s->config.num_train_timesteps; i++)
        if (!isfinite(train_sigma(s, i)))
            return status_set(st, STATUS_BAD_FILE, "scheduler config: the betas reach pure noise at timestep %d, %s has an "
                                                   "infinite sigma there", i, s->row->class_name);
    return true;
}

/* Sigmas between high and low as the config spaces them and their timesteps, unrounded; false: none asked for, or st. */
static bool space_sigmas(sampler *s, double high, double low, status *st)
{
    const sampler_config *c = &s->config;
    double *sigmas = mem_alloc((size_t)s->calls, sizeof *sigmas, "sigmas", st);
    float *logs = train_log_sigmas(s, st);
    bool spaced_here = sigmas && logs;
    if (spaced_here && c->use_lu_lambdas && !c->use_karras_sigmas) {
        double first = (double)logs[c->num_train_timesteps - 1], last = (double)logs[0];
        for (int i = 0; i < s->calls; i++)
            sigmas[i] = exp(first + numpy_linspace(0, 1, s->calls, i) * (last - first));
    } else if (spaced_here) {
        spaced_here = sigma_spacing(c, high, low, s->calls, sigmas);
    }
    for (int i = 0; spaced_here && i < s->calls; i++) {
        s->sigmas[i] = (float)sigmas[i];
        s->timesteps[i] = sigma_to_timestep(sigmas[i], logs, c->num_train_timesteps);
    }
    mem_free(sigmas);
    mem_free(logs);
    return spaced_here;
}

static bool spaces_sigmas(const sampler_config *c)
{
    return c->use_karras_sigmas || c->use_exponential_sigmas || c->use_beta_sigmas || c->use_lu_lambdas;
}

/* How many of the trained timesteps have a half log-SNR below lambda_min_clipped: they are left out (cosine betas). */
static int clipped_timesteps(const sampler *s)
{
    int n = s->config.num_train_timesteps, count = 0;
    for (; count < n; count++) {
        float a = s->alphas_cumprod[n - 1 - count];
        float lambda = log_float(sqrtf(a)) - log_float(sqrtf(1 - a));
        if (!((double)lambda < s->config.lambda_min_clipped))
            break;
    }
    return count;
}

bool schedule_sigmas_dpm(sampler *s, status *st)
{
    const sampler_config *c = &s->config;
    unsigned class_bit = s->row->ops->class_bit;
    int n = c->num_train_timesteps;
    if (!check_sigmas(s, st))
        return false;
    int top = class_bit == CLASS_UNIPC ? n : n - clipped_timesteps(s);
    if (top < 1)
        return status_set(st, STATUS_BAD_FILE, "scheduler config: lambda_min_clipped %g leaves no timestep", c->lambda_min_clipped);
    bool conversion = spaces_sigmas(c);
    if (!schedule_room(s, conversion ? s->steps : count_timesteps(s, top), st))
        return false;
    s->init_noise_sigma = 1;
    if (conversion) {
        if (!space_sigmas(s, (double)train_sigma(s, n - 1), (double)train_sigma(s, 0), st))
            return false;
        bool cosine = c->beta_schedule == BETA_COSINE && class_bit == CLASS_DPM_MULTI;
        bool rounds = c->use_karras_sigmas || c->use_lu_lambdas;
        for (int i = 0; i < s->calls; i++)
            s->timesteps[i] = whole(rounds && !cosine ? rint(s->timesteps[i]) : s->timesteps[i]);
    } else {
        for (int i = 0; i < s->calls; i++) {
            s->timesteps[i] = whole(rint(spaced(s, top, s->steps + 1, i)));
            s->sigmas[i] = (float)interpolate(s, s->timesteps[i]);
        }
    }
    float last = conversion && class_bit == CLASS_UNIPC ? s->sigmas[s->calls - 1] : train_sigma(s, 0);
    s->sigmas[s->calls] = c->final_sigmas_type == FINAL_SIGMA_MIN ? last : 0;
    return true;
}

/* Euler's interpolation_type log_linear: sigmas evenly spaced in the logarithm, one more than steps. */
static void log_linear_sigmas(sampler *s)
{
    int n = s->steps + 1, count = s->calls + 1 < n ? s->calls + 1 : n;
    float high = numpy_logf(train_sigma(s, s->config.num_train_timesteps - 1)), low = numpy_logf(train_sigma(s, 0));
    for (int i = 0; i < count; i++)
        s->sigmas[i] = exp_float(torch_linspace(high, low, n, i));
}

bool schedule_sigmas_euler(sampler *s, status *st)
{
    const sampler_config *c = &s->config;
    if (!check_sigmas(s, st))
        return false;
    bool log_linear = c->interpolation_type == INTERPOLATE_LOG_LINEAR;
    int count = count_timesteps(s, c->num_train_timesteps);
    if (!schedule_room(s, spaces_sigmas(c) ? s->steps : count, st))
        return false;
    for (int i = 0; i < s->calls; i++) { /* numpy rounds the spacing to float before it looks the sigma up */
        s->timesteps[i] = (double)(float)spaced(s, c->num_train_timesteps, s->steps, i);
        s->sigmas[i] = (float)interpolate(s, s->timesteps[i]);
    }
    s->sigmas[s->calls] = c->final_sigmas_type == FINAL_SIGMA_MIN ? train_sigma(s, 0) : 0;
    if (log_linear)
        log_linear_sigmas(s);
    if (spaces_sigmas(c)) {
        double first = (double)(float)spaced(s, c->num_train_timesteps, s->steps, 0);
        double last = (double)(float)spaced(s, c->num_train_timesteps, s->steps, count - 1);
        double high = log_linear ? (double)s->sigmas[0] : interpolate(s, first);
        double low = log_linear ? (double)exp_float(numpy_logf(train_sigma(s, 0))) : interpolate(s, last);
        if (!space_sigmas(s, high, low, st))
            return false;
        s->sigmas[s->calls] = c->final_sigmas_type == FINAL_SIGMA_MIN ? train_sigma(s, 0) : 0;
    }
    if (c->timestep_type == TIMESTEP_CONTINUOUS && c->prediction_type == PREDICT_V)
        for (int i = 0; i < s->calls; i++)
            s->timesteps[i] = (double)(0.25f * log_float(s->sigmas[i]));
    float greatest = 0;
    for (int i = 0; i < s->calls; i++) {
        s->timesteps[i] = (double)(float)s->timesteps[i];
        greatest = s->sigmas[i] > greatest ? s->sigmas[i] : greatest;
    }
    s->init_noise_sigma = c->timestep_spacing == SPACING_LEADING ? sqrtf(greatest * greatest + 1) : greatest;
    return true;
}
