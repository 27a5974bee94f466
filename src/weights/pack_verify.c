/* Every byte of a container is under a checksum or must be 0, so that an altered one never passes. */
#define XXH_STATIC_LINKING_ONLY
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "weights/pack_format.h"

enum { PIECE = 1 << 20, NAMED = 3 };

typedef struct verifier {
    XXH3_state_t hash;
    const source *s;
    uint8_t *piece;
    uint64_t done, all;
    pack_progress progress;
    void *ctx;
} verifier;

static void tell(verifier *v, uint64_t bytes)
{
    v->done += bytes;
    if (v->progress)
        v->progress(v->ctx, v->done, v->all);
}

/* What lies in extent number e, the first few by name. */
static void names_of(const source *s, int e, char *out, size_t room)
{
    int found = 0;
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < s->weights; i++)
        for (int k = 0; k < s->weight[i].parts; k++)
            if (s->weight[i].part[k].extent == e && found++ < NAMED && n < room) {
                const weight *w = &s->weight[i];
                n += (size_t)snprintf(out + n, room - n, "%s%s%s%s", n ? ", " : "tensor ", w->component, w->component[0] ? "/" : "", w->name);
                if (w->parts > 1 && n < room)
                    n += (size_t)snprintf(out + n, room - n, " (rows from %" PRId64 ")", w->part[k].first_row);
            }
    for (int i = 0; i < s->blobs; i++)
        if (s->blob[i].extent == e && found++ < NAMED && n < room)
            n += (size_t)snprintf(out + n, room - n, "%s%s", n ? ", " : "file ", s->blob[i].name);
    if (found > NAMED && n < room)
        snprintf(out + n, room - n, " or one of %d others", found - NAMED);
}

static bool check_extent(verifier *v, int i, status *st)
{
    const extent *e = &v->s->extent[i];
    XXH3_64bits_reset(&v->hash);
    for (uint64_t done = 0; done < e->bytes;) {
        size_t n = e->bytes - done < PIECE ? (size_t)(e->bytes - done) : PIECE;
        if (!io_read(v->s->file[e->file], e->offset + done, v->piece, n, st))
            return false;
        XXH3_64bits_update(&v->hash, v->piece, n);
        done += n;
        tell(v, n);
    }
    if (XXH3_64bits_digest(&v->hash) == e->xxh3)
        return true;
    char names[320];
    names_of(v->s, i, names, sizeof names);
    return status_set(st, STATUS_BAD_FILE, "%s: checksum of %s is wrong: the file was altered", v->s->path, names);
}

static bool check_zeros(verifier *v, uint64_t from, uint64_t to, status *st)
{
    while (from < to) {
        size_t n = to - from < PIECE ? (size_t)(to - from) : PIECE;
        if (!io_read(v->s->file[0], from, v->piece, n, st))
            return false;
        for (size_t i = 0; i < n; i++)
            if (v->piece[i])
                return status_set(st, STATUS_BAD_FILE, "%s: byte %" PRIu64 ", which belongs to nothing, is not 0: the file was altered", v->s->path,
                                  from + i);
        from += n;
    }
    return true;
}

static bool check_all(verifier *v, status *st)
{
    uint8_t b[PACK_PREAMBLE_BYTES];
    if (!io_read(v->s->file[0], 0, b, sizeof b, st))
        return false;
    uint64_t end = PACK_PREAMBLE_BYTES;
    for (int i = 0; i < v->s->extents; i++) {
        const extent *e = &v->s->extent[i];
        if (!check_zeros(v, end, e->offset, st) || !check_extent(v, i, st))
            return false;
        end = e->offset + e->bytes;
    }
    return check_zeros(v, end, get_le(b + AT_HEADER_OFFSET, 8), st);
}

bool pack_verify(const source *s, pack_progress progress, void *ctx, status *st)
{
    if (!s->container)
        return status_set(st, STATUS_USAGE, "%s: a folder has no checksums, only a container has", s->path);
    verifier *v = mem_alloc(1, sizeof *v, "verify", st);
    uint8_t *piece = v ? mem_alloc(PIECE, 1, "verify", st) : NULL;
    bool ok = false;
    if (piece) {
        v->s = s;
        v->piece = piece;
        v->progress = progress;
        v->ctx = ctx;
        for (int i = 0; i < s->extents; i++)
            v->all += s->extent[i].bytes;
        XXH3_INITSTATE(&v->hash);
        ok = check_all(v, st);
    }
    mem_free(piece);
    mem_free(v);
    return ok;
}
