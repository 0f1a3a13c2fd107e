// A sum of doubles without rounding: a fixed-point number of 1152 bits.
//
// For the rare comparison that a floating-point filter cannot decide. Terms lie between 2^-420 and 2^400 in
// magnitude: products T * v^2 * Q and v * q * x of a tensor scale (2^-149 .. 2^128), block scales (2^-127 .. 2^127),
// levels (2^-8 .. 2^8) and binary32 data (2^-149 .. 2^128): from 2^(-149 - 254 - 16) to 2^(128 + 254 + 16).
#pragma once

#include <cstdint>

#include "formats/dyadic.hpp"

namespace fp4scope::search {

class ExactSum {
 public:
  /// Adds x, finite, |x| in [2^-420, 2^400] or 0. Up to 2^30 terms.
  FP4SCOPE_HD constexpr void add(double x) noexcept {
    const formats::Unpacked u = formats::unpack(x);
    if (u.significand == 0) return;
    // Bit 0 of limb 0 weighs 2^-576; a limb holds 32 bits of the number and 31 bits of carries not yet propagated.
    const int position = u.exponent + 576;
    const int shift = position % 32;
    const std::uint64_t low = u.significand << shift & 0xFFFFFFFFu;
    const std::uint64_t rest = shift == 0 ? u.significand >> 32 : u.significand >> (32 - shift);
    add_limb(position / 32, low, u.negative);
    add_limb(position / 32 + 1, rest & 0xFFFFFFFFu, u.negative);
    add_limb(position / 32 + 2, rest >> 32, u.negative);
  }

  /// -1, 0 or 1.
  FP4SCOPE_HD constexpr int sign() const noexcept {
    // Carried upward, every limb but the top one lies in [0, 2^32), so the top one has the sign, 0 asks the others.
    std::int64_t carry = 0;
    bool nonzero = false;
    for (int i = 0; i < limbs; ++i) {
      const std::int64_t total = limb_[i] + carry;
      carry = total >> 32;
      nonzero = nonzero || (total & 0xFFFFFFFF) != 0;
    }
    if (carry < 0) return -1;
    return nonzero || carry > 0 ? 1 : 0;
  }

 private:
  FP4SCOPE_HD constexpr void add_limb(int index, std::uint64_t bits, bool negative) noexcept {
    limb_[index] += negative ? -static_cast<std::int64_t>(bits) : static_cast<std::int64_t>(bits);
  }

  static constexpr int limbs = 36;
  std::int64_t limb_[limbs] = {};
};

namespace detail {
constexpr int sign_of(double a, double b, double c) noexcept {
  ExactSum s;
  s.add(a);
  s.add(b);
  s.add(c);
  return s.sign();
}
}  // namespace detail
static_assert(detail::sign_of(0x1p300, -0x1p300, -0x1p-300) == -1 && detail::sign_of(1, 2, -3) == 0);
static_assert(detail::sign_of(-0x1p300, 0x1p-300, 0x1p300) == 1 &&
              detail::sign_of(0x1.fffffffffffffp0, 0x1p-52, -2) == 0);

}  // namespace fp4scope::search
