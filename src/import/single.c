/* One file that is a whole model, or a part of one, by itself: safetensors, a torch checkpoint, GGUF.
 *
 * What it is is told by its tensors' names, which become those of diffusers (names.c). It brings no configs and no tokenizer: small files are
 * looked for in the folder beside it that has its name without the ending (tiny.ckpt: tiny/unet/config.json), then among the
 * dimensions that ship (share/configs). One part alone is a bare component. Diffusers' infer_diffusers_model_type has the same signs. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/paths.h"
#include "import/draft.h"
#include "import/names.h"

enum { MOST_PARTS = 8, MOST_PATH = 512 };

/* ---- what there is, by the names' beginnings ---- */

typedef struct place {
    const char *prefix, *component;
    const name_rules *rules;
} place;

static const place places[] = {
    {"model.diffusion_model.", "unet", &names_unet},
    {"first_stage_model.", "vae", &names_vae},
    {"vae.", "vae", &names_vae},
    {"cond_stage_model.transformer.", "text_encoder", &names_clip},
    {"cond_stage_model.model.", "text_encoder", &names_open_clip},
    {"conditioner.embedders.0.transformer.", "text_encoder", &names_clip},
    {"cond_stage_model.1.transformer.", "text_encoder_2", &names_clip}, /* stable-diffusion.cpp */
    {"conditioner.embedders.1.model.", "text_encoder_2", &names_open_clip},
    {"conditioner.embedders.0.model.", "text_encoder_2", &names_open_clip},
};
enum { PLACES = sizeof places / sizeof *places };

/* Which system: the first row that fits. With `columns` a cross attention of the UNet must read a text of that width. */
static const struct { const char *prefix; int64_t columns; const char *configs; } systems[] = {
    {"conditioner.embedders.1.model.", 0, "sdxl_base"},
    {"cond_stage_model.1.transformer.", 0, "sdxl_base"},
    {"conditioner.embedders.0.model.", 0, "sdxl_refiner"},
    {"cond_stage_model.model.", 0, "sd2"},
    {"model.diffusion_model.", 2048, "sdxl_base"},
    {"model.diffusion_model.", 1280, "sdxl_refiner"},
    {"model.diffusion_model.", 1024, "sd2"},
    {"model.diffusion_model.", 768, "sd15"},
    {"", 0, "sd15"},
};

/* A relative of a system, whose own configs come first: `key` is there, and of `size` in dimension `dim` (0: any). */
static const struct { const char *configs, *key; int dim; int64_t size; const char *own; } relatives[] = {
    {"sd15", "model.diffusion_model.time_embed.cond_proj.weight", 0, 0, "lcm_dreamshaper_v7"},
    {"sdxl_base", "model.diffusion_model.time_embed.cond_proj.weight", 0, 0, "lcm_sdxl"},
    {"sd15", "model.diffusion_model.input_blocks.0.0.weight", 1, 9, "sd15_inpainting"},
    {"sd2", "model.diffusion_model.input_blocks.0.0.weight", 1, 9, "sd2_inpainting"},
};

