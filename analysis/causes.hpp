// Which step of the chain costs what: the squared error that remains when steps are made ideal, for every set of steps.
//
//   tensor scale   amax / (L * scale max) is rounded to binary32                 ideal: it stays a real number
//   block scale    the rule's quotient is rounded to the scale's mantissa        ideal: the scale stays a real number
//   underflow      codes below the least normal one lose bits or become 0        ideal: exponents have no lower end
//   overflow       quotients above the largest code saturate                     ideal: exponents have no upper end
//   saturation     elements above the largest level are clipped                  ideal: they keep their value
//   zero           elements become 0 (half the least level rounds to even)       ideal: they keep their value
//   grid           all other elements are rounded to a level                     ideal: they keep their value
//
// Steps interact (a better scale clips less), so what a step alone costs does not add up: the Shapley value, the average
// over all orders of making steps ideal, does, and so does any one order. This file's order is the list above.
//
// The first four need a chain from the block's maximum to its scale: methods that are rules, 4over6, and the searches of
// least squared error, which search again over what is left of the scale's format (all real numbers in the end). Of
// other methods the scales are taken as they are, and those four steps cost nothing.
#pragma once

#include <array>

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

enum class Cause { tensor_scale, block_scale, underflow, overflow, saturation, zero, grid };
inline constexpr int cause_count = 7;
extern const char* const cause_names[cause_count];  ///< "tensor scale", ..., as above

struct Causes {
  bool chain = false;  ///< whether the scale steps could be made ideal
  /// The squared error left when the steps of a set are ideal: bit i of the index is cause i. [0] is the error as it is,
  /// the last is 0. Binary64, summed along a row, then over the rows in order.
  std::array<double, 1 << cause_count> remaining = {};

  double error() const { return remaining[0]; }
  double alone(Cause c) const;                         ///< what vanishes when this step alone is ideal; can be negative
  std::array<double, cause_count> in_order() const;    ///< what vanishes step by step, in the order above; adds up
  std::array<double, cause_count> shapley() const;     ///< the average over all 7! orders; adds up
};

/// Sums of one tensor, fed in pieces from its first row to its last.
class CauseSums {
 public:
  /// `original` [rows, unpadded columns] and what it became, finite. `q.amax` and `q.tensor_scale` are the whole tensor's.
  void add(const Matrix& original, const Quantized& q);
  Causes causes() const;

 private:
  bool chain_ = false;
  /// Squared error by which of the four scale steps are ideal (16), and element class (saturated, zero, grid).
  std::array<std::array<double, 3>, 16> sums_ = {};
};

Causes causes_of(const Matrix& original, const Quantized& q);

}  // namespace fp4scope::analysis
