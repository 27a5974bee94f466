/* sampler_config.c: scheduler_config.json to struct sampler_config.
 *
 * One list of keys says which class of diffusers knows a key, its type and what values make sense. Switching classes is
 * then what OtherScheduler.from_config(file) does: defaults of the new class, overlaid with the file's keys that the new
 * class knows (ConfigMixin.extract_init_dict in diffusers/configuration_utils.py). */
#include <json-c/json.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "sampling/sampler_impl.h"

typedef enum key_kind { KEY_BOOL, KEY_INT, KEY_NUMBER, KEY_WORD, KEY_BETAS, KEY_STEPS, KEY_ABSENT } key_kind;

typedef struct key {
    const char *name;
    key_kind kind;
    size_t offset;
    unsigned classes;
    double low, high;  /* KEY_INT, KEY_NUMBER: inclusive */
    const char *words; /* KEY_WORD: separated by blanks, in the order of the enum */
} key;

enum {
    SIGMA_CLASSES = CLASS_LMS | CLASS_EULER | CLASS_HEUN | CLASS_DPM_MULTI | CLASS_DPM_SINGLE | CLASS_UNIPC,
    DPM_CLASSES = CLASS_DPM_MULTI | CLASS_DPM_SINGLE,
    SOLVER_CLASSES = DPM_CLASSES | CLASS_UNIPC,
    CLIP_CLASSES = CLASS_DDIM | CLASS_DDPM | CLASS_HEUN | CLASS_LCM, /* TCD has the keys and ignores them */
    THRESHOLD_CLASSES = CLASS_DDIM | CLASS_DDPM | SOLVER_CLASSES | CLASS_LCM,
    SNR_CLASSES = CLASS_ALL & ~(CLASS_PNDM | CLASS_LMS | CLASS_HEUN | CLASS_DPM_SINGLE)
};

#define AT(field) offsetof(sampler_config, field)
#define FLAG(field, classes) {#field, KEY_BOOL, AT(field), classes, 0, 0, NULL}
#define WHOLE(field, classes, low, high) {#field, KEY_INT, AT(field), classes, low, high, NULL}
#define NUMBER(field, classes, low, high) {#field, KEY_NUMBER, AT(field), classes, low, high, NULL}
#define WORD(field, classes, words) {#field, KEY_WORD, AT(field), classes, 0, 0, words}
#define ABSENT(name, classes) {name, KEY_ABSENT, 0, classes, 0, 0, NULL}

