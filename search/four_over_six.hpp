// Four over six: map the block's amax to 6 or to 4, whichever errs less (arXiv 2512.02010). The 4 needs a strictly
// smaller error: ties go to the 6. Errors are compared in real numbers:
//
//   mse     sum (|x_i| - value_i)^2      mae     sum | |x_i| - value_i |      absmax  max | |x_i| - value_i |
//
// Both scales are rounded from the real quotients amax / (6 T) and amax / (4 T), to at least the least code of the rule
// that the space starts with. T leaves room above: scale max 256.
#pragma once

#include "search/sse.hpp"

namespace fp4scope::search {

enum class Select : std::uint8_t { mse, mae, absmax };

/// | |x| - value | as hi + lo without rounding error, |lo| <= half an ulp of hi (TwoSum, Knuth 1969).
struct TwoPart {
  double hi;
  double lo;
};

FP4SCOPE_HD constexpr TwoPart exact_distance(double magnitude, double value) noexcept {
  const double hi = magnitude - value;
  const double back = magnitude - hi;
  const double lo = (magnitude - (hi + back)) + (back - value);
  const bool negative = hi < 0 || (hi == 0 && lo < 0);
  return negative ? TwoPart{-hi, -lo} : TwoPart{hi, lo};
}

/// The largest error at a code, exact. hi is the rounding of the real distance and rounding is monotone, so a larger
/// hi is a larger distance, and among equal ones lo decides.
FP4SCOPE_HD constexpr TwoPart largest_error(const SearchSpace& space, const Block& block, int code) noexcept {
  const double step = space.step(code);
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  TwoPart largest = {0, 0};
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.magnitude(block.x[i]);
    const TwoPart e = exact_distance(magnitude, nearest_value(space, thresholds, step, magnitude));
    if (e.hi > largest.hi || (e.hi == largest.hi && e.lo > largest.lo)) largest = e;
  }
  return largest;
}

/// The sign of sum | |x_i| - value_i | at code a less that at code b. An element with level 0 at both codes cancels and
/// is left out. In the usual range (space.hpp, same names) every |x| that is left, at least m s, and every q s are
/// multiples of the smaller of u and t w 2^-p, and n (h s + 6.4 top s) 2 <= 2^41 of it for n = 16: binary64 is exact
/// wherever it is for SSE, whose budget is larger. Outside, ExactSum.
FP4SCOPE_HD constexpr int compare_absolute_errors(const SearchSpace& space, const SearchSpace& other,
                                                  const Block& block, int a, int b) noexcept {
  const double step_a = space.step(a), step_b = other.step(b);
  const sim::Thresholds at_a = sim::make_thresholds(space.grid, step_a);
  const sim::Thresholds at_b = sim::make_thresholds(other.grid, step_b);
  const bool exact = block.n <= space.exact_block && block.n <= other.exact_block && in_usual_range(space, block, a) &&
                     in_usual_range(other, block, b);
  double difference = 0;
  ExactSum sum;
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.magnitude(block.x[i]);
    const double value_a = nearest_value(space, at_a, step_a, magnitude);
    const double value_b = nearest_value(other, at_b, step_b, magnitude);
    if (value_a == 0 && value_b == 0) continue;
    const TwoPart error_a = exact_distance(magnitude, value_a), error_b = exact_distance(magnitude, value_b);
    if (exact) {
      difference += error_a.hi - error_b.hi;
      continue;
    }
    sum.add(error_a.hi);
    sum.add(error_a.lo);
    sum.add(-error_b.hi);
    sum.add(-error_b.lo);
  }
  return exact ? (difference > 0) - (difference < 0) : sum.sign();
}

/// The sign of the error at code a of one space less that at code b of another, which differs at most in its grid.
FP4SCOPE_HD constexpr int compare_errors(const SearchSpace& space, const SearchSpace& other, const Block& block,
                                         Select select, int a, int b, SearchCount* count = nullptr) noexcept {
  if (count) count->candidates += 2;
  if (select == Select::mse) {
    return compare_sse(space, other, block, a, sums_at(space, block, a), b, sums_at(other, block, b), count);
  }
  if (select == Select::absmax) {
    const TwoPart at_a = largest_error(space, block, a), at_b = largest_error(other, block, b);
    if (at_a.hi != at_b.hi) return at_a.hi > at_b.hi ? 1 : -1;
    return at_a.lo > at_b.lo ? 1 : at_a.lo < at_b.lo ? -1 : 0;
  }
  return compare_absolute_errors(space, other, block, a, b);
}

/// The sign of the error at code a less that at code b.
FP4SCOPE_HD constexpr int compare_errors(const SearchSpace& space, const Block& block, Select select, int a, int b,
                                         SearchCount* count = nullptr) noexcept {
  return compare_errors(space, space, block, select, a, b, count);
}

struct FourOverSix {
  int code;
  bool chose_four;
};

FP4SCOPE_HD constexpr FourOverSix four_over_six(const SearchSpace& space, const Block& block, Select select,
                                                SearchCount* count = nullptr, bool unbiased = false) noexcept {
  const auto t = static_cast<float>(space.tensor_scale);
  sim::ScaleRule to_six = sim::six_rule, to_four = sim::four_rule;
  to_six.least = to_four.least = space.start.least;
  const int six = sim::scale_code(space.scale, unbiased ? sim::unbiased(to_six) : to_six, block.amax, t);
  const int four = sim::scale_code(space.scale, unbiased ? sim::unbiased(to_four) : to_four, block.amax, t);
  const bool chose_four = six != four && compare_errors(space, block, select, four, six, count) < 0;
  return {chose_four ? four : six, chose_four};
}

}  // namespace fp4scope::search
