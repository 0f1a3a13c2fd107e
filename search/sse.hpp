// The block scale of least squared error, exactly, over all positive codes; ties to the lowest code.
//
//   SSE(v) = sum_i (|x_i| - T v q_i)^2 = sum x_i^2 + T (T v^2 Q - 2 v X),   X = sum q_i |x_i|,  Q = sum q_i^2
//
// where q_i is the nearest level at step T v. Two codes a, b are ordered by the sign of
//
//   T A - 2 B,   A = v_a^2 Q_a - v_b^2 Q_b,   B = v_a X_a - v_b X_b
//
// in real numbers. That is the definition: no tolerance and no order of summation enters, and ties, 0.5 to 7 % of
// blocks, are ties. Three ways to the same sign: binary64 where every intermediate result fits its 53 bits (candidates
// of the usual range: exact_block_size in space.hpp has the proof), 128-bit integers where all terms are multiples of
// one unit below 2^126 of it, and ExactSum for the rest (a tensor scale that has nothing to do with the data).
#pragma once

#include "search/exact_sum.hpp"
#include "search/space.hpp"
#include "search/wide_sum.hpp"

namespace fp4scope::search {

/// The candidates that a search looked at and the comparisons that binary64 could not decide.
struct SearchCount {
  std::int64_t candidates = 0;
  std::int64_t exact = 0;
  std::int64_t wide = 0;  ///< of the Hessian loss: comparisons of different values taken in pairs of doubles
};

/// What the squared error at one code needs. `x` is X: exact in the usual range, otherwise rounded at each of n
/// additions (its terms, 27 + 8 bits, are exact). `q` is Q, always exact: levels have at most 8 bits, their squares 16,
/// and there are at most 1024.
struct Sums {
  double x = 0;
  double q = 0;
};

FP4SCOPE_HD constexpr Sums sums_at(const SearchSpace& space, const Block& block, int code) noexcept {
  Sums s;
  const double step = space.step(code);
  if (step == 0) return s;
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.magnitude(block.x[i]);
    const double level = space.grid.level[sim::nearest_index(thresholds, magnitude)];
    s.x += level * magnitude;
    s.q += level * level;
  }
  return s;
}

/// Relative error bound of a sum of n + few non-negative terms in binary64, with room: (n + 8) 2^-52.
FP4SCOPE_HD constexpr double sum_error(int n) noexcept { return (n + 8) * 0x1p-52; }

/// Adds +-(T v^2 Q - 2 v X) to the sum, term by term; every term is an exact double: T v^2 q^2 has at most
/// 24 + 10 + 16 = 50 bits, v q x at most 5 + 8 + 27 (block scales have 5, levels of one's own 8, IF4's 7 |x| 27).
template <class Sum>
FP4SCOPE_HD constexpr void add_sse_terms(Sum& sum, const SearchSpace& space, const Block& block, int code,
                                         double sign) noexcept {
  const double step = space.step(code);
  if (step == 0) return;
  const double v = space.scale_value[code];
  const double quadratic = space.tensor_scale * (v * v);
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.magnitude(block.x[i]);
    const double level = space.grid.level[sim::nearest_index(thresholds, magnitude)];
    sum.add(-sign * 2 * v * level * magnitude);
    sum.add(sign * quadratic * (level * level));
  }
}

/// Whether a code lies in the usual range, where binary64 is exact. All products here are (at most 40 bits).
FP4SCOPE_HD constexpr bool in_usual_range(const SearchSpace& space, const Block& block, int code) noexcept {
  const double scaled = 6 * space.factor * block.amax, step = space.top() * space.step(code);
  return scaled >= usual_low * step && scaled <= usual_high * step;
}

/// Where the bits of all terms of add_sse_terms at two positive block scales lie: multiples of 2^unit, together below
/// 2^end.
struct TermRange {
  int unit;
  int end;
};

