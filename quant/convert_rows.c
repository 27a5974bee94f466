/* A worker's memory, the way from a file to rows of f32, and what a few rows say about a tensor. */
#include "quant/convert_tensors.h"

#include <string.h>

#include "base/mem.h"

enum { SAMPLE_RUNS = 4 };

/* ---- memory ---- */

static size_t up64(size_t n) { return (n + 63) / 64 * 64; }

static size_t row_numbers(const out_tensor *t) { return (size_t)t->e.matrix.taps * (size_t)t->e.matrix.depth; }

/* Of the file, in the shape that the plan asks for. */
static size_t source_row_bytes(const out_tensor *t) { return type_unit_bytes(t->w->type, &t->e.matrix); }

static size_t chunk_unit_bytes(const out_tensor *t)
{
    int step = type_unit_rows(t->e.type);
    return (size_t)((t->chunk_rows + step - 1) / step) * type_unit_bytes(t->e.type, &t->e.matrix);
}

/* The parts of a worker's memory, in this order; each as large as one tensor or another wants it. */
static void needs(const out_tensor *t, size_t bytes[5])
{
    memset(bytes, 0, 5 * sizeof *bytes);
    bytes[0] = up64(chunk_unit_bytes(t));
    if (t->copy)
        return;
    bytes[1] = t->draw ? 0 : up64((size_t)t->chunk_rows * source_row_bytes(t));
    bytes[2] = up64((size_t)t->chunk_rows * row_numbers(t) * sizeof(float));
    bytes[3] = up64(row_numbers(t) * sizeof(float)); /* type_to_f32 turns one row of a convolution at a time */
    bytes[4] = encode_scratch_bytes(&t->e);
}

static void set_chunk_rows(out_tensor *t, size_t target)
{
    int64_t step = type_unit_rows(t->e.type), units = (int64_t)(target / (row_numbers(t) * sizeof(float))) / step;
    int64_t all = (t->e.matrix.rows + step - 1) / step * step;
    t->chunk_rows = units < 1 ? step : units * step;
    if (t->chunk_rows > all)
        t->chunk_rows = all;
}

static void most_of_all(const out_list *l, size_t most[5])
{
    memset(most, 0, 5 * sizeof *most);
    for (int i = 0; i < l->count; i++) {
        size_t bytes[5];
        needs(&l->tensor[i], bytes);
        for (int j = 0; j < 5; j++)
            most[j] = bytes[j] > most[j] ? bytes[j] : most[j];
    }
}

size_t convert_worker_bytes(out_list *l, size_t target)
{
    size_t most[5], sum = 0;
    for (int i = 0; i < l->count; i++)
        set_chunk_rows(&l->tensor[i], target);
    most_of_all(l, most);
    for (int j = 0; j < 5; j++)
        sum += most[j];
    return sum;
}

worker_memory convert_divide(const out_list *l, char *p)
{
    size_t most[5];
    most_of_all(l, most);
    worker_memory m = {.units = (uint8_t *)p};
    m.raw = (uint8_t *)(p += most[0]);
    m.rows = (float *)(void *)(p += most[1]);
    m.tmp = p += most[2];
    m.scratch = p + most[3];
    return m;
}

/* ---- reading ---- */

/* Whole units of the file, one part after the other. Rows counted as the plan counts them: of a file's single part they are
 * simply the next bytes. */
bool convert_read_units(const out_tensor *t, int64_t first, int64_t rows, uint8_t *out, status *st)
{
    const weight *w = t->w;
    size_t unit = source_row_bytes(t), head = type_head_bytes(w->type);
    int64_t step = type_unit_rows(w->type);
    for (int i = 0; i < w->parts && rows > 0; i++) {
        const weight_part *p = &w->part[i];
        int64_t end = w->parts == 1 ? t->e.matrix.rows : p->first_row + p->rows;
        if (first >= end)
            continue;
        int64_t now = end - first < rows ? end - first : rows, skip = (first - p->first_row) / step;
        size_t bytes = (size_t)((now + step - 1) / step) * unit;
        if (!io_read(t->from->file[w->file], p->offset + head + (uint64_t)skip * unit, out, bytes, st))
            return false;
        out += bytes;
        first += now;
        rows -= now;
    }
    return true;
}

bool convert_load_rows(const kernels *k, const out_tensor *t, int64_t first, int64_t rows, const worker_memory *m, float *out, status *st)
{
    if (t->draw) {
        random_fill(&t->random, (uint64_t)first * row_numbers(t), (size_t)rows * row_numbers(t), out);
        return true;
    }
    if (!convert_read_units(t, first, rows, m->raw, st))
        return false;
    for (int64_t r = 0; r < rows; r++)
        type_to_f32(k, t->w->type, &t->e.matrix, t->w->oihw, NULL, m->raw + (size_t)r * source_row_bytes(t), 1, m->tmp,
                    out + (size_t)r * row_numbers(t));
    return true;
}

/* ---- a few rows from all over the tensor ---- */

/* Runs of one panel's rows at most, which is the least chunk: the choice must not depend on how large chunks are. */
static int64_t sample_rows(const out_tensor *t, int i, int64_t *first)
{
    int64_t rows = t->e.matrix.rows, run = rows / SAMPLE_RUNS;
    run = run > PANEL_ROWS ? PANEL_ROWS : run < 1 ? 1 : run;
    *first = (rows - run) * i / (SAMPLE_RUNS - 1);
    return run;
}

bool convert_find_head(const kernels *k, out_tensor *t, const worker_memory *m, uint8_t *head, status *st)
{
    if (t->copy)
        return io_read(t->from->file[t->w->file], t->w->part[0].offset, head, type_head_bytes(t->e.type), st);
    encode_trial trial = {{0}};
    for (int i = 0; i < SAMPLE_RUNS; i++) {
        int64_t first, run = sample_rows(t, i, &first);
        if (!convert_load_rows(k, t, first, run, m, m->rows, st))
            return false;
        encode_try(&t->e, k, m->rows, run, m->scratch, &trial);
    }
    encode_head(&t->e, &trial, head);
    return true;
}

/* The head, and the error that the sample has with it. */
static bool probe_one(const kernels *k, out_tensor *t, const worker_memory *m, status *st)
{
    encode_sum sum = {0};
    if (!convert_find_head(k, t, m, t->head, st))
        return false;
    for (int i = 0; i < SAMPLE_RUNS; i++) {
        int64_t first, run = sample_rows(t, i, &first);
        if (!convert_load_rows(k, t, first, run, m, m->rows, st) ||
            !encode_rows(&t->e, k, t->head, m->rows, first, run, m->scratch, m->units, &sum, st))
            return false;
    }
    t->head_known = true;
    t->sampled_error = encode_relative(&sum);
    return true;
}

bool convert_probe(out_list *l, uint64_t room, uint64_t *needed, status *st)
{
    size_t bytes = convert_worker_bytes(l, 1);
    *needed = bytes;
    if (room && bytes > room)
        return true; /* the converter will not run either, and says what would do */
    char *memory = mem_map(bytes + 1, "conversion", st);
    worker_memory m = memory ? convert_divide(l, memory) : (worker_memory){0};
    for (int i = 0; memory && i < l->count && status_ok(st); i++)
        if (l->tensor[i].probe)
            probe_one(kernels_best(), &l->tensor[i], &m, st);
    mem_unmap(memory, bytes + 1);
    return status_ok(st);
}
