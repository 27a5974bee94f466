#include "import/draft.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "import/gguf_blocks.h"

/* Room for one more of `size` bytes behind `used`. */
static bool grow(draft *d, void *array, int used, int *room, size_t size, const char *what)
{
    void *p;
    if (!status_ok(d->st))
        return false;
    if (used < *room)
        return true;
    if (used > INT_MAX / 2)
        return status_set(d->st, STATUS_BAD_FILE, "%s: too many parts (%s)", d->path, what);
    int more = used ? used * 2 : 16;
    memcpy(&p, array, sizeof p);
    p = mem_resize(p, (size_t)more, size, what, d->st);
    if (!p)
        return false;
    memcpy(array, &p, sizeof p);
    *room = more;
    return true;
}

static bool keep(draft *d, const char *text, size_t *at)
{
    size_t n = strlen(text) + 1;
    if (!status_ok(d->st))
        return false;
    if (n > d->text_room - d->used) {
        size_t room = (d->used + n) * 2;
        char *p = mem_resize(d->text, room, 1, "names of tensors", d->st);
        if (!p)
            return false;
        d->text = p;
        d->text_room = room;
    }
    memcpy(d->text + d->used, text, n);
    *at = d->used;
    d->used += n;
    return true;
}

void draft_component(draft *d, const char *name)
{
    size_t at;
    if (grow(d, &d->component, d->components, &d->component_room, sizeof *d->component, "components") && keep(d, name, &at))
        d->component[d->components++] = at;
}

void draft_hash(draft *d, const void *bytes, size_t count) { d->hash = XXH3_64bits_withSeed(bytes, count, d->hash); }

bool draft_file(draft *d, io *f, const char *label)
{
    if (!f || !grow(d, &d->file, d->files, &d->file_room, sizeof *d->file, "files")) {
        io_close(f);
        return false;
    }
    d->file[d->files++] = f;
    uint64_t numbers[2] = {io_size(f), io_modified(f)};
    draft_hash(d, label, strlen(label));
    draft_hash(d, numbers, sizeof numbers);
    return true;
}

/* The view of the last file; NULL with st set. */
static draft_view *view_of(draft *d)
{
    if (d->views > 0 && d->view[d->views - 1].file == d->files - 1)
        return &d->view[d->views - 1];
    if (!grow(d, &d->view, d->views, &d->view_room, sizeof *d->view, "views"))
        return NULL;
    d->view[d->views] = (draft_view){.file = d->files - 1};
    return &d->view[d->views++];
}

/* ConvTranspose2d, which PyTorch keeps as [in, out, kh, kw]: the transpose of the matrix [out * kh * kw, in] that conv_transposed wants. Nothing but its
 * name tells it from a convolution. */
static bool is_transposed_conv(const char *name, const file_tensor *t)
{
    static const char *const ends[] = {"up_sample.weight" /* Kandinsky 3 */, "up_block.upsample.conv.weight" /* aMUSEd */};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t m = strlen(ends[i]);
        if (t->dims == 4 && t->shape[0] > 0 && n >= m && strcmp(name + n - m, ends[i]) == 0)
            return true;
    }
    return false;
}

/* The product cannot overflow: with shape[0] > 0 it is no more than the tensor's elements, which were counted. */
static void turn(file_tensor *t)
{
    int64_t in = t->shape[0];
    t->shape[0] = t->shape[1] * t->shape[2] * t->shape[3];
    t->shape[1] = in;
    t->dims = 2;
    t->transposed = true;
}

void draft_weight_of(draft *d, int component, const char *name, const file_tensor *t)
{
    draft_weight w = {.t = *t, .component = component, .file = d->files - 1, .view = -1};
    if (!grow(d, &d->weight, d->weights, &d->weight_room, sizeof *d->weight, "weights") || !keep(d, name, &w.name))
        return;
    if (is_transposed_conv(name, t) && t->blocks)
        status_set(d->st, STATUS_BAD_FILE, "%s: tensor %s: a transposed convolution in blocks is not read", d->path, name);
    else if (is_transposed_conv(name, t))
        turn(&w.t);
    if (w.t.blocks || w.t.transposed) {
        draft_view *v = view_of(d);
        if (!v || !view_add(&v->plan, &w.t, d->st))
            return;
        w.view = d->views - 1;
        w.stored = t->blocks ? t->blocks->name : NULL;
        w.stored_bytes = t->bytes;
    }
    w.t.name = NULL;
    d->weight[d->weights++] = w;
}

void draft_weight_add(draft *d, const file_tensor *t) { draft_weight_of(d, d->components - 1, t->name, t); }

void draft_blob_from(draft *d, const char *name, const char *path, uint64_t bytes)
{
    draft_blob b = {.bytes = bytes, .path = SIZE_MAX};
    if (grow(d, &d->blob, d->blobs, &d->blob_room, sizeof *d->blob, "small files") && keep(d, name, &b.name) && (!path || keep(d, path, &b.path)))
        d->blob[d->blobs++] = b;
}

void draft_blob_add(draft *d, const char *name, uint64_t bytes) { draft_blob_from(d, name, NULL, bytes); }

/* ---- packing ---- */

