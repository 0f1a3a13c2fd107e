"""streaming.py PROGRAM [GB]...: sweeps synthetic bf16 models of some sizes in little memory, and prints streaming.md.

A model is a safetensors file of random normal weights in shapes of a 7-billion-weight model; runs are nvfp4 naive and sse,
mxfp4 rceil and sse. Time and peak memory are the child's, as the kernel counts them.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHAPES = ((4096, 14336), (4096, 4096), (1024, 4096), (14336, 4096))
CONFIG = """[[input]]
file = "{file}"
[[quantize]]
formats = ["nvfp4"]
methods = ["naive", "sse"]
[[quantize]]
formats = ["mxfp4"]
methods = ["rceil", "sse"]
"""


def write_model(path, gigabytes):
    """A safetensors file of about that size; returns its weights."""
    shapes, header, end = [(32000, 4096)] if gigabytes >= 1 else [], {}, 0
    while sum(r * c for r, c in shapes) * 2 < gigabytes * 1e9:
        shapes.append(SHAPES[len(shapes) % len(SHAPES)])
    for i, (rows, cols) in enumerate(shapes):
        header[f"model.layers.{i}.weight"] = {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [end, end + 2 * rows * cols]}
        end += 2 * rows * cols
    text, random = json.dumps(header).encode(), np.random.default_rng(1)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for first in range(0, end // 2, 1 << 24):
            bits = (0.02 * random.standard_normal(min(1 << 24, end // 2 - first), dtype=np.float32)).view(np.uint32)
            file.write(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes())
    return end // 2


def measure(program, folder, model, memory):
    """(wall seconds, seconds of all cores, peak bytes) of one sweep."""
    (folder / "c.toml").write_text(CONFIG.format(file=model))
    start = time.monotonic()
    child = subprocess.Popen([program, "sweep", folder / "c.toml", "-o", folder / "out.h5", "--memory", memory],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"the sweep failed: {status}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main():
    program, sizes = sys.argv[1], [float(s) for s in sys.argv[2:]] or [0.25, 0.5, 1]
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in sizes:
            weights = write_model(folder / "model.safetensors", size)
            for memory in ("256M", "1G"):
                wall, cpu, peak = measure(program, folder, folder / "model.safetensors", memory)
                lines.append(f"| {2 * weights / 1e9:.2f} | {memory} | {wall:.1f} | {cpu:.1f} | {4 * weights / wall / 1e6:.0f} | "
                             f"{1e9 * cpu / (4 * weights):.1f} | {peak / 2**20:.0f} |")
    cores = len(os.sched_getaffinity(0))
    table = "\n".join(lines)
    print(f"""# A model of any size in little memory

`python3 reports/streaming.py PROGRAM` on {cores} cores: four runs (NVFP4 naive and sse, MXFP4 rceil and sse) over a synthetic bf16 model, with
`--memory` as given. Tensors that do not fit pass in pieces of rows, the same bytes whatever the pieces; a gigabyte has one tensor
of 32000 x 4096. Weights are counted once a run.

| file, GB | --memory | seconds | core seconds | million weights a second | core ns a weight | peak MiB |
|---|---|---|---|---|---|---|
{table}""")


if __name__ == "__main__":
    main()
