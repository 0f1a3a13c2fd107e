"""recipes_golden_test.py PROGRAM [FOLDER]: recipes against the outputs of the libraries that they name, bit for bit.

FOLDER holds the inputs and golden files; default FP4SCOPE_SHARED/golden, else the committed tests/data/golden. Every
configuration is compared on every input: codes, scales, amax (or dequantized values), and nothing may differ. Committed
are a digest of each tensor and the first rows of some, which say where a difference is.

fouroversix             46 configurations: nvfp4, mxfp4, nvint4, if4; static_6, static_4, mse, mae, abs_max; 2-D, rotated,
                        transposed; f32 and bf16
transformer_engine_ref  4/6 off and on, 448 and 256, MAE and MSE, 1x16 and 16x16 tiles (its rht is columnwise only, so
                        those entries are compared with the unrotated ones)
microxcaling            MXFP4, MXFP6, MXFP8, MXINT8, MXINT4 values, three roundings
qwantize                naive and sse; its Hessian search is refused with a word, which is checked too
"""
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile

PROGRAM = os.path.abspath(sys.argv[1])
HERE = os.path.dirname(os.path.abspath(__file__))
EXPECTED = {"fouroversix": (46, 2064), "transformer_engine_ref": (15, 720), "microxcaling": (12, 96),
            "qwantize": (8, 256)}  # configurations, tensors


def golden_folder():
    if len(sys.argv) > 2:
        return sys.argv[2]
    shared = os.environ.get("FP4SCOPE_SHARED")
    if shared and os.path.isdir(os.path.join(shared, "golden")):
        return os.path.join(shared, "golden")
    return os.path.join(HERE, "..", "data", "golden")


GOLDEN = golden_folder()


class Tensors:
    """A safetensors file: names, shapes, bytes."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        (length,) = struct.unpack("<Q", self.data[:8])
        self.header = json.loads(self.data[8:8 + length])
        self.header.pop("__metadata__", None)
        self.start = 8 + length

    def __contains__(self, name):
        return name in self.header

    def __getitem__(self, name):
        first, last = self.header[name]["data_offsets"]
        return self.data[self.start + first:self.start + last]

    def shape(self, name):
        return self.header[name]["shape"]

    def names(self):
        return sorted(self.header)


class Golden:
    """One library's outputs: all the bytes, or a digest of every tensor and the bytes of some tensors' first rows."""

    def __init__(self, title):
        self.bytes = Tensors(os.path.join(GOLDEN, title + ".safetensors"))
        self.shapes, self.digests = {n: self.bytes.shape(n) for n in self.bytes.names()}, {}
        if os.path.exists(os.path.join(GOLDEN, "digests.json")):
            self.shapes.clear()
            self.read_digests(title)

    def read_digests(self, title):
        with open(os.path.join(GOLDEN, "digests.json")) as f:
            group = json.load(f)[title]
        for key, (_, shape, digests) in group["tensors"].items():
            for name, digest in zip(group["inputs"], digests.split(), strict=True):
                self.shapes[f"{name}|{key}"], self.digests[f"{name}|{key}"] = shape, digest

    def names(self):
        return sorted(self.shapes)

    def shape(self, name):
        return self.shapes[name]


def quantize(*options):
    """The tensors that `fp4scope quantize` makes of the golden inputs."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.safetensors")
        source = os.path.join(GOLDEN, "inputs.safetensors")
        done = subprocess.run([PROGRAM, "quantize", source, "-o", out, *options], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"fp4scope quantize {' '.join(options)}: {done.stderr}")
        return Tensors(out)


def digest_complaint(ours, digest):
    found = hashlib.sha256(ours).hexdigest()[:16]
    return "" if found == digest else f"{len(ours)} bytes with digest {found}, theirs {digest}"


