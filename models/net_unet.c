/* The UNet of latent diffusion (Rombach et al. 2022, arXiv 2112.10752), SDXL's form of it (Podell et al. 2023, arXiv 2307.01952) and LCM's
 * (Luo et al. 2023, arXiv 2310.04378). Reference: diffusers, models/unets/unet_2d_condition.py, unet_2d_blocks.py, transformers/transformer_2d.py.
 * Pitfalls: attention_head_dim is the number of heads; group norms have eps 1e-5, those before attention 1e-6, layer norms 1e-5; GEGLU's
 * second half is the gate, in the erf form; latents that do not halve evenly go back up to the size of the skip connection. Where SD 1.5 has
 * 1x1 convolutions, SD 2 and SDXL have linear layers: the same product. Skip connections are read again, so nothing adds to them in place. */
#include "models/net_unet.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const name_alias unet_aliases[] = {{NULL, NULL}};

/* ---- config ---- */

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
    return read_types(j, "down_block_types", "DownBlock2D", "CrossAttnDownBlock2D", false, c, name, st) &&
           read_types(j, "up_block_types", "UpBlock2D", "CrossAttnUpBlock2D", true, c, name, st);
}

/* Values that other families have and this file does not compute: better a sentence than a wrong picture. */
static bool check_known(const json *j, const char *name, status *st)
{
    static const struct { const char *key, *only; } rows[] = {
        {"encoder_hid_dim_type", "null"}, {"time_embedding_type", "positional"}, {"attention_type", "default"}, {"cross_attention_norm", "null"},
        {"time_embedding_act_fn", "null"}, {"timestep_post_act", "null"}, {"dual_cross_attention", "false"}, {"center_input_sample", "false"},
        {"class_embeddings_concat", "false"}, {"resnet_skip_time_act", "false"}, {"num_attention_heads", "null"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const json *v = json_member(j, rows[i].key);
        const char *text = v ? json_object_get_string((json *)(uintptr_t)v) : "null";
        if (v && strcmp(text, rows[i].only))
            return status_set(st, STATUS_BAD_FILE, "%s: %s is %s; of the UNets known here it is %s", name, rows[i].key, text, rows[i].only);
    }
    if (json_double(j, "resnet_out_scale_factor", -1e6, 1e6, 1, name, st) != 1 || json_double(j, "mid_block_scale_factor", -1e6, 1e6, 1, name, st) != 1)
        return status_set(st, STATUS_BAD_FILE, "%s: resnet_out_scale_factor and mid_block_scale_factor other than 1 are not known here", name);
    if (json_int(j, "downsample_padding", 0, 8, 1, name, st) != 1 || json_int(j, "conv_in_kernel", 1, 15, 3, name, st) != 3 ||
        json_int(j, "conv_out_kernel", 1, 15, 3, name, st) != 3)
        return status_set(st, STATUS_BAD_FILE, "%s: downsample_padding other than 1 and conv_in_kernel, conv_out_kernel other than 3 are not known here", name);
    return status_ok(st);
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
    if (extra[0] && !c->text_time)
        return status_set(st, STATUS_BAD_FILE, "%s: addition_embed_type \"%s\"; only text_time is known here", name, extra);
    if (c->text_time) {
        c->size_dim = (int)json_need_int(j, "addition_time_embed_dim", 2, 1 << 16, name, st);
        c->text_time_dim = (int)json_need_int(j, "projection_class_embeddings_input_dim", 1, 1 << 16, name, st);
    }
    return status_ok(st);
}

bool unet_config_read(unet_config *c, const json *j, const char *name, status *st)
{
    *c = (unet_config){.middle = true, .middle_attention = true};
    if (!read_level_sizes(c, j, name, st) || !check_known(j, name, st) || !read_conditions(c, j, name, st))
        return false;
    c->in_channels = (int)json_int(j, "in_channels", 1, 4096, 4, name, st);
    c->out_channels = (int)json_int(j, "out_channels", 1, 4096, 4, name, st);
    c->sample_size = (int)json_int(j, "sample_size", 1, 8192, 64, name, st);
    c->groups = (int)json_int(j, "norm_num_groups", 1, 4096, 32, name, st);
    c->eps = (float)json_double(j, "norm_eps", 0, 1, 1e-5, name, st);
    c->time_dim = (int)json_int(j, "time_embedding_dim", 1, 1 << 16, 4 * c->level[0].channels, name, st);
    c->cos_first = json_flag(j, "flip_sin_to_cos", true, name, st);
    c->freq_shift = (float)json_double(j, "freq_shift", 0, 1, 0, name, st);
    const char *act = json_text(j, "act_fn", "silu", name, st), *time = json_text(j, "resnet_time_scale_shift", "default", name, st);
    const char *middle = json_text(j, "mid_block_type", json_object_object_get_ex(j, "mid_block_type", NULL) ? "" : "UNetMidBlock2DCrossAttn", name, st);
    c->act = strcmp(act, "gelu") == 0 ? ACT_GELU_ERF : ACT_SILU;
    if (strcmp(act, "silu") && strcmp(act, "swish") && strcmp(act, "gelu"))
        return status_set(st, STATUS_BAD_FILE, "%s: act_fn \"%s\" is not one of silu, swish, gelu", name, act);
    c->scale_shift = strcmp(time, "scale_shift") == 0;
    if (!c->scale_shift && strcmp(time, "default"))
        return status_set(st, STATUS_BAD_FILE, "%s: resnet_time_scale_shift \"%s\" is not one of default, scale_shift", name, time);
    c->middle = middle[0] != 0;
    c->middle_attention = strcmp(middle, "UNetMidBlock2DCrossAttn") == 0;
    if (c->middle && !c->middle_attention && strcmp(middle, "UNetMidBlock2D"))
        return status_set(st, STATUS_BAD_FILE, "%s: mid_block_type \"%s\" is not one of UNetMidBlock2DCrossAttn, UNetMidBlock2D", name, middle);
    for (int i = 0; i < c->levels && status_ok(st); i++)
        if (c->level[i].heads < 1)
            return status_set(st, STATUS_BAD_FILE, "%s: attention_head_dim is %d", name, c->level[i].heads);
    return status_ok(st);
}

/* ---- conditions ---- */

static const linear_options plain = {0}, no_bias = {.no_bias = true}, edge = {.edge = true}, edge_no_bias = {.no_bias = true, .edge = true};
enum { SKIPS = UNET_LEVELS * (UNET_LAYERS + 1) + 1 };

typedef struct skips {           /* what the way down leaves for the way up */
    tensor x[SKIPS];
    int count;
} skips;

typedef struct context {         /* what every block gets */
    const unet_config *c;
    tensor text, time;           /* time: after its activation, [b, 1, time_dim] */
} context;

/* linear - act - linear */
static tensor embedding_mlp(run *r, const unet_config *c, tensor x, const char *name, activation act)
{
    scope in = enter(r, "%s", name);
    tensor h = linear(r, x, "linear_1", c->time_dim, (linear_options){.edge = true, .act = act});
    return leave(r, in, linear(r, h, "linear_2", c->time_dim, edge));
}

static tensor embed_sizes(run *r, const unet_config *c, const unet_inputs *in)
{
    tensor sizes = sinusoids(r, in->sizes, in->batch * in->sizes_count, c->size_dim, c->cos_first, c->freq_shift);
    sizes.batch = in->batch; /* an item's sizes side by side */
    sizes.channels = in->sizes_count * c->size_dim;
    tensor both[2] = {input(r, in->pooled, in->batch, 1, 1, in->pooled_dim), sizes};
    return embedding_mlp(r, c, concat_channels(r, both, 2), "add_embedding", ACT_SILU);
}

static tensor embed_time(run *r, const unet_config *c, const unet_inputs *in)
{
    tensor t = sinusoids(r, in->timesteps, in->batch, c->level[0].channels, c->cos_first, c->freq_shift);
    if (c->guidance_dim)
        t = linear_add(r, t, input(r, in->guidance, in->batch, 1, 1, c->guidance_dim), "time_embedding.cond_proj", NO_ROW, edge_no_bias);
    tensor e = embedding_mlp(r, c, t, "time_embedding", c->act);
    if (c->classes == UNET_CLASS_TIMESTEP) {
        tensor s = sinusoids(r, in->class_steps, in->batch, c->level[0].channels, c->cos_first, c->freq_shift);
        e = add(r, e, embedding_mlp(r, c, s, "class_embedding", c->act));
    } else if (c->classes == UNET_CLASS_TABLE) {
        e = add(r, e, embed(r, "class_embedding.weight", in->classes, in->batch, c->class_count, c->time_dim)); /* a row an item, as e's */
    }
    if (c->text_time)
        e = add(r, e, embed_sizes(r, c, in));
    return activate(r, e, ACT_SILU); /* every block begins with it */
}

/* ---- blocks ---- */

static conv_options conv3(norm before, tensor add_to)
{
    return (conv_options){.kernel = 3, .stride = 1, .padding = 1, .before = before, .add_to = add_to};
}

static tensor resnet(run *r, const context *k, tensor x, int channels, const char *block, int i)
{
    const unet_config *c = k->c;
    scope in = enter(r, "%s.resnets.%d", block, i);
    tensor h = conv(r, x, "conv1", channels, conv3(group_norm(r, x, "norm1", c->groups, c->eps, c->act), NO_TENSOR));
    tensor t = linear(r, k->time, "time_emb_proj", c->scale_shift ? 2 * channels : channels, edge);
    if (!c->scale_shift)
        h = add_row(r, h, (table_row){t, 0});
    norm n = group_norm(r, h, "norm2", c->groups, c->eps, c->act);
    if (c->scale_shift) {
        tensor rows = image_of(t, 1, 2);
        rows.channels = channels;
        n = norm_modulated(r, n, (table_row){rows, 0}, (table_row){rows, 1});
    }
    conv_options one = {.kernel = 1, .stride = 1, .before = NO_NORM, .add_to = NO_TENSOR};
    tensor s = x.channels == channels ? copy(r, x) : conv(r, x, "conv_shortcut", channels, one);
    return leave(r, in, conv(r, h, "conv2", channels, conv3(n, s)));
}

static tensor attend(run *r, tensor into, tensor h, tensor from, int heads, const char *name)
{
    scope in = enter(r, "%s", name);
    int width = into.channels;
    tensor k = linear(r, from, "to_k", width, no_bias), v = linear(r, from, "to_v", width, no_bias), q = linear(r, h, "to_q", width, no_bias);
    drop(r, h);
    tensor y = attention(r, q, k, v, heads, 1 / sqrtf((float)(width / heads)), NULL, NULL, NO_TENSOR);
    return leave(r, in, linear_add(r, into, y, "to_out.0", NO_ROW, plain));
}

static tensor cross_attention(run *r, tensor x, tensor text, int heads)
{
    int width = x.channels;
    tensor k = linear(r, text, "attn2.to_k", width, no_bias), v = linear(r, text, "attn2.to_v", width, no_bias);
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        tensor q = linear(r, layer_norm(r, t, "norm2", 1e-5f), "attn2.to_q", width, no_bias);
        tensor y = attention(r, q, k, v, heads, 1 / sqrtf((float)(width / heads)), NULL, NULL, NO_TENSOR);
        linear_add(r, t, y, "attn2.to_out.0", NO_ROW, plain);
    }
    return x;
}

