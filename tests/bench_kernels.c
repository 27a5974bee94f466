/* bench_kernels.c: check_kernels --bench: the best of several rounds, beside the core's peak measured in the same rounds. */

#define _GNU_SOURCE
#include <time.h>

#include "simd/peaks.h"
#include "tests/check.h"

enum work { BYTES, F32, I8 };

static const peak *find_peak(enum work kind)
{
    return kind == BYTES ? NULL : peak_find(run.set->name, kind == F32 ? PEAK_F32 : PEAK_I8);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* others may share the core */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What the kernel being timed works on. */
enum { BENCH_FLOATS = 1 << 23 };
static struct {
    float *x, *y, *out;
    int8_t *a, *w;
    const float **lines;
    const int8_t **lines_i8;
    int32_t *sums;
    int tokens, segments, depth, rows, nk, width;
    size_t stride;
    activation act;
} b;

/* What memory does for a loop that computes nothing: over arrays that no cache holds. */
typedef struct traffic { void (*plain)(void); double bytes; const char *name; } traffic;

typedef float four __attribute__((vector_size(16), may_alias));

static void loop_read(void)
{
    four s[8] = {{0}};
    for (size_t i = 0; i < BENCH_FLOATS; i += 32)
        for (int j = 0; j < 8; j++)
            s[j] += *(const four *)(const void *)(b.x + i + 4 * j);
    for (int j = 0; j < 8; j++)
        b.lines[j] = s[j][0] > 0 ? b.x : b.y; /* so that it counts */
}

/* A byte written for each float read. */
static void loop_narrow(void)
{
    typedef int32_t four_ints __attribute__((vector_size(16), may_alias));
    for (size_t i = 0; i < BENCH_FLOATS; i += 16) {
        const four_ints *x = (const four_ints *)(const void *)(b.x + i);
        *(four_ints *)(void *)(b.a + i) = x[0] ^ x[1] ^ x[2] ^ x[3];
    }
}

static void loop_copy(void)
{
    for (size_t i = 0; i < BENCH_FLOATS; i += 4)
        *(four *)(void *)(b.out + i) = *(const four *)(const void *)(b.x + i) * 2;
}

#define READS ((traffic){loop_read, 4, "read"})
#define COPIES ((traffic){loop_copy, 8, "read and write"})
#define NARROWS ((traffic){loop_narrow, 5, "read, a quarter written"})

void bench_memory(void)
{
    size_t lines = 1 << 14;
    b.x = aligned_alloc(64, 3 * BENCH_FLOATS * sizeof(float));
    b.a = aligned_alloc(64, 4 * BENCH_FLOATS);
    b.lines = malloc(lines * 2 * sizeof(void *) + lines * sizeof(int32_t));
    if (!b.x || !b.a || !b.lines)
        abort();
    b.y = b.x + BENCH_FLOATS, b.out = b.y + BENCH_FLOATS, b.w = b.a + 2 * BENCH_FLOATS;
    b.lines_i8 = (const int8_t **)(void *)(b.lines + lines), b.sums = (int32_t *)(void *)(b.lines_i8 + lines);
    for (size_t i = 0; i < BENCH_FLOATS; i++) {
        b.x[i] = random_unit(), b.y[i] = random_unit(), b.out[i] = 0;
        for (size_t j = i; j < 4 * BENCH_FLOATS; j += BENCH_FLOATS)
            b.a[j] = (int8_t)random_int(-127, 127);
    }
    memset(b.sums, 0, lines * sizeof *b.sums);
}

static double seconds_of(void (*go)(void))
{
    double t = now();
    go();
    return now() - t;
}

/* Times `go` over all BENCH_FLOATS beside a plain loop with the same traffic, turn about, and prints a line: bytes read and
 * written, and the share of what the plain loop reaches. */
#define STREAM(go, traffic, ...) (begin_case(__VA_ARGS__), time_stream(go, traffic))
static void time_stream(void (*go)(void), traffic kind)
{
    double best = 1e9, plain = 1e9, bytes = (double)BENCH_FLOATS * kind.bytes;
    if (run.set == run.scalar)
        return; /* says nothing about memory */
    for (int round = 0; round < 7; round++) {
        plain = fmin(plain, seconds_of(kind.plain));
        best = fmin(best, seconds_of(go));
    }
    printf("%-16s %-8s %-44s %12.0f ns %8.1f GB/s  %3.0f %% of %.1f (memory, %s)\n", run.kernel, run.set->name, run.shape, best * 1e9,
           bytes / best * 1e-9, 100 * plain / best, bytes / plain * 1e-9, kind.name);
}

/* Times `go` and prints a line; `amount`: operations or bytes of one call; then the shape in words. */
#define TIME(go, kind, amount, ...) (begin_case(__VA_ARGS__), time_kernel(go, kind, amount))
static void time_kernel(void (*go)(void), enum work kind, double amount)
{
    const peak *p = find_peak(kind);
    double best = 1e9, best_peak = 1e9;
    long turns = 20000, calls = 1;
    for (int round = 0; round < 9; round++) {
        double t = now();
        if (p) {
            p->turns(turns);
            best_peak = fmin(best_peak, (now() - t) / (double)turns);
        }
        for (;;) {
            t = now();
            for (long i = 0; i < calls; i++)
                go();
            t = now() - t;
            best = fmin(best, t / (double)calls);
            if (t > 4e-3)
                break;
            calls *= 2;
        }
    }
    printf("%-16s %-8s %-44s %12.0f ns %8.1f %s", run.kernel, run.set->name, run.shape, best * 1e9, amount / best * 1e-9,
           kind == BYTES ? "GB/s" : kind == F32 ? "GFLOP/s" : "GOP/s");
    if (p)
        printf("  %3.0f %% of %.1f (%s)", 100 * amount / best / (p->operations / best_peak), p->operations / best_peak * 1e-9, p->instruction);
    printf("\n");
}

static void go_gemm_f32(void)
{
    int rows = b.rows < 64 ? b.rows : 64; /* as the caller does: panels of 64 rows */
    for (int n = 0; n + rows <= b.rows; n += rows)
        run.set->gemm_f32(b.lines, b.tokens, b.segments, b.depth, b.y + (size_t)n * b.stride, b.stride, rows, b.out + n, (size_t)b.rows);
}

void bench_gemm_f32(void)
{
    static const int shapes[][4] = {{256, 1, 1152, 1152}, {256, 1, 4096, 256}, {64, 1, 1152, 1152}, {1, 1, 1152, 1152}, {7, 1, 1152, 64},
                                    {256, 9, 128, 128}, {256, 9, 256, 256}, {256, 9, 512, 512}, {256, 9, 24, 64}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        b.tokens = shapes[i][0], b.segments = shapes[i][1], b.depth = shapes[i][2], b.rows = shapes[i][3];
        b.stride = (size_t)(b.segments * b.depth);
        for (int s = 0; s < b.segments; s++)
            for (int t = 0; t < b.tokens; t++)
                b.lines[s * b.tokens + t] = b.x + (size_t)(s / 3 * 66 + s % 3 + t) * (size_t)b.depth; /* as a convolution's */
        TIME(go_gemm_f32, F32, 2.0 * b.tokens * b.segments * b.depth * b.rows, "%d tokens, %d x %d, %d rows", b.tokens, b.segments,
              b.depth, b.rows);
    }
}

static void go_gemm_i8(void)
{
    run.set->gemm_i8(b.lines_i8, b.x, b.sums, b.tokens, b.segments, b.depth, b.w, b.y, 16, b.out, 16, NULL, 0);
}

static void bench_panels(void)
{
    static const int shapes[][3] = {{256, 1, 4096}, {256, 1, 1152}, {77, 1, 4096}, {8, 1, 4096}, {1, 1, 4096}, {256, 9, 128}, {256, 9, 320}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes * 2; i++) {
        bool narrow = i & 1;
        b.tokens = shapes[i / 2][0], b.segments = shapes[i / 2][1], b.depth = shapes[i / 2][2];
        for (int j = 0; j < b.tokens * b.segments; j++)
            b.lines_i8[j] = b.a + (size_t)(j % b.tokens + j / b.tokens) * (size_t)b.depth;
        for (size_t j = 0; j < 16 * (size_t)(b.segments * b.depth); j++)
            b.w[j] = (int8_t)(narrow ? random_int(-63, 63) : random_int(-127, 127));
        TIME(go_gemm_i8, I8, 32.0 * b.tokens * b.segments * b.depth, "%d tokens, %d x %d, %s", b.tokens, b.segments, b.depth,
              narrow ? "7-bit weights" : "8-bit weights");
    }
}

/* A convolution 3x3 of an image b.width wide and b.rows high, b.depth to b.depth channels, as the op does it: its pixels to int8, then
 * panel by panel, 64 pixels at a time, through a table of rows. */
static void go_convolution(void)
{
    static const int8_t zero[2048];
    size_t depth = (size_t)b.depth, pixels = (size_t)(b.width * b.rows);
    float *scale = b.out + depth, *scales = scale + pixels, *tile = scales + 9 * 64;
    int32_t *sums = b.sums + 9 * 64;
    for (size_t i = 0; i < pixels; i++)
        run.set->quantize_row(b.x + i * depth, b.depth, b.depth, b.nk, b.out, b.a + i * depth, &scale[i], &sums[i]);
    for (size_t t = 0; t < pixels; t += 64) {
        for (int at = 0; at < 9 * 64; at++) {
            int pixel = (int)t + at % 64, y = pixel / b.width + at / 64 / 3 - 1, x = pixel % b.width + at / 64 % 3 - 1;
            bool inside = y >= 0 && y < b.rows && x >= 0 && x < b.width;
            size_t from = inside ? (size_t)(y * b.width + x) : 0;
            b.lines_i8[at] = inside ? b.a + from * depth : zero;
            scales[at] = inside ? scale[from] : 0;
            b.sums[at] = inside ? sums[from] : 0;
        }
        for (size_t n = 0; n < depth; n += PANEL_ROWS)
            run.set->gemm_i8(b.lines_i8, scales, b.sums, 64, 9, b.depth, b.w + n * 9 * depth, b.y + n, PANEL_ROWS, tile + n, depth, b.w + (n + PANEL_ROWS) % depth * 9 * depth,
                             PANEL_ROWS * 9 * depth);
    }
}

static void bench_convolution(void)
{
    static const int shapes[][4] = {{320, 64, 64, 64}, {1280, 16, 16, 256}, {512, 128, 16, 256}}; /* channels, width, height, rotation */
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && run.set != run.scalar; i++) {
        b.depth = shapes[i][0], b.width = shapes[i][1], b.rows = shapes[i][2], b.nk = shapes[i][3];
        TIME(go_convolution, I8, 18.0 * b.depth * b.depth * b.width * b.rows, "conv 3x3 with quantize, %d to %d, %d x %d", b.depth, b.depth,
             b.width, b.rows);
    }
}

