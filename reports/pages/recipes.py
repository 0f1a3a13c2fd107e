"""NVFP4 recipes against each other."""
from pages.common import markdown, percent

# Blocks that differ from the rational recipe in percent, bf16 then f32 where it was given: an independent program's
# measurement on 200 tensors of its own, N(0, sigma), 819,200 blocks. te_fast and the bf16 arithmetic have it for f32.
BLOCKS_DIFFER = {
    "modelopt_dyn": (0.57,), "compressed_tensors": (0.41,), "modelopt_export": (0.60,), "modelopt_fakequant": (0.66,),
    "fouroversix": (0.74,), "torchao": (0.77,), "fpquant": (0.80,), "vllm_emulation": (0.80,), "te": (0.87,),
    "te_fast": (4.9, 4.9), "compressed_tensors_bf16": (6.3, 5.5),
}


def page(rows):
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
    text = f"""# Whose bits: NVFP4 recipes against each other

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
    return text, [] if ok else ["a number is outside its tolerance"]
