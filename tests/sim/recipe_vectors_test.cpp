// Three blocks worked out by hand, with every intermediate of 4/6, static_6 and IF4 at a tensor amax of 8: the tensor's
// S, the block value, the scale's code, the factor on x, the codes, the errors, the choice. The arithmetic is that of
// fouroversix (quantize/pytorch/reference.py) and of TransformerEngine's 4/6 (quantize_4over6_nvfp4.cuh), sums in
// order.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "formats/pack.hpp"
#include "search/recipe_search.hpp"

namespace fp4scope {
namespace {

using Block = std::vector<float>;

float to_float(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }

Block from_bf16(const std::vector<std::uint32_t>& numbers) {
  Block x;
  for (const std::uint32_t n : numbers) x.push_back(to_float(n << 16));
  return x;
}

const Block v1 = from_bf16({0xC010, 0xBFFA, 0xBFD3, 0xBFAD, 0xBF86, 0xBF40, 0xBEE6, 0xBE1A,  //
                            0x3E1A, 0x3EE6, 0x3F40, 0x3F86, 0x3FAD, 0x3FD3, 0x3FFA, 0x4010});
const Block v2 = from_bf16({0xBF6B, 0xBDE1, 0x3F32, 0xBEBC, 0x3EE1, 0xBF03, 0x3E3B, 0xBF45,  //
                            0x3D18, 0x3F3C, 0xBE61, 0x3F16, 0xBEF4, 0x3EA9, 0xBF1F, 0x3D96});
const Block v3 = from_bf16({0x364D, 0xB6CD, 0x371A, 0xB74D, 0x3780, 0xB79A, 0x37B3, 0xB7CD,  // subnormal E4M3 scales
                            0x37E6, 0xB800, 0x380D, 0xB81A, 0x3826, 0xB833, 0x3840, 0xB84D});

std::string hex(std::uint32_t n, int digits) {
  char text[16];
  std::snprintf(text, sizeof text, "%0*x", digits, n);
  return text;
}

/// Byte i: element 2i in the low nibble, 2i + 1 in the high one.
std::string packed(const std::vector<std::uint8_t>& codes) {
  std::string text;
  for (std::size_t i = 0; i < codes.size(); i += 2) text += hex(formats::pack_nibbles(codes[i], codes[i + 1]), 2);
  return text;
}

/// One candidate of a block, every number as its bits.
struct Candidate {
  std::string h, s, r, codes, err;
};

void expect_equal(const Candidate& got, const Candidate& want) {
  EXPECT_EQ(got.h, want.h) << "the block value";
  EXPECT_EQ(got.s, want.s) << "the scale's code";
  EXPECT_EQ(got.r, want.r) << "the factor on x";
  EXPECT_EQ(got.codes, want.codes);
  EXPECT_EQ(got.err, want.err) << "the sum of squared errors";
}

/// sum of fl(d - x)^2 in order, d = ((q s) a [fl(6/7)]) / K; each operation rounded.
float squared_errors(const sim::RecipeTensor& t, int scale, const std::vector<float>& q, const Block& x, bool integer) {
  const float s = formats::decode_float(formats::e4m3, static_cast<std::uint32_t>(scale));
  float sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    float d = q[i] * s * t.amax;
    if (integer) d *= to_float(0x3F5B6DB7);
    const float e = d / t.range - x[i];
    sum += e * e;
  }
  return sum;
}

/// A recipe at amax 8.
struct AtEight {
  AtEight(const char* name, const char* format_name, const char* method, int scale_max = 0)
      : recipe(*sim::find_recipe(name, format_name, method)),
        format(*formats::find_block_format(format_name)),
        tensor(sim::recipe_tensor(recipe, 8, scale_max != 0 ? scale_max : recipe.scale_max)) {}

  Candidate candidate(const Block& x, float ratio = 1, bool integer = false) const {
    const int n = static_cast<int>(x.size());
    const float b = search::recipe_amax(recipe, x.data(), n), v = sim::block_value(recipe, tensor, b) * ratio;
    const int s = sim::recipe_scale_code(recipe, format, v);
    std::vector<std::uint8_t> codes(x.size());
    std::vector<float> values(x.size());
    if (integer) sim::recipe_int4_codes(recipe, format, tensor, s, b, x.data(), n, codes.data(), values.data());
    else {
      sim::recipe_codes(recipe, format, tensor, s, b, x.data(), n, formats::Rounding::nearest_even, codes.data(),
                        values.data());
    }
    const float scale = formats::decode_float(format.scale, static_cast<std::uint32_t>(s));
    const float r = sim::data_factor(recipe, tensor, scale, b).factor;
    return {hex(bits_of(v), 8), hex(static_cast<std::uint32_t>(s), 2), hex(bits_of(r), 8), packed(codes),
            hex(bits_of(squared_errors(tensor, s, values, x, integer)), 8)};
  }

  /// The scale's byte and the codes that the recipe itself decides on: "69 ffee...".
  std::string choice(const Block& x) const {
    search::RecipeRoom room;
    std::vector<std::uint8_t> codes(x.size());
    const int n = static_cast<int>(x.size());
    const float b = search::recipe_amax(recipe, x.data(), n);
    const search::RecipeBlock found =
        search::recipe_block({&recipe, &format, tensor}, b, x.data(), n, n, codes.data(), room);
    return hex(static_cast<std::uint32_t>(found.scale), 2) + ' ' + packed(codes) +
           (found.chose_second ? " second" : "");
  }

