#define _GNU_SOURCE
#include "weights/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

struct io {
    char *name;
    uint64_t size;
    int fd, direct_fd;        /* direct_fd: -1 where the file system has no direct I/O */
    const io_vtable *v;       /* of a custom file; NULL: a real one */
    void *ctx;
    const uint8_t *map;
    _Atomic uint64_t bytes_read;
};

static int64_t file_read(void *ctx, uint64_t offset, void *out, size_t bytes)
{
    return pread(((io *)ctx)->fd, out, bytes, (off_t)offset);
}

io *io_open(const char *path, status *st)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        status_set(st, STATUS_BAD_FILE, "%s: %s", path, errno == ENOENT ? "no such file" : strerror(errno));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    io *f = S_ISREG(info.st_mode) ? mem_alloc(1, sizeof *f, path, st) : NULL;
    if (!S_ISREG(info.st_mode))
        status_set(st, STATUS_BAD_FILE, "%s: is not a regular file", path);
    char *name = f ? mem_string(path, st) : NULL;
    if (!name) {
        mem_free(f);
        close(fd);
        return NULL;
    }
    f->name = name;
    f->size = (uint64_t)info.st_size;
    f->fd = fd;
    f->direct_fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* we say what to read; read-ahead would be memory that nobody planned */
    return f;
}

io *io_custom(const char *name, uint64_t size, const io_vtable *v, void *ctx, status *st)
{
    io *f = mem_alloc(1, sizeof *f, name, st);
    char *copy = f ? mem_string(name, st) : NULL;
    if (!copy) {
        mem_free(f);
        return NULL;
    }
    *f = (io){.name = copy, .size = size, .fd = -1, .direct_fd = -1, .v = v, .ctx = ctx};
    return f;
}

void io_close(io *f)
{
    if (!f)
        return;
    if (f->map)
        munmap((void *)(uintptr_t)f->map, f->size);
    if (f->fd >= 0)
        close(f->fd);
    if (f->direct_fd >= 0)
        close(f->direct_fd);
    if (f->v && f->v->close)
        f->v->close(f->ctx);
    mem_free(f->name);
    mem_free(f);
}

const char *io_name(const io *f) { return f->name; }
uint64_t io_size(const io *f) { return f->size; }
uint64_t io_bytes_read(const io *f) { return atomic_load(&f->bytes_read); }
void io_count_mapped(io *f, uint64_t bytes) { atomic_fetch_add(&f->bytes_read, bytes); }

static bool failed(const io *f, uint64_t offset, status *st)
{
    return status_set(st, STATUS_BAD_FILE, "%s: reading at %" PRIu64 ": %s", f->name, offset, strerror(errno));
}

bool io_read(io *f, uint64_t offset, void *out, size_t bytes, status *st)
{
    uint64_t at = offset;
    char *to = out;
    for (size_t left = bytes; left > 0;) {
        int64_t n = f->v ? f->v->read(f->ctx, at, to, left) : file_read(f, at, to, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return failed(f, at, st);
        if (n == 0)
            return status_set(st, STATUS_BAD_FILE, "%s: ends at %" PRIu64 ", %" PRIu64 " was expected", f->name, at, offset + bytes);
        at += (uint64_t)n;
        to += n;
        left -= (size_t)n;
    }
    atomic_fetch_add(&f->bytes_read, bytes);
    if (f->fd >= 0 && !f->map) {
        uint64_t page = offset / IO_ALIGN * IO_ALIGN; /* whole pages, or the kernel keeps the ends */
        posix_fadvise(f->fd, (off_t)page, (off_t)(offset + bytes - page + IO_ALIGN), POSIX_FADV_DONTNEED);
    }
    return true;
}

bool io_read_direct(io *f, uint64_t offset, void *out, size_t bytes, size_t *got, status *st)
{
    *got = offset >= f->size ? 0 : f->size - offset < bytes ? (size_t)(f->size - offset) : bytes;
    char *to = out;
    size_t done = 0;
    while (f->direct_fd >= 0 && done < *got) {
        ssize_t n = pread(f->direct_fd, to + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EINVAL)
            return failed(f, offset + done, st);
        if (n <= 0)
            break;            /* refused here, or shrunk: the buffered read tells which */
        done += (size_t)n;
        atomic_fetch_add(&f->bytes_read, (uint64_t)n);
        if (done < *got && done % IO_ALIGN)
            break;            /* a short read that direct I/O cannot continue from */
    }
    if (done >= *got)
        return true;
    return io_read(f, offset + done, to + done, *got - done, st);
}

const uint8_t *io_map(io *f, status *st)
{
    if (f->map)
        return f->map;
    void *p = f->fd >= 0 && f->size ? mmap(NULL, f->size, PROT_READ, MAP_SHARED, f->fd, 0) : MAP_FAILED;
    if (p == MAP_FAILED) {
        status_set(st, STATUS_FAILED, "%s: cannot be mapped: %s", f->name, f->fd < 0 ? "not a real file" : strerror(errno));
        return NULL;
    }
    posix_fadvise(f->fd, 0, 0, POSIX_FADV_NORMAL);
    return f->map = p;
}
