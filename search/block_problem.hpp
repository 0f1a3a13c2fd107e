// One block under a quadratic loss with free codes: what closest_vector, decoupled, coordinate and the row methods
// share.
//
//   loss(code, level) = (t - v)^T H (t - v) + 2 g^T (t - v),   v_i = sign(level_i) * grid.level[|level_i|] * step(code)
//
// Targets are doubles, in the grid's units (times space.factor): row methods move them by what other blocks left over.
// A level times a step has at most 9 + 29 bits, so every v_i is exact.
//
// Range: everything finite, and h_ij r_i r_j neither above 2^1000 nor, unless it is 0, below 2^-900 in magnitude: then
// no product overflows or loses bits to underflow. Error bounds of this folder's joint searches assume it.
#pragma once

#include "search/space.hpp"

namespace fp4scope::search {

inline constexpr int max_joint_block = 64;

/// Minimise (t - v)^T H (t - v) + 2 g^T (t - v) over v_i = step(code) * level_i with signed levels of space.grid.
struct BlockProblem {
  int n;                 ///< 1 .. max_joint_block
  const double* target;  ///< t [n]
  const double* h;       ///< H [n * n], symmetric positive semidefinite
  const double* linear;  ///< g [n], or null for zero
};

/// A scale code and signed level indices: level[i] in -(levels-1) .. levels-1.
struct BlockSolution {
  int code = 0;
  std::int8_t level[max_joint_block] = {};
  double loss = 0;         ///< in binary64, terms in a fixed order: loss_of()
  bool proved = false;     ///< no (code, levels) has a smaller loss
  std::int64_t nodes = 0;  ///< how much was looked at: a diagnostic
};

FP4SCOPE_HD constexpr double signed_level(const SearchSpace& space, int level) noexcept {
  return level < 0 ? -space.grid.level[-level] : space.grid.level[level];
}

/// The loss in binary64: r_i is one rounding, then rows in order, each summed over j in order.
FP4SCOPE_HD constexpr double loss_of(const SearchSpace& space, const BlockProblem& problem, int code,
                                     const std::int8_t* level) noexcept {
  const double step = space.step(code);
  double r[max_joint_block] = {};
  double hr[max_joint_block] = {};
  for (int j = 0; j < problem.n; ++j) {
    r[j] = problem.target[j] - signed_level(space, level[j]) * step;
    const double* column = problem.h + static_cast<std::int64_t>(j) * problem.n;  // H is symmetric
    for (int i = 0; i < problem.n; ++i) hr[i] += column[i] * r[j];
  }
  double loss = 0;
  for (int i = 0; i < problem.n; ++i) loss += r[i] * (problem.linear ? hr[i] + 2 * problem.linear[i] : hr[i]);
  return loss;
}

/// The level nearest to a double at a step, a tie to the even code. |t| is compared with midpoint * step, which is
/// exact for step(code), so the answer is the nearest level of t in real numbers. For a step that isn't a code's
/// (beta * step) the products round: near a midpoint, within 2^-52 of it, either neighbour may come out.
FP4SCOPE_HD constexpr std::int8_t nearest_level(const sim::Thresholds& thresholds, double target) noexcept {
  const int index = sim::nearest_index(thresholds, target < 0 ? -target : target);
  return static_cast<std::int8_t>(target < 0 ? -index : index);
}

FP4SCOPE_HD constexpr void nearest_levels_at(const SearchSpace& space, const BlockProblem& problem, double step,
                                             std::int8_t* level) noexcept {
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  for (int i = 0; i < problem.n; ++i)
    level[i] = step > 0 ? nearest_level(thresholds, problem.target[i]) : static_cast<std::int8_t>(0);
}

/// The nearest levels of t at a code; zeros where its step is 0.
FP4SCOPE_HD constexpr void nearest_levels(const SearchSpace& space, const BlockProblem& problem, int code,
                                          std::int8_t* level) noexcept {
  nearest_levels_at(space, problem, space.step(code), level);
}

/// t = 0 and no linear term: code 0 with level 0 everywhere, as every search answers an all-zero block.
FP4SCOPE_HD constexpr bool is_zero(const BlockProblem& problem) noexcept {
  if (problem.linear) return false;
  for (int i = 0; i < problem.n; ++i) {
    if (problem.target[i] != 0) return false;
  }
  return true;
}

FP4SCOPE_HD constexpr BlockSolution zero_solution() noexcept {
  BlockSolution s;
  s.proved = true;
  return s;
}

/// Replaces `best` by (code, level) if that has a smaller loss_of.
FP4SCOPE_HD constexpr bool keep_smaller(const SearchSpace& space, const BlockProblem& problem, int code,
                                        const std::int8_t* level, BlockSolution& best) noexcept {
  const double loss = loss_of(space, problem, code, level);
  ++best.nodes;
  if (!(loss < best.loss)) return false;
  best.code = code;
  best.loss = loss;
  for (int i = 0; i < problem.n; ++i) best.level[i] = level[i];
  return true;
}

/// The best scale code with nearest levels by loss_of, ties to the lowest code: where the searches of free codes begin.
FP4SCOPE_HD constexpr BlockSolution nearest_solution(const SearchSpace& space, const BlockProblem& problem) noexcept {
  if (is_zero(problem)) return zero_solution();
  BlockSolution best;
  best.loss = __builtin_inf();
  for (int code = space.first_code; code <= space.last_code; ++code) {
    std::int8_t level[max_joint_block] = {};
    nearest_levels(space, problem, code, level);
    keep_smaller(space, problem, code, level, best);
  }
  return best;
}

}  // namespace fp4scope::search
