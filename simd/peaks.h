/* peaks.h: what a core can do at most: loops of one instruction on registers and nothing else. A kernel's share of it is what
 * `bench` and check_kernels --bench print. */
#ifndef PENSTOCK_PEAKS_H
#define PENSTOCK_PEAKS_H

#include <stdbool.h>

typedef enum peak_kind { PEAK_I8, PEAK_F32, PEAK_BF16, PEAK_KINDS } peak_kind;

typedef struct peak {
    const char *set;         /* the set of kernels that multiplies with it: "avx512" */
    peak_kind kind;
    const char *instruction; /* "vpdpbusd" */
    double operations;       /* of one turn; a multiply and an add are two */
    void (*turns)(long n);   /* n of them, n >= 1 */
    bool (*runs)(void);      /* NULL: where the set runs */
} peak;

/* A set's peak; NULL where it has none (scalar), or this processor or build lacks the instruction. The set must be one that
 * this processor runs. */
const peak *peak_find(const char *set, peak_kind kind);

#endif
