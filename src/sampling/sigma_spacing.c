/* sigma_spacing.c: sequences of noise levels that do not follow the training schedule.
 *
 * karras: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", eq. 5, rho = 7.
 * exponential: evenly spaced logarithms (k-diffusion). beta: Lee et al. 2024, "Beta Sampling is All You Need".
 * Reference: _convert_to_karras, _convert_to_exponential, _convert_to_beta, _sigma_to_t, alike in every class of
 * diffusers that has them. They compute in double, but for the logarithms of the training sigmas, which numpy takes in
 * float with its own polynomials: these fractional timesteps reach the model unrounded, so numpy_logf copies them. */
#include <math.h>

#include "sampling/sampler_impl.h"

/* numpy's float32 log: range reduction to [sqrt(1/2), sqrt(2)], then a rational function of degree 5 / 5. */
float numpy_logf(float x)
{
    static const float p[6] = {0.f, 9.999999999999998702752e-01f, 2.112677543073053063722e+00f, 1.480000633576506585156e+00f,
                               3.808837741388407920751e-01f, 2.589979117907922693523e-02f};
    static const float q[6] = {1.f, 2.612677543073109236779e+00f, 2.453006071784736363091e+00f, 9.864942958519418960339e-01f,
                               1.546476374983906719538e-01f, 5.875095403124574342950e-03f};
    if (!(x > 0) || isinf(x))
        return logf(x);
    int exponent;
    float m = frexpf(x, &exponent);
    if (m <= 0.707106781186547524f) {
        m *= 2;
        exponent--;
    }
    m -= 1;
    float num = p[5], den = q[5];
    for (int i = 4; i >= 0; i--) {
        num = fmaf(num, m, p[i]);
        den = fmaf(den, m, q[i]);
    }
    return fmaf((float)exponent, 0.693147180559945309f, num / den);
}

double sigma_to_timestep(double sigma, const float *log_sigmas, int count)
{
    double log_sigma = log(sigma > 1e-10 ? sigma : 1e-10);
    int low = 0;
    for (int i = 0; i < count; i++)
        if (log_sigma >= (double)log_sigmas[i])
            low = i;
    if (low > count - 2)
        low = count - 2;
    float between = log_sigmas[low] - log_sigmas[low + 1]; /* a float difference of floats, as numpy's */
    double w = ((double)log_sigmas[low] - log_sigma) / (double)between;
    w = w < 0 ? 0 : w > 1 ? 1 : w;
    return (1 - w) * low + w * (low + 1);
}

/* Regularised incomplete beta function I_x(a, b) for x <= 1/2 by Lentz' continued fraction (Numerical Recipes 6.4). */
static double incomplete_beta(double x, double a, double b)
{
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double f = d;
    for (int m = 1; m < 300; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        for (int half = 0; half < 2; half++) {
            double term = half ? odd : even;
            d = 1 + term * d;
            c = 1 + term / c;
            d = 1 / (fabs(d) < tiny ? tiny : d);
            c = fabs(c) < tiny ? tiny : c;
            f *= d * c;
        }
        if (fabs(d * c - 1) < 1e-16)
            break;
    }
    double scale = tgamma(a + b) / (tgamma(a) * tgamma(b));
    return scale * pow(x, a) * pow(1 - x, b) * f / a;
}

/* The x with I_x(shape, shape) = p: quantile of the symmetric beta distribution. */
static double beta_quantile(double p, double shape)
{
    if (p <= 0 || p >= 1)
        return p <= 0 ? 0 : 1;
    if (p > 0.5)
        return 1 - beta_quantile(1 - p, shape);
    double low = 0, high = 0.5;
    while (high - low > 1e-17 && high - low > 2e-16 * high) {
        double mid = low + (high - low) / 2;
        if (mid <= low || mid >= high)
            break;
        if (incomplete_beta(mid, shape, shape) < p)
            low = mid;
        else
            high = mid;
    }
    return low + (high - low) / 2;
}

bool sigma_spacing(const sampler_config *c, double high, double low, int n, double *sigmas)
{
    high = isnan(c->sigma_max) ? high : c->sigma_max;
    low = isnan(c->sigma_min) ? low : c->sigma_min;
    const double rho = 7;
    for (int i = 0; i < n; i++) {
        if (c->use_karras_sigmas) {
            double ramp = numpy_linspace(0, 1, n, i);
            double first = pow(high, 1 / rho), last = pow(low, 1 / rho);
            sigmas[i] = pow(first + ramp * (last - first), rho);
        } else if (c->use_exponential_sigmas) {
            sigmas[i] = exp(numpy_linspace(log(high), log(low), n, i));
        } else if (c->use_beta_sigmas) {
            sigmas[i] = low + beta_quantile(1 - numpy_linspace(0, 1, n, i), 0.6) * (high - low);
        } else {
            return false;
        }
    }
    return true;
}
