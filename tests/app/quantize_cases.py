"""quantize, dequantize and --fake-quant against arithmetic in fractions."""
import json
import math
import random
import struct
from fractions import Fraction

import reference
from harness import Case, Tensor, floats, read_safetensors, write_safetensors

FORMATS = ["nvfp4", "mxfp4", "nvint4"]


def float32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def sample(rows, cols, seed, dtype="F32"):
    """Numbers of that dtype: normal, some large, some zero, some of both signs of zero."""
    rng = random.Random(seed)
    def one():
        kind = rng.random()
        x = 0.0 if kind < 0.03 else -0.0 if kind < 0.06 else rng.gauss(0, 1) * (30 if kind > 0.97 else 1) * 2.0 ** rng.randint(-3, 3)
        return math.copysign(float(reference.to_dtype(Fraction(x), dtype)), x)
    return [[one() for _ in range(cols)] for _ in range(rows)]


def flat(rows):
    return [x for row in rows for x in row]


class Codes(Case):
    """What is in the file, byte by byte."""

    def quantize(self, tensors, *words, metadata=None):
        write_safetensors(self.path("in.safetensors"), tensors, metadata)
        outcome = self.succeeds("quantize", "in.safetensors", "-o", "out.safetensors", *words)
        self.leaves("in.safetensors", "out.safetensors")
        return read_safetensors(self.path("out.safetensors"))[0], outcome

    def test_codes_are_packed_with_the_even_column_low(self):
        values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
        out, _ = self.quantize({"w": floats([1, 16], values)}, "--format", "nvfp4", "--tensor-scale", "none")
        self.assertEqual(out, {"w.codes": Tensor("U8", [1, 8], bytes.fromhex("1032547698badcfe")),
                               "w.scales": Tensor("U8", [1, 1], b"\x38"), "w.tensor_scale": floats([1], [1.0])})

    def test_by_hand_nvfp4_with_its_tensor_scale(self):
        # amax 672 -> tensor scale 672 / 2688 = 1/4; blocks of amax 672 and 3: scales 448 and 2
        first, second = [672.0] + [0.0] * 15, [3.0, -1.5, 0.25, 0.2] + [0.0] * 12
        out, _ = self.quantize({"w": floats([1, 32], first + second)}, "--format", "nvfp4", "--dequantize")
        self.assertEqual(out["w.tensor_scale"], floats([1], [0.25]))
        self.assertEqual(out["w.amax"], floats([1], [672.0]))
        self.assertEqual(out["w.scales"], Tensor("U8", [1, 2], b"\x7e\x40"))
        self.assertEqual(out["w.codes"], Tensor("U8", [1, 16], bytes([7, 0, 0, 0, 0, 0, 0, 0, 0xD7, 0x11, 0, 0, 0, 0, 0, 0])))
        self.assertEqual(out["w.dequantized"], floats([1, 32], first + [3.0, -1.5, 0.25, 0.25] + [0.0] * 12))

    def test_by_hand_mxfp4_and_nvint4(self):
        out, _ = self.quantize({"w": floats([2, 32], [7.0] + [1.0] * 31 + [0.0] * 32)}, "--format", "mxfp4")
        self.assertEqual(out["w.scales"], Tensor("U8", [2, 1], b"\x7f\0"))
        self.assertEqual(out["w.codes"].data, b"\x27" + b"\x22" * 15 + bytes(16))
        self.assertNotIn("w.amax", out)
        self.assertEqual(out["w.tensor_scale"], floats([1], [1.0]))
        out, _ = self.quantize({"w": floats([1, 16], [7.0, -7.0, -1.0, 2.5, 3.5, 0.5] + [0.0] * 10)}, "--format", "nvint4", "--tensor-scale", "1")
        self.assertEqual(out["w.codes"].data, bytes([0x97, 0x2F, 0x04]) + bytes(5))

    def check_naive(self, form, rows, block=None, scaling=None, words=()):
        cols = len(rows[0])
        out, _ = self.quantize({"w": floats([len(rows), cols], flat(rows))}, "--format", form, "--dequantize", *words)
        block = block or reference.BLOCK[form]
        codes, scales, scaling = reference.quantize(form, rows, block, scaling)
        padded = len(codes[0])
        self.assertEqual(out["w.tensor_scale"], floats([1], [float(scaling)]))
        self.assertEqual(out["w.scales"], Tensor("U8", [len(rows), padded // block], flat(scales)))
        self.assertEqual(out["w.codes"].shape, [len(rows), padded // 2])
        self.assertEqual(reference.unpack(out["w.codes"].data, padded), codes)
        self.check_values(form, out["w.dequantized"], codes, scales, scaling, block)

    def check_values(self, form, tensor, codes, scales, scaling, block):
        """The exact product rounded once; a zero has its code's sign."""
        exact = flat(reference.dequantize(form, codes, scales, scaling, block))
        self.assertEqual(tensor.shape, [len(codes), len(codes[0])])
        self.assertEqual([reference.exactly(x) for x in tensor.numbers()], [reference.to_float32(x) for x in exact])
        if reference.ELEMENT[form] == "e2m1":
            self.assertEqual([reference.is_negative(x) for x in tensor.numbers()], [code >= 8 for code in flat(codes)])

    def test_naive_codes_and_values_equal_the_fractions(self):
        for form in FORMATS:
            for seed in range(3):
                with self.subTest(form=form, seed=seed):
                    self.check_naive(form, sample(5, 96, seed))

    def test_other_blocks_and_tensor_scales_equal_the_fractions(self):
        rows = sample(4, 96, 10)
        self.check_naive("nvfp4", rows, 32, words=["--block", "32"])
        self.check_naive("mxfp4", rows, 16, words=["--block", "16"])
        self.check_naive("nvint4", rows, 6, words=["--block", "6"])
        self.check_naive("nvfp4", rows, scaling=Fraction(1), words=["--tensor-scale", "none"])
        self.check_naive("nvfp4", rows, scaling=Fraction(float32(0.01)), words=["--tensor-scale", "0.01"])
        amax = max(abs(Fraction(x)) for x in flat(rows))
        self.check_naive("nvfp4", rows, scaling=reference.tensor_scale("nvfp4", amax, 256), words=["--scale-max", "256"])

    def test_ties_go_to_the_even_code(self):
        midpoints = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]
        self.check_naive("nvfp4", [midpoints + [-x for x in midpoints]], scaling=Fraction(1), words=["--tensor-scale", "none"])
        self.check_naive("nvint4", [[n + 0.5 for n in range(7)] + [7.0] * 9], scaling=Fraction(1), words=["--tensor-scale", "none"])

    def test_zeros_tiny_and_huge_numbers_equal_the_fractions(self):
        tiny, huge = 2.0**-149, float(2**128 - 2**104)
        for form in FORMATS:
            for values in ([0.0] * 32, [-0.0] * 32, [tiny] * 32, [huge] + [-0.0] * 31, [huge] + [tiny] * 15 + [1.0] * 16, [2.0**-140] * 16 + [3e-39] * 16):
                with self.subTest(form=form, values=values[:2]):
                    self.check_naive(form, [values])

    def test_columns_are_padded_with_a_word(self):
        rows = sample(3, 387, 20)
        for form, block in (("nvfp4", 16), ("mxfp4", 32)):
            out, outcome = self.quantize({"w": floats([3, 387], flat(rows))}, "--format", form)
            padded = -(-387 // block) * block
            self.assertEqual(out["w.codes"].shape, [3, padded // 2])
            self.assertEqual(out["w.scales"].shape, [3, padded // block])
            self.assertIn("387", outcome.stderr)
            self.assertIn(str(padded), outcome.stderr)
        self.check_naive("nvfp4", rows)

    def test_more_dimensions_become_first_and_rest(self):
        rows = sample(2, 3 * 16, 30)
        flat_out, _ = self.quantize({"w": floats([2, 48], flat(rows))}, "--format", "nvfp4", "--dequantize")
        deep_out, _ = self.quantize({"w": floats([2, 3, 4, 4], flat(rows))}, "--format", "nvfp4", "--dequantize")
        self.assertEqual(deep_out, flat_out)

    def test_names_are_kept_and_one_dimension_skipped_with_a_word(self):
        good = floats([1, 16], [1.0] * 16)
        out, outcome = self.quantize({"a/b.weight": good, "späß": good, "bias": floats([4], [1.0] * 4), "none": floats([0, 4], []),
                                      "ids": Tensor("I64", [2], bytes(16))}, "--format", "nvfp4")
        self.assertEqual({name.rsplit(".", 1)[0] for name in out}, {"a/b.weight", "späß"})
        for name in ("bias", "none", "ids"):
            self.assertRegex(outcome.stderr, rf"(?m)^fp4scope: {name} skipped, ")
        self.assertEqual(outcome.stderr.count("\n"), 3)

    def test_globs_choose_and_keep_copies_the_rest(self):
        good, bias, ids = floats([1, 16], [1.0] * 16), floats([3], [1.0, math.nan, 2.0]), Tensor("I64", [2], bytes(range(16)))
        tensors = {"a.weight": good, "b.weight": good, "b.embed": good, "bias": bias, "ids": ids}
        parts = {".codes", ".scales", ".tensor_scale", ".amax"}
        def expected(*names):
            return {name + part for name in names for part in parts}
        words = ["--format", "nvfp4", "--tensor"]
        self.assertEqual(set(self.quantize(tensors, *words, "*.weight")[0]), expected("a.weight", "b.weight"))
        self.assertEqual(set(self.quantize(tensors, *words, "a.*", "--tensor", "b.e*")[0]), expected("a.weight", "b.embed"))
        self.assertEqual(set(self.quantize(tensors, *words, "b*", "--exclude", "*embed")[0]), expected("b.weight"))
        self.assertEqual(set(self.quantize(tensors, *words, "[ab].weight", "--exclude", "a*", "--exclude", "c*")[0]), expected("b.weight"))
        out, outcome = self.quantize(tensors, *words, "*.weight", "--keep")
        self.assertEqual({name: out[name] for name in ("b.embed", "bias", "ids")}, {"b.embed": good, "bias": bias, "ids": ids})
        self.assertEqual(set(out), expected("a.weight", "b.weight") | {"b.embed", "bias", "ids"})
        self.assertEqual(outcome.stderr, "")

    def test_the_configuration_is_in_the_metadata(self):
        self.quantize({"w": floats([1, 2, 8], [1.0] * 16)}, "--format", "nvfp4", "--scale", "4over6", "--select", "mae", metadata={"format": "pt"})
        metadata = read_safetensors(self.path("out.safetensors"))[1]
        self.assertEqual(metadata["format"], "pt")
        record = json.loads(metadata["fp4scope"])
        self.assertEqual({key: record[key] for key in ("recipe", "format", "block", "scale", "select", "tensor_scale", "scale_max")},
                         {"recipe": "exact", "format": "nvfp4", "block": 16, "scale": "4over6", "select": "mae", "tensor_scale": "amax", "scale_max": 256})
        self.assertEqual(record["tensors"]["w"], {"dtype": "F32", "shape": [1, 2, 8]})

    def test_every_input_dtype_is_read_exactly(self):
        for dtype in ("BF16", "F16", "F64"):
            rows = sample(2, 32, 40, "F16" if dtype == "F16" else "BF16")
            out, _ = self.quantize({"w": floats([2, 32], flat(rows), dtype)}, "--format", "nvfp4")
            same, _ = self.quantize({"w": floats([2, 32], flat(rows))}, "--format", "nvfp4")
            self.assertEqual(out, same, dtype)

    def test_f64_that_binary32_does_not_hold_is_rounded_with_a_word(self):
        _, outcome = self.quantize({"w": floats([1, 16], [0.1] * 16, "F64")}, "--format", "nvfp4")
        self.assertIn("16 of 16 F64 values rounded", outcome.stderr)

    def test_the_same_bytes_on_any_number_of_threads(self):
        tensors = {"w": floats([64, 96], flat(sample(64, 96, 50))), "x": floats([9, 96], flat(sample(9, 96, 51)))}
        for words in (["--scale", "sse"], ["--scale", "4over6"], ["--scale", "hessian", "--activations", "in.safetensors:x"]):
            found = set()
            for threads in ("1", "2", "7"):
                self.quantize(tensors, "--format", "nvfp4", "--dequantize", *words, "--threads", threads)
                found.add(self.path("out.safetensors").read_bytes())
            self.assertEqual(len(found), 1, words)

    def test_sse_is_never_worse_than_naive_and_the_same_as_exhaustive(self):
        rows = sample(8, 96, 60)
        for form in FORMATS:
            errors, files = {}, {}
            for method in ("naive", "sse", "exhaustive"):
                out, _ = self.quantize({"w": floats([8, 96], flat(rows))}, "--format", form, "--scale", method)
                scales = [list(out["w.scales"].data[i:i + 96 // reference.BLOCK[form]]) for i in range(0, len(out["w.scales"].data), 96 // reference.BLOCK[form])]
                values = reference.dequantize(form, reference.unpack(out["w.codes"].data, 96), scales, Fraction(out["w.tensor_scale"].numbers()[0]))
                block = reference.BLOCK[form]
                errors[method] = [sum((v - Fraction(x)) ** 2 for v, x in zip(value_row[at:at + block], row[at:at + block]))
                                  for value_row, row in zip(values, rows) for at in range(0, 96, block)]
                files[method] = (out["w.codes"], out["w.scales"])
            self.assertEqual(files["sse"], files["exhaustive"])
            self.assertTrue(all(best <= plain for best, plain in zip(errors["sse"], errors["naive"])), form)
            self.assertLess(sum(errors["sse"]), sum(errors["naive"]))

    def test_nonfinite_data_propagates_on_request(self):
        values = [1.0] * 48
        values[17], values[40] = math.nan, -math.inf
        out, _ = self.quantize({"w": floats([1, 48], values)}, "--format", "nvfp4", "--nonfinite", "propagate", "--dequantize")
        self.assertEqual(list(out["w.scales"].data)[1:], [0x7F, 0x7F])
        numbers = out["w.dequantized"].numbers()
        self.assertTrue(all(math.isfinite(x) for x in numbers[:16]))
        self.assertTrue(all(math.isnan(x) for x in numbers[16:]))

    def test_json_is_json(self):
        self.quantize({"w": floats([2, 16], [1.0] * 32), "zero": floats([1, 16], [0.0] * 16)}, "--format", "nvfp4")
        outcome = self.succeeds("quantize", "in.safetensors", "-o", 'a "b".safetensors', "--format", "nvfp4", "--json")
        j = json.loads(outcome.stdout)
        self.assertEqual(j["out"], 'a "b".safetensors')
        self.assertEqual([(t["tensor"], t["rows"], t["cols"]) for t in j["tensors"]], [("w", 2, 16), ("zero", 1, 16)])
        outcome = self.succeeds("dequantize", "out.safetensors", "-o", 'c "d".safetensors', "--json")
        self.assertEqual(json.loads(outcome.stdout)["out"], 'c "d".safetensors')

    def test_shards_and_folders_give_what_one_file_gives(self):
        v, w = floats([2, 16], flat(sample(2, 16, 70))), floats([1, 32], flat(sample(1, 32, 71)))
        self.quantize({"v": v, "w": w}, "--format", "nvfp4")
        whole = read_safetensors(self.path("out.safetensors"))[0]
        self.path("model").mkdir()
        write_safetensors(self.path("model/1.safetensors"), {"w": w})
        write_safetensors(self.path("model/2.safetensors"), {"v": v})
        self.path("model/model.safetensors.index.json").write_text(
            '{"metadata": {"total_size": 256}, "weight_map": {"v": "2.safetensors", "w": "1.safetensors"}}', encoding="utf-8")
        for name in ("model", "model/", "model/model.safetensors.index.json"):
            self.succeeds("quantize", name, "-o", "out.safetensors", "--format", "nvfp4")
            self.assertEqual(read_safetensors(self.path("out.safetensors"))[0], whole)

    def test_an_output_may_replace_its_input(self):
        tensors = {"w": floats([2, 16], flat(sample(2, 16, 80)))}
        self.quantize(tensors, "--format", "nvfp4")
        self.succeeds("quantize", "in.safetensors", "-o", "in.safetensors", "--format", "nvfp4")
        self.assertEqual(self.path("in.safetensors").read_bytes(), self.path("out.safetensors").read_bytes())


class BackToValues(Case):
    """dequantize and --fake-quant."""

    def setUp(self):
        super().setUp()
        self.rows = {"F32": sample(3, 20, 1, "F32"), "BF16": sample(3, 20, 2, "BF16"), "F16": sample(3, 20, 3, "F16"), "F64": sample(3, 20, 4, "F32")}
        self.tensors = {dtype.lower() + "/w": floats([3, 5, 4], flat(rows), dtype) for dtype, rows in self.rows.items()}
        self.rest = {"bias": floats([3], [1.0, -0.0, math.inf], "F32"), "ids": Tensor("I64", [2], bytes(range(16))), "half": floats([2], [1.0, 2.0], "F16"),
                     "mask": Tensor("BOOL", [3], b"\1\0\1"), "scalar": floats([], [3.0], "F64"), "nothing": floats([0, 3], [])}
        write_safetensors(self.path("in.safetensors"), {**self.tensors, **self.rest}, {"format": "pt"})

    def exact(self, form, rows):
        codes, scales, scaling = reference.quantize(form, rows)
        return flat([row[:20] for row in reference.dequantize(form, codes, scales, scaling)])

    def check(self, tensor, dtype, exact):
        self.assertEqual((tensor.dtype, tensor.shape), (dtype, [3, 5, 4]))
        self.assertEqual([reference.exactly(x) for x in tensor.numbers()], [reference.to_dtype(x, dtype) for x in exact])

    def test_dequantize_gives_names_and_shapes_back_in_f32_and_bf16(self):
        for form in FORMATS:
            self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", form, "--keep")
            for words, dtype in (([], "F32"), (["--dtype", "f32"], "F32"), (["--dtype", "bf16"], "BF16")):
                self.succeeds("dequantize", "q.safetensors", "-o", "out.safetensors", *words)
                out, metadata = read_safetensors(self.path("out.safetensors"))
                self.assertEqual({name: out[name] for name in self.rest}, self.rest)
                self.assertEqual(set(out), set(self.tensors) | set(self.rest))
                self.assertEqual(metadata["format"], "pt")
                for source, rows in self.rows.items():
                    self.check(out[source.lower() + "/w"], dtype, self.exact(form, rows))
        self.leaves("in.safetensors", "out.safetensors", "q.safetensors")

    def test_dequantize_ignores_the_values_that_lie_beside_the_codes(self):
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4", "--dequantize")
        self.succeeds("dequantize", "q.safetensors", "-o", "out.safetensors")
        self.assertEqual(set(read_safetensors(self.path("out.safetensors"))[0]), set(self.tensors))

    def test_dequantize_refuses_a_damaged_record(self):
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4")
        tensors, metadata = read_safetensors(self.path("q.safetensors"))
        record = json.loads(metadata["fp4scope"])
        def refused(needle, change_tensors, **changes):
            write_safetensors(self.path("bad.safetensors"), change_tensors, {"fp4scope": json.dumps({**record, **changes})})
            self.fails(1, ["bad.safetensors", needle], "dequantize", "bad.safetensors", "-o", "out.safetensors")
        without = {name: t for name, t in tensors.items() if name != "f32/w.scales"}
        refused("f32/w.scales", without)
        refused("f32/w.codes", {**tensors, "f32/w.codes": Tensor("U8", [1], b"\0")})
        refused("f32/w", tensors, tensors={"f32/w": {"dtype": "F32", "shape": [-3, 20]}})
        refused("f32/w", tensors, tensors={"f32/w": {"dtype": "F32", "shape": [2**20, 2**20]}})
        refused("f32/w", tensors, tensors={"f32/w": {"dtype": "F32"}})
        refused("", tensors, block=10**9)
        refused("", tensors, block=2**32 + 16)
        refused("", tensors, format="nvfp5")
        refused("", tensors, format=7)
        refused("macro has more to its values", tensors, format="mxfp4", scale="macro")
        self.leaves("bad.safetensors", "in.safetensors", "q.safetensors")

    def test_fake_quant_keeps_names_dtypes_and_shapes_and_copies_the_rest(self):
        for form in FORMATS:
            self.succeeds("quantize", "in.safetensors", "-o", "out.safetensors", "--format", form, "--fake-quant")
            out, metadata = read_safetensors(self.path("out.safetensors"))
            self.assertEqual(set(out), set(self.tensors) | set(self.rest))
            self.assertEqual({name: out[name] for name in self.rest}, self.rest)
            self.assertEqual(metadata["format"], "pt")
            for dtype, rows in self.rows.items():
                self.check(out[dtype.lower() + "/w"], dtype, self.exact(form, rows))

    def test_fake_quant_takes_methods_that_correct_values(self):
        values = {method: {} for method in ("rceil", "macro", "residual", "residual_half")}
        for method, out in values.items():
            self.succeeds("quantize", "in.safetensors", "-o", "out.safetensors", "--format", "mxfp4", "--scale", method, "--fake-quant", "--tensor", "f32/*")
            out.update(read_safetensors(self.path("out.safetensors"))[0])
            self.assertEqual({name: out[name] for name in self.rest}, self.rest)
        by = {method: [Fraction(x) for x in out["f32/w"].numbers()] for method, out in values.items()}
        for row, data in enumerate(self.rows["F32"]):
            here = slice(20 * row, 20 * row + 20)
            numbers = [Fraction(x) for x in data]
            self.assertEqual(by["rceil"][here], self.rceil(numbers))
            second = self.rceil([x - v for x, v in zip(numbers, by["rceil"][here])])
            for method, weight in (("residual", 1), ("residual_half", Fraction(1, 2))):
                self.assertEqual(by[method][here], [reference.to_dtype(v + weight * r, "F32") for v, r in zip(by["rceil"][here], second)])
            factor = Fraction(6) / max(abs(x) for x in numbers)  # one macro block of one block
            while factor >= 2:
                factor /= 2
            while factor < 1:
                factor *= 2
            factor = Fraction(math.floor(256 * factor), 256)
            scaled = self.rceil([factor * x for x in numbers])
            self.assertEqual(by["macro"][here], [reference.to_dtype(v / factor, "F32") for v in scaled])

    @staticmethod
    def rceil(numbers):
        """The values of one block at the least power of two that reaches its maximum with 6."""
        levels = [Fraction(n, 2) for n in (0, 1, 2, 3, 4, 6, 8, 12)]
        step = Fraction(1, 2**127)
        while 6 * step < max(abs(x) for x in numbers):
            step *= 2
        def nearest(x):
            k = min(range(8), key=lambda k: (abs(abs(x) - levels[k] * step), k % 2))
            return levels[k] * step * (-1 if x < 0 else 1)
        return [nearest(x) for x in numbers]

    def test_fake_quant_of_chosen_tensors_leaves_the_others_alone(self):
        self.succeeds("quantize", "in.safetensors", "-o", "out.safetensors", "--format", "nvfp4", "--fake-quant", "--tensor", "f32/*")
        out = read_safetensors(self.path("out.safetensors"))[0]
        untouched = {name: t for name, t in {**self.tensors, **self.rest}.items() if name != "f32/w"}
        self.assertEqual({name: out[name] for name in untouched}, untouched)
        self.assertNotEqual(out["f32/w"], self.tensors["f32/w"])
