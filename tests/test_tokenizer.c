/* test_tokenizer.c: ids as transformers gives them (fixtures/tokenizer/make_tokenizer.py), and models that are none. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tests/support.h"
#include "text/tokenizer.h"

static tokenizer *open_fixture(bool with_config, status *st)
{
    file_bytes model = fixture_read("tokenizer", "spiece.model"), config = fixture_read("tokenizer", "tokenizer_config.json");
    tokenizer *t = tokenizer_open_spm(model.data, model.bytes, with_config ? config.data : NULL, config.bytes, "tokenizer/spiece.model", st);
    free(model.data);
    free(config.data);
    return t;
}

static tokenizer *open_saved(const char *name, status *st)
{
    char file[64];
    snprintf(file, sizeof file, "%s.json", name);
    file_bytes whole = fixture_read("tokenizer", file);
    snprintf(file, sizeof file, "%s_config.json", name);
    file_bytes config = fixture_read("tokenizer", file);
    tokenizer *t = tokenizer_open_spm_json(whole.data, whole.bytes, config.data, config.bytes, "tokenizer/tokenizer.json", st);
    free(whole.data);
    free(config.data);
    return t;
}

static void check_ids(const tokenizer *t, char *line)
{
    enum { ROOM = 400 };
    int32_t ids[ROOM];
    status st = STATUS_INIT;
    char *rest = line, *with_config = strsep(&rest, "\t"), *most = strsep(&rest, "\t"), *whole = strsep(&rest, "\t"), *wanted = strsep(&rest, "\t");
    cr_assert(rest && *with_config, "ids.tsv is damaged");
    char *shown = strdup(rest);
    unescape(rest);
    int all = 0, n = tokenizer_encode(t, rest, ids, atoi(most), &all, &st);
    cr_assert(status_ok(&st), "%s", st.text);
    cr_expect_eq(all, atoi(whole), "%s: %d ids before cutting, not %s", shown, all, whole);
    for (int i = 0; i < n; i++) {
        char *id = strsep(&wanted, " ");
        cr_expect(id && atoi(id) == ids[i], "%s: id %d is %d, not %s", shown, i, ids[i], id ? id : "(none)");
    }
    cr_expect_null(wanted, "%s: too few ids", shown);
    free(shown);
}

Test(tokenizer, ids_of_transformers)
{
    size_t before = mem_in_use();
    status st = STATUS_INIT;
    tokenizer *t[4] = {open_fixture(false, &st), open_fixture(true, &st), open_saved("saved", &st), open_saved("bare", &st)};
    cr_assert(t[0] && t[1] && t[2] && t[3], "%s", st.text);
    cr_expect_eq(tokenizer_vocabulary(t[0]), 400);
    cr_expect_eq(tokenizer_vocabulary(t[1]), 320);
    file_bytes cases = fixture_read("tokenizer", "ids.tsv");
    int count = 0;
    for (char *rest = cases.data, *line; (line = strsep(&rest, "\n")) && *line; count++)
        check_ids(t[*line - '0'], line);
    cr_expect_geq(count, 800);
    free(cases.data);
    for (int i = 0; i < 4; i++)
        tokenizer_close(t[i]);
    cr_expect_eq(mem_in_use(), before);
}

Test(tokenizer, lower_strip_of_python)
{
    size_t before = mem_in_use();
    file_bytes cases = fixture_read("tokenizer", "lower.tsv");
    int count = 0;
    for (char *rest = cases.data, *line; (line = strsep(&rest, "\n")) && *line; count++) {
        status st = STATUS_INIT;
        char *wanted = line, *text = strsep(&wanted, "\t");
        cr_assert(wanted, "lower.tsv is damaged");
        char *shown = strdup(text);
        unescape(text);
        unescape(wanted);
        char *got = text_lower_strip(text, &st);
        cr_assert(got);
        cr_expect_str_eq(got, wanted, "%s", shown);
        mem_free(got);
        free(shown);
    }
    cr_expect_geq(count, 90);
    free(cases.data);
    cr_expect_eq(mem_in_use(), before);
}

Test(tokenizer, malformed_utf8_becomes_replacements)
{
    static const char *const cases[][2] = {
        {"a\xff", "a\xef\xbf\xbd"}, {"\xe2\x82", "\xef\xbf\xbd"}, {"\xe2\x82" "a", "\xef\xbf\xbd" "a"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"}, {"\xf0\x9f\x98", "\xef\xbf\xbd"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"}, {"", ""}, {"\xf4\x90", "\xef\xbf\xbd\xef\xbf\xbd"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        char *got = text_repair(cases[i][0], &st);
        cr_assert(got);
        cr_expect_str_eq(got, cases[i][1], "case %zu", i);
        mem_free(got);
    }
}

/* Opens, encodes something with all that a tokenizer has, closes; every failure must be one sentence about the file. */
static bool survives(const char *model, size_t bytes, const char *config, size_t config_bytes)
{
    static const char text[] = " fox\xc2\xa0\xcc\x81 \xef\xbc\x9c/s> <extra_id_0> lighthouse \xe6\x97\xa5 </s>x \xef\xac\x81\xcc\x81 caf\x65\xcc\x81 \xef\xb7\xba";
    size_t before = mem_in_use();
    int32_t ids[64];
    int whole;
    status st = STATUS_INIT;
    char *copy = malloc(bytes + 1); /* so that the sanitizer sees every byte read beyond the end */
    memcpy(copy, model, bytes);
    copy = realloc(copy, bytes ? bytes : 1);
    tokenizer *t = tokenizer_open_spm(copy, bytes, config, config_bytes, "spiece.model", &st);
    free(copy);
    bool opened = t != NULL;
    cr_assert_eq(opened, status_ok(&st));
    if (t) {
        int n = tokenizer_encode(t, text, ids, 64, &whole, &st);
        cr_assert(n >= 1 && n <= 64 && whole >= n);
        for (int i = 0; i < n; i++)
            cr_assert(ids[i] >= 0 && ids[i] < tokenizer_vocabulary(t));
    } else {
        cr_assert_eq(st.code, STATUS_BAD_FILE, "%d: %s", st.code, st.text);
        cr_assert(strstr(st.text, "spiece.model") || strstr(st.text, "tokenizer_config.json"), "%s", st.text);
    }
    tokenizer_close(t);
    cr_assert_eq(mem_in_use(), before);
    return opened;
}