/* sigma_min and sigma_max: diffusers' conversions look for them with hasattr, so that they count for every class. */
static const key keys[] = {
    WHOLE(num_train_timesteps, CLASS_ALL, 1, 1000000),
    NUMBER(beta_start, CLASS_ALL, 0, 1),
    NUMBER(beta_end, CLASS_ALL, 0, 1),
    WORD(beta_schedule, CLASS_ALL, "linear scaled_linear squaredcos_cap_v2 sigmoid laplace exp"),
    {"trained_betas", KEY_BETAS, AT(trained_betas), CLASS_ALL, 0, 1, NULL},
    WORD(prediction_type, CLASS_ALL, "epsilon sample v_prediction"),
    WORD(timestep_spacing, CLASS_ALL & ~CLASS_DPM_SINGLE, "linspace leading trailing"),
    WHOLE(steps_offset, CLASS_ALL & ~CLASS_DPM_SINGLE, 0, 1000000),
    FLAG(rescale_betas_zero_snr, SNR_CLASSES),
    FLAG(clip_sample, CLIP_CLASSES),
    NUMBER(clip_sample_range, CLIP_CLASSES, 0, 1e30),
    FLAG(set_alpha_to_one, CLASS_DDIM | CLASS_PNDM | CLASS_LCM | CLASS_TCD),
    FLAG(thresholding, THRESHOLD_CLASSES),
    NUMBER(dynamic_thresholding_ratio, THRESHOLD_CLASSES, 0, 1),
    NUMBER(sample_max_value, THRESHOLD_CLASSES, 0, 1e30),
    WORD(variance_type, CLASS_DDPM | DPM_CLASSES,
         "none fixed_small fixed_small_log fixed_large fixed_large_log learned learned_range"),
    FLAG(use_karras_sigmas, SIGMA_CLASSES),
    FLAG(use_exponential_sigmas, SIGMA_CLASSES),
    FLAG(use_beta_sigmas, SIGMA_CLASSES),
    FLAG(use_lu_lambdas, CLASS_DPM_MULTI),
    NUMBER(sigma_min, CLASS_ALL, 1e-10, 1e10),
    NUMBER(sigma_max, CLASS_ALL, 1e-10, 1e10),
    WORD(interpolation_type, CLASS_EULER, "linear log_linear"),
    WORD(timestep_type, CLASS_EULER, "discrete continuous"),
    WORD(final_sigmas_type, CLASS_EULER | SOLVER_CLASSES, "zero sigma_min"),
    WHOLE(solver_order, SOLVER_CLASSES, 1, 3),
    WORD(algorithm_type, DPM_CLASSES, "dpmsolver dpmsolver++ sde-dpmsolver sde-dpmsolver++ deis"),
    WORD(solver_type, SOLVER_CLASSES, "midpoint heun logrho bh1 bh2"),
    FLAG(lower_order_final, SOLVER_CLASSES),
    FLAG(euler_at_final, CLASS_DPM_MULTI),
    NUMBER(lambda_min_clipped, DPM_CLASSES, -INFINITY, INFINITY),
    FLAG(predict_x0, CLASS_UNIPC),
    {"disable_corrector", KEY_STEPS, AT(disable_corrector), CLASS_UNIPC, 0, 0, NULL},
    FLAG(skip_prk_steps, CLASS_PNDM),
    WHOLE(original_inference_steps, CLASS_LCM | CLASS_TCD, 1, 1000000),
    NUMBER(timestep_scaling, CLASS_LCM | CLASS_TCD, 0, 1e30),
    ABSENT("use_flow_sigmas", SOLVER_CLASSES),
    ABSENT("use_dynamic_shifting", SOLVER_CLASSES),
    ABSENT("shift_terminal", CLASS_UNIPC),
    ABSENT("solver_p", CLASS_UNIPC),
};

/* Reading ---------------------------------------------------------------------------------------------------------- */

static bool bad_value(const key *k, json_object *v, const char *wanted, status *st)
{
    return status_set(st, STATUS_BAD_FILE, "scheduler config: %s is %.60s, wanted %s", k->name,
                      json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN), wanted);
}

static bool read_word(int *out, const key *k, json_object *v, status *st)
{
    const char *word = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
    size_t length = strlen(word);
    int index = 0;
    for (const char *w = k->words; *w; index++) {
        size_t span = strcspn(w, " ");
        if (span == length && memcmp(w, word, length) == 0) {
            *out = index;
            return true;
        }
        w += span;
        w += *w == ' ';
    }
    char wanted[160] = "one of ";
    strncat(wanted, k->words, sizeof wanted - strlen(wanted) - 1);
    return bad_value(k, v, wanted, st);
}

static bool is_number(json_object *v) { return json_object_is_type(v, json_type_int) || json_object_is_type(v, json_type_double); }

static bool read_betas(sampler_config *c, const key *k, json_object *v, status *st)
{
    if (!json_object_is_type(v, json_type_array))
        return bad_value(k, v, "a list of numbers", st);
    size_t count = json_object_array_length(v);
    mem_free(c->trained_betas);
    c->trained_betas = mem_alloc(count ? count : 1, sizeof *c->trained_betas, "trained_betas", st);
    if (!c->trained_betas)
        return false;
    c->trained_betas_count = count;
    for (size_t i = 0; i < count; i++) {
        json_object *beta = json_object_array_get_idx(v, i);
        c->trained_betas[i] = is_number(beta) ? json_object_get_double(beta) : (double)NAN;
        if (!(c->trained_betas[i] >= 0 && c->trained_betas[i] <= 1))
            return status_set(st, STATUS_BAD_FILE, "scheduler config: trained_betas[%zu] is no number in 0..1", i);
    }
    return true;
}

static bool read_steps(uint64_t *bits, const key *k, json_object *v, status *st)
{
    if (!json_object_is_type(v, json_type_array))
        return bad_value(k, v, "a list of steps", st);
    for (size_t i = 0; i < json_object_array_length(v); i++) {
        json_object *step = json_object_array_get_idx(v, i);
        int64_t at = json_object_is_type(step, json_type_int) ? json_object_get_int64(step) : -1;
        if (at < 0 || at > 63)
            return bad_value(k, v, "a list of steps from 0 to 63", st);
        *bits |= UINT64_C(1) << at;
    }
    return true;
}

