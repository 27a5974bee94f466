"""export.py WORK VAE.pt OUTDIR [LOWER] : EMA weights of WORK/t2i.pt and the decoder -> a diffusers folder (f16 safetensors), loadable as PixArtSigmaPipeline.
A fourth argument names a folder of lower_enc.py, whose tokenizer and encoder are taken instead."""
from common import *
from train_t2i import params
from diffusers import PixArtSigmaPipeline


def load(W, vae_path):
    te, dit, vae = build_te(), build_dit(), load_vae(vae_path)
    d = torch.load(W + '/t2i.pt', map_location='cpu', weights_only=False)
    for (_, p), e in zip(params(te, dit), d['ema']): p.data.copy_(e)
    q = np.load(W + '/lat.npz')
    fold_latents(vae, torch.tensor(q['mean']), torch.tensor(q['std']))
    return te.eval(), dit.eval(), vae.eval(), d


if __name__ == '__main__':
    import shutil
    W, V, O = sys.argv[1:4]
    te, dit, vae, d = load(W, V)
    T = sys.argv[4] if len(sys.argv) > 4 else W
    if T != W: te.load_state_dict(torch.load(T + '/te.pt'))
    if os.path.exists(W + '/dit_tuned.pt'): dit.load_state_dict(torch.load(W + '/dit_tuned.pt'))   # tune_dit.py, the last step
    pipe = PixArtSigmaPipeline(load_tok(T), te, vae, dit, sched()).to(torch.float16)
    pipe.save_pretrained(O, safe_serialization=True)
    if not os.path.exists(O + '/tokenizer/spiece.model'): shutil.copy(T + '/tokenizer/spiece.model', O + '/tokenizer/spiece.model')
    if os.path.exists(O + '/tokenizer/tokenizer.json'): os.remove(O + '/tokenizer/tokenizer.json')     # says the same at three times the size
    from safetensors.torch import load_file, save_file
    w = O + '/vae/diffusion_pytorch_model.safetensors'                                                 # the encoder was never trained: latents come from PCA
    save_file({k: v for k, v in load_file(w).items() if not k.startswith(('encoder.', 'quant_conv.'))}, w, metadata={'format': 'pt'})
    n = lambda m: sum(p.numel() for p in m.parameters())
    dec = n(vae.decoder) + n(vae.post_quant_conv)
    print('trained on %d pictures; parameters: T5 %d, DiT %d, decoder %d, together %d' % (d['seen'], n(te), n(dit), dec, n(te) + n(dit) + dec))
