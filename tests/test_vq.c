/* test_vq.c: VQModel equals diffusers' on the tiny models of fixtures/make_vq.py: tokens, latents with and without the codebook, and pictures to latents and
 * tokens; under taming-transformers' names as well; and bit for bit the same with other threads, under a budget that sends maps to the scratch file. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "models/net_vae.h"
#include "models/pipe_common.h"
#include "safetensors_lite.h"

typedef enum way { TOKENS, QUANTIZED, KEPT, ENCODED, NUMBERS, WAYS } way;
static const struct { const char *from, *to; } ways[WAYS] = {
    {"tokens", "looked_up"}, {"latents", "quantized"}, {"latents", "kept"}, {"picture", "encoded"}, {"picture", "numbers"}};

typedef struct autoencoder {
    source *src;
    vae_config config;
    way way;
    int batch, height, width;  /* of what goes in */
    const float *in;
    const int32_t *tokens;
    void *out;
} autoencoder;

static const char *path_of(const char *name)
{
    static char path[4][1024];
    static int turn;
    const char *fixtures = getenv("PENSTOCK_FIXTURES");
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/vq/%s", fixtures ? fixtures : "tests/fixtures", name);
    return p;
}

static void forward(run *r, const void *ctx)
{
    const autoencoder *a = ctx;
    const vae_config *c = &a->config;
    switch (a->way) {
    case TOKENS: vae_decode_tokens(r, c, a->tokens, a->batch, a->height, a->width, a->out); break;
    case QUANTIZED:
    case KEPT: vae_decode(r, c, a->in, a->batch, a->height, a->width, a->out); break;
    case ENCODED: vae_encode(r, c, a->in, a->batch, a->height, a->width, a->out); break;
    default: vae_encode_tokens(r, c, a->in, a->batch, a->height, a->width, a->out);
    }
}

/* 0: the budget is enough; otherwise what the refusal says would be. */
static uint64_t refused(const autoencoder *a, uint64_t budget)
{
    status st = STATUS_INIT;
    request q = {.precision = PRECISION_F32, .threads = 3, .budget_bytes = budget};
    result report = {0};
    engine e;
    stage s = {0};
    cr_assert(engine_open(&e, a->src, &q, &report, &st), "%s", st.text);
    bool fits = stage_plan(&s, &e, "", "vae", vae_aliases, forward, a, 1);
    cr_assert(fits || st.code == STATUS_BUDGET, "%s", st.text);
    stage_close(&s);
    engine_close(&e);
    return fits ? 0 : st.least_bytes;
}

/* The least that a budget may be. What is named is whole MiB, more than some maps here take. */
static uint64_t least_budget(const autoencoder *a)
{
    uint64_t least = refused(a, 1 << 20), step = 64 << 10;
    cr_assert_gt(least, 0);
    while (refused(a, least - step) == 0)
        least -= step;
    return least;
}

/* Returns the scratch file's bytes. */
static uint64_t compute(const autoencoder *a, int workers, uint64_t budget)
{
    status st = STATUS_INIT;
    request q = {.precision = PRECISION_F32, .threads = workers, .budget_bytes = budget};
    result report = {0};
    engine e;
    stage s = {0};
    cr_assert(engine_open(&e, a->src, &q, &report, &st), "%s", st.text);
    bool ok = stage_plan(&s, &e, "", "vae", vae_aliases, forward, a, 1) && stage_open(&s) && stage_pass(&s, a);
    cr_assert(ok, "%s", st.text);
    stage_close(&s);
    engine_close(&e);
    return report.scratch_bytes;
}

static void compare(const char *model, const lite_tensor *want, const float *got)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < want->count; i++) {
        worst = fmax(worst, fabs((double)want->values[i] - (double)got[i]));
        largest = fmax(largest, fabs((double)want->values[i]));
    }
    cr_expect_leq(worst, 2e-6 * fmax(largest, 1), "%s %s: %g of %g", model, want->name, worst, largest);
}

static int32_t *to_tokens(const float *numbers, size_t count)
{
    int32_t *out = calloc(count, sizeof *out);
    for (size_t i = 0; i < count; i++)
        out[i] = (int32_t)numbers[i];
    return out;
}

/* [planes, h, w] beside and below each other, `times` of them each way */
static float *tiled(const float *x, size_t planes, size_t h, size_t w, size_t times)
{
    float *out = calloc(planes * h * w * times * times, sizeof *out);
    for (size_t row = 0; row < planes * h * times; row++)
        for (size_t column = 0; column < w * times; column++)
            out[row * w * times + column] = x[(row / (h * times) * h + row % h) * w + column % w];
    return out;
}

