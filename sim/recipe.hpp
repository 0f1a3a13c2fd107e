// A recipe is an order of floating-point operations, as data: what a library computes between a tensor and its codes.
//
//   a = amax of the tensor, b = amax of the block, x = an element; Q = largest element, M = scale max, K = Q * M
//   tensor  S encodes, D decodes: one of them from a and K, the other its reciprocal
//   block   v from b and S or D; low end, zero rule; cast to the scale's code, whose value is s
//   data    y from x, s and S or D
//   code    the element nearest to y, with the recipe's ties, signs, NaN and bugs
//
// Every written operation is one IEEE binary32 operation, to nearest even, left to right; fl(c) is a constant rounded
// to binary32. One loop, recipe_codes, serves every row of recipes.hpp. The choice among candidate scales is search's.
// Steps of GPU kernels that divide approximately have Hopper's bits (approximate.hpp): rcp(x), and a /~ b for div.full.
// This file rests on the flags that keep a * b + c in two roundings (-ffp-contract=off, -fmad=false).
#pragma once

#include "formats/block_format.hpp"
#include "sim/approximate.hpp"
#include "sim/block.hpp"
#include "sim/converter.hpp"
#include "sim/log2.hpp"

namespace fp4scope::sim {

enum class TensorStep : std::uint8_t {
  none,               ///< S = D = 1
  rational,           ///< a / K is kept as two numbers and never rounded
  encode,             ///< S = K / a, D = 1 / S
  encode_twice,       ///< S = K * (1 / a), D = 1 / S
  decode,             ///< D = a / K, S = 1 / D
  decode_gpu,         ///< D = a * fl(1/K), S = 1 / D: PyTorch's division by a number on a GPU
  encode_nested,      ///< S = M / (a / Q), D = 1 / S
  encode_nested_gpu,  ///< S = M * (1 / (a * fl(1/Q))), D = 1 / S: what PyTorch makes of it on a GPU
};

/// What a tensor of zeros gets.
enum class ZeroTensor : std::uint8_t {
  computed,      ///< whatever the operations give, NaN included
  one,           ///< S = 1
  flt_max,       ///< S = min(K / 0, FLT_MAX)
  clamped,       ///< a is at least FLT_MIN
  small_is_one,  ///< a / Q up to 2^-24 counts as 1
  zero_scales,   ///< every block scale is 0
};

enum class BlockStep : std::uint8_t {
  amax,               ///< v = b
  over_q,             ///< v = b / Q
  times_fl_q,         ///< v = b * fl(1/Q)
  times_scaled_fl_q,  ///< v = b * (S * fl(1/Q))
  over_q_times_s,     ///< v = (b / Q) * S
  s_times_fl_q,       ///< v = S * (b * fl(1/Q))
  over_q_over_d,      ///< v = (b / Q) / D
  over_qd,            ///< v = b / (Q * D)
  over_qd_hopper,     ///< v = b /~ (Q * D)
  over_q_m_over_aq,   ///< v = ((b / Q) * M) / (a / Q)
  sb_times_fl_q,      ///< v = (b * S) * fl(1/Q)
  rational,           ///< v = M * b / a in real numbers
};

enum class ScaleCast : std::uint8_t {
  e4m3,                 ///< nearest even, saturating at 448
  e4m3_nan,             ///< nearest even, NaN above 464
  e4m3_ggml,            ///< ggml's own, converter_rows::ggml_ue4m3
  floor,                ///< 2^(floor(log2 v) - emax)
  floor_log2f,          ///< the same by a binary32 logarithm
  floor_log2f_wrapped,  ///< the same, wrapping below 2^-127 (ggml)
  floor_shifted,        ///< 2^(floor((log2f v - 2) + 127) - 127), at least 2^-126 (qwantize)
  even,                 ///< floor, one up from significand 1.75 on
  ceil,                 ///< floor, one up from above significand 1
  down,                 ///< the power of two at or below v; code 0 means zero
  up,                   ///< the power of two at or above v
  up_bits,              ///< exponent field, plus 1 for any mantissa: subnormal v gives code 1
  up_log2f,             ///< 2^ceil(max(log2f v, -127))
};

/// What a block value or a code of zero becomes.
struct ZeroScale {
  float least = 0;       ///< v is clamped to at least this before the cast
  float zero_value = 0;  ///< v = 0 becomes this, before the clamp
  int zero_code = 0;     ///< code 0 becomes this
};

enum class DataStep : std::uint8_t {
  reciprocal,                ///< y = x * (1 / (s * D))
  reciprocal_hopper,         ///< y = x * rcp(s * rcp(S))
  divide,                    ///< y = x / (s * D)
  divide_hopper,             ///< y = x /~ (s * D)
  divide_by_s,               ///< y = x / (s / S)
  reciprocal_twice,          ///< y = x * (S / s)
  reciprocal_twice_hopper,   ///< y = x * (S /~ s)
  reciprocal_scaled_hopper,  ///< y = x * (S * rcp(s))
  scaled_first,              ///< y = (x * S) * (1 / s)
  bf16_factor,               ///< y = x * bf16(min(S / s, bf16 max))
  distance,                  ///< no y: the element q with the least |q * s - x|, the first one of equals
  rational,                  ///< K * |x| against midpoint * s * a in real numbers
};

/// What happens to a block whose scale is 0.
enum class ZeroData : std::uint8_t {
  infinite,              ///< 1 / 0 = Inf is used: x = 0 gives NaN
  flt_max,               ///< reciprocals stop at FLT_MAX: codes +-max, or 0 for x = 0
  zeros,                 ///< every y is 0
  zero_blocks,           ///< every y is 0 for b = 0; else as flt_max
  zero_blocks_infinite,  ///< every y is 0 for b = 0; else as infinite
  one,                   ///< the divisor 0 becomes 1
  small_is_one,          ///< a divisor below fl(10^-5) becomes 1
  no_zero_x,             ///< Inf, but x = 0 stays 0
};

/// The order of a sum of errors.
enum class SumOrder : std::uint8_t {
  sequential,   ///< element by element
  row_tree,     ///< sequential along each of the 16 rows of a tile, then rows i and i + 8, i + 4, i + 2, i + 1
  eight_lanes,  ///< lane j takes e[j], e[j + 8], ...; then lanes 0 to 7 in order (torch.sum on x86-64)
};

enum class Candidates : std::uint8_t {
  one,
  four_over_six,  ///< v and fl(1.5 v); the second if its error is less
  int4,           ///< E2M1 and INT4 * 6/7 at one scale; the second if its error is less
  qwantize,       ///< every code within qwantize's bounds, the first of the least error
  scalesweep,     ///< eleven codes from three below v's to seven above, the first of the least error
};

/// T.dequantized, where the recipe has an order of its own; else the exact product, rounded once.
enum class DecodeStep : std::uint8_t {
  product,
  scale_first,  ///< q * (s * D)
  te,           ///< q * ((s * a) * fl(1/K))
  fouroversix,  ///< fp16(fp16(q) * fp16(s)), then times a, over K in binary32
  fake,         ///< the source rounds values and has no codes: zeros keep the sign of x < 0, integers too
};

/// Operations that run in bf16: their result is rounded once more.
enum Bf16 : std::uint8_t {
  in_bf16_none = 0,
  in_bf16_tensor = 1,
  in_bf16_block = 2,
  in_bf16_divisor = 4,
  in_bf16_quotient = 8
};

struct Recipe {
  const char* name;
  const char* format;            ///< a BlockFormat's name
  const char* methods;           ///< METHODs that it serves, the default first, separated by spaces
  const char* selects = "";      ///< criteria that it knows, where it has candidates
  int block = 0;                 ///< the only block size that the source has; 0: any
  int scale_max = 0;             ///< M; 0 without a tensor scale
  double divisor = 6;            ///< Q, of the rule and of K
  bool tensor_optional = false;  ///< whether the source works without a tensor scale too
  TensorStep tensor = TensorStep::none;
  ZeroTensor zero_tensor = ZeroTensor::computed;
  BlockStep value = BlockStep::over_q;
  bool value_limited = false;  ///< v = min(v, FLT_MAX), which turns NaN into FLT_MAX
  ScaleCast cast = ScaleCast::e4m3;
  ZeroScale zero = {};
  DataStep data = DataStep::reciprocal;
  ZeroData zero_data = ZeroData::infinite;
  Converter element = converter_rows::saturating("", formats::e2m1, "");  ///< y -> code
  bool nan_defined = false;  ///< whether the source says what NaN and Inf become; else they are refused
  bool nan_amax = true;      ///< whether a NaN element makes amax NaN; else maxima skip it
  Candidates candidates = Candidates::one;
  SumOrder sum = SumOrder::sequential;
  std::uint8_t bf16 = in_bf16_none;
  DecodeStep decode = DecodeStep::product;
  bool tiles = false;    ///< whether the source has square blocks
  bool rotates = false;  ///< whether the source has the 16-point rotation, rounded to the input's dtype
  const char* meaning = "";
};

inline constexpr float flt_max = 0x1.FFFFFEp127f;

/// binary32 rounded to bf16, to nearest even.
FP4SCOPE_HD constexpr float round_bf16(float x) noexcept {
  constexpr formats::Format f = formats::bf16;
  return formats::round_to(f, x);
}

/// The constants of a tensor.
struct RecipeTensor {
  float amax = 0;
  float encode = 1;  ///< S
  float decode = 1;  ///< D
  float range = 1;   ///< K
  float scale_max = 1;
};

FP4SCOPE_HD constexpr RecipeTensor recipe_tensor(const Recipe& r, float amax, int scale_max) noexcept {
  RecipeTensor t;
  t.amax = amax;
  t.scale_max = static_cast<float>(scale_max);
  t.range = static_cast<float>(r.divisor * scale_max);
  float a = amax;
  if (r.zero_tensor == ZeroTensor::clamped && a < 0x1p-126f) a = 0x1p-126f;
  const bool one = a == 0 && r.zero_tensor == ZeroTensor::one;
  switch (r.tensor) {
    case TensorStep::none: return t;
    case TensorStep::rational: t.decode = a / t.range; return t;
    case TensorStep::encode: t.encode = t.range / a; break;
    case TensorStep::encode_twice: t.encode = t.range * (1 / a); break;
    case TensorStep::encode_nested:
    case TensorStep::encode_nested_gpu: {
      const auto q = static_cast<float>(r.divisor);
      const bool gpu = r.tensor == TensorStep::encode_nested_gpu;
      float g = gpu ? a * (1 / q) : a / q;
      if (g <= 0x1p-24f && r.zero_tensor == ZeroTensor::small_is_one) g = 1;
      t.encode = gpu ? t.scale_max * (1 / g) : t.scale_max / g;
      break;
    }
    case TensorStep::decode:
      t.decode = a / t.range;
      t.encode = 1 / t.decode;
      return t;
    case TensorStep::decode_gpu:
      t.decode = a * (1 / t.range);
      t.encode = 1 / t.decode;
      return t;
  }
  const bool limited = r.zero_tensor == ZeroTensor::one || r.zero_tensor == ZeroTensor::flt_max;
  if (limited && t.encode > flt_max) t.encode = flt_max;
  if ((r.bf16 & in_bf16_tensor) != 0) t.encode = round_bf16(t.encode);
  if (one || (limited && t.encode == 0)) t.encode = 1;
  t.decode = 1 / t.encode;
  return t;
}

/// v, before the cast. Division and multiplication as the source has them.
FP4SCOPE_HD constexpr float block_value(const Recipe& r, const RecipeTensor& t, float b) noexcept {
  const auto q = static_cast<float>(r.divisor);
  const float fl_q = 1 / q;
  float over = b / q;
  if ((r.bf16 & in_bf16_block) != 0) over = round_bf16(over);
  if (t.amax == 0 && r.zero_tensor == ZeroTensor::zero_scales) return 0;
  float v = 0;
  switch (r.value) {
    case BlockStep::amax: v = b; break;
    case BlockStep::over_q: v = over; break;
    case BlockStep::times_fl_q: v = b * fl_q; break;
    case BlockStep::times_scaled_fl_q: v = b * (t.encode * fl_q); break;
    case BlockStep::over_q_times_s: v = over * t.encode; break;
    case BlockStep::s_times_fl_q: v = t.encode * (b * fl_q); break;
    case BlockStep::over_q_over_d: v = over / t.decode; break;
    case BlockStep::sb_times_fl_q: v = b * t.encode * fl_q; break;
    case BlockStep::over_qd: v = b / (q * t.decode); break;
    case BlockStep::over_qd_hopper: v = divide_full_hopper(b, q * t.decode); break;
    case BlockStep::over_q_m_over_aq: {
      if (over == 0) over = r.zero.zero_value;
      v = (over * t.scale_max) / (t.amax / q);
      break;
    }
    case BlockStep::rational: break;  // rational_scale_code
  }
  if (r.value_limited && !(v < flt_max)) v = flt_max;
  return v;
}

/// The UE8M0 code of a power-of-two rule. emax: the exponent of the element's largest binade. NaN and Inf give 0xFF.
FP4SCOPE_HD constexpr int power_code(ScaleCast cast, float v, int emax) noexcept {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, v);
  if (bits >= 0x7F800000u) return 0xFF;
  const bool shifted = cast == ScaleCast::floor_shifted;
  if (shifted && v < 1e-30f) v = 1e-30f;
  if (v == 0) return 0;
  const double significand = binade_of(v).significand;
  int exponent = binade_of(v).exponent;
  switch (cast) {
    case ScaleCast::floor: exponent -= emax; break;
    case ScaleCast::even: exponent += (significand >= 1.75) - emax; break;
    case ScaleCast::ceil: exponent += (significand > 1) - emax; break;
    case ScaleCast::floor_log2f:
    case ScaleCast::floor_log2f_wrapped: exponent = floor_log2f(v) - emax; break;
    case ScaleCast::floor_shifted: exponent = floor_log2f_shifted(v, -emax, 127) - 127; break;
    case ScaleCast::down: break;
    case ScaleCast::up: exponent += significand > 1; break;
    case ScaleCast::up_bits: return static_cast<int>(bits >> 23) + ((bits & 0x7FFFFFu) != 0);
    case ScaleCast::up_log2f: exponent = ceil_log2f(v); break;
    default: break;
  }
  if (cast == ScaleCast::floor_log2f_wrapped) return (exponent + 127) & 0xFF;
  const int low = shifted ? 1 : 0;
  const int code = exponent + 127;
  return code < low ? low : code > 254 ? 254 : code;
}

