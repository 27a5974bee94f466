"""train_t2i.py WORK --minutes M [--decay F] : T5 encoder + DiT together, on the pool of latents (WORK/pool/*.npz, see make_pool.py).
Resumes from WORK/t2i.pt (weights, optimizers, EMA, data position); the last part F of the minutes decays the learning rate.
Shards that appear while it runs are taken in."""
import argparse, glob, torch.nn.functional as Fn, torch.nn as nn
from common import *
import fast


class Muon:
    """Muon for the 2-D weights; matrices of one shape are orthogonalised together (batched products in bf16)"""
    def __init__(self, params, momentum=.95, wd=.01):
        self.p, self.mom, self.wd = list(params), momentum, wd
        self.m = [torch.zeros_like(p) for p in self.p]
        self.groups = {}
        for i, p in enumerate(self.p): self.groups.setdefault(tuple(p.shape), []).append(i)

    @torch.no_grad()
    def step(self, lr):
        g = [p.grad for p in self.p]
        torch._foreach_lerp_(self.m, g, 1 - self.mom)
        u = torch._foreach_lerp(g, self.m, self.mom)
        for (r, c), ix in self.groups.items():
            x = torch.stack([u[i] for i in ix]).bfloat16()
            if r > c: x = x.transpose(1, 2)
            x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-8).bfloat16()
            for _ in range(5):
                a = torch.bmm(x, x.transpose(1, 2))
                b = -4.7750 * a + 2.0315 * torch.bmm(a, a)
                x = 3.4445 * x + torch.bmm(b, x)
            if r > c: x = x.transpose(1, 2)
            k = lr * .2 * max(r, c) ** .5
            for j, i in enumerate(ix):
                self.p[i].mul_(1 - lr * self.wd).add_(x[j].float(), alpha=-k)


class Pool:
    def __init__(self, W, tok):
        self.tok = tok; self.W, self.names, self.sh = W, [], []
        self.refresh()
        p = W + '/lat.npz'        # per-channel mean and one common deviation: what the DiT sees is (z - mean) / std
        if not os.path.exists(p):
            z = self.sh[0]['z'].astype(np.float32)
            np.savez(p, mean=z.mean((0, 2, 3)), std=np.full(C, math.sqrt((z - z.mean((0, 2, 3), keepdims=True)).var()), np.float32))
        d = np.load(p); self.mean, self.std = (torch.tensor(d[k]).view(1, C, 1, 1) for k in ('mean', 'std'))

    def refresh(self):
        for f in sorted(glob.glob(self.W + '/pool/*.npz')):
            if f not in self.names and '.tmp' not in f:
                d = np.load(f); self.names.append(f); self.sh.append({k: d[k] for k in d.files}); 
                c = f[:-4] + '.words.npy'
                if not os.path.exists(c): np.save(c, word_labels(self.tok, d['ids']))
                self.sh[-1]['wl'] = np.load(c)

    def batch(self, B, rng):
        s = rng.integers(0, len(self.sh), B); i = rng.integers(0, len(self.sh[0]['bg']), B)
        get = lambda k: np.stack([self.sh[a][k][b] for a, b in zip(s, i)])
        return (torch.as_tensor(get('z')).float() - self.mean) / self.std, torch.as_tensor(get('ids')).long(), torch.as_tensor(get('bg')).long(), torch.as_tensor(get('lab')).long(), torch.as_tensor(get('wl')).long()


AC = torch.cumprod(1 - torch.linspace(1e-4, .02, 1000, dtype=torch.float64), 0).float()


def draw_t(B, rng):
    """stratified; 5 % below 100, 72 % in 100..700, 23 % above"""
    u = (rng.permutation(B) + rng.random(B)) / B
    return torch.as_tensor(np.interp(u, [0, .05, .77, 1], [0, 100, 700, 999.999]).astype(np.int64))


def params(te, dit):
    return [('te.' + n, p) for n, p in te.named_parameters()] + [('dit.' + n, p) for n, p in dit.named_parameters()]


