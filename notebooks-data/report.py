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
    from matplotlib.patches import Rectangle
except ImportError as missing:
    module = (missing.name or "matplotlib").split(".")[0]
    raise SystemExit(f"report.py: the Python module {module} does not load: {missing} "
                     f"(apt install {PACKAGES.get(module, 'python3-matplotlib')})")

NEEDED = ("run", "input", "tensor", "rows", "cols", "format", "block", "method", "weight_error", "relative_mse", "mse")
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
    attributes = {name: as_text(v) if isinstance(v, (bytes, str)) else np.asarray(v).item() for name, v in file.attrs.items()}
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
    """Columns, unknown text columns too, that tell apart rows of one tensor, format, block and method."""
    table = results.table
    extra = [n for n in table if n not in SETTINGS and n not in ("run", "input", "tensor", "dtype", "format", "method")
             and table[n].dtype.kind == "O" and not n.endswith("_hash")]
    cells = {}
    for i, cell in enumerate(zip(*(table[n] for n in ("input", "tensor", "format", "block", "method")))):
        cells.setdefault(cell, []).append(i)
    return [n for n in (*SETTINGS, *extra) if n in table
            and any(len({setting(table[n][i]) for i in rows}) > 1 for rows in cells.values())]


@dataclass(frozen=True)
class Variant:
    """A method under one setting; `label` names both."""
    method: str
    settings: tuple = ()

    @property
    def label(self):
        return ", ".join([plain(self.method), *(plain(s) for s in self.settings if s)])


def grouped(results):
    """{(format, block): {Variant: [row]}} in the order in which everything is shown."""
    table, varying, groups = results.table, settings_that_vary(results), {}
    for i in range(results.size):
        shown = tuple(f"{n.replace('_', ' ')} {setting(table[n][i])}" if n == "scale_max" else setting(table[n][i])
                      for n in varying)
        if len(varying) and not siblings_differ(results, i, varying):
            shown = ()
        variants = groups.setdefault((table["format"][i], int(table["block"][i])), {})
        variants.setdefault(Variant(table["method"][i], shown), []).append(i)
    ordered = sorted(groups, key=lambda g: (rank(FORMATS, g[0]), g[1]))
    return {g: dict(sorted(groups[g].items(), key=lambda v: (rank(METHODS, v[0].method), v[0].settings))) for g in ordered}
