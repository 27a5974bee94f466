/* prompts.h: --prompt-file, read and checked as a whole before anything runs. */
#ifndef PENSTOCK_PROMPTS_H
#define PENSTOCK_PROMPTS_H

#include "tools/command.h"

typedef struct prompt_line {
    int number;             /* in the file, from 1 */
    options o;              /* the command line's, changed to this line's */
    bool made;              /* for whoever runs them */
    bool guided;
    json_object *held;      /* what o's strings lie in */
    char *text, *output, *trace, *save_latents;
} prompt_line;

typedef struct prompt_lines {
    const char *file;
    int count, room;
    prompt_line *line;
} prompt_lines;

/* A line is a prompt, or a JSON object of options ({"prompt": "...", "seed": 7, "steps": 20}) over those of the command line. Picture
 * number n goes to picture_name(output, n) unless its line names an output; no two lines may name the same one. Empty lines and lines that
 * begin with # are skipped. What is wrong is told with the line's number. Free either way. */
bool prompts_read(prompt_lines *l, const options *o, status *st);
void prompts_free(prompt_lines *l);
/* Put "FILE: line N: " before what st says. */
void prompts_name_line(const prompt_lines *l, const prompt_line *line, status *st);

/* Run them all: `one` runs a line by itself; those that can share a pass over the encoder or the denoiser do. */
typedef bool (*run_one_fn)(const options *o, const source *src, embedding_store *store, status *st);
bool prompts_run(prompt_lines *l, const source *src, run_one_fn one, status *st);

#endif
