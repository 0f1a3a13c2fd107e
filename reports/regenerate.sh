#!/bin/sh
# regenerate.sh PROGRAM [NAME]...: every committed report, or those named, from its sweep file. Numbers in the pages come
# from the results, never typed. A page keeps the figures that it shows, each with its data as CSV beside it.
set -eu
cd "$(dirname "$0")"
program=$(realpath "../$1")
shift
python=${FP4SCOPE_PYTHON:-/usr/bin/python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export FP4SCOPE_IDENTITY="$work/identity.npy"  # X of soar.toml: H = X^T X = I
"$python" -c "import numpy, sys; numpy.save(sys.argv[1], numpy.eye(256, dtype=numpy.float32))" "$FP4SCOPE_IDENTITY"

# The figures that a page shows, from the report or the page's own, and the tables that it names.
keep_figures() {
  for figure in $(grep -o '([a-z_]*\.\(svg\|csv\))' "$1/README.md" | tr -d '()'); do
    [ -f "$work/$1/figures/$figure" ] || { echo "$1/README.md shows $figure, which nothing made" >&2; exit 1; }
    cp "$work/$1/figures/$figure" "$work/$1/figures/${figure%.*}.csv" "$1/"
  done
}

sweep_once() {
  [ -f "$work/$1.h5" ] || "$program" sweep "$1.toml" -o "$work/$1.h5" >/dev/null
}

page_of_sweep() {
  case $1 in
    silero) [ -f "${FP4SCOPE_SHARED:-}/data/silero_vad_16k.safetensors" ] || { echo "silero skipped: FP4SCOPE_SHARED"; return; } ;;
  esac
  sweep_once "$1"
  "$program" report "$work/$1.h5" -o "$work/$1"
  mkdir -p "$1"
  rm -f "$1"/*.svg "$1"/*.csv
  cp "$work/$1/table.csv" "$1/"
  more=""
  [ "$1" != decomposition ] || { sweep_once octave; more="$work/octave.h5"; }
  "$python" page.py "$1" "$work/$1.h5" $more --figures "$work/$1" --program "$program" > "$1/README.md"
  keep_figures "$1"
}

searches() {
  mkdir -p searches
  "$(dirname "$program")/tests/joint_table" 64 512 > searches/joint.md
}

accumulation() {
  mkdir -p accumulation
  "$python" accumulation.py "$program" "$work/accumulation"
  cp "$work/accumulation/README.md" "$work/accumulation/table.csv" accumulation/
  keep_figures accumulation
}

claims() {
  for sweep in octave distributions hadamard stochastic scale_formats; do sweep_once $sweep; done
  (cd "$work" && "$python" "$OLDPWD/page.py" claims octave.h5 distributions.h5 hadamard.h5 stochastic.h5 scale_formats.h5) > claims.md
}

recipes() {
  mkdir -p recipes
  "$program" crosscheck --recipes -o "$work/recipes.h5" > recipes/crosscheck.txt
  "$python" page.py recipes "$work/recipes.h5" > recipes/README.md
  for element in e2m1 e4m3 e5m2 ue4m3 ue8m0; do
    "$program" crosscheck --recipes --format $element -o "$work/$element.h5" >/dev/null
  done
  "$python" page.py converters "$work/e2m1.h5" "$work/e4m3.h5" "$work/e5m2.h5" "$work/ue4m3.h5" "$work/ue8m0.h5" \
    > recipes/converters.md
}

[ $# -gt 0 ] || set -- published silero decomposition paradox octave distributions scale_formats soar hadamard stochastic \
  equal_bits corrections accumulation claims searches recipes
for name in "$@"; do
  case $name in
    searches | recipes | claims | accumulation) $name ;;
    *) page_of_sweep "$name" ;;
  esac
done
