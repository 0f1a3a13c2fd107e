// sim/hadamard.hpp: the random Hadamard transform against sums in rationals, rounded once.
#include "sim/hadamard.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "sim/random.hpp"

namespace fp4scope {
namespace {

using Arithmetic = sim::HadamardArithmetic;

constexpr int sizes[] = {2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
constexpr Arithmetic every_arithmetic[] = {Arithmetic::exact, Arithmetic::float32, Arithmetic::float32_to_bf16,
                                           Arithmetic::float32_to_fp16};

std::vector<std::int8_t> signs_of(int n, std::uint64_t seed) {
  std::vector<std::int8_t> signs(static_cast<std::size_t>(n));
  sim::random_signs(seed, 7, n, signs.data());
  return signs;
}

std::vector<float> rotated(const std::vector<float>& x, const std::vector<std::int8_t>& signs, Arithmetic arithmetic) {
  std::vector<float> y(x.size());
  sim::rotate(x.data(), signs.data(), static_cast<int>(x.size()), arithmetic, y.data());
  return y;
}

std::vector<float> rotated_back(const std::vector<float>& y, const std::vector<std::int8_t>& signs,
                                Arithmetic arithmetic) {
  std::vector<float> x(y.size());
  sim::rotate_back(y.data(), signs.data(), static_cast<int>(y.size()), arithmetic, x.data());
  return x;
}

std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }

/// The first element in which two arrays differ in a bit, with both values; "" for none.
std::string difference(const std::vector<float>& got, const std::vector<float>& want) {
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (bits_of(got[i]) == bits_of(want[i])) continue;
    std::ostringstream text;
    text << std::hexfloat << "element " << i << ": " << got[i] << " for " << want[i];
    return text.str();
  }
  return "";
}

/// Sylvester's construction: H_2n = (H_n, H_n; H_n, -H_n).
std::vector<std::vector<int>> sylvester(int n) {
  std::vector<std::vector<int>> h = {{1}};
  while (static_cast<int>(h.size()) < n) {
    const std::size_t m = h.size();
    std::vector<std::vector<int>> doubled(2 * m, std::vector<int>(2 * m));
    for (std::size_t i = 0; i < 2 * m; ++i) {
      for (std::size_t j = 0; j < 2 * m; ++j) doubled[i][j] = i >= m && j >= m ? -h[i % m][j % m] : h[i % m][j % m];
    }
    h = std::move(doubled);
  }
  return h;
}

/// A rational to the nearest float, a tie to the even one, by comparing it with the two around it.
float round_once(const mpq_class& q) {
  float near = static_cast<float>(q.get_d());  // truncated to binary64, then rounded: at most a place or two off
  for (bool moved = true; moved;) {
    moved = false;
    for (const float to : {std::nextafter(near, -FLT_MAX), std::nextafter(near, FLT_MAX)}) {
      const mpq_class gain = abs(q - mpq_class(near)) - abs(q - mpq_class(to));
      if (gain > 0 || (gain == 0 && to != near && (bits_of(near) & 1) != 0)) {
        near = to;
        moved = true;
        break;
      }
    }
  }
  return near == 0 ? 0 : near;
}

/// n floats whose leading bits' exponents lie in [low, low + spread], both ends taken.
std::vector<float> random_run(std::mt19937_64& random, int n, int low, int spread, int mantissa_bits = 23) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) {
    const int e = i == 0 ? low + spread : i == 1 ? low : low + static_cast<int>(random() % (spread + 1u));
    const double m = static_cast<double>(random() >> (64 - mantissa_bits) | 1);  // odd, so that the last place counts
    const double value = std::ldexp(std::ldexp(m, -mantissa_bits) + 1, e);
    x[static_cast<std::size_t>(i)] = static_cast<float>(random() % 2 ? value : -value);
  }
  std::shuffle(x.begin(), x.end(), random);
  return x;
}

/// sum_i x_i s_i H_ij in units of 2^(low - 23), low the least exponent in x: below 2^54 within the spreads used here.
std::int64_t scaled_sum(const std::vector<float>& x, const std::vector<std::int8_t>& signs, int j, int low) {
  const double unit = std::ldexp(1, 23 - low);
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const int h = std::popcount(static_cast<unsigned>(i) & static_cast<unsigned>(j)) % 2 ? -1 : 1;
    sum += static_cast<std::int64_t>(x[i] * unit) * (h * signs[i]);
  }
  return sum;
}

