/* test_sampling.c: every sampler against trajectories of diffusers' own (tests/fixtures/make_sampling.py tells the
 * format and the model that is played here). */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "sampling/sampler.h"
#include "tests/support.h"

enum { IMAGES = 2, PER_IMAGE = 60, COUNT = IMAGES * PER_IMAGE, TEXT = 8192 };

/* How far a trajectory may stray from diffusers', as a part of its sample's greatest magnitude, over all its steps. Where
 * the first sigma is in the thousands (zero terminal SNR, exp betas) the rounding of the first samples, which are that
 * large, stays in the last ones, which are not. */
static double tolerance(float init_noise_sigma) { return init_noise_sigma > 200 ? 3e-5 : 2e-6; }

/* Fractional timesteps come from logarithms of square roots; torch's square root (MKL's) is not always the nearest. */
static const double timestep_tolerance = 1e-6;

/* Fixtures --------------------------------------------------------------------------------------------------------- */

typedef struct fixture {
    char name[128], method[32], schedule[32], config[TEXT];
    int steps, forced;
    double eta, strength; /* strength < 0: from noise */
    uint32_t calls, first, kept;
    double timesteps[256];
    float init_noise_sigma, start[COUNT], after[256][COUNT], end[COUNT];
} fixture;

static void copy_word(char *out, size_t room, const char *value)
{
    cr_assert_lt(strlen(value), room);
    strcpy(out, value);
}

static void read_header(fixture *x, char *text)
{
    x->method[0] = x->schedule[0] = x->config[0] = '\0';
    x->forced = 0;
    x->eta = 0;
    x->strength = -1;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *value = strchr(line, ' ');
        cr_assert(value);
        *value++ = '\0';
        if (strcmp(line, "name") == 0)
            copy_word(x->name, sizeof x->name, value);
        else if (strcmp(line, "method") == 0)
            copy_word(x->method, sizeof x->method, value);
        else if (strcmp(line, "schedule") == 0)
            copy_word(x->schedule, sizeof x->schedule, value);
        else if (strcmp(line, "config") == 0)
            copy_word(x->config, sizeof x->config, value);
        else if (strcmp(line, "steps") == 0)
            x->steps = atoi(value);
        else if (strcmp(line, "forced") == 0)
            x->forced = atoi(value);
        else if (strcmp(line, "eta") == 0)
            x->eta = atof(value);
        else if (strcmp(line, "strength") == 0)
            x->strength = atof(value);
    }
}

static bool read_fixture(FILE *f, fixture *x)
{
    uint32_t length;
    if (fread(&length, sizeof length, 1, f) != 1)
        return false;
    static char text[TEXT];
    cr_assert_lt(length, sizeof text);
    take(f, text, length);
    text[length] = '\0';
    read_header(x, text);
    take(f, &x->calls, sizeof x->calls);
    take(f, &x->first, sizeof x->first);
    take(f, &x->kept, sizeof x->kept);
    cr_assert(x->calls < 256 && x->first <= x->calls && x->kept <= COUNT);
    take(f, x->timesteps, x->calls * sizeof *x->timesteps);
    take(f, &x->init_noise_sigma, sizeof x->init_noise_sigma);
    take(f, x->start, x->kept * sizeof(float));
    for (uint32_t i = x->first; i < x->calls; i++)
        take(f, x->after[i], x->kept * sizeof(float));
    take(f, x->end, sizeof x->end);
    return true;
}

/* Playing ---------------------------------------------------------------------------------------------------------- */

static void draw(void *ctx, float *out, size_t n)
{
    rng *generators = ctx;
    for (size_t k = 0; k < IMAGES; k++)
        rng_normal(&generators[k], out + k * (n / IMAGES), n / IMAGES);
}

