"""Shared pieces: fixed linear latents, tokenizer, model shapes, scheduler."""
import os, re, sys, json, math, time, random, numpy as np, torch
import render as R
C, FS, L = 16, 8, 16              # latent channels, down factor, latent side
D, LAYERS = 192, 6                # DiT width and depth (heads of 64)
TD, TL, TFF, VOCAB = 192, 3, 256, 512
ML = 32                           # longest caption in tokens


def patches(im):                  # uint8 B,128,128,3 -> B,16,16,192 in [-1,1]
    x = torch.as_tensor(im).float() / 127.5 - 1
    b = x.shape[0]
    return x.reshape(b, x.shape[1] // FS, FS, x.shape[2] // FS, FS, 3).permute(0, 1, 3, 2, 4, 5).reshape(b, x.shape[1] // FS, x.shape[2] // FS, 192)


class PCA:
    """the fixed linear f8 'encoder': 8x8x3 patches -> 16 channels"""
    def __init__(self, path):
        d = np.load(path)
        self.mu, self.V, self.s = (torch.tensor(d[k]) for k in ('mu', 'V', 's'))

    def enc(self, im):            # -> B,C,16,16
        return (((patches(im) - self.mu) @ self.V) / self.s).permute(0, 3, 1, 2).contiguous()


def make_vae():
    from diffusers import AutoencoderKL
    ch = (16, 32, 64, 64); n = len(ch)
    return AutoencoderKL(in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n,
                         block_out_channels=ch, layers_per_block=1, latent_channels=C, norm_num_groups=8, sample_size=128, scaling_factor=1.0)


def load_vae(path):
    v = make_vae()
    v.load_state_dict({k: x.float() for k, x in torch.load(path, map_location='cpu').items()})
    return v.eval()


def fold_latents(vae, mean, std):
    """the DiT works on (z - mean) / std per channel; put the way back into post_quant_conv"""
    with torch.no_grad():
        w, b = vae.post_quant_conv.weight, vae.post_quant_conv.bias
        b += (w[:, :, 0, 0] * mean).sum(1)
        w *= std.view(1, -1, 1, 1)


# ---------------------------------------------------------------- tokenizer
def train_tokenizer(W):
    import sentencepiece as spm, string, glob, io
    rnd = random.Random(3); lines = []
    for i in range(8000):
        rng = np.random.default_rng([31, i])
        sp = R.sample_scene(rng)
        if sp['text']:            # letters on signs stay single pieces
            sp['text'] = ' '.join(''.join(rnd.choice(string.ascii_uppercase) for _ in range(rnd.randint(1, 3))) for _ in range(3))
        lines.append(R.caption(sp, rng))
    eng = []                      # some English, so that unknown words split into common pieces
    for f in sorted(glob.glob(os.path.join(os.path.dirname(os.__file__), '*.py')))[:160]:
        for d in re.findall(r'"""(.*?)"""', io.open(f, encoding='utf8', errors='ignore').read(), re.S):
            eng += [re.sub(r'[^a-z0-9 ,.\'!?()-]', ' ', l.lower()).strip() for l in d.split('\n') if len(l) > 20]
    extra = ['0123456789 ,.;:!?\'"()-', string.ascii_lowercase, ' '.join(string.ascii_uppercase), ' '.join(string.ascii_lowercase)] * 40
    open(W + '/corpus.txt', 'w').write('\n'.join(lines + eng[:700] + extra))
    os.makedirs(W + '/tokenizer', exist_ok=True)
    spm.SentencePieceTrainer.train(input=W + '/corpus.txt', model_prefix=W + '/tokenizer/spiece', vocab_size=VOCAB, model_type='unigram', character_coverage=1.0,
                                   pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece='<pad>', eos_piece='</s>', unk_piece='<unk>', num_threads=1, minloglevel=2)
    json.dump(dict(tokenizer_class='T5Tokenizer', extra_ids=0, additional_special_tokens=[], eos_token='</s>', pad_token='<pad>', unk_token='<unk>', model_max_length=300, legacy=False),
              open(W + '/tokenizer/tokenizer_config.json', 'w'))


def load_tok(W):
    if not os.path.exists(W + '/tokenizer/spiece.model'):
        train_tokenizer(W)
    from transformers import T5Tokenizer
    return T5Tokenizer.from_pretrained(W + '/tokenizer')


def tok_ids(tok, caps):
    """uint16 N,ML ids, padded with 0"""
    q = tok(list(caps), padding='max_length', truncation=True, max_length=ML, return_tensors='np').input_ids
    return q.astype(np.int16)


# ---------------------------------------------------------------- models
def build_te():
    from transformers import T5Config, T5EncoderModel
    torch.manual_seed(2)
    return T5EncoderModel(T5Config(vocab_size=VOCAB, d_model=TD, d_kv=64, d_ff=TFF, num_layers=TL, num_heads=TD // 64, feed_forward_proj='gated-gelu',
                                   dropout_rate=0.0, tie_word_embeddings=False, is_encoder_decoder=False, use_cache=False, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0))


def build_dit():
    from diffusers import PixArtTransformer2DModel
    torch.manual_seed(3)
    dit = PixArtTransformer2DModel(num_attention_heads=D // 64, attention_head_dim=64, in_channels=C, out_channels=C, num_layers=LAYERS, norm_num_groups=8,
                                   cross_attention_dim=D, sample_size=L, patch_size=2, caption_channels=TD, interpolation_scale=1)
    with torch.no_grad():
        for b in dit.transformer_blocks:
            b.scale_shift_table[2] = 1.0; b.scale_shift_table[5] = 1.0
            for o in (b.attn1.to_out[0], b.attn2.to_out[0], b.ff.net[2]):
                o.weight.mul_(1 / math.sqrt(2 * LAYERS)); o.bias.zero_()
        dit.adaln_single.linear.weight.mul_(.2)
        dit.proj_out.weight.mul_(.1); dit.proj_out.bias.zero_()
    return dit


def sched():
    from diffusers import DPMSolverMultistepScheduler
    return DPMSolverMultistepScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule='linear', prediction_type='v_prediction', algorithm_type='dpmsolver++', solver_order=2)


