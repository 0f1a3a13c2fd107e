// Two cheap searches of free codes that keep to levels nearest at some scale.
//
// Decoupled (arXiv 2605.12245 calls it DSS): quantize with beta * s, dequantize with s: the best of all pairs of a code
// and a beta. Under a diagonal H it gains nothing: for a code d the nearest levels at step(d) minimise every element's
// error, so no other levels are better at d, and beta = 1 is among the betas. Off the diagonal it lets rounding be
// wrong in L2 to be right in H.
//
// Closed form: for levels q the best real scale is s* = q^T (H t + g) / q^T H q. The loss is a parabola in s, so the
// best code is one of the two around s*. There the levels are kept or taken anew; alternated until the loss stops
// falling.
#pragma once

#include "search/coordinate.hpp"

namespace fp4scope::search {

struct Betas {
  const double* value;
  int count;
};

/// .5, .55, .. 1.5; one of them is 1.
inline constexpr double default_beta_values[] = {10 / 20.0, 11 / 20.0, 12 / 20.0, 13 / 20.0, 14 / 20.0, 15 / 20.0,
                                                 16 / 20.0, 17 / 20.0, 18 / 20.0, 19 / 20.0, 20 / 20.0, 21 / 20.0,
                                                 22 / 20.0, 23 / 20.0, 24 / 20.0, 25 / 20.0, 26 / 20.0, 27 / 20.0,
                                                 28 / 20.0, 29 / 20.0, 30 / 20.0};
inline constexpr Betas default_betas = {default_beta_values, 21};

namespace detail {
FP4SCOPE_HD constexpr bool same_levels(const std::int8_t* a, const std::int8_t* b, int n) noexcept {
  for (int i = 0; i < n; ++i) {
    if (a[i] != b[i]) return false;
  }
  return true;
}
}  // namespace detail

/// Least loss_of over all codes d and betas, levels nearest at beta * step(d); ties to the lowest code, then to the
/// first beta. For a loss never above nearest_solution's, one beta has to be 1.
FP4SCOPE_HD constexpr BlockSolution decoupled(const SearchSpace& space, const BlockProblem& problem,
                                              Betas betas = default_betas) noexcept {
  if (is_zero(problem)) return zero_solution();
  BlockSolution best;
  best.loss = __builtin_inf();
  for (int code = space.first_code; code <= space.last_code; ++code) {
    std::int8_t level[2][max_joint_block] = {};
    for (int b = 0; b < betas.count; ++b) {
      std::int8_t* const here = level[b % 2];
      nearest_levels_at(space, problem, betas.value[b] * space.step(code), here);
      if (b > 0 && detail::same_levels(here, level[(b + 1) % 2], problem.n)) continue;
      keep_smaller(space, problem, code, here, best);
    }
  }
  return best;
}

/// The codes around the best real scale of the levels: the last at or below it and the next above, within the range.
struct CodePair {
  int below;
  int above;
};

FP4SCOPE_HD constexpr CodePair codes_around_best_scale(const SearchSpace& space, const BlockProblem& problem,
                                                       const std::int8_t* level) noexcept {
  const detail::Parabola p = detail::parabola_of(space, problem, level);
  // step <= s* without a division: a zero quadratic has its best scale at one end
  int below = space.first_code;
  while (below < space.last_code && space.step(below + 1) * p.quadratic <= p.linear) ++below;
  return {below, below < space.last_code ? below + 1 : below};
}

/// From the best nearest levels; never worse than them.
FP4SCOPE_HD constexpr BlockSolution closed_form(const SearchSpace& space, const BlockProblem& problem) noexcept {
  if (is_zero(problem)) return zero_solution();
  BlockSolution best = nearest_solution(space, problem);
  for (bool falls = true; falls;) {
    falls = false;
    std::int8_t kept[max_joint_block] = {};
    for (int i = 0; i < problem.n; ++i) kept[i] = best.level[i];
    const CodePair pair = codes_around_best_scale(space, problem, kept);
    const int codes[2] = {pair.below, pair.above};
    for (const int code : codes) {
      std::int8_t level[max_joint_block] = {};
      nearest_levels(space, problem, code, level);
      keep_smaller(space, problem, code, kept, best);
      if (keep_smaller(space, problem, code, level, best)) falls = true;  // kept levels would meet the same pair again
    }
  }
  return best;
}

}  // namespace fp4scope::search
