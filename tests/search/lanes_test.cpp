// search/lanes.hpp: on every kind of vector unit that this machine has, the codes of the plain search, block by block.
#include "search/lanes.hpp"

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

using search::MethodKind;

struct CaseRow {
  const char* format;
  const char* method;
};

constexpr CaseRow case_rows[] = {{"nvfp4", "naive"},      {"nvfp4", "static4"},      {"nvfp4", "4over6"},
                                 {"nvfp4", "sse"},        {"nvint4", "naive"},       {"nvint4", "sse"},
                                 {"mxfp4", "floor"},      {"mxfp4", "ceil"},         {"mxfp4", "even"},
                                 {"mxfp4", "rceil"},      {"mxfp4", "oas"},          {"mxfp4", "uos"},
                                 {"mxfp4", "sse"},        {"mxint4", "rceil"},       {"mxint4", "sse"},
                                 {"mxfp8_e4m3", "rceil"}, {"nvfp4", "prevent_zero"}, {"nvfp4", "4over6_prevent_zero"}};
constexpr CaseRow sse_rows[] = {{"nvfp4", "sse"}, {"nvint4", "sse"}, {"mxfp4", "sse"}, {"mxint4", "sse"}};

constexpr int block_sizes[] = {8, 16, 24, 32, 64};

search::SearchTask task_of(const CaseRow& row, int block, float tensor_scale, bool unbiased = false) {
  search::SearchTask task = {formats::find_block_format(row.format), search::find_method(row.format, row.method)};
  task.block = block;
  task.tensor_scale = tensor_scale;
  task.unbiased = unbiased;
  return task;
}

/// Blocks.hpp knows two kinds of scale and two of element.
const char* maker_format(const CaseRow& row) {
  const std::string_view name = row.format;
  return name.starts_with("mx") ? "mxfp4" : row.format;
}

struct Plain {
  int code;
  bool chose_four = false;
};

/// What search.cpp does with one block; `exhaustive`: an sse by the slow twin.
Plain plain(const search::SearchTask& task, const search::SearchSpace& space, const float* x, bool exhaustive) {
  const search::Block block = {x, task.block, sim::amax(x, task.block)};
  if (!std::isfinite(block.amax)) return {static_cast<int>(space.scale.nan_code())};
  if (task.method->kind == MethodKind::rule) {
    const sim::ScaleRule rule = task.unbiased ? sim::unbiased(task.method->rule) : task.method->rule;
    return {sim::scale_code(space.scale, rule, block.amax, task.tensor_scale)};
  }
  if (task.method->kind == MethodKind::sse) {
    return {exhaustive ? search::sse_code_ref(space, block) : search::sse_code(space, block)};
  }
  const search::FourOverSix chosen = search::four_over_six(space, block, task.select, nullptr, task.unbiased);
  return {chosen.code, chosen.chose_four};
}

class EveryTarget : public testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
    if ((hwy::SupportedTargets() & GetParam()) == 0) GTEST_SKIP() << "not on this machine";
    hwy::GetChosenTarget().Update(GetParam());
  }
  void TearDown() override { hwy::GetChosenTarget().DeInit(); }

  /// Compares the codes of x with the plain ones.
  void expect_plain_codes(const search::SearchTask& task, const char* family, const std::vector<float>& x,
                          bool exhaustive = false) {
    ASSERT_TRUE(search::has_lanes(task)) << task.format->name << ' ' << task.method->name;
    const search::SearchSpace space = search::make_space(*task.format, task.tensor_scale, task.method->rule);
    const auto blocks = static_cast<std::int64_t>(x.size()) / task.block;
    std::vector<std::uint8_t> got(static_cast<std::size_t>(blocks) + 1, 0xA5);
    search::SearchCount count;
    std::int64_t fours = 0, want_fours = 0;
    search::lane_scales(task, space, x.data(), blocks, got.data(), count, fours);
    EXPECT_EQ(int{got.back()}, 0xA5) << "wrote beyond the last of " << blocks << " blocks";
    for (std::int64_t b = 0; b < blocks; ++b) {
      const float* values = x.data() + b * task.block;
      const Plain want = plain(task, space, values, exhaustive);
      want_fours += want.chose_four;
      ASSERT_EQ(int{got[static_cast<std::size_t>(b)]}, want.code)
          << task.method->name << " block " << b << " of " << blocks << ": "
          << blocks::describe(task.format->name, family, task.tensor_scale, {values, values + task.block});
    }
    EXPECT_EQ(fours, want_fours);
    compared_ += blocks;
  }

  std::int64_t compared_ = 0;
};

TEST_P(EveryTarget, gives_the_plain_codes_on_every_family) {
  std::uint64_t seed = 1;
  for (const CaseRow& row : case_rows) {
    for (const int block : {8, 16, 32}) {
      blocks::Maker maker(maker_format(row), seed++);
      for (const float t : blocks::tensor_scales) {
        if (!search::has_lanes(task_of(row, block, t))) continue;
        std::vector<float> mixed;
        for (int i = 0; i < 4; ++i) {
          for (const blocks::FamilyRow& family : blocks::all_families) {
            const std::vector<float> x = maker.make(family.family, t, block);
            mixed.insert(mixed.end(), x.begin(), x.end());
          }
        }
        expect_plain_codes(task_of(row, block, t, maker.below(4) == 0), "every family", mixed);
      }
    }
  }
  EXPECT_GT(compared_, 10000);
}

