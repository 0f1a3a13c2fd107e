"""A map of a model: its layers by their modules, for the best methods."""
import math
import re

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from .estimates import best_of, scores
from .groups import by_tensor, grouped, shorten, title_of
from .style import INK, SHEET, Plot, styled

NUMBER = re.compile(r"(?<![^.])(\d+)(?![^.])")  # a part of a dotted name that is a number
SEQUENTIAL = ("#f4f1e6", "#cfe0d8", "#8fbfc4", "#4a8fae", "#25618f", "#123a63")
PANELS, MODULES = 4, 40


def layer_of(name):
    """(what stands before the layer's number, the number, the rest) of a tensor's name; None without one."""
    found = NUMBER.search(name)
    return (name[:found.start()].strip("."), int(found[1]), name[found.end():].strip(".") or "weight") if found else None


def cells_of(results, rows):
    """{((input, before), layer, module): SQNR in dB} of these rows."""
    cells = {}
    for (source, name), value in by_tensor(results, rows, "relative_mse").items():
        layer = layer_of(name)
        if layer and value > 0:
            cells[(source, layer[0]), layer[1], layer[2]] = -10 * math.log10(value)
    return cells


@styled
def layer_plot(results):
    """Signal to noise of every layer and module under the best method of each format and block; None for fewer than three layers."""
    panels, data = {}, []
    for g, variants in grouped(results).items():
        cells = {v: cells_of(results, rows) for v, rows in variants.items()}
        data += [[*g, *v.cells, *stack, layer, module, value] for v, found in cells.items() for (stack, layer, module), value in found.items()]
        best = best_of({v: s for v, s in scores(results, "weight_error", g, variants).items() if cells[v]})
        if best:
            panels[g, best[0]] = cells[best[0]]
    lines = sorted({cell[:2] for found in panels.values() for cell in found})
    if len({layer for _, layer in lines}) < 3:
        return None
    everything = list(dict.fromkeys(cell[2] for found in panels.values() for cell in found))
    modules, shown = everything[:MODULES], dict(list(panels.items())[:PANELS])
    figure = draw_layers(shown, lines, modules)
    caption = ("Signal to quantization noise of every tensor, layers down, modules across: 3 dB less is twice the squared error. Each panel is "
               "the best method of a format and block; all have one colour scale."
               + (f" The first {MODULES} of {len(everything)} modules are drawn." if len(everything) > MODULES else "")
               + (f" The first {PANELS} of {len(panels)} panels are drawn." if len(panels) > PANELS else ""))
    return Plot("layers", "Layers and modules", caption, figure,
                ["format", "block", "method", "settings", "input", "before", "layer", "module", "sqnr_db"], data, inverts=True)


def draw_layers(panels, lines, modules):
    """Panels side by side, with numbers as long as there is room for them."""
    room = len(lines) <= 40
    cell = 0.22 if room else max(0.05, 8.5 / len(lines))
    figure = Figure(figsize=(max(0.36 * len(modules), 1.5) * len(panels) + 1.7, cell * len(lines) + 1.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    grids = [np.array([[found.get((*line, module), math.nan) for module in modules] for line in lines]) for found in panels.values()]
    low, high = min(np.nanmin(g) for g in grids), max(np.nanmax(g) for g in grids)
    colours = LinearSegmentedColormap.from_list("sqnr", SEQUENTIAL, N=101)
    colours.set_bad((0, 0, 0, 0))
    for ax, (g, v), grid in zip(axes, panels, grids):
        image = ax.pcolormesh(np.ma.masked_invalid(grid), cmap=colours, vmin=low, vmax=max(high, low + 1e-6), edgecolors=SHEET,
                              linewidth=0.5 if room else 0)
        ax.set_title(f"{title_of(g)}\n{shorten(v.label, 30)}")
        ax.set_xticks([j + 0.5 for j in range(len(modules))])
        ax.set_xticklabels([shorten(module, 26) for module in modules], rotation=90, fontsize=8)
        ax.tick_params(length=0)
        for side in ax.spines.values():
            side.set_visible(False)
        for (i, j), value in np.ndenumerate(grid if room else np.empty((0, 0))):
            if math.isfinite(value):
                ax.text(j + 0.5, i + 0.5, f"{value:.1f}", ha="center", va="center", fontsize=7,
                        color=SHEET if value - low > 0.5 * (high - low) else INK)
    axes[0].invert_yaxis()
    name_layers(axes[0], lines, room)
    bar = figure.colorbar(image, ax=list(axes), fraction=0.05, pad=0.02, aspect=25)
    bar.set_label("signal to noise (dB)")
    bar.solids.set(rasterized=False, edgecolor="face")
    bar.outline.set_visible(False)
    return figure


def name_layers(ax, lines, room):
    """Numbers of the layers; what stands before them in the label, or with them where there are several stacks."""
    stacks = list(dict.fromkeys(stack for stack, _ in lines))
    names = [shorten(f"{stack[0]}: {stack[1]}.{layer}", 30) if len(stacks) > 1 else str(layer) for stack, layer in lines]
    step = 1 if room else -(-len(lines) // 40)
    ax.set_yticks([i + 0.5 for i in range(0, len(lines), step)])
    ax.set_yticklabels(names[::step], fontsize=8)
    ax.set_ylabel("layer" if len(stacks) > 1 else shorten(f"{stacks[0][1] or 'tensor'}.*", 40))
