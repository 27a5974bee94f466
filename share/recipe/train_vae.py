"""train_vae.py PCA.npz VAE.pt MINUTES : the decoder on linear latents (eager, AdamW); goes on from VAE.pt if it is there, makes PCA.npz if it is not.
To be done before the DiT: with another PCA.npz everything after it must be trained again; with the same one the decoder can be tuned at any time."""
from common import *
P, V, MIN = sys.argv[1], sys.argv[2], float(sys.argv[3])
torch.manual_seed(1); torch.set_num_threads(2); rng = np.random.default_rng(1)
im = np.stack([R.sample(21, i)[2] for i in range(4000)]); te = np.stack([R.sample(22, i)[2] for i in range(32)])
if not os.path.exists(P):
    x = patches(im).reshape(-1, 192).double(); mu = x.mean(0); x = x - mu
    ev, E = torch.linalg.eigh(x.T @ x / len(x)); ev, E = ev.flip(0), E.flip(1)
    sd = ev[:C].sqrt(); w = (sd / sd[0]) ** .45; w = w / w.square().mean().sqrt()        # flattened: later channels get more weight than their size
    np.savez(P, mu=mu.float().numpy(), V=E[:, :C].float().numpy(), s=(sd / w).float().numpy())
pca = PCA(P); vae = load_vae(V) if os.path.exists(V) else make_vae()
par = list(vae.decoder.parameters()) + list(vae.post_quant_conv.parameters())
opt = torch.optim.AdamW(par, lr=2e-3, betas=(.9, .98), weight_decay=0); ema = [p.detach().clone() for p in par]
pix = lambda a: torch.as_tensor(a).float().permute(0, 3, 1, 2) / 127.5 - 1
t0 = last = time.time(); step = 0; B = 16; cs = 64
while True:
    fr = (time.time() - t0) / 60 / MIN
    if fr < 1:
        for g in opt.param_groups: g['lr'] = 2e-3 * min(1, (step + 1) / 60) * (1 if fr < .35 else max(.04, .5 * (1 + math.cos(math.pi * (fr - .35) / .65))))
        i = rng.integers(0, len(im), B); oy, ox = rng.integers(0, (128 - cs) // 8 + 1, (2, B)) * 8
        a = np.stack([im[k, y:y + cs, x:x + cs] for k, y, x in zip(i, oy, ox)]); x = pix(a); z = pca.enc(a)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            y = vae.decoder(vae.post_quant_conv(z + .04 * torch.rand(B, 1, 1, 1) * torch.randn_like(z)))
        e = y.float() - x
        loss = e.abs().mean() + e.square().mean() + .5 * ((e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean())
        opt.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(par, 1.0); opt.step(); step += 1
        with torch.no_grad(): torch._foreach_lerp_(ema, par, 1 - min(.995, step / (step + 20)))
    if time.time() - last > 60 or fr >= 1:
        last = time.time(); old = [p.detach().clone() for p in par]
        for p, q in zip(par, ema): p.data.copy_(q)
        with torch.no_grad(): e = (vae.decode(pca.enc(te)).sample.clamp(-1, 1) - pix(te)).square().mean().item()
        print('%.1f min step %d loss %.4f psnr %.2f' % ((last - t0) / 60, step, loss.item(), -10 * math.log10(e / 4)), flush=True)
        torch.save({k: v.half() for k, v in vae.state_dict().items()}, V)
        for p, q in zip(par, old): p.data.copy_(q)
    if fr >= 1: break
