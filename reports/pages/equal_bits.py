"""Block size against error at equal bits."""
from pages.common import markdown, pick


def page(rows):
    sections = []
    for source in dict.fromkeys(r["input"] for r in rows):
        found = sorted(pick(rows, input=source), key=lambda r: (r["bits_per_weight"], r["relative_mse"]))
        best, table = float("inf"), []
        for r in found:
            frontier = r["relative_mse"] < best
            best = min(best, r["relative_mse"])
            table.append([f"{r['bits_per_weight']:.4f}", r["format"], r["block"], r["method"], f"{1e3 * r['relative_mse']:.3f}",
                          f"{r['sqnr_db']:.2f}", "yes" if frontier else ""])
        sections.append(f"## {source}\n\n" + markdown(["bits/weight", "format", "block", "method", "relative squared error, 1e-3", "SQNR dB", "frontier"], table))
    return f"""# Block size against error, at equal bits

`fp4scope sweep reports/equal_bits.toml -o equal_bits.h5`. Bits count codes, block scales and the tensor scale. "Frontier": no row
with as few bits has a smaller error.

![Pareto](pareto.svg)

{(chr(10) * 2).join(sections)}
""", []