/* out [COUNT], or [2 * COUNT] with the variance in the second half. */
static void play_model(const sampler *s, int call, const float *x, float *out, bool squared_variance)
{
    float scaled[COUNT], d[COUNT], v[COUNT];
    rng g;
    rng_seed(&g, 777);
    rng_normal(&g, d, COUNT);
    rng_seed(&g, 778);
    rng_normal(&g, v, COUNT);
    sampler_scale_input(s, call, x, scaled, COUNT);
    float shift = (float)(0.1 * sin(sampler_timestep(s, call) / 100));
    for (int i = 0; i < COUNT; i++) {
        float m = 0.3f * scaled[i] + shift;
        float noise = 0.5f * d[((i - 7 * call) % COUNT + COUNT) % COUNT];
        out[i] = m + noise;
        if (sampler_wants_variance(s))
            out[COUNT + i] = 0.25f * (squared_variance ? fabsf(v[i]) : v[i]);
    }
}

/* |got - wanted| as a part of the greatest magnitude; got is taken every stride-th value. */
static double distance(const float *got, const float *wanted, size_t kept, size_t stride)
{
    double worst = 0, scale = 1e-6;
    for (size_t i = 0; i < kept; i++) {
        double d = fabs((double)got[i * stride] - (double)wanted[i]);
        worst = d > worst || isnan(d) ? d : worst;
        scale = fmax(scale, fabs((double)wanted[i]));
    }
    return worst / scale;
}

static sampler *open_for(const fixture *x, status *st)
{
    const char *forced = x->forced ? "{\"steps_offset\": 1, \"clip_sample\": false}" : NULL;
    sampler *s = sampler_open_forced(x->config[0] ? x->config : NULL, strlen(x->config), x->method[0] ? x->method : NULL,
                                     x->schedule[0] ? x->schedule : NULL, x->steps, forced, st);
    if (s)
        sampler_set_eta(s, x->eta);
    return s;
}

static void begin(const fixture *x, sampler *s, rng *generators, float *sample)
{
    for (int k = 0; k < IMAGES; k++)
        rng_seed(&generators[k], 100 + (uint64_t)k);
    draw(generators, sample, COUNT);
    if (x->strength < 0) {
        for (int i = 0; i < COUNT; i++)
            sample[i] *= sampler_init_noise_sigma(s);
        return;
    }
    float picture[COUNT];
    for (int i = 0; i < COUNT; i++)
        picture[i] = (float)sin((double)((float)i / 9));
    int first = sampler_begin_at(s, x->strength);
    cr_expect_eq(first, (int)x->first, "%s: begins at %d, wanted %u", x->name, first, x->first);
    sampler_add_noise(s, first, picture, sample, sample, COUNT);
}

/* The greatest distance over the trajectory. */
static double play(const fixture *x, sampler *s)
{
    rng generators[IMAGES];
    float sample[COUNT], output[2 * COUNT];
    begin(x, s, generators, sample);
    size_t stride = COUNT / x->kept;
    double worst = distance(sample, x->start, x->kept, stride);
    for (int call = (int)x->first; call < (int)x->calls; call++) {
        status st = STATUS_INIT;
        play_model(s, call, sample, output, strstr(x->config, "\"learned\"") != NULL);
        cr_assert(sampler_step(s, call, output, sample, IMAGES, PER_IMAGE, draw, generators, &st), "%s: %s", x->name, st.text);
        double d = distance(sample, x->after[call], x->kept, stride);
        worst = d > worst || isnan(d) ? d : worst;
    }
    double d = distance(sample, x->end, COUNT, 1);
    return d > worst || isnan(d) ? d : worst;
}

