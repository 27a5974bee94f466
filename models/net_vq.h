#ifndef PENSTOCK_NET_VQ_H
#define PENSTOCK_NET_VQ_H

#include "models/net_vae.h"

/* VQModel has AutoencoderKL's two halves (net_vae.c) and a codebook between them. What it adds to the config; nothing for another class. */
bool vq_config_read(vae_config *c, const json *j, const char *name, status *st);
/* The config of taming-transformers and latent-diffusion, which counts channels and levels in `ddconfig`. */
bool vq_original_read(vae_config *c, const json *j, const char *name, status *st);

/* Entries by number: tokens [batch, h, w] -> [batch, h, w, latent_channels]. */
tensor vq_look_up(run *r, const vae_config *c, const int32_t *tokens, int batch, int height, int width);
/* Every latent's nearest entry; x is dropped. tokens: room for their numbers [batch, h, w], or NULL. */
tensor vq_quantize(run *r, const vae_config *c, tensor x, int32_t *tokens);

#endif