mpq_class power_of_two(int e) {
  mpq_class q = 1;
  if (e >= 0) mpq_mul_2exp(q.get_mpq_t(), q.get_mpq_t(), static_cast<mp_bitcnt_t>(e));
  if (e < 0) mpq_div_2exp(q.get_mpq_t(), q.get_mpq_t(), static_cast<mp_bitcnt_t>(-e));
  return q;
}

int log2_of(int n) { return std::countr_zero(static_cast<unsigned>(n)); }

TEST(HadamardMatrix, is_sylvesters_and_its_square_is_n_times_the_identity_for_every_size) {
  for (const int n : sizes) {
    ASSERT_TRUE(sim::is_hadamard_size(n));
    const std::vector<std::vector<int>> h = sylvester(n);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        const int got = sim::hadamard_sign(static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(j));
        ASSERT_EQ(got, h[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]) << n << ": " << i << ' ' << j;
      }
    }
    const std::size_t stride = n > 32 ? h.size() / 32 : 1;  // 32 columns of the large ones, the diagonal among them
    for (std::size_t i = 0; i < h.size(); ++i) {
      for (std::size_t j = i % stride; j < h.size(); j += stride) {
        const int product = std::inner_product(h[i].begin(), h[i].end(), h[j].begin(), 0);
        ASSERT_EQ(product, i == j ? n : 0) << n << ": " << i << ' ' << j;
      }
    }
  }
  for (const int n : {-2, 0, 1, 3, 12, 1023, 2048}) EXPECT_FALSE(sim::is_hadamard_size(n)) << n;
}

TEST(HadamardScale, is_the_double_nearest_to_one_over_the_root) {
  for (const int n : sizes) {
    const double scale = sim::hadamard_scale(n);
    const mpq_class square = mpq_class(scale) * mpq_class(scale) * n;
    if (log2_of(n) % 2 == 0) {
      EXPECT_EQ(square, 1) << n;
      continue;
    }
    // Nearest: 1/n lies between the squares of the midpoints to the neighbours.
    const mpq_class below = (mpq_class(scale) + mpq_class(std::nextafter(scale, 0))) / 2;
    const mpq_class above = (mpq_class(scale) + mpq_class(std::nextafter(scale, 1))) / 2;
    EXPECT_TRUE(below * below * n < 1 && 1 < above * above * n) << n << ' ' << std::hexfloat << scale;
  }
}

TEST(FixedSigns, are_the_sixteen_published_ones) {
  const int published[] = {1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1};
  for (int i = 0; i < 16; ++i) EXPECT_EQ(sim::fixed_sign_16(i), published[i]) << i;
}

TEST(FixedSigns, and_a_unit_vector_give_one_row_of_the_matrix) {
  std::vector<std::int8_t> signs(16);
  for (int i = 0; i < 16; ++i) signs[static_cast<std::size_t>(i)] = sim::fixed_sign_16(i);
  for (const Arithmetic arithmetic : every_arithmetic) {
    std::vector<float> x(16);
    x[5] = 4;
    const std::vector<float> want = {-1, 1, -1, 1, 1, -1, 1, -1, -1, 1, -1, 1, 1, -1, 1, -1};  // row 5, times s_5 = -1
    EXPECT_EQ(difference(rotated(x, signs, arithmetic), want), "") << "arithmetic " << static_cast<int>(arithmetic);
  }
}

TEST(RandomSigns, are_the_bits_of_the_words_in_order) {
  std::vector<std::int8_t> signs(1024);
  sim::random_signs(42, 3, 1024, signs.data());
  int i = 0, minus = 0;
  for (std::uint64_t index = 0; index < 8; ++index) {
    std::uint32_t words[4];
    sim::random_words(42, 3, index, words);
    for (const std::uint32_t word : words) {
      for (int bit = 0; bit < 32; ++bit, ++i) {
        ASSERT_EQ(signs[static_cast<std::size_t>(i)], (word >> bit) % 2 ? -1 : 1) << i;
        minus += signs[static_cast<std::size_t>(i)] < 0;
      }
    }
  }
  EXPECT_NEAR(minus, 512, 4 * 16);
  EXPECT_NE(signs, signs_of(1024, 42));  // another stream
  for (const int n : sizes) {
    std::vector<std::int8_t> shorter(static_cast<std::size_t>(n));
    sim::random_signs(42, 3, n, shorter.data());
    EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), signs.begin())) << n;
  }
}