/* What a tensor is as a matrix: [rows][depth], a convolution [rows][depth][taps] as PyTorch keeps it; [1, 1, 1, n] is a vector. */
static bool shape_matrix(draft *d, weight *w)
{
    int64_t depth = 1, taps = 1;
    const int64_t *s = w->shape;
    w->matrix.rows = w->dims > 1 ? s[0] : 1;
    bool ok = true;
    if (w->dims == 4 && (s[0] != 1 || s[1] != 1 || s[2] != 1)) {
        ok = !__builtin_mul_overflow(s[2], s[3], &taps);
        depth = s[1];
    } else {
        for (int i = w->dims > 1; i < w->dims; i++)
            ok = ok && !__builtin_mul_overflow(depth, s[i], &depth);
    }
    if (!ok || depth > INT32_MAX || taps > INT32_MAX)
        return status_set(d->st, STATUS_BAD_FILE, "%s: tensor %s%s%s: its rows are too long (%d dimensions, the first %" PRId64 ")", d->path,
                          w->component, *w->component ? "/" : "", w->name, w->dims, s[0]);
    w->matrix.depth = (int32_t)depth;
    w->matrix.taps = (int32_t)taps;
    w->oihw = taps > 1;
    return true;
}

static void fill_weight(const draft *d, const draft_weight *from, const char *text, weight *w, weight_part *part)
{
    *w = (weight){.component = text + d->component[from->component], .name = text + from->name, .type = from->t.type, .dims = from->t.dims,
                  .error = from->stored ? NAN : 0, .file = from->view < 0 ? from->file : d->view[from->view].file, .parts = 1, .part = part,
                    .stored = from->stored, .stored_bytes = from->stored_bytes};
    memcpy(w->shape, from->t.shape, sizeof w->shape);
    *part = (weight_part){.offset = from->t.offset, .bytes = from->t.bytes, .extent = -1};
}

static int by_component_and_name(const void *a, const void *b)
{
    const weight *x = a, *y = b;
    int c = strcmp(x->component, y->component);
    return c ? c : strcmp(x->name, y->name);
}

static int by_blob_name(const void *a, const void *b) { return strcmp(((const source_blob *)a)->name, ((const source_blob *)b)->name); }

static bool fill_weights(draft *d, source *s, const char *text, weight_part *part)
{
    for (int i = 0; i < d->weights; i++) {
        weight *w = &s->weight[i];
        fill_weight(d, &d->weight[i], text, w, &part[i]);
        if (!shape_matrix(d, w))
            return false;
        part[i].rows = w->matrix.rows;
    }
    if (d->weights > 1)
        qsort(s->weight, (size_t)d->weights, sizeof *s->weight, by_component_and_name);
    return true;
}

static void fill_rest(const draft *d, source *s, const char *text)
{
    for (int i = 0; i < d->components; i++)
        s->component[i] = text + d->component[i];
    for (int i = 0; i < d->blobs; i++)
        s->blob[i] = (source_blob){.name = text + d->blob[i].name, .path = d->blob[i].path == SIZE_MAX ? NULL : text + d->blob[i].path, .file = -1,
                                   .bytes = d->blob[i].bytes, .extent = -1};
    if (d->blobs > 1)
        qsort(s->blob, (size_t)d->blobs, sizeof *s->blob, by_blob_name);
}

typedef struct layout { /* offsets in the block */
    size_t weight, part, file, blob, component, text, bytes;
} layout;

/* No overflow: all of these were arrays in memory already. */
static layout lay_out(const draft *d)
{
    layout l = {0};
    l.part = l.weight + (size_t)d->weights * sizeof(weight);
    l.file = l.part + (size_t)d->weights * sizeof(weight_part);
    l.blob = l.file + (size_t)d->files * sizeof(io *);
    l.component = l.blob + (size_t)d->blobs * sizeof(source_blob);
    l.text = l.component + (size_t)d->components * sizeof(char *);
    l.bytes = l.text + d->used;
    return l;
}

static void take_files(draft *d, source *s, io **file)
{
    s->file = file;
    s->files = d->files;
    if (d->files)
        memcpy(file, d->file, (size_t)d->files * sizeof *file);
    d->files = 0;
}

static bool fill(draft *d, source *s)
{
    const layout l = lay_out(d);
    char *block = s->memory = mem_alloc(l.bytes, 1, "table of weights", d->st);
    if (!block)
        return false;
    take_files(d, s, (io **)(void *)(block + l.file));
    s->path = mem_string(d->path, d->st);
    if (!s->path)
        return false;
    char *text = block + l.text;
    if (d->used)
        memcpy(text, d->text, d->used);
    s->weight = (weight *)(void *)(block + l.weight);
    s->weights = d->weights;
    s->blob = (source_blob *)(void *)(block + l.blob);
    s->blobs = d->blobs;
    s->component = (const char **)(void *)(block + l.component);
    s->components = d->components;
    s->hash = d->hash;
    fill_rest(d, s, text);
    return fill_weights(d, s, text, (weight_part *)(void *)(block + l.part));
}

/* Views become files behind the real ones. */
static bool open_views(draft *d)
{
    for (int i = 0; i < d->views && status_ok(d->st); i++) {
        draft_view *v = &d->view[i];
        io *f = v->plan.size ? view_open(d->file[v->file], &v->plan, d->st) : NULL;
        if (f && draft_file(d, f, "view"))
            v->file = d->files - 1;
    }
    return status_ok(d->st);
}

source *draft_finish(draft *d)
{
    source *s = status_ok(d->st) && open_views(d) ? mem_alloc(1, sizeof *s, "source", d->st) : NULL;
    if (s && !fill(d, s)) {
        source_close(s);
        s = NULL;
    }
    for (int i = 0; i < d->files; i++) /* those that the source did not take */
        io_close(d->file[i]);
    for (int i = 0; i < d->views; i++)
        mem_free(d->view[i].plan.item);
    mem_free(d->view);
    mem_free(d->file);
    mem_free(d->text);
    mem_free(d->component);
    mem_free(d->weight);
    mem_free(d->blob);
    *d = (draft){.st = d->st};
    return s;
}
