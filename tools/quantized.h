/* quantized.h: `generate --type q4` on a folder: the container that quantize would make of it, made once and kept in the user's cache. */
#ifndef PENSTOCK_QUANTIZED_H
#define PENSTOCK_QUANTIZED_H

#include "tools/command.h"

/* Takes `folder`, an opened model, and returns its container of o->type, opened; NULL with st set. Without --type: folder itself. */
source *open_quantized(const options *o, source *folder, status *st);

#endif
