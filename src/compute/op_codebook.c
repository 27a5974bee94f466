/* The nearest entry of a codebook: |e|^2 / 2 - x e is least where |x - e| is. Products are the float kernel's, squares are summed in double, and of equal ones
 * the first entry counts, so that neither slices nor threads change a choice. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "compute/ops.h"

enum { GROUP = 64, TOKENS_PER_TASK = 32 };

typedef struct nearest_job {
    const run *r;
    tensor x, y;
    float *best;            /* [tokens] */
    int32_t *numbers;       /* or NULL */
    const float *rows;      /* of the group */
    float half_square[GROUP];
    int count;
    int32_t first;
    float *dots;            /* [workers][TOKENS_PER_TASK][GROUP] */
} nearest_job;

static void nearest_task(void *ctx, int64_t task, int worker)
{
    const nearest_job *j = ctx;
    int64_t first = task * TOKENS_PER_TASK, all = tensor_rows(j->x), n = all - first < TOKENS_PER_TASK ? all - first : TOKENS_PER_TASK;
    size_t c = (size_t)j->x.channels;
    float *dots = j->dots + (size_t)worker * TOKENS_PER_TASK * GROUP;
    const float *token[TOKENS_PER_TASK] = {NULL};
    for (int64_t t = 0; t < n; t++)
        token[t] = tensor_data(j->r, j->x) + (size_t)(first + t) * c;
    j->r->k->gemm_f32(token, (int)n, 1, (int)c, j->rows, c, j->count, dots, GROUP);
    for (int64_t t = 0; t < n; t++)
        for (int i = 0; i < j->count; i++) {
            float distance = j->half_square[i] - dots[t * GROUP + i];
            if (!(distance < j->best[first + t]))
                continue;
            j->best[first + t] = distance;
            memcpy(tensor_data(j->r, j->y) + (size_t)(first + t) * c, j->rows + (size_t)i * c, c * 4);
            if (j->numbers)
                j->numbers[first + t] = j->first + i;
        }
}

static float half_square(const float *row, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)row[i] * (double)row[i];
    return (float)(sum / 2);
}

static void compare_slice(nearest_job *j, const weight *w, const matrix_shape *m, const weight_slice *slice, float *rows, char *tmp)
{
    size_t unit = type_unit_bytes(w->type, m), room = round_up(unit, 64);
    j->rows = rows;
    for (int64_t first = 0; first < slice->rows; first += GROUP) {
        j->count = (int)(slice->rows - first < GROUP ? slice->rows - first : GROUP);
        j->first = (int32_t)(slice->first_row + first);
        for (int i = 0; i < j->count; i++) { /* rows of a file may begin anywhere */
            memcpy(tmp, slice->data + (size_t)(first + i) * unit, unit);
            type_to_f32(j->r->k, w->type, m, false, NULL, (const uint8_t *)tmp, 1, tmp + room, rows + (size_t)i * (size_t)m->depth);
            j->half_square[i] = half_square(rows + (size_t)i * (size_t)m->depth, m->depth);
        }
        threads_run(j->r->pool, (tensor_rows(j->x) + TOKENS_PER_TASK - 1) / TOKENS_PER_TASK, nearest_task, j);
    }
}

tensor nearest_rows(run *r, tensor x, const char *name, int rows, int32_t *numbers)
{
    matrix_shape m = {rows, 1, x.channels};
    int use = use_matrix(r, name, ROLE_EDGE, rows, 1, x.channels, (double)tensor_rows(x)); /* it is gathered as well, and so kept by rows */
    tensor y = tensor_like(r, x, x.channels);
    if (!run_ok(r))
        return y;
    const weight *w = r->plan->use[use].weight;
    int64_t best = scratch_new(r, tensor_rows(x) * 4), group = scratch_new(r, (int64_t)GROUP * x.channels * 4);
    int64_t dots = scratch_new(r, (int64_t)threads_count(r->pool) * TOKENS_PER_TASK * GROUP * 4);
    int64_t tmp = scratch_new(r, (int64_t)round_up(type_unit_bytes(w->type, &m), 64) + 16 * (int64_t)depth_padded(x.channels) + 64);
    if (type_of(w->type)->panels)
        status_set(r->st, STATUS_BAD_FILE, "%s: %s: a codebook cannot be %s", r->component, name, type_of(w->type)->name);
    if (r->live && run_ok(r)) {
        nearest_job j = {.r = r, .x = x, .y = y, .best = run_at(r, best), .numbers = numbers, .dots = run_at(r, dots)};
        weight_slice slice;
        memset(tensor_data(r, y), 0, (size_t)tensor_count(y) * 4); /* of what is no number, none is nearest */
        for (int64_t i = 0; i < tensor_rows(x); i++) {
            j.best[i] = INFINITY;
            if (numbers)
                numbers[i] = 0;
        }
        while (stream_next(r->stream, use, &slice, r->st))
            compare_slice(&j, w, &m, &slice, run_at(r, group), run_at(r, tmp));
    }
    scratch_drop(r, tmp);
    scratch_drop(r, dots);
    scratch_drop(r, group);
    scratch_drop(r, best);
    return y;
}
