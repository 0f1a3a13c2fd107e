// Coordinate descent over free codes: one element's best level given the others, then the best scale for the levels.
//
//   moving v_i by d changes the loss by d (d h_ii - 2 (H r + g)_i)
//   for levels q and v = s q:  loss(s) = loss(0) + s (s q^T H q - 2 q^T (H t + g))
//
// A sweep, in order of i, takes the best level of each element in turn; when sweeps no longer help, the scale moves
// with the levels kept. Each is accepted only if loss_of falls, so losses fall strictly and the descent ends. It stops
// at a point that neither step improves, above the optimum in general.
#pragma once

#include "search/block_problem.hpp"

namespace fp4scope::search {

namespace detail {

/// H x for x of n values; H is symmetric.
FP4SCOPE_HD constexpr void multiply(const BlockProblem& problem, const double* x, double* hx) noexcept {
  for (int i = 0; i < problem.n; ++i) hx[i] = 0;
  for (int j = 0; j < problem.n; ++j) {
    const double* column = problem.h + static_cast<std::int64_t>(j) * problem.n;
    for (int i = 0; i < problem.n; ++i) hx[i] += column[i] * x[j];
  }
}

/// One pass over the elements; gradient is H r + g.
FP4SCOPE_HD constexpr void sweep(const SearchSpace& space, const BlockProblem& problem, double step,
                                 std::int8_t* level) noexcept {
  double r[max_joint_block] = {};
  double gradient[max_joint_block] = {};
  for (int i = 0; i < problem.n; ++i) r[i] = problem.target[i] - signed_level(space, level[i]) * step;
  multiply(problem, r, gradient);
  for (int i = 0; problem.linear && i < problem.n; ++i) gradient[i] += problem.linear[i];
  const int top = space.grid.levels - 1;
  for (int i = 0; i < problem.n; ++i) {
    const double* column = problem.h + static_cast<std::int64_t>(i) * problem.n;
    const double here = signed_level(space, level[i]) * step;
    double least = 0, move = 0;
    int best = level[i];
    for (int l = -top; l <= top; ++l) {
      const double d = signed_level(space, l) * step - here;
      const double change = d * (d * column[i] - 2 * gradient[i]);
      if (change < least) least = change, move = d, best = l;
    }
    if (best == level[i]) continue;
    level[i] = static_cast<std::int8_t>(best);
    for (int k = 0; k < problem.n; ++k) gradient[k] -= column[k] * move;
  }
}

/// q^T H q and q^T (H t + g).
struct Parabola {
  double quadratic = 0;
  double linear = 0;
};

FP4SCOPE_HD constexpr Parabola parabola_of(const SearchSpace& space, const BlockProblem& problem,
                                           const std::int8_t* level) noexcept {
  double q[max_joint_block] = {};
  double hq[max_joint_block] = {};
  for (int i = 0; i < problem.n; ++i) q[i] = signed_level(space, level[i]);
  multiply(problem, q, hq);
  Parabola p;
  for (int i = 0; i < problem.n; ++i) {
    p.quadratic += q[i] * hq[i];
    p.linear += hq[i] * problem.target[i] + (problem.linear ? q[i] * problem.linear[i] : 0);
  }
  return p;
}

}  // namespace detail

/// The code of least loss with the levels kept, in binary64, ties to the lowest.
FP4SCOPE_HD constexpr int best_code_of(const SearchSpace& space, const BlockProblem& problem,
                                       const std::int8_t* level) noexcept {
  const detail::Parabola p = detail::parabola_of(space, problem, level);
  int best = space.first_code;
  double least = __builtin_inf();
  for (int code = space.first_code; code <= space.last_code; ++code) {
    const double step = space.step(code);
    const double loss = step * (step * p.quadratic - 2 * p.linear);
    if (loss < least) least = loss, best = code;
  }
  return best;
}

/// From a start, whose loss is loss_of of its code and levels; never worse than it.
FP4SCOPE_HD constexpr BlockSolution coordinate_descent(const SearchSpace& space, const BlockProblem& problem,
                                                       const BlockSolution& start) noexcept {
  if (is_zero(problem)) return zero_solution();
  BlockSolution best = start;
  best.proved = false;
  for (bool moved = true; moved;) {
    moved = false;
    for (bool falls = true; falls; moved = moved || falls) {
      std::int8_t level[max_joint_block] = {};
      for (int i = 0; i < problem.n; ++i) level[i] = best.level[i];
      detail::sweep(space, problem, space.step(best.code), level);
      falls = keep_smaller(space, problem, best.code, level, best);
    }
    const int code = best_code_of(space, problem, best.level);
    std::int8_t level[max_joint_block] = {};
    for (int i = 0; i < problem.n; ++i) level[i] = best.level[i];
    if (keep_smaller(space, problem, code, level, best)) moved = true;
  }
  return best;
}

/// From the best nearest levels.
FP4SCOPE_HD constexpr BlockSolution coordinate_descent(const SearchSpace& space, const BlockProblem& problem) noexcept {
  return coordinate_descent(space, problem, nearest_solution(space, problem));
}

}  // namespace fp4scope::search
