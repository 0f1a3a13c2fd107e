#!/usr/bin/env python3
"""Runs notebooks-data/report.py and explore.ipynb on small files made here, and looks at what comes out."""
import contextlib
import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock
import xml.etree.ElementTree as ElementTree
from pathlib import Path

try:
    import h5py
    import matplotlib  # noqa: F401
except ImportError as missing:
    print(f"skipped: {missing} (apt-get install python3-h5py python3-matplotlib)")
    sys.exit(77)
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "notebooks-data"
sys.path[:0] = [str(Path(__file__).resolve().parent), str(DATA)]
sys.dont_write_bytecode = True
import schema_test

SCHEMA = schema_test.parse_schema(schema_test.SCHEMA.read_text(encoding="utf-8"))
STORAGE = {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True}
ERRORS = {"naive": 0.10, "4over6": 0.095, "sse": 0.087, "hessian": 0.09}
HOSTILE = '<script>alert("x")</script>'


def make_row(run, tensor, form, method, output_error, weight_error):
    """One row of plausible values; 8 x 60 elements, so that padding happens."""
    block = 32 if form == "mxfp4" else 16
    return {
        "run": f"{run:04d}", "input": "made", "tensor": tensor, "rows": 8, "cols": 60, "padded_cols": 64, "dtype": "F32", "format": form,
        "block": block, "method": method, "select": "mse" if method in ("4over6", "sse") else "",
        "tensor_scale_rule": "none" if form == "mxfp4" else "amax", "scale_max": 0 if form == "mxfp4" else 448, "amax": 0.1,
        "tensor_scale": 1.0, "activations": "" if math.isnan(output_error) else "X", "tokens": 0 if math.isnan(output_error) else 4,
        "blocks": 8 * 64 // block, "weight_error": weight_error, "relative_mse": weight_error**2, "output_error": output_error,
        "mse": weight_error**2 * 0.0004, "sqnr_db": -20 * math.log10(weight_error), "max_error": 0.01,
        "moved_share": 0.0 if method == "naive" else 0.5, "moved_up_share": 0.0 if method == "naive" else 0.25,
        "moved_down_share": 0.0 if method == "naive" else 0.25, "mean_move": 0.0 if method == "naive" else 0.5, "four_share": 0.0,
        "zero_share": 0.1, "saturated_share": 0.0, "underflow_share": 0.0, "bits_per_weight": 4 + 8 / block, "input_hash": "00ff" * 8,
        "activations_hash": "aa" * 16 if method == "hessian" else "", "hessian_hash": "bb" * 8 if method == "hessian" else "",
        "hessian_shift": 0.0, "proved_share": 0.0}


def make_rows(tensors=("a.weight", "b.weight"), formats=("nvfp4", "mxfp4"), methods=("naive", "4over6", "sse"), activations=True):
    rows = []
    for i, tensor in enumerate(tensors):
        for form in formats:
            for method in methods:
                error = ERRORS.get(method, 0.12) * (1 + 0.05 * i) * (1.2 if form == "mxfp4" else 1)
                rows.append(make_row(len(rows), tensor, form, method, error * 0.97 if activations else math.nan, error))
    return rows


def write_column(group, name, values, spec):
    if spec["type"] == "text":
        encoded = [v.encode() for v in values]
        values = np.array(encoded, dtype=h5py.string_dtype("utf-8", max([1, *map(len, encoded)])))
    else:
        values = np.array(values, dtype=spec["type"])
    dataset = group.create_dataset(name, data=values, **(STORAGE if len(values) else {}))
    dataset.attrs.update(unit=spec["unit"], description=spec["meaning"])


def write_file(path, rows, complete=1, extra=None):
    """A file that follows the schema; `extra` adds text columns that it does not know: {name: values}."""
    extra = extra or {}
    names = [*SCHEMA[schema_test.TABLE], *extra]
    with h5py.File(path, "w") as file:
        file.attrs.update(schema_version=np.int64(1), tool="fp4scope", tool_version="0.0.1", git_commit="abc123",
                          configuration='seed = 1\n# <script>alert("configuration")</script>\n', seed=np.int64(1), complete=np.int64(complete))
        table, runs = file.create_group("table"), file.create_group("runs")
        table.attrs["columns"] = ",".join(names)
        for name in names:
            spec = SCHEMA[schema_test.TABLE].get(name, {"type": "text", "unit": "", "meaning": "from the future"})
            write_column(table, name, extra.get(name) or [row[name] for row in rows], spec)
        for row in rows:
            counts = np.zeros(33, np.int64)
            up, down = (round(row[n] * row["blocks"]) for n in ("moved_up_share", "moved_down_share"))
            counts[[15, 16, 17]] = down, row["blocks"] - up - down, up
            runs.create_dataset(f"{row['run']}/scale_moves", data=counts, **STORAGE)
            runs.create_dataset(f"{row['run']}/scale_move_offsets", data=np.arange(-16, 17, dtype=np.int32), **STORAGE)
    return path