TEST(RotateExact, is_the_rational_sum_rounded_once_up_to_the_stated_spread_where_n_is_a_power_of_four) {
  std::mt19937_64 random(1);
  long compared = 0, rounded = 0;
  for (const int n : {4, 16, 64, 256, 1024}) {
    const int limit = 53 - 24 - log2_of(n);
    for (const int spread : {0, 3, limit / 2, limit}) {
      for (int repeat = 0; repeat < (n > 64 ? 2 : 60); ++repeat) {
        const int low = static_cast<int>(random() % 60) - 80;
        const std::vector<float> x = random_run(random, n, low, spread);
        const std::vector<std::int8_t> signs = signs_of(n, random());
        const std::vector<float> y = rotated(x, signs, Arithmetic::exact);
        for (int j = 0; j < n; ++j, ++compared) {
          const mpq_class sum = mpq_class(scaled_sum(x, signs, j, low)) * power_of_two(low - 23 - log2_of(n) / 2);
          const float want = round_once(sum);
          rounded += sum != mpq_class(want);
          ASSERT_EQ(bits_of(y[static_cast<std::size_t>(j)]), bits_of(want))
              << std::hexfloat << "n " << n << ", spread " << spread << ", point " << j << ": "
              << y[static_cast<std::size_t>(j)] << " for " << want;
        }
      }
    }
  }
  EXPECT_GT(compared, 20000);
  EXPECT_GT(rounded, compared / 2);  // so that most sums are no floats
}

TEST(RotateExact, is_within_its_bound_of_the_real_number_for_other_n) {
  std::mt19937_64 random(2);
  const mpq_class bound = mpq_class(1, 2) + power_of_two(-27);
  long compared = 0;
  for (const int n : {2, 8, 32, 128, 512}) {
    const int limit = 53 - 24 - log2_of(n);
    for (const int spread : {0, limit / 2, limit}) {
      for (int repeat = 0; repeat < (n > 32 ? 1 : 60); ++repeat) {
        const std::vector<float> x = random_run(random, n, -30, spread);
        const std::vector<std::int8_t> signs = signs_of(n, random());
        const std::vector<float> y = rotated(x, signs, Arithmetic::exact);
        for (int j = 0; j < n; ++j, ++compared) {
          const mpq_class sum = mpq_class(scaled_sum(x, signs, j, -30)) * power_of_two(-30 - 23);
          const float got = y[static_cast<std::size_t>(j)];
          if (sum == 0) {
            ASSERT_EQ(got, 0) << n << ' ' << j;
            continue;
          }
          // | y - S / sqrt(n) | <= b ulp  <=>  (|y| - b ulp)^2 n <= S^2 <= (|y| + b ulp)^2 n
          ASSERT_EQ(got < 0, sum < 0) << n << ' ' << j;
          const mpq_class radius = bound * power_of_two(std::ilogb(got) - 23);
          const mpq_class low = abs(mpq_class(got)) - radius, high = abs(mpq_class(got)) + radius;
          ASSERT_TRUE(low * low * n <= sum * sum && sum * sum <= high * high * n)
              << std::hexfloat << "n " << n << ", spread " << spread << ", point " << j << ": " << got << " for "
              << sum.get_d() / std::sqrt(n);
          const double product = sum.get_d() * sim::hadamard_scale(n);  // the sum is a double, so get_d is exact
          ASSERT_EQ(bits_of(got), bits_of(static_cast<float>(product))) << std::hexfloat << n << ' ' << j << ' ' << got;
        }
      }
    }
  }
  EXPECT_GT(compared, 9000);
}

TEST(RotateExact, does_not_depend_on_the_order_within_the_spread_and_does_beyond_it) {
  std::mt19937_64 random(3);
  const int n = 16, limit = 53 - 24 - 4;
  long different = 0;
  for (int repeat = 0; repeat < 20000; ++repeat) {
    const int spread = repeat % 2 ? limit : limit + 20;
    const std::vector<float> x = random_run(random, n, -20, spread);
    double up = 0, down = 0;
    for (std::size_t i = 0; i < x.size(); ++i) up += x[i];
    for (std::size_t i = x.size(); i-- > 0;) down += x[i];
    const float point = sim::hadamard_point(x.data(), nullptr, n, 0, Arithmetic::exact);
    ASSERT_EQ(point, static_cast<float>(up / 4)) << std::hexfloat << repeat;
    if (spread == limit) {
      ASSERT_EQ(up, down) << std::hexfloat << repeat;
    }
    different += up != down;
  }
  EXPECT_GT(different, 100);
}

