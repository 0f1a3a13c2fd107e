// Number formats as rows of data. One row says everything the codec needs to know:
//
//   code  = [sign] [exponent field E] [mantissa field m of M bits]
//   value = (-1)^sign * 2^(max(E,1) - bias) * ((E > 0) + m / 2^M)
//
// with three variations: a power-of-two scale has no zero (its code 0 is 2^-bias), an integer is two's complement
// with no exponent field, and the topmost codes may be Inf and NaN. Adding a format is adding a row.
//
// Sources: OCP Microscaling Formats (MX) v1.0, sections 5.2 and 5.3 (E2M1, E2M3, E3M2, INT8, E8M0); OCP 8-bit
// Floating Point (OFP8) rev 1.0, table 1 (E4M3, E5M2); IEEE 754-2019, 3.6 (binary16 and the rule behind "ieee").
#pragma once

#include <cstdint>
#include <string_view>

#include "formats/host_device.hpp"

namespace fp4scope::formats {

/// What the topmost codes mean.
enum class Specials : std::uint8_t {
  none,      ///< every code is finite
  nan_only,  ///< the code of all ones (sign aside) is NaN, there is no Inf
  ieee,      ///< the exponent field of all ones holds Inf (m = 0) and NaN
};

struct Format {
  const char* name;  ///< as on the command line
  int bits;          ///< width of a code, sign included
  int exponent_bits;
  int mantissa_bits;
  int bias;
  bool is_signed;
  bool twos_complement;  ///< integer; encode is symmetric, so the most negative code is decoded, never produced
  bool has_zero;         ///< false: code 0 is 2^-bias and there are no subnormals
  Specials specials;
  std::uint32_t max_code;  ///< the largest finite positive value
  const char* source;

  /// Smallest normal exponent; subnormals share it.
  FP4SCOPE_HD constexpr int min_exponent() const noexcept { return has_zero ? 1 - bias : -bias; }
  FP4SCOPE_HD constexpr bool has_inf() const noexcept { return specials == Specials::ieee; }
  FP4SCOPE_HD constexpr bool has_nan() const noexcept { return specials != Specials::none; }
  /// +Inf, where there is one.
  FP4SCOPE_HD constexpr std::uint32_t inf_code() const noexcept { return max_code + 1; }
  /// The canonical NaN, sign clear: all ones, or the IEEE quiet NaN.
  FP4SCOPE_HD constexpr std::uint32_t nan_code() const noexcept {
    return has_inf() ? inf_code() | (std::uint32_t{1} << (mantissa_bits - 1)) : max_code + 1;
  }
  FP4SCOPE_HD constexpr std::uint32_t sign_bit() const noexcept {
    return is_signed ? std::uint32_t{1} << (bits - 1) : 0;
  }
  /// Of up to 31 bits; the mask serves 32 too.
  FP4SCOPE_HD constexpr std::uint32_t code_count() const noexcept { return std::uint32_t{1} << bits; }
  FP4SCOPE_HD constexpr std::uint32_t code_mask() const noexcept { return ~std::uint32_t{0} >> (32 - bits); }
};

// clang-format off
//                                     name         bits exp man bias  sign   2's    zero   specials            max      source
inline constexpr Format e2m1      = {"e2m1",        4,   2,  1,   1,  true,  false, true,  Specials::none,     0x7,     "OCP MX v1.0, 5.3.3"};
inline constexpr Format e2m3      = {"e2m3",        6,   2,  3,   1,  true,  false, true,  Specials::none,     0x1F,    "OCP MX v1.0, 5.3.2"};
inline constexpr Format e3m2      = {"e3m2",        6,   3,  2,   3,  true,  false, true,  Specials::none,     0x1F,    "OCP MX v1.0, 5.3.2"};
inline constexpr Format e3m4      = {"e3m4",        8,   3,  4,   3,  true,  false, true,  Specials::ieee,     0x6F,    "IEEE 754 rules at 8 bits (ml_dtypes float8_e3m4)"};
inline constexpr Format e4m3      = {"e4m3",        8,   4,  3,   7,  true,  false, true,  Specials::nan_only, 0x7E,    "OCP OFP8 rev 1.0 (also called FN)"};
inline constexpr Format e4m3_ieee = {"e4m3_ieee",   8,   4,  3,   7,  true,  false, true,  Specials::ieee,     0x77,    "IEEE 754 rules at 8 bits (ml_dtypes float8_e4m3)"};
inline constexpr Format e5m2      = {"e5m2",        8,   5,  2,  15,  true,  false, true,  Specials::ieee,     0x7B,    "OCP OFP8 rev 1.0"};
inline constexpr Format ue8m0     = {"ue8m0",       8,   8,  0, 127,  false, false, false, Specials::nan_only, 0xFE,    "OCP MX v1.0, 5.4.1 (E8M0)"};
inline constexpr Format ue4m3     = {"ue4m3",       7,   4,  3,   7,  false, false, true,  Specials::nan_only, 0x7E,    "PTX ISA 9.0, 5.2.3 (E4M3 with the sign clear)"};
inline constexpr Format ue5m3     = {"ue5m3",       8,   5,  3,  15,  false, false, true,  Specials::nan_only, 0xFE,    "arXiv 2601.19026 (unsigned, all ones is NaN)"};
inline constexpr Format ue4m4     = {"ue4m4",       8,   4,  4,   7,  false, false, true,  Specials::nan_only, 0xFE,    "arXiv 2605.14929 (all ones taken as NaN)"};
inline constexpr Format e1m2      = {"e1m2",        4,   1,  2,   0,  true,  false, true,  Specials::none,     0x7,     "arXiv 2605.31035 (the uniform grid 0 .5 .. 3.5)"};
inline constexpr Format int4      = {"int4",        4,   0,  3,  -2,  true,  true,  true,  Specials::none,     0x7,     "two's complement, encoded symmetrically"};
inline constexpr Format int8      = {"int8",        8,   0,  7,  -6,  true,  true,  true,  Specials::none,     0x7F,    "two's complement, encoded symmetrically; MXINT8 scales it by 2^-6 (OCP MX v1.0, 5.3.4)"};
inline constexpr Format bf16      = {"bf16",       16,   8,  7, 127,  true,  false, true,  Specials::ieee,     0x7F7F,  "the upper half of binary32"};
inline constexpr Format fp16      = {"fp16",       16,   5, 10,  15,  true,  false, true,  Specials::ieee,     0x7BFF,  "IEEE 754-2019, binary16"};
// clang-format on

inline constexpr Format all_formats[] = {e2m1,  e2m3,  e3m2,  e3m4, e4m3, e4m3_ieee, e5m2, ue8m0,
                                         ue4m3, ue5m3, ue4m4, e1m2, int4, int8,      bf16, fp16};

/// The row of that name, or nullptr.
constexpr const Format* find_format(std::string_view name) noexcept {
  for (const Format& f : all_formats) {
    if (name == f.name) return &f;
  }
  return nullptr;
}

/// Two rows are the same format when their names are.
constexpr bool same_format(const Format& a, const Format& b) noexcept { return std::string_view(a.name) == b.name; }

}  // namespace fp4scope::formats
