// The claims of sim/approximate.hpp that need no GPU: the hashes of an H200's outputs for every significand, recorded
// from the device, are those of the functions; witnesses; the ends; what PTX promises.
#include "sim/approximate.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "formats/codec.hpp"

namespace fp4scope::sim {
namespace {

float from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }

constexpr std::uint32_t significands = 1u << 23;

/// FNV-1a over the results' bytes, low byte first, of all significands at an exponent.
template <class Function>
std::uint64_t hash_of(int exponent, const Function& f) {
  std::uint64_t hash = 1469598103934665603u;
  for (std::uint32_t m = 0; m < significands; ++m) {
    const std::uint32_t y = bits_of(f(from_bits(static_cast<std::uint32_t>(127 + exponent) << 23 | m)));
    for (int byte = 0; byte < 4; ++byte) hash = (hash ^ (y >> 8 * byte & 0xFF)) * 1099511628211u;
  }
  return hash;
}

TEST(Reciprocal, every_significand_has_the_h200s_bits) {
  EXPECT_EQ(hash_of(0, reciprocal_hopper), 0xF8E542897275ABA6u);
}

TEST(Logarithm, every_significand_has_the_h200s_bits) {
  EXPECT_EQ(hash_of(0, log2_hopper), 0xED4797A64ECED0DFu);
  EXPECT_EQ(hash_of(-1, log2_hopper), 0xE942A8A3499DAC36u);
  EXPECT_EQ(hash_of(7, log2_hopper), 0x67F2279B24847308u);
}

/// PTX promises one unit; how many miss the nearest float is Hopper's own.
TEST(Reciprocal, is_within_a_unit_of_the_quotient_and_never_rises) {
  std::uint32_t high = 0, low = 0, far = 0, rises = 0, before = bits_of(1.0f);
  for (std::uint32_t m = 0; m < significands; ++m) {
    const float x = from_bits(0x3F800000u | m);
    const std::uint32_t y = bits_of(reciprocal_hopper(x));
    const auto difference = static_cast<int>(y - bits_of(1 / x));
    high += difference == 1;
    low += difference == -1;
    far += std::abs(difference) > 1;
    rises += y > before;
    before = y;
  }
  EXPECT_EQ(far, 0u);
  EXPECT_EQ(rises, 0u);
  EXPECT_EQ(high, 733799u);  // with `low` 13.2 % of all
  EXPECT_EQ(low, 374723u);
}

TEST(Reciprocal, of_6_and_of_every_e4m3_value_is_the_nearest_float) {
  EXPECT_EQ(bits_of(reciprocal_hopper(6)), 0x3E2AAAABu);
  for (std::uint32_t code = 1; code < 127; ++code) {
    const float v = formats::decode_float(formats::e4m3, code);
    EXPECT_EQ(reciprocal_hopper(v), 1 / v) << v;
    EXPECT_EQ(reciprocal_hopper(-v), -1 / v) << v;
  }
}

TEST(Reciprocal, does_not_depend_on_the_exponent_but_for_the_ends) {
  for (std::uint32_t m = 0; m < significands; m += 4099) {
    const float one = reciprocal_hopper(from_bits(0x3F800000u | m));
    for (int exponent = -126; exponent < 126; ++exponent) {
      const float x = from_bits(static_cast<std::uint32_t>(127 + exponent) << 23 | m);
      ASSERT_EQ(reciprocal_hopper(x), std::ldexp(one, -exponent)) << std::hex << bits_of(x);
    }
  }
  EXPECT_EQ(reciprocal_hopper(0x1p126f), 0x1p-126f);
  EXPECT_EQ(bits_of(reciprocal_hopper(0x1.000002p126f)), 0u);  // below 2^-126: zero
  EXPECT_EQ(bits_of(reciprocal_hopper(-0x1p127f)), 0x80000000u);
  EXPECT_EQ(reciprocal_hopper(0x1p-126f), 0x1p126f);
  EXPECT_EQ(bits_of(reciprocal_hopper(0x1.FFFFFCp-127f)), 0x7F800000u);  // a subnormal counts as zero
  EXPECT_EQ(bits_of(reciprocal_hopper(-0x1p-149f)), 0xFF800000u);
  EXPECT_EQ(bits_of(reciprocal_hopper(-0.0f)), 0xFF800000u);
  EXPECT_EQ(bits_of(reciprocal_hopper(-INFINITY)), 0x80000000u);
  EXPECT_EQ(bits_of(reciprocal_hopper(-NAN)), 0x7FFFFFFFu);
}

TEST(Logarithm, has_the_recorded_ends) {
  for (const std::uint32_t zero : {0u, 1u, 0x7FFFFFu, 0x80000000u, 0x807FFFFFu}) {
    EXPECT_EQ(bits_of(log2_hopper(from_bits(zero))), 0xFF800000u) << std::hex << zero;
  }
  for (const std::uint32_t none : {0x80800000u, 0xBF800000u, 0xFF800000u, 0x7F800001u, 0xFFC00000u}) {
    EXPECT_EQ(bits_of(log2_hopper(from_bits(none))), 0x7FFFFFFFu) << std::hex << none;
  }
  EXPECT_EQ(bits_of(log2_hopper(1)), 0u);
  EXPECT_EQ(bits_of(log2_hopper(INFINITY)), 0x7F800000u);
  EXPECT_EQ(log2_hopper(8), 3);
  EXPECT_EQ(log2_hopper(0.25f), -0x1.FFFFFEp0f);
  EXPECT_EQ(log2_hopper(0.5f), -0x1.FFFFFCp-1f);
  EXPECT_EQ(bits_of(log2_hopper(0x1p-126f)), 0xC2FBFFFFu);                   // not -126: one unit short
  EXPECT_EQ(bits_of(log2_hopper(0x1.000002p0f)) & 0x7F800000u, 105u << 23);  // about 1.6 times the logarithm
}

TEST(Division, scales_both_operands_where_the_reciprocal_would_vanish_or_overflow) {
  EXPECT_EQ(divide_full_hopper(0x1p127f, 0x1p127f), 1);
  EXPECT_EQ(divide_approximate_hopper(0x1p127f, 0x1p127f), 0);  // the reciprocal is zero
  EXPECT_EQ(divide_full_hopper(0x1p-140f, 0x1p-149f), 512);
  EXPECT_EQ(divide_approximate_hopper(0x1p-140f, 0x1p-149f), 512);
  EXPECT_EQ(bits_of(divide_full_hopper(INFINITY, INFINITY)), 0x7FFFFFFFu);
  EXPECT_EQ(bits_of(divide_full_hopper(0, 0)), 0x7FFFFFFFu);
  EXPECT_EQ(bits_of(divide_full_hopper(-1, 0)), 0xFF800000u);
  EXPECT_EQ(bits_of(divide_full_hopper(1, INFINITY)), 0u);
}

TEST(Division, is_a_product_with_the_reciprocal_in_between) {
  int differ = 0;
  for (std::uint32_t i = 0; i < 100000; ++i) {
    const float a = from_bits(0x3F800000u | (i * 2654435761u >> 9)),
                b = from_bits(0x3F800000u | (i * 2246822519u >> 9));
    ASSERT_EQ(divide_full_hopper(a, b), a * reciprocal_hopper(b));
    differ += divide_full_hopper(a, b) != a / b;
  }
  EXPECT_EQ(differ, 29766);
}

}  // namespace
}  // namespace fp4scope::sim
