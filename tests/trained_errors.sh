#!/usr/bin/env bash
# What quantizing does to trained weights, and whether the bars of test_trained hold for them: tests/trained_errors.sh CHECKPOINT
#
# CHECKPOINT is a .pth, .bin or .safetensors file. The bars were first measured on taef2_decoder.pth, the decoder of the tiny autoencoder for FLUX.2's latents by
# Ollin Boer Bohan (MIT license, https://github.com/madebyollin/taesd), sha256 0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5. Nothing of
# it is kept here, and no Python is needed.
set -euo pipefail
[ $# -eq 1 ] && [ -f "$1" ] || { echo "usage: $0 CHECKPOINT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ending=${1##*.}
cp "$1" "$work/trained.$ending"
mkdir "$work/trained"
echo '{}' >"$work/trained/config.json"
PENSTOCK_FIXTURES=${PENSTOCK_FIXTURES:-$here/fixtures} PENSTOCK_TRAINED=$work/trained.$ending PENSTOCK_REPORT=1 TMPDIR=$work \
    "${TEST_TRAINED:-$here/test_trained}" --filter 'trained/the_folder*' | sed "s|$work/trained.$ending|$1|"
