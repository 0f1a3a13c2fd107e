// The recipes as their sources write them, on binary32 numbers made of integers. Includes nothing of formats/, sim/ or
// search/, and no floating-point operation: no flag, contraction or device can change it.
//
// A number is significand * 2^exponent; a product or quotient is taken in integers and rounded once, to nearest even.
// recipe_grid_test holds these operations to GMP's rationals before it uses them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string_view>

namespace fp4scope::recipe_oracle {

__extension__ typedef unsigned __int128 Wide;

struct Real {
  enum class Kind : std::uint8_t { finite, infinite, nan };
  Kind kind = Kind::finite;
  bool negative = false;
  std::uint64_t significand = 0;  ///< below 2^24
  int exponent = 0;

  bool zero() const { return kind == Kind::finite && significand == 0; }
};

inline constexpr Real not_a_number = {Real::Kind::nan, false, 0, 0};

/// Significant bits, the exponent of the last place of subnormals, the first power of two beyond the largest number.
struct Precision {
  int bits, lowest, beyond;
};
inline constexpr Precision single = {24, -149, 128}, brain = {8, -133, 128};

inline int length(Wide n) {
  const auto high = static_cast<std::uint64_t>(n >> 64), low = static_cast<std::uint64_t>(n);
  return static_cast<int>(high != 0 ? 64 + std::bit_width(high) : std::bit_width(low));
}

/// (n + something below 1 if `more`) * 2^exponent, rounded to nearest even.
inline Real rounded(bool negative, Wide n, int exponent, bool more, const Precision& p) {
  const int places = length(n) - p.bits, subnormal = p.lowest - exponent;
  const int shift = places > subnormal ? places : subnormal;
  if (n == 0 || shift > 120) return {Real::Kind::finite, negative, 0, 0};
  if (shift > 0) {
    const Wide half = Wide{1} << (shift - 1), rest = n & ((half << 1) - 1);
    n >>= shift;
    n += rest > half || (rest == half && (more || n % 2 != 0));
    exponent += shift;
  }
  if (length(n) + exponent > p.beyond) return {Real::Kind::infinite, negative, 0, 0};
  while (length(n) > p.bits) {  // a carry out of the significand
    n >>= 1;
    ++exponent;
  }
  return {Real::Kind::finite, negative, static_cast<std::uint64_t>(n), exponent};
}

inline Real times(const Real& a, const Real& b) {
  const bool negative = a.negative != b.negative;
  if (a.kind == Real::Kind::nan || b.kind == Real::Kind::nan) return not_a_number;
  if (a.kind == Real::Kind::infinite || b.kind == Real::Kind::infinite) {
    return a.zero() || b.zero() ? not_a_number : Real{Real::Kind::infinite, negative, 0, 0};
  }
  return rounded(negative, Wide{a.significand} * b.significand, a.exponent + b.exponent, false, single);
}

inline Real over(const Real& a, const Real& b) {
  const bool negative = a.negative != b.negative;
  if (a.kind == Real::Kind::nan || b.kind == Real::Kind::nan) return not_a_number;
  const bool infinite = a.kind == Real::Kind::infinite || b.zero();
  if (infinite && (b.kind == Real::Kind::infinite || a.zero())) return not_a_number;
  if (infinite) return {Real::Kind::infinite, negative, 0, 0};
  if (b.kind == Real::Kind::infinite) return {Real::Kind::finite, negative, 0, 0};
  const Wide dividend = Wide{a.significand} << 80;  // a quotient of 57 bits or more
  const Wide quotient = dividend / b.significand;
  return rounded(negative, quotient, a.exponent - 80 - b.exponent, dividend % b.significand != 0, single);
}

inline Real to_brain(const Real& a) {
  return a.kind == Real::Kind::finite ? rounded(a.negative, a.significand, a.exponent, false, brain) : a;
}

inline Real from_bits(std::uint32_t bits) {
  const std::uint32_t field = bits >> 23 & 0xFF, fraction = bits & 0x7FFFFF;
  const bool negative = bits >> 31 != 0;
  if (field == 0xFF) return {fraction != 0 ? Real::Kind::nan : Real::Kind::infinite, negative, 0, 0};
  return {Real::Kind::finite, negative, field == 0 ? fraction : fraction | 0x800000u,
          static_cast<int>(field == 0 ? 1 : field) - 150};
}

inline std::uint32_t to_bits(Real a) {
  const std::uint32_t sign = a.negative ? 0x80000000u : 0;
  if (a.kind == Real::Kind::nan) return 0x7FC00000u;
  if (a.kind == Real::Kind::infinite) return sign | 0x7F800000u;
  const int room = std::min(24 - static_cast<int>(std::bit_width(a.significand)), a.exponent + 149);
  const int shift = a.significand != 0 && room > 0 ? room : 0;
  const auto fraction = static_cast<std::uint32_t>(a.significand << shift);
  a.exponent -= shift;
  if (fraction < 0x800000) return sign | fraction;
  return sign | static_cast<std::uint32_t>(a.exponent + 150) << 23 | (fraction & 0x7FFFFFu);
}

constexpr Real whole(int n) { return {Real::Kind::finite, false, static_cast<std::uint64_t>(n), 0}; }
constexpr Real power(int e) { return {Real::Kind::finite, false, 1, e}; }
inline constexpr Real one = whole(1), six = whole(6), q2688 = whole(2688),
                      flt_max = {Real::Kind::finite, false, 0xFFFFFF, 104};
inline constexpr Real bf16_max = {Real::Kind::finite, false, 0xFF, 120};
inline constexpr Real sixth = {Real::Kind::finite, false, 0xAAAAAB, -26};  // fl(1/6) = 0x3E2AAAAB

/// Of non-negative numbers; NaN stays.
inline Real least(const Real& a, const Real& b) { return a.kind != Real::Kind::nan && to_bits(b) < to_bits(a) ? b : a; }
inline Real most(const Real& a, const Real& b) { return a.kind != Real::Kind::nan && to_bits(b) > to_bits(a) ? b : a; }

/// numerator * 2^exponent / denominator, not rounded.
struct Fraction {
  std::uint64_t numerator;
  int exponent;
  std::uint64_t denominator;
};
inline Fraction exactly(const Real& a) { return {a.significand, a.exponent, 1}; }

/// The sign of f - n * 2^unit.
inline int against(const Fraction& f, std::uint64_t n, int unit) {
  Wide left = f.numerator, right = Wide{n} * f.denominator;
  const int shift = f.exponent - unit;
  if (shift > 60) return left != 0 ? 1 : right != 0 ? -1 : 0;
  if (shift < -60) return right != 0 ? -1 : left != 0 ? 1 : 0;
  if (shift >= 0) left <<= shift;
  else right <<= -shift;
  return left > right ? 1 : left < right ? -1 : 0;
}

// ---- codes ----

/// An E4M3 magnitude in units of 2^-9; 127 for the one after the last.
inline std::uint64_t e4m3_units(int code) {
  return code < 8 ? static_cast<std::uint64_t>(code) : static_cast<std::uint64_t>(8 + code % 8) << (code / 8 - 1);
}
inline Real e4m3_value(int code) { return {Real::Kind::finite, false, e4m3_units(code), -9}; }

enum class Tie { even, up, down };

/// How many of the midpoints between codes 0 .. last a magnitude passes.
template <class Units>
int passed(const Fraction& f, int last, int unit, Tie tie, const Units& units) {
  int code = 0;
  for (; code < last; ++code) {
    const int order = against(f, units(code) + units(code + 1), unit - 1);
    const bool outwards = tie == Tie::up || (tie == Tie::even && code % 2 != 0);
    if (order < 0 || (order == 0 && !outwards)) break;
  }
  return code;
}

inline int e4m3_saturating(const Fraction& f) { return passed(f, 126, -9, Tie::even, e4m3_units); }
inline int e4m3_saturating(const Real& v) {
  if (v.kind == Real::Kind::nan) return 0x7F;
  return v.kind == Real::Kind::infinite ? 0x7E : e4m3_saturating(exactly(v));
}
/// PyTorch's cast before 2.13: NaN above 464.
inline int e4m3_or_nan(const Real& v) {
  return v.kind != Real::Kind::finite ? 0x7F : passed(exactly(v), 127, -9, Tie::even, e4m3_units);
}
/// ggml_fp32_to_ue4m3: ties up; no carry out of the subnormals; what reaches 256 is 448.
inline int e4m3_ggml(const Real& v) {
  const int code = passed(exactly(v), 127, -9, Tie::up, e4m3_units);
  if (against(exactly(v), 1, -6) < 0) return code < 7 ? code : 7;
  return code >= 0x78 ? 0x7E : code;
}

inline std::uint64_t e2m1_halves(int code) {
  constexpr std::uint64_t halves[] = {0, 1, 2, 3, 4, 6, 8, 12};
  return halves[code];
}
/// The code of a magnitude.
inline int e2m1(const Fraction& f, Tie tie = Tie::even) { return passed(f, 7, -1, tie, e2m1_halves); }
inline int e2m1(const Real& y, Tie tie = Tie::even) {
  if (y.kind != Real::Kind::finite) return 7;
  return e2m1(exactly(y), tie);
}

// ---- the recipes of NVFP4 ----

/// A recipe's scale code from the amax of the tensor and of the block, and the code of a magnitude at a scale code.
struct Row {
  const char* name;
  const char* method;
  int top;    ///< the block scale that the tensor's largest block aims at
  int range;  ///< K; 0: there is no tensor scale
  int (*scale)(const Real& a, const Real& b);
  int (*code)(const Real& a, int scale, const Real& x);
};

/// In real numbers: top * b / a, and range * |x| / (s a); without a tensor scale b / 6 and |x| / s.
inline int real_scale(int top, const Real& a, const Real& b) {
  if (top == 0) return e4m3_saturating(Fraction{b.significand, b.exponent, 6});
  return e4m3_saturating(
      Fraction{static_cast<std::uint64_t>(top) * b.significand, b.exponent - a.exponent, a.significand});
}
inline int real_code(int range, const Real& a, int scale, const Real& x) {
  if (range == 0) return e2m1(Fraction{x.significand, x.exponent + 9, e4m3_units(scale)});
  return e2m1(Fraction{static_cast<std::uint64_t>(range) * x.significand, x.exponent - a.exponent + 9,
                       a.significand * e4m3_units(scale)});
}

namespace rows {

inline Real encode_of(const Real& a, int range) { return over(whole(range), a); }
inline Real decode_of(const Real& a) { return over(a, q2688); }

/// x * (1 / (s * (1 / S))).
inline int by_reciprocal(const Real& encode, int scale, const Real& x) {
  const Real factor = least(over(one, times(e4m3_value(scale), over(one, encode))), flt_max);
  return e2m1(times(x, factor));
}

inline int rational_scale(const Real& a, const Real& b) { return real_scale(448, a, b); }
inline int rational_code(const Real& a, int scale, const Real& x) { return real_code(2688, a, scale, x); }

inline int te_scale(const Real& a, const Real& b) {
  return e4m3_saturating(least(times(b, times(encode_of(a, 2688), sixth)), flt_max));
}
inline int te_code(const Real& a, int scale, const Real& x) { return by_reciprocal(encode_of(a, 2688), scale, x); }
inline int te_fast_code(const Real& a, int scale, const Real& x) {
  return e2m1(times(x, to_brain(least(over(encode_of(a, 2688), e4m3_value(scale)), bf16_max))));
}

template <int Divisor, int Range>
int nested_scale(const Real& a, const Real& b) {
  return e4m3_or_nan(times(over(b, whole(Divisor)), encode_of(a, Range)));
}
template <int Range>
int nested_code(const Real& a, int scale, const Real& x) {
  return scale == 0 ? 0 : by_reciprocal(encode_of(a, Range), scale, x);
}
/// 4/6: base = (b / 6) * S, the four's is fl(1.5 base).
template <int Range, bool Four>
int candidate_scale(const Real& a, const Real& b) {
  const Real base = times(over(b, six), encode_of(a, Range));
  return e4m3_saturating(Four ? times(base, {Real::Kind::finite, false, 3, -1}) : base);
}
template <int Range>
int candidate_code(const Real& a, int scale, const Real& x) {
  return by_reciprocal(encode_of(a, Range), scale, x);
}

inline int modelopt_cast(Real v) { return e4m3_saturating(most(least(v, whole(448)), power(-9))); }
inline int modelopt_dyn_scale(const Real& a, const Real& b) { return modelopt_cast(over(b, times(six, decode_of(a)))); }
inline int modelopt_export_scale(const Real& a, const Real& b) {
  return modelopt_cast(over(times(over(b, six), whole(448)), over(a, six)));
}
inline int modelopt_code(const Real& a, int scale, const Real& x) {
  return e2m1(over(x, times(e4m3_value(scale), decode_of(a))));
}
inline Real fakequant_encode(const Real& a) { return over(whole(448), over(a, six)); }
inline int modelopt_fakequant_scale(const Real& a, const Real& b) {
  return e4m3_saturating(times(over(b, six), fakequant_encode(a)));
}
inline int modelopt_fakequant_code(const Real& a, int scale, const Real& x) {
  return scale == 0 ? 0 : e2m1(over(x, times(e4m3_value(scale), over(one, fakequant_encode(a)))));
}

inline int torchao_scale(const Real& a, const Real& b) {
  return e4m3_saturating(most(least(over(over(b, six), decode_of(a)), whole(448)), power(-6)));
}
inline int torchao_code(const Real& a, int scale, const Real& x) {
  return e2m1(times(x, over(over(one, decode_of(a)), e4m3_value(scale))));
}
inline int torchao_single_scale(const Real&, const Real& b) {
  return e4m3_saturating(most(least(over(b, six), whole(448)), power(-6)));
}
inline int torchao_single_code(const Real&, int scale, const Real& x) {
  return e2m1(times(x, over(one, e4m3_value(scale))));
}

inline int never_zero(int code) { return code == 0 ? 0x20 : code; }
inline int ct_scale(const Real& a, const Real& b) {
  return never_zero(e4m3_saturating(times(encode_of(a, 2688), over(b, six))));
}
inline int ct_code(const Real& a, int scale, const Real& x) {
  return e2m1(over(x, over(e4m3_value(scale), encode_of(a, 2688))));
}
inline int ct_bf16_scale(const Real& a, const Real& b) {
  return never_zero(e4m3_saturating(times(to_brain(encode_of(a, 2688)), to_brain(over(b, six)))));
}
inline int ct_bf16_code(const Real& a, int scale, const Real& x) {
  return e2m1(over(x, over(e4m3_value(scale), to_brain(encode_of(a, 2688)))));
}

inline int vllm_scale(const Real& a, const Real& b) {
  return e4m3_saturating(times(encode_of(a, 2688), times(b, sixth)));
}

inline Real fpquant_encode(const Real& a) { return times(q2688, over(one, a)); }
inline int fpquant_scale(const Real& a, const Real& b) {
  const Real doubled = over(times(whole(2), b), whole(12));  // as its source has it
  return e4m3_saturating(times(doubled, fpquant_encode(a)));
}
inline int fpquant_code(const Real& a, int scale, const Real& x) {
  return e2m1(over(x, times(e4m3_value(scale), over(one, fpquant_encode(a)))));
}
inline int fpquant_bf16_scale(const Real& a, const Real& b) {
  return e4m3_saturating(times(to_brain(over(times(whole(2), b), whole(12))), fpquant_encode(a)));
}
inline int fpquant_bf16_code(const Real& a, int scale, const Real& x) {
  return e2m1(to_brain(over(x, to_brain(times(e4m3_value(scale), over(one, fpquant_encode(a)))))));
}

inline int qwantize_scale(const Real&, const Real& b) { return e4m3_or_nan(over(b, six)); }
inline int qwantize_code(const Real&, int scale, const Real& x) { return e2m1(over(x, e4m3_value(scale)), Tie::down); }
inline int ggml_scale(const Real&, const Real& b) { return e4m3_ggml(over(b, six)); }
inline int ggml_code(const Real&, int scale, const Real& x) {  // the first of the least |k s - x|: ties go down
  return e2m1(Fraction{x.significand, x.exponent + 9, e4m3_units(scale)}, Tie::down);
}

// clang-format off
inline constexpr Row all_rows[] = {
    {"rational",                "naive",       448, 2688, rational_scale,           rational_code},
    {"te",                      "naive",       448, 2688, te_scale,                 te_code},
    {"te_ref",                  "naive",       448, 2688, te_scale,                 te_code},
    {"te_fast",                 "naive",       448, 2688, te_scale,                 te_fast_code},
    {"flashinfer",              "naive",       448, 2688, te_scale,                 te_code},
    {"fouroversix",             "naive",       448, 2688, nested_scale<6, 2688>,    nested_code<2688>},
    {"fouroversix",             "static4",     448, 1792, nested_scale<4, 1792>,    nested_code<1792>},
    {"te",                      "4over6",      256, 1536, candidate_scale<1536, 0>, candidate_code<1536>},
    {"te_ref",                  "4over6",      256, 1536, candidate_scale<1536, 0>, candidate_code<1536>},
    {"fouroversix",             "4over6",      256, 1536, candidate_scale<1536, 0>, nested_code<1536>},
    {"te",                      "4over6 four", 384, 1536, candidate_scale<1536, 1>, candidate_code<1536>},
    {"te_ref",                  "4over6 four", 384, 1536, candidate_scale<1536, 1>, candidate_code<1536>},
    {"fouroversix",             "4over6 four", 384, 1536, candidate_scale<1536, 1>, nested_code<1536>},
    {"modelopt_dyn",            "naive",       448, 2688, modelopt_dyn_scale,       modelopt_code},
    {"modelopt_export",         "naive",       448, 2688, modelopt_export_scale,    modelopt_code},
    {"modelopt_fakequant",      "naive",       448, 2688, modelopt_fakequant_scale, modelopt_fakequant_code},
    {"torchao",                 "naive",       448, 2688, torchao_scale,            torchao_code},
    {"compressed_tensors",      "naive",       448, 2688, ct_scale,                 ct_code},
    {"compressed_tensors_bf16", "naive",       448, 2688, ct_bf16_scale,            ct_bf16_code},
    {"vllm_emulation",          "naive",       448, 2688, vllm_scale,               nested_code<2688>},
    {"fpquant",                 "naive",       448, 2688, fpquant_scale,            fpquant_code},
    {"fpquant_bf16",            "naive",       448, 2688, fpquant_bf16_scale,       fpquant_bf16_code},
    {"torchao",                 "naive",       0,   0,    torchao_single_scale,     torchao_single_code},
    {"qwantize",                "naive",       0,   0,    qwantize_scale,           qwantize_code},
    {"ggml",                    "naive",       0,   0,    ggml_scale,               ggml_code},
};
// clang-format on

}  // namespace rows

using rows::all_rows;

}  // namespace fp4scope::recipe_oracle
