#!/usr/bin/env bash
# diffusers' pictures of tiny random models, tensor by tensor (tests/test_parity.c). Arguments go through, as in
# tests/run_parity.sh -k alpha -v
set -u
penstock=${PENSTOCK:-./penstock}
exec "$(dirname "$penstock")/tests/test_parity" "$@" "$penstock" "${PENSTOCK_FIXTURES:-tests/fixtures}/pixart"
