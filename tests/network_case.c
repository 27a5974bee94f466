#include "tests/network_case.h"

#include <criterion/criterion.h>
#include <math.h>

uint64_t network_run(const network_case *c, int workers, uint64_t budget)
{
    status st = STATUS_INIT;
    request q = {.prompt = "x", .precision = PRECISION_F32, .threads = workers, .budget_bytes = budget};
    result report = {0};
    engine e;
    stage s = {0};
    cr_assert(engine_open(&e, c->src, &q, &report, &st), "%s", st.text);
    bool ok = stage_plan(&s, &e, "", c->name, c->alias, c->forward, c->ctx, 1) && stage_open(&s) && stage_pass(&s, c->ctx);
    cr_assert(ok, "%s", st.text);
    stage_close(&s);
    engine_close(&e);
    return report.scratch_bytes;
}

/* 0: the budget is enough; otherwise what the refusal says would be. */
static uint64_t refused(const network_case *c, uint64_t budget)
{
    status st = STATUS_INIT;
    request q = {.prompt = "x", .precision = PRECISION_F32, .threads = 3, .budget_bytes = budget};
    result report = {0};
    engine e;
    stage s = {0};
    cr_assert(engine_open(&e, c->src, &q, &report, &st), "%s", st.text);
    bool fits = stage_plan(&s, &e, "", c->name, c->alias, c->forward, c->ctx, 1);
    cr_assert(fits || st.code == STATUS_BUDGET, "%s", st.text);
    stage_close(&s);
    engine_close(&e);
    return fits ? 0 : st.least_bytes;
}

uint64_t network_least_budget(const network_case *c)
{
    uint64_t least = refused(c, 1 << 20), step = 64 << 10;
    cr_assert_gt(least, 0);
    while (refused(c, least - step) == 0)
        least -= step;
    return least;
}

void network_compare(const char *model, const lite_tensor *want, const float *got, double bound)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < want->count; i++) {
        worst = fmax(worst, fabs((double)want->values[i] - (double)got[i]));
        largest = fmax(largest, fabs((double)want->values[i]));
    }
    cr_expect_leq(worst, bound * fmax(largest, 1), "%s %s: %g of %g", model, want->name, worst, largest);
}
