/* CLIP's text encoder (Radford et al. 2021, arXiv 2103.00020): a causal pre-norm transformer. OpenCLIP's H and bigG are the same with exact GELU.
 * Reference: transformers, models/clip/modeling_clip.py.
 * Pitfalls: no padding mask, what stands behind the end token is computed and used; clip skip takes a layer's output with or without the final
 * norm, by pipeline; the pooled output is the end token's, after the final norm, and configs with eos_token_id 2 mean the largest id. Old files
 * hold a position_ids buffer, which nobody reads; transformers 5 writes CLIPTextModel without the prefix text_model. */
#include "models/net_clip.h"

#include <math.h>
#include <string.h>

const name_alias clip_aliases[] = {{"text_model.", ""}, {NULL, NULL}};

static bool read_activation(clip_config *c, const char *text, const char *name, status *st)
{
    static const struct { const char *text; activation act; } forms[] = {
        {"quick_gelu", ACT_QUICK_GELU}, {"gelu", ACT_GELU_ERF}, {"gelu_new", ACT_GELU_TANH}, {"gelu_pytorch_tanh", ACT_GELU_TANH},
        {"relu", ACT_RELU}, {"silu", ACT_SILU}, {"swish", ACT_SILU}};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (strcmp(text, forms[i].text) == 0) {
            c->act = forms[i].act;
            return true;
        }
    return status_set(st, STATUS_BAD_FILE, "%s: hidden_act \"%s\" is not one of quick_gelu, gelu, gelu_new, relu, silu", name, text);
}

static bool has_architecture(const json *j, const char *wanted)
{
    const json *list = json_member(j, "architectures");
    size_t n = list && json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < n; i++) {
        json *a = json_object_array_get_idx(list, i);
        if (json_object_is_type(a, json_type_string) && strcmp(json_object_get_string(a), wanted) == 0)
            return true;
    }
    return false;
}

/* Of a text model, or of a whole CLIP, whose text_config it is then. */
bool clip_config_read(clip_config *c, const json *j, const char *name, status *st)
{
    const json *text = json_member(j, "text_config");
    int projection = (int)json_int(j, "projection_dim", 1, 1 << 16, 512, name, st);
    c->projection = text || has_architecture(j, "CLIPTextModelWithProjection") ? projection : 0;
    j = text ? text : j;
    c->width = (int)json_int(j, "hidden_size", 1, 1 << 16, 512, name, st);
    c->inner = (int)json_int(j, "intermediate_size", 1, 1 << 18, 2048, name, st);
    c->layers = (int)json_int(j, "num_hidden_layers", 1, 1024, 12, name, st);
    c->heads = (int)json_int(j, "num_attention_heads", 1, 1024, 8, name, st);
    c->positions = (int)json_int(j, "max_position_embeddings", 2, 1 << 16, 77, name, st);
    c->vocabulary = (int)json_int(j, "vocab_size", 1, 1 << 24, 49408, name, st);
    c->eos = (int)json_int(j, "eos_token_id", 0, 1 << 24, 49407, name, st);
    c->eps = (float)json_double(j, "layer_norm_eps", 0, 1, 1e-5, name, st);
    if (status_ok(st) && c->width % c->heads)
        status_set(st, STATUS_BAD_FILE, "%s: hidden_size %d is not a multiple of num_attention_heads %d", name, c->width, c->heads);
    return status_ok(st) && read_activation(c, json_text(j, "hidden_act", "quick_gelu", name, st), name, st) && status_ok(st);
}

int32_t clip_pooled_at(const clip_config *c, const int32_t *ids, int tokens)
{
    int32_t at = 0;
    for (int32_t i = 0; i < tokens; i++) {
        if (c->eos != 2 && ids[i] == c->eos)
            return i;
        if (c->eos == 2 && ids[i] > ids[at])
            at = i;
    }
    return at;
}

static const linear_options plain = {.act = ACT_NONE};

/* h: x, normalized */
static tensor self_attention(run *r, const clip_config *c, tensor x, tensor h)
{
    scope in = enter(r, "self_attn");
    tensor q = linear(r, h, "q_proj", c->width, plain);
    tensor k = linear(r, h, "k_proj", c->width, plain);
    tensor v = linear(r, h, "v_proj", c->width, plain);
    drop(r, h);
    tensor y = attention_causal(r, q, k, v, c->heads, 1 / sqrtf((float)(c->width / c->heads)), NULL);
    return leave(r, in, linear_add(r, x, y, "out_proj", NO_ROW, plain));
}

static tensor layer(run *r, const clip_config *c, tensor x)
{
    x = self_attention(r, c, x, layer_norm(r, x, "layer_norm1", c->eps));
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        tensor h = linear(r, layer_norm(r, t, "layer_norm2", c->eps), "mlp.fc1", c->inner, (linear_options){.act = c->act});
        linear_add(r, t, h, "mlp.fc2", NO_ROW, plain);
    }
    return x;
}

static tensor final_norm(run *r, const clip_config *c, tensor x) { return layer_norm(r, x, "text_model.final_layer_norm", c->eps); }

static void output_hidden(run *r, const clip_config *c, const clip_inputs *in, tensor x)
{
    tensor h = in->norm ? final_norm(r, c, x) : x;
    output(r, h, in->hidden);
    if (in->norm)
        drop(r, h);
}

static void output_pooled(run *r, const clip_config *c, const clip_inputs *in, tensor x)
{
    tensor end = final_norm(r, c, pick_rows(r, x, in->pooled_at, in->poolings));
    if (c->projection)
        end = linear(r, end, "text_projection", c->projection, (linear_options){.no_bias = true, .edge = true});
    output(r, end, in->pooled);
}

void clip_encode(run *r, const clip_config *c, const clip_inputs *in)
{
    tensor x = embed(r, "text_model.embeddings.token_embedding.weight", in->ids, in->batch * in->tokens, c->vocabulary, c->width);
    x = add_positions(r, batch_of(x, in->batch), "text_model.embeddings.position_embedding.weight", c->positions);
    int last = in->want_pooled ? c->layers : c->layers - in->skip;
    if (in->want_hidden && in->skip == c->layers)
        output_hidden(r, c, in, x);
    for (int i = 0; i < last; i++) {
        scope block = enter(r, "text_model.encoder.layers.%d", i);
        x = leave(r, block, layer(r, c, x));
        if (in->want_hidden && i + 1 == c->layers - in->skip)
            output_hidden(r, c, in, x);
    }
    if (in->want_pooled)
        output_pooled(r, c, in, x);
}

void clip_record(run *r, const void *config)
{
    clip_encode(r, config, &(clip_inputs){.batch = 1, .tokens = 1, .want_hidden = true, .want_pooled = true, .norm = true, .poolings = 1});
}