static bool read_number(double *out, const key *k, json_object *v, status *st)
{
    double x = is_number(v) ? json_object_get_double(v) : (double)NAN;
    *out = x;
    if (x >= k->low && x <= k->high)
        return true;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a number from %g to %g", k->low, k->high);
    return bad_value(k, v, wanted, st);
}

static bool read_int(int *out, const key *k, json_object *v, status *st)
{
    int64_t x = json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : INT64_MIN;
    if ((double)x >= k->low && (double)x <= k->high) {
        *out = (int)x;
        return true;
    }
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a whole number from %.0f to %.0f", k->low, k->high);
    return bad_value(k, v, wanted, st);
}

static bool read_key(sampler_config *c, const key *k, json_object *v, status *st)
{
    void *field = (char *)c + k->offset;
    switch (k->kind) {
    case KEY_BOOL:
        if (!json_object_is_type(v, json_type_boolean))
            return bad_value(k, v, "true or false", st);
        *(bool *)field = json_object_get_boolean(v);
        return true;
    case KEY_INT:
        return read_int(field, k, v, st);
    case KEY_NUMBER:
        return read_number(field, k, v, st);
    case KEY_WORD:
        return read_word(field, k, v, st);
    case KEY_BETAS:
        return read_betas(c, k, v, st);
    case KEY_STEPS:
        return read_steps(field, k, v, st);
    case KEY_ABSENT:
        if (!json_object_is_type(v, json_type_boolean) || json_object_get_boolean(v))
            return bad_value(k, v, "false (flow matching is not supported by this sampler)", st);
        return true;
    }
    return true;
}

static json_object *parse(const char *text, size_t length, const char *what, status *st)
{
    if (length > INT_MAX) {
        status_set(st, STATUS_BAD_FILE, "%s: %zu bytes are too many", what, length);
        return NULL;
    }
    json_tokener *tokener = json_tokener_new(); /* not strict: Python writes -Infinity */
    if (!tokener) {
        status_set(st, STATUS_FAILED, "%s: out of memory", what);
        return NULL;
    }
    json_object *root = json_tokener_parse_ex(tokener, text, (int)length);
    enum json_tokener_error error = json_tokener_get_error(tokener);
    size_t end = json_tokener_get_parse_end(tokener);
    json_tokener_free(tokener);
    if (!json_object_is_type(root, json_type_object)) {
        status_set(st, STATUS_BAD_FILE, "%s: not a JSON object (%s at byte %zu)", what, json_tokener_error_desc(error), end);
        json_object_put(root);
        return NULL;
    }
    return root;
}

bool sampler_source_open(sampler_source *f, const char *json, size_t length, const char *forced, status *st)
{
    memset(f, 0, sizeof *f);
    if (json && !(f->root = parse(json, length, "scheduler config", st)))
        return false;
    if (forced && !(f->forced = parse(forced, strlen(forced), "forced scheduler values", st)))
        return false;
    json_object *name;
    if (f->root && json_object_object_get_ex(f->root, "_class_name", &name)) {
        const char *text = json_object_is_type(name, json_type_string) ? json_object_get_string(name) : NULL;
        if (!text || strlen(text) >= sizeof f->class_name)
            return status_set(st, STATUS_BAD_FILE, "scheduler config: _class_name is no class name");
        strcpy(f->class_name, text);
    }
    return true;
}

void sampler_source_close(sampler_source *f)
{
    json_object_put(f->root);
    json_object_put(f->forced);
}

/* Defaults and checks ---------------------------------------------------------------------------------------------- */