static tensor feed_forward(run *r, tensor x)
{
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        tensor h = linear(r, layer_norm(r, t, "norm3", 1e-5f), "ff.net.0.proj", 8 * x.channels, plain);
        linear_add(r, t, gated_halves(r, ACT_GELU_ERF, h), "ff.net.2", NO_ROW, plain);
    }
    return x;
}

/* depth blocks of self-attention, attention to the text, feed-forward; added to x, in place */
static tensor transformer(run *r, const context *k, tensor x, int depth, int heads, bool only_cross, const char *block, int i)
{
    scope in = enter(r, "%s.attentions.%d", block, i);
    int height = x.height, width = x.width, channels = x.channels;
    norm n = group_norm(r, x, "norm", k->c->groups, 1e-6f, ACT_NONE);
    tensor h = sequence_of(conv(r, x, "proj_in", channels, (conv_options){.kernel = 1, .stride = 1, .before = n, .add_to = NO_TENSOR}));
    for (int d = 0; d < depth; d++) {
        scope b = enter(r, "transformer_blocks.%d", d);
        tensor normed = layer_norm(r, h, "norm1", 1e-5f);
        h = attend(r, h, normed, only_cross ? k->text : normed, heads, "attn1");
        h = leave(r, b, feed_forward(r, cross_attention(r, h, k->text, heads)));
    }
    x = linear_add(r, sequence_of(x), h, "proj_out", NO_ROW, plain);
    return leave(r, in, image_of(x, height, width));
}

