/* Sums are in double precision: where many tokens have the same input (attention to a text of one token) the roundings of single precision add up, and
 * what comes of it is no matrix of moments any more. Every sum takes its terms one by one in the order of the rows, so that slabs (which are a matter of
 * the budget) leave no trace in the last bits; threads share the rows of a window. */
#include "weights/moments.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"
#include "quant/types.h"
#include "weights/scratch.h"

enum { LANES = 16, ROWS_AT_ONCE = 64, WIDEST_WINDOW = 768 };

typedef struct entry {
    const weight *w;
    int32_t depth;
    int window;
    uint64_t place;     /* in numbers, of all or of the file */
    int64_t rows;
} entry;

struct input_moments {
    int count;
    entry *entry;       /* sorted by weight */
    double *sums;       /* all of them; or of one, that of the file's which is being worked on */
    uint64_t numbers;   /* in sums */
    scratch_file *file; /* NULL: all are in memory */
    float *rows;        /* [ROWS_AT_ONCE][deepest], rotated */
    uint64_t row_floats;
};

int moments_window(int32_t depth)
{
    int block = rotation_block(depth), window = 0;
    if (block > WIDEST_WINDOW)
        return block / 2;
    for (int w = block; block && w <= WIDEST_WINDOW && w <= depth; w += block)
        window = depth % w == 0 ? w : window;
    return window;
}

static uint64_t numbers_of(const entry *e) { return (uint64_t)e->depth * (uint64_t)e->window; }

static int by_weight(const void *x, const void *y)
{
    const entry *a = x, *b = y;
    return a->w == b->w ? 0 : (uintptr_t)a->w < (uintptr_t)b->w ? -1 : 1;
}

/* Whole pages, as all entries are: what lies in the file goes past the page cache. */
static size_t sums_bytes(const input_moments *m) { return (size_t)m->numbers * sizeof(double) + 4096; }

/* ---- opening ---- */

static bool is_matrix(const plan_use *u) { return u->role != ROLE_VECTOR && u->role != ROLE_EMBEDDING && moments_window(u->matrix.depth) > 0; }

static void list_entries(input_moments *m, const plan *const *plans, int count)
{
    int n = 0;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < plans[i]->uses; k++) {
            const plan_use *u = &plans[i]->use[k];
            if (is_matrix(u))
                m->entry[n++] = (entry){.w = u->weight, .depth = u->matrix.depth, .window = moments_window(u->matrix.depth)};
        }
    qsort(m->entry, (size_t)n, sizeof *m->entry, by_weight);
    for (int i = 0; i < n; i++)
        if (m->count == 0 || m->entry[m->count - 1].w != m->entry[i].w)
            m->entry[m->count++] = m->entry[i];
}

/* Places for all; returns how many numbers that are, and those of the largest. */
static uint64_t place_entries(input_moments *m, uint64_t *largest)
{
    uint64_t all = 0, deepest = 0;
    *largest = 0;
    for (int i = 0; i < m->count; i++) {
        entry *e = &m->entry[i];
        e->place = all;
        all += numbers_of(e);
        *largest = numbers_of(e) > *largest ? numbers_of(e) : *largest;
        deepest = (uint64_t)e->depth > deepest ? (uint64_t)e->depth : deepest;
    }
    m->row_floats = ROWS_AT_ONCE * deepest;
    return all;
}

input_moments *moments_open(const plan *const *plans, int count, uint64_t limit, const char *folder, status *st)
{
    int uses = 0;
    for (int i = 0; i < count; i++)
        uses += plans[i]->uses;
    input_moments *m = mem_alloc(1, sizeof *m, "calibration", st);
    if (m)
        m->entry = mem_alloc((size_t)uses + 1, sizeof *m->entry, "calibration", st);
    if (m && m->entry) {
        uint64_t largest;
        list_entries(m, plans, count);
        m->numbers = place_entries(m, &largest);
        if (limit && m->numbers * sizeof(double) + m->row_floats * sizeof(float) > limit) {
            m->file = scratch_open(folder, m->numbers * sizeof(double), 0, st);
            m->numbers = largest;
        }
        m->rows = status_ok(st) ? mem_alloc(m->row_floats + 1, sizeof(float), "calibration", st) : NULL;
        m->sums = m->rows ? mem_map(sums_bytes(m), "calibration", st) : NULL;
    }
    if (status_ok(st))
        return m;
    moments_close(m);
    return NULL;
}

