// sim/mac.hpp: every step over all of its inputs against rationals, rounded here by their definition.
#include "sim/mac.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "analysis/mac_golden.hpp"

namespace fp4scope {
namespace {

using sim::MacFirst;
using sim::MacFormat;

constexpr MacFormat both[] = {MacFormat::nvfp4, MacFormat::if4};

std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }

mpq_class power(int exponent) {
  mpq_class p(1);
  if (exponent >= 0) mpq_mul_2exp(p.get_mpq_t(), p.get_mpq_t(), static_cast<unsigned>(exponent));
  else mpq_div_2exp(p.get_mpq_t(), p.get_mpq_t(), static_cast<unsigned>(-exponent));
  return p;
}

mpq_class exact(float x) {
  int exponent = 0;
  const auto integer = static_cast<long>(std::ldexp(std::frexp(x, &exponent), 24));
  return integer * power(exponent - 24);
}

/// To 24 bits, ties to even, without an end of the exponents: n / d = (q + r / d) 2^-shift, q of 24 bits.
mpq_class rounded(const mpq_class& value) {
  if (value == 0) return value;
  const mpz_class n = abs(value.get_num()), &d = value.get_den();
  int shift = 26 + static_cast<int>(mpz_sizeinbase(d.get_mpz_t(), 2)) -
              static_cast<int>(mpz_sizeinbase(n.get_mpz_t(), 2));
  mpz_class quotient, rest, divisor;
  do {  // the first shift may leave a bit too many
    --shift;
    divisor = shift < 0 ? mpz_class(d << static_cast<unsigned>(-shift)) : d;
    const mpz_class scaled = shift < 0 ? n : mpz_class(n << static_cast<unsigned>(shift));
    mpz_fdiv_qr(quotient.get_mpz_t(), rest.get_mpz_t(), scaled.get_mpz_t(), divisor.get_mpz_t());
  } while (mpz_sizeinbase(quotient.get_mpz_t(), 2) > 24);
  const int side = cmp(2 * rest, divisor);
  if (side > 0 || (side == 0 && mpz_odd_p(quotient.get_mpz_t()))) ++quotient;
  return sgn(value) * quotient * power(-shift);
}

/// A scale byte's magnitude by the text of OFP8, 0x7F being 448.
mpq_class scale_value(std::uint32_t byte) {
  const int payload = static_cast<int>(byte & 127);
  if (payload == 127) return 448;
  if (payload < 8) return payload * power(-9);
  return (8 + payload % 8) * power(payload / 8 - 10);
}

mpq_class element_value(bool integer, std::uint32_t code) {
  static const char* const e2m1[] = {"0", "1/2", "1", "3/2", "2", "3", "4", "6"};
  const int value = static_cast<int>(code);
  if (integer) return value < 8 ? value : value - 16;
  const mpq_class magnitude(e2m1[code & 7]);
  return code < 8 ? magnitude : mpq_class(-magnitude);
}

/// Code 8 of E2M1, -0, is left to the tests of signs.
bool negative(std::uint32_t code) { return code > 8; }

bool is_integer(MacFormat format, std::uint32_t byte) { return format == MacFormat::if4 && byte >= 128; }

mpq_class factor_value(bool a_integer, bool w_integer) {
  static const mpq_class factors[] = {1, rounded(mpq_class(6, 7)), rounded(mpq_class(36, 49))};
  return factors[a_integer + w_integer];
}

TEST(Mac, EveryPairOfScalesIsItsProductTimesTheFactorRounded) {
  std::vector<mpq_class> values;
  for (std::uint32_t byte = 0; byte < 256; ++byte) values.push_back(scale_value(byte));
  for (const MacFormat format : both) {
    for (std::uint32_t a = 0; a < 256; ++a) {
      for (std::uint32_t w = 0; w < 256; ++w) {
        const sim::MacScaling scaling = sim::mac_scaling(format, a, w);
        ASSERT_EQ(scaling.a_integer, is_integer(format, a));
        ASSERT_EQ(scaling.w_integer, is_integer(format, w));
        const mpq_class product = values[a] * values[w];
        const float plain = sim::mac_scale_product(sim::mac_scale(format, a), sim::mac_scale(format, w));
        ASSERT_EQ(exact(plain), product) << "scales " << a << ", " << w;
        const mpq_class want = rounded(product * factor_value(scaling.a_integer, scaling.w_integer));
        ASSERT_EQ(exact(scaling.factor), want) << "scales " << a << ", " << w;
        ASSERT_FALSE(std::signbit(scaling.factor));
      }
    }
  }
}

TEST(Mac, EveryPairOfElementsInEveryModeIsExactInBinary16WithTheSignsExclusiveOr) {
  int pairs = 0;
  for (const bool a_integer : {false, true}) {
    for (const bool w_integer : {false, true}) {
      for (std::uint32_t a = 0; a < 16; ++a) {
        for (std::uint32_t w = 0; w < 16; ++w) {
          if (!sim::mac_legal(a) || !sim::mac_legal(w)) continue;
          const std::uint16_t half =
              sim::mac_element_product(sim::mac_element(a_integer, a), sim::mac_element(w_integer, w));
          // binary16 by IEEE 754-2019, 3.4, without our decoder
          const int field = half >> 10 & 31;
          const int fraction = half & 1023;
          const mpq_class magnitude = field == 0 ? fraction * power(-24) : (1024 + fraction) * power(field - 25);
          const mpq_class value = half >> 15 ? mpq_class(-magnitude) : magnitude;
          ASSERT_LT(field, 31);
          ASSERT_EQ(value, element_value(a_integer, a) * element_value(w_integer, w))
              << "codes " << a << ", " << w << ": 0x" << std::hex << half;
          ASSERT_EQ(half >> 15, negative(a) != negative(w)) << "codes " << a << ", " << w;
          ASSERT_TRUE(field > 0 || magnitude == 0);  // widening needs no subnormal
          ASSERT_EQ(exact(sim::mac_widen(half)), value);
          ASSERT_EQ(std::signbit(sim::mac_widen(half)), half >> 15 != 0);
          ++pairs;
        }
      }
    }
  }
  EXPECT_EQ(pairs, 900);
}

/// All lane products there are: each scaling's factor once a mode, times each product of elements.
TEST(Mac, EveryLaneProductIsRoundedOnceAndNvFp4sNever) {
  for (const MacFormat format : both) {
    std::map<std::pair<int, std::uint32_t>, sim::MacScaling> scalings;
    for (std::uint32_t a = 0; a < 256; ++a) {
      for (std::uint32_t w = 0; w < 256; ++w) {
        const sim::MacScaling s = sim::mac_scaling(format, a, w);
        scalings.emplace(std::pair(2 * s.a_integer + s.w_integer, bits_of(s.factor)), s);
      }
    }
    const double units = format == MacFormat::nvfp4 ? 0x1p20 : 0x1p43;
    for (const auto& [key, scaling] : scalings) {
      std::set<std::uint32_t> seen;  // products of elements are few
      for (std::uint32_t a = 0; a < 16; ++a) {
        for (std::uint32_t w = 0; w < 16; ++w) {
          if (a == 8 || w == 8) continue;
          const float product = sim::mac_product(scaling, a, w);
          ASSERT_EQ(std::signbit(product), negative(a) != negative(w));
          if (!seen.insert(bits_of(product)).second) continue;
          const mpq_class elements = element_value(scaling.a_integer, a) * element_value(scaling.w_integer, w);
          const mpq_class real = elements * exact(scaling.factor);
          ASSERT_EQ(exact(product), rounded(real)) << "codes " << a << ", " << w << ", factor " << scaling.factor;
          ASSERT_TRUE(format == MacFormat::if4 || exact(product) == real);
          // why nothing is subnormal and nothing overflows
          ASSERT_EQ(product * units, std::trunc(product * units));
          ASSERT_LT(std::fabs(product), 0x1p23f);
        }
      }
    }
  }
}

TEST(Mac, NoLaneGrowsBeyond2To47) {
  const float largest = sim::mac_product(sim::mac_scaling(MacFormat::if4, 0xFE, 0xFE), 7, 7);
  EXPECT_LT(largest, 0x1p23f);
  for (const float product : {largest, -largest}) {
    EXPECT_EQ(sim::mac_accumulate(MacFirst::loads, false, 0x1p47f, product), 0x1p47f - (product < 0 ? 0x1p23f : 0));
    EXPECT_EQ(sim::mac_accumulate(MacFirst::loads, false, 0x1.8p47f, product), 0x1.8p47f);
  }
}

TEST(Mac, AWordIsTheTreeOfAdjacentPairs) {
  std::mt19937_64 random(1);
  for (int trial = 0; trial < 2000; ++trial) {
    float lanes[16];
    mpq_class sums[16];
    for (int i = 0; i < 16; ++i) {
      const auto integer = static_cast<float>(static_cast<std::int32_t>(random()) >> 8);
      lanes[i] = std::ldexp(integer, static_cast<int>(random() % 24) - 20);
      sums[i] = exact(lanes[i]);
    }
    for (int n = 8; n > 0; n /= 2) {
      for (int i = 0; i < n; ++i) sums[i] = rounded(sums[2 * i] + sums[2 * i + 1]);
    }
    ASSERT_EQ(exact(sim::mac_reduce(lanes)), sums[0]);
  }
}

TEST(Mac, ThePublishedBeatsGiveThePublishedWordsUnderBothRules) {
  for (const MacFormat format : both) {
    for (const MacFirst rule : {MacFirst::loads, MacFirst::adds}) {
      const std::vector<float> words = run_mac(format, rule, analysis::mac_golden_beats(format), false).words;
      ASSERT_EQ(words.size(), 3u);
      for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(bits_of(words[i]), analysis::mac_golden(format).words[i]) << i;
    }
  }
}

TEST(Mac, LoadingAndAddingDifferInTheSignOfZeroAlone) {
  const std::uint8_t a[16] = {}, w[16] = {9, 10, 11, 12, 13, 14, 15, 9, 10, 11, 12, 13, 14, 15, 9, 10};
  float loaded[16] = {}, added[16] = {};
  for (int beat = 0; beat < 3; ++beat) {
    sim::mac_beat(MacFormat::nvfp4, MacFirst::loads, beat == 0, a, w, 0x38, 0x38, loaded);
    sim::mac_beat(MacFormat::nvfp4, MacFirst::adds, beat == 0, a, w, 0x38, 0x38, added);
  }
  EXPECT_EQ(bits_of(sim::mac_reduce(loaded)), 0x80000000u);
  EXPECT_EQ(bits_of(sim::mac_reduce(added)), 0u);
  std::mt19937_64 random(2);
  for (int trial = 0; trial < 100000; ++trial) {
    const auto word = static_cast<std::uint32_t>(random());
    const sim::MacScaling scaling = sim::mac_scaling(MacFormat::if4, word & 255, word >> 8 & 255);
    const float product = sim::mac_product(scaling, word >> 16 & 15, word >> 20 & 15);
    ASSERT_EQ(sim::mac_accumulate(MacFirst::loads, true, 1, product),
              sim::mac_accumulate(MacFirst::adds, true, 1, product));
  }
}

TEST(Mac, ACode8SaysWhatItsFormatSaysAndIsIllegal) {
  EXPECT_FALSE(sim::mac_legal(8));
  EXPECT_EQ(bits_of(sim::mac_product(sim::mac_scaling(MacFormat::if4, 0xB8, 0x38), 8, 2)),
            bits_of(-8 * 0x1.b6db6ep-1f));  // -8 * 1 * fl(6/7)
  EXPECT_EQ(bits_of(sim::mac_product(sim::mac_scaling(MacFormat::nvfp4, 0xB8, 0x38), 8, 2)), 0x80000000u);
}

}  // namespace
}  // namespace fp4scope
