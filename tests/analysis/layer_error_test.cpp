// The layer's error and its parts against rational arithmetic, against each other, and by hand.
#include "analysis/layer_error.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>

#include "analysis/distributions.hpp"
#include "analysis/metrics.hpp"

namespace fp4scope::analysis {
namespace {

QuantizeConfig config(const char* format, const char* method, int block, const char* tensor_scale) {
  return parse_config({format, method, "", tensor_scale, "", block, 0});
}

Matrix normal(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Distribution d;
  d.rows = rows;
  d.cols = cols;
  d.seed = seed;
  d.dtype = "f32";
  return sample(d);
}

using Rationals = std::vector<std::vector<mpq_class>>;  // [rows][cols]

Rationals rationals(const Matrix& m) {
  Rationals out(static_cast<std::size_t>(m.rows));
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) out[static_cast<std::size_t>(r)].emplace_back(m.row(r)[c]);
  }
  return out;
}

/// tensor scale * block scale * element, straight from codes and formats; 6/7 of it where IF4 chose integers.
Rationals rationals(const Quantized& q, std::int64_t cols) {
  Rationals out(static_cast<std::size_t>(q.rows));
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const int scale = q.scales[static_cast<std::size_t>((r * q.cols + c) / q.config.block)];
      const std::uint32_t code = q.codes[static_cast<std::size_t>(r * q.cols + c)];
      const bool integer = q.config.format->selects() && scale >= 128;
      const formats::Format& element = integer ? formats::int4 : q.config.format->element;
      const auto magnitude = static_cast<std::uint32_t>(q.config.format->selects() ? scale % 128 : scale);
      out[static_cast<std::size_t>(r)].push_back(
          mpq_class(q.tensor_scale) * mpq_class(formats::decode_double(q.config.format->scale, magnitude)) *
          mpq_class(formats::decode_double(element, code)) * (integer ? mpq_class(6, 7) : mpq_class(1)));
    }
  }
  return out;
}

Rationals minus(const Rationals& a, const Rationals& b) {
  Rationals out = a;
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t j = 0; j < a[i].size(); ++j) out[i][j] -= b[i][j];
  }
  return out;
}

/// x w^T: [tokens][rows].
Rationals outputs(const Rationals& x, const Rationals& w) {
  Rationals out(x.size(), std::vector<mpq_class>(w.size()));
  for (std::size_t t = 0; t < x.size(); ++t) {
    for (std::size_t r = 0; r < w.size(); ++r) {
      for (std::size_t c = 0; c < x[t].size(); ++c) out[t][r] += x[t][c] * w[r][c];
    }
  }
  return out;
}

mpq_class inner(const Rationals& a, const Rationals& b) {
  mpq_class sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t j = 0; j < a[i].size(); ++j) sum += a[i][j] * b[i][j];
  }
  return sum;
}

void expect_rational(const LayerError& e, const Matrix& w, const Quantized& wq, const Matrix& x, const Quantized* xq,
                     const std::string& name) {
  const Rationals rw = rationals(w), rx = rationals(x), sw = rationals(wq, w.cols);
  const Rationals sx = xq ? rationals(*xq, x.cols) : rx;
  const Rationals exact = outputs(rx, rw), error = minus(outputs(sx, sw), exact);
  const Rationals parts[] = {outputs(rx, minus(sw, rw)), outputs(minus(sx, rx), rw),
                             outputs(minus(sx, rx), minus(sw, rw))};
  EXPECT_NEAR(e.energy, inner(exact, exact).get_d(), 1e-13 * e.energy) << name;
  EXPECT_NEAR(e.error, inner(error, error).get_d(), 1e-13 * e.energy) << name;
  mpq_class sum = 0;
  for (int a = 0; a < layer_term_count; ++a) {
    for (int b = 0; b < layer_term_count; ++b) {
      const mpq_class product = inner(parts[a], parts[b]);
      sum += product;
      const double size = std::sqrt(inner(parts[a], parts[a]).get_d() * inner(parts[b], parts[b]).get_d());
      EXPECT_NEAR(e.inner[a][b], product.get_d(), 1e-12 * size) << name << ": " << a << ", " << b;
    }
  }
  EXPECT_EQ(sum, inner(error, error)) << name;
}

TEST(LayerError, equals_rational_arithmetic) {
  const struct {
    std::int64_t rows, cols, tokens;
    const char *w_format, *w_method;
    int w_block;
    const char* x_format;
    int x_block;
  } cases[] = {{5, 21, 7, "nvfp4", "sse", 16, "mxfp4", 32},
               {4, 32, 4, "if4", "naive", 16, "nvfp4", 16},
               {1, 3, 1, "nvint4", "naive", 16, "if4", 16},
               {9, 40, 6, "mxfp4", "floor", 32, "mxfp8_e4m3", 32}};
  for (const auto& c : cases) {
    const Matrix w = normal(c.rows, c.cols, 1), x = normal(c.tokens, c.cols, 2);
    const Quantized wq = quantize(config(c.w_format, c.w_method, c.w_block, ""), w, "w");
    const Quantized xq = quantize(config(c.x_format, "naive", c.x_block, ""), x, "x");
    const std::string name = std::string(c.w_format) + " by " + c.x_format;
    expect_rational(layer_error(w, wq, x, &xq), w, wq, x, &xq, name);
    expect_rational(layer_error(w, wq, x, nullptr), w, wq, x, nullptr, name + " kept");
  }
}

