#!/usr/bin/env python3
"""Makes a page, figures and CSV from a results file of `fp4scope sweep`.

    report.py FILE.h5 -o DIR

DIR/index.html is self-contained; DIR/figures/NAME.svg and NAME.csv hold each figure and the data behind it; DIR/table.csv
holds the table. The same file gives the same bytes. schema.md describes FILE.h5. Every figure function takes a Results and
returns a Plot, or None where the file has nothing to draw: import them from a notebook.
"""
import argparse
import csv
import functools
import html
import io
import math
import re
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = {"h5py": "python3-h5py", "numpy": "python3-numpy", "matplotlib": "python3-matplotlib"}
try:
    import numpy as np
    import h5py
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.colors import LinearSegmentedColormap, to_rgb
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator
except ImportError as missing:
    module = (missing.name or "matplotlib").split(".")[0]
    raise SystemExit(f"report.py: the Python module {module} does not load: {missing} "
                     f"(apt install {PACKAGES.get(module, 'python3-matplotlib')})")

NEEDED = ("run", "input", "tensor", "rows", "cols", "format", "block", "method", "weight_error", "relative_mse", "mse")
LEADING = ("run", "input", "tensor", "format", "block", "method", "select", "weight_error", "output_error")  # first in the page's table
SETTINGS = ("select", "tensor_scale_rule", "scale_max", "activations")  # may tell two rows of one method apart
PERCENT = re.compile(r"(_share|_error|relative_mse)$")
ABSOLUTE = {"max_error"}  # ends in _error, but in the tensor's own units
FORMATS = ("nvfp4", "mxfp4", "nvint4", "if4")
NAIVE_NAMES = {"nvfp4": "static6", "nvint4": "static6", "mxfp4": "floor"}  # what naive is called where it is not listed

# Colour and marker per method, the same in every figure: Okabe and Ito's colours, Tol's where those run out.
METHODS = {
    "naive": ("#333333", "o"), "static6": ("#8c8c8c", "s"), "static4": ("#e69f00", "D"), "floor": ("#999933", "v"),
    "ceil": ("#d55e00", "^"), "even": ("#cc79a7", "P"), "rceil": ("#882255", "X"), "4over6": ("#56b4e9", "h"),
    "sse": ("#0072b2", "d"), "exhaustive": ("#332288", "*"), "hessian": ("#009e73", "p"),
}
SPARE = (("#aa4499", "<"), ("#117733", ">"), ("#661100", "8"), ("#6699cc", "H"), ("#ddaa33", "s"))
DIVERGING = ("#b35806", "#f1a340", "#fee0b6", "#f7f7f7", "#d1e5f0", "#67a9cf", "#2166ac")  # loss, none, gain
INK, FAINT = "#222222", "#8a8a8a"

STYLE = {
    "svg.hashsalt": "fp4scope", "svg.fonttype": "path", "text.parse_math": False, "font.family": "DejaVu Sans",
    "font.size": 9.0, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.fontsize": 8.5, "legend.frameon": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "savefig.edgecolor": "none",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "grid.color": "#dddddd", "grid.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
}


class ReportError(Exception):
    """One line: FILE: what (mend)."""


# The file

@dataclass
class Results:
    """A results file in memory. Columns are numpy arrays, text as object arrays of str."""
    attributes: dict
    table: dict
    notes: dict                                  # column: (unit, description)
    moves: dict = field(default_factory=dict)    # run: {offset: blocks}

    @property
    def size(self):
        return len(self.table["run"])

    @property
    def complete(self):
        return bool(self.attributes.get("complete", 1))

    def column(self, name):
        """A column, or None if the file lacks it or nothing in it is a number."""
        values = self.table.get(name)
        return None if values is None or not np.isfinite(values.astype(float)).any() else values


def as_text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_column(dataset):
    """One column as a 1-D numpy array."""
    values = np.asarray(dataset[()])
    if values.ndim != 1:
        raise ReportError(f"{dataset.name} is not one-dimensional")
    if values.dtype.kind not in "SO":
        return values
    text = np.empty(len(values), dtype=object)
    text[:] = [as_text(v) for v in values]
    return text


def column_order(group):
    """Names as the attribute `columns` lists them, then any that it does not."""
    listed = [name for name in as_text(group.attrs.get("columns", "")).split(",") if name in group]
    return listed + [name for name in group if name not in listed]


def read_moves(file, runs):
    """{run: {offset: blocks}} for the runs that have a histogram."""
    moves = {}
    for run in runs:
        group = file.get(f"runs/{run}")
        if isinstance(group, h5py.Group) and "scale_moves" in group and "scale_move_offsets" in group:
            moves[run] = dict(zip(group["scale_move_offsets"][()].tolist(), group["scale_moves"][()].tolist()))
    return moves


