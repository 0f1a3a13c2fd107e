// Products and sums of dyadic rationals, without rounding.
//
//   (a * 2^i) * (b * 2^j) = a b * 2^(i + j)
//   (a * 2^i) + (b * 2^j) = (a * 2^(i - l) + b * 2^(j - l)) * 2^l,  l = min(i, j)
//
// A product needs the bits of both significands: 22 for two fp16 codes, 16 for two int8. A sum needs the spread of the
// exponents besides: 34 bits for e5m2 (2^-16 .. 57344), 42 for fp16, but 255 for ue8m0, and e4m3 + ue8m0 no less. So a
// product of codes always fits, and a sum says whether it does.
#pragma once

#include <cstdint>

#include "formats/dyadic.hpp"
#include "formats/format.hpp"

namespace fp4scope::formats {

struct ExactSum {
  Dyadic value;      ///< 0 where it doesn't fit
  bool fits = true;  ///< both addends, at the lower one's exponent, are below 2^62 in magnitude
};

/// The number of bits of |d.significand|.
FP4SCOPE_HD constexpr int significant_bits(Dyadic d) noexcept {
  const auto n = static_cast<std::uint64_t>(d.significand);
  return bit_length(d.significand < 0 ? 0 - n : n);
}

/// Exact while the significands have at most 63 bits together; those of two codes have at most 22.
FP4SCOPE_HD constexpr Dyadic multiply(Dyadic a, Dyadic b) noexcept {
  return {a.significand * b.significand, a.exponent + b.exponent};
}

/// Exact where it fits. Bits: two addends below 2^62 make a sum below 2^63.
FP4SCOPE_HD constexpr ExactSum add(Dyadic a, Dyadic b) noexcept {
  if (a.significand == 0) return {b, true};
  if (b.significand == 0) return {a, true};
  if (a.exponent < b.exponent) return add(b, a);
  const int shift = a.exponent - b.exponent;
  if (significant_bits(a) + shift > 62 || significant_bits(b) > 62) return {{0, 0}, false};
  return {{a.significand * (std::int64_t{1} << shift) + b.significand, b.exponent}, true};
}

/// Does the sum of any two finite codes of these formats fit?
FP4SCOPE_HD constexpr bool sums_fit(const Format& f, const Format& g) noexcept {
  const auto last_place = [](const Format& h) { return h.min_exponent() - h.mantissa_bits; };
  const auto highest = [](const Format& h) {
    return h.exponent_bits > 0 ? static_cast<int>(h.max_code >> h.mantissa_bits) - h.bias : h.min_exponent();
  };
  const int lowest = last_place(f) < last_place(g) ? last_place(f) : last_place(g);
  return (highest(f) > highest(g) ? highest(f) : highest(g)) - lowest < 62;
}

static_assert(sums_fit(e2m1, e2m1) && sums_fit(e2m3, e2m3) && sums_fit(e3m2, e3m2) && sums_fit(e3m4, e3m4));
static_assert(sums_fit(e4m3, e4m3) && sums_fit(e4m3_ieee, e4m3_ieee) && sums_fit(e5m2, e5m2) && sums_fit(ue4m3, ue4m3));
static_assert(sums_fit(ue5m3, ue5m3) && sums_fit(ue4m4, ue4m4) && sums_fit(e1m2, e1m2) && sums_fit(int4, int4));
static_assert(sums_fit(int8, int8) && sums_fit(fp16, fp16) && sums_fit(e2m1, e4m3));
static_assert(!sums_fit(ue8m0, ue8m0) && !sums_fit(bf16, bf16) && !sums_fit(e4m3, ue8m0));
static_assert(multiply({3, -1}, {-5, 4}).significand == -15 && multiply({3, -1}, {-5, 4}).exponent == 3);
static_assert(same_value(add({3, -1}, {-5, 4}).value, {-157, -1}) && !add({1, 62}, {1, 0}).fits);

}  // namespace fp4scope::formats
