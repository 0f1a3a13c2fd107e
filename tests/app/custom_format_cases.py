"""Formats of one's own, from a TOML table: every verb that takes a format, against arithmetic in fractions."""
import json
import random
import re
import subprocess
import time
from fractions import Fraction

import harness
import reference
from harness import read_safetensors, write_safetensors
from sweep_cases import H5_PYTHON, TESTS, SweepCase, has_h5py, sample

MINE = """
[format.mine]            # does not nest: 2 * 1.25 is no level
levels = [0, 0.25, 0.75, 1.25, 2, 3.5, 5, 7.75]
scale = "ue4m4"
block = 8
tensor_scale = "none"

[format.coarse]
levels = [0, 1, 11]
scale = "ue8m0"
block = 32
"""
TWIN = """
[format.twin]
levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
scale = "e4m3"
"""
SWEEP = MINE + TWIN + """
[[input]]
distribution = "student_t"
rows = 32
cols = 200

[activations]
tokens = 24

[[quantize]]
formats = ["mine", "coarse", "twin", "nvfp4"]
methods = ["naive", "sse", "exhaustive", "hessian"]
"""
LEVELS = {"mine": [Fraction(n, 4) for n in (0, 1, 3, 5, 8, 14, 20, 31)], "coarse": [Fraction(n) for n in (0, 1, 11)]}


def ue4m4(code):
    """Codes 0 .. 254."""
    field, mantissa = code >> 4, code & 15
    return Fraction(16 + mantissa, 16) * Fraction(2) ** (field - 7) if field else Fraction(mantissa, 1024)


def naive_code(form, amax):
    if amax == 0:
        return 0
    if form == "coarse":
        return min(max(reference.exponent(amax) - 3 + 127, 0), 254)
    return reference.nearest([ue4m4(code) for code in range(255)], amax / LEVELS[form][-1])


def value_of(form, code):
    return -LEVELS[form][code & 7] if code & 8 else LEVELS[form][code]


class CustomCase(SweepCase):
    """A TOML file of formats and a tensor."""

    def setUp(self):
        super().setUp()
        self.write(MINE + TWIN, "f.toml")
        self.numbers = sample([6, 70], 21)
        write_safetensors(self.path("w.safetensors"), {"w": self.numbers})

    def quantize(self, *words, out="q.safetensors"):
        self.succeeds("quantize", "w.safetensors", "-o", out, *words)
        return read_safetensors(self.path(out))

    def record(self):
        return json.loads(read_safetensors(self.path("q.safetensors"))[1]["fp4scope"])

    def rewrite(self, change, name="broken.safetensors"):
        """The quantized file with another record."""
        tensors, metadata = read_safetensors(self.path("q.safetensors"))
        record = json.loads(metadata["fp4scope"])
        change(record)
        write_safetensors(self.path(name), tensors, {"fp4scope": json.dumps(record)})


