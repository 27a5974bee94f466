#ifdef __linux__
#define _GNU_SOURCE /* O_DIRECT */
#else
#define _POSIX_C_SOURCE 200809L
#endif
#include "weights/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/environment.h"
#include "base/map_guard.h"
#include "base/mem.h"

/* Buffered reads go through the page cache, whose pages count against the budget (and against a cgroup's limit) until they
 * are dropped. So a large read goes in pieces, each dropped before the next one is asked for. */
enum { PIECE = 512 << 10 };

enum { DIRECT_UNTRIED = 0, DIRECT_WORKS, DIRECT_REFUSED };

enum { NO_TAIL = 1 }; /* never a page's offset */

struct io {
    char *name;
    uint64_t size;
    uint64_t modified;
    int fd;                   /* -1: made of functions */
    int direct_fd;            /* -1 until a direct read asks for it */
    _Atomic int direct;
    io_vtable v;
    void *ctx;
    pthread_mutex_t lock;     /* guards the opening of direct_fd and the mapping */
    _Atomic(const uint8_t *) map;
    int guard;                /* of the mapping */
    uint64_t page;            /* of the page cache */
    _Atomic uint64_t tail;    /* the page that the last buffered read ended within */
    _Atomic uint64_t bytes_read;
};

/* ---- failures on purpose ---- */

static _Atomic long fail_at;
static _Atomic int fail_error;
static _Atomic size_t most_at_once;

void io_fail_at(long n, int error)
{
    atomic_store(&fail_error, error);
    atomic_store(&fail_at, n);
}

long io_fail_left(void) { return atomic_load(&fail_at); }
void io_short_reads(size_t most) { atomic_store(&most_at_once, most); }

static bool told_to_fail(void)
{
    if (atomic_load(&fail_at) == 0 || atomic_fetch_sub(&fail_at, 1) != 1)
        return false;
    errno = atomic_load(&fail_error);
    return true;
}

static size_t shortened(size_t bytes)
{
    size_t most = atomic_load(&most_at_once);
    return most && bytes > most ? most : bytes;
}

static io *make(const char *name, uint64_t size, status *st)
{
    io *f = mem_alloc(1, sizeof *f, name, st);
    if (!f)
        return NULL;
    f->fd = f->direct_fd = f->guard = -1;
    f->size = size;
    f->name = mem_string(name, st);
    if (!f->name) {
        mem_free(f);
        return NULL;
    }
    long page = sysconf(_SC_PAGESIZE);
    f->page = page > 0 ? (uint64_t)page : 4096;
    atomic_init(&f->tail, NO_TAIL);
    pthread_mutex_init(&f->lock, NULL);
    return f;
}

/* What is wrong with the machine at the moment is no fault of the file. */
static status_code code_of(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM ? STATUS_FAILED : STATUS_BAD_FILE;
}

static int open_retrying(const char *path, int flags)
{
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC | O_NONBLOCK); /* O_NONBLOCK: a FIFO in place of a file must not hang us */
    while (fd < 0 && errno == EINTR);
    return fd;
}

static uint64_t modified_of(const struct stat *s)
{
#ifdef __APPLE__
    return (uint64_t)s->st_mtimespec.tv_sec * 1000000000u + (uint64_t)s->st_mtimespec.tv_nsec;
#else
    return (uint64_t)s->st_mtim.tv_sec * 1000000000u + (uint64_t)s->st_mtim.tv_nsec;
#endif
}

io *io_open(const char *path, status *st)
{
    struct stat s;
    int fd = open_retrying(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &s) != 0) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        status_set(st, code_of(error), "%s: %s", path, error == ENOENT ? "no such file" : strerror(error));
        return NULL;
    }
    if (!S_ISREG(s.st_mode)) {
        close(fd);
        status_set(st, STATUS_BAD_FILE, "%s: is not a regular file", path);
        return NULL;
    }
    io *f = make(path, (uint64_t)s.st_size, st);
    if (!f) {
        close(fd);
        return NULL;
    }
    f->fd = fd;
    f->modified = modified_of(&s);
#ifdef POSIX_FADV_RANDOM
    /* We say what to read; the kernel's read-ahead would be memory that nobody planned, and that nobody drops. */
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
#endif
    return f;
}

io *io_custom(const char *name, uint64_t size, const io_vtable *v, void *ctx, status *st)
{
    io *f = make(name, size, st);
    if (!f)
        return NULL;
    f->v = *v;
    f->ctx = ctx;
    atomic_store(&f->direct, DIRECT_REFUSED);
    return f;
}