def parse(file):
    """Results from an open file. Raises ReportError without the file's name."""
    group = file.get("table")
    if not isinstance(group, h5py.Group):
        raise ReportError("no group /table, so not a results file (make one with `fp4scope sweep -o FILE.h5`)")
    table = {name: read_column(group[name]) for name in column_order(group) if isinstance(group[name], h5py.Dataset)}
    lacking = [name for name in NEEDED if name not in table]
    if lacking:
        raise ReportError(f"the table lacks the column {lacking[0]} (make the file again with this version's `fp4scope sweep`)")
    if len({len(column) for column in table.values()}) > 1:
        raise ReportError("the table's columns differ in length (the file is damaged; make it again)")
    notes = {name: tuple(as_text(group[name].attrs.get(key, "")) for key in ("unit", "description")) for name in table}
    attributes = {name: as_text(v) if isinstance(v, (bytes, str)) else np.asarray(v).tolist() for name, v in file.attrs.items()}
    return Results(attributes, table, notes, read_moves(file, table["run"]))


def load(path):
    """Reads a results file. Raises ReportError with one line that says what is wrong and how to mend it."""
    if not Path(path).is_file():
        raise ReportError(f"{path}: no such file (make one with `fp4scope sweep -o {path}`)")
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise ReportError(f"{path}: not an HDF5 file (give a file that `fp4scope sweep` wrote)") from None
    with file:
        try:
            return parse(file)
        except ReportError as error:
            raise ReportError(f"{path}: {error}") from None
        except (OSError, ValueError, KeyError) as error:
            what = " ".join(str(error).split())
            raise ReportError(f"{path}: cannot be read, {what} (the file is damaged; make it again)") from None


# Rows into groups

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


def setting(value):
    """A setting's value as it stands in a label."""
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)


def settings_that_vary(results):
    """{(format, method): columns that tell apart its rows of one tensor and block}; text columns not known here may, too."""
    table = results.table
    unknown = [n for n in table if table[n].dtype.kind == "O" and not n.endswith("_hash")
               and n not in ("run", "input", "tensor", "dtype", "format", "method", *SETTINGS)]
    cells = {}
    for i, cell in enumerate(zip(*(table[n] for n in ("input", "tensor", "format", "block", "method")))):
        cells.setdefault(cell, []).append(i)
    varying = {}
    for (*_, form, _, method), rows in cells.items():
        names = varying.setdefault((form, method), [])
        names += [n for n in (*SETTINGS, *unknown) if n in table and n not in names
                  and len({setting(table[n][i]) for i in rows}) > 1]
    return varying


@dataclass(frozen=True)
class Variant:
    """A method under one setting; `label` names both."""
    method: str
    settings: tuple = ()

    @property
    def label(self):
        return ", ".join([plain(self.method), *(plain(s) for s in self.settings if s)])


def grouped(results):
    """{(format, block): {Variant: [row]}}, in the order in which everything is shown."""
    table, varying, groups = results.table, settings_that_vary(results), {}
    for i in range(results.size):
        form, method = table["format"][i], table["method"][i]
        shown = tuple(setting(table[n][i]) for n in varying[form, method])
        variants = groups.setdefault((form, int(table["block"][i])), {})
        variants.setdefault(Variant(method, shown), []).append(i)
    ordered = sorted(groups, key=lambda g: (rank(FORMATS, g[0]), g[1]))
    return {g: dict(sorted(groups[g].items(), key=lambda v: (rank(METHODS, v[0].method), v[0].settings))) for g in ordered}


def title_of(group):
    form, block = group
    return f"{form.upper() if form in FORMATS else plain(form)}, block {block}"


def baseline(group, variants, variant):
    """The naive variant to hold this one against: the one that shares most settings. None if naive was not run."""
    for name in ("naive", NAIVE_NAMES.get(group[0])):
        naive = [v for v in variants if v.method == name]
        if naive:
            return max(naive, key=lambda v: len(set(v.settings) & set(variant.settings)))
    return None


# Numbers over tensors

def tensor_key(results, row):
    return results.table["input"][row], results.table["tensor"][row]


def tensors(results):
    """(input, tensor) in the order of the table."""
    return list(dict.fromkeys(tensor_key(results, i) for i in range(results.size)))


def weights_of(results, column):
    """{tensor: weight} for an aggregate of a relative error: the sum of squares for weight errors, 1 for output errors."""
    if column != "weight_error":
        return dict.fromkeys(tensors(results), 1.0)
    table, energy = results.table, {}
    for i in range(results.size):
        relative, mse = float(table["relative_mse"][i]), float(table["mse"][i])
        if relative > 0 and math.isfinite(relative) and math.isfinite(mse):
            energy.setdefault(tensor_key(results, i), mse * int(table["rows"][i]) * int(table["cols"][i]) / relative)
    return energy


def by_tensor(results, rows, column):
    """{tensor: value} of these rows, finite values only."""
    values = ((tensor_key(results, i), float(results.table[column][i])) for i in rows)
    return {key: value for key, value in values if math.isfinite(value)}


