/* embeddings.h: prompts' embeddings that have been computed before: by this process (a store, request.store), or by an earlier one (the cache on
 * disk, request.cache).
 *
 * A key is made of everything that the bytes depend on: the model's hash, the component, the tokens, precision and kernels, and the program
 * itself. So what is found is what the encoder would have computed, byte for byte. The cache holds files of their own checksum under
 * $XDG_CACHE_HOME/penstock/embeddings; at most PENSTOCK_CACHE_LIMIT bytes (256 MiB), those longest not used leave first. Nothing
 * that goes wrong there is an error: an entry that cannot be read is not there, one that cannot be written is not kept. */
#ifndef PENSTOCK_EMBEDDINGS_H
#define PENSTOCK_EMBEDDINGS_H

#include "models/stage.h"

typedef struct embedding_key {
    uint64_t low, high;
} embedding_key;

typedef struct embedding {      /* of one prompt, two stretches of floats; the second may be empty */
    float *tokens, *pooled;
    size_t token_floats, pooled_floats;
} embedding;

embedding_key embedding_key_of(const engine *e, const char *component, uint64_t variant, const int32_t *ids, int count);
/* Fills the floats and returns true, or leaves them undefined. */
bool embedding_find(const engine *e, embedding_key k, const embedding *out);
void embedding_keep(const engine *e, embedding_key k, const embedding *in);

embedding_store *embedding_store_open(status *st);
void embedding_store_close(embedding_store *s);     /* NULL is fine */

#endif
