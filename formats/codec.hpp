// Decode and encode, one of each, for every row of format.hpp. Integers only, one rounding, one exit.
//
//   decode: code -> the exact dyadic value
//   encode: binary64 (so binary32, bf16 and fp16 too) -> code, in six rounding directions and two overflow policies
//
// Sources: IEEE 754-2019, 4.3 (rounding directions) and 7.4 (overflow); OCP OFP8 rev 1.0, 4 (saturation).
#pragma once

#include <cstdint>

#include "formats/dyadic.hpp"
#include "formats/format.hpp"

namespace fp4scope::formats {

enum class CodeClass : std::uint8_t { zero, subnormal, normal, infinite, nan };

struct Decoded {
  Dyadic value;  ///< 0 for Inf and NaN
  CodeClass cls;
  bool negative;  ///< the sign bit, so that -0 and -Inf can be told
};

/// The exact value of a code. Bits above format.bits are ignored.
FP4SCOPE_HD constexpr Decoded decode(const Format& f, std::uint32_t code) noexcept {
  code &= f.code_mask();
  if (f.twos_complement) {
    const bool negative = (code & f.sign_bit()) != 0;
    const std::int64_t n = static_cast<std::int64_t>(code) - (negative ? f.code_count() : 0);
    return {{n, f.min_exponent() - f.mantissa_bits}, n == 0 ? CodeClass::zero : CodeClass::normal, negative};
  }
  const bool negative = (code & f.sign_bit()) != 0;
  const std::uint32_t magnitude = code & ~f.sign_bit();
  if (magnitude > f.max_code) {
    return {{0, 0}, f.has_inf() && magnitude == f.inf_code() ? CodeClass::infinite : CodeClass::nan, negative};
  }
  const int field = static_cast<int>(magnitude >> f.mantissa_bits);
  const std::int64_t mantissa = magnitude & ((std::uint32_t{1} << f.mantissa_bits) - 1);
  const bool normal = field > 0 || !f.has_zero;
  const std::int64_t significand = mantissa + (normal ? std::int64_t{1} << f.mantissa_bits : 0);
  const int exponent = (normal ? field - f.bias : f.min_exponent()) - f.mantissa_bits;
  const CodeClass cls = significand == 0 ? CodeClass::zero : normal ? CodeClass::normal : CodeClass::subnormal;
  return {{negative ? -significand : significand, exponent}, cls, negative};
}

/// The value as binary64, exact; Inf, NaN and -0 as themselves.
FP4SCOPE_HD constexpr double decode_double(const Format& f, std::uint32_t code) noexcept {
  const Decoded d = decode(f, code);
  if (d.cls == CodeClass::nan) return __builtin_nan("");
  if (d.cls == CodeClass::infinite) return d.negative ? -__builtin_inf() : __builtin_inf();
  if (d.cls == CodeClass::zero) return d.negative ? -0.0 : 0.0;
  return to_double(d.value);
}

/// The value as binary32, exact: no format here has more than 24 significant bits or leaves binary32's range.
FP4SCOPE_HD constexpr float decode_float(const Format& f, std::uint32_t code) noexcept {
  return static_cast<float>(decode_double(f, code));
}

enum class Rounding : std::uint8_t { nearest_even, nearest_away, toward_zero, up, down, stochastic };

enum class Overflow : std::uint8_t {
  saturate,  ///< beyond the largest finite value, Inf included: the largest finite value
  nan,       ///< Inf where the format has one, else NaN, else saturate
};

/// What an encoding did; a bit mask.
enum Status : std::uint8_t {
  exact = 0,
  inexact = 1,
  underflow = 2,  ///< below the smallest normal in magnitude, and inexact
  overflow = 4,   ///< beyond the largest finite value after rounding, or negative in an unsigned format
  was_nan = 8,
};

struct Encoded {
  std::uint32_t code;
  std::uint8_t status;
};

/// Does the magnitude kept + lost move away from zero? lost = 0.xxx of the last kept place, as the top 32 bits of the
/// fraction and a sticky bit for what lies below. Stochastic: up iff word < floor(2^32 * lost), so that P(up) is lost
/// rounded down to 32 bits, exactly lost wherever 32 bits hold it.
FP4SCOPE_HD constexpr bool rounds_away(Rounding mode, bool negative, bool odd, std::uint32_t lost, bool sticky,
                                       std::uint32_t word) noexcept {
  constexpr std::uint32_t half = 0x80000000u;
  switch (mode) {
    case Rounding::nearest_even: return lost > half || (lost == half && (sticky || odd));
    case Rounding::nearest_away: return lost >= half;
    case Rounding::toward_zero: return false;
    case Rounding::up: return !negative && (lost != 0 || sticky);
    case Rounding::down: return negative && (lost != 0 || sticky);
    case Rounding::stochastic: return word < lost;
  }
  return false;
}

/// Rounds x to a code.
/// NaN gives the canonical NaN, sign clear, or the largest code where there is none (as cuda_fp4.h does). The sign of
/// zero is kept where there is a sign. Overflow is decided as though the exponent had no end (IEEE 754-2019, 7.4):
/// directed rounding never overflows away from its direction, an overflow to NaN keeps the sign (E4M3: -500 gives
/// 0xFF), an infinite x goes the way of the policy in every direction, and Inf to Inf is exact. An unsigned format
/// clamps every negative number, however small, to code 0, or to NaN under Overflow::nan. A format without zero takes 0
/// to code 0 (inexact, underflow) or to NaN under Overflow::nan, and what is below its least value to code 0 in every
/// direction. Its ties go up: both neighbours have the significand 1, so 4.3.1 chooses the larger (ml_dtypes agrees).
/// `word`: 32 random bits, used by Rounding::stochastic alone.
FP4SCOPE_HD constexpr Encoded encode(const Format& f, double x, Rounding mode = Rounding::nearest_even,
                                     Overflow policy = Overflow::saturate, std::uint32_t word = 0) noexcept {
  const Unpacked u = unpack(x);

  // 1. NaN, Inf, and what an unsigned format or one without zero cannot hold.
  if (u.nan) return {f.has_nan() ? f.nan_code() : f.max_code, was_nan};
  const bool outside = policy == Overflow::nan && f.has_nan();
  if (u.negative && !f.is_signed && (u.significand != 0 || u.infinite)) {
    return {outside ? f.nan_code() : 0u, overflow | inexact};
  }
  const std::uint32_t beyond = !outside ? f.max_code : f.has_inf() ? f.inf_code() : f.nan_code();
  const std::uint32_t sign = u.negative ? f.sign_bit() : 0;
  const auto with_sign = [&](std::uint32_t magnitude) noexcept -> std::uint32_t {
    if (!f.twos_complement) return magnitude | sign;
    return u.negative ? (0u - magnitude) & f.code_mask() : magnitude;
  };
  if (u.infinite && outside && f.has_inf()) return {with_sign(beyond), exact};
  if (u.infinite) return {with_sign(beyond), overflow | inexact};
  if (u.significand == 0) {
    if (f.has_zero) return {with_sign(0), exact};
    return {outside ? f.nan_code() : 0u, underflow | inexact};
  }

  // 2. The last place kept: the mantissa's below the leading bit, no lower than the subnormals'; fixed for integers.
  const bool truncates = mode == Rounding::toward_zero || mode == (u.negative ? Rounding::up : Rounding::down);
  const Encoded overflowed = {with_sign(truncates ? f.max_code : beyond), overflow | inexact};
  const int leading = u.exponent + bit_length(u.significand) - 1;
  const int lowest = f.min_exponent();
  const int highest = f.exponent_bits > 0 ? static_cast<int>(f.max_code >> f.mantissa_bits) - f.bias : lowest;
  if (leading > highest + 1) return overflowed;  // so that no shift below loses a bit
  const int exponent = leading > lowest && f.exponent_bits > 0 ? leading : lowest;
  const int shift = exponent - f.mantissa_bits - u.exponent;

  // 3. Round once.
  std::uint64_t kept = 0;
  std::uint32_t lost = 0;
  bool sticky = false;
  if (shift <= 0) {
    kept = u.significand << -shift;
  } else if (shift < 64) {
    kept = u.significand >> shift;
    const std::uint64_t fraction = u.significand << (64 - shift);
    lost = static_cast<std::uint32_t>(fraction >> 32);
    sticky = static_cast<std::uint32_t>(fraction) != 0;
  } else {  // nothing is kept; 53 bits reach into the fraction's first 32 places while shift < 85
    lost = shift < 96 ? static_cast<std::uint32_t>(u.significand >> (shift - 32)) : 0;
    sticky = true;  // one half is out of reach, so it only has to be non-zero
  }
  if (rounds_away(mode, u.negative, (kept & 1) != 0, lost, sticky, word)) ++kept;

  // 4. Pack: adding the kept significand to the exponent field lets a carry move into the next binade by itself.
  const std::int64_t base = static_cast<std::int64_t>(exponent + f.bias - 1) * (std::int64_t{1} << f.mantissa_bits);
  const std::int64_t magnitude = base + static_cast<std::int64_t>(kept);
  if (magnitude > static_cast<std::int64_t>(f.max_code)) return overflowed;
  std::uint8_t status = exact;
  const int smallest_normal = f.twos_complement ? 0 : lowest;  // no integer is subnormal
  if (lost != 0 || sticky) status = leading < smallest_normal ? inexact | underflow : inexact;
  return {with_sign(magnitude < 0 ? 0u : static_cast<std::uint32_t>(magnitude)), status};
}

/// x rounded to a format's value, to nearest even; beyond the range Inf or NaN where there is one.
FP4SCOPE_HD constexpr float round_to(const Format& f, float x) noexcept {
  return decode_float(f, encode(f, x, Rounding::nearest_even, Overflow::nan).code);
}

}  // namespace fp4scope::formats
