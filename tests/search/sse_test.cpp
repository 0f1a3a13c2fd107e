// search/sse.hpp: the pruned search gives the exhaustive one's code on every block; ties go to the lowest code.
#include "search/sse.hpp"

#include <gtest/gtest.h>

#include "search/methods.hpp"
#include "tests/oracle/search_oracle.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

using blocks::Maker;
using oracle::BlockOracle;

struct SizeRow {
  const char* format;
  int block;
  int rounds;  ///< blocks of each family at each tensor scale
};

void PrintTo(const SizeRow& row, std::ostream* out) { *out << row.format << ' ' << row.block; }

constexpr SizeRow size_rows[] = {{"nvfp4", 16, 500}, {"nvfp4", 32, 200}, {"nvfp4", 2, 1000},  {"nvfp4", 1024, 2},
                                 {"mxfp4", 32, 100}, {"mxfp4", 16, 200}, {"nvint4", 16, 400}, {"nvint4", 32, 200}};

search::SearchSpace space_of(const char* format, float tensor_scale) {
  return search::make_space(*formats::find_block_format(format), tensor_scale,
                            search::find_method(format, "sse")->rule);
}

search::Block block_of(const std::vector<float>& x) {
  const int n = static_cast<int>(x.size());
  return {x.data(), n, sim::amax(x.data(), n)};
}

int sse_of(const char* format, float tensor_scale, const std::vector<float>& x) {
  return search::sse_code(space_of(format, tensor_scale), block_of(x));
}

std::string compare_text(const char* format, float t, const std::vector<float>& x, int got, int want) {
  const BlockOracle block(oracle::scaled_format(format), t, x.data(), static_cast<int>(x.size()));
  char text[160];
  std::snprintf(text, sizeof text, ": got code 0x%X with SSE %.17g, want 0x%X with SSE %.17g", got,
                block.shown_sse(got), want, block.shown_sse(want));
  return text;
}

/// T v^2 Q - 2 v X, term by term.
mpq_class linear_terms(const search::SearchSpace& space, const search::Block& block, int code) {
  const double step = space.step(code), v = space.scale_value[code];
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  mpq_class sum = 0;
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.magnitude(block.x[i]);
    const mpq_class q(space.grid.level[sim::nearest_index(thresholds, magnitude)]);
    sum += mpq_class(space.tensor_scale) * mpq_class(v) * v * q * q - 2 * mpq_class(v) * q * mpq_class(magnitude);
  }
  return sum;
}

class EveryFormatAndBlock : public testing::TestWithParam<SizeRow> {};

TEST_P(EveryFormatAndBlock, sse_equals_exhaustive_on_every_block) {
  const SizeRow& row = GetParam();
  Maker maker(row.format, 1);
  long compared = 0, failures = 0;
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (const float t : blocks::tensor_scales) {
      const search::SearchSpace space = space_of(row.format, t);
      for (int i = 0; i < row.rounds; ++i, ++compared) {
        const std::vector<float> x = maker.make(family.family, t, row.block);
        const int got = search::sse_code(space, block_of(x)), want = search::sse_code_ref(space, block_of(x));
        if (got == want || ++failures > 5) continue;
        ADD_FAILURE() << blocks::describe(row.format, family.name, t, x) << " number " << i
                      << compare_text(row.format, t, x, got, want);
      }
    }
  }
  EXPECT_EQ(failures, 0) << "of " << compared;
  RecordProperty("compared", std::to_string(compared));
}

TEST_P(EveryFormatAndBlock, the_start_does_not_change_what_is_found) {
  const SizeRow& row = GetParam();
  Maker maker(row.format, 2);
  constexpr sim::ScaleRule starts[] = {
      {6, formats::Rounding::nearest_even}, {1e-30, formats::Rounding::up}, {1e30, formats::Rounding::toward_zero}};
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (int i = 0; i < std::min(row.rounds, 40); ++i) {
      const std::vector<float> x = maker.make(family.family, 1, row.block);
      search::SearchSpace space = space_of(row.format, 1);
      const int want = search::sse_code_ref(space, block_of(x));
      for (const sim::ScaleRule start : starts) {
        space.start = start;
        const int got = search::sse_code(space, block_of(x));
        ASSERT_EQ(got, want) << blocks::describe(row.format, family.name, 1, x) << ", start amax / " << start.divisor
                             << compare_text(row.format, 1, x, got, want);
      }
    }
  }
}

