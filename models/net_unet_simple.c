/* The simple blocks of a UNet: DeepFloyd IF's (the open Imagen: Saharia et al. 2022, arXiv 2205.11487), Karlo's and Kandinsky 2's. They come from guided
 * diffusion (Dhariwal and Nichol 2021, arXiv 2105.05233): residual blocks that halve and double the map by themselves, and one attention a block
 * whose keys are the text's and, unless it is attention to the text alone, the map's behind them.
 * Reference: diffusers, models/unets/unet_2d_blocks.py (SimpleCrossAttn*, Resnet*sampleBlock2D), attention_processor.py (AttnAddedKVProcessor),
 * embeddings.py (TextTimeEmbedding).
 * Pitfalls: the way round a block is halved and doubled too, without the norm; a block's sum is divided by a factor of its own; the text's group norm has 32
 * groups whatever the others have; the text is pooled with its raw width, before it is projected. */
#include <math.h>
#include <stdio.h>

#include "models/net_unet_impl.h"

static const tensor none = {0}; /* nothing beside */
static const linear_options plain = {0}, edge = {.edge = true};

typedef enum resampling { SAME, HALVE, TWICE } resampling;

/* ---- conditions: once for all steps ---- */

/* Attention of one query, the mean of the tokens, over itself and them all; [b, tokens, c] -> [b, 1, c] */
static tensor pool(run *r, tensor x, int heads)
{
    scope in = enter(r, "pool");
    int width = x.channels;
    tensor class = add_positions(r, mean_tokens(r, x), "positional_embedding", 1);
    tensor all = concat_tokens(r, class, x);
    tensor q = linear(r, class, "q_proj", width, plain), k = linear(r, all, "k_proj", width, plain), v = linear(r, all, "v_proj", width, plain);
    return leave(r, in, attention(r, q, k, v, heads, 1 / sqrtf((float)(width / heads)), NULL, NULL, NO_TENSOR));
}

void unet_conditions(run *r, const unet_config *c, const unet_condition_inputs *in)
{
    tensor raw = input(r, in->raw, in->batch, 1, in->tokens, c->text_dim);
    output(r, c->text_projection ? linear(r, raw, "encoder_hid_proj", c->cross_dim, edge) : raw, in->text);
    if (!c->text_pool)
        return;
    scope s = enter(r, "add_embedding");
    tensor pooled = pool(r, layer_norm(r, raw, "norm1", 1e-5f), c->pool_heads);
    output(r, leave(r, s, layer_norm(r, linear(r, pooled, "proj", c->time_dim, edge), "norm2", 1e-5f)), in->added);
}

/* ---- blocks ---- */

static conv_options conv3(norm before)
{
    return (conv_options){.kernel = 3, .stride = 1, .padding = 1, .before = before, .add_to = NO_TENSOR, .map = true, .sums = true};
}

/* Of x, with a skip connection beside it or none. map: only convolutions and norms read the result; of a resampled one nothing else does. */
static tensor resnet(run *r, const context *k, tensor x, tensor beside, int channels, resampling how, bool map, float divisor, const char *name)
{
    const unet_config *c = k->c;
    scope in = enter(r, "%s", name);
    tensor t = linear(r, k->time, "time_emb_proj", c->scale_shift ? 2 * channels : channels, edge);
    norm n = group_norm_beside(r, x, beside, "norm1", c->groups, c->eps, c->act);
    conv_options first = conv3(how == HALVE ? NO_NORM : n), last, one = {.kernel = 1, .stride = 1, .before = NO_NORM, .beside = beside, .add_to = NO_TENSOR, .map = map};
    first.beside = beside;
    first.plus = c->scale_shift ? (table_row){0} : (table_row){t, 0};
    first.upsample = how == TWICE;
    tensor from = how == HALVE ? halve(r, x, n) : x, h = conv(r, from, "conv1", channels, first);
    if (how == HALVE)
        drop(r, from);
    n = group_norm(r, h, "norm2", c->groups, c->eps, c->act);
    if (c->scale_shift) {
        tensor rows = rows_of(t, 2);
        n = norm_modulated(r, n, (table_row){rows, 0}, (table_row){rows, 1});
    }
    last = conv3(n);
    last.map = map;
    last.divisor = divisor;
    if (how != SAME)
        last.add_to = how == HALVE ? halve(r, x, NO_NORM) : twice(r, x);
    else if (x.channels + beside.channels == channels)
        last.add = x;
    else
        last.add_to = conv(r, x, "conv_shortcut", channels, one);
    return leave(r, in, conv(r, h, "conv2", channels, last));
}

