"""Procedural scenes, captions and a pixel-only scorer.

  render.py sheet OUT.png          contact sheet of ground truth
  render.py check [N]              scorer on ground truth and on shuffled captions
Only numpy and PIL are needed.  All randomness comes from the numpy Generator
that is passed in, so a (seed, index) pair names one picture for ever.
"""
import sys, math, numpy as np

S = 128
COLORS = {
    'red': (214, 38, 40), 'orange': (246, 134, 26), 'yellow': (250, 214, 44), 'green': (44, 160, 62),
    'blue': (38, 84, 220), 'purple': (128, 56, 180), 'black': (28, 28, 34), 'white': (246, 246, 246)}
CN = list(COLORS)
PAL = np.array([COLORS[c] for c in CN], np.float32) / 255
SHAPES = ['circle', 'square', 'triangle', 'star']
SIZES = {'small': 12.0, 'medium': 19.0, 'large': 30.0}           # one object alone
PAIR_SIZES = {'small': 12.0, 'medium': 18.0, 'large': 25.0}      # two objects
SCENES = ['night sky', 'sea', 'meadow', 'desert']
SCENE_OK = {'night sky': ['red', 'orange', 'yellow', 'green', 'white'],
            'sea': ['red', 'orange', 'yellow', 'purple', 'black'],
            'meadow': ['red', 'orange', 'yellow', 'purple', 'black'],
            'desert': ['red', 'green', 'blue', 'purple', 'black']}
NUM = {1: 'one', 2: 'two', 3: 'three', 4: 'four', 5: 'five'}
COUNT_LAYOUT = {1: [(0, 0)], 2: [(-28, 0), (28, 0)], 3: [(0, -27), (-30, 27), (30, 27)], 4: [(-29, -29), (29, -29), (-29, 29), (29, 29)],
                5: [(-38, -38), (38, -38), (0, 0), (-38, 38), (38, 38)]}
COUNT_R = {1: 19.0, 2: 18.0, 3: 18.0, 4: 18.0, 5: 15.0}
WORDS = ['OK', 'HI', 'GO', 'NO', 'UP']
_BAD = {('red', 'orange'), ('orange', 'yellow'), ('blue', 'purple')}


def col_ok(a, b):
    """can an object of colour a be told from a plain background of colour b"""
    d = PAL[CN.index(a)] - PAL[CN.index(b)]
    return a != b and (a, b) not in _BAD and (b, a) not in _BAD and float((d * d).sum()) > 0.12


def default_bg(colors):
    """the background of a caption that names none: white, unless something white would vanish on it"""
    for b in ('white', 'black', 'blue', 'green', 'red', 'yellow'):
        if all(col_ok(c, b) for c in colors):
            return b


# ---------------------------------------------------------------- shapes
G, R = 301, 1.5


def _poly(v):
    g = np.linspace(-R, R, G)
    X, Y = np.meshgrid(g, g)
    d = np.full(X.shape, 1e9)
    ins = np.zeros(X.shape, bool)
    n = len(v)
    for i in range(n):
        (ax, ay), (bx, by) = v[i], v[(i + 1) % n]
        ex, ey = bx - ax, by - ay
        wx, wy = X - ax, Y - ay
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey + 1e-12), 0, 1)
        d = np.minimum(d, np.hypot(wx - ex * t, wy - ey * t))
        c = ((ay <= Y) & (by > Y)) | ((by <= Y) & (ay > Y))
        with np.errstate(divide='ignore', invalid='ignore'):
            xi = ax + (Y - ay) / (by - ay) * ex
        ins ^= c & (X < xi)
    return np.where(ins, -d, d)


def _tables():
    g = np.linspace(-R, R, G)
    X, Y = np.meshgrid(g, g)
    rr = np.hypot(X, Y)
    st = []
    for i in range(10):
        q = 1.12 if i % 2 == 0 else 0.47
        a = -math.pi / 2 + math.pi * i / 5
        st.append((q * math.cos(a), q * math.sin(a) + 0.06))
    T = {'circle': rr - 1, 'square': _poly([(-.82, -.82), (.82, -.82), (.82, .82), (-.82, .82)]) - 0.05,
         'triangle': _poly([(0, -1.0), (1.02, .78), (-1.02, .78)]) - 0.03, 'star': _poly(st)}
    return {k: v.astype(np.float32) for k, v in T.items()}


