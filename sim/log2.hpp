// floor and ceil of a logarithm that was rounded to binary32, as libraries take it, without a library: what they get
// wrong next to powers of two, on every machine alike.
//
//   log2(2^k (1 - d)) = k - (d + d^2/2 + ...) / ln 2,    log2(2^k (1 + d)) = k + (d - d^2/2 + ...) / ln 2
//
// The rounding can reach the integer k only while d < 2^-14 or so (half a unit in the last place of numbers up to 254
// is 2^-17); there two terms of the series err by less than d^3 < 2^-42 and the sum is rounded to binary32 correctly
// unless it lies within 2^-42 of a midpoint, which no such d does (log2_test tries them all). Elsewhere the exponent is
// exact.
#pragma once

#include "formats/dyadic.hpp"

namespace fp4scope::sim {

/// x = 2^exponent * significand, 1 <= significand < 2, for a positive finite x.
struct Binade {
  int exponent;
  double significand;
};

FP4SCOPE_HD constexpr Binade binade_of(float x) noexcept {
  const formats::Unpacked u = formats::unpack(x);
  const int exponent = u.exponent + formats::bit_length(u.significand) - 1;
  return {exponent, static_cast<double>(x) / formats::exp2_exact(exponent)};
}

inline constexpr double log2_e = 0x1.71547652B82FEp0;

/// floor(fl(log2 x)): one too large for a few numbers just below a power of two.
FP4SCOPE_HD constexpr int floor_log2f(float x) noexcept {
  const Binade b = binade_of(x);
  const double d = 1 - b.significand / 2;
  if (d >= 0x1p-13) return b.exponent;
  const auto log = static_cast<float>(b.exponent + 1 - (d + d * d / 2) * log2_e);
  return log >= static_cast<float>(b.exponent + 1) ? b.exponent + 1 : b.exponent;
}

/// floor(fl(fl(fl(log2 x) + first) + second)).
FP4SCOPE_HD constexpr int floor_log2f_shifted(float x, int first, int second) noexcept {
  const Binade b = binade_of(x);
  const double d = 1 - b.significand / 2;
  const int next = b.exponent + 1 + first + second;
  if (d >= 0x1p-13) return next - 1;
  const auto log = static_cast<float>(b.exponent + 1 - (d + d * d / 2) * log2_e);
  const float shifted = (log + static_cast<float>(first)) + static_cast<float>(second);
  return shifted >= static_cast<float>(next) ? next : next - 1;
}

/// ceil(fl(log2 x)): one too small for a few numbers just above a power of two.
FP4SCOPE_HD constexpr int ceil_log2f(float x) noexcept {
  const Binade b = binade_of(x);
  const double d = b.significand - 1;
  if (d == 0) return b.exponent;
  if (d >= 0x1p-13) return b.exponent + 1;
  const auto log = static_cast<float>(b.exponent + (d - d * d / 2) * log2_e);
  return log <= static_cast<float>(b.exponent) ? b.exponent : b.exponent + 1;
}

}  // namespace fp4scope::sim
