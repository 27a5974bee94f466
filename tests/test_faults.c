/* test_faults.c: whatever fails, and whenever: one sentence, the right status, nothing half-written, nothing kept.
 *
 * The n-th allocation and the n-th read fail, for every n until nothing fails any more; files shrink, are replaced and altered while a run is in its
 * second step. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "image/image_png.h"
#include "models/pipeline.h"
#include "quant/convert.h"
#include "tests/support.h"
#include "weights/io.h"

static char folder[256], out_path[300];

static void make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/penstock-faults-XXXXXX", tmp ? tmp : "/tmp");
    cr_assert(mkdtemp(folder));
    snprintf(out_path, sizeof out_path, "%s/out", folder);
    setenv("XDG_CACHE_HOME", folder, 1);
}

static void shell(const char *command, const char *a, const char *b)
{
    char line[3000];
    snprintf(line, sizeof line, "%s '%s' '%s'", command, a, b);
    cr_assert_eq(system(line), 0, "%s", line);
}

static void remove_folder(void) { shell("rm -rf", folder, folder); }

static const char *small(void) { return fixture_path("pixart", "models/sigma_small"); }

static int entries(const char *name)
{
    int n = 0;
    DIR *d = opendir(name);
    cr_assert(d, "%s", name);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* ---- what is tried ---- */

typedef struct job {
    bool (*run)(const struct job *j, status *st);
    const char *model;
    uint64_t budget;
    bool cache;
    weight_type type;  /* quantize */
    int stride;        /* every stride-th n: for what takes long */
    char *expected; /* the bytes of out_path, once it worked */
    size_t bytes;
} job;

static request request_for(const job *j)
{
    return (request){.prompt = "a red fox", .steps = 1, .guidance_scale = NAN, .seed = 7, .batch_count = 1, .threads = 1, .budget_bytes = j->budget, .scratch = folder, .cache = j->cache};
}

static bool generate(const job *j, status *st)
{
    request q = request_for(j);
    result r = {0};
    source *s = source_open(j->model, st);
    bool ok = s && pipeline_generate(s, &q, &r, st) && image_write_png(out_path, r.rgb, r.width, r.height, "a red fox", st);
    result_free(&r);
    source_close(s);
    return ok;
}

static bool quantize(const job *j, status *st)
{
    plan plans[8] = {0};
    convert_component c[8];
    convert_report r = {0};
    source *s = source_open(j->model, st);
    int n = s ? pipeline_record(s, plans, 8, st) : 0;
    for (int i = 0; i < n; i++)
        c[i] = (convert_component){.name = plans[i].stage, .plan = &plans[i]};
    convert_request q = {.from = s, .out = out_path, .type = j->type, .components = n, .component = c, .threads = 1, .memory_bytes = j->budget};
    bool ok = n > 0 && convert(&q, &r, st);
    convert_report_free(&r);
    for (int i = 0; i < n; i++)
        plan_free(&plans[i]);
    source_close(s);
    return ok;
}

/* ---- what is looked at afterwards ---- */

static char *read_out(size_t *bytes)
{
    FILE *f = fopen(out_path, "rb");
    cr_assert(f, "%s is not there", out_path);
    char *text = malloc(1 << 22);
    *bytes = fread(text, 1, 1 << 22, f);
    fclose(f);
    return text;
}

typedef struct holdings {
    size_t memory;
    int files;
} holdings;

static holdings holdings_now(void) { return (holdings){mem_in_use(), entries("/proc/self/fd")}; }

static void check_kept(holdings before, const char *what, long n)
{
    holdings after = holdings_now();
    cr_assert_eq(after.memory, before.memory, "%s %ld: %zu bytes are still held", what, n, after.memory - before.memory);
    cr_assert_eq(after.files, before.files, "%s %ld: %d files are still open", what, n, after.files - before.files);
}

