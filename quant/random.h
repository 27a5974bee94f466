/* random.h: weights for models whose weights are not there (`quantize --random SEED`): to time a model before downloading it. */
#ifndef PENSTOCK_RANDOM_H
#define PENSTOCK_RANDOM_H

#include "weights/plan.h"

typedef struct random_tensor { /* what its numbers are made from */
    uint64_t key;
    float mean, deviation;
} random_tensor;

/* From seed, component and name; role and shape say how large the numbers are, so that activations stay finite in deep networks:
 * matrices 1 / sqrt(fan in), gains about 1, biases small. */
random_tensor random_of(uint64_t seed, const char *component, const char *name, weight_role role, const matrix_shape *m);
/* Numbers first .. first + n of the tensor (in the order [rows][taps][depth]): a function of their place alone. */
void random_fill(const random_tensor *t, uint64_t first, size_t n, float *out);

#endif
