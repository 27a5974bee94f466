#include "models/text_stage.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/embeddings.h"
#include "models/pipe_common.h"
#include "models/resume.h"
#include "models/tensor_file.h"

/* ---- tokens ---- */

bool tokens_open(token_list *l, int count, int most, status *st)
{
    *l = (token_list){0};
    l->ids = mem_alloc((size_t)count * (size_t)most + 1, sizeof *l->ids, "tokens", st);
    l->start = mem_alloc((size_t)count + 1, sizeof *l->start, "tokens", st);
    l->real = mem_alloc((size_t)count + 1, sizeof *l->real, "tokens", st);
    l->cut = mem_alloc((size_t)count + 1, sizeof *l->cut, "tokens", st);
    return status_ok(st);
}

void tokens_close(token_list *l)
{
    mem_free(l->ids);
    mem_free(l->start);
    mem_free(l->real);
    mem_free(l->cut);
    *l = (token_list){0};
}

void tokens_add(token_list *l, int32_t tokens, int cut)
{
    l->cut[l->count] = cut;
    l->real[l->count] = tokens;
    l->start[l->count + 1] = l->start[l->count] + tokens;
    l->count++;
}

void tokens_pad(token_list *l, int32_t upto, int32_t id)
{
    int32_t *end = &l->start[l->count], begin = l->start[l->count - 1];
    while (*end < begin + upto)
        l->ids[(*end)++] = id;
}

void tokens_add_arbitrary(token_list *l, int tokens, int vocabulary)
{
    for (int i = 0; i < tokens; i++)
        l->ids[l->start[l->count] + i] = (int32_t)((i * 37 + 3) % vocabulary);
    tokens_add(l, tokens, 0);
}

static int length_of(const token_list *l, int i) { return l->start[i + 1] - l->start[i]; }

uint64_t text_stage_hash(const text_stage *t)
{
    const token_list *l = &t->tokens;
    uint64_t h = hash_more(t->variant, l->start, (size_t)(l->count + 1) * sizeof *l->start);
    h = hash_more(h, l->real, (size_t)l->count * sizeof *l->real);
    for (int i = 0; i < l->count; i++) {
        size_t n = (size_t)length_of(l, i), width = (size_t)t->width;
        if (t->from && t->from[i] == TEXT_GIVEN) {
            h = hash_more(h, t->output + (size_t)l->start[i] * width, n * width * 4);
            h = t->pooled_width ? hash_more(h, t->pooled + (size_t)i * (size_t)t->pooled_width, (size_t)t->pooled_width * 4) : h;
        } else {
            h = hash_more(h, l->ids + l->start[i], n * sizeof *l->ids);
        }
    }
    return h;
}

/* ---- --embeddings ---- */

typedef struct given_file {
    tensor_file file;
    const safetensor *text, *pooled;
    float *mask;            /* [rows, tokens], NULL: every token counts */
    int64_t rows, tokens;
} given_file;

static bool check_given(const text_stage *t, given_file *g, const char *path, status *st)
{
    const int64_t *s = g->text->shape;
    if (g->text->dims != 3 || s[0] < 1 || s[0] > 2 || s[1] < 1 || s[1] > 65536)
        return status_set(st, STATUS_BAD_FILE, "%s: %s: must be [1 or 2 prompts, tokens, %d], has %d dimensions, the first %" PRId64, path, g->text->name, t->width,
                          g->text->dims, g->text->dims ? s[0] : 0);
    if (s[2] != t->width)
        return status_set(st, STATUS_BAD_FILE, "%s: %s: is %" PRId64 " wide, this model's %s makes %d", path, g->text->name, s[2], t->name, t->width);
    if (t->pooled_width && (!g->pooled || g->pooled->dims != 2 || g->pooled->shape[0] != s[0] || g->pooled->shape[1] != t->pooled_width))
        return status_set(st, STATUS_BAD_FILE, "%s: text.%s.pooled: must be [%" PRId64 ", %d]", path, t->name, s[0], t->pooled_width);
    g->rows = s[0];
    g->tokens = s[1];
    return true;
}

