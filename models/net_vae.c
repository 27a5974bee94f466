/* AutoencoderKL (Rombach et al. 2022, arXiv 2112.10752). Reference: diffusers, models/autoencoders/autoencoder_kl.py, vae.py.
 * Pitfalls: act_fn is of the blocks, the norm behind the last has silu; group norms here have eps 1e-6 (UNets 1e-5); the middle attention has one head; its names come in three spellings. The encoder's
 * downsampling convolution pads at the end only; what it makes are means and logarithms of variances, of which latents are drawn. With a codebook
 * (net_vq.c) it makes latents, each of which stands for its nearest entry. */
#include "models/net_vae.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/net_act.h"
#include "models/net_taesd.h"
#include "models/net_vq.h"

const name_alias vae_aliases[] = {{"attentions.0.to_q", "attentions.0.query"},     {"attentions.0.to_k", "attentions.0.key"},
                                  {"attentions.0.to_v", "attentions.0.value"},     {"attentions.0.to_out.0", "attentions.0.proj_attn"},
                                  {"attentions.0.group_norm", "attentions.0.norm"}, {"quantize.embedding", "quantize.embed"},
                                  {NULL, NULL}};

/* Blocks of a half by type; one of them has attention behind each resnet. */
static bool read_types(const vae_config *c, const json *j, const char *key, const char *plain, const char *attending, bool attends[VAE_BLOCKS], const char *name, status *st)
{
    const json *types = json_member(j, key);
    size_t n = types && json_object_is_type(types, json_type_array) ? json_object_array_length(types) : 0;
    if (n && n != (size_t)c->blocks)
        return status_set(st, STATUS_BAD_FILE, "%s: %s names %zu blocks, block_out_channels %d", name, key, n, c->blocks);
    for (size_t i = 0; i < n; i++) {
        const char *type = json_object_get_string(json_object_array_get_idx(types, i));
        attends[i] = type && strcmp(type, attending) == 0;
        if (type && strcmp(type, plain) && !attends[i])
            return status_set(st, STATUS_BAD_FILE, "%s: %s has %s; only %s and %s are known", name, key, type, plain, attending);
    }
    return true;
}

/* One number a latent channel. */
static bool read_channel_numbers(const vae_config *c, const json *list, const char *key, double low, float out[VAE_NORMED], const char *name, status *st)
{
    int n = json_object_is_type(list, json_type_array) ? (int)json_object_array_length(list) : 0;
    if (n != c->latent_channels || n > VAE_NORMED)
        return status_set(st, STATUS_BAD_FILE, "%s: %s has %d numbers for %d latent channels, of which it may be told up to %d", name, key, n, c->latent_channels, VAE_NORMED);
    for (int i = 0; i < n; i++) {
        json *one = json_object_array_get_idx(list, (size_t)i);
        double v = json_object_is_type(one, json_type_double) || json_object_is_type(one, json_type_int) ? json_object_get_double(one) : (double)NAN;
        if (!(v >= low && v <= 1e6))
            return status_set(st, STATUS_BAD_FILE, "%s: %s[%d] must be a number from %g to 1e6", name, key, i, low);
        out[i] = (float)v;
    }
    return true;
}

static bool read_norms(vae_config *c, const json *j, const char *name, status *st)
{
    const json *mean = json_member(j, "latents_mean"), *deviation = json_member(j, "latents_std");
    c->normed = mean && deviation;
    return !c->normed || (read_channel_numbers(c, mean, "latents_mean", -1e6, c->mean, name, st) &&
                          read_channel_numbers(c, deviation, "latents_std", 1e-6, c->deviation, name, st));
}

