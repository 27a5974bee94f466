/* The text of the masked token pipelines. aMUSEd: CLIP's last layer but one, without its final norm, and the projected pooled output. openMUSE: T5's, or CLIP's
 * last layer behind its norm; prompts fill all tokens, and nobody hides the padding. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/pipe_amused.h"

enum { USUAL_TOKENS = 77, MOST_TOKENS = 4096 };

/* openMUSE keeps the tokenizer's files beside the encoder's. The length is the tokenizer's; some say 1e30. */
static bool read_tokenizer(amused *p, int *longest)
{
    const char *const folders[] = {"tokenizer", "text_encoder"};
    char path[64];
    *longest = USUAL_TOKENS;
    for (int i = 0; i < 2; i++) {
        size_t bytes = 0;
        p->tokenizer = folders[i];
        snprintf(path, sizeof path, "%s/tokenizer_config.json", folders[i]);
        char *text = source_read_blob(p->e.source, path, 16 << 20, true, &bytes, p->e.st);
        json *j = text ? json_parse(text, bytes, path, p->e.st) : NULL;
        double length = json_double(j, "model_max_length", 1, 1e31, USUAL_TOKENS, path, p->e.st);
        *longest = length <= MOST_TOKENS ? (int)length : USUAL_TOKENS;
        json_free(j);
        mem_free(text);
        if (j || !status_ok(p->e.st))
            return status_ok(p->e.st);
    }
    p->tokenizer = folders[0];
    return true;
}

static bool reads_t5(amused *p)
{
    char name[FILE_NAME_BYTES];
    json *j = read_config(p->e.source, "text_encoder", "config.json", name, p->e.st);
    bool t5 = j && strcmp(json_text(j, "model_type", "", name, p->e.st), "t5") == 0;
    json_free(j);
    return t5;
}

bool amused_text_plan(amused *p)
{
    int skip = p->e.request->clip_skip, longest, asked = p->e.request->max_sequence_length;
    p->t5 = p->muse && reads_t5(p);
    if (!status_ok(p->e.st) || !read_tokenizer(p, &longest))
        return false;
    /* --clip-skip is A1111's count */
    clip_use use = {.skip = skip ? skip - 1 : p->muse ? 0 : 1, .norm = p->muse, .pooled = !p->muse};
    p->t5_text.padded = p->t5_text.seen = true;
    bool ok = p->t5 ? t5_text_plan(&p->t5_text, &p->e, "text_encoder", p->tokenizer, p->prompts.text, p->prompts.texts, asked ? asked : longest, false)
                    : clip_text_plan(&p->clip_text, &p->e, "text_encoder", p->tokenizer, p->prompts.text, p->prompts.texts, use);
    p->text = p->t5 ? &p->t5_text.text : &p->clip_text.text;
    if (p->text->tokens.count)
        text_stage_report_cut(p->text, p->e.request, &p->prompts);
    return ok;
}

bool amused_text_fits(amused *p)
{
    const token_list *l = &p->text->tokens;
    p->text_tokens = l->count ? l->start[1] : 1;
    for (int i = 0; i < l->count; i++)
        if (l->start[i + 1] - l->start[i] != p->text_tokens)
            return status_set(p->e.st, STATUS_BAD_FILE, "%s: texts of %d and of %d tokens", p->e.source->path, p->text_tokens, l->start[i + 1] - l->start[i]);
    if (p->text->width != p->text_dim || p->text->pooled_width != p->pooled_dim)
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: the text is %d wide and %d where it is pooled, the transformer wants %d and %d", p->e.source->path,
                          p->text->width, p->text->pooled_width, p->text_dim, p->pooled_dim);
    return true;
}

bool amused_text_run(amused *p) { return p->t5 ? text_stage_run(&p->t5_text.text) : clip_text_run(&p->clip_text); }

uint64_t amused_text_hash(const amused *p) { return p->t5 ? text_stage_hash(&p->t5_text.text) : clip_text_hash(&p->clip_text); }

/* Every item of the batch, the unconditional half first. */
bool amused_text_trace(const amused *p)
{
    int half = p->guided ? p->images : 0, *which = mem_alloc((size_t)(half + p->images), sizeof *which, "trace", p->e.st);
    for (int i = 0; which && i < half + p->images; i++)
        which[i] = i < half ? p->prompts.negative[i] : p->prompts.positive[i - half];
    bool ok = which && text_stage_trace(p->text, p->e.request->trace, which, half + p->images, false, p->e.st);
    mem_free(which);
    return ok;
}

void amused_text_close(amused *p)
{
    clip_text_close(&p->clip_text);
    text_stage_close(&p->t5_text.text);
}
