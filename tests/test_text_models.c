/* test_text_models.c: CLIP's and LDMBert's outputs equal transformers' and diffusers' on the tiny models of fixtures/make_clip.py: every layer, with and
 * without the final norm, pooled and projected; and bit for bit the same with other threads and under a budget. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "models/net_clip.h"
#include "models/net_ldmbert.h"
#include "models/pipe_common.h"
#include "models/stage.h"
#include "tests/network_case.h"
#include "tests/support.h"

enum { MOST_BATCH = 4 };

typedef struct encoder { /* one of the models, opened, with what it should give */
    source *src;
    clip_config clip;
    ldmbert_config bert;
    lite_file expected;
    int32_t *ids, pooled_at[MOST_BATCH];
    int batch, tokens;
} encoder;

typedef struct one_pass {
    const encoder *m;
    clip_inputs in;
    bool is_clip;
} one_pass;

static void open_encoder(encoder *m, const char *name, bool is_clip)
{
    char file[64], config[FILE_NAME_BYTES];
    status st = STATUS_INIT;
    *m = (encoder){0};
    snprintf(file, sizeof file, "expected/%s.safetensors", name);
    cr_assert_eq(lite_open(&m->expected, fixture_path("clip", file)), 0, "%s: %s", file, m->expected.error);
    m->src = source_open(fixture_path("clip", name), &st);
    cr_assert(m->src, "%s", st.text);
    json *j = read_config(m->src, "", "config.json", config, &st);
    cr_assert(j && (is_clip ? clip_config_read(&m->clip, j, config, &st) : ldmbert_config_read(&m->bert, j, config, &st)), "%s", st.text);
    json_free(j);
    const lite_tensor *ids = lite_find(&m->expected, "ids");
    m->batch = (int)ids->shape[0];
    m->tokens = (int)ids->shape[1];
    cr_assert_leq(m->batch, MOST_BATCH);
    m->ids = malloc(ids->count * sizeof *m->ids);
    for (size_t i = 0; i < ids->count; i++)
        m->ids[i] = (int32_t)ids->values[i];
    for (int b = 0; is_clip && b < m->batch; b++)
        m->pooled_at[b] = b * m->tokens + clip_pooled_at(&m->clip, m->ids + b * m->tokens, m->tokens);
}

static void close_encoder(encoder *m)
{
    source_close(m->src);
    lite_close(&m->expected);
    free(m->ids);
}

static void forward(run *r, const void *ctx)
{
    const one_pass *p = ctx;
    if (p->is_clip)
        clip_encode(r, &p->m->clip, &p->in);
    else
        output(r, ldmbert_encode(r, &p->m->bert, p->m->ids, p->m->batch, p->m->tokens), p->in.hidden);
}

static network_case case_of(const one_pass *p)
{
    return (network_case){p->m->src, "text_encoder", p->is_clip ? clip_aliases : ldmbert_aliases, forward, p};
}

static double deviation(const lite_tensor *want, const float *got)
{
    double difference = 0, all = 0;
    for (size_t i = 0; i < want->count; i++) {
        double d = (double)got[i] - (double)want->values[i];
        difference += d * d;
        all += (double)want->values[i] * (double)want->values[i];
    }
    return sqrt(difference / all);
}

/* Once as it comes, once with three threads under a budget: the same bits. */
static void check(one_pass *p, const char *name, const char *hidden, const char *pooled)
{
    const lite_tensor *want = lite_find(&p->m->expected, hidden), *want_pooled = pooled ? lite_find(&p->m->expected, pooled) : NULL;
    cr_assert(want && (!pooled || want_pooled), "%s: expected tensors are missing", name);
    network_case one = case_of(p);
    float *out[2], *pool[2];
    for (int i = 0; i < 2; i++) {
        p->in.hidden = out[i] = calloc(want->count, 4);
        p->in.pooled = pool[i] = calloc(want_pooled ? want_pooled->count : 1, 4);
        network_run(&one, i ? 3 : 1, i ? network_least_budget(&one) : 0);
    }
    cr_expect_lt(deviation(want, out[0]), 1e-5, "%s %s: %g", name, hidden, deviation(want, out[0]));
    cr_expect_eq(memcmp(out[0], out[1], want->count * 4), 0, "%s %s: other bits with other threads under a budget", name, hidden);
    if (want_pooled) {
        cr_expect_lt(deviation(want_pooled, pool[0]), 1e-5, "%s pooled: %g", name, deviation(want_pooled, pool[0]));
        cr_expect_eq(memcmp(pool[0], pool[1], want_pooled->count * 4), 0, "%s pooled", name);
    }
    for (int i = 0; i < 2; i++) {
        free(out[i]);
        free(pool[i]);
    }
}

