/* ops.h: the whole vocabulary of a forward function. Shapes in comments; [b, t, c] is batch, tokens, channels.
 * Unless it says "in place", an op makes a new tensor and leaves its inputs alone. */
#ifndef PENSTOCK_OPS_H
#define PENSTOCK_OPS_H

#include "compute/run.h"

/* ---- inputs and outputs (host memory; in PLAN data may be NULL) ---- */
tensor input(run *r, const float *data, int batch, int height, int width, int channels);      /* channels last */
tensor input_nchw(run *r, const float *data, int batch, int channels, int height, int width);  /* latents, pictures */
void output(run *r, tensor x, float *out);
void output_nchw(run *r, tensor x, int channels, float *out); /* the first `channels` of x */
/* Rows that are too many to keep: x is made of a slab of the region g, each of its rows is handed over with its number in the whole; one behind the
 * other where `in_order`, else by any thread. */
typedef void (*row_fn)(void *ctx, int64_t number, float *row, int n); /* may overwrite the row */
void output_rows(run *r, const region *g, tensor x, bool in_order, row_fn fn, void *ctx);

/* ---- linear layers: weight NAME.weight [out, in], bias NAME.bias [out] ---- */
typedef struct linear_options {
    bool no_bias;
    bool edge;             /* a first, last, time or modulation layer: the quantizer keeps it finer */
    activation act;        /* applied to the result */
} linear_options;
tensor linear(run *r, tensor x, const char *name, int out, linear_options o); /* [b, t, in] -> [b, t, out] */
/* into += linear(x) [* gate], in place: the residual. gate: a row of a modulation (below) or NO_ROW. */
typedef struct table_row { tensor of; int index; } table_row; /* row `index` of a [batch, rows, c] tensor, by batch item */
#define NO_ROW ((table_row){{0, 0, 0, 0, 0, -1, -1, -1}, 0})
tensor linear_add(run *r, tensor into, tensor x, const char *name, table_row gate, linear_options o);

/* ---- convolutions: NAME.weight [out, in, k, k], NAME.bias [out]; x is an image ---- */
typedef struct spatial_norm { /* see norm_spatial */
    bool there;
    tensor map;
    int height, width;      /* of what is normalized */
    int y, y_bias, b, b_bias;
} spatial_norm;
typedef struct norm {      /* group normalization whose statistics are taken; the convolution applies it as it reads its input */
    tensor scale_shift;    /* [b, 2, c] */
    activation act;
    spatial_norm spatial;
} norm;
#define NO_NORM ((norm){.scale_shift = {0, 0, 0, 0, 0, -1, -1, -1}, .act = ACT_NONE})
norm group_norm(run *r, tensor x, const char *name, int groups, float eps, activation act); /* name NULL: neither gain nor bias */
/* Of x and `beside` (or {0}), whose channels come behind x's. */
norm group_norm_beside(run *r, tensor x, tensor beside, const char *name, int groups, float eps, activation act);
tensor take_sums(run *r, tensor x);         /* x with the sums that group norms of it need, so that several share them */
tensor normalize(run *r, tensor x, norm n); /* the normalized tensor itself; x may be a region's slab of what `n` was taken of */
norm norm_modulated(run *r, norm n, table_row scale, table_row shift); /* n, then * (1 + scale) + shift, before its activation */
/* n of x, then * conv_y(map) + conv_b(map), 1x1 convolutions NAME.conv_y, NAME.conv_b of a smaller map [b, h, w, few], stretched to x by nearest pixels. */
norm norm_spatial(run *r, tensor x, norm n, const char *name, tensor map);
typedef struct conv_options {
    int kernel, stride, padding;
    int end_padding;       /* more zeros behind the last row and column only */
    bool upsample;         /* nearest-neighbour doubling before it */
    bool odd_rows, odd_columns; /* with upsample: to one row or column less than the double */
    bool edge;
    bool map;              /* only convolutions and norms read the result: a large one may lie in the scratch file */
    bool no_bias;
    activation act;        /* applied to the result, a residual included */
    float divisor;         /* of the result, a residual included, before `act`; 0: none */
    norm before;           /* NO_NORM: none */
    tensor beside;         /* its channels come behind x's, as if both were one; or {0} */
    table_row plus;        /* added to every row of its batch item; or {0} */
    tensor add;            /* a residual of the result's shape, added, which stays as it is; or {0} */
    tensor add_to;         /* a residual that the result is written into, in place; or NO_TENSOR */
    bool sums;             /* a group norm reads the result: take its sums as it is made. Whoever changes it in place then calls changed(). */
} conv_options;
tensor conv(run *r, tensor x, const char *name, int out, conv_options o);
/* Each channel by itself, to the same size: NAME.weight [c, 1, k, k], k odd. */
tensor depthwise(run *r, tensor x, const char *name, int kernel, bool no_bias);
tensor halve(run *r, tensor x, norm n); /* means of two by two pixels of the normalized x (NO_NORM: of x itself); maps, as conv's */
tensor twice(run *r, tensor x);         /* every pixel two by two times */
/* Every pixel becomes 2x2: a transposed convolution of kernel and stride 2. NAME.weight [out * 4, in], torch's [in, out, 2, 2] turned (import/draft.c). */
tensor conv_transposed(run *r, tensor x, const char *name, int out, bool no_bias, norm before);