if __name__ == '__main__':
    ap = argparse.ArgumentParser()
    ap.add_argument('work'); ap.add_argument('--minutes', type=float, default=60); ap.add_argument('--decay', type=float, default=0)
    ap.add_argument('--batch', type=int, default=64); ap.add_argument('--lr', type=float, default=2e-3); ap.add_argument('--aux', type=float, default=.1)
    ap.add_argument('--save', type=float, default=4, help='minutes between checkpoints')
    A = ap.parse_args(); W, B = A.work, A.batch
    torch.set_num_threads(2)
    te, dit, pool = build_te(), build_dit(), Pool(W, load_tok(W))
    torch.manual_seed(4)
    head = nn.Linear(D, sum(NL) + len(R.BGN))            # training only: layout from the tokens after block 4
    whead = nn.Linear(TD, sum(WL))                       # training only: which object a word belongs to, from the encoder's output
    if os.path.exists(W + '/wordhead.pt'): whead.load_state_dict(torch.load(W + '/wordhead.pt'))
    mhead = nn.Linear(TD, sum(ML_))                      # training only: first or second object, and which relation, from the encoder's second block
    if os.path.exists(W + '/midhead.pt'): mhead.load_state_dict(torch.load(W + '/midhead.pt'))
    o3 = torch.optim.AdamW(list(whead.parameters()) + list(mhead.parameters()), lr=1e-3, weight_decay=0)
    named = params(te, dit); par = [p for _, p in named]; allp = par + list(head.parameters())
    mu = [p for n, p in named if p.ndim == 2 and ('.block.' in n or 'transformer_blocks' in n) and 'scale_shift' not in n and 'relative' not in n]
    mid = {id(p) for p in mu}
    o1, o2 = Muon(mu), torch.optim.AdamW([p for p in allp if id(p) not in mid], lr=A.lr, betas=(.9, .98), weight_decay=0)
    step = seen = 0; tprev = 0.; ck = W + '/t2i.pt'
    if os.path.exists(ck):
        d = torch.load(ck, weights_only=False)
        for p, q in zip(allp, d['par']): p.data.copy_(q)
        ema, o1.m = d['ema'], d['mu']; o2.load_state_dict(d['adam']); step, seen, tprev = d['step'], d['seen'], d['time']
    else:
        if os.path.exists(W + '/te.pt'): te.load_state_dict(torch.load(W + '/te.pt')); print('encoder: pretrained')
        ema = [p.detach().clone() for p in par]
    rng = np.random.default_rng([5, step]); gen = torch.Generator().manual_seed(100 + step)
    log = open(W + '/t2i.log', 'a')
    def say(s): print(s, flush=True); log.write(s + '\n'); log.flush()
    def save():
        torch.save(dict(par=[p.data for p in allp], ema=ema, mu=o1.m, adam=o2.state_dict(), step=step, seen=seen, time=tprev + (time.time() - t0) / 60), ck + '.tmp'); os.rename(ck + '.tmp', ck); torch.save(whead.state_dict(), W + '/wordhead.pt'); torch.save(mhead.state_dict(), W + '/midhead.pt')
    say('start step %d shards %d lr %g batch %d minutes %g decay %g aux %g' % (step, len(pool.sh), A.lr, B, A.minutes, A.decay, A.aux))
    t0 = tlog = tsave = time.time(); acc = None; s0 = seen; others = 1.
    while True:
        fr = (time.time() - t0) / 60 / A.minutes
        if fr >= 1: break
        # on a shared machine two threads mostly wait for each other: the second one only while nobody else runs
        others = .85 * others + .15 * (int(open('/proc/loadavg').read().split()[3].split('/')[0]) - 1)
        torch.set_num_threads(2 if others < .5 else 1)
        lr = A.lr * min(1, (step + 1) / 100) * (max(.02, (1 - fr) / A.decay) if A.decay and fr > 1 - A.decay else 1)
        z, ids, bg, lab, wl = pool.batch(B, rng)
        dr = torch.as_tensor(rng.random(B) < .1); ids[dr] = torch.tensor([1] + [0] * (ML - 1)); wl[dr] = 0    # the empty prompt
        ids = ids[:, :int((ids != 0).sum(1).max())]; m = ids != 0
        t = draw_t(B, rng); a = AC[t].sqrt().view(B, 1, 1, 1); s = (1 - AC[t]).sqrt().view(B, 1, 1, 1)
        e = torch.randn(z.shape, generator=gen); x = a * z + s * e; v = a * e - s * z
        with torch.autocast('cpu', dtype=torch.bfloat16):
            o = te(input_ids=ids, attention_mask=m, output_hidden_states=True); h = o.last_hidden_state.float(); h2 = Fn.layer_norm(o.hidden_states[2].float(), (TD,))
        p, y = fast.fwd(dit, x, t, h, m, aux_at=3)
        snr = AC[t] / (1 - AC[t])
        w = torch.where(snr < 1, torch.ones_like(snr), (snr.clamp(max=5) / (snr + 1)).clamp(min=.15))
        l = (p - v).square().mean((1, 2, 3)); loss = (l * w).mean()
        q = head(y); qs = q[..., :sum(NL)].split(NL, -1); ce = 0
        for j, o in enumerate(qs):
            c = Fn.cross_entropy(o.reshape(-1, NL[j]), lab[:, j].reshape(-1), reduction='none')
            ce = ce + (c * (1 + 2 * (lab[:, j].reshape(-1) > 0))).mean()
        ce = ce + .3 * Fn.cross_entropy(q[..., sum(NL):].mean(1), bg)
        wl = wl[..., :h.shape[1]]; wlo, wacc = word_loss(whead(h), wl, m); wlo = wlo + mid_loss(mhead(h2), wl)
        for r in allp: r.grad = None
        o3.zero_grad()
        (loss + A.aux * (ce + wlo)).backward()
        torch.nn.utils.clip_grad_norm_(allp, 1.0)
        o1.step(lr)
        for g in o2.param_groups: g['lr'] = lr
        o2.step(); o3.step(); step += 1; seen += B
        with torch.no_grad(): torch._foreach_lerp_(ema, par, 1 - min(.996 if not A.decay else .99, 1 - 1 / (1 + .1 * step)))
        hi, lo = l[t > 700].mean().item(), l[t < 300].mean().item(); mi = l[(t >= 300) & (t <= 700)].mean().item()
        cur = np.array([loss.item(), hi, mi, lo, float(ce.detach()), wacc]); acc = cur if acc is None else .98 * acc + .02 * cur
        now = time.time()
        if now - tlog > 30:
            tlog = now
            say('t %.1f min step %d seen %d  %.1f samples/s loss %.4f hi %.4f mid %.4f lo %.4f layout %.3f place %.3f lr %.1e threads %d' % (tprev + (now - t0) / 60, step, seen, (seen - s0) / (now - t0), *acc, lr, torch.get_num_threads()))
            if step % 4 == 0: pool.refresh()
        if now - tsave > 60 * A.save: tsave = now; save()
    save(); say('end')
