/* The way from a source to a container. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/output.h"
#include "quant/convert.h"
#include "quant/encode.h"
#include "quant/round.h"
#include "tests/support.h"
#include "weights/pack.h"

/* ---- numbers to quantize ---- */

static size_t numbers(matrix_shape m) { return (size_t)m.rows * (size_t)m.taps * (size_t)m.depth; }

/* ---- the converter ---- */

enum { MOST_TENSORS = 12 };

typedef struct fake_model { /* a folder's source, in memory */
    source s;
    weight weight[MOST_TENSORS];
    weight_part part[MOST_TENSORS];
    plan plan;
    plan_use use[MOST_TENSORS + 2];
    const char *component[1];
    io *file[1];
    uint8_t *data;
    size_t bytes;
} fake_model;

static int64_t read_fake(void *ctx, uint64_t offset, void *out, size_t bytes)
{
    const fake_model *f = ctx;
    memcpy(out, f->data + offset, bytes);
    return (int64_t)bytes;
}

static void add(fake_model *f, const char *name, weight_type type, weight_role role, int64_t rows, int taps, int depth)
{
    status st = STATUS_INIT;
    int n = f->s.weights++;
    weight *w = &f->weight[n];
    size_t count = (size_t)rows * (size_t)taps * (size_t)depth, bytes = count * (size_t)type_of(type)->element_bytes;
    *w = (weight){.component = "unet", .name = name, .type = type, .dims = 2, .matrix = {rows, taps, depth}, .oihw = taps > 1, .error = NAN,
                  .parts = 1, .part = &f->part[n]};
    w->shape[0] = rows;
    w->shape[1] = depth * taps;
    f->part[n] = (weight_part){f->bytes, bytes, 0, rows, -1};
    f->data = mem_resize(f->data, f->bytes + bytes + 1, 1, "test", &st);
    for (size_t i = 0; i < count; i++) {
        float x = gaussian();
        uint16_t half = type == TYPE_F16 ? f16_of(x) : bf16_of(x);
        if (type == TYPE_F32)
            memcpy(f->data + f->bytes + 4 * i, &x, 4);
        else
            memcpy(f->data + f->bytes + 2 * i, &half, 2);
    }
    f->bytes += bytes;
    f->use[f->plan.uses++] = (plan_use){.weight = w, .role = role, .matrix = w->matrix};
}

static void fake(fake_model *f)
{
    status st = STATUS_INIT;
    static const io_vtable reading = {read_fake, NULL};
    *f = (fake_model){.component = {"unet"}};
    seed_state = 5;
    add(f, "token.weight", TYPE_F16, ROLE_EMBEDDING, 300, 1, 64);
    add(f, "conv_in.weight", TYPE_F32, ROLE_EDGE, 64, 9, 4);
    add(f, "a.weight", TYPE_BF16, ROLE_LINEAR, 1100, 1, 1024);
    add(f, "a.bias", TYPE_F16, ROLE_VECTOR, 1, 1, 2501); /* an odd count: what follows is not aligned to 4 */
    add(f, "conv.weight", TYPE_F16, ROLE_CONV, 50, 9, 320);
    add(f, "b.weight", TYPE_F32, ROLE_LINEAR, 40, 1, 96);
    f->use[f->plan.uses++] = f->use[2]; /* used twice, written once */
    f->plan.use = f->use;
    f->plan.stage = "unet";
    add(f, "unused.weight", TYPE_F32, ROLE_LINEAR, 4, 1, 4);
    f->plan.uses--;
    f->s = (source){.path = (char *)(uintptr_t) "fake", .files = 1, .file = f->file, .components = 1, .component = f->component, .weights = f->s.weights, .weight = f->weight};
    f->file[0] = io_custom("fake", f->bytes, &reading, f, &st);
    cr_assert(f->file[0], "%s", st.text);
}

static void fake_free(fake_model *f)
{
    io_close(f->file[0]);
    mem_free(f->data);
}

