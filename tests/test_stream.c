/* The stream hands over every byte of every weight, in order, in any memory that it says is enough. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "weights/pack.h"
#include "weights/stream.h"

enum { USES = 9, FILE_BYTES = 3 << 20 };

typedef struct memory_file {
    uint8_t *bytes;
    uint64_t size;
    _Atomic long reads;
    long fail_at;             /* the fail_at-th read and all behind it fail; 0: none */
    size_t most;              /* a read returns at most that much; 0: all */
} memory_file;

static int64_t memory_read(void *ctx, uint64_t offset, void *out, size_t bytes)
{
    memory_file *m = ctx;
    if (m->fail_at && ++m->reads >= m->fail_at)
        return -1;
    if (offset >= m->size)
        return 0;
    size_t n = m->size - offset < bytes ? (size_t)(m->size - offset) : bytes;
    if (m->most && n > m->most)
        n = m->most;
    memcpy(out, m->bytes + offset, n);
    return (int64_t)n;
}

static const io_vtable memory_vtable = {memory_read, NULL};

typedef struct bench {
    memory_file file;
    source src;
    io *files[1];
    weight w[USES];
    weight_part part[USES];
    plan_use use[USES];
    plan p;
    status st;
} bench;

/* Matrices of uneven sizes back to back; uses 3..5 form a repeated region, use 6 is a vector. */
static bench *bench_open(uint64_t seed)
{
    status st = STATUS_INIT;
    bench *b = mem_alloc(1, sizeof *b, "bench", &st);
    rng *g = mem_alloc(1, sizeof *g, "bench", &st);
    rng_seed(g, seed);
    b->file = (memory_file){.bytes = mem_alloc(1, FILE_BYTES, "bench", &st), .size = FILE_BYTES};
    for (size_t i = 0; i < FILE_BYTES / 4; i++) {
        uint32_t word = rng_word(g) & 0x3fffffff; /* finite as floats */
        memcpy(b->file.bytes + 4 * i, &word, 4);
    }
    uint64_t at = 12;
    for (int i = 0; i < USES; i++) {
        matrix_shape m = {1 + rng_word(g) % 70, 1, (int32_t)(1 + rng_word(g) % 900)};
        uint64_t bytes;
        cr_assert(type_matrix_bytes(TYPE_F32, &m, &bytes));
        b->part[i] = (weight_part){at, bytes, 0, m.rows, -1};
        b->w[i] = (weight){.component = "", .name = "w", .type = TYPE_F32, .dims = 2, .shape = {m.rows, m.depth}, .matrix = m, .parts = 1, .part = &b->part[i]};
        b->use[i] = (plan_use){.weight = &b->w[i], .role = i == 6 ? ROLE_VECTOR : ROLE_LINEAR, .matrix = m, .region = i >= 3 && i <= 5 ? 1 : 0};
        if (i == 6)
            b->p.vector_bytes = round_up(bytes, 64);
        else
            b->p.stream_bytes += bytes;
        at += bytes + rng_word(g) % 100 * 4;
    }
    b->files[0] = io_custom("memory", FILE_BYTES, &memory_vtable, &b->file, &st);
    b->src = (source){.path = (char *)(uintptr_t)"memory", .files = 1, .file = b->files};
    b->p.uses = USES;
    b->p.use = b->use;
    mem_free(g);
    cr_assert(status_ok(&st));
    return b;
}

static void bench_close(bench *b)
{
    io_close(b->files[0]);
    mem_free(b->file.bytes);
    mem_free(b);
}

static void check_use(bench *b, stream *s, int i)
{
    weight_slice slice;
    int64_t row = 0;
    size_t row_bytes = (size_t)b->w[i].matrix.depth * 4;
    while (row < b->w[i].matrix.rows) {
        cr_assert(stream_next(s, i, &slice, &b->st), "use %d row %ld: %s", i, (long)row, b->st.text);
        cr_assert_eq(slice.first_row, row);
        cr_assert_eq(memcmp(slice.data, b->file.bytes + b->part[i].offset + (size_t)row * row_bytes, (size_t)slice.rows * row_bytes), 0);
        row += slice.rows;
    }
    cr_assert(!stream_next(s, i, &slice, &b->st));
    cr_assert(status_ok(&b->st), "%s", b->st.text);
}

static void one_pass(bench *b, stream *s)
{
    cr_assert(stream_begin(s, &b->st));
    for (int i = 0; i < USES; i++) {
        if (i == 6) {
            cr_assert_eq(memcmp(stream_vector(s, i), b->file.bytes + b->part[i].offset, b->part[i].bytes), 0);
            continue;
        }
        if (i == 3)
            stream_region_begin(s, 3);
        check_use(b, s, i);
        if (i == 5) {
            for (int again = 0; again < 3; again++) {
                stream_region_again(s);
                for (int k = 3; k <= 5; k++)
                    check_use(b, s, k);
            }
            stream_region_end(s);
        }
    }
}

Test(stream, every_byte_in_any_memory)
{
    const uint64_t units[] = {1, 1000, 4096, 50000, 1 << 20};
    for (uint64_t seed = 0; seed < 12; seed++)
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++)
            for (int extra = 0; extra < 4; extra++) {
                bench *b = bench_open(seed);
                uint64_t pins[] = {0, 100000, 400000, 1 << 30};
                residency how = {.ring_bytes = stream_least_ring(&b->p, units[u], &b->st) + (extra == 3 ? 1 << 20 : 0), .unit_bytes = units[u], .pin_bytes = pins[extra],
                                 .readers = 1 + (int)((seed + u + (uint64_t)extra) % 4)};
                b->file.most = extra == 1 ? 777 : 0;
                stream *s = stream_open(&b->p, &b->src, &how, 3, kernels_best(), &b->st);
                cr_assert(s != NULL, "%s", b->st.text);
                for (int pass = 0; pass < 3; pass++)
                    one_pass(b, s);
                stream_close(s);
                bench_close(b);
            }
}

