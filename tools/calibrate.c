/* All prompts pass through the text encoders at once and through the denoiser one by one: how many are together must not depend on the budget,
 * or the order of the sums would. */
#include "tools/calibrate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/embeddings.h"

enum { MOST_PROMPTS = 4096, LONGEST_LINE = 64 * 1024, MOST_PLANS = 16 };

/* ---- the list ---- */

typedef struct prompt_list {
    int count;
    char *prompt[MOST_PROMPTS];
} prompt_list;

static void free_list(prompt_list *l)
{
    for (int i = 0; l && i < l->count; i++)
        mem_free(l->prompt[i]);
    mem_free(l);
}

static bool add_line(prompt_list *l, char *text, int number, const char *file, status *st)
{
    size_t n = strlen(text);
    if (n == LONGEST_LINE - 1 && text[n - 1] != '\n')
        return status_set(st, STATUS_BAD_FILE, "%s: line %d: longer than %d bytes", file, number, LONGEST_LINE - 2);
    text += number == 1 && strncmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0; /* a byte order mark */
    text[strcspn(text, "\r\n")] = 0;
    if (!*text || *text == '#')
        return true;
    if (*text == '{')
        return status_set(st, STATUS_BAD_FILE, "%s: line %d: a line of --calibrate is a prompt, not an object of options", file, number);
    if (l->count == MOST_PROMPTS)
        return status_set(st, STATUS_BAD_FILE, "%s: more than %d prompts", file, MOST_PROMPTS);
    l->prompt[l->count] = mem_string(text, st);
    l->count += status_ok(st);
    return status_ok(st);
}

static prompt_list *read_list(const char *file, status *st)
{
    FILE *f = fopen(file, "re");
    if (!f) {
        status_set(st, STATUS_BAD_FILE, "%s: %s", file, strerror(errno));
        return NULL;
    }
    prompt_list *l = mem_alloc(1, sizeof *l, "prompts", st);
    char *text = l ? mem_alloc(LONGEST_LINE, 1, "prompts", st) : NULL;
    int number = 0;
    while (text && status_ok(st) && fgets(text, LONGEST_LINE, f))
        add_line(l, text, ++number, file, st);
    if (text && ferror(f))
        status_set(st, STATUS_BAD_FILE, "%s: %s", file, strerror(errno));
    else if (text && status_ok(st) && l->count == 0)
        status_set(st, STATUS_BAD_FILE, "%s: holds no prompt", file);
    mem_free(text);
    fclose(f);
    if (status_ok(st))
        return l;
    free_list(l);
    return NULL;
}

/* ---- the run ---- */

typedef struct calibration {
    const options *o;
    const source *src;
    const prompt_list *list;
    request q;              /* what all prompts share */
    progress p;
} calibration;

static bool encode_all(calibration *c, bool guided, status *st)
{
    result r = {0};
    request q = c->q;
    request_item *item = mem_alloc((size_t)c->list->count, sizeof *item, "prompts", st);
    for (int i = 0; item && i < c->list->count; i++)
        item[i] = (request_item){c->list->prompt[i], guided ? "" : NULL, q.seed, 1};
    q.item = item;
    q.items = c->list->count;
    bool ok = item && pipeline_encode(c->src, &q, NULL, &r, st);
    result_free(&r);
    mem_free(item);
    return ok;
}

static bool make_one(calibration *c, int i, status *st)
{
    result r = {0};
    request q = c->q;
    q.prompt = c->list->prompt[i];
    q.seed += (uint64_t)i;
    progress_show(&c->p, "calibrate", i, c->list->count);
    bool ok = pipeline_generate(c->src, &q, &r, st);
    result_free(&r);
    return ok;
}

/* A lone text encoder makes no pictures, and what is neither says so when it is to encode. The plan is asked first: whether the budget is enough for all stages. */
static bool run_all(calibration *c, status *st)
{
    bool alone = source_has_component(c->src, "");
    result r = {0};
    request q = c->q;
    q.prompt = c->list->prompt[0];
    q.store = NULL;
    bool ok = alone || pipeline_plan(c->src, &q, &r, st), guided = r.guidance_scale > 1;
    result_free(&r);
    if (ok && (alone || pipeline_takes_many(c->src, st)))
        encode_all(c, guided, st);
    for (int i = 0; status_ok(st) && !alone && i < c->list->count; i++)
        make_one(c, i, st);
    return status_ok(st);
}

static input_moments *open_moments(const options *o, const plan *plans, int count, status *st)
{
    const plan *list[MOST_PLANS];
    for (int i = 0; i < count && i < MOST_PLANS; i++)
        list[i] = &plans[i];
    return moments_open(list, count < MOST_PLANS ? count : MOST_PLANS, o->budget_bytes / 4, o->scratch, st);
}

input_moments *calibrate(const options *o, const source *src, const plan *plans, int count, int *prompts, status *st)
{
    calibration c = {.o = o, .src = src};
    prompt_list *list = read_list(o->calibrate, st);
    input_moments *m = list ? open_moments(o, plans, count, st) : NULL;
    embedding_store *store = m ? embedding_store_open(st) : NULL;
    if (store && make_request(o, NULL, &c.q, st)) {
        c.list = list;
        c.q.precision = PRECISION_F32;
        c.q.moments = m;
        c.q.store = store;
        *prompts = list->count;
        progress_start(&c.p, o->quiet);
        run_all(&c, st);
        progress_end(&c.p);
    }
    embedding_store_close(store);
    free_list(list);
    if (status_ok(st))
        return m;
    moments_close(m);
    return NULL;
}
