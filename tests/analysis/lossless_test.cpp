// An MXFP4 tensor is an NVFP4 one where the search over all tensor scales 2^m and all E4M3 codes says so; and then both
// have the same values.
#include "analysis/lossless.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "formats/error.hpp"

namespace fp4scope::analysis {
namespace {

Lossless lossless(const Quantized& q) {
  LosslessCount count;
  count.add(q);
  return count.result();
}

Quantized mxfp4(std::int64_t rows, std::int64_t cols, int block = 32) {
  Quantized q;
  q.config = parse_config({"mxfp4", "naive", "", "", "propagate", block, 0});
  q.rows = rows;
  q.cols = cols;
  q.scales.assign(static_cast<std::size_t>(rows * q.blocks_per_row()), 127);
  q.codes.assign(static_cast<std::size_t>(rows * cols), 0);
  return q;
}

// E4M3 read anew: sign aside, 4 exponent bits of bias 7, 3 of mantissa.
double e4m3(int code) {
  const int e = code >> 3, m = code & 7;
  return e == 0 ? m * 0x1p-9 : (8 + m) * std::ldexp(1.0, e - 10);
}

/// The least number of sixteens without a scale code, over every tensor scale 2^m.
std::int64_t least_outside(const Quantized& q) {
  std::int64_t least = q.rows * q.cols;
  for (int m = -149; m <= 127; ++m) {
    std::int64_t outside = 0;
    for (std::int64_t i = 0; i < q.rows * q.cols; i += 16) {
      bool any = false;
      for (int j = 0; j < 16; ++j) any = any || (q.codes[static_cast<std::size_t>(i + j)] & 7) != 0;
      const double wanted = std::ldexp(1.0, q.scales[static_cast<std::size_t>(i / q.config.block)] - 127);
      bool found = !any;
      for (int code = 1; code <= 126; ++code) found = found || std::ldexp(e4m3(code), m) == wanted;
      outside += !found;
    }
    least = std::min(least, outside);
  }
  return least;
}

void same_values(const Quantized& q) {
  const Lossless l = lossless(q);
  const Quantized to = to_nvfp4(q, l.exponent);
  EXPECT_GE(to.tensor_scale, 0x1p-126f);
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < q.cols; ++c) {
      const double a = q.value(r, c, q.step(r, c / q.config.block), false);
      const double b = to.value(r, c, to.step(r, c / 16), false);
      ASSERT_EQ(a, b) << "row " << r << ", column " << c;
      const double product = to.tensor_scale * e4m3(to.scales[static_cast<std::size_t>((r * q.cols + c) / 16)]);
      const std::uint8_t code = to.codes[static_cast<std::size_t>(r * q.cols + c)];
      ASSERT_EQ(product * sim::dequantize(*to.config.format, code, 1.0), a);
    }
  }
}

TEST(Lossless, IsWhatASearchOverAllTensorScalesAndCodesFinds) {
  std::mt19937 random(5);
  int possible = 0;
  for (int trial = 0; trial < 100; ++trial) {
    Quantized q = mxfp4(3, 64, trial % 3 == 0 ? 16 : 32);
    const int base = static_cast<int>(random() % 255);
    const int spread = 17 + static_cast<int>(random() % 8);
    for (std::uint8_t& s : q.scales) {
      s = static_cast<std::uint8_t>(std::min(base + static_cast<int>(random() % static_cast<unsigned>(spread)), 254));
    }
    for (std::uint8_t& c : q.codes) c = static_cast<std::uint8_t>(random() % 16);
    for (int i = 0; i < 16; ++i) q.codes[static_cast<std::size_t>(32 + i)] = i % 2 ? 8 : 0;  // zeros of both signs
    const Lossless l = lossless(q);
    ASSERT_EQ(l.possible, least_outside(q) == 0) << "trial " << trial;
    ASSERT_EQ(l.blocks, 11);
    if (l.possible) same_values(q);
    else EXPECT_THROW(to_nvfp4(q, l.exponent), Error);
    possible += l.possible;
  }
  EXPECT_GT(possible, 30);
  EXPECT_LT(possible, 90);
}

TEST(Lossless, HoldsToSeventeenOctavesAndNoFurther) {
  for (const int top : {254, 140, 17 + 1, 17}) {
    for (const int below : {17, 18}) {
      Quantized q = mxfp4(1, 64);
      q.codes[0] = q.codes[63] = 1;
      q.scales = {static_cast<std::uint8_t>(top), static_cast<std::uint8_t>(std::max(top - below, 0))};
      const Lossless l = lossless(q);
      EXPECT_EQ(l.possible, top - q.scales[1] <= 17) << top << " " << below;
      EXPECT_EQ(l.outside, l.possible ? 0 : 1);
      EXPECT_EQ(l.exponent, std::max(top - 127 - 8, -126));
      if (l.possible) same_values(q);
    }
  }
}

TEST(Lossless, AHalfOfZerosHasNoSayAndANaNScaleHas) {
  Quantized q = mxfp4(1, 64);
  q.codes[0] = 7;
  q.scales = {200, 100};  // the second block is zeros
  EXPECT_TRUE(lossless(q).possible);
  q.codes[40] = 9;
  EXPECT_FALSE(lossless(q).possible);
  EXPECT_EQ(lossless(q).outside, 1);
  q.scales = {200, 255};
  EXPECT_FALSE(lossless(q).possible);
  q.codes[40] = 8;
  EXPECT_TRUE(lossless(q).possible);
  EXPECT_EQ(lossless(mxfp4(2, 32)).exponent, 0);
}

TEST(Lossless, APieceAtATimeIsTheWhole) {
  Quantized q = mxfp4(2, 32), low = mxfp4(1, 32);
  q.codes[3] = q.codes[35] = low.codes[0] = 2;
  q.scales = {130, 120};
  low.scales = {112};
  LosslessCount count;
  count.add(q);
  EXPECT_TRUE(count.result().possible);
  count.add(low);
  EXPECT_FALSE(count.result().possible);
  EXPECT_EQ(count.result().blocks, 3);
}

TEST(Lossless, OtherFormatsAreRefused) {
  Quantized q = mxfp4(1, 24, 8);
  EXPECT_THROW(lossless(q), Error);
  q.config = parse_config({"nvfp4", "naive", "", "", "propagate", 16, 0});
  EXPECT_THROW(lossless(q), Error);
}

}  // namespace
}  // namespace fp4scope::analysis
