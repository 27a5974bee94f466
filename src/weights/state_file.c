#include "weights/state_file.h"

#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "base/output.h"
#include "weights/io.h"

enum { BLOCK = 16384 };

struct state_file {
    status *st;
    XXH3_state_t *hash;   /* while writing */
    output out;
    io *in;               /* while reading */
    uint64_t at, end;     /* end: of what the checksum covers */
};

static state_file *make(status *st)
{
    state_file *f = mem_alloc(1, sizeof *f, "state file", st);
    if (!f)
        return NULL;
    f->st = st;
    f->hash = XXH3_createState();
    if (f->hash) {
        XXH3_64bits_reset(f->hash);
        return f;
    }
    status_set(st, STATUS_FAILED, "state file: out of memory");
    mem_free(f);
    return NULL;
}

static void release(state_file *f)
{
    XXH3_freeState(f->hash);
    io_close(f->in);
    mem_free(f);
}

state_file *state_create(const char *path, const char *magic, status *st)
{
    state_file *f = make(st);
    if (!f)
        return NULL;
    if (!output_open(&f->out, path, st)) {
        release(f);
        return NULL;
    }
    char kind[STATE_MAGIC];
    memcpy(kind, magic, sizeof kind);
    state_put(f, kind, sizeof kind);
    return f;
}

bool state_put(void *file, void *data, size_t bytes)
{
    state_file *f = file;
    XXH3_64bits_update(f->hash, data, bytes);
    return output_write(&f->out, data, bytes, f->st);
}

bool state_commit(state_file *f)
{
    uint64_t sum = XXH3_64bits_digest(f->hash);
    output_write(&f->out, &sum, sizeof sum, f->st);
    bool ok = output_commit(&f->out, f->st);
    release(f);
    return ok;
}

static bool intact(state_file *f, const char *magic)
{
    uint8_t block[BLOCK];
    uint64_t sum, size = io_size(f->in);
    char kind[STATE_MAGIC] = {0};
    const char *name = io_name(f->in);
    if (size < sizeof kind + sizeof sum)
        return status_set(f->st, STATUS_BAD_FILE, "%s: is no checkpoint: it has %" PRIu64 " bytes", name, size);
    if (!io_read(f->in, 0, kind, sizeof kind, f->st))
        return false;
    if (memcmp(kind, magic, sizeof kind) != 0)
        return status_set(f->st, STATUS_BAD_FILE, "%s: is no checkpoint, or one of another version of penstock; without the file the run begins anew", name);
    f->at = sizeof kind;
    f->end = size - sizeof sum;
    for (uint64_t at = 0; at < f->end && status_ok(f->st); at += sizeof block) {
        size_t n = f->end - at < sizeof block ? (size_t)(f->end - at) : sizeof block;
        if (io_read(f->in, at, block, n, f->st))
            XXH3_64bits_update(f->hash, block, n);
    }
    if (status_ok(f->st) && io_read(f->in, f->end, &sum, sizeof sum, f->st) && sum != XXH3_64bits_digest(f->hash))
        return status_set(f->st, STATUS_BAD_FILE, "%s: does not match its checksum, the file is damaged", name);
    return status_ok(f->st);
}

state_file *state_open(const char *path, const char *magic, status *st)
{
    state_file *f = make(st);
    if (!f)
        return NULL;
    f->in = io_open(path, st);
    if (f->in && intact(f, magic))
        return f;
    release(f);
    return NULL;
}

bool state_get(void *file, void *data, size_t bytes)
{
    state_file *f = file;
    if (bytes > f->end - f->at)
        return status_set(f->st, STATUS_BAD_FILE, "%s: is too short for what it should hold", io_name(f->in));
    if (!io_read(f->in, f->at, data, bytes, f->st))
        return false;
    f->at += bytes;
    return true;
}

void state_drop(state_file *f) { release(f); }

bool state_close(state_file *f)
{
    bool ok = status_ok(f->st) && (f->at == f->end || status_set(f->st, STATUS_BAD_FILE, "%s: is longer than what it should hold", io_name(f->in)));
    release(f);
    return ok;
}
