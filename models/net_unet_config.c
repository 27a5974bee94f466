/* config.json of a UNet2DConditionModel: every number within bounds, a sentence for what is not known. Two families of blocks share the class: those of
 * latent diffusion (net_unet.c), and the simple ones of DeepFloyd IF, Karlo and Kandinsky 2 (net_unet_simple.c), whose attention_head_dim is what it says.
 * Pitfalls: of the former it is the number of heads; mid_block_only_cross_attention follows only_cross_attention where that is one flag for all levels. */
#include <stdio.h>
#include <string.h>

#include "models/net_act.h"
#include "models/net_unet.h"

/* A number for all levels, or a list with one for each. */
static bool read_levels(const json *j, const char *key, int otherwise, int most, int levels, int out[UNET_LEVELS], const char *name, status *st)
{
    int64_t v[UNET_LEVELS];
    int n = json_ints(j, key, v, UNET_LEVELS, 0, most, name, st);
    if (n < 0)
        return false;
    if (n > 1 && n != levels)
        return status_set(st, STATUS_BAD_FILE, "%s: %s has %d values for %d levels", name, key, n, levels);
    bool list = n > 0 && json_object_is_type(json_member(j, key), json_type_array);
    if (list && n != levels)
        return status_set(st, STATUS_BAD_FILE, "%s: %s has %d values for %d levels", name, key, n, levels);
    for (int i = 0; i < levels; i++)
        out[i] = n == 0 ? otherwise : (int)v[list ? i : 0];
    return true;
}

/* transformer_layers_per_block: a number, a number a level, or for each level a number a layer (then the way up has a list of its own, from the
 * lowest level on). */
static bool read_depths(const json *list, int level, int layers, int *out, const char *name, status *st)
{
    for (int k = 0; k < layers; k++) {
        const json *one = list && json_object_is_type(list, json_type_array) ? json_object_array_get_idx(list, (size_t)level) : list;
        if (one && json_object_is_type(one, json_type_array))
            one = json_object_array_get_idx(one, (size_t)k);
        int64_t n = one && json_object_is_type(one, json_type_int) ? json_object_get_int64(one) : list ? -1 : 1;
        if (n < 0 || n > 64)
            return status_set(st, STATUS_BAD_FILE, "%s: transformer_layers_per_block: no depth of 0 to 64 for level %d, layer %d", name, level, k);
        out[k] = (int)n;
    }
    return true;
}

static bool read_types(const json *j, const char *key, const char *plain, const char *crossed, bool way_up, unet_config *c, const char *name, status *st)
{
    const json *list = json_member(j, key);
    int n = list && json_object_is_type(list, json_type_array) ? (int)json_object_array_length(list) : 0;
    if (list && n != c->levels)
        return status_set(st, STATUS_BAD_FILE, "%s: %s has %d entries for %d levels", name, key, n, c->levels);
    for (int i = 0; i < c->levels; i++) {
        /* diffusers' default: attention everywhere but at the lowest level */
        const char *type = list ? json_object_get_string(json_object_array_get_idx(list, (size_t)i)) : (way_up ? i == 0 : i == c->levels - 1) ? plain : crossed;
        bool attends = type && strcmp(type, crossed) == 0;
        if (!attends && (!type || strcmp(type, plain)))
            return status_set(st, STATUS_BAD_FILE, "%s: %s has %s; only %s and %s are known", name, key, type ? type : "null", plain, crossed);
        if (way_up)
            c->level[c->levels - 1 - i].up_attention = attends;
        else
            c->level[i].down_attention = attends;
    }
    return true;
}

static bool read_level_sizes(unet_config *c, const json *j, const char *name, status *st)
{
    int64_t channels[UNET_LEVELS] = {320, 640, 1280, 1280};
    int n = json_ints(j, "block_out_channels", channels, UNET_LEVELS, 1, 1 << 14, name, st);
    if (n < 0)
        return false;
    c->levels = n ? n : 4;
    int heads[UNET_LEVELS], layers[UNET_LEVELS], cross[UNET_LEVELS];
    if (!read_levels(j, "attention_head_dim", 8, 1024, c->levels, heads, name, st) || !read_levels(j, "layers_per_block", 2, UNET_LAYERS, c->levels, layers, name, st) ||
        !read_levels(j, "cross_attention_dim", 1280, 1 << 16, c->levels, cross, name, st))
        return false;
    c->cross_dim = cross[0];
    const json *down = json_member(j, "transformer_layers_per_block"), *up = json_member(j, "reverse_transformer_layers_per_block");
    const json *only = json_member(j, "only_cross_attention");
    for (int i = 0; i < c->levels; i++) {
        unet_level *l = &c->level[i];
        *l = (unet_level){.channels = (int)channels[i], .heads = heads[i], .layers = layers[i]};
        if (cross[i] != c->cross_dim)
            return status_set(st, STATUS_BAD_FILE, "%s: cross_attention_dim differs between levels (%d and %d)", name, c->cross_dim, cross[i]);
        const json *flag = only && json_object_is_type(only, json_type_array) ? json_object_array_get_idx(only, (size_t)i) : only;
        l->only_cross = flag && json_object_get_boolean(flag);
        if (!read_depths(down, i, l->layers, l->down_depth, name, st) || !read_depths(up ? up : down, up ? c->levels - 1 - i : i, l->layers + 1, l->up_depth, name, st))
            return false;
    }
    if (c->simple)
        return read_types(j, "down_block_types", "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", false, c, name, st) &&
               read_types(j, "up_block_types", "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D", true, c, name, st);
    return read_types(j, "down_block_types", "DownBlock2D", "CrossAttnDownBlock2D", false, c, name, st) &&
           read_types(j, "up_block_types", "UpBlock2D", "CrossAttnUpBlock2D", true, c, name, st);
}

