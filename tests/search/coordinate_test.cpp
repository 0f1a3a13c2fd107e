// Coordinate descent: never worse than its start, and where it stops neither of its steps improves.
#include "search/coordinate.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "search/closest_vector.hpp"
#include "tests/search/matrices.hpp"

namespace fp4scope {
namespace {

using search::BlockProblem;
using search::BlockSolution;

class Coordinate : public testing::Test {
 protected:
  static constexpr int n = 12;

  double uniform() { return (static_cast<double>(words_() >> 11) + 0.5) * 0x1p-53; }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return radius * std::cos(2 * M_PI * uniform());
  }
  int below(int count) { return static_cast<int>(words_() % static_cast<unsigned>(count)); }

  /// Valid until the next one.
  BlockProblem problem(const blocks::Matrix& m, bool linear) {
    t_.clear();
    g_.clear();
    h_ = m.h;
    for (int i = 0; i < n; ++i) t_.push_back(30 * normal()), g_.push_back(3 * normal());
    return {n, t_.data(), h_.data(), linear ? g_.data() : nullptr};
  }

  BlockSolution random_start(const BlockProblem& p) {
    BlockSolution s;
    s.code = space_.first_code + below(space_.last_code);
    for (int i = 0; i < n; ++i) s.level[i] = static_cast<std::int8_t>(below(15) - 7);
    s.loss = search::loss_of(space_, p, s.code, s.level);
    return s;
  }

  /// What a loss may lose to rounding.
  double tolerance(const BlockProblem& p) const {
    double size = 0;
    for (int i = 0; i < n; ++i) {
      if (p.linear) size += std::fabs(p.linear[i]) * 3000;
      for (int j = 0; j < n; ++j) size += std::fabs(p.h[i * n + j]) * 3000 * 3000;
    }
    return size * 1e-13;
  }

  const search::SearchSpace space_ = search::make_space(*formats::find_block_format("nvfp4"), 1, sim::six_rule);

 private:
  std::mt19937_64 words_{73};
  std::vector<double> t_, h_, g_;
};

TEST_F(Coordinate, never_worse_than_any_start) {
  for (const blocks::Matrix& m : blocks::matrices(n)) {
    for (int i = 0; i < 30; ++i) {
      const BlockProblem p = problem(m, i % 2);
      const BlockSolution start = random_start(p), got = search::coordinate_descent(space_, p, start);
      EXPECT_LE(got.loss, start.loss) << m.name;
      EXPECT_EQ(got.loss, search::loss_of(space_, p, got.code, got.level)) << m.name;
      EXPECT_FALSE(got.proved);
      const BlockSolution again = search::coordinate_descent(space_, p, got);
      EXPECT_EQ(again.loss, got.loss) << m.name;
    }
  }
}

TEST_F(Coordinate, stops_where_no_level_and_no_code_alone_improves) {
  for (const blocks::Matrix& m : {blocks::autoregressive(n, 0.9), blocks::equal_correlation(n, 2, 1)}) {
    for (int i = 0; i < 60; ++i) {
      const BlockProblem p = problem(m, i % 2);
      const BlockSolution got = search::coordinate_descent(space_, p);
      for (int k = 0; k < n * 15; ++k) {
        BlockSolution other = got;
        other.level[k / 15] = static_cast<std::int8_t>(k % 15 - 7);
        EXPECT_GE(search::loss_of(space_, p, got.code, other.level), got.loss - tolerance(p))
            << m.name << " element " << k / 15 << " level " << k % 15 - 7;
      }
      for (int code = space_.first_code; code <= space_.last_code; ++code)
        EXPECT_GE(search::loss_of(space_, p, code, got.level), got.loss - tolerance(p)) << m.name << " code " << code;
    }
  }
}

TEST_F(Coordinate, begins_at_the_best_nearest_levels_and_gains) {
  double before = 0, after = 0;
  for (int i = 0; i < 100; ++i) {
    const BlockProblem p = problem(blocks::autoregressive(n, 0.9), false);
    const double start = search::nearest_solution(space_, p).loss, got = search::coordinate_descent(space_, p).loss;
    EXPECT_LE(got, start);
    before += start;
    after += got;
  }
  EXPECT_LT(after, 0.9 * before);
}

TEST_F(Coordinate, gains_nothing_under_a_diagonal) {
  std::vector<double> weights;
  for (int i = 0; i < n; ++i) weights.push_back(0.1 + uniform());
  for (int i = 0; i < 50; ++i) {
    const BlockProblem p = problem(blocks::diagonal(weights), false);
    const BlockSolution nearest = search::nearest_solution(space_, p), got = search::coordinate_descent(space_, p);
    EXPECT_EQ(got.code, nearest.code);
    EXPECT_EQ(got.loss, nearest.loss);
  }
}

TEST_F(Coordinate, nothing_is_below_the_closest_vector) {
  const auto room = std::make_unique<search::ClosestVectorRoom>();
  for (int i = 0; i < 60; ++i) {
    const BlockProblem p = problem(blocks::autoregressive(n, i % 2 ? 0.9 : -0.6), i % 3 == 0);
    const BlockSolution least = search::closest_vector(space_, p, {}, *room);
    EXPECT_TRUE(least.proved);
    EXPECT_LE(search::compare_losses(space_, p, least, search::coordinate_descent(space_, p)), 0) << i;
    EXPECT_LE(search::compare_losses(space_, p, least, search::coordinate_descent(space_, p, random_start(p))), 0) << i;
  }
}

/// Levels of t at step 2 but scaled down to code 1: the scale alone brings them back.
TEST_F(Coordinate, best_code_of_kept_levels_is_the_exact_one) {
  const blocks::Matrix m = blocks::autoregressive(4, 0.9);
  const double t[4] = {12, -3, 1, 0};
  const std::int8_t level[4] = {7, -3, 1, 0};
  EXPECT_EQ(search::best_code_of(space_, {4, t, m.h.data(), nullptr}, level), 0x40);  // 2
  EXPECT_EQ(search::coordinate_descent(space_, {4, t, m.h.data(), nullptr}).loss, 0);
}

TEST_F(Coordinate, a_zero_block_is_code_0) {
  const double t[2] = {0, -0.0}, h[4] = {1, 0, 0, 1};
  const BlockSolution got = search::coordinate_descent(space_, {2, t, h, nullptr});
  EXPECT_EQ(got.code, 0);
  EXPECT_TRUE(got.proved);
}

}  // namespace
}  // namespace fp4scope
