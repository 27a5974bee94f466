/* The lines of a prompt file: as many as the budget allows through one pass of the encoders, and of those with the same settings as many as it
 * allows through one pass of the denoiser. What a prompt becomes does not depend on its company. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "models/embeddings.h"
#include "text/prompt_weights.h"
#include "tools/prompts.h"

enum { MOST_TOGETHER = 64 };                              /* pictures in a pass of the denoiser */
static const uint64_t unbudgeted_arena = 1 << 30;         /* activations of a pass, where there is no budget */
static const uint64_t unbudgeted_text = 256 << 20;        /* embeddings held */

static bool same_text(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }
static bool same_number(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

static bool same_settings(const options *a, const options *b)
{
    return a->width == b->width && a->height == b->height && a->steps == b->steps && same_number(a->guidance_scale, b->guidance_scale) &&
           same_text(a->sampling_method, b->sampling_method) && same_text(a->scheduler, b->scheduler) &&
           a->max_sequence_length == b->max_sequence_length && a->clip_skip == b->clip_skip && a->guidance_rescale == b->guidance_rescale &&
           same_number(a->temperature, b->temperature);
}

/* Lines with files of their own for what lies between prompt and picture; and prompts of several chunks, to whose length others would be filled up. */
static bool by_itself(const options *o)
{
    if ((o->prompt && prompt_may_be_long(o->prompt)) || (o->negative_prompt && prompt_may_be_long(o->negative_prompt)))
        return true;
    return o->trace || o->save_latents || o->load_latents || o->checkpoint || o->embeddings || o->tokens || o->init_img || o->mask || o->refiner || o->taesd || o->cascade.count || o->preview;
}

/* ---- checks ---- */

static bool check_line(const prompt_line *line, status *st)
{
    request q;
    const options *o = &line->o;
    const char *inputs[] = {o->init_img, o->mask, o->embeddings, o->load_latents};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        if (inputs[i] && access(inputs[i], R_OK) != 0)
            return status_set(st, STATUS_BAD_FILE, "%s: %s", inputs[i], strerror(errno));
    return make_request(o, NULL, &q, st) && check_outputs(o, st);
}

/* What only the model can tell (its sizes, its methods, the budget), once for all lines with the same settings. */
static bool check_settings(prompt_lines *l, int i, const source *src, status *st)
{
    prompt_line *line = &l->line[i];
    for (int k = 0; k < i; k++)
        if (same_settings(&l->line[k].o, &line->o) && l->line[k].o.batch_count >= line->o.batch_count) {
            line->guided = l->line[k].guided;
            return true;
        }
    request q;
    result r = {0};
    bool ok = make_request(&line->o, NULL, &q, st);
    q.cache = false;
    q.embeddings = NULL;
    if (!q.prompt)
        q.prompt = "";
    ok = ok && pipeline_plan(src, &q, &r, st);
    line->guided = r.guidance_scale > 1;
    result_free(&r);
    return ok;
}

static bool check_all(prompt_lines *l, const source *src, status *st)
{
    for (int i = 0; i < l->count; i++)
        if (!check_line(&l->line[i], st) || (l->line[i].o.command->bit == GENERATE && !check_settings(l, i, src, st))) {
            prompts_name_line(l, &l->line[i], st);
            return false;
        }
    return true;
}

/* ---- one pass of the encoders ---- */

/* The request of line `first` with the items of those lines (indices, in `which`). items: room for count. */
static bool join(const prompt_lines *l, const int *which, int count, bool texts_alone, progress *p, embedding_store *store, request_item *item, request *q, status *st)
{
    const options *o = &l->line[which[0]].o;
    if (!make_request(o, p, q, st))
        return false;
    for (int i = 0; i < count; i++) {
        const prompt_line *line = &l->line[which[i]];
        const char *negative = line->o.negative_prompt;
        if (texts_alone && line->o.command->bit == GENERATE)
            negative = !line->guided ? NULL : negative ? negative : "";
        item[i] = (request_item){line->o.prompt, negative, line->o.seed, texts_alone ? 1 : line->o.batch_count};
    }
    q->item = item;
    q->items = count;
    q->store = store;
    return true;
}

/* Does a pass over the encoders for so many fit? STATUS_BUDGET does not stay in st. */
static bool encoding_fits(const request *q, const source *src, status *st)
{
    result r = {0};
    status mine = STATUS_INIT;
    request asked = *q;
    asked.store = NULL;
    asked.cache = false;
    bool ok = pipeline_encode(src, &asked, NULL, &r, &mine);
    result_free(&r);
    if (!ok && mine.code != STATUS_BUDGET)
        *st = mine;
    return ok && r.text_bytes <= (q->budget_bytes ? q->budget_bytes / 8 : unbudgeted_text);
}

/* Into the store: the embeddings of lines from `first` on; returns how many of them are in. 0: they are left to themselves. */
static int encode_together(const prompt_lines *l, int first, int end, const source *src, embedding_store *store, status *st)
{
    int *which = mem_alloc((size_t)(end - first), sizeof *which, "prompts", st), count = 0;
    request_item *item = mem_alloc((size_t)(end - first), sizeof *item, "prompts", st);
    progress p;
    request q;
    result r = {0};
    for (int i = first; status_ok(st) && i < end; i++)
        if (!by_itself(&l->line[i].o))
            which[count++] = i;
    progress_start(&p, l->line[first].o.quiet);
    while (status_ok(st) && count > 0 && join(l, which, count, true, &p, store, item, &q, st) && !encoding_fits(&q, src, st))
        count /= 2;
    if (status_ok(st) && count > 1 && !pipeline_encode(src, &q, NULL, &r, st))
        prompts_name_line(l, &l->line[first], st);
    progress_end(&p);
    int reached = count > 1 ? which[count - 1] + 1 : first + 1;
    result_free(&r);
    mem_free(which);
    mem_free(item);
    return status_ok(st) ? reached - first : 0;
}

/* ---- one pass of the denoiser ---- */

static bool denoising_fits(const request *q, const source *src, status *st)
{
    result r = {0};
    status mine = STATUS_INIT;
    request asked = *q;
    asked.cache = false;
    bool ok = pipeline_plan(src, &asked, &r, &mine);
    uint64_t most = 0;
    for (int i = 0; i < r.stages; i++)
        most = r.stage[i].arena_bytes > most ? r.stage[i].arena_bytes : most;
    result_free(&r);
    if (!ok && mine.code != STATUS_BUDGET)
        *st = mine;
    return ok && (q->budget_bytes || most <= unbudgeted_arena);
}

/* Line `first` and what goes with it. */
static int companions(const prompt_lines *l, int first, int end, int which[MOST_TOGETHER])
{
    int count = 0, pictures = 0;
    for (int i = first; i < end && count < MOST_TOGETHER; i++) {
        const prompt_line *line = &l->line[i];
        bool joins = i == first || (!line->made && !by_itself(&line->o) && same_settings(&l->line[first].o, &line->o) && pictures + line->o.batch_count <= MOST_TOGETHER);
        if (!joins)
            continue;
        which[count++] = i;
        pictures += line->o.batch_count;
    }
    return count;
}

static bool write_lines(prompt_lines *l, const int *which, int count, const request *q, const source *src, const result *all, status *st)
{
    size_t picture = (size_t)all->width * (size_t)all->height * 3;
    for (int i = 0, image = 0; i < count && status_ok(st); image += q->item[i].batch_count, i++) {
        prompt_line *line = &l->line[which[i]];
        request mine = *q;
        result r = *all;
        mine.prompt = q->item[i].prompt;
        mine.negative_prompt = q->item[i].negative_prompt;
        mine.seed = r.seed = q->item[i].seed;
        r.rgb = all->rgb + (size_t)image * picture;
        r.images = q->item[i].batch_count;
        r.tokens_cut = all->item_cut[i];
        tell_cut(line->o.quiet, &r);
        if (write_pictures(&line->o, &mine, src->path, &r, st))
            print_report(&line->o, &mine, &r);
        line->made = true;
        if (!status_ok(st))
            prompts_name_line(l, line, st);
    }
    return status_ok(st);
}

static bool generate_together(prompt_lines *l, const int *which, int count, const source *src, embedding_store *store, status *st)
{
    request_item item[MOST_TOGETHER];
    request q;
    result r = {0};
    progress p;
    progress_start(&p, l->line[which[0]].o.quiet);
    while (count > 1 && join(l, which, count, false, &p, store, item, &q, st) && !denoising_fits(&q, src, st) && status_ok(st))
        count = (count + 1) / 2;
    bool ok = status_ok(st) && join(l, which, count, false, &p, store, item, &q, st) && pipeline_generate(src, &q, &r, st);
    progress_end(&p);
    if (!ok)
        prompts_name_line(l, &l->line[which[0]], st);
    else
        write_lines(l, which, count, &q, src, &r, st);
    result_free(&r);
    return status_ok(st);
}

/* ---- */

static bool run_line(prompt_lines *l, int i, const source *src, run_one_fn one, embedding_store *store, status *st)
{
    l->line[i].made = true;
    if (one(&l->line[i].o, src, store, st))
        return true;
    prompts_name_line(l, &l->line[i], st);
    return false;
}

/* Lines whose prompts are encoded alike, from `first` on. */
static int alike(const prompt_lines *l, int first)
{
    int end = first + 1;
    while (end < l->count && l->line[end].o.max_sequence_length == l->line[first].o.max_sequence_length &&
           l->line[end].o.clip_skip == l->line[first].o.clip_skip)
        end++;
    return end;
}

static bool run_chunk(prompt_lines *l, int first, int end, const source *src, run_one_fn one, embedding_store *store, status *st)
{
    int which[MOST_TOGETHER];
    for (int i = first; i < end && status_ok(st); i++) {
        if (l->line[i].made)
            continue;
        int count = by_itself(&l->line[i].o) || l->line[i].o.command->bit == ENCODE ? 1 : companions(l, i, end, which);
        if (count > 1)
            generate_together(l, which, count, src, store, st);
        else
            run_line(l, i, src, one, store, st);
    }
    return status_ok(st);
}

bool prompts_run(prompt_lines *l, const source *src, run_one_fn one, status *st)
{
    bool many = check_all(l, src, st) && pipeline_takes_many(src, st);
    for (int first = 0; first < l->count && status_ok(st);) {
        embedding_store *store = many ? embedding_store_open(st) : NULL;
        int count = store ? encode_together(l, first, alike(l, first), src, store, st) : 1;
        if (status_ok(st))
            run_chunk(l, first, first + count, src, one, store, st);
        embedding_store_close(store);
        first += count;
    }
    return status_ok(st);
}
