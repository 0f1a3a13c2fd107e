// search/four_over_six.hpp: the 4 wins by a strictly smaller error alone, in real numbers, for each criterion.
#include "search/four_over_six.hpp"

#include <gtest/gtest.h>

#include "search/methods.hpp"
#include "tests/oracle/search_oracle.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

using oracle::BlockOracle;
using search::Select;

struct SelectRow {
  const char* name;
  Select select;
  mpz_class (BlockOracle::*loss)(int) const;
};

void PrintTo(const SelectRow& row, std::ostream* out) { *out << row.name; }

const SelectRow select_rows[] = {{"mse", Select::mse, &BlockOracle::sse},
                                 {"mae", Select::mae, &BlockOracle::mae},
                                 {"absmax", Select::absmax, &BlockOracle::absmax}};

search::FourOverSix choose(Select select, float tensor_scale, const std::vector<float>& x) {
  const int n = static_cast<int>(x.size());
  const search::SearchSpace space = search::make_space(formats::nvfp4, tensor_scale, sim::six_rule);
  return search::four_over_six(space, {x.data(), n, sim::amax(x.data(), n)}, select);
}

class EverySelect : public testing::TestWithParam<SelectRow> {
 protected:
  /// Whether the 4 was chosen, having compared code and flag with the definition.
  bool expect_the_definition(const char* family, float t, const std::vector<float>& x) {
    const SelectRow& row = GetParam();
    const BlockOracle block(oracle::scaled_format("nvfp4"), t, x.data(), static_cast<int>(x.size()));
    const auto loss = [&](int code) { return (block.*row.loss)(code); };
    const search::FourOverSix got = choose(row.select, t, x);
    const int six = block.rule(12, oracle::Direction::nearest_even), want = block.four_over_six(loss);
    const int exponent = row.select == Select::mse ? -554 : -277;
    EXPECT_TRUE(got.code == want && got.chose_four == (want != six))
        << row.name << ' ' << blocks::describe("nvfp4", family, t, x) << std::hex << ": got 0x" << got.code
        << (got.chose_four ? " (four)" : " (six)") << " with loss " << oracle::approximate(loss(got.code), exponent)
        << ", want 0x" << want << " with loss " << oracle::approximate(loss(want), exponent);
    return got.chose_four;
  }
};

TEST_P(EverySelect, chooses_by_definition_on_every_family) {
  blocks::Maker maker("nvfp4", 21);
  long fours = 0, compared = 0;
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (const float t : blocks::tensor_scales) {
      for (int i = 0; i < 40 && !HasFailure(); ++i, ++compared) {
        fours += expect_the_definition(family.name, t, maker.make(family.family, t, i % 2 ? 16 : 4));
      }
    }
  }
  EXPECT_GT(fours, compared / 20);
}

TEST_P(EverySelect, sends_constructed_ties_to_six) {
  const std::vector<float> ties[] = {
      {12, 0, 0, 0},          // no error at 12 / 6 = 2, none at 12 / 4 = 3
      {12, 7, 0, 0},          // 7 errs by 1 at both
      {-12, 8.5f, -8.5f, 0},  // 8.5 errs by 0.5 at both
      {12, 8.5f, 7, -7},      // both
      {12, 12, -12, 6},       // exact at both
      {0, 0, -0.0f, 0},       // nothing
      {0x1p-149f, 0, 0, 0},   // both scales underflow to 0
      {5000, 1, 1, 1},        // both saturate
  };
  for (const auto& x : ties) EXPECT_FALSE(expect_the_definition("tie", 1, x));
}

/// 8.5 errs by 0.5 at scales 2 (as 8) and 3 (as 9); one float above, the 4 is better. The others err at neither.
TEST_P(EverySelect, decides_near_ties_by_one_float) {
  for (int power = -100; power <= 100; power += 25) {
    const auto scaled = [&](float x) { return std::ldexp(x, power); };
    const float t = scaled(1), tie = scaled(8.5f);
    const float below = std::nextafter(tie, 0.0f), above = std::nextafter(tie, FLT_MAX);
    EXPECT_FALSE(expect_the_definition("tie", t, {scaled(12), tie, 0, scaled(6)}));
    EXPECT_FALSE(expect_the_definition("below", t, {scaled(12), below, 0, scaled(6)}));
    EXPECT_TRUE(expect_the_definition("above", t, {scaled(12), above, 0, scaled(6)}));
  }
}