void io_close(io *f)
{
    if (!f)
        return;
    const uint8_t *map = atomic_load(&f->map);
    guard_end(f->guard);
    if (map)
        munmap((void *)(uintptr_t)map, (size_t)f->size);
    if (f->direct_fd >= 0)
        close(f->direct_fd);
    if (f->fd >= 0)
        close(f->fd);
    else if (f->v.close)
        f->v.close(f->ctx);
    pthread_mutex_destroy(&f->lock);
    mem_free(f->name);
    mem_free(f);
}

const char *io_name(const io *f) { return f->name; }
bool io_can_map(const io *f) { return f->fd >= 0; }
uint64_t io_size(const io *f) { return f->size; }
uint64_t io_modified(const io *f) { return f->modified; }
uint64_t io_bytes_read(const io *f) { return atomic_load(&f->bytes_read); }
void io_count_mapped(io *f, uint64_t bytes) { atomic_fetch_add(&f->bytes_read, bytes); }

static bool within(const io *f, uint64_t offset, uint64_t bytes, status *st)
{
    if (offset <= f->size && bytes <= f->size - offset)
        return true;
    return status_set(st, STATUS_BAD_FILE, "%s: truncated: %" PRIu64 " bytes wanted at offset %" PRIu64 ", the file has %" PRIu64,
                      f->name, bytes, offset, f->size);
}

static bool shrank(const io *f, uint64_t offset, status *st)
{
    return status_set(st, STATUS_BAD_FILE, "%s: ends at offset %" PRIu64 ", had %" PRIu64 " bytes when it was opened", f->name,
                      offset, f->size);
}

static bool unreadable(const io *f, uint64_t offset, int error, status *st)
{
    return status_set(st, code_of(error), "%s: reading at offset %" PRIu64 ": %s", f->name, offset, strerror(error));
}

/* Bytes read, 0 at the end, -1 with errno; interrupted calls are repeated. */
static int64_t read_some(io *f, uint64_t offset, void *out, size_t bytes)
{
    int64_t n;
    do
        n = told_to_fail() ? -1 : f->fd >= 0 ? (int64_t)pread(f->fd, out, shortened(bytes), (off_t)offset) : f->v.read(f->ctx, offset, out, bytes);
    while (n < 0 && errno == EINTR);
    return n;
}

/* The kernel drops whole pages only. The page that a read ends within is kept for the next one (rows are read one behind
 * the other, and would fetch it again), and dropped when the next one begins elsewhere: at most one page a file stays. */
static void drop_behind(io *f, uint64_t offset, uint64_t end)
{
#ifdef POSIX_FADV_DONTNEED
    if (f->fd < 0 || atomic_load(&f->map))
        return;
    uint64_t first = offset / f->page * f->page, last = end / f->page * f->page;
    uint64_t tail = end == f->size || end == last ? NO_TAIL : last;
    uint64_t old = atomic_exchange(&f->tail, tail);
    if (old != NO_TAIL && old != first && old != tail)
        posix_fadvise(f->fd, (off_t)old, (off_t)f->page, POSIX_FADV_DONTNEED);
    if (end == f->size)
        last = first + round_up(end - first, f->page); /* the file's last page, though it is not full */
    if (last > first)
        posix_fadvise(f->fd, (off_t)first, (off_t)(last - first), POSIX_FADV_DONTNEED);
#else
    (void)f, (void)offset, (void)end;
#endif
}

static bool read_piece(io *f, uint64_t offset, uint8_t *out, size_t bytes, status *st)
{
    size_t done = 0;
    while (done < bytes) {
        int64_t n = read_some(f, offset + done, out + done, bytes - done);
        if (n < 0)
            return unreadable(f, offset + done, errno, st);
        if (n == 0)
            return shrank(f, offset + done, st);
        done += (size_t)n;
    }
    atomic_fetch_add(&f->bytes_read, bytes);
    drop_behind(f, offset, offset + bytes);
    return true;
}

bool io_read(io *f, uint64_t offset, void *out, size_t bytes, status *st)
{
    if (!within(f, offset, bytes, st))
        return false;
    uint8_t *to = out;
    while (bytes > 0) {
        size_t piece = PIECE - (size_t)(offset % PIECE); /* the next piece begins on a page */
        if (piece > bytes)
            piece = bytes;
        if (!read_piece(f, offset, to, piece, st))
            return false;
        offset += piece;
        to += piece;
        bytes -= piece;
    }
    return true;
}

void io_ahead(io *f, uint64_t offset, size_t bytes)
{
#ifdef POSIX_FADV_WILLNEED
    if (f->fd >= 0 && !atomic_load(&f->map))
        posix_fadvise(f->fd, (off_t)offset, (off_t)bytes, POSIX_FADV_WILLNEED);
#else
    (void)f, (void)offset, (void)bytes;
#endif
}

/* A descriptor of its own, because O_DIRECT belongs to the open file. If the name means another file by now, that one is
 * not read. */
