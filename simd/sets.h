/* sets.h: the tables of the instruction sets, known to cpu.c and to the sets themselves only.
 *
 * HAVE_AVX2 ... come from configure and say which files were compiled with their flags; everything else asks
 * kernels.h. A set yet to come adds its line here, its row in cpu.c and its file. */
#ifndef PENSTOCK_SETS_H
#define PENSTOCK_SETS_H

#include "simd/kernels.h"

extern const kernels kernels_scalar;
#ifdef HAVE_AVX2
extern const kernels kernels_avx2;
/* AVX-VNNI differs in gemm_i8 alone and takes the rest from here. */
#define X(name, args) void name##_avx2 args;
#include "simd/kernels.def"
#undef X
#endif
#ifdef HAVE_AVXVNNI
extern const kernels kernels_avxvnni;
#endif
#ifdef HAVE_AVX512
extern const kernels kernels_avx512;
/* The set with BF16 differs in attention alone and takes the rest from here. */
#define X(name, args) void name##_avx512 args;
#include "simd/kernels.def"
#undef X
#endif
#ifdef HAVE_AVX512BF16
extern const kernels kernels_avx512bf16;
#endif
#ifdef HAVE_NEON
extern const kernels kernels_neon;
/* The later AArch64 sets differ from NEON in gemm_i8 alone and take the rest from it, so these have linkage. */
#define X(name, args) void name##_neon args;
#include "simd/kernels.def"
#undef X
#endif
#ifdef HAVE_DOTPROD
extern const kernels kernels_dotprod;
#endif
#ifdef HAVE_I8MM
extern const kernels kernels_i8mm;
#endif

#endif
