"""mma: a file's operands through a matrix instruction, the list of instructions, and what is refused."""
import json
import os
import struct
import unittest
from fractions import Fraction
from pathlib import Path

from harness import Case, Tensor, read_safetensors, write_safetensors

HOPPER = "mma.m16n8k32.f32.e4m3.e4m3.f32"
WGMMA = "wgmma.m64n8k32.f32.e4m3.e4m3"
NVFP4 = "mma.m16n8k64.block16.f32.e2m1.e2m1.f32.ue4m3"
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def f32(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def bits_of(tensor):
    size = {"F32": "I", "F16": "H"}[tensor.dtype]
    return list(struct.unpack(f"<{len(tensor.data) // struct.calcsize(size)}{size}", tensor.data))


def zeros(dtype, rows, columns):
    return Tensor(dtype, [rows, columns], bytes(rows * columns * {"U8": 1, "F16": 2, "BF16": 2, "F32": 4}[dtype]))


def put(tensor, row, column, value):
    """One entry, by its bits."""
    size = len(tensor.data) // (tensor.shape[0] * tensor.shape[1])
    at = (row * tensor.shape[1] + column) * size
    tensor.data = tensor.data[:at] + value.to_bytes(size, "little") + tensor.data[at + size:]


class MmaCase(Case):
    def mma(self, arch, op, tensors, *words):
        write_safetensors(self.path("in.safetensors"), tensors)
        self.outcome = self.succeeds("mma", "--arch", arch, "--op", op, "in.safetensors", "-o", "out.safetensors", *words)
        out, self.metadata = read_safetensors(self.path("out.safetensors"))
        return out


def fp8_operands(m, n, k, prefix="x"):
    return {f"{prefix}.A": zeros("U8", m, k), f"{prefix}.B": zeros("U8", k, n), f"{prefix}.C": zeros("F32", m, n)}


def nvfp4_operands(prefix="x", scale="U8"):
    return {f"{prefix}.A": zeros("U8", 16, 32), f"{prefix}.B": zeros("U8", 32, 8), f"{prefix}.C": zeros("F32", 16, 8),
            f"{prefix}.SA": zeros(scale, 16, 4), f"{prefix}.SB": zeros(scale, 4, 8)}


class Products(MmaCase):
    def test_hopper_adds_c_after_two_steps_with_one_rounding(self):
        x = fp8_operands(16, 8, 32)
        # 1 * 2^-2 from k = 0; C = 2^24 - 1: 2^24 - 3/4 rounds to 2^24 - 1, and 3/4 to 2^24.
        put(x["x.A"], 3, 0, 0x38), put(x["x.B"], 0, 5, 0x28)
        put(x["x.C"], 3, 5, 0x4B7FFFFF)
        put(x["x.A"], 4, 0, 0x34), put(x["x.B"], 0, 6, 0x38)
        put(x["x.C"], 4, 6, 0x4B7FFFFF)
        d = bits_of(self.mma("hopper", HOPPER, x)["x.D"])
        self.assertEqual(f32(d[3 * 8 + 5]), 2**24 - 1)
        self.assertEqual(f32(d[4 * 8 + 6]), 2**24)
        self.assertEqual(f32(d[3 * 8 + 6]), 1)
        self.assertEqual([d[i] for i in range(128) if i not in (29, 30, 37, 38)], [0] * 124)

    def test_wgmma_keeps_13_bits_below_the_greatest_exponent(self):
        x = fp8_operands(64, 8, 32)
        one, small = 0x38, 0x08  # 1 and 2^-6
        put(x["x.A"], 0, 0, 0x78), put(x["x.B"], 0, 0, one)  # 256
        put(x["x.A"], 0, 7, one), put(x["x.B"], 7, 0, small)  # 2^-6 = 256 * 2^-14 is lost
        put(x["x.A"], 0, 8, one), put(x["x.B"], 8, 0, 0x10)  # 2^-5 stays
        put(x["x.C"], 0, 0, 0x3F800001)  # 1 + 2^-23: 1 stays
        d = self.mma("hopper", WGMMA, x)["x.D"]
        self.assertEqual(d.shape, [64, 8])
        self.assertEqual(f32(bits_of(d)[0]), 257 + 2**-5)

    def test_the_order_of_ampere_and_ada_is_by_halves(self):
        # 1 + 2^-24: in one sum with 24 bits kept, in two steps lost by the truncation between them.
        x = {"x.A": zeros("F16", 16, 16), "x.B": zeros("F16", 16, 8), "x.C": zeros("F32", 16, 8)}
        for k, code in ((0, 0x3C00), (1, 0x0001), (8, 0x0001)):
            put(x["x.A"], 0, k, code), put(x["x.B"], k, 0, 0x3C00)
        op = "mma.m16n8k16.f32.f16.f16.f32"
        self.assertEqual(bits_of(self.mma("ampere", op, x)["x.D"])[0], 0x3F800000)
        self.assertEqual(bits_of(self.mma("ada", op, x)["x.D"])[0], 0x3F800000)
        self.assertEqual(bits_of(self.mma("hopper", op, x)["x.D"])[0], 0x3F800001)

    def test_nvfp4_is_the_exact_sum_truncated(self):
        x, want = nvfp4_operands(), Fraction(1)
        for k in range(64):
            a, b = (7 * k + 3) % 16, (5 * k + 1) % 16
            value = Fraction(E2M1[a % 8]) * Fraction(E2M1[b % 8]) * (-1) ** (a // 8 + b // 8)
            want += value * Fraction(9, 8) * (1 + k // 16)
            byte = x["x.A"].data[2 * 32 + k // 2] | a << 4 * (k % 2)
            put(x["x.A"], 2, k // 2, byte)
            put(x["x.B"], k // 2, 1, x["x.B"].data[k // 2 * 8 + 1] | b << 4 * (k % 2))
        for block, code in enumerate((0x38, 0x40, 0x44, 0x48)):  # 1, 2, 3, 4
            put(x["x.SA"], 2, block, 0x39 | (block % 2) << 7)  # 1.125, its sign ignored
            put(x["x.SB"], block, 1, code)
        put(x["x.C"], 2, 1, 0x3F800000)
        d = bits_of(self.mma("blackwell", NVFP4, x)["x.D"])
        self.assertEqual(Fraction(f32(d[2 * 8 + 1])), want)

    def test_nan_is_canonical_and_inf_passes(self):
        x = fp8_operands(16, 8, 32)
        for row, code in ((0, 0x7F), (1, 0xFF)):
            put(x["x.A"], row, 5, code)
        put(x["x.C"], 2, 0, 0xFF800000), put(x["x.C"], 3, 0, 0xFFC12345)
        d = bits_of(self.mma("hopper", HOPPER, x, "--json")["x.D"])
        self.assertEqual(d[:16], [0x7FFFFFFF] * 16)
        self.assertEqual(d[16], 0xFF800000)
        self.assertEqual(d[24], 0x7FFFFFFF)
        said = json.loads(self.outcome.stdout)
        self.assertEqual((said["outputs"], said["nan"], said["infinite"]), (128, 17, 1))

    def test_half_results_and_six_bit_elements(self):
        x = {"x.A": zeros("U8", 16, 32), "x.B": zeros("U8", 16, 8), "x.C": zeros("F16", 16, 8)}
        put(x["x.A"], 1, 3, 0x1F)  # e3m2: 28
        put(x["x.B"], 1, 2, 0x70)  # e2m1, k = 3: 6
        out = self.mma("rtx_blackwell", "mma.m16n8k32.f16.e3m2.e2m1.f16", x)["x.D"]
        self.assertEqual((out.dtype, out.shape), ("F16", [16, 8]))
        self.assertEqual(out.numbers()[10], 168)
        put(x["x.A"], 1, 3, 0x40)
        write_safetensors(self.path("in.safetensors"), x)
        self.fails(1, ["x.A", "[1, 3]", "0x40", "e3m2"], "mma", "--arch", "blackwell", "--op",
                   "mma.m16n8k32.f16.e3m2.e2m1.f16", "in.safetensors", "-o", "no.safetensors")

    def test_tf32_keeps_the_upper_19_bits(self):
        x = {"x.A": zeros("F32", 16, 8), "x.B": zeros("F32", 8, 8), "x.C": zeros("F32", 16, 8)}
        put(x["x.A"], 0, 0, 0x3F801FFF), put(x["x.B"], 0, 0, 0x3F802000)
        self.assertEqual(bits_of(self.mma("hopper", "mma.m16n8k8.f32.tf32.tf32.f32", x)["x.D"])[0], 0x3F802000)

    def test_every_prefix_has_a_product_and_others_are_left(self):
        x = {**fp8_operands(16, 8, 32, "b/x"), **fp8_operands(16, 8, 32, "a"), "notes": zeros("F32", 1, 1)}
        self.assertEqual(sorted(self.mma("hopper", HOPPER, x)), ["a.D", "b/x.D"])
        self.assertIn("products 2", self.outcome.stdout)

    def test_n_of_wgmma_is_free(self):
        x = fp8_operands(64, 24, 32)
        put(x["x.A"], 63, 31, 0x38), put(x["x.B"], 31, 23, 0x40)
        d = self.mma("hopper", WGMMA.replace("n8", "n24"), x)["x.D"]
        self.assertEqual((d.shape, f32(bits_of(d)[-1])), ([64, 24], 2))
        self.assertEqual(self.metadata["instruction"], WGMMA.replace("n8", "n24"))

    def test_m_of_tcgen05_is_64_or_128(self):
        for m in (64, 128):
            x = fp8_operands(m, 16, 32)
            put(x["x.A"], m - 1, 31, 0x38), put(x["x.B"], 31, 15, 0x40)
            d = self.mma("blackwell", f"tcgen05.m{m}n16k32.f32.e4m3.e4m3", x)["x.D"]
            self.assertEqual((d.shape, f32(bits_of(d)[-1])), ([m, 16], 2))

    def test_pytorch_names_of_codes(self):
        x = fp8_operands(16, 8, 32)
        x["x.A"].dtype = x["x.B"].dtype = "F8_E4M3"
        self.assertEqual(bits_of(self.mma("hopper", HOPPER, x)["x.D"]), [0] * 128)

    def test_the_file_says_which_row_and_why(self):
        self.mma("hopper", HOPPER, fp8_operands(16, 8, 32))
        self.assertEqual(self.metadata["instruction"], HOPPER)
        self.assertEqual(self.metadata["architecture"], "hopper")
        self.assertRegex(self.metadata["tool"], r"^fp4scope \d")
        evidence = json.loads(self.metadata["evidence"])
        self.assertEqual((evidence["measured"], evidence["differ"], evidence["device"]), (100663296, 0, "NVIDIA H200"))
        row = json.loads(self.metadata["row"])
        self.assertEqual(row["steps"], [[k for k in range(32) if k % 4 in pair] for pair in ((0, 1), (2, 3))])
        self.assertEqual((row["fraction_bits"], row["c_enters"]), (25, "after all steps"))

    def test_one_name_two_architectures(self):
        # 2^-16 beside 448: kept by 25 bits in either; the C of sm_100 comes after, sm_120's is cut with the products.
        x = fp8_operands(16, 8, 32)
        put(x["x.A"], 0, 0, 0x7E), put(x["x.B"], 0, 0, 0x7E)  # 448 * 448, exponent 16
        put(x["x.A"], 0, 1, 0xFE), put(x["x.B"], 1, 0, 0x7E)
        put(x["x.C"], 0, 0, 0x30800000)  # 2^-30
        self.assertEqual(bits_of(self.mma("blackwell", HOPPER, x)["x.D"])[0], 0x30800000)
        self.assertEqual(bits_of(self.mma("rtx_blackwell", HOPPER, x)["x.D"])[0], 0)

    def test_threads_do_not_matter(self):
        x = {f"x.{name}": Tensor(dtype, shape, bytes((i * 37 + i // 11 * 5) % 0x7F for i in range(size))) for name, dtype, shape, size in
             (("A", "U8", [64, 32], 2048), ("B", "U8", [32, 8], 256), ("C", "F32", [64, 8], 2048))}
        one = self.mma("hopper", WGMMA, x, "--threads", "1")["x.D"]
        self.assertEqual(one, self.mma("hopper", WGMMA, x, "--threads", "3")["x.D"])


class Golden(MmaCase):
    def test_a_published_models_outputs(self):
        shared = Path(os.environ.get("FP4SCOPE_SHARED", "/nowhere")) / "golden" / "mma_sim.safetensors"
        committed = Path(__file__).resolve().parent.parent / "data" / "golden" / "mma_sim.safetensors"
        tensors, _ = read_safetensors(shared if shared.exists() else committed)
        compared = 0
        for key in sorted({name.split("|")[0] for name in tensors}):
            mine = {tuple(name.split("|")[1:]): t for name, t in tensors.items() if name.split("|")[0] == key}
            arch, op = ("hopper", WGMMA) if key == "wgmma" else ("blackwell", "mma." + key)
            out = self.mma(arch, op, {".".join(name): t for name, t in mine.items() if name[1] != "D"})
            for (number, what), want in mine.items():
                if what == "D":
                    self.assertEqual(bits_of(out[number + ".D"]), bits_of(want), f"{key} {number}")
                    compared += len(want.data) // 4
        self.assertGreaterEqual(compared, 3072)


class List(Case):
    def test_rows_with_their_evidence(self):
        rows = json.loads(self.succeeds("mma", "--list", "--json").stdout)["instructions"]
        names = {(row["architecture"], row["name"]) for row in rows}
        self.assertEqual(len(names), len(rows))
        for arch, name in (("hopper", HOPPER), ("hopper", WGMMA), ("hopper", WGMMA + "@interleaved"), ("ada", HOPPER),
                           ("rtx_blackwell", NVFP4), ("volta", "mma.m8n8k4.f32.f16.f16.f32"),
                           ("blackwell", "tcgen05.m128n8k64.block16.f32.e2m1.e2m1.ue4m3")):
            self.assertIn((arch, name), names)
        pairs = {(row["a"], row["b"]) for row in rows if row["architecture"] == "rtx_blackwell" and row["k"] == 32 and row["scale"] is None}
        self.assertEqual(len(pairs), 25)
        for row in rows:
            self.assertTrue(row["evidence"]["model"], row["name"])
            self.assertEqual(sorted(sum(row["steps"], [])), list(range(row["k"])), row["name"])
            if row["a"] in ("e2m3", "e3m2") or row["b"] in ("e2m3", "e3m2"):
                self.assertIn("no FP6", row["evidence"]["model"], row["name"])
        vectors = {(row["architecture"], row["name"]): row["evidence"]["vectors"] for row in rows if row["evidence"]["vectors"]}
        self.assertIn("V100: 0 of 5000 differ", vectors["volta", "mma.m8n8k4.f16.f16.f16.f16"])
        self.assertIn("H100 and H200: 0 of 5000 differ each", vectors["hopper", "mma.m16n8k16.f32.bf16.bf16.f32"])
        self.assertIn("820 of 5000 differ", vectors["hopper", WGMMA + "@interleaved"])
        for row in rows:  # on an H200: every row of Hopper's, where one alone is right of two for an instruction
            evidence, hopper = row["evidence"], row["architecture"] == "hopper"
            self.assertEqual(evidence["measured"], 100663296 if hopper else 0, row["name"])
            self.assertEqual(evidence["differ"] > 0, hopper and row["variant"] == "interleaved", row["name"])
        self.assertTrue(next(row for row in rows if (row["architecture"], row["name"]) == ("hopper", HOPPER))["elements_as_f16"])

    def test_for_people_and_one_architecture(self):
        lines = self.succeeds("mma", "--list", "--arch", "hopper").stdout.splitlines()
        self.assertEqual(lines[0].split()[:2], ["arch", "op"])
        self.assertTrue(all(line.startswith("hopper") for line in lines[1:]))
        (line,) = [line for line in lines if f" {HOPPER} " in line]
        self.assertIn("0 of 100663296 outputs differ", line)
        blackwell = json.loads(self.succeeds("mma", "--list", "--arch", "blackwell", "--json").stdout)["instructions"]
        self.assertEqual({row["architecture"] for row in blackwell if row["name"] in (HOPPER, NVFP4)}, {"blackwell", "rtx_blackwell"})


class Refusals(Case):
    def refused(self, code, needles, *words):
        self.fails(code, needles, "mma", *words)
        self.leaves("in.safetensors")

    def setUp(self):
        super().setUp()
        write_safetensors(self.path("in.safetensors"), fp8_operands(16, 8, 32))

    def op(self, arch, name):
        return ["--arch", arch, "--op", name, "in.safetensors", "-o", "out.safetensors"]

    def test_names(self):
        self.refused(2, ["--arch", "'hoper'", "'hopper'"], *self.op("hoper", HOPPER))
        self.refused(2, ["--op", "mma.m16n8k32.f32.e4m3.e4m3.f33", HOPPER, "--list"], *self.op("hopper", "mma.m16n8k32.f32.e4m3.e4m3.f33"))
        self.refused(2, ["--op", NVFP4, "hopper", "rtx_blackwell"], *self.op("hopper", NVFP4))
        self.refused(2, ["--op", "multiple of 8"], *self.op("hopper", WGMMA.replace("n8", "n12")))
        self.refused(2, ["--op", "multiple of 8"], *self.op("hopper", "wgmma.what"))
        self.refused(2, ["--op"], *self.op("hopper", WGMMA.replace("m64", "m32")))

    def test_missing_words(self):
        for missing, words in (("--arch", ["--op", HOPPER, "in.safetensors", "-o", "o"]), ("--op", ["--arch", "hopper", "in.safetensors", "-o", "o"]),
                               ("IN", ["--arch", "hopper", "--op", HOPPER, "-o", "o"]), ("-o", ["--arch", "hopper", "--op", HOPPER, "in.safetensors"])):
            self.refused(2, [missing, "required"], *words)
        self.refused(2, ["--list"], "--list", "in.safetensors")

    def with_input(self, tensors, needles, arch="hopper", op=HOPPER):
        write_safetensors(self.path("in.safetensors"), tensors)
        self.refused(1, ["in.safetensors", *needles], *self.op(arch, op))

    def test_shapes_and_types(self):
        x = fp8_operands(16, 8, 32)
        self.with_input({**x, "x.A": zeros("U8", 16, 31)}, ["x.A", "[16, 31]", "U8 [16, 32]"])
        self.with_input({**x, "x.B": zeros("U8", 8, 32)}, ["x.B", "[8, 32]", "U8 [32, 8]"])
        self.with_input({**x, "x.C": zeros("F16", 16, 8)}, ["x.C", "F16", "F32 [16, 8]"])
        self.with_input({**x, "x.A": zeros("F32", 16, 32)}, ["x.A", "F32", "U8"])
        self.with_input({**x, "x.SA": zeros("U8", 16, 1)}, ["x.SA", "no scales"])
        self.with_input({"x.A": x["x.A"], "x.C": x["x.C"]}, ["no tensor 'x.B'", "U8 [32, 8]"])
        self.with_input({"y": x["x.A"]}, ["'.A'"])
        y = nvfp4_operands()
        del y["x.SB"]
        self.with_input(y, ["no tensor 'x.SB'", "U8 [4, 8]"], "blackwell", NVFP4)
        self.with_input({**nvfp4_operands(), "x.SA": zeros("U8", 16, 2)}, ["x.SA", "U8 [16, 4]"], "blackwell", NVFP4)

    def test_files(self):
        self.refused(1, "none.safetensors", "--arch", "hopper", "--op", HOPPER, "none.safetensors", "-o", "out.safetensors")
        self.refused(1, "nowhere", "--arch", "hopper", "--op", HOPPER, "in.safetensors", "-o", "nowhere/out.safetensors")


if __name__ == "__main__":
    unittest.main()
