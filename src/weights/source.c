#define _POSIX_C_SOURCE 200809L
#include "weights/source.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/mem.h"

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* By its first bytes; a name that promises one is taken at its word, so that the reader says what is wrong. */
static bool is_single(const char *path, const uint8_t *first, size_t bytes)
{
    static const char *const ends[] = {".safetensors", ".ckpt", ".pth", ".pt", ".bin", ".gguf"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_in(path, ends[i]))
            return true;
    return (bytes >= 4 && memcmp(first, "GGUF", 4) == 0) || (bytes >= 4 && memcmp(first, "PK\3\4", 4) == 0) ||
           (bytes >= 2 && first[0] == 0x80 && first[1] >= 1 && first[1] <= 5) || (bytes >= 9 && first[8] == '{');
}

static source *open_single(const char *path, status *st)
{
    uint8_t first[16] = {0};
    io *f = io_open(path, st);
    if (!f)
        return NULL;
    size_t bytes = io_size(f) < sizeof first ? (size_t)io_size(f) : sizeof first;
    bool ok = io_read(f, 0, first, bytes, st);
    io_close(f);
    if (!ok)
        return NULL;
    if (bytes >= 8 && memcmp(first, "PENSTOCK", 8) == 0)
        return source_open_pack(path, st);
    if (is_single(path, first, bytes))
        return source_open_single(path, st);
    status_set(st, STATUS_BAD_FILE, "%s: is neither a .penstock container nor a model folder nor a checkpoint (safetensors, torch, GGUF)", path);
    return NULL;
}

source *source_open(const char *path, status *st)
{
    struct stat s;
    if (stat(path, &s) != 0) {
        if (errno == ENOENT)
            status_set(st, STATUS_BAD_FILE, "%s: no such file or folder; a model is a .penstock container, a diffusers folder, a checkpoint or a GGUF", path);
        else
            status_set(st, STATUS_BAD_FILE, "%s: cannot open: %s", path, strerror(errno));
        return NULL;
    }
    return S_ISDIR(s.st_mode) ? source_open_folder(path, st) : open_single(path, st);
}

void source_close(source *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->files && !s->part; i++)
        io_close(s->file[i]);
    mem_free(s->memory);
    mem_free(s->path);
    mem_free(s);
}

/* A name without the folder, or NULL where it lies elsewhere. */
static const char *inside(const char *name, const char *folder)
{
    size_t n = strlen(folder);
    return strncmp(name, folder, n) == 0 && name[n] == '/' ? name + n + 1 : NULL;
}

source *source_part(const source *s, const char *folder, status *st)
{
    int weights = 0, components = 0, blobs = 0;
    for (int i = 0; i < s->weights; i++)
        weights += inside(s->weight[i].component, folder) != NULL;
    for (int i = 0; i < s->components; i++)
        components += inside(s->component[i], folder) != NULL;
    for (int i = 0; i < s->blobs; i++)
        blobs += inside(s->blob[i].name, folder) != NULL;
    if (!components)
        return NULL;
    source *p = mem_alloc(1, sizeof *p, "source", st);
    if (!p)
        return NULL;
    *p = *s;
    p->part = true;
    p->path = mem_format(st, "%s/%s", s->path, folder);
    p->memory = p->path ? mem_alloc(1, (size_t)weights * sizeof *p->weight + (size_t)blobs * sizeof *p->blob + (size_t)components * sizeof *p->component, "source", st) : NULL;
    if (!p->memory) {
        source_close(p);
        return NULL;
    }
    p->weight = p->memory;
    p->blob = (source_blob *)(void *)(p->weight + weights);
    p->component = (const char **)(void *)(p->blob + blobs);
    p->weights = p->components = p->blobs = 0;
    p->hash = XXH3_64bits_withSeed(folder, strlen(folder), s->hash);
    for (int i = 0; i < s->weights; i++)
        if (inside(s->weight[i].component, folder)) {
            p->weight[p->weights] = s->weight[i];
            p->weight[p->weights++].component += strlen(folder) + 1;
        }
    for (int i = 0; i < s->components; i++)
        if (inside(s->component[i], folder))
            p->component[p->components++] = inside(s->component[i], folder);
    for (int i = 0; i < s->blobs; i++)
        if (inside(s->blob[i].name, folder)) {
            p->blob[p->blobs] = s->blob[i];
            p->blob[p->blobs++].name += strlen(folder) + 1;
        }
    return p;
}

