#define _GNU_SOURCE
#include "models/pipe_common.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void report_progress(const request *q, const char *what, int done, int total)
{
    if (q->progress)
        q->progress(q->progress_ctx, what, done, total);
}

json *read_config(const source *src, const char *component, const char *file, char name[FILE_NAME_BYTES], status *st)
{
    char path[256];
    size_t bytes;
    snprintf(path, sizeof path, "%s%s%s", component, component[0] ? "/" : "", file);
    snprintf(name, FILE_NAME_BYTES, "%s/%s", src->path, path);
    char *text = source_read_blob(src, path, 16 << 20, false, &bytes, st);
    json *j = text ? json_parse(text, bytes, name, st) : NULL;
    mem_free(text);
    return j;
}

/* ---- T5 as a text encoder ---- */

static void t5_forward(run *r, const void *config, const text_batch *b)
{
    output(r, t5_encode(r, config, b->ids, &b->segments), b->output);
}

static char *read_beside(const source *src, const char *folder, const char *file, bool may_lack, char path[256], size_t *bytes, status *st)
{
    snprintf(path, 256, "%s%s%s", folder, folder[0] ? "/" : "", file);
    return source_read_blob(src, path, 64 << 20, may_lack, bytes, st);
}

/* spiece.model, or where there is none tokenizer.json; the error names the former. */
static tokenizer *open_tokenizer(const source *src, const char *folder, status *st)
{
    char path[256], config_path[256], json_path[256];
    size_t bytes = 0, config_bytes = 0;
    tokenizer *t = NULL;
    char *config = read_beside(src, folder, "tokenizer_config.json", true, config_path, &config_bytes, st);
    char *model = status_ok(st) ? read_beside(src, folder, "spiece.model", true, path, &bytes, st) : NULL;
    char *whole = status_ok(st) && !model ? read_beside(src, folder, "tokenizer.json", true, json_path, &bytes, st) : NULL;
    if (whole)
        t = tokenizer_open_spm_json(whole, bytes, config, config_bytes, json_path, st);
    else if (status_ok(st) && (model || (model = read_beside(src, folder, "spiece.model", false, path, &bytes, st))))
        t = tokenizer_open_spm(model, bytes, config, config_bytes, path, st);
    mem_free(model);
    mem_free(whole);
    mem_free(config);
    return t;
}

static bool tokenize(token_list *l, const tokenizer *t, const char *text, int most, bool clean, status *st)
{
    char *cleaned = clean ? text_lower_strip(text, st) : mem_string(text, st);
    int whole = 0, n = cleaned ? tokenizer_encode(t, cleaned, l->ids + l->start[l->count], most, &whole, st) : -1;
    mem_free(cleaned);
    if (n < 0)
        return false;
    tokens_add(l, n, whole > n ? whole - n : 0);
    return true;
}

/* The last `given` prompts come from --embeddings, rows[] tokens long. */
static void fill_up(t5_text *t, const tokenizer *tok, int length)
{
    int32_t pad = tok ? tokenizer_marks_of(tok)->pad : 0;
    if (t->padded)
        tokens_pad(&t->text.tokens, length, pad < 0 ? 0 : pad);
    if (t->seen)
        t->text.tokens.real[t->text.tokens.count - 1] = length;
}

static bool make_tokens(t5_text *t, engine *e, const char *folder, const char *const *texts, int count, int most, bool clean, int given, const int32_t rows[2])
{
    token_list *l = &t->text.tokens;
    const request *q = e->request;
    bool made_up = q->tokens > 0 || t->text.stage.run.imagine || (!q->prompt && !q->embeddings && !q->items);
    int room = q->tokens > most ? q->tokens : most;
    for (int i = 0; i < given; i++)
        room = rows[i] > room ? rows[i] : room;
    if (!tokens_open(l, count, room, e->st))
        return false;
    tokenizer *tok = made_up || given == count ? NULL : open_tokenizer(e->source, folder, e->st);
    for (int i = 0; i < count && status_ok(e->st); i++) {
        if (i >= count - given) {
            tokens_add(l, rows[i - (count - given)], 0);
            continue;
        }
        if (made_up)
            tokens_add_arbitrary(l, !*texts[i] ? 1 : q->tokens > 0 ? q->tokens : most, t->config.vocabulary);
        else if (!tokenize(l, tok, texts[i], most, clean, e->st))
            break;
        fill_up(t, tok, given ? rows[0] : room);
    }
    tokenizer_close(tok);
    return status_ok(e->st);
}

bool t5_text_plan(t5_text *t, engine *e, const char *component, const char *folder, const char *const *texts, int count, int most, bool clean)
{
    char name[FILE_NAME_BYTES];
    json *j = read_config(e->source, component, "config.json", name, e->st);
    bool ok = j && t5_config_read(&t->config, j, name, e->st);
    json_free(j);
    if (!ok)
        return false;
    t->text = (text_stage){.component = component, .name = component[0] ? component : "text_encoder", .alias = t5_aliases, .forward = t5_forward,
                           .config = &t->config, .width = t->config.d_model, .padded = t->padded};
    t->text.stage.run.imagine = e->request->imagine || source_lacks_weights(e->source, component);
    int32_t rows[2];
    int given = text_given(&t->text, e, count, rows);
    return status_ok(e->st) && make_tokens(t, e, folder, texts, count, most, clean, given, rows) && text_stage_plan(&t->text, e, given);
}

/* ---- noise ---- */

bool noise_open(noise_source *n, const uint64_t *seed, int images, size_t per_image, status *st)
{
    *n = (noise_source){mem_alloc((size_t)images, sizeof(rng), "noise", st), images, per_image};
    for (int i = 0; n->image && i < images; i++)
        rng_seed(&n->image[i], seed[i]);
    return n->image != NULL;
}

void noise_close(noise_source *n)
{
    mem_free(n->image);
    n->image = NULL;
}

void noise_draw(void *ctx, float *out, size_t count)
{
    noise_source *n = ctx;
    (void)count;
    for (int i = 0; i < n->images; i++)
        rng_normal(&n->image[i], out + (size_t)i * n->per_image, n->per_image);
}

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

bool latents_fit(const source *src, const vae_config *c, const int64_t shape[4], status *st)
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
    for (size_t k = 0; k < count && !v->from_tokens; k++)
        ((float *)out)[k] = latents[k] / c->scaling_factor + c->shift_factor;
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

bool vae_stage_run(vae_stage *v, engine *e, const float *latents, int images, float *image)
{
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

bool to_rgb(const float *image, int images, int height, int width, result *out, status *st)
{
    size_t area = (size_t)height * (size_t)width;
    out->rgb = mem_alloc((size_t)images * 3, area, "picture", st);
    if (!out->rgb)
        return false;
    out->images = images;
    out->width = width;
    out->height = height;
    for (size_t i = 0; i < (size_t)images; i++)
        for (size_t c = 0; c < 3; c++)
            for (size_t p = 0; p < area; p++) {
                float v = image[(i * 3 + c) * area + p] / 2 + 0.5f;
                if (!(v >= 0))
                    v = 0; /* NaN too: a picture is never undefined */
                out->rgb[(i * area + p) * 3 + c] = (uint8_t)lrintf((v > 1 ? 1 : v) * 255);
            }
    return true;
}
