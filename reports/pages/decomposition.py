"""The terms of MXFP4's error, and the published table beside a plain Gaussian's octave."""
from pages.common import Checks, markdown, one, pick

# What the paper measured on 18,876 weight tensors (arXiv 2605.20402, as its authors report it): relative to the total error.
PUBLISHED = {"Qwen2.5-3B": (1.725, 0.026, 0.703, -0.657), "Qwen3-30B-A3B-Base": (1.726, 0.022, 0.712, -0.658)}
# The band of N(0, sigma^2) over one octave of sigma by an independent program, and what samples of 2^20 may add.
BAND = {"scale bias": (1.685, 1.778, 0.01), "dead zone": (0.0195, 0.0206, 0.0005), "grid noise": (0.706, 0.748, 0.005),
        "cosine": (-0.671, -0.647, 0.003)}
# Clipping and 2 <scale bias, dead zone> under floor, relative to the error, by the same program: within 5 %, t(3) 15 %.
CLIPPING = {"normal": (0.126, -0.0065), "laplace": (0.186, -0.027), "student t(5)": None, "student t(3)": (0.217, -0.050)}


def relative(row):
    """The six numbers of a row over its error, and the cosine of scale bias and grid noise."""
    parts = {name: row[name] / row["relative_mse"] for name in
             ("scale_bias_term", "dead_zone_term", "grid_noise_term", "clipping_term", "scale_dead_term", "scale_grid_term")}
    norm = (row["scale_bias_term"] * row["grid_noise_term"]) ** 0.5
    parts["cosine"] = row["scale_grid_term"] / 2 / norm if norm else float("nan")
    return parts


def page(rows):
    checks = Checks()
    octave = pick(rows, file="octave", block=32, method="rceil")
    rows = pick(rows, file="decomposition")
    spans = {}
    for r in octave:
        p = relative(r)
        for name, value in (("scale bias", p["scale_bias_term"]), ("dead zone", p["dead_zone_term"]),
                            ("grid noise", p["grid_noise_term"]), ("cosine", p["cosine"])):
            spans.setdefault(name, []).append(value)
            low, high, slack = BAND[name]
            checks.holds(f"sigma {r['sigma']}: {name} {value} is outside {low} .. {high}", low - slack <= value <= high + slack)
        checks.holds(f"sigma {r['sigma']}: <scale bias, dead zone> is not 0", r["scale_dead_term"] == 0)
        checks.holds(f"sigma {r['sigma']}: something is clipped", r["clipping_term"] == 0)
    band = [[name, *(f"{v[i]}" for v in PUBLISHED.values()), f"{BAND[name][0]} .. {BAND[name][1]}",
             f"{min(spans[name]):.4f} .. {max(spans[name]):.4f}"]
            for i, name in enumerate(("scale bias", "dead zone", "grid noise", "cosine"))]
    table = []
    for r in rows:
        p = relative(r)
        table.append([r["input"], r["format"], r["method"], f"{1e3 * r['relative_mse']:.3f}", f"{p['scale_bias_term']:.3f}",
                      f"{p['dead_zone_term']:.4f}", f"{p['grid_noise_term']:.3f}", f"{p['clipping_term']:.3f}",
                      f"{p['scale_dead_term']:+.4f}", f"{p['scale_grid_term']:+.3f}", f"{p['cosine']:+.3f}",
                      f"{r['log_inflation']:+.3f}", f"{100 * r['dead_share']:.2f}"])
        expected = CLIPPING[r["input"]]
        if (r["format"], r["method"]) == ("mxfp4", "floor") and expected:
            slack = 0.15 if r["input"] == "student t(3)" else 0.05
            checks.near(f"{r['input']}: clipping", p["clipping_term"], expected[0], relative=slack)
            checks.near(f"{r['input']}: <scale, dead>", p["scale_dead_term"], expected[1], relative=2 * slack)
    causes = [[r["input"], r["format"], r["method"]] +
              [f"{100 * r[name] / r['relative_mse']:.1f}" for name in
               ("cause_tensor_scale", "cause_block_scale", "cause_underflow", "cause_overflow", "cause_saturation",
                "cause_zero", "cause_grid")] for r in pick(rows, input="normal")]
    return f"""# Where MXFP4's error comes from

`fp4scope sweep reports/decomposition.toml -o decomposition.h5`, and octave.toml for the octave. The numbers below are read from its results.

An error is scale bias + dead zone + grid noise + clipping, element by element and exactly (analysis/terms.hpp). The vectors
add up; their squared norms do not, so none of the numbers below is a fraction: scale bias alone has more than the whole
error, and its product with grid noise takes it back.

## The published table is what plain Gaussian data gives

`rceil` (2^ceil(log2(amax / 6)), the rule of arXiv 2605.20402), block 32, relative to the total error. Power-of-two scales
are periodic in sigma, so a Gaussian gives a band, not a number: {len(octave)} points of one octave. The published
values of trained models lie in it or at its edge (the dead zone of heavier tails is larger). Under this rule nothing clips,
and <scale bias, dead zone> = 0 exactly in every row: the sums are exact, so 0 is 0.

{markdown(["relative to the error", *PUBLISHED, "expected band", "measured"], band)}

## Other rules, other tails

With `floor`, the OCP rule, elements are clipped, and <scale bias, dead zone> is not 0: the orthogonality is a property of
rules that round the scale up. Columns are relative to the error, except the error itself (relative squared error in 1e-3),
the mean of log2(scale / ideal scale), and the dead zone's share of elements in percent.

{markdown(["input", "format", "method", "error", "scale bias", "dead zone", "grid noise", "clipping", "2 scale.dead", "2 scale.grid", "cosine", "log2 s/s*", "dead %"], table)}

![terms](terms.svg)

## By cause

What each step of the chain costs, in percent of the error: the average over all orders of making steps ideal (Shapley), which
does add up. N(0, 1). A rule's ideal block scale is what it aims at before rounding, not the best scale: `even` aims at amax / 3.5,
which clips, and its rounding to a power of two takes some of that back.

{markdown(["input", "format", "method", "tensor scale", "block scale", "underflow", "overflow", "saturation", "zero", "grid"], causes)}

![causes](causes.svg)
""", checks.failed
