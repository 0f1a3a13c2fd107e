"""crosscheck --against: outputs of our own recipes, corrupted on purpose, and what each is called; every count is made here, in fractions."""
import ctypes
import functools
import json
import math
import os
import random
import struct
import unittest
from fractions import Fraction
from pathlib import Path

import harness
import reference
from harness import Case, Tensor, floats, read_safetensors, safetensors_bytes, write_safetensors

rounded = reference.to_float32
LEVELS = [Fraction(n, 2) for n in (0, 1, 2, 3, 4, 6, 8, 12)]
MIDPOINTS = [(a + b) / 2 for a, b in zip(LEVELS, LEVELS[1:])]
BLOCK = {"nvfp4": 16, "mxfp4": 32}
ROWS, COLS = 128, 128


def negative(x):
    return math.copysign(1, x) < 0


def sample(seed=7):
    """bf16 rows whose amax makes the tensor scale a power of two, so that many elements are ties; zeros of both signs, a zero block."""
    rng = random.Random(seed)
    rows = []
    for r in range(ROWS):
        spread = 2.0 ** -(r % 7)
        row = [float(reference.to_dtype(Fraction(max(-2.5, min(2.5, rng.gauss(0, 0.7)))) * Fraction(spread), "BF16")) for _ in range(COLS)]
        for c in range(0, COLS, 9):  # coarse values: ties where the block's scale has few bits
            row[c] = math.ldexp(rng.choice([-1, 1]) * rng.choice([1, 3, 5, 7, 9, 10, 14, 20, 28]), -5 - r % 7)
        row[5], row[70] = -0.0, 0.0
        rows.append(row)
    rows[3][64:96] = [0.0] * 32
    rows[0][0] = 2.625  # 2688 * 2^-10
    return rows


class Model:
    """A recipe in fractions: y of an element, and its code."""

    def __init__(self, rows, name):
        self.name = name
        self.amax = max(abs(Fraction(x)) for row in rows for x in row)

    def y(self, x, scale):
        raise NotImplementedError

    def code(self, x, scale):
        y = self.y(x, scale)
        return reference.nearest(LEVELS, abs(y)) | (8 if self.minus(x, y) else 0)

    def minus(self, x, y):
        return negative(x)


class Te(Model):
    form, words, block = "nvfp4", ["--recipe", "te", "--scale", "naive"], 16

    @functools.cache
    def divisor(self, scale):
        return rounded(reference.e4m3(scale) * rounded(1 / rounded(2688 / self.amax)))

    @functools.cache
    def factor(self, scale):
        return rounded(1 / self.divisor(scale)) if scale else Fraction(0)  # FLT_MAX, but every x of such a block is 0 here

    def y(self, x, scale):
        return rounded(Fraction(x) * self.factor(scale))

    def other(self, x, scale):
        """A division where te multiplies."""
        return rounded(Fraction(x) / self.divisor(scale)) if scale else Fraction(0)


class ModeloptDyn(Model):
    form, words, block = "nvfp4", ["--recipe", "modelopt_dyn", "--scale", "naive"], 16

    @functools.cache
    def divisor(self, scale):
        return rounded(reference.e4m3(scale) * rounded(self.amax / 2688))

    @functools.cache
    def factor(self, scale):
        return rounded(1 / self.divisor(scale))

    def y(self, x, scale):
        return rounded(Fraction(x) / self.divisor(scale))

    def other(self, x, scale):
        """A reciprocal where modelopt_dyn divides."""
        return rounded(Fraction(x) * self.factor(scale))

    def minus(self, x, y):
        return Fraction(x) < 0


class Ocp(Model):
    form, words, block = "mxfp4", ["--recipe", "ocp", "--scale", "naive"], 32

    def y(self, x, scale):
        return Fraction(x) / reference.ue8m0(scale)

    other = y  # a reciprocal of a power of two is exact


class Rceil(Ocp):
    words = ["--recipe", "exact", "--scale", "rceil"]


class Qwantize(Model):
    """No tensor scale, ties toward zero."""
    form, words, block = "nvfp4", ["--recipe", "qwantize", "--scale", "naive"], 16

    def y(self, x, scale):
        return rounded(Fraction(x) / reference.e4m3(scale)) if x else Fraction(0)

    def code(self, x, scale):
        y = self.y(x, scale)
        return min(range(8), key=lambda i: (abs(LEVELS[i] - abs(y)), i)) | (8 if self.minus(x, y) else 0)

    def minus(self, x, y):
        return Fraction(x) < 0


class FourOverSix(Model):
    form, words, block = "nvfp4", ["--recipe", "exact", "--scale", "4over6"], 16

    def y(self, x, scale):
        return Fraction(x) / (reference.e4m3(scale) * self.tensor_scale) if scale else Fraction(0)


MODELS = [Te, ModeloptDyn, Ocp, Rceil]


