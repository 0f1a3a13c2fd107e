"""theory: its rows, its file, published numbers through the command line, and what it refuses."""
import csv
import json
import math

from harness import Case

MINE = """
[format.twin]            # nvfp4's elements under a finer scale
levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
scale = "ue4m4"
tensor_scale = "none"
"""


class Rows(Case):
    def table(self, *words):
        return json.loads(self.succeeds("theory", *words, "--json").stdout)["table"]

    def errors(self, *words, column="relative_mse"):
        return [row[column] for row in self.table(*words)]

    def test_real_scales_are_the_published_digits(self):
        words = ["--real-scale", "--block", "2,16,256"]
        for form, method, expected in (("nvfp4", "naive", [2.23461825e-3, 8.86311722e-3, 1.23757344e-2]),
                                       ("nvfp4", "static4", [2.10858939e-3, 9.45272002e-3, 1.63544135e-2]),
                                       ("nvint4", "naive", [1.39232689e-3, 7.25653407e-3, 1.59324155e-2])):
            got = self.errors("--format", form, "--scale", method, *words)
            for value, published in zip(got, expected, strict=True):
                self.assertAlmostEqual(value / published, 1, delta=5e-9)

    def test_the_paradox_of_small_blocks(self):
        blocks = [2, 4, 8, 16, 32, 64, 128, 256]
        rows = self.table("--format", "nvfp4", "--block", ",".join(map(str, blocks)), "--sigma", "0.02,0.01")
        for sigma, best in ((0.02, 8), (0.01, 64)):
            errors = {row["block"]: row["relative_mse"] for row in rows if row["sigma"] == sigma}
            self.assertEqual(min(errors, key=errors.get), best)

    def test_a_row_for_every_combination_in_order(self):
        rows = self.table("--format", "nvfp4,mxfp4", "--block", "16,32", "--sigma", "0.5,1,2", "--reach", "7,7.25")
        expected = [(f, b, r, s) for f in ("nvfp4", "mxfp4") for b in (16, 32) for r in ("reach 7", "reach 7.25") for s in (0.5, 1, 2)]
        self.assertEqual([(row["format"], row["block"], row["scale"], row["sigma"]) for row in rows], expected)
        for row in rows:
            self.assertAlmostEqual(row["sqnr_db"], -10 * math.log10(row["relative_mse"]))
        by = {(row["format"], row["block"], row["scale"], row["sigma"]): row["relative_mse"] for row in rows}
        self.assertAlmostEqual(by["mxfp4", 32, "reach 7.25", 1] / by["mxfp4", 32, "reach 7.25", 2], 1)

    def test_defaults_are_the_formats_block_naive_and_sigma_1(self):
        (row,) = self.table("--format", "mxfp4")
        self.assertEqual((row["block"], row["scale"], row["sigma"]), (32, "naive", 1))
        self.assertEqual(self.errors("--format", "mxfp4", "--scale", "floor"), [row["relative_mse"]])
        self.assertEqual(len(self.table("--format", "mxfp4", "--scale", "naive", "--reach", "7")), 2)

    def test_sigmas_are_spaced_in_the_logarithm(self):
        sigmas = self.errors("--format", "nvfp4", "--sigma", "0.01:1:5,3", column="sigma")
        for value, expected in zip(sigmas, [0.01, 10 ** -1.5, 0.1, 10 ** -0.5, 1, 3], strict=True):
            self.assertAlmostEqual(value, expected)

    def test_a_tensor_scale_is_a_smaller_sigma(self):
        scaled = self.errors("--format", "nvfp4", "--tensor-scale", "0.001", "--sigma", "1")
        plain = self.errors("--format", "nvfp4", "--tensor-scale", "none", "--sigma", "1000")
        self.assertAlmostEqual(scaled[0] / plain[0], 1, delta=1e-12)

    def test_octave_means_and_the_best_reach(self):
        (mean,) = self.errors("--format", "mxfp4", "--reach", "7.25", "--octave", column="octave_mean")
        self.assertAlmostEqual(mean / 1.25171e-2, 1, delta=2e-5)
        rows = self.table("--format", "mxfp4", "--block", "32,16", "--best-reach")
        self.assertEqual([(row["format"], row["block"]) for row in rows], [("mxfp4", 32), ("mxfp4", 16)])
        self.assertAlmostEqual(rows[0]["reach"], 7.25, delta=0.05)
        self.assertAlmostEqual(rows[1]["reach"], 7.1, delta=0.05)
        self.assertLessEqual(rows[0]["octave_mean"], mean)

    def test_the_published_approximation_is_a_column_more(self):
        (row,) = self.table("--format", "nvfp4", "--sigma", "0.005", "--published")
        self.assertAlmostEqual(row["relative_mse"], 1.84e-2, delta=5e-5)
        self.assertAlmostEqual(row["published"], 1.99e-2, delta=5e-5)
        self.assertNotIn("published", self.table("--format", "nvfp4")[0])

    def test_a_format_of_ones_own(self):
        self.path("mine.toml").write_text(MINE)
        mine = self.errors("--formats", "mine.toml", "--format", "twin", "--sigma", "0.005")
        self.assertAlmostEqual(mine[0] / self.errors("--format", "nvfp4", "--sigma", "0.01")[0], 1, delta=1e-9)

    def test_the_file_is_the_table_in_full(self):
        words = ["--format", "nvfp4,nvint4", "--sigma", "0.01:1:7", "--published"]
        outcome = self.succeeds("theory", *words, "-o", "out.csv")
        self.assertEqual(outcome.stdout, "out.csv: 14 rows\n")
        with open(self.path("out.csv"), newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        rows = self.table(*words)
        self.assertEqual(list(lines[0]), list(rows[0]))
        self.assertEqual([{k: type(row[k])(line[k]) for k in line} for line, row in zip(lines, rows, strict=True)], rows)

    def test_the_table_for_people_has_the_same_columns(self):
        lines = self.succeeds("theory", "--format", "nvfp4", "--sigma", "0.02,1").stdout.splitlines()
        self.assertEqual(lines[0].split(), ["format", "block", "scale", "sigma", "relative_mse", "sqnr_db"])
        self.assertEqual(lines[1].split()[:4], ["nvfp4", "16", "naive", "0.02"])
        self.assertEqual(len(lines), 3)


class Refusals(Case):
    def refused(self, needles, *words):
        self.fails(2, needles, "theory", *words)
        self.leaves()

    def test_names(self):
        self.refused("--format")
        self.refused(["'nvp4'", "'nvfp4'"], "--format", "nvfp4,nvp4")
        self.refused(["--scale", "'flor'", "'floor'"], "--format", "mxfp4", "--scale", "flor")
        self.refused(["--scale", "sse", "naive", "static4"], "--format", "nvfp4", "--scale", "sse")
        self.refused(["--format", "if4", "4 bits"], "--format", "if4")
        self.refused(["--format", "mxfp8_e4m3", "4 bits"], "--format", "mxfp8_e4m3")

    def test_numbers(self):
        for sigma in ("0", "-1", "nan", "inf", "x", "1e99", "1x", ""):
            self.refused(["--sigma"], "--format", "nvfp4", f"--sigma={sigma}")
        for sigma in ("1:2", "1:2:1", "1:2:2.5", "1:2:x", "1:2:3:4", "0:1:3"):
            self.refused(["--sigma"], "--format", "nvfp4", "--sigma", sigma)
        for block in ("1", "0", "1025", "x"):
            self.refused(["--block", block], "--format", "nvfp4", "--block", block)
        self.refused(["--reach", "'0'"], "--format", "mxfp4", "--reach", "7,0")
        self.refused(["--tensor-scale", "'big'"], "--format", "nvfp4", "--tensor-scale", "big")
        self.refused(["--tensor-scale", "amax"], "--format", "nvfp4", "--tensor-scale", "amax")

    def test_words_without_effect(self):
        for words in (["--sigma", "2"], ["--tensor-scale", "2"], ["--octave"]):
            self.refused(["--real-scale", "no effect"], "--format", "nvfp4", "--real-scale", *words)
        for words in (["--sigma", "2"], ["--scale", "floor"], ["--reach", "7"], ["--published"], ["--tensor-scale", "2"], ["--real-scale"],
                      ["--octave"]):
            self.refused(["--best-reach", "alone"], "--format", "mxfp4", "--best-reach", *words)
        self.refused(["--best-reach", "nvfp4", "power-of-two"], "--format", "nvfp4", "--best-reach")

    def test_a_file_that_cannot_be_written(self):
        self.fails(1, "nowhere/out.csv", "theory", "--format", "nvfp4", "-o", "nowhere/out.csv")
        self.fails(1, "none.toml", "theory", "--format", "nvfp4", "--formats", "none.toml")
