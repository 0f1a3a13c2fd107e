"""Figures of how large the errors are: by method, and as a map of gains over naive by tensor."""
import math

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .estimates import best_of, scores
from .groups import baseline, by_tensor, grouped, is_naive, left_out, sampled, samples, shorten, tensors, title_of
from .style import INK, METHODS, SHEET, SOFT, Plot, dot, legend, looks, margin_text, signed, stacked_axes, styled

GROUPS = 12  # in a figure
DIVERGING = ("#b35806", "#f1a340", "#fee0b6", "#f7f7f7", "#d1e5f0", "#67a9cf", "#2166ac")  # loss, none, gain


@styled
def weight_error_plot(results):
    """Weight error of each format, block and method: the aggregate over tensors, and every tensor."""
    groups = {g: scores(results, "weight_error", g, v) for g, v in grouped(results).items()}
    groups = {g: {v: s for v, s in score.items() if s.tensors} for g, score in groups.items()}
    groups = {g: score for g, score in groups.items() if score}
    if not groups:
        return None
    look, rows_of, count = looks(results), grouped(results), len(tensors(results))
    shown = sampled(groups, GROUPS)
    figure, axes = stacked_axes([len(groups[g]) + 0.4 for g in shown], 7.2, 0.235, 0.45)
    panels, data, most = dict(zip(shown, axes)), [], 0
    for g, score in groups.items():
        for y, (v, s) in enumerate(score.items()):
            spread = samples(results, rows_of[g][v], "weight_error")
            most = max(most, len(spread))
            if g in panels:
                draw_error_row(panels[g], y, s, spread, look[v], s.tensors < count)
            data += error_cells([*g, *v.cells], s, by_tensor(results, rows_of[g][v], "weight_error"), spread)
        if g in panels:
            finish_error_panel(panels[g], g, score, best_of(score))
    for ax in axes[:-1]:
        ax.tick_params(axis="x", length=0)
    axes[-1].set_xlabel("relative weight error |Wq − W| / |W| (%)")
    every = [s for score in groups.values() for s in score.values()]
    seeded = any(int(row[9]) > 1 for row in data)
    kinds = {"several": most > 1, "seeded": seeded, "partial": any(s.tensors < count for s in every),
             "interval": any(s.interval for s in every), "naive": any(math.isfinite(s.gain) for s in every)}
    error_legend(figure, **kinds)
    header = ["format", "block", "method", "settings", "kind", "input", "tensor", "tensors", "weight_error", "seeds", "low", "high",
              "gain_over_naive", "gain_half_width"]
    return Plot("weight_error", "Weight error", error_caption(**kinds) + left_out(shown, groups), figure, header, data)


def error_cells(names, score, values, spread):
    """CSV rows of one method: all tensors with the 95 % interval, then each with the range over its seeds."""
    low, high = score.interval or (math.nan, math.nan)
    seeds = max(len(v) for v in spread.values())
    rows = [[*names, "all", "", "", score.tensors, score.value, seeds, low, high, score.gain, score.half]]
    return rows + [[*names, "tensor", *key, 1, value, len(spread[key]), min(spread[key]), max(spread[key]), "", ""]
                   for key, value in values.items()]


def error_caption(several, seeded, interval, **_):
    parts = ["Smaller is better."]
    if several:
        parts.append("A mark is the error over all tensors, sqrt(sum of squared errors / sum of squares), a thin stroke one tensor"
                     + (" and seed." if seeded else "."))
    elif seeded:
        parts.append("A mark is the root mean square over seeds, a thin stroke one seed.")
    if interval:
        parts.append("A bar is its 95 % interval, as blocks vary, where it is wider than the mark; so is ±.")
    parts.append("On the right its value, and the change against naive on the tensors that both have; the best of each panel is in bold.")
    return " ".join(parts)


