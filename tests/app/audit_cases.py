"""audit: counts, errors, optima and fingerprints of checkpoints, against numpy and brute force over every scale code."""
import json
import math
import os
import unittest
from fractions import Fraction
from pathlib import Path

import numpy as np

import harness
import reference
from harness import Case, Tensor, read_safetensors, write_safetensors

E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6])
E2M1 = np.concatenate([E2M1, -E2M1])
E4M3 = np.array([float(reference.e4m3(c)) for c in range(127)] + [np.nan])
E4M3 = np.concatenate([E4M3, -E4M3])
UE8M0 = np.array([2.0 ** (c - 127) for c in range(255)] + [np.nan])
SCALE = {"nvfp4": E4M3, "mxfp4": UE8M0}
BLOCK = {"nvfp4": 16, "mxfp4": 32}
GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
if os.environ.get("FP4SCOPE_SHARED") and (Path(os.environ["FP4SCOPE_SHARED"]) / "golden").is_dir():
    GOLDEN = Path(os.environ["FP4SCOPE_SHARED"]) / "golden"


def pack(codes):
    return (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)


def unpack(data, rows):
    packed = np.frombuffer(data, np.uint8).reshape(rows, -1)
    return np.stack([packed & 15, packed >> 4], -1).reshape(rows, -1)


def f32(values):
    return Tensor("F32", np.shape(values), np.asarray(values, "<f4").tobytes())