/* Values that other families have and this file does not compute: better a sentence than a wrong picture. `simple`: those of the simple blocks are free. */
static bool check_known(const unet_config *c, const json *j, const char *name, status *st)
{
    static const struct { const char *key, *only; bool free; } rows[] = {
        {"time_embedding_type", "positional", false}, {"attention_type", "default", false}, {"timestep_post_act", "null", false},
        {"dual_cross_attention", "false", false}, {"center_input_sample", "false", false}, {"class_embeddings_concat", "false", false},
        {"num_attention_heads", "null", false}, {"encoder_hid_dim_type", "null", true}, {"encoder_hid_dim", "null", true}, {"cross_attention_norm", "null", true},
        {"time_embedding_act_fn", "null", true}, {"resnet_skip_time_act", "false", true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const json *v = json_member(j, rows[i].key);
        const char *text = v ? json_object_get_string((json *)(uintptr_t)v) : "null";
        if (v && strcmp(text, rows[i].only) && !(c->simple && rows[i].free))
            return status_set(st, STATUS_BAD_FILE, "%s: %s is %s; of the UNets known here it is %s", name, rows[i].key, text, rows[i].only);
    }
    if (!c->simple && (c->block_scale != 1 || c->middle_scale != 1))
        return status_set(st, STATUS_BAD_FILE, "%s: resnet_out_scale_factor and mid_block_scale_factor other than 1 are not known of these blocks", name);
    if (json_int(j, "downsample_padding", 0, 8, 1, name, st) != 1 || json_int(j, "conv_in_kernel", 1, 15, 3, name, st) != 3 ||
        json_int(j, "conv_out_kernel", 1, 15, 3, name, st) != 3)
        return status_set(st, STATUS_BAD_FILE, "%s: downsample_padding other than 1 and conv_in_kernel, conv_out_kernel other than 3 are not known here", name);
    return status_ok(st);
}

/* What only simple blocks have. */
static bool read_simple(unet_config *c, const json *j, const char *name, status *st)
{
    const char *by = json_text(j, "cross_attention_norm", "", name, st), *text = json_text(j, "encoder_hid_dim_type", "text_proj", name, st);
    c->text_dim = (int)json_int(j, "encoder_hid_dim", 1, 1 << 16, 0, name, st);
    c->text_projection = c->text_dim > 0;
    if (strcmp(text, "text_proj"))
        return status_set(st, STATUS_BAD_FILE, "%s: encoder_hid_dim_type \"%s\"; only text_proj is known here", name, text);
    if (!c->text_projection)
        c->text_dim = c->cross_dim;
    c->text_norm = !by[0] ? UNET_TEXT_PLAIN : strcmp(by, "group_norm") == 0 ? UNET_TEXT_GROUP_NORM : UNET_TEXT_LAYER_NORM;
    if (by[0] && strcmp(by, "group_norm") && strcmp(by, "layer_norm"))
        return status_set(st, STATUS_BAD_FILE, "%s: cross_attention_norm \"%s\" is not one of group_norm, layer_norm", name, by);
    if (c->text_norm == UNET_TEXT_GROUP_NORM && c->cross_dim % UNET_TEXT_GROUPS)
        return status_set(st, STATUS_BAD_FILE, "%s: cross_attention_dim %d does not divide into %d groups", name, c->cross_dim, UNET_TEXT_GROUPS);
    c->skip_time_act = json_flag(j, "resnet_skip_time_act", false, name, st);
    c->pool_heads = (int)json_int(j, "addition_embed_type_num_heads", 1, 4096, 64, name, st);
    if (c->text_pool && c->text_dim % c->pool_heads)
        return status_set(st, STATUS_BAD_FILE, "%s: addition_embed_type_num_heads %d does not divide %d channels of the text", name, c->pool_heads, c->text_dim);
    const json *only = json_member(j, "only_cross_attention");
    bool for_all = only && !json_object_is_type(only, json_type_array) && json_object_get_boolean(only);
    c->middle_only_cross = json_flag(j, "mid_block_only_cross_attention", for_all, name, st);
    for (int i = 0; i < c->levels; i++) {
        const unet_level *l = &c->level[i];
        bool attends = l->down_attention || l->up_attention || (c->middle_attention && i == c->levels - 1);
        if (attends && l->channels < l->heads)
            return status_set(st, STATUS_BAD_FILE, "%s: attention_head_dim %d is more than the %d channels of level %d", name, l->heads, l->channels, i);
    }
    return act_read(j, "time_embedding_act_fn", "", &c->time_act, name, st);
}

static bool read_middle(unet_config *c, const json *j, const char *name, status *st)
{
    const char *attends = c->simple ? "UNetMidBlock2DSimpleCrossAttn" : "UNetMidBlock2DCrossAttn";
    const char *middle = json_text(j, "mid_block_type", json_object_object_get_ex(j, "mid_block_type", NULL) ? "" : "UNetMidBlock2DCrossAttn", name, st);
    c->middle = middle[0] != 0;
    c->middle_attention = strcmp(middle, attends) == 0;
    if (c->middle && !c->middle_attention && (c->simple || strcmp(middle, "UNetMidBlock2D")))
        return status_set(st, STATUS_BAD_FILE, "%s: mid_block_type \"%s\" does not go with the other blocks; %s does", name, middle, attends);
    return status_ok(st);
}

/* Are the first down block and its kin of the simple kind? */
static bool is_simple(const json *j)
{
    const json *list = json_member(j, "down_block_types");
    const json *first = list && json_object_is_type(list, json_type_array) ? json_object_array_get_idx(list, 0) : NULL;
    const char *type = first && json_object_is_type(first, json_type_string) ? json_object_get_string((json *)(uintptr_t)first) : "";
    return strcmp(type, "ResnetDownsampleBlock2D") == 0 || strcmp(type, "SimpleCrossAttnDownBlock2D") == 0;
}

static bool read_conditions(unet_config *c, const json *j, const char *name, status *st)
{
    c->class_count = (int)json_int(j, "num_class_embeds", 1, 1 << 24, 0, name, st);
    c->guidance_dim = (int)json_int(j, "time_cond_proj_dim", 1, 1 << 16, 0, name, st);
    const char *kind = json_text(j, "class_embed_type", "", name, st), *extra = json_text(j, "addition_embed_type", "", name, st);
    c->classes = strcmp(kind, "timestep") == 0 ? UNET_CLASS_TIMESTEP : c->class_count ? UNET_CLASS_TABLE : UNET_CLASS_NONE;
    if (kind[0] && strcmp(kind, "timestep"))
        return status_set(st, STATUS_BAD_FILE, "%s: class_embed_type \"%s\"; only timestep is known here", name, kind);
    c->text_time = strcmp(extra, "text_time") == 0;
    c->text_pool = c->simple && strcmp(extra, "text") == 0;
    if (extra[0] && !c->text_time && !c->text_pool)
        return status_set(st, STATUS_BAD_FILE, "%s: addition_embed_type \"%s\"; known here is %s", name, extra, c->simple ? "text" : "text_time");
    if (c->text_time) {
        c->size_dim = (int)json_need_int(j, "addition_time_embed_dim", 2, 1 << 16, name, st);
        c->text_time_dim = (int)json_need_int(j, "projection_class_embeddings_input_dim", 1, 1 << 16, name, st);
    }
    return status_ok(st);
}

bool unet_config_read(unet_config *c, const json *j, const char *name, status *st)
{
    *c = (unet_config){.simple = is_simple(j)};
    c->block_scale = (float)json_double(j, "resnet_out_scale_factor", 1e-3, 1e6, 1, name, st);
    c->middle_scale = (float)json_double(j, "mid_block_scale_factor", 1e-3, 1e6, 1, name, st);
    if (!read_level_sizes(c, j, name, st) || !check_known(c, j, name, st) || !read_conditions(c, j, name, st) || !read_middle(c, j, name, st))
        return false;
    c->in_channels = (int)json_int(j, "in_channels", 1, 4096, 4, name, st);
    c->out_channels = (int)json_int(j, "out_channels", 1, 4096, 4, name, st);
    c->sample_size = (int)json_int(j, "sample_size", 1, 8192, 64, name, st);
    c->groups = (int)json_int(j, "norm_num_groups", 1, 4096, 32, name, st);
    c->eps = (float)json_double(j, "norm_eps", 0, 1, 1e-5, name, st);
    c->time_dim = (int)json_int(j, "time_embedding_dim", 1, 1 << 16, 4 * c->level[0].channels, name, st);
    c->cos_first = json_flag(j, "flip_sin_to_cos", true, name, st);
    c->freq_shift = (float)json_double(j, "freq_shift", 0, 1, 0, name, st);
    const char *time = json_text(j, "resnet_time_scale_shift", "default", name, st);
    c->scale_shift = strcmp(time, "scale_shift") == 0;
    if (!c->scale_shift && strcmp(time, "default"))
        return status_set(st, STATUS_BAD_FILE, "%s: resnet_time_scale_shift \"%s\" is not one of default, scale_shift", name, time);
    for (int i = 0; i < c->levels && status_ok(st); i++)
        if (c->level[i].heads < 1)
            return status_set(st, STATUS_BAD_FILE, "%s: attention_head_dim is %d", name, c->level[i].heads);
    return act_read(j, "act_fn", "silu", &c->act, name, st) && (!c->simple || read_simple(c, j, name, st));
}