static char *temporary(const char *name)
{
    status st = STATUS_INIT;
    return mem_format(&st, "/tmp/penstock-quant-%ld-%s", (long)getpid(), name);
}

static uint64_t report_hash; /* of the container converted last */

/* One container; its bytes. */
static uint8_t *converted(const fake_model *f, weight_type type, int threads, uint64_t memory, convert_report *report, size_t *bytes)
{
    status st = STATUS_INIT;
    char *out = temporary("m");
    convert_component c = {.name = "unet", .plan = &f->plan};
    convert_request q = {.from = &f->s, .out = out, .type = type, .components = 1, .component = &c, .threads = threads, .memory_bytes = memory};
    cr_assert(convert(&q, report, &st), "%s", st.text);
    source *s = source_open_pack(out, &st);
    cr_assert(s && pack_verify(s, NULL, NULL, &st), "%s", st.text);
    *bytes = (size_t)io_size(s->file[0]);
    report_hash = s->hash;
    cr_assert_eq(report->file_bytes, *bytes);
    uint8_t *data = mem_alloc(*bytes, 1, "test", &st);
    cr_assert(io_read(s->file[0], 0, data, *bytes, &st));
    source_close(s);
    unlink(out);
    mem_free(out);
    return data;
}

Test(convert, bytes_depend_on_neither_threads_nor_memory)
{
    const weight_type types[] = {TYPE_Q4, TYPE_Q5, TYPE_Q8, TYPE_F16, TYPE_F32};
    fake_model f;
    fake(&f);
    for (int t = 0; t < 5; t++) {
        size_t bytes, again;
        convert_report report;
        uint8_t *first = converted(&f, types[t], 1, 0, &report, &bytes);
        cr_assert(report.tensors == 6 && report.unused == 1 && strcmp(report.unused_weight[0]->name, "unused.weight") == 0);
        cr_assert(types[t] != TYPE_Q4 || (report.bits <= 4.5 && report.error < 0.075), "%g bits, error %g", report.bits, report.error);
        convert_report_free(&report);
        for (int threads = 2; threads <= 5; threads += 3) {
            uint8_t *second = converted(&f, types[t], threads, threads == 2 ? 24 << 20 : 0, &report, &again);
            convert_report_free(&report);
            cr_assert(again == bytes && memcmp(first, second, bytes) == 0, "%s with %d threads", type_of(types[t])->name, threads);
            mem_free(second);
        }
        mem_free(first);
    }
    fake_free(&f);
    cr_assert_eq(mem_in_use(), 0);
}

/* The numbers of a tensor of a container, turned back, as f32 [rows][taps][depth]. */
static float *numbers_in(const source *s, const char *name)
{
    status st = STATUS_INIT;
    const weight *w = source_find(s, "unet", name);
    const kernels *k = kernels_best();
    size_t row = (size_t)w->matrix.taps * (size_t)w->matrix.depth, unit = type_unit_bytes(w->type, &w->matrix);
    int step = type_unit_rows(w->type);
    float *out = mem_alloc(numbers(w->matrix), sizeof *out, "test", &st);
    void *tmp = mem_alloc(type_panel_tmp_bytes(&w->matrix), 1, "test", &st);
    for (int p = 0; p < w->parts; p++) {
        uint8_t *data = mem_alloc(w->part[p].bytes, 1, "test", &st);
        cr_assert(io_read(s->file[0], w->part[p].offset, data, w->part[p].bytes, &st));
        for (int64_t r = 0; r < w->part[p].rows; r += step)
            type_to_f32(k, w->type, &w->matrix, false, data, data + type_head_bytes(w->type) + (size_t)(r / step) * unit,
                        w->part[p].rows - r < step ? (int)(w->part[p].rows - r) : step, tmp, out + (size_t)(w->part[p].first_row + r) * row);
        mem_free(data);
    }
    for (float *x = out; w->rotation_log2 && x < out + numbers(w->matrix); x += w->matrix.depth)
        k->rotate_row(x, w->matrix.depth, 1 << w->rotation_log2, x);
    mem_free(tmp);
    return out;
}

