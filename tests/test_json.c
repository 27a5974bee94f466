/* test_json.c: configs, and what stands in their place. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "import/json.h"
#include "import/scan.h"

static json *parse(const char *text, status *st) { return json_parse(text, strlen(text), "file.json", st); }

static bool one_sentence(const status *st) { return st->code == STATUS_BAD_FILE && strstr(st->text, "file.json") && !strchr(st->text, '\n'); }

Test(json, what_is_json)
{
    static const char *const good[] = {"{}", " { } \n", "[]", "1", "-1.5e3", "\"x\"", "true", "[1, [2, {\"a\": null}]]", "NaN", "-Infinity", "{\"a\": Infinity}"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        status st = STATUS_INIT;
        json *j = parse(good[i], &st);
        cr_expect(j && status_ok(&st), "%s: %s", good[i], st.text);
        json_free(j);
    }
}

Test(json, what_is_none)
{
    static const char *const bad[] = {"", " ", "{", "}", "[1", "[1,", "{\"a\"}", "{\"a\":}", "{\"a\": 1} x", "{} {}", "1 2", "tru", "\"x", "{a: 1}", "null",
                                      "\x01", "\xff\xfe{}", "PK\3\4", "{\"a\": 1}}", "[1 2]", "+1", "--1", "'", "{\"a\" 1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        status st = STATUS_INIT;
        cr_expect_null(parse(bad[i], &st), "%s", bad[i]);
        cr_expect(one_sentence(&st), "%s: %d %s", bad[i], st.code, st.text);
    }
    status st = STATUS_INIT; /* a zero byte ends nothing */
    cr_expect_null(json_parse("{}\0{}", 5, "file.json", &st));
    cr_expect(one_sentence(&st));
}

Test(json, cut_off_anywhere)
{
    static const char text[] = "{\"a\": [1, 2.5, \"x\\u00e9\", true, null], \"b\": {\"c\": -1e-5}}";
    for (size_t n = 0; n < sizeof text - 1; n++) {
        status st = STATUS_INIT;
        char *copy = malloc(n + 1);
        memcpy(copy, text, n);
        copy = realloc(copy, n ? n : 1);
        cr_expect_null(json_parse(copy, n, "file.json", &st));
        cr_expect(one_sentence(&st), "%s", st.text);
        free(copy);
    }
}

Test(json, depth)
{
    for (int depth = 20; depth < 100000; depth = depth < 50 ? depth + 1 : depth * 10) {
        status st = STATUS_INIT;
        char *text = malloc(2 * (size_t)depth + 1);
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        text[2 * depth] = 0;
        json *j = parse(text, &st);
        cr_expect_eq(j != NULL, depth <= 32, "%d", depth);
        cr_expect_eq(status_ok(&st), depth <= 32);
        json_free(j);
        free(text);
    }
}

#define CONFIG                                                                                                                 \
    "{\"i\": 12, \"f\": 512.0, \"half\": 0.5, \"t\": true, \"s\": \"text\", \"n\": null, \"list\": [1, 2, 3.0], \"mixed\": [1, \"x\"]," \
    " \"huge\": 18446744073709551615, \"huger\": 123456789012345678901234567890, \"low\": -9223372036854775808, \"nan\": NaN, \"inf\": Infinity," \
    " \"e\": 1e3, \"o\": {\"i\": 1}, \"tiny\": 1e300}"

