// What a block's scale search ranges over: the element grid, the scale format's values, the tensor scale.
#pragma once

#include "formats/block_format.hpp"
#include "sim/grid.hpp"
#include "sim/scale.hpp"

namespace fp4scope::search {

/// Sizes for which the error bounds and bit budgets of this folder are stated.
inline constexpr int max_block = 1024;

struct SearchSpace {
  formats::Format scale;
  sim::Grid grid;
  double factor;  ///< of magnitudes before they meet the grid (sim::grid_factor): errors are all times `factor`
  double tensor_scale;
  sim::ScaleRule start;  ///< where a search begins: a good guess, which cannot change what it finds
  int first_code;        ///< the lowest positive code
  int last_code;
  double dominance;  ///< a block with amax <= dominance * s is served by s at least as well as by 2s; 0: unknown
  double scale_value[256];

  FP4SCOPE_HD constexpr double step(int code) const noexcept { return tensor_scale * scale_value[code]; }
  FP4SCOPE_HD constexpr double top() const noexcept { return grid.level[grid.levels - 1]; }
  FP4SCOPE_HD constexpr double magnitude(float x) const noexcept { return factor * sim::magnitude(x); }
};

/// One block: n values and the largest magnitude among them.
struct Block {
  const float* x;
  int n;
  float amax;
};

/// The dominance constant of a grid, derived rather than listed.
///
/// Theorem. Let L be the grid's largest level, let every doubled level 2 * level[k] <= L be a level too, and let D be
/// the least doubled level above L. If amax <= s * (L + D) / 2 then SSE(2s) >= SSE(s), and so for any loss that grows
/// with each element's error.
/// Proof, element by element, in units of s. For |x| <= L: a point of the doubled grid up to L is a point of the
/// grid; one above L is no nearer than L. For L < |x| <= (L + D) / 2: the grid's error is |x| - L; a doubled level up
/// to L errs at least as much; one above L errs by at least D - |x| >= |x| - L. QED
///
/// E2M1: (6 + 8) / 2 = 7. INT4: (7 + 8) / 2 = 7.5. A grid that does not nest has no such constant: 0.
FP4SCOPE_HD constexpr double dominance_constant(const sim::Grid& grid) noexcept {
  const double largest = grid.level[grid.levels - 1];
  for (int k = 0; k < grid.levels; ++k) {
    const double doubled = 2 * grid.level[k];
    if (doubled > largest) return (largest + doubled) / 2;
    bool nested = false;
    for (int j = 0; j < grid.levels; ++j) nested = nested || grid.level[j] == doubled;
    if (!nested) return 0;
  }
  return 0;
}

static_assert(dominance_constant(sim::make_grid(formats::e2m1)) == 7);
static_assert(dominance_constant(sim::make_grid(formats::int4)) == 7.5);

/// The code of half the value, or -1 where half of it is no code. From 2^(M+1) on, always one binade down; below,
/// values are code * 2^(1 - bias - M), and odd codes have no half.
FP4SCOPE_HD constexpr int half_code(const formats::Format& scale, int code) noexcept {
  if (!scale.has_zero) return code - 1;
  const int binade = 1 << scale.mantissa_bits;
  if (code >= 2 * binade) return code - binade;
  return code % 2 == 0 ? code / 2 : -1;
}

/// From this code on every code has a half.
FP4SCOPE_HD constexpr int first_always_halved(const formats::Format& scale) noexcept {
  return scale.has_zero ? 2 << scale.mantissa_bits : 1;
}

/// `integer`: the space of IF4's INT4 elements; the other one, of its E2M1 elements, has the same factor.
FP4SCOPE_HD constexpr SearchSpace make_space(const formats::BlockFormat& format, float tensor_scale,
                                             sim::ScaleRule start, bool integer = false) noexcept {
  const sim::Grid grid = sim::make_grid(format, integer);
  SearchSpace s = {format.scale,
                   grid,
                   sim::grid_factor(format),
                   tensor_scale,
                   start,
                   format.scale.has_zero ? 1 : 0,
                   static_cast<int>(format.scale.max_code),
                   dominance_constant(grid),
                   {}};
  for (int c = 0; c <= s.last_code; ++c)
    s.scale_value[c] = formats::decode_double(format.scale, static_cast<std::uint32_t>(c));
  return s;
}

/// The value nearest to a magnitude at a step, exact; `thresholds` are the step's.
FP4SCOPE_HD constexpr double nearest_value(const SearchSpace& space, const sim::Thresholds& thresholds, double step,
                                           double magnitude) noexcept {
  return step == 0 ? 0 : space.grid.level[sim::nearest_index(thresholds, magnitude)] * step;
}

namespace detail {
constexpr bool halves_are_halves(const formats::Format& f) {
  for (int c = f.has_zero ? 1 : 0; c <= static_cast<int>(f.max_code); ++c) {
    const int half = half_code(f, c);
    const double value = formats::decode_double(f, static_cast<std::uint32_t>(c));
    if (half >= 0 && 2 * formats::decode_double(f, static_cast<std::uint32_t>(half)) != value) return false;
    if (half < 0 && c >= first_always_halved(f)) return false;
    if (half < 0 && formats::encode(f, value / 2).status == formats::exact) return false;
  }
  return true;
}
}  // namespace detail
static_assert(detail::halves_are_halves(formats::e4m3) && detail::halves_are_halves(formats::ue8m0));
static_assert(detail::halves_are_halves(formats::ue5m3) && detail::halves_are_halves(formats::ue4m4));
static_assert(detail::halves_are_halves(formats::ue4m3) && detail::halves_are_halves(formats::e4m3_ieee));
static_assert(detail::halves_are_halves(formats::e3m4) && detail::halves_are_halves(formats::e5m2));

}  // namespace fp4scope::search
