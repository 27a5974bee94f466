#!/usr/bin/env bash
# Run a command in a memory cgroup of its own with cold caches and tell what the kernel counted: the highest sum of its memory and of the page cache
# that it brought in. As root, on Linux, cgroup v1 or v2.
#
#   tests/in_cgroup.sh LIMIT COMMAND...      LIMIT: bytes (640M works too), or 0 for none
#
#   READ_RATE=90000000 READ_FILE=model.penstock tests/in_cgroup.sh LIMIT COMMAND...
#       the disk that holds READ_FILE is read at so many bytes a second, as by a card reader (the kernel's own throttle)
#
# The last line on stderr: peak KiB, times that the limit was hit, seconds. The exit status is the command's.
set -u
[ $# -ge 2 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
limit=$(numfmt --from=iec "$1") || exit 2
shift

if [ -d /sys/fs/cgroup/memory ]; then
    group=/sys/fs/cgroup/memory/penstock.$$ limit_file=memory.limit_in_bytes peak_file=memory.max_usage_in_bytes
    hits() { cat "$group/memory.failcnt"; }
else
    group=/sys/fs/cgroup/penstock.$$ limit_file=memory.max peak_file=memory.peak
    hits() { awk '/^max /{print $2}' "$group/memory.events"; }
fi
mkdir "$group" || exit 1
trap 'rmdir "$group"' EXIT
[ "$limit" = 0 ] || echo "$limit" > "$group/$limit_file" || exit 1
[ -e "$group/$peak_file" ] || { echo "this kernel tells no peak ($peak_file)" >&2; exit 1; }
throttle=
if [ -n "${READ_RATE:-}" ]; then
    device=$(findmnt -n -o MAJ:MIN -T "$READ_FILE") || exit 1
    if [ -d /sys/fs/cgroup/blkio ]; then
        throttle=/sys/fs/cgroup/blkio/penstock.$$
        mkdir "$throttle" || exit 1
        trap 'rmdir "$group" "$throttle"' EXIT
        echo "$device $READ_RATE" > "$throttle/blkio.throttle.read_bps_device" || exit 1
    else
        echo "$device rbps=$READ_RATE" > "$group/io.max" || exit 1
    fi
fi
sync
echo 3 > /proc/sys/vm/drop_caches
begin=$(date +%s%N)
(echo "$BASHPID" > "$group/cgroup.procs" && { [ -z "$throttle" ] || echo "$BASHPID" > "$throttle/cgroup.procs"; } && exec "$@")
status=$?
end=$(date +%s%N)
printf 'peak %d KiB, limit hit %s times, %d.%02d s\n' $(($(cat "$group/$peak_file") / 1024)) "$(hits)" $(((end - begin) / 1000000000)) $(((end - begin) / 10000000 % 100)) >&2
exit $status
