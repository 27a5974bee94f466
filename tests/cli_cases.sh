#!/bin/sh
# cli_cases.sh: what the contract promises about the command line, tried on the tiny models of fixtures/pixart and fixtures/sd.
#
#     cli_cases.sh [-v] [-k WORD] [FIXTURES]        $PENSTOCK: the binary (default ./penstock)
#
# A case is one line at the end: `try NAME FUNCTION...`. A function fails by returning non-zero; what it says goes into the
# report. Each case runs in an empty folder of its own, so that `nothing_left` can look for leftovers.
# A case that needs python3 or another tool that is missing is skipped and counted as such.

PENSTOCK=${PENSTOCK:-./penstock}
verbose= word=
while :; do
    case $1 in
    -v) verbose=1; shift ;;
    -k) word=$2; shift 2 ;;
    *) break ;;
    esac
done
FIXTURES=${1:-$(dirname "$0")/fixtures/pixart}
FIXTURES=$(cd "$FIXTURES" && pwd) || exit 2
PENSTOCK=$(cd "$(dirname "$PENSTOCK")" && pwd)/$(basename "$PENSTOCK") || exit 2
[ -x "$PENSTOCK" ] || { echo "cli_cases: $PENSTOCK is not there" >&2; exit 2; }
M=$FIXTURES/models
S=$M/sigma_small
ROOT=$(mktemp -d "${TMPDIR:-/tmp}/penstock-cli-XXXXXX") || exit 2
trap 'cd /; chmod -R u+w "$ROOT"; rm -rf "$ROOT"' EXIT
trap 'exit 130' INT TERM
export XDG_CACHE_HOME="$ROOT/cache"
LC_ALL=C
export LC_ALL
passed=0 failed=0 skipped=0
SKIP=77

# In a case that takes an emulator minutes, and shows nothing of the instruction set that others do not: natively || return
natively() { [ -z "${PENSTOCK_EMULATED:-}" ] || { echo "takes an emulator minutes"; return $SKIP; }; }

try() {
    name=$1; shift
    case $name in *"$word"*) ;; *) return ;; esac
    rm -rf "$ROOT/cache"; mkdir -p "$ROOT/work" && cd "$ROOT/work" || exit 2
    report=$("$@" 2>&1); status=$?
    case $status in
    0) passed=$((passed + 1)); [ -z "$verbose" ] || echo "ok       $name" ;;
    "$SKIP") skipped=$((skipped + 1)); echo "skipped  $name: $report" ;;
    *) failed=$((failed + 1)); echo "FAILED   $name: $(printf '%s\n' "$report" | head -n 3)" ;;
    esac
    cd "$ROOT" && chmod -R u+w work && rm -rf work
}

# Pieces ---------------------------------------------------------------------------------------------------------------

say() { echo "$*"; return 1; }

# The run's status is in $got, its output in the files ../out and ../err.
penstock() { "$PENSTOCK" "$@" >../out 2>../err; got=$?; }

generate() { penstock generate -m "$S" -p "a red fox" --steps 2 -s 1 -q -o out.png "$@"; }

is() { case "|$1|" in *"|$got|"*) ;; *) say "status $got, wanted $1: $(head -n 2 ../err)" ;; esac; }

works() { is 0 && [ -s out.png ] || say "no out.png"; }

# One line `penstock: what: why` that contains every word given.
sentence() {
    [ "$(wc -l <../err)" -eq 1 ] || { say "stderr has $(wc -l <../err) lines: $(head -n 3 ../err)"; return 1; }
    grep -q '^penstock: [^ ].*: .' ../err || { say "not a sentence: $(cat ../err)"; return 1; }
    for w in "$@"; do grep -q -e "$w" ../err || { say "'$w' is not in: $(cat ../err)"; return 1; }; done
}

nothing_left() { [ -z "$(ls -A)" ] || say "left behind: $(ls -A | tr '\n' ' ')"; }

# refused STATUS WORD... -- ARGUMENTS: that status, one sentence with these words, no file left.
refused() {
    wanted=$1 words=; shift
    while [ "$1" != -- ]; do words="$words $1"; shift; done
    shift
    penstock "$@"
    is "$wanted" && sentence $words && nothing_left
}

# The same for `generate` on the small model with more options.
bad() {
    wanted=$1 words=; shift
    while [ "$1" != -- ]; do words="$words $1"; shift; done
    shift
    generate "$@"
    is "$wanted" && sentence $words && nothing_left
}

# json FILE EXPRESSION: the expression about `d` is true.
json() {
    command -v python3 >/dev/null || { echo "no python3"; return $SKIP; }
    python3 - "$1" "$2" <<'P'
import json, sys
try:
    d = json.load(open(sys.argv[1]))
except ValueError as e:
    sys.exit(f"no JSON ({e}): " + open(sys.argv[1]).read()[:200])
if not eval(sys.argv[2]):
    sys.exit(f"not true: {sys.argv[2]}: {str(d)[:300]}")
P
}

member() { json "$1" "'$2' in d" && python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"; }
same() { cmp "$1" "$2"; }
has() { f=$1; shift; for w in "$@"; do grep -aq -e "$w" "$f" || { say "'$w' is not in $f"; return 1; }; done; }
copy() { cp -r "$M/$1" ../copy.$$ && mv ../copy.$$ model; }   # a folder `model` to spoil
spoil() { rm -rf model; }
cut_file() { n=$(wc -c <"$1"); head -c $((n - $2)) "$1" >"$ROOT/cut" && cat "$ROOT/cut" >"$1"; }
pixels() { grep -a -q IEND "$1" && head -c 8 "$1" | od -An -tx1 | grep -q '89 50 4e 47 0d 0a 1a 0a' || say "$1 is no PNG"; }

# Models that are spoiled: spoiled WORD COMMAND...: changes the folder `model`, generate must give 3 and name WORD.
spoiled() {
    model=$1 w=$2; shift 2
    copy "$model" && (cd model && eval "$*") || { say "could not spoil the copy"; return 1; }
    penstock generate -m model -p fox --steps 1 -q -o out.png
    is 3 && sentence $w && [ ! -e out.png ] && spoil && nothing_left
}

# Cases ----------------------------------------------------------------------------------------------------------------

plain_run() { generate && works && pixels out.png && [ ! -s ../err ] && [ ! -s ../out ] || say "-q is not quiet: $(head -n 2 ../err ../out)"; }
help_works() { penstock "$@" && is 0 && [ -s ../out ] || say "nothing on stdout"; }
quiet_less() { penstock generate -m "$S" -p fox --steps 2 -o out.png && works && [ -s ../err ] || say "no progress on stderr"; }
warns_cut() { penstock generate -m "$S" -p "a red fox in the rain" --max-sequence-length 3 --steps 1 -o out.png && works && grep -qi 'cut\|trunc\|too long' ../err || say "no warning"; }
batch() { generate -b 3 && works && pixels out_2.png && pixels out_3.png && [ "$(ls | wc -l)" -eq 3 ] || say "files: $(ls | tr '\n' ' ')"; }
batch_is_seeds() { generate -b 2 && works && mv out_2.png two.png && generate -s 2 && works && same two.png out.png; }
negative_empty() { generate -n "" && works && mv out.png a.png && generate -n "ugly dog" && works && ! cmp -s a.png out.png; }
negative_seed() { generate -s -5 && works && mv out.png a.png && generate -s 18446744073709551611 && works && same a.png out.png; }
random_seed() { penstock generate -m "$S" -p fox --steps 1 -s -1 -o out.png && works && cat ../out ../err | grep -qi 'seed' || say "seed not printed"; }
output_is_model() { copy sigma_small && penstock quantize model -o m.penstock --type q8 -q && spoil && cp m.penstock n.penstock && penstock generate -m m.penstock -p fox -q -o m.penstock; is 2 && sentence model && same m.penstock n.penstock; }
other_folder() { mkdir d && generate -o d/x.png && is 0 && [ -s d/x.png ] && [ ! -e out.png ]; }
overwrites() { echo old >out.png && generate && works && pixels out.png; }
keeps_old() { echo old >out.png && generate -W 33; is 2 && [ "$(cat out.png)" = old ] || say "the old picture is gone"; }

unwritable() { generate -o "$1"; is "1|2|3" && sentence && nothing_left; }
under_a_file() { : >file; generate -o file/out.png; is "1|2|3" && sentence && [ "$(ls)" = file ]; }
disk_full() { # files may not grow: EFBIG, as a full disk
    line=$(trap '' XFSZ; ulimit -f 0; "$PENSTOCK" generate -m "$S" -p fox --steps 1 -q -o out.png 2>&1; echo "status $?")
    case $line in *"status 1") ;; *) say "$line"; return 1 ;; esac
    nothing_left
}
interrupted() {
    "$PENSTOCK" generate -m "$M/alpha_1024" -p fox --steps 900 -q -o out.png >/dev/null 2>&1 &
    pid=$!; sleep 1; kill -TERM $pid; wait $pid; got=$?
    is 143 && nothing_left
}

