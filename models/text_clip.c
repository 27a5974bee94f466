#include "models/text_clip.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer.h"

/* ---- ids ---- */

enum { FILES = 6, MOST_FILE = 64 << 20, MOST_TOKENS = 4096 };

static tokenizer *open_tokenizer(const source *src, const char *folder, status *st)
{
    static const char *const name[FILES] = {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
    tokenizer_file file[FILES] = {{NULL, 0}};
    char *text[FILES] = {NULL}, path[256], prefix[256];
    snprintf(prefix, sizeof prefix, "%s%s", folder, folder[0] ? "/" : "");
    for (int i = 0; i < FILES && status_ok(st); i++) {
        snprintf(path, sizeof path, "%s%s", prefix, name[i]);
        text[i] = source_read_blob(src, path, MOST_FILE, true, &file[i].bytes, st);
        file[i].text = text[i];
    }
    tokenizer_files f = {prefix, file[0], file[1], file[2], file[3], file[4], file[5]};
    tokenizer *t = status_ok(st) ? tokenizer_open_bpe(&f, st) : NULL;
    for (int i = 0; i < FILES; i++)
        mem_free(text[i]);
    return t;
}

/* Ids of one prompt, then padding. */
static void tokenize(token_list *l, const tokenizer *tok, const char *text, int tokens, status *st)
{
    int32_t *ids = l->ids + l->start[l->count], pad = tokenizer_marks_of(tok)->pad;
    int whole = 0, n = tokenizer_encode(tok, text, ids, tokens, &whole, st);
    if (n < 0)
        return;
    for (int i = n; i < tokens; i++)
        ids[i] = pad < 0 ? 0 : pad;
    tokens_add(l, tokens, whole > n ? whole - n : 0);
}

static int tokens_of(const clip_text *t, const tokenizer *tok)
{
    int longest = tok ? tokenizer_marks_of(tok)->longest : 0;
    return longest > 1 && longest < t->config.positions ? longest : t->config.positions;
}

static bool make_tokens(clip_text *t, engine *e, const char *folder, const char *const *texts, int count, int given, const int32_t rows[2])
{
    const request *q = e->request;
    token_list *l = &t->text.tokens;
    bool made_up = q->tokens > 0 || t->text.stage.run.imagine || (!q->prompt && !q->embeddings && !q->items);
    tokenizer *tok = made_up || given == count ? NULL : open_tokenizer(e->source, folder, e->st);
    int tokens = tokens_of(t, tok), room = tokens;
    for (int i = 0; i < given; i++)
        room = rows[i] > room ? rows[i] : room;
    if (status_ok(e->st) && room > MOST_TOKENS)
        status_set(e->st, STATUS_BAD_FILE, "%s: %s: texts of %d tokens; at most %d are expected", e->source->path, t->text.name, room, MOST_TOKENS);
    bool ok = status_ok(e->st) && tokens_open(l, count, room, e->st);
    t->pooled_at = ok ? mem_alloc((size_t)count, sizeof *t->pooled_at, "tokens", e->st) : NULL;
    for (int i = 0; ok && i < count && status_ok(e->st); i++)
        if (i >= count - given)
            tokens_add(l, rows[i - (count - given)], 0);
        else if (made_up)
            tokens_add_arbitrary(l, tokens, t->config.vocabulary);
        else
            tokenize(l, tok, texts[i], tokens, e->st);
    tokenizer_close(tok);
    return status_ok(e->st);
}

/* ---- the stage ---- */

static void clip_forward(run *r, const void *ctx, const text_batch *b)
{
    const clip_text *t = ctx;
    int tokens = b->segments.start[1];
    for (int i = 0; i < b->segments.count; i++)
        t->pooled_at[i] = clip_pooled_at(&t->config, b->ids + b->segments.start[i], tokens);
    clip_inputs in = {.ids = b->ids, .batch = b->segments.count, .tokens = tokens, .want_hidden = true, .want_pooled = t->use.pooled, .skip = t->use.skip,
                      .norm = t->use.norm, .pooled_at = t->pooled_at, .hidden = b->output, .pooled = b->pooled};
    clip_encode(r, &t->config, &in);
}

bool clip_text_plan(clip_text *t, engine *e, const char *component, const char *folder, const char *const *texts, int count, clip_use use)
{
    char name[FILE_NAME_BYTES];
    int32_t rows[2];
    *t = (clip_text){.use = use};
    json *j = read_config(e->source, component, "config.json", name, e->st);
    bool ok = j && clip_config_read(&t->config, j, name, e->st);
    json_free(j);
    if (!ok)
        return false;
    if (use.skip > t->config.layers)
        return status_set(e->st, STATUS_USAGE, "--clip-skip: %s has %d layers", name, t->config.layers);
    t->text = (text_stage){.component = component, .name = component[0] ? component : "text_encoder", .alias = clip_aliases, .forward = clip_forward, .config = t,
                           .variant = (uint64_t)use.skip * 4 + use.norm * 2u + use.pooled, .width = t->config.width,
                           .pooled_width = use.pooled ? clip_pooled_width(&t->config) : 0};
    t->text.stage.run.imagine = source_lacks_weights(e->source, component);
    int given = text_given(&t->text, e, count, rows);
    return status_ok(e->st) && make_tokens(t, e, folder, texts, count, given, rows) && text_stage_plan(&t->text, e, given);
}

void clip_text_close(clip_text *t)
{
    text_stage_close(&t->text);
    mem_free(t->pooled_at);
    t->pooled_at = NULL;
}
