/* The conditions of the Stable Diffusion pipelines. SD has one text encoder, whose last layer (or an earlier one, --clip-skip) goes through the
 * final norm; SDXL has two side by side, the last layer but one without the norm, and the second one's pooled output; its refiner has only the second. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/pipe_sd.h"

typedef struct text_place {
    const char *component, *tokenizer;
} text_place;

static const text_place *place_of(const sd *p, int i)
{
    static const text_place bert = {"bert", "tokenizer"}, clip[2] = {{"text_encoder", "tokenizer"}, {"text_encoder_2", "tokenizer_2"}};
    return p->kind->ldm ? &bert : &clip[i];
}

bool sd_text_read(sd *p)
{
    for (int i = 0; i < (p->kind->xl ? 2 : 1); i++)
        p->encoder[i].here = source_has_component(p->e.source, place_of(p, i)->component);
    if (!p->encoder[p->kind->xl ? 1 : 0].here)
        return status_set(p->e.st, STATUS_BAD_FILE, "%s: has no %s", p->e.source->path, place_of(p, p->kind->xl ? 1 : 0)->component);
    return true;
}

/* --clip-skip is A1111's count: 1 is the last layer. SDXL was trained on the last but one. As in diffusers the negative text keeps its layer. */
static clip_use use_of(const sd *p, int i, bool negative)
{
    int usual = p->kind->xl ? 1 : 0, asked = p->kind->ldm ? 0 : p->e.request->clip_skip;
    return (clip_use){.skip = asked && !negative ? asked - 1 : usual, .norm = !p->kind->xl, .pooled = p->kind->xl && i == 1, .ldmbert = p->kind->ldm};
}

/* The stage that has text number `text` of the prompts, and which of its own it is. */
static const text_stage *stage_of(const sd *p, int i, int text, int *which)
{
    const sd_encoder *c = &p->encoder[i];
    bool negative = c->apart && text < p->prompts.negatives;
    *which = c->apart && !negative ? text - p->prompts.negatives : text;
    return negative ? &c->negative.text : &c->text.text;
}

/* The text of an item of the batch; -1: zeros. */
static int text_of(const sd *p, int item)
{
    return p->guided && item < p->images ? p->prompts.negative[item] : p->prompts.positive[item - (p->guided ? p->images : 0)];
}

static bool plan_encoder(sd *p, int i)
{
    sd_encoder *c = &p->encoder[i];
    const text_place *place = place_of(p, i);
    clip_use use = use_of(p, i, false), usual = use_of(p, i, true);
    const char *const *texts = p->prompts.text;
    int negatives = p->prompts.negatives, count = p->prompts.texts;
    bool fits = true;
    c->apart = negatives > 0 && use.skip != usual.skip && !p->e.request->embeddings;
    if (c->apart) {
        use.beside = texts;
        use.beside_count = negatives;
        usual.beside = texts + negatives;
        usual.beside_count = count - negatives;
        fits = clip_text_plan(&c->negative, &p->e, place->component, place->tokenizer, texts, negatives, usual);
    }
    if (!fits && p->e.st->code != STATUS_BUDGET)
        return false;
    int skip = c->apart ? negatives : 0;
    return clip_text_plan(&c->text, &p->e, place->component, place->tokenizer, texts + skip, count - skip, use) && fits;
}

bool sd_text_plan(sd *p)
{
    status *st = p->e.st;
    bool fits = true;
    p->text_dim = p->tokens = 0;
    for (int i = 0; i < 2; i++) {
        clip_text *t = &p->encoder[i].text;
        if (!p->encoder[i].here)
            continue;
        bool ok = plan_encoder(p, i);
        if (!ok && st->code != STATUS_BUDGET)
            return false;
        fits = fits && ok;
        const token_list *l = &t->text.tokens;
        for (int k = 0; k < l->count; k++) {
            int n = l->start[k + 1] - l->start[k];
            if (p->tokens && n != p->tokens)
                return status_set(st, STATUS_BAD_FILE, "%s: texts of %d and of %d tokens", p->e.source->path, p->tokens, n);
            p->tokens = n;
        }
        p->text_dim += t->config.width;
        p->pooled_dim = t->use.pooled ? clip_pooled_width(&t->config) : 0;
        if (!p->encoder[i].apart && t->text.tokens.count)
            text_stage_report_cut(&t->text, p->e.request, &p->prompts);
    }
    return fits;
}

uint64_t sd_text_hash(const sd *p)
{
    uint64_t h = 0;
    for (int i = 0; i < 2; i++)
        if (p->encoder[i].here) {
            uint64_t both[2] = {clip_text_hash(&p->encoder[i].text), p->encoder[i].apart ? clip_text_hash(&p->encoder[i].negative) : 0};
            h = hash_more(h, both, sizeof both);
        }
    return h;
}

void sd_text_close(sd *p)
{
    for (int i = 0; i < 2; i++) {
        clip_text_close(&p->encoder[i].text);
        clip_text_close(&p->encoder[i].negative);
    }
}

