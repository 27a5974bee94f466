/* test_prompts.c: prompts in A1111's syntax become the chunks, ids and weights of fixtures/bpe/make_prompts.py. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tests/support.h"
#include "text/prompt_weights.h"

static tokenizer_file read_file(const char *folder, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s%s%s", folder, *folder ? "/" : "", name);
    file_bytes f = fixture_read("bpe", path);
    return (tokenizer_file){f.data, f.bytes};
}

static tokenizer *open_folder(const char *folder)
{
    status st = STATUS_INIT;
    tokenizer_files f = {.folder = "", .vocab = read_file("", "vocab.json"), .merges = read_file("", "merges.txt"), .config = read_file(folder, "tokenizer_config.json")};
    tokenizer *t = tokenizer_open_bpe(&f, &st);
    cr_assert(t, "%s", st.text);
    free((char *)(uintptr_t)f.vocab.text);
    free((char *)(uintptr_t)f.merges.text);
    free((char *)(uintptr_t)f.config.text);
    return t;
}

/* tokens, cut, chunks, ids, weights, text */
static void check_prompt(const tokenizer *t, char *line)
{
    int number[3];
    for (int i = 0; i < 3; i++)
        number[i] = atoi(strsep(&line, "\t"));
    char *ids = strsep(&line, "\t"), *weights = strsep(&line, "\t");
    cr_assert(line, "prompts.tsv is damaged");
    char *shown = strdup(line);
    unescape(line);
    status st = STATUS_INIT;
    prompt_chunks p;
    cr_assert(prompt_read(&p, t, line, number[0], false, &st), "%s: %s", shown, st.text);
    cr_expect(p.tokens == number[0] && p.cut == number[1] && p.chunks == number[2], "%s: %d chunks, %d cut off", shown, p.chunks, p.cut);
    for (int i = 0; i < p.chunks * p.tokens; i++) {
        char *id = strsep(&ids, " "), *weight = strsep(&weights, " ");
        cr_assert(id && weight, "%s: too many ids", shown);
        cr_expect_eq(p.ids[i], atoi(id), "%s: id %d is %d, not %s", shown, i, p.ids[i], id);
        cr_expect(fabsf(p.weight[i] - strtof(weight, NULL)) <= 2e-7f * fabsf(p.weight[i]), "%s: weight %d is %.9g, not %s", shown, i, (double)p.weight[i], weight);
    }
    cr_expect(!ids && !weights, "%s: too few ids", shown);
    prompt_free(&p);
    free(shown);
}

Test(prompts, chunks_and_weights)
{
    size_t before = mem_in_use();
    tokenizer *sd = open_folder("sd"), *bang = open_folder("bang");
    tokenizer_file cases = read_file("", "prompts.tsv");
    int count = 0;
    for (char *rest = (char *)(uintptr_t)cases.text, *line; (line = strsep(&rest, "\n")) && *line; count++) {
        const char *which = strsep(&line, "\t");
        check_prompt(strcmp(which, "sd") == 0 ? sd : bang, line);
    }
    cr_expect_geq(count, 120);
    free((char *)(uintptr_t)cases.text);
    tokenizer_close(sd);
    tokenizer_close(bang);
    cr_expect_eq(mem_in_use(), before);
}

Test(prompts, which_are_plain)
{
    static const char *const plain[] = {"", "a photo", "a \\ b", "BREAKFAST", "a:1.3", "{x} <y>", "br\xff eak", "\xe2\x82"};
    static const char *const others[] = {"(", ")", "[", "]", "BREAK", "a BREAK", "a, BREAK: b", "\\("};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        cr_expect(prompt_is_plain(plain[i]), "%s", plain[i]);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        cr_expect(!prompt_is_plain(others[i]), "%s", others[i]);
}

Test(prompts, which_may_be_long)
{
    static const char long_text[] = "(a fox and another fox and another fox and another fox and another fox and a moon)";
    cr_expect(prompt_may_be_long(long_text));
    cr_expect(prompt_may_be_long("a BREAK b"));
    cr_expect(!prompt_may_be_long("(a fox:1.3)"));
    cr_expect(prompt_may_be_long("(\xf0\x9d\x85\xa0\xf0\x9d\x85\xa0\xf0\x9d\x85\xa0\xf0\x9d\x85\xa0\xf0\x9d\x85\xa0\xf0\x9d\x85\xa0\xf0\x9d\x85\xa0)"));
    char plain[400];
    memset(plain, 'x', sizeof plain - 1);
    plain[sizeof plain - 1] = 0;
    cr_expect(!prompt_may_be_long(plain)); /* cut */
}