class Theirs:
    """Codes and scales as lists of rows, made by the program; packed again with a corruption."""

    def __init__(self, case, model_class, rows):
        self.rows, self.model = rows, model_class(rows, "")
        self.form, self.words, self.block = model_class.form, model_class.words, model_class.block
        path = case.path("q.safetensors")
        case.succeeds("quantize", "in.safetensors", "-o", path, "--format", self.form, *self.words)
        tensors, _ = read_safetensors(path)
        path.unlink()
        self.scale = tensors["w.tensor_scale"]
        self.model.tensor_scale = Fraction(struct.unpack("<f", self.scale.data)[0])
        cols = len(rows[0])
        self.codes = reference.unpack(tensors["w.codes"].data, cols)
        blocks = cols // self.block
        self.scales = [list(tensors["w.scales"].data[r * blocks:(r + 1) * blocks]) for r in range(len(rows))]
        for r in range(0, len(rows), 17):  # the model is the recipe
            case.assertEqual(self.codes[r], [self.model.code(x, self.scales[r][c // self.block]) for c, x in enumerate(rows[r])])
        self.our_codes, self.our_scales = [list(row) for row in self.codes], [list(row) for row in self.scales]

    def elements(self):
        for r, row in enumerate(self.rows):
            for c, x in enumerate(row):
                yield r, c, x, self.scales[r][c // self.block]

    def blocks(self):
        return [(r, b) for r in range(len(self.rows)) for b in range(len(self.scales[0]))]

    def span(self, b):
        return slice(b * self.block, (b + 1) * self.block)

    def encode(self, r, b):
        """The recipe's codes at the scale that is there now."""
        self.codes[r][self.span(b)] = [self.model.code(x, self.scales[r][b]) for x in self.rows[r][self.span(b)]]

    def changed(self):
        """Blocks that are not the recipe's any more."""
        return sum(self.codes[r][self.span(b)] != self.our_codes[r][self.span(b)] or self.scales[r][b] != self.our_scales[r][b] for r, b in self.blocks())

    def packed(self, high_first=False):
        flat = [c for row in self.codes for c in row]
        return bytes((a << 4 | b) if high_first else (a | b << 4) for a, b in zip(flat[::2], flat[1::2]))

    def tensors(self, codes=None, scales=None):
        n = len(self.rows)
        return {"w.codes": Tensor("U8", [n, len(self.rows[0]) // 2], codes or self.packed()),
                "w.scales": Tensor("U8", [n, len(self.scales[0])], scales or bytes(c for row in self.scales for c in row)),
                "w.tensor_scale": self.scale}


def swizzled(scales):
    """cuBLASLt's order of a matrix of whole atoms, 128 x 4."""
    rows, cols = len(scales), len(scales[0])
    assert rows % 128 == 0 and cols % 4 == 0
    out = bytearray(rows * cols)
    for r in range(rows):
        for c in range(cols):
            out[(r // 128 * (cols // 4) + c // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4] = scales[r][c]
    return bytes(out)


# Each corruption changes a Theirs and returns the class and how many blocks are in it; further words for the program.

def ties(goes):
    def corrupt(t):
        for r, c, x, scale in t.elements():
            below = below_tie(t, r, c)
            if below is not None and goes(below) != t.codes[r][c] & 7:
                t.codes[r][c] = goes(below) | (8 if negative(x) else 0)
        return t.changed()
    return corrupt


def below_tie(t, r, c):
    """The index of the level below an element that is halfway between two, or None."""
    y = abs(t.model.y(t.rows[r][c], t.scales[r][c // t.block]))
    return MIDPOINTS.index(y) if y in MIDPOINTS else None


def turn(t, r, c):
    t.codes[r][c] += 1 if t.codes[r][c] & 7 == below_tie(t, r, c) else -1


def one_of_like_ties(t):
    """Of two ties above even levels, or above odd ones, the first goes the other way: no rule for ties does both."""
    for r, b in t.blocks():
        columns = range(*t.span(b).indices(len(t.rows[r])))
        for parity in (0, 1):
            like = [c for c in columns if (below := below_tie(t, r, c)) is not None and below % 2 == parity]
            if len(like) > 1:
                turn(t, r, like[0])
                break
    return t.changed()


def a_tie_and_a_minus_zero(t):
    """Where a row's first block has both: the tie goes the other way and the zero loses its sign."""
    for r in range(len(t.rows)):
        tie = next((c for c in range(t.block) if below_tie(t, r, c) is not None), None)
        if tie is not None and t.codes[r][5] == 8:
            turn(t, r, tie)
            t.codes[r][5] = 0
    return t.changed()


def other_of_four_and_six(t):
    """In every 16th row, blocks at 6 go to 4 and the other way round; in all, another criterion would be nearer."""
    for r, b in t.blocks():
        amax = max(abs(Fraction(x)) for x in t.rows[r][t.span(b)])
        six, four = (reference.naive_scale_code("nvfp4", amax * k, t.model.tensor_scale) for k in (1, Fraction(3, 2)))
        assert t.scales[r][b] in (six, four)
        if r % 16 == 0 and amax:
            t.scales[r][b] = four if t.scales[r][b] == six else six
            t.encode(r, b)
    return t.changed()


def one_scale(step, codes=True):
    def corrupt(t):
        t.scales[40][2] += step
        if codes:
            t.encode(40, 2)
        return 1
    return corrupt


def all_scales(step):
    def corrupt(t):
        for r, b in t.blocks():
            if 0 < t.scales[r][b] < (126 if t.form == "nvfp4" else 254):
                t.scales[r][b] += step
                t.encode(r, b)
        return t.changed()
    return corrupt


def no_minus_zero(t):
    t.codes = [[0 if c == 8 else c for c in row] for row in t.codes]
    return t.changed()


def minus_zero_for_zero(t):
    for r, c, x, _ in t.elements():
        if t.codes[r][c] == 0 and x == 0:
            t.codes[r][c] = 8
    return t.changed()


def other_order(t):
    for r, c, x, scale in list(t.elements()):
        y = t.model.other(x, scale)
        t.codes[r][c] = reference.nearest(LEVELS, abs(y)) | (8 if t.model.minus(x, y) else 0)
    return t.changed()


def unclamped(t):
    """y rounds on in steps of 2 above 6, and three bits of the code are left."""
    for r, c, x, scale in list(t.elements()):
        if abs(t.model.y(x, scale)) >= 7:
            t.codes[r][c] &= 8
    return t.changed()


def clamped_to_four(t):
    for r, c, x, scale in list(t.elements()):
        if abs(t.model.y(x, scale)) > 6:
            t.codes[r][c] = t.codes[r][c] & 8 | 6
    return t.changed()


def zero_block(t):
    r, b = next((r, b) for r, b in t.blocks() if not any(t.rows[r][t.span(b)]))
    t.scales[r][b] += 3
    return 1


def shifted(t):
    t.codes[17][t.span(1)] = t.our_codes[17][t.span(1).start + 1:t.span(1).stop + 1]
    return t.changed()


def another_code(t):
    """Two codes off, at an element that is no tie and not saturated."""
    at = next(c for c, x in enumerate(t.rows[9]) if 0 < t.codes[9][c] & 7 < 5 and abs(t.model.y(x, t.scales[9][c // t.block])) not in MIDPOINTS)
    t.codes[9][at] += 2
    return 1


ELEMENT_CLASSES = [  # class, corruption, on which models
    ("ties_down", ties(lambda below: below), MODELS),
    ("ties_away", ties(lambda below: below + 1), MODELS),
    ("ties_to_even", ties(lambda below: below + below % 2), [Qwantize]),
    ("ties_to_odd", ties(lambda below: below | 1), MODELS),
    ("ties_mixed", one_of_like_ties, [*MODELS, Qwantize]),
    ("other_candidate", other_of_four_and_six, [FourOverSix]),
    ("scale_up", one_scale(1), MODELS),
    ("scale_down", one_scale(-1), MODELS),
    ("scale_alone", one_scale(1, codes=False), MODELS),
    ("scale_unexplained", one_scale(-3), MODELS),
    ("all_scales_up", all_scales(1), MODELS),
    ("all_scales_down", all_scales(-1), MODELS),
    ("negative_zero_dropped", no_minus_zero, MODELS),
    ("negative_zero_made", minus_zero_for_zero, MODELS),
    ("division", other_order, [Te]),
    ("reciprocal", other_order, [ModeloptDyn]),
    ("unclamped", unclamped, [Ocp]),
    ("clamped_otherwise", clamped_to_four, [Te, ModeloptDyn, Ocp]),
    ("zero_block_scale", zero_block, MODELS),
    ("shifted", shifted, MODELS),
    ("several", a_tie_and_a_minus_zero, [Te, Ocp, Rceil]),
    ("unexplained", another_code, MODELS),
]


class Against(Case):
    """What the tests below share."""

    def setUp(self):
        super().setUp()
        self.rows = sample()
        self.write_input(self.rows)

    def write_input(self, rows):
        write_safetensors(self.path("in.safetensors"), {"w": floats([len(rows), len(rows[0])], [x for row in rows for x in row], "BF16")})

    def report(self, code, *words):
        outcome = self.run_here("crosscheck", "--against", "theirs.safetensors", "--input", "in.safetensors", "--json", *words)
        self.assertEqual(outcome.returncode, code, f"{words}\n{outcome.stderr}")
        self.assertEqual(outcome.stderr, "")
        report, = json.loads(outcome.stdout)["tensors"]
        self.assertEqual(report["agrees"], code == 0)
        for e in report["explained"]:  # every block that differs is in one class
            self.assertEqual(sum(k["blocks"] for k in e["classes"]), e["blocks"] - e["equal"])
        return report

    def classes(self, code, *words):
        return {k["class"]: k["blocks"] for k in self.report(code, *words)["explained"][0]["classes"]}


class Corruptions(Against):
    """Each changes what it says and nothing else; its class has exactly the blocks that are counted here."""

    def check(self, model, name, corrupt):
        theirs = Theirs(self, model, self.rows)
        expected = corrupt(theirs)
        self.assertGreater(expected, 0)
        self.assertEqual(theirs.changed(), expected)
        write_safetensors(self.path("theirs.safetensors"), theirs.tensors())
        found = self.classes(1, *model.words, "--format", model.form, "--block", model.block)
        self.assertEqual(found, {name: expected}, f"{model.__name__} {name}")

    def test_the_right_reciprocal_of_a_power_of_two_changes_nothing(self):
        theirs = Theirs(self, Ocp, self.rows)
        self.assertEqual(other_order(theirs), 0)
        write_safetensors(self.path("theirs.safetensors"), theirs.tensors())
        self.assertEqual(self.classes(0, *Ocp.words), {})

    def test_unclamped_in_nvfp4(self):
        """A tensor scale of three quarters saturates the largest blocks' scales at 448, and values up to 8 remain."""
        scaling = Fraction(3, 4096)
        codes, scales, _ = reference.quantize("nvfp4", self.rows, 16, scaling)
        changed = set()
        for r, row in enumerate(self.rows):
            for c, x in enumerate(row):
                if abs(Fraction(x)) >= 7 * reference.e4m3(scales[r][c // 16]) * scaling and Fraction(x):
                    codes[r][c] &= 8
                    changed.add((r, c // 16))
        self.assertGreater(len(changed), 2)
        flat = [c for row in codes for c in row]
        write_safetensors(self.path("theirs.safetensors"), {
            "w.codes": Tensor("U8", [ROWS, COLS // 2], bytes(a | b << 4 for a, b in zip(flat[::2], flat[1::2]))),
            "w.scales": Tensor("U8", [ROWS, COLS // 16], bytes(c for row in scales for c in row)),
            "w.tensor_scale": floats([1], [float(scaling)])})
        self.assertEqual(self.classes(1, "--recipe", "exact", "--scale", "naive", "--format", "nvfp4"), {"unclamped": len(changed)})

    def test_swapped_nibbles_are_found_out_and_are_a_class_where_the_order_is_given(self):
        for model in MODELS:
            theirs = Theirs(self, model, self.rows)
            write_safetensors(self.path("theirs.safetensors"), theirs.tensors(codes=theirs.packed(high_first=True)))
            words = [*model.words, "--format", model.form]
            report = self.report(0, *words)
            nibbles, = [c for c in report["reading"] if c["what"] == "nibbles"]
            self.assertEqual((nibbles["taken"], nibbles["given"], nibbles["ambiguous"]), ("high", False, False))
            swapped = [[row[c ^ 1] for c in range(COLS)] for row in theirs.codes]
            expected = sum(swapped[r][theirs.span(b)] != theirs.codes[r][theirs.span(b)] for r, b in theirs.blocks())
            self.assertEqual(self.classes(1, *words, "--nibbles", "low"), {"nibbles_swapped": expected})
            theirs.codes[5][theirs.span(0)] = swapped[5][theirs.span(0)]  # one block alone
            write_safetensors(self.path("theirs.safetensors"), theirs.tensors())
            self.assertEqual(self.classes(1, *words), {"nibbles_swapped": 1})

    def test_swizzled_scales_are_found_out_and_are_a_class_where_the_layout_is_given(self):
        for model in MODELS:
            theirs = Theirs(self, model, self.rows)
            scales = swizzled(theirs.scales)
            write_safetensors(self.path("theirs.safetensors"), theirs.tensors(scales=scales))
            words = [*model.words, "--format", model.form]
            report = self.report(0, *words)
            layout, = [c for c in report["reading"] if c["what"] == "scales"]
            self.assertEqual((layout["taken"], layout["given"], layout["ambiguous"]), ("128x4", False, False))
            linear = [c for row in theirs.scales for c in row]
            self.assertEqual(self.classes(1, *words, "--layout", "linear"), {"scales_permuted": sum(a != b for a, b in zip(scales, linear))})

    def test_ggmls_order_of_nibbles_is_a_class(self):
        theirs = Theirs(self, Ocp, self.rows)
        expected = 0
        for r, b in theirs.blocks():
            block = theirs.our_codes[r][theirs.span(b)]
            mixed = [block[i % 2 * 16 + i // 2] for i in range(32)]
            theirs.codes[r][theirs.span(b)] = mixed
            expected += mixed != block
        write_safetensors(self.path("theirs.safetensors"), theirs.tensors())
        self.assertEqual(self.classes(1, *Ocp.words, "--nibbles", "low"), {"halves_interleaved": expected})
        self.assertEqual([c["taken"] for c in self.report(0, *Ocp.words)["reading"]], ["mxfp4 in blocks of 32", "halves", "linear"])

    def test_corruptions_that_meet_are_counted_apart(self):
        theirs = Theirs(self, Te, self.rows)
        theirs.scales[40][2] += 1
        theirs.encode(40, 2)
        theirs.codes[5][theirs.span(0)] = [theirs.our_codes[5][i ^ 1] for i in range(16)]
        another_code(theirs)
        write_safetensors(self.path("theirs.safetensors"), theirs.tensors())
        self.assertEqual(self.classes(1, *Te.words), {"nibbles_swapped": 1, "scale_up": 1, "unexplained": 1})


def add_corruption(name, corrupt, model):
    def test(self):
        self.check(model, name, corrupt)
    setattr(Corruptions, f"test_{name}_of_{model.__name__}", test)


for class_name, corruption, models in ELEMENT_CLASSES:
    for one in models:
        add_corruption(class_name, corruption, one)


class Orders(Against):
    """A kernel of another recipe is told by the operations that it has."""

    def test_the_step_that_most_blocks_follow_is_named(self):
        self.succeeds("quantize", "in.safetensors", "-o", "theirs.safetensors", "--format", "nvfp4", "--recipe", "te_fast")
        report = self.report(1, "--recipe", "te", "--scale", "naive")
        count, = report["explained"][0]["classes"]
        self.assertEqual(count["class"], "data_order")
        self.assertIn("theirs as bf16(S / s) = ", count["example"])
        self.assertEqual(report["explained"][1]["classes"], [])  # the best
        self.assertEqual(report["ranking"][0]["name"], "te_fast")


class Special(Against):
    """NaN, Inf, and blocks whose scale underflows."""

    def test_nan_and_inf_blocks_are_classes_of_their_own(self):
        rows = [list(row) for row in self.rows]
        rows[20][3], rows[21][40] = math.nan, math.inf
        write_safetensors(self.path("in.safetensors"), {"w": floats([ROWS, COLS], [x for row in rows for x in row])})
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4", "--nonfinite", "propagate")
        tensors, _ = read_safetensors(self.path("q.safetensors"))
        scales = bytearray(tensors["w.scales"].data)
        self.assertEqual((scales[20 * 8], scales[21 * 8 + 2]), (0x7F, 0x7F))
        scales[20 * 8] = scales[21 * 8 + 2] = 0x7E
        scales[50 * 8] = 0x7F  # NaN for a finite block
        tensors["w.scales"].data = bytes(scales)
        write_safetensors(self.path("theirs.safetensors"), tensors)
        self.assertEqual(self.classes(1, "--recipe", "exact", "--scale", "naive", "--format", "nvfp4"), {"nonfinite": 2, "nan_scale": 1})

    def test_a_scale_that_underflows(self):
        rows = [[2.625] + [0.0] * 15 + [2.0 ** -21] * 16]
        self.write_input(rows)
        theirs = {"w.codes": Tensor("U8", [1, 16], bytes([7] + [0] * 7 + [0x77] * 8)), "w.scales": Tensor("U8", [1, 2], bytes([0x7E, 0])),
                  "w.tensor_scale": floats([1], [2.0 ** -10])}
        write_safetensors(self.path("theirs.safetensors"), theirs)
        words = ["--format", "nvfp4", "--block", "16"]
        self.assertEqual(self.classes(0, *words, "--recipe", "te"), {})
        self.assertEqual(self.classes(1, *words, "--recipe", "exact", "--scale", "naive"), {"zero_scale": 1})

    def test_the_other_candidate_of_four_over_six(self):
        self.succeeds("quantize", "in.safetensors", "-o", "mse.safetensors", "--format", "nvfp4", "--recipe", "te", "--scale", "4over6")
        mse, _ = read_safetensors(self.path("mse.safetensors"))
        self.succeeds("quantize", "in.safetensors", "-o", "theirs.safetensors", "--format", "nvfp4", "--recipe", "te", "--scale", "4over6", "--select", "mae")
        mae, _ = read_safetensors(self.path("theirs.safetensors"))
        differ = sum(a != b for a, b in zip(mse["w.scales"].data, mae["w.scales"].data))
        self.assertGreater(differ, 0)
        report = self.report(0)
        self.assertEqual(report["ranking"][0]["name"], "te 4over6 mae 256")
        self.path("theirs.safetensors").write_bytes(self.path("mse.safetensors").read_bytes())
        report = self.report(0, "--recipe", "te")  # the method of that recipe that agrees most
        self.assertEqual(report["explained"][0]["name"], "te 4over6 mse 256")


class TensorScales(Against):
    """Theirs is taken as theirs, and its distance from each recipe's own is told."""

    def test_one_ulp_is_reported_and_the_recipe_computes_with_theirs(self):
        rng = random.Random(3)
        rows = [[float(reference.to_dtype(Fraction(rng.gauss(0, 1)), "BF16")) for _ in range(64)] for _ in range(16)]
        self.write_input(rows)
        theirs = Theirs(self, Te, rows)
        bits, = struct.unpack("<i", theirs.scale.data)
        theirs.scale = Tensor("F32", [1], struct.pack("<i", bits + 1))
        write_safetensors(self.path("theirs.safetensors"), theirs.tensors())
        outcome = self.run_here("crosscheck", "--against", "theirs.safetensors", "--input", "in.safetensors", "--json", "--recipe", "te")
        report, = json.loads(outcome.stdout)["tensors"]
        ulps = {row["name"]: row["tensor_scale_ulps"] for row in report["ranking"]}
        self.assertEqual(ulps["te"], 1)
        own = struct.unpack("<i", struct.pack("<f", float(rounded(max(abs(Fraction(x)) for row in rows for x in row) / 2688))))[0]
        self.assertEqual(ulps["exact"], bits + 1 - own)
        self.assertNotIn("qwantize", ulps)  # it has no tensor scale

    def test_a_recipe_computes_with_another_tensor_scale(self):
        """te's operations in fractions, from D = 1.3 times its own and S = fl(1 / D)."""
        amax = max(abs(Fraction(x)) for row in self.rows for x in row)
        decode = rounded(Fraction(13, 10) * amax / 2688)
        encode, e4m3 = rounded(1 / decode), [reference.e4m3(c) for c in range(127)]
        codes, scales = [], []
        for row in self.rows:
            codes.append([])
            for at in range(0, COLS, 16):
                xs = row[at:at + 16]
                scale = reference.nearest(e4m3, rounded(max(abs(Fraction(x)) for x in xs) * rounded(encode * rounded(Fraction(1, 6)))))
                factor = rounded(1 / rounded(e4m3[scale] * decode)) if scale else Fraction(0)
                scales.append(scale)
                codes[-1] += [reference.nearest(LEVELS, abs(rounded(Fraction(x) * factor))) | (8 if negative(x) else 0) for x in xs]
        flat = [c for row in codes for c in row]
        write_safetensors(self.path("theirs.safetensors"), {"w.codes": Tensor("U8", [ROWS, COLS // 2], bytes(a | b << 4 for a, b in zip(flat[::2], flat[1::2]))),
                                                            "w.scales": Tensor("U8", [ROWS, COLS // 16], bytes(scales)), "w.tensor_scale": floats([1], [float(decode)])})
        report = self.report(0, "--recipe", "te", "--scale", "naive")
        row, = [row for row in report["ranking"] if row["name"] == "te"]
        own = rounded(1 / rounded(2688 / amax))
        bits = [struct.unpack("<i", struct.pack("<f", float(v)))[0] for v in (decode, own)]
        self.assertEqual(row["tensor_scale_ulps"], bits[0] - bits[1])

    def test_a_reciprocal_is_taken_by_name_and_by_word(self):
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4", "--recipe", "compressed_tensors")
        q, _ = read_safetensors(self.path("q.safetensors"))
        encode = floats([1], [float(rounded(2688 / Fraction(2.625)))])
        write_safetensors(self.path("theirs.safetensors"), {"w_packed": q["w.codes"], "w_scale": Tensor("F8_E4M3", q["w.scales"].shape, q["w.scales"].data), "w_global_scale": encode})
        report = self.report(0)
        self.assertEqual((report["tensor_scale"], report["format"]), ({"value": 1024.0, "reciprocal": True}, "nvfp4"))
        self.assertIn("compressed_tensors", [row["name"] for row in report["ranking"] if row["equal"] == row["blocks"] and row["tensor_scale_ulps"] == 0])
        for word in ("1/1024", "1/w_global_scale", "0.0009765625"):
            self.assertEqual(self.report(0, "--tensor-scale", word)["tensor_scale"]["reciprocal"], word.startswith("1/"))


class Names(Against):
    """Whose tensors are found, in which files."""

    def setUp(self):
        super().setUp()
        self.theirs = Theirs(self, ModeloptDyn, self.rows)
        self.tensors = self.theirs.tensors()
        self.codes, self.scales, self.scale = (self.tensors["w." + part] for part in ("codes", "scales", "tensor_scale"))

    def put(self, tensors):
        write_safetensors(self.path("theirs.safetensors"), tensors)

    def test_names_of_checkpoints_are_found(self):
        fp8 = Tensor("F8_E4M3", self.scales.shape, self.scales.data)
        scalar = Tensor("F32", [], self.scale.data)
        write_safetensors(self.path("in.safetensors"), {"l.weight": floats([ROWS, COLS], [x for row in self.rows for x in row], "BF16")})
        for tensors in ({"l.weight": self.codes, "l.weight_scale": fp8, "l.weight_scale_2": scalar, "l.input_scale": scalar},
                        {"l.weight_packed": self.codes, "l.weight_scale": fp8},
                        {"l.weight.codes": self.codes, "l.weight.scales": self.scales, "l.weight.tensor_scale": self.scale},
                        {"l.weight_blocks": self.codes, "l.weight_scales": self.scales},
                        {"l.qweight": self.codes, "l.scales": self.scales},
                        {"other.codes": self.codes, "other.scales": self.scales}):
            self.put(tensors)
            report = self.report(0, "--recipe", "modelopt_dyn")
            self.assertEqual((report["tensor"], report["format"], report["block"]), ("l.weight", "nvfp4", 16))

    def test_options_name_tensors(self):
        self.put({"a": self.codes, "b": self.scales, "c": self.scale, "d": self.scale})
        self.report(0, "--codes", "a", "--scales", "b", "--tensor-scale", "c", "--recipe", "modelopt_dyn")

    def test_one_code_a_byte_flat_and_padded_scales(self):
        flat = bytes(c for row in self.theirs.codes for c in row)
        scales = [row + [0xFF] * 4 for row in self.theirs.scales]
        self.put({"w.codes": Tensor("U8", [ROWS, COLS], flat), "w.scales": Tensor("U8", [ROWS, 12], bytes(c for row in scales for c in row))})
        outcome = self.run_here("crosscheck", "--against", "theirs.safetensors", "--input", "in.safetensors", "--format", "nvfp4", "--block", "16")
        self.assertEqual(outcome.returncode, 1)  # [128, 12] is no padding of [128, 8]
        self.put({"w.codes": Tensor("U8", [ROWS * COLS], flat), "w.scales": Tensor("U8", [ROWS * 8], self.scales.data)})
        self.report(0, "--recipe", "modelopt_dyn", "--format", "nvfp4")
        rows = [row[:112] for row in self.rows]  # 7 blocks, padded to 8
        self.write_input(rows)
        theirs = Theirs(self, ModeloptDyn, rows)
        padded = bytes(c for row in theirs.scales for c in row + [0])
        self.put({"w.codes": theirs.tensors()["w.codes"], "w.scales": Tensor("U8", [ROWS, 8], padded)})
        self.assertEqual([c["taken"] for c in self.report(0, "--recipe", "modelopt_dyn", "--block", "16")["reading"]][1:], ["low", "linear"])

    def npy(self, name, shape, data):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {tuple(shape)!r}, }}"
        header += " " * (-(len(header) + 11) % 64) + "\n"
        self.path(name).write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data)

    def test_npy_files(self):
        self.npy("codes.npy", self.codes.shape, self.codes.data)
        self.npy("scales.npy", self.scales.shape, self.scales.data)
        words = ["crosscheck", "--against", "codes.npy", "--input", "in.safetensors"]
        outcome = self.succeeds(*words, "--scales", "scales.npy", "--recipe", "modelopt_dyn", "--brief")
        self.assertIn("modelopt_dyn", outcome.stdout)
        self.fails(2, ["--scales", "codes.npy"], *words)
        self.fails(1, ["none.npy"], *words, "--scales", "none.npy")

    def test_a_tensor_of_a_file_is_named_with_it(self):
        self.put(self.tensors)
        self.succeeds("crosscheck", "--against", "theirs.safetensors", "--input", "in.safetensors:w")
        self.fails(1, ["'v'", "'w'"], "crosscheck", "--against", "theirs.safetensors", "--input", "in.safetensors:v")

    def test_what_is_missing_or_does_not_fit_is_told_with_the_nearest_right_name(self):
        words = ["crosscheck", "--against", "theirs.safetensors", "--input", "in.safetensors"]
        self.put(self.tensors)
        self.fails(2, ["--recipe", "'tee'", "'te'"], *words, "--recipe", "tee")
        self.fails(2, ["--scale", "'niave'", "'naive'"], *words, "--scale", "niave")
        self.fails(2, ["--format", "'nvfp5'", "'nvfp4'"], *words, "--format", "nvfp5")
        self.fails(2, ["--nibbles", "'hi'", "high"], *words, "--nibbles", "hi")
        self.fails(2, ["--layout", "'128x5'", "'128x4'"], *words, "--layout", "128x5")
        self.fails(2, ["--block", "7"], *words, "--block", "7")
        self.fails(2, ["--codes", "'w.code'", "'w.codes'"], *words, "--codes", "w.code")
        self.fails(2, ["--tensor-scale", "'w.tensor_scal'", "'w.tensor_scale'"], *words, "--tensor-scale", "w.tensor_scal")
        self.fails(2, ["--tensor-scale", "positive"], *words, "--tensor-scale", "-1")
        self.fails(2, ["--recipes"], *words, "--recipes")
        self.fails(2, ["--input"], "crosscheck", "--against", "theirs.safetensors")
        self.fails(2, ["--nibbles", "--against"], "crosscheck", "--recipes", "in.safetensors", "--nibbles", "low")
        self.fails(1, ["no tensor is matched"], *words, "--tensor", "x*")
        self.fails(1, ["scales", "blocks of 64"], *words, "--block", "64", "--format", "nvfp4")
        self.put({"v.codes": self.codes, "w.scale": self.scales})
        self.fails(1, ["no codes and scales for 'w'", "'v.codes'"], *words)
        self.put({"w.codes": Tensor("U8", [ROWS // 2, COLS], self.codes.data), "w.scales": self.scales})
        self.fails(1, ["w.codes", "[64, 128]", "[128, 64]"], *words)
        self.put({"w.codes": Tensor("F32", [ROWS, COLS // 8], self.codes.data), "w.scales": self.scales})
        self.fails(2, ["--codes", "'w.scales'"], *words, "--codes", "w.scalos", "--scales", "w.scales")
        self.fails(1, ["w.codes", "F32", "U8"], *words, "--codes", "w.codes", "--scales", "w.scales")
        self.put({"w.codes": Tensor("U8", [ROWS, COLS], bytes([0x3A]) * (ROWS * COLS)), "w.scales": self.scales})
        self.fails(1, ["row 0, column 0", "0x3a", "nvfp4"], *words, "--format", "nvfp4")
        self.put({**self.tensors, "w.tensor_scale": floats([2], [1.0, 2.0])})
        self.fails(1, ["w.tensor_scale", "one number"], *words)
        self.put({**self.tensors, "w.tensor_scale": floats([1], [math.nan])})
        self.fails(1, ["tensor scale", "nan"], *words)

    def test_garbage_gives_one_line_and_no_crash(self):
        good = safetensors_bytes(self.tensors)
        rng = random.Random(5)
        for i in range(60):
            data = bytearray(good)
            if i % 3 == 0:
                data = data[:rng.randrange(len(data))]
            elif i % 3 == 1:
                for _ in range(20):
                    data[rng.randrange(300)] = rng.randrange(256)
            else:
                at = rng.randrange(len(data) - 64)
                data[at:at + 64] = rng.randbytes(64)
            self.path("theirs.safetensors").write_bytes(data)
            outcome = self.run_here("crosscheck", "--against", "theirs.safetensors", "--input", "in.safetensors", "--brief", "--recipe", "te")
            self.assertIn(outcome.returncode, (0, 1), outcome.stderr)
            if not outcome.stdout:
                self.check_line(outcome.stderr, "theirs.safetensors")


class Output(Against):
    """Text, file, threads."""

    def setUp(self):
        super().setUp()
        theirs = Theirs(self, Te, self.rows)
        ties(lambda below: below)(theirs)
        self.changed = theirs.changed()
        write_safetensors(self.path("theirs.safetensors"), theirs.tensors())
        self.words = ["crosscheck", "--against", "theirs.safetensors", "--input", "in.safetensors", "--recipe", "te"]

    def test_the_text_names_the_reading_the_ranking_and_the_classes(self):
        outcome = self.run_here(*self.words)
        self.assertEqual((outcome.returncode, outcome.stderr), (1, ""))
        text = outcome.stdout
        self.assertTrue(text.startswith("w [128, 128] BF16: nvfp4 in blocks of 16, even columns in the low nibble, linear scales\n"), text)
        self.assertIn(f"{self.changed}  ties_down ", text)
        self.assertIn("the midpoint", text)
        self.assertRegex(text, r"row \d+, block \d+, column \d+: code 0x[0-9a-f] \(.*\), te 0x[0-9a-f]")
        brief = self.run_here(*self.words, "--brief").stdout
        self.assertNotIn("midpoint", brief)
        self.assertIn(f"{self.changed}  ties_down ", brief)

    def test_the_example_is_the_first_block_with_the_numbers_of_the_fractions(self):
        report = json.loads(self.run_here(*self.words, "--json").stdout)["tensors"][0]
        model, = [e for e in report["explained"] if e["name"] == "te"]
        example = model["classes"][0]["example"]
        theirs = Theirs(self, Te, self.rows)
        r, c, x, scale = next((r, c, x, s) for r, c, x, s in theirs.elements()
                              if abs(theirs.model.y(x, s)) in MIDPOINTS and MIDPOINTS.index(abs(theirs.model.y(x, s))) % 2 == 1)
        y = theirs.model.y(x, scale)
        self.assertTrue(example.startswith(f"row {r}, block {c // 16}, column {c}: code 0x"), example)
        self.assertIn(f" (0x{struct.pack('>f', x).hex()}), a = 2.625 ", example)
        self.assertIn(f"y = x * (1 / (s * D)) = {float(y):g}", example)

    def test_the_file_has_the_ranking_and_the_classes(self):
        try:
            import h5py
        except ImportError:
            raise unittest.SkipTest("no h5py")
        outcome = self.run_here(*self.words, "-o", "out.h5", "--json")
        report, = json.loads(outcome.stdout)["tensors"]
        with h5py.File(self.path("out.h5")) as f:
            self.assertEqual((f.attrs["kind"], f.attrs["against"], f.attrs["inputs"]), ("crosscheck against", "theirs.safetensors", "in.safetensors"))
            table = {name: f["table"][name][:].tolist() for name in f["table"]}
        text = lambda name: [v.decode() for v in table[name]]
        rows = [(n, k, e, c) for n, k, e, c in zip(text("recipe"), text("class"), table["blocks_equal"], table["class_blocks"])]
        self.assertEqual(rows[:len(report["ranking"])], [(r["name"], "", r["equal"], 0) for r in report["ranking"]])
        self.assertIn(("te", "ties_down", report["explained"][0]["equal"], self.changed), rows)

    def test_any_number_of_threads_gives_the_same_output_and_file(self):
        found = set()
        for threads in ("1", "2"):
            outcome = self.run_here(*self.words, "-o", "out.h5", "--threads", threads)
            found.add((outcome.returncode, outcome.stdout, self.path("out.h5").read_bytes()))
        self.assertEqual(len(found), 1)

    def test_exit_codes(self):
        self.succeeds("quantize", "in.safetensors", "-o", "theirs.safetensors", "--format", "nvfp4", "--recipe", "te")
        self.assertEqual(self.report(0)["explained"][0]["classes"], [])
        self.fails(1, ["none.safetensors"], "crosscheck", "--against", "none.safetensors", "--input", "in.safetensors")


class Counts(ctypes.Structure):
    """fp4scope_counts of analysis/c_api.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("blocks", "equal", "scales_differ", "codes_differ", "elements", "elements_differ")]
    _fields_ += [("classes", ctypes.c_int64 * 32), ("recipe", ctypes.c_char * 64)]


class SharedLibrary(Against):
    """The C function from Python, in process, gives what the program gives."""

    def setUp(self):
        super().setUp()
        path = Path(harness.PROGRAM).parent / "libfp4scope.so"
        if not path.is_file():
            raise unittest.SkipTest("no libfp4scope.so beside the program")
        try:
            self.library = ctypes.CDLL(str(path))
        except OSError as error:  # as one built with sanitizers
            raise unittest.SkipTest(str(error))
        self.library.fp4scope_crosscheck.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_float,
                                                     ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(Counts)]
        self.library.fp4scope_class_name.restype = ctypes.c_char_p

    def call(self, theirs, data, dtype=b"bf16", recipe=None):
        report, counts = ctypes.create_string_buffer(1 << 16), Counts()
        scale, = struct.unpack("<f", theirs.scale.data)
        tensors = theirs.tensors()
        code = self.library.fp4scope_crosscheck(data, dtype, ROWS, COLS, tensors["w.codes"].data, tensors["w.scales"].data, scale, theirs.form.encode(), recipe,
                                                theirs.block, report, len(report), counts)
        return code, report.value.decode(), counts

    def test_counts_and_classes(self):
        for model, recipe in ((Te, b"te"), (Ocp, b"ocp")):
            theirs = Theirs(self, model, self.rows)
            data = floats([ROWS, COLS], [x for row in self.rows for x in row], "BF16").data
            code, report, counts = self.call(theirs, data)
            self.assertEqual((code, counts.blocks, counts.equal, counts.elements), (0, len(theirs.blocks()), len(theirs.blocks()), ROWS * COLS))
            expected = ties(lambda below: below)(theirs)
            wide = floats([ROWS, COLS], [x for row in self.rows for x in row]).data
            code, report, counts = self.call(theirs, wide, b"f32", recipe)
            self.assertEqual((code, counts.blocks - counts.equal, counts.scales_differ, counts.codes_differ, counts.recipe), (1, expected, 0, expected, recipe))
            names = {}
            while (name := self.library.fp4scope_class_name(len(names))) is not None:
                names[name.decode()] = counts.classes[len(names)]
            self.assertEqual({name: count for name, count in names.items() if count}, {"ties_down": expected})
            self.assertIn(f"{expected}  ties_down", report)


SHARED = os.environ.get("FP4SCOPE_SHARED", "")


@unittest.skipUnless(os.path.isdir(os.path.join(SHARED, "golden")), "FP4SCOPE_SHARED names no folder with golden/")
class Golden(Case):
    """Other implementations' outputs: the right recipe is among the first, and nothing is left over."""

    def check(self, file, prefix, parts, expected, *words):
        golden = Path(SHARED) / "golden"
        for source in ("gauss/bf16", "student3/f32", "ties/bf16", "zero_blocks/bf16"):
            name = f"{source}|{prefix}|"
            outcome = self.run_here("crosscheck", "--against", golden / file, "--input", f"{golden / 'inputs.safetensors'}:{source}",
                                    "--codes", name + parts[0], "--scales", name + parts[1], "--json", *words)
            self.assertEqual((outcome.returncode, outcome.stderr), (0, ""), f"{name} {outcome.stdout[-600:]}")
            report, = json.loads(outcome.stdout)["tensors"]
            best = [row["name"] for row in report["ranking"] if row["equal"] == row["blocks"] and row["elements_differ"] == 0]
            self.assertIn(expected, best, name)
            self.assertEqual(report["explained"][0]["classes"], [], name)

    def test_transformer_engine(self):
        parts, file = ("data", "scale"), "transformer_engine_ref.safetensors"
        self.check(file, "tile=1x16|4over6=0|e4m3max=448|MAE|rht=0", parts, "te_ref")
        self.check(file, "tile=16x16|4over6=0|e4m3max=448|MAE|rht=0", parts, "te_ref", "--block-2d")
        for top in (256, 448):
            for select in ("MAE", "MSE"):
                self.check(file, f"tile=1x16|4over6=1|e4m3max={top}|{select}|rht=0", parts, f"te_ref 4over6 {select.lower()} {top}")

    def test_fouroversix(self):
        parts, file = ("values", "scales"), "fouroversix.safetensors"
        self.check(file, "nvfp4|static_6|2d=0|rht=0|t=0", parts, "fouroversix", "--format", "nvfp4")
        self.check(file, "nvfp4|static_6|2d=1|rht=0|t=0", parts, "fouroversix", "--format", "nvfp4", "--block-2d")
        self.check(file, "nvfp4|mse|2d=0|rht=0|t=0", parts, "fouroversix 4over6 mse 256", "--format", "nvfp4")
        self.check(file, "nvfp4|abs_max|2d=0|rht=0|t=0", parts, "fouroversix 4over6 absmax 256", "--format", "nvfp4")
        self.check(file, "mxfp4|static_6|2d=0|rht=0|t=0", parts, "fouroversix", "--format", "mxfp4")
        self.check(file, "mxfp4|static_4|2d=0|rht=0|t=0", parts, "fouroversix static4", "--format", "mxfp4")
        self.check(file, "nvint4|static_6|2d=0|rht=0|t=0", parts, "fouroversix", "--format", "nvint4")
        self.check(file, "if4|mae|2d=0|rht=0|t=0", parts, "fouroversix mae", "--format", "if4")