TAB = _tables()


def sdf(shape, cx, cy, r, pad=8):
    """signed distance in pixels on the bounding box; returns (slice_y, slice_x, d, u, v)"""
    e = 1.2 * r + pad
    x0, x1 = max(0, int(cx - e)), min(S, int(cx + e) + 2)
    y0, y1 = max(0, int(cy - e)), min(S, int(cy + e) + 2)
    u = ((np.arange(x0, x1) + 0.5 - cx) / r).astype(np.float32)
    v = ((np.arange(y0, y1) + 0.5 - cy) / r).astype(np.float32)
    fx = np.clip((u + R) * (G - 1) / (2 * R), 0, G - 1.001)
    fy = np.clip((v + R) * (G - 1) / (2 * R), 0, G - 1.001)
    ix, iy = fx.astype(int), fy.astype(int)
    ax, ay = (fx - ix)[None], (fy - iy)[:, None]
    T = TAB[shape]
    a = T[np.ix_(iy, ix)] * (1 - ax) + T[np.ix_(iy, ix + 1)] * ax
    b = T[np.ix_(iy + 1, ix)] * (1 - ax) + T[np.ix_(iy + 1, ix + 1)] * ax
    return slice(y0, y1), slice(x0, x1), (a * (1 - ay) + b * ay) * r, u[None], v[:, None]


def draw(im, shape, color, cx, cy, r, amb=0.0):
    c = PAL[CN.index(color)]
    sy, sx, d, u, v = sdf(shape, cx + 1.5, cy + 2.5, r)
    sh = 0.20 * np.clip(0.5 - d / 6, 0, 1)[..., None]
    im[sy, sx] *= 1 - sh
    sy, sx, d, u, v = sdf(shape, cx, cy, r)
    a = np.clip(0.5 - d, 0, 1)[..., None]
    lit = 1.03 - 0.10 * (u + v) / 1.4 - 0.14 * np.clip(1 + d / (0.16 * r), 0, 1)
    hi = 0.16 * np.exp(-((u + 0.38) ** 2 + (v + 0.42) ** 2) / 0.10)
    p = c * lit[..., None] + (1 - c) * hi[..., None]
    im[sy, sx] = im[sy, sx] * (1 - a) + np.clip(p, 0, 1) * a


# ---------------------------------------------------------------- letters
F = {'A': '0,6 2,0 4,6;0.8,3.9 3.2,3.9', 'B': '0,0 0,6 2.8,6 4,5.2 4,3.7 2.6,2.9 0,2.9;0,0 2.6,0 3.6,0.7 3.6,2.2 2.6,2.9',
     'C': '4,1 3,0 1,0 0,1.2 0,4.8 1,6 3,6 4,5', 'D': '0,0 0,6 2.4,6 4,4.6 4,1.4 2.4,0 0,0', 'E': '4,0 0,0 0,6 4,6;0,3 3.2,3',
     'F': '4,0 0,0 0,6;0,3 3.2,3', 'G': '4,1 3,0 1,0 0,1.2 0,4.8 1,6 3,6 4,5 4,3.3 2.4,3.3', 'H': '0,0 0,6;4,0 4,6;0,3 4,3',
     'I': '2,0 2,6;0.8,0 3.2,0;0.8,6 3.2,6', 'J': '3.4,0 3.4,4.8 2.4,6 1.2,6 0.2,4.9', 'K': '0,0 0,6;4,0 0,3.4;1.4,2.3 4,6',
     'L': '0,0 0,6 4,6', 'M': '0,6 0,0 2,3.4 4,0 4,6', 'N': '0,6 0,0 4,6 4,0', 'O': '1,0 3,0 4,1.2 4,4.8 3,6 1,6 0,4.8 0,1.2 1,0',
     'P': '0,6 0,0 3,0 4,0.9 4,2.4 3,3.3 0,3.3', 'Q': '1,0 3,0 4,1.2 4,4.8 3,6 1,6 0,4.8 0,1.2 1,0;2.4,4.2 4.2,6.3',
     'R': '0,6 0,0 3,0 4,0.9 4,2.4 3,3.3 0,3.3;1.8,3.3 4,6', 'S': '4,0.9 3,0 1,0 0,0.9 0,2.1 1,2.9 3,3.1 4,4 4,5.1 3,6 1,6 0,5.1',
     'T': '0,0 4,0;2,0 2,6', 'U': '0,0 0,4.8 1,6 3,6 4,4.8 4,0', 'V': '0,0 2,6 4,0', 'W': '0,0 1,6 2,2.4 3,6 4,0', 'X': '0,0 4,6;4,0 0,6',
     'Y': '0,0 2,3 4,0;2,3 2,6', 'Z': '0,0 4,0 0,6 4,6'}