Test(prompts, a_plain_prompt_is_what_the_tokenizer_makes_of_it)
{
    tokenizer *t = open_folder("sd");
    static const char *const texts[] = {"", "a photo of a fox!", "fox fox fox fox fox fox fox fox fox fox fox fox fox"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        status st = STATUS_INIT;
        prompt_chunks p;
        int32_t ids[10];
        int whole, n = tokenizer_encode(t, texts[i], ids, 10, &whole, &st);
        cr_assert(prompt_read(&p, t, texts[i], 10, false, &st));
        cr_expect_eq(p.cut, whole - n);
        for (int k = 0; k < 10; k++)
            cr_expect_eq(p.ids[k], k < n ? ids[k] : tokenizer_marks_of(t)->pad);
        prompt_free(&p);
    }
    tokenizer_close(t);
}

Test(prompts, empty_chunks_behind)
{
    tokenizer *t = open_folder("bang");
    const tokenizer_marks *m = tokenizer_marks_of(t);
    status st = STATUS_INIT;
    prompt_chunks p;
    cr_assert(prompt_read(&p, t, "fox", 8, false, &st) && prompt_lengthen(&p, t, 3, &st));
    cr_expect_eq(p.chunks, 3);
    for (int i = 8; i < 24; i++) {
        cr_expect_eq(p.ids[i], i % 8 == 0 ? m->begin : i % 8 == 1 ? m->end : m->pad, "%d", i);
        cr_expect_eq(p.weight[i], 1.0f);
    }
    prompt_free(&p);
    tokenizer_close(t);
}

Test(prompts, taken_as_it_stands)
{
    tokenizer *t = open_folder("sd");
    status st = STATUS_INIT;
    prompt_chunks p;
    int32_t ids[12];
    int n = tokenizer_encode(t, "a (fox:1.3) BREAK x", ids, 12, NULL, &st);
    cr_assert(prompt_read(&p, t, "a (fox:1.3) BREAK x", 12, true, &st));
    cr_expect_eq(p.chunks, 1);
    cr_expect_eq(memcmp(p.ids, ids, (size_t)n * sizeof *ids), 0);
    for (int i = 0; i < 12; i++)
        cr_expect_eq(p.weight[i], 1.0f);
    prompt_free(&p);
    tokenizer_close(t);
}

Test(prompts, means_are_restored)
{
    tokenizer_file f = read_file("", "weighed.bin");
    float *all = malloc(f.bytes);
    memcpy(all, f.text, f.bytes);
    size_t at = 0, count = f.bytes / 4;
    int cases = 0;
    for (; at < count; cases++) {
        int tokens = (int)all[at], width = (int)all[at + 1];
        size_t n = (size_t)tokens * (size_t)width;
        const float *weight = all + at + 2, *wanted = weight + tokens + n;
        float *hidden = all + at + 2 + tokens;
        prompt_weigh(hidden, weight, tokens, width);
        for (size_t i = 0; i < n; i++)
            cr_expect(fabsf(hidden[i] - wanted[i]) <= 2e-6f * (1 + fabsf(wanted[i])), "case %d: %zu is %g, not %g", cases, i, (double)hidden[i], (double)wanted[i]);
        at += 2 + (size_t)tokens + 2 * n;
    }
    cr_expect_eq(at, count);
    cr_expect_eq(cases, 4);
    free(all);
    free((char *)(uintptr_t)f.text);
}

Test(prompts, weights_of_one_change_no_bit)
{
    float hidden[6] = {0.1f, -2.7f, 3.3f, 1e-20f, 7, -0.0f}, copy[6], weight[2] = {1, 1};
    memcpy(copy, hidden, sizeof copy);
    prompt_weigh(hidden, weight, 2, 3);
    cr_expect_arr_eq((char *)hidden, (char *)copy, sizeof copy);
}

Test(prompts, too_many_chunks)
{
    tokenizer *t = open_folder("sd");
    status st = STATUS_INIT;
    prompt_chunks p;
    char *text = calloc(1, 100 * 6 + 1);
    for (int i = 0; i < 100; i++)
        strcat(text, "BREAK ");
    cr_expect(!prompt_read(&p, t, text, 77, false, &st));
    cr_expect_eq(st.code, STATUS_USAGE);
    cr_expect(strstr(st.text, "more than 64 chunks of 75 tokens"), "%s", st.text);
    cr_expect_null(p.ids);
    free(text);
    tokenizer_close(t);
}

Test(prompts, memory_runs_out)
{
    tokenizer *t = open_folder("sd");
    size_t before = mem_in_use();
    long n = 0;
    for (bool done = false; !done;) {
        status st = STATUS_INIT;
        prompt_chunks p;
        mem_fail_at(++n);
        done = prompt_read(&p, t, "a (fox:1.2), [moon] BREAK caf\xc3\xa9", 12, false, &st);
        mem_fail_at(0);
        cr_assert(done || (st.code == STATUS_FAILED && strstr(st.text, "out of memory")), "allocation %ld: %s", n, st.text);
        prompt_free(&p);
        cr_assert_eq(mem_in_use(), before, "allocation %ld", n);
    }
    cr_expect_geq(n, 10);
    tokenizer_close(t);
}