def aggregate(values, weights, over=None):
    """sqrt(sum w v^2 / sum w) over some tensors (all by default): for weight errors sqrt(sum SSE / sum of squares)."""
    keys = [k for k in values if over is None or k in over]
    if not keys:
        return math.nan
    w = [weights.get(k, 0.0) for k in keys]
    w = w if sum(w) > 0 else [1.0] * len(keys)
    return math.sqrt(math.fsum(a * values[k] ** 2 for a, k in zip(w, keys)) / math.fsum(w))


@dataclass
class Score:
    """How a variant does on all its tensors, and against naive on those that both have."""
    value: float
    tensors: int
    naive: float = math.nan
    paired: float = math.nan

    @property
    def gain(self):
        return 1 - self.paired / self.naive if self.naive > 0 else math.nan


def scores(results, column, group, variants):
    """{Variant: Score} of one format and block."""
    weights = weights_of(results, column)
    values = {v: by_tensor(results, rows, column) for v, rows in variants.items()}
    out = {}
    for v, mine in values.items():
        naive = values.get(baseline(group, variants, v), {})
        common = mine.keys() & naive.keys()
        out[v] = Score(aggregate(mine, weights), len(mine), aggregate(naive, weights, common), aggregate(mine, weights, common))
    return out


def best_of(score):
    """The variants with the largest gain (the least value where there is no naive), ties included; [] if none has a number."""
    usable = {v: s for v, s in score.items() if math.isfinite(s.value)}
    if not usable:
        return []
    if any(math.isfinite(s.gain) for s in usable.values()):
        merit = {v: s.gain for v, s in usable.items() if math.isfinite(s.gain)}
    else:
        merit = {v: -s.value for v, s in usable.items()}
    top = max(merit.values())
    return [v for v in merit if top - merit[v] <= 1e-9 * max(abs(top), 1e-3)]


# Figures

@dataclass
class Plot:
    """A figure, how to read it, and the data behind it."""
    name: str
    title: str
    caption: str
    figure: object
    header: list
    rows: list

    @functools.cached_property
    def svg(self):
        return to_svg(self.figure)


def styled(function):
    """Runs a function under this file's style, whatever the user's settings are."""
    @functools.wraps(function)
    def wrapped(*arguments, **keywords):
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return function(*arguments, **keywords)
    return wrapped


def on_paper(svg):
    """The figure with a light background of its own, so that a file is readable on any page."""
    return re.sub(r"(<svg [^>]*>)", r'\1\n <rect width="100%" height="100%" fill="#fdfdfc"/>', svg, count=1, flags=re.DOTALL)


@styled
def to_svg(figure):
    """The figure as SVG text: no date, no program, the same bytes each time."""
    FigureCanvasSVG(figure)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.08, transparent=True,
                       metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return out.getvalue().decode("utf-8")


def looks(results):
    """{Variant: (colour, marker)}: a method's own, lighter for its further settings."""
    variants = {v for group in grouped(results).values() for v in group}
    methods = sorted({v.method for v in variants} - set(METHODS))
    palette = {**METHODS, **{m: SPARE[i % len(SPARE)] for i, m in enumerate(methods)}}
    out = {}
    for method in palette:
        same = sorted((v for v in variants if v.method == method), key=lambda v: v.settings)
        for i, v in enumerate(same):
            fade = min(0.3 * i, 0.6)
            rgb = tuple(round(c + (1 - c) * fade, 4) for c in to_rgb(palette[method][0]))
            out[v] = (rgb, palette[method][1])
    return out


def percent(value, digits=2):
    return f"{100 * value:.{digits}f}\u00a0%"


def dot(colour, marker, size=6.5, **more):
    """Line2D settings of a method's mark."""
    size *= {"*": 1.35, "d": 1.1, "h": 1.1, "p": 1.1, "D": 0.85}.get(marker, 1.0)
    return dict(linestyle="none", marker=marker, markersize=size, markerfacecolor=colour, markeredgecolor="white",
                markeredgewidth=0.5, **more)


def legend(figure, handles, labels, columns=None, where=(1.0, 0.98), loc="upper left", **more):
    """A legend outside the axes; saving grows the picture around it."""
    figure.legend(handles, labels, loc=loc, bbox_to_anchor=where, ncol=columns or 1, borderaxespad=0.6, handletextpad=0.5, **more)


def method_legend(figure, variants, look, **more):
    handles = [Line2D([], [], **dot(*look[v], size=7)) for v in variants]
    legend(figure, handles, [shorten(v.label) for v in variants], **more)


def stacked_axes(heights, width, row_height, extra):
    """One panel above the other, each as high as it has rows, with one x axis."""
    figure = Figure(figsize=(width, row_height * sum(heights) + 0.42 * len(heights) + extra), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.05, hspace=0.0)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    return figure, axes