bool vae_config_read(vae_config *c, const json *j, const char *name, status *st)
{
    if (strcmp(json_text(j, "_class_name", "", name, st), "AutoencoderTiny") == 0)
        return taesd_config_read(c, j, name, st);
    if (json_member(j, "ddconfig"))
        return vq_original_read(c, j, name, st);
    const char *kind = json_text(j, "_class_name", "AutoencoderKL", name, st);
    if (strcmp(kind, "AutoencoderKL") && strcmp(kind, "VQModel"))
        return status_set(st, STATUS_BAD_FILE, "%s: \"%.60s\": the autoencoders known are AutoencoderKL, VQModel and AutoencoderTiny", name, kind);
    *c = (vae_config){.act = ACT_SILU};
    int64_t channels[VAE_BLOCKS] = {64};
    int blocks = json_ints(j, "block_out_channels", channels, VAE_BLOCKS, 1, 1 << 14, name, st);
    c->blocks = blocks > 0 ? blocks : 1;
    for (int i = 0; i < c->blocks; i++)
        c->channels[i] = (int)channels[i];
    c->in_channels = (int)json_int(j, "in_channels", 1, 1024, 3, name, st);
    c->out_channels = (int)json_int(j, "out_channels", 1, 1024, 3, name, st);
    c->latent_channels = (int)json_int(j, "latent_channels", 1, 4096, 4, name, st);
    c->layers = (int)json_int(j, "layers_per_block", 1, 64, 1, name, st);
    c->groups = (int)json_int(j, "norm_num_groups", 1, 4096, 32, name, st);
    c->scaling_factor = (float)json_double(j, "scaling_factor", 1e-6, 1e6, 0.18215, name, st);
    c->shift_factor = (float)json_double(j, "shift_factor", -1e6, 1e6, 0, name, st);
    c->post_quant_conv = json_flag(j, "use_post_quant_conv", true, name, st);
    c->quant_conv = json_flag(j, "use_quant_conv", true, name, st);
    c->mid_attention = json_flag(j, "mid_block_add_attention", true, name, st);
    c->z_channels = c->latent_channels;
    return act_read(j, "act_fn", "silu", &c->act, name, st) && read_norms(c, j, name, st) && read_types(c, j, "up_block_types", "UpDecoderBlock2D", "AttnUpDecoderBlock2D", c->attend_up, name, st) &&
           read_types(c, j, "down_block_types", "DownEncoderBlock2D", "AttnDownEncoderBlock2D", c->attend_down, name, st) && vq_config_read(c, j, name, st);
}

static const float EPS = 1e-6f;
enum { SPATIAL_GROUPS = 32 }; /* whatever norm_num_groups says */

typedef struct half {      /* encoder or decoder */
    const vae_config *c;
    tensor map;            /* what spatial norms look at: the latents in front of post_quant_conv; NO_TENSOR: plain ones */
} half;

static norm norm_of(run *r, const half *v, tensor x, const char *name, activation act)
{
    char inner[NAME_BYTES / 4];
    if (v->map.place < 0)
        return group_norm(r, x, name, v->c->groups, EPS, act);
    snprintf(inner, sizeof inner, "%s.norm_layer", name);
    return norm_spatial(r, x, group_norm(r, x, inner, SPATIAL_GROUPS, EPS, act), name, v->map);
}

static conv_options conv3(norm before, tensor add_to, bool map)
{
    return (conv_options){.kernel = 3, .stride = 1, .padding = 1, .before = before, .add_to = add_to, .map = map, .sums = true};
}

/* map: in the up blocks, whose tensors only convolutions and norms read */
static tensor resnet(run *r, const half *v, tensor x, int channels, bool map)
{
    tensor h = conv(r, x, "conv1", channels, conv3(norm_of(r, v, x, "norm1", v->c->act), NO_TENSOR, map));
    if (x.channels != channels) {
        tensor s = conv(r, x, "conv_shortcut", channels, (conv_options){.kernel = 1, .stride = 1, .before = NO_NORM, .add_to = NO_TENSOR, .map = map});
        drop(r, x);
        x = s;
    }
    x = conv(r, h, "conv2", channels, conv3(norm_of(r, v, h, "norm2", v->c->act), x, map));
    drop(r, h);
    return x;
}

