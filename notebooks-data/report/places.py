"""Figures of where in the tensor the squared error sits: by code, by size within the block, by scale code, by column and row."""
import math

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from .estimates import scores
from .groups import grouped, is_naive, left_out, sampled, tensor_key, title_of
from .style import FAINT, INK, Plot, dot, grid_axes, looks, method_legend, paired_axes, styled

LINES = 5    # methods in a panel
PANELS = 6


def pooled(results, rows, place):
    """Counts, squared errors and energies by place, summed over rows, with the notes; None where there are none of one length."""
    profiles = [p for p in (results.profiles.get((results.table["run"][i], place)) for i in rows) if p]
    if not profiles or len({len(p.count) for p in profiles}) > 1 or not sum(int(p.count.sum()) for p in profiles):
        return None
    return *(sum(getattr(p, part).astype(float) for p in profiles) for part in ("count", "sse", "energy")), profiles[0].notes


def chosen(results, group, variants):
    """Naive and the methods of least error, LINES of them, in their order."""
    if len(variants) <= LINES:
        return list(variants)
    score = scores(results, "weight_error", group, variants)
    naive = [v for v in variants if is_naive(group, variants, v)][:1]
    rest = sorted((v for v in variants if v not in naive), key=lambda v: score[v].value if math.isfinite(score[v].value) else math.inf)
    return [v for v in variants if v in [*naive, *rest[:LINES - len(naive)]]]


def profiled(results, place):
    """({group: {Variant: pooled}} to draw, and the same of every method for the CSV)."""
    every, drawn = {}, {}
    for g, variants in grouped(results).items():
        found = {v: pooled(results, rows, place) for v, rows in variants.items()}
        found = {v: p for v, p in found.items() if p}
        if found:
            every[g] = found
            drawn[g] = {v: found[v] for v in chosen(results, g, {v: variants[v] for v in found})}
    return {g: drawn[g] for g in sampled(drawn, PANELS)}, every


def omitted(drawn, every):
    """What a caption says of methods and panels that are only in the CSV."""
    fewer = any(len(drawn[g]) < len(every[g]) for g in drawn)
    told = f" A panel has naive and the methods of least weight error, {LINES} in all; the CSV has every one." if fewer else ""
    return told + left_out(drawn, every)