void bench_gemm_i8(void)
{
    bench_panels();
    bench_convolution();
}

/* 4096 x 4096 weights of type q4 as they lie in memory by b.tokens tokens: each panel decoded, then multiplied. */
static void go_q4(void)
{
    const size_t panel = 4096 * 8 + 4096 / 2;
    int8_t *decoded = (int8_t *)(void *)b.out;
    for (int n = 0; n < 4096; n += PANEL_ROWS) {
        const uint8_t *from = (const uint8_t *)b.w + (size_t)(n / PANEL_ROWS) * panel;
        run.set->decode_q4(from, from + 4096 / 2, 4096, (const int8_t *)(const void *)b.y, decoded);
        run.set->gemm_i8(b.lines_i8, b.x, b.sums, b.tokens, 1, 4096, decoded, b.x, PANEL_ROWS, b.out + (1 << 16) + n, 4096, from + panel, panel);
    }
}

static void go_decode_q4(void) { run.set->decode_q4((uint8_t *)b.a, (uint8_t *)b.a + 65536, 4096, b.w, b.w + 256); }
void bench_decode_q4(void)
{
    static const int tokens[] = {256, 77, 20};
    TIME(go_decode_q4, BYTES, 4096 * 8.5, "depth 4096");
    for (int i = 0; i < 256; i++)
        ((int8_t *)(void *)b.y)[i] = (int8_t)(i % 16 * 8 - 60); /* a table, of 7 bits as all of q4's */
    for (int i = 0; i < 3 && run.set != run.scalar; i++) {
        b.tokens = tokens[i];
        for (int t = 0; t < b.tokens; t++)
            b.lines_i8[t] = b.a + (size_t)t * 4096;
        TIME(go_q4, I8, 2.0 * 4096 * 4096 * b.tokens, "q4 product 4096 x 4096, %d tokens, decode included", b.tokens);
    }
}