  const sim::Recipe& recipe;
  const formats::BlockFormat& format;
  sim::RecipeTensor tensor;
};

/// 4/6 by either library: K = 256 * 6 = 1536.
const AtEight four_over_six[] = {{"fouroversix", "nvfp4", "4over6"}, {"te", "nvfp4", "4over6"}};
const AtEight static_six = {"fouroversix", "nvfp4", "static6"};
const AtEight te_six = {"te", "nvfp4", "static6"};
const AtEight if4 = {"fouroversix", "if4", "naive"};

TEST(HandVectors, tensor_constants_are_k_over_8) {
  for (const AtEight& run : four_over_six) EXPECT_EQ(hex(bits_of(run.tensor.encode), 8), "43400000");
  for (const AtEight* run : {&static_six, &te_six, &if4}) EXPECT_EQ(hex(bits_of(run->tensor.encode), 8), "43a80000");
  EXPECT_EQ(four_over_six[0].tensor.range, 1536);
  EXPECT_EQ(static_six.tensor.range, 2688);
}

TEST(HandVectors, v1_has_every_intermediate_of_4_6_and_goes_to_six) {
  for (const AtEight& run : four_over_six) {
    expect_equal(run.candidate(v1), {"42900000", "69", "402aaaab", "ffeecd9a21546677", "3e94ad00"});
    expect_equal(run.candidate(v1, 1.5f), {"42d80000", "6e", "3fdb6db6", "decdbc9a21435465", "3ea47b37"});
    EXPECT_EQ(run.choice(v1), "69 ffeecd9a21546677");
  }
}

TEST(HandVectors, v1_has_every_intermediate_of_static_6) {
  expect_equal(static_six.candidate(v1), {"42fc0000", "70", "40280000", "ffeecd9a21546677", "3eb0dbe5"});
  EXPECT_EQ(static_six.choice(v1), "70 ffeecd9a21546677");
}

TEST(HandVectors, v1_is_int4_in_if4_and_says_so_in_the_scale_s_byte) {
  EXPECT_EQ(if4.candidate(v1).err, "3eb0dbe5");
  EXPECT_EQ(if4.candidate(v1, 1, true).err, "3de22e6b");
  EXPECT_EQ(if4.candidate(v1, 1, true).codes, "a9cbed0f10325476");
  EXPECT_EQ(if4.choice(v1), "f0 a9cbed0f10325476 second");
}

TEST(HandVectors, v2_has_every_intermediate_of_4_6_and_goes_to_four) {
  for (const AtEight& run : four_over_six) {
    expect_equal(run.candidate(v2), {"41eb0000", "5f", "40cccccd", "9fc6d5e2606b4d1e", "3d491f40"});
    expect_equal(run.candidate(v2, 1.5f), {"42304000", "63", "408ba2e9", "9eb5c4d2505a3c1d", "3d089d78"});
    EXPECT_EQ(run.choice(v2), "63 9eb5c4d2505a3c1d second");
  }
}

TEST(HandVectors, v2_has_every_intermediate_of_static_6) {
  expect_equal(static_six.candidate(v2), {"424da000", "65", "40cec4ec", "9fc6d5e2606b4d1e", "3d599384"});
  EXPECT_EQ(static_six.choice(v2), "65 9fc6d5e2606b4d1e");
}

TEST(HandVectors, v2_is_int4_in_if4) {
  EXPECT_EQ(if4.candidate(v2).err, "3d599384");
  EXPECT_EQ(if4.candidate(v2, 1, true).err, "3cfab77e");
  EXPECT_EQ(if4.choice(v2), "e5 f9d5c3a1604e2c1b second");
}

TEST(HandVectors, v3_ties_exactly_in_4_6_and_a_tie_goes_to_six) {
  for (const AtEight& run : four_over_six) {
    const Candidate six = run.candidate(v3), four = run.candidate(v3, 1.5f);
    for (const Candidate* c : {&six, &four}) {
      EXPECT_EQ(c->s, "01");
      EXPECT_EQ(c->r, "47c00000");
      EXPECT_EQ(c->codes, "91a2c3c4d5e5e6e6");
      EXPECT_EQ(c->err, "2f358724");
    }
    EXPECT_NE(six.h, four.h);
    EXPECT_EQ(run.choice(v3), "01 91a2c3c4d5e5e6e6");
  }
}

TEST(HandVectors, v3_saturates_in_static_6_of_transformer_engine) {
  expect_equal(te_six.candidate(v3), {"3b336000", "01", "48280000", "a1c3d5e6f6f7f7f7", "2ff795d9"});
  EXPECT_EQ(te_six.choice(v3), "01 a1c3d5e6f6f7f7f7");
}

/// Its largest three elements round to 8, are written as -0, and are believed to be 8 by its error estimate.
TEST(HandVectors, v3_is_not_clamped_in_static_6_of_fouroversix) {
  expect_equal(static_six.candidate(v3), {"3b336000", "01", "48280000", "a1c3d5e6f6f78788", "2ed226ab"});
  EXPECT_EQ(static_six.choice(v3), "01 a1c3d5e6f6f78788");
}

/// By saturating codes INT4 would win, 2fe971a1 against 2ff795d9. The unclamped 8 of E2M1 wins in fouroversix's own
/// estimate, 2ed226ab, and the block stays E2M1.
TEST(HandVectors, v3_stays_e2m1_in_if4_by_an_estimate_that_believes_in_8) {
  EXPECT_EQ(te_six.candidate(v3).err, "2ff795d9");
  EXPECT_EQ(if4.candidate(v3).err, "2ed226ab");
  EXPECT_EQ(if4.candidate(v3, 1, true).err, "2fe971a1");
  EXPECT_EQ(if4.candidate(v3, 1, true).codes, "f1e2c3b4a6979797");
  EXPECT_EQ(if4.choice(v3), "01 a1c3d5e6f6f78788");
}

}  // namespace
}  // namespace fp4scope