/* A part by itself, without prefix: it holds `key`, and dimension `dim` of `sized` is `size` (any where sized is NULL). */
static const struct { const char *key, *sized; int dim; int64_t size; const name_rules *rules; const char *configs; } alone[] = {
#define ATTENTION(block) "input_blocks." block ".1.transformer_blocks.0.attn2.to_k.weight"
    {"input_blocks.0.0.weight", ATTENTION("1"), 1, 768, &names_unet, "sd15/unet"},
    {"input_blocks.0.0.weight", ATTENTION("1"), 1, 1024, &names_unet, "sd2/unet"},
    {"input_blocks.0.0.weight", ATTENTION("4"), 1, 2048, &names_unet, "sdxl_base/unet"},
    {"input_blocks.0.0.weight", ATTENTION("4"), 1, 1280, &names_unet, "sdxl_refiner/unet"},
    {"input_blocks.0.0.weight", NULL, 0, 0, &names_unet, NULL},
    {"quantize.embed.weight", NULL, 0, 0, &names_vae, "taming_vqgan_gumbel_f8"},
    {"quantize.embedding.weight", "quantize.embedding.weight", 0, 1024, &names_vae, "taming_vqgan_f16_1024"},
    {"quantize.embedding.weight", "quantize.embedding.weight", 0, 16384, &names_vae, "taming_vqgan_f16_16384"},
    {"decoder.mid.block_1.conv1.weight", "decoder.conv_in.weight", 1, 16, &names_vae, "flux1_dev/vae"},
    {"decoder.mid.block_1.conv1.weight", "decoder.conv_in.weight", 1, 4, &names_vae, "sd15/vae"},
    {"decoder.mid.block_1.conv1.weight", NULL, 0, 0, &names_vae, NULL},
    {"text_model.embeddings.token_embedding.weight", "text_model.embeddings.token_embedding.weight", 1, 768, &names_clip, "sd15/text_encoder"},
    {"text_model.embeddings.token_embedding.weight", "text_model.embeddings.token_embedding.weight", 1, 1024, &names_clip, "sd2/text_encoder"},
    {"text_model.embeddings.token_embedding.weight", "text_model.embeddings.token_embedding.weight", 1, 1280, &names_clip, "sdxl_base/text_encoder_2"},
    {"enc.blk.0.attn_q.weight", "enc.blk.0.ffn_gate.weight", 0, 10240, &names_t5_gguf, "pixart_alpha_1024/text_encoder"},
    {"enc.blk.0.attn_q.weight", NULL, 0, 0, &names_t5_gguf, NULL},
    {"encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0, 10240, &names_same, "pixart_alpha_1024/text_encoder"},
    /* TAESD and its kin: a decoder's clamp is layer 0, which has no weights */
    {"3.conv.4.weight", "1.weight", 1, 4, &names_taesd_decoder, "sd15/vae_taesd"},
    {"3.conv.4.weight", "1.weight", 1, 16, &names_taesd_decoder, "taef1/vae"},
    {"3.pool.3.weight", "1.weight", 1, 32, &names_taesd_decoder, "taef2/vae"},
    {"1.conv.4.weight", "14.weight", 0, 4, &names_taesd_encoder, "sd15/vae_taesd"},
    {"1.conv.4.weight", "14.weight", 0, 16, &names_taesd_encoder, "taef1/vae"},
    {"13.pool.3.weight", "14.weight", 0, 32, &names_taesd_encoder, "taef2/vae"},
    {"3.conv.4.weight", "1.weight", 2, 3, &names_taesd_decoder, NULL},
    {"1.conv.4.weight", "0.weight", 2, 3, &names_taesd_encoder, NULL},
    {"decoder.layers.0.weight", "decoder.layers.0.weight", 1, 4, &names_same, "sd15/vae_taesd"},
    {"decoder.layers.0.weight", "decoder.layers.0.weight", 1, 16, &names_same, "taef1/vae"},
};
enum { ALONE = sizeof alone / sizeof *alone };

typedef struct single {
    draft d;
    const char *path;
    const tensor_table *t;
    const place *part[MOST_PARTS]; /* by component, in order; several prefixes may lead to one */
    int parts;
    place bare;
    const char *component[MOST_PARTS];
    int components;
    const char *own;               /* a relative's, which come before `configs`; NULL */
    char configs[64];              /* "sd15", or "sd15/unet" of a bare part; "": unknown */
    char folder[MOST_PATH];        /* beside the file */
} single;

static bool begins(const char *name, const char *prefix) { return strncmp(name, prefix, strlen(prefix)) == 0; }

/* The first tensor that begins so; the table is sorted. */
static int first_with(const tensor_table *t, const char *prefix)
{
    int low = 0, high = t->tensors;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (strcmp(t->tensor[middle].name, prefix) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->tensors && begins(t->tensor[low].name, prefix) ? low : -1;
}

static bool reads_text_of(const tensor_table *t, const char *prefix, int64_t columns)
{
    static const char tail[] = ".attn2.to_k.weight";
    for (int i = first_with(t, prefix); i >= 0 && i < t->tensors && begins(t->tensor[i].name, prefix); i++) {
        size_t n = strlen(t->tensor[i].name);
        if (n > sizeof tail && strcmp(t->tensor[i].name + n - (sizeof tail - 1), tail) == 0)
            return t->tensor[i].dims == 2 && t->tensor[i].shape[1] == columns;
    }
    return false;
}

static void find_relative(single *s, const char *configs)
{
    for (size_t i = 0; i < sizeof relatives / sizeof *relatives && !s->own; i++) {
        const file_tensor *t = table_find(s->t, relatives[i].key);
        if (t && strcmp(configs, relatives[i].configs) == 0 && (!relatives[i].size || (t->dims > relatives[i].dim && t->shape[relatives[i].dim] == relatives[i].size)))
            s->own = relatives[i].own;
    }
}

static void find_system(single *s)
{
    for (size_t i = 0; i < sizeof systems / sizeof *systems && !*s->configs; i++)
        if (first_with(s->t, systems[i].prefix) >= 0 && (!systems[i].columns || reads_text_of(s->t, systems[i].prefix, systems[i].columns))) {
            find_relative(s, systems[i].configs);
            snprintf(s->configs, sizeof s->configs, "%s%s%s", systems[i].configs, s->components == 1 ? "/" : "", s->components == 1 ? s->component[0] : "");
        }
}

static void find_alone(single *s)
{
    s->bare = (place){"", "", &names_same};
    for (int i = 0; i < ALONE; i++) {
        const file_tensor *sized = alone[i].sized ? table_find(s->t, alone[i].sized) : NULL;
        if (!table_find(s->t, alone[i].key) || (alone[i].sized && (!sized || sized->dims <= alone[i].dim || sized->shape[alone[i].dim] != alone[i].size)))
            continue;
        s->bare.rules = alone[i].rules;
        snprintf(s->configs, sizeof s->configs, "%s", alone[i].configs ? alone[i].configs : "");
        break;
    }
    s->part[s->parts++] = &s->bare;
}

static int component_of(const single *s, const char *name)
{
    for (int i = 0; i < s->components; i++)
        if (strcmp(s->component[i], name) == 0)
            return i;
    return -1;
}

static void sort_components(single *s)
{
    for (int i = 0; i < s->parts; i++) {
        const char *name = s->part[i]->component;
        int at = s->components;
        if (component_of(s, name) >= 0)
            continue;
        for (; at > 0 && strcmp(s->component[at - 1], name) > 0; at--)
            s->component[at] = s->component[at - 1];
        s->component[at] = name;
        s->components++;
    }
}

static void recognise(single *s)
{
    for (int i = 0; i < PLACES && s->parts < MOST_PARTS; i++)
        if (first_with(s->t, places[i].prefix) >= 0)
            s->part[s->parts++] = &places[i];
    bool other = first_with(s->t, "model.diffusion_model.") >= 0 && !table_find(s->t, "model.diffusion_model.input_blocks.0.0.weight");
    if (other)
        s->parts = 0; /* a network of another kind: names as they are */
    if (s->parts == 0)
        find_alone(s);
    sort_components(s);
    if (s->part[0] != &s->bare)
        find_system(s);
}

/* ---- weights ---- */

/* One alone is the bare one. */
static void add_components(single *s)
{
    if (s->components == 1)
        draft_component(&s->d, "");
    else
        for (int i = 0; i < s->components; i++)
            draft_component(&s->d, s->component[i]);
}

static bool add_part(single *s, const place *p, const name_depth *depth)
{
    named_tensor out[MOST_NAMED];
    const tensor_table *t = s->t;
    int component = component_of(s, p->component);
    for (int i = *p->prefix ? first_with(t, p->prefix) : 0; i < t->tensors && begins(t->tensor[i].name, p->prefix); i++) {
        int n = names_apply(p->rules, depth, t->tensor[i].name + strlen(p->prefix), &t->tensor[i], s->path, out, s->d.st);
        for (int k = 0; k < n; k++)
            draft_weight_of(&s->d, component, out[k].name, &out[k].tensor);
        if (n == 0) /* nobody will ask for it: it shows up among what was left out */
            draft_weight_of(&s->d, component, t->tensor[i].name + strlen(p->prefix), &t->tensor[i]);
        if (n < 0 || !status_ok(s->d.st))
            return false;
    }
    return true;
}

static bool add_weights(single *s)
{
    const char *unet = "", *vae = "";
    for (int i = 0; i < s->parts; i++) {
        unet = s->part[i]->rules == &names_unet ? s->part[i]->prefix : unet;
        vae = s->part[i]->rules == &names_vae ? s->part[i]->prefix : vae;
    }
    name_depth depth = names_depth(s->t, unet, vae);
    add_components(s);
    for (int i = 0; i < s->parts; i++)
        if (!add_part(s, s->part[i], &depth))
            return false;
    return status_ok(s->d.st);
}

/* ---- small files ---- */

static bool try_blob(single *s, const char *name, const char *path)
{
    struct stat info;
    if (!path || stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    draft_blob_from(&s->d, name, path, (uint64_t)info.st_size);
    return true;
}

static bool shipped_blob(single *s, const char *configs, const char *part, const char *name)
{
    char data[256];
    snprintf(data, sizeof data, "configs/%s%s/%s", configs, part, name);
    char *found = paths_data(data, s->d.st);
    bool ok = try_blob(s, name, found);
    mem_free(found);
    return ok;
}

/* COMPONENT/FILE from the folder beside the model, or from what ships. */
static void add_blob(single *s, const char *component, const char *file)
{
    char name[128], path[2 * MOST_PATH];
    snprintf(name, sizeof name, "%s%s%s", component, *component ? "/" : "", file);
    snprintf(path, sizeof path, "%s/%s", s->folder, name);
    if (*s->folder && try_blob(s, name, path))
        return;
    const char *part = strchr(s->configs, '/');
    if (s->own && shipped_blob(s, s->own, part ? part : "", name))
        return;
    if (*s->configs)
        shipped_blob(s, s->configs, "", name);
}

static void add_blobs(single *s)
{
    static const char *const others[] = {"scheduler", "tokenizer", "tokenizer_2"};
    bool whole = s->components > 1;
    size_t length = strlen(s->path);
    const char *dot = strrchr(s->path, '.'), *slash = strrchr(s->path, '/');
    if (dot && (!slash || dot > slash + 1) && length < sizeof s->folder)
        snprintf(s->folder, sizeof s->folder, "%.*s", (int)(dot - s->path), s->path);
    for (int i = 0; i < (whole ? s->components : 1); i++)
        for (const char *const *file = small_files; *file; file++)
            add_blob(s, whole ? s->component[i] : "", *file);
    if (!whole)
        return;
    add_blob(s, "", "model_index.json");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        for (const char *const *file = small_files; *file; file++)
            add_blob(s, others[i], *file);
}

source *source_open_single(const char *path, status *st)
{
    single s = {.d = {.st = st, .path = path}, .path = path};
    io *f = io_open(path, st);
    tensor_table *t = f ? table_read(f, st) : NULL;
    s.t = t;
    if (!t) {
        io_close(f);
    } else if (draft_file(&s.d, f, "single")) {
        draft_hash(&s.d, &t->hash, sizeof t->hash);
        recognise(&s);
        if (add_weights(&s))
            add_blobs(&s);
    }
    table_free(t);
    source *made = draft_finish(&s.d);
    if (made)
        made->single = true;
    return made;
}
