/* peaks.c: assembly rather than intrinsics, because a compiler takes what does not change out of a loop. Twelve sums hide the
 * latency of every processor measured so far; the factors are zeros. */
#include "simd/peaks.h"

#include <stddef.h>
#include <string.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#define TWELVE(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define USES(r)                                                                                                            \
    "cc", r "0", r "1", r "2", r "3", r "4", r "5", r "6", r "7", r "8", r "9", r "10", r "11", r "12", r "13", r "14", r "15"

#if defined(__x86_64__)
#define LOOP(name, F)                                                                                              \
    static void name(long n)                                                                                       \
    {                                                                                                              \
        __asm__ volatile("vzeroall\n1:\n\t" TWELVE(F) "dec %0\n\tjnz 1b\n\tvzeroupper" : "+r"(n) : : USES("xmm")); \
    }
#elif defined(__aarch64__)
#define LOOP(name, extension, F)                                                                                 \
    static void name(long n)                                                                                     \
    {                                                                                                            \
        __asm__ volatile(extension "movi v14.4s, #0\n\tmovi v15.4s, #0\n1:\n\t" TWELVE(F) "subs %0, %0, #1\n\tb.ne 1b" \
                         : "+r"(n) : : USES("v"));                                                               \
    }
#endif

#ifdef HAVE_AVX2
#define FMA_YMM(i) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n\t"
#define MADDUBS(i) \
    "vpmaddubsw %%ymm14, %%ymm15, %%ymm13\n\tvpmaddwd %%ymm12, %%ymm13, %%ymm13\n\tvpaddd %%ymm13, %%ymm" #i ", %%ymm" #i "\n\t"
LOOP(fma_ymm, FMA_YMM)
LOOP(maddubs, MADDUBS)
#endif
#ifdef HAVE_AVXVNNI
#define DPBUSD_VEX(i) "%{vex%} vpdpbusd %%ymm14, %%ymm15, %%ymm" #i "\n\t"
LOOP(dpbusd_vex, DPBUSD_VEX)
#endif
#ifdef HAVE_AVX512
#define DPBUSD_YMM(i) "vpdpbusd %%ymm14, %%ymm15, %%ymm" #i "\n\t"
LOOP(dpbusd_ymm, DPBUSD_YMM)
#define FMA_ZMM(i) "vfmadd231ps %%zmm14, %%zmm15, %%zmm" #i "\n\t"
#define DPBUSD(i) "vpdpbusd %%zmm14, %%zmm15, %%zmm" #i "\n\t"
LOOP(fma_zmm, FMA_ZMM)
LOOP(dpbusd, DPBUSD)
#endif
#ifdef HAVE_NEON
#define FMLA(i) "fmla v" #i ".4s, v14.4s, v15.4s\n\t"
#define SMLAL(i) "smull v13.8h, v14.8b, v15.8b\n\tsmlal2 v13.8h, v14.16b, v15.16b\n\tsadalp v" #i ".4s, v13.8h\n\t"
LOOP(fmla, "", FMLA)
LOOP(smlal, "", SMLAL)
#endif
#ifdef HAVE_DOTPROD
#define SDOT(i) "sdot v" #i ".4s, v14.16b, v15.16b\n\t"
LOOP(sdot, ".arch armv8.2-a+dotprod\n\t", SDOT)
#endif
#ifdef HAVE_I8MM
#define SMMLA(i) "smmla v" #i ".4s, v14.16b, v15.16b\n\t"
LOOP(smmla, ".arch armv8.2-a+i8mm\n\t", SMMLA)
#endif

#ifdef HAVE_AVX512BF16
#define DPBF16(i) "vdpbf16ps %%zmm14, %%zmm15, %%zmm" #i "\n\t"
LOOP(dpbf16, DPBF16)
#endif

#ifdef HAVE_I8MM
#define BFMMLA(i) "bfmmla v" #i ".4s, v14.8h, v15.8h\n\t"
LOOP(bfmmla, ".arch armv8.2-a+bf16\n\t", BFMMLA)

/* A processor may have i8mm without it. */
static bool runs_bf16(void)
{
#if defined(__linux__)
    return (getauxval(26 /* AT_HWCAP2 */) >> 14 & 1) != 0; /* HWCAP2_BF16 */
#else
    return false;
#endif
}
#endif

static const peak peaks[] = {
#ifdef HAVE_AVX2
    {"avx2", PEAK_I8, "vpmaddubsw + vpmaddwd + vpaddd", 12 * 64, maddubs, NULL},
    {"avx2", PEAK_F32, "vfmadd231ps ymm", 12 * 16, fma_ymm, NULL},
#endif
#ifdef HAVE_AVXVNNI
    {"avxvnni", PEAK_I8, "vpdpbusd ymm", 12 * 64, dpbusd_vex, NULL},
    {"avxvnni", PEAK_F32, "vfmadd231ps ymm", 12 * 16, fma_ymm, NULL},
#endif
#ifdef HAVE_AVX512
    {"avxvnni_evex", PEAK_I8, "vpdpbusd ymm", 12 * 64, dpbusd_ymm, NULL}, /* the tests' build of the same source */
    {"avxvnni_evex", PEAK_F32, "vfmadd231ps ymm", 12 * 16, fma_ymm, NULL},
    {"avx512", PEAK_I8, "vpdpbusd zmm", 12 * 128, dpbusd, NULL},
    {"avx512", PEAK_F32, "vfmadd231ps zmm", 12 * 32, fma_zmm, NULL},
#endif
#ifdef HAVE_AVX512BF16
    {"avx512bf16", PEAK_I8, "vpdpbusd zmm", 12 * 128, dpbusd, NULL},
    {"avx512bf16", PEAK_F32, "vfmadd231ps zmm", 12 * 32, fma_zmm, NULL},
    {"avx512bf16", PEAK_BF16, "vdpbf16ps zmm", 12 * 64, dpbf16, NULL},
#endif
#ifdef HAVE_NEON
    {"neon", PEAK_I8, "smull + smlal2 + sadalp", 12 * 32, smlal, NULL},
    {"neon", PEAK_F32, "fmla", 12 * 8, fmla, NULL},
#endif
#ifdef HAVE_DOTPROD
    {"dotprod", PEAK_I8, "sdot", 12 * 32, sdot, NULL},
    {"dotprod", PEAK_F32, "fmla", 12 * 8, fmla, NULL},
#endif
#ifdef HAVE_I8MM
    {"i8mm", PEAK_I8, "smmla", 12 * 64, smmla, NULL},
    {"i8mm", PEAK_F32, "fmla", 12 * 8, fmla, NULL},
    {"i8mm", PEAK_BF16, "bfmmla", 12 * 32, bfmmla, runs_bf16},
#endif
    {"", PEAK_KINDS, "", 0, NULL, NULL},
};

const peak *peak_find(const char *set, peak_kind kind)
{
    for (const peak *p = peaks; p->turns; p++)
        if (p->kind == kind && strcmp(p->set, set) == 0)
            return !p->runs || p->runs() ? p : NULL;
    return NULL;
}
