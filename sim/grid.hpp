// The non-negative values of an element of up to 4 bits and the exact nearest one at a given step.
//
//   nearest(|x|, step) = argmin_q | |x| - q * step |,   step = tensor_scale * block_scale, a tie to the even code
//
// |x| is compared with midpoint * step. Bit budget: midpoint 9 bits (of the built-in grids 4) * block scale 5
// * tensor scale 24 = 38 at most of binary64's 53, so the product is exact, the comparison is exact, and no flag,
// contraction or device can change it.
#pragma once

#include <cstdint>

#include "formats/block_format.hpp"

namespace fp4scope::sim {

struct Grid {
  int levels = 0;           ///< 8 for every 4-bit element
  double level[8] = {};     ///< level[k] is the value of code k, ascending from 0
  double midpoint[7] = {};  ///< between level k and k + 1
};

/// Midpoints between the levels; beyond the last, infinitely far.
FP4SCOPE_HD constexpr void set_midpoints(Grid& g) noexcept {
  for (int k = 0; k < 7; ++k) g.midpoint[k] = k + 1 < g.levels ? (g.level[k] + g.level[k + 1]) / 2 : __builtin_inf();
}

/// The grid of a 4-bit element, whose codes 0 .. max_code are its non-negative values in ascending order.
FP4SCOPE_HD constexpr Grid make_grid(const formats::Format& element) noexcept {
  Grid g;
  g.levels = static_cast<int>(element.max_code) + 1;
  for (int k = 0; k < g.levels; ++k) g.level[k] = formats::decode_double(element, static_cast<std::uint32_t>(k));
  set_midpoints(g);
  return g;
}

/// The grid of a block format whose elements have at most 4 bits; `integer` for the INT4 that IF4 may select. Levels
/// and magnitudes of a selecting format are both taken times 7: FP 7 * level, INT 6 * k, so that neither is a fraction.
/// Wider elements have no grid here: a single level 0.
FP4SCOPE_HD constexpr Grid make_grid(const formats::BlockFormat& format, bool integer = false) noexcept {
  Grid g;
  if (format.element.bits > 4) {
    g.levels = 1;
    return g;
  }
  g.levels = format.levels.count;
  for (int k = 0; k < g.levels; ++k) g.level[k] = format.levels.value[k];
  if (g.levels == 0) g = make_grid(format.element);
  if (!format.selects()) {
    set_midpoints(g);
    return g;
  }
  for (int k = 0; k < g.levels; ++k) g.level[k] = integer ? 6 * k : 7 * g.level[k];
  set_midpoints(g);
  return g;
}

/// What magnitudes are multiplied with before they meet a format's grid: 27 bits at most.
FP4SCOPE_HD constexpr double grid_factor(const formats::BlockFormat& format) noexcept {
  return format.selects() ? 7 : 1;
}

/// The seven thresholds midpoint * step of one block scale.
struct Thresholds {
  double at[7] = {};
};

FP4SCOPE_HD constexpr Thresholds make_thresholds(const Grid& grid, double step) noexcept {
  Thresholds t;
  for (int k = 0; k < 7; ++k) t.at[k] = grid.midpoint[k] * step;
  return t;
}

/// The code of the level nearest to `magnitude` >= 0; beyond the largest level, the largest. A magnitude passes
/// threshold k by being above it, or on it when k is odd: the tie between codes k and k + 1 goes to the even one.
FP4SCOPE_HD constexpr int nearest_index(const Thresholds& t, double magnitude) noexcept {
  return (magnitude > t.at[0]) + (magnitude >= t.at[1]) + (magnitude > t.at[2]) + (magnitude >= t.at[3]) +
         (magnitude > t.at[4]) + (magnitude >= t.at[5]) + (magnitude > t.at[6]);
}

/// |x|, exact, without a run-time library.
FP4SCOPE_HD constexpr double magnitude(float x) noexcept {
  return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, x) & 0x7FFFFFFFu);
}

/// max |x| over n values; 0 for none. NaN and Inf are the caller's business.
FP4SCOPE_HD constexpr float amax(const float* x, std::int64_t n) noexcept {
  std::uint32_t bits = 0;  // non-negative floats order as their bits do
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t b = __builtin_bit_cast(std::uint32_t, x[i]) & 0x7FFFFFFFu;
    bits = b > bits ? b : bits;
  }
  return __builtin_bit_cast(float, bits);
}

static_assert(make_grid(formats::e2m1).levels == 8 && make_grid(formats::int4).levels == 8);
static_assert(nearest_index(make_thresholds(make_grid(formats::e2m1), 1), 2.5) == 4);  // the tie 2 | 3 goes to 2
static_assert(nearest_index(make_thresholds(make_grid(formats::e2m1), 1), 3.5) == 6);  // the tie 3 | 4 goes to 4

}  // namespace fp4scope::sim
