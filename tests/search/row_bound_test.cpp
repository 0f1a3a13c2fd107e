// search/row_bound.hpp: no assignment is below the bound; theta in rationals; where the bound is sharp and where it is
// 0.
#include "search/row_bound.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>
#include <omp.h>

#include "search/gptq.hpp"
#include "search/row_descent.hpp"
#include "tests/search/row_fixture.hpp"

namespace fp4scope {
namespace {

using rows::hessian_of;
using rows::nvfp4_space;
using search::FullHessian;
using search::Hessians;
using search::Minorant;
using search::SearchSpace;

constexpr Minorant all_minorants[] = {Minorant::identity, Minorant::blocks, Minorant::conditional};

/// Whether H - theta B is positive semidefinite, in rationals: elimination without a negative pivot.
bool semidefinite(const FullHessian& hessian, const Hessians& b, double theta) {
  const std::int64_t n = hessian.cols, block = b.block;
  std::vector<mpq_class> m(hessian.h.begin(), hessian.h.end());
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < block; ++j) {
      m[i * n + i / block * block + j] -= mpq_class(theta) * b.of(i / block)[i % block * block + j];
    }
  }
  for (std::int64_t k = 0; k < n; ++k) {
    if (m[k * n + k] <= 0) return false;
    for (std::int64_t i = k + 1; i < n; ++i) {
      const mpq_class factor = m[i * n + k] / m[k * n + k];
      for (std::int64_t j = k; j < n; ++j) m[i * n + j] -= factor * m[k * n + j];
    }
  }
  return true;
}

TEST(RowBound, theta_holds_in_rationals_and_is_within_three_percent_of_the_largest) {
  for (const rows::Activations family : rows::all_activations) {
    const FullHessian hessian = hessian_of(family, 20, 12, 51);
    for (const Minorant minorant : all_minorants) {
      const Hessians b = search::minorant_blocks(hessian, 4, minorant);
      const double theta = search::certified_theta(hessian, b);
      EXPECT_TRUE(semidefinite(hessian, b, theta)) << theta;
      EXPECT_FALSE(semidefinite(hessian, b, 1.03 * theta)) << theta;
    }
  }
}

TEST(RowBound, theta_is_zero_for_a_singular_or_indefinite_matrix) {
  for (const Minorant minorant : all_minorants) {
    const FullHessian low_rank = hessian_of(rows::Activations::common, 6, 24, 52);
    EXPECT_EQ(search::certified_theta(low_rank, search::minorant_blocks(low_rank, 8, minorant)), 0);
    FullHessian indefinite = hessian_of(rows::Activations::common, 60, 24, 53);
    indefinite.h[24 * 3 + 9] = indefinite.h[24 * 9 + 3] = 2 * indefinite.h[24 * 3 + 3];
    EXPECT_EQ(search::certified_theta(indefinite, search::minorant_blocks(indefinite, 8, minorant)), 0);
    const FullHessian zero = {24, std::vector<double>(24 * 24, 0.0)};
    EXPECT_EQ(search::certified_theta(zero, search::minorant_blocks(zero, 8, minorant)), 0);
  }
}

/// With two columns and blocks of one, all assignments can be looked at: a column's values are its 126 * 15 products.
TEST(RowBound, is_below_the_least_of_all_assignments_of_two_columns) {
  for (int round = 0; round < 4; ++round) {
    const std::vector<float> x = rows::normal(2, 1, 54 + round);
    const SearchSpace space = search::make_space(formats::nvfp4, 0.011f * static_cast<float>(1 + round), sim::six_rule);
    const double rho = round % 2 ? -0.7 : 0.9;
    const FullHessian hessian = {2, {1, rho * 1.5, rho * 1.5, 2.25}};
    std::vector<double> values;
    for (int code = 1; code <= 126; ++code) {
      for (int level = -7; level <= 7; ++level) values.push_back(search::signed_level(space, level) * space.step(code));
    }
    double least = INFINITY;
    for (const double v : values) {
      for (const double w : values) {
        const double a = x[0] - v, b = x[1] - w;
        least = std::min(least, a * a + 3 * rho * a * b + 2.25 * b * b);
      }
    }
    for (const Minorant minorant : all_minorants) {
      const search::RowBound bound = search::row_bound(space, hessian, 1, minorant, x.data(), 1);
      EXPECT_LE(bound.bound[0], least) << static_cast<int>(minorant);
      EXPECT_GT(bound.bound[0], 0) << static_cast<int>(minorant);
    }
  }
}