static void set_defaults(sampler_config *c, unsigned class_bit)
{
    bool distilled = class_bit & (CLASS_LCM | CLASS_TCD);
    bool old_spacing = class_bit & (CLASS_DDIM | CLASS_DDPM | CLASS_PNDM) || distilled;
    bool new_betas = class_bit & CLASS_HEUN || distilled;
    *c = (sampler_config){
        .num_train_timesteps = 1000,
        .beta_start = new_betas ? 0.00085 : 0.0001,
        .beta_end = new_betas ? 0.012 : 0.02,
        .beta_schedule = distilled ? BETA_SCALED_LINEAR : BETA_LINEAR,
        .prediction_type = PREDICT_EPSILON,
        .timestep_spacing = old_spacing ? SPACING_LEADING : SPACING_LINSPACE,
        .clip_sample = class_bit & (CLASS_DDIM | CLASS_DDPM),
        .clip_sample_range = 1.0,
        .set_alpha_to_one = class_bit != CLASS_PNDM,
        .dynamic_thresholding_ratio = 0.995,
        .sample_max_value = 1.0,
        .variance_type = class_bit == CLASS_DDPM ? VARIANCE_FIXED_SMALL : VARIANCE_NONE,
        .sigma_min = (double)NAN,
        .sigma_max = (double)NAN,
        .solver_order = 2,
        .algorithm_type = ALGORITHM_DPMPP,
        .solver_type = class_bit == CLASS_UNIPC ? SOLVER_BH2 : SOLVER_MIDPOINT,
        .lower_order_final = class_bit != CLASS_DPM_SINGLE,
        .lambda_min_clipped = -INFINITY,
        .predict_x0 = true,
        .original_inference_steps = 50,
        .timestep_scaling = 10.0,
    };
}

static bool unsupported(const sampler_row *row, const char *what, status *st)
{
    return status_set(st, STATUS_BAD_FILE, "scheduler config: %s has no %s", row->class_name, what);
}

/* What diffusers refuses, or would divide by, in combinations of values. */
static bool check(const sampler_config *c, const sampler_row *row, status *st)
{
    unsigned class_bit = row->ops->class_bit;
    bool extra_betas = c->beta_schedule >= BETA_SIGMOID;
    if (extra_betas && !(class_bit == CLASS_DDPM && c->beta_schedule != BETA_EXP) &&
        !(class_bit == CLASS_HEUN && c->beta_schedule == BETA_EXP))
        return unsupported(row, c->beta_schedule == BETA_SIGMOID ? "beta_schedule sigmoid"
                                : c->beta_schedule == BETA_LAPLACE ? "beta_schedule laplace" : "beta_schedule exp", st);
    if (class_bit & (CLASS_PNDM | CLASS_EULER_A) && c->prediction_type == PREDICT_SAMPLE)
        return unsupported(row, "prediction_type sample", st);
    if (c->trained_betas && c->trained_betas_count != (size_t)c->num_train_timesteps)
        return status_set(st, STATUS_BAD_FILE, "scheduler config: %zu trained_betas for %d num_train_timesteps",
                          c->trained_betas_count, c->num_train_timesteps);
    if (c->use_karras_sigmas + c->use_exponential_sigmas + c->use_beta_sigmas > 1)
        return status_set(st, STATUS_BAD_FILE, "scheduler config: only one of use_karras_sigmas, use_exponential_sigmas, "
                                               "use_beta_sigmas can be true");
    if (c->use_lu_lambdas + c->use_karras_sigmas + c->use_exponential_sigmas + c->use_beta_sigmas && c->num_train_timesteps < 2)
        return status_set(st, STATUS_BAD_FILE, "scheduler config: num_train_timesteps %d is too small to space sigmas",
                          c->num_train_timesteps);
    bool noise_space = c->algorithm_type == ALGORITHM_DPM || c->algorithm_type == ALGORITHM_SDE_DPM;
    if (class_bit & DPM_CLASSES && noise_space && c->final_sigmas_type == FINAL_ZERO)
        return status_set(st, STATUS_BAD_FILE, "scheduler config: final_sigmas_type zero does not go with algorithm_type "
                                               "dpmsolver or sde-dpmsolver, wanted sigma_min");
    if (class_bit == CLASS_DPM_SINGLE && c->algorithm_type == ALGORITHM_SDE_DPM)
        return unsupported(row, "algorithm_type sde-dpmsolver", st);
    if (class_bit == CLASS_DPM_SINGLE && c->algorithm_type == ALGORITHM_DPM && c->thresholding)
        return unsupported(row, "thresholding with algorithm_type dpmsolver", st);
    if (class_bit & DPM_CLASSES && c->algorithm_type == ALGORITHM_SDE_DPM && c->solver_order == 3)
        return unsupported(row, "order 3 of sde-dpmsolver", st);
    return true;
}

