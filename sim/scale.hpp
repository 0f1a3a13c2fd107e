// From maxima to scales, recipe `exact`: every quotient is taken in real numbers and rounded once.
//
//   tensor_scale = RNE32(amax / (element_max * scale_max))
//   scale code   = round(block_amax / (divisor * tensor_scale)) in the scale's format
//
// Why one binary64 division is enough for the code: the boundaries between codes are dyadics m of at most 6 bits, and
// numerator * block_amax (at most 14 + 24 bits: 17 of sim::unbiased has 5, a macro block's factor 9) and
// m * divisor * tensor_scale (at most 6 + 8 + 24 = 38 bits: the largest level of a grid of one's own has 8, built-in
// divisors have up to 5, those of 7.25 = 29/4) are either equal or differ by more than 2^-38 of themselves. Division
// rounds by at most 2^-53 and is monotone, so the rounded quotient lies on the same side of m as the real one, and
// equals m only when the real one does.
#pragma once

#include "formats/block_format.hpp"

namespace fp4scope::sim {

/// A rule maps a block's amax to its scale: numerator * amax / divisor, rounded; the code of a block that isn't zero is
/// `least` at least.
/// The OCP floor, 2^(floor(log2 amax) - 2), is amax / 4 rounded down to a power of two, and so on: hardware that
/// names five rules for powers of two uses five pairs (divisor, rounding).
struct ScaleRule {
  double divisor;
  formats::Rounding rounding;
  double numerator = 1;
  int least = 0;
};

inline constexpr ScaleRule six_rule = {6, formats::Rounding::nearest_even};    // amax to 6, E2M1's largest
inline constexpr ScaleRule four_rule = {4, formats::Rounding::nearest_even};   // amax to 4
inline constexpr ScaleRule seven_rule = {7, formats::Rounding::nearest_even};  // amax to 7, INT4's largest
inline constexpr ScaleRule floor_rule = {4, formats::Rounding::toward_zero};   // OCP MX v1.0, 6.3; microxcaling
inline constexpr ScaleRule even_rule = {3.5, formats::Rounding::toward_zero};  // up from significand 1.75
inline constexpr ScaleRule rceil_rule = {6, formats::Rounding::up};            // up from above 1.5: ceil(log2(amax/6))
inline constexpr ScaleRule ceil_rule = {4, formats::Rounding::up};             // up from above 1: ceil(log2(amax/4))

/// floor_rule for elements whose largest binade begins at `binade`: 2^(floor(log2 amax) - log2 binade).
FP4SCOPE_HD constexpr ScaleRule binade_rule(double binade) noexcept { return {binade, formats::Rounding::toward_zero}; }

/// The least power of two at which `largest` reaches amax: nothing saturates.
FP4SCOPE_HD constexpr ScaleRule reach_rule(double largest) noexcept { return {largest, formats::Rounding::up}; }

/// 2^ceil(log2(amax / 7)): "overflow-aware", the top level takes what is up to 7 steps (arXiv 2603.08713). It differs
/// from even_rule, 2^(floor(log2(amax / 7)) + 1), where amax is 7 * 2^j alone, and errs no more there in any element:
/// at step 2^j the levels up to 6 * 2^j hold those of step 2^(j + 1), whose next is 8 * 2^j, no nearer to |x| <= 7 *
/// 2^j than 6 * 2^j is. Of log-uniform bfloat16 maxima these are log2((1.75 + 2^-8) / (1.75 - 2^-8)) = 0.64 %.
inline constexpr ScaleRule oas_rule = reach_rule(7);

/// The divisor of least squared error for blocks of 32 normal values (arXiv 2607.24377).
inline constexpr ScaleRule uos_rule = reach_rule(7.25);

/// No block vanishes: a quotient that rounds to a scale of 0 gets the least positive code (arXiv 2605.08565).
FP4SCOPE_HD constexpr ScaleRule prevent_zero(ScaleRule rule) noexcept {
  return {rule.divisor, rule.rounding, rule.numerator, 1};
}

/// The 16/17 style of stochastic rounding: amax is mapped to 16/17 of the largest element, so that a block scale that
/// E4M3 rounds down by its worst 1/17 still doesn't clip, and the rounding stays unbiased (arXiv 2601.22813;
/// fouroversix).
FP4SCOPE_HD constexpr ScaleRule unbiased(ScaleRule rule) noexcept {
  return {16 * rule.divisor, rule.rounding, 17 * rule.numerator, rule.least};
}

/// The multiplier on decode, numerator * amax / (element_max * scale_max). 1 for amax = 0; at least the smallest
/// binary32, so that no division by zero follows. The denominator d has at most 8 + 20 bits, the numerator's product n
/// at most 29, a binary32 midpoint m 25. Where n is not m d, both below 2^53 in units of the finer's last place, they
/// differ by more than 2^-53 of themselves. So does their quotient from m, which no rounding of binary64 then brings to
/// m: the second rounding is harmless, and the result is RNE32 of the real quotient.
FP4SCOPE_HD constexpr float tensor_scale(float amax, double element_max, double scale_max,
                                         double numerator = 1) noexcept {
  if (amax == 0) return 1;
  const auto scale = static_cast<float>(numerator * amax / (element_max * scale_max));
  return scale > 0 ? scale : 0x1p-149f;
}

/// The code of a block with that amax (finite). 0 for amax = 0.
FP4SCOPE_HD constexpr int scale_code(const formats::Format& scale, ScaleRule rule, float block_amax,
                                     float tensor_scale) noexcept {
  if (block_amax == 0) return 0;
  const double quotient =
      rule.numerator * static_cast<double>(block_amax) / (rule.divisor * static_cast<double>(tensor_scale));
  const auto code = static_cast<int>(formats::encode(scale, quotient, rule.rounding).code);
  return code < rule.least ? rule.least : code;
}

static_assert(scale_code(formats::ue8m0, floor_rule, 7.99f, 1) == 127 &&
              scale_code(formats::ue8m0, ceil_rule, 7.99f, 1) == 128);
static_assert(scale_code(formats::ue8m0, even_rule, 7.0f, 1) == 128 &&
              scale_code(formats::ue8m0, even_rule, 6.99f, 1) == 127);
static_assert(scale_code(formats::ue8m0, oas_rule, 7.0f, 1) == 127 &&
              scale_code(formats::ue8m0, oas_rule, 7.01f, 1) == 128);
static_assert(scale_code(formats::ue8m0, uos_rule, 7.25f, 1) == 127 &&
              scale_code(formats::ue8m0, uos_rule, 7.26f, 1) == 128);
static_assert(scale_code(formats::e4m3, six_rule, 0x1p-10f, 1) == 0 &&
              scale_code(formats::e4m3, prevent_zero(six_rule), 0x1p-10f, 1) == 1 &&
              scale_code(formats::e4m3, prevent_zero(six_rule), 0, 1) == 0);
static_assert(scale_code(formats::ue8m0, rceil_rule, 6.0f, 1) == 127 &&
              scale_code(formats::ue8m0, rceil_rule, 6.01f, 1) == 128);
static_assert(scale_code(formats::ue8m0, ceil_rule, 4.0f, 1) == 127 &&
              scale_code(formats::ue8m0, ceil_rule, 4.01f, 1) == 128);

}  // namespace fp4scope::sim
