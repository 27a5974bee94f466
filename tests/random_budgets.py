#!/usr/bin/env python3
"""Random runs under random budgets, each in a memory cgroup of its own without a limit: is the peak that the kernel counts below the budget, are the
bytes of the picture those of a run without one, and how good was the plan, in memory and in time?  As root, Linux; nothing but the standard library.

  tests/random_budgets.py PENSTOCK RUNS [--seed S] [--tokens N] MODEL...

For every run a model, a size, 1 to 3 steps, 1 or 2 threads and a budget from the least that works to three times as much are drawn. Prints a line a run and,
at the end, the largest share of its budget that a run took, and the quantiles of predicted / measured peak and seconds (of `plan`, asked before the run). Exit status 1 when a run took more than its budget,
when bytes differ, or when the least budget that was named does not work."""
import argparse, hashlib, json, os, random, subprocess, sys, tempfile

V1 = os.path.isdir('/sys/fs/cgroup/memory')
ROOT = '/sys/fs/cgroup/memory' if V1 else '/sys/fs/cgroup'
PEAK = 'memory.max_usage_in_bytes' if V1 else 'memory.peak'


def in_cgroup(command):
    """(exit status, stdout, stderr, peak in bytes), caches dropped before"""
    group = '%s/penstock.%d' % (ROOT, os.getpid())
    os.mkdir(group)
    try:
        os.sync()
        open('/proc/sys/vm/drop_caches', 'w').write('3')
        enter = lambda: open(group + '/cgroup.procs', 'w').write(str(os.getpid()))
        r = subprocess.run(command, capture_output=True, text=True, preexec_fn=enter)
        return r.returncode, r.stdout, r.stderr, int(open('%s/%s' % (group, PEAK)).read())
    finally:
        os.rmdir(group)


def least_budget(command):
    r = subprocess.run(command + ['--memory-budget', '1', '--json'], capture_output=True, text=True)
    return json.loads(r.stdout)['least_bytes'] if r.returncode == 4 else None


def quantiles(values):
    v = sorted(values)
    return ' '.join('%.3f' % v[int(q * (len(v) - 1))] for q in (0, .05, .5, .95, 1)) if v else 'none'


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('penstock'); ap.add_argument('runs', type=int); ap.add_argument('model', nargs='+')
    ap.add_argument('--seed', type=int, default=1); ap.add_argument('--tokens', type=int, help='arbitrary tokens instead of a prompt, for models without a tokenizer')
    ap.add_argument('--sizes', default='64,96,128,160', help='widths and heights to draw from')
    a = ap.parse_args()
    rnd, folder = random.Random(a.seed), tempfile.mkdtemp()
    sizes, free, wrong, shares, peaks, times = [int(x) for x in a.sizes.split(',')], {}, 0, [], [], []
    prompt = ['--tokens', str(a.tokens)] if a.tokens else ['-p', 'a red circle above a blue square']
    for i in range(a.runs):
        model, w, h, steps, threads = rnd.choice(a.model), rnd.choice(sizes), rnd.choice(sizes), rnd.randint(1, 3), rnd.randint(1, 2)
        what = ['-m', model, *prompt, '-W', str(w), '-H', str(h), '--steps', str(steps)]
        run = [a.penstock, 'generate', '-q', *what, '--no-cache', '-s', '7', '-t', str(threads)]
        png, key = '%s/x.png' % folder, (model, w, h, steps)
        if key not in free:
            subprocess.run(run + ['-o', png], check=True)
            free[key] = hashlib.sha256(open(png, 'rb').read()).hexdigest()
        least = least_budget(run + ['-o', png])
        budget = int(least * (1 if i % 5 == 0 else rnd.uniform(1, 3)))
        plan = [a.penstock, 'plan', *what, '-t', str(threads), '--memory-budget', str(budget), '--json']
        seconds = json.loads(subprocess.run(plan, capture_output=True, text=True).stdout or '{}').get('predicted_seconds', 0)
        status, out, err, peak = in_cgroup(run + ['-o', png, '--memory-budget', str(budget), '--json'])
        report = json.loads(out) if status == 0 else {}
        same = status == 0 and hashlib.sha256(open(png, 'rb').read()).hexdigest() == free[key]
        ok = same and peak <= budget
        wrong += not ok
        shares.append(peak / budget)
        if report:
            peaks.append(report['predicted_peak_bytes'] / peak)
            times.append(seconds / report['seconds']['total'])
        print('%s %s %dx%d, %d steps, %d threads: budget %.1fM, peak %.1fM, predicted %.1fM, %.2f s, predicted %.2f%s' %
              ('ok' if ok else 'WRONG', os.path.basename(model), w, h, steps, threads, budget / 2**20, peak / 2**20, report.get('predicted_peak_bytes', 0) / 2**20,
               report['seconds']['total'] if report else 0, seconds,
               '' if same else ', status %d, other bytes: %s' % (status, err.strip())), flush=True)
    print('%d runs, %d wrong; peak / budget at most %.3f; predicted / measured (least, 5 %%, half, 95 %%, most): peak %s; seconds %s' %
          (a.runs, wrong, max(shares), quantiles(peaks), quantiles(times)))
    sys.exit(wrong > 0)


main()