Test(tokenizer, a_model_cut_off_is_refused)
{
    file_bytes m = fixture_read("tokenizer", "spiece.model");
    for (size_t n = 0; n < m.bytes; n++)
        cr_expect(!survives(m.data, n, NULL, 0) || n > m.bytes - 32, "%zu of %zu bytes were taken", n, m.bytes); /* behind the normalizer */
    cr_expect(survives(m.data, m.bytes, NULL, 0));
    free(m.data);
}

Test(tokenizer, damaged_models_do_no_harm)
{
    file_bytes m = fixture_read("tokenizer", "spiece.model");
    for (size_t i = 0; i < m.bytes; i++) {
        char was = m.data[i];
        m.data[i] = (char)(was ^ (i % 3 ? 1 << i % 8 : 0xff));
        survives(m.data, m.bytes, NULL, 0);
        m.data[i] = was;
    }
    for (unsigned seed = 1; seed < 300; seed++) { /* stretches of noise */
        char *noise = malloc(m.bytes);
        memcpy(noise, m.data, m.bytes);
        unsigned x = seed;
        for (size_t i = (seed * 2654435761u) % m.bytes, n = 0; n < 40 && i < m.bytes; i++, n++)
            noise[i] = (char)((x = x * 1103515245 + 12345) >> 16);
        survives(noise, m.bytes, NULL, 0);
        free(noise);
    }
    free(m.data);
}

Test(tokenizer, what_is_no_model_is_refused)
{
    static const char lone_piece[] = "\x0a\x05\x0a\x03" "abc", *const texts[] = {"", "x", "{}", "PK\3\4", lone_piece, "\x1a\x00"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        cr_expect(!survives(texts[i], strlen(texts[i]), NULL, 0), "case %zu", i);
    /* four pieces, the normalizer; then the kind says BPE; then a piece is empty, not UTF-8, of infinite score */
    static const char pieces[] = "\n\3\n\1a\n\3\n\1b\n\3\n\1c\n\3\n\1d";
    static const char *const behind[] = {"\x1a\0", "\x12\2\x18\2\x1a\0", "\n\2\n\0\x1a\0", "\n\3\n\1\xff\x1a\0", "\n\x08\n\1e\x15\0\0\x80\x7f\x1a\0", "\x1a\4\x12\2ab"};
    static const size_t sizes[] = {2, 6, 6, 7, 12, 6};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char model[64];
        memcpy(model, pieces, sizeof pieces - 1);
        memcpy(model + sizeof pieces - 1, behind[i], sizes[i]);
        cr_expect_eq(survives(model, sizeof pieces - 1 + sizes[i], NULL, 0), i == 0, "case %zu", i);
    }
}

Test(tokenizer, odd_configs)
{
    static const struct { const char *config; bool opens; int vocabulary; } cases[] = {
        {"{}", true, 400}, {"{\"extra_ids\": 0}", true, 300}, {"{\"extra_ids\": 3}", true, 303}, {"{\"extra_ids\": -1}", false, 0},
        {"{\"extra_ids\": \"x\"}", false, 0}, {"[]", false, 0}, {"", false, 0}, {"{\"added_tokens_decoder\": []}", false, 0},
        {"{\"added_tokens_decoder\": {\"0\": {}}}", false, 0}, {"{\"added_tokens_decoder\": {\"0\": {\"content\": \"new\", \"lstrip\": 1}}}", false, 0},
        {"{\"extra_ids\": 0, \"added_tokens_decoder\": {\"9\": {\"content\": \"<b>\"}, \"8\": {\"content\": \"<a>\"}}}", true, 302},
        {"{\"extra_ids\": 0, \"additional_special_tokens\": [\"<a>\", {\"content\": \"<b>\"}, 7]}", true, 302},
        {"{\"extra_ids\": 0, \"eos_token\": {\"content\": \"<end>\"}}", true, 301}, {"{\"eos_token\": null}", true, 400}};
    file_bytes m = fixture_read("tokenizer", "spiece.model");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        cr_expect_eq(survives(m.data, m.bytes, cases[i].config, strlen(cases[i].config)), cases[i].opens, "%s", cases[i].config);
        tokenizer *t = tokenizer_open_spm(m.data, m.bytes, cases[i].config, strlen(cases[i].config), "spiece.model", &st);
        if (t)
            cr_expect_eq(tokenizer_vocabulary(t), cases[i].vocabulary, "%s: %d", cases[i].config, tokenizer_vocabulary(t));
        tokenizer_close(t);
    }
    free(m.data);
}

