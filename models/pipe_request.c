#include "models/pipe_request.h"

#include <stdio.h>

#include "base/mem.h"
#include "models/resume.h"
#include "models/tensor_file.h"

enum { MOST_SIDE = 16384, MOST_TOKENS = 4096 };

/* ---- sizes ---- */

bool size_in_range(int width, int height, status *st)
{
    return (width >= 1 && height >= 1 && width <= MOST_SIDE && height <= MOST_SIDE) ||
           status_set(st, STATUS_USAGE, "size %dx%d: width and height are 1 to %d", width, height, MOST_SIDE);
}

bool size_divides(int width, int height, int unit, status *st)
{
    if (width % unit == 0 && height % unit == 0)
        return true;
    int w = (width + unit / 2) / unit * unit, h = (height + unit / 2) / unit * unit;
    return status_set(st, STATUS_USAGE, "size %dx%d: width and height must be multiples of %d, the nearest is %dx%d", width, height, unit, w ? w : unit, h ? h : unit);
}

/* ---- a picture to begin with ---- */

bool begins_once(const request *q, status *st)
{
    if (q->mask && !q->init)
        return status_set(st, STATUS_USAGE, "--mask: belongs to a picture, --init-img is missing");
    return !(q->init && q->load_latents) || status_set(st, STATUS_USAGE, "--load-latents and --init-img: both say what to begin with");
}

static size_t pixels_bytes(const pixmap *p) { return p ? (size_t)p->width * (size_t)p->height * 3 : 0; }

size_t given_bytes(const request *q) { return pixels_bytes(q->init) + pixels_bytes(q->mask); }

uint64_t given_hash(uint64_t h, const request *q)
{
    if (q->init)
        h = hash_more(h, q->init->rgb, pixels_bytes(q->init));
    return q->mask ? hash_more(h, q->mask->rgb, pixels_bytes(q->mask)) : h;
}

/* ---- prompts ---- */

bool open_prompts(prompt_set *p, const request *q, prompt_guidance guidance, status *st)
{
    return prompt_set_open(p, q, guidance, st) &&
           (p->images <= MOST_IMAGES || status_set(st, STATUS_USAGE, "--batch-count %d: at most %d", p->images, MOST_IMAGES));
}

bool open_prompts_alone(prompt_set *p, const request *q, status *st) { return prompt_set_open(p, q, q->tokens ? GUIDE_NONE : GUIDE_NAMED, st); }

int prompt_length(const request *q, int own, status *st)
{
    if (q->max_sequence_length >= 0 && q->max_sequence_length <= MOST_TOKENS)
        return q->max_sequence_length ? q->max_sequence_length : own;
    status_set(st, STATUS_USAGE, "--max-sequence-length %d: at most %d", q->max_sequence_length, MOST_TOKENS);
    return 0;
}

bool negative_given(const request *q, const char *name, status *st)
{
    tensor_file f;
    if (!q->embeddings)
        return false;
    bool open = tensor_file_open(&f, q->embeddings, st);
    const safetensor *t = open ? safetensors_find(f.table, name) : NULL;
    bool two = t && t->dims == 3 && t->shape[0] == 2;
    tensor_file_close(&f);
    return two;
}

/* ---- the schedule ---- */

sampler *open_sampler(const source *src, const request *q, int own_steps, const char *forced, bool learned, status *st)
{
    size_t bytes = 0;
    char *config = source_read_blob(src, "scheduler/scheduler_config.json", 1 << 20, true, &bytes, st);
    sampler *s = status_ok(st) ? sampler_open_forced(config, bytes, q->sampling_method, q->scheduler, q->steps ? q->steps : own_steps, forced, st) : NULL;
    mem_free(config);
    if (!s || learned || !sampler_wants_variance(s))
        return s;
    status_set(st, STATUS_USAGE, "--sampling-method %s with a learned variance does not go with this model", sampler_about(s)->method);
    sampler_close(s);
    return NULL;
}

/* ---- the report ---- */

void report_settings(result *out, const sampler *s, double guidance, int width, int height)
{
    out->guidance_scale = guidance;
    out->width = width;
    out->height = height;
    out->steps = sampler_steps(s);
    snprintf(out->sampler, sizeof out->sampler, "%s", sampler_about(s)->method);
}
