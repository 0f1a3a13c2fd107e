"""make_subset.py FOLDER [--check]: the committed part of other implementations' outputs, from the folder of all.

Writes golden/ next to this file; --check writes nothing and exits 1 where a file there is not what it would write. The
same FOLDER gives the same bytes. golden/README.md says what each file is.
"""
import array
import hashlib
import json
import os
import struct
import sys

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
LIMIT = 3_000_000  # bytes, all files together

# Inputs whose bytes are kept, and one in how many of each tensor's rows (the first ones). `ties` has exact midpoints,
# `wide_range` tells every configuration of fouroversix from every other, `outlier_channels` has scales of equal error.
KEPT = {
    "fouroversix": (("ties/bf16", "wide_range/bf16"), 4),
    "transformer_engine_ref": (("ties/bf16", "wide_range/bf16"), 4),
    "microxcaling": (("ties/f32", "wide_range/f32"), 16),
    "qwantize": (("ties/bf16", "wide_range/bf16", "outlier_channels/bf16"), 4),
}

# ml_dtypes' types: mantissa bits, exponent of the smallest normal value, largest finite value.
TYPES = {
    "float4_e2m1fn": (1, 0, 6.0), "float6_e2m3fn": (3, 0, 7.5), "float6_e3m2fn": (2, -2, 28.0),
    "float8_e3m4": (4, -2, 15.5), "float8_e4m3": (3, -6, 240.0), "float8_e4m3fn": (3, -6, 448.0),
    "float8_e5m2": (2, -14, 57344.0), "float8_e8m0fnu": (0, -127, 2.0**127),
    "bfloat16": (7, -126, (2 - 2.0**-7) * 2.0**127),
}
EVERY = 16            # of the random patterns; encode_golden_test.cpp knows how many patterns this makes
RANDOM = 1 << 18      # so many come first; after them those chosen by hand
ITEM = {"F32": 4, "I32": 4, "I16": 2, "I8": 1, "U8": 1}


def load(path):
    """(metadata, {name: (dtype, shape, bytes)}) in the file's order."""
    with open(path, "rb") as f:
        data = f.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})
    part = lambda t: data[8 + length + t["data_offsets"][0]:8 + length + t["data_offsets"][1]]
    return metadata, {name: (t["dtype"], t["shape"], part(t)) for name, t in header.items()}


def safetensors(metadata, tensors):
    """The bytes of a file of (name, dtype, shape, bytes)."""
    header, at = {"__metadata__": metadata}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, _, data in tensors)


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def digests_of(tensors):
    """{inputs: [...], tensors: {configuration: [dtype, shape, one digest an input]}, others: {name: [..., digest]}}"""
    inputs = sorted({name.split("|")[0] for name in tensors if "|" in name})
    configurations = sorted({name.split("|", 1)[1] for name in tensors if "|" in name})
    grouped = {}
    for key in configurations:
        parts = [tensors[f"{i}|{key}"] for i in inputs]
        dtype, shape, _ = parts[0]
        if any((d, s) != (dtype, shape) for d, s, _ in parts):
            raise SystemExit(f"{key}: shapes or dtypes depend on the input")
        grouped[key] = [dtype, shape, " ".join(digest(data) for _, _, data in parts)]
    others = {name: [d, s, digest(data)] for name, (d, s, data) in tensors.items() if "|" not in name}
    return {"inputs": inputs, "tensors": grouped, "others": others}


def digests_text(files):
    """JSON with a line a configuration, so that a change of one shows as one line."""
    parts = ['"digest": "sha256 of the tensor\'s bytes, first 16 hex digits"']
    for name, group in files.items():
        rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in group["tensors"].items())
        inputs, others = json.dumps(group["inputs"]), json.dumps(group["others"])
        parts.append(f'"{name}": {{\n"inputs": {inputs},\n"others": {others},\n"tensors": {{\n{rows}}}}}')
    return ("{" + ",\n".join(parts) + "}\n").encode()


