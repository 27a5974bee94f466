/* generate: text to pictures. */
#include <stdio.h>

#include "base/trace.h"
#include "tools/command.h"
#include "tools/prompts.h"
#include "tools/quantized.h"

static bool write_all(const options *o, const request *q, const source *src, const result *r, status *st)
{
    bool good = write_pictures(o, q, src->path, r, st);
    if (good && o->save_latents)
        good = trace_write(q->last_latents, o->save_latents, st);
    if (good && o->trace)
        good = trace_write(q->trace, o->trace, st);
    return good;
}

/* One request on an opened model, from checks to files and the report. */
static bool run_one(const options *o, const source *src, embedding_store *store, status *st)
{
    request q;
    result r = {0};
    progress p;
    progress_start(&p, o->quiet);
    if (!make_request(o, &p, &q, st))
        return false;
    q.store = store;
    q.trace = o->trace ? trace_open(st) : NULL;
    q.last_latents = o->save_latents ? trace_open(st) : NULL;
    if (status_ok(st) && pipeline_generate(src, &q, &r, st)) {
        progress_end(&p);
        tell_cut(o->quiet, &r);
        if (write_all(o, &q, src, &r, st))
            print_report(o, &q, &r);
    }
    progress_end(&p);
    result_free(&r);
    trace_close(q.trace);
    trace_close(q.last_latents);
    return status_ok(st);
}

static bool run_file(const options *o, status *st)
{
    if (o->checkpoint || o->load_latents || o->embeddings)
        return status_set(st, STATUS_USAGE, "--%s: is of one run; name it in a line of the prompt file",
                          o->checkpoint ? "checkpoint" : o->load_latents ? "load-latents" : "embeddings");
    prompt_lines lines;
    source *src = prompts_read(&lines, o, st) ? open_quantized(o, open_model(o, st), st) : NULL;
    if (src)
        prompts_run(&lines, src, run_one, st);
    prompts_free(&lines);
    source_close(src);
    return status_ok(st);
}

bool cmd_generate(const options *given, status *st)
{
    request q;
    options o = *given;
    if (!o.prompt && !o.prompt_file && !o.tokens && !o.embeddings)   /* tokens: to time a model that has no tokenizer */
        return status_set(st, STATUS_USAGE, "generate: a prompt is missing (-p \"...\")");
    if (!o.output)
        o.output = "output.png";
    if (o.prompt_file)
        return run_file(&o, st);
    if (!make_request(&o, NULL, &q, st) || !check_outputs(&o, st))
        return false;
    source *src = open_quantized(&o, open_model(&o, st), st);
    if (src)
        run_one(&o, src, NULL, st);
    source_close(src);
    return status_ok(st);
}
