// The squared error by cause: against a twin that works every variant out by brute force, on blocks made by hand where
// one step is to blame, and as exact sums of what was measured.
#include "analysis/causes.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "analysis/curvature.hpp"
#include "analysis/distributions.hpp"
#include "analysis/metrics.hpp"

namespace fp4scope::analysis {
namespace {

constexpr unsigned T = 1, B = 2, U = 4, O = 8;  // ideal: tensor scale, block scale, underflow, overflow
constexpr std::size_t saturation_bit = 16;

Matrix normal(std::int64_t rows, std::int64_t cols, const char* dtype = "f32", std::uint64_t seed = 1) {
  Distribution d;
  d.rows = rows;
  d.cols = cols;
  d.seed = seed;
  d.dtype = dtype;
  return sample(d);
}

/// Rows of all magnitudes from 2^low to 2^high.
Matrix spread(std::int64_t rows, std::int64_t cols, int low, int high) {
  Matrix m = normal(rows, cols);
  for (std::int64_t i = 0; i < m.size(); ++i) {
    const int exponent = low + static_cast<int>(i / cols * (high - low) / std::max<std::int64_t>(rows - 1, 1));
    float& x = m.data[static_cast<std::size_t>(i)];
    x = std::ldexp(x, exponent);
  }
  return m;
}

/// One element in eleven: best scales far from the rule's.
Matrix sparse(Matrix m) {
  for (std::size_t i = 0; i < m.data.size(); ++i) m.data[i] = i % 11 == 0 ? m.data[i] : 0;
  return m;
}

QuantizeWords words(const char* format, const char* method, const char* tensor_scale, int block = 0) {
  QuantizeWords w;
  w.format = format;
  w.scale = method;
  w.tensor_scale = tensor_scale;
  w.block = block;
  return w;
}

Causes causes(const QuantizeWords& w, const Matrix& m) { return causes_of(m, quantize(parse_config(w), m, "m")); }

double at(const std::array<double, cause_count>& values, Cause c) { return values[static_cast<std::size_t>(c)]; }

// The twin. Scales are rounded with ldexp and nearbyint, levels found one by one, searches look at everything.

using Levels = std::vector<double>;

/// The tensor scale as a ratio, so that y is rounded once.
struct Ratio {
  double over, under = 1;
  double value() const { return over / under; }
};

struct Twin {
  const Quantized& q;
  std::vector<Levels> grids;
  int mantissa;
  double least, largest;  ///< normal scales

  explicit Twin(const Quantized& quantized) : q(quantized) {
    const formats::BlockFormat& f = *q.config.format;
    Levels levels;
    for (std::uint32_t code = 0; code <= f.element.max_code; ++code) {
      levels.push_back(f.levels.count ? f.levels.value[code] : formats::decode_double(f.element, code));
    }
    grids.push_back(levels);
    if (f.selects()) grids.push_back({0, 6 / 7.0, 12 / 7.0, 18 / 7.0, 24 / 7.0, 30 / 7.0, 36 / 7.0, 6});
    mantissa = f.scale.mantissa_bits;
    least = std::ldexp(1, f.scale.min_exponent());
    largest = formats::decode_double(f.scale, f.scale.max_code);
  }

  bool has_zero() const { return q.config.format->scale.has_zero; }

  double round(double y, formats::Rounding mode, bool ends_below, bool ends_above) const {
    if (y == 0) return 0;
    int exponent = std::ilogb(y);
    if (ends_below) exponent = std::max(exponent, std::ilogb(least));
    const double places = std::ldexp(y, mantissa - exponent);
    double kept = std::nearbyint(places);
    if (mode == formats::Rounding::toward_zero) kept = std::floor(places);
    if (mode == formats::Rounding::up) kept = std::ceil(places);
    double value = std::ldexp(kept, exponent - mantissa);
    if (ends_below && !has_zero()) value = std::max(value, least);
    return ends_above ? std::min(value, largest) : value;
  }

