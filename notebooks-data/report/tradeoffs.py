"""Figures of what error can be had: at how many bits, and what theory expects."""
import math
import re

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .estimates import NORMAL_QUANTILE, scores
from .groups import by_tensor, format_name, grouped, shorten, tensor_key, tensors
from .style import FAINT, INK, Plot, dot, grid_axes, log_range, looks, method_legend, styled

GAP = 1.0  # bits: where no point lies in so many, the axes are cut
PANELS = 6


# Bits against error

def bit_points(results):
    """[(bits, error, tensors, group, variant)] with the relative squared error over tensors."""
    if results.column("bits_per_weight") is None:
        return []
    points = []
    for g, variants in grouped(results).items():
        for v, s in scores(results, "weight_error", g, variants).items():
            bits = by_tensor(results, variants[v], "bits_per_weight")
            if s.tensors and s.value > 0 and bits:
                points.append((math.fsum(bits.values()) / len(bits), s.value**2, s.tensors, g, v))
    return points


def frontier(points):
    """The points that no other beats in both bits and error, from few bits to many; bits that differ by 0.02 % (a tensor scale) are one."""
    best, out = math.inf, []
    for point in sorted(points, key=lambda p: p[:2]):
        if point[1] < best:
            best = point[1]
            out = [p for p in out if p[0] < point[0] * (1 - 2e-4)] + [point]
    return out


@styled
def pareto_plot(results):
    """Bits of a weight against the relative squared error, every format, block and method; None for fewer than two points."""
    points = bit_points(results)
    if len(points) < 2:
        return None
    count = len(tensors(results))
    front = frontier([p for p in points if p[2] == count] or points)
    look = looks(results)
    parts = cut([p[0] for p in points])
    figure = Figure(figsize=(6.8 + 1.2 * (len(parts) - 1), 4.6), layout="constrained")
    axes = figure.subplots(1, len(parts), squeeze=False, width_ratios=[1.9, 1.0][:len(parts)])[0]
    for ax, (low, high) in zip(axes, parts):
        inside = [p for p in points if low <= p[0] <= high]
        draw_bits(ax, inside, [p for p in front if p in inside], count, look)
        label_front(ax, [p for p in front if p in inside])
    axes[0].set_ylabel("relative squared error |Wq − W|² / |W|²")
    figure.supxlabel("bits per weight, scales included", fontsize=9)
    extra = [(Line2D([], [], color=INK, linewidth=1.0, linestyle=(0, (4, 2))), "least error at these bits")]
    if any(p[2] < count for p in points):
        extra.append((Line2D([], [], linestyle="none", marker="o", markerfacecolor="none", markeredgecolor=INK), "not run on every tensor"))
    method_legend(figure, [p[4] for p in points], look, extra=extra)
    caption = ("Every format, block and method: a colour and a mark are a method, over all tensors. Points on the dashed frontier are named: "
               "nothing run here has less error with as few bits. Bits count codes, block scales and the tensor scale."
               + (" The axes are cut where no point lies; each panel has its own range of errors." if len(parts) > 1 else ""))
    data = [[*p[3], *p[4].cells, p[0], p[1], p[2], int(p in front)] for p in points]
    return Plot("pareto", "Bits against error", caption, figure,
                ["format", "block", "method", "settings", "bits_per_weight", "relative_mse", "tensors", "on_frontier"], data)


def cut(bits):
    """[(least, most)] of the bits, in two parts where the first gap of more than GAP lies."""
    bits = sorted(bits)
    gap = next((i for i in range(1, len(bits)) if bits[i] - bits[i - 1] > GAP), None)
    return [(bits[0], bits[-1])] if gap is None else [(bits[0], bits[gap - 1]), (bits[gap], bits[-1])]


def draw_bits(ax, points, front, count, look):
    """Points of one part, with the frontier among them."""
    for bits, error, have, _, v in points:
        style = dot(*look[v], size=6.0, alpha=0.9)
        if have < count:
            style.update(markerfacecolor="none", markeredgecolor=look[v][0], markeredgewidth=1.1)
        ax.plot([bits], [error], **style)
    ax.step([p[0] for p in front], [p[1] for p in front], where="post", color=INK, linewidth=1.0, linestyle=(0, (4, 2)), zorder=0)
    ax.set(yscale="log")
    ax.grid()
    log_range(ax.yaxis, [p[1] for p in points])
    ax.margins(x=0.12)


def label_front(ax, front):
    """Names below and left of the frontier, where no point can lie, each moved down until it is clear of those before it."""
    names = [shorten(f"{format_name(g[0])}/{g[1]} {v.label}", 40) for *_, g, v in front]
    widths = [4.4 * len(name) + 8 for name in names]
    ax.figure.draw_without_rendering()
    have, (low, high) = ax.bbox.width * 72 / ax.figure.dpi, ax.get_xlim()
    share = [min(width / have, 0.7) for width in widths]
    ax.set_xlim(min([low, *((p[0] - high * s) / (1 - s) for p, s in zip(front, share))]), high)
    taken, place = [], ax.transData.transform([p[:2] for p in front]) * 72 / ax.figure.dpi
    for (x, y), point, name, width in zip(place, front, names, widths):
        top = y - 7
        while any(left < x and x - width < right and abs(top - other) < 9 for left, right, other in taken):
            top -= 2
        taken.append((x - width, x, top))
        line = dict(arrowstyle="-", color=FAINT, linewidth=0.5, shrinkA=0, shrinkB=3) if y - top > 12 else None
        ax.annotate(name, point[:2], (-3, top - y), textcoords="offset points", ha="right", va="center", fontsize=7.5, arrowprops=line)


