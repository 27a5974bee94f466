/* encode_feedback.h: coding a row so that the layer's output, not its weights, is as it was (GPTQ; Frantar et al. 2022).
 *
 * With M the moments of a window's inputs, a row's output error is e M e' where e is the difference of its weights. M = (I + U) D (I + U)' with
 * U above the diagonal: coding column after column, and correcting each number by what the errors before it ask for, t_i = w_i + sum of e_j U_ji,
 * leaves the error sum of D_i (t_i - q_i)^2, which has no more terms in common. */
#ifndef PENSTOCK_ENCODE_FEEDBACK_H
#define PENSTOCK_ENCODE_FEEDBACK_H

#include "quant/encode.h"

/* [depth / window][window][window] moments (upper triangles) to factors in place: U, and D on the diagonal. tmp: window * (window + 1) doubles. False when
 * they are not finite. */
bool feedback_factor(float *moments, int32_t depth, int window, double *tmp);

/* How 16 numbers of a row are coded: their target, the first one's column in the row; each number is coded by `number`, in order. */
typedef struct feedback_code {
    void *ctx;
    void (*group)(void *ctx, const float *target, int column);        /* 16 numbers are about to be coded */
    float (*number)(void *ctx, float target, int column);             /* codes one; what its code stands for */
} feedback_code;

/* Codes a row [taps][depth]; target: as many floats of scratch. Returns its output error, and in *error the square of its weights'. */
double feedback_row(const encoding *e, const float *row, float *target, const feedback_code *code, double *error);
/* The output error of a difference [taps][depth] (of a row: its output's power). */
double feedback_output(const encoding *e, const float *difference, float *target);

#endif