@styled
def weight_error_plot(results):
    """Weight error of each format, block and method: the aggregate over tensors, and every tensor."""
    groups = {g: scores(results, "weight_error", g, v) for g, v in grouped(results).items()}
    groups = {g: {v: s for v, s in score.items() if s.tensors} for g, score in groups.items()}
    groups = {g: score for g, score in groups.items() if score}
    if not groups:
        return None
    look, rows_of, count = looks(results), grouped(results), len(tensors(results))
    figure, axes = stacked_axes([len(s) + 0.4 for s in groups.values()], 7.2, 0.235, 0.45)
    data, several = [], False
    for ax, (g, score) in zip(axes, groups.items()):
        best = best_of(score)
        for y, (v, s) in enumerate(score.items()):
            spread = by_tensor(results, rows_of[g][v], "weight_error")
            several = several or len(spread) > 1
            draw_error_row(ax, y, v, s, spread, look[v], s.tensors < count)
            data.append([*g, v.method, " ".join(v.settings), "all", "", "", s.tensors, s.value, s.gain])
            data += [[*g, v.method, " ".join(v.settings), "tensor", *key, 1, value, ""] for key, value in spread.items()]
        finish_error_panel(ax, g, score, best)
    for ax in axes[:-1]:
        ax.tick_params(axis="x", length=0)
    axes[-1].set_xlabel("relative weight error |Wq − W| / |W| (%)")
    error_legend(figure, several, any(s.tensors < count for score in groups.values() for s in score.values()),
                 any(math.isfinite(s.gain) for score in groups.values() for s in score.values()))
    caption = ("Smaller is better. "
               + ("A mark is the error over all tensors, sqrt(sum of squared errors / sum of squares), a thin stroke one tensor. "
                  if several else "")
               + "On the right its value, and the change against naive on the tensors that both have; the best of each panel "
                 "is in bold.")
    header = ["format", "block", "method", "settings", "kind", "input", "tensor", "tensors", "weight_error", "gain_over_naive"]
    return Plot("weight_error", "Weight error", caption, figure, header, data)


def draw_error_row(ax, y, variant, score, spread, look, partial):
    """One method: strokes for tensors, a mark for all of them."""
    colour, marker = look
    if len(spread) > 1:
        values = [100 * v for v in spread.values()]
        ax.plot([min(values), max(values)], [y, y], color=colour, linewidth=0.8, alpha=0.45, zorder=1)
        ax.plot(values, [y] * len(values), linestyle="none", marker="|", markersize=6, markeredgewidth=0.8, color=colour,
                alpha=0.6 if len(values) < 30 else 0.3, zorder=2)
    style = dot(colour, marker, zorder=3)
    if partial:
        style.update(markerfacecolor="white", markeredgecolor=colour, markeredgewidth=1.2)
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
            margin_text(ax, y, 92, signed(-100 * s.gain, 1), color="#555555", fontweight=weight)
    margin_text(ax, -1.0, 42, "error %", fontsize=7.5, color="#555555")
    if any(math.isfinite(s.gain) for s in score.values()):
        margin_text(ax, -1.0, 92, "vs naive %", fontsize=7.5, color="#555555")
    naive = next((s.value for v, s in score.items() if v.method in ("naive", NAIVE_NAMES.get(group[0]))), None)
    if naive is not None:
        ax.axvline(100 * naive, color=METHODS["naive"][0], linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)


def margin_text(ax, y, points, text, **style):
    """Text that ends so many points to the right of the axes."""
    ax.annotate(text, (1, y), (points, 0), xycoords=ax.get_yaxis_transform(), textcoords="offset points", ha="right", va="center",
                annotation_clip=False, **{"fontsize": 8.5, **style})


def signed(value, places):
    """A number with a proper sign; none for zero."""
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def error_legend(figure, several, partial, naive):
    """What the marks mean; colours need no key here, since every row has its name."""
    entries = [(Line2D([], [], **dot(INK, "o")), "all tensors" if several else "error")]
    if several:
        entries.append((Line2D([], [], linestyle="none", marker="|", markersize=7, color=INK), "one tensor"))
    if partial:
        entries.append((Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", markeredgecolor=INK,
                               markersize=6.5), "not run on every tensor"))
    if naive:
        entries.append((Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (3, 2))), "naive"))
    if len(entries) > 1:
        legend(figure, *zip(*entries), columns=len(entries), where=(0.5, 0.0), loc="upper center")


