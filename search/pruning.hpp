// Which scales can't be the best under SSE: two theorems about s and 2s, and two bounds that grow away from the
// optimum. All constants are derived from the grid, none is listed. In units of s: L is the grid's largest level, every
// doubled level up to L is a level too (the grid *nests*), D is the least doubled level above L. E2M1: L = 6, D = 8.
// INT4: 7, 8.
//
// Above.  amax <= s (L + D) / 2  =>  SSE(2s) >= SSE(s).
//   Element by element. |x| <= L: a point of the doubled grid up to L is a point of the grid; one above L is no nearer
//   than L. L < |x| <= (L + D) / 2: the grid errs by |x| - L; a doubled level up to L at least as much; one above L by
//   at least D - |x| >= |x| - L. QED. So it holds for any loss that grows with each element's error, weights included.
//   The lower code wins a tie, so 2s is never the answer. It needs s to be a code: an odd subnormal code has no half.
//
// Below.  amax > s U,  U = (L + D) / 2 + (N - 1) w / (2 (D - L))  =>  SSE(2s) < SSE(s), N elements, where w is the most
//   that one element loses by doubling, max of e_2(x)^2 - e_1(x)^2 over x <= (L + D) / 2.
//   The largest element A = amax / s errs by A - L, and at 2s by at most |A - D|: it gains at least
//   (A - L)^2 - (A - D)^2 = (D - L) (2 A - L - D). Every other element loses at most w, and above (L + D) / 2 nothing
//   by the same line. QED. e_2^2 - e_1^2 is linear between breakpoints (both squares have the same leading term), so w
//   is its largest value at the levels, the midpoints and the doubled midpoints. E2M1: w = 1/4, U = 7 + (N - 1) / 16.
//   2s has to be a code: above half the largest value nothing is excluded.
//
// Clipping and dead zone.  SSE(s) >= C(s) + Z(s), C(s) = sum over |x| > L s of (|x| - L s)^2, which grows as s falls,
// and
//   Z(s) = sum over |x| <= m s of x^2, m the first midpoint, which grows as s grows. The two sets are disjoint.
//   For codes below a code c:  SSE >= C(c). For codes above: SSE >= Z(c). (Not C + Z at c: each falls on the other
//   side.)
//
// Powers of two. With UE8M0, r = amax / s of the optimum lies in ((L + D) / 4, U], except at the ends of the code
// range:
//   2s is out where `above` holds for s, and r > U is out by `below`. E2M1 and N = 32: (3.5, 8.9375]. The OCP floor
//   code, whose r lies in [4, 8), is in question, and at most one neighbour: the code above when r > 7 (a significand
//   of amax above 1.75), the one below when 2 r <= U (a significand up to U / 8). So a block needs at most one
//   comparison as long as U <= 14, N <= 113.
#pragma once

#include "sim/grid.hpp"

namespace fp4scope::search {

/// What the theorems need of a grid; L = D = 0 where it does not nest, and then nothing is excluded.
struct Nesting {
  double largest = 0;       ///< L
  double next_doubled = 0;  ///< D
  double worst_loss = 0;    ///< w
};

namespace detail {

/// The distance from x to the nearest of factor * levels.
FP4SCOPE_HD constexpr double distance(const sim::Grid& grid, double factor, double x) noexcept {
  double least = __builtin_inf();
  for (int k = 0; k < grid.levels; ++k) {
    const double d = x - factor * grid.level[k];
    const double magnitude = d < 0 ? -d : d;
    least = magnitude < least ? magnitude : least;
  }
  return least;
}

/// e_2(x)^2 - e_1(x)^2. Levels and midpoints have at most 9 bits: exact.
FP4SCOPE_HD constexpr double doubling_loss(const sim::Grid& grid, double x) noexcept {
  const double once = distance(grid, 1, x), twice = distance(grid, 2, x);
  return twice * twice - once * once;
}

}  // namespace detail

FP4SCOPE_HD constexpr Nesting nesting(const sim::Grid& grid) noexcept {
  Nesting n;
  const double largest = grid.level[grid.levels - 1];
  for (int k = 0; k < grid.levels; ++k) {
    const double doubled = 2 * grid.level[k];
    if (doubled > largest) {
      n.next_doubled = doubled;
      break;
    }
    bool nested = false;
    for (int j = 0; j < grid.levels; ++j) nested = nested || grid.level[j] == doubled;
    if (!nested) return {};
  }
  if (n.next_doubled == 0) return {};
  n.largest = largest;
  const double end = (largest + n.next_doubled) / 2;
  for (int k = 0; k < grid.levels; ++k) {
    const double at[3] = {grid.level[k], k + 1 < grid.levels ? grid.midpoint[k] : 0,
                          k + 1 < grid.levels ? 2 * grid.midpoint[k] : 0};
    for (const double x : at) {
      const double loss = x <= end ? detail::doubling_loss(grid, x) : 0;
      n.worst_loss = loss > n.worst_loss ? loss : n.worst_loss;
    }
  }
  return n;
}

/// (L + D) / 2: a block with amax <= this * s is served by s at least as well as by 2s. 0: unknown.
FP4SCOPE_HD constexpr double dominance_constant(const Nesting& n) noexcept { return (n.largest + n.next_doubled) / 2; }

/// U for blocks of n elements, rounded up to a multiple of 1/16 so that U * s is exact (at most 20 + 29 bits); infinite
/// where it is unknown or above 2^16.
FP4SCOPE_HD constexpr double undersize_constant(const Nesting& nest, int n) noexcept {
  if (nest.largest == 0) return __builtin_inf();
  const double u = dominance_constant(nest) + (n - 1) * nest.worst_loss / (2 * (nest.next_doubled - nest.largest));
  if (!(u < 0x1p16)) return __builtin_inf();
  const auto sixteenths = static_cast<std::int64_t>(u * 16);
  return static_cast<double>(sixteenths + (static_cast<double>(sixteenths) < u * 16)) / 16;
}

static_assert(dominance_constant(nesting(sim::make_grid(formats::e2m1))) == 7);
static_assert(dominance_constant(nesting(sim::make_grid(formats::int4))) == 7.5);
static_assert(nesting(sim::make_grid(formats::e2m1)).worst_loss == 0.25);
static_assert(undersize_constant(nesting(sim::make_grid(formats::e2m1)), 16) == 7 + 15.0 / 16);
static_assert(undersize_constant(nesting(sim::make_grid(formats::e2m1)), 32) == 7 + 31.0 / 16);
static_assert(undersize_constant(nesting(sim::make_grid(formats::int4)), 16) == 15);

}  // namespace fp4scope::search
