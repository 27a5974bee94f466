#!/usr/bin/env python3
"""The table of systems: each at its real dimensions with random weights, planned, run in a memory cgroup of its own without a limit with cold caches, and
measured beside the plan.  As root, Linux; nothing but the standard library.

  tests/systems.py [--penstock ./penstock] [--work DIR] [--keep] [-t N] [NAME...]      NAME: rows of SYSTEMS below; without one, all

A container is made in DIR (default: a temporary folder) unless it lies there already, and removed afterwards unless --keep. A line of Markdown a system:
parameters of encoders / denoisers / decoder, the encoders' share, the container's size, then budget, the peak that the kernel counted (and the plan's), and
seconds (and the plan's): text, one evaluation of each denoiser, decoder, and what a whole picture of the pipeline's own steps comes to."""
import argparse, json, os, subprocess, sys, tempfile

V1 = os.path.isdir('/sys/fs/cgroup/memory')
ROOT = '/sys/fs/cgroup/memory' if V1 else '/sys/fs/cgroup'
PEAK = 'memory.max_usage_in_bytes' if V1 else 'memory.peak'

# name: (dimensions, type, budget, steps that are run, options). 0 steps: an encoder alone, by `encode`
SYSTEMS = {
    'UL2-20B, Flan-UL2: encoder': ('ul2', 'q4', '256M', 0, ['--tokens', '77']),
    'T5-XXL: encoder': ('pixart_sigma_1024', 'q4', '64M', 0, ['--tokens', '77']),
    'DeepFloyd IF-I-M, IF-II-M': ('deepfloyd_if', 'q4', '256M', 2, ['--tokens', '77']),
    'Stable Diffusion 1.5': ('sd15', 'q8', '300M', 2, ['--sampling-method', 'euler', '--tokens', '20']),
    'Stable Diffusion XL': ('sdxl_base', 'q4', '300M', 1, ['--sampling-method', 'euler', '--tokens', '20']),
    'PixArt-Sigma': ('pixart_sigma_1024', 'q4', '256M', 1, ['--tokens', '20']),
    'Kandinsky 3': ('kandinsky3', 'q4', '512M', 1, ['--tokens', '20']),
    'aMUSEd 512': ('amused_512', 'q8', '128M', 12, ['--tokens', '20']),
}


def run(command, **more):
    r = subprocess.run(command, capture_output=True, text=True, **more)
    if r.returncode:
        sys.exit('%s\nstatus %d: %s' % (' '.join(command), r.returncode, r.stderr.strip()))
    return r.stdout


def in_cgroup(command):
    """(report, peak in bytes), caches dropped before"""
    group = '%s/penstock.%d' % (ROOT, os.getpid())
    os.mkdir(group)
    try:
        os.sync()
        open('/proc/sys/vm/drop_caches', 'w').write('3')
        out = run(command, preexec_fn=lambda: open(group + '/cgroup.procs', 'w').write(str(os.getpid())))
        return json.loads(out), int(open('%s/%s' % (group, PEAK)).read())
    finally:
        os.rmdir(group)


def by_role(stages, key):
    total = {'encoder': 0, 'denoiser': 0, 'decoder': 0}
    for s in stages:
        total[s['role']] += s[key]
    return total


def measure_encoder(a, name, row, model):
    what = ['-m', model, '-t', str(a.threads), *row[4]]
    stage = [s for s in json.loads(run([a.penstock, 'plan', *what, '--json']))['stages'] if s['role'] == 'encoder'][0]
    report, peak = in_cgroup([a.penstock, 'encode', *what, '--memory-budget', row[2], '-q', '--json', '-o', a.work + '/text.safetensors'])
    print('| %s | %s | %.2f / - / - B | | %.2f GB | %s | %.0f (%.0f) MiB | %.1f (%.1f) | | | |' % (
        name, row[1], stage['parameters'] / 1e9, os.path.getsize(model) / 1e9, row[2], peak / 2**20, report['predicted_peak_bytes'] / 2**20,
        report['seconds']['encode'], stage['seconds']), flush=True)


def measure(a, name, row):
    dimensions, kind, budget, steps, options = row
    model = '%s/%s-%s.penstock' % (a.work, dimensions, kind)
    if not os.path.exists(model):
        run([a.penstock, 'quantize', dimensions, '--random', '1', '--type', kind, '-q', '-o', model])
    if not steps:
        return measure_encoder(a, name, row, model)
    what = ['-m', model, '--memory-budget', budget, '-t', str(a.threads), *options]
    plan = json.loads(run([a.penstock, 'plan', *what, '--steps', str(steps), '--json']))
    whole = json.loads(run([a.penstock, 'plan', *what, '--json']))
    report, peak = in_cgroup([a.penstock, 'generate', *what, '--steps', str(steps), '--no-cache', '-q', '--json', '-o', a.work + '/picture.png'])
    b, took = by_role(plan['stages'], 'parameters'), report['seconds']
    total, each = took['total'], []
    for said, planned, ran in zip(plan['stages'], whole['stages'], report['stages']):
        if ran['role'] == 'denoiser' and (ran['passes'] > 1 or planned['passes'] > 1):
            one = ran['seconds'] / ran['passes']
            total += (planned['passes'] - ran['passes']) * one
            each.append('%.2f (%.2f)' % (one, said['seconds'] / said['passes']))
    said = by_role(plan['stages'], 'seconds')
    print('| %s | %s | %.2f / %.2f / %.2f B | %.0f %% | %.2f GB | %s | %.0f (%.0f) MiB | %.1f (%.1f) | %s | %.1f (%.1f) | %dx%d, %d: %.0f (%.0f) s |' % (
        name, kind, b['encoder'] / 1e9, b['denoiser'] / 1e9, b['decoder'] / 1e9, 100 * b['encoder'] / sum(b.values()), os.path.getsize(model) / 1e9, budget,
        peak / 2**20, plan['predicted_peak_bytes'] / 2**20, took['encode'], said['encoder'], ', '.join(each), took['decode'], said['decoder'],
        report['width'], report['height'], whole['evaluations'], total, whole['predicted_seconds']), flush=True)
    if not a.keep:
        os.remove(model)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--penstock', default='./penstock'); ap.add_argument('--work', default=tempfile.mkdtemp()); ap.add_argument('--keep', action='store_true')
    ap.add_argument('-t', '--threads', type=int, default=os.cpu_count()); ap.add_argument('name', nargs='*', metavar='NAME')
    a = ap.parse_args()
    for n in a.name:
        if n not in SYSTEMS:
            sys.exit('%s: not a row; rows are %s' % (n, ', '.join(SYSTEMS)))
    print('| system | type | encoder / denoiser / decoder | encoders | file | budget | peak (plan) | text s | an evaluation s | decoder s | a whole picture: evaluations, seconds |')
    print('|---|---|---|---|---|---|---|---|---|---|---|')
    for name in a.name or SYSTEMS:
        measure(a, name, SYSTEMS[name])


main()