short_of_disk() { # BLOCKS COMMAND...: files may not grow beyond so many blocks of 512 bytes
    n=$1; shift
    line=$(trap '' XFSZ; ulimit -f "$n"; "$PENSTOCK" "$@" 2>&1 >/dev/null; echo "status $?")   # stderr through a pipe: a file could not grow
    got=${line##*status }; printf '%s\n' "${line%status *}" | sed '/^$/d' >../err
}
full_anywhere() { # each file that is written, at each of some sizes
    generate --save-latents ../l && rm out.png || return 1
    for n in 0 1 3; do
        for o in "-o out.png" "-o out.png --trace t" "-o out.png --save-latents l --checkpoint c" "-b 3 -o out.png"; do
            short_of_disk $n generate -m "$S" -p fox --steps 1 -W 64 -H 64 --no-cache -q $o; is 1 && sentence written || { say "$n $o"; return 1; }
            rm -f out.png out_2.png l c; nothing_left || return 1    # what was whole may stay
        done
        short_of_disk $n encode -m "$S" --tokens 40 -q -o e; is 1 && sentence e && nothing_left || return 1
        short_of_disk $n decode -m "$S" -i ../l -W 64 -q -o d.png; is 1 && sentence d.png && nothing_left || return 1
    done
    for n in 0 1 100 300; do short_of_disk $n quantize "$S" --type q8 -q -o c.penstock; is 1 && sentence c.penstock && nothing_left || return 1; done
}
full_cache() { short_of_disk 6 generate -m "$S" -p "$(seq 1 60)" --steps 1 -q -o out.png; works && [ -z "$(find "$ROOT/cache" -name '*.part*')" ]; }
full_stdout() { [ -c /dev/full ] || { echo "no /dev/full"; return $SKIP; }; for c in "inspect $S" "plan $S --json" "generate --help" "generate -m $S -p fox --steps 1 -o x.png"; do "$PENSTOCK" $c >/dev/full 2>../err; got=$?; is 1 && has ../err 'standard output' || return 1; done; }
# A shell starts what runs behind it with SIGINT ignored: a first one that comes before the program's first lines is lost. So it is sent again.
ended_by() {
    kill -$1 $2; (sleep 0.3; while kill -$1 $2; do sleep 0.3; done) 2>/dev/null & again=$!
    wait $2; got=$?; kill $again 2>/dev/null; wait $again 2>/dev/null
}
signals() { # SIGNAL STATUS: at many moments of a run that writes all it can; what has a name is whole
    for t in 01 02 03 05 07 09 12 15 20 30; do
        "$PENSTOCK" generate -m "$M/alpha_1024" -p fox --steps 900 -t 1 -q -o out.png --trace t --checkpoint c --save-latents l >/dev/null 2>&1 &
        pid=$!; sleep 0.$t; ended_by $1 $pid
        is "$2" && rm -f c && nothing_left || return 1
        [ -z "$(find "$ROOT/cache" -name '*.part*' 2>/dev/null)" ] || { say "in the cache"; return 1; }
    done
}
signals_quantize() {
    for s in TERM KILL INT; do
        for t in 005 02 05; do
            "$PENSTOCK" quantize "$M/alpha_1024" --type q4 -t 1 -q -o c.penstock >/dev/null 2>&1 & pid=$!; sleep 0.$t; kill -$s $pid 2>/dev/null; wait $pid; got=$?
            [ $got -eq 0 ] && { penstock verify c.penstock; is 0 || return 1; rm c.penstock; }; nothing_left || return 1
        done
    done
}

budget_small() { bad 4 '"memory"' budget 3M least -- --memory-budget 3M; }
budget_sentence() { generate --memory-budget 3M; is 4 && grep -q '^penstock: memory budget: 3M is too small, at least [0-9.]*[KMG]* is needed\( (.*)\)*$' ../err || say "$(cat ../err)"; }
budget_least() { generate --memory-budget 3M; is 4 && n=$(sed -n 's/.*at least \([0-9.]*[KMG]*\) is needed.*/\1/p' ../err) && [ -n "$n" ] && nothing_left && generate --memory-budget "$n" && works; }
budget_least_json() { generate --memory-budget 3M --json; is 4 && json ../out 'd["least_bytes"] > 3 << 20' && n=$(member ../out least_bytes) || say "$n" || return 1; generate --memory-budget "$n" && works; }
budget_below_least() { generate --memory-budget 3M --json; n=$(member ../out least_bytes) || say "$n" || return 1; generate --memory-budget $((n / 10 * 9)); is 4; }
within() { # BYTES: the report's peak is at most that; sanitizers and emulators hold memory of their own
    [ "${SANITIZERS:-no}" != no ] || [ -n "${PENSTOCK_EMULATED:-}" ] || json ../out "d['peak_rss_bytes'] <= $1"
}
budget_buffered() { # the other way to read: the same picture, in the same budget
    generate --memory-budget 3M --json; n=$(member ../out least_bytes) || say "$n" || return 1
    generate --memory-budget "$n" && works && mv out.png a.png && PENSTOCK_READ=buffered generate --memory-budget "$n" --json && works && same a.png out.png && json ../out "d['bytes_read'] > 0" && within "$n"
}
variable() { # NAME VALUE WORD: refused before anything runs; help is there all the same
    export "$1=$2"
    generate; is 2 && sentence "$1" "$3" && nothing_left && help_works generate --help && export "$1=" && generate && works
}
budget_two_encoders() { # the larger need of two encoders is named
    penstock encode -m "$D/models/xl" -p fox -n rain --clip-skip 1 --memory-budget 1M --json -q -o e; is 4 && n=$(member ../out least_bytes) || say "$n" || return 1
    penstock encode -m "$D/models/xl" -p fox -n rain --clip-skip 1 --memory-budget "$n" -q -o e && is 0
}
budget_kept() { generate --memory-budget 3M --json; n=$(member ../out least_bytes) || say "$n" || return 1; generate --memory-budget "$n" --json && works && json ../out "d['budget_bytes'] == $n" && within "$n"; }
budget_same() { # MODEL: the least budget gives the bytes of none
    set -- generate -m "$M/$1" -p "a red fox" -W 64 -H 64 --steps 2 -s 3 -q --precision f32
    penstock "$@" -o a.png --trace a.t; is 0 || return 1
    penstock "$@" -o b.png --memory-budget 3M --json; n=$(member ../out least_bytes) || say "$n" || return 1
    penstock "$@" -o b.png --trace b.t --memory-budget "$n"; is 0 && same a.t b.t && same a.png b.png
}
budget_forms() { for b in 1G 1048576K 1073741824 60% =-100M; do generate --memory-budget $b && works || return 1; done; }

group_folder() { # where this process may make a memory group of its own; the files of a limit and of members
    path=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup); [ -n "$path" ] && for g in /sys/fs/cgroup/memory$path /sys/fs/cgroup/memory; do [ -w $g/memory.limit_in_bytes ] && { echo "$g/penstock-$$ memory.limit_in_bytes"; return; }; done
    path=$(sed -n 's/^0:://p' /proc/self/cgroup); for g in /sys/fs/cgroup$path /sys/fs/cgroup; do grep -qw memory $g/cgroup.subtree_control 2>/dev/null && { echo "$g/penstock-$$ memory.max"; return; }; done
}
budget_group() { # what a control group leaves is what is available
    set -- $(group_folder); mkdir "$1" 2>/dev/null && echo 209715200 >"$1/$2" 2>/dev/null || { rmdir "$1" 2>/dev/null; echo "no memory control group can be made here"; return $SKIP; }
    for b in 50% =-100M; do
        (echo $(sh -c 'echo $PPID') >"$1/cgroup.procs" && exec "$PENSTOCK" generate -m "$S" -p fox --steps 1 -q -o out.png --json --memory-budget $b) >../out 2>../err; got=$?
        is 0 && json ../out '80 << 20 < d["budget_bytes"] <= 100 << 20' || { rmdir "$1"; return 1; }
    done
    rmdir "$1"
}

threads_same() { generate -t 1 --trace a && works && mv out.png a.png && generate -t 2 --trace b && works && same a b && same a.png out.png; }
threads_same_on() { for t in 1 2 3; do penstock generate -m "$M/$1" -p fox --steps 2 -s 5 -q -W 64 -H 64 -t $t -o $t.png --trace $t.t; is 0 || return 1; done; same 1.t 2.t && same 1.t 3.t && same 1.png 2.png; }
repeats() { generate && mv out.png a.png && generate && same a.png out.png; }
seeds_differ() { generate && mv out.png a.png && generate -s 2 && ! cmp -s a.png out.png; }

report() {
    generate --json --steps 3 && works && json ../out 'set(d) >= set("output seed seconds evaluations peak_rss_bytes bytes_read scratch_bytes budget_bytes steps".split())' &&
        json ../out 'set(d["seconds"]) >= set("load encode denoise decode total".split()) and d["seconds"]["total"] > 0' &&
        json ../out 'd["steps"] == 3 and d["evaluations"] == 3 and d["seed"] == 1 and d["peak_rss_bytes"] > 0'
}
report_output() { generate --json && json ../out '"out.png" in str(d["output"])'; }
report_encode() { penstock encode -m "$S" -p fox -o e.safetensors --json -q && is 0 && json ../out '"seconds" in d and "peak_rss_bytes" in d'; }

parameters() { generate -n "ugly dog" && works && has out.png '[ti][ETt][Xx]tparameters' "a red fox" "Negative prompt: ugly dog" "Steps: 2" "Sampler: " "CFG scale: 4.5" "Seed: 1" "Size: 32x32"; }
parameters_batch() { generate -b 2 -s 7 && has out.png "Seed: 7" && has out_2.png "Seed: 8"; }

trace_names() { generate --steps 2 --trace t && has t '"text.text_encoder"' '"latents.0"' '"latents.1"' '"latents.2"' '"image"' && ! grep -aq '"latents.3"' t; }

latents_decoded() { generate --save-latents l && works && penstock decode -m "$S" -i l -q -o b.png && is 0 && mv out.png a.png && generate --load-latents l --json && is 0 && json ../out 'd["evaluations"] == 0 and d["first_call"] == 2' && same a.png out.png; }
decode_report() { generate --save-latents l && works && penstock decode -m "$S" -i l -o b.png -W 640 --json && is 0 && json ../out 'd["seconds"]["decode"] > 0 and d["seconds"]["total"] >= d["seconds"]["decode"] and d["bytes_read"] > 0' && grep -q 32x32 ../err || say "$(cat ../err)"; }
latents_traced() { generate --trace t && works && mv out.png a.png && generate --load-latents t && same a.png out.png; }
latents_refused() { generate --save-latents l && is 0 && rm out.png && for o in "-W 64" "-b 2"; do generate --load-latents l $o; is 3 && sentence latents && [ ! -e out.png ] || return 1; done; }
latents_missing() { bad 3 nowhere -- --load-latents nowhere; }
checkpoint_done() { generate --checkpoint c && works && mv out.png a.png && generate --checkpoint c --json && json ../out 'd["evaluations"] == 0' && same a.png out.png && [ "$(ls | wc -l)" -eq 3 ]; }
checkpoint_other() { generate --checkpoint c && works && rm out.png && cp c d && generate --checkpoint c -n dog; is 3 && sentence prompt && [ ! -e out.png ] && same c d; }
checkpoint_killed() { # at a moment of its own choosing, until it is through
    set -- generate -m "$M/alpha_1024" -p fox --sampling-method dpm++2m_sde --steps 12 -t 1 -q
    "$PENSTOCK" "$@" -o a.png || return 1
    for pause in 0.05 0.1 0.15 0.2; do
        "$PENSTOCK" "$@" -o b.png --checkpoint c & pid=$!; sleep $pause; kill -KILL $pid 2>/dev/null; wait $pid 2>/dev/null
    done
    penstock "$@" -o b.png --checkpoint c; is 0 && same a.png b.png
}
checkpoint_unwritable() { generate --checkpoint nowhere/c; is "1|2|3" && sentence nowhere && nothing_left; }

