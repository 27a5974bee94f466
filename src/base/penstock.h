/* penstock.h: pictures from text, on the processor, in the memory that you name.
 *
 *     penstock_error e = {0};
 *     penstock_model *m = penstock_open(NULL, &e);               // the small model that ships; or a path
 *     penstock_options o = penstock_defaults();
 *     o.prompt = "a red circle above a blue square";
 *     if (!m || !penstock_generate_png(m, &o, "out.png", &e))
 *         fprintf(stderr, "%s\n", e.text);
 *     penstock_close(m);
 *
 * Compile and link with `pkg-config --cflags --libs penstock`. A model may be used by one thread at a time, different
 * models by different threads. Strings are UTF-8, stay yours, and are needed until the call returns. A penstock_error may be NULL
 * where the sentence is not wanted; with one that holds an error already nothing is done, and the call fails. The environment counts as
 * it does for the program: PENSTOCK_MODEL, PENSTOCK_READ, XDG_CACHE_HOME (scratch files). */
#ifndef PENSTOCK_H
#define PENSTOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PENSTOCK_API __attribute__((visibility("default")))
#else
#define PENSTOCK_API
#endif

/* What went wrong, in one sentence ("what: why"). Start with {0}; the first error stays until you clear it. */
typedef struct penstock_error {
    int code;              /* 0 none, 1 the run failed, 2 bad options, 3 a bad file, 4 the budget is too small */
    uint64_t least_bytes;  /* code 4: the least budget that would do */
    char text[480];
} penstock_error;

typedef struct penstock_model penstock_model;

/* A .penstock container, a diffusers folder or another tool's checkpoint; NULL: $PENSTOCK_MODEL, or the small model that ships. Reads headers only, and keeps
 * the files open until penstock_close. NULL on error. */
PENSTOCK_API penstock_model *penstock_open(const char *path, penstock_error *e);
PENSTOCK_API void penstock_close(penstock_model *model); /* NULL is none */

/* Start from penstock_defaults(), which fills `size` and leaves every choice to the model. */
typedef struct penstock_options {
    size_t size;                  /* of this structure: later versions append to it */
    const char *prompt;
    const char *negative_prompt;  /* NULL: none; "": an empty one */
    int width, height;            /* pixels, multiples of what the model can make (the error names the nearest); 0: the model's own */
    int steps;                    /* 0: the pipeline's default */
    double guidance_scale;        /* NaN: the pipeline's default */
    const char *sampling_method;  /* "euler_a"; NULL: the model's */
    const char *scheduler;        /* "karras"; NULL: the model's */
    uint64_t seed;                /* image k of a batch uses seed + k; the noise is torch's of that seed */
    int batch_count;              /* pictures, 1 to 64 */
    int max_sequence_length;      /* tokens that a prompt is cut behind; 0: the pipeline's default */
    int threads;                  /* 0: all cores */
    uint64_t budget_bytes;        /* 0: none; else a ceiling on memory, page cache of the model included */
    const char *scratch;          /* a folder for maps that do not fit; NULL: the user's cache */
    bool full_precision;          /* every operation in 32-bit float */
    /* Called as the work goes on, in the thread that called us: stage "encode", "denoise" or "decode"; total 0: not known. May be NULL. */
    void (*progress)(void *ctx, const char *stage, int done, int total);
    void *progress_ctx;
} penstock_options;

PENSTOCK_API penstock_options penstock_defaults(void);

typedef struct penstock_picture {
    int count, width, height;
    uint8_t *rgb;                 /* [count, height, width, 3], until penstock_picture_free */
    uint64_t seed;                /* of the first */
    double seconds;               /* of the whole call */
} penstock_picture;

/* These return false with e filled; *out is empty then. */
PENSTOCK_API bool penstock_generate(penstock_model *model, const penstock_options *o, penstock_picture *out, penstock_error *e);
PENSTOCK_API void penstock_picture_free(penstock_picture *picture);
/* One picture (batch_count is taken as 1) into a PNG file that carries its settings; it appears whole or not at all. */
PENSTOCK_API bool penstock_generate_png(penstock_model *model, const penstock_options *o, const char *path, penstock_error *e);

typedef struct penstock_needs {
    uint64_t peak_bytes;          /* most memory held at once */
    uint64_t stream_bytes;        /* weights read, all passes together */
    uint64_t scratch_bytes;       /* scratch file */
    uint64_t operations;          /* a multiply-add counts as two */
    int width, height, steps;     /* what the defaults came out as */
} penstock_needs;

/* What generate would need. Nothing large is read. */
PENSTOCK_API bool penstock_plan(penstock_model *model, const penstock_options *o, penstock_needs *out, penstock_error *e);

PENSTOCK_API const char *penstock_version(void); /* "0.1.0" */

#ifdef __cplusplus
}
#endif
#endif
