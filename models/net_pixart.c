/* PixArt-alpha (Chen et al. 2023, arXiv 2310.00426) and PixArt-Sigma (2024, arXiv 2403.04692): a DiT with one modulation MLP for all blocks
 * (adaLN-single) and cross-attention to T5. Reference: diffusers, models/transformers/pixart_transformer_2d.py.
 * Pitfalls: no norm before cross-attention (norm2 stands before the feed-forward only); masked text tokens are not computed at all, which is
 * exact (their weight is exp(-10000)); the position table is computed, its scale follows sample_size; of 8 output channels the first half counts. */
#include "models/net_pixart.h"

#include <math.h>
#include <string.h>

const name_alias pixart_aliases[] = {{NULL, NULL}};

bool pixart_config_read(pixart_config *c, const json *j, const char *name, status *st)
{
    c->heads = (int)json_int(j, "num_attention_heads", 1, 1024, 16, name, st);
    c->head_dim = (int)json_int(j, "attention_head_dim", 1, 4096, 72, name, st);
    c->in_channels = (int)json_int(j, "in_channels", 1, 4096, 4, name, st);
    c->out_channels = (int)json_int(j, "out_channels", 1, 4096, c->in_channels, name, st);
    c->layers = (int)json_int(j, "num_layers", 1, 1024, 28, name, st);
    c->cross_dim = (int)json_int(j, "cross_attention_dim", 1, 1 << 16, c->heads * c->head_dim, name, st);
    c->sample_size = (int)json_int(j, "sample_size", 1, 8192, 128, name, st);
    c->patch = (int)json_int(j, "patch_size", 1, 64, 2, name, st);
    c->caption_channels = (int)json_int(j, "caption_channels", 0, 1 << 16, 0, name, st);
    c->eps = (float)json_double(j, "norm_eps", 0, 1, 1e-6, name, st);
    c->interpolation_scale = (float)json_double(j, "interpolation_scale", 1e-3, 1e3, c->sample_size / 64 > 1 ? c->sample_size / 64 : 1, name, st);
    c->attention_bias = json_flag(j, "attention_bias", true, name, st);
    const json *extra = json_member(j, "use_additional_conditions");
    c->additional_conditions = extra ? json_flag(j, "use_additional_conditions", false, name, st) : c->sample_size == 128;
    const char *act = json_text(j, "activation_fn", "gelu-approximate", name, st), *norm_type = json_text(j, "norm_type", "ada_norm_single", name, st);
    c->act = strcmp(act, "gelu") == 0 ? ACT_GELU_ERF : ACT_GELU_TANH;
    if (strcmp(act, "gelu") && strcmp(act, "gelu-approximate"))
        return status_set(st, STATUS_BAD_FILE, "%s: activation_fn \"%s\" is not one of gelu, gelu-approximate", name, act);
    if (strcmp(norm_type, "ada_norm_single"))
        return status_set(st, STATUS_BAD_FILE, "%s: norm_type \"%s\": PixArt's is ada_norm_single", name, norm_type);
    if (json_flag(j, "norm_elementwise_affine", false, name, st))
        return status_set(st, STATUS_BAD_FILE, "%s: norm_elementwise_affine is true: PixArt's norms have no weights", name);
    return status_ok(st);
}

static const linear_options plain = {0}, edge = {.edge = true}, edge_silu = {.edge = true, .act = ACT_SILU};

/* linear - silu - linear over a sinusoid */
static tensor embed_values(run *r, const float *values, int count, const char *name, int width)
{
    scope in = enter(r, "%s", name);
    tensor h = linear(r, sinusoids(r, values, count, 256, true, 0), "linear_1", width, edge_silu);
    return leave(r, in, linear(r, h, "linear_2", width, edge));
}

static tensor embed_conditions(run *r, const pixart_config *c, const pixart_inputs *in, int width)
{
    scope s = enter(r, "adaln_single.emb");
    tensor t = embed_values(r, in->timesteps, in->batch, "timestep_embedder", width);
    if (c->additional_conditions) {
        tensor size = embed_values(r, in->resolution, in->batch * 2, "resolution_embedder", width / 3);
        size.batch = in->batch; /* height and width of an item side by side */
        size.channels = width / 3 * 2;
        tensor both[2] = {size, embed_values(r, in->aspect_ratio, in->batch, "aspect_ratio_embedder", width / 3)};
        t = add(r, t, concat_channels(r, both, 2));
    }
    return leave(r, s, t);
}