cold() { json ../out 'd["prompts_found"] == 0 and [s for s in d["stages"] if s["name"] == "text_encoder"][0]["stream_bytes"] > 0'; }
warm() { json ../out 'd["prompts_found"] == 2 and [s for s in d["stages"] if s["name"] == "text_encoder"][0]["stream_bytes"] == 0'; }
cache_second() { generate --json && cold && n=$(member ../out bytes_read) && mv out.png a.png && generate --json && warm && same a.png out.png && json ../out "d['bytes_read'] < $n" && generate --json --no-cache && cold && same a.png out.png; }
cache_partly() { generate -p dog --json --no-cache && cold && mv out.png a.png && generate && generate -p dog --json && json ../out 'd["prompts_found"] == 1' && same a.png out.png && generate -p dog --json && warm && same a.png out.png; }
cache_key() { # what the bytes depend on makes another entry
    generate && generate --json && warm && generate --precision f32 --json && cold && generate --cpu scalar --json && cold && generate -t 1 --memory-budget 100M --json && warm &&
        generate --max-sequence-length 2 --json && json ../out 'd["prompts_found"] == 1' && copy sigma_small && penstock generate -m model -p "a red fox" --steps 1 -q -o out.png --json && cold
}
entries() { find "$ROOT/cache" -name '*.embedding'; }
cache_torn() { generate --json && cold && mv out.png a.png && for f in $(entries); do cut_file "$f" 9; done && generate --json && cold && same a.png out.png && generate --json && warm && same a.png out.png; }
cache_altered() { generate && mv out.png a.png && for f in $(entries); do printf 'Z' | dd of="$f" bs=1 seek=200 conv=notrunc 2>/dev/null; done && generate --json && cold && same a.png out.png; }
cache_nowhere() { generate --no-cache && works && [ -z "$(entries 2>/dev/null)" ] && mv out.png a.png && XDG_CACHE_HOME=/dev/null/no generate && works && same a.png out.png && (unset HOME XDG_CACHE_HOME; generate) && same a.png out.png; }
cache_bounded() {
    export PENSTOCK_CACHE_LIMIT=1200
    for p in a b c d e f; do generate -p "$p" --steps 1 || return 1; n=$(cat $(entries) | wc -c); [ "$n" -gt 0 ] && [ "$n" -le 1200 ] || { say "$n bytes after $p"; return 1; }; done
    generate -p f --steps 1 --json && warm && generate -p a --steps 1 --json && json ../out 'd["prompts_found"] == 1'
}
cache_crowd() { # several at once, again and again
    generate --no-cache && mv out.png a.png && for r in 1 2 3; do
        rm -rf "$ROOT/cache"
        for k in 1 2 3 4; do "$PENSTOCK" generate -m "$S" -p "a red fox" --steps 2 -s 1 -q -t 1 -o $k.png & done; wait
        for k in 1 2 3 4; do same a.png $k.png && rm $k.png || return 1; done
    done; [ -z "$(find "$ROOT/cache" -name '*.part-*')" ]
}
# Files of other tools: what they are is told by their tensors; small files come from the folder beside them, or ship.
I=$FIXTURES/../import
foreign_configs() {
    penstock inspect "$I/$1" --json && is 0 && json ../out '"model_index.json" in d["files"] and "scheduler/scheduler_config.json" in d["files"] and "unet/config.json" in d["files"]'
}
foreign_types() { penstock inspect "$I/types.gguf" --json && is 0 && json ../out 'd["parameters_by_type"]["Q4_K"] == 1536 and d["bits_per_weight"] < 6'; }
foreign_vae() { penstock quantize "$S" -o m.penstock --type f32 -q --component vae="$I/vae_alone.safetensors" && is 0 && penstock generate -m m.penstock -p fox --steps 1 -q -o out.png && works && pixels out.png; }
E=$FIXTURES/../taesd
tiny_decode() { # its folder, its own file, a container of it
    penstock decode -m "$E/usual" -i "$E/expected/usual.safetensors" -o a.png -q && is 0 && penstock decode -m "$E/usual_decoder.pth" -i "$E/expected/usual.safetensors" -o b.png -q && is 0 &&
        same a.png b.png && penstock quantize "$E/usual_decoder.pth" -o m.penstock --type f32 -q && is 0 &&
        penstock decode -m m.penstock -i "$E/expected/usual.safetensors" -o c.png -q --memory-budget 64M && is 0 && same a.png c.png || return 1
    penstock generate -m m.penstock -p fox -o d.png; is 2 && sentence autoencoder && [ ! -e d.png ]
}
tiny_in_sd() { penstock quantize "$FIXTURES/../sd/models/classic" -o m.penstock --type f32 -q --component vae="$E/usual" && is 0 && penstock generate -m m.penstock -p fox --steps 2 -q -o out.png && works && pixels out.png; }
foreign_inpainting() { refused 2 paints -- generate -m "$I/inpainting.safetensors" --tokens 5 -q -o out.png; }
foreign_lcm() { refused 3 time_embedding.cond_proj -- quantize "$I/lcm.safetensors" -o m.penstock --type q8 -q; }
foreign_picture() { # two kinds of file, with and without a budget: the same picture
    mkdir x && cp "$I/sd1_trainer.ckpt" x/a.ckpt && cp -r "$I/sd1" x/a && penstock generate -m "$I/sd1.safetensors" --tokens 5 --steps 2 -q -o a.png && is 0 &&
        penstock generate -m x/a.ckpt --tokens 5 --steps 2 -q -o b.png && is 0 && penstock generate -m "$I/sd1.safetensors" --tokens 5 --steps 2 -q --memory-budget 64M -t 1 -o c.png && is 0 && same a.png c.png &&
        penstock generate -m x/a.ckpt --tokens 5 --steps 2 -q -o d.png && is 0 && same b.png d.png && penstock quantize x/a.ckpt -o m.penstock --type f32 -q && is 0 &&
        penstock generate -m m.penstock --tokens 5 --steps 2 -q -o e.png && is 0 && pixels e.png
}
foreign_t5() { # unpacked as it is read: the same with threads, under a budget, in a container
    penstock encode -m "$I/t5.gguf" --tokens 9 -o a -q && is 0 && penstock encode -m "$I/t5.gguf" --tokens 9 -o b -q -t 1 --memory-budget 64M && is 0 && same a b &&
        penstock quantize "$I/t5.gguf" -o m.penstock --type f32 -q && is 0 && penstock encode -m m.penstock --tokens 9 -o c -q && is 0 && same a c &&
        penstock quantize "$M/sigma_1024" -o n.penstock --type f32 -q --component text_encoder="$I/t5.gguf" && is 0 && penstock encode -m n.penstock --tokens 9 -o d -q && is 0 && same a d
}
foreign_hostile() {
    mkdir x && cp "$I/nested.ckpt" x/a.ckpt && { printf '\200\002cos\nsystem\nX\004\000\000\000date\205R.' >x/b.ckpt; } && penstock inspect x/b.ckpt; is 3 && sentence pickle &&
        cut_file x/a.ckpt 40 && penstock generate -m x/a.ckpt -p fox -o out.png; is 3 && sentence zip && [ ! -e out.png ]
}

encoded() { penstock encode -m "$S" -p "a red fox" -o e -q "$@" && is 0; }
embeddings() { generate -n dog --no-cache && mv out.png a.png && encoded -n dog && generate -n dog --embeddings e --json && json ../out 'd["prompts_found"] == 2 and not [s for s in d["stages"] if s["name"] == "text_encoder"]' && same a.png out.png; }
cache_sd() { # two encoders, pooled outputs
    set -- -m "$M/../../sd/models/xl" -p "a (red:1.3) fox" -n dog --steps 2 -q
    penstock generate "$@" -o a.png --json && is 0 && json ../out 'd["prompts_found"] == 0' && penstock generate "$@" -o b.png --json && is 0 && json ../out 'd["prompts_found"] > 0 and not sum(s["stream_bytes"] for s in d["stages"] if "text" in s["name"])' && same a.png b.png &&
        penstock encode -m "$2" -p "a (red:1.3) fox" -n dog -q -o e && is 0 && penstock generate "$@" -o b.png --embeddings e --json --no-cache && is 0 && same a.png b.png && json ../out 'not [s for s in d["stages"] if "text" in s["name"]]'
}
embeddings_alone() { generate && mv out.png a.png && encoded && generate --embeddings e --json --no-cache && json ../out 'd["prompts_found"] == 1' && same a.png out.png && generate --cfg-scale 1 && mv out.png a.png && generate --cfg-scale 1 --embeddings e --json && json ../out 'd["prompts_found"] == 1' && same a.png out.png; }
embeddings_no_prompt() { encoded -n dog && penstock generate -m "$S" --embeddings e --steps 2 -s 1 -q -o out.png && works && generate -n dog --trace t && generate -n dog --embeddings e --trace u && same t u; }
embeddings_other() { penstock encode -m "$M/alpha_1024" -p fox -o e -q && is 0 && generate --embeddings e; is 3 && sentence e 48 40 && [ ! -e out.png ]; }
embeddings_bad() { generate --save-latents l && rm out.png && generate --embeddings l; is 3 && sentence text.text_encoder && generate --embeddings nowhere; is 3 && sentence nowhere && [ ! -e out.png ]; }

lines() { cat >lines <<'L'
# pictures
a red fox
{"prompt": "a dog", "seed": 3, "negative_prompt": "ugly", "sampling_method": "euler_a"}

{"prompt": "a cat in the rain", "width": 64, "output": "cat.png"}
a red fox on a hill
{"prompt": "two", "batch_count": 2}
{"prompt": "a bird", "seed": 9}
L
}
alone() { # the same pictures one by one, as one.png, ...
    penstock generate "$@" -p "a red fox" -o 1.png && is 0 && penstock generate "$@" -p "a dog" -s 3 -n ugly --sampling-method euler_a -o 2.png && is 0 && penstock generate "$@" -p "a cat in the rain" -W 64 -o 3.png && is 0 &&
        penstock generate "$@" -p "a red fox on a hill" -o 4.png && is 0 && penstock generate "$@" -p two -b 2 -o 5.png && is 0 && penstock generate "$@" -p "a bird" -s 9 -o 6.png && is 0
}
as_alone() { same 1.png x.png && same 2.png x_2.png && same 3.png cat.png && same 4.png x_3.png && same 5.png x_4.png && same 5_2.png x_4_2.png && same 6.png x_6.png; }
file_same() { # MODEL OPTION...: what a prompt becomes does not depend on its company
    m=$1; shift; set -- -m "$m" --steps 2 -s 1 -q --no-cache "$@"
    lines && alone "$@" && penstock generate "$@" --prompt-file lines -o x.png && is 0 && as_alone && [ "$(ls *.png | wc -l)" -eq 14 ]
}
file_sd() { file_same "$M/../../sd/models/xl" && rm -f * && file_same "$M/../../sd/models/classic" --clip-skip 2; }
file_budget() { # whatever fits
    set -- -m "$S" --steps 2 -s 1 -q --no-cache
    lines && alone "$@" && penstock generate "$@" -p "a cat in the rain" -W 64 -b 2 -o y.png --memory-budget 3M --json; n=$(member ../out least_bytes) || say "$n" || return 1
    for b in "$n" $((n + 1048576)) 64M; do penstock generate "$@" --prompt-file lines -o x.png --memory-budget $b && is 0 && as_alone || return 1; done
}
file_container() { container sigma_small q4 && file_same c.penstock; }
file_one_pass() { # the encoder is walked once, and the denoiser once a step
    printf 'a\nb\nc\nd\n' >four && penstock generate -m "$S" --prompt-file four --steps 3 -q -o x.png --json && is 0 && [ "$(wc -l <../out)" -eq 4 ] && cp ../out all && head -n 1 all >one &&
        json one 'd["evaluations"] == 3 and d["prompts_found"] == 5 and d["stages"][1]["passes"] == 3' && same_line all
}
same_line() { [ "$(sed 's/.*"stages"//' "$1" | sort -u | wc -l)" -eq 1 ] || say "not one pass"; }
file_refused() { # LINE WORD TEXT: nothing runs
    printf 'fox\n%s\n' "$3" >f; penstock generate -m "$S" --prompt-file f --steps 1 -q -o x.png; is "$4" && sentence "line $1" "$2" && [ "$(ls)" = f ]
}
file_stdin() { echo "a red fox" >f && penstock generate -m "$S" --prompt-file - --steps 2 -s 1 -q -o out.png <f && works && mv out.png a.png && generate && same a.png out.png; }
file_of_bytes() { printf 'a fox\nd\000g\n' >f; penstock generate -m "$S" --prompt-file f -q -o x.png; is 3 && sentence 'line 2' && [ "$(ls)" = f ]; }
file_clash() { printf '{"prompt":"a","output":"z.png"}\nfox\n{"prompt":"b","output":"z.png"}\n' >f; penstock generate -m "$S" --prompt-file f -q -o x.png; is 2 && sentence 'line 3' 'line 1' && [ "$(ls)" = f ]; }
file_empty() { printf '# nothing\n\n' >f; penstock generate -m "$S" --prompt-file f -q -o x.png; is 3 && sentence prompt && penstock generate -m "$S" --prompt-file nowhere -q; is 3 && sentence nowhere; }
file_traces() { lines && penstock generate -m "$S" --prompt-file lines --steps 2 -s 1 -q -o x.png --trace t --save-latents l.safetensors && is 0 && [ -s t_6 ] && [ -s l_3.safetensors ] && penstock generate -m "$S" -p "a red fox on a hill" --steps 2 -s 1 -q -o y.png --trace u && same u t_3 && same y.png x_3.png; }
file_encode() { lines && penstock encode -m "$S" --prompt-file lines -o e.s -q && is 0 && penstock encode -m "$S" -p "a red fox on a hill" -o one -q && same one e_3.s && penstock encode -m "$S" -p "a dog" -n ugly -o one -q && same one e_2.s; }
file_cached() { printf 'a\nb\n' >f && penstock generate -m "$S" --prompt-file f --steps 1 -q && is 0 && penstock generate -m "$S" -p b --steps 1 -q --json && warm; }
encode_many_tokens() { penstock encode -m "$S" --tokens 9 -b 4 -o e -q && is 0 && has e '"text.text_encoder":{"dtype":"F32","shape":.4,9,40'; }

