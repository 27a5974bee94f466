#include "models/resume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/mem.h"
#include "models/tensor_file.h"
#include "weights/state_file.h"

uint64_t hash_more(uint64_t h, const void *data, size_t bytes) { return XXH3_64bits_withSeed(data, bytes, h); }

uint64_t model_hash(const source *s)
{
    uint64_t h = hash_more(s->hash, "model", 5);
    for (int i = 0; !s->container && i < s->blobs; i++) {   /* a container's hash covers its small files */
        char path[4096];
        struct stat f;
        uint64_t seen[3] = {0};
        snprintf(path, sizeof path, "%s/%s", s->path, s->blob[i].name);
        if (stat(path, &f) == 0) {
            seen[0] = (uint64_t)f.st_size;
            seen[1] = (uint64_t)f.st_mtime;
        }
#ifdef __linux__
        seen[2] = (uint64_t)f.st_mtim.tv_nsec;
#endif
        h = hash_more(hash_more(h, s->blob[i].name, strlen(s->blob[i].name)), seen, sizeof seen);
    }
    return h;
}

/* ---- the checkpoint: facts, number of the next call, what a further stage began from, latents, generators, the sampler's state ---- */

#define MAGIC "PENSTEP2"
enum { RNG_WORDS = 624 };

typedef struct fact {
    const char *name;    /* as in "of seed 1, this run is of seed 2" */
    bool hashed;         /* its number says nothing to a reader */
} fact;

enum { STAGE, MODEL, PROMPT, WIDTH, HEIGHT, CHANNELS, IMAGES, SEED, SAMPLER, CALLS, GUIDANCE, PRECISION, BEFORE, FACTS };
static const fact facts[FACTS] = {
    [STAGE] = {"stage", false}, [BEFORE] = {"run of the stages before it", true}, [MODEL] = {"model", true}, [PROMPT] = {"prompt", true}, [WIDTH] = {"latent width", false}, [HEIGHT] = {"latent height", false},
    [CHANNELS] = {"channel count", false}, [IMAGES] = {"batch count", false}, [SEED] = {"seed", false}, [SAMPLER] = {"sampling method, schedule or number of steps", true},
    [CALLS] = {"number of calls", false}, [GUIDANCE] = {"guidance scale", true}, [PRECISION] = {"precision", true},
};

typedef struct head {
    uint64_t fact[FACTS], next;
} head;

static int calls_of(const trajectory *t) { return t->sampler ? sampler_calls(t->sampler) : t->masked->steps; }

static uint64_t method_of(const trajectory *t)
{
    if (t->sampler)
        return sampler_identity(t->sampler);
    double numbers[4] = {t->masked->steps, t->masked->mask_id, t->masked->linear, t->masked->temperature};
    return hash_more(0, numbers, sizeof numbers);
}

static head head_of(const trajectory *t, const engine *e, int next)
{
    head h = {.next = (uint64_t)next};
    h.fact[STAGE] = t->start ? (uint64_t)t->start->number : 1;
    h.fact[BEFORE] = t->start ? t->start->before : 0;
    h.fact[MODEL] = model_hash(e->source);
    h.fact[PROMPT] = t->prompt;
    h.fact[WIDTH] = (uint64_t)t->width;
    h.fact[HEIGHT] = (uint64_t)t->height;
    h.fact[CHANNELS] = (uint64_t)t->channels;
    h.fact[IMAGES] = (uint64_t)t->images;
    h.fact[SEED] = e->request->seed;
    h.fact[SAMPLER] = method_of(t);
    h.fact[CALLS] = (uint64_t)calls_of(t);
    memcpy(&h.fact[GUIDANCE], &t->guidance, sizeof t->guidance);
    h.fact[PRECISION] = e->request->precision;
    return h;
}

static size_t per_image(const trajectory *t) { return (size_t)(t->sampler ? t->channels : 1) * (size_t)t->height * (size_t)t->width; }

static bool put_generator(state_file *f, const rng *g)
{
    uint32_t words[RNG_WORDS + 4] = {0};
    memcpy(words, g->state, sizeof g->state);
    words[RNG_WORDS] = (uint32_t)g->next;
    words[RNG_WORDS + 1] = g->has_spare;
    memcpy(words + RNG_WORDS + 2, &g->spare, sizeof g->spare);
    return state_put(f, words, sizeof words);
}

static bool get_generator(state_file *f, rng *g, const char *name, status *st)
{
    uint32_t words[RNG_WORDS + 4];
    if (!state_get(f, words, sizeof words))
        return false;
    if (words[RNG_WORDS] > RNG_WORDS || words[RNG_WORDS + 1] > 1)
        return status_set(st, STATUS_BAD_FILE, "%s: holds no state of a generator", name);
    memcpy(g->state, words, sizeof g->state);
    g->next = (int)words[RNG_WORDS];
    g->has_spare = words[RNG_WORDS + 1];
    memcpy(&g->spare, words + RNG_WORDS + 2, sizeof g->spare);
    return true;
}