TEST_P(EveryFormatAndBlock, exact_terms_agree_with_gmp_on_any_two_codes) {
  const SizeRow& row = GetParam();
  Maker maker(row.format, 3);
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (const float t : blocks::tensor_scales) {
      const std::vector<float> x = maker.make(family.family, t, row.block);
      const search::SearchSpace space = space_of(row.format, t);
      const search::Block block = block_of(x);
      const BlockOracle by_gmp(oracle::scaled_format(row.format), t, x.data(), row.block);
      for (int i = 0; i < std::max(1, 160 / row.block); ++i) {
        const int a = maker.below(space.last_code + 1), b = maker.below(space.last_code + 1);
        const int want = cmp(by_gmp.sse(a), by_gmp.sse(b));
        search::ExactSum sum;
        search::add_sse_terms(sum, space, block, a, 1);
        search::add_sse_terms(sum, space, block, b, -1);
        const int compared =
            search::compare_sse(space, block, a, search::sums_at(space, block, a), b, search::sums_at(space, block, b));
        ASSERT_EQ(sum.sign(), (want > 0) - (want < 0))
            << blocks::describe(row.format, family.name, t, x) << compare_text(row.format, t, x, a, b);
        const int wide = space.scale_value[a] > 0 || space.scale_value[b] > 0
                             ? search::compare_sse_wide(space, space, block, a, b)
                             : compared;
        ASSERT_EQ(wide, sum.sign()) << blocks::describe(row.format, family.name, t, x)
                                    << compare_text(row.format, t, x, a, b);
        ASSERT_EQ(compared, sum.sign()) << blocks::describe(row.format, family.name, t, x)
                                        << compare_text(row.format, t, x, a, b);
      }
    }
  }
}