kept() { find "$ROOT/cache/penstock/models" -type f; }
type_once() { # as quantize and generate, the second time from what is kept
    container sigma_small q4 && penstock generate -m c.penstock -p fox --steps 2 -q -o a.png --trace a && penstock generate -m "$S" --type q4 -p fox --steps 2 -o b.png --trace b && is 0 && has ../err 'quantizing to q4' && same a b &&
        same c.penstock "$(kept)" && penstock generate -m "$S" --type q4 -p fox --steps 2 -o b.png --trace b && is 0 && ! grep -q quantiz ../err && same a b && penstock generate -m "$S" --type q8 -p fox --steps 1 -o b.png && has ../err 'quantizing to q8'
}
type_damaged() { penstock generate -m "$S" --type q4 -p fox --steps 1 -q -o a.png && cut_file "$(kept)" 1000 && penstock generate -m "$S" --type q4 -p fox --steps 1 -o b.png && is 0 && has ../err quantizing && same a.png b.png; }
type_bounded() { copy sigma_small && export PENSTOCK_MODELS_LIMIT=1 && generate --type q4 && [ "$(kept | wc -l)" -eq 1 ] && penstock generate -m model -p fox --type q4 --steps 1 -q -o a.png && is 0 && [ "$(kept | wc -l)" -eq 1 ]; }
type_refused() { container sigma_small q4 && rm -rf "$ROOT/cache" && penstock generate -m c.penstock --type q4 -p fox -o a.png -q; is 2 && sentence container && generate --type q4 --no-cache; is 2 && sentence no-cache && XDG_CACHE_HOME=/dev/null/x generate --type q4; is "1|2" && sentence && [ "$(ls)" = c.penstock ]; }

