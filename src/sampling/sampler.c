/* sampler.c: the table of methods, opening and closing, and what is the same for every method. */
#include <math.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "sampling/sampler_impl.h"

const sampler_row sampler_table[] = {
    {"dpm++2m", "DPMSolverMultistepScheduler", "DPM-Solver++, second order multistep", &sampler_ops_dpm_multi},
    {"dpm++2m_sde", "DPMSolverMultistepScheduler", "DPM-Solver++ for the diffusion SDE: draws noise at every step",
     &sampler_ops_dpm_multi},
    {"dpm++2s", "DPMSolverSinglestepScheduler", "DPM-Solver++, single step", &sampler_ops_dpm_single},
    {"unipc", "UniPCMultistepScheduler", "unified predictor and corrector", &sampler_ops_unipc},
    {"ddim", "DDIMScheduler", "denoising diffusion implicit models", &sampler_ops_ddim},
    {"ddpm", "DDPMScheduler", "ancestral sampling of the training chain: draws noise at every step", &sampler_ops_ddpm},
    {"pndm", "PNDMScheduler", "pseudo numerical methods (PLMS)", &sampler_ops_pndm},
    {"euler", "EulerDiscreteScheduler", "Euler's method", &sampler_ops_euler},
    {"euler_a", "EulerAncestralDiscreteScheduler", "Euler's method with noise at every step", &sampler_ops_euler_a},
    {"heun", "HeunDiscreteScheduler", "Heun's method: two evaluations a step", &sampler_ops_heun},
    {"lms", "LMSDiscreteScheduler", "linear multistep method", &sampler_ops_lms},
    {"lcm", "LCMScheduler", "latent consistency models, for models distilled to it", &sampler_ops_lcm},
    {"tcd", "TCDScheduler", "trajectory consistency distillation, for models distilled to it", &sampler_ops_tcd},
    {"flash", "Kandinsky3Flash", "Kandinsky 3.1 Flash: 4 steps, --cfg-scale 1", &sampler_ops_flash},
    {NULL, NULL, NULL, NULL},
};

enum { MAX_STEPS = 100000 };

static const sampler_row *find_row(const char *method, const char *class_name, status *st)
{
    char known[600] = "";
    for (const sampler_row *r = sampler_table; r->method; r++) {
        if (strcmp(method ? method : class_name, method ? r->method : r->class_name) == 0)
            return r;
        const char *name = method ? r->method : r->class_name;
        if (!strstr(known, name) || method) {
            strncat(known, known[0] ? ", " : "", sizeof known - strlen(known) - 1);
            strncat(known, name, sizeof known - strlen(known) - 1);
        }
    }
    if (method)
        status_set(st, STATUS_USAGE, "--sampling-method %s: wanted one of %s", method, known);
    else
        status_set(st, STATUS_BAD_FILE, "scheduler config: class %s is not supported, only %s", class_name, known);
    return NULL;
}

/* dpm++2m and dpm++2m_sde are one class, told apart by algorithm_type. Without --sampling-method the file decides. */
static void settle_algorithm(sampler *s, const char *method)
{
    int *algorithm = &s->config.algorithm_type;
    if (!method || s->row->ops != &sampler_ops_dpm_multi)
        return;
    if (strcmp(method, "dpm++2m_sde") == 0)
        *algorithm = ALGORITHM_SDE_DPMPP;
    else if (*algorithm == ALGORITHM_SDE_DPMPP)
        *algorithm = ALGORITHM_DPMPP;
}

static bool open_parts(sampler *s, const sampler_source *f, const char *method, const char *schedule, status *st)
{
    s->row = find_row(method, f->class_name[0] ? f->class_name : sampler_table[0].class_name, st);
    if (!s->row || !sampler_config_read(&s->config, f, s->row, st))
        return false;
    settle_algorithm(s, method);
    if (schedule && !sampler_config_schedule(&s->config, schedule, s->row, st))
        return false;
    return s->row->ops->plan(s, st);
}

sampler *sampler_open_forced(const char *config_json, size_t length, const char *method, const char *schedule, int steps,
                             const char *forced, status *st)
{
    if (steps < 1 || steps > MAX_STEPS) {
        status_set(st, STATUS_USAGE, "--steps %d: wanted 1 to %d", steps, MAX_STEPS);
        return NULL;
    }
    sampler *s = mem_alloc(1, sizeof *s, "sampler", st);
    if (!s)
        return NULL;
    s->steps = steps;
    sampler_source f;
    bool ok = sampler_source_open(&f, config_json, length, forced, st) && open_parts(s, &f, method, schedule, st);
    sampler_source_close(&f);
    if (!ok) {
        sampler_close(s);
        return NULL;
    }
    return s;
}

sampler *sampler_open(const char *config_json, size_t length, const char *method, const char *schedule, int steps,
                      status *st)
{
    return sampler_open_forced(config_json, length, method, schedule, steps, NULL, st);
}

