"""mma against its instructions' published models, written down once more in integers: files in, files out.

A number is a whole number of units of 2^-700, or +-inf or nan. A term is cut toward zero to F bits below the greatest
exponent of its step, the cut terms are added, the sum is rounded. Parameters are the publications' (MMA-Sim, arXiv
2511.10909; Khattak and Mikaitis, arXiv 2512.07004), not read from the program.
"""
import bisect
import math
import random
import re
import struct
from fractions import Fraction

from harness import Case, Tensor, read_safetensors, write_safetensors

UNIT = 700
NEVER = -10**6
# bits of exponent and mantissa, what the top codes mean, dtype, bytes
FORMATS = {"f32": (8, 23, "ieee", "F32", 4), "f16": (5, 10, "ieee", "F16", 2), "bf16": (8, 7, "ieee", "BF16", 2),
           "tf32": (8, 10, "ieee", "F32", 4), "e4m3": (4, 3, "nan", "U8", 1), "e5m2": (5, 2, "ieee", "U8", 1),
           "e2m3": (2, 3, "", "U8", 1), "e3m2": (3, 2, "", "U8", 1), "e2m1": (2, 1, "", "U8", 1)}


def decode(name, code):
    """(the number, the exponent that it is aligned by); a zero's is that of the least normal number."""
    exponent_bits, mantissa_bits, top, *_ = FORMATS[name]
    bias = 2**(exponent_bits - 1) - 1
    sign = -1 if code >> (exponent_bits + mantissa_bits) else 1
    field, fraction = code >> mantissa_bits & (2**exponent_bits - 1), code & (2**mantissa_bits - 1)
    if field == 2**exponent_bits - 1 and (top == "ieee" or top == "nan" and fraction == 2**mantissa_bits - 1):
        return (sign * math.inf if top == "ieee" and fraction == 0 else math.nan), 0
    exponent = max(field, 1) - bias
    return sign * ((field > 0) * 2**mantissa_bits + fraction) << (exponent - mantissa_bits + UNIT), exponent


def decode_scale(name, code):
    if name == "ue8m0":
        return (math.nan if code == 255 else 1 << (code - 127 + UNIT)), code - 127
    return decode("e4m3", code & 0x7F)


def special(x):
    return isinstance(x, float)


def times(x, y):
    if special(x) or special(y):
        signs = [v if special(v) else (v > 0) - (v < 0) for v in (x, y)]
        return signs[0] * signs[1] * 1.0
    return x * y >> UNIT


def cut(x, exponent):
    """Toward zero to a multiple of 2^exponent."""
    down = max(exponent + UNIT, 0)
    return (abs(x) >> down << down) * (-1 if x < 0 else 1)


def added(terms):
    """The sum in real numbers; a float where one is not finite."""
    odd = [x for x in terms if special(x)]
    return sum(odd) if odd else sum(terms)


def rounded(x, to, nan):
    """Bits of a sum: to is a format, its mantissa bits and whether to nearest even. Zero is +0, too large is Inf."""
    name, mantissa, nearest = to
    exponent_bits, stored = FORMATS[name][:2]
    infinity, bias = (2**exponent_bits - 1) << stored, 2**(exponent_bits - 1) - 1
    sign = 1 << (exponent_bits + stored)
    if special(x):
        return nan if math.isnan(x) else infinity | sign * (x < 0)
    binade = max(abs(x).bit_length() - 1 - UNIT, 1 - bias) if x else 0
    last = binade - mantissa + UNIT
    kept = abs(x) >> last
    if nearest:
        kept += Fraction(abs(x) - (kept << last), 1 << last) > Fraction(1, 2) - Fraction(kept & 1, 2**900)
    code = (kept << (stored - mantissa)) + ((binade + bias - 1) << stored)
    return 0 if kept == 0 else min(code, infinity) | sign * (x < 0)


