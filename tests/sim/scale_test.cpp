// sim/scale.hpp: tensor scales and scale codes against their definitions, in integers.
#include "sim/scale.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>

#include "tests/oracle/search_oracle.hpp"

namespace fp4scope {
namespace {

using formats::Rounding;
using oracle::float_units;

float from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

/// The exponent k and the significand m in [1, 2) of amax / t = m * 2^k; 16 m = 16 amax / (2^k t), a fraction.
struct Quotient {
  int k;
  mpz_class numerator, denominator;
};

Quotient take_apart(float amax, float t) {
  mpz_class a = float_units(amax), b = float_units(t);
  int k = static_cast<int>(mpz_sizeinbase(a.get_mpz_t(), 2)) - static_cast<int>(mpz_sizeinbase(b.get_mpz_t(), 2));
  if (k >= 0) b <<= static_cast<unsigned>(k);
  else a <<= static_cast<unsigned>(-k);
  if (a < b) {
    a <<= 1;
    --k;
  }
  return {k, 16 * a, b};
}

/// One up from the OCP floor, k - 2, where the significand m reaches or passes a bound.
struct MxRow {
  const char* name;
  sim::ScaleRule rule;
  int sixteenths;  ///< the bound; 32: never
  bool reaching;   ///< m >= bound, else m > bound
};

constexpr MxRow mx_rows[] = {
    {"floor", sim::floor_rule, 32, true},   // k - 2
    {"even", sim::even_rule, 28, true},     // k - 1 if m >= 1.75
    {"rceil", sim::rceil_rule, 24, false},  // k - 1 if m > 1.5
    {"ceil", sim::ceil_rule, 16, false},    // k - 1 if m > 1
    {"oas", sim::oas_rule, 28, false},      // k - 1 if m > 1.75
    {"uos", sim::uos_rule, 29, false},      // k - 1 if m > 1.8125
};

void expect_the_definition(const MxRow& row, float amax, float t) {
  const Quotient q = take_apart(amax, t);
  const int order = cmp(q.numerator, row.sixteenths * q.denominator);
  const int exponent = q.k - 2 + (row.reaching ? order >= 0 : order > 0);
  const int want = std::clamp(exponent + 127, 0, 254), got = sim::scale_code(formats::ue8m0, row.rule, amax, t);
  ASSERT_EQ(got, want) << row.name << std::hexfloat << " of amax " << amax << ", tensor scale " << t << std::hex
                       << ": got 0x" << got << ", want 0x" << want;
}

TEST(MxRules, are_their_definitions_by_significand_and_exponent_for_every_positive_bf16) {
  for (const MxRow& row : mx_rows) {
    for (const float t : {1.0f, 0x1p-20f, 0x1.234566p-3f, 0x1.cp5f, 0x1p-149f, FLT_MAX}) {
      for (std::uint32_t bits = 1; bits < 0x7F80; ++bits) expect_the_definition(row, from_bits(bits << 16), t);
    }
  }
}

TEST(MxRules, turn_at_their_bounds_to_the_float) {
  for (const MxRow& row : mx_rows) {
    for (int exponent = -126; exponent < 128; ++exponent) {
      for (const float m : {1.0f, 1.5f, 1.75f, 1.8125f, 2 - 0x1p-23f}) {
        const float bound = std::ldexp(m, exponent);
        for (const float amax : {std::nextafter(bound, 0.0f), bound, std::nextafter(bound, FLT_MAX)}) {
          for (const float t : {1.0f, 0x1p-7f}) expect_the_definition(row, amax, t);
        }
      }
    }
  }
}

/// 253 = 254 binades less the lowest, where both rules end at 2^-127.
TEST(MxRules, oas_is_even_but_for_253_of_32639_bf16_maxima_7_times_a_power_of_two_where_it_is_one_lower) {
  int different = 0, all = 0;
  for (std::uint32_t bits = 1; bits < 0x7F80; ++bits, ++all) {
    const float amax = from_bits(bits << 16);
    const int oas = sim::scale_code(formats::ue8m0, sim::oas_rule, amax, 1);
    const int even = sim::scale_code(formats::ue8m0, sim::even_rule, amax, 1);
    int exponent = 0;
    const bool seven = std::frexp(amax, &exponent) == 0.875f;
    different += oas != even;
    ASSERT_EQ(even - oas, seven && amax > 0x1.cp-126f ? 1 : 0) << std::hexfloat << amax;
  }
  EXPECT_EQ(all, 32639);
  EXPECT_EQ(different, 253);
}

struct NvRow {
  const char* name;
  sim::ScaleRule rule;
  int divisor;
};

void PrintTo(const NvRow& row, std::ostream* out) { *out << row.name; }

constexpr NvRow nv_rows[] = {{"static6", {6, Rounding::nearest_even}, 6},
                             {"static4", {4, Rounding::nearest_even}, 4},
                             {"prevent_zero", sim::prevent_zero(sim::six_rule), 6},
                             {"int7", {7, Rounding::nearest_even}, 7}};

/// An E4M3 value in units of 2^-10; past the last, the one after it.
std::uint64_t e4m3_units(int code) {
  return code < 8 ? 2u * code : static_cast<std::uint64_t>(8 + code % 8) << (code / 8);
}

/// The nearest E4M3 code of amax / (divisor * t): the number of midpoints passed, or reached below an even code.
int e4m3_by_definition(int divisor, float amax, float t) {
  const mpz_class numerator = float_units(amax) << 11, denominator = divisor * float_units(t);
  int code = 0;
  for (; code < 126; ++code) {
    const int order = cmp(numerator, (e4m3_units(code) + e4m3_units(code + 1)) * denominator);
    if (order < 0 || (order == 0 && code % 2 == 0)) break;
  }
  return code;
}

class EveryNvRule : public testing::TestWithParam<NvRow> {
 protected:
  void compare(float amax, float t) {
    ++compared;
    const int got = sim::scale_code(formats::e4m3, GetParam().rule, amax, t);
    const int want = std::max(e4m3_by_definition(GetParam().divisor, amax, t), GetParam().rule.least);
    if (got == want || ++failures > 10) return;
    ADD_FAILURE() << GetParam().name << std::hexfloat << " of amax " << amax << ", tensor scale " << t << std::hex
                  << ": got 0x" << got << " = " << formats::decode_double(formats::e4m3, static_cast<unsigned>(got))
                  << ", want 0x" << want << " = " << formats::decode_double(formats::e4m3, static_cast<unsigned>(want));
  }

