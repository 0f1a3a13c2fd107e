"""encode --recipe: other libraries' converters, what they refuse, what the file records."""
import json
import math
import os
import struct
import unittest
from pathlib import Path

from harness import Case, Tensor, floats, read_safetensors, write_safetensors

ENCODE = ["encode", "in.safetensors", "-o", "out.safetensors"]
RECIPES = {
    "exact": "e2m1 e2m3 e3m2 e3m4 e4m3 e4m3_ieee e5m2 ue8m0 ue4m3 ue5m3 ue4m4 e1m2 int4 int8 bf16 fp16",
    "cuda": "e2m1 e2m3 e3m2 e4m3 e5m2 ue8m0",
    "cutlass": "e2m1 e2m3 e3m2 e4m3 e5m2 ue4m3 ue8m0",
    "ml_dtypes": "e2m1 e2m3 e3m2 e3m4 e4m3_ieee e4m3 e5m2 ue8m0 bf16",
    "ggml": "e2m1 ue4m3",
    "torchao": "e2m1 e2m3 e3m2",
    "fouroversix": "e2m1",
    "modelopt": "e2m1",
    "modelopt_mxfp4": "e2m1",
    "qwantize": "e2m1",
    "microxcaling": "e2m1 e2m3 e3m2 e4m3 e5m2",
}


