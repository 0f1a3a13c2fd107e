"""`quantize` and `sweep` give the same bytes and digits on a GPU as on the CPU: every method and recipe, every dtype,
padding, tiles, rotations, NaN and Inf, values, shards; sweeps on one GPU and on all.

Usage: pipeline_on_device_test.py PROGRAM [methods | recipes | words | refusals | sweeps]... (default: all)
Exit 0: all the same; 1; 77: no device."""
import concurrent.futures
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))
import harness
from harness import Tensor, write_safetensors

PROGRAM = str(Path(sys.argv[1]).resolve())
failures = 0
compared = 0
pool = concurrent.futures.ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) // 2))
pending = []
numbers = itertools.count()

METHODS = {
    "nvfp4": ["naive", "static4", "prevent_zero", "4over6", "4over6_prevent_zero", "sse", "exhaustive", "scalesweep"],
    "mxfp4": ["naive", "ceil", "even", "rceil", "oas", "uos", "static4", "sse", "exhaustive"],
    "nvint4": ["naive", "sse"],
    "if4": ["naive", "sse"],
    "mxint4": ["naive", "sse"],
}
ELSEWHERE = [  # what a GPU refuses, and a word of why
    (["--format", "nvfp4", "--scale", "ms_eden"], "nvfp4 ms_eden runs on the CPU"),
    (["--format", "nvfp4", "--tensor-scale", "search"], "searched on the CPU"),
    (["--format", "nvfp4", "--scale", "gptq", "--activations", "x.safetensors:x"], "nvfp4 gptq runs on the CPU"),
]


def run(*words):
    return subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=300)


def bf16(values):
    return b"".join(struct.pack("<I", (struct.unpack("<I", struct.pack("<f", v))[0] + 0x8000) & 0xFFFF0000)[2:]
                    for v in values)


def packed(dtype, values):
    if dtype == "BF16":
        return bf16(values)
    return struct.pack(f"<{len(values)}{ {'F32': 'f', 'F64': 'd', 'F16': 'e'}[dtype]}", *values)


def values(draw, count):
    """Normal and heavy-tailed values, zeros, ties, tiny and far ones, by runs of 16."""
    out = []
    for i in range(count):
        z, kind = draw.gauss(0, 1), i // 16 % 8
        out.append([z, z ** 3, round(z * 8) / 16, z * 2.0 ** -12, z * 2.0 ** draw.randint(-12, 12) / 64,
                    z if i % 16 == 3 else 0.0, -0.0 if z < 0 else 0.0, z * 6][kind])
    return out


def tensor(draw, dtype, shape, special=False):
    count = 1
    for n in shape:
        count *= n
    x = values(draw, count)
    if special:
        x[5], x[count // 2], x[-1] = float("nan"), float("inf"), float("-inf")
    return Tensor(dtype, shape, packed(dtype, x))


def write_inputs(folder):
    draw = random.Random(5)
    write_safetensors(folder / "all.safetensors", {
        "a.bf16": tensor(draw, "BF16", [40, 96]), "b.f16": tensor(draw, "F16", [33, 70]),
        "c.f32": tensor(draw, "F32", [7, 6, 10]), "d.f64": tensor(draw, "F64", [5, 33]),
        "e.zeros": Tensor("BF16", [4, 32], bytes(256)), "f.bias": tensor(draw, "F32", [9]),
        "g.row": tensor(draw, "BF16", [1, 4100]), "h.long": tensor(draw, "F32", [300, 16])})
    write_safetensors(folder / "special.safetensors", {
        "bf16": tensor(draw, "BF16", [40, 96], True), "f16": tensor(draw, "F16", [33, 70], True),
        "f32": tensor(draw, "F32", [64, 64], True)})
    write_safetensors(folder / "x.safetensors", {"x": tensor(draw, "F32", [50, 96])})
    write_safetensors(folder / "w.safetensors", {"w": tensor(draw, "BF16", [130, 96]), "v": tensor(draw, "F32", [20, 64])})
    big = bytearray(draw.randbytes(2 * 6000 * 4112))
    big[1::2] = big[1::2].translate(bytes((k & 0x80) | 0x3C + k % 4 for k in range(256)))
    small = bytearray(draw.randbytes(2 * 100 * 64))
    small[1::2] = small[1::2].translate(bytes((k & 0x80) | 0x3C + k % 4 for k in range(256)))
    write_safetensors(folder / "model-1.safetensors", {"big": Tensor("BF16", [6000, 4112], big)})
    write_safetensors(folder / "model-2.safetensors", {"small": Tensor("BF16", [100, 64], small)})
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {}, "weight_map": {"big": "model-1.safetensors", "small": "model-2.safetensors"}}))
    (folder / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) +
                                   f"{{'descr': '<f4', 'fortran_order': False, 'shape': (24, 48), }}".ljust(117).encode() + b"\n" +
                                   packed("F32", values(draw, 24 * 48)))


