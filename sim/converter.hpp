// Element converters of other libraries, each under the name of its recipe: a table that says what every one does
// unlike formats::encode, and one function that reads it. Bugs of the sources are reproduced, and named in `meaning`.
//
//   x -> [sign dropped] -> encode_float, or a way of the row's own -> codes mended -> the row's codes of NaN, zero, Inf
//
// A row speaks of binary32. Of binary64 the rows of `exact` and `cuda` know more; the others round it to binary32
// first, as CUTLASS does (two roundings).
//
// Sources: CUDA 13.0 (cuda_fp4.h, cuda_fp6.h, cuda_fp8.h); CUTLASS 7107b05 (exmy_base.h, float8.h, float_subbyte.h);
// ml_dtypes 0.6.0; ggml d99724f (ggml-quants.c, ggml-impl.h); torchao (custom_fp_utils.py); fouroversix dadfad6
// (quantize/pytorch/reference.py); Model-Optimizer (nvfp4_tensor.py, mxfp4_tensor.py); qwantize f4d1ffa
// (nvfp4/reference.py); microxcaling (elemwise_ops.py). What these leave to PyTorch is its CPU code up to 2.12, where
// sign(NaN) is 0.
#pragma once

#include <cstdint>
#include <string_view>

#include "formats/codec.hpp"
#include "formats/encode_float.hpp"
#include "sim/log2.hpp"

namespace fp4scope::sim {

using formats::Overflow;
using formats::Rounding;

/// A field of a row that does not deviate from formats::encode.
inline constexpr std::uint32_t as_encode = 0xFFFFFFFF;

/// What a converter does unlike encode, beside its codes of NaN, zero and Inf; a bit mask.
enum Deviation : std::uint16_t {
  no_deviation = 0,
  drops_sign = 1,          ///< converts |x|
  ties_toward_zero = 2,    ///< to nearest
  least_distance = 4,      ///< the first code with the least |value - x|, the difference rounded to binary32
  no_largest = 8,          ///< rounds on in steps of 2; the code is what falls out of the bf16 of the result
  half_added = 16,         ///< floor(x / step + 1/2), the sum rounded to binary32: just below the least half goes up
  subnormals_end = 32,     ///< no carry from the largest subnormal into the normals
  no_top_binade = 64,      ///< all of the last binade is its largest value
  nan_is_number = 128,     ///< a NaN's bits are rounded as though they were a number's
  subnormals_are_1 = 256,  ///< UE8M0: every binary32 subnormal above 2^-127 is 2^-126
  by_logarithm = 512,      ///< the last place kept is found by a binary32 logarithm
  keeps_payload = 1024     ///< the first mantissa bits of a binary64 NaN are kept
};

struct Converter {
  const char* recipe;
  formats::Format element;
  const char* roundings;  ///< words of analysis::rounding_names, the default first; or a description of the only one
  Rounding rounding;      ///< the default
  std::uint8_t rounding_set;  ///< a bit for each Rounding on offer; 0: there is no choice and no word for it
  Overflow overflow;          ///< the default
  bool overflow_choice;       ///< the other one is on offer too
  std::uint16_t deviations = no_deviation;
  std::uint32_t nan = as_encode, negative_nan = as_encode;
  std::uint32_t zero = as_encode, negative_zero = as_encode;
  std::uint32_t infinity = as_encode;  ///< of either sign
  bool takes_binary64 = false;         ///< rounds binary64 once
  std::uint32_t nan64 = as_encode, negative_nan64 = as_encode;
  const char* meaning = "";

