// D -> S -> D of all 2^23 mantissas, as `convert` stores a tensor scale for compressed-tensors: which come back, how
// far the others move, and that no S at all would have met them. The loader's D is checked in integers.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "analysis/checkpoint_config.hpp"

namespace fp4scope::analysis {
namespace {

constexpr std::int64_t one = std::int64_t{1} << 23;

/// 2^48 / n to nearest-even in 24 bits, n = [2^23, 2^24]: between 2^24 and 2^25, where an ulp is 2.
std::int64_t reciprocal_mantissa(std::int64_t n) {
  const std::int64_t floor = (std::int64_t{1} << 48) / n, rest = (std::int64_t{1} << 48) % n;
  const std::int64_t even = floor / 2;  // in ulps; beyond it floor % 2 + rest / n halves
  if (floor % 2 == 0) return 2 * even;
  return 2 * (rest > 0 ? even + 1 : even + even % 2);
}

TEST(ReciprocalScale, OneInSixMantissasMovesByOneUlpAndNoOtherSMeetsIt) {
  std::int64_t survive = 0, moved = 0;
  for (std::int64_t m = one; m < 2 * one; ++m) {
    const float d = std::ldexp(static_cast<float>(m), -23 - 12);
    const float s = encode_scale_of(d);
    const float back = decode_scale_of(s);
    const auto ulps = std::int64_t{std::bit_cast<std::int32_t>(back)} - std::bit_cast<std::int32_t>(d);
    ASSERT_LE(std::abs(ulps), 1) << std::hexfloat << d;
    if (ulps == 0) ++survive;
    else {
      ++moved;
      ASSERT_LT(std::fabs(double{back} / double{d} - 1), 8.43e-8) << std::hexfloat << d;
      ASSERT_GT(m * m, 2 * one * one) << std::hexfloat << d;
      for (const float near : {std::nextafter(s, 0.0f), std::nextafter(s, 2 * s)}) ASSERT_NE(decode_scale_of(near), d);
    }
    const auto n = static_cast<std::int64_t>(std::ldexp(s, 12));  // D in [2^-12, 2^-11), S in (2^11, 2^12]
    ASSERT_EQ(std::ldexp(static_cast<float>(reciprocal_mantissa(n)), -36), back) << std::hexfloat << d;
  }
  EXPECT_EQ(survive, 6949350);
  EXPECT_EQ(moved, 1439258);  // 2^23 (3 - 2 sqrt 2) within rounding
}

}  // namespace
}  // namespace fp4scope::analysis