static tensor attend(run *r, const half *v, tensor x, int i)
{
    scope in = enter(r, "attentions.%d", i);
    int height = x.height, width = x.width, n = x.channels;
    norm by = norm_of(r, v, x, v->map.place < 0 ? "group_norm" : "spatial_norm", ACT_NONE);
    x = sequence_of(changed(r, x));
    packed_keys packed = keys_new(r, x.batch, tensor_tokens(x), n, 1);
    region keys = region_rows(r, x);
    for (tensor t; region_next(r, &keys, &t);) {
        tensor h = normalize(r, t, by), k = linear(r, h, "to_k", n, (linear_options){0});
        keys_pack(r, &packed, &keys, k, linear(r, h, "to_v", n, (linear_options){0}));
    }
    region queries = region_rows(r, x);
    for (tensor t; region_next(r, &queries, &t);) {
        tensor h = normalize(r, t, by), q = linear(r, h, "to_q", n, (linear_options){0});
        drop(r, h);
        tensor y = attention_keys(r, q, &packed, 1 / sqrtf((float)n));
        drop(r, q);
        linear_add(r, t, y, "to_out.0", NO_ROW, (linear_options){0});
    }
    return leave(r, in, image_of(x, height, width));
}

static tensor resnet_in(run *r, const half *v, tensor x, int i, int channels, bool map)
{
    scope in = enter(r, "resnets.%d", i);
    return leave(r, in, resnet(r, v, x, channels, map));
}

static tensor middle(run *r, const half *v, tensor x, const char *name)
{
    scope in = enter(r, "%s", name);
    x = resnet_in(r, v, x, 0, x.channels, false);
    if (v->c->mid_attention)
        x = attend(r, v, x, 0);
    return leave(r, in, resnet_in(r, v, x, 1, x.channels, false));
}

static tensor up_block(run *r, const half *v, tensor x, int i)
{
    const vae_config *c = v->c;
    scope in = enter(r, "decoder.up_blocks.%d", i);
    int channels = c->channels[c->blocks - 1 - i];
    for (int k = 0; k <= c->layers; k++) {
        x = resnet_in(r, v, x, k, channels, !c->attend_up[i]);
        if (c->attend_up[i])
            x = attend(r, v, x, k);
    }
    if (i < c->blocks - 1) {
        conv_options o = conv3(NO_NORM, NO_TENSOR, !c->attend_up[i + 1]); /* attention reads no map */
        o.upsample = true;
        tensor y = conv(r, x, "upsamplers.0.conv", channels, o);
        drop(r, x);
        x = y;
    }
    return leave(r, in, x);
}

/* x: [batch, h, w, latent_channels], dropped */
static void decode(run *r, const vae_config *c, tensor x, float *image)
{
    tensor y;
    half v = {c, c->spatial ? x : NO_TENSOR};
    conv_options edge = {.kernel = 1, .stride = 1, .edge = true, .before = NO_NORM, .add_to = NO_TENSOR};
    if (c->post_quant_conv) {
        y = conv(r, x, "post_quant_conv", c->z_channels, edge);
        if (!c->spatial)
            drop(r, x);
        x = y;
    }
    edge.kernel = 3;
    edge.padding = 1;
    y = conv(r, x, "decoder.conv_in", c->channels[c->blocks - 1], edge);
    drop(r, x);
    x = middle(r, &v, y, "decoder.mid_block");
    for (int i = 0; i < c->blocks; i++)
        x = up_block(r, &v, x, i);
    edge.before = norm_of(r, &v, x, "decoder.conv_norm_out", ACT_SILU);
    y = conv(r, x, "decoder.conv_out", c->out_channels, edge);
    output_nchw(r, y, c->out_channels, image);
}

