/* encode: the text encoders alone. */
#include <stdio.h>

#include "base/trace.h"
#include "tools/command.h"
#include "tools/prompts.h"
#include "tools/quantized.h"

static bool run_one(const options *o, const source *src, embedding_store *store, status *st)
{
    request q;
    result r = {0};
    progress p;
    progress_start(&p, o->quiet);
    if (!make_request(o, &p, &q, st))
        return false;
    q.store = store;
    trace *t = trace_open(st);
    if (t && pipeline_encode(src, &q, t, &r, st)) {
        progress_end(&p);
        tell_cut(o->quiet, &r);
        if (trace_write(t, o->output, st))
            print_report(o, &q, &r);
    }
    progress_end(&p);
    result_free(&r);
    trace_close(t);
    return status_ok(st);
}

bool cmd_encode(const options *o, status *st)
{
    request q;
    if (!o->prompt && !o->tokens && !o->prompt_file)
        return status_set(st, STATUS_USAGE, "encode: a prompt is missing (-p \"...\", or --tokens N)");
    if (!o->output)
        return status_set(st, STATUS_USAGE, "encode: an output is missing (-o FILE.safetensors)");
    prompt_lines lines = {0};
    if (o->prompt_file ? !prompts_read(&lines, o, st) : !make_request(o, NULL, &q, st) || !check_outputs(o, st)) {
        prompts_free(&lines);
        return false;
    }
    source *src = open_quantized(o, open_model(o, st), st);
    if (src && o->prompt_file)
        prompts_run(&lines, src, run_one, st);
    else if (src)
        run_one(o, src, NULL, st);
    prompts_free(&lines);
    source_close(src);
    return status_ok(st);
}
