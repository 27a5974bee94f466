#!/bin/sh
# Run one test so that it speaks TAP: Criterion's suites (test_*) by their own report; a program that closes with "N passed, N failed"
# by its lines `ok NAME`, `FAILED NAME`, `skipped NAME` (or NAME ... ok); any other as one test that its exit status decides.
program=$1
shift
name=${program##*/}
log=$(mktemp "${TMPDIR:-/tmp}/penstock-tap.XXXXXX") || exit 99
trap 'rm -f "$log" "$log.out"' EXIT

comment() { sed 's/^/# /' "$1"; }

# Lines of results to TAP; what stands between them explains the one before or after
results() {
    awk -v name="$name" '
        function say(word, what, why) { n++; print word " " n " - " what why; if (word == "not ok") bad++ }
        /^ok  / { sub(/^ok +/, ""); say("ok", $0, ""); next }
        /^FAILED  / { sub(/^FAILED +/, ""); say("not ok", $0, ""); next }
        /^skipped  / { sub(/^skipped +/, ""); say("ok", $0, " # SKIP"); next }
        / ok$/ { say("ok", $1, ""); print "# " $0; next }
        / FAILED$/ { say("not ok", $1, ""); print "# " $0; next }
        /^[0-9]+ passed, [0-9]+ failed$/ {   # programs with thousands of checks name none that pass
            if ($3 + 0 > bad) say("not ok", name ": " $0, "")
            else if (n == 0) say("ok", name ": " $0, "")
        }
        { print "# " $0 }
        END { print "1.." n }' "$1"
}

case $name in
test_*)
    "$program" --tap="$log" "$@" >"$log.out" 2>&1
    status=$?
    comment "$log.out"
    # Criterion writes "ok - name"; a suite that died before its report has none
    if ! grep -q '^1\.\.' "$log"; then
        printf '1..1\nnot ok 1 - %s: no report, exit status %s\n' "$name" "$status"
    else
        cat "$log"
        if [ $status -ne 0 ] && ! grep -q '^not ok' "$log"; then
            exit $status
        fi
    fi
    exit 0
    ;;
*.sh) set -- bash "$program" "$@" ;;
*) set -- "$program" "$@" ;;
esac
"$@" >"$log" 2>"$log.out"
status=$?
if grep -q '^[0-9][0-9]* passed, [0-9][0-9]* failed$' "$log"; then
    comment "$log.out"
    results "$log"
    exit 0
fi
comment "$log.out"
comment "$log"
case $status in
0) printf '1..1\nok 1 - %s\n' "$name" ;;
77) printf '1..1\nok 1 - %s # SKIP\n' "$name" ;;
*) printf '1..1\nnot ok 1 - %s: exit status %s\n' "$name" "$status" ;;
esac
