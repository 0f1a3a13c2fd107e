"""Figures of where the error comes from: its terms, which overlap, and its causes, which add up."""
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .estimates import weighted_mean, weights_of
from .groups import by_tensor, grouped, left_out, sampled, shorten, title_of
from .style import FAINT, INK, SHEET, Plot, dot, legend, margin_text, stacked_axes, styled

GROUPS = 9  # in a figure

# Column: (name, colour, hatch).
TERMS = {
    "grid_noise_term": ("grid noise", "#4a7fb5", ""), "scale_bias_term": ("scale bias", "#c9641c", ""),
    "dead_zone_term": ("dead zone", "#3d8f62", ""), "clipping_term": ("clipping", "#a23b72", ""),
    "scale_grid_term": ("2 ⟨scale, grid⟩", "#4a7fb5", "/////"), "scale_dead_term": ("2 ⟨scale, dead⟩", "#3d8f62", "/////"),
}
CAUSES = {
    "cause_grid": ("grid", "#4a7fb5", ""), "cause_zero": ("zeros", "#3d8f62", ""), "cause_saturation": ("clipped elements", "#a23b72", ""),
    "cause_block_scale": ("block scale's rounding", "#c9641c", ""), "cause_tensor_scale": ("tensor scale's rounding", "#7a6a2b", ""),
    "cause_underflow": ("scale underflow", "#7b52ab", ""), "cause_overflow": ("scale overflow", "#6b6b6b", ""),
}


def parts_of(results, rows, columns):
    """({column: its mean over tensors, weighted by sums of squares}, the relative squared error); None where any is unknown."""
    weights = weights_of(results, "weight_error")
    values = {c: by_tensor(results, rows, c) for c in columns}
    known = set.intersection(*(set(v) for v in values.values()))
    if not known:
        return None
    error = by_tensor(results, rows, "relative_mse")
    return {c: weighted_mean(v, weights, known) for c, v in values.items()}, weighted_mean(error, weights, known & error.keys())


def decomposed(results, columns):
    """{group: {Variant: (parts, error)}} of the rows that were decomposed."""
    if any(results.column(c) is None for c in columns):
        return {}
    groups = {}
    for g, variants in grouped(results).items():
        found = {v: parts_of(results, rows, columns) for v, rows in variants.items()}
        found = {v: parts for v, parts in found.items() if parts}
        if found:
            groups[g] = found
    return groups


def stacked_plot(results, columns, name, title, caption, xlabel):
    """One bar per method: parts above 0 to the right, below 0 to the left, the squared error as a mark."""
    groups = decomposed(results, columns)
    if not groups:
        return None
    shown = sampled(groups, GROUPS)
    figure, axes = stacked_axes([len(groups[g]) + 0.4 for g in shown], 7.2, 0.25, 0.5)
    panels, data = dict(zip(shown, axes)), []
    for g, found in groups.items():
        for y, (v, (parts, error)) in enumerate(found.items()):
            if g in panels:
                draw_stack(panels[g], y, parts, error, columns)
            data += [[*g, *v.cells, column, value] for column, value in parts.items()]
            data.append([*g, *v.cells, "relative_mse", error])
        if g in panels:
            finish_stacks(panels[g], g, found)
    for ax in axes[:-1]:
        ax.tick_params(axis="x", length=0)
    axes[-1].set_xlabel(xlabel)
    drawn = [c for c in columns if any(parts[c] for g in shown for parts, _ in groups[g].values())]
    handles = [Patch(facecolor=columns[c][1], hatch=columns[c][2], edgecolor=SHEET, linewidth=0) for c in drawn]
    handles.append(Line2D([], [], **dot(INK, "D", 6)))
    legend(figure, handles, [*(columns[c][0] for c in drawn), "squared error"], columns=4, where=(0.5, 0.0), loc="upper center")
    return Plot(name, title, caption + left_out(shown, groups), figure, ["format", "block", "method", "settings", "part", "value"], data)


def draw_stack(ax, y, parts, error, columns):
    """The bar of one method."""
    ends = {True: 0.0, False: 0.0}
    for column, value in parts.items():
        _, colour, hatch = columns[column]
        ax.barh(y, 100 * value, left=100 * ends[value > 0], height=0.68, color=colour, hatch=hatch, edgecolor=SHEET, linewidth=0.4)
        ends[value > 0] += value
    ax.plot([100 * error], [y], **dot(INK, "D", 6, zorder=3))


def finish_stacks(ax, group, found):
    """Names on the left, the squared error on the right."""
    ax.set_title(title_of(group))
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.set_yticks(range(len(found)))
    ax.set_yticklabels([shorten(v.label) for v in found])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.axvline(0, color=FAINT, linewidth=0.7)
    ax.spines["left"].set_visible(False)
    for y, (_, error) in enumerate(found.values()):
        margin_text(ax, y, 44, f"{100 * error:.3f}")


@styled
def terms_plot(results):
    """The terms of the squared error and the products among them; None unless the sweep decomposed."""
    return stacked_plot(
        results, TERMS, "terms", "Terms of the squared error",
        "The error vector of a tensor is a sum of vectors: what the rounded scale adds (scale bias), elements that a perfect scale still "
        "rounds to zero (dead zone) or to a level (grid noise), and clipped elements. A plain bar is the squared length of one of them, "
        "a hatched one twice the inner product of two. The vectors are not orthogonal, so no bar is a part of the error; it is what "
        "the bars right of 0 less those left of 0 leave: the mark, and the number on the right.",
        "% of the sum of squares of the weights")


@styled
def causes_plot(results):
    """The squared error by cause, Shapley's average over all orders of removal; None unless the sweep decomposed."""
    return stacked_plot(
        results, CAUSES, "causes", "Causes of the squared error",
        "What each rounding step costs: the squared error that goes when the step is made exact, averaged over all orders in which the "
        "steps can be made exact (Shapley's value). The bars of a method add up to its squared error, the mark and the number on the "
        "right; a bar left of 0 is a step whose rounding helps. Of methods whose scales do not follow from the block's maximum "
        "the scales are taken as they are.",
        "% of the sum of squares of the weights")