static tensor self_attention(run *r, const pixart_config *c, tensor x, tensor m)
{
    int width = c->heads * c->head_dim;
    linear_options qkv = {.no_bias = !c->attention_bias};
    scope in = enter(r, "attn1");
    packed_keys packed = keys_new(r, x.batch, tensor_tokens(x), width, c->heads);
    region keys = region_rows(r, x);
    for (tensor t; region_next(r, &keys, &t);) {
        tensor h = layer_norm_modulated(r, t, c->eps, (table_row){m, 1}, (table_row){m, 0});
        tensor k = linear(r, h, "to_k", width, qkv);
        keys_pack(r, &packed, &keys, k, linear(r, h, "to_v", width, qkv));
    }
    region queries = region_rows(r, x); /* normalized a second time: cheaper than keeping it */
    for (tensor t; region_next(r, &queries, &t);) {
        tensor h = layer_norm_modulated(r, t, c->eps, (table_row){m, 1}, (table_row){m, 0});
        tensor q = linear(r, h, "to_q", width, qkv);
        drop(r, h);
        tensor y = attention_keys(r, q, &packed, 1 / sqrtf((float)c->head_dim));
        drop(r, q);
        linear_add(r, t, y, "to_out.0", (table_row){m, 2}, plain);
    }
    return leave(r, in, x);
}

static tensor cross_attention(run *r, const pixart_config *c, tensor x, tensor text, const segments *s)
{
    int width = c->heads * c->head_dim;
    linear_options qkv = {.no_bias = !c->attention_bias};
    scope in = enter(r, "attn2");
    tensor k = linear(r, text, "to_k", width, qkv), v = linear(r, text, "to_v", width, qkv);
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        tensor q = linear(r, t, "to_q", width, qkv);
        tensor y = attention(r, q, k, v, c->heads, 1 / sqrtf((float)c->head_dim), NULL, s, NO_TENSOR);
        linear_add(r, t, y, "to_out.0", NO_ROW, plain);
    }
    return leave(r, in, x);
}

static tensor feed_forward(run *r, const pixart_config *c, tensor x, tensor m)
{
    int width = c->heads * c->head_dim;
    scope in = enter(r, "ff.net");
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        tensor h = layer_norm_modulated(r, t, c->eps, (table_row){m, 4}, (table_row){m, 3});
        h = linear(r, h, "0.proj", 4 * width, (linear_options){.act = c->act});
        linear_add(r, t, h, "2", (table_row){m, 5}, plain);
    }
    return leave(r, in, x);
}

static tensor block(run *r, const pixart_config *c, int i, tensor x, tensor text, const segments *s, tensor t6)
{
    scope in = enter(r, "transformer_blocks.%d", i);
    tensor m = modulation(r, t6, "scale_shift_table", 6, false); /* shift, scale, gate of attention; of the feed-forward */
    x = self_attention(r, c, x, m);
    x = cross_attention(r, c, x, text, s);
    return leave(r, in, feed_forward(r, c, x, m));
}

void pixart_denoise(run *r, const pixart_config *c, const pixart_inputs *in)
{
    int width = c->heads * c->head_dim, rows = in->height / c->patch, columns = in->width / c->patch;
    tensor latents = input_nchw(r, in->latents, in->batch, c->in_channels, in->height, in->width);
    tensor x = conv(r, latents, "pos_embed.proj", width, (conv_options){.kernel = c->patch, .stride = c->patch, .edge = true, .before = NO_NORM, .add_to = NO_TENSOR});
    drop(r, latents);
    x = sequence_of(add_sincos_2d(r, x, c->sample_size / c->patch, c->interpolation_scale));

    tensor t = embed_conditions(r, c, in, width);
    tensor silu = activate(r, copy(r, t), ACT_SILU);
    tensor t6 = linear(r, silu, "adaln_single.linear", 6 * width, edge);

    int tokens = in->segments.start[in->segments.count];
    tensor text = input(r, in->text, 1, 1, tokens, c->caption_channels ? c->caption_channels : c->cross_dim);
    if (c->caption_channels) {
        text = linear(r, text, "caption_projection.linear_1", width, (linear_options){.edge = true, .act = ACT_GELU_TANH});
        text = linear(r, text, "caption_projection.linear_2", width, edge);
    }
    for (int i = 0; i < c->layers; i++)
        x = block(r, c, i, x, text, &in->segments, t6);

    tensor m = modulation(r, t, "scale_shift_table", 2, true);
    x = layer_norm_modulated(r, x, 1e-6f, (table_row){m, 1}, (table_row){m, 0});
    x = linear(r, x, "proj_out", c->patch * c->patch * c->out_channels, edge);
    output_nchw(r, unpatchify(r, image_of(x, rows, columns), c->patch, c->out_channels), c->out_channels, in->noise);
}

void pixart_record(run *r, const void *config)
{
    const pixart_config *c = config;
    int32_t start[2] = {0, 1};
    pixart_inputs in = {.batch = 1, .height = c->patch, .width = c->patch, .segments = {1, start}};
    pixart_denoise(r, c, &in);
}