# Theory

SIGMA = re.compile(r" sigma [^ ]+$")



def theory_points(results):
    """[(family, tensor, group, variant, sigma, measured, low, high, expected)]: means over seeds, with the interval of the mean."""
    if results.column("expected_relative_mse") is None:
        return []
    points = []
    for g, variants in grouped(results).items():
        for v, rows in variants.items():
            measured, expected = (by_tensor(results, rows, c) for c in ("relative_mse", "expected_relative_mse"))
            sigma = by_tensor(results, rows, "sigma")
            for k in [k for k in expected if k in measured and expected[k] > 0 and measured[k] > 0]:
                half = half_width(results, [i for i in rows if tensor_key(results, i) == k])
                family = SIGMA.sub("", k[0])
                points.append((family, k, g, v, sigma.get(k, math.nan), measured[k], measured[k] - half, measured[k] + half, expected[k]))
    return points


def half_width(results, rows):
    """Half the 95 % interval of the mean over seeds, as blocks vary; 0 where the file does not tell."""
    errors = [float(results.table["relative_mse_error"][i]) for i in rows] if "relative_mse_error" in results.table else [math.nan]
    squares = math.fsum(e * e for e in errors)
    return NORMAL_QUANTILE * math.sqrt(squares) / len(errors) if math.isfinite(squares) else 0.0


def curves(points, axis):
    """{panel: {line: [(x, measured, low, high, expected)]}} with two or more x; block: a line per input, sigma: a line per block."""
    panels = {}
    for family, key, g, v, sigma, *numbers in points:
        if axis == "sigma" and not (sigma > 0):
            continue
        panel = (g[0], key) if axis == "block" else (g[0], (family, key[1]))
        line, x = ((v, None), g[1]) if axis == "block" else ((v, g[1]), sigma)
        panels.setdefault(panel, {}).setdefault(line, []).append((x, *numbers))
    panels = {p: {line: sorted(xs) for line, xs in lines.items() if len({x[0] for x in xs}) > 1} for p, lines in panels.items()}
    return {p: lines for p, lines in panels.items() if lines}


@styled
def theory_plot(results, axis="block"):
    """Measured errors on the curves that theory expects, along blocks or sigma; None where fewer than two lie on any."""
    panels = curves(theory_points(results), axis)
    if not panels:
        return None
    look = looks(results)
    drawn = [list(panels)[i * (len(panels) - 1) // max(PANELS - 1, 1)] for i in range(PANELS)] if len(panels) > PANELS else list(panels)
    shown = {panel: panels[panel] for panel in drawn}
    figure, axes = grid_axes(len(shown), 3.1, 2.7, columns=2)
    names = {key for _, key in shown}
    for ax, ((form, key), lines) in zip(axes, shown.items()):
        draw_theory(ax, lines, look, axis)
        ax.set_title(format_name(form) + (f", {shorten(key[0], 24)}" if len(names) > 1 else ""))
    label = "elements in a block" if axis == "block" else "standard deviation of the weights"
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("relative squared error |Wq − W|² / |W|²", fontsize=9)
    extra = [(Line2D([], [], color=INK, linewidth=1.2), "expected")]
    method_legend(figure, [v for lines in shown.values() for v, _ in lines], look, extra=extra)
    caption = ("A line is the error that theory expects of a normal distribution, a mark the measured one (the mean over seeds) with its 95 % "
               "interval. " + ("" if axis == "block" else "A number is the block size of the line that starts there. ")
               + (f"{PANELS} of {len(panels)} panels are drawn; the CSV has all." if len(shown) < len(panels) else "")).strip()
    data = [[form, *key, *v.cells, "" if block is None else block, *x] for (form, key), lines in panels.items()
            for (v, block), xs in lines.items() for x in xs]
    return Plot(f"theory_{axis}", f"Theory and measurement along {'blocks' if axis == 'block' else 'the standard deviation'}", caption, figure,
                ["format", "input", "tensor", "method", "settings", "block_of_line", axis, "measured", "low", "high", "expected"], data)


def draw_theory(ax, lines, look, axis):
    """One panel, both axes logarithmic."""
    for (v, block), xs in lines.items():
        colour, marker = look[v]
        x, measured, low, high, expected = zip(*xs)
        ax.plot(x, expected, color=colour, linewidth=1.2)
        ax.vlines(x, low, high, color=colour, linewidth=1.2)
        ax.plot(x, measured, **dot(colour, marker, 4.6))
    every = [xs for line in lines.values() for xs in line]
    ax.set(xscale="log", yscale="log")
    log_range(ax.yaxis, [y for _, measured, *_, expected in every for y in (measured, expected)])
    if axis == "block":
        blocks = sorted({x[0] for x in every})
        ax.xaxis.set_major_locator(FixedLocator(blocks))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        log_range(ax.xaxis, [x[0] for x in every])
        label_blocks(ax, lines, look)
    ax.grid()


def label_blocks(ax, lines, look):
    """The block size of each line left of its start, apart from one another."""
    ax.set_xlim(left=ax.get_xlim()[0] / 1.25)
    starts = sorted((ax.transData.transform(xs[0][::4])[1] * 72 / ax.figure.dpi, xs[0], block, look[v][0]) for (v, block), xs in lines.items())
    last = -math.inf
    for y, start, block, colour in starts:
        last = max(y, last + 7)
        ax.annotate(str(block), (start[0], start[4]), (-5, last - y), textcoords="offset points", ha="right", va="center", fontsize=7, color=colour)