  double rule(const sim::ScaleRule& r, double amax, unsigned ideal, Ratio t) const {
    const double y = amax * t.under / (r.divisor * t.over), code = round(y, r.rounding, true, true);
    const bool over = round(y, r.rounding, true, false) > largest;
    const bool under = has_zero() ? code < least : y < least;
    if ((over && !(ideal & O)) || (under && !(ideal & U))) return t.value() * code;
    if (ideal & B) return t.value() * y;
    return t.value() * round(y, r.rounding, !(ideal & U), !(ideal & O));
  }

  static double nearest(const Levels& levels, double magnitude, double step) {
    double best = 0;
    for (const double level : levels) {
      if (std::fabs(magnitude - level * step) < std::fabs(magnitude - best)) best = level * step;
    }
    return best;
  }

  double error(const std::vector<float>& x, std::size_t grid, double step, search::Select by) const {
    double sum = 0, most = 0;
    for (const float value : x) {
      const double e = std::fabs(std::fabs(value) - nearest(grids[grid], std::fabs(value), step));
      sum += by == search::Select::mse ? e * e : e;
      most = std::max(most, e);
    }
    return by == search::Select::absmax ? most : sum;
  }

  /// Every scale of the format, or of what is left of it around y.
  std::vector<double> all_scales(double y, unsigned ideal) const {
    const int lowest = std::ilogb(least), highest = std::ilogb(largest), here = std::ilogb(y);
    const int first = ideal & U ? std::min(here, highest) - 14 : lowest;
    const int last = ideal & O ? std::max(here, lowest) + 8 : highest;
    std::vector<double> scales;
    for (int k = 1; has_zero() && !(ideal & U) && k < 1 << mantissa; ++k) {
      scales.push_back(std::ldexp(k, lowest - mantissa));
    }
    for (int e = first; e <= std::min(last, here + 20); ++e) {
      for (int k = 0; k < 1 << mantissa; ++k) {
        const double scale = std::ldexp((1 << mantissa) + k, e - mantissa);
        if (ideal & O || scale <= largest) scales.push_back(scale);
      }
    }
    return scales;
  }

  /// Every scale at which a real search may end: the best of each assignment of levels, and the ends.
  std::vector<double> real_scales(const std::vector<float>& x, const Levels& levels, double low, double high) const {
    std::vector<double> points = {0};
    for (const float value : x) {
      for (std::size_t k = 1; k < levels.size(); ++k) {
        if (value != 0) points.push_back(2 * std::fabs(value) / (levels[k - 1] + levels[k]));
      }
    }
    std::sort(points.begin(), points.end());
    points.push_back(2 * points.back());
    std::vector<double> scales = {std::clamp(points[1] / 2, low, high)};
    for (std::size_t i = 1; i < points.size(); ++i) {
      const double middle = (points[i - 1] + points[i]) / 2;
      double product = 0, square = 0;
      for (const float value : x) {
        const double level = nearest(levels, std::fabs(value), middle) / middle;
        product += level * std::fabs(value);
        square += level * level;
      }
      if (square > 0) scales.push_back(std::clamp(product / square, low, high));
    }
    return scales;
  }

  struct Found {
    double step;
    std::size_t grid;
  };

  Found best(const std::vector<float>& x, double amax, unsigned ideal, Ratio t) const {
    std::vector<Found> all;
    for (const double scale : all_scales(amax / (grids[0].back() * t.value()), ideal)) {
      if (ideal & B && (ideal & U || scale >= least)) continue;
      for (std::size_t grid = 0; grid < grids.size(); ++grid) all.push_back({t.value() * scale, grid});
    }
    const double low = ideal & U ? 0 : t.value() * least, high = ideal & O ? INFINITY : t.value() * largest;
    for (std::size_t grid = 0; ideal & B && grid < grids.size(); ++grid) {
      for (const double step : real_scales(x, grids[grid], low, high)) all.push_back({step, grid});
    }
    // Levels at one scale are often levels at another, and then it is the lower scale.
    const double equal = 1e-13 * error(x, 0, 0, search::Select::mse);
    double least_error = INFINITY;
    Found found = {0, 0};
    for (const Found& candidate : all) {
      const double e = error(x, candidate.grid, candidate.step, search::Select::mse);
      if (e < least_error - equal) least_error = e, found = candidate;
    }
    return found;
  }