Test(sampling, equals_diffusers, .timeout = 120)
{
    static fixture x;
    FILE *f = fixture_open("sampling", "cases.bin");
    int cases = 0;
    double worst = 0;
    bool report = getenv("PENSTOCK_REPORT") != NULL;
    while (read_fixture(f, &x)) {
        status st = STATUS_INIT;
        sampler *s = open_for(&x, &st);
        cases++;
        cr_expect(s, "%s: %s", x.name, st.text);
        if (!s)
            continue;
        cr_expect_eq(sampler_calls(s), (int)x.calls, "%s: %d calls, wanted %u", x.name, sampler_calls(s), x.calls);
        cr_expect_float_eq(sampler_init_noise_sigma(s), x.init_noise_sigma, 1e-6f * x.init_noise_sigma, "%s", x.name);
        for (int i = 0; i < sampler_calls(s) && i < (int)x.calls; i++)
            cr_expect(fabs(sampler_timestep(s, i) - x.timesteps[i]) <= timestep_tolerance * fabs(x.timesteps[i]),
                      "%s: timestep %d is %.9g, wanted %.9g", x.name, i, sampler_timestep(s, i), x.timesteps[i]);
        if (sampler_calls(s) == (int)x.calls) {
            double d = play(&x, s);
            cr_expect(d <= tolerance(x.init_noise_sigma), "%s: strays by %.3g", x.name, d);
            worst = fmax(worst, d);
            if (report)
                fprintf(stderr, "%.3g %s\n", d, x.name);
            cr_expect_eq(play(&x, s), d, "%s: a second trajectory differs from the first", x.name);
        }
        sampler_close(s);
    }
    fclose(f);
    cr_expect_geq(cases, 120);
    if (report)
        fprintf(stderr, "%d cases, worst %.3g\n", cases, worst);
    cr_expect_eq(mem_in_use(), 0, "%zu bytes leaked", mem_in_use());
}

/* Refusals --------------------------------------------------------------------------------------------------------- */

static const struct refusal {
    const char *config, *method, *schedule;
    int steps;
    status_code code;
    const char *says;
} refusals[] = {
    {NULL, "dpm+++", NULL, 10, STATUS_USAGE, "dpm++2m, dpm++2m_sde, dpm++2s, unipc, ddim"},
    {NULL, "dpm++2m", "karass", 10, STATUS_USAGE, "karras exponential beta lu simple"},
    {NULL, "ddim", "karras", 10, STATUS_USAGE, "ddim knows: simple"},
    {NULL, "dpm++2m", NULL, 0, STATUS_USAGE, "--steps 0"},
    {NULL, "dpm++2m", NULL, -3, STATUS_USAGE, "--steps -3"},
    {NULL, "dpm++2m", NULL, 2000000000, STATUS_USAGE, "--steps 2000000000"},
    {NULL, "ddim", NULL, 1001, STATUS_USAGE, "only 1000 timesteps"},
    {NULL, "lcm", NULL, 51, STATUS_USAGE, "50 original_inference_steps"},
    {NULL, "pndm", NULL, 3, STATUS_USAGE, "at least 4"},
    {"{\"steps_offset\": 1}", "ddim", NULL, 1000, STATUS_USAGE, "timestep 1000"},
    {"", NULL, NULL, 10, STATUS_BAD_FILE, "not a JSON object"},
    {"[]", NULL, NULL, 10, STATUS_BAD_FILE, "not a JSON object"},
    {"{\"a\": ", NULL, NULL, 10, STATUS_BAD_FILE, "not a JSON object"},
    {"{\"_class_name\": 3}", NULL, NULL, 10, STATUS_BAD_FILE, "_class_name"},
    {"{\"_class_name\": \"FooScheduler\"}", NULL, NULL, 10, STATUS_BAD_FILE, "FooScheduler is not supported, only DPMSolver"},
    {"{\"num_train_timesteps\": 0}", NULL, NULL, 10, STATUS_BAD_FILE, "num_train_timesteps is 0"},
    {"{\"num_train_timesteps\": 1e9}", NULL, NULL, 10, STATUS_BAD_FILE, "num_train_timesteps is 1e9"},
    {"{\"num_train_timesteps\": 1000000000}", NULL, NULL, 10, STATUS_BAD_FILE, "from 1 to 1000000"},
    {"{\"num_train_timesteps\": \"1000\"}", NULL, NULL, 10, STATUS_BAD_FILE, "num_train_timesteps"},
    {"{\"beta_start\": -0.1}", NULL, NULL, 10, STATUS_BAD_FILE, "beta_start is -0.1"},
    {"{\"beta_end\": NaN}", NULL, NULL, 10, STATUS_BAD_FILE, "beta_end"},
    {"{\"beta_end\": 1.0}", "euler", NULL, 10, STATUS_BAD_FILE, "infinite sigma"},
    {"{\"beta_schedule\": \"cubic\"}", NULL, NULL, 10, STATUS_BAD_FILE, "linear scaled_linear squaredcos_cap_v2"},
    {"{\"beta_schedule\": \"exp\"}", NULL, NULL, 10, STATUS_BAD_FILE, "no beta_schedule exp"},
    {"{\"trained_betas\": [0.1, 0.2]}", NULL, NULL, 10, STATUS_BAD_FILE, "2 trained_betas for 1000"},
    {"{\"trained_betas\": [0.1, \"x\"]}", NULL, NULL, 10, STATUS_BAD_FILE, "trained_betas[1]"},
    {"{\"prediction_type\": \"flow_prediction\"}", NULL, NULL, 10, STATUS_BAD_FILE, "epsilon sample v_prediction"},
    {"{\"prediction_type\": \"sample\"}", "euler_a", NULL, 10, STATUS_BAD_FILE, "no prediction_type sample"},
    {"{\"solver_order\": 4}", NULL, NULL, 10, STATUS_BAD_FILE, "solver_order is 4"},
    {"{\"use_karras_sigmas\": 1}", NULL, NULL, 10, STATUS_BAD_FILE, "use_karras_sigmas is 1"},
    {"{\"use_karras_sigmas\": true, \"use_beta_sigmas\": true}", NULL, NULL, 10, STATUS_BAD_FILE, "only one of"},
    {"{\"use_flow_sigmas\": true}", NULL, NULL, 10, STATUS_BAD_FILE, "use_flow_sigmas"},
    {"{\"algorithm_type\": \"dpmsolver\"}", NULL, NULL, 10, STATUS_BAD_FILE, "sigma_min"},
    {"{\"lambda_min_clipped\": 100}", NULL, NULL, 10, STATUS_BAD_FILE, "leaves no timestep"},
    {"{\"num_train_timesteps\": 1}", NULL, "karras", 1, STATUS_BAD_FILE, "too small"},
};