/* Names that a class takes from another's file and reads as its own (diffusers' register_to_config calls). */
static void translate_names(sampler_config *c, unsigned class_bit)
{
    bool unipc_type = c->solver_type == SOLVER_BH1 || c->solver_type == SOLVER_BH2;
    if (class_bit == CLASS_UNIPC && !unipc_type)
        c->solver_type = SOLVER_BH2;
    if (class_bit & DPM_CLASSES && (unipc_type || c->solver_type == SOLVER_LOGRHO))
        c->solver_type = SOLVER_MIDPOINT;
    if (c->algorithm_type == ALGORITHM_DEIS)
        c->algorithm_type = ALGORITHM_DPMPP;
}

/* The file's own class has read it first. */
static void translate(sampler_config *c, const sampler_source *f, unsigned class_bit)
{
    for (const sampler_row *r = sampler_table; r->method; r++)
        if (strcmp(r->class_name, f->class_name) == 0 && r->ops->class_bit & SOLVER_CLASSES)
            translate_names(c, r->ops->class_bit);
    translate_names(c, class_bit);
}

bool sampler_config_read(sampler_config *c, const sampler_source *f, const sampler_row *row, status *st)
{
    unsigned class_bit = row->ops->class_bit;
    set_defaults(c, class_bit);
    bool same_class = !f->class_name[0] || strcmp(f->class_name, row->class_name) == 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const key *k = &keys[i];
        if (!(k->classes & class_bit))
            continue;
        json_object *value = NULL, *forced = NULL;
        bool in_file = f->root && json_object_object_get_ex(f->root, k->name, &value);
        if (f->forced && json_object_object_get_ex(f->forced, k->name, &forced) && (in_file || same_class))
            value = forced;
        if (value && !read_key(c, k, value, st)) /* null is the default */
            return false;
    }
    translate(c, f, class_bit);
    return check(c, row, st);
}

/* --scheduler ------------------------------------------------------------------------------------------------------ */

static const struct schedule_row {
    const char *name;
    size_t flag;      /* offset of the bool to set, or 0 */
    int spacing;      /* or -1 */
    unsigned classes; /* that have it */
} schedules[] = {
    {"karras", AT(use_karras_sigmas), -1, SIGMA_CLASSES},
    {"exponential", AT(use_exponential_sigmas), -1, SIGMA_CLASSES},
    {"beta", AT(use_beta_sigmas), -1, SIGMA_CLASSES},
    {"lu", AT(use_lu_lambdas), -1, CLASS_DPM_MULTI},
    {"simple", 0, SPACING_TRAILING, CLASS_ALL & ~CLASS_DPM_SINGLE},
    {"sgm_uniform", 0, SPACING_TRAILING, CLASS_ALL & ~CLASS_DPM_SINGLE},
    {"trailing", 0, SPACING_TRAILING, CLASS_ALL & ~CLASS_DPM_SINGLE},
    {"leading", 0, SPACING_LEADING, CLASS_ALL & ~CLASS_DPM_SINGLE},
    {"linspace", 0, SPACING_LINSPACE, CLASS_ALL},
    {"discrete", 0, -1, CLASS_ALL},
    {"normal", 0, -1, CLASS_ALL},
};

bool sampler_config_schedule(sampler_config *c, const char *schedule, const sampler_row *row, status *st)
{
    char known[320] = "";
    bool list = false, lists = row->ops->class_bit == CLASS_DDPM;
    if (lists && (!timestep_list_find(c, schedule, &list, st) || list))
        return status_ok(st);
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
        const struct schedule_row *r = &schedules[i];
        bool usable = r->classes & row->ops->class_bit;
        if (usable && strcmp(schedule, r->name) == 0) {
            c->use_karras_sigmas = c->use_exponential_sigmas = c->use_beta_sigmas = c->use_lu_lambdas = false;
            if (r->flag)
                *(bool *)((char *)c + r->flag) = true;
            if (r->spacing >= 0)
                c->timestep_spacing = r->spacing;
            return check(c, row, st);
        }
        if (usable) {
            strncat(known, " ", sizeof known - strlen(known) - 1);
            strncat(known, r->name, sizeof known - strlen(known) - 1);
        }
    }
    return status_set(st, STATUS_USAGE, "--scheduler %s: sampling method %s knows:%s%s%s", schedule, row->method, known, lists ? " " : "", lists ? timestep_list_names() : "");
}
