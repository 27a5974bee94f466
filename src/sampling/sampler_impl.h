/* sampler_impl.h: what the files of src/sampling share. Nobody else includes it. */
#ifndef PENSTOCK_SAMPLER_IMPL_H
#define PENSTOCK_SAMPLER_IMPL_H

#include <stdint.h>

#include "sampling/sampler.h"

/* diffusers' scheduler classes, as bits: a config key is known to a set of them. */
enum {
    CLASS_DDIM = 1,
    CLASS_DDPM = 2,
    CLASS_PNDM = 4,
    CLASS_LMS = 8,
    CLASS_EULER = 16,
    CLASS_EULER_A = 32,
    CLASS_HEUN = 64,
    CLASS_DPM_MULTI = 128,
    CLASS_DPM_SINGLE = 256,
    CLASS_UNIPC = 512,
    CLASS_LCM = 1024,
    CLASS_TCD = 2048,
    CLASS_FLASH = 4096, /* no class of diffusers */
    CLASS_ALL = 8191
};

/* The orders are those of the word lists in sampler_config.c. */
enum { BETA_LINEAR, BETA_SCALED_LINEAR, BETA_COSINE, BETA_SIGMOID, BETA_LAPLACE, BETA_EXP };
enum { PREDICT_EPSILON, PREDICT_SAMPLE, PREDICT_V };
enum { SPACING_LINSPACE, SPACING_LEADING, SPACING_TRAILING };
enum { ALGORITHM_DPM, ALGORITHM_DPMPP, ALGORITHM_SDE_DPM, ALGORITHM_SDE_DPMPP, ALGORITHM_DEIS };
enum { SOLVER_MIDPOINT, SOLVER_HEUN, SOLVER_LOGRHO, SOLVER_BH1, SOLVER_BH2 };
enum { FINAL_ZERO, FINAL_SIGMA_MIN };
enum { VARIANCE_NONE, VARIANCE_FIXED_SMALL, VARIANCE_FIXED_SMALL_LOG, VARIANCE_FIXED_LARGE, VARIANCE_FIXED_LARGE_LOG,
       VARIANCE_LEARNED, VARIANCE_LEARNED_RANGE };
enum { INTERPOLATE_LINEAR, INTERPOLATE_LOG_LINEAR };
enum { TIMESTEP_DISCRETE, TIMESTEP_CONTINUOUS };

/* The names are the keys of scheduler_config.json. */
typedef struct sampler_config {
    int num_train_timesteps;
    double beta_start, beta_end;
    int beta_schedule;
    double *trained_betas; /* [num_train_timesteps] or NULL; owned */
    size_t trained_betas_count;
    int prediction_type;
    int timestep_spacing;
    int steps_offset;
    bool rescale_betas_zero_snr;
    bool clip_sample;
    double clip_sample_range;
    bool set_alpha_to_one;
    bool thresholding;
    double dynamic_thresholding_ratio, sample_max_value;
    int variance_type;
    bool use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, use_lu_lambdas;
    double sigma_min, sigma_max; /* NaN: not given */
    int interpolation_type, timestep_type;
    int final_sigmas_type;
    int solver_order, algorithm_type, solver_type;
    bool lower_order_final, euler_at_final;
    double lambda_min_clipped;
    bool predict_x0;
    uint64_t disable_corrector; /* bit i: no corrector after step i; steps beyond 63 always correct */
    bool skip_prk_steps;
    int original_inference_steps;
    double timestep_scaling;
    int *timestep_list;    /* of --scheduler, in place of a spacing; NULL: none; owned */
    int timestep_list_count;
} sampler_config;

enum { MAX_SLOTS = 12 };

struct sampler {
    const sampler_row *row;
    sampler_config config;
    int steps;             /* num_inference_steps as asked for */
    int calls;             /* length of timesteps */
    int begin;             /* first call of the trajectory */
    int done;              /* calls since then */
    double eta;
    float init_noise_sigma;

    float *alphas_cumprod; /* [num_train_timesteps] */
    double *timesteps;     /* [calls] */
    float *sigmas;         /* [calls + 1], of the classes that have them */

    /* The trajectory's memory: slots of n floats each. What a slot is for is the method's business. */
    size_t n, images, per_image;
    size_t room; /* floats allocated */
    float *memory;
    float *slot[MAX_SLOTS];
    int held;        /* earlier model outputs at hand */
    int order;       /* the last step's order (UniPC) */
    int *order_list; /* [calls], single-step DPM-Solver */
    uint32_t *threshold_scratch; /* [per_image] */
    float *noise;             /* [n] */
};

typedef struct sampler_ops {
    unsigned class_bit;
    bool (*plan)(sampler *s, status *st); /* timesteps, sigmas, init_noise_sigma from config and steps */
    /* One call; slots are there, s->done counts. noise is [n], NULL unless draws() */
    void (*step)(sampler *s, int call, const float *model_output, float *x, const float *noise);
    int (*slots)(const sampler *s);            /* how many, at most MAX_SLOTS */
    bool (*draws)(const sampler *s, int call); /* NULL: never */
    enum { LEVEL_ALPHAS, LEVEL_SIGMAS_VP, LEVEL_SIGMAS_EDM } level; /* how add_noise reads the schedule */
    int calls_per_step;                        /* the class's `order`: 2 for Heun */
} sampler_ops;

