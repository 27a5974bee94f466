#!/usr/bin/env bash
# The inner loops of the AArch64 kernels by llvm-mca: cycles of a turn against what the busiest port alone would take.
#
#   tools/neon_limits.sh BUILD [MCA] [CPU...]     BUILD: a build folder configured with --host=aarch64-linux-gnu;
#                                                 MCA: llvm-mca by default; CPU: cortex-a72 cortex-a76 by default
set -eu
build=${1:?a build folder for aarch64}
mca=${2:-llvm-mca}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- cortex-a72 cortex-a76
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The shortest-reaching backward branch of a function whose body holds the instruction: its innermost loop, as assembly
loop() { # OBJECT FUNCTION INSTRUCTION
    aarch64-linux-gnu-objdump -d --no-show-raw-insn --disassemble="$2" "$1" | awk -v wanted="$3" '
        /^ +[0-9a-f]+:/ {
            n++; at[n] = $1; sub(":", "", at[n]); number[at[n]] = n
            text[n] = $0; sub(/^ +[0-9a-f]+:[ \t]+/, "", text[n]); sub(/ *\/\/.*/, "", text[n])
        }
        END {
            for (i = 1; i <= n; i++)
                if (text[i] ~ /^(b\.|cbn?z|tbn?z)/ && match(text[i], /[0-9a-f]+ <[^>]*>$/)) {
                    target = substr(text[i], RSTART); sub(/ .*/, "", target)
                    from = number[target]
                    if (!from || from >= i) continue
                    has = 0
                    for (j = from; j < i; j++) if (text[j] ~ "^" wanted "[ \t]") has++
                    if (has && (!best || i - from < best)) { best = i - from; first = from; last = i; count = has }
                }
            if (!best) exit 1
            print "loop:"
            for (j = first; j < last; j++) print text[j]
            sub(/[0-9a-f]+ <[^>]*>$/, "loop", text[last]); print text[last]
        }'
}

object() { # SET
    find "$build" -name "libsimd_$1_la-kernels_$1.o" | head -n 1
}

printf '%-10s %-22s %-14s %8s %8s %6s\n' kernel function processor cycles limit share
while read -r kernel set function instruction; do
    loop "$(object "$set")" "$function" "$instruction" > "$work/loop.s"
    for cpu in "$@"; do
        extra=
        [ "$set" = neon ] || case $cpu in cortex-a72) continue ;; esac
        [ "$set" != i8mm ] || extra=-mattr=+i8mm
        "$mca" -mtriple=aarch64 -mcpu="$cpu" $extra -iterations=500 "$work/loop.s" 2> "$work/errors" | awk -v k="$kernel" -v f="$function" -v c="$cpu" '
            /^Total Cycles:/ { cycles = $3 / 500 }
            /^Block RThroughput:/ { limit = $3 }
            END { printf "%-10s %-22s %-14s %8.1f %8.1f %5.0f%%\n", k, f, c, cycles, limit, cycles ? 100 * limit / cycles : 0 }'
    done
done << 'TABLE'
gemm_i8 neon tile_4_neon smlal2
gemm_i8 dotprod tile_6_dotprod sdot
gemm_i8 i8mm i8_tile_8 smmla
decode_q4 neon decode_q4_neon tbl
decode_q5 neon decode_q5_neon tbl
gemm_f32 neon gemm_tile_6x4_neon fmla
attention neon score_tile_6_neon fmla
attention neon value_tile_6_neon fmla
TABLE
