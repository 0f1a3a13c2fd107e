"""The page of an audit: error and gap by tensor, scale histograms, whose recipe the blocks follow."""
import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from .groups import plain, shorten, title_of
from .style import FAINT, Plot, dot, grid_axes, legend, percent, styled

NAMED = 28  # tensors whose names fit under an axis
THEIRS, BEST = ("#d55e00", "o"), ("#0064a8", "d")
PALETTE = ("#0064a8", "#d55e00", "#117733", "#aa4499", "#a8780f", "#5a4fcf", "#00666b", "#882255")
NOBODY = "none"


def with_original(results):
    """Rows that have an error, in the order of the table."""
    return [i for i in range(results.size) if math.isfinite(results.table["weight_error"][i])]


def tensor_axis(ax, results, rows):
    """Names below the axis where they fit, else their number."""
    ax.set_xlim(-0.6, len(rows) - 0.4)
    if len(rows) <= NAMED:
        ax.set_xticks(range(len(rows)))
        ax.set_xticklabels([shorten(results.table["tensor"][i].removesuffix(".weight"), 36) for i in rows], rotation=90, fontsize=7)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.set_xlabel("tensor, in the order of the table")


def wide_figure(count, heights):
    """Panels one above the other, as wide as the tensors need."""
    names = 1.9 if count <= NAMED else 0.4
    figure = Figure(figsize=(min(9.0, max(3.6, 0.24 * count + 1.4)), sum(heights) + names), layout="constrained")
    return figure, figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]


@styled
def error_plot(results):
    """Weight error and the least that the format admits, by tensor; below it how far apart they are."""
    rows = with_original(results)
    if not rows:
        return None
    theirs, best, gap = (100 * results.table[name][rows].astype(float) for name in ("weight_error", "optimal_error", "gap"))
    figure, (upper, lower) = wide_figure(len(rows), (2.3, 1.5))
    x = np.arange(len(rows))
    upper.vlines(x, best, theirs, color=FAINT, linewidth=1.0)
    upper.plot(x, theirs, **dot(*THEIRS, 5))
    upper.plot(x, best, **dot(*BEST, 5))
    lower.vlines(x, 0, gap, color=FAINT, linewidth=1.0)
    lower.plot(x, gap, **dot(*THEIRS, 5))
    upper.set_ylabel("weight error (%)", fontsize=8)
    lower.set_ylabel("above the optimum (%)", fontsize=8)
    lower.set_ylim(bottom=0)
    for ax in (upper, lower):
        ax.grid(axis="y")
    tensor_axis(lower, results, rows)
    legend(figure, [Line2D([], [], **dot(*THEIRS)), Line2D([], [], **dot(*BEST))], ["checkpoint", "optimum"])
    data = [[results.table[n][i] for n in ("tensor", "format", "block", "weight_error", "optimal_error", "gap", "optimal_share")] for i in rows]
    caption = ("Relative Frobenius norm of the weight error. The optimum is the least squared error that any block scales and elements have "
               "with the checkpoint's own format, block and tensor scale, found by an exact search. Below: how far the checkpoint's error is above it.")
    return Plot("audit_error", "Error by tensor", caption, figure,
                ["tensor", "format", "block", "weight_error", "optimal_error", "gap", "optimal_share"], data)


def scale_counts(results):
    """{(format, block): (name of the scale format, blocks by scale byte)} over all tensors."""
    found = {}
    for i in range(results.size):
        counts = results.histograms.get((results.table["run"][i], "scale_codes"))
        if counts is None:
            continue
        key = (results.table["format"][i], int(results.table["block"][i]))
        known = found.get(key)
        found[key] = (counts[1], counts[0] + (known[1] if known else 0))
    return found