void moments_close(input_moments *m)
{
    if (!m)
        return;
    scratch_close(m->file);
    mem_unmap(m->sums, sums_bytes(m));
    mem_free(m->rows);
    mem_free(m->entry);
    mem_free(m);
}

uint64_t moments_bytes(const input_moments *m)
{
    return m ? sizeof *m + (uint64_t)m->count * sizeof(entry) + m->numbers * sizeof(double) + m->row_floats * sizeof(float) : 0;
}

/* ---- gathering ---- */

static entry *find(const input_moments *m, const weight *w)
{
    entry key = {.w = w};
    return bsearch(&key, m->entry, (size_t)m->count, sizeof key, by_weight);
}

/* The sums of an entry, read from the file where they lie there. */
static double *load(input_moments *m, const entry *e, status *st)
{
    if (!m->file)
        return m->sums + e->place;
    if (e->rows == 0)
        memset(m->sums, 0, numbers_of(e) * sizeof(double));
    else if (!scratch_wait(m->file, scratch_read(m->file, e->place * sizeof(double), m->sums, numbers_of(e) * sizeof(double)), st))
        return NULL;
    return m->sums;
}

typedef struct sum_job {
    const float *x;     /* [rows][depth], rotated */
    int64_t rows;
    const entry *e;
    double *sums;
} sum_job;

/* LANES rows of a window, from the diagonal on. */
static void sum_strip(void *ctx, int64_t task, int worker)
{
    const sum_job *j = ctx;
    int64_t strips = j->e->window / LANES, depth = j->e->depth, width = j->e->window;
    int64_t window = task / strips, first = task % strips * LANES;
    const float *x = j->x + window * width;
    double *sums = j->sums + window * width * width;
    (void)worker;
    for (int64_t k = first; k < width; k += LANES)
        for (int64_t i = first; i < first + LANES; i++) {
            double part[LANES], *to = sums + i * width + k;
            memcpy(part, to, sizeof part);
            for (int64_t r = 0; r < j->rows; r++) {
                const float *row = x + r * depth;
                float by = row[i];
                for (int l = 0; l < LANES; l++)
                    part[l] += by * row[k + l];
            }
            memcpy(to, part, sizeof part);
        }
}

bool moments_add(input_moments *m, const weight *w, const float *x, int64_t rows, int32_t depth, const kernels *k, struct threads *pool, status *st)
{
    entry *e = find(m, w);
    if (!e || e->depth != depth || rows < 1)
        return true;
    double *sums = load(m, e, st);
    if (!sums)
        return false;
    for (int64_t r = 0; r < rows; r += ROWS_AT_ONCE) {
        sum_job j = {m->rows, rows - r < ROWS_AT_ONCE ? rows - r : ROWS_AT_ONCE, e, sums};
        for (int64_t i = 0; i < j.rows; i++)
            k->rotate_row(x + (r + i) * depth, depth, rotation_block(depth), m->rows + i * depth);
        threads_run(pool, (int64_t)depth / LANES, sum_strip, &j);
    }
    e->rows += rows;
    return !m->file || scratch_wait(m->file, scratch_write(m->file, e->place * sizeof(double), sums, numbers_of(e) * sizeof(double)), st);
}

/* ---- what came of it ---- */

int64_t moments_rows(const input_moments *m, const weight *w)
{
    const entry *e = m ? find(m, w) : NULL;
    return e ? e->rows : 0;
}

bool moments_get(input_moments *m, const weight *w, float *out, status *st)
{
    const entry *e = find(m, w);
    const double *sums = load(m, e, st);
    if (!sums)
        return false;
    double by = 1 / (double)e->rows;
    for (uint64_t i = 0; i < numbers_of(e); i++)
        out[i] = (float)(sums[i] * by);
    return true;
}
