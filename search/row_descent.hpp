// Descent on a whole row's output error r^T H r, block by block with the other blocks held.
//
// With r = (r_b, rest) the part that block b decides is r_b^T H_bb r_b + 2 g_b^T r_b, g_b = sum over other blocks of
// H_bj r_j = (H r)_b - H_bb r_b: one block's problem with a linear term. Changing r_b by d changes the row's loss by
//
//   delta = sum_i d_i (2 (H r)_i + (H_bb d)_i)
//
// A change is taken only if delta in binary64 lies below minus its error bound, so the loss falls in real numbers with
// every change and the descent ends, at a point that no single block's step improves by more than the bound.
//
// The bound. e is an envelope, |h_ij| <= e_i e_j; u = 2^-53; n columns, B of them in a block. H r is computed afresh at
// the start of each pass and then moved by H d after each change, so an entry is a sum of at most 2 n terms h_ij r_j or
// h_ij d_j, whose magnitudes add up to at most e_i T, T = sum e_j |r_j| at the start + sum of e_j |d_j| over the pass.
// r_j and d_j are one rounding each: the entry errs by at most (2 n + 3) u e_i T. With E = sum over the block of
// e_i |d_i|, delta's own 2 B + 6 roundings act on terms of at most 2 E T + E^2 together. Both:
//   |error| <= (2 n + 2 B + 12) u (2 E T + E^2), and twice that is taken, which covers products of (1 + u).
#pragma once

#include "search/full_hessian.hpp"

namespace fp4scope::search {

enum class RowStep : std::uint8_t {
  scales,      ///< the best code with the elements nearest to x
  coordinate,  ///< coordinate descent over the block's code and levels, from where it stands
  closest,     ///< the block's best code and levels; past node_limit, the better of what was found and `coordinate`
};

struct RowDescentOptions {
  RowStep step = RowStep::coordinate;
  int passes = 30;
  std::int64_t node_limit = 20000;  ///< of RowStep::closest, a block
};

struct RowDescent {
  Assignment assignment;
  std::vector<std::vector<double>> loss;  ///< [0] of the start, [p] after pass p: r^T H r of each row
  std::int64_t changes = 0;
};

/// x [rows, hessian.cols], block at most max_joint_block and a divisor of the columns. Rows are independent: neither
/// their number nor the threads change a bit. A start may have any levels; a change
/// of RowStep::scales brings the nearest.
RowDescent row_descent(const SearchSpace& space, const FullHessian& hessian, int block, const float* x,
                       std::int64_t rows, const Assignment& start, const RowDescentOptions& options);

}  // namespace fp4scope::search