Test(json, members)
{
    status st = STATUS_INIT;
    json *j = parse(CONFIG, &st);
    cr_assert(j);
    cr_expect_eq(json_int(j, "i", 0, 100, 7, "file.json", &st), 12);
    cr_expect_eq(json_int(j, "f", 0, 1000, 7, "file.json", &st), 512);
    cr_expect_eq(json_int(j, "e", 0, 1000, 7, "file.json", &st), 1000);
    cr_expect_eq(json_int(j, "absent", 0, 100, 7, "file.json", &st), 7);
    cr_expect_eq(json_int(j, "n", 0, 100, 7, "file.json", &st), 7);
    cr_expect_eq(json_int(j, "low", INT64_MIN, 0, 7, "file.json", &st), INT64_MIN);
    cr_expect_eq(json_need_int(j, "i", 12, 12, "file.json", &st), 12);
    cr_expect_eq(json_double(j, "half", 0, 1, 7, "file.json", &st), 0.5);
    cr_expect_eq(json_double(j, "i", 0, 100, 7, "file.json", &st), 12);
    cr_expect_eq(json_double(j, "inf", 0, INFINITY, 7, "file.json", &st), INFINITY);
    cr_expect_eq(json_double(j, "absent", 0, 1, 7, "file.json", &st), 7);
    cr_expect(json_flag(j, "t", false, "file.json", &st) && json_flag(j, "n", true, "file.json", &st) && !json_flag(j, "absent", false, "file.json", &st));
    cr_expect_str_eq(json_text(j, "s", "other", "file.json", &st), "text");
    cr_expect_str_eq(json_text(j, "n", "other", "file.json", &st), "other");
    int64_t list[4];
    cr_expect_eq(json_ints(j, "list", list, 4, 0, 10, "file.json", &st), 3);
    cr_expect(list[0] == 1 && list[1] == 2 && list[2] == 3);
    cr_expect_eq(json_ints(j, "i", list, 4, 0, 100, "file.json", &st), 1);
    cr_expect_eq(list[0], 12);
    cr_expect_eq(json_ints(j, "absent", list, 4, 0, 100, "file.json", &st), 0);
    cr_expect_not_null(json_member(j, "o"));
    cr_expect_null(json_member(j, "n"));
    cr_expect_null(json_member(json_member(j, "i"), "x"));
    cr_expect_null(json_member(NULL, "x"));
    cr_expect(status_ok(&st), "%s", st.text);
    json_free(j);
}

static void check_refused(const status *st, const char *key)
{
    cr_expect(one_sentence(st) && strstr(st->text, key), "%s: %d '%s'", key, st->code, st->text);
}

Test(json, members_of_another_kind)
{
    static const char *const no_int[] = {"half", "t", "s", "list", "huge", "huger", "nan", "inf", "o", "tiny"};
    static const char *const no_double[] = {"t", "s", "list", "nan", "inf", "o", "tiny"};
    static const char *const no_ints[] = {"half", "t", "s", "mixed", "huge", "o", "nan"};
    status first = STATUS_INIT;
    json *j = parse(CONFIG, &first);
    cr_assert(j);
    for (size_t i = 0; i < sizeof no_int / sizeof *no_int; i++) {
        status st = STATUS_INIT;
        cr_expect_eq(json_int(j, no_int[i], INT64_MIN, INT64_MAX, 7, "file.json", &st), 7, "%s", no_int[i]);
        check_refused(&st, no_int[i]);
    }
    for (size_t i = 0; i < sizeof no_double / sizeof *no_double; i++) {
        status st = STATUS_INIT;
        cr_expect_eq(json_double(j, no_double[i], 0, 1e6, 7, "file.json", &st), 7);
        check_refused(&st, no_double[i]);
    }
    for (size_t i = 0; i < sizeof no_ints / sizeof *no_ints; i++) {
        int64_t list[4];
        status st = STATUS_INIT;
        cr_expect_eq(json_ints(j, no_ints[i], list, 4, INT64_MIN, INT64_MAX, "file.json", &st), -1);
        check_refused(&st, no_ints[i]);
    }
    status st[8] = {STATUS_INIT, STATUS_INIT, STATUS_INIT, STATUS_INIT, STATUS_INIT, STATUS_INIT, STATUS_INIT, STATUS_INIT};
    int64_t list[2];
    cr_expect_eq(json_ints(j, "list", list, 2, 0, 9, "file.json", &st[0]), -1);
    check_refused(&st[0], "list");
    cr_expect_eq(json_int(j, "i", 13, 100, 50, "file.json", &st[1]), 50);
    check_refused(&st[1], "from 13 to 100, is 12");
    cr_expect_eq(json_need_int(j, "absent", 1, 2, "file.json", &st[2]), 1);
    check_refused(&st[2], "absent is missing");
    cr_expect(json_flag(j, "i", true, "file.json", &st[3]));
    check_refused(&st[3], "true or false");
    cr_expect_str_eq(json_text(j, "i", "other", "file.json", &st[4]), "other");
    check_refused(&st[4], "a string");
    cr_expect_eq(json_need_int(j, "n", 1, 2, "file.json", &st[5]), 1);
    check_refused(&st[5], "missing");
    cr_expect_eq(json_ints(j, "list", list, 2, 0, 9, "file.json", &st[5]), -1);
    check_refused(&st[5], "missing"); /* the first one stays */
    json_free(j);
}

