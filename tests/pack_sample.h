/* pack_sample.h: a small model of three components in every type, for the suites that write containers and read them. */
#ifndef TESTS_PACK_SAMPLE_H
#define TESTS_PACK_SAMPLE_H

#include "weights/pack.h"

typedef struct sample {
    const char *component, *name;
    weight_type type;
    matrix_shape m;
    weight_role role;
} sample;

enum { SAMPLES = 11 };
extern const sample samples[SAMPLES];

uint8_t byte_at(int tensor, uint64_t i);    /* what sample number `tensor` holds there */
uint64_t unit_bytes_of(const sample *s);
int64_t units_of(const sample *s);
bool write_sample(pack_writer *w, int n, status *st);
bool write_model(const char *path, status *st); /* all of them, and four files */

extern char folder[], model[64];            /* of the test at hand; the container's name in it */
void pack_sample_folder(void);              /* an empty one */
void pack_sample_make(void);                /* with the model */
void pack_sample_remove(void);

#endif
