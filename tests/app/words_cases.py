"""The command line itself: verbs, options, help, formats, encode."""
import json
import math
import struct
import subprocess

import harness
from harness import Case, Tensor, floats, read_safetensors, write_safetensors
from reference import LEVELS, e4m3, ue8m0

QUANTIZE = ["quantize", "in.safetensors", "-o", "out.safetensors"]
VERBS = ["sweep", "report", "quantize", "dequantize", "convert", "encode", "formats", "recipes", "crosscheck", "verify", "decompose", "audit", "matmul", "linear", "mma", "mac", "theory", "bench"]
SMALL = '[[input]]\ndistribution = "normal"\nrows = 4\ncols = 64\n'


class WrongWords(Case):
    """Exit 2, one line, the nearest right name."""

    def setUp(self):
        super().setUp()
        write_safetensors(self.path("in.safetensors"), {"w": floats([1, 32], [1.0] * 32)})

    def refused(self, needles, *words):
        self.fails(2, needles, *words)
        self.leaves("in.safetensors")

    def test_no_verb_lists_the_verbs(self):
        self.refused(VERBS, *[])

    def test_an_unknown_verb_names_the_nearest(self):
        self.refused(["'swep'", "'sweep'"], "swep")
        self.refused(["'quantise'", "'quantize'"], "quantise", "in.safetensors")

    def test_an_unknown_option_names_the_nearest(self):
        self.refused(["'--resum'", "'--resume'"], "sweep", "--resum")
        self.refused(["'--formt'", "'--format'"], *QUANTIZE, "--formt", "nvfp4")
        self.refused(["'--formt'", "'--format'"], *QUANTIZE, "--formt=nvfp4")
        self.refused(["'--thread'", "'--threads'"], "formats", "--thread", "2")

    def test_an_unknown_option_before_the_verb_is_named(self):
        self.refused(["--versoin", "--version"], "--versoin")
        self.refused("-x", "-x")
        self.refused("--json", "--json", "formats")

    def test_a_missing_value_or_argument_is_named(self):
        self.refused("--output", "quantize", "in.safetensors", "--format", "nvfp4")
        self.refused("--format", *QUANTIZE)
        self.refused("--format", *QUANTIZE, "--format")
        self.refused("IN", "quantize", "-o", "out.safetensors", "--format", "nvfp4")
        self.refused("--element", "encode", "in.safetensors", "-o", "out.safetensors")

    def test_an_argument_too_many_is_named(self):
        self.refused("unexpected argument 'extra'", *QUANTIZE, "--format", "nvfp4", "extra", "more")
        self.refused("-z", *QUANTIZE, "--format", "nvfp4", "-z")
        self.refused("extra", "formats", "nvfp4", "extra")

    def test_a_value_that_is_no_number_is_named(self):
        self.refused("--block: 'x' is no number", *QUANTIZE, "--format", "nvfp4", "--block", "x")
        self.refused(["--block", "16.5"], *QUANTIZE, "--format", "nvfp4", "--block", "16.5")
        for threads in ("0", "-1", "many", "99999999999999999999"):
            self.refused(["--threads", threads], "formats", "--threads", threads)
        seeded = [["encode", "in.safetensors", "-o", "out.safetensors", "--element", "e2m1", "--rounding", "stochastic"],
                  [*QUANTIZE, "--format", "nvfp4", "--rounding", "stochastic"],
                  ["decompose", "in.safetensors", "--format", "nvfp4", "--rounding", "stochastic"],
                  ["matmul", "in.safetensors:w", "in.safetensors:w", "--format", "nvfp4", "--rounding", "stochastic"],
                  ["linear", "--input", "in.safetensors:w", "--weight", "in.safetensors:w"]]
        for words in seeded:
            for seed in ("-1", "x"):
                self.refused(f"--seed: '{seed}' is no whole number from 0 on", *words, "--seed", seed)

    def test_an_operands_own_words_are_named_as_they_were_typed(self):
        matmul = ["matmul", "in.safetensors:w", "in.safetensors:w", "--format", "nvfp4"]
        self.refused(["--b-format", "'nvp4'", "'nvfp4'"], *matmul, "--b-format", "nvp4")
        self.refused(["--b-block: 15"], *matmul, "--b-block", "15")
        self.refused(["--b-scale", "'floor'"], *matmul, "--b-scale", "floor")
        self.refused(["fp4scope: --block: 15"], *matmul, "--block", "15")

    def test_an_odd_block_is_refused(self):
        for block in ("15", "1", "-16", "1026"):
            self.refused(["--block", block], *QUANTIZE, "--format", "nvfp4", "--block", block)

    def test_an_unknown_format_names_the_nearest(self):
        self.refused(["'nvp4'", "'nvfp4'", "mxfp4", "nvint4"], *QUANTIZE, "--format", "nvp4")
        self.refused(["'NVFP'", "'nvfp4'"], *QUANTIZE, "--format", "NVFP")
        self.refused(["'e4m'", "'e4m3'"], "formats", "e4m")
        self.refused(["'nvp4'", "'nvfp4'"], "formats", "nvp4")

    def test_an_unknown_method_names_the_nearest(self):
        self.refused(["'exhausting'", "'exhaustive'", "sse"], *QUANTIZE, "--format", "nvfp4", "--scale", "exhausting")

    def test_a_method_of_another_format_lists_this_formats(self):
        self.refused(["'floor'", "nvfp4", "naive"], *QUANTIZE, "--format", "nvfp4", "--scale", "floor")
        self.refused(["'4over6'", "mxfp4", "rceil"], *QUANTIZE, "--format", "mxfp4", "--scale", "4over6")

    def test_unknown_words_of_the_other_options_name_the_nearest(self):
        nvfp4 = [*QUANTIZE, "--format", "nvfp4"]
        self.refused(["--select", "'mes'", "'mse'"], *nvfp4, "--select", "mes")
        self.refused(["--nonfinite", "'refuze'", "'refuse'"], *nvfp4, "--nonfinite", "refuze")
        self.refused(["--pad", "'eror'", "'error'"], *nvfp4, "--pad", "eror")
        self.refused(["--recipe", "'exakt'", "exact"], *nvfp4, "--recipe", "exakt")
        self.refused(["--device", "'gpu'", "cpu"], *nvfp4, "--device", "gpu")
        self.refused(["--tensor-scale", "'amex'", "amax"], *nvfp4, "--tensor-scale", "amex")
        for value in ("0", "-1", "nan", "inf", "1e60"):
            self.refused(["--tensor-scale", value], *nvfp4, "--tensor-scale", value)
        encode = ["encode", "in.safetensors", "-o", "out.safetensors", "--element"]
        self.refused(["--element", "'e2m2'", "'e2m1'", "e4m3"], *encode, "e2m2")
        self.refused(["--rounding", "'rn'", "'rne'"], *encode, "e2m1", "--rounding", "rn")
        self.refused(["--overflow", "'saturat'", "'saturate'"], *encode, "e2m1", "--overflow", "saturat")
        self.refused(["--recipe", "'cudda'", "'cuda'"], *encode, "e2m1", "--recipe", "cudda")
        self.refused(["--dtype", "'bf17'", "bf16"], "dequantize", "in.safetensors", "-o", "out.safetensors", "--dtype", "bf17")

    def test_what_is_designed_but_not_built_says_so_and_what_there_is(self):
        nvfp4 = [*QUANTIZE, "--format", "nvfp4"]
        self.refused(["--scale", "scalesweep has no naive", "there are: scalesweep"], *nvfp4, "--recipe", "scalesweep")

    def test_a_recipe_refuses_what_its_source_does_not_have(self):
        nvfp4, mxfp4 = [*QUANTIZE, "--format", "nvfp4"], [*QUANTIZE, "--format", "mxfp4"]
        self.refused(["--recipe", "'tee'", "'te'"], *nvfp4, "--recipe", "tee")
        for name in ("vllm", "cutlass", "modelopt_triton"):
            self.refused([f"'{name}'", "whose bits depend on the GPU", f"{name}_hopper"], *nvfp4, "--recipe", name)
        self.refused(["'ggml_cuda'", "lg2.approx", "not built", "exact, rational, te"], *nvfp4, "--recipe", "ggml_cuda")
        self.refused(["'ml_dtypes'", "fp4scope encode"], *nvfp4, "--recipe", "ml_dtypes")
        self.refused(["'te' has no mxfp4", "nvfp4"], *mxfp4, "--recipe", "te")
        self.refused(["--scale", "te has no sse", "naive, static6, 4over6"], *nvfp4, "--recipe", "te", "--scale", "sse")
        self.refused(["hessian", "order nobody defines"], *nvfp4, "--recipe", "qwantize", "--scale", "hessian")
        self.refused(["--block", "te has blocks of 16"], *nvfp4, "--recipe", "te", "--block", "32")
        self.refused(["--tensor-scale", "te does not take 'none'", "amax"], *nvfp4, "--recipe", "te", "--tensor-scale", "none")
        self.refused(["--tensor-scale", "qwantize has no tensor scale"], *nvfp4, "--recipe", "qwantize", "--tensor-scale", "amax")
        self.refused(["--scale-max", "no effect"], *nvfp4, "--recipe", "qwantize", "--scale-max", "256")
        self.refused(["--select", "te has no absmax", "mse, mae"], *nvfp4, "--recipe", "te", "--scale", "4over6", "--select", "absmax")
        self.refused(["--block-2d", "torchao has no square blocks"], *nvfp4, "--recipe", "torchao", "--block-2d")
        self.refused(["--rounding", "te has no choice"], *nvfp4, "--recipe", "te", "--rounding", "rne")
        self.refused(["--rounding", "microxcaling has no stochastic", "rna, rtz, rne"], *mxfp4, "--recipe", "microxcaling",
                     "--rounding", "stochastic")
        self.refused(["--hadamard", "te has 16 points"], *nvfp4, "--recipe", "te", "--hadamard", "--hadamard-size", "32")

    def test_a_word_of_a_transform_or_a_rounding_without_effect_is_refused(self):
        nvfp4 = [*QUANTIZE, "--format", "nvfp4"]
        self.refused(["--hadamard-size", "no effect", "--hadamard"], *nvfp4, "--hadamard-size", "32")
        self.refused(["--hadamard-seed", "no effect", "--hadamard"], *nvfp4, "--hadamard-seed", "3")
        self.refused(["--hadamard-size", "48", "power of two"], *nvfp4, "--hadamard", "--hadamard-size", "48")
        self.refused(["--seed", "no effect", "--rounding stochastic"], *nvfp4, "--seed", "3")
        self.refused(["--rounding", "'stochastik'", "'stochastic'"], *nvfp4, "--rounding", "stochastik")
        self.refused(["--rounding", "exact has no rna", "rne, stochastic"], *nvfp4, "--rounding", "rna")
        self.refused(["stochastic_unbiased", "sse is a search"], *nvfp4, "--scale", "sse", "--rounding", "stochastic_unbiased")
        for method in ("macro", "macro_search", "macro_oas_search", "residual", "residual_half"):
            self.refused([f"--scale: {method}'s codes have no place in a quantized file", "--fake-quant, or a sweep"],
                         *QUANTIZE, "--format", "mxfp4", "--scale", method)
            self.refused(["--certificate", f"{method} is no search"], *QUANTIZE, "--format", "mxfp4", "--scale", method, "--certificate")
        self.refused(["--block", "24 does not divide macro's 128 columns"], *QUANTIZE, "--format", "mxfp4", "--scale", "macro", "--block", "24")
        self.refused(["--scale", "macro does more than choose scales"], "bench", "search", "--format", "mxfp4", "--scale", "macro")
        self.refused(["--block-2d", "64 x 64", "at most 32 x 32"], *nvfp4, "--block", "64", "--block-2d")
        self.refused(["--block-2d", "hessian has no square blocks"], *nvfp4, "--scale", "hessian", "--block-2d",
                     "--activations", "x.safetensors")

    def test_dequantize_and_fake_quant_exclude_each_other(self):
        self.refused("--fake-quant", *QUANTIZE, "--format", "nvfp4", "--fake-quant", "--dequantize")

    def test_hessian_without_activations_says_what_is_missing(self):
        self.refused(["hessian", "--activations"], *QUANTIZE, "--format", "nvfp4", "--scale", "hessian")


