#!/usr/bin/env bash
# diffusers' pictures of tiny random models, tensor by tensor (tests/test_parity.c). Arguments go through, as in
# tests/run_parity.sh -k alpha -v
set -u
penstock=${PENSTOCK:-./penstock}
code=0
for family in pixart sd ldm kandinsky3 amused muse if; do
    "$(dirname "$penstock")/tests/test_parity" "$@" "$penstock" "${PENSTOCK_FIXTURES:-tests/fixtures}/$family" || code=1
done
exit $code
