/* Latents become colours in one of four ways. Pixels are what they are. Tokens say nothing by themselves, and an AutoencoderTiny (--taesd, or the model's own
 * decoder) takes next to no time: both are decoded, by a stage that lies beside the denoiser all the while and so gets the least memory that it needs of a
 * budget. Other latents go through a linear map, a pixel for each place of them: for the decoders of Stable Diffusion the regressions that web interfaces use;
 * for any other a regression of the same kind, made before the start: the model's own decoder paints a quilt of patches, each of one random latent, whose
 * colours are told. That takes the decoder's time for a map of 24x24 latents once, and no memory while the denoiser runs. */
#include "models/preview.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "models/pipe_common.h"

/* What a decoder of four latents is known by, and its colours */
static const struct { float scaling_factor; colour_map map; } known[] = {
    {0.18215f, {{{0.298f, 0.207f, 0.208f}, {0.187f, 0.286f, 0.173f}, {-0.158f, 0.189f, 0.264f}, {-0.184f, -0.271f, -0.473f}}, {0, 0, 0}}},
    {0.13025f, {{{0.3920f, 0.4054f, 0.4549f}, {-0.2634f, -0.0196f, 0.0653f}, {0.0568f, 0.1687f, -0.0755f}, {-0.3112f, -0.2359f, -0.2076f}}, {0, 0, 0}}},
};

/* ---- --taesd ---- */

bool tiny_decoder_read(tiny_decoder *t, const engine *e, const vae_config *own)
{
    const source *src = e->request->tiny;
    char name[FILE_NAME_BYTES];
    if (!src)
        return true;
    t->e = *e;
    t->e.source = src;
    json *j = read_config(src, "", "config.json", name, e->st);
    bool ok = j && vae_config_read(&t->config, j, name, e->st);
    json_free(j);
    if (!ok)
        return false;
    const vae_config *c = &t->config;
    if (!c->tiny)
        return status_set(e->st, STATUS_BAD_FILE, "%s: is no AutoencoderTiny", src->path);
    if (c->latent_channels != own->latent_channels || vae_factor(c) != vae_factor(own) || c->out_channels != 3)
        return status_set(e->st, STATUS_BAD_FILE, "%s: decodes %d latent channels to pictures %d times as wide, the model has %d and %d", src->path, c->latent_channels,
                          vae_factor(c), own->latent_channels, vae_factor(own));
    return true;
}

bool decoder_plan(vae_stage *v, engine *e, tiny_decoder *t, const vae_config *own, const char *component, int height, int width, int images)
{
    bool tiny = e->request->tiny && !e->request->tiny_previews_only;
    t->e.held_bytes = e->held_bytes;
    v->config = tiny ? t->config : *own;
    return vae_stage_plan(v, tiny ? &t->e : e, tiny ? "" : component, height, width, images);
}

/* ---- planning ---- */

static size_t per_image(const preview *v) { return (size_t)v->channels * (size_t)v->height * (size_t)v->width; }
static bool has_tiny(const preview *v) { return v->tiny && v->e->request->tiny; }

/* Does a published map belong to this decoder? */
static bool know_map(preview *v)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (v->channels == 4 && !v->decoder->codes && !v->decoder->normed && fabsf(v->decoder->scaling_factor - known[i].scaling_factor) < 1e-6f) {
            v->map = known[i].map;
            return true;
        }
    return false;
}

static void choose_way(preview *v)
{
    const request *q = v->e->request;
    v->way = !q->preview_every || !q->preview                       ? PREVIEW_OFF
             : !v->component                                        ? PREVIEW_PIXELS
             : v->tokens || has_tiny(v) || v->decoder->tiny         ? PREVIEW_DECODED
             : know_map(v)                                          ? PREVIEW_COLOURS
                                                                    : PREVIEW_FIT;
}

/* Patches of 4x4 latents, several times as many as there are unknowns. */
enum { PATCH = 4, FEWEST = 6 };
static int patches(const preview *v)
{
    int side = FEWEST;
    while (side * side < 4 * (v->channels + 1))
        side++;
    return side;
}

static bool plan_within(preview *v, uint64_t budget, int height, int width, int passes)
{
    bool tiny = has_tiny(v);
    v->show_request.budget_bytes = budget;
    v->show.config = tiny ? v->tiny->config : *v->decoder;
    v->show.from_tokens = v->tokens;
    bool ok = vae_stage_plan(&v->show, &v->show_engine, tiny ? "" : v->component, height, width, passes);
    if (v->show.stage.row)
        snprintf(v->show.stage.row->name, sizeof v->show.stage.row->name, "%.12s%spreview", v->stage ? v->stage : "", v->stage && *v->stage ? "." : "");
    return ok;
}

/* Beside the denoiser: in the least memory that will do. */
static bool plan_decoded(preview *v, int passes)
{
    status *st = v->e->st;
    int stages = v->e->report->stages;
    v->show_engine.held_bytes = 0; /* counted with the denoiser */
    if (plan_within(v, v->show_request.budget_bytes ? 1 : 0, v->height, v->width, passes))
        return true;
    if (st->code != STATUS_BUDGET)
        return false;
    uint64_t least = st->least_bytes;
    stage_close(&v->show.stage);
    *st = (status)STATUS_INIT;
    v->e->report->stages = stages;
    return plan_within(v, least, v->height, v->width, passes);
}

