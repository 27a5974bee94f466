#include "base/paths.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

/* The folder of the running program; empty when /proc is not there. */
static void program_folder(char *out, size_t room)
{
    ssize_t n = readlink("/proc/self/exe", out, room - 1);
    out[n < 0 ? 0 : n] = 0;
    char *slash = strrchr(out, '/');
    if (slash)
        *slash = 0;
    else
        *out = 0;
}

static char *existing(const char *folder, const char *between, const char *name, status *st)
{
    char *path = mem_format(st, "%s%s%s", folder, between, name);
    if (path && access(path, R_OK) == 0)
        return path;
    mem_free(path);
    return NULL;
}

char *paths_data(const char *name, status *st)
{
    char folder[PATH_MAX];
    program_folder(folder, sizeof folder);
    char *path = NULL;
    if (*folder) {
        path = existing(folder, "/share/", name, st);
        if (!path)
            path = existing(folder, "/../share/penstock/", name, st);
    }
    return path ? path : existing(DATADIR, "/", name, st);
}

char *paths_model(status *st)
{
    const char *named = getenv("PENSTOCK_MODEL");
    if (named && *named)
        return mem_string(named, st);
    char *path = paths_data("penstock-small.penstock", st);
    if (!path)
        status_set(st, STATUS_BAD_FILE, "penstock-small.penstock: missing: name a model with -m MODEL or PENSTOCK_MODEL");
    return path;
}

char *paths_cache(const char *name, status *st)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const char *slash = *name ? "/" : "";
    char *path = NULL;
    if (cache && *cache == '/')
        path = mem_format(st, "%s/penstock%s%s", cache, slash, name);
    else if (home && *home)
        path = mem_format(st, "%s/.cache/penstock%s%s", home, slash, name);
    for (char *c = path ? path + 1 : NULL; c && *c; c++)
        if (*c == '/') {
            *c = 0;
            mkdir(path, 0700);
            *c = '/';
        }
    if (path)
        mkdir(path, 0700);
    return path;
}
