// Errors and scale choices on normal data against published and independently computed numbers: relative MSE, shares
// of "four" and of index moves on N(0, 1) with an amax tensor scale; relative Frobenius errors of N(0, 0.024^2)
// without one.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

#include "search/search.hpp"
#include "sim/block.hpp"

namespace fp4scope {
namespace {

constexpr std::int64_t samples = 1 << 20, cols = 4096;

/// N(0, sigma^2), Box-Muller, rounded to bf16 on request.
std::vector<float> normal_samples(std::int64_t count, double sigma, bool to_bf16) {
  std::mt19937_64 words(61);
  const auto uniform = [&] { return (static_cast<double>(words() >> 11) + 0.5) * 0x1p-53; };
  std::vector<float> x;
  while (static_cast<std::int64_t>(x.size()) < count) {
    const double radius = sigma * std::sqrt(-2 * std::log(uniform())), angle = 2 * M_PI * uniform();
    x.push_back(static_cast<float>(radius * std::cos(angle)));
    x.push_back(static_cast<float>(radius * std::sin(angle)));
  }
  if (!to_bf16) return x;
  for (float& value : x) {
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, value);
    value = __builtin_bit_cast(float, (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u);
  }
  return x;
}

struct Outcome {
  std::vector<std::uint8_t> scales;
  double relative_mse;
  double share_of_four;
};

Outcome run(const char* format, const char* method, int block, float t, const std::vector<float>& x) {
  const formats::BlockFormat& f = *formats::find_block_format(format);
  const search::SearchTask task = {&f, search::find_method(format, method), search::Select::mse, block, t};
  const auto count = static_cast<std::int64_t>(x.size());
  const search::SearchResult found = search::search_scales(task, x.data(), count / cols, cols);
  const sim::Grid grid = sim::make_grid(f.element);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(block));
  double error = 0, energy = 0;
  for (std::int64_t b = 0; b < count / block; ++b) {
    const double step = t * formats::decode_double(f.scale, found.scales[b]);
    sim::quantize_block(f.element, grid, x.data() + b * block, block, step, codes.data());
    for (int i = 0; i < block; ++i) {
      const double value = x[b * block + i], difference = value - sim::dequantize(f.element, codes[i], step);
      error += difference * difference;
      energy += value * value;
    }
  }
  return {found.scales, error / energy, static_cast<double>(found.chose_second * block) / static_cast<double>(count)};
}

class StandardNormal : public testing::Test {
 protected:
  static void SetUpTestSuite() { x = normal_samples(samples, 1, true); }
  static float scale_for(int scale_max) { return sim::tensor_scale(sim::amax(x.data(), samples), 6, scale_max); }
  static inline std::vector<float> x;
};

void expect_within(double got, double want, double share) { EXPECT_NEAR(got, want, share * want); }

TEST_F(StandardNormal, relative_mse_of_naive_is_9_05e_3) {
  expect_within(run("nvfp4", "naive", 16, scale_for(448), x).relative_mse, 9.05e-3, 0.015);
}

TEST_F(StandardNormal, relative_mse_of_sse_is_6_59e_3) {
  expect_within(run("nvfp4", "sse", 16, scale_for(448), x).relative_mse, 6.59e-3, 0.015);
}

TEST_F(StandardNormal, relative_mse_of_four_over_six_is_7_56e_3_and_45_3_percent_choose_four) {
  const Outcome got = run("nvfp4", "4over6", 16, scale_for(256), x);
  expect_within(got.relative_mse, 7.56e-3, 0.015);
  expect_within(got.share_of_four, 0.453, 0.015);
}

TEST_F(StandardNormal, relative_mse_of_nvint4_naive_is_7_449e_3) {
  const float t = sim::tensor_scale(sim::amax(x.data(), samples), 7, 448);
  expect_within(run("nvint4", "naive", 16, t, x).relative_mse, 7.449e-3, 0.015);
}

TEST_F(StandardNormal, mxfp4_rules_have_the_errors_of_the_table) {
  struct {
    const char* method;
    double relative_mse;
  } const rows[] = {{"floor", 13.217e-3}, {"rceil", 13.318e-3}, {"even", 12.509e-3}, {"sse", 12.444e-3}};
  for (const auto& row : rows) {
    SCOPED_TRACE(row.method);
    expect_within(run("mxfp4", row.method, 32, 1, x).relative_mse, row.relative_mse, 0.015);
  }
}

TEST_F(StandardNormal, the_optimum_moves_from_the_naive_index_as_often_as_published) {
  const Outcome naive = run("nvfp4", "naive", 16, scale_for(448), x), sse = run("nvfp4", "sse", 16, scale_for(448), x);
  std::map<int, double> share;
  for (std::size_t b = 0; b < sse.scales.size(); ++b) share[sse.scales[b] - naive.scales[b]] += 16.0 / samples;
  const std::map<int, double> published = {{-2, .011}, {-1, .186}, {0, .318}, {1, .085}, {2, .003},
                                           {3, .030},  {4, .146},  {5, .183}, {6, .039}};
  for (const auto& [move, want] : published) EXPECT_NEAR(share[move], want, 0.006) << "move by " << move;
  for (const auto& [move, got] : share) EXPECT_TRUE(published.contains(move) || got < 0.001) << "move by " << move;
}

struct WeightRow {
  const char* format;
  int block;
  double naive, sse;  ///< relative Frobenius error in percent
};

constexpr WeightRow weight_rows[] = {
    {"nvfp4", 16, 10.04, 8.71}, {"nvfp4", 32, 10.40, 9.52}, {"mxfp4", 16, 11.75, 10.97}, {"mxfp4", 32, 11.74, 11.25}};

TEST(NormalWeights, of_sigma_0_024_without_a_tensor_scale_have_the_frobenius_errors_of_the_table) {
  const std::vector<float> x = normal_samples(4 * samples, 0.024, true);
  for (const WeightRow& row : weight_rows) {
    EXPECT_NEAR(100 * std::sqrt(run(row.format, "naive", row.block, 1, x).relative_mse), row.naive, 0.06)
        << row.format << ' ' << row.block << " naive";
    EXPECT_NEAR(100 * std::sqrt(run(row.format, "sse", row.block, 1, x).relative_mse), row.sse, 0.06)
        << row.format << ' ' << row.block << " sse";
  }
}

}  // namespace
}  // namespace fp4scope
