"""Element converters against each other, on all floats."""
from pages.common import markdown


def page(rows):
    """Element converters against each other, on all floats."""
    sections = []
    for element in dict.fromkeys(r["element"] for r in rows):
        table = [[r["first"], r["second"], r["finite_differ"], r["zero_differ"], r["infinite_differ"], r["nan_differ"],
                  r["example"]] for r in rows if r["element"] == element]
        sections.append(f"## {element}\n\n" + markdown(["recipe", "and", "finite", "zeros", "Inf", "NaN", "first finite"], table))
    text = f"""# One number at a time: element converters on all 2^32 floats

`fp4scope crosscheck --recipes --format e2m1 -o e2m1.h5`, and so on: how many binary32 patterns two libraries code
differently, each by its defaults. The numbers below are read from the results. `fp4scope encode --recipe R` gives each
one's codes; sim/converter.hpp says what each does and where its bugs are. ml_dtypes does not saturate; `cuda` and `cutlass`
round UE8M0 up; microxcaling rounds half away from zero.

{(chr(10) * 2).join(sections)}
"""
    return text, []
