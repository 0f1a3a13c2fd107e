"""recipes and crosscheck --recipes: counts against two recipes in fractions, the reasons, the files, what is refused."""
import json
import random
import re
import signal
import statistics
import struct
import subprocess
import time
import unittest
from fractions import Fraction

import reference
from harness import Case, Tensor, command, floats, write_safetensors

NVFP4 = ["exact", "rational", "te", "te_ref", "te_fast", "fouroversix", "modelopt_dyn", "modelopt_export", "modelopt_fakequant", "torchao",
         "compressed_tensors", "compressed_tensors_bf16", "vllm_emulation", "flashinfer", "fpquant", "fpquant_bf16", "qwantize", "ggml",
         "flashinfer_hopper", "vllm_hopper", "cutlass_hopper", "vllm_emulation_triton_hopper", "modelopt_triton_hopper", "modelopt_triton_dyn_hopper"]
REFUSED = {"flashinfer_fast": ("rcp.approx.ftz", "flashinfer_hopper"), "trtllm": ("rcp.approx.ftz", "flashinfer_hopper"),
           "vllm": ("rcp.approx.ftz", "vllm_hopper"), "cutlass": ("rcp.approx.ftz", "cutlass_hopper"), "modelopt_triton": ("div.full", "modelopt_triton_hopper"),
           "modelopt_triton_dyn": ("div.full", "modelopt_triton_dyn_hopper"), "modelopt_cuda_ext": ("div.approx.ftz", ""),
           "ggml_cuda": ("div.approx.ftz and lg2.approx", ""), "vllm_emulation_triton": ("div.full", "vllm_emulation_triton_hopper")}
COLUMNS = ["first", "second", "dtype", "blocks", "elements", "scales_differ", "blocks_differ", "blocks_differ_error", "codes_differ", "values_differ", "example"]
CROSSCHECK = ["crosscheck", "--recipes", "in.safetensors"]
TWO = ["--recipe", "te", "--recipe", "modelopt_dyn"]

rounded = reference.to_float32


def bf16(bits):
    return struct.unpack(">f", struct.pack(">HH", bits, 0))[0]


def te(a, b, xs):
    """(scale code, codes, decode scale) of a block: b * (S * fl(1/6)), x * (1 / (s * D))."""
    encode = rounded(2688 / a)
    decode = rounded(1 / encode)
    v = rounded(b * rounded(encode * rounded(Fraction(1, 6))))
    code = reference.nearest([reference.e4m3(c) for c in range(127)], v)
    factor = rounded(1 / rounded(reference.e4m3(code) * decode))
    return code, [reference.element_code("e2m1", float(rounded(Fraction(x) * factor)), 1) for x in xs], decode


def modelopt_dyn(a, b, xs):
    """b / (6 D), x / (s * D), no scale below 2^-9."""
    decode = rounded(a / 2688)
    v = rounded(b / rounded(6 * decode))
    code = max(1, reference.nearest([reference.e4m3(c) for c in range(127)], v))
    divisor = rounded(reference.e4m3(code) * decode)
    return code, [reference.element_code("e2m1", float(rounded(Fraction(x) / divisor)), 1) for x in xs], decode


def differences(rows):
    """What the two recipes differ in: counts for one tensor."""
    amax = max(abs(Fraction(x)) for row in rows for x in row)
    count = dict.fromkeys(["blocks", "elements", "scales_differ", "blocks_differ", "codes_differ", "values_differ"], 0)
    for row in rows:
        for at in range(0, len(row), 16):
            xs = row[at:at + 16]
            b = max(abs(Fraction(x)) for x in xs)
            (scale, codes, decode), (scale2, codes2, decode2) = te(amax, b, xs), modelopt_dyn(amax, b, xs)
            codes_differ = sum(p != q for p, q in zip(codes, codes2))
            count["blocks"] += 1
            count["elements"] += 16
            count["scales_differ"] += scale != scale2
            count["blocks_differ"] += scale != scale2 or codes_differ > 0
            count["codes_differ"] += codes_differ
            count["values_differ"] += sum(reference.element("e2m1", p) * reference.e4m3(scale) * decode !=
                                          reference.element("e2m1", q) * reference.e4m3(scale2) * decode2 for p, q in zip(codes, codes2))
    return count


