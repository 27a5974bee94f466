/* The container as it is written: dense, and whole or not at all. */
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/output.h"
#include "tests/pack_sample.h"

TestSuite(pack_write, .init = pack_sample_folder, .fini = pack_sample_remove);

Test(pack_write, many_small_tensors_do_not_bloat)
{
    status st = STATUS_INIT;
    pack_writer *w = pack_create(model, &st);
    cr_assert(w, "%s", st.text);
    uint64_t net = 0;
    for (int i = 0; i < 2000; i++) { /* a matrix of 20 KB and a bias of 768 bytes, a thousand times */
        char name[32];
        snprintf(name, sizeof name, "block.%d", i);
        bool bias = i % 2;
        pack_tensor t = {.component = "dit", .name = name, .type = bias ? TYPE_F32 : TYPE_Q4, .dims = 1, .role = bias ? ROLE_VECTOR : ROLE_LINEAR,
                         .matrix = bias ? (matrix_shape){1, 1, 192} : (matrix_shape){192, 1, 192}};
        t.shape[0] = bias ? 192 : 192 * 192;
        uint64_t bytes;
        type_matrix_bytes(t.type, &t.matrix, &bytes);
        net += bytes;
        uint8_t *data = mem_alloc(bytes, 1, "test", &st);
        cr_assert(pack_begin(w, &t, data, &st) && pack_rows(w, data, t.matrix.rows, &st) && pack_end(w, NAN, &st), "%s", st.text);
        mem_free(data);
    }
    cr_assert(pack_commit(w, &st), "%s", st.text);
    struct stat info;
    cr_assert_eq(stat(model, &info), 0);
    cr_assert((double)info.st_size < 1.05 * (double)net, "%d for %d", (int)info.st_size, (int)net);
    source *s = source_open_pack(model, &st);
    cr_assert(s && s->weights == 2000, "%s", st.text);
    source_close(s);
    cr_assert_eq(mem_in_use(), 0);
}

/* ---- writing that is cut short ---- */

static bool exists(const char *path) { return access(path, F_OK) == 0; }

static int files_in(const char *path)
{
    char command[128];
    int n = -1;
    snprintf(command, sizeof command, "ls -A %s | wc -l", path);
    FILE *f = popen(command, "r");
    cr_assert(f && fscanf(f, "%d", &n) == 1);
    pclose(f);
    return n;
}

Test(pack_write, memory_that_runs_out)
{
    for (long n = 1; n < 200; n++) {
        status st = STATUS_INIT;
        mem_fail_at(n);
        bool ok = write_model(model, &st);
        mem_fail_at(0);
        cr_assert_eq(mem_in_use(), 0, "%ld", n);
        cr_assert_eq(ok, exists(model));
        cr_assert_eq(files_in(folder), ok);
        if (ok)
            return;
        cr_assert_eq(st.code, STATUS_FAILED);
    }
}

Test(pack_write, no_room_or_no_folder)
{
    status st = STATUS_INIT;
    cr_assert_null(pack_create("/nowhere/at/all/m.penstock", &st));
    cr_assert_eq(st.code, STATUS_FAILED);
    st = (status)STATUS_INIT;
    cr_assert_null(pack_create("/dev/null", &st));
    cr_assert_eq(st.code, STATUS_USAGE);
    cr_assert_eq(mem_in_use(), 0);
}

static void on_signal(int number)
{
    output_remove_unfinished();
    signal(number, SIG_DFL);
    raise(number);
}

/* A child writes for ever; it is killed after it has begun. What is left: with SIGKILL, and where files must have names, at most the .part
 * file, never OUT. */
static void killed_by(int number)
{
    int pipes[2];
    cr_assert_eq(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        status st = STATUS_INIT;
        signal(number, number == SIGKILL ? SIG_DFL : on_signal);
        pack_writer *w = pack_create(model, &st);
        for (int i = 0;; i = (i + 1) % SAMPLES)
            if (!write_sample(w, i, &st) || write(pipes[1], "x", 1) != 1)
                _exit(1);
    }
    char c;
    close(pipes[1]);
    for (int i = 0; i < SAMPLES + 5; i++)
        cr_assert_eq(read(pipes[0], &c, 1), 1);
    kill(child, number);
    int how;
    waitpid(child, &how, 0);
    cr_assert(WIFSIGNALED(how) && WTERMSIG(how) == number);
    cr_assert_not(exists(model));
    cr_assert_leq(files_in(folder), number == SIGKILL ? 1 : 0);
}

Test(pack_write, sigkill_leaves_at_most_a_part_file) { killed_by(SIGKILL); }
Test(pack_write, sigterm_leaves_nothing) { killed_by(SIGTERM); }
Test(pack_write, sigint_leaves_nothing) { killed_by(SIGINT); }
