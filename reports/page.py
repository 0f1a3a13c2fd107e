"""page.py NAME FILE.h5...: the Markdown page of a committed report, on standard output. Every number comes from FILE.h5.

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
# Where the optimum lies, in codes from naive's, N(0, 1) with an amax tensor scale (an independent program), percent; and
# how much of naive's squared error goes (ScaleSearch, arXiv 2605.12464: -27 %; the same program: -27.1 %).
MOVES = {-2: 1.1, -1: 18.6, 0: 31.8, 1: 8.5, 2: 0.3, 3: 3.0, 4: 14.6, 5: 18.3, 6: 3.9}
MOVES_TOLERANCE = 0.4  # percent points
GAIN, GAIN_TOLERANCE = -27.1, 0.3


def read_rows(path):
    """The table as a list of dictionaries, with the histogram of scale moves where there is one."""
    decode = lambda value: value.decode() if isinstance(value, bytes) else value
    with h5py.File(path) as f:
        table = {name: column[:] for name, column in f["table"].items()}
        if "run" not in table:
            return [{name: decode(column[i]) for name, column in table.items()} for i in range(len(next(iter(table.values()))))]
        runs = [decode(run) for run in table["run"]]
        moves = [dict(zip(f[f"runs/{run}/scale_move_offsets"][:], f[f"runs/{run}/scale_moves"][:])) if f"runs/{run}" in f else {}
                 for run in runs]
    return [{**{name: decode(column[i]) for name, column in table.items()}, "moves": moves[i]} for i in range(len(runs))]


def markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def moves_of(rows, name, method):
    """Shares of the blocks by distance from naive's code, in percent."""
    (row,) = [r for r in rows if (r["input"], r["format"], r["block"], r["method"]) == (name, "nvfp4", 16, method)]
    return {int(offset): 100 * count / row["blocks"] for offset, count in row["moves"].items() if count}


def scale_moves(rows):
    """The table of moves, with and without a tensor scale, and whether it is as published."""
    scaled, plain = moves_of(rows, "sigma 1", "sse"), moves_of(rows, "sigma 0.024", "sse")
    window = moves_of(rows, "sigma 0.024", "scalesweep")
    ok = all(abs(scaled.get(k, 0) - want) <= MOVES_TOLERANCE for k, want in MOVES.items())
    ok &= sum(share for k, share in scaled.items() if k not in MOVES) < 0.1
    share = lambda moves, k: f"{moves[k]:.3f}" if k in moves else ""
    table = [[f"{k:+d}", f"{MOVES[k]:.1f}" if k in MOVES else "", share(scaled, k), share(plain, k), share(window, k)]
             for k in sorted({*MOVES, *scaled, *plain, *window})]
    return markdown(["codes from naive's", "expected", "N(0, 1), amax", "N(0, 0.024^2), none", "the same, scalesweep"], table), ok


def published(rows):
    """The page and whether every number is within its tolerance."""
    ok = True
    weight, squared = [], []
    (naive,) = [r["relative_mse"] for r in rows if (r["input"], r["method"]) == ("sigma 1", "naive")]
    moves, as_published = scale_moves(rows)
    ok &= as_published
    for r in rows:
        key = (r["format"], r["block"], r["method"])
        if r["method"] == "scalesweep":
            continue
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
            gain = 100 * (measured / (1e3 * naive) - 1)
            ok &= r["method"] != "sse" or abs(gain - GAIN) <= GAIN_TOLERANCE
            squared.append([r["method"], f"{expected:.2f}", f"{measured:.3f}", f"{100 * (measured / expected - 1):+.2f}",
                            f"{gain:+.1f}" if r["method"] != "naive" else "", share])
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

{markdown(["method", "expected", "measured", "difference %", "against naive, % (sse: expected -27.1)", "blocks that choose 4, % (expected 45.3)"], squared)}

## Where the optimum lies

Shares of blocks in percent, NVFP4 block 16, by the distance of the chosen code from naive's. With an amax tensor scale
there are two clusters, "shrink a little" and "go to 4". Without one, weights of sigma 0.024 lie among the lowest codes,
where the steps are coarse and odd codes have no half: optima reach +11, and ScaleSweep's window of -3 .. +7 misses some.

{moves}

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


# Blocks that differ from the rational recipe in percent, bf16 then f32 where it was given: an independent program's
# measurement on 200 tensors of its own, N(0, sigma), 819,200 blocks. te_fast and the bf16 arithmetic have it for f32.
BLOCKS_DIFFER = {
    "modelopt_dyn": (0.57,), "compressed_tensors": (0.41,), "modelopt_export": (0.60,), "modelopt_fakequant": (0.66,),
    "fouroversix": (0.74,), "torchao": (0.77,), "fpquant": (0.80,), "vllm_emulation": (0.80,), "te": (0.87,),
    "te_fast": (4.9, 4.9), "compressed_tensors_bf16": (6.3, 5.5),
}


def percent(part, whole):
    return "0" if part == 0 else f"{100 * part / whole:.3g}"


