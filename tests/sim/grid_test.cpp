// sim/grid.hpp: levels, midpoints and the nearest level, against the definition in rationals.
#include "sim/grid.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>

#include <array>
#include <cfloat>
#include <cmath>
#include <limits>

#include "formats/block_format.hpp"

namespace fp4scope {
namespace {

struct GridRow {
  const char* name;
  formats::BlockFormat format;
  std::array<double, 8> level;
};

void PrintTo(const GridRow& row, std::ostream* out) { *out << row.name; }

constexpr GridRow grid_rows[] = {
    {"nvfp4", formats::nvfp4, {0, 0.5, 1, 1.5, 2, 3, 4, 6}},
    {"mxfp4", formats::mxfp4, {0, 0.5, 1, 1.5, 2, 3, 4, 6}},
    {"nvint4", formats::nvint4, {0, 1, 2, 3, 4, 5, 6, 7}},
};

constexpr float tensor_scales[] = {1, 0x1.234566p-11f, 0x1.fffffep-20f, 0x1p-149f, 0x1.8p-148f, FLT_MAX};

/// argmin_k |x - level[k] * step|, the even one of two, in rationals.
int nearest_by_definition(const std::array<double, 8>& level, double x, double step) {
  int best = 0;
  mpq_class least = x;
  for (int k = 1; k < 8; ++k) {
    const mpq_class error = abs(mpq_class(mpq_class(x) - mpq_class(level[k]) * mpq_class(step)));
    if (error < least || (error == least && k % 2 == 0)) {
      best = k;
      least = error;
    }
  }
  return best;
}

class EveryGrid : public testing::TestWithParam<GridRow> {};

TEST_P(EveryGrid, levels_and_midpoints_are_the_table) {
  const sim::Grid g = sim::make_grid(GetParam().format.element);
  ASSERT_EQ(g.levels, 8);
  for (int k = 0; k < 8; ++k) EXPECT_EQ(g.level[k], GetParam().level[k]) << k;
  for (int k = 0; k < 7; ++k) EXPECT_EQ(2 * g.midpoint[k], GetParam().level[k] + GetParam().level[k + 1]) << k;
}

TEST_P(EveryGrid, nearest_is_the_definition_at_every_tie_and_beside_it_for_every_scale_code) {
  const GridRow& row = GetParam();
  const sim::Grid g = sim::make_grid(row.format.element);
  const double infinity = std::numeric_limits<double>::infinity();
  long compared = 0;
  for (const float t : tensor_scales) {
    for (std::uint32_t code = 0; code <= row.format.scale.max_code; ++code) {
      const double step = t * formats::decode_double(row.format.scale, code);
      if (step == 0) continue;
      const sim::Thresholds thresholds = sim::make_thresholds(g, step);
      for (int k = 0; k < 7; ++k) {
        const double tie = (row.level[k] + row.level[k + 1]) / 2 * step;
        for (const double x : {std::nextafter(tie, 0), tie, std::nextafter(tie, infinity), row.level[k + 1] * step,
                               row.level[7] * step * (1 + 0.25 * k)}) {
          ++compared;
          const int got = sim::nearest_index(thresholds, x), want = nearest_by_definition(row.level, x, step);
          ASSERT_EQ(got, want) << std::hexfloat << row.name << ", tensor scale " << t << ", scale code 0x" << std::hex
                               << code << ", x " << x << ", threshold " << k << ": level " << row.level[got]
                               << " instead of " << row.level[want];
        }
      }
    }
  }
  RecordProperty("compared", std::to_string(compared));
}

INSTANTIATE_TEST_SUITE_P(grids, EveryGrid, testing::ValuesIn(grid_rows),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(Magnitude, drops_the_sign_alone) {
  for (const float x : {0.0f, 1.5f, 0x1p-149f, FLT_MAX, INFINITY}) {
    EXPECT_EQ(sim::magnitude(x), static_cast<double>(x));
    EXPECT_EQ(sim::magnitude(-x), static_cast<double>(x));
    EXPECT_FALSE(std::signbit(sim::magnitude(-x)));
  }
}

TEST(Amax, is_the_largest_magnitude_and_shows_whatever_is_not_finite) {
  const float x[] = {-0.0f, 1, -3, 2, -0x1p-149f};
  EXPECT_EQ(sim::amax(x, 5), 3);
  EXPECT_EQ(sim::amax(x, 2), 1);
  EXPECT_EQ(sim::amax(x + 4, 1), 0x1p-149f);
  EXPECT_FALSE(std::signbit(sim::amax(x, 1)));
  EXPECT_EQ(sim::amax(x, 0), 0);
  const float with_infinity[] = {FLT_MAX, -INFINITY, 1}, with_nan[] = {INFINITY, -NAN, 1};
  EXPECT_EQ(sim::amax(with_infinity, 3), INFINITY);
  EXPECT_TRUE(std::isnan(sim::amax(with_nan, 3)));
}

}  // namespace
}  // namespace fp4scope