/// Full significands at both ends of the usual range, in blocks of the largest size, and every family: T A - 2 B in
/// binary64 is the real number.
TEST_P(EveryFormatAndBlock, binary64_is_exact_in_the_usual_range) {
  const SizeRow& row = GetParam();
  Maker maker(row.format, 4);
  long compared = 0;
  for (const float t : {1.0f, 0x1.fffffep-20f, 0x1.234567p-11f, 0x1p-149f, 0x1.555554p100f}) {
    const search::SearchSpace space = space_of(row.format, t);
    const int n = std::min(space.exact_block, search::max_block);
    ASSERT_GE(n, 128);
    for (int i = 0; i < 100; ++i) {
      const bool extreme = i % 32 == 0;
      const auto family = blocks::all_families[static_cast<std::size_t>(i) % std::size(blocks::all_families)].family;
      std::vector<float> x = maker.make(family, t, extreme ? n : std::min(row.block, 32));
      const int code = space.first_code + maker.below(space.last_code);
      for (float& value : x) {
        if (!extreme) continue;
        const double spread = maker.below(2) ? 0.26 : search::usual_high * (1 - 0x1p-20);
        value = __builtin_bit_cast(
            float,
            __builtin_bit_cast(std::uint32_t, static_cast<float>(std::min(spread * space.step(code), 0x1p127))) | 1);
      }
      const search::Block block = block_of(x);
      std::vector<int> usual;
      for (int c = space.first_code; c <= space.last_code && block.amax > 0; ++c) {
        if (in_usual_range(space, block, c)) usual.push_back(c);
      }
      for (int pair = 0; pair < 2 && !usual.empty(); ++pair) {
        const int a = usual[static_cast<std::size_t>(maker.below(static_cast<int>(usual.size())))];
        const int b = pair % 2 ? usual.front() : usual.back();
        const search::Sums at_a = search::sums_at(space, block, a), at_b = search::sums_at(space, block, b);
        const double va = space.scale_value[a], vb = space.scale_value[b];
        const double quadratic = space.tensor_scale * (va * va * at_a.q) - space.tensor_scale * (vb * vb * at_b.q);
        const double difference = quadratic - (2 * va * at_a.x - 2 * vb * at_b.x);
        const mpq_class want = linear_terms(space, block, a) - linear_terms(space, block, b);
        ASSERT_EQ(mpq_class(difference), want)
            << blocks::describe(row.format, "extreme", t, x) << std::hex << " 0x" << a << " 0x" << b;
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 200);
}

/// Outside it X may be off by a rounding for each addition: a tie must still be a tie, and an order the real one.
TEST_P(EveryFormatAndBlock, rounded_sums_do_not_change_an_order_outside) {
  const SizeRow& row = GetParam();
  Maker maker(row.format, 4);
  for (int i = 0; i < 2000 / row.block + 20; ++i) {
    const std::vector<float> x = maker.make(blocks::Family::lattice, 0x1.234566p-11f, row.block);
    search::SearchSpace space = space_of(row.format, 0x1.234566p-11f);
    const int best = search::sse_code_ref(space, block_of(x));
    space.exact_block = 0;
    for (int code = std::max(best - 20, space.first_code); code <= std::min(best + 20, space.last_code); ++code) {
      const search::Sums a = search::sums_at(space, block_of(x), best), b = search::sums_at(space, block_of(x), code);
      const int order = search::compare_sse(space, block_of(x), best, a, code, b);
      for (const double error : {row.block * -0x1p-53, row.block * 0x1p-53}) {
        const search::Sums off = {b.x * (1 + error), b.q};
        ASSERT_EQ(search::compare_sse(space, block_of(x), best, a, code, off), order)
            << blocks::describe(row.format, "lattice", 0x1.234566p-11f, x) << std::hex << " 0x" << best << " 0x"
            << code;
      }
    }
  }
}

TEST_P(EveryFormatAndBlock, upper_bound_is_at_least_the_real_sse) {
  const SizeRow& row = GetParam();
  Maker maker(row.format, 5);
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (const float t : blocks::tensor_scales) {
      for (int i = 0; i < std::max(1, 160 / row.block); ++i) {
        std::vector<float> x = maker.make(family.family, t, row.block);
        const search::SearchSpace space = space_of(row.format, t);
        const BlockOracle by_gmp(oracle::scaled_format(row.format), t, x.data(), row.block);
        double energy = 0;
        for (const float value : x) energy += static_cast<double>(value) * static_cast<double>(value);
        for (const int code : {search::sse_code(space, block_of(x)), maker.below(space.last_code + 1)}) {
          const search::Best best = {code, search::sums_at(space, block_of(x), code)};
          const mpq_class bound(search::sse_upper_bound(space, block_of(x), energy, best));
          ASSERT_GE(bound * (mpz_class(1) << 554), by_gmp.sse(code))
              << blocks::describe(row.format, family.name, t, x) << std::hex << " 0x" << code << ": "
              << by_gmp.shown_sse(code) << " above " << bound.get_d();
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(sizes, EveryFormatAndBlock, testing::ValuesIn(size_rows), [](const auto& row) {
  return std::string(row.param.format) + "_" + std::to_string(row.param.block);
});

/// Odd codes below 16 have no half and are often the answer where block scales are subnormal.
TEST(Sse, finds_13_where_naive_says_1) {
  std::vector<float> x(16, 0.0f);
  x[3] = 13 * 0x1p-10f;
  const search::SearchSpace space = space_of("nvfp4", 1);
  EXPECT_EQ(sim::scale_code(formats::e4m3, sim::six_rule, x[3], 1), 1);
  const int code = search::sse_code(space, block_of(x));
  EXPECT_EQ(code, 13);  // 13 * 2^-9 * 0.5
  EXPECT_EQ(BlockOracle(oracle::scaled_format("nvfp4"), 1, x.data(), 16).sse(code), 0);
}

struct AnswerRow {
  const char* claim;
  const char* format;
  float tensor_scale;
  std::vector<float> x;
  int code;
};

const AnswerRow answer_rows[] = {
    {"an all-zero block has code 0", "nvfp4", 1, {0, -0.0f, 0, 0}, 0},
    {"an all-zero block has code 0", "mxfp4", 1, {0, -0.0f, 0, 0}, 0},
    {"an all-zero block has code 0", "nvint4", 0x1p-149f, {0, 0}, 0},
    {"a power of two is held by many codes: 1, the lowest, as 2 * 2^-9", "nvfp4", 1, {0x1p-8f, 0}, 1},
    {"12 = 6 * 2 = 4 * 3 = 3 * 4 = ...: the lowest", "nvfp4", 1, {12, -12, 0, 0}, 0x40},
    {"1 is 4 / 4, the lowest E8M0", "mxfp4", 1, {1, 0}, 125},
    {"7 is 7 * 1", "nvint4", 1, {7, 0}, 0x38},
    {"6 = 6 * 1 and no lower code", "nvint4", 1, {6, 0}, 0x38},
    {"too large for every code: the largest", "nvfp4", 0x1p-20f, {1, 0.5f}, 0x7E},
    {"too small for every code: the lowest positive", "nvfp4", 0x1p100f, {1, -1}, 1},
    {"too small for every code: the lowest positive", "mxfp4", FLT_MAX, {0x1p-149f, 0}, 0},
    {"the largest float", "mxfp4", 1, {FLT_MAX, 0}, 253},
    {"the smallest float is 4 / 4 of the smallest tensor scale", "nvfp4", 0x1p-149f, {0x1p-149f, 0}, 0x28},
};

TEST(Sse, gives_the_answers_of_the_table) {
  for (const AnswerRow& row : answer_rows) {
    const BlockOracle block(oracle::scaled_format(row.format), row.tensor_scale, row.x.data(),
                            static_cast<int>(row.x.size()));
    EXPECT_EQ(block.best_sse(), row.code) << row.claim << std::hex << ": 0x" << block.best_sse();
    const int got = sse_of(row.format, row.tensor_scale, row.x);
    EXPECT_EQ(got, row.code) << row.claim << compare_text(row.format, row.tensor_scale, row.x, got, row.code);
  }
}

/// Multiples of 2 (of 4 and 8) on both grids: s and 2s give the same values, and s is the lower code.
TEST(Sse, ties_between_a_scale_and_its_double_go_to_the_lower) {
  for (int code = 1; code <= 110; ++code) {
    const auto unit = static_cast<float>(formats::decode_double(formats::e4m3, static_cast<unsigned>(code)));
    const std::vector<float> x = {6 * unit, -4 * unit, 2 * unit, 3 * unit, unit, 0};
    const BlockOracle block(oracle::scaled_format("nvfp4"), 1, x.data(), 6);
    const int got = sse_of("nvfp4", 1, x), want = block.best_sse();
    EXPECT_EQ(block.sse(want), 0);
    EXPECT_LE(want, code);
    EXPECT_EQ(got, want) << compare_text("nvfp4", 1, x, got, want);
  }
}

TEST(Sse, looks_at_fewer_candidates_than_exhaustive) {
  Maker maker("nvfp4", 4);
  search::SearchCount pruned, all;
  const search::SearchSpace space = space_of("nvfp4", 0x1p-9f);
  for (int i = 0; i < 200; ++i) {
    const std::vector<float> x = maker.make(blocks::Family::normal, 0x1p-9f, 16);
    search::sse_code(space, block_of(x), &pruned);
    search::sse_code_ref(space, block_of(x), &all);
  }
  EXPECT_EQ(all.candidates, 200 * 126);
  EXPECT_LT(pruned.candidates, all.candidates / 3);
}

}  // namespace
}  // namespace fp4scope
