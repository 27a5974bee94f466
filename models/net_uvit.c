/* UVit2DModel, aMUSEd's (Patil et al. 2024, arXiv 2401.01808) after U-ViT (Bao et al. 2023): tokens of pictures in, logits of the masked ones out; ConvNeXt
 * blocks with cross-attention around a transformer. Reference: diffusers, models/unets/uvit_2d.py.
 * Pitfalls: both attentions of the outer blocks read the text, their norms have eps 1e-6 and gains whatever the config says; text goes through SiLU before its
 * mapping there, and that mapping is missing where the widths agree; micro-conditions are (width, height, crop, aesthetic score), behind the pooled text;
 * gated feed-forwards store the value first. Guidance is a sum of logits, and the last layer is linear: it is given the guided sum of its inputs, once. */
#include "models/net_uvit.h"

#include <math.h>

const name_alias uvit_aliases[] = {{NULL, NULL}};

static bool divides(const char *name, const char *what, int n, int by, status *st)
{
    return n % by == 0 || status_set(st, STATUS_BAD_FILE, "%s: %s %d is not a multiple of its %d heads", name, what, n, by);
}

bool uvit_config_read(uvit_config *c, const json *j, const char *name, status *st)
{
    *c = (uvit_config){0};
    c->hidden = (int)json_int(j, "hidden_size", 1, 1 << 16, 1024, name, st);
    c->text_dim = (int)json_int(j, "encoder_hidden_size", 1, 1 << 16, 768, name, st);
    c->pooled_dim = (int)json_int(j, "cond_embed_dim", 1, 1 << 16, 768, name, st);
    c->size_dim = (int)json_int(j, "micro_cond_encode_dim", 2, 1 << 14, 256, name, st);
    c->vocabulary = (int)json_int(j, "vocab_size", 1, 1 << 24, 8256, name, st);
    c->codes = (int)json_int(j, "codebook_size", 1, 1 << 24, 8192, name, st);
    c->in_channels = (int)json_int(j, "in_channels", 1, 1 << 16, 768, name, st);
    c->channels = (int)json_int(j, "block_out_channels", 1, 1 << 16, 768, name, st);
    c->blocks = (int)json_int(j, "num_res_blocks", 0, 256, 3, name, st);
    c->block_heads = (int)json_int(j, "block_num_heads", 1, 1024, 12, name, st);
    c->layers = (int)json_int(j, "num_hidden_layers", 0, 1024, 22, name, st);
    c->heads = (int)json_int(j, "num_attention_heads", 1, 1024, 16, name, st);
    c->inner = (int)json_int(j, "intermediate_size", 1, 1 << 18, 2816, name, st);
    c->sample_size = (int)json_int(j, "sample_size", 1, 8192, 64, name, st);
    c->eps = (float)json_double(j, "layer_norm_eps", 0, 1, 1e-6, name, st);
    c->bias = json_flag(j, "use_bias", false, name, st);
    c->gains = json_flag(j, "ln_elementwise_affine", true, name, st);
    c->resamples = json_flag(j, "downsample", false, name, st);
    int embedded = (int)json_int(j, "micro_cond_embed_dim", 1, 1 << 20, 1280, name, st);
    if (!status_ok(st))
        return false;
    if (json_flag(j, "upsample", false, name, st) != c->resamples)
        return status_set(st, STATUS_BAD_FILE, "%s: downsample and upsample go together", name);
    c->sizes = embedded / c->size_dim;
    if (embedded % c->size_dim)
        return status_set(st, STATUS_BAD_FILE, "%s: micro_cond_embed_dim %d is not a multiple of micro_cond_encode_dim %d", name, embedded, c->size_dim);
    if (c->codes > c->vocabulary)
        return status_set(st, STATUS_BAD_FILE, "%s: codebook_size %d is more than vocab_size %d", name, c->codes, c->vocabulary);
    return divides(name, "hidden_size", c->hidden, c->heads, st) && divides(name, "block_out_channels", c->channels, c->block_heads, st) && status_ok(st);
}

static linear_options layer_options(const uvit_config *c, bool edge) { return (linear_options){.no_bias = !c->bias, .edge = edge}; }

static tensor norm_of(run *r, const uvit_config *c, tensor x, const char *name) { return rms_norm(r, x, c->gains ? name : NULL, c->eps); }

/* ---- attention ---- */

