#include "models/pipe_picture.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "models/pipe_common.h"

/* ---- decoding ---- */

typedef struct vae_inputs {
    const vae_stage *v;
    const float *latents;
    const int32_t *tokens;
    float *image;
} vae_inputs;

static void vae_forward(run *r, const void *ctx)
{
    const vae_inputs *in = ctx;
    const vae_stage *v = in->v;
    if (v->from_tokens)
        vae_decode_tokens(r, &v->config, in->tokens, 1, v->height, v->width, in->image);
    else
        vae_decode(r, &v->config, in->latents, 1, v->height, v->width, in->image);
}

bool vae_read(vae_config *c, const source *src, const char *component, bool encodes, status *st)
{
    char name[FILE_NAME_BYTES];
    json *j = read_config(src, component, "config.json", name, st);
    bool ok = j && vae_config_read(c, j, name, st);
    json_free(j);
    if (ok && c->out_channels != 3)
        return status_set(st, STATUS_BAD_FILE, "%s: out_channels is %d, a picture has 3", name, c->out_channels);
    return ok && (!encodes || c->in_channels == 3 || status_set(st, STATUS_BAD_FILE, "%s: in_channels is %d, a picture has 3", name, c->in_channels));
}

bool latents_in_range(const int64_t shape[4], status *st)
{
    bool can = shape[0] >= 1 && shape[0] <= 1024 && shape[2] >= 1 && shape[2] <= 8192 && shape[3] >= 1 && shape[3] <= 8192;
    return can || status_set(st, STATUS_BAD_FILE, "the latents are %lldx%lldx%lldx%lld, of which no picture can be made", (long long)shape[0], (long long)shape[1],
                             (long long)shape[2], (long long)shape[3]);
}

static bool latents_fit(const source *src, const vae_config *c, const int64_t shape[4], status *st)
{
    if (shape[1] == c->latent_channels || (shape[1] == 0 && c->codes))
        return true;
    if (shape[1] == 0)
        return status_set(st, STATUS_BAD_FILE, "%s: decodes latents of %d channels, these are tokens, for which it has no codebook", src->path, c->latent_channels);
    return status_set(st, STATUS_BAD_FILE, "%s: decodes latents of %d channels, these have %lld", src->path, c->latent_channels, (long long)shape[1]);
}

bool vae_stage_plan(vae_stage *v, engine *e, const char *component, int latent_height, int latent_width, int images)
{
    v->height = latent_height;
    v->width = latent_width;
    vae_inputs in = {v, NULL, NULL, NULL};
    return stage_plan(&v->stage, e, component, component[0] ? component : "vae", vae_aliases, vae_forward, &in, images);
}

/* One image's latents, or numbers of entries, as the network takes them. */
static bool fill_inputs(const vae_stage *v, const float *latents, size_t count, void *out, status *st)
{
    const vae_config *c = &v->config;
    size_t area = (size_t)v->height * (size_t)v->width;
    for (size_t k = 0; k < count && !v->from_tokens; k++)
        ((float *)out)[k] = c->normed ? latents[k] * c->deviation[k / area] / c->scaling_factor + c->mean[k / area] : latents[k] / c->scaling_factor + c->shift_factor;
    for (size_t k = 0; k < count && v->from_tokens; k++) {
        if (!(latents[k] >= 0 && latents[k] < (float)c->codes))
            return status_set(st, STATUS_BAD_FILE, "%s: token %g is none of the codebook's %d entries", v->stage.plan.stage, (double)latents[k], c->codes);
        ((int32_t *)out)[k] = (int32_t)latents[k];
    }
    return true;
}

/* Pictures of networks that know 0..1 only, as the others' */
static void to_signed(float *image, size_t count)
{
    for (size_t i = 0; i < count; i++)
        image[i] = 2 * (image[i] > 0 ? image[i] < 1 ? image[i] : 1 : 0) - 1;
}

static size_t latent_floats(const vae_stage *v)
{
    return (size_t)(v->from_tokens ? 1 : v->config.latent_channels) * (size_t)v->height * (size_t)v->width;
}

static size_t image_floats(const vae_stage *v)
{
    size_t factor = (size_t)vae_factor(&v->config);
    return (size_t)v->config.out_channels * (size_t)v->height * factor * (size_t)v->width * factor;
}

bool vae_stage_picture(vae_stage *v, const float *latents, float *image)
{
    status *st = v->stage.e->st;
    void *inputs = mem_alloc(latent_floats(v), 4, "latents", st);
    vae_inputs in = {v, inputs, inputs, image};
    bool ok = inputs && fill_inputs(v, latents, latent_floats(v), inputs, st) && stage_pass(&v->stage, &in);
    if (ok && v->config.unit_range)
        to_signed(image, image_floats(v));
    mem_free(inputs);
    return ok;
}

bool vae_stage_run(vae_stage *v, const float *latents, int images, float *image)
{
    const engine *e = v->stage.e;
    double begin = now_seconds();
    bool ok = stage_open(&v->stage);
    for (int i = 0; ok && i < images; i++) {
        report_progress(e->request, "decode", i, images);
        ok = vae_stage_picture(v, latents + (size_t)i * latent_floats(v), image + (size_t)i * image_floats(v));
    }
    if (ok)
        report_progress(e->request, "decode", images, images);
    stage_close(&v->stage);
    v->stage.row->seconds = now_seconds() - begin;
    return ok;
}

