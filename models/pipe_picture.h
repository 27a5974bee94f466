/* pipe_picture.h: from latents to pictures. A vae_stage is the decoder as one of a pipeline's stages; and what is done to a picture behind it. */
#ifndef PENSTOCK_PIPE_PICTURE_H
#define PENSTOCK_PIPE_PICTURE_H

#include "models/net_vae.h"
#include "models/stage.h"

/* An autoencoder's config.json, whose pictures have three channels; with `encodes` those that go in, too. */
bool vae_read(vae_config *c, const source *src, const char *component, bool encodes, status *st);

typedef struct vae_stage {
    vae_config config;  /* to be set before planning, and from_tokens */
    int height, width;  /* of the latents */
    bool from_tokens;   /* what is decoded are numbers of codebook entries */
    stage stage;
} vae_stage;

bool vae_stage_plan(vae_stage *v, engine *e, const char *component, int latent_height, int latent_width, int images);
/* latents [images, channels, h, w], scaled as the denoiser has them, or tokens [images, h, w]; image [images, 3, H, W] in -1..1 */
bool vae_stage_picture(vae_stage *v, const float *latents, float *image); /* one, in a stage that is open */
bool vae_stage_run(vae_stage *v, const float *latents, int images, float *image);
/* The same, to the trace and to result.rgb. */
bool vae_stage_finish(vae_stage *v, const float *latents, int images);
bool latents_in_range(const int64_t shape[4], status *st); /* can a picture be made of so many? */
/* Latents that somebody else made, [images, channels, h, w], or tokens (0 channels): are they such as v->config decodes? Plans, counting the pictures as held. */
bool vae_latents_take(vae_stage *v, engine *e, const char *component, const int64_t shape[4]);
/* Plans and finishes them. */
bool vae_decode_latents(vae_stage *v, engine *e, const char *component, const float *latents, const int64_t shape[4]);

/* diffusers' resize_and_crop_tensor: bilinear (no antialias, half-pixel centres) to cover, then the middle. [3, h, w] -> [3, height, width]; out is the caller's. */
void resize_and_crop(const float *image, int h, int w, float *out, int height, int width, float *tmp);
size_t resize_floats(int h, int w, int height, int width); /* of tmp */
/* -1..1 to 0..255; what lies beyond is cut, and NaN is black: a picture is never undefined */
uint8_t picture_byte(float x);
/* [3, area] in -1..1 to bytes [area, 3] */
void rgb_of_planes(const float *image, size_t area, uint8_t *rgb);
/* [images, 3, h, w] in -1..1 to the trace, and as bytes to result.rgb */
bool finish_pictures(const engine *e, const float *image, int images, int height, int width);

#endif