TEST(RotateExact, has_a_limit_of_the_spread_that_one_more_breaks) {
  for (const int n : {4, 16, 64, 256, 1024}) {
    const int limit = 53 - 24 - log2_of(n);
    for (const int spread : {limit, limit + 1}) {
      std::vector<float> x(static_cast<std::size_t>(n), std::ldexp(2 - 0x1p-23f, spread));
      x[0] = 1 + 0x1p-23f;
      double sum = 0;
      for (const float v : x) sum += v;
      const std::int64_t want = scaled_sum(x, std::vector<std::int8_t>(x.size(), 1), 0, 0);
      EXPECT_EQ(static_cast<std::int64_t>(std::ldexp(sum, 23)) == want, spread == limit)
          << "n " << n << ", spread " << spread;
    }
  }
}

TEST(Rotate, and_back_gives_small_integers_exactly_where_n_is_a_power_of_four) {
  std::mt19937_64 random(4);
  for (const int n : {4, 16, 64, 256, 1024}) {
    for (const Arithmetic arithmetic : every_arithmetic) {
      for (int repeat = 0; repeat < (n > 256 ? 1 : 8); ++repeat) {
        std::vector<float> x(static_cast<std::size_t>(n));
        // Sums of n integers of up to `most`, in steps of 1/sqrt(n), within the 8 bits of bf16, if n allows: else
        // 11, 24.
        const int width = arithmetic == Arithmetic::float32_to_bf16   ? 8
                          : arithmetic == Arithmetic::float32_to_fp16 ? 11
                                                                      : 20;
        const int most = (1 << width) / n;
        if (most == 0) continue;
        for (float& v : x) v = static_cast<float>(static_cast<int>(random() % (2u * most + 1)) - most);
        const std::vector<std::int8_t> signs = signs_of(n, random());
        EXPECT_EQ(difference(rotated_back(rotated(x, signs, arithmetic), signs, arithmetic), x), "")
            << "n " << n << ", arithmetic " << static_cast<int>(arithmetic);
      }
    }
  }
}

TEST(RotateBack, is_the_rotation_without_signs_and_then_the_signs) {
  std::mt19937_64 random(5);
  for (const int n : sizes) {
    const std::vector<float> y = random_run(random, n, -10, 12);
    const std::vector<std::int8_t> signs = signs_of(n, random()), plus(static_cast<std::size_t>(n), 1);
    for (const Arithmetic arithmetic : every_arithmetic) {
      std::vector<float> want = rotated(y, plus, arithmetic);
      for (std::size_t i = 0; i < want.size(); ++i) want[i] *= signs[i];
      EXPECT_EQ(difference(rotated_back(y, signs, arithmetic), want), "")
          << "n " << n << ' ' << static_cast<int>(arithmetic);
    }
  }
}

TEST(RotateExact, keeps_the_energy_in_every_size) {
  std::mt19937_64 random(6);
  std::normal_distribution<float> normal;
  for (const int n : sizes) {
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& v : x) v = normal(random);
    double before = 0, after = 0;
    for (const float v : x) before += static_cast<double>(v) * v;
    for (const float v : rotated(x, signs_of(n, 9), Arithmetic::exact)) after += static_cast<double>(v) * v;
    // Each y is off by 2^-24 of itself, so its square by 2^-23.
    EXPECT_NEAR(after / before, 1, 0x1p-22) << n;
  }
}

/// The recipe by itself, in the order of its definition; volatile, so that each sum is rounded where it is written.
float recipe_sum(const std::vector<float>& x, const std::vector<std::int8_t>& signs, int j) {
  const int n = static_cast<int>(x.size());
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<long double>(n)));
  volatile float sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const int h = std::popcount(static_cast<unsigned>(i) & static_cast<unsigned>(j)) % 2 ? -1 : 1;
    volatile float term = x[i] * static_cast<float>(h * signs[i]) * scale;
    sum = sum + term;
  }
  return sum;
}

