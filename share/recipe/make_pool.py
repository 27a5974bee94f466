"""make_pool.py WORK PCA.npz SHARDS [SIZE=10000] [FIRST=0] [SIGN_SHARE] : renders a pool of pictures and keeps only their latents.
Shard k -> WORK/pool/k.npz: z f16 N,16,16,16 (raw linear latents), ids int16 N,32 (tokens), bg uint8 N, lab int8 N,3,64."""
from common import *
W, P, K = sys.argv[1], sys.argv[2], int(sys.argv[3])
N = int(sys.argv[4]) if len(sys.argv) > 4 else 10000
F0 = int(sys.argv[5]) if len(sys.argv) > 5 else 0
kinds = None
if len(sys.argv) > 6:             # another share of signs
    f = float(sys.argv[6]); o = 1 - R.KINDS['sign']
    kinds = {k: (f if k == 'sign' else v * (1 - f) / o) for k, v in R.KINDS.items()}
torch.set_num_threads(1)
pca = PCA(P); tok = load_tok(W); os.makedirs(W + '/pool', exist_ok=True)
for k in range(F0, F0 + K):
    out = f'{W}/pool/{k}.npz'
    if os.path.exists(out): continue
    z = np.empty((N, C, L, L), np.float16); bg = np.empty(N, np.uint8); lab = np.empty((N, 3, 64), np.int8); caps = []
    for lo in range(0, N, 250):
        q = [R.sample(41, k * N + i, kinds=kinds) for i in range(lo, min(N, lo + 250))]
        z[lo:lo + len(q)] = pca.enc(np.stack([x[2] for x in q])).half().numpy()
        for i, x in enumerate(q):
            bg[lo + i], lab[lo + i] = labels(x[0]); caps.append(x[1])
    np.savez(out + '.tmp.npz', z=z, bg=bg, lab=lab, ids=tok_ids(tok, caps))
    os.rename(out + '.tmp.npz', out)
    print('shard', k, flush=True)
