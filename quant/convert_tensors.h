/* convert_tensors.h: the converter's list, and the threads that work it off. Private to convert*.c. */
#ifndef PENSTOCK_CONVERT_TENSORS_H
#define PENSTOCK_CONVERT_TENSORS_H

#include "quant/convert.h"
#include "quant/encode.h"
#include "quant/random.h"
#include "weights/pack.h"

typedef struct out_tensor {
    const weight *w;
    const source *from;
    weight_role role;
    encoding e;             /* what it becomes */
    bool copy;              /* it is of that type already: its units go over as they are */
    bool draw;              /* from random */
    random_tensor random;
    int64_t chunk_rows;     /* done at once */
    bool head_known;
    uint8_t head[CODE_HEAD_BYTES];
    encode_sum sum;         /* of the chunks written so far */
} out_tensor;

typedef struct out_list {
    int count;
    out_tensor *tensor;
    uint64_t numbers;
} out_list;

/* What one thread needs for any tensor of the list, with chunks of about `target` bytes of f32. Sets chunk_rows. */
size_t convert_worker_bytes(out_list *l, size_t target);
/* Convert and write all tensors; `worker_bytes` from the last call of the above. */
bool convert_run(out_list *l, pack_writer *w, const convert_request *q, int threads, size_t worker_bytes, status *st);

#endif
