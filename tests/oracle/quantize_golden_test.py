"""quantize_golden_test.py PROGRAM: `fp4scope quantize` against other implementations' outputs, bit for bit.

On all of them where FP4SCOPE_SHARED points, else on the first rows of those in tests/data/golden. Where another
implementation does the same arithmetic as recipe `exact`, nothing differs:

microxcaling   MXFP4, floor scales, elements to nearest even: every dequantized float of every input, -0 included
qwantize       no tensor scale, block scales: NVFP4 and MXFP4, naive and sse, on the inputs whose scales don't underflow
               (its code for a block whose scale is zero is its own). Where its search settles on another scale, both have
               the same squared error in real numbers and ours is the lower code: the tie rule, the only difference.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile
from fractions import Fraction

PROGRAM = os.path.abspath(sys.argv[1])
QWANTIZE_INPUTS = ("gauss", "student3", "outlier_channels", "silero_lstm", "ties")


def golden_folder():
    everything = os.path.join(os.environ.get("FP4SCOPE_SHARED", ""), "golden")
    if os.path.isfile(os.path.join(everything, "inputs.safetensors")):
        return everything
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "golden")


GOLDEN = golden_folder()
SUBSET = os.path.isfile(os.path.join(GOLDEN, "digests.json"))  # some tensors, of which the first rows


def load(path):
    """{name: bytes}"""
    with open(path, "rb") as f:
        data = f.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    return {name: data[8 + length + t["data_offsets"][0]:8 + length + t["data_offsets"][1]]
            for name, t in header.items() if name != "__metadata__"}


def quantize(*options):
    """The tensors that `fp4scope quantize` makes of the golden inputs."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.safetensors")
        source = os.path.join(GOLDEN, "inputs.safetensors")
        subprocess.run([PROGRAM, "quantize", source, "-o", out, *options], check=True, capture_output=True)
        return load(out)


def first_rows(ours, length):
    """As many as the subset has of theirs."""
    return ours[:length] if SUBSET else ours


def e4m3(code):
    return code * 2.0**-9 if code < 8 else (8 + code % 8) * 2.0**(code // 8 - 10)


def first_difference(label, ours, theirs):
    """One line with the count and the first place, or None."""
    different = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
    if len(ours) == len(theirs) and not different:
        return None
    at = different[0] if different else -1
    return f"{label}: {len(different)} of {len(theirs)} differ, first at {at}: ours {ours[at]!r}, theirs {theirs[at]!r}"


def squared_error(block, scale):
    """Of bf16 patterns at a scale, nearest elements, in real numbers."""
    levels = [Fraction(k, 2) * Fraction(scale) for k in (0, 1, 2, 3, 4, 6, 8, 12)]
    values = [Fraction(struct.unpack("<f", struct.pack("<I", (bits & 0x7FFF) << 16))[0]) for bits in block]
    return sum(min((value - level)**2 for level in levels) for value in values)


def resolve_ties(ours, theirs, data, block):
    """`theirs` with ours in place of each scale that ties with it and is lower; and how many those were."""
    values, resolved, ties = struct.unpack(f"<{len(data) // 2}H", data), list(theirs), 0
    for i, (a, b) in enumerate(zip(ours, theirs)):
        part = values[i * block:(i + 1) * block]
        if a < b and squared_error(part, a) == squared_error(part, b):
            resolved[i], ties = a, ties + 1
    return tuple(resolved), ties


def check_microxcaling():
    golden, compared, complaints = load(os.path.join(GOLDEN, "microxcaling.safetensors")), 0, []
    for block in (16, 32):
        ours = quantize("--format", "mxfp4", "--block", str(block), "--dequantize")
        for name, theirs in golden.items():
            source, element, size, rounding = name.split("|")
            if (element, size, rounding) != ("fp4_e2m1", str(block), "even"):
                continue
            values = ours[source + ".dequantized"]
            bits = [struct.unpack(f"<{len(b) // 4}I", b) for b in (first_rows(values, len(theirs)), theirs)]
            complaints.append(first_difference(name, *bits))
            compared += len(bits[0])
    return "microxcaling values", compared, complaints, ""


def check_qwantize():
    golden, compared, complaints, ties = load(os.path.join(GOLDEN, "qwantize.safetensors")), 0, [], 0
    inputs = load(os.path.join(GOLDEN, "inputs.safetensors"))
    for fmt, value in (("nvfp4", e4m3), ("mxfp4", lambda code: 2.0**(code - 127))):
        for block in (16, 32):
            for method in ("naive", "sse"):
                ours = quantize("--format", fmt, "--block", str(block), "--scale", method, "--tensor-scale", "none")
                for source in QWANTIZE_INPUTS:
                    name = f"{source}/bf16|{fmt}_{method}|{block}|scales"
                    if SUBSET and name not in golden:
                        continue
                    theirs = struct.unpack(f"<{len(golden[name]) // 4}f", golden[name])
                    scales = tuple(value(code) for code in first_rows(ours[source + "/bf16.scales"], len(theirs)))
                    if method == "sse":
                        theirs, found = resolve_ties(scales, theirs, inputs[source + "/bf16"], block)
                        ties += found
                    complaints.append(first_difference(name, scales, theirs))
                    compared += len(scales)
    return "qwantize scales", compared, complaints, f", {ties} exact ties decided to the lower code"


def main():
    if not os.path.isfile(os.path.join(GOLDEN, "inputs.safetensors")):
        print("skipped: FP4SCOPE_SHARED names no folder with golden/")
        return 77
    failed = False
    for what, compared, complaints, remark in (check_microxcaling(), check_qwantize()):
        complaints = [c for c in complaints if c]
        print(f"{what}: {compared} compared, {len(complaints)} tensors differ{remark}", *complaints, sep="\n  ")
        failed = failed or bool(complaints) or compared == 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
