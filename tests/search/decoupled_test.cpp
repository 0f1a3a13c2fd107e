// Decoupled scales and the closed form: what they are, what they gain, and published gains on AR(1) Hessians.
#include "search/decoupled.hpp"

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
using search::SearchSpace;

std::mt19937_64 words(72);

double uniform() { return (static_cast<double>(words() >> 11) + 0.5) * 0x1p-53; }
double normal() {
  const double radius = std::sqrt(-2 * std::log(uniform()));
  return radius * std::cos(2 * M_PI * uniform());
}

std::vector<double> normals(int n, double sigma) {
  std::vector<double> x;
  for (int i = 0; i < n; ++i) x.push_back(static_cast<double>(static_cast<float>(sigma * normal())));
  return x;
}

SearchSpace nvfp4(float tensor_scale = 1) {
  return search::make_space(*formats::find_block_format("nvfp4"), tensor_scale, sim::six_rule);
}

TEST(Betas, are_21_from_a_half_to_one_and_a_half_and_one_is_1) {
  const search::Betas b = search::default_betas;
  ASSERT_EQ(b.count, 21);
  EXPECT_EQ(b.value[0], 0.5);
  EXPECT_EQ(b.value[10], 1);
  EXPECT_EQ(b.value[20], 1.5);
  for (int i = 1; i < 21; ++i) EXPECT_NEAR(b.value[i] - b.value[i - 1], 0.05, 1e-15);
}

/// All pairs, one by one, the nearest of 15 levels by distance.
BlockSolution decoupled_ref(const SearchSpace& space, const BlockProblem& p) {
  BlockSolution best;
  best.loss = INFINITY;
  for (int code = space.first_code; code <= space.last_code; ++code) {
    for (int b = 10; b <= 30; ++b) {
      BlockSolution s;
      s.code = code;
      std::vector<double> r;
      for (int i = 0; i < p.n; ++i) {
        double least = INFINITY;
        for (int l = -7; l <= 7; ++l) {
          const double level = (l < 0 ? -1 : 1) * space.grid.level[std::abs(l)];
          const double distance = std::fabs(p.target[i] - level * space.step(code) * b / 20);
          if (distance < least) least = distance, s.level[i] = static_cast<std::int8_t>(l);
        }
        const double level = (s.level[i] < 0 ? -1 : 1) * space.grid.level[std::abs(s.level[i])];
        r.push_back(p.target[i] - level * space.step(code));
      }
      for (int i = 0; i < p.n; ++i) {
        for (int j = 0; j < p.n; ++j) s.loss += r[i] * p.h[i * p.n + j] * r[j];
        if (p.linear) s.loss += 2 * p.linear[i] * r[i];
      }
      if (s.loss < best.loss) best = s;
    }
  }
  return best;
}

TEST(Decoupled, is_the_best_of_all_pairs_of_a_code_and_a_beta) {
  const SearchSpace space = nvfp4();
  const blocks::Matrix m = blocks::autoregressive(8, 0.9);
  for (int i = 0; i < 20; ++i) {
    const std::vector<double> t = normals(8, 30), g = normals(8, 3);
    const BlockProblem p = {8, t.data(), m.h.data(), i % 2 ? g.data() : nullptr};
    const BlockSolution got = search::decoupled(space, p), want = decoupled_ref(space, p);
    EXPECT_NEAR(got.loss, want.loss, 1e-9 * (1 + std::fabs(want.loss))) << i;
    EXPECT_EQ(got.code, want.code) << i;
    for (int k = 0; k < 8; ++k) EXPECT_EQ(got.level[k], want.level[k]) << i << ' ' << k;
    EXPECT_FALSE(got.proved);
  }
}

/// Per element the nearest level at step(d) is the best at d, whatever the weights.
TEST(Decoupled, gains_nothing_under_a_diagonal) {
  const SearchSpace space = nvfp4();
  for (int i = 0; i < 60; ++i) {
    std::vector<double> weights(16, 1.0);
    for (double& w : weights) w = i % 3 == 0 ? 1 : i % 3 == 1 ? uniform() : std::ldexp(uniform(), i - 30);
    const blocks::Matrix m = blocks::diagonal(weights);
    const std::vector<double> t = normals(16, 30);
    const BlockProblem p = {16, t.data(), m.h.data(), nullptr};
    const BlockSolution got = search::decoupled(space, p), nearest = search::nearest_solution(space, p);
    EXPECT_EQ(got.loss, nearest.loss) << i;
    EXPECT_EQ(got.code, nearest.code) << i;
    EXPECT_EQ(search::closed_form(space, p).loss, nearest.loss) << i;
  }
}

struct Published {
  double rho;
  double coupled;
  double decoupled;
};

