/* test_preview.c: what is shown of a run on its way: of every pipeline as many pictures as were asked for, the last of them the picture itself where latents are
 * pixels or are decoded, and the run's result as without them; the linear map, found again, and of trained weights near the picture. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "models/preview.h"

/* ---- the linear map ---- */

Test(preview, a_linear_map_is_found_again)
{
    enum { COUNT = 60, CHANNELS = 7 };
    float latents[COUNT * CHANNELS], colours[COUNT * 3];
    colour_map wanted, found;
    rng g;
    rng_seed(&g, 3);
    rng_normal(&g, &wanted.by[0][0], 3 * CHANNELS);
    rng_normal(&g, wanted.plus, 3);
    rng_normal(&g, latents, COUNT * CHANNELS);
    for (int k = 0; k < COUNT; k++)
        for (int c = 0; c < 3; c++) {
            colours[3 * k + c] = wanted.plus[c];
            for (int i = 0; i < CHANNELS; i++)
                colours[3 * k + c] += wanted.by[i][c] * latents[k * CHANNELS + i];
        }
    cr_assert(colour_map_fit(&found, latents, colours, COUNT, CHANNELS));
    for (int c = 0; c < 3; c++) {
        cr_assert_float_eq(found.plus[c], wanted.plus[c], 1e-5);
        for (int i = 0; i < CHANNELS; i++)
            cr_assert_float_eq(found.by[i][c], wanted.by[i][c], 1e-5);
    }
}

Test(preview, what_does_not_tell_a_map)
{
    float same[8 * 3] = {0}, nan[8 * 3], colours[8 * 3] = {0};
    colour_map m;
    for (int i = 0; i < 8 * 3; i++) {
        same[i] = 0.5f;
        nan[i] = NAN;
    }
    cr_assert_not(colour_map_fit(&m, same, colours, 8, 3));
    cr_assert_not(colour_map_fit(&m, nan, colours, 8, 3));
}

/* ---- x0: of a sample that is noised, with that noise as the model's output, the original ---- */

Test(preview, the_original_behind_the_noise)
{
    enum { N = 64 };
    float original[N], noise[N], x[N], said[N], x0[N];
    rng g;
    rng_seed(&g, 5);
    rng_normal(&g, original, N);
    rng_normal(&g, noise, N);
    for (const sampler_row *row = sampler_table; row->method; row++)
        for (int velocity = 0; velocity < 2; velocity++) {
            char config[200];
            status st = STATUS_INIT;
            snprintf(config, sizeof config, "{\"_class_name\": \"%s\", \"prediction_type\": \"%s\", \"steps_offset\": 1}", row->class_name, velocity ? "v_prediction" : "epsilon");
            sampler *s = sampler_open(config, strlen(config), row->method, NULL, 4, &st);
            cr_assert(s, "%s: %s", row->method, st.text);
            for (int call = 0; call < sampler_calls(s); call++) {
                sampler_add_noise(s, call, original, noise, x, N);
                /* alpha and sigma of this call, from two known samples */
                float zero[N] = {0}, one[N] = {1}, a[N], b[N];
                sampler_add_noise(s, call, one, zero, a, N);
                sampler_add_noise(s, call, zero, one, b, N);
                float scale = sqrtf(a[0] * a[0] + b[0] * b[0]), alpha = a[0] / scale, sigma = b[0] / scale; /* x may be the variance-exploding kind */
                for (int i = 0; i < N; i++)
                    said[i] = velocity ? alpha * noise[i] - sigma * original[i] : noise[i];
                sampler_x0(s, call, said, x, x0, N);
                for (int i = 0; i < N; i++)
                    cr_assert_float_eq(x0[i], original[i], 2e-3f * (1 + b[0] / a[0]), "%s, call %d: %g, not %g", row->method, call, (double)x0[i], (double)original[i]);
            }
            sampler_close(s);
        }
}

/* ---- runs ---- */

typedef struct seen {
    char stage[24];
    int images, last_step, width, height;
    uint8_t *last;              /* the first image's of the last step, of the last stage */
} seen;

static bool look(void *ctx, const char *which, int image, int step, const uint8_t *rgb, int width, int height, status *st)
{
    seen *s = ctx;
    s->images++;
    s->last_step = step;
    s->width = width;
    s->height = height;
    snprintf(s->stage, sizeof s->stage, "%s", which);
    if (image == 0) {
        free(s->last);
        s->last = malloc((size_t)width * (size_t)height * 3);
        memcpy(s->last, rgb, (size_t)width * (size_t)height * 3);
    }
    return status_ok(st);
}

static source *open_model(const char *name)
{
    const char *fixtures = getenv("PENSTOCK_FIXTURES");
    status st = STATUS_INIT;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", fixtures ? fixtures : "tests/fixtures", name);
    source *s = source_open(path, &st);
    cr_assert(s, "%s", st.text);
    return s;
}

static bool shown(const source *src, request q, seen *s, result *r, status *st)
{
    *s = (seen){.images = 0};
    *r = (result){0};
    q.preview = look;
    q.preview_ctx = s;
    return pipeline_generate(src, &q, r, st);
}

static request request_of(int steps, int every)
{
    return (request){.prompt = "a red fox", .steps = steps, .guidance_scale = NAN, .strength = NAN, .seed = 7, .batch_count = 2, .threads = 1, .preview_every = every};
}

