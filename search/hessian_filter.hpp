// What a binary32 filter needs of one H: a factor G with H = G G^T + E, and bounds of everything that it neglects.
//
//   loss = r^T H r,   y = G^T r,   | loss - |y|^2 | <= eps X0^2
//
// n elements at most 64, |.| the 2-norm, u = 2^-24. G is a pivoted Cholesky factor in binary64 that stops where the
// rest is noise, so a Gram matrix of few directions costs few columns. Nothing is assumed of it: E = H - G G^T is
// measured, entry by entry, roundings included, and so is the residual of every triangular solution below. Elements are
// in the units of e_i >= max(envelope_i, |row i of G|), and X0 = sum e_i |x_i|. Zero is a level, so |r_i| <= |x_i| for
// every nearest element at every scale, and sum e_i |r_i| <= X0.
//
// Error of the computed |y| (the square root of a sum of squares in binary32):
//   r: the value q s is rounded once (u |q s|, |q s| <= 2 |x|) and so is the difference: 3.01 u |x_i|, so 3.01 u X0 in
//   y. G: rounded to binary32, u; each column's sum of at most n products, fused or not: (n + 1) u. Together
//      (n + 2) 1.01 u sum |g_ij| |r_i| by column j, in norm at most (n + 2) 1.01 u sum |r_i| |row i of G| <= ... X0.
//   Sum of squares: (n + 2) u of itself, so (n / 2 + 1) u of its root, and |y| <= X0.
//   In all (1.51 n + 7.1) u X0: `error` takes (1.6 n + 8) u. A sum that stops early is a lower bound with the same
//   error. Underflow: |x| <= 2^40 and e_i < 4; every product may lose 2^-150, a rounded entry of G 2^-150 of |r|: at
//   most 64^2 2^-109 in y, and 64 * 2^-149 in the sum of squares: 2^-71 in its root. `absolute` takes 2^-70.
//
// So code c is not the optimum where, for some code b and computed roots Y,
//
//   Y_c > Y_b + D,   D = 2 error X0 + 2 absolute + sqrt(2 eps) X0,
//
// since then |y_c| > |y_b| + sqrt(2 eps) X0 and |y_c|^2 - eps X0^2 > |y_b|^2 + eps X0^2: the loss at c is above that at
// b. D is `gap` X0 + 2^-68.
//
// Exclusions without a sum, U = min Y + D, s a scale's step, L the grid's largest level:
//   Clipping. For w with e_k = G w + delta: r_k = w^T y + delta^T r, so |y| >= |r_k| / |w| - 2^-30 X0 as long as
//     max |delta_i| <= 2^-30 |w| (in units in which every e_i is at least 1; spread_k >= |w|, and FLT_MAX, which
//     excludes nothing, where this fails: a singular H bounds no single element). An element above L s errs by |x_k| -
//     L s, and by more at each smaller step: |x_k| - U spread_k > L s excludes s and all below. (spread_k^2 =
//     (H^-1)_kk.)
//   Dead zone. An element at most m s, m the first midpoint, is rounded to zero at s and at every larger step:
//     |x_k| > U spread_k for one of them excludes s and all above. D includes the 2^-30 X0.
//   All small. Values at s and at any smaller step lie in [0, L s], so r differs by at most L s in each element and |y|
//   by
//     at most L s sum e_i: Y(s) - L s sum e_i > U excludes all below s. It needs no positive definite H.
//   All dead. From amax <= m s on every value is zero: the lowest such code stands for all.
#pragma once

#include <vector>

#include "search/hessian.hpp"

namespace fp4scope::search {

inline constexpr int max_filter_block = 64;

struct HessianFilter {
  bool usable = false;  ///< false: E is too large, or the entries are beyond binary64's comfortable range
  int n = 0;
  int rank = 0;
  float gap = 0;              ///< D / X0
  float total = 0;            ///< sum e_i, rounded up
  std::vector<int> order;     ///< the element at each place: pivots in their order
  std::vector<float> size;    ///< e_i by place, rounded up
  std::vector<float> spread;  ///< by place, rounded up
  std::vector<float> factor;  ///< G by place, in groups of four columns c .. c + 3: rows c .. n - 1, four entries each
};

/// H of n <= max_filter_block elements -> filter. Work n^3.
void make_hessian_filter(const BlockHessian& hessian, int n, HessianFilter& filter);

}  // namespace fp4scope::search