static void check_failure(const job *j, const status *st, status_code code, const char *word, const char *what, long n)
{
    cr_assert_eq(st->code, code, "%s %ld: status %d: %s", what, n, st->code, st->text);
    cr_assert(strstr(st->text, word), "%s %ld: '%s' does not say %s", what, n, st->text, word);
    cr_assert_eq(strchr(st->text, '\n'), NULL);
    cr_assert(access(out_path, F_OK) != 0, "%s %ld: a file was left", what, n);
    cr_assert(j->cache || entries(folder) == 0, "%s %ld: something was left in %s", what, n, folder);
}

static void check_success(job *j, const char *what, long n)
{
    size_t bytes;
    char *now = read_out(&bytes);
    if (j->expected)
        cr_assert(bytes == j->bytes && memcmp(now, j->expected, bytes) == 0, "%s %ld: another result", what, n);
    else
        j->expected = now, j->bytes = bytes;
    if (j->expected != now)
        free(now);
    unlink(out_path);
}

/* The result that all others are held against. */
static void run_whole(job *j)
{
    status st = STATUS_INIT;
    cr_assert(j->run(j, &st), "%s", st.text);
    check_success(j, "whole", 0);
}

static void clear_cache(const job *j)
{
    char path[700];
    snprintf(path, sizeof path, "%s/penstock/embeddings", folder);
    DIR *d = j->cache ? opendir(path) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/penstock/embeddings/%s", folder, e->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
}

static void every_allocation(job j, long least)
{
    run_whole(&j);
    long n = 1;
    for (bool more = true; more; n += j.stride) {
        status st = STATUS_INIT;
        clear_cache(&j);
        holdings before = holdings_now();
        mem_fail_at(n);
        bool ok = j.run(&j, &st);
        more = mem_fail_left() == 0;
        mem_fail_at(0);
        check_kept(before, "allocation", n);
        if (ok)
            check_success(&j, "allocation", n);
        else
            check_failure(&j, &st, STATUS_FAILED, "out of memory", "allocation", n);
        cr_assert(!ok || !more || j.cache, "allocation %ld: failed, and nobody noticed", n);
    }
    cr_assert_gt(n, least, "%ld allocations are too few to be true", n);
    free(j.expected);
}

static void every_read(job j, long least, int error, status_code code)
{
    run_whole(&j);
    long n = 1;
    for (bool more = true; more; n += j.stride) {
        status st = STATUS_INIT;
        clear_cache(&j);
        holdings before = holdings_now();
        io_fail_at(n, error);
        bool ok = j.run(&j, &st);
        more = io_fail_left() == 0;
        io_fail_at(0, 0);
        check_kept(before, "read", n);
        if (ok)
            check_success(&j, "read", n);
        else
            check_failure(&j, &st, code, strerror(error), "read", n);
        cr_assert(!ok || !more || code == STATUS_OK, "read %ld: failed, and nobody noticed", n);
    }
    cr_assert_gt(n, least, "%ld reads are too few to be true", n);
    free(j.expected);
}

static job job_of(bool (*run)(const job *, status *), uint64_t budget)
{
    return (job){.run = run, .model = small(), .budget = budget, .type = TYPE_F16, .stride = 1};
}

/* Least budget and a little: the ring, the slabs, the ladder of plans. */
static uint64_t narrow(const char *model)
{
    job j = {.model = model, .budget = 1 << 20};
    status st = STATUS_INIT;
    cr_assert_not(generate(&j, &st));
    cr_assert_eq(st.code, STATUS_BUDGET);
    return st.least_bytes;
}

Test(faults, every_allocation_of_generate, .init = make_folder, .fini = remove_folder)
{
    every_allocation(job_of(generate, 0), 50);
}

Test(faults, every_allocation_of_generate_in_a_budget, .init = make_folder, .fini = remove_folder)
{
    every_allocation(job_of(generate, narrow(small())), 50);
}

Test(faults, every_allocation_of_generate_with_a_cache, .init = make_folder, .fini = remove_folder)
{
    job j = job_of(generate, 0);
    j.cache = true;
    every_allocation(j, 50);
}

