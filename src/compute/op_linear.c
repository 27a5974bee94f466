#include "compute/op_matrix.h"

#include <stdio.h>

static void part_name(char out[NAME_BYTES], const char *name, const char *part)
{
    snprintf(out, NAME_BYTES, "%s.%s", name, part);
}

static tensor linear_into(run *r, tensor x, const char *name, int out, linear_options o, tensor into, table_row gate, bool adding)
{
    char full[NAME_BYTES];
    part_name(full, name, "weight");
    int use = use_matrix(r, full, o.edge ? ROLE_EDGE : ROLE_LINEAR, out, 1, x.channels, (double)tensor_rows(x)), bias = -1;
    if (!o.no_bias) {
        part_name(full, name, "bias");
        bias = use_vector(r, full, out, 0);
    }
    if (!run_ok(r))
        return NO_TENSOR;
    tensor y = adding ? changed(r, into) : tensor_like(r, x, out);
    matrix_shape m = {out, 1, x.channels};
    int64_t scratch = scratch_new(r, product_scratch(r, use, &m, tensor_rows(x)));
    if (r->live && run_ok(r)) {
        product p = {.r = r, .use = use, .m = m, .rows = tensor_rows(x), .x = tensor_data(r, x), .out = tensor_data(r, y), .out_stride = (size_t)out,
                     .bias = bias >= 0 ? stream_vector(r->stream, bias) : NULL, .act = o.act, .adding = adding, .x_rows = tensor_rows(x),
                     .rows_per_item = tensor_tokens(x), .first_item = x.first_batch, .scratch = run_at(r, scratch)};
        if (gate.of.place >= 0) {
            p.gate = tensor_data(r, gate.of) + (size_t)gate.index * (size_t)out;
            p.gate_stride = (size_t)(tensor_tokens(gate.of) * gate.of.channels);
        }
        product_run(&p);
    }
    scratch_drop(r, scratch);
    return y;
}

tensor linear(run *r, tensor x, const char *name, int out, linear_options o)
{
    return linear_into(r, x, name, out, o, NO_TENSOR, NO_ROW, false);
}

tensor linear_add(run *r, tensor into, tensor x, const char *name, table_row gate, linear_options o)
{
    return linear_into(r, x, name, into.channels, o, into, gate, true);
}
