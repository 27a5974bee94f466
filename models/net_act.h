/* The activations that a config of diffusers may name. */
#ifndef PENSTOCK_NET_ACT_H
#define PENSTOCK_NET_ACT_H

#include <string.h>

#include "compute/ops.h"
#include "import/json.h"

/* "" is none, where `otherwise` is "". */
static inline bool act_read(const json *j, const char *key, const char *otherwise, activation *out, const char *name, status *st)
{
    static const struct { const char *text; activation act; } forms[] = {
        {"", ACT_NONE}, {"silu", ACT_SILU}, {"swish", ACT_SILU}, {"gelu", ACT_GELU_ERF}, {"relu", ACT_RELU}};
    const char *text = json_text(j, key, otherwise, name, st);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(text, forms[i].text) == 0) {
            *out = forms[i].act;
            return status_ok(st);
        }
    return status_set(st, STATUS_BAD_FILE, "%s: %s \"%s\" is not one of silu, swish, gelu, relu", name, key, text);
}

#endif