@styled
def scales_plot(results):
    """Blocks by scale byte."""
    found = scale_counts(results)
    if not found:
        return None
    figure, axes = grid_axes(len(found), 4.2, 2.4, columns=2)
    for ax, (group, (name, counts)) in zip(axes, found.items()):
        used = np.flatnonzero(counts)
        low, high = int(used.min()), int(used.max())
        ax.bar(np.arange(low, high + 1), 100 * counts[low:high + 1] / counts.sum(), width=0.9, color=BEST[0], linewidth=0)
        ax.set_xlim(low - 1.5, high + 1.5)
        if name == "e4m3" and low < 8:
            ax.axvspan(-0.5, 7.5, color=FAINT, alpha=0.25, linewidth=0, zorder=0)
        ax.set_title(f"{title_of(group)} ({name})")
        ax.set_xlabel("scale byte")
        ax.set_ylabel("blocks (%)", fontsize=8)
        ax.grid(axis="y")
    data = [[*g, name, c, int(counts[c])] for g, (name, counts) in found.items() for c in np.flatnonzero(counts)]
    caption = "Block scales by their byte, all tensors together. Grey: subnormal E4M3 scales and 0."
    return Plot("audit_scales", "Block scales", caption, figure, ["format", "block", "scale_format", "byte", "blocks"], data)


def parts(results, row):
    """(recipe, share) of a tensor's blocks that follow one; what is left is nobody's."""
    t = results.table
    if t["verdict"][row] not in ("recipe", "mixture"):
        return []
    out = [(t["recipe"][row], float(t["recipe_share"][row]))]
    if t["verdict"][row] == "mixture":
        out.append((t["second_recipe"][row], float(t["second_share"][row])))
    return out


@styled
def recipes_plot(results):
    """Share of each tensor's blocks by the recipe that reproduces them."""
    rows = with_original(results)
    if not rows:
        return None
    names = list(dict.fromkeys(name for i in rows for name, _ in parts(results, i)))
    colour = {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(names)}
    figure, (ax,) = wide_figure(len(rows), (2.2,))
    data = []
    for x, i in enumerate(rows):
        base = 0.0
        for name, share in [*parts(results, i), (NOBODY, None)]:
            share = 1 - base if share is None else share
            ax.bar(x, 100 * share, bottom=100 * base, width=0.8, color=colour.get(name, FAINT), linewidth=0)
            base += share
            if share > 0:
                data.append([results.table["tensor"][i], "" if name == NOBODY else name, share])
    ax.set_ylim(0, 100)
    ax.set_ylabel("blocks (%)", fontsize=8)
    tensor_axis(ax, results, rows)
    handles = [(Patch(color=colour[n]), shorten(n, 40)) for n in names]
    if any(not recipe for _, recipe, _ in data):
        handles.append((Patch(color=FAINT), "no recipe"))
    legend(figure, [h for h, _ in handles], [label for _, label in handles])
    caption = ("Blocks whose scale byte and codes a recipe reproduces from the original. A tensor is named only where one recipe, or two, "
               "reproduce more than 90 % of it; of two the second has only what the first has not. Other recipes may reproduce the same blocks: "
               "the table's column same recipes lists them.")
    return Plot("audit_recipes", "Whose recipe", caption, figure, ["tensor", "recipe", "share"], data)


MAKERS = {"audit_error": error_plot, "audit_scales": scales_plot, "audit_recipes": recipes_plot}


def plots(results):
    """Every figure that the file has data for."""
    made = [maker(results) for maker in MAKERS.values()] if results.size else []
    return [plot for plot in made if plot]


def finding(results):
    """One paragraph from the table."""
    rows, t = with_original(results), results.table
    kinds = sorted({(t["format"][i], int(t["block"][i])) for i in range(results.size)})
    told = f"{results.size} quantized tensor{'s' * (results.size != 1)}: {', '.join(title_of(k) for k in kinds)}."
    searched = [i for i in rows if math.isfinite(t["gap"][i])]
    if not searched:
        return told + ("" if rows else " There was no original to hold them against.")
    worst = max(searched, key=lambda i: t["gap"][i])
    blocks = sum(int(t["blocks"][i]) for i in searched)
    optimal = math.fsum(float(t["optimal_share"][i]) * int(t["blocks"][i]) for i in searched)
    gaps = sorted(float(t["gap"][i]) for i in searched)
    return told + (f" The weight error lies {percent(gaps[len(gaps) // 2])} (median over tensors) above the optimum of the same format, block and "
                   f"tensor scale, and at most {percent(t['gap'][worst])} ({plain(t['tensor'][worst])}); {percent(optimal / blocks, 1)} of the "
                   "blocks have a scale and elements that no others improve.")
