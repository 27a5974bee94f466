/* AutoencoderTiny, known as TAESD (Bohan 2023, github.com/madebyollin/taesd). Reference: diffusers, models/autoencoders/autoencoder_tiny.py, vae.py
 * (EncoderTiny, DecoderTiny).
 * Pitfalls: latents are clamped softly, 3 tanh(x / 3); pictures are 0..1 inside; layers are counted with activations and doublings, which have no
 * weights; those that change the resolution have no bias. The one for FLUX.2 adds a group-normed detour (`pool`) to its blocks at the latents'
 * resolution: our config key bottleneck_norm_groups, diffusers has no such class. */
#include "models/net_taesd.h"

#include <stdio.h>
#include <string.h>

static bool read_blocks(const json *j, const char *key, const char *channels_key, vae_config *c, int out[VAE_BLOCKS], const char *name, status *st)
{
    int64_t n[VAE_BLOCKS], channels[VAE_BLOCKS] = {64, 64, 64, 64};
    int blocks = json_ints(j, key, n, VAE_BLOCKS, 0, 64, name, st), widths = json_ints(j, channels_key, channels, VAE_BLOCKS, 1, 1 << 14, name, st);
    if (!status_ok(st))
        return false;
    if (blocks < 1 || (widths && widths != blocks) || (c->blocks && blocks != c->blocks))
        return status_set(st, STATUS_BAD_FILE, "%s: %s must have as many numbers as %s and as the other half", name, key, channels_key);
    for (int i = 0; i < blocks; i++) {
        out[i] = (int)n[i];
        c->channels[i] = (int)channels[i];
        if (channels[i] != channels[0])
            return status_set(st, STATUS_BAD_FILE, "%s: %s: all levels of a tiny autoencoder have the same width", name, channels_key);
    }
    c->blocks = blocks;
    return true;
}

bool taesd_config_read(vae_config *c, const json *j, const char *name, status *st)
{
    *c = (vae_config){.tiny = true};
    if (!read_blocks(j, "num_encoder_blocks", "encoder_block_out_channels", c, c->encoder_blocks, name, st) ||
        !read_blocks(j, "num_decoder_blocks", "decoder_block_out_channels", c, c->decoder_blocks, name, st))
        return false;
    c->in_channels = (int)json_int(j, "in_channels", 1, 1024, 3, name, st);
    c->out_channels = (int)json_int(j, "out_channels", 1, 1024, 3, name, st);
    c->latent_channels = (int)json_int(j, "latent_channels", 1, 4096, 4, name, st);
    c->scaling_factor = (float)json_double(j, "scaling_factor", 1e-6, 1e6, 1, name, st);
    c->shift_factor = (float)json_double(j, "shift_factor", -1e6, 1e6, 0, name, st);
    c->groups = (int)json_int(j, "bottleneck_norm_groups", 0, 4096, 0, name, st);
    json_int(j, "upsampling_scaling_factor", 2, 2, 2, name, st);
    const char *act = json_text(j, "act_fn", "relu", name, st), *enlarges = json_text(j, "upsample_fn", "nearest", name, st);
    if (status_ok(st) && strcmp(act, "relu") != 0)
        return status_set(st, STATUS_BAD_FILE, "%s: act_fn \"%s\": a tiny autoencoder has relu", name, act);
    if (status_ok(st) && strcmp(enlarges, "nearest") != 0)
        return status_set(st, STATUS_BAD_FILE, "%s: upsample_fn \"%s\": only nearest is known", name, enlarges);
    return status_ok(st);
}

static conv_options conv3(activation act)
{
    return (conv_options){.kernel = 3, .stride = 1, .padding = 1, .act = act, .before = NO_NORM, .add_to = NO_TENSOR, .map = true};
}

static tensor then(run *r, tensor x, const char *name, int channels, conv_options o)
{
    tensor y = conv(r, x, name, channels, o);
    drop(r, x);
    return y;
}

