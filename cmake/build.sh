#!/bin/sh
# build.sh PRESET JOBS: configures once, then builds what changed.
set -eu
[ -f "build/$1/CMakeCache.txt" ] || cmake --preset "$1" >/dev/null
cmake --build "build/$1" -j "$2" -- --no-print-directory ${VERBOSE:+VERBOSE=1} | grep -v -e 'Built target' -e 'Consolidate' || true
cmake --build "build/$1" -j "$2" >/dev/null
