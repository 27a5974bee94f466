/* A diffusers folder: model_index.json names the components, each a subfolder with config.json and weights. Or one component's
 * folder alone, which transformers calls a model too. Which weight file is taken follows the two libraries. A cascade is the folder of its first model, in
 * which "stage2" (and "stage3", ...) is the whole folder of the next. */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "import/draft.h"
#include "import/json.h"

enum { NAME_BYTES = 512, MOST_INDEX = 64 << 20, MOST_COMPONENTS = 64 };

typedef struct folder {
    draft d;
    const char *path;
    status *st;
} folder;

/* ---- names ---- */

/* What a file says is a name inside the folder, and nothing else. */
static bool plain_name(const char *name)
{
    return *name && *name != '.' && !strchr(name, '/') && !strstr(name, "..") && strlen(name) < NAME_BYTES / 2;
}

/* "text_encoder/model.safetensors", or "model.safetensors" of a bare folder. */
static void label_of(const char *component, const char *file, char out[NAME_BYTES])
{
    snprintf(out, NAME_BYTES, "%s%s%s", component, *component ? "/" : "", file);
}

static bool stat_in(folder *f, const char *label, struct stat *s)
{
    char *path = mem_format(f->st, "%s/%s", f->path, label);
    bool there = path && stat(path, s) == 0;
    mem_free(path);
    return there;
}

static bool is_file(folder *f, const char *component, const char *file)
{
    char label[NAME_BYTES];
    struct stat s;
    label_of(component, file, label);
    return stat_in(f, label, &s) && S_ISREG(s.st_mode);
}

static io *open_in(folder *f, const char *label)
{
    char *path = mem_format(f->st, "%s/%s", f->path, label);
    io *file = path ? io_open(path, f->st) : NULL;
    mem_free(path);
    return file;
}

/* ---- small files ---- */

const char *const small_files[] = {
    "config.json",         "scheduler_config.json",   "spiece.model",           "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",   "vocab.json",             "merges.txt",     "preprocessor_config.json",
    "generation_config.json",  "vocab.txt", NULL,
};

static void list_small_files(folder *f, const char *component)
{
    for (size_t i = 0; small_files[i]; i++) {
        char label[NAME_BYTES];
        struct stat s;
        label_of(component, small_files[i], label);
        if (stat_in(f, label, &s) && S_ISREG(s.st_mode))
            draft_blob_add(&f->d, label, (uint64_t)s.st_size);
    }
}

static json *read_json(folder *f, const char *label)
{
    json *j = NULL;
    char *text = NULL;
    io *file = open_in(f, label);
    if (file && io_size(file) > MOST_INDEX)
        status_set(f->st, STATUS_BAD_FILE, "%s: has %" PRIu64 " bytes, at most %d are read", io_name(file), io_size(file), MOST_INDEX);
    else if (file)
        text = mem_alloc((size_t)io_size(file) + 1, 1, label, f->st);
    if (text && io_read(file, 0, text, (size_t)io_size(file), f->st))
        j = json_parse(text, (size_t)io_size(file), io_name(file), f->st);
    if (j && !json_object_is_type(j, json_type_object)) {
        status_set(f->st, STATUS_BAD_FILE, "%s: is not a JSON object", io_name(file));
        json_free(j);
        j = NULL;
    }
    mem_free(text);
    io_close(file);
    return j;
}

/* ---- weight files ---- */

typedef struct choice {
    char file[NAME_BYTES / 2]; /* in the component's folder */
    bool index;                /* it names shards */
} choice;

static bool try_file(folder *f, const char *component, choice *c)
{
    c->index = strstr(c->file, ".index.") != NULL;
    return is_file(f, component, c->file);
}

