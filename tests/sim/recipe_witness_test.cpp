// One input, one recipe out of line: bf16 numbers on which every extra rounding of a recipe decides a tie of the real
// numbers, and which recipes it does that to. Each row lists all the recipes that differ; all others give the byte (or
// code) of real numbers.
//
#include <gmpxx.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "search/recipe_search.hpp"

namespace fp4scope {
namespace {

float from_bf16(std::uint32_t n) { return __builtin_bit_cast(float, n << 16); }

mpq_class rational(float x) {
  int exponent = 0;
  const auto significand = static_cast<long>(std::ldexp(std::frexp(x, &exponent), 24));
  mpq_class q(significand);
  const mpz_class places = mpz_class(1) << static_cast<unsigned>(std::abs(exponent - 24));
  q = exponent < 24 ? mpq_class(q / places) : mpq_class(q * places);
  return q;
}

/// Every recipe with a tensor scale, but `rational`.
std::vector<std::string_view> scaled_names() {
  std::vector<std::string_view> names;
  for (const sim::Recipe& r : sim::all_recipes) {
    const bool nvfp4 = std::string_view("nvfp4") == r.format && sim::lists(r.methods, "naive");
    if (nvfp4 && r.tensor != sim::TensorStep::none && std::string_view("rational") != r.name) names.push_back(r.name);
  }
  return names;
}

/// One exception: recipes, separated by spaces, and what they give.
struct Other {
  const char* names;
  int code;
};

/// What each recipe gives: `common`, but for the others.
template <class Give>
void expect_others(const std::string& where, int common, const std::vector<Other>& others, const Give& give) {
  EXPECT_EQ(give("rational"), common) << where << ", rational";
  for (const std::string_view name : scaled_names()) {
    int want = common;
    for (const Other& o : others) want = sim::lists(o.names, name) ? o.code : want;
    EXPECT_EQ(give(name), want) << where << ", " << name << std::hex << ": got 0x" << give(name) << ", want 0x" << want;
  }
}

TEST(Witness, every_recipe_with_a_tensor_scale_is_tried) {
  const std::vector<std::string_view> want = {"te",
                                              "te_ref",
                                              "te_fast",
                                              "fouroversix",
                                              "modelopt_dyn",
                                              "modelopt_export",
                                              "modelopt_fakequant",
                                              "torchao",
                                              "compressed_tensors",
                                              "compressed_tensors_bf16",
                                              "vllm_emulation",
                                              "flashinfer",
                                              "fpquant",
                                              "fpquant_bf16",
                                              "flashinfer_hopper",
                                              "vllm_hopper",
                                              "cutlass_hopper",
                                              "vllm_emulation_triton_hopper",
                                              "modelopt_triton_hopper",
                                              "modelopt_triton_dyn_hopper"};
  EXPECT_EQ(scaled_names(), want);
}

// ---- scale bytes ----

int scale_byte(std::string_view name, float a, float b) {
  const sim::Recipe& r = *sim::find_recipe(name, "nvfp4", "naive");
  search::RecipeRoom room;
  const float x[2] = {b, 0};
  std::uint8_t codes[2];
  return search::recipe_block({&r, &formats::nvfp4, sim::recipe_tensor(r, a, 448)}, b, x, 2, 2, codes, room).scale;
}

void expect_scale(std::uint32_t a, std::uint32_t b, int real, int common, const std::vector<Other>& others) {
  char where[80];
  std::snprintf(where, sizeof where, "a 0x%04X = %g, b 0x%04X = %g", a, static_cast<double>(from_bf16(a)), b,
                static_cast<double>(from_bf16(b)));
  EXPECT_EQ(448 * rational(from_bf16(b)) / rational(from_bf16(a)), real) << where;
  expect_others(where, common, others,
                [=](std::string_view name) { return scale_byte(name, from_bf16(a), from_bf16(b)); });
}

// te_ref, flashinfer in exact mode and cutlass_hopper have te's operations for a scale, since rcp(6) is fl(1/6);
// flashinfer_hopper and vllm_hopper have vllm_emulation's.
TEST(ScaleWitness, the_tie_232_of_408c_4011_is_broken_by_te_vllm_and_bf16_arithmetic) {
  expect_scale(0x408C, 0x4011, 232, 0x76,
               {{"te cutlass_hopper te_fast te_ref flashinfer vllm_emulation flashinfer_hopper vllm_hopper "
                 "vllm_emulation_triton_hopper compressed_tensors_bf16",
                 0x77}});
}
TEST(ScaleWitness, the_tie_272_of_408c_402a_is_broken_by_all_that_multiply_by_an_encode_scale) {
  expect_scale(0x408C, 0x402A, 272, 0x78,
               {{"te cutlass_hopper te_fast te_ref flashinfer vllm_emulation flashinfer_hopper vllm_hopper "
                 "vllm_emulation_triton_hopper compressed_tensors_bf16 compressed_tensors fouroversix fpquant "
                 "fpquant_bf16",
                 0x79}});
}
TEST(ScaleWitness, the_tie_124_of_408c_3f9b_is_broken_by_modelopt_fakequant_alone) {
  expect_scale(0x408C, 0x3F9B, 124, 0x70, {{"modelopt_fakequant modelopt_triton_hopper", 0x6F}});
}
TEST(ScaleWitness, the_tie_168_of_408e_3fd5_is_broken_by_modelopt_dyn_and_fakequant) {
  expect_scale(0x408E, 0x3FD5, 168, 0x72, {{"modelopt_dyn modelopt_fakequant", 0x73}});
}
TEST(ScaleWitness, the_tie_304_of_409a_4051_is_broken_by_torchao_and_bf16_sixths) {
  expect_scale(0x409A, 0x4051, 304, 0x7A, {{"torchao fpquant_bf16", 0x79}});
}
TEST(ScaleWitness, the_tie_152_of_40c4_4005_is_broken_by_modelopt_export_and_fakequant_and_bf16_arithmetic) {
  expect_scale(0x40C4, 0x4005, 152, 0x72,
               {{"modelopt_export modelopt_triton_dyn_hopper modelopt_fakequant "
                 "compressed_tensors_bf16 fpquant_bf16",
                 0x71}});
}
TEST(ScaleWitness, the_tie_168_of_4050_3f9c_is_broken_by_te_fpquant_and_bf16_arithmetic) {
  expect_scale(0x4050, 0x3F9C, 168, 0x72,
               {{"te cutlass_hopper te_fast te_ref flashinfer compressed_tensors_bf16 fpquant fpquant_bf16", 0x73}});
}

// ---- codes ----

int code_at(std::string_view name, float a, float b, int scale, float x) {
  const sim::Recipe& r = *sim::find_recipe(name, "nvfp4", "naive");
  std::uint8_t code = 0;
  sim::recipe_codes(r, formats::nvfp4, sim::recipe_tensor(r, a, 448), scale, b, &x, 1, formats::Rounding::nearest_even,
                    &code);
  return code;
}

struct CodeWitness {
  std::uint32_t a, b, x;
  int scale, scale_value;
};

void expect_code(const CodeWitness& w, const mpq_class& real, int common, const std::vector<Other>& others) {
  const float a = from_bf16(w.a), b = from_bf16(w.b), x = from_bf16(w.x);
  char where[120];
  std::snprintf(where, sizeof where, "a 0x%04X = %g, s 0x%02X, x 0x%04X = %g", w.a, static_cast<double>(a), w.scale,
                w.x, static_cast<double>(x));
  EXPECT_EQ(scale_byte("rational", a, b), w.scale) << where;
  EXPECT_EQ(formats::decode_float(formats::e4m3, static_cast<std::uint32_t>(w.scale)), w.scale_value) << where;
  EXPECT_EQ(2688 * rational(x) / (w.scale_value * rational(a)), real) << where;
  expect_others(where, common, others, [&](std::string_view name) { return code_at(name, a, b, w.scale, x); });
}

TEST(CodeWitness, minus_1_75_at_4079_is_kept_by_modelopt_torchao_and_bf16_factors) {
  expect_code({0x4079, 0x4010, 0xBF26, 0x78, 256}, mpq_class(-7, 4), 0xC,
              {{"te te_ref flashinfer modelopt_fakequant compressed_tensors vllm_emulation fouroversix fpquant "
                "flashinfer_hopper vllm_hopper cutlass_hopper vllm_emulation_triton_hopper modelopt_triton_hopper "
                "modelopt_triton_dyn_hopper",
                0xB}});
}
/// fpquant: 2688 * (1 / a) rounds to one unit above 2688 / a here, so that it alone lands beyond the tie.
TEST(CodeWitness, minus_3_5_at_408a_is_kept_by_torchao_fpquant_and_bf16_factors) {
  expect_code(
      {0x408A, 0x3FE6, 0xBF8A, 0x74, 192}, mpq_class(-7, 2), 0xE,
      {{"te te_ref flashinfer modelopt_dyn modelopt_export modelopt_fakequant compressed_tensors vllm_emulation "
        "fouroversix",
        0xD}});
}
TEST(CodeWitness, the_tie_1_75_at_4082_is_broken_by_te_fast_torchao_compressed_tensors_bf16_and_modelopt_triton) {
  expect_code({0x4082, 0x402E, 0x3F43, 0x79, 288}, mpq_class(7, 4), 0x4,
              {{"te_fast torchao compressed_tensors_bf16 modelopt_triton_hopper modelopt_triton_dyn_hopper", 0x3}});
}
/// No tie: 1.7506, which no rounding of 24 bits brings down to 1.75; a factor of 8 bits does.
TEST(CodeWitness, the_ratio_just_above_1_75_at_4057_is_missed_by_te_fast_alone) {
  expect_code({0x4057, 0x3FCD, 0x3EE9, 0x75, 208}, mpq_class(4893, 2795), 0x4, {{"te_fast", 0x3}});
}

}  // namespace
}  // namespace fp4scope