LW, LH, PITCH, PH = 17, 27, 24, 44


def _glyph(ch):
    X, Y = np.meshgrid(np.arange(PITCH) + 0.5, np.arange(PH) + 0.5)
    d = np.full(X.shape, 1e9)
    for pl in F[ch].split(';'):
        pt = [tuple(map(float, q.split(','))) for q in pl.split()]
        pt = [((PITCH - LW) / 2 + 2 + x / 4 * (LW - 4), (PH - LH) / 2 + 2 + y / 6 * (LH - 4)) for x, y in pt]
        for (ax, ay), (bx, by) in zip(pt, pt[1:]):
            ex, ey = bx - ax, by - ay
            t = np.clip(((X - ax) * ex + (Y - ay) * ey) / (ex * ex + ey * ey + 1e-9), 0, 1)
            d = np.minimum(d, np.hypot(X - ax - ex * t, Y - ay - ey * t))
    return np.clip(0.5 - (d - 2.3), 0, 1).astype(np.float32)


GLYPH = {c: _glyph(c) for c in F}
DARK = ('red', 'blue', 'purple', 'black', 'green')


def panel_w(n):
    return PITCH * n + 14


def draw_sign(im, text, color, cx, cy):
    c = PAL[CN.index(color)]
    w, h = panel_w(len(text)), PH
    X = np.arange(S)[None] + 0.5 - cx
    Y = np.arange(S)[:, None] + 0.5 - cy
    qx, qy = np.abs(X) - w / 2 + 6, np.abs(Y) - h / 2 + 6
    d = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - 6
    post = (np.abs(X) < 3.5) & (Y > h / 2 - 2)
    pc = np.array((0.42, 0.29, 0.18), np.float32)
    im[post] = (pc * (1.15 - 0.1 * (np.broadcast_to(X, d.shape)[post][:, None])))
    im *= 1 - 0.2 * np.clip(0.5 - (d - 2) / 5, 0, 1)[..., None]
    a = np.clip(0.5 - d, 0, 1)[..., None]
    p = c * (1.0 - 0.10 * Y / h - 0.12 * np.clip(1 + d / 2.5, 0, 1))[..., None]
    im[:] = im * (1 - a) + np.clip(p, 0, 1) * a
    ink = np.array((0.97, 0.97, 0.97) if color in DARK else (0.10, 0.10, 0.14), np.float32)
    x0, y0 = int(round(cx - PITCH * len(text) / 2)), int(round(cy - PH / 2))
    for i, ch in enumerate(text):
        m = GLYPH[ch][..., None]
        v = im[y0:y0 + PH, x0 + i * PITCH:x0 + (i + 1) * PITCH]
        v[:] = v * (1 - m) + ink * m


# ---------------------------------------------------------------- backgrounds
_yy = (np.arange(S, dtype=np.float32)[:, None] + 0.5) / S
_xx = (np.arange(S, dtype=np.float32)[None] + 0.5) / S


def _lerp(stops):
    ys = [s[0] for s in stops]
    return np.stack([np.interp(_yy[:, 0], ys, [s[1][k] / 255 for s in stops]) for k in range(3)], -1).astype(np.float32)[:, None] * np.ones((1, S, 1), np.float32)


