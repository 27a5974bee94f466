"""tune_dit.py WORK VAE.pt LOWER --minutes M : the last step. The encoder of lower_enc.py stays as it is; the DiT goes on from WORK/t2i.pt's EMA weights, on lower-cased captions as
the pipeline makes them, with a learning rate that falls to nothing. A share of every batch comes from what the model still draws wrongly: stars, small squares, white and yellow squares.
Writes WORK/dit_tuned.pt (EMA weights; it also keeps what is needed to go on, WORK/dit_tuned_state.pt); export.py takes it when it is there."""
import argparse, glob, torch.nn.functional as Fn, torch.nn as nn
from common import *
import fast
from export import load
from train_t2i import Muon, AC, draw_t, Pool
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument('work'); ap.add_argument('vae'); ap.add_argument('lower'); ap.add_argument('--minutes', type=float, default=40)
ap.add_argument('--batch', type=int, default=64); ap.add_argument('--lr', type=float, default=1e-3); ap.add_argument('--hard', type=float, default=.4); ap.add_argument('--aux', type=float, default=.04)
A = ap.parse_args(); W, B = A.work, A.batch
torch.set_num_threads(1)
te, dit, _, state = load(W, A.vae); te.load_state_dict(torch.load(A.lower + '/te.pt')); te.requires_grad_(False); dit.train()
old, new = load_tok(W), load_tok(A.lower)
pool = Pool(W, old)


def hard(c):
    return 'star' in c or ('square' in c and ('small' in c or 'white' in c or 'yellow' in c))


own = W + '/lowered.npz'                                # the pool's captions, lower-cased, in the other tokenizer's pieces
if not os.path.exists(own):
    ids, wrong = [], []
    for s in pool.sh:
        caps = [c.lower() for c in old.batch_decode(s['ids'], skip_special_tokens=True)]
        ids.append(tok_ids(new, caps)); wrong.append(np.array([hard(c) for c in caps]))
    np.savez(own + '.tmp.npz', ids=np.stack(ids), hard=np.stack(wrong)); os.rename(own + '.tmp.npz', own)
d = np.load(own); ids_all, hard_at = d['ids'], np.argwhere(d['hard'])
head = nn.Linear(D, sum(NL) + len(R.BGN))
for p, q in zip(head.parameters(), state['par'][-2:]): p.data.copy_(q)
par = list(dit.parameters()); named = list(dit.named_parameters())
mu = [p for n, p in named if p.ndim == 2 and 'transformer_blocks' in n and 'scale_shift' not in n]; mid = {id(p) for p in mu}
o1, o2 = Muon(mu), torch.optim.AdamW([p for p in par + list(head.parameters()) if id(p) not in mid], lr=A.lr, betas=(.9, .98), weight_decay=0)
ema = [p.detach().clone() for p in par]
rng = np.random.default_rng([6, state['step']]); gen = torch.Generator().manual_seed(7)
t0 = last = saved = time.time(); step = 0; acc = None
empty = torch.tensor([1] + [0] * (ML - 1))


def save():
    now = [p.data.clone() for p in par]
    for p, e in zip(par, ema): p.data.copy_(e)
    torch.save(dit.state_dict(), W + '/dit_tuned.pt.tmp'); os.rename(W + '/dit_tuned.pt.tmp', W + '/dit_tuned.pt')
    for p, e in zip(par, now): p.data.copy_(e)


while True:
    fr = (time.time() - t0) / 60 / A.minutes
    if fr >= 1: break
    lr = A.lr * min(1, (step + 1) / 60) * max(.01, 1 - fr)
    n = int(B * A.hard)
    at = np.concatenate([hard_at[rng.integers(0, len(hard_at), n)], np.stack([rng.integers(0, len(pool.sh), B - n), rng.integers(0, ids_all.shape[1], B - n)], 1)])
    get = lambda k: np.stack([pool.sh[a][k][b] for a, b in at])
    z = (torch.as_tensor(get('z')).float() - pool.mean) / pool.std; bg = torch.as_tensor(get('bg')).long(); lab = torch.as_tensor(get('lab')).long()
    ids = torch.as_tensor(ids_all[at[:, 0], at[:, 1]]).long()
    ids[torch.as_tensor(rng.random(B) < .1)] = empty
    ids = ids[:, :int((ids != 0).sum(1).max())]; m = ids != 0
    t = torch.as_tensor(rng.permutation(draw_t(B, rng).numpy())); a = AC[t].sqrt().view(B, 1, 1, 1); s = (1 - AC[t]).sqrt().view(B, 1, 1, 1)
    e = torch.randn(z.shape, generator=gen); x = a * z + s * e; v = a * e - s * z
    with torch.no_grad(): h = te(input_ids=ids, attention_mask=m).last_hidden_state
    p, y = fast.fwd(dit, x, t, h, m, aux_at=3)
    snr = AC[t] / (1 - AC[t]); w = torch.where(snr < 1, torch.ones_like(snr), (snr.clamp(max=5) / (snr + 1)).clamp(min=.15))
    loss = ((p - v).square().mean((1, 2, 3)) * w).mean()
    q = head(y); ce = .3 * Fn.cross_entropy(q[..., sum(NL):].mean(1), bg)
    for j, o in enumerate(q[..., :sum(NL)].split(NL, -1)):
        c = Fn.cross_entropy(o.reshape(-1, NL[j]), lab[:, j].reshape(-1), reduction='none'); ce = ce + (c * (1 + 2 * (lab[:, j].reshape(-1) > 0))).mean()
    for r in par + list(head.parameters()): r.grad = None
    (loss + A.aux * ce).backward()
    torch.nn.utils.clip_grad_norm_(par, 1.0); o1.step(lr)
    for g in o2.param_groups: g['lr'] = lr
    o2.step(); step += 1
    with torch.no_grad(): torch._foreach_lerp_(ema, par, 1 - min(.995, 1 - 1 / (1 + .1 * step)))
    cur = np.array([loss.item(), float(ce.detach())]); acc = cur if acc is None else .98 * acc + .02 * cur
    if time.time() - last > 30:
        last = time.time(); print('t %.1f min step %d pictures %d %.1f samples/s loss %.4f layout %.3f lr %.1e' % ((last - t0) / 60, step, step * B, step * B / (last - t0), *acc, lr), flush=True)
    if time.time() - saved > 240: saved = time.time(); save()
save(); print('end', flush=True)
