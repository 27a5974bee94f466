#include "tools/prompts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { LONGEST_LINE = 1 << 16 };

/* The strings of a line must live as long as its options: they stay in the JSON object. */
static bool apply_json(options *o, json_object *line, status *st)
{
    static const char *const allowed[] = {"prompt", "negative_prompt", "output", "width", "height", "steps", "cfg_scale", "seed",
                                          "sampling_method", "scheduler", "batch_count", "max_sequence_length", "trace",
                                          "save_latents", NULL};
    json_object_object_foreach(line, key, value)
    {
        const char *const *name = allowed;
        while (*name && strcmp(*name, key) != 0)
            name++;
        if (!*name) {
            const char *near = nearest(key, allowed);
            return status_set(st, STATUS_USAGE, "no option '%s' in a prompt file%s%s%s", key, near ? "; did you mean " : "",
                              near ? near : "", near ? "?" : "");
        }
        if (!options_set(o, key, json_object_get_string(value), st))
            return false;
    }
    return true;
}

/* o is the command line's, changed here to this line's. *held keeps the line's strings; json_object_put it afterwards. */
static bool apply_line(options *o, char *line, json_object **held, status *st)
{
    *held = NULL;
    if (*line != '{') {
        o->prompt = line;
        return true;
    }
    enum json_tokener_error why;
    *held = json_tokener_parse_verbose(line, &why);
    if (!*held)
        return status_set(st, STATUS_BAD_FILE, "%s", json_tokener_error_desc(why));
    return apply_json(o, *held, st);
}

static void name_line(const char *file, int number, status *st)
{
    status why = *st;
    *st = (status)STATUS_INIT;
    status_set(st, why.code, "%s: line %d: %.400s", file, number, why.text);
    st->least_bytes = why.least_bytes;
}

bool prompts_each(const options *o, const source *src, bool (*run)(const options *o, const source *src, status *st), status *st)
{
    FILE *f = fopen(o->prompt_file, "re");
    if (!f)
        return status_set(st, STATUS_BAD_FILE, "%s: %s", o->prompt_file, strerror(errno));
    char *line = mem_alloc(LONGEST_LINE, 1, "prompt file", st);
    int number = 0, picture = 0;
    while (line && status_ok(st) && fgets(line, LONGEST_LINE, f)) {
        number++;
        size_t n = strlen(line);
        if (n == LONGEST_LINE - 1 && line[n - 1] != '\n')
            status_set(st, STATUS_BAD_FILE, "longer than %d bytes", LONGEST_LINE - 2);
        line[strcspn(line, "\r\n")] = 0;
        if (!*line || *line == '#')
            continue;
        options mine = *o;
        json_object *held = NULL;
        char *name = picture_name(o->output ? o->output : "output.png", picture, st);
        mine.output = name;
        if (status_ok(st) && apply_line(&mine, line, &held, st))
            run(&mine, src, st);
        picture += mine.output == name ? mine.batch_count : 0;
        if (!status_ok(st))
            name_line(o->prompt_file, number, st);
        json_object_put(held);
        mem_free(name);
    }
    mem_free(line);
    fclose(f);
    return status_ok(st);
}