/// Errors of 24 + 7 bits and sums of them: near ties beyond what a float, or a double's squares, can tell.
TEST_P(EverySelect, decides_near_ties_with_a_full_tensor_scale) {
  blocks::Maker maker("nvfp4", 22);
  for (int i = 0; i < 1000 && !HasFailure(); ++i) {
    const float t = 1 + static_cast<float>(maker.below(1 << 23)) * 0x1p-23f;
    std::vector<float> x = {12 * t, 0, 0, 0};
    for (std::size_t k = 1; k < 4; ++k) {
      x[k] = static_cast<float>((maker.below(2) ? 8.5 : 7) * t);
      if (maker.below(3) == 0) x[k] = std::nextafter(x[k], maker.below(2) ? 0.0f : FLT_MAX);
    }
    expect_the_definition("near tie", t, x);
  }
}

/// Any two codes, not only those of four over six: a block far beyond a scale has errors that differ below 2^-53.
TEST_P(EverySelect, orders_any_two_codes_as_gmp_does) {
  const SelectRow& row = GetParam();
  blocks::Maker maker("nvfp4", 24);
  int compared = 0, ordered = 0;
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (const float t : blocks::tensor_scales) {
      for (int i = 0; i < 20; ++i, ++compared) {
        const std::vector<float> x = maker.make(family.family, i % 2 ? t : t * 0x1p-40f + 0x1p-149f, 3);
        const search::SearchSpace space = search::make_space(formats::nvfp4, i % 3 ? t : 0x1p-149f, sim::six_rule);
        const BlockOracle block(oracle::scaled_format("nvfp4"), i % 3 ? t : 0x1p-149f, x.data(), 3);
        const int a = maker.below(127), b = maker.below(127);
        const int want = cmp((block.*row.loss)(a), (block.*row.loss)(b));
        const int got = search::compare_errors(space, {x.data(), 3, sim::amax(x.data(), 3)}, row.select, a, b);
        ASSERT_EQ(got, (want > 0) - (want < 0)) << row.name << ' ' << blocks::describe("nvfp4", family.name, t, x)
                                                << std::hex << " codes 0x" << a << ", 0x" << b;
        ordered += want != 0;
      }
    }
  }
  EXPECT_GT(ordered, compared / 2);
}

INSTANTIATE_TEST_SUITE_P(selects, EverySelect, testing::ValuesIn(select_rows),
                         [](const auto& row) { return std::string(row.param.name); });

/// At scale 2 the errors are 0, 1, 1, 0; at scale 3 they are 0, 0.5, 0.5, 1.
TEST(FourOverSix, criteria_disagree_where_they_should) {
  const std::vector<float> x = {12, 5, 5, 8};
  EXPECT_TRUE(choose(Select::mse, 1, x).chose_four);      // 2 against 1.5
  EXPECT_FALSE(choose(Select::mae, 1, x).chose_four);     // 2 against 2
  EXPECT_FALSE(choose(Select::absmax, 1, x).chose_four);  // 1 against 1
}

TEST(ExactDistance, is_exact_for_every_pair_of_magnitude_and_value) {
  blocks::Maker maker("nvfp4", 23);
  for (int i = 0; i < 20000; ++i) {
    const double magnitude = std::fabs(maker.make(blocks::Family::whole_range, 1, 1)[0]);
    const double unit = std::fabs(maker.make(blocks::Family::whole_range, 1, 1)[0]), step = unit * (8 + maker.below(8));
    const double value = i % 3 == 0 ? magnitude + step * 0x1p-20 : step * maker.below(13) / 2;
    const search::TwoPart d = search::exact_distance(magnitude, value);
    const mpq_class want = abs(mpq_class(mpq_class(magnitude) - mpq_class(value)));
    ASSERT_EQ(mpq_class(d.hi) + mpq_class(d.lo), want) << std::hexfloat << magnitude << ' ' << value;
    ASSERT_GE(d.hi, 0);
    ASSERT_EQ(d.hi + d.lo, d.hi);
  }
}

}  // namespace
}  // namespace fp4scope
