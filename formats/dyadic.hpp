// Exact dyadic rationals: significand * 2^exponent, the value of every finite code of every format here.
#pragma once

#include <cstdint>

#include "formats/host_device.hpp"

namespace fp4scope::formats {

/// significand * 2^exponent, not normalised: 3 * 2^0 and 6 * 2^-1 are the same number.
struct Dyadic {
  std::int64_t significand = 0;
  int exponent = 0;
};

/// 2^exponent, exact; exponent in [-1022, 1023].
FP4SCOPE_HD constexpr double exp2_exact(int exponent) noexcept {
  return __builtin_bit_cast(double, static_cast<std::uint64_t>(exponent + 1023) << 52);
}

/// The number of bits of n, 0 for n = 0; floor(log2 n) + 1 otherwise.
FP4SCOPE_HD constexpr int bit_length(std::uint64_t n) noexcept {
  int length = 0;
  for (int step = 32; step > 0; step /= 2) {
    if (n >> step) {
      n >>= step;
      length += step;
    }
  }
  return length + static_cast<int>(n);
}

/// Exact while |significand| < 2^53 and exponent is in [-1022, 970], which holds for every code of every format here.
FP4SCOPE_HD constexpr double to_double(Dyadic d) noexcept {
  return static_cast<double>(d.significand) * exp2_exact(d.exponent);
}

/// Equality of values.
FP4SCOPE_HD constexpr bool same_value(Dyadic a, Dyadic b) noexcept {
  while (a.significand != 0 && a.significand % 2 == 0) a = {a.significand / 2, a.exponent + 1};
  while (b.significand != 0 && b.significand % 2 == 0) b = {b.significand / 2, b.exponent + 1};
  return a.significand == b.significand && (a.significand == 0 || a.exponent == b.exponent);
}

/// A finite binary64 taken apart: value = (-1)^negative * significand * 2^exponent.
struct Unpacked {
  bool negative = false;
  bool nan = false;
  bool infinite = false;
  std::uint64_t significand = 0;  ///< below 2^53; 0 for zero
  int exponent = 0;
};

/// Every float is a double, so one unpacking serves both.
FP4SCOPE_HD constexpr Unpacked unpack(double x) noexcept {
  const auto bits = __builtin_bit_cast(std::uint64_t, x);
  const std::uint64_t fraction = bits & ((std::uint64_t{1} << 52) - 1);
  const int field = static_cast<int>(bits >> 52) & 0x7FF;
  Unpacked u;
  u.negative = (bits >> 63) != 0;
  if (field == 0x7FF) {
    u.nan = fraction != 0;
    u.infinite = fraction == 0;
    return u;
  }
  u.significand = field == 0 ? fraction : fraction | (std::uint64_t{1} << 52);
  u.exponent = (field == 0 ? 1 : field) - 1075;
  return u;
}

static_assert(bit_length(0) == 0 && bit_length(1) == 1 && bit_length(255) == 8 && bit_length(~std::uint64_t{0}) == 64);
static_assert(unpack(6.0).significand * exp2_exact(unpack(6.0).exponent) == 6.0);
static_assert(unpack(0x1p-149).significand != 0 && to_double({3, -1}) == 1.5);

}  // namespace fp4scope::formats
