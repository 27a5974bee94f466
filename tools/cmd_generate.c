/* generate: text to pictures. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/output.h"
#include "base/trace.h"
#include "tools/command.h"
#include "tools/prompts.h"

/* What fails late should fail now: every name that will be written. */
static bool check_outputs(const options *o, status *st)
{
    for (int k = 0; k < o->batch_count && status_ok(st); k++) {
        char *name = picture_name(o->output, k, st);
        if (name)
            output_check(name, st);
        mem_free(name);
    }
    return status_ok(st) && (!o->trace || output_check(o->trace, st)) && (!o->save_latents || output_check(o->save_latents, st)) &&
           (!o->checkpoint || output_check(o->checkpoint, st));
}

/* One request on an opened model, from checks to files and the report. */
static bool run_one(const options *given, const source *src, status *st)
{
    options o = *given;
    request q;
    result r = {0};
    progress p;
    if (!o.output)
        o.output = "output.png";
    if (!o.prompt && !o.tokens && !o.embeddings)
        return status_set(st, STATUS_USAGE, "generate: a prompt is missing");
    progress_start(&p, o.quiet);
    if (!make_request(&o, &p, &q, st) || !check_outputs(&o, st))
        return false;
    q.trace = o.trace ? trace_open(st) : NULL;
    q.last_latents = o.save_latents ? trace_open(st) : NULL;
    if (status_ok(st) && pipeline_generate(src, &q, &r, st)) {
        progress_end(&p);
        tell_cut(o.quiet, &r);
        bool good = write_pictures(&o, &q, src->path, &r, st);
        if (good && o.save_latents)
            good = trace_write(q.last_latents, o.save_latents, st);
        if (good && o.trace)
            good = trace_write(q.trace, o.trace, st);
        if (good)
            print_report(&o, &q, &r);
    }
    progress_end(&p);
    result_free(&r);
    trace_close(q.trace);
    trace_close(q.last_latents);
    return status_ok(st);
}

bool cmd_generate(const options *o, status *st)
{
    request q;
    if (!o->prompt && !o->prompt_file && !o->tokens && !o->embeddings)   /* tokens: to time a model that has no tokenizer */
        return status_set(st, STATUS_USAGE, "generate: a prompt is missing (-p \"...\")");
    options checked = *o;
    checked.output = o->output ? o->output : "output.png";
    if (!make_request(&checked, NULL, &q, st) || !check_outputs(&checked, st))
        return false;
    source *src = open_model(o, st);
    if (src && o->prompt_file)
        prompts_each(o, src, run_one, st);
    else if (src)
        run_one(o, src, st);
    if (src)
        source_close(src);
    return status_ok(st);
}
