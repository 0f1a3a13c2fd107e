"""Every weight of a small real model."""
from pages.common import markdown


def page(rows):
    """The whole table of the real model."""
    table = [[r["tensor"], f"{r['rows']}x{r['cols']}" + (f" (padded to {r['padded_cols']})" if r["padded_cols"] != r["cols"] else ""),
              r["format"], r["block"], r["method"], f"{100 * r['weight_error']:.2f}", f"{100 * r['output_error']:.2f}",
              f"{r['sqnr_db']:.2f}", f"{100 * r['moved_share']:.1f}", f"{r['bits_per_weight']:.3f}"] for r in rows]
    head = ["tensor", "shape", "format", "block", "method", "weight error %", "output error %", "SQNR dB",
            "scales moved %", "bits/weight"]
    text = f"""# Silero VAD: every 2-D and 3-D weight of a small real model

`FP4SCOPE_SHARED=... fp4scope sweep reports/silero.toml -o silero.h5`. 3-D weights are taken as [first, rest]; 387 columns
are padded with zeros to 400 (block 16) or 416 (block 32), which the metrics leave out. Activations are synthetic: 512
tokens, neighbouring channels correlated 0.9, 1 % of the channels 20 times as large, seed 7. The output error is measured
on the activations that `hessian` was given, so its gain is the most that they allow, not a forecast for other inputs.

![weight error](weight_error.svg)
![output error against weight error](output_error.svg)

What foretells the output error: the weights' error, or what the blocks would lose if their errors did not interact (all numbers:
[correlations.csv](correlations.csv); every method against naive, tensor by tensor, with intervals: [pairs.csv](pairs.csv)).

![proxies](proxies.svg)

Where the error comes from, over all tensors: the terms, which overlap, and the steps, which add up.

![terms](terms.svg)
![causes](causes.svg)

{markdown(head, table)}
"""
    return text, []
