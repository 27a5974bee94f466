#include "quant/encode_feedback.h"

#include <math.h>
#include <string.h>

enum { GROUP = 16 };

/* Added to the diagonal, as a part of its mean: inputs that never occurred together in the prompts do not get arbitrary weights, and a rank that is
 * too low does no harm. */
static const double DAMPING = 0.01;

static bool factor_window(float *m, int n, double *a)
{
    double mean = 0, *column = a + (size_t)n * (size_t)n;
    for (int i = 0; i < n; i++)
        mean += (double)m[i * n + i] / n;
    if (!isfinite(mean))
        return false;
    double added = mean > 0 ? DAMPING * mean : 1;
    for (int i = 0; i < n * n; i++)
        a[i] = m[i];
    for (int i = 0; i < n; i++)
        a[i * n + i] += added;
    for (int j = n - 1; j >= 0; j--) {
        double d = a[j * n + j] > added / 4 ? a[j * n + j] : added / 4; /* never smaller but for rounding */
        for (int i = 0; i < j; i++)
            column[i] = a[i * n + j] / d;
        for (int i = 0; i < j; i++) {
            double by = a[i * n + j], *row = a + i * n;
            for (int k = i; k < j; k++)
                row[k] -= by * column[k];
            m[i * n + j] = (float)column[i];
        }
        m[j * n + j] = (float)d;
    }
    return true;
}

bool feedback_factor(float *moments, int32_t depth, int window, double *tmp)
{
    for (int32_t at = 0; at < depth; at += window, moments += (size_t)window * (size_t)window)
        if (!factor_window(moments, window, tmp))
            return false;
    return true;
}

/* target[k] += sum of by[i] * u[i][k] for all columns k from `from` on. */
static void correct(float *target, const float *by, const float *u, int window, int from)
{
    for (int k = from; k < window; k += GROUP) {
        float part[GROUP];
        memcpy(part, target + k, sizeof part);
        for (int i = 0; i < GROUP; i++)
            for (int l = 0; l < GROUP; l++)
                part[l] += by[i] * u[i * window + k + l];
        memcpy(target + k, part, sizeof part);
    }
}

/* 16 numbers from column c of a window on, one after the other; u: from that column's row on. */
static double code_group(const float *row, float *target, const float *u, int window, int c, int at, const feedback_code *code, double *error)
{
    float by[GROUP];
    double output = 0;
    code->group(code->ctx, target + c, at);
    for (int i = 0; i < GROUP; i++) {
        float value = code->number(code->ctx, target[c + i], at + i), rest = target[c + i] - value;
        by[i] = row[c + i] - value;
        output += (double)u[i * window + c + i] * rest * rest;
        *error += (double)by[i] * by[i];
        for (int l = i + 1; l < GROUP; l++)
            target[c + l] += by[i] * u[i * window + c + l];
    }
    correct(target, by, u, window, c + GROUP);
    return output;
}

double feedback_row(const encoding *e, const float *row, float *target, const feedback_code *code, double *error)
{
    int n = e->matrix.taps * e->matrix.depth, window = e->window;
    double output = 0;
    *error = 0;
    for (int at = 0; at < n; at += window) {
        const float *u = e->factor + (size_t)(at % e->matrix.depth) * (size_t)window;
        memcpy(target, row + at, (size_t)window * sizeof *target);
        for (int c = 0; c < window; c += GROUP)
            output += code_group(row + at, target, u + c * window, window, c, at + c, code, error);
    }
    return output;
}

double feedback_output(const encoding *e, const float *difference, float *target)
{
    int n = e->matrix.taps * e->matrix.depth, window = e->window;
    double output = 0;
    for (int at = 0; at < n; at += window) {
        const float *u = e->factor + (size_t)(at % e->matrix.depth) * (size_t)window, *x = difference + at;
        memcpy(target, x, (size_t)window * sizeof *target);
        for (int c = 0; c < window; c++) {
            output += (double)u[c * window + c] * target[c] * target[c];
            for (int k = c + 1; k < window; k++)
                target[k] += x[c] * u[c * window + k];
        }
    }
    return output;
}
