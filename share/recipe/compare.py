"""What quantization costs the small model: each type against the f32 run of the same container, prompt by prompt.

  compare.py PENSTOCK MODEL.penstock WORKFOLDER [N] [--seed S] [--calibrate PROMPTS.txt]

Makes N (256) held-out pictures with every type (f32: the container as it ships, in 32-bit float; q8, q4: `PENSTOCK quantize`d from it, with --calibrate by these prompts), and prints a
table: cosine of the text embedding, relative L2 of the last latents, PSNR of the pictures, and the scorer's accuracies. numpy and PIL only."""
import argparse, json, os, struct, subprocess, sys
import numpy as np
from PIL import Image
import render as R


def safetensors(path):
    with open(path, 'rb') as f:
        head = json.loads(f.read(struct.unpack('<Q', f.read(8))[0]))
        data = f.read()
    return {k: np.frombuffer(data[v['data_offsets'][0]:v['data_offsets'][1]], '<f4').reshape(v['shape']) for k, v in head.items() if k != '__metadata__'}


def make(penstock, model, folder, lines, extra):
    os.makedirs(folder, exist_ok=True)
    for i, l in enumerate(lines):
        png, trace = '%s/%04d.png' % (folder, i), '%s/%04d.safetensors' % (folder, i)
        if not os.path.exists(png):
            subprocess.run([penstock, 'generate', '-q', '-m', model, '-p', l['prompt'], '-s', str(l['seed']), '-o', png, '--no-cache', '--trace', trace] + extra, check=True)


def against(a, b, n):
    cos, rel, psnr = [], [], []
    for i in range(n):
        x, y = (safetensors('%s/%04d.safetensors' % (f, i)) for f in (a, b))
        u, v = (t['text.text_encoder'][-1].ravel().astype(np.float64) for t in (x, y))
        cos.append(u @ v / np.sqrt((u @ u) * (v @ v)))
        last = max((k for k in x if k.startswith('latents.')), key=lambda k: int(k.split('.')[1]))
        u, v = x[last].astype(np.float64), y[last].astype(np.float64)
        rel.append(np.sqrt(((u - v) ** 2).sum() / (u ** 2).sum()))
        u, v = (np.clip(t['image'] / 2 + .5, 0, 1) for t in (x, y))
        psnr.append(-10 * np.log10(max(1e-12, float(((u - v) ** 2).mean()))))
    return float(np.mean(cos)), float(np.median(rel)), float(np.median(psnr))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('penstock'); ap.add_argument('model'); ap.add_argument('work'); ap.add_argument('n', nargs='?', type=int, default=256); ap.add_argument('--seed', type=int, default=99); ap.add_argument('--calibrate')
    a = ap.parse_args()
    os.makedirs(a.work, exist_ok=True)
    scenes = [R.sample(a.seed, i) for i in range(a.n)]
    lines = [dict(prompt=s[1], seed=1000 + i) for i, s in enumerate(scenes)]
    rows = []
    for kind in ('f32', 'q8', 'q4'):
        model, folder = a.model, '%s/%s' % (a.work, kind)
        if kind != 'f32':
            folder += '-calibrated' if a.calibrate else ''
            model = folder + '.penstock'
            subprocess.run([a.penstock, 'quantize', '-q', a.model, '-o', model, '--type', kind] + (['--calibrate', a.calibrate] if a.calibrate else []), check=True)
        make(a.penstock, model, folder, lines, ['--precision', 'f32'] if kind == 'f32' else [])
        score = R.summarize([R.score(np.asarray(Image.open('%s/%04d.png' % (folder, i)).convert('RGB')), scenes[i][0]) for i in range(a.n)])
        rows.append((kind, os.path.getsize(model)) + against(a.work + '/f32', folder, a.n) + (score,))
    keys = [k for k in ('background', 'color', 'one_color', 'one_shape', 'bound', 'relation', 'count', 'letters', 'all') if k in rows[0][5]]
    print('| type | bytes | text cosine | latents, relative | PSNR dB | ' + ' | '.join(keys) + ' |')
    print('|---' * (5 + len(keys)) + '|')
    for kind, size, cos, rel, psnr, s in rows:
        print('| %s | %d | %.5f | %.4f | %s | ' % (kind, size, cos, rel, 'same' if psnr > 100 else '%.1f' % psnr) + ' | '.join('%.1f%%' % (100 * s[k][0]) for k in keys) + ' |')


if __name__ == '__main__':
    main()
