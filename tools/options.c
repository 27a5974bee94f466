#include "tools/options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/mem.h"
#include "tools/command.h"
#include "tools/sizes.h"

/* TEXT may be empty, a NAME (of a file, a method, ...) not. */
typedef enum option_kind { FLAG, TEXT, NAME, CHOICE, COUNT, REAL, SEED, SIZE, LIST, LATER } option_kind;

typedef struct option_row {
    const char *name;        /* "steps" */
    char letter;             /* 0: none */
    option_kind kind;
    unsigned commands;
    size_t place;            /* in options */
    double low, high;        /* COUNT, REAL */
    const char *value;       /* "N"; CHOICE: "auto|f32" */
    const char *about;
} option_row;

#define AT(field) offsetof(options, field)
enum { LARGEST_SIDE = 16384 };

/* In the order of the help. An option that means something else to another command has a row for each. The rows of kind LATER have their names so that
 * nobody takes them for something else. */
static const option_row table[] = {
    {"model", 'm', NAME, RUNS | VERIFY | BENCH, AT(model), 0, 0, "MODEL",
     "a .penstock container, a diffusers folder, a checkpoint or a GGUF (default: the small model)"},
    {"model", 'm', NAME, INSPECT | PLAN, AT(model), 0, 0, "MODEL",
     "a container, folder, checkpoint or GGUF, or the name of a system whose dimensions ship, such as sd15 (default: the small model)"},
    {"prompt", 'p', TEXT, GENERATE | ENCODE | PLAN, AT(prompt), 0, 0, "TEXT", "what the picture shows; CLIP takes weights: (word:1.3) [word] BREAK"},
    {"negative-prompt", 'n', TEXT, GENERATE | ENCODE | PLAN, AT(negative_prompt), 0, 0, "TEXT", "what it shall not show"},
    {"prompt-file", 0, NAME, GENERATE | ENCODE, AT(prompt_file), 0, 0, "FILE", "a prompt a line, or a JSON object of options a line; # begins a comment; - is standard input"},
    {"output", 'o', NAME, GENERATE | DECODE, AT(output), 0, 0, "FILE", "the picture, a PNG (default: output.png)"},
    {"output", 'o', NAME, ENCODE, AT(output), 0, 0, "FILE", "the embeddings, a safetensors file"},
    {"output", 'o', NAME, QUANTIZE, AT(output), 0, 0, "FILE", "the container"},
    {"input", 'i', NAME, DECODE, AT(input), 0, 0, "FILE", "latents or tokens, a safetensors file"},
    {"calibrate", 0, NAME, QUANTIZE, AT(calibrate), 0, 0, "FILE",
     "run its prompts, one a line, and choose codes by what passes through the layers; width to seed are of these runs"},
    {"width", 'W', COUNT, GENERATE | DECODE | PLAN | QUANTIZE, AT(width), 1, LARGEST_SIDE, "N", "pixels (default: the model's)"},
    {"height", 'H', COUNT, GENERATE | DECODE | PLAN | QUANTIZE, AT(height), 1, LARGEST_SIDE, "N", "pixels (default: the model's)"},
    {"steps", 0, COUNT, GENERATE | PLAN | QUANTIZE, AT(steps), 1, 10000, "N", "denoising steps (default: the model's)"},
    {"cfg-scale", 0, REAL, GENERATE | PLAN | QUANTIZE, AT(guidance_scale), -1000, 1000, "X", "guidance scale (default: the model's)"},
    {"sampling-method", 0, NAME, GENERATE | PLAN, AT(sampling_method), 0, 0, "NAME",
     "ddim ddpm pndm lms euler euler_a heun dpm++2m dpm++2m_sde dpm++2s unipc lcm tcd flash (default: the model's)"},
    {"scheduler", 0, NAME, GENERATE | PLAN, AT(scheduler), 0, 0, "NAME", "sigma schedule: karras, exponential, simple, ... (default: the model's)"},
    {"seed", 's', SEED, GENERATE | QUANTIZE, AT(seed), 0, 0, "N", "as torch's (default 42; -1: random, printed)"},
    {"batch-count", 'b', COUNT, GENERATE | ENCODE | PLAN, AT(batch_count), 1, 4096, "N", "pictures: out.png, out_2.png, ..."},
    {"max-sequence-length", 0, COUNT, GENERATE | ENCODE | PLAN, AT(max_sequence_length), 1, 65536, "N",
     "tokens of the prompt (default: the model's)"},
    {"tokens", 0, COUNT, GENERATE | ENCODE | PLAN, AT(tokens), 1, 65536, "N", "that many arbitrary token ids instead of a prompt"},
    {"type", 0, CHOICE, QUANTIZE, AT(type), 0, 0, "q4|q5|q8|f16|bf16|f32", "what weights become (default q4)"},
    {"type", 0, CHOICE, GENERATE | ENCODE, AT(type), 0, 0, "q4|q5|q8|f16|bf16|f32", "a folder is quantized to that, once, into the cache"},
    {"type", 0, CHOICE, PLAN, AT(type), 0, 0, "q4|q5|q8|f16|bf16|f32", "as if weights were that"},
    {"tensor-type", 0, LIST, QUANTIZE, AT(tensor_type), 0, 0, "GLOB=TYPE", "another type for some tensors; repeatable"},
    {"component", 0, LIST, QUANTIZE, AT(component), 0, 0, "NAME=FILE", "take a part from elsewhere; repeatable"},
    {"random", 0, SEED, QUANTIZE, AT(random_seed), 0, 0, "SEED", "random weights, for configs that have none"},
    {"tensors", 0, FLAG, INSPECT, AT(list_tensors), 0, 0, NULL, "list every tensor"},
    {"memory-budget", 0, SIZE, RUNS | QUANTIZE | PLAN, AT(budget_bytes), 0, 0, "SIZE",
     "hard ceiling on memory: 256M, 1.5G, 60%, =-1G (of what is available)"},
    {"scratch", 0, NAME, GENERATE | DECODE | PLAN | QUANTIZE, AT(scratch), 0, 0, "DIR", "for maps that do not fit (default: the XDG cache)"},
    {"threads", 't', COUNT, RUNS | QUANTIZE | PLAN | BENCH, AT(threads), 1, 1024, "N", "default: all cores"},
    {"seconds", 0, REAL, BENCH, AT(seconds), 0.0001, 60, "X", "measure each row that long (default 0.2)"},
    {"cpu", 0, NAME, RUNS | PLAN | BENCH, AT(kernels), 0, 0, "NAME", "scalar avx2 avxvnni avx512 avx512bf16 neon dotprod i8mm (default: the best)"},
    {"precision", 0, CHOICE, RUNS | PLAN, AT(precision), 0, 0, "auto|f32", "f32: every operation in 32-bit float"},
    {"trace", 0, NAME, GENERATE, AT(trace), 0, 0, "FILE", "store text embeddings, latents and image as safetensors"},
    {"save-latents", 0, NAME, GENERATE, AT(save_latents), 0, 0, "FILE", "store the last latents, for decode"},
    {"embeddings", 0, NAME, GENERATE, AT(embeddings), 0, 0, "FILE", "of encode -o, in place of the text encoders"},
    {"no-cache", 0, FLAG, GENERATE, AT(no_cache), 0, 0, NULL, "neither take prompts' embeddings from the cache nor keep them there"},
    {"no-cache", 0, FLAG, PLAN, AT(no_cache), 0, 0, NULL, "measure this machine anew"},
    {"load-latents", 0, NAME, GENERATE, AT(load_latents), 0, 0, "FILE", "go on from latents: of --save-latents, a trace, or noise"},
    {"checkpoint", 0, NAME, GENERATE, AT(checkpoint), 0, 0, "FILE", "keep the state of each step; go on from it where it is there"},
    {"init-img", 'i', NAME, GENERATE, AT(init_img), 0, 0, "FILE", "a PNG picture to begin with"},
    {"strength", 0, REAL, GENERATE, AT(strength), 0, 1, "X", "how far from it, 0 to 1 (default: the pipeline's)"},
    {"mask", 0, NAME, GENERATE, AT(mask), 0, 0, "FILE", "a PNG picture: what is white is painted anew"},
    {"clip-skip", 0, COUNT, GENERATE | ENCODE, AT(clip_skip), 1, 100, "N", "CLIP's layer to take: 1 the last, 2 the last but one"},
    {"guidance-rescale", 0, REAL, GENERATE, AT(guidance_rescale), 0, 1, "X", "against overexposure by guidance (default 0)"},
    {"null-embedding", 0, FLAG, GENERATE, AT(null_embedding), 0, 0, NULL, "guide away from the learned null embedding that the model holds (Kandinsky 3)"},
    {"temperature", 0, REAL, GENERATE, AT(temperature), 0, 1000, "X",
     "token models: tokens are drawn, the noise on which of them stay falls from X to 0 (default 2, openMUSE 1); 0: always the likeliest, no noise"},
    {"preview", 0, COUNT, GENERATE, AT(preview), 1, 10000, "N", "every N steps a small picture, out_step_N.png"},
    {"taesd", 0, NAME, GENERATE, AT(taesd), 0, 0, "MODEL", "an AutoencoderTiny that decodes, and makes the previews (Stable Diffusion)"},
    {"taesd-preview-only", 0, FLAG, GENERATE, AT(taesd_preview_only), 0, 0, NULL, "it makes the previews alone"},
    {"refiner", 0, NAME, GENERATE, AT(refiner), 0, 0, "MODEL", "a second model for the last part of the denoising (SDXL)"},
    {"refiner-start", 0, REAL, GENERATE, AT(refiner_start), 0, 1, "X", "where it takes over (default 0.8)"},
    {"cascade", 0, LIST, GENERATE | PLAN, AT(cascade), 0, 0, "MODEL", "a further stage, which enlarges the picture (DeepFloyd IF II, x4 upscaler); repeatable"},
    {"json", 0, FLAG, ANY & ~COMPLETION, AT(json), 0, 0, NULL, "a report for machines on stdout"},
    {"quiet", 'q', FLAG, RUNS | QUANTIZE | VERIFY | BENCH, AT(quiet), 0, 0, NULL, "say nothing but errors"},
    {"verbose", 'v', FLAG, RUNS | QUANTIZE | PLAN, AT(verbose), 0, 0, NULL, "say more"},
    {"help", 'h', FLAG, ANY, AT(help), 0, 0, NULL, "this"},
};
enum { ROWS = sizeof table / sizeof *table };

