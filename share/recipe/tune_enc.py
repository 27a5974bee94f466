"""tune_enc.py WORK MINUTES : the encoder of WORK/t2i.pt alone, on word labels (which place, shape, colour, size belong to each word),
held near its old outputs so that the DiT still understands it.  Writes WORK/t2i.pt and WORK/wordhead.pt.  (Stop the training first.)"""
from common import *
from train_t2i import params, Muon
import torch.nn as nn
W, MIN = sys.argv[1], float(sys.argv[2])
torch.set_num_threads(2)
tok, te, old, dit = load_tok(W), build_te(), build_te(), build_dit()
d = torch.load(W + '/t2i.pt', weights_only=False)
nt = len(list(te.parameters()))
for p, o, q in zip(te.parameters(), old.parameters(), d['par'][:nt]): p.data.copy_(q); o.data.copy_(q)
if '--direct' in sys.argv:      # one head that looks back, one that looks ahead: without it word order takes very long to be learned
    b = te.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data
    print('bias range', float(b.min()), float(b.max())); b[16:, 0] -= 4; b[1:16, 1] -= 4
head = nn.Linear(TD, sum(WL))
if os.path.exists(W + '/wordhead.pt'): head.load_state_dict(torch.load(W + '/wordhead.pt'))
N = 20000; caps = []
for i in range(N):
    rng = np.random.default_rng([62, i]); caps.append(R.caption(R.sample_scene(rng, kinds={'pair': .8, 'one': .1, 'count': .05, 'sign': .05}), rng))
ids_all = tok_ids(tok, caps); wl_all = torch.as_tensor(word_labels(tok, ids_all)); ids_all = torch.as_tensor(ids_all); run = 0
print('captions ready', flush=True)
mid = nn.Linear(TD, sum(ML_))
par = list(te.parameters()) + list(head.parameters()) + list(mid.parameters()); mu = [p for n, p in te.named_parameters() if p.ndim == 2 and '.block.' in n and 'relative' not in n]; ids_mu = {id(p) for p in mu}
o1, opt = Muon(mu), torch.optim.AdamW([p for p in par if id(p) not in ids_mu], lr=2e-3, betas=(.9, .98), weight_decay=0)
rng = np.random.default_rng(1); t0 = last = time.time(); step = 0; B = 64
while True:
    fr = (time.time() - t0) / 60 / MIN
    if fr >= 1 or run > .985: break          # solved
    lr = 2e-3 * min(1, (step + 1) / 50) * min(1, max(.1, (1 - fr) / .3))
    for g in opt.param_groups: g['lr'] = lr
    k = torch.as_tensor(rng.integers(0, N, B)); i = ids_all[k].long(); T = int((i != 0).sum(1).max()); i = i[:, :T]; m = i != 0; wl = wl_all[k][..., :T].long()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        o = te(input_ids=i, attention_mask=m, output_hidden_states=True); h = o.last_hidden_state.float(); q2 = mid(torch.nn.functional.layer_norm(o.hidden_states[2].float(), (TD,)))
        with torch.no_grad(): ho = old(input_ids=i, attention_mask=m).last_hidden_state.float()
    wlo, acc = word_loss(head(h), wl, m); dist = ((h - ho)[m].square().mean() / ho[m].square().mean())
    for p in par: p.grad = None
    ml = mid_loss(q2.float(), wl); (wlo + ml + .5 * dist).backward(); torch.nn.utils.clip_grad_norm_(par, 1.0); o1.step(lr); opt.step(); step += 1; run = .95 * run + .05 * acc
    if time.time() - last > 10:
        last = time.time(); print('tune %.1f min step %d mid %.3f word loss %.3f place right %.3f moved %.3f' % ((last - t0) / 60, step, ml.item(), wlo.item(), acc, dist.item()), flush=True)
for j, p in enumerate(te.parameters()): d['par'][j] = p.data.clone(); d['ema'][j] = p.data.clone()
torch.save(d, W + '/t2i.pt.tmp'); os.rename(W + '/t2i.pt.tmp', W + '/t2i.pt'); torch.save(head.state_dict(), W + '/wordhead.pt'); torch.save(mid.state_dict(), W + '/midhead.pt')
print('written', flush=True)