/* x + the detour, in place */
static void bottleneck(run *r, const vae_config *c, tensor x)
{
    conv_options one = {.kernel = 1, .stride = 1, .no_bias = true, .before = NO_NORM, .add_to = NO_TENSOR, .map = true};
    tensor h = conv(r, x, "pool.0", 4 * x.channels, one);
    one.before = group_norm(r, h, "pool.1", c->groups, 1e-5f, ACT_RELU);
    one.add_to = x;
    conv(r, h, "pool.3", x.channels, one);
    drop(r, h);
}

static tensor block(run *r, const vae_config *c, tensor x, bool pooled)
{
    if (pooled)
        bottleneck(r, c, x);
    tensor h = conv(r, x, "conv.0", x.channels, conv3(ACT_RELU));
    h = then(r, h, "conv.2", x.channels, conv3(ACT_RELU));
    conv_options last = conv3(ACT_RELU);
    last.add_to = x;
    conv(r, h, "conv.4", x.channels, last);
    drop(r, h);
    return x;
}

/* `count` blocks from layer `*n` on, which is counted up */
static tensor blocks(run *r, const vae_config *c, tensor x, const char *half, int count, bool pooled, int *n)
{
    for (int i = 0; i < count; i++) {
        scope in = enter(r, "%s.layers.%d", half, (*n)++);
        x = leave(r, in, block(r, c, x, pooled));
    }
    return x;
}

static tensor layer(run *r, tensor x, const char *half, int n, int channels, conv_options o)
{
    char name[16];
    snprintf(name, sizeof name, "%d", n);
    scope in = enter(r, "%s.layers", half);
    return leave(r, in, then(r, x, name, channels, o));
}

void taesd_decode(run *r, const vae_config *c, const float *latents, int batch, int height, int width, float *image)
{
    tensor x = soft_clamp(r, input_nchw(r, latents, batch, c->latent_channels, height, width), 3);
    conv_options edge = conv3(ACT_RELU);
    edge.edge = true;
    x = layer(r, x, "decoder", 0, c->channels[0], edge);
    int n = 2;
    for (int i = 0; i < c->blocks; i++) {
        x = blocks(r, c, x, "decoder", c->decoder_blocks[i], c->groups && i == 0, &n);
        if (i == c->blocks - 1)
            break;
        conv_options up = conv3(ACT_NONE);
        up.upsample = up.no_bias = true;
        x = layer(r, x, "decoder", n + 1, c->channels[i + 1], up);
        n += 2;
    }
    edge.act = ACT_NONE;
    edge.map = false;
    x = layer(r, x, "decoder", n, c->out_channels, edge);
    output_nchw(r, affine(r, x, 2, -1), c->out_channels, image);
}

void taesd_encode(run *r, const vae_config *c, const float *image, int batch, int height, int width, float *latents)
{
    tensor x = affine(r, input_nchw(r, image, batch, c->in_channels, height, width), 0.5f, 0.5f);
    conv_options edge = conv3(ACT_NONE);
    edge.edge = true;
    int n = 0;
    for (int i = 0; i < c->blocks; i++) {
        conv_options down = conv3(ACT_NONE);
        down.stride = 2;
        down.no_bias = true;
        x = layer(r, x, "encoder", n++, c->channels[i], i ? down : edge);
        x = blocks(r, c, x, "encoder", c->encoder_blocks[i], c->groups && i == c->blocks - 1, &n);
    }
    edge.map = false;
    x = layer(r, x, "encoder", n, c->latent_channels, edge);
    output_nchw(r, x, c->latent_channels, latents);
}

/* Its own files hold one half. */
void taesd_record(run *r, const vae_config *c)
{
    bool encoder = weight_exists(r, "encoder.layers.0.weight"), decoder = weight_exists(r, "decoder.layers.0.weight");
    if (decoder || !encoder)
        taesd_decode(r, c, NULL, 1, 2, 2, NULL);
    if (encoder)
        taesd_encode(r, c, NULL, 1, 2 * vae_factor(c), 2 * vae_factor(c), NULL);
}
