#include "quant/convert.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "quant/convert_tensors.h"

enum {
    CHUNK_BYTES = 2 << 20,          /* of f32: stays in a core's cache */
    BLOB_LIMIT = 64 << 20,
    HEADER_TENSOR_BYTES = 4 * 1024, /* json-c's memory for a tensor, its text included: 3,070 bytes measured with json-c 0.16 and names of 60 */
    HEADER_EXTENT_BYTES = 1024      /* 650 measured */
};

/* ---- which tensors, once each, in order of use ---- */

typedef struct seen {
    const weight *w;
    int at;          /* in the list of uses */
} seen;

static int by_weight(const void *x, const void *y)
{
    const seen *a = x, *b = y;
    if (a->w != b->w)
        return (uintptr_t)a->w < (uintptr_t)b->w ? -1 : 1;
    return a->at - b->at;
}

/* All uses of all plans, one behind the other. */
static int all_uses(const convert_request *q, const plan_use **use, const convert_component **of)
{
    int n = 0;
    for (int i = 0; i < q->components; i++)
        for (int k = 0; k < q->component[i].plan->uses; k++, n++)
            if (use) {
                use[n] = &q->component[i].plan->use[k];
                of[n] = &q->component[i];
            }
    return n;
}

static bool same_matrix(const matrix_shape *a, const matrix_shape *b)
{
    return a->rows == b->rows && a->taps == b->taps && a->depth == b->depth;
}

/* A weight used twice: the more demanding role counts (a table that is gathered and multiplied stays rows). */
static bool merge_use(out_tensor *t, const plan_use *u, status *st)
{
    if (!same_matrix(&t->e.matrix, &u->matrix))
        return status_set(st, STATUS_FAILED, "tensor %s/%s is used in two shapes", t->e.component, t->e.name);
    if (u->role > t->role)
        t->role = u->role;
    return true;
}

static uint64_t numbers_of(const matrix_shape *m) { return (uint64_t)m->rows * (uint64_t)m->taps * (uint64_t)m->depth; }

static bool add_tensor(out_list *l, const convert_request *q, const plan_use *u, const convert_component *c, status *st)
{
    out_tensor *t = &l->tensor[l->count];
    const weight *w = u->weight;
    *t = (out_tensor){.w = w, .from = c->from ? c->from : q->from, .role = u->role, .draw = w->file < 0};
    t->e = (encoding){.matrix = u->matrix, .component = c->name, .name = w->name};
    if (t->draw && !q->random)
        return status_set(st, STATUS_BAD_FILE, "%s: %s%s%s has no weights, only its configuration; --random SEED makes some", t->from->path, c->name, *c->name ? "/" : "",
                          w->name);
    if (!matrix_valid(TYPE_F32, &u->matrix) || u->matrix.rows < 1 || u->matrix.depth < 1)
        return status_set(st, STATUS_BAD_FILE, "tensor %s/%s is too large, or empty", c->name, w->name);
    if (!t->draw && !same_matrix(&u->matrix, &w->matrix) &&
        (numbers_of(&u->matrix) != numbers_of(&w->matrix) || u->matrix.taps != 1 || w->matrix.taps != 1 || w->parts != 1))
        return status_set(st, STATUS_FAILED, "tensor %s/%s lies in a shape that its use does not fit", c->name, w->name);
    l->numbers += numbers_of(&u->matrix);
    l->count++;
    return true;
}

static bool list_tensors(out_list *l, const convert_request *q, status *st)
{
    int n = all_uses(q, NULL, NULL);
    const plan_use **use = mem_alloc((size_t)n + 1, sizeof *use, "conversion", st);
    const convert_component **of = mem_alloc((size_t)n + 1, sizeof *of, "conversion", st);
    seen *order = mem_alloc((size_t)n + 1, sizeof *order, "conversion", st);
    int *place = mem_alloc((size_t)n + 1, sizeof *place, "conversion", st); /* in the list, of the tensor first used there */
    l->tensor = mem_alloc((size_t)n + 1, sizeof *l->tensor, "conversion", st);
    if (use && of && order && place && l->tensor) {
        all_uses(q, use, of);
        for (int i = 0; i < n; i++)
            order[i] = (seen){use[i]->weight, i};
        qsort(order, (size_t)n, sizeof *order, by_weight);
        for (int i = 0, first = 0; i < n; i++) { /* place: until then the first use of the same weight */
            first = i > 0 && order[i].w == order[i - 1].w ? first : order[i].at;
            place[order[i].at] = first;
        }
        for (int i = 0; i < n && status_ok(st); i++) {
            int first = place[i];
            place[i] = first == i ? l->count : place[first];
            if (first == i)
                add_tensor(l, q, use[i], of[i], st);
            else
                merge_use(&l->tensor[place[i]], use[i], st);
        }
    }
    mem_free(use);
    mem_free(of);
    mem_free(order);
    mem_free(place);
    return status_ok(st);
}

