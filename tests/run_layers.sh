#!/usr/bin/env bash
# Who may include whom: downwards only. The ranks are those of the table in HACKING.md.
set -u
cd "${srcdir:-.}" || exit 99
rank() {
    case $1 in
    simd/* | quant/types.h | src/compute/tensor.h) echo 0 ;;
    src/base/api.c) echo 7 ;;
    src/base/*) echo 1 ;;
    quant/types.c | src/weights/io.* | src/weights/source.* | src/import/* | src/text/* | src/image/*) echo 2 ;;
    src/weights/*) echo 3 ;;
    src/compute/*) echo 4 ;;
    src/sampling/* | models/net_*) echo 5 ;;
    models/*) echo 6 ;;
    quant/encode* | quant/round.h) echo 2 ;;
    tools/* | quant/*) echo 7 ;;
    *) echo "" ;;
    esac
}
# Where "name" of an include leads to
resolve() {
    for place in "$1" "src/$1" "$(dirname "$2")/$1"; do
        [ -f "$place" ] && { echo "${place#./}"; return; }
    done
}
bad=0
count=0
for file in simd/*.[ch] simd/*.def quant/*.[ch] src/*/*.c src/*/*.h src/*/*.cc models/*.[ch] tools/*.[ch]; do
    [ -f "$file" ] || continue
    mine=$(rank "$file")
    for name in $(sed -n 's/^#include "\(.*\)"/\1/p' "$file"); do
        target=$(resolve "$name" "$file")
        [ -n "$target" ] || { echo "$file: includes $name, which is nowhere"; bad=1; continue; }
        theirs=$(rank "$target")
        count=$((count + 1))
        if [ -n "$mine" ] && [ -n "$theirs" ] && [ "$theirs" -gt "$mine" ]; then
            echo "$file: includes $target, which lies above it"
            bad=1
        fi
        case $file:$target in
        simd/*:simd/* | simd/*:quant/types.h) ;;
        simd/*) echo "$file: includes $target: simd knows nothing of the rest"; bad=1 ;;
        models/net_*:src/compute/*) ;;
        models/net_*) [ "${target%.h}" = "${file%.*}" ] || case $target in
            models/net_*.h | src/import/json.h | src/base/*) ;;
            *) echo "$file: includes $target: a network includes ops.h and its own header"; bad=1 ;;
            esac ;;
        esac
    done
done
[ $count -gt 0 ] || { echo "no includes found in $PWD"; bad=1; }
exit $bad
