// A sum of dyadic numbers that loses nothing: a two's complement integer of 640 bits, whose unit is 2^-288.
//
// Bit budget. The least product here is 2^-266 (two subnormal bf16 or tf32), or 2^-286 (two subnormal e5m2 under two
// UE8M0 scales of 2^-127); a binary32 is a multiple of 2^-149. The largest is below 2^286 (two e5m2 under two scales of
// 2^127), so 2^62 of them stay below 2^348, and 640 - 1 - 288 = 351 bits are there for the whole part.
#pragma once

#include <cstdint>

#include "formats/dyadic.hpp"

namespace fp4scope::sim {

/// What a nonzero sum is made of: (-1)^negative * (magnitude + something below 1, if sticky) * 2^exponent.
struct LeadingBits {
  std::uint64_t magnitude = 0;  ///< 0 only for the sum 0
  int exponent = 0;
  bool negative = false;
  bool sticky = false;
};

class WideAccumulator {
 public:
  static constexpr int limbs = 10;
  static constexpr int unit = -288;

  /// Adds significand * 2^exponent; exponent >= unit, and the product is below 2^350.
  FP4SCOPE_HD constexpr void add(std::int64_t significand, int exponent) noexcept {
    if (significand == 0) return;
    const bool negative = significand < 0;
    const std::uint64_t n =
        negative ? 0 - static_cast<std::uint64_t>(significand) : static_cast<std::uint64_t>(significand);
    const int at = (exponent - unit) / 64, shift = (exponent - unit) % 64;
    const std::uint64_t low = n << shift, high = shift == 0 ? 0 : n >> (64 - shift);
    std::uint64_t carry = 0;
    for (int i = at; i < limbs; ++i) {
      const std::uint64_t word = i == at ? low : i == at + 1 ? high : 0;
      if (word == 0 && carry == 0 && i > at + 1) return;
      const std::uint64_t before = limb_[i];
      const std::uint64_t part = negative ? before - word : before + word;
      limb_[i] = negative ? part - carry : part + carry;
      carry = negative ? (before < word || part < carry) : (part < before || limb_[i] < part);
    }
  }

  FP4SCOPE_HD constexpr LeadingBits leading() const noexcept {
    LeadingBits out;
    std::uint64_t words[limbs] = {};
    out.negative = limb_[limbs - 1] >> 63 != 0;
    std::uint64_t carry = out.negative;
    for (int i = 0; i < limbs; ++i) {
      words[i] = (out.negative ? ~limb_[i] : limb_[i]) + carry;
      carry = carry != 0 && words[i] == 0;
    }
    int top = limbs - 1;
    while (top > 0 && words[top] == 0) --top;
    const int used = formats::bit_length(words[top]), missing = 64 - used;
    out.magnitude = words[top];
    out.exponent = unit + 64 * top;
    if (top == 0) return out;
    if (missing > 0) out.magnitude = words[top] << missing | words[top - 1] >> used;
    out.exponent -= missing;
    out.sticky = missing > 0 && (words[top - 1] << missing) != 0;
    for (int i = 0; i < top - (missing > 0 ? 1 : 0); ++i) out.sticky = out.sticky || words[i] != 0;
    return out;
  }

 private:
  std::uint64_t limb_[limbs] = {};
};

static_assert(WideAccumulator::limbs * 64 - 1 + WideAccumulator::unit == 351);

}  // namespace fp4scope::sim
