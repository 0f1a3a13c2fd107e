// Profiles are what their bins say: by hand, against a plain double loop, and the same bits on any thread count and in
// any pieces.
#include "analysis/places.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "analysis/distributions.hpp"
#include "analysis/metrics.hpp"

namespace fp4scope::analysis {
namespace {

QuantizeConfig config(const char* format, const char* method, int block, const char* tensor_scale, bool tiles = false) {
  QuantizeWords words = {format, method, "", tensor_scale, "", block, 0};
  words.tiles = tiles;
  return parse_config(words);
}

Matrix normal(std::int64_t rows, std::int64_t cols, const char* dtype = "f32") {
  Distribution d;
  d.rows = rows;
  d.cols = cols;
  d.dtype = dtype;
  return sample(d);
}

Matrix rows_of(const Matrix& m, std::int64_t first, std::int64_t count) {
  return {count, m.cols, {m.row(first), m.row(first) + count * m.cols}};
}

Quantized rows_of(const Quantized& q, std::int64_t first, std::int64_t count) {
  Quantized part = q;
  part.rows = count;
  part.codes.assign(q.codes.begin() + first * q.cols, q.codes.begin() + (first + count) * q.cols);
  part.scales.assign(q.scales.begin() + first * q.blocks_per_row(),
                     q.scales.begin() + (first + count) * q.blocks_per_row());
  return part;
}

void expect_same(const Profile& a, const Profile& b, const std::string& name) {
  EXPECT_EQ(a.count, b.count) << name;
  EXPECT_EQ(a.sse, b.sse) << name;
  EXPECT_EQ(a.energy, b.energy) << name;
  EXPECT_EQ(a.bias, b.bias) << name;
}

void expect_same(const Places& a, const Places& b, const std::string& name) {
  expect_same(a.by_code, b.by_code, name + ": code");
  expect_same(a.by_ratio, b.by_ratio, name + ": ratio");
  expect_same(a.by_position, b.by_position, name + ": position");
  expect_same(a.by_column, b.by_column, name + ": column");
  expect_same(a.by_row, b.by_row, name + ": row");
  expect_same(a.by_scale_code, b.by_scale_code, name + ": scale code");
  EXPECT_EQ(a.magnitude, b.magnitude) << name;
  EXPECT_EQ(a.stored_magnitude, b.stored_magnitude) << name;
}

struct Bin {
  std::int64_t count;
  double sse, energy, bias;
};

void expect_bin(const Profile& p, std::size_t bin, const Bin& expected, const std::string& name) {
  EXPECT_EQ(p.count[bin], expected.count) << name;
  EXPECT_DOUBLE_EQ(p.sse[bin], expected.sse) << name;
  EXPECT_DOUBLE_EQ(p.energy[bin], expected.energy) << name;
  EXPECT_DOUBLE_EQ(p.bias[bin], expected.bias) << name;
}

TEST(Places, by_hand) {
  // Blocks of 4, T = 1, 6 columns. Row 0: amax 6, scale 1 (code 56): 6 3.25 -0.25 5 -> 6 3 -0 4, then 12 0 -> 12 0 at
  // scale 2 (code 64). Row 1: zeros, then 2.25 -6 -> 2 -6.
  const Matrix m = {2, 6, {6, 3.25f, -0.25f, 5, 12, 0, 0, 0, 0, 0, 2.25f, -6}};
  const Quantized q = quantize(config("nvfp4", "naive", 4, "none"), m, "m");
  const Places p = places_of(m, q);
  expect_bin(p.by_code, 0x0, {5, 0, 0, 0}, "code 0");
  expect_bin(p.by_code, 0x8, {1, 0.0625, 0.0625, -0.25}, "code -0");
  expect_bin(p.by_code, 0x4, {1, 0.0625, 5.0625, -0.25}, "code 2");
  expect_bin(p.by_code, 0x5, {1, 0.0625, 10.5625, -0.25}, "code 3");
  expect_bin(p.by_code, 0x6, {1, 1, 25, -1}, "code 4");
  expect_bin(p.by_code, 0x7, {2, 0, 36 + 144, 0}, "code 6");
  expect_bin(p.by_code, 0xF, {1, 0, 36, 0}, "code -6");
  expect_bin(p.by_ratio, 0, {5, 0, 0, 0}, "zeros");
  expect_bin(p.by_ratio, 2, {1, 0.0625, 0.0625, -0.25}, "ratio 1/24");
  expect_bin(p.by_ratio, 18, {1, 0.0625, 5.0625, -0.25}, "ratio 3/8");
  expect_bin(p.by_ratio, 26, {1, 0.0625, 10.5625, -0.25}, "ratio 13/24");
  expect_bin(p.by_ratio, 40, {1, 1, 25, -1}, "ratio 5/6");
  expect_bin(p.by_ratio, 47, {3, 0, 36 + 144 + 36, 0}, "the largest");
  expect_bin(p.by_position, 0, {4, 0.0625, 36 + 144 + 5.0625, -0.25}, "position 0");
  expect_bin(p.by_position, 1, {4, 0.0625, 10.5625 + 36, -0.25}, "position 1");
  expect_bin(p.by_position, 3, {2, 1, 25, -1}, "position 3");
  expect_bin(p.by_column, 4, {2, 0.0625, 144 + 5.0625, -0.25}, "column 4");
  expect_bin(p.by_row, 0, {6, 1.125, 36 + 10.5625 + 0.0625 + 25 + 144, -1.5}, "row 0");
  expect_bin(p.by_row, 1, {6, 0.0625, 41.0625, -0.25}, "row 1");
  expect_bin(p.by_scale_code, 56, {2, 1.1875, 36 + 10.5625 + 0.0625 + 25 + 41.0625, -1.75}, "scale 1");
  expect_bin(p.by_scale_code, 64, {1, 0, 144, 0}, "scale 2");
  expect_bin(p.by_scale_code, 0, {1, 0, 0, 0}, "scale 0");
  EXPECT_EQ(p.magnitude, 6 + 3.25 + 0.25 + 5 + 12 + 2.25 + 6);
  EXPECT_EQ(p.stored_magnitude, 6 + 3 + 4 + 12 + 2 + 6);
  EXPECT_EQ(p.shrinkage(), 33 / 34.75);
}

/// The definition, element by element: bins from real quotients, the amax of a tile from all of it.
Places slow_places(const Matrix& m, const Quantized& q) {
  PlaceSums empty(q.config, m.rows, m.cols);
  Places p = empty.places();
  const std::vector<float> values = exact_values(q);
  const auto block = static_cast<std::int64_t>(q.config.block);
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) {
      const std::int64_t height = q.config.tiles ? block : 1;
      double amax = 0;
      for (std::int64_t i = r / height * height; i < std::min(m.rows, (r / height + 1) * height); ++i) {
        for (std::int64_t j = c / block * block; j < std::min(m.cols, (c / block + 1) * block); ++j) {
          amax = std::fmax(amax, std::fabs(m.row(i)[j]));
        }
      }
      const double x = m.row(r)[c], value = values[static_cast<std::size_t>(r * q.cols + c)];
      int bin = ratio_bins - 1;
      while (bin > 0 && std::fabs(x) * ratio_bins < bin * amax) --bin;
      if (amax == 0) bin = 0;
      const int scale =
          q.scales[static_cast<std::size_t>((r * q.cols + c) / block)] % (q.config.format->selects() ? 128 : 256);
      const auto put = [&](Profile& profile, std::int64_t i, std::int64_t count) {
        const auto at = static_cast<std::size_t>(i);
        profile.count[at] += count;
        profile.sse[at] += (value - x) * (value - x);
        profile.energy[at] += x * x;
        profile.bias[at] += std::fabs(value) - std::fabs(x);
      };
      put(p.by_code, q.codes[static_cast<std::size_t>(r * q.cols + c)], 1);
      put(p.by_ratio, bin, 1);
      put(p.by_position, c % block, 1);
      put(p.by_column, c, 1);
      put(p.by_row, r, 1);
      put(p.by_scale_code, scale, c % block == 0 && r % height == 0);
      p.magnitude += std::fabs(x);
      p.stored_magnitude += std::fabs(value);
    }
  }
  return p;
}