def modelopt(name, codes, scales, d):
    """A weight as Model-Optimizer exports it; MXFP4 without a tensor scale."""
    tensors = {name: Tensor("U8", [len(codes), codes.shape[1] // 2], pack(codes).tobytes()),
               f"{name}_scale": Tensor("U8" if d is None else "F8_E4M3", scales.shape, scales.astype(np.uint8).tobytes())}
    return tensors if d is None else {**tensors, f"{name}_scale_2": f32(np.float32(d))}


def compressed(name, codes, scales, s):
    """A weight as compressed-tensors packs it: S, the reciprocal."""
    return {f"{name}_packed": Tensor("U8", [len(codes), codes.shape[1] // 2], pack(codes).tobytes()),
            f"{name}_scale": Tensor("F8_E4M3", scales.shape, scales.astype(np.uint8).tobytes()),
            f"{name}_global_scale": f32([np.float32(s)])}


def bits(counts):
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def bf16(values):
    """binary32 values that are bf16 numbers."""
    bits_ = np.asarray(values, np.float32).view(np.uint32)
    return (bits_ & np.uint32(0xFFFF0000)).view(np.float32)


def weights(rows=32, cols=128, seed=1):
    random = np.random.default_rng(seed)
    return bf16(random.standard_t(5, (rows, cols)) * 0.02 * 2.0 ** random.integers(-3, 4, (rows, 1)))


class Audits(Case):
    def write(self, name, tensors, metadata=None):
        write_safetensors(self.path(name), tensors, metadata)

    def audit(self, *words):
        return json.loads(self.succeeds("audit", *words, "--json").stdout)

    def one(self, *words):
        tensors = self.audit(*words)["tensors"]
        self.assertEqual(len(tensors), 1)
        return tensors[0]

    def quantized(self, x, *words, name="w.weight"):
        """(codes [R, C], scales [R, C/block], D, the file's metadata) of the program's own quantize."""
        self.write("in.safetensors", {name: f32(x)})
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", *words)
        tensors, metadata = read_safetensors(self.path("q.safetensors"))
        scales = np.frombuffer(tensors[f"{name}.scales"].data, np.uint8).reshape(len(x), -1)
        return unpack(tensors[f"{name}.codes"].data, len(x)), scales, tensors[f"{name}.tensor_scale"].numbers()[0], metadata


class Counts(Audits):
    def check(self, t, codes, scales, form):
        value, block = SCALE[form][scales], BLOCK[form]
        counts, scale_counts = np.bincount(codes.ravel(), minlength=256), np.bincount(scales.ravel(), minlength=256)
        zero = (codes.reshape(*scales.shape, block) & 7 == 0).all(-1)
        used = np.unique(scales[~zero])
        subnormal = (abs(value) > 0) & (abs(value) < 2.0 ** -6) if form == "nvfp4" else np.zeros_like(value, bool)
        expected = {
            "format": form, "block": block, "rows": len(codes), "padded_cols": codes.shape[1], "blocks": scales.size,
            "minus_zeros": int(counts[8]), "plus_zeros": int(counts[0]), "zero_blocks": int(zero.sum()),
            "nan_scales": int(np.isnan(value).sum()), "zero_scales": int((value == 0).sum()), "subnormal_scales": int(subnormal.sum()),
            "negative_scales": int((scales >= 128).sum()) if form == "nvfp4" else 0, "least_scale": int(used[0]),
            "largest_scale": int(used[-1]), "codes": counts.tolist(), "scale_codes": scale_counts.tolist()}
        for key, wanted in expected.items():
            self.assertEqual(t[key], wanted, key)
        self.assertAlmostEqual(t["code_entropy"], bits(counts), delta=1e-12)
        self.assertAlmostEqual(t["scale_entropy"], bits(scale_counts), delta=1e-12)
        self.assertAlmostEqual(t["saturated_share"], (codes & 7 == 7).mean(), delta=1e-15)

    def test_counts_and_entropies_are_numpys(self):
        random = np.random.default_rng(3)
        for form, top in (("nvfp4", 256), ("mxfp4", 256)):
            codes = random.integers(0, 16, (24, 96))
            scales = random.integers(0, top, (24, 96 // BLOCK[form]))
            codes[5, :64] = random.choice([0, 8], 64)
            self.write("m.safetensors", modelopt("w.weight", codes, scales, 0.25 if form == "nvfp4" else None))
            t = self.one("m.safetensors")
            self.check(t, codes, scales, form)
            self.assertEqual((t["layout"], t["tensor_scale"]), ("modelopt", 0.25 if form == "nvfp4" else 1))
            for absent in ("weight_error", "optimal_error", "gap", "recipe_share"):
                self.assertIsNone(t[absent])

    def test_elements_of_more_than_4_bits_are_one_a_byte(self):
        x = weights(16, 64)
        self.write("in.safetensors", {"w.weight": f32(x)})
        for form in ("mxfp8_e4m3", "mxfp6_e2m3", "mxint8"):
            self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", form, "--dequantize")
            tensors, _ = read_safetensors(self.path("q.safetensors"))
            t = self.one("q.safetensors", "--original", "in.safetensors")
            counts = np.bincount(np.frombuffer(tensors["w.weight.codes"].data, np.uint8), minlength=256)
            self.assertEqual((t["format"], t["codes"]), (form, counts.tolist()))
            self.assertAlmostEqual(t["code_entropy"], bits(counts), delta=1e-12)
            values = np.frombuffer(tensors["w.weight.dequantized"].data, "<f4").astype(float).reshape(x.shape)
            error = np.linalg.norm(values - x) / np.linalg.norm(x.astype(float))
            self.assertAlmostEqual(t["weight_error"], error, delta=1e-7 * error)
            self.assertEqual((t["verdict"], t["recipe_share"], t["optimal_error"]), ("recipe", 1, None))
            text = self.succeeds("audit", "q.safetensors", "--original", "in.safetensors").stdout
            self.assertNotRegex(text, "blocks optimal|ggml")

    def test_a_total_is_the_sum_over_tensors(self):
        random = np.random.default_rng(4)
        tensors, blocks, elements = {}, 0, 0
        for i in range(3):
            codes = random.integers(0, 16, (8 + i, 64))
            tensors |= modelopt(f"l{i}.weight", codes, random.integers(1, 126, (8 + i, 4)), 0.5)
            blocks, elements = blocks + (8 + i) * 4, elements + codes.size
        self.write("m.safetensors", tensors)
        whole = self.audit("m.safetensors")
        self.assertEqual((whole["total"]["blocks"], whole["total"]["elements"]), (blocks, elements))
        self.assertEqual([t["tensor"] for t in self.audit("m.safetensors", "--tensor", "l*", "--exclude", "l1*")["tensors"]],
                         ["l0.weight", "l2.weight"])

    def test_a_tensor_in_pieces_is_counted_whole(self):
        codes = np.random.default_rng(5).integers(0, 16, (2100, 4096))  # more than a piece's 2^23 elements
        scales = np.random.default_rng(6).integers(1, 127, (2100, 256))
        self.write("m.safetensors", modelopt("w.weight", codes, scales, 1.5))
        self.check(self.one("m.safetensors"), codes, scales, "nvfp4")


def squared_error(x, codes, scales, d, form):
    """Of each block, in binary64: [rows, blocks]."""
    values = E2M1[codes] * np.repeat(SCALE[form][scales] * np.float64(d), BLOCK[form], -1)
    return ((x.astype(np.float64) - values) ** 2).reshape(*scales.shape, -1).sum(-1)


def exact_error(x, codes, scale):
    """Of one block in fractions; `scale` is D s."""
    return sum((Fraction(float(v)) - Fraction(float(E2M1[c])) * scale) ** 2 for v, c in zip(x, codes))


def least_error(x, d, form):
    """The least over every positive code, with nearest elements, in fractions."""
    best = None
    for code in range(1, 127) if form == "nvfp4" else range(255):
        scale = Fraction(float(SCALE[form][code])) * d
        error = Fraction(0)
        for v in x:
            v = abs(Fraction(float(v)))
            error += min((v - Fraction(float(e)) * scale) ** 2 for e in E2M1[:8])
            if best is not None and error >= best:
                break
        best = error if best is None or error < best else best
    return best


class Optimum(Audits):
    def compare(self, x, codes, scales, d, form, t):
        errors = squared_error(x, codes, scales, d, form)
        block, exact_d = BLOCK[form], Fraction(float(np.float32(d)))
        best, optimal = np.zeros_like(errors), 0
        for r, b in np.ndindex(*errors.shape):
            part = slice(b * block, (b + 1) * block)
            least = least_error(x[r, part], exact_d, form)
            theirs = exact_error(x[r, part], codes[r, part], Fraction(float(SCALE[form][scales[r, b]])) * exact_d)
            self.assertGreaterEqual(theirs, least)
            optimal += theirs == least
            best[r, b] = float(least)
        energy = (x.astype(np.float64) ** 2).sum()
        near = lambda key, value: self.assertAlmostEqual(t[key] / value, 1, delta=1e-12, msg=key)
        near("weight_error", math.sqrt(errors.sum() / energy))
        near("sqnr_db", -10 * math.log10(errors.sum() / energy))
        near("optimal_error", math.sqrt(best.sum() / energy))
        self.assertAlmostEqual(t["gap"], math.sqrt(errors.sum() / best.sum()) - 1, delta=1e-12)
        self.assertEqual(t["worse_blocks"], errors.size - optimal)
        self.assertEqual(t["optimal_share"], optimal / errors.size)
        return optimal

    def test_errors_and_optimum_are_those_of_brute_force(self):
        for form, words in (("nvfp4", []), ("nvfp4", ["--scale", "4over6"]), ("mxfp4", []), ("nvfp4", ["--scale", "sse"])):
            x = weights(4, 64, seed=len(words) + len(form))
            codes, scales, d, _ = self.quantized(x, "--format", form, *words)
            self.write("m.safetensors", modelopt("w.weight", codes, scales, d if form == "nvfp4" else None))
            t = self.one("m.safetensors", "--original", "in.safetensors")
            optimal = self.compare(x, codes, scales, d, form, t)
            self.assertLessEqual(optimal, scales.size)
            if "sse" in words:
                self.assertEqual((t["gap"], t["worse_blocks"]), (0, 0))

    def test_codes_that_are_not_nearest_and_scales_with_a_sign_are_worse_or_ties(self):
        x = weights(4, 64, seed=9)
        codes, scales, d, _ = self.quantized(x, "--format", "nvfp4", "--scale", "sse")
        codes, scales = codes.copy(), scales.copy()
        codes[0, 3] ^= 1
        scales[1, 1] |= 128          # negative, and so are its elements: the same values, as good as the best
        codes[1, 16:32] ^= 8
        scales[2, 2] |= 128          # negative alone
        self.write("m.safetensors", modelopt("w.weight", codes, scales, d))
        t = self.one("m.safetensors", "--original", "in.safetensors")
        self.compare(x, codes, scales, d, "nvfp4", t)
        self.assertEqual((t["worse_blocks"], t["negative_scales"]), (2, 2))

    def test_a_reciprocal_tensor_scale_decodes_as_its_inverse(self):
        x = weights(4, 64, seed=10)
        codes, scales, d, _ = self.quantized(x, "--format", "nvfp4")
        s = np.float32(1) / np.float32(d)
        self.write("c.safetensors", compressed("w.weight", codes, scales, s))
        t = self.one("c.safetensors", "--original", "in.safetensors")
        self.assertEqual((t["layout"], t["tensor_scale_stored"]), ("compressed_tensors", "reciprocal"))
        self.assertEqual(np.float32(t["tensor_scale"]), np.float32(1) / s)
        self.compare(x, codes, scales, np.float32(1) / s, "nvfp4", t)

    def test_experts_are_rows_of_one_matrix(self):
        x = weights(12, 64, seed=11)
        codes, scales, _, _ = self.quantized(x, "--format", "mxfp4")
        self.write("g.safetensors", {
            "w.gate_blocks": Tensor("U8", [3, 4, 2, 16], pack(codes).tobytes()),
            "w.gate_scales": Tensor("U8", [3, 4, 2], scales.tobytes())})
        self.write("o.safetensors", {"w.gate": f32(x.reshape(3, 4, 64))})
        t = self.one("g.safetensors", "--original", "o.safetensors")
        self.assertEqual(t["layout"], "gpt_oss")
        self.compare(x, codes, scales, 1, "mxfp4", t)

    def test_padding_is_outside_every_error(self):
        x = weights(4, 60, seed=12)
        codes, scales, d, metadata = self.quantized(x, "--format", "nvfp4")
        tensors, _ = read_safetensors(self.path("q.safetensors"))
        wide = codes.copy()
        wide[:, 60:] = 7  # whatever is stored there
        tensors["w.weight.codes"] = Tensor("U8", [4, 32], pack(wide).tobytes())
        self.write("p.safetensors", tensors, metadata)
        a, b = (self.one(f, "--original", "in.safetensors") for f in ("q.safetensors", "p.safetensors"))
        for key in ("weight_error", "optimal_error", "worse_blocks", "recipe", "recipe_share"):
            self.assertEqual(a[key], b[key], key)
        self.assertEqual(b["recipe_share"], 1)
        self.compare(np.pad(x, ((0, 0), (0, 4))), codes, scales, d, "nvfp4", a)

    def test_a_weight_without_a_fitting_original_is_audited_alone_with_a_word(self):
        x = weights(4, 64)
        codes, scales, d, _ = self.quantized(x, "--format", "nvfp4")
        self.write("m.safetensors", {**modelopt("a.weight", codes, scales, d), **modelopt("b.weight", codes, scales, d)})
        self.write("o.safetensors", {"b.weight": f32(x[:3])})
        outcome = self.succeeds("audit", "m.safetensors", "--original", "o.safetensors", "--json")
        self.assertIn("a.weight: audited without its original: there is no tensor of that name", outcome.stderr)
        self.assertIn("b.weight: audited without its original: its shape [3, 64]", outcome.stderr)
        for t in json.loads(outcome.stdout)["tensors"]:
            self.assertEqual((t["weight_error"], t["verdict"], t["blocks"]), (None, "", 16))


class Lossless(Audits):
    def values(self, codes, scales):
        return E2M1[codes] * np.repeat(UE8M0[scales], 32, -1)

    def test_mxfp4_converts_to_nvfp4_where_every_value_stays(self):
        random = np.random.default_rng(2)
        for spread, possible in ((10, True), (17, True), (18, False), (30, False)):
            codes = random.integers(0, 16, (16, 128))
            scales = random.integers(110, 110 + spread, (16, 4))
            scales[0, :2] = 110, 110 + spread
            codes[0, [0, 40]] = 1, 9
            self.write("m.safetensors", modelopt("w.weight", codes, scales, None))
            t = self.one("m.safetensors")
            self.assertEqual(t["lossless_nvfp4"], int(possible), spread)
            halves = np.repeat(UE8M0[scales], 2, -1)
            nonzero = (codes.reshape(16, 8, 16) & 7 != 0).any(-1)
            wanted = np.isin(halves / 2.0 ** t["lossless_exponent"], E4M3[1:127])
            self.assertEqual(t["lossy_blocks"], int((nonzero & ~wanted).sum()))
            if possible:  # numpy's own conversion has the same values
                d = np.float32(2.0 ** t["lossless_exponent"])
                there = np.array([[np.flatnonzero(E4M3[:127] == s)[0] if n else 0 for s, n in zip(*row)]
                                  for row in zip(halves / d, nonzero)])
                nvfp4 = E2M1[codes] * np.repeat(E4M3[there] * np.float64(d), 16, -1)
                self.assertTrue((nvfp4 == self.values(codes, scales)).all())

    def test_a_half_of_zeros_has_no_say(self):
        codes = np.zeros((1, 64), int)
        codes[0, 0], codes[0, 20] = 7, 8
        scales = np.array([[200, 100]])
        self.write("m.safetensors", modelopt("w.weight", codes, scales, None))
        self.assertEqual(self.one("m.safetensors")["lossless_nvfp4"], 1)
        codes[0, 63] = 1
        self.write("m.safetensors", modelopt("w.weight", codes, scales, None))
        self.assertEqual((self.one("m.safetensors")["lossless_nvfp4"], self.one("m.safetensors")["lossy_blocks"]), (0, 1))


NVFP4_RECIPES = ["exact", "te", "te_ref", "fouroversix", "modelopt_dyn", "modelopt_export", "modelopt_fakequant", "torchao",
                 "compressed_tensors", "vllm_emulation", "flashinfer", "fpquant"]
MXFP4_RECIPES = ["exact", "ocp", "microxcaling", "ggml", "fouroversix", "modelopt_mxfp4", "torchao", "compressed_tensors"]


class Fingerprints(Audits):
    def named(self, t, recipe):
        """The recipe is the first, or one that reproduces the very same blocks."""
        names = [t["recipe"], *t["same_recipes"]]
        self.assertIn(recipe, names, t["verdict"])
        self.assertEqual((t["verdict"], t["recipe_share"], t["unexplained_share"]), ("recipe", 1, 0), names)

    def test_every_recipes_own_output_is_its(self):
        x = weights(64, 256, seed=21)
        x[3, 16:32] = 0
        for form, recipes in (("nvfp4", NVFP4_RECIPES), ("mxfp4", MXFP4_RECIPES)):
            for recipe in recipes:
                name = f"{recipe} rna" if recipe == "microxcaling" else recipe
                with self.subTest(form=form, recipe=recipe):
                    self.quantized(x, "--format", form, "--recipe", recipe)
                    self.named(self.one("q.safetensors", "--original", "in.safetensors"), name)

    def test_every_method_of_exact_is_named(self):
        x = weights(64, 256, seed=22)
        for form, method, name in (("nvfp4", "sse", "exact sse"), ("nvfp4", "static4", "exact static4"), ("mxfp4", "ceil", "exact ceil"),
                                   ("nvfp4", "4over6", "exact 4over6 mse 256"), ("mxfp4", "sse", "exact sse"), ("mxfp4", "rceil", "exact rceil")):
            with self.subTest(form=form, method=method):
                self.quantized(x, "--format", form, "--scale", method)
                self.named(self.one("q.safetensors", "--original", "in.safetensors"), name)

    def test_a_mixture_is_named_with_both_shares(self):
        x = weights(64, 256, seed=23)
        codes, scales, d, metadata = self.quantized(x, "--format", "nvfp4")
        sse_codes, sse_scales, _, _ = self.quantized(x, "--format", "nvfp4", "--scale", "sse")
        tensors, _ = read_safetensors(self.path("q.safetensors"))
        equal = lambda a, sa: ((a == mixed).reshape(64, 16, 16).all(-1) & (sa == mixed_scales)).sum()
        for upper in (24, 40):
            mixed, mixed_scales = codes.copy(), scales.copy()
            mixed[:upper], mixed_scales[:upper] = sse_codes[:upper], sse_scales[:upper]
            tensors["w.weight.codes"] = Tensor("U8", [64, 128], pack(mixed).tobytes())
            tensors["w.weight.scales"] = Tensor("U8", [64, 16], mixed_scales.tobytes())
            self.write("m.safetensors", tensors, metadata)
            t = self.one("m.safetensors", "--original", "in.safetensors")
            self.assertEqual((t["verdict"], t["unexplained_share"]), ("mixture", 0))
            self.assertEqual(sorted([t["recipe"], t["second_recipe"]]), ["exact", "exact sse"])
            first = equal(sse_codes, sse_scales) if t["recipe"] == "exact sse" else equal(codes, scales)
            self.assertEqual(t["recipe_share"], first / scales.size)
            self.assertEqual(t["second_share"], 1 - first / scales.size)
            self.assertEqual(t["recipe"], "exact sse" if equal(sse_codes, sse_scales) > equal(codes, scales) else "exact")

    def test_two_libraries_in_one_tensor_are_both_found(self):
        """Scales below 2^-6 tell torchao from Model-Optimizer; both store D = amax / 2688."""
        random = np.random.default_rng(24)
        x = bf16(random.normal(0, 1, (64, 256)) * 2.0 ** random.integers(-15, 1, (64, 1)))
        x[::4, :16] = 0  # a block of zeros has scale 1 in Model-Optimizer's own recipe alone
        a = self.quantized(x, "--format", "nvfp4", "--recipe", "modelopt_dyn")
        b = self.quantized(x, "--format", "nvfp4", "--recipe", "torchao")
        self.assertEqual(a[2], b[2])
        half = np.arange(64)[:, None] % 2 == 0
        self.write("m.safetensors", modelopt("w.weight", np.where(half, a[0], b[0]), np.where(half, a[1], b[1]), a[2]))
        t = self.one("m.safetensors", "--original", "in.safetensors")
        self.assertEqual((t["verdict"], t["unexplained_share"]), ("mixture", 0))
        self.assertEqual(sorted([t["recipe"], t["second_recipe"]]), ["modelopt_dyn", "torchao"])

    def test_corrupted_blocks_are_nobodys(self):
        x = weights(64, 256, seed=25)
        codes, scales, d, _ = self.quantized(x, "--format", "nvfp4")
        for share, verdict in ((0.05, "recipe"), (0.4, "none")):
            bad = np.random.default_rng(26).random(scales.shape) < share
            broken = codes ^ np.repeat(np.where(bad, 5, 0), 16, -1)
            self.write("m.safetensors", modelopt("w.weight", broken, scales, d))
            t = self.one("m.safetensors", "--original", "in.safetensors")
            self.assertEqual((t["verdict"], t["recipe"]), (verdict, "exact"))
            self.assertAlmostEqual(t["recipe_share"], 1 - bad.mean(), delta=1e-12)
            self.assertAlmostEqual(t["unexplained_share"], bad.mean(), delta=1e-12)

    def test_results_do_not_depend_on_threads(self):
        x = weights(64, 256, seed=27)
        self.quantized(x, "--format", "nvfp4", "--scale", "4over6")
        outputs = {self.succeeds("audit", "q.safetensors", "--original", "in.safetensors", "--json", "--threads", n).stdout for n in (1, 2, 5)}
        self.assertEqual(len(outputs), 1)


@unittest.skipUnless((GOLDEN / "inputs.safetensors").exists(), "no golden outputs")
class GoldenFingerprints(Audits):
    """What other people's code made of inputs: the recipe that bears its name reproduces every block."""

    @classmethod
    def setUpClass(cls):
        cls.inputs = read_safetensors(GOLDEN / "inputs.safetensors")[0]

    def check(self, source, tensors, recipe):
        name = source[0]
        rows = next(iter(tensors.values())).shape[0]
        x = np.array(self.inputs[name].numbers(), np.float32).reshape(-1, 256)[:rows]
        self.write("theirs.safetensors", tensors)
        self.write("o.safetensors", {"w.weight": f32(x)})
        t = self.one("theirs.safetensors", "--original", "o.safetensors")
        names = [t["recipe"], *t["same_recipes"]]
        self.assertIn(recipe, names, f"{source}: {t['verdict']} {t['recipe_share']}")
        self.assertEqual((t["verdict"], t["recipe_share"]), ("recipe", 1), f"{source}: {names}")

    def amax(self, name):
        return np.float32(max(abs(v) for v in self.inputs[name].numbers()))

    def read(self, library):
        return read_safetensors(GOLDEN / f"{library}.safetensors")[0]

    def bytes_of(self, tensor, packed=True):
        data = np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape)
        return unpack(tensor.data, tensor.shape[0]) if packed else data

    def test_fouroversix(self):
        golden = self.read("fouroversix")
        names = {"static_6": ("", 2688), "static_4": (" static4", 1792), "mse": (" 4over6 mse 256", 1536), "mae": (" 4over6 mae 256", 1536),
                 "abs_max": (" 4over6 absmax 256", 1536)}
        for rule, (words, top) in names.items():
            for source in ("ties/bf16", "wide_range/bf16"):
                key = f"{source}|nvfp4|{rule}|2d=0|rht=0|t=0|"
                with self.subTest(rule=rule, source=source):
                    codes, scales = self.bytes_of(golden[key + "values"]), self.bytes_of(golden[key + "scales"], False)
                    self.check((source, rule), compressed("w.weight", codes, scales, np.float32(top) / self.amax(source)), "fouroversix" + words)

    def test_transformer_engine(self):
        golden = self.read("transformer_engine_ref")
        for key in sorted({k.rsplit("|", 1)[0] for k in golden if "tile=1x16|" in k and "rht=0" in k}):
            source, _, four, top, mode, _ = key.split("|")
            if source not in ("ties/bf16", "wide_range/bf16"):
                continue
            top = int(top.split("=")[1])
            if four == "4over6=0" and top != 448:
                continue
            recipe = f"te_ref 4over6 {mode.lower()} {top}" if four == "4over6=1" else "te_ref"
            with self.subTest(key=key):
                codes, scales = self.bytes_of(golden[key + "|data"]), self.bytes_of(golden[key + "|scale"], False)
                self.check((source, key), compressed("w.weight", codes, scales, np.float32(6 * top) / self.amax(source)), recipe)

    def test_microxcaling(self):
        golden = self.read("microxcaling")
        for mode, word in (("nearest", "rna"), ("even", "rne"), ("floor", "rtz")):
            for source in ("ties/f32", "wide_range/f32"):
                value = np.array(golden[f"{source}|fp4_e2m1|32|{mode}"].numbers(), np.float64).reshape(-1, 256)
                x = np.array(self.inputs[source].numbers(), np.float32).reshape(-1, 256)[:len(value)]
                amax = abs(x).reshape(len(x), 8, 32).max(-1)
                with np.errstate(divide="ignore"):
                    power = np.where(amax > 0, np.maximum(np.floor(np.log2(amax.astype(np.float64))) - 2, -127), -127)
                element = value / np.repeat(2.0 ** power, 32, -1)
                codes = np.argmin(abs(abs(element)[..., None] - E2M1[:8]), -1)
                self.assertTrue((E2M1[codes] == abs(element)).all())
                codes |= np.where(np.signbit(value) | (value == 0) & np.signbit(x), 8, 0)
                with self.subTest(mode=mode, source=source):
                    self.check((source, mode), modelopt("w.weight", codes, (power + 127).astype(np.uint8), None), f"microxcaling {word}")

    def test_qwantize(self):
        golden = self.read("qwantize")
        doubled = [0, 1, 2, 3, 4, 6, 8, 12]
        for rule in ("nvfp4_naive", "nvfp4_sse", "mxfp4_naive", "mxfp4_sse"):
            form, method = rule.split("_")
            for source in ("ties/bf16", "wide_range/bf16"):
                key = f"{source}|{rule}|{BLOCK[form]}|"
                value = np.array(golden[key + "scales"].numbers()).reshape(-1, 256 // BLOCK[form])
                table = {float(v): c for c, v in enumerate(SCALE[form][:127 if form == "nvfp4" else 255])}
                scales = np.vectorize(table.__getitem__)(value)
                quants = np.frombuffer(golden[key + "quants2"].data, np.int8).reshape(len(value), 256).astype(int)
                x = np.array(self.inputs[source].numbers(), np.float32).reshape(-1, 256)[:len(value)]
                codes = np.vectorize(doubled.index)(abs(quants)) | np.where((quants < 0) | (quants == 0) & np.signbit(x), 8, 0)
                with self.subTest(rule=rule, source=source):
                    tensors = modelopt("w.weight", codes, scales, 1.0 if form == "nvfp4" else None)
                    self.check((source, rule), tensors, "qwantize" if method == "naive" else "qwantize sse")


class Evidence(Audits):
    def lines(self, x, *words):
        self.quantized(x, *words)
        return " | ".join(self.one("q.safetensors")["evidence"])

    def test_bytes_alone_are_consistent_with_their_recipe(self):
        x = weights(64, 256, seed=31)
        x[3, 16:32] = 0
        x[0, 0] = 1.0
        for recipe, needle in (("exact", "scale byte 00: consistent with te"), ("torchao", "scale byte 08: consistent with torchao"),
                               ("compressed_tensors", "scale byte 20: consistent with compressed_tensors"),
                               ("modelopt_dyn", "scale byte 38: consistent with modelopt_dyn")):
            with self.subTest(recipe=recipe):
                self.assertIn(needle, self.lines(x, "--format", "nvfp4", "--recipe", recipe))
        naive = self.lines(x, "--format", "nvfp4")
        self.assertIn("448 (7E)", naive)
        small = np.where(np.arange(64)[:, None] % 2 == 0, x, x * np.float32(2.0 ** -14))
        self.assertIn("are subnormal: not consistent with torchao", self.lines(small, "--format", "nvfp4"))
        self.assertIn("least is 2^-6 (08)", self.lines(small, "--format", "nvfp4", "--recipe", "torchao"))
        coarse = weights(64, 256, seed=32)
        self.assertIn("every nonzero block has an element 6", self.lines(np.where(abs(coarse) > 1, 1, coarse), "--format", "nvfp4", "--tensor-scale", "0.001"))
        self.assertIn("256 (78)", self.lines(x, "--format", "nvfp4", "--scale", "4over6"))
        self.assertIn("not consistent with ggml", self.lines(x, "--format", "mxfp4"))
        self.assertIn("consistent with ggml", self.lines(x, "--format", "mxfp4", "--recipe", "ggml"))
        self.assertIn("is 4 or 6", self.lines(x, "--format", "mxfp4"))
        self.assertIn("with a search", self.lines(x, "--format", "nvfp4", "--scale", "sse"))

    def test_no_line_claims(self):
        for line in self.lines(weights(64, 256), "--format", "nvfp4", "--scale", "sse").split(" | "):
            self.assertIn("consistent with", line)


class Words(Audits):
    def test_the_table_says_what_there_is(self):
        x = weights(16, 64)
        self.quantized(x, "--format", "nvfp4", "--recipe", "te")
        out = self.succeeds("audit", "q.safetensors", "--original", "in.safetensors").stdout
        for needle in ("w.weight", "nvfp4", "optimum %", "1 tensors with an original: error", "64 blocks"):
            self.assertIn(needle, out)
        alone = self.succeeds("audit", "q.safetensors").stdout
        self.assertNotIn("optimum", alone)

    def test_what_cannot_be_audited_is_one_line(self):
        self.write("plain.safetensors", {"w.weight": f32(weights(4, 64))})
        self.fails(1, "quantized", "audit", "plain.safetensors")
        self.fails(1, "absent.safetensors", "audit", "absent.safetensors")
        self.quantized(weights(4, 64), "--format", "nvfp4")
        self.fails(1, "--tensor", "audit", "q.safetensors", "--tensor", "nothing")
        self.fails(1, "absent", "audit", "q.safetensors", "--original", "absent.safetensors")
        self.fails(2, "--orignal", "audit", "q.safetensors", "--orignal", "in.safetensors")
        self.fails(1, "no/folder", "audit", "q.safetensors", "-o", "no/folder/a.h5")

    def test_the_results_file_follows_the_schema_and_is_drawn(self):
        try:
            import h5py
        except ImportError:
            self.skipTest("no h5py")
        x = weights(64, 256, seed=41)
        tensors, originals = {}, {}
        for i, words in enumerate((["--recipe", "te"], ["--scale", "sse"], ["--scale", "4over6"])):
            codes, scales, d, _ = self.quantized(x * (i + 1), "--format", "nvfp4", *words)
            tensors |= modelopt(f"layers.{i}.weight", codes, scales, d)
            originals[f"layers.{i}.weight"] = f32(x * (i + 1))
        codes, scales, _, _ = self.quantized(x, "--format", "mxfp4")
        tensors |= modelopt("layers.9.weight", codes, scales, None)
        self.write("m.safetensors", tensors)
        self.write("o.safetensors", originals)
        words = ("audit", "m.safetensors", "--original", "o.safetensors", "-o")
        self.succeeds(*words, "a.h5")
        self.succeeds(*words, "b.h5", "--threads", 1)
        self.assertEqual(self.path("a.h5").read_bytes(), self.path("b.h5").read_bytes())
        table = json.loads(self.succeeds("audit", "m.safetensors", "--original", "o.safetensors", "--json").stdout)["tensors"]
        self.check_schema(h5py, "a.h5", table)
        self.succeeds("report", "a.h5", "-o", "page")
        page = self.path("page").joinpath("index.html").read_text()
        for needle in ("layers.9.weight", "audit_error.svg", "audit_scales.svg", "audit_recipes.svg"):
            self.assertIn(needle, page)

    def check_schema(self, h5py, name, rows):
        text = (Path(__file__).resolve().parents[2] / "notebooks-data" / "schema.md").read_text()
        section = text.split("## Datasets of /table, audit")[1].split("\n## ")[0]
        lines = [[c.strip() for c in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")][2:]
        columns = {cells[0]: cells for cells in lines}
        with h5py.File(self.path(name)) as file:
            self.assertEqual(file.attrs["kind"], "audit")
            self.assertEqual(list(columns), file["table"].attrs["columns"].split(","))
            for column, (_, kind, _, unit, _, _) in columns.items():
                data = file["table"][column]
                self.assertEqual(data.attrs["unit"], unit, column)
                self.assertTrue(data.attrs["description"], column)
                self.assertEqual("text" if data.dtype.kind == "S" else data.dtype.name, kind, column)
                for row, value in zip(rows, data[()]):
                    value = value.decode() if isinstance(value, bytes) else value.item()
                    if column in ("evidence", "same_recipes"):
                        value = value.split("; ") if value else []
                    if column != "run":
                        self.assertEqual(row[column], None if value != value else value, column)
            for i, row in enumerate(rows):
                self.assertEqual(file[f"runs/{i:05}/codes"][()].tolist(), row["codes"])
                self.assertEqual(file[f"runs/{i:05}/scale_codes"][()].tolist(), row["scale_codes"])
