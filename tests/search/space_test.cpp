// search/space.hpp: halves of scale codes and the dominance theorem.
#include "search/space.hpp"

#include <gtest/gtest.h>

#include "search/methods.hpp"
#include "tests/oracle/search_oracle.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

using blocks::Maker;
using oracle::BlockOracle;

TEST(HalfCode, is_the_code_of_half_the_value_or_none) {
  for (const oracle::ScaledFormat& f : oracle::scaled_formats) {
    const formats::Format scale = formats::find_block_format(f.name)->scale;
    for (int code = f.first_code(); code <= f.last_code; ++code) {
      int want = -1;
      for (int half = f.first_code(); half < code; ++half) {
        if (2 * oracle::scale_units(f, half) == oracle::scale_units(f, code)) want = half;
      }
      EXPECT_EQ(search::half_code(scale, code), want) << f.name << std::hex << " code 0x" << code;
      const bool always = code >= search::first_always_halved(scale);
      EXPECT_TRUE(!always || want >= 0) << f.name << std::hex << " code 0x" << code;
    }
    EXPECT_LT(search::half_code(scale, search::first_always_halved(scale) - 1), 0) << f.name;
  }
}

TEST(Space, lists_every_positive_code_with_its_value) {
  for (const oracle::ScaledFormat& f : oracle::scaled_formats) {
    const search::SearchSpace s = search::make_space(*formats::find_block_format(f.name), 3, sim::six_rule);
    EXPECT_EQ(s.first_code, f.first_code());
    EXPECT_EQ(s.last_code, f.last_code);
    EXPECT_EQ(2 * s.top(), f.twice_level[7]);
    for (int code = s.first_code; code <= s.last_code; ++code) {
      EXPECT_EQ(mpq_class(s.scale_value[code]) * (mpz_class(1) << 127), oracle::scale_units(f, code)) << f.name << code;
      EXPECT_EQ(s.step(code), 3 * s.scale_value[code]);
    }
  }
}

TEST(Dominance, constants_are_7_and_7_and_a_half) {
  EXPECT_EQ(search::dominance_constant(search::nesting(sim::make_grid(formats::e2m1))), 7);
  EXPECT_EQ(search::dominance_constant(search::nesting(sim::make_grid(formats::int4))), 7.5);
}

TEST(Dominance, is_unknown_where_doubled_levels_are_no_levels) {
  sim::Grid grid = sim::make_grid(formats::e2m1);
  grid.level[3] = 1.75;  // 2 * 1.75 = 3.5 is below 6 and no level
  EXPECT_EQ(search::dominance_constant(search::nesting(grid)), 0);
}

TEST(Dominance, a_dominated_code_never_errs_less_than_its_half) {
  for (const oracle::ScaledFormat& f : oracle::scaled_formats) {
    const formats::BlockFormat format = *formats::find_block_format(f.name);
    Maker maker(f.name, 3);
    long compared = 0;
    for (int i = 0; i < 150; ++i) {
      const auto& row = blocks::all_families[i % std::size(blocks::all_families)];
      const std::vector<float> x = maker.make(row.family, 1, 4);
      const BlockOracle block(f, 1, x.data(), 4);
      const search::SearchSpace s = search::make_space(format, 1, sim::six_rule);
      for (int code = s.first_code; code <= s.last_code; ++code) {
        const int half = search::half_code(format.scale, code);
        if (half < 0 || sim::amax(x.data(), 4) > s.dominance * s.step(half)) continue;
        ++compared;
        ASSERT_GE(block.sse(code), block.sse(half))
            << blocks::describe(f.name, row.name, 1, x) << std::hex << " codes 0x" << code << " and 0x" << half
            << ", SSE " << block.shown_sse(code) << " and " << block.shown_sse(half);
      }
    }
    EXPECT_GT(compared, 1000) << f.name;
  }
}

/// One float above dominance * s, the code of 2s errs strictly less: the constant can't be larger.
TEST(Dominance, constant_is_the_largest_possible) {
  for (const oracle::ScaledFormat& f : oracle::scaled_formats) {
    const formats::BlockFormat format = *formats::find_block_format(f.name);
    const search::SearchSpace s = search::make_space(format, 1, sim::six_rule);
    for (int code = s.first_code; code <= s.last_code; ++code) {
      const int half = search::half_code(format.scale, code);
      const double edge = half < 0 ? 0 : s.dominance * s.step(half);
      if (half < 0 || edge > 0x1p127 || edge < 0x1p-140) continue;
      const auto at = static_cast<float>(edge);
      const float above = std::nextafter(at, INFINITY);
      const BlockOracle tie(f, 1, &at, 1), better(f, 1, &above, 1);
      EXPECT_EQ(tie.sse(code), tie.sse(half)) << f.name << std::hex << " 0x" << code;
      EXPECT_LT(better.sse(code), better.sse(half)) << f.name << std::hex << " 0x" << code;
    }
  }
}

}  // namespace
}  // namespace fp4scope