# ---------------------------------------------------------------- layout labels
LT = list(R.F)
NL = (1 + len(R.SHAPES) + 1, 1 + len(R.CN), 1 + len(LT))     # shape (+ sign), colour, letter; 0 = nothing here


def labels(sp):
    """background index and int8 3,64: what lies in each 16x16 pixel cell (= one DiT token)"""
    g = (np.arange(8) * 16 + 8).astype(np.float32)
    X, Y = np.meshgrid(g, g)
    q = np.zeros((3, 8, 8), np.int8)
    if sp['text']:
        s = sp['sign']; n = len(sp['text'])
        m = (np.abs(X - s['cx']) < R.panel_w(n) / 2) & (np.abs(Y - s['cy']) < R.PH / 2)
        q[0][m] = NL[0] - 1; q[1][m] = 1 + R.CN.index(s['color'])
        k = np.floor((X - s['cx'] + R.PITCH * n / 2) / R.PITCH).astype(int)
        for i, c in enumerate(sp['text']): q[2][m & (k == i)] = 1 + LT.index(c)
    for o in reversed(sp['objs']):
        m = (np.abs(X - o['cx']) < max(9, o['r'])) & (np.abs(Y - o['cy']) < max(9, o['r']))
        q[0][m] = 1 + R.SHAPES.index(o['shape']); q[1][m] = 1 + R.CN.index(o['color'])
    return R.BGN.index(sp['bg']), q.reshape(3, 64)


# ---------------------------------------------------------------- word labels: which object does a word belong to, and where does that object lie
WL = (7, len(R.SHAPES) + 2, len(R.CN) + 1, 3)     # place (none, centre, left, right, top, bottom, background), shape (+ sign), colour, size
_REL = {'left': (2, 3), 'right': (3, 2), 'above': (4, 5), 'over': (4, 5), 'below': (5, 4), 'under': (5, 4), 'and': (2, 3), 'next': (2, 3)}


def word_labels(tok, ids):
    """ids N,ML -> int8 N,6,ML (place, shape, colour, size; first or second object; relation word) from the captions' words alone; every piece of 'small red circle' gets the labels of that object"""
    pc = tok.convert_ids_to_tokens(list(range(VOCAB)))
    sh = {s: k + 1 for k, s in enumerate(R.SHAPES)}; sh.update({s + 's': k for s, k in list(sh.items())}); sh['sign'] = WL[1] - 1
    co = {c: k + 1 for k, c in enumerate(R.CN)}
    out = np.zeros((len(ids), 6, ids.shape[1]), np.int8)
    for r, row in enumerate(ids):
        words, at, ri = [], [], 0
        for j, i in enumerate(row):
            if i <= 2: continue
            p = pc[i]
            if p.startswith('▁') or not words: words.append(''); at.append([])
            p = p.lstrip('▁')
            if p and p[0].isalpha(): words[-1] += p; at[-1].append(j)
        obj = []
        for k, w in enumerate(words):
            if w not in co: continue
            if k + 1 < len(words) and words[k + 1] in sh:
                z = {'small': 1, 'large': 2}.get(words[k - 1], 0) if k else 0
                obj.append((k - (z > 0), k + 2, sh[words[k + 1]], co[w], z))
            else:
                for j in at[k]: out[r, 0, j] = 6; out[r, 2, j] = co[w]
        place = [1] * len(obj)
        if len(obj) == 2:
            rel = [w for w in words[obj[0][1]:obj[1][0]] if w in _REL]
            if rel: place = _REL[rel[0]]; ri = 1 + list(_REL).index(rel[0])
        for n, ((a, b, s, c, z), p) in enumerate(zip(obj, place)):
            for k in range(a, b):
                for j in at[k]: out[r, :, j] = p, s, c, z, n + 1, ri
    return out


def mid_loss(q, wl):
    """the two facts that place is made of, asked of the encoder's middle: place itself is an exclusive-or of them and is not found without"""
    import torch.nn.functional as Fn
    on = wl[:, 4] > 0
    a, b = q.split(ML_, -1)
    return Fn.cross_entropy(a[on], wl[:, 4][on]) + Fn.cross_entropy(b[on], wl[:, 5][on])


ML_ = (3, 1 + len(_REL))


def word_loss(q, wl, mask):
    """q B,T,sum(WL); wl B,4,T"""
    import torch.nn.functional as Fn
    on = wl[:, 0] > 0; loss = 0; pair = wl[:, 5] > 0
    for k, o in enumerate(q.split(WL, -1)):
        m = mask if k == 0 else on
        loss = loss + Fn.cross_entropy(o[m], wl[:, k][m])
    return loss, float((q[..., :WL[0]].argmax(-1) == wl[:, 0])[pair].float().mean())