/* ---- norms over channels; gain NAME.weight, bias NAME.bias; name NULL: none ---- */
tensor layer_norm(run *r, tensor x, const char *name, float eps);
tensor layer_norm_gain(run *r, tensor x, const char *name, float eps); /* it has no bias */
tensor rms_norm(run *r, tensor x, const char *name, float eps);
/* Of an image, over all pixels of an item (ConvNeXt V2): x * (1 + gain * |x| / mean |x|) + bias, with NAME.gamma, NAME.beta; for normalize(). */
norm response_norm(run *r, tensor x, const char *name, float eps);
/* Group normalization of a few tokens that may be nearly alike (padding): exact where their mean is far larger than what they differ by. */
tensor group_norm_tokens(run *r, tensor x, const char *name, int groups, float eps);
/* layer_norm without gain, then x * (1 + scale) + shift (adaLN) */
tensor layer_norm_modulated(run *r, tensor x, float eps, table_row scale, table_row shift);

/* ---- pointwise ---- */
tensor activate(run *r, tensor x, activation act);          /* in place */
tensor act_mul(run *r, activation act, tensor x, tensor y); /* act(x) * y, in place on x */
tensor add(run *r, tensor x, tensor y);                     /* in place on x */
tensor modulate(run *r, tensor x, table_row scale, table_row shift); /* x * (1 + scale) + shift by batch item, in place */
tensor guide_halves(run *r, tensor x, float scale);         /* [2 b, ...] -> [b, ...]: the first half + scale * (the second - the first) */
tensor gated_halves(run *r, activation act, tensor x);      /* [b, t, 2 n] -> first half * act(second half) (GEGLU) */
tensor scale(run *r, tensor x, float by);                   /* in place */
tensor affine(run *r, tensor x, float by, float plus);      /* x * by + plus, in place */
tensor soft_clamp(run *r, tensor x, float limit);           /* limit * tanh(x / limit), in place */
tensor copy(run *r, tensor x);
tensor concat_channels(run *r, const tensor *x, int count); /* same rows */
/* A weight NAME [rows, c] plus x, by batch item -> [b, rows, c]. x is [b, 1, rows * c], or with `same` [b, 1, c], added to every row. */
tensor modulation(run *r, tensor x, const char *name, int rows, bool same);
tensor concat_tokens(run *r, tensor x, tensor y);           /* [b, t, c] and [b, u, c] -> [b, t + u, c] */
tensor mean_tokens(run *r, tensor x);                       /* [b, t, c] -> [b, 1, c] */
tensor image_of(tensor x, int height, int width);           /* the same rows seen as an image, and back: */
tensor sequence_of(tensor x);
tensor rows_of(tensor x, int rows);                         /* [b, 1, rows * c] seen as [b, rows, c], for table_row */
tensor batch_of(tensor x, int batch);                       /* [1, b * t, c] seen as [b, t, c] */
tensor pick_rows(run *r, tensor x, const int32_t *at, int count); /* [b, t, c] -> [count, 1, c]: rows at[i] of its b * t */
/* Rows from seen[b] on become 0, and where seen[b] is 0 the first one the weight NAME [c]; in place. */
tensor hide_rows(run *r, tensor x, const int32_t *seen, const char *name);
tensor mean_rows(run *r, tensor x, const int32_t *count);  /* [b, t, c] -> [b, 1, c]: the mean of each item's first count[b] rows */
/* [b, h, w, p * p * c] -> [b, h * p, w * p, c]; the p * p * c are (row, column, channel) */
tensor unpatchify(run *r, tensor x, int patch, int channels);

/* ---- attention ---- */
/* q [b, tq, heads * d], k, v [b, tk, heads * d] -> [b, tq, heads * d]. With qs / ks the rows are ragged: segment i of q (or batch item i of q when
 * qs is NULL) attends to segment i of k (batch item i when ks is NULL). bias: distances of t5_distances, or NO_TENSOR. */
tensor attention(run *r, tensor q, tensor k, tensor v, int heads, float scale, const segments *qs, const segments *ks, tensor bias);
/* Token t attends to tokens 0..t of its own segment (s, or batch item where s is NULL). */
tensor attention_causal(run *r, tensor q, tensor k, tensor v, int heads, float scale, const segments *s);
/* Self-attention in regions: keys and values of [batch, tokens, channels] are packed slab by slab (of a region over rows of that shape) and kept
 * like that, in half the room where they may be rounded; then queries come slab by slab. */
typedef struct packed_keys {
    int batch, channels, heads;
    int64_t tokens, tiles, tile_bytes, place;
    bool exact;
} packed_keys;
packed_keys keys_new(run *r, int batch, int64_t tokens, int channels, int heads);
void keys_pack(run *r, const packed_keys *p, const region *g, tensor k, tensor v);
tensor attention_keys(run *r, tensor q, const packed_keys *p, float scale);
/* T5's relative position bias by distance: NAME.weight [buckets, heads] -> [heads, 2 * longest - 1] (key - query + longest - 1). */
tensor t5_distances(run *r, const char *name, int buckets, int max_distance, int heads, int longest);

/* ---- embeddings ---- */
tensor embed(run *r, const char *name, const int32_t *ids, int count, int vocabulary, int width); /* [1, count, width] */
/* Every token's nearest row (Euclidean) of the table NAME [rows, c], a codebook: [b, t, c] -> [b, t, c]. numbers: host memory for theirs, or NULL. */
tensor nearest_rows(run *r, tensor x, const char *name, int rows, int32_t *numbers);
/* x[b, t] += row t of the learned table NAME [rows, c], in place. */
tensor add_positions(run *r, tensor x, const char *name, int rows);
/* Sinusoids [b, 1, dim] of b values: cos first when `cos_first`; exponent i / (dim / 2 - shift). diffusers' get_timestep_embedding. */
tensor sinusoids(run *r, const float *values, int batch, int dim, bool cos_first, float shift);
/* The fixed 2-d sine table [1, h * w, dim] of PatchEmbed (diffusers get_2d_sincos_pos_embed), added to x in place. */
tensor add_sincos_2d(run *r, tensor x, int base_size, float interpolation_scale);

#endif
