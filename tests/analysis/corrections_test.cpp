// Methods that correct values beyond codes and block scales: what is stored gives the values that their definitions
// say, and on N(0, 1) the errors that are known of them (arXiv 2605.20402, 2603.08713, recomputed).
#include <gmpxx.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "analysis/certificate.hpp"
#include "analysis/distributions.hpp"
#include "analysis/metrics.hpp"
#include "formats/error.hpp"
#include "search/macro.hpp"

namespace fp4scope::analysis {
namespace {

const bool one_thread = (omp_set_num_threads(1), true);  // most matrices here are no work for two

QuantizeConfig config(const std::string& method) { return parse_config({"mxfp4", method, "", "", "", 0, 0}); }

Matrix normal(std::int64_t rows, std::int64_t cols, double sigma = 1) {
  Distribution d;
  d.rows = rows;
  d.cols = cols;
  d.sigma = sigma;
  d.dtype = "f32";
  return sample(d);
}

struct ErrorRow {
  const char* method;
  double relative_mse;
};

/// Blocks of 32. Over 2^20 samples the error's own standard deviation is 0.2 % of it, so 1 % is five of them.
TEST(Corrections, err_on_normal_data_as_much_as_is_known_of_them) {
  const ErrorRow rows[] = {{"floor", 1.32189e-2},
                           {"rceil", 1.33132e-2},
                           {"oas", 1.25088e-2},
                           {"uos", 1.24582e-2},
                           {"macro", 1.180e-2},
                           {"macro_search", 1.094e-2},
                           {"macro_oas_search", 1.010e-2},
                           {"residual", 1.95e-4},
                           {"residual_half", 3.33e-3}};
  const Matrix m = normal(1024, 1024);
  for (const ErrorRow& row : rows) {
    const double got = measure(m, quantize(config(row.method), m, "m")).relative_mse();
    EXPECT_NEAR(got, row.relative_mse, 0.01 * row.relative_mse) << row.method;
  }
}

/// |x| (256 + m) against 256 v q, v the block's power of two: the nearest level, a tie to the even code.
int nearest_code(float x, int m, int scale_code) {
  static const int twice[] = {0, 1, 2, 3, 4, 6, 8, 12};
  const mpq_class magnitude = mpq_class(std::fabs(x)) * (256 + m);
  const mpq_class half = mpq_class(std::ldexp(128, scale_code - 127));
  int best = 0;
  for (int k = 1; k < 8; ++k) {
    const int order = cmp(abs(mpq_class(magnitude - twice[k] * half)), abs(mpq_class(magnitude - twice[best] * half)));
    if (order < 0 || (order == 0 && k % 2 == 0)) best = k;
  }
  return best;
}

/// Is `d` the binary64 nearest to q?
bool is_nearest(double d, const mpq_class& q) {
  const mpq_class error = abs(mpq_class(mpq_class(d) - q));
  return error <= abs(mpq_class(mpq_class(std::nextafter(d, INFINITY)) - q)) &&
         error <= abs(mpq_class(mpq_class(std::nextafter(d, -INFINITY)) - q));
}

TEST(Corrections, macro_steps_are_nearest_to_2_to_the_e_over_f_and_codes_are_the_nearest_in_rationals) {
  Matrix m = normal(24, 192);
  for (std::int64_t c = 0; c < 192; c += 3) m.data[static_cast<std::size_t>(c)] = 0.25f * static_cast<float>(c % 23);
  for (const char* method : {"macro", "macro_search"}) {
    const Quantized q = quantize(config(method), m, "m");
    ASSERT_EQ(q.macro.size(), 24u * 2);
    for (std::int64_t row = 0; row < 24; ++row) {
      for (std::int64_t b = 0; b < 6; ++b) {
        const int factor = q.macro[static_cast<std::size_t>(row * 2 + b / 4)], code = q.scale_code(row, b);
        EXPECT_TRUE(is_nearest(q.step(row, b), mpq_class(std::ldexp(256, code - 127)) / (256 + factor)))
            << method << std::hexfloat << ' ' << q.step(row, b) << " of code " << code << " and m " << factor;
        for (std::int64_t c = 32 * b; c < 32 * (b + 1); ++c) {
          const float x = m.row(row)[c];
          const int want = nearest_code(x, factor, code) | (std::signbit(x) ? 8 : 0);
          ASSERT_EQ(int{q.codes[static_cast<std::size_t>(row * 192 + c)]}, want)
              << method << std::hexfloat << ' ' << x << ", code " << code << ", m " << factor;
        }
      }
    }
  }
}

/// Elements on midpoints over f, where those are floats, or as near as floats come, and one float beside. 3, 5 and 7
/// divide 256 + m and a midpoint together in four of the factors.
TEST(Corrections, macro_elements_on_and_beside_midpoints_are_decided_in_real_numbers) {
  constexpr double midpoints[] = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5};
  int ties = 0;
  for (int factor = 0; factor < 256; ++factor) {
    Matrix m = {1, 32, std::vector<float>(32, 0.0f)};
    m.data[0] = std::nextafter(static_cast<float>(6 * 256.0 / (256 + factor)), 0.0f);
    for (std::size_t i = 1; i < 22; ++i) {
      const auto here = static_cast<float>(midpoints[(i - 1) / 3] * 256 / (256 + factor));
      m.data[i] = i % 3 == 0 ? here : std::nextafter(here, i % 3 == 1 ? 0.0f : 9.0f);
    }
    const Quantized q = quantize(config("macro"), m, "m");
    ASSERT_EQ(int{q.macro[0]}, factor);
    ASSERT_EQ(int{q.scales[0]}, 127);
    for (std::size_t i = 0; i < 32; ++i) {
      ASSERT_EQ(int{q.codes[i]}, nearest_code(m.data[i], factor, 127))
          << std::hexfloat << m.data[i] << ", m " << factor;
      if (i > 0 && i < 22) ties += m.data[i] * (256.0 + factor) == midpoints[(i - 1) / 3] * 256;
    }
  }
  EXPECT_EQ(ties, 7 + 1 + 3 + 2);
}

TEST(Corrections, residual_is_rceil_of_exactly_what_rceil_leaves_and_the_values_are_exact_sums) {
  Matrix m = normal(16, 128);
  for (std::size_t i = 0; i < m.data.size(); ++i)
    m.data[i] = std::ldexp(m.data[i], static_cast<int>(i / 32 % 9) * 30 - 130);
  const Quantized first = quantize(config("rceil"), m, "m");
  Matrix rest = m;
  for (std::int64_t row = 0; row < 16; ++row) {
    for_each_value(first, row, 128, [&](std::int64_t c, double value) {
      float& r = rest.data[static_cast<std::size_t>(row * 128 + c)];
      const mpq_class want = mpq_class(r) - mpq_class(value);
      r = static_cast<float>(r - value);
      ASSERT_EQ(mpq_class(r), want) << std::hexfloat << m.row(row)[c] << " - " << value << " is no float";
    });
  }
  const Quantized second = quantize(config("rceil"), rest, "rest");
  for (const auto& [method, weight] : {std::pair{"residual", 1.0}, std::pair{"residual_half", 0.5}}) {
    const Quantized q = quantize(config(method), m, "m");
    ASSERT_NE(q.residual, nullptr);
    EXPECT_EQ(q.codes, first.codes);
    EXPECT_EQ(q.scales, first.scales);
    EXPECT_EQ(q.residual->codes, second.codes);
    EXPECT_EQ(q.residual->scales, second.scales);
    const std::vector<float> values = exact_values(q);
    for (std::int64_t row = 0; row < 16; ++row) {
      std::vector<double> a, b;
      for_each_value(first, row, 128, [&](std::int64_t, double value) { a.push_back(value); });
      for_each_value(second, row, 128, [&](std::int64_t, double value) { b.push_back(value); });
      for_each_value(q, row, 128, [&, w = weight](std::int64_t c, double value) {
        const auto at = static_cast<std::size_t>(c);
        ASSERT_EQ(mpq_class(value), mpq_class(a[at]) + mpq_class(w) * mpq_class(b[at])) << "column " << c;
        EXPECT_EQ(values[static_cast<std::size_t>(row * 128 + c)], static_cast<float>(value));
      });
    }
  }
}

TEST(Corrections, do_not_depend_on_the_number_of_threads) {
  const Matrix m = normal(37, 256);
  for (const char* method : {"macro", "macro_search", "residual"}) {
    Quantized first;
    double sse = 0;
    for (const int threads : {1, 2, 7}) {
      omp_set_num_threads(threads);
      const Quantized q = quantize(config(method), m, "m");
      const Metrics metrics = measure(m, q);
      if (threads == 1) first = q, sse = metrics.sse;
      EXPECT_EQ(q.scales, first.scales) << method;
      EXPECT_EQ(q.codes, first.codes) << method;
      EXPECT_EQ(q.macro, first.macro) << method;
      EXPECT_EQ(exact_values(q), exact_values(first)) << method;
      EXPECT_EQ(metrics.sse, sse) << method;
    }
  }
  omp_set_num_threads(1);
}

TEST(Corrections, padding_changes_nothing_and_metrics_see_the_corrected_values) {
  const Matrix m = normal(5, 180);  // stored as 192 columns: a macro block of 128 and one of 64
  Matrix wide = {5, 192, std::vector<float>(5 * 192, 0.0f)};
  for (std::int64_t row = 0; row < 5; ++row) std::copy_n(m.row(row), 180, wide.data.data() + row * 192);
  for (const char* method : {"macro", "macro_search", "residual", "residual_half"}) {
    const Quantized q = quantize(config(method), m, "m"), padded = quantize(config(method), wide, "wide");
    EXPECT_EQ(q.cols, 192);
    EXPECT_EQ(q.macro.size(), q.config.method->has_macro() ? 5u * 2 : 0);
    EXPECT_EQ(exact_values(q), exact_values(padded)) << method;
    double sse = 0;
    std::int64_t zeros = 0;
    for (std::int64_t row = 0; row < 5; ++row) {
      for_each_value(q, row, 180, [&](std::int64_t c, double value) {
        sse += (m.row(row)[c] - value) * (m.row(row)[c] - value);
        zeros += value == 0;
      });
    }
    const Metrics metrics = measure(m, q);
    EXPECT_NEAR(metrics.sse, sse, 1e-12 * sse) << method;
    EXPECT_EQ(metrics.zeros, zeros) << method;
    EXPECT_EQ(metrics.elements, 5 * 180);
  }
}

TEST(Corrections, bits_per_weight_count_the_factors_and_the_second_codes) {
  const Matrix m = normal(3, 256), odd = normal(3, 150);
  const auto bits = [](const std::string& method, const Matrix& x) {
    return bits_per_weight(quantize(config(method), x, "x"), x.cols);
  };
  EXPECT_DOUBLE_EQ(bits("rceil", m), 4.25);
  EXPECT_DOUBLE_EQ(bits("macro", m), 4.25 + 8.0 / 128);
  EXPECT_DOUBLE_EQ(bits("macro_search", m), 4.25 + 4.0 / 128);
  EXPECT_DOUBLE_EQ(bits("macro_oas_search", m), 4.25 + 4.0 / 128);
  EXPECT_DOUBLE_EQ(bits("residual", m), 8.5);
  EXPECT_DOUBLE_EQ(bits("residual_half", m), 8.5);
  EXPECT_DOUBLE_EQ(bits("macro", odd), (160 * 4.25 + 2 * 8) / 150);
  EXPECT_DOUBLE_EQ(bits("residual", odd), 160 * 8.5 / 150);
}

TEST(Corrections, a_block_with_a_nan_becomes_nan_and_leaves_the_others_alone) {
  Matrix m = normal(1, 128);
  for (const char* method : {"macro", "macro_search", "residual"}) {
    Matrix bad = m;
    bad.data[40] = NAN;
    QuantizeConfig c = config(method);
    EXPECT_THROW(quantize(c, bad, "bad"), Error);
    c.nonfinite = Nonfinite::propagate;
    const std::vector<float> values = exact_values(quantize(c, bad, "bad"));
    for (std::size_t i = 0; i < 128; ++i) EXPECT_EQ(std::isnan(values[i]), i >= 32 && i < 64) << method << ' ' << i;
  }
}

/// The mean of stochastic roundings is x: 64 draws of the 2 % that stochastic elements err by.
TEST(Corrections, macro_with_stochastic_elements_is_unbiased) {
  const Matrix m = normal(8, 256);
  QuantizeConfig c = config("macro");
  c.rounding = formats::Rounding::stochastic;
  std::vector<double> mean(m.data.size(), 0.0);
  for (c.seed = 1; c.seed <= 64; ++c.seed) {
    const std::vector<float> values = exact_values(quantize(c, m, "m"));
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += values[i] / 64.0;
  }
  double bias = 0, energy = 0;
  for (std::size_t i = 0; i < mean.size(); ++i) {
    bias += (mean[i] - m.data[i]) * (mean[i] - m.data[i]);
    energy += double{m.data[i]} * m.data[i];
  }
  EXPECT_LT(bias / energy, 2.5e-2 / 64);
}

std::string refusal(const QuantizeWords& words) {
  try {
    parse_config(words);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

TEST(Corrections, refuse_what_they_have_no_use_for) {
  EXPECT_EQ(refusal({"mxfp4", "macro", "", "0.5", "", 0, 0}), "--tensor-scale: macro has none (none)");
  EXPECT_EQ(refusal({"mxfp4", "residual", "", "amax", "", 0, 448}), "--tensor-scale: residual has none (none)");
  EXPECT_EQ(refusal({"mxfp4", "macro", "", "", "", 24, 0}), "--block: 24 does not divide macro's 128 columns");
  EXPECT_EQ(refusal({"mxfp4", "macro", "", "", "", 256, 0}), "--block: 256 does not divide macro's 128 columns");
  EXPECT_EQ(refusal({"mxfp4", "residual", "", "", "", 24, 0}), "");
  QuantizeWords tiles = {"mxfp4", "residual", "", "", "", 0, 0};
  tiles.tiles = true;
  EXPECT_EQ(refusal(tiles), "--block-2d: residual has no square blocks");
  QuantizeWords stochastic = {"mxfp4", "residual", "", "", "", 0, 0};
  stochastic.rounding = "stochastic";
  EXPECT_EQ(refusal(stochastic), "--rounding: residual rounds both sets of elements to nearest (leave it out)");
  stochastic.scale = "macro";
  EXPECT_EQ(refusal(stochastic), "");
  for (const char* method : {"macro", "macro_search", "residual"}) {
    EXPECT_THROW(require_certifiable(config(method)), UsageError) << method;
  }
}

}  // namespace
}  // namespace fp4scope::analysis