static size_t picture_bytes(const preview *v)
{
    size_t area = (size_t)v->height * (size_t)v->width, factor = v->way == PREVIEW_DECODED ? (size_t)vae_factor(&v->show.config) : 1;
    return area * factor * factor * (v->way == PREVIEW_DECODED ? 15 : 3);
}

static size_t quilt_bytes(const preview *v)
{
    size_t side = (size_t)(patches(v) * PATCH), factor = (size_t)vae_factor(v->decoder);
    return side * side * 4 * (2 * (size_t)v->channels + 3 * factor * factor);
}

bool preview_plan(preview *v)
{
    engine *e = v->e;
    const request *q = e->request;
    choose_way(v);
    if (v->way == PREVIEW_OFF)
        return true;
    if (v->channels > PREVIEW_CHANNELS && v->way == PREVIEW_FIT)
        return status_set(e->st, STATUS_USAGE, "--preview: %s has latents of %d channels, colours can be told of up to %d", e->source->path, v->channels, PREVIEW_CHANNELS);
    int previews = v->passes / q->preview_every * v->images;
    status before = refusal_aside(e->st);
    v->show_request = *q;
    v->show_engine = has_tiny(v) ? v->tiny->e : *e;
    v->show_engine.request = &v->show_request;
    bool ok = true;
    if (v->way == PREVIEW_DECODED)
        ok = plan_decoded(v, previews ? previews : 1);
    if (v->way == PREVIEW_FIT) {
        v->show_engine.held_bytes = e->held_bytes + quilt_bytes(v);
        ok = plan_within(v, q->budget_bytes, patches(v) * PATCH, patches(v) * PATCH, 1);
    }
    const stage_report *row = v->show.stage.row;
    v->held_bytes = per_image(v) * (size_t)v->images * 4 + (ok ? picture_bytes(v) : 0);
    if (ok && v->way == PREVIEW_DECODED)
        v->held_bytes += row->resident_bytes + row->ring_bytes + row->arena_bytes;
    e->held_bytes += v->held_bytes;
    return refusal_back(e->st, &before) || e->st->code == STATUS_BUDGET;
}

void preview_planned(preview *v)
{
    if (v->way != PREVIEW_OFF)
        v->e->held_bytes -= v->held_bytes;
    v->held_bytes = 0;
}

/* ---- a linear map ---- */

enum { MOST = PREVIEW_CHANNELS + 1 };

/* a [n, n] x = b [n, 3], in place, the largest pivots first */
static bool solve(double a[MOST][MOST], double b[MOST][3], int n)
{
    for (int k = 0; k < n; k++) {
        int best = k;
        for (int i = k + 1; i < n; i++)
            best = fabs(a[i][k]) > fabs(a[best][k]) ? i : best;
        if (!(fabs(a[best][k]) > 1e-9))
            return false;
        for (int j = 0; best != k && j < n; j++) {
            double t = a[k][j];
            a[k][j] = a[best][j];
            a[best][j] = t;
        }
        for (int c = 0; best != k && c < 3; c++) {
            double t = b[k][c];
            b[k][c] = b[best][c];
            b[best][c] = t;
        }
        for (int i = 0; i < n; i++) {
            double by = i == k ? 0 : a[i][k] / a[k][k];
            for (int j = k; j < n; j++)
                a[i][j] -= by * a[k][j];
            for (int c = 0; c < 3; c++)
                b[i][c] -= by * b[k][c];
        }
    }
    for (int k = 0; k < n; k++)
        for (int c = 0; c < 3; c++)
            b[k][c] /= a[k][k];
    return true;
}

/* By the normal equations; the constant is the last unknown. */
bool colour_map_fit(colour_map *m, const float *latents, const float *colours, int count, int channels)
{
    double a[MOST][MOST] = {{0}}, b[MOST][3] = {{0}};
    for (int k = 0; k < count; k++)
        for (int i = 0; i <= channels; i++) {
            double x = i < channels ? (double)latents[k * channels + i] : 1;
            for (int j = 0; j <= channels; j++)
                a[i][j] += x * (j < channels ? (double)latents[k * channels + j] : 1);
            for (int c = 0; c < 3; c++)
                b[i][c] += x * (double)colours[3 * k + c];
        }
    if (channels > PREVIEW_CHANNELS || !solve(a, b, channels + 1))
        return false;
    for (int c = 0; c < 3; c++) {
        for (int i = 0; i < channels; i++)
            m->by[i][c] = (float)b[i][c];
        m->plus[c] = (float)b[channels][c];
    }
    return true;
}

