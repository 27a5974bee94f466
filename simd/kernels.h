/* kernels.h: the inner loops, one table of function pointers chosen once for the machine.
 *
 * kernels.def lists every kernel once (X-macro): the table below, the tables of every instruction set, the test
 * (tests/check_kernels.c) and the benchmark are made from it. The scalar set (kernels_scalar.c) is the specification:
 * integer kernels of every other set give the same bits, float kernels stay within the bound written beside them.
 * This folder includes nothing of the rest of the project. */
#ifndef PENSTOCK_KERNELS_H
#define PENSTOCK_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PANEL_ROWS = 16,          /* rows of a weight panel of the integer formats */
    KEY_TILE = 64,            /* attention: keys per tile; fixed, so that results do not depend on blocking */
    QUERY_TILE = 16           /* attention: queries per call at most */
};

typedef enum activation { ACT_NONE, ACT_RELU, ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF, ACT_QUICK_GELU } activation;

typedef struct kernels {
    const char *name;      /* "avx2" */
    int attention_element; /* bytes that attention_pack takes for a number where it need not be exact: 4 or 2 */
#define X(name, args) void(*name) args;
#include "simd/kernels.def"
#undef X
} kernels;

/* Floats of scratch that `attention` needs for one call (any nq <= QUERY_TILE). */
static inline size_t attention_scratch_floats(int v_dim)
{
    return (size_t)QUERY_TILE * KEY_TILE + (size_t)QUERY_TILE * (size_t)v_dim + 4 * QUERY_TILE + 64;
}

/* Bytes of a tile of attention_pack; k NULL: an exact one. */
static inline size_t attention_tile_bytes(const kernels *k, int qk_dim, int v_dim)
{
    size_t even = ((size_t)qk_dim + 1) / 2 * 2; /* bfloat16 comes in pairs */
    return k && k->attention_element == 2 ? KEY_TILE * (even + (size_t)v_dim) * 2 : KEY_TILE * ((size_t)qk_dim + (size_t)v_dim) * 4;
}

/* The best set this processor runs; never NULL (scalar is always there). */
const kernels *kernels_best(void);
/* A set by the name of --cpu ("scalar", "avx2", "avx512", "neon", "dotprod", "i8mm", ...). NULL when unknown or
 * when this processor lacks it; *known tells which of the two. */
const kernels *kernels_by_name(const char *name, bool *known);
/* All sets built into this program that this processor runs, best last; returns their number (<= most). */
int kernels_all(const kernels **out, int most);

#endif
