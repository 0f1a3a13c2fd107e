// search/pruning.hpp: the two theorems about s and 2s, their constants, and the bounds, against errors in integers.
#include "search/pruning.hpp"

#include <gtest/gtest.h>

#include "search/methods.hpp"
#include "tests/oracle/search_oracle.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

using blocks::Maker;
using oracle::BlockOracle;

struct Row {
  const char* format;
  int block;
};

constexpr Row rows[] = {{"nvfp4", 2},  {"nvfp4", 8},  {"nvfp4", 16}, {"nvfp4", 32},
                        {"mxfp4", 16}, {"mxfp4", 32}, {"nvint4", 16}};

/// The code of twice the value, or -1.
int double_code(const search::SearchSpace& space, int code) {
  for (int c = code + 1; c <= space.last_code; ++c) {
    if (space.scale_value[c] == 2 * space.scale_value[code]) return c;
  }
  return -1;
}

class EveryFormat : public testing::TestWithParam<Row> {
 protected:
  /// visit(space, maker, x, amax, oracle) for blocks of every family.
  template <class Visit>
  void each_block(const Visit& visit) const {
    const Row& row = GetParam();
    Maker maker(row.format, 7);
    for (const blocks::FamilyRow& family : blocks::all_families) {
      for (const float t : {1.0f, 0x1.234566p-11f}) {
        const search::SearchSpace space = search::make_space(*formats::find_block_format(row.format), t,
                                                             search::find_method(row.format, "sse")->rule);
        for (int i = 0; i < 12; ++i) {
          const std::vector<float> x = maker.make(family.family, t, row.block);
          const BlockOracle oracle(oracle::scaled_format(row.format), t, x.data(), row.block);
          visit(space, x, static_cast<double>(sim::amax(x.data(), row.block)), oracle,
                blocks::describe(row.format, family.name, t, x));
        }
      }
    }
  }
};

TEST_P(EveryFormat, doubling_does_not_help_up_to_the_dominance_constant) {
  long applied = 0;
  each_block([&](const search::SearchSpace& space, const std::vector<float>&, double amax, const BlockOracle& oracle,
                 const std::string& text) {
    for (int code = space.first_code; code <= space.last_code; ++code) {
      const int twice = double_code(space, code);
      if (twice < 0 || amax > space.dominance * space.step(code)) continue;
      if (amax < space.dominance * space.step(code) / 8 && code % 16) continue;  // mostly at the edge
      ++applied;
      ASSERT_GE(oracle.sse(twice), oracle.sse(code)) << text << std::hex << " 0x" << code;
    }
  });
  EXPECT_GT(applied, 500);
}

TEST_P(EveryFormat, doubling_helps_above_the_undersize_constant) {
  long applied = 0;
  const double u = search::undersize_constant(
      search::nesting(sim::make_grid(*formats::find_block_format(GetParam().format))), GetParam().block);
  each_block([&](const search::SearchSpace& space, const std::vector<float>&, double amax, const BlockOracle& oracle,
                 const std::string& text) {
    for (int code = space.first_code; code <= space.last_code; ++code) {
      const int twice = double_code(space, code);
      if (twice < 0 || !(amax > u * space.step(code))) continue;
      if (amax > 8 * u * space.step(code) && code % 16) continue;
      ++applied;
      ASSERT_LT(oracle.sse(twice), oracle.sse(code)) << text << std::hex << " 0x" << code;
    }
  });
  EXPECT_GT(applied, 500);
}

/// amax = 7 s: SSE(2s) = SSE(s). amax = U s with every other element at s / 2, which doubling zeroes: equal as well.
TEST(Pruning, both_constants_of_e2m1_are_tight) {
  for (const int n : {2, 8, 16, 32}) {
    std::vector<float> x(static_cast<std::size_t>(n), 0.5f);
    x[1] = 7 + static_cast<float>(n - 1) / 16;
    const BlockOracle undersized(oracle::scaled_format("nvfp4"), 1, x.data(), n);
    EXPECT_EQ(undersized.sse(0x40), undersized.sse(0x38)) << n;
    std::fill(x.begin(), x.end(), 0.0f);
    x[0] = 7;
    const BlockOracle dominated(oracle::scaled_format("nvfp4"), 1, x.data(), n);
    EXPECT_EQ(dominated.sse(0x40), dominated.sse(0x38)) << n;
  }
}

TEST_P(EveryFormat, clipping_and_dead_zone_add_to_a_lower_bound) {
  each_block([&](const search::SearchSpace& space, const std::vector<float>& x, double, const BlockOracle& oracle,
                 const std::string& text) {
    for (int code = space.first_code; code <= space.last_code; code += 5) {
      mpq_class bound = 0;
      const mpq_class step(space.step(code));
      for (const float value : x) {
        const mpq_class magnitude(std::fabs(value));
        const mpq_class over = magnitude - mpq_class(space.top()) * step;
        if (over > 0) bound += over * over;
        if (magnitude <= mpq_class(space.grid.midpoint[0]) * step) bound += magnitude * magnitude;
      }
      ASSERT_GE(oracle.sse(code), bound * (mpz_class(1) << 554)) << text << std::hex << " 0x" << code;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(formats, EveryFormat, testing::ValuesIn(rows), [](const auto& row) {
  return std::string(row.param.format) + "_" + std::to_string(row.param.block);
});

/// The OCP floor code, the one above if amax's significand is above 1.75, the one below if it is at most U / 8.
TEST(Pruning, mxfp4_needs_at_most_one_comparison) {
  for (const int n : {8, 16, 32}) {
    Maker maker("mxfp4", 9);
    const search::SearchSpace space = search::make_space(formats::mxfp4, 1, sim::floor_rule);
    const double u = search::undersize_constant(space.nesting, n);
    long neighbours = 0;
    for (int i = 0; i < 3000; ++i) {
      const blocks::Family family =
          blocks::all_families[static_cast<std::size_t>(i) % std::size(blocks::all_families)].family;
      std::vector<float> x = maker.make(family, 1, n);
      const float amax = sim::amax(x.data(), n);
      if (!(amax >= 0x1p-120f)) continue;  // below, code 0 ends the range
      const int floor_code = sim::scale_code(formats::ue8m0, sim::floor_rule, amax, 1);
      const double significand = amax / (4 * space.scale_value[floor_code]);
      ASSERT_TRUE(significand >= 1 && significand < 2);
      const int best = search::sse_code_ref(space, {x.data(), n, amax});
      const int neighbour = significand > 1.75 ? floor_code + 1 : significand <= u / 8 ? floor_code - 1 : floor_code;
      ASSERT_TRUE(best == floor_code || best == neighbour)
          << blocks::describe("mxfp4", "", 1, x) << best << " " << floor_code;
      neighbours += best != floor_code;
    }
    EXPECT_GT(neighbours, 20);
  }
}

}  // namespace
}  // namespace fp4scope
