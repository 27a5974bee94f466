#include "models/text_clip.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/resume.h"
#include "text/prompt_weights.h"

/* ---- ids ---- */

enum { FILES = 6, MOST_FILE = 64 << 20, MOST_TOKENS = 4096 };

static tokenizer *open_tokenizer(const source *src, const char *folder, bool wordpiece, status *st)
{
    static const char *const name[FILES] = {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
    tokenizer_file file[FILES] = {{NULL, 0}};
    char *text[FILES] = {NULL}, path[288], prefix[256];
    snprintf(prefix, sizeof prefix, "%s%s", folder, folder[0] ? "/" : "");
    for (int i = 0; i < FILES && status_ok(st); i++) {
        snprintf(path, sizeof path, "%s%s", prefix, wordpiece && i == 0 ? "vocab.txt" : name[i]);
        text[i] = source_read_blob(src, path, MOST_FILE, true, &file[i].bytes, st);
        file[i].text = text[i];
    }
    tokenizer_files f = {prefix, file[0], file[1], file[2], file[3], file[4], file[5]};
    tokenizer *t = !status_ok(st) ? NULL : wordpiece ? tokenizer_open_wordpiece(&f, st) : tokenizer_open_bpe(&f, st);
    for (int i = 0; i < FILES; i++)
        mem_free(text[i]);
    return t;
}

enum { LDM_TOKENS = 77 }; /* whatever its tokenizer says, which is BERT's */

static int tokens_of(const clip_text *t, const tokenizer *tok, int made_up)
{
    int longest = made_up > 0 ? made_up : t->use.ldmbert ? LDM_TOKENS : tok ? tokenizer_marks_of(tok)->longest : 0;
    return longest > (made_up > 0 ? 0 : 1) && longest < t->config.positions ? longest : t->config.positions;
}

/* One prompt's chunks; none where `text` is NULL. */
static bool read_prompt(prompt_chunks *p, const clip_text *t, const tokenizer *tok, const char *text, int *chunks, status *st)
{
    if (!text || !prompt_read(p, tok, text, t->tokens, t->use.ldmbert, st))
        return status_ok(st);
    *chunks = p->chunks > *chunks ? p->chunks : *chunks;
    return true;
}

/* How many chunks every prompt gets: as many as the longest has, of those that are given or stand in the other stage too. */
static bool read_prompts(prompt_chunks *p, const clip_text *t, const tokenizer *tok, const char *const *texts, int count, int *chunks, status *st)
{
    for (int i = 0; i < t->use.beside_count && status_ok(st); i++) {
        prompt_chunks other = {0};
        read_prompt(&other, t, tok, t->use.beside[i], chunks, st);
        prompt_free(&other);
    }
    for (int i = 0; i < count && status_ok(st); i++)
        read_prompt(&p[i], t, tok, texts[i], chunks, st);
    for (int i = 0; i < count && status_ok(st); i++)
        prompt_lengthen(&p[i], tok, *chunks, st);
    return status_ok(st);
}

/* Ids into the list; weights, where there are any. */
static void put_prompts(clip_text *t, const prompt_chunks *p, int count, status *st)
{
    token_list *l = &t->text.tokens;
    bool plain = true;
    int n = count ? p[0].chunks * t->tokens : 0;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < n; k++)
            plain = plain && p[i].weight[k] == 1;
    t->weight = plain ? NULL : mem_alloc((size_t)count * (size_t)n, sizeof *t->weight, "tokens", st);
    for (int i = 0; i < count && status_ok(st); i++) {
        memcpy(l->ids + l->start[l->count], p[i].ids, (size_t)n * sizeof *l->ids);
        if (t->weight)
            memcpy(t->weight + (size_t)i * (size_t)n, p[i].weight, (size_t)n * sizeof *t->weight);
        tokens_add(l, n, p[i].cut);
    }
}

/* texts: those that are neither made up nor given; rows of those that are given. */
static bool make_tokens(clip_text *t, engine *e, const tokenizer *tok, const char *const *texts, int count, int given, const int32_t rows[2])
{
    token_list *l = &t->text.tokens;
    status *st = e->st;
    int written = count - given, chunks = 1, room = 0;
    for (int i = 0; i < given; i++) {
        room = rows[i] > room ? rows[i] : room;
        chunks = rows[i] % t->tokens == 0 && rows[i] / t->tokens > chunks ? rows[i] / t->tokens : chunks;
    }
    prompt_chunks *p = mem_alloc((size_t)written + 1, sizeof *p, "tokens", st);
    bool ok = p && (!tok || read_prompts(p, t, tok, texts, written, &chunks, st));
    room = chunks * t->tokens > room ? chunks * t->tokens : room;
    ok = ok && tokens_open(l, count, room, st);
    t->pooled_at = ok ? mem_alloc((size_t)count, sizeof *t->pooled_at, "tokens", st) : NULL;
    for (int i = 0; ok && !tok && i < written; i++)
        tokens_add_arbitrary(l, chunks * t->tokens, t->config.vocabulary);
    if (ok && tok)
        put_prompts(t, p, written, st);
    for (int i = 0; ok && i < given; i++)
        tokens_add(l, rows[i], 0);
    for (int i = 0; p && i < written; i++)
        prompt_free(&p[i]);
    mem_free(p);
    return status_ok(st);
}

