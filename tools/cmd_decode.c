/* decode: latents or tokens to a picture. */
#include <stdio.h>

#include "base/mem.h"
#include "models/tensor_file.h"
#include "tools/command.h"

bool cmd_decode(const options *given, status *st)
{
    options o = *given;
    request q;
    result r = {0};
    progress p;
    latents_file l = {0};
    if (!o.input)
        return status_set(st, STATUS_USAGE, "decode: an input is missing (-i LATENTS.safetensors)");
    if (!o.output)
        o.output = "output.png";
    progress_start(&p, o.quiet);
    if (!make_request(&o, &p, &q, st) || !check_outputs(&o, st))
        return false;
    source *src = latents_file_read(&l, o.input, st) ? open_model(&o, st) : NULL;
    if (src && pipeline_decode(src, &q, l.data, l.shape, &r, st)) {
        progress_end(&p);
        if (!o.quiet && ((o.width && o.width != r.width) || (o.height && o.height != r.height)))
            fprintf(stderr, "penstock: size: these latents make a picture of %dx%d, whatever -W and -H say\n", r.width, r.height);
        if (write_pictures(&o, &q, src->path, &r, st))
            print_report(&o, &q, &r);
    }
    progress_end(&p);
    result_free(&r);
    mem_free(l.data);
    if (src)
        source_close(src);
    return status_ok(st);
}