def _bgs():
    B = {}
    for i, c in enumerate(CN):
        f = 1.06 - 0.16 * _yy + 0.05 * (0.5 - _xx)
        B[c] = np.clip(PAL[i] * f[..., None] + 0.05 * (1 - _yy)[..., None] * (1 - PAL[i]), 0, 1)
    b = _lerp([(0, (8, 10, 40)), (.6, (24, 28, 84)), (1, (50, 44, 110))])
    rng = np.random.default_rng(4)
    for _ in range(26):                                # the same stars in every picture
        x, y = rng.integers(2, S - 2, 2)
        k = rng.uniform(.5, .9)
        b[y, x] += k
        for dy, dx in ((0, -1), (0, 1), (-1, 0), (1, 0)): b[y + dy, x + dx] += k * .35
    B['night sky'] = b
    b = _lerp([(0, (120, 190, 240)), (.5, (205, 232, 248)), (.501, (30, 110, 175)), (1, (12, 70, 130))])
    wv = 0.035 * np.sin(_xx * 40 + 6 * np.sin(_yy * 30)) * np.sin(_yy * 90) * (_yy > .5)
    B['sea'] = b + wv[..., None]
    b = _lerp([(0, (110, 185, 245)), (.6, (215, 238, 250)), (1, (215, 238, 250))])
    for k, (h, am, ph, c) in enumerate([(.60, .05, .5, (120, 190, 90)), (.72, .04, 3.0, (84, 165, 66))]):
        m = np.clip((_yy - h - am * np.sin(_xx * 6 + ph)) * S + .5, 0, 1)[..., None]
        b = b * (1 - m) + np.array(c, np.float32) / 255 * (1.05 - .2 * (_yy[..., None] - h)) * m
    B['meadow'] = b
    b = _lerp([(0, (245, 200, 130)), (.5, (252, 228, 180)), (1, (252, 228, 180))])
    for h, am, ph, c in [(.56, .05, 2.0, (226, 176, 104)), (.74, .05, 5.0, (206, 150, 80))]:
        m = np.clip((_yy - h - am * np.sin(_xx * 5 + ph)) * S + .5, 0, 1)[..., None]
        b = b * (1 - m) + np.array(c, np.float32) / 255 * m
    B['desert'] = b
    return {k: np.clip(v, 0, 1).astype(np.float32) for k, v in B.items()}


BG = _bgs()
BGN = list(BG)


# ---------------------------------------------------------------- scenes and captions
def _pick(rng, n):
    """background name, whether the caption names it, and n object colours that can be seen on it"""
    u = rng.random()
    while True:
        if u < .28:                                    # not named: the colours decide
            c = [str(x) for x in rng.permutation(CN)[:n]]
            b = default_bg(c)
            if b:
                return b, False, c
        else:
            b = str(rng.choice(SCENES)) if u < .60 else str(rng.choice(CN))
            ok = list(SCENE_OK[b]) if b in SCENES else [c for c in CN if col_ok(c, b)]
            return b, True, [str(x) for x in rng.permutation(ok)[:n]]


def a_(w):
    return ('an ' if w[0] in 'aeiou' else 'a ') + w


KINDS = {'one': .34, 'pair': .36, 'count': .18, 'sign': .12}


def sample_scene(rng, kind=None, kinds=None):
    kinds = kinds or KINDS
    kind = kind or str(rng.choice(list(kinds), p=list(kinds.values())))
    J = lambda k: float(rng.uniform(-k, k))
    SH = lambda: str(rng.choice(SHAPES))
    sp = {'kind': kind, 'objs': [], 'rel': None, 'text': None, 'count': None}
    b, named, c = _pick(rng, 2 if kind == 'pair' else 1)
    sp['bg'], sp['named'] = b, named
    if kind == 'one':
        sz = str(rng.choice(list(SIZES), p=[.3, .4, .3]))
        sp['objs'] = [dict(color=c[0], shape=SH(), size=sz, cx=64 + J(3), cy=64 + J(3), r=SIZES[sz] * rng.uniform(.97, 1.03))]
    elif kind == 'pair':
        if rng.random() < .06:
            c[1] = c[0]
        rel = str(rng.choice(['left of', 'right of', 'above', 'below', 'and'], p=[.22, .22, .22, .22, .12]))
        dx, dy = {'left of': (-1, 0), 'right of': (1, 0), 'above': (0, -1), 'below': (0, 1), 'and': (-1, 0)}[rel]
        sp['rel'] = rel
        z = [str(rng.choice(['small', 'large', 'medium'], p=[.2, .2, .6])) for _ in range(2)]
        for i, sg in enumerate((1, -1)):
            sp['objs'].append(dict(color=c[i], shape=SH(), size=z[i], cx=64 + sg * dx * 30 + J(1.5), cy=64 + sg * dy * 30 + J(1.5), r=PAIR_SIZES[z[i]]))
    elif kind == 'count':
        n = int(rng.choice([1, 2, 3, 4, 5], p=[.06, .235, .235, .235, .235]))
        s1 = SH()
        for x, y in COUNT_LAYOUT[n]:
            sp['objs'].append(dict(color=c[0], shape=s1, size=None, cx=64 + x + J(1), cy=64 + y + J(1), r=COUNT_R[n]))
        sp['count'] = n
    else:
        t = ''.join(rng.choice(list(F), int(rng.choice([1, 2], p=[.6, .4]))))
        if rng.random() < .1:
            t = str(rng.choice(WORDS))
        sp['text'] = t
        sp['sign'] = dict(color=c[0], cx=64, cy=60)
    return sp


