/* T5's encoder (Raffel et al. 2019, arXiv 1910.10683; v1.1's gated feed-forward: Shazeer 2020, arXiv 2002.05202; UL2: Tay et al. 2022).
 * Reference: transformers, models/t5/modeling_t5.py.
 * Pitfalls: attention is not scaled by 1/sqrt(d); the relative bias is block 0's for all blocks; RMS norms have no bias; "gated-gelu" is the
 * tanh form (an erf form moves latents by 2e-4 and more); the residual stream leaves the range of half floats. Heads * d_kv need not be d_model. */
#include "models/net_t5.h"

#include <string.h>

const name_alias t5_aliases[] = {{"shared.weight", "encoder.embed_tokens.weight"}, {NULL, NULL}};

static bool read_gate(t5_config *c, const char *text, const char *name, status *st)
{
    static const struct { const char *text; activation act; bool gated; } forms[] = {
        {"relu", ACT_RELU, false}, {"gelu", ACT_GELU_ERF, false}, {"silu", ACT_SILU, false}, {"gelu_new", ACT_GELU_TANH, false},
        {"gated-gelu", ACT_GELU_TANH, true}, {"gated-silu", ACT_SILU, true}, {"gated-relu", ACT_RELU, true}, {"gated-gelu_new", ACT_GELU_TANH, true}};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (strcmp(text, forms[i].text) == 0) {
            c->act = forms[i].act;
            c->gated = forms[i].gated;
            return true;
        }
    return status_set(st, STATUS_BAD_FILE, "%s: feed_forward_proj \"%s\" is not one of relu, gelu, silu, gated-gelu, gated-silu", name, text);
}

bool t5_config_read(t5_config *c, const json *j, const char *name, status *st)
{
    c->d_model = (int)json_need_int(j, "d_model", 1, 1 << 16, name, st);
    c->d_kv = (int)json_int(j, "d_kv", 1, 4096, 64, name, st);
    c->d_ff = (int)json_need_int(j, "d_ff", 1, 1 << 18, name, st);
    c->layers = (int)json_need_int(j, "num_layers", 1, 1024, name, st);
    c->heads = (int)json_need_int(j, "num_heads", 1, 1024, name, st);
    c->buckets = (int)json_int(j, "relative_attention_num_buckets", 4, 4096, 32, name, st);
    c->max_distance = (int)json_int(j, "relative_attention_max_distance", 2, 1 << 20, 128, name, st);
    c->vocabulary = (int)json_need_int(j, "vocab_size", 1, 1 << 24, name, st);
    c->eps = (float)json_double(j, "layer_norm_epsilon", 0, 1, 1e-6, name, st);
    return read_gate(c, json_text(j, "feed_forward_proj", "relu", name, st), name, st) && status_ok(st);
}

static const linear_options plain = {.no_bias = true};

static tensor self_attention(run *r, const t5_config *c, tensor x, const segments *s, tensor distances)
{
    int inner = c->heads * c->d_kv;
    scope in = enter(r, "layer.0");
    tensor h = rms_norm(r, x, "layer_norm", c->eps);
    tensor q = linear(r, h, "SelfAttention.q", inner, plain);
    tensor k = linear(r, h, "SelfAttention.k", inner, plain);
    tensor v = linear(r, h, "SelfAttention.v", inner, plain);
    segments whole = {s->count, s->start, NULL}; /* padding asks too, but is not looked at */
    tensor y = attention(r, q, k, v, c->heads, 1, &whole, s, distances);
    return leave(r, in, linear_add(r, x, y, "SelfAttention.o", NO_ROW, plain));
}

static tensor feed_forward(run *r, const t5_config *c, tensor x)
{
    scope in = enter(r, "layer.1");
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        tensor h = rms_norm(r, t, "layer_norm", c->eps), y;
        if (c->gated) {
            y = linear(r, h, "DenseReluDense.wi_0", c->d_ff, (linear_options){.no_bias = true, .act = c->act});
            y = act_mul(r, ACT_NONE, y, linear(r, h, "DenseReluDense.wi_1", c->d_ff, plain));
        } else {
            y = linear(r, h, "DenseReluDense.wi", c->d_ff, (linear_options){.no_bias = true, .act = c->act});
        }
        linear_add(r, t, y, "DenseReluDense.wo", NO_ROW, plain);
    }
    return leave(r, in, x);
}

tensor t5_encode(run *r, const t5_config *c, const int32_t *ids, const segments *s)
{
    int longest = 0;
    for (int i = 0; i < s->count; i++)
        longest = s->start[i + 1] - s->start[i] > longest ? s->start[i + 1] - s->start[i] : longest;
    tensor x = embed(r, "shared.weight", ids, s->start[s->count], c->vocabulary, c->d_model);
    tensor distances = t5_distances(r, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias", c->buckets, c->max_distance, c->heads, longest);
    for (int i = 0; i < c->layers; i++) {
        scope block = enter(r, "encoder.block.%d", i);
        x = self_attention(r, c, x, s, distances);
        x = leave(r, block, feed_forward(r, c, x));
    }
    return rms_norm(r, x, "encoder.final_layer_norm", c->eps);
}

void t5_record(run *r, const void *config)
{
    int32_t ids[1] = {0}, start[2] = {0, 1};
    segments s = {1, start, NULL};
    output(r, t5_encode(r, config, ids, &s), NULL);
}
