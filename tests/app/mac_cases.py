"""mac: the unit in Python's own numbers against the program's words; its files, its operands, and what it refuses."""
import json
import random
import struct
from fractions import Fraction

from harness import Case, Tensor, floats, read_safetensors, write_safetensors

E2M1 = [Fraction(n, 2) for n in (0, 1, 2, 3, 4, 6, 8, 12)]
GOLDEN = {"nvfp4": (20260403, ["48E076B2", "C66D5C82", "499463B2"]), "if4": (20260402, ["C802A96C", "493F9837", "4A323662"])}


def f32(value):
    """Rounded to binary32: of a double; of a fraction that a double holds, or sums of two, for which twice is harmless."""
    return struct.unpack("<f", struct.pack("<f", float(value)))[0]


def scale(byte):
    payload = min(byte & 127, 126)
    return Fraction(payload, 512) if payload < 8 else (8 + payload % 8) * Fraction(2) ** (payload // 8 - 10)


def element(integer, code):
    if integer:
        return float(code - 16 if code > 7 else code)
    return float(-E2M1[code - 8] if code > 7 else E2M1[code])


def model(form, beats, loads=True):
    """The words of beats (first, a_sf, w_sf, a, w)."""
    words, lanes = [], None

    def close():
        sums = lanes
        while len(sums) > 1:
            sums = [f32(sums[i] + sums[i + 1]) for i in range(0, len(sums), 2)]
        words.append(sums[0])

    for first, a_sf, w_sf, a, w in beats:
        if first and lanes:
            close()
        integers = [form == "if4" and byte > 127 for byte in (a_sf, w_sf)]
        factor = f32(scale(a_sf) * scale(w_sf))
        if any(integers):
            factor = f32(factor * f32(36 / 49 if all(integers) else 6 / 7))
        products = [f32(element(integers[0], x) * element(integers[1], y) * factor) for x, y in zip(a, w, strict=True)]
        if first:
            lanes = products if loads else [0.0 + p for p in products]
        else:
            lanes = [f32(lane + p) for lane, p in zip(lanes, products, strict=True)]
    close()
    return words


def random_beats(form, generator, beats, length):
    codes = [c for c in range(16) if c != 8]
    rows = []
    for i in range(beats):
        sf = [(generator.randrange(2) << 7 if form == "if4" else 0) | generator.randrange(128) for _ in range(2)]
        a, w = ([generator.choice(codes) for _ in range(16)] for _ in range(2))
        rows.append((int(i % length == 0), *sf, a, w))
    return rows


def tensors(rows):
    n = len(rows)
    return {"a": Tensor("U8", [n, 16], b"".join(bytes(r[3]) for r in rows)), "w": Tensor("U8", [n, 16], b"".join(bytes(r[4]) for r in rows)),
            **{name: Tensor("U8", [n], bytes(r[i] for r in rows)) for i, name in enumerate(["first", "a_sf", "w_sf"])}}


def bits(values):
    return [struct.pack(">f", v).hex().upper() for v in values]


class Words(Case):
    def test_the_published_words_come_from_the_published_seeds(self):
        rows = json.loads(self.succeeds("mac", "--golden", "--json").stdout)
        for form, (seed, words) in GOLDEN.items():
            beats = random_beats(form, random.Random(seed), 30, 10)
            self.assertEqual(bits(model(form, beats)), words)
            self.assertEqual([row["word"] for row in rows if row["format"] == form], words)
            self.assertTrue(all(row["same"] and row["seed"] == seed for row in rows if row["format"] == form))
            write_safetensors(self.path("in.safetensors"), tensors(beats))
            self.succeeds("mac", "in.safetensors", "-o", "out.safetensors", "--format", form)
            self.assertEqual(bits(read_safetensors(self.path("out.safetensors"))[0]["acc"].numbers()), words)

    def test_random_segments_have_the_words_of_fractions_and_doubles(self):
        generator = random.Random(1)
        for form in GOLDEN:
            for length in (1, 5, 7, 64):
                beats = random_beats(form, generator, 128, length)
                write_safetensors(self.path("in.safetensors"), tensors(beats))
                outcome = self.succeeds("mac", "in.safetensors", "-o", "out.safetensors", "--format", form, "--trace", "--json")
                told = json.loads(outcome.stdout)
                short = -(-128 // length) if length < 5 else 1 if 0 < 128 % length < 5 else 0
                self.assertEqual((told["beats"], told["segments"], told["short_segments"]), (128, -(-128 // length), short))
                self.assertEqual("would lose their words" in outcome.stderr, short > 0)
                made, metadata = read_safetensors(self.path("out.safetensors"))
                self.assertEqual(bits(made["acc"].numbers()), bits(model(form, beats)))
                self.assertEqual(made["lanes"].shape, [128, 16])
                self.assertEqual((metadata["format"], metadata["first"]), (form, "loads"))

    def test_the_first_beat_loads_or_adds(self):
        beats = [(int(i == 0), 0x38, 0x38, [0] * 16, [9] * 16) for i in range(5)]
        write_safetensors(self.path("in.safetensors"), tensors(beats))
        for rule, word in (("loads", "80000000"), ("adds", "00000000")):
            self.succeeds("mac", "in.safetensors", "-o", "out.safetensors", "--format", "nvfp4", "--first", rule)
            self.assertEqual(bits(read_safetensors(self.path("out.safetensors"))[0]["acc"].numbers()), [word])

    def test_two_quantized_tensors_are_dot_products_of_their_codes(self):
        generator = random.Random(2)
        for form in GOLDEN:
            operands = {}
            for name, rows in (("a", 3), ("w", 4)):
                values = [f32(generator.gauss(0, 1)) for _ in range(rows * 96)]
                write_safetensors(self.path(name + ".safetensors"), {name: floats([rows, 96], values)})
                self.succeeds("quantize", name + ".safetensors", "-o", f"q{name}.safetensors", "--format", form)
                q = read_safetensors(self.path(f"q{name}.safetensors"))[0]
                codes = [n for byte in q[name + ".codes"].data for n in (byte & 15, byte >> 4)]
                operands[name] = (codes, q[name + ".scales"].data, rows)
            minus = sum(code == 8 for codes, _, _ in operands.values() for code in codes)
            words = ["mac", "--from", "qa.safetensors", "--with", "qw.safetensors:w", "-o", "out.safetensors", "--format", form]
            self.assertGreater(minus, 0)
            self.fails(1, ["0x8 (-0)", "row ", "column ", "--canonicalize"], *words)
            told = json.loads(self.succeeds(*words, "--canonicalize", "--json").stdout)
            self.assertEqual((told["canonicalized"], told["segments"], told["beats"]), (minus, 12, 72))
            expected = []
            for i in range(3):
                for j in range(4):
                    beats = []
                    for b in range(6):
                        (ac, asf, _), (wc, wsf, _) = operands["a"], operands["w"]
                        x, y = i * 6 + b, j * 6 + b
                        a, w = ([0 if c == 8 else c for c in codes[k * 16:k * 16 + 16]] for codes, k in ((ac, x), (wc, y)))
                        beats.append((int(b == 0), asf[x], wsf[y], a, w))
                    expected += model(form, beats)
            acc = read_safetensors(self.path("out.safetensors"))[0]["acc"]
            self.assertEqual(acc.shape, [3, 4])
            self.assertEqual(bits(acc.numbers()), bits(expected))


class Refused(Case):
    def mac(self, needles, change, *words, form="nvfp4"):
        made = tensors(random_beats(form, random.Random(3), 10, 5))
        change(made)
        write_safetensors(self.path("in.safetensors"), made)
        self.fails(1, needles, "mac", "in.safetensors", "-o", "out.safetensors", "--format", form, *words)
        self.leaves("in.safetensors")

    def put(self, name, index, byte):
        def change(made):
            data = bytearray(made[name].data)
            data[index] = byte
            made[name].data = bytes(data)
        return change

    def test_a_code_8_and_beyond_is_refused_by_place(self):
        self.mac(["w, beat 3, lane 5", "0x8 (-0)", "--canonicalize"], self.put("w", 53, 8))
        self.mac(["a, beat 9, lane 15", "0x10"], self.put("a", 159, 16), "--canonicalize")

    def test_an_integers_code_8_is_refused_whatever(self):
        def change(made):
            self.put("a", 0, 8)(made)
            self.put("a_sf", 0, 0xB8)(made)
        self.mac(["a, beat 0, lane 0", "0x8 (-8)"], change, "--canonicalize", form="if4")

    def test_a_scales_sign_is_no_integer_under_nvfp4(self):
        made = tensors(random_beats("nvfp4", random.Random(4), 5, 5))
        self.put("a", 0, 8)(made)
        self.put("a_sf", 0, 0xB8)(made)
        write_safetensors(self.path("in.safetensors"), made)
        self.assertIn("codes 0x8 made 0: 1", self.succeeds("mac", "in.safetensors", "-o", "out.safetensors", "--format", "nvfp4", "--canonicalize").stdout)

    def test_what_is_no_file_of_beats(self):
        self.mac(["no tensor 'a_sf'", "U8 [beats]"], lambda made: made.pop("a_sf"))
        self.mac(["in.safetensors: w", "U8 [9, 16]"], lambda made: made.update(w=Tensor("U8", [9, 16], bytes(144))))
        self.mac(["first", "F32"], lambda made: made.update(first=floats([10], [1.0] * 10)))
        self.mac(["first, beat 0", "is 0"], self.put("first", 0, 0))
        self.mac(["first, beat 4", "is 7"], self.put("first", 4, 7))

        def empty(made):
            made.update({n: Tensor("U8", [0, 16] if n in "aw" else [0], b"") for n in made})
        self.mac("no beats", empty)

    def test_operands_that_do_not_fit(self):
        write_safetensors(self.path("x.safetensors"), {"x": floats([2, 32], [1.0] * 64), "y": floats([2, 64], [1.0] * 128)})
        self.succeeds("quantize", "x.safetensors", "-o", "q.safetensors", "--format", "nvfp4")
        self.succeeds("quantize", "x.safetensors", "-o", "if4.safetensors", "--format", "if4")
        self.succeeds("quantize", "x.safetensors", "-o", "wide.safetensors", "--format", "nvfp4", "--block", "32")
        words = ["-o", "out.safetensors", "--format", "nvfp4", "--with", "q.safetensors:x"]
        self.fails(1, "holds 2 quantized tensors", "mac", "--from", "q.safetensors", *words)
        self.fails(1, ["'z.codes'", "did you mean"], "mac", "--from", "q.safetensors:z", *words)
        self.fails(1, ["blocks a row", "q.safetensors: x"], "mac", "--from", "q.safetensors:y", *words)
        self.fails(1, ["its format is if4", "nvfp4"], "mac", "--from", "if4.safetensors:x", *words)
        self.fails(1, ["--block 16"], "mac", "--from", "wide.safetensors:x", *words)
        self.fails(1, ["no output of fp4scope quantize"], "mac", "--from", "x.safetensors:x", *words)

    def test_wrong_words(self):
        out = ["-o", "out.safetensors"]
        self.fails(2, ["--format", "'nvpf4'", "'nvfp4'"], "mac", "in.safetensors", *out, "--format", "nvpf4")
        self.fails(2, ["--format", "required"], "mac", "in.safetensors", *out)
        self.fails(2, ["--output", "required"], "mac", "in.safetensors", "--format", "nvfp4")
        self.fails(2, ["--first", "'load'", "'loads'"], "mac", "in.safetensors", *out, "--format", "nvfp4", "--first", "load")
        self.fails(2, ["IN", "required"], "mac", *out, "--format", "nvfp4")
        self.fails(2, ["--with", "two operands"], "mac", "--from", "q.safetensors", *out, "--format", "nvfp4")
        self.fails(2, ["IN", "beside"], "mac", "in.safetensors", "--from", "q.safetensors", "--with", "q.safetensors", *out, "--format", "nvfp4")
        self.fails(2, ["--trace", "no effect"], "mac", "--from", "q", "--with", "q", "--trace", *out, "--format", "nvfp4")
        self.fails(2, ["--output", "--golden"], "mac", "--golden", *out)
        self.leaves()
