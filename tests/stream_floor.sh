#!/usr/bin/env bash
# A text encoder that streams from the disk, against what disk and processor allow: whole cold processes, each in a memory cgroup whose limit is its budget.
# As root, Linux; nothing else should run.
#
#   tests/stream_floor.sh [-n ROUNDS] [-t THREADS] MODEL [CASE...]
#
#   MODEL   a container with an encoder, such as `penstock quantize pixart_sigma_1024 --random 1 --type q4 -o MODEL` makes it, or `quantize ul2`
#   CASE    TOKENS:BUDGET:BAR or PROMPTSxTOKENS:BUDGET:BAR, such as 77:256M:1.3 or 16x20:256M:1.45 (default: the bars of T5-XXL)
#
# The floor of a run is the larger of
#   disk     its bytes over the disk's rate, measured right before it: direct reads of the model's first GiB, 4 MiB at a time into huge pages (the fastest way
#            of tests/read_paths.sh), one at a time and four at a time, whichever is faster
#   compute  its operations over the int8 peak that `penstock bench` measures
# Cases go in turns, ROUNDS (5) times; printed are the median ratio, seconds and rate, and the peak of one more run in a cgroup without a limit. The last column has
# the ratio to a floor by the rate of direct reads into small pages, as dd's. PENSTOCK names the program.
set -eu
rounds=5 threads=$(nproc)
while getopts n:t: o; do case $o in n) rounds=$OPTARG ;; t) threads=$OPTARG ;; *) exit 2 ;; esac; done
shift $((OPTIND - 1))
[ $# -ge 1 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
here=$(dirname "$0") model=$1
shift
[ $# -gt 0 ] || set -- 20:256M:1.3 77:256M:1.3 256:256M:1.45 77:128M:1.35 77:64M:1.5 4x20:256M:1.35 16x20:256M:1.45
penstock=${PENSTOCK:-$here/../penstock}
work=$(mktemp -d "${TMPDIR:-/var/tmp}/stream_floor.XXXXXX")
trap 'rm -rf "$work"' EXIT

number() { # KEY of the JSON report on stdin, its first
    grep -o "\"$1\": *[0-9.]*" | head -1 | grep -o '[0-9.]*$'
}

rate() { # GB/s of one way to read
    echo 3 > /proc/sys/vm/drop_caches
    "$here/read_paths" "$model" direct "$1" 4 1024 | grep -o '[0-9.]* GB/s' | cut -d' ' -f1
}

run() { # CASE LIMIT: the report in $work/report, the cgroup's line in $work/group
    local what=${1%%:*} budget prompts=1
    budget=$(echo "$1" | cut -d: -f2)
    case $what in *x*) prompts=${what%x*} what=${what#*x} ;; esac
    "$here/in_cgroup.sh" "$2" "$penstock" encode -q -m "$model" --tokens "$what" -b "$prompts" -t "$threads" --memory-budget "$budget" --json \
        -o "$work/text.safetensors" > "$work/report" 2> "$work/group" || { cat "$work/group" >&2; exit 1; }
}

peak=$("$penstock" bench --json -q -t "$threads" --seconds 0.05 norm | number gop_per_second) # the best set's int8 peak comes first
echo "int8 peak of $threads threads: $peak Gop/s"
for ((round = 0; round < rounds; round++)); do
    for case in "$@"; do
        one=$(rate 1) four=$(rate 4) small=$(PENSTOCK_SMALL_PAGES=1 rate 1)
        run "$case" "$(echo "$case" | cut -d: -f2)"
        seconds=$(tail -1 "$work/group" | grep -o '[0-9.]* s$' | cut -d' ' -f1)
        echo "$case $seconds $one $four $small $(number bytes_read < "$work/report") $(number operations < "$work/report")" >> "$work/rows"
    done
done
for case in "$@"; do
    run "$case" 0
    echo "$case $(tail -1 "$work/group" | grep -o 'peak [0-9]*' | cut -d' ' -f2)" >> "$work/peaks"
done
echo '| tokens | budget | seconds | disk GB/s | floor: disk, compute s | of the floor | bar | peak MiB | by dd'"'"'s rate |'
echo '|---|---|---|---|---|---|---|---|---|'
awk -v peak="$peak" '
    function median(list, n,   i, j, t) { for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j] < list[j - 1]; j--) { t = list[j]; list[j] = list[j - 1]; list[j - 1] = t } return list[int((n + 1) / 2)] }
    function larger(a, b) { return a > b ? a : b }
    NR == FNR { peaks[$1] = $2; next }
    !($1 in n) { order[++cases] = $1 }
    { i = ++n[$1]; rate = larger($3, $4); disk = $6 / rate / 1e9; compute = $7 / peak / 1e9
      s[$1, i] = $2; r[$1, i] = rate; d[$1, i] = disk; c[$1] = compute; q[$1, i] = $2 / larger(disk, compute); p[$1, i] = $2 / larger($6 / $5 / 1e9, compute) }
    END { for (k = 1; k <= cases; k++) { name = order[k]; m = n[name]; split(name, part, ":")
        for (i = 1; i <= m; i++) { S[i] = s[name, i]; R[i] = r[name, i]; D[i] = d[name, i]; Q[i] = q[name, i]; P[i] = p[name, i] }
        printf "| %s | %s | %.2f | %.2f | %.2f, %.2f | %.2f | %s | %.0f | %.2f |\n", part[1], part[2], median(S, m), median(R, m), median(D, m), c[name], median(Q, m), part[3],
               peaks[name] / 1024, median(P, m) } }' "$work/peaks" "$work/rows"
