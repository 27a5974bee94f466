#include "models/embeddings.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cache.h"
#include "base/environment.h"
#include "base/mem.h"
#include "base/paths.h"
#include "models/resume.h"
#include "weights/state_file.h"

#define MAGIC "PENSEMB1"
#define SUFFIX ".embedding"
enum { DEFAULT_LIMIT = 256 << 20 };

/* A program that was built anew may compute other last bits. */
static uint64_t program_hash(uint64_t h)
{
    struct stat f;
    h = hash_more(h, PACKAGE_VERSION, sizeof PACKAGE_VERSION);
    if (stat("/proc/self/exe", &f) == 0) {
        uint64_t seen[2] = {(uint64_t)f.st_size, (uint64_t)f.st_mtime};
        h = hash_more(h, seen, sizeof seen);
    }
    return h;
}

embedding_key embedding_key_of(const engine *e, const char *component, uint64_t variant, const int32_t *ids, int count)
{
    const uint64_t numbers[] = {variant, e->request->precision, (uint64_t)count};
    uint64_t h = program_hash(model_hash(e->source));
    h = hash_more(h, component, strlen(component) + 1);
    h = hash_more(h, e->k->name, strlen(e->k->name) + 1);
    h = hash_more(h, numbers, sizeof numbers);
    size_t bytes = (size_t)count * sizeof *ids;
    return (embedding_key){hash_more(h, ids, bytes), hash_more(~h, ids, bytes)};
}

/* ---- what this process has ---- */

typedef struct kept {
    embedding_key key;
    embedding data;       /* one block, at tokens */
} kept;

struct embedding_store {
    kept *entry;
    int entries, room;
};

embedding_store *embedding_store_open(status *st) { return mem_alloc(1, sizeof(embedding_store), "embeddings", st); }

void embedding_store_close(embedding_store *s)
{
    for (int i = 0; s && i < s->entries; i++)
        mem_free(s->entry[i].data.tokens);
    if (s)
        mem_free(s->entry);
    mem_free(s);
}

static bool store_find(const embedding_store *s, embedding_key k, const embedding *out)
{
    for (int i = 0; s && i < s->entries; i++) {
        const embedding *d = &s->entry[i].data;
        if (s->entry[i].key.low != k.low || s->entry[i].key.high != k.high || d->token_floats != out->token_floats || d->pooled_floats != out->pooled_floats)
            continue;
        memcpy(out->tokens, d->tokens, d->token_floats * sizeof(float));
        if (d->pooled_floats)
            memcpy(out->pooled, d->pooled, d->pooled_floats * sizeof(float));
        return true;
    }
    return false;
}

static void store_keep(embedding_store *s, embedding_key k, const embedding *in)
{
    status ignored = STATUS_INIT;
    if (s->entries == s->room) {
        int room = s->room ? 2 * s->room : 16;
        kept *more = mem_resize(s->entry, (size_t)room, sizeof *more, "embeddings", &ignored);
        if (!more)
            return;
        s->entry = more;
        s->room = room;
    }
    size_t floats = in->token_floats + in->pooled_floats;
    float *data = mem_alloc(floats, sizeof(float), "embeddings", &ignored);
    if (!data)
        return;
    memcpy(data, in->tokens, in->token_floats * sizeof(float));
    if (in->pooled_floats)
        memcpy(data + in->token_floats, in->pooled, in->pooled_floats * sizeof(float));
    s->entry[s->entries++] = (kept){k, {data, data + in->token_floats, in->token_floats, in->pooled_floats}};
}

/* ---- what earlier ones have left on the disk ---- */

/* The caller frees; NULL where there is no cache. */
static char *path_of(embedding_key k)
{
    status ignored = STATUS_INIT;
    char *folder = paths_cache("embeddings", &ignored);
    char *path = folder ? mem_format(&ignored, "%s/%016" PRIx64 "%016" PRIx64 SUFFIX, folder, k.high, k.low) : NULL;
    mem_free(folder);
    return path;
}

static bool disk_find(embedding_key k, const embedding *out)
{
    status why = STATUS_INIT;
    char *path = path_of(k);
    state_file *f = path && access(path, R_OK) == 0 ? state_open(path, MAGIC, &why) : NULL;
    bool there = f != NULL;
    if (f) {
        uint64_t floats[2] = {0};
        bool fits = state_get(f, floats, sizeof floats) && floats[0] == out->token_floats && floats[1] == out->pooled_floats;
        there = fits && state_get(f, out->tokens, out->token_floats * sizeof(float)) && state_get(f, out->pooled, out->pooled_floats * sizeof(float));
        there = state_close(f) && there;
    }
    if (there)
        cache_touch(path);
    else if (path && why.code == STATUS_BAD_FILE)
        unlink(path);   /* torn or altered: nobody will want it */
    mem_free(path);
    return there;
}

static void disk_keep(embedding_key k, const embedding *in)
{
    status ignored = STATUS_INIT;
    uint64_t limit = environment_cache_limit(DEFAULT_LIMIT);
    uint64_t floats[2] = {in->token_floats, in->pooled_floats}, bytes = (floats[0] + floats[1]) * sizeof(float) + 64;
    char *path = bytes <= limit ? path_of(k) : NULL;
    if (path)
        cache_make_place(path, SUFFIX, bytes, limit);
    state_file *f = path ? state_create(path, MAGIC, &ignored) : NULL;
    if (f) {
        state_put(f, floats, sizeof floats);
        state_put(f, in->tokens, in->token_floats * sizeof(float));
        state_put(f, in->pooled, in->pooled_floats * sizeof(float));
        state_commit(f);
    }
    mem_free(path);
}

bool embedding_find(const engine *e, embedding_key k, const embedding *out)
{
    return store_find(e->request->store, k, out) || (e->request->cache && disk_find(k, out));
}

void embedding_keep(const engine *e, embedding_key k, const embedding *in)
{
    if (e->request->store)
        store_keep(e->request->store, k, in);
    if (e->request->cache)
        disk_keep(k, in);
}
