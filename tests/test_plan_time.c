/* Predicted seconds follow what a run does: they are those of the slower of disk and ops, and of both where the ring is too small to hide one behind the other. */
#include <criterion/criterion.h>

#include "compute/plan_time.h"

enum { USES = 40, ROWS = 1024, DEPTH = 1024, UNIT = 256 << 10 };

static const double BYTES = 4.0 * ROWS * DEPTH * USES;

typedef struct bench {
    weight w[USES];
    weight_part part[USES];
    plan_use use[USES];
    plan p;
    machine_rates m;
    residency how;
} bench;

/* USES matrices of f32 by 16 tokens. The machine's disk takes `disk` seconds for all of a pass, its ops `ops`; nothing else takes time. */
static bench *bench_of(double disk, double ops, uint64_t ring, uint64_t pins)
{
    static bench b;
    b = (bench){.p = {.stage = "t", .uses = USES, .use = b.use, .stream_bytes = (uint64_t)BYTES}, .how = {.ring_bytes = ring, .unit_bytes = UNIT, .pin_bytes = pins}};
    b.m = (machine_rates){.threads = 1, .read_byte = disk / BYTES, .read_byte_small = disk / BYTES};
    b.m.product[PRODUCT_SINGLE].operation = ops / (2.0 * 16 * ROWS * DEPTH * USES);
    for (int i = 0; i < USES; i++) {
        matrix_shape m = {ROWS, 1, DEPTH};
        uint64_t bytes = 4 * ROWS * DEPTH;
        b.part[i] = (weight_part){4096 + (uint64_t)i * bytes, bytes, 0, ROWS, -1};
        b.w[i] = (weight){.component = "", .name = "w", .type = TYPE_F32, .dims = 2, .shape = {ROWS, DEPTH}, .matrix = m, .parts = 1, .part = &b.part[i]};
        b.use[i] = (plan_use){.weight = &b.w[i], .role = ROLE_LINEAR, .matrix = m, .operations = 2 * 16 * ROWS * DEPTH, .repeats = 1};
    }
    return &b;
}

static double seconds_of(const bench *b, int passes, double window_share)
{
    status st = STATUS_INIT;
    double seconds = plan_seconds(&b->p, &b->how, &b->m, passes, false, window_share, &st);
    cr_assert(status_ok(&st));
    return seconds;
}

static void expect(double seconds, double low, double high) { cr_expect(low <= seconds && seconds <= high, "%f is not in %f .. %f", seconds, low, high); }

enum { ROOMY = 32 << 20, NARROW = 3 * UNIT };

Test(plan_time, the_slower_of_disk_and_ops)
{
    expect(seconds_of(bench_of(10, 1, ROOMY, 0), 1, 0), 10, 10.2);
    expect(seconds_of(bench_of(1, 10, ROOMY, 0), 1, 0), 10, 10.2);
    expect(seconds_of(bench_of(1, 10, ROOMY, 0), 5, 0), 50, 50.2);
    expect(seconds_of(bench_of(0, 10, ROOMY, 0), 1, 0), 10, 10.001); /* a disk that takes no time */
}

/* An op that takes a fifth of the pass, in the middle: a wide ring is filled meanwhile, a narrow one soon is full. */
Test(plan_time, a_narrow_ring_hides_less)
{
    bench *b = bench_of(10, 1, ROOMY, 0);
    b->m.attention = 2;
    b->use[USES / 2].before.attention_operations = 1;
    double wide = seconds_of(b, 1, 0);
    b->how.ring_bytes = NARROW;
    double narrow = seconds_of(b, 1, 0);
    expect(wide, 10, 10.3);
    expect(narrow, 1.3 * wide + 1.5, 1.3 * wide + 2.5);
}

Test(plan_time, pinned_units_are_read_once)
{
    double all = seconds_of(bench_of(10, 1, ROOMY, 0), 4, 0), half = seconds_of(bench_of(10, 1, ROOMY, (uint64_t)BYTES / 2), 4, 0);
    expect(all, 40, 40.3);
    expect(half, 24.5, 25.5);
    expect(seconds_of(bench_of(10, 1, 0, (uint64_t)BYTES * 2), 4, 0), 13, 13.3);
}

Test(plan_time, a_mapping_is_read_once)
{
    bench *b = bench_of(10, 1, 0, 0);
    b->how = (residency){.mapped = true};
    expect(seconds_of(b, 4, 0), 13, 13.4);
}

/* A region's weights are read once and multiplied four times. */
Test(plan_time, regions)
{
    bench *b = bench_of(1, 10, ROOMY, 0);
    for (int i = 10; i < 14; i++) {
        b->use[i].region = 1;
        b->use[i].repeats = 4;
        b->use[i].operations *= 4;
    }
    expect(seconds_of(b, 1, 0), 13, 13.2);
}

Test(plan_time, the_scratch_file)
{
    bench *b = bench_of(1, 1, ROOMY, 0);
    b->m.scratch_byte = 1e-9;
    b->m.scratch_request = 1e-3;
    b->use[5].before.map_bytes = 4000000000;
    b->use[5].before.map_requests = 1000;
    expect(seconds_of(b, 1, 0), 5.9, 6.2);
    expect(seconds_of(b, 1, 0.5), 3.4, 3.7);
    expect(seconds_of(b, 1, 1), 1, 1.2);
}

Test(plan_time, what_is_smaller_never_takes_longer)
{
    double before = 0;
    for (int uses = 1; uses <= USES; uses++) {
        bench *b = bench_of(3, 2, NARROW, 0);
        b->p.uses = uses;
        double now = seconds_of(b, 2, 0);
        cr_assert_geq(now, before, "%d uses", uses);
        before = now;
    }
}
