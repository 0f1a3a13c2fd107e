#!/bin/sh
# build.sh PRESET [TARGET]: configures once, then builds what changed, on all cores. Quiet when there is nothing to do.
set -eu
[ -f "build/$1/CMakeCache.txt" ] || cmake --preset "$1" >/dev/null
cmake --build "build/$1" --target "${2:-all}" -j "$(nproc)" -- --no-print-directory --quiet
