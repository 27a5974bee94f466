/* command.h: the table of commands, and what several of them need. A command is a file cmd_NAME.c and a row in command.c. */
#ifndef PENSTOCK_COMMAND_H
#define PENSTOCK_COMMAND_H

#include <json-c/json.h>
#include <stdbool.h>

#include "base/status.h"
#include "models/pipeline.h"
#include "tools/options.h"
#include "tools/progress.h"

typedef bool (*command_fn)(const options *o, status *st);

typedef struct command {
    const char *name;
    unsigned bit;            /* in option_row.commands */
    const char *arguments;   /* "MODEL...", for the usage line */
    int least, most;         /* how many of them */
    const char *about;       /* one line */
    command_fn run;
} command;

extern const command commands[]; /* ends with a row without a name */

bool cmd_generate(const options *o, status *st);
bool cmd_encode(const options *o, status *st);
bool cmd_decode(const options *o, status *st);
bool cmd_quantize(const options *o, status *st);
bool cmd_inspect(const options *o, status *st);
bool cmd_verify(const options *o, status *st);
bool cmd_plan(const options *o, status *st);
bool cmd_bench(const options *o, status *st);
bool cmd_completion(const options *o, status *st);

/* The model of -m, or the command's first argument, or the small one. */
source *open_model(const options *o, status *st);
/* A path, or the name of a system whose dimensions ship ("sd15"). */
source *open_named(const char *named, status *st);
/* What the options ask for, checked as far as that goes without the model. p may be NULL. */
bool make_request(const options *o, progress *p, request *q, status *st);

/* The models of --cascade, opened into the request; close either way. */
bool cascade_open(request *q, const options *o, status *st);
void cascade_close(request *q);

/* Write image k of a result to its name ("out.png", "out_2.png"): the caller frees the name with mem_free. */
char *picture_name(const char *first, int k, status *st);
bool write_pictures(const options *o, const request *q, const char *model, const result *r, status *st);

/* Could every file that the options name be written? */
bool check_outputs(const options *o, status *st);

/* Warn of a prompt that the model does not see whole. */
void tell_cut(bool quiet, const result *r);

/* The object of --json for a run, and its line for a person. */
json_object *run_report(const options *o, const request *q, const result *r);
void print_report(const options *o, const request *q, const result *r);
void print_json(json_object *report);   /* frees it */

#endif
