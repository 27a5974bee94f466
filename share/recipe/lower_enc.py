"""lower_enc.py WORK VAE.pt MINUTES OUT : PixArt's pipeline lower-cases every prompt; a training on captions with capital letters on signs is repaired here.
The encoder learns, from lower-cased captions, the outputs that it gave for the capitals; two-letter pieces that no caption word needs are made
improbable, so that letters stay single pieces.  Writes OUT/tokenizer and OUT/te.pt, which export.py takes in place of WORK's."""
from common import *
from export import load
from train_t2i import Muon
import string, shutil, torch.nn.functional as Fn
from sentencepiece import sentencepiece_model_pb2 as pb
W, V, MIN, O = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)         # two only on an idle machine
old_te, _, _, _ = load(W, V); te, _, _, _ = load(W, V); te.train()
rng = np.random.default_rng(71); low = string.ascii_lowercase
plain = []
for i in range(3000):
    plain.append(R.caption(R.sample_scene(rng, kinds={'one': .3, 'pair': .4, 'count': .3}), rng))
for w in ('that says', 'saying', 'with the word', 'with the letter', 'that reads'): plain += ['a %s sign %s' % (c, w) for c in R.CN]
import sentencepiece as spm
s1 = spm.SentencePieceProcessor(W + '/tokenizer/spiece.model')
used = {p for c in plain for p in s1.encode(c, out_type=str)}
m = pb.ModelProto(); m.ParseFromString(open(W + '/tokenizer/spiece.model', 'rb').read())
for p in m.pieces:
    b = p.piece.strip('▁')
    if len(b) == 2 and b.isalpha() and b.islower() and p.piece not in used: p.score = -60
shutil.copytree(W + '/tokenizer', O + '/tokenizer', dirs_exist_ok=True)
open(O + '/tokenizer/spiece.model', 'wb').write(m.SerializeToString())
s2 = spm.SentencePieceProcessor(O + '/tokenizer/spiece.model')
ident = {p.piece: i for i, p in enumerate(m.pieces)}
with torch.no_grad():                         # start from the capitals, but for pieces that also belong to words
    for c in low:
        for a in ('▁', ''):
            if a + c not in used and a + c in ident: te.shared.weight[ident[a + c]] = te.shared.weight[ident[a + c.upper()]]


def pair(cap):
    """old ids, new ids, for each new token the old token whose output it must give, weight"""
    a, b = s1.encode(cap, out_type=str), s2.encode(cap.lower(), out_type=str)
    src, i = [], 0
    for p in b:
        if i >= len(a): return None
        if p == a[i] or p.upper() == a[i].upper(): src.append(i); i += 1
        elif p == '▁' and a[i].startswith('▁'):  src.append(i); a[i] = a[i][1:]
        else: return None
    if i != len(a): return None
    w = [4. if x.strip('▁').isupper() else 1. for x in a] + [1.]
    return s1.encode(cap) + [1], [ident[p] for p in b] + [1], src + [len(a)], [w[k] for k in src] + [1.]


data, lost, k = [], 0, 0
while len(data) < 16000:
    r = pair(R.caption(R.sample_scene(rng, 'sign' if k % 5 < 3 else None), rng)); k += 1
    if r: data.append(r)
    else: lost += 1
print('captions', len(data), 'left out', lost, flush=True)
par = list(te.parameters()); mu = [p for n, p in te.named_parameters() if p.ndim == 2 and '.block.' in n and 'relative' not in n]; im = {id(p) for p in mu}
o1, o2 = Muon(mu), torch.optim.AdamW([p for p in par if id(p) not in im], lr=2e-3, betas=(.9, .98), weight_decay=0)
pad = lambda q, v=0: torch.tensor([list(x) + [v] * (ML - len(x)) for x in q])
A, Bn, S, Wt = (pad([d[j] for d in data]) for j in range(4))
t0 = last = time.time(); step = 0; B = 64
while True:
    fr = (time.time() - t0) / 60 / MIN
    if fr >= 1: break
    lr = 1e-3 * min(1, (step + 1) / 50) * min(1, max(.02, (1 - fr) / .6))
    k = torch.as_tensor(rng.integers(0, len(data), B)); a, b, w = A[k], Bn[k], Wt[k]
    with torch.no_grad(): t = old_te(input_ids=a, attention_mask=a != 0).last_hidden_state.gather(1, S[k][..., None].expand(-1, -1, TD))
    h = te(input_ids=b, attention_mask=b != 0).last_hidden_state
    e = (h - t).square().mean(-1); loss = (e * w).sum() / w.sum()
    for p in par: p.grad = None
    loss.backward(); torch.nn.utils.clip_grad_norm_(par, 1.0); o1.step(lr)
    for g in o2.param_groups: g['lr'] = lr
    o2.step(); step += 1
    if time.time() - last > 15:
        last = time.time(); print('%.1f min step %d error: letters %.4f of %.3f, rest %.4f' % ((last - t0) / 60, step, e[w > 1].mean(), t[w > 0].square().mean(), e[w == 1].mean()), flush=True)
torch.save(te.state_dict(), O + '/te.pt'); print('written', flush=True)
