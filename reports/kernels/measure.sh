#!/bin/bash
# measure.sh BUILD OUT [STEP]...: what the pages here say, on this machine's GPUs. BUILD holds fp4scope and tests/, as
# `cmake --preset gpu` leaves them; OUT receives a log a step. Steps, all by default: tests tensor_cores crosscheck bench
# sanitizer scaling end_to_end. LIMIT: seconds for one program (default 300). Data goes to /dev/shm and is removed.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
build=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
shift 2
[ $# -gt 0 ] || set -- tests tensor_cores crosscheck bench sanitizer scaling end_to_end
python=${FP4SCOPE_PYTHON:-python3}
data=$(mktemp -d /dev/shm/fp4scope.XXXXXX)
trap 'rm -rf "$data"' EXIT
program=$build/fp4scope

# Runs a command under the limit; its words, seconds and exit code into a log.
logged() {
  local log=$out/$1.log code=0
  shift
  echo "\$ $(basename "$1") ${*:2}" >>"$log"
  local start=$EPOCHREALTIME
  timeout -s INT -k 5 "${LIMIT:-300}" "$@" >>"$log" 2>&1 || code=$?
  echo "exit $code after $("$python" -c "print(f'{$EPOCHREALTIME - $start:.2f}')") s" >>"$log"
  echo "$(basename "$log" .log): $(basename "$1") ${*:2}: exit $code"
}

# weights FILE TENSORS ROWS COLS: bf16 of a normal distribution, each tensor the same bytes.
weights() {
  "$python" - "$@" <<'PYTHON'
import json, struct, sys
import numpy
path, count, rows, cols = sys.argv[1], *map(int, sys.argv[2:])
x = numpy.random.default_rng(1).standard_normal((rows, cols), dtype=numpy.float32) * numpy.float32(0.02)
data = (x.view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes()
header = {f"layers.{i}.weight": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [i * len(data), (i + 1) * len(data)]}
          for i in range(count)}
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(path, "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text)
    for _ in range(count):
        f.write(data)
PYTHON
}

tests() {
  for test in "$build"/tests/*_on_device_test; do
    [ "$(basename "$test")" = tensor_cores_on_device_test ] || logged tests "$test"
  done
  logged tests "$python" "$here/tests/cuda/pipeline_on_device_test.py" "$program"
}

# Every matrix instruction against its row; the records are tests/data's once they are copied there.
tensor_cores() {
  logged tensor_cores "$build/tests/tensor_cores_on_device_test" "$out/tensor_cores.safetensors" --seconds "${SECONDS_EACH:-20}"
}

crosscheck() { logged crosscheck "$program" crosscheck --device cuda; }

bench() { logged bench "$build/tests/cuda_bench" --check; }

# Every family once under memcheck, on less data.
sanitizer() {
  for family in values extremes elements searches recipes hessian rotations; do
    logged sanitizer compute-sanitizer --tool memcheck --error-exitcode 3 "$program" crosscheck --device cuda --quick \
      --family "$family"
  done
}

# One sweep on 1, 2, .. GPUs: seconds, and the same file.
scaling() {
  weights "$data/w.safetensors" 24 8192 8192
  cat >"$data/sweep.toml" <<TOML
[[input]]
file = "w.safetensors"
[[quantize]]
formats = ["nvfp4"]
methods = ["naive", "4over6", "sse"]
[[quantize]]
formats = ["mxfp4"]
methods = ["naive", "sse"]
TOML
  local gpus list=
  gpus=$(nvidia-smi -L | wc -l)
  for ((gpu = 0; gpu < gpus; ++gpu)); do
    list=$list${list:+,}$gpu
    (((gpu + 1) & gpu)) && [ $((gpu + 1)) -lt "$gpus" ] && continue  # 1, 2, 4, 8, and all
    for _ in 1 2 3; do
      rm -f "$data/$gpu.h5"
      logged scaling "$program" sweep "$data/sweep.toml" -o "$data/$gpu.h5" --device "cuda:$list"
    done
    cmp "$data/0.h5" "$data/$gpu.h5" && echo "cuda:$list: the same file" >>"$out/scaling.log"
  done
}

# A file of 1 GiB to a file, on the CPU and on a GPU.
end_to_end() {
  for shape in "16 4096 8192" "1 65536 8192"; do
    # shellcheck disable=SC2086
    weights "$data/w.safetensors" $shape
    for device in cpu cpu cuda:0 cuda:0 cuda:0; do
      logged end_to_end "$program" quantize "$data/w.safetensors" -o "$data/$device.safetensors" --format nvfp4 \
        --scale sse --device "$device"
    done
    cmp "$data/cpu.safetensors" "$data/cuda:0.safetensors" && echo "$shape: the same file" >>"$out/end_to_end.log"
  done
}

for step in "$@"; do "$step"; done
