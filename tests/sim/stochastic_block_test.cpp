// Stochastic rounding of blocks: the mean of the dequantized values is x, so that averages of 4^j draws gain one bit a
// step; also at a block's largest element, if the scale aims at 16/17 of the largest level (arXiv 2601.22813). The
// random words depend on the position alone.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "analysis/quantize.hpp"
#include "sim/random.hpp"

namespace fp4scope {
namespace {

constexpr int block = 16;

std::vector<float> normal_data(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 words(seed);
  std::normal_distribution<double> normal;
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(normal(words));
  return x;
}

/// NVFP4 scales of a tensor, aimed at 6 or at 6 * 16/17, and draws of its elements.
class Rounded {
 public:
  Rounded(const std::vector<float>& x, bool unbiased) : x_(x) {
    const float a = sim::amax(x.data(), static_cast<std::int64_t>(x.size()));
    const float t = unbiased ? sim::tensor_scale(a, 16 * 6, 448, 17) : sim::tensor_scale(a, 6, 448);
    const sim::ScaleRule rule = unbiased ? sim::unbiased(sim::six_rule) : sim::six_rule;
    for (std::size_t first = 0; first < x.size(); first += block) {
      const int code = sim::scale_code(formats::e4m3, rule, sim::amax(x.data() + first, block), t);
      steps_.push_back(static_cast<double>(t) *
                       formats::decode_double(formats::e4m3, static_cast<std::uint32_t>(code)));
    }
  }

  /// Adds the draws of seeds first .. last - 1 to sums; or as often the nearest values.
  void add(std::vector<double>& sums, std::uint64_t first, std::uint64_t last, bool nearest = false) const {
#pragma omp parallel for schedule(dynamic, 64)
    for (std::size_t b = 0; b < steps_.size(); ++b) {
      std::uint32_t words[block];
      std::uint8_t codes[block];
      const std::size_t at = b * block;
      const float* const x = x_.data() + at;
      for (std::uint64_t seed = first; seed < last; ++seed) {
        sim::fill_words(seed, 7, at, block, words);
        if (nearest) sim::quantize_block(formats::e2m1, grid_, x, block, steps_[b], codes);
        else sim::quantize_block_stochastic(formats::e2m1, grid_, x, block, steps_[b], words, codes);
        for (std::size_t i = 0; i < block; ++i) sums[at + i] += sim::dequantize(formats::e2m1, codes[i], steps_[b]);
      }
    }
  }

  const std::vector<double>& steps() const { return steps_; }

