// Which step of the chain costs what: the squared error that remains when steps are made ideal, for every set of steps.
//
//   tensor scale   amax / (L * scale max) is rounded to binary32                 ideal: it stays a real number
//   block scale    the rule's quotient is rounded to the scale's mantissa        ideal: the scale stays a real number
//   underflow      codes below the least normal one lose bits or become 0        ideal: exponents have no lower end
//   overflow       quotients above the largest code saturate                     ideal: exponents have no upper end
//   saturation     elements above the largest level at a scale > 0 are clipped   ideal: they keep their value
//   zero           elements become 0, all of them where the scale is 0           ideal: they keep their value
//   grid           all other elements are rounded to a level                     ideal: they keep their value
//
// Steps interact (a better scale clips less), so what a step alone costs does not add up: the Shapley value, the
// average over all orders of making steps ideal, does, and so does any one order. This file's order is the list above.
//
// The first four need a chain from the block's maximum to its scale: recipe `exact`, elements rounded to nearest, and
// methods that are rules, 4over6 or IF4's choice, which choose again, or the searches of least squared error, which
// search again. Otherwise (stochastic rounding too: an ideal step would need other random numbers) the scales are taken
// as they are, and those four cost nothing. A tensor scale that was given or searched for costs nothing either.
//
// What a step leaves to the others. Let y be the rule's quotient, numerator * amax / (divisor * T).
//   y rounds to a normal code: the scale is that code, or y with an ideal block scale.
//   y rounds to a subnormal code or 0: that code's value, unless underflow is ideal. Then y rounded to the same number
//     of bits at its own exponent, or y itself with an ideal block scale. Powers of two have no subnormal codes: there,
//     y below the least one.
//   y rounds beyond the largest code: the largest code, unless overflow is ideal. Then as above.
//   A real scale is the rule's aim, not the best one: a floor to a power of two aims amax at the largest binade's
//   beginning, and where rounding down made better use of the grid, as with MXINT8, the block scale costs less than 0.
//   With underflow ideal, a y below the least normal number that rounds to it keeps its own bits as well.
// A search ranges over the normal codes or, with an ideal block scale, over all real numbers between the least and the
// largest of them; and over the subnormal codes, unless underflow is ideal: then over all that is below, in the same
// number of bits or in real numbers. Overflow likewise.
//
// With no ideal scale step the error is that of the stored codes; otherwise scales are worked out in binary64, elements
// rounded to nearest at them.
#pragma once

#include <array>

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

enum class Cause { tensor_scale, block_scale, underflow, overflow, saturation, zero, grid };
inline constexpr int cause_count = 7;
extern const char* const cause_names[cause_count];  ///< "tensor scale", ..., as above

struct Causes {
  bool chain = false;  ///< whether the scale steps could be made ideal
  /// The squared error left when the steps of a set are ideal: bit i of the index is cause i. [0] is the error as it
  /// is, the last is 0. Binary64, summed along a row, then over the rows in order.
  std::array<double, 1 << cause_count> remaining = {};

  double error() const { return remaining[0]; }
  double alone(Cause c) const;                       ///< what vanishes when this step alone is ideal; can be negative
  std::array<double, cause_count> in_order() const;  ///< what vanishes step by step, in the order above; adds up
  std::array<double, cause_count> shapley() const;   ///< the average over all 7! orders; adds up
};

/// Sums of one tensor whose method is no correction (values are scales times elements), fed in pieces from its first
/// row to its last; of square blocks whole rows of them at a time.
class CauseSums {
 public:
  /// `original` [rows, unpadded columns] and what it became, finite. `q.amax` and `q.tensor_scale` are the whole
  /// tensor's.
  void add(const Matrix& original, const Quantized& q);
  Causes causes() const;

 private:
  bool chain_ = false;
  /// Squared error by which of the four scale steps are ideal (16), and element class (saturated, zero, grid).
  std::array<std::array<double, 3>, 16> sums_ = {};
};

Causes causes_of(const Matrix& original, const Quantized& q);

}  // namespace fp4scope::analysis
