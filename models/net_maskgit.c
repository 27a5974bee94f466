/* MaskGitTransformer of openMUSE, after MaskGIT (Chang et al. 2022, arXiv 2202.04200) and Muse (2023, arXiv 2301.00704): a transformer over a picture's tokens with
 * cross-attention to the text. Reference: github.com/huggingface/open-muse, muse/modeling_transformer.py; it is no class of diffusers.
 * Pitfalls: the norm before the feed-forward is a layer norm whatever norm_type says; norms have a gain, and a bias only where layers have one; the gate of the
 * feed-forward is wi_0, with exact GELU; the text's padding is not masked; the mask token is the vocabulary's last, and logits may be of the whole vocabulary. */
#include "models/net_maskgit.h"

#include <math.h>
#include <string.h>

const name_alias maskgit_aliases[] = {{NULL, NULL}};

static bool read_flags(maskgit_config *c, const json *j, const char *name, status *st)
{
    const char *type = json_text(j, "norm_type", "layernorm", name, st);
    c->layer_norms = strcmp(type, "layernorm") == 0;
    c->bias = json_flag(j, "use_bias", false, name, st);
    c->normformer = json_flag(j, "use_normformer", true, name, st);
    c->projected = json_flag(j, "project_encoder_hidden_states", false, name, st);
    c->last_norm = json_flag(j, "use_encoder_layernorm", true, name, st);
    c->mlm = json_flag(j, "use_mlm_layer", true, name, st);
    c->mlm_norm = json_flag(j, "use_mlm_layernorm", true, name, st);
    if (!c->layer_norms && strcmp(type, "rmsnorm") != 0)
        return status_set(st, STATUS_BAD_FILE, "%s: norm_type \"%s\" is not one of layernorm, rmsnorm", name, type);
    if (json_flag(j, "use_conv_in_out", false, name, st) || !json_flag(j, "add_cross_attention", false, name, st))
        return status_set(st, STATUS_BAD_FILE, "%s: only a transformer with add_cross_attention and without use_conv_in_out is known", name);
    return status_ok(st);
}

bool maskgit_config_read(maskgit_config *c, const json *j, const char *name, status *st)
{
    *c = (maskgit_config){0};
    c->vocabulary = (int)json_need_int(j, "vocab_size", 2, 1 << 24, name, st);
    c->hidden = (int)json_int(j, "hidden_size", 1, 1 << 16, 768, name, st);
    c->text_dim = (int)json_int(j, "encoder_hidden_size", 1, 1 << 16, 1024, name, st);
    c->codes = (int)json_int(j, "codebook_size", 1, 1 << 24, 1024, name, st);
    c->heads = (int)json_int(j, "num_attention_heads", 1, 1024, 12, name, st);
    c->layers = (int)json_int(j, "num_hidden_layers", 1, 1024, 12, name, st);
    c->inner = (int)json_int(j, "intermediate_size", 1, 1 << 18, 3072, name, st);
    c->positions = (int)json_int(j, "max_position_embeddings", 1, 1 << 20, 256, name, st);
    c->tokens = (int)json_int(j, "num_vq_tokens", 1, 1 << 20, 256, name, st);
    c->eps = (float)json_double(j, "layer_norm_eps", 0, 1, 1e-5, name, st);
    c->outputs = json_flag(j, "use_codebook_size_for_output", false, name, st) ? c->codes : c->vocabulary;
    if (status_ok(st) && c->hidden % c->heads)
        return status_set(st, STATUS_BAD_FILE, "%s: hidden_size %d is not a multiple of num_attention_heads %d", name, c->hidden, c->heads);
    if (status_ok(st) && (c->codes >= c->vocabulary || c->tokens > c->positions))
        return status_set(st, STATUS_BAD_FILE, "%s: codebook_size must be less than vocab_size, num_vq_tokens at most max_position_embeddings", name);
    return status_ok(st) && read_flags(c, j, name, st);
}

static linear_options layer_options(const maskgit_config *c, bool edge) { return (linear_options){.no_bias = !c->bias, .edge = edge}; }

static tensor layer_norm_of(run *r, const maskgit_config *c, tensor x, const char *name)
{
    return c->bias ? layer_norm(r, x, name, c->eps) : layer_norm_gain(r, x, name, c->eps);
}

static tensor norm_of(run *r, const maskgit_config *c, tensor x, const char *name)
{
    return c->layer_norms ? layer_norm_of(r, c, x, name) : rms_norm(r, x, name, c->eps);
}

