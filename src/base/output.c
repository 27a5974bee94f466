#define _GNU_SOURCE /* sync_file_range, O_TMPFILE */
#include "base/output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

/* A signal handler may only read this; a slot is taken and given back with one atomic store each. */
enum { SLOTS = 16 };
static _Atomic(const char *) unfinished[SLOTS];

/* A slot for `part`, which must live until it is forgotten; -1: the list is full. */
static int remember(const char *part)
{
    for (int i = 0; i < SLOTS; i++) {
        const char *free_slot = NULL;
        if (atomic_compare_exchange_strong(&unfinished[i], &free_slot, part))
            return i;
    }
    return -1;
}

static void forget(int slot)
{
    if (slot >= 0)
        atomic_store(&unfinished[slot], NULL);
}

void output_remove_unfinished(void)
{
    for (int i = 0; i < SLOTS; i++) {
        const char *name = atomic_load(&unfinished[i]);
        if (name)
            unlink(name);
    }
}

static bool fail(output *o, status *st, int error)
{
    o->failed = true;
    return status_set(st, STATUS_FAILED, "%s: cannot be written: %s", o->path, strerror(error));
}

/* Where the bytes go: a link is followed, so that the file behind it is replaced and not the link. */
static bool choose_names(output *o, const char *path, status *st)
{
    struct stat there;
    char resolved[PATH_MAX];
    bool exists = stat(path, &there) == 0;
    if (exists && S_ISDIR(there.st_mode))
        return status_set(st, STATUS_FAILED, "%s: cannot be written: it is a folder", path);
    bool in_place = exists && !S_ISREG(there.st_mode);
    if (exists && !in_place && realpath(path, resolved))
        path = resolved;
    o->path = mem_string(path, st);
    if (o->path && !in_place)
        o->part = mem_format(st, "%s.part-%ld", path, (long)getpid());
    return o->path && (in_place || o->part);
}

static void release(output *o)
{
    forget(o->slot);
    mem_free(o->path);
    mem_free(o->part);
    *o = (output){.fd = -1, .slot = -1, .failed = true};
}

/* A file without a name in the folder of PATH, or -1 where that cannot be had: file systems differ, and the name is given by way of /proc. */
static int open_unnamed(const char *path)
{
#ifdef O_TMPFILE
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) + 1 : 1;
    if (n >= sizeof folder || access("/proc/self/fd", X_OK) != 0)
        return -1;
    memcpy(folder, slash ? path : ".", n);
    folder[n] = 0;
    return open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
#else
    (void)path;
    return -1;
#endif
}

/* Its first name, from which it is renamed over what may stand at its last. */
static bool give_name(const output *o)
{
    char proc[40];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", o->fd);
    unlink(o->part); /* of a process that had our number, and was killed */
    return linkat(AT_FDCWD, proc, AT_FDCWD, o->part, AT_SYMLINK_FOLLOW) == 0;
}

bool output_open(output *o, const char *path, status *st)
{
    *o = (output){.fd = -1, .slot = -1};
    if (!choose_names(o, path, st)) {
        release(o);
        return false;
    }
    if (o->part)
        o->slot = remember(o->part);
    int flags = O_WRONLY | O_CLOEXEC | (o->part ? O_CREAT | O_TRUNC : 0);
    o->fd = o->part ? open_unnamed(o->path) : -1;
    o->unnamed = o->fd >= 0;
    if (!o->unnamed)
        o->fd = open(o->part ? o->part : o->path, flags, 0666);
    if (o->fd < 0) {
        fail(o, st, errno);
        release(o);
        return false;
    }
    return true;
}

bool output_write(output *o, const void *data, size_t bytes, status *st)
{
    const char *p = data;
    while (bytes > 0 && !o->failed) {
        ssize_t n = write(o->fd, p, bytes < (1u << 30) ? bytes : 1u << 30);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(o, st, errno);
        p += n;
        bytes -= (size_t)n;
        o->bytes += (uint64_t)n;
    }
    return !o->failed;
}

/* Pages of ours in the page cache count against the budget. Only clean ones can be dropped. */
static void leave_page_cache(int fd)
{
#ifdef SYNC_FILE_RANGE_WRITE
    sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
#endif
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

bool output_commit(output *o, status *st)
{
    if (o->fd < 0)
        return false;
    if (!o->failed && status_ok(st)) {
        if (o->part)
            leave_page_cache(o->fd);
        bool named = !o->unnamed || give_name(o);
        int fd = o->fd, why = errno;
        o->fd = -1;
        if (!named) {
            close(fd);
            fail(o, st, why);
        } else if (close(fd) != 0)   /* network file systems and quotas report here */
            fail(o, st, errno);
        else if (o->part && rename(o->part, o->path) != 0)
            fail(o, st, errno);
        else {
            release(o);
            return true;
        }
    }
    output_abort(o);
    return false;
}

void output_abort(output *o)
{
    if (o->fd >= 0)
        close(o->fd);
    if (o->part)
        unlink(o->part);
    release(o);
}

bool output_check(const char *path, status *st)
{
    output o;
    struct stat there;
    if (stat(path, &there) == 0 && S_ISFIFO(there.st_mode))
        return true;   /* opening it would wait for a reader */
    if (!output_open(&o, path, st))
        return false;
    output_abort(&o);
    return true;
}
