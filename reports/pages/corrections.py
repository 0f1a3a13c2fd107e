"""MXFP4's corrections with their storage cost."""
from math import log10

from pages.common import Checks, markdown, mean, one, pick

# N(0, 1), block 32, relative squared error by an independent program.
EXPECTED = {"rceil": 1.332e-2, "macro": 1.180e-2, "macro_search": 1.094e-2, "macro_oas_search": 1.010e-2, "residual": 1.95e-4, "residual_half": 3.33e-3}


def page(rows):
    checks = Checks()
    for method, expected in EXPECTED.items():
        r = one(rows, sigma=1.0, format="mxfp4", block=32, method=method)
        checks.near(method, r["relative_mse"], expected, relative=0.01)
    table = []
    for form, block, method in dict.fromkeys((r["format"], r["block"], r["method"]) for r in rows):
        found = pick(rows, format=form, block=block, method=method)
        error = mean(r["relative_mse"] for r in found)
        oas = pick(rows, format="mxfp4", block=block, method="oas")
        floor = pick(rows, format="mxfp4", block=block, method="floor")
        table.append([form, block, method, f"{found[0]['bits_per_weight']:.4f}", f"{1e3 * error:.3f}",
                      *(gain(error, base) for base in (oas, floor))])
    return f"""# MXFP4's corrections, with what they cost

`fp4scope sweep reports/corrections.toml -o corrections.h5`. Relative squared error in 1e-3 on N(0, sigma^2), mean over four sigmas
of one octave; gains in dB over the rules `oas` and `floor` at the same block size.

`macro`: 128 columns share an 8-bit mantissa that brings the macro block's maximum to the top of the grid; `macro_search`: the best of
16 such factors by squared error, `macro_oas_search` the same under the rule `oas` (arXiv 2603.08713, 2605.20402). `residual`: what was lost is quantized again and added, with a
weight of 1 or 1/2; it doubles the storage.

{markdown(["format", "block", "method", "bits/weight", "error", "dB over oas", "dB over floor"], table)}

What it shows. Residual feedback is a second quantization: as an error its best weight is 1, a weight of 1/2 is a preference of
training, not of reconstruction. Macro-block scaling buys less than going to blocks of 16 with E4M3 scales, whose rows stand below.

![bits against error](pareto.svg)
""", checks.failed


def gain(error, base):
    value = round(-10 * log10(error / mean(r["relative_mse"] for r in base)), 2)
    return f"{value:+.2f}" if value else "0"
