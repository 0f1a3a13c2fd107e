// What is measured is what its definition says, on matrices small enough to work out by hand or by brute force.
#include "analysis/metrics.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "analysis/distributions.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {
namespace {

QuantizeConfig config(const char* format, const char* method, int block, const char* tensor_scale) {
  return parse_config({format, method, "", tensor_scale, "", block, 0});
}

Matrix normal(std::int64_t rows, std::int64_t cols, std::uint64_t seed = 1) {
  Distribution d;
  d.rows = rows;
  d.cols = cols;
  d.seed = seed;
  return sample(d);
}

TEST(Metrics, count_by_hand) {
  // Block of 4, T = 1: amax 6 gives scale 1. Values 6, 0.3, 0.2, 5 -> 6, 0.5, 0, 4 (5 is a tie, to the even code).
  // The second row underflows: amax / 6 rounds to scale 0. The third is zero.
  const float tiny = 0x1p-12f;
  const Matrix m = {3, 4, {6, 0.3f, 0.2f, 5, tiny, -tiny, 0, 0, 0, 0, 0, 0}};
  const Quantized q = quantize(config("nvfp4", "naive", 4, "none"), m, "m");
  const Metrics r = measure(m, q);
  const double a = 0.5 - double{0.3f}, b = double{0.2f};
  EXPECT_EQ(r.sse, ((a * a + b * b) + 1) + (double{tiny} * tiny + double{tiny} * tiny));
  EXPECT_EQ(r.max_error, 1);
  EXPECT_EQ(r.zeros, 1 + 4 + 4);
  EXPECT_EQ(r.underflowed, 1);
  EXPECT_EQ(r.saturated, 2);  // in a block of scale 0 everything but zero is beyond the largest value
  EXPECT_EQ(r.blocks, 3);
  EXPECT_EQ(r.moved_up + r.moved_down, 0);
  EXPECT_EQ(r.moves[move_reach], 3);
}

TEST(Metrics, padding_is_outside_every_metric) {
  const Matrix m = normal(5, 21);
  const Quantized q = quantize(config("nvfp4", "sse", 16, "amax"), m, "m");
  EXPECT_EQ(q.cols, 32);
  const Metrics r = measure(m, q);
  EXPECT_EQ(r.elements, 5 * 21);
  double sse = 0;
  const std::vector<float> values = dequantize(q);
  for (std::int64_t row = 0; row < 5; ++row) {
    for (std::int64_t c = 0; c < 21; ++c) {
      const double error = double{m.row(row)[c]} - values[static_cast<std::size_t>(row * 32 + c)];
      sse += error * error;
    }
  }
  EXPECT_NEAR(r.sse, sse, 1e-6 * sse);  // values are rounded to binary32 here
  EXPECT_DOUBLE_EQ(bits_per_weight(q, 21), (5 * 32 * 4 + 5 * 2 * 8 + 32) / (5.0 * 21));
}

TEST(Metrics, output_error_is_the_ratio_of_two_matrix_products) {
  const Matrix w = normal(7, 48), x = normal(11, 48, 2);
  const Quantized q = quantize(config("mxfp4", "naive", 16, "none"), w, "w");
  const Activations a = make_activations(x);
  const double reference = output_energy(w, a);
  const Metrics r = measure(w, q, &a, reference);
  const std::vector<float> values = dequantize(q);
  double top = 0, bottom = 0;
  for (std::int64_t i = 0; i < 7; ++i) {
    for (std::int64_t t = 0; t < 11; ++t) {
      double error = 0, y = 0;
      for (std::int64_t c = 0; c < 48; ++c) {
        y += double{w.row(i)[c]} * x.row(t)[c];
        error += (double{w.row(i)[c]} - values[static_cast<std::size_t>(i * 48 + c)]) * x.row(t)[c];
      }
      top += error * error;
      bottom += y * y;
    }
  }
  EXPECT_NEAR(reference, bottom, 1e-12 * bottom);
  EXPECT_NEAR(r.output_error, std::sqrt(top / bottom), 1e-9);
}

/// What the statistics are taken over, by blocks: squared error, energy, naive's squared error, all from definitions.
struct BlockSums {
  std::vector<double> error, energy, naive;
};

BlockSums brute_force(const Matrix& m, const Quantized& q) {
  QuantizeConfig plain = q.config;
  plain.recipe = nullptr;
  plain.rounding = formats::Rounding::nearest_even;
  plain.unbiased = false;
  plain.method = &q.config.naive();
  plain.scaling = TensorScaling::value;
  plain.scaling_value = q.tensor_scale;
  const Quantized naive = quantize(plain, m, "m");
  BlockSums sums;
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t b = 0; b < q.blocks_per_row(); ++b) {
      double error = 0, energy = 0, other = 0;
      for (std::int64_t c = b * q.config.block; c < std::min((b + 1) * q.config.block, m.cols); ++c) {
        const double x = m.row(r)[c];
        const auto i = static_cast<std::size_t>(r * q.cols + c);
        const double value = sim::dequantize(*q.config.format, q.codes[i], q.step(r, b), q.integer(r, b));
        const double as_naive =
            sim::dequantize(*q.config.format, naive.codes[i], naive.step(r, b), naive.integer(r, b));
        error += (x - value) * (x - value);
        energy += x * x;
        other += (x - as_naive) * (x - as_naive);
      }
      sums.error.push_back(error);
      sums.energy.push_back(energy);
      sums.naive.push_back(other);
    }
  }
  return sums;
}

