#!/usr/bin/env bash
# Install what is missing and build penstock. With Debian's or Ubuntu's apt-get (through sudo when not root):
#
#   tools/setup.sh            what the program needs, then configure and make
#   tools/setup.sh --tests    what `make check` needs as well
#   tools/setup.sh --packages [--tests]   only install
#
# Everything lands in the checkout; nothing is installed but the packages that are named before.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(gcc libc6-dev make autoconf automake libtool pkg-config
          libjson-c-dev libpng-dev libxxhash-dev libunistring-dev)
only_packages=no
for argument in "$@"; do
    case $argument in
    --tests) packages+=(libcriterion-dev python3) ;;
    --packages) only_packages=yes ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
    esac
done

say() { printf '%s\n' "setup: $*" >&2; }

missing=()
for package in "${packages[@]}"; do
    if ! command -v dpkg-query >/dev/null; then
        say "this is not Debian or Ubuntu: install a C compiler, autoconf, automake, libtool and pkg-config, and the libraries"
        say "json-c, libpng, xxhash, libunistring (tests: criterion) by other means, then: autoreconf -i && ./configure && make"
        break
    fi
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { say "packages are missing, and there is no sudo. As root: apt-get install ${missing[*]}"; exit 1; }
        as_root=sudo
    fi
    say "installing ${missing[*]} (apt-get${as_root:+, through sudo})"
    $as_root apt-get update -q
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${missing[@]}"
fi
[ $only_packages = no ] || exit 0

if [ ! -x configure ] || [ configure.ac -nt configure ]; then
    say "preparing the build (autoreconf)"
    autoreconf -i >/dev/null 2>&1 || autoreconf -i
fi
# a build that was configured before Criterion came would leave its suites out
without_suites() { case " $* " in *" --tests "*) grep -q '^CRITERION_LIBS = *$' Makefile ;; *) return 1 ;; esac; }
if [ ! -f Makefile ] || [ configure -nt Makefile ] || without_suites "$@"; then
    say "configuring"
    ./configure -q
fi
say "building, about a minute"
make -s -j"$(nproc)"
case " $* " in *" --tests "*) make -s -j"$(nproc)" check TESTS= >/dev/null ;; esac
say "done: ./penstock"
