/* test_bpe.c: CLIP's ids as transformers gives them (fixtures/bpe/make_bpe.py), and files that are none. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tests/support.h"
#include "text/tokenizer.h"

/* text NULL: there is no such file. */
static tokenizer_file read_file(const char *folder, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s%s%s", folder, *folder ? "/" : "", name);
    file_bytes f = fixture_exists("bpe", path) ? fixture_read("bpe", path) : (file_bytes){NULL, 0};
    return (tokenizer_file){f.data, f.bytes};
}

static tokenizer_files read_files(const char *folder)
{
    bool whole = strcmp(folder, "saved") == 0;
    tokenizer_files f = {.folder = "tokenizer/",
                         .vocab = read_file("", whole ? "no such file" : "vocab.json"),
                         .merges = read_file("", whole ? "no such file" : "merges.txt"),
                         .whole = read_file(folder, "tokenizer.json"),
                         .config = read_file(folder, "tokenizer_config.json"),
                         .special = read_file(folder, "special_tokens_map.json"),
                         .added = read_file(folder, "added_tokens.json")};
    cr_assert(whole ? f.whole.text != NULL : f.vocab.text && f.merges.text, "fixtures not found (set PENSTOCK_FIXTURES)");
    return f;
}

static void free_files(tokenizer_files *f)
{
    tokenizer_file *all[] = {&f->vocab, &f->merges, &f->whole, &f->config, &f->special, &f->added};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free((char *)(uintptr_t)all[i]->text);
}

static tokenizer *open_folder(const char *folder, status *st)
{
    tokenizer_files f = read_files(folder);
    tokenizer *t = tokenizer_open_bpe(&f, st);
    free_files(&f);
    return t;
}

static void check_ids(const tokenizer *t, const char *folder, int most, int whole, char *wanted, char *text)
{
    enum { ROOM = 400 };
    int32_t ids[ROOM], part[ROOM];
    status st = STATUS_INIT;
    char *shown = strdup(text);
    unescape(text);
    int all = 0, n = tokenizer_encode(t, text, ids, most, &all, &st);
    cr_assert(status_ok(&st), "%s", st.text);
    cr_expect_eq(all, whole, "%s: %s: %d ids before cutting, not %d", folder, shown, all, whole);
    for (int i = 0; i < n; i++) {
        char *id = strsep(&wanted, " ");
        cr_expect(id && atoi(id) == ids[i], "%s: %s: id %d is %d, not %s", folder, shown, i, ids[i], id ? id : "(none)");
    }
    cr_expect_null(wanted, "%s: %s: too few ids", folder, shown);
    int inner = tokenizer_encode_part(t, text, part, ROOM, &all, &st);
    cr_expect_eq(all, whole - 2, "%s", shown);
    for (int i = 0; i < inner && i < n - 2; i++)
        cr_expect_eq(part[i], ids[i + 1], "%s", shown);
    free(shown);
}

static char *next_line(char **rest)
{
    char *line = strsep(rest, "\n");
    return line && *line ? line : NULL;
}

Test(bpe, ids_of_transformers)
{
    size_t before = mem_in_use();
    tokenizer *open[16] = {0};
    char *folder[16] = {0}, *line;
    int folders = 0, count = 0;
    tokenizer_file marks = read_file("", "marks.tsv"), cases = read_file("", "ids.tsv");
    cr_assert(marks.text && cases.text);
    for (char *rest = (char *)(uintptr_t)marks.text; (line = next_line(&rest)); folders++) {
        status st = STATUS_INIT;
        int begin, end, pad, longest, vocabulary;
        folder[folders] = strsep(&line, "\t");
        open[folders] = open_folder(folder[folders], &st);
        cr_assert(open[folders], "%s: %s", folder[folders], st.text);
        cr_assert_eq(sscanf(line, "%d %d %d %d %d", &begin, &end, &pad, &longest, &vocabulary), 5);
        const tokenizer_marks *m = tokenizer_marks_of(open[folders]);
        cr_expect(m->begin == begin && m->end == end && m->pad == pad && m->longest == longest, "%s: marks %d %d %d %d", folder[folders], m->begin, m->end, m->pad, m->longest);
        cr_expect_eq(tokenizer_vocabulary(open[folders]), vocabulary, "%s: %d", folder[folders], tokenizer_vocabulary(open[folders]));
        cr_expect_eq(tokenizer_largest_id(open[folders]), 733);
    }
    for (char *rest = (char *)(uintptr_t)cases.text; (line = next_line(&rest)); count++) {
        char *which = strsep(&line, "\t"), *most = strsep(&line, "\t"), *whole = strsep(&line, "\t"), *wanted = strsep(&line, "\t");
        int i = 0;
        while (i < folders && strcmp(folder[i], which) != 0)
            i++;
        cr_assert(i < folders && line, "ids.tsv is damaged");
        check_ids(open[i], which, atoi(most), atoi(whole), wanted, line);
    }
    cr_expect_geq(count, 600);
    for (int i = 0; i < folders; i++)
        tokenizer_close(open[i]);
    free((char *)(uintptr_t)marks.text);
    free((char *)(uintptr_t)cases.text);
    cr_expect_eq(mem_in_use(), before);
}

