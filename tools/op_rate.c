#include "tools/op_rate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "compute/ops.h"
#include "models/stage.h"
#include "tools/made_up.h"
#include "tools/progress.h"

enum { MOST_PASSES = 256 };

typedef struct op_times {
    const threads *pool;
    lap began;
    double wall[MOST_PASSES], cpu[MOST_PASSES];
    int passes;
} op_times;

typedef struct op_job {
    const op_shape *s;
    int rows;            /* of s->rows, those that are run */
    op_times *times;
} op_job;

/* ---- what is timed and what is not ---- */

/* Numbers that no op makes denormal or infinite; new ones each time, as some ops work in place. */
static void fill(const run *r, tensor t)
{
    enum { SOME = 16384 };
    float *to = tensor_data(r, t);
    int64_t n = tensor_count(t);
    uint32_t x = 1;
    for (int64_t i = 0; to && i < n && i < SOME; i++) {
        x = x * 1664525u + 1013904223u;
        to[i] = (float)(x >> 8) / 8388608.0f - 1.0f;
    }
    for (int64_t i = SOME; to && i < n; i += SOME)
        memcpy(to + i, to, sizeof *to * (size_t)(n - i < SOME ? n - i : SOME));
}

static tensor filled(run *r, int height, int width, int channels)
{
    tensor t = tensor_new(r, 1, height, width, channels);
    if (r->live && run_ok(r))
        fill(r, t);
    return t;
}

static void begin(const op_job *j) { j->times->began = lap_now(j->times->pool); }

static void end(const op_job *j)
{
    lap now = lap_now(j->times->pool);
    op_times *t = j->times;
    t->wall[t->passes] = now.wall - t->began.wall;
    t->cpu[t->passes] = now.cpu - t->began.cpu;
    t->passes += t->passes < MOST_PASSES - 1;
}

/* ---- the ops ---- */

static void run_linear(run *r, const op_job *j)
{
    tensor x = filled(r, 1, j->rows, j->s->in);
    begin(j);
    linear(r, x, "w", j->s->out, (linear_options){0});
    end(j);
}

static void run_conv(run *r, const op_job *j)
{
    tensor x = filled(r, j->rows, j->s->rows, j->s->in);
    begin(j);
    conv(r, x, "w", j->s->out, (conv_options){.kernel = 3, .stride = 1, .padding = 1, .before = NO_NORM, .add_to = NO_TENSOR});
    end(j);
}

/* A small layer in front of it: attention is as exact as the weights are that its inputs come from. */
static void run_attention(run *r, const op_job *j)
{
    int width = j->s->heads * j->s->out;
    linear(r, filled(r, 1, 1, 32), "w", 32, (linear_options){0});
    tensor q = filled(r, 1, j->rows, width), k = filled(r, 1, j->s->in, width), v = filled(r, 1, j->s->in, width);
    begin(j);
    attention(r, q, k, v, j->s->heads, 1 / sqrtf((float)j->s->out), NULL, NULL, NO_TENSOR);
    end(j);
}

static void run_layer_norm(run *r, const op_job *j)
{
    tensor x = filled(r, 1, j->rows, j->s->in);
    begin(j);
    layer_norm(r, x, NULL, 1e-6f);
    end(j);
}

static void run_rms_norm(run *r, const op_job *j)
{
    tensor x = filled(r, 1, j->rows, j->s->in);
    begin(j);
    rms_norm(r, x, "w", 1e-6f);
    end(j);
}

static void run_group_norm(run *r, const op_job *j)
{
    tensor x = filled(r, j->rows, j->s->rows, j->s->in);
    begin(j);
    normalize(r, x, group_norm(r, x, "w", 32, 1e-6f, ACT_SILU));
    end(j);
}

static void run_activation(run *r, const op_job *j, activation act)
{
    tensor x = filled(r, 1, j->rows, j->s->in);
    begin(j);
    activate(r, x, act);
    end(j);
}

static void run_gelu_tanh(run *r, const op_job *j) { run_activation(r, j, ACT_GELU_TANH); }
static void run_gelu_erf(run *r, const op_job *j) { run_activation(r, j, ACT_GELU_ERF); }
static void run_silu(run *r, const op_job *j) { run_activation(r, j, ACT_SILU); }

