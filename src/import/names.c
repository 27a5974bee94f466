/* The tables follow diffusers' loaders/single_file_utils.py. In a pattern `#` stands for a number and `*`, at the end, for the rest; both come again
 * in the new name, the numbers changed as the rule says. The first rule that fits counts. */
#include "import/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MOST_NUMBERS = 4 };

typedef enum counting { /* what becomes of the first number */
    AS_IT_IS,
    DOWN,        /* input block -> level, place in it */
    DOWN_LEVEL,
    UP,          /* output block -> level, place in it */
    UP_LEVEL,
    FROM_BEHIND, /* the decoder's levels count from the last */
    LESS_ONE
} counting;

typedef enum change { KEEP, SQUEEZE /* a 1x1 convolution that is a linear layer */, TURN /* stored transposed */, SPLIT_QKV /* rows of q, k, v */ } change;

typedef struct part { const char *from, *to; } part; /* of the rest */

typedef struct rule {
    const char *from, *to;
    counting count;
    const part *parts;
    change change;
} rule;

struct name_rules { const rule *rule; };

/* ---- the tables ---- */

static const part resnet[] = {{"in_layers.0.", "norm1."},         {"in_layers.2.", "conv1."},  {"emb_layers.1.", "time_emb_proj."}, {"out_layers.0.", "norm2."},
                              {"out_layers.3.", "conv2."}, {"skip_connection.", "conv_shortcut."}, {NULL, NULL}};
static const part vae_resnet[] = {{"nin_shortcut.", "conv_shortcut."}, {NULL, NULL}};

#define R(old, new, ...) {.from = (old), .to = (new), __VA_ARGS__}

static const rule unet[] = {
    R("time_embed.0.*", "time_embedding.linear_1.*"),
    R("time_embed.2.*", "time_embedding.linear_2.*"),
    R("time_embed.cond_proj.*", "time_embedding.cond_proj.*"),
    R("label_emb.0.0.*", "add_embedding.linear_1.*"),
    R("label_emb.0.2.*", "add_embedding.linear_2.*"),
    R("label_emb.weight", "class_embedding.weight"),
    R("input_blocks.0.0.*", "conv_in.*"),
    R("input_blocks.#.0.op.*", "down_blocks.#.downsamplers.0.conv.*", .count = DOWN_LEVEL),
    R("input_blocks.#.0.*", "down_blocks.#.resnets.#.*", .count = DOWN, .parts = resnet),
    R("input_blocks.#.1.*", "down_blocks.#.attentions.#.*", .count = DOWN),
    R("middle_block.0.*", "mid_block.resnets.0.*", .parts = resnet),
    R("middle_block.1.*", "mid_block.attentions.0.*"),
    R("middle_block.2.*", "mid_block.resnets.1.*", .parts = resnet),
    R("output_blocks.#.0.*", "up_blocks.#.resnets.#.*", .count = UP, .parts = resnet),
    R("output_blocks.#.1.conv.*", "up_blocks.#.upsamplers.0.conv.*", .count = UP_LEVEL),
    R("output_blocks.#.2.conv.*", "up_blocks.#.upsamplers.0.conv.*", .count = UP_LEVEL),
    R("output_blocks.#.1.*", "up_blocks.#.attentions.#.*", .count = UP),
    R("out.0.*", "conv_norm_out.*"),
    R("out.2.*", "conv_out.*"),
    R(NULL, NULL)};

#define VAE_MIDDLE(half)                                                                                              \
    R(half ".mid.block_#.*", half ".mid_block.resnets.#.*", .count = LESS_ONE, .parts = vae_resnet),                  \
    R(half ".mid.attn_1.norm.*", half ".mid_block.attentions.0.group_norm.*"),                                        \
    R(half ".mid.attn_1.q.*", half ".mid_block.attentions.0.to_q.*", .change = SQUEEZE),                              \
    R(half ".mid.attn_1.k.*", half ".mid_block.attentions.0.to_k.*", .change = SQUEEZE),                              \
    R(half ".mid.attn_1.v.*", half ".mid_block.attentions.0.to_v.*", .change = SQUEEZE),                              \
    R(half ".mid.attn_1.proj_out.*", half ".mid_block.attentions.0.to_out.0.*", .change = SQUEEZE),                   \
    R(half ".norm_out.*", half ".conv_norm_out.*"),                                                                   \
    R(half ".conv_in.*", half ".conv_in.*"),                                                                          \
    R(half ".conv_out.*", half ".conv_out.*")