def draw_error_row(ax, y, score, spread, look, partial):
    """One method: strokes for tensors and seeds, a mark for all of them, its interval behind the mark."""
    colour, marker = look
    values = [100 * v for vs in spread.values() for v in vs]
    if len(values) > 1:
        ax.plot([min(values), max(values)], [y, y], color=colour, linewidth=0.8, alpha=0.45, zorder=1)
        ax.plot(values, [y] * len(values), linestyle="none", marker="|", markersize=6, markeredgewidth=0.8, color=colour,
                alpha=0.6 if len(values) < 30 else 0.3, zorder=2)
    if score.interval:
        ax.plot([100 * v for v in score.interval], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt", zorder=2.5)
    style = dot(colour, marker, zorder=3)
    if partial:
        style.update(markerfacecolor=SHEET, markeredgecolor=colour, markeredgewidth=1.2)
    ax.plot([100 * score.value], [y], **style)


def finish_error_panel(ax, group, score, best):
    """Names on the left, numbers on the right, naive's line."""
    ax.set_title(title_of(group))
    ax.set_ylim(len(score) - 0.4, -0.6)
    ax.set_yticks(range(len(score)))
    ax.set_yticklabels([shorten(v.label) for v in score])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.spines["left"].set_visible(False)
    for y, (v, s) in enumerate(score.items()):
        weight = "bold" if v in best else "normal"
        ax.get_yticklabels()[y].set_fontweight(weight)
        margin_text(ax, y, 42, f"{100 * s.value:.2f}", fontweight=weight)
        if math.isfinite(s.gain) and baseline(group, score, v) != v:
            margin_text(ax, y, 86, signed(-100 * s.gain, 1), color=SOFT, fontweight=weight)
            if math.isfinite(s.half):
                margin_text(ax, y, 120, f"± {100 * s.half:.{1 if s.half >= 5e-4 else 2}f}", color=SOFT, fontsize=7.5)
    margin_text(ax, -1.0, 42, "error %", fontsize=7.5, color=SOFT)
    if any(math.isfinite(s.gain) for s in score.values()):
        margin_text(ax, -1.0, 92, "vs naive %", fontsize=7.5, color=SOFT)
    naive = next((s.value for v, s in score.items() if is_naive(group, score, v)), None)
    if naive is not None:
        ax.axvline(100 * naive, color=METHODS["naive"][0], linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)


def error_legend(figure, several, seeded, partial, interval, naive):
    """What the marks mean; colours need no key here, since every row has its name."""
    entries = [(Line2D([], [], **dot(INK, "o")), "all tensors" if several else "all seeds" if seeded else "error")]
    if several or seeded:
        stroke = "one tensor and seed" if several and seeded else "one tensor" if several else "one seed"
        entries.append((Line2D([], [], linestyle="none", marker="|", markersize=7, color=INK), stroke))
    if interval:
        entries.append((Line2D([], [], color=INK, linewidth=1.8), "95 % interval"))
    if partial:
        entries.append((Line2D([], [], linestyle="none", marker="o", markerfacecolor=SHEET, markeredgecolor=INK,
                               markersize=6.5), "not run on every tensor"))
    if naive:
        entries.append((Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (3, 2))), "naive"))
    if len(entries) > 1:
        legend(figure, *zip(*entries), columns=min(len(entries), 4), where=(0.5, 0.0), loc="upper center")


@styled
def gain_plot(results, column="weight_error"):
    """A map of tensors by methods: how much less error than naive; None for three tensors or fewer."""
    keys = tensors(results)
    if len(keys) <= 3 or results.column(column) is None:
        return None
    columns, gains = [], []
    for g, variants in grouped(results).items():
        values = {v: by_tensor(results, rows, column) for v, rows in variants.items()}
        for v in variants:
            base = baseline(g, variants, v)
            if base is None or base == v or is_naive(g, variants, v):
                continue
            gain = [1 - values[v][k] / values[base][k] if k in values[v] and values[base].get(k, 0) > 0 else math.nan for k in keys]
            if any(math.isfinite(x) for x in gain):
                columns.append((g, v))
                gains.append(gain)
    if not columns:
        return None
    shown = [i for i in range(len(keys)) if any(math.isfinite(gain[i]) for gain in gains)]
    if len(shown) <= 3:
        return None
    keys, grid = [keys[i] for i in shown], 100 * np.array([[gain[i] for i in shown] for gain in gains]).T
    groups = list(dict.fromkeys(g for g, _ in columns))
    drawn = sampled(groups, GROUPS)
    inside = [j for j, (g, _) in enumerate(columns) if g in drawn]
    figure = draw_gains(keys, [columns[j] for j in inside], grid[:, inside])
    kind = "Weight" if column == "weight_error" else "Output"
    caption = (f"{kind} error saved against the naive scale of the same format and block, tensor by tensor: 10 means a tenth less, a "
               "negative number more error. Empty cells were not run. Losses beyond the colour bar have its last colour." + left_out(drawn, groups))
    data = [[*g, *v.cells, *k, grid[i, j] / 100] for j, (g, v) in enumerate(columns) for i, k in enumerate(keys)]
    return Plot(f"gain_{kind.lower()}", f"Gain over naive by tensor: {kind.lower()} error", caption, figure,
                ["format", "block", "method", "settings", "input", "tensor", "gain_over_naive"], data, inverts=True)