/* into x; after: the norm behind it, or NULL */
static tensor attend(run *r, const maskgit_config *c, tensor x, tensor queries, tensor keys, const char *name, const char *after)
{
    scope in = enter(r, "%s", "");
    linear_options o = layer_options(c, false);
    scope inside = enter(r, "%s", name);
    tensor q = linear(r, queries, "query", c->hidden, o), k = linear(r, keys, "key", c->hidden, o), v = linear(r, keys, "value", c->hidden, o);
    tensor y = attention(r, q, k, v, c->heads, 1 / sqrtf((float)(c->hidden / c->heads)), NULL, NULL, NO_TENSOR);
    if (!c->normformer)
        return leave(r, in, leave(r, inside, linear_add(r, x, y, "out", NO_ROW, o)));
    y = leave(r, inside, linear(r, y, "out", c->hidden, o));
    return leave(r, in, add(r, x, norm_of(r, c, y, after)));
}

static tensor layer(run *r, const maskgit_config *c, tensor x, tensor text, int i)
{
    scope in = enter(r, "transformer_layers.%d", i);
    tensor h = norm_of(r, c, x, "attn_layer_norm");
    x = attend(r, c, x, h, h, "attention", "post_attn_layer_norm");
    drop(r, h);
    h = norm_of(r, c, x, "crossattn_layer_norm");
    x = attend(r, c, x, h, text, "crossattention", "post_crossattn_layer_norm");
    drop(r, h);
    region g = region_rows(r, x);
    for (tensor t; region_next(r, &g, &t);) {
        h = layer_norm_of(r, c, t, "ffn.pre_mlp_layer_norm");
        tensor gate = linear(r, h, "ffn.wi_0", c->inner, layer_options(c, false));
        h = act_mul(r, ACT_GELU_ERF, gate, linear(r, h, "ffn.wi_1", c->inner, layer_options(c, false)));
        if (c->normformer)
            h = norm_of(r, c, h, "ffn.mid_mlp_layer_norm");
        linear_add(r, t, h, "ffn.wo", NO_ROW, layer_options(c, false));
    }
    return leave(r, in, x);
}

static tensor embed_tokens(run *r, const maskgit_config *c, const maskgit_inputs *in, int batch)
{
    tensor x = embed(r, "embed.word_embeddings.weight", in->ids, batch * in->tokens, c->vocabulary, c->hidden);
    return add_positions(r, batch_of(x, batch), "embed.position_embeddings.weight", c->positions);
}

static tensor text_of(run *r, const maskgit_config *c, const maskgit_inputs *in, int batch)
{
    tensor text = input(r, in->text, batch, 1, in->text_tokens, c->text_dim);
    return c->projected ? norm_of(r, c, linear(r, text, "encoder_proj", c->hidden, layer_options(c, true)), "encoder_proj_layer_norm") : text;
}

/* Guidance is a sum of logits, and the last layer is linear: it gets the sum of its inputs. */
static void predict_tokens(run *r, const maskgit_config *c, const maskgit_inputs *in, tensor h)
{
    if (c->mlm) {
        linear_options o = layer_options(c, true);
        o.act = ACT_GELU_ERF;
        h = linear(r, h, "mlm_layer.mlm_dense", c->hidden, o);
        h = c->mlm_norm ? norm_of(r, c, h, "mlm_layer.mlm_ln") : h;
    }
    h = in->guided ? guide_halves(r, h, in->guidance) : h;
    region g = region_rows(r, h);
    for (tensor t; region_next(r, &g, &t);)
        output_rows(r, &g, linear(r, t, c->mlm ? "mlm_layer.to_logits" : "to_logits", c->outputs, layer_options(c, true)), in->in_order, in->each, in->ctx);
}

void maskgit_predict(run *r, const maskgit_config *c, const maskgit_inputs *in)
{
    int batch = in->guided ? 2 * in->images : in->images;
    tensor text = text_of(r, c, in, batch), x = embed_tokens(r, c, in, batch);
    for (int i = 0; i < c->layers; i++)
        x = layer(r, c, x, text, i);
    predict_tokens(r, c, in, c->last_norm ? norm_of(r, c, x, "encoder_layer_norm") : x);
}

void maskgit_record(run *r, const void *config)
{
    maskgit_predict(r, config, &(maskgit_inputs){.images = 1, .tokens = 1, .text_tokens = 1});
}
