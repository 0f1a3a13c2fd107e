// The claim of sim/quotient.hpp: quotient(x, d, fl(1 / d)) lies on the side of every E2M1 threshold where fl(x / d)
// lies, or on the threshold with it. Only x / d within 2 ulp of a threshold could differ, that is x within 4 ulp of its
// product with d; powers of two change nothing: so all significands of d, and the thresholds 1, 3, 5 and 7 times them.
#include "sim/quotient.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

namespace fp4scope {
namespace {

int side(float q, float threshold) { return (q > threshold) - (q < threshold); }

/// How many x next to threshold * d the two part at.
int count_differences(float d, float threshold) {
  constexpr int near = 5;
  const float reciprocal = 1 / d;
  const auto middle = __builtin_bit_cast(std::uint32_t, threshold * d);
  int differences = 0;
  for (std::uint32_t bits = middle - near; bits <= middle + near; ++bits) {
    const auto x = __builtin_bit_cast(float, bits);
    differences += side(sim::quotient(x, d, reciprocal), threshold) != side(x / d, threshold);
  }
  return differences;
}

TEST(Quotient, is_on_the_side_of_every_threshold_where_the_division_is) {
  std::int64_t differences = 0;
#pragma omp parallel for reduction(+ : differences)
  for (std::uint32_t significand = 0; significand < 1u << 23; ++significand) {
    const auto d = __builtin_bit_cast(float, 0x3F800000u | significand);
    for (const float threshold : {1.0f, 3.0f, 5.0f, 7.0f}) differences += count_differences(d, threshold);
  }
  EXPECT_EQ(differences, 0);
}

TEST(Quotient, is_not_there_without_its_correction) {
  int differences = 0;
  for (std::uint32_t significand = 1; significand < 1u << 23; significand += 4099) {
    const auto d = __builtin_bit_cast(float, 0x3F800000u | significand), threshold = 1.25f;
    const float x = std::nextafter(threshold * d, 8.0f);
    differences += side(x * (1 / d), threshold) != side(x / d, threshold);
  }
  EXPECT_GT(differences, 0);
}

}  // namespace
}  // namespace fp4scope
