/* test_io.c: reading files, from disks that behave and from some that do not. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "weights/io.h"

static char folder[] = "/tmp/penstock-io-XXXXXX";
static char path[64];

static void setup(void)
{
    cr_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
}

static void teardown(void)
{
    unlink(path);
    cr_expect_eq(rmdir(folder), 0, "something was left behind");
}

TestSuite(io, .init = setup, .fini = teardown);

static uint8_t expected(uint64_t offset) { return (uint8_t)(offset * 2654435761u >> 13); }

static void write_file(size_t bytes)
{
    uint8_t *text = malloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++)
        text[i] = expected(i);
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(text, 1, bytes, f) == bytes && fflush(f) == 0 && fsync(fileno(f)) == 0);
    fclose(f);
    free(text);
}

static bool right(const uint8_t *text, uint64_t offset, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (text[i] != expected(offset + i))
            return false;
    return true;
}

#define refused(st, wanted_code, ...)                                                                   \
    do {                                                                                                \
        const char *const words[] = {__VA_ARGS__};                                                      \
        cr_expect_eq((st).code, wanted_code, "%d: %s", (st).code, (st).text);                           \
        for (size_t w = 0; w < sizeof words / sizeof *words; w++)                                       \
            cr_expect(strstr((st).text, words[w]), "'%s' lacks '%s'", (st).text, words[w]);             \
    } while (0)

Test(io, reads_at_any_offset)
{
    enum { SIZE = 3 * 1024 * 1024 + 1234 };
    size_t before = mem_in_use();
    write_file(SIZE);
    status st = STATUS_INIT;
    io *f = io_open(path, &st);
    cr_assert(f, "%s", st.text);
    cr_expect_eq(io_size(f), SIZE);
    cr_expect_str_eq(io_name(f), path);
    cr_expect_gt(io_modified(f), UINT64_C(1500000000000000000));
    uint8_t *text = malloc(SIZE);
    static const size_t stretches[][2] = {{0, SIZE}, {0, 0}, {SIZE, 0}, {1, 1}, {4095, 2}, {SIZE - 1, 1}, {12345, 2000000}, {524288, 524288}, {524287, 524290}};
    uint64_t all = 0;
    for (size_t i = 0; i < sizeof stretches / sizeof *stretches; i++) {
        size_t offset = stretches[i][0], bytes = stretches[i][1];
        cr_assert(io_read(f, offset, text, bytes, &st), "%s", st.text);
        cr_expect(right(text, offset, bytes), "%zu bytes at %zu", bytes, offset);
        cr_expect_eq(io_bytes_read(f), all += bytes);
    }
    io_count_mapped(f, 7);
    cr_expect_eq(io_bytes_read(f), all + 7);
    free(text);
    io_close(f);
    cr_expect_eq(mem_in_use(), before);
}

Test(io, reading_beyond_the_end)
{
    static const uint64_t cases[][2] = {{0, 1001}, {1000, 1}, {1001, 0}, {UINT64_MAX, 1}, {1, UINT64_MAX}, {UINT64_MAX, UINT64_MAX}};
    write_file(1000);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        uint8_t text[2000];
        io *f = io_open(path, &st);
        cr_assert(f);
        cr_expect(!io_read(f, cases[i][0], text, (size_t)cases[i][1], &st));
        refused(st, STATUS_BAD_FILE, path, "1000");
        io_close(f);
    }
}

Test(io, direct_reads)
{
    enum { SIZE = 5 * IO_ALIGN + 777, ROOM = 8 * IO_ALIGN };
    write_file(SIZE);
    status st = STATUS_INIT;
    io *f = io_open(path, &st);
    uint8_t *text = aligned_alloc(IO_ALIGN, ROOM);
    for (size_t from = 0; from <= 6 * IO_ALIGN; from += IO_ALIGN)
        for (size_t bytes = 0; bytes <= ROOM; bytes += IO_ALIGN) {
            size_t got = 99, wanted = from >= SIZE ? 0 : SIZE - from < bytes ? SIZE - from : bytes;
            bool beyond = from > SIZE;
            memset(text, 0, ROOM);
            status one = STATUS_INIT;
            cr_assert_eq(io_read_direct(f, from, text, bytes, &got, &one), !beyond, "%s", one.text);
            cr_expect_eq(got, wanted);
            cr_expect(right(text, from, got), "%zu bytes at %zu", bytes, from);
        }
    for (size_t off = 1; off < 5000; off += 997) { /* what direct I/O does not take is read the other way */
        size_t got;
        cr_assert(io_read_direct(f, off, text + 3, 1000, &got, &st), "%s", st.text);
        cr_expect(got == 1000 && right(text + 3, off, 1000));
    }
    free(text);
    io_close(f);
}