/* ---- the strict scanner ---- */

static bool whole_value(const char *text)
{
    size_t n = strlen(text);
    char *copy = malloc(n ? n : 1);
    memcpy(copy, text, n);
    scan s = {.text = copy, .length = n};
    bool ok = scan_value(&s) && scan_end(&s);
    cr_expect_eq(ok, s.why == NULL);
    free(copy);
    return ok;
}

Test(scan, strict_json)
{
    static const char *const good[] = {"{}", "[]", "[1,2]", " {\"a\":[{}]} ", "0", "-0", "-1.5E+3", "1e5", "true", "false", "null", "\"\\u0041\\n\\\"\"", "\"\\ud83d\\ude00\""};
    static const char *const bad[] = {"", "{", "[", "[1,]", "{\"a\":1,}", "{\"a\":1,\"b\"}", "{'a':1}", "01", "-", "1.", ".5", "1e", "+1", "NaN", "Infinity", "tru", "nul",
                                      "\"", "\"\\x\"", "\"\\u12\"", "\"\\ud83d\"", "\"\\ude00\"", "\"\\ud83dx\"", "\"\\u0000\"", "\"\n\"", "1 2", "/* */ 1", "[1] // x",
                                      "{\"a\" 1}", "{1:2}", "[1 2]", "]", "}"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        cr_expect(whole_value(good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect(!whole_value(bad[i]), "%s", bad[i]);
    char deep[200];
    memset(deep, '[', 100);
    memset(deep + 100, ']', 99);
    deep[199] = 0;
    cr_expect(!whole_value(deep));
    deep[20] = 0;
    memset(deep + 10, ']', 10);
    cr_expect(whole_value(deep));
}

Test(scan, strings_and_numbers)
{
    char text[] = " \"a\\u00e9\\ud83d\\ude00\\/\\t\" : 18446744073709551615 , 18446744073709551616";
    scan s = {.text = text, .length = sizeof text - 1};
    uint64_t n = 0;
    const char *name = scan_string(&s);
    cr_assert(name);
    cr_expect_str_eq(name, "a\xc3\xa9\xf0\x9f\x98\x80/\t");
    cr_expect(!scan_next_is(&s, ','));
    cr_expect(scan_skip(&s, ':') && scan_uint(&s, &n) && n == UINT64_MAX);
    cr_expect(scan_next_is(&s, ',') && !scan_end(&s));
    s.why = NULL;
    cr_expect(!scan_uint(&s, &n) && strstr(s.why, "too large"));
    cr_expect(!scan_skip(&s, '}') && strstr(s.why, "too large"), "the first reason stays");
    static const char *const no_uint[] = {"", "-1", "1.5", "1e3", "007", "x", "\"1\""};
    for (size_t i = 0; i < sizeof no_uint / sizeof *no_uint; i++) {
        char copy[16];
        strcpy(copy, no_uint[i]);
        scan one = {.text = copy, .length = strlen(copy)};
        cr_expect(!scan_uint(&one, &n) && one.why, "%s", no_uint[i]);
    }
}