/// The largest element on the boundary between two codes, as near as a float comes, and one float beside.
TEST_P(EveryTarget, rounds_a_rule_at_every_boundary_and_beside_it) {
  blocks::Maker maker("nvfp4", 8);
  for (const CaseRow& row : case_rows) {
    const search::Method& method = *search::find_method(row.format, row.method);
    if (method.kind != MethodKind::rule) continue;
    const bool power_of_two = maker_format(row) == std::string_view("mxfp4");
    for (int i = 0; i < 8; ++i) {
      const float t = i == 0 ? 1 : static_cast<float>(std::ldexp(1 + maker.uniform(), -maker.below(20)));
      const search::SearchTask task = task_of(row, 8, t, i % 4 == 3);
      const sim::ScaleRule rule = task.unbiased ? sim::unbiased(method.rule) : method.rule;
      std::vector<float> x;
      for (int code = power_of_two ? 20 : 0; code < (power_of_two ? 235 : 127); ++code) {
        const auto value = [&](int c) { return formats::decode_double(task.format->scale, static_cast<unsigned>(c)); };
        const double boundary = power_of_two || code == 126 ? value(code) : (value(code) + value(code + 1)) / 2;
        const auto amax = static_cast<float>(boundary * rule.divisor / rule.numerator * static_cast<double>(t));
        for (const float at : {std::nextafter(amax, 0.0f), amax, std::nextafter(amax, FLT_MAX)}) {
          x.insert(x.end(), 8, at);
        }
      }
      expect_plain_codes(task, "boundary", x);
    }
  }
}

/// Few significant bits: the same values at several scales, and ties that only the exact comparison sees.
TEST_P(EveryTarget, breaks_the_ties_of_bf16_lattices_as_the_exhaustive_search_does) {
  std::uint64_t seed = 2;
  for (const CaseRow& row : sse_rows) {
    for (const int block : block_sizes) {
      blocks::Maker maker(maker_format(row), seed++);
      std::vector<float> x;
      while (x.size() < 48 * static_cast<std::size_t>(block)) {
        const int most = 1 + maker.below(24);
        const auto unit = static_cast<float>(std::ldexp(8 + maker.below(8), -maker.below(14)));
        for (int i = 0; i < block; ++i) {
          x.push_back(unit * static_cast<float>(maker.below(most) - maker.below(most)));
        }
      }
      expect_plain_codes(task_of(row, block, 1), "lattice", x, true);
    }
  }
}

/// Weights as they are: block scales from 1 to 15 units of E4M3's last place, where odd codes have no half.
TEST_P(EveryTarget, gives_the_exhaustive_codes_without_a_tensor_scale) {
  std::uint64_t seed = 3;
  for (const CaseRow& row : case_rows) {
    for (const double sigma : {0.0002, 0.005, 0.01, 0.024, 0.05, 0.1, 0.3, 1.0}) {
      blocks::Maker maker(maker_format(row), seed++);
      std::vector<float> x(16 * 41);
      for (float& value : x) {
        const auto normal = static_cast<float>(sigma * maker.normal());
        value = __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, normal) & 0xFFFF0000u);
      }
      expect_plain_codes(task_of(row, 16, 1), "normal", x, true);
    }
  }
}

/// Up to the largest code and far beyond it, down to the smallest and far below.
TEST_P(EveryTarget, gives_the_exhaustive_codes_at_both_ends_of_e4m3) {
  blocks::Maker maker("nvfp4", 4);
  for (const CaseRow& row : {CaseRow{"nvfp4", "sse"}, CaseRow{"nvint4", "sse"}}) {
    std::vector<float> x;
    for (int power = -16; power <= 46; ++power) {
      for (int i = 0; i < 3 * 16; ++i) x.push_back(static_cast<float>(std::ldexp(maker.normal(), power)));
    }
    for (const float t : {1.0f, 0x1.234566p-9f, 0x1p-30f}) expect_plain_codes(task_of(row, 16, t), "ends", x, true);
  }
}

TEST_P(EveryTarget, separates_four_from_six_by_one_float) {
  std::vector<float> x;
  for (const float side : {8.5f, std::nextafter(8.5f, 0.0f), std::nextafter(8.5f, 9.0f)}) {
    const float block[16] = {12, side, 0, 6};
    x.insert(x.end(), block, block + 16);
  }
  expect_plain_codes(task_of({"nvfp4", "4over6"}, 16, 1), "one float beside a tie", x);
}

TEST_P(EveryTarget, finds_13_where_naive_says_1) {
  std::vector<float> x(16, 0.0f);
  x[0] = 13 * 0x1p-10f;
  const search::SearchTask task = task_of({"nvfp4", "sse"}, 16, 1);
  const search::SearchSpace space = search::make_space(*task.format, 1, task.method->rule);
  std::uint8_t code = 0;
  search::SearchCount count;
  std::int64_t fours = 0;
  search::lane_scales(task, space, x.data(), 1, &code, count, fours);
  EXPECT_EQ(int{code}, 13);
}

