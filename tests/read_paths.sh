#!/usr/bin/env bash
# Ways to read a large file under a ceiling, side by side: rate, processor time, and the peak of a memory cgroup without a limit, caches cold. As root, Linux.
#
#   tests/read_paths.sh FILE [ROUNDS]          FILE: some GB, of a disk that does nothing else meanwhile; the rounds (3) go in turns
#
# Prints the median of each row, as Markdown. tests/read_paths.c says what the ways are; `make check` builds it.
set -eu
[ $# -ge 1 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
here=$(dirname "$0") file=$1 rounds=${2:-3} rows=$(mktemp)
trap 'rm -f "$rows"' EXIT

try() { # small pages or not; then the arguments of read_paths
    local pages=$1 line
    shift
    [ "$pages" = small ] && export PENSTOCK_SMALL_PAGES=1 || unset PENSTOCK_SMALL_PAGES
    line=$("$here/in_cgroup.sh" 0 "$here/read_paths" "$file" "$@" 2>&1 | tr '\n' ' ') || { echo "$line" >&2; return 0; }
    echo "$line" | sed -E "s/^([a-z]+) +depth +([0-9]+), +([0-9.]+) MiB: ([0-9.]+) GB\/s, user ([0-9.]+) s, system ([0-9.]+) s.*peak ([0-9]+) KiB.*/\1, $pages pages|\2|\3|\4|\5|\6|\7/" >> "$rows"
}

for ((round = 0; round < rounds; round++)); do
    for depth in 1 2 3 4; do try huge direct "$depth"; done
    for depth in 1 4; do try small direct "$depth"; done
    for depth in 1 2 4 8; do try huge uring "$depth"; done
    try huge uring 16 1
    try small uring 4
    for depth in 1 4; do try huge buffered "$depth"; try huge uncached "$depth"; done
    for depth in 1 2 4; do try huge mapped "$depth"; done
done
echo '| way | under way at once | MiB each | GB/s | user s | system s | peak MiB |'
echo '|---|---|---|---|---|---|---|'
sort -t'|' -k1,1 -k2,2n -k3,3n -k4,4n "$rows" | awk -F'|' '
    function flush() { if (n) { m = int((n + 1) / 2); print "| " key " | " rate[m] " | " user[m] " | " sys[m] " | " sprintf("%.0f", peak[m] / 1024) " |" } n = 0 }
    { k = $1 " | " $2 " | " $3; if (k != key) { flush(); key = k } n++; rate[n] = $4; user[n] = $5; sys[n] = $6; peak[n] = $7 }
    END { flush() }'
