"""quick.py WORK VAE.pt N [G=4.5] [STEPS=20] [SHEET.png] [SEED=99] : sample from the newest checkpoint (EMA, f32) without the pipeline, and score"""
from common import *
from export import load
import fast
W, V, N = sys.argv[1], sys.argv[2], int(sys.argv[3])
G = float(sys.argv[4]) if len(sys.argv) > 4 else 4.5
ST = int(sys.argv[5]) if len(sys.argv) > 5 else 20
SH = sys.argv[6] if len(sys.argv) > 6 else None
SEED = int(sys.argv[7]) if len(sys.argv) > 7 else 99
torch.set_num_threads(2)
te, dit, vae, d = load(W, V); tok = load_tok(W)
q = [R.sample(SEED, i) for i in range(N)]
ims = []; t0 = time.time()
with torch.no_grad():
    X = torch.randn(N, C, L, L, generator=torch.Generator().manual_seed(0))
    for lo in range(0, N, 32):
        c = [x[1] for x in q[lo:lo + 32]]; n = len(c)
        ids = torch.as_tensor(tok_ids(tok, [''] * n + c)).long(); ids = ids[:, :int((ids != 0).sum(1).max())]; m = ids != 0
        h = te(input_ids=ids, attention_mask=m).last_hidden_state
        s = sched(); s.set_timesteps(ST); x = X[lo:lo + n]
        for t in s.timesteps:
            a, b = fast.fwd(dit, torch.cat([x, x]), t.expand(2 * n), h, m, dt=torch.float32)[0].chunk(2)
            x = s.step(a + G * (b - a), t, x, return_dict=False)[0]
        y = vae.decode(x).sample
        ims += list(((y.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
rs = [R.score(a, x[0]) for a, x in zip(ims, q)]
print('seen %d time %.1f g %g steps %d: ' % (d['seen'], d['time'], G, ST), R.summarize(rs), '%.0f s' % (time.time() - t0), flush=True)
if SH: R.sheet(ims[:24], [x[1] for x in q[:24]], 6, 2, SH)