/// Residuals one by one.
double brute_force_error(const std::vector<double>& x, const std::vector<double>& y) {
  double sum_x = 0, sum_y = 0, residual = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sum_x += x[i];
    sum_y += y[i];
  }
  for (std::size_t i = 0; i < x.size(); ++i) residual += std::pow(x[i] - sum_x / sum_y * y[i], 2);
  const auto n = static_cast<double>(x.size());
  return std::sqrt(residual * n / (n - 1)) / sum_y;
}

struct Case {
  const char *format, *method;
  int block;
  const char* rounding = "";
  bool tiles = false;
  const char* recipe = "";
};
const Case statistics_cases[] = {{"nvfp4", "naive", 16},
                                 {"nvfp4", "sse", 16},
                                 {"nvfp4", "static4", 16},
                                 {"nvfp4", "4over6", 16},
                                 {"nvfp4", "ms_eden", 16},
                                 {"nvfp4", "naive", 16, "stochastic"},
                                 {"nvfp4", "sse", 8, "", true},
                                 {"nvfp4", "naive", 16, "", false, "te"},
                                 {"mxfp4", "sse", 32},
                                 {"mxfp8_e4m3", "rceil", 32},
                                 {"nvint4", "sse", 32},
                                 {"if4", "naive", 16},
                                 {"if4", "sse", 16},
                                 {"if4", "sse", 8, "", true}};

TEST(Metrics, intervals_and_the_ratio_to_naive_are_their_definitions) {
  const Matrix m = normal(21, 90);
  for (const Case& c : statistics_cases) {
    QuantizeWords words = {c.format, c.method, "", "", "", c.block, 0, c.recipe, c.rounding, c.tiles};
    const Quantized q = quantize(parse_config(words), m, "m");
    const Metrics r = measure(m, q);
    const BlockSums sums = brute_force(m, q);
    const std::string which =
        std::string(c.format) + " " + c.method + " " + c.rounding + c.recipe + (c.tiles ? " tiles" : "");
    double naive = 0;
    for (const double x : sums.naive) naive += x;
    EXPECT_EQ(r.against_data.n, static_cast<std::int64_t>(sums.error.size())) << which;
    EXPECT_DOUBLE_EQ(r.against_data.ratio(), r.relative_mse()) << which;
    EXPECT_NEAR(r.naive_sse(), naive, 1e-12 * naive) << which;
    EXPECT_NEAR(r.naive_ratio(), r.sse / naive, 1e-12) << which;
    const double error = brute_force_error(sums.error, sums.energy);
    EXPECT_NEAR(r.relative_mse_error(), error, 1e-9 * error) << which;
    EXPECT_NEAR(r.relative_mse_low(), r.relative_mse() - 1.959964 * error, 1e-9 * error) << which;
    EXPECT_NEAR(r.relative_mse_high(), r.relative_mse() + 1.959964 * error, 1e-9 * error) << which;
    const double paired = brute_force_error(sums.error, sums.naive);
    EXPECT_NEAR(r.naive_ratio_high() - r.naive_ratio(), 1.959964 * paired, 1e-7 * paired + 1e-15) << which;
    EXPECT_NEAR(r.naive_ratio() - r.naive_ratio_low(), 1.959964 * paired, 1e-7 * paired + 1e-15) << which;
    if (r.moved_up + r.moved_down == 0 && c.method == std::string("naive") && !*c.rounding && !*c.recipe) {
      EXPECT_EQ(r.naive_ratio_low(), 1) << which;
      EXPECT_EQ(r.naive_ratio_high(), 1) << which;
    }
  }
}

