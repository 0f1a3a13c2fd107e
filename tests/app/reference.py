"""The formats once more, slowly, in fractions: decode, the naive scale, the nearest element. Shares nothing with the program."""
import math
import struct
from fractions import Fraction

LEVELS = {"e2m1": [Fraction(n, 2) for n in (0, 1, 2, 3, 4, 6, 8, 12)], "int4": [Fraction(n) for n in range(8)]}


def e4m3(code):
    """Codes 0 .. 126, the ones that a block scale may have."""
    field, mantissa = code >> 3, code & 7
    return Fraction(8 + mantissa, 8) * Fraction(2) ** (field - 7) if field else Fraction(mantissa, 512)


def ue8m0(code):
    return Fraction(2) ** (code - 127)


SCALE = {"nvfp4": e4m3, "mxfp4": ue8m0, "nvint4": e4m3}
ELEMENT = {"nvfp4": "e2m1", "mxfp4": "e2m1", "nvint4": "int4"}
BLOCK = {"nvfp4": 16, "mxfp4": 32, "nvint4": 16}


def element(name, code):
    """The value of a 4-bit code."""
    if name == "int4":
        return Fraction(code - 16 if code & 8 else code)
    return -LEVELS[name][code & 7] if code & 8 else LEVELS[name][code]


def nearest(levels, x):
    """Index of the level nearest to x >= 0, ties to the even index; beyond the last one the last one."""
    return min(range(len(levels)), key=lambda i: (abs(levels[i] - x), i % 2))


def round_bits(x, precision, least):
    """x to `precision` significant bits, no place below 2^least; ties to even."""
    if x == 0:
        return Fraction(0)
    place = Fraction(2) ** max(least, exponent(abs(x)) - precision + 1)
    return round(x / place) * place  # Python rounds a fraction half to even


def to_dtype(x, dtype):
    """x rounded once to that dtype, as a fraction; infinite beyond its largest number."""
    precision, least, top = {"F64": (53, -1074, 1024), "F32": (24, -149, 128), "F16": (11, -24, 16), "BF16": (8, -133, 128)}[dtype]
    rounded = round_bits(x, precision, least)
    return rounded if abs(rounded) < Fraction(2) ** top else math.copysign(math.inf, x)


def to_float32(x):
    return to_dtype(x, "F32")


def exactly(x):
    """A float as a fraction, the infinities as themselves."""
    return Fraction(x) if math.isfinite(x) else x


def exponent(x):
    """floor(log2 x) for x > 0."""
    n = x.numerator.bit_length() - x.denominator.bit_length()
    return n if x >= Fraction(2) ** n else n - 1


def tensor_scale(form, amax, scale_max=448):
    if form == "mxfp4" or amax == 0:
        return Fraction(1)
    return max(to_float32(amax / (LEVELS[ELEMENT[form]][-1] * scale_max)), Fraction(2) ** -149)  # never zero


def naive_scale_code(form, amax, scaling):
    if amax == 0:
        return 0
    if form == "mxfp4":
        return min(max(exponent(amax) - 2 + 127, 0), 254)
    return nearest([e4m3(code) for code in range(127)], amax / (LEVELS[ELEMENT[form]][-1] * scaling))


def is_negative(x):
    return struct.pack(">f", x)[0] >= 128


def element_code(name, x, step):
    """x is a binary32 as a float, so that -0 has its sign."""
    magnitude = nearest(LEVELS[name], abs(Fraction(x)) / step) if step else 0
    if not is_negative(x):
        return magnitude
    return -magnitude & 15 if name == "int4" else magnitude | 8


def quantize(form, rows, block=None, scaling=None):
    """(codes, scales, tensor scale) of rows of floats, padded to whole blocks; codes one a column."""
    block = block or BLOCK[form]
    name = ELEMENT[form]
    rows = [row + [0.0] * (-len(row) % block) for row in rows]
    amax = max(abs(Fraction(x)) for row in rows for x in row)
    if scaling is None:
        scaling = tensor_scale(form, amax)
    codes, scales = [], []
    for row in rows:
        codes.append([])
        scales.append([])
        for at in range(0, len(row), block):
            part = row[at:at + block]
            code = naive_scale_code(form, max(abs(Fraction(x)) for x in part), scaling)
            scales[-1].append(code)
            codes[-1] += [element_code(name, x, SCALE[form](code) * scaling) for x in part]
    return codes, scales, scaling


def dequantize(form, codes, scales, scaling, block=None):
    """Rows of exact values from rows of codes."""
    block = block or BLOCK[form]
    return [[element(ELEMENT[form], code) * SCALE[form](scale_row[c // block]) * scaling for c, code in enumerate(row)]
            for row, scale_row in zip(codes, scales)]


def unpack(data, cols):
    """Rows of codes from packed bytes, low nibble first."""
    flat = [nibble for byte in data for nibble in (byte & 15, byte >> 4)]
    return [flat[i:i + cols] for i in range(0, len(flat), cols)]
