#!/usr/bin/env python3
"""Runs the package notebooks-data/report and explore.ipynb on small files made by report_fixture.py, and looks at what comes out."""
import contextlib
import csv
import functools
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
import warnings
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
import report
import schema_test
from report import estimates, groups, outputs, style, tradeoffs
from report.main import main
from report_fixture import CAUSE_SHARES, NEW, TERM_SHARES, make_rows, make_seeds, place_sizes, renumbered, strip, write_file

HOSTILE = '<script>alert("x")</script>'
MODEL = tuple(f"model.layers.{name}.weight" for name in ("0.q", "0.k", "1.q", "2.q"))
OLD = {"weight_error", "pairs", "scale_moves", "pareto", "output_error", "gain_weight", "gain_output", "layers"}  # figures of older files
TABLES = {"pairs", "correlations"}  # makers of tables of the page, which have no SVG


def run_report(*arguments, program=DATA, **environment):
    return subprocess.run([sys.executable, str(program), *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}, check=False)


def make_zip(path):
    """What the program carries: a zip of the package."""
    files = ["__main__.py", *sorted(str(p.relative_to(DATA)) for p in (DATA / "report").iterdir() if p.is_file())]
    subprocess.run([sys.executable, ROOT / "cmake" / "zip.py", path, DATA, *files], check=True)
    return path


def tree(folder):
    """{relative path: bytes} of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def rows_of(files, name):
    """The CSV behind a figure, as dicts of text."""
    return list(csv.DictReader(io.StringIO(files[f"figures/{name}.csv"].decode())))


def names_in(files):
    return {Path(name).stem for name in files if name.startswith("figures/")}


def write_report(path, folder):
    """The command in this process: (index.html, {path: bytes}); it must succeed without a word of complaint."""
    told = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        warnings.simplefilter("always")
        code = main([str(path), "-o", str(folder)])
    caught = [str(w.message) for w in caught if not issubclass(w.category, (DeprecationWarning, PendingDeprecationWarning))]
    if (code, told.getvalue(), caught) != (0, "", []):
        raise AssertionError(f"exit {code}, {told.getvalue()!r}, {caught}")
    files = tree(folder)
    for name, data in files.items():
        if name.endswith(".svg"):
            ElementTree.fromstring(data)
    return files["index.html"].decode(), files


@functools.cache
def made(kind):
    """The report of a whole model, of an older file of it, or of seeds, made once: (index.html, {path: bytes})."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "in.h5", make_seeds() if kind == "seeds" else make_rows(tensors=MODEL))
        return write_report(strip(path) if kind == "old" else path, Path(folder) / "out")


def grouped_rows(table):
    """{(format, block, method): [row]} of a CSV."""
    groups = {}
    for row in table:
        groups.setdefault((row["format"], row["block"], row["method"]), []).append(row)
    return groups


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def report(self, rows, old=False, **options):
        """Writes a file, runs the report on it, returns (index.html, {path: bytes})."""
        path = write_file(self.folder / "in.h5", rows, **options)
        return write_report(strip(path) if old else path, self.folder / "out")

    def results(self, rows, **options):
        return report.load(write_file(self.folder / "in.h5", rows, **options))


