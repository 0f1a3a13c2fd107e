// MS-EDEN: elements to nearest, and what that loses in length is made up in the block scales, which are rounded
// stochastically (arXiv 2601.22813; Vargaftik et al., EDEN, ICML 2022). After a random rotation E[dequantized] = x.
//
//   T    = amax / (255.99 * Q) in binary64, rounded to binary32,  Q = 6 / o,  o = 17/16 * 0.93
//   s    = RNE(block amax / (Q T)),  at least the least positive code for a block that isn't zero
//   c    = sum x^2 / sum x v over a group of 128 columns, v the nearest values at s
//   code = stochastic rounding of s c; 255.99 leaves room, so that no corrected scale overflows
//
// Recipe `exact` arithmetic: s and the elements are decided in real numbers, the two sums and c are binary64 in order.
// The published kernels use approximate divisions, so their bits are not reproduced. Ties here go to even, there away
// from zero; their correction's group is 16, 128 or 256 elements, by implementation; 128 is the paper's.
#pragma once

#include "sim/scale.hpp"

namespace fp4scope::sim {

/// o = 0.988125 = 1581 / 1600, so Q = 9600 / 1581.
inline constexpr ScaleRule eden_rule = {9600, formats::Rounding::nearest_even, 1581, 1};
inline constexpr double eden_scale_max = 255.99;
inline constexpr int eden_group = 128;

/// The multiplier on decode.
FP4SCOPE_HD constexpr float eden_tensor_scale(float amax) noexcept {
  return tensor_scale(amax, 9600, eden_scale_max, 1581);
}

/// The correction of a group; 1 where the values carry nothing of x.
FP4SCOPE_HD constexpr double eden_correction(double energy, double product) noexcept {
  return product > 0 ? energy / product : 1;
}

/// A block's code after the correction. Code 0 stays.
FP4SCOPE_HD constexpr int eden_scale_code(const formats::Format& scale, int code, double correction,
                                          std::uint32_t word) noexcept {
  if (code == 0) return 0;
  const double corrected = formats::decode_double(scale, static_cast<std::uint32_t>(code)) * correction;
  return static_cast<int>(
      formats::encode(scale, corrected, formats::Rounding::stochastic, formats::Overflow::saturate, word).code);
}

}  // namespace fp4scope::sim