TEST(Metrics, the_interval_holds_the_true_error_19_times_in_20) {
  // Samples of 2^12 against the error of 2^18 other numbers: 200 samples, 5 % outside, 4 standard deviations of that.
  Distribution d;
  d.rows = 256;
  d.cols = 1024;
  d.dtype = "f32";
  d.seed = 1000;
  const QuantizeConfig c = config("mxfp4", "naive", 32, "none");
  const Matrix all = sample(d);
  const double truth = measure(all, quantize(c, all, "m")).relative_mse();
  int outside = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    d.rows = 4;
    d.seed = seed;
    const Matrix m = sample(d);
    const Metrics r = measure(m, quantize(c, m, "m"));
    outside += truth < r.relative_mse_low() || truth > r.relative_mse_high();
  }
  EXPECT_GE(outside, 1);
  EXPECT_LE(outside, 10 + 4 * 3.1);
}

TEST(Metrics, statistics_that_are_not_defined_are_nan) {
  const Matrix one = {1, 4, {6, 0.3f, 0.2f, 5}};
  Metrics r = measure(one, quantize(config("nvfp4", "sse", 4, "none"), one, "m"));
  EXPECT_TRUE(std::isnan(r.relative_mse_error()) && std::isnan(r.relative_mse_low()) &&
              std::isnan(r.naive_ratio_high()));
  EXPECT_FALSE(std::isnan(r.naive_ratio()));
  EXPECT_TRUE(std::isnan(r.block_output_error));
  const Matrix exact = {2, 4, {6, 3, 2, 0.5f, 6, 4, 1, 0}};
  r = measure(exact, quantize(config("nvfp4", "sse", 4, "none"), exact, "m"));
  EXPECT_EQ(r.relative_mse_error(), 0);
  EXPECT_TRUE(std::isnan(r.naive_ratio()) && std::isnan(r.naive_ratio_low()) && std::isnan(r.naive_ratio_high()));
  const Matrix zeros = {2, 4, std::vector<float>(8)};
  r = measure(zeros, quantize(config("nvfp4", "sse", 4, "amax"), zeros, "m"));
  EXPECT_TRUE(std::isnan(r.relative_mse_error()) && std::isnan(r.shrinkage()));
  QuantizeConfig c = config("nvfp4", "sse", 4, "amax");
  c.nonfinite = Nonfinite::propagate;
  const Matrix bad = {3, 4, {1, 2, 3, 4, 1, NAN, 3, 4, 1, 2, 3, 5}};
  r = measure(bad, quantize(c, bad, "m"));
  EXPECT_TRUE(std::isnan(r.naive_ratio()) && std::isnan(r.relative_mse_error()) && std::isnan(r.max_error));
}

TEST(Metrics, low_is_not_below_zero) {
  RatioSums sums;
  sums.add(1, 1);
  for (int i = 0; i < 9; ++i) sums.add(0, 1);
  EXPECT_EQ(sums.low(), 0);
  EXPECT_DOUBLE_EQ(sums.ratio(), 0.1);
}

TEST(Metrics, block_output_error_adds_blocks_as_if_they_did_not_interact) {
  const Matrix w = normal(7, 40), x = normal(11, 40, 2);
  const Quantized q = quantize(config("mxfp4", "naive", 16, "none"), w, "w");
  const Activations a = make_activations(x);
  const Metrics r = measure(w, q, &a, output_energy(w, a));
  double top = 0, whole = 0;
  for (std::int64_t i = 0; i < 7; ++i) {
    for (std::int64_t t = 0; t < 11; ++t) {
      double all = 0;
      for (std::int64_t b = 0; b < 3; ++b) {
        double y = 0;
        for (std::int64_t c = 16 * b; c < std::min<std::int64_t>(16 * b + 16, 40); ++c) {
          const auto code = q.codes[static_cast<std::size_t>(i * q.cols + c)];
          y += (sim::dequantize(*q.config.format, code, q.step(i, b)) - w.row(i)[c]) * x.row(t)[c];
        }
        top += y * y;
        all += y;
      }
      whole += all * all;
    }
  }
  EXPECT_NEAR(r.block_output_error, std::sqrt(top / output_energy(w, a)), 1e-12);
  EXPECT_NEAR(r.output_error, std::sqrt(whole / output_energy(w, a)), 1e-12);
  EXPECT_GT(std::fabs(top - whole), 1e-3 * top);
}

