/* The UNet of latent diffusion (Rombach et al. 2022, arXiv 2112.10752), SDXL's form of it (Podell et al. 2023, arXiv 2307.01952) and LCM's
 * (Luo et al. 2023, arXiv 2310.04378). Reference: diffusers, models/unets/unet_2d_condition.py, unet_2d_blocks.py, transformers/transformer_2d.py.
 * Pitfalls: attention_head_dim is the number of heads; group norms have eps 1e-5, those before attention 1e-6, layer norms 1e-5; GEGLU's
 * second half is the gate, in the erf form; latents that do not halve evenly go back up to the size of the skip connection. Where SD 1.5 has
 * 1x1 convolutions, SD 2 and SDXL have linear layers: the same product. Skip connections are read again, so nothing adds to them in place; they wait in
 * the scratch file where memory is short, and are joined to what comes up from below only as the convolutions read both. */
#include "models/net_unet_impl.h"

#include <math.h>
#include <stdio.h>

const name_alias unet_aliases[] = {{NULL, NULL}};

/* ---- conditions ---- */

static const tensor none = {0}; /* nothing beside */
static const linear_options plain = {0}, no_bias = {.no_bias = true}, edge = {.edge = true}, edge_no_bias = {.no_bias = true, .edge = true};

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
    if (c->text_pool)
        e = add(r, e, input(r, in->added, in->batch, 1, 1, c->time_dim));
    if (c->time_act)
        e = activate(r, e, c->time_act);
    return c->skip_time_act ? e : activate(r, e, c->act); /* every block begins with it */
}

/* ---- blocks ---- */

static conv_options conv3(norm before, tensor add_to)
{
    return (conv_options){.kernel = 3, .stride = 1, .padding = 1, .before = before, .add_to = add_to, .sums = true};
}

/* Of x, with a skip connection beside it or none. map: only convolutions and norms read the result. */
static tensor resnet(run *r, const context *k, tensor x, tensor beside, int channels, bool map, const char *block, int i)
{
    const unet_config *c = k->c;
    scope in = enter(r, "%s.resnets.%d", block, i);
    tensor t = linear(r, k->time, "time_emb_proj", c->scale_shift ? 2 * channels : channels, edge);
    conv_options first = conv3(group_norm_beside(r, x, beside, "norm1", c->groups, c->eps, c->act), NO_TENSOR);
    first.beside = beside;
    first.plus = c->scale_shift ? (table_row){0} : (table_row){t, 0};
    first.map = true;
    tensor h = conv(r, x, "conv1", channels, first);
    norm n = group_norm(r, h, "norm2", c->groups, c->eps, c->act);
    if (c->scale_shift) {
        tensor rows = image_of(t, 1, 2);
        rows.channels = channels;
        n = norm_modulated(r, n, (table_row){rows, 0}, (table_row){rows, 1});
    }
    conv_options one = {.kernel = 1, .stride = 1, .before = NO_NORM, .beside = beside, .add_to = NO_TENSOR, .map = map}, last = conv3(n, NO_TENSOR);
    last.map = map;
    if (x.channels + beside.channels == channels)
        last.add = x;
    else
        last.add_to = conv(r, x, "conv_shortcut", channels, one);
    return leave(r, in, conv(r, h, "conv2", channels, last));
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

tensor unet_keep(run *r, skips *s, tensor x)
{
    x = take_sums(r, x);
    s->x[s->count++] = map_copy(r, x);
    return x;
}

void unet_passed(run *r, const skips *s, tensor x)
{
    if (s->x[s->count - 1].place != x.place)
        drop(r, x);
}

static tensor down_block(run *r, const context *k, int i, tensor x, skips *s)
{
    const unet_level *l = &k->c->level[i];
    char block[32];
    snprintf(block, sizeof block, "down_blocks.%d", i);
    for (int n = 0; n < l->layers; n++) {
        tensor y = resnet(r, k, x, none, l->channels, !l->down_attention, block, n);
        unet_passed(r, s, x);
        x = y;
        if (l->down_attention)
            x = transformer(r, k, x, l->down_depth[n], l->heads, l->only_cross, block, n);
        x = unet_keep(r, s, x);
    }
    if (i == k->c->levels - 1)
        return x;
    scope in = enter(r, "%s.downsamplers.0", block);
    conv_options half = conv3(NO_NORM, NO_TENSOR);
    half.stride = 2;
    tensor y = leave(r, in, conv(r, x, "conv", l->channels, half));
    unet_passed(r, s, x);
    return unet_keep(r, s, y);
}

static tensor middle_block(run *r, const context *k, tensor x)
{
    const unet_level *l = &k->c->level[k->c->levels - 1];
    x = resnet(r, k, x, none, l->channels, !k->c->middle_attention, "mid_block", 0);
    if (!k->c->middle_attention)
        return x; /* diffusers' middle without attention is one resnet */
    x = transformer(r, k, x, l->down_depth[0], l->heads, false, "mid_block", 0);
    tensor y = resnet(r, k, x, none, l->channels, true, "mid_block", 1);
    drop(r, x);
    return y;
}

static tensor up_block(run *r, const context *k, int i, tensor x, skips *s)
{
    const unet_level *l = &k->c->level[i];
    char block[32];
    snprintf(block, sizeof block, "up_blocks.%d", k->c->levels - 1 - i);
    for (int n = 0; n <= l->layers; n++) {
        tensor skip = s->x[--s->count], y = resnet(r, k, x, skip, l->channels, !l->up_attention, block, n);
        drop(r, x);
        drop(r, skip);
        x = y;
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
    tensor x = conv(r, latents, "conv_in", c->level[0].channels, ends);
    drop(r, latents);
    x = unet_keep(r, &down, x);
    for (int i = 0; i < c->levels; i++)
        x = c->simple ? simple_down(r, &k, i, x, &down) : down_block(r, &k, i, x, &down);
    tensor lowest = !c->middle ? copy(r, x) : c->simple ? simple_middle(r, &k, x) : middle_block(r, &k, x);
    unet_passed(r, &down, x);
    x = lowest;
    for (int i = c->levels - 1; i >= 0; i--)
        x = c->simple ? simple_up(r, &k, i, x, &down) : up_block(r, &k, i, x, &down);
    ends.before = group_norm(r, x, "conv_norm_out", c->groups, c->eps, c->act);
    ends.sums = false;
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
    if (c->simple)
        unet_conditions(r, c, &(unet_condition_inputs){.batch = 1, .tokens = 1});
    unet_denoise(r, c, &in);
}