Test(io, a_file_that_shrinks)
{
    enum { SIZE = 8 * IO_ALIGN };
    write_file(SIZE);
    status st = STATUS_INIT, other = STATUS_INIT;
    uint8_t *text = aligned_alloc(IO_ALIGN, SIZE);
    size_t got;
    io *f = io_open(path, &st);
    cr_assert_eq(truncate(path, 3 * IO_ALIGN + 5), 0);
    cr_expect(io_read(f, 0, text, 3 * IO_ALIGN + 5, &st));
    cr_expect(!io_read(f, IO_ALIGN, text, 4 * IO_ALIGN, &st));
    refused(st, STATUS_BAD_FILE, path, "ends at offset 12293", "32768");
    cr_expect(!io_read_direct(f, 0, text, SIZE, &got, &other));
    refused(other, STATUS_BAD_FILE, path, "ends at offset 12293");
    cr_expect_eq(got, 0);
    free(text);
    io_close(f);
}

Test(io, what_cannot_be_opened)
{
    status st = STATUS_INIT, folder_st = STATUS_INIT, fifo_st = STATUS_INIT;
    cr_expect_null(io_open(path, &st));
    refused(st, STATUS_BAD_FILE, path, "no such file");
    cr_expect_null(io_open(folder, &folder_st));
    refused(folder_st, STATUS_BAD_FILE, folder, "regular");
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_expect_null(io_open(path, &fifo_st)); /* and does not wait for a writer */
    refused(fifo_st, STATUS_BAD_FILE, path, "regular");
}

Test(io, links_and_maps)
{
    char link[80];
    snprintf(link, sizeof link, "%s-link", path);
    write_file(10000);
    cr_assert_eq(symlink("file", link), 0);
    status st = STATUS_INIT, empty_st = STATUS_INIT;
    io *f = io_open(link, &st);
    cr_assert(f, "%s", st.text);
    const uint8_t *map = io_map(f, &st);
    cr_assert(map && right(map, 0, 10000));
    cr_expect_eq(io_map(f, &st), map);
    uint8_t text[100];
    cr_expect(io_read(f, 50, text, 100, &st) && right(text, 50, 100));
    io_close(f);
    unlink(link);
    write_file(0);
    f = io_open(path, &empty_st);
    cr_expect_null(io_map(f, &empty_st));
    refused(empty_st, STATUS_FAILED, path, "mapped");
    io_close(f);
}

/* ---- files made of functions ---- */

typedef struct disk {
    uint64_t size;      /* what is really there */
    size_t most;        /* that one call returns, 0: no limit */
    int interrupted;    /* so many calls fail with EINTR first */
    int every;          /* then each n-th fails with EINTR */
    uint64_t broken;    /* reading this offset is an I/O error */
    int error;
    int calls, closed;
} disk;

