"""decompose: what it prints and its JSON, against errors worked out here."""
import json
import random

from harness import Case, floats, read_safetensors, write_safetensors


def normal(rows, cols, sigma, seed=1, outliers=()):
    source = random.Random(seed)
    return floats([rows, cols], [source.gauss(0, sigma * (8 if c in outliers else 1)) for _ in range(rows) for c in range(cols)])


class Decompose(Case):
    def setUp(self):
        super().setUp()
        self.tensors = {"small": normal(64, 128, 0.01), "large": normal(64, 128, 1.0, 2, (3, 40))}
        write_safetensors(self.path("in.safetensors"), self.tensors)
        write_safetensors(self.path("x.safetensors"), {"x": normal(48, 128, 1.0, 3), "y": normal(48, 64, 1.0, 3)})

    def result(self, *words):
        """{tensor: its object}"""
        outcome = self.succeeds("decompose", "in.safetensors", *words, "--json")
        return {t["tensor"]: t for t in json.loads(outcome.stdout)["tensors"]}

    def lost(self, *words):
        """{tensor: squared error}, from quantize and its dequantized values (rounded to binary32)."""
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--dequantize", *words)
        stored, _ = read_safetensors(self.path("q.safetensors"))
        return {name: sum((a - b) ** 2 for a, b in zip(t.numbers(), stored[name + ".dequantized"].numbers()))
                for name, t in self.tensors.items()}

    def check_sums(self, t):
        """The parts of every decomposition add up to the error."""
        sse = t["sse"]
        near = lambda value, text: self.assertAlmostEqual(value / sse, 1, 9, f"{t['tensor']} {text}")
        terms = t["terms"]
        self.assertIs(terms["adds_up"], True)
        near(terms["error"], "error")
        near(sum(map(sum, terms["inner"])), "terms")
        causes = t["causes"]
        near(causes["remaining"][0], "remaining")
        near(sum(causes["average"]), "average")
        near(sum(causes["in_order"]), "in order")
        self.assertEqual(causes["remaining"][-1], 0)
        for place, profile in t["places"].items():
            if place == "shrinkage":
                continue
            near(sum(profile["sse"]), place)
            if place != "scale_code":
                self.assertEqual(sum(profile["count"]), t["rows"] * t["cols"], place)

    def test_json_has_every_number_and_they_add_up(self):
        for words in (["--format", "nvfp4"], ["--format", "nvfp4", "--tensor-scale", "none"],
                      ["--format", "mxfp4", "--scale", "rceil"], ["--format", "if4", "--block-2d", "--block", "8"],
                      ["--format", "mxfp8_e5m2"], ["--format", "nvfp4", "--recipe", "te"]):
            lost = self.lost(*words)
            for name, t in self.result(*words).items():
                self.check_sums(t)
                self.assertAlmostEqual(t["sse"] / lost[name], 1, 4, f"{words} {name}")

    def test_remedies_are_what_quantize_loses_with_these_words(self):
        t = self.result("--format", "nvfp4", "--tensor-scale", "none")["small"]
        words = [r["words"] for r in t["remedies"]]
        self.assertEqual(words, ["--tensor-scale amax", "--scale sse", "--tensor-scale amax --scale sse"])
        for remedy in t["remedies"]:
            options = remedy["words"].split()
            if "--tensor-scale" not in options:
                options += ["--tensor-scale", "none"]
            lost = self.lost("--format", "nvfp4", *options)["small"]
            self.assertAlmostEqual(remedy["sse"] / lost, 1, 4, remedy["words"])
        gain = 100 * (1 - t["remedies"][0]["sse"] / t["sse"])
        self.assertIn(f"with --tensor-scale amax: {gain:.1f} % less squared error", t["diagnosis"])

    def test_words_name_subnormal_scales_and_the_cure(self):
        out = self.succeeds("decompose", "in.safetensors", "--format", "nvfp4", "--tensor-scale", "none", "--tensor", "small").stdout
        lines = out.splitlines()
        self.assertRegex(lines[0], r"^small: 64x128, nvfp4 block 16, naive, tensor scale none: weight error \d+\.\d{3} %, SQNR")
        self.assertRegex(lines[1], r"^  with --tensor-scale amax --scale sse: \d+\.\d % less squared error$")
        self.assertRegex(out, r"\d % of block scales are subnormal in e4m3.*: \d+\.\d % of the squared error would vanish")
        self.assertRegex(out, r"\n  step made ideal +alone % +average % +in order %\n")
        self.assertRegex(out, r"\n  scale bias +\d")
        self.assertIn("the terms overlap, so none is a share", out)
        self.assertNotIn("layer output error", out)

    def test_several_tensors_begin_with_a_table_and_end_with_the_worst(self):
        tensors = {f"t{i}": normal(8, 32, 0.01 * 2**i, i) for i in range(7)}
        write_safetensors(self.path("seven.safetensors"), tensors)
        words = ["decompose", "seven.safetensors", "--format", "nvfp4", "--tensor-scale", "none"]
        out = self.succeeds(*words).stdout
        self.assertRegex(out.splitlines()[0], r"^tensor +shape +weight error % +SQNR dB +costs most +average % +helps most")
        self.assertIn("the 5 worst of 7 (--all for every one):", out)
        self.assertEqual(sum(f"\nt{i}: 8x32" in out for i in range(7)), 5)
        self.assertIn("\nt0: 8x32", out)
        every = self.succeeds(*words, "--all").stdout
        self.assertEqual(sum(f"\nt{i}: 8x32" in every for i in range(7)), 7)
        self.assertNotIn("worst", every)

    def test_activations_give_the_layers_output_error(self):
        x = read_safetensors(self.path("x.safetensors"))[0]["x"].numbers()
        t = self.result("--format", "nvfp4", "--tensor", "small", "--activations", "x.safetensors:x")["small"]
        layer, w = t["layer"], self.tensors["small"].numbers()
        energy = 0
        for token in range(48):
            for row in range(64):
                energy += sum(w[128 * row + c] * x[128 * token + c] for c in range(128)) ** 2
        self.assertAlmostEqual(layer["energy"] / energy, 1, 9)
        self.assertAlmostEqual(sum(map(sum, layer["inner"])) / layer["error"], 1, 9)
        self.assertAlmostEqual((layer["inner"][0][0] / layer["energy"]) ** 0.5 / t["output_error"], 1, 9)
        self.assertTrue(any("dot-product SNR" in sentence for sentence in t["diagnosis"]))
        hessian = self.result("--format", "nvfp4", "--tensor", "small", "--scale", "hessian", "--activations", "x.safetensors:x")["small"]
        self.assertLess(hessian["output_error"], t["output_error"])
        outcome = self.succeeds("decompose", "in.safetensors", "--tensor", "small", "--format", "nvfp4", "--activations", "x.safetensors:y")
        self.check_line(outcome.stderr, ["small", "128 columns do not fit activations of 64"])

    def test_transforms_and_ones_own_formats_apply(self):
        self.path("own.toml").write_text('[format.mine]\nlevels = [0, 1, 2, 4]\nscale = "ue5m3"\nblock = 8\n')
        for t in self.result("--format", "mine", "--formats", "own.toml", "--transpose", "--hadamard").values():
            self.assertEqual((t["rows"], t["cols"]), (128, 64))
            self.check_sums(t)

    def test_a_tensor_without_error_says_so(self):
        write_safetensors(self.path("zero.safetensors"), {"z": floats([2, 32], [0.0] * 64)})
        outcome = self.succeeds("decompose", "zero.safetensors", "--format", "nvfp4")
        self.assertEqual(outcome.stdout, "z: 2x32, nvfp4 block 16, naive, tensor scale amax: no error\n")

    def test_wrong_words_are_named(self):
        base = ["decompose", "in.safetensors", "--format", "nvfp4"]
        self.fails(2, ["--scale", "hessian needs the layer's inputs", "--activations"], *base, "--scale", "hessian")
        self.fails(2, ["--seed", "no effect"], *base, "--seed", "3")
        self.fails(2, ["macro", "a sweep"], "decompose", "in.safetensors", "--format", "mxfp4", "--scale", "macro")
        self.fails(2, ["'nvp4'", "'nvfp4'"], "decompose", "in.safetensors", "--format", "nvp4")
        self.fails(2, "--format", "decompose", "in.safetensors")
        self.fails(1, ["no tensor to decompose is matched by nothing"], *base, "--tensor", "nothing")
        self.fails(1, ["128 columns do not fit activations of 64", "--tensor"], *base, "--scale", "hessian", "--activations", "x.safetensors:y")
        write_safetensors(self.path("nan.safetensors"), {"w": floats([1, 32], [float("nan")] * 32)})
        self.fails(1, ["nan.safetensors: w", "nan"], "decompose", "nan.safetensors", "--format", "nvfp4")