def profile_line(ax, x, values, look, **more):
    """A line with some fourteen marks, which tell the settings of one method apart."""
    colour, marker = look
    ax.plot(x, values, **{**dot(colour, marker, 4.2), "linestyle": "-", "color": colour, "linewidth": 1.3,
                          "markevery": max(1, len(x) // 14), **more})


def share(values):
    total = float(values.sum())
    return values / total if total > 0 else np.zeros(len(values))


def draw_shares(pair, x, drawn, look, order, lower):
    """Share of the squared error above, share of what is counted below."""
    for v, (count, sse, *_) in drawn.items():
        profile_line(pair[0], x, 100 * share(sse)[order], look[v])
        profile_line(pair[1], x, 100 * share(count)[order], look[v])
    for ax, label in zip(pair, ("squared error (%)", lower)):
        ax.set_ylabel(label, fontsize=8)
        ax.set_ylim(bottom=0)
        ax.grid(axis="y")


# By element code

def code_values(notes):
    """The element values of the codes as numbers; None if the file does not tell them."""
    try:
        return np.array([float(word) for word in notes.get("values", "").split(",")])
    except ValueError:
        return None


def value_order(values):
    """Codes of finite values from the least to the largest, -0 before 0."""
    codes = [c for c in range(len(values)) if math.isfinite(values[c])]
    return sorted(codes, key=lambda c: (values[c], math.copysign(1, values[c]), c))


def value_label(value):
    return f"{value:g}".replace("-", "−")


@styled
def code_plot(results):
    """Share of the squared error and of the elements by element code, in the order of values."""
    drawn, every = profiled(results, "code")
    named = {g: {v: (*p, code_values(p[3])) for v, p in found.items()} for g, found in every.items()}
    named = {g: {v: p for v, p in found.items() if p[4] is not None and len(p[4]) == len(p[0])} for g, found in named.items()}
    drawn = {g: {v: named[g][v] for v in found if v in named[g]} for g, found in drawn.items()}
    drawn = {g: found for g, found in drawn.items() if found}
    if not drawn:
        return None
    look = looks(results)
    figure, pairs = paired_axes(len(drawn), 3.6, (1.25, 0.95), columns=2)
    for pair, (g, found) in zip(pairs, drawn.items()):
        values = next(iter(found.values()))[4]
        order = value_order(values)
        draw_shares(pair, range(len(order)), found, look, order, "elements (%)")
        pair[0].set_title(title_of(g))
        step = max(1, -(-len(order) // 16))
        ticks = range(0, len(order), step)
        pair[1].set_xticks(list(ticks))
        pair[1].set_xticklabels([value_label(values[order[i]]) for i in ticks], fontsize=7.5, rotation=90)
    figure.supxlabel("value of the element code, before its scales", fontsize=9)
    method_legend(figure, [v for found in drawn.values() for v in found], look, lines=True)
    data = [[*g, *v.cells, c, p[4][c], int(p[0][c]), p[1][c], p[2][c]] for g, found in named.items() for v, p in found.items()
            for c in value_order(p[4])]
    caption = ("Which codes the squared error falls on (above), and which the elements (below), in the order of their values. −0 and 0 are two "
               "codes: elements that were negative or positive before they became zero." + omitted(drawn, every))
    return Plot("error_by_code", "Error by element code", caption, figure,
                ["format", "block", "method", "settings", "code", "value", "elements", "squared_error", "energy"], data)


# By |w| / block amax

def ratio_error(count, sse, energy):
    """Root mean squared error of an element over its block's amax, by bin; NaN where a bin is empty.

    The bin's mean amax^2 is its energy over the sum of ratio^2, which for even bins of width h is middle^2 + h^2 / 12 an element."""
    width = 1 / len(count)
    square = ((np.arange(len(count)) + 0.5) * width) ** 2 + width**2 / 12
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((count > 0) & (energy > 0), np.sqrt(sse * square / energy), np.nan)


@styled
def ratio_plot(results):
    """The error of elements by their magnitude over the block's largest, and what share of it they make."""
    drawn, every = profiled(results, "ratio")
    if not drawn:
        return None
    look = looks(results)
    figure, pairs = paired_axes(len(drawn), 3.4, (1.35, 1.05), columns=2)
    for (upper, lower), (g, found) in zip(pairs, drawn.items()):
        for v, (count, sse, energy, _) in found.items():
            x = (np.arange(len(count)) + 0.5) / len(count)
            profile_line(upper, x, 100 * ratio_error(count, sse, energy), look[v])
            profile_line(lower, x, 100 * share(sse), look[v])
        count = next(iter(found.values()))[0]
        lower.fill_between((np.arange(len(count)) + 0.5) / len(count), 100 * share(count), color=FAINT, alpha=0.3, linewidth=0)
        upper.set_title(title_of(g))
        for ax, label in ((upper, "rms error / amax (%)"), (lower, "share (%)")):
            ax.set_ylabel(label, fontsize=8)
            ax.set_ylim(bottom=0)
            ax.set_xlim(0, 1)
            ax.grid()
    figure.supxlabel("|w| / largest |w| of the block", fontsize=9)
    shade = Line2D([], [], color=FAINT, alpha=0.3, linewidth=7)
    method_legend(figure, [v for found in drawn.values() for v in found], look, lines=True, extra=[(shade, "share of the elements")])
    data = [[*g, *v.cells, b / len(p[0]), (b + 1) / len(p[0]), int(p[0][b]), p[1][b], p[2][b], error] for g, found in every.items()
            for v, p in found.items() for b, error in enumerate(ratio_error(*p[:3]))]
    caption = ("Elements by how large they are in their block. Above: root mean squared error of one, over the block's largest magnitude; "
               "a method rounds worst where its levels lie far apart. Below: the share of all squared error (lines) and of the elements "
               "(grey)." + omitted(drawn, every))
    return Plot("error_by_ratio", "Error by size within the block", caption, figure,
                ["format", "block", "method", "settings", "from", "to", "elements", "squared_error", "energy", "rms_over_amax"], data)


# By scale code

def first_normal(notes):
    word = str(notes.get("first_normal", ""))
    return int(word) if word.isdigit() else 0


@styled
def scale_code_plot(results):
    """Which scale codes blocks have, and the squared error by scale code."""
    drawn, every = profiled(results, "scale_code")
    if not drawn:
        return None
    look = looks(results)
    figure, pairs = paired_axes(len(drawn), 3.6, (1.25, 1.25), columns=2)
    for pair, (g, found) in zip(pairs, drawn.items()):
        draw_scale_codes(pair, g, found, look)
    figure.supxlabel("code of the block scale", fontsize=9)
    shade = Line2D([], [], color=FAINT, alpha=0.3, linewidth=7)
    extra = [(shade, "subnormal")] if any(first_normal(p[3]) for found in drawn.values() for p in found.values()) else []
    method_legend(figure, [v for found in drawn.values() for v in found], look, lines=True, extra=extra)
    data = [[*g, *v.cells, p[3].get("format", ""), c, int(p[0][c]), p[1][c], p[2][c]] for g, found in every.items()
            for v, p in found.items() for c in range(len(p[0])) if p[0][c]]
    caption = ("Blocks (above) and their squared error (below) by the code of their scale. Codes in the grey range are subnormal (or 0): "
               "there the scale's format has fewer bits left, and its steps are relatively wider." + omitted(drawn, every))
    return Plot("scale_codes", "Block scales by code", caption, figure,
                ["format", "block", "method", "settings", "scale_format", "code", "blocks", "squared_error", "energy"], data)


def draw_scale_codes(pair, group, found, look):
    """Blocks above, squared error below, over the codes that are in use."""
    used = [c for count, *_ in found.values() for c in np.flatnonzero(count)]
    low, high = min(used), max(used)
    margin = max(1.0, 0.04 * (high - low))
    notes = next(iter(found.values()))[3]
    for v, (count, sse, *_) in found.items():
        codes = np.arange(low - 1, high + 2)
        inside = (codes >= 0) & (codes < len(count))
        for ax, values in zip(pair, (share(count), share(sse))):
            heights = np.where(inside, values[np.clip(codes, 0, len(count) - 1)], 0.0)
            profile_line(ax, codes, 100 * heights, look[v], drawstyle="steps-mid")
    for ax, label in zip(pair, ("blocks (%)", "squared error (%)")):
        ax.set_ylabel(label, fontsize=8)
        ax.set_ylim(bottom=0)
        ax.set_xlim(low - margin, high + margin)
        ax.grid(axis="y")
        if first_normal(notes) > low - margin:
            ax.axvspan(-0.5, first_normal(notes) - 0.5, color=FAINT, alpha=0.2, linewidth=0, zorder=0)
    pair[0].set_title(f"{title_of(group)} ({notes.get('format', 'scales')})")
    pair[1].xaxis.get_major_locator().set_params(integer=True)


# By column and row

SHARES = np.concatenate([[0.0], np.geomspace(0.001, 1.0, 61)])


def concentration(values):
    """Share of the total that the largest values hold, at every share of their number in SHARES."""
    ordered = np.sort(values)[::-1]
    total = float(ordered.sum())
    if total <= 0:
        return None
    held = np.concatenate([[0.0], np.cumsum(ordered) / total])
    return np.interp(SHARES * len(values), np.arange(len(values) + 1), held)


def mean_curve(results, rows, place, part):
    """The mean over tensors of `concentration`; None without data."""
    curves = {}
    for i in rows:
        profile = results.profiles.get((results.table["run"][i], place))
        curve = concentration(getattr(profile, part)) if profile and len(profile.count) > 1 else None
        if curve is not None:
            curves.setdefault(tensor_key(results, i), []).append(curve)
    return np.mean([np.mean(c, axis=0) for c in curves.values()], axis=0) if curves else None


@styled
def concentration_plot(results):
    """How few columns and rows hold how much of the squared error."""
    panels, data = {}, []
    for g, variants in grouped(results).items():
        for place in ("column", "row"):
            curves = {v: (mean_curve(results, rows, place, "sse"), rows) for v, rows in variants.items()}
            curves = {v: c for v, c in curves.items() if c[0] is not None}
            data += [[*g, *v.cells, place, s, value] for v, (c, _) in curves.items() for s, value in zip(SHARES, c)]
            shown = chosen(results, g, {v: variants[v] for v in curves})
            if shown:
                panels[g, place] = {v: curves[v] for v in shown}
    if not panels:
        return None
    look, every = looks(results), list(dict.fromkeys(g for g, _ in panels))
    kept = sampled(every, PANELS // 2)
    panels = {panel: curves for panel, curves in panels.items() if panel[0] in kept}
    figure, axes = grid_axes(len(panels), 3.1, 2.5, columns=2)
    for ax, ((g, place), curves) in zip(axes, panels.items()):
        draw_concentration(ax, results, g, place, curves, look)
    figure.supylabel("share of the squared error (%)", fontsize=9)
    extra = [(Line2D([], [], color=INK, linewidth=1.0, linestyle=(0, (4, 2))), "sum of squares of the weights"),
             (Line2D([], [], color=FAINT, linewidth=0.9, linestyle=":"), "evenly spread")]
    method_legend(figure, [v for curves in panels.values() for v in curves], look, lines=True, extra=extra)
    caption = ("The columns (and rows) with the largest squared error come first: a curve far above the dotted line means that few of them hold "
               "most of it. Near the dashed line the error is where the weights are large. Means over tensors."
               + left_out(kept, every))
    return Plot("concentration", "Columns and rows that hold the error", caption, figure,
                ["format", "block", "method", "settings", "place", "share_of_places", "share_of_squared_error"], data)


def draw_concentration(ax, results, group, place, curves, look):
    x = 100 * SHARES[1:]
    ax.plot(x, x, color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
    weights = mean_curve(results, next(iter(curves.values()))[1], place, "energy")
    if weights is not None:
        ax.plot(x, 100 * weights[1:], color=INK, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    for v, (curve, _) in curves.items():
        profile_line(ax, x, 100 * curve[1:], look[v])
    ax.set(xscale="log", xlim=(0.1, 100), ylim=(0, 100), xlabel=f"largest {place}s (% of {place}s)")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_title(title_of(group))
    ax.grid()
