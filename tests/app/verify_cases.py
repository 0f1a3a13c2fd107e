"""quantize --certificate and verify: what is written is accepted, is true in fractions, and every byte that is moved is found."""
import json
import math
import random
import struct
from fractions import Fraction

import reference
from harness import Case, Tensor, floats, read_safetensors, write_safetensors

FORMATS = ["nvfp4", "mxfp4", "nvint4", "if4", "mxint4"]


def rows_of(rows, cols, seed):
    """Normal data with a zero block, a large value and ties: bf16 numbers."""
    rng = random.Random(seed)
    out = [[float(reference.to_dtype(Fraction(rng.gauss(0, 1)), "BF16")) for _ in range(cols)] for _ in range(rows)]
    out[0][:32] = [0.0, -0.0] * 16
    out[1][3] = 64.0
    out[1][32:64] = [12.0, -6.0, 3.0, 0.0] * 8
    return out


def flat(rows):
    return [x for row in rows for x in row]


class Verified(Case):
    def setUp(self):
        super().setUp()
        self.rows = rows_of(6, 96, 1)
        self.tensors = {"w": floats([6, 96], flat(self.rows))}
        write_safetensors(self.path("in.safetensors"), self.tensors)

    def quantize(self, *words, form="nvfp4", method="sse"):
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", form, "--scale", method, *words)
        return read_safetensors(self.path("q.safetensors"))

    def verify(self, *words, file="q.safetensors"):
        return self.succeeds("verify", file, "--input", "in.safetensors", *words).stdout

    def refused(self, needles, tensors, metadata, *words):
        write_safetensors(self.path("bad.safetensors"), tensors, metadata)
        return self.fails(1, needles, "verify", "bad.safetensors", "--input", "in.safetensors", *words)

    def changed(self, tensors, name, at, value):
        """The same tensors with one number of one of them replaced."""
        t = tensors[name]
        letter = {"U8": "B", "F64": "d", "F32": "f"}[t.dtype]
        size = struct.calcsize(letter)
        data = t.data[:at * size] + struct.pack("<" + letter, value) + t.data[(at + 1) * size:]
        return {**tensors, name: Tensor(t.dtype, t.shape, data)}


