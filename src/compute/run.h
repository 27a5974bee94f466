/* run.h: one pass over a model's forward function.
 *
 * The same function is executed in PLAN (ops infer shapes, move the measuring arena, look weights up and write them down in order)
 * and in LIVE (ops compute; use n must be entry n of the plan). The first error sticks in the run; every op then does
 * nothing, so that a forward function contains no error handling. */
#ifndef PENSTOCK_RUN_H
#define PENSTOCK_RUN_H

#include "base/threads.h"
#include "compute/arena.h"
#include "compute/tensor.h"
#include "simd/kernels.h"
#include "weights/moments.h"
#include "weights/scratch.h"
#include "weights/stream.h"

typedef struct levers {      /* how a plan is made to fit; never changes a result */
    int64_t slab_rows;       /* regions run in slabs of at most that many tokens; 0: whole */
    int64_t band_bytes;      /* convolutions prepare their input in bands of rows of at most that size */
    int64_t scratch_bytes;   /* maps of at least that size lie in the scratch file; 0: none does */
} levers;

typedef struct name_alias {  /* another spelling that a checkpoint may use for part of a tensor's name */
    const char *ours, *theirs;
} name_alias;

enum { NAME_BYTES = 256 };

typedef struct run {
    bool live;
    status *st;
    arena arena;
    arena maps;              /* of the scratch file: places from MAP_PLACE on */
    char *base;              /* LIVE: the arena's memory */
    scratch_file *scratch;        /* LIVE: the file, where the plan wants one */
    plan *plan;
    int use;                 /* next entry of the plan */
    stream *stream;
    const kernels *k;
    threads *pool;
    bool f32;                /* --precision f32: no quantized activations */
    input_moments *moments;        /* LIVE: gets the inputs of all matrices; NULL: nobody wants them */
    levers lever;
    const source *source;
    const char *component;
    const name_alias *alias; /* ends with {NULL, NULL} */
    bool imagine;            /* PLAN: the component has no weights, make them up from the shapes asked for */
    weight_type imagined_as; /* of such matrices */
    char prefix[NAME_BYTES];
    int32_t regions;         /* counted, for plan_use.region */
    int32_t region;          /* the one we are in, 0 none */
    double region_repeats;   /* PLAN: how often its operations will run */
} run;

typedef struct scope {
    uint64_t mark, map_mark;
    int prefix_length;
} scope;

/* Names are relative to the scopes entered. leave() frees every tensor made since enter() but `keep`. */
scope enter(run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
tensor leave(run *r, scope s, tensor keep);
void drop(run *r, tensor t);
tensor changed(run *r, tensor t);             /* its values are others now: the sums taken of it no longer hold */

/* A row-local stretch: `for (tensor s; region_next(r, &g, &s);)` hands out views of x, slab by slab (in PLAN the largest one, once); what an
 * iteration allocates is freed at its end, its weights stay until the region ends. Ops inside write back into views in place. */
typedef struct region {
    tensor x;
    int64_t rows, step, row;
    uint64_t mark;
    int first_use, uses;
    bool begun, repeated;
} region;
region region_rows(run *r, tensor x);
bool region_next(run *r, region *g, tensor *slab);

/* ---- for ops ---- */
static const tensor NO_TENSOR = {0, 0, 0, 0, 0, -1, -1, -1};
static inline bool run_ok(const run *r) { return r->st->code == STATUS_OK; }
tensor tensor_new(run *r, int batch, int height, int width, int channels);
tensor tensor_like(run *r, tensor x, int channels);
int64_t scratch_new(run *r, int64_t bytes);   /* drop with scratch_drop */
void scratch_drop(run *r, int64_t place);
/* NULL in PLAN, and where there is no tensor */
static inline void *run_at(const run *r, int64_t place) { return r->base && place >= 0 ? r->base + place : NULL; }
static inline float *tensor_data(const run *r, tensor t) { return (float *)run_at(r, t.place); }

/* Maps: images that only convolutions and group norms read. Large ones may lie in the scratch file, and are then read and written in
 * bands of rows of one item. */
#define MAP_PLACE ((int64_t)1 << 50)
static inline bool in_scratch(tensor t) { return t.place >= MAP_PLACE; }
tensor map_new(run *r, int batch, int height, int width, int channels);
bool map_read(run *r, tensor t, int item, int row, int rows, float *out);
bool map_write(run *r, tensor t, int item, int row, int rows, const float *data);
/* The same without waiting, and the other way: what was begun is done in that order; map_wait returns when the one with that number is. */
uint64_t map_fetch(run *r, tensor t, int item, int row, int rows, float *out);
uint64_t map_store(run *r, tensor t, int item, int row, int rows, const float *data);
bool map_wait(run *r, uint64_t number);
void map_moves(run *r, tensor t, int64_t bands); /* PLAN: all of it will be read, or written, in so many requests, if it lies in the scratch file */
tensor map_copy(run *r, tensor x); /* a copy of x in the scratch file; x itself where the plan keeps maps of its size in memory */

void run_operations(run *r, double operations); /* PLAN: of an op without weights */

/* Look a weight up, check its shape, and take the next place in the plan. Returns the use's number, -1 on error.
 * A matrix may be stored [rows, depth], or [rows, depth, 1, 1]; a convolution [rows, depth, kh, kw]. */
int use_matrix(run *r, const char *name, weight_role role, int64_t rows, int kernel, int64_t depth, double times);
int use_vector(run *r, const char *name, int64_t rows, int64_t columns); /* columns 0: a vector of `rows` */
int use_kernels(run *r, const char *name, int64_t channels, int kernel); /* a vector of one kernel a channel, [channels, 1, k, k] */
int use_embedding(run *r, const char *name, int64_t rows, int64_t depth, int64_t gathered);
bool weight_exists(run *r, const char *name); /* for optional ones; imagined models: true */
bool weight_is_integer(run *r, const char *name);

bool run_begin(run *r);                       /* LIVE: a pass begins */
bool run_end(run *r);                         /* all uses were taken */

#endif
