#include "tools/prompts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "import/json.h"

enum { LONGEST_LINE = 1 << 16, MOST_LINES = 1 << 20 };

void prompts_name_line(const prompt_lines *l, const prompt_line *line, status *st)
{
    status why = *st;
    *st = (status)STATUS_INIT;
    status_set(st, why.code, "%s: line %d: %.400s", l->file, line->number, why.text);
    st->least_bytes = why.least_bytes;
}

/* The allowed name that a mistyped key, or another program's name, stands for; or NULL. */
static const char *meant(const char *key, const char *const *allowed)
{
    char word[64];
    snprintf(word, sizeof word, "%s", key);
    for (char *c = word; *c; c++)
        *c = *c == '_' ? '-' : *c;
    const char *ours = named_elsewhere(word);
    snprintf(word, sizeof word, "%s", ours ? ours : key);
    for (char *c = word; *c; c++)
        *c = *c == '-' ? '_' : *c;
    return nearest(word, allowed);
}

/* The strings of a line must live as long as its options: they stay in the JSON object. */
static bool apply_json(options *o, json_object *line, status *st)
{
    static const char *const allowed[] = {"prompt", "negative_prompt", "output", "width", "height", "steps", "cfg_scale", "seed",
                                          "sampling_method", "scheduler", "batch_count", "max_sequence_length", "trace",
                                          "save_latents", "load_latents", "checkpoint", "embeddings", "init_img", "mask", "strength",
                                          "clip_skip", "guidance_rescale", "temperature", NULL};
    json_object_object_foreach(line, key, value)
    {
        const char *const *name = allowed;
        while (*name && strcmp(*name, key) != 0)
            name++;
        if (!*name) {
            const char *near = meant(key, allowed);
            return status_set(st, STATUS_USAGE, "no option '%s' in a prompt file%s%s%s", key, near ? "; did you mean " : "",
                              near ? near : "", near ? "?" : "");
        }
        bool text_only = o->command->bit == ENCODE && strcmp(key, "prompt") != 0 && strcmp(key, "negative_prompt") != 0 &&
                         strcmp(key, "output") != 0 && strcmp(key, "max_sequence_length") != 0;
        if (!value || text_only)
            continue;   /* null: not given; and a file of pictures to make may be encoded as well */
        if (json_object_is_type(value, json_type_array) || json_object_is_type(value, json_type_object))
            return status_set(st, STATUS_USAGE, "%s: must be a text or a number", key);
        if (!options_set(o, key, json_object_get_string(value), st))
            return false;
    }
    return true;
}

static bool apply_line(prompt_line *line, const char *file, status *st)
{
    if (*line->text != '{') {
        line->o.prompt = line->text;
        return true;
    }
    line->held = json_parse(line->text, strlen(line->text), file, st);
    return line->held && apply_json(&line->o, line->held, st);
}

/* Of a file that the command line names, every line writes its own. */
static char *numbered(const char *name, int picture, status *st) { return name ? picture_name(name, picture, st) : NULL; }

static bool add_line(prompt_lines *l, const options *o, const char *text, int number, int *picture, status *st)
{
    if (l->count == l->room) {
        int room = l->room ? 2 * l->room : 32;
        prompt_line *more = room > MOST_LINES ? NULL : mem_resize(l->line, (size_t)room, sizeof *more, "prompt file", st);
        if (!more)
            return status_set(st, STATUS_USAGE, "more than %d lines", MOST_LINES);
        l->line = more;
        l->room = room;
    }
    prompt_line *line = &l->line[l->count++];
    *line = (prompt_line){.number = number, .o = *o};
    line->text = mem_string(text, st);
    line->output = numbered(o->output, *picture, st);
    line->trace = numbered(o->trace, *picture, st);
    line->save_latents = numbered(o->save_latents, *picture, st);
    line->o.output = line->output;
    line->o.trace = line->trace;
    line->o.save_latents = line->save_latents;
    if (!status_ok(st) || !apply_line(line, l->file, st))
        return false;
    *picture += line->o.output == line->output ? line->o.batch_count : 0;
    return line->o.prompt || line->o.embeddings || line->o.tokens || status_set(st, STATUS_USAGE, "a prompt is missing");
}

static bool read_lines(prompt_lines *l, const options *o, FILE *f, char *text, status *st)
{
    int number = 0, picture = 0;
    while (fgets(text, LONGEST_LINE, f)) {
        char *begin = text + (number == 0 && strncmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0);   /* a byte order mark */
        size_t n = strlen(text);
        prompt_line here = {.number = ++number};
        if (n == LONGEST_LINE - 1 && text[n - 1] != '\n')
            status_set(st, STATUS_BAD_FILE, "longer than %d bytes", LONGEST_LINE - 2);
        else if (n == 0 || (text[n - 1] != '\n' && !feof(f)))
            status_set(st, STATUS_BAD_FILE, "holds a byte of value 0: this is no text");
        begin[strcspn(begin, "\r\n")] = 0;
        if (status_ok(st) && *begin && *begin != '#')
            add_line(l, o, begin, number, &picture, st);
        if (!status_ok(st)) {
            prompts_name_line(l, &here, st);
            return false;
        }
    }
    if (ferror(f))
        return status_set(st, STATUS_BAD_FILE, "%s: %s", l->file, strerror(errno));
    return l->count || status_set(st, STATUS_BAD_FILE, "%s: holds no prompt", l->file);
}

/* Names that lines chose themselves may clash. */
static int by_output(const void *a, const void *b)
{
    const prompt_line *const *x = a, *const *y = b;
    int c = strcmp((*x)->o.output, (*y)->o.output);
    return c ? c : (*x)->number - (*y)->number;
}

static bool distinct_outputs(const prompt_lines *l, status *st)
{
    prompt_line **sorted = mem_alloc((size_t)l->count, sizeof *sorted, "prompt file", st);
    if (!sorted)
        return false;
    for (int i = 0; i < l->count; i++)
        sorted[i] = &l->line[i];
    qsort(sorted, (size_t)l->count, sizeof *sorted, by_output);
    for (int i = 1; i < l->count && status_ok(st); i++)
        if (strcmp(sorted[i - 1]->o.output, sorted[i]->o.output) == 0) {
            status_set(st, STATUS_USAGE, "%s: is the output of line %d as well", sorted[i]->o.output, sorted[i - 1]->number);
            prompts_name_line(l, sorted[i], st);
        }
    mem_free(sorted);
    return status_ok(st);
}

bool prompts_read(prompt_lines *l, const options *o, status *st)
{
    *l = (prompt_lines){.file = o->prompt_file};
    FILE *f = fopen(strcmp(o->prompt_file, "-") == 0 ? "/dev/stdin" : o->prompt_file, "re");
    if (!f)
        return status_set(st, STATUS_BAD_FILE, "%s: %s", o->prompt_file, strerror(errno));
    char *text = mem_alloc(LONGEST_LINE, 1, "prompt file", st);
    bool ok = text && read_lines(l, o, f, text, st) && distinct_outputs(l, st);
    mem_free(text);
    fclose(f);
    return ok;
}

void prompts_free(prompt_lines *l)
{
    for (int i = 0; i < l->count; i++) {
        json_object_put(l->line[i].held);
        mem_free(l->line[i].text);
        mem_free(l->line[i].output);
        mem_free(l->line[i].trace);
        mem_free(l->line[i].save_latents);
    }
    mem_free(l->line);
    *l = (prompt_lines){0};
}
