// encode(e2m1, x, Rounding::stochastic) with the words of sim/random.hpp: unbiased, uncorrelated, and the same in any
// order. Seeds are fixed, so each test passes or fails for good; beside a claim stands what must fail it.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "formats/codec.hpp"
#include "sim/random.hpp"

namespace fp4scope {
namespace {

constexpr double levels[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

/// Word `element` of a tensor's stream: four to a call.
std::uint32_t word_of(std::uint64_t seed, std::uint32_t stream, std::uint64_t element) {
  std::uint32_t words[4];
  sim::random_words(seed, stream, element / 4, words);
  return words[element % 4];
}

double quantized(double x, formats::Rounding rounding, std::uint32_t word) {
  const formats::Encoded e = formats::encode(formats::e2m1, x, rounding, formats::Overflow::saturate, word);
  return formats::decode_double(formats::e2m1, e.code);
}

double stochastic(double x, std::uint32_t word) { return quantized(x, formats::Rounding::stochastic, word); }

/// N(0, 1) clamped to +-6, as floats, so that nothing saturates.
std::vector<double> normal_data(std::size_t n) {
  std::vector<double> x(n);
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t w[4];
    sim::random_words(1, 0, i, w);
    const double radius = std::sqrt(-2 * std::log(sim::open_uniform(w[0], w[1])));
    const double z = radius * std::cos(6.283185307179586 * sim::open_uniform(w[2], w[3]));
    x[i] = static_cast<float>(std::clamp(z, -6.0, 6.0));
  }
  return x;
}

// ---- unbiasedness ----

/// One draw of element i.
using Draw = std::function<double(double x, std::uint64_t i, std::uint32_t draw)>;

/// log4(1 / relative squared error) of the mean of 4^j draws, the gain from j - 1 to j for j = 1 .. steps. A mean of N
/// independent unbiased draws has 1/N of one draw's squared error: a gain of 1. A bias stays where it is.
std::vector<double> gains(std::size_t steps, const Draw& draw) {
  const std::vector<double> x = normal_data(1 << 16);
  const double energy = std::inner_product(x.begin(), x.end(), x.begin(), 0.0);
  std::vector<double> sum(x.size()), bits, gained;
  std::uint32_t drawn = 0;
  for (std::size_t j = 0; j <= steps; ++j) {
    const std::uint32_t count = 1u << (2 * j);
    double error = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      for (std::uint32_t d = drawn; d < count; ++d) sum[i] += draw(x[i], i, d);
      const double e = sum[i] / count - x[i];  // the mean is exact: sums of halves, over powers of two
      error += e * e;
    }
    drawn = count;
    bits.push_back(std::log(energy / error) / std::log(4.0));
    if (j > 0) gained.push_back(bits[j] - bits[j - 1]);
  }
  return gained;
}

TEST(StochasticE2m1, gains_one_bit_with_every_fourfold_of_independent_draws) {
  const auto got = gains(4, [](double x, std::uint64_t i, std::uint32_t d) { return stochastic(x, word_of(7, d, i)); });
  for (std::size_t j = 0; j < 4; ++j) EXPECT_NEAR(got[j], 1, 0.02) << "from 4^" << j << " draws";
}

TEST(StochasticE2m1, gains_nothing_where_every_draw_has_the_same_word) {
  const auto got = gains(2, [](double x, std::uint64_t i, std::uint32_t) { return stochastic(x, word_of(7, 0, i)); });
  for (std::size_t j = 0; j < 2; ++j) EXPECT_EQ(got[j], 0) << "from 4^" << j << " draws";
}

TEST(StochasticE2m1, with_words_of_five_bits_is_biased_and_the_gains_show_it) {
  const auto got = gains(4, [](double x, std::uint64_t i, std::uint32_t d) {
    return stochastic(x, word_of(7, d, i) & 0xF8000000u);  // up too often, by a 64th of the step on average
  });
  EXPECT_LT(got[3], 0.9);
}

TEST(NearestE2m1, gains_nothing) {
  const auto nearest = [](double x, std::uint64_t, std::uint32_t) {
    return quantized(x, formats::Rounding::nearest_even, 0);
  };
  const auto got = gains(2, nearest);
  for (std::size_t j = 0; j < 2; ++j) EXPECT_EQ(got[j], 0) << "from 4^" << j << " draws";
}

// ---- the probability of going up ----

/// How many of the 2^16 words k * 2^16 + low move x away from zero, to `upper`; the others must go to `lower`.
long count_away(double x, double lower, double upper, std::uint32_t low) {
  long away = 0;
  for (std::uint32_t k = 0; k < 1u << 16; ++k) {
    const double q = stochastic(x, k << 16 | low);
    if (q != lower && q != upper) return -1;
    away += q == upper;
  }
  return away;
}

TEST(StochasticE2m1, goes_up_with_the_probability_that_was_lost_in_every_interval) {
  // Lost fractions in units of 2^-24, so that the 24-bit x below hold them.
  const std::int64_t lost[] = {1, 255, 256, 257, 1 << 22, 5592405, 1 << 23, 11863283, (1 << 24) - 256, (1 << 24) - 1};
  for (int k = 0; k < 7; ++k) {
    for (const double sign : {1.0, -1.0}) {
      for (const std::int64_t f : lost) {
        const double x = sign * (levels[k] + (levels[k + 1] - levels[k]) * std::ldexp(static_cast<double>(f), -24));
        const double lower = sign * levels[k], upper = sign * levels[k + 1];
        // Up iff word < lost * 2^32. Words that end in ones: floor(lost * 2^16) of them; that end in zeros: the
        // ceiling.
        ASSERT_EQ(count_away(x, lower, upper, 0xFFFF), f / 256) << std::hexfloat << x << ", lost " << f << " / 2^24";
        ASSERT_EQ(count_away(x, lower, upper, 0), (f + 255) / 256) << std::hexfloat << x << ", lost " << f << " / 2^24";
      }
    }
  }
}

TEST(StochasticE2m1, keeps_every_level_for_every_word) {
  for (const double level : levels) {
    for (std::uint32_t k = 0; k < 1u << 12; ++k) {
      ASSERT_EQ(stochastic(level, k << 20), level) << k;
      ASSERT_EQ(stochastic(-level, ~(k << 20)), -level) << k;
    }
  }
}

// ---- correlation ----

/// sum a_i b_i over its standard deviation: N(0, 1) for independent noises of mean 0.
double sigmas(const std::vector<double>& a, const std::vector<double>& b, std::size_t lag) {
  double sum = 0, variance = 0;
  for (std::size_t i = 0; i + lag < a.size(); ++i) {
    const double product = a[i] * b[i + lag];
    sum += product;
    variance += product * product;
  }
  return sum / std::sqrt(variance);
}

/// |quantized| - |x| of normal data whose element i takes word i / share of a stream. Magnitudes, since two signs of x
/// would hide a shared word.
std::vector<double> noise(const std::vector<double>& x, std::uint64_t seed, std::uint32_t stream, std::uint64_t share) {
  std::vector<double> e(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    e[i] = std::abs(stochastic(x[i], word_of(seed, stream, i / share))) - std::abs(x[i]);
  }
  return e;
}

TEST(StochasticE2m1, errors_of_neighbours_are_uncorrelated) {
  const std::vector<double> x = normal_data(1 << 18);
  const std::vector<double> e = noise(x, 11, 0, 1);
  for (const std::size_t lag : {1, 2, 3, 4, 5, 8, 15, 16, 17, 32, 64, 128, 1024, 16384}) {
    EXPECT_LT(std::abs(sigmas(e, e, lag)), 4) << "lag " << lag;
  }
  const std::vector<double> shared = noise(x, 11, 0, 2);  // one word for two elements
  EXPECT_GT(sigmas(shared, shared, 1), 40);
}

TEST(StochasticE2m1, errors_of_two_streams_or_two_seeds_are_uncorrelated) {
  const std::vector<double> x = normal_data(1 << 18), e = noise(x, 11, 0, 1);
  for (const std::uint32_t stream : {1u, 2u, 3u, 0x80000000u}) {
    EXPECT_LT(std::abs(sigmas(e, noise(x, 11, stream, 1), 0)), 4) << "stream " << stream;
  }
  for (const std::uint64_t seed : {std::uint64_t{10}, std::uint64_t{12}, std::uint64_t{11} << 32, ~std::uint64_t{0}}) {
    EXPECT_LT(std::abs(sigmas(e, noise(x, seed, 0, 1), 0)), 4) << "seed " << seed;
  }
  EXPECT_GT(sigmas(e, noise(x, 11, 0, 1), 0), 40);  // the same stream and seed
}

// ---- words ----

TEST(RandomWords, of_different_seeds_streams_and_indices_are_different) {
  std::set<std::array<std::uint32_t, 4>> seen;
  std::size_t calls = 0;
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{1} << 32,
                                   std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    for (const std::uint32_t stream : {0u, 1u, 2u, 3u, 0x10000u, 0xFFFFFFFFu}) {
      for (std::uint64_t i = 0; i < 1000; ++i, ++calls) {
        std::array<std::uint32_t, 4> words;
        sim::random_words(seed, stream, i % 2 ? i : i << 40, words.data());
        ASSERT_TRUE(seen.insert(words).second) << "seed " << seed << ", stream " << stream << ", index " << i;
      }
    }
  }
  EXPECT_EQ(seen.size(), calls);
}