def normal(seed, dtype, rows=16, cols=64):
    rng = random.Random(seed)
    return [[float(reference.to_dtype(Fraction(rng.gauss(0, 1)), dtype)) for _ in range(cols)] for _ in range(rows)]


def tensor(rows, dtype="BF16"):
    return floats([len(rows), len(rows[0])], [x for row in rows for x in row], dtype)


# Two bf16 blocks whose second scale is the tie 168, which modelopt_dyn's divisions push up; and two with the code tie -1.75.
SCALE_WITNESS = [[bf16(0x408E)] + [0.0] * 15 + [bf16(0x3FD5)] + [0.0] * 15]
CODE_WITNESS = [[bf16(0x4079)] + [0.0] * 15 + [bf16(0x4010), bf16(0xBF26)] + [0.0] * 14]


class Recipes(Case):
    """The list."""

    def test_the_text_has_every_recipe_once_a_row_and_json_the_same(self):
        j = json.loads(self.succeeds("recipes", "--json").stdout)
        text = self.succeeds("recipes").stdout
        table, refused = text.split("\n\n")
        rows = [re.split(r"  +", line) for line in table.splitlines()]
        self.assertEqual(rows[0], ["recipe", "format", "scale", "what it does"])
        self.assertEqual([row[:3] for row in rows[1:]], [[r["name"], r["format"], r["methods"]] for r in j["recipes"]])
        pairs = [(row[0], row[1], method) for row in rows[1:] for method in row[2].split()]
        self.assertEqual(len(set(pairs)), len(pairs))
        self.assertEqual(rows[1][:3], ["exact", "every", "every"])
        self.assertEqual({row[0] for row in rows[1:] if row[1] in ("every", "nvfp4")}, {*NVFP4, "scalesweep"})  # which has no naive
        self.assertTrue(all(r["meaning"] for r in j["recipes"]))
        self.assertEqual({r["name"]: (r["instruction"], r["hopper"]) for r in j["refused"]}, REFUSED)
        self.assertEqual(refused.splitlines()[1:], [f"  {name} ({instruction}){': ' * bool(row)}{row}" for name, (instruction, row) in REFUSED.items()])
        self.assertLessEqual({row for _, row in REFUSED.values() if row}, {r["name"] for r in j["recipes"]})

    def test_a_refused_recipe_names_its_instruction_when_asked_for(self):
        write_safetensors(self.path("in.safetensors"), {"w": floats([1, 16], [1.0] * 16)})
        for name, (instruction, row) in REFUSED.items():
            self.fails(2, ["--recipe", f"'{name}'", instruction, row], "quantize", "in.safetensors", "-o", "out.safetensors", "--format", "nvfp4", "--recipe", name)
        self.leaves("in.safetensors")


