/* The text encoder of the first latent diffusion model (Rombach et al. 2022, arXiv 2112.10752): 32 pre-norm layers, trained with the denoiser.
 * Reference: diffusers, pipelines/latent_diffusion/pipeline_latent_diffusion.py, LDMBertModel.
 * Pitfalls: no mask, the padding up to 77 tokens is attended to; heads * head_dim is not the width; q, k and v have no bias, the rest has. Files hold a
 * head to_logits, 39 of 582 million parameters, that is never used. */
#include "models/net_ldmbert.h"

#include <math.h>
#include <string.h>

const name_alias ldmbert_aliases[] = {{NULL, NULL}};

static const float EPS = 1e-5f;

bool ldmbert_config_read(ldmbert_config *c, const json *j, const char *name, status *st)
{
    c->width = (int)json_int(j, "d_model", 1, 1 << 16, 1280, name, st);
    c->inner = (int)json_int(j, "encoder_ffn_dim", 1, 1 << 18, 5120, name, st);
    c->layers = (int)json_int(j, "encoder_layers", 1, 1024, 32, name, st);
    c->heads = (int)json_int(j, "encoder_attention_heads", 1, 1024, 8, name, st);
    c->head_dim = (int)json_int(j, "head_dim", 1, 4096, 64, name, st);
    c->positions = (int)json_int(j, "max_position_embeddings", 2, 1 << 16, 77, name, st);
    c->vocabulary = (int)json_int(j, "vocab_size", 1, 1 << 24, 30522, name, st);
    const char *act = json_text(j, "activation_function", "gelu", name, st);
    c->act = strcmp(act, "relu") == 0 ? ACT_RELU : strcmp(act, "gelu_new") == 0 ? ACT_GELU_TANH : ACT_GELU_ERF;
    if (c->act == ACT_GELU_ERF && strcmp(act, "gelu") != 0)
        status_set(st, STATUS_BAD_FILE, "%s: activation_function \"%s\" is not one of gelu, gelu_new, relu", name, act);
    return status_ok(st);
}

static tensor self_attention(run *r, const ldmbert_config *c, tensor x, tensor h)
{
    static const linear_options no_bias = {.no_bias = true};
    int inner = c->heads * c->head_dim;
    scope in = enter(r, "self_attn");
    tensor q = linear(r, h, "q_proj", inner, no_bias);
    tensor k = linear(r, h, "k_proj", inner, no_bias);
    tensor v = linear(r, h, "v_proj", inner, no_bias);
    drop(r, h);
    tensor y = attention(r, q, k, v, c->heads, 1 / sqrtf((float)c->head_dim), NULL, NULL, NO_TENSOR);
    return leave(r, in, linear_add(r, x, y, "out_proj", NO_ROW, (linear_options){.no_bias = false}));
}

static tensor layer(run *r, const ldmbert_config *c, tensor x)
{
    x = self_attention(r, c, x, layer_norm(r, x, "self_attn_layer_norm", EPS));
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        tensor h = linear(r, layer_norm(r, t, "final_layer_norm", EPS), "fc1", c->inner, (linear_options){.act = c->act});
        linear_add(r, t, h, "fc2", NO_ROW, (linear_options){.no_bias = false});
    }
    return x;
}

tensor ldmbert_encode(run *r, const ldmbert_config *c, const int32_t *ids, int batch, int tokens)
{
    tensor x = embed(r, "model.embed_tokens.weight", ids, batch * tokens, c->vocabulary, c->width);
    x = add_positions(r, batch_of(x, batch), "model.embed_positions.weight", c->positions);
    for (int i = 0; i < c->layers; i++) {
        scope block = enter(r, "model.layers.%d", i);
        x = leave(r, block, layer(r, c, x));
    }
    return layer_norm(r, x, "model.layer_norm", EPS);
}

void ldmbert_record(run *r, const void *config)
{
    output(r, ldmbert_encode(r, config, NULL, 1, 1), NULL);
}
