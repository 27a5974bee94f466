/* test_resume.c: a run that is killed after any of its calls goes on from its checkpoint to the same picture, with every sampler; and what is no
 * checkpoint of the run is refused in a sentence. */
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "models/pipeline.h"
#include "sampling/sampler.h"
#include "tests/support.h"

static char folder[256], checkpoint[300];
static const char *model_name = "pixart/models/sigma_small";

static void make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/penstock-resume-XXXXXX", tmp ? tmp : "/tmp");
    cr_assert(mkdtemp(folder));
    snprintf(checkpoint, sizeof checkpoint, "%s/run", folder);
}

static void remove_folder(void)
{
    unlink(checkpoint);
    cr_assert_eq(rmdir(folder), 0, "something was left in %s", folder);
}

static source *open_fixture(status *st)
{
    return source_open(fixture_path("", model_name), st);
}

static source *model(void)
{
    status st = STATUS_INIT;
    source *s = open_fixture(&st);
    cr_assert(s, "%s", st.text);
    return s;
}

static request request_for(const char *method)
{
    return (request){.prompt = "a red fox", .steps = 6, .guidance_scale = NAN, .sampling_method = method, .seed = 7, .batch_count = 2, .threads = 1};
}

static void die_at(void *ctx, const char *stage, int done, int total)
{
    (void)total;
    if (strcmp(stage, "denoise") == 0 && done == *(int *)ctx)
        raise(SIGKILL);
}

/* A process that `die` ends, which is told of the run's progress. */
static void run_until(const request *q, progress_fn die, int *when)
{
    pid_t child = fork();
    cr_assert(child >= 0);
    if (child == 0) {
        status st = STATUS_INIT;
        result r = {0};
        request mine = *q;
        mine.progress = die;
        mine.progress_ctx = when;
        source *s = open_fixture(&st); /* no assertion here: it is the parent that reports */
        if (s)
            pipeline_generate(s, &mine, &r, &st);
        fprintf(stderr, "%s\n", st.text);
        _exit(9);
    }
    int how;
    cr_assert_eq(waitpid(child, &how, 0), child);
    cr_assert(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL, "%d: the run ended by itself, status %d", *when, how);
}

/* Dies before call number `call`. */
static void run_killed(const request *q, int call) { run_until(q, die_at, &call); }

static result run_whole(const request *q)
{
    status st = STATUS_INIT;
    result r = {0};
    source *s = model();
    cr_assert(pipeline_generate(s, q, &r, &st), "%s", st.text);
    source_close(s);
    return r;
}

static bool same_picture(const result *a, const result *b)
{
    return a->images == b->images && memcmp(a->rgb, b->rgb, (size_t)a->images * (size_t)a->width * (size_t)a->height * 3) == 0;
}

/* Killed before call k, then before call k + 2, then left alone. */
static void kill_everywhere(request q, const char *what)
{
    result whole = run_whole(&q);
    int calls = whole.evaluations;
    cr_assert_gt(calls, 2);
    q.checkpoint = checkpoint;
    for (int call = 1; call < calls; call++) {
        run_killed(&q, call);
        if (call + 2 < calls)
            run_killed(&q, call + 2);
        result rest = run_whole(&q);
        int first = call + 2 < calls ? call + 2 : call;
        cr_assert_eq(rest.evaluations, calls - first, "%s: %d calls were left of %d, not %d", what, rest.evaluations, calls, calls - first);
        cr_assert(same_picture(&whole, &rest), "%s: another picture after call %d", what, first);
        result_free(&rest);
        unlink(checkpoint);
    }
    result_free(&whole);
}

Test(resume, every_sampler_after_every_call, .init = make_folder, .fini = remove_folder)
{
    int tried = 0;
    for (const sampler_row *row = sampler_table; row->method; row++) {
        request q = request_for(row->method);
        status st = STATUS_INIT;
        source *s = model();
        result probe = {0};
        bool fits = pipeline_plan(s, &q, &probe, &st);   /* a method for models of another kind says so */
        source_close(s);
        if (!fits)
            continue;
        tried++;
        kill_everywhere(q, row->method);
    }
    cr_assert_geq(tried, 13, "only %d methods", tried);
}

