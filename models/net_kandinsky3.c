/* The UNet of Kandinsky 3 (Arkhipkin et al. 2023, arXiv 2312.03511). Reference: diffusers, models/unets/unet_kandinsky3.py; before it ai-forever/Kandinsky-3.
 * Pitfalls: every norm but the last is a group norm without gain and bias whose scale and shift come from the time; a residual block is four convolutions
 * (1, 3, 3, 1) through half the width, and the change of size lies inside of it, up in front of the second, down behind the third; the text, projected
 * and normed, is pooled by attention into the time, with the mean of all rows, hidden ones too, as the query; sines come before cosines, and their
 * exponent ends at 1. Which levels attend is a list of four, and a UNet of fewer levels reads it from its front on both ways. */
#include "models/net_kandinsky3.h"

#include <math.h>

const name_alias kandinsky3_aliases[] = {{NULL, NULL}};
const char kandinsky3_null[] = "null_embedding";

static const bool attends_down[KANDINSKY3_LEVELS] = {false, true, true, true}, attends_up[KANDINSKY3_LEVELS] = {true, true, true, false};
static const linear_options edge = {.edge = true}, no_bias = {.no_bias = true};
static const float EPS = 1e-5f;

bool kandinsky3_config_read(kandinsky3_config *c, const json *j, const char *name, status *st)
{
    int64_t channels[KANDINSKY3_LEVELS] = {384, 768, 1536, 3072};
    int n = json_ints(j, "block_out_channels", channels, KANDINSKY3_LEVELS, 2, 1 << 14, name, st);
    if (n < 0)
        return false;
    *c = (kandinsky3_config){.levels = n ? n : KANDINSKY3_LEVELS, .channels = {(int)channels[0] / 2}};
    for (int i = 0; i < c->levels; i++)
        c->channels[i + 1] = (int)channels[i];
    c->in_channels = (int)json_int(j, "in_channels", 1, 4096, 4, name, st);
    c->time_dim = (int)json_int(j, "time_embedding_dim", 1, 1 << 16, 1536, name, st);
    c->groups = (int)json_int(j, "groups", 1, 4096, 32, name, st);
    c->head_dim = (int)json_int(j, "attention_head_dim", 1, 1 << 12, 64, name, st);
    c->layers = (int)json_int(j, "layers_per_block", 2, 64, 3, name, st);
    c->cross_dim = (int)json_int(j, "cross_attention_dim", 1, 1 << 16, 4096, name, st);
    c->text_dim = (int)json_int(j, "encoder_hid_dim", 1, 1 << 16, 4096, name, st);
    if (status_ok(st) && c->channels[0] < 4)
        return status_set(st, STATUS_BAD_FILE, "%s: block_out_channels begins with %d; half of it are sines and cosines, at least 4", name, c->channels[1]);
    return status_ok(st);
}

typedef struct context {         /* what every block gets */
    const kandinsky3_config *c;
    tensor time;                 /* behind its activation, [b, 1, time_dim] */
    tensor text;                 /* [1, all rows, cross_dim] */
    const segments *seen;
} context;

/* ---- the time, and the text that is pooled into it ---- */

static tensor embed_time(run *r, const kandinsky3_config *c, const kandinsky3_inputs *in)
{
    tensor t = sinusoids(r, in->timesteps, in->batch, c->channels[0], false, 1);
    scope s = enter(r, "time_embedding");
    tensor h = linear(r, t, "linear_1", c->time_dim, (linear_options){.edge = true, .act = ACT_SILU});
    return leave(r, s, linear(r, h, "linear_2", c->time_dim, edge));
}

static tensor project_text(run *r, const kandinsky3_config *c, const kandinsky3_inputs *in)
{
    scope s = enter(r, "encoder_hid_proj");
    tensor text = input(r, in->text, in->batch, 1, in->tokens, c->text_dim);
    return leave(r, s, layer_norm(r, linear(r, text, "projection_linear", c->cross_dim, no_bias), "projection_norm", EPS));
}

static tensor attend(run *r, tensor q, tensor k, tensor v, int head_dim, const segments *s)
{
    int heads = q.channels / head_dim;
    return attention(r, q, k, v, heads, heads ? 1 / sqrtf((float)(q.channels / heads)) : 1, NULL, s, NO_TENSOR);
}

static tensor pool_text(run *r, const context *k, tensor time, tensor mean)
{
    scope s = enter(r, "add_time_condition.attention");
    int width = k->c->time_dim;
    tensor keys = linear(r, k->text, "to_k", width, no_bias), values = linear(r, k->text, "to_v", width, no_bias);
    tensor y = attend(r, linear(r, mean, "to_q", width, no_bias), keys, values, k->c->head_dim, k->seen);
    return leave(r, s, linear_add(r, time, y, "to_out.0", NO_ROW, no_bias));
}