/* diffusers looks for shards first, transformers for one file; a variant's index has had two spellings. */
static bool choose_variant(folder *f, const char *component, const char *const base[2], const char *ending, const char *variant, choice *c)
{
    for (int i = 0; i < 2; i++)
        for (int step = 0; step < 3; step++) {
            int which = i == 1 ? (step + 2) % 3 : step;
            if (which == 0)
                snprintf(c->file, sizeof c->file, "%s.%s.index%s.json", base[i], ending, variant);
            else if (which == 1)
                snprintf(c->file, sizeof c->file, "%s.%s%s.index.json", base[i], ending, variant);
            else
                snprintf(c->file, sizeof c->file, "%s%s.%s", base[i], variant, ending);
            if (try_file(f, component, c))
                return true;
        }
    return false;
}

/* Any safetensors before any pickle. */
static bool choose(folder *f, const char *component, choice *c)
{
    static const struct { const char *base[2], *ending; } kinds[] = {
        {{"diffusion_pytorch_model", "model"}, "safetensors"},
        {{"diffusion_pytorch_model", "pytorch_model"}, "bin"},
    };
    static const char *const variants[] = {"", ".fp16", ".bf16", ".non_ema"};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
            if (choose_variant(f, component, kinds[k].base, kinds[k].ending, variants[i], c))
                return true;
    return false;
}

/* ---- a folder without a weight file that we read: what is there instead? ---- */

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && strcmp(text + n - m, end) == 0;
}

static bool is_weights(const char *name)
{
    static const char *const ends[] = {".safetensors", ".bin", ".ckpt", ".pth", ".pt", ".gguf", ".msgpack", ".h5"};
    static const char *const others[] = {"training_args.bin", "scheduler.bin", "optimizer.bin"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(name, others[i]) == 0)
            return false;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_in(name, ends[i]))
            return true;
    return false;
}

/* No pipeline here uses them; that a download has them only as .bin is no reason to refuse the model. */
static bool never_used(const char *component)
{
    component = strrchr(component, '/') ? strrchr(component, '/') + 1 : component;
    return strcmp(component, "safety_checker") == 0 || strcmp(component, "watermarker") == 0 || strcmp(component, "feature_extractor") == 0;
}

/* Weights of another kind, or under a name nobody looks for, must not pass for a folder of configs. Of several the first by
 * name is told, so that the sentence is always the same. */
static bool no_other_weights(folder *f, const char *component)
{
    char found[NAME_BYTES / 2] = "";
    char *path = mem_format(f->st, "%s%s%s", f->path, *component ? "/" : "", component);
    DIR *dir = path ? opendir(path) : NULL;
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (*e->d_name != '.' && is_weights(e->d_name) && (!*found || strcmp(e->d_name, found) < 0))
            snprintf(found, sizeof found, "%s", e->d_name);
    if (dir)
        closedir(dir);
    bool ok = path && (!*found || never_used(component));
    if (path && !ok && (ends_in(found, ".msgpack") || ends_in(found, ".h5")))
        status_set(f->st, STATUS_BAD_FILE, "%s/%s: weights of this kind are not read; convert them to safetensors", path, found);
    else if (path && !ok)
        status_set(f->st, STATUS_BAD_FILE, "%s/%s: is under none of the names diffusers and transformers use (diffusion_pytorch_model.safetensors or .bin, "
                   "model.safetensors, pytorch_model.bin, or shards with their .index.json); is it the model by itself?", path, found);
    mem_free(path);
    return ok;
}

/* ---- reading the headers ---- */