/* A UNet with two encoders; from noise, and from a picture. */
Test(resume, stable_diffusion, .init = make_folder, .fini = remove_folder)
{
    static uint8_t rgb[64 * 64 * 3];
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * i >> 7);
    pixmap picture = {.width = 64, .height = 64, .rgb = rgb};
    model_name = "sd/models/xl";
    kill_everywhere(request_for("euler_a"), "xl");
    request q = request_for("dpm++2m_sde");
    q.init = &picture;
    q.strength = 0.8;
    q.batch_count = 1;
    kill_everywhere(q, "xl from a picture");
}

/* Tokens, drawn with temperature; and from a picture. */
Test(resume, amused, .init = make_folder, .fini = remove_folder)
{
    static uint8_t rgb[32 * 16 * 3];
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * i >> 5);
    pixmap picture = {.width = 32, .height = 16, .rgb = rgb};
    model_name = "amused/models/small";
    request q = request_for(NULL);
    q.width = q.height = 0;
    kill_everywhere(q, "amused");
    q.init = &picture;
    q.strength = 0.8;
    q.batch_count = 1;
    kill_everywhere(q, "amused from a picture");
}

/* One text encoder, a mask of its own, and its picture's latents are not drawn. */
Test(resume, kandinsky3, .init = make_folder, .fini = remove_folder)
{
    static uint8_t rgb[64 * 32 * 3];
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * i >> 6);
    pixmap picture = {.width = 64, .height = 32, .rgb = rgb};
    model_name = "kandinsky3/models/full";
    request q = request_for(NULL);
    q.width = q.height = 64;
    kill_everywhere(q, "kandinsky3");
    q.null_embedding = true;
    q.sampling_method = "flash";
    q.steps = 4;
    kill_everywhere(q, "kandinsky3's flash");
    q = request_for(NULL);
    q.init = &picture;
    q.strength = 0.8;
    q.batch_count = 1;
    kill_everywhere(q, "kandinsky3 from a picture");
}

/* ---- runs of several stages: killed after every evaluation, in whichever stage that is ---- */

/* ctx: evaluations that are left; the process dies before the next. */
static void die_after(void *ctx, const char *stage, int done, int total)
{
    int *left = ctx;
    if (strstr(stage, "denoise") && done < total && (*left)-- == 0)
        raise(SIGKILL);
}

static void run_for(const request *q, int evaluations) { run_until(q, die_after, &evaluations); }

/* Killed after n evaluations, after one more, then left alone. Every n was tried once; some of a long run are enough for every day. */
static void kill_stages(request q, const char *what)
{
    result whole = run_whole(&q);
    q.checkpoint = checkpoint;
    for (int n = 1; n < whole.evaluations; n += n < 5 || n > whole.evaluations - 3 ? 1 : whole.evaluations / 5) {
        run_for(&q, n);
        if (n + 1 < whole.evaluations)
            run_for(&q, 1);
        int done = n + (n + 1 < whole.evaluations);
        result rest = run_whole(&q);
        cr_assert_eq(rest.evaluations, whole.evaluations - done, "%s: %d calls were left of %d, not %d", what, rest.evaluations, whole.evaluations, whole.evaluations - done);
        cr_assert_eq(rest.first_call, done, "%s: it says that it went on from call %d, not %d", what, rest.first_call, done);
        cr_assert(same_picture(&whole, &rest), "%s: another picture after %d evaluations", what, done);
        result_free(&rest);
        unlink(checkpoint);
    }
    result_free(&whole);
}

static source *open_named(const char *name)
{
    const char *kept = model_name;
    model_name = name;
    source *s = model();
    model_name = kept;
    return s;
}

/* Pixels, then pixels (50 steps), the second in the same folder; and the upscaler's latents behind them (75). */
Test(resume, cascade, .init = make_folder, .fini = remove_folder)
{
    request q = request_for(NULL);
    q.steps = 3;
    q.batch_count = 2;
    model_name = "if/models/both";
    kill_stages(q, "cascade");
}

Test(resume, cascade_with_an_upscaler, .init = make_folder, .fini = remove_folder)
{
    source *third = open_named("if/models/upscaler");
    request q = request_for(NULL);
    q.steps = 2;
    q.batch_count = 1;
    q.cascade = (const source *const[]){third};
    q.cascades = 1;
    model_name = "if/models/first";
    kill_stages(q, "cascade to an upscaler");
    source_close(third);
}

