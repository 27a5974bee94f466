/* check_kernels: every kernel of every instruction set this processor runs, against the scalar set.
 *
 *   check_kernels [--seed N] [--set NAME]     odd shapes, unaligned pointers, extreme values; arrays end (or begin) at a
 *                                             page that must not be touched, inputs are read-only, gaps hold NaN
 *                 [--margin BYTES]          arrays end that much before the page, for emulators that read what a mask hides
 *   check_kernels --bench [KERNEL]            times, rates, and the share of what the core can do, measured beside them
 *
 * The list is kernels.def: with a kernel added there without a test_... (check_*.c) and a bench_... (bench_kernels.c) it does not link. */
#define _GNU_SOURCE
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "tests/check.h"
#ifdef HAVE_AVX512
extern const kernels kernels_avxvnni_evex; /* kernels_avxvnni.c in the encoding that AVX-512 has, for machines without AVX-VNNI */
#endif

static const struct {
    const char *name;
    void (*test)(void), (*bench)(void);
} rows[] = {
#define X(name, args) {#name, test_##name, bench_##name},
#include "simd/kernels.def"
#undef X
};
enum { ROWS = sizeof rows / sizeof rows[0], SETS = 16 };

/* A test's numbers depend on the seed and its place in the list alone, so that a failure comes again with --set. */
static void run_row(size_t i, uint64_t seed, bool bench_it)
{
    run.kernel = rows[i].name;
    run.said = 0;
    run.random = seed * 1000003 + i;
    if (bench_it)
        rows[i].bench();
    else
        rows[i].test();
}

static int all_sets(const kernels *sets[])
{
    int count = kernels_all(sets, SETS - 1);
#ifdef HAVE_AVX512
    bool known;
    if (kernels_by_name("avx512", &known))
        sets[count++] = &kernels_avxvnni_evex;
#endif
    return count;
}

static bool has_set(const kernels *const sets[], int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(sets[i]->name, name) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    const kernels *sets[SETS];
    const char *only = NULL, *kernel = NULL;
    bool bench_it = false;
    uint64_t seed = (uint64_t)time(NULL) % 1000000;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--set") == 0 && i + 1 < argc)
            only = argv[++i];
        else if (strcmp(argv[i], "--margin") == 0 && i + 1 < argc)
            run.margin = strtoull(argv[++i], NULL, 10) / 64 * 64;
        else if (strcmp(argv[i], "--bench") == 0) {
            bench_it = true;
            kernel = i + 1 < argc && argv[i + 1][0] != '-' ? argv[++i] : NULL;
        } else {
            fprintf(stderr, "usage: check_kernels [--seed N] [--set NAME] [--margin BYTES] [--bench [KERNEL]]\n");
            return 2;
        }
    int count = all_sets(sets);
    if (only && !has_set(sets, count, only)) {
        fprintf(stderr, "check_kernels: no set %s that this processor runs\n", only);
        return 2;
    }
    run.page = (size_t)sysconf(_SC_PAGESIZE);
    run.scalar = sets[0];
    signal(SIGSEGV, on_signal), signal(SIGBUS, on_signal), signal(SIGILL, on_signal);
    if (bench_it)
        bench_memory();
    else
        printf("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; i < ROWS; i++)
        for (int s = 0; s < count; s++)
            if ((!only || strcmp(only, sets[s]->name) == 0) && (!kernel || strcmp(kernel, rows[i].name) == 0)) {
                run.set = sets[s];
                run_row(i, seed, bench_it);
                fflush(stdout);
            }
    if (bench_it)
        return 0;
    printf("%ld passed, %ld failed\n", run.passed, run.failed);
    return run.failed ? 1 : 0;
}