/// v -> the scale's code: zero value, low end, cast, zero code.
FP4SCOPE_HD constexpr int recipe_scale_code(const Recipe& r, const formats::BlockFormat& format, float v) noexcept {
  if (v == 0 && r.zero.zero_value > 0) v = r.zero.zero_value;
  if (v < r.zero.least) v = r.zero.least;  // NaN passes
  int code = 0;
  constexpr formats::Format e4m3 = formats::e4m3;
  switch (r.cast) {
    case ScaleCast::e4m3: code = static_cast<int>(formats::encode(e4m3, v).code); break;
    case ScaleCast::e4m3_nan:
      code = static_cast<int>(formats::encode(e4m3, v, formats::Rounding::nearest_even, formats::Overflow::nan).code);
      break;
    case ScaleCast::e4m3_ggml: {
      constexpr Converter ggml = converter_rows::ggml_ue4m3;
      code = static_cast<int>(convert(ggml, v, ggml.rounding, ggml.overflow));
      break;
    }
    default: {
      const int top =
          format.element.exponent_bits == 0 ? 0 : binade_of(static_cast<float>(format.element_max())).exponent;
      code = power_code(r.cast, v, top);
    }
  }
  return code == 0 ? r.zero.zero_code : code;
}

/// The code of a block in real numbers: 448 b has 27 bits, a boundary times a 29, so the quotient, rounded once, lies
/// on the right side of every boundary (scale.hpp has the argument).
FP4SCOPE_HD constexpr int rational_scale_code(const formats::BlockFormat& format, const RecipeTensor& t,
                                              float b) noexcept {
  if (b == 0) return 0;
  return static_cast<int>(
      formats::encode(format.scale, static_cast<double>(t.scale_max) * b / static_cast<double>(t.amax)).code);
}

