/* AmusedScheduler, after MaskGIT (Chang et al. 2022, arXiv 2202.04200) and Muse (2023, arXiv 2301.00704). Reference: diffusers,
 * schedulers/scheduling_amused.py. All arithmetic is in float, in torch's order: how many tokens are masked is a product rounded down, and which ones is a
 * comparison of confidences, so that the last bit can count.
 * The numbers that torch draws: for every logit an exponential one (multinomial is the argmax of p / q), then for every token, unless it is the last step, a uniform
 * one, which is turned into Gumbel noise. */
#include "sampling/masked.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "import/json.h"

static bool choose_schedule(masked_schedule *m, const char *name, const char *file, status *st)
{
    m->linear = strcmp(name, "linear") == 0;
    if (m->linear || strcmp(name, "cosine") == 0)
        return true;
    return file ? status_set(st, STATUS_BAD_FILE, "%s: masking_schedule \"%s\" is not one of cosine, linear", file, name)
                : status_set(st, STATUS_USAGE, "--scheduler %s: of a token model it is cosine or linear", name);
}

bool masked_open(masked_schedule *m, const char *config_json, size_t length, const char *schedule, int steps, double temperature, status *st)
{
    static const char file[] = "scheduler_config.json";
    *m = (masked_schedule){.steps = steps, .temperature = temperature};
    json *j = json_parse(config_json, length, file, st);
    m->mask_id = (int)json_need_int(j, "mask_token_id", 0, 1 << 24, file, st);
    bool ok = status_ok(st) && choose_schedule(m, schedule ? schedule : json_text(j, "masking_schedule", "cosine", file, st), schedule ? NULL : file, st);
    json_free(j);
    return ok && status_ok(st);
}

/* The share that is masked after a step. */
static float ratio_after(const masked_schedule *m, int step)
{
    float done = (float)(step + 1) / (float)m->steps;
    return m->linear ? 1 - done : cosf(done * (float)3.141592653589793 / 2);
}

/* torch.linspace(temperature, 0, steps) */
static float temperature_at(const masked_schedule *m, int step)
{
    float start = (float)m->temperature, by = m->steps > 1 ? (0 - start) / (float)(m->steps - 1) : 0;
    double annealed = m->temperature;
    for (int i = 0; i <= step; i++)
        annealed *= 1 - (double)(i + 1) / m->steps;
    if (m->annealed || m->steps == 1)
        return m->annealed ? (float)annealed : start;
    return step < m->steps / 2 ? start + by * (float)step : 0 - by * (float)(m->steps - step - 1);
}

/* ---- choosing ---- */

static float greatest(const float *x, int n, int *at)
{
    *at = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[*at])
            *at = i;
    return x[*at];
}

void masked_choose(float *logits, int n, rng *g, masked_pick *out)
{
    int best;
    float most = greatest(logits, n, &best);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        logits[i] = expf(logits[i] - most);
        sum += (double)logits[i];
    }
    if (g)
        best = (int)rng_race(g, logits, (float)sum, (size_t)n);
    *out = (masked_pick){best, logits[best] / (float)sum};
}

/* ---- masking again ---- */

static float clamped(float x) { return x > 1e-20f ? x : 1e-20f; }

static float gumbel(rng *g)
{
    float u;
    rng_uniform(g, &u, 1);
    return -logf(clamped(-logf(clamped(u))));
}

static int ascending(const void *a, const void *b)
{
    const float *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

void masked_step(const masked_schedule *m, int step, const masked_pick *picks, float *tokens, int count, float start_ratio, rng *g, float *scratch)
{
    float *confidence = scratch, *sorted = scratch + count, temperature = temperature_at(m, step);
    int unknown = 0;
    for (int i = 0; i < count; i++) {
        bool masked = tokens[i] == (float)m->mask_id;
        unknown += masked;
        confidence[i] = masked ? picks[i].probability : FLT_MAX; /* what was known stays */
        tokens[i] = masked ? (float)picks[i].token : tokens[i];
    }
    if (step == m->steps - 1)
        return;
    for (int i = 0; i < count; i++)
        confidence[i] = logf(clamped(confidence[i])) + temperature * gumbel(g);
    int again = (int)floorf((float)count * (start_ratio * ratio_after(m, step)));
    again = again > unknown - 1 ? unknown - 1 : again;
    again = again < 1 ? 1 : again;
    memcpy(sorted, confidence, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, ascending);
    float cut = sorted[again < count ? again : count - 1];
    for (int i = 0; i < count; i++)
        if (confidence[i] < cut)
            tokens[i] = (float)m->mask_id;
}

void masked_noise(const masked_schedule *m, int step, float *tokens, int count, rng *g)
{
    float ratio = ratio_after(m, step);
    for (int i = 0; i < count; i++) {
        float u;
        rng_uniform(g, &u, 1);
        if (u < ratio)
            tokens[i] = (float)m->mask_id;
    }
}

void masked_skip(const masked_schedule *m, int step, int count, int codes, rng *g)
{
    float drawn;
    for (int64_t i = 0; m->temperature > 0 && i < (int64_t)count * codes; i++)
        rng_exponential(g, &drawn, 1);
    for (int i = 0; step < m->steps - 1 && i < count; i++)
        rng_uniform(g, &drawn, 1);
}