#define BENCH(name, call, bytes, ...)     \
    static void go_##name(void) { call; } \
    void bench_##name(void) { TIME(go_##name, BYTES, bytes, __VA_ARGS__); }
BENCH(decode_q5, run.set->decode_q5((uint8_t *)b.a, (uint8_t *)b.a + 65536, (uint8_t *)b.a + 131072, 4096, b.w, b.w + 256), 4096 * 10.5, "depth 4096")
BENCH(f16_to_f32, run.set->f16_to_f32((uint16_t *)(void *)b.a, b.out, 4096), 16384, "n 4096 (bytes out)")
BENCH(bf16_to_f32, run.set->bf16_to_f32((uint16_t *)(void *)b.a, b.out, 4096), 16384, "n 4096 (bytes out)")
BENCH(f8e4m3_to_f32, run.set->f8e4m3_to_f32((uint8_t *)b.a, b.out, 4096), 16384, "n 4096 (bytes out)")
BENCH(add_gated, run.set->add_gated(b.out, b.y, b.x, 4096), 16384, "n 4096, gate")

/* On arrays that no cache holds, row by row as the ops call them: rows of b.depth. */
#define EACH_ROW(call) for (size_t i = 0; i + (size_t)b.depth <= BENCH_FLOATS; i += (size_t)b.depth) call
static void go_layer_norm(void) { EACH_ROW(run.set->layer_norm(b.x + i, b.depth, 1e-6f, b.y, b.y + b.depth, b.out + i)); }
static void go_rms_norm(void) { EACH_ROW(run.set->rms_norm(b.x + i, b.depth, 1e-6f, b.y, b.out + i)); }
static void go_channel_sums(void) { EACH_ROW(run.set->channel_sums(b.x + i, 64, b.depth / 64, b.out, b.out + 4096)); }
static void small_layer_norm(void) { run.set->layer_norm(b.x, 1152, 1e-6f, NULL, NULL, b.out); }
static void small_rms_norm(void) { run.set->rms_norm(b.x, 1152, 1e-6f, b.y, b.out); }
static void small_channel_sums(void) { run.set->channel_sums(b.x, 64, 320, b.out, b.out + 4096); }

