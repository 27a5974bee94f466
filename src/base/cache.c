#define _GNU_SOURCE /* st_mtim */
#include "base/cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

enum { STALE_SECONDS = 3600 };

void cache_touch(const char *path) { utimensat(AT_FDCWD, path, NULL, 0); }

typedef struct oldest {
    char name[256];
    struct timespec used;
} oldest;

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static bool half_written(const char *name, const char *suffix)
{
    const char *at = strstr(name, ".part-");
    size_t n = at ? (size_t)(at - name) : 0, m = strlen(suffix);
    return n >= m && strncmp(name + n - m, suffix, m) == 0;
}

/* Bytes of all entries, and the one that was not used for longest (but for `keep`). */
static uint64_t survey(int folder, const char *suffix, const char *keep, oldest *o)
{
    uint64_t sum = 0;
    *o = (oldest){.used = {.tv_sec = INT64_MAX >> 8}};
    int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat f;
        if (*e->d_name == '.' || strlen(e->d_name) >= sizeof o->name || fstatat(folder, e->d_name, &f, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(f.st_mode))
            continue;
        if (!ends_in(e->d_name, suffix)) {
            if (half_written(e->d_name, suffix) && f.st_mtime < time(NULL) - STALE_SECONDS)
                unlinkat(folder, e->d_name, 0);
            continue;
        }
        sum += (uint64_t)f.st_size;
        bool older = f.st_mtim.tv_sec < o->used.tv_sec || (f.st_mtim.tv_sec == o->used.tv_sec && f.st_mtim.tv_nsec < o->used.tv_nsec);
        if (older && strcmp(e->d_name, keep) != 0) {
            snprintf(o->name, sizeof o->name, "%s", e->d_name);
            o->used = f.st_mtim;
        }
    }
    if (d)
        closedir(d);
    else if (copy >= 0)
        close(copy);
    return sum;
}

void cache_make_place(const char *path, const char *suffix, uint64_t bytes, uint64_t limit)
{
    status ignored = STATUS_INIT;
    char *folder = mem_string(path, &ignored);
    if (!folder)
        return;
    char *slash = strrchr(folder, '/');
    *slash = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    oldest o;
    while (fd >= 0 && survey(fd, suffix, slash + 1, &o) + bytes > limit && *o.name)
        if (unlinkat(fd, o.name, 0) != 0)
            break;
    if (fd >= 0)
        close(fd);
    mem_free(folder);
}
