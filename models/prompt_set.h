/* prompt_set.h: which texts a request needs encoded, each once, and which of them belong to which picture. */
#ifndef PENSTOCK_PROMPT_SET_H
#define PENSTOCK_PROMPT_SET_H

#include "models/pipeline.h"

typedef enum prompt_guidance { GUIDE_NONE, GUIDE_ALL, GUIDE_NAMED } prompt_guidance; /* NAMED: where a negative prompt was given */

typedef struct prompt_set {
    int texts, negatives;       /* the first `negatives` texts are the unconditional ones */
    const char **text;          /* [texts]; with --tokens the conditional ones are not "" */
    int images;
    int *negative, *positive;   /* [images]: its texts; negative is -1 where there is none */
    uint64_t *seed;             /* [images] */
    void *memory;
} prompt_set;

/* The request's items, or the one prompt that it is. Close either way. */
bool prompt_set_open(prompt_set *p, const request *q, prompt_guidance guidance, status *st);
void prompt_set_close(prompt_set *p);

#endif