/* What a fine-tuned model may add: a token that is looked for in the normalized text. */
Test(tokenizer, added_tokens_in_normalized_text)
{
    static const char config[] = "{\"extra_ids\": 0, \"added_tokens_decoder\": {\"300\": {\"content\": \"zyzzy\", \"normalized\": true}}}";
    file_bytes m = fixture_read("tokenizer", "spiece.model");
    status st = STATUS_INIT;
    tokenizer *t = tokenizer_open_spm(m.data, m.bytes, config, sizeof config - 1, "spiece.model", &st);
    int32_t ids[8];
    cr_assert(t);
    cr_expect_eq(tokenizer_encode(t, "\xef\xbd\x9ayzzy zyzzy", ids, 8, NULL, &st), 3);
    cr_expect(ids[0] == 300 && ids[1] == 300 && ids[2] == 1);
    tokenizer_close(t);
    free(m.data);
}

Test(tokenizer, memory_runs_out)
{
    size_t before = mem_in_use();
    long n = 0;
    bool done = false;
    while (!done) {
        status st = STATUS_INIT;
        int32_t ids[16];
        mem_fail_at(++n);
        tokenizer *t = open_fixture(true, &st);
        int count = t ? tokenizer_encode(t, "fox <extra_id_0> caf\xc3\xa9", ids, 16, NULL, &st) : -1;
        char *lower = count > 0 ? text_lower_strip(" ABC ", &st) : NULL;
        mem_fail_at(0);
        done = lower != NULL;
        cr_assert_eq(status_ok(&st), done);
        cr_assert(done || (st.code == STATUS_FAILED && strstr(st.text, "out of memory")), "allocation %ld: %d %s", n, st.code, st.text);
        mem_free(lower);
        tokenizer_close(t);
        cr_assert_eq(mem_in_use(), before, "allocation %ld", n);
    }
    cr_expect_geq(n, 20);
}

/* A tokenizer.json that lies or ends early: one sentence that names it. */
Test(tokenizer, damaged_json)
{
    static const char *const cases[] = {
        "[]", "{}", "{\"model\": 3}", "{\"model\": {\"type\": \"BPE\", \"vocab\": {}}}", "{\"model\": {\"type\": \"Unigram\", \"vocab\": {}}}",
        "{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}", "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]]}}",
        "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"<pad>\", 0], [\"</s>\"], [\"<unk>\", 0]]}}",
        "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"<pad>\", 0], [\"</s>\", \"x\"], [\"<unk>\", 0]]}}",
        "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"<pad>\", 0], [\"</s>\", NaN], [\"<unk>\", 0]]}}",
        "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"<pad>\", 0], [\"\", 0], [\"<unk>\", 0]]}}",
        "{\"normalizer\": {\"precompiled_charsmap\": \"%%%\"}, \"model\": {\"type\": \"Unigram\", \"vocab\": [[\"<pad>\", 0], [\"</s>\", 0], [\"<unk>\", 0]]}}",
        "{\"normalizer\": {\"precompiled_charsmap\": \"/////w==\"}, \"model\": {\"type\": \"Unigram\", \"vocab\": [[\"<pad>\", 0], [\"</s>\", 0], [\"<unk>\", 0]]}}",
        "{\"added_tokens\": 7, \"model\": {\"type\": \"Unigram\", \"vocab\": [[\"<pad>\", 0], [\"</s>\", 0], [\"<unk>\", 0]]}}"};
    size_t before = mem_in_use();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        cr_expect_null(tokenizer_open_spm_json(cases[i], strlen(cases[i]), NULL, 0, "t/tokenizer.json", &st), "case %zu", i);
        cr_expect_eq(st.code, STATUS_BAD_FILE, "case %zu", i);
        cr_expect(strstr(st.text, "t/tokenizer.json"), "case %zu: %s", i, st.text);
    }
    file_bytes whole = fixture_read("tokenizer", "saved.json");
    for (size_t cut = 0; cut < 64; cut++) {
        status st = STATUS_INIT;
        cr_expect_null(tokenizer_open_spm_json(whole.data, whole.bytes * cut / 64, NULL, 0, "t/tokenizer.json", &st), "cut at %zu of 64", cut);
        cr_expect_eq(st.code, STATUS_BAD_FILE);
    }
    free(whole.data);
    cr_expect_eq(mem_in_use(), before);
}
