"""bench search: what its table holds, and what it refuses. (Not how fast anything is.)"""
import json

from harness import Case

SMALL = ["bench", "search", "--rows", "8", "--cols", "256", "--repeats", "2"]
STANDARD = [("bf16", "memcpy"), ("nvfp4", "naive"), ("nvfp4", "4over6"), ("nvfp4", "sse"), ("nvfp4", "exhaustive"),
            ("mxfp4", "naive"), ("mxfp4", "sse"), ("nvfp4", "hessian")]


class Tables(Case):
    def table(self, *words):
        outcome = json.loads(self.succeeds(*SMALL, "--json", *words).stdout)
        return outcome, {(row["format"], row["method"]): row for row in outcome["table"]}

    def test_without_words_it_is_the_standard_table(self):
        outcome, rows = self.table()
        self.assertEqual(list(rows), STANDARD)
        self.assertEqual({k: outcome[k] for k in ("data", "rows", "cols", "repeats")}, {"data": "normal", "rows": 8, "cols": 256, "repeats": 2})
        self.assertEqual({method: row["block"] for method, row in rows.items()},
                         {method: {"bf16": None, "nvfp4": 16, "mxfp4": 32}[method[0]] for method in STANDARD})

    def test_rates_and_ratios_follow_from_the_seconds(self):
        outcome, rows = self.table("--threads", "2")
        self.assertEqual(outcome["threads"], 2)
        for (form, method), row in rows.items():
            self.assertEqual(row["elements"], row["rows"] * 256)
            self.assertAlmostEqual(row["elements_per_second"] * row["median_seconds"] / row["elements"], 1)
            self.assertAlmostEqual(row["elements_per_second_per_thread"] * 2 / row["elements_per_second"], 1)
            self.assertAlmostEqual(row["to_memcpy"] * row["elements_per_second"] / rows["bf16", "memcpy"]["elements_per_second"], 1)
            if form == "bf16":
                self.assertIsNone(row["to_naive"])
            else:
                self.assertAlmostEqual(row["to_naive"] * row["elements_per_second"] / rows[form, "naive"]["elements_per_second"], 1)

    def test_candidates_are_counted(self):
        rows = self.table()[1]
        self.assertEqual(rows["nvfp4", "naive"]["candidates_per_block"], 0)
        self.assertEqual(rows["nvfp4", "exhaustive"]["candidates_per_block"], 126)
        self.assertLess(0, rows["nvfp4", "sse"]["candidates_per_block"])
        self.assertLess(rows["nvfp4", "sse"]["candidates_per_block"], 20)

    def test_a_method_is_timed_beside_naive(self):
        rows = self.table("--format", "nvint4", "--scale", "sse", "--block", "32", "--data", "student_t")[1]
        self.assertEqual(list(rows), [("bf16", "memcpy"), ("nvint4", "naive"), ("nvint4", "sse")])
        self.assertEqual(rows["nvint4", "sse"]["block"], 32)
        self.assertEqual(list(self.table("--format", "if4")[1]), [("bf16", "memcpy"), ("if4", "naive")])
        self.assertEqual(list(self.table("--scale", "4over6")[1]), [("bf16", "memcpy"), ("nvfp4", "naive"), ("nvfp4", "4over6")])

    def test_people_get_a_table(self):
        lines = self.succeeds(*SMALL, "--scale", "sse").stdout.splitlines()
        self.assertEqual([line.split()[:2] for line in lines[2:]], [["bf16", "memcpy"], ["nvfp4", "naive"], ["nvfp4", "sse"]])
        for word in ("elements/s", "candidates/block", "x naive", "x memcpy"):
            self.assertIn(word, lines[1])


class WrongWords(Case):
    def refused(self, needles, *words):
        self.fails(2, needles, *SMALL, *words)

    def test_what_is_unknown_gets_the_nearest_name(self):
        self.fails(2, ["'serch'", "'search'"], "bench", "serch")
        self.refused(["--format", "'nvfp5'", "'nvfp4'"], "--format", "nvfp5")
        self.refused(["--scale", "'ssee'", "'sse'"], "--scale", "ssee")
        self.refused(["--data", "'norml'", "'normal'"], "--data", "norml")

    def test_a_benchmark_has_to_be_named(self):
        self.fails(2, "WHAT", "bench")

    def test_only_searches_over_4_bit_elements_are_timed(self):
        self.refused(["--format", "mxfp8_e4m3", "8 bits"], "--format", "mxfp8_e4m3")
        self.refused(["--scale", "ms_eden", "more than choose scales"], "--scale", "ms_eden")

    def test_blocks_divide_the_columns(self):
        self.fails(2, ["--cols", "264", "the block, 16"], "bench", "search", "--cols", "264")
        self.refused(["--block", "15", "even"], "--block", "15")

    def test_numbers_have_ranges(self):
        for option, number in (("--block", "1026"), ("--rows", "0"), ("--cols", "1"), ("--repeats", "0"), ("--rows", "x")):
            self.fails(2, option, "bench", "search", option, number)