class Report(Files):
    def fails(self, path, *words):
        """Exit 1 and one line that names the file, what is wrong and the mend."""
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            self.assertEqual(main([str(path), "-o", str(self.folder / "out")]), 1)
        self.assertRegex(told.getvalue(), rf"^fp4scope: {re.escape(str(path))}: .+ \(.+\)\n$")
        for word in words:
            self.assertIn(word, told.getvalue())

    def test_made_files_follow_the_schema(self):
        path = write_file(self.folder / "in.h5", make_rows(tensors="a", formats=("nvfp4",)))
        self.assertEqual(schema_test.check(path), [])
        self.assertEqual(schema_test.self_test(path, schema_test.SCHEMA), [])
        self.assertEqual(schema_test.check(write_file(path, make_rows(tensors="a", activations=False), complete=0)), [])
        self.assertEqual(schema_test.check(write_file(path, [], complete=0)), [])
        self.assertEqual(schema_test.check(write_file(path, make_seeds())), [])
        self.assertTrue(schema_test.check(write_file(path, make_rows(tensors="a"), extra={"later": ["x"] * 6})))

    def test_every_figure_is_made_with_its_csv(self):
        (page, whole), (_, seeds) = made("whole"), made("seeds")
        self.assertEqual(names_in(whole) | names_in(seeds), set(report.MAKERS))
        for files in (whole, seeds):
            expected = {f"figures/{n}.{e}" for n in names_in(files) for e in (("csv",) if n in TABLES else ("svg", "csv"))}
            self.assertEqual(set(files), expected | {"index.html", "table.csv"})
            for name in names_in(files):
                self.assertTrue(rows_of(files, name), name)
        self.assertEqual(page.count("<svg"), len(names_in(whole) - TABLES))
        self.assertNotIn("banner\"", page)

    def test_older_files_give_what_they_have(self):
        page, files = made("old")
        self.assertEqual(names_in(files), OLD)
        _, whole = made("whole")
        self.assertEqual(files["figures/gain_weight.csv"], whole["figures/gain_weight.csv"])
        self.assertFalse(set(NEW) & set(files["table.csv"].decode().split("\n")[0].split(",")))
        self.assertNotIn("nan", page.split("<h2>All results")[0])

    def test_a_figure_goes_with_any_column_that_it_needs(self):
        needs = {**dict.fromkeys(schema_test.TERMS, ("terms",)), **dict.fromkeys(schema_test.CAUSES, ("causes",)),
                 "block_output_error": ("proxies", "correlations"), "bits_per_weight": ("pareto",),
                 "output_error": ("output_error", "proxies", "correlations", "gain_output")}
        seeds = {"expected_relative_mse": ("theory_block", "theory_sigma"), "sigma": ("theory_sigma",)}
        for rows, lacks in ((make_rows(), needs), (make_seeds(), seeds)):
            results = self.results(rows)
            for column, makers in lacks.items():
                table = {name: values for name, values in results.table.items() if name != column}
                for name in makers:
                    with unittest.mock.patch.object(results, "table", table):
                        self.assertIsNone(report.MAKERS[name](results), f"{name} without {column}")
        for place, name in (("code", "error_by_code"), ("ratio", "error_by_ratio"), ("scale_code", "scale_codes")):
            results.profiles = {key: profile for key, profile in results.profiles.items() if key[1] != place}
            self.assertIsNone(report.MAKERS[name](results), name)

    def test_page_is_self_contained(self):
        for kind in ("whole", "seeds"):
            page, _ = made(kind)
            self.assertEqual(re.findall(r'(?:src|href)="(?!#|figures/|table\.csv)[^"]*"', page), [])
            self.assertEqual(set(re.findall(r'(\S+)="https?://', page)) - {"xmlns", "xmlns:xlink"}, set())
            self.assertNotRegex(page, r"url\((?!#)|@import|<link|<img|<image")
            ids = re.findall(r'\bid="([^"]+)"', page)
            self.assertEqual(len(ids), len(set(ids)))
            self.assertLessEqual(set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', page)), set(ids))

    def test_every_link_to_a_file_leads_to_one(self):
        page, files = made("whole")
        self.assertEqual(set(re.findall(r'href="((?:figures/|table)[^"]*)"', page)), set(files) - {"index.html"})

    def test_every_colour_of_a_figure_has_a_light_and_a_dark_one(self):
        for kind in ("whole", "seeds", "old"):
            page, _ = made(kind)
            light, dark = re.findall(r":root\{((?:--[cm][0-9a-f]{6}:#[0-9a-f]{6};)+)\}", page)
            light, dark = ({name: value for name, value in re.findall(r"(--\w+):(#\w+)", block)} for block in (light, dark))
            used = set(re.findall(r"var\((--[cm][0-9a-f]{6})\)", page))
            self.assertTrue(used)
            self.assertEqual((used, used), (set(light), set(dark)))
            self.assertTrue(all(name[3:] == value[1:] for name, value in light.items()))
            for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
                self.assertEqual(re.findall(r"[:\"] ?#[0-9a-f]{3,8}[;\"]|rgb\(", svg), [])

    def test_methods_stand_out_on_both_sheets(self):
        css = (DATA / "report" / "page.css").read_text(encoding="utf-8")
        sheets = re.findall(r"--sheet:(#\w{6})", css)
        self.assertEqual(len(sheets), 2)
        for name, (colour, _) in style.METHODS.items():
            for sheet, shown in zip(sheets, (colour, style.dark(colour))):
                self.assertGreaterEqual(contrast(sheet, shown), 3.0, f"{name} {shown} on {sheet}")

    def test_same_bytes_from_the_folder_and_from_a_zip_whatever_the_settings(self):
        first = made("whole")[1]
        path, program = write_file(self.folder / "in.h5", make_rows(tensors=MODEL)), make_zip(self.folder / "report.zip")
        rc = self.folder / "matplotlibrc"
        rc.write_text("font.size: 20\nsvg.fonttype: none\nlines.color: red\n")
        done = run_report(path, "-o", self.folder / "out", program=program, PYTHONHASHSEED="7", MATPLOTLIBRC=str(rc), TZ="Asia/Tokyo")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        second = tree(self.folder / "out")
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["in.h5", "matplotlibrc", "out", "report.zip"])
        self.assertEqual([name for name in {**first, **second} if first.get(name) != second.get(name)], [])

    def test_the_zip_is_the_same_bytes_each_time(self):
        self.assertEqual(make_zip(self.folder / "one.zip").read_bytes(), make_zip(self.folder / "two.zip").read_bytes())

    def test_a_second_report_leaves_nothing_stale(self):
        figures = self.folder / "out" / "figures"
        figures.mkdir(parents=True)
        for name in (*(f"{n}.{e}" for n in report.MAKERS for e in ("svg", "csv")), "mine.txt"):
            (figures / name).write_text("another report's")
        _, files = self.report(make_rows(activations=False, decompose=False), old=True)
        self.assertEqual([name for name, data in files.items() if b"another report's" in data], ["figures/mine.txt"])
        self.assertEqual(names_in(files), {"weight_error", "pairs", "pareto", "scale_moves", "mine"})

    def test_key_finding(self):
        page, _ = self.report(make_rows(decompose=False), old=True)
        text = page.replace("\u00a0", " ")
        self.assertIn("NVFP4, block 16 with scales by sse.", text)
        self.assertIn("13.0 % for NVFP4, block 16 (sse)", text)

    def test_aggregate_is_weighted_by_energy(self):
        rows = make_rows(formats=("nvfp4",), methods=("naive",))
        for row, mse, error in zip(rows, (1.0, 3.0), (0.1, 0.2)):
            row.update(weight_error=error, relative_mse=error**2, mse=mse * error**2)
        _, files = self.report(rows, old=True)
        whole = [float(row["weight_error"]) for row in rows_of(files, "weight_error") if row["kind"] == "all"]
        self.assertEqual(len(whole), 1)
        self.assertAlmostEqual(whole[0], math.sqrt((1 * 0.01 + 3 * 0.04) / 4), places=14)

    def test_table_csv_has_every_digit(self):
        rows = make_rows(tensors=MODEL)
        table = list(csv.DictReader(io.StringIO(made("whole")[1]["table.csv"].decode())))
        self.assertEqual([float(row["weight_error"]) for row in table], [row["weight_error"] for row in rows])
        self.assertEqual([row["tensor"] for row in table], [row["tensor"] for row in rows])

    def test_hostile_names(self):
        names = (HOSTILE, "$\\frac{x$ & 'q' -->", "long." * 60 + "weight", "\u540d\u524d\x01\n]]>", "e")
        page, files = self.report(make_rows(tensors=names, formats=(HOSTILE,), methods=("naive", "<i>new</i>", "$x")))
        self.assertEqual(page.count("<script"), 1)
        self.assertNotIn("<i>", page)
        self.assertIn("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;", page)
        self.assertIn("&lt;script&gt;alert(&quot;configuration&quot;)", page)
        self.assertLessEqual({"terms", "causes", "error_by_code", "proxies", "correlations", "gain_weight", "pairs"}, names_in(files))
        for name, data in files.items():
            if name.endswith(".svg"):
                self.assertNotIn(b"<script", data, name)
        self.assertEqual({row["tensor"] for row in rows_of(files, "gain_weight")}, set(names))

    def test_one_row(self):
        page, files = self.report(make_rows(tensors=("a",), formats=("nvfp4",), methods=("sse",)))
        self.assertIn("1 row;", page)
        self.assertLessEqual({"weight_error", "terms", "causes", "error_by_code", "error_by_ratio", "scale_codes", "concentration"},
                             names_in(files))
        self.assertFalse({"pairs", "pareto", "proxies", "gain_weight", "layers"} & names_in(files))

    def test_no_rows(self):
        page, files = self.report([], complete=0)
        self.assertIn("no rows", page)
        self.assertEqual(set(files), {"index.html", "table.csv"})

    def test_no_activations(self):
        page, files = self.report(make_rows(tensors=MODEL, activations=False, decompose=False), old=True)
        self.assertEqual(names_in(files) & {"output_error", "gain_output", "proxies", "correlations"}, set())
        self.assertNotIn("best output error", page)

    def test_zero_and_nan_errors(self):
        rows = make_rows(tensors="abcd", formats=("nvfp4",), methods=("naive", "sse"))
        for row in rows[:3]:
            row.update(weight_error=0.0, relative_mse=0.0, mse=0.0, sqnr_db=math.inf)
        for row in rows[3:6]:
            row.update(weight_error=math.nan, relative_mse=math.nan, mse=0.0, sqnr_db=math.nan, output_error=math.nan)
        self.report(rows)
        for row in rows:
            row.update(weight_error=math.nan, relative_mse=math.nan, output_error=math.nan, log_inflation=math.nan)
        self.assertIn("nothing to compare", self.report(rows, old=True)[0])

    def test_banner_of_an_incomplete_file(self):
        page, _ = self.report(make_rows(tensors="a", formats=("nvfp4",)), old=True, complete=0)
        self.assertIn('<p class="banner"', page)

    def test_unknown_columns_and_settings_that_vary(self):
        rows = renumbered(make_rows(tensors="a", decompose=False) + make_rows(tensors="a", decompose=False, hadamard=16))
        self.assertIn("sse,rotated by 16", report.main.csv_text(*self.weight_cells(rows)))
        rows = renumbered(make_rows(tensors="a", decompose=False) + make_rows(tensors="a", decompose=False))
        page, files = self.report(rows, old=True, extra={"basis": ["plain"] * 6 + ["turned"] * 6})
        self.assertIn("basis", page)
        self.assertIn(b"sse,turned", files["figures/weight_error.csv"])

    def weight_cells(self, rows):
        plot = report.weight_error_plot(self.results(rows))
        return plot.header, plot.rows

    def test_many_rows(self):
        rows = make_rows(tensors=[f"layer.{i}.weight" for i in range(100)], formats=("nvfp4",), methods=("naive", "sse"), decompose=False)
        _, files = self.report(rows)
        self.assertEqual(len(rows_of(files, "gain_weight")), 100)
        self.assertEqual(len(rows_of(files, "layers")), 200)

    def test_errors(self):
        self.fails(self.folder / "absent.h5", "no such file")
        text = self.folder / "text.h5"
        text.write_text("not HDF5")
        self.fails(text, "not an HDF5 file")
        path = self.folder / "in.h5"
        h5py.File(path, "w").close()
        self.fails(path, "no group /table")
        with h5py.File(write_file(path, make_rows(tensors="a", decompose=False)), "r+") as file:
            file.attrs["kind"] = "crosscheck recipes"
        self.fails(path, "holds a crosscheck recipes")
        with h5py.File(write_file(path, make_rows(tensors="a", decompose=False)), "r+") as file:
            del file["table/method"]
        self.fails(path, "lacks the column method")
        with h5py.File(write_file(path, make_rows(tensors="a", decompose=False)), "r+") as file:
            schema_test.replace(file, "table/mse", [0.0])
        self.fails(path, "differ in length")
        strip(write_file(path, make_rows(tensors="a")))
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