extern const sampler_ops sampler_ops_ddim, sampler_ops_dpm_multi, sampler_ops_euler, sampler_ops_euler_a, sampler_ops_unipc;
extern const sampler_ops sampler_ops_ddpm, sampler_ops_pndm, sampler_ops_lms, sampler_ops_heun, sampler_ops_dpm_single;
extern const sampler_ops sampler_ops_lcm, sampler_ops_tcd, sampler_ops_flash;

/* sampler_config.c ------------------------------------------------------------------------------------------------ */

typedef struct sampler_source {
    struct json_object *root, *forced; /* NULL: none */
    char class_name[64];               /* _class_name of the file, or empty */
} sampler_source;

bool sampler_source_open(sampler_source *f, const char *json, size_t length, const char *forced, status *st);
void sampler_source_close(sampler_source *f);
/* The class's defaults, overlaid with the file's values that the class knows, checked. */
bool sampler_config_read(sampler_config *c, const sampler_source *f, const sampler_row *row, status *st);
bool sampler_config_schedule(sampler_config *c, const char *schedule, const sampler_row *row, status *st);

/* timestep_lists.c: is `name` a list of timesteps, by its name or typed? Then it goes into the config; errors are STATUS_USAGE. */
bool timestep_list_find(sampler_config *c, const char *name, bool *found, status *st);
const char *timestep_list_names(void);

/* schedule.c ------------------------------------------------------------------------------------------------------ */

/* alphas_cumprod from betas. zero_snr_floor: 2^-24 instead of 0 at the end of a rescaled schedule (the sigma classes). */
bool schedule_alphas(sampler *s, bool zero_snr_floor, status *st);
/* Room for calls timesteps (and calls + 1 sigmas); sets s->calls. */
bool schedule_room(sampler *s, int calls, status *st);

/* Whole timesteps of DDIM, DDPM: steps of them, descending. */
bool schedule_timesteps(sampler *s, status *st);
/* alphas_cumprod[t] as Python indexes it: -1 is the last. */
float schedule_alpha(const sampler *s, int t);
/* Every alphas_cumprod index that the run will use has to exist, else STATUS_USAGE. */
bool schedule_check(const sampler *s, int t, status *st);
/* LCM and TCD: steps of the original_inference_steps that the model was distilled from. */
bool schedule_distilled(sampler *s, status *st);
void schedule_distilled_from(sampler *s, int points); /* of the first `points` of original_inference_steps only */

/* sigmas of the DPM-Solver kind (leading and linspace over steps + 1 points, schedules over the whole training range):
 * DPMSolverMultistep, DPMSolverSinglestep, UniPC. */
bool schedule_sigmas_dpm(sampler *s, status *st);
/* sigmas of the k-diffusion kind (schedules between the sigmas of the spacing): Euler, Euler ancestral, LMS, Heun. */
bool schedule_sigmas_euler(sampler *s, status *st);

/* sigma_spacing.c ------------------------------------------------------------------------------------------------- */

/* n sigmas between high and low, descending, by the config's karras, exponential or beta; false if none is set. */
bool sigma_spacing(const sampler_config *c, double high, double low, int n, double *sigmas);
/* The (fractional) timestep of a sigma; log_sigmas [count] ascending. */
double sigma_to_timestep(double sigma, const float *log_sigmas, int count);
float numpy_logf(float x);

/* Element i of numpy.linspace(start, stop, n). */
double numpy_linspace(double start, double stop, int n, int i);

/* sampler_math.c: arithmetic that several methods share ----------------------------------------------------------- */

/* exp, expm1, log of a float, rounded from double. */
float exp_float(float x);
float expm1_float(float x);
float log_float(float x);

/* A variance-preserving process at noise level sigma / alpha: alpha^2 + sigma^2 = 1, lambda = ln(alpha / sigma). */
typedef struct vp {
    float alpha, sigma, lambda;
} vp;
vp vp_at(float level);

/* out = a * x + b * y, every operation rounded, as torch does it. */
void combine(float *out, float a, const float *x, float b, const float *y, size_t n);

/* Model output to predicted x0 (thresholded if the config says so) or to predicted noise; the solvers' and by the level
 * sigmas[call]. out may be model_output's memory, not x's. */
void solver_x0(sampler *s, int call, const float *model_output, const float *x, float *out);
void solver_epsilon(sampler *s, int call, const float *model_output, const float *x, float *out);
/* The same for DDIM and its kin, by alphas_cumprod, thresholded or clipped. */
void discrete_x0(sampler *s, float alpha_cumprod, const float *model_output, const float *x, float *out);
void discrete_epsilon(sampler *s, float alpha_cumprod, const float *model_output, const float *x, float *out);
/* Euler and its kin: one element's x0 at this sigma. */
float clamp_float(float x, float low, float high); /* NaN stays NaN */
float sigma_x0(const sampler *s, float sigma, float model_output, float x);

/* slot[0 .. count - 1] move back by one, the oldest becomes slot[0] to be overwritten. */
float *rotate_slots(sampler *s, int count);

#endif