/* ---- blocks ---- */

static norm time_norm(run *r, const context *k, tensor x, const char *name, activation act)
{
    norm n = group_norm(r, x, NULL, k->c->groups, EPS, act);
    scope s = enter(r, "%s.context_mlp", name);
    tensor rows = image_of(linear(r, k->time, "1", 2 * x.channels, edge), 1, 2);
    rows.channels = x.channels;
    n = norm_modulated(r, n, (table_row){rows, 0}, (table_row){rows, 1});
    leave(r, s, n.scale_shift);
    return n;
}

typedef enum resampling { SAME_SIZE, UP, DOWN } resampling;

static conv_options plain_conv(int kernel, norm before, tensor add_to)
{
    return (conv_options){.kernel = kernel, .stride = 1, .padding = kernel > 1, .before = before, .add_to = add_to};
}

static tensor shrink(run *r, tensor x, const char *name)
{
    tensor y = conv(r, x, name, x.channels, (conv_options){.kernel = 2, .stride = 2, .before = NO_NORM, .add_to = NO_TENSOR});
    drop(r, x);
    return y;
}

/* One of the four convolutions. x stays. */
static tensor step(run *r, const context *k, tensor x, int channels, int i, resampling how, tensor add_to)
{
    scope s = enter(r, "resnet_blocks.%d", i);
    norm n = time_norm(r, k, x, "group_norm", ACT_SILU);
    tensor y, grown = x;
    if (how == UP && i == 1) {
        grown = conv_transposed(r, x, "up_sample", x.channels, false, n);
        n = NO_NORM;
    }
    y = conv(r, grown, "projection", channels, plain_conv(i == 1 || i == 2 ? 3 : 1, n, add_to));
    if (how == DOWN && i == 2)
        y = shrink(r, y, "down_sample");
    return leave(r, s, y);
}

/* x is done with, or changed in place where it has the result's shape. */
static tensor shortcut(run *r, tensor x, int channels, resampling how)
{
    tensor y = x;
    if (how == UP) {
        y = conv_transposed(r, x, "shortcut_up_sample", x.channels, false, NO_NORM);
        drop(r, x);
    }
    x = y;
    if (x.channels != channels) {
        y = conv(r, x, "shortcut_projection", channels, plain_conv(1, NO_NORM, NO_TENSOR));
        drop(r, x);
    }
    return how == DOWN ? shrink(r, y, "shortcut_down_sample") : y;
}

static tensor resnet(run *r, const context *k, tensor x, int channels, resampling how, const char *list, int i)
{
    scope s = enter(r, "%s.%d", list, i);
    int hidden = (x.channels > channels ? x.channels : channels) / 2;
    tensor h = x;
    for (int b = 0; b < 3; b++) {
        tensor next = step(r, k, h, hidden, b, how, NO_TENSOR);
        if (b)
            drop(r, h);
        h = next;
    }
    return leave(r, s, step(r, k, h, channels, 3, how, shortcut(r, x, channels, how)));
}

/* Added to x in place, region by region. */
static void attend_text(run *r, const context *k, tensor x, norm by)
{
    scope s = enter(r, "attention");
    int n = x.channels;
    tensor keys = linear(r, k->text, "to_k", n, no_bias), values = linear(r, k->text, "to_v", n, no_bias);
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        tensor q = linear(r, normalize(r, t, by), "to_q", n, no_bias);
        linear_add(r, t, attend(r, q, keys, values, k->c->head_dim, k->seen), "to_out.0", NO_ROW, no_bias);
    }
    leave(r, s, x);
}

static void attend_self(run *r, const context *k, tensor x, norm by)
{
    scope s = enter(r, "attention");
    int n = x.channels, heads = n / k->c->head_dim;
    packed_keys packed = keys_new(r, x.batch, tensor_tokens(x), n, heads);
    region keys = region_rows(r, x);
    for (tensor t; region_next(r, &keys, &t);) {
        tensor h = normalize(r, t, by), key = linear(r, h, "to_k", n, no_bias);
        keys_pack(r, &packed, &keys, key, linear(r, h, "to_v", n, no_bias));
    }
    region queries = region_rows(r, x);
    for (tensor t; region_next(r, &queries, &t);) {
        tensor q = linear(r, normalize(r, t, by), "to_q", n, no_bias);
        linear_add(r, t, attention_keys(r, q, &packed, heads ? 1 / sqrtf((float)(n / heads)) : 1), "to_out.0", NO_ROW, no_bias);
    }
    leave(r, s, x);
}