def contrast(one, other):
    """WCAG's contrast of two colours #rrggbb."""
    def luminance(colour):
        parts = (int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5))
        return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), parts))
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


class Numbers(Files):
    """The numbers behind the figures, against sums over the file's rows and values worked out by hand."""

    def test_terms_and_causes_add_up_to_the_squared_error(self):
        _, files = made("whole")
        rows = make_rows(tensors=MODEL)
        for name, columns, shares in (("terms", schema_test.TERMS, TERM_SHARES), ("causes", schema_test.CAUSES, CAUSE_SHARES)):
            groups = grouped_rows(rows_of(files, name))
            self.assertEqual(len(groups), 6)
            for (form, _, method), parts in groups.items():
                value = {row["part"]: float(row["value"]) for row in parts}
                error = value.pop("relative_mse")
                mine = [row for row in rows if (row["format"], row["method"]) == (form, method)]
                self.assertAlmostEqual(error, sum(row["relative_mse"] for row in mine) / len(mine), delta=1e-12)  # of one sum of squares each
                self.assertEqual(set(value), set(columns))
                self.assertAlmostEqual(sum(value.values()), error, delta=1e-12)
                for part, share in zip(columns, shares):
                    self.assertAlmostEqual(value[part], share * error, delta=1e-12)

    def test_places_hold_every_element_and_all_of_the_error(self):
        _, files = made("whole")
        with tempfile.TemporaryDirectory() as folder:
            path = write_file(Path(folder) / "in.h5", make_rows(tensors=MODEL))
            with h5py.File(path, "r") as file:
                runs = {row["run"]: {p: [file[f"runs/{row['run']}/{p}_{x}"][()].sum() for x in ("count", "sse", "energy")]
                                     for p in place_sizes(row)} for row in make_rows(tensors=MODEL)}
        rows = make_rows(tensors=MODEL)
        for name, place, counted in (("error_by_code", "code", "elements"), ("error_by_ratio", "ratio", "elements"),
                                     ("scale_codes", "scale_code", "blocks")):
            for (form, _, method), cells in grouped_rows(rows_of(files, name)).items():
                expected = np.sum([runs[r["run"]][place] for r in rows if (r["format"], r["method"]) == (form, method)], axis=0)
                sums = [math.fsum(float(cell[column]) for cell in cells) for column in (counted, "squared_error", "energy")]
                np.testing.assert_allclose(sums, expected, rtol=1e-12, err_msg=name)

    def test_shares_rise_to_the_whole(self):
        _, files = made("whole")
        for cells in grouped_rows(rows_of(files, "scale_moves")).values():
            self.assertAlmostEqual(sum(float(cell["share"]) for cell in cells), 1.0, places=12)
        for place in ("column", "row"):
            for cells in grouped_rows(row for row in rows_of(files, "concentration") if row["place"] == place).values():
                held = [float(cell["share_of_squared_error"]) for cell in cells]
                self.assertEqual((held[0], held), (0.0, sorted(held)))
                self.assertAlmostEqual(held[-1], 1.0, places=12)
                self.assertTrue(all(h >= float(cell["share_of_places"]) - 1e-12 for h, cell in zip(held, cells)))

    def test_codes_stand_in_the_order_of_their_values(self):
        cells = next(iter(grouped_rows(rows_of(made("whole")[1], "error_by_code")).values()))
        self.assertEqual([float(cell["value"]) for cell in cells],
                         [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0, 0.5, 1, 1.5, 2, 3, 4, 6])
        self.assertEqual([cell["code"] for cell in cells[7:9]], ["8", "0"])

    def test_the_frontier_is_what_nothing_beats(self):
        points = [tuple(float(row[c]) for c in ("bits_per_weight", "relative_mse")) + (row["on_frontier"],)
                  for row in rows_of(made("whole")[1], "pareto")]
        self.assertEqual(len(points), 6)
        for bits, error, mark in points:
            beaten = any(b <= bits and e <= error and (b, e) != (bits, error) for b, e, _ in points)
            self.assertEqual(mark, "0" if beaten else "1")

    def test_bits_that_differ_by_a_tensor_scale_are_one_on_the_frontier(self):
        points = [(4.25, 0.012), (4.25005, 0.011), (4.5, 0.010), (4.5, 0.013)]
        self.assertEqual(tradeoffs.frontier(points), [(4.25005, 0.011), (4.5, 0.010)])

    def test_the_best_has_the_least_error_whatever_its_own_naive_is(self):
        score = {"far": estimates.Score(0.09, 2, 0.20, 0.09), "near": estimates.Score(0.08, 2, 0.10, 0.08)}
        self.assertEqual(estimates.best_of(score), ["near"])
        score["near"].tensors = 1  # on other tensors values do not compare, gains do
        self.assertEqual(estimates.best_of(score), ["far"])

    def test_floor_is_naive_in_every_power_of_two_format(self):
        variants = [groups.Variant("floor"), groups.Variant("sse")]
        for form in ("mxfp4", "mxfp6_e2m3", "mxfp8_e5m2", "mxint8"):
            self.assertEqual(groups.baseline((form, 32), variants, variants[1]), variants[0])
        self.assertIsNone(groups.baseline(("nvfp4", 16), variants, variants[1]))

    def test_gains_are_one_less_the_ratio_to_naive(self):
        rows = {(row["tensor"], row["format"], row["method"]): row for row in make_rows(tensors=MODEL)}
        for name, column in (("gain_weight", "weight_error"), ("gain_output", "output_error")):
            table = rows_of(made("whole")[1], name)
            self.assertEqual(len(table), len(MODEL) * 4)
            for row in table:
                mine, naive = (rows[row["tensor"], row["format"], m][column] for m in (row["method"], "naive"))
                self.assertAlmostEqual(float(row["gain_over_naive"]), 1 - mine / naive, places=12)

    def test_layers_show_the_signal_to_noise_of_each_tensor(self):
        rows = {(row["tensor"], row["format"], row["method"]): row for row in make_rows(tensors=MODEL)}
        table = rows_of(made("whole")[1], "layers")
        self.assertEqual(len(table), len(rows))
        for row in table:
            name = f"{row['before']}.{row['layer']}.{row['module']}"
            self.assertAlmostEqual(float(row["sqnr_db"]), rows[name, row["format"], row["method"]]["sqnr_db"], places=10)

    def test_ranks_and_correlations_by_hand(self):
        self.assertEqual(list(estimates.ranks([10, 20, 20, 5])), [1, 2.5, 2.5, 0])
        self.assertAlmostEqual(estimates.pearson([1, 2, 3], [1, 3, 2]), 0.5, places=15)
        self.assertAlmostEqual(estimates.pearson([0, 1, 2, 3], [0, 1, 4, 9]), 15 / math.sqrt(5 * 49), places=14)
        self.assertAlmostEqual(estimates.spearman([0, 1, 2, 3], [0, 1, 4, 9]), 1.0, places=15)
        self.assertAlmostEqual(estimates.spearman([1, 2, 3, 4], [10, 40, 20, 20]), 1.5 / math.sqrt(5 * 4.5), places=14)
        self.assertAlmostEqual(estimates.spearman([1, 2, 3], [9, 5, 1]), -1.0, places=15)
        for x, y in (([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([], [])):
            self.assertTrue(math.isnan(estimates.pearson(x, y)))

    def test_correlations_are_within_a_tensor_and_over_all(self):
        cell = {"a": [(1, 1), (2, 3), (3, 2)], "b": [(1, 10), (2, 20), (3, 30)], "c": [(5, 5), (6, 6)]}  # two do not rank
        pairs = [("group", "method", key, x, y) for key, points in cell.items() for x, y in points]
        within, cells, ranked, logs = outputs.correlations(pairs)
        x, y = zip(*(point for points in cell.values() for point in points))
        self.assertEqual(cells, 2)
        self.assertAlmostEqual(within, (0.5 + 1.0) / 2, places=14)
        self.assertAlmostEqual(ranked, np.corrcoef(estimates.ranks(x), estimates.ranks(y))[0, 1], places=13)
        self.assertAlmostEqual(logs, np.corrcoef(np.log(x), np.log(y))[0, 1], places=13)

    def test_the_table_of_correlations(self):
        weight, block = rows_of(made("whole")[1], "correlations")
        for row in (weight, block):  # the outputs' errors are a fixed multiple of the weights'
            self.assertEqual((row["pairs"], row["cells"]), ("24", "8"))
            for column in ("rank_within", "rank_all", "log_pearson_all"):
                self.assertAlmostEqual(float(row[column]), 1.0, places=12)

    def test_student_quantiles_and_intervals_by_hand(self):
        tables = {1: 12.7062047364, 2: 4.3026527297, 3: 3.1824463053, 4: 2.7764451052, 9: 2.2621571628, 30: 2.0422724563,
                  100: 1.9839715185, 1000: 1.9623390808}
        for degrees, quantile in tables.items():
            self.assertAlmostEqual(estimates.t_quantile(degrees), quantile, delta=2e-9 * quantile)
        mean, low, high = estimates.mean_interval([1.0, 2.0, 3.0])
        self.assertEqual(mean, 2.0)
        self.assertAlmostEqual(high - 2.0, 4.3026527297 / math.sqrt(3), places=8)
        self.assertAlmostEqual(2.0 - low, high - 2.0, places=12)
        self.assertTrue(all(math.isnan(end) for end in estimates.mean_interval([1.0])[1:]))

    def test_pairs_are_geometric_means_with_student_intervals(self):
        rows = make_rows(tensors="abc", formats=("nvfp4",), methods=("naive", "sse"), activations=False)
        ratios = (0.8, 0.9, 1.1)
        for row, ratio in zip(rows[1::2], ratios):
            row["weight_error"] = rows[rows.index(row) - 1]["weight_error"] * ratio
        (pair,) = estimates.pairings(self.results(rows))
        logs = [math.log(r) for r in ratios]
        mean = sum(logs) / 3
        half = 4.3026527297 * math.sqrt(sum((x - mean) ** 2 for x in logs) / 2 / 3)
        self.assertEqual((pair.over, pair.count, pair.wins, pair.losses), ("tensors", 3, 2, 1))
        for value, log in ((pair.change, mean), (pair.low, mean - half), (pair.high, mean + half)):
            self.assertAlmostEqual(value, math.exp(log) - 1, places=8)

    def test_seeds_of_an_input_are_samples_of_one_tensor(self):
        rows, table = make_seeds(), rows_of(made("seeds")[1], "weight_error")
        self.assertEqual({row["seeds"] for row in table}, {"4"})
        self.assertEqual({row["tensors"] for row in table if row["kind"] == "all"}, {"2"})
        single = [row for row in table if row["kind"] == "tensor"]
        self.assertEqual(len(single), 2 * 3 * 2)
        for row in single:
            mine = [r["weight_error"] for r in rows if (r["input"], r["method"], str(r["block"])) == (row["input"], row["method"], row["block"])]
            self.assertEqual(len(mine), 4)
            self.assertAlmostEqual(float(row["weight_error"]), math.sqrt(sum(v * v for v in mine) / 4), places=14)
            self.assertEqual((float(row["low"]), float(row["high"])), (min(mine), max(mine)))

    def test_the_interval_of_a_gain_is_that_of_sums_over_seeds(self):
        rows = make_seeds(seeds=3, sigmas=(0.1,), blocks=(16,))
        naive = {row["seed"]: row["relative_mse"] for row in rows if row["method"] == "naive"}
        for row in rows:
            ratio = row["relative_mse"] / naive[row["seed"]]
            row.update(mse=row["relative_mse"], naive_ratio=ratio, naive_ratio_low=ratio - 0.02 * row["seed"],
                       naive_ratio_high=ratio + 0.02 * row["seed"])
        results = self.results(rows)
        ((group, variants),) = groups.grouped(results).items()
        score = {v.method: s for v, s in estimates.scores(results, "weight_error", group, variants).items()}["sse"]
        square = sum(row["relative_mse"] for row in rows if row["method"] == "sse") / sum(naive.values())
        half = math.sqrt(sum((0.02 * seed * value) ** 2 for seed, value in naive.items())) / sum(naive.values())
        self.assertAlmostEqual(score.gain, 1 - math.sqrt(square), places=12)
        self.assertAlmostEqual(score.half, half / (2 * math.sqrt(square)), places=12)

    def test_one_input_is_paired_by_seed(self):
        rows = make_seeds(seeds=5, sigmas=(0.1,), blocks=(16,))
        (pair,) = estimates.pairings(self.results(rows))
        error = {(row["method"], row["seed"]): row["weight_error"] for row in rows}
        logs = [math.log(error["sse", seed] / error["naive", seed]) for seed in range(1, 6)]
        self.assertEqual((pair.over, pair.count), ("seeds", 5))
        self.assertAlmostEqual(pair.change, math.exp(sum(logs) / 5) - 1, places=13)

    def test_theory_is_held_against_the_mean_over_seeds(self):
        rows, normal = make_seeds(), 1.959963984540054
        for name, axis in (("theory_block", "block"), ("theory_sigma", "sigma")):
            table = rows_of(made("seeds")[1], name)
            self.assertEqual(len(table), 6)
            for line in table:
                block = line["block_of_line"] if axis == "sigma" else line["block"]
                mine = [r for r in rows if (r["method"], str(r["block"])) == ("naive", block)
                        and (r["sigma"] == float(line["sigma"]) if axis == "sigma" else r["input"] == line["input"])]
                self.assertEqual(len(mine), 4)
                mean = sum(r["relative_mse"] for r in mine) / 4
                half = normal * math.sqrt(sum(r["relative_mse_error"] ** 2 for r in mine)) / 4
                for column, value in (("measured", mean), ("low", mean - half), ("high", mean + half),
                                      ("expected", mine[0]["expected_relative_mse"])):
                    self.assertAlmostEqual(float(line[column]), value, delta=1e-12 * value)


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
