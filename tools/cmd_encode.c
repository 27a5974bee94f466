/* encode: the text encoders alone. */
#include <stdio.h>

#include "base/output.h"
#include "base/trace.h"
#include "tools/command.h"

bool cmd_encode(const options *o, status *st)
{
    request q;
    result r = {0};
    progress p;
    if (!o->prompt && !o->tokens)
        return status_set(st, STATUS_USAGE, "encode: a prompt is missing (-p \"...\", or --tokens N)");
    if (!o->output)
        return status_set(st, STATUS_USAGE, "encode: an output is missing (-o FILE.safetensors)");
    progress_start(&p, o->quiet);
    if (!make_request(o, &p, &q, st) || !output_check(o->output, st))
        return false;
    source *src = open_model(o, st);
    trace *t = src ? trace_open(st) : NULL;
    if (t && pipeline_encode(src, &q, t, &r, st)) {
        progress_end(&p);
        tell_cut(o->quiet, &r);
        if (trace_write(t, o->output, st))
            print_report(o, &q, &r);
    }
    progress_end(&p);
    result_free(&r);
    trace_close(t);
    if (src)
        source_close(src);
    return status_ok(st);
}
