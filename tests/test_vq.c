/* test_vq.c: VQModel equals diffusers' on the tiny models of fixtures/make_vq.py: tokens, latents with and without the codebook, and pictures to latents and
 * tokens; under taming-transformers' names as well; and bit for bit the same with other threads, under a budget that sends maps to the scratch file. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "models/net_vae.h"
#include "models/pipe_common.h"
#include "tests/network_case.h"
#include "tests/support.h"

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
    cr_assert_eq(lite_open(&all, fixture_path("vq", file)), 0, "%s: %s", file, all.error);
    const lite_tensor *in = lite_find(&all, ways[w].from), *want = lite_find(&all, ways[w].to);
    cr_assert(in && want);
    int rank = in->rank;
    autoencoder a = {.src = source_open(fixture_path("vq", model), &st), .way = w, .batch = (int)in->shape[0], .height = tiles * (int)in->shape[rank - 2], .width = tiles * (int)in->shape[rank - 1]};
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
    network_case one = {a.src, "vae", vae_aliases, forward, &a};
    float *out[2];
    for (int i = 0; i < 2; i++) {
        a.out = out[i] = calloc(count, 4);
        uint64_t bytes = network_run(&one, i ? 3 : 1, i ? network_least_budget(&one) : 0);
        cr_expect(!i || tiles == 1 || bytes > 0, "%s: the scratch file was not used", model);
    }
    if (tiles == 1 && w == NUMBERS)
        cr_expect_eq(memcmp(out[0], numbers, want->count * 4), 0, "%s: other entries are nearest", model);
    else if (tiles == 1)
        network_compare(model, want, out[0], 2e-6);
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
