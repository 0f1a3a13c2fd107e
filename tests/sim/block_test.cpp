// sim/block.hpp: codes and values of one block, signs and degenerate scales included.
#include "sim/block.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <vector>

namespace fp4scope {
namespace {

struct BlockRow {
  const char* name;
  formats::Format element;
  double step;
  std::vector<float> x;
  std::vector<int> codes;
};

const double least = 0x1p-149;  // of binary32
const double nan_step = std::nan("");

const BlockRow block_rows[] = {
    {"signs", formats::e2m1, 1, {6, -6, 0.5f, -0.5f, 0, -0.0f}, {7, 15, 1, 9, 0, 8}},
    {"ties_go_to_the_even_code", formats::e2m1, 2, {0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10}, {0, 2, 2, 4, 4, 6, 6}},
    {"negative_ties", formats::e2m1, 2, {-0.5f, -1.5f, -2.5f, -3.5f, -5, -7, -10}, {8, 10, 10, 12, 12, 14, 14}},
    {"saturates", formats::e2m1, 1, {7, 1e30f, FLT_MAX, -FLT_MAX}, {7, 7, 7, 15}},
    {"zero_scale", formats::e2m1, 0, {6, -6, 0, -0.0f}, {0, 8, 0, 8}},
    {"nan_scale", formats::e2m1, nan_step, {6, -6, NAN, INFINITY}, {0, 8, 0, 0}},
    {"subnormal_floats", formats::e2m1, least, {0x1p-149f, -0x3p-149f, 0x5p-149f, 0x7p-149f}, {2, 13, 6, 7}},
    {"a_step_below_binary32", formats::e2m1, least / 8, {0x1p-149f, -0.0f}, {7, 8}},
    {"a_step_above_binary32", formats::e2m1, 0x1p130, {FLT_MAX, -FLT_MAX, 0x1p127f}, {0, 8, 0}},
    {"twos_complement", formats::int4, 1, {7, -7, 1, -1, 0, -0.0f, -0.5f}, {7, 9, 1, 15, 0, 0, 0}},
    {"twos_complement_ties", formats::int4, 1, {0.5f, 1.5f, -2.5f, -3.5f, 6.5f, -6.5f}, {0, 2, 14, 12, 6, 10}},
    {"twos_complement_never_gives_minus_eight", formats::int4, 1, {-7.5f, -8, -1e30f}, {9, 9, 9}},
    {"twos_complement_zero_scale", formats::int4, 0, {7, -7}, {0, 0}},
};

TEST(QuantizeBlock, gives_the_codes_of_the_table) {
  for (const BlockRow& row : block_rows) {
    std::vector<std::uint8_t> codes(row.x.size(), 0xAA);
    sim::quantize_block(row.element, sim::make_grid(row.element), row.x.data(), static_cast<int>(row.x.size()),
                        row.step, codes.data());
    for (std::size_t i = 0; i < row.x.size(); ++i) {
      EXPECT_EQ(int{codes[i]}, row.codes[i]) << row.name << ", element " << i << " = " << row.x[i] << std::hex
                                             << ": got 0x" << int{codes[i]} << ", want 0x" << row.codes[i];
    }
  }
}

TEST(QuantizeBlock, of_nothing_writes_nothing) {
  std::uint8_t code = 0xAA;
  sim::quantize_block(formats::e2m1, sim::make_grid(formats::e2m1), nullptr, 0, 1, &code);
  EXPECT_EQ(code, 0xAA);
}

TEST(QuantizeBlock, a_nan_rounded_stochastically_is_zero_whatever_the_word) {
  const float x[] = {NAN, -NAN};
  for (const std::uint32_t word : {0u, 1u, 0x80000000u, 0xFFFFFFFFu}) {
    const std::uint32_t words[] = {word, word};
    std::uint8_t codes[2];
    sim::quantize_block_stochastic(formats::e2m1, sim::make_grid(formats::e2m1), x, 2, 1, words, codes);
    EXPECT_EQ(codes[0], 0);
    EXPECT_EQ(codes[1], 8);
  }
}

TEST(Dequantize, is_exact_for_every_code_and_scale) {
  for (const formats::BlockFormat& f : formats::all_block_formats) {
    for (const float t : {1.0f, 0x1.fffffep-20f, 0x1p-149f, FLT_MAX}) {
      for (std::uint32_t s = 0; s <= f.scale.max_code; ++s) {
        const double scale = formats::decode_double(f.scale, s);
        for (std::uint8_t code = 0; code < 16; ++code) {
          const double value = formats::decode_double(f.element, code);
          const mpq_class want = mpq_class(value) * mpq_class(scale) * mpq_class(static_cast<double>(t));
          const double got = sim::dequantize(f.element, code, t * scale);
          ASSERT_EQ(mpq_class(got), want) << f.name << std::hex << " code 0x" << int{code} << ", scale code 0x" << s;
        }
      }
    }
  }
}

TEST(Dequantize, keeps_the_sign_of_zero_and_spreads_nan) {
  EXPECT_TRUE(std::signbit(sim::dequantize(formats::e2m1, 8, 1)));
  EXPECT_FALSE(std::signbit(sim::dequantize(formats::e2m1, 0, 1)));
  for (std::uint8_t code = 0; code < 16; ++code) EXPECT_TRUE(std::isnan(sim::dequantize(formats::e2m1, code, NAN)));
  EXPECT_EQ(sim::dequantize(formats::e2m1, 7, 0), 0);
}

}  // namespace
}  // namespace fp4scope
