/* VQModel, known as VQGAN (Esser et al. 2021, arXiv 2012.09841): an autoencoder whose latents are entries of a codebook; and MoVQ (Zheng et al. 2022, arXiv
 * 2209.09002), a decoder of them whose norms are spatial: each is scaled and shifted by what stands at its place in the latents. References: diffusers,
 * models/autoencoders/vq_model.py; taming-transformers, taming/models/vqgan.py.
 * Pitfalls: a latent's width outside is vq_embed_dim, inside latent_channels; diffusers' decode() quantizes latents unless it is told not to, as the
 * Kandinsky pipelines do (norm_type "spatial", which do not scale them either); aMUSEd's (lookup_from_codebook) takes and makes pictures in 0..1, the others
 * in -1..1; aMUSEd's has no attention in the middle. Gumbel-trained ones call their codebook quantize.embed. */
#include "models/net_vq.h"

#include <string.h>

static const char CODEBOOK[] = "quantize.embedding.weight";

bool vq_config_read(vae_config *c, const json *j, const char *name, status *st)
{
    if (strcmp(json_text(j, "_class_name", "", name, st), "VQModel") != 0)
        return status_ok(st);
    const char *type = json_text(j, "norm_type", "group", name, st);
    if (strcmp(type, "group") != 0 && strcmp(type, "spatial") != 0)
        return status_set(st, STATUS_BAD_FILE, "%s: norm_type \"%s\": only \"group\" and \"spatial\" are known", name, type);
    c->codes = (int)json_int(j, "num_vq_embeddings", 1, 1 << 24, 256, name, st);
    c->z_channels = (int)json_int(j, "latent_channels", 1, 4096, 3, name, st);
    c->latent_channels = (int)json_int(j, "vq_embed_dim", 1, 4096, c->z_channels, name, st);
    c->unit_range = json_flag(j, "lookup_from_codebook", false, name, st);
    c->quant_conv = c->post_quant_conv = true;
    c->spatial = c->keeps_latents = strcmp(type, "spatial") == 0;
    if (c->spatial) /* what the file says belongs to another use of the class */
        c->scaling_factor = 1;
    if (status_ok(st) && c->spatial && c->latent_channels != c->z_channels)
        return status_set(st, STATUS_BAD_FILE, "%s: vq_embed_dim is %d, latent_channels %d; spatial norms want them equal", name, c->latent_channels, c->z_channels);
    return status_ok(st);
}

/* Levels whose side is one of attn_resolutions have attention, the decoder's counted from the latents. */
static void read_attention(vae_config *c, const json *dd, const char *name, status *st)
{
    int64_t at[VAE_BLOCKS] = {0};
    int n = json_ints(dd, "attn_resolutions", at, VAE_BLOCKS, 1, 1 << 16, name, st), side = (int)json_int(dd, "resolution", 1, 1 << 16, 256, name, st);
    for (int i = 0; i < c->blocks; i++, side /= 2)
        for (int k = 0; k < n; k++)
            if (at[k] == side)
                c->attend_down[i] = c->attend_up[c->blocks - 1 - i] = true;
}

bool vq_original_read(vae_config *c, const json *j, const char *name, status *st)
{
    const json *dd = json_member(j, "ddconfig");
    *c = (vae_config){.groups = 32, .act = ACT_SILU, .scaling_factor = 1, .quant_conv = true, .post_quant_conv = true, .mid_attention = true};
    int64_t mult[VAE_BLOCKS] = {1};
    int ch = (int)json_int(dd, "ch", 1, 4096, 128, name, st), blocks = json_ints(dd, "ch_mult", mult, VAE_BLOCKS, 1, 64, name, st);
    c->blocks = blocks > 0 ? blocks : 1;
    for (int i = 0; i < c->blocks; i++)
        c->channels[i] = ch * (int)mult[i];
    c->in_channels = (int)json_int(dd, "in_channels", 1, 1024, 3, name, st);
    c->out_channels = (int)json_int(dd, "out_ch", 1, 1024, 3, name, st);
    c->layers = (int)json_int(dd, "num_res_blocks", 1, 64, 2, name, st);
    c->z_channels = (int)json_int(dd, "z_channels", 1, 4096, 256, name, st);
    c->latent_channels = (int)json_int(j, "embed_dim", 1, 4096, c->z_channels, name, st);
    c->codes = (int)json_int(j, "n_embed", 1, 1 << 24, 1024, name, st);
    c->gumbel = strstr(json_text(j, "_class_name", "", name, st), "GumbelVQ") != NULL;
    read_attention(c, dd, name, st);
    if (status_ok(st) && json_flag(dd, "double_z", false, name, st))
        return status_set(st, STATUS_BAD_FILE, "%s: double_z with a codebook: only false is known", name);
    return status_ok(st);
}

tensor vq_look_up(run *r, const vae_config *c, const int32_t *tokens, int batch, int height, int width)
{
    tensor x = embed(r, CODEBOOK, tokens, batch * height * width, c->codes, c->latent_channels);
    return image_of(batch_of(x, batch), height, width);
}

tensor vq_quantize(run *r, const vae_config *c, tensor x, int32_t *tokens)
{
    tensor y = nearest_rows(r, x, CODEBOOK, c->codes, tokens);
    drop(r, x);
    return y;
}