/* The first weight that does not stand before (component, name). */
static int lower_bound(const source *s, const char *component, const char *name)
{
    int low = 0, high = s->weights;
    while (low < high) {
        int middle = low + (high - low) / 2;
        const weight *w = &s->weight[middle];
        int c = strcmp(w->component, component);
        if (c == 0)
            c = strcmp(w->name, name);
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const weight *source_find(const source *s, const char *component, const char *name)
{
    int i = lower_bound(s, component, name);
    if (i == s->weights)
        return NULL;
    const weight *w = &s->weight[i];
    return strcmp(w->component, component) == 0 && strcmp(w->name, name) == 0 ? w : NULL;
}

bool source_has_component(const source *s, const char *component)
{
    for (int i = 0; i < s->components; i++)
        if (strcmp(s->component[i], component) == 0)
            return true;
    return false;
}

bool source_lacks_weights(const source *s, const char *component)
{
    int i = lower_bound(s, component, ""); /* no name stands before the empty one */
    return source_has_component(s, component) && (i == s->weights || strcmp(s->weight[i].component, component) != 0);
}

static const source_blob *find_blob(const source *s, const char *name)
{
    int low = 0, high = s->blobs - 1;
    while (low <= high) {
        int middle = low + (high - low) / 2;
        int c = strcmp(s->blob[middle].name, name);
        if (c == 0)
            return &s->blob[middle];
        if (c < 0)
            low = middle + 1;
        else
            high = middle - 1;
    }
    return NULL;
}

static char *read_bytes(io *f, const char *shown, uint64_t offset, uint64_t bytes, size_t most, status *st)
{
    if (bytes > most) {
        status_set(st, STATUS_BAD_FILE, "%s: has %" PRIu64 " bytes, at most %zu are read", shown, bytes, most);
        return NULL;
    }
    char *text = mem_alloc((size_t)bytes + 1, 1, shown, st);
    if (text && io_read(f, offset, text, (size_t)bytes, st))
        return text;
    mem_free(text);
    return NULL;
}

static char *read_from_folder(const char *path, size_t most, size_t *bytes, status *st)
{
    io *f = io_open(path, st);
    char *text = f ? read_bytes(f, path, 0, io_size(f), most, st) : NULL;
    if (text)
        *bytes = (size_t)io_size(f);
    io_close(f);
    return text;
}

/* A container's file must be what was written. Only whole extents have a checksum, and a small file may share one. */
static bool extent_intact(const source *s, const source_blob *b, const char *shown, status *st)
{
    const extent *e = &s->extent[b->extent];
    char piece[16384];
    XXH3_state_t *hash = XXH3_createState();
    if (!hash)
        return status_set(st, STATUS_FAILED, "%s: out of memory", shown);
    bool ok = XXH3_64bits_reset(hash) == XXH_OK;
    for (uint64_t at = 0; ok && at < e->bytes; at += sizeof piece) {
        size_t n = e->bytes - at < sizeof piece ? (size_t)(e->bytes - at) : sizeof piece;
        ok = io_read(s->file[e->file], e->offset + at, piece, n, st);
        if (ok)
            XXH3_64bits_update(hash, piece, n);
    }
    uint64_t found = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    if (ok && found != e->xxh3)
        return status_set(st, STATUS_BAD_FILE, "%s: its bytes do not match their checksum, the file is damaged", shown);
    return ok;
}

char *source_read_blob(const source *s, const char *name, size_t most, bool optional, size_t *bytes, status *st)
{
    *bytes = 0;
    const source_blob *b = find_blob(s, name);
    if (!b) {
        int stem = (int)strlen(s->path) - (strrchr(s->path, '.') ? (int)strlen(strrchr(s->path, '.')) : 0);
        if (!optional && s->single)
            status_set(st, STATUS_BAD_FILE, "%s: brings no %s, and there is no %.*s/%s", s->path, name, stem, s->path, name);
        else if (!optional)
            status_set(st, STATUS_BAD_FILE, "%s/%s: missing", s->path, name);
        return NULL;
    }
    char *path = b->path ? mem_string(b->path, st) : mem_format(st, "%s/%s", s->path, name), *text = NULL;
    if (path && b->file < 0) {
        text = read_from_folder(path, most, bytes, st);
    } else if (path && (b->extent < 0 || extent_intact(s, b, path, st))) {
        text = read_bytes(s->file[b->file], path, b->offset, b->bytes, most, st);
        *bytes = text ? (size_t)b->bytes : 0;
    }
    mem_free(path);
    return text;
}