def bytes_complaint(ours, theirs, width, cols, show):
    """What differs and where first; `width` bytes an item, `cols` items a row."""
    if ours == theirs:
        return ""
    if len(ours) != len(theirs):
        return f"{len(ours)} bytes, theirs has {len(theirs)}"
    different = [i for i in range(0, len(theirs), width) if ours[i:i + width] != theirs[i:i + width]]
    at = different[0] // width
    o, t = (show(v[different[0]:different[0] + width]) for v in (ours, theirs))
    return (f"{len(different)} of {len(theirs) // width} differ, first at row {at // cols}, column {at % cols}: "
            f"ours {o}, theirs {t}")


def hex_text(b):
    return "0x" + b[::-1].hex()


class Count:
    """Configurations compared, and what differs."""

    def __init__(self, title, golden):
        self.title, self.golden, self.configurations, self.lines = title, golden, 0, []
        self.by_digest, self.by_bytes, self.items = 0, 0, 0

    def compare(self, label, ours, width, cols, show=hex_text):
        """Our tensor with theirs of that name: by digest where there is one, by bytes where there are some."""
        complaints, digest = [], self.golden.digests.get(label)
        if digest:
            self.by_digest += 1
            complaints.append(digest_complaint(ours, digest))
        if label in self.golden.bytes:
            self.by_bytes += 1
            theirs = self.golden.bytes[label]
            self.items += len(theirs) // width
            first = ours[:len(theirs)] if digest else ours
            complaints.append(bytes_complaint(first, theirs, width, cols, show))
        if any(complaints):
            self.lines.append(f"{label}: " + "; ".join(c for c in complaints if c))

    def report(self):
        tensors = self.by_digest or self.by_bytes
        print(f"{self.title}: {self.configurations} configurations, {tensors} tensors: {self.by_digest} by digest, "
              f"{self.by_bytes} by bytes ({self.items} items); {len(self.lines)} tensors differ")
        if (self.configurations, tensors) != EXPECTED[self.title]:
            self.lines.append("not {} configurations, {} tensors".format(*EXPECTED[self.title]))
        for line in self.lines[:20]:
            print("  " + line)
        return not self.lines


def float_text(b):
    return f"{struct.unpack('<f', b)[0]!r} (0x{struct.unpack('<I', b)[0]:08x})"


def scale_method(rule):
    return {"static_6": ["--scale", "static6"], "static_4": ["--scale", "static4"],
            "mse": ["--scale", "4over6", "--select", "mse"], "mae": ["--scale", "4over6", "--select", "mae"],
            "abs_max": ["--scale", "4over6", "--select", "absmax"]}[rule]


def fouroversix():
    golden = Golden("fouroversix")
    count = Count("fouroversix", golden)
    configurations = sorted({tuple(n.split("|")[1:6]) for n in golden.names()})
    for dtype, rule, two_d, rht, t in configurations:
        options = ["--recipe", "fouroversix", "--format", dtype]
        if dtype == "if4":
            options += ["--scale", "naive", "--select", {"abs_max": "absmax"}.get(rule, rule)]
        else:
            options += scale_method(rule)
        options += ["--block-2d"] * (two_d == "2d=1") + ["--hadamard"] * (rht == "rht=1") + ["--transpose"] * (t == "t=1")
        ours = quantize(*options)
        count.configurations += 1
        key = "|".join((dtype, rule, two_d, rht, t))
        for name in sorted({n.split("|")[0] for n in golden.names() if f"|{key}|" in n}):
            label = f"{name}|{key}"
            cols = golden.shape(label + "|values")[1]
            count.compare(label + "|values", ours[name + ".codes"], 1, cols)
            count.compare(label + "|scales", ours[name + ".scales"], 1, ours.shape(name + ".scales")[1])
            if dtype != "mxfp4":
                count.compare(label + "|amax", ours[name + ".amax"], 4, 1, float_text)
    return count.report()


