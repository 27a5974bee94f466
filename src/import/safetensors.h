/* safetensors.h: one .safetensors file's table of tensors, every number in it checked against the file. */
#ifndef PENSTOCK_SAFETENSORS_H
#define PENSTOCK_SAFETENSORS_H

#include "import/table.h"

typedef file_tensor safetensor;
typedef tensor_table safetensors;

/* Read and check the header. Malformed in any way: NULL, and st STATUS_BAD_FILE with the file's and the tensor's name. */
safetensors *safetensors_read(io *f, status *st);
static inline void safetensors_free(safetensors *t) { table_free(t); }
static inline const safetensor *safetensors_find(const safetensors *t, const char *name) { return table_find(t, name); }

#endif