FP4SCOPE_HD constexpr TermRange sse_term_range(const SearchSpace& space, const Block& block, double va,
                                               double vb) noexcept {
  constexpr int level_unit = -8, level_end = 8, factor_end = 3;  // of any grid here
  const int low_a = lowest_bit(va), low_b = lowest_bit(vb), low = low_a < low_b ? low_a : low_b;
  const int high = highest_bit(va > vb ? va : vb) + 1, count_end = formats::bit_length(static_cast<unsigned>(block.n));
  // Elements whose level is zero add nothing; any other is at least midpoint * step / factor.
  const double least = space.grid.midpoint[0] * space.tensor_scale * (va < vb ? va : vb) / 8;
  const int ulp = least > 0x1p-126 ? highest_bit(least) - 23 : -149;
  const int quadratic = lowest_bit(space.tensor_scale) + 2 * low + 2 * level_unit;
  const int linear = 1 + low + level_unit + ulp;
  const int quadratic_end = highest_bit(space.tensor_scale) + 1 + 2 * high + 2 * level_end;
  const int linear_end = 1 + high + level_end + factor_end + highest_bit(block.amax) + 1;
  return {quadratic < linear ? quadratic : linear,
          (quadratic_end > linear_end ? quadratic_end : linear_end) + count_end + 2};
}

/// The sign of SSE(a) - SSE(b) where binary64 is too short.
FP4SCOPE_HD constexpr int compare_sse_wide(const SearchSpace& space, const SearchSpace& other, const Block& block,
                                           int a, int b) noexcept {
  const double va = space.scale_value[a], vb = other.scale_value[b];  // a scale of 0 has no terms
  if (va == 0 && vb == 0) return 0;
  const TermRange range = sse_term_range(space, block, va > 0 ? va : vb, vb > 0 ? vb : va);
  if (range.end - range.unit <= 126) {
    WideSum sum(range.unit);
    add_sse_terms(sum, space, block, a, 1);
    add_sse_terms(sum, other, block, b, -1);
    return sum.sign();
  }
  ExactSum sum;
  add_sse_terms(sum, space, block, a, 1);
  add_sse_terms(sum, other, block, b, -1);
  return sum.sign();
}

/// The sign of SSE(a) - SSE(b), code a of one space and b of another that differs at most in its grid.
FP4SCOPE_HD constexpr int compare_sse(const SearchSpace& space, const SearchSpace& other, const Block& block, int a,
                                      const Sums& at_a, int b, const Sums& at_b,
                                      SearchCount* count = nullptr) noexcept {
  const double va = space.scale_value[a], vb = other.scale_value[b];
  const double qa = space.tensor_scale * (va * va * at_a.q), qb = other.tensor_scale * (vb * vb * at_b.q);
  const double xa = 2 * va * at_a.x, xb = 2 * vb * at_b.x;
  const double difference = (qa - qb) - (xa - xb);
  const bool exact = block.n <= space.exact_block && block.n <= other.exact_block && in_usual_range(space, block, a) &&
                     in_usual_range(other, block, b);
  // Outside, a difference above the rounding errors of all terms still has the right sign.
  const double bound = exact ? 0 : sum_error(block.n) * (qa + qb + xa + xb);
  if (difference > bound) return 1;
  if (difference < -bound) return -1;
  if (exact) return 0;
  if (count) ++count->exact;
  return compare_sse_wide(space, other, block, a, b);
}

/// The sign of SSE(a) - SSE(b).
FP4SCOPE_HD constexpr int compare_sse(const SearchSpace& space, const Block& block, int a, const Sums& at_a, int b,
                                      const Sums& at_b, SearchCount* count = nullptr) noexcept {
  return compare_sse(space, space, block, a, at_a, b, at_b, count);
}

/// The best so far among the codes visited, in any order: the preorder is total and ties go to the lower code.
struct Best {
  int code;
  Sums sums;
};

