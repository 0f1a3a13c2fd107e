// Every method of search/methods.hpp on a sample of blocks against tests/oracle/search_oracle.hpp, which tries every
// code in integers and shares no code with the library.
#include "tests/oracle/search_oracle.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include "search/search.hpp"
#include "tests/search/blocks.hpp"
#include "tests/search/matrices.hpp"

namespace fp4scope {
namespace {

using oracle::BlockOracle;
using oracle::Direction;
using search::Select;

struct RuleRow {
  const char* format;
  const char* name;
  int twice_divisor;
  Direction direction;
};

constexpr RuleRow rule_rows[] = {
    {"nvfp4", "naive", 12, Direction::nearest_even},
    {"nvfp4", "static6", 12, Direction::nearest_even},
    {"nvfp4", "static4", 8, Direction::nearest_even},
    {"nvint4", "naive", 14, Direction::nearest_even},
    {"nvint4", "static6", 14, Direction::nearest_even},
    {"mxfp4", "naive", 8, Direction::down},
    {"mxfp4", "floor", 8, Direction::down},
    {"mxfp4", "even", 7, Direction::down},
    {"mxfp4", "ceil", 8, Direction::up},
    {"mxfp4", "static4", 8, Direction::up},
    {"mxfp4", "rceil", 12, Direction::up},
    {"mxfp4", "static6", 12, Direction::up},
};

struct SizeRow {
  const char* format;
  int block;
  int rounds;  ///< sets of blocks, one block of each family at each tensor scale
};

void PrintTo(const SizeRow& row, std::ostream* out) { *out << row.format << ' ' << row.block; }

constexpr SizeRow size_rows[] = {{"nvfp4", 16, 6}, {"nvfp4", 32, 2},  {"nvfp4", 2, 16}, {"mxfp4", 32, 2},
                                 {"mxfp4", 16, 3}, {"nvint4", 16, 6}, {"nvint4", 32, 2}};

int library_code(const char* format, const char* method, Select select, float t, const std::vector<float>& x,
                 const search::Hessians* hessians = nullptr) {
  const int n = static_cast<int>(x.size());
  const search::SearchTask task = {
      formats::find_block_format(format), search::find_method(format, method), select, n, t, hessians};
  return search::search_scales(task, x.data(), 1, n).scales[0];
}

class EveryFormatAndBlock : public testing::TestWithParam<SizeRow> {
 protected:
  void SetUp() override { omp_set_num_threads(1); }  // one block at a time is no work for two

  /// check(family, tensor scale, block) over all families and tensor scales.
  template <typename Check>
  void for_every_block(int rounds, std::uint64_t seed, const Check& check) {
    blocks::Maker maker(GetParam().format, seed);
    for (const blocks::FamilyRow& family : blocks::all_families) {
      for (const float t : blocks::tensor_scales) {
        for (int i = 0; i < rounds; ++i) check(family.name, t, maker.make(family.family, t, GetParam().block));
      }
    }
    EXPECT_EQ(failures, 0) << "of " << compared;
    RecordProperty("compared", std::to_string(compared));
  }

  template <typename Loss>
  void expect_same(const char* what, const char* family, float t, const std::vector<float>& x, int got, int want,
                   const Loss& loss, int exponent) {
    ++compared;
    if (got == want || ++failures > 5) return;
    ADD_FAILURE() << what << ' ' << blocks::describe(GetParam().format, family, t, x) << std::hex << ": got 0x" << got
                  << " with loss " << oracle::approximate(loss(got), exponent) << ", want 0x" << want << " with loss "
                  << oracle::approximate(loss(want), exponent);
  }

  long compared = 0;
  int failures = 0;
};

TEST_P(EveryFormatAndBlock, sse_and_exhaustive_are_the_least_sse_of_all_codes) {
  const char* format = GetParam().format;
  for_every_block(GetParam().rounds, 51, [&](const char* family, float t, const std::vector<float>& x) {
    const BlockOracle block(oracle::scaled_format(format), t, x.data(), GetParam().block);
    const auto loss = [&](int code) { return block.sse(code); };
    const int want = block.best(loss);
    for (const char* method : {"sse", "exhaustive"}) {
      expect_same(method, family, t, x, library_code(format, method, Select::mse, t, x), want, loss, -554);
    }
  });
}

TEST_P(EveryFormatAndBlock, rules_are_the_rounded_quotient_of_amax) {
  const char* format = GetParam().format;
  for_every_block(4 * GetParam().rounds, 52, [&](const char* family, float t, const std::vector<float>& x) {
    const BlockOracle block(oracle::scaled_format(format), t, x.data(), GetParam().block);
    const auto loss = [&](int code) { return block.sse(code); };
    for (const RuleRow& rule : rule_rows) {
      if (std::string_view(rule.format) != format) continue;
      const int want = block.rule(rule.twice_divisor, rule.direction);
      expect_same(rule.name, family, t, x, library_code(format, rule.name, Select::mse, t, x), want, loss, -554);
    }
  });
}

TEST_P(EveryFormatAndBlock, four_over_six_is_the_better_of_two_by_each_criterion) {
  if (std::string_view(GetParam().format) != "nvfp4") return;  // NVFP4 alone has it
  for_every_block(8 * GetParam().rounds, 53, [&](const char* family, float t, const std::vector<float>& x) {
    const BlockOracle block(oracle::scaled_format("nvfp4"), t, x.data(), GetParam().block);
    const auto expect = [&](const char* name, Select select, int exponent, const auto& loss) {
      const int got = library_code("nvfp4", "4over6", select, t, x);
      expect_same(name, family, t, x, got, block.four_over_six(loss), loss, exponent);
    };
    expect("4over6 mse", Select::mse, -554, [&](int code) { return block.sse(code); });
    expect("4over6 mae", Select::mae, -277, [&](int code) { return block.mae(code); });
    expect("4over6 absmax", Select::absmax, -277, [&](int code) { return block.absmax(code); });
  });
}

TEST_P(EveryFormatAndBlock, hessian_is_the_least_loss_of_all_codes) {
  const char* format = GetParam().format;
  const int n = GetParam().block;
  const std::vector<blocks::Matrix> matrices = blocks::matrices(n);
  std::size_t next = 0;
  for_every_block(n == 2 ? 4 : 1, 54, [&](const char* family, float t, const std::vector<float>& x) {
    const blocks::Matrix& m = matrices[next++ % matrices.size()];
    const BlockOracle block(oracle::scaled_format(format), t, x.data(), n);
    const std::vector<mpz_class> h = oracle::matrix_units(m.h.data(), n);
    const search::Hessians hessians = {n, m.h, m.envelope};
    const auto loss = [&](int code) { return block.hessian(code, h); };
    const int got = library_code(format, "hessian", Select::mse, t, x, &hessians);
    expect_same(m.name.c_str(), family, t, x, got, block.best(loss), loss, -554);
  });
}

INSTANTIATE_TEST_SUITE_P(sizes, EveryFormatAndBlock, testing::ValuesIn(size_rows), [](const auto& row) {
  return std::string(row.param.format) + "_" + std::to_string(row.param.block);
});

}  // namespace
}  // namespace fp4scope
