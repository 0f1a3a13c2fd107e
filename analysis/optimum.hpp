// How far a quantized tensor is from the least squared error that its format, block and tensor scale admit.
//
// The optimum is the exact search's (search/sse.hpp): no scale code, with any elements, has a smaller SSE. A block of
// theirs is compared with it in real numbers,
//
//   SSE(theirs) - SSE(best) = T (sum T v^2 q^2 - 2 v q x of theirs - the same of the best),   q with its sign,
//
// in binary64 where the difference exceeds all rounding errors, else by ExactSum: terms have at most 50 bits.
// So `optimal` counts blocks that no scale could improve, ties included, and nothing is better than `best_sse`.
#pragma once

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

/// Sums of some rows of a tensor, in a fixed order.
struct OptimumSums {
  double energy = 0, sse = 0, best_sse = 0;  ///< sums of x^2, of (x - theirs)^2, of (x - best)^2
  std::int64_t blocks = 0, optimal = 0;      ///< theirs is as good as the best
  std::int64_t uncomparable = 0;             ///< not optimal: a NaN or an Inf in theirs or in the original
  bool searched = false;                     ///< best_sse and optimal are known
};

/// `original` [rows, padded columns], of which the first `cols` count. `survey`: of the whole tensor.
void add_optimum(OptimumSums& sums, const Matrix& original, const Quantized& theirs, std::int64_t cols,
                 const Survey& survey);

}  // namespace fp4scope::analysis
