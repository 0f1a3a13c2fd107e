#!/bin/sh
# regenerate.sh PROGRAM: every committed report from its sweep file. Numbers in the pages come from the .h5, never typed.
set -eu
cd "$(dirname "$0")"
program=$(realpath "../$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for sweep in published silero; do
  case $sweep in
    silero) [ -f "${FP4SCOPE_SHARED:-}/data/silero_vad_16k.safetensors" ] || { echo "silero skipped: FP4SCOPE_SHARED"; continue; } ;;
  esac
  "$program" sweep "$sweep.toml" -o "$work/$sweep.h5" >/dev/null
  "$program" report "$work/$sweep.h5" -o "$work/$sweep"
  mkdir -p "$sweep"
  cp "$work/$sweep/table.csv" "$work/$sweep"/figures/*.svg "$sweep/"
  ${FP4SCOPE_PYTHON:-/usr/bin/python3} page.py "$sweep" "$work/$sweep.h5" > "$sweep/README.md"
done

mkdir -p searches
"$(dirname "$program")/tests/joint_table" 64 512 > searches/joint.md

mkdir -p recipes
"$program" crosscheck --recipes -o "$work/recipes.h5" > recipes/crosscheck.txt
${FP4SCOPE_PYTHON:-/usr/bin/python3} page.py recipes "$work/recipes.h5" > recipes/README.md

for element in e2m1 e4m3 e5m2 ue4m3 ue8m0; do
  "$program" crosscheck --recipes --format $element -o "$work/$element.h5" >/dev/null
done
${FP4SCOPE_PYTHON:-/usr/bin/python3} page.py converters "$work/e2m1.h5" "$work/e4m3.h5" "$work/e5m2.h5" "$work/ue4m3.h5" \
  "$work/ue8m0.h5" > recipes/converters.md