class Counts(Case):
    """What differs, counted."""

    def pairs(self, tensors, *words):
        write_safetensors(self.path("in.safetensors"), tensors)
        outcome = self.succeeds(*CROSSCHECK, *words, "--json")
        self.assertEqual(outcome.stderr, "")
        pairs = json.loads(outcome.stdout)["pairs"]
        for pair in pairs:
            self.assertEqual(list(pair), COLUMNS)
        return pairs

    def test_the_scale_witness_differs_in_one_scale_with_its_reason(self):
        pair, = self.pairs({"w": tensor(SCALE_WITNESS)}, *TWO)
        expected = differences(SCALE_WITNESS)
        self.assertEqual((expected["scales_differ"], expected["codes_differ"]), (1, 0))
        self.assertEqual(pair, {"first": "te", "second": "modelopt_dyn", "dtype": "BF16", "blocks_differ_error": 0.0, **expected, "example": pair["example"]})
        self.assertEqual(pair["example"].splitlines(), [
            "w, row 0, block 1",
            "  a = 4.4375 (0x408e0000), b = 1.6640625 (0x3fd50000)",
            "  448 b / a = 168 in real numbers, halfway between 0x72 (160) and 0x73 (176)",
            "  te                       scale 0x72 (160): S = 2688 / a = 605.74646, fl(1/6) = 0.16666667, S * fl(1/6) = 100.95775, v = b * (S * fl(1/6)) = 168",
            "  modelopt_dyn             scale 0x73 (176): D = a / 2688 = 0.0016508556, 6 * D = 0.009905133, v = b / (6 * D) = 168.00002",
            "    decided by any one of these roundings: 'a / 2688', '6 * D'"])

    def test_the_code_witness_differs_in_one_code_with_its_reason(self):
        pair, = self.pairs({"w": tensor(CODE_WITNESS)}, *TWO)
        expected = differences(CODE_WITNESS)
        self.assertEqual((expected["scales_differ"], expected["codes_differ"]), (0, 1))
        self.assertEqual({key: pair[key] for key in expected}, expected)
        lines = pair["example"].splitlines()
        self.assertEqual(lines[:3], ["w, row 0, block 1, element 1", "  a = 3.890625 (0x40790000), s = 256, x = -0.6484375 (0xbf260000)",
                                     "  x / (s * a / 2688) = -1.75 in real numbers, halfway between 1.5 and 2"])
        self.assertTrue(lines[3].startswith("  te                       code 0xb (-1.5): S = 2688 / a = 690.89154, D = 1 / S = "), lines[3])
        self.assertEqual(lines[4], "    decided by one rounding: '2688 / a'")
        self.assertTrue(lines[5].startswith("  modelopt_dyn             code 0xc (-2): D = a / 2688 = "), lines[5])

    def test_recipes_that_agree_have_no_example(self):
        pair, = self.pairs({"w": tensor(SCALE_WITNESS)}, "--recipe", "te", "--recipe", "flashinfer")
        self.assertEqual([pair[key] for key in COLUMNS[3:]], [2, 32, 0, 0, 0.0, 0, 0, ""])

    def test_counts_on_random_data_equal_the_fractions_for_each_dtype(self):
        data = {("BF16", n): normal(n, "BF16") for n in range(3)}
        data["F32", 0] = normal(9, "F32", 4, 48)
        for n, amax in enumerate((0x408E, 0x4079, 0x408C)):  # such have many ties
            data["BF16", n][0][0] = bf16(amax)
        pairs = self.pairs({f"{dtype}.{n}": tensor(rows, dtype) for (dtype, n), rows in data.items()}, *TWO)
        self.assertEqual([pair["dtype"] for pair in pairs], ["BF16", "F32"])
        for pair in pairs:
            counts = [differences(rows) for (dtype, _), rows in data.items() if dtype == pair["dtype"]]
            for key in counts[0]:
                self.assertEqual(pair[key], sum(c[key] for c in counts), (pair["dtype"], key))
            shares = [c["blocks_differ"] / c["blocks"] for c in counts]
            error = statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else 0
            self.assertAlmostEqual(pair["blocks_differ_error"], error, places=12)
        self.assertGreater(pairs[0]["codes_differ"], 0)

    def test_every_pair_is_there_once_in_the_order_of_the_recipes(self):
        pairs = self.pairs({"w": tensor(SCALE_WITNESS)})
        self.assertEqual([(p["first"], p["second"]) for p in pairs], [(a, b) for i, a in enumerate(NVFP4) for b in NVFP4[i + 1:]])
        scales = {p["second"] for p in pairs if p["first"] == "rational" and p["scales_differ"]} - {"qwantize", "ggml"}
        self.assertEqual(scales, {"modelopt_dyn", "modelopt_fakequant"})
        self.assertEqual(pairs[0]["scales_differ"], 1)  # exact rounds a / 2688, so it differs from rational too

    def test_mxfp4_counts_by_hand(self):
        rows = [[7.0, 1.75, -0.375] + [0.5] * 29]  # floor: 1, up from amax / 6: 2; 1.75 is a tie
        words = ["--format", "mxfp4", "--recipe", "ocp", "--recipe", "ggml", "--recipe", "modelopt_mxfp4"]
        pairs = {(p["first"], p["second"]): p for p in self.pairs({"w": tensor(rows)}, *words)}
        self.assertEqual(set(pairs), {("modelopt_mxfp4", "ocp"), ("modelopt_mxfp4", "ggml"), ("ocp", "ggml")})
        same_scales = pairs["ocp", "ggml"]
        self.assertEqual([same_scales[key] for key in COLUMNS[3:-1]], [1, 32, 0, 1, 0.0, 1, 1])
        self.assertIn("w, row 0, block 0, element 1\n", same_scales["example"])
        self.assertIn("the first of the least |q * s - x|", same_scales["example"])
        # 7 -> 3.5, a tie toward zero: 3 * 2; 1.75 -> 0.875: 1 * 2; -0.375 -> -0; 0.5 -> 0.25, a tie toward zero: 0
        self.assertEqual([pairs["modelopt_mxfp4", "ocp"][key] for key in COLUMNS[3:-1]], [1, 32, 1, 1, 0.0, 32, 30])
        self.assertIn("v = b / 6 = 1.1666666, then its own rounding to a scale", pairs["modelopt_mxfp4", "ocp"]["example"])

    def test_globs_choose_tensors_and_others_are_skipped_with_a_word(self):
        write_safetensors(self.path("in.safetensors"), {"a": tensor(SCALE_WITNESS), "b": tensor(CODE_WITNESS), "bias": floats([4], [1.0] * 4)})
        outcome = self.succeeds(*CROSSCHECK, *TWO, "--json")
        self.assertEqual(json.loads(outcome.stdout)["pairs"][0]["blocks"], 4)
        self.assertRegex(outcome.stderr, r"\Afp4scope: bias skipped, [^\n]*\n\Z")
        outcome = self.succeeds(*CROSSCHECK, *TWO, "--json", "--tensor", "b")
        self.assertEqual((json.loads(outcome.stdout)["pairs"][0]["blocks"], outcome.stderr), (2, ""))