def render(sp):
    im = BG[sp['bg']].copy()
    if sp['text']:
        draw_sign(im, sp['text'], sp['sign']['color'], sp['sign']['cx'], sp['sign']['cy'])
    for o in reversed(sp['objs']):
        draw(im, o['shape'], o['color'], o['cx'], o['cy'], o['r'])
    return (np.clip(im, 0, 1) * 255 + .5).astype(np.uint8)


def caption(sp, rng):
    def ob(o, art=True):
        s = (o['size'] + ' ' if o['size'] and (o['size'] != 'medium') else '')
        w = s + o['color'] + ' ' + o['shape']
        return a_(w) if art else w
    R_ = lambda *x: x[int(rng.integers(len(x)))]
    k, O = sp['kind'], sp['objs']
    if k == 'one':
        t = ob(O[0], rng.random() < .85)
    elif k == 'pair':
        inv = {'left of': 'right of', 'right of': 'left of', 'above': 'below', 'below': 'above'}
        r = sp['rel']
        A, B = O
        if r == 'and':
            t = f"{ob(A)} {R_('and', 'and', 'next to')} {ob(B)}"
        else:
            if rng.random() < .35:
                A, B, r = B, A, inv[r]
            f = {'left of': R_('to the left of', 'left of'), 'right of': R_('to the right of', 'right of'), 'above': R_('above', 'above', 'over'), 'below': R_('below', 'below', 'under')}[r]
            t = f'{ob(A)} {f} {ob(B)}'
    elif k == 'count':
        t = f"{NUM[sp['count']]} {O[0]['color']} {O[0]['shape']}" + ('s' if sp['count'] > 1 else '')
    else:
        t = a_(sp['sign']['color'] + ' sign') + R_(' that says ', ' saying ', ' with the word ' if len(sp['text']) > 1 else ' with the letter ', ' that reads ') + sp['text']
    b = sp['bg']
    if not sp['named']:
        pass
    elif b in SCENES:
        t += {'night sky': R_(' in the night sky', ' at night', ' on a night sky'), 'sea': R_(' by the sea', ' over the sea', ' at sea'),
              'meadow': R_(' in a meadow', ' on a green meadow', ' in a field'), 'desert': R_(' in the desert', ' in a desert', ' on sand dunes')}[b]
    else:
        t += R_(f' on {a_(b)} background', f' on {a_(b)} background', f' on {b}', f', {b} background', f' against {a_(b)} background')
    if rng.random() < .18:
        t = R_('a picture of ', 'a drawing of ', 'an image of ', 'draw ') + t
    return t


def sample(seed, idx, kind=None, kinds=None):
    rng = np.random.default_rng([seed, idx])
    sp = sample_scene(rng, kind, kinds)
    cap = caption(sp, rng)
    return sp, cap, render(sp)


