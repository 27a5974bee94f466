/* tensor.h: what a model's forward function handles: a shape and a place in the arena, no data pointer.
 *
 * Activations are [batch, tokens, channels] in 32-bit floats, channels last; of an image, tokens = height * width. A
 * `sequence` whose rows belong to several prompts of different lengths has batch 1 and a `segments` beside it. */
#ifndef PENSTOCK_TENSOR_H
#define PENSTOCK_TENSOR_H

#include <stdint.h>

typedef struct tensor {
    int32_t batch;
    int32_t height, width; /* of an image; a sequence has height 1 and width = tokens */
    int32_t channels;
    int32_t first_batch;   /* a view of a slab: the batch item its first row belongs to */
    int64_t place;         /* arena offset in bytes of the first element; -1: no tensor (an error has happened, or optional) */
    int64_t owner;         /* arena offset of the allocation it lies in (a view's differs from place) */
    int64_t sums;          /* of a map: arena offset of the sums of its rows, [batch, height, 2, channels]; -1: not taken */
} tensor;

static inline int64_t tensor_tokens(tensor t) { return (int64_t)t.height * t.width; }
static inline int64_t tensor_rows(tensor t) { return (int64_t)t.batch * t.height * t.width; }
static inline int64_t tensor_count(tensor t) { return tensor_rows(t) * t.channels; }

/* Ragged sequences one behind the other: segment i is rows start[i] .. start[i + 1]. */
typedef struct segments {
    int count;
    const int32_t *start; /* count + 1 */
    const int32_t *length; /* of keys: so many of its first rows are attended to, the others are padding; NULL: all */
} segments;

#endif
