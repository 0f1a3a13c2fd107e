"""Stochastic rounding and MS-EDEN."""
from pages.common import Checks, markdown, pick

# N(0, 1), 1e-3 (arXiv 2601.22813's notebook prints 9.0, 23.5, 9.8, 12.4, 12.4; an independent program has more digits).
EXPECTED = {("naive", "rne", 0, 0): 9.045, ("naive", "stochastic_unbiased", 0, 0): 23.565, ("naive", "rne", 1, 0): 12.400,
            ("4over6", "rne", 1, 0): 12.386, ("4over6", "rne", 0, 0): 7.560, ("sse", "rne", 0, 0): 6.594,
            ("ms_eden", "rne", 0, 128): 9.8}
SLACK = {"ms_eden": 0.02}


def page(rows):
    checks = Checks()
    table = []
    for key in dict.fromkeys((r["method"], r["rounding"], r["block_2d"], r["hadamard"]) for r in rows):
        found = [r for r in rows if (r["method"], r["rounding"], r["block_2d"], r["hadamard"]) == key]
        error = 1e3 * sum(r["relative_mse"] for r in found) / len(found)
        shrinkage = sum(r["shrinkage"] for r in found) / len(found)
        expected = EXPECTED.get(key)
        if expected:
            checks.near(f"{key}", error, expected, relative=SLACK.get(key[0], 0.01))
        method, rounding, tiles, rotation = key
        table.append([method, rounding, "16 x 16" if tiles else "16", rotation or "", f"{error:.3f}", expected or "", f"{shrinkage:.5f}",
                      f"{100 * sum(r['saturated_share'] for r in found) / len(found):.3f}"])
    return f"""# Unbiased rounding: what it costs

`fp4scope sweep reports/stochastic.toml -o stochastic.h5`. Relative squared error in 1e-3 on N(0, 1), NVFP4, mean over three
samples of 1024 x 2048; E|xq| / E|x|; elements above their block's largest level in percent.

{markdown(["method", "rounding", "block", "rotation", "error", "expected", "shrinkage", "saturated %"], table)}

What it shows. Stochastic rounding of elements costs about 2.6 times the squared error of rounding to nearest; moving the randomness into
the scale's rounding (MS-EDEN, arXiv 2601.22813) costs a few percent, and both are unbiased (tests/sim/stochastic_block_test.cpp
and tests/analysis/eden_test.cpp average them). `stochastic` at the plain amax scale saturates where the block's scale was
rounded down, so it is not unbiased; `stochastic_unbiased` aims at 16/17 of the largest level and saturates nothing. A square block of 16 x 16
costs a third of the error, and 4/6 hardly helps there.

![weight error](weight_error.svg)
""", checks.failed