void expect_near(const Profile& a, const Profile& slow, const std::string& name) {
  ASSERT_EQ(a.count.size(), slow.count.size()) << name;
  for (std::size_t i = 0; i < a.count.size(); ++i) {
    EXPECT_EQ(a.count[i], slow.count[i]) << name << " " << i;
    EXPECT_NEAR(a.sse[i], slow.sse[i], 1e-6 * slow.energy[i]) << name << " " << i;  // slow values are binary32
    EXPECT_NEAR(a.energy[i], slow.energy[i], 1e-12 * slow.energy[i]) << name << " " << i;
    EXPECT_NEAR(a.bias[i], slow.bias[i], 1e-6 * slow.energy[i] + 1e-6 * std::sqrt(slow.energy[i])) << name << " " << i;
  }
}

TEST(Places, equal_a_plain_double_loop) {
  const Matrix m = normal(70, 83, "bf16");
  const struct {
    const char *format, *method, *tensor_scale;
    int block;
    bool tiles;
  } cases[] = {{"nvfp4", "sse", "amax", 16, false},       {"nvfp4", "naive", "amax", 16, true},
               {"mxfp4", "floor", "none", 32, false},     {"if4", "naive", "amax", 16, false},
               {"nvint4", "naive", "amax", 16, false},    {"mxfp8_e4m3", "naive", "none", 32, false},
               {"mxfp6_e2m3", "naive", "none", 32, false}};
  for (const auto& c : cases) {
    const Quantized q = quantize(config(c.format, c.method, c.block, c.tensor_scale, c.tiles), m, "m");
    const Places p = places_of(m, q), slow = slow_places(m, q);
    const std::string name = std::string(c.format) + (c.tiles ? " tiles " : " ");
    expect_near(p.by_code, slow.by_code, name + "code");
    expect_near(p.by_ratio, slow.by_ratio, name + "ratio");
    expect_near(p.by_position, slow.by_position, name + "position");
    expect_near(p.by_column, slow.by_column, name + "column");
    expect_near(p.by_row, slow.by_row, name + "row");
    expect_near(p.by_scale_code, slow.by_scale_code, name + "scale code");
    EXPECT_NEAR(p.magnitude, slow.magnitude, 1e-12 * slow.magnitude) << name;
    EXPECT_NEAR(p.stored_magnitude, slow.stored_magnitude, 1e-6 * slow.magnitude) << name;
  }
}