/* tiles > 1: that many inputs each way, so large that the least budget sends maps to the scratch file; nothing is expected of these but the same bits. */
static void check_way(const char *model, const char *expected, way w, int tiles)
{
    char config[FILE_NAME_BYTES], file[128];
    status st = STATUS_INIT;
    lite_file all;
    snprintf(file, sizeof file, "expected/%s.safetensors", expected);
    cr_assert_eq(lite_open(&all, path_of(file)), 0, "%s: %s", file, all.error);
    const lite_tensor *in = lite_find(&all, ways[w].from), *want = lite_find(&all, ways[w].to);
    cr_assert(in && want);
    int rank = in->rank;
    autoencoder a = {.src = source_open(path_of(model), &st), .way = w, .batch = (int)in->shape[0], .height = tiles * (int)in->shape[rank - 2], .width = tiles * (int)in->shape[rank - 1]};
    cr_assert(a.src, "%s", st.text);
    json *j = read_config(a.src, "", "config.json", config, &st);
    cr_assert(j && vae_config_read(&a.config, j, config, &st), "%s", st.text);
    json_free(j);
    a.config.keeps_latents = w == KEPT;
    int32_t *numbers = w == TOKENS ? to_tokens(in->values, in->count) : w == NUMBERS ? to_tokens(want->values, want->count) : NULL;
    size_t area = (size_t)in->shape[rank - 2] * (size_t)in->shape[rank - 1], count = want->count * (size_t)(tiles * tiles);
    float *large = tiled(in->values, in->count / area, (size_t)in->shape[rank - 2], (size_t)in->shape[rank - 1], (size_t)tiles);
    a.in = large;
    a.tokens = numbers;
    float *out[2];
    for (int i = 0; i < 2; i++) {
        a.out = out[i] = calloc(count, 4);
        uint64_t bytes = compute(&a, i ? 3 : 1, i ? least_budget(&a) : 0);
        cr_expect(!i || tiles == 1 || bytes > 0, "%s: the scratch file was not used", model);
    }
    if (tiles == 1 && w == NUMBERS)
        cr_expect_eq(memcmp(out[0], numbers, want->count * 4), 0, "%s: other entries are nearest", model);
    else if (tiles == 1)
        compare(model, want, out[0]);
    cr_expect_eq(memcmp(out[0], out[1], count * 4), 0, "%s: other bits with other threads under a budget", model);
    free(out[0]);
    free(out[1]);
    free(numbers);
    free(large);
    source_close(a.src);
    lite_close(&all);
}

Test(vq, equals_diffusers)
{
    static const char *const names[] = {"lookup", "narrow"};
    size_t before = mem_in_use();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (way w = TOKENS; w < WAYS; w++)
            check_way(names[i], names[i], w, 1);
    cr_expect_eq(mem_in_use(), before);
}

Test(vq, original_names)
{
    for (way w = TOKENS; w < WAYS; w++)
        check_way("taming.ckpt", "taming", w, 1);
}

Test(vq, maps_in_the_scratch_file)
{
    check_way("large", "large", QUANTIZED, 1);
    check_way("large", "large", NUMBERS, 1);
    check_way("large", "large", QUANTIZED, 4);
    check_way("large", "large", NUMBERS, 4);
}

Test(vq, configs_that_cannot_be)
{
    static const struct { const char *text, *says; } cases[] = {
        {"{\"_class_name\": \"VQModel\", \"num_vq_embeddings\": 0}", "num_vq_embeddings"},
        {"{\"_class_name\": \"VQModel\", \"block_out_channels\": [8, 8], \"up_block_types\": [\"UpDecoderBlock2D\"]}", "names 1 blocks"},
        {"{\"_class_name\": \"VQModel\", \"up_block_types\": [\"OddDecoderBlock2D\"]}", "OddDecoderBlock2D"},
        {"{\"_class_name\": \"taming.models.vqgan.VQModel\", \"ddconfig\": {\"double_z\": true}}", "double_z"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        vae_config c;
        json *j = json_parse(cases[i].text, strlen(cases[i].text), "config.json", &st);
        cr_expect(!vae_config_read(&c, j, "config.json", &st) && st.code == STATUS_BAD_FILE && strstr(st.text, cases[i].says), "%s: %s", cases[i].text, st.text);
        json_free(j);
    }
}