class RecipeCase(Case):
    def encode(self, recipe, element, values, *words):
        """The codes of numbers, or of binary32 patterns in a bytes object."""
        data = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}f", *values)
        write_safetensors(self.path("in.safetensors"), {"x": Tensor("F32", [len(data) // 4], data)})
        self.outcome = self.succeeds(*ENCODE, "--element", element, "--recipe", recipe, *words, "--json")
        tensors, self.metadata = read_safetensors(self.path("out.safetensors"))
        return tensors["x.codes"].numbers()


class WrongRecipes(RecipeCase):
    """Exit 2, one line, what there is."""

    def setUp(self):
        super().setUp()
        write_safetensors(self.path("in.safetensors"), {"w": floats([1, 4], [1.0] * 4)})

    def refused(self, needles, *words):
        self.fails(2, needles, *ENCODE, *words)
        self.leaves("in.safetensors")

    def test_an_unknown_recipe_names_the_nearest_and_lists_all(self):
        self.refused(["--recipe", "unknown recipe 'gmml'", "'ggml'", *RECIPES], "--element", "e2m1", "--recipe", "gmml")
        self.refused(["--recipe", "'exakt'", "'exact'"], "--element", "e2m1", "--recipe", "exakt")
        self.refused(["--recipe", "'modelopt_mx4'", "'modelopt_mxfp4'"], "--element", "e2m1", "--recipe", "modelopt_mx4")

    def test_an_element_that_a_recipe_lacks_lists_those_it_has(self):
        for recipe, elements in RECIPES.items():
            if recipe != "exact":
                self.refused(["--recipe", f"'{recipe}'", "ue4m4", f"it has: {elements.replace(' ', ', ')})"], "--element", "ue4m4", "--recipe", recipe)

    def test_a_rounding_that_a_recipe_lacks_lists_those_it_has(self):
        self.refused(["--rounding", "'cuda'", "'rup'", "rne, rtz)"], "--element", "e2m1", "--recipe", "cuda", "--rounding", "rup")
        self.refused(["--rounding", "'cuda'", "'rne'", "rtz, rup)"], "--element", "ue8m0", "--recipe", "cuda", "--rounding", "rne")
        self.refused(["--rounding", "'ml_dtypes'", "rne)"], "--element", "e2m1", "--recipe", "ml_dtypes", "--rounding", "stochastic")
        self.refused(["--rounding", "'rn'", "'rne'"], "--element", "e2m1", "--recipe", "cuda", "--rounding", "rn")

    def test_a_recipe_with_a_rounding_of_its_own_takes_no_word_for_it(self):
        for recipe in ("qwantize", "ggml", "modelopt_mxfp4"):
            self.refused(["--rounding", f"'{recipe}'", "ties toward zero"], "--element", "e2m1", "--recipe", recipe, "--rounding", "rne")

    def test_an_overflow_without_effect_is_refused(self):
        self.refused(["--overflow", "'nan'", "saturate)"], "--element", "e2m1", "--recipe", "cuda", "--overflow", "nan")
        self.refused(["--overflow", "'saturate'", "nan)"], "--element", "e4m3", "--recipe", "ml_dtypes", "--overflow", "saturate")
        self.refused(["--overflow", "'nam'", "'nan'"], "--element", "e4m3", "--recipe", "cuda", "--overflow", "nam")


class Recipes(RecipeCase):
    """Codes and metadata."""

    def test_each_recipe_takes_its_elements_and_records_its_defaults(self):
        defaults = {"cuda": ("rne", "saturate"), "ml_dtypes": ("rne", "nan"), "microxcaling": ("rna", "saturate")}
        for recipe, elements in RECIPES.items():
            for element in elements.split():
                self.encode(recipe, element, [1.0, 0.3])
                self.assertEqual((self.metadata["recipe"], self.metadata["element"]), (recipe, element))
                if recipe in defaults and element not in ("ue8m0", "e2m1", "e2m3", "e3m2"):
                    self.assertEqual((self.metadata["rounding"], self.metadata["overflow"]), defaults[recipe], element)
        self.encode("cuda", "ue8m0", [3.0])
        self.assertEqual(self.metadata["rounding"], "rup")
        self.encode("qwantize", "e2m1", [3.0])
        self.assertEqual(self.metadata["rounding"], "nearest, ties toward zero")

    def test_exact_is_the_default(self):
        values = [0.25, 0.75, -0.0, 100.0, math.nan, -3.5]
        codes = self.encode("exact", "e2m1", values)
        self.assertEqual(codes, [0, 2, 8, 7, 7, 14])
        self.succeeds(*ENCODE, "--element", "e2m1")
        tensors, metadata = read_safetensors(self.path("out.safetensors"))
        self.assertEqual(tensors["x.codes"].numbers(), codes)
        self.assertEqual((metadata["recipe"], metadata["rounding"], metadata["overflow"]), ("exact", "rne", "saturate"))

    def test_the_quirks_reach_the_file(self):
        self.assertEqual(self.encode("modelopt_mxfp4", "e2m1", [0.0, 0.75, 1.75, -3.5]), [8, 1, 3, 13])
        self.assertEqual(self.encode("fouroversix", "e2m1", [-0.0, 7.0, -9.0]), [0, 8, 8])
        self.assertEqual(self.encode("ggml", "ue4m3", [1.0625, 256.0, 0.0155]), [0x39, 0x7E, 0x07])
        self.assertEqual(self.encode("cutlass", "ue4m3", [-1.0]), [0x38])
        self.assertEqual(self.encode("ml_dtypes", "ue8m0", [0.0, 1.5]), [255, 128])
        self.assertEqual(self.encode("torchao", "e2m1", struct.pack("<I", 0x7F800001)), [2])
        self.assertEqual(self.encode("cuda", "e4m3", [465.0], "--overflow", "nan"), [0x7F])
        self.assertEqual(self.encode("cuda", "e2m1", [-5.9], "--rounding", "rtz"), [14])
        self.assertEqual(self.encode("microxcaling", "e2m1", [0.25]), [1])
        self.assertEqual(self.encode("microxcaling", "e2m1", [0.25], "--rounding", "rne"), [0])
        self.assertEqual(self.encode("ml_dtypes", "bf16", struct.pack("<I", 0xFFC00000)), [0xFFC0])

    def test_inexact_counts_what_the_recipe_wrote(self):
        self.encode("fouroversix", "e2m1", [6.0, 8.0, 0.5, math.nan])
        j = json.loads(self.outcome.stdout)
        self.assertEqual((j["values"], j["inexact"], j["nan"]), (4, 1, 1))
        self.encode("cutlass", "ue4m3", [-1.0, 1.0, 448.0])
        j = json.loads(self.outcome.stdout)
        self.assertEqual((j["inexact"], j["overflow"]), (1, 0))

    def test_any_number_of_threads_gives_the_same_bytes(self):
        values = [math.sin(i) * 8 for i in range(5000)]
        first = self.encode("ggml", "e2m1", values)
        self.assertEqual(self.encode("ggml", "e2m1", values, "--threads", "3"), first)


class MlDtypes(RecipeCase):
    """A round trip of ml_dtypes' own outputs through the program."""

    TYPES = {"float4_e2m1fn": "e2m1", "float8_e4m3fn": "e4m3", "float8_e8m0fnu": "ue8m0", "bfloat16": "bf16"}

    def test_its_own_casts_come_back(self):
        path = Path(os.environ.get("FP4SCOPE_SHARED", ""), "golden/ml_dtypes.safetensors")
        if "FP4SCOPE_SHARED" not in os.environ or not path.exists():
            raise unittest.SkipTest("FP4SCOPE_SHARED is not set, or has no golden/ml_dtypes.safetensors")
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + length])

        def bytes_of(name):
            begin, end = header[name]["data_offsets"]
            return data[8 + length + begin:8 + length + end]

        for tensor, element in self.TYPES.items():
            codes = self.encode("ml_dtypes", element, bytes_of("bits"))
            theirs = bytes_of(tensor)
            wanted = list(struct.unpack(f"<{len(codes)}{'H' if element == 'bf16' else 'B'}", theirs))
            self.assertEqual(codes, wanted, tensor)