Test(sampling, refuses_in_a_sentence)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        status st = STATUS_INIT;
        sampler *s = sampler_open(r->config, r->config ? strlen(r->config) : 0, r->method, r->schedule, r->steps, &st);
        cr_expect_null(s, "%zu: opened", i);
        cr_expect_eq(st.code, r->code, "%zu: status %d", i, st.code);
        cr_expect(strstr(st.text, r->says), "%zu: \"%s\" does not say \"%s\"", i, st.text, r->says);
        sampler_close(s);
    }
    cr_expect_eq(mem_in_use(), 0);
}

/* Values at their limits, and combinations that make no sense, do not crash: they open and give some numbers. */
Test(sampling, survives_odd_configs)
{
    static const char *const configs[] = {
        "{}", "{\"num_train_timesteps\": 1}", "{\"num_train_timesteps\": 2, \"beta_end\": 0}",
        "{\"steps_offset\": 1000000}", "{\"beta_start\": 0, \"beta_end\": 0}",
        "{\"thresholding\": true, \"dynamic_thresholding_ratio\": 1, \"sample_max_value\": 0}",
        "{\"clip_sample\": true, \"clip_sample_range\": 0}", "{\"timestep_spacing\": \"trailing\", \"num_train_timesteps\": 3}",
        "{\"sigma_min\": 100, \"sigma_max\": 1e-10, \"use_karras_sigmas\": true}",
        "{\"rescale_betas_zero_snr\": true}", "{\"lambda_min_clipped\": -Infinity, \"unheard_of\": [{}]}",
    };
    for (const sampler_row *r = sampler_table; r->method; r++)
        for (size_t i = 0; i < sizeof configs / sizeof *configs; i++)
            for (int steps = 1; steps < 40; steps += 7) {
                status st = STATUS_INIT;
                sampler *s = sampler_open(configs[i], strlen(configs[i]), r->method, NULL, steps, &st);
                if (!s) {
                    cr_expect(!status_ok(&st) && st.text[0]);
                    continue;
                }
                float sample[COUNT], output[2 * COUNT] = {0};
                rng generators[IMAGES];
                begin(&(fixture){.strength = -1}, s, generators, sample);
                for (int call = 0; call < sampler_calls(s); call++)
                    cr_expect(sampler_step(s, call, output, sample, IMAGES, PER_IMAGE, draw, generators, &st), "%s", st.text);
                sampler_close(s);
            }
}

