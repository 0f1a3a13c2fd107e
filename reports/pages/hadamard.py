"""A rotation before quantization."""
from pages.common import markdown, mean, pick

SIZES = (0, 16, 32, 128)
INPUTS = ("normal", "laplace", "outlier columns")


def page(rows):
    table, failed = [], []
    for source in INPUTS:
        for form, method in dict.fromkeys((r["format"], r["method"]) for r in rows):
            values = [mean(r["relative_mse"] for r in pick(rows, input=source, format=form, method=method, hadamard=size)) for size in SIZES]
            table.append([source, form, method, f"{1e3 * values[0]:.3f}",
                          *(f"{1e3 * v:.3f} ({100 * (v / values[0] - 1):+.1f} %)" for v in values[1:])])
            if source == "normal" and any(abs(v / values[0] - 1) > 0.01 for v in values[1:]):
                failed.append(f"a rotation changed {form} {method} on a normal distribution: {values}")
            if source == "laplace" and form == "mxfp4" and not values[-1] < values[0]:
                failed.append("a rotation of 128 did not help mxfp4 on laplace")
            if source == "laplace" and (form, method) == ("nvfp4", "naive") and not values[-1] > values[0]:
                failed.append("a rotation of 128 did not hurt nvfp4 naive on laplace")
    return f"""# Rotations

`fp4scope sweep reports/hadamard.toml -o hadamard.h5`. Relative squared error in 1e-3, mean over three samples of 1024 x 1024:
unrotated, and after a Hadamard rotation with signs along the rows, by its number of points (16 with the fixed signs, larger
ones with random signs). NVFP4 has blocks of 16, MXFP4 of 32. "Outlier columns": normal, columns of different gains, one in 128 eight
times as large.

{markdown(["input", "format", "method", "unrotated", "16", "32", "128"], table)}

What it shows. A rotation of independent normal values is the same distribution: nothing changes. Of Laplace data it makes
nearly normal data, which is worse for NVFP4's small blocks under the naive rule and better for MXFP4, the signs that arXiv
2510.25602 (figure 4) measures on a model: small blocks absorb outliers by themselves. An outlier column is spread over the
points of a rotation: MXFP4 gains much; NVFP4, whose blocks isolate it, loses under the naive rule and gains a little under an
optimal scale.

![weight error](weight_error.svg)
""", failed
