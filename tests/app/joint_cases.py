"""Methods that weigh errors with H: joint choices of scale and elements, whole rows, GPTQ; --hessian; the tensor scale's search."""
import json
import random
import struct
from fractions import Fraction

from harness import Case, floats, read_safetensors, write_safetensors

BLOCK = ["decoupled", "closed_form", "coordinate", "joint"]
ROW = ["hessian_row", "hessian_row_fast", "hessian_row_joint", "gptq", "gptq_sse", "gptq_hessian", "gptq_feedback", "gptq_joint", "gptq_ordered"]
LEVELS = {"nvfp4": [0, 1, 2, 3, 4, 6, 8, 12], "mxfp4": [0, 1, 2, 3, 4, 6, 8, 12], "nvint4": [0, 2, 4, 6, 8, 10, 12, 14]}  # doubled
ROWS, COLS, TOKENS = 3, 64, 40


def flat(rows):
    return [x for row in rows for x in row]


class Weighed(Case):
    """Weights with 12 significant bits, and inputs of small whole numbers, so that H is exact wherever it is computed."""

    def setUp(self):
        super().setUp()
        rng = random.Random(4)
        self.w = [[round(rng.gauss(0, 1) * 512) / 512 for _ in range(COLS)] for _ in range(ROWS)]
        self.x = []
        for _ in range(TOKENS):
            common = rng.randint(-4, 4)
            self.x.append([common + rng.randint(-3, 3) for _ in range(COLS)])
        self.h = [[sum(t[i] * t[j] for t in self.x) for j in range(COLS)] for i in range(COLS)]
        write_safetensors(self.path("w.safetensors"), {"w": floats([ROWS, COLS], flat(self.w))})
        write_safetensors(self.path("x.safetensors"), {"x": floats([TOKENS, COLS], flat(self.x))})
        self.write_h([COLS, COLS], flat(self.h))

    def write_h(self, shape, values, dtype="F64", name="h"):
        write_safetensors(self.path("h.safetensors"), {name: floats(shape, values, dtype)})

    def quantize(self, method, *words, form="nvfp4", weights=("--activations", "x.safetensors:x")):
        outcome = self.succeeds("quantize", "w.safetensors", "-o", "o.safetensors", "--format", form, "--scale", method, *weights, *words)
        return read_safetensors(self.path("o.safetensors")), outcome

    def refuses(self, code, needles, *words, method="hessian"):
        self.fails(code, needles, "quantize", "w.safetensors", "-o", "o.safetensors", "--format", "nvfp4", "--scale", method, *words)
        self.assertFalse(self.path("o.safetensors").exists())

    def residuals(self, tensors, form, block):
        """x - value in fractions, [row][column]."""
        codes, scales = tensors["w.codes"].numbers(), tensors["w.scales"].numbers()
        scale = Fraction(tensors["w.tensor_scale"].numbers()[0])
        out = []
        for r in range(ROWS):
            row = []
            for c in range(COLS):
                nibble = codes[(r * COLS + c) // 2] >> (4 * (c % 2)) & 15
                if form == "nvint4":
                    level = Fraction(nibble - 16 if nibble > 7 else nibble)
                else:
                    level = Fraction(LEVELS[form][nibble & 7], 2) * (-1 if nibble & 8 else 1)
                code = scales[(r * COLS + c) // block]
                value = Fraction(2) ** (code - 127) if form == "mxfp4" else Fraction(code, 512) if code < 8 else Fraction(8 + code % 8) * Fraction(2) ** (code // 8 - 10)
                row.append(Fraction(self.w[r][c]) - scale * value * level)
            out.append(row)
        return out

    def losses(self, e, block):
        """r^T H r of every block, and of every row."""
        def quadratic(r, first, end):
            return sum(r[i] * self.h[i][j] * r[j] for i in range(first, end) for j in range(first, end))
        return ([quadratic(r, b, b + block) for r in e for b in range(0, COLS, block)], [quadratic(r, 0, COLS) for r in e])


class Methods(Weighed):
    def test_joint_is_at_or_below_every_per_block_method_on_every_block(self):
        for form, block in (("nvfp4", 16), ("mxfp4", 32), ("nvint4", 16)):
            (tensors, _), outcome = self.quantize("joint", "--json", form=form)
            best = self.losses(self.residuals(tensors, form, block), block)[0]
            self.assertEqual(json.loads(outcome.stdout)["tensors"][0]["proved"], 1)
            for method in ["naive", "sse", "hessian", *BLOCK[:-1]]:
                other = self.losses(self.residuals(self.quantize(method, form=form)[0][0], form, block), block)[0]
                for i, (a, b) in enumerate(zip(best, other)):
                    self.assertLessEqual(a, b, f"{form} block {i}: joint {float(a)}, {method} {float(b)}")

    def test_row_methods_never_end_above_their_start_and_joint_steps_help(self):
        start = self.losses(self.residuals(self.quantize("hessian")[0][0], "nvfp4", 16), 16)[1]
        totals = {}
        for method in ROW[:3]:
            rows = self.losses(self.residuals(self.quantize(method)[0][0], "nvfp4", 16), 16)[1]
            for a, b in zip(rows, start):
                self.assertLessEqual(a, b, method)
            totals[method] = sum(rows)
        self.assertLess(totals["hessian_row_joint"], totals["hessian_row"])
        self.assertLess(totals["hessian_row"], sum(start))

    def test_the_reported_output_error_is_that_of_the_codes(self):
        energy = self.losses([[Fraction(v) for v in row] for row in self.w], 16)[1]
        for method in BLOCK + ROW:
            (tensors, _), outcome = self.quantize(method, "--json")
            rows = self.losses(self.residuals(tensors, "nvfp4", 16), 16)[1]
            told = json.loads(outcome.stdout)["tensors"][0]["output_error"]
            self.assertAlmostEqual(told, float(sum(rows) / sum(energy)) ** 0.5, 9, method)

    def test_the_same_bytes_from_x_and_from_h_and_on_any_threads(self):
        for method in ["hessian", *BLOCK, *ROW]:
            (one, meta), outcome = self.quantize(method, "--json", "--threads", "1")
            self.assertEqual(one, self.quantize(method, "--threads", "2")[0][0], method)
            (by_h, meta_h), outcome_h = self.quantize(method, "--json", weights=("--hessian", "h.safetensors:h"))
            self.assertEqual(one, by_h, method)
            record, record_h = json.loads(meta["fp4scope"]), json.loads(meta_h["fp4scope"])
            self.assertEqual(record["hessian_hash"], record_h["hessian_hash"])
            self.assertEqual((record["hessian_shifted"], record["hessian_largest_shift"]), (0, 0))
            told, told_h = (json.loads(o.stdout)["tensors"][0]["output_error"] for o in (outcome, outcome_h))
            self.assertAlmostEqual(told, told_h, 12)

    def test_dequantize_reads_what_joint_methods_wrote(self):
        for method in ("joint", "gptq"):
            (tensors, _), _ = self.quantize(method)
            self.succeeds("dequantize", "o.safetensors", "-o", "d.safetensors")
            values = read_safetensors(self.path("d.safetensors"))[0]["w"].numbers()
            e = flat(self.residuals(tensors, "nvfp4", 16))
            for w, value, lost in zip(flat(self.w), values, e):
                self.assertEqual(value, struct.unpack("<f", struct.pack("<f", Fraction(w) - lost))[0])

    def test_a_node_limit_that_strikes_proves_nothing_and_loses_nothing_to_the_cheap_methods(self):
        (tensors, _), outcome = self.quantize("joint", "--node-limit", "1", "--json")
        self.assertLess(json.loads(outcome.stdout)["tensors"][0]["proved"], 1)
        best = self.losses(self.residuals(tensors, "nvfp4", 16), 16)[0]
        for method in BLOCK[:-1]:
            other = self.losses(self.residuals(self.quantize(method)[0][0], "nvfp4", 16), 16)[0]
            self.assertTrue(all(a <= b for a, b in zip(best, other)), method)

    def test_damping_is_recorded_and_changes_gptq(self):
        (one, meta), _ = self.quantize("gptq")
        (other, _), _ = self.quantize("gptq", "--damping", "10")
        self.assertEqual(json.loads(meta["fp4scope"])["damping"], 0.01)
        self.assertNotEqual(one["w.codes"], other["w.codes"])


class Hessian(Weighed):
    def test_blocks_and_a_diagonal_serve_too(self):
        blocks = [self.h[b + i][b + j] for b in range(0, COLS, 16) for i in range(16) for j in range(16)]
        whole = self.quantize("hessian", weights=("--hessian", "h.safetensors"))[0][0]
        self.write_h([COLS // 16, 16, 16], blocks)
        self.assertEqual(self.quantize("hessian", weights=("--hessian", "h.safetensors:h"))[0][0], whole)
        self.write_h([COLS], [1.0] * COLS, "F32")
        sse = self.quantize("sse", weights=())[0][0]
        self.assertEqual(self.quantize("hessian", weights=("--hessian", "h.safetensors:h"))[0][0], sse)

    def test_a_diagonal_weighs_each_column(self):
        self.write_h([COLS], [1e6 if c % 16 == 3 else 1.0 for c in range(COLS)])
        e = self.residuals(self.quantize("hessian", weights=("--hessian", "h.safetensors"))[0][0], "nvfp4", 16)
        plain = self.residuals(self.quantize("sse", weights=())[0][0], "nvfp4", 16)
        self.assertLess(sum(r[c] ** 2 for r in e for c in range(3, COLS, 16)), sum(r[c] ** 2 for r in plain for c in range(3, COLS, 16)) / 4)

    def test_an_indefinite_block_is_shifted_with_a_word_and_recorded(self):
        h = [row[:] for row in self.h]
        h[0][1] = h[1][0] = 3 * max(h[0][0], h[1][1])
        self.write_h([COLS, COLS], flat(h))
        (_, meta), outcome = self.quantize("hessian", weights=("--hessian", "h.safetensors"))
        self.assertIn("not positive semidefinite", outcome.stderr)
        record = json.loads(meta["fp4scope"])
        self.assertEqual(record["hessian_shifted"], 1)
        self.assertGreater(record["hessian_largest_shift"], 0)

    def test_a_bad_h_is_one_line(self):
        h = ("--hessian", "h.safetensors:h")
        self.refuses(1, ["did you mean 'h'"], "--hessian", "h.safetensors:hh")
        self.refuses(2, ["--hessian", "--activations"], *h, "--activations", "x.safetensors:x")
        self.refuses(2, ["--hessian", "basis"], *h, "--hadamard")
        self.refuses(2, ["hessian needs", "--activations", "--hessian"])
        for shape, values, method, needle in (
                ([COLS, COLS], flat(self.h)[:-1] + [float("nan")], "hessian", "nan"),
                ([COLS, COLS], [float(i) for i in range(COLS * COLS)], "hessian", "symmetric"),
                ([2, 2], [1.0, 0.0, 0.0, -1.0], "hessian", "negative"),
                ([2, 3], [1.0] * 6, "hessian", "[cols, cols]"),
                ([2, 8, 8], [1.0] * 128, "hessian", "--block 8"),
                ([COLS], [1.0] * COLS, "hessian_row", "whole row"),
                ([16], [1.0] * 16, "hessian", "do not fit H of 16")):
            self.write_h(shape, values)
            self.refuses(1, [needle], *h, method=method)
        write_safetensors(self.path("h.safetensors"), {"h": floats([COLS], [1.0] * COLS, "BF16")})
        self.refuses(1, ["F32 or F64"], *h)

    def test_words_that_would_have_no_effect_are_refused(self):
        x = ("--activations", "x.safetensors:x")
        self.refuses(2, ["--damping", "gptq"], *x, "--damping", "0.1", method="joint")
        self.refuses(2, ["--damping", "from 0"], *x, "--damping", "-1", method="gptq")
        self.refuses(2, ["--node-limit", "joint"], *x, "--node-limit", "10", method="gptq")
        self.refuses(2, ["--node-limit", "positive"], *x, "--node-limit", "0", method="joint")
        self.refuses(2, ["--block", "64"], *x, "--block", "128", method="joint")
        self.refuses(2, ["--rounding", "itself"], *x, "--rounding", "stochastic", method="gptq")
        self.refuses(2, ["--nonfinite"], *x, "--nonfinite", "propagate", method="gptq")
        self.refuses(2, ["--block-2d", "joint"], *x, "--block-2d", method="joint")


class TensorScale(Weighed):
    def error(self, word):
        tensors, _ = self.quantize("sse", "--tensor-scale", word, weights=())[0]
        return sum(v * v for v in flat(self.residuals(tensors, "nvfp4", 16)))

    def test_search_is_at_or_below_every_other_tensor_scale(self):
        best = self.error("search")
        for word in ("amax", "headroom", "soar", "none", "0.0005", "0.0011", "0.003"):
            self.assertLessEqual(best, self.error(word) * Fraction(1001, 1000), word)
        self.assertLessEqual(self.error("headroom"), self.error("amax"))

    def test_it_tells_how_far_any_could_reach(self):
        outcome = self.quantize("sse", "--tensor-scale", "search", weights=())[1]
        self.assertRegex(outcome.stderr, r"w: no tensor scale has a weight error below \d+\.\d+ % with scales of least squared error")

    def test_it_needs_a_format_with_one(self):
        for form in ("mxfp4", "if4"):
            self.fails(2, ["--tensor-scale", form, "nvfp4"], "quantize", "w.safetensors", "-o", "o.safetensors", "--format", form, "--tensor-scale", "search")
        self.refuses(2, ["--nonfinite"], "--tensor-scale", "search", "--nonfinite", "propagate", method="sse")