/// Relative losses of N(0, 1) blocks of 16 under H = rho^|i - j|, computed independently on 8192 blocks. At rho = .9
/// the energy x^T H x alone moves such a mean by 1 %, what decoupling gains depends less on the sample.
TEST(Decoupled, reproduces_published_gains_on_autoregressive_hessians) {
  constexpr int blocks = 2000, n = 16;
  words.seed(1);
  const std::vector<double> x = normals(8192 * n, 1);
  double amax = 0;
  for (const double v : x) amax = std::max(amax, std::fabs(v));
  const SearchSpace space = nvfp4(sim::tensor_scale(static_cast<float>(amax), 6, 448));
  for (const Published& row : {Published{0.5, 5.874e-3, 5.472e-3}, Published{0.9, 2.872e-3, 2.156e-3}}) {
    const std::vector<double> h = blocks::autoregressive(n, row.rho).h;
    double energy = 0, coupled = 0, decoupled = 0;
    for (int b = 0; b < blocks; ++b) {
      const BlockProblem p = {n, x.data() + b * n, h.data(), nullptr};
      const std::int8_t zeros[search::max_joint_block] = {};
      energy += search::loss_of(space, p, space.first_code, zeros);
      coupled += search::nearest_solution(space, p).loss;
      decoupled += search::decoupled(space, p).loss;
    }
    EXPECT_NEAR(coupled / energy, row.coupled, 0.02 * row.coupled) << row.rho;
    EXPECT_NEAR(decoupled / energy, row.decoupled, 0.02 * row.decoupled) << row.rho;
    EXPECT_NEAR(decoupled / coupled, row.decoupled / row.coupled, 0.01) << row.rho;
  }
}

TEST(ClosedForm, never_worse_than_nearest_and_ends_where_neither_neighbour_helps) {
  const SearchSpace space = nvfp4();
  int better = 0;
  for (const blocks::Matrix& m : blocks::matrices(12)) {
    for (int i = 0; i < 30; ++i) {
      const std::vector<double> t = normals(12, 30), g = normals(12, 3);
      const BlockProblem p = {12, t.data(), m.h.data(), i % 2 ? g.data() : nullptr};
      const BlockSolution got = search::closed_form(space, p), nearest = search::nearest_solution(space, p);
      EXPECT_LE(got.loss, nearest.loss) << m.name;
      EXPECT_EQ(got.loss, search::loss_of(space, p, got.code, got.level)) << m.name;
      EXPECT_FALSE(got.proved);
      better += got.loss < nearest.loss;
      const search::CodePair pair = search::codes_around_best_scale(space, p, got.level);
      for (const int code : {pair.below, pair.above})
        EXPECT_GE(search::loss_of(space, p, code, got.level), got.loss) << m.name << ' ' << code;
    }
  }
  EXPECT_GT(better, 20);
}

TEST(ClosedForm, the_best_code_of_kept_levels_is_one_of_the_two_around_the_best_scale) {
  const SearchSpace space = nvfp4();
  const blocks::Matrix m = blocks::autoregressive(6, 0.9);
  for (int i = 0; i < 300; ++i) {
    const std::vector<double> t = normals(6, std::ldexp(1, i % 16 - 6)), g = normals(6, 0.1);
    const BlockProblem p = {6, t.data(), m.h.data(), i % 2 ? g.data() : nullptr};
    std::int8_t level[6];
    for (std::int8_t& l : level) l = static_cast<std::int8_t>(words() % 15) - 7;
    int best = space.first_code;
    for (int code = space.first_code; code <= space.last_code; ++code) {
      if (search::loss_of(space, p, code, level) < search::loss_of(space, p, best, level)) best = code;
    }
    const search::CodePair pair = search::codes_around_best_scale(space, p, level);
    EXPECT_LE(pair.above - pair.below, 1);
    EXPECT_TRUE(best == pair.below || best == pair.above) << i << ' ' << best << ' ' << pair.below;
  }
}

TEST(Decoupled, nothing_is_below_the_closest_vector) {
  const SearchSpace space = nvfp4();
  const auto room = std::make_unique<search::ClosestVectorRoom>();
  for (int i = 0; i < 40; ++i) {
    const blocks::Matrix m = i % 2 ? blocks::autoregressive(12, 0.9) : blocks::equal_correlation(12, 2, 1);
    const std::vector<double> t = normals(12, 30), g = normals(12, 3);
    const BlockProblem p = {12, t.data(), m.h.data(), i % 3 == 0 ? g.data() : nullptr};
    const BlockSolution least = search::closest_vector(space, p, {}, *room);
    EXPECT_TRUE(least.proved) << i;
    EXPECT_LE(search::compare_losses(space, p, least, search::decoupled(space, p)), 0) << i;
    EXPECT_LE(search::compare_losses(space, p, least, search::closed_form(space, p)), 0) << i;
    EXPECT_LE(search::compare_losses(space, p, least, search::nearest_solution(space, p)), 0) << i;
  }
}

/// Midpoints go to the even code, at any double: 2.5 is between the levels 2 and 3.
TEST(NearestLevels, of_doubles_are_exact) {
  const SearchSpace space = nvfp4();
  const double t[] = {2.5, 2.5 + 0x1p-51, -2.5, -2.5 - 0x1p-51, 3.5, 3.5 - 0x1p-51, 1e300, -1e-300, 0.25, 0.75};
  const std::int8_t want[] = {4, 5, -4, -5, 6, 5, 7, 0, 0, 2};
  std::int8_t got[10];
  const BlockProblem p = {10, t, nullptr, nullptr};
  search::nearest_levels(space, p, 0x38, got);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(got[i], want[i]) << t[i];
  search::nearest_levels(space, p, 0, got);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(got[i], 0);
}

TEST(Decoupled, a_zero_block_is_code_0) {
  const double t[2] = {0, -0.0}, h[4] = {1, 0, 0, 1};
  for (const BlockSolution& s :
       {search::decoupled(nvfp4(), {2, t, h, nullptr}), search::closed_form(nvfp4(), {2, t, h, nullptr})}) {
    EXPECT_EQ(s.code, 0);
    EXPECT_TRUE(s.proved);
  }
}

}  // namespace
}  // namespace fp4scope
