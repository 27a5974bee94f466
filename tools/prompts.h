/* prompts.h: --prompt-file. */
#ifndef PENSTOCK_PROMPTS_H
#define PENSTOCK_PROMPTS_H

#include "tools/command.h"

/* Call run for each line of o->prompt_file: a prompt, or a JSON object of options ({"prompt": "...", "seed": 7, "steps": 20}) over
 * those of the command line. Picture number n goes to picture_name(output, n) unless its line names an output. Empty lines and
 * lines that begin with # are skipped. Stops at the first failure, which then names the line. */
bool prompts_each(const options *o, const source *src, bool (*run)(const options *o, const source *src, status *st), status *st);

#endif