static bool given_open(given_file *g, const text_stage *t, const char *path, status *st)
{
    char name[128];
    *g = (given_file){0};
    if (!tensor_file_open(&g->file, path, st))
        return false;
    snprintf(name, sizeof name, "text.%s", t->name);
    g->text = safetensors_find(g->file.table, name);
    if (!g->text)
        return status_set(st, STATUS_BAD_FILE, "%s: holds no tensor %s", path, name);
    snprintf(name, sizeof name, "text.%s.pooled", t->name);
    g->pooled = safetensors_find(g->file.table, name);
    if (!check_given(t, g, path, st))
        return false;
    snprintf(name, sizeof name, "mask.%s", t->name);
    const safetensor *m = safetensors_find(g->file.table, name);
    if (m && (m->dims != 2 || m->shape[0] != g->rows || m->shape[1] != g->tokens))
        return status_set(st, STATUS_BAD_FILE, "%s: %s: must be [%" PRId64 ", %" PRId64 "] as the text is", path, name, g->rows, g->tokens);
    g->mask = m ? tensor_file_floats(&g->file, m, st) : NULL;
    return status_ok(st);
}

static void given_close(given_file *g)
{
    mem_free(g->mask);
    tensor_file_close(&g->file);
}

static bool counts(const given_file *g, int64_t row, int64_t token) { return !g->mask || g->mask[row * g->tokens + token] > 0.5f; }

int text_given(const text_stage *t, const engine *e, int count, int32_t rows[2])
{
    given_file g;
    const char *path = e->request->embeddings;
    if (!path)
        return 0;
    bool ok = given_open(&g, t, path, e->st);
    int given = ok ? g.rows < count ? (int)g.rows : count : 0;
    for (int i = 0; i < given; i++) {
        int64_t row = g.rows - given + i;
        rows[i] = 0;
        for (int64_t k = 0; k < g.tokens; k++)
            rows[i] += t->padded || counts(&g, row, k);
        if (rows[i] == 0)
            status_set(e->st, STATUS_BAD_FILE, "%s: mask.%s: hides every token", path, t->name);
    }
    given_close(&g);
    return given;
}

/* The last `given` prompts' floats to their places. */
static bool take_given(text_stage *t, int given)
{
    given_file g;
    status *st = t->e->st;
    bool ok = given_open(&g, t, t->e->request->embeddings, st);
    float *all = ok ? tensor_file_floats(&g.file, g.text, st) : NULL;
    float *pools = all && t->pooled_width ? tensor_file_floats(&g.file, g.pooled, st) : NULL;
    for (int i = 0; status_ok(st) && i < given; i++) {
        int prompt = t->tokens.count - given + i;
        int64_t row = g.rows - given + i, width = t->width;
        float *to = t->output + (int64_t)t->tokens.start[prompt] * width;
        for (int64_t k = 0; k < g.tokens; k++)
            if (t->padded || counts(&g, row, k)) {
                memcpy(to, all + (row * g.tokens + k) * width, (size_t)width * 4);
                to += width;
            }
        if (pools)
            memcpy(t->pooled + (size_t)prompt * (size_t)t->pooled_width, pools + (size_t)row * (size_t)t->pooled_width, (size_t)t->pooled_width * 4);
        t->from[prompt] = TEXT_GIVEN;
        t->found++;
    }
    mem_free(all);
    mem_free(pools);
    given_close(&g);
    return status_ok(st);
}

/* ---- store and cache ---- */

static bool remembered(const text_stage *t)
{
    const request *q = t->e->request;
    return (q->cache || q->store) && q->tokens == 0 && (q->prompt || q->embeddings || q->items) && !t->stage.run.imagine;
}

static embedding place_of(const text_stage *t, int i, embedding_key *key)
{
    const token_list *l = &t->tokens;
    size_t n = (size_t)length_of(l, i), pooled = (size_t)t->pooled_width;
    *key = embedding_key_of(t->e, t->component, t->variant + ((uint64_t)(n - (size_t)l->real[i]) << 32), l->ids + l->start[i], (int)n);
    return (embedding){t->output + (size_t)l->start[i] * (size_t)t->width, pooled ? t->pooled + (size_t)i * pooled : NULL, n * (size_t)t->width, pooled};
}

static void find_prompts(text_stage *t)
{
    for (int i = 0; i < t->tokens.count; i++) {
        embedding_key key;
        if (t->from[i] != TEXT_WANTED)
            continue;
        embedding place = place_of(t, i, &key);
        if (embedding_find(t->e, key, &place)) {
            t->from[i] = TEXT_FOUND;
            t->found++;
        }
    }
}

/* ---- planning ---- */