/// How y comes from x in one block.
struct DataFactor {
  float first = 1;  ///< x is multiplied by this before
  float factor = 1;
  bool divides = false;
  bool zeros = false;        ///< every y is 0
  bool keeps_zeros = false;  ///< y = 0 for x = 0
  bool rounds_bf16 = false;  ///< y is rounded to bf16
};

FP4SCOPE_HD constexpr DataFactor data_factor(const Recipe& r, const RecipeTensor& t, float s, float b) noexcept {
  DataFactor d;
  const bool zero_blocks = r.zero_data == ZeroData::zero_blocks || r.zero_data == ZeroData::zero_blocks_infinite;
  d.zeros = (s == 0 && r.zero_data == ZeroData::zeros) || (b == 0 && zero_blocks);
  d.keeps_zeros = r.zero_data == ZeroData::no_zero_x;
  d.rounds_bf16 = (r.bf16 & in_bf16_quotient) != 0;
  const bool limited = r.zero_data == ZeroData::flt_max || r.zero_data == ZeroData::zero_blocks;
  switch (r.data) {
    case DataStep::reciprocal: d.factor = 1 / (s * t.decode); break;
    case DataStep::reciprocal_hopper: d.factor = reciprocal_hopper(s * reciprocal_hopper(t.encode)); break;
    case DataStep::reciprocal_twice: d.factor = t.encode / s; break;
    case DataStep::reciprocal_twice_hopper: d.factor = divide_full_hopper(t.encode, s); break;
    case DataStep::reciprocal_scaled_hopper: d.factor = t.encode * reciprocal_hopper(s); break;
    case DataStep::divide_hopper: {
      float divisor = s * t.decode;
      if (!(divisor >= 1e-5f) && r.zero_data == ZeroData::small_is_one) divisor = 1;
      d.first = full_division_scale(divisor);
      d.factor = reciprocal_hopper(divisor * d.first);
      return d;
    }
    case DataStep::scaled_first:
      d.first = t.encode;
      d.factor = 1 / s;
      break;
    case DataStep::bf16_factor: {
      constexpr float bf16_max = 0x1.FEp127f;
      const float ratio = t.encode / s;
      d.factor = round_bf16(ratio < bf16_max ? ratio : bf16_max);
      break;
    }
    case DataStep::divide:
    case DataStep::divide_by_s: {
      d.divides = true;
      d.factor = r.data == DataStep::divide ? s * t.decode : s / t.encode;
      if ((r.bf16 & in_bf16_divisor) != 0) d.factor = round_bf16(d.factor);
      if (d.factor == 0 && r.zero_data == ZeroData::one) d.factor = 1;
      return d;
    }
    default: break;
  }
  if (limited && d.factor > flt_max) d.factor = flt_max;
  return d;
}