encode() { penstock encode -m "$S" -p "a red fox" -n dog -o e.safetensors -q && is 0 && has e.safetensors '"text.text_encoder"' '"mask.text_encoder"'; }
encode_tokens() { penstock encode -m "$S" --tokens 9 -o e.safetensors -q && is 0 && has e.safetensors '"text.text_encoder"'; }
encode_no_tokenizer() { copy sigma_small && rm -r model/tokenizer && penstock encode -m model --tokens 9 -o e.safetensors -q && is 0; }
C=$FIXTURES/../clip
clip() { mkdir -p model && cp "$C/$1"/* "$FIXTURES/../bpe/vocab.json" "$FIXTURES/../bpe/merges.txt" "$FIXTURES/../bpe/sd"/* model && chmod -R u+w model; }
clip_encode() { out=$1; shift; penstock encode -m model -o "$out" -q "$@" && is 0; }
clip_tokens() { penstock encode -m "$C/projected" --tokens 9 -o e -q && is 0 && has e '"text.text_encoder":{"dtype":"F32","shape":.1,9,40' '"text.text_encoder.pooled":{"dtype":"F32","shape":.1,24'; }
clip_weights() { clip quick && clip_encode a -p "a fox" && clip_encode b -p "a (fox:1.0)" && clip_encode c -p "a (fox)" && same a b && ! cmp -s a c; }
clip_chunks() { clip quick && clip_encode e -p "a fox BREAK moon" -n dog && has e '"text.text_encoder":{"dtype":"F32","shape":.2,154,32'; }
clip_cached() { # what is kept are the network's outputs, before the weights
    clip quick && for p in "a fox" "a (fox:1.3)" "a (fox:0.7)"; do clip_encode "$p" -p "$p"; done && ! cmp -s "a (fox:1.3)" "a (fox:0.7)" && clip_encode again -p "a (fox:1.3)" && same again "a (fox:1.3)"
}
sd_file_chunks() { # a line of two chunks changes nothing for its neighbours
    printf '%s\n' "a fox" "a (red:1.2) fox BREAK near the river" "a dog" >lines && D=$FIXTURES/../sd/models/classic && penstock generate -m "$D" --prompt-file lines --steps 2 -q --no-cache -o f.png && is 0 &&
        penstock generate -m "$D" -p "a dog" --steps 2 -q --no-cache -o one.png && is 0 && same one.png f_3.png && penstock generate -m "$D" -p "a fox" --steps 2 -q --no-cache -o one.png && same one.png f.png
}
clip_no_tokenizer() { penstock encode -m "$C/bare" -p fox -o e -q; is 3 && sentence vocab.json tokenizer.json && [ ! -e e ]; }
clip_foreign_tokenizer() { clip bare && penstock encode -m model -p fox -o e -q; is 3 && sentence 733 120 && [ ! -e e ]; }
clip_no_pictures() { penstock generate -m "$C/bare" -p fox -q -o out.png; is 2 && sentence "text encoder alone" && [ ! -e out.png ]; }
ldm() { L=$FIXTURES/../ldm/models/ldm && penstock quantize "$L" -o m.penstock --type f32 -q && is 0 && ldm_run m.penstock a && ldm_run "$L" b && same a b; }
ldm_run() { penstock generate -m "$1" -p "a fox" -n dog --cfg-scale 3 --steps 2 --precision f32 -q --trace "$2" -o out.png && is 0; }
ldm_no_vocabulary() { cp -R "$FIXTURES/../ldm/models/ldm" model && chmod -R u+w model && rm model/tokenizer/vocab.txt && penstock generate -m model -p fox -q -o out.png; is 3 && sentence vocab.txt && [ ! -e out.png ]; }
K=$FIXTURES/../kandinsky3/models
k3_run() { penstock generate -m "$1" -p "a fox" -n dog -W 64 -H 64 --steps 2 -s 1 --precision f32 -q --trace "$2" -o out.png && is 0; }
k3_container() { penstock quantize "$K/full" -o m.penstock --type f32 -q && is 0 && k3_run m.penstock a && k3_run "$K/full" b && same a b; } # what lies transposed in the folder does not in the container
k3_full_t5() { # a decoder that nobody asks for
    penstock encode -m "$K/full/text_encoder" --tokens 9 -o e -q && is 0 && has e '"text.text_encoder":{"dtype":"F32","shape":.1,9,32' &&
        penstock quantize "$K/full/text_encoder" -o t.penstock --type q8 -v && is 0 && grep -q 'decoder.block.0' ../out ../err && penstock encode -m t.penstock --tokens 9 -o e -q && is 0
}
k3_file() { file_same "$K/full" -W 64 -H 64; }
k3_budget() { # parts of a batch, bands, maps in a file: the same picture
    natively || return
    set -- -m "$K/four" -p fox -n dog -W 512 -H 320 -b 2 --steps 1 -s 1 -q --no-cache
    penstock generate "$@" -o a.png && is 0 && penstock generate "$@" -o b.png --memory-budget 3M --json; n=$(member ../out least_bytes) || say "$n" || return 1
    for b in "$n" $((n + 4194304)) 64M; do penstock generate "$@" -o b.png -t 1 --memory-budget "$b" && is 0 && same a.png b.png || return 1; done
}
k3_decode() { penstock generate -m "$K/four" -p fox -W 64 -H 64 --steps 1 -q --save-latents z -o out.png && is 0 && penstock decode -m "$K/four" -i z -o a.png -q && is 0 && penstock decode -m "$K/four/movq" -i z -o b.png -q && is 0 && same a.png b.png; }
k3_embeddings() { # one prompt: nothing is guided away from; two: the first is
    penstock encode -m "$K/two" -p "a fox" -o one -q && penstock encode -m "$K/two" -p "a fox" -n dog -o two -q && set -- -m "$K/two" -W 64 -H 64 --steps 2 -q -s 1 &&
        penstock generate "$@" -p "a fox" -o 1.png && penstock generate "$@" --embeddings one -o 2.png && is 0 && k3_pixels 1 2 && penstock generate "$@" -p "a fox" -n dog -o 3.png && penstock generate "$@" --embeddings two -o 4.png && is 0 && k3_pixels 3 4
}
k3_pixels() { command -v python3 >/dev/null || return $SKIP; python3 - "$@" <<'P'
import struct, sys
def data(n):
    b = open(n + ".png", "rb").read(); at, out = 8, b""
    while at < len(b):
        n, kind = struct.unpack(">I4s", b[at:at + 8]); out += b[at + 8:at + 8 + n] if kind == b"IDAT" else b""; at += 12 + n
    return out
sys.exit(data(sys.argv[1]) != data(sys.argv[2]))
P
}
encode_is_traced() { # the same tensor by two ways
    generate -n dog --precision f32 --trace t && penstock encode -m "$S" -p "a red fox" -n dog --precision f32 -o e -q && is 0 || return 1
    command -v python3 >/dev/null || { echo "no python3"; return $SKIP; }
    python3 - t e <<'P'
import json, struct, sys
def tensor(path):
    b = open(path, "rb").read(); n = struct.unpack("<Q", b[:8])[0]; h = json.loads(b[8:8 + n])["text.text_encoder"]
    return h["shape"], b[8 + n + h["data_offsets"][0]:8 + n + h["data_offsets"][1]]
sys.exit(None if tensor("t") == tensor("e") else f"differ: {tensor('t')[0]} {tensor('e')[0]}")
P
}

plan_json() { penstock plan "$S" --memory-budget 512M --json && is 0 && json ../out 'bool(d)'; }
plan_two() { penstock plan "$S" "$M/alpha_tiny" && is 0 && has ../out sigma_small alpha_tiny; }
plan_text() { penstock plan "$S" -W 64 -H 64 --steps 3 && is 0 && has ../out text_encoder transformer vae 'parameters: encoder'; }
plan_scratch() { penstock plan sd15 --type q4 --memory-budget 140M --json && is 0 && json ../out 'max(s["scratch_bytes"] for s in d["stages"]) == d["scratch_bytes"] > 100 << 20 and d["stages"][0]["scratch_bytes"] == 0'; }
plan_evaluations() { # as many as a run has, for every kind of pipeline
    for m in "$S" "$FIXTURES/../sd/models/classic" "$FIXTURES/../amused/models/small" "$FIXTURES/../kandinsky3/models/two" "$FIXTURES/../if/models/both"; do
        size=; case $m in *kandinsky3*) size="-W 64 -H 64" ;; esac   # 1024x1024 takes an emulator minutes
        penstock plan "$m" --tokens 5 --steps 3 $size --json && is 0 && n=$(member ../out evaluations) && penstock generate -m "$m" --tokens 5 --steps 3 $size --json -q -o out.png && is 0 &&
        json ../out "d['evaluations'] == $n > 2" || return 1
    done
}
plan_roles() {
    penstock plan "$S" --json && is 0 && json ../out 'sum(d[r + "_parameters"] for r in ("encoder", "denoiser", "decoder")) == sum(s["parameters"] for s in d["stages"])' &&
    penstock plan "$S/text_encoder" --tokens 5 --json && is 0 && json ../out 'd["encoder_parameters"] == d["stages"][0]["parameters"] and "denoiser_parameters" not in d'
}
plan_named() { penstock plan sd15 --type q4 -W 256 -H 256 && is 0 && has ../out unet 256x256 && awk 'length > 80 { exit 1 }' ../out && penstock inspect sd15 && is 0 && has ../out 'no weights'; }
# How fast it is depends on the machine; that every row is there, and was measured, does not.
bench_json() {
    penstock bench 'SD 1.5 linear' 'VAE conv' 'T5-XXL attention' 'PixArt layer' 'PixArt rotate' encode picture -m "$S" --seconds 0.0005 --json && is 0 || return
    json ../out 'd["threads"] > 0 and all(d["memory_gb_per_second"][k] > 0 for k in ("read", "copy", "update")) and d["disk_gb_per_second"] > 0' &&
        json ../out '{p["kind"] for p in d["peaks"]} >= {"int8", "f32"} and all(p["gop_per_second"] > 0 for p in d["peaks"])' &&
        json ../out '{"linear", "attention", "conv 3x3", "layer norm", "rotate, quantize"} <= {o["op"] for o in d["ops"]}' &&
        json ../out 'all(o["rate"] > 0 and o["share"] > 0 and o["clock_share"] > 0 and abs(o["share"] * o["peak"] / o["rate"] - 1) < 1e-3 for o in d["ops"])' &&
        json ../out '[(e["stage"], e["tokens"]) for e in d["encode"]] == [("text_encoder", 20), ("text_encoder", 77), ("text_encoder", 256)]' &&
        json ../out 'all(e["work"] > 0 and e["rate"] > 0 for e in d["encode"] + d["stages"])'
}
bench_encoder() { penstock bench -m "$S/text_encoder" encode picture --seconds 0.0005 --json && is 0 && json ../out 'len(d["encode"]) == 3 and d["stages"] == []'; }
bench_scalar() {
    penstock bench --cpu scalar "SD 1.5 linear" -t 1 --seconds 0.0005 && is 0 && has ../out 'scalar, 1 thread' '^SD 1.5 .*linear .*q8 .* 320 -> 2560 .*int8 .* - ' 'GB/s'
}
bench_word() { refused 2 bench 'no row has lienar' -- bench lienar; }
inspect_folder() { penstock inspect "$M/$1" && is 0 && has ../out text_encoder transformer vae; }
inspect_json() { penstock inspect "$S" --json && is 0 && json ../out 'bool(d)'; }
inspect_roles() {
    penstock inspect "$S" && is 0 && has ../out encoder denoiser decoder && penstock inspect "$S" --json && is 0 &&
    json ../out 'set(d["roles"]) == {"encoder", "denoiser", "decoder"} and sum(r["parameters"] for r in d["roles"].values()) == d["parameters"] and abs(sum(r["share"] for r in d["roles"].values()) - 1) < 1e-9'
}
inspect_tensors() { penstock inspect "$S" --tensors && is 0 && has ../out 'transformer_blocks.0.attn1.to_q.weight' 'layer_norm.weight'; }

container() { penstock quantize "$M/$1" -o c.penstock --type "$2" -q; is 0 && [ -s c.penstock ] || say "no container"; }
whole_way() { # MODEL TYPE
    container "$1" "$2" && penstock inspect c.penstock && is 0 && has ../out text_encoder transformer vae && penstock verify c.penstock && is 0 &&
        penstock generate -m c.penstock -p "a red fox" -W 32 -H 32 --steps 2 -s 1 -q -o out.png && works && pixels out.png
}
container_json() { container sigma_small q8 && penstock inspect c.penstock --json && is 0 && json ../out '0 < d["types"]["q8"]["error_mean"] <= d["error_worst"] < 0.02 and bool(d["worst_tensor"])'; }
container_exact() { # an f32 container gives the folder's numbers
    container "$1" f32 || return 1
    set -- -p "a red fox" -W 32 -H 32 --steps 2 -s 1 -q --precision f32
    penstock generate -m "$M/$model_name" "$@" -o a.png --trace a; is 0 || return 1
    penstock generate -m c.penstock "$@" -o b.png --trace b; is 0 && same a b
}
exact() { model_name=$1; container_exact "$1"; }
container_budget() { container sigma_small q4 && penstock generate -m c.penstock -p fox --steps 2 -q -o a.png && is 0 && penstock generate -m c.penstock -p fox --steps 2 -q -o b.png --memory-budget 3M --json; n=$(member ../out least_bytes) || say "$n" || return 1; penstock generate -m c.penstock -p fox --steps 2 -q -o b.png --memory-budget "$n" && is 0 && same a.png b.png; }
container_repeats() { container sigma_small q4 && mv c.penstock a && container sigma_small q4 && same a c.penstock; }
container_threads() { penstock quantize "$S" -o a --type q4 -q -t 1 && is 0 && penstock quantize "$S" -o b --type q4 -q -t 2 && is 0 && same a b; }
calibrated() { source_named=$1; shift; printf 'a red fox\n# a comment\n\nsnow on the sea\n' >list; penstock quantize "$source_named" --calibrate list --steps 2 -W 64 -H 64 -o c.penstock --json "$@"; is 0; }
calibrate() { # the same bytes for any number of threads and any budget; and nearer outputs
    calibrated "$1" -t 1 && json ../out 'd["calibrated"] > 3 and d["output_error"] < 0.95 * d["output_error_plain"]' && mv c.penstock a &&
        calibrated "$1" -t 2 && same a c.penstock && penstock verify c.penstock && is 0 || return 1
    n=1M; for i in 1 2 3 4 5 6 7; do penstock quantize "$1" --calibrate list --steps 2 -W 64 -H 64 -o c.penstock --scratch /var/tmp --json --memory-budget "$n"; [ "$got" = 4 ] || break; n=$(member ../out least_bytes); done
    is 0 && same a c.penstock && penstock inspect a --json && json ../out 'd["calibration_prompts"] == 2 and d["types"]["q4"]["calibrated"] > 3'
}
calibrate_text() { printf 'a red fox\n' >list; mkdir t5 && cp "$M"/sigma_1024/text_encoder/* "$M"/sigma_1024/tokenizer/* t5 && penstock quantize t5 -o c.penstock --calibrate list --json && is 0 && json ../out 'd["calibrated"] > 3'; }
calibrate_bad() {
    printf '# nothing\n' >../list; refused 3 'no prompt' -- quantize "$S" -o c.penstock --calibrate ../list || return 1
    printf 'fox\n{"prompt": "fox"}\n' >../list; refused 3 'line 2' -- quantize "$S" -o c.penstock --calibrate ../list || return 1
    printf 'fox\n' >../list; refused 2 'q4, q5 and q8' -- quantize "$S" -o c.penstock --type f16 --calibrate ../list && refused 2 random -- quantize pixart_sigma_1024 -o c.penstock --random 1 --calibrate ../list &&
        refused 2 component -- quantize "$S" -o c.penstock --component text_encoder="$S/text_encoder" --calibrate ../list && refused 3 nowhere -- quantize "$S" -o c.penstock --calibrate nowhere &&
        refused 2 autoencoder -- quantize "$S/vae" -o c.penstock --calibrate ../list
}
tensor_type() { penstock quantize "$S" -o c.penstock --type q4 --tensor-type '*attn1*=f16' -q; is 0 && penstock inspect c.penstock --tensors && grep 'attn1.to_q.weight' ../out | grep -qi f16; }
damage() { # 16 bytes of every 8 KiB of the second half, so that some are a tensor's and not an extent's padding
    n=$(wc -c <c.penstock); at=$((n / 2 / 8192 * 8192))
    while [ $at -lt $((n - 16)) ]; do printf 'ZZZZZZZZZZZZZZZZ' | dd of=c.penstock bs=1 seek=$at conv=notrunc 2>/dev/null; at=$((at + 8192)); done
}
damaged_verify() { container sigma_small q8 && damage && penstock verify c.penstock; is 3 && has ../err 'checksum\|altered'; }
damaged_run() { container sigma_small q8 && damage && penstock generate -m c.penstock -p fox --steps 1 -q -o out.png; is 3 && sentence && [ ! -e out.png ]; }
truncated_container() { container sigma_small q8 && cut_file c.penstock "$1" && penstock generate -m c.penstock -p fox --steps 1 -q -o out.png; is 3 && sentence && [ ! -e out.png ]; }
no_container() { head -c 5000 /dev/zero >c.penstock; penstock generate -m c.penstock -p fox -q -o out.png; is 3 && sentence; }
quantize_bad_type() { refused 2 q6 -- quantize "$S" -o c.penstock --type q6; }
quantize_missing() { refused 3 -- quantize nowhere -o c.penstock --type q4; }
quantize_spoiled() { copy sigma_small && cut_file model/transformer/diffusion_pytorch_model.safetensors 100 && penstock quantize model -o c.penstock --type q4 -q; is 3 && [ ! -e c.penstock ] && [ "$(ls)" = model ]; }

small_type() { container sigma_small q4 && small=$(wc -c <c.penstock) && container sigma_small f32 && [ "$small" -lt "$(wc -c <c.penstock)" ] || say "q4 $small, f32 $(wc -c <c.penstock)"; }
w=diffusion_pytorch_model.safetensors

# Stable Diffusion: pictures that are given ------------------------------------------------------------------------------

D=$(cd "$FIXTURES/../sd" && pwd)
sd() { penstock generate -m "$D/models/classic" -p "a red fox" --steps 3 -s 1 -q -o out.png --no-cache "$@"; }
sd_bad() { # STATUS WORD... -- ARGUMENTS
    wanted=$1 words=; shift
    while [ "$1" != -- ]; do words="$words $1"; shift; done
    shift
    sd "$@"
    is "$wanted" && sentence $words && [ ! -e out.png ]
}
picture=$D/pictures/stripes.png mask=$D/pictures/blob.png
sd_text() { echo "no picture" >x.png && sd_bad 3 x.png PNG -- -i x.png; }
sd_short() { head -c 900 "$picture" >x.png && sd_bad 3 x.png PNG -- -i x.png; }
sd_paints() { penstock generate -m "$D/models/paint9" -p fox --steps 2 -q -o out.png; is 2 && sentence mask && nothing_left && penstock plan "$D/models/paint9"; is 0; }
tiny_previews() { # what an AutoencoderTiny decodes last is the picture; --taesd does it for any decoder of that size, and the budget counts it
    cp -r "$FIXTURES/../sd/models/classic" m && rm -r m/vae && cp -r "$E/usual" m/vae && set -- generate -m m --tokens 5 --steps 2 --sampling-method euler -q || return 1
    penstock "$@" -o a.png --preview 1 && is 0 && same a.png a_step_2.png && ! same a.png a_step_1.png >/dev/null && penstock "$@" -o b.png --taesd "$E/usual_decoder.pth" --preview 1 --memory-budget 3M --json
    is 4 && n=$(member ../out least_bytes) && penstock "$@" -o b.png --taesd "$E/usual_decoder.pth" --preview 1 --memory-budget "$n" && is 0 && same a.png b.png && same a_step_1.png b_step_1.png &&
        penstock "$@" -o c.png --taesd "$E/usual" --taesd-preview-only && is 0 && same a.png c.png || return 1
    rm -r m && penstock generate -m "$FIXTURES/../sd/models/classic" --tokens 5 --taesd "$E/usual" -q -o d.png; is 3 && sentence '8 times' && [ ! -e d.png ]
}
sd_previews() { sd --preview 2 -b 2 && works && [ -s out_step_2.png ] && [ -s out_2_step_2.png ] && [ "$(ls | wc -l)" -eq 6 ]; }
sd_budget() { # the least also walks the guidance pair one by one
    sd -b 2 --memory-budget 3M; is 4 && n=$(sed -n 's/.*at least \([0-9.]*[KMG]*\) is needed.*/\1/p' ../err) && [ -n "$n" ] || return 1
    sd -b 2 --trace a && mv out.png a.png && sd -b 2 --trace b --memory-budget "$n" -t 1 && same a.png out.png && same a b
}
sd_checkpoint() { # painting goes on with the same noise behind the mask
    set -- -i "$picture" --mask "$mask" --sampling-method euler_a --steps 6
    sd "$@" && works && mv out.png a.png
    for pause in 0.02 0.04 0.08 0.15; do
        "$PENSTOCK" generate -m "$D/models/classic" -p "a red fox" -s 1 -q -o b.png --no-cache "$@" --checkpoint c & pid=$!; sleep $pause; kill -KILL $pid 2>/dev/null; wait $pid 2>/dev/null
    done
    sd "$@" --checkpoint c && same a.png out.png
}
sd_container() { penstock quantize "$D/models/$1" -o c.penstock --type q8 -q && is 0 && penstock generate -m c.penstock -p fox --steps 2 -q -o out.png -i "$picture" --strength 0.8 && works; }
sd_file() { printf 'a fox\n{"prompt":"a dog","negative_prompt":"rain","seed":3}\n' >f && penstock generate -m "$D/models/$1" --prompt-file f --steps 2 -s 1 -q -o x.png --no-cache && is 0 && penstock generate -m "$D/models/$1" -p "a dog" -n rain -s 3 --steps 2 -q -o y.png --no-cache && same y.png x_2.png; }
sd_encode() { penstock encode -m "$D/models/xl" -p fox -n rain -o e -q && is 0 && penstock generate -m "$D/models/xl" --embeddings e --steps 2 -q -o a.png --trace a && is 0 && penstock generate -m "$D/models/xl" -p fox -n rain --steps 2 -q -o b.png --no-cache --trace b && same a b; }
# aMUSEd: tokens in place of latents
T=$(dirname "$FIXTURES")/amused
amused() { penstock generate -m "$T/models/small" -p "a red fox" --steps 4 -s 1 -q -o out.png --no-cache "$@"; works; }
amused_tokens() { # saved, traced, decoded, gone on from; by the pipeline and by the decoder alone
    amused --save-latents l --trace t && mv out.png a.png && penstock decode -m "$T/models/small" -i l -o b.png -q && is 0 &&
        penstock decode -m "$T/models/small/vqvae" -i t -o c.png -q && is 0 && same b.png c.png && amused --load-latents t && same a.png out.png
}
amused_same() { # any threads, the least budget
    amused -t 1 -b 2 && mv out.png a.png && mv out_2.png a_2.png || return 1
    penstock generate -m "$T/models/small" -p "a red fox" --steps 4 -t 3 -b 2 -q -o out.png --memory-budget 3M --json; n=$(member ../out least_bytes) || say "$n" || return 1
    amused -t 3 -b 2 --memory-budget "$n" && same a.png out.png && same a_2.png out_2.png
}
amused_together() { # each as alone, tokens drawn
    printf '{"prompt": "a red fox", "seed": 3}\n{"prompt": "a dog", "seed": 4, "output": "second.png"}\n' >p
    penstock generate -m "$T/models/small" --prompt-file p --steps 3 -q -o first.png && is 0 || return 1
    amused --steps 3 -s 3 && same first.png out.png && amused -p "a dog" --steps 3 -s 4 && same second.png out.png
}
amused_refused() {
    for o in "-W 15" "--sampling-method euler" "--scheduler karras" "--mask $T/pictures/blob.png" "-i $T/pictures/odd.png --strength 0.01" "--temperature -1"; do
        penstock generate -m "$T/models/small" -p fox -q -o out.png $o; is 2 && sentence && [ ! -e out.png ] || return 1
    done
    penstock generate -m "$S" -p fox -q --temperature 1 -o out.png; is 2 && sentence temperature && [ ! -e out.png ]
}
# DeepFloyd IF: cascades
IF=$(dirname "$FIXTURES")/if
cascade() { penstock generate -m "$IF/models/both" -p "a red fox" --steps 3 -s 1 -q -o out.png --no-cache "$@"; works; }
if_bad() { # STATUS WORD... -- ARGUMENTS
    wanted=$1 words=; shift
    while [ "$1" != -- ]; do words="$words $1"; shift; done
    shift
    penstock generate -p "a red fox" --steps 2 -q -o out.png "$@"
    is "$wanted" && sentence $words && [ ! -e out.png ]
}
if_one_file() { # all stages in a container; in two models; any threads, any budget
    natively || return
    cascade --trace a && penstock quantize "$IF/models/both" -o c.penstock --type f32 -q && is 0 && penstock verify c.penstock && is 0 || return 1
    cascade -m c.penstock -t 3 --trace b && same a b && cascade -m "$IF/models/first" --cascade "$IF/models/second" --trace b && same a b || return 1
    cascade -m c.penstock --memory-budget 1M; is 4 && n=$(sed -n 's/.*at least \([0-9.]*[KMG]*\) is needed.*/\1/p' ../err) && [ -n "$n" ] || return 1
    cascade -m c.penstock --memory-budget "$n" -t 1 --trace b && same a b
}
if_encodes_once() { # the text encoder is one stage of five, and may have run elsewhere
    natively || return
    cascade -n rain --json -b 2 --trace a && json ../out "[s['name'] for s in d['stages']] == ['text_encoder', 'unet_text', 'unet', 'stage2.unet_text', 'stage2.unet'] and d['evaluations'] == 53" || return
    penstock encode -m "$IF/models/both" -p "a red fox" -n rain -o e -q && is 0 && cascade --embeddings e -b 2 --trace b && same a b
}
if_together() { # each as alone, in one pass of the denoisers
    natively || return
    printf '{"prompt": "a red fox", "seed": 3}\n{"prompt": "a dog", "negative_prompt": "rain", "seed": 4}\n' >p
    penstock generate -m "$IF/models/both" --prompt-file p --steps 3 -q -o x.png --no-cache && is 0 || return 1
    cascade -s 3 && same x.png out.png && cascade -p "a dog" -n rain -s 4 && same x_2.png out.png
}
if_goes_on() { # from the first stage's checkpoint; a stage alone from its own
    natively || return
    cascade --checkpoint c && mv out.png a.png && cascade --checkpoint c && same a.png out.png && cascade && same a.png out.png || return 1
    set -- -m "$IF/models/alone" -i "$IF/pictures/small.png" --steps 8
    cascade "$@" && mv out.png a.png
    for pause in 0.02 0.04 0.08; do
        "$PENSTOCK" generate -p "a red fox" -s 1 -q -o b.png --no-cache "$@" --checkpoint d & pid=$!; sleep $pause; kill -KILL $pid 2>/dev/null; wait $pid 2>/dev/null
    done
    cascade "$@" --checkpoint d && same a.png out.png
}
if_latents() { # of the last stage: they are the picture, and nobody else's
    cascade --save-latents l --trace t && penstock decode -m "$IF/models/both" -i l -o b.png -q && is 0 && pixels b.png && penstock decode -m "$IF/models/upscaler" -i l -o d.png -q
    is 3 && sentence channels && [ ! -e d.png ]
}
if_plans() { penstock plan "$IF/models/first" --cascade "$IF/models/second" --cascade "$IF/models/upscaler" -W 64 -H 64 --json && is 0 && json ../out "len(d['stages']) == 8 and d['evaluations'] == 225 and d['width'] == 64"; }
if_spoiled() { # FILE FROM TO WORD: one value of a config is another
    cp -rL "$IF/models/both" model && sed -i "s/\"$2\": [^,]*/\"$2\": $3/" "model/$1" || return 1
    penstock generate -m model -p fox --steps 1 -q -o out.png --no-cache; is 3 && sentence "$4" && [ ! -e out.png ] && rm -rf model
}