class Output(Case):
    """Text, files, and what leaves none."""

    def setUp(self):
        super().setUp()
        write_safetensors(self.path("in.safetensors"), {"w": tensor(SCALE_WITNESS), "x": tensor(normal(1, "BF16"))})

    def test_the_text_has_tables_and_one_paragraph_a_pair(self):
        text = self.succeeds(*CROSSCHECK, "--tensor", "w").stdout
        self.assertIn("\nagainst exact\n", text)
        self.assertIn("\nte and modelopt_dyn, BF16: 1 of 2 scales, 0 of 32 codes, 2 values differ\n  first in w, row 0, block 1\n  a = 4.4375 ", text)
        self.assertEqual(text.count(" values differ\n"), len(NVFP4) * (len(NVFP4) - 1) // 2)
        line, = [line.split() for line in text.split("against rational\n")[1].split("\n\n")[0].splitlines() if line.startswith("modelopt_dyn ")]
        self.assertEqual(line[:5], ["modelopt_dyn", "BF16", "2", "50%", "50%"])
        brief = self.succeeds(*CROSSCHECK, "--tensor", "w", "--brief").stdout
        self.assertTrue(text.startswith(brief))
        self.assertNotIn("first in", brief)

    def test_the_file_has_the_counts_of_json(self):
        try:
            import h5py
        except ImportError:
            raise unittest.SkipTest("no h5py")
        outcome = self.succeeds(*CROSSCHECK, "-o", "out.h5", "--json")
        self.leaves("in.safetensors", "out.h5")
        with h5py.File(self.path("out.h5")) as f:
            self.assertEqual((f.attrs["kind"], f.attrs["format"], f.attrs["inputs"], f.attrs["schema_version"]), ("crosscheck recipes", "nvfp4", "in.safetensors", 1))
            self.assertEqual(set(f["table"]), set(COLUMNS))
            columns = {name: f["table"][name][:].tolist() for name in COLUMNS}
        rows = [{name: v.decode() if isinstance(v, bytes) else v for name, v in zip(COLUMNS, row)} for row in zip(*columns.values())]
        self.assertEqual(rows, json.loads(outcome.stdout)["pairs"])

    def test_any_number_of_threads_gives_the_same_output_and_file(self):
        found = set()
        for threads in ("1", "2"):
            outcome = self.succeeds(*CROSSCHECK, "-o", "out.h5", "--threads", threads)
            found.add((outcome.stdout, self.path("out.h5").read_bytes()))
        self.assertEqual(len(found), 1)

    def refused(self, code, needles, *words, **options):
        self.fails(code, needles, *words, **options)
        self.leaves("in.safetensors")

    def test_wrong_words_are_refused(self):
        out = ["-o", "out.h5"]
        self.refused(2, ["--recipe", "no recipe 'tee' for nvfp4", "'te'", *NVFP4], *CROSSCHECK, *out, "--recipe", "tee", "--recipe", "exact")
        self.refused(2, ["--recipe", "no recipe 'te' for mxfp4", "ocp"], *CROSSCHECK, *out, "--recipe", "te", "--format", "mxfp4")
        self.refused(2, ["--format", "'nvfp5'", "'nvfp4'"], *CROSSCHECK, *out, "--format", "nvfp5")
        self.refused(2, ["--recipe", "fewer than two"], *CROSSCHECK, *out, "--recipe", "te")
        self.refused(2, ["--format", "if4 has one order of operations alone"], *CROSSCHECK, *out, "--format", "if4")
        self.refused(2, ["crosscheck", "required", "--recipes"], "crosscheck", "in.safetensors", *out)

    def test_files_that_hold_nothing_to_compare_are_refused(self):
        out = ["-o", "out.h5"]
        self.refused(1, ["none.safetensors"], "crosscheck", "--recipes", "none.safetensors", *out)
        self.refused(1, ["in.safetensors", "q*"], *CROSSCHECK, *out, "--tensor", "q*")
        write_safetensors(self.path("in.safetensors"), {"ids": Tensor("I64", [2], bytes(16)), "bias": floats([4], [1.0] * 4)})
        self.refused(1, ["in.safetensors", "no tensor"], *CROSSCHECK, *out, notices=2)
        write_safetensors(self.path("in.safetensors"), {})
        self.refused(1, ["in.safetensors", "no tensor"], *CROSSCHECK, *out)

    def test_an_output_that_cannot_be_written_leaves_nothing(self):
        self.refused(1, ["no/out.h5", "cannot write"], *CROSSCHECK, *TWO, "-o", "no/out.h5")
        self.path("folder").mkdir()
        self.fails(1, ["folder"], *CROSSCHECK, *TWO, "-o", "folder")
        self.leaves("folder", "in.safetensors")

    def test_ctrl_c_leaves_nothing(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            child = subprocess.Popen(command("crosscheck", "--recipes", "-o", "out.h5"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder)
            caught = 0
            while not caught >> (number - 1) & 1:  # until it has a handler of its own
                time.sleep(0.02)
                status = open(f"/proc/{child.pid}/status").read()
                caught = int(re.search(r"SigCgt:\s*(\w+)", status).group(1), 16)
            time.sleep(0.3)
            child.send_signal(number)
            out, err = child.communicate(timeout=30)
            self.assertEqual((child.returncode, out), (130, ""))
            self.check_line(err, "interrupted")
            self.leaves("in.safetensors")