def transformer_engine():
    golden = Golden("transformer_engine_ref")
    count = Count("transformer_engine_ref", golden)
    for tile, four, e4m3_max, mode, rht in sorted({tuple(n.split("|")[1:6]) for n in golden.names()}):
        options = ["--recipe", "te_ref", "--format", "nvfp4", "--scale-max", e4m3_max.split("=")[1]]
        if four == "4over6=1":
            options += ["--scale", "4over6", "--select", mode.lower()]
        options += ["--block-2d"] * (tile == "tile=16x16")
        ours = quantize(*options)
        count.configurations += 1
        key = "|".join((tile, four, e4m3_max, mode, rht))
        for name in sorted({n.split("|")[0] for n in golden.names() if f"|{key}|" in n}):
            label = f"{name}|{key}"
            count.compare(label + "|data", ours[name + ".codes"], 1, golden.shape(label + "|data")[1])
            count.compare(label + "|scale", ours[name + ".scales"], 1, golden.shape(label + "|scale")[1])
            count.compare(label + "|amax", ours[name + ".amax"], 4, 1, float_text)
    return count.report()


def microxcaling():
    golden = Golden("microxcaling")
    count = Count("microxcaling", golden)
    formats = {"fp4_e2m1": "mxfp4", "fp6_e2m3": "mxfp6_e2m3", "fp6_e3m2": "mxfp6_e3m2", "fp8_e4m3": "mxfp8_e4m3",
               "fp8_e5m2": "mxfp8_e5m2", "int8": "mxint8", "int4": "mxint4"}
    rounding = {"nearest": "rna", "floor": "rtz", "even": "rne"}
    for element, block, mode in sorted({tuple(n.split("|")[1:4]) for n in golden.names()}):
        ours = quantize("--recipe", "microxcaling", "--format", formats[element], "--block", block, "--rounding",
                        rounding[mode], "--dequantize")
        count.configurations += 1
        for label in [n for n in golden.names() if n.endswith(f"|{element}|{block}|{mode}")]:
            name = label.split("|")[0]
            count.compare(label, ours[name + ".dequantized"], 4, golden.shape(label)[1], float_text)
    return count.report()


def e4m3(code):
    return code * 2.0**-9 if code < 8 else (8 + code % 8) * 2.0**(code // 8 - 10)


def qwantize():
    golden = Golden("qwantize")
    count = Count("qwantize", golden)
    doubled = [0, 1, 2, 3, 4, 6, 8, 12]
    values = bytes((v if code < 8 else -v) & 0xFF for code in range(16) for v in [doubled[code % 8]])
    powers = [2.0**(code - 127) for code in range(255)] + [float("nan")]
    for rule, block in sorted({tuple(n.split("|")[1:3]) for n in golden.names() if "|" in n}):
        format_name, method = rule.split("_")
        if method == "hessian":
            continue
        ours = quantize("--recipe", "qwantize", "--format", format_name, "--block", block, "--scale", method)
        count.configurations += 1
        decode = [e4m3(c) if c != 127 else float("nan") for c in range(128)] if format_name == "nvfp4" else powers
        for label in [n[:-len("|scales")] for n in golden.names() if n.endswith(f"|{rule}|{block}|scales")]:
            name = label.split("|")[0]
            scales = b"".join(struct.pack("<f", decode[c]) for c in ours[name + ".scales"])
            count.compare(label + "|scales", scales, 4, golden.shape(label + "|scales")[1], float_text)
            quants = bytes(v for byte in ours[name + ".codes"] for v in (values[byte & 15], values[byte >> 4]))
            count.compare(label + "|quants2", quants, 1, 256)
    done = subprocess.run([PROGRAM, "quantize", os.path.join(GOLDEN, "inputs.safetensors"), "-o", os.devnull, "--format",
                           "nvfp4", "--recipe", "qwantize", "--scale", "hessian"], capture_output=True, text=True)
    if done.returncode != 2 or "order nobody defines" not in done.stderr:
        count.lines.append(f"hessian is not refused with a word: {done.returncode} {done.stderr}")
    return count.report()


def main():
    if not os.path.exists(os.path.join(GOLDEN, "inputs.safetensors")):
        print(f"skipped: no golden inputs in {GOLDEN}")
        return 77
    results = [fouroversix(), transformer_engine(), microxcaling(), qwantize()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