/* ---- their types ---- */

static bool is_quantized(const out_tensor *t) { return !t->draw && type_of(t->w->type)->safetensors == NULL; }

/* Numbers that are quantized already are not decoded and quantized again: that would add the second error to the first. */
static bool check_source(out_tensor *t, status *st)
{
    weight_type have = t->w->type, want = t->e.type;
    if (!is_quantized(t))
        return true;
    if (have != want)
        return status_set(st, STATUS_BAD_FILE, "%s: tensor %s/%s is %s already and cannot become %s: quantize from the original weights",
                          t->from->path, t->e.component, t->e.name, type_of(have)->name, type_of(want)->name);
    t->copy = true;
    t->e.rotation = t->w->rotation_log2 ? 1 << t->w->rotation_log2 : 0;
    return true;
}

/* The tensors as the policy sees them. Of a container that is of the wanted type already, what is quantized stays as it is. */
static void list_for_policy(const out_list *l, weight_type wanted, policy_tensor *p)
{
    bool same = false;
    for (int i = 0; i < l->count; i++)
        same = same || (is_quantized(&l->tensor[i]) && l->tensor[i].w->type == wanted);
    for (int i = 0; i < l->count; i++) {
        const out_tensor *t = &l->tensor[i];
        p[i] = (policy_tensor){.component = t->e.component, .name = t->e.name, .role = t->role, .matrix = t->e.matrix};
        if (same && is_quantized(t)) {
            p[i].type = t->w->type;
            p[i].by_rule = true;
        }
    }
}

/* What the tensors become; false when the source forbids it. A head that the sample found stays with its type alone. */
static bool set_types(out_list *l, const convert_request *q, const policy_tensor *p, status *st)
{
    for (int i = 0; i < l->count && status_ok(st); i++) {
        out_tensor *t = &l->tensor[i];
        t->head_known = t->head_known && t->e.type == p[i].type;
        t->e = encoding_of(p[i].type, t->e.matrix, t->e.component, t->e.name);
        if (t->draw)
            t->random = random_of(q->seed, t->e.component, t->e.name, t->role, &t->e.matrix);
        check_source(t, st);
        if (type_of(t->e.type)->panels && !t->copy && moments_rows(q->moments, t->w) > 0)
            t->e.window = moments_window(t->e.matrix.depth);
        t->probe = !t->copy && !p[i].by_rule && type_head_bytes(t->e.type) > 0;
    }
    return status_ok(st);
}

static uint64_t fixed_bytes(const out_list *l, const convert_request *q);

/* Types only become finer from here on and the file larger: where there is no room for this, fit_memory says so. */
static bool probe(out_list *l, const convert_request *q, uint64_t *bytes, status *st)
{
    uint64_t fixed = fixed_bytes(l, q), room = q->memory_bytes > fixed ? q->memory_bytes - fixed : 1;
    return convert_probe(l, q->memory_bytes ? room : 0, bytes, st);
}

static bool choose_types(out_list *l, const convert_request *q, convert_report *report, uint64_t *probe_bytes, status *st)
{
    policy_tensor *p = mem_alloc((size_t)l->count + 1, sizeof *p, "policy", st);
    if (!p)
        return false;
    list_for_policy(l, q->type, p);
    if (policy_assign(q->type, q->rule, q->rules, p, l->count, st) && set_types(l, q, p, st) && probe(l, q, probe_bytes, st)) {
        for (int i = 0; i < l->count; i++)
            p[i].error = l->tensor[i].sampled_error;
        if (policy_protect(q->type, p, l->count, st))
            set_types(l, q, p, st);
    }
    report->bits = policy_bits(p, l->count);
    mem_free(p);
    return status_ok(st);
}

/* ---- memory ---- */

static uint64_t largest_blob(const source *s)
{
    uint64_t most = 0;
    for (int i = 0; i < s->blobs; i++)
        most = s->blob[i].bytes > most ? s->blob[i].bytes : most;
    return most;
}

