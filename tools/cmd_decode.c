/* decode: latents to a picture. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/output.h"
#include "import/safetensors.h"
#include "tools/command.h"

/* `latents` (generate --save-latents), the last `latents.<i>` of a trace, or the only tensor there is. */
static const safetensor *choose(const safetensors *t)
{
    const safetensor *found = safetensors_find(t, "latents");
    char name[32];
    for (int i = 0; i < 10000 && !found; i++) {
        snprintf(name, sizeof name, "latents.%d", i);
        const safetensor *next = safetensors_find(t, name);
        if (!next && i > 0)
            break;   /* names are counted without a gap from 0 or 1 */
        if (next) {
            snprintf(name, sizeof name, "latents.%d", i + 1);
            found = safetensors_find(t, name) ? NULL : next;
        }
    }
    return found || t->tensors != 1 ? found : &t->tensor[0];
}

static float *read_floats(io *f, const safetensor *t, status *st)
{
    const kernels *k = kernels_best();
    if (t->type != TYPE_F32 && t->type != TYPE_F16 && t->type != TYPE_BF16) {
        status_set(st, STATUS_BAD_FILE, "%s: %s: latents must be f32, f16 or bf16, are %s", io_name(f), t->name,
                   type_of(t->type)->name);
        return NULL;
    }
    size_t count = t->bytes / (t->type == TYPE_F32 ? 4 : 2);
    uint8_t *raw = mem_alloc(1, t->bytes, "latents", st);
    float *out = raw ? mem_alloc(count, sizeof(float), "latents", st) : NULL;
    if (out && io_read(f, t->offset, raw, t->bytes, st))
        type_row_to_f32(k, t->type, (int64_t)count, raw, out);
    mem_free(raw);
    return out;
}

/* The caller frees with mem_free; shape is [batch, channels, h, w]. */
static float *read_latents(const char *path, int64_t shape[4], status *st)
{
    float *out = NULL;
    io *f = io_open(path, st);
    safetensors *t = f ? safetensors_read(f, st) : NULL;
    const safetensor *s = t ? choose(t) : NULL;
    if (t && !s)
        status_set(st, STATUS_BAD_FILE, "%s: holds no tensor named latents", path);
    else if (s && s->dims != 4)
        status_set(st, STATUS_BAD_FILE, "%s: %s: must have 4 dimensions [batch, channels, h, w], has %d", path, s->name, s->dims);
    else if (s) {
        memcpy(shape, s->shape, 4 * sizeof *shape);
        out = read_floats(f, s, st);
    }
    safetensors_free(t);
    if (f)
        io_close(f);
    return out;
}

bool cmd_decode(const options *given, status *st)
{
    options o = *given;
    request q;
    result r = {0};
    progress p;
    int64_t shape[4];
    if (!o.input)
        return status_set(st, STATUS_USAGE, "decode: an input is missing (-i LATENTS.safetensors)");
    if (!o.output)
        o.output = "output.png";
    progress_start(&p, o.quiet);
    if (!make_request(&o, &p, &q, st) || !output_check(o.output, st))
        return false;
    float *latents = read_latents(o.input, shape, st);
    source *src = latents ? open_model(&o, st) : NULL;
    if (src && pipeline_decode(src, &q, latents, shape, &r, st)) {
        progress_end(&p);
        if (write_pictures(&o, &q, src->path, &r, st))
            print_report(&o, &q, &r);
    }
    progress_end(&p);
    result_free(&r);
    mem_free(latents);
    if (src)
        source_close(src);
    return status_ok(st);
}
