#!/usr/bin/env bash
# The example, built against the public header and the shared library, makes the same file as the command.
set -u
penstock=${PENSTOCK:-./penstock}
example=$(dirname "$penstock")/examples/first_picture
model=$(dirname "$penstock")/share/penstock-small.penstock
prompt="a red circle above a blue square"
[ -f "$model" ] || { echo "no small model here"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
"$penstock" generate --no-cache -q -m "$model" -p "$prompt" -s 42 -o "$work/command.png" || exit 1
"$example" "$prompt" "$work/library.png" "$model" || exit 1
cmp "$work/command.png" "$work/library.png"