static tensor down_block(run *r, const context *k, int i, tensor x, skips *s)
{
    const unet_level *l = &k->c->level[i];
    char block[32];
    snprintf(block, sizeof block, "down_blocks.%d", i);
    for (int n = 0; n < l->layers; n++) {
        x = resnet(r, k, x, l->channels, block, n);
        if (l->down_attention)
            x = transformer(r, k, x, l->down_depth[n], l->heads, l->only_cross, block, n);
        s->x[s->count++] = x;
    }
    if (i == k->c->levels - 1)
        return x;
    scope in = enter(r, "%s.downsamplers.0", block);
    x = leave(r, in, conv(r, x, "conv", l->channels, (conv_options){.kernel = 3, .stride = 2, .padding = 1, .before = NO_NORM, .add_to = NO_TENSOR}));
    return s->x[s->count++] = x;
}

static tensor middle_block(run *r, const context *k, tensor x)
{
    const unet_level *l = &k->c->level[k->c->levels - 1];
    x = resnet(r, k, x, l->channels, "mid_block", 0);
    if (k->c->middle_attention)
        x = transformer(r, k, x, l->down_depth[0], l->heads, false, "mid_block", 0);
    tensor y = resnet(r, k, x, l->channels, "mid_block", 1);
    drop(r, x);
    return y;
}