def differ(what, cpu, gpu):
    global failures
    failures += 1
    if failures > 20:
        return
    at = next((i for i, (a, b) in enumerate(zip(cpu, gpu)) if a != b), min(len(cpu), len(gpu)))
    shown = [x[at:at + 8].hex() if isinstance(x, bytes) else repr(x[max(0, at - 60):at + 60]) for x in (cpu, gpu)]
    print(f"{what}: differ at {at} of {len(cpu)} and {len(gpu)}\n  cpu {shown[0]}\n  gpu {shown[1]}")


def compare_files(what, cpu, gpu):
    global compared
    a, b = Path(cpu).read_bytes(), Path(gpu).read_bytes()
    compared += len(a)
    if a != b:
        differ(what, a, b)


def notices(stderr):
    return [line for line in stderr.splitlines() if "in all threads reading" not in line]


def quantize(*words, device="cuda"):
    """Both ways: outcomes, files and words alike. Runs when `pool` gets to it."""
    pending.append(pool.submit(quantize_both, words, device, next(numbers)))


def quantize_both(words, device, number):
    what = " ".join(map(str, words))
    sides = []
    for side in ("cpu", device):
        out = f"out-{number}-{side[:4]}.safetensors"
        sides.append((run("quantize", *words, "-o", out, "--device", side, "--threads", 2), out))
    (cpu, cpu_file), (gpu, gpu_file) = sides
    if (cpu.returncode, cpu.stdout) != (gpu.returncode, gpu.stdout) or notices(cpu.stderr) != notices(gpu.stderr):
        differ(what, f"{cpu.returncode} {cpu.stdout} {notices(cpu.stderr)}", f"{gpu.returncode} {gpu.stdout} {notices(gpu.stderr)}")
    elif cpu.returncode == 0:
        compare_files(what, cpu_file, gpu_file)
    for _, out in sides:
        Path(out).unlink(missing_ok=True)


def check_methods():
    for form, methods in METHODS.items():
        for method in methods:
            selects = ["mse", "mae", "absmax"] if "4over6" in method or (form, method) == ("if4", "naive") else [""]
            for select in selects:
                words = ["--format", form, "--scale", method] + (["--select", select] if select else [])
                quantize("all.safetensors", *words)
                quantize("special.safetensors", *words, "--nonfinite", "propagate")
                if not select or select == "mse":
                    quantize("all.safetensors", *words, "--block", 8)
                    quantize("all.safetensors", *words, "--block-2d", "--block", 16)


def check_recipes():
    for line in run("recipes").stdout.splitlines()[2:]:
        if not line.strip():
            break
        name, form = line.split()[:2]
        for method in line[37:52].split():
            words = ["--format", form, "--scale", method, "--recipe", name]
            quantize("all.safetensors", *words)
            quantize("special.safetensors", *words)
            quantize("all.safetensors", *words, "--dequantize")


def check_words():
    nvfp4 = ["--format", "nvfp4", "--scale", "sse"]
    for words in (["--dequantize"], ["--fake-quant"], ["--keep"], ["--transpose"], ["--hadamard"], ["--certificate"],
                  ["--tensor-scale", "none"], ["--tensor-scale", "0.01"], ["--scale-max", "256"], ["--block", "32"],
                  ["--tensor", "a*", "--tensor", "b*"], ["--pad", "error"], ["--fake-quant", "--tensor", "[abceg]*"],
                  ["--fake-quant", "--tensor", "[abceg]*", "--block", "6"]):
        quantize("all.safetensors", *nvfp4, *words)
    for method in ("naive", "4over6"):
        quantize("all.safetensors", "--format", "nvfp4", "--scale", method, "--rounding", "stochastic", "--seed", 7)
    quantize("all.safetensors", "--format", "nvfp4", "--rounding", "stochastic_unbiased")
    quantize("all.safetensors", "--format", "mxfp4", "--rounding", "stochastic", "--fake-quant", "--exclude", "d*")
    quantize("special.safetensors", *nvfp4)  # refused alike
    quantize("special.safetensors", *nvfp4, "--nonfinite", "propagate", "--fake-quant")
    quantize("special.safetensors", "--format", "if4", "--nonfinite", "propagate", "--dequantize")
    quantize("model.safetensors.index.json", *nvfp4)
    quantize("model.safetensors.index.json", "--format", "mxfp4", "--dequantize")
    quantize("model.safetensors.index.json", "--format", "nvfp4", "--fake-quant", device="cuda:0")
    quantize("a.npy", *nvfp4)
    quantize("w.safetensors", *nvfp4, "--activations", "x.safetensors:x")
    for form in ("nvfp4", "mxfp4"):
        quantize("w.safetensors", "--format", form, "--scale", "hessian", "--tensor", "w", "--activations", "x.safetensors:x")


