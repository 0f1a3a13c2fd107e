"""Block scale formats with and without a tensor scale."""
from pages.common import Checks, markdown, one

FORMATS = ("nvfp4", "e2m1_ue4m4", "e2m1_ue5m3")
SIGMAS = (0.005, 0.01, 0.02, 0.05, 1.0)
# Without a tensor scale, naive, by quadrature of an independent program; the sample's own error allows 0.6 %.
EXPECTED = {("nvfp4", 0.005): 1.83907917e-2, ("nvfp4", 0.01): 1.58786931e-2, ("nvfp4", 0.02): 1.06343070e-2,
            ("nvfp4", 0.05): 9.14456676e-3, ("nvfp4", 1.0): 9.04527246e-3, ("e2m1_ue5m3", 0.005): 9.05168804e-3,
            ("e2m1_ue5m3", 0.01): 9.05168804e-3, ("e2m1_ue5m3", 0.02): 9.05168804e-3, ("e2m1_ue5m3", 1.0): 9.04527246e-3,
            ("e2m1_ue4m4", 0.005): 1.58786931e-2, ("e2m1_ue4m4", 0.01): 1.06343070e-2, ("e2m1_ue4m4", 0.02): 9.30041357e-3,
            ("e2m1_ue4m4", 0.05): 8.93339808e-3, ("e2m1_ue4m4", 1.0): 8.90871818e-3}


def page(rows):
    checks = Checks()
    table = []
    for sigma in SIGMAS:
        for scaling in ("none", "amax"):
            cells = []
            for method in ("naive", "sse"):
                found = {f: one(rows, sigma=sigma, format=f, method=method, tensor_scale_rule=scaling) for f in FORMATS}
                base = found["nvfp4"]["relative_mse"]
                for f in FORMATS:
                    change = "" if f == "nvfp4" else f" ({100 * (found[f]['relative_mse'] / base - 1):+.1f} %)"
                    cells.append(f"{1e3 * found[f]['relative_mse']:.3f}{change}")
                    key = (f, sigma)
                    if scaling == "none" and method == "naive" and key in EXPECTED:
                        checks.near(f"{f}, sigma {sigma}", found[f]["relative_mse"], EXPECTED[key], relative=0.006)
                        checks.near(f"theory of {f}, sigma {sigma}", found[f]["expected_relative_mse"], EXPECTED[key], relative=2e-5)
            table.append([f"{sigma:g}", scaling, *cells])
    return f"""# UE4M4 and UE5M3 against E4M3 as block scales

`fp4scope sweep reports/scale_formats.toml -o scale_formats.h5`. Relative squared error in 1e-3 on N(0, sigma^2), block 16, and
the change against E4M3 under the same method. Tensor scales aim at 448.

{markdown(["sigma", "tensor scale", "naive E4M3", "naive UE4M4", "naive UE5M3", "sse E4M3", "sse UE4M4", "sse UE5M3"], table)}

What it shows. Without a tensor scale the two beat E4M3 by much wherever weights are small, because E4M3's scales are subnormal
there: UE4M4 at sigma behaves like E4M3 at 2 sigma while both are. With a tensor scale most of that is gone: a fourth mantissa
bit gains little under the naive rule, and more under an optimal search, which has more scales to choose from; UE5M3 gains
nothing. A comparison of scale formats without a tensor scale measures range, not precision.

![weight error](weight_error.svg)
""", checks.failed