FP4SCOPE_HD constexpr float data_value(const DataFactor& d, float x) noexcept {
  if (d.zeros || (d.keeps_zeros && x == 0)) return is_negative(x) ? -0.0f : 0.0f;
  float y = d.divides ? x / d.factor : x * d.first * d.factor;
  // torchao's element codes a NaN's bits, and processors make different ones (0 * Inf): here those of x86-64.
  if (y != y) y = __builtin_bit_cast(float, x == x ? 0xFFC00000u : __builtin_bit_cast(std::uint32_t, x) | 0x400000u);
  return d.rounds_bf16 ? round_bf16(y) : y;
}

/// A rounded element: its value as the recipe's own error estimate sees it, and its code.
struct RecipeElement {
  float value;
  std::uint8_t code;
};

/// Rounds the y of a block; what its elements share is worked out once. A row without that rounding takes its own.
class ElementRounder {
 public:
  FP4SCOPE_HD constexpr ElementRounder(const Converter& c, formats::Rounding rounding, bool with_values) noexcept
      : converter_(c),
        rounding_(c.offers(rounding) ? rounding : c.rounding),
        encoder_(formats::float_encoder(c.element, rounding_, c.overflow)),
        with_values_(with_values) {}

  /// Where the row has no largest value, the recipe's error estimate sees the value before it is cut to a code.
  FP4SCOPE_HD constexpr RecipeElement operator()(float y) const noexcept {
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, y), magnitude = bits & 0x7FFFFFFF;
    const bool ordinary = converter_.deviations == no_deviation && magnitude != 0 && magnitude < 0x7F800000;
    const std::uint32_t code = ordinary ? encoder_(bits) : convert(converter_, y, rounding_, converter_.overflow);
    if (!with_values_) return {0, static_cast<std::uint8_t>(code)};
    if (converter_.deviates(no_largest) && magnitude >= 0x40800000) {
      const float value = unlimited_value(__builtin_bit_cast(float, magnitude));
      return {y < 0 ? -value : value, static_cast<std::uint8_t>(code)};
    }
    return {formats::decode_float(converter_.element, code), static_cast<std::uint8_t>(code)};
  }

 private:
  const Converter& converter_;
  formats::Rounding rounding_;
  formats::FloatEncoder encoder_;
  bool with_values_;
};

