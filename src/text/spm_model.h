/* spm_model.h: what a spiece.model holds, as far as a tokenizer needs it. */
#ifndef PENSTOCK_SPM_MODEL_H
#define PENSTOCK_SPM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum spm_kind { SPM_NORMAL = 1, SPM_UNKNOWN = 2, SPM_CONTROL = 3, SPM_USER_DEFINED = 4, SPM_UNUSED = 5, SPM_BYTE = 6 } spm_kind;

typedef struct spm_piece {
    const char *text;     /* in the model's bytes, not NUL-terminated */
    uint32_t bytes;
    float score;
    spm_kind kind;
} spm_piece;

/* Walks through the model, which must be a whole and sound one: pieces non-empty UTF-8 without zero bytes, scores finite, the
 * kind unigram. `take` (may be NULL) gets every piece in order; its false ends the walk. Everything points into `model`. */
typedef bool (*spm_take)(void *ctx, const spm_piece *piece);
typedef struct spm_facts {
    int32_t pieces;
    size_t text_bytes;    /* of all pieces */
    const uint8_t *charsmap;
    size_t charsmap_bytes;
} spm_facts;

bool spm_walk(const void *model, size_t bytes, const char *name, spm_take take, void *ctx, spm_facts *out, status *st);

#endif