/* ---- suggestions ---- */

/* Edits (insert, delete, replace, swap neighbours) between two words; long words are never near. */
static int distance(const char *a, const char *b)
{
    enum { LONGEST = 40 };
    int d[LONGEST + 1][LONGEST + 1];
    size_t n = strlen(a), m = strlen(b);
    if (n > LONGEST || m > LONGEST)
        return LONGEST;
    for (size_t i = 0; i <= n; i++) {
        for (size_t j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = (int)(i + j);
                continue;
            }
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            best = d[i - 1][j] + 1 < best ? d[i - 1][j] + 1 : best;
            best = d[i][j - 1] + 1 < best ? d[i][j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[n][m];
}

const char *nearest(const char *typed, const char *const *names)
{
    const char *found = NULL;
    size_t length = strlen(typed);
    int least = length < 4 ? 2 : length < 8 ? 3 : 4;   /* fewer edits than this are near */
    for (; *names; names++) {
        int d = length >= 3 && strncmp(*names, typed, length) == 0 ? 1 : distance(typed, *names);
        if (d < least) {
            least = d;
            found = *names;
        }
    }
    return found;
}

char *names_in_line(const char *const *names, char *out, size_t room)
{
    size_t n = 0;
    for (*out = 0; *names && n < room; names++)
        n += (size_t)snprintf(out + n, room - n, "%s%s", n ? " " : "", *names);
    return out;
}

const char *named_elsewhere(const char *word)
{
    static const char *const names[][2] = {
        {"guidance-scale", "cfg-scale"}, {"guidance", "cfg-scale"}, {"num-inference-steps", "steps"}, {"sampler", "sampling-method"},
        {"schedule", "scheduler"}, {"num-images-per-prompt", "batch-count"}, {"batch-size", "batch-count"}, {"uncond", "negative-prompt"}, {"image", "init-img"},
        {"mask-image", "mask"}, {"wtype", "type"}, {"dtype", "precision"}, {"diffusion-model", "model"}, {"n-threads", "threads"},
        {"num-threads", "threads"}, {"ram", "memory-budget"}, {"max-memory", "memory-budget"}, {"latents", "load-latents"}, {"prompt-embeds", "embeddings"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i][0], word) == 0)
            return names[i][1];
    return NULL;
}

static bool is_option(const options *o, const char *name)
{
    for (int i = 0; name && i < ROWS; i++)
        if (table[i].commands & o->command->bit && strcmp(table[i].name, name) == 0)
            return true;
    return false;
}

/* An option of other commands alone. */
static bool misplaced(const options *o, const char *typed, const char *name, status *st)
{
    unsigned bits = 0;
    char list[128] = "";
    size_t n = 0;
    for (int i = 0; i < ROWS; i++)
        if (strcmp(table[i].name, name) == 0)
            bits |= table[i].commands;
    for (const command *c = commands; c->name && n < sizeof list; c++)
        if (bits & c->bit)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", c->name);
    return bits && !status_set(st, STATUS_USAGE, "%s: not an option of %s, but of %s", typed, o->command->name, list);
}

static bool unknown(const options *o, const char *typed, status *st)
{
    const char *names[ROWS + 1];
    int n = 0;
    for (int i = 0; i < ROWS; i++)
        if (table[i].commands & o->command->bit && table[i].kind != LATER)
            names[n++] = table[i].name;
    names[n] = NULL;
    size_t dashes = strspn(typed, "-");
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)strcspn(typed + dashes, "="), typed + dashes);
    for (char *c = word; *c; c++)
        *c = *c == '_' ? '-' : *c;
    if (dashes == 2 && misplaced(o, typed, word, st))
        return false;
    const char *elsewhere = named_elsewhere(word), *near = dashes == 1 ? NULL : is_option(o, elsewhere) ? elsewhere : nearest(word, names);
    if (near)
        return status_set(st, STATUS_USAGE, "%s: no such option of %s; did you mean --%s?", typed, o->command->name, near);
    return status_set(st, STATUS_USAGE, "%s: no such option of %s; see penstock %s --help", typed, o->command->name,
                      o->command->name);
}