void bench_layer_norm(void)
{
    TIME(small_layer_norm, BYTES, 4608, "n 1152");
    b.depth = 1152;
    STREAM(go_layer_norm, COPIES, "rows of %d, gain and bias, large", b.depth);
}

void bench_rms_norm(void)
{
    TIME(small_rms_norm, BYTES, 4608, "n 1152, gain");
    b.depth = 4096;
    STREAM(go_rms_norm, COPIES, "rows of %d, gain, large", b.depth);
}

void bench_channel_sums(void)
{
    TIME(small_channel_sums, BYTES, 64 * 320 * 4.0, "64 pixels, 320 channels");
    b.depth = 64 * 320;
    STREAM(go_channel_sums, READS, "64 pixels, 320 channels, large");
}

static void go_search_codes(void)
{
    static const uint8_t zeros[256]; /* the time depends on neither levels nor numbers */
    int64_t sums[4] = {0};
    run.set->search_codes(b.x, 256, 1, 16000, zeros, b.rows, zeros, NULL, NULL, sums);
}
void bench_search_codes(void)
{
    for (b.rows = 8; b.rows <= 16; b.rows += 8)
        TIME(go_search_codes, BYTES, 4096 * 4.0, "4096 numbers, %d levels", b.rows);
}

static void go_quantize_row(void) { run.set->quantize_row(b.x, b.depth, b.depth, b.rows, b.out, b.a, b.out + 65536, b.sums); }
static void go_rotate_row(void) { run.set->rotate_row(b.x, b.depth, b.rows, b.out); }
static void bench_rows(void (*go)(void))
{
    static const int shapes[][2] = {{4096, 0}, {4096, 16}, {4096, 64}, {4096, 256}, {1152, 128}, {320, 64}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        b.depth = shapes[i][0], b.rows = shapes[i][1];
        TIME(go, BYTES, b.depth * 4.0, "depth %d, block %d", b.depth, b.rows);
    }
}
static void stream_quantize_row(void)
{
    EACH_ROW(run.set->quantize_row(b.x + i, b.depth, b.depth, b.rows, b.out, b.a + i % (2 * (size_t)BENCH_FLOATS - 4096), b.out + 65536, b.sums));
}
void bench_quantize_row(void)
{
    bench_rows(go_quantize_row);
    static const int shapes[][2] = {{4096, 256}, {1152, 128}, {320, 64}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        b.depth = shapes[i][0], b.rows = shapes[i][1];
        STREAM(stream_quantize_row, NARROWS, "rows of %d, block %d, large", b.depth, b.rows);
    }
}
void bench_rotate_row(void) { bench_rows(go_rotate_row); }

static void go_attention(void)
{
    run.set->attention(b.x, b.stride, b.tokens, b.x, b.stride, b.y, b.stride, b.nk, b.width, b.width, 0.2f, NULL, 0, b.out,
                       (size_t)b.width, b.out + 65536);
}