/// binary32 to bf16 on the bits: add half and the parity of the last bit kept.
float to_bf16(float x) {
  const std::uint32_t bits = bits_of(x);
  return __builtin_bit_cast(float, (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u);
}

TEST(RotateFloat32, is_the_sum_in_index_order_with_each_addition_rounded) {
  std::mt19937_64 random(7);
  long not_exact = 0, compared = 0;
  for (const int n : sizes) {
    for (int repeat = 0; repeat < 2048 / n + 1; ++repeat) {
      const std::vector<float> x = random_run(random, n, -12, 14);
      const std::vector<std::int8_t> signs = signs_of(n, random());
      const std::vector<float> exact = rotated(x, signs, Arithmetic::exact);
      const std::vector<float> full = rotated(x, signs, Arithmetic::float32);
      const std::vector<float> half = rotated(x, signs, Arithmetic::float32_to_bf16);
      for (int j = 0; j < n; ++j, ++compared) {
        const auto at = static_cast<std::size_t>(j);
        const float want = recipe_sum(x, signs, j);
        ASSERT_EQ(bits_of(full[at]), bits_of(want))
            << std::hexfloat << n << ' ' << j << ": " << full[at] << ' ' << want;
        ASSERT_EQ(bits_of(half[at]), bits_of(to_bf16(want))) << std::hexfloat << n << ' ' << j << ": " << half[at];
        not_exact += bits_of(full[at]) != bits_of(exact[at]);
      }
    }
  }
  EXPECT_GT(not_exact, compared / 10);  // so the order and the roundings matter
}

TEST(RotateFloat32ToFp16, is_the_rational_rounded_to_eleven_bits) {
  std::mt19937_64 random(8);
  for (int repeat = 0; repeat < 500; ++repeat) {
    const std::vector<float> x = random_run(random, 16, -4, 6, 10);
    const std::vector<std::int8_t> signs = signs_of(16, random());
    const std::vector<float> full = rotated(x, signs, Arithmetic::float32);
    const std::vector<float> half = rotated(x, signs, Arithmetic::float32_to_fp16);
    for (std::size_t j = 0; j < 16; ++j) {
      // 2^(e - 10), no less than a subnormal's 2^-24; rint is to even.
      const double unit = full[j] == 0 ? 1 : std::ldexp(1, std::max(std::ilogb(full[j]) - 10, -24));
      const double want = std::rint(full[j] / unit) * unit;
      ASSERT_EQ(static_cast<double>(half[j]), want) << std::hexfloat << j << ": " << full[j];
    }
  }
}

TEST(Rotate, of_large_infinite_and_zero_values) {
  const std::vector<std::int8_t> plus(16, 1);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Arithmetic arithmetic : every_arithmetic) {
    const std::vector<float> zeros(16, -0.0f), want(16, 0.0f);
    EXPECT_EQ(difference(rotated(zeros, plus, arithmetic), want), "") << "zeros " << static_cast<int>(arithmetic);
    const std::vector<float> large = rotated(std::vector<float>(16, FLT_MAX), plus, arithmetic);
    EXPECT_EQ(large[0], infinity) << static_cast<int>(arithmetic);
    std::vector<float> one(16);
    one[3] = -infinity;
    EXPECT_EQ(rotated(one, plus, arithmetic)[0], -infinity) << static_cast<int>(arithmetic);
    one[4] = infinity;
    EXPECT_TRUE(std::isnan(rotated(one, plus, arithmetic)[0])) << static_cast<int>(arithmetic);
  }
  // 16 of 2^14 are 2^16, beyond fp16's 65504 and inside bf16.
  const std::vector<float> x(16, 0x1p14f);
  EXPECT_EQ(rotated(x, plus, Arithmetic::float32_to_fp16)[0], infinity);
  EXPECT_EQ(rotated(x, plus, Arithmetic::float32_to_bf16)[0], 0x1p16f);
}

TEST(Rotate, is_a_constant_expression) {
  constexpr auto y = [] {
    float x[4] = {1, 2, 3, 4}, out[4] = {};
    const std::int8_t signs[4] = {1, -1, 1, 1};
    sim::rotate(x, signs, 4, Arithmetic::exact, out);
    return std::array<float, 4>{out[0], out[1], out[2], out[3]};
  }();
  EXPECT_EQ(y, (std::array<float, 4>{3, 1, -4, 2}));  // (1-2+3+4, 1+2+3-4, 1-2-3-4, 1+2-3+4) / 2
}

}  // namespace
}  // namespace fp4scope