/* In place. */
static tensor attention_block(run *r, const context *k, tensor x, bool to_text, int i)
{
    scope s = enter(r, "attentions.%d", i);
    norm n = time_norm(r, k, x, "in_norm", ACT_NONE);
    (to_text ? attend_text : attend_self)(r, k, sequence_of(x), n);
    n = time_norm(r, k, x, "out_norm", ACT_NONE);
    region g = region_rows(r, sequence_of(x));
    for (tensor t; region_next(r, &g, &t);) {
        tensor h = linear(r, normalize(r, t, n), "feed_forward.0", 4 * x.channels, (linear_options){.no_bias = true, .act = ACT_SILU});
        linear_add(r, t, h, "feed_forward.2", NO_ROW, no_bias);
    }
    return leave(r, s, x);
}

static tensor down_block(run *r, const context *k, tensor x, int level)
{
    const kandinsky3_config *c = k->c;
    scope s = enter(r, "down_blocks.%d", level);
    int out = c->channels[level + 1];
    if (level) /* the way up reads what came in */
        x = copy(r, x);
    if (attends_down[level])
        x = attention_block(r, k, x, false, 0);
    for (int i = 0; i < c->layers; i++) {
        x = resnet(r, k, x, out, SAME_SIZE, "resnets_in", i);
        if (attends_down[level])
            x = attention_block(r, k, x, true, i + 1);
        x = resnet(r, k, x, out, i == c->layers - 1 && level < c->levels - 1 ? DOWN : SAME_SIZE, "resnets_out", i);
    }
    return leave(r, s, x);
}

static tensor up_block(run *r, const context *k, tensor x, int i)
{
    const kandinsky3_config *c = k->c;
    scope s = enter(r, "up_blocks.%d", i);
    int in = c->channels[c->levels - i], out = c->channels[c->levels - i - 1];
    for (int n = 0; n < c->layers; n++) {
        x = resnet(r, k, x, x.channels, i && n == 0 ? UP : SAME_SIZE, "resnets_in", n);
        if (attends_up[i])
            x = attention_block(r, k, x, true, n + 1);
        x = resnet(r, k, x, n == c->layers - 1 ? out : in, SAME_SIZE, "resnets_out", n);
    }
    if (attends_up[i])
        x = attention_block(r, k, x, false, 0);
    return leave(r, s, x);
}

/* x and what the way down left, side by side; both are done with. */
static tensor join(run *r, tensor x, tensor skip)
{
    tensor both[2] = {x, skip}, y = concat_channels(r, both, 2);
    drop(r, x);
    drop(r, skip);
    return y;
}

void kandinsky3_denoise(run *r, const kandinsky3_config *c, const kandinsky3_inputs *in)
{
    context k = {.c = c, .seen = &in->seen};
    tensor time = embed_time(r, c, in), all = project_text(r, c, in), mean;
    if (in->null_embedding)
        all = hide_rows(r, all, in->original, kandinsky3_null);
    mean = mean_rows(r, all, in->lengths);
    k.text = batch_of(all, 1);
    k.time = activate(r, pool_text(r, &k, time, mean), ACT_SILU); /* every block begins with it */
    drop(r, mean);

    tensor left[KANDINSKY3_LEVELS], latents = input_nchw(r, in->latents, in->batch, c->in_channels, in->height, in->width);
    conv_options ends = plain_conv(3, NO_NORM, NO_TENSOR);
    ends.edge = true;
    tensor x = conv(r, latents, "conv_in", c->channels[0], ends);
    drop(r, latents);
    for (int i = 0; i < c->levels; i++)
        left[i] = x = down_block(r, &k, x, i);
    for (int i = 0; i < c->levels; i++)
        x = up_block(r, &k, i ? join(r, x, left[c->levels - 1 - i]) : x, i);
    ends.before = group_norm(r, x, "conv_norm_out", c->groups, EPS, ACT_SILU);
    output_nchw(r, conv(r, x, "conv_out", c->in_channels, ends), c->in_channels, in->noise);
}

void kandinsky3_record(run *r, const void *config)
{
    const kandinsky3_config *c = config;
    int unit = kandinsky3_unit(c);
    int32_t length = 1, start[2] = {0, 1};
    bool null = !r->imagine && weight_exists(r, kandinsky3_null);
    kandinsky3_inputs in = {.null_embedding = null, .batch = 1, .height = unit, .width = unit, .tokens = 1, .lengths = &length, .seen = {1, start, &length}};
    kandinsky3_denoise(r, c, &in);
}
