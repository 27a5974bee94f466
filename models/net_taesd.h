#ifndef PENSTOCK_NET_TAESD_H
#define PENSTOCK_NET_TAESD_H

#include "models/net_vae.h"

/* Fills the same config as AutoencoderKL's, so that pipelines need not know which of the two they have. Called by vae_config_read and its kin. */
bool taesd_config_read(vae_config *c, const json *j, const char *name, status *st);
void taesd_decode(run *r, const vae_config *c, const float *latents, int batch, int height, int width, float *image);
/* image in -1..1 -> latents [batch, latent_channels, h, w]: nothing is drawn */
void taesd_encode(run *r, const vae_config *c, const float *image, int batch, int height, int width, float *latents);
void taesd_record(run *r, const vae_config *c);

#endif