void bench_attention(void)
{
    static const int shapes[][4] = {{16, 4096, 40, 320}, {16, 4096, 64, 64}, {16, 4096, 64, 1152}, {16, 4096, 64, 1024}, {16, 4096, 72, 1152},
                                    {16, 1024, 80, 640}, {16, 77, 40, 320}, {16, 120, 72, 1152}, {16, 1024, 512, 512}, {1, 4096, 64, 1152}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        b.tokens = shapes[i][0], b.nk = shapes[i][1], b.width = shapes[i][2], b.stride = (size_t)shapes[i][3];
        TIME(go_attention, F32, 4.0 * b.tokens * b.nk * b.width, "%d queries, %d keys, heads of %d, stride %zu", b.tokens, b.nk,
              b.width, b.stride);
    }
}

/* One head as the op runs it: packed, then all tiles of queries. b.rows: queries in all. */
static void go_attention_packed(void)
{
    size_t tile = attention_tile_bytes(b.act ? NULL : run.set, b.width, b.width);
    char *packed = (char *)b.a;
    for (int i = 0; i < b.nk; i += KEY_TILE)
        run.set->attention_pack(b.x + (size_t)i * b.stride, b.stride, b.y + (size_t)i * b.stride, b.stride,
                                b.nk - i < KEY_TILE ? b.nk - i : KEY_TILE, b.width, b.width, b.act, packed + (size_t)(i / KEY_TILE) * tile);
    for (int i = 0; i < b.rows; i += QUERY_TILE)
        run.set->attention_packed(b.x + (size_t)i * b.stride, b.stride, QUERY_TILE, packed, b.nk, b.width, b.width, 0.2f, NULL, 0, b.act,
                                  b.out + 65536 + (size_t)i * b.stride, b.stride, b.out);
}

void bench_attention_packed(void)
{
    static const int shapes[][4] = {{4096, 4096, 40, 320}, {4096, 4096, 64, 512}, {1024, 300, 72, 1152}, {1024, 300, 64, 512}, {1024, 1024, 80, 640},
                                    {1024, 1024, 72, 1152}, {80, 77, 64, 4096}, {1024, 1024, 512, 512}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int exact = 1; exact >= (run.set->attention_element == 4 ? 1 : 0); exact--) {
            b.rows = shapes[i][0], b.nk = shapes[i][1], b.width = shapes[i][2], b.stride = (size_t)shapes[i][3], b.act = exact ? ACT_RELU : ACT_NONE;
            TIME(go_attention_packed, F32, 4.0 * b.rows * b.nk * b.width, "%d x %d, heads of %d, stride %zu%s", b.rows, b.nk, b.width,
                  b.stride, exact ? "" : ", bf16");
        }
}

static void go_attention_pack(void)
{
    run.set->attention_pack(b.x, 1152, b.y, 1152, KEY_TILE, 72, 72, false, b.out);
}
void bench_attention_pack(void) { TIME(go_attention_pack, BYTES, KEY_TILE * 144 * 4.0, "%d keys, 72 wide of 1152", KEY_TILE); }

static void go_activate(void) { run.set->activate(b.act, b.x, b.out, 4096); }
static void go_scale_shift_act(void) { run.set->scale_shift_act(b.x, b.y, b.y + 4096, b.act, b.out, 4096); }
static void go_act_mul(void) { run.set->act_mul(b.act, b.x, b.y, b.out, 4096); }
static void bench_acts(void (*go)(void))
{
    for (int act = 0; act < ACTS; act++) {
        b.act = (activation)act;
        TIME(go, BYTES, 4096 * 4.0, "n 4096, %s", act_names[act]);
    }
}
static void stream_activate(void) { run.set->activate(b.act, b.x, b.out, BENCH_FLOATS); }
static void stream_scale_shift_act(void) { EACH_ROW(run.set->scale_shift_act(b.x + i, b.y, b.y + b.depth, b.act, b.out + i, (size_t)b.depth)); }
static void stream_acts(void (*go)(void))
{
    static const activation which[] = {ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF};
    b.depth = 320;
    for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
        b.act = which[i];
        STREAM(go, COPIES, "%s, large", act_names[b.act]);
    }
}

void bench_activate(void)
{
    bench_acts(go_activate);
    stream_acts(stream_activate);
}

void bench_scale_shift_act(void)
{
    bench_acts(go_scale_shift_act);
    stream_acts(stream_scale_shift_act);
}

void bench_act_mul(void) { bench_acts(go_act_mul); }