/* What is read back is what the source holds. */
Test(convert, numbers_survive)
{
    fake_model f;
    fake(&f);
    char *out = temporary("n");
    const weight_type types[] = {TYPE_Q4, TYPE_Q5, TYPE_BF16};
    for (int t = 0; t < 3; t++) {
        status st = STATUS_INIT;
        convert_report report;
        convert_component c = {.name = "unet", .plan = &f.plan};
        convert_request q = {.from = &f.s, .out = out, .type = types[t], .components = 1, .component = &c, .threads = 2};
        cr_assert(convert(&q, &report, &st), "%s", st.text);
        convert_report_free(&report);
        source *s = source_open_pack(out, &st);
        for (int i = 0; i < 6; i++) {
            const weight *w = &f.weight[i];
            float *have = numbers_in(s, w->name), *want = mem_alloc(numbers(w->matrix), sizeof *want, "test", &st);
            float *tmp = mem_alloc(numbers(w->matrix), sizeof *tmp, "test", &st);
            size_t row = (size_t)w->matrix.taps * (size_t)w->matrix.depth;
            for (int64_t r = 0; r < w->matrix.rows; r++)
                type_to_f32(kernels_best(), w->type, &w->matrix, w->oihw, NULL, f.data + w->part->offset + (size_t)r * type_unit_bytes(w->type, &w->matrix), 1, tmp,
                            want + (size_t)r * row);
            double error = relative_error(have, want, numbers(w->matrix)), said = source_find(s, "unet", w->name)->error;
            cr_assert(error < 0.075, "%s: %g", w->name, error);
            cr_assert_float_eq(error, said, 1e-3 * error + 1e-5, "%s: %g, said %g", w->name, error, said);
            mem_free(have);
            mem_free(want);
            mem_free(tmp);
        }
        source_close(s);
    }
    unlink(out);
    mem_free(out);
    fake_free(&f);
    cr_assert_eq(mem_in_use(), 0);
}

/* A container is a source too: plain numbers are converted, quantized ones copied or refused. */
Test(convert, from_a_container)
{
    fake_model f;
    fake(&f);
    char *a = temporary("a"), *b = temporary("b");
    status st = STATUS_INIT;
    convert_report report;
    convert_component c = {.name = "unet", .plan = &f.plan};
    convert_request q = {.from = &f.s, .out = a, .type = TYPE_Q4, .components = 1, .component = &c, .threads = 2};
    cr_assert(convert(&q, &report, &st), "%s", st.text);
    convert_report_free(&report);
    source *s = source_open_pack(a, &st);
    plan_use use[7];
    for (int i = 0; i < 7; i++) {
        use[i] = f.use[i];
        use[i].weight = source_find(s, "unet", f.use[i].weight->name);
    }
    plan p = {.stage = "unet", .uses = 7, .use = use};
    c.plan = &p;
    q.from = s;
    q.out = b;
    cr_assert(convert(&q, &report, &st), "%s", st.text);
    convert_report_free(&report);
    source *again = source_open_pack(b, &st);
    cr_assert_eq(again->hash, s->hash, "a copy is the same file");
    source_close(again);
    q.type = TYPE_Q8;
    cr_assert_not(convert(&q, &report, &st));
    cr_assert(st.code == STATUS_BAD_FILE && strstr(st.text, "is q4 already"), "%s", st.text);
    convert_report_free(&report);
    source_close(s);
    unlink(a);
    unlink(b);
    mem_free(a);
    mem_free(b);
    fake_free(&f);
    cr_assert_eq(mem_in_use(), 0);
}