  FP4SCOPE_HD constexpr bool offers(Rounding r) const noexcept {
    return (rounding_set >> static_cast<int>(r) & 1) != 0;
  }
  FP4SCOPE_HD constexpr bool offers(Overflow o) const noexcept { return o == overflow || overflow_choice; }
  FP4SCOPE_HD constexpr bool deviates(Deviation d) const noexcept { return (deviations & d) != 0; }
};

namespace converter_rows {

constexpr std::uint8_t bit(Rounding r) noexcept { return static_cast<std::uint8_t>(1u << static_cast<int>(r)); }

inline constexpr std::uint8_t all_roundings = 0x3F;
inline constexpr std::uint8_t rne = bit(Rounding::nearest_even);
inline constexpr std::uint8_t rna = bit(Rounding::nearest_away);
inline constexpr std::uint8_t rtz = bit(Rounding::toward_zero);
inline constexpr std::uint8_t rup = bit(Rounding::up);

constexpr Converter exact(const formats::Format& element) {
  return {.recipe = "exact",
          .element = element,
          .roundings = "rne rna rtz rup rdn stochastic",
          .rounding = Rounding::nearest_even,
          .rounding_set = all_roundings,
          .overflow = Overflow::saturate,
          .overflow_choice = true,
          .takes_binary64 = true,
          .meaning = "formats::encode"};
}

/// To nearest even, saturating; where a row differs it says so.
constexpr Converter saturating(const char* recipe, const formats::Format& element, const char* meaning) {
  return {.recipe = recipe,
          .element = element,
          .roundings = "rne",
          .rounding = Rounding::nearest_even,
          .rounding_set = rne,
          .overflow = Overflow::saturate,
          .overflow_choice = false,
          .meaning = meaning};
}

/// `from` with other fields: with(row, [](Converter& c) { c.zero = 8; }).
template <class Change>
constexpr Converter with(Converter from, Change change) {
  change(from);
  return from;
}

/// To nearest even and toward zero; every NaN is the largest value.
constexpr Converter cuda_narrow(const formats::Format& element) {
  return with(saturating("cuda", element, "the vendor's headers: SATFINITE, cudaRoundNearest or cudaRoundZero"),
              [](Converter& c) {
                c.roundings = "rne rtz";
                c.rounding_set = rne | rtz;
                c.takes_binary64 = true;
              });
}

/// Saturating, or NOSAT: `nan64` is a binary64 NaN's code, which keeps the sign; every binary32 NaN is 0x7F.
constexpr Converter cuda_fp8(const formats::Format& element, std::uint32_t nan64) {
  return with(saturating("cuda", element, "SATFINITE or NOSAT; a binary32 NaN loses its sign, a binary64 one keeps it"),
              [nan64](Converter& c) {
                c.overflow_choice = true;
                c.nan = c.negative_nan = 0x7F;
                c.takes_binary64 = true;
                c.nan64 = nan64;
                c.negative_nan64 = nan64 | 0x80;
                if (nan64 != 0x7F) c.deviations = keeps_payload;
              });
}

inline constexpr Converter cuda_ue8m0 =
    with(saturating("cuda", formats::ue8m0, "|x| up, as the C++ constructor, or toward zero; 0 is 2^-127 in each"),
         [](Converter& c) {
           c.roundings = "rup rtz";
           c.rounding = Rounding::up;
           c.rounding_set = rup | rtz;
           c.overflow_choice = true;
           c.deviations = drops_sign;
           c.zero = c.negative_zero = 0;
           c.takes_binary64 = true;
         });

/// A NaN keeps its sign where the format has none, too: there it is the largest value, or its negative.
constexpr Converter cutlass_narrow(const formats::Format& element) {
  return with(saturating("cutlass", element, "NaN is the largest value, with NaN's sign"),
              [&](Converter& c) { c.negative_nan = element.max_code | element.sign_bit(); });
}

inline constexpr Converter cutlass_e4m3 = saturating("cutlass", formats::e4m3, "the same as cuda's SATFINITE");
inline constexpr Converter cutlass_e5m2 =
    with(saturating("cutlass", formats::e5m2, "cuda's SATFINITE"), [](Converter& c) { c.nan = c.negative_nan = 0x7F; });
inline constexpr Converter cutlass_ue4m3 = with(saturating("cutlass", formats::ue4m3, "the sign is dropped: -1 is 1"),
                                                [](Converter& c) { c.deviations = drops_sign; });
inline constexpr Converter cutlass_ue8m0 =
    with(saturating("cutlass", formats::ue8m0, "cuda's SATFINITE upward, but Inf is NaN"), [](Converter& c) {
      c.roundings = "rup";
      c.rounding = Rounding::up;
      c.rounding_set = rup;
      c.deviations = drops_sign;
      c.infinity = 0xFF;
    });

/// Never saturates where there is Inf or NaN to go to; NaN keeps its sign.
constexpr Converter ml_dtypes(const formats::Format& element) {
  return with(saturating("ml_dtypes", element, "overflow to Inf, else NaN; NaN keeps its sign"), [&](Converter& c) {
    c.overflow = Overflow::nan;
    c.negative_nan = element.nan_code() | element.sign_bit();
  });
}

/// Without a NaN: the zero of the other sign.
constexpr Converter ml_dtypes_finite(const formats::Format& element) {
  return with(saturating("ml_dtypes", element, "NaN is -0 and -NaN is 0 (bug)"), [&](Converter& c) {
    c.nan = element.sign_bit();
    c.negative_nan = 0;
  });
}

inline constexpr Converter ml_dtypes_ue8m0 = with(ml_dtypes(formats::ue8m0), [](Converter& c) {
  c.deviations = subnormals_are_1;
  c.meaning = "nearest, not up; 0, negatives and overflow are NaN; all subnormals above 2^-127 are 2^-126 (bug)";
});

inline constexpr Converter ggml_e2m1 = with(
    saturating("ggml", formats::e2m1, "the first of the least |q - x|: huge x, Inf and NaN are 0 (bug), -0 is never"),
    [](Converter& c) {
      c.roundings = "nearest, ties toward zero";
      c.rounding_set = 0;
      c.deviations = least_distance;
      c.nan = c.negative_nan = c.zero = c.negative_zero = c.infinity = 0;
    });
inline constexpr Converter ggml_ue4m3 =
    with(saturating("ggml", formats::ue4m3,
                    "ties up, from 248 on 448, no carry out of the subnormals, the float below 2^-10 up, NaN 0 (bugs)"),
         [](Converter& c) {
           c.roundings = "rna";
           c.rounding = Rounding::nearest_away;
           c.rounding_set = rna;
           c.deviations = half_added | subnormals_end | no_top_binade;
           c.nan = c.negative_nan = 0;
         });

constexpr Converter torchao(const formats::Format& element) {
  return with(saturating("torchao", element, "NaN's bits are rounded as a number's: a finite code (bug)"),
              [](Converter& c) { c.deviations = nan_is_number; });
}

/// Inf and NaN are not defined there: Inf * 0 is NaN, and what becomes of a NaN depends on the vector unit.
inline constexpr Converter fouroversix =
    with(saturating("fouroversix", formats::e2m1,
                    "its PyTorch code: no largest value, so that 7 to 9 become 8 and are written 0x8 = -0 (bug)"),
         [](Converter& c) {
           c.deviations = no_largest;
           c.negative_zero = 0;
           c.nan = c.negative_nan = c.infinity = 3;
         });

inline constexpr Converter modelopt =
    with(saturating("modelopt", formats::e2m1, "NVFP4QTensor: -0 is 0, every NaN is 6"),
         [](Converter& c) { c.negative_zero = 0; });
inline constexpr Converter modelopt_mxfp4 = with(
    saturating("modelopt_mxfp4", formats::e2m1, "MXFP4QTensor: 0 and NaN are -0, ties .75, 1.75, 3.5 go down (bugs)"),
    [](Converter& c) {
      c.roundings = "nearest, ties toward zero";
      c.rounding_set = 0;
      c.deviations = ties_toward_zero;
      c.zero = c.negative_zero = c.nan = c.negative_nan = 8;
    });
inline constexpr Converter qwantize =
    with(saturating("qwantize", formats::e2m1, "ties .75, 1.75, 3.5 go down; -0 and NaN are 0"), [](Converter& c) {
      c.roundings = "nearest, ties toward zero";
      c.rounding_set = 0;
      c.deviations = ties_toward_zero;
      c.negative_zero = c.nan = c.negative_nan = 0;
    });

/// It rounds values and has no codes: Inf and NaN stay what they are, and the 44 largest binary32 numbers become NaN;
/// here they get encode's codes. Its nearest, the default, is rna, its even rne and its floor rtz.
constexpr Converter microxcaling(const formats::Format& element) {
  return with(
      saturating("microxcaling", element,
                 "half away from zero; the float below the least half goes up; rtz errs below powers of two (bugs)"),
      [](Converter& c) {
        c.roundings = "rna rne rtz";
        c.rounding = Rounding::nearest_away;
        c.rounding_set = rna | rne | rtz;
        c.deviations = half_added | by_logarithm;
        c.negative_zero = 0;
      });
}

}  // namespace converter_rows

inline constexpr Converter all_converters[] = {
    converter_rows::exact(formats::e2m1),
    converter_rows::exact(formats::e2m3),
    converter_rows::exact(formats::e3m2),
    converter_rows::exact(formats::e3m4),
    converter_rows::exact(formats::e4m3),
    converter_rows::exact(formats::e4m3_ieee),
    converter_rows::exact(formats::e5m2),
    converter_rows::exact(formats::ue8m0),
    converter_rows::exact(formats::ue4m3),
    converter_rows::exact(formats::ue5m3),
    converter_rows::exact(formats::ue4m4),
    converter_rows::exact(formats::e1m2),
    converter_rows::exact(formats::int4),
    converter_rows::exact(formats::int8),
    converter_rows::exact(formats::bf16),
    converter_rows::exact(formats::fp16),
    converter_rows::cuda_narrow(formats::e2m1),
    converter_rows::cuda_narrow(formats::e2m3),
    converter_rows::cuda_narrow(formats::e3m2),
    converter_rows::cuda_fp8(formats::e4m3, 0x7F),
    converter_rows::cuda_fp8(formats::e5m2, 0x7E),
    converter_rows::cuda_ue8m0,
    converter_rows::cutlass_narrow(formats::e2m1),
    converter_rows::cutlass_narrow(formats::e2m3),
    converter_rows::cutlass_narrow(formats::e3m2),
    converter_rows::cutlass_e4m3,
    converter_rows::cutlass_e5m2,
    converter_rows::cutlass_ue4m3,
    converter_rows::cutlass_ue8m0,
    converter_rows::ml_dtypes_finite(formats::e2m1),
    converter_rows::ml_dtypes_finite(formats::e2m3),
    converter_rows::ml_dtypes_finite(formats::e3m2),
    converter_rows::ml_dtypes(formats::e3m4),
    converter_rows::ml_dtypes(formats::e4m3_ieee),
    converter_rows::ml_dtypes(formats::e4m3),
    converter_rows::ml_dtypes(formats::e5m2),
    converter_rows::ml_dtypes_ue8m0,
    converter_rows::ml_dtypes(formats::bf16),
    converter_rows::ggml_e2m1,
    converter_rows::ggml_ue4m3,
    converter_rows::torchao(formats::e2m1),
    converter_rows::torchao(formats::e2m3),
    converter_rows::torchao(formats::e3m2),
    converter_rows::fouroversix,
    converter_rows::modelopt,
    converter_rows::modelopt_mxfp4,
    converter_rows::qwantize,
    converter_rows::microxcaling(formats::e2m1),
    converter_rows::microxcaling(formats::e2m3),
    converter_rows::microxcaling(formats::e3m2),
    converter_rows::microxcaling(formats::e4m3),
    converter_rows::microxcaling(formats::e5m2),
};

/// The row of that recipe and element, or nullptr.
constexpr const Converter* find_converter(std::string_view recipe, std::string_view element) noexcept {
  for (const Converter& c : all_converters) {
    if (recipe == c.recipe && element == c.element.name) return &c;
  }
  return nullptr;
}

/// ggml's best_index: a scan of the 16 E2M1 codes for the least |value - x|, the first of equals. From 2^25 on the
/// differences round to few values and the first of them wins; beyond 2^28 that is code 0.
FP4SCOPE_HD constexpr std::uint32_t least_distance_code(float x) noexcept {
  constexpr float level[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  std::uint32_t best = 0;
  float least = x < 0 ? -x : x;
  for (std::uint32_t code = 1; code < 16; ++code) {
    const float difference = (code < 8 ? level[code] : -level[code - 8]) - x;
    const float distance = difference < 0 ? -difference : difference;
    if (distance < least) {
      least = distance;
      best = code;
    }
  }
  return best;
}

/// fouroversix's E2M1 of |x| >= 4: 2 * round(|x| / 2), to nearest even and without end.
FP4SCOPE_HD constexpr float unlimited_value(float magnitude) noexcept {
  const float half = magnitude / 2;
  return half < 0x1p23f ? 2 * ((half + 0x1p23f) - 0x1p23f) : magnitude;
}

/// Its code, taken from the bf16 of it: exponent field - 126 and the first mantissa bit, of which a nibble keeps four
/// bits. 8 and 10 give 8 (as -0), 12 gives 9. From 127 on there are more than four bits, and what the nibble does not
/// hold spoils its neighbour there.
FP4SCOPE_HD constexpr std::uint32_t unlimited_code(float magnitude) noexcept {
  constexpr formats::Format bf16 = formats::bf16;
  const float value = unlimited_value(magnitude);
  return ((formats::encode_float(bf16, value, Rounding::nearest_even, Overflow::nan) >> 6) - (126u << 1)) & 0xF;
}

/// torchao's E2M1, E2M3 and E3M2 of a NaN: its exponent rebiased and its mantissa rounded as a number's, in 8 bits.
FP4SCOPE_HD constexpr std::uint32_t nan_as_number(const formats::Format& f, std::uint32_t magnitude) noexcept {
  const int dropped = 23 - f.mantissa_bits;
  const std::uint32_t odd = magnitude >> dropped & 1;
  const std::uint32_t rebiased = magnitude - (static_cast<std::uint32_t>(127 - f.bias) << 23);
  return (rebiased + (1u << (dropped - 1)) - 1 + odd) >> dropped & 0xFF;
}

/// microxcaling's floor finds the exponent E of x by a binary32 logarithm, whose floor is one too large for a few
/// numbers just below 2^E. They lose a bit more: 2^E (1 - 2^-M) is what is left of them. To nearest they are 2^E all
/// the same.
FP4SCOPE_HD constexpr std::uint32_t by_logarithm_floor(const formats::Format& f, std::uint32_t magnitude) noexcept {
  if ((magnitude & 0x007FF000) != 0x007FF000 || magnitude >= 0x7F800000) return magnitude;
  const int exponent = floor_log2f(__builtin_bit_cast(float, magnitude));
  if (exponent <= static_cast<int>(magnitude >> 23) - 127 || exponent <= f.min_exponent()) return magnitude;
  const std::uint32_t kept = (1u << f.mantissa_bits) - 2;
  return (magnitude & 0x7F800000) | kept << (23 - f.mantissa_bits);
}

/// The codes after rounding: what x, with these bits, gets instead of `code`. No NaN, zero or Inf is changed that the
/// row has no code of its own for.
FP4SCOPE_HD constexpr std::uint32_t mended_code(const Converter& c, std::uint32_t bits, std::uint32_t code,
                                                Rounding mode) noexcept {
  const formats::Format& f = c.element;
  const auto normals = static_cast<std::uint32_t>(f.min_exponent() + 127) << 23;
  const std::uint32_t magnitude = f.is_signed ? bits & 0x7FFFFFFF : bits;
  if (c.deviates(half_added) && mode != Rounding::toward_zero) {
    const std::uint32_t least_half = normals - (static_cast<std::uint32_t>(f.mantissa_bits + 1) << 23);
    code |= magnitude == least_half - 1 ? 1 : 0;
  }
  if (c.deviates(subnormals_end)) code -= magnitude < normals && code == 1u << f.mantissa_bits ? 1 : 0;
  if (c.deviates(no_top_binade)) code = code >> f.mantissa_bits == f.max_code >> f.mantissa_bits ? f.max_code : code;
  if (c.deviates(subnormals_are_1)) code = magnitude > 0x00400000 && code == 0 ? 1 : code;
  return code;
}

/// The code that the row gives x. `mode` and `policy` are what the row offers: c.rounding and c.overflow by default;
/// a row without a choice of rounding ignores `mode`. `word` is for Rounding::stochastic. Inlined by force, as
/// encode_float is: with a row that is a constant there is little left of it, and that is vector code.
[[gnu::always_inline]] FP4SCOPE_HD constexpr std::uint32_t convert(const Converter& c, float x, Rounding mode,
                                                                   Overflow policy, std::uint32_t word = 0) noexcept {
  const formats::Format& f = c.element;
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFF;
  const std::uint32_t sign = c.deviates(drops_sign) ? 0 : bits - magnitude;
  const std::uint32_t sign_code = sign != 0 ? f.sign_bit() : 0;
  constexpr std::uint32_t infinity = 0x7F800000, four = 0x40800000;

  // 1. Round once. The nearest with ties toward zero is the nearest with ties away of the binary32 next to x: every
  //    midpoint and every value is a binary32, so that only ties notice.
  std::uint32_t rounded = magnitude;
  if (c.deviates(ties_toward_zero)) {
    rounded -= magnitude != 0 ? 1 : 0;
    mode = Rounding::nearest_away;
  }
  if (c.deviates(by_logarithm) && mode == Rounding::toward_zero) rounded = by_logarithm_floor(f, magnitude);
  std::uint32_t code = formats::encode_float(f, __builtin_bit_cast(float, rounded | sign), mode, policy, word);

  // 2. Ways of the row's own.
  if (c.deviates(least_distance)) code = least_distance_code(x);
  if (c.deviates(no_largest)) {
    code = magnitude >= four ? unlimited_code(__builtin_bit_cast(float, magnitude)) | sign_code : code;
  }
  code = mended_code(c, magnitude | sign, code, mode);

  // 3. NaN, zero and Inf, where the row has its own codes.
  if (c.zero != as_encode) code = bits == 0 ? c.zero : code;
  if (c.negative_zero != as_encode) code = bits == 0x80000000 ? c.negative_zero : code;
  if (c.infinity != as_encode) code = magnitude == infinity ? c.infinity : code;
  if (c.nan != as_encode) code = magnitude > infinity && bits == magnitude ? c.nan : code;
  if (c.negative_nan != as_encode) code = magnitude > infinity && bits != magnitude ? c.negative_nan : code;
  if (c.deviates(nan_is_number)) code = magnitude > infinity ? nan_as_number(f, magnitude) | sign_code : code;
  return code;
}

/// The same of a binary64, rounded once where the row takes one, else by way of binary32.
FP4SCOPE_HD constexpr std::uint32_t convert(const Converter& c, double x, Rounding mode, Overflow policy,
                                            std::uint32_t word = 0) noexcept {
  if (!c.takes_binary64) return convert(c, static_cast<float>(x), mode, policy, word);
  const formats::Unpacked u = formats::unpack(x);
  std::uint32_t code = as_encode;
  if (u.nan) code = u.negative ? c.negative_nan64 : c.nan64;
  if (u.nan && c.deviates(keeps_payload)) {
    const int dropped = 52 - c.element.mantissa_bits;
    code |= static_cast<std::uint32_t>(__builtin_bit_cast(std::uint64_t, x) >> dropped) &
            ((1u << c.element.mantissa_bits) - 1);
  }
  if (!u.nan && !u.infinite && u.significand == 0) code = u.negative ? c.negative_zero : c.zero;
  if (u.infinite) code = c.infinity;
  if (code != as_encode) return code;
  return formats::encode(c.element, u.negative && c.deviates(drops_sign) ? -x : x, mode, policy, word).code;
}

static_assert(convert(converter_rows::ggml_ue4m3, 300.0f, Rounding::nearest_away, Overflow::saturate) == 0x7E);
static_assert(convert(converter_rows::fouroversix, 8.0f, Rounding::nearest_even, Overflow::saturate) == 0x8);

}  // namespace fp4scope::sim
