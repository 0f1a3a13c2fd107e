// search/hessian.hpp: the code of least r^T H r over all codes, against GMP; intervals that hold the real losses.
#include "search/hessian.hpp"

#include <gtest/gtest.h>

#include "search/search.hpp"
#include "tests/oracle/search_oracle.hpp"
#include "tests/search/blocks.hpp"
#include "tests/search/matrices.hpp"

namespace fp4scope {
namespace {

using blocks::Maker;
using oracle::BlockOracle;

struct FormatRow {
  const char* format;
  int block;
  int rounds;
};

void PrintTo(const FormatRow& row, std::ostream* out) { *out << row.format << ' ' << row.block; }

constexpr FormatRow format_rows[] = {{"nvfp4", 8, 4}, {"nvfp4", 16, 1}, {"mxfp4", 8, 2}, {"nvint4", 8, 3}};

search::Block block_of(const std::vector<float>& x) {
  const int n = static_cast<int>(x.size());
  return {x.data(), n, sim::amax(x.data(), n)};
}

search::SearchSpace space_of(const char* format, float tensor_scale) {
  return search::make_space(*formats::find_block_format(format), tensor_scale, sim::six_rule);
}

int hessian_code(const search::SearchSpace& space, const std::vector<float>& x, const blocks::Matrix& m,
                 search::SearchCount* count = nullptr) {
  std::vector<double> room(2 * x.size());
  std::vector<search::LossInterval> loss(256);
  return search::hessian_code(space, block_of(x), {m.h.data(), m.envelope.data()}, room.data(), loss.data(), count);
}

class EveryFormat : public testing::TestWithParam<FormatRow> {
 protected:
  void expect_the_definition(const char* family, float t, const std::vector<float>& x, const blocks::Matrix& m) {
    const BlockOracle block(oracle::scaled_format(GetParam().format), t, x.data(), static_cast<int>(x.size()));
    const std::vector<mpz_class> h = oracle::matrix_units(m.h.data(), static_cast<int>(x.size()));
    const int got = hessian_code(space_of(GetParam().format, t), x, m), want = block.best_hessian(h);
    ++compared;
    if (got == want || ++failures > 5) return;
    const mpq_class ratio(block.hessian(got, h), block.hessian(want, h));
    ADD_FAILURE() << m.name << ' ' << blocks::describe(GetParam().format, family, t, x) << std::hex << ": got 0x" << got
                  << ", want 0x" << want << ", loss larger by 1 + " << mpq_class(ratio - 1).get_d();
  }