bool vae_stage_finish(vae_stage *v, const float *latents, int images)
{
    const engine *e = v->stage.e;
    int height = v->height * vae_factor(&v->config), width = v->width * vae_factor(&v->config);
    float *image = mem_alloc(image_floats(v) * (size_t)images, 4, "picture", e->st);
    bool ok = image && vae_stage_run(v, latents, images, image) && finish_pictures(e, image, images, height, width);
    mem_free(image);
    return ok;
}

bool vae_latents_take(vae_stage *v, engine *e, const char *component, const int64_t shape[4])
{
    if (!latents_in_range(shape, e->st) || !latents_fit(e->source, &v->config, shape, e->st))
        return false;
    size_t factor = (size_t)vae_factor(&v->config), floats = (size_t)shape[2] * (size_t)shape[3] * (size_t)shape[0];
    v->from_tokens = shape[1] == 0;
    e->held_bytes += floats * factor * factor * 15;
    return vae_stage_plan(v, e, component, (int)shape[2], (int)shape[3], (int)shape[0]);
}

bool vae_decode_latents(vae_stage *v, engine *e, const char *component, const float *latents, const int64_t shape[4])
{
    return vae_latents_take(v, e, component, shape) && vae_stage_finish(v, latents, (int)shape[0]);
}

/* ---- pictures ---- */

static void cover(int h, int w, int height, int width, int *big_h, int *big_w)
{
    double ratio = fmax((double)height / h, (double)width / w);
    *big_h = (int)(h * ratio);
    *big_w = (int)(w * ratio);
}

size_t resize_floats(int h, int w, int height, int width)
{
    int big_h, big_w;
    cover(h, w, height, width, &big_h, &big_w);
    return (size_t)big_h * (size_t)big_w * 3;
}

/* One coordinate of torch's bilinear with align_corners=False: source = (i + 0.5) * scale - 0.5, not below 0. */
static void tap_of(int i, float step, int n, int *low, int *high, float *part)
{
    float at = ((float)i + 0.5f) * step - 0.5f;
    at = at < 0 ? 0 : at;
    *low = (int)at < n - 1 ? (int)at : n - 1;
    *high = *low + (*low < n - 1);
    *part = at - (float)*low;
    *part = *part > 1 ? 1 : *part;
}

static void bilinear(const float *in, int h, int w, float *out, int height, int width)
{
    float step_y = (float)h / (float)height, step_x = (float)w / (float)width;
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < height; y++) {
            int y0, y1;
            float fy;
            tap_of(y, step_y, h, &y0, &y1, &fy);
            const float *a = in + ((size_t)c * (size_t)h + (size_t)y0) * (size_t)w, *b = in + ((size_t)c * (size_t)h + (size_t)y1) * (size_t)w;
            for (int x = 0; x < width; x++) {
                int x0, x1;
                float fx;
                tap_of(x, step_x, w, &x0, &x1, &fx);
                out[((size_t)c * (size_t)height + (size_t)y) * (size_t)width + (size_t)x] =
                    (1 - fy) * ((1 - fx) * a[x0] + fx * a[x1]) + fy * ((1 - fx) * b[x0] + fx * b[x1]);
            }
        }
}

void resize_and_crop(const float *image, int h, int w, float *out, int height, int width, float *tmp)
{
    int big_h, big_w;
    cover(h, w, height, width, &big_h, &big_w);
    bilinear(image, h, w, tmp, big_h, big_w);
    int top = (big_h - height) / 2, left = (big_w - width) / 2;
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < height; y++)
            memcpy(out + ((size_t)c * (size_t)height + (size_t)y) * (size_t)width,
                   tmp + ((size_t)c * (size_t)big_h + (size_t)(y + top)) * (size_t)big_w + left, (size_t)width * 4);
}

uint8_t picture_byte(float x)
{
    x = x / 2 + 0.5f;
    return x > 0 ? (uint8_t)lrintf((x < 1 ? x : 1) * 255) : 0;
}

void rgb_of_planes(const float *image, size_t area, uint8_t *rgb)
{
    for (size_t c = 0; c < 3; c++)
        for (size_t p = 0; p < area; p++)
            rgb[p * 3 + c] = picture_byte(image[c * area + p]);
}

static bool to_rgb(const float *image, int images, int height, int width, result *out, status *st)
{
    size_t area = (size_t)height * (size_t)width;
    out->rgb = mem_alloc((size_t)images * 3, area, "picture", st);
    if (!out->rgb)
        return false;
    out->images = images;
    out->width = width;
    out->height = height;
    for (size_t i = 0; i < (size_t)images; i++)
        rgb_of_planes(image + i * 3 * area, area, out->rgb + i * 3 * area);
    return true;
}

bool finish_pictures(const engine *e, const float *image, int images, int height, int width)
{
    return trace_add(e->request->trace, "image", image, 4, (int64_t[]){images, 3, height, width}, e->st) && to_rgb(image, images, height, width, e->report, e->st);
}