void sampler_close(sampler *s)
{
    if (!s)
        return;
    mem_free(s->config.trained_betas);
    mem_free(s->config.timestep_list);
    mem_free(s->alphas_cumprod);
    mem_free(s->timesteps);
    mem_free(s->sigmas);
    mem_free(s->order_list);
    mem_free(s->memory);
    mem_free(s);
}

const sampler_row *sampler_about(const sampler *s) { return s->row; }
int sampler_steps(const sampler *s) { return s->steps; }
int sampler_calls(const sampler *s) { return s->calls; }
double sampler_timestep(const sampler *s, int call) { return s->timesteps[call]; }
float sampler_init_noise_sigma(const sampler *s) { return s->init_noise_sigma; }
void sampler_set_eta(sampler *s, double eta) { s->eta = eta; }

bool sampler_wants_variance(const sampler *s)
{
    int kind = s->config.variance_type;
    return s->row->ops->class_bit == CLASS_DDPM && (kind == VARIANCE_LEARNED || kind == VARIANCE_LEARNED_RANGE);
}

bool sampler_draws_noise(const sampler *s, int call) { return s->row->ops->draws && s->row->ops->draws(s, call); }

void sampler_scale_input(const sampler *s, int call, const float *x, float *out, size_t n)
{
    if (s->row->ops->level != LEVEL_SIGMAS_EDM) {
        if (out != x)
            memcpy(out, x, n * sizeof *x);
        return;
    }
    float scale = sqrtf(s->sigmas[call] * s->sigmas[call] + 1);
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] / scale;
}

void sampler_add_noise(const sampler *s, int call, const float *original, const float *noise, float *out, size_t n)
{
    float signal = 1, amount = 0;
    switch (s->row->ops->level) {
    case LEVEL_SIGMAS_EDM:
        amount = s->sigmas[call];
        break;
    case LEVEL_SIGMAS_VP: {
        vp p = vp_at(s->sigmas[call]);
        signal = p.alpha;
        amount = p.sigma;
        break;
    }
    case LEVEL_ALPHAS:
        if (call < s->calls) {
            float a = schedule_alpha(s, (int)s->timesteps[call]);
            signal = sqrtf(a);
            amount = sqrtf(1 - a);
        }
    }
    combine(out, signal, original, amount, noise, n);
}

bool sampler_add_noise_at(const sampler *s, int timestep, const float *original, const float *noise, float *out, size_t n)
{
    if (timestep < 0 || timestep >= s->config.num_train_timesteps)
        return false;
    float a = s->alphas_cumprod[timestep];
    combine(out, sqrtf(a), original, sqrtf(1 - a), noise, n);
    return true;
}

/* The trajectory --------------------------------------------------------------------------------------------------- */

static void restart(sampler *s, int call)
{
    s->begin = call;
    s->done = 0;
    s->held = 0;
    s->order = 0;
}

int sampler_begin_at(sampler *s, double strength)
{
    double wanted = s->steps * strength; /* NaN and negative: none */
    int kept = wanted >= s->steps ? s->steps : wanted >= 1 ? (int)wanted : 0;
    int first = (s->steps - kept) * s->row->ops->calls_per_step;
    restart(s, first < s->calls ? first : s->calls);
    return s->begin;
}

bool sampler_begin_distilled(sampler *s, double strength)
{
    int points = (int)(s->config.original_inference_steps * strength);
    if (s->row->ops->class_bit != CLASS_LCM || points < s->steps)
        return false;
    schedule_distilled_from(s, points);
    restart(s, 0);
    return true;
}

bool sampler_begin_call(sampler *s, int call)
{
    if (call < 0 || call > s->calls || call % s->row->ops->calls_per_step != 0)
        return false;
    restart(s, call);
    return true;
}

/* Timesteps below what is left of the trained ones when that share of them is done. */
static double cutoff_of(const sampler *s, double share)
{
    double n = s->config.num_train_timesteps;
    return rint(n - share * n);
}

int sampler_begin_from(sampler *s, double share)
{
    double cutoff = cutoff_of(s, share);
    int left = 0;
    for (int i = 0; i < s->calls; i++)
        left += s->timesteps[i] < cutoff;
    if (s->row->ops->calls_per_step == 2 && left % 2 == 0)
        left++; /* not between the two evaluations of a step */
    restart(s, left < s->calls ? s->calls - left : 0);
    return s->begin;
}

int sampler_end_at(const sampler *s, double share)
{
    double cutoff = cutoff_of(s, share);
    int done = 0;
    for (int i = 0; i < s->calls; i++)
        done += s->timesteps[i] >= cutoff;
    return done;
}

static bool ever_draws(const sampler *s)
{
    for (int call = 0; call < s->calls; call++)
        if (sampler_draws_noise(s, call))
            return true;
    return false;
}

static bool state_floats(const sampler *s, size_t images, size_t per_image, size_t *n, size_t *total)
{
    const sampler_ops *ops = s->row->ops;
    size_t arrays = (size_t)ops->slots(s) + ever_draws(s);
    return size_mul(images, per_image, n) && size_mul(*n, arrays, total) &&
           size_add(*total, s->config.thresholding ? per_image : 0, total);
}