Test(sampling, every_method_has_a_row)
{
    static const char *const contract[] = {"ddim", "ddpm", "pndm", "lms", "euler", "euler_a", "heun", "dpm++2m",
                                           "dpm++2m_sde", "dpm++2s", "unipc", "lcm", "tcd"};
    for (size_t i = 0; i < sizeof contract / sizeof *contract; i++) {
        status st = STATUS_INIT;
        sampler *s = sampler_open(NULL, 0, contract[i], NULL, 5, &st);
        cr_assert(s, "%s: %s", contract[i], st.text);
        cr_expect_str_eq(sampler_about(s)->method, contract[i]);
        cr_expect_eq(sampler_steps(s), 5);
        sampler_close(s);
    }
}

Test(sampling, runs_out_of_memory_in_order)
{
    for (const sampler_row *r = sampler_table; r->method; r++)
        for (long n = 1; n < 20; n++) {
            status st = STATUS_INIT;
            float sample[COUNT] = {0}, output[2 * COUNT] = {0};
            rng generators[IMAGES] = {{.next = 0}};
            mem_fail_at(n);
            sampler *s = sampler_open(NULL, 0, r->method, NULL, 5, &st);
            bool ok = s && sampler_step(s, 0, output, sample, IMAGES, PER_IMAGE, draw, generators, &st);
            mem_fail_at(0);
            cr_expect(ok == status_ok(&st));
            cr_expect(ok || strstr(st.text, "out of memory"), "%s", st.text);
            sampler_close(s);
            cr_expect_eq(mem_in_use(), 0, "%s: leaks", r->method);
        }
}

Test(sampling, wants_calls_in_order)
{
    status st = STATUS_INIT;
    sampler *s = sampler_open(NULL, 0, "dpm++2m", NULL, 5, &st);
    float sample[COUNT] = {0}, output[COUNT] = {0};
    cr_expect(sampler_step(s, 0, output, sample, IMAGES, PER_IMAGE, NULL, NULL, &st));
    size_t held = mem_in_use();
    cr_expect(sampler_step(s, 1, output, sample, IMAGES, PER_IMAGE, NULL, NULL, &st));
    cr_expect_eq(mem_in_use(), held, "nothing is allocated after the first step");
    cr_expect_not(sampler_step(s, 3, output, sample, IMAGES, PER_IMAGE, NULL, NULL, &st));
    cr_expect(strstr(st.text, "wanted 2 of 5"), "%s", st.text);
    st = (status)STATUS_INIT;
    cr_expect_not(sampler_step(s, 2, output, sample, 1, PER_IMAGE, NULL, NULL, &st));
    sampler_close(s);
    st = (status)STATUS_INIT;
    s = sampler_open(NULL, 0, "euler_a", NULL, 5, &st);
    cr_expect_not(sampler_step(s, 0, output, sample, IMAGES, PER_IMAGE, NULL, NULL, &st));
    cr_expect(strstr(st.text, "euler_a draws noise"), "%s", st.text);
    sampler_close(s);
}

Test(sampling, begins_by_strength)
{
    status st = STATUS_INIT;
    sampler *s = sampler_open(NULL, 0, "ddim", NULL, 10, &st);
    static const double strengths[] = {1, 0.99, 0.5, 0.1, 0.09, 0, -1, 7};
    static const int calls[] = {0, 1, 5, 9, 10, 10, 10, 0};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        cr_expect_eq(sampler_begin_at(s, strengths[i]), calls[i], "strength %g", strengths[i]);
    cr_expect_eq(sampler_begin_at(s, NAN), 10);
    sampler_close(s);
}