def check_refusals():
    global failures
    for words, why in ELSEWHERE:
        outcome = run("quantize", "w.safetensors", "-o", "refused.safetensors", "--device", "cuda", *words)
        if outcome.returncode != 2 or why not in outcome.stderr:
            failures += 1
            print(f"{words}: {outcome.returncode} {outcome.stderr!r}")
    outcome = run("quantize", "w.safetensors", "-o", "refused.safetensors", "--device", "cuda:99", "--format", "nvfp4")
    if outcome.returncode != 1 or "no GPU 99" not in outcome.stderr:
        failures += 1
        print(f"cuda:99: {outcome.returncode} {outcome.stderr!r}")


SWEEP = """
seed = 3
{head}
[[input]]
name = "file"
file = "all.safetensors"
tensors = ["a*", "b*", "c*", "g*"]

[[input]]
name = "bell"
distribution = "normal"
rows = 300
cols = 130

[[input]]
name = "tails"
distribution = "student_t"
rows = 64
cols = 64
dtype = "f16"
{activations}
[[quantize]]
formats = ["nvfp4", "mxfp4"]
blocks = [16, 32]
methods = ["naive", "4over6", "sse"{methods}]
select = ["mse", "absmax"]

[[quantize]]
formats = ["nvint4", "if4", "mxfp8_e4m3"]

[[quantize]]
inputs = ["bell"]
formats = ["nvfp4"]
methods = ["naive", "sse"]
rounding = ["rne", "stochastic"]
hadamard = [0, 16]

[[quantize]]
inputs = ["tails"]
formats = ["nvfp4", "if4"]
block_2d = [true]
"""


def sweep(what, config, *words):
    global failures
    Path("config.toml").write_text(config)
    print(f"sweep {what}", flush=True)
    for side in ("cpu", "cuda:0", "cuda"):
        outcome = run("sweep", "config.toml", "-o", f"{side.replace(':', '-')}.h5", "--device", side, *words)
        if outcome.returncode != 0:
            failures += 1
            print(f"sweep {what} {side}: {outcome.returncode} {outcome.stderr}")
            return
    compare_files(f"sweep {what} cuda:0", "cpu.h5", "cuda-0.h5")
    compare_files(f"sweep {what} cuda", "cpu.h5", "cuda.h5")
    if json.loads(Path("cuda-0.log.json").read_text())["device"] in ("", "cpu"):
        failures += 1
        print(f"sweep {what}: the log names no GPU")


def check_sweeps():
    activations = "[activations]\ntokens = 40\n"
    sweep("plain", SWEEP.format(head="", activations="", methods=""))
    sweep("in pieces", SWEEP.format(head="", activations="", methods=""), "--memory", "200K")
    sweep("with inputs", SWEEP.format(head="", activations=activations, methods=', "hessian", "joint"'))
    sweep("per block", SWEEP.format(head="per_block = true", activations=activations, methods=""))
    sweep("decomposed", SWEEP.format(head="decompose = true", activations="", methods=""))


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_inputs(Path(folder))
        probe = run("quantize", "w.safetensors", "-o", "o.safetensors", "--format", "nvfp4", "--device", "cuda")
        if probe.returncode == 1 and "--device cuda" in probe.stderr:
            print(f"skipped: {probe.stderr.strip()}")
            return 77
        checks = [check_methods, check_recipes, check_words, check_refusals, check_sweeps]
        for check in checks:
            if sys.argv[2:] and check.__name__.removeprefix("check_") not in sys.argv[2:]:
                continue
            before = compared
            check()
            for job in pending:
                job.result()
            pending.clear()
            print(f"{check.__name__}: {compared - before} bytes compared, {failures} failures so far", flush=True)
        os.chdir("/")
    print("all the same" if failures == 0 else "DIFFERENT")
    return 0 if failures == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
