/* An autoencoder on its own: decode and plan. */
#include <string.h>

#include "base/mem.h"
#include "models/pipe_common.h"
#include "models/pipelines.h"

static bool no_text(const source *src, status *st)
{
    return status_set(st, STATUS_USAGE, "%s: is an autoencoder alone; it can be used with decode, plan and quantize", src->path);
}

static bool vae_generate(const source *src, const request *q, result *out, status *st)
{
    (void)q, (void)out;
    return no_text(src, st);
}

static bool vae_encode_text(const source *src, const request *q, trace *to, result *out, status *st)
{
    (void)q, (void)to, (void)out;
    return no_text(src, st);
}

static bool read_vae(const source *src, vae_config *c, status *st)
{
    char name[FILE_NAME_BYTES];
    json *j = read_config(src, "", "config.json", name, st);
    bool ok = j && vae_config_read(c, j, name, st);
    json_free(j);
    if (ok && c->out_channels != 3)
        return status_set(st, STATUS_BAD_FILE, "%s: out_channels is %d, a picture has 3", name, c->out_channels);
    return ok;
}

/* latents NULL: the plan alone, of [count, latent_channels, height, width], or of tokens */
static bool decode(const source *src, const request *q, const float *latents, bool tokens, int count, int height, int width, result *out, status *st)
{
    engine e;
    vae_stage *v = mem_alloc(1, sizeof *v, "pipeline", st);
    if (!v || !engine_open(&e, src, q, out, st)) {
        mem_free(v);
        return false;
    }
    double t0 = now_seconds();
    bool ok = read_vae(src, &v->config, st);
    v->from_tokens = tokens;
    int factor = ok ? vae_factor(&v->config) : 1, w = width * factor, h = height * factor;
    size_t floats = (size_t)count * 3 * (size_t)w * (size_t)h;
    e.held_bytes = ok ? floats * 5 : 0;
    ok = ok && vae_stage_plan(v, &e, "", height, width, count);
    double t1 = now_seconds();
    if (ok && latents) {
        float *image = mem_alloc(floats, 4, "picture", st);
        ok = image && vae_stage_run(v, &e, latents, count, image) && to_rgb(image, count, h, w, out, st);
        mem_free(image);
    }
    stage_close(&v->stage);
    out->width = w;
    out->height = h;
    out->seconds_load = t1 - t0;
    out->seconds_decode = now_seconds() - t1;
    out->seconds_total = now_seconds() - t0;
    mem_free(v);
    engine_close(&e);
    return ok;
}

static bool vae_decode_latents(const source *src, const request *q, const float *latents, const int64_t shape[4], result *out, status *st)
{
    vae_config c;
    if (!read_vae(src, &c, st))
        return false;
    if (!latents_fit(src, &c, shape, st))
        return false;
    if (shape[0] < 1 || shape[0] > 1024 || shape[2] < 1 || shape[2] > 8192 || shape[3] < 1 || shape[3] > 8192)
        return status_set(st, STATUS_BAD_FILE, "the latents are %lldx%lldx%lldx%lld, of which no picture can be made", (long long)shape[0], (long long)shape[1],
                          (long long)shape[2], (long long)shape[3]);
    return decode(src, q, latents, shape[1] == 0, (int)shape[0], (int)shape[2], (int)shape[3], out, st);
}

static bool vae_plan(const source *src, const request *q, result *out, status *st)
{
    vae_config c;
    if (!read_vae(src, &c, st))
        return false;
    int factor = vae_factor(&c), width = (q->width ? q->width : 512) / factor, height = (q->height ? q->height : 512) / factor;
    if (width < 1 || height < 1)
        return status_set(st, STATUS_USAGE, "size %dx%d: the decoder's least is %dx%d", q->width, q->height, factor, factor);
    return decode(src, q, NULL, c.codes > 0, q->batch_count > 0 ? q->batch_count : 1, height, width, out, st);
}

const pipeline_row pipeline_vae = {"vae", vae_generate, vae_encode_text, vae_decode_latents, vae_plan, false};
