/* One thread does what is asked, in order: a disk gives one request of some megabytes at a time what it gives several, and order is what makes it
 * right that a band is read where another was written. Reads and writes go past the page cache where offset, size and memory are whole pages, as
 * the maps of real models are; the others are dropped from it at once. */
#define _GNU_SOURCE
#include "weights/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/paths.h"

enum { TMPFS = 0x01021994, PAGE = 4096 };

enum { QUEUE = 64 };

typedef struct request {
    uint64_t offset;
    char *memory;
    size_t bytes;
    bool write;
} request;

struct scratch_file {
    int fd, direct;            /* the same file twice; direct: past the page cache, or -1 */
    char *window;              /* its first bytes */
    uint64_t window_bytes;
    pthread_t thread;
    bool started, quit;
    pthread_mutex_t lock;
    pthread_cond_t asked_for, done_with;
    request queue[QUEUE];      /* request n at n % QUEUE, from 1 on */
    uint64_t asked, done;
    status failed;             /* the first failure; afterwards nothing is done any more */
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

static void forget(int fd, uint64_t offset, size_t bytes)
{
    uint64_t page = offset / PAGE * PAGE;
    posix_fadvise(fd, (off_t)page, (off_t)(offset + bytes - page + PAGE), POSIX_FADV_DONTNEED);
}

static bool move_all(int fd, const request *q, status *st)
{
    for (size_t done = 0; done < q->bytes;) {
        off_t at = (off_t)(q->offset + done);
        ssize_t n = q->write ? pwrite(fd, q->memory + done, q->bytes - done, at) : pread(fd, q->memory + done, q->bytes - done, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return status_set(st, STATUS_FAILED, "scratch: %s: %s", q->write ? "writing" : "reading",
                              n ? strerror(errno) : q->write ? "the disk is full" : "ends too early");
        done += (size_t)n;
    }
    return true;
}

static bool move(scratch_file *s, request q, status *st)
{
    if (q.offset < s->window_bytes) {
        size_t n = s->window_bytes - q.offset < q.bytes ? (size_t)(s->window_bytes - q.offset) : q.bytes;
        memcpy(q.write ? s->window + q.offset : q.memory, q.write ? q.memory : s->window + q.offset, n);
        q.offset += n;
        q.memory += n;
        q.bytes -= n;
    }
    if (q.bytes == 0)
        return true;
    if (s->direct >= 0 && q.offset % PAGE == 0 && q.bytes % PAGE == 0 && (uintptr_t)q.memory % PAGE == 0)
        return move_all(s->direct, &q, st);
    if (!move_all(s->fd, &q, st))
        return false;
    if (q.write) /* only written pages can be dropped */
        sync_file_range(s->fd, (off_t)q.offset, (off_t)q.bytes, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    forget(s->fd, q.offset, q.bytes);
    return true;
}

static void *serve(void *arg)
{
    scratch_file *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (s->done == s->asked && !s->quit)
            pthread_cond_wait(&s->asked_for, &s->lock);
        if (s->done == s->asked)
            break;
        request q = s->queue[(s->done + 1) % QUEUE];
        status st = s->failed;
        pthread_mutex_unlock(&s->lock);
        if (status_ok(&st))
            move(s, q, &st);
        pthread_mutex_lock(&s->lock);
        s->failed = st;
        s->done++;
        pthread_cond_broadcast(&s->done_with);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static bool start(scratch_file *s, const char *where, uint64_t bytes, status *st)
{
    struct statfs fs;
    char again[32];
    if ((s->fd = open_unlinked(where, st)) < 0)
        return status_set(st, STATUS_FAILED, "scratch: %s: %s; --scratch names another folder", where, strerror(errno));
    if (fstatfs(s->fd, &fs) == 0 && fs.f_type == TMPFS)
        return status_set(st, STATUS_USAGE, "scratch: %s is a tmpfs, its pages are memory; name a folder on a disk with --scratch", where);
    if ((errno = posix_fallocate(s->fd, 0, (off_t)bytes)) != 0)
        return status_set(st, STATUS_FAILED, "scratch: %s: no room for %llu MB: %s; --scratch names another folder", where, (unsigned long long)(bytes >> 20), strerror(errno));
    posix_fadvise(s->fd, 0, 0, POSIX_FADV_RANDOM); /* what read-ahead brings nobody would drop: it took 230 MB of a budget of 160 */
    snprintf(again, sizeof again, "/proc/self/fd/%d", s->fd);
    s->direct = open(again, O_RDWR | O_DIRECT | O_CLOEXEC);
    s->window = s->window_bytes ? mem_map(s->window_bytes, "scratch", st) : NULL;
    if (!status_ok(st))
        return false;
    if (pthread_create(&s->thread, NULL, serve, s) != 0)
        return status_set(st, STATUS_FAILED, "scratch: no thread: %s", strerror(errno));
    s->started = true;
    return true;
}

scratch_file *scratch_open(const char *folder, uint64_t bytes, uint64_t window_bytes, status *st)
{
    char *where = folder ? mem_string(folder, st) : default_folder(st);
    scratch_file *s = where ? mem_alloc(1, sizeof *s, "scratch", st) : NULL;
    if (s) {
        *s = (scratch_file){.fd = -1, .direct = -1, .window_bytes = window_bytes / PAGE * PAGE, .failed = STATUS_INIT};
        pthread_mutex_init(&s->lock, NULL);
        pthread_cond_init(&s->asked_for, NULL);
        pthread_cond_init(&s->done_with, NULL);
        if (!start(s, where, bytes, st)) {
            scratch_close(s);
            s = NULL;
        }
    }
    mem_free(where);
    return s;
}

void scratch_close(scratch_file *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_signal(&s->asked_for);
    pthread_mutex_unlock(&s->lock);
    if (s->started)
        pthread_join(s->thread, NULL);
    if (s->direct >= 0)
        close(s->direct);
    if (s->fd >= 0)
        close(s->fd);
    mem_unmap(s->window, s->window_bytes);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->asked_for);
    pthread_cond_destroy(&s->done_with);
    mem_free(s);
}

static uint64_t ask(scratch_file *s, request q)
{
    pthread_mutex_lock(&s->lock);
    while (s->asked - s->done == QUEUE - 1)
        pthread_cond_wait(&s->done_with, &s->lock);
    uint64_t number = ++s->asked;
    s->queue[number % QUEUE] = q;
    pthread_cond_signal(&s->asked_for);
    pthread_mutex_unlock(&s->lock);
    return number;
}

uint64_t scratch_write(scratch_file *s, uint64_t offset, const void *data, size_t bytes)
{
    return ask(s, (request){offset, (char *)(uintptr_t)data, bytes, true});
}

uint64_t scratch_read(scratch_file *s, uint64_t offset, void *out, size_t bytes)
{
    return ask(s, (request){offset, out, bytes, false});
}

bool scratch_wait(scratch_file *s, uint64_t number, status *st)
{
    pthread_mutex_lock(&s->lock);
    while (s->done < number)
        pthread_cond_wait(&s->done_with, &s->lock);
    status failed = s->failed;
    pthread_mutex_unlock(&s->lock);
    if (!status_ok(&failed) && status_ok(st))
        *st = failed;
    return status_ok(st);
}