static int open_direct(const io *f)
{
#ifdef O_DIRECT
    struct stat a, b;
    int fd = open_retrying(f->name, O_RDONLY | O_DIRECT);
    if (fd >= 0 && fstat(fd, &a) == 0 && fstat(f->fd, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return fd;
    if (fd >= 0)
        close(fd);
#else
    (void)f;
#endif
    return -1;
}

static bool direct_possible(io *f)
{
    if (atomic_load(&f->direct) == DIRECT_UNTRIED) {
        pthread_mutex_lock(&f->lock);
        if (atomic_load(&f->direct) == DIRECT_UNTRIED) {
            f->direct_fd = environment_reads_buffered() ? -1 : open_direct(f); /* or through the page cache, which is dropped behind */
            atomic_store(&f->direct, f->direct_fd >= 0 ? DIRECT_WORKS : DIRECT_REFUSED);
        }
        pthread_mutex_unlock(&f->lock);
    }
    return atomic_load(&f->direct) == DIRECT_WORKS;
}

/* Reads as far as direct I/O carries; the number of bytes, or -1 with st set. What is missing then is for io_read: a file
 * system may refuse only now (EINVAL), or stop inside a block, or the file has shrunk, which io_read tells. */
static int64_t read_directly(io *f, uint64_t offset, uint8_t *out, size_t bytes, size_t want, status *st)
{
    size_t done = 0;
    while (done < want) {
        ssize_t n = told_to_fail() ? -1 : pread(f->direct_fd, out + done, shortened(bytes - done), (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EINVAL) {
            atomic_store(&f->direct, DIRECT_REFUSED);
            break;
        }
        if (n < 0) {
            unreadable(f, offset + done, errno, st);
            return -1;
        }
        done += (size_t)n;
        if (n == 0 || done % IO_ALIGN != 0)
            break;
    }
    if (done > want)
        done = want; /* the file has grown: not part of what was opened */
    atomic_fetch_add(&f->bytes_read, done);
    return (int64_t)done;
}

bool io_read_direct(io *f, uint64_t offset, void *out, size_t bytes, size_t *got, status *st)
{
    *got = 0;
    if (offset > f->size)
        return within(f, offset, bytes, st);
    size_t want = bytes < f->size - offset ? bytes : (size_t)(f->size - offset);
    bool aligned = offset % IO_ALIGN == 0 && bytes % IO_ALIGN == 0 && (uintptr_t)out % IO_ALIGN == 0;
    size_t done = 0;
    if (aligned && want > 0 && direct_possible(f)) {
        int64_t n = read_directly(f, offset, out, bytes, want, st);
        if (n < 0)
            return false;
        done = (size_t)n;
    }
    if (done < want && !io_read(f, offset + done, (uint8_t *)out + done, want - done, st))
        return false;
    *got = want;
    return true;
}

static const uint8_t *map_whole(io *f, status *st)
{
    if (f->fd < 0 || f->size == 0) {
        status_set(st, STATUS_FAILED, "%s: cannot be mapped: %s", f->name, f->fd < 0 ? "not a real file" : "it is empty");
        return NULL;
    }
    void *p = mmap(NULL, (size_t)f->size, PROT_READ, MAP_SHARED, f->fd, 0);
    if (p == MAP_FAILED) {
        status_set(st, STATUS_FAILED, "%s: cannot map %" PRIu64 " bytes: %s", f->name, f->size, strerror(errno));
        return NULL;
    }
#ifdef POSIX_FADV_NORMAL
    posix_fadvise(f->fd, 0, 0, POSIX_FADV_NORMAL); /* who maps a file wants it in the page cache */
#endif
    return p;
}

const uint8_t *io_map(io *f, status *st)
{
    pthread_mutex_lock(&f->lock);
    if (!atomic_load(&f->map)) {
        const uint8_t *map = map_whole(f, st);
        if (map)
            f->guard = guard_begin(map, (size_t)f->size);
        atomic_store(&f->map, map);
    }
    pthread_mutex_unlock(&f->lock);
    return atomic_load(&f->map);
}

void io_map_ahead(io *f, uint64_t offset, uint64_t bytes)
{
    const uint8_t *map = atomic_load(&f->map);
    uint64_t first = offset / f->page * f->page;
    if (!map)
        return;
    void *at = (void *)(uintptr_t)(map + first);
    size_t length = (size_t)(offset + bytes - first);
#ifdef MADV_POPULATE_READ
    if (madvise(at, length, MADV_POPULATE_READ) == 0)
        return;
#endif
    posix_madvise(at, length, POSIX_MADV_WILLNEED);
}

bool io_map_intact(const io *f, status *st)
{
    return !guard_broken(f->guard) || status_set(st, STATUS_BAD_FILE, "%s: has shrunk, or cannot be read, since it was opened", f->name);
}
