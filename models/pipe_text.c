/* A text encoder on its own (a transformers folder, or a container of one): encode and plan. */
#include <stdio.h>

#include "base/mem.h"
#include "models/pipe_common.h"
#include "models/pipelines.h"
#include "models/prompt_set.h"
#include "models/text_clip.h"

static bool no_pictures(const source *src, status *st)
{
    return status_set(st, STATUS_USAGE, "%s: is a text encoder alone; it can be used with encode, plan and quantize", src->path);
}

static bool text_generate(const source *src, const request *q, result *out, status *st)
{
    (void)q, (void)out;
    return no_pictures(src, st);
}

static bool text_decode(const source *src, const request *q, const float *latents, const int64_t shape[4], result *out, status *st)
{
    (void)q, (void)latents, (void)shape, (void)out;
    return no_pictures(src, st);
}

/* What differs between the encoders. `text` is the kind's own structure, zeroed. */
typedef struct text_kind {
    size_t bytes;
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
static const text_kind kind_t5 = {sizeof(t5_text), t5_plan_alone, t5_run, t5_stage, t5_close};

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
static const text_kind kind_clip = {sizeof(clip_text), clip_plan_alone, clip_run, clip_stage, clip_close};
static const text_kind kind_ldmbert = {sizeof(clip_text), ldmbert_plan_alone, clip_run, clip_stage, clip_close};

/* ---- one run ---- */

static bool encode_or_plan(const source *src, const request *q, trace *to, result *out, status *st, const text_kind *kind, bool plan_alone)
{
    engine e;
    void *t = mem_alloc(1, kind->bytes, "pipeline", st);
    prompt_set prompts = {0};
    double t0 = now_seconds();
    bool ok = t && engine_open(&e, src, q, out, st);
    bool opened = ok;
    ok = ok && prompt_set_open(&prompts, q, q->tokens ? GUIDE_NONE : GUIDE_NAMED, st) && kind->plan(t, &e, &prompts);
    double t1 = now_seconds();
    if (!plan_alone)
        ok = ok && kind->run(t) && text_stage_trace(kind->stage(t), to, NULL, kind->stage(t)->tokens.count, true, st);
    if (ok)
        text_stage_report_cut(kind->stage(t), q, &prompts);
    out->seconds_load = t1 - t0;
    out->seconds_encode = now_seconds() - t1;
    out->seconds_total = now_seconds() - t0;
    prompt_set_close(&prompts);
    if (t)
        kind->close(t);
    mem_free(t);
    if (opened)
        engine_close(&e);
    return ok;
}

#define ROW(kind)                                                                                                                                       \
    static bool kind##_encode_text(const source *src, const request *q, trace *to, result *out, status *st)                                             \
    {                                                                                                                                                   \
        return encode_or_plan(src, q, to, out, st, &kind_##kind, !to && !q->store && !q->cache);                                                         \
    }                                                                                                                                                   \
    static bool kind##_plan(const source *src, const request *q, result *out, status *st) { return encode_or_plan(src, q, NULL, out, st, &kind_##kind, true); } \
    const pipeline_row pipeline_##kind = {#kind, text_generate, kind##_encode_text, text_decode, kind##_plan, true};

ROW(clip)
ROW(ldmbert)
ROW(t5)
