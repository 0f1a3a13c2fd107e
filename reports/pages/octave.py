"""MXFP4 over one octave of sigma, and the best threshold of its scale."""
import math

from pages.common import Checks, markdown, mean, pick

# Octave means in 1e-2 by quadrature of an independent program; ours are means over 16 samples of 2^20: 0.3 %.
EXPECTED = {(32, "floor"): 1.33519, (32, "rceil"): 1.36629, (32, "even"): 1.26084, (32, "oas"): 1.26084, (32, "uos"): 1.25171,
            (32, "sse"): 1.2505, (16, "floor"): 1.36981, (16, "rceil"): 1.28455, (16, "even"): 1.20810, (16, "oas"): 1.20810,
            (16, "uos"): 1.20927, (16, "sse"): 1.2040}
THRESHOLD = {"rceil": "6", "even": "7", "oas": "7", "uos": "7.25", "floor": "8", "sse": ""}


def page(rows):
    checks = Checks()
    table = []
    for block in (16, 32):
        for method in THRESHOLD:
            found = pick(rows, block=block, method=method)
            errors = [100 * r["relative_mse"] for r in found]
            theory = [100 * r["expected_relative_mse"] for r in found]
            mean = math.fsum(errors) / len(errors)
            checks.near(f"block {block}, {method}", mean, EXPECTED[block, method], relative=0.003)
            table.append([block, method, THRESHOLD[method], f"{EXPECTED[block, method]:.4f}", f"{mean:.4f}",
                          "" if math.isnan(theory[0]) else f"{math.fsum(theory) / len(theory):.4f}",
                          f"{min(errors):.3f} .. {max(errors):.3f}"])
    return f"""# One octave of sigma, and the best threshold

`fp4scope sweep reports/octave.toml -o octave.h5`. The numbers below are read from its results.

A power-of-two scale is 2^ceil(log2(amax / Q)) with some threshold Q: 6 (`rceil`: nothing clips), 7 (`oas`; `even` differs
from it only where amax = 7 * 2^j), 7.25 (`uos`), 8 (`floor`, OCP's rule, but for exact powers of two). The error depends on
where in its octave sigma lies, by up to 8 %: a number without its sigma, or without the mean over an octave, can't be compared.

Relative squared error in 1e-2 on N(0, sigma^2), mean over 16 sigmas of one octave, and its range over them.

{markdown(["block", "method", "Q", "expected mean", "measured mean", "theory at these sigmas", "range over the octave"], table)}

![error over the octave](octave.svg)

The points are measured, the curves are theory (`fp4scope theory`). BEST

![octave mean against the threshold](threshold.svg)
""", checks.failed


def draw(rows, theory):
    """The error over the octave, and its mean against the threshold: theory, and the measured rules on it."""
    from pages.figures import Series, panels
    sigmas = [2 ** (i / 64) for i in range(65)]
    reach = [round(5.5 + 0.05 * i, 2) for i in range(63)]
    over, means = {}, {"mean over the octave": []}
    for block in (16, 32):
        title, on = f"block {block}", ("--format", "mxfp4", "--block", str(block))
        over[title] = []
        for method, threshold in THRESHOLD.items():
            measured = [(r["sigma"], 100 * r["relative_mse"]) for r in pick(rows, block=block, method=method)]
            if method == "even":
                continue  # oas but for amax = 7 * 2^j
            curve = [] if method == "sse" else theory(*on, "--scale", method, "--sigma", ",".join(str(s) for s in sigmas))
            over[title].append(Series(method + (f" (Q = {threshold})" if threshold else ""),
                                      [(r["sigma"], 100 * r["relative_mse"]) for r in curve], measured))
        curve = theory(*on, "--octave", "--reach", ",".join(str(q) for q in reach))
        points = [(float(THRESHOLD[m]), 100 * mean(r["relative_mse"] for r in pick(rows, block=block, method=m)), m)
                  for m in ("rceil", "oas", "uos", "floor")]
        means["mean over the octave"].append(Series(title, [(q, 100 * r["octave_mean"]) for q, r in zip(reach, curve)], points))
    return [panels("octave", over, "standard deviation of the weights", "relative squared error (%)", x_scale="log", ticks=(1, 1.25, 1.5, 1.75, 2)),
            panels("threshold", means, "threshold Q of 2^ceil(log2(amax / Q))", "relative squared error (%)")]


def finish(text, theory):
    best = theory("--format", "mxfp4", "--block", "16,32", "--best-reach")
    words = " and ".join(f"{r['reach']:.2f} for blocks of {r['block']}" for r in best)
    return text.replace("BEST", f"The best threshold of the octave's mean is {words}.")