static void forward(run *r, const void *ctx)
{
    const text_stage *t = ctx;
    bool apart = t->made != NULL;
    text_batch b = {t->wanted.ids, {t->wanted.count, t->wanted.start, t->wanted.real}, apart ? t->made : t->output, apart ? t->made_pooled : t->pooled};
    t->forward(r, t->config, &b);
}

/* A list of the prompts that stand at `from` or below it. */
static bool gather(text_stage *t, uint8_t from)
{
    const token_list *l = &t->tokens;
    int longest = 0;
    for (int i = 0; i < l->count; i++)
        longest = length_of(l, i) > longest ? length_of(l, i) : longest;
    tokens_close(&t->wanted);
    if (!tokens_open(&t->wanted, l->count, longest, t->e->st))
        return false;
    for (int i = 0; i < l->count; i++) {
        if (t->from[i] > from)
            continue;
        memcpy(t->wanted.ids + t->wanted.start[t->wanted.count], l->ids + l->start[i], (size_t)length_of(l, i) * sizeof *l->ids);
        tokens_add(&t->wanted, length_of(l, i), 0);
        t->wanted.real[t->wanted.count - 1] = l->real[i];
    }
    return true;
}

static bool plan_pass(text_stage *t)
{
    if (t->planned) {   /* in place of the one before */
        stage_close(&t->stage);
        t->e->report->stages--;
        *t->stage.row = (stage_report){0};
    }
    t->planned = true;
    return stage_plan(&t->stage, t->e, t->component, t->name, t->alias, forward, t, 1);
}

static size_t floats_of(const text_stage *t, const token_list *l)
{
    return (size_t)l->start[l->count] * (size_t)t->width + (size_t)l->count * (size_t)t->pooled_width;
}

static bool make_room(text_stage *t)
{
    const token_list *l = &t->tokens;
    t->output = mem_alloc((size_t)l->start[l->count] * (size_t)t->width, 4, "text", t->e->st);
    t->pooled = t->output && t->pooled_width ? mem_alloc((size_t)l->count * (size_t)t->pooled_width, 4, "text", t->e->st) : NULL;
    return status_ok(t->e->st);
}

/* The pass is planned for all prompts first, so that what a budget must be does not depend on what happens to be cached. */
bool text_stage_plan(text_stage *t, engine *e, int given)
{
    t->e = e;
    int count = t->tokens.count;
    t->from = mem_alloc((size_t)count, 1, "text", e->st);
    if (!t->from)
        return false;
    e->held_bytes += floats_of(t, &t->tokens) * 4;
    e->report->text_bytes += floats_of(t, &t->tokens) * 4;
    if ((given || remembered(t)) && !make_room(t))
        return false;
    if (given && !take_given(t, given))
        return false;
    e->report->prompts_found += given;
    if (given == count)
        return true;
    if (!gather(t, TEXT_FOUND) || !plan_pass(t))
        return false;
    if (remembered(t))
        find_prompts(t);
    int found = t->found - given;
    e->report->prompts_found += found;
    if (given + found == count)
        t->stage.row->stream_bytes = 0;
    else if (found + given) {
        if (!gather(t, TEXT_WANTED))
            return false;
        e->held_bytes += floats_of(t, &t->wanted) * 4;   /* they come by themselves and are put between the others */
        return !found || plan_pass(t);
    }
    return true;
}

/* ---- running ---- */

static bool run_wanted(text_stage *t)
{
    status *st = t->e->st;
    const token_list *w = &t->wanted;
    bool apart = w->count < t->tokens.count;
    if (!t->output && !make_room(t))
        return false;
    if (apart) {
        t->made = mem_alloc((size_t)w->start[w->count] * (size_t)t->width, 4, "text", st);
        t->made_pooled = t->made && t->pooled_width ? mem_alloc((size_t)w->count * (size_t)t->pooled_width, 4, "text", st) : NULL;
    }
    bool ok = status_ok(st) && stage_open(&t->stage) && stage_pass(&t->stage, t);
    for (int i = 0, k = 0; ok && apart && i < t->tokens.count; i++) {
        if (t->from[i] != TEXT_WANTED)
            continue;
        memcpy(t->output + (size_t)t->tokens.start[i] * (size_t)t->width, t->made + (size_t)w->start[k] * (size_t)t->width,
               (size_t)length_of(w, k) * (size_t)t->width * 4);
        if (t->pooled)
            memcpy(t->pooled + (size_t)i * (size_t)t->pooled_width, t->made_pooled + (size_t)k * (size_t)t->pooled_width, (size_t)t->pooled_width * 4);
        k++;
    }
    mem_free(t->made);
    mem_free(t->made_pooled);
    t->made = t->made_pooled = NULL;
    return ok;
}