static bool put_start(const trajectory *t, state_file *f)
{
    const stage_start *b = t->start;
    bool ok = !b || !b->count || state_put(f, (float *)(uintptr_t)b->given, b->count * sizeof *b->given);
    for (int i = 0; ok && b && b->count && i < t->images; i++)
        ok = put_generator(f, &b->generator[i]);
    return ok;
}

static bool get_start(const trajectory *t, state_file *f, float *given, size_t count, rng *generator, const engine *e)
{
    bool ok = state_get(f, given, count * sizeof *given);
    for (int i = 0; ok && i < t->images; i++)
        ok = get_generator(f, &generator[i], e->request->checkpoint, e->st);
    return ok;
}

static bool checkpoint_write(const trajectory *t, const engine *e, int next)
{
    state_file *f = state_create(e->request->checkpoint, MAGIC, e->st);
    if (!f)
        return false;
    head h = head_of(t, e, next);
    bool ok = state_put(f, &h, sizeof h) && put_start(t, f) && state_put(f, t->latents, per_image(t) * (size_t)t->images * 4);
    for (int i = 0; ok && i < t->images; i++)
        ok = put_generator(f, &t->noise->image[i]);
    if (ok && t->sampler)
        sampler_save(t->sampler, state_put, f);
    return state_commit(f);
}

static bool of_this_run(const head *h, const head *want, const char *name, status *st)
{
    for (int i = 0; i < FACTS; i++) {
        if (h->fact[i] == want->fact[i])
            continue;
        if (facts[i].hashed)
            return status_set(st, STATUS_BAD_FILE, "%s: is a checkpoint of another %s", name, facts[i].name);
        return status_set(st, STATUS_BAD_FILE, "%s: is a checkpoint of %s %" PRIu64 ", this run has %" PRIu64, name, facts[i].name, h->fact[i], want->fact[i]);
    }
    return h->next <= h->fact[CALLS] || status_set(st, STATUS_BAD_FILE, "%s: its next call is number %" PRIu64, name, h->next);
}

/* It was taken by checkpoint_start, before the stage began. */
static bool skip_start(const trajectory *t, state_file *f, const engine *e)
{
    size_t count = t->start ? t->start->count : 0;
    float *given = count ? mem_alloc(count, sizeof *given, "checkpoint", e->st) : NULL;
    rng *generator = given ? mem_alloc((size_t)t->images, sizeof *generator, "checkpoint", e->st) : NULL;
    bool ok = !count || (generator && get_start(t, f, given, count, generator, e));
    mem_free(given);
    mem_free(generator);
    return ok;
}

static int checkpoint_read(trajectory *t, engine *e)
{
    const char *name = e->request->checkpoint;
    state_file *f = state_open(name, MAGIC, e->st);
    if (!f)
        return -1;
    head h, want = head_of(t, e, 0);
    bool ok = state_get(f, &h, sizeof h) && of_this_run(&h, &want, name, e->st) && skip_start(t, f, e) && state_get(f, t->latents, per_image(t) * (size_t)t->images * 4);
    for (int i = 0; ok && i < t->images; i++)
        ok = get_generator(f, &t->noise->image[i], name, e->st);
    ok = ok && (!t->sampler || sampler_restore(t->sampler, (int)h.next, (size_t)t->images, per_image(t), state_get, f, e->st));
    return state_close(f) && ok ? (int)h.next : -1;
}

static bool is_there(const engine *e) { return e->request->checkpoint && access(e->request->checkpoint, F_OK) == 0; }

int checkpoint_stage(const engine *e, int stages)
{
    const char *name = e->request->checkpoint;
    head h;
    if (!is_there(e))
        return 1;
    state_file *f = state_open(name, MAGIC, e->st);
    bool ok = f && state_get(f, &h, sizeof h);
    if (f)
        state_drop(f);
    if (!ok)
        return 0;
    if (h.fact[STAGE] >= 1 && h.fact[STAGE] <= (uint64_t)stages)
        return (int)h.fact[STAGE];
    status_set(e->st, STATUS_BAD_FILE, "%s: is a checkpoint of stage %" PRIu64 ", this run has %d", name, h.fact[STAGE], stages);
    return 0;
}

bool checkpoint_start(const trajectory *t, const engine *e, float *given, size_t count, rng *generator)
{
    const char *name = e->request->checkpoint;
    head h, want = head_of(t, e, 0);
    state_file *f = state_open(name, MAGIC, e->st);
    bool ok = f && state_get(f, &h, sizeof h);
    if (ok) {
        want.fact[PROMPT] = h.fact[PROMPT]; /* may depend on what is given; trajectory_begin will see */
        ok = of_this_run(&h, &want, name, e->st) && get_start(t, f, given, count, generator, e);
    }
    if (f)
        state_drop(f);
    return ok;
}

uint64_t trajectory_hash(const trajectory *t, const engine *e, uint64_t before)
{
    head h = head_of(t, e, t->first);
    return hash_more(before, &h, sizeof h);
}

/* ---- latents from a file ---- */

