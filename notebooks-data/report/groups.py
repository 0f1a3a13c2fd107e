"""Rows into groups: formats and blocks, methods under their settings, tensors, and the seeds of one input."""
import math
import re
from dataclasses import dataclass

import numpy as np

SETTINGS = ("select", "recipe", "rounding", "tensor_scale_rule", "scale_max", "hadamard", "block_2d", "activations")
NOT_SETTINGS = ("run", "input", "tensor", "dtype", "format", "method")
FORMATS = ("nvfp4", "mxfp4", "nvint4", "if4", "mxint4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8")
METHODS = ("naive", "static6", "static4", "prevent_zero", "floor", "ceil", "even", "rceil", "oas", "uos", "4over6", "4over6_prevent_zero",
           "macro", "macro_search", "macro_oas_search", "residual_half", "residual", "scalesweep", "ms_eden", "sse", "exhaustive",
           "closed_form", "coordinate", "decoupled", "joint", "hessian", "hessian_row", "hessian_row_fast", "hessian_row_joint",
           "gptq", "gptq_sse", "gptq_hessian", "gptq_feedback", "gptq_joint", "gptq_ordered")
NAIVE_NAMES = {"nvfp4": "static6", "nvint4": "static6", "if4": "static6",
               **dict.fromkeys((f for f in FORMATS if f.startswith("mx")), "floor")}  # what naive is called where it is not listed


def plain(text):
    """Text with every character that cannot be printed replaced, for figures."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def shorten(text, width=34):
    """The two ends of a long name."""
    text = plain(text)
    head = (width - 1) // 3
    return text if len(text) <= width else text[:head] + "…" + text[len(text) - (width - 1 - head):]


def rank(order, name):
    """Sort key: known names in their order, then the others alphabetically."""
    order = list(order)
    return (order.index(name), "") if name in order else (len(order), name)


def natural(words):
    """Sort key of words with numbers in them: 16 before 128."""
    return [[(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", word) if part] for word in words]


def sampled(groups, limit):
    """At most so many of the groups, in their order: as many of each format, with blocks spread evenly over its own."""
    if len(groups) <= limit:
        return list(groups)
    forms = {}
    for g in groups:
        forms.setdefault(g[0], []).append(g)
    share, out = max(1, limit // len(forms)), []
    for found in forms.values():
        last, count = len(found) - 1, min(share, len(found))
        out += [found[i * last // (count - 1)] for i in range(count)] if count > 1 else [found[last // 2]]
    return out[:limit]


def left_out(drawn, every):
    """What a caption says of groups that are not drawn."""
    missing = [g for g in every if g not in drawn]
    return f" Left out, and in the CSV: {listed(title_of(g) for g in missing)}." if missing else ""


def setting(name, value):
    """A setting's value as it stands in a label; empty for what is not done."""
    if name == "hadamard":
        return f"rotated by {int(value)}" if value else ""
    if name == "scale_max":
        return str(value) if value else ""
    if name == "block_2d":
        return "square blocks" if value else ""
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)


def settings_that_vary(results):
    """{(format, method): columns that tell apart its rows of one tensor, seed and block}; text columns not known here may, too."""
    table = results.table
    unknown = [n for n in table if table[n].dtype.kind == "O" and not n.endswith("_hash") and n not in (*NOT_SETTINGS, *SETTINGS)]
    cells = {}
    for i, cell in enumerate(zip(*(table[n] for n in ("input", "tensor", "format", "block", "method")), seeds(results))):
        cells.setdefault(cell, []).append(i)
    varying = {}
    for (_, _, form, _, method, _), rows in cells.items():
        names = varying.setdefault((form, method), [])
        names += [n for n in (*SETTINGS, *unknown) if n in table and n not in names
                  and len({setting(n, table[n][i]) for i in rows}) > 1]
    return varying


@dataclass(frozen=True)
class Variant:
    """A method under one setting; `label` names both."""
    method: str
    settings: tuple = ()

    @property
    def label(self):
        return ", ".join([plain(self.method), *(plain(s) for s in self.settings if s)])

    @property
    def cells(self):
        """What a CSV says of it: its method and its settings."""
        return [self.method, " ".join(s for s in self.settings if s)]


def grouped(results):
    """{(format, block): {Variant: [row]}}, in the order in which everything is shown."""
    table, varying, groups = results.table, settings_that_vary(results), {}
    for i in range(results.size):
        form, method = table["format"][i], table["method"][i]
        shown = tuple(setting(n, table[n][i]) for n in varying[form, method])
        variants = groups.setdefault((form, int(table["block"][i])), {})
        variants.setdefault(Variant(method, shown), []).append(i)
    ordered = sorted(groups, key=lambda g: (rank(FORMATS, g[0]), g[1]))
    return {g: dict(sorted(groups[g].items(), key=lambda v: (rank(METHODS, v[0].method), natural(v[0].settings)))) for g in ordered}


def format_name(form):
    return form.upper().replace("_", " ") if form in FORMATS else plain(form)


def title_of(group):
    form, block = group
    return f"{format_name(form)}, block {block}"


def listed(words):
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def is_naive(group, variants, variant):
    """Whether this is the naive method: by its name, or by what it is called in this format where naive is not listed."""
    return variant.method == "naive" or (variant.method == NAIVE_NAMES.get(group[0]) and all(v.method != "naive" for v in variants))


def baseline(group, variants, variant):
    """The naive variant to hold this one against: the one that shares most settings. None if naive was not run."""
    naive = [v for v in variants if is_naive(group, variants, v)]
    return max(naive, key=lambda v: len(set(v.settings) & set(variant.settings))) if naive else None


def seeds(results):
    """The seed of each row; 0 where the file does not tell."""
    return results.table.get("seed", [0] * results.size)


def tensor_key(results, row):
    return results.table["input"][row], results.table["tensor"][row]


def tensors(results):
    """(input, tensor) in the order of the table. Rows that differ in their seed only are samples of one tensor."""
    return list(dict.fromkeys(tensor_key(results, i) for i in range(results.size)))


def samples(results, rows, column):
    """{tensor: [value of each seed]} of these rows, finite values only; no column, no values."""
    values = {}
    for i in rows if column in results.table else ():
        value = float(results.table[column][i])
        if math.isfinite(value):
            values.setdefault(tensor_key(results, i), []).append(value)
    return values


def by_tensor(results, rows, column):
    """{tensor: value}, over seeds the root mean square of an error and the mean of anything else."""
    values = samples(results, rows, column)
    if column.endswith("_error"):
        return {key: math.sqrt(math.fsum(v * v for v in vs) / len(vs)) if len(vs) > 1 else vs[0] for key, vs in values.items()}
    return {key: math.fsum(vs) / len(vs) for key, vs in values.items()}
