// Zeros, underflow, -0, NaN and the powers of two: where the recipes' sources agree least, each with what it writes.
//
// Not here: what a source leaves undefined (NaN in torchao, compressed-tensors and fouroversix), which is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "search/recipe_search.hpp"

namespace fp4scope {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();

float to_float(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

const sim::Recipe& recipe_of(const char* name, const char* format = "nvfp4", const char* method = "naive") {
  const sim::Recipe* r = sim::find_recipe(name, format, method);
  if (!r) std::abort();
  return *r;
}

/// "1f 0 8 7": the scale's byte and the codes.
std::string show(int scale, const std::vector<std::uint8_t>& codes) {
  char text[8];
  std::snprintf(text, sizeof text, "%02x", scale);
  std::string out = text;
  for (const std::uint8_t code : codes) {
    std::snprintf(text, sizeof text, " %x", code);
    out += text;
  }
  return out;
}

/// One block in a tensor of amax a, of its own amax as the recipe takes it; a recipe with a tensor scale uses it.
std::string quantized(const char* name, float a, const std::vector<float>& x) {
  const sim::Recipe& r = recipe_of(name);
  const int n = static_cast<int>(x.size());
  sim::RecipeTensor t = sim::recipe_tensor(r, a, r.scale_max);
  t.amax = a;
  search::RecipeRoom room;
  std::vector<std::uint8_t> codes(x.size());
  const float b = search::recipe_amax(r, x.data(), n);
  const search::RecipeBlock found =
      search::recipe_block({&r, &formats::nvfp4, t}, b, x.data(), n, n, codes.data(), room);
  return show(found.scale, codes);
}

struct Want {
  const char* name;
  const char* written;
};

void expect_written(float a, const std::vector<float>& x, const std::vector<Want>& rows) {
  for (const Want& row : rows) EXPECT_EQ(quantized(row.name, a, x), row.written) << row.name << ", amax " << a;
}

// At amax 2688 every S and D is 1, so that v = b / 6 for all.
constexpr float unit_amax = 2688;

TEST(Special, a_zero_block_has_each_recipe_s_own_scale_and_codes_0) {
  expect_written(unit_amax, {0, 0, 0, 0},
                 {{"rational", "00 0 0 0 0"},
                  {"te", "00 0 0 0 0"},
                  {"te_ref", "00 0 0 0 0"},
                  {"te_fast", "00 0 0 0 0"},
                  {"flashinfer", "00 0 0 0 0"},
                  {"modelopt_dyn", "38 0 0 0 0"},             // 1
                  {"modelopt_export", "38 0 0 0 0"},          // 2688 / 2688
                  {"torchao", "08 0 0 0 0"},                  // 2^-6
                  {"compressed_tensors", "20 0 0 0 0"},       // 0.125
                  {"compressed_tensors_bf16", "20 0 0 0 0"},  //
                  {"vllm_emulation", "00 0 0 0 0"},
                  {"fouroversix", "00 0 0 0 0"},
                  {"ggml", "00 0 0 0 0"},
                  {"flashinfer_hopper", "00 0 0 0 0"},
                  {"vllm_hopper", "00 0 0 0 0"},
                  {"cutlass_hopper", "00 0 0 0 0"},
                  {"vllm_emulation_triton_hopper", "00 0 0 0 0"},
                  {"modelopt_triton_hopper", "00 0 0 0 0"},
                  {"modelopt_triton_dyn_hopper", "00 0 0 0 0"}});
}

TEST(Special, a_zero_block_of_modelopt_export_has_scale_2688_over_a_up_to_448) {
  expect_written(100, {0, 0}, {{"modelopt_export", "5d 0 0"}});  // 26.88 to 26
  expect_written(4, {0, 0}, {{"modelopt_export", "7e 0 0"}});    // 672 to 448
}

TEST(Special, a_zero_tensor_has_s_1_in_te_and_flt_max_in_its_reference_and_zero_scales) {
  EXPECT_EQ(sim::recipe_tensor(recipe_of("te"), 0, 448).encode, 1);
  EXPECT_EQ(sim::recipe_tensor(recipe_of("te_ref"), 0, 448).encode, sim::flt_max);
  expect_written(0, {0, 0}, {{"te", "00 0 0"}, {"te_ref", "00 0 0"}, {"flashinfer", "00 0 0"}});
}

/// 0 / 0 in modelopt_dyn (the rule for 0 does not see NaN) and torchao; 448 / 0 in modelopt_export.
TEST(Special, a_zero_tensor_is_nan_in_modelopt_dyn_and_torchao_and_448_in_modelopt_export) {
  expect_written(0, {0, 0}, {{"modelopt_dyn", "7f 7 7"}, {"modelopt_export", "7e 7 7"}});
  EXPECT_EQ(quantized("torchao", 0, {0, 0}).substr(0, 2), "7f");
}

TEST(Special, a_zero_tensor_is_all_zeros_in_fouroversix_and_vllm_emulation_and_ggml) {
  expect_written(0, {0, 0}, {{"fouroversix", "00 0 0"}, {"vllm_emulation", "00 0 0"}, {"ggml", "00 0 0"}});
  expect_written(0, {0, 0}, {{"flashinfer_hopper", "00 0 0"}, {"modelopt_triton_dyn_hopper", "00 0 0"}});
}

/// 2688 / FLT_MIN overflows, and Inf * 0 is NaN.
TEST(Special, a_zero_tensor_has_s_from_the_clamp_at_flt_min_in_compressed_tensors) {
  EXPECT_EQ(sim::recipe_tensor(recipe_of("compressed_tensors"), 0, 448).encode, infinity);
  EXPECT_EQ(quantized("compressed_tensors", 0, {0, 0}).substr(0, 2), "7f");
}

/// v = 2^-10 is the tie between E4M3's 0 and 2^-9, which the even 0 gets; and below it.
TEST(Special, a_block_whose_scale_underflows_has_each_recipe_s_own_scale_and_codes) {
  for (const float b : {6 * 0x1p-10f, 5 * 0x1p-10f}) {
    const bool three = b == 6 * 0x1p-10f;
    expect_written(unit_amax, {b, -b, 0, -0.0f},
                   {{"rational", "00 0 8 0 8"},
                    {"te", "00 7 f 0 8"},  // 1 / 0 is limited to FLT_MAX
                    {"te_ref", "00 7 f 0 0"},
                    {"flashinfer", "00 7 f 0 8"},
                    {"modelopt_dyn", three ? "01 5 d 0 0" : "01 4 c 0 0"},  // at least 2^-9
                    {"modelopt_export", three ? "01 5 d 0 0" : "01 4 c 0 0"},
                    {"torchao", "08 1 9 0 8"},             // at least 2^-6
                    {"compressed_tensors", "20 0 8 0 0"},  // 0.125 for 0
                    {"vllm_emulation", "00 0 0 0 0"},      // no factor for scale 0
                    {"flashinfer_hopper", "00 7 f 7 7"},   // rcp(0) = Inf, and 0 * Inf is NaN
                    {"vllm_hopper", "00 0 8 0 8"},         // the factor is 0
                    {"cutlass_hopper", "00 7 f 0 8"},
                    {"vllm_emulation_triton_hopper", "00 0 0 0 0"},
                    {"modelopt_triton_hopper", "00 0 0 0 0"},
                    {"modelopt_triton_dyn_hopper", "00 0 8 0 0"},  // a divisor of 1
                    {"fouroversix", "00 0 0 0 0"}});
  }
}

TEST(Special, a_block_whose_scale_underflows_is_0_in_ggml_whose_tie_goes_up) {
  expect_written(0, {5 * 0x1p-10f, -5 * 0x1p-10f}, {{"ggml", "00 0 0"}});
  expect_written(0, {6 * 0x1p-10f, -6 * 0x1p-10f}, {{"ggml", "01 5 d"}});
}

TEST(Special, subnormal_scales_exist_in_all_but_torchao) {
  const std::vector<float> x = {18 * 0x1p-9f, -18 * 0x1p-9f};  // v = 3 * 2^-9
  for (const char* name : {"rational", "te", "te_ref", "flashinfer", "modelopt_dyn", "modelopt_export",
                           "compressed_tensors", "compressed_tensors_bf16", "vllm_emulation", "fouroversix", "ggml"}) {
    EXPECT_EQ(quantized(name, unit_amax, x), "03 7 f") << name;
  }
  EXPECT_EQ(quantized("torchao", unit_amax, x), "08 4 c");  // 2.25 of 2^-6
}

/// v = 7.75 * 2^-9 rounds to the first normal scale.
TEST(Special, the_carry_out_of_the_subnormal_scales_is_missing_in_ggml_alone) {
  const std::vector<float> x = {46.5f * 0x1p-9f, 0};
  for (const char* name : {"rational", "te", "te_ref", "flashinfer", "modelopt_dyn", "modelopt_export", "torchao",
                           "compressed_tensors", "vllm_emulation", "fouroversix"}) {
    EXPECT_EQ(quantized(name, unit_amax, x), "08 7 0") << name;
  }
  EXPECT_EQ(quantized("ggml", unit_amax, x), "07 7 0");
}

/// A task without a word on rounding: it is microxcaling's to choose, and not a way to change the others' ties.
TEST(Special, ties_go_to_even_in_every_recipe_that_has_no_choice_of_rounding) {
  const std::vector<float> ties = {6, .25f, .75f, 1.25f, 1.75f, 2.5f, 3.5f, 5};
  for (const char* name : {"rational", "te", "te_ref", "te_fast", "flashinfer", "modelopt_dyn", "modelopt_export",
                           "modelopt_fakequant", "torchao", "compressed_tensors", "compressed_tensors_bf16",
                           "vllm_emulation", "fouroversix", "fpquant", "fpquant_bf16"}) {
    EXPECT_EQ(quantized(name, unit_amax, ties), "38 7 0 2 2 4 4 6 6") << name;
  }
  for (const char* name : {"qwantize", "ggml"}) EXPECT_EQ(quantized(name, 0, ties), "38 7 0 1 2 3 4 5 6") << name;
}

TEST(Special, minus_zero_is_kept_by_te_flashinfer_and_torchao_alone) {
  for (const char* name : {"rational", "te", "te_fast", "flashinfer", "torchao"}) {
    EXPECT_EQ(quantized(name, unit_amax, {6, -0.0f, -6, 0}), "38 7 8 f 0") << name;
  }
  for (const char* name : {"te_ref", "modelopt_dyn", "modelopt_export", "compressed_tensors", "fouroversix", "ggml"}) {
    EXPECT_EQ(quantized(name, unit_amax, {6, -0.0f, -6, 0}), "38 7 0 f 0") << name;
  }
}

TEST(Special, a_small_negative_number_is_minus_zero_in_all_but_ggml) {
  for (const char* name : {"te", "te_ref", "modelopt_dyn", "torchao", "compressed_tensors", "fouroversix"}) {
    EXPECT_EQ(quantized(name, unit_amax, {6, -0x1p-9f}), "38 7 8") << name;
  }
  EXPECT_EQ(quantized("ggml", unit_amax, {6, -0x1p-9f}), "38 7 0");
}

TEST(Special, nan_elements_are_7_in_hardware_and_modelopt_and_0_in_te_s_reference_and_ggml) {
  expect_written(unit_amax, {6, nan, -3, -nan},
                 {{"te", "38 7 7 d 7"},  // and the block's amax does not see it
                  {"flashinfer", "38 7 7 d 7"},
                  {"ggml", "38 7 0 d 0"}});
  for (const char* name : {"modelopt_dyn", "modelopt_export", "vllm_emulation"}) {
    EXPECT_TRUE(recipe_of(name).nan_defined) << name;
    EXPECT_EQ(quantized(name, unit_amax, {6, nan, -3, -nan}), "7f 7 7 7 7") << name;
  }
  EXPECT_TRUE(recipe_of("te_ref").nan_defined);
  EXPECT_EQ(quantized("te_ref", unit_amax, {nan, nan}), "7f 0 0");
}

TEST(Special, nan_elements_are_undefined_in_torchao_compressed_tensors_and_fouroversix) {
  for (const char* name : {"torchao", "compressed_tensors", "compressed_tensors_bf16", "fouroversix"}) {
    EXPECT_FALSE(recipe_of(name).nan_defined) << name;
  }
}

/// A block amax of NaN: fminf with FLT_MAX drops it in te, and clamps keep it elsewhere.
TEST(Special, a_nan_block_amax_is_448_in_te_and_nan_elsewhere) {
  const auto byte = [](const char* name) {
    const sim::Recipe& r = recipe_of(name);
    return sim::recipe_scale_code(r, formats::nvfp4, sim::block_value(r, sim::recipe_tensor(r, 1, 448), nan));
  };
  EXPECT_EQ(byte("te"), 0x7E);
  for (const char* name : {"te_ref", "modelopt_dyn", "modelopt_export", "torchao", "compressed_tensors",
                           "compressed_tensors_bf16", "fouroversix"}) {
    EXPECT_EQ(byte(name), 0x7F) << name;
  }
}

TEST(Special, maxima_drop_nan_in_te_flashinfer_and_ggml_and_propagate_it_elsewhere) {
  const float x[3] = {-2, nan, 1};
  for (const sim::Recipe& r : sim::all_recipes) {
    const std::string name = r.name;
    const bool drops = name == "te" || name == "te_fast" || name == "flashinfer" || name == "ggml" ||
                       name == "flashinfer_hopper" || name == "vllm_hopper";
    const float amax = search::recipe_amax(r, x, 3);
    EXPECT_TRUE(drops ? amax == 2 : std::isnan(amax)) << name << ' ' << r.format << ": " << amax;
  }
}

/// 2688 / a overflows. te stops at FLT_MAX; fouroversix goes on with Inf, whose scale PyTorch's cast makes NaN.
TEST(Special, a_tiny_tensor_has_a_limited_s_in_te_and_nan_scales_in_fouroversix) {
  const float a = 0x1p-120f;
  EXPECT_EQ(sim::recipe_tensor(recipe_of("te"), a, 448).encode, sim::flt_max);
  EXPECT_EQ(quantized("te", a, {a, -a, 0}), "63 7 f 0");  // fl(a FLT_MAX / 6) = 256 / 6 = 42.67 to 44; y = 5.8
  EXPECT_EQ(sim::recipe_tensor(recipe_of("fouroversix"), a, 448).encode, infinity);
  EXPECT_EQ(quantized("fouroversix", a, {a, -a, 0}).substr(0, 2), "7f");
}

/// D = a / 2688 is subnormal: its few bits are those that the quotients see.
TEST(Special, a_subnormal_decode_scale_is_not_flushed) {
  const float a = 0x1p-138f;
  EXPECT_EQ(sim::recipe_tensor(recipe_of("modelopt_dyn"), a, 448).decode, 0x1p-149f);  // 0.76 * 2^-149
  EXPECT_EQ(quantized("modelopt_dyn", a, {a, -a / 2}), "7b 7 d");  // a / (6 D) = 341.3 to 352; y = 5.8 and 2.9
}

/// A scale above 464 without a tensor scale: PyTorch's cast gives NaN, which te's and torchao's clamps prevent.
TEST(Special, a_scale_beyond_464_is_nan_in_qwantize_and_448_with_a_clamp) {
  EXPECT_EQ(quantized("qwantize", 0, {6 * 464.0f, 1}).substr(0, 2), "7e");  // the tie goes to 448
  EXPECT_EQ(quantized("qwantize", 0, {6 * 465.0f, 1}).substr(0, 2), "7f");
  EXPECT_EQ(quantized("ggml", 0, {6 * 256.0f, 1}).substr(0, 2), "7e");  // 256 and above are 448
  EXPECT_EQ(quantized("ggml", 0, {6 * 240.0f, 1}).substr(0, 2), "77");
  EXPECT_EQ(quantized("te", 1, {2, 0}), "7e 7 0");  // a given amax that is too small
  EXPECT_EQ(quantized("fouroversix", 1, {2, 0}).substr(0, 2), "7f");
}

/// The two write the same bytes: for a zero block te's factor is FLT_MAX, flashinfer's 0.
TEST(Special, flashinfer_in_exact_mode_writes_what_te_does) {
  std::mt19937_64 words(81);
  for (int i = 0; i < 20000; ++i) {
    std::vector<float> x(16);
    for (float& v : x) v = to_float(static_cast<std::uint32_t>(words() & 0x87FF0000u) | 0x38000000u);
    if (i % 4 == 0) std::fill(x.begin() + i / 4 % 16, x.end(), i % 8 ? 0.0f : -0.0f);
    const float a = std::ldexp(1.0f + static_cast<float>(i % 128) / 128, i / 128 % 24 - 14);
    ASSERT_EQ(quantized("flashinfer", a, x), quantized("te", a, x)) << "amax " << a << ", block " << i;
  }
}

// ---- powers of two ----

/// b = m * 2^k, 1 <= m < 2: exponent k - 2, or k - 1 where m reaches or passes a bound.
enum class MxRule { floor, even, sixth, ceil };

bool one_up(MxRule rule, std::uint32_t fraction) {
  switch (rule) {
    case MxRule::floor: return false;
    case MxRule::even: return fraction >= 0x600000;  // m >= 1.75
    case MxRule::sixth: return fraction > 0x400000;  // m > 1.5: ceil(log2(b / 6))
    case MxRule::ceil: return fraction > 0;          // m > 1
  }
  return false;
}

struct MxRow {
  const char* name;
  const char* method;
  MxRule rule;
  bool logarithm;  ///< taken in binary32: other powers next to its own boundary
};

constexpr MxRow mx_rows[] = {
    {"ocp", "floor", MxRule::floor, false},
    {"torchao", "floor", MxRule::floor, false},
    {"torchao", "even", MxRule::even, false},
    {"torchao", "rceil", MxRule::sixth, false},
    {"torchao", "ceil", MxRule::ceil, false},
    {"compressed_tensors", "naive", MxRule::even, false},
    {"fouroversix", "static6", MxRule::sixth, false},
    {"fouroversix", "static4", MxRule::ceil, false},  // the power of two at or above b / 4
    {"modelopt_mxfp4", "naive", MxRule::sixth, true},
    {"microxcaling", "floor", MxRule::floor, true},
    {"ggml", "floor", MxRule::floor, true},
    {"qwantize", "floor", MxRule::floor, true},
};

int mx_byte(const MxRow& row, std::uint32_t b) {
  const std::string method = std::string_view(row.method) == "static6" ? "naive" : row.method;
  const sim::Recipe& r = recipe_of(row.name, "mxfp4", method.c_str());
  return sim::recipe_scale_code(r, formats::mxfp4, sim::block_value(r, {}, to_float(b)));
}

void expect_mx_byte(const MxRow& row, std::uint32_t b) {
  const int want = static_cast<int>(b >> 23) - 2 + one_up(row.rule, b & 0x7FFFFF);
  ASSERT_EQ(mx_byte(row, b), want) << row.name << ' ' << row.method << std::hex << " of 0x" << b << std::hexfloat
                                   << " = " << to_float(b) << ": got 0x" << mx_byte(row, b) << ", want 0x" << want;
}

/// Fields from 28 on: qwantize's amax is at least 1e-30 = 2^-99.7, so its lowest code here is 26.
TEST(MxScale, rules_are_their_definitions_for_every_bf16) {
  for (const MxRow& row : mx_rows) {
    for (std::uint32_t bits = 28 << 7; bits < 0x7F80; ++bits) expect_mx_byte(row, bits << 16);
  }
}

/// The float beside a rule's own bound that its rounded logarithm takes for the bound; 0x800000: none.
std::uint32_t missed_fraction(const MxRow& row) {
  if (!row.logarithm) return 0x800000;
  return row.rule == MxRule::floor ? 0x7FFFFF : 0x400001;
}

TEST(MxScale, rules_turn_at_their_bounds_to_the_float) {
  for (const MxRow& row : mx_rows) {
    for (std::uint32_t field = row.logarithm ? 28 : 4; field < 255; ++field) {
      for (const std::uint32_t fraction : {0x000000u, 0x000001u, 0x3FFFFFu, 0x400000u, 0x400001u, 0x5FFFFFu, 0x600000u,
                                           0x600001u, 0x7FFFFFu, 0x3504F3u, 0x3504F4u}) {  // the last two: sqrt 2
        if (fraction != missed_fraction(row)) expect_mx_byte(row, field << 23 | fraction);
      }
    }
  }
}

/// Between 1/2 and 2 a logarithm has places to spare; elsewhere the float next to a power of two counts as the power.
TEST(MxScale, rules_by_a_logarithm_err_by_one_next_to_large_powers_alone) {
  struct Witness {
    const char* name;
    std::uint32_t b;
    int got, exact;
  };
  constexpr Witness witnesses[] = {
      {"microxcaling", 0x3F7FFFFF, 124, 124},  // 1 - 2^-24: log2 is -8.6e-8, no power
      {"microxcaling", 0x41FFFFFF, 130, 129},  // 32 - 2^-19 counts as 32
      {"ggml", 0x41FFFFFF, 130, 129},
      {"ggml", 0x3CFFFFFF, 120, 119},  // just below 2^-5
      {"qwantize", 0x41FFFFFF, 130, 129},
      {"qwantize", 0x3F7FFFF0, 125, 124},  // log2 - 2 + 127 loses what log2 had: 16 units below 1 counts as 1
      {"modelopt_mxfp4", 0x40C00001, 128, 128},
      {"modelopt_mxfp4", 0x72400001, 226, 227},  // just above 6 * 2^99
  };
  for (const Witness& w : witnesses) {
    for (const MxRow& row : mx_rows) {
      if (!row.logarithm || std::string_view(row.name) != w.name) continue;
      EXPECT_EQ(mx_byte(row, w.b), w.got) << w.name << std::hexfloat << ' ' << to_float(w.b);
      const int exact = static_cast<int>(w.b >> 23) - 2 + one_up(row.rule, w.b & 0x7FFFFF);
      EXPECT_EQ(exact, w.exact) << w.name << std::hexfloat << ' ' << to_float(w.b);
    }
  }
}

TEST(MxScale, the_low_end_is_code_0_1_or_wraps) {
  const std::uint32_t least = 0x00800000, subnormal = 1;  // 2^-126, 2^-149
  for (const MxRow& row : mx_rows) {
    const std::string name = row.name;
    if (name == "qwantize") continue;
    const bool wraps = name == "ggml", fields = name == "fouroversix";  // a subnormal quotient's field is 0, plus 1
    EXPECT_EQ(mx_byte(row, least), wraps ? 0xFF : fields ? 1 : 0) << name;
    EXPECT_EQ(mx_byte(row, subnormal), wraps ? 0xE8 : 0) << name;
    EXPECT_EQ(mx_byte(row, 0), 0) << name;
  }
}

TEST(MxScale, nan_and_infinity_are_0xff_in_torchao) {
  for (const MxRow& row : mx_rows) {
    if (std::string_view(row.name) != "torchao") continue;
    EXPECT_EQ(mx_byte(row, 0x7FC00000), 0xFF) << row.method;
    EXPECT_EQ(mx_byte(row, 0x7F800000), 0xFF) << row.method;
  }
}

}  // namespace
}  // namespace fp4scope
