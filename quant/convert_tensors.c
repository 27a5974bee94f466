/* A tensor is cut into chunks of whole units. Threads take chunks in order, read, convert and encode them side by side, and write them
 * in turn: no queue, no thread that only waits, and each holds one chunk and no more. */
#include "quant/convert_tensors.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "base/mem.h"

enum { MOST_THREADS = 64 };

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

typedef struct chunk {
    out_tensor *t;
    int tensor;
    int64_t number, first_row, rows;
} chunk;

static size_t row_numbers(const out_tensor *t) { return (size_t)t->e.matrix.taps * (size_t)t->e.matrix.depth; }

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
    if (n->number == 0 && type_head_bytes(n->t->e.type) && !n->t->head_known) {
        uint8_t head[CODE_HEAD_BYTES];
        status st = STATUS_INIT;
        pthread_mutex_unlock(&c->lock);
        bool ok = convert_find_head(c->k, n->t, m, head, &st);
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
        return convert_read_units(t, n->first_row, n->rows, m->units, st);
    return convert_load_rows(c->k, t, n->first_row, n->rows, m, m->rows, st) &&
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
    worker_memory m = memory ? convert_divide(c->list, memory) : (worker_memory){0};
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
