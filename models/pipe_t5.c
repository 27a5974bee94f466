/* A T5 encoder on its own (a transformers folder, or a container of one): encode and plan. */
#include <stdio.h>

#include "base/mem.h"
#include "models/pipe_common.h"
#include "models/pipelines.h"
#include "models/prompt_set.h"

static bool no_pictures(const source *src, status *st)
{
    return status_set(st, STATUS_USAGE, "%s: is a text encoder alone; it can be used with encode, plan and quantize", src->path);
}

static bool t5_generate(const source *src, const request *q, result *out, status *st)
{
    (void)q, (void)out;
    return no_pictures(src, st);
}

static bool t5_decode(const source *src, const request *q, const float *latents, const int64_t shape[4], result *out, status *st)
{
    (void)q, (void)latents, (void)shape, (void)out;
    return no_pictures(src, st);
}

static bool encode_or_plan(const source *src, const request *q, trace *to, result *out, status *st, bool plan_alone)
{
    engine e;
    t5_text *t = mem_alloc(1, sizeof *t, "pipeline", st);
    prompt_set prompts = {0};
    double t0 = now_seconds();
    bool ok = t && engine_open(&e, src, q, out, st);
    bool opened = ok;
    ok = ok && prompt_set_open(&prompts, q, q->tokens ? GUIDE_NONE : GUIDE_NAMED, st) && t5_text_plan(t, &e, "", "", prompts.text, prompts.texts, q->max_sequence_length ? q->max_sequence_length : 512, false);
    double t1 = now_seconds();
    if (!plan_alone)
        ok = ok && text_stage_run(&t->text) && text_stage_trace(&t->text, to, NULL, t->text.tokens.count, true, st);
    if (ok)
        text_stage_report_cut(&t->text, q, &prompts);
    out->seconds_load = t1 - t0;
    out->seconds_encode = now_seconds() - t1;
    out->seconds_total = now_seconds() - t0;
    prompt_set_close(&prompts);
    if (t)
        text_stage_close(&t->text);
    mem_free(t);
    if (opened)
        engine_close(&e);
    return ok;
}

static bool t5_encode_text(const source *src, const request *q, trace *to, result *out, status *st) { return encode_or_plan(src, q, to, out, st, !to && !q->store && !q->cache); }
static bool t5_plan(const source *src, const request *q, result *out, status *st) { return encode_or_plan(src, q, NULL, out, st, true); }

const pipeline_row pipeline_t5 = {"t5", t5_generate, t5_encode_text, t5_decode, t5_plan, true};
