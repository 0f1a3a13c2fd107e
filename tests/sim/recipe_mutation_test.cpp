// Wrong variants of a recipe, each with an input on which it is wrong. A test asserts that the product gives the right
// answer, a literal, and that the variant does not: so no variant could take the product's place unseen.
//
// A variant is its recipe's formula with one thing changed, on the integers of recipe_oracle.hpp.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "formats/pack.hpp"
#include "search/recipe_search.hpp"
#include "tests/sim/recipe_oracle.hpp"

namespace fp4scope {
namespace {

using namespace recipe_oracle;

float to_float(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
float to_float(const Real& x) { return to_float(to_bits(x)); }
Real bf16(std::uint32_t n) { return from_bits(n << 16); }

const sim::Recipe& recipe_of(const char* name, const char* method = "naive") {
  const sim::Recipe* r = sim::find_recipe(name, "nvfp4", method);
  if (!r) std::abort();
  return *r;
}

struct Answer {
  int scale;
  std::vector<std::uint8_t> codes;
  bool second;
};

/// A block in a tensor of amax a.
Answer quantized(const sim::Recipe& r, float a, const std::vector<float>& x) {
  const int n = static_cast<int>(x.size());
  search::RecipeRoom room;
  Answer answer = {0, std::vector<std::uint8_t>(x.size()), false};
  const float b = search::recipe_amax(r, x.data(), n);
  const search::RecipeTask task = {&r, &formats::nvfp4, sim::recipe_tensor(r, a, r.scale_max)};
  const search::RecipeBlock found = search::recipe_block(task, b, x.data(), n, n, answer.codes.data(), room);
  answer.scale = found.scale;
  answer.second = found.chose_second;
  return answer;
}

int scale_of(const char* name, const Real& a, const Real& b) {
  return quantized(recipe_of(name), to_float(a), {to_float(b), 0}).scale;
}

/// The code of x at a given scale.
int code_of(const char* name, const Real& a, int scale, const Real& x) {
  const sim::Recipe& r = recipe_of(name);
  const float value = to_float(x);
  std::uint8_t code = 0;
  sim::recipe_codes(r, formats::nvfp4, sim::recipe_tensor(r, to_float(a), r.scale_max), scale, to_float(a), &value, 1,
                    formats::Rounding::nearest_even, &code);
  return code;
}

void expect_killed(int right, int product, int mutant) {
  EXPECT_EQ(product, right) << std::hex << "the product: got 0x" << product << ", want 0x" << right;
  EXPECT_NE(mutant, right) << std::hex << "the variant lives: 0x" << mutant;
}

// At a = 2688 S and D are 1: v = b * fl(1/6), y = x / s.
const Real unit_amax = whole(2688);
const Real tie_0_75 = {Real::Kind::finite, false, 3, -2}, tie_2_5 = {Real::Kind::finite, false, 5, -1};
constexpr int scale_one = 0x38;

// ---- rounding ----

TEST(Mutant, ties_toward_zero_in_codes_are_killed) {
  expect_killed(2, code_of("te", unit_amax, scale_one, tie_0_75), e2m1(tie_0_75, Tie::down));
}

TEST(Mutant, ties_away_in_codes_are_killed) {
  expect_killed(4, code_of("te", unit_amax, scale_one, tie_2_5), e2m1(tie_2_5, Tie::up));
}

TEST(Mutant, ties_to_even_in_qwantize_and_ggml_are_killed) {
  expect_killed(1, code_of("qwantize", unit_amax, scale_one, tie_0_75), e2m1(tie_0_75));
  expect_killed(1, code_of("ggml", unit_amax, scale_one, tie_0_75), e2m1(tie_0_75));
}

TEST(Mutant, ties_toward_zero_in_scales_are_killed) {
  const Real b = {Real::Kind::finite, false, 57, -3}, v = times(b, sixth);  // 7.125: between 1.125 and 1.25
  ASSERT_EQ(to_float(v), 1.1875f);
  expect_killed(0x3A, scale_of("te", unit_amax, b), passed(exactly(v), 126, -9, Tie::down, e4m3_units));
}

TEST(Mutant, ties_away_in_scales_are_killed) {
  const Real b = {Real::Kind::finite, false, 51, -3}, v = times(b, sixth);  // 6.375: between 1 and 1.125
  ASSERT_EQ(to_float(v), 1.0625f);
  expect_killed(0x38, scale_of("te", unit_amax, b), passed(exactly(v), 126, -9, Tie::up, e4m3_units));
}

TEST(Mutant, ties_to_even_in_ggml_s_scales_are_killed) {
  const Real b = {Real::Kind::finite, false, 51, -3};
  expect_killed(0x39, scale_of("ggml", unit_amax, b), e4m3_saturating(over(b, six)));
}

/// binary32 to binary16 to E4M3: just above a tie becomes the tie.
TEST(Mutant, double_rounding_through_half_is_killed) {
  constexpr Precision half = {11, -24, 16};
  const Real b = from_bits(0x40CC0400), v = times(b, sixth);  // 1.0625 + 2^-13.6
  const Real halved = rounded(false, v.significand, v.exponent, false, half);
  expect_killed(0x39, scale_of("te", unit_amax, b), e4m3_saturating(halved));
}

TEST(Mutant, double_rounding_through_bf16_is_killed) {
  const Real x = from_bits(0x3FA02000);  // 1.25 + 2^-10
  expect_killed(3, code_of("te", unit_amax, scale_one, x), e2m1(to_brain(x)));
}

TEST(Mutant, a_missing_double_rounding_is_killed_where_the_source_has_it) {
  const Real a = bf16(0x40C4), b = bf16(0x4005);
  expect_killed(0x71, scale_of("compressed_tensors_bf16", a, b), rows::ct_scale(a, b));
}

// ---- quotients, reciprocals and their order ----

TEST(Mutant, a_reciprocal_for_the_division_is_killed) {
  const Real a = bf16(0x4082), x = bf16(0x3DC3), divisor = times(e4m3_value(0x61), rows::decode_of(a));
  expect_killed(4, code_of("modelopt_dyn", a, 0x61, x), e2m1(times(x, over(one, divisor))));
}

TEST(Mutant, a_division_for_the_reciprocal_is_killed) {
  const Real a = bf16(0x4084), x = bf16(0x3DC6);
  const Real divisor = times(e4m3_value(0x61), over(one, rows::encode_of(a, 2688)));
  expect_killed(3, code_of("te", a, 0x61, x), e2m1(over(x, divisor)));
}

TEST(Mutant, a_reciprocal_of_6_one_unit_low_is_killed) {
  const Real low = {Real::Kind::finite, false, 0xAAAAAA, -26}, a = bf16(0x4082), b = bf16(0x3FC3);
  expect_killed(0x73, scale_of("te", a, b), e4m3_saturating(times(b, times(rows::encode_of(a, 2688), low))));
}

/// The float above 6, whose sixth is above 1: torchao's power of two at or above.
TEST(Mutant, a_reciprocal_of_6_one_unit_low_is_killed_in_a_power_of_two) {
  const sim::Recipe& r = *sim::find_recipe("torchao", "mxfp4", "rceil");
  const float b = to_float(0x40C00001u), low = to_float(0x3E2AAAAAu);
  expect_killed(128, sim::recipe_scale_code(r, formats::mxfp4, sim::block_value(r, {}, b)),
                static_cast<int>(std::ceil(std::log2(static_cast<double>(b * low)))) + 127);
}

TEST(Mutant, division_first_for_te_s_product_with_a_sixth_of_s_is_killed) {
  const Real a = bf16(0x408C), b = bf16(0x4011);
  expect_killed(0x77, scale_of("te", a, b), e4m3_saturating(times(over(b, six), rows::encode_of(a, 2688))));
}

TEST(Mutant, a_sixth_of_s_first_for_fouroversix_s_division_is_killed) {
  const Real a = bf16(0x408C), b = bf16(0x4011);
  expect_killed(0x76, scale_of("fouroversix", a, b), rows::te_scale(a, b));
}

TEST(Mutant, a_over_2688_for_the_reciprocal_of_s_is_killed) {
  const Real a = bf16(0x4082), x = bf16(0x3DC3);
  const Real factor = over(one, times(e4m3_value(0x61), rows::decode_of(a)));
  expect_killed(4, code_of("te", a, 0x61, x), e2m1(times(x, factor)));
}

TEST(Mutant, a_sixth_over_d_for_modelopt_s_six_d_is_killed) {
  const Real a = bf16(0x408C), b = bf16(0x3FAA);
  const Real v = times(over(b, six), over(one, rows::decode_of(a)));
  expect_killed(0x70, scale_of("modelopt_dyn", a, b), e4m3_saturating(v));
}

TEST(Mutant, a_quarter_of_b_for_one_and_a_half_sixths_is_killed) {
  const Real a = bf16(0x4088), b = bf16(0x3FEE);
  const sim::Recipe& r = recipe_of("te", "4over6");
  const float v = sim::block_value(r, sim::recipe_tensor(r, to_float(a), 256), to_float(b));
  expect_killed(0x73, sim::recipe_scale_code(r, formats::nvfp4, v * 1.5f),
                e4m3_saturating(times(over(b, whole(4)), rows::encode_of(a, 1536))));
}

TEST(Mutant, a_scale_max_of_448_for_256_is_killed) {
  const Real a = whole(8), b = bf16(0x4010);
  const sim::Recipe& r = recipe_of("te", "4over6");
  ASSERT_EQ(r.scale_max, 256);
  const float v = sim::block_value(r, sim::recipe_tensor(r, to_float(a), r.scale_max), to_float(b));
  expect_killed(0x69, sim::recipe_scale_code(r, formats::nvfp4, v), rows::nested_scale<6, 2688>(a, b));
}

// ---- sums of errors ----

using Sum = float (*)(const std::vector<float>& e);

float contracted(const std::vector<float>& e) {
  float sum = 0;
  for (const float x : e) sum = std::fma(x, x, sum);
  return sum;
}

float in_order(const std::vector<float>& e) {
  float sum = 0;
  for (const float x : e) {
    const volatile float square = x * x;
    sum += square;
  }
  return sum;
}

/// Whether the 4 wins with errors summed that way; everything else is the product's.
bool four_wins(const sim::Recipe& r, const std::vector<float>& x, const Sum& sum, bool on_ties = false) {
  const int n = static_cast<int>(x.size());
  const sim::RecipeTensor t = sim::recipe_tensor(r, 8, r.scale_max);
  const float b = search::recipe_amax(r, x.data(), n), v = sim::block_value(r, t, b);
  float errors[2] = {};
  for (int k = 0; k < 2; ++k) {
    const int scale = sim::recipe_scale_code(r, formats::nvfp4, k == 0 ? v : v * 1.5f);
    const float s = formats::decode_float(formats::e4m3, static_cast<std::uint32_t>(scale));
    std::vector<std::uint8_t> codes(x.size());
    std::vector<float> e(x.size());
    sim::recipe_codes(r, formats::nvfp4, t, scale, b, x.data(), n, formats::Rounding::nearest_even, codes.data(),
                      e.data());
    for (std::size_t i = 0; i < x.size(); ++i) e[i] = e[i] * s * t.amax / t.range - x[i];
    errors[k] = sum(e);
  }
  return on_ties ? errors[1] <= errors[0] : errors[1] < errors[0];
}

std::vector<float> floats(const std::vector<std::uint32_t>& bits) {
  std::vector<float> x;
  for (const std::uint32_t b : bits) x.push_back(to_float(b));
  return x;
}

/// Normal bf16 data with one element moved to where both errors are a rounding apart.
TEST(Mutant, contraction_of_e_e_plus_sum_is_killed) {
  const std::vector<float> to_six =
      floats({0x3FC70000, 0x3E740000, 0xBFE50000, 0x3F590000, 0xBEE50000, 0x3E76CCCF, 0x3F340000, 0x3FAE0000,
              0xBF110000, 0x3F1C0000, 0x3EFA0000, 0x3F880000, 0xBF9A0000, 0xC0160000, 0xBE120000, 0xBF1A0000});
  const std::vector<float> to_four =
      floats({0xBF880000, 0x3EC40000, 0x3C480000, 0xBF390000, 0xBEEF0000, 0x3EEF0000, 0xBFC90000, 0xBFA50000,
              0xBF400000, 0xBE560000, 0x3EBD0000, 0xBDC60000, 0x3DDC0000, 0x3DEE0000, 0x3DA6419D, 0xBF250000});
  const sim::Recipe& te = recipe_of("te", "4over6");
  expect_killed(false, quantized(te, 8, to_six).second, four_wins(te, to_six, contracted));
  expect_killed(true, quantized(te, 8, to_four).second, four_wins(te, to_four, contracted));
}

TEST(Mutant, a_sum_in_order_for_eight_lanes_is_killed) {
  const std::vector<float> to_six =
      floats({0x3F2F0000, 0x3F520000, 0x3E8B0000, 0xBF9D0000, 0xBF750000, 0x3F1D0000, 0xBFEC0000, 0xBE910000,
              0x3E540000, 0xBFDF0000, 0x3E670000, 0xBFE70000, 0x3DB5D27A, 0x3F070000, 0xBF430000, 0x3F190000});
  const std::vector<float> to_four =
      floats({0xBEF00000, 0xBFEE0000, 0x3F020000, 0xBF2F0000, 0x3D500000, 0xBF410000, 0x3F370000, 0x3F1E0000,
              0xBF210000, 0x3DA51C75, 0xBF8B0000, 0x3EFB0000, 0xBE350000, 0xBEEE0000, 0xBF020000, 0x3FA70000});
  const sim::Recipe& r = recipe_of("fouroversix", "4over6");
  expect_killed(false, quantized(r, 8, to_six).second, four_wins(r, to_six, in_order));
  expect_killed(true, quantized(r, 8, to_four).second, four_wins(r, to_four, in_order));
}

/// Both scales underflow to the same code: an exact tie, which goes to six.
TEST(Mutant, four_on_a_tie_is_killed) {
  const std::vector<float> x = floats({0x384D0000, 0xB8400000, 0x38330000, 0xB8260000});
  const sim::Recipe& te = recipe_of("te", "4over6");
  expect_killed(false, quantized(te, 8, x).second, four_wins(te, x, in_order, true));
}

// ---- the ends of the range ----

TEST(Mutant, flushed_subnormals_are_killed_in_a_decode_scale) {
  const Real a = power(-138), flushed = whole(0);
  ASSERT_EQ(to_bits(rows::decode_of(a)), 1u);  // a / 2688 = 0.76 * 2^-149
  expect_killed(0x7B, scale_of("modelopt_dyn", a, a), e4m3_saturating(over(a, times(six, flushed))));
}

TEST(Mutant, flushed_subnormals_are_killed_in_a_scale_s_code) {
  const Real b = {Real::Kind::finite, false, 18, -9}, v = times(b, sixth);  // 3 * 2^-9
  expect_killed(3, scale_of("te", unit_amax, b), against(exactly(v), 1, -6) < 0 ? 0 : e4m3_saturating(v));
}

TEST(Mutant, torchao_with_subnormal_scales_is_killed) {
  const Real b = {Real::Kind::finite, false, 18, -9};
  expect_killed(8, scale_of("torchao", unit_amax, b), rows::te_scale(unit_amax, b));
}

/// E2M1 with one level more, 8, which takes the code after 7: the sign's bit.
int e2m1_unclamped(const Real& y) {
  return passed(exactly(y), 8, -1, Tie::even, [](int code) { return code < 8 ? e2m1_halves(code) : 16; });
}

TEST(Mutant, no_saturation_of_codes_is_killed) {
  expect_killed(7, code_of("te", unit_amax, scale_one, whole(8)), e2m1_unclamped(whole(8)));
}

TEST(Mutant, saturation_of_codes_is_killed_where_fouroversix_has_none) {
  expect_killed(8, code_of("fouroversix", unit_amax, scale_one, whole(8)), e2m1(whole(8)));
}

TEST(Mutant, no_saturation_of_scales_is_killed) {
  const Real b = whole(6 * 512);  // of a tensor whose given amax is too small
  expect_killed(0x7E, scale_of("te", unit_amax, b), e4m3_or_nan(times(b, sixth)));
}

TEST(Mutant, an_unlimited_reciprocal_of_a_zero_scale_is_killed) {
  const float b = 5 * 0x1p-10f;  // v below 2^-10; 0 * Inf would be NaN, code 7
  EXPECT_EQ(quantized(recipe_of("te"), 2688, {b, 0}).codes, (std::vector<std::uint8_t>{7, 0}));
  const Real y = times(whole(0), over(one, whole(0)));
  expect_killed(0, quantized(recipe_of("te"), 2688, {b, 0}).codes[1], y.kind == Real::Kind::nan ? 7 : 0);
}

TEST(Mutant, a_zero_scale_that_is_not_guarded_is_killed) {
  const Real b = {Real::Kind::finite, false, 5, -10};
  ASSERT_EQ(scale_of("vllm_emulation", unit_amax, b), 0);
  const int unguarded = e2m1(times(b, over(one, whole(0))));
  for (const char* name : {"vllm_emulation", "fouroversix"}) {
    expect_killed(0, quantized(recipe_of(name), 2688, {to_float(b), 0}).codes[0], unguarded);
  }
}

TEST(Mutant, a_guard_by_the_scale_for_a_guard_by_amax_is_killed) {
  const Real b = {Real::Kind::finite, false, 5, -10};  // flashinfer's: b = 0, not a scale of 0
  expect_killed(7, quantized(recipe_of("flashinfer"), 2688, {to_float(b), 0}).codes[0],
                rows::nested_code<2688>(unit_amax, 0, b));
}

// ---- signs and bytes ----

int code_of_minus_zero(const char* name) { return quantized(recipe_of(name), 2688, {6, -0.0f}).codes[1]; }

TEST(Mutant, a_dropped_minus_zero_is_killed) {
  const auto by_less = [](float x) { return x < 0 ? 8 : 0; };
  for (const char* name : {"te", "te_fast", "flashinfer", "torchao"}) {
    SCOPED_TRACE(name);
    expect_killed(8, code_of_minus_zero(name), by_less(-0.0f));
  }
}

TEST(Mutant, a_kept_minus_zero_is_killed_where_the_source_drops_it) {
  const auto by_bit = [](float x) { return std::signbit(x) ? 8 : 0; };
  for (const char* name : {"te_ref", "modelopt_dyn", "compressed_tensors", "fouroversix", "fpquant", "qwantize"}) {
    SCOPED_TRACE(name);
    expect_killed(0, code_of_minus_zero(name), by_bit(-0.0f));
  }
}

TEST(Mutant, an_amax_of_signed_values_is_killed) {
  const float x[3] = {1, -4, 2};
  expect_killed(4, static_cast<int>(search::recipe_amax(recipe_of("te"), x, 3)), 2);
}

TEST(Mutant, swapped_nibbles_are_killed) {
  const std::vector<std::uint8_t> codes = quantized(recipe_of("te"), 2688, {6, -0.5f}).codes;
  ASSERT_EQ(codes, (std::vector<std::uint8_t>{7, 9}));
  expect_killed(0x97, formats::pack_nibbles(codes[0], codes[1]), codes[0] << 4 | codes[1]);
}

TEST(Mutant, floor_for_even_for_ceil_are_killed_in_powers_of_two) {
  const auto byte = [](const char* method, float b) {
    const sim::Recipe& r = *sim::find_recipe("torchao", "mxfp4", method);
    return sim::recipe_scale_code(r, formats::mxfp4, sim::block_value(r, {}, b));
  };
  expect_killed(126, byte("even", 1.75f), byte("floor", 1.75f));
  expect_killed(125, byte("even", 1.625f), byte("rceil", 1.625f));
  expect_killed(126, byte("rceil", 1.625f), byte("floor", 1.625f));
  expect_killed(125, byte("rceil", 1.5f), byte("ceil", 1.5f));
}

}  // namespace
}  // namespace fp4scope
