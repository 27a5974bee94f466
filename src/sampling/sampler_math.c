/* sampler_math.c: float arithmetic that several methods share, in torch's order of operations.
 *
 * torch stores every intermediate tensor in float, so nothing here may be contracted into a fused multiply-add
 * (-ffp-contract=off; a contraction costs an ulp, not correctness). Scalars of torch are float tensors of no dimension:
 * sqrt and division are exact, exp and log come from vector libraries that are nearly always correctly rounded. */
#include <math.h>
#include <string.h>

#include "sampling/sampler_impl.h"

float exp_float(float x) { return (float)exp((double)x); }
float expm1_float(float x) { return (float)expm1((double)x); }
float log_float(float x) { return (float)log((double)x); }

vp vp_at(float level)
{
    vp p;
    p.alpha = 1 / sqrtf(level * level + 1);
    p.sigma = level * p.alpha;
    p.lambda = log_float(p.alpha) - log_float(p.sigma);
    return p;
}

void combine(float *out, float a, const float *x, float b, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = a * x[i] + b * y[i];
}

float *rotate_slots(sampler *s, int count)
{
    float *oldest = s->slot[count - 1];
    for (int i = count - 1; i > 0; i--)
        s->slot[i] = s->slot[i - 1];
    return s->slot[0] = oldest;
}

/* Thresholding ----------------------------------------------------------------------------------------------------- */

static void swap_bits(uint32_t *a, uint32_t *b)
{
    uint32_t t = *a;
    *a = *b;
    *b = t;
}

/* The k-th smallest of v[n] (Hoare's quickselect); everything above index k is not smaller afterwards. */
static uint32_t select_kth(uint32_t *v, size_t n, size_t k)
{
    size_t low = 0, high = n - 1;
    while (low < high) {
        uint32_t pivot = v[low + (high - low) / 2];
        size_t i = low, j = high;
        while (true) {
            while (v[i] < pivot)
                i++;
            while (v[j] > pivot)
                j--;
            if (i >= j)
                break;
            swap_bits(&v[i++], &v[j--]);
        }
        if (k <= j)
            high = j;
        else
            low = j + 1;
    }
    return v[k];
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* torch.quantile(|x|, ratio) over [n]: floats without sign sort like their bits, NaN on top. */
static float quantile_of_magnitudes(const float *x, size_t n, float ratio, uint32_t *scratch)
{
    bool nan = false;
    for (size_t i = 0; i < n; i++) {
        scratch[i] = bits_of(x[i]) & 0x7fffffffu;
        nan |= scratch[i] > 0x7f800000u;
    }
    if (nan)
        return NAN;
    float rank = ratio * (float)(n - 1);
    size_t below = (size_t)rank, above = (size_t)ceilf(rank);
    below = below < n ? below : n - 1;
    above = above < n ? above : n - 1;
    float weight = rank - (float)below;
    float a = float_of(select_kth(scratch, n, below)), b = a;
    if (above > below) {
        uint32_t least = scratch[above];
        for (size_t i = above; i < n; i++)
            least = scratch[i] < least ? scratch[i] : least;
        b = float_of(least);
    }
    return weight < 0.5f ? fmaf(weight, b - a, a) : fmaf(weight - 1, b - a, b); /* torch.lerp */
}

float clamp_float(float x, float low, float high)
{
    x = x < low ? low : x; /* NaN stays NaN */
    return x > high ? high : x;
}

/* Dynamic thresholding of Imagen (Saharia et al. 2022, section 2.3), image by image. */
static void threshold(sampler *s, float *x0)
{
    float ratio = (float)s->config.dynamic_thresholding_ratio, greatest = (float)s->config.sample_max_value;
    for (size_t image = 0; image < s->images; image++) {
        float *x = x0 + image * s->per_image;
        float bound = quantile_of_magnitudes(x, s->per_image, ratio, s->threshold_scratch);
        bound = clamp_float(bound, 1, greatest);
        for (size_t i = 0; i < s->per_image; i++)
            x[i] = clamp_float(x[i], -bound, bound) / bound;
    }
}

/* Model outputs ---------------------------------------------------------------------------------------------------- */

/* x = alpha * x0 + sigma * epsilon, by what the model was trained to say of it */
static void undo_noise(const sampler *s, float alpha, float sigma, const float *model_output, const float *x, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float m = model_output[i];
        switch (s->config.prediction_type) {
        case PREDICT_EPSILON:
            out[i] = (x[i] - sigma * m) / alpha;
            break;
        case PREDICT_SAMPLE:
            out[i] = m;
            break;
        default:
            out[i] = alpha * x[i] - sigma * m;
        }
    }
}