bool sd_text_run(sd *p)
{
    for (int i = 0; i < 2; i++) {
        sd_encoder *c = &p->encoder[i];
        if (c->here && ((c->apart && !clip_text_run(&c->negative)) || !clip_text_run(&c->text)))
            return false;
    }
    return true;
}

/* ---- traces ---- */

static bool trace_rows(const sd *p, trace *to, int i, bool pooled, bool by_batch, status *st)
{
    char name[128];
    int rows = by_batch ? p->batch : p->prompts.texts, which;
    int64_t dim = pooled ? p->pooled_dim : p->encoder[i].text.config.width, tokens = pooled ? 1 : p->tokens;
    size_t each = (size_t)(tokens * dim);
    float *all = mem_alloc(each * (size_t)rows, 4, "trace", st);
    for (int k = 0; all && k < rows; k++) {
        int text = by_batch ? text_of(p, k) : k;
        const text_stage *t = stage_of(p, i, text < 0 ? 0 : text, &which);
        if (text >= 0) /* memory comes zeroed */
            memcpy(all + each * (size_t)k, (pooled ? t->pooled : t->output) + each * (size_t)which, each * 4);
    }
    snprintf(name, sizeof name, "%stext.%s%s", p->prefix, place_of(p, i)->component, pooled ? ".pooled" : "");
    int64_t shape[3] = {rows, tokens, dim}, flat[2] = {rows, dim};
    bool ok = all && trace_add(to, name, all, pooled ? 2 : 3, pooled ? flat : shape, st);
    mem_free(all);
    return ok;
}

/* CLIP masks nothing: every token counts. */
static bool trace_mask(const sd *p, trace *to, int i, status *st)
{
    char name[128];
    int rows = p->prompts.texts;
    snprintf(name, sizeof name, "%smask.%s", p->prefix, place_of(p, i)->component);
    float *ones = mem_alloc((size_t)rows * (size_t)p->tokens, 4, "trace", st);
    for (int k = 0; ones && k < rows * p->tokens; k++)
        ones[k] = 1;
    bool ok = ones && trace_add(to, name, ones, 2, (int64_t[]){rows, p->tokens}, st);
    mem_free(ones);
    return ok;
}

bool sd_text_trace(sd *p, trace *to, bool by_batch)
{
    status *st = p->e.st;
    for (int i = 0; to && i < 2 && status_ok(st); i++) {
        if (!p->encoder[i].here)
            continue;
        trace_rows(p, to, i, false, by_batch, st);
        if (p->encoder[i].text.use.pooled)
            trace_rows(p, to, i, true, by_batch, st);
        if (!by_batch)
            trace_mask(p, to, i, st);
    }
    return status_ok(st);
}

/* ---- by batch item ---- */

/* height, width of the picture it was trained as; corner; then the size wanted, or the refiner's aesthetic score */
static void place_sizes(sd *p, float *out, bool unconditional)
{
    float h = (float)p->height, w = (float)p->width, score = unconditional ? 2.5f : 6.0f;
    float all[6] = {h, w, 0, 0, p->aesthetics ? score : h, w};
    memcpy(out, all, (size_t)p->sizes_count * 4);
}

/* diffusers' get_guidance_scale_embedding of guidance - 1 */
static void embed_guidance(float guidance, int dim, float *out)
{
    int half = dim / 2;
    float w = (guidance - 1) * 1000, step = logf(10000) / (float)(half - 1);
    for (int i = 0; i < half; i++) {
        float angle = w * expf((float)i * -step);
        out[i] = sinf(angle);
        out[i + half] = cosf(angle);
    }
    if (dim % 2)
        out[dim - 1] = 0;
}

static void place_item(sd *p, int item)
{
    bool unconditional = p->guided && item < p->images;
    int text_number = text_of(p, item);
    bool zeros = text_number < 0;
    size_t dim = (size_t)p->text_dim, tokens = (size_t)p->tokens, pooled = (size_t)p->pooled_dim, column = 0;
    float *text = p->text + (size_t)item * tokens * dim;
    for (int i = 0; i < 2; i++) {
        int which;
        if (!p->encoder[i].here)
            continue;
        const text_stage *t = stage_of(p, i, zeros ? 0 : text_number, &which);
        size_t width = (size_t)t->width;
        for (size_t k = 0; k < tokens && !zeros; k++)
            memcpy(text + k * dim + column, t->output + ((size_t)which * tokens + k) * width, width * 4);
        if (t->pooled_width && !zeros)
            memcpy(p->pooled + (size_t)item * pooled, t->pooled + (size_t)which * pooled, pooled * 4);
        column += width;
    }
    if (p->sizes_count)
        place_sizes(p, p->sizes + (size_t)item * (size_t)p->sizes_count, unconditional);
    if (p->unet.guidance_dim)
        embed_guidance((float)p->guidance, p->unet.guidance_dim, p->guidance_embedding + (size_t)item * (size_t)p->unet.guidance_dim);
}

bool sd_text_place(sd *p)
{
    for (int i = 0; i < p->batch; i++) /* memory comes zeroed */
        place_item(p, i);
    return status_ok(p->e.st);
}
