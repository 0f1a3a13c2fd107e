// search/exact_sum.hpp against GMP, over the whole range that it promises.
#include "search/exact_sum.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace fp4scope {
namespace {

int sign_of(const std::vector<double>& terms) {
  search::ExactSum sum;
  for (const double x : terms) sum.add(x);
  return sum.sign();
}

int sign_by_gmp(const std::vector<double>& terms) {
  mpq_class sum = 0;
  for (const double x : terms) sum += mpq_class(x);
  return sgn(sum);
}

TEST(ExactSum, of_nothing_and_of_zeros_is_zero) {
  EXPECT_EQ(sign_of({}), 0);
  EXPECT_EQ(sign_of({0.0, -0.0}), 0);
}

TEST(ExactSum, has_the_sign_of_one_term_at_every_exponent) {
  for (int e = -420; e <= 400; ++e) {
    for (const double significand : {1.0, 0x1.fffffffffffffp0, 0x1.8000000000001p0}) {
      const double x = std::ldexp(e == 400 ? 1 : significand, e);
      ASSERT_EQ(sign_of({x}), 1) << e;
      ASSERT_EQ(sign_of({-x}), -1) << e;
      ASSERT_EQ(sign_of({x, -x}), 0) << e;
    }
  }
}

TEST(ExactSum, sees_the_smallest_term_beside_the_largest_that_cancel) {
  for (const double large : {0x1p400, 0x1.fffffffffffffp399, 0x1p64, 1.0}) {
    for (const double small : {0x1p-420, 0x1.fffffffffffffp-420, 0x1p-32}) {
      for (const double s : {small, -small}) {
        const int want = s > 0 ? 1 : -1;
        EXPECT_EQ(sign_of({large, s, -large}), want) << std::hexfloat << large << ' ' << s;
        EXPECT_EQ(sign_of({-large, s, large}), want) << std::hexfloat << large << ' ' << s;
      }
    }
  }
}

TEST(ExactSum, has_the_sign_of_random_sums_that_cancel) {
  std::mt19937_64 words(5);
  const auto term = [&](int low, int high) {
    const double significand = 1 + std::ldexp(static_cast<double>(words() >> 12), -52);
    const double x = std::ldexp(significand, low + static_cast<int>(words() % static_cast<unsigned>(high - low)));
    return words() % 2 ? x : -x;
  };
  for (int round = 0; round < 4000; ++round) {
    const int low = -420 + static_cast<int>(words() % 800),
              high = std::min(400, low + 1 + static_cast<int>(words() % 200));
    std::vector<double> terms;
    const auto pairs = words() % 40;
    for (std::size_t i = 0; i < pairs; ++i) {
      terms.push_back(term(low, high));
      terms.push_back(-terms.back());
    }
    const auto lone = words() % 3;
    for (std::size_t i = 0; i < lone; ++i) terms.push_back(term(low, high));
    if (lone == 2 && words() % 2) terms.back() = std::nextafter(-terms[terms.size() - 2], 0);
    std::shuffle(terms.begin(), terms.end(), words);
    ASSERT_EQ(sign_of(terms), sign_by_gmp(terms)) << "round " << round << ", " << terms.size() << " terms";
  }
}

TEST(ExactSum, carries_through_a_million_equal_terms) {
  search::ExactSum sum;
  for (int i = 0; i < 1 << 20; ++i) sum.add(0x1.fffffffffffffp100);
  sum.add(-0x1.fffffffffffffp120);
  EXPECT_EQ(sum.sign(), 0);
  sum.add(-0x1p-420);
  EXPECT_EQ(sum.sign(), -1);
}

}  // namespace
}  // namespace fp4scope