 private:
  const std::vector<float>& x_;
  std::vector<double> steps_;
  sim::Grid grid_ = sim::make_grid(formats::e2m1);
};

double rms_error(const std::vector<double>& sums, const std::vector<float>& x, int draws) {
  double squares = 0;
  for (std::size_t i = 0; i < x.size(); ++i) squares += std::pow(sums[i] / draws - x[i], 2);
  return std::sqrt(squares / static_cast<double>(x.size()));
}

/// log2 of the error of averages of 4^j draws over that of 4^(j + 1), j = 0 .. steps - 1.
std::vector<double> gains(const Rounded& rounded, const std::vector<float>& x, int steps, bool nearest = false) {
  std::vector<double> sums(x.size()), out;
  double before = 0;
  std::uint64_t draws = 0;
  for (int j = 0; j <= steps; ++j) {
    rounded.add(sums, draws, std::uint64_t{1} << 2 * j, nearest);
    draws = std::uint64_t{1} << 2 * j;
    const double error = rms_error(sums, x, static_cast<int>(draws));
    if (j > 0) out.push_back(std::log2(before / error));
    before = error;
  }
  return out;
}

TEST(StochasticBlock, averages_of_four_times_the_draws_gain_one_bit) {
  const std::vector<float> x = normal_data(1 << 16, 71);
  for (const double gain : gains(Rounded(x, true), x, 5)) {
    std::printf("%.4f bits\n", gain);
    EXPECT_NEAR(gain, 1, 0.02);
  }
}

TEST(StochasticBlock, averages_gain_nothing_by_nearest) {
  const std::vector<float> x = normal_data(1 << 12, 72);
  for (const double gain : gains(Rounded(x, true), x, 3, true)) EXPECT_EQ(gain, 0);
}

/// What clips is wrong in every draw.
TEST(StochasticBlock, averages_stall_without_the_16_17) {
  const std::vector<float> x = normal_data(1 << 14, 73);
  const std::vector<double> plain = gains(Rounded(x, false), x, 5), unbiased = gains(Rounded(x, true), x, 5);
  EXPECT_LT(plain.back(), 0.7);
  EXPECT_GT(unbiased.back(), 0.95);
}

// ---- the block's largest element ----

/// E4M3 rounds a scale of 2^-6 or more down by at most 1/17 of it, at the tie 17/16 -> 1.
TEST(StochasticBlock, no_amax_clips_at_16_17_and_some_just_do_not) {
  const sim::ScaleRule rule = sim::unbiased(sim::six_rule);
  double least_room = 1;
  for (const float t : {1.0f, 0x1.234566p-11f, 0x1.fffffep-20f}) {
    for (int code = 8; code < 126; ++code) {
      const double low = formats::decode_double(formats::e4m3, static_cast<std::uint32_t>(code));
      const double high = formats::decode_double(formats::e4m3, static_cast<std::uint32_t>(code + 1));
      const auto middle = static_cast<float>((low + high) / 2 * 96 / 17 * t);  // where the code turns
      float amax = middle;
      for (int i = 0; i < 8; ++i) amax = std::nextafter(amax, 0.0f);
      for (int i = 0; i < 16; ++i, amax = std::nextafter(amax, INFINITY)) {
        const int got = sim::scale_code(formats::e4m3, rule, amax, t);
        const double top =
            6 * static_cast<double>(t) * formats::decode_double(formats::e4m3, static_cast<std::uint32_t>(got));
        ASSERT_LE(amax, top) << std::hexfloat << "amax " << amax << ", tensor scale " << t << ", code " << got;
        least_room = std::min(least_room, top / amax - 1);
      }
    }
  }
  EXPECT_LT(least_room, 0x1p-22);
}

struct Bias {
  double mean = 0, sigma = 0;  ///< of (value - x) / x at the blocks' maxima
};

Bias bias_at_maxima(const std::vector<float>& x, bool unbiased, int draws) {
  const Rounded rounded(x, unbiased);
  std::vector<double> sums(x.size());
  rounded.add(sums, 0, static_cast<std::uint64_t>(draws));
  double sum = 0, squares = 0;
  const std::size_t blocks = x.size() / block;
  for (std::size_t b = 0; b < blocks; ++b) {
    std::size_t at = b * block;
    for (std::size_t i = 0; i < block; ++i) at = std::fabs(x[b * block + i]) > std::fabs(x[at]) ? b * block + i : at;
    const double error = sums[at] / draws / x[at] - 1;
    sum += error;
    squares += error * error;
  }
  const double n = static_cast<double>(blocks), mean = sum / n;
  return {mean, std::sqrt((squares / n - mean * mean) / n)};
}

TEST(StochasticBlock, the_mean_at_a_block_s_maximum_is_x_with_the_16_17_and_too_small_without) {
  const std::vector<float> x = normal_data(1 << 16, 74);
  const Bias unbiased = bias_at_maxima(x, true, 256), plain = bias_at_maxima(x, false, 256);
  std::printf("relative bias: %.2e (%.1f sigma) with 16/17, %.2e (%.1f sigma) without\n", unbiased.mean,
              unbiased.mean / unbiased.sigma, plain.mean, plain.mean / plain.sigma);
  EXPECT_LT(std::fabs(unbiased.mean), 4 * unbiased.sigma);
  EXPECT_LT(plain.mean, -20 * plain.sigma);
  EXPECT_LT(plain.mean, -0.005);
}

/// Over 2^12 words evenly spread the mean is x within 2^-12 of a gap, element by element, the largest included.
TEST(StochasticBlock, the_mean_over_all_words_is_x_for_every_element) {
  const std::vector<float> x = normal_data(64 * block, 75);
  const Rounded rounded(x, true);
  const sim::Grid grid = sim::make_grid(formats::e2m1);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double step = rounded.steps()[i / block];
    double sum = 0;
    for (std::uint32_t k = 0; k < 1u << 12; ++k) {
      const std::uint32_t word = k << 20;
      std::uint8_t code = 0;
      sim::quantize_block_stochastic(formats::e2m1, grid, &x[i], 1, step, &word, &code);
      sum += sim::dequantize(formats::e2m1, code, step);
    }
    ASSERT_LE(std::fabs(sum / (1 << 12) - x[i]), 2 * step * 0x1p-12)
        << std::hexfloat << "x " << x[i] << ", step " << step;
  }
}

// ---- words ----

analysis::Quantized quantized(const analysis::Matrix& m, bool unbiased, std::uint64_t seed, std::uint32_t stream) {
  analysis::QuantizeConfig c;
  c.rounding = formats::Rounding::stochastic;
  c.unbiased = unbiased;
  c.seed = seed;
  c.stream = stream;
  c.scaling = analysis::TensorScaling::value;
  c.scaling_value = 0x1p-9f;
  return analysis::quantize(c, m, "x");
}

analysis::Matrix matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  analysis::Matrix m;
  m.rows = rows;
  m.cols = cols;
  m.data = normal_data(static_cast<std::size_t>(rows * cols), seed);
  return m;
}

