/* options.h: one table of options drives parsing, help, errors and completion. */
#ifndef PENSTOCK_OPTIONS_H
#define PENSTOCK_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum command_bit {
    GENERATE = 1, ENCODE = 2, DECODE = 4, QUANTIZE = 8, INSPECT = 16, PLAN = 32, VERIFY = 64, BENCH = 128, COMPLETION = 256,
    RUNS = GENERATE | ENCODE | DECODE,
    ANY = 511
};

typedef struct text_list {
    int count;
    const char **item;
} text_list;

typedef struct options {
    const struct command *command;
    const char *model, *prompt, *negative_prompt, *prompt_file, *output, *input;
    int width, height, steps, batch_count, threads, max_sequence_length, tokens;
    int clip_skip, preview;
    double guidance_scale, guidance_rescale, strength, temperature, refiner_start, seconds;
    const char *init_img, *mask, *refiner, *taesd;
    const char *sampling_method, *scheduler, *precision, *kernels, *scratch, *trace, *save_latents, *load_latents, *checkpoint, *embeddings, *type, *calibrate;
    uint64_t seed, random_seed, budget_bytes;
    bool seed_given, random_weights, random_given, list_tensors, no_cache, taesd_preview_only, null_embedding, json, quiet, verbose, help;
    text_list tensor_type, component, cascade;
    text_list argument;
    const char **memory;     /* what the lists lie in */
} options;

/* argv[0] is the command's name. On an error st is set (STATUS_USAGE). Free with options_free either way. */
bool options_parse(options *o, const struct command *c, int argc, char **argv, status *st);
void options_free(options *o);
/* Set one option by its long name without dashes ("cfg-scale" or "cfg_scale"), as a line of --prompt-file does. */
bool options_set(options *o, const char *name, const char *value, status *st);

void options_help(const struct command *c);
void options_completion(void);

/* The name of a list that is nearest to what was typed, or NULL when none is near. The list ends with NULL. */
const char *nearest(const char *typed, const char *const *names);
/* Our name ("cfg-scale") of an option that other programs (diffusers, stable-diffusion.cpp, ...) call `word` ("guidance-scale"), or NULL. */
const char *named_elsewhere(const char *word);
/* The names of a list between blanks, for a sentence; cut where `room` ends. Returns `out`. */
char *names_in_line(const char *const *names, char *out, size_t room);

#endif
