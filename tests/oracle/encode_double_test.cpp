// formats::encode of doubles against MPFR where it matters: around every value and every midpoint. And what rounding
// twice does: it is why encode takes a double as it is. (tests/formats/encode_exhaustive_test.cpp counts it.)
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "formats/codec.hpp"
#include "formats/encode_float.hpp"
#include "tests/oracle/mpfr_rounding.hpp"
#include "tests/oracle/oracle.hpp"

namespace fp4scope {
namespace {

using formats::encode;
using formats::encode_float;
using formats::Format;
using formats::Overflow;
using formats::Rounding;
using oracle::MpfrEncoder;

constexpr Rounding directions[] = {Rounding::nearest_even, Rounding::nearest_away, Rounding::toward_zero,
                                   Rounding::up,           Rounding::down,         Rounding::stochastic};
constexpr std::uint32_t words[] = {0, 1, 0x7FFFFFFF, 0x80000000, 0x9E3779B9, 0xFFFFFFFF};

/// x, its neighbours up to three places away, and x (1 +- 2^-k) down to where the sticky bits begin; both signs.
void append_around(double x, std::vector<double>& out) {
  std::vector<double> near = {x};
  for (const double towards : {0.0, HUGE_VAL}) {
    double y = x;
    for (int ulps = 1; ulps <= 3; ++ulps) near.push_back(y = std::nextafter(y, towards));
  }
  for (const int k : {24, 25, 29, 30, 31, 32, 33, 40}) {
    near.push_back(x + std::ldexp(x, -k));
    near.push_back(x - std::ldexp(x, -k));
  }
  for (const double y : near) {
    out.push_back(y);
    out.push_back(-y);
  }
}

/// Around every `step`-th value and midpoint, the ends of the format and the ends of binary64.
std::vector<double> points(const std::vector<double>& values, std::size_t step) {
  std::vector<double> out = {0.0, -0.0, HUGE_VAL, -HUGE_VAL, std::nan(""), -std::nan("")};
  for (std::size_t i = 0; i < values.size(); i += step) {
    const double next = i + 1 < values.size() ? values[i + 1] : values[i] + (values[i] - values[i - 1]);
    if (values[i] > 0) append_around(values[i], out);
    append_around(values[i] + (next - values[i]) / 2, out);
    append_around(values[i] + (next - values[i]) / 4, out);
  }
  const double smallest = values[0] > 0 ? values[0] : values[1], max = values.back();
  const double beyond = max + (max - values[values.size() - 2]);
  for (const double x : {smallest, smallest / 2, smallest / 4, smallest * 0x1p-32, smallest * 0x1p-33, max, beyond,
                         (max + beyond) / 2, 2 * max, 4 * max, 0x1p-1074, 0x1p-1022, 0x1p-149, 0x1p-126, 0x1p127,
                         0x1.FFFFFEp127, 0x1p128, 0x1p1023, 0x1.FFFFFFFFFFFFFp1023}) {
    append_around(x, out);
  }
  return out;
}

class EveryDouble : public testing::TestWithParam<Format> {};

TEST_P(EveryDouble, around_a_value_or_a_midpoint_has_the_code_that_mpfr_gives) {
  const Format& f = GetParam();
  long compared = 0, different = 0;
  for (const Rounding direction : directions) {
    for (const Overflow policy : {Overflow::saturate, Overflow::nan}) {
      for (const std::uint32_t word : words) {
        if (direction != Rounding::stochastic && word != words[0]) continue;
        MpfrEncoder mpfr(f, direction, policy, word);
        for (const double x : points(mpfr.magnitudes(), f.bits > 8 ? 97 : 1)) {
          const std::uint32_t got = encode(f, x, direction, policy, word).code, want = mpfr(x);
          ++compared;
          if (got == want || ++different > 10) continue;
          ADD_FAILURE() << f.name << " of " << oracle::show(x) << ", direction " << static_cast<int>(direction)
                        << std::hex << ", word 0x" << word << ": got 0x" << got << ", want 0x" << want;
        }
      }
    }
  }
  EXPECT_EQ(different, 0);
  std::cout << f.name << ": " << compared << " codes compared\n";
}

INSTANTIATE_TEST_SUITE_P(formats, EveryDouble, testing::ValuesIn(formats::all_formats),
                         [](const auto& row) { return std::string(row.param.name); });

// ---- Rounding twice -------------------------------------------------------------------------------------------------

/// Just above a tie whose even neighbour lies below, the float nearest to x is the tie itself.
void expect_trap(const Format& f, double tie, std::uint32_t even, std::uint32_t above) {
  const double x = std::nextafter(tie, HUGE_VAL);
  const auto narrowed = static_cast<float>(x);
  EXPECT_EQ(static_cast<double>(narrowed), tie);
  EXPECT_EQ(encode(f, tie).code, even) << f.name << " of " << oracle::show(tie);
  EXPECT_EQ(encode(f, x).code, above) << f.name << " of " << oracle::show(x);
  EXPECT_EQ(encode(f, static_cast<double>(narrowed)).code, even);
  EXPECT_EQ(encode_float(f, narrowed), even);
}

TEST(RoundingTwice, a_double_just_above_a_tie_of_e2m1_gets_the_lower_code_by_way_of_binary32) {
  expect_trap(formats::e2m1, 0.25, 0x0, 0x1);  // 0 and 0.5
  expect_trap(formats::e2m1, 1.25, 0x2, 0x3);  // 1 and 1.5
  expect_trap(formats::e2m1, 2.5, 0x4, 0x5);   // 2 and 3
  expect_trap(formats::e2m1, 5.0, 0x6, 0x7);   // 4 and 6
}

TEST(RoundingTwice, a_double_just_above_a_tie_of_e4m3_gets_the_lower_code_by_way_of_binary32) {
  expect_trap(formats::e4m3, 0x1p-10, 0x00, 0x01);  // 0 and 2^-9
  expect_trap(formats::e4m3, 1.0625, 0x38, 0x39);   // 1 and 1.125
  expect_trap(formats::e4m3, 272, 0x78, 0x79);      // 256 and 288
}

TEST(RoundingTwice, a_double_just_above_464_is_nan_and_448_by_way_of_binary32) {
  const double x = std::nextafter(464.0, HUGE_VAL);
  const auto code = [](double y) { return encode(formats::e4m3, y, Rounding::nearest_even, Overflow::nan).code; };
  EXPECT_EQ(code(x), 0x7Fu);
  EXPECT_EQ(code(static_cast<double>(static_cast<float>(x))), 0x7Eu);
}

}  // namespace
}  // namespace fp4scope
