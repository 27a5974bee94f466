#include "models/prompt_set.h"

#include <string.h>

#include "base/mem.h"

static int add_text(prompt_set *p, int from, const char *text, bool apart)
{
    for (int i = from; i < p->texts && !apart; i++)
        if (strcmp(p->text[i], text) == 0)
            return i;
    p->text[p->texts] = text;
    return p->texts++;
}

static const char *positive_of(const request *q, const request_item *item)
{
    return q->tokens > 0 || !item->prompt ? "arbitrary" : item->prompt;
}

static bool negative_wanted(const request_item *item, prompt_guidance g) { return g == GUIDE_ALL || (g == GUIDE_NAMED && item->negative_prompt); }

bool prompt_set_open(prompt_set *p, const request *q, prompt_guidance guidance, status *st)
{
    const request_item one = {q->prompt, q->negative_prompt, q->seed, q->batch_count > 0 ? q->batch_count : 1}, *item = q->items ? q->item : &one;
    int items = q->items ? q->items : 1;
    *p = (prompt_set){0};
    for (int i = 0; i < items; i++)
        if (__builtin_add_overflow(p->images, item[i].batch_count, &p->images) || p->images > 1 << 20)
            return status_set(st, STATUS_USAGE, "batch count: more than %d pictures at once", 1 << 20);
    size_t images = (size_t)p->images, each = 2 * sizeof *p->text + 2 * sizeof *p->negative + sizeof *p->seed;
    p->memory = mem_alloc(images, each, "prompts", st);
    if (!p->memory)
        return false;
    p->seed = p->memory;
    p->text = (const char **)(p->seed + images);
    p->negative = (int *)(p->text + 2 * images);
    p->positive = p->negative + images;
    for (int i = 0, image = 0; i < items; image += item[i].batch_count, i++) {
        int n = negative_wanted(&item[i], guidance) ? add_text(p, 0, item[i].negative_prompt ? item[i].negative_prompt : "", false) : -1;
        for (int k = 0; k < item[i].batch_count; k++) {
            p->negative[image + k] = n;
            p->seed[image + k] = item[i].seed + (uint64_t)k;
        }
    }
    p->negatives = p->texts;
    for (int i = 0, image = 0; i < items; image += item[i].batch_count, i++)
        for (int k = 0; k < item[i].batch_count; k++)
            p->positive[image + k] = add_text(p, p->negatives, positive_of(q, &item[i]), q->tokens > 0 && guidance == GUIDE_NONE);
    return true;
}

void prompt_set_close(prompt_set *p)
{
    mem_free(p->memory);
    *p = (prompt_set){0};
}