TEST(StochasticBlock, a_tensor_s_words_are_those_of_its_positions) {
  const analysis::Matrix m = matrix(12, 96, 76);
  const sim::Grid grid = sim::make_grid(formats::e2m1);
  for (const bool unbiased : {false, true}) {
    const analysis::Quantized q = quantized(m, unbiased, 5, 9);
    for (std::int64_t b = m.rows * m.cols / block - 1; b >= 0; --b) {  // in another order, one block at a time
      const std::int64_t row = b / (m.cols / block), column = b % (m.cols / block) * block;
      std::uint32_t words[block];
      std::uint8_t codes[block];
      sim::fill_words(5, 9, static_cast<std::uint64_t>(row * m.cols + column), block, words);
      sim::quantize_block_stochastic(formats::e2m1, grid, m.row(row) + column, block, q.step(row, column / block),
                                     words, codes);
      for (int i = 0; i < block; ++i) {
        ASSERT_EQ(q.codes[static_cast<std::size_t>(row * m.cols + column + i)], codes[i]) << row << ", " << column + i;
      }
    }
  }
}

TEST(StochasticBlock, other_rows_do_not_change_a_row_s_codes) {
  const analysis::Matrix m = matrix(9, 64, 77);
  analysis::Matrix other = m;
  for (std::int64_t r = 0; r < m.rows; r += 2) {
    for (std::int64_t c = 0; c < m.cols; ++c) other.data[static_cast<std::size_t>(r * m.cols + c)] *= -0.75f;
  }
  const analysis::Quantized a = quantized(m, true, 1, 2), b = quantized(other, true, 1, 2);
  for (std::int64_t r = 1; r < m.rows; r += 2) {
    for (std::int64_t c = 0; c < m.cols; ++c) {
      const auto at = static_cast<std::size_t>(r * m.cols + c);
      ASSERT_EQ(a.codes[at], b.codes[at]) << r << ", " << c;
    }
  }
  EXPECT_NE(a.codes, b.codes);
}

TEST(StochasticBlock, threads_do_not_change_a_code_and_seeds_and_streams_do) {
  const analysis::Matrix m = matrix(64, 128, 78);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const analysis::Quantized one = quantized(m, true, 1, 2);
  omp_set_num_threads(3);
  EXPECT_EQ(quantized(m, true, 1, 2).codes, one.codes);
  omp_set_num_threads(before);
  EXPECT_NE(quantized(m, true, 2, 2).codes, one.codes);
  EXPECT_NE(quantized(m, true, 1, 3).codes, one.codes);
}

/// Equal rows share a scale but not their words: no two of 200 rows come out alike.
TEST(StochasticBlock, equal_rows_have_words_of_their_own) {
  analysis::Matrix m = matrix(200, 64, 79);
  for (std::int64_t r = 1; r < m.rows; ++r) std::copy_n(m.row(0), m.cols, m.data.begin() + r * m.cols);
  const analysis::Quantized q = quantized(m, true, 1, 2);
  std::set<std::string> rows;
  for (std::int64_t r = 0; r < m.rows; ++r) {
    rows.emplace(q.codes.begin() + r * m.cols, q.codes.begin() + (r + 1) * m.cols);
  }
  EXPECT_EQ(rows.size(), static_cast<std::size_t>(m.rows));
}

}  // namespace
}  // namespace fp4scope