/* VQGANs have attention behind the blocks of some levels. */
#define VAE_ATTENTION(old, new, counting)                                                                             \
    R(old ".attn.#.norm.*", new ".attentions.#.group_norm.*", .count = counting),                                     \
    R(old ".attn.#.q.*", new ".attentions.#.to_q.*", .count = counting, .change = SQUEEZE),                           \
    R(old ".attn.#.k.*", new ".attentions.#.to_k.*", .count = counting, .change = SQUEEZE),                           \
    R(old ".attn.#.v.*", new ".attentions.#.to_v.*", .count = counting, .change = SQUEEZE),                           \
    R(old ".attn.#.proj_out.*", new ".attentions.#.to_out.0.*", .count = counting, .change = SQUEEZE)

static const rule vae[] = {
    VAE_ATTENTION("encoder.down.#", "encoder.down_blocks.#", AS_IT_IS),
    VAE_ATTENTION("decoder.up.#", "decoder.up_blocks.#", FROM_BEHIND),
    R("quantize.embedding.*", "quantize.embedding.*"),
    R("quantize.embed.*", "quantize.embedding.*"),
    R("encoder.down.#.block.#.*", "encoder.down_blocks.#.resnets.#.*", .parts = vae_resnet),
    R("encoder.down.#.downsample.conv.*", "encoder.down_blocks.#.downsamplers.0.conv.*"),
    R("decoder.up.#.block.#.*", "decoder.up_blocks.#.resnets.#.*", .count = FROM_BEHIND, .parts = vae_resnet),
    R("decoder.up.#.upsample.conv.*", "decoder.up_blocks.#.upsamplers.0.conv.*", .count = FROM_BEHIND),
    VAE_MIDDLE("encoder"),
    VAE_MIDDLE("decoder"),
    R("quant_conv.*", "quant_conv.*"),
    R("post_quant_conv.*", "post_quant_conv.*"),
    R(NULL, NULL)};

/* stable-diffusion.cpp keeps OpenCLIP's fused projections under transformers' names. */
static const rule clip[] = {
    R("text_model.encoder.layers.#.self_attn.in_proj.*", "text_model.encoder.layers.#.self_attn.%s_proj.*", .change = SPLIT_QKV),
    R("text_model.text_projection", "text_projection.weight", .change = TURN),
    R("text_model.*", "text_model.*"),
    R("text_projection.*", "text_projection.*"),
    R("embeddings.*", "text_model.embeddings.*"),
    R("encoder.*", "text_model.encoder.*"),
    R("final_layer_norm.*", "text_model.final_layer_norm.*"),
    R(NULL, NULL)};

