/* test_api.c: the public functions, as a program of somebody else calls them. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/penstock.h"

static penstock_model *open_fixture(const char *name, penstock_error *e)
{
    char path[1024];
    const char *fixtures = getenv("PENSTOCK_FIXTURES");
    snprintf(path, sizeof path, "%s/%s", fixtures ? fixtures : "tests/fixtures", name);
    return penstock_open(path, e);
}

static penstock_options small_picture(void)
{
    penstock_options o = penstock_defaults();
    o.prompt = "a red fox";
    o.width = o.height = 32;
    o.steps = 2;
    o.seed = 3;
    return o;
}

static void count_calls(void *ctx, const char *stage, int done, int total)
{
    int *calls = ctx;
    *calls += strcmp(stage, "denoise") == 0 && total == 2 && done <= total;
}

Test(api, pictures)
{
    penstock_error e = {0};
    penstock_model *m = open_fixture("pixart/models/sigma_small", &e);
    cr_assert(m, "%s", e.text);
    penstock_options o = small_picture();
    int calls = 0;
    o.batch_count = 2;
    o.progress = count_calls;
    o.progress_ctx = &calls;
    penstock_picture both, one;
    cr_assert(penstock_generate(m, &o, &both, &e), "%s", e.text);
    cr_expect(both.count == 2 && both.width == 32 && both.height == 32 && both.seed == 3 && both.seconds > 0);
    cr_expect_eq(calls, 3);
    o.batch_count = 1;
    o.seed = 4;
    cr_assert(penstock_generate(m, &o, &one, &e), "%s", e.text);
    cr_expect_eq(memcmp(one.rgb, both.rgb + 32 * 32 * 3, 32 * 32 * 3), 0, "the second of a batch is the first of the next seed");
    penstock_picture_free(&one);
    penstock_picture_free(&both);
    cr_expect_null(both.rgb);
    penstock_close(m);
}

Test(api, needs)
{
    penstock_error e = {0};
    penstock_model *m = open_fixture("pixart/models/sigma_small", &e);
    cr_assert(m, "%s", e.text);
    penstock_options o = small_picture();
    penstock_needs n, twice;
    cr_assert(penstock_plan(m, &o, &n, &e), "%s", e.text);
    cr_expect(n.peak_bytes > 1 << 20 && n.stream_bytes > 1000 && n.operations > 1000 && n.width == 32 && n.height == 32 && n.steps == 2);
    o.steps = 4;
    cr_assert(penstock_plan(m, &o, &twice, &e), "%s", e.text);
    cr_expect(twice.operations > n.operations && twice.steps == 4);
    o.budget_bytes = 1 << 20;
    cr_assert_not(penstock_plan(m, &o, &n, &e));
    cr_expect(e.code == 4 && e.least_bytes > 1 << 20, "%d: %s", e.code, e.text);
    uint64_t least = e.least_bytes;
    cr_expect(n.peak_bytes == 0, "what failed is empty");
    cr_assert_not(penstock_plan(m, &o, &n, &e), "the error stays until it is cleared");
    e = (penstock_error){0};
    o.budget_bytes = least;
    cr_assert(penstock_plan(m, &o, &n, &e), "%s", e.text);
    cr_expect_leq(n.peak_bytes, least);
    penstock_close(m);
}

Test(api, errors)
{
    penstock_error e = {0};
    penstock_picture picture;
    penstock_options o = small_picture();
    cr_expect_null(open_fixture("no such model", &e));
    cr_expect(e.code == 3 && strstr(e.text, "no such model"), "%d: %s", e.code, e.text);
    cr_expect_not(penstock_generate(NULL, &o, &picture, NULL), "without a place for the sentence");
    penstock_close(NULL);
    e = (penstock_error){0};
    cr_expect_not(penstock_generate(NULL, &o, &picture, &e));
    cr_expect(e.code == 2 && strstr(e.text, "model"), "%s", e.text);
    e = (penstock_error){0};
    penstock_model *m = open_fixture("pixart/models/sigma_small", &e);
    cr_assert(m, "%s", e.text);
    o.prompt = NULL;
    cr_expect_not(penstock_generate(m, &o, &picture, &e));
    cr_expect(e.code == 2 && strstr(e.text, "prompt"), "%s", e.text);
    o = small_picture();
    o.size = 8;
    e = (penstock_error){0};
    cr_expect_not(penstock_generate(m, &o, &picture, &e));
    cr_expect(e.code == 2 && strstr(e.text, "penstock_defaults"), "%s", e.text);
    o = small_picture();
    o.width = 33;
    e = (penstock_error){0};
    cr_expect_not(penstock_generate_png(m, &o, "/tmp/never-written.png", &e));
    cr_expect(e.code == 2 && strstr(e.text, "33x32") && access("/tmp/never-written.png", F_OK) != 0, "%s", e.text);
    penstock_close(m);
}

Test(api, a_variable_that_cannot_be)
{
    penstock_error e = {0};
    setenv("PENSTOCK_READ", "mapped", 1);
    cr_expect_null(open_fixture("pixart/models/sigma_small", &e));
    cr_expect(e.code == 2 && strstr(e.text, "PENSTOCK_READ"), "%d: %s", e.code, e.text);
    setenv("PENSTOCK_READ", "", 1);
    e = (penstock_error){0};
    penstock_model *m = open_fixture("pixart/models/sigma_small", &e);
    cr_expect(m, "%s", e.text);
    penstock_close(m);
}

Test(api, version) { cr_expect_eq(strspn(penstock_version(), "0123456789."), strlen(penstock_version())); }
