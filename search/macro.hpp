// Macro block scaling: blocks whose scales are powers of two share a mantissa, one for 128 columns of a row (MBS-S and
// MBS-D of arXiv 2603.08713; the correction of arXiv 2605.20402).
//
//   f = 1 + m / 256,   code = rule(f * block amax),   element = level nearest to f |x| / (T v),   value = T v element /
//   f
//
//   macro         m = the first 8 mantissa bits of top / (macro block's amax), top the largest level: f brings that
//   amax
//                 to just below top times a power of two
//   macro_search  m = 16 j, j = 0 .. 15: the least squared error of the macro block, ties to the lowest j
//
// All in real numbers. Bit budget: f |x| has 9 + 24 bits, midpoint * T * v at most 38 (sim/grid.hpp): both are exact in
// binary64, and elements are decided exactly. top / amax: real quotient and boundary (256 + m) 2^k are equal or differ
// by 2^-33 of themselves, so that binary64's quotient has the same first 8 bits. A macro block is counted from the
// row's start; the last of a row may be short. A block that isn't finite has no part in m.
#pragma once

#include "search/exact_sum.hpp"
#include "search/search.hpp"
#include "search/space.hpp"

namespace fp4scope::search {

inline constexpr int macro_columns = 128;

FP4SCOPE_HD constexpr std::int64_t macro_blocks(std::int64_t cols) noexcept {
  return (cols + macro_columns - 1) / macro_columns;
}

/// f.
FP4SCOPE_HD constexpr double macro_factor(int m) noexcept { return 1 + m / 256.0; }

/// The rule on data that is f times as large.
FP4SCOPE_HD constexpr sim::ScaleRule macro_rule(sim::ScaleRule rule, int m) noexcept {
  rule.numerator *= macro_factor(m);
  return rule;
}

/// m of method macro. amax > 0, finite.
FP4SCOPE_HD constexpr int macro_mantissa(double top, float amax) noexcept {
  const double quotient = top / static_cast<double>(amax);
  return static_cast<int>(__builtin_bit_cast(std::uint64_t, quotient) >> 44 & 0xFF);
}
static_assert(macro_mantissa(6, 6) == 0 && macro_mantissa(6, 4) == 128 && macro_mantissa(6, 0x1.800002p0f) == 255);

/// Up to 128 columns of a row: whole blocks of `block` columns and their maxima.
struct MacroBlock {
  const float* x;
  int columns;
  int block;
  float amax[macro_columns / 2];  ///< of each block; NaN or Inf for one that isn't finite

  FP4SCOPE_HD constexpr int count() const noexcept { return columns / block; }
};

FP4SCOPE_HD constexpr MacroBlock make_macro_block(const float* x, int columns, int block) noexcept {
  MacroBlock macro = {x, columns, block, {}};
  for (int b = 0; b < macro.count(); ++b) macro.amax[b] = sim::amax(x + b * block, block);
  return macro;
}

/// Whether it is a number: amax is never negative.
FP4SCOPE_HD constexpr bool is_finite(float amax) noexcept { return amax < __builtin_inff(); }

/// The largest magnitude of the finite blocks.
FP4SCOPE_HD constexpr float finite_amax(const MacroBlock& macro) noexcept {
  float largest = 0;
  for (int b = 0; b < macro.count(); ++b) {
    if (is_finite(macro.amax[b]) && macro.amax[b] > largest) largest = macro.amax[b];
  }
  return largest;
}

/// visit(256 (f |x| - T v q)) over the elements of the finite blocks, in order: 256 times f times the errors. Each is
/// exact: with q = 0 it has 33 bits; else (256 + m) |x| is at least T v 2^8 / 4, both numbers are multiples of
/// T v 2^(8 - 36), rounded down to a power of two, and at most 2^3 T v 2^8, unless the scale is the format's largest.
template <class Visit>
FP4SCOPE_HD constexpr void for_each_macro_error(const SearchSpace& space, const MacroBlock& macro, int m,
                                                const Visit& visit) {
  const sim::ScaleRule rule = macro_rule(space.start, m);
  for (int b = 0; b < macro.count(); ++b) {
    if (!is_finite(macro.amax[b])) continue;
    const int code = sim::scale_code(space.scale, rule, macro.amax[b], static_cast<float>(space.tensor_scale));
    const double step = 256 * space.step(code);
    const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
    const float* const x = macro.x + b * macro.block;
    for (int i = 0; i < macro.block; ++i) {
      const double magnitude = (256 + m) * sim::magnitude(x[i]);
      visit(magnitude - nearest_value(space, thresholds, step, magnitude));
    }
  }
}

/// The sum of those squares, each rounded, added in order: within 129 roundings of 2^-53.
FP4SCOPE_HD constexpr double macro_energy(const SearchSpace& space, const MacroBlock& macro, int m) {
  double sum = 0;
  for_each_macro_error(space, macro, m, [&sum](double e) { sum += e * e; });
  return sum;
}

/// Adds sign * (factor e)^2 for all errors e, without rounding: factor e has at most 9 + 39 bits, its halves 26 and 22.
FP4SCOPE_HD constexpr void add_macro_squares(ExactSum& sum, const SearchSpace& space, const MacroBlock& macro, int m,
                                             double factor, double sign) {
  for_each_macro_error(space, macro, m, [&](double e) {
    const double product = factor * e, spread = product * 0x8000001p0;  // Veltkamp's splitting
    const double high = spread - (spread - product), low = product - high;
    sum.add(sign * high * high);
    sum.add(sign * 2 * high * low);
    sum.add(sign * low * low);
  });
}

/// The sign of the squared error at m = a less that at m = b, from their energies E: squared errors are E / (256 +
/// m)^2. Energies times whole numbers of 18 bits are within 130 roundings, 2^-45, of what they stand for: where they
/// differ by more than 2^-44, they decide.
FP4SCOPE_HD constexpr int compare_macro(const SearchSpace& space, const MacroBlock& macro, int a, double energy_a,
                                        int b, double energy_b) {
  const double at_a = energy_a * ((256 + b) * (256 + b)), at_b = energy_b * ((256 + a) * (256 + a));
  const double difference = at_a - at_b, least = 0x1p-44 * (at_a + at_b);
  if (difference > least) return 1;
  if (difference < -least) return -1;
  ExactSum sum;
  add_macro_squares(sum, space, macro, a, 256 + b, 1);
  add_macro_squares(sum, space, macro, b, 256 + a, -1);
  return sum.sign();
}

/// m of method macro_search.
FP4SCOPE_HD constexpr int search_macro_mantissa(const SearchSpace& space, const MacroBlock& macro) {
  int best = 0;
  double energy = macro_energy(space, macro, 0);
  for (int m = 16; m < 256; m += 16) {
    const double other = macro_energy(space, macro, m);
    if (compare_macro(space, macro, m, other, best, energy) >= 0) continue;
    best = m;
    energy = other;
  }
  return best;
}

/// Scales and factors of a method that has macro blocks. x [rows, cols] row-major, cols a multiple of task.block, which
/// divides 128.
SearchResult search_macro(const SearchTask& task, const float* x, std::int64_t rows, std::int64_t cols);

}  // namespace fp4scope::search