/* The mean colour of the middle of each patch in the decoded quilt. */
static void patch_colours(const float *picture, int side, int patch, float *colours)
{
    size_t width = (size_t)(side * patch), area = width * width;
    int edge = patch / 4, wide = patch - 2 * edge;
    for (int k = 0; k < side * side; k++)
        for (size_t c = 0; c < 3; c++) {
            double sum = 0;
            for (int y = edge; y < patch - edge; y++)
                for (int x = edge; x < patch - edge; x++) {
                    float p = picture[c * area + (size_t)(k / side * patch + y) * width + (size_t)(k % side * patch + x)];
                    sum += p > -1 ? p < 1 ? (double)p : 1 : -1;
                }
            colours[3 * k + (int)c] = (float)(sum / (wide * wide));
        }
}

/* Numbers of its own: the run's generators are not touched. */
static void draw_patches(const preview *v, int side, float *each, float *quilt)
{
    rng g;
    int channels = v->channels, width = side * PATCH;
    rng_seed(&g, 1);
    rng_normal(&g, each, (size_t)(side * side * channels));
    for (int c = 0; c < channels; c++)
        for (int y = 0; y < width; y++)
            for (int x = 0; x < width; x++)
                quilt[(c * width + y) * width + x] = each[(y / PATCH * side + x / PATCH) * channels + c];
}

static bool fit_map(preview *v)
{
    int side = patches(v), factor = vae_factor(&v->show.config);
    size_t area = (size_t)(side * PATCH) * (size_t)(side * PATCH), n = (size_t)v->channels * area;
    status *st = v->e->st;
    float *quilt = mem_alloc(n, 4, "preview", st), *picture = mem_alloc(3 * area * (size_t)(factor * factor), 4, "preview", st);
    float *each = mem_alloc((size_t)(side * side) * (size_t)(v->channels + 3), 4, "preview", st);
    bool ok = status_ok(st) && stage_open(&v->show.stage);
    if (ok) {
        float *colours = each + side * side * v->channels;
        draw_patches(v, side, each, quilt);
        ok = vae_stage_picture(&v->show, quilt, picture);
        patch_colours(picture, side, PATCH * factor, colours);
        if (ok && !colour_map_fit(&v->map, each, colours, side * side, v->channels))
            v->map = (colour_map){.plus = {0}}; /* a decoder that makes no numbers: grey */
    }
    stage_close(&v->show.stage);
    mem_free(quilt);
    mem_free(picture);
    mem_free(each);
    return ok;
}

/* ---- showing ---- */

bool preview_open(preview *v)
{
    if (v->way == PREVIEW_OFF)
        return true;
    v->guess = mem_alloc(per_image(v) * (size_t)v->images, 4, "preview", v->e->st);
    if (!v->guess)
        return false;
    return v->way == PREVIEW_FIT ? fit_map(v) : v->way == PREVIEW_DECODED ? stage_open(&v->show.stage) : true;
}

void preview_close(preview *v)
{
    stage_close(&v->show.stage);
    mem_free(v->guess);
    v->guess = NULL;
}

bool preview_due(const preview *v, int done) { return v->way != PREVIEW_OFF && done > 0 && done % v->e->request->preview_every == 0; }

float *preview_guess(preview *v, int done)
{
    v->guessed = preview_due(v, done);
    return v->guessed ? v->guess : NULL;
}

void preview_predict(preview *v, const sampler *s, int call, const float *output, const float *latents, int done)
{
    float *guess = preview_guess(v, done);
    if (guess)
        sampler_x0(s, call, output, latents, guess, per_image(v) * (size_t)v->images);
}

static void paint_colours(const preview *v, const float *latents, uint8_t *rgb)
{
    size_t area = (size_t)v->height * (size_t)v->width;
    for (size_t k = 0; k < area * 3; k++) {
        float x = v->map.plus[k % 3];
        for (size_t c = 0; c < (size_t)v->channels; c++)
            x += v->map.by[c][k % 3] * latents[c * area + k / 3];
        rgb[k] = picture_byte(x);
    }
}

static bool show_one(preview *v, int image, int step, const float *latents)
{
    const request *q = v->e->request;
    status *st = v->e->st;
    bool decoded = v->way == PREVIEW_DECODED;
    int factor = decoded ? vae_factor(&v->show.config) : 1, width = v->width * factor, height = v->height * factor;
    size_t area = (size_t)width * (size_t)height;
    uint8_t *rgb = mem_alloc(area, 3, "preview", st);
    float *picture = decoded && rgb ? mem_alloc(area * 3, 4, "preview", st) : NULL;
    bool ok = status_ok(st) && (!decoded || vae_stage_picture(&v->show, latents, picture));
    if (ok && !decoded && v->way != PREVIEW_PIXELS)
        paint_colours(v, latents, rgb);
    else if (ok)
        rgb_of_planes(decoded ? picture : latents, area, rgb);
    ok = ok && q->preview(q->preview_ctx, v->stage ? v->stage : "", image, step, rgb, width, height, st);
    mem_free(rgb);
    mem_free(picture);
    return ok;
}

bool preview_show(preview *v, const float *latents, int done, bool last)
{
    bool ok = true;
    const float *shown = v->guessed && !last ? v->guess : latents;
    v->guessed = false;
    for (int i = 0; ok && preview_due(v, done) && i < v->images; i++)
        ok = show_one(v, i, done, shown + (size_t)i * per_image(v));
    return ok;
}