  long compared = 0;
  int failures = 0;
};

TEST_P(EveryFormat, hessian_equals_gmp_over_all_codes_for_every_family_of_h) {
  Maker maker(GetParam().format, 31);
  const int n = GetParam().block;
  for (const blocks::Matrix& m : blocks::matrices(n)) {
    for (const blocks::FamilyRow& family : blocks::all_families) {
      for (int i = 0; i < GetParam().rounds; ++i) {
        const float t = blocks::tensor_scales[maker.below(static_cast<int>(std::size(blocks::tensor_scales)))];
        expect_the_definition(family.name, t, maker.make(family.family, t, n), m);
      }
    }
  }
  RecordProperty("compared", std::to_string(compared));
}

/// Residuals that are permutations of one another: equal real losses, unequal sums in binary64.
TEST_P(EveryFormat, real_ties_go_to_the_lowest_code_although_binary64_tells_them_apart) {
  Maker maker(GetParam().format, 32);
  const blocks::Matrix tenth = blocks::equal_correlation(4, 0.1, 0.03), third = blocks::equal_correlation(4, 1 / 3., 0);
  for (int i = 0; i < 800; ++i) {
    const std::vector<float> x = maker.make(blocks::Family::lattice, 1, 4);
    expect_the_definition("lattice", 1, x, i % 2 ? tenth : third);
  }
}

/// r almost orthogonal to the one direction of H: losses that binary64 knows to no digit.
TEST_P(EveryFormat, losses_that_cancel_are_ordered_exactly) {
  Maker maker(GetParam().format, 33);
  for (int i = 0; i < 600; ++i) {
    const blocks::Matrix m = blocks::rank_one(4, maker.uniform());
    expect_the_definition("cancels", 1, maker.make(i % 3 ? blocks::Family::lattice : blocks::Family::normal, 1, 4), m);
  }
}

TEST_P(EveryFormat, identity_gives_the_code_of_sse) {
  Maker maker(GetParam().format, 34);
  const int n = GetParam().block;
  const blocks::Matrix identity = blocks::diagonal(std::vector<double>(static_cast<std::size_t>(n), 1.0));
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (int i = 0; i < 60; ++i) {
      const float t = blocks::tensor_scales[i % static_cast<int>(std::size(blocks::tensor_scales))];
      const std::vector<float> x = maker.make(family.family, t, n);
      const search::SearchSpace space = space_of(GetParam().format, t);
      const int got = hessian_code(space, x, identity), want = search::sse_code(space, block_of(x));
      ASSERT_EQ(got, want) << blocks::describe(GetParam().format, family.name, t, x);
    }
  }
}

TEST_P(EveryFormat, zero_h_gives_the_lowest_positive_code_and_a_zero_block_0) {
  const auto n = static_cast<std::size_t>(GetParam().block);
  const blocks::Matrix zero = blocks::diagonal(std::vector<double>(n, 0.0)),
                       one = blocks::diagonal(std::vector<double>(n, 1.0));
  const search::SearchSpace space = space_of(GetParam().format, 1);
  EXPECT_EQ(hessian_code(space, std::vector<float>(n, 1.5f), zero),
            oracle::scaled_format(GetParam().format).first_code());
  EXPECT_EQ(hessian_code(space, std::vector<float>(n, -0.0f), one), 0);
}

TEST_P(EveryFormat, every_interval_holds_the_real_loss) {
  Maker maker(GetParam().format, 35);
  const int n = 6;
  std::vector<double> room(2 * n);
  for (const blocks::Matrix& m : blocks::matrices(n)) {
    const std::vector<double>& h = m.h;
    for (const blocks::FamilyRow& family : blocks::all_families) {
      const float t = blocks::tensor_scales[maker.below(static_cast<int>(std::size(blocks::tensor_scales)))];
      const std::vector<float> x = maker.make(family.family, t, n);
      const BlockOracle block(oracle::scaled_format(GetParam().format), t, x.data(), n);
      for (int i = 0; i < 4; ++i) {
        const search::SearchSpace space = space_of(GetParam().format, t);
        const int code = maker.below(space.last_code + 1);
        const search::LossInterval got =
            search::hessian_loss(space, block_of(x), {h.data(), m.envelope.data()}, code, room.data());
        const std::vector<mpz_class> r = block.residuals(code);
        mpq_class loss = 0;
        for (int a = 0; a < n * n; ++a) loss += mpq_class(h[a]) * r[a / n] * r[a % n];
        loss /= mpz_class(1) << 554;
        ASSERT_LE(abs(mpq_class(mpq_class(got.value) - loss)), mpq_class(got.radius))
            << m.name << ' ' << blocks::describe(GetParam().format, family.name, t, x) << std::hex << " code 0x"
            << code;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(formats, EveryFormat, testing::ValuesIn(format_rows), [](const auto& row) {
  return std::string(row.param.format) + "_" + std::to_string(row.param.block);
});

TEST(Hessian, codes_of_the_same_values_tie_exactly) {
  const std::vector<float> x = {12, -6, 3, 0};
  const blocks::Matrix m = blocks::equal_correlation(4, 0.1, 0.03);
  const search::SearchSpace space = space_of("nvfp4", 1);
  // 12, 6 and 3 are 6, 3 and 1.5 at scale 2 and 4, 2 and 1 at scale 3
  EXPECT_EQ(search::compare_hessian_exact(space, block_of(x), {m.h.data(), m.envelope.data()}, 0x40, 0x44), 0);
  EXPECT_EQ(search::compare_hessian_exact(space, block_of(x), {m.h.data(), m.envelope.data()}, 0x41, 0x40), 1);
  EXPECT_EQ(search::compare_hessian_exact(space, block_of(x), {m.h.data(), m.envelope.data()}, 0x40, 0x41), -1);
}

/// The signs of x count: H couples the elements.
TEST(Hessian, signs_matter) {
  Maker maker("nvfp4", 36);
  const blocks::Matrix m = blocks::autoregressive(8, 0.9);
  const search::SearchSpace space = space_of("nvfp4", 0x1p-9f);
  int different = 0;
  for (int i = 0; i < 100; ++i) {
    std::vector<float> x = maker.make(blocks::Family::normal, 0x1p-9f, 8), y = x, z = x;
    for (std::size_t k = 0; k < x.size(); ++k) y[k] = std::fabs(x[k]), z[k] = -x[k];
    different += hessian_code(space, x, m) != hessian_code(space, y, m);
    EXPECT_EQ(hessian_code(space, x, m), hessian_code(space, z, m));
  }
  EXPECT_GT(different, 10);
}

struct ActivationRow {
  const char* name;
  float (*value)(Maker&, int column);
};

const ActivationRow activation_rows[] = {
    {"normal", [](Maker& m, int) { return static_cast<float>(m.normal()); }},
    {"outlier_channel", [](Maker& m, int c) { return static_cast<float>(m.normal() * (c % 8 == 3 ? 1000 : 1)); }},
    {"zero_column", [](Maker& m, int c) { return c % 4 == 1 ? 0 : static_cast<float>(m.normal()); }},
    {"equal_columns", [](Maker&, int) { return 0.1f; }},
    {"whole_range", [](Maker& m, int) { return m.make(blocks::Family::whole_range, 1, 1)[0]; }},
    {"subnormal", [](Maker& m, int) { return m.make(blocks::Family::tiny, 1, 1)[0]; }},
    {"largest", [](Maker&, int c) { return c % 2 ? FLT_MAX : -FLT_MAX; }},
    {"zero", [](Maker&, int) { return 0.0f; }},
};

TEST(Hessians, are_sums_over_tokens_in_order_within_their_envelopes) {
  constexpr int cols = 24, block = 8;
  for (const ActivationRow& row : activation_rows) {
    for (const int tokens : {1, 3, 40}) {
      Maker maker("nvfp4", 37);
      std::vector<float> x;
      for (int i = 0; i < tokens * cols; ++i) x.push_back(row.value(maker, i % cols));
      const search::Hessians hessians = search::make_hessians(x.data(), tokens, cols, block);
      ASSERT_EQ(hessians.count(), std::size_t{cols / block});
      for (int b = 0; b < cols / block; ++b) {
        const double* h = hessians.of(static_cast<std::size_t>(b));
        const double* envelope = hessians.envelope.data() + b * block;
        for (int i = 0; i < block; ++i) {
          for (int j = 0; j < block; ++j) {
            double want = 0;
            for (int t = 0; t < tokens; ++t) {
              want +=
                  static_cast<double>(x[t * cols + b * block + i]) * static_cast<double>(x[t * cols + b * block + j]);
            }
            ASSERT_EQ(h[i * block + j], want) << row.name << ' ' << b << ' ' << i << ' ' << j;
            ASSERT_TRUE(std::isfinite(envelope[i]) && std::isfinite(envelope[j])) << row.name;
            ASSERT_LE(mpq_class(std::fabs(want)), mpq_class(envelope[i]) * mpq_class(envelope[j]))
                << row.name << " block " << b << ", entry " << i << ", " << j << ": " << want;
          }
        }
      }
    }
  }
}

/// Two constant columns for which 2^18 roundings take h_ij above sqrt(h_ii h_jj) by 2^-36 of itself.
TEST(Hessians, envelopes_hold_where_rounding_breaks_cauchy_schwarz) {
  constexpr int tokens = 1 << 18;
  std::vector<float> x;
  for (int t = 0; t < tokens; ++t) x.insert(x.end(), {0x1.010686p+0f, 0x1.becad4p+0f});
  const search::Hessians hessians = search::make_hessians(x.data(), tokens, 2, 2);
  const std::vector<double>& h = hessians.h;
  ASSERT_GT(mpq_class(h[1]) * mpq_class(h[1]), mpq_class(h[0]) * mpq_class(h[3]) * (1 + mpq_class(0x1p-37)));
  EXPECT_LE(mpq_class(h[1]), mpq_class(hessians.envelope[0]) * mpq_class(hessians.envelope[1]));
}

}  // namespace
}  // namespace fp4scope