static uint64_t tensor_bytes(const out_tensor *t)
{
    uint64_t bytes = 0;
    return type_matrix_bytes(t->e.type, &t->e.matrix, &bytes) ? bytes : 0;
}

/* What is held beside the workers: the list, the writer; and what is held when they are gone or not there yet, by itself. */
static uint64_t fixed_bytes(const out_list *l, const convert_request *q)
{
    uint64_t all = 0;
    for (int i = 0; i < l->count; i++)
        all += tensor_bytes(&l->tensor[i]);
    for (int i = 0; i < q->from->blobs; i++)
        all += q->from->blob[i].bytes;
    for (int i = 0; i < q->components; i++)
        for (int k = 0; q->component[i].from && k < q->component[i].from->blobs; k++)
            all += q->component[i].from->blob[k].bytes;
    return (uint64_t)l->count * (sizeof(out_tensor) + 600) + pack_writer_bytes(all) + moments_bytes(q->moments) + convert_factor_bytes(l);
}

static uint64_t alone_bytes(const out_list *l, const convert_request *q)
{
    uint64_t bytes = 0, blob = largest_blob(q->from);
    for (int i = 0; i < l->count; i++) {
        bytes += HEADER_TENSOR_BYTES + (tensor_bytes(&l->tensor[i]) / (PACK_PART_BYTES / 2) + 1) * HEADER_EXTENT_BYTES;
    }
    for (int i = 0; i < q->components; i++)
        if (q->component[i].from && largest_blob(q->component[i].from) > blob)
            blob = largest_blob(q->component[i].from);
    return bytes > blob ? bytes : blob;
}

/* As many threads, and as large chunks, as fit; smaller chunks first. */
static bool fit_memory(out_list *l, const convert_request *q, uint64_t probe_bytes, int *threads, size_t *worker_bytes, status *st)
{
    uint64_t fixed = fixed_bytes(l, q), alone = alone_bytes(l, q);
    alone = alone > probe_bytes ? alone : probe_bytes;
    uint64_t room = q->memory_bytes > fixed ? q->memory_bytes - fixed : 0;
    for (*threads = q->threads > 1 ? q->threads : 1; *threads > 0; --*threads)
        for (size_t target = CHUNK_BYTES; target >= CHUNK_BYTES / 64; target /= 4) {
            *worker_bytes = convert_worker_bytes(l, target);
            if (q->memory_bytes == 0 || (*worker_bytes * (uint64_t)*threads <= room && alone <= room))
                return true;
        }
    uint64_t least = fixed + (*worker_bytes > alone ? *worker_bytes : alone);
    st->least_bytes = status_ok(st) ? least : st->least_bytes;
    return status_set(st, STATUS_BUDGET, "memory budget: %" PRIu64 "K is too small, at least %" PRIu64 "K is needed", q->memory_bytes >> 10,
                      (least >> 10) + 1);
}

/* ---- small files ---- */

static bool copy_blob(pack_writer *w, const source *s, const char *name, const char *as, status *st)
{
    size_t bytes;
    char *data = source_read_blob(s, name, BLOB_LIMIT, false, &bytes, st);
    bool ok = data && pack_file(w, as, data, bytes, st);
    mem_free(data);
    return ok;
}

static bool belongs_to(const char *name, const char *component)
{
    size_t n = strlen(component);
    return n > 0 && strncmp(name, component, n) == 0 && name[n] == '/';
}

/* Another source that this file's component is taken from. */
static bool comes_from_elsewhere(const convert_request *q, const char *name)
{
    for (int i = 0; i < q->components; i++)
        if (q->component[i].from && q->component[i].from != q->from && belongs_to(name, q->component[i].name))
            return true;
    return false;
}

/* A component from elsewhere brings its files: from a whole model those below its name, from a bare folder all. */
static bool copy_component_files(pack_writer *w, const convert_component *c, status *st)
{
    bool bare = source_has_component(c->from, "");
    for (int i = 0; i < c->from->blobs && status_ok(st); i++) {
        const char *name = c->from->blob[i].name;
        if (!bare && !belongs_to(name, c->name))
            continue;
        char *as = bare && *c->name ? mem_format(st, "%s/%s", c->name, name) : mem_string(name, st);
        if (as)
            copy_blob(w, c->from, name, as, st);
        mem_free(as);
    }
    return status_ok(st);
}

