"""accumulation.py PROGRAM DIR: how much of a quantized product's error is its summation, and prints DIR/README.md.

Random operands [128, K] of three kinds, K from 64 to 16384, through `PROGRAM matmul`; DIR gets table.csv and the figures.
"""
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pages.common import markdown
from pages.figures import Series, panels, write_plots

ROWS = 128
DEPTHS = (64, 256, 1024, 4096, 16384)
KINDS = {"normal": "both N(0, 1)",
         "outliers": "inputs N(0, 1) with one channel of a hundred 30 times as large, weights Student-t(5)",
         "positive": "both |N(0, 1)|: every product has the same sign"}
E4M3 = "wgmma.m64n8k32.f32.e4m3.e4m3"
UNITS = {"exact": ("nvfp4", "exact", []),
         "fp32": ("nvfp4", "fp32", []),
         "Hopper bf16": ("nvfp4", "hopper", []),
         "Hopper e4m3": ("nvfp4", "hopper", ["--instruction", E4M3]),
         "e4m3, fp32 every 128": ("nvfp4", "hopper", ["--instruction", E4M3, "--promote", "128"]),
         "Blackwell NVFP4": ("nvfp4", "blackwell", []),
         "Blackwell MXFP4": ("mxfp4", "blackwell", []),
         "bf16, not quantized": ("none", "hopper", [])}


def operands(kind, depth):
    random = np.random.default_rng([depth, list(KINDS).index(kind)])
    x, w = random.standard_normal((ROWS, depth)), random.standard_normal((ROWS, depth))
    if kind == "outliers":
        x, w = x * np.where(random.random(depth) < 0.01, 30, 1), random.standard_t(5, (ROWS, depth))
    return (abs(x), abs(w)) if kind == "positive" else (x, w)


def measure(program):
    """One row a kind, depth and unit, as the program prints it."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        a, b = Path(name) / "a.npy", Path(name) / "b.npy"
        for kind in KINDS:
            for depth in DEPTHS:
                for path, matrix in zip((a, b), operands(kind, depth)):
                    np.save(path, matrix.astype(np.float32))
                for unit, (quantized, arch, words) in UNITS.items():
                    out = subprocess.run([program, "matmul", a, b, "--format", quantized, "--arch", arch, *words, "--json"],
                                         check=True, capture_output=True, text=True).stdout
                    found = json.loads(out)
                    part = found["parts"]["accumulation"]
                    rows.append({"data": kind, "k": depth, "unit": unit, "instruction": found["instruction"], "error": found["relative_error"],
                                 "accumulation": part["relative"], "shrinkage": part["shrinkage"],
                                 "proved": found["proved"] / (found["rows"] * found["cols"])})
    return rows


def one(rows, kind, depth, unit):
    return next(r for r in rows if (r["data"], r["k"], r["unit"]) == (kind, depth, unit))


def table(rows, column):
    summed = [unit for unit in UNITS if unit != "exact"]
    lines = []
    for kind in KINDS:
        for depth in DEPTHS:
            cells = [one(rows, kind, depth, unit)[column] for unit in summed]
            lines.append([kind, depth, f"{100 * one(rows, kind, depth, 'exact')['error']:.2f}", *("0" if c == 0 else f"{c:.1e}" for c in cells)])
    return markdown(["data", "K", "NVFP4 error %", *summed], lines)


def draw(rows):
    content = {}
    for kind in KINDS:
        content[kind] = [Series(unit, measured=[(k, one(rows, kind, k, unit)["accumulation"]) for k in DEPTHS if one(rows, kind, k, unit)["accumulation"] > 0])
                         for unit in UNITS if any(one(rows, kind, k, unit)["accumulation"] > 0 for k in DEPTHS)]
    return [panels("accumulation", content, "K", "|summation's part of the error| / |A B^T|", "log", "log", ticks=DEPTHS)]


def share(rows, kind, depth, unit):
    """The summation's part over the whole error, in percent."""
    row = one(rows, kind, depth, unit)
    return f"{100 * row['accumulation'] / row['error']:.2g}"


def page(rows):
    kinds = "\n".join(f"- {name}: {words}" for name, words in KINDS.items())
    normal = {unit: share(rows, "normal", 16384, unit) for unit in UNITS}
    positive = {unit: share(rows, "positive", 16384, unit) for unit in UNITS}
    proved = min(r["proved"] for r in rows)
    return f"""# Summation: how much of a product's error it is

`python3 reports/accumulation.py PROGRAM DIR`. A [{ROWS}, K] and B [{ROWS}, K], quantized with an amax tensor scale and naive block scales
and multiplied by `fp4scope matmul` with each unit's own sums, in the order of K. Data:

{kinds}

The part of the error that is summation, |sum - exact sum of the same operands| / |A B^T|:

{table(rows, "accumulation")}

What of it shrinks every output alike, -<part, A B^T> / |A B^T|^2; a negative number grows them:

{table(rows, "shrinkage")}

![summation's part](accumulation.svg)

What it shows. With {DEPTHS[-1]} products of normal data the sum is {normal["Blackwell NVFP4"]} % of the error of an NVFP4 product on Blackwell's unit, {normal["fp32"]} % of one in
fp32 and {normal["Hopper e4m3"]} % of one on Hopper's FP8 unit; where all products have one sign, {positive["Blackwell NVFP4"]}, {positive["fp32"]} and {positive["Hopper e4m3"]} %.

- NVFP4's sums are exact for long. Elements are multiples of 1/2 and block scales of an amax tensor scale lie in E4M3's upper
  binades, so that products are multiples of a large unit; until a sum outgrows 24 bits of that unit there is nothing to cut. In
  bf16 the same values give the same sums: the steps of 16 and 64 cut the same nothing.
- Where bits are lost, they are cut toward zero, so that the errors of a sum with one sign add up. A running value of 24 bits loses half a
  last place on average, and the last place is 2^-24 to 2^-23 of it: a sum that grows evenly over n instructions loses up to 3/8 n 2^-24 of
  itself, in proportion to K. Where products are fine enough to be cut too, as bf16's are at 2^-25 of the largest term, each of them adds its half
  place. Rounding to nearest, as fp32 does, has errors of both signs, which grow with the root of n.
- Hopper's FP8 unit cuts all 33 terms of a step at 2^-13 of the largest one, which soon is the running value: each term
  loses half of a place in a step, and a sum of one sign stops growing where products are below the place. Moving sums into fp32 every
  128 products keeps the running value small.
- Sums of both signs shrink as well, by less.

In every product at least {100 * proved:.0f} % of the outputs were fast sums with a proof (analysis/accumulate.hpp); others would take the plain
model, with the same bits. What is known of the models' truth stands in sim/instructions.hpp.
"""


def main():
    program, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure(program)
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_plots(draw(rows), folder)
    (folder / "README.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