Test(text_models, clip_equals_transformers)
{
    static const char *const names[] = {"quick", "bare", "projected", "eos"};
    size_t before = mem_in_use();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        encoder m;
        open_encoder(&m, names[i], true);
        for (int k = 0; k < 2 * (m.clip.layers + 1); k++) {
            char hidden[32];
            bool normed = k % 2;
            snprintf(hidden, sizeof hidden, "hidden.%d%s", k / 2, normed ? ".norm" : "");
            one_pass p = {.m = &m, .is_clip = true, .in = {.ids = m.ids, .batch = m.batch, .tokens = m.tokens, .want_hidden = true, .want_pooled = k % 3 == 0,
                                                           .skip = k / 2, .norm = normed, .pooled_at = m.pooled_at, .poolings = m.batch}};
            check(&p, names[i], hidden, k % 3 == 0 ? "pooled" : NULL);
        }
        close_encoder(&m);
    }
    cr_expect_eq(mem_in_use(), before);
}

Test(text_models, ldmbert_equals_diffusers)
{
    static const char *const names[] = {"ldmbert", "ldmbert_relu"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        encoder m;
        open_encoder(&m, names[i], false);
        one_pass p = {.m = &m};
        check(&p, names[i], "hidden.0", NULL);
        close_encoder(&m);
    }
}

Test(text_models, where_the_pooled_output_is_taken)
{
    static const int32_t ids[] = {98, 5, 7, 99, 7, 99, 0};
    cr_expect_eq(clip_pooled_at(&(clip_config){.eos = 2}, ids, 7), 3);   /* the largest */
    cr_expect_eq(clip_pooled_at(&(clip_config){.eos = 7}, ids, 7), 2);   /* the first of these */
    cr_expect_eq(clip_pooled_at(&(clip_config){.eos = 50}, ids, 7), 0);  /* there is none */
}

Test(text_models, more_tokens_than_positions)
{
    encoder m;
    open_encoder(&m, "eos", true);
    int32_t ids[18] = {0};
    status st = STATUS_INIT;
    request q = {.prompt = "x", .threads = 1};
    result report = {0};
    engine e;
    stage s = {0};
    one_pass p = {.m = &m, .is_clip = true, .in = {.ids = ids, .batch = 1, .tokens = 18, .want_hidden = true}};
    cr_assert(engine_open(&e, m.src, &q, &report, &st));
    cr_expect(!stage_plan(&s, &e, "", "text_encoder", clip_aliases, forward, &p, 1));
    cr_expect(strstr(st.text, "18 tokens, but the model has 17 positions"), "%s", st.text);
    stage_close(&s);
    engine_close(&e);
    close_encoder(&m);
}

Test(text_models, configs_that_cannot_be)
{
    static const struct { const char *text, *says; } cases[] = {
        {"{\"hidden_size\": 30, \"num_attention_heads\": 4}", "hidden_size 30 is not a multiple of num_attention_heads 4"},
        {"{\"hidden_act\": \"mish\"}", "hidden_act \"mish\""},
        {"{\"num_hidden_layers\": 0}", "num_hidden_layers"},
        {"{\"vocab_size\": \"x\"}", "vocab_size"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        clip_config c;
        json *j = json_parse(cases[i].text, strlen(cases[i].text), "config.json", &st);
        cr_expect(!clip_config_read(&c, j, "config.json", &st) && st.code == STATUS_BAD_FILE && strstr(st.text, cases[i].says), "%s: %s", cases[i].text, st.text);
        json_free(j);
    }
}
