/* parameters.h: a picture's settings as one text, in the form that AUTOMATIC1111's web UI writes and many tools read. */
#ifndef PENSTOCK_PARAMETERS_H
#define PENSTOCK_PARAMETERS_H

#include <stdint.h>

#include "base/status.h"

typedef struct picture_settings {
    const char *prompt, *negative_prompt; /* NULL: none */
    const char *sampler;                  /* "dpm++2m" */
    const char *schedule;                 /* "karras"; NULL: the model's own */
    const char *model;                    /* a path: its last part without the ending is named */
    int steps, width, height;
    double guidance_scale;                /* NaN: none */
    uint64_t seed;
} picture_settings;

/* The caller frees with mem_free. */
char *picture_parameters(const picture_settings *p, status *st);

#endif
