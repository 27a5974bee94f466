/* net_unet_impl.h: what the files of the UNet share. Nobody else includes it. */
#ifndef PENSTOCK_NET_UNET_IMPL_H
#define PENSTOCK_NET_UNET_IMPL_H

#include "models/net_unet.h"

enum { UNET_SKIPS = UNET_LEVELS * (UNET_LAYERS + 1) + 1 };

typedef struct skips {           /* what the way down leaves for the way up */
    tensor x[UNET_SKIPS];
    int count;
} skips;

typedef struct context {         /* what every block gets */
    const unet_config *c;
    tensor text, time;           /* time: after its activation, [b, 1, time_dim] */
} context;

/* x will be read on the way up: until then a copy may wait in the scratch file. */
tensor unet_keep(run *r, skips *s, tensor x);
/* The last one kept has been read on the way down: it stays where it waits. */
void unet_passed(run *r, const skips *s, tensor x);

/* ---- net_unet_simple.c ---- */
tensor simple_down(run *r, const context *k, int level, tensor x, skips *s);
tensor simple_middle(run *r, const context *k, tensor x);
tensor simple_up(run *r, const context *k, int level, tensor x, skips *s);

#endif