/* ---- values ---- */

static bool set_count(const option_row *row, const char *text, int *out, status *st)
{
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (end == text || *end || errno || (double)n < row->low || (double)n > row->high)
        return status_set(st, STATUS_USAGE, "--%s: must be a whole number from %.0f to %.0f, is '%s'", row->name, row->low,
                          row->high, text);
    *out = (int)n;
    return true;
}

static bool set_real(const option_row *row, const char *text, double *out, status *st)
{
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || !(x >= row->low && x <= row->high))
        return status_set(st, STATUS_USAGE, "--%s: must be a number from %g to %g, is '%s'", row->name, row->low, row->high, text);
    *out = x;
    return true;
}

static bool set_seed(const option_row *row, const char *text, uint64_t *out, status *st)
{
    char *end;
    errno = 0;
    bool random = strcmp(text, "-1") == 0, negative = *text == '-';
    uint64_t n = random ? 0 : strtoull(text, &end, 10); /* -5 is 2^64 - 5, as torch takes it */
    if (!random && (end == text || *end || errno || !isdigit((unsigned char)text[negative]) || (negative && n < UINT64_C(1) << 63)))
        return status_set(st, STATUS_USAGE, "--%s: must be a whole number of 64 bits, or -1 for a random one, is '%s'", row->name, text);
    if (random) {
        uint32_t word = 0;   /* 32 bits: all that torch's generator uses, and short enough to type again */
        if (getrandom(&word, sizeof word, 0) != (ssize_t)sizeof word)
            return status_set(st, STATUS_FAILED, "--%s: no random number: %s", row->name, strerror(errno));
        n = word;
    }
    *out = n;
    return true;
}