static int64_t disk_read(void *ctx, uint64_t offset, void *out, size_t bytes)
{
    disk *d = ctx;
    d->calls++;
    if (d->interrupted-- > 0 || (d->every && d->calls % d->every == 0)) {
        errno = EINTR;
        return -1;
    }
    if (offset >= d->size)
        return 0;
    if (bytes > d->size - offset)
        bytes = (size_t)(d->size - offset);
    if (d->most && bytes > d->most)
        bytes = d->most;
    if (d->error && offset + bytes > d->broken) {
        if (offset >= d->broken) {
            errno = d->error;
            return -1;
        }
        bytes = (size_t)(d->broken - offset);
    }
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)out)[i] = expected(offset + i);
    return (int64_t)bytes;
}

static void disk_close(void *ctx) { ((disk *)ctx)->closed++; }

static bool read_disk(disk *d, uint64_t claimed, bool direct, status *st)
{
    enum { ROOM = 1 << 20 };
    io_vtable v = {disk_read, disk_close};
    size_t before = mem_in_use(), got = 0;
    io *f = io_custom("disk", claimed, &v, d, st);
    v = (io_vtable){0}; /* the table is copied */
    uint8_t *text = aligned_alloc(IO_ALIGN, ROOM);
    cr_assert(f && claimed <= ROOM);
    cr_expect_null(io_map(f, &(status)STATUS_INIT));
    bool ok = direct ? io_read_direct(f, 0, text, ROOM, &got, st) : io_read(f, 0, text, (size_t)claimed, st);
    if (ok) {
        cr_expect(right(text, 0, (size_t)claimed));
        cr_expect_eq(io_bytes_read(f), claimed);
        cr_expect(!direct || got == claimed);
    }
    cr_expect_eq(ok, status_ok(st));
    free(text);
    io_close(f);
    cr_expect_eq(d->closed, 1);
    cr_expect_eq(mem_in_use(), before);
    return ok;
}

Test(io, short_reads_and_interruptions)
{
    for (int direct = 0; direct < 2; direct++) {
        disk disks[] = {{.size = 700000}, {.size = 700000, .most = 1000}, {.size = 5000, .most = 1}, {.size = 5000, .interrupted = 10},
                        {.size = 5000, .most = 7, .every = 2}, {.size = 0}};
        for (size_t i = 0; i < sizeof disks / sizeof *disks; i++) {
            status st = STATUS_INIT;
            cr_expect(read_disk(&disks[i], disks[i].size, direct, &st), "disk %zu: %s", i, st.text);
        }
    }
}

Test(io, errors_have_name_and_offset)
{
    for (int direct = 0; direct < 2; direct++) {
        disk broken = {.size = 600000, .broken = 555555, .error = EIO}, first = {.size = 100, .error = EIO};
        disk poor = {.size = 100, .broken = 50, .error = ENOMEM}, cut = {.size = 4321, .most = 1000}, empty = {.size = 0};
        status st[5] = {STATUS_INIT, STATUS_INIT, STATUS_INIT, STATUS_INIT, STATUS_INIT};
        cr_expect(!read_disk(&broken, 600000, direct, &st[0]));
        refused(st[0], STATUS_BAD_FILE, "disk", "555555", strerror(EIO));
        cr_expect(!read_disk(&first, 100, direct, &st[1]));
        refused(st[1], STATUS_BAD_FILE, "disk", "offset 0", strerror(EIO));
        cr_expect(!read_disk(&poor, 100, direct, &st[2]));
        refused(st[2], STATUS_FAILED, "disk", "offset 50", strerror(ENOMEM));
        cr_expect(!read_disk(&cut, 5000, direct, &st[3]));
        refused(st[3], STATUS_BAD_FILE, "disk", "ends at offset 4321", "5000");
        cr_expect(!read_disk(&empty, 1, direct, &st[4]));
        refused(st[4], STATUS_BAD_FILE, "disk", "ends at offset 0");
    }
}

/* ---- what stays behind ---- */

