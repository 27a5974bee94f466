#include "tools/predict.h"

#include "tools/op_rate.h"

/* Seconds of one call on all threads, by the processor time that they got. */
static double seconds_of(const op_shape *shape, const kernels *k, threads *pool, double *work, status *st)
{
    op_rate r = {.work = 1}; /* a product or attention: no bound of memory */
    op_measure(shape, k, pool, 0.1, rate_of_set(k, (peak_kind)op_bound(shape, k), pool, 0.005, st), &r, st);
    *work = r.work;
    return r.took.cpu / threads_count(pool);
}

enum { DEPTH = 4096, ROWS = 10240, MANY = 256, FEW = 16 }; /* more weights than most caches hold, as in a network */

bool sustained_measure(const kernels *k, threads *pool, bool f32, sustained *out, status *st)
{
    const op_shape shapes[] = {
        {"", OP_LINEAR, TYPE_Q4, MANY, DEPTH, ROWS, 0}, {"", OP_LINEAR, TYPE_Q4, FEW, DEPTH, ROWS, 0},
        {"", OP_CONV, TYPE_Q8, 64, 320, 320, 0},        {"", OP_LINEAR, TYPE_F32, MANY, 2048, 2048, 0},
        {"", OP_ATTENTION, f32 ? TYPE_F32 : TYPE_Q8, 1024, 1024, 64, 8},
    };
    enum { SHAPES = sizeof shapes / sizeof *shapes };
    double t[SHAPES], work[SHAPES];
    for (int i = 0; i < SHAPES; i++)
        t[i] = seconds_of(&shapes[i], k, pool, &work[i], st);
    if (!status_ok(st))
        return false;
    /* two lengths tell the multiplying, which grows with the tokens, from the decoding, which does not */
    out->integer = work[0] > work[1] && t[0] > t[1] ? (t[0] - t[1]) / (work[0] - work[1]) : t[0] / work[0];
    out->decode = (t[1] - out->integer * work[1]) / ((double)DEPTH * ROWS);
    out->decode = out->decode > 0 ? out->decode : 0;
    out->convolution = t[2] / work[2];
    out->single = t[3] / work[3];
    out->attention = t[4] / work[4];
    return true;
}

double predict_compute(const sustained *s, const stage_report *g)
{
    const double rest = 1.1; /* norms, activations, residuals: 5 to 9 % of T5-XXL (SPEED.md) */
    uint64_t linear = g->integer_operations - g->convolution_operations, single = g->operations - g->integer_operations - g->attention_operations;
    return rest * ((double)g->integer_weights * s->decode + (double)linear * s->integer + (double)g->convolution_operations * s->convolution +
                   (double)single * s->single + (double)g->attention_operations * s->attention);
}