class Quantize(CustomCase):
    """quantize and dequantize."""

    def test_codes_scales_and_values_are_the_definitions(self):
        for form, block, cols, scale in (("mine", 8, 72, ue4m4), ("coarse", 32, 96, reference.ue8m0)):
            with self.subTest(form):
                out, _ = self.quantize("--formats", "f.toml", "--format", form)
                self.succeeds("dequantize", "q.safetensors", "-o", "back.safetensors")
                back = read_safetensors(self.path("back.safetensors"))[0]["w"].numbers()
                rows = [self.numbers.numbers()[r * 70:(r + 1) * 70] + [0.0] * (cols - 70) for r in range(6)]
                scales = out["w.scales"].numbers()
                codes = reference.unpack(out["w.codes"].data, cols)
                for r, row in enumerate(rows):
                    for b in range(cols // block):
                        part = row[b * block:(b + 1) * block]
                        code = naive_code(form, max(abs(Fraction(x)) for x in part))
                        self.assertEqual(scales[r * (cols // block) + b], code)
                        for c, x in enumerate(part, b * block):
                            index = reference.nearest(LEVELS[form], abs(Fraction(x)) / scale(code)) if code else 0
                            self.assertEqual(codes[r][c], index | (8 if reference.is_negative(x) else 0))
                            if c < 70:
                                self.assertEqual(Fraction(back[r * 70 + c]), value_of(form, codes[r][c]) * scale(code))

    def test_sse_is_the_least_squared_error_over_all_codes(self):
        out, _ = self.quantize("--formats", "f.toml", "--format", "mine", "--scale", "sse")
        scales, numbers = out["w.scales"].numbers(), self.numbers.numbers()
        for r in range(6):
            for b in range(8):
                part = [abs(Fraction(x)) for x in numbers[r * 70 + b * 8:r * 70 + b * 8 + 8]]
                def error(code):
                    step = ue4m4(code)
                    return sum((x - LEVELS["mine"][reference.nearest(LEVELS["mine"], x / step)] * step) ** 2 for x in part)
                losses = [error(code) for code in range(1, 255)]
                self.assertEqual(scales[r * 9 + b], 1 + losses.index(min(losses)))

    def test_e2m1_s_levels_with_e4m3_scales_are_nvfp4_byte_for_byte(self):
        write_safetensors(self.path("x.safetensors"), {"x": sample([20, 70], 22)})
        for words in ([], ["--scale", "sse"], ["--scale", "exhaustive"], ["--scale", "hessian", "--activations", "x.safetensors:x"],
                      ["--tensor-scale", "none"], ["--scale-max", "256"], ["--block", "32"], ["--rounding", "stochastic", "--seed", "5"],
                      ["--rounding", "stochastic_unbiased"], ["--block-2d"], ["--hadamard"], ["--transpose"], ["--dequantize"]):
            with self.subTest(words):
                twin, _ = self.quantize("--formats", "f.toml", "--format", "twin", *words)
                own, _ = self.quantize("--format", "nvfp4", *words, out="n.safetensors")
                self.assertEqual(twin, own)
                for name in ("q", "n"):
                    self.succeeds("dequantize", f"{name}.safetensors", "-o", f"{name}-back.safetensors")
                self.assertEqual(*(read_safetensors(self.path(f"{name}-back.safetensors"))[0] for name in ("q", "n")))

    def test_the_record_holds_the_definition(self):
        self.quantize("--formats", "f.toml", "--format", "mine", "--block", "16")
        record = self.record()
        self.assertEqual((record["format"], record["block"]), ("mine", 16))
        self.assertEqual(record["definition"], {"levels": [0, 0.25, 0.75, 1.25, 2, 3.5, 5, 7.75], "scale": "ue4m4", "block": 8,
                                                "tensor_scale": "none", "scale_max": 480})
        self.quantize("--formats", "f.toml", "--format", "nvfp4")
        self.assertNotIn("definition", self.record())

    def test_fake_quant_gives_the_dequantized_values(self):
        self.quantize("--formats", "f.toml", "--format", "mine", "--scale", "sse")
        self.succeeds("dequantize", "q.safetensors", "-o", "back.safetensors")
        fake, metadata = self.quantize("--formats", "f.toml", "--format", "mine", "--scale", "sse", "--fake-quant", out="fake.safetensors")
        self.assertEqual(fake, read_safetensors(self.path("back.safetensors"))[0])
        self.assertIn("levels", json.loads(metadata["fp4scope_fake_quant"])["definition"])

    def test_a_broken_record_is_an_error_of_the_input(self):
        self.quantize("--formats", "f.toml", "--format", "mine")
        changes = {
            "negative": lambda r: r["definition"].update(levels=[0, -1]), "start at 0": lambda r: r["definition"].update(levels=[1, 2]),
            "no readable 'levels'": lambda r: r["definition"].update(levels="many"),
            "unknown scale 'ue4m5'": lambda r: r["definition"].update(scale="ue4m5"),
            "a block of 7": lambda r: r["definition"].update(block=7), "no readable 'wings'": lambda r: r["definition"].update(wings=2),
            "no readable 'definition'": lambda r: r.update(definition=[1]), "built-in": lambda r: r.update(format="nvfp4"),
            "unknown format 'mine'": lambda r: r.pop("definition"), "it needs levels": lambda r: r["definition"].pop("levels"),
            "'levels'": lambda r: r["definition"].update(levels=[0, None]), "scale_max": lambda r: r["definition"].update(scale_max=0)}
        for needle, change in changes.items():
            with self.subTest(needle):
                self.rewrite(change)
                self.fails(1, ["broken.safetensors: its record", needle], "dequantize", "broken.safetensors", "-o", "back.safetensors")
        self.assertFalse(self.path("back.safetensors").exists())

    def test_any_order_of_threads_gives_the_same_bytes(self):
        for threads in (1, 3):
            self.quantize("--formats", "f.toml", "--format", "mine", "--scale", "sse", "--threads", threads, out=f"{threads}.safetensors")
        self.assertEqual(self.path("1.safetensors").read_bytes(), self.path("3.safetensors").read_bytes())


class Refusals(CustomCase):
    """One line, what and how to mend it."""

    def refuses(self, needles, *words):
        self.fails(2, needles, "quantize", "w.safetensors", "-o", "q.safetensors", *words)
        self.leaves("f.toml", "w.safetensors")

    def test_an_unknown_format_names_the_nearest_of_the_file_too(self):
        self.refuses(["unknown format 'mien'", "did you mean 'mine'", "nvfp4", "coarse"], "--formats", "f.toml", "--format", "mien")
        self.refuses(["unknown format 'mine'"], "--format", "mine")

    def test_a_method_that_a_format_of_one_s_own_lacks(self):
        self.refuses(["'4over6' is not a method of mine", "naive, sse, exhaustive, hessian"],
                     "--formats", "f.toml", "--format", "mine", "--scale", "4over6")

    def test_recipes_have_no_formats_of_one_s_own(self):
        self.refuses(["'te' has no mine", "it has: nvfp4"], "--formats", "f.toml", "--format", "mine", "--recipe", "te")

    def test_a_file_that_is_missing_or_holds_none(self):
        self.fails(1, ["none.toml"], "quantize", "w.safetensors", "-o", "q.safetensors", "--formats", "none.toml", "--format", "mine")
        self.write("seed = 3\n", "f.toml")
        self.refuses(["f.toml: holds no format", "[format.NAME]"], "--formats", "f.toml", "--format", "mine")
        self.write("[fromat.mine]\n", "f.toml")
        self.refuses(["f.toml:1: unknown key 'fromat'", "did you mean 'format'"], "--formats", "f.toml", "--format", "mine")

    def test_a_wrong_definition_names_its_line(self):
        self.write("[format.f]\nscale = \"e4m3\"\nlevels = [0, 2, 1]\n", "f.toml")
        self.refuses(["f.toml:3: [format.f]: level 1 follows 2", "ascending"], "--formats", "f.toml", "--format", "f")
        self.write("[format.f]\nscale = \"e4m33\"\nlevels = [0, 1]\n", "f.toml")
        for verb in (["formats", "--formats", "f.toml"], ["quantize", "w.safetensors", "-o", "q", "--formats", "f.toml", "--format", "f"]):
            self.fails(2, ["f.toml:2: [format.f]: unknown scale 'e4m33'", "did you mean 'e4m3'"], *verb)


class Formats(CustomCase):
    """The verb formats."""

    def test_lists_them_after_the_built_in_ones(self):
        text = self.succeeds("formats", "--formats", "f.toml").stdout
        self.assertTrue(text.startswith(self.succeeds("formats").stdout.split("block format")[0]))
        self.assertRegex(text, r"(?m)^twin +levels +e4m3 +16 +amax / \(6 \* 448\) +naive, sse, exhaustive, hessian, prevent_zero$")
        self.assertRegex(text, r"(?m)^mine +levels +ue4m4 +8 +none ")
        listed = json.loads(self.succeeds("formats", "--formats", "f.toml", "--json").stdout)["block_formats"]
        self.assertEqual([f["name"] for f in listed[-3:]], ["coarse", "mine", "twin"])
        self.assertEqual(listed[-3]["levels"], [0, 1, 11])
        self.assertNotIn("levels", listed[0])

    def test_explains_one_with_its_codes(self):
        text = self.succeeds("formats", "coarse", "--formats", "f.toml").stdout
        self.assertRegex(text, r"^coarse: levels of its own, a ue8m0 scale for every 32, tensor scale none\n")
        self.assertIn("2^(floor(log2 amax) - 3), as OCP MX v1.0", text)
        self.assertEqual(re.findall(r"(?m)^ *0x([0-9a-f]) +[01]{4} +(\S+)$", text),
                         [("0", "0"), ("1", "1"), ("2", "11"), ("8", "-0"), ("9", "-1"), ("a", "-11")])
        explained = json.loads(self.succeeds("formats", "mine", "--formats", "f.toml", "--json").stdout)
        self.assertEqual([(c["code"], c["value"]) for c in explained["codes"]], [(code, float(value_of("mine", code))) for code in range(16)])

    def test_the_built_in_ones_stay_as_they_are(self):
        for name in ("nvfp4", "e2m1", "if4"):
            self.assertEqual(self.succeeds("formats", name, "--formats", "f.toml").stdout, self.succeeds("formats", name).stdout)
        self.fails(2, ["unknown format 'mien'", "did you mean 'mine'"], "formats", "mien", "--formats", "f.toml")

    def test_a_sweep_s_file_serves_too(self):
        self.write(SWEEP, "s.toml")
        self.assertIn("mine", self.succeeds("formats", "mine", "--formats", "s.toml").stdout)


class Sweep(CustomCase):
    """[format.NAME] beside [[quantize]]."""

    def test_runs_them_beside_the_built_in_ones(self):
        self.write(SWEEP)
        rows = self.rows()
        self.assertEqual([(r["format"], r["block"], r["method"]) for r in rows],
                         [(form, block, method) for form, block in (("mine", 8), ("coarse", 32), ("twin", 16), ("nvfp4", 16))
                          for method in ("naive", "sse", "exhaustive", "hessian")])
        by = {(r["format"], r["method"]): r for r in rows}
        for form in ("mine", "coarse", "twin"):
            self.assertEqual(by[form, "naive"]["moved_share"], 0)
            self.assertLess(by[form, "sse"]["relative_mse"], by[form, "naive"]["relative_mse"])
            self.assertLess(by[form, "hessian"]["output_error"], by[form, "sse"]["output_error"])
            alike = [{key: value for key, value in by[form, method].items() if key not in ("run", "method")} for method in ("sse", "exhaustive")]
            self.assertEqual(*alike)
        for method in ("naive", "sse", "hessian"):
            alike = [{key: value for key, value in by[form, method].items() if key not in ("run", "format")} for form in ("twin", "nvfp4")]
            self.assertEqual(*alike)

    def test_the_results_hold_the_definitions_and_run_again(self):
        if not has_h5py():
            self.skipTest("no h5py")
        self.write(SWEEP)
        self.rows()
        script = "import h5py; print(h5py.File('out.h5').attrs['configuration'])"
        read = subprocess.run([H5_PYTHON, "-c", script], cwd=self.folder, capture_output=True, text=True, check=True)
        self.assertIn("[format.mine]", read.stdout)
        self.assertIn("7.75", read.stdout)
        schema = [H5_PYTHON, str(TESTS / "analysis" / "schema_test.py"), "out.h5"]
        subprocess.run(schema, cwd=self.folder, capture_output=True, text=True, check=True)
        first = self.h5()
        self.write(read.stdout)
        self.rows()
        self.assertEqual(self.h5(), first)

    def test_a_definition_is_part_of_the_work_when_resuming(self):
        self.write(SWEEP.replace("rows = 32", "rows = 512"))
        child = subprocess.Popen(harness.command("sweep", "c.toml", "-o", "out.h5"), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        partial = self.path("out.h5.partial")
        while child.poll() is None and not list(partial.glob("*.record")):
            time.sleep(0.001)
        child.kill()
        child.wait()
        if not partial.exists():
            self.skipTest("it was faster than the kill")
        text = self.path("c.toml").read_text()
        self.write(text.replace("7.75", "7.5"))
        self.fails(1, "belongs to another configuration", "sweep", "c.toml", "-o", "out.h5", "--resume")
        self.write(text)
        self.rows("--resume")
        resumed = self.h5()
        self.rows()
        self.assertEqual(self.h5(), resumed)

    def test_mistakes_name_their_line(self):
        self.write("[format.mine]\nlevels = [0, 1]\nscale = \"e4m3\"\n[[input]]\ndistribution = \"normal\"\n[[quantize]]\nformats = [\"mien\"]\n")
        self.fails(2, ["c.toml:7", "unknown format 'mien'", "did you mean 'mine'"], "sweep", "c.toml")
        self.write("[format.mine]\nlevels = [0, 1]\nscael = \"e4m3\"\n[[input]]\ndistribution = \"normal\"\n[[quantize]]\nformats = [\"mine\"]\n")
        self.fails(2, ["c.toml:3: [format.mine]: unknown key 'scael'", "did you mean 'scale'"], "sweep", "c.toml")

    def test_the_example_in_the_default_is_right(self):
        text = self.succeeds("sweep", "--show-default").stdout
        own = re.sub(r"(?m)^# (\[format\.mine\])", r"\1", text)
        own = re.sub(r"(?m)^#   ((levels|scale|block|tensor_scale|scale_max) = )", r"\1", own)
        self.assertNotEqual(own, text)
        self.write(re.sub(r"(?m)^(rows|cols|tokens) = \d+", r"\1 = 32", own.replace('formats = ["nvint4"]', 'formats = ["mine"]')))
        self.assertIn("mine", {row["format"] for row in self.rows()})