vq_decode() { # its folder, the original's file, a container; what it cannot decode
    V=$(dirname "$FIXTURES")/vq
    for m in lookup taming.ckpt; do
        e=$V/expected/${m%.ckpt}.safetensors
        penstock decode -m "$V/$m" -i "$e" -o a.png -q && is 0 && penstock quantize "$V/$m" -o m.penstock --type f32 -q && is 0 &&
            penstock decode -m m.penstock -i "$e" -o b.png -q --memory-budget 64M && is 0 && same a.png b.png || return 1
    done
    amused --save-latents l && penstock decode -m "$D/models/classic" -i l -o d.png -q; is 3 && sentence channels && [ ! -e d.png ]
}

sd_decode() { sd --save-latents l && penstock decode -m "$D/models/classic" -i l -o b.png -q && is 0 && [ -s b.png ]; }


try 'a picture, quietly' plain_run
try 'progress without -q' quiet_less
try 'help' help_works --help
try 'help of a command' help_works generate --help
try 'version' help_works --version
try 'a cut prompt is warned of' warns_cut
try 'batch: names' batch
try 'batch: picture 2 is seed + 1' batch_is_seeds
try 'random seed is printed' random_seed
try 'a negative seed is what torch makes of it' negative_seed
try 'a seed below those that torch takes' bad 2 seed -- -s -9223372036854775809
try 'output elsewhere' other_folder
try 'output is replaced' overwrites
try 'bad size keeps the old output' keeps_old
try 'same bytes again' repeats
try 'another seed, another picture' seeds_differ
try 'negative prompts' negative_empty

