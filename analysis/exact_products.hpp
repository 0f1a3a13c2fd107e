// A sum of products of doubles without rounding: a fixed-point number of 1440 bits.
//
//   sum += a * b,   a, b doubles of 53 significant bits at most, multiples of 2^-310 below 2^310
//
// For inner products over a whole tensor. Bit 0 weighs 2^-768: a double that is a multiple of 2^-310 has its last
// place at 2^-362 or above (2^-310 / 2^52), a product of two at 2^-724 or above. Products lie below 2^620, a sum of
// 2^45 of them below 2^665, its sign included below 2^672 = 2^(1440 - 768).
#pragma once

#include <cstdint>

#include "formats/dyadic.hpp"

namespace fp4scope::analysis {

/// a - b = high + low exactly (Knuth's two-sum, without overflow here).
struct Difference2 {
  double high, low;
};
constexpr Difference2 exact_difference(double a, double b) noexcept {
  const double high = a - b;
  const double of_b = high - a;  // what of -b went into `high`
  return {high, (a - (high - of_b)) - (b + of_b)};
}

class ProductSum {
 public:
  static constexpr int limbs = 45;
  static constexpr int lowest = -768;  ///< the exponent of bit 0

  constexpr void add_product(double a, double b) noexcept {
    const formats::Unpacked u = formats::unpack(a), v = formats::unpack(b);
    if (u.significand == 0 || v.significand == 0) return;
    // 106 bits in three words of 32, 32 and 42, shifted by up to 31 more; a limb holds 32 bits of the number and the
    // carries of 2^29 products before they are propagated.
    __extension__ typedef unsigned __int128 Wide;
    const Wide product = static_cast<Wide>(u.significand) * v.significand;
    const int position = u.exponent + v.exponent - lowest;
    const int index = position / 32, shift = position % 32;
    const Wide low = (product & 0xFFFFFFFFFFFFFFFFu) << shift;
    const Wide high = (product >> 64) << shift;
    const std::int64_t sign = u.negative != v.negative ? -1 : 1;
    limb_[index] += sign * part(low);
    limb_[index + 1] += sign * part(low >> 32);
    limb_[index + 2] += sign * (part(low >> 64) + part(high));
    limb_[index + 3] += sign * part(high >> 32);
    limb_[index + 4] += sign * part(high >> 64);
    if (++pending_ == most_pending) carry();
  }
  constexpr void add_product(const Difference2& a, const Difference2& b) noexcept {
    add_product(a.high, b.high);
    if (a.low == 0 && b.low == 0) return;
    add_product(a.high, b.low);
    add_product(a.low, b.high);
    add_product(a.low, b.low);
  }

  constexpr void add(ProductSum other) noexcept {
    carry();
    other.carry();
    for (int i = 0; i < limbs; ++i) limb_[i] += other.limb_[i];
    carry();
  }

  /// Whether the number is below 0, after carry().
  constexpr bool negative() const noexcept { return limb_[limbs - 1] < 0; }
  /// Limb i of the number, from the lowest: 0 <= limb < 2^32, the last one with the sign.
  constexpr std::int64_t limb(int i) const noexcept { return limb_[i]; }

  constexpr bool operator==(ProductSum other) const noexcept {
    ProductSum own = *this;
    own.carry();
    other.carry();
    for (int i = 0; i < limbs; ++i) {
      if (own.limb_[i] != other.limb_[i]) return false;
    }
    return true;
  }

  /// Brings the limbs into the range that limb() states.
  constexpr void carry() noexcept {
    pending_ = 0;
    for (int i = 0; i + 1 < limbs; ++i) {
      const std::int64_t above = limb_[i] >> 32;
      limb_[i] -= above * (std::int64_t{1} << 32);
      limb_[i + 1] += above;
    }
  }

 private:
  template <class Wide>
  static constexpr std::int64_t part(Wide bits) noexcept {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(bits) & 0xFFFFFFFFu);
  }

  // A product adds less than 2^33 to a limb in [0, 2^32) or to the last one: 2^33 * 2^29 + 2^32 < 2^63.
  static constexpr std::int64_t most_pending = std::int64_t{1} << 29;
  std::int64_t limb_[limbs] = {};
  std::int64_t pending_ = 0;
};

/// sum * 2^exponent / divisor^2 rounded once, to nearest even; in binary64's normal range.
double rounded(ProductSum sum, int exponent = 0, std::uint64_t divisor = 1);

/// sum * factor rounded to binary64 to odd: toward zero, with the last bit set if that lost anything. Rounded once
/// more, to 51 bits at most, it is what one rounding of the exact number gives (Boldo and Melquiond 2008). In the normal
/// range.
double rounded_to_odd(ProductSum sum, double factor = 1);

}  // namespace fp4scope::analysis