def run_report(*arguments, **environment):
    return subprocess.run([sys.executable, str(DATA / "report.py"), *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}, check=False)


def tree(folder):
    """{relative path: bytes} of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


class Report(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def report(self, rows, **options):
        """Writes a file, runs the report on it, returns (index.html, {path: bytes})."""
        path = write_file(self.folder / "in.h5", rows, **options)
        done = run_report(path, "-o", self.folder / "out")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        files = tree(self.folder / "out")
        for name, data in files.items():
            if name.endswith(".svg"):
                ElementTree.fromstring(data)
        return files["index.html"].decode(), files

    def fails(self, path, *words):
        """Exit 1 and one line that names the file, what is wrong and the mend."""
        done = run_report(path, "-o", self.folder / "out")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, rf"^{re.escape(str(path))}: .+ \(.+\)\n$")
        for word in words:
            self.assertIn(word, done.stderr)

    def test_made_files_follow_the_schema(self):
        path = write_file(self.folder / "in.h5", make_rows())
        self.assertEqual(schema_test.check(path), [])
        self.assertEqual(schema_test.self_test(path, schema_test.SCHEMA), [])
        self.assertEqual(schema_test.check(write_file(path, make_rows(activations=False), complete=0)), [])
        self.assertEqual(schema_test.check(write_file(path, [], complete=0)), [])
        self.assertTrue(schema_test.check(write_file(path, make_rows(), extra={"later": ["x"] * 12})))

    def test_files(self):
        page, files = self.report(make_rows(tensors="abcde"))
        names = {f"figures/{n}.{e}" for n in ("weight_error", "scale_moves", "output_error", "gain_weight", "gain_output")
                 for e in ("svg", "csv")}
        self.assertEqual(set(files), names | {"index.html", "table.csv"})
        self.assertEqual(page.count("<svg"), 5)
        self.assertNotIn("banner\"", page)

    def test_page_is_self_contained(self):
        page, _ = self.report(make_rows())
        self.assertEqual(re.findall(r'(?:src|href)="(?!#|figures/|table\.csv)[^"]*"', page), [])
        self.assertEqual(set(re.findall(r'(\S+)="https?://', page)) - {"xmlns", "xmlns:xlink"}, set())
        self.assertNotRegex(page, r"url\((?!#)|@import|<link|<img|<image")
        ids = re.findall(r'\bid="([^"]+)"', page)
        self.assertEqual(len(ids), len(set(ids)))
        self.assertLessEqual(set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', page)), set(ids))

    def test_same_bytes_twice(self):
        _, first = self.report(make_rows(tensors="abcde"))
        _, second = self.report(make_rows(tensors="abcde"))
        self.assertEqual(first, second)

    def test_a_second_report_leaves_nothing_stale(self):
        self.report(make_rows(tensors="abcde"))
        _, files = self.report(make_rows(activations=False))
        self.assertNotIn("figures/output_error.svg", files)
        self.assertNotIn("figures/gain_weight.csv", files)

    def test_key_finding(self):
        page, _ = self.report(make_rows())
        text = page.replace("\u00a0", " ")
        self.assertIn("NVFP4, block 16 with scales by sse.", text)
        self.assertIn("13.0 % for NVFP4, block 16 (sse)", text)

    def test_aggregate_is_weighted_by_energy(self):
        rows = make_rows(formats=("nvfp4",), methods=("naive",))
        for row, mse, error in zip(rows, (1.0, 3.0), (0.1, 0.2)):
            row.update(weight_error=error, relative_mse=error**2, mse=mse * error**2)
        _, files = self.report(rows)
        table = list(csv.DictReader(io.StringIO(files["figures/weight_error.csv"].decode())))
        whole = [float(row["weight_error"]) for row in table if row["kind"] == "all"]
        self.assertEqual(len(whole), 1)
        self.assertAlmostEqual(whole[0], math.sqrt((1 * 0.01 + 3 * 0.04) / 4), places=14)

    def test_table_csv_has_every_digit(self):
        rows = make_rows()
        _, files = self.report(rows)
        table = list(csv.DictReader(io.StringIO(files["table.csv"].decode())))
        self.assertEqual([float(row["weight_error"]) for row in table], [row["weight_error"] for row in rows])
        self.assertEqual([row["tensor"] for row in table], [row["tensor"] for row in rows])

    def test_hostile_names(self):
        names = (HOSTILE, "$\\frac{x$ & 'q' -->", "long." * 60 + "weight", "\u540d\u524d\x01\n]]>", "e")
        page, files = self.report(make_rows(tensors=names, methods=("naive", "<i>new</i>", "$x")))
        self.assertEqual(page.count("<script"), 1)
        self.assertNotIn("<i>", page)
        self.assertIn("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;", page)
        self.assertIn("&lt;script&gt;alert(&quot;configuration&quot;)", page)
        self.assertNotIn(b"<script", files["figures/gain_weight.svg"])

    def test_one_row(self):
        page, files = self.report(make_rows(tensors=("a",), formats=("nvfp4",), methods=("sse",)))
        self.assertIn("1 row;", page)
        self.assertIn("figures/weight_error.svg", files)

    def test_no_rows(self):
        page, files = self.report([], complete=0)
        self.assertIn("no rows", page)
        self.assertEqual(set(files), {"index.html", "table.csv"})

    def test_no_activations(self):
        page, files = self.report(make_rows(tensors="abcde", activations=False))
        self.assertNotIn("figures/output_error.svg", files)
        self.assertNotIn("figures/gain_output.svg", files)
        self.assertNotIn("best output error", page)

    def test_zero_and_nan_errors(self):
        rows = make_rows(tensors="abcde")
        for row in rows[:6]:
            row.update(weight_error=0.0, relative_mse=0.0, mse=0.0, sqnr_db=math.inf)
        for row in rows[6:12]:
            row.update(weight_error=math.nan, relative_mse=math.nan, mse=0.0, sqnr_db=math.nan, output_error=math.nan)
        self.report(rows)
        for row in rows:
            row.update(weight_error=math.nan, relative_mse=math.nan, output_error=math.nan)
        self.assertIn("nothing to compare", self.report(rows)[0])

    def test_banner_of_an_incomplete_file(self):
        page, _ = self.report(make_rows(), complete=0)
        self.assertIn('<p class="banner"', page)

    def test_unknown_columns_and_settings_that_vary(self):
        rows = make_rows(tensors=("a",)) + make_rows(tensors=("a",))
        for i, row in enumerate(rows):
            row["run"] = f"{i:04d}"
        page, files = self.report(rows, extra={"basis": ["plain"] * 6 + ["hadamard"] * 6})
        self.assertIn("basis", page)
        self.assertIn(b"sse,hadamard", files["figures/weight_error.csv"])

    def test_many_rows(self):
        self.report(make_rows(tensors=[f"layer.{i}.weight" for i in range(100)]))

    def test_errors(self):
        self.fails(self.folder / "absent.h5", "no such file")
        text = self.folder / "text.h5"
        text.write_text("not HDF5")
        self.fails(text, "not an HDF5 file")
        path = self.folder / "in.h5"
        h5py.File(path, "w").close()
        self.fails(path, "no group /table")
        with h5py.File(write_file(path, make_rows()), "r+") as file:
            del file["table/method"]
        self.fails(path, "lacks the column method")
        with h5py.File(write_file(path, make_rows()), "r+") as file:
            schema_test.replace(file, "table/mse", [0.0])
        self.fails(path, "differ in length")
        write_file(path, make_rows())
        done = run_report(path, "-o", text)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
        self.assertEqual(run_report(path).returncode, 2)

    def test_missing_packages(self):
        for module in ("h5py", "matplotlib"):
            fake = self.folder / module
            fake.mkdir()
            (fake / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named {module}', name='{module}')")
            done = run_report("in.h5", "-o", self.folder, PYTHONPATH=str(fake))
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
            self.assertIn(f"apt install python3-{module}", done.stderr)


class Notebook(unittest.TestCase):
    def test_is_stripped_and_runs(self):
        notebook = json.loads((DATA / "explore.ipynb").read_text(encoding="utf-8"))
        self.assertEqual(notebook["nbformat"], 4)
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        self.assertTrue(all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells))
        with tempfile.TemporaryDirectory() as folder:
            path = write_file(Path(folder) / "in.h5", make_rows())
            sources = ["".join(line for line in cell["source"] if not line.startswith("%")) for cell in cells]
            self.assertEqual(sum("../demo.h5" in source for source in sources), 1)
            shown = self.execute([source.replace("../demo.h5", str(path)) for source in sources])
        self.assertGreaterEqual(sum(text.lstrip().startswith("<?xml") for text in shown), 2)

    def execute(self, sources):
        """Runs cells in order with a stand-in for IPython; returns what they displayed."""
        shown = []
        stub = types.ModuleType("IPython.display")
        stub.SVG, stub.display = str, lambda item: shown.append(str(item))
        package = types.ModuleType("IPython")
        package.display, package.get_ipython, package.version_info = stub, lambda: None, (9, 0)  # what matplotlib asks for
        with unittest.mock.patch.dict(sys.modules, {"IPython": package, "IPython.display": stub}):
            names = {}
            with contextlib.redirect_stdout(io.StringIO()):
                for source in sources:
                    exec(compile(source, "explore.ipynb", "exec"), names)
        return shown


if __name__ == "__main__":
    unittest.main()
