#!/usr/bin/env python3
"""Holds a results file against notebooks-data/schema.md, in both directions.

    schema_test.py FILE.h5 [--schema SCHEMA.md]     one line per violation, exit 1; one line and exit 0 when all is well
    schema_test.py FILE.h5 --self-test              damages copies of FILE.h5 and demands that each is refused
"""
import argparse
import math
import re
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

SCHEMA = Path(__file__).resolve().parents[2] / "notebooks-data" / "schema.md"
ATTRIBUTES, TABLE = "Attributes of /", "Datasets of /table"
ALWAYS, ON_REQUEST = "Datasets of /runs/<run>, always", "Datasets of /runs/<run>, on request"
DECOMPOSED = "Datasets of /runs/<run>, decomposed"
TERMS = ("scale_bias_term", "dead_zone_term", "grid_noise_term", "clipping_term", "scale_dead_term", "scale_grid_term")
CAUSES = tuple("cause_" + name for name in ("tensor_scale", "block_scale", "underflow", "overflow", "saturation", "zero", "grid"))
HEADER = ["name", "type", "shape", "unit", "values", "meaning"]
KEYWORDS = {"any", "finite", "nan", "inf", "number"}


# The page

def parse_schema(text):
    """{section: {name: {column: cell}}} from the Markdown tables under each `## section`."""
    sections, section = {}, None
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:].replace("&lt;", "<").replace("&gt;", ">").strip()
        elif line.startswith("|") and section:
            cells = [c.replace("\\|", "|").strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            if cells == HEADER:
                sections[section] = {}
            elif section in sections and not set(cells[0]) <= set("-"):
                sections[section][cells[0]] = dict(zip(HEADER, cells))
    for needed in (ATTRIBUTES, TABLE, ALWAYS, ON_REQUEST, DECOMPOSED):
        if not sections.get(needed):
            raise SystemExit(f"the schema has no table under '## {needed}' (its header is {' | '.join(HEADER)})")
    return sections


def term_holds(term, value):
    """True if one term of a `values` cell admits this number or text."""
    if term == "any":
        return True
    if isinstance(value, str):
        return is_number(value) if term == "number" else value == term.replace('""', "")
    if term in ("finite", "nan", "inf"):
        return {"finite": math.isfinite, "nan": math.isnan, "inf": lambda v: v == math.inf}[term](value)
    if not math.isfinite(value):
        return False
    if term.startswith(">="):
        return value >= float(term[2:])
    if term.startswith(">"):
        return value > float(term[1:])
    low, high = term.split("..")
    return float(low) <= value <= float(high)


def is_number(text):
    """True for a finite decimal number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def first_outside(values, cell):
    """Index of the first value that no term of the cell admits, or None."""
    terms = cell.split(" or ")
    return next((i for i, v in enumerate(values) if not any(term_holds(t, v) for t in terms)), None)


# The file

def as_text(value):
    """An attribute's or a dataset's text, whichever way h5py returns it."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def type_name(h5_type):
    """The schema's word for an HDF5 type."""
    if isinstance(h5_type, h5py.h5t.TypeStringID):
        if h5_type.get_cset() != h5py.h5t.CSET_UTF8:
            return "text that is not UTF-8"
        return "text of variable length" if h5_type.is_variable_str() else "text"
    try:
        dtype = h5_type.dtype
    except TypeError:
        return "a type that numpy does not have"
    return dtype.name + (" (big-endian)" if dtype.byteorder == ">" else "")


def values_of(dataset):
    """A flat list of Python numbers or texts."""
    if dataset.dtype.kind in "SO":
        return [as_text(v) for v in dataset[()].ravel()]
    return dataset[()].ravel().tolist()


class Checker:
    """Collects violations of one file, each with the path of what is wrong."""

    def __init__(self, path, schema):
        self.schema = schema
        self.violations = []
        self.file = h5py.File(path, "r")

    def fail(self, where, what):
        self.violations.append(f"{where}: {what}")

    def run(self):
        with self.file:
            self.same_names("/", self.file, {"table", "runs"}, set())
            self.attributes()
            if isinstance(self.file.get("table"), h5py.Group):
                self.table()
                if isinstance(self.file.get("runs"), h5py.Group) and not self.violations:
                    self.runs()
        return self.violations

    def same_names(self, where, present, needed, allowed):
        """Names are those needed, and at most those allowed besides."""
        names = set(present)
        for name in sorted(needed - names):
            self.fail(f"{where}{name}", "missing")
        for name in sorted(names - needed - allowed):
            self.fail(f"{where}{name}", "not in the schema")
        return sorted(names & (needed | allowed))

    def attributes(self):
        needed = self.schema[ATTRIBUTES]
        for name in self.same_names("attribute ", self.file.attrs, set(needed), set()):
            spec, where = needed[name], f"attribute {name}"
            kind = type_name(self.file.attrs.get_id(name).get_type()).replace(" of variable length", "")
            if kind != spec["type"]:
                self.fail(where, f"type {kind}, not {spec['type']}")
            elif self.file.attrs.get_id(name).shape != ():
                self.fail(where, "not a scalar")
            else:
                value = self.file.attrs[name]
                self.in_range(where, [as_text(value) if kind == "text" else value.item()], spec["values"])

    def in_range(self, where, values, cell):
        if "defined" in cell.split(" or "):
            configuration = as_text(self.file.attrs.get("configuration", ""))
            cell = cell.replace("defined", " or ".join(re.findall(r"(?m)^\s*\[format\.(\w+)\]", configuration)) or "no other")
        bad = first_outside(values, cell)
        if bad is not None:
            self.fail(where, f"value {values[bad]!r} at index {bad} is outside: {cell}")

    def dataset(self, node, spec, shape):
        """Type, shape, storage, values. True if the values can be read on."""
        where = node.name
        if not isinstance(node, h5py.Dataset):
            self.fail(where, "not a dataset")
            return False
        kind = type_name(node.id.get_type())
        if kind != spec["type"] and not (node.size == 0 and kind == "float64" and spec["type"] != "text"):
            self.fail(where, f"type {kind}, not {spec['type']}")
        if node.shape != shape:
            self.fail(where, f"shape {list(node.shape)}, not {list(shape)}")
        self.storage(node)
        if kind != spec["type"] or node.shape != shape:
            return False
        if spec["values"] != "any":
            self.in_range(where, values_of(node), spec["values"])
        return True

    def storage(self, node):
        """Filters and time stamps. An empty dataset has no chunks to filter."""
        for on, what in ((node.chunks, "chunked"), (node.compression == "gzip", "deflated"), (node.shuffle, "shuffled"),
                         (node.fletcher32, "checksummed (fletcher32)")):
            if not on and node.size:
                self.fail(node.name, f"not {what}")
        if h5py.h5g.get_objinfo(node.id).mtime != 0:
            self.fail(node.name, "has a time stamp")

    def table(self):
        group, columns = self.file["table"], self.schema[TABLE]
        self.same_names("/table attribute ", group.attrs, {"columns"}, set())
        order = as_text(group.attrs.get("columns", "")).split(",")
        if order != list(columns):
            self.fail("/table attribute columns", "does not list the schema's columns in its order")
        first = group.get("run")
        shape = first.shape if isinstance(first, h5py.Dataset) else (0,)
        read = True
        for name in self.same_names("/table/", group, set(columns), set()):
            read = self.dataset(group[name], columns[name], shape) and read
            self.column_attributes(group[name], columns[name])
        if read and set(columns) <= set(group):
            self.relations({name: values_of(group[name]) for name in columns})

    def column_attributes(self, node, spec):
        self.same_names(f"{node.name} attribute ", node.attrs, {"unit", "description"}, set())
        unit = as_text(node.attrs.get("unit", spec["unit"]))
        if unit != spec["unit"]:
            self.fail(node.name, f"unit '{unit}', not '{spec['unit']}'")
        if not as_text(node.attrs.get("description", "-")).strip():
            self.fail(node.name, "empty description")

    def relations(self, t):
        """What follows from the columns' meanings, row by row."""
        if len(set(t["run"])) != len(t["run"]):
            self.fail("/table/run", "ids are not unique")
        for i, run in enumerate(t["run"]):
            row = {name: column[i] for name, column in t.items()}
            whole = -(-row["cols"] // row["block"]) * row["block"]
            moved = row["moved_up_share"] + row["moved_down_share"]
            for holds, what in (
                    (row["padded_cols"] == whole, "padded_cols is not cols rounded up to whole blocks"),
                    (row["blocks"] * row["block"] == row["rows"] * row["padded_cols"], "blocks is not rows padded_cols / block"),
                    (near(row["weight_error"] ** 2, row["relative_mse"]), "relative_mse is not weight_error squared"),
                    (adds_up(row, TERMS), "the six terms do not add up to relative_mse"),
                    (adds_up(row, CAUSES), "the seven causes do not add up to relative_mse"),
                    (not row["relative_mse"] < row["relative_mse_low"] and not row["relative_mse"] > row["relative_mse_high"],
                     "relative_mse is outside its interval"),
                    (near(row["moved_share"], moved), "moved_share is not moved_up_share + moved_down_share"),
                    (row["activations"] or math.isnan(row["output_error"]), "output_error without activations is not NaN")):
                if not holds:
                    self.fail(f"/table row {i} (run {run})", what)

    def runs(self):
        """/runs/<run>. Only called for a table without violations."""
        t = {name: values_of(self.file["table"][name]) for name in self.schema[TABLE]}
        always, request = self.schema[ALWAYS], {**self.schema[ON_REQUEST], **self.schema[DECOMPOSED]}
        self.same_names("/runs/", self.file["runs"], set(t["run"]), set())
        for i, run in enumerate(t["run"]):
            group = self.file["runs"].get(run)
            if not isinstance(group, h5py.Group):
                continue
            row = {name: column[i] for name, column in t.items()}
            for name in self.same_names(f"/runs/{run}/", group, set(always), set(request)):
                spec = always.get(name) or request[name]
                shape = self.shape(spec["shape"], row, group[name].shape)
                if self.dataset(group[name], spec, shape) and name in ("scale_moves", "scale_move_offsets"):
                    self.histogram(group[name], row)
                self.run_attributes(group[name], name, spec)

    @staticmethod
    def shape(cell, row, present):
        """The letters of a shape in numbers; K, the number of codes, is any that this row's element can have."""
        if cell == "K":
            return present if present in ((16,), (64,), (256,)) else (16,)
        letters = {"R": row["rows"], "C": row["cols"], "B": row["block"], "P/B": row["padded_cols"] // row["block"]}
        return tuple(letters[part] if part in letters else int(part) for part in cell.split(","))

    def run_attributes(self, node, name, spec):
        needed = {"format"} if name == "scales" else {"causes"} if name == "cause_remaining" else set()
        needed |= {"format", "first_normal"} if name.startswith("scale_code_") else set()
        needed |= {"values"} if name.startswith("code_") else set()
        self.same_names(f"{node.name} attribute ", node.attrs, needed, {"unit", "description"})
        unit = as_text(node.attrs.get("unit", spec["unit"]))
        if unit != spec["unit"]:
            self.fail(node.name, f"unit '{unit}', not '{spec['unit']}'")

    def histogram(self, node, row):
        """The histogram agrees with the row's shares."""
        if node.name.endswith("_offsets"):
            if node[()].tolist() != list(range(-16, 17)):
                self.fail(node.name, "is not -16 to 16")
            return
        counts = node[()]
        if counts.sum() != row["blocks"]:
            self.fail(node.name, f"sums to {counts.sum()}, not to blocks = {row['blocks']}")
            return
        for column, part in (("moved_down_share", counts[:16]), ("moved_up_share", counts[17:])):
            if not near(part.sum() / row["blocks"], row[column]):
                self.fail(node.name, f"disagrees with {column} of the table")


def near(a, b):
    """Equal but for the rounding of two different orders of operations; NaN is near NaN."""
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= 1e-9 * max(abs(a), abs(b)) + 1e-300


def adds_up(row, names):
    """The parts' sum is relative_mse, or none of them was asked for."""
    parts = [row[name] for name in names]
    if all(math.isnan(part) for part in parts):
        return True
    return abs(math.fsum(parts) - row["relative_mse"]) <= 1e-9 * max(row["relative_mse"], max(abs(part) for part in parts))


def check(path, schema_path=SCHEMA):
    """The violations of a file, as lines."""
    schema = parse_schema(Path(schema_path).read_text(encoding="utf-8"))
    try:
        return Checker(path, schema).run()
    except OSError as error:
        return [f"cannot be read ({error})"]


# The test of the test

def replace(file, path, data, **storage):
    """Rewrites a dataset with other data, keeping attributes and, unless told otherwise, storage."""
    attributes = dict(file[path].attrs)
    del file[path]
    options = {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True, **storage}
    file.create_dataset(path, data=data, **options).attrs.update(attributes)


def first_run(file):
    return "/runs/" + as_text(file["table/run"][0])


def set_first(file, path, value):
    file[path][0] = value


MUTATIONS = {
    "missing column": lambda f: f.__delitem__("table/mse"),
    "wrong type": lambda f: replace(f, "table/blocks", f["table/blocks"][()].astype("f8")),
    "extra column": lambda f: f.create_dataset("table/surprise", data=[1]),
    "extra group": lambda f: f.create_group("timing"),
    "unequal length": lambda f: replace(f, "table/mse", np.append(f["table/mse"][()], 0.0)),
    "share of 1.5": lambda f: set_first(f, "table/zero_share", 1.5),
    "NaN mse": lambda f: set_first(f, "table/mse", math.nan),
    "unknown format": lambda f: set_first(f, "table/format", b"fp3"),
    "wrong unit": lambda f: f["table/sqnr_db"].attrs.modify("unit", "1"),
    "no description": lambda f: f["table/mse"].attrs.__delitem__("description"),
    "no checksum": lambda f: replace(f, "table/mse", f["table/mse"][()], fletcher32=False),
    "not deflated": lambda f: replace(f, "table/mse", f["table/mse"][()], compression=None),
    "not shuffled": lambda f: replace(f, "table/mse", f["table/mse"][()], shuffle=False),
    "time stamp": lambda f: replace(f, "table/mse", f["table/mse"][()], track_times=True),
    "missing attribute": lambda f: f.attrs.__delitem__("seed"),
    "attribute of another type": lambda f: f.attrs.__setitem__("complete", "yes"),
    "extra attribute": lambda f: f.attrs.__setitem__("host", "here"),
    "columns in another order": lambda f: f["table"].attrs.__setitem__("columns", "tensor,run"),
    "missing run": lambda f: f.__delitem__(first_run(f)),
    "missing histogram": lambda f: f.__delitem__(first_run(f) + "/scale_moves"),
    "histogram of other blocks": lambda f: set_first(f, first_run(f) + "/scale_moves", 10**9),
    "terms that do not add up": lambda f: [set_first(f, f"table/{name}", 0.1) for name in TERMS],
    "causes that do not add up": lambda f: [set_first(f, f"table/{name}", 0.1) for name in CAUSES],
    "an interval elsewhere": lambda f: set_first(f, "table/relative_mse_high", 0.0),
    "error that is not its square": lambda f: set_first(f, "table/weight_error", 0.987654),
}


def self_test(path, schema_path):
    """Every mutation is refused; the untouched file is not."""
    failures = [f"untouched: {line}" for line in check(path, schema_path)]
    with tempfile.TemporaryDirectory() as folder:
        for name, mutate in MUTATIONS.items():
            copy = Path(folder) / "copy.h5"
            shutil.copyfile(path, copy)
            with h5py.File(copy, "r+") as file:
                mutate(file)
            if not check(copy, schema_path):
                failures.append(f"accepted a file with: {name}")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--schema", default=SCHEMA)
    parser.add_argument("--self-test", action="store_true", help="damage copies of the file; each must be refused")
    options = parser.parse_args()
    violations = (self_test if options.self_test else check)(options.file, options.schema)
    for line in violations:
        print(f"{options.file}: {line}")
    if not violations:
        fine = f"refuses all {len(MUTATIONS)} damaged copies" if options.self_test else "follows the schema"
        print(f"{options.file}: {fine}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