/* The generators as the calls before number `first` left them. */
static bool skip_noise(trajectory *t, int first, status *st)
{
    for (int call = 0; !t->sampler && call < first; call++)
        for (int i = 0; i < t->images; i++)
            masked_skip(t->masked, call, (int)per_image(t), t->codes, &t->noise->image[i]);
    if (!t->sampler)
        return true;
    float *drawn = mem_alloc(per_image(t) * (size_t)t->images, sizeof(float), "noise", st);
    for (int call = 0; drawn && call < first; call++)
        if (sampler_draws_noise(t->sampler, call))
            noise_draw(t->noise, drawn, per_image(t) * (size_t)t->images);
    mem_free(drawn);
    return drawn != NULL;
}

static int place_latents(trajectory *t, const latents_file *l, const char *path, status *st)
{
    int calls = calls_of(t), first = l->done < 0 ? 0 : l->done;
    size_t n = per_image(t) * (size_t)t->images;
    if (l->shape[0] != t->images || l->shape[1] != t->channels || l->shape[2] != t->height || l->shape[3] != t->width) {
        status_set(st, STATUS_BAD_FILE, "%s: latents are [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "], this run has [%d, %d, %d, %d]", path, l->shape[0],
                   l->shape[1], l->shape[2], l->shape[3], t->images, t->channels, t->height, t->width);
        return -1;
    }
    bool last = l->calls > 0 && l->done == l->calls;
    if (!last && (first > calls || (l->calls > 0 && l->calls != calls))) {
        status_set(st, STATUS_BAD_FILE, "%s: latents are of call %d of %d, this run has %d (see --steps)", path, first, l->calls > 0 ? l->calls : first, calls);
        return -1;
    }
    float scale = l->done < 0 && t->sampler ? sampler_init_noise_sigma(t->sampler) : 1;
    if (l->done >= 0 && t->sampler)
        noise_draw(t->noise, t->latents, n);   /* as the run that made them began; noise from a file is not drawn, as in diffusers */
    for (size_t i = 0; i < n; i++)
        t->latents[i] = l->data[i] * scale;
    if (last || first == calls)
        return calls;
    if (t->sampler && !sampler_begin_call(t->sampler, first)) {
        status_set(st, STATUS_BAD_FILE, "%s: latents are of call %d, which is the middle of a step of this method", path, first);
        return -1;
    }
    return skip_noise(t, first, st) ? first : -1;
}

static int load_latents(trajectory *t, engine *e)
{
    latents_file l;
    int first = latents_file_read(&l, e->request->load_latents, e->st) ? place_latents(t, &l, e->request->load_latents, e->st) : -1;
    mem_free(l.data);
    return first;
}

/* ---- */

static bool add_latents(const trajectory *t, trace *to, const char *name, status *st)
{
    int64_t shape[4] = {t->images, t->channels, t->height, t->width}, tokens[3] = {t->images, t->height, t->width};
    return trace_add(to, name, t->latents, t->sampler ? 4 : 3, t->sampler ? shape : tokens, st);
}

static bool trace_latents(const trajectory *t, const engine *e, int i)
{
    char name[48];
    snprintf(name, sizeof name, "%slatents.%d", t->prefix ? t->prefix : "", i - t->first);
    return add_latents(t, e->request->trace, name, e->st);
}

static int end_of(const trajectory *t) { return t->end ? t->end : calls_of(t); }

/* The last latents by themselves, with their place. */
static bool keep_last(const trajectory *t, const engine *e, int done)
{
    int calls = calls_of(t);
    trace *to = e->request->last_latents;
    return done < end_of(t) || (add_latents(t, to, "latents", e->st) &&
                            trace_add(to, "step", (float[]){(float)done, (float)calls}, 1, (int64_t[]){2}, e->st));
}

/* Noise; of tokens, mask tokens */
static void begin_fresh(trajectory *t)
{
    size_t n = per_image(t) * (size_t)t->images;
    float sigma = t->sampler ? sampler_init_noise_sigma(t->sampler) : 0;
    if (t->sampler)
        noise_draw(t->noise, t->latents, n);
    for (size_t i = 0; i < n; i++)
        t->latents[i] = t->sampler ? t->latents[i] * sigma : (float)t->masked->mask_id;
}

int trajectory_begin(trajectory *t, engine *e)
{
    const request *q = e->request;
    int first = t->first;
    if (!t->fresh && is_there(e)) {
        first = checkpoint_read(t, e);
    } else if (q->load_latents && !t->begun) {
        first = load_latents(t, e);
    } else if (!t->begun) {
        begin_fresh(t);
    }
    e->report->first_call += first < 0 ? 0 : first - t->first;
    return first >= 0 && trace_latents(t, e, first) && keep_last(t, e, first) ? first : -1;
}

bool trajectory_after(trajectory *t, engine *e, int call)
{
    if (!trace_latents(t, e, call + 1))
        return false;
    if (t->settle)
        t->settle(t->ctx, call + 1);
    return keep_last(t, e, call + 1) && (!e->request->checkpoint || checkpoint_write(t, e, call + 1));
}