def first_rows(dtype, shape, data, one_in):
    """The first of `one_in` equal parts of the rows; a tensor of one item whole."""
    if shape == [1]:
        return dtype, shape, data
    if shape[0] % one_in:
        raise SystemExit(f"{shape[0]} rows are not divisible by {one_in}")
    return dtype, [shape[0] // one_in] + shape[1:], data[:len(data) // one_in]


def rows_of(tensors, inputs, one_in):
    """Every configuration that a test compares (the Hessian search is refused, so none of it)."""
    kept = [n for n in tensors if n.split("|")[0] in inputs and "|nvfp4_hessian|" not in n]
    return safetensors({"part": f"first 1/{one_in} of the rows"}, [(n, *first_rows(*tensors[n], one_in)) for n in kept])


def is_tie(pattern, mantissa, lowest, largest):
    """Is this finite binary32 pattern exactly midway between two values of the type, or the largest and the next?"""
    exponent, fraction = pattern >> 23 & 0xFF, pattern & 0x7FFFFF
    significand, power = (fraction | 0x800000, exponent - 150) if exponent else (fraction, -149)
    top = significand.bit_length() - 1 + power
    below = max(top, lowest) - mantissa - power  # bits under the type's last place
    if not significand or below < 1 or significand & ((1 << below) - 1) != 1 << (below - 1):
        return False
    return significand * 2.0**power <= largest + 2.0**(power + below - 1)


def is_special(pattern):
    """NaN, Inf, zero, subnormal, or a tie of some type (no negative ones in E8M0)."""
    if pattern >> 23 & 0xFF in (0, 0xFF):
        return True
    return any(is_tie(pattern, *t) for name, t in TYPES.items() if not (pattern >> 31 and name == "float8_e8m0fnu"))


def some_patterns(path):
    """Every EVERY-th random pattern, all chosen ones, all special ones: with every type's codes."""
    metadata, tensors = load(path)
    patterns = array.array("I", tensors["bits"][2])
    if sys.byteorder == "big":
        patterns.byteswap()
    kept = [i for i, x in enumerate(patterns) if i % EVERY == 0 or i >= RANDOM or is_special(x)]
    parts = []
    for name, (dtype, _, data) in tensors.items():
        size = ITEM[dtype]
        parts.append((name, dtype, [len(kept)], b"".join(data[i * size:(i + 1) * size] for i in kept)))
    return safetensors({**metadata, "part": f"{len(kept)} of {len(patterns)} patterns"}, parts)


def first_matrices(path):
    """The first matrices of each instruction, whole: names are INSTRUCTION|NUMBER|TENSOR."""
    metadata, tensors = load(path)
    count = {name.split("|")[0]: 0 for name in tensors}
    for name in tensors:
        instruction, number, _ = name.split("|")
        count[instruction] = max(count[instruction], int(number) + 1)
    kept = [(n, *t) for n, t in tensors.items() if int(n.split("|")[1]) < min(4, count[n.split("|")[0]] // 4)]
    return safetensors({**metadata, "part": "the first matrices of each instruction"}, kept)


def make(folder):
    """{file name: bytes}"""
    with open(os.path.join(folder, "inputs.safetensors"), "rb") as f:
        made, digests = {"inputs.safetensors": f.read()}, {}
    for name, (inputs, one_in) in KEPT.items():
        _, tensors = load(os.path.join(folder, name + ".safetensors"))
        digests[name] = digests_of(tensors)
        made[name + ".safetensors"] = rows_of(tensors, inputs, one_in)
    made["ml_dtypes.safetensors"] = some_patterns(os.path.join(folder, "ml_dtypes.safetensors"))
    made["mma_sim.safetensors"] = first_matrices(os.path.join(folder, "mma_sim.safetensors"))
    made["digests.json"] = digests_text(digests)
    return made


def same(path, data):
    if not os.path.exists(path):
        return False
    with open(path, "rb") as f:
        return f.read() == data


def main():
    folders = [a for a in sys.argv[1:] if a != "--check"]
    if len(folders) != 1:
        raise SystemExit(__doc__.splitlines()[0])
    made, total, stale = make(folders[0]), 0, []
    for name, data in made.items():
        path, total = os.path.join(HERE, name), total + len(data)
        print(f"{len(data):>9} {name}")
        if "--check" in sys.argv:
            stale += [] if same(path, data) else [name]
        else:
            with open(path, "wb") as f:
                f.write(data)
    print(f"{total:>9} bytes")
    if total > LIMIT:
        stale.append(f"more than {LIMIT} bytes")
    if stale:
        raise SystemExit("not as made here: " + ", ".join(stale))


if __name__ == "__main__":
    main()