def grid_axes(count, width, height, columns=3):
    """A figure of `count` panels; the panels that are left over are hidden."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(width * columns + 0.4, height * lines + 0.3), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.06)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes[:count]


def moves_of(results, rows):
    """{offset: blocks} summed over rows, or {} if there is no histogram."""
    total = {}
    for i in rows:
        for offset, blocks in results.moves.get(results.table["run"][i], {}).items():
            total[offset] = total.get(offset, 0) + blocks
    return total if sum(total.values()) else {}


@styled
def scale_moves_plot(results):
    """How far each method moves the scale code from the naive one: a histogram per method, format and block."""
    groups, data = {}, []
    for g, variants in grouped(results).items():
        for v, rows in variants.items():
            moves = moves_of(results, rows)
            if not moves or v.method in ("naive", NAIVE_NAMES.get(g[0]) if baseline(g, variants, v) == v else None):
                continue
            total = sum(moves.values())
            groups.setdefault(g, {})[v] = {offset: blocks / total for offset, blocks in moves.items()}
            data += [[*g, v.method, " ".join(v.settings), offset, blocks, blocks / total] for offset, blocks in sorted(moves.items())]
    if not groups:
        return None
    look = looks(results)
    figure, axes = format_axes(groups)
    for g, shares in groups.items():
        draw_moves(axes[g], g, shares, look)
    figure.supxlabel("scale code minus naive code (codes)", fontsize=9)
    figure.supylabel("share of blocks (0 to 100 %)", fontsize=9)
    caption = ("Where a method puts the block scale, counted in codes from the naive one at the same tensor scale; right of the dotted "
               "line the scale is larger. In E4M3 a code is a step of 1/16 to 1/8 of the scale, in UE8M0 a factor of two. All bars have "
               "one scale: one that ends just below the next line holds all blocks. The number on the right is the share of blocks that "
               "moved. Bars at 16 hold what lies beyond, too.")
    return Plot("scale_moves", "Scale moves", caption, figure,
                ["format", "block", "method", "settings", "offset", "blocks", "share"], data)


def format_axes(groups):
    """A figure with a line of panels per format, each line as high as its methods need: {group: axes}."""
    lines = []
    for g in groups:
        if lines and lines[-1][-1][0] == g[0] and len(lines[-1]) < 3:
            lines[-1].append(g)
        else:
            lines.append([g])
    heights = [max(len(groups[g]) for g in line) + 0.4 for line in lines]
    columns = max(len(line) for line in lines)
    figure = Figure(figsize=(3.4 * columns + 0.5, max(2.0, 0.38 * sum(heights) + 0.55 * len(lines) + 0.3)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06)
    grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
    return figure, {g: figure.add_subplot(grid[i, j]) for i, line in enumerate(lines) for j, g in enumerate(line)}


def draw_moves(ax, group, shares, look):
    """One panel: a small histogram per method on baselines one apart."""
    reach = max([abs(o) for s in shares.values() for o, share in s.items() if share > 0] + [1])
    ax.set_title(title_of(group))
    ax.axvline(0, color=INK, linewidth=0.7, linestyle=":", zorder=0)
    margin_text(ax, -1.12, 34, "moved", fontsize=7.5, color="#555555")
    for y, (v, share) in enumerate(shares.items()):
        ax.axhline(y, color="#cccccc", linewidth=0.6, zorder=0)
        offsets = [o for o in sorted(share) if share[o] > 0]
        ax.bar(offsets, [-0.88 * share[o] for o in offsets], bottom=y, width=0.8, color=look[v][0], linewidth=0)
        margin_text(ax, y - 0.3, 34, percent(1 - share.get(0, 0.0), 0), color="#555555")
    ax.set_xlim(-reach - 0.7, reach + 0.7)
    ax.set_ylim(len(shares) - 0.9, -1.1)
    ax.set_yticks([y - 0.3 for y in range(len(shares))])
    ax.set_yticklabels([shorten(v.label, 22) for v in shares])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ticks = [t for t in range(-16, 17, 1 if reach < 5 else 2 if reach < 9 else 4 if reach < 13 else 8) if abs(t) <= reach]
    ax.set_xticks(ticks)
    ax.set_xticklabels([{-16: "≤−16", 16: "≥16"}.get(t, signed(t, 0)) for t in ticks])


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
                data += [[*g, v.method, " ".join(v.settings), *k, *xy] for k, xy in points.items()]
    if not groups:
        return None
    look = looks(results)
    figure, axes = grid_axes(len(groups), 2.7, 2.8)
    for ax, (g, points) in zip(axes, groups.items()):
        draw_outputs(ax, g, points, look)
    figure.supxlabel("relative weight error |Wq − W| / |W| (%)", fontsize=9)
    figure.supylabel("relative output error |XWqᵀ − XWᵀ| / |XWᵀ| (%)", fontsize=9)
    variants = list(dict.fromkeys(v for points in groups.values() for v in points))
    method_legend(figure, sorted(variants, key=lambda v: (rank(METHODS, v.method), v.settings)), look)
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
            if base is None or base == v or v.method == "naive":
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
    figure = draw_gains(keys, columns, grid)
    kind = "Weight" if column == "weight_error" else "Output"
    caption = (f"{kind} error saved against the naive scale of the same format and block, tensor by tensor: 10 means a tenth less, a "
               "negative number more error. Empty cells were not run. Losses beyond the colour bar have its last colour.")
    data = [[*g, v.method, " ".join(v.settings), *k, grid[i, j] / 100] for j, (g, v) in enumerate(columns) for i, k in enumerate(keys)]
    return Plot(f"gain_{kind.lower()}", f"Gain over naive by tensor: {kind.lower()} error", caption, figure,
                ["format", "block", "method", "settings", "input", "tensor", "gain_over_naive"], data)


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
    image = ax.pcolormesh(np.ma.masked_invalid(grid), cmap=colours, vmin=-limit, vmax=limit, edgecolors="white",
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
                    color="white" if abs(value) > 0.72 * limit else INK)


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
            ax.axvline(start, color="white", linewidth=4)
        ax.annotate(title_of(columns[start][0]).replace(", block ", "\nblock "), ((start + end) / 2, 0), (0, -6), va="top", ha="center",
                    xycoords=ax.get_xaxis_transform(), textcoords="offset points", fontsize=8.5, fontweight="bold")


def plots(results):
    """Every figure that the file has data for."""
    if not results.size:
        return []
    made = [weight_error_plot(results), scale_moves_plot(results), output_error_plot(results), gain_plot(results),
            gain_plot(results, "output_error")]
    return [plot for plot in made if plot]


# Words

def listed(words):
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def summary(results):
    """One dict per format and block: the best variants by weight and by output error, each with its Score."""
    out = []
    for g, variants in grouped(results).items():
        row = {"group": g}
        for column in ("weight_error", "output_error"):
            score = scores(results, column, g, variants) if results.column(column) is not None else {}
            best = best_of(score)
            row[column] = (best, score[best[0]]) if best else ([], None)
        out.append(row)
    return out


def lowered(rows, column):
    """How far the best method is below naive in each format and block, in words."""
    parts = []
    for row in rows:
        best, score = row[column]
        names = ", ".join(v.label for v in best)
        if score.gain > 0:
            parts.append(f"{percent(score.gain, 1)} for {title_of(row['group'])} ({names})")
    return ", ".join(parts)


def finding(results):
    """The key finding, one paragraph computed from the table."""
    rows = summary(results)
    weight = [r for r in rows if r["weight_error"][0]]
    output = [r for r in rows if r["output_error"][0]]
    if not weight:
        return "No row has a weight error, so there is nothing to compare."
    count = len(tensors(results))
    first = min(weight, key=lambda r: r["weight_error"][1].value)
    best, score = first["weight_error"]
    tie = " (equal)" if len(best) > 1 else ""
    told = (f"{f'Over {count} tensors, the' if count > 1 else 'The'} smallest weight error is {percent(score.value)}: "
            f"{title_of(first['group'])} with scales by {listed(v.label for v in best)}{tie}.")
    for rows, column, words in ((weight, "weight_error", "Against the naive scale, the best method lowers the weight error by"),
                                (output, "output_error", "The output error (root mean square over tensors) falls by")):
        text = lowered(rows, column)
        told += f" {words} {text}." if text else ""
    return told


# The page

CSS = """
:root{color-scheme:light dark;--bg:#f6f6f4;--card:#fff;--ink:#1d1d1f;--soft:#5d5d63;--line:#dcdcd8;--accent:#0062a3;--sheet:#fdfdfc;
--warn:#fff1d6;--warnink:#6b4500}
@media(prefers-color-scheme:dark){:root{--bg:#17181b;--card:#202226;--ink:#e8e8ea;--soft:#a4a6ad;--line:#383b41;
--accent:#7cc0f5;--sheet:#e9e9e6;--warn:#4a3608;--warnink:#ffe2a6}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:72rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.5rem 0 .75rem}
.sub,figcaption,.note,footer{color:var(--soft);font-size:.9rem}
.sub{margin:.25rem 0 1.25rem}
a{color:var(--accent)}
.banner{background:var(--warn);color:var(--warnink);padding:.7rem 1rem;border-radius:.5rem;font-weight:600}
.finding{max-width:50rem;overflow-wrap:anywhere}
figure{margin:0}
.sheet{background:var(--sheet);border:1px solid var(--line);border-radius:.6rem;padding:1rem;overflow-x:auto;text-align:center}
.sheet svg{max-width:100%;height:auto}
figcaption{margin:.6rem .2rem 0;max-width:50rem}
.scroll{overflow:auto;max-height:75vh;border:1px solid var(--line);border-radius:.6rem;background:var(--card)}
table{border-collapse:separate;border-spacing:0;font-size:.84rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.32rem .65rem;text-align:left;white-space:nowrap;border-bottom:1px solid var(--line)}
td.wrap{white-space:normal;overflow-wrap:anywhere;min-width:20rem;max-width:26rem}
.n{text-align:right}
thead th{position:sticky;top:0;background:var(--card);vertical-align:bottom;z-index:1}
th small{display:block;font-weight:400;color:var(--soft)}
th button{all:unset;cursor:pointer}
th button:focus-visible{outline:2px solid var(--accent)}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
tbody tr:last-child td{border-bottom:0}
input{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.3rem .6rem;
width:16rem;max-width:100%;margin:0 0 .6rem}
code{white-space:nowrap}
details{margin:1rem 0}
summary{cursor:pointer}
pre{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;overflow:auto;font-size:.82rem;max-height:30rem}
footer{margin-top:2.5rem;border-top:1px solid var(--line);padding-top:1rem;overflow-wrap:anywhere}
@media print{.scroll{max-height:none;overflow:visible}input{display:none}}
"""

SCRIPT = """
const body = document.querySelector("#rows tbody"), heads = [...document.querySelectorAll("#rows th")];
const key = (row, i) => { const v = row.cells[i].dataset.v; return v === undefined ? row.cells[i].textContent : Number(v); };
const order = (a, b) => {
  if (typeof a === "string") return a.localeCompare(b, "en", {numeric: true});
  if (isNaN(a) || isNaN(b)) return 0;
  return a < b ? -1 : a > b ? 1 : 0;
};
heads.forEach((head, i) => head.firstElementChild.addEventListener("click", () => {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  heads.forEach(h => h.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const rows = [...body.rows].map(row => [key(row, i), row]);
  const last = rows.filter(r => Number.isNaN(r[0])), rest = rows.filter(r => !Number.isNaN(r[0]));
  rest.sort((a, b) => sign * order(a[0], b[0]));
  body.append(...rest.map(r => r[1]), ...last.map(r => r[1]));
}));
document.querySelector("#filter").addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\\s+/);
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
});
"""

escape = functools.partial(html.escape, quote=True)


def inline_svg(plot):
    """The figure for a page: no prolog, no metadata, ids that no other figure on the page has, a name for screen readers."""
    text = plot.svg
    text = text[text.index("<svg"):].strip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{plot.name}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(plot.title)}"', 1)


def as_percent(name):
    return bool(PERCENT.search(name)) and name not in ABSOLUTE


def digits(value):
    """A real number with four digits that matter."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size = abs(value)
    if size and not 1e-3 <= size < 1e6:
        return f"{value:.3e}"
    places = 0 if size == 0 or value == int(value) else max(0, 3 - math.floor(math.log10(size)))
    return f"{value:.{places}f}"


def cell_text(name, value):
    """What a reader sees of a value."""
    if isinstance(value, str):
        return value[:12] + "…" if name.endswith("_hash") and len(value) > 13 else value
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    value = float(value)
    if as_percent(name) and math.isfinite(value):
        return digits(100 * value) if abs(value) < 1e-4 and value else f"{100 * value:.2f}"
    return digits(value)


def cell(name, value):
    """One <td>; numbers carry their full value for sorting."""
    if isinstance(value, str):
        kind = ' class="wrap"' if len(value) > 30 and not name.endswith("_hash") else ""
        tip = f' title="{escape(value)}"' if name.endswith("_hash") else ""
        return f"<td{kind}{tip}>{escape(cell_text(name, value))}</td>"
    exact = int(value) if isinstance(value, (int, np.integer)) else float(value)
    number = "NaN" if exact != exact else str(exact).replace("inf", "Infinity")
    return f'<td class="n" data-v="{number}">{escape(cell_text(name, value))}</td>'


def head(results, name):
    """One <th> with the unit below and the meaning as a tip."""
    unit, meaning = results.notes.get(name, ("", ""))
    unit = "%" if as_percent(name) else "" if unit == "1" else unit
    side = "" if results.table[name].dtype.kind == "O" else ' class="n"'
    small = f"<small>{escape(unit)}</small>" if unit else ""
    return f'<th{side} scope="col" title="{escape(meaning)}"><button>{escape(name.replace("_", " "))}</button>{small}</th>'


def split_columns(results):
    """Columns to show, the telling ones first, and those with one value in all rows, which a line above the table tells instead."""
    table = sorted(results.table, key=lambda n: LEADING.index(n) if n in LEADING else len(LEADING))
    same = [n for n in table if results.size > 1 and n not in ("tensor", "format", "block", "method")
            and len({str(v) for v in results.table[n]}) == 1]
    return [n for n in table if n not in same], same


def table_html(results):
    """The table, with a line for what is the same in every row."""
    if not results.size:
        return "<p>The table has no rows.</p>"
    names, same = split_columns(results)
    note = ""
    if same:
        def told(n):
            value = cell_text(n, results.table[n][0])
            value = "none" if value in ("", "–") else value + (" %" if as_percent(n) else "")
            return f"{escape(n.replace('_', ' '))} {escape(value)}"
        note = '<p class="note">The same in every row: ' + "; ".join(told(n) for n in same) + ".</p>"
    heads = "".join(head(results, n) for n in names)
    rows = "\n".join("<tr>" + "".join(cell(n, results.table[n][i]) for n in names) + "</tr>" for i in range(results.size))
    return (f'{note}<input id="filter" type="search" placeholder="filter rows" aria-label="filter rows">'
            f'<div class="scroll"><table id="rows"><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
            '<p class="note">Click a heading to sort; hover it for its meaning. All digits: <a href="table.csv">table.csv</a>.</p>')


def summary_html(results):
    """Best method per format and block, as a small table."""
    rows = summary(results)
    outputs = any(r["output_error"][0] for r in rows)
    kinds = ("weight_error", "output_error") if outputs else ("weight_error",)
    heads = "<th>format, block</th>" + "".join(
        f'<th>best {kind[:6]} error</th><th class="n">error<small>%</small></th><th class="n">naive<small>%</small></th>'
        '<th class="n">less<small>%</small></th>' for kind in kinds)
    body = ""
    for row in rows:
        body += f"<tr><td>{escape(title_of(row['group']))}</td>"
        for kind in kinds:
            best, score = row[kind]
            numbers = (score.value if math.isnan(score.gain) else score.paired, score.naive, score.gain) if score else (math.nan,) * 3
            body += f"<td>{escape(listed(v.label for v in best)) if best else '–'}</td>"
            body += "".join(f'<td class="n">{f"{100 * n:.{d}f}" if math.isfinite(n) else "–"}</td>' for n, d in zip(numbers, (2, 2, 1)))
        body += "</tr>\n"
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>'


def figure_html(plot):
    files = f'<a href="figures/{plot.name}.svg">SVG</a>, <a href="figures/{plot.name}.csv">CSV</a>'
    return (f"<h2>{escape(plot.title)}</h2>\n<figure><div class=\"sheet\">{inline_svg(plot)}</div>\n"
            f"<figcaption>{escape(plot.caption)} {files}</figcaption></figure>\n")


def page(results, made, name):
    """index.html as text."""
    attributes = results.attributes
    about = [f"{results.size} row{'s' * (results.size != 1)}"]
    if results.size:
        about += [f"{len(tensors(results))} tensor{'s' * (len(tensors(results)) != 1)}", listed(title_of(g) for g in grouped(results))]
    banner = "" if results.complete else ('<p class="banner" role="alert">Incomplete: the run was interrupted. Every row here is finished, '
                                          "but some are missing (go on with <code>fp4scope sweep --resume</code>).</p>\n")
    told = f'<p class="finding">{escape(finding(results))}</p>\n' if results.size else ""
    provenance = "; ".join(f"{escape(key.replace('_', ' '))} {escape(str(attributes[key]))}"
                           for key in ("tool", "tool_version", "git_commit", "seed", "schema_version") if key in attributes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>fp4scope: {escape(name)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
<h1>Block-scaled 4-bit quantization: {escape(name)}</h1>
<p class="sub">{escape("; ".join(about))}</p>
{banner}{told}{summary_html(results) if results.size else ""}
{"".join(figure_html(plot) for plot in made)}<h2>All results</h2>
{table_html(results)}
<details><summary>Configuration</summary><pre>{escape(str(attributes.get("configuration", "not recorded")))}</pre></details>
<footer>{provenance}</footer>
</main>
{f"<script>{SCRIPT}</script>" if results.size else ""}
</body>
</html>
"""


# Files

def csv_text(header, rows):
    """CSV with \\n at line ends; numbers in the shortest form that reads back the same."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([v.item() if isinstance(v, np.generic) else v for v in row] for row in rows)
    return out.getvalue()


def write(path, text):
    path.write_bytes(text.encode("utf-8", "replace"))


def write_report(results, name, directory):
    """Writes the page, the figures and the CSV; returns the plots."""
    figures = directory / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for stale in ("weight_error", "scale_moves", "output_error", "gain_weight", "gain_output"):
        for ending in (".svg", ".csv"):
            (figures / (stale + ending)).unlink(missing_ok=True)
    made = plots(results)
    for plot in made:
        write(figures / f"{plot.name}.svg", on_paper(plot.svg))
        write(figures / f"{plot.name}.csv", csv_text(plot.header, plot.rows))
    write(directory / "table.csv", csv_text(results.table, zip(*results.table.values())))
    write(directory / "index.html", page(results, made, name))
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE.h5")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, type=Path)
    options = parser.parse_args()
    try:
        results = load(options.file)
    except ReportError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        made = write_report(results, Path(options.file).name, options.output)
    except OSError as error:
        print(f"{options.output}: cannot write, {error.strerror} (choose another folder with -o)", file=sys.stderr)
        return 1
    print(f"{options.output / 'index.html'}: {results.size} rows, {len(made)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
