// What a block's scale search ranges over: the element grid, the scale format's values, the tensor scale.
#pragma once

#include "formats/block_format.hpp"
#include "search/pruning.hpp"
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
  Nesting nesting;   ///< pruning.hpp
  double dominance;  ///< a block with amax <= dominance * s is served by s at least as well as by 2s; 0: unknown
  int exact_block;   ///< up to which size binary64 compares candidates of the usual range exactly (exact_block_size)
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

/// Candidates of the usual range have amax / s in [usual_low, usual_high] * top / 6: for E2M1 2.5 to 16. Two of
/// them are within a factor of 6.4.
inline constexpr double usual_low = 2.5, usual_high = 16;

/// The largest block for which T A - 2 B (sse.hpp) of two candidates a, b of the usual range is exact in binary64:
/// every intermediate result is a multiple of one unit and below 2^53 of it. 0: none.
///
/// Let s <= 6.4 s' be the two steps T v and T v', levels multiples of 2^-p up to `top`, m the first midpoint, d the
/// significant bits of a block scale, h = usual_high * top / 6. With the smaller step s
/// and its v = T^-1 s, w the last place of v, so v < 2^d w (the larger v has a last place that is no smaller):
///   An |x| whose level is not zero is at least m s: a multiple of u >= m s 2^-24, a power of two (24 bits, and a
///   floor). Terms of B: multiples of u 2^-p w; |2 B| <= 2 * 6.4 v * n * top * h s, since |x| <= h s. T has 24 bits: T
///   < 2^24 t. Terms of T A: multiples of t w^2 4^-p; |T A| <= T (6.4 v)^2 n top^2.
/// So |T A| + |2 B| <= K n s v with K = top (41 top + 12.8 h), and s v = T v^2 <= 2^(24 + 2 d) t w^2, and also
/// s v <= 2^(24 + d) u w / m: in the smaller of the two units at most n K max(4^p 2^(24 + 2 d), 2^(24 + p + d) / m).
/// NVFP4: 2^49.4 of 2^53 for blocks of 16, 2^52.4 for 128. All are powers of two, so one unit divides the other.
FP4SCOPE_HD constexpr int exact_block_size(const sim::Grid& grid, double factor, int scale_bits) noexcept {
  if (grid.levels < 2 || factor != 1) return 0;  // IF4 compares candidates of two grids
  const double top = grid.level[grid.levels - 1];
  const double k = top * (41 * top + 12.8 * usual_high * top / 6);
  int p = 0;
  for (int i = 1; i < grid.levels; ++i) {
    double scaled = grid.level[i] * formats::exp2_exact(p);
    while (p < 16 && scaled != static_cast<double>(static_cast<std::int64_t>(scaled))) scaled = 2 * scaled, ++p;
  }
  const double in_t = formats::exp2_exact(2 * p + 24 + 2 * scale_bits);
  const double in_u = formats::exp2_exact(24 + p + scale_bits) / grid.midpoint[0];
  const double largest = 0x1p53 / (k * (in_t > in_u ? in_t : in_u));
  return largest >= max_block ? max_block : static_cast<int>(largest);
}
static_assert(exact_block_size(sim::make_grid(formats::e2m1), 1, 4) >= 128);
static_assert(exact_block_size(sim::make_grid(formats::int4), 1, 4) >= 256);
static_assert(exact_block_size(sim::make_grid(formats::e2m1), 1, 1) >= 1024);  // MXFP4

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
                   nesting(grid),
                   dominance_constant(nesting(grid)),
                   exact_block_size(grid, sim::grid_factor(format), format.scale.mantissa_bits + 1),
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
