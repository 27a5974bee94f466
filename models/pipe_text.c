/* A text encoder on its own (a transformers folder, or a container of one): encode and plan. */
#include "models/pipe_common.h"
#include "models/pipe_request.h"
#include "models/pipelines.h"
#include "models/text_clip.h"

/* What differs between the encoders. `text` is the kind's own structure. */
typedef struct text_kind {
    bool (*plan)(void *text, engine *e, const prompt_set *p);
    bool (*run)(void *text);
    text_stage *(*stage)(void *text);
    void (*close)(void *text);
} text_kind;

/* ---- T5 ---- */

static bool t5_plan_alone(void *text, engine *e, const prompt_set *p)
{
    int most = e->request->max_sequence_length ? e->request->max_sequence_length : 512;
    return t5_text_plan(text, e, "", "", p->text, p->texts, most, false);
}

static text_stage *t5_stage(void *text) { return &((t5_text *)text)->text; }
static bool t5_run(void *text) { return text_stage_run(t5_stage(text)); }
static void t5_close(void *text) { text_stage_close(t5_stage(text)); }
static const text_kind kind_t5 = {t5_plan_alone, t5_run, t5_stage, t5_close};

/* ---- CLIP: the last layer, or --clip-skip's, behind the final norm, and what is pooled; its tokenizer's files lie beside its own ---- */

static bool clip_plan_alone(void *text, engine *e, const prompt_set *p)
{
    clip_use use = {.skip = e->request->clip_skip ? e->request->clip_skip - 1 : 0, .norm = true, .pooled = true};
    return clip_text_plan(text, e, "", "", p->text, p->texts, use);
}

static bool ldmbert_plan_alone(void *text, engine *e, const prompt_set *p)
{
    return clip_text_plan(text, e, "", "", p->text, p->texts, (clip_use){.ldmbert = true});
}

static bool clip_run(void *text) { return clip_text_run(text); }
static text_stage *clip_stage(void *text) { return &((clip_text *)text)->text; }
static void clip_close(void *text) { clip_text_close(text); }
static const text_kind kind_clip = {clip_plan_alone, clip_run, clip_stage, clip_close};
static const text_kind kind_ldmbert = {ldmbert_plan_alone, clip_run, clip_stage, clip_close};

/* ---- the row ---- */

typedef struct lone_text {
    engine e;
    const text_kind *kind;
    prompt_set prompts;
    union {
        t5_text t5;
        clip_text clip;
    } text;
} lone_text;

static bool text_plan_alone(void *self, const void *kind)
{
    lone_text *p = self;
    p->kind = kind;
    bool ok = open_prompts_alone(&p->prompts, p->e.request, p->e.st) && p->kind->plan(&p->text, &p->e, &p->prompts);
    if (ok)
        text_stage_report_cut(p->kind->stage(&p->text), p->e.request, &p->prompts);
    return ok;
}

static bool text_plan(void *self, const void *kind, bool planning)
{
    (void)planning;
    return text_plan_alone(self, kind);
}

static int text_describe(const void *self)
{
    (void)self;
    return 0;
}

static bool text_encode(void *self, trace *to, bool wanted)
{
    lone_text *p = self;
    const text_stage *t = p->kind->stage(&p->text);
    return !wanted || (p->kind->run(&p->text) && text_stage_trace(t, to, NULL, t->tokens.count, true, p->e.st));
}

static void text_close(void *self)
{
    lone_text *p = self;
    prompt_set_close(&p->prompts);
    if (p->kind)
        p->kind->close(&p->text);
}

#define ROW(sort, also)                                                                                                                           \
    const pipeline_row pipeline_##sort = {.name = #sort, .takes = also, .alone = "a text encoder alone; it can be used with encode, plan and quantize",        \
                                          .many = true, .kind = &kind_##sort, .bytes = sizeof(lone_text), .plan = text_plan,                    \
                                          .describe = text_describe, .plan_text = text_plan_alone, .encode = text_encode, .close = text_close};

ROW(clip, TAKES_CLIP_SKIP)
ROW(ldmbert, 0)
ROW(t5, TAKES_LENGTHS)
