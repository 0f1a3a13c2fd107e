"""The sweep: what it runs, skips and writes; the same bytes however it is run."""
import csv
import io
import json
import math
import os
import random
import re
import struct
import subprocess
import sys
import unittest
from pathlib import Path

import harness
from harness import Case, Tensor, floats, write_safetensors

TESTS = Path(__file__).resolve().parents[1]
H5_PYTHON = "/usr/bin/python3"

SMALL = """
seed = 7
per_block = true

[[input]]
name = "bell"
distribution = "normal"
rows = 24
cols = 70

[[input]]
name = "tails"
distribution = "student_t"
rows = 16
cols = 64
dtype = "f16"

[activations]
tokens = 40

[[quantize]]
formats = ["nvfp4", "mxfp4"]
blocks = [16, 32]
methods = ["naive", "4over6", "floor", "sse", "hessian"]
select = ["mse", "absmax"]

[[quantize]]
inputs = ["tails"]
formats = ["nvint4"]
tensor_scale = ["amax", "none", 0.01]
"""


def has_h5py():
    try:
        return subprocess.run([H5_PYTHON, "-c", "import h5py"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def sample(shape, seed):
    rng = random.Random(seed)
    return floats(shape, [rng.gauss(0, 1) for _ in range(math.prod(shape))])


class SweepCase(Case):
    """A sweep and its rows."""

    def write(self, text, name="c.toml"):
        self.path(name).write_text(text, encoding="utf-8")

    def rows(self, *words, **options):
        outcome = self.succeeds("sweep", "c.toml", "-o", "out.h5", "--json", *words, **options)
        self.words = outcome.stderr
        return json.loads(outcome.stdout)

    def h5(self, name="out.h5"):
        return self.path(name).read_bytes()


class WhatItRuns(SweepCase):
    """Inputs x formats x blocks x methods."""

    def test_the_product_in_order(self):
        self.write(SMALL)
        rows = self.rows()
        grid = [(form, block, method, select) for form, methods in (("nvfp4", ["naive", "4over6 mse", "4over6 absmax", "sse", "hessian"]),
                                                                    ("mxfp4", ["naive", "floor", "sse", "hessian"]))
                for block in (16, 32) for method, select in ((m.split() + [""])[:2] for m in methods)]
        expected = [(name, *row) for name in ("bell", "tails") for row in grid] + [("tails", "nvint4", 16, "naive", "")] * 3
        self.assertEqual([tuple(row[key] for key in ("input", "format", "block", "method", "select")) for row in rows], expected)
        self.assertEqual([row["tensor_scale_rule"] for row in rows[-3:]], ["amax", "none", "0.01"])
        self.assertEqual([row["run"] for row in rows], sorted(row["run"] for row in rows))
        self.assertEqual({(row["rows"], row["cols"], row["dtype"]) for row in rows}, {(24, 70, "BF16"), (16, 64, "F16")})
        self.assertEqual({row["padded_cols"] for row in rows if row["input"] == "bell"}, {80, 96})
        self.leaves("c.toml", "out.h5", "out.log.json")

    def test_senseless_pairs_are_skipped_with_a_word(self):
        self.write(SMALL)
        self.rows()
        for word in ("nvfp4 has no method floor", "mxfp4 has no method 4over6"):
            self.assertEqual(len(re.findall(rf"(?m)^fp4scope: {word}.*skipped", self.words)), 1, self.words)

    def test_methods_that_correct_values_give_their_errors_and_bits(self):
        self.write('[[input]]\ndistribution = "normal"\nrows = 64\ncols = 256\n[[quantize]]\nformats = "mxfp4"\n'
                   'methods = ["rceil", "oas", "macro", "macro_search", "macro_oas_search", "residual", "residual_half"]\n')
        rows = {row["method"]: row for row in self.rows()}
        bits = {"rceil": 4.25, "oas": 4.25, "macro": 4.3125, "macro_search": 4.28125, "macro_oas_search": 4.28125, "residual": 8.5, "residual_half": 8.5}
        self.assertEqual({method: row["bits_per_weight"] for method, row in rows.items()}, bits)
        order = sorted(rows, key=lambda method: -rows[method]["relative_mse"])
        self.assertEqual(order, ["rceil", "oas", "macro", "macro_search", "macro_oas_search", "residual_half", "residual"])

    def test_hessian_without_activations_is_skipped_with_a_word(self):
        self.write('[[input]]\ndistribution = "normal"\nrows = 4\ncols = 64\n[[quantize]]\nmethods = ["naive", "hessian"]\n')
        rows = self.rows()
        self.assertEqual([row["method"] for row in rows], ["naive"])
        self.assertIsNone(rows[0]["output_error"])
        self.assertRegex(self.words, r"nvfp4 hessian skipped.*activations")

    def test_numbers_make_sense(self):
        self.write(SMALL)
        rows = self.rows()
        by = {(r["input"], r["format"], r["block"], r["method"] + r["select"]): r for r in rows[:-3]}
        for name in ("bell", "tails"):
            for form in ("nvfp4", "mxfp4"):
                for block in (16, 32):
                    naive, sse, hessian = (by[name, form, block, method] for method in ("naive", "sse", "hessian"))
                    self.assertLessEqual(sse["relative_mse"], naive["relative_mse"])
                    self.assertLessEqual(sse["relative_mse"], hessian["relative_mse"])
                    self.assertLess(hessian["output_error"], naive["output_error"])
                    self.assertEqual(naive["moved_share"], 0)
        for row in rows:
            self.assertTrue(0.02 < row["weight_error"] < 0.6, row)
            self.assertAlmostEqual(row["sqnr_db"], -20 * math.log10(row["weight_error"]), places=9)
            self.assertEqual(row["blocks"], row["rows"] * row["padded_cols"] // row["block"])

    def test_defaults_are_nvfp4_naive(self):
        self.write('[[input]]\ndistribution = "uniform"\nrows = 2\ncols = 16\n[[quantize]]\n')
        self.assertEqual([(r["format"], r["block"], r["method"]) for r in self.rows()], [("nvfp4", 16, "naive")])

    def test_the_default_configuration_is_a_working_start(self):
        text = self.succeeds("sweep", "--show-default").stdout
        self.assertIn("[[quantize]]", text)
        small = re.sub(r"(?m)^(rows|cols) = \d+", r"\1 = 64", text)
        self.assertNotEqual(small, text)
        self.write(re.sub(r"(?m)^tokens = \d+", "tokens = 32", small))
        rows = self.rows()
        self.assertEqual({r["format"] for r in rows}, {"nvfp4", "mxfp4", "nvint4"})
        self.assertNotIn("skipped", self.words)
        self.leaves("c.toml", "out.h5", "out.log.json")

    def test_the_examples_in_the_default_s_comments_are_right(self):
        """Each `# key = value` line, put into effect, is a key that the sweep knows."""
        text = self.succeeds("sweep", "--show-default").stdout
        for key in re.findall(r"(?m)^# (\w+) = ", text):
            self.assertIn(key, {"file", "tensors", "exclude", "tensor", "inputs", "select", "tensor_scale", "scale_max", "recipe", "rounding",
                                "hadamard", "block_2d"})
        grid = re.sub(r"(?m)^# ((inputs|select|tensor_scale|scale_max|recipe|rounding|hadamard|block_2d) = )", r"\1", text)
        self.assertNotEqual(grid, text)
        self.write(re.sub(r"(?m)^(rows|cols|tokens) = \d+", r"\1 = 32", grid))
        self.rows()


class Axes(SweepCase):
    """Sigma, seed, rotation, recipe, rounding and square blocks as axes; where errors come from, on request."""

    def test_layer_terms_are_decomposes(self):
        if not has_h5py():
            raise unittest.SkipTest(f"{H5_PYTHON} has no h5py")
        source = random.Random(5)
        draw = lambda rows, sigma: floats([rows, 64], [source.gauss(0, sigma) for _ in range(64 * rows)])
        write_safetensors(self.path("w.safetensors"), {"w": draw(16, 0.01)})
        write_safetensors(self.path("x.safetensors"), {"x": draw(24, 0.01)})
        self.write('decompose = true\n[[input]]\nfile = "w.safetensors"\n[activations]\nfile = "x.safetensors"\n'
                   '[[quantize]]\nformats = ["nvfp4"]\ntensor_scale = ["amax", "none"]\n')
        self.rows()
        script = "import h5py, sys; [print(*run['layer_terms'][:].ravel()) for run in h5py.File(sys.argv[1])['runs'].values()]"
        lines = subprocess.run([H5_PYTHON, "-c", script, str(self.path("out.h5"))], capture_output=True, text=True, check=True).stdout.splitlines()
        self.assertEqual(len(lines), 2)
        for scale, line in zip(("amax", "none"), lines):
            layer = json.loads(self.succeeds("decompose", "w.safetensors", "--format", "nvfp4", "--tensor-scale", scale,
                                             "--activations", "x.safetensors:x", "--json").stdout)["tensors"][0]["layer"]
            self.assertGreater(layer["inner"][1][1], 0)
            for got, want in zip(map(float, line.split()), sum(layer["inner"], [])):
                self.assertAlmostEqual(got / (want / layer["energy"]), 1, 9, scale)

    def test_rows_of_every_axis_tell_themselves_apart(self):
        self.write('decompose = true\n[[input]]\nname = "n"\ndistribution = "normal"\nrows = 16\ncols = 64\nsigma = [0.5, 2]\nseed = [3, 4]\n'
                   '[[quantize]]\nrecipe = ["exact", "te"]\nhadamard = [0, 16]\n[[quantize]]\nrounding = "stochastic"\nblock_2d = true\n')
        rows = self.rows()
        names = ("input", "seed", "sigma", "hadamard", "recipe", "rounding", "block_2d")
        self.assertEqual(len({tuple(r[name] for name in names) for r in rows}), len(rows))
        self.assertEqual(len(rows), 2 * 2 * (2 * 2 + 1))
        self.assertEqual({(r["input"], r["sigma"]) for r in rows}, {("n sigma 0.5", 0.5), ("n sigma 2", 2.0)})
        self.assertEqual({r["seed"] for r in rows}, {3, 4})
        hashes = {(r["sigma"], r["seed"], r["hadamard"], r["input_hash"]) for r in rows}
        self.assertEqual(len(hashes), 8)
        for r in rows:
            self.assertEqual(r["chain"], int(r["recipe"] == "exact" and r["rounding"] == "rne"))
            self.assertGreater(r["cause_grid"], 0)
            self.assertLessEqual(r["relative_mse_low"], r["relative_mse"])

    def test_without_decompose_there_are_no_terms(self):
        self.write('[[input]]\ndistribution = "normal"\nrows = 16\ncols = 64\n[[quantize]]\nmethods = ["naive", "sse"]\n')
        naive, sse = self.rows()
        self.assertIsNone(naive["grid_noise_term"])
        self.assertEqual(naive["naive_ratio"], 1)
        self.assertLess(sse["naive_ratio_high"], 1)
        self.assertIsNone(sse["expected_relative_mse"])
        self.assertLess(abs(naive["expected_relative_mse"] / naive["relative_mse"] - 1), 0.2)


class Files(SweepCase):
    """Inputs and activations from files."""

    def setUp(self):
        super().setUp()
        self.path("data").mkdir()
        write_safetensors(self.path("data/m.safetensors"), {
            "a/q.weight": sample([6, 48], 1), "a/k.weight": sample([6, 3, 16], 2), "a/embed.weight": sample([4, 48], 3), "b/q.weight": sample([6, 32], 4),
            "a/bias": floats([48], [1.0] * 48), "ids.weight": Tensor("I64", [2], bytes(16))})
        write_safetensors(self.path("data/x.safetensors"), {"layer/in": sample([20, 48], 5), "other": sample([20, 32], 6)})

    def config(self, more="", grid="", tensors='["*.weight"]'):
        self.write(f'[[input]]\nfile = "data/m.safetensors"\ntensors = {tensors}\n{more}[[quantize]]\n{grid}')

    def test_globs_and_exclude_choose_the_tensors(self):
        self.config('exclude = ["*embed*"]\n')
        rows = self.rows()
        self.assertEqual([(r["input"], r["tensor"], r["rows"], r["cols"]) for r in rows],
                         [("m.safetensors", "a/k.weight", 6, 48), ("m.safetensors", "a/q.weight", 6, 48), ("m.safetensors", "b/q.weight", 6, 32)])
        self.assertRegex(self.words, r"m\.safetensors: ids\.weight skipped, its dtype I64")
        self.assertNotIn("bias", self.words)

    def test_no_match_is_an_error_that_names_the_globs(self):
        self.config(tensors='["nothing*"]')
        self.fails(1, ["m.safetensors", "nothing*"], "sweep", "c.toml", "-o", "out.h5")
        self.leaves("c.toml", "data")

    def test_a_relative_file_starts_at_the_configuration_s_folder(self):
        self.config()
        self.rows()
        first = self.h5()
        self.path("elsewhere").mkdir()
        self.succeeds("sweep", "../c.toml", "-o", "out.h5", cwd=self.path("elsewhere"))
        self.assertEqual(self.h5("elsewhere/out.h5"), first)

    def test_a_variable_in_a_file_name_is_read_from_the_environment(self):
        self.write('[[input]]\nfile = "${SOMEWHERE}/m.safetensors"\ntensors = "a/q*"\n[[quantize]]\n')
        self.assertEqual(len(self.rows(env={**os.environ, "SOMEWHERE": str(self.path("data"))})), 1)

    def test_activations_from_a_file_serve_the_tensors_that_they_fit(self):
        self.config('[activations]\nfile = "data/x.safetensors"\ntensor = "layer/in"\n', 'methods = ["naive", "sse"]\n', '["?/q*"]')
        rows = self.rows()
        self.assertEqual([(r["tensor"], r["method"], r["output_error"] is None, r["tokens"]) for r in rows],
                         [("a/q.weight", "naive", False, 20), ("a/q.weight", "sse", False, 20), ("b/q.weight", "naive", True, 0), ("b/q.weight", "sse", True, 0)])
        self.assertIn("layer/in", rows[0]["activations"])
        self.assertRegex(self.words, "b/q.weight: .*32.*48")

    def test_hessian_where_the_activations_do_not_fit_is_skipped_with_a_word(self):
        self.config('[activations]\nfile = "data/x.safetensors"\ntensor = "layer/in"\n', 'methods = ["naive", "hessian"]\n', '["?/q*"]')
        rows = self.rows()
        self.assertEqual([(r["tensor"], r["method"]) for r in rows], [("a/q.weight", "naive"), ("a/q.weight", "hessian"), ("b/q.weight", "naive")])
        self.assertRegex(self.words, "b/q.weight.*hessian|hessian.*b/q.weight")

    def test_missing_activations_are_an_error_before_the_work(self):
        self.config('[activations]\nfile = "data/x.safetensors"\ntensor = "layer/im"\n', tensors='["a/q*"]')
        self.fails(1, ["x.safetensors", "'layer/im'", "'layer/in'"], "sweep", "c.toml", "-o", "out.h5")
        self.config('[activations]\nfile = "data/x.safetensors"\n', tensors='["a/q*"]')
        self.fails(1, ["x.safetensors", "2 tensors"], "sweep", "c.toml", "-o", "out.h5")
        self.leaves("c.toml", "data")

    def test_nonfinite_data_in_a_file_propagates_on_request(self):
        write_safetensors(self.path("data/m.safetensors"), {"w": floats([1, 32], [math.nan] + [1.0] * 31)})
        self.config(tensors='["w"]')
        self.fails(1, ["m.safetensors", "w", "row 0, column 0", "propagate"], "sweep", "c.toml", "-o", "out.h5")
        self.write('nonfinite = "propagate"\n[[input]]\nfile = "data/m.safetensors"\n[[quantize]]\n', "d.toml")
        self.succeeds("sweep", "d.toml", "-o", "d.h5")


class SameBytes(SweepCase):
    """The same work, the same file."""

    def test_two_runs_any_threads_any_folder(self):
        self.write(SMALL)
        self.rows()
        first = self.h5()
        for number, words in enumerate(([], ["--threads", "1"], ["--threads", "2"], ["--threads", "7"])):
            self.path(str(number)).mkdir()
            self.succeeds("sweep", "c.toml", "-o", f"{number}/other.h5", *words)
            self.assertTrue(self.h5(f"{number}/other.h5") == first, words)

    def test_comments_order_of_keys_and_written_defaults_do_not_matter(self):
        self.write('[[input]]\ndistribution = "normal"\nrows = 8\ncols = 32\n[[quantize]]\nformats = ["nvfp4"]\n')
        self.rows()
        first = self.h5()
        self.write('seed = 1 # a word\nper_block = false\n[[input]]\ncols = 32\nrows = 8\nname = "normal"\ndistribution = "normal"\n[[quantize]]\nmethods = "naive"\n')
        self.rows()
        self.assertTrue(self.h5() == first)

    def test_another_seed_gives_other_numbers(self):
        for seed in (1, 2):
            self.write(f'seed = {seed}\n[[input]]\ndistribution = "normal"\nrows = 8\ncols = 32\n[[quantize]]\n')
            rows = self.rows()
            if seed == 1:
                first = rows
        self.assertNotEqual(rows[0]["input_hash"], first[0]["input_hash"])


EVERY_WAY = """
per_block = true
[[input]]
file = "m.safetensors"
[[input]]
distribution = "llm"
rows = 37
cols = 90
[activations]
tokens = 20
[[quantize]]
formats = ["nvfp4", "mxfp4", "if4"]
blocks = [16, 32]
methods = ["naive", "4over6", "sse", "hessian", "coordinate", "hessian_row", "gptq", "ms_eden"]
[[quantize]]
formats = ["nvfp4"]
methods = ["naive", "sse"]
tensor_scale = ["headroom", "none", 0.01]
"""


class Memory(SweepCase):
    """Tensors larger than --memory pass in pieces of rows; the results are the same."""

    def test_the_same_bytes_whatever_the_memory_and_threads(self):
        write_safetensors(self.path("m.safetensors"), {f"t{i}": sample([5 + 11 * i, 48], i) for i in range(5)})
        self.write(EVERY_WAY)
        self.rows()
        first = self.h5()
        self.assertNotIn("taken whole", self.words)
        for memory, threads in (("1", "2"), ("2K", "1"), ("0.01M", "3"), ("40K", "5")):
            outcome = self.succeeds("sweep", "c.toml", "-o", "other.h5", "--memory", memory, "--threads", threads)
            self.assertTrue(self.h5("other.h5") == first, f"--memory {memory} --threads {threads}")
            self.assertEqual("llm: taken whole" in outcome.stderr, memory != "40K", outcome.stderr)

    def test_what_is_not_finite_is_named_by_its_row_in_the_tensor(self):
        bad = [1.0] * 64 * 40
        bad[33 * 64 + 5] = math.inf
        write_safetensors(self.path("m.safetensors"), {"w": floats([40, 64], bad)})
        self.write('[[input]]\nfile = "m.safetensors"\n[[quantize]]\n')
        for memory in ("1G", "2K"):
            self.fails(1, ["m.safetensors: w: row 33, column 5 is inf (1 such value in all)"], "sweep", "c.toml", "-o", "out.h5", "--memory", memory)

    def test_the_first_tensor_that_fails_is_told(self):
        tensors = {f"t{i:02}": floats([4, 32], [math.nan if i in (5, 6, 17) else 1.0] * 128) for i in range(40)}
        write_safetensors(self.path("m.safetensors"), tensors)
        self.write('[[input]]\nfile = "m.safetensors"\n[[quantize]]\n')
        for threads in ("1", "2", "8"):
            self.fails(1, ["m.safetensors: t05: row 0, column 0 is nan"], "sweep", "c.toml", "-o", f"{threads}.h5", "--threads", threads)

    def test_rounded_values_are_told_once(self):
        data = struct.pack("<64d", *(0.1 for _ in range(64)))
        write_safetensors(self.path("m.safetensors"), {"w": Tensor("F64", [4, 16], data)})
        self.write('[[input]]\nfile = "m.safetensors"\n[[quantize]]\nmethods = ["naive", "sse"]\n')
        for memory in ("1G", "400"):
            self.rows("--memory", memory)
            self.assertEqual(self.words.count("w: 64 of 64 F64 values rounded"), 1, self.words)

    def test_a_size_is_a_number_with_a_unit(self):
        self.write('[[input]]\ndistribution = "normal"\nrows = 8\ncols = 32\n[[quantize]]\n')
        for size in ("0", "-1G", "G", "3Q", "2GB", "1e30", "nan", "1g", ""):
            self.fails(2, ["--memory"], "sweep", "c.toml", "-o", "out.h5", f"--memory={size}")
        self.leaves("c.toml")

    def test_a_file_of_96_mib_needs_half_of_that(self):
        header = json.dumps({"w": {"dtype": "BF16", "shape": [12288, 4096], "data_offsets": [0, 96 << 20]}}).encode()
        with open(self.path("m.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + (96 << 20))  # zeros, which take no room on the disk
        self.write('[[input]]\nfile = "m.safetensors"\n[[quantize]]\nmethods = ["naive", "sse"]\n')
        # A child's peak begins with its parent's, so the parent is a small one.
        script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        words = harness.command("sweep", "c.toml", "-o", "out.h5", "--memory", "12M", "--threads", "2")
        outcome = subprocess.run([sys.executable, "-c", script, *words], cwd=self.folder, capture_output=True, text=True, check=True)
        self.assertLess(int(outcome.stdout.split()[-1]), 48 << 10)  # KiB


class Outputs(SweepCase):
    """HDF5, CSV, JSON, a table, a log."""

    def test_csv_and_json_and_the_table_say_the_same(self):
        self.write(SMALL)
        rows = self.rows("--csv", "out.csv")
        table = list(csv.DictReader(io.StringIO(self.path("out.csv").read_text(encoding="utf-8"))))
        self.assertEqual(list(table[0]), list(rows[0]))
        self.assertEqual(len(table), len(rows))
        for line, row in zip(table, rows):
            for key, value in row.items():
                if isinstance(value, float):
                    self.assertEqual(float(line[key]), value, key)
                elif value is None:
                    self.assertTrue(line[key] == "" or math.isnan(float(line[key])), key)
                else:
                    self.assertEqual(line[key], str(value), key)
        text = self.succeeds("sweep", "c.toml", "-o", "out.h5").stdout.splitlines()
        self.assertEqual(len(text), 1 + len(rows))
        self.assertIn(f"{100 * rows[0]['weight_error']:.2f}", text[1])
        self.leaves("c.toml", "out.csv", "out.h5", "out.log.json")

    def test_a_csv_that_can_not_be_written_is_noticed_before_the_work(self):
        self.write('[[input]]\ndistribution = "normal"\nrows = 8\ncols = 32\n[[quantize]]\n')
        self.fails(1, ["nowhere/out.csv", "No such file"], "sweep", "c.toml", "-o", "out.h5", "--csv", "nowhere/out.csv")
        self.leaves("c.toml")

    def test_the_log_is_json_and_holds_what_differs(self):
        self.write(SMALL)
        rows = self.rows("--threads", "2")
        log = json.loads(self.path("out.log.json").read_text(encoding="utf-8"))
        self.assertEqual(set(log["runs"]), {row["run"] for row in rows})
        self.assertEqual(log["threads"], 2)
        self.assertIs(log["interrupted"], False)
        self.assertIn("--threads 2", log["command_line"])
        self.assertTrue(any("skipped" in word for word in log["notices"]))

    def test_no_progress_bar_without_a_terminal(self):
        self.write(SMALL)
        self.rows()
        self.assertNotRegex(self.words, r"[\r\x1b\[\]]")
        self.assertRegex(self.words, r"(?m)^fp4scope: 39 of 39 results in out\.h5$")

    def test_the_results_file_keeps_the_schema(self):
        if not has_h5py():
            raise unittest.SkipTest(f"{H5_PYTHON} has no h5py")
        self.write(SMALL)
        self.rows()
        outcome = subprocess.run([H5_PYTHON, str(TESTS / "analysis" / "schema_test.py"), str(self.path("out.h5"))], capture_output=True, text=True, check=False,
                                 env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        self.assertEqual(outcome.returncode, 0, outcome.stdout + outcome.stderr)

    def test_the_configuration_in_the_file_reruns_it(self):
        if not has_h5py():
            raise unittest.SkipTest(f"{H5_PYTHON} has no h5py")
        self.write(SMALL)
        self.rows()
        first = self.h5()
        script = "import h5py, sys; print(h5py.File(sys.argv[1]).attrs['configuration'])"
        self.write(subprocess.run([H5_PYTHON, "-c", script, str(self.path("out.h5"))], capture_output=True, text=True, check=True).stdout)
        self.rows()
        self.assertTrue(self.h5() == first)