class Model:
    """How one instruction adds: `group` k's a step in a row, or a list of each step's k's. Shape and formats are the
    name's. zero: the exponent of what is 0, NEVER where it does not count. as_f16: operands become binary16 first."""

    def __init__(self, arch, name, group, to, fraction=0, least=NEVER, zero=NEVER, after=False, how="aligned",
                 flush=False, as_f16=False):
        opcode, shape, *words = name.split("@")[0].split(".")
        self.m, self.n, self.k = map(int, re.fullmatch(r"m(\d+)n(\d+)k(\d+)", shape).groups())
        self.block = int(words.pop(0)[len("block"):]) if words[0].startswith("block") else 0
        self.scale = words.pop() if self.block else None
        d, self.a, self.b, self.c = words if opcode == "mma" else [*words, words[0]]
        self.steps = group if isinstance(group, list) else [range(k, k + group) for k in range(0, self.k, group)]
        self.arch, self.name, self.to, self.fraction, self.least, self.zero = arch, name, to, fraction, least, zero
        self.after, self.how, self.flush, self.as_f16 = after, how, flush, as_f16
        self.nan = 0x7FC00000 if opcode == "mfma" else 0x7FFF if d == "f16" else 0x7FFFFFFF

    def operand(self, name, code):
        x, exponent = decode(name, code)
        least_normal = 2 - 2**(FORMATS[name][0] - 1)
        if self.flush and not special(x) and abs(x) < 1 << (least_normal + UNIT):
            x = 0
        if self.as_f16 and x and not special(x):
            exponent = max(abs(x).bit_length() - 1 - UNIT, -14)
        return x, (self.zero if x == 0 else exponent)

    def aligned(self, terms):
        """terms: (number, exponent). One sum."""
        whole = added([x for x, _ in terms])
        if special(whole):
            return rounded(whole, self.to, self.nan)
        greatest = max(self.least, *(e for _, e in terms))
        return rounded(sum(cut(x, greatest - self.fraction) for x, _ in terms), self.to, self.nan)

    def two_stages(self, running, products):
        """The products' cut sum to 31 bits below the greater exponent and the running value to 24, downward."""
        whole = added([running[0], *(x for x, _ in products)])
        signs = {x > 0 for x, _ in products if not special(x) and abs(x) >> (128 + UNIT)}
        if special(whole) or signs:
            beyond = whole if special(whole) else math.nan if len(signs) == 2 else math.inf if signs == {True} else -math.inf
            return rounded(beyond, self.to, self.nan)
        greatest = max(e for _, e in products)
        top = max(greatest, running[1], -126)
        downward = [(sum(cut(x, greatest - self.fraction) for x, _ in products), top - 31), (running[0], top - 24)]
        return rounded(sum(x >> (e + UNIT) << (e + UNIT) for x, e in downward), self.to, self.nan)

    def f32(self, x):
        """x as a number, rounded to binary32 to nearest."""
        return self.operand("f32", rounded(x, ("f32", 23, True), self.nan))[0]

    def tree(self, x):
        if len(x) == 1:
            return self.f32(x[0])
        return self.f32(added([self.tree(x[:len(x) // 2]), self.tree(x[len(x) // 2:])]))

    def step(self, running, products):
        """running, products: (number, exponent); products of 16 k's are one where block scales have it so."""
        if self.how == "tree":
            return rounded(self.f32(added([running[0], self.tree([x for x, _ in products])])), self.to, self.nan)
        if self.how == "two stages":
            return self.two_stages(running, products)
        if self.how == "exact":
            return rounded(added([running[0], *(x for x, _ in products)]), self.to, self.nan)
        return self.aligned([running, *products])

    def products(self, a, b, scale_a, scale_b, ks):
        out = []
        for k in ks:
            (x, ex), (y, ey) = self.operand(self.a, a[k]), self.operand(self.b, b[k])
            if not self.scale:
                out.append((times(x, y), ex + ey))
                continue
            (s, es), (t, et) = (decode_scale(self.scale, v[k // self.block]) for v in (scale_a, scale_b))
            es, et = (self.zero if v == 0 else e for v, e in ((s, es), (t, et)))
            product = times(times(times(x, y), s), t)
            if self.how == "blocks":
                if k % 16 == 0:
                    out.append((0, es + et))
                out[-1] = (added([out[-1][0], product]), es + et)
            else:
                out.append((product, ex + ey + es + et))
        return out

    def __call__(self, a, b, c, scale_a=(), scale_b=()):
        addend = self.operand(self.c, c)
        running = (0, self.zero) if self.after else addend
        for ks in self.steps:
            bits = self.step(running, self.products(a, b, scale_a, scale_b, ks))
            running = self.operand(self.to[0], bits)
        if not self.after:
            return bits
        return rounded(added([running[0], addend[0]]), (self.to[0], FORMATS[self.to[0]][1], True), self.nan)


F32, F32N, E8M13, F16 = ("f32", 23, False), ("f32", 23, True), ("f32", 13, False), ("f16", 10, True)
FP8_PAIRS = [[k for k in range(32) if k % 4 in pair] for pair in ((0, 1), (2, 3))]
MODELS = [
    Model("volta", "mma.m8n8k4.f32.f16.f16.f16", 4, F32, 23),
    Model("volta", "mma.m8n8k4.f16.f16.f16.f16", 4, F16, 23, -19),
    Model("turing", "mma.m16n8k8.f32.f16.f16.f32", 8, F32, 24, zero=-126),
    Model("ampere", "mma.m16n8k16.f32.bf16.bf16.f32", 8, F32, 24, -132),
    Model("ampere", "mma.m16n8k8.f32.tf32.tf32.f32", 4, F32, 24, -132),
    Model("ada", "mma.m16n8k32.f32.e4m3.e5m2.f32", 16, E8M13, 13, -132),
    Model("ada", "mma.m16n8k32.f16.e5m2.e5m2.f16", 16, F16, 13, -132),
    Model("hopper", "mma.m16n8k16.f16.f16.f16.f16", 16, F16, 25, -21),
    Model("hopper", "mma.m16n8k32.f32.e4m3.e4m3.f32", FP8_PAIRS, F32, 25, -133, after=True, as_f16=True),
    Model("hopper", "mma.m16n8k32.f32.e4m3.e5m2.f32", FP8_PAIRS, F32, 25, -133, after=True, as_f16=True),
    Model("hopper", "wgmma.m64n16k32.f32.e5m2.e4m3", 32, E8M13, 13, -133),
    Model("hopper", "wgmma.m64n8k32.f16.e4m3.e4m3", 32, F16, 13, -133),
    Model("blackwell", "mma.m16n8k32.f16.e5m2.e4m3.f16", FP8_PAIRS, F16, 25, -21, after=True, as_f16=True),
    Model("blackwell", "tcgen05.m64n16k32.f32.e3m2.e2m3", 32, F32, 25, -133),
    Model("blackwell", "tcgen05.m128n8k16.f32.f16.bf16", 16, F32, 25, -133),
    Model("rtx_blackwell", "mma.m16n8k32.block32.f32.e5m2.e2m1.f32.ue8m0", 32, F32, 25, zero=-126),
    Model("rtx_blackwell", "mma.m16n8k64.block32.f32.e2m1.e2m1.f32.ue8m0", 64, F32, 35, zero=-126, how="blocks"),
    Model("blackwell", "mma.m16n8k64.block16.f32.e2m1.e2m1.f32.ue4m3", 64, F32, 35, zero=-126, how="blocks"),
    Model("cdna1", "mfma.m16n16k16.f32.f16.f16", 4, F32N, how="tree"),
    Model("cdna1", "mfma.m16n16k8.f32.bf16.bf16@exact", 2, F32N, how="exact"),
    Model("cdna2", "mfma.m32n32k8.f32.bf16.bf16@1k", 4, F32N, how="tree", flush=True),
    Model("cdna3", "mfma.m16n16k16.f32.f16.f16", 8, F32N, 24, how="two stages"),
    Model("cdna3", "mfma.m32n32k8.f32.bf16.bf16", 8, F32N, 24, how="two stages"),
    Model("cdna3", "mfma.m16n16k8.f32.tf32.tf32", 4, F32N, 24, how="two stages"),
]
KINDS = ("any code", "spread", "cancelling", "tiny", "zeros", "huge", "not finite")


class Problem:
    """Operands of one kind for one instruction."""

    def __init__(self, model, kind, seed):
        self.model, self.kind, self.draw = model, kind, random.Random(seed)
        self.a = [[self.code(model.a) for _ in range(model.k)] for _ in range(model.m)]
        self.b = [[self.code(model.b) for _ in range(model.k)] for _ in range(model.n)]
        if kind == "cancelling":
            for k in range(0, model.k - 1, 2):
                other = model.k - 1 - k if model.k > 2 else 1
                for row in self.a:
                    row[other] = row[k]
                for column in self.b:
                    column[other] = column[k] ^ self.sign(model.b)
        blocks = model.k // model.block if model.block else 0
        self.scale_a = [[self.scale() for _ in range(blocks)] for _ in range(model.m)]
        self.scale_b = [[self.scale() for _ in range(blocks)] for _ in range(model.n)]
        self.c = [[self.addend() for _ in range(model.n)] for _ in range(model.m)]

    def sign(self, name):
        return 1 << sum(FORMATS[name][:2])

    def of_exponent(self, name, low, high):
        exponent_bits, mantissa_bits, top, *_ = FORMATS[name]
        bias = 2**(exponent_bits - 1) - 1
        last = 2**exponent_bits - (2 if top == "ieee" else 1)
        field = min(max(self.draw.randint(low, high) + bias, 0), last)
        fraction = self.draw.getrandbits(mantissa_bits)
        if top == "nan" and field == last:
            fraction = min(fraction, 2**mantissa_bits - 2)
        return self.draw.getrandbits(1) * self.sign(name) | field << mantissa_bits | fraction

    def code(self, name):
        exponent_bits, mantissa_bits, top, *_ = FORMATS[name]
        reach = 2**(exponent_bits - 1)
        wide = min(reach, 40)
        if self.kind == "any code" or self.kind == "not finite" and self.draw.random() < 0.01:
            code = self.draw.getrandbits(1 + exponent_bits + mantissa_bits)
            while self.kind == "any code" and special(decode(name, code)[0]):
                code = self.draw.getrandbits(1 + exponent_bits + mantissa_bits)
            return code
        if self.kind == "zeros" and self.draw.random() < 0.7:
            return self.draw.getrandbits(1) * self.sign(name)
        if self.kind == "tiny":
            return self.of_exponent(name, -reach - 2, 6 - reach) if reach < 64 else self.of_exponent(name, -75, -50)
        if self.kind == "huge":
            return self.of_exponent(name, min(reach, 64) - 4, min(reach, 64))
        return self.of_exponent(name, -wide // 2, wide // 2)

    def addend(self):
        name = self.model.c
        if self.kind == "not finite" and self.draw.random() < 0.02:
            f32 = self.draw.choice([0xFF, 0x1FF]) << 23 | self.draw.getrandbits(1)
            return f32 if name == "f32" else self.draw.choice([0x7C00, 0xFC00, 0x7E01])
        if self.draw.random() < 0.2:
            return self.draw.getrandbits(1) * self.sign(name)
        low, high = {"tiny": (-150, -100), "huge": (100, 127)}.get(self.kind, (-24, 24)) if name == "f32" else (-15, 15)
        return self.of_exponent(name, low, high)

    def scale(self):
        if self.kind == "not finite" and self.draw.random() < 0.02:
            return 0xFF
        if self.model.scale == "ue8m0":
            low, high = {"tiny": (0, 60), "huge": (180, 254)}.get(self.kind, (107, 147))
            return self.draw.randint(low, high)
        return self.draw.choice([0, 1, 7, 8, 0x7E, 0x81, self.draw.randrange(0x7F), self.draw.randrange(0x7F)])

    def tensors(self):
        m = self.model
        turned = [[column[k] for column in self.b] for k in range(m.k)]
        out = {"A": self.matrix(m.a, self.a), "B": self.matrix(m.b, turned), "C": self.matrix(m.c, self.c)}
        if m.a == "e2m1":
            out["A"] = self.bytes(self.packed(self.a))
        if m.b == "e2m1":
            out["B"] = self.bytes([list(row) for row in zip(*self.packed(self.b))])
        if m.scale:
            out["SA"], out["SB"] = self.bytes(self.scale_a), self.bytes([list(row) for row in zip(*self.scale_b)])
        return out

    @staticmethod
    def packed(lines):
        return [[line[k] | line[k + 1] << 4 for k in range(0, len(line), 2)] for line in lines]

    @staticmethod
    def bytes(rows):
        return Tensor("U8", [len(rows), len(rows[0])], b"".join(bytes(row) for row in rows))

    def matrix(self, name, rows):
        _, _, _, dtype, size = FORMATS[name]
        words = [code for row in rows for code in row]
        if name == "tf32":  # the low bits do not count, but an Inf with some is a NaN
            words = [code << 13 | (0 if self.kind == "not finite" else self.draw.getrandbits(13)) for code in words]
        return Tensor(dtype, [len(rows), len(rows[0])], b"".join(word.to_bytes(size, "little") for word in words))


class Models(Case):
    def check(self, model, outputs=160):
        """Every kind of operands; of a product's outputs some, drawn at random."""
        problems = {kind: Problem(model, kind, f"{model.name} {kind}") for kind in KINDS}
        tensors = {f"{kind}.{name}": t for kind, p in problems.items() for name, t in p.tensors().items()}
        write_safetensors(self.path("in.safetensors"), tensors)
        self.succeeds("mma", "--arch", model.arch, "--op", model.name, "in.safetensors", "-o", "out.safetensors")
        out, _ = read_safetensors(self.path("out.safetensors"))
        letter = "H" if model.to[0] == "f16" else "I"
        for kind, p in problems.items():
            d = out[f"{kind}.D"]
            self.assertEqual((d.dtype, d.shape), ({"H": "F16", "I": "F32"}[letter], [model.m, model.n]))
            got = struct.unpack(f"<{model.m * model.n}{letter}", d.data)
            places = [(i, j) for i in range(model.m) for j in range(model.n)]
            for i, j in random.Random(kind).sample(places, min(len(places), outputs)):
                scales = (p.scale_a[i], p.scale_b[j])
                want = model(p.a[i], p.b[j], p.c[i][j], *scales)
                self.assertEqual(got[i * model.n + j], want,
                                 f"{model.arch} {model.name}, {kind}, D [{i}, {j}]: 0x{got[i * model.n + j]:x}, "
                                 f"the model has 0x{want:x}\n A {[hex(x) for x in p.a[i]]}\n B {[hex(x) for x in p.b[j]]}\n "
                                 f"C {p.c[i][j]:#x}, scales {scales}")


for _model in MODELS:
    setattr(Models, f"test_{_model.arch}_{_model.name}".replace(".", "_"), lambda self, model=_model: self.check(model))


class LeastExponents(Case):
    """Where all terms are tiny the cut is at F bits below a fixed exponent: whole units of it stay, halves are lost."""

    def check(self, arch, op, pairs, want, scales=None):
        """pairs: the first k's (a, b) as numbers, the others 0; C = 0; every D is `want`."""
        model = Model(arch, op, [], F32)
        rows, columns = ([[x[side] for x in pairs] + [0.0] * (model.k - len(pairs))] * count
                         for side, count in ((0, model.m), (1, model.n)))
        tensors = {"x.A": self.matrix(model.a, rows), "x.B": self.matrix(model.b, zip(*columns)),
                   "x.C": self.matrix(model.c, [[0.0] * model.n] * model.m)}
        if scales:
            packed = Problem.packed([[self.code(model.b, x) for x in column] for column in columns])
            tensors["x.B"] = Problem.bytes([list(row) for row in zip(*packed)])
            tensors["x.SA"] = Problem.bytes([[scales[0]]] * model.m)
            tensors["x.SB"] = Problem.bytes([[scales[1]] * model.n])
        write_safetensors(self.path("in.safetensors"), tensors)
        self.succeeds("mma", "--arch", arch, "--op", op, "in.safetensors", "-o", "out.safetensors")
        d = read_safetensors(self.path("out.safetensors"))[0]["x.D"]
        self.assertEqual(d.numbers(), [want] * (model.m * model.n), f"{arch} {op} {pairs}")

    def matrix(self, name, rows):
        _, _, _, dtype, size = FORMATS[name]
        words = [[(self.code(name, x) << 13 * (name == "tf32")).to_bytes(size, "little") for x in row] for row in rows]
        return Tensor(dtype, [len(words), len(words[0])], b"".join(map(b"".join, words)))

    @staticmethod
    def code(name, x):
        """Of a number that is not negative."""
        units, codes = int(x * 2**UNIT), range(2**sum(FORMATS[name][:2]))
        at = bisect.bisect_left(codes, units, key=lambda code: decode(name, code)[0])
        assert decode(name, at)[0] == units, f"{x} is no {name}"
        return at

    def test_binary32_results(self):
        # 2^-149 less a unit, and a unit: 2^-149. Two halves are lost: what is left is below 2^-149, the least number.
        for arch, unit, almost in (("ampere", -156, (127, 1)), ("hopper", -158, (73, 7)), ("blackwell", -158, (73, 7))):
            for name, k in (("bf16", 16), ("tf32", 8)):
                whole = [(almost[0] * 2.0**-80, almost[1] * 2.0**(unit + 80)), (2.0**-79, 2.0**(unit + 79))]
                halves = [whole[0], (2.0**-79, 2.0**(unit + 78)), (2.0**-78, 2.0**(unit + 77))]
                op = f"mma.m16n8k{k}.f32.{name}.{name}.f32"
                self.check(arch, op, whole, 2.0**-149)
                self.check(arch, op, halves, 0)

    def test_binary16_results(self):
        # 2^-25 is halfway to the least number: a unit more decides, half a unit is lost.
        for arch, unit, shape in (("volta", -42, "m8n8k4"), ("ampere", -44, "m16n8k16"), ("hopper", -46, "m16n8k16"),
                                  ("blackwell", -46, "m16n8k16")):
            for last, want in ((unit, 2.0**-24), (unit - 1, 0)):
                pairs = [(2.0**-12, 2.0**-13), (2.0**-23, 2.0**(last + 23))]
                self.check(arch, f"mma.{shape}.f16.f16.f16.f16", pairs, want)

    def test_a_zero_under_block_scales_counts_as_2_to_the_minus_126(self):
        op = "mma.m16n8k32.block32.f32.e5m2.e2m1.f32.ue8m0"
        for pairs, want in (([(1.5, 1), (0.5, 1)], 2.0**-149), ([(1.5, 1), (0.5, 0.5), (0.5, 0.5)], 0)):
            self.check("rtx_blackwell", op, pairs, want, (127 - 75, 127 - 75))