class Certificates(Verified):
    def test_every_format_is_verified(self):
        for form in FORMATS:
            for method in ("sse", "exhaustive"):
                with self.subTest(form=form, method=method):
                    self.quantize("--certificate", form=form, method=method)
                    self.assertRegex(self.verify(), r"^w: \d+ blocks verified, mean interval [\d.]+ codes, least gap [\d.e-]+, \d+ ties\n$")

    def test_tiles_padding_transforms_and_blocks_are_verified(self):
        for words in (["--block-2d"], ["--block", "28"], ["--transpose"], ["--hadamard"], ["--transpose", "--hadamard", "--hadamard-size", "32"],
                      ["--hadamard", "--hadamard-seed", "3"], ["--tensor-scale", "none"], ["--tensor-scale", "0.01"], ["--scale-max", "256"]):
            with self.subTest(words=words):
                self.quantize("--certificate", *words)
                self.assertIn("blocks verified, mean interval", self.verify())
        self.quantize("--certificate", "--block-2d", form="if4")
        self.assertIn("w: 6 blocks", self.verify())

    def test_a_format_of_ones_own_is_verified(self):
        self.path("own.toml").write_text('[format.own]\nlevels = [0, 1, 1.5, 4, 5, 7]\nscale = "ue5m3"\nblock = 16\n', encoding="utf-8")
        self.quantize("--certificate", "--formats", "own.toml", form="own")
        self.assertIn("mean interval", self.verify())

    def test_blocks_of_nan_and_of_zeros_have_nothing_to_choose(self):
        values = flat(self.rows)
        values[200], values[500] = math.nan, -math.inf
        write_safetensors(self.path("in.safetensors"), {"w": floats([6, 96], values)})
        out, metadata = self.quantize("--certificate", "--nonfinite", "propagate")
        j = json.loads(self.verify("--json"))
        self.assertEqual(j["tensors"][0]["nothing_to_choose"], 4)
        self.assertEqual(j["tensors"][0]["blocks"], 36)
        block = 200 // 16
        self.assertTrue(math.isnan(out["w.certificate.loss"].numbers()[block]))
        self.refused(["w: row 2, block 0", "0x7f"], self.changed(out, "w.scales", block, 1), metadata)
        self.refused("row 0, block 1", self.changed(out, "w.scales", 1, 1), metadata)

    def test_loss_and_gap_are_those_of_fractions_over_all_codes(self):
        for form in ("nvfp4", "nvint4", "mxfp4"):
            out, _ = self.quantize("--certificate", form=form)
            block, cols = reference.BLOCK[form], out["w.scales"].shape[1]
            scaling = Fraction(out["w.tensor_scale"].numbers()[0])
            levels = reference.LEVELS[reference.ELEMENT[form]]
            codes = range(1, 127) if form != "mxfp4" else range(100, 150)
            for at in (1, 2, cols, cols + 1, cols + 2, 3 * cols):
                x = [abs(Fraction(v)) for v in flat(self.rows)[at * block:(at + 1) * block]]
                if not any(x):
                    continue
                def loss(code):
                    step = reference.SCALE[form](code) * scaling
                    return sum((v - levels[reference.nearest(levels, v / step)] * step) ** 2 for v in x)
                losses = {code: loss(code) for code in codes}
                best = min(codes, key=lambda code: (losses[code], code))
                self.assertEqual(out["w.scales"].data[at], best)
                self.assertLessEqual(out["w.certificate.lo"].data[at], best)
                self.assertGreaterEqual(out["w.certificate.hi"].data[at], best)
                self.assertEqual(out["w.certificate.loss"].numbers()[at], float(losses[best]))
                gap = Fraction(out["w.certificate.gap"].numbers()[at])
                exact = min(losses[code] for code in codes if code != best) - losses[best]
                self.assertLessEqual(gap, exact)
                self.assertGreaterEqual(gap * (1 + Fraction(1, 2**51)), exact)

    def test_the_same_bytes_on_any_number_of_threads(self):
        found = set()
        for threads in ("1", "2", "5"):
            self.quantize("--certificate", "--threads", threads)
            found.add(self.path("q.safetensors").read_bytes())
        self.assertEqual(len(found), 1)

    def test_codes_do_not_depend_on_a_certificate_and_dequantize_leaves_it_out(self):
        plain, _ = self.quantize()
        out, metadata = self.quantize("--certificate")
        self.assertEqual({name: t for name, t in out.items() if "certificate" not in name}, plain)
        self.assertEqual({name: (t.dtype, t.shape) for name, t in out.items() if "certificate" in name},
                         {"w.certificate.lo": ("U8", [6, 6]), "w.certificate.hi": ("U8", [6, 6]), "w.certificate.loss": ("F64", [6, 6]), "w.certificate.gap": ("F64", [6, 6])})
        self.assertEqual(json.loads(metadata["fp4scope"])["certificate"]["loss"], "squared error")
        self.succeeds("dequantize", "q.safetensors", "-o", "back.safetensors")
        self.assertEqual(set(read_safetensors(self.path("back.safetensors"))[0]), {"w"})

    def test_json_is_json(self):
        self.quantize("--certificate")
        j = json.loads(self.verify("--json"))
        self.assertEqual(j["file"], "q.safetensors")
        row = j["tensors"][0]
        self.assertEqual((row["tensor"], row["blocks"], row["nothing_to_choose"], row["certified"]), ("w", 36, 2, True))
        self.assertGreater(row["ties"], 0)
        self.assertGreater(row["least_gap"], 0)