/* The tokenizer, unless ids are made up or every text is given; and the length of a chunk. */
static bool tokenize(clip_text *t, engine *e, const char *folder, const char *const *texts, int count, int given, const int32_t rows[2])
{
    const request *q = e->request;
    bool made_up = q->tokens > 0 || t->text.stage.run.imagine || (!q->prompt && !q->embeddings && !q->items);
    tokenizer *tok = made_up || given == count ? NULL : open_tokenizer(e->source, folder, t->use.ldmbert, e->st);
    t->tokens = tokens_of(t, tok, q->tokens);
    if (tok && tokenizer_largest_id(tok) >= t->config.vocabulary)
        status_set(e->st, STATUS_BAD_FILE, "%s: %s: the tokenizer has ids up to %d, the model's vocabulary has %d", e->source->path, folder, tokenizer_largest_id(tok),
                   t->config.vocabulary);
    if (status_ok(e->st) && t->tokens > MOST_TOKENS)
        status_set(e->st, STATUS_BAD_FILE, "%s: %s: texts of %d tokens; at most %d are expected", e->source->path, t->text.name, t->tokens, MOST_TOKENS);
    bool ok = status_ok(e->st) && make_tokens(t, e, tok, texts, count, given, rows);
    tokenizer_close(tok);
    return ok;
}

/* ---- the stage ---- */

static void clip_forward(run *r, const void *ctx, const text_batch *b)
{
    const clip_text *t = ctx;
    int count = b->segments.count;
    for (int i = 0; i < count; i++) {
        int32_t start = b->segments.start[i];
        t->pooled_at[i] = start + clip_pooled_at(&t->config, b->ids + start, t->tokens);
    }
    clip_inputs in = {.ids = b->ids, .batch = b->segments.start[count] / t->tokens, .tokens = t->tokens, .want_hidden = true, .want_pooled = t->use.pooled,
                      .skip = t->use.skip, .norm = t->use.norm, .poolings = count, .pooled_at = t->pooled_at, .hidden = b->output, .pooled = b->pooled};
    clip_encode(r, &t->config, &in);
}

static void ldmbert_forward(run *r, const void *ctx, const text_batch *b)
{
    const clip_text *t = ctx;
    output(r, ldmbert_encode(r, &t->bert, b->ids, b->segments.start[b->segments.count] / t->tokens, t->tokens), b->output);
}

static bool read_encoder(clip_text *t, const json *j, const char *name, status *st)
{
    if (!t->use.ldmbert)
        return clip_config_read(&t->config, j, name, st);
    bool ok = ldmbert_config_read(&t->bert, j, name, st);
    t->config = (clip_config){.width = t->bert.width, .layers = t->bert.layers, .positions = t->bert.positions, .vocabulary = t->bert.vocabulary};
    return ok;
}

static bool plan_text(clip_text *t, engine *e, const char *component, const char *folder, const char *const *texts, int count, clip_use use)
{
    char name[FILE_NAME_BYTES];
    int32_t rows[2];
    *t = (clip_text){.use = use};
    json *j = read_config(e->source, component, "config.json", name, e->st);
    bool ok = j && read_encoder(t, j, name, e->st);
    json_free(j);
    if (!ok)
        return false;
    if (use.skip > t->config.layers)
        return status_set(e->st, STATUS_USAGE, "--clip-skip: %s has %d layers", name, t->config.layers);
    t->text = (text_stage){.component = component, .name = component[0] ? component : "text_encoder", .alias = use.ldmbert ? ldmbert_aliases : clip_aliases,
                           .forward = use.ldmbert ? ldmbert_forward : clip_forward, .config = t,
                           .variant = (uint64_t)use.skip * 4 + use.norm * 2u + use.pooled, .width = t->config.width,
                           .pooled_width = use.pooled ? clip_pooled_width(&t->config) : 0};
    t->text.stage.run.imagine = e->request->imagine || source_lacks_weights(e->source, component);
    int given = text_given(&t->text, e, count, rows);
    return status_ok(e->st) && tokenize(t, e, folder, texts, count, given, rows) && text_stage_plan(&t->text, e, given);
}

bool clip_text_plan(clip_text *t, engine *e, const char *component, const char *folder, const char *const *texts, int count, clip_use use)
{
    status before = refusal_aside(e->st);
    plan_text(t, e, component, folder, texts, count, use);
    return refusal_back(e->st, &before);
}

/* What the cache and the store hold are the network's outputs; embeddings that are given have their weights. */
bool clip_text_run(clip_text *t)
{
    if (!text_stage_run(&t->text))
        return false;
    const token_list *l = &t->text.tokens;
    size_t width = (size_t)t->config.width;
    for (int i = 0; t->weight && i < l->count; i++)
        for (int32_t k = l->start[i]; t->text.from[i] != TEXT_GIVEN && k < l->start[i + 1]; k += t->tokens)
            prompt_weigh(t->text.output + (size_t)k * width, t->weight + k, t->tokens, (int)width);
    return true;
}

uint64_t clip_text_hash(const clip_text *t)
{
    const token_list *l = &t->text.tokens;
    uint64_t h = text_stage_hash(&t->text);
    for (int i = 0; t->weight && i < l->count; i++)
        if (t->text.from[i] != TEXT_GIVEN)
            h = hash_more(h, t->weight + l->start[i], (size_t)(l->start[i + 1] - l->start[i]) * sizeof *t->weight);
    return h;
}

void clip_text_close(clip_text *t)
{
    text_stage_close(&t->text);
    mem_free(t->pooled_at);
    mem_free(t->weight);
    t->pooled_at = NULL;
    t->weight = NULL;
}
