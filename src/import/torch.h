/* torch.h: the tensors of a checkpoint that torch.save wrote (.ckpt, .pth, .pt, .bin). */
#ifndef PENSTOCK_TORCH_H
#define PENSTOCK_TORCH_H

#include "import/table.h"

bool torch_begins(const uint8_t first[2]);
/* A dict of tensors, at the top or under "state_dict". What is no tensor is passed over. Nothing in the file is executed. */
tensor_table *torch_read(io *f, status *st);

#endif