def draw_gains(keys, columns, grid):
    """The map, with its numbers as long as there is room for them."""
    lines, room = len(keys), len(keys) <= 60
    cell = 0.24 if room else max(0.02, 14.0 / lines)
    figure = Figure(figsize=(0.37 * len(columns) + 2.9, cell * lines + 1.8), layout="constrained")
    ax = figure.subplots()
    finite = grid[np.isfinite(grid)]
    limit = max(finite.max(), 0.0) or max(abs(finite).max(), 1.0)
    colours = LinearSegmentedColormap.from_list("gain", DIVERGING, N=101)
    colours.set_bad((0, 0, 0, 0))
    image = ax.pcolormesh(np.ma.masked_invalid(grid), cmap=colours, vmin=-limit, vmax=limit, edgecolors=SHEET,
                          linewidth=0.5 if room else 0)
    ax.invert_yaxis()
    if room:
        write_cells(ax, grid, limit)
    names, pattern = short_names(keys)
    step = 1 if room else -(-lines // 60)
    ax.set_yticks([i + 0.5 for i in range(0, lines, step)])
    ax.set_yticklabels(names[::step], fontsize=8 if room else 7)
    ax.set_ylabel(pattern, fontsize=8)
    head_columns(ax, columns)
    bar = figure.colorbar(image, ax=ax, extend="min" if finite.min() < -limit else "neither", fraction=0.06, pad=0.02, aspect=25)
    bar.set_label("gain over naive (%)")
    bar.solids.set(rasterized=False, edgecolor="face")
    bar.outline.set_visible(False)
    return figure


def short_names(keys):
    """Tensor names without the parts that all of them share, and the pattern that tells those parts."""
    inputs = len({k[0] for k in keys}) > 1
    parts = [(f"{k[0]}: {k[1]}" if inputs else k[1]).split(".") for k in keys]
    least = min(len(p) for p in parts) - 1
    equal = [len({p[i] for p in parts}) == 1 for i in range(least)], [len({p[-1 - i] for p in parts}) == 1 for i in range(least)]
    front = (equal[0] + [False]).index(False)
    back = min((equal[1] + [False]).index(False), least - front)
    names = [shorten(".".join(p[front:len(p) - back])) for p in parts]
    if front + back == 0 or len(set(names)) < len(names):
        return [shorten(".".join(p)) for p in parts], "tensor"
    return names, shorten(".".join([*parts[0][:front], "*", *parts[0][len(parts[0]) - back:]]), 40)


def write_cells(ax, grid, limit):
    """The numbers, dark on light and light on dark."""
    for (i, j), value in np.ndenumerate(grid):
        if math.isfinite(value):
            text = f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"
            text = text.replace("-", "−") if float(text) else "0"
            ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7.5,
                    color=SHEET if abs(value) > 0.72 * limit else INK)


def head_columns(ax, columns):
    """Methods above the map, formats and blocks above them, a gap between groups."""
    ax.xaxis.tick_top()
    ax.set_xticks([j + 0.5 for j in range(len(columns))])
    ax.set_xticklabels([shorten(v.label, 24) for _, v in columns], rotation=90, fontsize=8)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    starts = [j for j in range(len(columns)) if j == 0 or columns[j][0] != columns[j - 1][0]]
    for start, end in zip(starts, [*starts[1:], len(columns)]):
        if start:
            ax.axvline(start, color=SHEET, linewidth=4)
        ax.annotate(title_of(columns[start][0]).replace(", block ", "\nblock "), ((start + end) / 2, 0), (0, -6), va="top", ha="center",
                    xycoords=ax.get_xaxis_transform(), textcoords="offset points", fontsize=8.5, fontweight="bold")