Test(convert, failures_leave_nothing)
{
    fake_model f;
    fake(&f);
    char *out = temporary("f");
    convert_report report;
    convert_component c = {.name = "unet", .plan = &f.plan};
    convert_request q = {.from = &f.s, .out = out, .type = TYPE_Q4, .components = 1, .component = &c, .threads = 3, .memory_bytes = 1 << 20};
    status st = STATUS_INIT;
    cr_assert_not(convert(&q, &report, &st));
    cr_assert(st.code == STATUS_BUDGET && st.least_bytes > 1 << 20, "%s", st.text);
    convert_report_free(&report);
    q.memory_bytes = st.least_bytes; /* what it says is enough, and is kept */
    st = (status)STATUS_INIT;
    size_t before = mem_in_use();
    cr_assert(convert(&q, &report, &st), "%s", st.text);
    cr_assert_leq(mem_peak() - before, q.memory_bytes);
    convert_report_free(&report);
    source *least = source_open_pack(out, &st);
    uint64_t hash = least->hash;
    source_close(least);
    unlink(out);
    size_t bytes;
    mem_free(converted(&f, TYPE_Q4, 1, 0, &report, &bytes));
    cr_assert_eq(report_hash, hash, "the least memory gives other bytes");
    convert_report_free(&report);
    q.memory_bytes = 0;
    const uint16_t nan = 0x7fc0;
    memcpy(f.data + f.weight[2].part->offset + 2 * (777 * 1024 + 3), &nan, 2);
    cr_assert_not(convert(&q, &report, &st));
    cr_assert(st.code == STATUS_BAD_FILE && strstr(st.text, "unet/a.weight: row 777"), "%s", st.text);
    convert_report_free(&report);
    cr_assert(access(out, F_OK) != 0);
    for (long n = 1; n < 30; n++) {
        st = (status)STATUS_INIT;
        mem_fail_at(n);
        bool ok = convert(&q, &report, &st);
        mem_fail_at(0);
        convert_report_free(&report);
        cr_assert(!ok && st.code != STATUS_OK);
        cr_assert(access(out, F_OK) != 0);
    }
    mem_free(out);
    fake_free(&f);
    cr_assert_eq(mem_in_use(), 0);
}

/* ---- killed at any moment ---- */

static void on_signal(int number)
{
    output_remove_unfinished();
    signal(number, SIG_DFL);
    raise(number);
}