  Found choose(const std::vector<float>& x, double amax, unsigned ideal) const {
    const QuantizeConfig& c = q.config;
    Ratio t = {q.tensor_scale};
    if (ideal & T && c.scaling == TensorScaling::amax) t = {q.amax, c.format->element_max() * c.scale_max};
    const auto kind = c.method->kind;
    if (kind == search::MethodKind::sse || kind == search::MethodKind::exhaustive) return best(x, amax, ideal, t);
    const double first = rule(c.method->rule, amax, ideal, t);
    if (kind == search::MethodKind::rule) return {first, 0};
    const double four = rule(sim::four_rule, amax, ideal, t);
    const bool to_four = kind == search::MethodKind::four_over_six;
    const double other = to_four ? error(x, 0, four, c.select) : error(x, 1, first, c.select);
    // A largest error is often the same at both, up to the rounding of the scales.
    if (!(other < (1 - 1e-13) * error(x, 0, first, c.select))) return {first, 0};
    return to_four ? Found{four, 0} : Found{first, 1};
  }
};

struct TwinSums {
  double saturated = 0, zero = 0, grid = 0;
};

std::vector<TwinSums> twin(const Matrix& m, const Quantized& q) {
  const Twin t(q);
  std::vector<TwinSums> sums(16);
  for (std::int64_t row = 0; row < m.rows; row += q.config.tile_rows()) {
    for (std::int64_t col = 0; col < m.cols; col += q.config.block) {
      std::vector<float> x;
      for (std::int64_t r = row; r < std::min(row + q.config.tile_rows(), m.rows); ++r) {
        for (std::int64_t c = col; c < std::min(col + q.config.block, m.cols); ++c) x.push_back(m.row(r)[c]);
      }
      const float amax = sim::amax(x.data(), static_cast<std::int64_t>(x.size()));
      for (unsigned ideal = 0; amax > 0 && ideal < 16; ++ideal) {
        const Twin::Found found = t.choose(x, amax, ideal);
        for (const float value : x) {
          const double magnitude = std::fabs(value);
          const double stored = Twin::nearest(t.grids[found.grid], magnitude, found.step);
          const bool clipped = found.step > 0 && magnitude > t.grids[found.grid].back() * found.step;
          TwinSums& s = sums[ideal];
          (clipped ? s.saturated : stored == 0 ? s.zero : s.grid) += (magnitude - stored) * (magnitude - stored);
        }
      }
    }
  }
  return sums;
}

void expect_twin(const QuantizeConfig& config, const Matrix& m, const std::string& what) {
  const Quantized q = quantize(config, m, "m");
  const Causes found = causes_of(m, q);
  EXPECT_TRUE(found.chain) << what;
  const std::vector<TwinSums> expected = twin(m, q);
  for (std::size_t set = 0; set < 128; ++set) {
    const TwinSums& s = expected[set % 16];
    const double left = (set & 16 ? 0 : s.saturated) + (set & 32 ? 0 : s.zero) + (set & 64 ? 0 : s.grid);
    EXPECT_NEAR(found.remaining[set], left, 1e-11 * (s.saturated + s.zero + s.grid)) << what << ", ideal steps " << set;
  }
}

TEST(Causes, are_those_of_a_brute_force_twin) {
  const Matrix wide = spread(32, 24, -17, 14), tiny = spread(16, 24, -140, -120);
  const struct {
    const char *format, *method, *tensor_scale;
  } rows[] = {{"nvfp4", "naive", "amax"},     {"nvfp4", "static4", "none"},   {"nvfp4", "sse", "amax"},
              {"nvfp4", "sse", "none"},       {"nvfp4", "exhaustive", "0.3"}, {"nvint4", "naive", "none"},
              {"nvint4", "sse", "none"},      {"if4", "sse", "none"},         {"mxfp4", "floor", "none"},
              {"mxfp4", "even", "none"},      {"mxfp4", "rceil", "none"},     {"mxfp4", "sse", "none"},
              {"mxint4", "sse", "none"},      {"mxint8", "naive", "none"},    {"mxfp6_e2m3", "rceil", "none"},
              {"mxfp8_e4m3", "floor", "none"}};
  for (const auto& [format, method, tensor_scale] : rows) {
    const QuantizeConfig config = parse_config(words(format, method, tensor_scale, 16));
    const std::string what = std::string(format) + " " + method + " " + tensor_scale;
    expect_twin(config, wide, what);
    expect_twin(config, normal(4, 48), what + ", normal");
    if (config.format->scale.mantissa_bits == 0) expect_twin(config, tiny, what + ", tiny");
  }
}

TEST(Causes, of_searches_near_the_ends_of_a_format_are_those_of_the_twin) {
  for (const char* format : {"nvfp4", "nvint4", "if4"}) {
    QuantizeWords w = words(format, "sse", "amax");
    expect_twin(parse_config(w), sparse(spread(64, 32, -17, 14)), std::string("sparse ") + format);
    for (const int scale_max : {3000, 700}) {
      w.scale_max = scale_max;  // above the largest scale, so that blocks of large values saturate
      expect_twin(parse_config(w), normal(8, 32), std::string(format) + " from " + std::to_string(scale_max));
      expect_twin(parse_config(w), sparse(normal(24, 64)),
                  std::string("sparse ") + format + " from " + std::to_string(scale_max));
    }
  }
  // Fifteen at 6 * 416 outweigh one beyond 6 * 448, so that the best code lies below the largest.
  Matrix outweighed = {1, 16, std::vector<float>(16, 2497)};
  outweighed.data[3] = 3601;
  QuantizeWords w = words("nvfp4", "sse", "amax");
  w.scale_max = 600;
  EXPECT_EQ(quantize(parse_config(w), outweighed, "m").scales[0], 125);
  expect_twin(parse_config(w), outweighed, "outweighed");
}

TEST(Causes, of_methods_that_choose_are_those_of_the_twin_by_every_criterion) {
  const Matrix m = spread(32, 40, -17, 14);
  for (const char* select : {"mse", "mae", "absmax"}) {
    for (const char* tensor_scale : {"amax", "none"}) {
      QuantizeWords w = words("nvfp4", "4over6", tensor_scale);
      w.select = select;
      expect_twin(parse_config(w), m, std::string("4over6 ") + select + " " + tensor_scale);
      w = words("if4", "naive", tensor_scale);
      w.select = select;
      expect_twin(parse_config(w), m, std::string("if4 ") + select + " " + tensor_scale);
    }
  }
}

TEST(Causes, of_square_blocks_and_of_formats_of_ones_own_are_those_of_the_twin) {
  for (const char* method : {"naive", "4over6", "sse"}) {
    QuantizeWords w = words("nvfp4", method, "none", 4);
    w.tiles = true;
    expect_twin(parse_config(w), spread(30, 22, -17, 14), std::string("tiles ") + method);
  }
  // A scale of few exponents, and a grid that does not nest.
  const Formats own = parse_formats(
      "[format.narrow]\nelement = \"e2m1\"\nscale = \"e3m4\"\nscale_max = 8\n"
      "[format.uneven]\nlevels = [0, 1, 2, 3, 5, 8, 13, 21]\nscale = \"e3m4\"\nscale_max = 8\n",
      "own.toml");
  for (const char* format : {"narrow", "uneven"}) {
    for (const char* method : {"naive", "sse"}) {
      for (const char* tensor_scale : {"amax", "none"}) {
        const QuantizeConfig config = parse_config(words(format, method, tensor_scale, 8), own);
        expect_twin(config, spread(40, 24, -8, 10), std::string(format) + " " + method + " " + tensor_scale);
      }
    }
  }
}

// Made by hand: the levels of E2M1 times the quotient, so that the error is 0 where the scale is the quotient.

Matrix levels_times(double scale) {
  Matrix m = {1, 8, {}};
  for (const double level : {0.5, 1.0, 1.5, 2.0, 3.0, 4.0, -6.0, 0.0})
    m.data.push_back(static_cast<float>(level * scale));
  return m;
}

/// The scale step to blame: it alone removes the error, and so it does in order; the other scale steps change nothing.
void expect_to_blame(const Causes& c, Cause cause) {
  EXPECT_GT(c.error(), 0);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(c.alone(static_cast<Cause>(i)), i == static_cast<int>(cause) ? c.error() : 0) << cause_names[i];
  }
  for (int i = 0; i < cause_count; ++i) {
    EXPECT_EQ(c.in_order()[static_cast<std::size_t>(i)], i == static_cast<int>(cause) ? c.error() : 0)
        << cause_names[i];
  }
}

TEST(Causes, a_quotient_between_two_codes_is_the_block_scales) {
  expect_to_blame(causes(words("nvfp4", "naive", "none", 8), levels_times(33.0 / 32)), Cause::block_scale);
  expect_to_blame(causes(words("mxfp4", "rceil", "none", 8), levels_times(0.75)), Cause::block_scale);
}

TEST(Causes, a_subnormal_scale_is_underflow) {
  expect_to_blame(causes(words("nvfp4", "naive", "none", 8), levels_times(0x1.2p-7)), Cause::underflow);
}

TEST(Causes, a_scale_of_zero_is_underflow_and_its_elements_are_zeros) {
  const Causes c = causes(words("nvfp4", "naive", "none", 8), levels_times(0x1p-11));
  expect_to_blame(c, Cause::underflow);
  EXPECT_EQ(c.alone(Cause::zero), c.error());
  EXPECT_DOUBLE_EQ(at(c.shapley(), Cause::underflow), c.error() / 2);
  EXPECT_DOUBLE_EQ(at(c.shapley(), Cause::zero), c.error() / 2);
  EXPECT_EQ(at(c.shapley(), Cause::saturation), 0);
}

TEST(Causes, a_quotient_beyond_the_largest_code_is_overflow) {
  expect_to_blame(causes(words("nvfp4", "naive", "none", 8), levels_times(576)), Cause::overflow);
}

TEST(Causes, a_quotient_beyond_an_end_needs_both_steps_if_it_needs_more_bits) {
  for (const double scale : {0x1.04p-9, 0x1.04p+12}) {
    const Causes c = causes(words("nvfp4", "naive", "none", 8), levels_times(scale));
    const Cause end = scale < 1 ? Cause::underflow : Cause::overflow;
    EXPECT_EQ(c.alone(Cause::block_scale), 0) << scale;
    EXPECT_EQ(c.remaining[B | (scale < 1 ? U : O)], 0) << scale;
    EXPECT_GT(at(c.in_order(), end), c.alone(end)) << scale;
  }
}

TEST(Causes, a_tensor_scale_that_rounds_is_the_tensor_scales) {
  const Causes c = causes(words("nvfp4", "naive", "amax", 8), levels_times(1));  // 6 / 2688 has no end in binary
  EXPECT_GT(c.error(), 0);
  EXPECT_NEAR(at(c.in_order(), Cause::tensor_scale), c.error(), 1e-9 * c.error());  // 53 bits for 24
  EXPECT_EQ(c.alone(Cause::underflow), 0);
  EXPECT_EQ(c.alone(Cause::overflow), 0);
  for (const char* scale : {"none", "0.7", "search", "headroom", "soar"}) {
    for (const char* method : {"naive", "sse"}) {
      const Causes given = causes(words("nvfp4", method, scale), normal(8, 32));
      EXPECT_TRUE(given.chain) << scale;
      EXPECT_EQ(given.alone(Cause::tensor_scale), 0) << scale;
      EXPECT_EQ(at(given.shapley(), Cause::tensor_scale), 0) << scale;
    }
  }
}

TEST(Causes, of_elements_are_told_apart) {
  const Causes grid = causes(words("nvfp4", "naive", "none", 4), {1, 4, {6, 5, 0, 1}});
  EXPECT_EQ(at(grid.in_order(), Cause::grid), 1);
  EXPECT_EQ(at(grid.shapley(), Cause::grid), 1);
  const Causes zero = causes(words("nvfp4", "naive", "none", 4), {1, 4, {6, 0.125f, 0, -0.25f}});
  EXPECT_DOUBLE_EQ(at(zero.shapley(), Cause::zero), 0x1p-6 + 0x1p-4);
  EXPECT_EQ(at(zero.shapley(), Cause::saturation), 0);
  QuantizeWords w = words("mxfp4", "floor", "none", 4);
  w.rounding = "stochastic";
  const Causes stochastic = causes(w, {1, 4, {7, 1, 2, 3}});
  EXPECT_FALSE(stochastic.chain);
  EXPECT_DOUBLE_EQ(at(stochastic.shapley(), Cause::saturation), 1);
  EXPECT_EQ(stochastic.alone(Cause::saturation), 1);
  EXPECT_EQ(stochastic.alone(Cause::block_scale), 0);
}

TEST(Causes, nothing_saturates_with_rceil) {
  const Causes c = causes(words("mxfp4", "rceil", "none"), normal(40, 96, "bf16"));
  EXPECT_EQ(c.alone(Cause::saturation), 0);
  for (std::size_t set = 0; set < 128; ++set) {
    // A real scale rounds by 2^-53, and so may its product with the largest level.
    EXPECT_LE(c.remaining[set] - c.remaining[set | saturation_bit], 1e-28 * c.error()) << set;
  }
  EXPECT_GT(c.alone(Cause::zero), 0);
}

TEST(Causes, of_a_zero_tensor_are_zero) {
  const Causes c = causes(words("nvfp4", "sse", "amax"), {2, 20, std::vector<float>(40)});
  for (const double left : c.remaining) EXPECT_EQ(left, 0);
  for (const double share : c.shapley()) EXPECT_EQ(share, 0);
}

TEST(Causes, a_search_over_more_scales_leaves_no_larger_error) {
  for (const char* format : {"nvfp4", "mxfp4", "nvint4", "if4"}) {
    const Causes c = causes(words(format, "sse", "none"), spread(32, 64, -20, 16));
    for (unsigned set = 0; set < 16; ++set) {
      for (const unsigned step : {B, U, O}) {
        EXPECT_LE(c.remaining[set | step], c.remaining[set] * (1 + 1e-13)) << format << " " << set << " " << step;
      }
    }
  }
}

TEST(Causes, add_up_to_the_measured_error_for_every_method) {
  const Matrix m = spread(9, 70, -6, 6), x = normal(96, 70, "f32", 3);
  const FormatTable table;
  for (const std::string& format : table.names()) {
    for (const search::Method* method : table.methods(format)) {
      if (method->corrects()) continue;
      const QuantizeConfig config = parse_config(words(format.c_str(), method->name, ""));
      const Curvature curvature = curvature_of(x, config.block, true);
      const Quantized q = quantize(config, m, "m", method->needs_hessian() ? &curvature : nullptr);
      const double sse = measure(m, q).sse;
      const Causes c = causes_of(m, q);
      const std::string what = format + " " + method->name;
      EXPECT_NEAR(c.error(), sse, 1e-14 * sse) << what;
      EXPECT_EQ(c.remaining[127], 0) << what;
      const auto in_order = c.in_order(), shapley = c.shapley();
      EXPECT_NEAR(std::accumulate(in_order.begin(), in_order.end(), 0.0), c.error(), 1e-15 * c.error()) << what;
      EXPECT_NEAR(std::accumulate(shapley.begin(), shapley.end(), 0.0), c.error(), 1e-15 * c.error()) << what;
      for (std::size_t set = 0; !c.chain && set < 128; ++set)
        EXPECT_EQ(c.remaining[set], c.remaining[set & ~15u]) << what;
    }
  }
}

TEST(Causes, of_recipes_and_stochastic_rounding_are_those_of_the_stored_codes) {
  const Matrix m = normal(8, 70);
  for (const auto& [recipe, format, method, rounding] : {std::array{"te", "nvfp4", "4over6", ""},
                                                         {"torchao", "nvfp4", "naive", ""},
                                                         {"ocp", "mxfp4", "naive", ""},
                                                         {"", "nvfp4", "naive", "stochastic"},
                                                         {"", "nvfp4", "4over6", "stochastic_unbiased"}}) {
    QuantizeWords w = words(format, method, "");
    w.recipe = recipe;
    w.rounding = rounding;
    const Quantized q = quantize(parse_config(w), m, "m");
    const Causes c = causes_of(m, q);
    const double sse = measure(m, q).sse;
    EXPECT_FALSE(c.chain) << recipe << rounding;
    EXPECT_NEAR(c.error(), sse, 1e-14 * sse) << recipe << rounding;
  }
}

/// The average over all orders, in rationals.
std::vector<mpq_class> brute_force_shapley(const Causes& c) {
  std::vector<mpq_class> sums(cause_count);
  std::array<int, cause_count> order;
  std::iota(order.begin(), order.end(), 0);
  long orders = 0;
  do {
    std::size_t set = 0;
    for (const int step : order) {
      const std::size_t with = set | std::size_t{1} << step;
      sums[static_cast<std::size_t>(step)] += mpq_class(c.remaining[set]) - mpq_class(c.remaining[with]);
      set = with;
    }
    ++orders;
  } while (std::next_permutation(order.begin(), order.end()));
  EXPECT_EQ(orders, 5040);
  for (mpq_class& s : sums) s /= orders;
  return sums;
}

TEST(Causes, shapley_is_the_average_over_all_orders_and_adds_up) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 4; ++i) {
    Causes c;
    for (std::size_t set = 0; set < 127; ++set) c.remaining[set] = std::ldexp(static_cast<double>(random() >> 11), -53);
    c.remaining[0] = i == 0 ? 1 : c.remaining[0] + 2;
    const std::vector<mpq_class> expected = brute_force_shapley(c);
    const auto shapley = c.shapley(), in_order = c.in_order();
    mpq_class sum = 0, ordered = 0;
    for (std::size_t k = 0; k < cause_count; ++k) {
      EXPECT_NEAR(shapley[k], expected[k].get_d(), 1e-15 * c.error()) << cause_names[k];
      sum += expected[k];
      ordered += mpq_class(c.remaining[(1u << k) - 1]) - mpq_class(c.remaining[(2u << k) - 1]);
      EXPECT_EQ(in_order[k], c.remaining[(1u << k) - 1] - c.remaining[(2u << k) - 1]) << cause_names[k];
    }
    EXPECT_EQ(sum, mpq_class(c.error()));
    EXPECT_EQ(ordered, mpq_class(c.error()));
    EXPECT_NEAR(std::accumulate(shapley.begin(), shapley.end(), 0.0), c.error(), 1e-15 * c.error());
    EXPECT_NEAR(std::accumulate(in_order.begin(), in_order.end(), 0.0), c.error(), 1e-15 * c.error());
  }
}

