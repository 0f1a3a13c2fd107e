// What is measured is what its definition says, on matrices small enough to work out by hand or by brute force.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "analysis/distributions.hpp"
#include "analysis/metrics.hpp"
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
    EXPECT_NE(std::string(e.what()).find("layer: row 0, column 20 is nan (2 such values in all)"), std::string::npos) << e.what();
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