TEST_P(EveryTarget, gives_nan_infinity_and_zero_blocks_their_codes_and_their_neighbours_theirs) {
  for (const CaseRow& row : case_rows) {
    const search::SearchTask task = task_of(row, 16, 1);
    const search::SearchSpace space = search::make_space(*task.format, 1, task.method->rule);
    for (const float bad : {NAN, -NAN, INFINITY, -INFINITY, 0.0f, -0.0f}) {
      std::vector<float> x(21 * 16);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.25f + static_cast<float>(i % 7);
      for (const std::size_t block : {0, 5, 15, 16, 20}) {
        x[block * 16 + block % 16] = bad;
        if (bad == 0) std::fill_n(x.begin() + static_cast<std::ptrdiff_t>(block * 16), 16, bad);
      }
      expect_plain_codes(task, "bad", x);
      std::vector<std::uint8_t> got(21);
      search::SearchCount count;
      std::int64_t fours = 0;
      search::lane_scales(task, space, x.data(), 21, got.data(), count, fours);
      EXPECT_EQ(got[5], bad == 0 ? 0 : space.scale.nan_code()) << row.format << ' ' << row.method << ' ' << bad;
    }
  }
}

TEST_P(EveryTarget, takes_any_number_of_blocks) {
  for (const CaseRow& row : case_rows) {
    blocks::Maker maker(maker_format(row), 5);
    std::vector<float> x;
    for (int blocks = 0; blocks <= 35; ++blocks) {
      expect_plain_codes(task_of(row, 8, 1), "ragged", x);
      const std::vector<float> more = maker.make(blocks::Family::normal, 1, 8);
      x.insert(x.end(), more.begin(), more.end());
    }
  }
}

TEST_P(EveryTarget, looks_at_few_candidates_and_compares_few_exactly) {
  if (GetParam() == HWY_SCALAR) GTEST_SKIP() << "the plain search";
  blocks::Maker maker("nvfp4", 6);
  std::vector<float> x(16 * 1000);
  for (const double sigma : {1.0, 0.024}) {
    for (float& value : x) value = static_cast<float>(sigma * maker.normal());
    const search::SearchTask task = task_of({"nvfp4", "sse"}, 16, 1);
    const search::SearchSpace space = search::make_space(*task.format, 1, task.method->rule);
    std::vector<std::uint8_t> got(1000);
    search::SearchCount count;
    std::int64_t fours = 0;
    search::lane_scales(task, space, x.data(), 1000, got.data(), count, fours);
    EXPECT_GE(count.candidates, 8 * 1000);
    EXPECT_LE(count.candidates, 10 * 1000);
    EXPECT_LE(count.exact, 10);
  }
}

INSTANTIATE_TEST_SUITE_P(targets, EveryTarget, testing::Values(HWY_SCALAR, HWY_SSSE3, HWY_SSE4, HWY_AVX2, HWY_AVX3),
                         [](const auto& row) { return std::string(hwy::TargetName(row.param)); });

TEST(HasLanes, is_for_rules_four_over_six_and_sse_alone) {
  for (const search::Method& method : search::all_methods) {
    const std::string_view format = method.format, name = method.name;
    const bool grid = format != "if4" && format.substr(0, 4) != "mxfp" ? true : format == "mxfp4";
    const bool want = method.kind == MethodKind::rule || method.kind == MethodKind::four_over_six ||
                      (method.kind == MethodKind::sse && grid);
    EXPECT_EQ(search::has_lanes(task_of({method.format, method.name}, 16, 1)), want) << format << ' ' << name;
  }
}

TEST(HasLanes, refuses_what_the_vector_code_does_not_know) {
  const CaseRow sse = {"nvfp4", "sse"};
  for (const int block : {0, 4, 12, 72, 128}) EXPECT_FALSE(search::has_lanes(task_of(sse, block, 1))) << block;
  for (const int block : block_sizes) EXPECT_TRUE(search::has_lanes(task_of(sse, block, 1))) << block;
  for (const float t : {0x1p-31f, 0x1p31f, FLT_MAX, 0x1p-149f}) EXPECT_FALSE(search::has_lanes(task_of(sse, 16, t)));
  search::SearchTask tiles = task_of(sse, 16, 1);
  tiles.tile_rows = 16;
  EXPECT_FALSE(search::has_lanes(tiles));
  search::SearchTask by_mae = task_of({"nvfp4", "4over6"}, 16, 1);
  by_mae.select = search::Select::mae;
  EXPECT_FALSE(search::has_lanes(by_mae));
  formats::BlockFormat own = formats::nvfp4;
  own.levels = {8, {0, 0.5, 1, 1.5, 2, 3, 4, 5}};
  search::SearchTask custom = task_of(sse, 16, 1);
  custom.format = &own;
  EXPECT_FALSE(search::has_lanes(custom));
}

}  // namespace
}  // namespace fp4scope
