"""linear: the three products of a layer, against products of what quantize writes."""
import json
import random

from harness import Case, floats, read_safetensors, write_safetensors

TOKENS, IN, OUT = 48, 32, 64


def rows_of(values, cols):
    return [values[i:i + cols] for i in range(0, len(values), cols)]


def transposed(rows):
    return [list(column) for column in zip(*rows)]


def product(a, b):
    return [sum(x * y for x, y in zip(row, other)) for row in a for other in b]


class Linear(Case):
    def setUp(self):
        super().setUp()
        source = random.Random(8)
        shapes = {"x": (TOKENS, IN), "w": (OUT, IN), "g": (TOKENS, OUT)}
        self.tensors = {name: floats(shape, [source.gauss(0, 1) for _ in range(shape[0] * shape[1])]) for name, shape in shapes.items()}
        self.given = {name: rows_of(t.numbers(), t.shape[1]) for name, t in self.tensors.items()}
        write_safetensors(self.path("in.safetensors"), self.tensors)
        self.words = ["linear", "--input", "in.safetensors:x", "--weight", "in.safetensors:w"]
        self.grad = ["--grad", "in.safetensors:g"]

    def found(self, *words):
        products = json.loads(self.succeeds(*self.words, *self.grad, *words, "--json").stdout)["products"]
        self.assertEqual([p["product"] for p in products], ["forward", "dgrad", "wgrad"])
        return {p["product"]: p for p in products}

    def stored(self, name, *words):
        """What quantize makes of a tensor, in the basis of its blocks."""
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4", "--dequantize", "--tensor", name, *words)
        t = read_safetensors(self.path("q.safetensors"))[0][name + ".dequantized"]
        return rows_of(t.numbers(), t.shape[1])

    def check(self, found, a, b, exact):
        """error, cosine and shape of a product of these operands, whose values and sum binary32 holds to 2^-20."""
        out = product(a, b)
        energy = sum(x * x for x in exact)
        error = (sum((x - y) ** 2 for x, y in zip(out, exact)) / energy) ** 0.5
        self.assertAlmostEqual(found["relative_error"] / error, 1, 5, found)
        cosine = sum(x * y for x, y in zip(out, exact)) / (energy * sum(x * x for x in out)) ** 0.5
        self.assertAlmostEqual(found["cosine"], cosine, 6)
        self.assertEqual((found["rows"], found["cols"], found["k"]), (len(a), len(b), len(a[0])))

    def exact(self):
        x, w, g = (self.given[name] for name in "xwg")
        return {"forward": product(x, w), "dgrad": product(g, transposed(w)), "wgrad": product(transposed(g), transposed(x))}

    def test_plain_nvfp4_has_blocks_along_each_products_k(self):
        found, exact = self.found("--recipe-config", "nvfp4"), self.exact()
        self.check(found["forward"], self.stored("x"), self.stored("w"), exact["forward"])
        self.check(found["dgrad"], self.stored("g"), self.stored("w", "--transpose"), exact["dgrad"])
        self.check(found["wgrad"], self.stored("g", "--transpose"), self.stored("x", "--transpose"), exact["wgrad"])

    def test_a_file_says_which_operand_is_rotated_and_square(self):
        self.path("own.toml").write_text("""
[forward.X]
format = "nvfp4"
[forward.W]
format = "nvfp4"
block_2d = true
[dgrad.W]
format = "nvfp4"
scale = "sse"
[wgrad.G]
format = "nvfp4"
hadamard = 16
[wgrad.X]
format = "nvfp4"
scale = "4over6"
scale_max = 256
hadamard = 16
""")
        found, exact = self.found("--recipe-config", "own.toml"), self.exact()
        self.check(found["forward"], self.stored("x"), self.stored("w", "--block-2d"), exact["forward"])
        self.check(found["dgrad"], self.given["g"], self.stored("w", "--transpose", "--scale", "sse"), exact["dgrad"])
        self.check(found["wgrad"], self.stored("g", "--transpose", "--hadamard"),
                   self.stored("x", "--transpose", "--hadamard", "--scale", "4over6"), exact["wgrad"])

    def test_pretraining_names_what_is_square_rotated_and_random(self):
        found = self.found("--recipe-config", "nvfp4_pretraining", "--seeds", "4")
        texts = [(p["a"], p["b"]) for p in found.values()]
        self.assertEqual(texts, [("X nvfp4 naive", "W nvfp4 naive square blocks"),
                                 ("G nvfp4 naive stochastic", "W^T nvfp4 naive square blocks"),
                                 ("G^T nvfp4 naive stochastic hadamard 16", "X^T nvfp4 naive hadamard 16")])
        self.assertEqual([p["seeds"] for p in found.values()], [1, 4, 4])
        self.assertNotIn("bias", found["forward"])
        # Square blocks of W^T are those of W: dgrad reads the same values.
        square = self.stored("w", "--block-2d")
        self.assertEqual(transposed(square), self.stored("w", "--block-2d", "--transpose"))

    def test_the_bias_of_unbiased_rounding_is_noise(self):
        self.path("sr.toml").write_text('[wgrad.G]\nformat = "nvfp4"\nrounding = "stochastic_unbiased"\n[dgrad.G]\nformat = "nvfp4"\n'
                                        '[dgrad.W]\nformat = "nvfp4"\n')
        found = self.found("--recipe-config", "sr.toml", "--seeds", "200")
        p = found["wgrad"]
        self.assertAlmostEqual(p["bias"] / p["rounding_bias"], 1, 4)  # X stays as it is
        self.assertLess(p["bias"], 0.05 * p["relative_error"])  # the mean's noise is 0.07 of it
        self.assertNotIn("bias", found["dgrad"])
        one, other = (self.found("--recipe-config", "sr.toml", "--seed", s)["wgrad"]["relative_error"] for s in "12")
        self.assertNotEqual(one, other)

    def test_a_bias_is_found_where_one_operand_is_rounded_to_nearest(self):
        p = self.found("--recipe-config", "nvfp4_pretraining", "--seeds", "50")["dgrad"]
        self.assertGreater(p["bias"], 0.8 * p["b_error"])
        self.assertLess(p["rounding_bias"], 0.5 * p["bias"])

    def test_every_recipe_runs_on_every_unit_and_bf16_is_nearly_exact(self):
        for recipe in ("bf16", "nvfp4", "nvfp4_pretraining", "fouroversix", "mxfp4_rht_sr"):
            for arch in ("exact", "fp32", "hopper", "blackwell"):
                for p in self.found("--recipe-config", recipe, "--arch", arch).values():
                    self.assertGreater(p["cosine"], 0.99999 if recipe == "bf16" else 0.95, f"{recipe} {arch}")
        out = self.succeeds(*self.words, *self.grad, "--recipe-config", "fouroversix").stdout
        self.assertRegex(out, r"^fouroversix: .*\nproduct +A +B +K +error %")
        self.assertIn("G^T nvfp4 4over6 stochastic hadamard 16", out)

    def test_every_unit_is_named(self):
        self.path("mixed.toml").write_text('[forward.X]\nformat = "nvfp4"\n[forward.W]\nformat = "nvfp4"\n')
        out = self.succeeds(*self.words, *self.grad, "--recipe-config", "mixed.toml", "--arch", "blackwell").stdout
        self.assertIn("unit: tcgen05.m128n8k64.block16.f32.e2m1.e2m1.ue4m3, mma.m16n8k16.f32.bf16.bf16.f32;", out)

    def test_without_a_gradient_there_is_the_forward_product(self):
        products = json.loads(self.succeeds(*self.words, "--json").stdout)["products"]
        self.assertEqual([p["product"] for p in products], ["forward"])

    def test_products_of_zeros_have_no_error(self):
        write_safetensors(self.path("in.safetensors"), {**self.tensors, "g": floats([TOKENS, OUT], [0.0] * TOKENS * OUT)})
        found = self.found("--recipe-config", "nvfp4_pretraining", "--seeds", "2")
        self.assertEqual([found[name]["relative_error"] for name in ("dgrad", "wgrad")], [0, 0])
        self.assertNotIn("nan", self.succeeds(*self.words, *self.grad).stdout)

    def test_wrong_words_are_named(self):
        self.fails(2, ["--recipe-config", "'nvpf4'", "'nvfp4'"], *self.words, "--recipe-config", "nvpf4")
        self.path("bad.toml").write_text('[forward.X]\nformat = "nvfp4"\nblok = 16\n')
        self.fails(2, ["bad.toml:3", "'blok'", "'block'"], *self.words, "--recipe-config", "bad.toml")
        self.path("bad.toml").write_text('[forward.G]\nformat = "nvfp4"\n')
        self.fails(2, ["'forward.G'", "forward.X"], *self.words, "--recipe-config", "bad.toml")
        self.path("bad.toml").write_text('[forward.X]\nhadamard = 16\nformat = "nvfp4"\n')
        self.fails(2, ["forward", "rotated"], *self.words, "--recipe-config", "bad.toml")
        self.fails(1, ["in.safetensors:x", "no gradient", "48x64"], *self.words, "--grad", "in.safetensors:x")
        self.fails(1, ["columns do not fit"], "linear", "--input", "in.safetensors:g", "--weight", "in.safetensors:w")
