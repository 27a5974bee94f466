"""pretrain_enc.py WORK MINUTES : the T5 encoder alone, on layout prediction from captions (no pictures): what shape, colour and letter lies
in each cell of an 8x8 grid, and which background; and word labels (common.py): which object and place each word belongs to.  Saves WORK/te.pt,
wordhead.pt, midhead.pt.  Without the word labels the encoder stays blind to who is left of whom for a very long time (README.md)."""
from common import *
import torch.nn as nn, torch.nn.functional as Fn


class Probe(nn.Module):
    def __init__(s, d, layers=2):
        super().__init__()
        s.q = nn.Parameter(torch.randn(64, d) * .5)
        s.at = nn.ModuleList([nn.MultiheadAttention(d, d // 64, batch_first=True) for _ in range(layers)])
        s.ff = nn.ModuleList([nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)) for _ in range(layers)])
        s.ln = nn.ModuleList([nn.LayerNorm(d) for _ in range(layers + 1)])
        s.out = nn.Linear(d, sum(NL)); s.bg = nn.Linear(d, len(R.BGN))

    def forward(s, h, m):
        x = s.q.expand(h.shape[0], -1, -1)
        for l, a, f in zip(s.ln, s.at, s.ff):
            x = x + a(l(x), h, h, key_padding_mask=~m, need_weights=False)[0]
            x = x + f(x)
        x = s.ln[-1](x)
        return s.out(x), s.bg(x.mean(1))


if __name__ == '__main__':
    W, MIN = sys.argv[1], float(sys.argv[2])
    torch.set_num_threads(2)
    tok = load_tok(W); te = build_te(); pr = Probe(TD); head, mid = nn.Linear(TD, sum(WL)), nn.Linear(TD, sum(ML_))
    t0 = time.time(); N = 50000; caps, bgs, labs = [], np.empty(N, np.int64), np.empty((N, 3, 64), np.int8)
    for i in range(N):
        rng = np.random.default_rng([61, i]); sp = R.sample_scene(rng)
        caps.append(R.caption(sp, rng)); bgs[i], labs[i] = labels(sp)
    ids_np = tok_ids(tok, caps); ids_all = torch.as_tensor(ids_np); words = torch.as_tensor(word_labels(tok, ids_np)); labs = torch.as_tensor(labs); bgs = torch.as_tensor(bgs)
    print('captions %.0f s' % (time.time() - t0), flush=True)
    B, LR = 128, 2e-3
    allp = [p for x in (te, pr, head, mid) for p in x.parameters()]
    mu = [p for n, p in te.named_parameters() if p.ndim == 2 and 'block.' in n and 'bias' not in n] + [p for n, p in pr.named_parameters() if p.ndim == 2 and ('at.' in n or 'ff.' in n)]
    idm = {id(p) for p in mu}
    opts = [torch.optim.Muon(mu, lr=LR, weight_decay=.01, momentum=.95, adjust_lr_fn='match_rms_adamw'), torch.optim.AdamW([p for p in allp if id(p) not in idm], lr=LR, betas=(.9, .98), weight_decay=0)]
    rng = np.random.default_rng(0); step = 0; t0 = last = time.time()
    while True:
        fr = (time.time() - t0) / 60 / MIN
        if fr >= 1: break
        for o in opts:
            for g in o.param_groups: g['lr'] = LR * min(1, (step + 1) / 60) * min(1, max(.05, (1 - fr) / .4))
        k = torch.as_tensor(rng.integers(0, N, B))
        i = ids_all[k].long(); i = i[:, :int((i != 0).sum(1).max())]; m = i != 0; lab = labs[k].long(); bg = bgs[k]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            r = te(input_ids=i, attention_mask=m, output_hidden_states=True); h = r.last_hidden_state; y, yb = pr(h, m)
        ys = y.float().split(NL, -1); yb = yb.float()
        loss = sum(Fn.cross_entropy(a.reshape(-1, a.shape[-1]), lab[:, j].reshape(-1)) for j, a in enumerate(ys)) * 2 + Fn.cross_entropy(yb, bg) * .5
        wl = words[k][..., :i.shape[1]].long()
        wlo, place = word_loss(head(h.float()), wl, m); loss = loss + wlo + mid_loss(mid(Fn.layer_norm(r.hidden_states[2].float(), (TD,))), wl)
        for o in opts: o.zero_grad()
        loss.backward(); torch.nn.utils.clip_grad_norm_(allp, 1.0)
        for o in opts: o.step()
        step += 1
        if time.time() - last > 20:
            last = time.time(); nz = lab > 0
            acc = [float((a.argmax(-1) == lab[:, j])[nz[:, j]].float().mean()) for j, a in enumerate(ys)]
            print('enc %.1f min step %d %.0f samples/s loss %.3f bg %.2f shape %.2f colour %.2f letter %.2f place %.2f' % ((time.time() - t0) / 60, step, step * B / (time.time() - t0), loss.item(), float((yb.argmax(-1) == bg).float().mean()), *acc, place), flush=True)
            torch.save(te.state_dict(), W + '/te.tmp'); os.rename(W + '/te.tmp', W + '/te.pt')
    torch.save(te.state_dict(), W + '/te.tmp'); os.rename(W + '/te.tmp', W + '/te.pt')
    torch.save(head.state_dict(), W + '/wordhead.pt'); torch.save(mid.state_dict(), W + '/midhead.pt'); print('done', flush=True)
