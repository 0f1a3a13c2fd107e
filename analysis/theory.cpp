#include "analysis/theory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "analysis/quantize.hpp"
#include "formats/error.hpp"
#include "sim/grid.hpp"

namespace fp4scope::analysis {
namespace {

/// Beyond it N(0, 1) has less than 2e-23, squared magnitudes included 2e-21.
constexpr double far = 10;

/// P^(n-1) below this is nothing: e(s, t) is at most 1, since no value is farther from its level than from level 0.
constexpr double nothing = 1e-20;

double density(double u) { return std::exp(-u * u / 2) / std::sqrt(2 * std::numbers::pi); }
double within(double t) { return std::erf(t / std::numbers::sqrt2); }

/// Gauss-Legendre on [-1, 1], the positive half: the roots of the Legendre polynomial by Newton's method.
struct Nodes {
  static constexpr int count = 16;
  std::array<double, count / 2> at, weight;
};

Nodes make_nodes() {
  Nodes nodes{};
  for (int i = 0; i < Nodes::count / 2; ++i) {
    double x = std::cos(std::numbers::pi * (i + 0.75) / (Nodes::count + 0.5)), slope = 1;
    for (int step = 0; step < 8; ++step) {  // quadratic from 3 digits on: 4 would do
      double before = 1, value = x;
      for (int k = 2; k <= Nodes::count; ++k) {
        const double next = ((2 * k - 1) * x * value - (k - 1) * before) / k;
        before = value;
        value = next;
      }
      slope = Nodes::count * (x * value - before) / (x * x - 1);
      x -= value / slope;
    }
    nodes.at[static_cast<std::size_t>(i)] = x;
    nodes.weight[static_cast<std::size_t>(i)] = 2 / ((1 - x * x) * slope * slope);
  }
  return nodes;
}

const Nodes& nodes_once() {
  static const Nodes nodes = make_nodes();
  return nodes;
}

/// Int_a^b of what is smooth there, in panels: P^1023 turns from 0 to 1 within 1; halving them moves 1e-14.
template <class Integrand>
double integrate(double a, double b, const Integrand& integrand) {
  const Nodes& nodes = nodes_once();
  constexpr double panel = 0.5;
  if (!(b > a)) return 0;
  const int panels = static_cast<int>(std::ceil((b - a) / panel));
  const double half = (b - a) / (2 * panels);
  double sum = 0;
  for (int p = 0; p < panels; ++p) {
    const double middle = a + (2 * p + 1) * half;
    for (std::size_t i = 0; i < nodes.at.size(); ++i) {
      const double off = half * nodes.at[i];
      sum += nodes.weight[i] * (integrand(middle - off) + integrand(middle + off));
    }
  }
  return half * sum;
}

/// Int_a^b (xq - x)^2 weight(x) dx at scale s, 0 <= a: every level over the values that it is nearest to.
template <class Weight>
double squared_error(const sim::Grid& grid, double s, double a, double b, const Weight& weight) {
  double sum = 0;
  for (int k = 0; k < grid.levels; ++k) {
    const double from = k == 0 ? a : std::clamp(grid.midpoint[k - 1] * s, a, b);
    const double to = k + 1 == grid.levels ? b : std::clamp(grid.midpoint[k] * s, a, b);
    const double value = grid.level[k] * s;
    sum += integrate(from, to, [&](double u) { return (u - value) * (u - value) * weight(u); });
  }
  return sum;
}

/// e(s, t) of the header.
double error_within(const sim::Grid& grid, double s, double t) {
  return squared_error(grid, s, 0, std::min(t, far), [](double u) { return 2 * density(u); });
}

double top_of(const sim::Grid& grid) { return grid.level[grid.levels - 1]; }

/// One code of the scale: its s, and the largest magnitudes that it serves, both in units of sigma.
struct Piece {
  double s, from, to;
};

double exact_piece(const sim::Grid& grid, int n, const Piece& piece) {
  const double above = std::pow(within(piece.to), n - 1), below = std::pow(within(piece.from), n - 1);
  if (above < nothing) return 0;
  return error_within(grid, piece.s, piece.to) * above -
         (below < nothing ? 0 : error_within(grid, piece.s, piece.from) * below);
}

double published_piece(const sim::Grid& grid, int n, const Piece& piece) {
  if (piece.s == 0) return exact_piece(grid, n, piece);
  const double cut = top_of(grid) * piece.s;
  const double share = std::pow(within(piece.to), n) - std::pow(within(piece.from), n);
  const double others = share * error_within(grid, piece.s, cut) / within(cut) * (n - 1) / n;
  return others + squared_error(grid, piece.s, piece.from, piece.to,
                                [n](double u) { return 2 * std::pow(within(u), n - 1) * density(u); });
}

/// Where a quotient leaves `value` for `next`, the value of the code above.
double boundary(double value, double next, formats::Rounding rounding) {
  using formats::Rounding;
  if (rounding == Rounding::up) return value;
  if (rounding == Rounding::toward_zero || rounding == Rounding::down) return next;
  return value + (next - value) / 2;
}

double coded_scale_error(const TheoryQuestion& q, const sim::Grid& grid) {
  const double magnitude = q.rule.divisor / q.rule.numerator * (q.tensor_scale / q.sigma);  // of a quotient of 1
  const formats::Format& scale = q.format.scale;
  double sum = 0, from = 0;
  for (std::uint32_t code = 0; code <= scale.max_code && from < far; ++code) {
    const double value = formats::decode_double(scale, code);
    const double end = code == scale.max_code
                           ? far
                           : magnitude * boundary(value, formats::decode_double(scale, code + 1), q.rule.rounding);
    const Piece piece = {value * q.tensor_scale / q.sigma, from, std::min(end, far)};
    if (piece.to > from) sum += (q.cut_at_top ? published_piece : exact_piece)(grid, q.block, piece);
    from = piece.to;
  }
  return sum;
}

double real_scale_error(const TheoryQuestion& q, const sim::Grid& grid) {
  const int n = q.block;
  const double ratio = q.rule.numerator / q.rule.divisor;  // s / t
  double largest = std::numeric_limits<double>::infinity();
  for (int k = 0; k < grid.levels; ++k) largest = std::min(largest, std::abs(grid.level[k] * ratio - 1));
  return integrate(0, far, [&](double t) {
    const double others = std::pow(within(t), n - 1) * density(t);
    if (others < nothing) return 0.0;
    const double cut = q.cut_at_top ? top_of(grid) * ratio * t : t;
    const double error = error_within(grid, ratio * t, cut) / within(cut);
    return 2 * others * ((n - 1) * error + largest * largest * t * t);
  });
}

/// Wide enough for binary32 and narrow enough for products of three to stay within binary64.
bool usable(double x) { return x >= 1e-60 && x <= 1e60; }

void check(const TheoryQuestion& q) {
  if (q.format.element.bits > 4 || q.format.selects()) {
    throw Error(q.format.name, "no expected error for its elements", "there is for grids of at most 4 bits, not if4");
  }
  if (q.rule.rounding == formats::Rounding::stochastic) {
    throw Error(q.format.name, "no expected error for scales rounded stochastically");
  }
  if (q.block < 2) throw Error(q.format.name, fmt::format("a block of {}", q.block), "at least 2");
  for (const double x : {q.sigma, q.tensor_scale, q.rule.divisor, q.rule.numerator}) {
    if (!usable(x)) throw Error(q.format.name, fmt::format("{} as sigma or a scale", x), "1e-60 to 1e60");
  }
}

}  // namespace

double expected_relative_mse(const TheoryQuestion& question) {
  check(question);
  const sim::Grid grid = sim::make_grid(question.format);
  return question.real_scale ? real_scale_error(question, grid) : coded_scale_error(question, grid);
}

double octave_mean(TheoryQuestion question, int points) {
  const double sigma = question.sigma;
  double sum = 0;
  for (int i = 0; i < points; ++i) {
    question.sigma = sigma * std::exp2(static_cast<double>(i) / points);
    sum += expected_relative_mse(question);
  }
  return sum / points;
}

double best_reach(const formats::BlockFormat& format, int block, double low, double high) {
  TheoryQuestion question = {.format = format, .block = block};
  question.format.scale = formats::ue8m0;
  const auto mean = [&](double reach) {
    question.rule = sim::reach_rule(reach);
    return octave_mean(question);
  };
  constexpr int steps = 40;
  const auto at = [&](int i) { return low + (high - low) * i / steps; };
  int best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i <= steps; ++i) {
    const double here = mean(at(i));
    if (here < least) best = i;
    least = std::min(least, here);
  }
  // Thirds of the two steps around the least: one valley there.
  double from = at(std::max(0, best - 1)), to = at(std::min(steps, best + 1));
  while (to - from > 1e-3) {
    const double third = (to - from) / 3;
    if (mean(from + third) < mean(to - third)) to -= third;
    else from += third;
  }
  return (from + to) / 2;
}

double expected_relative_mse(const QuantizeConfig& config, float tensor_scale, double sigma) {
  const bool applies = config.method->kind == search::MethodKind::rule && !config.recipe && !config.tiles &&
                       config.rounding == formats::Rounding::nearest_even && config.format->element.bits <= 4 &&
                       !config.format->selects();
  if (!applies || !usable(sigma) || !usable(static_cast<double>(tensor_scale)))
    return std::numeric_limits<double>::quiet_NaN();
  return expected_relative_mse({.format = *config.format,
                                .block = config.block,
                                .rule = config.method->rule,
                                .tensor_scale = static_cast<double>(tensor_scale),
                                .sigma = sigma});
}

}  // namespace fp4scope::analysis