/* Two encoders, another tokenizer, another network: more of everything, so not every one. */
Test(faults, stable_diffusion, .init = make_folder, .fini = remove_folder)
{
    job j = {.run = generate, .model = fixture_path("", "sd/models/xl"), .stride = 31};
    every_allocation(j, 50);
    j.budget = narrow(j.model);
    j.stride = 61;
    every_allocation(j, 50);
    j.stride = 17;
    every_read(j, 20, EIO, STATUS_BAD_FILE);
}

/* Matrices that are turned as they are read, in parts of a batch. */
Test(faults, kandinsky3, .init = make_folder, .fini = remove_folder)
{
    job j = {.run = generate, .model = fixture_path("", "kandinsky3/models/full"), .stride = 131};
    every_allocation(j, 50);
    j.budget = narrow(j.model);
    j.stride = 71;
    every_allocation(j, 50);
    j.stride = 29;
    every_read(j, 20, EIO, STATUS_BAD_FILE);
}

/* Tokens in place of latents, a codebook; T5 whose tokenizer lies beside it. */
Test(faults, tokens, .init = make_folder, .fini = remove_folder)
{
    static const char *const models[] = {"amused/models/small", "muse/models/t5"};
    for (int i = 0; i < 2; i++) {
        job j = {.run = generate, .model = fixture_path("", models[i]), .stride = 11};
        every_allocation(j, 20);
        j.budget = narrow(j.model);
        j.stride = 41;
        every_allocation(j, 10);
        j.stride = 17;
        every_read(j, 10, EIO, STATUS_BAD_FILE);
    }
}

Test(faults, every_allocation_of_quantize, .init = make_folder, .fini = remove_folder)
{
    every_allocation(job_of(quantize, 0), 50);
}

/* The search for good codes takes its time. */
Test(faults, allocations_of_quantize_to_q4, .init = make_folder, .fini = remove_folder)
{
    job j = job_of(quantize, 0);
    j.type = TYPE_Q4;
    j.stride = 61;
    every_allocation(j, 50);
}

Test(faults, every_read_of_generate, .init = make_folder, .fini = remove_folder)
{
    every_read(job_of(generate, 0), 20, EIO, STATUS_BAD_FILE);
}

Test(faults, every_read_of_generate_in_a_budget, .init = make_folder, .fini = remove_folder)
{
    every_read(job_of(generate, narrow(small())), 20, EIO, STATUS_BAD_FILE);
}

Test(faults, every_read_of_quantize, .init = make_folder, .fini = remove_folder)
{
    every_read(job_of(quantize, 0), 20, EIO, STATUS_BAD_FILE);
}

Test(faults, every_read_interrupted, .init = make_folder, .fini = remove_folder)
{
    every_read(job_of(generate, narrow(small())), 20, EINTR, STATUS_OK);
}

Test(faults, short_reads, .init = make_folder, .fini = remove_folder)
{
    bool (*run[])(const job *, status *) = {generate, quantize};
    for (int k = 0; k < 2; k++)
        for (int narrowed = 0; narrowed < 2; narrowed++) {
            job j = job_of(run[k], narrowed && k == 0 ? narrow(small()) : 0);
            run_whole(&j);
            for (size_t most = 1; most < 10000; most = most * 9 + 4) {
                status st = STATUS_INIT;
                io_short_reads(most);
                bool ok = j.run(&j, &st);
                io_short_reads(0);
                cr_assert(ok, "%zu bytes a read: %s", most, st.text);
                check_success(&j, "short reads", (long)most);
            }
            free(j.expected);
        }
}

/* ---- files that change while a run is in its second step ---- */

typedef struct event {
    const char *command, *a, *b;
} event;

static void act(void *ctx, const char *stage, int done, int total)
{
    const event *e = ctx;
    (void)total;
    if (strcmp(stage, "denoise") == 0 && done == 1)
        shell(e->command, e->a, e->b);
}

