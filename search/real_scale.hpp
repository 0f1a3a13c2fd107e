// The real block scale of least squared error: what no scale format can beat.
//
//   f(s) = sum_i (|x_i| - s q_i(s))^2,   q_i(s) the level nearest to |x_i| at scale s,   over real s in [least, most]
//
// As s falls, q_i steps from level k to k + 1 at s = |x_i| / midpoint_k. Between two such points the levels q stay, and
// with X = sum q_i |x_i|, Q = sum q_i^2 the error is the parabola g_q(s) = sum x^2 - 2 s X + s^2 Q. The least of all
// g_q at clamp(X / Q) is the least of f:
//   f(s) <= g_q(s) for any q and s, since nearest levels are no worse: no g_q(s) is below the least of f. And where f
//   is least, at s*, it is g_q* for the q* there, whose value at its own clamp(X / Q) is no larger. QED.
// So a sweep over the sorted points is enough, and a parabola may have its minimum outside its own piece.
//
// Where the least lies, over all real s or any set of scales with all halves and doubles (a float format without ends):
//   A grid that nests: in [amax / U, 2 amax / D], D the dominance constant, by the theorems of pruning.hpp.
//   Any grid: above amax / midpoint_0 every level is 0 and f is sum x^2, which it never exceeds. Below,
//   f(s) >= sum x^2 - 2 s X >= sum x^2 - 2 s L N amax, and a scale within 1 +- 0.7 of amax / L, with level L for the
//   largest element and 0 for the others, leaves at most sum x^2 - amax^2 / 2: so s >= amax / (4 L N).
// A set that ends at `most`: where the grid nests every s <= most / 2 has its double. For any grid, if amax >= L most,
//   the same at s = most leaves at most sum x^2 - L most amax: so s >= most / (2 N). A set that begins at `least`:
//   where the grid nests every s >= 2 least has its half; otherwise nothing changes.
//
// Binary64: a statistic, within some N 2^-52 of sum x^2, and no promise of bits. About N points are left to sort.
#pragma once

#include <vector>

#include "formats/block_format.hpp"
#include "search/pruning.hpp"
#include "sim/grid.hpp"

namespace fp4scope::search {

/// What a real scale is chosen for: the levels, the factor of magnitudes that meet them, pruning.hpp's constants.
struct RealSpace {
  sim::Grid grid;
  double factor;
  Nesting nesting;
};

/// One for each element type that a block may choose: of IF4 E2M1, then INT4. Elements have at most 4 bits.
std::vector<RealSpace> real_spaces(const formats::BlockFormat& format);

/// Scales of least squared error lie in [low, high], in a set that ends at m in [min(low, m / reach), high].
struct ScaleWindow {
  double low, high, reach;
};

/// The window of n values up to amax > 0.
ScaleWindow scale_window(const RealSpace& space, float amax, int n);

struct RealScale {
  double scale = 0;  ///< 0 for an all-zero block
  double sse = 0;    ///< sum of squared residuals at that scale
  int space = 0;     ///< which element type
};

/// sum (|x_i| - s q_i)^2 with nearest levels; s > 0.
double squared_error(const RealSpace& space, const float* x, int n, double scale);

/// Whether one squared error is below another by more than what binary64 leaves in doubt at a real scale, a few N 2^-52
/// of sum x^2.
bool clearly_less(double sse, double other, const float* x, int n);

/// The best real scale in [least, most], 0 <= least <= most, most > 0, for x [n], n up to max_block, finite. Of several
/// the smallest, as with codes, as far as binary64 tells.
RealScale real_scale(const RealSpace& space, const float* x, int n, double least = 0, double most = __builtin_inf());

/// The same over all element types; of equals the first.
RealScale real_scale(const std::vector<RealSpace>& spaces, const float* x, int n, double least = 0,
                     double most = __builtin_inf());

}  // namespace fp4scope::search