TEST(Places, rows_add_up_to_the_metrics_bit_by_bit_and_every_profile_nearly) {
  const Matrix m = normal(130, 77);
  const Quantized q = quantize(config("nvfp4", "naive", 16, "amax"), m, "m");
  const Places p = places_of(m, q);
  const Metrics metrics = measure(m, q);
  double sse = 0;
  for (const double row : p.by_row.sse) sse += row;
  EXPECT_EQ(sse, metrics.sse);
  for (const Profile* profile : {&p.by_code, &p.by_ratio, &p.by_position, &p.by_column, &p.by_row, &p.by_scale_code}) {
    std::int64_t count = 0;
    double error = 0, energy = 0, bias = 0;
    for (std::size_t i = 0; i < profile->count.size(); ++i) {
      count += profile->count[i];
      error += profile->sse[i];
      energy += profile->energy[i];
      bias += profile->bias[i];
    }
    EXPECT_EQ(count, profile == &p.by_scale_code ? metrics.blocks : metrics.elements);
    EXPECT_NEAR(error, metrics.sse, 1e-12 * metrics.sse);
    EXPECT_NEAR(energy, metrics.energy, 1e-12 * metrics.energy);
    EXPECT_NEAR(bias, p.stored_magnitude - p.magnitude, 1e-11 * p.magnitude);
  }
}

TEST(Places, do_not_depend_on_threads_or_pieces) {
  const Matrix m = normal(150, 300);
  for (const bool tiles : {false, true}) {
    const Quantized q = quantize(config("nvfp4", "naive", 16, "amax", tiles), m, "m");
    omp_set_num_threads(1);
    const Places once = places_of(m, q);
    for (const int threads : {1, 2, 7}) {
      omp_set_num_threads(threads);
      expect_same(places_of(m, q), once, std::to_string(threads) + " threads");
      PlaceSums pieces(q.config, m.rows, m.cols);
      const std::int64_t starts[] = {0, 16, 96, tiles ? 112 : 97, m.rows};
      for (int i = 0; i < 4; ++i) {
        const std::int64_t first = starts[i], count = starts[i + 1] - first;
        pieces.add(rows_of(m, first, count), rows_of(q, first, count));
      }
      expect_same(pieces.places(), once, std::to_string(threads) + " threads, in pieces");
    }
  }
  omp_set_num_threads(omp_get_num_procs());
}

TEST(Places, a_ratio_on_the_edge_of_a_bin_belongs_to_the_bin_above) {
  // A row of amax k with x = i and the binary32 number below: 48 i / k is whole, the other is in the bin below.
  const QuantizeConfig c = config("nvfp4", "naive", 4, "none");
  for (const int k : {3, 6, 12, 24, 48}) {
    Matrix m = {k - 1, 4, {}};
    std::vector<std::int64_t> expected(ratio_bins);
    for (int i = 1; i < k; ++i) {
      const auto x = static_cast<float>(i);
      for (const float value : {static_cast<float>(k), x, std::nextafterf(x, 0), -x}) m.data.push_back(value);
      const auto bin = static_cast<std::size_t>(48 * i / k);
      expected[bin] += 2;
      ++expected[bin - 1];
      ++expected[ratio_bins - 1];
    }
    EXPECT_EQ(places_of(m, quantize(c, m, "m")).by_ratio.count, expected) << k;
  }
}

TEST(Places, zeros_shrink_by_nothing_that_is_a_number) {
  const Matrix m = {2, 20, std::vector<float>(40)};
  const Places p = places_of(m, quantize(config("nvfp4", "naive", 16, "none"), m, "m"));
  EXPECT_TRUE(std::isnan(p.shrinkage()));
  EXPECT_EQ(p.by_ratio.count[0], 40);
  EXPECT_EQ(p.by_scale_code.count[0], 4);
}

TEST(Places, first_normal_codes) {
  EXPECT_EQ(first_normal_code(formats::e4m3), 8);
  EXPECT_EQ(first_normal_code(formats::ue5m3), 8);
  EXPECT_EQ(first_normal_code(formats::ue4m4), 16);
  EXPECT_EQ(first_normal_code(formats::e5m2), 4);
  EXPECT_EQ(first_normal_code(formats::ue8m0), 0);
  for (const formats::Format& f : {formats::e4m3, formats::ue5m3, formats::ue4m4, formats::e5m2, formats::ue8m0}) {
    const auto code = static_cast<std::uint32_t>(first_normal_code(f));
    EXPECT_EQ(formats::decode_double(f, code), std::ldexp(1, f.min_exponent())) << f.name;
  }
}

}  // namespace
}  // namespace fp4scope::analysis