void solver_x0(sampler *s, int call, const float *model_output, const float *x, float *out)
{
    vp p = vp_at(s->sigmas[call]);
    undo_noise(s, p.alpha, p.sigma, model_output, x, out, s->n);
    if (s->config.thresholding)
        threshold(s, out);
}

void solver_epsilon(sampler *s, int call, const float *model_output, const float *x, float *out)
{
    vp p = vp_at(s->sigmas[call]);
    for (size_t i = 0; i < s->n; i++) {
        float m = model_output[i];
        switch (s->config.prediction_type) {
        case PREDICT_EPSILON:
            out[i] = m;
            break;
        case PREDICT_SAMPLE:
            out[i] = (x[i] - p.alpha * m) / p.sigma;
            break;
        default:
            out[i] = p.alpha * m + p.sigma * x[i];
        }
    }
    if (!s->config.thresholding || s->row->ops->class_bit == CLASS_UNIPC)
        return;
    for (size_t i = 0; i < s->n; i++)
        out[i] = (x[i] - p.sigma * out[i]) / p.alpha;
    threshold(s, out);
    for (size_t i = 0; i < s->n; i++)
        out[i] = (x[i] - p.alpha * out[i]) / p.sigma;
}

void discrete_x0(sampler *s, float alpha_cumprod, const float *model_output, const float *x, float *out)
{
    undo_noise(s, sqrtf(alpha_cumprod), sqrtf(1 - alpha_cumprod), model_output, x, out, s->n);
    if (s->config.thresholding) {
        threshold(s, out);
    } else if (s->config.clip_sample) {
        float range = (float)s->config.clip_sample_range;
        for (size_t i = 0; i < s->n; i++)
            out[i] = clamp_float(out[i], -range, range);
    }
}

void discrete_epsilon(sampler *s, float alpha_cumprod, const float *model_output, const float *x, float *out)
{
    float alpha = sqrtf(alpha_cumprod), sigma = sqrtf(1 - alpha_cumprod);
    for (size_t i = 0; i < s->n; i++) {
        float m = model_output[i];
        switch (s->config.prediction_type) {
        case PREDICT_EPSILON:
            out[i] = m;
            break;
        case PREDICT_SAMPLE:
            out[i] = (x[i] - alpha * m) / sigma;
            break;
        default:
            out[i] = alpha * m + sigma * x[i];
        }
    }
}

float sigma_x0(const sampler *s, float sigma, float model_output, float x)
{
    switch (s->config.prediction_type) {
    case PREDICT_EPSILON:
        return x - sigma * model_output;
    case PREDICT_SAMPLE:
        return model_output;
    default: {
        float square = sigma * sigma + 1;
        return model_output * (-sigma / sqrtf(square)) + x / square;
    }
    }
}

void sampler_x0(const sampler *s, int call, const float *model_output, const float *x, float *out, size_t n)
{
    if (s->row->ops->level == LEVEL_SIGMAS_EDM) {
        for (size_t i = 0; i < n; i++)
            out[i] = sigma_x0(s, s->sigmas[call], model_output[i], x[i]);
        return;
    }
    float a = s->row->ops->level == LEVEL_ALPHAS ? schedule_alpha(s, (int)s->timesteps[call]) : 0;
    vp p = s->row->ops->level == LEVEL_ALPHAS ? (vp){.alpha = sqrtf(a), .sigma = sqrtf(1 - a)} : vp_at(s->sigmas[call]);
    undo_noise(s, p.alpha, p.sigma, model_output, x, out, n);
}
