/* test_taesd.c: AutoencoderTiny equals diffusers' on the tiny models of fixtures/make_taesd.py, decoding and encoding, under diffusers' names and under
 * those of its own files; and bit for bit the same with other threads, under a budget that sends maps to the scratch file. */
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

typedef struct autoencoder {
    source *src;
    vae_config config;
    bool encodes;
    int height, width;  /* of what goes in */
    const float *in;
    float *out;
} autoencoder;

static void forward(run *r, const void *ctx)
{
    const autoencoder *a = ctx;
    (a->encodes ? vae_encode : vae_decode)(r, &a->config, a->in, 1, a->height, a->width, a->out);
}

/* One half of the model, from the tensor `from` to the tensor `to`. */
static void check_half(const char *model, const char *expected, bool encodes, bool scratch)
{
    char config[FILE_NAME_BYTES], file[128];
    status st = STATUS_INIT;
    lite_file all;
    snprintf(file, sizeof file, "expected/%s.safetensors", expected);
    cr_assert_eq(lite_open(&all, fixture_path("taesd", file)), 0, "%s: %s", file, all.error);
    const lite_tensor *in = lite_find(&all, encodes ? "picture" : "latents"), *want = lite_find(&all, encodes ? "encoded" : "decoded");
    cr_assert(in && want);
    autoencoder a = {.src = source_open(fixture_path("taesd", model), &st), .encodes = encodes, .height = (int)in->shape[2], .width = (int)in->shape[3], .in = in->values};
    cr_assert(a.src, "%s", st.text);
    json *j = read_config(a.src, "", "config.json", config, &st);
    cr_assert(j && vae_config_read(&a.config, j, config, &st), "%s", st.text);
    json_free(j);
    network_case one = {a.src, "vae", vae_aliases, forward, &a};
    float *out[2];
    for (int i = 0; i < 2; i++) {
        a.out = out[i] = calloc(want->count, 4);
        uint64_t bytes = network_run(&one, i ? 3 : 1, i ? network_least_budget(&one) : 0);
        cr_expect(!i || !scratch || bytes > 0, "%s: the scratch file was not used", model);
    }
    network_compare(model, want, out[0], 2e-6);
    cr_expect_eq(memcmp(out[0], out[1], want->count * 4), 0, "%s: other bits with other threads under a budget", model);
    free(out[0]);
    free(out[1]);
    source_close(a.src);
    lite_close(&all);
}

Test(taesd, equals_diffusers)
{
    static const char *const names[] = {"usual", "odd", "detour"};
    size_t before = mem_in_use();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_half(names[i], names[i], false, false);
        check_half(names[i], names[i], true, false);
    }
    cr_expect_eq(mem_in_use(), before);
}

Test(taesd, its_own_files)
{
    check_half("usual_decoder.pth", "usual", false, false);
    check_half("usual_encoder.pth", "usual", true, false);
    check_half("detour_decoder.pth", "detour", false, false);
    check_half("detour_encoder.pth", "detour", true, false);
}

Test(taesd, maps_in_the_scratch_file)
{
    check_half("large", "large", false, true);
    check_half("large", "large", true, true);
}

Test(taesd, configs_that_cannot_be)
{
    static const struct { const char *text, *says; } cases[] = {
        {"{\"num_encoder_blocks\": [1, 1]}", "num_decoder_blocks must have"},
        {"{\"num_encoder_blocks\": [1], \"num_decoder_blocks\": [1, 1]}", "num_decoder_blocks must have"},
        {"{\"num_encoder_blocks\": [1, 1], \"encoder_block_out_channels\": [8, 16], \"num_decoder_blocks\": [1, 1]}", "the same width"},
        {"{\"num_encoder_blocks\": [1], \"num_decoder_blocks\": [1], \"act_fn\": \"silu\"}", "act_fn"},
        {"{\"num_encoder_blocks\": [1], \"num_decoder_blocks\": [1], \"upsampling_scaling_factor\": 3}", "upsampling_scaling_factor"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        vae_config c;
        char text[300];
        snprintf(text, sizeof text, "{\"_class_name\": \"AutoencoderTiny\", %s", cases[i].text + 1);
        json *j = json_parse(text, strlen(text), "config.json", &st);
        cr_expect(!vae_config_read(&c, j, "config.json", &st) && st.code == STATUS_BAD_FILE && strstr(st.text, cases[i].says), "%s: %s", text, st.text);
        json_free(j);
    }
}