/* The header of one file; of a shard only the tensors that `map` places in it, which are taken out of the map. */
static bool add_weights(folder *f, const char *component, const char *file, json *map)
{
    char label[NAME_BYTES];
    label_of(component, file, label);
    io *opened = open_in(f, label);
    tensor_table *s = opened ? table_read(opened, f->st) : NULL;
    if (!s) {
        io_close(opened);
        return false;
    }
    if (draft_file(&f->d, opened, label))
        draft_hash(&f->d, &s->hash, sizeof s->hash);
    for (int i = 0; i < s->tensors; i++) {
        json *shard;
        if (map) {
            if (!json_object_object_get_ex(map, s->tensor[i].name, &shard) || strcmp(json_object_get_string(shard), file) != 0)
                continue;
            json_object_object_del(map, s->tensor[i].name);
        }
        draft_weight_add(&f->d, &s->tensor[i]);
    }
    table_free(s);
    return status_ok(f->st);
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* Sorts, drops what is there twice, returns how many are left. */
static int sort_names(const char **name, int count)
{
    int kept = 0;
    if (count > 1)
        qsort(name, (size_t)count, sizeof *name, by_text);
    for (int i = 0; i < count; i++)
        if (kept == 0 || strcmp(name[kept - 1], name[i]) != 0)
            name[kept++] = name[i];
    return kept;
}

static bool check_map(folder *f, json *map, const char *label)
{
    json_object_object_foreach(map, tensor, shard) {
        if (!json_object_is_type(shard, json_type_string) || !plain_name(json_object_get_string(shard)))
            return status_set(f->st, STATUS_BAD_FILE, "%s/%s: tensor %s: %s is no name of a shard", f->path, label, tensor,
                              json_object_is_type(shard, json_type_string) ? json_object_get_string(shard) : "something other than a string");
    }
    return true;
}

/* The shards' names, copied, because the map loses its entries as they are found. One block; the caller frees it. */
static const char **shards_of(folder *f, json *map, int *count)
{
    int n = json_object_object_length(map), at = 0;
    const char **name = mem_alloc((size_t)n + 1, sizeof *name, "names of shards", f->st);
    *count = 0;
    if (!name)
        return NULL;
    json_object_object_foreach(map, tensor, shard) {
        (void)tensor;
        name[at++] = json_object_get_string(shard);
    }
    at = sort_names(name, at);
    size_t bytes = 0;
    for (int i = 0; i < at; i++)
        bytes += strlen(name[i]) + 1;
    const char **copy = mem_alloc(1, (size_t)at * sizeof *copy + bytes + 1, "names of shards", f->st);
    char *text = copy ? (char *)(copy + at) : NULL;
    for (int i = 0; copy && i < at; i++) {
        size_t size = strlen(name[i]) + 1;
        memcpy(text, name[i], size);
        copy[i] = text;
        text += size;
    }
    mem_free(name);
    *count = copy ? at : 0;
    return copy;
}

static bool add_shards(folder *f, const char *component, json *map, const char *label)
{
    int count;
    const char **shard = check_map(f, map, label) ? shards_of(f, map, &count) : NULL;
    bool ok = shard != NULL;
    for (int i = 0; ok && i < count; i++)
        ok = add_weights(f, component, shard[i], map);
    mem_free(shard);
    if (!ok)
        return false;
    json_object_object_foreach(map, tensor, where) /* what is left */
        return status_set(f->st, STATUS_BAD_FILE, "%s/%s: tensor %s: %s does not hold it", f->path, label, tensor, json_object_get_string(where));
    return true;
}

static bool add_sharded(folder *f, const char *component, const char *index)
{
    char label[NAME_BYTES];
    label_of(component, index, label);
    json *j = read_json(f, label), *map = NULL;
    if (!j)
        return false;
    bool ok = json_object_object_get_ex(j, "weight_map", &map) && json_object_is_type(map, json_type_object);
    if (ok)
        ok = add_shards(f, component, map, label);
    else
        status_set(f->st, STATUS_BAD_FILE, "%s/%s: has no weight_map", f->path, label);
    json_free(j);
    return ok;
}

/* ---- components ---- */

/* A folder without weights and without config.json is none (a scheduler, a tokenizer). */
static bool add_component(folder *f, const char *name)
{
    choice c;
    bool weights = choose(f, name, &c) && !(never_used(name) && ends_in(c.file, ".bin")), config = is_file(f, name, "config.json");
    if (!status_ok(f->st) || (!weights && !no_other_weights(f, name)))
        return false;
    if (!weights && !config)
        return true;
    draft_component(&f->d, name);
    if (!weights)
        return status_ok(f->st);
    return c.index ? add_sharded(f, name, c.file) : add_weights(f, name, c.file, NULL);
}

/* A part is "name": [library, class]; [null, null] is one that this model goes without, a plain value an option. */
static bool is_part(const json *value)
{
    return json_object_is_type(value, json_type_array) && json_object_array_length(value) == 2 &&
           json_object_is_type(json_object_array_get_idx(value, 0), json_type_string) &&
           json_object_is_type(json_object_array_get_idx(value, 1), json_type_string);
}

static bool is_folder(folder *f, const char *name)
{
    struct stat s;
    return stat_in(f, name, &s) && S_ISDIR(s.st_mode);
}

typedef struct parts {          /* the subfolders to look into */
    char *name[MOST_COMPONENTS];
    int count;
} parts;

static bool add_part(folder *f, parts *p, const char *stage, const char *name)
{
    if (!plain_name(name) || p->count == MOST_COMPONENTS)
        return status_set(f->st, STATUS_BAD_FILE, "%s%s%s/model_index.json: %s %s", f->path, *stage ? "/" : "", stage, name,
                          plain_name(name) ? "is one component too many" : "is no name of a component");
    p->name[p->count] = mem_format(f->st, "%s%s%s", stage, *stage ? "/" : "", name);
    return p->name[p->count] && p->count++ >= 0;
}

/* stage: "", or the folder of a cascade's stage. */
static bool list_parts(folder *f, parts *p, const char *stage)
{
    static const char *const usual[] = {"scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"};
    char label[NAME_BYTES];
    struct stat s;
    label_of(stage, "model_index.json", label);
    json *index = read_json(f, label);
    if (!index)
        return false;
    if (stat_in(f, label, &s))
        draft_blob_add(&f->d, label, (uint64_t)s.st_size);
    for (size_t i = 0; i < sizeof usual / sizeof *usual && status_ok(f->st); i++)
        add_part(f, p, stage, usual[i]);
    json_object_object_foreach(index, name, value) {
        if (is_part(value) && status_ok(f->st))
            add_part(f, p, stage, name);
    }
    json_free(index);
    return status_ok(f->st);
}

static bool read_index(folder *f)
{
    parts p = {.count = 0};
    list_parts(f, &p, "");
    for (int i = 2; i <= 9 && status_ok(f->st); i++) {
        char stage[16];
        snprintf(stage, sizeof stage, "stage%d", i);
        if (is_file(f, stage, "model_index.json"))
            list_parts(f, &p, stage);
    }
    const char *sorted[MOST_COMPONENTS];
    memcpy(sorted, p.name, sizeof sorted);
    int count = status_ok(f->st) ? sort_names(sorted, p.count) : 0;
    for (int i = 0; i < count && status_ok(f->st); i++)
        if (is_folder(f, sorted[i]) && add_component(f, sorted[i]))
            list_small_files(f, sorted[i]);
    for (int i = 0; i < p.count; i++)
        mem_free(p.name[i]);
    return status_ok(f->st);
}

static bool read_bare(folder *f)
{
    if (!is_file(f, "", "config.json"))
        return status_set(f->st, STATUS_BAD_FILE, "%s: is no model folder: has neither a model_index.json nor a config.json", f->path);
    if (!add_component(f, ""))
        return false;
    list_small_files(f, "");
    return status_ok(f->st);
}

source *source_open_folder(const char *path, status *st)
{
    folder f = {.d = {.st = st, .path = path}, .path = path, .st = st};
    if (is_file(&f, "", "model_index.json"))
        read_index(&f);
    else if (status_ok(st))
        read_bare(&f);
    return draft_finish(&f.d);
}