static const rule open_clip[] = {
    R("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    R("token_embedding.*", "text_model.embeddings.token_embedding.*"),
    R("ln_final.*", "text_model.final_layer_norm.*"),
    R("text_projection", "text_projection.weight", .change = TURN),
    R("transformer.resblocks.#.ln_1.*", "text_model.encoder.layers.#.layer_norm1.*"),
    R("transformer.resblocks.#.ln_2.*", "text_model.encoder.layers.#.layer_norm2.*"),
    R("transformer.resblocks.#.mlp.c_fc.*", "text_model.encoder.layers.#.mlp.fc1.*"),
    R("transformer.resblocks.#.mlp.c_proj.*", "text_model.encoder.layers.#.mlp.fc2.*"),
    R("transformer.resblocks.#.attn.out_proj.*", "text_model.encoder.layers.#.self_attn.out_proj.*"),
    R("transformer.resblocks.#.attn.in_proj_*", "text_model.encoder.layers.#.self_attn.%s_proj.*", .change = SPLIT_QKV),
    R(NULL, NULL)};

static const rule t5_gguf[] = {
    R("token_embd.*", "shared.*"),
    R("enc.output_norm.*", "encoder.final_layer_norm.*"),
    R("enc.blk.#.attn_q.*", "encoder.block.#.layer.0.SelfAttention.q.*"),
    R("enc.blk.#.attn_k.*", "encoder.block.#.layer.0.SelfAttention.k.*"),
    R("enc.blk.#.attn_v.*", "encoder.block.#.layer.0.SelfAttention.v.*"),
    R("enc.blk.#.attn_o.*", "encoder.block.#.layer.0.SelfAttention.o.*"),
    R("enc.blk.#.attn_rel_b.*", "encoder.block.#.layer.0.SelfAttention.relative_attention_bias.*"),
    R("enc.blk.#.attn_norm.*", "encoder.block.#.layer.0.layer_norm.*"),
    R("enc.blk.#.ffn_norm.*", "encoder.block.#.layer.1.layer_norm.*"),
    R("enc.blk.#.ffn_gate.*", "encoder.block.#.layer.1.DenseReluDense.wi_0.*"),
    R("enc.blk.#.ffn_up.*", "encoder.block.#.layer.1.DenseReluDense.wi_1.*"),
    R("enc.blk.#.ffn_down.*", "encoder.block.#.layer.1.DenseReluDense.wo.*"),
    R(NULL, NULL)};

/* The decoder begins with a clamp, which diffusers does not count. */
static const rule taesd_encoder[] = {R("#.*", "encoder.layers.#.*"), R(NULL, NULL)};
static const rule taesd_decoder[] = {R("#.*", "decoder.layers.#.*", .count = LESS_ONE), R(NULL, NULL)};
static const rule same[] = {R("*", "*"), R(NULL, NULL)};

const name_rules names_unet = {unet}, names_vae = {vae}, names_clip = {clip}, names_open_clip = {open_clip}, names_t5_gguf = {t5_gguf},
                 names_taesd_encoder = {taesd_encoder}, names_taesd_decoder = {taesd_decoder}, names_same = {same};

/* ---- depth ---- */

static bool present(const tensor_table *t, const char *prefix, const char *format, int n)
{
    char name[MOST_TENSOR_NAME], tail[64];
    snprintf(tail, sizeof tail, format, n);
    snprintf(name, sizeof name, "%s%s", prefix, tail);
    return table_find(t, name) != NULL;
}

name_depth names_depth(const tensor_table *t, const char *unet_prefix, const char *vae_prefix)
{
    enum { MOST = 1000 };
    name_depth d = {1, 0};
    while (d.per_level < MOST && !present(t, unet_prefix, "input_blocks.%d.0.op.weight", d.per_level))
        d.per_level++;
    if (d.per_level == MOST) /* one level: all of its blocks, and a downsampler that is not there */
        for (d.per_level = 1; d.per_level < MOST && present(t, unet_prefix, "input_blocks.%d.0.in_layers.0.weight", d.per_level);)
            d.per_level++;
    while (d.levels < MOST && present(t, vae_prefix, "decoder.up.%d.block.0.norm1.weight", d.levels))
        d.levels++;
    return d;
}

/* ---- matching ---- */

typedef struct match {
    int64_t number[MOST_NUMBERS];
    int numbers;
    const char *rest;
} match;

static bool fits(const char *pattern, const char *name, match *m)
{
    *m = (match){.rest = ""};
    for (; *pattern; pattern++) {
        if (*pattern == '*') {
            m->rest = name;
            return *name != 0;
        }
        if (*pattern != '#') {
            if (*name++ != *pattern)
                return false;
            continue;
        }
        int64_t n = 0;
        int digits = 0;
        for (; *name >= '0' && *name <= '9' && digits < 6; digits++)
            n = n * 10 + (*name++ - '0');
        if (digits == 0 || m->numbers == MOST_NUMBERS)
            return false;
        m->number[m->numbers++] = n;
    }
    return *name == 0;
}

/* The first number becomes one or two others; false where there is no such level. */
static bool recount(counting how, const name_depth *d, match *m)
{
    int64_t n = m->number[0], per = d->per_level;
    switch (how) {
    case AS_IT_IS: return true;
    case DOWN:
    case UP:
        n -= how == DOWN;
        m->number[0] = n / per;
        m->number[1] = n % per;
        m->numbers = 2;
        return n >= 0;
    case DOWN_LEVEL: m->number[0] = (n - 1) / per; return n > 0;
    case UP_LEVEL: m->number[0] = n / per; return true;
    case FROM_BEHIND: m->number[0] = d->levels - 1 - n; return n < d->levels;
    case LESS_ONE: m->number[0] = n - 1; return n > 0;
    }
    return false;
}

static void put(char out[MOST_TENSOR_NAME], size_t *at, const char *text, size_t n)
{
    for (size_t i = 0; i < n && *at + 1 < MOST_TENSOR_NAME; i++)
        out[(*at)++] = text[i];
    out[*at] = 0;
}

/* which: what stands for %s */
static void write_name(const rule *r, const match *m, const char *which, char out[MOST_TENSOR_NAME])
{
    size_t at = 0;
    int next = 0;
    char digits[24];
    out[0] = 0;
    for (const char *p = r->to; *p; p++) {
        if (*p == '#' && next < m->numbers) {
            int n = snprintf(digits, sizeof digits, "%" PRId64, m->number[next++]);
            put(out, &at, digits, (size_t)n);
        } else if (*p == '%' && p[1] == 's') {
            put(out, &at, which, strlen(which));
            p++;
        } else if (*p == '*') {
            const char *rest = m->rest;
            for (const part *q = r->parts; q && q->from; q++)
                if (strncmp(rest, q->from, strlen(q->from)) == 0) {
                    put(out, &at, q->to, strlen(q->to));
                    rest += strlen(q->from);
                    break;
                }
            put(out, &at, rest, strlen(rest));
        } else {
            put(out, &at, p, 1);
        }
    }
}

/* ---- changing the tensor ---- */

/* Rows first .. first + rows of a tensor. */
static void slice(file_tensor *t, int64_t first, int64_t rows)
{
    uint64_t all = 1, per_row;
    table_elements(t, &all);
    per_row = all / (uint64_t)t->shape[0];
    t->shape[0] = rows;
    if (t->blocks) {
        t->first += first * (int64_t)per_row; /* offset and bytes stay those of the whole */
        return;
    }
    uint64_t size = (uint64_t)type_of(t->type)->element_bytes;
    t->offset += (uint64_t)first * per_row * size;
    t->bytes = (uint64_t)rows * per_row * size;
}

static bool refuse(const char *file, const file_tensor *t, const char *why, status *st)
{
    return status_set(st, STATUS_BAD_FILE, "%s: tensor %s: %s", file, t->name, why);
}

static bool changed(const rule *r, int piece, file_tensor *t, const char *file, status *st)
{
    switch (r->change) {
    case KEEP: return true;
    case SQUEEZE:
        while (t->dims > 2 && t->shape[t->dims - 1] == 1)
            t->dims--;
        return true;
    case TURN: {
        if (t->dims != 2 || t->blocks)
            return refuse(file, t, t->blocks ? "is quantized and transposed, which is not read" : "is no matrix, and should be one", st);
        int64_t rows = t->shape[0];
        t->shape[0] = t->shape[1];
        t->shape[1] = rows;
        t->transposed = !t->transposed;
        return true;
    }
    case SPLIT_QKV:
        if (t->dims < 1 || t->shape[0] == 0 || t->shape[0] % 3 || t->transposed)
            return refuse(file, t, "is no fused projection of three equal parts", st);
        slice(t, t->shape[0] / 3 * piece, t->shape[0] / 3);
        return true;
    }
    return false;
}

int names_apply(const name_rules *rules, const name_depth *depth, const char *name, const file_tensor *t, const char *file, named_tensor out[MOST_NAMED],
                status *st)
{
    static const char *const which[MOST_NAMED] = {"q", "k", "v"};
    for (const rule *r = rules->rule; r->from; r++) {
        match m;
        if (!fits(r->from, name, &m) || !recount(r->count, depth, &m))
            continue;
        int pieces = r->change == SPLIT_QKV ? 3 : 1;
        for (int i = 0; i < pieces; i++) {
            write_name(r, &m, which[i], out[i].name);
            out[i].tensor = *t;
            if (!changed(r, i, &out[i].tensor, file, st))
                return -1;
        }
        return pieces;
    }
    return 0;
}
