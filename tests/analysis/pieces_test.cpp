// A tensor taken in pieces of rows gives the codes, scales and sums of the whole, bit for bit.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "analysis/curvature.hpp"
#include "analysis/distributions.hpp"
#include "analysis/run_sums.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {
namespace {

constexpr std::int64_t all_rows = 37, all_cols = 90;

Distribution distribution() {
  Distribution d;
  d.kind = "llm";
  d.rows = all_rows;
  d.cols = all_cols;
  return d;
}

Matrix rows_of(const Matrix& m, std::int64_t first, std::int64_t count) {
  return {count, m.cols, {m.row(first), m.row(first) + count * m.cols}, m.dtype};
}

std::uint64_t bits(double x) { return std::bit_cast<std::uint64_t>(x); }

void expect_same(const RatioSums& a, const RatioSums& b, const std::string& which) {
  EXPECT_EQ(bits(a.x), bits(b.x)) << which;
  EXPECT_EQ(bits(a.y), bits(b.y)) << which;
  EXPECT_EQ(bits(a.xx), bits(b.xx)) << which;
  EXPECT_EQ(bits(a.xy), bits(b.xy)) << which;
  EXPECT_EQ(bits(a.yy), bits(b.yy)) << which;
  EXPECT_EQ(a.n, b.n) << which;
}

void expect_same(const Metrics& a, const Metrics& b, const std::string& which) {
  const std::pair<double, double> sums[] = {{a.energy, b.energy},
                                            {a.sse, b.sse},
                                            {a.max_error, b.max_error},
                                            {a.output_error, b.output_error},
                                            {a.block_output_error, b.block_output_error},
                                            {a.magnitude, b.magnitude},
                                            {a.stored_magnitude, b.stored_magnitude}};
  for (const auto& [x, y] : sums) EXPECT_EQ(bits(x), bits(y)) << which << " " << x << " " << y;
  const std::pair<std::int64_t, std::int64_t> counts[] = {{a.elements, b.elements},       {a.zeros, b.zeros},
                                                          {a.saturated, b.saturated},     {a.blocks, b.blocks},
                                                          {a.underflowed, b.underflowed}, {a.subnormal, b.subnormal},
                                                          {a.moved_up, b.moved_up},       {a.moved_down, b.moved_down},
                                                          {a.distance, b.distance}};
  for (const auto& [x, y] : counts) EXPECT_EQ(x, y) << which;
  EXPECT_EQ(a.moves, b.moves) << which;
  expect_same(a.against_data, b.against_data, which);
  expect_same(a.against_naive, b.against_naive, which);
}

struct Case {
  const char *format, *method;
  int block;
  const char *rounding = "", *recipe = "";
  bool tiles = false;
};
const Case cases[] = {{"nvfp4", "naive", 16},
                      {"nvfp4", "sse", 16},
                      {"nvfp4", "4over6", 16},
                      {"nvfp4", "hessian", 16},
                      {"nvfp4", "joint", 8},
                      {"nvfp4", "coordinate", 16},
                      {"nvfp4", "hessian_row", 16},
                      {"nvfp4", "gptq_ordered", 16},
                      {"nvfp4", "ms_eden", 16},
                      {"nvfp4", "naive", 16, "stochastic"},
                      {"nvfp4", "naive", 16, "stochastic_unbiased"},
                      {"nvfp4", "sse", 8, "", "", true},
                      {"nvfp4", "naive", 16, "", "te"},
                      {"nvfp4", "naive", 16, "", "te", true},
                      {"mxfp4", "rceil", 32},
                      {"mxfp4", "naive", 32, "", "microxcaling"},
                      {"mxfp8_e4m3", "naive", 32, "stochastic"},
                      {"if4", "sse", 16},
                      {"if4", "naive", 8, "", "", true}};

bool same(const Profile& a, const Profile& b) {
  return a.count == b.count && a.sse == b.sse && a.energy == b.energy && a.bias == b.bias;
}

void expect_same(const std::optional<Parts>& got, const std::optional<Parts>& want, const std::string& which) {
  ASSERT_EQ(got.has_value(), want.has_value()) << which;
  if (!want) return;
  EXPECT_TRUE(want->terms.adds_up) << which;
  EXPECT_EQ(got->terms.error, want->terms.error) << which;
  EXPECT_EQ(got->terms.log_inflation, want->terms.log_inflation) << which;
  for (int i = 0; i < term_count * term_count; ++i) {
    EXPECT_EQ(got->terms.inner[i / term_count][i % term_count], want->terms.inner[i / term_count][i % term_count])
        << which;
  }
  EXPECT_EQ(got->causes.remaining, want->causes.remaining) << which;
  EXPECT_TRUE(same(got->places.by_code, want->places.by_code)) << which;
  EXPECT_TRUE(same(got->places.by_ratio, want->places.by_ratio)) << which;
  EXPECT_TRUE(same(got->places.by_position, want->places.by_position)) << which;
  EXPECT_TRUE(same(got->places.by_column, want->places.by_column)) << which;
  EXPECT_TRUE(same(got->places.by_row, want->places.by_row)) << which;
  EXPECT_TRUE(same(got->places.by_scale_code, want->places.by_scale_code)) << which;
  ASSERT_TRUE(got->layer && want->layer) << which;
  EXPECT_EQ(got->layer->error, want->layer->error) << which;
  EXPECT_EQ(got->layer->inner[0][1], want->layer->inner[0][1]) << which;
  EXPECT_EQ(got->layer->inner[1][0], want->layer->inner[1][0]) << which;
}

TEST(Pieces, give_the_codes_scales_and_sums_of_the_whole) {
  const Matrix m = sample(distribution());
  SyntheticActivations inputs;
  inputs.tokens = 24;
  const Matrix x = sample(inputs, all_cols);
  const Activations a = make_activations(x);
  Survey survey(all_cols);
  survey.add(m);
  for (const Case& c : cases) {
    QuantizeConfig config = parse_config({c.format, c.method, "", "", "", c.block, 0, c.recipe, c.rounding, c.tiles});
    config.seed = 5;
    config.stream = 9;
    const std::string which =
        std::string(c.format) + " " + c.method + " " + c.rounding + c.recipe + (c.tiles ? " tiles" : "");
    const bool full = config.method->needs_full_hessian();
    const Curvature h = config.method->needs_hessian() ? curvature_of(x, c.block, full) : Curvature{};
    const Curvature* const curvature = config.method->needs_hessian() ? &h : nullptr;
    const Quantized whole = quantize(config, m, "m", curvature);
    std::vector<double> block_sse;
    const Metrics expected = measure(m, whole, &a, output_energy(m, a), &block_sse);
    RunSums at_once_sums({all_rows, &a, expected.output_error, false, true, &x});
    at_once_sums.add(m, whole);
    const std::optional<Parts> parts = at_once_sums.parts();
    for (const std::int64_t at_once : {std::int64_t{1}, std::int64_t{5}, std::int64_t{16}}) {
      const std::int64_t step = c.tiles ? std::int64_t{c.block} * (1 + at_once / 8) : at_once;
      std::vector<std::uint8_t> codes;
      double reference = 0;
      for (std::int64_t first = 0; first < all_rows; first += step) {
        reference = output_energy(rows_of(m, first, std::min(step, all_rows - first)), a, reference);
      }
      RunSums sums({all_rows, &a, reference, true, true, &x});
      for (std::int64_t first = 0; first < all_rows; first += step) {
        const Matrix piece = rows_of(m, first, std::min(step, all_rows - first));
        const Piece place = {survey, first};
        Quantized q = quantize(config, piece, "m", curvature, nullptr, &place);
        codes.insert(codes.end(), q.codes.begin(), q.codes.end());
        sums.add(piece, std::move(q));
      }
      const Quantized& q = sums.quantized();
      EXPECT_TRUE(codes == whole.codes) << which << " pieces of " << step;
      EXPECT_TRUE(q.scales == whole.scales) << which << " pieces of " << step;
      EXPECT_EQ(q.rows, all_rows);
      EXPECT_EQ(q.cols, whole.cols);
      EXPECT_EQ(q.amax, whole.amax) << which;
      EXPECT_EQ(q.tensor_scale, whole.tensor_scale) << which;
      EXPECT_EQ(q.chose_second, whole.chose_second) << which;
      EXPECT_EQ(q.proved, whole.proved) << which;
      EXPECT_EQ(q.hessian_hash, whole.hessian_hash) << which;
      EXPECT_EQ(sums.block_sse(), block_sse) << which;
      expect_same(sums.metrics(), expected, which);
      expect_same(sums.parts(), parts, which);
    }
  }
}

TEST(Pieces, stochastic_words_differ_between_rows_of_the_same_values) {
  // Were a piece's words those of its own first row, equal pieces would have equal codes.
  Matrix m = {2, 32, {}};
  for (int i = 0; i < 64; ++i) m.data.push_back(1 + 0.1f * static_cast<float>(i % 32));
  const QuantizeConfig config = parse_config({"nvfp4", "naive", "", "", "", 16, 0, "", "stochastic"});
  const Quantized q = quantize(config, m, "m");
  EXPECT_FALSE(std::equal(q.codes.begin(), q.codes.begin() + 32, q.codes.begin() + 32));
}

TEST(Pieces, of_a_sample_are_its_rows) {
  const Matrix m = sample(distribution());
  for (std::int64_t first = 0; first < all_rows; first += 10) {
    const std::int64_t count = std::min<std::int64_t>(10, all_rows - first);
    EXPECT_EQ(sample_rows(distribution(), first, count).data, rows_of(m, first, count).data);
  }
}

TEST(Pieces, hash_and_survey_as_the_whole) {
  Matrix m = sample(distribution());
  m.data[200] = -INFINITY;
  m.data[300] = NAN;
  for (const std::int64_t step : {1, 4, 37}) {
    Survey survey(all_cols);
    ContentHash hash(all_rows, all_cols);
    for (std::int64_t first = 0; first < all_rows; first += step) {
      const Matrix piece = rows_of(m, first, std::min(step, all_rows - first));
      survey.add(piece);
      hash.add(piece);
    }
    float largest = 0;
    for (const float x : m.data) largest = std::isfinite(x) ? std::max(largest, std::fabs(x)) : largest;
    EXPECT_EQ(survey.finite_amax(), largest);
    EXPECT_EQ(survey.amax(), INFINITY);
    EXPECT_TRUE(survey.has_nan());
    EXPECT_EQ(survey.describe_nonfinite(), "row 2, column 20 is -inf (2 such values in all)");
    EXPECT_EQ(hash.text(), content_hash(m));
  }
}

TEST(Pieces, propagate_and_refuse_what_is_not_finite_by_the_whole_tensor) {
  Matrix m = sample(distribution());
  m.data[20 * all_cols + 7] = NAN;
  Survey survey(all_cols);
  survey.add(m);
  QuantizeConfig config = parse_config({"nvfp4", "sse", "", "", "", 16, 0});
  const Piece place = {survey, 10};
  const Matrix piece = rows_of(m, 10, 5);
  try {
    quantize(config, piece, "layer", nullptr, nullptr, &place);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("layer: row 20, column 7 is nan"), std::string::npos) << e.what();
  }
  config.nonfinite = Nonfinite::propagate;
  const Quantized whole = quantize(config, m, "layer");
  const Quantized q = quantize(config, piece, "layer", nullptr, nullptr, &place);
  EXPECT_EQ(q.amax, whole.amax);
  EXPECT_TRUE(std::equal(q.codes.begin(), q.codes.end(), whole.codes.begin() + 10 * whole.cols));
}

}  // namespace
}  // namespace fp4scope::analysis
