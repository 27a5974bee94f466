/* gguf.h: the tensors of a GGUF file (versions 2 and 3), as stable-diffusion.cpp, ComfyUI-GGUF and llama.cpp write them. */
#ifndef PENSTOCK_GGUF_H
#define PENSTOCK_GGUF_H

#include "import/table.h"

/* Names as the file has them; shapes as PyTorch has them (the file's dimensions turned round, and ComfyUI-GGUF's original shapes put back). */
tensor_table *gguf_read(io *f, status *st);

#endif