static void run_act_mul(run *r, const op_job *j)
{
    tensor x = filled(r, 1, j->rows, j->s->in), y = filled(r, 1, j->rows, j->s->in);
    begin(j);
    act_mul(r, ACT_GELU_TANH, x, y);
    end(j);
}

static void run_add(run *r, const op_job *j)
{
    tensor x = filled(r, 1, j->rows, j->s->in), y = filled(r, 1, j->rows, j->s->in);
    begin(j);
    add(r, x, y);
    end(j);
}

/* What a product does first; an op of its own it is not. */
typedef struct quantize_job {
    const run *r;
    const float *x;
    char *out;
    int64_t rows;
    int depth;
} quantize_job;

enum { QUANTIZE_ROWS = 16 };

static void quantize_task(void *ctx, int64_t task, int worker)
{
    const quantize_job *j = ctx;
    int64_t stride = j->depth + 64;
    float *tmp = (float *)(void *)(j->out + j->rows * stride) + (int64_t)worker * j->depth;
    for (int64_t i = task * QUANTIZE_ROWS; i < (task + 1) * QUANTIZE_ROWS && i < j->rows; i++) {
        char *at = j->out + i * stride;
        j->r->k->quantize_row(j->x + i * j->depth, j->depth, j->depth, rotation_block(j->depth), tmp, (int8_t *)at + 64, (float *)(void *)at,
                              (int32_t *)(void *)(at + 4));
    }
}

static void run_quantize(run *r, const op_job *j)
{
    tensor x = filled(r, 1, j->rows, j->s->in);
    int64_t rows = j->rows, depth = j->s->in;
    quantize_job q = {.r = r, .rows = rows, .depth = j->s->in, .x = tensor_data(r, x)};
    q.out = run_at(r, scratch_new(r, rows * (depth + 64) + threads_count(r->pool) * depth * 4));
    begin(j);
    if (r->live && run_ok(r))
        threads_run(r->pool, (rows + QUANTIZE_ROWS - 1) / QUANTIZE_ROWS, quantize_task, &q);
    end(j);
}

/* bytes: read and written by an element of the input; 0: operations are counted. vectors: weights beside. */
static const struct op_info {
    const char *name;
    void (*run)(run *r, const op_job *j);
    int bytes;
    bound memory;
    const char *vector[2];
} ops[OP_KINDS] = {
    [OP_LINEAR] = {"linear", run_linear, 0, BOUNDS, {NULL, NULL}},
    [OP_CONV] = {"conv 3x3", run_conv, 0, BOUNDS, {NULL, NULL}},
    [OP_ATTENTION] = {"attention", run_attention, 0, BOUNDS, {NULL, NULL}},
    [OP_LAYER_NORM] = {"layer norm", run_layer_norm, 8, BOUND_COPY, {NULL, NULL}},
    [OP_RMS_NORM] = {"rms norm", run_rms_norm, 8, BOUND_COPY, {NULL, "w.weight"}},
    [OP_GROUP_NORM] = {"group norm, silu", run_group_norm, 12, BOUND_COPY, {"w.bias", "w.weight"}},
    [OP_GELU_TANH] = {"gelu (tanh)", run_gelu_tanh, 8, BOUND_UPDATE, {NULL, NULL}},
    [OP_GELU_ERF] = {"gelu (erf)", run_gelu_erf, 8, BOUND_UPDATE, {NULL, NULL}},
    [OP_SILU] = {"silu", run_silu, 8, BOUND_UPDATE, {NULL, NULL}},
    [OP_ACT_MUL] = {"gelu times", run_act_mul, 12, BOUND_UPDATE, {NULL, NULL}},
    [OP_ADD] = {"add", run_add, 12, BOUND_UPDATE, {NULL, NULL}},
    [OP_QUANTIZE] = {"rotate, quantize", run_quantize, 5, BOUND_READ, {NULL, NULL}},
};

const char *op_name(op_kind op) { return ops[op].name; }

bound op_bound(const op_shape *s, const kernels *k)
{
    bool integer = type_of(s->type)->integer;
    if (ops[s->op].bytes)
        return ops[s->op].memory;
    if (s->op == OP_ATTENTION)
        return integer && k->attention_element == 2 ? BOUND_BF16 : BOUND_F32;
    return integer ? BOUND_I8 : BOUND_F32;
}

static bool is_image(op_kind op) { return op == OP_CONV || op == OP_GROUP_NORM; }