try 'no command' refused 2 --
try 'unknown command' refused 2 paint -- paint
try 'unknown option' bad 2 --colour -- --colour red
try 'option without value' refused 2 -- generate -m "$S" -p
try 'no prompt' refused 2 prompt -- generate -m "$S" -o out.png
try 'stray argument' bad 2 stray -- stray
try 'width 33' bad 2 33 32 -- -W 33
try 'height 20' bad 2 20 -- -H 20
try 'width 0' bad 2 -- -W 0
try 'width negative' bad 2 -- -W -8
try 'width word' bad 2 wide -- -W wide
try 'steps 0' bad 2 -- --steps 0
try 'steps word' bad 2 many -- --steps many
try 'steps 2x' bad 2 2x -- --steps 2x
try 'steps too many' bad 2 -- --steps 100000
try 'cfg word' bad 2 -- --cfg-scale strong
try 'seed word' bad 2 -- -s seven
try 'batch 0' bad 2 -- -b 0
try 'threads word' bad 2 -- -t all
try 'sampler unknown' bad 2 nonsense -- --sampling-method nonsense
try 'scheduler unknown' bad 2 nonsense -- --scheduler nonsense
try 'cpu unknown' bad 2 nonsense -- --cpu nonsense
try 'precision unknown' bad 2 f17 -- --precision f17
try 'length 0' bad 2 -- --max-sequence-length 0
try 'budget word' bad 2 lots -- --memory-budget lots
try 'budget 3Q' bad 2 3Q -- --memory-budget 3Q
try 'budget in hexadecimal' bad 2 0x40M -- --memory-budget 0x40M
try 'an empty name' bad 2 model empty -- -m ""
try 'an option of another command' bad 2 tensors inspect -- --tensors
try "diffusers' name of an option" bad 2 guidance_scale cfg-scale -- --guidance_scale 3
try 'a picture that is no PNG' refused 2 PNG x.png -- generate -m "$S" -p fox -o x.jpg
try 'a picture to -' refused 2 stdout -- generate -m "$S" -p fox -o -
try 'prompt file: standard input' file_stdin
try 'quantize: a component of another kind' refused 2 vae decoder denoiser -- quantize "$S" -o x.penstock --component vae="$S/transformer"
try 'an output named twice' bad 2 trace output -- --trace out.png
try 'the model as the output' output_is_model

try 'model missing' refused 3 nowhere -- generate -m nowhere -p fox -o out.png
try 'model is an empty folder' refused 3 -- generate -m "$ROOT/work" -p fox -o out.png
try 'model is no JSON' spoiled sigma_small model_index.json 'echo "{" >model_index.json'
try 'model of an unknown class' spoiled sigma_small Nonsense 'sed s/PixArtSigmaPipeline/NonsensePipeline/ model_index.json >x && mv x model_index.json'
try 'config missing' spoiled sigma_small transformer 'rm transformer/config.json'
try 'config of another shape' spoiled sigma_small transformer 'sed "s/\"attention_head_dim\": 16/\"attention_head_dim\": 20/" transformer/config.json >x && mv x transformer/config.json'
try 'config absurd' spoiled sigma_small num_layers 'sed "s/\"num_layers\": 2/\"num_layers\": 2000000000/" transformer/config.json >x && mv x transformer/config.json'
try 'config negative' spoiled sigma_small d_ff 'sed "s/\"d_ff\": 72/\"d_ff\": -72/" text_encoder/config.json >x && mv x text_encoder/config.json'
try 'weights missing' spoiled sigma_small transformer "rm transformer/$w"
try 'weights truncated' spoiled sigma_small $w "cut_file transformer/$w 100"
try 'weights truncated in the header' spoiled sigma_small $w "head -c 400 transformer/$w >x && mv x transformer/$w"
try 'weights empty' spoiled sigma_small $w ": >vae/$w"
try 'weights of another part' spoiled sigma_small weight "cp vae/$w transformer/$w"
try 'weights too long a header' spoiled sigma_small $w "printf '\377\377\377\377\377\377\377\177' | dd of=vae/$w bs=1 conv=notrunc 2>/dev/null"
try 'shard missing' spoiled sigma_f16 00002 'rm text_encoder/model-00002-of-*.safetensors'
try 'tokenizer missing' spoiled sigma_small spiece.model 'rm tokenizer/spiece.model'
try 'tokenizer truncated' spoiled sigma_small spiece.model 'cut_file tokenizer/spiece.model 700'
try 'scheduler unknown in the model' spoiled sigma_small NonsenseScheduler 'sed s/DPMSolverMultistepScheduler/NonsenseScheduler/ scheduler/scheduler_config.json >x && mv x scheduler/scheduler_config.json'

try 'output folder missing' unwritable "$ROOT/nowhere/out.png"
try 'output under a file' under_a_file
try 'disk full' disk_full
try 'interrupted' interrupted
try 'disk full, anywhere' full_anywhere
try 'disk full, in the cache' full_cache
try 'standard output full' full_stdout
try 'SIGTERM at any time' signals TERM 143
try 'SIGINT at any time' signals INT 130
try 'SIGKILL at any time' signals KILL 137
try 'signals while quantizing' signals_quantize

try 'budget too small' bad 4 budget 3M -- --memory-budget 3M
try 'budget sentence' budget_sentence
try 'budget of a byte' bad 4 ':.1.is' -- --memory-budget 1
try 'budget of a kilobyte and a half' bad 4 1.5K -- --memory-budget 1536
try 'budget: the least works' budget_least
try 'budget: the least in JSON works' budget_least_json
try 'budget: less than the least does not' budget_below_least
try 'budget: buffered reads' budget_buffered
try 'budget: two encoders' budget_two_encoders
try 'budget is kept' budget_kept
try 'budget: same bytes' budget_same sigma_small
try 'budget: same bytes, no attention in the vae' budget_same sigma_wide
try 'budget: same bytes, f16' budget_same sigma_f16
try 'budget: same bytes, large latents' budget_same alpha_1024
try 'budget: same bytes, large picture' budget_same sigma_2k
try 'budget forms' budget_forms
try 'budget of what a control group leaves' budget_group

try 'environment: PENSTOCK_READ' variable PENSTOCK_READ direkt buffered
try 'environment: PENSTOCK_CACHE_LIMIT' variable PENSTOCK_CACHE_LIMIT -1 bytes
try 'environment: PENSTOCK_MODELS_LIMIT' variable PENSTOCK_MODELS_LIMIT 99999999999999999999999 bytes

try 'threads: same bytes' threads_same
try 'threads: same bytes, large latents' threads_same_on alpha_1024
try 'threads: same bytes, f16' threads_same_on sigma_f16

try 'json' report
try 'json names the output' report_output
try 'json of encode' report_encode
try 'png parameters' parameters
try 'png parameters of a batch' parameters_batch
try 'trace names' trace_names

try 'latents saved, decoded, loaded' latents_decoded
try 'decode reports seconds, and the size' decode_report
try 'latents of a trace, loaded' latents_traced
try 'latents of another size are refused' latents_refused
try 'latents missing' latents_missing
try 'checkpoint of a finished run' checkpoint_done
try 'checkpoint of another prompt' checkpoint_other
try 'checkpoint: killed, continued' checkpoint_killed
try 'checkpoint cannot be written' checkpoint_unwritable

try 'cache: the second run reads no encoder' cache_second
try 'cache: one prompt of two' cache_partly
try 'cache: key' cache_key
try 'cache: torn entries' cache_torn
try 'cache: altered entries' cache_altered
try 'cache: nowhere to lie' cache_nowhere
try 'cache: bounded' cache_bounded
try 'cache: several processes' cache_crowd
try 'cache and embeddings, stable diffusion' cache_sd
try 'embeddings' embeddings
try 'embeddings of the prompt alone' embeddings_alone
try 'embeddings without a prompt' embeddings_no_prompt
try 'embeddings of another model' embeddings_other
try 'embeddings of a bad file' embeddings_bad

try 'prompt file: as one by one' file_same "$S"
try 'prompt file: as one by one, f32' file_same "$S" --precision f32
try 'prompt file: as one by one, without guidance' file_same "$S" --cfg-scale 1
try 'prompt file: as one by one, q4' file_container
try 'prompt file: as one by one, stable diffusion' file_sd
try 'prompt file: budgets' file_budget
try 'prompt file: a picture that is missing' file_refused 2 nowhere '{"prompt": "a", "init_img": "nowhere.png"}' 3
try 'prompt file: one pass' file_one_pass
try 'prompt file: unknown option' file_refused 2 colour '{"prompt": "a", "colour": 3}' 2
try 'prompt file: near option' file_refused 2 height '{"prompt": "a", "hieght": 3}' 2
try "prompt file: diffusers' name of an option" file_refused 2 cfg_scale '{"prompt": "a", "guidance_scale": 3}' 2
try 'prompt file: no text' file_of_bytes
try 'prompt file: bad size' file_refused 2 33 '{"prompt": "a", "width": 33}' 2
try 'prompt file: bad JSON' file_refused 2 f '{"prompt": ' 3
try 'prompt file: no prompt' file_refused 2 prompt '{"seed": 1}' 2
try 'prompt file: a list' file_refused 2 seed '{"prompt": "a", "seed": [1]}' 2
try 'prompt file: output elsewhere' file_refused 2 nowhere '{"prompt": "a", "output": "nowhere/a.png"}' 1
try 'prompt file: sampler' file_refused 2 nonsense '{"prompt": "a", "sampling_method": "nonsense"}' 2
try 'prompt file: names clash' file_clash
try 'prompt file: empty' file_empty
try 'prompt file: traces' file_traces
try 'prompt file: encode' file_encode
try 'prompt file: cached' file_cached
try 'encode --tokens -b' encode_many_tokens

try '--type: quantized once' type_once
try '--type: a damaged one is made again' type_damaged
try '--type: bounded' type_bounded
try '--type: refused' type_refused