class WrongToml(Case):
    """A configuration's mistakes: exit 2, its line, the nearest right name."""

    def refused(self, needles, text, line=None):
        self.path("c.toml").write_text(text, encoding="utf-8")
        self.fails(2, [needles] if isinstance(needles, str) else needles, "sweep", "c.toml", "-o", "out.h5")
        if line:
            self.fails(2, f"c.toml:{line}: ", "sweep", "c.toml", "-o", "out.h5")
        self.leaves("c.toml")

    def grid(self, needles, text):
        """The mistake stands in line 6."""
        self.refused(needles, f"{SMALL}[[quantize]]\n{text}\n", 6)

    def test_broken_toml_names_its_line(self):
        self.refused([], "seed = 1\n[[input]\n", 2)

    def test_an_unknown_key_names_the_nearest(self):
        self.refused(["'sead'", "'seed'"], "sead = 1\n" + SMALL + "[[quantize]]\n", 1)
        self.refused(["'colls'", "'cols'", "[input]"], '[[input]]\ndistribution = "normal"\ncolls = 3\n[[quantize]]\n', 3)
        self.grid(["'method'", "'methods'"], 'method = ["sse"]')
        self.refused(["'token'", "'tokens'"], SMALL + "[activations]\ntoken = 3\n[[quantize]]\n", 6)

    def test_the_names_on_offer_are_listed_once(self):
        self.path("c.toml").write_text(SMALL + '[[quantize]]\nformatz = 1\nformats = ["nvfp4"]\nselect = "mse"\n', encoding="utf-8")
        line = self.fails(2, "there are: ", "sweep", "c.toml", "-o", "out.h5").stderr
        names = line.split("there are: ")[1].strip(" )\n").split(", ")
        self.assertEqual(len(names), len(set(names)), line)

    def test_an_unknown_value_names_the_nearest(self):
        self.refused(["'norml'", "'normal'", "laplace"], '[[input]]\ndistribution = "norml"\n[[quantize]]\n', 2)
        self.refused(["'bf61'", "'bf16'"], SMALL + 'dtype = "bf61"\n[[quantize]]\n', 5)
        self.refused(["'propagat'", "'propagate'"], 'nonfinite = "propagat"\n' + SMALL + "[[quantize]]\n", 1)
        self.grid(["'nvp4'", "'nvfp4'"], 'formats = ["nvp4"]')
        self.grid(["'exhaust'", "'exhaustive'"], 'methods = ["exhaust"]')
        self.grid(["'mxe'", "'mse'"], 'select = ["mxe"]')
        self.grid(["'norml'", "'normal'"], 'inputs = ["norml"]')
        self.grid(["'amex'", "amax"], 'tensor_scale = ["amex"]')

    def test_an_unknown_tensor_scale_lists_what_there_is(self):
        self.grid(["'searh'", "amax", "search", "headroom", "soar"], 'tensor_scale = ["searh"]')

    def test_a_value_of_the_wrong_type_names_its_key(self):
        self.grid("'blocks'", 'blocks = "x"')
        self.grid("'blocks'", "blocks = []")
        self.grid("'formats'", "formats = [true]")
        self.refused("'per_block'", "per_block = 1\n" + SMALL + "[[quantize]]\n", 1)
        self.refused("'sigma'", SMALL + 'sigma = "x"\n[[quantize]]\n', 5)

    def test_a_number_out_of_range_is_refused(self):
        self.grid("15", "blocks = [15]")
        self.grid("4294967312", "blocks = [4294967312]")
        self.grid("scale_max", "scale_max = -1")
        self.grid("scale_max", "scale_max = 4294967744")  # 448 in 32 bits
        self.refused("'rows'", '[[input]]\ndistribution = "normal"\nrows = 0\n[[quantize]]\n', 3)
        self.refused("seed", "seed = -1\n" + SMALL + "[[quantize]]\n", 1)

    def test_an_input_has_a_file_or_a_distribution(self):
        self.refused(["file", "distribution"], "[[input]]\nrows = 3\n[[quantize]]\n")
        self.refused(["file", "distribution"], '[[input]]\nfile = "x.npy"\ndistribution = "normal"\n[[quantize]]\n', 3)

    def test_a_key_of_a_distribution_beside_a_file_is_refused(self):
        self.refused("'rows'", '[[input]]\nfile = "x.npy"\nrows = 3\n[[quantize]]\n', 3)

    def test_missing_sections_and_twins_are_refused(self):
        self.refused("[[input]]", "[[quantize]]\n")
        self.refused("[[quantize]]", SMALL)
        self.refused("'normal'", SMALL + SMALL + "[[quantize]]\n")

    def test_nothing_to_do_is_an_error(self):
        self.path("c.toml").write_text(SMALL + '[[quantize]]\nmethods = ["hessian"]\n', encoding="utf-8")
        outcome = self.run_here("sweep", "c.toml", "-o", "out.h5")
        self.assertEqual(outcome.returncode, 2)
        self.assertIn("[activations]", outcome.stderr)  # it says why
        self.leaves("c.toml")


