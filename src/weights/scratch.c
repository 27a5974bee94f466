#define _GNU_SOURCE
#include "weights/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/paths.h"

enum { TMPFS = 0x01021994, PAGE = 4096 };

struct scratch_file {
    int fd;
};

static char *default_folder(status *st)
{
    char *path = paths_cache("", st);
    return path || !status_ok(st) ? path : mem_string("/var/tmp", st);
}

static int open_unlinked(const char *folder, status *st)
{
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    char *name = fd < 0 ? mem_format(st, "%s/scratch-XXXXXX", folder) : NULL;
    if (name) {
        fd = mkostemp(name, O_CLOEXEC);
        if (fd >= 0)
            unlink(name);
        mem_free(name);
    }
    return fd;
}

scratch_file *scratch_open(const char *folder, uint64_t bytes, status *st)
{
    char *where = folder ? mem_string(folder, st) : default_folder(st);
    scratch_file *s = where ? mem_alloc(1, sizeof *s, "scratch", st) : NULL;
    struct statfs fs;
    if (s && (s->fd = open_unlinked(where, st)) < 0)
        status_set(st, STATUS_FAILED, "scratch: %s: %s", where, strerror(errno));
    else if (s && fstatfs(s->fd, &fs) == 0 && fs.f_type == TMPFS)
        status_set(st, STATUS_USAGE, "scratch: %s is a tmpfs, its pages are memory; name a folder on a disk with --scratch", where);
    else if (s && (errno = posix_fallocate(s->fd, 0, (off_t)bytes)) != 0)
        status_set(st, STATUS_FAILED, "scratch: %s: no room for %llu MB: %s", where, (unsigned long long)(bytes >> 20), strerror(errno));
    mem_free(where);
    if (status_ok(st)) {
        posix_fadvise(s->fd, 0, 0, POSIX_FADV_RANDOM); /* what read-ahead brings nobody would drop: it took 230 MB of a budget of 160 */
        return s;
    }
    scratch_close(s);
    return NULL;
}

void scratch_close(scratch_file *s)
{
    if (s && s->fd >= 0)
        close(s->fd);
    mem_free(s);
}

static void forget(int fd, uint64_t offset, size_t bytes)
{
    uint64_t page = offset / PAGE * PAGE;
    posix_fadvise(fd, (off_t)page, (off_t)(offset + bytes - page + PAGE), POSIX_FADV_DONTNEED);
}

bool scratch_write(scratch_file *s, uint64_t offset, const void *data, size_t bytes, status *st)
{
    const char *from = data;
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(s->fd, from + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return status_set(st, STATUS_FAILED, "scratch: writing: %s", n ? strerror(errno) : "the disk is full");
        done += (size_t)n;
    }
    sync_file_range(s->fd, (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    forget(s->fd, offset, bytes); /* only written pages can be dropped */
    return true;
}

bool scratch_read(scratch_file *s, uint64_t offset, void *out, size_t bytes, status *st)
{
    char *to = out;
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(s->fd, to + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return status_set(st, STATUS_FAILED, "scratch: reading: %s", n ? strerror(errno) : "ends too early");
        done += (size_t)n;
    }
    forget(s->fd, offset, bytes);
    return true;
}
