// search/hessian_bounds.hpp: every bound is at most the real minimum, found by trying everything, and the tempting ones
// that are not bounds are seen to fail.
#include "search/hessian_bounds.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>

#include <cmath>

#include "search/psd.hpp"
#include "tests/search/blocks.hpp"
#include "tests/search/matrices.hpp"

namespace fp4scope {
namespace {

using blocks::Maker;
using Doubles = std::vector<double>;

search::Block block_of(const std::vector<float>& x) {
  const int n = static_cast<int>(x.size());
  return {x.data(), n, sim::amax(x.data(), n)};
}

search::SearchSpace space_of(const char* format, float tensor_scale = 1) {
  return search::make_space(*formats::find_block_format(format), tensor_scale, sim::six_rule);
}

/// r of nearest elements at a code, exact; r^T H r.
std::vector<mpq_class> residuals(const search::SearchSpace& space, const std::vector<float>& x, int code) {
  std::vector<mpq_class> r;
  for (const float value : x) {
    mpq_class best = -1;
    for (int k = 0; k < space.grid.levels; ++k) {
      const mpq_class rest = abs(mpq_class(value)) - mpq_class(space.grid.level[k]) * mpq_class(space.step(code));
      if (best < 0 || abs(rest) < abs(best) || k == 0) best = k == 0 || abs(rest) < abs(best) ? rest : best;
    }
    r.push_back(value < 0 ? mpq_class(-best) : best);
  }
  return r;
}

mpq_class form(const Doubles& h, const std::vector<mpq_class>& r) {
  mpq_class sum = 0;
  for (std::size_t i = 0; i < r.size(); ++i) {
    for (std::size_t j = 0; j < r.size(); ++j) sum += mpq_class(h[i * r.size() + j]) * r[i] * r[j];
  }
  return sum;
}

/// Matrices that are positive semidefinite, shifted where their rounding was not.
std::vector<Doubles> psd_matrices(int n) {
  std::vector<Doubles> all;
  for (const blocks::Matrix& m : blocks::matrices(n)) {
    Doubles h = m.h;
    const double shift = search::psd_shift(h.data(), n);
    for (int i = 0; i < n; ++i) h[i * n + i] += shift;
    all.push_back(h);
  }
  Doubles ones(static_cast<std::size_t>(n * n), 2.0);  // singular, exactly
  all.push_back(ones);
  return all;
}

TEST(Minorants, are_below_h_and_not_far_below) {
  for (const int n : {2, 5, 8}) {
    for (const Doubles& h : psd_matrices(n)) {
      Doubles d(static_cast<std::size_t>(n));
      search::diagonal_minorant(h.data(), n, d.data());
      for (const double entry : d) ASSERT_GE(entry, 0);
      ASSERT_TRUE(search::is_psd_exact(h.data(), n, d.data()));
      for (int k = 0; k < n; ++k) {
        Doubles one(static_cast<std::size_t>(n), 0.0);
        one[k] = search::element_minorant(h.data(), n, k);
        ASSERT_GE(one[k], 0);
        ASSERT_TRUE(search::is_psd_exact(h.data(), n, one.data()));
        one[k] = one[k] * 1.05 + 1e-6 * h[k * n + k];
        EXPECT_TRUE(one[k] == 0 || !search::is_psd_exact(h.data(), n, one.data())) << n << ' ' << k;
      }
    }
  }
  const blocks::Matrix m = blocks::equal_correlation(4, 1, 0.5);  // least eigenvalue 1/2
  Doubles d(4);
  search::diagonal_minorant(m.h.data(), 4, d.data());
  EXPECT_GE(d[0], 0.48);
  EXPECT_LE(d[0], 0.5);
}

/// Weighted and held bounds against the real loss at every code, and against every code beyond.
TEST(Bounds, are_at_most_the_loss_of_every_code_that_they_speak_of) {
  Maker maker("nvfp4", 51);
  constexpr int n = 4;
  int useful = 0, equal = 0;
  for (const char* format : {"nvfp4", "nvint4", "mxfp4"}) {
    for (const Doubles& h : psd_matrices(n)) {
      Doubles d(n);
      search::diagonal_minorant(h.data(), n, d.data());
      for (int round = 0; round < 6; ++round) {
        const search::SearchSpace space = space_of(format);
        const std::vector<float> x = maker.make(round % 2 ? blocks::Family::lattice : blocks::Family::student, 1, n);
        const int from =
            std::max(space.first_code, sim::scale_code(space.scale, sim::six_rule, block_of(x).amax, 1) - 9);
        double clipped = __builtin_inf(), zeroed = 0;
        for (int code = from; code <= std::min(space.last_code, from + 24); ++code) {
          const mpq_class loss = form(h, residuals(space, x, code));
          const double below = search::clipped_bound(space, block_of(x), d.data(), code);
          const double above = search::zeroed_bound(space, block_of(x), d.data(), code);
          ASSERT_LE(below, clipped);
          ASSERT_GE(above, zeroed);
          clipped = below, zeroed = above;
          ASSERT_LE(mpq_class(below) + mpq_class(above), loss);
          ASSERT_LE(
              mpq_class(search::free_codes_bound(space, block_of(x), search::eigenvalue_floor(h.data(), n), code)),
              loss);
          const double held = search::held_bound(space, block_of(x), h.data(), code);
          ASSERT_LE(held, loss);
          useful += held > below + above;
          equal += mpq_class(held) * (1 + mpq_class(0x1p-50)) >= loss && loss > 0;
        }
      }
    }
  }
  EXPECT_GT(useful, 300);
  EXPECT_GT(equal, 300);  // all elements clipped or zeroed: the bound is the loss
}

/// Never above what random residuals lose, and where coordinate descent over the free ones ends.
TEST(HeldBound, is_the_minimum_over_the_free_residuals) {
  Maker maker("nvfp4", 52);
  for (const Doubles& h : psd_matrices(3)) {
    for (int round = 0; round < 40; ++round) {
      double r[3];
      bool held[3];
      for (int i = 0; i < 3; ++i) r[i] = maker.normal(), held[i] = maker.below(2) == 1;
      const double bound = search::held_bound(h.data(), 3, r, held);
      for (int i = 0; i < 30; ++i) {
        std::vector<mpq_class> trial;
        for (int k = 0; k < 3; ++k) trial.emplace_back(held[k] ? r[k] : r[k] + 2 * maker.normal());
        ASSERT_LE(bound, form(h, trial));
      }
      for (int i = 0; i < 3000; ++i) {
        const int k = i % 3;
        if (held[k] || h[k * 4] == 0) continue;
        r[k] -= (h[k * 3] * r[0] + h[k * 3 + 1] * r[1] + h[k * 3 + 2] * r[2]) / h[k * 4];
      }
      const double least = form(h, {r[0], r[1], r[2]}).get_d();
      EXPECT_NEAR(bound, least, 1e-9 * (1 + least));
    }
  }
}

TEST(HeldBound, knows_a_singular_matrix) {
  const double ones[] = {1, 1, 1, 1}, r[] = {3, 0};
  const bool first[] = {true, false}, both[] = {true, true};
  EXPECT_EQ(search::held_bound(ones, 2, r, first), 0);  // the other takes it all back
  EXPECT_EQ(search::held_bound(ones, 2, r, both), 9);
  const double apart[] = {2, 0, 0, 0};
  EXPECT_EQ(search::held_bound(apart, 2, r, first), 18);  // a free channel without activity
  const double indefinite[] = {1, 2, 2, 0};
  EXPECT_EQ(search::held_bound(indefinite, 2, r, first), -__builtin_inf());
}

/// H = [[1,.9],[.9,1]], s = 4, x = (25,-1): the loss is .20, the bounds of the clipped 25 and of the zeroed -1 are .19
/// and .19; a union of both is the loss itself.
TEST(CounterExample, bounds_of_clipped_and_of_zeroed_elements_do_not_add) {
  const Doubles h = {1, 0.9, 0.9, 1};
  const std::vector<float> x = {25, -1};
  const search::SearchSpace space = space_of("nvfp4");
  const int code = static_cast<int>(formats::encode(formats::e4m3, 4).code);
  const double r[] = {1, -1};
  const bool clipped[] = {true, false}, zeroed[] = {false, true};
  const double sum = search::held_bound(h.data(), 2, r, clipped) + search::held_bound(h.data(), 2, r, zeroed);
  const double loss = form(h, residuals(space, x, code)).get_d();
  EXPECT_NEAR(loss, 0.2, 1e-12);
  EXPECT_NEAR(sum, 0.38, 1e-12);
  EXPECT_LE(search::held_bound(space, block_of(x), h.data(), code), loss);
  EXPECT_NEAR(search::held_bound(space, block_of(x), h.data(), code), loss, 1e-12);
}

/// H = [[1,-.99],[-.99,1]], s = 1, x = (8,6.25): held at their nearest elements 6 and 6 the two lose 3.07 (one alone,
/// .08); codes 6 and 4 lose .15.
TEST(CounterExample, free_codes_have_no_held_bound) {
  const Doubles h = {1, -0.99, -0.99, 1};
  const std::vector<float> x = {8, 6.25};
  const search::SearchSpace space = space_of("nvfp4");
  const int code = static_cast<int>(formats::encode(formats::e4m3, 1).code);
  mpq_class optimum = 1000;
  for (int a = 0; a < 15; ++a) {
    for (int b = 0; b < 15; ++b) {
      const auto value = [](int k) {
        return formats::decode_double(formats::e2m1, static_cast<std::uint32_t>(k < 8 ? k : k + 1));
      };
      const std::vector<mpq_class> r = {mpq_class(8 - value(a)), mpq_class(6.25 - value(b))};
      const mpq_class loss = form(h, r);
      if (loss < optimum) optimum = loss;
    }
  }
  EXPECT_NEAR(optimum.get_d(), 0.15, 0.005);
  EXPECT_NEAR(search::held_bound(space, block_of(x), h.data(), code), 3.07, 0.005);
  const double floor = search::eigenvalue_floor(h.data(), 2);
  EXPECT_GT(floor, 0.0096);
  EXPECT_LE(search::free_codes_bound(space, block_of(x), floor, code), optimum);
  EXPECT_GT(search::free_codes_bound(space, block_of(x), floor, code), 0.03);
}

/// x = (9,1.5), both clipped: at half the limit both residuals are larger and the loss is smaller.
TEST(CounterExample, held_bounds_of_several_clipped_elements_are_not_monotone) {
  const Doubles h = {1, -1.8, -1.8, 4};
  const bool held[] = {true, true};
  const double near[] = {8, 0.5}, far[] = {8.5, 1};
  EXPECT_NEAR(search::held_bound(h.data(), 2, near, held), 50.6, 1e-9);
  EXPECT_NEAR(search::held_bound(h.data(), 2, far, held), 45.65, 1e-9);
}

TEST(NearestSse, is_within_its_error_of_the_real_one) {
  Maker maker("nvfp4", 53);
  for (const blocks::FamilyRow& family : blocks::all_families) {
    const std::vector<float> x = maker.make(family.family, 1, 16);
    const search::SearchSpace space = space_of("nvfp4");
    for (int code = 1; code < 127; code += 5) {
      mpq_class want = 0;
      for (const mpq_class& r : residuals(space, x, code)) want += r * r;
      const mpq_class got = search::nearest_sse(space, block_of(x), code);
      ASSERT_LE(abs(got - want), mpq_class(search::sum_error(16)) * want) << family.name << ' ' << code;
    }
  }
}

}  // namespace
}  // namespace fp4scope