/* Of one row: a token, a line of the image, a query. */
static double work_of_row(const op_shape *s)
{
    double pixels = is_image(s->op) ? s->rows : 1;
    switch (s->op) {
    case OP_LINEAR: return 2.0 * s->in * s->out;
    case OP_CONV: return 2.0 * pixels * 9 * s->in * s->out;
    case OP_ATTENTION: return 4.0 * s->in * s->out * s->heads;
    default: return ops[s->op].bytes * pixels * s->in;
    }
}

static void shape_text(const op_shape *s, int rows, char out[48])
{
    if (s->op == OP_CONV)
        snprintf(out, 48, "%dx%d x %d -> %d", rows, s->rows, s->in, s->out);
    else if (is_image(s->op))
        snprintf(out, 48, "%dx%d x %d", rows, s->rows, s->in);
    else if (s->op == OP_ATTENTION)
        snprintf(out, 48, "%d x %d, %d heads of %d", rows, s->in, s->heads, s->out);
    else if (s->op == OP_LINEAR)
        snprintf(out, 48, "%d x %d -> %d", rows, s->in, s->out);
    else
        snprintf(out, 48, "%d x %d", rows, s->in);
}

/* ---- weights ---- */

static source *make_source(const op_shape *s, const kernels *k, status *st)
{
    made_up w[MADE_UP_MOST];
    int n = 0;
    if (s->op <= OP_ATTENTION) {
        bool small = s->op == OP_ATTENTION;
        int in = small ? 32 : s->in, out = small ? 32 : s->out;
        w[n++] = (made_up){"w.bias", TYPE_F32, ROLE_VECTOR, {1, 1, out}};
        w[n++] = (made_up){"w.weight", s->type, s->op == OP_CONV ? ROLE_CONV : ROLE_LINEAR, {out, s->op == OP_CONV ? 9 : 1, in}};
    }
    for (int i = 0; i < 2; i++)
        if (ops[s->op].vector[i])
            w[n++] = (made_up){ops[s->op].vector[i], TYPE_F32, ROLE_VECTOR, {1, 1, s->in}};
    if (n == 0)
        w[n++] = (made_up){"unused", TYPE_F32, ROLE_VECTOR, {1, 1, 1}};
    return made_up_open(w, n, k, st);
}

static void forward(run *r, const void *ctx)
{
    const op_job *j = ctx;
    scope s = enter(r, "%s", "");
    ops[j->s->op].run(r, j);
    leave(r, s, NO_TENSOR);
}

static void time_passes(stage *s, const op_job *j, double seconds, status *st)
{
    stage_pass(s, j); /* touches the pages and brings the weights */
    j->times->passes = 0;
    double until = seconds_now() + seconds;
    for (int i = 0; i < MOST_PASSES - 1 && status_ok(st) && (i < 2 || seconds_now() < until); i++)
        stage_pass(s, j);
}

bool op_measure(const op_shape *shape, const kernels *k, threads *pool, double seconds, double most, op_rate *out, status *st)
{
    double slow = (most > 0 ? 0.4 * most : threads_count(pool)) * 1e9, whole = work_of_row(shape) * shape->rows / slow;
    op_times times = {.passes = 0, .pool = pool};
    op_job j = {.s = shape, .rows = shape->rows, .times = &times};
    if (whole > 2 * seconds) {
        j.rows = (int)(shape->rows * 2 * seconds / whole);
        j.rows = j.rows < 1 ? 1 : j.rows > 64 ? j.rows / 16 * 16 : j.rows;
    }
    out->work = work_of_row(shape) * j.rows;
    shape_text(shape, j.rows, out->shape);
    source *src = make_source(shape, k, st);
    if (!src)
        return false;
    request q = {.budget_bytes = (uint64_t)1 << 42}; /* weights are kept: no file could be mapped */
    result *report = mem_alloc(1, sizeof *report, "bench", st);
    engine e = {.source = src, .request = &q, .k = k, .pool = pool, .st = st, .report = report};
    stage s;
    if (report) {
        if (stage_plan(&s, &e, "", op_name(shape->op), NULL, forward, &j, 2) && stage_open(&s))
            time_passes(&s, &j, seconds, st);
        stage_close(&s);
    }
    if (status_ok(st))
        out->took = (lap){lower_quartile(times.wall, times.passes), lower_quartile(times.cpu, times.passes)};
    mem_free(report);
    source_close(src);
    return status_ok(st);
}
