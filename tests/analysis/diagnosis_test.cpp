// A sentence is said where its condition holds and not where it does not, and says the numbers that were measured.
#include "analysis/diagnosis.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "analysis/distributions.hpp"

namespace fp4scope::analysis {
namespace {

/// An error of 100 in 4096 elements [64, 64] of energy 10000, all of it the grid's, spread evenly.
Decomposition plain(const char* format = "nvfp4") {
  Decomposition d;
  d.name = "w";
  d.shape = {64, 64};
  d.config = parse_config({format, "", "", "", "", 0, 0});
  d.metrics.sse = 100;
  d.metrics.energy = 10000;
  d.metrics.elements = 4096;
  d.causes.chain = true;
  constexpr std::size_t grid = std::size_t{1} << static_cast<int>(Cause::grid);
  for (std::size_t set = 0; set < d.causes.remaining.size(); ++set) d.causes.remaining[set] = (set & grid) ? 0 : 100;
  d.terms.error = 100;
  d.terms.elements = 4096;
  d.terms.blocks = 256;
  d.terms.inner[2][2] = 100;
  const auto even = [](std::size_t bins) {
    Profile p(bins);
    for (std::size_t i = 0; i < bins; ++i) {
      p.count[i] = 4096 / static_cast<std::int64_t>(bins);
      p.sse[i] = 100 / static_cast<double>(bins);
      p.energy[i] = 10000 / static_cast<double>(bins);
    }
    return p;
  };
  d.places.by_code = even(std::size_t{1} << d.config.format->element.bits);
  d.places.by_ratio = even(ratio_bins);
  d.places.by_position = even(static_cast<std::size_t>(d.config.block));
  d.places.by_column = even(64);
  d.places.by_row = even(64);
  d.places.by_scale_code = even(scale_codes);
  d.places.magnitude = d.places.stored_magnitude = 1000;
  d.scales = {256, 0, 0, 0};
  return d;
}

/// What vanishes of the error if this step is ideal, whatever else is.
void cost(Decomposition& d, Cause cause, double sse) {
  const auto bit = std::size_t{1} << static_cast<int>(cause);
  constexpr auto grid = std::size_t{1} << static_cast<int>(Cause::grid);
  for (std::size_t set = 0; set < d.causes.remaining.size(); ++set) {
    if ((set & bit) != 0 && (set & grid) == 0) d.causes.remaining[set] -= sse;
  }
}

std::string all_words(const Decomposition& d) {
  const Diagnosis words = diagnose(d);
  std::string text = words.headline + "\n";
  for (const auto* part : {&words.causes, &words.places, &words.layer}) {
    for (const std::string& sentence : *part) text += sentence + "\n";
  }
  return text;
}

::testing::AssertionResult says(const Decomposition& d, const std::string& words) {
  const std::string text = all_words(d);
  if (text.find(words) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "no '" << words << "' in\n" << text;
}

TEST(Diagnosis, of_an_even_error_says_that_nothing_stands_out) {
  const Decomposition d = plain();
  EXPECT_TRUE(says(d, "w: 64x64, nvfp4 block 16, naive, tensor scale amax: weight error 10.000 %, SQNR 20.00 dB"));
  EXPECT_TRUE(says(d, "rounding elements from level to level costs most: 100.0 % of the squared error"));
  EXPECT_TRUE(says(d, "none of the steps that make the scales costs 1 %"));
  EXPECT_TRUE(says(d, "the error is spread over magnitudes as the elements are"));
  EXPECT_TRUE(says(d, "columns: none has more than 1.0 times the mean"));
  EXPECT_TRUE(says(d, "rows: none has more than 1.0 times the mean"));
  for (const char* silent : {"subnormal", "zero", "largest:", "position", "stored as", "magnitudes shrink",
                             "scales are", "would vanish", "with --", "layer"}) {
    EXPECT_FALSE(says(d, silent)) << silent;
  }
}

TEST(Diagnosis, of_no_error_has_only_a_headline) {
  Decomposition d = plain();
  d.metrics.sse = 0;
  const Diagnosis words = diagnose(d);
  EXPECT_TRUE(says(d, "no error"));
  EXPECT_TRUE(words.causes.empty() && words.places.empty() && words.steps.rows.empty() && words.terms.rows.empty());
}

TEST(Diagnosis, names_remedies_by_what_they_gained_the_best_first) {
  Decomposition d = plain();
  d.remedies = {{"--a", 99.5}, {"--b", 59}, {"--c", 98.9}, {"--d", 103}};
  const Diagnosis words = diagnose(d);
  ASSERT_GE(words.causes.size(), 4u);
  EXPECT_EQ(words.causes[0], "with --b: 41.0 % less squared error");
  EXPECT_EQ(words.causes[1], "with --c: 1.1 % less squared error");
  EXPECT_EQ(words.causes[2], "with --a: the same squared error within 1 %");
  EXPECT_EQ(words.causes[3], "with --d: 3.0 % more squared error");
}

TEST(Diagnosis, tells_of_subnormal_and_zero_scales_and_what_they_cost) {
  Decomposition d = plain();
  d.scales = {1000, 230, 12, 0};
  EXPECT_TRUE(says(d,
                   "23.0 % of block scales are subnormal in e4m3, 1.2 % of block scales are zero, which costs less "
                   "than 1 % of the squared error"));
  cost(d, Cause::underflow, 38);
  EXPECT_TRUE(says(d,
                   "1.2 % of block scales are zero: 38.0 % of the squared error would vanish if the scale had no "
                   "lower end"));
  EXPECT_FALSE(says(d, "none of the steps"));
  d.scales = {1000, 0, 3, 0};  // few blocks, but they cost much
  EXPECT_TRUE(says(d, "0.3 % of block scales are zero: 38.0 %"));
  EXPECT_FALSE(says(d, "subnormal"));
  d.causes.chain = false;
  EXPECT_FALSE(says(d, "would vanish"));
  EXPECT_TRUE(says(d, "scales are taken as they are"));
  d = plain();
  d.scales = {1000, 3, 0, 0};  // few, and they cost nothing
  EXPECT_FALSE(says(d, "subnormal"));
  d = plain("mxfp4");
  cost(d, Cause::underflow, 5);
  EXPECT_TRUE(says(d, "5.0 % of the squared error would vanish if ue8m0 had no lower end"));
}

TEST(Diagnosis, tells_of_scales_beyond_the_largest_and_of_rounded_scales) {
  Decomposition d = plain();
  d.scales.largest = 64;
  EXPECT_FALSE(says(d, "largest"));
  cost(d, Cause::overflow, 7);
  EXPECT_TRUE(says(d, "25.0 % of block scales are e4m3's largest: 7.0 % of the squared error would vanish"));
  d = plain();
  cost(d, Cause::block_scale, 12);
  EXPECT_TRUE(says(d, "with block scales as real numbers in e4m3's range, 12.0 % of the squared error would vanish"));
  EXPECT_TRUE(says(d, "costs most: 94.0 %"));  // half of what both remove is the grid's
  d = plain();
  cost(d, Cause::block_scale, -2);
  EXPECT_TRUE(says(d, "the squared error would grow by 2.0 %"));
}

TEST(Diagnosis, names_the_costliest_step) {
  for (const auto& [cause, words] : {std::pair{Cause::underflow, "the lower end of e4m3 costs most"},
                                     std::pair{Cause::block_scale, "rounding block scales to e4m3 costs most"}}) {
    Decomposition d = plain();
    const auto bit = std::size_t{1} << static_cast<int>(cause);
    for (std::size_t set = 0; set < d.causes.remaining.size(); ++set) d.causes.remaining[set] = (set & bit) ? 0 : 100;
    EXPECT_TRUE(says(d, words));
  }
}

TEST(Diagnosis, finds_the_magnitudes_codes_and_positions_that_hold_the_error) {
  Decomposition d = plain();
  d.places.by_ratio = Profile(ratio_bins);
  d.places.by_ratio.count[0] = 3686;
  d.places.by_ratio.sse[0] = 69;
  d.places.by_ratio.count[32] = d.places.by_ratio.count[47] = 205;
  d.places.by_ratio.sse[32] = 11;
  d.places.by_ratio.sse[47] = 20;
  EXPECT_TRUE(says(d, "|x| / amax in 0.67..1.00 holds 10.0 % of the elements and 31.0 % of the squared error"));
  d.places.by_code.sse[7] += 10;
  d.places.by_code.sse[15] += 5;
  d.places.by_code.sse[0] -= 15;
  EXPECT_TRUE(says(d, "elements stored as +-6 are 12.5 % of all and hold 27.5 % of the squared error"));
  d.places.by_position.sse[5] *= 2;
  EXPECT_TRUE(says(d, "position 5 of each block has 2.0 times the mean squared error"));
}

TEST(Diagnosis, tells_outlier_columns_from_rows_and_says_nothing_of_short_ones) {
  Decomposition d = plain();
  for (const std::size_t c : {3, 40}) d.places.by_column.sse[c] = 20, d.places.by_column.energy[c] = 1500;
  EXPECT_TRUE(
      says(d, "2 of 64 columns hold 40.0 % of the squared error (and 30.0 % of the energy), more than 4 times"));
  EXPECT_TRUE(says(d, "rows: none has more than"));
  d.shape.rows = 31;
  EXPECT_FALSE(says(d, "columns"));
  d = plain();
  d.places.by_row.sse[9] = 9;
  EXPECT_TRUE(says(d, "1 of 64 rows holds 9.0 % of the squared error"));
  d.places.by_row = Profile(256);
  for (double& sse : d.places.by_row.sse) sse = 100.0 / 256;
  d.places.by_row.sse[9] = 2;  // above four times the mean, but 2 % of all
  EXPECT_FALSE(says(d, "rows"));
}

TEST(Diagnosis, tells_of_shrinkage_and_of_inflated_scales) {
  Decomposition d = plain();
  d.places.stored_magnitude = 996;
  EXPECT_TRUE(says(d, "magnitudes shrink by 0.4 %"));
  d.places.stored_magnitude = 1012;
  EXPECT_TRUE(says(d, "magnitudes grow by 1.2 %"));
  d.terms.log_inflation = 128;
  EXPECT_TRUE(says(d, "scales are 1.414 times the least that doesn't clip, amax / 6"));
}

TEST(Diagnosis, compares_output_and_weight_errors) {
  Decomposition d = plain();
  d.layer.emplace();
  d.layer->energy = 1000;
  d.layer->error = 40;
  d.layer->inner[0][0] = 22.5;
  d.layer->inner[1][1] = 17.5;
  EXPECT_TRUE(says(d, "layer output error 20.000 %, dot-product SNR 13.98 dB"));
  EXPECT_TRUE(says(d, "by the weights alone 15.000 %, 1.50 times the weight error: these inputs amplify"));
  d.layer->inner[0][0] = 10;
  EXPECT_FALSE(says(d, "amplify"));
  EXPECT_FALSE(says(d, "damp"));
  d.layer->inner[0][0] = 4;
  EXPECT_TRUE(says(d, "these inputs damp the weights' errors"));
  const WordTable t = diagnose(d).outputs;
  ASSERT_EQ(t.rows.size(), 6u);
  EXPECT_EQ(t.rows[0], (std::vector<std::string>{"weights", "10.00"}));
  d.metrics.sse = 0;  // the inputs' error alone
  EXPECT_TRUE(says(d, "layer output error 20.000 %"));
  EXPECT_FALSE(says(d, "times the weight error"));
  d.layer->error = 0;
  EXPECT_TRUE(says(d, "the layer's output has no error"));
  d.layer->energy = 0;
  EXPECT_TRUE(says(d, "the layer's output is 0"));
}

TEST(Diagnosis, chooses_the_worst_tensors_in_the_order_of_the_file) {
  std::vector<Decomposition> all;
  for (const double sse : {3.0, 9.0, 1.0, 9.0, 5.0}) {
    all.push_back(plain());
    all.back().metrics.sse = sse;
  }
  EXPECT_EQ(worst(all, 3), (std::vector<std::size_t>{1, 3, 4}));
  EXPECT_EQ(worst(all, 9).size(), 5u);
  EXPECT_EQ(overview(all).rows.size(), 5u);
}

TEST(Decompose, tries_what_the_words_can_take_and_measures_it) {
  const auto texts = [](const QuantizeWords& words) {
    std::vector<std::string> out;
    for (const auto& remedy : remedies_for(words, parse_config(words))) out.push_back(remedy.first);
    return out;
  };
  using Texts = std::vector<std::string>;
  const Texts all = {"--tensor-scale amax", "--scale sse", "--tensor-scale amax --scale sse"};
  EXPECT_EQ(texts({"nvfp4", "", "", "none", "", 0, 0}), all);
  EXPECT_EQ(texts({"nvfp4", "4over6", "mae", "2", "", 0, 0}), all);
  EXPECT_EQ(texts({"nvfp4", "", "", "", "", 0, 0}), Texts{"--scale sse"});
  EXPECT_EQ(texts({"nvfp4", "sse", "", "none", "", 0, 0}), Texts{"--tensor-scale amax"});
  EXPECT_EQ(texts({"nvfp4", "sse", "", "", "", 0, 0}), Texts{});
  EXPECT_EQ(texts({"mxfp4", "", "", "", "", 0, 0}), Texts{"--scale sse"});
  EXPECT_EQ(texts({"mxfp8_e4m3", "", "", "", "", 0, 0}), Texts{});
  EXPECT_EQ(texts({"nvfp4", "ms_eden", "", "", "", 0, 0}), Texts{});
  EXPECT_EQ(texts({"nvfp4", "hessian", "", "", "", 0, 0}), Texts{});

  Distribution s;
  s.rows = 64;
  s.cols = 128;
  s.sigma = 0.01;
  const Matrix m = sample(s);
  DecomposeOptions o;
  o.words = {"nvfp4", "", "", "none", "", 0, 0};
  o.config = parse_config(o.words);
  const Decomposition d = decompose(o, "w", m);
  ASSERT_EQ(d.remedies.size(), 3u);
  const Quantized q = quantize(parse_config({"nvfp4", "sse", "", "amax", "", 0, 0}), m, "w");
  EXPECT_EQ(d.remedies[2].sse, measure(m, q).sse);
  EXPECT_LT(d.remedies[2].sse, d.metrics.sse);
  EXPECT_EQ(d.scales.blocks, 64 * 8);
  EXPECT_GT(d.scales.subnormal, 64 * 7);
  EXPECT_TRUE(d.terms.adds_up);
  EXPECT_NEAR(d.causes.error(), d.metrics.sse, 1e-12 * d.metrics.sse);
  EXPECT_NEAR(d.terms.error, d.metrics.sse, 1e-12 * d.metrics.sse);
}

TEST(Decompose, counts_scales_at_the_ends_of_their_format) {
  // E4M3: the least normal scale is 2^-6, the least subnormal one 2^-9, the largest 448.
  Matrix m = {6, 16, std::vector<float>(6 * 16)};
  const float maxima[6] = {6 * 0x1p-6f, 6 * 0x1.cp-7f, 6 * 0x1p-9f, 6 * 0x1p-12f, 0, 6 * 448};
  for (std::size_t r = 0; r < 6; ++r) m.data[16 * r + 3] = maxima[r];
  DecomposeOptions o;
  o.words = {"nvfp4", "", "", "none", "", 0, 0};
  o.config = parse_config(o.words);
  const ScaleShares s = decompose(o, "w", m).scales;
  EXPECT_EQ(s.blocks, 5);
  EXPECT_EQ(s.subnormal, 2);
  EXPECT_EQ(s.zero, 1);
  EXPECT_EQ(s.largest, 1);
  o.config = parse_config({"nvfp4", "", "", "none", "", 2, 0, "", "", true});
  const Matrix tiles = {4, 2, {6, 0, 0, 0, 0, 0, 0, 6 * 0x1p-8f}};
  EXPECT_EQ(decompose(o, "w", tiles).scales.blocks, 2);
  EXPECT_EQ(decompose(o, "w", tiles).scales.subnormal, 1);
}

TEST(Decompose, quantizes_inputs_as_naive_with_a_tensor_scale_where_the_weights_have_one) {
  const auto sampled = [](std::uint64_t seed, double sigma) {
    Distribution s;
    s.rows = 24;
    s.cols = 64;
    s.seed = seed;
    s.sigma = sigma;
    return sample(s);
  };
  const Matrix w = sampled(1, 1), x = sampled(2, 0.01);
  for (const char* scaling : {"none", "amax", "2"}) {
    DecomposeOptions o;
    o.words = {"nvfp4", "sse", "", scaling, "", 32, 0};
    o.config = parse_config(o.words);
    const Decomposition d = decompose(o, "w", w, &x);
    const std::string inputs = scaling == std::string("none") ? "none" : "amax";
    const Quantized wq = quantize(o.config, w, "w");
    const Quantized xq = quantize(parse_config({"nvfp4", "naive", "", inputs, "", 32, 0}), x, "x");
    EXPECT_EQ(d.layer->error, layer_error(w, wq, x, &xq).error) << scaling;
  }
}

}  // namespace
}  // namespace fp4scope::analysis
