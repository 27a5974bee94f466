/* A tensor is cut into chunks of whole units. Threads take chunks in order, read, convert and encode them side by side, and write them
 * in turn: no queue, no thread that only waits, and each holds one chunk and no more. */
#include "quant/convert_tensors.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "base/mem.h"

enum { SAMPLE_RUNS = 4, MOST_THREADS = 64 };

typedef struct conversion {
    out_list *list;
    pack_writer *writer;
    const convert_request *q;
    const kernels *k;
    size_t worker_bytes;
    pthread_mutex_t lock;
    pthread_cond_t moved;        /* a head became known, a chunk was written, or all is lost */
    int tensor, writing;         /* the next chunk to take, and to write */
    int64_t chunk, writing_chunk;
    uint64_t numbers;            /* written */
    status *st;                  /* the first error; under the lock */
} conversion;

typedef struct worker_memory {
    uint8_t *raw, *units;
    float *rows;
    void *tmp, *scratch;
} worker_memory;

typedef struct chunk {
    out_tensor *t;
    int tensor;
    int64_t number, first_row, rows;
} chunk;

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

static worker_memory divide(const conversion *c, char *p)
{
    size_t most[5];
    most_of_all(c->list, most);
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
static bool read_units(const out_tensor *t, int64_t first, int64_t rows, uint8_t *out, status *st)
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

static bool load_rows(const conversion *c, const out_tensor *t, int64_t first, int64_t rows, const worker_memory *m, float *out, status *st)
{
    if (t->draw) {
        random_fill(&t->random, (uint64_t)first * row_numbers(t), (size_t)rows * row_numbers(t), out);
        return true;
    }
    if (!read_units(t, first, rows, m->raw, st))
        return false;
    for (int64_t r = 0; r < rows; r++)
        type_to_f32(c->k, t->w->type, &t->e.matrix, t->w->oihw, NULL, m->raw + (size_t)r * source_row_bytes(t), 1, m->tmp,
                    out + (size_t)r * row_numbers(t));
    return true;
}

/* A few rows from all over the tensor decide about its tables. */
static bool find_head(const conversion *c, out_tensor *t, const worker_memory *m, uint8_t *head, status *st)
{
    if (t->copy)
        return io_read(t->from->file[t->w->file], t->w->part[0].offset, head, type_head_bytes(t->e.type), st);
    /* One panel's rows at a time, which is the least chunk: the choice must not depend on how large chunks are. */
    int64_t rows = t->e.matrix.rows, run = rows / (8 * SAMPLE_RUNS);
    run = run < 4 ? 4 : run > PANEL_ROWS ? PANEL_ROWS : run;
    run = run < rows ? run : rows;
    encode_trial trial = {{0}};
    for (int i = 0; i < SAMPLE_RUNS; i++) {
        if (!load_rows(c, t, (rows - run) * i / (SAMPLE_RUNS - 1), run, m, m->rows, st))
            return false;
        encode_try(&t->e, c->k, m->rows, run, m->scratch, &trial);
    }
    encode_head(&t->e, &trial, head);
    return true;
}

/* ---- one chunk ---- */

/* The next chunk in order; false when there is none, or when all is lost. Called and left with the lock held. */
static bool take(conversion *c, chunk *out)
{
    if (!status_ok(c->st) || c->tensor == c->list->count)
        return false;
    out_tensor *t = &c->list->tensor[c->tensor];
    *out = (chunk){.t = t, .tensor = c->tensor, .number = c->chunk, .first_row = c->chunk * t->chunk_rows};
    out->rows = t->e.matrix.rows - out->first_row < t->chunk_rows ? t->e.matrix.rows - out->first_row : t->chunk_rows;
    c->chunk++;
    if (out->first_row + out->rows == t->e.matrix.rows) {
        c->tensor++;
        c->chunk = 0;
    }
    return true;
}

/* The thread that has a tensor's first chunk finds the head, the others wait for it. Called and left with the lock held. */
static bool wait_for_head(conversion *c, const chunk *n, const worker_memory *m)
{
    if (n->number == 0 && type_head_bytes(n->t->e.type)) {
        uint8_t head[CODE_HEAD_BYTES];
        status st = STATUS_INIT;
        pthread_mutex_unlock(&c->lock);
        bool ok = find_head(c, n->t, m, head, &st);
        pthread_mutex_lock(&c->lock);
        if (!ok)
            return status_set(c->st, st.code, "%s", st.text);
        memcpy(n->t->head, head, sizeof head);
        n->t->head_known = true;
        pthread_cond_broadcast(&c->moved);
    }
    while (type_head_bytes(n->t->e.type) && !n->t->head_known && status_ok(c->st))
        pthread_cond_wait(&c->moved, &c->lock);
    return status_ok(c->st);
}

static bool encode_chunk(const conversion *c, const chunk *n, const worker_memory *m, encode_sum *sum, status *st)
{
    const out_tensor *t = n->t;
    if (t->copy)
        return read_units(t, n->first_row, n->rows, m->units, st);
    return load_rows(c, t, n->first_row, n->rows, m, m->rows, st) &&
           encode_rows(&t->e, c->k, t->head, m->rows, n->first_row, n->rows, m->scratch, m->units, sum, st);
}

static bool begin_tensor(conversion *c, const out_tensor *t)
{
    pack_tensor p = {.component = t->e.component, .name = t->e.name, .type = t->e.type, .dims = t->w->dims, .matrix = t->e.matrix,
                     .rotation = t->e.rotation, .role = t->role};
    memcpy(p.shape, t->w->shape, sizeof p.shape);
    if (t->draw && t->role != ROLE_CONV) /* shapes made up by a network's linear layers end in ones */
        while (p.dims > 2 && p.shape[p.dims - 1] == 1)
            p.dims--;
    return pack_begin(c->writer, &p, t->head, c->st);
}

static float error_of(const out_tensor *t)
{
    float mine = encode_relative(&t->sum), before = t->w->error; /* that one is of a container that was made from the original */
    if (t->copy)
        return before;
    return before > 0 ? sqrtf(mine * mine + before * before) : mine;
}

/* Called and left with the lock held. */
static bool write_in_turn(conversion *c, const chunk *n, const worker_memory *m, const encode_sum *sum)
{
    out_tensor *t = n->t;
    while (status_ok(c->st) && (c->writing != n->tensor || c->writing_chunk != n->number))
        pthread_cond_wait(&c->moved, &c->lock);
    if (!status_ok(c->st) || (n->number == 0 && !begin_tensor(c, t)) || !pack_rows(c->writer, m->units, n->rows, c->st))
        return false;
    t->sum.error += sum->error;
    t->sum.energy += sum->energy;
    c->writing_chunk++;
    if (n->first_row + n->rows == t->e.matrix.rows) {
        if (!pack_end(c->writer, error_of(t), c->st))
            return false;
        c->writing++;
        c->writing_chunk = 0;
    }
    c->numbers += (uint64_t)n->rows * row_numbers(t);
    if (c->q->progress)
        c->q->progress(c->q->progress_ctx, c->numbers, c->list->numbers);
    pthread_cond_broadcast(&c->moved);
    return true;
}

/* ---- threads ---- */

static void *worker(void *ctx)
{
    conversion *c = ctx;
    chunk n;
    status mine = STATUS_INIT;
    char *memory = mem_map(c->worker_bytes + 1, "conversion", &mine);
    worker_memory m = memory ? divide(c, memory) : (worker_memory){0};
    pthread_mutex_lock(&c->lock);
    while (memory && take(c, &n) && wait_for_head(c, &n, &m)) {
        encode_sum sum = {0, 0};
        pthread_mutex_unlock(&c->lock);
        bool ok = encode_chunk(c, &n, &m, &sum, &mine);
        pthread_mutex_lock(&c->lock);
        if (!ok || !write_in_turn(c, &n, &m, &sum))
            break;
    }
    if (!status_ok(&mine))
        status_set(c->st, mine.code, "%s", mine.text);
    pthread_cond_broadcast(&c->moved); /* whoever waits must see an error */
    pthread_mutex_unlock(&c->lock);
    mem_unmap(memory, c->worker_bytes + 1);
    return NULL;
}

bool convert_run(out_list *l, pack_writer *w, const convert_request *q, int threads, size_t worker_bytes, status *st)
{
    conversion c = {.list = l, .writer = w, .q = q, .k = kernels_best(), .worker_bytes = worker_bytes, .st = st};
    pthread_t id[MOST_THREADS];
    int started = 0;
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.moved, NULL);
    while (started < threads - 1 && started < MOST_THREADS && pthread_create(&id[started], NULL, worker, &c) == 0)
        started++; /* one less is no reason to fail */
    worker(&c);
    for (int i = 0; i < started; i++)
        pthread_join(id[i], NULL);
    pthread_cond_destroy(&c.moved);
    pthread_mutex_destroy(&c.lock);
    return status_ok(st);
}
