"""quantize after a transposition or a rotation, with square blocks, random rounding, wide elements and recipes, and back."""
import json
import math
import random
import struct
from fractions import Fraction

import reference
from harness import Case, floats, read_safetensors, write_safetensors

rounded = reference.to_float32
FIXED_SIGNS = [-1 if 0xD7E8 >> i & 1 else 1 for i in range(16)]


def float32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def normal(rows, cols, seed, dtype="BF16"):
    rng = random.Random(seed)
    return [[float(reference.to_dtype(Fraction(rng.gauss(0, 1)), dtype)) for _ in range(cols)] for _ in range(rows)]


def flat(rows):
    return [x for row in rows for x in row]


def transposed(rows):
    return [list(column) for column in zip(*rows)]


def padded(rows, cols):
    return [row + [0.0] * (cols - len(row)) for row in rows]


def relative_error(values, wanted):
    return math.sqrt(sum((v - w) ** 2 for v, w in zip(values, wanted)) / sum(w * w for w in wanted))


def philox(seed, stream, index):
    """Philox4x32-10: four words (Salmon et al., SC'11)."""
    counter = [index & 0xFFFFFFFF, index >> 32, stream, 0]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [second >> 32 ^ counter[1] ^ key[0], second & 0xFFFFFFFF, first >> 32 ^ counter[3] ^ key[1], first & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def name_stream(name):
    """FNV-1a."""
    value = 0x811C9DC5
    for byte in name.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def random_signs(seed, n):
    return [-1 if philox(seed, 0, i // 128)[i // 32 % 4] >> i % 32 & 1 else 1 for i in range(n)]


def rotated(rows, n=16, signs=None):
    """Runs of n columns, in fractions; sums of bf16 fit a double, so 1/sqrt(n) is the double nearest to it times them."""
    signs = signs or FIXED_SIGNS
    scale = {16: 0.25, 32: 0.25 * float.fromhex("0x1.6a09e667f3bcdp-1"), 64: 0.125}[n]
    out = []
    for row in rows:
        out.append([])
        for at in range(0, len(row), n):
            for j in range(n):
                total = sum(Fraction(row[at + i]) * signs[i] * (-1) ** bin(i & j).count("1") for i in range(n))
                out[-1].append(float32(float(total) * scale))
    return out


class Transforms(Case):
    def quantize(self, tensors, *words, form="nvfp4"):
        write_safetensors(self.path("in.safetensors"), tensors)
        self.outcome = self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", form, *words)
        tensors, metadata = read_safetensors(self.path("q.safetensors"))
        self.record = json.loads(metadata["fp4scope"])
        return tensors

    def back(self, *words):
        self.succeeds("dequantize", "q.safetensors", "-o", "back.safetensors", *words)
        return read_safetensors(self.path("back.safetensors"))[0]

    def scales(self, out, name="w"):
        cols = out[name + ".scales"].shape[1]
        data = list(out[name + ".scales"].data)
        return [data[i:i + cols] for i in range(0, len(data), cols)]

    def codes(self, out, name="w"):
        rows, cols = out[name + ".codes"].shape
        return reference.unpack(out[name + ".codes"].data, 2 * cols)

    def check(self, out, rows):
        """Codes, scales and tensor scale of naive NVFP4 of these rows."""
        codes, scales, scaling = reference.quantize("nvfp4", rows)
        self.assertEqual(out["w.tensor_scale"], floats([1], [float(scaling)]))
        self.assertEqual(self.scales(out), scales)
        self.assertEqual(self.codes(out), codes)


class Rotation(Transforms):
    """--transpose and --hadamard."""

    def test_the_fixed_rotation_equals_the_fractions(self):
        rows = normal(5, 48, 1)
        out = self.quantize({"w": floats([5, 48], flat(rows), "BF16")}, "--hadamard")
        self.check(out, rotated(rows))
        self.assertEqual((self.record["hadamard"], self.record["transpose"], "hadamard_seed" in self.record), (16, False, False))
        self.assertEqual(out["w.amax"], floats([1], [max(map(abs, flat(rotated(rows))))]))

    def test_random_signs_and_other_sizes_equal_the_fractions(self):
        rows = normal(3, 64, 2)
        tensors = {"w": floats([3, 64], flat(rows), "BF16")}
        for words, n, seed in ((["--hadamard-seed", "7"], 16, 7), (["--hadamard-size", "32"], 32, 0), (["--hadamard-size", "32", "--hadamard-seed", "5000000000"], 32, 5000000000),
                               (["--hadamard-size", "64", "--hadamard-seed", "1"], 64, 1)):
            with self.subTest(words=words):
                out = self.quantize(tensors, "--hadamard", *words)
                self.check(out, rotated(rows, n, random_signs(seed, n)))
                self.assertEqual((self.record["hadamard"], self.record["hadamard_seed"]), (n, seed))

    def test_transposed_equals_the_transposed_file_and_rotates_afterwards(self):
        rows = normal(32, 6, 3)
        tensors = {"w": floats([32, 2, 3], flat(rows), "BF16")}
        out = self.quantize(tensors, "--transpose")
        self.assertEqual((out["w.codes"].shape, out["w.scales"].shape), ([6, 16], [6, 2]))
        self.check(out, transposed(rows))
        self.check(self.quantize(tensors, "--transpose", "--hadamard"), rotated(transposed(rows)))

    def test_rotated_columns_are_padded_with_a_word(self):
        rows = normal(3, 40, 4)
        tensors = {"w": floats([3, 40], flat(rows), "BF16")}
        out = self.quantize(tensors, "--hadamard", "--hadamard-size", "32")
        self.check(out, rotated(padded(rows, 64), 32, random_signs(0, 32)))
        self.assertEqual((out["w.codes"].shape, out["w.scales"].shape), ([3, 32], [3, 4]))
        self.assertIn("w: 40 columns padded with zeros to 64", self.outcome.stderr)
        self.assertEqual(self.back()["w"].shape, [3, 40])
        out = self.quantize(tensors, "--transpose")
        self.assertEqual((out["w.codes"].shape, out["w.scales"].shape), ([40, 8], [40, 1]))
        self.assertIn("w: 3 columns padded with zeros to 16", self.outcome.stderr)
        self.fails(1, ["w", "48 columns", "rotation 32"], "quantize", self.padded_input(), "-o", "x", "--format", "nvfp4", "--hadamard", "--hadamard-size", "32", "--pad", "error")
        self.fails(1, ["w", "40 columns", "block 16"], "quantize", "in.safetensors", "-o", "x", "--format", "nvfp4", "--hadamard", "--pad", "error")
        self.leaves("back.safetensors", "in.safetensors", "p.safetensors", "q.safetensors")

    def padded_input(self):
        write_safetensors(self.path("p.safetensors"), {"w": floats([2, 48], [1.0] * 96)})
        return "p.safetensors"

    def test_dequantize_undoes_rotation_and_transposition(self):
        rows = normal(48, 64, 5)
        tensors = {"a/w": floats([48, 8, 8], flat(rows), "BF16")}
        self.quantize(tensors)
        plain = relative_error(self.back()["a/w"].numbers(), flat(rows))
        self.assertTrue(0.05 < plain < 0.15, plain)
        for words in (["--hadamard"], ["--transpose"], ["--transpose", "--hadamard"], ["--hadamard", "--hadamard-size", "32"], ["--hadamard", "--hadamard-size", "2"],
                      ["--transpose", "--hadamard", "--hadamard-size", "8", "--hadamard-seed", "9"], ["--hadamard", "--hadamard-seed", "3"],
                      ["--recipe", "te", "--hadamard"], ["--transpose", "--recipe", "fouroversix", "--hadamard", "--block-2d"]):
            with self.subTest(words=words):
                self.quantize(tensors, *words)
                for dtype in ("F32", "BF16"):
                    out = self.back("--dtype", dtype.lower())
                    self.assertEqual((set(out), out["a/w"].dtype, out["a/w"].shape), ({"a/w"}, dtype, [48, 8, 8]))
                    error = relative_error(out["a/w"].numbers(), flat(rows))
                    self.assertLess(abs(error / plain - 1), 0.2 if "--block-2d" in words else 0.06)

    def test_dequantized_values_beside_the_codes_stay_in_the_rotated_basis(self):
        rows = normal(4, 32, 6)
        out = self.quantize({"w": floats([4, 32], flat(rows), "BF16")}, "--hadamard", "--dequantize")
        codes, scales, scaling = reference.quantize("nvfp4", rotated(rows))
        wanted = flat(reference.dequantize("nvfp4", codes, scales, scaling))
        self.assertEqual(out["w.dequantized"].shape, [4, 32])
        self.assertEqual([Fraction(x) for x in out["w.dequantized"].numbers()], [rounded(x) for x in wanted])

    def test_a_recipe_that_rotates_rounds_to_the_dtype_of_its_input(self):
        rows = normal(4, 32, 7)
        def in_float32(row):  # x / 4 summed in order, each addition rounded
            out = []
            for at in range(0, 32, 16):
                for j in range(16):
                    total = Fraction(0)
                    for i in range(16):
                        total = rounded(total + Fraction(row[at + i]) / 4 * FIXED_SIGNS[i] * (-1) ** bin(i & j).count("1"))
                    out.append(total)
            return out
        for dtype in ("BF16", "F32"):
            turned = [[float(reference.to_dtype(x, dtype)) for x in in_float32(row)] for row in rows]
            words = ["--recipe", "te", "--dequantize"]
            ready = self.quantize({"w": floats([4, 32], flat(turned), dtype)}, *words)
            self.assertEqual(self.quantize({"w": floats([4, 32], flat(rows), dtype)}, *words, "--hadamard"), ready, dtype)

    def test_fake_quant_with_a_rotation_keeps_names_and_shapes_and_has_the_error_of_the_summary(self):
        rows = normal(32, 48, 8)
        tensors = {"w": floats([32, 3, 16], flat(rows)), "bias": floats([3], [1.0, 2.0, 3.0])}
        write_safetensors(self.path("in.safetensors"), tensors)
        for words in (["--hadamard"], ["--transpose", "--hadamard", "--hadamard-size", "32"], ["--transpose"]):
            outcome = self.succeeds("quantize", "in.safetensors", "-o", "out.safetensors", "--format", "nvfp4", "--fake-quant", "--json", *words)
            summary, = json.loads(outcome.stdout)["tensors"]
            out, metadata = read_safetensors(self.path("out.safetensors"))
            self.assertEqual((set(out), out["bias"], out["w"].shape, out["w"].dtype), ({"w", "bias"}, tensors["bias"], [32, 3, 16], "F32"))
            error = relative_error(out["w"].numbers(), flat(rows))
            self.assertAlmostEqual(error / summary["weight_error"], 1, places=5)
            self.assertAlmostEqual(summary["sqnr_db"], -20 * math.log10(error), places=3)
            self.quantize(tensors, *words)
            self.assertEqual(self.back()["w"].data, out["w"].data)
            self.assertEqual(json.loads(metadata["fp4scope_fake_quant"])["hadamard"], self.record["hadamard"])

    def test_a_rotation_that_makes_no_sense_is_refused(self):
        write_safetensors(self.path("in.safetensors"), {"w": floats([1, 16], [1.0] * 16)})
        for needles, words in ((["--hadamard-size", "--hadamard"], ["--hadamard-size", "32"]), (["--hadamard-seed", "--hadamard"], ["--hadamard-seed", "3"]),
                               (["--hadamard-size", "24", "power of two"], ["--hadamard", "--hadamard-size", "24"]), (["--hadamard-size", "2048"], ["--hadamard", "--hadamard-size", "2048"]),
                               (["--hadamard-size", "-16"], ["--hadamard", "--hadamard-size", "-16"]), (["te", "fixed signs"], ["--recipe", "te", "--hadamard", "--hadamard-seed", "1"]),
                               (["te", "16 points"], ["--recipe", "te", "--hadamard", "--hadamard-size", "32"]), (["--seed", "no effect"], ["--seed", "3"]),
                               (["--block-2d", "torchao"], ["--recipe", "torchao", "--block-2d"]), (["--block-2d"], ["--block-2d", "--block", "64"]),
                               (["--rounding", "ms_eden"], ["--scale", "ms_eden", "--rounding", "stochastic"]), (["--rounding", "te"], ["--recipe", "te", "--rounding", "stochastic"]),
                               (["--rounding", "stochastic_unbiased", "sse"], ["--scale", "sse", "--rounding", "stochastic_unbiased"])):
            self.fails(2, needles, "quantize", "in.safetensors", "-o", "out.safetensors", "--format", "nvfp4", *words)
        self.leaves("in.safetensors")


class SquareBlocks(Transforms):
    """--block-2d."""

    def test_tiles_equal_the_fractions_and_repeat_their_scale_on_each_row(self):
        for height, cols in ((32, 48), (20, 40), (3, 16), (17, 33)):
            with self.subTest(height=height, cols=cols):
                rows = [[x * 2.0 ** (r % 5) for x in row] for r, row in enumerate(normal(height, cols, height))]
                out = self.quantize({"w": floats([height, cols], flat(rows), "BF16")}, "--block-2d", "--dequantize")
                wide = padded(rows, -(-cols // 16) * 16)
                scaling = reference.tensor_scale("nvfp4", max(abs(Fraction(x)) for x in flat(rows)))
                scales = [[reference.naive_scale_code("nvfp4", max(abs(Fraction(x)) for tile_row in wide[r // 16 * 16:r // 16 * 16 + 16] for x in tile_row[at:at + 16]), scaling)
                           for at in range(0, len(wide[0]), 16)] for r in range(height)]
                codes = [[reference.element_code("e2m1", x, reference.e4m3(scales[r][c // 16]) * scaling) for c, x in enumerate(row)] for r, row in enumerate(wide)]
                self.assertEqual((out["w.codes"].shape, out["w.scales"].shape), ([height, len(wide[0]) // 2], [height, len(wide[0]) // 16]))
                self.assertEqual(self.scales(out), scales)
                self.assertEqual(self.codes(out), codes)
                wanted = flat(reference.dequantize("nvfp4", codes, scales, scaling))
                self.assertEqual([Fraction(x) for x in out["w.dequantized"].numbers()], [rounded(x) for x in wanted])
                self.assertEqual(self.record["block_2d"], True)
                self.assertEqual("padded with zeros" in self.outcome.stderr, cols % 16 != 0)
                self.assertEqual(self.back()["w"].shape, [height, cols])

    def test_a_transposed_tile_is_the_tile(self):
        rows = normal(32, 32, 9)
        tensors = {"w": floats([32, 32], flat(rows), "BF16")}
        for words in ([], ["--recipe", "te"], ["--scale", "sse"]):
            plain = self.quantize(tensors, "--block-2d", *words)
            turned = self.quantize(tensors, "--block-2d", "--transpose", *words)
            self.assertEqual(self.codes(turned), transposed(self.codes(plain)))
            self.assertEqual([self.scales(turned)[r][c] for r in (0, 16) for c in (0, 1)], [self.scales(plain)[16 * c][r // 16] for r in (0, 16) for c in (0, 1)])

    def test_sse_tiles_err_no_more_than_naive_and_bits_count_a_tile_once(self):
        rows = normal(20, 32, 10)
        write_safetensors(self.path("in.safetensors"), {"w": floats([20, 32], flat(rows), "BF16")})
        errors = {}
        for method in ("naive", "sse", "exhaustive", "4over6"):
            outcome = self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4", "--block-2d", "--scale", method, "--json")
            summary, = json.loads(outcome.stdout)["tensors"]
            errors[method] = summary["weight_error"]
            self.assertAlmostEqual(summary["bits_per_weight"], 4 + (4 * 8 + 32) / 640, places=12)
        self.assertLess(errors["sse"], errors["naive"])
        self.assertEqual(errors["sse"], errors["exhaustive"])


class RandomRounding(Transforms):
    """--rounding stochastic, ms_eden."""

    def stochastic(self, rows, scales, scaling, seed, name):
        """Codes: up with the fraction of the gap that was passed, by Philox words of (seed, name, position)."""
        levels = [float(level) for level in reference.LEVELS["e2m1"]]
        codes = []
        for r, row in enumerate(rows):
            codes.append([])
            for c, x in enumerate(row):
                at = r * len(row) + c
                word = philox(seed, name_stream(name), at // 4)[at % 4]
                step = float(reference.e4m3(scales[r][c // 16]) * scaling)
                position = abs(x) / step if step else 0.0
                below = max(i for i in range(8) if levels[i] <= position)
                if below < 7 and word < int((position - levels[below]) / (levels[below + 1] - levels[below]) * 2**32):
                    below += 1
                codes[-1].append(below | 8 if reference.is_negative(x) else below)
        return codes

    def test_stochastic_codes_are_a_function_of_seed_name_and_position(self):
        rows = normal(6, 48, 11)
        for words, seed in (([], 1), (["--seed", "2"], 2), (["--seed", "12345678901"], 12345678901)):
            out = self.quantize({name: floats([6, 48], flat(rows), "BF16") for name in ("w", "späß")}, "--rounding", "stochastic", *words)
            _, scales, scaling = reference.quantize("nvfp4", rows)
            for name in ("w", "späß"):
                self.assertEqual(self.scales(out, name), scales)
                self.assertEqual(self.codes(out, name), self.stochastic(rows, scales, scaling, seed, name), (name, seed))
            self.assertNotEqual(out["w.codes"], out["späß.codes"])
            self.assertEqual((self.record["rounding"], self.record["seed"]), ("stochastic", seed))

    def test_random_choices_are_the_same_bytes_on_any_number_of_threads(self):
        tensors = {name: floats([40, 128], flat(normal(40, 128, 12)), "BF16") for name in ("v", "w")}
        for words in (["--rounding", "stochastic"], ["--rounding", "stochastic_unbiased"], ["--rounding", "stochastic", "--scale", "4over6", "--block-2d"],
                      ["--scale", "ms_eden", "--hadamard", "--hadamard-size", "128"], ["--rounding", "stochastic", "--transpose", "--hadamard"]):
            files, seeds = set(), []
            for more in (["--threads", "1"], ["--threads", "2"], ["--threads", "7"]):
                out = self.quantize(tensors, *words, *more)
                files.add(self.path("q.safetensors").read_bytes())
            self.assertEqual(len(files), 1, words)
            part = ".scales" if "ms_eden" in words else ".codes"
            self.assertNotEqual(out["v" + part], out["w" + part], "equal data, other names")
            self.assertNotEqual(self.quantize(tensors, *words, "--seed", "2")["w" + part], out["w" + part], words)
            self.assertEqual(self.quantize(tensors, *words, "--seed", "1"), out)

    def test_unbiased_aims_at_16_17_and_its_mean_is_right(self):
        rows = normal(64, 64, 13)
        amax = max(abs(Fraction(x)) for x in flat(rows))
        count, sums = 16, [0.0] * 4096
        for seed in range(count):
            out = self.quantize({"w": floats([64, 64], flat(rows), "BF16")}, "--rounding", "stochastic_unbiased", "--dequantize", "--seed", seed)
            sums = [total + x for total, x in zip(sums, out["w.dequantized"].numbers())]
        scaling = rounded(17 * amax / (16 * 2688))
        self.assertEqual(out["w.tensor_scale"], floats([1], [float(scaling)]))
        scales = self.scales(out)
        codes = [reference.nearest([reference.e4m3(code) for code in range(127)], 17 * max(abs(Fraction(x)) for x in row[at:at + 16]) / (96 * scaling)) for row in rows for at in range(0, 64, 16)]
        self.assertEqual(flat(scales), codes)
        largest = max(abs(Fraction(x)) / (reference.e4m3(scales[r][c // 16]) * scaling) for r, row in enumerate(rows) for c, x in enumerate(row))
        self.assertLessEqual(largest, 6)  # nothing clips
        one = relative_error(out["w.dequantized"].numbers(), flat(rows))
        mean = relative_error([total / count for total in sums], flat(rows))
        self.assertLess(abs(mean * math.sqrt(count) / one - 1), 0.05)  # the error of a mean falls as it does without a bias
        bias = sum((total / count - x) * (1 if x > 0 else -1) for total, x in zip(sums, flat(rows))) / sum(map(abs, flat(rows)))
        self.assertLess(abs(bias), 0.0015)

    def test_stochastic_serves_wide_elements_within_a_gap(self):
        rows = normal(4, 64, 14)
        for form in ("mxfp8_e4m3", "mxfp6_e3m2", "mxint8", "mxint4"):
            nearest = self.quantize({"w": floats([4, 64], flat(rows), "BF16")}, form=form)
            out = self.quantize({"w": floats([4, 64], flat(rows), "BF16")}, "--rounding", "stochastic", form=form)
            self.assertEqual(out["w.scales"], nearest["w.scales"])
            self.assertNotEqual(out["w.codes"], nearest["w.codes"])
            self.assertLess(relative_error(self.back()["w"].numbers(), flat(rows)), {"mxfp8_e4m3": 0.06, "mxfp6_e3m2": 0.12, "mxint8": 0.02, "mxint4": 0.3}[form])

    def test_ms_eden_moves_scales_alone_and_by_a_code_at_most(self):
        rows = normal(16, 256, 15)
        tensors = {"w": floats([16, 256], flat(rows), "BF16")}
        words = ["--scale", "ms_eden", "--hadamard", "--hadamard-size", "128", "--hadamard-seed", "1"]
        out = [self.quantize(tensors, *words, "--seed", seed) for seed in (1, 2)]
        self.assertEqual(out[0]["w.codes"], out[1]["w.codes"])
        self.assertEqual(out[0]["w.tensor_scale"], out[1]["w.tensor_scale"])
        moved = [abs(a - b) for a, b in zip(out[0]["w.scales"].data, out[1]["w.scales"].data)]
        self.assertEqual(set(moved), {0, 1})
        self.assertEqual((self.record["scale"], self.record["seed"]), ("ms_eden", 2))
        self.assertTrue(0.09 < relative_error(self.back()["w"].numbers(), flat(rows)) < 0.105)


class OtherFormats(Transforms):
    """IF4 and elements of 5 to 8 bits, in fractions."""

    def test_if4_chooses_the_lesser_error_and_says_so_in_bit_7(self):
        rows = normal(8, 64, 16) + [[float(reference.to_dtype(Fraction(i % 16 - 8) * 6 / 7, "BF16")) for i in range(64)]]
        out = self.quantize({"w": floats([9, 64], flat(rows), "BF16")}, "--dequantize", form="if4")
        scales, codes = self.scales(out), self.codes(out)
        scaling = reference.tensor_scale("nvfp4", max(abs(Fraction(x)) for x in flat(rows)))
        values, chosen = iter(out["w.dequantized"].numbers()), set()
        self.assertEqual(out["w.tensor_scale"], floats([1], [float(scaling)]))
        integers = [Fraction(6 * n, 7) for n in range(8)]
        for r, row in enumerate(rows):
            for at in range(0, 64, 16):
                scale = reference.naive_scale_code("nvfp4", max(abs(Fraction(x)) for x in row[at:at + 16]), scaling)
                step = reference.e4m3(scale) * scaling
                options = []
                for levels in (reference.LEVELS["e2m1"], integers):
                    indices = [reference.nearest(levels, abs(Fraction(x)) / step) for x in row[at:at + 16]]
                    options.append((sum((levels[i] * step - abs(Fraction(x))) ** 2 for i, x in zip(indices, row[at:at + 16])), levels, indices))
                integer = options[1][0] < options[0][0]
                chosen.add(integer)
                self.assertEqual(scales[r][at // 16], scale | (128 if integer else 0))
                for x, index, code in zip(row[at:at + 16], options[integer][2], codes[r][at:at + 16]):
                    self.assertEqual(code, (-index & 15 if integer else index | 8) if reference.is_negative(x) else index)
                    exact = options[integer][1][index] * step * (-1 if reference.is_negative(x) else 1)
                    self.assertEqual(Fraction(next(values)), rounded(exact))
        self.assertEqual(chosen, {False, True})
        self.assertEqual(self.back()["w"].data, out["w.dequantized"].data)

    # (positive values by code, exponent of the largest binade, bits, two's complement)
    WIDE = {"mxfp6_e2m3": (2, 3, 1, None), "mxfp6_e3m2": (3, 2, 3, None), "mxfp8_e4m3": (4, 3, 7, 126), "mxfp8_e5m2": (5, 2, 15, 123)}

    def levels(self, form):
        """(levels, exponent of the largest binade)."""
        if form in ("mxint8", "mxint4"):
            top, one = (127, 64) if form == "mxint8" else (7, 4)
            return [Fraction(n, one) for n in range(top + 1)], 0
        exponent_bits, mantissa_bits, bias, last = self.WIDE[form]
        last = last or 2 ** (exponent_bits + mantissa_bits) - 1
        one = 2**mantissa_bits
        values = [Fraction(one + c % one, one) * Fraction(2) ** (c // one - bias) if c >= one else Fraction(c, one) * Fraction(2) ** (1 - bias) for c in range(last + 1)]
        return values, reference.exponent(values[-1])

    def test_wide_elements_equal_the_fractions(self):
        rows = normal(4, 80, 17)
        rows[0][0], rows[1][33], rows[2] = 31.0, -2.0**-20, [0.0] * 80
        for form in (*self.WIDE, "mxint8", "mxint4"):
            with self.subTest(form=form):
                levels, top = self.levels(form)
                out = self.quantize({"w": floats([4, 80], flat(rows), "BF16")}, "--dequantize", form=form)
                wide, packed = padded(rows, 96), form == "mxint4"
                self.assertEqual((out["w.codes"].shape, out["w.scales"].shape), ([4, 48 if packed else 96], [4, 3]))
                self.assertNotIn("w.amax", out)
                codes = self.codes(out) if packed else [list(out["w.codes"].data[r * 96:r * 96 + 96]) for r in range(4)]
                values, scales = out["w.dequantized"].numbers(), self.scales(out)
                sign = {"mxint8": 256, "mxint4": 16, "mxfp6_e2m3": 32, "mxfp6_e3m2": 32, "mxfp8_e4m3": 128, "mxfp8_e5m2": 128}[form]
                for r, row in enumerate(wide):
                    for c, x in enumerate(row):
                        amax = max(abs(Fraction(v)) for v in row[c // 32 * 32:c // 32 * 32 + 32])
                        scale = reference.exponent(amax) - top + 127 if amax else 0
                        self.assertEqual(scales[r][c // 32], scale)
                        index = reference.nearest(levels, abs(Fraction(x)) / reference.ue8m0(scale))
                        code = index if not reference.is_negative(x) else -index & (sign - 1) if "int" in form else index | sign
                        self.assertEqual(codes[r][c], code, (r, c, x))
                        exact = levels[index] * reference.ue8m0(scale) * (-1 if reference.is_negative(x) else 1)
                        self.assertEqual(Fraction(values[r * 96 + c]), rounded(exact))
                back = self.back()["w"]
                self.assertEqual((back.shape, back.numbers()), ([4, 80], [x for r in range(4) for x in values[r * 96:r * 96 + 80]]))

    def test_every_format_comes_back_rotated_transposed_and_in_tiles(self):
        rows = normal(32, 64, 18)
        tensors = {"w": floats([32, 64], flat(rows), "BF16")}
        for form in ("nvfp4", "mxfp4", "nvint4", "if4", *self.WIDE, "mxint8", "mxint4"):
            self.quantize(tensors, form=form)
            plain = relative_error(self.back()["w"].numbers(), flat(rows))
            for words in (["--hadamard"], ["--transpose", "--hadamard", "--hadamard-size", "32"]):
                self.quantize(tensors, *words, form=form)
                self.assertLess(abs(relative_error(self.back()["w"].numbers(), flat(rows)) / plain - 1), 0.1, (form, words))
            self.quantize(tensors, "--block-2d", form=form)
            self.assertLess(relative_error(self.back()["w"].numbers(), flat(rows)) / plain, 2, form)
            self.assertEqual(self.back()["w"].shape, [32, 64])


class RecipesDecode(Transforms):
    """T.dequantized in a recipe's own order, T.tensor_scale as the recipe rounds it."""

    def decoded(self, name, a, code, scale):
        """One value, in fractions."""
        q, s = reference.element("e2m1", code), reference.e4m3(scale)
        half = lambda x: reference.to_dtype(x, "F16")
        if name == "te":
            return rounded(q * rounded(rounded(s * a) * rounded(Fraction(1, 2688))))
        if name == "modelopt_dyn":
            return rounded(q * rounded(s * rounded(a / 2688)))
        if name == "fouroversix":
            return rounded(rounded(half(half(q) * half(s)) * a) / 2688)
        return rounded(q * s * rounded(a / 2688))  # torchao, rational: the exact product, rounded once

    def test_values_are_in_the_order_of_the_recipe(self):
        rows = normal(6, 48, 19)
        a = max(abs(Fraction(x)) for x in flat(rows))
        decode = {"te": rounded(1 / rounded(2688 / a)), "fouroversix": rounded(1 / rounded(2688 / a)), "modelopt_dyn": rounded(a / 2688),
                  "torchao": rounded(a / 2688), "rational": rounded(a / 2688)}
        for name, scaling in decode.items():
            out = self.quantize({"w": floats([6, 48], flat(rows), "BF16")}, "--recipe", name, "--dequantize")
            self.assertEqual((out["w.tensor_scale"], out["w.amax"]), (floats([1], [float(scaling)]), floats([1], [float(a)])), name)
            codes, scales = self.codes(out), self.scales(out)
            wanted = [self.decoded(name, a, code, scales[r][c // 16]) for r, row in enumerate(codes) for c, code in enumerate(row)]
            self.assertEqual([Fraction(x) for x in out["w.dequantized"].numbers()], wanted, name)
            exact = [rounded(x) for x in flat(reference.dequantize("nvfp4", codes, scales, scaling))]
            self.assertEqual([Fraction(x) for x in self.back()["w"].numbers()], exact, name)
            self.assertEqual(self.record["recipe"], name)
