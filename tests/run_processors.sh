#!/usr/bin/env bash
# The x86-64 program on processors without AVX, and with AVX2 alone, under an emulator: no instruction that the processor lacks,
# and the kernels that it can run pass their tests.
set -u
penstock=${PENSTOCK:-./penstock}
check=$(dirname "$penstock")/tests/check_kernels
[ "$(uname -m)" = x86_64 ] || { echo "for x86-64 alone"; exit 77; }
command -v qemu-x86_64 > /dev/null || { echo "no qemu-x86_64 here"; exit 77; }
[ "${SANITIZERS:-no}" = no ] || { echo "sanitizers and the emulator want the same addresses"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

try() { # NAME WANTED_STATUS COMMAND...
    local name=$1 wanted=$2
    shift 2
    timeout 300 "$@" > "$work/log" 2>&1
    local status=$?
    if [ $status = "$wanted" ]; then
        echo "ok  $name"
        passed=$((passed + 1))
    else
        sed 's/^/  /' "$work/log" | tail -n 20
        echo "FAILED  $name: status $status, wanted $wanted"
        failed=$((failed + 1))
    fi
}

# libtool's wrapper is a script: the emulator wants the program itself
[ ! -x "$(dirname "$check")/.libs/check_kernels" ] || check=$(dirname "$check")/.libs/check_kernels
[ ! -x "$(dirname "$penstock")/.libs/penstock" ] || penstock=$(dirname "$penstock")/.libs/penstock

[ -x "$check" ] || { echo "check_kernels is not built"; exit 77; }
[ "$(od -An -tx1 -j18 -N1 "$check" | tr -d ' ')" = 3e ] || { echo "built for another processor"; exit 77; }

for cpu in qemu64 Nehalem-v1; do
    try "kernels on $cpu" 0 qemu-x86_64 -cpu $cpu "$check"
    try "no AVX2 on $cpu" 2 qemu-x86_64 -cpu $cpu "$check" --set avx2
    try "encode on $cpu" 0 qemu-x86_64 -cpu $cpu "$penstock" encode -q -p "a red circle above a blue square" -o "$work/$cpu.safetensors"
done
# The emulator reads all of what a mask leaves out, so that arrays end a vector before the page that must not be touched.
if "$check" --set avx2 > /dev/null 2>&1; then
    try "kernels on Haswell" 0 qemu-x86_64 -cpu Haswell "$check" --margin 64 --set avx2
    try "no AVX-512 on Haswell" 2 qemu-x86_64 -cpu Haswell "$check" --set avx512
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
