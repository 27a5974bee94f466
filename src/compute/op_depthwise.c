/* A convolution of each channel by itself: too little work for a product, so its kernels are vectors. */
#include <stdio.h>
#include <string.h>

#include "compute/ops.h"

static int use_bias(run *r, const char *name, int channels, bool none)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s.bias", name);
    return none ? -1 : use_vector(r, full, channels, 0);
}

typedef struct depthwise_job {
    const run *r;
    tensor x, y;
    int kernel;
    const float *weights;   /* [kernel * kernel][channels] */
    const float *bias;
} depthwise_job;

/* One row of the result; taps are added in the kernel's order. */
static void depthwise_row(void *ctx, int64_t task, int worker)
{
    const depthwise_job *j = ctx;
    int c = j->x.channels, pad = j->kernel / 2, row = (int)(task % j->x.height);
    int64_t item = task / j->x.height;
    (void)worker;
    for (int column = 0; column < j->x.width; column++) {
        float *y = tensor_data(j->r, j->y) + (task * j->x.width + column) * c;
        memset(y, 0, (size_t)c * 4);
        for (int s = 0; s < j->kernel * j->kernel; s++) {
            int iy = row + s / j->kernel - pad, ix = column + s % j->kernel - pad;
            if (iy < 0 || ix < 0 || iy >= j->x.height || ix >= j->x.width)
                continue;
            const float *x = tensor_data(j->r, j->x) + ((item * j->x.height + iy) * j->x.width + ix) * c, *w = j->weights + (int64_t)s * c;
            j->r->k->add_gated(y, x, w, (size_t)c);
        }
        if (j->bias)
            j->r->k->add_gated(y, j->bias, NULL, (size_t)c);
    }
}

tensor depthwise(run *r, tensor x, const char *name, int kernel, bool no_bias)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s.weight", name);
    int use = use_kernels(r, full, x.channels, kernel), bias = use_bias(r, name, x.channels, no_bias), taps = kernel * kernel;
    tensor y = tensor_like(r, x, x.channels);
    int64_t turned = scratch_new(r, (int64_t)taps * x.channels * 4);
    if (r->live && run_ok(r)) {
        const float *w = stream_vector(r->stream, use);
        float *to = run_at(r, turned);
        for (int i = 0; i < x.channels; i++)
            for (int s = 0; s < taps; s++)
                to[s * x.channels + i] = w[i * taps + s];
        depthwise_job j = {r, x, y, kernel, to, bias < 0 ? NULL : stream_vector(r->stream, bias)};
        threads_run(r->pool, (int64_t)x.batch * x.height, depthwise_row, &j);
    }
    scratch_drop(r, turned);
    return y;
}