bool text_stage_run(text_stage *t)
{
    double begin = now_seconds();
    if (t->found == t->tokens.count)
        return true;
    report_progress(t->e->request, "encode", 0, 0);
    bool ok = run_wanted(t);
    stage_close(&t->stage);
    for (int i = 0; ok && remembered(t) && i < t->tokens.count; i++) {
        embedding_key key;
        if (t->from[i] != TEXT_WANTED)
            continue;
        embedding place = place_of(t, i, &key);
        embedding_keep(t->e, key, &place);
    }
    t->stage.row->seconds = now_seconds() - begin;
    return ok;
}

void text_stage_close(text_stage *t)
{
    if (t->planned)
        stage_close(&t->stage);
    tokens_close(&t->tokens);
    tokens_close(&t->wanted);
    mem_free(t->from);
    mem_free(t->output);
    mem_free(t->pooled);
    t->from = NULL;
    t->output = t->pooled = NULL;
}

void text_stage_report_cut(const text_stage *t, const request *q, const prompt_set *p)
{
    if (!t->e)
        return; /* not planned */
    result *out = t->e->report;
    int room = sizeof out->item_cut / sizeof *out->item_cut, items = q->items ? q->items : 1;
    for (int i = 0, image = 0; i < items && i < room; image += q->items ? q->item[i].batch_count : 0, i++) {
        int text = p->positive[image];
        out->item_cut[i] = text < t->tokens.count ? t->tokens.cut[text] : 0;
    }
    out->tokens_cut = out->item_cut[0];
}

/* ---- tracing ---- */

#define AT_ROW(i) (which ? which[i] : (int)(i))

static const char *prefix_of(const text_stage *t) { return t->prefix ? t->prefix : ""; }

static bool trace_pooled(const text_stage *t, trace *out, const int *which, int rows, status *st)
{
    size_t width = (size_t)t->pooled_width;
    char name[128];
    float *pools = mem_alloc((size_t)rows * width, 4, "trace", st);
    for (int i = 0; pools && i < rows; i++)
        memcpy(pools + (size_t)i * width, t->pooled + (size_t)AT_ROW(i) * width, width * 4);
    snprintf(name, sizeof name, "%stext.%s.pooled", prefix_of(t), t->name);
    bool ok = pools && trace_add(out, name, pools, 2, (int64_t[]){rows, t->pooled_width}, st);
    mem_free(pools);
    return ok;
}

bool text_stage_trace(const text_stage *t, trace *out, const int *which, int rows, bool mask, status *st)
{
    const token_list *l = &t->tokens;
    if (!out)
        return true;
    int64_t longest = 0, dim = t->width;
    for (int i = 0; i < rows; i++)
        longest = length_of(l, AT_ROW(i)) > longest ? length_of(l, AT_ROW(i)) : longest;
    float *text = mem_alloc((size_t)(rows * longest * dim), 4, "trace", st), *real = mem_alloc((size_t)(rows * longest), 4, "trace", st);
    char name[128];
    for (int64_t i = 0; text && real && i < rows; i++) {
        int n = length_of(l, AT_ROW(i));
        memcpy(text + i * longest * dim, t->output + l->start[AT_ROW(i)] * dim, (size_t)(n * dim) * 4);
        for (int k = 0; k < l->real[AT_ROW(i)]; k++)
            real[i * longest + k] = 1;
    }
    snprintf(name, sizeof name, "%stext.%s", prefix_of(t), t->name);
    bool ok = text && real && trace_add(out, name, text, 3, (int64_t[]){rows, longest, dim}, st);
    snprintf(name, sizeof name, "%smask.%s", prefix_of(t), t->name);
    ok = ok && (!mask || trace_add(out, name, real, 2, (int64_t[]){rows, longest}, st));
    ok = ok && (!t->pooled_width || trace_pooled(t, out, which, rows, st));
    mem_free(text);
    mem_free(real);
    return ok;
}

bool text_stage_encode(text_stage *t, trace *out)
{
    return text_stage_run(t) && text_stage_trace(t, out, NULL, t->tokens.count, true, t->e->st);
}
