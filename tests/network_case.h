/* network_case.h: one network by itself, for suites that compare what it makes with a reference: in 32-bit floats, by any number of threads, in any budget. */
#ifndef TESTS_NETWORK_CASE_H
#define TESTS_NETWORK_CASE_H

#include "models/stage.h"
#include "tests/safetensors_lite.h"

typedef struct network_case {
    const source *src;      /* of the bare component */
    const char *name;       /* its stage's */
    const name_alias *alias;
    forward_fn forward;
    const void *ctx;
} network_case;

/* One pass; returns the scratch file's bytes. budget 0: none. */
uint64_t network_run(const network_case *c, int workers, uint64_t budget);
/* The least that a budget for three threads may be, to 64 KiB: what is named when one is refused is whole MiB, more than some maps here take. What a process
 * takes differs from build to build. */
uint64_t network_least_budget(const network_case *c);
/* Nowhere further off than `bound` of the largest. */
void network_compare(const char *model, const lite_tensor *want, const float *got, double bound);

#endif
