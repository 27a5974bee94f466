#!/usr/bin/env bash
# The command line's cases, by name (tests/cli_cases.sh). Arguments go through, as in tests/run_cli.sh -k budget
exec sh "$(dirname "$0")/cli_cases.sh" -v "$@" "${PENSTOCK_FIXTURES:-$(dirname "$0")/fixtures}/pixart"