/// The rows from `first` on of a matrix and of what it became.
Matrix some_rows(const Matrix& m, std::int64_t first, std::int64_t count) {
  return {count, m.cols, {m.row(first), m.row(first) + count * m.cols}};
}

Quantized some_rows(const Quantized& q, std::int64_t first, std::int64_t count) {
  Quantized part = q;
  part.rows = count;
  const std::int64_t blocks = q.blocks_per_row();
  part.codes.assign(q.codes.begin() + first * q.cols, q.codes.begin() + (first + count) * q.cols);
  part.scales.assign(q.scales.begin() + first * blocks, q.scales.begin() + (first + count) * blocks);
  return part;
}

TEST(Causes, in_pieces_and_on_any_number_of_threads_have_the_same_bits) {
  const Matrix m = spread(37, 70, -14, 12);
  for (const bool tiles : {false, true}) {
    for (const char* method : {"naive", "4over6", "sse", "scalesweep"}) {
      QuantizeWords w = words("nvfp4", method, "none", 8);
      w.tiles = tiles;
      const Quantized q = quantize(parse_config(w), m, "m");
      omp_set_num_threads(1);
      const Causes whole = causes_of(m, q);
      for (const int threads : {1, 2, 5}) {
        omp_set_num_threads(threads);
        EXPECT_EQ(causes_of(m, q).remaining, whole.remaining) << method << " on " << threads << " threads";
      }
      for (const std::int64_t rows : {8, 16}) {
        CauseSums sums;
        for (std::int64_t first = 0; first < m.rows; first += rows) {
          const std::int64_t count = std::min(rows, m.rows - first);
          sums.add(some_rows(m, first, count), some_rows(q, first, count));
        }
        EXPECT_EQ(sums.causes().remaining, whole.remaining) << method << " in pieces of " << rows;
        EXPECT_EQ(sums.causes().chain, whole.chain);
      }
    }
  }
  omp_set_num_threads(omp_get_num_procs());
}

}  // namespace
}  // namespace fp4scope::analysis
