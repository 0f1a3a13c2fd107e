"""A results file in memory. schema.md describes the file."""
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

NEEDED = ("run", "input", "tensor", "rows", "cols", "format", "block", "method", "weight_error", "relative_mse", "mse")
AUDIT = ("run", "tensor", "format", "block", "blocks", "weight_error", "optimal_error", "gap", "optimal_share", "verdict", "recipe",
         "recipe_share", "second_recipe", "second_share", "unexplained_share")  # what the figures of an audit need
PROFILES = ("code", "ratio", "column", "row", "scale_code")  # what the figures draw of /runs


class ReportError(Exception):
    """One line: FILE: what (mend)."""


@dataclass
class Profile:
    """Elements (or blocks), their squared error and energy by place, as three arrays; what the file says of the bins."""
    count: np.ndarray
    sse: np.ndarray
    energy: np.ndarray
    notes: dict


@dataclass
class Results:
    """A results file in memory. Columns are numpy arrays, text as object arrays of str."""
    attributes: dict
    table: dict
    notes: dict                                  # column: (unit, description)
    moves: dict = field(default_factory=dict)    # run: {offset: blocks}
    profiles: dict = field(default_factory=dict)  # (run, place): Profile
    histograms: dict = field(default_factory=dict)  # (run, name): (counts, the codes' format); of an audit

    @property
    def size(self):
        return len(self.table["run"])

    @property
    def audits(self):
        """Whether `fp4scope audit` wrote the file."""
        return self.attributes.get("kind") == "audit"

    @property
    def complete(self):
        return bool(self.attributes.get("complete", 1))

    def column(self, name):
        """A column of numbers, or None if the file lacks it or nothing in it is a number."""
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


def read_profiles(file, runs):
    """{(run, place): Profile} for what is there whole."""
    profiles = {}
    for run in runs:
        group = file.get(f"runs/{run}")
        for place in PROFILES if isinstance(group, h5py.Group) else ():
            parts = [group.get(f"{place}_{part}") for part in ("count", "sse", "energy")]
            if any(part is None for part in parts):
                continue
            arrays = [part[()] for part in parts]
            if arrays[0].ndim == 1 and len({a.shape for a in arrays}) == 1:
                notes = {name: as_text(value) for name, value in parts[0].attrs.items()}
                profiles[run, place] = Profile(*arrays, notes)
    return profiles


def read_histograms(file, runs):
    """{(run, name): (counts, format)} of an audit."""
    found = {}
    for run in runs:
        group = file.get(f"runs/{run}")
        for name in ("codes", "scale_codes") if isinstance(group, h5py.Group) else ():
            if name in group and group[name].shape == (256,):
                found[run, name] = group[name][()], as_text(group[name].attrs.get("format", ""))
    return found


def parse(file):
    """Results from an open file. Raises ReportError without the file's name."""
    group = file.get("table")
    if not isinstance(group, h5py.Group):
        raise ReportError("no group /table, so not a results file (give what `fp4scope sweep` or `fp4scope audit` wrote)")
    table = {name: read_column(group[name]) for name in column_order(group) if isinstance(group[name], h5py.Dataset)}
    attributes = {name: as_text(v) if isinstance(v, (bytes, str)) else np.asarray(v).tolist() for name, v in file.attrs.items()}
    kind = attributes.get("kind", "sweep")
    if kind not in ("sweep", "audit"):
        raise ReportError(f"holds a {kind}, which has no page (give what `fp4scope sweep` or `fp4scope audit` wrote)")
    audits = kind == "audit"
    lacking = [name for name in (AUDIT if audits else NEEDED) if name not in table]
    if lacking:
        raise ReportError(f"the table lacks the column {lacking[0]} (make the file again with this version's `fp4scope {kind}`)")
    if len({len(column) for column in table.values()}) > 1:
        raise ReportError("the table's columns differ in length (the file is damaged; make it again)")
    notes = {name: tuple(as_text(group[name].attrs.get(key, "")) for key in ("unit", "description")) for name in table}
    if audits:
        return Results(attributes, table, notes, histograms=read_histograms(file, table["run"]))
    return Results(attributes, table, notes, read_moves(file, table["run"]), read_profiles(file, table["run"]))


def load(path):
    """Reads a results file. Raises ReportError with one line that says what is wrong and how to mend it."""
    if not Path(path).is_file():
        raise ReportError(f"{path}: no such file (give what `fp4scope sweep` or `fp4scope audit` wrote)")
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise ReportError(f"{path}: not an HDF5 file (give what `fp4scope sweep` or `fp4scope audit` wrote)") from None
    with file:
        try:
            return parse(file)
        except ReportError as error:
            raise ReportError(f"{path}: {error}") from None
        except (OSError, ValueError, KeyError) as error:
            what = " ".join(str(error).split())
            raise ReportError(f"{path}: cannot be read, {what} (the file is damaged; make it again)") from None