static tensor normed_text(run *r, const context *k)
{
    switch (k->c->text_norm) {
    case UNET_TEXT_GROUP_NORM:
        return group_norm_tokens(r, k->text, "norm_cross", UNET_TEXT_GROUPS, 1e-5f);
    case UNET_TEXT_LAYER_NORM:
        return layer_norm(r, k->text, "norm_cross", 1e-5f);
    default:
        return copy(r, k->text);
    }
}

/* Added to x, in place. As many heads as fit: together they may be narrower than x. */
static tensor attend(run *r, const context *k, tensor x, int head, bool only_cross, const char *block, int i)
{
    scope in = enter(r, "%s.attentions.%d", block, i);
    int height = x.height, columns = x.width, heads = x.channels / head, width = heads * head;
    norm by = group_norm(r, x, "group_norm", k->c->groups, 1e-5f, ACT_NONE);
    tensor text = normed_text(r, k);
    tensor keys = linear(r, text, "add_k_proj", width, plain), values = linear(r, text, "add_v_proj", width, plain);
    x = sequence_of(x);
    if (!only_cross) {
        tensor h = normalize(r, x, by);
        keys = concat_tokens(r, keys, linear(r, h, "to_k", width, plain));
        values = concat_tokens(r, values, linear(r, h, "to_v", width, plain));
        drop(r, h);
    }
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        tensor q = linear(r, normalize(r, t, by), "to_q", width, plain);
        tensor y = attention(r, q, keys, values, heads, 1 / sqrtf((float)head), NULL, NULL, NO_TENSOR);
        linear_add(r, t, y, "to_out.0", NO_ROW, plain);
    }
    return leave(r, in, image_of(changed(r, x), height, columns));
}

tensor simple_down(run *r, const context *k, int level, tensor x, skips *s)
{
    const unet_level *l = &k->c->level[level];
    char block[32], name[64];
    snprintf(block, sizeof block, "down_blocks.%d", level);
    for (int i = 0; i < l->layers; i++) {
        snprintf(name, sizeof name, "%s.resnets.%d", block, i);
        tensor y = resnet(r, k, x, none, l->channels, SAME, !l->down_attention, k->c->block_scale, name);
        unet_passed(r, s, x);
        x = l->down_attention ? attend(r, k, y, l->heads, l->only_cross, block, i) : y;
        x = unet_keep(r, s, x);
    }
    if (level == k->c->levels - 1)
        return x;
    snprintf(name, sizeof name, "%s.downsamplers.0", block);
    tensor y = resnet(r, k, x, none, l->channels, HALVE, true, k->c->block_scale, name);
    unet_passed(r, s, x);
    return unet_keep(r, s, y);
}

tensor simple_middle(run *r, const context *k, tensor x)
{
    const unet_level *l = &k->c->level[k->c->levels - 1];
    x = resnet(r, k, x, none, l->channels, SAME, false, k->c->middle_scale, "mid_block.resnets.0");
    x = attend(r, k, x, l->heads, k->c->middle_only_cross, "mid_block", 0);
    tensor y = resnet(r, k, x, none, l->channels, SAME, true, k->c->middle_scale, "mid_block.resnets.1");
    drop(r, x);
    return y;
}

tensor simple_up(run *r, const context *k, int level, tensor x, skips *s)
{
    const unet_level *l = &k->c->level[level];
    char block[32], name[64];
    snprintf(block, sizeof block, "up_blocks.%d", k->c->levels - 1 - level);
    for (int i = 0; i <= l->layers; i++) {
        tensor skip = s->x[--s->count];
        snprintf(name, sizeof name, "%s.resnets.%d", block, i);
        tensor y = resnet(r, k, x, skip, l->channels, SAME, !l->up_attention, k->c->block_scale, name);
        drop(r, x);
        drop(r, skip);
        x = l->up_attention ? attend(r, k, y, l->heads, l->only_cross, block, i) : y;
    }
    if (level == 0)
        return x;
    snprintf(name, sizeof name, "%s.upsamplers.0", block);
    tensor y = resnet(r, k, x, none, l->channels, TWICE, true, k->c->block_scale, name);
    drop(r, x);
    return y;
}
