/* A tensor is cut into chunks of whole units. Threads take chunks in order, read, convert and encode them side by side, and write them
 * in turn: no queue, no thread that only waits, and each holds one chunk and no more. */
#include "quant/convert_tensors.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "base/mem.h"
#include "quant/encode_feedback.h"

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
    float *factor;               /* of the tensor that is being encoded with feedback ... */
    double *factor_tmp;
    out_tensor *fed;             /* ... that one */
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
    t->pending++;
    if (out->first_row + out->rows == t->e.matrix.rows) {
        c->tensor++;
        c->chunk = 0;
    }
    return true;
}

/* ---- what all chunks of a tensor share: the thread that has the first one makes it, the others wait ---- */

static bool find_head(const conversion *c, out_tensor *t, const worker_memory *m, status *st)
{
    uint8_t head[CODE_HEAD_BYTES];
    if (type_head_bytes(t->e.type) == 0 || t->head_known)
        return true;
    if (!convert_find_head(c->k, t, m, head, st))
        return false;
    memcpy(t->head, head, sizeof head);
    return true;
}

static bool find_factor(const conversion *c, out_tensor *t, status *st)
{
    if (!t->e.window)
        return true;
    if (!moments_get(c->q->moments, t->w, c->factor, st))
        return false;
    if (!feedback_factor(c->factor, t->e.matrix.depth, t->e.window, c->factor_tmp))
        return status_set(st, STATUS_FAILED, "calibration: the inputs of %s/%s are not finite", t->e.component, t->e.name);
    t->e.factor = c->factor;
    return true;
}

/* There is room for the factors of one tensor: who still needs those of the one before is waited for. Called and left with the lock held. */
static bool make_ready(conversion *c, const chunk *n, const worker_memory *m)
{
    out_tensor *t = n->t;
    if (n->number == 0) {
        status st = STATUS_INIT;
        const out_tensor *before = c->fed;
        c->fed = t->e.window ? t : c->fed;
        while (t->e.window && before && before->pending > 0 && status_ok(c->st))
            pthread_cond_wait(&c->moved, &c->lock);
        pthread_mutex_unlock(&c->lock);
        bool ok = find_head(c, t, m, &st) && find_factor(c, t, &st);
        pthread_mutex_lock(&c->lock);
        if (!ok)
            return status_set(c->st, st.code, "%s", st.text);
        t->ready = true;
        pthread_cond_broadcast(&c->moved);
    }
    while (!t->ready && status_ok(c->st))
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
    t->sum.fed += sum->fed;
    t->sum.plain += sum->plain;
    t->sum.power += sum->power;
    c->writing_chunk++;
    if (n->first_row + n->rows == t->e.matrix.rows) {
        if (t->sum.power > 0)
            pack_output_error(c->writer, (float)sqrt(t->sum.fed / t->sum.power), (float)sqrt(t->sum.plain / t->sum.power));
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
    while (memory && take(c, &n) && make_ready(c, &n, &m)) {
        encode_sum sum = {0};
        pthread_mutex_unlock(&c->lock);
        bool ok = encode_chunk(c, &n, &m, &sum, &mine);
        pthread_mutex_lock(&c->lock);
        n.t->pending--;
        pthread_cond_broadcast(&c->moved);
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

static void factor_room(const out_list *l, size_t *factor, size_t *tmp)
{
    *factor = *tmp = 0;
    for (int i = 0; i < l->count; i++) {
        size_t window = (size_t)l->tensor[i].e.window, floats = window * (size_t)l->tensor[i].e.matrix.depth;
        *factor = floats > *factor ? floats : *factor;
        *tmp = window * (window + 1) > *tmp ? window * (window + 1) : *tmp;
    }
}

size_t convert_factor_bytes(const out_list *l)
{
    size_t factor, tmp;
    factor_room(l, &factor, &tmp);
    return factor * sizeof(float) + tmp * sizeof(double);
}

static void make_factor_room(conversion *c)
{
    size_t factor, tmp;
    factor_room(c->list, &factor, &tmp);
    if (factor) {
        c->factor = mem_alloc(factor, sizeof *c->factor, "calibration", c->st);
        c->factor_tmp = mem_alloc(tmp, sizeof *c->factor_tmp, "calibration", c->st);
    }
}

bool convert_run(out_list *l, pack_writer *w, const convert_request *q, int threads, size_t worker_bytes, status *st)
{
    conversion c = {.list = l, .writer = w, .q = q, .k = kernels_best(), .worker_bytes = worker_bytes, .st = st};
    pthread_t id[MOST_THREADS];
    int started = 0;
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.moved, NULL);
    make_factor_room(&c);
    while (status_ok(st) && started < threads - 1 && started < MOST_THREADS && pthread_create(&id[started], NULL, worker, &c) == 0)
        started++; /* one less is no reason to fail */
    if (status_ok(st))
        worker(&c);
    for (int i = 0; i < started; i++)
        pthread_join(id[i], NULL);
    pthread_cond_destroy(&c.moved);
    pthread_mutex_destroy(&c.lock);
    mem_free(c.factor);
    mem_free(c.factor_tmp);
    return status_ok(st);
}