/// The first element of the least |q * s - x| among all codes in order (ggml's best_index).
FP4SCOPE_HD constexpr RecipeElement nearest_by_distance(const formats::BlockFormat& format, float x, float s) noexcept {
  std::uint8_t best = 0;
  float least = 0;
  for (std::uint32_t code = 0; code < format.element.code_count(); ++code) {
    const float difference = formats::decode_float(format.element, code) * s - x;
    const float distance = difference < 0 ? -difference : difference;
    if (code == 0 || distance < least) {
      least = distance;
      best = static_cast<std::uint8_t>(code);
    }
  }
  return {formats::decode_float(format.element, best), best};
}

/// One block at a scale code: x[n] -> codes[n], and the elements' values where `values` is given. `b`: the block's
/// amax.
FP4SCOPE_HD constexpr void recipe_codes(const Recipe& r, const formats::BlockFormat& format, const RecipeTensor& t,
                                        int scale_code, float b, const float* x, int n, formats::Rounding rounding,
                                        std::uint8_t* codes, float* values = nullptr) noexcept {
  const float s = formats::decode_float(format.scale, static_cast<std::uint32_t>(scale_code));
  if (r.data == DataStep::rational) {
    const double step = formats::decode_double(format.scale, static_cast<std::uint32_t>(scale_code)) * t.amax;
    quantize_block(format.element, make_grid(format.element), x, n, step, codes, t.range);
    return;
  }
  // MX data steps use the power of two itself; a code 0 that means "zero block" has the value 0 there.
  const bool zero_code = (r.cast == ScaleCast::up_bits || r.cast == ScaleCast::down) && scale_code == 0;
  const DataFactor factor = data_factor(r, t, zero_code ? 0 : s, b);
  const ElementRounder round(r.element, rounding, values != nullptr);
  for (int i = 0; i < n; ++i) {
    const RecipeElement e =
        r.data == DataStep::distance ? nearest_by_distance(format, x[i], s) : round(data_value(factor, x[i]));
    codes[i] = e.code;
    if (values) values[i] = e.value;
  }
}

