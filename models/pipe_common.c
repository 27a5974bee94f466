#define _GNU_SOURCE
#include "models/pipe_common.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void report_progress(const request *q, const char *what, int done, int total)
{
    if (q->progress)
        q->progress(q->progress_ctx, what, done, total);
}

json *read_config(const source *src, const char *component, const char *file, char name[FILE_NAME_BYTES], status *st)
{
    char path[256];
    size_t bytes;
    snprintf(path, sizeof path, "%s%s%s", component, component[0] ? "/" : "", file);
    snprintf(name, FILE_NAME_BYTES, "%s/%s", src->path, path);
    char *text = source_read_blob(src, path, 16 << 20, false, &bytes, st);
    json *j = text ? json_parse(text, bytes, name, st) : NULL;
    mem_free(text);
    return j;
}

/* ---- T5 as a text encoder ---- */

static void t5_forward(run *r, const void *config, const text_batch *b)
{
    output(r, t5_encode(r, config, b->ids, &b->segments), b->output);
}

static char *read_beside(const source *src, const char *folder, const char *file, bool may_lack, char path[256], size_t *bytes, status *st)
{
    snprintf(path, 256, "%s%s%s", folder, folder[0] ? "/" : "", file);
    return source_read_blob(src, path, 64 << 20, may_lack, bytes, st);
}

/* spiece.model, or where there is none tokenizer.json; the error names the former. */
static tokenizer *open_tokenizer(const source *src, const char *folder, status *st)
{
    char path[256], config_path[256], json_path[256];
    size_t bytes = 0, config_bytes = 0;
    tokenizer *t = NULL;
    char *config = read_beside(src, folder, "tokenizer_config.json", true, config_path, &config_bytes, st);
    char *model = status_ok(st) ? read_beside(src, folder, "spiece.model", true, path, &bytes, st) : NULL;
    char *whole = status_ok(st) && !model ? read_beside(src, folder, "tokenizer.json", true, json_path, &bytes, st) : NULL;
    if (whole)
        t = tokenizer_open_spm_json(whole, bytes, config, config_bytes, json_path, st);
    else if (status_ok(st) && (model || (model = read_beside(src, folder, "spiece.model", false, path, &bytes, st))))
        t = tokenizer_open_spm(model, bytes, config, config_bytes, path, st);
    mem_free(model);
    mem_free(whole);
    mem_free(config);
    return t;
}

static bool tokenize(token_list *l, const tokenizer *t, const char *text, int most, bool clean, status *st)
{
    char *cleaned = clean ? text_lower_strip(text, st) : mem_string(text, st);
    int whole = 0, n = cleaned ? tokenizer_encode(t, cleaned, l->ids + l->start[l->count], most, &whole, st) : -1;
    mem_free(cleaned);
    if (n < 0)
        return false;
    tokens_add(l, n, whole > n ? whole - n : 0);
    return true;
}

/* The last `given` prompts come from --embeddings, rows[] tokens long. */
static void fill_up(t5_text *t, const tokenizer *tok, int length)
{
    int32_t pad = tok ? tokenizer_marks_of(tok)->pad : 0;
    if (t->padded)
        tokens_pad(&t->text.tokens, length, pad < 0 ? 0 : pad);
    if (t->seen)
        t->text.tokens.real[t->text.tokens.count - 1] = length;
}

static bool make_tokens(t5_text *t, engine *e, const char *folder, const char *const *texts, int count, int most, bool clean, int given, const int32_t rows[2])
{
    token_list *l = &t->text.tokens;
    const request *q = e->request;
    bool made_up = q->tokens > 0 || t->text.stage.run.imagine || (!q->prompt && !q->embeddings && !q->items);
    int room = q->tokens > most ? q->tokens : most;
    for (int i = 0; i < given; i++)
        room = rows[i] > room ? rows[i] : room;
    if (!tokens_open(l, count, room, e->st))
        return false;
    tokenizer *tok = made_up || given == count ? NULL : open_tokenizer(e->source, folder, e->st);
    for (int i = 0; i < count && status_ok(e->st); i++) {
        if (i >= count - given) {
            tokens_add(l, rows[i - (count - given)], 0);
            continue;
        }
        if (made_up)
            tokens_add_arbitrary(l, !*texts[i] ? 1 : q->tokens > 0 ? q->tokens : most, t->config.vocabulary);
        else if (!tokenize(l, tok, texts[i], most, clean, e->st))
            break;
        fill_up(t, tok, given ? rows[0] : room);
    }
    tokenizer_close(tok);
    return status_ok(e->st);
}

bool t5_text_plan(t5_text *t, engine *e, const char *component, const char *folder, const char *const *texts, int count, int most, bool clean)
{
    char name[FILE_NAME_BYTES];
    json *j = read_config(e->source, component, "config.json", name, e->st);
    bool ok = j && t5_config_read(&t->config, j, name, e->st);
    json_free(j);
    if (!ok)
        return false;
    t->text = (text_stage){.component = component, .name = component[0] ? component : "text_encoder", .alias = t5_aliases, .forward = t5_forward,
                           .config = &t->config, .width = t->config.d_model, .padded = t->padded};
    t->text.stage.run.imagine = e->request->imagine || source_lacks_weights(e->source, component);
    int32_t rows[2];
    int given = text_given(&t->text, e, count, rows);
    return status_ok(e->st) && make_tokens(t, e, folder, texts, count, most, clean, given, rows) && text_stage_plan(&t->text, e, given);
}

/* ---- noise ---- */

bool noise_open(noise_source *n, const uint64_t *seed, int images, size_t per_image, status *st)
{
    *n = (noise_source){mem_alloc((size_t)images, sizeof(rng), "noise", st), images, per_image};
    for (int i = 0; n->image && i < images; i++)
        rng_seed(&n->image[i], seed[i]);
    return n->image != NULL;
}

void noise_close(noise_source *n)
{
    mem_free(n->image);
    n->image = NULL;
}

void noise_draw(void *ctx, float *out, size_t count)
{
    noise_source *n = ctx;
    (void)count;
    for (int i = 0; i < n->images; i++)
        rng_normal(&n->image[i], out + (size_t)i * n->per_image, n->per_image);
}
