"""Figures of the layers' outputs: their error against the weights', and what foretells it."""
import math

from matplotlib.ticker import MaxNLocator

from .estimates import pearson, spearman
from .groups import by_tensor, grouped, title_of
from .style import FAINT, Plot, dot, grid_axes, log_range, looks, method_legend, styled


@styled
def output_error_plot(results):
    """Output error against weight error, one point per tensor; None without activations."""
    if results.column("output_error") is None:
        return None
    groups, data = {}, []
    for g, variants in grouped(results).items():
        for v, rows in variants.items():
            weight, output = (by_tensor(results, rows, c) for c in ("weight_error", "output_error"))
            points = {k: (weight[k], output[k]) for k in output if k in weight}
            if points:
                groups.setdefault(g, {})[v] = points
                data += [[*g, *v.cells, *k, *xy] for k, xy in points.items()]
    if not groups:
        return None
    look = looks(results)
    figure, axes = grid_axes(len(groups), 2.7, 2.8)
    for ax, (g, points) in zip(axes, groups.items()):
        draw_outputs(ax, g, points, look)
    figure.supxlabel("relative weight error |Wq − W| / |W| (%)", fontsize=9)
    figure.supylabel("relative output error |XWqᵀ − XWᵀ| / |XWᵀ| (%)", fontsize=9)
    variants = [v for points in groups.values() for v in points]
    method_legend(figure, variants, look)
    caption = ("A point is one tensor under one method. On the dashed diagonal the layer's outputs are as wrong as its weights; below "
               "it the activations soften the error, above it they amplify it. Both axes of a panel "
               "have the same range, panels have their own.")
    return Plot("output_error", "Output error against weight error", caption, figure,
                ["format", "block", "method", "settings", "input", "tensor", "weight_error", "output_error"], data)


def draw_outputs(ax, group, points, look):
    """One panel with its diagonal."""
    every = [100 * c for p in points.values() for xy in p.values() for c in xy]
    margin = 0.06 * (max(every) - min(every)) or 0.1 * max(every) or 1.0
    limits = (min(every) - margin, max(every) + margin)
    ax.set_title(title_of(group))
    ax.plot(limits, limits, color=FAINT, linewidth=0.8, linestyle="--", zorder=0)
    crowded = max(len(p) for p in points.values()) > 15
    for v, p in points.items():
        x, y = zip(*p.values())
        ax.plot([100 * a for a in x], [100 * a for a in y], **dot(*look[v], size=4.2 if crowded else 5.6, alpha=0.85))
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.grid()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))


PROXIES = {"weight_error": "weight error |Wq − W| / |W|", "block_output_error": "output error of blocks that do not interact"}


def proxy_pairs(results, proxy):
    """[(group, variant, tensor, proxy, output error)] of numbers above 0."""
    pairs = []
    for g, variants in grouped(results).items():
        for v, rows in variants.items():
            foretold, output = by_tensor(results, rows, proxy), by_tensor(results, rows, "output_error")
            pairs += [(g, v, k, foretold[k], output[k]) for k in foretold if output.get(k, 0) > 0 and foretold[k] > 0]
    return pairs


def correlations(pairs):
    """(within, cells, over all, Pearson of logs over all): `within` is the mean rank correlation over methods of one cell.

    A cell is a tensor under one format and block, with three methods or more."""
    cells = {}
    for g, _, key, x, y in pairs:
        cells.setdefault((g, key), []).append((x, y))
    inside = [spearman(*zip(*cell)) for cell in cells.values()]
    inside = [value for value in inside if math.isfinite(value)]
    x, y = zip(*((x, y) for *_, x, y in pairs))
    mean = math.fsum(inside) / len(inside) if inside else math.nan
    return mean, len(inside), spearman(x, y), pearson([math.log(v) for v in x], [math.log(v) for v in y])


def proxies(results):
    """{proxy: pairs} for those that the file has three pairs or more of."""
    if results.column("output_error") is None:
        return {}
    found = {proxy: proxy_pairs(results, proxy) for proxy in PROXIES if results.column(proxy) is not None}
    return {proxy: pairs for proxy, pairs in found.items() if len(pairs) > 2}


@styled
def proxy_plot(results):
    """Output error against what is cheaper to know; None without activations or without the second proxy."""
    found = proxies(results)
    if "block_output_error" not in found:
        return None
    look = looks(results)
    figure, axes = grid_axes(len(found), 3.5, 3.3, columns=2)
    data = []
    for ax, (proxy, pairs) in zip(axes, found.items()):
        draw_proxy(ax, PROXIES[proxy], pairs, look)
        data += [[proxy, *g, *v.cells, *k, x, y] for g, v, k, x, y in pairs]
    axes[0].set_ylabel("relative output error (%)")
    method_legend(figure, [v for pairs in found.values() for _, v, *_ in pairs], look)
    caption = ("What foretells the error of a layer's outputs: its weights' error, and the output error that the blocks would have if "
               "their errors did not interact. A point is one tensor under one method, format and block. On the dashed line both are "
               "equal; the closer a cloud is to a rising line, the better its proxy ranks methods.")
    return Plot("proxies", "What foretells the output error", caption, figure,
                ["proxy", "format", "block", "method", "settings", "input", "tensor", "value", "output_error"], data)


def draw_proxy(ax, name, pairs, look):
    """One cloud, both axes logarithmic, with its correlations."""
    size = 3.6 if len(pairs) > 150 else 5.0
    for v in dict.fromkeys(pair[1] for pair in pairs):
        x, y = zip(*((x, y) for _, of, _, x, y in pairs if of == v))
        ax.plot([100 * a for a in x], [100 * a for a in y], **dot(*look[v], size=size, alpha=0.85))
    within, _, ranked, logs = correlations(pairs)
    told = f"log correlation {logs:.3f}, rank {ranked:.3f}" if math.isfinite(ranked) else ""
    told += f"\nrank within a tensor {within:.3f}" if math.isfinite(within) else ""
    ax.set_title(told.replace("-", "−"), fontweight="normal", fontsize=8.5)
    ax.axline((1, 1), (2, 2), color=FAINT, linewidth=0.8, linestyle="--", zorder=0)
    ax.set(xscale="log", yscale="log", xlabel=f"{name} (%)")
    for values, axis in (([100 * p[3] for p in pairs], ax.xaxis), ([100 * p[4] for p in pairs], ax.yaxis)):
        log_range(axis, values)
    ax.grid()


def proxy_table(results):
    """The correlations of every proxy as a table of the page; None where the file has no two of them."""
    found = proxies(results)
    if "block_output_error" not in found:
        return None
    rows = [[proxy, len(pairs), *correlations(pairs)] for proxy, pairs in found.items()]
    shown = [[PROXIES[proxy], str(count), number(logs), number(ranked), number(within), str(cells)]
             for proxy, count, within, cells, ranked, logs in rows]
    return Plot("correlations", "Correlation with the output error",
                "Within: the mean over tensors, formats and blocks of the rank correlation over their methods, where there are three or "
                "more. All: over every row.", None,
                ["proxy", "pairs", "rank_within", "cells", "rank_all", "log_pearson_all"], rows,
                shown=(["proxy", "pairs", "logs, all", "ranks, all", "ranks, within", "cells"], shown))


def number(value):
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else "–"