static int files_in(const char *folder)
{
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* Converts `f` to OUT in a child that is sent `number` after so many microseconds (0: not at all). Whether it came to its end. */
static bool converted_by_child(const fake_model *f, char *out, int number, useconds_t after)
{
    pid_t child = fork();
    if (child == 0) {
        status st = STATUS_INIT;
        convert_report report;
        convert_component c = {.name = "unet", .plan = &f->plan};
        convert_request q = {.from = &f->s, .out = out, .type = TYPE_Q4, .components = 1, .component = &c, .threads = 2};
        if (number != SIGKILL)
            signal(number, on_signal);
        _exit(convert(&q, &report, &st) ? 0 : 1);
    }
    if (after) {
        usleep(after);
        kill(child, number);
    }
    int how;
    waitpid(child, &how, 0);
    cr_assert(WIFSIGNALED(how) ? WTERMSIG(how) == number : WEXITSTATUS(how) == 0);
    return WIFEXITED(how);
}

/* At twelve moments from the beginning to beyond the end, by two signals: OUT is whole or not there, and nothing else is left (but for
 * the .part file of SIGKILL where files must have names). */
Test(convert, killed_at_any_moment)
{
    enum { MOMENTS = 12 };
    status st = STATUS_INIT;
    fake_model f;
    fake(&f);
    char *folder = temporary("killed"), *out = mem_format(&st, "%s/m.penstock", folder);
    cr_assert_eq(mkdir(folder, 0700), 0);
    double whole = 1e9;
    for (int i = 0; i < 3; i++) { /* others may want the processor, too */
        struct timespec began, ended;
        clock_gettime(CLOCK_MONOTONIC, &began);
        cr_assert(converted_by_child(&f, out, SIGTERM, 0));
        clock_gettime(CLOCK_MONOTONIC, &ended);
        double took = (double)(ended.tv_sec - began.tv_sec) * 1e6 + (double)(ended.tv_nsec - began.tv_nsec) * 1e-3;
        whole = took < whole ? took : whole;
    }
    unlink(out);
    int killed = 0;
    for (int i = 0; i < 2 * MOMENTS; i++) {
        int number = i % 2 ? SIGKILL : SIGTERM;
        killed += !converted_by_child(&f, out, number, (useconds_t)(whole * (i / 2 + 0.5) / (MOMENTS - 2)) + 1);
        bool there = access(out, F_OK) == 0;
        int most = there + (number == SIGKILL);
        cr_assert(files_in(folder) >= there && files_in(folder) <= most, "signal %d: %d files", number, files_in(folder));
        if (there) {
            source *s = source_open_pack(out, &st);
            cr_assert(s && pack_verify(s, NULL, NULL, &st), "%s", st.text);
            source_close(s);
        }
        DIR *d = opendir(folder);
        for (struct dirent *e; (e = readdir(d));)
            if (e->d_name[0] != '.')
                unlinkat(dirfd(d), e->d_name, 0);
        closedir(d);
    }
    cr_assert_geq(killed, MOMENTS / 2, "only %d of %d were killed in time", killed, 2 * MOMENTS);
    rmdir(folder);
    mem_free(folder);
    mem_free(out);
    fake_free(&f);
}

Test(convert, random_models)
{
    status st = STATUS_INIT;
    weight w[3] = {{.component = "dit", .name = "a.weight", .dims = 4, .shape = {300, 512, 1, 1}, .matrix = {300, 1, 512}, .file = -1, .parts = 1},
                   {.component = "dit", .name = "a.bias", .dims = 1, .shape = {300}, .matrix = {1, 1, 300}, .file = -1, .parts = 1},
                   {.component = "dit", .name = "conv.weight", .dims = 4, .shape = {64, 64, 3, 3}, .matrix = {64, 9, 64}, .file = -1, .parts = 1, .oihw = true}};
    plan_use use[3] = {{.weight = &w[0], .role = ROLE_LINEAR, .matrix = w[0].matrix}, {.weight = &w[1], .role = ROLE_VECTOR, .matrix = w[1].matrix},
                       {.weight = &w[2], .role = ROLE_CONV, .matrix = w[2].matrix}};
    plan p = {.stage = "dit", .uses = 3, .use = use};
    source from = {.path = (char *)(uintptr_t) "configs"};
    char *out = temporary("r");
    convert_component c = {.name = "dit", .plan = &p};
    convert_request q = {.from = &from, .out = out, .type = TYPE_Q4, .components = 1, .component = &c, .threads = 1, .random = true, .seed = 3};
    uint64_t hash[4];
    for (int i = 0; i < 4; i++) {
        convert_report report;
        q.threads = i == 1 ? 4 : 1;
        q.memory_bytes = i == 2 ? 22 << 20 : 0;
        q.seed = i == 3 ? 4 : 3;
        cr_assert(convert(&q, &report, &st), "%s", st.text);
        cr_assert(report.error > 0.05 && report.error < 0.075, "%g", report.error);
        convert_report_free(&report);
        source *s = source_open_pack(out, &st);
        cr_assert_eq(source_find(s, "dit", "a.weight")->dims, 2);
        hash[i] = s->hash;
        source_close(s);
    }
    cr_assert(hash[0] == hash[1] && hash[0] == hash[2] && hash[0] != hash[3]);
    q.random = false;
    convert_report report;
    cr_assert_not(convert(&q, &report, &st));
    cr_assert(strstr(st.text, "has no weights"), "%s", st.text);
    convert_report_free(&report);
    unlink(out);
    mem_free(out);
}
