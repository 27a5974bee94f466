"""The same function as PixArtTransformer2DModel.forward, on the module's own parameters, arranged for training on CPU: fused q/k/v products,
all cross-attention keys and values in one product, bf16 products.  check() compares it with the module."""
from common import *
import torch.nn.functional as Fn


def sincos_t(t, dim=256):
    f = torch.exp(-math.log(10000) * torch.arange(dim // 2, dtype=torch.float32) / (dim // 2))
    a = t.float()[:, None] * f[None]
    return torch.cat([a.cos(), a.sin()], -1)


def att(q, k, v, am=None):
    """plain products: on CPU much faster in the backward pass than scaled_dot_product_attention at 64 tokens"""
    B, H, N, _ = q.shape
    q, k, v = q.reshape(B * H, N, 64), k.reshape(B * H, -1, 64), v.reshape(B * H, -1, 64)
    s = torch.bmm(q * .125, k.transpose(1, 2))
    if am is not None: s = (s.view(B, H, N, -1) + am).view(B * H, N, -1)
    return torch.bmm(s.softmax(-1), v).view(B, H, N, 64)


def fwd(m, x, t, h, mask, aux_at=None, dt=torch.bfloat16, res=torch.float32):
    """x B,C,16,16; t B; h B,T,TD; mask B,T bool.  Returns B,C,16,16 and the tokens after block aux_at (or None)"""
    B, d, nh = x.shape[0], D, D // 64
    c = lambda w: w.to(dt)
    lin = lambda l, a: Fn.linear(a, c(l.weight), c(l.bias))
    pe = m.pos_embed
    g = L // 2
    xp = x.reshape(B, C, g, 2, g, 2).permute(0, 2, 4, 1, 3, 5).reshape(B, g * g, C * 4)
    y = Fn.linear(xp.to(dt), c(pe.proj.weight.flatten(1)), c(pe.proj.bias)).to(res) + pe.pos_embed.to(res)
    te = m.adaln_single.emb.timestep_embedder
    emb = te.linear_2(Fn.silu(te.linear_1(sincos_t(t))))
    tt = m.adaln_single.linear(Fn.silu(emb)).view(B, 6, d)
    cp = m.caption_projection
    h = lin(cp.linear_2, Fn.gelu(lin(cp.linear_1, h.to(dt)), approximate='tanh'))
    T = h.shape[1]
    bl = m.transformer_blocks
    kv = Fn.linear(h, c(torch.cat([w for b in bl for w in (b.attn2.to_k.weight, b.attn2.to_v.weight)])), c(torch.cat([w for b in bl for w in (b.attn2.to_k.bias, b.attn2.to_v.bias)])))
    kv = kv.view(B, T, len(bl), 2, nh, 64).permute(2, 3, 0, 4, 1, 5)
    am = torch.zeros(B, 1, 1, T, dtype=dt).masked_fill_(~mask[:, None, None], -10000.)
    aux = None
    for i, b in enumerate(bl):
        sh1, sc1, g1, sh2, sc2, g2 = (b.scale_shift_table[None] + tt).to(res).chunk(6, 1)
        a = torch.addcmul(sh1, Fn.layer_norm(y, (d,), eps=1e-6), 1 + sc1).to(dt)
        w = b.attn1
        qkv = Fn.linear(a, c(torch.cat([w.to_q.weight, w.to_k.weight, w.to_v.weight])), c(torch.cat([w.to_q.bias, w.to_k.bias, w.to_v.bias])))
        q, k, v = qkv.view(B, g * g, 3, nh, 64).permute(2, 0, 3, 1, 4)
        o = att(q, k, v).transpose(1, 2).reshape(B, g * g, d)
        y = torch.addcmul(y, g1, lin(w.to_out[0], o).to(res))
        w = b.attn2
        q = lin(w.to_q, y.to(dt)).view(B, g * g, nh, 64).transpose(1, 2)
        o = att(q, kv[i, 0], kv[i, 1], am).transpose(1, 2).reshape(B, g * g, d)
        y = y + lin(w.to_out[0], o)
        a = torch.addcmul(sh2, Fn.layer_norm(y, (d,), eps=1e-6), 1 + sc2).to(dt)
        f = lin(b.ff.net[2], Fn.gelu(lin(b.ff.net[0].proj, a), approximate='tanh'))
        y = torch.addcmul(y, g2, f.to(res))
        if i == aux_at: aux = y
    sh, sc = (m.scale_shift_table[None] + emb[:, None]).chunk(2, 1)
    y = Fn.layer_norm(y.float(), (d,), eps=1e-6) * (1 + sc) + sh
    o = Fn.linear(y.to(dt), c(m.proj_out.weight), c(m.proj_out.bias)).float()
    return o.view(B, g, g, 2, 2, C).permute(0, 5, 1, 3, 2, 4).reshape(B, C, L, L), aux


def module(m, x, t, h, mask):
    return m(x, encoder_hidden_states=h, encoder_attention_mask=mask.long(), timestep=t, added_cond_kwargs={'resolution': None, 'aspect_ratio': None}, return_dict=False)[0]


if __name__ == '__main__':
    torch.set_num_threads(2)
    m, te = build_dit(), build_te(); m.proj_out.weight.data.mul_(10)
    B = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    x = torch.randn(B, C, L, L); t = torch.randint(0, 1000, (B,)); T = 22
    ids = torch.randint(3, 500, (B, T)); mask = torch.arange(T)[None] < torch.randint(5, T + 1, (B, 1)); mask[0] = True
    h = te(input_ids=ids, attention_mask=mask).last_hidden_state.detach()
    with torch.no_grad():
        r = module(m, x, t, h, mask)
        for dt, res in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)):
            print(dt, res, 'max difference', float((fwd(m, x, t, h, mask, dt=dt, res=res)[0] - r).abs().max()), 'of', float(r.abs().max()))
    def bench(name, f, n=4):
        for k in range(n):
            if k == 1: t0 = time.time()
            f().square().mean().backward()
        print('%s %.1f samples/s' % (name, B * (n - 1) / (time.time() - t0)), flush=True)
    bench('fast bf16', lambda: fwd(m, x, t, h, mask)[0])
    bench('fast bf16, bf16 residual', lambda: fwd(m, x, t, h, mask, res=torch.bfloat16)[0])
    def am():
        with torch.autocast('cpu', dtype=torch.bfloat16): return module(m, x, t, h, mask).float()
    bench('module autocast', am)
    bench('fast f32', lambda: fwd(m, x, t, h, mask, dt=torch.float32)[0], 3)
    def tef():
        with torch.autocast('cpu', dtype=torch.bfloat16): return te(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    bench('T5 autocast', tef)
    from torch.profiler import profile
    with profile() as p:
        fwd(m, x, t, h, mask)[0].square().mean().backward()
    print(p.key_averages().table(sort_by='self_cpu_time_total', row_limit=22, max_name_column_width=44))