static bool set_choice(const option_row *row, const char *text, const char **out, status *st)
{
    size_t n = strlen(text);
    for (const char *c = row->value; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL)
        if (strcspn(c, "|") == n && strncmp(c, text, n) == 0) {
            *out = text;
            return true;
        }
    return status_set(st, STATUS_USAGE, "--%s: must be one of %s, is '%s'", row->name, row->value, text);
}

static bool set_value(options *o, const option_row *row, const char *text, status *st)
{
    void *place = (char *)o + row->place;
    if (row->place == AT(seed))
        o->seed_given = true;
    if (row->place == AT(random_seed))
        o->random_weights = true;
    switch (row->kind) {
    case FLAG:
        *(bool *)place = true;
        return true;
    case NAME:
        if (!*text)
            return status_set(st, STATUS_USAGE, "--%s: must not be empty", row->name);
        /* fall through */
    case TEXT:
        *(const char **)place = text;
        return true;
    case LIST: {
        text_list *list = place;
        if (strchr(row->value, '=') && !strchr(text, '='))
            return status_set(st, STATUS_USAGE, "--%s: must be %s, is '%s'", row->name, row->value, text);
        list->item[list->count++] = text;
        return true;
    }
    case CHOICE:
        return set_choice(row, text, place, st);
    case COUNT:
        return set_count(row, text, place, st);
    case REAL:
        return set_real(row, text, place, st);
    case SEED:
        return set_seed(row, text, place, st);
    case SIZE:
        return parse_size(row->name, text, place, st);
    case LATER:
        break;
    }
    return status_set(st, STATUS_USAGE, "--%s: this version cannot do that yet", row->name);
}

