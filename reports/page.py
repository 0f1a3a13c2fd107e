"""page.py NAME FILE.h5: the Markdown page of a committed report, on standard output. Every number comes from FILE.h5.

`page.py published FILE.h5 --check` prints nothing and exits 1 if a number leaves its tolerance: a test.
"""
import sys

import h5py

# What was published, in percent: relative weight error on Qwen3-4B's layer 0 down_proj (qwantize, README), and what
# N(0, 0.024^2) of the same shape gives by an independent program. Tolerance: absolute, in percent points.
WEIGHT_ERROR = {  # (format, block, method): (published for the layer, expected for the normal distribution)
    ("nvfp4", 16, "naive"): (10.05, 10.04), ("nvfp4", 16, "sse"): (8.74, 8.71),
    ("nvfp4", 32, "naive"): (10.42, 10.40), ("nvfp4", 32, "sse"): (9.57, 9.52),
    ("mxfp4", 16, "naive"): (11.77, 11.75), ("mxfp4", 16, "sse"): (11.02, 10.97),
    ("mxfp4", 32, "naive"): (11.75, 11.74), ("mxfp4", 32, "sse"): (11.32, 11.25),
}
WEIGHT_ERROR_TOLERANCE = 0.05
# Relative squared error on N(0, 1) in 1e-3 (arXiv 2601.22813's notebook for naive and 4over6; exhaustive search).
RELATIVE_MSE = {"naive": 9.05, "4over6": 7.56, "sse": 6.59}
RELATIVE_MSE_TOLERANCE = 0.01  # relative
FOUR_SHARE, FOUR_SHARE_TOLERANCE = 45.3, 0.5  # percent


def read_rows(path):
    """The table as a list of dictionaries."""
    with h5py.File(path) as f:
        table = {name: column[:] for name, column in f["table"].items()}
    decode = lambda value: value.decode() if isinstance(value, bytes) else value
    return [{name: decode(column[i]) for name, column in table.items()} for i in range(len(table["run"]))]


def markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def published(rows):
    """The page and whether every number is within its tolerance."""
    ok = True
    weight, squared = [], []
    for r in rows:
        key = (r["format"], r["block"], r["method"])
        if r["input"] == "sigma 0.024":
            layer, expected = WEIGHT_ERROR[key]
            measured = 100 * r["weight_error"]
            ok &= abs(measured - expected) <= WEIGHT_ERROR_TOLERANCE
            weight.append([*key, f"{layer:.2f}", f"{expected:.2f}", f"{measured:.3f}", f"{measured - expected:+.3f}"])
        else:
            expected, measured = RELATIVE_MSE[r["method"]], 1e3 * r["relative_mse"]
            ok &= abs(measured / expected - 1) <= RELATIVE_MSE_TOLERANCE
            share = f"{100 * r['four_share']:.1f}" if r["method"] == "4over6" else ""
            ok &= not share or abs(100 * r["four_share"] - FOUR_SHARE) <= FOUR_SHARE_TOLERANCE
            squared.append([r["method"], f"{expected:.2f}", f"{measured:.3f}", f"{100 * (measured / expected - 1):+.2f}",
                            share])
    page = f"""# Two published tables

`fp4scope sweep reports/published.toml -o published.h5`. The numbers below are read from its results.

## Relative weight error in percent, no tensor scale

N(0, 0.024^2), 2560 x 9728, bf16, against a real layer of that shape. The published column is qwantize's table for
Qwen3-4B's layer 0 down_proj; the expected column is what the normal distribution gives by an independent program. A
plain Gaussian explains the published table: the layer behaves like one. `naive` of MXFP4 is the OCP floor rule; `sse`
is optimal in every block.

{markdown(["format", "block", "method", "published (layer)", "expected (normal)", "measured", "difference"], weight)}

## Relative squared error in 1e-3, N(0, 1), NVFP4 block 16, amax tensor scale

Four over six aims at a largest block scale of 256, the others at 448.

{markdown(["method", "expected", "measured", "difference %", "blocks that choose 4, % (expected 45.3)"], squared)}

![weight error](weight_error.svg)
"""
    return page, ok


def silero(rows):
    """The whole table of the real model."""
    table = [[r["tensor"], f"{r['rows']}x{r['cols']}" + (f" (padded to {r['padded_cols']})" if r["padded_cols"] != r["cols"] else ""),
              r["format"], r["block"], r["method"], f"{100 * r['weight_error']:.2f}", f"{100 * r['output_error']:.2f}",
              f"{r['sqnr_db']:.2f}", f"{100 * r['moved_share']:.1f}", f"{r['bits_per_weight']:.3f}"] for r in rows]
    head = ["tensor", "shape", "format", "block", "method", "weight error %", "output error %", "SQNR dB",
            "scales moved %", "bits/weight"]
    page = f"""# Silero VAD: every 2-D and 3-D weight of a small real model

`FP4SCOPE_SHARED=... fp4scope sweep reports/silero.toml -o silero.h5`. 3-D weights are taken as [first, rest]; 387 columns
are padded with zeros to 400 (block 16) or 416 (block 32), which the metrics leave out. Activations are synthetic: 512
tokens, neighbouring channels correlated 0.9, 1 % of the channels 20 times as large, seed 7. The output error is measured
on the activations that `hessian` was given, so its gain is the most that they allow, not a forecast for other inputs.

![weight error](weight_error.svg)
![output error against weight error](output_error.svg)

{markdown(head, table)}
"""
    return page, True


def main(arguments):
    name, path = arguments[:2]
    page, ok = {"published": published, "silero": silero}[name](read_rows(path))
    if "--check" not in arguments:
        print(page, end="")
        return 0
    if not ok:
        print(page, file=sys.stderr)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