/* x and the skip connection side by side; both are done with */
static tensor join(run *r, tensor x, tensor skip)
{
    tensor both[2] = {x, skip}, y = concat_channels(r, both, 2);
    drop(r, x);
    drop(r, skip);
    return y;
}

static tensor up_block(run *r, const context *k, int i, tensor x, skips *s)
{
    const unet_level *l = &k->c->level[i];
    char block[32];
    snprintf(block, sizeof block, "up_blocks.%d", k->c->levels - 1 - i);
    for (int n = 0; n <= l->layers; n++) {
        tensor both = join(r, x, s->x[--s->count]);
        x = resnet(r, k, both, l->channels, block, n);
        drop(r, both);
        if (l->up_attention)
            x = transformer(r, k, x, l->up_depth[n], l->heads, l->only_cross, block, n);
    }
    if (i == 0)
        return x;
    tensor skip = s->x[s->count - 1];
    scope in = enter(r, "%s.upsamplers.0", block);
    conv_options o = conv3(NO_NORM, NO_TENSOR);
    o.upsample = true;
    o.odd_rows = skip.height == 2 * x.height - 1;
    o.odd_columns = skip.width == 2 * x.width - 1;
    tensor y = leave(r, in, conv(r, x, "conv", l->channels, o));
    drop(r, x);
    return y;
}

void unet_denoise(run *r, const unet_config *c, const unet_inputs *in)
{
    context k = {.c = c, .text = input(r, in->text, in->batch, 1, in->tokens, c->cross_dim)};
    scope s = enter(r, "%s", "");
    k.time = leave(r, s, embed_time(r, c, in));

    skips down = {.count = 0};
    conv_options ends = conv3(NO_NORM, NO_TENSOR);
    ends.edge = true;
    tensor latents = input_nchw(r, in->latents, in->batch, c->in_channels, in->height, in->width);
    tensor x = down.x[down.count++] = conv(r, latents, "conv_in", c->level[0].channels, ends);
    drop(r, latents);
    for (int i = 0; i < c->levels; i++)
        x = down_block(r, &k, i, x, &down);
    x = c->middle ? middle_block(r, &k, x) : copy(r, x);
    for (int i = c->levels - 1; i >= 0; i--)
        x = up_block(r, &k, i, x, &down);
    ends.before = group_norm(r, x, "conv_norm_out", c->groups, c->eps, c->act);
    output_nchw(r, conv(r, x, "conv_out", c->out_channels, ends), c->out_channels, in->noise);
}

void unet_record(run *r, const void *config)
{
    const unet_config *c = config;
    int32_t class = 0;
    unet_inputs in = {.batch = 1, .height = 1 << (c->levels - 1), .width = 1 << (c->levels - 1), .tokens = 1, .classes = &class};
    if (c->text_time) { /* six sizes of SDXL, five of its refiner: what pooled text leaves is a multiple of neither, any split will do */
        in.sizes_count = 1;
        in.pooled_dim = c->text_time_dim - c->size_dim;
    }
    unet_denoise(r, c, &in);
}