/* ---- parsing ---- */

static const option_row *row_named(const options *o, const char *name, size_t length)
{
    for (int i = 0; i < ROWS; i++)
        if (table[i].commands & o->command->bit && strlen(table[i].name) == length && strncmp(table[i].name, name, length) == 0)
            return &table[i];
    return NULL;
}

static const option_row *row_lettered(const options *o, char letter)
{
    for (int i = 0; i < ROWS; i++)
        if (table[i].commands & o->command->bit && table[i].letter == letter && letter)
            return &table[i];
    return NULL;
}

static bool takes_value(const option_row *row) { return row->value != NULL; }

bool options_set(options *o, const char *name, const char *value, status *st)
{
    char dashed[64];
    snprintf(dashed, sizeof dashed, "%s", name);
    for (char *c = dashed; *c; c++)
        *c = *c == '_' ? '-' : *c;
    const option_row *row = row_named(o, dashed, strlen(dashed));
    return row ? set_value(o, row, value, st) : unknown(o, name, st);
}

/* argv[*i] is `--name`, `--name=value`. */
static bool parse_long(options *o, int argc, char **argv, int *i, status *st)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    const option_row *row = row_named(o, name, equals ? (size_t)(equals - name) : strlen(name));
    if (!row)
        return unknown(o, argv[*i], st);
    if (!takes_value(row))
        return equals ? status_set(st, STATUS_USAGE, "--%s: takes no value", row->name) : set_value(o, row, NULL, st);
    if (!equals && *i + 1 >= argc)
        return status_set(st, STATUS_USAGE, "--%s: its value is missing (%s)", row->name, row->value);
    return set_value(o, row, equals ? equals + 1 : argv[++*i], st);
}

/* argv[*i] is `-o value`, `-ovalue` or `-qv`. */
static bool parse_letters(options *o, int argc, char **argv, int *i, status *st)
{
    for (const char *c = argv[*i] + 1; *c; c++) {
        const option_row *row = row_lettered(o, *c);
        if (!row)
            return unknown(o, argv[*i], st);
        if (!takes_value(row)) {
            if (!set_value(o, row, NULL, st))
                return false;
            continue;
        }
        if (!c[1] && *i + 1 >= argc)
            return status_set(st, STATUS_USAGE, "-%c: its value is missing (--%s %s)", *c, row->name, row->value);
        return set_value(o, row, c[1] ? c + 1 : argv[++*i], st);
    }
    return true;
}