static tensor attend(run *r, const uvit_config *c, tensor x, tensor queries, tensor keys, const char *name, int heads)
{
    scope in = enter(r, "%s", name);
    linear_options o = layer_options(c, false);
    tensor q = linear(r, queries, "to_q", x.channels, o), k = linear(r, keys, "to_k", x.channels, o), v = linear(r, keys, "to_v", x.channels, o);
    tensor y = attention(r, q, k, v, heads, 1 / sqrtf((float)(x.channels / heads)), NULL, NULL, NO_TENSOR);
    return leave(r, in, linear_add(r, x, y, "to_out.0", NO_ROW, o));
}

/* ---- the blocks around the transformer ---- */

static tensor two_rows(run *r, const uvit_config *c, tensor condition, const char *name, int width)
{
    return rows_of(linear(r, condition, name, 2 * width, layer_options(c, false)), 2);
}

/* condition: behind its SiLU, as everything that reads it wants it */
static tensor res_block(run *r, const uvit_config *c, tensor x, tensor condition, int i)
{
    scope in = enter(r, "res_blocks.%d", i);
    tensor h = norm_of(r, c, depthwise(r, x, "depthwise", 3, !c->bias), "norm");
    linear_options o = layer_options(c, false);
    o.act = ACT_GELU_ERF;
    tensor wide = linear(r, h, "channelwise_linear_1", 4 * c->channels, o);
    h = normalize(r, wide, response_norm(r, wide, "channelwise_norm", 1e-6f));
    drop(r, wide);
    x = linear_add(r, x, h, "channelwise_linear_2", NO_ROW, layer_options(c, false));
    tensor m = two_rows(r, c, condition, "cond_embeds_mapper", c->channels);
    return leave(r, in, modulate(r, x, (table_row){m, 0}, (table_row){m, 1}));
}

/* text: [batch, tokens, hidden]; text_silu: behind SiLU */
static tensor text_block(run *r, const uvit_config *c, tensor x, tensor text, tensor text_silu, int i)
{
    scope in = enter(r, "attention_blocks.%d", i);
    int height = x.height, width = x.width;
    x = sequence_of(x);
    tensor keys = c->hidden == c->channels ? text : linear(r, text_silu, "kv_mapper", c->channels, layer_options(c, false));
    x = attend(r, c, x, rms_norm(r, x, "norm1", 1e-6f), keys, "attn1", c->block_heads);
    x = attend(r, c, x, rms_norm(r, x, "norm2", 1e-6f), keys, "attn2", c->block_heads);
    return leave(r, in, image_of(x, height, width));
}

static tensor blocks(run *r, const uvit_config *c, tensor x, tensor condition, tensor text, tensor text_silu)
{
    for (int i = 0; i < c->blocks; i++)
        x = text_block(r, c, res_block(r, c, x, condition, i), text, text_silu, i);
    return x;
}

static tensor down(run *r, const uvit_config *c, tensor x, tensor condition, tensor text, tensor text_silu)
{
    scope in = enter(r, "down_block");
    if (c->resamples) {
        tensor h = norm_of(r, c, x, "downsample.norm");
        x = conv(r, h, "downsample.conv", c->channels, (conv_options){.kernel = 2, .stride = 2, .end_padding = 1, .no_bias = !c->bias, .before = NO_NORM, .add_to = NO_TENSOR});
    }
    return leave(r, in, blocks(r, c, x, condition, text, text_silu));
}

static tensor up(run *r, const uvit_config *c, tensor x, tensor condition, tensor text, tensor text_silu)
{
    scope in = enter(r, "up_block");
    x = blocks(r, c, x, condition, text, text_silu);
    if (c->resamples)
        x = conv_transposed(r, norm_of(r, c, x, "upsample.norm"), "upsample.conv", c->channels, !c->bias, NO_NORM);
    return leave(r, in, x);
}

/* ---- the transformer ---- */

static tensor modulated(run *r, tensor h, tensor m) { return modulate(r, h, (table_row){m, 0}, (table_row){m, 1}); }

static tensor last_norm(run *r, const uvit_config *c, tensor x)
{
    const char *name = c->gains ? "norm3.norm" : NULL;
    return c->bias || !name ? layer_norm(r, x, name, c->eps) : layer_norm_gain(r, x, name, c->eps);
}

