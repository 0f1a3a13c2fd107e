// Rules with a promise of their own: oas never errs more than even, prevent_zero leaves no block at zero.
#include <gtest/gtest.h>
#include <omp.h>

#include "search/methods.hpp"
#include "search/search.hpp"
#include "tests/oracle/search_oracle.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

const bool one_thread = (omp_set_num_threads(1), true);  // one block is no work for two

using oracle::BlockOracle;
using oracle::Direction;

std::vector<std::uint8_t> scales_of(const char* format, const char* method, float t, int block,
                                    const std::vector<float>& x) {
  search::SearchTask task = {formats::find_block_format(format), search::find_method(format, method)};
  task.block = block;
  task.tensor_scale = t;
  return search::search_scales(task, x.data(), 1, static_cast<std::int64_t>(x.size())).scales;
}

TEST(Oas, never_errs_more_than_even_where_they_differ_at_maxima_of_7_times_a_power_of_two) {
  blocks::Maker maker("mxfp4", 51);
  int better = 0, same = 0;
  for (int i = 0; i < 3000 && !HasFailure(); ++i) {
    const blocks::FamilyRow& family = blocks::all_families[i % static_cast<int>(std::size(blocks::all_families))];
    std::vector<float> x = maker.make(family.family, 1, 16);
    int exponent = 0;
    const float amax = sim::amax(x.data(), 16);
    std::frexp(amax, &exponent);
    const float seven = std::ldexp(0.875f, std::clamp(exponent, -120, 128));
    for (float& v : x) v = std::clamp(v, -seven, seven);
    x[static_cast<std::size_t>(maker.below(16))] = seven;
    const int oas = scales_of("mxfp4", "oas", 1, 16, x)[0], even = scales_of("mxfp4", "even", 1, 16, x)[0];
    ASSERT_EQ(even, oas + 1) << std::hexfloat << seven;
    const BlockOracle block(oracle::scaled_format("mxfp4"), 1, x.data(), 16);
    const int order = cmp(block.sse(oas), block.sse(even));
    EXPECT_LE(order, 0) << blocks::describe("mxfp4", family.name, 1, x);
    better += order < 0;
    same += order == 0;
  }
  EXPECT_GT(better, 500);
  EXPECT_GT(same, 100);  // nothing but the maximum, which errs by one step at both
}

/// The definition: codes by rule, 1 at least unless the block is zero.
struct AtLeastOne {
  BlockOracle block;
  bool zero;

  int code(int twice_divisor) const {
    return zero ? 0 : std::max(1, block.rule(twice_divisor, Direction::nearest_even));
  }
  int four_over_six() const {
    const int six = code(12), four = code(8);
    return block.sse(four) < block.sse(six) ? four : six;
  }
};

TEST(PreventZero, is_naive_and_4over6_with_codes_of_one_at_least) {
  blocks::Maker maker("nvfp4", 52);
  int raised = 0;
  for (const int n : {16, 6}) {  // with vector lanes and without
    for (int i = 0; i < 1500 && !HasFailure(); ++i) {
      const blocks::FamilyRow& family = blocks::all_families[i % static_cast<int>(std::size(blocks::all_families))];
      std::vector<float> x = maker.make(family.family, 1, n);
      if (i % 2 == 0) {  // maxima around those that underflow
        const float amax = sim::amax(x.data(), n), to = static_cast<float>(6 * 0x1p-9 * 2 * maker.uniform());
        for (float& v : x) v = amax == 0 ? v : v / amax * to;
      }
      const AtLeastOne want = {BlockOracle(oracle::scaled_format("nvfp4"), 1, x.data(), n),
                               sim::amax(x.data(), n) == 0};
      EXPECT_EQ(int{scales_of("nvfp4", "prevent_zero", 1, n, x)[0]}, want.code(12))
          << blocks::describe("nvfp4", family.name, 1, x);
      EXPECT_EQ(int{scales_of("nvfp4", "4over6_prevent_zero", 1, n, x)[0]}, want.four_over_six())
          << blocks::describe("nvfp4", family.name, 1, x);
      raised += !want.zero && want.block.rule(12, Direction::nearest_even) == 0;
    }
  }
  EXPECT_GT(raised, 300);
}

/// The scale of 1 is the best of all for what rounds to none, where its least level is any good.
TEST(PreventZero, keeps_what_naive_loses) {
  const std::vector<float> x = {0x1.8p-9f, -0x1p-9f, 0x1p-10f, 0, 0, 0, 0, 0};
  EXPECT_EQ(scales_of("nvfp4", "naive", 1, 8, x)[0], 0);
  EXPECT_EQ(scales_of("nvfp4", "prevent_zero", 1, 8, x)[0], 1);
  const BlockOracle block(oracle::scaled_format("nvfp4"), 1, x.data(), 8);
  EXPECT_EQ(block.sse(1), 0);
}

}  // namespace
}  // namespace fp4scope
