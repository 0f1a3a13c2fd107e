// formats::multiply and add on all pairs of codes against MPFR, whose numbers come from the definition of the format
// and not from decode. No result is rounded: MPFR says so of each one.
#include <gtest/gtest.h>
#include <mpfr.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "formats/codec.hpp"
#include "formats/exact.hpp"
#include "tests/oracle/mpfr_rounding.hpp"

namespace fp4scope {
namespace {

using formats::Dyadic;
using formats::Format;
using oracle::Real;

struct Number {
  std::uint32_t code;
  double expected;  ///< by definition
  Dyadic decoded;
};

/// Every finite code, an integer's most negative one too.
std::vector<Number> numbers(const Format& f) {
  std::vector<Number> out;
  for (std::uint32_t code = 0; code < f.code_count(); ++code) {
    const bool negative = (code & f.sign_bit()) != 0;
    const std::uint32_t magnitude = f.twos_complement && negative ? f.code_count() - code : code & ~f.sign_bit();
    if (magnitude > f.max_code && !f.twos_complement) continue;
    const double value = oracle::value_by_definition(f, magnitude);
    out.push_back({code, negative ? -value : value, formats::decode(f, code).value});
  }
  return out;
}

struct Pair {
  Format first, second;
};

class EveryPair : public testing::TestWithParam<Pair> {
 protected:
  const Format f = GetParam().first, g = GetParam().second;
  const std::vector<Number> as = numbers(f), bs = numbers(g);
  Real want{600}, got{600};
  int failures = 0;

  /// Exact in 600 bits: exponents of codes are -133 .. 127, of products -266 .. 254.
  bool equals_want(Dyadic d) {
    const int rounded = mpfr_set_sj_2exp(got, d.significand, d.exponent, MPFR_RNDN);
    return rounded == 0 && mpfr_equal_p(got, want) != 0;
  }

  void fail(const Number& a, const char* operation, const Number& b, Dyadic d) {
    if (++failures > 10) return;
    std::ostringstream text;
    text << f.name << " 0x" << std::hex << a.code << " = " << a.expected << ' ' << operation << ' ' << g.name << " 0x"
         << b.code << " = " << b.expected << ": got " << std::dec << d.significand << " * 2^" << d.exponent << ", want "
         << mpfr_get_d(want, MPFR_RNDN);
    ADD_FAILURE() << text.str();
  }
};

TEST_P(EveryPair, has_its_exact_product) {
  for (const Number& a : as) {
    for (const Number& b : bs) {
      int rounded = mpfr_set_d(want, a.expected, MPFR_RNDN);
      rounded |= mpfr_mul_d(want, want, b.expected, MPFR_RNDN);
      ASSERT_EQ(rounded, 0);
      const Dyadic product = formats::multiply(a.decoded, b.decoded);
      if (!equals_want(product)) fail(a, "*", b, product);
    }
  }
  EXPECT_EQ(failures, 0);
  std::cout << f.name << " * " << g.name << ": " << as.size() * bs.size() << " products compared\n";
}

TEST_P(EveryPair, has_its_exact_sum_or_word_that_it_does_not_fit) {
  std::size_t fits = 0;
  for (const Number& a : as) {
    for (const Number& b : bs) {
      int rounded = mpfr_set_d(want, a.expected, MPFR_RNDN);
      rounded |= mpfr_add_d(want, want, b.expected, MPFR_RNDN);
      ASSERT_EQ(rounded, 0);
      const formats::ExactSum sum = formats::add(a.decoded, b.decoded);
      fits += sum.fits;
      if (sum.fits && !equals_want(sum.value)) fail(a, "+", b, sum.value);
      // It is refused only where an addend is at least 2^62 units of the other's last place.
      const int lowest = std::min(a.decoded.exponent, b.decoded.exponent);
      const double unit = std::ldexp(1.0, lowest + 62);
      const bool too_wide =
          a.expected != 0 && b.expected != 0 && std::max(std::fabs(a.expected), std::fabs(b.expected)) >= unit;
      if (sum.fits == too_wide) fail(a, "+", b, sum.value);
    }
  }
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(fits == as.size() * bs.size(), formats::sums_fit(f, g));
  std::cout << f.name << " + " << g.name << ": " << as.size() * bs.size() << " sums compared, " << fits
            << " of which fit\n";
}

std::vector<Pair> pairs() {
  std::vector<Pair> out;
  for (const Format& f : formats::all_formats) {
    if (f.bits <= 8) out.push_back({f, f});
  }
  for (const Format& f : formats::all_formats) {
    if (f.bits <= 8 && !formats::same_format(f, formats::e4m3)) out.push_back({f, formats::e4m3});
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(formats, EveryPair, testing::ValuesIn(pairs()), [](const auto& row) {
  return std::string(row.param.first.name) + "_and_" + row.param.second.name;
});

}  // namespace
}  // namespace fp4scope