/// Codes of a tensor whose elements are visited in `order`.
std::vector<std::uint32_t> codes_in_order(const std::vector<double>& x, const std::vector<std::size_t>& order,
                                          const std::function<std::uint32_t(std::size_t)>& word) {
  std::vector<std::uint32_t> codes(x.size());
  for (const std::size_t i : order) {
    codes[i] =
        formats::encode(formats::e2m1, x[i], formats::Rounding::stochastic, formats::Overflow::saturate, word(i)).code;
  }
  return codes;
}

TEST(StochasticE2m1, codes_of_a_tensor_do_not_depend_on_the_order_of_the_calls) {
  const std::vector<double> x = normal_data(1 << 12);
  std::vector<std::size_t> forward(x.size());
  std::iota(forward.begin(), forward.end(), std::size_t{0});
  std::vector<std::size_t> backward(forward.rbegin(), forward.rend()), shuffled = forward;
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937_64(5));
  const auto counter = [](std::size_t i) { return word_of(3, 4, i); };
  const std::vector<std::uint32_t> codes = codes_in_order(x, forward, counter);
  EXPECT_EQ(codes_in_order(x, backward, counter), codes);
  EXPECT_EQ(codes_in_order(x, shuffled, counter), codes);

  std::mt19937 state(3);
  const auto next = [&state](std::size_t) { return static_cast<std::uint32_t>(state()); };
  const std::vector<std::uint32_t> one = codes_in_order(x, forward, next);
  state.seed(3);
  EXPECT_NE(codes_in_order(x, backward, next), one);  // a generator with a state does depend on it
}

}  // namespace
}  // namespace fp4scope