  float any_positive() { return from_bits(1 + static_cast<std::uint32_t>(words() % 0x7F7FFFFF)); }

  std::mt19937_64 words{7};
  long compared = 0;
  int failures = 0;
};

TEST_P(EveryNvRule, rounds_the_real_quotient_of_random_floats) {
  for (int i = 0; i < 20000; ++i) {
    const float t = any_positive();
    compare(any_positive(), t);
    const double near = std::ldexp(static_cast<double>(t) * static_cast<double>(words() % 4096 + 1), -4);
    compare(near < FLT_MAX && near > 0x1p-149 ? static_cast<float>(near) : FLT_MAX, t);
  }
}

TEST_P(EveryNvRule, rounds_the_real_quotient_on_and_beside_every_midpoint) {
  for (int round = 0; round < 40; ++round) {
    const float edges[] = {1,       0x1p-149f,      0x3p-149f, 0x1p-126f, 0x1.fffffep-127f, FLT_MAX / 2048,
                           FLT_MAX, 0x1.fffffep-1f, 0x1p-20f,  0x1.8p0f};
    const float t = round < 10 ? edges[round] : any_positive();
    for (int code = 0; code < 127; ++code) {
      const double midpoint = std::ldexp(static_cast<double>(e4m3_units(code) + e4m3_units(code + 1)), -11);
      const double amax = midpoint * GetParam().divisor * t;
      if (amax > FLT_MAX) break;
      const auto here = static_cast<float>(amax);
      for (const float a : {std::nextafter(here, 0.0f), here, std::nextafter(here, FLT_MAX)}) {
        if (a > 0) compare(a, t);
      }
    }
  }
}

TEST_P(EveryNvRule, rounds_the_extremes) {
  const float extremes[] = {0x1p-149f, 0x3p-149f, 0x1.fffffcp-127f, 0x1p-126f, 1, 0x1p127f, FLT_MAX};
  for (const float amax : extremes) {
    for (const float t : extremes) compare(amax, t);
  }
  EXPECT_EQ(sim::scale_code(formats::e4m3, GetParam().rule, 0, 1), 0);
  EXPECT_EQ(sim::scale_code(formats::e4m3, GetParam().rule, FLT_MAX, 0x1p-149f), 0x7E);
  EXPECT_EQ(sim::scale_code(formats::e4m3, GetParam().rule, 0x1p-149f, FLT_MAX), GetParam().rule.least);
}

INSTANTIATE_TEST_SUITE_P(rules, EveryNvRule, testing::ValuesIn(nv_rows),
                         [](const auto& row) { return std::string(row.param.name); });

/// Is f the binary32 nearest to amax / divisor, the even one of two?
bool is_nearest_float(float f, float amax, const mpz_class& divisor) {
  const auto twice_error = [&](float g) {
    return mpz_class(abs(mpz_class(float_units(g) * divisor - float_units(amax))));
  };
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, f);
  for (const std::uint32_t other : {bits - 1, bits + 1}) {
    const int order = cmp(twice_error(f), twice_error(from_bits(other)));
    if (order > 0 || (order == 0 && bits % 2 != 0)) return false;
  }
  return true;
}

TEST(TensorScale, is_the_nearest_float_of_the_quotient_and_never_zero) {
  std::mt19937_64 words(11);
  struct {
    double element_max, scale_max;
  } const rows[] = {{6, 448}, {6, 256}, {7, 448}, {6, 1}, {7, 3}, {6, 1 << 20}};
  for (const auto& row : rows) {
    const mpz_class divisor(row.element_max * row.scale_max);
    EXPECT_EQ(sim::tensor_scale(0, row.element_max, row.scale_max), 1);
    EXPECT_EQ(sim::tensor_scale(0x1p-149f, row.element_max, row.scale_max), 0x1p-149f);
    for (int i = 0; i < 20000; ++i) {
      const std::uint32_t range = i % 3 ? 0x7F7FFFFF : 0x02000000;  // a third are subnormal or close to it
      const float amax = i == 0 ? FLT_MAX : from_bits(1 + static_cast<std::uint32_t>(words() % range));
      const float got = sim::tensor_scale(amax, row.element_max, row.scale_max);
      ASSERT_GT(got, 0);
      if (2 * float_units(amax) <= divisor) {
        ASSERT_EQ(got, 0x1p-149f) << std::hexfloat << amax << " / " << divisor;
      } else {
        ASSERT_TRUE(is_nearest_float(got, amax, divisor)) << std::hexfloat << amax << " / " << divisor << " = " << got;
      }
    }
  }
}

TEST(TensorScale, of_the_formats_aims_at_448_times_the_largest_element) {
  EXPECT_EQ(formats::nvfp4.scale_max, 448);
  EXPECT_EQ(formats::nvint4.scale_max, 448);
  EXPECT_EQ(formats::mxfp4.scale_max, 0);
  EXPECT_TRUE(formats::nvfp4.tensor_scaled && formats::nvint4.tensor_scaled && !formats::mxfp4.tensor_scaled);
  EXPECT_EQ(sim::tensor_scale(2688, formats::nvfp4.element_max(), formats::nvfp4.scale_max), 1);
  EXPECT_EQ(sim::tensor_scale(3136, formats::nvint4.element_max(), formats::nvint4.scale_max), 1);
}

}  // namespace
}  // namespace fp4scope