try 'encode' encode
try 'encode --tokens' encode_tokens
try 'encode --tokens needs no tokenizer' encode_no_tokenizer
try 'encode and trace agree' encode_is_traced
try 'plan' plan_text
try 'plan tells encoder, denoiser, decoder' plan_roles
try 'plan tells evaluations' plan_evaluations
try 'plan --json' plan_json
try 'plan tells scratch by stage' plan_scratch
try 'plan of two' plan_two
try 'plan of a system by its name' plan_named
try 'plan of a name that is none' refused 3 sd51 sd15 -- plan sd51
try 'bench --json' bench_json
try 'bench of a text encoder alone' bench_encoder
try 'bench of the scalar kernels, one word' bench_scalar
try 'bench: a word that no row has' bench_word
try 'inspect' inspect_folder sigma_small
try 'inspect sharded' inspect_folder sigma_f16
try 'inspect --json' inspect_json
try 'inspect tells encoder, denoiser, decoder' inspect_roles
try 'inspect --tensors' inspect_tensors

try 'container q4' whole_way sigma_small q4
try 'container q5' whole_way sigma_small q5
try 'container q8' whole_way sigma_odd q8
try 'container f16' whole_way alpha_tiny f16
try 'container bf16' whole_way sigma_wide bf16
try 'container f32' whole_way sigma_f16 f32
try 'container q4 of mixed, binned' whole_way alpha_1024 q4
try 'container old vae names' whole_way alpha_256 q8
try 'container f32 is the folder' exact sigma_small
try 'container f32 is the folder, f16 shards' exact sigma_f16
try 'container json' container_json
try 'container under a budget' container_budget
try 'container: same bytes again' container_repeats
try 'container: same bytes, threads' container_threads
try 'container --tensor-type' tensor_type
try '--calibrate: PixArt' calibrate "$S"
try '--calibrate: Stable Diffusion' calibrate "$FIXTURES/../sd/models/classic"
try '--calibrate: a text encoder alone' calibrate_text
try '--calibrate: what is no list of prompts' calibrate_bad
try 'container q4 is smaller' small_type
try 'container damaged: verify' damaged_verify
try 'container damaged: generate' damaged_run
try 'container truncated a little' truncated_container 100
try 'container truncated much' truncated_container 200000
try 'container of zeros' no_container
try 'quantize: unknown type' quantize_bad_type
try 'quantize: missing model' quantize_missing
try 'quantize: a size without --calibrate' refused 2 width calibrate -- quantize "$S" -o x.penstock -W 64
try 'quantize: configs without --random' refused 3 weights random -- quantize sd15 -o x.penstock
try 'CLIP alone: --tokens' clip_tokens
try 'CLIP alone: weights of 1 change nothing' clip_weights
try 'CLIP alone: BREAK' clip_chunks
try 'CLIP alone: weights and the cache' clip_cached
try 'prompt file: a line of two chunks' sd_file_chunks
try 'CLIP alone: no tokenizer' clip_no_tokenizer
try 'CLIP alone: the tokenizer of another' clip_foreign_tokenizer
try 'CLIP alone: no pictures' clip_no_pictures
try 'LDM: container f32 is the folder' ldm
try 'Kandinsky 3: container f32 is the folder' k3_container
try 'Kandinsky 3: the encoder of a full T5' k3_full_t5
try 'Kandinsky 3: prompt file' k3_file
try 'Kandinsky 3: budgets' k3_budget
try 'Kandinsky 3: decode, MoVQ alone' k3_decode
try 'Kandinsky 3: --embeddings' k3_embeddings
try 'Kandinsky 3: --null-embedding without one' refused 2 null_embedding -- generate -m "$K/four" -p fox --null-embedding -o out.png
try 'others: --null-embedding' refused 2 null-embedding -- generate -m "$S" -p fox --null-embedding -o out.png
try 'Kandinsky 3: --mask' refused 2 mask -- generate -m "$K/four" -p fox -i "$FIXTURES/../kandinsky3/pictures/odd.png" --mask "$FIXTURES/../sd/pictures/blob.png" -o out.png
try 'Kandinsky 3: --strength 0' refused 2 strength -- generate -m "$K/four" -p fox -i "$FIXTURES/../kandinsky3/pictures/odd.png" --strength 0 -o out.png
try 'LDM: no vocabulary' ldm_no_vocabulary
try 'single files: SD 1 finds its configs' foreign_configs sd1.safetensors
try 'single files: SD 2 finds its configs' foreign_configs sd2.safetensors
try 'single files: SDXL finds its configs' foreign_configs xl.safetensors
try 'single files: GGUF types' foreign_types
try 'single files: a decoder as a component' foreign_vae
try 'tiny autoencoder: decode' tiny_decode
try 'tiny autoencoder: as a component' tiny_in_sd
try 'single files: SD 1 makes a picture' foreign_picture
try 'single files: GGUF of a T5' foreign_t5
try 'single files: an inpainting UNet is known' foreign_inpainting
try 'single files: an LCM is known' foreign_lcm
try 'single files: hostile and truncated' foreign_hostile
try 'quantize: truncated model' quantize_spoiled

try 'picture missing' sd_bad 3 nowhere.png -- -i nowhere.png
try 'picture that is none' sd_text
try 'picture cut short' sd_short
try 'picture for a model that takes none' refused 2 init-img -- generate -m "$S" -p fox -q -o out.png -i "$picture"
try 'mask without a picture' sd_bad 2 mask init-img -- --mask "$mask"
try 'inpainting model without a picture' sd_paints
try 'strength that leaves no step' sd_bad 2 strength -- -i "$picture" --strength 0.1 --sampling-method ddim
try 'strength out of range' sd_bad 2 strength -- -i "$picture" --strength 1.5
try 'size between multiples' sd_bad 2 30x32 32x32 -- -W 30 -H 32
try 'clip skip too deep' sd_bad 2 clip-skip -- --clip-skip 9
try 'refiner missing' sd_bad 3 nowhere -- --refiner nowhere
not_taken() { # OPTION WORDS -- MODEL ARGUMENTS: that pipeline has no use for the option, and says so
    option=$1 words=$2; shift 3; model=$1; shift
    refused 2 "$option" "$words" -- generate -m "$model" -p fox --steps 2 -q -o out.png "$@"
}
try 'not taken: rescaled guidance' not_taken guidance-rescale 'Stable Diffusion does' -- "$S" --guidance-rescale 0.5
try 'not taken: rescaled guidance, Kandinsky 3' not_taken guidance-rescale 'Stable Diffusion does' -- "$K/four" --guidance-rescale 0.5
try 'not taken: a layer of CLIP' not_taken clip-skip 'no CLIP' -- "$S" --clip-skip 2
try 'not taken: a layer of CLIP, encode' refused 2 clip-skip 'no CLIP' -- encode -m "$S" -p fox -o e.safetensors --clip-skip 2
try 'not taken: a length of prompts' not_taken max-sequence-length 'one length' -- "$D/models/classic" --max-sequence-length 20
try 'not taken: a refiner' not_taken refiner 'XL does' -- "$D/models/classic" --refiner "$D/models/refiner"
try 'not taken: an AutoencoderTiny' not_taken taesd 'stand in' -- "$K/four" --taesd "$E/usual"
try 'not taken: strength without a picture' sd_bad 2 strength 'init-img' -- --strength 0.5
try 'not taken: a start of no refiner' sd_bad 2 refiner-start '--refiner,' -- --refiner-start 0.5
try 'not taken: previews of no AutoencoderTiny' sd_bad 2 taesd-preview-only '--taesd,' -- --taesd-preview-only
try 'not taken: a prompt beside tokens' refused 2 tokens 'one of them' -- generate -m "$S" -p fox --tokens 5 -q -o out.png
try 'refiner with nothing to do' refused 2 refiner-start -- generate -m "$D/models/xl" -p fox --steps 3 -q -o out.png --refiner "$D/models/refiner" --refiner-start 1
try 'previews' sd_previews
try 'previews through an AutoencoderTiny' tiny_previews
try 'guidance one by one' sd_budget
try 'checkpoint: painting' sd_checkpoint
try 'container of Stable Diffusion' sd_container classic
try 'container of SDXL' sd_container xl
try 'prompt file: Stable Diffusion' sd_file classic
try 'prompt file: SDXL' sd_file xl
try 'embeddings of two encoders' sd_encode
try 'latents of Stable Diffusion' sd_decode
try 'tokens saved, decoded, loaded' amused_tokens
try 'tokens: threads, budget' amused_same
try 'cascade: one file, two models, threads, budget' if_one_file
try 'cascade: the text once' if_encodes_once
try 'cascade: prompts together' if_together
try 'cascade: gone on with' if_goes_on
try 'cascade: latents' if_latents
try 'cascade: plan' if_plans
try 'cascade: a picture is missing' if_bad 2 init-img -- -m "$IF/models/second"
try 'cascade: a stage that does not enlarge' if_bad 2 cascade enlarge -- -m "$IF/models/first" --cascade "$IF/models/first"
try 'cascade: of another pipeline' if_bad 2 cascade -- -m "$D/models/classic" --cascade "$IF/models/upscaler"
try 'cascade: size' if_bad 2 33x32 32x32 -- -m "$IF/models/both" -W 33 -H 32
try 'cascade: an unknown list of timesteps' if_bad 2 smart51 smart50 -- -m "$IF/models/first" --scheduler smart51
try 'cascade: timesteps that go up' if_bad 2 scheduler -- -m "$IF/models/first" --scheduler 5,6
try 'cascade: timesteps that are none' if_bad 2 scheduler -- -m "$IF/models/first" --scheduler 500,1000000000000
try 'cascade: a head wider than all' if_spoiled unet/config.json attention_head_dim 64 attention_head_dim
try 'cascade: no head' if_spoiled unet/config.json attention_head_dim 0 attention_head_dim
try 'cascade: another width of text' if_spoiled unet/config.json encoder_hid_dim 48 48
try 'cascade: heads of the pooled text' if_spoiled unet/config.json addition_embed_type_num_heads 7 addition_embed_type_num_heads
try 'cascade: no such activation' if_spoiled unet/config.json time_embedding_act_fn '"mish"' mish
try 'cascade: no such norm' if_spoiled stage2/unet/config.json cross_attention_norm '"batch"' batch
try 'cascade: a text that does not divide' if_spoiled stage2/unet/config.json cross_attention_dim 40 cross_attention_dim
try 'cascade: a divisor of zero' if_spoiled stage2/unet/config.json resnet_out_scale_factor 0 resnet_out_scale_factor
try 'cascade: three channels out' if_spoiled unet/config.json out_channels 3 channels
try 'cascade: no variance' if_spoiled scheduler/scheduler_config.json variance_type '"dreamt"' variance_type
try 'cascade: few timesteps to be noised to' if_spoiled stage2/image_noising_scheduler/scheduler_config.json num_train_timesteps 100 250
try 'tokens: prompts together' amused_together
try 'tokens: what cannot be' amused_refused
try 'codebook: decode' vq_decode

[ $skipped -eq 0 ] || echo "$skipped skipped"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