static uint8_t given_pixels[16 * 16 * 3];
static const pixmap given = {.width = 16, .height = 16, .rgb = given_pixels};

/* decoded: the last preview is the picture; else it has a pixel for each place of the latents, that are `factor` pixels wide */
static const struct { const char *model; int images, factor; bool decoded, picture; const char *stage; } runs[] = {
    {"pixart/models/sigma_small", 4, 4, false, false, ""},
    {"kandinsky3/models/two", 4, 2, false, false, ""},
    {"amused/models/small", 4, 1, true, false, ""},
    {"muse/models/t5", 4, 1, true, false, ""},
    {"if/models/first", 4, 1, true, false, ""},
    {"if/models/both", 4 + 50, 1, true, false, "stage2"},   /* the second stage makes 50 steps */
    {"if/models/upscaler", 4, 4, false, true, ""},
    {"sd/models/classic", 4, 4, false, false, ""},
    {"ldm/models/ldm", 4, 8, false, false, ""},
};

Test(preview, every_pipeline)
{
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        status st = STATUS_INIT;
        source *src = open_model(runs[i].model);
        request q = request_of(4, 2);
        seen s;
        result with, without = {0};
        q.sampling_method = strncmp(runs[i].model, "sd", 2) == 0 ? "ddim" : NULL;   /* PNDM makes a call more */
        q.init = runs[i].picture ? &given : NULL;
        q.width = q.height = strncmp(runs[i].model, "kandinsky3", 10) == 0 ? 64 : 0;   /* its own is 1024 */
        cr_assert(shown(src, q, &s, &with, &st), "%s: %s", runs[i].model, st.text);
        q.preview_every = 0;
        cr_assert(pipeline_generate(src, &q, &without, &st), "%s: %s", runs[i].model, st.text);
        size_t bytes = (size_t)with.width * (size_t)with.height * 3;
        cr_assert_eq(memcmp(with.rgb, without.rgb, bytes * 2), 0, "%s: previews change the picture", runs[i].model);
        cr_assert_eq(s.images, runs[i].images, "%s: %d previews", runs[i].model, s.images);
        cr_assert_str_eq(s.stage, runs[i].stage);
        cr_assert_eq(s.width * runs[i].factor, with.width, "%s: %d wide of %d", runs[i].model, s.width, with.width);
        cr_assert_eq(s.height * runs[i].factor, with.height);
        if (runs[i].decoded)
            cr_assert_eq(memcmp(s.last, with.rgb, bytes), 0, "%s: the last preview is another picture", runs[i].model);
        free(s.last);
        result_free(&with);
        result_free(&without);
        source_close(src);
    }
}

/* The least budget with previews is enough, and the result the same. */
Test(preview, within_the_budget)
{
    static const char *const models[] = {"pixart/models/sigma_small", "kandinsky3/models/two", "amused/models/small", "if/models/both", "sd/models/xl"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        status st = STATUS_INIT;
        source *src = open_model(models[i]);
        request q = request_of(3, 1);
        seen free_seen, tight_seen;
        result free_run, tight_run;
        q.batch_count = 1;
        q.width = q.height = strncmp(models[i], "kandinsky3", 10) == 0 ? 64 : 0;
        cr_assert(shown(src, q, &free_seen, &free_run, &st), "%s: %s", models[i], st.text);
        q.budget_bytes = 1;
        cr_assert_not(shown(src, q, &tight_seen, &tight_run, &st));
        cr_assert_eq(st.code, STATUS_BUDGET, "%s: %s", models[i], st.text);
        q.budget_bytes = st.least_bytes;
        st = (status)STATUS_INIT;
        cr_assert(shown(src, q, &tight_seen, &tight_run, &st), "%s: %s", models[i], st.text);
        cr_assert_eq(free_seen.images, tight_seen.images);
        cr_assert_eq(memcmp(free_seen.last, tight_seen.last, (size_t)free_seen.width * (size_t)free_seen.height * 3), 0, "%s", models[i]);
        free(free_seen.last);
        free(tight_seen.last);
        result_free(&free_run);
        result_free(&tight_run);
        source_close(src);
    }
}

/* The small model's decoder is its own, so the map is fitted: the last preview is the picture, made small. */
Test(preview, a_map_of_trained_weights)
{
    status st = STATUS_INIT;
    source *src = open_model("../../share/penstock-small.penstock");
    request q = request_of(12, 4);
    seen s;
    result r;
    q.prompt = "a red circle above a blue square";
    q.batch_count = 1;
    cr_assert(shown(src, q, &s, &r, &st), "%s", st.text);
    cr_assert_eq(s.last_step, 12);
    int by = r.width / s.width;
    double square = 0;
    for (int y = 0; y < s.height; y++)
        for (int x = 0; x < s.width; x++)
            for (int c = 0; c < 3; c++) {
                double sum = 0;
                for (int k = 0; k < by * by; k++)
                    sum += r.rgb[((y * by + k / by) * r.width + x * by + k % by) * 3 + c];
                double off = sum / (by * by) - s.last[(y * s.width + x) * 3 + c];
                square += off * off;
            }
    double psnr = 10 * log10(255.0 * 255.0 * s.width * s.height * 3 / square);
    cr_assert_gt(psnr, 28, "the preview is %.1f dB from the picture", psnr);
    free(s.last);
    result_free(&r);
    source_close(src);
}