/* Opens, encodes, closes; a failure must be one sentence about the file. */
static bool survives(const tokenizer_files *f, status *st)
{
    static const char text[] = "A Photo\xc2\xa0of\xcc\x81 CATS!! <|startoftext|> it's \xe6\xa3\xae \xf0\x9f\x99\x82 <sks> <|endoftext|>";
    size_t before = mem_in_use();
    int32_t ids[64];
    *st = (status)STATUS_INIT;
    tokenizer *t = tokenizer_open_bpe(f, st);
    bool opened = t != NULL;
    cr_assert_eq(opened, status_ok(st));
    if (t) {
        int whole, n = tokenizer_encode(t, text, ids, 64, &whole, st);
        cr_assert(n >= 2 && n <= 64 && whole >= n, "%d of %d: %s", n, whole, st->text);
    } else {
        cr_assert_eq(st->code, STATUS_BAD_FILE, "%d: %s", st->code, st->text);
        cr_assert(strstr(st->text, "tokenizer/"), "%s", st->text);
        cr_assert_null(strchr(st->text, '\n'), "%s", st->text);
    }
    tokenizer_close(t);
    cr_assert_eq(mem_in_use(), before);
    return opened;
}

/* A copy of just these bytes, so that the sanitizer sees every byte read beyond the end. */
static tokenizer_file copy_of(const char *text, size_t bytes)
{
    char *copy = malloc(bytes + 1);
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    return (tokenizer_file){copy, bytes};
}

Test(bpe, files_cut_off)
{
    tokenizer_files f = read_files("sd"), cut = f;
    status st;
    for (size_t n = 0; n < f.vocab.bytes; n += n % 7 + 1) {
        cut.vocab = copy_of(f.vocab.text, n);
        cr_expect(!survives(&cut, &st), "%zu bytes of vocab.json were taken", n);
        free((char *)(uintptr_t)cut.vocab.text);
    }
    cut.vocab = f.vocab;
    for (size_t n = 0; n < f.merges.bytes; n++) {
        cut.merges = copy_of(f.merges.text, n);
        survives(&cut, &st); /* whole lines are a shorter list of merges */
        free((char *)(uintptr_t)cut.merges.text);
    }
    free_files(&f);
}

Test(bpe, damaged_files_do_no_harm)
{
    tokenizer_files f = read_files("numbered"), whole = read_files("saved");
    status st;
    struct { tokenizer_files *f; tokenizer_file *file; size_t step; } all[] = {{&f, &f.vocab, 5}, {&f, &f.merges, 2}, {&f, &f.config, 1}, {&whole, &whole.whole, 23}};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        for (size_t i = 0; i < all[k].file->bytes; i += all[k].step) {
            char *at = (char *)(uintptr_t)all[k].file->text + i, was = *at;
            *at = (char)(was ^ (i % 3 ? 1 << i % 8 : 0xff));
            survives(all[k].f, &st);
            *at = was;
        }
    free_files(&f);
    free_files(&whole);
}