TEST(RowBound, is_sharp_up_to_theta_where_h_is_block_diagonal) {
  const std::int64_t cols = 24;
  const int block = 8;
  const std::vector<float> x = rows::normal(2 * cols, 1, 60);
  const SearchSpace space = nvfp4_space(x);
  FullHessian hessian = hessian_of(rows::Activations::autoregressive, 50, cols, 61);
  for (std::int64_t i = 0; i < cols * cols; ++i) {
    if (i / cols / block != i % cols / block) hessian.h[i] = 0;
  }
  const search::Assignment zero = {std::vector<std::uint8_t>(2 * cols / block, 1),
                                   std::vector<std::int8_t>(2 * cols, 0)};
  const search::RowDescent best =
      search::row_descent(space, hessian, block, x.data(), 2, zero, {search::RowStep::closest, 5, 100000000});
  for (const Minorant minorant : {Minorant::blocks, Minorant::conditional}) {
    const search::RowBound bound = search::row_bound(space, hessian, block, minorant, x.data(), 2, 100000000);
    EXPECT_EQ(bound.unproved, 0);
    for (int row = 0; row < 2; ++row) {
      EXPECT_LE(bound.bound[row], best.loss.back()[row]);
      EXPECT_GE(bound.bound[row], 0.97 * best.loss.back()[row]);
    }
  }
}

/// The identity takes the exact least SSE; a node limit of 0 falls back to it everywhere.
TEST(RowBound, is_below_every_method_with_and_without_the_proofs_of_blocks) {
  const std::int64_t cols = 64, count = 4;
  const int block = 16;
  const std::vector<float> x = rows::normal(count * cols, 1, 62);
  const SearchSpace space = nvfp4_space(x);
  for (const rows::Activations family : rows::all_activations) {
    FullHessian hessian = hessian_of(family, 4 * cols, cols, 63);
    for (double& entry : hessian.h) entry *= 0x1p-12;  // eigenvalues on both sides of 1
    const search::Assignment start =
        search::gptq(space, search::make_gptq_plan(hessian, block), search::GptqScale::closest, x.data(), count, 500);
    const search::RowDescent best =
        search::row_descent(space, hessian, block, x.data(), count, start, {search::RowStep::coordinate, 30, 0});
    for (const Minorant minorant : all_minorants) {
      double proved = 0, weak = 0;
      const search::RowBound bound = search::row_bound(space, hessian, block, minorant, x.data(), count);
      const search::RowBound unproved = search::row_bound(space, hessian, block, minorant, x.data(), count, 0);
      EXPECT_GT(unproved.unproved, 0);
      for (std::int64_t row = 0; row < count; ++row) {
        EXPECT_LE(bound.bound[row], best.loss.back()[row]) << "family " << static_cast<int>(family);
        proved += bound.bound[row];
        weak += unproved.bound[row];
      }
      EXPECT_GT(weak, 0);
      EXPECT_LE(weak, proved * (1 + 1e-9));
    }
  }
}

TEST(RowBound, the_complements_give_more_than_the_blocks_and_the_identity_on_autoregressive_data) {
  const std::int64_t cols = 64;
  const std::vector<float> x = rows::normal(cols, 1, 64);
  const SearchSpace space = nvfp4_space(x);
  const FullHessian hessian = hessian_of(rows::Activations::autoregressive, 4 * cols, cols, 65);
  double bound[3];
  for (int m = 0; m < 3; ++m) {
    bound[m] = search::row_bound(space, hessian, 16, all_minorants[m], x.data(), 1, 1000000).bound[0];
  }
  EXPECT_GT(bound[2], bound[1]);
  EXPECT_GT(bound[2], bound[0]);
}

TEST(RowBound, does_not_depend_on_threads) {
  const std::vector<float> x = rows::normal(5 * 48, 1, 66);
  const SearchSpace space = nvfp4_space(x);
  const FullHessian hessian = hessian_of(rows::Activations::common, 100, 48, 67);
  for (const Minorant minorant : all_minorants) {
    omp_set_num_threads(1);
    const search::RowBound one = search::row_bound(space, hessian, 16, minorant, x.data(), 5, 5000);
    omp_set_num_threads(2);
    const search::RowBound two = search::row_bound(space, hessian, 16, minorant, x.data(), 5, 5000);
    EXPECT_EQ(one.bound, two.bound);
    EXPECT_EQ(one.theta, two.theta);
  }
}

}  // namespace
}  // namespace fp4scope
