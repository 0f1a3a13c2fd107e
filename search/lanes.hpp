// The scale search on vector lanes: one block a lane, so that nothing is summed across lanes. The codes are the plain
// search's, on every CPU: sums in binary32 are a filter with a proven error bound, and what the filter can't separate
// is compared exactly by sse.hpp.
//
// Notation, in units of the tensor scale and the grid's unit: a = amax, v a block scale, y = |x| / v, r = a / v, e(y)
// the distance of y to the nearest level, A = sum e^2, S = A v^2 the squared error, N the block size.
//
// The filter's error.  Lanes compute F = v^2 sum e'^2, e' = y' - q', where y' is |x| times a rounded 1 / v.
//   y' = y (1 + d), |d| <= 2^-22: at most four roundings of 2^-24 each, 1 / T and its product with the grid's unit
//   included. q' is a level nearest to y' itself (either one of two), so |y' - q'| = e(y'), and a distance to a set
//   changes no faster than its argument: |e(y') - e(y)| <= 2^-22 y. The subtraction rounds once, 2^-24 e(y').
//   So |sum e'^2 - A| <= 2^-21 sum e y + 2^-23 A + (terms of 2^-43), and by Cauchy and Schwarz and the arithmetic mean
//   2^-21 sum e y <= 2^-22 (16 A + Y / 16), Y = sum y^2 <= N r^2. Squares, additions in any order, fused or not, and
//   the product with v^2 round at most N + 5 times: (N + 5) 2^-24 A. Squares that underflow are below N 2^-126
//   together, and M v^-2 above 2^-42 N, since r > 2^-8; the largest sums are below 2^120. Together
//     |F - S| <= lambda S + M,   lambda = 2^-18 + (N + 8) 2^-24,   M = 2^-26 N a^2,
//   the same M for every candidate. With N <= 64, lambda <= 2^-16: a code whose F exceeds
//     (1 + 4 lambda) F_best + 3 M
//   has S > S_best, since (1 + lambda) / (1 - lambda) < 1 + 3 lambda, and the rest covers the threshold's own
//   roundings. If that is every other candidate, the best of the filter is the best; else the exact comparison chooses
//   among those below the threshold.
//
// The candidates of E4M3.  The positive values of E4M3 are m 2^k, m = 8 .. 15. Two theorems of pruning.hpp, applied to
//   the values of one m, one after the other: those above the least one with r <= D (the dominance constant) are out,
//   and of those below, with r > U, all are out that have a double. So there are
//     one for each m: the least value with r <= D; where m 2^k can't go low enough, the least there is (an odd code
//     below 16, whatever its r); where it can't go high enough, the largest there is; and codes one after the other
//     below w, the least value of all with r <= D, as long as r <= U (and 2 v is a code: the others are the largest
//     ones of their m, and have been met). That r <= U and the clipping bound C hold for a code is monotone in the
//     code, so the walk ends at the first at which it holds for no lane.
//   w comes from a rounded quotient that is at most 2^-20 too large. If it lies above the true one, the walk below it
//   meets what is missing, and more candidates never do harm: ties go to the lowest code by the exact comparison.
//   E2M1, N = 16: 8 and at most 2 more, for scales near the bottom of E4M3 (no tensor scale) as for any other.
//
// UE8M0 has one m: the least value with r <= D, and where half of it has r <= U a comparison with that. Blocks without
//   one are done at once; the others are gathered into groups.
#pragma once

#include "search/search.hpp"

namespace fp4scope::search {

/// Whether lane_scales serves the task: rules for any elements; four over six (mse) and sse for the levels of E2M1 or
/// INT4 times a power of two; scales E4M3 and UE8M0; blocks of 8, 16, .. 64 without tiles.
bool has_lanes(const SearchTask& task);

/// The scale codes of blocks that lie one after the other in x [blocks * task.block]; the same codes as the plain
/// search, always. Adds to `count` and to `chose_second`. Needs has_lanes(task); `space` is of its format and tensor
/// scale.
void lane_scales(const SearchTask& task, const SearchSpace& space, const float* x, std::int64_t blocks,
                 std::uint8_t* scales, SearchCount& count, std::int64_t& chose_second);

}  // namespace fp4scope::search
