/* convert.h: from an opened model to a container, in bounded memory.
 *
 * The plans say which tensors there are and in what order they are used; each is written once, at its first use, as the policy decides.
 * The bytes of the result depend on neither threads nor memory. */
#ifndef PENSTOCK_CONVERT_H
#define PENSTOCK_CONVERT_H

#include "quant/policy.h"
#include "weights/moments.h"
#include "weights/plan.h"

typedef struct convert_component {
    const char *name;           /* in the container; several plans (a VAE's two halves) may share one */
    const source *from;         /* NULL: the request's. Another one brings its small files for this component, too */
    const plan *plan;
} convert_component;

typedef struct convert_report {
    int tensors;                /* written */
    uint64_t numbers;           /* in them */
    uint64_t file_bytes;
    double bits;                /* matrices and convolutions, everything included, per number */
    double error;               /* relative RMS of what was quantized, the mean over its numbers */
    int fed;                    /* tensors coded with error feedback, and the relative error of their outputs with and without it: the mean over them */
    double fed_error, plain_error;
    int unused;                 /* tensors of the sources' components that no plan uses */
    const weight **unused_weight;
} convert_report;

typedef struct convert_request {
    const source *from;
    const char *out;
    weight_type type;
    const type_rule *rule;
    int rules;
    int components;
    const convert_component *component;
    int threads;                /* at least 1 */
    uint64_t memory_bytes;      /* what the conversion may allocate; 0: no limit. Too little: STATUS_BUDGET with the least */
    input_moments *moments;           /* of the inputs that layers had (of request.from's weights): their errors are fed back; NULL: no calibration */
    int prompts;                /* that the moments are of, for the container's header */
    bool random;                /* weights that no file holds (weight.file < 0) are drawn */
    uint64_t seed;
    void (*progress)(void *ctx, uint64_t numbers, uint64_t all); /* from one thread at a time; may be NULL */
    void *progress_ctx;
} convert_request;

/* On failure nothing is left at `out`. The report is filled on success; free it either way. */
bool convert(const convert_request *q, convert_report *report, status *st);
void convert_report_free(convert_report *r);

#endif