bool options_parse(options *o, const command *c, int argc, char **argv, status *st)
{
    *o = (options){.command = c, .batch_count = 1, .guidance_scale = NAN, .seconds = 0.2, .strength = NAN, .temperature = NAN, .refiner_start = NAN, .seed = 42, .type = c->bit == QUANTIZE ? "q4" : NULL, .precision = "auto"};
    size_t room = (size_t)argc;
    o->memory = mem_alloc(4 * room, sizeof *o->memory, "options", st);
    if (!o->memory)
        return false;
    o->argument.item = o->memory;
    o->tensor_type.item = o->memory + room;
    o->component.item = o->memory + 2 * room;
    o->cascade.item = o->memory + 3 * room;
    bool options_end = false;
    for (int i = 1; i < argc && status_ok(st); i++) {
        const char *a = argv[i];
        if (!*a)
            status_set(st, STATUS_USAGE, "%s: an empty word says nothing", c->name);
        else if (options_end || a[0] != '-' || !a[1])
            o->argument.item[o->argument.count++] = a;
        else if (strcmp(a, "--") == 0)
            options_end = true;
        else if (a[1] == '-')
            parse_long(o, argc, argv, &i, st);
        else
            parse_letters(o, argc, argv, &i, st);
        if (o->help)
            return true;
    }
    if (!status_ok(st))
        return false;
    int given = o->argument.count + (o->model && c->most > 0 ? 1 : 0);
    if (given < c->least)
        return status_set(st, STATUS_USAGE, "%s: %s is missing", c->name, c->arguments);
    if (given > c->most)
        return status_set(st, STATUS_USAGE, "%s: what is '%s' for?%s", c->name, o->argument.item[o->argument.count - 1],
                          c->bit & (GENERATE | ENCODE) ? " (a prompt goes behind -p, in quotes)" : "");
    return true;
}

void options_free(options *o)
{
    mem_free(o->memory);
    o->memory = NULL;
}

/* ---- help ---- */

/* `text` in lines of 80 columns, those behind the first below it. */
static void print_folded(const char *text)
{
    enum { INDENT = 33, COLUMNS = 80 };
    for (int room = COLUMNS - INDENT; *text;) {
        size_t n = strlen(text);
        if (n > (size_t)room)
            for (n = (size_t)room; n > 0 && text[n] != ' ';)
                n--;
        if (n == 0)
            n = strlen(text);
        printf("%.*s\n", (int)n, text);
        text += n + (text[n] == ' ');
        if (*text)
            printf("%*s", INDENT, "");
    }
}

void options_help(const command *c)
{
    printf("usage: penstock %s%s%s [options]\n%s\n\n", c->name, *c->arguments ? " " : "", c->arguments, c->about);
    for (int i = 0; i < ROWS; i++) {
        const option_row *r = &table[i];
        if (!(r->commands & c->bit) || r->kind == LATER)
            continue;
        char left[64], letter[8] = "   ";
        if (r->letter)
            snprintf(letter, sizeof letter, "-%c,", r->letter);
        snprintf(left, sizeof left, "%s --%s%s%s", letter, r->name, r->value ? " " : "", r->value ? r->value : "");
        printf("  %-30s%s ", left, strlen(left) > 30 ? "\n                                " : "");
        print_folded(r->about);
    }
}

void options_completion(void)
{
    printf("# bash completion of penstock: source <(penstock completion)\n_penstock() {\n"
           "  local word=${COMP_WORDS[COMP_CWORD]} options=\n  case ${COMP_WORDS[1]} in\n");
    for (const command *c = commands; c->name; c++) {
        printf("    %s) options='", c->name);
        for (int i = 0; i < ROWS; i++)
            if (table[i].commands & c->bit && table[i].kind != LATER)
                printf(" --%s", table[i].name);
        printf("' ;;\n");
    }
    printf("  esac\n  if [ \"$COMP_CWORD\" = 1 ]; then COMPREPLY=($(compgen -W '");
    for (const command *c = commands; c->name; c++)
        printf(" %s", c->name);
    printf("' -- \"$word\"))\n  elif [[ $word == -* ]]; then COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
           "  else COMPREPLY=($(compgen -f -- \"$word\")); fi\n}\ncomplete -o filenames -F _penstock penstock\n");
}