class Tampering(Verified):
    def test_a_searched_tensor_scale_is_taken_as_it_is(self):
        for word in ("search", "headroom", "soar"):
            out, metadata = self.quantize("--certificate", "--tensor-scale", word)
            self.verify()
            self.refused("tensor scale", self.changed(out, "w.tensor_scale", 0, 0.0), metadata)

    def test_without_a_certificate_elements_and_tensor_scale_are_checked(self):
        for form, method in (("nvfp4", "naive"), ("nvfp4", "4over6"), ("mxfp4", "ceil"), ("mxfp8_e4m3", "floor"), ("mxint8", "floor"), ("mxfp6_e2m3", "rceil")):
            with self.subTest(form=form, method=method):
                out, metadata = self.quantize(form=form, method=method)
                self.assertIn("optimality not checked", self.verify())
                width = out["w.codes"].shape[1]
                byte = out["w.codes"].data[2 * width + 5]
                self.refused(["bad.safetensors: w: row 2, block 0", "element"], self.changed(out, "w.codes", 2 * width + 5, byte ^ 1), metadata)
                self.refused("tensor scale", self.changed(out, "w.tensor_scale", 0, 0.75), metadata)
        out, metadata = self.quantize(method="naive")
        self.refused("largest magnitude is 64", self.changed(out, "w.amax", 0, 63.0), metadata)

    def test_every_part_that_is_moved_is_found(self):
        for form in ("nvfp4", "mxfp4", "nvint4", "if4"):
            out, metadata = self.quantize("--certificate", form=form)
            blocks = out["w.scales"].shape[1]
            where = f"w: row 3, block {blocks - 1}:"
            at = 4 * blocks - 1
            scale, lo, hi = (out[name].data[at] for name in ("w.scales", "w.certificate.lo", "w.certificate.hi"))
            plain = scale & 127 if form == "if4" else scale
            loss, gap = (out[name].numbers()[at] for name in ("w.certificate.loss", "w.certificate.gap"))
            changes = [("w.scales", scale + 1), ("w.scales", scale - 1), ("w.certificate.lo", plain + 1), ("w.certificate.hi", plain - 1), ("w.certificate.hi", 255),
                       ("w.certificate.loss", math.nextafter(loss, 9)), ("w.certificate.loss", math.nextafter(loss, 0)), ("w.certificate.gap", math.nextafter(gap, 9)),
                       ("w.certificate.gap", 2 * gap + 1e-9), ("w.certificate.gap", -1.0), ("w.certificate.gap", math.nan)]
            for name, value in changes:
                with self.subTest(form=form, name=name, value=value):
                    self.refused(where, self.changed(out, name, at, value), metadata)
            self.refused("tensor scale", self.changed(out, "w.tensor_scale", 0, math.nextafter(out["w.tensor_scale"].numbers()[0], 0) * 0.999), metadata)

    def test_a_narrowed_interval_is_found_where_its_bound_fails(self):
        """Ends are moved inward one by one: while verify agrees, the fractions do, and it stops agreeing before the optimum."""
        out, metadata = self.quantize("--certificate")
        for at in range(6, 36, 5):
            scale, lo = out["w.scales"].data[at], out["w.certificate.lo"].data[at]
            for end in range(lo + 1, scale + 2):
                write_safetensors(self.path("bad.safetensors"), self.changed(out, "w.certificate.lo", at, end), metadata)
                if self.run_here("verify", "bad.safetensors", "--input", "in.safetensors").returncode == 1:
                    break
            else:
                self.fail(f"block {at}: any interval was accepted")

    def test_another_scale_with_elements_to_match_names_both_losses(self):
        out, metadata = self.quantize("--certificate")
        at, cols = 20, 96
        row, first = at // 6, at % 6 * 16
        scale = out["w.scales"].data[at] - 1
        step = reference.e4m3(scale) * Fraction(out["w.tensor_scale"].numbers()[0])
        codes = [reference.element_code("e2m1", x, step) for x in self.rows[row][first:first + 16]]
        data = bytearray(out["w.codes"].data)
        for i in range(8):
            data[(row * cols + first) // 2 + i] = codes[2 * i] | codes[2 * i + 1] << 4
        bad = {**self.changed(out, "w.scales", at, scale), "w.codes": Tensor("U8", out["w.codes"].shape, bytes(data))}
        self.refused([f"w: row {row}, block {at % 6}: scale 0x{scale:02x} loses", f"0x{scale + 1:02x} loses"], bad, metadata)

    def test_rows_of_a_square_block_agree(self):
        out, metadata = self.quantize("--certificate", "--block-2d")
        self.refused("differ in their scale", self.changed(out, "w.scales", 9, out["w.scales"].data[9] ^ 1), metadata)
        self.refused("differ in their certificate", self.changed(out, "w.certificate.gap", 9, 0.0), metadata)

    def test_another_input_is_found(self):
        self.quantize("--certificate")
        self.tensors["w"] = floats([6, 96], flat(self.rows[:5]) + [0.3] * 96)
        write_safetensors(self.path("in.safetensors"), self.tensors)
        self.fails(1, "row 5, block 0", "verify", "q.safetensors", "--input", "in.safetensors")
        write_safetensors(self.path("in.safetensors"), {"w": floats([3, 192], flat(self.rows))})
        self.fails(1, "[3, 192]", "verify", "q.safetensors", "--input", "in.safetensors")
        write_safetensors(self.path("in.safetensors"), {"v": self.tensors["w"]})
        self.fails(1, "no tensor 'w'", "verify", "q.safetensors", "--input", "in.safetensors")

    def test_a_certificate_that_is_incomplete_is_refused(self):
        out, metadata = self.quantize("--certificate")
        for part in ("hi", "loss", "gap"):
            self.refused(f"w.certificate.{part}", {name: t for name, t in out.items() if not name.endswith("." + part)}, metadata)
        self.refused("w.certificate.lo", {**out, "w.certificate.lo": Tensor("U8", [36], out["w.certificate.lo"].data)}, metadata)


class Hessian(Verified):
    def setUp(self):
        super().setUp()
        rng = random.Random(7)
        self.x = []
        for _ in range(40):
            common = rng.gauss(0, 1)
            self.x.append([struct.unpack("<f", struct.pack("<f", common * 0.5 + rng.gauss(0, 1)))[0] for _ in range(96)])
        write_safetensors(self.path("x.safetensors"), {"x": floats([40, 96], flat(self.x)), "few": floats([3, 96], flat(self.x[:3]))})

    def hessian(self, *words, source="x.safetensors:x", form="nvfp4"):
        return self.quantize("--certificate", "--activations", source, *words, form=form, method="hessian")

    def test_certificates_are_verified(self):
        for form in ("nvfp4", "mxfp4", "nvint4"):
            for words in ([], ["--hadamard"], ["--block", "28"]):
                with self.subTest(form=form, words=words):
                    out, metadata = self.hessian(*words, form=form)
                    self.assertIn("mean interval", self.verify())
        self.assertEqual(json.loads(metadata["fp4scope"])["certificate"]["loss"], "r^T H r")

    def test_bounds_shorten_the_interval_and_a_singular_hessian_has_none(self):
        self.hessian()
        self.assertLess(json.loads(self.verify("--json"))["tensors"][0]["mean_interval"], 60)
        self.quantize("--certificate", "--activations", "x.safetensors:few", method="hessian")
        out, metadata = read_safetensors(self.path("q.safetensors"))
        self.assertGreater(json.loads(metadata["fp4scope"])["hessian_shifted"], 0)
        self.assertGreater(max(out["w.certificate.shift"].numbers()), 0)
        self.assertIn("mean interval 12", self.verify())

    def test_loss_is_that_of_fractions(self):
        out, _ = self.hessian()
        scaling = Fraction(out["w.tensor_scale"].numbers()[0])
        shift = out["w.certificate.shift"].numbers()
        for at in (7, 20):
            row, first = at // 6, at % 6 * 16
            h = [[0.0] * 16 for _ in range(16)]
            for token in self.x:
                for i in range(16):
                    for j in range(16):
                        h[i][j] += token[first + i] * token[first + j]
            for i in range(16):
                h[i][i] += shift[at % 6]
            step = reference.e4m3(out["w.scales"].data[at]) * scaling
            r = [Fraction(x) - reference.element("e2m1", reference.element_code("e2m1", x, step)) * step for x in self.rows[row][first:first + 16]]
            loss = sum(Fraction(h[i][j]) * r[i] * r[j] for i in range(16) for j in range(16))
            self.assertEqual(out["w.certificate.loss"].numbers()[at], float(loss))

    def test_inputs_without_effect_are_refused(self):
        self.quantize(method="sse")
        for option in ("--activations", "--hessian"):
            self.fails(2, [option, "no effect on scales of sse"], "verify", "q.safetensors", "--input", "in.safetensors",
                       option, "x.safetensors:x")

    def test_other_activations_are_found_by_their_hash(self):
        out, metadata = self.hessian()
        self.assertIn("verified", self.verify("--activations", "x.safetensors:x"))
        self.fails(1, ["another Hessian", "hash"], "verify", "q.safetensors", "--input", "in.safetensors", "--activations", "x.safetensors:few")
        self.refused("another Hessian", self.changed(out, "w.certificate.shift", 2, 1e-3), metadata)

    def test_a_minorant_that_is_none_is_found(self):
        out, metadata = self.hessian()
        d = out["w.certificate.minorant"].numbers()
        self.refused("column block 1", self.changed(out, "w.certificate.minorant", 17, 100 * d[17]), metadata)
        self.refused("column block 1", self.changed(out, "w.certificate.minorant", 17, -1e-9), metadata)

    def test_every_part_that_is_moved_is_found(self):
        out, metadata = self.hessian()
        scale, loss, gap = out["w.scales"].data[20], out["w.certificate.loss"].numbers()[20], out["w.certificate.gap"].numbers()[20]
        for name, value in (("w.scales", scale + 1), ("w.certificate.lo", scale + 1), ("w.certificate.hi", scale - 1), ("w.certificate.loss", math.nextafter(loss, 0)),
                            ("w.certificate.gap", math.nextafter(gap, 1e9))):
            with self.subTest(name=name):
                self.refused("w: row 3, block 2:", self.changed(out, name, 20, value), metadata)

    def test_a_hessian_of_a_file_is_verified(self):
        h = [[0.0] * 96 for _ in range(96)]
        for token in self.x:
            for i in range(96):
                for j in range(96):
                    h[i][j] += token[i] * token[j]
        blocks = [h[b + i][b + j] for b in range(0, 96, 16) for i in range(16) for j in range(16)]
        write_safetensors(self.path("h.safetensors"), {"h": floats([96, 96], flat(h), "F64"), "b": floats([6, 16, 16], blocks, "F64"), "d": floats([96], [h[i][i] for i in range(96)], "F64")})
        for name in "hbd":
            self.quantize("--certificate", "--hessian", f"h.safetensors:{name}", method="hessian")
            self.assertIn("mean interval", self.verify())
        self.fails(1, "another Hessian", "verify", "q.safetensors", "--input", "in.safetensors", "--hessian", "h.safetensors:h")


class Refusals(Verified):
    def test_certificate_is_refused_where_nothing_is_claimed(self):
        base = ["quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4", "--certificate"]
        self.fails(2, ["--certificate", "naive"], *base)
        self.fails(2, ["--certificate", "4over6"], *base, "--scale", "4over6")
        self.fails(2, ["--certificate", "rne"], *base, "--scale", "sse", "--rounding", "stochastic")
        self.fails(2, ["--certificate", "--fake-quant"], *base, "--scale", "sse", "--fake-quant")
        self.fails(2, ["--certificate", "recipe te"], *base, "--recipe", "te")
        self.leaves("in.safetensors")

    def test_verify_refuses_what_it_knows_nothing_of(self):
        for words, needle in ((["--recipe", "te"], "recipe te"), (["--rounding", "stochastic"], "stochastic"), (["--scale", "ms_eden"], "ms_eden")):
            self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4", *words)
            self.fails(1, needle, "verify", "q.safetensors", "--input", "in.safetensors")
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4", "--fake-quant")
        self.fails(1, "no output of fp4scope quantize", "verify", "q.safetensors", "--input", "in.safetensors")
        self.fails(1, "nothing.safetensors", "verify", "nothing.safetensors", "--input", "in.safetensors")
        self.fails(2, "--input", "verify", "q.safetensors")

    def test_a_damaged_record_is_refused(self):
        out, metadata = self.quantize("--certificate")
        record = json.loads(metadata["fp4scope"])
        for changes in ({"block": 15}, {"block": 10**6}, {"block": "x"}, {"format": "nvfp5"}, {"scale": "best"}, {"scale": "macro", "format": "mxfp4"}, {"hadamard": 3}, {"scale_max": 0}, {"tensors": {"w": 1}},
                        {"tensors": {"w": {"shape": [6, "x"]}}}, {"recipe": None}, {"definition": 3, "format": "own"}):
            with self.subTest(changes=changes):
                self.refused("", out, {"fp4scope": json.dumps({**record, **changes})})
