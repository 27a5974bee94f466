/* cpu.c: which kernel sets this processor runs. */
#include "simd/sets.h"

#include <string.h>

#if defined(__x86_64__) && (defined(HAVE_AVX2) || defined(HAVE_AVX512))
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

static bool runs_always(void)
{
    return true;
}

#ifdef HAVE_AVX2
static bool runs_avx2(void)
{
    unsigned a, b, c, d; /* F16C by hand: not every compiler's __builtin_cpu_supports knows the name */
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C))
        return false;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

#ifdef HAVE_AVXVNNI
static bool runs_avxvnni(void)
{
    unsigned a, b, c, d; /* by hand, as above */
    return runs_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}
#endif

#ifdef HAVE_AVX512
static bool runs_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}
#endif

#ifdef HAVE_AVX512BF16
static bool runs_avx512bf16(void)
{
    unsigned a, b, c, d; /* by hand, as above */
    return runs_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}
#endif

#if defined(HAVE_DOTPROD) || defined(HAVE_I8MM)
/* One bit of the auxiliary vector (Linux), or the system control that says the same (macOS). */
static bool arm_has(unsigned long type, unsigned long bit, const char *control)
{
#if defined(__linux__)
    (void)control;
    return (getauxval(type) & bit) != 0;
#elif defined(__APPLE__)
    int value = 0;
    size_t size = sizeof value;
    (void)type, (void)bit;
    return sysctlbyname(control, &value, &size, NULL, 0) == 0 && value != 0;
#else
    (void)type, (void)bit, (void)control;
    return false;
#endif
}
#endif

#ifdef HAVE_DOTPROD
static bool runs_dotprod(void)
{
    return arm_has(16 /* AT_HWCAP */, 1ul << 20 /* HWCAP_ASIMDDP */, "hw.optional.arm.FEAT_DotProd");
}
#endif

#ifdef HAVE_I8MM
static bool runs_i8mm(void)
{
    return arm_has(26 /* AT_HWCAP2 */, 1ul << 13 /* HWCAP2_I8MM */, "hw.optional.arm.FEAT_I8MM");
}
#endif

/* Every name --cpu may say, worst first; a set that was not built has no table. */
static const struct set {
    const char *name;
    const kernels *table;
    bool (*runs)(void);
} sets[] = {
    {"scalar", &kernels_scalar, runs_always},
#ifdef HAVE_AVX2
    {"avx2", &kernels_avx2, runs_avx2},
#else
    {"avx2", NULL, NULL},
#endif
#ifdef HAVE_AVXVNNI
    {"avxvnni", &kernels_avxvnni, runs_avxvnni},
#else
    {"avxvnni", NULL, NULL},
#endif
#ifdef HAVE_AVX512
    {"avx512", &kernels_avx512, runs_avx512},
#else
    {"avx512", NULL, NULL},
#endif
#ifdef HAVE_AVX512BF16
    {"avx512bf16", &kernels_avx512bf16, runs_avx512bf16},
#else
    {"avx512bf16", NULL, NULL},
#endif
#ifdef HAVE_NEON
    {"neon", &kernels_neon, runs_always},
#else
    {"neon", NULL, NULL},
#endif
#ifdef HAVE_DOTPROD
    {"dotprod", &kernels_dotprod, runs_dotprod},
#else
    {"dotprod", NULL, NULL},
#endif
#ifdef HAVE_I8MM
    {"i8mm", &kernels_i8mm, runs_i8mm},
#else
    {"i8mm", NULL, NULL},
#endif
};
enum { SETS = sizeof sets / sizeof sets[0] };

int kernels_all(const kernels **out, int most)
{
    int n = 0;
    for (int i = 0; i < SETS && n < most; i++)
        if (sets[i].table && sets[i].runs())
            out[n++] = sets[i].table;
    return n;
}

const kernels *kernels_best(void)
{
    const kernels *all[SETS];
    return all[kernels_all(all, SETS) - 1];
}

const kernels *kernels_by_name(const char *name, bool *known)
{
    *known = false;
    for (int i = 0; i < SETS; i++)
        if (strcmp(sets[i].name, name) == 0) {
            *known = true;
            return sets[i].table && sets[i].runs() ? sets[i].table : NULL;
        }
    return NULL;
}