static tensor layer(run *r, const uvit_config *c, tensor x, tensor condition, tensor text, int i)
{
    scope in = enter(r, "transformer_layers.%d", i);
    tensor m = two_rows(r, c, condition, "norm1.linear", c->hidden), h = modulated(r, norm_of(r, c, x, "norm1.norm"), m);
    x = attend(r, c, x, h, h, "attn1", c->heads);
    drop(r, h);
    m = two_rows(r, c, condition, "norm2.linear", c->hidden);
    h = modulated(r, norm_of(r, c, x, "norm2.norm"), m);
    x = attend(r, c, x, h, text, "attn2", c->heads);
    drop(r, h);
    m = two_rows(r, c, condition, "norm3.linear", c->hidden);
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        h = linear(r, modulated(r, last_norm(r, c, t), m), "ff.net.0.proj", 2 * c->inner, layer_options(c, false));
        linear_add(r, t, gated_halves(r, ACT_GELU_ERF, h), "ff.net.2", NO_ROW, layer_options(c, false));
    }
    return leave(r, in, x);
}

static tensor transformer(run *r, const uvit_config *c, tensor x, tensor condition, tensor text)
{
    int height = x.height, width = x.width;
    tensor h = norm_of(r, c, sequence_of(x), "project_to_hidden_norm"), y = linear(r, h, "project_to_hidden", c->hidden, layer_options(c, false));
    drop(r, h);
    drop(r, x);
    for (int i = 0; i < c->layers; i++)
        y = layer(r, c, y, condition, text, i);
    h = norm_of(r, c, y, "project_from_hidden_norm");
    drop(r, y);
    x = linear(r, h, "project_from_hidden", c->channels, layer_options(c, false));
    drop(r, h);
    return image_of(x, height, width);
}

/* ---- conditions, tokens, logits ---- */

/* [batch, 1, hidden], behind SiLU */
static tensor condition_of(run *r, const uvit_config *c, const uvit_inputs *in, int batch)
{
    scope s = enter(r, "cond_embed");
    tensor sizes = sinusoids(r, in->sizes, batch * c->sizes, c->size_dim, true, 0);
    sizes.batch = batch; /* those of an item side by side */
    sizes.channels = c->sizes * c->size_dim;
    tensor both[2] = {input(r, in->pooled, batch, 1, 1, c->pooled_dim), sizes}, x = concat_channels(r, both, 2);
    linear_options o = layer_options(c, true);
    o.act = ACT_SILU;
    return leave(r, s, linear(r, linear(r, x, "linear_1", c->hidden, o), "linear_2", c->hidden, o));
}

static tensor embed_tokens(run *r, const uvit_config *c, const uvit_inputs *in, int batch)
{
    scope s = enter(r, "embed");
    tensor x = embed(r, "embeddings.weight", in->ids, batch * in->height * in->width, c->vocabulary, c->in_channels);
    x = linear(r, norm_of(r, c, batch_of(x, batch), "layer_norm"), "conv", c->channels, layer_options(c, true));
    return leave(r, s, image_of(x, in->height, in->width));
}

static void predict_tokens(run *r, const uvit_config *c, const uvit_inputs *in, tensor x)
{
    scope s = enter(r, "mlm_layer");
    tensor h = norm_of(r, c, linear(r, sequence_of(x), "conv1", c->in_channels, layer_options(c, true)), "layer_norm");
    h = in->guided ? guide_halves(r, h, in->guidance) : h;
    region g = region_rows(r, h);
    for (tensor t; region_next(r, &g, &t);)
        output_rows(r, &g, linear(r, t, "conv2", c->codes, layer_options(c, true)), in->in_order, in->each, in->ctx);
    leave(r, s, NO_TENSOR);
}

void uvit_predict(run *r, const uvit_config *c, const uvit_inputs *in)
{
    int batch = in->guided ? 2 * in->images : in->images;
    tensor given = input(r, in->text, batch, 1, in->text_tokens, c->text_dim);
    tensor text = norm_of(r, c, linear(r, given, "encoder_proj", c->hidden, layer_options(c, true)), "encoder_proj_layer_norm");
    tensor text_silu = c->hidden == c->channels ? NO_TENSOR : activate(r, copy(r, text), ACT_SILU);
    tensor condition = condition_of(r, c, in, batch), x = embed_tokens(r, c, in, batch);
    x = down(r, c, x, condition, text, text_silu);
    x = transformer(r, c, x, condition, text);
    x = up(r, c, x, condition, text, text_silu);
    predict_tokens(r, c, in, x);
}

void uvit_record(run *r, const void *config)
{
    const uvit_config *c = config;
    uvit_predict(r, c, &(uvit_inputs){.images = 1, .height = c->resamples ? 2 : 1, .width = c->resamples ? 2 : 1, .text_tokens = 1});
}