Test(resume, refiner, .init = make_folder, .fini = remove_folder)
{
    source *refiner = open_named("sd/models/refiner");
    static const char *const methods[] = {NULL, "heun", "dpm++2m_sde"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        request q = request_for(methods[i]);
        q.refiner = refiner;
        q.refiner_start = 0.5;
        model_name = "sd/models/xl";
        kill_stages(q, "refiner");
    }
    source_close(refiner);
}

static status run_refused(const request *q)
{
    status st = STATUS_INIT;
    result r = {0};
    source *s = model();
    cr_assert_not(pipeline_generate(s, q, &r, &st));
    cr_assert_eq(r.rgb, NULL);
    source_close(s);
    return st;
}

Test(resume, another_runs_checkpoint_is_refused, .init = make_folder, .fini = remove_folder)
{
    request q = request_for(NULL);
    q.checkpoint = checkpoint;
    run_killed(&q, 2);
    struct { const char *word; request q; } other[] = {{"prompt", q}, {"seed", q}, {"latent width", q}, {"batch count", q}, {"steps", q}, {"sampling method", q}, {"guidance", q}, {"precision", q}};
    other[0].q.prompt = "a red dog";
    other[1].q.seed = 8;
    other[2].q.width = 64;
    other[3].q.batch_count = 1;
    other[4].q.steps = 7;
    other[5].q.sampling_method = "euler";
    other[6].q.guidance_scale = 3;
    other[7].q.precision = PRECISION_F32;
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        status st = run_refused(&other[i].q);
        cr_assert_eq(st.code, STATUS_BAD_FILE, "%s: status %d", other[i].word, st.code);
        cr_assert(strstr(st.text, other[i].word) && strstr(st.text, checkpoint), "'%s' does not name %s", st.text, other[i].word);
    }
    result rest = run_whole(&q);
    cr_assert_eq(rest.first_call, 2, "a refusal must leave the checkpoint as it was");
    result_free(&rest);
}

/* In the second stage: what was told the first is the run's, too. */
Test(resume, another_cascades_checkpoint_is_refused, .init = make_folder, .fini = remove_folder)
{
    request q = request_for(NULL);
    q.steps = 3;
    q.checkpoint = checkpoint;
    model_name = "if/models/both";
    run_for(&q, 5);
    struct { const char *word; request q; } other[] = {{"before it", q}, {"before it", q}, {"before it", q}, {"batch count", q}};
    other[0].q.prompt = "a red dog";
    other[1].q.steps = 4;
    other[2].q.guidance_scale = 3;
    other[3].q.batch_count = 1;
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        status st = run_refused(&other[i].q);
        cr_assert_eq(st.code, STATUS_BAD_FILE, "%zu: status %d", i, st.code);
        cr_assert(strstr(st.text, other[i].word) && strstr(st.text, checkpoint), "'%s' does not say %s", st.text, other[i].word);
    }
    model_name = "if/models/first";   /* one stage alone */
    status st = run_refused(&q);
    cr_assert(st.code == STATUS_BAD_FILE && strstr(st.text, "stage 2"), "%s", st.text);
    model_name = "if/models/both";
    result rest = run_whole(&q);
    cr_assert_eq(rest.first_call, 5, "a refusal must leave the checkpoint as it was");
    result_free(&rest);
}

Test(resume, a_damaged_checkpoint_is_refused, .init = make_folder, .fini = remove_folder)
{
    request q = request_for("dpm++2m_sde");
    q.checkpoint = checkpoint;
    run_killed(&q, 3);
    FILE *f = fopen(checkpoint, "rb");
    char whole[1 << 16];
    size_t n = f ? fread(whole, 1, sizeof whole, f) : 0;
    cr_assert(n > 1000 && n < sizeof whole);
    fclose(f);
    for (size_t at = 0; at <= n; at += n / 37) {   /* a byte altered; then cut off there */
        for (int cut = 0; cut < 2; cut++) {
            f = fopen(checkpoint, "wb");
            cr_assert(f);
            size_t keep = cut ? at : n;
            char was = whole[at < n ? at : n - 1];
            whole[at < n ? at : n - 1] ^= 0x20;
            cr_assert_eq(fwrite(whole, 1, keep, f), keep);
            whole[at < n ? at : n - 1] = was;
            fclose(f);
            status st = run_refused(&q);
            cr_assert_eq(st.code, STATUS_BAD_FILE, "%zu: status %d: %s", at, st.code, st.text);
        }
    }
}