def recipes(rows):
    """Recipes against each other, and against an independent measurement: within three standard errors of the difference."""
    ok = True
    against = []
    for r in rows:
        if "rational" not in (r["first"], r["second"]):
            continue
        name = r["second"] if r["first"] == "rational" else r["first"]
        measured, error = 100 * r["blocks_differ"] / r["blocks"], 100 * r["blocks_differ_error"]
        place = {"BF16": 0, "F32": 1}[r["dtype"]]
        expected = BLOCKS_DIFFER.get(name, ())[place:place + 1]
        if expected:
            ok &= abs(measured - expected[0]) <= 3 * 2**0.5 * error
        against.append([name, r["dtype"], percent(r["scales_differ"], r["blocks"]), f"{measured:.3g}", f"{error:.1g}",
                        f"{expected[0]}" if expected else "", percent(r["codes_differ"], r["elements"]),
                        percent(r["values_differ"], r["elements"])])
    exact = [[r["second"], r["dtype"], percent(r["scales_differ"], r["blocks"]), percent(r["blocks_differ"], r["blocks"]),
              percent(r["codes_differ"], r["elements"]), percent(r["values_differ"], r["elements"])]
             for r in rows if r["first"] == "exact"]
    bf16 = [r for r in rows if r["dtype"] == "BF16"]
    names = list(dict.fromkeys([r["first"] for r in bf16] + [r["second"] for r in bf16]))
    blocks = {(r["first"], r["second"]): r["blocks_differ"] for r in bf16}
    pairs = [[a] + ["" if a == b else blocks.get((a, b), blocks.get((b, a))) for b in names] for a in names]
    examples = "\n\n".join(f"### {r['first']} and {r['second']}\n\n```\n{r['example']}\n```" for r in bf16
                           if r["first"] in ("te", "modelopt_dyn") and r["second"] in
                           ("modelopt_dyn", "torchao", "fouroversix", "compressed_tensors", "flashinfer", "te_ref") and r["example"])
    page = f"""# Whose bits: NVFP4 recipes against each other

`fp4scope crosscheck --recipes -o recipes.h5`: every order of operations on the same 200 tensors of N(0, 0.02^2), 256 x 256,
as bf16 and as f32, blocks of 16. The numbers below are read from its results; [crosscheck.txt](crosscheck.txt) is what it
prints, with the first difference of every pair explained: the operations with their values, and which rounding decides.

bf16 values, block maxima and tensor maxima are short numbers, so exact ties are common, and every further rounding
moves some of them. Of f32 data almost nothing is a tie, and all IEEE orders agree. The exceptions round to bf16 on the way.
`qwantize` and `ggml` have no tensor scale: all their scales are others.

## Against real numbers (`rational`: amax / 2688 is never rounded)

In percent. The expected column is an independent program's measurement of the same kind. How many ties there are depends
on the significands of the 200 tensor maxima: the standard error is over tensors.

{markdown(["recipe", "dtype", "scales differ", "blocks differ", "standard error", "expected", "codes differ", "values differ"], against)}

## Against `exact` (amax / 2688 rounded once, all else in real numbers)

{markdown(["recipe", "dtype", "scales differ", "blocks differ", "codes differ", "values differ"], exact)}

Values are exact products: recipes whose codes agree still differ in them where the tensor scale is rounded otherwise
(1 / (2688 / a) against a / 2688).

[converters.md](converters.md) compares the libraries' conversions of single numbers, on all floats.

## Blocks that differ, of {bf16[0]["blocks"]}, bf16

{markdown(["", *names], pairs)}

## Why: some first differences

{examples}
"""
    return page, ok


def converters(rows):
    """Element converters against each other, on all floats."""
    sections = []
    for element in dict.fromkeys(r["element"] for r in rows):
        table = [[r["first"], r["second"], r["finite_differ"], r["zero_differ"], r["infinite_differ"], r["nan_differ"],
                  r["example"]] for r in rows if r["element"] == element]
        sections.append(f"## {element}\n\n" + markdown(["recipe", "and", "finite", "zeros", "Inf", "NaN", "first finite"], table))
    page = f"""# One number at a time: element converters on all 2^32 floats

`fp4scope crosscheck --recipes --format e2m1 -o e2m1.h5`, and so on: how many binary32 patterns two libraries code
differently, each by its defaults. The numbers below are read from the results. `fp4scope encode --recipe R` gives each
one's codes; sim/converter.hpp says what each does and where its bugs are. ml_dtypes does not saturate; `cuda` and `cutlass`
round UE8M0 up; microxcaling rounds half away from zero.

{(chr(10) * 2).join(sections)}
"""
    return page, True


def main(arguments):
    name = arguments[0]
    rows = [row for path in arguments[1:] if path != "--check" for row in read_rows(path)]
    page, ok = {"published": published, "silero": silero, "recipes": recipes, "converters": converters}[name](rows)
    if "--check" not in arguments:
        print(page, end="")
        return 0
    if not ok:
        print(page, file=sys.stderr)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
