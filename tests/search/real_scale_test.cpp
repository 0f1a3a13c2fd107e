// The best real scale against a dense scan that knows nothing of pieces, on hard blocks of every grid.
#include "search/real_scale.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "search/sse.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope::search {
namespace {

using blocks::Family;

std::vector<double> levels_of(const std::string& format, bool integer) {
  if (format == "nvint4") return {0, 1, 2, 3, 4, 5, 6, 7};
  if (integer) return {0, 6 / 7.0, 12 / 7.0, 18 / 7.0, 24 / 7.0, 30 / 7.0, 36 / 7.0, 6};
  return {0, 0.5, 1, 1.5, 2, 3, 4, 6};
}

double error_at(const std::vector<double>& levels, const std::vector<float>& x, double scale) {
  double sum = 0;
  for (const float value : x) {
    double least = INFINITY;
    for (const double level : levels) least = std::min(least, std::fabs(std::fabs(double{value}) - level * scale));
    sum += least * least;
  }
  return sum;
}

/// The least error on a fine grid of scales in [low, high].
double scan(const std::vector<double>& levels, const std::vector<float>& x, double low, double high, int points) {
  double least = INFINITY;
  for (int i = 0; i <= points; ++i) {
    least = std::min(least, error_at(levels, x, low * std::pow(high / low, static_cast<double>(i) / points)));
  }
  return least;
}

double energy_of(const std::vector<float>& x) {
  double sum = 0;
  for (const float value : x) sum += double{value} * value;
  return sum;
}

TEST(RealScale, is_no_worse_than_a_dense_scan_and_its_error_is_what_its_scale_gives) {
  for (const char* format : {"nvfp4", "nvint4", "if4"}) {
    const std::vector<RealSpace> spaces = real_spaces(*formats::find_block_format(format));
    blocks::Maker maker(format, 7);
    for (const blocks::FamilyRow& family : blocks::all_families) {
      for (int i = 0; i < 6; ++i) {
        const std::vector<float> x = maker.make(family.family, 1, i % 2 ? 16 : 3);
        const auto n = static_cast<int>(x.size());
        const RealScale best = real_scale(spaces, x.data(), n);
        const std::string what = blocks::describe(format, family.name, 1, x);
        const double amax = sim::amax(x.data(), n), tiny = 1e-12 * energy_of(x);
        if (amax == 0) {
          EXPECT_EQ(best.scale, 0) << what;
          continue;
        }
        EXPECT_NEAR(best.sse, error_at(levels_of(format, best.space == 1), x, best.scale), tiny) << what;
        for (int k = 0; k < static_cast<int>(spaces.size()); ++k) {
          const double dense = scan(levels_of(format, k == 1), x, amax / 1000, 10 * amax, 1000);
          EXPECT_LE(best.sse, dense + tiny) << what << " element " << k;
        }
      }
    }
  }
}

TEST(RealScale, a_scan_comes_close_to_it) {
  const std::vector<RealSpace> spaces = real_spaces(formats::nvfp4);
  blocks::Maker maker("nvfp4", 3);
  for (int i = 0; i < 20; ++i) {
    const std::vector<float> x = maker.make(Family::normal, 1, 16);
    const double amax = sim::amax(x.data(), 16);
    const RealScale best = real_scale(spaces, x.data(), 16);
    EXPECT_NEAR(best.sse, scan(levels_of("nvfp4", false), x, amax / 8, amax, 20000), 1e-3 * best.sse);
  }
}

TEST(RealScale, between_ends_is_the_best_between_them) {
  const std::vector<RealSpace> spaces = real_spaces(formats::nvfp4);
  blocks::Maker maker("nvfp4", 5);
  for (int i = 0; i < 200; ++i) {
    const std::vector<float> x = maker.make(i % 2 ? Family::normal : Family::mixed_exponents, 1, 16);
    const double amax = sim::amax(x.data(), 16), tiny = 1e-12 * energy_of(x);
    const double low = amax * std::exp2(6 * maker.uniform() - 5), high = low * std::exp2(3 * maker.uniform());
    const RealScale best = real_scale(spaces, x.data(), 16, low, high);
    EXPECT_GE(best.scale, low);
    EXPECT_LE(best.scale, high);
    EXPECT_LE(best.sse, scan(levels_of("nvfp4", false), x, low, high, 300) + tiny)
        << blocks::describe("nvfp4", "ends", 1, x) << " from " << low << " to " << high;
  }
}

TEST(RealScale, of_a_grid_that_does_not_nest_is_no_worse_than_a_scan) {
  formats::BlockFormat format = formats::nvfp4;
  format.levels = {8, {0, 1, 2, 3, 5, 8, 13, 21}};
  const std::vector<double> levels(format.levels.value, format.levels.value + 8);
  const std::vector<RealSpace> spaces = real_spaces(format);
  EXPECT_EQ(spaces[0].nesting.largest, 0);
  blocks::Maker maker("nvfp4", 9);
  for (int i = 0; i < 60; ++i) {
    const std::vector<float> x = maker.make(i % 2 ? Family::normal : Family::mixed_exponents, 1, 16);
    const double amax = sim::amax(x.data(), 16), tiny = 1e-12 * energy_of(x);
    if (amax == 0) continue;
    const RealScale best = real_scale(spaces, x.data(), 16), clipped = real_scale(spaces, x.data(), 16, 0, amax / 100);
    EXPECT_LE(best.sse, scan(levels, x, amax / 4000, 10 * amax, 500) + tiny) << blocks::describe("own", "", 1, x);
    EXPECT_LE(clipped.sse, scan(levels, x, amax / 40000, amax / 100, 500) + tiny) << blocks::describe("own", "", 1, x);
  }
}

TEST(RealScale, of_levels_times_a_scale_is_that_scale_with_no_error) {
  std::vector<float> x;
  for (const double level : levels_of("nvfp4", false))
    x.push_back(static_cast<float>(level * 0x1.2344p-3) * (x.size() % 2 ? -1.0f : 1.0f));
  const RealScale best = real_scale(real_spaces(formats::nvfp4), x.data(), 8);
  EXPECT_EQ(best.scale, 0x1.2344p-3);
  EXPECT_EQ(best.sse, 0);
}

TEST(RealScale, is_never_above_the_best_code) {
  constexpr SearchSpace space = make_space(formats::nvfp4, 1, sim::six_rule);
  const std::vector<RealSpace> spaces = real_spaces(formats::nvfp4);
  blocks::Maker maker("nvfp4", 11);
  for (int i = 0; i < 3000; ++i) {
    const std::vector<float> x = maker.make(Family::normal, 1, 16);
    const int code = sse_code(space, {x.data(), 16, sim::amax(x.data(), 16)});
    const double by_code = squared_error(spaces[0], x.data(), 16, space.step(code));
    EXPECT_LE(real_scale(spaces, x.data(), 16).sse, by_code * (1 + 1e-12)) << blocks::describe("nvfp4", "normal", 1, x);
  }
}

/// Relative to the source: blocks of 16, a dense sweep of scales.
TEST(RealScale, of_known_distributions_has_the_known_error) {
  const std::vector<RealSpace> spaces = real_spaces(formats::nvfp4);
  blocks::Maker maker("nvfp4", 13);
  constexpr int count = 40000;
  double error[3] = {}, energy[3] = {};
  for (int i = 0; i < count; ++i) {
    std::vector<float> x[3] = {std::vector<float>(16), std::vector<float>(16), std::vector<float>(16)};
    for (std::size_t k = 0; k < 16; ++k) {
      const double u = maker.uniform() - 0.5;
      x[0][k] = static_cast<float>(maker.normal());
      x[1][k] = static_cast<float>(std::copysign(std::log(1 - 2 * std::fabs(u)), u));
      x[2][k] = static_cast<float>(u);
    }
    for (int d = 0; d < 3; ++d) {
      error[d] += real_scale(spaces, x[d].data(), 16).sse;
      energy[d] += energy_of(x[d]);
    }
  }
  const double known[3] = {6.104e-3, 6.250e-3, 5.723e-3};  // normal, Laplace, uniform
  for (int d = 0; d < 3; ++d) EXPECT_NEAR(error[d] / energy[d], known[d], 0.006 * known[d]) << d;
}

}  // namespace
}  // namespace fp4scope::search