FP4SCOPE_HD constexpr void keep_better(const SearchSpace& space, const Block& block, int code, Best& best,
                                       SearchCount* count) noexcept {
  if (count) ++count->candidates;
  const Sums sums = sums_at(space, block, code);
  const int order = compare_sse(space, block, code, sums, best.code, best.sums, count);
  if (order < 0 || (order == 0 && code < best.code)) best = {code, sums};
}

/// The slow, obviously right twin: every positive code. 0 for an all-zero block.
FP4SCOPE_HD constexpr int sse_code_ref(const SearchSpace& space, const Block& block,
                                       SearchCount* count = nullptr) noexcept {
  if (block.amax == 0) return 0;
  Best best = {space.first_code, sums_at(space, block, space.first_code)};
  if (count) ++count->candidates;
  for (int code = space.first_code + 1; code <= space.last_code; ++code) keep_better(space, block, code, best, count);
  return best.code;
}

/// An upper bound of SSE at a code, given the energy sum x^2 (rounded): S + T (T v^2 Q - 2 v X), plus the rounding of
/// every term.
FP4SCOPE_HD constexpr double sse_upper_bound(const SearchSpace& space, const Block& block, double energy,
                                             const Best& best) noexcept {
  const double step = space.step(best.code);
  const double quadratic = step * step * best.sums.q, linear = 2 * step * best.sums.x;
  return energy - linear + quadratic + 2 * sum_error(block.n) * (energy + linear + quadratic);
}

/// The same code as sse_code_ref, having looked at a few candidates; pruning.hpp has the theorems.
///
/// Above: where half of v is a code and amax <= dominance * T v / 2, v is never the answer. The condition is monotone
/// in
///   v, and from first_always_halved on every code has its half, so there the search ends. Odd codes below have no half
///   and are always looked at: without a tensor scale they are often the optimum ({13 * 2^-10, 0, ...} has its at +12
///   codes above naive, with SSE 0). A grid that does not nest has dominance 0, which no amax is below: then every code
///   above is looked at.
/// Below: where amax > U T v and 2 v is a code, v is never the answer, nor is any code below it, whose doubles are
/// codes
///   as well. And SSE(v) >= (amax - L T v)^2 ends the search once that exceeds the best SSE.
FP4SCOPE_HD constexpr int sse_code(const SearchSpace& space, const Block& block,
                                   SearchCount* count = nullptr) noexcept {
  if (block.amax == 0) return 0;
  const int guess = sim::scale_code(space.scale, space.start, block.amax, static_cast<float>(space.tensor_scale));
  const int start = guess < space.first_code ? space.first_code : guess;
  const double undersize = undersize_constant(space.nesting, block.n);
  double energy = 0;
  for (int i = 0; i < block.n; ++i) energy += space.magnitude(block.x[i]) * space.magnitude(block.x[i]);
  Best best = {start, sums_at(space, block, start)};
  if (count) ++count->candidates;

  for (int code = start + 1; code <= space.last_code; ++code) {
    const int half = half_code(space.scale, code);
    if (half >= 0 &&
        space.factor * block.amax <= space.dominance * space.step(half)) {  // exact: 27 bits against 10 + 5 + 24
      if (code >= first_always_halved(space.scale)) break;
      continue;
    }
    keep_better(space, block, code, best, count);
  }
  for (int code = start - 1; code >= space.first_code; --code) {
    const bool has_double = 2 * space.scale_value[code] <= space.scale_value[space.last_code];
    if (has_double && space.factor * block.amax > undersize * space.step(code)) break;  // exact: 20 + 29 bits
    const double clipped = space.factor * block.amax - space.top() * space.step(code);
    // 2^-50 covers the roundings of the difference, the square and the product.
    if (clipped > 0 && clipped * clipped * (1 - 0x1p-50) > sse_upper_bound(space, block, energy, best)) break;
    keep_better(space, block, code, best, count);
  }
  return best.code;
}

}  // namespace fp4scope::search