TEST(LayerError, inner_products_add_up_to_the_error) {
  const Matrix w = normal(37, 96, 1), x = normal(523, 96, 2);
  const Quantized wq = quantize(config("nvfp4", "sse", 16, "amax"), w, "w");
  const Quantized xq = quantize(config("nvfp4", "naive", 16, "amax"), x, "x");
  for (const Quantized* inputs : {&xq, static_cast<const Quantized*>(nullptr)}) {
    const LayerError e = layer_error(w, wq, x, inputs);
    double sum = 0;
    for (int a = 0; a < layer_term_count; ++a) {
      for (int b = 0; b < layer_term_count; ++b) {
        sum += e.inner[a][b];
        EXPECT_EQ(e.inner[a][b], e.inner[b][a]);
      }
    }
    EXPECT_GT(e.error, 0);
    EXPECT_NEAR(sum, e.error, 1e-12 * e.error);
    const Activations a = make_activations(x);
    const double energy = output_energy(w, a);
    EXPECT_NEAR(e.energy, energy, 1e-12 * energy);
    EXPECT_NEAR(std::sqrt(e.inner[0][0] / e.energy), measure(w, wq, &a, energy).output_error, 1e-12);
  }
}

TEST(LayerError, inputs_as_they_are_add_nothing) {
  const Matrix w = normal(6, 32, 1), x = normal(9, 32, 2);
  const Quantized wq = quantize(config("mxfp4", "naive", 32, "none"), w, "w");
  const LayerError e = layer_error(w, wq, x, nullptr);
  for (int a = 0; a < layer_term_count; ++a) {
    for (int b = 0; b < layer_term_count; ++b) {
      if (a == 0 && b == 0) EXPECT_GT(e.inner[a][b], 0);
      else EXPECT_EQ(e.inner[a][b], 0) << a << ", " << b;
    }
  }
  EXPECT_NEAR(e.inner[0][0], e.error, 1e-12 * e.error);
}

TEST(LayerError, by_hand) {
  // W = (6 5): 5 becomes 4. X = (6 3.25), (0 6): 3.25 becomes 3. Outputs 52.25 and 30 become 48 and 24:
  // by weights -3.25, -6; by activations -1.25, 0; by both .25, 0.
  const Matrix w = {1, 2, {6, 5}}, x = {2, 2, {6, 3.25f, 0, 6}};
  const Quantized wq = quantize(config("nvfp4", "naive", 2, "none"), w, "w");
  const Quantized xq = quantize(config("nvfp4", "naive", 2, "none"), x, "x");
  const LayerError e = layer_error(w, wq, x, &xq);
  const double expected[3][3] = {{3.25 * 3.25 + 36, 3.25 * 1.25, -3.25 * 0.25},
                                 {3.25 * 1.25, 1.25 * 1.25, -1.25 * 0.25},
                                 {-3.25 * 0.25, -1.25 * 0.25, 0.0625}};
  EXPECT_EQ(e.energy, 52.25 * 52.25 + 900);
  EXPECT_EQ(e.error, 4.25 * 4.25 + 36);
  for (int a = 0; a < layer_term_count; ++a) {
    for (int b = 0; b < layer_term_count; ++b) EXPECT_EQ(e.inner[a][b], expected[a][b]) << a << ", " << b;
  }
  EXPECT_DOUBLE_EQ(e.dot_snr_db(), 10 * std::log10((52.25 * 52.25 + 900) / (4.25 * 4.25 + 36)));
}

TEST(LayerError, snr_of_a_tenth_is_twenty_decibels) {
  LayerError e;
  e.energy = 100;
  e.error = 1;
  EXPECT_DOUBLE_EQ(e.dot_snr_db(), 20);
  e.error = 0;
  EXPECT_EQ(e.dot_snr_db(), std::numeric_limits<double>::infinity());
  e.energy = 0;
  EXPECT_TRUE(std::isnan(e.dot_snr_db()));
}

TEST(LayerError, does_not_depend_on_the_number_of_threads) {
  const Matrix w = normal(30, 50, 1), x = normal(261, 50, 2);
  const Quantized wq = quantize(config("nvfp4", "naive", 16, "amax"), w, "w");
  const Quantized xq = quantize(config("mxfp4", "naive", 32, "none"), x, "x");
  LayerError first;
  for (const int threads : {1, 2, 7}) {
    omp_set_num_threads(threads);
    const LayerError e = layer_error(w, wq, x, &xq);
    if (threads == 1) first = e;
    EXPECT_EQ(e.energy, first.energy);
    EXPECT_EQ(e.error, first.error);
    for (int a = 0; a < layer_term_count; ++a) {
      for (int b = 0; b < layer_term_count; ++b) EXPECT_EQ(e.inner[a][b], first.inner[a][b]) << a << ", " << b;
    }
  }
  omp_set_num_threads(omp_get_num_procs());
}

}  // namespace
}  // namespace fp4scope::analysis