# ---------------------------------------------------------------- scorer (pixels only)
def _lab(x):
    x = np.where(x > .04045, ((x + .055) / 1.055) ** 2.4, x / 12.92)
    M = np.array([[.4124, .3576, .1805], [.2126, .7152, .0722], [.0193, .1192, .9505]])
    y = x @ M.T / np.array([.9505, 1, 1.089])
    f = np.where(y > .008856, np.cbrt(np.maximum(y, 1e-9)), 7.787 * y + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


PLAB = _lab(PAL.astype(np.float64))
BLAB = {k: _lab(v.astype(np.float64)) for k, v in BG.items()}
_W = np.array([0.55, 1, 1])       # lightness counts less: objects are shaded


def _label(m):
    lab = np.where(m, np.arange(1, m.size + 1).reshape(m.shape), 0)
    while True:
        n = lab.copy()
        n[1:] = np.maximum(n[1:], lab[:-1]); n[:-1] = np.maximum(n[:-1], lab[1:])
        n[:, 1:] = np.maximum(n[:, 1:], n[:, :-1]); n[:, :-1] = np.maximum(n[:, :-1], n[:, 1:])
        n *= m
        # pointer jumping keeps the number of sweeps small
        f = n.ravel(); nz = f > 0
        f[nz] = f[f[nz] - 1]
        n = f.reshape(m.shape)
        if (n == lab).all():
            return lab
        lab = n


def _open(m):
    e = m.copy()
    e[1:] &= m[:-1]; e[:-1] &= m[1:]; e[:, 1:] &= m[:, :-1]; e[:, :-1] &= m[:, 1:]
    d = e.copy()
    d[1:] |= e[:-1]; d[:-1] |= e[1:]; d[:, 1:] |= e[:, :-1]; d[:, :-1] |= e[:, 1:]
    return d & m


TN = 32
def _tmpl():
    out = {}
    for s in SHAPES:
        m = TAB[s] < 0
        out[s] = _norm(m)
    return out


def _norm(m):
    ys, xs = np.where(m.any(1))[0], np.where(m.any(0))[0]
    y0, y1, x0, x1 = ys[0], ys[-1] + 1, xs[0], xs[-1] + 1
    L = max(y1 - y0, x1 - x0)
    cy, cx = (y0 + y1) / 2, (x0 + x1) / 2
    g = (np.arange(TN) + .5) / TN - .5
    iy = np.floor(cy + g * L).astype(int); ix = np.floor(cx + g * L).astype(int)
    ok = ((iy >= 0) & (iy < m.shape[0]))[:, None] & ((ix >= 0) & (ix < m.shape[1]))[None]
    return m[np.clip(iy, 0, m.shape[0] - 1)][:, np.clip(ix, 0, m.shape[1] - 1)] & ok


TMPL = _tmpl()


def detect(img):
    """-> background name, list of components (color, shape, iou, cx, cy, r, area, mask)"""
    x = img.astype(np.float64) / 255
    lab = _lab(x)
    best = min(BGN, key=lambda b: np.sort((np.abs(lab - BLAB[b]) * _W).sum(-1).ravel())[:int(.62 * S * S)].mean())
    diff = np.sqrt((((lab - BLAB[best]) * _W) ** 2).sum(-1))
    dp = np.sqrt((((lab[:, :, None] - PLAB) * _W) ** 2).sum(-1))
    near = dp.argmin(-1)
    fg = (diff > 17) & (dp.min(-1) < diff + 6)
    comps = []
    for ci, c in enumerate(CN):
        m = _open(fg & (near == ci))
        if m.sum() < 70:
            continue
        L = _label(m)
        for l, n in zip(*np.unique(L[L > 0], return_counts=True)):
            if n < 70:
                continue
            comps.append(dict(color=c, mask=L == l, area=int(n)))
    for a in comps:
        ys, xs = np.where(a['mask'])
        a['box'] = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        a['cx'], a['cy'] = (a['box'][0] + a['box'][2]) / 2, (a['box'][1] + a['box'][3]) / 2
    for a in comps:
        m = a['mask'].copy()
        for b in comps:      # fill with objects that lie inside
            if b is not a and b['area'] < .6 * (a['box'][2] - a['box'][0]) * (a['box'][3] - a['box'][1]) and \
                    b['box'][0] > a['box'][0] and b['box'][1] > a['box'][1] and b['box'][2] < a['box'][2] and b['box'][3] < a['box'][3]:
                x0, y0, x1, y1 = b['box']
                m[y0 - 1:y1 + 1, x0 - 1:x1 + 1] |= fg[y0 - 1:y1 + 1, x0 - 1:x1 + 1]
                a['holds'] = True
        q = _norm(m)
        sc = {s: (q & t).sum() / max(1, (q | t).sum()) for s, t in TMPL.items()}
        a['shape'] = max(sc, key=sc.get)
        a['iou'] = float(sc[a['shape']])
        a['r'] = max(a['box'][2] - a['box'][0], a['box'][3] - a['box'][1]) / 2
    return best, comps


def read_sign(img, color, n, cy):
    """letters in a sign of n letters near the middle; returns the best string and the mean correlation"""
    g = _lab(img.astype(np.float64) / 255)[..., 0] / 100
    out, cs = '', []
    x0, y0 = int(round(64 - PITCH * n / 2)), int(round(cy - PH / 2))
    sgn = 1 if color in DARK else -1
    for i in range(n):
        bs, bc = -1, '?'
        for dy in (-3, -2, -1, 0, 1, 2, 3):
            for dx in (-3, -2, -1, 0, 1, 2, 3):
                p = g[max(0, y0 + dy):y0 + dy + PH, max(0, x0 + dx + i * PITCH):x0 + dx + (i + 1) * PITCH]
                if p.shape != (PH, PITCH):
                    continue
                p = (p - p.mean()) * sgn
                v = _GM @ p.ravel() / (np.sqrt((p * p).sum()) + 1e-6)
                j = int(v.argmax())
                if v[j] > bs:
                    bs, bc = float(v[j]), _GL[j]
        out += bc
        cs.append(bs)
    return out, float(np.mean(cs))


_GL = list(F)
_GM = np.stack([(GLYPH[c] - GLYPH[c].mean()).ravel() / np.sqrt(((GLYPH[c] - GLYPH[c].mean()) ** 2).sum()) for c in _GL])
SIZE_CUT = {'one': (14.7, 24.0), 'pair': (14.5, 20.8)}


def score(img, sp):
    """attribute -> 0/1 (or a fraction), only for the attributes that sp asks for; 'all' = everything right"""
    bg, comps = detect(img)
    res = {'background': float(bg == sp['bg'])}
    used = set()
    got = []
    big = [c for c in comps if c['area'] >= 90]
    for o in sp['objs']:
        def cost(i):
            c = big[i]
            return -(2.0 * (c['color'] == o['color']) + 1.0 * (c['shape'] == o['shape']) + .0001 * c['area']) + .004 * math.hypot(c['cx'] - o['cx'], c['cy'] - o['cy'])
        cand = [i for i in range(len(big)) if i not in used]
        if not cand:
            got.append(None)
            continue
        i = min(cand, key=cost)
        used.add(i)
        got.append(big[i])
    if sp['objs']:
        O = sp['objs']
        col = [g is not None and g['color'] == o['color'] for o, g in zip(O, got)]
        shp = [g is not None and g['shape'] == o['shape'] and g['iou'] > .62 for o, g in zip(O, got)]
        res['color'] = float(np.mean(col))
        res['shape'] = float(np.mean(shp))
        res['object'] = float(np.mean([a and b for a, b in zip(col, shp)]))
        if sp['kind'] in SIZE_CUT:
            lo, hi = SIZE_CUT[sp['kind']]
            ok = []
            for o, g in zip(O, got):
                if o['size'] in ('small', 'large'):    # only sizes that the caption names
                    ok.append(g is not None and (g['r'] < lo if o['size'] == 'small' else g['r'] >= hi))
            if ok:
                res['size'] = float(np.mean(ok))
        if sp['rel']:
            a, b = got if len(got) == 2 else (None, None)
            okc = a is not None and b is not None
            res['bound'] = float(okc and all(col) and all(shp))
            if okc:
                dx, dy = a['cx'] - b['cx'], a['cy'] - b['cy']
                okc = {'left of': dx < -8 and abs(dx) > abs(dy), 'right of': dx > 8 and abs(dx) > abs(dy), 'above': dy < -8 and abs(dy) > abs(dx),
                       'below': dy > 8 and abs(dy) > abs(dx), 'and': math.hypot(dx, dy) > 8}[sp['rel']]
            if sp['rel'] != 'and':
                res['relation'] = float(okc and all(col))
        if sp['count']:
            same = [c for c in big if c['color'] == O[0]['color'] and c['area'] > 100]
            res['count'] = float(len(same) == sp['count'])
    if sp['text']:
        c, n = sp['sign']['color'], len(sp['text'])
        t, cor = read_sign(img, c, n, sp['sign']['cy'])
        # the right number of letters: the panel colour must end where a sign of n letters ends
        lab = _lab(img.astype(np.float64) / 255)
        d = np.sqrt((((lab - PLAB[CN.index(c)]) * _W) ** 2).sum(-1))
        y = int(sp['sign']['cy']); half = panel_w(n) / 2
        row = d[y - PH // 2 + 4:y + PH // 2 - 4].copy()
        wide = np.median(row, 0) < 24
        ins = wide[max(0, int(64 - half + 3)):int(64 - half + 6)].mean() > .5 if half < 63 else True
        outs = [int(64 - half - 9), int(64 + half + 8)]
        o_ok = all(not wide[q] for q in outs if 0 <= q < S)
        res['sign'] = float(ins and o_ok)
        res['letters'] = float(np.mean([a == b for a, b in zip(t, sp['text'])])) if cor > .45 else 0.0
        res['text'] = float(t == sp['text'] and cor > .6 and o_ok)
    if sp['kind'] == 'one':
        res['one_color'], res['one_shape'] = res['color'], res['shape']
    keys = [k for k in res if k not in ('color', 'shape', 'letters', 'one_color', 'one_shape')]
    res['all'] = float(all(res[k] == 1 for k in keys))
    return res


KEYS = ['background', 'color', 'shape', 'object', 'one_color', 'one_shape', 'size', 'bound', 'relation', 'count', 'sign', 'letters', 'text', 'all']


def summarize(rs):
    """attribute -> (mean, number of pictures it was asked of)"""
    return {k: (round(float(np.mean([r[k] for r in rs if k in r])), 3), sum(k in r for r in rs)) for k in KEYS if any(k in r for r in rs)}


def sheet(ims, caps, cols=4, scale=2, path='sheet.png'):
    from PIL import Image, ImageDraw, ImageFont
    f = ImageFont.load_default(size=12)
    w, h = S * scale + 8, S * scale + 38
    rows = (len(ims) + cols - 1) // cols
    can = Image.new('RGB', (cols * w, rows * h), (250, 250, 250))
    dr = ImageDraw.Draw(can)
    for i, (im, c) in enumerate(zip(ims, caps)):
        x, y = (i % cols) * w + 4, (i // cols) * h + 4
        can.paste(Image.fromarray(im).resize((S * scale, S * scale), Image.BICUBIC), (x, y))
        ln = ['']
        for word in c.split():
            if len(ln[-1]) + len(word) > 42:
                ln.append('')
            ln[-1] += word + ' '
        for j, l in enumerate(ln[:2]):
            dr.text((x, y + S * scale + 1 + 15 * j), l, fill=(20, 20, 20), font=f)
    can.save(path)


if __name__ == '__main__':
    if sys.argv[1] == 'sheet':
        q = [sample(5, i) for i in range(24)]
        sheet([x[2] for x in q], [x[1] for x in q], 6, 2, sys.argv[2])
    else:
        import time
        n = int(sys.argv[2]) if len(sys.argv) > 2 else 300
        t = time.time(); q = [sample(7, i) for i in range(n)]; t1 = time.time()
        a = [score(im, sp) for sp, _, im in q]; t2 = time.time()
        b = [score(q[(i + 1) % n][2], q[i][0]) for i in range(n)]
        print(f'render {n / (t1 - t):.0f}/s score {n / (t2 - t1):.0f}/s')
        print('truth   ', summarize(a)); print('shuffled', summarize(b))
        for i, r in enumerate(a):
            if r['all'] < 1 and '-v' in sys.argv:
                print(q[i][1], {k: v for k, v in r.items() if v < 1}, [(c['color'], c['shape'], round(c['iou'], 2), c['area']) for c in detect(q[i][2])[1]])
