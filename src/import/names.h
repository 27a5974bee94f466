/* names.h: other tools' names of tensors, turned into those of diffusers and transformers by tables of patterns. */
#ifndef PENSTOCK_NAMES_H
#define PENSTOCK_NAMES_H

#include "import/table.h"

enum { MOST_TENSOR_NAME = 256 };

typedef struct name_rules name_rules;

/* unet: LDM's input_blocks and output_blocks. vae: LDM's autoencoder. clip: transformers' own. open_clip: its resblocks with fused projections.
 * t5_gguf: llama.cpp's encoder. taesd_encoder, taesd_decoder: layers by number. same: what is named as it should be. */
extern const name_rules names_unet, names_vae, names_clip, names_open_clip, names_t5_gguf, names_taesd_encoder, names_taesd_decoder, names_same;

/* What a table says about a network's depth: LDM counts blocks through, diffusers by level. */
typedef struct name_depth {
    int per_level;  /* input blocks of a level of the UNet, its downsampler included */
    int levels;     /* of the VAE's decoder */
} name_depth;
/* prefix: what stands before the names of that network in the table. */
name_depth names_depth(const tensor_table *t, const char *unet_prefix, const char *vae_prefix);

typedef struct named_tensor {
    char name[MOST_TENSOR_NAME];
    file_tensor tensor; /* a slice of rows, turned, or as it was; its own name is not valid */
} named_tensor;

enum { MOST_NAMED = 3 };

/* The tensor `t` under its name without prefix; 1, or 3 where a fused projection is taken apart; 0 when no rule knows the name; -1 with st set. */
int names_apply(const name_rules *rules, const name_depth *depth, const char *name, const file_tensor *t, const char *file, named_tensor out[MOST_NAMED],
                status *st);

#endif
