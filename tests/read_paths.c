/* Ways to read a large file once, in order, in little memory: what each gives on this machine, in bytes a second and in processor time.
 *
 *   tests/read_paths FILE WAY DEPTH [MIB [MOST]]   direct, uring, buffered, uncached or mapped; DEPTH reads of MIB (4) are under way at once, of
 *                                                the file's first MOST MiB (all)
 *
 * The memory that is read into asks for huge pages, as the stream's does; PENSTOCK_SMALL_PAGES=1 leaves that out.
 *
 * Prints one line. Run it with cold caches and in a memory cgroup (tests/read_paths.sh does) to see the peak beside it. Each byte that was read is
 * touched once, a word in every cache line, so that no path gains by leaving that to its reader. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MOST_DEPTH = 64 };

typedef enum way { DIRECT, BUFFERED, UNCACHED, MAPPED } way;

static struct job {
    int fd, depth;
    way way;
    uint64_t size, piece;
    uint8_t *memory;             /* [depth][piece] */
    const uint8_t *map;
    _Atomic uint64_t next, sum;
} job;

static void die(const char *what)
{
    fprintf(stderr, "read_paths: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void touch(const uint8_t *p, uint64_t bytes)
{
    uint64_t sum = 0, word;
    for (uint64_t i = 0; i + sizeof word <= bytes; i += 64) {
        memcpy(&word, p + i, sizeof word);
        sum += word;
    }
    atomic_fetch_add(&job.sum, sum);
}

static void read_whole(uint8_t *to, uint64_t offset, uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes;) {
        struct iovec v = {to + done, job.piece - done};
#ifdef RWF_DONTCACHE
        int flags = job.way == UNCACHED ? RWF_DONTCACHE : 0;
#else
        int flags = job.way == UNCACHED ? 0x80 : 0;
#endif
        ssize_t n = preadv2(job.fd, &v, 1, (off_t)(offset + done), flags);
        if (n <= 0)
            die("reading");
        done += (uint64_t)n;
    }
    if (job.way == BUFFERED)
        posix_fadvise(job.fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

static void use_mapped(uint64_t offset, uint64_t bytes)
{
    uint8_t *at = (uint8_t *)(uintptr_t)job.map + offset;
    if (madvise(at, bytes, MADV_POPULATE_READ) != 0)
        die("populating");
    touch(at, bytes);
    madvise(at, bytes, MADV_DONTNEED);
    posix_fadvise(job.fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

static void *reader(void *memory)
{
    for (uint64_t at; (at = atomic_fetch_add(&job.next, job.piece)) < job.size;) {
        uint64_t bytes = job.size - at < job.piece ? job.size - at : job.piece;
        if (job.way == MAPPED) {
            use_mapped(at, bytes);
        } else {
            read_whole(memory, at, bytes);
            touch(memory, bytes);
        }
    }
    return NULL;
}

static void by_threads(void)
{
    pthread_t id[MOST_DEPTH];
    if (job.way == MAPPED)
        job.map = mmap(NULL, job.size, PROT_READ, MAP_SHARED, job.fd, 0);
    if (job.map == MAP_FAILED)
        die("mapping");
    for (int i = 0; i < job.depth; i++)
        if (pthread_create(&id[i], NULL, reader, job.memory + (uint64_t)i * job.piece) != 0)
            die("starting a thread");
    for (int i = 0; i < job.depth; i++)
        pthread_join(id[i], NULL);
}

/* ---- io_uring, by its system calls ---- */

typedef struct ring {
    int fd;
    _Atomic unsigned *sq_tail, *cq_head, *cq_tail;
    unsigned sq_mask, cq_mask, *sq_index;
    struct io_uring_sqe *sqe;
    struct io_uring_cqe *cqe;
} ring;

static uint8_t *ring_part(int fd, size_t bytes, off_t which)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, which);
    if (p == MAP_FAILED)
        die("io_uring: mapping");
    return p;
}

static ring ring_open(void)
{
    struct io_uring_params p = {0};
    ring r = {.fd = (int)syscall(SYS_io_uring_setup, MOST_DEPTH, &p)};
    if (r.fd < 0)
        die("io_uring");
    uint8_t *sq = ring_part(r.fd, p.sq_off.array + p.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    uint8_t *cq = ring_part(r.fd, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    r.sqe = (void *)ring_part(r.fd, p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    r.cqe = (void *)(cq + p.cq_off.cqes);
    r.sq_tail = (void *)(sq + p.sq_off.tail);
    r.sq_index = (void *)(sq + p.sq_off.array);
    r.sq_mask = *(unsigned *)(void *)(sq + p.sq_off.ring_mask);
    r.cq_head = (void *)(cq + p.cq_off.head);
    r.cq_tail = (void *)(cq + p.cq_off.tail);
    r.cq_mask = *(unsigned *)(void *)(cq + p.cq_off.ring_mask);
    return r;
}

static unsigned ask(const ring *r, unsigned slot)
{
    if (job.next >= job.size)
        return 0;
    unsigned at = atomic_load(r->sq_tail), i = at & r->sq_mask;
    r->sqe[i] = (struct io_uring_sqe){.opcode = IORING_OP_READ, .fd = job.fd, .off = job.next, .addr = (uintptr_t)(job.memory + slot * job.piece),
                                      .len = (unsigned)job.piece, .user_data = slot};
    r->sq_index[i] = i;
    job.next += job.piece;
    atomic_store(r->sq_tail, at + 1);
    return 1;
}

static void by_uring(void)
{
    ring r = ring_open();
    unsigned asked = 0, under_way = 0;
    for (unsigned i = 0; i < (unsigned)job.depth; i++)
        asked += ask(&r, i);
    while (asked || under_way) {
        if (syscall(SYS_io_uring_enter, r.fd, asked, 1u, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
            die("io_uring: waiting");
        under_way += asked;
        asked = 0;
        for (unsigned head = atomic_load(r.cq_head); head != atomic_load(r.cq_tail); atomic_store(r.cq_head, ++head)) {
            struct io_uring_cqe c = r.cqe[head & r.cq_mask];
            errno = c.res < 0 ? -c.res : EIO;
            if (c.res <= 0)
                die("io_uring: reading");
            touch(job.memory + c.user_data * job.piece, (uint64_t)c.res);
            under_way--;
            asked += ask(&r, (unsigned)c.user_data);
        }
    }
}

static double seconds(struct timeval t) { return (double)t.tv_sec + (double)t.tv_usec * 1e-6; }

int main(int argc, char **argv)
{
    static const char *const names[] = {"direct", "buffered", "uncached", "mapped", "uring"};
    int which = 0, uring = 4;
    while (argc > 3 && which <= uring && strcmp(argv[2], names[which]) != 0)
        which++;
    job.depth = argc > 3 ? atoi(argv[3]) : 0;
    if (argc < 4 || which > uring || job.depth < 1 || job.depth > MOST_DEPTH) {
        fprintf(stderr, "read_paths FILE direct|uring|buffered|uncached|mapped DEPTH [MIB [MOST]]\n");
        return 2;
    }
    job.way = which == uring ? DIRECT : (way)which;
    job.piece = (uint64_t)((argc > 4 ? atof(argv[4]) : 4) * (1 << 20));
    job.fd = open(argv[1], O_RDONLY | (job.way == DIRECT ? O_DIRECT : 0));
    struct stat s;
    if (job.fd < 0 || fstat(job.fd, &s) != 0)
        die(argv[1]);
    job.size = (uint64_t)s.st_size / 4096 * 4096;
    if (argc > 5 && job.size > strtoull(argv[5], NULL, 10) << 20)
        job.size = (uint64_t)strtoull(argv[5], NULL, 10) << 20;
    if (job.way != MAPPED)
        posix_fadvise(job.fd, 0, 0, POSIX_FADV_RANDOM);
    job.memory = mmap(NULL, (uint64_t)job.depth * job.piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (job.memory == MAP_FAILED)
        die("memory");
    if (!getenv("PENSTOCK_SMALL_PAGES"))
        madvise(job.memory, (uint64_t)job.depth * job.piece, MADV_HUGEPAGE);
    struct timespec a, b;
    struct rusage u;
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (which == uring)
        by_uring();
    else
        by_threads();
    clock_gettime(CLOCK_MONOTONIC, &b);
    getrusage(RUSAGE_SELF, &u);
    double took = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
    printf("%-8s depth %2d, %4.2g MiB: %.2f GB/s, user %.2f s, system %.2f s\n", argv[2], job.depth, (double)job.piece / (1 << 20),
           (double)job.size / took / 1e9, seconds(u.ru_utime), seconds(u.ru_stime));
    return 0;
}