Test(stream, a_failing_read_is_a_sentence)
{
    for (long n = 1;; n++) {
        bench *b = bench_open(5);
        b->file.fail_at = n;
        residency how = {.ring_bytes = stream_least_ring(&b->p, 4096, &b->st), .unit_bytes = 4096, .readers = 1 + (int)(n % 3)};
        stream *s = stream_open(&b->p, &b->src, &how, 1, kernels_best(), &b->st);
        weight_slice slice;
        if (s && stream_begin(s, &b->st))
            for (int i = 0; i < USES && status_ok(&b->st); i++)
                while (i != 6 && stream_next(s, i, &slice, &b->st))
                    ;
        bool good = status_ok(&b->st);
        if (!good)
            cr_assert_eq(b->st.code, STATUS_BAD_FILE, "read %ld: %s", n, b->st.text);
        stream_close(s);
        bench_close(b);
        if (good)
            break;
        cr_assert(n < 5000);
    }
}

/* A row scale that is no number, with a checksum that fits: found when its unit is read, mapped or by the ring, or its row gathered. */
Test(stream, a_scale_that_is_no_number_is_named)
{
    const weight_type types[] = {TYPE_Q4, TYPE_Q5, TYPE_Q8, TYPE_Q8_ROWS};
    char out[64];
    enum { ROWS = 48, BAD = 37 };
    snprintf(out, sizeof out, "/tmp/penstock-scale-%ld.penstock", (long)getpid());
    for (int i = 0; i < 12; i++) {
        status st = STATUS_INIT;
        weight_type type = types[i % 4];
        matrix_shape m = {ROWS, 1, 64};
        uint64_t bytes;
        cr_assert(type_matrix_bytes(type, &m, &bytes));
        uint8_t *data = mem_alloc(1, bytes, "test", &st), head[256] = {0};
        size_t unit = type_unit_bytes(type, &m), step = (size_t)type_unit_rows(type), scale = type_head_bytes(type) ? 2 : 4;
        const uint8_t nan[4] = {0, i < 4 ? 0 : 1, 0x80, i < 8 ? 0x7f : 0xff}; /* infinite, or not a number, of either sign */
        memcpy(data + BAD / step * unit + BAD % step * scale, nan + 4 - scale, scale);
        pack_writer *w = pack_create(out, &st);
        pack_tensor t = {.component = "dit", .name = "spoiled.weight", .type = type, .dims = 2, .shape = {ROWS, 64}, .matrix = m, .role = ROLE_LINEAR};
        cr_assert(pack_begin(w, &t, head, &st) && pack_rows(w, data, ROWS, &st) && pack_end(w, 0, &st) && pack_commit(w, &st), "%s", st.text);
        mem_free(data);
        source *s = source_open_pack(out, &st);
        cr_assert(s, "%s", st.text);
        plan_use use = {.weight = s->weight, .role = type == TYPE_Q8_ROWS ? ROLE_EMBEDDING : ROLE_LINEAR, .matrix = m};
        plan p = {.stage = "dit", .uses = 1, .use = &use, .stream_bytes = bytes};
        for (int mapped = 0; mapped < 2; mapped++) {
            residency how = {.mapped = mapped, .ring_bytes = stream_least_ring(&p, 4096, &st), .unit_bytes = 4096};
            stream *r = stream_open(&p, s, &how, 1, kernels_best(), &st);
            cr_assert(r && stream_begin(r, &st), "%s", st.text);
            weight_slice slice;
            float row[64];
            int32_t good = BAD - 1, bad = BAD;
            if (type == TYPE_Q8_ROWS) {
                cr_assert(stream_gather(r, 0, &good, 1, row, &st), "%s", st.text);
                cr_assert_not(stream_gather(r, 0, &bad, 1, row, &st));
            } else
                while (stream_next(r, 0, &slice, &st))
                    continue;
            cr_assert(st.code == STATUS_BAD_FILE && strstr(st.text, "dit/spoiled.weight: a row from"), "%s: %s", type_of(type)->name, st.text);
            stream_close(r);
            st = (status)STATUS_INIT;
        }
        source_close(s);
        unlink(out);
    }
    cr_assert_eq(mem_in_use(), 0);
}

Test(stream, a_failing_allocation_is_a_sentence)
{
    for (long n = 1;; n++) {
        bench *b = bench_open(6);
        residency how = {.ring_bytes = stream_least_ring(&b->p, 4096, &b->st), .unit_bytes = 4096, .pin_bytes = 50000};
        mem_fail_at(n);
        stream *s = stream_open(&b->p, &b->src, &how, 1, kernels_best(), &b->st);
        mem_fail_at(0);
        bool good = s != NULL;
        cr_assert(good || b->st.code == STATUS_FAILED, "allocation %ld", n);
        stream_close(s);
        bench_close(b);
        if (good)
            break;
    }
}

Test(stream, nothing_is_left_allocated)
{
    size_t before = mem_in_use();
    bench *b = bench_open(7);
    residency how = {.ring_bytes = stream_least_ring(&b->p, 4096, &b->st), .unit_bytes = 4096, .pin_bytes = 50000, .readers = 3};
    stream *s = stream_open(&b->p, &b->src, &how, 1, kernels_best(), &b->st);
    cr_assert(s != NULL);
    stream_close(s); /* without a pass: the reader is stopped in the middle */
    bench_close(b);
    cr_assert_eq(mem_in_use(), before);
}
