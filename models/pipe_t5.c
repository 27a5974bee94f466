/* A T5 encoder on its own (a transformers folder, or a container of one): encode and plan. */
#include <stdio.h>

#include "base/mem.h"
#include "models/pipe_common.h"
#include "models/pipelines.h"

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
    const char *texts[2] = {q->negative_prompt ? q->negative_prompt : "", q->prompt ? q->prompt : ""};
    bool guided = q->negative_prompt != NULL && q->tokens == 0;
    double t0 = now_seconds();
    bool ok = t && engine_open(&e, src, q, out, st);
    bool opened = ok;
    ok = ok && t5_text_plan(t, &e, "", "", guided ? texts : texts + 1, guided ? 2 : 1, q->max_sequence_length ? q->max_sequence_length : 512, false);
    double t1 = now_seconds();
    if (!plan_alone)
        ok = ok && text_stage_run(&t->text) && text_stage_trace(&t->text, to, (int[]){0, 1}, t->text.tokens.count, true, st);
    out->tokens_cut = ok ? t->text.tokens.cut[t->text.tokens.count - 1] : 0;
    out->seconds_load = t1 - t0;
    out->seconds_encode = now_seconds() - t1;
    out->seconds_total = now_seconds() - t0;
    if (t)
        text_stage_close(&t->text);
    mem_free(t);
    if (opened)
        engine_close(&e);
    return ok;
}

static bool t5_encode_text(const source *src, const request *q, trace *to, result *out, status *st) { return encode_or_plan(src, q, to, out, st, false); }
static bool t5_plan(const source *src, const request *q, result *out, status *st) { return encode_or_plan(src, q, NULL, out, st, true); }

const pipeline_row pipeline_t5 = {"t5", t5_generate, t5_encode_text, t5_decode, t5_plan};