class Help(Case):
    """--help, --version, formats."""

    def test_help_lists_the_verbs(self):
        text = self.succeeds("--help").stdout
        for verb in VERBS:
            self.assertRegex(text, rf"(?m)^  {verb} ")
            self.assertIn("--json", self.succeeds(verb, "--help").stdout)

    def test_version_is_one_line(self):
        self.assertRegex(self.succeeds("--version").stdout, r"\Afp4scope \d+\.\d+\.\d+ \(\S+\)\n\Z")

    def test_formats_lists_elements_and_block_formats(self):
        text = self.succeeds("formats").stdout
        for name in ("e2m1 e2m3 e3m2 e3m4 e4m3 e4m3_ieee e5m2 ue8m0 ue4m3 ue5m3 ue4m4 e1m2 int4 bf16 fp16 nvfp4 mxfp4 nvint4").split():
            self.assertRegex(text, rf"(?m)^{name} ")
        j = json.loads(self.succeeds("formats", "--json").stdout)
        self.assertEqual([f["name"] for f in j["block_formats"]], ["nvfp4", "mxfp4", "nvint4", "if4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8", "mxint4"])
        e5m2 = next(f for f in j["elements"] if f["name"] == "e5m2")
        self.assertEqual((e5m2["bits"], e5m2["exponent_bits"], e5m2["mantissa_bits"], e5m2["bias"], e5m2["max"]), (8, 5, 2, 15, 57344))

    def test_formats_of_one_name_gives_every_code(self):
        self.assertEqual(self.succeeds("formats", "e4m3").stdout.count("\n0x"), 256)
        codes = json.loads(self.succeeds("formats", "e4m3", "--json").stdout)["codes"]
        self.assertEqual([c["code"] for c in codes], list(range(256)))
        for code in range(127):
            self.assertEqual(codes[code]["value"], e4m3(code))
            self.assertEqual(codes[code | 128]["value"], -e4m3(code))
            self.assertEqual(codes[code]["significand"] * 2.0 ** codes[code]["exponent"], e4m3(code))
        self.assertEqual([codes[c]["class"] for c in (0, 1, 8, 127, 255)], ["zero", "subnormal", "normal", "nan", "nan"])
        scales = json.loads(self.succeeds("formats", "ue8m0", "--json").stdout)["codes"]
        self.assertEqual([c["value"] for c in scales[:255]], [ue8m0(code) for code in range(255)])
        e2m1 = json.loads(self.succeeds("formats", "e2m1", "--json").stdout)["codes"]
        self.assertEqual([c["value"] for c in e2m1[:8]], LEVELS["e2m1"])

    def test_a_full_standard_output_is_an_error(self):
        for words in (["formats"], ["formats", "e4m3", "--json"]):
            with open("/dev/full", "w", encoding="utf-8") as full:
                outcome = subprocess.run(harness.command(*words), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual(outcome.returncode, 1, words)
            self.check_line(outcome.stderr, "No space left on device")


class Encode(Case):
    """Codes typed by hand."""

    def encode(self, element, values, *words):
        write_safetensors(self.path("in.safetensors"), {"x": floats([len(values)], values)})
        self.succeeds("encode", "in.safetensors", "-o", "out.safetensors", "--element", element, *words)
        codes = read_safetensors(self.path("out.safetensors"))[0]["x.codes"]
        self.assertEqual(codes.dtype, "U16" if element in ("bf16", "fp16") else "U8")
        self.assertEqual(codes.shape, [len(values)])
        return codes.numbers()

    def check(self, element, table, *words):
        self.assertEqual(self.encode(element, list(table), *words), list(table.values()))

    def test_e2m1_rounds_ties_to_even_and_saturates(self):
        self.check("e2m1", {0.0: 0, 0.25: 0, 0.2500001: 1, 0.5: 1, 0.75: 2, 0.7499999: 1, 1.0: 2, 1.25: 2, 1.5: 3, 1.75: 4, 2.5: 4, 2.6: 5, 3.5: 6,
                            4.0: 6, 5.0: 6, 5.0000005: 7, 6.0: 7, 1e30: 7, math.inf: 7, -0.25: 8, -0.75: 10, -1.75: 12, -5.0: 14, -7.0: 15, 1e-45: 0})
        self.assertEqual(self.encode("e2m1", [-0.0, math.nan]), [8, 7])

    def test_e2m1_in_the_other_directions(self):
        self.check("e2m1", {0.25: 1, 0.75: 2, 1.25: 3, -2.5: 13, 5.0: 7, 0.2499: 0}, "--rounding", "rna")
        self.check("e2m1", {0.49: 0, 5.9: 6, -5.9: 14, -0.49: 8, 7.0: 7}, "--rounding", "rtz")
        self.check("e2m1", {0.01: 1, -0.01: 8, 4.1: 7, -4.1: 14, 6.1: 7}, "--rounding", "rup")
        self.check("e2m1", {0.01: 0, -0.01: 9, 4.1: 6, -4.1: 15, -6.1: 15}, "--rounding", "rdn")

    def test_e4m3_rounds_ties_to_even_and_saturates(self):
        table = {1.0: 0x38, 1.0625: 0x38, 1.125: 0x39, 1.1875: 0x3A, 2.0**-9: 1, 2.0**-10: 0, 3 * 2.0**-10: 2, 2.0**-6: 8, 448.0: 0x7E, 464.0: 0x7E,
                 -1.0: 0xB8, -448.0: 0xFE}
        self.check("e4m3", {**table, 465.0: 0x7E, 1e30: 0x7E, math.inf: 0x7E, -math.inf: 0xFE})
        self.check("e4m3", {**table, 464.00003: 0x7F, 465.0: 0x7F, math.inf: 0x7F}, "--overflow", "nan")
        self.assertEqual(self.encode("e4m3", [math.nan, -0.0]), [0x7F, 0x80])

    def test_ue8m0_rounds_ties_up_and_clamps(self):
        self.check("ue8m0", {1.0: 127, 2.0: 128, 1.4999999: 127, 1.5: 128, 3.0: 129, 0.0: 0, -1.0: 0, 2.0**-127: 0, 2.0**-126: 1, 2.0**127: 254,
                             math.inf: 254, 3e38: 254})
        self.check("ue8m0", {1.0: 127, 0.0: 255, -1.0: 255, math.inf: 255}, "--overflow", "nan")
        self.assertEqual(self.encode("ue8m0", [math.nan]), [255])

    def test_int4_is_symmetric(self):
        self.check("int4", {0.5: 0, 1.5: 2, 2.5: 2, 7.0: 7, 7.5: 7, 100.0: 7, -1.0: 15, -7.0: 9, -8.0: 9, -0.4: 0})

    def test_bf16_and_fp16_give_u16(self):
        self.check("bf16", {1.0: 0x3F80, 1.00390625: 0x3F80, 1.01171875: 0x3F82, -2.0: 0xC000, math.inf: 0x7F7F, 3.4028234663852886e38: 0x7F7F})
        self.check("bf16", {math.inf: 0x7F80, -math.inf: 0xFF80, 3.4028234663852886e38: 0x7F80}, "--overflow", "nan")
        self.assertEqual(self.encode("bf16", [math.nan, -0.0]), [0x7FC0, 0x8000])
        self.check("fp16", {1.0: 0x3C00, 65504.0: 0x7BFF, 65519.0: 0x7BFF, 1e9: 0x7BFF, 2.0**-24: 1, 2.0**-25: 0, 3 * 2.0**-25: 2})

    def test_every_shape_and_name_is_kept_and_the_rest_skipped_with_a_word(self):
        write_safetensors(self.path("in.safetensors"),
                          {"a/b.c": floats([2, 1, 3], [0.5, 1, 1.5, 2, 3, 4]), "scalar": floats([], [6.0]), "none": floats([0, 4], []),
                           "wide": Tensor("F64", [1], struct.pack("<d", 1.0))})
        outcome = self.succeeds("encode", "in.safetensors", "-o", "out.safetensors", "--element", "e2m1", "--json")
        self.assertEqual(outcome.stderr.count("\n"), 1)
        self.assertIn("wide skipped", outcome.stderr)
        self.assertEqual(json.loads(outcome.stdout)["values"], 7)
        self.assertEqual(read_safetensors(self.path("out.safetensors"))[0],
                         {"a/b.c.codes": Tensor("U8", [2, 1, 3], bytes([1, 2, 3, 4, 5, 6])), "scalar.codes": Tensor("U8", [], b"\7"),
                          "none.codes": Tensor("U8", [0, 4], b"")})
        self.leaves("in.safetensors", "out.safetensors")

    def test_the_counts_are_right(self):
        write_safetensors(self.path("in.safetensors"), {"x": floats([6], [1.0, 1.1, 0.1, 100.0, math.nan, -0.0])})
        j = json.loads(self.succeeds("encode", "in.safetensors", "-o", "out.safetensors", "--element", "e2m1", "--json").stdout)
        self.assertEqual((j["values"], j["inexact"], j["underflow"], j["overflow"], j["nan"]), (6, 3, 1, 1, 1))

    def test_stochastic_rounding_is_fair_and_follows_its_seed_alone(self):
        words = ["--rounding", "stochastic"]
        values = [0.125] * 4000 + [1.0] * 10
        first = self.encode("e2m1", values, *words)
        self.assertEqual(first[4000:], [2] * 10)
        self.assertLess(abs(sum(first[:4000]) / 4000 - 0.25), 0.04)  # 5.8 standard deviations
        self.assertEqual(self.encode("e2m1", values, *words, "--threads", "3"), first)
        self.assertNotEqual(self.encode("e2m1", values, *words, "--seed", "2"), first)