static size_t resident_pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (bytes + page - 1) / page, count = 0;
    int fd = open(path, O_RDONLY);
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    unsigned char *in = malloc(pages);
    cr_assert(map != MAP_FAILED && mincore(map, bytes, in) == 0);
    for (size_t i = 0; i < pages; i++)
        count += in[i] & 1;
    free(in);
    munmap(map, bytes);
    close(fd);
    return count;
}

/* A file system in memory (or one that ignores advice) keeps its pages whatever one says. */
static bool pages_can_be_dropped(size_t bytes)
{
    int fd = open(path, O_RDONLY);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    return resident_pages(bytes) == 0;
}

Test(io, the_page_cache_is_dropped_behind)
{
    enum { SIZE = 4 * 1024 * 1024 + 100, ROW = 3000 };
    write_file(SIZE);
    if (!pages_can_be_dropped(SIZE))
        cr_skip_test("this file system keeps its pages");
    status st = STATUS_INIT;
    io *f = io_open(path, &st);
    uint8_t *text = malloc(SIZE);
    cr_assert(io_read(f, 0, text, SIZE, &st));
    cr_expect_leq(resident_pages(SIZE), 1, "after all of it");
    for (size_t at = 0; at + ROW <= SIZE; at += ROW)
        cr_assert(io_read(f, at, text, ROW, &st));
    cr_expect_leq(resident_pages(SIZE), 1, "after row by row");
    for (size_t i = 0, at = 17; i < 500; i++, at = (at * 7919 + 13) % (SIZE - ROW))
        cr_assert(io_read(f, at, text, ROW, &st));
    cr_expect_leq(resident_pages(SIZE), 1, "after rows here and there");
    size_t got;
    uint8_t *aligned = aligned_alloc(IO_ALIGN, 1 << 20);
    cr_assert(io_read_direct(f, 1 << 20, aligned, 1 << 20, &got, &st));
    cr_expect_leq(resident_pages(SIZE), 1, "after a direct read");
    free(aligned);
    free(text);
    io_close(f);
}

typedef struct reading {
    io *f;
    unsigned seed;
    bool ok;
} reading;

static void *read_here_and_there(void *arg)
{
    enum { ROOM = 16 * IO_ALIGN, SIZE = 64 * IO_ALIGN };
    reading *r = arg;
    status st = STATUS_INIT;
    uint8_t *text = aligned_alloc(IO_ALIGN, ROOM);
    r->ok = true;
    for (int i = 0; i < 200 && r->ok; i++) {
        r->seed = r->seed * 1103515245 + 12345;
        size_t from = (r->seed >> 8) % 48 * IO_ALIGN, bytes = ((r->seed >> 20) % 15 + 1) * IO_ALIGN, got = bytes;
        r->ok = i % 2 ? io_read(r->f, from, text, bytes, &st) : io_read_direct(r->f, from, text, bytes, &got, &st);
        r->ok = r->ok && got == bytes && right(text, from, bytes) && (i != 100 || io_map(r->f, &st));
    }
    free(text);
    return NULL;
}

Test(io, threads)
{
    enum { THREADS = 4 };
    write_file(64 * IO_ALIGN);
    status st = STATUS_INIT;
    io *f = io_open(path, &st);
    pthread_t thread[THREADS];
    reading r[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        r[i] = (reading){f, i + 1, false};
        cr_assert_eq(pthread_create(&thread[i], NULL, read_here_and_there, &r[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        cr_expect(r[i].ok, "thread %d", i);
    }
    io_close(f);
}

Test(io, memory_runs_out)
{
    write_file(10);
    for (long n = 1; n <= 3; n++) {
        status st = STATUS_INIT;
        size_t before = mem_in_use();
        mem_fail_at(n);
        io *f = io_open(path, &st);
        mem_fail_at(0);
        cr_expect_eq(f != NULL, n == 3);
        if (!f)
            refused(st, STATUS_FAILED, "out of memory");
        io_close(f);
        cr_expect_eq(mem_in_use(), before);
    }
}
