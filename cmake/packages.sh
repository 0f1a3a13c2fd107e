#!/bin/sh
# packages.sh SET...: installs the Debian or Ubuntu packages of the sets that are missing; nothing when none are.
# README.md says why each is there.
set -eu
build="g++ cmake pkg-config git libgmp-dev libhdf5-dev libcli11-dev libfmt-dev nlohmann-json3-dev libtomlplusplus-dev
       librandom123-dev libhwy-dev python3 python3-h5py python3-matplotlib"
test="libgtest-dev libmpfr-dev libbenchmark-dev verilator"
optional=" verilator "  # what needs them is skipped without
clang="clang libomp-dev"

if ! command -v dpkg-query >/dev/null; then
  echo "packages.sh: not Debian or Ubuntu; needed are: $build $test" >&2
  exit 0
fi
missing=""
needed=""
for set in "$@"; do
  for package in $(eval "echo \$$set"); do
    status=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
    case "$status" in ii*) ;; *) missing="$missing $package" ;; esac
  done
done
[ -n "$missing" ] || exit 0

echo "installing:$missing"
as_root=""
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "packages.sh: needs root or sudo to install:$missing" >&2; exit 1; }
  as_root="sudo"
fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq || echo "packages.sh: the package lists could not be brought up to date" >&2
for package in $missing; do
  case "$optional" in *" $package "*) ;; *) needed="$needed $package" ;; esac
done
# shellcheck disable=SC2086
[ -z "$needed" ] || $as_root apt-get install -y -qq --no-install-recommends $needed >/dev/null
for package in $missing; do
  case "$optional" in *" $package "*) ;; *) continue ;; esac
  $as_root apt-get install -y -qq --no-install-recommends "$package" >/dev/null || echo "packages.sh: no $package, going on without" >&2
done