/// The same with the INT4 elements that IF4 may choose: y * fl(7/6), clamped to +-7, to nearest even.
FP4SCOPE_HD constexpr void recipe_int4_codes(const Recipe& r, const formats::BlockFormat& format, const RecipeTensor& t,
                                             int scale_code, float b, const float* x, int n, std::uint8_t* codes,
                                             float* values) noexcept {
  constexpr formats::Format integers = formats::int4;
  const float s = formats::decode_float(format.scale, static_cast<std::uint32_t>(scale_code));
  const DataFactor factor = data_factor(r, t, s, b);
  for (int i = 0; i < n; ++i) {
    const float y = data_value(factor, x[i]) * 0x1.2AAAAAp0f;  // 0x3F955555
    codes[i] = static_cast<std::uint8_t>(formats::encode(integers, y).code);
    values[i] = formats::decode_float(integers, codes[i]);
  }
}

/// binary32 rounded to binary16, to nearest even; too large is Inf.
FP4SCOPE_HD constexpr float round_fp16(float x) noexcept {
  constexpr formats::Format f = formats::fp16;
  return formats::round_to(f, x);
}

/// A code's value as the recipe itself decodes it. `scale_code` without a selection bit.
FP4SCOPE_HD constexpr float recipe_decode(const Recipe& r, const formats::BlockFormat& format, const RecipeTensor& t,
                                          int scale_code, std::uint8_t code, bool integer) noexcept {
  const float s = formats::decode_float(format.scale, static_cast<std::uint32_t>(scale_code));
  auto q = static_cast<float>(formats::element_value(format, code, integer));
  switch (r.decode) {
    case DecodeStep::scale_first: return q * (s * t.decode);
    case DecodeStep::te: return q * (s * t.amax * (1 / t.range));
    case DecodeStep::fouroversix: {
      if (integer) q = round_fp16(q * 0x1.B6DB6Ep-1f);
      const float product = round_fp16(q * round_fp16(s));
      return r.tensor == TensorStep::none ? product : product * t.amax / t.range;
    }
    case DecodeStep::fake:
    case DecodeStep::product: break;
  }
  const double step = static_cast<double>(t.decode) * s;
  return static_cast<float>(dequantize(format, code, step, integer));
}

}  // namespace fp4scope::sim
