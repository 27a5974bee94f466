/* test_wordpiece.c: BERT's ids as transformers gives them (fixtures/wordpiece/make_wordpiece.py), and files that are none. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tests/support.h"
#include "text/tokenizer.h"

static tokenizer_file read_file(const char *name)
{
    file_bytes f = fixture_read("wordpiece", name);
    return (tokenizer_file){f.data, f.bytes};
}

static void free_file(tokenizer_file f) { free((char *)(uintptr_t)f.text); }

static tokenizer *open_with(const char *config, bool saved, status *st)
{
    tokenizer_files f = {.folder = "tokenizer/", .config = read_file(config)};
    *(saved ? &f.whole : &f.vocab) = read_file(saved ? "saved.json" : "vocab.txt");
    tokenizer *t = tokenizer_open_wordpiece(&f, st);
    free_file(f.config);
    free_file(saved ? f.whole : f.vocab);
    return t;
}

static void check_ids(const tokenizer *t, int most, int whole, const char *list, char *text)
{
    enum { ROOM = 400 };
    int32_t ids[ROOM];
    status st = STATUS_INIT;
    char *shown = strdup(text), *copy = strdup(list), *wanted = copy;
    unescape(text);
    int all = 0, n = tokenizer_encode(t, text, ids, most, &all, &st);
    cr_assert(status_ok(&st), "%s", st.text);
    cr_expect_eq(all, whole, "%s: %d ids before cutting, not %d", shown, all, whole);
    for (int i = 0; i < n; i++) {
        char *id = strsep(&wanted, " ");
        cr_expect(id && atoi(id) == ids[i], "%s: id %d is %d, not %s", shown, i, ids[i], id ? id : "(none)");
    }
    cr_expect_null(wanted, "%s: too few ids", shown);
    free(shown);
    free(copy);
}

Test(wordpiece, ids_of_transformers)
{
    size_t before = mem_in_use();
    status st = STATUS_INIT;
    tokenizer *uncased = open_with("uncased.json", false, &st), *cased = open_with("cased.json", false, &st), *saved = open_with("uncased.json", true, &st);
    cr_assert(uncased && cased && saved, "%s", st.text);
    const tokenizer_marks *m = tokenizer_marks_of(cased);
    cr_expect(m->begin == 3 && m->end == 4 && m->pad == 0 && m->longest == 77);
    tokenizer_file cases = read_file("ids.tsv");
    int count = 0;
    for (char *rest = (char *)(uintptr_t)cases.text, *line; (line = strsep(&rest, "\n")) && *line; count++) {
        char *which = strsep(&line, "\t"), *most = strsep(&line, "\t"), *whole = strsep(&line, "\t"), *wanted = strsep(&line, "\t");
        cr_assert(line, "ids.tsv is damaged");
        bool lower = strcmp(which, "uncased") == 0;
        char *again = strdup(line);
        check_ids(lower ? uncased : cased, atoi(most), atoi(whole), wanted, line);
        if (lower)
            check_ids(saved, atoi(most), atoi(whole), wanted, again);
        free(again);
    }
    cr_expect_geq(count, 200);
    free_file(cases);
    tokenizer_close(uncased);
    tokenizer_close(cased);
    tokenizer_close(saved);
    cr_expect_eq(mem_in_use(), before);
}

Test(wordpiece, what_is_no_vocabulary_is_refused_by_name)
{
    static const struct { const char *vocab, *whole, *config, *says; } cases[] = {
        {NULL, NULL, NULL, "tokenizer/vocab.txt: is missing"},
        {"", NULL, NULL, "lacks the unknown token [UNK]"},
        {"a\nb\n", NULL, NULL, "lacks the unknown token [UNK]"},
        {"[UNK]\na\nb\na\n", NULL, NULL, "token \"a\" is there twice"},
        {"[UNK]\n\xff\n", NULL, NULL, "vocab.txt: byte 6 is not UTF-8"},
        {"[UNK]\n", NULL, "[", "tokenizer_config.json"},
        {"[UNK]\n", NULL, "{\"do_lower_case\": 3}", "do_lower_case"},
        {"[UNK]\n", NULL, "{\"unk_token\": \"nothing\"}", "lacks the unknown token nothing"},
        {NULL, "{}", NULL, "tokenizer.json: holds no WordPiece model"},
        {NULL, "{\"model\": {\"type\": \"BPE\", \"vocab\": {}}}", NULL, "no WordPiece model"},
        {NULL, "{\"model\": {\"type\": \"WordPiece\", \"vocab\": {\"[UNK]\": []}}}", NULL, "has no id"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t before = mem_in_use();
        status st = STATUS_INIT;
        const char *text[3] = {cases[i].vocab, cases[i].whole, cases[i].config};
        tokenizer_file file[3] = {{NULL, 0}};
        for (int k = 0; k < 3; k++)
            if (text[k])
                file[k] = (tokenizer_file){text[k], strlen(text[k])};
        tokenizer_files f = {.folder = "tokenizer/", .vocab = file[0], .whole = file[1], .config = file[2]};
        cr_expect_null(tokenizer_open_wordpiece(&f, &st), "case %zu", i);
        cr_expect_eq(st.code, STATUS_BAD_FILE, "case %zu", i);
        cr_expect(strstr(st.text, cases[i].says), "case %zu: \"%s\" does not say \"%s\"", i, st.text, cases[i].says);
        cr_expect_eq(mem_in_use(), before);
    }
}

Test(wordpiece, damaged_files_do_no_harm)
{
    tokenizer_file vocab = read_file("vocab.txt"), whole = read_file("saved.json");
    for (int k = 0; k < 2; k++) {
        tokenizer_file *file = k ? &whole : &vocab;
        for (size_t i = 0; i < file->bytes; i += 7) {
            char *at = (char *)(uintptr_t)file->text + i, was = *at;
            status st = STATUS_INIT;
            int32_t ids[32];
            *at = (char)(was ^ (i % 3 ? 1 << i % 8 : 0xff));
            tokenizer_files f = {.folder = "tokenizer/"};
            *(k ? &f.whole : &f.vocab) = *file;
            tokenizer *t = tokenizer_open_wordpiece(&f, &st);
            cr_assert(t ? tokenizer_encode(t, "A photo \xe6\x97\xa5 don't", ids, 32, NULL, &st) >= 2 : st.code == STATUS_BAD_FILE, "%s", st.text);
            tokenizer_close(t);
            *at = was;
        }
    }
    free_file(vocab);
    free_file(whole);
}

Test(wordpiece, memory_runs_out)
{
    size_t before = mem_in_use();
    long n = 0;
    for (bool done = false; !done;) {
        status st = STATUS_INIT;
        int32_t ids[16];
        mem_fail_at(++n);
        tokenizer *t = open_with("uncased.json", false, &st);
        done = t && tokenizer_encode(t, "fox caf\xc3\xa9", ids, 16, NULL, &st) > 0;
        mem_fail_at(0);
        cr_assert(done || (st.code == STATUS_FAILED && strstr(st.text, "out of memory")), "allocation %ld: %s", n, st.text);
        tokenizer_close(t);
        cr_assert_eq(mem_in_use(), before, "allocation %ld", n);
    }
    cr_expect_geq(n, 15);
}
