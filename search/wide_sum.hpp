// A sum of doubles without rounding, in 128 bits: a multiple of 2^unit below 2^126 in magnitude.
//
// For comparisons whose terms are too far apart for binary64 but not for two words (search/sse.hpp states when).
#pragma once

#include <cstdint>

#include "formats/dyadic.hpp"

namespace fp4scope::search {

/// The exponent of the lowest set bit of x: x is an odd multiple of 2^lowest_bit(x). x finite and not 0.
FP4SCOPE_HD constexpr int lowest_bit(double x) noexcept {
  const formats::Unpacked u = formats::unpack(x);
  return u.exponent + formats::bit_length(u.significand & (~u.significand + 1)) - 1;
}

/// floor(log2 |x|). x finite and not 0.
FP4SCOPE_HD constexpr int highest_bit(double x) noexcept {
  const formats::Unpacked u = formats::unpack(x);
  return u.exponent + formats::bit_length(u.significand) - 1;
}

class WideSum {
 public:
  FP4SCOPE_HD constexpr explicit WideSum(int unit) noexcept : unit_(unit) {}

  /// Adds x, finite, a multiple of 2^unit. The magnitudes of all terms together stay below 2^(unit + 126).
  FP4SCOPE_HD constexpr void add(double x) noexcept {
    const formats::Unpacked u = formats::unpack(x);
    if (u.significand == 0) return;
    const int trailing = formats::bit_length(u.significand & (~u.significand + 1)) - 1;
    const Word units = static_cast<Word>(u.significand >> trailing) << (u.exponent + trailing - unit_);
    sum_ += u.negative ? -units : units;
  }

  /// -1, 0 or 1.
  FP4SCOPE_HD constexpr int sign() const noexcept { return sum_ < 0 ? -1 : sum_ > 0; }

 private:
  __extension__ typedef __int128 Word;
  Word sum_ = 0;
  int unit_;
};

namespace detail {
constexpr int wide_sign_of(int unit, double a, double b, double c) noexcept {
  WideSum s(unit);
  s.add(a);
  s.add(b);
  s.add(c);
  return s.sign();
}
}  // namespace detail
static_assert(lowest_bit(12) == 2 && highest_bit(12) == 3 && lowest_bit(0x1p-149) == -149);
static_assert(detail::wide_sign_of(-60, 0x1p60, -0x1p60, -0x1p-60) == -1);
static_assert(detail::wide_sign_of(-60, -0x1p60, 0x1p-60, 0x1p60) == 1 && detail::wide_sign_of(0, 1, 2, -3) == 0);

}  // namespace fp4scope::search