static bool copy_files(pack_writer *w, const convert_request *q, status *st)
{
    for (int i = 0; i < q->from->blobs && status_ok(st); i++)
        if (!comes_from_elsewhere(q, q->from->blob[i].name))
            copy_blob(w, q->from, q->from->blob[i].name, q->from->blob[i].name, st);
    for (int i = 0; i < q->components && status_ok(st); i++) {
        const convert_component *c = &q->component[i];
        bool again = i > 0 && strcmp(q->component[i - 1].name, c->name) == 0;
        if (c->from && c->from != q->from && !again)
            copy_component_files(w, c, st);
    }
    return status_ok(st);
}

/* ---- the report ---- */

static int by_address(const void *x, const void *y)
{
    const weight *a, *b;
    memcpy(&a, x, sizeof a);
    memcpy(&b, y, sizeof b);
    return (uintptr_t)a < (uintptr_t)b ? -1 : (uintptr_t)a > (uintptr_t)b;
}

/* Tensors of a component that was converted, which none of its plans uses. */
static bool list_unused(convert_report *report, const out_list *l, const convert_request *q, status *st)
{
    const weight **used = mem_alloc((size_t)l->count + 1, sizeof *used, "report", st);
    int room = 0;
    for (int i = 0; i < q->components; i++)
        room += (q->component[i].from ? q->component[i].from : q->from)->weights;
    report->unused_weight = used ? mem_alloc((size_t)room + 1, sizeof *used, "report", st) : NULL;
    if (!report->unused_weight) {
        mem_free(used);
        return false;
    }
    for (int i = 0; i < l->count; i++)
        used[i] = l->tensor[i].w;
    qsort(used, (size_t)l->count, sizeof *used, by_address);
    for (int c = 0; c < q->components; c++) {
        const source *s = q->component[c].from ? q->component[c].from : q->from;
        const char *name = q->component[c].plan->uses ? q->component[c].plan->use[0].weight->component : q->component[c].name;
        bool again = c > 0 && strcmp(q->component[c - 1].name, q->component[c].name) == 0;
        for (int i = 0; i < s->weights && !again; i++) {
            const weight *w = &s->weight[i];
            if (strcmp(w->component, name) == 0 && !bsearch(&w, used, (size_t)l->count, sizeof *used, by_address))
                report->unused_weight[report->unused++] = w;
        }
    }
    mem_free(used);
    return true;
}

/* The mean over numbers, as `inspect` has it: large tensors count by their size, not by how large their numbers are. */
static void summarize(convert_report *report, const out_list *l, const convert_request *q)
{
    double error = 0, all = 0;
    for (int i = 0; i < l->count; i++) {
        const out_tensor *t = &l->tensor[i];
        if (t->sum.power > 0) {
            report->fed++;
            report->fed_error += sqrt(t->sum.fed / t->sum.power);
            report->plain_error += sqrt(t->sum.plain / t->sum.power);
        }
        if (type_of(t->e.type)->safetensors || t->copy)
            continue;
        double e = (double)encode_relative(&t->sum), n = (double)numbers_of(&t->e.matrix);
        error += e * e * n;
        all += n;
    }
    if (report->fed) {
        report->fed_error /= report->fed;
        report->plain_error /= report->fed;
    }
    report->tensors = l->count;
    report->numbers = l->numbers;
    report->error = all > 0 ? sqrt(error / all) : 0;
    struct stat info;
    report->file_bytes = stat(q->out, &info) == 0 ? (uint64_t)info.st_size : 0;
}

void convert_report_free(convert_report *r)
{
    mem_free(r->unused_weight);
    *r = (convert_report){0};
}

bool convert(const convert_request *q, convert_report *report, status *st)
{
    out_list l = {0};
    int threads;
    size_t worker_bytes;
    uint64_t probe_bytes = 0;
    *report = (convert_report){0};
    bool ok = list_tensors(&l, q, st) && choose_types(&l, q, report, &probe_bytes, st) && fit_memory(&l, q, probe_bytes, &threads, &worker_bytes, st) &&
              list_unused(report, &l, q, st);
    pack_writer *w = ok ? pack_create(q->out, st) : NULL;
    if (w) {
        if (q->moments)
            pack_calibrated(w, q->prompts);
        if (copy_files(w, q, st))
            convert_run(&l, w, q, threads, worker_bytes, st);
        ok = pack_commit(w, st);
    }
    if (ok)
        summarize(report, &l, q);
    mem_free(l.tensor);
    return ok && status_ok(st);
}
