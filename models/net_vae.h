#ifndef PENSTOCK_NET_VAE_H
#define PENSTOCK_NET_VAE_H

#include "compute/ops.h"
#include "import/json.h"

enum { VAE_BLOCKS = 8, VAE_NORMED = 64 };

typedef struct vae_config {
    int in_channels, out_channels, latent_channels, blocks, channels[VAE_BLOCKS], layers, groups;
    activation act;
    float scaling_factor, shift_factor;
    bool normed;                                                   /* latents_mean, latents_std: outside they are normed by channel as well */
    float mean[VAE_NORMED], deviation[VAE_NORMED];
    bool quant_conv, post_quant_conv, mid_attention;
    int z_channels;                                                /* of latents inside of the network; those outside have latent_channels */
    bool attend_down[VAE_BLOCKS], attend_up[VAE_BLOCKS];           /* attention behind each resnet of a level; up: from the latents on */
    int codes;                                                     /* VQModel: entries of its codebook, see net_vq.h; 0: none */
    bool spatial;                                                  /* of it: MoVQ, the decoder's norms look at the latents */
    bool keeps_latents, unit_range;                                /* of it: latents are decoded as they are; its pictures are 0..1 */
    bool gumbel;                                                   /* of it: another encoder leads to the codebook, which is not here */
    bool tiny;                                                     /* AutoencoderTiny: see net_taesd.c; its latents are no distribution */
    int encoder_blocks[VAE_BLOCKS], decoder_blocks[VAE_BLOCKS];    /* of it, by level */
} vae_config;

bool vae_config_read(vae_config *c, const json *j, const char *name, status *st);
extern const name_alias vae_aliases[];
/* Most pipelines know of the scaling factor alone, whatever the file says. */
static inline void vae_scale_only(vae_config *c)
{
    c->shift_factor = 0;
    c->normed = false;
}

/* latents [batch, latent_channels, h, w] as the decoder takes them (already divided by the scaling factor) -> image [batch, out_channels, H, W] */
void vae_decode(run *r, const vae_config *c, const float *latents, int batch, int height, int width, float *image);
/* The same from numbers of codebook entries [batch, h, w] (codes > 0). */
void vae_decode_tokens(run *r, const vae_config *c, const int32_t *tokens, int batch, int height, int width, float *image);
/* image [batch, in_channels, H, W] in -1..1 -> moments [batch, 2 * latent_channels, h, w]: means, then logarithms of variances
 * (tiny, or with a codebook: the latents themselves, [batch, latent_channels, h, w]) */
void vae_encode(run *r, const vae_config *c, const float *image, int batch, int height, int width, float *moments);
/* image likewise, in the range of its pictures -> tokens [batch, h, w] (codes > 0) */
void vae_encode_tokens(run *r, const vae_config *c, const float *image, int batch, int height, int width, int32_t *tokens);
void vae_record(run *r, const void *config); /* for networks.c */

static inline int vae_factor(const vae_config *c) { return 1 << (c->blocks - 1); }

#endif
