/* sampler_unipc.c: UniPC, a multistep predictor with a corrector that costs no evaluation.
 *
 * Paper: Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models"
 * (2302.04867). Reference: diffusers/schedulers/scheduling_unipc_multistep.py.
 * At each call the model's output at the predicted sample first corrects that sample (with the last step's order), then
 * the next one is predicted from the corrected sample.
 * Pitfalls: every order falls to what is left of the schedule (lower_order_final); the predictor of order 2 and the
 * corrector of order 1 use 1/2 instead of solving; bh1 with a last sigma of 0 gives NaN, in diffusers too. */
#include <math.h>
#include <string.h>

#include "sampling/sampler_impl.h"

enum { MOST = 3 };

/* x_next = keep x - m0 M0 - b_h sum_i rho_i (M_i - M0) / rk_i, M0 the newest output, M_i earlier ones */
typedef struct bh_step {
    float keep, m0, b_h;
    float rk[MOST];          /* where the earlier outputs stand, in units of h; the last is 1 */
    float r[MOST][MOST];     /* rk to the power of the row */
    float b[MOST];
} bh_step;

/* From sigmas[from] to sigmas[from + 1] with order outputs, the newest of which stands at from. */
static bh_step prepare(const sampler *s, int from, int order)
{
    vp t = vp_at(s->sigmas[from + 1]), s0 = vp_at(s->sigmas[from]);
    float h = t.lambda - s0.lambda;
    float hh = s->config.predict_x0 ? -h : h;
    float phi_1 = expm1_float(hh);
    float b_h = s->config.solver_type == SOLVER_BH1 ? hh : phi_1;
    float scale = s->config.predict_x0 ? t.alpha : t.sigma;
    bh_step p = {
        .keep = s->config.predict_x0 ? t.sigma / s0.sigma : t.alpha / s0.alpha,
        .m0 = scale * phi_1,
        .b_h = scale * b_h,
    };
    for (int i = 0; i < order - 1; i++)
        p.rk[i] = (vp_at(s->sigmas[from - 1 - i]).lambda - s0.lambda) / h;
    p.rk[order - 1] = 1;

    float phi_k = phi_1 / hh - 1, factorial = 1;
    for (int row = 0; row < order; row++) {
        for (int i = 0; i < order; i++)
            p.r[row][i] = row == 0 ? 1 : row == 1 ? p.rk[i] : p.rk[i] * p.rk[i];
        p.b[row] = phi_k * factorial / b_h;
        factorial *= (float)(row + 2);
        phi_k = phi_k / hh - (float)(1 / (double)factorial);
    }
    return p;
}

/* Solve r rho = b for the first n rows and columns: Gaussian elimination with partial pivoting, in float as LAPACK's
 * sgesv, which torch.linalg.solve calls. */
static void solve(const bh_step *p, int n, float *rho)
{
    float a[MOST][MOST + 1];
    for (int i = 0; i < n; i++) {
        memcpy(a[i], p->r[i], (size_t)n * sizeof **a);
        a[i][n] = p->b[i];
    }
    for (int k = 0; k < n; k++) {
        int pivot = k;
        for (int i = k + 1; i < n; i++)
            if (fabsf(a[i][k]) > fabsf(a[pivot][k]))
                pivot = i;
        for (int j = 0; j <= n; j++) {
            float t = a[k][j];
            a[k][j] = a[pivot][j];
            a[pivot][j] = t;
        }
        for (int i = k + 1; i < n; i++) {
            float factor = a[i][k] / a[k][k];
            for (int j = k; j <= n; j++)
                a[i][j] = a[i][j] - factor * a[k][j];
        }
    }
    for (int i = n - 1; i >= 0; i--) {
        float sum = a[i][n];
        for (int j = i + 1; j < n; j++)
            sum = sum - a[i][j] * rho[j];
        rho[i] = sum / a[i][i];
    }
}

/* The predicted sample x (in: the sample at call, out: at call + 1); slot[0] is the newest output. */
static void predict(sampler *s, int call, int order, float *x)
{
    bh_step p = prepare(s, call, order);
    float rho[MOST] = {0.5f};
    if (order > 2)
        solve(&p, order - 1, rho);
    for (size_t i = 0; i < s->n; i++) {
        float m0 = s->slot[0][i];
        float next = p.keep * x[i] - p.m0 * m0, sum = 0;
        for (int k = 1; k < order; k++) {
            float d = (s->slot[k][i] - m0) / p.rk[k - 1];
            sum = k == 1 ? rho[0] * d : sum + rho[k - 1] * d;
        }
        x[i] = next - p.b_h * sum;
    }
}

/* The corrected sample at call, into x, from the sample before it; slot[0] is the output at call, slot[1] the one
 * before. */
static void correct(sampler *s, int call, int order, const float *before, float *x)
{
    bh_step p = prepare(s, call - 1, order);
    float rho[MOST] = {0.5f};
    if (order > 1)
        solve(&p, order, rho);
    for (size_t i = 0; i < s->n; i++) {
        float m0 = s->slot[1][i];
        float next = p.keep * before[i] - p.m0 * m0, sum = 0;
        for (int k = 1; k < order; k++) {
            float d = (s->slot[k + 1][i] - m0) / p.rk[k - 1];
            sum = k == 1 ? rho[0] * d : sum + rho[k - 1] * d;
        }
        x[i] = next - p.b_h * (sum + rho[order - 1] * (s->slot[0][i] - m0));
    }
}

static bool corrector_off(const sampler_config *c, int step)
{
    return step < 64 && (c->disable_corrector >> step & 1);
}

static void step(sampler *s, int call, const float *model_output, float *x, const float *noise)
{
    (void)noise;
    const sampler_config *c = &s->config;
    float *last_sample = s->slot[c->solver_order + 1];
    float *m = rotate_slots(s, c->solver_order + 1);
    if (c->predict_x0)
        solver_x0(s, call, model_output, x, m);
    else
        solver_epsilon(s, call, model_output, x, m);
    if (s->done > 0 && !corrector_off(c, call - 1))
        correct(s, call, s->order, last_sample, x);

    int order = c->solver_order;
    if (c->lower_order_final && order > s->calls - call)
        order = s->calls - call;
    if (order > s->held + 1)
        order = s->held + 1;
    s->order = order;
    memcpy(last_sample, x, s->n * sizeof *x);
    predict(s, call, order, x);
    s->held += s->held < c->solver_order;
}

static bool plan(sampler *s, status *st) { return schedule_alphas(s, true, st) && schedule_sigmas_dpm(s, st); }
static int slots(const sampler *s) { return s->config.solver_order + 2; }

const sampler_ops sampler_ops_unipc = {
    .class_bit = CLASS_UNIPC,
    .plan = plan,
    .step = step,
    .slots = slots,
    .level = LEVEL_SIGMAS_VP,
    .calls_per_step = 1,
};