size_t sampler_state_bytes(const sampler *s, size_t images, size_t per_image)
{
    size_t n, total, bytes;
    if (!state_floats(s, images, per_image, &n, &total) || !size_mul(total, sizeof(float), &bytes))
        return SIZE_MAX;
    return bytes;
}

/* Lay the slots out for this batch, in memory that only grows. */
static bool make_room(sampler *s, size_t images, size_t per_image, status *st)
{
    size_t n, total;
    if (!state_floats(s, images, per_image, &n, &total) || n == 0)
        return status_set(st, STATUS_FAILED, "sampler: no room for %zu images of %zu values", images, per_image);
    if (total > s->room) {
        mem_free(s->memory);
        s->room = 0;
        s->memory = mem_alloc(total, sizeof(float), "sampler", st);
        if (!s->memory)
            return false;
        s->room = total;
    }
    s->n = n;
    s->images = images;
    s->per_image = per_image;
    float *next = s->memory;
    for (int i = 0; i < s->row->ops->slots(s); i++, next += n)
        s->slot[i] = next;
    if (ever_draws(s)) {
        s->noise = next;
        next += n;
    }
    s->threshold_scratch = (uint32_t *)next; /* a float's size and alignment; read and written only as bits */
    return true;
}

bool sampler_step(sampler *s, int call, const float *model_output, float *x, size_t images, size_t per_image,
                  sampler_noise noise, void *ctx, status *st)
{
    if (call == s->begin)
        restart(s, call);
    if (call < 0 || call >= s->calls || call != s->begin + s->done)
        return status_set(st, STATUS_FAILED, "sampler: call %d out of order, wanted %d of %d", call, s->begin + s->done, s->calls);
    if (s->done == 0 ? !make_room(s, images, per_image, st) : images != s->images || per_image != s->per_image)
        return status_set(st, STATUS_FAILED, "sampler: the batch changed its size at call %d", call);
    bool draws = sampler_draws_noise(s, call);
    if (draws && !noise)
        return status_set(st, STATUS_FAILED, "sampler: %s draws noise and was given no source", s->row->method);
    if (draws)
        noise(ctx, s->noise, s->n);
    s->row->ops->step(s, call, model_output, x, draws ? s->noise : NULL);
    s->done++;
    return true;
}

/* Putting a trajectory aside ---------------------------------------------------------------------------------------- */

enum { COUNTS = 4 };

bool sampler_save(const sampler *s, sampler_visit visit, void *ctx)
{
    int32_t counts[COUNTS] = {s->begin, s->done, s->held, s->order};
    bool good = visit(ctx, counts, sizeof counts);
    for (int i = 0; good && s->done > 0 && i < s->row->ops->slots(s); i++)
        good = visit(ctx, s->slot[i], s->n * sizeof(float));
    return good;
}

bool sampler_restore(sampler *s, int call, size_t images, size_t per_image, sampler_visit visit, void *ctx, status *st)
{
    int32_t counts[COUNTS];
    if (!visit(ctx, counts, sizeof counts))
        return false;
    int begin = counts[0], done = counts[1], held = counts[2], order = counts[3];
    if (begin < 0 || done < 0 || begin > s->calls || done > s->calls - begin || begin + done != call || held < 0 || held > MAX_SLOTS ||
        order < 0 || order > MAX_SLOTS)
        return status_set(st, STATUS_BAD_FILE, "sampler: no state of this schedule (begun at call %d, %d done)", begin, done);
    restart(s, begin);
    if (done > 0 && !make_room(s, images, per_image, st))
        return false;
    for (int i = 0; done > 0 && i < s->row->ops->slots(s); i++)
        if (!visit(ctx, s->slot[i], s->n * sizeof(float)))
            return false;
    s->done = done;
    s->held = held;
    s->order = order;
    return true;
}

uint64_t sampler_identity(const sampler *s)
{
    const sampler_config *c = &s->config;
    uint64_t h = XXH3_64bits(s->row->method, strlen(s->row->method));
    const int numbers[] = {s->steps, s->calls, c->prediction_type, c->algorithm_type, c->solver_type, c->solver_order, c->variance_type};
    h = XXH3_64bits_withSeed(numbers, sizeof numbers, h);
    h = XXH3_64bits_withSeed(&s->eta, sizeof s->eta, h);
    h = XXH3_64bits_withSeed(s->timesteps, (size_t)s->calls * sizeof *s->timesteps, h);
    if (s->sigmas)
        h = XXH3_64bits_withSeed(s->sigmas, ((size_t)s->calls + 1) * sizeof *s->sigmas, h);
    if (s->alphas_cumprod)
        h = XXH3_64bits_withSeed(s->alphas_cumprod, (size_t)c->num_train_timesteps * sizeof *s->alphas_cumprod, h);
    return h;
}
