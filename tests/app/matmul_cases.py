"""matmul: products, parts of the error and words, against rationals worked out here."""
import json
import random
import struct
from fractions import Fraction

from harness import Case, floats, read_safetensors, write_safetensors

E2M1 = [Fraction(n, 2) for n in (0, 1, 2, 3, 4, 6, 8, 12)]
M, N, K = 5, 9, 80


def element(code):
    return -E2M1[code & 7] if code & 8 else E2M1[code]


def e4m3(code):
    exponent, mantissa = code >> 3, code & 7
    return Fraction(mantissa, 512) if exponent == 0 else Fraction(8 + mantissa, 8) * Fraction(2) ** (exponent - 7)


def ue8m0(code):
    return Fraction(2) ** (code - 127)


def nearest(value, width):
    """A rational rounded to `width` significant bits, ties to even, in the normal range."""
    if value == 0:
        return value
    sign, value, exponent = (-1 if value < 0 else 1), abs(value), 0
    while value >= 2 ** width:
        value, exponent = value / 2, exponent + 1
    while value < 2 ** (width - 1):
        value, exponent = value * 2, exponent - 1
    whole, rest = divmod(value, 1)
    whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)
    return sign * whole * Fraction(2) ** exponent


def toward_zero(value, width):
    """The same, cut."""
    if value == 0:
        return value
    sign, value, exponent = (-1 if value < 0 else 1), abs(value), 0
    while value >= 2 ** width:
        value, exponent = value / 2, exponent + 1
    while value < 2 ** (width - 1):
        value, exponent = value * 2, exponent - 1
    return sign * (value // 1) * Fraction(2) ** exponent


def fraction_rows(tensor):
    cols = tensor.shape[1]
    values = [Fraction(x) for x in tensor.numbers()]
    return [values[i:i + cols] for i in range(0, len(values), cols)]


def product(a, b):
    return [[sum(x * y for x, y in zip(row, other)) for other in b] for row in a]


def minus(a, b):
    return [[x - y for x, y in zip(row, other)] for row, other in zip(a, b)]


def inner(a, b):
    return sum(x * y for row, other in zip(a, b) for x, y in zip(row, other))


class Matmul(Case):
    def setUp(self):
        super().setUp()
        source = random.Random(4)
        matrix = lambda rows, spread: floats([rows, K], [source.gauss(0, 1) * 2.0 ** source.randint(-spread, spread) for _ in range(rows * K)])
        self.tensors = {"a": matrix(M, 3), "b": matrix(N, 3)}
        write_safetensors(self.path("in.safetensors"), self.tensors)

    def stored(self, scale_of, block, *words):
        """{name: rows of element * block scale}, {name: tensor scale}, from quantize."""
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", *words)
        parts, _ = read_safetensors(self.path("q.safetensors"))
        values, scales = {}, {}
        for name, t in self.tensors.items():
            codes, blocks = parts[name + ".codes"], parts[name + ".scales"]
            width, count = codes.shape[1], blocks.shape[1]
            values[name] = [[element(codes.data[r * width + c // 2] >> 4 * (c % 2) & 15) * scale_of(blocks.data[r * count + c // block])
                             for c in range(K)] for r in range(t.shape[0])]
            scales[name] = Fraction(parts[name + ".tensor_scale"].numbers()[0])
        return values, scales

    def out(self, *words):
        self.succeeds("matmul", "in.safetensors:a", "in.safetensors:b", "-o", "out.safetensors", *words)
        t = read_safetensors(self.path("out.safetensors"))[0]["out"]
        self.assertEqual(t.shape, [M, N])
        return t.dtype, fraction_rows(t)

    def same(self, got, want, text):
        for m in range(len(want)):
            for n in range(len(want[0])):
                bits = lambda x: struct.pack(">f", float(x)).hex()
                self.assertEqual(got[m][n], want[m][n], f"{text} [{m}, {n}]: {bits(got[m][n])}, not {bits(want[m][n])}; "
                                                        f"{float(got[m][n])}, not {float(want[m][n])}")

    def test_exact_products_are_rationals_rounded_once(self):
        for words, scale_of, block in ((["--format", "nvfp4"], e4m3, 16), (["--format", "mxfp4", "--scale", "rceil"], ue8m0, 32)):
            values, scales = self.stored(scale_of, block, *words)
            exact = product(values["a"], values["b"])
            factor = scales["a"] * scales["b"]
            for dtype, name, width in (("f32", "F32", 24), ("bf16", "BF16", 8)):
                got_dtype, got = self.out(*words, "--out-dtype", dtype)
                self.assertEqual(got_dtype, name)
                self.same(got, [[nearest(x * factor, width) for x in row] for row in exact], f"{words} {dtype}")

    def test_blackwell_cuts_each_sum_of_64_and_multiplies_by_alpha(self):
        values, scales = self.stored(e4m3, 16, "--format", "nvfp4")
        alpha = nearest(scales["a"] * scales["b"], 24)
        want = []
        for row in values["a"]:
            want.append([])
            for other in values["b"]:
                running = Fraction(0)
                for first in range(0, K, 64):
                    running = toward_zero(running + sum(x * y for x, y in zip(row[first:first + 64], other[first:first + 64])), 24)
                want[-1].append(nearest(running * alpha, 24))
        self.same(self.out("--format", "nvfp4", "--arch", "blackwell")[1], want, "blackwell")

    def test_fp32_rounds_every_step(self):
        values, scales = self.stored(e4m3, 16, "--format", "nvfp4")
        fp32 = {name: [[nearest(x * scales[name], 24) for x in row] for row in rows] for name, rows in values.items()}
        for instruction in ("fma", "mul_add"):
            want = []
            for row in fp32["a"]:
                want.append([])
                for other in fp32["b"]:
                    running = Fraction(0)
                    for x, y in zip(row, other):
                        running = nearest(running + (x * y if instruction == "fma" else nearest(x * y, 24)), 24)
                    want[-1].append(running)
            self.same(self.out("--format", "nvfp4", "--arch", "fp32", "--instruction", instruction)[1], want, instruction)

    def test_json_has_the_parts_and_they_add_up(self):
        values, scales = self.stored(e4m3, 16, "--format", "nvfp4")
        given = {name: fraction_rows(t) for name, t in self.tensors.items()}
        real = {name: [[x * scales[name] for x in row] for row in rows] for name, rows in values.items()}
        exact = product(given["a"], given["b"])
        energy = inner(exact, exact)
        lost = {name: minus(real[name], given[name]) for name in given}
        parts = {"weights": product(given["a"], lost["b"]), "activations": product(lost["a"], given["b"]), "both": product(lost["a"], lost["b"])}
        for arch in ("exact", "fp32", "hopper", "blackwell"):
            words = ["--format", "nvfp4", "--arch", arch]
            found = json.loads(self.succeeds("matmul", "in.safetensors:a", "in.safetensors:b", "-o", "out.safetensors", *words, "--json").stdout)
            out = fraction_rows(read_safetensors(self.path("out.safetensors"))[0]["out"])
            error = minus(out, exact)
            self.assertAlmostEqual(found["error"] / float(inner(error, error)), 1, 11, arch)
            self.assertAlmostEqual(sum(map(sum, found["inner"])) / found["error"], 1, 11, arch)
            self.assertLess(found["rest"], 1e-11)
            self.assertEqual((found["rows"], found["cols"], found["k"]), (M, N, K))
            for name, part in parts.items():
                self.assertAlmostEqual(found["parts"][name]["relative"] ** 2 / float(inner(part, part) / energy), 1, 9, f"{arch} {name}")
                self.assertAlmostEqual(found["parts"][name]["shrinkage"] / float(-inner(part, exact) / energy), 1, 7, f"{arch} {name}")
            cosine = float(inner(out, exact)) / float(inner(out, out) * energy) ** 0.5
            self.assertAlmostEqual(found["cosine"], cosine, 12, arch)
            self.assertEqual(found["parts"]["accumulation"]["relative"] > 0, arch == "fp32", arch)

    def test_operands_have_words_of_their_own(self):
        a_alone = ["--format", "nvfp4", "--b-format", "none"]
        found = json.loads(self.succeeds("matmul", "in.safetensors:a", "in.safetensors:b", *a_alone, "--json").stdout)
        self.assertEqual((found["b_error"], found["parts"]["weights"]["relative"], found["parts"]["both"]["relative"]), (0, 0, 0))
        self.assertGreater(found["parts"]["activations"]["relative"], 0)
        one = json.loads(self.succeeds("matmul", "in.safetensors:a", "in.safetensors:b", "--format", "nvfp4", "--b-scale", "sse", "--json").stdout)
        both = json.loads(self.succeeds("matmul", "in.safetensors:a", "in.safetensors:b", "--format", "nvfp4", "--json").stdout)
        self.assertEqual(one["a_error"], both["a_error"])
        self.assertLess(one["b_error"], both["b_error"])

    def test_threads_and_a_missing_output_change_nothing(self):
        words = ["matmul", "in.safetensors:a", "in.safetensors:b", "--format", "nvfp4", "--arch", "hopper", "--json"]
        self.assertEqual(self.succeeds(*words, "--threads", "1").stdout, self.succeeds(*words, "--threads", "3", "-o", "o.safetensors").stdout)

    def test_words_on_a_terminal_name_every_part(self):
        out = self.succeeds("matmul", "in.safetensors:a", "in.safetensors:b", "--format", "nvfp4", "--arch", "blackwell").stdout
        self.assertRegex(out, r"^\[5, 9\] of K = 80, tcgen05\.m128n8k64\.block16\.f32\.e2m1\.e2m1\.ue4m3: error \d")
        for part in ("weights", "activations", "both", "conversion", "accumulation", "epilogue", "output"):
            self.assertRegex(out, rf"\n{part} +[\d.e-]+ +[\d.e-]+\n")

    def test_outputs_beyond_the_dtype_are_told(self):
        tensors = {"a": [1e3] * 16, "b": [1.0] * 16 + [1e3] * 16, "z": [0.0] * 16}
        tensors = {name: floats([len(x) // 16, 16], x) for name, x in tensors.items()}
        write_safetensors(self.path("big.safetensors"), tensors)
        words = ["matmul", "big.safetensors:a", "big.safetensors:b", "--format", "none", "--out-dtype", "f16"]
        outcome = self.succeeds(*words, "-o", "out.safetensors")
        self.assertIn("1 of 2 outputs are Inf or NaN", outcome.stderr)
        self.assertRegex(outcome.stdout, r"error inf %, cosine -;[^\n]*\n(?!.*nan)")
        self.assertEqual(read_safetensors(self.path("out.safetensors"))[0]["out"].numbers(), [16000, float("inf")])
        zeros = self.succeeds("matmul", "big.safetensors:z", "big.safetensors:b", "--format", "nvfp4")
        self.assertIn("error 0 %, cosine 1;", zeros.stdout)
        self.assertEqual(zeros.stderr, "")

    def test_wrong_words_are_named(self):
        base = ["matmul", "in.safetensors:a", "in.safetensors:b", "--format", "nvfp4"]
        self.fails(2, ["--arch", "'hoper'", "'hopper'"], *base, "--arch", "hoper")
        self.fails(2, ["--instruction", "'fms'", "'fma'"], *base, "--arch", "fp32", "--instruction", "fms")
        self.fails(2, ["--k-order", "split:N"], *base, "--arch", "fp32", "--k-order", "split:0")
        self.fails(2, ["--k-order", "exact"], *base, "--k-order", "reverse")
        self.fails(2, ["--promote", "64"], *base, "--arch", "blackwell", "--promote", "100")
        self.fails(2, ["--alpha", "te", "amax"], *base, "--b-tensor-scale", "none", "--arch", "blackwell", "--alpha", "te")
        self.fails(2, ["--out-dtype", "'bf16'"], *base, "--out-dtype", "bf6")
        self.fails(2, ["--seed", "no effect"], *base, "--seed", "3")
        self.fails(2, ["hessian", "inputs"], *base, "--scale", "hessian")
        write_safetensors(self.path("c.safetensors"), {"c": floats([2, 32], [1.0] * 64)})
        self.fails(1, ["c.safetensors", "32 columns", "80"], "matmul", "in.safetensors:a", "c.safetensors", "--format", "nvfp4")
        write_safetensors(self.path("nan.safetensors"), {"c": floats([1, K], [float("nan")] * K)})
        self.fails(1, ["nan.safetensors", "nan"], "matmul", "in.safetensors:a", "nan.safetensors", "--format", "nvfp4")
        self.leaves("in.safetensors", "c.safetensors", "nan.safetensors")
