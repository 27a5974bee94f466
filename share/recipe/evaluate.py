"""Held-out prompts, and scores for pictures that any program made from them.  Needs numpy and PIL only.

  evaluate.py prompts N [--seed S] > prompts.txt      N JSON lines {"prompt", "seed", "index"}; always the same for the same seed S (99)
  evaluate.py score DIR_OR_PREFIX N [--seed S] [--json OUT] [--sheet OUT.png] [-v]
                                                      reads DIR/0000.png, DIR/0001.png, ... (or PREFIX0000.png, ...), 128x128, in the order of the prompts
  evaluate.py truth N [--seed S]                      the scorer on rendered pictures: its own errors

"seed" in a prompt line is the seed to start that picture's noise from; the score does not depend on it.
"""
import argparse, json, os, sys
import numpy as np
import render as R

WHAT = dict(background='the plain colour or scene', color='object colours (mean over objects)', shape='object shapes (mean over objects)', object='colour and shape of one object together',
            one_color='single objects: colour', one_shape='single objects: shape', size='sizes that the caption names', bound='two objects: both with the right colour and shape',
            relation='left of / right of / above / below, colours included', count='exactly that many of that colour', sign='width of the sign panel', letters='letters right (fraction)',
            text='whole word right', all='everything that the caption says')


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('what', choices=['prompts', 'score', 'truth']); ap.add_argument('rest', nargs='+')
    ap.add_argument('--seed', type=int, default=99); ap.add_argument('--json'); ap.add_argument('--sheet'); ap.add_argument('-v', action='store_true')
    a = ap.parse_args()
    n = int(a.rest[-1])
    if a.what == 'prompts':
        for i in range(n):
            print(json.dumps(dict(prompt=R.sample(a.seed, i)[1], seed=1000 + i, index=i)))
        return
    rs, ims, caps = [], [], []
    for i in range(n):
        sp, cap, im = R.sample(a.seed, i)
        if a.what == 'score':
            from PIL import Image
            p = a.rest[0]
            p = os.path.join(p, '%04d.png' % i) if os.path.isdir(p) else p + '%04d.png' % i
            im = Image.open(p).convert('RGB')
            if im.size != (R.S, R.S): sys.exit('%s is %dx%d, not %dx%d' % (p, *im.size, R.S, R.S))
            im = np.asarray(im)
        r = R.score(im, sp); rs.append(r)
        if a.sheet and i < 48: ims.append(im); caps.append(cap)
        if a.v and r['all'] < 1:
            print('%04d' % i, cap, '|', ' '.join('%s %.2g' % (k, v) for k, v in r.items() if v < 1 and k != 'all'))
    s = R.summarize(rs)
    print('%-11s %8s %9s' % ('attribute', 'right', 'pictures'))
    for k, (m, c) in s.items(): print('%-11s %7.1f%% %9d   %s' % (k, 100 * m, c, WHAT[k]))
    out = json.dumps({k: dict(accuracy=m, pictures=c) for k, (m, c) in s.items()})
    print(out)
    if a.json: open(a.json, 'w').write(out + '\n')
    if a.sheet: R.sheet(ims, caps, 8, 1, a.sheet)


if __name__ == '__main__':
    main()
