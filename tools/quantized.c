#include "tools/quantized.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cache.h"
#include "base/environment.h"
#include "base/mem.h"
#include "base/paths.h"
#include "models/resume.h"
#include "weights/pack.h"

#define SUFFIX ".penstock"
static const uint64_t default_limit = (uint64_t)32 << 30;

/* .../models/NAME-q4-HASH.penstock: of these weights, made by this version. The caller frees. */
static char *container_name(const source *s, const char *type, status *st)
{
    const int version = PACK_VERSION;
    uint64_t h = hash_more(model_hash(s), &version, sizeof version);
    h = hash_more(hash_more(h, PACKAGE_VERSION, strlen(PACKAGE_VERSION)), type, strlen(type));
    char *folder = paths_cache("models", st), *path = NULL, name[64];
    size_t length = strlen(s->path);
    while (length > 1 && s->path[length - 1] == '/')
        length--;
    size_t begin = length;
    while (begin > 0 && s->path[begin - 1] != '/')
        begin--;
    snprintf(name, sizeof name, "%.*s", (int)(length - begin), s->path + begin);
    if (folder)
        path = mem_format(st, "%s/%s-%s-%016" PRIx64 SUFFIX, folder, name, type, h);
    else if (status_ok(st))
        status_set(st, STATUS_FAILED, "--type: the environment names no folder for a cache (XDG_CACHE_HOME, HOME)");
    mem_free(folder);
    return path;
}

/* What stands there and can be opened. */
static source *open_kept(const char *path)
{
    status why = STATUS_INIT;
    source *s = access(path, F_OK) == 0 ? source_open(path, &why) : NULL;
    if (s)
        cache_touch(path);
    return s;
}

static source *make(const options *o, const char *from, const char *path, status *st)
{
    const char *argument[] = {from};
    options job = *o;
    job.model = NULL;
    job.argument = (text_list){1, argument};
    job.tensor_type = job.component = (text_list){0};
    job.output = path;
    if (!o->quiet)
        fprintf(stderr, "penstock: %s: quantizing to %s, once, into %s\n", from, o->type, path);
    cache_make_place(path, SUFFIX, 0, environment_models_limit(default_limit));
    source *s = cmd_quantize(&job, st) ? source_open(path, st) : NULL;
    cache_make_place(path, SUFFIX, 0, environment_models_limit(default_limit));
    return s;
}

source *open_quantized(const options *o, source *folder, status *st)
{
    if (!o->type || !folder)
        return folder;
    source *s = NULL;
    char *from = mem_string(folder->path, st), *path = NULL;
    if (folder->container)
        status_set(st, STATUS_USAGE, "--type: %s is a container, its types are what they are; quantize a folder", folder->path);
    else if (o->no_cache)
        status_set(st, STATUS_USAGE, "--type: keeps what it quantizes in the cache, which --no-cache forbids; see penstock quantize");
    else if (from)
        path = container_name(folder, o->type, st);
    source_close(folder);
    if (path)
        s = open_kept(path);
    if (path && !s)
        s = make(o, from, path, st);
    mem_free(from);
    mem_free(path);
    return s;
}