Test(bpe, what_is_no_tokenizer_is_refused_by_name)
{
    static const struct { const char *vocab, *merges, *whole, *config, *says; } cases[] = {
        {NULL, NULL, NULL, NULL, "vocab.json: is missing"},
        {"{}", NULL, NULL, NULL, "merges.txt: is missing"},
        {NULL, "a b\n", NULL, NULL, "vocab.json: is missing"},
        {"", "", NULL, NULL, "vocab.json: byte 0"},
        {"[]", "", NULL, NULL, "vocab.json: byte 0"},
        {"{\"a\": 1", "", NULL, NULL, "vocab.json: byte 7"},
        {"{\"a\": \"1\"}", "", NULL, NULL, "an id expected"},
        {"{\"a\": -1}", "", NULL, NULL, "an id expected"},
        {"{\"a\": 99999999999999999999}", "", NULL, NULL, "vocab.json"},
        {"{\"a\": 16777216}", "", NULL, NULL, "has the id 16777216"},
        {"{\"a\": 1, \"a\": 2}", "", NULL, NULL, "token \"a\" is there twice"},
        {"{\"a\": 1, \"b\": 1}", "", NULL, NULL, "the same id 1"},
        {"{\"\xff\": 1}", "", NULL, NULL, "vocab.json: byte 2 is not UTF-8"},
        {"{\"\\ud800\": 1}", "", NULL, NULL, "surrogates"},
        {"{\"\\q\": 1}", "", NULL, NULL, "an escape"},
        {"{\"a\": 1} x", "", NULL, NULL, "nothing more"},
        {"{\"a\": 0, \"b\": 1}", "a b\n", NULL, NULL, "merge 1, \"a b\": the vocabulary lacks what they make"},
        {"{\"a\": 0, \"b\": 1}", "#version: 0.2\na\n", NULL, NULL, "merges.txt: line 2"},
        {"{\"a\": 0, \"b\": 1, \"ab\": 2}", "a b c\n", NULL, NULL, "merges.txt: line 1"},
        {"{\"a\": 0, \"b\": 1, \"ab\": 2}", "a b\n\n", NULL, NULL, "merges.txt: line 2"},
        {"{\"a\": 0}", "c a\n", NULL, NULL, "lacks the first"},
        {"{\"a\": 0}", "\xff a\n", NULL, NULL, "merges.txt: byte 0 is not UTF-8"},
        {"{\"a\": 0}", "", NULL, NULL, "has neither byte 0x00 nor the unknown token <|endoftext|>"},
        {"{\"<|endoftext|>\": 0}", "", NULL, "[]", "tokenizer_config.json"},
        {"{\"<|endoftext|>\": 0}", "", NULL, "{\"added_tokens_decoder\": []}", "tokenizer_config.json"},
        {"{\"<|endoftext|>\": 0}", "", NULL, "{\"pad_token\": {\"content\": \"x\", \"lstrip\": 3}}", "lstrip"},
        {"{\"<|endoftext|>\": 0}", "", NULL, "{\"model_max_length\": \"x\"}", "model_max_length"},
        {NULL, NULL, "{}", NULL, "tokenizer.json: holds no model"},
        {NULL, NULL, "{\"model\": {\"type\": \"Unigram\", \"vocab\": [], \"merges\": []}}", NULL, "no BPE model"},
        {NULL, NULL, "{\"model\": {\"vocab\": {\"a\": \"x\"}, \"merges\": []}}", NULL, "token \"a\" has no id"},
        {NULL, NULL, "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [3]}}", NULL, "merge 1 is not two tokens"},
        {NULL, NULL, "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}}", NULL, "merge 1 is not two tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text[4] = {cases[i].vocab, cases[i].merges, cases[i].whole, cases[i].config};
        tokenizer_file file[4] = {{NULL, 0}};
        status st;
        for (int k = 0; k < 4; k++)
            if (text[k])
                file[k] = copy_of(text[k], strlen(text[k]));
        tokenizer_files f = {.folder = "tokenizer/", .vocab = file[0], .merges = file[1], .whole = file[2], .config = file[3]};
        cr_expect(!survives(&f, &st), "case %zu", i);
        cr_expect(strstr(st.text, cases[i].says), "case %zu: \"%s\" does not say \"%s\"", i, st.text, cases[i].says);
        for (int k = 0; k < 4; k++)
            free((char *)(uintptr_t)file[k].text);
    }
}

/* Bytes that a vocabulary lacks become its unknown token; lines may end as on Windows; the last of two equal merges counts. */
Test(bpe, small_vocabularies)
{
    static const char vocab[] = "{\"<|startoftext|>\": 5, \"<|endoftext|>\": 6, \"a\": 0, \"b</w>\": 1, \"ab</w>\": 2, \"\\u0061a\": 3, \"aab</w>\": 4}";
    static const char merges[] = "#version: 0.2\r\na b</w>\r\na a\r\naa b</w>\r\na b</w>\r\n";
    tokenizer_files f = {.folder = "", .vocab = {vocab, sizeof vocab - 1}, .merges = {merges, sizeof merges - 1}};
    status st = STATUS_INIT;
    int32_t ids[16];
    tokenizer *t = tokenizer_open_bpe(&f, &st);
    cr_assert(t, "%s", st.text);
    cr_expect_eq(tokenizer_encode(t, "AAB ab xyb", ids, 16, NULL, &st), 7);
    static const int32_t wanted[] = {5, 4, 2, 6, 6, 1, 6};
    for (int i = 0; i < 7; i++)
        cr_expect_eq(ids[i], wanted[i], "%d: %d", i, ids[i]);
    tokenizer_close(t);
}

Test(bpe, long_words_take_no_long_time)
{
    status st = STATUS_INIT;
    tokenizer *t = open_folder("sd", &st);
    cr_assert(t);
    size_t n = 1 << 20;
    char *text = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        text[i] = "lighthouse"[i % 10];
    text[n] = 0;
    int32_t ids[77];
    int whole;
    cr_expect_eq(tokenizer_encode(t, text, ids, 77, &whole, &st), 77);
    cr_expect_gt(whole, 100000);
    free(text);
    tokenizer_close(t);
}

Test(bpe, memory_runs_out)
{
    size_t before = mem_in_use();
    long n = 0;
    bool done = false;
    tokenizer_files f = read_files("numbered");
    while (!done) {
        status st = STATUS_INIT;
        int32_t ids[16];
        mem_fail_at(++n);
        tokenizer *t = tokenizer_open_bpe(&f, &st);
        int count = t ? tokenizer_encode(t, "fox <sks> cAf\xc3\xa9", ids, 16, NULL, &st) : -1;
        mem_fail_at(0);
        done = count > 0;
        cr_assert_eq(status_ok(&st), done);
        cr_assert(done || (st.code == STATUS_FAILED && strstr(st.text, "out of memory")), "allocation %ld: %d %s", n, st.code, st.text);
        tokenizer_close(t);
        cr_assert_eq(mem_in_use(), before, "allocation %ld", n);
    }
    cr_expect_geq(n, 20);
    free_files(&f);
}