void vae_decode(run *r, const vae_config *c, const float *latents, int batch, int height, int width, float *image)
{
    if (c->tiny) {
        taesd_decode(r, c, latents, batch, height, width, image);
        return;
    }
    tensor x = input_nchw(r, latents, batch, c->latent_channels, height, width);
    decode(r, c, c->codes && !c->keeps_latents ? vq_quantize(r, c, x, NULL) : x, image);
}

void vae_decode_tokens(run *r, const vae_config *c, const int32_t *tokens, int batch, int height, int width, float *image)
{
    decode(r, c, vq_look_up(r, c, tokens, batch, height, width), image);
}

static tensor down_block(run *r, const half *v, tensor x, int i)
{
    const vae_config *c = v->c;
    scope in = enter(r, "encoder.down_blocks.%d", i);
    bool last = i == c->blocks - 1; /* the middle reads what it makes */
    for (int k = 0; k < c->layers; k++) {
        x = resnet_in(r, v, x, k, c->channels[i], !last && !c->attend_down[i]);
        if (c->attend_down[i])
            x = attend(r, v, x, k);
    }
    if (!last) {
        conv_options o = {.kernel = 3, .stride = 2, .end_padding = 1, .before = NO_NORM, .add_to = NO_TENSOR, .map = i < c->blocks - 2 && !c->attend_down[i + 1]};
        tensor y = conv(r, x, "downsamplers.0.conv", c->channels[i], o);
        drop(r, x);
        x = y;
    }
    return leave(r, in, x);
}

/* Moments, or latents: [batch, h, w, n] */
static tensor encode(run *r, const vae_config *c, const float *image, int batch, int height, int width)
{
    half v = {c, NO_TENSOR};
    int inside = c->codes ? c->z_channels : 2 * c->z_channels, outside = c->codes ? c->latent_channels : inside;
    conv_options edge = {.kernel = 3, .stride = 1, .padding = 1, .edge = true, .before = NO_NORM, .add_to = NO_TENSOR, .map = c->blocks > 1 && !c->attend_down[0]};
    tensor picture = input_nchw(r, image, batch, c->in_channels, height, width), x = conv(r, picture, "encoder.conv_in", c->channels[0], edge);
    drop(r, picture);
    for (int i = 0; i < c->blocks; i++)
        x = down_block(r, &v, x, i);
    x = middle(r, &v, x, "encoder.mid_block");
    edge.map = false;
    edge.before = norm_of(r, &v, x, "encoder.conv_norm_out", ACT_SILU);
    x = conv(r, x, "encoder.conv_out", inside, edge);
    if (c->quant_conv)
        x = conv(r, x, "quant_conv", outside, (conv_options){.kernel = 1, .stride = 1, .edge = true, .before = NO_NORM, .add_to = NO_TENSOR});
    return x;
}

void vae_encode(run *r, const vae_config *c, const float *image, int batch, int height, int width, float *moments)
{
    if (c->tiny) {
        taesd_encode(r, c, image, batch, height, width, moments);
        return;
    }
    tensor x = encode(r, c, image, batch, height, width);
    output_nchw(r, x, x.channels, moments);
}

void vae_encode_tokens(run *r, const vae_config *c, const float *image, int batch, int height, int width, int32_t *tokens)
{
    vq_quantize(r, c, encode(r, c, image, batch, height, width), tokens);
}

void vae_record(run *r, const void *config)
{
    const vae_config *c = config;
    if (c->tiny) {
        taesd_record(r, c);
        return;
    }
    int size = 2 * vae_factor(c);
    if (c->codes)
        vae_decode_tokens(r, c, NULL, 1, 2, 2, NULL);
    else
        vae_decode(r, c, NULL, 1, 2, 2, NULL);
    if (c->gumbel || !weight_exists(r, "encoder.conv_in.weight")) /* a decoder alone will do for pictures from text */
        return;
    if (c->codes)
        vae_encode_tokens(r, c, NULL, 1, size, size, NULL);
    else
        vae_encode(r, c, NULL, 1, size, size, NULL);
}
