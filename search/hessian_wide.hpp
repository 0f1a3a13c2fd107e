// The sign of the difference of two codes' Hessian losses in pairs of doubles: the first comparison of hessian.hpp that
// can tell codes apart which binary64 intervals cannot, and the last one that runs on a GPU.
//
//   loss(a) - loss(b) = (r_a - r_b)^T H (r_a + r_b)
//
// The first factor has no rounding at all: values of nearest elements are exact doubles, and so are their differences
// as pairs.
#pragma once

#include <cmath>

#include "search/hessian.hpp"

namespace fp4scope::search {

/// hi + lo, |lo| at most half an ulp of hi.
struct Pair {
  double hi;
  double lo;
};

FP4SCOPE_HD constexpr Pair exact_sum(double a, double b) noexcept {  // TwoSum (Knuth 1969)
  const double hi = a + b, back = hi - a;
  return {hi, (a - (hi - back)) + (b - back)};
}

FP4SCOPE_HD constexpr Pair normalised(double hi, double lo) noexcept {
  const double sum = hi + lo;
  return {sum, lo - (sum - hi)};
}

/// With u = 2^-53: errs by at most 4 u^2 (|a| + |b|).
FP4SCOPE_HD constexpr Pair add(Pair a, Pair b) noexcept {
  const Pair sum = exact_sum(a.hi, b.hi);
  return normalised(sum.hi, sum.lo + (a.lo + b.lo));
}

/// Errs by at most 8 u^2 |a b|.
FP4SCOPE_HD inline Pair multiply(Pair a, Pair b) noexcept {
  const double hi = a.hi * b.hi;
  return normalised(hi, std::fma(a.hi, b.hi, -hi) + (a.hi * b.lo + a.lo * b.hi));
}

/// What both codes make of one element, with its sign.
struct ElementPair {
  Pair difference;  ///< r_a - r_b = value_b - value_a, exact
  Pair sum;         ///< r_a + r_b
  double size;      ///< |x - value_a| + |x - value_b|
};

/// Whether the codes' values are equal wherever H is not zero. Fills elements[block.n].
FP4SCOPE_HD constexpr bool compare_elements(const SearchSpace& space, const Block& block, const BlockHessian& hessian,
                                            int a, int b, ElementPair* elements) noexcept {
  const double step_a = space.step(a), step_b = space.step(b);
  const sim::Thresholds at_a = sim::make_thresholds(space.grid, step_a),
                        at_b = sim::make_thresholds(space.grid, step_b);
  bool equal = true;
  for (int i = 0; i < block.n; ++i) {
    const double sign = block.x[i] < 0 ? -1 : 1, magnitude = space.magnitude(block.x[i]);
    const double value_a = nearest_value(space, at_a, step_a, magnitude);
    const double value_b = nearest_value(space, at_b, step_b, magnitude);
    equal = equal && (value_a == value_b || hessian.envelope[i] == 0);
    const Pair r_a = exact_sum(sign * magnitude, -sign * value_a), r_b = exact_sum(sign * magnitude, -sign * value_b);
    elements[i] = {exact_sum(sign * value_b, -sign * value_a), add(r_a, r_b),
                   (r_a.hi < 0 ? -r_a.hi : r_a.hi) + (r_b.hi < 0 ? -r_b.hi : r_b.hi)};
  }
  return equal;
}

/// The sign of (r_a - r_b)^T H (r_a + r_b), H symmetric, in pairs of doubles; 0 where they cannot tell.
///
/// Error, u = 2^-53: a sum r_a + r_b errs by 4 u^2 of its size, each product by 8 u^2, and each of two sums of n terms
/// by 4 n u^2 of the sum of their sizes: (8 n + 20) u^2 (1 + small) sum |d_i| |h_ij| size_j, and that sum is at most
/// (sum envelope_i |d_i|) (sum envelope_j size_j). The bound takes (2 n + 16) 2^-102, more than twice as much, which
/// also covers the roundings of both sums and the pair's lo. Underflow: a low part may lose 2^-1074, n times, and then
/// meets |d| < 2^130, n times; n <= 1024: below 2^-900. An overflow makes the bound infinite or the sum a NaN: 0.
FP4SCOPE_HD inline int wide_sign(const Block& block, const BlockHessian& hessian,
                                 const ElementPair* elements) noexcept {
  Pair total = {0, 0};
  double size_of_differences = 0, size_of_sums = 0;
  for (int i = 0; i < block.n; ++i) {
    const ElementPair& element = elements[i];
    size_of_differences += hessian.envelope[i] * std::fabs(element.difference.hi);
    size_of_sums += hessian.envelope[i] * element.size;
    if (element.difference.hi == 0 || hessian.envelope[i] == 0) continue;
    const double* row = hessian.h + static_cast<std::int64_t>(i) * block.n;
    Pair dot = {0, 0};
    for (int j = 0; j < block.n; ++j) dot = add(dot, multiply({row[j], 0}, elements[j].sum));
    total = add(total, multiply(element.difference, dot));
  }
  const double bound = (2 * block.n + 16) * 0x1p-102 * size_of_differences * size_of_sums + 0x1p-900;
  return total.hi > bound ? 1 : total.hi < -bound ? -1 : 0;
}

}  // namespace fp4scope::search
