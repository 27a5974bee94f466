#define _GNU_SOURCE
#include "tests/check.h"

#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

/* ---- the run: what is being tested, and how it goes ---- */

check_run run;

void verdict(bool good, const char *format, ...)
{
    if (good) {
        run.passed++;
        return;
    }
    run.failed++;
    if (++run.said > 10)
        return;
    va_list args;
    va_start(args, format);
    printf("FAIL %s %s (%s): ", run.kernel, run.set->name, run.shape);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

void on_signal(int number)
{
    /* printf is not for signal handlers, but we are ending, and the page that was touched is no stream's. */
    printf("FAIL %s %s (%s): signal %d: touched memory that is not its own\n", run.kernel, run.set->name, run.shape, number);
    printf("%ld passed, %ld failed\n", run.passed, run.failed + 1);
    fflush(stdout);
    _exit(1);
}

/* ---- random numbers (splitmix64) ---- */

uint64_t random_bits(void)
{
    uint64_t z = run.random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int random_int(int low, int high) { return low + (int)(random_bits() % (uint64_t)(high - low + 1)); }
float random_unit(void) { return (float)((double)(random_bits() >> 11) * 0x1p-52 - 1); } /* -1 ... 1 */
float random_normal(void) { return random_unit() + random_unit() + random_unit(); }      /* near enough */

const char *const value_names[] = {"normal", "zeros", "denormal", "huge", "mixed"};

void fill(float *x, size_t n, values kind)
{
    for (size_t i = 0; i < n; i++)
        switch (kind) {
        case ZEROS: x[i] = random_bits() & 1 ? 0.0f : -0.0f; break;
        case TINY: x[i] = random_unit() * 1e-39f; break;
        case HUGE_VALUES: x[i] = random_unit() * 1e17f; break;
        case MIXED: x[i] = random_normal() * ldexpf(1, random_int(-30, 12)); break;
        default: x[i] = random_normal(); break;
        }
}

/* ---- memory between two pages that must not be touched ---- */

enum { MAPS = 64 };
static struct { char *base; size_t bytes; } maps[MAPS];
static int map_count;

void *guarded(size_t bytes, bool at_start)
{
    bytes += run.margin;
    size_t inner = (bytes + run.page - 1) / run.page * run.page, whole = inner + 2 * run.page;
    char *base = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || map_count == MAPS || mprotect(base + run.page, inner, PROT_READ | PROT_WRITE))
        abort();
    maps[map_count].base = base;
    maps[map_count++].bytes = whole;
    memset(base + run.page, 0xff, inner); /* NaN, as a float */
    return base + run.page + (at_start ? 0 : inner - bytes);
}

const void *before_first(void) { return maps[0].base; }

void seal(const void *array)
{
    for (int i = 0; i < map_count; i++)
        if ((const char *)array >= maps[i].base && (const char *)array < maps[i].base + maps[i].bytes)
            mprotect(maps[i].base + run.page, maps[i].bytes - 2 * run.page, PROT_READ);
}

void end_case(void)
{
    for (; map_count > 0; map_count--)
        munmap(maps[map_count - 1].base, maps[map_count - 1].bytes);
}

/* ---- comparisons ---- */

bool same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

void same_bytes(const char *what, const void *got, const void *want, size_t n)
{
    const unsigned char *g = got, *w = want;
    size_t i = 0;
    while (i < n && g[i] == w[i])
        i++;
    verdict(i == n, "%s: byte %zu is %d, not %d", what, i, i < n ? (int)g[i] : 0, i < n ? (int)w[i] : 0);
}

bool near_float(float got, float want, double bound)
{
    if (same_float(got, want) || isnan(got) || isnan(want) || isinf(got) || isinf(want))
        return same_float(got, want);
    return fabs((double)got - (double)want) <= bound;
}

void near_floats(const char *what, const float *got, const float *want, size_t n, double bound)
{
    size_t i = 0;
    while (i < n && near_float(got[i], want[i], bound * (1 + fabs((double)want[i]))))
        i++;
    verdict(i == n, "%s[%zu]: %a, not %a", what, i, i < n ? (double)got[i] : 0, i < n ? (double)want[i] : 0);
}

void near_matrix(const float *got, const float *want, int lines, int width, size_t stride, const double *bounds,
                        double bound)
{
    double worst = 0;
    bool good = true;
    for (size_t t = 0; t < (size_t)lines; t++)
        for (size_t n = 0; n < (size_t)width; n++) {
            double limit = bounds ? bounds[t * (size_t)width + n] : bound;
            if (near_float(got[t * stride + n], want[t * stride + n], limit))
                continue;
            good = false;
            worst = fmax(worst, fabs((double)got[t * stride + n] - (double)want[t * stride + n]) / limit);
        }
    verdict(good, "off by %.2f of the bound", worst);
}

bool gaps_untouched(const float *out, int tokens, int rows, size_t stride)
{
    const unsigned char *bytes = (const unsigned char *)out;
    for (int t = 0; t + 1 < tokens; t++)
        for (size_t i = ((size_t)t * stride + (size_t)rows) * 4; i < (size_t)(t + 1) * stride * 4; i++)
            if (bytes[i] != 0xff)
                return false;
    return true;
}
