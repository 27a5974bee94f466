/* check.h: what check_kernels' files share: the case at hand and its verdicts, random numbers, memory whose ends must not be passed, comparisons. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simd/kernels.h"

/* A test and a benchmark of each kernel: without one the program does not link. */
#define X(name, args) void test_##name(void); void bench_##name(void);
#include "simd/kernels.def"
#undef X
void bench_memory(void); /* before the others: makes what they work on */

/* ---- the run: what is being tested, and how it goes ---- */

typedef struct check_run {
    const kernels *set, *scalar;
    const char *kernel;
    char shape[160]; /* of the case at hand, for messages */
    long passed, failed;
    int said; /* failures of this kernel and set told so far */
    uint64_t random;
    size_t page, margin;
} check_run;
extern check_run run;

#define begin_case(...) snprintf(run.shape, sizeof run.shape, __VA_ARGS__)
__attribute__((format(printf, 2, 3))) void verdict(bool good, const char *format, ...);
void on_signal(int number); /* says which case it was */

/* ---- random numbers ---- */
uint64_t random_bits(void);
int random_int(int low, int high);  /* both included */
float random_unit(void);            /* -1 ... 1 */
float random_normal(void);          /* near enough */
#define PICK(array) ((array)[random_bits() % (sizeof(array) / sizeof *(array))])

typedef enum values { NORMAL, ZEROS, TINY, HUGE_VALUES, MIXED, VALUES } values;
extern const char *const value_names[];
enum { ACTS = ACT_QUICK_GELU + 1 };
extern const char *const act_names[ACTS];
void fill(float *x, size_t n, values kind);

/* ---- memory between two pages that must not be touched; it holds NaN ---- */
void *guarded(size_t bytes, bool at_start); /* `bytes` that end just before a guard page, or (at_start) begin just behind one */
#define ARRAY(type, n) ((type *)guarded((size_t)(n) * sizeof(type), random_int(0, 3) == 0))
const void *before_first(void); /* the page before the first array: may be asked for (prefetched), never read */
void seal(const void *array);   /* it becomes read-only */
void end_case(void);            /* gives all back */

/* ---- comparisons: each ends in a verdict, but for those that return bool ---- */
enum { SAME = -1 }; /* as a bound: bit for bit, but for what a NaN holds */
bool same_float(float a, float b);
bool near_float(float got, float want, double bound);
void same_bytes(const char *what, const void *got, const void *want, size_t n);
void near_floats(const char *what, const float *got, const float *want, size_t n, double bound); /* within bound * (1 + |want|) */
#define same_floats(what, got, want, n) near_floats(what, got, want, n, SAME)
/* Row by row; bounds: of each element, or NULL and one for all. */
void near_matrix(const float *got, const float *want, int lines, int width, size_t stride, const double *bounds, double bound);
/* Does every element of out outside the tokens x rows that were asked for still hold the 0xff it was filled with? */
bool gaps_untouched(const float *out, int tokens, int rows, size_t stride);
/* Elements of a strided matrix without the last gap. */
static inline size_t span(int lines, size_t stride, int width) { return (size_t)(lines - 1) * stride + (size_t)width; }

#endif