static status run_with(const char *model, uint64_t budget, const event *e, char **picture, size_t *bytes)
{
    job j = {.model = model, .budget = budget};
    request q = request_for(&j);
    status st = STATUS_INIT;
    result r = {0};
    q.steps = 4;
    q.progress = e ? act : NULL;
    q.progress_ctx = (void *)(uintptr_t)e;
    holdings before = holdings_now();
    source *s = source_open(model, &st);
    if (s)
        pipeline_generate(s, &q, &r, &st);
    *picture = NULL;
    if (r.rgb && (*picture = malloc(*bytes = (size_t)r.width * (size_t)r.height * 3)))
        memcpy(*picture, r.rgb, *bytes);
    result_free(&r);
    source_close(s);
    check_kept(before, "changed file", 0);
    return st;
}

/* A copy of the model that may be spoiled, and the file of its denoiser. */
static void copy_model(char model[400], char weights[500])
{
    snprintf(model, 400, "%s/model", folder);
    snprintf(weights, 500, "%s/transformer/diffusion_pytorch_model.safetensors", model);
    shell("rm -rf", model, model);
    shell("cp -r", small(), model);
}

Test(faults, a_file_that_shrinks, .init = make_folder, .fini = remove_folder)
{
    char model[400], weights[500], *picture;
    size_t bytes;
    uint64_t budget[] = {0, narrow(small())};
    const char *cuts[] = {"truncate -s 0", "truncate -s 5000", "truncate -s 20000"};
    for (int b = 0; b < 2; b++)
        for (int c = 0; c < 3; c++) {
            copy_model(model, weights);
            event e = {cuts[c], weights, weights};
            status st = run_with(model, budget[b], &e, &picture, &bytes);
            /* what the narrow run had read before need not be read again */
            cr_assert_eq(st.code, STATUS_BAD_FILE, "%s, budget %d: status %d: %s", cuts[c], b, st.code, st.text);
            cr_assert(strstr(st.text, "diffusion_pytorch_model"), "%s", st.text);
            cr_assert_eq(picture, NULL);
        }
}

/* The opened file stays what it was: the run ends as if nothing had happened. */
Test(faults, a_file_that_is_replaced, .init = make_folder, .fini = remove_folder)
{
    char model[400], weights[500], other[600], *whole, *picture;
    size_t bytes, n;
    uint64_t budget[] = {0, narrow(small())};
    for (int b = 0; b < 2; b++) {
        copy_model(model, weights);
        cr_assert_eq(run_with(model, budget[b], NULL, &whole, &bytes).code, STATUS_OK);
        snprintf(other, sizeof other, "%s/vae/diffusion_pytorch_model.safetensors", model);
        event e = {"f() { cp \"$1\" \"$1.new\" && mv \"$1.new\" \"$2\"; }; f", other, weights};
        status st = run_with(model, budget[b], &e, &picture, &n);
        cr_assert(status_ok(&st), "%s", st.text);
        cr_assert(n == bytes && memcmp(picture, whole, n) == 0);
        free(whole);
        free(picture);
    }
}

/* A container that is written over before the decoder reads its part. */
Test(faults, a_container_altered_under_way, .init = make_folder, .fini = remove_folder)
{
    char container[400], *picture;
    size_t bytes;
    job j = job_of(quantize, 0);
    status st = STATUS_INIT;
    snprintf(container, sizeof container, "%s/c.penstock", folder);
    uint64_t budget[2] = {0};
    for (int b = 0; b < 2; b++) {
        cr_assert(quantize(&j, &st), "%s", st.text);
        shell("mv", out_path, container);
        if (b)
            budget[1] = narrow(container);
        /* the second half, but for the header at the end */
        event e = {"f() { n=$(($(wc -c <\"$1\") / 4096)); dd if=/dev/zero of=\"$1\" bs=4096 seek=$((n / 2)) count=$((n / 3)) conv=notrunc 2>/dev/null; }; f", container, container};
        st = run_with(container, budget[b], &e, &picture, &bytes);
        cr_assert_eq(st.code, STATUS_BAD_FILE, "budget %d: status %d: %s", b, st.code, st.text);
        cr_assert(strstr(st.text, "checksum"), "%s", st.text);
        cr_assert_eq(picture, NULL);
        st = (status)STATUS_INIT;
    }
}