TEST(Metrics, shrinkage_and_subnormal_scales_by_hand) {
  // T = 1, blocks of 4: amax 6 -> scale 1; 6 * 2^-8 -> E4M3's subnormal 2^-8, code 2; 2^-12 -> code 0, not counted.
  const float small = 6 * 0x1p-8f, tiny = 0x1p-12f;
  const Matrix m = {3, 4, {6, 0.3f, -0.2f, -5, small, 0, 0, 0, tiny, 0, 0, 0}};
  const Metrics r = measure(m, quantize(config("nvfp4", "naive", 4, "none"), m, "m"));
  EXPECT_EQ(r.subnormal, 1);
  EXPECT_DOUBLE_EQ(r.shrinkage(), (6 + 0.5 + 4 + double{small}) / (6 + double{0.3f} + double{0.2f} + 5 + small + tiny));
  // A power-of-two scale has no subnormal: its lowest code, 0, is 2^-127.
  const Matrix least = {1, 4, {0x1p-126f, 0, 0, 0}};
  const Quantized q = quantize(config("mxfp4", "naive", 4, "none"), least, "m");
  EXPECT_EQ(q.scales[0], 0);
  EXPECT_EQ(measure(least, q).subnormal, 0);
  const Matrix edge = {1, 8, {6 * 0x1p-6f, 0, 0, 0, 6 * 0x1.cp-7f, 0, 0, 0}};  // codes 8, the first normal one, and 7
  EXPECT_EQ(measure(edge, quantize(config("nvfp4", "naive", 4, "none"), edge, "m")).subnormal, 1);
}

TEST(Metrics, do_not_depend_on_the_number_of_threads) {
  const Matrix w = normal(37, 64), x = normal(9, 64, 2);
  const Activations a = make_activations(x);
  Metrics first;
  for (const int threads : {1, 2, 7}) {
    omp_set_num_threads(threads);
    const Matrix again = normal(37, 64);
    EXPECT_EQ(again.data, w.data);
    const Quantized q = quantize(config("nvfp4", "sse", 16, "amax"), w, "w");
    const Metrics r = measure(w, q, &a, output_energy(w, a));
    if (threads == 1) first = r;
    EXPECT_EQ(r.sse, first.sse);
    EXPECT_EQ(r.output_error, first.output_error);
    EXPECT_EQ(r.moves, first.moves);
  }
  omp_set_num_threads(omp_get_num_procs());
}

TEST(Quantize, refuses_what_is_not_finite_or_makes_its_block_nan) {
  Matrix m = normal(2, 32);
  m.data[20] = NAN;
  m.data[40] = INFINITY;
  try {
    quantize(config("nvfp4", "sse", 16, "amax"), m, "layer");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("layer: row 0, column 20 is nan (2 such values in all)"), std::string::npos)
        << e.what();
  }
  QuantizeConfig c = config("nvfp4", "sse", 16, "amax");
  c.nonfinite = Nonfinite::propagate;
  const Quantized q = quantize(c, m, "layer");
  EXPECT_TRUE(std::isfinite(q.amax));
  const std::vector<float> values = dequantize(q);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool in_bad_block = (i >= 16 && i < 32) || (i >= 32 && i < 48);
    EXPECT_EQ(std::isnan(values[i]), in_bad_block) << i;
  }
}

TEST(Distributions, have_the_moments_that_they_name) {
  for (const char* kind : {"normal", "laplace", "uniform"}) {
    Distribution d;
    d.kind = kind;
    d.rows = d.cols = 1024;
    d.sigma = 0.5;
    d.dtype = "f32";
    const Matrix m = sample(d);
    double sum = 0, squares = 0;
    for (const float x : m.data) {
      sum += x;
      squares += double{x} * x;
    }
    const double n = static_cast<double>(m.size());
    EXPECT_NEAR(sum / n, 0, 4 * 0.5 / std::sqrt(n)) << kind;
    EXPECT_NEAR(std::sqrt(squares / n), 0.5, 0.005) << kind;
  }
}

TEST(Distributions, activations_have_the_correlation_asked_for) {
  SyntheticActivations a;
  a.tokens = 20000;
  a.correlation = 0.8;
  a.outlier_share = 0;
  const Matrix x = sample(a, 4);
  double xx = 0, yy = 0, xy = 0, xz = 0, zz = 0;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const float* row = x.row(t);
    xx += double{row[0]} * row[0];
    yy += double{row[1]} * row[1];
    zz += double{row[2]} * row[2];
    xy += double{row[0]} * row[1];
    xz += double{row[0]} * row[2];
  }
  EXPECT_NEAR(xy / std::sqrt(xx * yy), 0.8, 0.02);
  EXPECT_NEAR(xz / std::sqrt(xx * zz), 0.64, 0.02);
}

}  // namespace
}  // namespace fp4scope::analysis
